-- The index on events by the pairs that they have beside their metadata sets: entities, identifiers, and what a budget left
-- out. A pair is the number of its key and value (EventPairs.swift); with the event's time it takes 12 bytes, both
-- little-endian. Those of one batch whose numbers have the same lowest 9 bits, the slice, are one row.
-- Rows are added to the latest run until it is of some 65,536 pairs or its day is over: so a batch changes few pages,
-- however many events an hour has, and a look for a pair is one short walk in each run.
CREATE TABLE event_pairs (
    run INTEGER NOT NULL,
    slice INTEGER NOT NULL,
    -- How many pairs the run had before.
    part INTEGER NOT NULL,
    pairs BLOB NOT NULL,
    PRIMARY KEY (run, slice, part)
) STRICT, WITHOUT ROWID;

-- The pairs of a run are of events of from_us <= time_us <= last_us.
CREATE TABLE pair_runs (
    run INTEGER PRIMARY KEY,
    pairs INTEGER NOT NULL,
    from_us INTEGER NOT NULL,
    last_us INTEGER NOT NULL
) STRICT;

-- 7: from which instant every event is in the index; no row where no event was there before it.
INSERT INTO retained (what, from_us)
SELECT 7, last_us + 1 FROM (SELECT max(time_us) AS last_us FROM events) WHERE last_us IS NOT NULL;
