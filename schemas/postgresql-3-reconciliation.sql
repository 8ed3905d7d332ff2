-- Both sides of the reconciliation.

-- What each proxy says it did in a minute. Each part is one lane's count of it, by a serial number of its own: counts
-- of a part only rise and come again and again, the greatest stand; parts add up. dropped = accepted - recorded.
DROP TABLE manifests;
CREATE TABLE manifests (
    minute_us bigint NOT NULL,
    proxy bytea NOT NULL,
    lane bigint NOT NULL,
    serial bigint NOT NULL,
    accepted bigint NOT NULL,
    recorded bigint NOT NULL,
    PRIMARY KEY (minute_us, proxy, lane, serial)
) WITH (fillfactor = 50);

-- What became of each proxy's records of a minute, by partition, so that no two writers wait for each other; counted in
-- the transaction that applied them. They lie within first_offset ..< next_offset.
CREATE TABLE proxy_minutes (
    minute_us bigint NOT NULL,
    proxy bytea NOT NULL,
    topic text COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    applied bigint NOT NULL,
    duplicates bigint NOT NULL,
    dead_lettered bigint NOT NULL,
    first_offset bigint NOT NULL,
    next_offset bigint NOT NULL,
    changed_us bigint NOT NULL,
    PRIMARY KEY (minute_us, proxy, topic, partition)
) WITH (fillfactor = 50);

-- Whose record a dead letter was, as counted in proxy_minutes: sent to the log again, it is taken off there. NULL where it
-- counts for nobody.
ALTER TABLE dead_letters ADD COLUMN proxy bytea;
ALTER TABLE dead_letters ADD COLUMN minute_us bigint;
