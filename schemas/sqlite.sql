-- The embedded store, one file: everything that a batch changes, it changes in one transaction.
-- Times are UTC microseconds since 1970, money is nano-USD, and an absent text or number is NULL.
-- PRAGMA user_version and application_id are set by the program that runs this.

-- A generation is one full set of rollups. Readers answer from the live one; a replay builds another beside it.
CREATE TABLE generations (
    id INTEGER PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('live', 'building', 'retired'))
) STRICT;
INSERT INTO generations (id, state) VALUES (1, 'live');

-- Where ingest stands, by partition: the only truth about offsets.
-- next_offset - start_offset = applied + duplicates + manifests + dead_letters + skipped + lost.
CREATE TABLE offsets (
    generation INTEGER NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    start_offset INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    applied INTEGER NOT NULL DEFAULT 0,
    duplicates INTEGER NOT NULL DEFAULT 0,
    manifests INTEGER NOT NULL DEFAULT 0,
    dead_letters INTEGER NOT NULL DEFAULT 0,
    skipped INTEGER NOT NULL DEFAULT 0,
    lost INTEGER NOT NULL DEFAULT 0,
    max_time_us INTEGER,
    PRIMARY KEY (generation, topic, partition)
) STRICT, WITHOUT ROWID;

-- Canonical combinations of dimension keys, as compact JSON text. Never deleted: ids only rise.
CREATE TABLE metadata_sets (
    id INTEGER PRIMARY KEY,
    pairs TEXT NOT NULL UNIQUE
) STRICT;

-- One row for each combination of all dimensions. Never deleted: ids only rise, which readers' caches rely on.
CREATE TABLE series (
    id INTEGER PRIMARY KEY,
    set_id INTEGER NOT NULL,
    workspace TEXT NOT NULL,
    api_key TEXT NOT NULL,
    provider TEXT NOT NULL,
    operation TEXT NOT NULL,
    model TEXT NOT NULL,
    outcome INTEGER NOT NULL,
    status_class INTEGER NOT NULL,
    UNIQUE (set_id, workspace, api_key, provider, operation, model, outcome, status_class)
) STRICT;

-- grain: 0 minute, 1 hour, 2 day. bucket: whole buckets since 1970.
-- bins: the sketches of latency, first token and overhead, packed and additive (merge_bins adds two of them).
CREATE TABLE rollups (
    generation INTEGER NOT NULL,
    grain INTEGER NOT NULL,
    bucket INTEGER NOT NULL,
    series INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    cost_nano_usd INTEGER NOT NULL,
    request_bytes INTEGER NOT NULL,
    response_bytes INTEGER NOT NULL,
    latency_count INTEGER NOT NULL,
    latency_sum_us INTEGER NOT NULL,
    first_token_count INTEGER NOT NULL,
    first_token_sum_us INTEGER NOT NULL,
    overhead_count INTEGER NOT NULL,
    overhead_sum_us INTEGER NOT NULL,
    bins BLOB NOT NULL,
    PRIMARY KEY (generation, grain, bucket, series)
) STRICT, WITHOUT ROWID;

-- Every event, in order of time. The id is unique by itself: that is how a copy of an event is recognised.
-- What its series holds (workspace, api key, provider, operation, model, outcome) is not repeated.
CREATE TABLE events (
    time_us INTEGER NOT NULL,
    id BLOB NOT NULL UNIQUE,
    series INTEGER NOT NULL,
    status INTEGER NOT NULL,
    proxy TEXT,
    request_model TEXT,
    response_model TEXT,
    error_type TEXT,
    finish_reason TEXT,
    streamed INTEGER NOT NULL,
    trace_id TEXT,
    span_id TEXT,
    parent_span_id TEXT,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    usage_source INTEGER NOT NULL,
    cost_nano_usd INTEGER,
    price_version TEXT,
    request_bytes INTEGER NOT NULL,
    response_bytes INTEGER NOT NULL,
    latency_us INTEGER,
    first_token_us INTEGER,
    upstream_us INTEGER,
    overhead_us INTEGER,
    metadata_status INTEGER NOT NULL,
    metadata_sources INTEGER NOT NULL,
    metadata_conflicts INTEGER NOT NULL,
    metadata_raw TEXT,
    metadata_rejected BLOB,
    metadata_extra TEXT,
    PRIMARY KEY (time_us, id)
) STRICT, WITHOUT ROWID;

-- What each proxy says it did in a minute: the other side of the reconciliation.
CREATE TABLE manifests (
    proxy TEXT NOT NULL,
    minute_us INTEGER NOT NULL,
    accepted INTEGER NOT NULL,
    recorded INTEGER NOT NULL,
    dropped INTEGER NOT NULL,
    PRIMARY KEY (proxy, minute_us)
) STRICT, WITHOUT ROWID;

-- Records that could not be applied for their own fault, as they came.
CREATE TABLE dead_letters (
    id INTEGER PRIMARY KEY,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    source_offset INTEGER NOT NULL,
    time_us INTEGER NOT NULL,
    code TEXT NOT NULL,
    reason TEXT NOT NULL,
    key BLOB NOT NULL,
    value BLOB NOT NULL,
    UNIQUE (topic, partition, source_offset)
) STRICT;

-- From which instant each grain (as above) and the events (3) are still whole; no row while nothing was deleted.
CREATE TABLE retained (
    what INTEGER PRIMARY KEY,
    from_us INTEGER NOT NULL
) STRICT;
