-- Replays: rollups of whole days built anew, each as a generation beside the first, which ingest writes where none of
-- them answers. Of the live ones that cover an instant the one with the greatest rank answers.
DROP TABLE generations;

-- Whoever begins one, or changes which of them answer, waits for the batches under way, and they for it.
CREATE TABLE replays (
    generation smallint PRIMARY KEY CHECK (generation > 1),
    state text NOT NULL CHECK (state IN ('building', 'live', 'retired', 'cancelled')),
    -- The command that asked, in canonical form: the same one goes on with it.
    asked bytea NOT NULL,
    -- Whose rules and prices change, and the days that are built.
    from_us bigint NOT NULL,
    to_us bigint NOT NULL,
    begin_us bigint NOT NULL,
    end_us bigint NOT NULL,
    rules text COLLATE "C" REFERENCES rules (fingerprint),
    prices bytea,
    is_dry_run boolean NOT NULL,
    epoch bigint NOT NULL,
    -- Events are scanned from the latest down to this one.
    cursor_time_us bigint,
    cursor_id uuid,
    is_scanned boolean NOT NULL DEFAULT false,
    scanned bigint NOT NULL DEFAULT 0,
    total bigint NOT NULL,
    changed bigint NOT NULL DEFAULT 0,
    created_us bigint NOT NULL,
    swapped_us bigint,
    rank bigint,
    -- How often it came to answer or was taken back: part of the version of the rules timeline.
    turns bigint NOT NULL DEFAULT 0
);

-- Events of a replay's days that ingest has counted and this generation has not.
CREATE TABLE replay_pending (
    generation smallint NOT NULL,
    time_us bigint NOT NULL,
    id uuid NOT NULL,
    PRIMARY KEY (generation, time_us, id)
);

-- What a generation makes of an event where that differs from the table events.
CREATE TABLE revisions (
    id uuid NOT NULL,
    time_us bigint NOT NULL,
    series bigint NOT NULL,
    cost_nano_usd bigint,
    metadata_conflicts bigint NOT NULL,
    generation smallint NOT NULL,
    metadata_status smallint NOT NULL,
    price_version bytea,
    metadata_raw bytea,
    metadata_extra bytea,
    PRIMARY KEY (generation, time_us, id)
);
