// The smaller questions: events one by one, and which metadata keys and values there are.

package import Events
package import JSONText
package import RollupStore
import Rollups

/// Where a listing of events goes on: after this event, towards the past.
package struct EventCursor: Sendable, Equatable {
    package var time: EventTime
    package var id: EventID

    package init(time: EventTime, id: EventID) {
        self.time = time
        self.id = id
    }

    /// After the event with this id, where it is known: how one who has only seen events goes on.
    package init(after event: StoredEvent) { self.init(time: event.event.time, id: event.event.id) }

    /// As `text` wrote it; nil for anything else.
    package init?(text: String) {
        let parts = text.split(separator: "_", maxSplits: 1)
        guard parts.count == 2, let time = Int64(parts[0]), let id = EventID(text: parts[1]) else { return nil }
        self.init(time: EventTime(microseconds: time), id: id)
    }

    package var text: String { "\(time.microseconds)_\(id)" }
}

package struct EventPage: Sendable {
    /// Newest first.
    package var events: [JSONValue]
    /// nil at the end.
    package var next: EventCursor?
    /// Events before this instant are no longer kept; nil: all are.
    package var retainedFrom: EventTime?
}

package struct KeySummary: Sendable {
    package var key: String
    package var distinct: Int
    package var requests: Int64
    /// Of these, those with a value that a budget has filed under `(other)`.
    package var filed: Int64
    /// Of all requests of the range, 0 … 1.
    package var share: Double
    /// To the instant, where its events are kept; else to the finest rollup that is.
    package var firstSeen: EventTime
    package var lastSeen: EventTime
}

extension QueryEngine {
    package func events(
        matching condition: Condition?, from: EventTime, to: EventTime, after cursor: EventCursor?, limit: Int,
        workspace: String, snapshot: any RollupSnapshot,
        budget: QueryBudget = QueryBudget()
    ) throws(QueryError) -> EventPage {
        try storeErrorsNamed {
            let catalog = try catalog(workspace, snapshot)
            let verdicts = catalog.decide(
                condition, eventKeys: try eventKeys(from: from, to: to, of: workspace, snapshot), ofEvents: true)
            let positions = PositionIndex(catalog.ids)
            let selected = verdicts.indices.filter { verdicts[$0] != .fails }.map { catalog.ids[$0] }
            var page = EventPage(events: [], retainedFrom: try snapshot.retained(nil))
            var last: EventCursor?
            var passed = 0
            guard !selected.isEmpty else { return page }
            try reads(condition, from: from, to: to, of: workspace, catalog, snapshot).scan(
                from: from, to: to, before: cursor.map { ($0.time, $0.id) },
                series: selected.count == catalog.count ? .all : .only(selected), snapshot
            ) { stored in
                passed += 1
                guard let series = positions[stored.series], verdicts[series] != .fails,
                    condition?.holds(stored, series: series, catalog) ?? true
                else {
                    // Long without a match: the page ends short, and the next one begins here.
                    guard passed & 0xFFF == 0, budget.isSpent() else { return true }
                    page.next = EventCursor(after: stored)
                    return false
                }
                guard page.events.count < limit else {
                    page.next = last
                    return false
                }
                page.events.append(stored.json(of: workspace, series: series, catalog))
                last = EventCursor(after: stored)
                return true
            }
            return page
        }
    }

    /// nil where there is none, or another workspace has it.
    package func event(
        id: EventID, workspace: String, snapshot: any RollupSnapshot
    ) throws(QueryError) -> JSONValue? {
        try storeErrorsNamed {
            guard let stored = try snapshot.event(id: id) else { return nil }
            let catalog = try catalog(workspace, snapshot)
            guard let series = PositionIndex(catalog.ids)[stored.series] else { return nil }
            return stored.json(of: workspace, series: series, catalog)
        }
    }

    /// After the event of this id; nil where there is none, or another workspace has it.
    package func cursor(
        after id: EventID, workspace: String, snapshot: any RollupSnapshot
    ) throws(QueryError) -> EventCursor? {
        try storeErrorsNamed {
            guard let stored = try snapshot.event(id: id) else { return nil }
            let catalog = try catalog(workspace, snapshot)
            return PositionIndex(catalog.ids)[stored.series] == nil ? nil : EventCursor(after: stored)
        }
    }

    /// The keys with events in the range, most frequent first. Those that were no dimensions are looked for in events.
    package func metadataKeys(
        from: EventTime, to: EventTime, workspace: String, snapshot: any RollupSnapshot,
        budget: QueryBudget = QueryBudget()
    ) throws(QueryError) -> [KeySummary] {
        try storeErrorsNamed {
            let catalog = try catalog(workspace, snapshot)
            var summaries: [String: KeySummary] = [:]
            var values: [String: Set<String>] = [:]
            var ends: [String: (first: SeenTimes.Bucket, last: SeenTimes.Bucket)] = [:]
            func add(_ key: String, _ value: MetadataValue, _ seen: Activity) {
                let old = ends[key] ?? (seen.first, seen.last)
                ends[key] = (
                    seen.first.start < old.first.start ? seen.first : old.first,
                    seen.last.start > old.last.start ? seen.last : old.last
                )
                var summary =
                    summaries[key]
                    ?? KeySummary(
                        key: key, distinct: 0, requests: 0, filed: 0, share: 0, firstSeen: from, lastSeen: from)
                summary.requests += seen.requests
                if value == .filed { summary.filed += seen.requests }
                summaries[key] = summary
                values[key, default: []].formUnion(value == .filed ? [] : value.values)
            }
            let sets = try activity(catalog, from: from, to: to, snapshot, budget)
            for (set, seen) in sets {
                for (key, value) in catalog.sets[set] { add(catalog.keys[Int(key)], value, seen) }
            }
            let all = sets.values.reduce(0) { $0 + $1.requests }
            let nonDimensionKeys = try eventKeys(from: from, to: to, of: workspace, snapshot)
            try eachExtra(catalog, workspace, from: from, to: to, where: { !$0.isEmpty }, snapshot, budget) {
                key, value, time, isFiled in
                if isFiled {
                    // Counted by the set that says so.
                    values[key, default: []].formUnion(value.values)
                } else if nonDimensionKeys.contains(key) {
                    let instant = SeenTimes.Bucket(start: time.microseconds, length: 0)
                    add(key, value, Activity(requests: 1, first: instant, last: instant))
                }
            }
            for (key, found) in values { summaries[key]?.distinct = found.count }
            for (key, summary) in summaries where all > 0 {
                summaries[key]?.share = Double(summary.requests) / Double(all)
            }
            for (key, time) in try SeenTimes(.first, ends.mapValues(\.first)).narrowed(catalog, snapshot) {
                summaries[key]?.firstSeen = EventTime(microseconds: time)
            }
            for (key, time) in try SeenTimes(.last, ends.mapValues(\.last)).narrowed(catalog, snapshot) {
                summaries[key]?.lastSeen = EventTime(microseconds: time)
            }
            return summaries.values.sorted { a, b in
                a.requests != b.requests
                    ? a.requests > b.requests : a.key.utf8.lexicographicallyPrecedes(b.key.utf8)
            }
        }
    }

    /// The values of a key, most frequent first; each element of a list for itself.
    package func metadataValues(
        of key: String, prefix: String, limit: Int, from: EventTime, to: EventTime, workspace: String,
        snapshot: any RollupSnapshot, budget: QueryBudget = QueryBudget()
    ) throws(QueryError) -> [(value: String, requests: Int64)] {
        try storeErrorsNamed {
            let catalog = try catalog(workspace, snapshot)
            var counts: [String: Int64] = [:]
            func add(_ value: MetadataValue, _ requests: Int64) {
                for text in Set(value.values) where text.utf8.starts(with: prefix.utf8) {
                    counts[text, default: 0] += requests
                }
            }
            for (set, seen) in try activity(catalog, from: from, to: to, snapshot, budget) {
                for (number, value) in catalog.sets[set] where catalog.keys[Int(number)] == key {
                    add(value, seen.requests)
                }
            }
            try eachExtra(catalog, workspace, from: from, to: to, where: { $0.contains(key) }, snapshot, budget) {
                found, value, _, isFiled in
                if found == key && !isFiled { add(value, 1) }
            }
            let sorted = counts.sorted { a, b in
                a.value != b.value ? a.value > b.value : a.key.utf8.lexicographicallyPrecedes(b.key.utf8)
            }
            return sorted.prefix(limit).map { ($0.key, $0.value) }
        }
    }

    private struct Activity {
        var requests: Int64
        var first: SeenTimes.Bucket
        var last: SeenTimes.Bucket
    }

    /// The pairs that events carry beside their sets, of the eras whose non-dimension keys are wanted; whether the set
    /// has that key, filed under `(other)`.
    private func eachExtra(
        _ catalog: SeriesCatalog, _ workspace: String, from: EventTime, to: EventTime,
        where isWanted: (Set<String>) -> Bool, _ snapshot: any RollupSnapshot, _ budget: QueryBudget,
        _ body: (String, MetadataValue, EventTime, Bool) -> Void
    ) throws {
        let rules = try snapshot.rulesTimeline().entries(from: from, to: to, of: workspace)
        let eras = eras(from: from, to: to, under: rules) {
            isWanted(Set($0.keys)) ? .events("only events hold other keys") : .rollups
        }
        .filter { $0.onlyEvents != nil }
        if eras.isEmpty { return }
        let grid = BucketGrid(from: from, to: to, granularity: .total, zone: .utc)
        let stretches = try Planner.plan(eras, grid: grid, retention: try Retention(snapshot))
        let positions = PositionIndex(catalog.ids)
        var passed = 0
        var isTooLate = false
        for stretch in stretches where !isTooLate {
            try snapshot.scanEvents(
                from: EventTime(microseconds: stretch.from), to: EventTime(microseconds: stretch.to), before: nil,
                series: .all
            ) { stored in
                passed += 1
                if passed & 0xFFF == 0, budget.isSpent() { isTooLate = true }
                guard let position = positions[stored.series] else { return !isTooLate }
                let set = catalog.sets[Int(catalog.setOfSeries[position])]
                for (key, value) in metadataPairs(stored.extra) ?? [] {
                    let isFiled = set.contains { $0.value == .filed && catalog.keys[Int($0.key)] == key }
                    body(key, value, stored.event.time, isFiled)
                }
                return !isTooLate
            }
        }
        if isTooLate { throw QueryBudget.timedOut() }
    }

    /// For each metadata set with events in the range: how many, when.
    private func activity(
        _ catalog: SeriesCatalog, from: EventTime, to: EventTime, _ snapshot: any RollupSnapshot,
        _ budget: QueryBudget
    ) throws -> [Int: Activity] {
        let question = Question(from: from, to: to)
        let end = Planner.end(of: question, watermark: try snapshot.watermark)
        let grid = BucketGrid(from: from, to: end, granularity: .total, zone: .utc)
        let stretches = try Planner.plan(
            from: from, to: end, grid: grid, retention: try Retention(snapshot))
        let positions = PositionIndex(catalog.ids)
        var out: [Int: Activity] = [:]
        var passed = 0
        var isTooLate = false
        func add(_ series: Int64, _ requests: Int64, _ time: EventTime, _ length: Int64) {
            passed += 1
            if passed & 0xFFF == 0, budget.isSpent() { isTooLate = true }
            guard requests != 0, !isTooLate, let position = positions[series] else { return }
            let set = Int(catalog.setOfSeries[position])
            let bucket = SeenTimes.Bucket(start: time.microseconds, length: length)
            var seen = out[set] ?? Activity(requests: 0, first: bucket, last: bucket)
            seen.requests += requests
            if bucket.start < seen.first.start { seen.first = bucket }
            if bucket.start > seen.last.start { seen.last = bucket }
            out[set] = seen
        }
        for stretch in stretches where !isTooLate {
            guard let grain = stretch.grain else {
                try snapshot.scanEvents(
                    from: EventTime(microseconds: stretch.from), to: EventTime(microseconds: stretch.to), before: nil,
                    series: .all
                ) {
                    add($0.series, 1, $0.event.time, 0)
                    return !isTooLate
                }
                continue
            }
            try snapshot.scanRollups(
                grain: grain, from: Int32(clamping: stretch.from / grain.microseconds),
                to: Int32(clamping: stretch.to / grain.microseconds), series: .all, withBins: false
            ) { add($0.series, $0.measures.requests, grain.start(of: $0.bucket), grain.microseconds) }
        }
        if isTooLate { throw QueryBudget.timedOut() }
        return out
    }
}

extension SeriesCatalog {
    /// Those that are said.
    func pairs(ofSeries series: Int) -> [(key: String, value: MetadataValue)] {
        sets[Int(setOfSeries[series])].filter { $0.value != .filed }.map { (keys[Int($0.key)], $0.value) }
    }
}

extension Condition {
    /// On one event whole: its series, its numbers, its pairs.
    func holds(_ stored: StoredEvent, series: Int, _ catalog: SeriesCatalog) -> Bool {
        let extra = metadataPairs(stored.extra) ?? []
        return holds { leaf in
            leaf.holds(event: stored.event) { catalog.value(of: $0, series: series, extra) }
        }
    }
}
