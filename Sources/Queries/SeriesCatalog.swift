// All series of a workspace as columns of small numbers: StoredSeries -> what filters and groups are decided on.
//
// Each metadata set is parsed once and each text stored once, however many questions follow. A filter is decided once
// for each distinct value; a series then only looks the result up.

import Events
import RollupStore
import Rollups

struct SeriesCatalog: Sendable {
    /// Distinct texts of one dimension, and for each series the number of its text.
    struct Column: Sendable {
        private(set) var values: [String] = []
        private(set) var ofSeries: [Int32] = []
        private var numbers: [String: Int32] = [:]

        mutating func append(_ value: String) {
            if let number = numbers[value] {
                ofSeries.append(number)
                return
            }
            let number = Int32(values.count)
            numbers[value] = number
            values.append(value)
            ofSeries.append(number)
        }
    }

    /// The values of one metadata key, and for each set the number of its value.
    private struct KeyColumn: Sendable {
        private(set) var values: [MetadataValue] = []
        /// By set, up to the last one that has the key; -1: it has it not.
        private var ofSet: [Int32] = []
        private var numbers: [MetadataValue: Int32] = [:]

        /// Sets ascending. `isAlone`: the set has no other key, so no other such set has the value, and it is not worth
        /// looking up: entities' values are many, and each in a set of its own.
        mutating func append(_ value: MetadataValue, set: Int, isAlone: Bool) {
            if set < ofSet.count { return }
            while ofSet.count < set { ofSet.append(-1) }
            if !isAlone, let number = numbers[value] {
                ofSet.append(number)
                return
            }
            let number = Int32(values.count)
            if !isAlone { numbers[value] = number }
            values.append(value)
            ofSet.append(number)
        }

        func number(ofSet set: Int) -> Int32 { set < ofSet.count ? ofSet[set] : -1 }
    }

    /// The ids, ascending; everything else is by position in this list.
    private(set) var ids: [Int64] = []
    private var positions = PositionIndex([])
    private(set) var isError: [Bool] = []
    private(set) var columns: [Dimension: Column] = [:]
    /// Distinct sets, each as pairs of key number and value.
    private(set) var sets: [[(key: Int32, value: MetadataValue)]] = []
    private(set) var setOfSeries: [Int32] = []
    /// By set: a budget left keys out.
    private var isOpen: [Bool] = []
    /// By set: a budget left something out.
    private var isFiled: [Bool] = []
    /// A budget has left something out of some set.
    private(set) var hasFiled = false
    private(set) var keys: [String] = []
    private var keyColumns: [KeyColumn] = []
    private var keyNumbers: [String: Int32] = [:]
    private var setNumbers: [[UInt8]: Int32] = [:]

    init() {
        for (_, dimension) in Dimension.named { columns[dimension] = Column() }
    }

    var count: Int { ids.count }

    /// Of the series of this id.
    func position(of id: Int64) -> Int? { positions.position(of: id, in: ids) }

    /// Takes in what the store has added. Series are only ever added, at the end; anything else starts afresh.
    mutating func update(_ series: [StoredSeries]) {
        if let last = ids.last, series.count < ids.count || series[ids.count - 1].id != last {
            // An older snapshot: the same beginning, which the rest does not disturb.
            guard let end = series.last else { return }
            if series.count < ids.count, ids[series.count - 1] == end.id { return }
            self = SeriesCatalog()
        }
        if series.count == ids.count { return }
        for added in series[ids.count...] { append(added) }
        positions = PositionIndex(ids)
    }

    private mutating func append(_ series: StoredSeries) {
        let key = series.key
        ids.append(series.id)
        isError.append(key.outcome.isError)
        columns[.provider]?.append(key.provider)
        columns[.operation]?.append(key.operation)
        columns[.model]?.append(key.model)
        columns[.apiKey]?.append(key.apiKey)
        columns[.outcome]?.append(key.outcome.name)
        columns[.statusClass]?.append(key.statusClass == 0 ? "" : "\(key.statusClass)xx")
        if let number = setNumbers[key.set] {
            setOfSeries.append(number)
            return
        }
        let number = Int32(sets.count)
        setNumbers[key.set] = number
        let set = metadataSet(key.set) ?? ([], false)
        var pairs = set.pairs.map { (key: self.number(ofKey: $0.key), value: $0.value) }
        if set.isOpen { pairs.append((self.number(ofKey: MetadataValue.filedName), .filed)) }
        for pair in pairs {
            keyColumns[Int(pair.key)].append(pair.value, set: sets.count, isAlone: pairs.count == 1)
        }
        sets.append(pairs)
        isOpen.append(set.isOpen)
        isFiled.append(pairs.contains { $0.value == .filed })
        if isFiled[isFiled.count - 1] { hasFiled = true }
        setOfSeries.append(number)
    }

    private mutating func number(ofKey key: String) -> Int32 {
        if let number = keyNumbers[key] { return number }
        let number = Int32(keys.count)
        keyNumbers[key] = number
        keys.append(key)
        keyColumns.append(KeyColumn())
        return number
    }

    /// The values that the dimension has, nil where it is missing; one may be there twice.
    /// The second list says which of them each series has.
    func values(of dimension: Dimension) -> (distinct: [MetadataValue?], ofSeries: [Int32]) {
        if case .metadata(let key) = dimension {
            let column = keyNumbers[key].map { keyColumns[Int($0)] } ?? KeyColumn()
            let missing = Int32(column.values.count)
            return (
                column.values + [nil, .filed],
                setOfSeries.map { set in
                    let number = column.number(ofSet: Int(set))
                    return number >= 0 ? number : isOpen[Int(set)] ? missing + 1 : missing
                }
            )
        }
        let column = columns[dimension] ?? Column()
        return (column.values.map { $0.isEmpty ? nil : .text($0) }, column.ofSeries)
    }

    func value(of dimension: Dimension, series: Int) -> MetadataValue? {
        if case .metadata(let key) = dimension {
            return value(of: key, set: Int(setOfSeries[series]))
        }
        guard let column = columns[dimension] else { return nil }
        let text = column.values[Int(column.ofSeries[series])]
        return text.isEmpty ? nil : .text(text)
    }

    private func value(of key: String, set: Int) -> MetadataValue? {
        if let key = keyNumbers[key] {
            let number = keyColumns[Int(key)].number(ofSet: set)
            if number >= 0 { return keyColumns[Int(key)].values[Int(number)] }
        }
        return isOpen[set] ? .filed : nil
    }

    /// Of one event, which has beside its set what the rules or a budget left out of it.
    func value(of dimension: Dimension, series: Int, _ extra: [(key: String, value: MetadataValue)]) -> MetadataValue? {
        let value = value(of: dimension, series: series)
        if let value, value != .filed { return value }
        guard case .metadata(let key) = dimension else { return nil }
        return extra.first { $0.key == key }?.value
    }

    /// Something was left out of the series' set.
    func isFiled(_ series: Int) -> Bool { isFiled(set: Int(setOfSeries[series])) }

    func isFiled(set: Int) -> Bool { isFiled[set] }

    /// What a condition says of each series' rows, or of its events where rows do not have all that it takes.
    func decide(_ condition: Condition?, eventKeys: Set<String>, ofEvents: Bool) -> [Verdict] {
        guard let condition else { return [Verdict](repeating: .holds, count: count) }
        switch condition {
        case .leaf(.number), .leaf(.numberExists), .leaf(.text):
            return [Verdict](repeating: .dependsOnEvent, count: count)
        case .leaf(.dimension(.metadata(let key), _)) where eventKeys.contains(key):
            return [Verdict](repeating: .dependsOnEvent, count: count)
        case .leaf(.dimension(let dimension, let test)):
            let (distinct, ofSeries) = values(of: dimension)
            let wanted = Self.prepared(test)
            let verdicts = distinct.map { value -> Verdict in
                guard let value else { return .fails }
                if ofEvents, value == .filed { return .dependsOnEvent }
                return wanted(value.values) ? .holds : .fails
            }
            return ofSeries.map { verdicts[Int($0)] }
        case .not(let inner):
            return decide(inner, eventKeys: eventKeys, ofEvents: ofEvents).map(\.negated)
        case .all(let parts):
            var out = [Verdict](repeating: .holds, count: count)
            for part in parts {
                let decided = decide(part, eventKeys: eventKeys, ofEvents: ofEvents)
                for index in out.indices { out[index] = min(out[index], decided[index]) }
            }
            return out
        case .any(let parts):
            var out = [Verdict](repeating: .fails, count: count)
            for part in parts {
                let decided = decide(part, eventKeys: eventKeys, ofEvents: ofEvents)
                for index in out.indices { out[index] = max(out[index], decided[index]) }
            }
            return out
        }
    }

    /// A long list is looked up, not walked.
    private static func prepared(_ test: Test) -> ([String]) -> Bool {
        guard case .anyOf(let list) = test, list.count > 8 else { return test.holds }
        let wanted = Set(list)
        return { values in values.contains { wanted.contains($0) } }
    }
}

/// What is known of a condition for all events of a series. Ordered so that `and` is the least and `or` the greatest.
enum Verdict: UInt8, Comparable, Sendable {
    case fails = 0
    case dependsOnEvent = 1
    case holds = 2

    var negated: Verdict {
        switch self {
        case .fails: .holds
        case .dependsOnEvent: .dependsOnEvent
        case .holds: .fails
        }
    }

    static func < (a: Verdict, b: Verdict) -> Bool { a.rawValue < b.rawValue }
}
