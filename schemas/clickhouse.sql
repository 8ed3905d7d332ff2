-- The ClickHouse store. Rows are never changed: a batch inserts its rows under a number of its own, and the numbers that
-- count are named by the latest row of `commits`. Whoever reads these tables by hand must ask for them as readers do
-- (ClickHouseRollupReader.swift): rows of a batch that was cut short stay, uncounted.
-- Times are UTC microseconds since 1970, money is nano-USD, an absent text is empty.
-- Statements end with a semicolon at the end of a line.

-- One row a slot says all that holds from then on. Where two were put into one slot, the one inserted first holds:
-- that is the order of _block_number.
CREATE TABLE IF NOT EXISTS commits (
    slot Int64,
    -- Which try of which writer put it here.
    entry FixedString(16),
    schema_version UInt32,
    -- Numbers up to the slot under which nothing counts: not committed, or never to be.
    excluded Array(Int64),
    -- Of the rollups, numbers up to the floor count only where they are runs: sums of earlier numbers, whole chunks of
    -- them.
    chunk_size Int64,
    floor Int64,
    runs Array(Int64),
    run_levels Array(UInt8),
    -- The highest id of an event that counts.
    highest_id FixedString(16),
    -- From which instant each grain (as in rollups), the events (3), and manifests with proxy_minutes (4) are still whole:
    -- what is older does not count.
    retained_whats Array(UInt8),
    retained_from_us Array(Int64),
    -- From which event time on which normalization rules hold, ascending.
    rules_from_us Array(Int64),
    rules_fingerprints Array(String),
    -- Replays: rollups of whole days built anew, each as a generation beside the first, which counts where none of them
    -- answers. Of the live ones that cover an instant the one with the greatest rank answers.
    replay_generations Array(Int64),
    -- 0 building, 1 live, 2 retired, 3 cancelled.
    replay_states Array(UInt8),
    -- What its texts stand under in replay_plans.
    replay_numbers Array(Int64),
    -- Whose rules and prices change; the whole days around it are built.
    replay_from_us Array(Int64),
    replay_to_us Array(Int64),
    -- Fingerprints; empty: the rules of each event's time.
    replay_rules Array(String),
    replay_are_dry_runs Array(UInt8),
    replay_epochs Array(Int64),
    -- Events are scanned from the latest down to this one.
    replay_cursor_times_us Array(Nullable(Int64)),
    replay_cursor_ids Array(FixedString(16)),
    replay_are_scanned Array(UInt8),
    replay_scanned Array(Int64),
    replay_totals Array(Int64),
    replay_changed Array(Int64),
    replay_created_us Array(Int64),
    replay_swapped_us Array(Nullable(Int64)),
    -- 0: it is not live.
    replay_ranks Array(Int64),
    -- How often it came to answer or was taken back: part of the version of the rules timeline.
    replay_turns Array(Int64),
    -- Of a replay that reads the log: up to which instant (its first line), and by partition where the log began, how far
    -- it is read and where it ends (topic, partition, begin, next, end). Empty: it reads stored events alone.
    replay_log_scans Array(String),
    -- Of a replay of one workspace: whose events are put under its rules and prices. Empty: those of all.
    replay_workspaces Array(String),
    -- By partition of the log: the only truth about offsets.
    -- next - start = applied + duplicates + manifests + dead letters + skipped + lost.
    generations Array(Int64),
    topics Array(String),
    partitions Array(Int32),
    starts Array(Int64),
    nexts Array(Int64),
    epochs Array(Int64),
    applied Array(Int64),
    duplicates Array(Int64),
    manifests Array(Int64),
    dead_letters Array(Int64),
    skipped Array(Int64),
    lost Array(Int64),
    max_times_us Array(Nullable(Int64))
) ENGINE = MergeTree PARTITION BY intDiv(slot, 8192) ORDER BY slot
SETTINGS enable_block_number_column = 1, non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1, fsync_part_directory = 1;

-- Of a store that was made before.
ALTER TABLE commits ADD COLUMN IF NOT EXISTS replay_log_scans Array(String) AFTER replay_turns,
    ADD COLUMN IF NOT EXISTS replay_workspaces Array(String) AFTER replay_log_scans;

-- One row for each combination of all dimensions; found by the hash of the combination. Two writers that meet the same
-- one at the same moment may give it two ids: both count.
CREATE TABLE IF NOT EXISTS series (
    hash UInt64,
    id Int64,
    workspace String,
    api_key String,
    provider String,
    operation String,
    model String,
    outcome UInt8,
    status_class UInt8,
    -- The metadata set: canonical pairs as compact JSON text.
    pairs String,
    number Int64,
    INDEX number number TYPE minmax GRANULARITY 1
) ENGINE = MergeTree ORDER BY hash
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;

-- grain: 0 minute, 1 hour, 2 day; 5 hour and 6 day of an entity, whose series have pairs of the form ["key",value].
-- bucket: whole buckets since 1970. Rows of one place are summed when read.
-- bins: the sketches of latency, first token and overhead; a code is kind * 65,536 + bin + 32,768.
-- chunk: which rows are deleted together; negative for runs.
CREATE TABLE IF NOT EXISTS rollups (
    generation Int64,
    grain UInt8,
    bucket Int32,
    series Int64,
    requests Int64,
    input_tokens Int64,
    output_tokens Int64,
    cached_tokens Int64,
    reasoning_tokens Int64,
    cost_nano_usd Int64,
    request_bytes Int64,
    response_bytes Int64,
    latency_count Int64,
    latency_sum_us Int64,
    first_token_count Int64,
    first_token_sum_us Int64,
    overhead_count Int64,
    overhead_sum_us Int64,
    bin_codes Array(UInt32),
    bin_counts Array(Int64),
    chunk Int64,
    number Int64
) ENGINE = MergeTree PARTITION BY chunk ORDER BY (generation, grain, bucket, series)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;

-- Every event, in order of time. What its series holds is not repeated. Ids rise with time, nearly: the index on them
-- finds a copy of an event.
CREATE TABLE IF NOT EXISTS events (
    time_us Int64,
    id FixedString(16),
    series Int64,
    status UInt16,
    proxy String,
    request_model String,
    response_model String,
    error_type String,
    finish_reason String,
    streamed UInt8,
    trace_id String,
    span_id String,
    parent_span_id String,
    input_tokens UInt64,
    output_tokens UInt64,
    cached_tokens UInt64,
    reasoning_tokens UInt64,
    usage_source UInt8,
    cost_nano_usd Nullable(Int64),
    price_version String,
    request_bytes UInt64,
    response_bytes UInt64,
    latency_us Nullable(UInt64),
    first_token_us Nullable(UInt64),
    upstream_us Nullable(UInt64),
    overhead_us Nullable(UInt64),
    metadata_status UInt8,
    metadata_sources UInt8,
    metadata_conflicts UInt32,
    metadata_raw String,
    metadata_rejected String,
    metadata_extra String,
    number Int64,
    -- Which pairs the event has beside its metadata set: entities, identifiers, and what a budget left out. A pair is the
    -- number of its key and value (EventPairs.swift). 0 stands for pairs that are not said: those of events from before
    -- this column, and of programs that do not know it; every look asks for it too.
    pair_hashes Array(UInt32) DEFAULT [0],
    INDEX ids id TYPE minmax GRANULARITY 1,
    INDEX pairs pair_hashes TYPE bloom_filter(0.01) GRANULARITY 1
) ENGINE = MergeTree PARTITION BY intDiv(time_us, 86400000000) ORDER BY (time_us, id)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;

-- Of a store that was made before.
ALTER TABLE events ADD COLUMN IF NOT EXISTS pair_hashes Array(UInt32) DEFAULT [0],
    ADD INDEX IF NOT EXISTS pairs pair_hashes TYPE bloom_filter(0.01) GRANULARITY 1;

-- What each proxy says it did in a minute. Each part is one lane's count of it, by a serial number of its own: counts
-- of a part only rise and come again and again, the greatest hold; parts add up. dropped = accepted - recorded.
CREATE TABLE IF NOT EXISTS manifests (
    minute_us Int64,
    proxy String,
    lane UInt32,
    serial UInt64,
    accepted UInt64,
    recorded UInt64,
    number Int64
) ENGINE = MergeTree ORDER BY (minute_us, proxy, lane, serial)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;

-- What became of each proxy's records of a minute, by partition. They lie within first_offset ..< next_offset. Rows of
-- one place are summed when read, and into runs, as in rollups. Letters that were sent again are not taken off here.
CREATE TABLE IF NOT EXISTS proxy_minutes (
    minute_us Int64,
    proxy String,
    topic String,
    partition Int32,
    applied Int64,
    duplicates Int64,
    dead_lettered Int64,
    first_offset Int64,
    next_offset Int64,
    changed_us Int64,
    chunk Int64,
    number Int64
) ENGINE = MergeTree PARTITION BY chunk ORDER BY (minute_us, proxy, topic, partition)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;

-- Records that could not be applied for their own fault, as they came. minute_us and proxy: where it is counted in
-- proxy_minutes; null: nowhere.
CREATE TABLE IF NOT EXISTS dead_letters (
    topic String,
    partition Int32,
    source_offset Int64,
    time_us Int64,
    code String,
    reason String,
    key String,
    value String,
    proxy String,
    minute_us Nullable(Int64),
    number Int64
) ENGINE = MergeTree ORDER BY (topic, partition, source_offset)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;

-- Dead letters whose bytes were sent to the log again, each time one row; and those that were discarded, with minus the
-- time.
CREATE TABLE IF NOT EXISTS redrives (
    topic String,
    partition Int32,
    source_offset Int64,
    time_us Int64,
    number Int64
) ENGINE = MergeTree ORDER BY (topic, partition, source_offset)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;

-- API keys: what was done about them, in the order of _block_number. A key of an id or digest that one before it has is
-- none; of several revocations the first holds.
CREATE TABLE IF NOT EXISTS key_changes (
    -- Which try of which command put it here.
    entry FixedString(16),
    id String,
    -- The time of its revocation; null: the key is made.
    revoked_us Nullable(Int64),
    digest String,
    workspace String,
    scopes UInt8,
    name String,
    created_us Int64
) ENGINE = MergeTree ORDER BY id
SETTINGS enable_block_number_column = 1, non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1, fsync_part_directory = 1;

-- Every text of normalization rules that events were normalized under, by the SHA-256 of its canonical form.
CREATE TABLE IF NOT EXISTS rules (
    fingerprint String,
    text String
) ENGINE = MergeTree ORDER BY fingerprint
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;

-- The texts of a replay: the command that asked, in canonical form (the same one goes on with it), and its price table;
-- empty: costs stay.
CREATE TABLE IF NOT EXISTS replay_plans (
    number Int64,
    asked String,
    prices String
) ENGINE = MergeTree ORDER BY number
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;

-- Events of a replay's days that ingest has counted and this generation has not: those noted here and not settled.
CREATE TABLE IF NOT EXISTS replay_pending (
    generation Int64,
    time_us Int64,
    id FixedString(16),
    number Int64
) ENGINE = MergeTree PARTITION BY intDiv(time_us, 86400000000) ORDER BY (generation, time_us, id)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS replay_settled (
    generation Int64,
    time_us Int64,
    id FixedString(16),
    number Int64
) ENGINE = MergeTree PARTITION BY intDiv(time_us, 86400000000) ORDER BY (generation, time_us, id)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;

-- What a generation makes of an event where that differs from the table events.
CREATE TABLE IF NOT EXISTS revisions (
    generation Int64,
    time_us Int64,
    id FixedString(16),
    series Int64,
    cost_nano_usd Nullable(Int64),
    price_version String,
    metadata_status UInt8,
    metadata_conflicts UInt32,
    metadata_raw String,
    metadata_extra String,
    number Int64,
    -- As in events.
    pair_hashes Array(UInt32) DEFAULT [0],
    INDEX pairs pair_hashes TYPE bloom_filter(0.01) GRANULARITY 1
) ENGINE = MergeTree PARTITION BY intDiv(time_us, 86400000000) ORDER BY (generation, time_us, id)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;

ALTER TABLE revisions ADD COLUMN IF NOT EXISTS pair_hashes Array(UInt32) DEFAULT [0],
    ADD INDEX IF NOT EXISTS pairs pair_hashes TYPE bloom_filter(0.01) GRANULARITY 1;
