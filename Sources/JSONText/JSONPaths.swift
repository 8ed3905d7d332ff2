// The few places of a JSON document that a `JSONPathScanner` watches, compiled once and shared.

/// One watched place: member names and array positions joined by dots, `*` for any position of an array.
package struct JSONPath: Sendable, ExpressibleByStringLiteral {
    package var text: String
    /// Take the value's text whatever it is, not only strings, numbers and booleans.
    package var isRaw: Bool
    /// How many bytes of the value, as it is written, are kept; the rest is cut.
    package var limit: Int

    package static let defaultLimit = 512

    package init(_ text: String, isRaw: Bool = false, limit: Int = JSONPath.defaultLimit) {
        self.text = text
        self.isRaw = isRaw
        self.limit = limit
    }

    package init(stringLiteral text: String) { self.init(text) }

    package static func raw(_ text: String, limit: Int) -> JSONPath { JSONPath(text, isRaw: true, limit: limit) }
}

/// A trie of paths. At most 128 paths; nothing is watched below a raw one; where an array position is named and `*`
/// stands beside it, the named one is taken. Programmer's mistakes stop the program here, at the start.
package struct JSONPaths: Sendable {
    struct Edge: Sendable {
        var key: [UInt8]
        var index: Int32?
        var node: Int
    }

    struct Node: Sendable {
        var edges: [Edge] = []
        /// The node for any array position.
        var wildcard = -1
        var path = -1
        /// The paths at and below this node, as bits.
        var subtree: UInt128 = 0
        /// Below a `*`: a value stays found until another replaces it.
        var isShared = false

        func child(at index: Int32) -> Int { edges.first { $0.index == index }?.node ?? wildcard }

        @inline(__always)
        func child(named key: UnsafeRawBufferPointer) -> Int {
            for edge in edges where edge.key.count == key.count {
                if edge.key.withUnsafeBytes({ $0.elementsEqual(key) }) { return edge.node }
            }
            return -1
        }
    }

    let paths: [JSONPath]
    private(set) var nodes = [Node()]
    /// No written key longer than this can be one of ours, escapes included.
    private(set) var longestKey = 0

    package init(_ paths: [JSONPath]) {
        precondition(paths.count <= 128, "at most 128 paths")
        self.paths = paths
        for (index, path) in paths.enumerated() {
            let bit = UInt128(1) << UInt128(index)
            var node = 0
            nodes[0].subtree |= bit
            for segment in path.text.split(separator: ".", omittingEmptySubsequences: false) {
                precondition(nodes[node].path < 0 || !paths[nodes[node].path].isRaw, "a path below a raw path")
                node = child(of: node, String(segment))
                nodes[node].subtree |= bit
            }
            precondition(nodes[node].path < 0, "the same path twice")
            precondition(!path.isRaw || nodes[node].subtree == bit, "a path below a raw path")
            nodes[node].path = index
        }
    }

    private mutating func child(of parent: Int, _ segment: String) -> Int {
        let key = Array(segment.utf8)
        let found = segment == "*" ? nodes[parent].wildcard : nodes[parent].edges.first { $0.key == key }?.node ?? -1
        if found >= 0 { return found }
        nodes.append(Node(isShared: segment == "*" || nodes[parent].isShared))
        if segment == "*" {
            nodes[parent].wildcard = nodes.count - 1
        } else {
            nodes[parent].edges.append(Edge(key: key, index: Int32(segment), node: nodes.count - 1))
            longestKey = max(longestKey, key.count * 6)
        }
        return nodes.count - 1
    }
}
