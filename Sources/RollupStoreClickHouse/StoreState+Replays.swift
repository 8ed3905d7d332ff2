// Replays as part of the state: begun, moved on, swapped in and taken back by steps like any other.

import Events
import RollupStore
import Rollups

extension StoreState {
    /// All of a replay but its texts.
    struct Replay: Sendable, Equatable {
        var generation: Int64
        var state: StoredReplay.State
        /// What its texts stand under in `replay_plans`.
        var number: Int64
        var from: EventTime
        var to: EventTime
        /// Fingerprint; empty: none of its own.
        var rules: String
        /// Whose events are changed; empty: those of all.
        var workspace: String
        var isDryRun: Bool
        var epoch: Int64
        var cursor: EventPlace?
        var log: LogScan?
        var isScanned: Bool
        var scanned: Int64
        var total: Int64
        var changed: Int64
        var created: EventTime
        var swapped: EventTime?
        /// Of those that are live and cover an instant the one with the greatest answers; 0: it is not live.
        var rank: Int64
        /// How often it came to answer or was taken back.
        var turns: Int64

        /// The whole days that it builds.
        var days: GenerationMap.Segment {
            ReplayPlan(asked: "", from: from, to: to, rules: nil, prices: nil, isDryRun: isDryRun).days(of: generation)
        }

        var hasEnded: Bool { state == .retired || state == .cancelled }
    }

    /// Another one after each change of what rules hold for what time.
    var rulesVersion: Int64 { replays.reduce(Int64(rules.count)) { $0 + $1.turns } }

    func replay(_ id: Int64) -> Replay? { replays.first { $0.generation == id } }

    /// In the order of their swaps.
    func live(without: Set<Int64> = []) -> [Replay] {
        replays.filter { $0.state == .live && !without.contains($0.generation) }.sorted { $0.rank < $1.rank }
    }

    var generations: GenerationMap { GenerationMap(live: live().map(\.days)) }

    /// What answers again where this live replay answers now.
    func below(_ id: Int64) -> [GenerationMap.Segment] { GenerationMap.below(id, among: live().map(\.days)) }

    var scope: ReplayScope {
        ReplayScope(tracked: replays.filter { !$0.hasEnded }.map(\.days), live: live().map(\.days))
    }

    // MARK: Steps

    func hold(_ replay: StoredReplay, _ state: StoredReplay.State) throws(RollupStoreError) -> Replay {
        guard let found = self.replay(replay.id) else { throw StoredReplay.unknown(replay.id) }
        try replay.check(state: found.state, epoch: found.epoch, is: state)
        return found
    }

    mutating func begin(
        _ plan: ReplayPlan, log: LogScan?, number: Int64, total: Int64, now: EventTime
    ) -> Int64 {
        let generation = (replays.map(\.generation).max() ?? GenerationMap.first) + 1
        replays.append(
            Replay(
                generation: generation, state: .building, number: number, from: plan.from, to: plan.to,
                rules: plan.rules?.fingerprint ?? "", workspace: plan.workspace ?? "", isDryRun: plan.isDryRun,
                epoch: 1, cursor: nil, log: log, isScanned: false, scanned: 0, total: total, changed: 0, created: now,
                swapped: nil, rank: 0, turns: 0))
        return generation
    }

    mutating func takeOver(_ id: Int64) { change(id) { $0.epoch += 1 } }

    mutating func cancel(_ id: Int64) {
        change(id) {
            $0.epoch += 1
            $0.state = .cancelled
        }
    }

    mutating func add(_ step: ReplayStep, under id: Int64) {
        change(id) {
            $0.cursor = step.cursor ?? $0.cursor
            $0.log = step.log ?? $0.log
            $0.isScanned = $0.isScanned || step.isScanned
            $0.scanned += step.events
            $0.changed += step.changed
        }
    }

    mutating func swap(_ id: Int64, now: EventTime) {
        let rank = (replays.map(\.rank).max() ?? 0) + 1
        change(id) {
            $0.state = .live
            $0.swapped = now
            $0.rank = rank
            $0.turns += 1
        }
    }

    mutating func takeBack(_ id: Int64) {
        change(id) {
            $0.state = .retired
            $0.rank = 0
            $0.turns += 1
        }
    }

    private mutating func change(_ id: Int64, _ body: (inout Replay) -> Void) {
        if let place = replays.firstIndex(where: { $0.generation == id }) { body(&replays[place]) }
    }

    // MARK: What counts, as conditions on rows

    /// On `events` and `revisions`, between two instants.
    func eventCondition(from: EventTime, to: EventTime) -> String {
        "time_us >= \(from.microseconds) AND time_us < \(to.microseconds) AND \(eventCondition)"
    }

    func revisions(of generation: Int64, from: EventTime, to: EventTime) -> String {
        "FROM revisions WHERE generation = \(generation) AND \(eventCondition(from: from, to: to))"
    }

    /// Days that an unfinished replay reads from the log: what comes late of them is kept until it is settled.
    func isHeld(day: Int64) -> Bool {
        replays.contains { replay in
            guard replay.state == .building, let log = replay.log else { return false }
            let begin = Int64(Grain.day.bucket(of: replay.days.begin))
            return day >= begin && day < Int64(Grain.day.bucket(of: log.until))
        }
    }

    /// Generations that count events of this day, whether they answer or could come to; the first one is among them where
    /// any other is.
    func counting(day: EventTime) -> [Int64] {
        let tracked = scope.tracked.filter { $0.begin <= day && day < $0.end }.map(\.generation)
        return tracked.isEmpty ? [] : [GenerationMap.first] + tracked
    }

    /// Events that are pending for a generation: noted, and not settled; also those that are past their retention.
    func pending(for generation: Int64, from: EventTime, to: EventTime) -> String {
        let rows =
            "WHERE generation = \(generation) AND time_us >= \(from.microseconds) AND time_us < \(to.microseconds) "
            + "AND \(condition)"
        return "FROM replay_pending \(rows) AND id NOT IN (SELECT id FROM replay_settled \(rows))"
    }
}
