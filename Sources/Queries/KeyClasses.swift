// The rules timeline -> which class a metadata key has and had. A key's values stand in the sets where it is a dimension,
// and with the events alone where it is of another class; of a range in which it was both, events answer only the eras
// in which it was no dimension.

package import Events
import JSONText
package import RollupStore
import Synchronization

package struct KeyClass: Sendable, Equatable {
    /// `dimension`, `entity` or `identifier`.
    package var name: String
    /// From which event time on without a break; nil: always.
    package var since: EventTime?
    /// The rules name it; else it is what keys are by themselves.
    package var isNamed: Bool
}

/// What rules say of classes, by fingerprint: texts of one fingerprint never differ.
final class ClassMemory: Sendable {
    private let known = Mutex<[String: [String: String]]>([:])

    func classes(of rules: RulesText) -> [String: String] {
        known.withLock { known in
            if let classes = known[rules.fingerprint] { return classes }
            var classes: [String: String] = [:]
            // A text that does not parse is none that a consumer of this version has written; it says nothing here.
            if let tree = try? JSONValue.parse(rules.text) {
                for member in tree["classes"]?.members ?? [] { classes[member.key] = member.value.string }
            }
            known[rules.fingerprint] = classes
            return classes
        }
    }
}

extension QueryEngine {
    static let dimension = "dimension"

    /// Keys with values that stand with events of `from <= time < to` only.
    func eventKeys(from: EventTime, to: EventTime, _ snapshot: any RollupSnapshot) throws -> Set<String> {
        eventKeys(under: try snapshot.rulesTimeline().entries(from: from, to: to))
    }

    func eventKeys(under rules: ArraySlice<RulesTimeline.Entry>) -> Set<String> {
        rules.reduce(into: []) { $0.formUnion(nonDimensions(of: $1)) }
    }

    private func nonDimensions(of entry: RulesTimeline.Entry) -> Set<String> {
        Set(classMemory.classes(of: entry.rules).filter { $0.value != Self.dimension }.keys)
    }

    /// `from <= time < to` by what the keys of other classes than dimension say to each part; neighbours differ.
    func eras(
        from: EventTime, to: EventTime, under rules: ArraySlice<RulesTimeline.Entry>,
        reason: (Set<String>) -> String?
    ) -> [Era] {
        var eras: [Era] = []
        for index in rules.indices {
            let end = index + 1 < rules.endIndex ? rules[index + 1].from : to
            let era = Era(
                from: eras.last?.to ?? from.microseconds, to: end.microseconds,
                onlyEvents: reason(nonDimensions(of: rules[index])))
            if let last = eras.last, last.onlyEvents == era.onlyEvents {
                eras[eras.count - 1].to = era.to
            } else {
                eras.append(era)
            }
        }
        return eras.isEmpty ? [Era(from: from.microseconds, to: to.microseconds, onlyEvents: reason([]))] : eras
    }

    /// The class that keys have at the end of a range.
    package func keyClasses(
        of keys: [String], before to: EventTime, snapshot: any RollupSnapshot
    ) throws(QueryError) -> [String: KeyClass] {
        try storeErrorsNamed {
            let entries = try snapshot.rulesTimeline().entries(from: EventTime(microseconds: .min), to: to)
            var found: [String: KeyClass] = [:]
            for key in keys {
                var last: KeyClass?
                for entry in entries {
                    let named = classMemory.classes(of: entry.rules)[key]
                    let name = named ?? Self.dimension
                    if last?.name != name {
                        last = KeyClass(name: name, since: last == nil ? nil : entry.from, isNamed: named != nil)
                    }
                    last?.isNamed = named != nil
                }
                found[key] = last ?? KeyClass(name: Self.dimension, since: nil, isNamed: false)
            }
            return found
        }
    }
}
