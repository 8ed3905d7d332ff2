// SealedBatch -> one transaction on the server.
//
// Before it, each in a short transaction of its own: numbers for new series, partitions for new days. Within it: the
// offsets' rows are locked and compared first, so that a stale writer stops before it has written anything; then events
// (whose duplicates are told), rollups less the duplicates' share, manifests, dead letters, the counts by proxy and minute,
// and the offsets moved with the ledger's counts. Whatever fails, all of it is rolled back.
//
// Duplicates. Events are copied straight into their table: mostly none is known, and nothing is faster. Where one is,
// its id is in the way, the transaction is begun again, and this time the store is asked first which ids it has; so for
// each batch until one had none. The primary key judges in both cases, other writers' events included.
//
// In doubt. Where the connection is lost on COMMIT, nobody knows whether it was done. The batch goes under a name that
// no other has, which stands in its offsets' rows once it is committed. The same batch tried again locks those rows,
// for which it waits until the server has ended the lost transaction one way or the other: they bear the name, then it
// was done; they stand at the batch's first offset, then it was not; else another writer has taken over.
//
// Replays. From the look at the rules on, until the transaction ends, no replay begins, comes to answer or is taken back:
// what is read of them then decides which generations the batch's rows are of, and for which others an event is pending.
//
// Rollups. Each writer's session holds a shard by an advisory lock and adds to rows of that shard alone: no two writers
// wait for each other's rows. Nothing but that waiting depends on it: sums are made by the server, rows in order. Of a
// bucket that has no row yet all rows are new, and are copied straight into the table (FreshBuckets).

import EventCodec
import Events
package import RecordLog
package import RollupStore
import Rollups
import Threading

package final class PostgreSQLRollupWriter: RollupWriter {
    /// One server has no use for more writers; each costs readers a row to add.
    private static let shards = 1_024
    /// How often a batch is begun anew within one `apply`, when another transaction was in the way.
    private static let attempts = 5

    private let address: ServerAddress
    private let now: () -> EventTime
    let generation: Int16 = 1
    /// nil before the first use, and when it was lost.
    private var connection: Connection?
    private var isClosed = false
    private(set) var shard: Int16 = 0
    var numbers = SeriesNumbers()
    private var partitions = EventPartitions()
    var freshBuckets = FreshBuckets()
    /// Batches whose rows were added to those of earlier ones.
    var merges = 0
    /// The store is asked for known ids before events are copied.
    private var expectsDuplicates = false
    /// The sums of what is in hand go beyond 63 bits, which the server refuses to add.
    private(set) var isWrapping = false
    private var doubt: Doubt?
    /// Where other writers stood, waiting for their clients, when a lock was last refused to this one.
    private var silent: [String] = []
    let bins = ReusedBuffer()

    /// A commit whose answer was lost.
    private struct Doubt {
        var name: [UInt8]
        var ranges: [PartitionRange]
        var result: ApplyResult

        func isOf(_ batch: SealedBatch) -> Bool {
            ranges.count == batch.ranges.count
                && zip(ranges, batch.ranges).allSatisfy {
                    $0.partition == $1.partition && $0.first == $1.first && $0.epoch == $1.epoch && $0.next == $1.next
                }
        }
    }

    init(_ address: ServerAddress, now: @escaping () -> EventTime) {
        self.address = address
        self.now = now
    }

    package func close() {
        connection = nil
        isClosed = true
    }

    package func acquire(_ partitions: [TopicPartition]) throws(RollupStoreError) -> [PartitionPosition] {
        var parameters = Parameters()
        parameters.add(generation)
        parameters.add(texts: partitions.map(\.topic))
        parameters.add(integers: partitions.map(\.partition))
        return try repeating { connection throws(ServerFailure) in
            let rows = try connection.query(
                """
                INSERT INTO offsets (generation, topic, partition, start_offset, next_offset, epoch)
                SELECT $1::smallint, topic, partition, 0, 0, 1
                FROM (SELECT DISTINCT * FROM unnest($2::text[], $3::integer[])) AS w (topic, partition)
                ORDER BY topic COLLATE "C", partition
                ON CONFLICT (generation, topic, partition) DO UPDATE SET epoch = offsets.epoch + 1
                RETURNING topic, partition, next_offset, epoch
                """, parameters)
            var taken: [TopicPartition: PartitionPosition] = [:]
            for row in 0..<rows.count {
                let partition = TopicPartition(
                    topic: rows.text(row, 0), partition: Int32(truncatingIfNeeded: rows.integer(row, 1)))
                taken[partition] = PartitionPosition(
                    partition: partition, next: Offset(rows.integer(row, 2)), epoch: rows.integer(row, 3))
            }
            return partitions.compactMap { taken[$0] }
        }
    }

    package func apply(_ batch: SealedBatch) throws(RollupStoreError) -> ApplyResult {
        let result = try repeating { connection throws(ServerFailure) in try write(batch, connection) }
        doubt = nil
        return result
    }

    // MARK: Connection

    /// Begins anew what another transaction was in the way of, or a writer that has fallen silent.
    func repeating<Result>(
        _ body: (Connection) throws(ServerFailure) -> Result
    ) throws(RollupStoreError) -> Result {
        if isClosed {
            throw RollupStoreError(
                code: .configuration, tried: "write the store", reason: "the writer is closed",
                next: "Open another one.")
        }
        isWrapping = false
        var attempt = 1
        while true {
            do throws(ServerFailure) {
                return try body(try connected())
            } catch {
                tidyUp()
                if error.state == ServerFailure.outOfRange && !isWrapping {
                    isWrapping = true
                } else if !error.isConflict && !isFree(after: error) {
                    throw error.error
                } else if attempt == Self.attempts {
                    // A constraint that is broken each time is no other writer's doing.
                    if error.state == ServerFailure.checkViolation { throw error.error }
                    throw RollupStoreError(
                        code: .unavailable, tried: error.error.tried, reason: error.error.reason,
                        next: "Other writers are in the way; it is tried again.")
                }
                attempt += 1
            }
        }
    }

    /// Where a lock was refused: true when its holder may have been one that was silent and is ended.
    private func isFree(after failure: ServerFailure) -> Bool {
        guard failure.state == ServerFailure.lockNotAvailable, let connection else { return false }
        do throws(ServerFailure) {
            return try endSilent(&silent, connection)
        } catch {
            // Nobody is ended, and the refusal stands.
            tidyUp()
            return false
        }
    }

    private func connected() throws(ServerFailure) -> Connection {
        if let connection { return connection }
        let opened = try PostgreSQLRollupStore.connect(address, .write)
        let taken = try opened.query(
            """
            SELECT s::smallint FROM generate_series(0, \(Self.shards - 1)) AS s
            WHERE pg_try_advisory_lock(\(AdvisoryLock.shards), s) LIMIT 1
            """)
        guard taken.count == 1 else {
            throw ServerFailure(
                RollupStoreError(
                    code: .unavailable, tried: "write the store \(address)", reason: "it has \(Self.shards) writers",
                    next: "Stop some of them."))
        }
        shard = Int16(truncatingIfNeeded: taken.integer(0, 0))
        try opened.execute(
            """
            CREATE TEMPORARY TABLE added_rollups (
                generation smallint, series bigint, bucket integer, grain smallint,
                \(Self.measureColumns.map { "\($0) bigint" }.joined(separator: ", ")), bins bytea
            ) ON COMMIT DELETE ROWS
            """)
        // What a crashed server has forgotten must not be remembered here.
        numbers.forget()
        partitions.forget()
        freshBuckets.forget()
        connection = opened
        return opened
    }

    /// After a failure: no transaction is open, and a connection that cannot say so is given up.
    private func tidyUp() {
        guard let held = connection else { return }
        if held.isAlive {
            do throws(ServerFailure) {
                if held.isInTransaction { try held.execute("ROLLBACK") }
                return
            } catch {
                // Given up with the connection: the server rolls back by itself.
                connection = nil
            }
        }
        connection = nil
    }

    // MARK: The transaction

    private func write(_ batch: SealedBatch, _ connection: Connection) throws(ServerFailure) -> ApplyResult {
        let series = try numbers.resolve(batch.series, connection)
        try partitions.make(for: batch.events, now: now(), connection)
        try connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        failPoint("begun")
        if let done = try compareOffsets(batch, connection) {
            try connection.execute("ROLLBACK")
            return done
        }
        try compareRules(batch, connection)
        let scope = try ReplayScope.read(connection)
        var tallies = [Tally](repeating: Tally(), count: batch.ranges.count)
        let duplicates = try insertEvents(batch, series, &tallies, connection)
        failPoint("events_inserted")
        try notePending(batch, duplicates, scope, connection)
        let delta = batch.delta(withDuplicates: duplicates)
        try addRollups(delta, series, connection) { scope.map.generation(at: $0.grain.start(of: $0.bucket)) }
        failPoint("rollups_added")
        try putManifests(batch.manifests, connection)
        try putDeadLetters(batch, connection)
        try addMinutes(batch.minutes(withDuplicates: duplicates), connection)
        failPoint("counted")
        var random = SystemRandomNumberGenerator()
        let name = EventID(high: random.next(), low: random.next()).bytes
        try moveOffsets(batch.ranges, tallies, name, connection)
        failPoint("offsets_moved")
        let result = ApplyResult(
            applied: tallies.reduce(0) { $0 + $1.applied }, duplicates: tallies.reduce(0) { $0 + $1.duplicates })
        do throws(ServerFailure) {
            try connection.execute("COMMIT")
        } catch {
            doubt = Doubt(name: name, ranges: batch.ranges, result: result)
            throw error
        }
        failPoint("committed")
        expectsDuplicates = result.duplicates > 0
        return result
    }

    // MARK: Offsets

    private struct Tally {
        var applied: Int64 = 0
        var duplicates: Int64 = 0
        var latest: Int64?
    }

    /// Locks the rows, in order. The result where this very batch was committed before without our knowing.
    private func compareOffsets(
        _ batch: SealedBatch, _ connection: Connection
    ) throws(ServerFailure) -> ApplyResult? {
        var parameters = Parameters()
        parameters.add(generation)
        parameters.add(texts: batch.ranges.map(\.partition.topic))
        parameters.add(integers: batch.ranges.map(\.partition.partition))
        let rows = try connection.query(
            """
            SELECT topic, partition, next_offset, epoch, batch FROM offsets
            WHERE generation = $1::smallint
                AND (topic, partition) IN (SELECT * FROM unnest($2::text[], $3::integer[]))
            ORDER BY topic, partition FOR UPDATE
            """, parameters)
        var found: [TopicPartition: Int] = [:]
        for row in 0..<rows.count {
            found[
                TopicPartition(topic: rows.text(row, 0), partition: Int32(truncatingIfNeeded: rows.integer(row, 1)))] =
                row
        }
        let stale = batch.ranges.first { range in
            guard let row = found[range.partition] else { return true }
            return rows.integer(row, 2) != range.first.value || rows.integer(row, 3) != range.epoch
        }
        guard let stale else { return nil }
        if let doubt, doubt.isOf(batch) {
            let isDone = batch.ranges.allSatisfy { range in
                guard let row = found[range.partition] else { return false }
                return rows.bytes(row, 4).elementsEqual(doubt.name)
            }
            if isDone { return doubt.result }
        }
        throw Self.staleEpoch(stale)
    }

    private static func staleEpoch(_ range: PartitionRange) -> ServerFailure {
        return ServerFailure(
            RollupStoreError(
                code: .staleEpoch,
                tried: "apply offsets \(range.first.value) to \(range.next.value) of \(range.partition)",
                reason: "the store no longer stands at that offset under epoch \(range.epoch)",
                next: "Another consumer has taken the partition over: let it run, or stop it and start this one again."
            ))
    }

    /// The compare-and-set, and the ledger: exactly one row for each range, or nothing of the batch happens.
    private func moveOffsets(
        _ ranges: [PartitionRange], _ tallies: [Tally], _ name: [UInt8], _ connection: Connection
    ) throws(ServerFailure) {
        var parameters = Parameters()
        parameters.add(generation)
        parameters.add(name)
        parameters.add(texts: ranges.map(\.partition.topic))
        parameters.add(integers: ranges.map(\.partition.partition))
        parameters.add(bigints: ranges.map(\.first.value))
        parameters.add(bigints: ranges.map(\.epoch))
        parameters.add(bigints: ranges.map(\.next.value))
        parameters.add(bigints: tallies.map(\.applied))
        parameters.add(bigints: tallies.map(\.duplicates))
        parameters.add(bigints: ranges.map(\.manifests))
        parameters.add(bigints: ranges.map(\.deadLetters))
        parameters.add(bigints: ranges.map(\.skipped))
        parameters.add(bigints: ranges.map(\.lost))
        parameters.add(bigints: tallies.map(\.latest))
        let moved = try connection.query(
            """
            UPDATE offsets AS o SET next_offset = w.next, batch = $2::uuid, applied = o.applied + w.applied,
                duplicates = o.duplicates + w.duplicates, manifests = o.manifests + w.manifests,
                dead_letters = o.dead_letters + w.dead_letters, skipped = o.skipped + w.skipped,
                lost = o.lost + w.lost, max_time_us = greatest(o.max_time_us, w.latest)
            FROM unnest($3::text[], $4::integer[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
                $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[])
                AS w (topic, partition, first, epoch, next, applied, duplicates, manifests, dead_letters, skipped, lost,
                    latest)
            WHERE o.generation = $1::smallint AND o.topic = w.topic AND o.partition = w.partition
                AND o.next_offset = w.first AND o.epoch = w.epoch
            """, parameters)
        guard moved.changes == ranges.count else {
            guard let first = ranges.first else { return }
            throw Self.staleEpoch(first)
        }
    }

    // MARK: Events

    private static let copyEvents =
        """
        COPY events (id, time_us, series, input_tokens, output_tokens, cached_tokens, reasoning_tokens, request_bytes,
            response_bytes, cost_nano_usd, latency_us, first_token_us, upstream_us, overhead_us, metadata_conflicts,
            status, usage_source, metadata_status, metadata_sources, streamed, proxy, request_model, response_model,
            error_type, finish_reason, trace_id, span_id, parent_span_id, price_version, metadata_raw,
            metadata_rejected, metadata_extra, pair_hashes)
        FROM STDIN (FORMAT binary)
        """
    private static let eventColumns: Int16 = 33

    /// The indices of the events that the store already had, or that came before in the batch.
    private func insertEvents(
        _ batch: SealedBatch, _ series: [Int64], _ tallies: inout [Tally], _ connection: Connection
    ) throws(ServerFailure) -> [Int] {
        if batch.events.isEmpty { return [] }
        let duplicates = expectsDuplicates ? try findDuplicates(batch.events, connection) : []
        do throws(ServerFailure) {
            try copyEvents(batch, except: duplicates, series, connection)
        } catch {
            if error.state == ServerFailure.uniqueViolation { expectsDuplicates = true }
            throw error
        }
        var next = 0
        for (index, event) in batch.events.enumerated() {
            let range = Int(event.range)
            if next < duplicates.count && duplicates[next] == index {
                tallies[range].duplicates += 1
                next += 1
            } else {
                let time = event.fields.time.microseconds
                tallies[range].applied += 1
                tallies[range].latest = max(tallies[range].latest ?? time, time)
            }
        }
        return duplicates
    }

    /// Ascending indices of those of which an earlier one of the batch, or the store, has the id.
    private func findDuplicates(
        _ events: [NormalizedEvent], _ connection: Connection
    ) throws(ServerFailure) -> [Int] {
        var parameters = Parameters()
        parameters.add(uuids: events.map { $0.fields.id.bytes })
        let rows = try connection.query(
            "SELECT e.id FROM unnest($1::uuid[]) AS w (id) JOIN events e ON e.id = w.id", parameters)
        var seen: Set<EventID> = []
        for row in 0..<rows.count {
            let bytes = rows.bytes(row, 0)
            guard bytes.count == 16 else { continue }
            seen.insert(EventID(bytes))
        }
        return events.indices.filter { !seen.insert(events[$0].fields.id).inserted }
    }

    private func copyEvents(
        _ batch: SealedBatch, except duplicates: [Int], _ series: [Int64], _ connection: Connection
    ) throws(ServerFailure) {
        if duplicates.count == batch.events.count { return }
        try connection.copy(Self.copyEvents) { stream in
            batch.bytes.withUnsafeBytes { bytes in
                batch.extras.withUnsafeBytes { extras in
                    var next = 0
                    for index in batch.events.indices {
                        if next < duplicates.count && duplicates[next] == index {
                            next += 1
                            continue
                        }
                        let event = batch.events[index]
                        Self.write(
                            event, bytes, extras, batch.pairs[event.pairs.range], series[Int(event.series)], to: &stream
                        )
                    }
                }
            }
        }
    }

    private static func write(
        _ event: NormalizedEvent, _ bytes: UnsafeRawBufferPointer, _ extras: UnsafeRawBufferPointer,
        _ pairs: ArraySlice<UInt32>, _ series: Int64, to stream: inout CopyStream
    ) {
        func text(_ range: ByteRange) -> UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: bytes[range.range]) }
        let fields = event.fields
        stream.row(columns: eventColumns)
        stream.column(fields.id.high, fields.id.low)
        stream.column(fields.time.microseconds)
        stream.column(series)
        stream.column(fields.inputTokens)
        stream.column(fields.outputTokens)
        stream.column(fields.cachedTokens)
        stream.column(fields.reasoningTokens)
        stream.column(fields.requestBytes)
        stream.column(fields.responseBytes)
        stream.column(fields.cost?.amount)
        stream.column(fields.latencyMicroseconds)
        stream.column(fields.firstTokenMicroseconds)
        stream.column(fields.upstreamMicroseconds)
        stream.column(fields.overheadMicroseconds)
        stream.column(Int64(fields.metadataConflicts))
        stream.column(Int32(fields.status))
        stream.column(Int16(fields.usageSource.rawValue))
        stream.column(Int16(event.metadataStatus.rawValue))
        stream.column(Int16(fields.metadataSources.rawValue))
        stream.column(UInt8(fields.streamed ? 1 : 0))
        stream.column(unlessEmpty: text(fields.proxy))
        stream.column(unlessEmpty: text(fields.requestModel))
        stream.column(unlessEmpty: text(fields.responseModel))
        stream.column(unlessEmpty: text(fields.errorType))
        stream.column(unlessEmpty: text(fields.finishReason))
        stream.column(unlessEmpty: text(fields.traceID))
        stream.column(unlessEmpty: text(fields.spanID))
        stream.column(unlessEmpty: text(fields.parentSpanID))
        stream.column(unlessEmpty: text(fields.priceVersion))
        stream.column(unlessEmpty: text(fields.metadataRaw))
        stream.column(unlessEmpty: text(fields.metadataRejected))
        stream.column(unlessEmpty: UnsafeRawBufferPointer(rebasing: extras[event.extra.range]))
        stream.column(pairs)
    }

    // MARK: Replays

    private func notePending(
        _ batch: SealedBatch, _ duplicates: [Int], _ scope: ReplayScope, _ connection: Connection
    ) throws(ServerFailure) {
        let pending = scope.pending(batch, withDuplicates: duplicates)
        if pending.isEmpty { return }
        try connection.copy("COPY replay_pending (generation, time_us, id) FROM STDIN (FORMAT binary)") { stream in
            for (generation, place) in pending {
                stream.row(columns: 3)
                stream.column(Int16(truncatingIfNeeded: generation))
                stream.column(place.time.microseconds)
                stream.column(place.id.high, place.id.low)
            }
        }
    }

    // MARK: Manifests and dead letters

    private func putManifests(_ manifests: [Manifest], _ connection: Connection) throws(ServerFailure) {
        if manifests.isEmpty { return }
        // A statement may meet a row once only. Sorted, so that two writers could not wait for each other.
        struct Part: Hashable {
            var minute: EventTime
            var proxy: String
            var lane: UInt32
            var serial: UInt64
        }
        var greatest: [Part: (accepted: UInt64, recorded: UInt64)] = [:]
        for manifest in manifests {
            let part = Part(
                minute: manifest.minute, proxy: manifest.proxy, lane: manifest.lane, serial: manifest.serial)
            let known = greatest[part] ?? (0, 0)
            greatest[part] = (max(known.accepted, manifest.accepted), max(known.recorded, manifest.recorded))
        }
        let sorted = greatest.sorted {
            ($0.key.minute.microseconds, $0.key.proxy, $0.key.lane, $0.key.serial)
                < ($1.key.minute.microseconds, $1.key.proxy, $1.key.lane, $1.key.serial)
        }
        var parameters = Parameters()
        parameters.add(bigints: sorted.map(\.key.minute.microseconds))
        parameters.add(bytes: sorted.map { Array($0.key.proxy.utf8) })
        parameters.add(bigints: sorted.map { Int64($0.key.lane) })
        parameters.add(bigints: sorted.map { Int64(bitPattern: $0.key.serial) })
        parameters.add(bigints: sorted.map { Int64(clamping: $0.value.accepted) })
        parameters.add(bigints: sorted.map { Int64(clamping: $0.value.recorded) })
        _ = try connection.query(
            """
            INSERT INTO manifests AS m (minute_us, proxy, lane, serial, accepted, recorded)
            SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
            ON CONFLICT (minute_us, proxy, lane, serial) DO UPDATE SET
                accepted = greatest(m.accepted, excluded.accepted), recorded = greatest(m.recorded, excluded.recorded)
            """, parameters)
    }

    private func addMinutes(_ minutes: [ProxyMinute], _ connection: Connection) throws(ServerFailure) {
        if minutes.isEmpty { return }
        var parameters = Parameters()
        parameters.add(now().microseconds)
        parameters.add(bigints: minutes.map(\.minute.microseconds))
        parameters.add(bytes: minutes.map { Array($0.proxy.utf8) })
        parameters.add(texts: minutes.map(\.partition.topic))
        parameters.add(integers: minutes.map(\.partition.partition))
        parameters.add(bigints: minutes.map(\.applied))
        parameters.add(bigints: minutes.map(\.duplicates))
        parameters.add(bigints: minutes.map(\.deadLettered))
        parameters.add(bigints: minutes.map(\.first.value))
        parameters.add(bigints: minutes.map(\.next.value))
        _ = try connection.query(
            """
            INSERT INTO proxy_minutes AS m (minute_us, proxy, topic, partition, applied, duplicates, dead_lettered,
                first_offset, next_offset, changed_us)
            SELECT w.*, $1::bigint
            FROM unnest($2::bigint[], $3::bytea[], $4::text[], $5::integer[], $6::bigint[], $7::bigint[],
                $8::bigint[], $9::bigint[], $10::bigint[]) AS w
            ON CONFLICT (minute_us, proxy, topic, partition) DO UPDATE SET
                applied = m.applied + excluded.applied, duplicates = m.duplicates + excluded.duplicates,
                dead_lettered = m.dead_lettered + excluded.dead_lettered,
                first_offset = least(m.first_offset, excluded.first_offset),
                next_offset = greatest(m.next_offset, excluded.next_offset), changed_us = excluded.changed_us
            """, parameters)
    }

    private func putDeadLetters(_ batch: SealedBatch, _ connection: Connection) throws(ServerFailure) {
        let letters = batch.deadLetters
        if letters.isEmpty { return }
        var parameters = Parameters()
        parameters.add(now().microseconds)
        parameters.add(texts: letters.map(\.source.topic))
        parameters.add(integers: letters.map(\.source.partition))
        parameters.add(bigints: letters.map(\.offset.value))
        parameters.add(texts: letters.map(\.code.rawValue))
        parameters.add(bytes: letters.map { Array($0.reason.utf8) })
        parameters.add(bytes: letters.map(\.key))
        parameters.add(bytes: letters.map(\.value))
        // Without a minute the proxy means nothing: the server makes it NULL.
        parameters.add(bytes: letters.map { Array((batch.minute(of: $0)?.proxy ?? "").utf8) })
        parameters.add(bigints: letters.map { batch.minute(of: $0)?.minute.microseconds })
        _ = try connection.query(
            """
            INSERT INTO dead_letters (topic, partition, source_offset, time_us, code, reason, key, value, proxy,
                minute_us)
            SELECT topic, partition, source_offset, $1::bigint, code, reason, key, value,
                CASE WHEN minute_us IS NOT NULL THEN proxy END, minute_us
            FROM unnest($2::text[], $3::integer[], $4::bigint[], $5::text[], $6::bytea[], $7::bytea[], $8::bytea[],
                $9::bytea[], $10::bigint[])
                AS w (topic, partition, source_offset, code, reason, key, value, proxy, minute_us)
            ON CONFLICT DO NOTHING
            """, parameters)
    }
}

extension EventID {
    /// 16 bytes, big-endian.
    init(_ bytes: UnsafeRawBufferPointer) {
        self.init(
            high: UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 0, as: UInt64.self)),
            low: UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self)))
    }
}
