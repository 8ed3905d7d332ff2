-- How often the rollups of a day (UTC, whole days since 1970) were added to: what a reader remembers of the day and its
-- hours holds for one version. No row: never since this table is there.
CREATE TABLE rollup_days (
    generation INTEGER NOT NULL,
    day INTEGER NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (generation, day)
) STRICT, WITHOUT ROWID;
