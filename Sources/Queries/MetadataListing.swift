// Which metadata keys and values there are: range, rules timeline, retention -> what is read from where, and what is
// missing.
//
// In each part of the range a key is counted by what holds it there: a dimension by the metadata sets of rollup rows, an
// entity by rollups of its own, an identifier by the events alone. Where a part of the range is cut finer than a kept
// rollup, events are read for the first two as well, in one pass for all keys that need it. The events of identifiers
// are read last, the newest first, and no more than `QueryLimits.listedEvents` of them. What that leaves out, and what is
// past retention, is named: by key, from when to when and why.

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

        /// Only identifiers are looked for in it.
        var isOfIdentifiers: Bool {
            holders.allSatisfy { if case .identifier = $0 { true } else { false } }
        }
    }

    /// What no holder has: of `key`, or of every key.
    struct Lack {
        var time: Range<Int64>
        var key: String?
        var reason: String
    }

    /// Those with events that only identifiers need stand last, the newest first.
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
            let isLast = (a.grain == nil && a.isOfIdentifiers, b.grain == nil && b.isOfIdentifiers)
            if isLast.0 != isLast.1 { return isLast.1 }
            return isLast.0 ? a.from > b.from : a.from < b.from
        }
    }

    /// Disjoint parts, each with all that want it.
    private static func cut(_ wanted: [(holder: Holder, time: Range<Int64>)], _ grain: Grain?) -> [Part] {
        let cuts = Set(wanted.flatMap { [$0.time.lowerBound, $0.time.upperBound] }).sorted()
        var parts: [Part] = []
        for (from, to) in zip(cuts, cuts.dropFirst()) {
            let holders = Set(wanted.filter { $0.time.lowerBound <= from && to <= $0.time.upperBound }.map(\.holder))
            if holders.isEmpty { continue }
            if let last = parts.last, last.to == from, last.holders == holders {
                parts[parts.count - 1].to = to
            } else {
                parts.append(Part(grain: grain, from: from, to: to, holders: holders))
            }
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
    private let positions: PositionIndex
    private(set) var sets: [Int: Activity] = [:]

    init(_ catalog: SeriesCatalog) {
        self.catalog = catalog
        positions = PositionIndex(catalog.ids)
    }

    func position(of series: Int64) -> Int? { positions[series] }

    func set(ofSeries series: Int64) -> Int? { positions[series].map { Int(catalog.setOfSeries[$0]) } }

    /// False: the series is none of the catalog's.
    mutating func add(_ series: Int64, _ requests: Int64, _ bucket: SeenTimes.Bucket) -> Bool {
        guard let set = set(ofSeries: series) else { return false }
        if requests == 0 { return true }
        var seen = sets[set] ?? Activity(requests: 0, first: bucket, last: bucket)
        seen.requests += requests
        if bucket.start < seen.first.start { seen.first = bucket }
        if bucket.start > seen.last.start { seen.last = bucket }
        sets[set] = seen
        return true
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

    private(set) var dimensions: SetTally
    private(set) var entities: [String: SetTally]
    private let reads: ListingReads
    private var lacks: [ListingReads.Lack]
    private let asked: Range<Int64>
    private var passed = 0

    init(_ reads: ListingReads, dimensions: SetTally, entities: [String: SetTally], asked: Range<Int64>) {
        self.reads = reads
        self.dimensions = dimensions
        self.entities = entities
        self.asked = asked
        lacks = reads.lacks
    }

    mutating func read(
        _ snapshot: any RollupSnapshot, _ budget: QueryBudget, _ body: (Extra) -> Void
    ) throws {
        var left = budget.listedEvents
        for part in reads.parts {
            guard part.grain == nil else {
                try readRollups(part, snapshot, budget)
                continue
            }
            let isLimited = part.isOfIdentifiers
            let (events, begin) =
                isLimited && left <= 0
                ? (0, part.to) : try readEvents(part, atMost: isLimited ? left : .max, snapshot, budget, body)
            if isLimited { left -= events }
            if begin > part.from {
                lacks += part.holders.map {
                    ListingReads.Lack(
                        time: part.from..<begin, key: $0.key,
                        reason: "only events hold an identifier; the newest \(budget.listedEvents) are read")
                }
            }
        }
    }

    private mutating func isTooLate(_ budget: QueryBudget) -> Bool {
        passed += 1
        return passed & 0xFFF == 0 && budget.isSpent()
    }

    private mutating func readRollups(
        _ part: ListingReads.Part, _ snapshot: any RollupSnapshot, _ budget: QueryBudget
    ) throws {
        guard let grain = part.grain else { return }
        let keys = part.holders.compactMap(\.key)
        var isEnded = false
        try snapshot.scanRollups(
            grain: grain, from: Int32(clamping: part.from / grain.microseconds),
            to: Int32(clamping: part.to / grain.microseconds), series: .all, withBins: false
        ) { row in
            if isEnded || isTooLate(budget) {
                isEnded = true
                return
            }
            let bucket = SeenTimes.Bucket(start: grain.start(of: row.bucket).microseconds, grain: grain)
            if !grain.isOfEntities {
                _ = dimensions.add(row.series, row.measures.requests, bucket)
                return
            }
            for key in keys where entities[key]?.add(row.series, row.measures.requests, bucket) == true { return }
        }
        if isEnded { throw QueryBudget.timedOut() }
    }

    /// How many were read, and from when on all are.
    private mutating func readEvents(
        _ part: ListingReads.Part, atMost limit: Int, _ snapshot: any RollupSnapshot, _ budget: QueryBudget,
        _ body: (Extra) -> Void
    ) throws -> (events: Int, from: Int64) {
        let keys = Set(part.holders.compactMap(\.key))
        let areCounted = part.holders.contains(.dimensions)
        var (events, last) = (0, part.to)
        var (isEnded, isCut) = (false, false)
        try snapshot.scanEvents(
            from: EventTime(microseconds: part.from), to: EventTime(microseconds: part.to), before: nil, series: .all
        ) { stored in
            isEnded = isTooLate(budget)
            if isEnded { return false }
            let time = stored.event.time
            // Of one instant all or none.
            isCut = events >= limit && time.microseconds < last
            if isCut { return false }
            events += 1
            last = time.microseconds
            guard let position = dimensions.position(of: stored.series) else { return true }
            let catalog = dimensions.catalog
            if areCounted {
                _ = dimensions.add(stored.series, 1, SeenTimes.Bucket(start: time.microseconds, grain: nil))
            }
            let isFiled = catalog.isFiled(position)
            guard isFiled || !keys.isEmpty else { return true }
            let set = catalog.sets[Int(catalog.setOfSeries[position])]
            for (key, value) in metadataPairs(stored.extra) ?? [] {
                let isFiled = isFiled && set.contains { $0.value == .filed && catalog.keys[Int($0.key)] == key }
                if isFiled || keys.contains(key) {
                    body(Extra(key: key, value: value, time: time, isFiled: isFiled))
                }
            }
            return true
        }
        if isEnded { throw QueryBudget.timedOut() }
        return (events, isCut ? last : part.from)
    }

    /// The keys, of those that are wanted, that the requests of a row have.
    func eachKey(of series: Int64, _ grain: Grain, among wanted: Set<String>, _ body: (String) -> Void) {
        func look(_ tally: SetTally, _ wanted: (String) -> Bool) {
            guard let set = tally.set(ofSeries: series) else { return }
            for (number, _) in tally.catalog.sets[set] where wanted(tally.catalog.keys[Int(number)]) {
                body(tally.catalog.keys[Int(number)])
            }
        }
        guard grain.isOfEntities else { return look(dimensions) { wanted.contains($0) } }
        for (name, tally) in entities where wanted.contains(name) { look(tally) { $0 == name } }
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
            let keys = found[name, default: []]
            found.updateValue(lack.key.flatMap { key in keys?.union([key]) }, forKey: name)
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
        of only: String? = nil, from: EventTime, to: EventTime, _ workspace: String, _ snapshot: any RollupSnapshot
    ) throws -> (listing: MetadataListing, eras: [ClassEra]) {
        let end = Planner.end(of: Question(from: from, to: to), watermark: try snapshot.watermark)
        let classes = classEras(
            from: from, to: end, under: try snapshot.rulesTimeline().entries(from: from, to: end, of: workspace))
        let catalog = try catalog(workspace, snapshot)
        var eras: [(holder: ListingReads.Holder, eras: [Era])] = []
        // A key that no set has ever had needs no look at them.
        if only.map({ key in catalog.keys.contains(key) }) ?? true {
            eras.append((.dimensions, [Era(from: from.microseconds, to: end.microseconds)]))
        }
        var entities: [String: SetTally] = [:]
        for key in Set(classes.flatMap(\.classes.keys)).sorted() where only == nil || key == only {
            let (ofEntity, ofEvents) = Self.eras(of: key, classes)
            eras.append((.entity(key), ofEntity))
            eras.append((.identifier(key), ofEvents))
            if !ofEntity.isEmpty { entities[key] = SetTally(try self.catalog(workspace, entity: key, snapshot)) }
        }
        let reads = ListingReads(eras, from: from, to: end, try Retention(snapshot))
        let listing = MetadataListing(
            reads, dimensions: SetTally(catalog), entities: entities, asked: from.microseconds..<to.microseconds)
        return (listing, classes)
    }

    /// Where the key is an entity, and where only events hold it.
    private static func eras(of key: String, _ classes: [ClassEra]) -> (ofEntity: [Era], ofEvents: [Era]) {
        var (ofEntity, ofEvents): ([Era], [Era]) = ([], [])
        func add(_ era: Era, to eras: inout [Era]) {
            if let last = eras.last, last.to == era.from {
                eras[eras.count - 1].to = era.to
            } else {
                eras.append(era)
            }
        }
        for part in classes {
            guard let name = part.classes[key] else { continue }
            if name == Self.entity {
                add(Era(from: part.from, to: part.to, entity: key), to: &ofEntity)
            } else {
                add(Era(from: part.from, to: part.to, onlyEvents: "metadata.\(key) is an \(name)"), to: &ofEvents)
            }
        }
        return (ofEntity, ofEvents)
    }
}
