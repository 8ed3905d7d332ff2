-- The index on events by the pairs that they have beside their metadata sets: entities, identifiers, and what a budget left
-- out. A pair is the number of its key and value (EventPairs.swift) as a signed integer. 0 stands for pairs that are not
-- said: those of events from before this column, and of programs that do not know it; every look asks for it too.
ALTER TABLE events ADD COLUMN pair_hashes integer[] NOT NULL DEFAULT '{0}';
CREATE INDEX events_pairs ON events USING gin (pair_hashes) WHERE pair_hashes <> '{}';

ALTER TABLE revisions ADD COLUMN pair_hashes integer[] NOT NULL DEFAULT '{0}';
CREATE INDEX revisions_pairs ON revisions USING gin (pair_hashes) WHERE pair_hashes <> '{}';

-- 7: from which instant events are in the index; no row where no event was there before it.
INSERT INTO retained (what, from_us)
SELECT 7, last_us + 1 FROM (SELECT max(time_us) AS last_us FROM events) AS e WHERE last_us IS NOT NULL;
