// SealedBatch -> one transaction on the embedded store.
//
// Order within it: the compare-and-set of the offsets first, so that a stale writer stops before it has written
// anything; then series, events (which tell the duplicates), rollups less the duplicates' share, manifests, dead
// letters, the counts by proxy and minute, and the ledger's. Whatever fails, all of it is rolled back.

import EventCodec
import Events
package import RecordLog
package import RollupStore
import Rollups
import Threading

package final class SQLiteRollupWriter: RollupWriter {
    /// nil once closed.
    private var connection: Connection?
    private let lock: FileLock
    private let checkpointer: Checkpointer
    private var numbers = SeriesNumbers()
    private var pairs = PairIndex()
    let generation: Int64 = 1
    /// When a dead letter was filed; for people, nothing is decided by it.
    private let now: () -> EventTime
    /// The id of the row that is being inserted: bound once a statement, rewritten in place.
    private let idBytes = UnsafeMutableRawBufferPointer.allocate(byteCount: 16, alignment: 8)

    init(
        _ connection: Connection, _ lock: FileLock, _ checkpointer: Checkpointer, _ schedule: CheckpointSchedule,
        now: @escaping () -> EventTime = { EventTime(microseconds: WallClock.microseconds()) }
    ) {
        self.connection = connection
        self.lock = lock
        self.checkpointer = checkpointer
        self.now = now
        var schedule = schedule
        connection.onCommit { [unowned connection] pages in
            switch schedule.committed(pages: pages) {
            case .none: break
            case .beside: checkpointer.request()
            case .here: connection.checkpoint()
            }
        }
    }

    deinit {
        checkpointer.stop()
        connection = nil
        idBytes.deallocate()
    }

    package func close() {
        checkpointer.stop()
        connection = nil
        lock.release()
    }

    package func acquire(_ partitions: [TopicPartition]) throws(RollupStoreError) -> [PartitionPosition] {
        try transaction { connection throws(RollupStoreError) in
            let statement = try connection.statement(
                """
                INSERT INTO offsets (generation, topic, partition, start_offset, next_offset, epoch)
                VALUES (?1, ?2, ?3, 0, 0, 1)
                ON CONFLICT DO UPDATE SET epoch = epoch + 1 RETURNING next_offset, epoch
                """)
            var positions: [PartitionPosition] = []
            for partition in partitions {
                statement.bind(1, generation)
                statement.bind(2, copying: partition.topic)
                statement.bind(3, Int64(partition.partition))
                defer { statement.reset() }
                guard try statement.step() else { continue }
                let next = Offset(statement.integer(0))
                positions.append(PartitionPosition(partition: partition, next: next, epoch: statement.integer(1)))
                // The row's write is done only when the statement has run to its end.
                while try statement.step() {}
            }
            return positions
        }
    }

    package func apply(_ batch: SealedBatch) throws(RollupStoreError) -> ApplyResult {
        do {
            let result = try transaction { connection throws(RollupStoreError) in try write(batch, connection) }
            failPoint("committed")
            return result
        } catch {
            numbers.rolledBack()
            throw error
        }
    }

    func transaction<Result>(
        _ body: (Connection) throws(RollupStoreError) -> Result
    ) throws(RollupStoreError) -> Result {
        guard let connection else {
            throw RollupStoreError(
                code: .configuration, tried: "write the store", reason: "the writer is closed",
                next: "Open another one.")
        }
        try connection.statement("BEGIN IMMEDIATE").run()
        do {
            let result = try body(connection)
            try connection.statement("COMMIT").run()
            return result
        } catch {
            // SQLite has rolled back by itself after some errors; after the others this cannot fail in a way that
            // matters: the next BEGIN would say so.
            if connection.isInTransaction { try connection.statement("ROLLBACK").run() }
            throw error
        }
    }

    private func write(_ batch: SealedBatch, _ connection: Connection) throws(RollupStoreError) -> ApplyResult {
        failPoint("begun")
        for range in batch.ranges { try moveOffset(range, connection) }
        try compareRules(batch, connection)
        let scope = try ReplayScope.read(connection)
        failPoint("offsets_moved")
        let series = try numbers.resolve(batch.series, connection)
        var tallies = [Tally](repeating: Tally(), count: batch.ranges.count)
        let duplicates = try insertEvents(batch, series, &tallies, connection)
        try indexPairs(batch, duplicates, connection)
        failPoint("events_inserted")
        let delta = batch.delta(withDuplicates: duplicates)
        try notePending(batch, duplicates, scope, connection)
        try RollupRows.add(delta, series, connection) { scope.map.generation(at: $0.grain.start(of: $0.bucket)) }
        failPoint("rollups_added")
        try putManifests(batch.manifests, connection)
        try putDeadLetters(batch, connection)
        try addMinutes(batch.minutes(withDuplicates: duplicates), connection)
        for (range, tally) in zip(batch.ranges, tallies) { try count(range, tally, connection) }
        failPoint("counted")
        return ApplyResult(
            applied: tallies.reduce(0) { $0 + $1.applied }, duplicates: tallies.reduce(0) { $0 + $1.duplicates })
    }

    // MARK: Offsets

    private struct Tally {
        var applied: Int64 = 0
        var duplicates: Int64 = 0
        var latest: Int64?
    }

    /// The compare-and-set: exactly one row, or nothing of the batch happens.
    private func moveOffset(_ range: PartitionRange, _ connection: Connection) throws(RollupStoreError) {
        let statement = try connection.statement(
            """
            UPDATE offsets SET next_offset = ?6
            WHERE generation = ?1 AND topic = ?2 AND partition = ?3 AND next_offset = ?4 AND epoch = ?5
            """)
        statement.bind(1, generation)
        statement.bind(2, copying: range.partition.topic)
        statement.bind(3, Int64(range.partition.partition))
        statement.bind(4, range.first.value)
        statement.bind(5, range.epoch)
        statement.bind(6, range.next.value)
        try statement.run()
        guard connection.changes == 1 else {
            throw RollupStoreError(
                code: .staleEpoch,
                tried: "apply offsets \(range.first.value) to \(range.next.value) of \(range.partition)",
                reason: "the store no longer stands at that offset under epoch \(range.epoch)",
                next: "Another consumer has taken the partition over: let it run, or stop it and start this one again.")
        }
    }

    private func count(_ range: PartitionRange, _ tally: Tally, _ connection: Connection) throws(RollupStoreError) {
        let statement = try connection.statement(
            """
            UPDATE offsets SET applied = applied + ?4, duplicates = duplicates + ?5, manifests = manifests + ?6,
                dead_letters = dead_letters + ?7, skipped = skipped + ?8, lost = lost + ?9,
                max_time_us = max(coalesce(max_time_us, ?10), coalesce(?10, max_time_us))
            WHERE generation = ?1 AND topic = ?2 AND partition = ?3
            """)
        statement.bind(1, generation)
        statement.bind(2, copying: range.partition.topic)
        statement.bind(3, Int64(range.partition.partition))
        statement.bind(4, tally.applied)
        statement.bind(5, tally.duplicates)
        statement.bind(6, range.manifests)
        statement.bind(7, range.deadLetters)
        statement.bind(8, range.skipped)
        statement.bind(9, range.lost)
        statement.bind(10, tally.latest)
        try statement.run()
    }

    // MARK: Events

    private static let insertEvent =
        """
        INSERT INTO events (time_us, id, series, status, proxy, request_model, response_model, error_type,
            finish_reason, streamed, trace_id, span_id, parent_span_id, input_tokens, output_tokens, cached_tokens,
            reasoning_tokens, usage_source, cost_nano_usd, price_version, request_bytes, response_bytes, latency_us,
            first_token_us, upstream_us, overhead_us, metadata_status, metadata_sources, metadata_conflicts,
            metadata_raw, metadata_rejected, metadata_extra)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22,
            ?23, ?24, ?25, ?26, ?27, ?28, ?29, ?30, ?31, ?32)
        ON CONFLICT DO NOTHING
        """

    /// The indices of the events that the store already had, or that came before in the batch.
    private func insertEvents(
        _ batch: SealedBatch, _ series: [Int64], _ tallies: inout [Tally], _ connection: Connection
    ) throws(RollupStoreError) -> [Int] {
        let statement = try connection.statement(Self.insertEvent)
        statement.bindBlob(2, UnsafeRawBufferPointer(idBytes))
        var duplicates: [Int] = []
        try batch.bytes.withUnsafeBufferPointer { bytes throws(RollupStoreError) in
            try batch.extras.withUnsafeBufferPointer { extras throws(RollupStoreError) in
                let bytes = UnsafeRawBufferPointer(bytes)
                let extras = UnsafeRawBufferPointer(extras)
                for index in batch.events.indices {
                    let event = batch.events[index]
                    bind(event, bytes, extras, series[Int(event.series)], to: statement)
                    try statement.run()
                    let range = Int(event.range)
                    if connection.changes == 1 {
                        tallies[range].applied += 1
                        let time = event.fields.time.microseconds
                        tallies[range].latest = max(tallies[range].latest ?? time, time)
                    } else {
                        tallies[range].duplicates += 1
                        duplicates.append(index)
                    }
                }
            }
        }
        return duplicates
    }

    /// Of those that were added. `duplicates` are ascending.
    private func indexPairs(
        _ batch: SealedBatch, _ duplicates: [Int], _ connection: Connection
    ) throws(RollupStoreError) {
        var next = 0
        for (index, event) in batch.events.enumerated() {
            if next < duplicates.count && duplicates[next] == index {
                next += 1
                continue
            }
            for pair in batch.pairs[event.pairs.range] { pairs.note(pair, event.fields.time) }
        }
        try pairs.write(connection)
    }

    private func bind(
        _ event: NormalizedEvent, _ bytes: UnsafeRawBufferPointer, _ extras: UnsafeRawBufferPointer, _ series: Int64,
        to statement: Statement
    ) {
        func text(_ range: ByteRange) -> UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: bytes[range.range]) }
        let fields = event.fields
        put(fields.id)
        statement.bind(1, fields.time.microseconds)
        statement.bind(3, series)
        statement.bind(4, Int64(fields.status))
        statement.bindText(5, text(fields.proxy))
        statement.bindText(6, text(fields.requestModel))
        statement.bindText(7, text(fields.responseModel))
        statement.bindText(8, text(fields.errorType))
        statement.bindText(9, text(fields.finishReason))
        statement.bind(10, fields.streamed ? 1 : 0)
        statement.bindText(11, text(fields.traceID))
        statement.bindText(12, text(fields.spanID))
        statement.bindText(13, text(fields.parentSpanID))
        statement.bind(14, Int64(bitPattern: fields.inputTokens))
        statement.bind(15, Int64(bitPattern: fields.outputTokens))
        statement.bind(16, Int64(bitPattern: fields.cachedTokens))
        statement.bind(17, Int64(bitPattern: fields.reasoningTokens))
        statement.bind(18, Int64(fields.usageSource.rawValue))
        statement.bind(19, fields.cost?.amount)
        statement.bindText(20, text(fields.priceVersion))
        statement.bind(21, Int64(bitPattern: fields.requestBytes))
        statement.bind(22, Int64(bitPattern: fields.responseBytes))
        statement.bind(23, fields.latencyMicroseconds.map { Int64(bitPattern: $0) })
        statement.bind(24, fields.firstTokenMicroseconds.map { Int64(bitPattern: $0) })
        statement.bind(25, fields.upstreamMicroseconds.map { Int64(bitPattern: $0) })
        statement.bind(26, fields.overheadMicroseconds.map { Int64(bitPattern: $0) })
        statement.bind(27, Int64(event.metadataStatus.rawValue))
        statement.bind(28, Int64(fields.metadataSources.rawValue))
        statement.bind(29, Int64(fields.metadataConflicts))
        statement.bindText(30, text(fields.metadataRaw))
        statement.bindBlob(31, text(fields.metadataRejected))
        statement.bindText(32, UnsafeRawBufferPointer(rebasing: extras[event.extra.range]))
    }

    private func put(_ id: EventID) {
        idBytes.storeBytes(of: id.high.bigEndian, toByteOffset: 0, as: UInt64.self)
        idBytes.storeBytes(of: id.low.bigEndian, toByteOffset: 8, as: UInt64.self)
    }

    // MARK: Replays

    private func notePending(
        _ batch: SealedBatch, _ duplicates: [Int], _ scope: ReplayScope, _ connection: Connection
    ) throws(RollupStoreError) {
        let insert = try connection.statement(
            "INSERT INTO replay_pending (generation, time_us, id) VALUES (?1, ?2, ?3)")
        insert.bindBlob(3, UnsafeRawBufferPointer(idBytes))
        for (generation, place) in scope.pending(batch, withDuplicates: duplicates) {
            put(place.id)
            insert.bind(1, generation)
            insert.bind(2, place.time.microseconds)
            try insert.run()
        }
    }

    // MARK: Manifests and dead letters

    private func putManifests(_ manifests: [Manifest], _ connection: Connection) throws(RollupStoreError) {
        let statement = try connection.statement(
            """
            INSERT INTO manifests (minute_us, proxy, lane, serial, accepted, recorded) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
            ON CONFLICT DO UPDATE SET accepted = max(accepted, excluded.accepted),
                recorded = max(recorded, excluded.recorded)
            """)
        for manifest in manifests {
            statement.bind(1, manifest.minute.microseconds)
            statement.bind(2, copying: manifest.proxy)
            statement.bind(3, Int64(manifest.lane))
            statement.bind(4, Int64(bitPattern: manifest.serial))
            statement.bind(5, Int64(clamping: manifest.accepted))
            statement.bind(6, Int64(clamping: manifest.recorded))
            try statement.run()
        }
    }

    private func addMinutes(_ minutes: [ProxyMinute], _ connection: Connection) throws(RollupStoreError) {
        let statement = try connection.statement(
            """
            INSERT INTO proxy_minutes (minute_us, proxy, topic, partition, applied, duplicates, dead_lettered,
                first_offset, next_offset, changed_us)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
            ON CONFLICT DO UPDATE SET applied = applied + excluded.applied,
                duplicates = duplicates + excluded.duplicates, dead_lettered = dead_lettered + excluded.dead_lettered,
                first_offset = min(first_offset, excluded.first_offset),
                next_offset = max(next_offset, excluded.next_offset), changed_us = excluded.changed_us
            """)
        let now = now().microseconds
        for row in minutes {
            statement.bind(1, row.minute.microseconds)
            statement.bind(2, copying: row.proxy)
            statement.bind(3, copying: row.partition.topic)
            statement.bind(4, Int64(row.partition.partition))
            statement.bind(5, row.applied)
            statement.bind(6, row.duplicates)
            statement.bind(7, row.deadLettered)
            statement.bind(8, row.first.value)
            statement.bind(9, row.next.value)
            statement.bind(10, now)
            try statement.run()
        }
    }

    private func putDeadLetters(_ batch: SealedBatch, _ connection: Connection) throws(RollupStoreError) {
        let statement = try connection.statement(
            """
            INSERT INTO dead_letters (topic, partition, source_offset, time_us, code, reason, key, value, proxy,
                minute_us)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT DO NOTHING
            """)
        for letter in batch.deadLetters {
            statement.bind(1, copying: letter.source.topic)
            statement.bind(2, Int64(letter.source.partition))
            statement.bind(3, letter.offset.value)
            statement.bind(4, now().microseconds)
            statement.bind(5, copying: letter.code.rawValue)
            statement.bind(6, copying: letter.reason)
            statement.bindBlob(7, copying: letter.key)
            statement.bindBlob(8, copying: letter.value)
            let minute = batch.minute(of: letter)
            if let minute { statement.bind(9, copying: minute.proxy) } else { statement.bind(9, Int64?.none) }
            statement.bind(10, minute?.minute.microseconds)
            try statement.run()
        }
    }
}
