// Replays on the server, beside its writers: a session of their own, short transactions.
//
// A batch holds the lock on the rules from before its look at the replays until it is committed. Whoever begins a replay
// or changes which of them answer takes that lock alone: every batch before is then to be seen, and every later one
// sees the change. What is written is written before the lock is asked for, so that ingest waits for a look only.
//
// A step goes to a shard that no writer has. In doubt: where the connection is lost on COMMIT and the step is tried
// again, the replay stands at the step's end already; what was pending is pending no more.

import EventCodec
package import Events
import RecordLog
package import RollupStore
package import Rollups

extension PostgreSQLRollupStore {
    /// For one thread; it connects when it is first used. Any number of processes may have one.
    package func makeReplayStore() -> PostgreSQLReplayStore { PostgreSQLReplayStore(makeWriter()) }
}

package final class PostgreSQLReplayStore: ReplayStore {
    /// Its connection, its shard, and what it remembers of series; it applies no batch.
    private let writer: PostgreSQLRollupWriter
    private let memory = SeriesMemory()

    init(_ writer: PostgreSQLRollupWriter) { self.writer = writer }

    package func close() { writer.close() }

    /// Each statement sees what is committed before it.
    private func change<Result>(
        _ body: (Connection) throws(ServerFailure) -> Result
    ) throws(RollupStoreError) -> Result {
        try writer.repeating { connection throws(ServerFailure) in
            try connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            let result = try body(connection)
            try connection.execute("COMMIT")
            return result
        }
    }

    /// All of it sees one commit.
    private func look<Result>(
        _ body: (Connection) throws(ServerFailure) -> Result
    ) throws(RollupStoreError) -> Result {
        try writer.repeating { connection throws(ServerFailure) in
            // The lock first, as every read takes it.
            try connection.execute(
                """
                BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL plan_cache_mode = force_custom_plan;
                LOCK TABLE ONLY events IN ACCESS SHARE MODE;
                """)
            let result = try body(connection)
            try connection.execute("COMMIT")
            return result
        }
    }

    /// Waits for the batches under way, and lets none begin until the transaction ends.
    private static func exclude(_ connection: Connection) throws(ServerFailure) {
        try connection.execute("SELECT pg_advisory_xact_lock(\(AdvisoryLock.rules))")
    }

    // MARK: Which there are

    package func list() throws(RollupStoreError) -> [StoredReplay] {
        try look { connection throws(ServerFailure) in try StoredReplay.all(connection) }
    }

    private static func find(_ id: Int64, _ connection: Connection) throws(ServerFailure) -> StoredReplay {
        guard let found = try StoredReplay.all(connection).first(where: { $0.id == id }) else {
            throw ServerFailure(StoredReplay.unknown(id))
        }
        return found
    }

    /// As it stands, and until the transaction ends nobody else changes it.
    private static func lock(_ id: Int64, _ connection: Connection) throws(ServerFailure) -> StoredReplay {
        var parameters = Parameters()
        parameters.add(id)
        _ = try connection.query("SELECT 1 FROM replays WHERE generation = $1::bigint FOR UPDATE", parameters)
        return try find(id, connection)
    }

    package func begin(
        _ plan: ReplayPlan, log: LogReach?, now: EventTime
    ) throws(RollupStoreError) -> StoredReplay {
        try change { connection throws(ServerFailure) in
            if let same = try Self.unfinished(of: plan, connection) { return try Self.takeOver(same, connection) }
            let total = try Self.total(plan, from: log?.until, connection)
            try Self.exclude(connection)
            // Another one may have been quicker.
            if let same = try Self.unfinished(of: plan, connection) { return try Self.takeOver(same, connection) }
            let (bounds, offsets) = (try Self.bounds(connection), try Self.offsets(connection))
            let scan = try ServerFailure.passing { () throws(RollupStoreError) -> LogScan? in
                try StoredReplay.check(plan, log, bounds)
                guard let log else { return nil }
                return try LogScan(log, plan, applied: offsets)
            }
            if let rules = plan.rules { try PostgreSQLRollupWriter.keep(rules, connection) }
            var parameters = Parameters()
            parameters.add(Array(plan.asked.utf8))
            parameters.add(plan.from.microseconds)
            parameters.add(plan.to.microseconds)
            parameters.add(plan.begin.microseconds)
            parameters.add(plan.end.microseconds)
            parameters.add(plan.rules.map { Array($0.fingerprint.utf8) })
            parameters.add(plan.prices.map { Array($0.utf8) })
            parameters.add(UInt8(plan.isDryRun ? 1 : 0))
            parameters.add((scan?.total ?? 0) + total)
            parameters.add(now.microseconds)
            parameters.add(texts: [scan?.text ?? ""])
            parameters.add(plan.workspace.map { Array($0.utf8) })
            let made = try connection.query(
                """
                INSERT INTO replays (generation, state, asked, from_us, to_us, begin_us, end_us, rules, prices,
                    is_dry_run, epoch, total, created_us, log_scan, workspace)
                VALUES ((SELECT coalesce(max(generation), 1) + 1 FROM replays), 'building', $1::bytea, $2::bigint,
                    $3::bigint, $4::bigint, $5::bigint, $6::text, $7::bytea, $8::boolean, 1, $9::bigint, $10::bigint,
                    ($11::text[])[1], $12::bytea)
                RETURNING generation
                """, parameters)
            return try Self.find(made.integer(0, 0), connection)
        }
    }

    /// The unfinished replay of the same command. One that is in the way is an error.
    private static func unfinished(
        of plan: ReplayPlan, _ connection: Connection
    ) throws(ServerFailure) -> StoredReplay? {
        let all = try StoredReplay.all(connection).filter { $0.state == .building }
        if let same = all.first(where: { $0.plan.asked == plan.asked }) { return same }
        if let other = all.first(where: { $0.plan.overlaps(plan) }) {
            throw ServerFailure(StoredReplay.overlapping(other))
        }
        return nil
    }

    package func bounds() throws(RollupStoreError) -> ReplayBounds {
        try look { connection throws(ServerFailure) in try Self.bounds(connection) }
    }

    private static func bounds(_ connection: Connection) throws(ServerFailure) -> ReplayBounds {
        ReplayBounds(eventsFrom: try kept(3, connection), daysFrom: try kept(Grain.day.rawValue, connection))
    }

    private static func kept(_ what: UInt8, _ connection: Connection) throws(ServerFailure) -> EventTime? {
        let kept = try connection.query("SELECT from_us FROM retained WHERE what = \(what)")
        return kept.count > 0 ? EventTime(microseconds: kept.integer(0, 0)) : nil
    }

    private static func offsets(
        _ connection: Connection
    ) throws(ServerFailure) -> [(partition: TopicPartition, next: Offset)] {
        let rows = try connection.query(
            "SELECT topic, partition, next_offset FROM offsets WHERE generation = \(GenerationMap.first)")
        return (0..<rows.count).map { row in
            (
                TopicPartition(
                    topic: rows.text(row, 0), partition: Int32(truncatingIfNeeded: rows.integer(row, 1))),
                Offset(rows.integer(row, 2))
            )
        }
    }

    package func ingested() throws(RollupStoreError) -> Int64 {
        try look { connection throws(ServerFailure) in try Self.ingested(connection) }
    }

    private static func ingested(_ connection: Connection) throws(ServerFailure) -> Int64 {
        try connection.query("SELECT coalesce(sum(next_offset), 0)::bigint FROM offsets").integer(0, 0)
    }

    /// - `from`: where that is later than the begin of the days.
    private static func total(
        _ plan: ReplayPlan, from: EventTime?, _ connection: Connection
    ) throws(ServerFailure) -> Int64 {
        var total: Int64 = 0
        let days = (Grain.day.bucket(of: max(plan.begin, from ?? plan.begin)), Grain.day.bucket(of: plan.end))
        for part in try GenerationMap.read(connection).cut(.day, from: days.0, to: days.1) {
            var parameters = Parameters()
            parameters.add(part.generation)
            parameters.add(part.from)
            parameters.add(part.to)
            let sum = try connection.query(
                """
                SELECT coalesce(sum(requests), 0)::bigint FROM rollups
                WHERE generation = $1::bigint AND grain = 2 AND bucket >= $2::integer AND bucket < $3::integer
                """, parameters)
            total += sum.integer(0, 0)
        }
        return total
    }

    package func resume(_ id: Int64) throws(RollupStoreError) -> StoredReplay {
        try change { connection throws(ServerFailure) in
            try Self.takeOver(try Self.find(id, connection), connection)
        }
    }

    private static func takeOver(
        _ replay: StoredReplay, _ connection: Connection
    ) throws(ServerFailure) -> StoredReplay {
        let changed = try update(replay.id, "epoch = epoch + 1", while: .building, connection)
        let found = try find(replay.id, connection)
        guard changed else {
            throw ServerFailure(StoredReplay.refused(replay.id, "it is \(found.state.rawValue)"))
        }
        return found
    }

    package func cancel(_ id: Int64) throws(RollupStoreError) -> StoredReplay {
        try change { connection throws(ServerFailure) in
            let changed = try Self.update(
                id, "state = 'cancelled', epoch = epoch + 1", while: .building, connection)
            let found = try Self.find(id, connection)
            guard changed || found.state == .cancelled else {
                throw ServerFailure(StoredReplay.refused(id, "it is \(found.state.rawValue)"))
            }
            return found
        }
    }

    /// False where it is in another state, or there is none.
    private static func update(
        _ id: Int64, _ assignments: String, while state: StoredReplay.State, _ connection: Connection
    ) throws(ServerFailure) -> Bool {
        var parameters = Parameters()
        parameters.add(id)
        return try connection.query(
            "UPDATE replays SET \(assignments) WHERE generation = $1::bigint AND state = '\(state.rawValue)'",
            parameters
        ).changes == 1
    }

    // MARK: Reading

    package func scan(_ replay: StoredReplay, limit: Int) throws(RollupStoreError) -> ReplayPage {
        try look { connection throws(ServerFailure) in
            let map = try GenerationMap.read(connection)
            let kept = try Self.kept(3, connection)
            try ServerFailure.passing { () throws(RollupStoreError) in try replay.checkScan(keptFrom: kept) }
            var read: [StoredEvent] = []
            do {
                try PostgreSQLSnapshot(connection: connection, map: map, memory: memory).scanEvents(
                    from: replay.eventsBegin, to: replay.plan.end,
                    before: replay.cursor.map { (time: $0.time, id: $0.id) }, series: .all
                ) {
                    read.append($0)
                    return read.count < limit
                }
            } catch {
                throw ServerFailure.reading(error)
            }
            let ingested = try Self.ingested(connection)
            guard let last = read.last, let first = read.first else {
                return ReplayPage(events: [], cursor: replay.cursor, isEnd: true, ingested: ingested)
            }
            var parameters = Parameters()
            parameters.add(replay.id)
            parameters.add(last.event.time.microseconds)
            parameters.add(first.event.time.microseconds)
            let rows = try connection.query(
                """
                SELECT id FROM replay_pending
                WHERE generation = $1::bigint AND time_us >= $2::bigint AND time_us <= $3::bigint
                """, parameters)
            let pending = Set((0..<rows.count).map { EventID(rows.bytes($0, 0)) })
            return ReplayPage(
                events: try withSeries(read.filter { !pending.contains($0.event.id) }, connection),
                cursor: EventPlace(time: last.event.time, id: last.event.id), isEnd: read.count < limit,
                ingested: ingested)
        }
    }

    package func pending(_ days: GenerationMap.Segment, limit: Int) throws(RollupStoreError) -> [ReplayEvent] {
        try look { connection throws(ServerFailure) in try pending(days, limit, connection) }
    }

    private func pending(
        _ days: GenerationMap.Segment, _ limit: Int, _ connection: Connection
    ) throws(ServerFailure) -> [ReplayEvent] {
        var parameters = Parameters()
        parameters.add(days.generation)
        parameters.add(days.begin.microseconds)
        parameters.add(days.end.microseconds)
        parameters.add(Int64(limit))
        let rows = try connection.query(
            """
            SELECT \(PostgreSQLSnapshot.eventColumns(isRevised: false))
            FROM replay_pending p JOIN events e ON e.id = p.id
            WHERE p.generation = $1::bigint AND p.time_us >= $2::bigint AND p.time_us < $3::bigint
            ORDER BY p.time_us, p.id LIMIT $4::bigint
            """, parameters)
        var read: [StoredEvent] = []
        read.reserveCapacity(rows.count)
        do {
            for row in 0..<rows.count { read.append(try PostgreSQLSnapshot.event(rows, row)) }
        } catch {
            throw ServerFailure.reading(error)
        }
        return try withSeries(read, connection)
    }

    package func carried(
        _ days: GenerationMap.Segment, without workspace: String
    ) throws(RollupStoreError) -> CarriedRows {
        try look { connection throws(ServerFailure) in
            try memory.update(connection)
            var carried = CarriedRows(without: workspace)
            let snapshot = PostgreSQLSnapshot(
                connection: connection, map: try GenerationMap.read(connection), memory: memory)
            do {
                try carried.add(days, snapshot, next: "Restore the database from a backup.", key: memory.key)
            } catch {
                throw ServerFailure.reading(error)
            }
            for event in try pending(days, .max, connection) { carried.add(pending: event) }
            return carried
        }
    }

    private func withSeries(
        _ events: [StoredEvent], _ connection: Connection
    ) throws(ServerFailure) -> [ReplayEvent] {
        try memory.update(connection)
        return try ServerFailure.passing { () throws(RollupStoreError) in
            try ReplayEvent.all(events, next: "Restore the database from a backup.", key: memory.key)
        }
    }

    package func rows(
        of generation: Int64?, from begin: EventTime, to end: EventTime, _ grain: Grain,
        _ body: (StoredRollup, SeriesKey) -> Void
    ) throws(RollupStoreError) {
        try look { connection throws(ServerFailure) in
            try memory.update(connection)
            let (from, to) = (grain.bucket(of: begin), grain.bucket(of: end))
            let live =
                if let generation {
                    [GenerationMap.Segment(begin: begin, end: end, generation: generation)]
                } else {
                    try GenerationMap.live(connection)
                }
            let snapshot = PostgreSQLSnapshot(
                connection: connection, map: GenerationMap(live: live), memory: memory)
            do {
                try snapshot.scanRollups(grain: grain, from: from, to: to, series: .all, withBins: true) { row in
                    if let key = memory.key(of: row.series) { body(row, key) }
                }
            } catch {
                throw ServerFailure.reading(error)
            }
        }
    }

    package func timeline(without ids: Set<Int64>) throws(RollupStoreError) -> RulesTimeline {
        try look { connection throws(ServerFailure) in try RulesTimeline.read(connection, without: ids) }
    }

    package func live() throws(RollupStoreError) -> [GenerationMap.Segment] {
        try look { connection throws(ServerFailure) in try GenerationMap.live(connection) }
    }

    // MARK: Steps

    package func add(
        _ step: ReplayStep, to generation: Int64, under replay: StoredReplay
    ) throws(RollupStoreError) -> StoredReplay {
        try withNumbers(step) { connection, series throws(ServerFailure) in
            let found = try Self.hold(replay, generation == replay.id ? .building : .live, connection)
            let isTaken = try ServerFailure.passing { () throws(RollupStoreError) in
                try found.hasTaken(step, after: replay)
            }
            if isTaken { return found }
            try put(step, generation, series, connection)
            var parameters = Parameters()
            parameters.add(replay.id)
            parameters.add(UInt8(step.isScanned ? 1 : 0))
            parameters.add(step.events)
            parameters.add(step.changed)
            var moved = ""
            if let cursor = step.cursor {
                moved = "cursor_time_us = $5::bigint, cursor_id = $6::uuid, "
                parameters.add(cursor.time.microseconds)
                parameters.add(cursor.id.bytes)
            } else if let log = step.log {
                moved = "log_scan = ($5::text[])[1], "
                parameters.add(texts: [log.text])
            }
            _ = try connection.query(
                """
                UPDATE replays SET \(moved)is_scanned = is_scanned OR $2::boolean, scanned = scanned + $3::bigint,
                    changed = changed + $4::bigint
                WHERE generation = $1::bigint
                """, parameters)
            return try Self.find(replay.id, connection)
        }
    }

    /// A change, with numbers for the step's series, which are given before it.
    private func withNumbers<Result>(
        _ step: ReplayStep, _ body: (Connection, [Int64]) throws(ServerFailure) -> Result
    ) throws(RollupStoreError) -> Result {
        try writer.repeating { connection throws(ServerFailure) in
            let series = try writer.numbers.resolve(step.series, connection)
            try connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            let result = try body(connection, series)
            try connection.execute("COMMIT")
            return result
        }
    }

    private static func hold(
        _ replay: StoredReplay, _ state: StoredReplay.State, _ connection: Connection
    ) throws(ServerFailure) -> StoredReplay {
        let found = try lock(replay.id, connection)
        try ServerFailure.passing { () throws(RollupStoreError) in
            try replay.check(state: found.state, epoch: found.epoch, is: state)
        }
        return found
    }

    private func put(
        _ step: ReplayStep, _ generation: Int64, _ series: [Int64], _ connection: Connection
    ) throws(ServerFailure) {
        try copyRevisions(step.revisions, generation, series, connection)
        try writer.addRollups(step.delta, series, connection) { _ in generation }
        if step.settled.isEmpty { return }
        var parameters = Parameters()
        parameters.add(generation)
        parameters.add(bigints: step.settled.map(\.time.microseconds))
        parameters.add(uuids: step.settled.map(\.id.bytes))
        let settled = try connection.query(
            """
            DELETE FROM replay_pending AS p USING unnest($2::bigint[], $3::uuid[]) AS w (time_us, id)
            WHERE p.generation = $1::bigint AND p.time_us = w.time_us AND p.id = w.id
            """, parameters)
        guard settled.changes == step.settled.count else {
            throw ServerFailure(StoredReplay.refused(generation, "an event is no longer pending"))
        }
    }

    private func copyRevisions(
        _ revisions: [EventRevision], _ generation: Int64, _ series: [Int64], _ connection: Connection
    ) throws(ServerFailure) {
        if revisions.isEmpty { return }
        try connection.copy(
            """
            COPY revisions (id, time_us, series, cost_nano_usd, metadata_conflicts, generation, metadata_status,
                price_version, metadata_raw, metadata_extra, pair_hashes)
            FROM STDIN (FORMAT binary)
            """
        ) { stream in
            for revision in revisions {
                stream.row(columns: 11)
                stream.column(revision.id.high, revision.id.low)
                stream.column(revision.time.microseconds)
                stream.column(series[Int(revision.series)])
                stream.column(revision.cost?.amount)
                stream.column(Int64(revision.metadataConflicts))
                stream.column(Int16(truncatingIfNeeded: generation))
                stream.column(Int16(revision.metadataStatus.rawValue))
                for text in [Array(revision.priceVersion.utf8), revision.metadataRaw, revision.extra] {
                    text.withUnsafeBytes { stream.column(unlessEmpty: $0) }
                }
                stream.column(EventPairs.numbers(of: revision.extra)[...])
            }
        }
    }

    private static func isPending(
        _ generation: Int64, from: EventTime, to: EventTime, _ connection: Connection
    ) throws(ServerFailure) -> Bool {
        var parameters = Parameters()
        parameters.add(generation)
        parameters.add(from.microseconds)
        parameters.add(to.microseconds)
        return try connection.query(
            """
            SELECT 1 FROM replay_pending
            WHERE generation = $1::bigint AND time_us >= $2::bigint AND time_us < $3::bigint LIMIT 1
            """, parameters
        ).count > 0
    }

    package func swap(
        _ step: ReplayStep, _ replay: StoredReplay, now: EventTime
    ) throws(RollupStoreError) -> StoredReplay? {
        do throws(RollupStoreError) {
            return try withNumbers(step) { connection, series throws(ServerFailure) -> StoredReplay? in
                let stands = try Self.lock(replay.id, connection)
                if stands.isSwapped(by: replay) { return stands }
                let found = try Self.hold(replay, .building, connection)
                guard found.isScanned && !found.plan.isDryRun else {
                    throw ServerFailure(StoredReplay.refused(replay.id, "it is not ready to answer"))
                }
                try put(step, replay.id, series, connection)
                try Self.exclude(connection)
                if try Self.isPending(replay.id, from: replay.plan.begin, to: replay.plan.end, connection) {
                    throw ServerFailure(StoredReplay.morePending)
                }
                var parameters = Parameters()
                parameters.add(replay.id)
                parameters.add(now.microseconds)
                parameters.add(step.events)
                parameters.add(step.changed)
                _ = try connection.query(
                    """
                    UPDATE replays SET state = 'live', turns = turns + 1, swapped_us = $2::bigint,
                        scanned = scanned + $3::bigint, changed = changed + $4::bigint,
                        rank = (SELECT coalesce(max(rank), 0) + 1 FROM replays)
                    WHERE generation = $1::bigint
                    """, parameters)
                return try Self.find(replay.id, connection)
            }
        } catch {
            if error.reason == StoredReplay.morePending.reason { return nil }
            throw error
        }
    }

    package func revert(_ replay: StoredReplay) throws(RollupStoreError) -> StoredReplay? {
        try change { connection throws(ServerFailure) -> StoredReplay? in
            let stands = try Self.lock(replay.id, connection)
            if stands.state == .retired { return stands }
            _ = try Self.hold(replay, .live, connection)
            try Self.exclude(connection)
            for part in GenerationMap.below(replay.id, among: try GenerationMap.live(connection)) {
                if try Self.isPending(part.generation, from: part.begin, to: part.end, connection) { return nil }
            }
            _ = try Self.update(
                replay.id, "state = 'retired', turns = turns + 1, rank = NULL", while: .live, connection)
            return try Self.find(replay.id, connection)
        }
    }

    package func sweep(maxRows: Int) throws(RollupStoreError) -> Bool {
        try change { connection throws(ServerFailure) in
            try connection.execute("SELECT pg_advisory_xact_lock(\(AdvisoryLock.retention))")
            return try writer.sweepReplays(maxRows: Int64(maxRows), connection) <= 0
        }
    }
}

extension StoredReplay {
    fileprivate static let morePending = RollupStoreError(
        code: .unavailable, tried: "swap a replay", reason: "more events are pending", next: "It is tried again.")

    /// The latest first.
    fileprivate static func all(_ connection: Connection) throws(ServerFailure) -> [StoredReplay] {
        let rows = try connection.query(
            """
            SELECT p.generation, p.state, p.asked, p.from_us, p.to_us, p.rules, r.text, p.prices, p.is_dry_run, p.epoch,
                p.cursor_time_us, p.cursor_id, p.is_scanned, p.scanned, p.total, p.changed, p.created_us, p.swapped_us,
                p.log_scan, p.workspace
            FROM replays p LEFT JOIN rules r ON r.fingerprint = p.rules ORDER BY p.generation DESC
            """)
        var all: [StoredReplay] = []
        for row in 0..<rows.count {
            func time(_ column: Int32) -> EventTime { EventTime(microseconds: rows.integer(row, column)) }
            let rules = rows.isNull(row, 5) ? nil : RulesText(fingerprint: rows.text(row, 5), text: rows.text(row, 6))
            let plan = ReplayPlan(
                asked: rows.text(row, 2), from: time(3), to: time(4), rules: rules,
                prices: rows.isNull(row, 7) ? nil : rows.text(row, 7), isDryRun: rows.integer(row, 8) != 0,
                workspace: rows.isNull(row, 19) ? nil : rows.text(row, 19))
            let cursor =
                rows.isNull(row, 11) ? nil : EventPlace(time: time(10), id: EventID(rows.bytes(row, 11)))
            let log = try ServerFailure.passing { () throws(RollupStoreError) in
                try LogScan.stored(rows.text(row, 18), of: rows.integer(row, 0))
            }
            all.append(
                StoredReplay(
                    id: rows.integer(row, 0), state: State(rawValue: rows.text(row, 1)) ?? .cancelled, plan: plan,
                    epoch: rows.integer(row, 9), cursor: cursor, log: log, isScanned: rows.integer(row, 12) != 0,
                    scanned: rows.integer(row, 13), total: rows.integer(row, 14), changed: rows.integer(row, 15),
                    created: time(16), swapped: rows.isNull(row, 17) ? nil : time(17)))
        }
        return all
    }
}

extension GenerationMap {
    static func read(_ connection: Connection) throws(ServerFailure) -> GenerationMap {
        GenerationMap(live: try live(connection))
    }

    /// In the order of their swaps.
    static func live(_ connection: Connection) throws(ServerFailure) -> [Segment] {
        let rows = try connection.query(
            "SELECT generation, begin_us, end_us FROM replays WHERE state = 'live' ORDER BY rank")
        return (0..<rows.count).map { Segment(rows, $0) }
    }
}

extension GenerationMap.Segment {
    /// Of a row: generation, begin, end.
    fileprivate init(_ rows: Rows, _ row: Int) {
        self.init(
            begin: EventTime(microseconds: rows.integer(row, 1)), end: EventTime(microseconds: rows.integer(row, 2)),
            generation: rows.integer(row, 0))
    }
}

extension ReplayScope {
    static func read(_ connection: Connection) throws(ServerFailure) -> ReplayScope {
        let rows = try connection.query(
            """
            SELECT generation, begin_us, end_us, state = 'live' FROM replays WHERE state IN ('building', 'live')
            ORDER BY rank
            """)
        let all = 0..<rows.count
        return ReplayScope(
            tracked: all.map { GenerationMap.Segment(rows, $0) },
            live: all.filter { rows.integer($0, 3) != 0 }.map { GenerationMap.Segment(rows, $0) })
    }
}

extension ServerFailure {
    /// A decision of ours, within a transaction.
    fileprivate static func passing<Answer>(
        _ body: () throws(RollupStoreError) -> Answer
    ) throws(ServerFailure) -> Answer {
        do throws(RollupStoreError) { return try body() } catch { throw ServerFailure(error) }
    }

    /// What came out of a scan, whose type is not known.
    fileprivate static func reading(_ error: any Error) -> ServerFailure {
        error as? ServerFailure ?? ServerFailure(RollupStoreError.reading(error))
    }
}
