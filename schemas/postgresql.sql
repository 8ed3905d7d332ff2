-- The store on one PostgreSQL server: everything that a batch changes, it changes in one transaction.
-- Times are UTC microseconds since 1970 and money is nano-USD, both integers, so the server's time zone is never asked;
-- an absent text or number is NULL. Text that comes from outside is bytea in UTF-8: it may hold a NUL, which text cannot,
-- and the encoding of the database does not matter. `convert_from(model, 'UTF8')` shows it.
-- The names are unqualified: the tables stand in the first schema of the connection's search_path.
-- The program that runs this does so in one transaction and sets the version.

CREATE TABLE millrace_schema (
    version integer NOT NULL
);

-- A generation is one full set of rollups. Readers answer from the live one; a replay builds another beside it.
CREATE TABLE generations (
    id smallint PRIMARY KEY,
    state text NOT NULL CHECK (state IN ('live', 'building', 'retired'))
);
INSERT INTO generations (id, state) VALUES (1, 'live');

-- Where ingest stands, by partition: the only truth about offsets.
-- next_offset - start_offset = applied + duplicates + manifests + dead_letters + skipped + lost.
-- batch: what the last apply called itself, by which it knows its own commit when the answer to it was lost.
CREATE TABLE offsets (
    generation smallint NOT NULL,
    topic text COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    start_offset bigint NOT NULL,
    next_offset bigint NOT NULL,
    epoch bigint NOT NULL,
    batch uuid,
    applied bigint NOT NULL DEFAULT 0,
    duplicates bigint NOT NULL DEFAULT 0,
    manifests bigint NOT NULL DEFAULT 0,
    dead_letters bigint NOT NULL DEFAULT 0,
    skipped bigint NOT NULL DEFAULT 0,
    lost bigint NOT NULL DEFAULT 0,
    max_time_us bigint,
    PRIMARY KEY (generation, topic, partition)
) WITH (fillfactor = 50);

-- Canonical combinations of dimension keys, as compact JSON text; unique by digest, since an index entry is bounded.
-- Never deleted. Ids are given under a lock, so that they rise in the order of the commits: readers' caches rely on it.
CREATE TABLE metadata_sets (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pairs bytea NOT NULL
);
CREATE UNIQUE INDEX metadata_sets_digest ON metadata_sets (sha256(pairs));

-- One row for each combination of all dimensions. Never deleted, and numbered as the sets are.
CREATE TABLE series (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    set_id bigint NOT NULL,
    outcome smallint NOT NULL,
    status_class smallint NOT NULL,
    workspace bytea NOT NULL,
    api_key bytea NOT NULL,
    provider bytea NOT NULL,
    operation bytea NOT NULL,
    model bytea NOT NULL
);
CREATE UNIQUE INDEX series_digest ON series (
    set_id, outcome, status_class,
    sha256(sha256(workspace) || sha256(api_key) || sha256(provider) || sha256(operation) || sha256(model))
);

-- grain: 0 minute, 1 hour, 2 day. bucket: whole buckets since 1970.
-- shard: the slot of the writer that added the row; writers never share rows, readers add up.
-- bins: the sketches of latency, first token and overhead as a list of parts, each its length and its packed bins; what
-- is added is appended, and long lists are made one part again.
CREATE TABLE rollups (
    series bigint NOT NULL,
    bucket integer NOT NULL,
    generation smallint NOT NULL,
    grain smallint NOT NULL,
    shard smallint NOT NULL,
    requests bigint NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    cost_nano_usd bigint NOT NULL,
    request_bytes bigint NOT NULL,
    response_bytes bigint NOT NULL,
    latency_count bigint NOT NULL,
    latency_sum_us bigint NOT NULL,
    first_token_count bigint NOT NULL,
    first_token_sum_us bigint NOT NULL,
    overhead_count bigint NOT NULL,
    overhead_sum_us bigint NOT NULL,
    bins bytea NOT NULL,
    PRIMARY KEY (generation, grain, bucket, series, shard)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
-- Packed already.
ALTER TABLE rollups ALTER COLUMN bins SET STORAGE EXTERNAL;

-- Every event. The id is unique by itself: that is how a copy of an event is recognised.
-- Partitions follow the id and not the time, for only so can the id be unique over all of them: an id of version 7 holds
-- the millisecond it was made at, so a partition is a day of ids, events_20261125 that of 2026-11-25. Ids that are of no
-- version 7, or of days too far away for a partition of their own, are in events_other.
-- What its series holds (workspace, api key, provider, operation, model, outcome) is not repeated.
CREATE TABLE events (
    id uuid NOT NULL,
    time_us bigint NOT NULL,
    series bigint NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    request_bytes bigint NOT NULL,
    response_bytes bigint NOT NULL,
    cost_nano_usd bigint,
    latency_us bigint,
    first_token_us bigint,
    upstream_us bigint,
    overhead_us bigint,
    metadata_conflicts bigint NOT NULL,
    status integer NOT NULL,
    usage_source smallint NOT NULL,
    metadata_status smallint NOT NULL,
    metadata_sources smallint NOT NULL,
    streamed boolean NOT NULL,
    proxy bytea,
    request_model bytea,
    response_model bytea,
    error_type bytea,
    finish_reason bytea,
    trace_id bytea,
    span_id bytea,
    parent_span_id bytea,
    price_version bytea,
    metadata_raw bytea,
    metadata_rejected bytea,
    metadata_extra bytea,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);
CREATE INDEX events_time ON events (time_us, id);
CREATE TABLE events_other PARTITION OF events DEFAULT;

-- What each proxy says it did in a minute: the other side of the reconciliation.
CREATE TABLE manifests (
    proxy bytea NOT NULL,
    minute_us bigint NOT NULL,
    accepted bigint NOT NULL,
    recorded bigint NOT NULL,
    dropped bigint NOT NULL,
    PRIMARY KEY (minute_us, proxy)
);

-- Records that could not be applied for their own fault, as they came.
CREATE TABLE dead_letters (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    source_offset bigint NOT NULL,
    time_us bigint NOT NULL,
    code text NOT NULL,
    reason bytea NOT NULL,
    key bytea NOT NULL,
    value bytea NOT NULL,
    UNIQUE (topic, partition, source_offset)
);

-- From which instant each grain (as above) and the events (3) are still whole; no row while nothing was deleted.
CREATE TABLE retained (
    what smallint PRIMARY KEY,
    from_us bigint NOT NULL
);

-- API keys. digest is the SHA-256 of the key; the key itself is nowhere. scopes: 1 ingest, 2 query, 4 admin, added up.
CREATE TABLE keys (
    id text COLLATE "C" PRIMARY KEY,
    digest bytea NOT NULL UNIQUE,
    workspace bytea NOT NULL,
    scopes smallint NOT NULL,
    name bytea NOT NULL,
    created_us bigint NOT NULL,
    revoked_us bigint
);
