// The store on the server -> consistent reads, for any number of threads.
//
// A read is one REPEATABLE READ, READ ONLY transaction on a connection from a small pool: it sees one commit, and the
// writers never wait for it. Rows come in pages, so that a scan of any length holds one page in memory.

import Events
import RecordLog
package import RollupStore
import Rollups
import Synchronization
import Threading

/// @unchecked: `idle` and `opened` are touched with `lock` held; a connection is one read's alone until given back.
package final class PostgreSQLRollupReader: RollupReader, @unchecked Sendable {
    private let address: ServerAddress
    private let limit: Int
    private let lock = ConditionLock()
    private var idle: [Connection] = []
    private var opened = 0
    private let series = SeriesMemory()

    init(_ address: ServerAddress, connections: Int) {
        self.address = address
        limit = max(1, connections)
    }

    package func read<Answer>(_ body: (any RollupSnapshot) throws -> Answer) throws -> Answer {
        try read(until: { false }, body)
    }

    /// A read must not start another one from inside: with all connections taken, both would wait for good.
    package func read<Answer>(
        until isUnwanted: @escaping @Sendable () -> Bool, _ body: (any RollupSnapshot) throws -> Answer
    ) throws -> Answer {
        let (connection, map) = try begin(isUnwanted)
        var isSound = false
        defer { giveBack(connection, isSound) }
        do {
            let snapshot = PostgreSQLSnapshot(connection: connection, map: map, memory: series)
            let answer = try body(snapshot)
            connection.isUnwanted = nil
            try connection.execute("COMMIT")
            isSound = !connection.wasCancelled
            return answer
        } catch {
            connection.isUnwanted = nil
            // One that was told to stop goes: whether the word still comes, nobody knows.
            if connection.isAlive && connection.isInTransaction && !connection.wasCancelled {
                isSound = (try? connection.execute("ROLLBACK")) != nil
            }
            throw (error as? ServerFailure)?.error ?? error
        }
    }

    /// A connection with a transaction begun, and which generations it sees answer. One that lay idle may have lost its
    /// server in the meantime: then the next one is taken, and at last a new one.
    private func begin(
        _ isUnwanted: @escaping @Sendable () -> Bool
    ) throws(RollupStoreError) -> (Connection, GenerationMap) {
        while true {
            let (connection, isNew) = try take()
            connection.isUnwanted = isUnwanted
            do throws(ServerFailure) {
                // The lock first: from before the snapshot on, no partition goes that it shows.
                try connection.execute(
                    """
                    BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; LOCK TABLE ONLY events IN ACCESS SHARE MODE
                    """)
                // The first look fixes what the whole read sees.
                return (connection, try GenerationMap.read(connection))
            } catch {
                giveBack(connection, false)
                if isNew || connection.isAlive { throw error.error }
            }
        }
    }

    private func take() throws(RollupStoreError) -> (Connection, isNew: Bool) {
        let waiting: Connection? = lock.withLock {
            while idle.isEmpty && opened >= limit { lock.wait() }
            if let connection = idle.popLast() { return connection }
            opened += 1
            return nil
        }
        if let waiting { return (waiting, false) }
        do throws(ServerFailure) {
            return (try PostgreSQLRollupStore.connect(address, .read), true)
        } catch {
            lock.withLock {
                opened -= 1
                lock.wakeAll()
            }
            throw error.error
        }
    }

    private func giveBack(_ connection: Connection, _ isSound: Bool) {
        lock.withLock {
            if isSound { idle.append(connection) } else { opened -= 1 }
            lock.wakeAll()
        }
    }
}

/// Every series that any read has loaded. Series never change and ids rise in the order of their commits, so more is
/// never wrong: a read of an older state finds no rows for those it is too old for.
final class SeriesMemory: Sendable {
    struct State {
        var shelf = SeriesShelf()
        var last: Int64 = 0
        /// One copy of each set, however many series share it.
        var sets: [Int64: [UInt8]] = [:]

        mutating func update(_ connection: Connection) throws(ServerFailure) {
            while true {
                var parameters = Parameters()
                parameters.add(last)
                let rows = try connection.query(
                    """
                    SELECT s.id, s.set_id, s.workspace, s.api_key, s.provider, s.operation, s.model, s.outcome,
                        s.status_class, m.pairs
                    FROM series s JOIN metadata_sets m ON m.id = s.set_id
                    WHERE s.id > $1::bigint ORDER BY s.id LIMIT \(SeriesMemory.page)
                    """, parameters)
                for row in 0..<rows.count {
                    let number = rows.integer(row, 0)
                    let setNumber = rows.integer(row, 1)
                    let set = sets[setNumber] ?? Array(rows.bytes(row, 9))
                    sets[setNumber] = set
                    guard let outcome = Outcome(rawValue: UInt8(truncatingIfNeeded: rows.integer(row, 7))) else {
                        throw ServerFailure(PostgreSQLSnapshot.unreadable("a code in a row"))
                    }
                    let key = SeriesKey(
                        workspace: rows.text(row, 2), apiKey: rows.text(row, 3), provider: rows.text(row, 4),
                        operation: rows.text(row, 5), model: rows.text(row, 6), outcome: outcome,
                        statusClass: UInt8(truncatingIfNeeded: rows.integer(row, 8)), set: set)
                    shelf.add(StoredSeries(id: number, key: key))
                    last = number
                }
                if rows.count < SeriesMemory.page { return }
            }
        }
    }
    private static let page = 4_096
    private let state = Mutex(State())

    func series(workspace: String, entity: String?, _ connection: Connection) throws -> [StoredSeries] {
        try state.withLock { state in
            try state.update(connection)
            return state.shelf.series(of: workspace, entity: entity)
        }
    }

    func update(_ connection: Connection) throws(ServerFailure) {
        try state.withLock { state throws(ServerFailure) in try state.update(connection) }
    }

    /// Whatever its workspace; nil where the last look of `series` or `update` did not find it.
    func key(of id: Int64) -> SeriesKey? { state.withLock { $0.shelf.key(of: id) } }

    /// How many series are known, of all workspaces.
    var count: Int { state.withLock { $0.shelf.count } }
}

/// The table `retained`, asked for once a read: questions want all of it, and each question to the server is a way there
/// and back.
private final class Boundaries {
    private var times: [Int64: EventTime]?

    func time(_ what: Int64, _ connection: Connection) throws(ServerFailure) -> EventTime? {
        if let times { return times[what] }
        let rows = try connection.query("SELECT what::bigint, from_us FROM retained")
        var all: [Int64: EventTime] = [:]
        for row in 0..<rows.count { all[rows.integer(row, 0)] = EventTime(microseconds: rows.integer(row, 1)) }
        times = all
        return all[what]
    }
}

struct PostgreSQLSnapshot: GenerationalSnapshot {
    let connection: Connection
    let map: GenerationMap
    let memory: SeriesMemory
    private let boundaries = Boundaries()

    init(connection: Connection, map: GenerationMap, memory: SeriesMemory) {
        (self.connection, self.map, self.memory) = (connection, map, memory)
    }

    var watermark: EventTime? {
        get throws {
            var parameters = Parameters()
            parameters.add(GenerationMap.first)
            let rows = try connection.query(
                "SELECT max(max_time_us) FROM offsets WHERE generation = $1::bigint", parameters)
            return rows.optionalInteger(0, 0).map { EventTime(microseconds: $0) }
        }
    }

    func series(workspace: String, entity: String?) throws -> [StoredSeries] {
        try memory.series(workspace: workspace, entity: entity, connection)
    }

    func retained(_ grain: Grain?) throws -> EventTime? { try boundaries.time(Int64(grain?.rawValue ?? 3), connection) }

    func ledger() throws -> [PartitionLedger] {
        var parameters = Parameters()
        parameters.add(GenerationMap.first)
        let rows = try connection.query(
            """
            SELECT topic, partition, start_offset, next_offset, applied, duplicates, manifests, dead_letters, skipped,
                lost
            FROM offsets WHERE generation = $1::bigint ORDER BY topic, partition
            """, parameters)
        return (0..<rows.count).map { row in
            PartitionLedger(
                partition: TopicPartition(
                    topic: rows.text(row, 0), partition: Int32(truncatingIfNeeded: rows.integer(row, 1))),
                start: Offset(rows.integer(row, 2)), next: Offset(rows.integer(row, 3)),
                applied: rows.integer(row, 4), duplicates: rows.integer(row, 5), manifests: rows.integer(row, 6),
                deadLetters: rows.integer(row, 7), skipped: rows.integer(row, 8), lost: rows.integer(row, 9))
        }
    }

    var rulesVersion: Int64 { get throws { try RulesTimeline.version(connection) } }

    func rulesTimeline() throws -> RulesTimeline { try RulesTimeline.read(connection) }

    // MARK: Reconciliation

    func manifests(from: EventTime, to: EventTime) throws -> [Manifest] {
        var parameters = Parameters()
        parameters.add(from.microseconds)
        parameters.add(to.microseconds)
        let rows = try connection.query(
            """
            SELECT minute_us, proxy, lane, serial, accepted, recorded FROM manifests
            WHERE minute_us >= $1::bigint AND minute_us < $2::bigint ORDER BY minute_us, proxy, lane, serial
            """, parameters)
        return (0..<rows.count).map { row in
            let accepted = UInt64(clamping: rows.integer(row, 4))
            let recorded = UInt64(clamping: rows.integer(row, 5))
            return Manifest(
                proxy: String(decoding: rows.bytes(row, 1), as: UTF8.self),
                minute: EventTime(microseconds: rows.integer(row, 0)),
                lane: UInt32(truncatingIfNeeded: rows.integer(row, 2)),
                serial: UInt64(bitPattern: rows.integer(row, 3)), accepted: accepted, recorded: recorded,
                dropped: accepted - min(accepted, recorded))
        }
    }

    func proxyMinutes(from: EventTime, to: EventTime) throws -> [ProxyMinute] {
        var parameters = Parameters()
        parameters.add(from.microseconds)
        parameters.add(to.microseconds)
        let rows = try connection.query(
            """
            SELECT minute_us, proxy, topic, partition, applied, duplicates, dead_lettered, first_offset, next_offset,
                changed_us
            FROM proxy_minutes WHERE minute_us >= $1::bigint AND minute_us < $2::bigint
            ORDER BY minute_us, proxy, topic, partition
            """, parameters)
        return (0..<rows.count).map { row in
            ProxyMinute(
                proxy: String(decoding: rows.bytes(row, 1), as: UTF8.self),
                minute: EventTime(microseconds: rows.integer(row, 0)),
                partition: TopicPartition(
                    topic: rows.text(row, 2), partition: Int32(truncatingIfNeeded: rows.integer(row, 3))),
                first: Offset(rows.integer(row, 7)), next: Offset(rows.integer(row, 8)),
                applied: rows.integer(row, 4), duplicates: rows.integer(row, 5), deadLettered: rows.integer(row, 6),
                changed: EventTime(microseconds: rows.integer(row, 9)))
        }
    }

    // MARK: Rollups

    /// Rows in one answer at most; also look-ups in one statement.
    private static let page = 8_192
    /// A look-up by bucket and series costs about as much as so many rows that are passed over.
    private static let patience = 8

    private static let measureColumns = PostgreSQLRollupWriter.measureColumns.map { "r.\($0)" }.joined(separator: ", ")

    func scanRollups(
        of generation: Int64, grain: Grain, from: Int32, to: Int32, series: SeriesSelection, withBins: Bool,
        _ body: (StoredRollup) -> Void
    ) throws {
        switch series {
        case .all:
            try passThrough(generation, grain, from, to, nil, withBins, body)
        case .only(let wanted):
            if wanted.isEmpty { return }
            guard let (first, last) = try bounds(generation, grain, from, to) else { return }
            // Either look up each wanted series in each bucket, or pass over all rows of the range and leave out what
            // is not wanted: whichever is likely to touch less. How many of all series have a row in a bucket is a
            // guess; a wrong one costs time alone.
            let share = [Grain.minute: 30, .hour: 5, .day: 2][grain] ?? 2
            if wanted.count * Self.patience * share <= memory.count {
                try lookUp(generation, grain, first, last, wanted, withBins, body)
            } else {
                try passThrough(generation, grain, first, last, wanted, withBins, body)
            }
        }
    }

    /// The first bucket of the range that has rows, and the one after the last.
    private func bounds(
        _ generation: Int64, _ grain: Grain, _ from: Int32, _ to: Int32
    ) throws -> (Int32, Int32)? {
        var parameters = Parameters()
        parameters.add(generation)
        parameters.add(Int16(grain.rawValue))
        parameters.add(from)
        parameters.add(to)
        let rows = try connection.query(
            """
            SELECT min(bucket), max(bucket) FROM rollups
            WHERE generation = $1::bigint AND grain = $2::smallint AND bucket >= $3::integer AND bucket < $4::integer
            """, parameters)
        guard let first = rows.optionalInteger(0, 0), let last = rows.optionalInteger(0, 1) else { return nil }
        return (Int32(truncatingIfNeeded: first), Int32(truncatingIfNeeded: last + 1))
    }

    /// Page by page along the key; each page goes on behind the last row of the one before.
    private func passThrough(
        _ generation: Int64, _ grain: Grain, _ from: Int32, _ to: Int32, _ wanted: [Int64]?, _ withBins: Bool,
        _ body: (StoredRollup) -> Void
    ) throws {
        var place = (bucket: from, series: Int64.min, shard: Int16.min)
        var sum = ShardSum()
        while true {
            var parameters = Parameters()
            parameters.add(generation)
            parameters.add(Int16(grain.rawValue))
            parameters.add(place.bucket)
            parameters.add(place.series)
            parameters.add(place.shard)
            parameters.add(to)
            var condition = ""
            if let wanted {
                // An expression rather than the column: a filter, never a walk through the index for each number.
                condition = "AND r.series + 0 = ANY ($7::bigint[])"
                parameters.add(bigints: wanted)
            }
            let rows = try connection.query(
                """
                SELECT r.bucket, r.series, r.shard, \(Self.measureColumns)\(withBins ? ", r.bins" : "") FROM rollups r
                WHERE r.generation = $1::bigint AND r.grain = $2::smallint
                    AND (r.bucket, r.series, r.shard) > ($3::integer, $4::bigint, $5::smallint)
                    AND r.bucket < $6::integer \(condition)
                ORDER BY r.bucket, r.series, r.shard LIMIT \(Self.page)
                """, parameters)
            for row in 0..<rows.count { try sum.add(rows, row, withBins, body) }
            if rows.count < Self.page { break }
            place = (
                Int32(truncatingIfNeeded: rows.integer(rows.count - 1, 0)), rows.integer(rows.count - 1, 1),
                Int16(truncatingIfNeeded: rows.integer(rows.count - 1, 2))
            )
        }
        sum.finish(body)
    }

    private func lookUp(
        _ generation: Int64, _ grain: Grain, _ from: Int32, _ to: Int32, _ wanted: [Int64], _ withBins: Bool,
        _ body: (StoredRollup) -> Void
    ) throws {
        // As many whole buckets at once as fit, or one bucket in pieces.
        let width = max(1, Int64(Self.page / wanted.count))
        var bucket = Int64(from)
        while bucket < Int64(to) {
            let end = min(bucket + width, Int64(to))
            for start in stride(from: 0, to: wanted.count, by: Self.page) {
                let some = Array(wanted[start..<min(start + Self.page, wanted.count)])
                try lookUp(generation, grain, bucket, end, some, withBins, body)
            }
            bucket = end
        }
    }

    private func lookUp(
        _ generation: Int64, _ grain: Grain, _ from: Int64, _ to: Int64, _ wanted: [Int64], _ withBins: Bool,
        _ body: (StoredRollup) -> Void
    ) throws {
        var parameters = Parameters()
        parameters.add(generation)
        parameters.add(Int16(grain.rawValue))
        parameters.add(from)
        parameters.add(to - 1)
        parameters.add(bigints: wanted)
        let rows = try connection.query(
            """
            SELECT r.bucket, r.series, r.shard, \(Self.measureColumns)\(withBins ? ", r.bins" : "")
            FROM generate_series($3::bigint, $4::bigint) AS b (bucket) CROSS JOIN unnest($5::bigint[]) AS w (series)
            JOIN rollups r ON r.generation = $1::bigint AND r.grain = $2::smallint AND r.bucket = b.bucket::integer
                AND r.series = w.series
            ORDER BY r.bucket, r.series
            """, parameters)
        var sum = ShardSum()
        for row in 0..<rows.count { try sum.add(rows, row, withBins, body) }
        sum.finish(body)
    }

    /// Adds up the rows of one bucket and series, which follow each other: one for each shard that has it.
    private struct ShardSum {
        private var held: StoredRollup?
        private var isMixed = false

        mutating func add(
            _ rows: Rows, _ row: Int, _ withBins: Bool, _ body: (StoredRollup) -> Void
        ) throws {
            let bucket = Int32(truncatingIfNeeded: rows.integer(row, 0))
            let series = rows.integer(row, 1)
            let measures = Measures(rows, row, from: 3)
            var bins: [SketchBin] = []
            if withBins {
                guard let decoded = BinParts.decode(rows.bytes(row, 17)) else {
                    throw PostgreSQLSnapshot.unreadable("the bins of a rollup")
                }
                bins = decoded
            }
            if held?.bucket == bucket, held?.series == series {
                held?.measures += measures
                held?.bins += bins
                isMixed = true
                return
            }
            finish(body)
            held = StoredRollup(bucket: bucket, series: series, measures: measures, bins: bins)
        }

        mutating func finish(_ body: (StoredRollup) -> Void) {
            if isMixed { held?.bins.normalize() }
            if let held { body(held) }
            held = nil
            isMixed = false
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
            e.metadata_rejected, \(one("metadata_extra")), \(isRevised ? "(r.id IS NOT NULL)::integer" : "0")
            """
    }

    /// With the revisions of the generation that this parameter names.
    private static func revised(by parameter: Int) -> String {
        "events e LEFT JOIN revisions r "
            + "ON r.generation = $\(parameter)::bigint AND r.time_us = e.time_us AND r.id = e.id"
    }

    private func isRevised(_ generation: Int64) throws(ServerFailure) -> Bool {
        var parameters = Parameters()
        parameters.add(generation)
        let rows = try connection.query("SELECT 1 FROM revisions WHERE generation = $1::bigint LIMIT 1", parameters)
        return rows.count > 0
    }

    /// Rows of one fetch: few at first, since a listing shows few; never many, since one may hold a quarter of a MiB.
    private static let eventPages = (first: 128, then: 512)

    var indexedFrom: EventTime? {
        get throws {
            try boundaries.time(7, connection)
        }
    }

    /// Events that the index has under one of the pairs in the parameter `$1`, or of which it does not know them.
    private static func indexed(_ table: String) -> String {
        "FROM \(table) WHERE pair_hashes && $1::integer[] AND pair_hashes <> '{}' "
            + "AND time_us >= $2::bigint AND time_us < $3::bigint"
    }

    private static func indexParameters(_ having: [UInt32], _ from: Int64, _ to: Int64) -> Parameters {
        var parameters = Parameters()
        parameters.add(integers: Set(having + [EventPairs.unsaid]).map { Int32(bitPattern: $0) })
        parameters.add(from)
        parameters.add(to)
        return parameters
    }

    /// Of all generations' revisions, where there are any.
    func countEvents(from: EventTime, to: EventTime, having: [UInt32], atMost limit: Int) throws -> Int {
        var count = 0
        for table in ["events", "revisions"] where count < limit {
            var parameters = Self.indexParameters(having, from.microseconds, to.microseconds)
            parameters.add(Int64(limit - count))
            let rows = try connection.query(
                "SELECT count(*) FROM (SELECT 1 \(Self.indexed(table)) LIMIT $4::bigint) AS found", parameters)
            count += Int(rows.integer(0, 0))
        }
        return count
    }

    /// The first stretch of time of which the index is asked; each further one is twice as long. A listing of a pair that
    /// many events have ends in the first.
    private static let firstWindow: Int64 = 86_400_000_000

    func scanEvents(
        of generation: Int64, from: EventTime, to: EventTime, before: (time: EventTime, id: EventID)?,
        series: SeriesSelection, having: [UInt32]?, _ body: (StoredEvent) throws -> Bool
    ) throws -> Bool {
        var end = to.microseconds
        if let before {
            let (next, overflows) = before.time.microseconds.addingReportingOverflow(1)
            if !overflows { end = min(end, next) }
        }
        let isRevised = try isRevised(generation)
        guard let having else {
            return try scan(generation, isRevised, from.microseconds, end, before, series, nil, body)
        }
        var ends = Parameters()
        ends.add(from.microseconds)
        ends.add(end)
        let found = try connection.query(
            "SELECT min(time_us), max(time_us) FROM events WHERE time_us >= $1::bigint AND time_us < $2::bigint", ends)
        guard let first = found.optionalInteger(0, 0), let last = found.optionalInteger(0, 1) else { return true }
        end = last + 1
        var width = Self.firstWindow
        while end > first {
            let begin = end - first > width ? end - width : first
            if try !scan(generation, isRevised, begin, end, before, series, having, body) { return false }
            end = begin
            if width < .max / 2 { width *= 2 }
        }
        return true
    }

    private func scan(
        _ generation: Int64, _ isRevised: Bool, _ from: Int64, _ to: Int64,
        _ before: (time: EventTime, id: EventID)?, _ series: SeriesSelection, _ having: [UInt32]?,
        _ body: (StoredEvent) throws -> Bool
    ) throws -> Bool {
        var parameters: Parameters
        var condition: String
        var table = "events"
        var found = ""
        if let having {
            parameters = Self.indexParameters(having, from, to)
            condition = "true"
            // Materialized: the planner would rather walk along the time, since it does not know how rare a pair is.
            if isRevised {
                found =
                    "WITH found AS MATERIALIZED (SELECT id \(Self.indexed("events")) UNION "
                    + "SELECT id \(Self.indexed("revisions")) AND generation = $4::bigint) "
                parameters.add(generation)
                condition = "e.id = ANY (ARRAY (SELECT id FROM found))"
            } else {
                found = "WITH found AS MATERIALIZED (SELECT * \(Self.indexed("events"))) "
                table = "found"
            }
        } else {
            parameters = Parameters()
            condition = "e.time_us >= $1::bigint AND e.time_us < $2::bigint"
            parameters.add(from)
            parameters.add(to)
        }
        if let before {
            condition += " AND (e.time_us, e.id) < ($\(parameters.count + 1)::bigint, $\(parameters.count + 2)::uuid)"
            parameters.add(before.time.microseconds)
            parameters.add(before.id.bytes)
        }
        if case .only(let wanted) = series {
            if wanted.isEmpty { return true }
            let number = isRevised ? "coalesce(r.series, e.series)" : "e.series"
            condition += " AND \(number) = ANY ($\(parameters.count + 1)::bigint[])"
            parameters.add(bigints: wanted)
        }
        var source = "\(table) e"
        if isRevised {
            source = Self.revised(by: parameters.count + 1)
            parameters.add(generation)
        }
        var goesOn = true
        try connection.scan(
            "\(found)SELECT \(Self.eventColumns(isRevised: isRevised)) FROM \(source) WHERE \(condition) "
                + "ORDER BY e.time_us DESC, e.id DESC", parameters, batches: Self.eventPages
        ) { rows, row in
            goesOn = try body(Self.event(rows, row))
            return goesOn
        }
        return goesOn
    }

    func event(id: EventID) throws -> StoredEvent? {
        var parameters = Parameters()
        parameters.add(id.bytes)
        let rows = try connection.query(
            "SELECT \(Self.eventColumns(isRevised: false)) FROM events e WHERE e.id = $1::uuid", parameters)
        if rows.count == 0 { return nil }
        let event = try Self.event(rows, 0)
        let generation = map.generation(at: event.event.time)
        guard try isRevised(generation) else { return event }
        parameters.add(generation)
        let revised = try connection.query(
            "SELECT \(Self.eventColumns(isRevised: true)) FROM \(Self.revised(by: 2)) WHERE e.id = $1::uuid", parameters
        )
        return revised.count == 0 ? nil : try Self.event(revised, 0)
    }

    static func event(_ rows: Rows, _ row: Int) throws(RollupStoreError) -> StoredEvent {
        let idBytes = rows.bytes(row, 1)
        guard idBytes.count == 16 else { throw unreadable("the id of an event") }
        var event = RequestEvent(id: EventID(idBytes), time: EventTime(microseconds: rows.integer(row, 0)))
        event.status = UInt16(truncatingIfNeeded: rows.integer(row, 3))
        event.proxy = rows.text(row, 4)
        event.requestModel = rows.text(row, 5)
        event.responseModel = rows.text(row, 6)
        event.errorType = rows.text(row, 7)
        event.finishReason = rows.text(row, 8)
        event.streamed = rows.integer(row, 9) != 0
        event.traceID = rows.text(row, 10)
        event.spanID = rows.text(row, 11)
        event.parentSpanID = rows.text(row, 12)
        event.inputTokens = UInt64(bitPattern: rows.integer(row, 13))
        event.outputTokens = UInt64(bitPattern: rows.integer(row, 14))
        event.cachedTokens = UInt64(bitPattern: rows.integer(row, 15))
        event.reasoningTokens = UInt64(bitPattern: rows.integer(row, 16))
        event.usageSource = try known(UsageSource(rawValue: UInt8(truncatingIfNeeded: rows.integer(row, 17))))
        event.cost = rows.optionalInteger(row, 18).map { NanoUSD($0) }
        event.priceVersion = rows.text(row, 19)
        event.requestBytes = UInt64(bitPattern: rows.integer(row, 20))
        event.responseBytes = UInt64(bitPattern: rows.integer(row, 21))
        event.latencyMicroseconds = rows.optionalInteger(row, 22).map { UInt64(bitPattern: $0) }
        event.firstTokenMicroseconds = rows.optionalInteger(row, 23).map { UInt64(bitPattern: $0) }
        event.upstreamMicroseconds = rows.optionalInteger(row, 24).map { UInt64(bitPattern: $0) }
        event.overheadMicroseconds = rows.optionalInteger(row, 25).map { UInt64(bitPattern: $0) }
        event.metadataStatus = try known(MetadataStatus(rawValue: UInt8(truncatingIfNeeded: rows.integer(row, 26))))
        event.metadataSources = MetadataSources(rawValue: UInt8(truncatingIfNeeded: rows.integer(row, 27)))
        event.metadataConflicts = UInt32(truncatingIfNeeded: rows.integer(row, 28))
        event.metadataRaw = Array(rows.bytes(row, 29))
        event.metadataRejected = Array(rows.bytes(row, 30))
        return StoredEvent(
            series: rows.integer(row, 2), event: event, extra: Array(rows.bytes(row, 31)),
            isRevised: rows.integer(row, 32) != 0)
    }

    static func known<Value>(_ value: Value?) throws(RollupStoreError) -> Value {
        guard let value else { throw unreadable("a code in a row") }
        return value
    }

    static func unreadable(_ what: String) -> RollupStoreError {
        RollupStoreError(
            code: .corrupt, tried: "read \(what)", reason: "it does not parse",
            next: "Restore the database, or rebuild it from the log.")
    }
}
