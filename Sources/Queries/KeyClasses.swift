// The rules timeline -> which class a metadata key has and had. A key's values stand in the sets where it is a dimension,
// in rollups of its own where it is an entity, and with the events alone where it is an identifier; of a range in which
// it was several, each era is answered by what holds it there.

package import Events
package import JSONText
package import RollupStore
import Synchronization

package struct KeyClass: Sendable, Equatable {
    /// `dimension`, `entity` or `identifier`.
    package var name: String
    /// From which event time on without a break; nil: always.
    package var since: EventTime?
    /// Why it has this class, for people.
    package var reason: String
}

/// What rules say of classes, by fingerprint: texts of one fingerprint never differ.
final class ClassMemory: Sendable {
    struct Said: Equatable {
        var name: String
        var reason: String
    }

    private let known = Mutex<[String: [String: Said]]>([:])

    func classes(of rules: RulesText) -> [String: Said] {
        known.withLock { known in
            if let classes = known[rules.fingerprint] { return classes }
            var classes: [String: Said] = [:]
            // A text that does not parse is none that a consumer of this version has written; it says nothing here.
            if let tree = try? JSONValue.parse(rules.text) {
                for (key, value) in tree["observed"]?["classes"]?.members?.map({ ($0.key, $0.value) }) ?? [] {
                    guard let name = value["class"]?.string else { continue }
                    classes[key] = Said(name: name, reason: "observed: \(value["reason"]?.string ?? "")")
                }
                for member in tree["classes"]?.members ?? [] {
                    guard let name = member.value.string else { continue }
                    classes[member.key] = Said(name: name, reason: "the rules' classes name it")
                }
            }
            known[rules.fingerprint] = classes
            return classes
        }
    }
}

/// `from <= time < to` under one entry of the timeline: the class of each key that is no dimension there.
struct ClassEra {
    var from: Int64
    var to: Int64
    var classes: [String: String]

    /// Its values stand in the sets, and a budget may leave it out of some.
    func isDimension(_ key: String) -> Bool { classes[key] == nil }
}

/// Who answers an era.
enum EraSource {
    case rollups
    /// The rollups of this entity's key.
    case entity(String)
    /// And why.
    case events(String)
}

extension QueryEngine {
    static let dimension = "dimension"
    static let entity = "entity"
    private static let unnamed = ClassMemory.Said(name: dimension, reason: "no rule says otherwise")

    /// Keys with values that stand with events of `from <= time < to` only.
    func eventKeys(
        from: EventTime, to: EventTime, of workspace: String, _ snapshot: any RollupSnapshot
    ) throws -> Set<String> {
        eventKeys(under: try snapshot.rulesTimeline().entries(from: from, to: to, of: workspace))
    }

    func eventKeys(under rules: ArraySlice<RulesTimeline.Entry>) -> Set<String> {
        rules.reduce(into: []) { $0.formUnion(nonDimensions(of: $1).keys) }
    }

    private func nonDimensions(of entry: RulesTimeline.Entry) -> [String: String] {
        classMemory.classes(of: entry.rules).mapValues(\.name).filter { $0.value != Self.dimension }
    }

    /// `from <= time < to` by what the keys of other classes than dimension say to each part; neighbours differ.
    func eras(
        from: EventTime, to: EventTime, under rules: ArraySlice<RulesTimeline.Entry>,
        source: ([String: String]) -> EraSource
    ) -> [Era] {
        func era(_ from: Int64, _ to: Int64, _ classes: [String: String]) -> Era {
            switch source(classes) {
            case .rollups: Era(from: from, to: to)
            case .entity(let key): Era(from: from, to: to, entity: key)
            case .events(let reason): Era(from: from, to: to, onlyEvents: reason)
            }
        }
        var eras: [Era] = []
        for part in classEras(from: from, to: to, under: rules) {
            eras.join(era(part.from, part.to, part.classes))
        }
        return eras
    }

    /// One for each entry of the timeline that holds in the range; one without classes where there is none.
    func classEras(
        from: EventTime, to: EventTime, under rules: ArraySlice<RulesTimeline.Entry>
    ) -> [ClassEra] {
        var eras: [ClassEra] = []
        for index in rules.indices {
            let end = index + 1 < rules.endIndex ? rules[index + 1].from : to
            eras.append(
                ClassEra(
                    from: eras.last?.to ?? from.microseconds, to: end.microseconds,
                    classes: nonDimensions(of: rules[index])))
        }
        return eras.isEmpty ? [ClassEra(from: from.microseconds, to: to.microseconds, classes: [:])] : eras
    }

    /// The class that keys have at the end of a range.
    package func keyClasses(
        of keys: [String], before to: EventTime, workspace: String, snapshot: any RollupSnapshot
    ) throws(QueryError) -> [String: KeyClass] {
        try storeErrorsNamed {
            let entries = try snapshot.rulesTimeline().entries(
                from: EventTime(microseconds: .min), to: to, of: workspace)
            var found: [String: KeyClass] = [:]
            for key in keys {
                var last: KeyClass?
                for entry in entries {
                    let said = classMemory.classes(of: entry.rules)[key] ?? Self.unnamed
                    if last?.name != said.name {
                        last = KeyClass(name: said.name, since: last == nil ? nil : entry.from, reason: said.reason)
                    }
                    last?.reason = said.reason
                }
                found[key] =
                    last ?? KeyClass(name: Self.unnamed.name, since: nil, reason: Self.unnamed.reason)
            }
            return found
        }
    }

    /// The keys with events in the range, most frequent first, and what is known of each: `GET /v1/metadata/keys`.
    package func describedKeys(
        from: EventTime, to: EventTime, workspace: String, snapshot: any RollupSnapshot,
        budget: QueryBudget = QueryBudget()
    ) throws(QueryError) -> JSONValue {
        let listing = try metadataKeys(from: from, to: to, workspace: workspace, snapshot: snapshot, budget: budget)
        let names = listing.keys.map(\.key)
        let classes = try keyClasses(of: names, before: to, workspace: workspace, snapshot: snapshot)
        let rows = listing.keys.map { key -> JSONValue in
            let found = classes[key.key]
            // No event has values of this name alone: it stands for keys that a budget left out.
            let isOther = key.key == MetadataValue.filedName && key.filed == key.requests
            return [
                "key": .string(key.key), "class": .string(found?.name ?? Self.dimension),
                "since": found?.since.map { .string(RFC3339.precise($0)) } ?? .null,
                "reason": .string(isOther ? "keys beyond the workspace's budget" : found?.reason ?? ""),
                "distinct": JSONValue(key.distinct), "requests": JSONValue(key.requests),
                "filed_under_other": JSONValue(key.filed), "share": JSONValue(key.share),
                "first_seen": .string(RFC3339.precise(key.firstSeen)),
                "last_seen": .string(RFC3339.precise(key.lastSeen)), "exact": .boolean(key.isExact),
            ]
        }
        return ["data": .array(rows), "missing": .array(listing.missing.map(\.json))]
    }
}

extension ListingGap {
    package var json: JSONValue {
        [
            "from": .string(RFC3339.precise(from)), "to": .string(RFC3339.precise(to)),
            "keys": keys.map { .array($0.map { .string($0) }) } ?? .null, "reason": .string(reason),
        ]
    }
}
