// Batches as applied -> when to look at the hours they went to, and what follows for the classes of keys.
//
// What is looked at are the store's own hour rows, which all consumers have counted together and which a restart leaves
// as they are. A verdict becomes an entry of the rules timeline from the next hour on, so it is made once, holds for late
// events and in a replay, and the next evidence is of hours behind it.
//
// An hour cannot have more rows than its batches together. So where batches are summed up well, nothing is looked at;
// else a look is due once the last one's time has passed fifty times, and when an hour comes to as many events as it
// takes for any key to go.

import Events
package import Normalizer
package import RollupStore
import Rollups

package struct ClassObserver: Sendable {
    package struct Verdict: Sendable {
        package var change: RulesChange
        package var rules: RulesText
        package var classes: [[UInt8]: Rules.Observed]
        /// Of the timeline that the evidence is of.
        package var version: Int64
    }

    /// | limit | value | why | at the limit |
    /// | --- | --- | --- | --- |
    /// | rows | 200,000 | some 50 MB while a look lasts | an hour with more is not looked at: it was, while it had fewer |
    /// | hours | 168 | in a week slow stores come to many events too | what is older says nothing of now |
    /// | keys | 1,000 | the timeline's text names each, and entities have rollups of their own | the others stay dimensions, within the budgets; said once, until there is room again |
    /// | share | 1/50 of the time, and a look an hour | batches go first | the next look waits |
    package static let maxRows = 200_000
    private static let hours: Int32 = 168
    package static let maxKeys = 1_000
    private static let share = 50

    private var version: Int64 = 0
    private var rules: Rules?
    private var configured = ""
    /// The first hour that is wholly under the rules in force.
    private var first: Int32 = 0
    /// The one that the last batch was of.
    private var hour: Int32 = 0
    /// Of that hour, in batches one after the other; nil: its time to look has been.
    private var hourEvents: Int64? = 0
    /// Since the last look: events, and rows of hours by batch.
    private var events: Int64 = 0
    private var rows: Int64 = 0
    private var notBefore: ContinuousClock.Instant?
    private var isWaiting = false
    /// Keys were to get another class and did not: so many have one by observation already.
    package private(set) var isFull = false

    package init() {}

    /// From here on evidence is of this timeline.
    package mutating func use(_ timeline: RulesTimeline) throws(RollupStoreError) {
        isWaiting = false
        guard timeline.version != version, let last = timeline.entries.last else { return }
        let rules = try last.rules.rules()
        self.rules = rules
        if rules.observed.count < Self.maxKeys { isFull = false }
        configured = last.rules.configured
        version = timeline.version
        // Where a workspace has been put under rules of its own, until they end.
        let from = timeline.workspaces.values.compactMap { $0.last?.from }.reduce(last.from, max)
        let whole = EventTime(microseconds: from.microseconds - 1)
        first = from.microseconds == 0 ? 0 : Grain.hour.bucket(of: whole) + 1
        events = 0
        rows = 0
    }

    package mutating func applied(_ batch: SealedBatch) {
        guard batch.rulesVersion == version else { return }
        guard let limits = rules?.observation else { return }
        var found: [Int32: Int64] = [:]
        for row in batch.delta.rows where row.grain == .hour && row.bucket >= first {
            found[row.bucket, default: 0] &+= row.measures.requests
            events &+= row.measures.requests
            rows += 1
        }
        // One event of a clock that runs ahead is not what the batch is of.
        guard let most = found.max(by: { ($0.value, $0.key) < ($1.value, $1.key) }) else { return }
        if most.key != hour {
            hour = most.key
            hourEvents = 0
        }
        hourEvents? &+= most.value
        if events >= Int64(limits.events), rows * 100 / Int64(limits.rowsPercent) < events {
            events = 0
            rows = 0
        }
    }

    package func isDue(at now: ContinuousClock.Instant) -> Bool {
        guard let limits = rules?.observation, limits.isEnabled, !isWaiting, events >= Int64(limits.events) else {
            return false
        }
        if let hourEvents, hourEvents >= Int64(limits.hourEvents) { return true }
        return notBefore.map { $0 <= now } ?? true
    }

    /// Reads what there is to see. A verdict is to be answered by `use`.
    package mutating func look(
        at now: () -> ContinuousClock.Instant, _ read: (Int32, Int) throws -> [HourRow]?
    ) rethrows -> Verdict? {
        let began = now()
        defer { notBefore = now().advanced(by: began.duration(to: now()) * Self.share) }
        guard let rules else { return nil }
        events = 0
        rows = 0
        if let seen = hourEvents, seen >= Int64(rules.observation.hourEvents) { hourEvents = nil }
        var evidence = ClassEvidence()
        var left = Self.maxRows
        var bucket = hour
        while bucket >= first, bucket > hour - Self.hours, left > 0,
            evidence.events < Int64(rules.observation.hourEvents),
            let rows = try read(bucket, left)
        {
            evidence.add(bucket, rows)
            left -= rows.count
            bucket -= 1
        }
        let (classes, isCut) = evidence.verdict(under: rules, room: max(0, Self.maxKeys - rules.observed.count))
        if isCut { isFull = true }
        guard !classes.isEmpty else { return nil }
        isWaiting = true
        let text = RulesText(rules.observing(classes, configured: configured))
        return Verdict(change: .observed(text, over: version), rules: text, classes: classes, version: version)
    }
}
