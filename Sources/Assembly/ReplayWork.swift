// What was asked for -> a plan -> its end. The command and the API replay by this alike; they differ in how they wait.

import CaptureProxy
import Configuration
import Events
import Ingest
import JSONText
import Normalizer
import QueryAPI
import RecordLog
import Replay
import RollupStore
import Rollups
import Telemetry
import Threading

extension ReplayPlan {
    /// - `to`: nil, or an end in the future, means now.
    /// - `timeline`: the store's. What was observed of keys before `from` holds on under these rules: rollups of the range
    ///   have no such key. What was observed later does not: there rollups have it, and the events may be gone.
    /// - `prices`: a price table's text, which was read once already.
    /// - `source`: as it was given.
    init(
        from: EventTime, to: EventTime?, rules: Rules?, prices: String?, isDryRun: Bool, workspace: String?,
        source: String? = nil, timeline: RulesTimeline, now: EventTime
    ) throws(RollupStoreError) {
        // What a plan has in common with itself: asked for a second time, it finds its unfinished replay.
        var members: [(String, JSONValue)] = [
            ("from", .string(RFC3339.precise(from))), ("to", .string(to.map { RFC3339.precise($0) } ?? "now")),
            ("rules", .string(rules.map { RulesText($0).fingerprint } ?? "")), ("prices", .string(prices ?? "")),
            ("dry_run", .boolean(isDryRun)),
        ]
        if let workspace { members.append(("workspace", .string(workspace))) }
        if let source { members.append(("source", .string(source))) }
        var text: RulesText?
        if let rules {
            var before = timeline
            before.entries = timeline.entries.filter { $0.from <= from }
            text = try RulesText.succeeding(before, rules)
        }
        self.init(
            asked: JSONValue.object(members.map { JSONMember(key: $0, value: $1) }).text, from: from,
            to: min(to ?? now, now), rules: text, prices: prices, isDryRun: isDryRun, workspace: workspace)
    }
}

/// One thread's work on the replays of a store.
struct ReplayWork {
    enum Ending {
        case swapped(StoredReplay)
        /// A dry run, and given up: what would change, largest first. Exact where nothing of its days came meanwhile.
        case looked(StoredReplay, changes: [ReplayDifference.Change], isExact: Bool)
        /// Asked to stop; it can be resumed.
        case stopped(StoredReplay)
    }

    private let open: OpenStore
    private let history: any RecordLogHistory
    private let normalizer: Normalizer
    private let wait: (Duration) -> Bool

    /// - `rules`: those of the plan, which may need a key where the configured ones do not.
    /// - `wait`: waits that long; true: stop.
    init(
        _ configuration: MillraceConfiguration, _ open: OpenStore, configured: Rules, rules: Rules? = nil,
        wait: @escaping (Duration) -> Bool
    ) throws {
        let needing = if let rules, rules.needsHashKey { rules } else { configured }
        if let problem = Preparation.missingHashKey(configuration, needing) { throw Failure(problem, status: 2) }
        self.open = open
        history = Preparation.history(configuration, Log(role: "replay"))
        normalizer = try Preparation.normalizer(configuration, needing)
        self.wait = wait
    }

    /// The rules of a stored plan.
    static func rules(of plan: ReplayPlan) throws -> Rules? {
        try plan.rules.map { try Rules.decode(try JSONValue.parse($0.text), isStored: true) }
    }

    /// Where days are read that the store has no longer the events of; nil: there are none, or they are not to be read.
    func reach(_ plan: ReplayPlan, _ store: inout any ReplayStore) throws -> LogReach? {
        // The same one goes on where it stands, wherever the log begins by now.
        if try store.list().contains(where: { $0.state == .building && $0.plan.asked == plan.asked }) { return nil }
        return try LogCoverage.reach(plan, try store.bounds(), history)
    }

    /// To the end, or until `wait` says to stop. The thread gives way to others from then on.
    ///
    /// - `rate`: events a second at the most.
    /// - `unreadable`: told of records of the log that could not be counted, as when they came first.
    func run(
        _ replay: StoredReplay, rate: Int?, progress: @escaping (StoredReplay) -> Void,
        unreadable: (Int64) -> Void = { _ in }
    ) throws -> Ending {
        giveWay(niceness: 10)
        var options = ReplayOptions()
        options.rate = rate
        let reprice = try replay.plan.prices.map { try Self.reprice($0) }
        var store = try open.makeReplayStore()
        defer { store.close() }
        var replayer = Replayer(
            store, ahead: try open.makeReplayStore(), log: history, normalizer: normalizer, options: options,
            now: SystemFacts.now, wait: wait,
            progress: progress)
        let repriced = replay.log == nil ? [] : try Self.repricings(try store.list(), without: replay.id)
        let ending = try replayer.run(replay, reprice: reprice, repriced: repriced)
        if replayer.unreadable > 0 { unreadable(replayer.unreadable) }
        switch ending {
        case .swapped(let done): return .swapped(done)
        case .stopped(let left): return .stopped(left)
        case .built(let built):
            guard let (changes, isExact) = try difference(built, &replayer, reprice) else { return .stopped(built) }
            _ = try store.cancel(built.id)
            try replayer.sweep()
            return .looked(built, changes: changes, isExact: isExact)
        }
    }

    /// What answered before a live replay answers again.
    func revert(_ replay: StoredReplay) throws -> StoredReplay {
        var store = try open.makeReplayStore()
        defer { store.close() }
        var replayer = plainReplayer(store)
        let done = try replayer.revert(replay)
        try replayer.sweep()
        return done
    }

    /// Deletes the rows of what was given up.
    func sweep() throws {
        var store = try open.makeReplayStore()
        defer { store.close() }
        var replayer = plainReplayer(store)
        try replayer.sweep()
    }

    private func plainReplayer(_ store: any ReplayStore) -> Replayer {
        Replayer(store, normalizer: normalizer, now: SystemFacts.now, wait: wait)
    }

    /// What live replays have made of costs, the latest last: the log knows them as they were recorded.
    private static func repricings(_ all: [StoredReplay], without id: Int64) throws -> [Repricing] {
        let live = all.filter { $0.state == .live && $0.id != id }
            .sorted { ($0.swapped ?? $0.created) < ($1.swapped ?? $1.created) }
        var repricings: [Repricing] = []
        for other in live {
            guard let prices = other.plan.prices else { continue }
            repricings.append(
                Repricing(
                    from: other.plan.from, to: other.plan.to, workspace: other.plan.workspace,
                    reprice: try reprice(prices)))
        }
        return repricings
    }

    private static func reprice(_ prices: String) throws -> Reprice {
        let table = try PriceTable(json: Array(prices.utf8))
        return { event in
            table.cost(
                provider: event.provider, model: event.model, input: event.inputTokens, output: event.outputTokens,
                cached: event.cachedTokens
            ).map { ($0, table.version) }
        }
    }

    /// Against what answers now. Exact where nothing of these days came while both were read; nil: asked to stop.
    private func difference(
        _ built: StoredReplay, _ replayer: inout Replayer, _ reprice: Reprice?
    ) throws -> (changes: [ReplayDifference.Change], isExact: Bool)? {
        var store = try open.makeReplayStore()
        defer { store.close() }
        var difference = ReplayDifference()
        for _ in 0..<5 {
            if wait(.zero) { return nil }
            difference = ReplayDifference()
            guard case .built = try replayer.run(built, reprice: reprice) else { return nil }
            try store.rows(of: nil, built, .day) { difference.add($0, $1, isAfter: false) }
            try store.rows(of: built.id, built, .day) { difference.add($0, $1, isAfter: true) }
            if try store.pending(built.plan.days(of: built.id), limit: 1).isEmpty { return (difference.changes, true) }
        }
        return (difference.changes, false)
    }
}

extension ReplayDifference.Change {
    var json: JSONValue {
        [
            "day": .string(RFC3339.precise(day)), "key": .string(key), "value": .string(value),
            "measure": .string(measure), "before": JSONValue(before), "after": JSONValue(after),
            "difference": JSONValue(difference),
        ]
    }
}

/// Counts, in steps, what replays have still to count of events that are to go. The store is held open from the first step
/// of a pass of retention to its last.
///
/// @unchecked: for the consumer's writer thread alone.
final class ExpiringWork: @unchecked Sendable {
    private let open: OpenStore
    private let normalizer: Normalizer
    private var held: Replayer?

    init(_ open: OpenStore, _ normalizer: Normalizer) {
        self.open = open
        self.normalizer = normalizer
    }

    /// False where there were none.
    func settle(before boundary: EventTime) throws -> Bool {
        var replayer =
            try held
            ?? Replayer(open.makeReplayStore(), normalizer: normalizer, now: SystemFacts.now, wait: { _ in false })
        held = nil
        do throws(RollupStoreError) {
            if try replayer.settleExpiring(before: boundary, limit: RetentionSchedule.stepRows) {
                held = replayer
                return true
            }
        } catch {
            replayer.close()
            // Another consumer was quicker, or the replay was taken back meanwhile.
            if error.code == .staleEpoch { return false }
            throw error
        }
        replayer.close()
        return false
    }
}
