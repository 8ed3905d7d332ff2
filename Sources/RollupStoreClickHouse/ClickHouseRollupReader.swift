// The ClickHouse store -> consistent reads, for any number of threads.
//
// A read begins with the latest row of `commits`, and every statement of it takes only rows under numbers that count by
// that row. Rows are never changed, and those that were summed into a run stay longer than a read may last: so all
// statements see one state, and the writers never wait.

import EventCodec
import Events
import RecordLog
package import RollupStore
import Rollups
import Synchronization
import Threading

/// @unchecked: `idle` and `opened` are touched with `lock` held; a connection is one read's alone until given back.
package final class ClickHouseRollupReader: RollupReader, @unchecked Sendable {
    private let location: ClickHouseLocation
    private let tables: Tables
    private let limit: Int
    private let limits: ClickHouseRollupStore.Limits
    private let lock = ConditionLock()
    private var idle: [Connection] = []
    private var opened = 0
    private let series = SeriesMemory()
    private let texts = RulesTexts()
    /// What the read before found.
    private let latest = Mutex<CommitLog.Row?>(nil)

    init(_ location: ClickHouseLocation, _ tables: Tables, connections: Int, limits: ClickHouseRollupStore.Limits) {
        self.location = location
        self.tables = tables
        self.limits = limits
        limit = max(1, connections)
    }

    package func read<Answer>(_ body: (any RollupSnapshot) throws -> Answer) throws -> Answer {
        try read(until: { false }, body)
    }

    /// A read must not start another one from inside: with all connections taken, both would wait for good.
    package func read<Answer>(
        until isUnwanted: @escaping @Sendable () -> Bool, _ body: (any RollupSnapshot) throws -> Answer
    ) throws -> Answer {
        let connection = try take()
        defer { giveBack(connection) }
        connection.isUnwanted = isUnwanted
        defer { connection.isUnwanted = nil }
        try tables.make(connection)
        let deadline = ContinuousClock.now.advanced(by: .seconds(limits.readTime))
        guard let row = try CommitLog.latest(connection, known: latest.withLock { $0 }) else { throw CommitLog.missing }
        latest.withLock { $0 = row }
        return try body(
            ClickHouseSnapshot(
                connection: connection, state: row.state, map: row.state.generations, memory: series, texts: texts,
                deadline: deadline
            ))
    }

    private func take() throws(RollupStoreError) -> Connection {
        let waiting: Connection? = lock.withLock {
            while idle.isEmpty && opened >= limit { lock.wait() }
            if let connection = idle.popLast() { return connection }
            opened += 1
            return nil
        }
        if let waiting { return waiting }
        do {
            return try Connection(location)
        } catch {
            lock.withLock {
                opened -= 1
                lock.wakeAll()
            }
            throw error
        }
    }

    private func giveBack(_ connection: Connection) {
        lock.withLock {
            idle.append(connection)
            lock.wakeAll()
        }
    }
}

/// Every series that any read has loaded. Series never change, so more is never wrong: a read of an older state finds no
/// rows for those it is too old for.
final class SeriesMemory: Sendable {
    struct State {
        /// As of this state all series were loaded; nil: none yet.
        var loaded: StoreState?
        var shelf = SeriesShelf()
        var ids: Set<Int64> = []
        /// One copy of each set, however many series share it.
        var sets: Set<[UInt8]> = []
    }
    private let state = Mutex(State())

    func series(
        workspace: String, entity: String?, _ snapshot: StoreState, _ connection: Connection
    ) throws -> [StoredSeries] {
        try state.withLock { state in
            try load(snapshot, connection, &state)
            return state.shelf.series(of: workspace, entity: entity)
        }
    }

    func update(_ snapshot: StoreState, _ connection: Connection) throws(RollupStoreError) {
        try state.withLock { state throws(RollupStoreError) in try load(snapshot, connection, &state) }
    }

    /// Whatever its workspace; nil where the last look of `series` or `update` did not find it.
    func key(of id: Int64) -> SeriesKey? { state.withLock { $0.shelf.key(of: id) } }

    /// What was not there yet when it was last loaded: rows under later numbers, and under those still open then.
    private func load(
        _ snapshot: StoreState, _ connection: Connection, _ state: inout State
    ) throws(RollupStoreError) {
        if let loaded = state.loaded, loaded.slot >= snapshot.slot { return }
        var condition = ""
        if let loaded = state.loaded {
            let open = (loaded.excluded + [loaded.slot]).map { "\($0)" }.joined(separator: ", ")
            condition = "WHERE number > \(loaded.slot) OR number IN (\(open))"
        }
        var answer = try connection.select(
            SeriesRow.columns, "FROM series \(condition) ORDER BY id", "read series")
        while try answer.next() {
            var series = try SeriesRow(&answer).series
            guard state.ids.insert(series.id).inserted else { continue }
            series.key.set = state.sets.insert(series.key.set).memberAfterInsert
            // With several writers one may have been slower with a lower number.
            state.shelf.add(series)
        }
        state.loaded = snapshot
    }
}

struct ClickHouseSnapshot: GenerationalSnapshot {
    let connection: Connection
    let state: StoreState
    let map: GenerationMap
    let memory: SeriesMemory
    let texts: RulesTexts
    let deadline: ContinuousClock.Instant
    /// Events of the first page of a listing: most want few.
    var firstPage = 512

    private var positions: [StoreState.Position] {
        state.positions.filter { $0.generation == GenerationMap.first }
    }

    var watermark: EventTime? {
        get throws { positions.compactMap(\.latest).max().map { EventTime(microseconds: $0) } }
    }

    func series(workspace: String, entity: String?) throws -> [StoredSeries] {
        try memory.series(workspace: workspace, entity: entity, state, connection)
    }

    func retained(_ grain: Grain?) throws -> EventTime? {
        state.retained[grain?.rawValue ?? StoreState.events].map { EventTime(microseconds: $0) }
    }

    func ledger() throws -> [PartitionLedger] {
        positions.map(\.ledger).sorted {
            ($0.partition.topic, $0.partition.partition) < ($1.partition.topic, $1.partition.partition)
        }
    }

    var rulesVersion: Int64 { state.rulesVersion }

    func rulesTimeline() throws -> RulesTimeline { try RulesTimeline.read(state, texts, connection) }

    // MARK: Reconciliation

    func manifests(from: EventTime, to: EventTime) throws -> [Manifest] {
        var answer = try select(
            ["minute_us", "proxy", "lane", "serial", "max(accepted)", "max(recorded)"],
            "FROM manifests WHERE \(Self.between) AND \(state.manifestCondition) "
                + "GROUP BY minute_us, proxy, lane, serial ORDER BY minute_us, proxy, lane, serial",
            "read manifests", Self.between(from, to))
        var all: [Manifest] = []
        while try answer.next() {
            let minute = EventTime(microseconds: try answer.integer())
            var part = Manifest(
                proxy: try answer.text(), minute: minute, lane: try answer.integer(), serial: try answer.integer(),
                accepted: try answer.integer(), recorded: try answer.integer(), dropped: 0)
            part.dropped = part.accepted - min(part.accepted, part.recorded)
            all.append(part)
        }
        return all
    }

    func proxyMinutes(from: EventTime, to: EventTime) throws -> [ProxyMinute] {
        let redriven = try redriven(from: from, to: to)
        var answer = try select(
            ["minute_us", "proxy", "topic", "partition"] + ClickHouseRollupWriter.minuteSums.map(\.1),
            "FROM proxy_minutes WHERE \(Self.between) AND \(state.proxyMinuteCondition) "
                + "GROUP BY minute_us, proxy, topic, partition ORDER BY minute_us, proxy, topic, partition",
            "read counts by minute", Self.between(from, to))
        var all: [ProxyMinute] = []
        while try answer.next() {
            let place = try Place(&answer)
            let applied: Int64 = try answer.integer()
            let duplicates: Int64 = try answer.integer()
            let deadLettered: Int64 = try answer.integer()
            let first = Offset(try answer.integer())
            let next = Offset(try answer.integer())
            let changed: Int64 = try answer.integer()
            let again = redriven[place]
            all.append(
                ProxyMinute(
                    proxy: place.proxy, minute: EventTime(microseconds: place.minute), partition: place.partition,
                    first: first, next: next, applied: applied, duplicates: duplicates,
                    deadLettered: deadLettered - (again?.count ?? 0),
                    changed: EventTime(microseconds: max(changed, again?.last ?? changed))))
        }
        return all
    }

    private struct Place: Hashable {
        var minute: Int64
        var proxy: String
        var partition: TopicPartition

        init(_ row: inout Answer) throws(RollupStoreError) {
            minute = try row.integer()
            proxy = try row.text()
            partition = TopicPartition(topic: try row.text(), partition: try row.integer())
        }
    }

    /// Dead letters that are on their way again: their records count anew when they come. How many, and when the last
    /// was sent.
    private func redriven(from: EventTime, to: EventTime) throws -> [Place: (count: Int64, last: Int64)] {
        var answer = try select(
            ["assumeNotNull(minute_us)", "proxy", "topic", "partition", "toInt64(count())", "max(mark_us)"],
            "FROM dead_letters INNER JOIN (\(ClickHouseDeadLetters.marked(state))) AS sent "
                + "USING (topic, partition, source_offset) WHERE mark_us > 0 AND minute_us IS NOT NULL AND \(Self.between) "
                + "AND \(state.condition) GROUP BY minute_us, proxy, topic, partition",
            "read dead letters that were sent again", Self.between(from, to))
        var all: [Place: (count: Int64, last: Int64)] = [:]
        while try answer.next() { all[try Place(&answer)] = (try answer.integer(), try answer.integer()) }
        return all
    }

    private static let between = "minute_us >= {from:Int64} AND minute_us < {to:Int64}"

    private static func between(_ from: EventTime, _ to: EventTime) -> [(name: String, value: String)] {
        [("from", "\(from.microseconds)"), ("to", "\(to.microseconds)")]
    }

    private func select(
        _ columns: [String], _ rest: String, _ tried: String, _ parameters: [(name: String, value: String)]
    ) throws(RollupStoreError) -> Answer {
        guard ContinuousClock.now < deadline else {
            throw RollupStoreError(
                code: .unavailable, tried: tried, reason: "the read has lasted too long for its rows to be kept",
                next: "Ask for a shorter range.")
        }
        return try connection.select(columns, rest, tried, parameters: parameters)
    }

    private static func list(_ numbers: [Int64]) -> String { numbers.map { "\($0)" }.joined(separator: ", ") }

    // MARK: Rollups

    func scanRollups(
        of generation: Int64, grain: Grain, from: Int32, to: Int32, series: SeriesSelection, withBins: Bool,
        _ body: (StoredRollup) -> Void
    ) throws {
        var condition =
            "generation = {generation:Int64} AND bucket >= {from:Int32} AND bucket < {to:Int32} "
            + "AND \(state.condition(of: grain))"
        if case .only(let wanted) = series {
            if wanted.isEmpty { return }
            condition += " AND series IN (\(Self.list(wanted)))"
        }
        // The table's order: sums come out one after the other, and none waits in memory for the rest.
        var answer = try select(
            ["bucket", "series"] + ClickHouseRollupWriter.measureNames.map { "sum(\($0))" }
                + (withBins ? ["sumMap(bin_codes, bin_counts)"] : []),
            "FROM rollups WHERE \(condition) GROUP BY generation, grain, bucket, series "
                + "SETTINGS optimize_aggregation_in_order = 1", "read rollups",
            [
                ("generation", "\(generation)"), ("from", "\(from)"), ("to", "\(to)"),
            ])
        while try answer.next() {
            let bucket: Int32 = try answer.integer()
            let series: Int64 = try answer.integer()
            let measures = try Measures(&answer)
            body(
                StoredRollup(
                    bucket: bucket, series: series, measures: measures, bins: withBins ? try Self.bins(&answer) : []))
        }
    }

    private static func bins(_ row: inout Answer) throws(RollupStoreError) -> [SketchBin] {
        let codes = try row.array { (row) throws(RollupStoreError) in try row.integer(UInt32.self) }
        let counts = try row.array { (row) throws(RollupStoreError) in try row.integer(Int64.self) }
        var bins: [SketchBin] = []
        bins.reserveCapacity(codes.count)
        for (code, count) in zip(codes, counts) where count != 0 {
            guard let bin = BinCode.decode(code, count: count) else { throw SeriesRow.unknownCode }
            bins.append(bin)
        }
        return bins
    }

    // MARK: Events

    private static let eventColumns = [
        "time_us", "id", "series", "status", "proxy", "request_model", "response_model", "error_type", "finish_reason",
        "streamed", "trace_id", "span_id", "parent_span_id", "input_tokens", "output_tokens", "cached_tokens",
        "reasoning_tokens", "usage_source", "cost_nano_usd", "price_version", "request_bytes", "response_bytes",
        "latency_us", "first_token_us", "upstream_us", "overhead_us", "metadata_status", "metadata_sources",
        "metadata_conflicts", "metadata_raw", "metadata_rejected", "metadata_extra",
    ]

    /// Of the last page: a long scan makes few requests. Where events are revised, a page of them waits in memory.
    private static let longestPage = 65_536
    private static let longestRevisedPage = 8_192

    func scanEvents(
        of generation: Int64, from: EventTime, to: EventTime, before: (time: EventTime, id: EventID)?,
        series: SeriesSelection, having: [UInt32]?, _ body: (StoredEvent) throws -> Bool
    ) throws -> Bool {
        let revisions = state.revisions(of: generation, from: from, to: to)
        let isRevised = try isRevised(revisions)
        var condition = state.eventCondition(from: from, to: to)
        if let having {
            let isIndexed = Self.isIndexed(having)
            // Each of the two by its filter, and then by the index on ids.
            condition +=
                isRevised
                ? " AND id IN (SELECT id FROM events WHERE \(state.eventCondition(from: from, to: to)) AND \(isIndexed) "
                    + "UNION ALL SELECT id \(revisions) AND \(isIndexed))"
                : " AND \(isIndexed)"
        }
        if case .only(let wanted) = series {
            if wanted.isEmpty { return true }
            let isWanted = "series IN (\(Self.list(wanted)))"
            condition +=
                isRevised
                ? " AND (id IN (SELECT id \(revisions) AND \(isWanted)) "
                    + "OR (\(isWanted) AND id NOT IN (SELECT id \(revisions))))"
                : " AND \(isWanted)"
        }
        var before = before
        var page = firstPage
        while true {
            var parameters: [(name: String, value: String)] = []
            var more = condition
            if let before {
                // The first half lets the table's order find the place.
                more +=
                    " AND time_us <= {last:Int64} AND (time_us < {last:Int64} OR id < toFixedString(unhex({id:String}), 16))"
                parameters = [("last", "\(before.time.microseconds)"), ("id", Self.digits(before.id))]
            }
            var answer = try select(
                Self.eventColumns, "FROM events WHERE \(more) ORDER BY time_us DESC, id DESC LIMIT \(page)",
                "read events", parameters)
            var count = 0
            var waiting: [StoredEvent] = []
            while try answer.next() {
                let event = try Self.event(&answer)
                count += 1
                before = (event.event.time, event.event.id)
                if isRevised { waiting.append(event) } else if try !body(event) { return false }
            }
            try revise(&waiting, generation)
            for event in waiting where try !body(event) { return false }
            if count < page { return true }
            page = min(page * 4, isRevised ? Self.longestRevisedPage : Self.longestPage)
        }
    }

    /// Of a row with one of the pairs, or of which they are not known.
    private static func isIndexed(_ having: [UInt32]) -> String {
        let numbers = Set(having + [EventPairs.unsaid]).sorted().map { "\($0)" }.joined(separator: ", ")
        return "hasAny(pair_hashes, CAST([\(numbers)], 'Array(UInt32)'))"
    }

    /// Of all generations' revisions, where there are any.
    func countEvents(from: EventTime, to: EventTime, having: [UInt32], atMost limit: Int) throws -> Int {
        let isIndexed = Self.isIndexed(having)
        var rows = ["FROM events WHERE \(state.eventCondition(from: from, to: to)) AND \(isIndexed)"]
        for replay in state.replays {
            rows.append("\(state.revisions(of: replay.generation, from: from, to: to)) AND \(isIndexed)")
        }
        var count = 0
        for rows in rows where count < limit {
            var answer = try select(
                ["toInt64(count())"], "FROM (SELECT 1 \(rows) LIMIT \(limit - count))", "count events", [])
            if try answer.next() { count += Int(try answer.integer(Int64.self)) }
        }
        return count
    }

    func event(id: EventID) throws -> StoredEvent? {
        var answer = try select(
            Self.eventColumns,
            "FROM events WHERE id = toFixedString(unhex({id:String}), 16) AND \(state.eventCondition) LIMIT 1",
            "read an event", [("id", Self.digits(id))])
        guard try answer.next() else { return nil }
        var found = [try Self.event(&answer)]
        if !state.replays.isEmpty { try revise(&found, map.generation(at: found[0].event.time)) }
        return found[0]
    }

    /// The events with these places, in ascending order, as ingest has made them.
    func events(at places: String, limit: Int) throws(RollupStoreError) -> [StoredEvent] {
        var answer = try select(
            Self.eventColumns,
            "FROM events WHERE (time_us, id) IN (\(places)) AND \(state.condition) "
                + "ORDER BY time_us, id LIMIT \(limit)", "read events", [])
        var all: [StoredEvent] = []
        while try answer.next() { all.append(try Self.event(&answer)) }
        return all
    }

    private func isRevised(_ revisions: String) throws(RollupStoreError) -> Bool {
        if state.replays.isEmpty { return false }
        var answer = try select(["toUInt8(1)"], "\(revisions) LIMIT 1", "look for revisions", [])
        return try answer.next()
    }

    /// What a generation makes of these events, which are in order of time, one way or the other.
    private func revise(_ events: inout [StoredEvent], _ generation: Int64) throws(RollupStoreError) {
        guard let a = events.first?.event.time, let b = events.last?.event.time else { return }
        let places = Dictionary(zip(events.map(\.event.id), events.indices)) { first, _ in first }
        var answer = try select(
            [
                "id", "series", "cost_nano_usd", "price_version", "metadata_status", "metadata_conflicts",
                "metadata_raw", "metadata_extra",
            ],
            state.revisions(of: generation, from: min(a, b), to: EventTime(microseconds: max(a, b).microseconds + 1)),
            "read revisions", [])
        while try answer.next() {
            let id = try EventID(&answer)
            let series: Int64 = try answer.integer()
            let cost = try answer.optionalInteger(Int64.self).map { NanoUSD($0) }
            let priceVersion = try answer.text()
            let status = try Self.known(MetadataStatus(rawValue: try answer.integer()))
            let conflicts: UInt32 = try answer.integer()
            let raw = try answer.byteString()
            let extra = try answer.byteString()
            guard let place = places[id] else { continue }
            events[place].series = series
            events[place].event.cost = cost
            events[place].event.priceVersion = priceVersion
            events[place].event.metadataStatus = status
            events[place].event.metadataConflicts = conflicts
            events[place].event.metadataRaw = raw
            events[place].extra = extra
            events[place].isRevised = true
        }
    }

    private static func digits(_ id: EventID) -> String {
        [id.high, id.low].map { half in
            let text = String(half, radix: 16)
            return String(repeating: "0", count: 16 - text.count) + text
        }.joined()
    }

    private static func event(_ row: inout Answer) throws(RollupStoreError) -> StoredEvent {
        let time = EventTime(microseconds: try row.integer())
        var event = RequestEvent(id: try EventID(&row), time: time)
        let series: Int64 = try row.integer()
        event.status = try row.integer()
        event.proxy = try row.text()
        event.requestModel = try row.text()
        event.responseModel = try row.text()
        event.errorType = try row.text()
        event.finishReason = try row.text()
        event.streamed = try row.integer(UInt8.self) != 0
        event.traceID = try row.text()
        event.spanID = try row.text()
        event.parentSpanID = try row.text()
        event.inputTokens = try row.integer()
        event.outputTokens = try row.integer()
        event.cachedTokens = try row.integer()
        event.reasoningTokens = try row.integer()
        event.usageSource = try known(UsageSource(rawValue: try row.integer()))
        event.cost = try row.optionalInteger(Int64.self).map { NanoUSD($0) }
        event.priceVersion = try row.text()
        event.requestBytes = try row.integer()
        event.responseBytes = try row.integer()
        event.latencyMicroseconds = try row.optionalInteger(UInt64.self)
        event.firstTokenMicroseconds = try row.optionalInteger(UInt64.self)
        event.upstreamMicroseconds = try row.optionalInteger(UInt64.self)
        event.overheadMicroseconds = try row.optionalInteger(UInt64.self)
        event.metadataStatus = try known(MetadataStatus(rawValue: try row.integer()))
        event.metadataSources = MetadataSources(rawValue: try row.integer())
        event.metadataConflicts = try row.integer()
        event.metadataRaw = try row.byteString()
        event.metadataRejected = try row.byteString()
        return StoredEvent(series: series, event: event, extra: try row.byteString())
    }

    private static func known<Value>(_ value: Value?) throws(RollupStoreError) -> Value {
        guard let value else { throw SeriesRow.unknownCode }
        return value
    }
}

extension Measures {
    /// The measures as they stand in a row.
    fileprivate init(_ row: inout Answer) throws(RollupStoreError) {
        self.init()
        requests = try row.integer()
        inputTokens = try row.integer()
        outputTokens = try row.integer()
        cachedTokens = try row.integer()
        reasoningTokens = try row.integer()
        costNanoUSD = try row.integer()
        requestBytes = try row.integer()
        responseBytes = try row.integer()
        latencyCount = try row.integer()
        latencySum = try row.integer()
        firstTokenCount = try row.integer()
        firstTokenSum = try row.integer()
        overheadCount = try row.integer()
        overheadSum = try row.integer()
    }
}
