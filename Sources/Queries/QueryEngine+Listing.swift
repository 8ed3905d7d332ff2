// The smaller questions: events one by one, and which metadata keys and values there are (`MetadataListing`).

package import Events
package import JSONText
package import RollupStore

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
    /// The beginning of the finest rollup bucket that is kept there: of a minute, an hour or a day, of an entity of an hour
    /// or a day; of the day where many keys differ (`SeenTimes`). To the instant where events were read.
    package var firstSeen: EventTime
    package var lastSeen: EventTime
    /// False: requests and distinct are at least so many.
    package var isExact = true
}

/// Most frequent first.
package struct KeyListing: Sendable {
    package var keys: [KeySummary]
    package var missing: [ListingGap]
}

/// Most frequent first.
package struct ValueListing: Sendable {
    package var values: [(value: String, requests: Int64)]
    package var missing: [ListingGap]
    /// False: there are at least so many requests, and there may be other values.
    package var isExact: Bool
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
                guard let series = catalog.position(of: stored.series), verdicts[series] != .fails,
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
            guard let series = catalog.position(of: stored.series) else { return nil }
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
            return catalog.position(of: stored.series) == nil ? nil : EventCursor(after: stored)
        }
    }

    /// The keys with events in the range.
    package func metadataKeys(
        from: EventTime, to: EventTime, workspace: String, snapshot: any RollupSnapshot,
        budget: QueryBudget = QueryBudget()
    ) throws(QueryError) -> KeyListing {
        try storeErrorsNamed {
            var (listing, eras) = try listing(from: from, to: to, workspace, snapshot, budget)
            var found = KeySummaries()
            try listing.read(snapshot) { found.add($0) }
            found.add(listing.dimensions, of: nil)
            for (key, tally) in listing.entities { found.add(tally, of: key) }
            let all = listing.dimensions.sets.values.reduce(0) { $0 + $1.requests }
            let missing = listing.gaps
            let (first, last) = try found.seen(listing, snapshot, budget)
            let isKeyLeftOut = found.requests(of: MetadataValue.filedName) > 0
            let keys = found.summaries.map { summary in
                var summary = summary
                if all > 0 { summary.share = Double(summary.requests) / Double(all) }
                summary.firstSeen = EventTime(microseconds: first[summary.key] ?? 0)
                summary.lastSeen = EventTime(microseconds: last[summary.key] ?? 0)
                if missing.contains(where: { $0.keys?.contains(summary.key) ?? true })
                    || isKeyLeftOut && eras.contains(where: { $0.isDimension(summary.key) })
                {
                    summary.isExact = false
                }
                return summary
            }
            return KeyListing(
                keys: keys.sorted { a, b in
                    a.requests != b.requests
                        ? a.requests > b.requests : a.key.utf8.lexicographicallyPrecedes(b.key.utf8)
                }, missing: missing)
        }
    }

    /// The values of a key; each element of a list for itself.
    package func metadataValues(
        of key: String, prefix: String, limit: Int, from: EventTime, to: EventTime, workspace: String,
        snapshot: any RollupSnapshot, budget: QueryBudget = QueryBudget()
    ) throws(QueryError) -> ValueListing {
        try storeErrorsNamed {
            var (listing, eras) = try listing(of: key, from: from, to: to, workspace, snapshot, budget)
            var counts: [String: Int64] = [:]
            func add(_ value: MetadataValue, _ requests: Int64) {
                for text in Set(value.values) where text.utf8.starts(with: prefix.utf8) {
                    counts[text, default: 0] += requests
                }
            }
            // Requests with a value that a budget has filed, less those of which an event tells it.
            var filed: Int64 = 0
            var isKeyLeftOut = false
            try listing.read(snapshot) { extra in
                guard extra.key == key else { return }
                add(extra.value, 1)
                if extra.isFiled { filed -= 1 }
            }
            for tally in [listing.dimensions] + listing.entities.map(\.tally) {
                for (set, seen) in tally.sets {
                    for (number, value) in tally.catalog.sets[set] {
                        let name = tally.catalog.keys[Int(number)]
                        if name == MetadataValue.filedName, value == .filed, seen.requests > 0 { isKeyLeftOut = true }
                        guard name == key else { continue }
                        if value == .filed { filed += seen.requests } else { add(value, seen.requests) }
                    }
                }
            }
            if filed > 0 { add(.filed, filed) }
            let missing = listing.gaps
            let sorted = counts.sorted { a, b in
                a.value != b.value ? a.value > b.value : a.key.utf8.lexicographicallyPrecedes(b.key.utf8)
            }
            return ValueListing(
                values: sorted.prefix(limit).map { ($0.key, $0.value) }, missing: missing,
                isExact: missing.isEmpty && filed <= 0
                    && !(isKeyLeftOut && eras.contains { $0.isDimension(key) }))
        }
    }
}

/// What is found of each key, as it comes.
private struct KeySummaries {
    /// Buckets of one source are disjoint; those of two may hold each other, since a day's rollups are read whole
    /// whatever class a key had in a part of it.
    private enum Source: CaseIterable {
        case dimensions, entities, events
    }

    private var rows: [String: KeySummary] = [:]
    private var values: [String: Set<String>] = [:]
    private var ends: [Source: [String: (first: SeenTimes.Bucket, last: SeenTimes.Bucket)]] = [:]
    /// Requests with a filed value that an event has told.
    private var told: [String: Int64] = [:]

    func requests(of key: String) -> Int64 { rows[key]?.requests ?? 0 }

    mutating func add(_ extra: MetadataListing.Extra) {
        if extra.isFiled {
            // Counted by the set that says so.
            values[extra.key, default: []].formUnion(extra.value.values)
            told[extra.key, default: 0] += 1
        } else {
            let instant = SeenTimes.Bucket(start: extra.time.microseconds, grain: nil)
            add(extra.key, extra.value, SetTally.Activity(requests: 1, first: instant, last: instant), .events)
        }
    }

    /// - `key`: of its rollups; nil: of those of all dimensions.
    mutating func add(_ tally: SetTally, of key: String?) {
        for (set, seen) in tally.sets {
            for (number, value) in tally.catalog.sets[set] {
                let name = tally.catalog.keys[Int(number)]
                if key == nil || key == name { add(name, value, seen, key == nil ? .dimensions : .entities) }
            }
        }
    }

    private mutating func add(_ key: String, _ value: MetadataValue, _ seen: SetTally.Activity, _ source: Source) {
        let old = ends[source]?[key] ?? (seen.first, seen.last)
        ends[source, default: [:]][key] = (
            seen.first.start < old.first.start ? seen.first : old.first,
            seen.last.start > old.last.start ? seen.last : old.last
        )
        let none = EventTime(microseconds: 0)
        var row =
            rows[key]
            ?? KeySummary(key: key, distinct: 0, requests: 0, filed: 0, share: 0, firstSeen: none, lastSeen: none)
        row.requests += seen.requests
        if value == .filed { row.filed += seen.requests }
        rows[key] = row
        values[key, default: []].formUnion(value == .filed ? [] : value.values)
    }

    /// In no order; when they were seen, and their share, are left open.
    var summaries: [KeySummary] {
        rows.values.map { row in
            var row = row
            row.distinct = values[row.key]?.count ?? 0
            row.isExact = row.filed <= told[row.key] ?? 0
            return row
        }
    }

    func seen(
        _ listing: MetadataListing, _ snapshot: any RollupSnapshot, _ budget: QueryBudget
    ) throws -> (first: [String: Int64], last: [String: Int64]) {
        var (first, last): ([String: Int64], [String: Int64]) = ([:], [:])
        for source in Source.allCases {
            guard let ends = ends[source] else { continue }
            let firsts = SeenTimes(.first, ends.mapValues(\.first))
            first.merge(try firsts.narrowed(listing, snapshot, budget)) { min($0, $1) }
            let lasts = SeenTimes(.last, ends.mapValues(\.last))
            last.merge(try lasts.narrowed(listing, snapshot, budget)) { max($0, $1) }
        }
        return (first, last)
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
