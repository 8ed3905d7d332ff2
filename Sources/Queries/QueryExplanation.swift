// How an answer is found, for people: the filter's tree, who decides each part of it, and every stretch with its
// source. Evaluation, stretches -> JSON.

import Events
package import JSONText
import Rollups

package struct QueryExplanation: Sendable {
    package let json: JSONValue

    /// Stretches shown; a long range in minutes has thousands.
    private static let stretchesShown = 200

    init(_ evaluation: Evaluation, _ stretches: [Stretch], _ reads: EventReads, estimatedRows: Int) {
        let question = evaluation.question
        let shown = stretches.prefix(Self.stretchesShown).map { stretch -> JSONValue in
            [
                "source": .string(stretch.grain == nil ? "events" : "rollups"),
                "grain": stretch.grain.map { .string($0.name) } ?? .null,
                "from": .string(RFC3339.precise(EventTime(microseconds: stretch.from))),
                "to": .string(RFC3339.precise(EventTime(microseconds: stretch.to))),
                "index": .array(reads.keys(of: [stretch]).map { .string("metadata.\($0)") }),
            ]
        }
        json = [
            "from": .string(RFC3339.precise(question.from)), "to": .string(RFC3339.precise(question.to)),
            "granularity": .string(question.granularity.rawValue), "timezone": .string(question.zone.name),
            "buckets": JSONValue(evaluation.grid.starts.count),
            "condition": question.condition.map { Self.tree($0, evaluation) } ?? .null,
            "series": ["selected": JSONValue(evaluation.selectedCount), "of": JSONValue(evaluation.catalog.count)],
            "estimated_rows": JSONValue(estimatedRows), "stretches": .array(Array(shown)),
            "stretches_not_shown": JSONValue(stretches.count - shown.count),
        ]
    }

    private static func tree(_ condition: Condition, _ evaluation: Evaluation) -> JSONValue {
        switch condition {
        case .not(let inner): ["not": tree(inner, evaluation)]
        case .all(let parts): ["and": .array(parts.map { tree($0, evaluation) })]
        case .any(let parts): ["or": .array(parts.map { tree($0, evaluation) })]
        case .leaf(let leaf): leaf.json(evaluation)
        }
    }
}

extension Leaf {
    fileprivate func json(_ evaluation: Evaluation) -> JSONValue {
        func written(_ name: String, _ test: String, _ value: JSONValue, by decider: String = "events") -> JSONValue {
            ["name": .string(name), "test": .string(test), "value": value, "decided_by": .string(decider)]
        }
        switch self {
        case .dimension(let dimension, let test):
            // A key that was a dimension for a part of the range only: each decides its eras.
            let decider =
                !evaluation.isOfEvent(dimension) ? "series" : evaluation.readsRollups ? "series and events" : "events"
            switch test {
            case .anyOf(let values):
                return written(dimension.name, "in", .array(values.map { .string($0) }), by: decider)
            case .hasPrefix(let prefix):
                let text = String(decoding: prefix, as: UTF8.self)
                return written(dimension.name, "like", .string(text + "%"), by: decider)
            case .exists: return written(dimension.name, "exists", .null, by: decider)
            }
        case .number(let field, let comparison, let bound):
            let number = decimal(Int64(clamping: bound), digits: 9)
            return written(field.rawValue, comparison.rawValue, .number(number))
        case .numberExists(let field): return written(field.rawValue, "exists", .null)
        case .text(let field, let values):
            return written(field.rawValue, "in", .array(values.map { .string($0) }))
        }
    }
}
