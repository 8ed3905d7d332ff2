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
        var isDryRun: Bool
        var epoch: Int64
        var cursor: EventPlace?
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
        var days: (begin: EventTime, end: EventTime) {
            let plan = ReplayPlan(asked: "", from: from, to: to, rules: nil, prices: nil, isDryRun: isDryRun)
            return (plan.begin, plan.end)
        }

        var hasEnded: Bool { state == .retired || state == .cancelled }
    }

    /// Another one after each change of what rules hold for what time.
    var rulesVersion: Int64 { replays.reduce(Int64(rules.count)) { $0 + $1.turns } }

    func replay(_ id: Int64) -> Replay? { replays.first { $0.generation == id } }

    /// In the order of their swaps.
    func live(without: Int64? = nil) -> [Replay] {
        replays.filter { $0.state == .live && $0.generation != without }.sorted { $0.rank < $1.rank }
    }

    /// - `without`: as if this one were not there.
    func generations(without: Int64? = nil) -> GenerationMap {
        GenerationMap(
            live: live(without: without).map { replay in
                let days = replay.days
                return (replay.generation, days.begin, days.end)
            })
    }

    /// What answers again where this live replay answers now.
    func below(_ id: Int64) -> [GenerationMap.Segment] {
        let without = generations(without: id)
        return generations().segments.filter { $0.generation == id }.flatMap { own in
            without.cutEvents(from: own.begin, to: own.end).map {
                GenerationMap.Segment(begin: $0.from, end: $0.to, generation: $0.generation)
            }
        }
    }

    var scope: ReplayScope {
        if replays.isEmpty { return ReplayScope() }
        return ReplayScope(
            map: generations(),
            tracked: replays.filter { !$0.hasEnded }.map { replay in
                let days = replay.days
                return GenerationMap.Segment(begin: days.begin, end: days.end, generation: replay.generation)
            })
    }

    // MARK: Steps

    /// The compare-and-set of every step: the replay is still the caller's, and in this state.
    func hold(_ replay: StoredReplay, _ state: StoredReplay.State) throws(RollupStoreError) -> Replay {
        guard let found = self.replay(replay.id) else { throw StoredReplay.unknown(replay.id) }
        guard found.state == state else { throw StoredReplay.refused(replay.id, "it is \(found.state.rawValue)") }
        guard found.epoch == replay.epoch else {
            throw StoredReplay.refused(replay.id, "another command goes on with it")
        }
        return found
    }

    mutating func begin(_ plan: ReplayPlan, number: Int64, total: Int64, now: EventTime) -> Int64 {
        let generation = (replays.map(\.generation).max() ?? GenerationMap.first) + 1
        replays.append(
            Replay(
                generation: generation, state: .building, number: number, from: plan.from, to: plan.to,
                rules: plan.rules?.fingerprint ?? "", isDryRun: plan.isDryRun, epoch: 1, cursor: nil, isScanned: false,
                scanned: 0, total: total, changed: 0, created: now, swapped: nil, rank: 0, turns: 0))
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
            $0.isScanned = $0.isScanned || step.isScanned
            $0.scanned += step.events
            $0.changed += Int64(step.revisions.count)
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

    /// Events that are pending for a generation: noted, and not settled.
    func pending(for generation: Int64, from: EventTime, to: EventTime) -> String {
        let rows = "WHERE generation = \(generation) AND \(eventCondition(from: from, to: to))"
        return "FROM replay_pending \(rows) AND id NOT IN (SELECT id FROM replay_settled \(rows))"
    }
}

/// What ingest must know of replays while it applies a batch.
struct ReplayScope: Equatable {
    var map = GenerationMap()
    /// Every generation that counts events of a range, whether it answers or not; the first one is not among them.
    var tracked: [GenerationMap.Segment] = []

    /// The generations that an event is pending for.
    func pending(at time: EventTime) -> [Int64] {
        let answering = map.generation(at: time)
        var others = tracked.filter { $0.begin <= time && time < $0.end && $0.generation != answering }.map(
            \.generation)
        if answering != GenerationMap.first { others.append(GenerationMap.first) }
        return others
    }
}
