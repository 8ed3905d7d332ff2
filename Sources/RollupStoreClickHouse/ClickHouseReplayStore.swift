// Replays in the ClickHouse store, beside its writers: each call reads one state, or takes one step (StoreState+Replays).
//
// A step's rows are inserted under a number and come to count with the slot that says so, as a batch's do
// (ClickHouseRollupWriter.swift). What is asked of the state that a step follows from, whether the replay is still the
// caller's and what is pending, is asked again each time that another writer has won the slot: so it holds of the very
// state before it. What is pending there is a matter of rows that never change, noted and settled under numbers that
// count, and cannot change between the look and the slot.
//
// A step whose answer was lost is known again when it is asked for again (ReplayDeed), and not taken twice.

import EventCodec
package import Events
import RecordLog
package import RollupStore
package import Rollups

package final class ClickHouseReplayStore: ReplayStore {
    private let writer: ClickHouseRollupWriter
    private let limits: ClickHouseRollupStore.Limits
    private let memory = SeriesMemory()

    init(_ writer: ClickHouseRollupWriter, _ limits: ClickHouseRollupStore.Limits) {
        self.writer = writer
        self.limits = limits
    }

    package func close() { writer.close() }

    /// A connection, with nothing in doubt.
    private func opened() throws(RollupStoreError) -> Connection {
        let connection = try writer.opened()
        _ = try writer.settleDoubt(connection)
        return connection
    }

    // MARK: Which there are

    package func list() throws(RollupStoreError) -> [StoredReplay] {
        let connection = try opened()
        return try stored(try writer.latest(connection).replays.reversed(), connection)
    }

    private func stored(
        _ replays: [StoreState.Replay], _ connection: Connection
    ) throws(RollupStoreError) -> [StoredReplay] {
        if replays.isEmpty { return [] }
        let numbers = replays.map { "\($0.number)" }.joined(separator: ", ")
        var texts: [Int64: (asked: String, prices: String)] = [:]
        var answer = try connection.select(
            ["number", "asked", "prices"], "FROM replay_plans WHERE number IN (\(numbers))", "read replays")
        while try answer.next() { texts[try answer.integer()] = (try answer.text(), try answer.text()) }
        var all: [StoredReplay] = []
        for replay in replays {
            guard let text = texts[replay.number] else {
                throw RollupStoreError(
                    code: .corrupt, tried: "read replay \(replay.generation)", reason: "its texts are missing",
                    next: "Restore the table replay_plans.")
            }
            let plan = ReplayPlan(
                asked: text.asked, from: replay.from, to: replay.to,
                rules: replay.rules.isEmpty ? nil : try writer.texts.rules(replay.rules, connection),
                prices: text.prices.isEmpty ? nil : text.prices, isDryRun: replay.isDryRun,
                workspace: replay.workspace.isEmpty ? nil : replay.workspace)
            all.append(StoredReplay(replay, plan))
        }
        return all
    }

    private func stored(
        _ id: Int64, _ state: StoreState, _ connection: Connection
    ) throws(RollupStoreError) -> StoredReplay {
        guard let found = state.replay(id), let replay = try stored([found], connection).first else {
            throw StoredReplay.unknown(id)
        }
        return replay
    }

    package func begin(
        _ plan: ReplayPlan, log: LogReach?, now: EventTime
    ) throws(RollupStoreError) -> StoredReplay {
        let connection = try opened()
        while true {
            var seen = try writer.latest(connection)
            if let same = try unfinished(plan, log, seen, connection) { return try takeOver(same, connection) }
            if let rules = plan.rules { try writer.keep(rules, connection) }
            let taken = try writer.takeNumber(connection)
            let number = taken.number
            seen = taken.state
            var text = NativeBlock(rows: 1)
            text.constant("number", number)
            text.strings("asked") { _ in Array(plan.asked.utf8) }
            text.strings("prices") { _ in Array((plan.prices ?? "").utf8) }
            try connection.insert(text, into: "replay_plans", token: "replay_plans-\(number)")
            while try unfinished(plan, log, seen, connection) == nil {
                var next = seen.next(by: number, settles: true, isLast: true)
                var scan: LogScan?
                if let log {
                    scan = try LogScan(
                        log, plan,
                        applied: seen.positions.filter { $0.generation == GenerationMap.first }
                            .map { ($0.ledger.partition, $0.ledger.next) })
                }
                let total = (scan?.total ?? 0) + (try total(plan, from: log?.until, seen, connection))
                let id = next.begin(plan, log: scan, number: number, total: total, now: now)
                if try writer.win(next, nil, connection) { return try stored(id, next, connection) }
                seen = try writer.latest(connection)
            }
        }
    }

    /// The unfinished replay of the same `asked`. Throws where the plan cannot begin.
    private func unfinished(
        _ plan: ReplayPlan, _ log: LogReach?, _ state: StoreState, _ connection: Connection
    ) throws(RollupStoreError) -> Int64? {
        let unfinished = try stored(state.replays.filter { $0.state == .building }, connection)
        if let same = unfinished.first(where: { $0.plan.asked == plan.asked }) { return same.id }
        if let other = unfinished.first(where: { $0.plan.overlaps(plan) }) { throw StoredReplay.overlapping(other) }
        try StoredReplay.check(plan, log, Self.bounds(state))
        return nil
    }

    package func bounds() throws(RollupStoreError) -> ReplayBounds { Self.bounds(try writer.latest(try opened())) }

    private static func bounds(_ state: StoreState) -> ReplayBounds {
        func kept(_ what: UInt8) -> EventTime? { state.retained[what].map { EventTime(microseconds: $0) } }
        return ReplayBounds(eventsFrom: kept(StoreState.events), daysFrom: kept(Grain.day.rawValue))
    }

    package func ingested() throws(RollupStoreError) -> Int64 { Self.ingested(try writer.latest(try opened())) }

    private static func ingested(_ state: StoreState) -> Int64 {
        state.positions.reduce(0) { $0 + $1.ledger.next.value }
    }

    /// - `from`: where that is later than the begin of the days.
    private func total(
        _ plan: ReplayPlan, from: EventTime?, _ state: StoreState, _ connection: Connection
    ) throws(RollupStoreError) -> Int64 {
        var total: Int64 = 0
        let days = (Grain.day.bucket(of: max(plan.begin, from ?? plan.begin)), Grain.day.bucket(of: plan.end))
        for part in state.generations.cut(.day, from: days.0, to: days.1) {
            total += try count(
                "sum(requests)",
                "FROM rollups WHERE generation = \(part.generation) AND bucket >= \(part.from) "
                    + "AND bucket < \(part.to) AND \(state.condition(of: .day))", connection)
        }
        return total
    }

    private func count(
        _ what: String, _ rows: String, _ connection: Connection
    ) throws(RollupStoreError) -> Int64 {
        var answer = try connection.select(["toInt64(\(what))"], rows, "count for a replay")
        return try answer.next() ? answer.integer() : 0
    }

    package func resume(_ id: Int64) throws(RollupStoreError) -> StoredReplay { try takeOver(id, try opened()) }

    private func takeOver(_ id: Int64, _ connection: Connection) throws(RollupStoreError) -> StoredReplay {
        try change(id, connection) { $0.takeOver(id) }
    }

    package func cancel(_ id: Int64) throws(RollupStoreError) -> StoredReplay {
        try change(id, try opened(), unless: .cancelled) { $0.cancel(id) }
    }

    /// A step without rows on an unfinished replay; one in the state `unless` is answered as it stands.
    private func change(
        _ id: Int64, _ connection: Connection, unless: StoredReplay.State? = nil, _ body: (inout StoreState) -> Void
    ) throws(RollupStoreError) -> StoredReplay {
        while true {
            let seen = try writer.latest(connection)
            guard let found = seen.replay(id) else { throw StoredReplay.unknown(id) }
            if found.state == unless { return try stored(id, seen, connection) }
            guard found.state == .building else { throw StoredReplay.refused(id, "it is \(found.state.rawValue)") }
            var next = seen.next(by: writer.number, settles: writer.isUntouched, isLast: true)
            body(&next)
            if try writer.win(next, nil, connection) { return try stored(id, next, connection) }
        }
    }

    // MARK: Reading

    private func snapshot(
        _ state: StoreState, _ connection: Connection, map: GenerationMap? = nil
    ) -> ClickHouseSnapshot {
        ClickHouseSnapshot(
            connection: connection, state: state, map: map ?? state.generations, memory: memory, texts: writer.texts,
            deadline: .now.advanced(by: .seconds(limits.readTime)))
    }

    package func scan(_ replay: StoredReplay, limit: Int) throws(RollupStoreError) -> ReplayPage {
        let connection = try opened()
        let state = try writer.latest(connection)
        try replay.checkScan(keptFrom: Self.bounds(state).eventsFrom)
        var snapshot = snapshot(state, connection)
        snapshot.firstPage = limit
        var read: [StoredEvent] = []
        do {
            try snapshot.scanEvents(
                from: replay.eventsBegin, to: replay.plan.end,
                before: replay.cursor.map { (time: $0.time, id: $0.id) }, series: .all
            ) {
                read.append($0)
                return read.count < limit
            }
        } catch {
            throw RollupStoreError.reading(error)
        }
        let ingested = Self.ingested(state)
        guard let last = read.last?.event, let first = read.first?.event else {
            return ReplayPage(events: [], cursor: replay.cursor, isEnd: true, ingested: ingested)
        }
        var pending: Set<EventID> = []
        let end = EventTime(microseconds: first.time.microseconds + 1)
        var rows = try connection.select(
            ["id"], state.pending(for: replay.id, from: last.time, to: end), "read what is pending")
        while try rows.next() { pending.insert(try EventID(&rows)) }
        return ReplayPage(
            events: try withSeries(read.filter { !pending.contains($0.event.id) }, state, connection),
            cursor: EventPlace(time: last.time, id: last.id), isEnd: read.count < limit, ingested: ingested)
    }

    package func pending(_ days: GenerationMap.Segment, limit: Int) throws(RollupStoreError) -> [ReplayEvent] {
        let connection = try opened()
        return try pending(days, limit, try writer.latest(connection), connection)
    }

    private func pending(
        _ days: GenerationMap.Segment, _ limit: Int, _ state: StoreState, _ connection: Connection
    ) throws(RollupStoreError) -> [ReplayEvent] {
        let places =
            "SELECT time_us, id \(state.pending(for: days.generation, from: days.begin, to: days.end)) "
            + "ORDER BY time_us, id LIMIT \(limit)"
        return try withSeries(try snapshot(state, connection).events(at: places, limit: limit), state, connection)
    }

    package func carried(
        _ days: GenerationMap.Segment, without workspace: String
    ) throws(RollupStoreError) -> CarriedRows {
        let connection = try opened()
        let state = try writer.latest(connection)
        try memory.update(state, connection)
        var carried = CarriedRows(without: workspace)
        let snapshot = snapshot(state, connection)
        do {
            try carried.add(days, snapshot, next: "Restore the table series.", key: memory.key)
        } catch {
            throw RollupStoreError.reading(error)
        }
        for event in try pending(days, .max, state, connection) { carried.add(pending: event) }
        return carried
    }

    private func withSeries(
        _ events: [StoredEvent], _ state: StoreState, _ connection: Connection
    ) throws(RollupStoreError) -> [ReplayEvent] {
        try memory.update(state, connection)
        return try ReplayEvent.all(events, next: "Restore the table series.", key: memory.key)
    }

    /// Of a replay that has ended nothing counts, whether its rows are deleted yet or not.
    package func rows(
        of generation: Int64?, from begin: EventTime, to end: EventTime, _ grain: Grain,
        _ body: (StoredRollup, SeriesKey) -> Void
    ) throws(RollupStoreError) {
        let connection = try opened()
        let state = try writer.latest(connection)
        var map: GenerationMap?
        if let generation {
            if state.replay(generation)?.hasEnded == true { return }
            map = GenerationMap(live: [GenerationMap.Segment(begin: begin, end: end, generation: generation)])
        }
        try memory.update(state, connection)
        do {
            try snapshot(state, connection, map: map).scanRollups(
                grain: grain, from: grain.bucket(of: begin), to: grain.bucket(of: end), series: .all, withBins: true
            ) { row in
                if let key = memory.key(of: row.series) { body(row, key) }
            }
        } catch {
            throw RollupStoreError.reading(error)
        }
    }

    package func timeline(without ids: Set<Int64>) throws(RollupStoreError) -> RulesTimeline {
        let connection = try opened()
        return try RulesTimeline.read(try writer.latest(connection), writer.texts, connection, without: ids)
    }

    package func live() throws(RollupStoreError) -> [GenerationMap.Segment] {
        try writer.latest(try opened()).live().map(\.days)
    }

    // MARK: Steps

    package func add(
        _ step: ReplayStep, to generation: Int64, under replay: StoredReplay
    ) throws(RollupStoreError) -> StoredReplay {
        let state: StoredReplay.State = generation == replay.id ? .building : .live
        let added = try take(
            step, generation, replay, isSwap: false,
            check: { (seen, _) throws(RollupStoreError) in
                try !StoredReplay(seen.hold(replay, state), replay.plan).hasTaken(step, after: replay)
            }, change: { $0.add(step, under: replay.id) })
        guard let stands = added ?? writer.state?.seen(replay) else { throw StoredReplay.unknown(replay.id) }
        return stands
    }

    package func swap(
        _ step: ReplayStep, _ replay: StoredReplay, now: EventTime
    ) throws(RollupStoreError) -> StoredReplay? {
        var last = step
        last.cursor = nil
        last.log = nil
        last.isScanned = false
        let swapped = try take(
            last, replay.id, replay, isSwap: true,
            check: { (seen, connection) throws(RollupStoreError) in
                if seen.seen(replay)?.isSwapped(by: replay) == true { return false }
                let found = try seen.hold(replay, .building)
                guard found.isScanned, !found.isDryRun else {
                    throw StoredReplay.refused(replay.id, "it is not ready to answer")
                }
                // What the step settles is pending, so that nothing else is where there is no more.
                let pending = seen.pending(for: replay.id, from: replay.plan.begin, to: replay.plan.end)
                return try self.count("count()", pending, connection) <= Int64(last.settled.count)
            },
            change: {
                $0.add(last, under: replay.id)
                $0.swap(replay.id, now: now)
            })
        if let swapped { return swapped }
        let stands = writer.state?.seen(replay)
        return stands?.isSwapped(by: replay) == true ? stands : nil
    }

    /// - `check`: of each state that the step might follow from; false: nothing is done.
    private func take(
        _ step: ReplayStep, _ generation: Int64, _ replay: StoredReplay, isSwap: Bool,
        check: (StoreState, Connection) throws(RollupStoreError) -> Bool, change: (inout StoreState) -> Void
    ) throws(RollupStoreError) -> StoredReplay? {
        let connection = try writer.opened()
        let deed = ReplayDeed(
            replay: replay.id, epoch: replay.epoch, generation: generation, cursor: step.cursor,
            log: step.log, isScanned: step.isScanned, events: step.events, settled: step.settled, isSwap: isSwap)
        // The deed is told once: nothing that can fail comes after.
        if case .replay(deed) = try writer.settleDoubt(connection) { return writer.state?.seen(replay) }
        // Whoever settles below a replay that answers may not come again: the number is given back each time.
        let isBelow = generation != replay.id
        let hasRows = !(step.delta.rows.isEmpty && step.revisions.isEmpty && step.settled.isEmpty)
        while true {
            var seen = try writer.latest(connection)
            if try !check(seen, connection) { return nil }
            var number: Int64?
            if hasRows {
                let taken = try writer.takeNumber(connection)
                seen = taken.state
                number = taken.number
                try writer.insert(step, generation, taken.number, seen.chunk(of: taken.number), connection)
            }
            while true {
                if try !check(seen, connection) { return nil }
                if let number { try checkSettled(step.settled, generation, number, seen, connection) }
                var next =
                    if let number {
                        seen.next(by: number, settles: true, isLast: isSwap || step.isScanned || isBelow)
                    } else {
                        seen.next(by: writer.number, settles: writer.isUntouched, isLast: true)
                    }
                change(&next)
                if try writer.win(next, .replay(deed), connection) {
                    writer.keepUp(connection)
                    return next.seen(replay)
                }
                seen = try writer.latest(connection)
                if let number, !seen.isUsable(number) { break }
            }
        }
    }

    /// Everything that the step settles, which stands under its number, is pending in this state.
    private func checkSettled(
        _ settled: [EventPlace], _ generation: Int64, _ number: Int64, _ state: StoreState, _ connection: Connection
    ) throws(RollupStoreError) {
        guard let begin = settled.map(\.time).min(), let last = settled.map(\.time).max() else { return }
        let end = EventTime(microseconds: last.microseconds + 1)
        let pending = try count(
            "count()",
            "FROM replay_settled WHERE generation = \(generation) AND time_us >= \(begin.microseconds) "
                + "AND time_us < \(end.microseconds) AND number = \(number) "
                + "AND id IN (SELECT id \(state.pending(for: generation, from: begin, to: end)))", connection)
        guard pending == Int64(settled.count) else {
            throw StoredReplay.refused(generation, "an event is no longer pending")
        }
    }

    package func revert(_ replay: StoredReplay) throws(RollupStoreError) -> StoredReplay? {
        let connection = try opened()
        while true {
            let seen = try writer.latest(connection)
            if seen.replay(replay.id)?.state == .retired { return try stored(replay.id, seen, connection) }
            _ = try seen.hold(replay, .live)
            for part in seen.below(replay.id) {
                let pending = seen.pending(for: part.generation, from: part.begin, to: part.end)
                if try count("count()", pending, connection) > 0 { return nil }
            }
            var next = seen.next(by: writer.number, settles: writer.isUntouched, isLast: true)
            next.takeBack(replay.id)
            if try writer.win(next, nil, connection) { return try stored(replay.id, next, connection) }
        }
    }

    /// What has ended counts nowhere from that step on; its rows go when no read can still want them, here or with
    /// what is past its time. Never more than that: `maxRows` bounds nothing.
    package func sweep(maxRows: Int) throws(RollupStoreError) -> Bool {
        let connection = try opened()
        _ = try writer.latest(connection)
        try writer.deleteEnded(connection)
        return false
    }
}

extension StoreState {
    /// How a replay stands in it.
    fileprivate func seen(_ replay: StoredReplay) -> StoredReplay? {
        self.replay(replay.id).map { StoredReplay($0, replay.plan) }
    }
}

extension StoredReplay {
    fileprivate init(_ replay: StoreState.Replay, _ plan: ReplayPlan) {
        self.init(
            id: replay.generation, state: replay.state, plan: plan, epoch: replay.epoch, cursor: replay.cursor,
            log: replay.log, isScanned: replay.isScanned, scanned: replay.scanned, total: replay.total,
            changed: replay.changed, created: replay.created, swapped: replay.swapped)
    }
}
