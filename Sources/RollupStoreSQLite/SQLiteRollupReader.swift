// The embedded store -> consistent reads, for any number of threads.
//
// A read is one transaction on a connection from a small pool: it sees one commit, and the writer never waits for it.

import EventCodec
import Events
import RecordLog
package import RollupStore
import Rollups
import Synchronization
import Threading

/// @unchecked: `idle` and `opened` are touched with `lock` held; a connection is one read's alone until given back.
package final class SQLiteRollupReader: RollupReader, @unchecked Sendable {
    private let path: String
    private let limit: Int
    private let lock = ConditionLock()
    private var idle: [Connection] = []
    private var opened = 0
    private let series = SeriesMemory()
    private let bucketMemory = BucketMemory()
    private let filler: BucketFiller

    init(path: String, connections: Int) {
        self.path = path
        limit = max(1, connections)
        filler = BucketFiller(path: path, memory: bucketMemory)
    }

    package func read<Answer>(_ body: (any RollupSnapshot) throws -> Answer) throws -> Answer {
        try read(until: { false }, body)
    }

    /// A read must not start another one from inside: with all connections taken, both would wait for good.
    package func read<Answer>(
        until isUnwanted: @escaping @Sendable () -> Bool, _ body: (any RollupSnapshot) throws -> Answer
    ) throws -> Answer {
        let connection = try take()
        var isSound = false
        defer {
            giveBack(connection, isSound)
            filler.request()
        }
        connection.stop(when: isUnwanted)
        defer { connection.stop(when: nil) }
        try connection.statement("BEGIN").run()
        do {
            // The first look fixes what the whole read sees.
            let snapshot = SQLiteSnapshot(
                connection: connection, map: try GenerationMap.read(connection), memory: series,
                buckets: bucketMemory)
            let answer = try body(snapshot)
            try connection.statement("COMMIT").run()
            isSound = true
            return answer
        } catch {
            if connection.isInTransaction { try connection.statement("ROLLBACK").run() }
            isSound = true
            throw error
        }
    }

    /// Hours and days in memory, and those that are to be taken in.
    package var buckets: (remembered: Int, wanted: Int) { bucketMemory.counts }

    private func take() throws(RollupStoreError) -> Connection {
        let waiting: Connection? = lock.withLock {
            while idle.isEmpty && opened >= limit { lock.wait() }
            if let connection = idle.popLast() { return connection }
            opened += 1
            return nil
        }
        if let waiting { return waiting }
        do {
            let connection = try Connection(path: path, access: .read)
            try connection.execute(
                """
                PRAGMA cache_size = -\(SQLiteRollupStore.Limits.readerCacheSize / 1024);
                PRAGMA mmap_size = \(SQLiteRollupStore.Limits.readerMapSize);
                """)
            return connection
        } catch {
            lock.withLock {
                opened -= 1
                lock.wakeAll()
            }
            throw error
        }
    }

    private func giveBack(_ connection: Connection, _ isSound: Bool) {
        lock.withLock {
            if isSound { idle.append(connection) } else { opened -= 1 }
            lock.wakeAll()
        }
    }
}

/// Every series that any read has loaded. Series never change and ids only rise, so more is never wrong: a read of an
/// older state finds no rows for those it is too old for.
final class SeriesMemory: Sendable {
    /// By what their sets are (`SetText`, `EntitySet`). Entities are many, and most questions are not about them.
    enum Kind: CaseIterable {
        case dimensions, entities

        /// The least text of such a set, and the least one beyond.
        var first: String { self == .dimensions ? "{" : "[" }
        var end: String { self == .dimensions ? "|" : "\\" }
    }

    struct State {
        var shelf = SeriesShelf()
        /// Up to which id each kind is loaded.
        var loaded: [Kind: Int64] = [:]
        /// One copy of each set, however many series share it.
        var sets: [Int64: [UInt8]] = [:]

        mutating func update(_ kind: Kind, _ connection: Connection) throws(RollupStoreError) {
            let from = loaded[kind] ?? 0
            let last = try Self.lastSeries(connection)
            if last <= from { return }
            // Few of many by their sets, of which an index has the texts.
            let join =
                from == 0 && kind == .dimensions
                ? "metadata_sets m CROSS JOIN series s ON s.set_id = m.id"
                : "series s CROSS JOIN metadata_sets m ON m.id = s.set_id"
            let statement = try connection.statement(
                """
                SELECT s.id, s.set_id, s.workspace, s.api_key, s.provider, s.operation, s.model, s.outcome,
                    s.status_class, m.pairs
                FROM \(join) WHERE s.id > ?1 AND s.id <= ?2 AND m.pairs >= ?3 AND m.pairs < ?4 ORDER BY s.id
                """)
            statement.bind(1, from)
            statement.bind(2, last)
            statement.bind(3, copying: kind.first)
            statement.bind(4, copying: kind.end)
            defer { statement.reset() }
            while try statement.step() {
                let number = statement.integer(0)
                let setNumber = statement.integer(1)
                let set = sets[setNumber] ?? Array(statement.bytes(9))
                sets[setNumber] = set
                let key = SeriesKey(
                    workspace: statement.text(2), apiKey: statement.text(3), provider: statement.text(4),
                    operation: statement.text(5), model: statement.text(6),
                    outcome: try SQLiteSnapshot.known(
                        Outcome(rawValue: UInt8(truncatingIfNeeded: statement.integer(7)))),
                    statusClass: UInt8(truncatingIfNeeded: statement.integer(8)), set: set)
                shelf.add(StoredSeries(id: number, key: key))
            }
            loaded[kind] = last
        }

        private static func lastSeries(_ connection: Connection) throws(RollupStoreError) -> Int64 {
            let statement = try connection.statement("SELECT coalesce(max(id), 0) FROM series")
            defer { statement.reset() }
            return try statement.step() ? statement.integer(0) : 0
        }
    }
    private let state = Mutex(State())

    func series(workspace: String, entity: String?, _ connection: Connection) throws -> [StoredSeries] {
        try state.withLock { state in
            try state.update(entity == nil ? .dimensions : .entities, connection)
            return state.shelf.series(of: workspace, entity: entity)
        }
    }

    /// Whatever its workspace; nil where the last look of `series` or `update` did not find it.
    func key(of id: Int64) -> SeriesKey? { state.withLock { $0.shelf.key(of: id) } }

    func update(_ connection: Connection) throws(RollupStoreError) {
        try state.withLock { state throws(RollupStoreError) in
            for kind in Kind.allCases { try state.update(kind, connection) }
        }
    }
}

struct SQLiteSnapshot: GenerationalSnapshot {
    let connection: Connection
    let map: GenerationMap
    let memory: SeriesMemory
    /// nil: rows are read from the table only.
    var buckets: BucketMemory?

    var watermark: EventTime? {
        get throws {
            let statement = try connection.statement("SELECT max(max_time_us) FROM offsets WHERE generation = ?1")
            statement.bind(1, GenerationMap.first)
            defer { statement.reset() }
            guard try statement.step() else { return nil }
            return statement.optionalInteger(0).map { EventTime(microseconds: $0) }
        }
    }

    func series(workspace: String, entity: String?) throws -> [StoredSeries] {
        try memory.series(workspace: workspace, entity: entity, connection)
    }

    func retained(_ grain: Grain?) throws -> EventTime? { try Self.retained(grain, connection) }

    static func retained(_ grain: Grain?, _ connection: Connection) throws(RollupStoreError) -> EventTime? {
        let statement = try connection.statement("SELECT from_us FROM retained WHERE what = ?1")
        statement.bind(1, Int64(grain?.rawValue ?? 3))
        defer { statement.reset() }
        return try statement.step() ? EventTime(microseconds: statement.integer(0)) : nil
    }

    func ledger() throws -> [PartitionLedger] {
        let statement = try connection.statement(
            """
            SELECT topic, partition, start_offset, next_offset, applied, duplicates, manifests, dead_letters, skipped,
                lost
            FROM offsets WHERE generation = ?1 ORDER BY topic, partition
            """)
        statement.bind(1, GenerationMap.first)
        defer { statement.reset() }
        var rows: [PartitionLedger] = []
        while try statement.step() {
            rows.append(
                PartitionLedger(
                    partition: TopicPartition(
                        topic: statement.text(0), partition: Int32(truncatingIfNeeded: statement.integer(1))),
                    start: Offset(statement.integer(2)), next: Offset(statement.integer(3)),
                    applied: statement.integer(4), duplicates: statement.integer(5),
                    manifests: statement.integer(6), deadLetters: statement.integer(7),
                    skipped: statement.integer(8), lost: statement.integer(9)))
        }
        return rows
    }

    var rulesVersion: Int64 { get throws { try RulesTimeline.version(connection) } }

    func rulesTimeline() throws -> RulesTimeline { try RulesTimeline.read(connection) }

    // MARK: Reconciliation

    func manifests(from: EventTime, to: EventTime) throws -> [Manifest] {
        let rows = try connection.statement(
            """
            SELECT minute_us, proxy, lane, serial, accepted, recorded FROM manifests
            WHERE minute_us >= ?1 AND minute_us < ?2 ORDER BY minute_us, proxy, lane, serial
            """)
        rows.bind(1, from.microseconds)
        rows.bind(2, to.microseconds)
        defer { rows.reset() }
        var parts: [Manifest] = []
        while try rows.step() {
            let accepted = UInt64(clamping: rows.integer(4))
            let recorded = UInt64(clamping: rows.integer(5))
            parts.append(
                Manifest(
                    proxy: rows.text(1), minute: EventTime(microseconds: rows.integer(0)),
                    lane: UInt32(truncatingIfNeeded: rows.integer(2)), serial: UInt64(bitPattern: rows.integer(3)),
                    accepted: accepted, recorded: recorded, dropped: accepted - min(accepted, recorded)))
        }
        return parts
    }

    func proxyMinutes(from: EventTime, to: EventTime) throws -> [ProxyMinute] {
        let rows = try connection.statement(
            """
            SELECT minute_us, proxy, topic, partition, applied, duplicates, dead_lettered, first_offset, next_offset,
                changed_us
            FROM proxy_minutes WHERE minute_us >= ?1 AND minute_us < ?2 ORDER BY minute_us, proxy, topic, partition
            """)
        rows.bind(1, from.microseconds)
        rows.bind(2, to.microseconds)
        defer { rows.reset() }
        var found: [ProxyMinute] = []
        while try rows.step() {
            found.append(
                ProxyMinute(
                    proxy: rows.text(1), minute: EventTime(microseconds: rows.integer(0)),
                    partition: TopicPartition(
                        topic: rows.text(2), partition: Int32(truncatingIfNeeded: rows.integer(3))),
                    first: Offset(rows.integer(7)), next: Offset(rows.integer(8)), applied: rows.integer(4),
                    duplicates: rows.integer(5), deadLettered: rows.integer(6),
                    changed: EventTime(microseconds: rows.integer(9))))
        }
        return found
    }

    // MARK: Rollups

    /// Rows that are stepped over before looking up the next wanted one: a look-up costs about as much as so many.
    private static let patience = 12

    func scanRollups(
        of generation: Int64, grain: Grain, from: Int32, to: Int32, series: SeriesSelection, withBins: Bool,
        _ body: (StoredRollup) -> Void
    ) throws {
        // Rows from before the grain's retention go without a word to the version.
        guard let buckets, grain != .minute, from < to, Int(to) - Int(from) <= BucketMemory.Limits.buckets,
            try retained(grain).map({ $0 <= grain.start(of: from) }) ?? true
        else {
            return try scanTable(generation, grain, from, to, series, withBins: withBins, body)
        }
        let keys = (from..<to).map { BucketMemory.Key(generation: generation, grain: grain, bucket: $0) }
        guard let first = keys.first, let last = keys.last else { return }
        let versions = try Self.versions(generation, days: first.day...last.day, connection)
        let found = buckets.find(keys, versions: keys.map { versions[$0.day] ?? 0 }, withBins: withBins)
        var missing = from
        for (key, remembered) in zip(keys, found) {
            guard let remembered else { continue }
            if missing < key.bucket {
                try scanTable(generation, grain, missing, key.bucket, series, withBins: withBins, body)
            }
            missing = key.bucket + 1
            guard remembered.scan(series, bucket: key.bucket, withBins: withBins, body) else {
                throw Self.unreadable("the bins of a rollup")
            }
        }
        if missing < to { try scanTable(generation, grain, missing, to, series, withBins: withBins, body) }
    }

    /// By day, of those that were added to.
    static func versions(
        _ generation: Int64, days: ClosedRange<Int32>, _ connection: Connection
    ) throws(RollupStoreError) -> [Int32: Int64] {
        let rows = try connection.statement(
            "SELECT day, version FROM rollup_days WHERE generation = ?1 AND day >= ?2 AND day <= ?3")
        rows.bind(1, generation)
        rows.bind(2, Int64(days.lowerBound))
        rows.bind(3, Int64(days.upperBound))
        defer { rows.reset() }
        var versions: [Int32: Int64] = [:]
        while try rows.step() { versions[Int32(truncatingIfNeeded: rows.integer(0))] = rows.integer(1) }
        return versions
    }

    static func rollupRows(withBins: Bool, _ connection: Connection) throws(RollupStoreError) -> Statement {
        let columns =
            "bucket, series, requests, input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_nano_usd, "
            + "request_bytes, response_bytes, latency_count, latency_sum_us, first_token_count, first_token_sum_us, "
            + "overhead_count, overhead_sum_us" + (withBins ? ", bins" : "")
        return try connection.statement(
            "SELECT \(columns) FROM rollups WHERE generation = ?1 AND grain = ?2 AND (bucket, series) >= (?3, ?4) "
                + "AND bucket < ?5 ORDER BY bucket, series")
    }

    static func bind(
        _ rows: Statement, _ generation: Int64, _ grain: Grain, from bucket: Int64, _ series: Int64, to: Int32
    ) {
        rows.bind(1, generation)
        rows.bind(2, Int64(grain.rawValue))
        rows.bind(3, bucket)
        rows.bind(4, series)
        rows.bind(5, Int64(to))
    }

    private func scanTable(
        _ generation: Int64, _ grain: Grain, _ from: Int32, _ to: Int32, _ series: SeriesSelection, withBins: Bool,
        _ body: (StoredRollup) -> Void
    ) throws {
        let rows = try Self.rollupRows(withBins: withBins, connection)
        defer { rows.reset() }
        func look(at bucket: Int64, _ series: Int64) {
            rows.reset()
            Self.bind(rows, generation, grain, from: bucket, series, to: to)
        }
        var bins: [SketchBin] = []
        func answer() throws {
            if withBins, !BinBlob.decode(rows.bytes(16), into: &bins) { throw Self.unreadable("the bins of a rollup") }
            body(
                StoredRollup(
                    bucket: Int32(truncatingIfNeeded: rows.integer(0)), series: rows.integer(1),
                    measures: Measures(rows, from: 2), bins: bins))
        }

        switch series {
        case .all:
            look(at: Int64(from), .min)
            while try rows.step() { try answer() }
        case .only(let wanted):
            // Rows and wanted ids both rise within a bucket: step along the rows while the next wanted one is near,
            // look it up when it is far. The cost is that of the cheaper of a scan and one look-up for each.
            guard let first = wanted.first else { return }
            look(at: Int64(from), first)
            var bucket = Int64.min
            var position = 0
            var passed = 0
            while try rows.step() {
                if rows.integer(0) != bucket {
                    bucket = rows.integer(0)
                    position = 0
                }
                let found = rows.integer(1)
                position = wanted.firstIndex(from: position, notBelow: found)
                if position < wanted.count && wanted[position] == found {
                    try answer()
                    position += 1
                    passed = 0
                    continue
                }
                passed += 1
                if position == wanted.count {
                    look(at: bucket + 1, first)
                    passed = 0
                } else if passed >= Self.patience {
                    look(at: bucket, wanted[position])
                    passed = 0
                }
            }
        }
    }

    // MARK: Events

    /// Of `events e`, and where revised, of `revisions r`.
    static func eventColumns(isRevised: Bool) -> String {
        func one(_ name: String) -> String {
            isRevised ? "CASE WHEN r.id IS NULL THEN e.\(name) ELSE r.\(name) END" : "e.\(name)"
        }
        return """
            e.time_us, e.id, \(one("series")), e.status, e.proxy, e.request_model, e.response_model, e.error_type,
            e.finish_reason, e.streamed, e.trace_id, e.span_id, e.parent_span_id, e.input_tokens, e.output_tokens,
            e.cached_tokens, e.reasoning_tokens, e.usage_source, \(one("cost_nano_usd")), \(one("price_version")),
            e.request_bytes, e.response_bytes, e.latency_us, e.first_token_us, e.upstream_us, e.overhead_us,
            \(one("metadata_status")), e.metadata_sources, \(one("metadata_conflicts")), \(one("metadata_raw")),
            e.metadata_rejected, \(one("metadata_extra")), \(isRevised ? "r.id IS NOT NULL" : "0")
            """
    }

    private static let revised =
        "events e LEFT JOIN revisions r ON r.generation = ?5 AND r.time_us = e.time_us AND r.id = e.id"

    private func isRevised(_ generation: Int64) throws(RollupStoreError) -> Bool {
        let rows = try connection.statement("SELECT 1 FROM revisions WHERE generation = ?1 LIMIT 1")
        rows.bind(1, generation)
        defer { rows.reset() }
        return try rows.step()
    }

    var indexedFrom: EventTime? {
        get throws {
            try connection.number("SELECT from_us FROM retained WHERE what = \(PairIndex.begin)")
                .map { EventTime(microseconds: $0) }
        }
    }

    func countEvents(from: EventTime, to: EventTime, having: [UInt32], atMost limit: Int) throws -> Int {
        try PairIndex.count(
            from: from.microseconds, to: to.microseconds, having: having, atMost: limit, connection)
    }

    /// By the index where there is one; what is older, one by one.
    func scanEvents(
        of generation: Int64, from: EventTime, to: EventTime, before: (time: EventTime, id: EventID)?,
        series: SeriesSelection, having: [UInt32]?, _ body: (StoredEvent) throws -> Bool
    ) throws -> Bool {
        guard let rows = try rows(of: generation, before, series) else { return true }
        defer { rows.reset() }
        func look(_ from: Int64, _ to: Int64) throws -> Bool {
            rows.reset()
            rows.bind(1, from)
            rows.bind(2, to)
            while try rows.step() {
                if try !body(Self.event(rows)) { return false }
            }
            return true
        }
        var end = to.microseconds
        if let before {
            let (next, overflows) = before.time.microseconds.addingReportingOverflow(1)
            if !overflows { end = min(end, next) }
        }
        guard let having else { return try look(from.microseconds, end) }
        let begin = max(from, try indexedFrom ?? from).microseconds
        let goesOn = try PairIndex.scan(from: begin, to: end, having: having, connection) { time in
            try look(time, time + 1)
        }
        if !goesOn { return false }
        return from.microseconds < begin ? try look(from.microseconds, min(begin, end)) : true
    }

    /// Those from the first parameter on and before the second, newest first; nil where no series is wanted.
    private func rows(
        of generation: Int64, _ before: (time: EventTime, id: EventID)?, _ series: SeriesSelection
    ) throws -> Statement? {
        let isRevised = try isRevised(generation)
        var condition = "e.time_us >= ?1 AND e.time_us < ?2"
        if before != nil { condition += " AND (e.time_us, e.id) < (?3, ?4)" }
        if case .only(let wanted) = series {
            if wanted.isEmpty { return nil }
            condition += " AND is_selected(\(isRevised ? "coalesce(r.series, e.series)" : "e.series"))"
            try connection.select(wanted)
        }
        let rows = try connection.statement(
            "SELECT \(Self.eventColumns(isRevised: isRevised)) FROM \(isRevised ? Self.revised : "events e") "
                + "WHERE \(condition) ORDER BY e.time_us DESC, e.id DESC")
        if let before {
            rows.bind(3, before.time.microseconds)
            rows.bindBlob(4, copying: before.id.bytes)
        }
        if isRevised { rows.bind(5, generation) }
        return rows
    }

    func event(id: EventID) throws -> StoredEvent? {
        let rows = try connection.statement(
            "SELECT \(Self.eventColumns(isRevised: false)) FROM events e WHERE e.id = ?1")
        rows.bindBlob(1, copying: id.bytes)
        defer { rows.reset() }
        guard try rows.step() else { return nil }
        let event = try Self.event(rows)
        let generation = map.generation(at: event.event.time)
        guard try isRevised(generation) else { return event }
        let revised = try connection.statement(
            "SELECT \(Self.eventColumns(isRevised: true)) FROM \(Self.revised) WHERE e.id = ?1")
        revised.bindBlob(1, copying: id.bytes)
        revised.bind(5, generation)
        defer { revised.reset() }
        return try revised.step() ? Self.event(revised) : nil
    }

    static func event(_ row: Statement) throws(RollupStoreError) -> StoredEvent {
        let idBytes = row.bytes(1)
        guard idBytes.count == 16 else { throw unreadable("the id of an event") }
        var event = RequestEvent(id: EventID(stored: idBytes), time: EventTime(microseconds: row.integer(0)))
        event.status = UInt16(truncatingIfNeeded: row.integer(3))
        event.proxy = row.text(4)
        event.requestModel = row.text(5)
        event.responseModel = row.text(6)
        event.errorType = row.text(7)
        event.finishReason = row.text(8)
        event.streamed = row.integer(9) != 0
        event.traceID = row.text(10)
        event.spanID = row.text(11)
        event.parentSpanID = row.text(12)
        event.inputTokens = UInt64(bitPattern: row.integer(13))
        event.outputTokens = UInt64(bitPattern: row.integer(14))
        event.cachedTokens = UInt64(bitPattern: row.integer(15))
        event.reasoningTokens = UInt64(bitPattern: row.integer(16))
        event.usageSource = try known(UsageSource(rawValue: UInt8(truncatingIfNeeded: row.integer(17))))
        event.cost = row.optionalInteger(18).map { NanoUSD($0) }
        event.priceVersion = row.text(19)
        event.requestBytes = UInt64(bitPattern: row.integer(20))
        event.responseBytes = UInt64(bitPattern: row.integer(21))
        event.latencyMicroseconds = row.optionalInteger(22).map { UInt64(bitPattern: $0) }
        event.firstTokenMicroseconds = row.optionalInteger(23).map { UInt64(bitPattern: $0) }
        event.upstreamMicroseconds = row.optionalInteger(24).map { UInt64(bitPattern: $0) }
        event.overheadMicroseconds = row.optionalInteger(25).map { UInt64(bitPattern: $0) }
        event.metadataStatus = try known(MetadataStatus(rawValue: UInt8(truncatingIfNeeded: row.integer(26))))
        event.metadataSources = MetadataSources(rawValue: UInt8(truncatingIfNeeded: row.integer(27)))
        event.metadataConflicts = UInt32(truncatingIfNeeded: row.integer(28))
        event.metadataRaw = Array(row.bytes(29))
        event.metadataRejected = Array(row.bytes(30))
        return StoredEvent(
            series: row.integer(2), event: event, extra: Array(row.bytes(31)), isRevised: row.integer(32) != 0)
    }

    static func known<Value>(_ value: Value?) throws(RollupStoreError) -> Value {
        guard let value else { throw unreadable("a code in a row") }
        return value
    }

    private static func unreadable(_ what: String) -> RollupStoreError {
        RollupStoreError(
            code: .corrupt, tried: "read \(what)", reason: "it does not parse",
            next: "Run PRAGMA integrity_check on the store, and restore it or rebuild it from the log.")
    }
}
