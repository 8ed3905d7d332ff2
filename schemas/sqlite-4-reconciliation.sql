-- The embedded store: both sides of the reconciliation.

-- What each proxy says it did in a minute. Each part is one lane's count of it, by a serial number of its own: counts
-- of a part only rise and come again and again, the greatest stand; parts add up. dropped = accepted - recorded.
DROP TABLE manifests;
CREATE TABLE manifests (
    minute_us INTEGER NOT NULL,
    proxy TEXT NOT NULL,
    lane INTEGER NOT NULL,
    serial INTEGER NOT NULL,
    accepted INTEGER NOT NULL,
    recorded INTEGER NOT NULL,
    PRIMARY KEY (minute_us, proxy, lane, serial)
) STRICT, WITHOUT ROWID;

-- What became of each proxy's records of a minute, by partition, counted in the transaction that applied them. They lie
-- within first_offset ..< next_offset.
CREATE TABLE proxy_minutes (
    minute_us INTEGER NOT NULL,
    proxy TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    applied INTEGER NOT NULL,
    duplicates INTEGER NOT NULL,
    dead_lettered INTEGER NOT NULL,
    first_offset INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,
    changed_us INTEGER NOT NULL,
    PRIMARY KEY (minute_us, proxy, topic, partition)
) STRICT, WITHOUT ROWID;

-- Whose record a dead letter was, as counted in proxy_minutes: sent to the log again, it is taken off there. NULL where it
-- counts for nobody.
ALTER TABLE dead_letters ADD COLUMN proxy TEXT;
ALTER TABLE dead_letters ADD COLUMN minute_us INTEGER;
