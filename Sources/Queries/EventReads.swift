// Which events of a stretch must be read: condition, rules -> parts of it, each with the pairs of which an event must have
// one for the condition to hold.
//
// What a key's class leaves out of the metadata sets, and what a budget does, is with the events, and stores have an index
// on it (`EventPairs`). A test of such a key for values holds for no event without one of them. Of tests that must all
// hold any one will do; of tests of which one must, the pairs of all together. Where a set may make a test true, or a test
// is for anything but values, the index leaves nothing out. Each part has its own rules: a key that is in the index
// today may have been a dimension last week.

import Events
import RollupStore
import Rollups

/// `from <= time < to`, of one kind.
struct EventPart: Equatable {
    var from: Int64
    var to: Int64
    /// nil: all events are read.
    var having: [UInt32]?
    /// Of the pairs.
    var keys: [String] = []
}

struct EventReads {
    /// One part for each change of what is looked for, in order of time, over all time.
    private let parts: [EventPart]

    /// `rules`: what holds in the range, in order of time.
    init(
        _ condition: Condition?, _ catalog: SeriesCatalog, _ rules: ArraySlice<RulesTimeline.Entry>,
        _ classes: ClassMemory
    ) {
        var parts: [EventPart] = []
        func add(from: Int64, to: Int64, _ cover: PairCover?) {
            let part = EventPart(
                from: from, to: to, having: cover?.numbers.sorted(), keys: cover?.keys.sorted() ?? [])
            if let last = parts.last, last.having == part.having, last.keys == part.keys {
                parts[parts.count - 1].to = to
            } else {
                parts.append(part)
            }
        }
        var known: [[String: String]: PairCover?] = [:]
        let asked = condition?.metadataKeys ?? []
        for index in rules.indices {
            let begin = index == rules.startIndex ? .min : rules[index].from.microseconds
            let end = index + 1 < rules.endIndex ? rules[index + 1].from.microseconds : .max
            let said = classes.classes(of: rules[index].rules).mapValues(\.name)
                .filter { asked.contains($0.key) && $0.value != QueryEngine.dimension }
            let cover = known[said] ?? condition.flatMap { PairCover($0, catalog, said) }
            known[said] = cover
            add(from: begin, to: end, cover)
        }
        if rules.isEmpty { add(from: .min, to: .max, condition.flatMap { PairCover($0, catalog, [:]) }) }
        self.parts = parts
    }

    /// In order of time; parts without any event that the condition may hold for are left out.
    func parts(from: Int64, to: Int64) -> [EventPart] {
        parts.compactMap { part in
            guard part.from < to, from < part.to, part.having?.isEmpty != true else { return nil }
            var part = part
            (part.from, part.to) = (max(part.from, from), min(part.to, to))
            return part
        }
    }

    func parts(of stretch: Stretch) -> [EventPart] {
        stretch.grain == nil ? parts(from: stretch.from, to: stretch.to) : []
    }

    /// Those whose pairs the index is asked for, each once.
    func keys(of stretches: [Stretch]) -> [String] {
        Set(stretches.flatMap { parts(of: $0).filter { $0.having != nil }.flatMap(\.keys) }).sorted()
    }

    /// Newest first, until `body` answers false.
    func scan(
        from: EventTime, to: EventTime, before: (time: EventTime, id: EventID)? = nil, series: SeriesSelection,
        _ snapshot: any RollupSnapshot, _ body: (StoredEvent) throws -> Bool
    ) throws {
        var goesOn = true
        for part in parts(from: from.microseconds, to: to.microseconds).reversed() where goesOn {
            try snapshot.scanEvents(
                from: EventTime(microseconds: part.from), to: EventTime(microseconds: part.to), before: before,
                series: series, having: part.having
            ) { event in
                goesOn = try body(event)
                return goesOn
            }
        }
    }
}

/// Pairs of which an event has one, beside its set, wherever a condition holds for it.
struct PairCover: Equatable {
    /// More values than that are as well looked for among all events.
    private static let most = 256

    var numbers: Set<UInt32> = []
    var keys: Set<String> = []
    /// The class of the most common kind of pair: rarer ones leave fewer events.
    private var kind = Kind.none

    private enum Kind: Int, Comparable {
        case none, identifier, entity, filed

        static func < (a: Kind, b: Kind) -> Bool { a.rawValue < b.rawValue }
    }

    private init() {}

    /// nil: events without any such pair may match, or there are too many pairs. `classes`: of keys that are no dimensions.
    init?(_ condition: Condition, _ catalog: SeriesCatalog, _ classes: [String: String]) {
        switch condition {
        case .not, .leaf(.number), .leaf(.numberExists), .leaf(.text): return nil
        case .leaf(.dimension(let dimension, let test)):
            let verdicts = catalog.decide(condition, eventKeys: Set(classes.keys), ofEvents: true)
            if verdicts.contains(.holds) { return nil }
            // Fails for every series: no event at all.
            guard verdicts.contains(.dependsOnEvent) else { return }
            guard case .metadata(let key) = dimension, case .anyOf(let values) = test, values.count <= Self.most
            else { return nil }
            numbers = Set(values.map { EventPairs.number(key: key, value: $0) })
            keys = [key]
            kind = classes[key].map { $0 == "identifier" ? .identifier : .entity } ?? .filed
        case .all(let parts):
            let covers = parts.compactMap { PairCover($0, catalog, classes) }
            guard let best = covers.min(by: { ($0.kind, $0.numbers.count) < ($1.kind, $1.numbers.count) }) else {
                return nil
            }
            self = best
        case .any(let parts):
            for part in parts {
                guard let cover = PairCover(part, catalog, classes) else { return nil }
                numbers.formUnion(cover.numbers)
                keys.formUnion(cover.keys)
                kind = max(kind, cover.kind)
            }
            if numbers.count > Self.most { return nil }
        }
    }
}

extension Condition {
    fileprivate var metadataKeys: Set<String> {
        Set(leaves.compactMap { if case .dimension(.metadata(let key), _) = $0 { key } else { nil } })
    }
}

extension QueryEngine {
    func reads(
        _ condition: Condition?, from: EventTime, to: EventTime, of workspace: String, _ catalog: SeriesCatalog,
        _ snapshot: any RollupSnapshot
    ) throws -> EventReads {
        let rules = try snapshot.rulesTimeline().entries(from: from, to: to, of: workspace)
        return EventReads(condition, catalog, rules, classMemory)
    }
}
