// Which metadata keys and values there are: range, rules timeline, retention -> what is read from where, and what is
// missing.
//
// In each part of the range a key is counted by what holds it there: a dimension by the metadata sets of rollup rows, an
// entity by rollups of its own, an identifier by the events alone. Where a part of the range is cut finer than a kept
// rollup, events are read for the first two as well, all of that part, in one pass for all keys that need it. Events are
// read the newest first, and identifiers are looked for in the first `QueryLimits.listedEvents` of the workspace's. What
// that leaves out, and what is past retention, is named: by key, from when to when and why.

package import Events
import RollupStore
import Rollups

/// A part of the range that a listing does not cover.
package struct ListingGap: Sendable, Equatable {
    package var from: EventTime
    package var to: EventTime
    /// Sorted; nil: every key.
    package var keys: [String]?
    /// For people.
    package var reason: String

    package init(from: EventTime, to: EventTime, keys: [String]?, reason: String) {
        self.from = from
        self.to = to
        self.keys = keys
        self.reason = reason
    }
}

/// Who is read from where.
struct ListingReads {
    enum Holder: Hashable {
        case dimensions
        case entity(String)
        case identifier(String)

        /// nil: of many.
        var key: String? {
            switch self {
            case .dimensions: nil
            case .entity(let key), .identifier(let key): key
            }
        }
    }

    struct Part {
        /// nil: events.
        var grain: Grain?
        var from: Int64
        var to: Int64
        var holders: Set<Holder>

        /// Of its identifiers.
        var identifiers: Set<String> {
            holders.reduce(into: []) { if case .identifier(let key) = $1 { $0.insert(key) } }
        }
    }

    /// What no holder has: of `key`, or of every key.
    struct Lack {
        var time: Range<Int64>
        var key: String?
        var reason: String
    }

    /// Those of events stand last, the newest first.
    private(set) var parts: [Part] = []
    private(set) var lacks: [Lack] = []

    /// - `eras`: of each holder, disjoint and in order of time.
    init(_ eras: [(holder: Holder, eras: [Era])], from: EventTime, to: EventTime, _ retention: Retention) {
        let grid = BucketGrid(from: from, to: to, granularity: .total, zone: .utc)
        var wanted: [Grain?: [(holder: Holder, time: Range<Int64>)]] = [:]
        for (holder, eras) in eras where !eras.isEmpty {
            let (stretches, gaps) = Planner.cover(eras, grid: grid, retention: retention)
            for stretch in stretches where stretch.from < stretch.to {
                wanted[stretch.grain, default: []].append((holder, stretch.from..<stretch.to))
            }
            lacks += gaps.map { Lack(time: $0, key: holder.key, reason: Self.reason(holder, retention)) }
        }
        for (grain, wanted) in wanted { parts += Self.cut(wanted, grain) }
        parts.sort { a, b in
            let areEvents = (a.grain == nil, b.grain == nil)
            if areEvents.0 != areEvents.1 { return areEvents.1 }
            return areEvents.0 ? a.from > b.from : a.from < b.from
        }
    }

    /// Disjoint parts, each with all that want it.
    private static func cut(_ wanted: [(holder: Holder, time: Range<Int64>)], _ grain: Grain?) -> [Part] {
        var changes: [Int64: (begin: [Holder], end: [Holder])] = [:]
        for (holder, time) in wanted {
            changes[time.lowerBound, default: ([], [])].begin.append(holder)
            changes[time.upperBound, default: ([], [])].end.append(holder)
        }
        var parts: [Part] = []
        var holders: Set<Holder> = []
        var from = Int64.min
        for (at, change) in changes.sorted(by: { $0.key < $1.key }) {
            if let last = parts.last, last.to == from, last.holders == holders {
                parts[parts.count - 1].to = at
            } else if !holders.isEmpty {
                parts.append(Part(grain: grain, from: from, to: at, holders: holders))
            }
            // What of one holder ends here may go on here.
            holders.subtract(change.end)
            holders.formUnion(change.begin)
            from = at
        }
        return parts
    }

    private static func reason(_ holder: Holder, _ retention: Retention) -> String {
        switch holder {
        case .dimensions: "kept are \(retention.sentence([.day, .hour, .minute, nil]))"
        case .entity: "kept are \(retention.sentence([.entityDay, .entityHour, nil]))"
        case .identifier: "only events hold an identifier; kept are \(retention.sentence([nil]))"
        }
    }
}

/// How many requests each set of a catalog has, and when.
struct SetTally {
    struct Activity {
        var requests: Int64
        var first: SeenTimes.Bucket
        var last: SeenTimes.Bucket
    }

    let catalog: SeriesCatalog
    private(set) var sets: [Int: Activity] = [:]

    init(_ catalog: SeriesCatalog) { self.catalog = catalog }

    mutating func add(set: Int, _ requests: Int64, _ bucket: SeenTimes.Bucket) {
        if requests == 0 { return }
        var seen = sets[set] ?? Activity(requests: 0, first: bucket, last: bucket)
        seen.requests += requests
        if bucket.start < seen.first.start { seen.first = bucket }
        if bucket.start > seen.last.start { seen.last = bucket }
        sets[set] = seen
    }
}

/// Series id -> which of several catalogs has it, and which of its sets. No two have the same series.
private struct SetIndex {
    private let ids: [Int64]
    private let positions: PositionIndex
    private var places: [(catalog: Int32, set: Int32)] = []

    init(_ catalogs: [SeriesCatalog]) {
        var found: [(series: Int64, catalog: Int32, set: Int32)] = []
        found.reserveCapacity(catalogs.reduce(0) { $0 + $1.count })
        for (number, catalog) in catalogs.enumerated() {
            for (series, set) in zip(catalog.ids, catalog.setOfSeries) { found.append((series, Int32(number), set)) }
        }
        if catalogs.count > 1 { found.sort { $0.series < $1.series } }
        ids = found.map(\.series)
        positions = PositionIndex(ids)
        places = found.map { ($0.catalog, $0.set) }
    }

    subscript(series: Int64) -> (catalog: Int, set: Int)? {
        positions.position(of: series, in: ids).map { (Int(places[$0].catalog), Int(places[$0].set)) }
    }
}

struct MetadataListing {
    /// A pair that an event has beside its set.
    struct Extra {
        var key: String
        var value: MetadataValue
        var time: EventTime
        /// The set has the key, filed under `(other)`: there the request is counted.
        var isFiled: Bool
    }

    /// Of so many series at the most the store is asked for their events alone; with more, the workspace is not a small
    /// one among others.
    private static let selectedSeries = 4_096

    private(set) var dimensions: SetTally
    private(set) var entities: [(key: String, tally: SetTally)]
    private let dimensionSets: SetIndex
    private let entitySets: SetIndex
    private let reads: ListingReads
    let retention: Retention
    private var lacks: [ListingReads.Lack]
    private let asked: Range<Int64>
    private let budget: QueryBudget
    private var watch: BudgetWatch
    /// Events in which identifiers are still looked for.
    private var left: Int

    init(
        _ reads: ListingReads, dimensions: SeriesCatalog, entities: [(key: String, catalog: SeriesCatalog)],
        asked: Range<Int64>, _ retention: Retention, _ budget: QueryBudget
    ) {
        self.reads = reads
        self.retention = retention
        self.dimensions = SetTally(dimensions)
        self.entities = entities.map { ($0.key, SetTally($0.catalog)) }
        dimensionSets = SetIndex([dimensions])
        entitySets = SetIndex(entities.map(\.catalog))
        self.asked = asked
        self.budget = budget
        lacks = reads.lacks
        watch = BudgetWatch(budget)
        left = budget.listedEvents
    }

    mutating func read(_ snapshot: any RollupSnapshot, _ body: (Extra) -> Void) throws {
        for part in reads.parts {
            if let grain = part.grain {
                try readRollups(part, grain, snapshot)
            } else {
                try readEvents(part, snapshot, body)
            }
            try watch.look()
        }
    }

    private mutating func readRollups(
        _ part: ListingReads.Part, _ grain: Grain, _ snapshot: any RollupSnapshot
    ) throws {
        let isWanted = entities.map { part.holders.contains(.entity($0.key)) }
        try snapshot.scanRollups(
            grain: grain, from: Int32(clamping: part.from / grain.microseconds),
            to: Int32(clamping: part.to / grain.microseconds), series: .all, withBins: false
        ) { row in
            guard watch.goesOn() else { return }
            let bucket = SeenTimes.Bucket(start: grain.start(of: row.bucket).microseconds, grain: grain)
            if !grain.isOfEntities {
                guard let place = dimensionSets[row.series] else { return }
                dimensions.add(set: place.set, row.measures.requests, bucket)
            } else if let place = entitySets[row.series], isWanted[place.catalog] {
                entities[place.catalog].tally.add(set: place.set, row.measures.requests, bucket)
            }
        }
        try watch.end()
    }

    private mutating func readEvents(
        _ part: ListingReads.Part, _ snapshot: any RollupSnapshot, _ body: (Extra) -> Void
    ) throws {
        let catalog = dimensions.catalog
        let areCounted = part.holders.contains(.dimensions)
        var keys = Set(part.holders.compactMap(\.key))
        var identifiers = part.identifiers
        var last = part.to
        /// False: nothing is looked for any more.
        func goesOnWithoutIdentifiers() -> Bool {
            lacks += identifiers.map { key in
                ListingReads.Lack(
                    time: part.from..<last, key: key,
                    reason: "only events hold an identifier; the newest \(budget.listedEvents) are read")
            }
            keys.subtract(identifiers)
            identifiers = []
            return areCounted || !keys.isEmpty
        }
        if !identifiers.isEmpty, left <= 0, !goesOnWithoutIdentifiers() { return }
        try snapshot.scanEvents(
            from: EventTime(microseconds: part.from), to: EventTime(microseconds: part.to), before: nil,
            series: catalog.count <= Self.selectedSeries ? .only(catalog.ids) : .all
        ) { stored in
            guard watch.goesOn() else { return false }
            guard let set = dimensionSets[stored.series]?.set else { return true }
            let time = stored.event.time
            if !identifiers.isEmpty {
                // Of one instant all or none.
                if left <= 0, time.microseconds < last {
                    if !goesOnWithoutIdentifiers() { return false }
                } else {
                    left -= 1
                    last = time.microseconds
                }
            }
            if areCounted { dimensions.add(set: set, 1, SeenTimes.Bucket(start: time.microseconds, grain: nil)) }
            let isFiled = catalog.isFiled(set: set)
            guard isFiled || !keys.isEmpty else { return true }
            for (key, value) in metadataPairs(stored.extra) ?? [] {
                let isFiled =
                    isFiled
                    && catalog.sets[set].contains { $0.value == .filed && catalog.keys[Int($0.key)] == key }
                if isFiled || keys.contains(key) {
                    body(Extra(key: key, value: value, time: time, isFiled: isFiled))
                }
            }
            return true
        }
        try watch.end()
    }

    /// The keys, of those that are wanted, that the requests of a row have.
    func eachKey(of series: Int64, _ grain: Grain, among wanted: Set<String>, _ body: (String) -> Void) {
        // In place: a copy of a catalog holds a dozen lists.
        if grain.isOfEntities {
            guard let place = entitySets[series] else { return }
            if wanted.contains(entities[place.catalog].key),
                !entities[place.catalog].tally.catalog.sets[place.set].isEmpty
            {
                body(entities[place.catalog].key)
            }
        } else if let place = dimensionSets[series] {
            for (number, _) in dimensions.catalog.sets[place.set] {
                let key = dimensions.catalog.keys[Int(number)]
                if wanted.contains(key) { body(key) }
            }
        }
    }

    /// In order of time, neighbours of the same kind as one.
    var gaps: [ListingGap] {
        struct Name: Hashable {
            var time: Range<Int64>
            var reason: String
        }
        var found: [Name: Set<String>?] = [:]
        for lack in lacks {
            let time = lack.time.clamped(to: asked)
            if time.isEmpty { continue }
            let name = Name(time: time, reason: lack.reason)
            // All keys are among them once every key is.
            if let key = lack.key {
                found[name, default: []]?.insert(key)
            } else {
                found.updateValue(nil, forKey: name)
            }
        }
        let sorted = found.sorted {
            ($0.key.time.lowerBound, $0.key.time.upperBound, $0.key.reason)
                < ($1.key.time.lowerBound, $1.key.time.upperBound, $1.key.reason)
        }
        var gaps: [ListingGap] = []
        for (name, keys) in sorted {
            let gap = ListingGap(
                from: EventTime(microseconds: name.time.lowerBound), to: EventTime(microseconds: name.time.upperBound),
                keys: keys?.sorted(), reason: name.reason)
            if let last = gaps.last, last.to == gap.from, last.keys == gap.keys, last.reason == gap.reason {
                gaps[gaps.count - 1].to = gap.to
            } else {
                gaps.append(gap)
            }
        }
        return gaps
    }
}

extension QueryEngine {
    /// - `only`: the one key that is asked for; nil: all.
    func listing(
        of only: String? = nil, from: EventTime, to: EventTime, _ workspace: String, _ snapshot: any RollupSnapshot,
        _ budget: QueryBudget
    ) throws -> (listing: MetadataListing, eras: [ClassEra]) {
        let end = Planner.end(of: Question(from: from, to: to), watermark: try snapshot.watermark)
        let classes = classEras(
            from: from, to: end, under: try snapshot.rulesTimeline().entries(from: from, to: end, of: workspace))
        let catalog = try catalog(workspace, snapshot)
        var eras: [(holder: ListingReads.Holder, eras: [Era])] = []
        // A key that no set has ever had needs no look at them, unless it may be among those that were left out.
        if only.map({ catalog.keys.contains($0) || catalog.keys.contains(MetadataValue.filedName) }) ?? true {
            eras.append((.dimensions, [Era(from: from.microseconds, to: end.microseconds)]))
        }
        var entities: [(key: String, catalog: SeriesCatalog)] = []
        var watch = BudgetWatch(budget)
        for key in Set(classes.flatMap(\.classes.keys)).sorted() where only == nil || key == only {
            let (ofEntity, ofEvents) = Self.eras(of: key, classes)
            eras.append((.entity(key), ofEntity))
            eras.append((.identifier(key), ofEvents))
            if ofEntity.isEmpty { continue }
            try watch.look()
            entities.append((key, try self.catalog(workspace, ofEntity: key, snapshot)))
        }
        let retention = try Retention(snapshot)
        let reads = ListingReads(eras, from: from, to: end, retention)
        let listing = MetadataListing(
            reads, dimensions: catalog, entities: entities, asked: from.microseconds..<to.microseconds, retention,
            budget)
        return (listing, classes)
    }

    /// Where the key is an entity, and where only events hold it.
    private static func eras(of key: String, _ classes: [ClassEra]) -> (ofEntity: [Era], ofEvents: [Era]) {
        var (ofEntity, ofEvents): ([Era], [Era]) = ([], [])
        for part in classes {
            guard let name = part.classes[key] else { continue }
            if name == Self.entity {
                ofEntity.join(Era(from: part.from, to: part.to, entity: key))
            } else {
                ofEvents.join(Era(from: part.from, to: part.to, onlyEvents: name))
            }
        }
        return (ofEntity, ofEvents)
    }
}
