// What a filter asks of an event: the tree that `where` parses into, and its two-valued (three with "unknown") logic.

/// A name that a filter or a group can ask for.
package enum Dimension: Hashable, Sendable {
    case provider, operation, model, outcome, statusClass, apiKey
    case metadata(String)

    /// The built-in ones, by the name in queries.
    package static let named: [(name: String, dimension: Dimension)] = [
        ("provider", .provider), ("operation", .operation), ("model", .model), ("outcome", .outcome),
        ("status_class", .statusClass), ("api_key", .apiKey),
    ]
}

/// What only events hold as a number.
package enum NumericField: String, CaseIterable, Sendable {
    case latency = "latency_ms"
    case cost = "cost_usd"
    case inputTokens = "input_tokens"
    case outputTokens = "output_tokens"
    case totalTokens = "total_tokens"
    case status
}

package enum Comparison: String, Sendable {
    case less = "<"
    case lessOrEqual = "<="
    case equal = "="
    case greaterOrEqual = ">="
    case greater = ">"

    func holds(_ a: Int128, _ b: Int128) -> Bool {
        switch self {
        case .less: a < b
        case .lessOrEqual: a <= b
        case .equal: a == b
        case .greaterOrEqual: a >= b
        case .greater: a > b
        }
    }
}

/// A condition on one name. On a missing value it is false.
package enum Test: Hashable, Sendable {
    /// Equals one of these; on a list, any element does.
    case anyOf([String])
    case hasPrefix([UInt8])
    case exists

    func holds(_ values: [String]) -> Bool {
        switch self {
        case .anyOf(let wanted): values.contains { wanted.contains($0) }
        case .hasPrefix(let prefix): values.contains { $0.utf8.starts(with: prefix) }
        case .exists: true
        }
    }
}

/// What only events hold as text.
package enum EventText: String, Sendable {
    case trace = "trace_id"
    case span = "span_id"
}

package enum Leaf: Hashable, Sendable {
    case dimension(Dimension, Test)
    /// Equals one of these. No part of the filter's grammar: for the routes that have parameters of these names.
    case text(EventText, [String])
    /// The bound in thousand-millionths of the field's unit.
    case number(NumericField, Comparison, Int128)
    case numberExists(NumericField)
}

package indirect enum Condition: Hashable, Sendable {
    case leaf(Leaf)
    case not(Condition)
    /// Empty holds.
    case all([Condition])
    /// Empty does not hold.
    case any([Condition])

    package var leaves: [Leaf] {
        switch self {
        case .leaf(let leaf): [leaf]
        case .not(let inner): inner.leaves
        case .all(let parts), .any(let parts): parts.flatMap(\.leaves)
        }
    }

    func holds(_ leaf: (Leaf) -> Bool) -> Bool {
        switch self {
        case .leaf(let asked): leaf(asked)
        case .not(let inner): !inner.holds(leaf)
        case .all(let parts): parts.allSatisfy { $0.holds(leaf) }
        case .any(let parts): parts.contains { $0.holds(leaf) }
        }
    }
}
