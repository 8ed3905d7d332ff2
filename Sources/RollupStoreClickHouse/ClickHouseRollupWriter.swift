// SealedBatch -> rows in several tables that come to count in one step, on a store without transactions.
//
// Rows are never changed. Each is inserted under a number, and a number counts once `commits` says so; until then, and
// for good where it never does, readers pass over its rows. So the only atomic step needed is one row into `commits`: the
// compare-and-set of CommitLog.swift from the state of slot k to that of slot k + 1.
//
// A writer holds one number at a time: that of the slot it won last, which nobody else has. To apply a batch:
//
//   1. The state is that of our last slot, or is read. Where it is not at the batch's offsets under the batch's epochs, or
//      has another rules timeline, the batch is refused: stale epoch.
//   2. Under the number go the new series, the events without those whose ids count already, the delta without these
//      events' share, manifests, counts by proxy and minute, dead letters, and what is pending for replays: one block a
//      table, all at the same time.
//   3. The next state: offsets and ledger moved, the number counts, and the slot is our next number. If we win slot k + 1,
//      all of the batch counts, in every table at once; if another does, we read its state and begin at 3 again where our
//      partitions and the replays under way are as they were and no id of ours has come to count meanwhile; else at 1
//      or 2.
//
// Invariants
//   - A number counts or not for good, and everything under it stands before it counts. Only its holder inserts under it.
//   - Nothing is sent a second time under a number. When an insert fails, whether the server did it is not known and need
//     not be: the number is given up, and stays excluded. The next try has another number.
//   - `acquire` is a step like any other: it raises the epoch, and from that slot on no state follows in which the old
//     owner's batch has been applied.
//
// Failures
//   - Killed before 3 was sent: rows that never count. The successor reads on from the store's offset, and may cut its
//     batches elsewhere: nothing has to be formed again.
//   - Killed after 3 was sent: either it is in the slot, and the whole batch counts, or not, and nothing does.
//   - The answer to 3 is lost: the same row is put into the same slot again before anything else is done, until the slot is
//     seen to be filled. A copy that the server does late comes after the one that holds.
//   - A zombie, however late: its step 3 loses the slot, and it finds its epoch gone. Its rows never count.
//   - The server is killed or loses power: an insert is answered when its files are synced, and the step is put only after
//     all answers. What was not answered is given up.
//
// The price: rows of given-up numbers stay in the tables, and their numbers in `excluded`, 8 bytes for each crash or
// failed try. And deltas are not merged by the server, which knows no numbers: with each chunk of numbers the writer sums what counts
// of the rollups, and of the counts by proxy and minute, into a run under a number of its own, and commits that as step 3 does; runs of a level are summed again
// when there are `fanOut`. What was summed is deleted when no reader can still want it.

import EventCodec
import Events
package import RecordLog
package import RollupStore
import Rollups
import Threading

package final class ClickHouseRollupWriter: RollupWriter {
    /// A row for `commits` that may be there or not.
    private struct Doubt {
        var entry: EntryID
        var state: StoreState
        var deed: Deed?
    }

    /// What a row does, where it may be asked for again.
    enum Deed {
        case batch([PartitionRange], ApplyResult)
        case replay(ReplayDeed)
    }

    /// nil once closed.
    private var connection: Connection?
    /// For inserts that run at the same time.
    private var lines: [Connection] = []
    private let transfers: Transfers
    private let location: ClickHouseLocation
    private let tables: Tables
    private let faults: Connection.Faults?
    let limits: ClickHouseRollupStore.Limits
    private let upkeepFailed: @Sendable (RollupStoreError) -> Void
    private let generation = GenerationMap.first
    /// When a dead letter was filed; for people, nothing is decided by it.
    private let now: @Sendable () -> EventTime
    var numbers = SeriesNumbers()
    let texts = RulesTexts()

    /// As last seen: another writer may have moved on.
    private(set) var state: StoreState?
    /// What we insert under; nil before the first slot is won.
    private(set) var number: Int64?
    /// Nothing was sent under `number` yet.
    private(set) var isUntouched = false
    private var doubt: Doubt?
    /// Partitions of what was summed that nothing counts in any more, and since when we know.
    private var outdated: [Int64: ContinuousClock.Instant] = [:]
    /// The boundaries of what is kept, since when we know them, and whether what is older is deleted.
    var retainedSince: (boundaries: [UInt8: Int64], at: ContinuousClock.Instant, isDeleted: Bool)?
    /// Replays that have ended, since when we know.
    var endedSince: [Int64: ContinuousClock.Instant] = [:]

    init(
        _ location: ClickHouseLocation, _ tables: Tables, _ limits: ClickHouseRollupStore.Limits,
        faults: Connection.Faults?, upkeepFailed: @escaping @Sendable (RollupStoreError) -> Void,
        now: @escaping @Sendable () -> EventTime = { EventTime(microseconds: WallClock.microseconds()) }
    ) throws(RollupStoreError) {
        transfers = try Transfers()
        connection = try Connection(location, transfers: transfers, faults: faults)
        self.location = location
        self.tables = tables
        self.faults = faults
        self.limits = limits
        self.upkeepFailed = upkeepFailed
        self.now = now
    }

    package func close() {
        connection = nil
        lines = []
    }

    package func acquire(_ partitions: [TopicPartition]) throws(RollupStoreError) -> [PartitionPosition] {
        let connection = try opened()
        _ = try settleDoubt(connection)
        while true {
            let seen = try latest(connection)
            var next = seen.next(by: number, settles: isUntouched)
            let positions = next.acquire(partitions, generation: generation)
            if try win(next, nil, connection) { return positions }
        }
    }

    package func apply(_ batch: SealedBatch) throws(RollupStoreError) -> ApplyResult {
        let connection = try opened()
        if case .batch(let ranges, let result) = try settleDoubt(connection), Self.isSame(ranges, batch.ranges) {
            return result
        }
        let result = try write(batch, connection)
        keepUp(connection)
        return result
    }

    /// After a step: sums and deletes what is due.
    func keepUp(_ connection: Connection) {
        if let state, let number, number % state.chunkSize == 0 {
            do {
                try sumUp(state, number, connection)
                try tidy(connection)
            } catch let error {
                // The step counts already. What was not done is due again a chunk later.
                isUntouched = false
                upkeepFailed(error)
            }
        }
    }

    private func write(_ batch: SealedBatch, _ connection: Connection) throws(RollupStoreError) -> ApplyResult {
        while true {
            let (base, number) = try begin(batch, connection)
            failPoint("begun")
            isUntouched = false
            var ids = BatchIDs(batch.events)
            ids.remove(try find(ids, upTo: base.highestID, base.condition, connection))
            let (series, new) = try numbers.resolve(batch.series, number, connection)
            let scope = base.scope
            // The largest first: the server takes it in while the others are put together.
            var inserts = Inserts(number)
            try inserts.start("events", eventRows(batch, ids.kept, series, number), self)
            failPoint("events_inserted")
            try inserts.start("rollups", rollupRows(batch, ids, series, scope, number, base.chunk(of: number)), self)
            try inserts.start("series", new, self)
            try inserts.start("manifests", manifestRows(batch.manifests, number), self)
            try inserts.start(
                "proxy_minutes",
                minuteRows(batch.minutes(withDuplicates: ids.left), number, base.chunk(of: number)), self)
            try inserts.start("dead_letters", deadLetterRows(batch, number), self)
            let pending = scope.pending(batch, withDuplicates: ids.left)
            try inserts.start("replay_pending", Self.placeRows(pending, number), self)
            try inserts.finish()
            failPoint("rollups_added")
            numbers.inserted()
            let tallies = ids.tallies(batch)
            let result = ApplyResult(
                applied: tallies.reduce(0) { $0 + $1.applied }, duplicates: tallies.reduce(0) { $0 + $1.duplicates })

            var before = base
            while true {
                var next = before.next(by: number, settles: true)
                next.apply(batch.ranges, tallies, generation: generation)
                failPoint("counted")
                if try win(next, .batch(batch.ranges, result), connection) {
                    failPoint("committed")
                    return result
                }
                let seen = try latest(connection)
                if let refusal = refusal(batch, seen) { throw refusal }
                let isOvertaken = try holds(
                    ids, upTo: seen.highestID, anyOf: Self.newlyCounting(seen, since: before), connection)
                if isOvertaken || !seen.isUsable(number) || seen.scope != scope { break }
                before = seen
            }
        }
    }

    /// The state to build on, and a number that nothing was sent under.
    private func begin(
        _ batch: SealedBatch, _ connection: Connection
    ) throws(RollupStoreError) -> (StoreState, Int64) {
        while true {
            var seen: StoreState
            if let state { seen = state } else { seen = try latest(connection) }
            if refusal(batch, seen) != nil {
                seen = try latest(connection)
                if let refusal = refusal(batch, seen) { throw refusal }
            }
            if let number, isUntouched, seen.isUsable(number) { return (seen, number) }
            _ = try win(seen.next(by: number, settles: isUntouched), nil, connection)
        }
    }

    /// Why a batch does not follow from a state.
    private func refusal(_ batch: SealedBatch, _ state: StoreState) -> RollupStoreError? {
        if let range = state.stale(batch.ranges, generation: generation) { return Self.stale(range) }
        return state.rulesVersion == batch.rulesVersion ? nil : RulesTimeline.stale
    }

    /// The latest state, and a number that something will be sent under from now on.
    func takeNumber(_ connection: Connection) throws(RollupStoreError) -> (state: StoreState, number: Int64) {
        while true {
            let seen = try latest(connection)
            if let number, isUntouched, seen.isUsable(number) {
                isUntouched = false
                return (seen, number)
            }
            _ = try win(seen.next(by: number, settles: isUntouched), nil, connection)
        }
    }

    /// Blocks of one number, at most one a table, on their way at the same time.
    struct Inserts {
        private let number: Int64
        private var pending: [Connection.Pending] = []

        init(_ number: Int64) { self.number = number }

        mutating func start(
            _ table: String, _ block: NativeBlock?, _ writer: ClickHouseRollupWriter
        ) throws(RollupStoreError) {
            guard let block, block.rows > 0 else { return }
            let line = try writer.line(pending.count)
            pending.append(try line.start(block, into: table, token: "\(table)-\(number)"))
        }

        func finish() throws(RollupStoreError) {
            for insert in pending { try insert.finish() }
        }
    }

    /// The connection for the insert of this place among those that run at the same time.
    fileprivate func line(_ place: Int) throws(RollupStoreError) -> Connection {
        while lines.count <= place {
            lines.append(try Connection(location, transfers: transfers, faults: faults))
        }
        return lines[place]
    }

    func opened() throws(RollupStoreError) -> Connection {
        guard let connection else {
            throw RollupStoreError(
                code: .configuration, tried: "write the store", reason: "the writer is closed",
                next: "Open another one.")
        }
        try tables.make(connection)
        return connection
    }

    // MARK: Slots

    func latest(_ connection: Connection) throws(RollupStoreError) -> StoreState {
        guard let row = try CommitLog.latest(connection) else { throw CommitLog.missing }
        guard row.schemaVersion <= ClickHouseRollupStore.schemaVersion else {
            throw RollupStoreError(
                code: .newerSchema, tried: "write the store", reason: "a newer program has taken it over",
                next: "Run the newer program here too.")
        }
        state = row.state
        return row.state
    }

    /// Puts the state into its slot; false where another was first, and then `state` is that one's.
    func win(
        _ next: StoreState, _ deed: Deed?, _ connection: Connection
    ) throws(RollupStoreError) -> Bool {
        doubt = Doubt(entry: .random(), state: next, deed: deed)
        return try resolve(connection)
    }

    private func resolve(_ connection: Connection) throws(RollupStoreError) -> Bool {
        guard let asked = doubt else { return false }
        let winner = try CommitLog.fill(asked.state, asked.entry, connection)
        failPoint("offsets_moved")
        doubt = nil
        state = winner?.state
        guard let winner, winner.entry == asked.entry else { return false }
        number = winner.state.counts(winner.state.slot) ? nil : winner.state.slot
        isUntouched = number != nil
        return true
    }

    /// Before anything else: did the last step take place? What it did, if it did.
    func settleDoubt(_ connection: Connection) throws(RollupStoreError) -> Deed? {
        guard let asked = doubt else { return nil }
        return try resolve(connection) ? asked.deed : nil
    }

    private static func isSame(_ a: [PartitionRange], _ b: [PartitionRange]) -> Bool {
        a.elementsEqual(b) {
            ($0.partition, $0.first, $0.epoch, $0.next) == ($1.partition, $1.first, $1.epoch, $1.next)
        }
    }

    private static func newlyCounting(_ state: StoreState, since before: StoreState) -> [Int64] {
        (before.excluded + Array(before.slot + 1..<max(before.slot + 1, state.slot + 1))).filter { state.counts($0) }
    }

    private static func stale(_ range: PartitionRange) -> RollupStoreError {
        return RollupStoreError(
            code: .staleEpoch, tried: "apply offsets \(range.first.value) to \(range.next.value) of \(range.partition)",
            reason: "the store no longer stands at that offset under epoch \(range.epoch)",
            next: "Another consumer has taken the partition over: let it run, or stop it and start this one again.")
    }

    // MARK: Duplicates

    /// The ids of a batch, and which of its events are the first of theirs.
    private struct BatchIDs {
        private let events: [NormalizedEvent]
        private(set) var kept: [Int] = []
        private(set) var left: [Int] = []

        init(_ events: [NormalizedEvent]) {
            self.events = events
            var seen: Set<EventID> = []
            seen.reserveCapacity(events.count)
            kept.reserveCapacity(events.count)
            for index in events.indices {
                if seen.insert(events[index].fields.id).inserted { kept.append(index) } else { left.append(index) }
            }
        }

        /// Those that the store has already.
        mutating func remove(_ stored: Set<EventID>) {
            if stored.isEmpty { return }
            left += kept.filter { stored.contains(events[$0].fields.id) }
            kept.removeAll { stored.contains(events[$0].fields.id) }
        }

        func tallies(_ batch: SealedBatch) -> [StoreState.Tally] {
            var tallies = [StoreState.Tally](repeating: StoreState.Tally(), count: batch.ranges.count)
            for index in kept {
                let range = Int(events[index].range)
                let time = events[index].fields.time.microseconds
                tallies[range].applied += 1
                tallies[range].highestID = max(tallies[range].highestID, events[index].fields.id)
                tallies[range].latest = max(tallies[range].latest ?? time, time)
            }
            for index in left { tallies[Int(events[index].range)].duplicates += 1 }
            return tallies
        }

        /// Those not above `limit` as hexadecimal digits, one after the other.
        func digits(upTo limit: EventID) -> [UInt8] {
            let symbols = Array("0123456789abcdef".utf8)
            var text: [UInt8] = []
            text.reserveCapacity(kept.count * 32)
            for index in kept where events[index].fields.id <= limit {
                let id = events[index].fields.id
                for half in [id.high, id.low] {
                    for shift in stride(from: 60, through: 0, by: -4) {
                        text.append(symbols[Int(half >> UInt64(shift) & 15)])
                    }
                }
            }
            return text
        }
    }

    /// Which of the ids the events table has under numbers that the condition holds for; none is above `limit`.
    private func find(
        _ ids: BatchIDs, upTo limit: EventID, _ condition: String, _ connection: Connection
    ) throws(RollupStoreError) -> Set<EventID> {
        let digits = ids.digits(upTo: limit)
        if digits.isEmpty { return [] }
        var answer = try connection.select(
            ["id"],
            "FROM events WHERE id IN (SELECT toFixedString(substring(unhex('\(String(decoding: digits, as: UTF8.self))'), number * 16 + 1, 16), 16) "
                + "FROM numbers(\(digits.count / 32))) AND \(condition)", "find copies")
        var found: Set<EventID> = []
        while try answer.next() {
            found.insert(try EventID(&answer))
        }
        return found
    }

    private func holds(
        _ ids: BatchIDs, upTo limit: EventID, anyOf numbers: [Int64], _ connection: Connection
    ) throws(RollupStoreError) -> Bool {
        if numbers.isEmpty { return false }
        let list = numbers.map { "\($0)" }.joined(separator: ", ")
        return try !find(ids, upTo: limit, "number IN (\(list))", connection).isEmpty
    }

    // MARK: Events

    private func eventRows(_ batch: SealedBatch, _ kept: [Int], _ series: [Int64], _ number: Int64) -> NativeBlock {
        let events = batch.events
        func fields(_ row: Int) -> EventFields { events[kept[row]].fields }
        var block = NativeBlock(rows: kept.count, reserve: batch.bytes.count + batch.extras.count + kept.count * 200)
        batch.bytes.withUnsafeBytes { bytes in
            batch.extras.withUnsafeBytes { extras in
                func text(_ name: String, _ range: (EventFields) -> ByteRange) {
                    block.strings(name) { UnsafeRawBufferPointer(rebasing: bytes[range(fields($0)).range]) }
                }
                block.integers("time_us") { fields($0).time.microseconds }
                block.pairs("id", "FixedString(16)") { (fields($0).id.high, fields($0).id.low) }
                block.integers("series") { series[Int(events[kept[$0]].series)] }
                block.integers("status") { fields($0).status }
                text("proxy") { $0.proxy }
                text("request_model") { $0.requestModel }
                text("response_model") { $0.responseModel }
                text("error_type") { $0.errorType }
                text("finish_reason") { $0.finishReason }
                block.integers("streamed") { fields($0).streamed ? 1 as UInt8 : 0 }
                text("trace_id") { $0.traceID }
                text("span_id") { $0.spanID }
                text("parent_span_id") { $0.parentSpanID }
                block.integers("input_tokens") { fields($0).inputTokens }
                block.integers("output_tokens") { fields($0).outputTokens }
                block.integers("cached_tokens") { fields($0).cachedTokens }
                block.integers("reasoning_tokens") { fields($0).reasoningTokens }
                block.integers("usage_source") { fields($0).usageSource.rawValue }
                block.optionalIntegers("cost_nano_usd") { fields($0).cost?.amount }
                text("price_version") { $0.priceVersion }
                block.integers("request_bytes") { fields($0).requestBytes }
                block.integers("response_bytes") { fields($0).responseBytes }
                block.optionalIntegers("latency_us") { fields($0).latencyMicroseconds }
                block.optionalIntegers("first_token_us") { fields($0).firstTokenMicroseconds }
                block.optionalIntegers("upstream_us") { fields($0).upstreamMicroseconds }
                block.optionalIntegers("overhead_us") { fields($0).overheadMicroseconds }
                block.integers("metadata_status") { events[kept[$0]].metadataStatus.rawValue }
                block.integers("metadata_sources") { fields($0).metadataSources.rawValue }
                block.integers("metadata_conflicts") { fields($0).metadataConflicts }
                text("metadata_raw") { $0.metadataRaw }
                text("metadata_rejected") { $0.metadataRejected }
                block.strings("metadata_extra") {
                    UnsafeRawBufferPointer(rebasing: extras[events[kept[$0]].extra.range])
                }
                block.arrays("pair_hashes", { batch.pairs[events[kept[$0]].pairs.range] }) { $0 }
                block.constant("number", number)
            }
        }
        return block
    }

    // MARK: Rollups

    private static let measureColumns: [(name: String, value: @Sendable (Measures) -> Int64)] = [
        ("requests", { $0.requests }),
        ("input_tokens", { $0.inputTokens }),
        ("output_tokens", { $0.outputTokens }),
        ("cached_tokens", { $0.cachedTokens }),
        ("reasoning_tokens", { $0.reasoningTokens }),
        ("cost_nano_usd", { $0.costNanoUSD }),
        ("request_bytes", { $0.requestBytes }),
        ("response_bytes", { $0.responseBytes }),
        ("latency_count", { $0.latencyCount }),
        ("latency_sum_us", { $0.latencySum }),
        ("first_token_count", { $0.firstTokenCount }),
        ("first_token_sum_us", { $0.firstTokenSum }),
        ("overhead_count", { $0.overheadCount }),
        ("overhead_sum_us", { $0.overheadSum }),
    ]
    static let measureNames = measureColumns.map(\.name)

    private func rollupRows(
        _ batch: SealedBatch, _ ids: BatchIDs, _ series: [Int64], _ scope: ReplayScope, _ number: Int64, _ chunk: Int64
    ) -> NativeBlock {
        var delta = batch.delta(withDuplicates: ids.left)
        if !ids.left.isEmpty { delta.dropEmptyRows() }
        return rollupRows(delta, series, number, chunk) { scope.map.generation(at: $0.grain.start(of: $0.bucket)) }
    }

    /// `series` are the numbers of the delta's; `generation` says which rollups a row is of.
    func rollupRows(
        _ delta: RollupDelta, _ series: [Int64], _ number: Int64, _ chunk: Int64,
        generation: (RollupDelta.Row) -> Int64
    ) -> NativeBlock {
        let rows = delta.rows
        var block = NativeBlock(rows: rows.count, reserve: rows.count * 250)
        block.integers("generation") { generation(rows[$0]) }
        block.integers("grain") { rows[$0].grain.rawValue }
        block.integers("bucket") { rows[$0].bucket }
        block.integers("series") { series[Int(rows[$0].series)] }
        for (name, value) in Self.measureColumns { block.integers(name) { value(rows[$0].measures) } }
        block.arrays("bin_codes", { rows[$0].bins }, BinCode.encode)
        block.arrays("bin_counts", { rows[$0].bins }, \.count)
        block.constant("chunk", chunk)
        block.constant("number", number)
        return block
    }

    /// Sums what is due into a run, by a step of its own; where another writer was first, nothing changes.
    private func sumUp(_ seen: StoreState, _ number: Int64, _ connection: Connection) throws(RollupStoreError) {
        guard let summing = seen.dueSumming(fanOut: limits.fanOut) else { return }
        isUntouched = false
        let bins = "sumMap(bin_codes, bin_counts)"
        let sums =
            Self.measureNames.map { ($0, "sum(\($0))") }
            + [("bin_codes", "tupleElement(\(bins), 1)"), ("bin_counts", "tupleElement(\(bins), 2)")]
        for (table, keys, sums) in [
            ("rollups", ["generation", "grain", "bucket", "series"], sums),
            ("proxy_minutes", Self.minuteKeys, Self.minuteSums),
        ] {
            try connection.run(
                "INSERT INTO \(table) (\((keys + sums.map(\.0)).joined(separator: ", ")), chunk, number) "
                    + "SELECT \((keys + sums.map(\.1)).joined(separator: ", ")), \(-number), \(number) FROM \(table) "
                    + "WHERE \(seen.condition(of: summing)) GROUP BY \(keys.joined(separator: ", ")) "
                    + "SETTINGS \(try connection.insertSettings(table))optimize_aggregation_in_order = 1, "
                    + "insert_deduplicate = 0", "sum \(table)")
        }
        var before = seen
        while true {
            var next = before.next(by: number, settles: true)
            next.replace(summing, by: number)
            if try win(next, nil, connection) { return }
            before = try latest(connection)
            guard before.allows(summing), before.isUsable(number) else { return }
        }
    }

    /// Deletes what nothing counts in any more and no read can still want.
    private func tidy(_ connection: Connection) throws(RollupStoreError) {
        guard let state else { return }
        let first = state.chunk(of: state.floor + 1)
        let present = Set(try partitions(of: "rollups", connection) + partitions(of: "proxy_minutes", connection))
        // A run that is not named, and is older than the floor, can no longer come to be named.
        let over = present.filter { chunk in
            chunk < 0 ? -chunk <= state.floor && !state.runs.contains { $0.number == -chunk } : chunk < first
        }
        outdated = outdated.filter { over.contains($0.key) }
        for chunk in over {
            let since = outdated[chunk] ?? .now
            outdated[chunk] = since
            if since.duration(to: .now) < .seconds(limits.graceTime) { continue }
            for table in ["rollups", "proxy_minutes"] {
                try connection.run(
                    "ALTER TABLE \(connection.everywhere(table)) DROP PARTITION \(chunk)", "delete summed \(table)")
            }
        }
        let oldest = state.slot / CommitLog.slotsTogether - 1
        for old in try partitions(of: "commits", connection) where old < oldest {
            try connection.run("ALTER TABLE commits DROP PARTITION \(old)", "delete old commits")
        }
    }

    func partitions(of table: String, _ connection: Connection) throws(RollupStoreError) -> [Int64] {
        let parts =
            location.cluster?.parts(of: table)
            ?? "system.parts WHERE database = currentDatabase() AND table = '\(table)'"
        var answer = try connection.select(
            ["toInt64(partition)"], "FROM \(parts) AND active AND rows > 0 GROUP BY partition", "list partitions")
        var all: [Int64] = []
        while try answer.next() { all.append(try answer.integer()) }
        return all
    }

    // MARK: Manifests, minutes and dead letters

    private func manifestRows(_ manifests: [Manifest], _ number: Int64) -> NativeBlock {
        var block = NativeBlock(rows: manifests.count)
        block.integers("minute_us") { manifests[$0].minute.microseconds }
        block.strings("proxy") { Array(manifests[$0].proxy.utf8) }
        block.integers("lane") { manifests[$0].lane }
        block.integers("serial") { manifests[$0].serial }
        block.integers("accepted") { manifests[$0].accepted }
        block.integers("recorded") { manifests[$0].recorded }
        block.constant("number", number)
        return block
    }

    private static let minuteKeys = ["minute_us", "proxy", "topic", "partition"]
    /// Of `proxy_minutes`: how the rows of one place become one.
    static let minuteSums = [
        ("applied", "sum(applied)"), ("duplicates", "sum(duplicates)"), ("dead_lettered", "sum(dead_lettered)"),
        ("first_offset", "min(first_offset)"), ("next_offset", "max(next_offset)"), ("changed_us", "max(changed_us)"),
    ]

    private func minuteRows(_ minutes: [ProxyMinute], _ number: Int64, _ chunk: Int64) -> NativeBlock {
        var block = NativeBlock(rows: minutes.count)
        block.integers("minute_us") { minutes[$0].minute.microseconds }
        block.strings("proxy") { Array(minutes[$0].proxy.utf8) }
        block.strings("topic") { Array(minutes[$0].partition.topic.utf8) }
        block.integers("partition") { minutes[$0].partition.partition }
        block.integers("applied") { minutes[$0].applied }
        block.integers("duplicates") { minutes[$0].duplicates }
        block.integers("dead_lettered") { minutes[$0].deadLettered }
        block.integers("first_offset") { minutes[$0].first.value }
        block.integers("next_offset") { minutes[$0].next.value }
        block.constant("changed_us", now().microseconds)
        block.constant("chunk", chunk)
        block.constant("number", number)
        return block
    }

    private func deadLetterRows(_ batch: SealedBatch, _ number: Int64) -> NativeBlock {
        let letters = batch.deadLetters
        let time = now().microseconds
        var block = NativeBlock(rows: letters.count)
        block.strings("topic") { Array(letters[$0].source.topic.utf8) }
        block.integers("partition") { letters[$0].source.partition }
        block.integers("source_offset") { letters[$0].offset.value }
        block.constant("time_us", time)
        block.strings("code") { Array(letters[$0].code.rawValue.utf8) }
        block.strings("reason") { Array(letters[$0].reason.utf8) }
        block.strings("key") { letters[$0].key }
        block.strings("value") { letters[$0].value }
        block.strings("proxy") { Array((batch.minute(of: letters[$0])?.proxy ?? "").utf8) }
        block.optionalIntegers("minute_us") { batch.minute(of: letters[$0])?.minute.microseconds }
        block.constant("number", number)
        return block
    }

    /// A step of its own. Ends this writer's numbers: another step begins with a new one.
    func mark(_ sources: [RecordSource], _ mark: Int64) throws(RollupStoreError) {
        if sources.isEmpty { return }
        let connection = try opened()
        _ = try settleDoubt(connection)
        while try !win(latest(connection).next(by: number, settles: isUntouched), nil, connection) {}
        guard let number else { return }
        isUntouched = false
        var block = NativeBlock(rows: sources.count)
        block.strings("topic") { Array(sources[$0].partition.topic.utf8) }
        block.integers("partition") { sources[$0].partition.partition }
        block.integers("source_offset") { sources[$0].offset.value }
        block.constant("time_us", mark)
        block.constant("number", number)
        try connection.insert(block, into: "redrives", token: "redrives-\(number)")
        while try !win(latest(connection).next(by: number, settles: true, isLast: true), nil, connection) {}
    }
}

/// A bin's place as one number, as it stands in `bin_codes`: rising with kind and index.
enum BinCode {
    static func encode(_ bin: SketchBin) -> UInt32 {
        UInt32(bin.kind.rawValue) << 16 | UInt32(truncatingIfNeeded: Int(bin.index) + 32_768)
    }

    static func decode(_ code: UInt32, count: Int64) -> SketchBin? {
        guard let kind = SketchKind(rawValue: UInt8(truncatingIfNeeded: code >> 16)), code >> 16 < 256 else {
            return nil
        }
        return SketchBin(kind: kind, index: Int16(truncatingIfNeeded: Int(code & 0xFFFF) - 32_768), count: count)
    }
}
