// Replays in the embedded store, beside its writer: a connection of their own, short transactions.

import EventCodec
package import Events
import RecordLog
package import RollupStore
package import Rollups
import Threading

extension SQLiteRollupStore {
    /// For one thread. Any number of processes may have one.
    package func makeReplayStore() throws(RollupStoreError) -> SQLiteReplayStore {
        let connection = try Connection(path: path, access: .write)
        try connection.execute(
            "PRAGMA synchronous = NORMAL; PRAGMA cache_size = -\(Limits.writerCacheSize / 1024); "
                + "PRAGMA temp_store = MEMORY;")
        try connection.registerMergeBins()
        return SQLiteReplayStore(connection)
    }
}

package final class SQLiteReplayStore: ReplayStore {
    /// nil once closed.
    private var connection: Connection?
    private var numbers = SeriesNumbers()
    private let memory = SeriesMemory()

    init(_ connection: Connection) { self.connection = connection }

    package func close() { connection = nil }

    private func transaction<Result>(
        _ kind: String = "IMMEDIATE", _ body: (Connection) throws(RollupStoreError) -> Result
    ) throws(RollupStoreError) -> Result {
        guard let connection else {
            throw RollupStoreError(
                code: .configuration, tried: "replay", reason: "the store is closed", next: "Open another one.")
        }
        try connection.statement("BEGIN \(kind)").run()
        do {
            let result = try body(connection)
            try connection.statement("COMMIT").run()
            return result
        } catch {
            numbers.rolledBack()
            if connection.isInTransaction { try connection.statement("ROLLBACK").run() }
            throw error
        }
    }

    // MARK: Which there are

    package func list() throws(RollupStoreError) -> [StoredReplay] {
        try transaction("DEFERRED") { connection throws(RollupStoreError) in try StoredReplay.all(connection) }
    }

    private func find(_ id: Int64, _ connection: Connection) throws(RollupStoreError) -> StoredReplay {
        guard let found = try StoredReplay.all(connection).first(where: { $0.id == id }) else {
            throw StoredReplay.unknown(id)
        }
        return found
    }

    package func begin(
        _ plan: ReplayPlan, log: LogReach?, now: EventTime
    ) throws(RollupStoreError) -> StoredReplay {
        try transaction { connection throws(RollupStoreError) in
            let unfinished = try StoredReplay.all(connection).filter { $0.state == .building }
            if let same = unfinished.first(where: { $0.plan.asked == plan.asked }) {
                return try takeOver(same.id, connection)
            }
            if let other = unfinished.first(where: { $0.plan.overlaps(plan) }) { throw StoredReplay.overlapping(other) }
            try StoredReplay.check(plan, log, try bounds(connection))
            var scan: LogScan?
            if let log { scan = try LogScan(log, plan, applied: try offsets(connection)) }
            if let rules = plan.rules { try SQLiteRollupWriter.keep(rules, connection) }
            let insert = try connection.statement(
                """
                INSERT INTO replays (generation, state, asked, from_us, to_us, begin_us, end_us, rules, prices,
                    is_dry_run, epoch, total, created_us, log_scan, workspace)
                VALUES ((SELECT coalesce(max(generation), 1) + 1 FROM replays), 'building', ?1, ?2, ?3, ?4, ?5, ?6, ?7,
                    ?8, 1, ?9, ?10, ?11, ?12)
                """)
            insert.bind(1, copying: plan.asked)
            insert.bind(2, plan.from.microseconds)
            insert.bind(3, plan.to.microseconds)
            insert.bind(4, plan.begin.microseconds)
            insert.bind(5, plan.end.microseconds)
            if let rules = plan.rules { insert.bind(6, copying: rules.fingerprint) } else { insert.bind(6, nil) }
            if let prices = plan.prices { insert.bind(7, copying: prices) } else { insert.bind(7, nil) }
            insert.bind(8, plan.isDryRun ? 1 : 0)
            insert.bind(9, (scan?.total ?? 0) + (try total(plan, from: log?.until, connection)))
            insert.bind(10, now.microseconds)
            insert.bind(11, copying: scan?.text ?? "")
            if let workspace = plan.workspace { insert.bind(12, copying: workspace) } else { insert.bind(12, nil) }
            try insert.run()
            return try find(connection.lastRowID, connection)
        }
    }

    package func bounds() throws(RollupStoreError) -> ReplayBounds {
        try transaction("DEFERRED") { connection throws(RollupStoreError) in try bounds(connection) }
    }

    private func bounds(_ connection: Connection) throws(RollupStoreError) -> ReplayBounds {
        ReplayBounds(
            eventsFrom: try SQLiteSnapshot.retained(nil, connection),
            daysFrom: try SQLiteSnapshot.retained(.day, connection))
    }

    private func offsets(
        _ connection: Connection
    ) throws(RollupStoreError) -> [(partition: TopicPartition, next: Offset)] {
        let rows = try connection.statement("SELECT topic, partition, next_offset FROM offsets WHERE generation = ?1")
        rows.bind(1, GenerationMap.first)
        defer { rows.reset() }
        var all: [(partition: TopicPartition, next: Offset)] = []
        while try rows.step() {
            all.append(
                (
                    TopicPartition(topic: rows.text(0), partition: Int32(truncatingIfNeeded: rows.integer(1))),
                    Offset(rows.integer(2))
                ))
        }
        return all
    }

    package func ingested() throws(RollupStoreError) -> Int64 {
        try transaction("DEFERRED") { connection throws(RollupStoreError) in
            try connection.number("SELECT sum(next_offset) FROM offsets") ?? 0
        }
    }

    /// - `from`: where that is later than the begin of the days.
    private func total(
        _ plan: ReplayPlan, from: EventTime?, _ connection: Connection
    ) throws(RollupStoreError) -> Int64 {
        let sum = try connection.statement(
            "SELECT sum(requests) FROM rollups WHERE generation = ?1 AND grain = 2 AND bucket >= ?2 AND bucket < ?3")
        var total: Int64 = 0
        let days = (Grain.day.bucket(of: max(plan.begin, from ?? plan.begin)), Grain.day.bucket(of: plan.end))
        for part in try GenerationMap.read(connection).cut(.day, from: days.0, to: days.1) {
            sum.bind(1, part.generation)
            sum.bind(2, Int64(part.from))
            sum.bind(3, Int64(part.to))
            defer { sum.reset() }
            if try sum.step() { total += sum.optionalInteger(0) ?? 0 }
        }
        return total
    }

    package func resume(_ id: Int64) throws(RollupStoreError) -> StoredReplay {
        try transaction { connection throws(RollupStoreError) in
            let found = try find(id, connection)
            guard found.state == .building else { throw StoredReplay.refused(id, "it is \(found.state.rawValue)") }
            return try takeOver(id, connection)
        }
    }

    private func takeOver(_ id: Int64, _ connection: Connection) throws(RollupStoreError) -> StoredReplay {
        let raise = try connection.statement("UPDATE replays SET epoch = epoch + 1 WHERE generation = ?1")
        raise.bind(1, id)
        try raise.run()
        return try find(id, connection)
    }

    package func cancel(_ id: Int64) throws(RollupStoreError) -> StoredReplay {
        try transaction { connection throws(RollupStoreError) in
            let end = try connection.statement(
                "UPDATE replays SET state = 'cancelled', epoch = epoch + 1 WHERE generation = ?1 AND state = 'building'"
            )
            end.bind(1, id)
            try end.run()
            let isDone = connection.changes == 1
            let found = try find(id, connection)
            guard isDone || found.state == .cancelled else {
                throw StoredReplay.refused(id, "it is \(found.state.rawValue)")
            }
            return found
        }
    }

    // MARK: Reading

    private func snapshot(_ connection: Connection) throws(RollupStoreError) -> SQLiteSnapshot {
        SQLiteSnapshot(
            connection: connection, map: try GenerationMap.read(connection), memory: memory)
    }

    package func scan(_ replay: StoredReplay, limit: Int) throws(RollupStoreError) -> ReplayPage {
        try transaction("DEFERRED") { connection throws(RollupStoreError) in
            try replay.checkScan(keptFrom: try SQLiteSnapshot.retained(nil, connection))
            var read: [StoredEvent] = []
            do {
                try snapshot(connection).scanEvents(
                    from: replay.eventsBegin, to: replay.plan.end,
                    before: replay.cursor.map { (time: $0.time, id: $0.id) }, series: .all
                ) {
                    read.append($0)
                    return read.count < limit
                }
            } catch {
                throw RollupStoreError.reading(error)
            }
            let ingested = try connection.number("SELECT sum(next_offset) FROM offsets") ?? 0
            guard let last = read.last, let first = read.first else {
                return ReplayPage(events: [], cursor: replay.cursor, isEnd: true, ingested: ingested)
            }
            var pending: Set<EventID> = []
            let rows = try connection.statement(
                "SELECT id FROM replay_pending WHERE generation = ?1 AND time_us >= ?2 AND time_us <= ?3")
            rows.bind(1, replay.id)
            rows.bind(2, last.event.time.microseconds)
            rows.bind(3, first.event.time.microseconds)
            while try rows.step() { pending.insert(EventID(stored: rows.bytes(0))) }
            rows.reset()
            return ReplayPage(
                events: try withSeries(read.filter { !pending.contains($0.event.id) }, connection),
                cursor: EventPlace(time: last.event.time, id: last.event.id), isEnd: read.count < limit,
                ingested: ingested)
        }
    }

    package func pending(_ days: GenerationMap.Segment, limit: Int) throws(RollupStoreError) -> [ReplayEvent] {
        try transaction("DEFERRED") { connection throws(RollupStoreError) in try pending(days, limit, connection) }
    }

    private func pending(
        _ days: GenerationMap.Segment, _ limit: Int, _ connection: Connection
    ) throws(RollupStoreError) -> [ReplayEvent] {
        let rows = try connection.statement(
            "SELECT \(SQLiteSnapshot.eventColumns(isRevised: false)) FROM replay_pending p "
                + "JOIN events e ON e.time_us = p.time_us AND e.id = p.id "
                + "WHERE p.generation = ?1 AND p.time_us >= ?2 AND p.time_us < ?3 ORDER BY p.time_us, p.id LIMIT ?4"
        )
        rows.bind(1, days.generation)
        rows.bind(2, days.begin.microseconds)
        rows.bind(3, days.end.microseconds)
        rows.bind(4, Int64(limit))
        defer { rows.reset() }
        var read: [StoredEvent] = []
        while try rows.step() { read.append(try SQLiteSnapshot.event(rows)) }
        return try withSeries(read, connection)
    }

    package func carried(
        _ days: GenerationMap.Segment, without workspace: String
    ) throws(RollupStoreError) -> CarriedRows {
        try transaction("DEFERRED") { connection throws(RollupStoreError) in
            try memory.update(connection)
            var carried = CarriedRows(without: workspace)
            let snapshot = try snapshot(connection)
            do {
                try carried.add(days, snapshot, next: "Restore the store from a backup.", key: memory.key)
            } catch {
                throw RollupStoreError.reading(error)
            }
            for event in try pending(days, .max, connection) { carried.add(pending: event) }
            return carried
        }
    }

    private func withSeries(
        _ events: [StoredEvent], _ connection: Connection
    ) throws(RollupStoreError) -> [ReplayEvent] {
        try memory.update(connection)
        return try ReplayEvent.all(events, next: "Restore the store from a backup.", key: memory.key)
    }

    package func rows(
        of generation: Int64?, from begin: EventTime, to end: EventTime, _ grain: Grain,
        _ body: (StoredRollup, SeriesKey) -> Void
    ) throws(RollupStoreError) {
        try transaction("DEFERRED") { connection throws(RollupStoreError) in
            try memory.update(connection)
            let (from, to) = (grain.bucket(of: begin), grain.bucket(of: end))
            let live =
                if let generation {
                    [GenerationMap.Segment(begin: begin, end: end, generation: generation)]
                } else {
                    try GenerationMap.live(connection)
                }
            let snapshot = SQLiteSnapshot(connection: connection, map: GenerationMap(live: live), memory: memory)
            do {
                try snapshot.scanRollups(grain: grain, from: from, to: to, series: .all, withBins: true) { row in
                    if let key = memory.key(of: row.series) { body(row, key) }
                }
            } catch {
                throw RollupStoreError.reading(error)
            }
        }
    }

    package func timeline(without ids: Set<Int64>) throws(RollupStoreError) -> RulesTimeline {
        try transaction("DEFERRED") { connection throws(RollupStoreError) in
            try RulesTimeline.read(connection, without: ids)
        }
    }

    package func live() throws(RollupStoreError) -> [GenerationMap.Segment] {
        try transaction("DEFERRED") { connection throws(RollupStoreError) in try GenerationMap.live(connection) }
    }

    // MARK: Steps

    package func add(
        _ step: ReplayStep, to generation: Int64, under replay: StoredReplay
    ) throws(RollupStoreError) -> StoredReplay {
        try transaction { connection throws(RollupStoreError) in
            let found = try hold(replay, generation == replay.id ? .building : .live, connection)
            if try found.hasTaken(step, after: replay) { return found }
            try put(step, generation, connection)
            let move = try connection.statement(
                """
                UPDATE replays SET cursor_time_us = coalesce(?2, cursor_time_us), cursor_id = coalesce(?3, cursor_id),
                    is_scanned = max(is_scanned, ?4), scanned = scanned + ?5, changed = changed + ?6,
                    log_scan = coalesce(?7, log_scan)
                WHERE generation = ?1
                """)
            move.bind(1, replay.id)
            move.bind(2, step.cursor?.time.microseconds)
            if let id = step.cursor?.id { move.bindBlob(3, copying: id.bytes) } else { move.bind(3, nil) }
            move.bind(4, step.isScanned ? 1 : 0)
            move.bind(5, step.events)
            move.bind(6, step.changed)
            if let log = step.log { move.bind(7, copying: log.text) } else { move.bind(7, nil) }
            try move.run()
            failPoint("replay_added")
            return try find(replay.id, connection)
        }
    }

    private func hold(
        _ replay: StoredReplay, _ state: StoredReplay.State, _ connection: Connection
    ) throws(RollupStoreError) -> StoredReplay {
        let found = try find(replay.id, connection)
        try replay.check(state: found.state, epoch: found.epoch, is: state)
        return found
    }

    private func put(_ step: ReplayStep, _ generation: Int64, _ connection: Connection) throws(RollupStoreError) {
        let series = try numbers.resolve(step.series, connection)
        let insert = try connection.statement(
            """
            INSERT INTO revisions (generation, time_us, id, series, cost_nano_usd, price_version, metadata_status,
                metadata_conflicts, metadata_raw, metadata_extra)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
            """)
        for revision in step.revisions {
            insert.bind(1, generation)
            insert.bind(2, revision.time.microseconds)
            insert.bindBlob(3, copying: revision.id.bytes)
            insert.bind(4, series[Int(revision.series)])
            insert.bind(5, revision.cost?.amount)
            insert.bindText(6, copying: Array(revision.priceVersion.utf8))
            insert.bind(7, Int64(revision.metadataStatus.rawValue))
            insert.bind(8, Int64(revision.metadataConflicts))
            insert.bindText(9, copying: revision.metadataRaw)
            insert.bindText(10, copying: revision.extra)
            try insert.run()
        }
        try indexPairs(of: step.revisions, connection)
        try RollupRows.add(step.delta, series, connection) { _ in generation }
        let settle = try connection.statement(
            "DELETE FROM replay_pending WHERE generation = ?1 AND time_us = ?2 AND id = ?3")
        for place in step.settled {
            settle.bind(1, generation)
            settle.bind(2, place.time.microseconds)
            settle.bindBlob(3, copying: place.id.bytes)
            try settle.run()
            guard connection.changes == 1 else {
                throw StoredReplay.refused(generation, "an event is no longer pending")
            }
        }
    }

    /// Of those with other pairs than the event has, whose own are in the index.
    private func indexPairs(of revisions: [EventRevision], _ connection: Connection) throws(RollupStoreError) {
        let known = try connection.statement("SELECT metadata_extra FROM events WHERE time_us = ?1 AND id = ?2")
        var pairs = PairIndex()
        for revision in revisions where revision.extra.count > 2 {
            known.bind(1, revision.time.microseconds)
            known.bindBlob(2, copying: revision.id.bytes)
            defer { known.reset() }
            if try known.step(), known.bytes(0).elementsEqual(revision.extra) { continue }
            for pair in EventPairs.numbers(of: revision.extra) { pairs.note(pair, revision.time) }
        }
        try pairs.write(connection)
    }

    /// How many events are pending, counted up to `limit`.
    private func pending(
        _ generation: Int64, from: EventTime, to: EventTime, limit: Int, _ connection: Connection
    ) throws(RollupStoreError) -> Int64 {
        let rows = try connection.statement(
            "SELECT count(*) FROM (SELECT 1 FROM replay_pending "
                + "WHERE generation = ?1 AND time_us >= ?2 AND time_us < ?3 LIMIT ?4)")
        rows.bind(1, generation)
        rows.bind(2, from.microseconds)
        rows.bind(3, to.microseconds)
        rows.bind(4, Int64(limit))
        defer { rows.reset() }
        return try rows.step() ? rows.integer(0) : 0
    }

    package func swap(
        _ step: ReplayStep, _ replay: StoredReplay, now: EventTime
    ) throws(RollupStoreError) -> StoredReplay? {
        try transaction { (connection) throws(RollupStoreError) -> StoredReplay? in
            let stands = try find(replay.id, connection)
            if stands.isSwapped(by: replay) { return stands }
            _ = try hold(replay, .building, connection)
            // What the step settles is pending, so that nothing else is where there is no more.
            let settled = step.settled.count
            let pending = try pending(
                replay.id, from: replay.plan.begin, to: replay.plan.end, limit: settled + 1, connection)
            if pending > Int64(settled) { return nil }
            try put(step, replay.id, connection)
            let turn = try connection.statement(
                """
                UPDATE replays SET state = 'live', turns = turns + 1, swapped_us = ?2, scanned = scanned + ?3,
                    changed = changed + ?4, rank = (SELECT coalesce(max(rank), 0) + 1 FROM replays)
                WHERE generation = ?1 AND is_scanned = 1 AND is_dry_run = 0
                """)
            turn.bind(1, replay.id)
            turn.bind(2, now.microseconds)
            turn.bind(3, step.events)
            turn.bind(4, step.changed)
            try turn.run()
            guard connection.changes == 1 else { throw StoredReplay.refused(replay.id, "it is not ready to answer") }
            failPoint("replay_swapped")
            return try find(replay.id, connection)
        }
    }

    package func revert(_ replay: StoredReplay) throws(RollupStoreError) -> StoredReplay? {
        try transaction { (connection) throws(RollupStoreError) -> StoredReplay? in
            let stands = try find(replay.id, connection)
            if stands.state == .retired { return stands }
            _ = try hold(replay, .live, connection)
            for part in GenerationMap.below(replay.id, among: try GenerationMap.live(connection)) {
                let pending = try pending(part.generation, from: part.begin, to: part.end, limit: 1, connection)
                if pending > 0 { return nil }
            }
            let turn = try connection.statement(
                "UPDATE replays SET state = 'retired', turns = turns + 1, rank = NULL WHERE generation = ?1")
            turn.bind(1, replay.id)
            try turn.run()
            return try find(replay.id, connection)
        }
    }

    package func sweep(maxRows: Int) throws(RollupStoreError) -> Bool {
        try transaction { connection throws(RollupStoreError) in
            try Self.sweep(maxRows: Int64(maxRows), connection) <= 0
        }
    }

    /// What is left of `maxRows`.
    static func sweep(maxRows: Int64, _ connection: Connection) throws(RollupStoreError) -> Int64 {
        var left = maxRows
        let over = "SELECT generation FROM replays WHERE state IN ('retired', 'cancelled')"
        for (table, key) in [
            ("rollups", "generation, grain, bucket, series"), ("revisions", "generation, time_us, id"),
            ("replay_pending", "generation, time_us, id"),
        ] where left > 0 {
            let rows = try connection.statement(
                "DELETE FROM \(table) WHERE (\(key)) IN "
                    + "(SELECT \(key) FROM \(table) WHERE generation IN (\(over)) LIMIT ?1)")
            rows.bind(1, left)
            try rows.run()
            left -= Int64(connection.changes)
        }
        return left
    }
}

extension StoredReplay {
    static func all(_ connection: Connection) throws(RollupStoreError) -> [StoredReplay] {
        let rows = try connection.statement(
            """
            SELECT p.generation, p.state, p.asked, p.from_us, p.to_us, p.rules, r.text, p.prices, p.is_dry_run, p.epoch,
                p.cursor_time_us, p.cursor_id, p.is_scanned, p.scanned, p.total, p.changed, p.created_us, p.swapped_us,
                p.log_scan, p.workspace
            FROM replays p LEFT JOIN rules r ON r.fingerprint = p.rules ORDER BY p.generation DESC
            """)
        defer { rows.reset() }
        var all: [StoredReplay] = []
        while try rows.step() {
            let rules = rows.isNull(5) ? nil : RulesText(fingerprint: rows.text(5), text: rows.text(6))
            let plan = ReplayPlan(
                asked: rows.text(2), from: EventTime(microseconds: rows.integer(3)),
                to: EventTime(microseconds: rows.integer(4)), rules: rules, prices: rows.isNull(7) ? nil : rows.text(7),
                isDryRun: rows.integer(8) != 0, workspace: rows.isNull(19) ? nil : rows.text(19))
            let cursor = rows.optionalInteger(10).map {
                EventPlace(time: EventTime(microseconds: $0), id: EventID(stored: rows.bytes(11)))
            }
            all.append(
                StoredReplay(
                    id: rows.integer(0), state: State(rawValue: rows.text(1)) ?? .cancelled, plan: plan,
                    epoch: rows.integer(9), cursor: cursor,
                    log: try LogScan.stored(rows.text(18), of: rows.integer(0)), isScanned: rows.integer(12) != 0,
                    scanned: rows.integer(13), total: rows.integer(14), changed: rows.integer(15),
                    created: EventTime(microseconds: rows.integer(16)),
                    swapped: rows.optionalInteger(17).map { EventTime(microseconds: $0) }))
        }
        return all
    }
}

extension GenerationMap {
    static func read(_ connection: Connection) throws(RollupStoreError) -> GenerationMap {
        GenerationMap(live: try live(connection))
    }

    /// In the order of their swaps.
    static func live(_ connection: Connection) throws(RollupStoreError) -> [Segment] {
        let rows = try connection.statement(
            "SELECT generation, begin_us, end_us FROM replays WHERE state = 'live' ORDER BY rank")
        defer { rows.reset() }
        var live: [Segment] = []
        while try rows.step() { live.append(Segment(rows)) }
        return live
    }
}

extension GenerationMap.Segment {
    /// Of a row: generation, begin, end.
    fileprivate init(_ row: Statement) {
        self.init(
            begin: EventTime(microseconds: row.integer(1)), end: EventTime(microseconds: row.integer(2)),
            generation: row.integer(0))
    }
}

extension ReplayScope {
    static func read(_ connection: Connection) throws(RollupStoreError) -> ReplayScope {
        let rows = try connection.statement(
            """
            SELECT generation, begin_us, end_us, state = 'live' FROM replays WHERE state IN ('building', 'live')
            ORDER BY rank
            """)
        defer { rows.reset() }
        var tracked: [GenerationMap.Segment] = []
        var live: [GenerationMap.Segment] = []
        while try rows.step() {
            tracked.append(GenerationMap.Segment(rows))
            if rows.integer(3) != 0 { live.append(GenerationMap.Segment(rows)) }
        }
        return ReplayScope(tracked: tracked, live: live)
    }
}

extension EventID {
    /// Of 16 stored bytes; what is no id becomes zero, and is found nowhere.
    init(stored bytes: UnsafeRawBufferPointer) {
        guard bytes.count == 16 else {
            self.init(high: 0, low: 0)
            return
        }
        self.init(
            high: UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 0, as: UInt64.self)),
            low: UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self)))
    }
}
