-- Replays: rollups of whole days built anew, each as a generation beside the first, which ingest writes where none of
-- them answers. Of the live ones that cover an instant the one with the greatest rank answers.
DROP TABLE generations;

CREATE TABLE replays (
    generation INTEGER PRIMARY KEY CHECK (generation > 1),
    state TEXT NOT NULL CHECK (state IN ('building', 'live', 'retired', 'cancelled')),
    -- The command that asked, in canonical form: the same one goes on with it.
    asked TEXT NOT NULL,
    -- Whose rules and prices change, and the days that are built.
    from_us INTEGER NOT NULL,
    to_us INTEGER NOT NULL,
    begin_us INTEGER NOT NULL,
    end_us INTEGER NOT NULL,
    rules TEXT REFERENCES rules (fingerprint),
    prices TEXT,
    is_dry_run INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    -- Events are scanned from the latest down to this one.
    cursor_time_us INTEGER,
    cursor_id BLOB,
    is_scanned INTEGER NOT NULL DEFAULT 0,
    scanned INTEGER NOT NULL DEFAULT 0,
    total INTEGER NOT NULL,
    changed INTEGER NOT NULL DEFAULT 0,
    created_us INTEGER NOT NULL,
    swapped_us INTEGER,
    rank INTEGER,
    -- How often it came to answer or was taken back: part of the version of the rules timeline.
    turns INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Events of a replay's days that ingest has counted and this generation has not.
CREATE TABLE replay_pending (
    generation INTEGER NOT NULL,
    time_us INTEGER NOT NULL,
    id BLOB NOT NULL,
    PRIMARY KEY (generation, time_us, id)
) STRICT, WITHOUT ROWID;

-- What a generation makes of an event where that differs from the table events.
CREATE TABLE revisions (
    generation INTEGER NOT NULL,
    time_us INTEGER NOT NULL,
    id BLOB NOT NULL,
    series INTEGER NOT NULL,
    cost_nano_usd INTEGER,
    price_version TEXT,
    metadata_status INTEGER NOT NULL,
    metadata_conflicts INTEGER NOT NULL,
    metadata_raw TEXT,
    metadata_extra TEXT,
    PRIMARY KEY (generation, time_us, id)
) STRICT, WITHOUT ROWID;
