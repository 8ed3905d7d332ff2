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

/// A trie of paths, laid out flat. At most 128 paths of at most `deepest` segments; nothing is watched below a raw one;
/// where an array position is named and `*` stands beside it, the named one is taken. Programmer's mistakes stop the
/// program here, at the start.
package struct JSONPaths: Sendable {
    struct Node: Sendable {
        /// Its slots in `slots`: a power of two of them, one at least free; a name is at its hash or behind it.
        var firstSlot = 0
        var mask = 0
        var hasPositions = false
        var isLeaf = true
        /// The node for any array position.
        var wildcard = -1
        var path = -1
        /// The paths at and below this node, as bits.
        var subtree: UInt128 = 0
        /// Below a `*`: a value stays found until another replaces it.
        var isShared = false
    }

    /// The way from a node to the one below it by a member's name, or by a position where the name is a number.
    private struct Edge {
        var name: Name
        var position: Int32?
        var node: Int
    }

    /// A member's name by its first and its last eight bytes, zeroes behind a shorter one; `text` has what may lie between.
    private struct Name {
        var head: UInt64
        var tail: UInt64
        var count: Int
        var text: [UInt8]
    }

    static let deepest = 8

    let count: Int
    let limits: [Int]
    private(set) var nodes = [Node()]
    /// Those whose value is taken whatever it is, as bits.
    private let rawPaths: UInt128
    private var edges: [Edge] = []
    /// Positions in `edges`; -1 where a slot is free.
    private var slots: [Int] = []
    /// No written key longer than this can be one of ours, escapes included.
    private(set) var longestKey = 0

    package init(_ paths: [JSONPath]) {
        precondition(paths.count <= 128, "at most 128 paths")
        count = paths.count
        limits = paths.map(\.limit)
        rawPaths = paths.indices.reduce(0) { paths[$1].isRaw ? $0 | 1 << UInt128($1) : $0 }
        // Which segments lead on from each node.
        var below: [[(segment: Substring, node: Int)]] = [[]]
        for (index, path) in paths.enumerated() {
            let bit = UInt128(1) << UInt128(index)
            var node = 0
            nodes[0].subtree |= bit
            let segments = path.text.split(separator: ".", omittingEmptySubsequences: false)
            precondition(segments.count <= Self.deepest, "a path of more than \(Self.deepest) segments")
            for segment in segments {
                precondition(nodes[node].path < 0 || !isRaw(nodes[node].path), "a path below a raw path")
                let parent = node
                if let known = below[parent].first(where: { $0.segment.utf8.elementsEqual(segment.utf8) }) {
                    node = known.node
                } else {
                    node = nodes.count
                    nodes.append(Node(isShared: segment == "*" || nodes[parent].isShared))
                    below[parent].append((segment, node))
                    below.append([])
                }
                nodes[node].subtree |= bit
            }
            precondition(nodes[node].path < 0, "the same path twice")
            precondition(!path.isRaw || nodes[node].subtree == bit, "a path below a raw path")
            nodes[node].path = index
        }
        for (parent, children) in below.enumerated() { connect(parent, children) }
    }

    private mutating func connect(_ parent: Int, _ children: [(segment: Substring, node: Int)]) {
        var size = 1
        while size <= children.count * 2 { size *= 2 }
        nodes[parent].firstSlot = slots.count
        nodes[parent].mask = size - 1
        nodes[parent].isLeaf = children.isEmpty
        slots += [Int](repeating: -1, count: size)
        for (segment, node) in children {
            if segment == "*" {
                nodes[parent].wildcard = node
                continue
            }
            let text = Array(segment.utf8)
            let (head, tail) = text.withUnsafeBytes { Self.ends(of: $0) }
            var slot = Self.hash(head, text.count) & nodes[parent].mask
            while slots[nodes[parent].firstSlot + slot] >= 0 { slot = (slot + 1) & nodes[parent].mask }
            slots[nodes[parent].firstSlot + slot] = edges.count
            let name = Name(head: head, tail: tail, count: text.count, text: text)
            edges.append(Edge(name: name, position: Int32(segment), node: node))
            if Int32(segment) != nil { nodes[parent].hasPositions = true }
            longestKey = max(longestKey, text.count * 6)
        }
    }

    @inline(__always)
    func isRaw(_ path: Int) -> Bool { rawPaths >> UInt128(path) & 1 == 1 }

    /// The node below `node` for the element at `position`; -1 where nothing is watched there.
    @inline(__always)
    func child(of node: Int, at position: Int32) -> Int {
        nodes[node].hasPositions ? named(node, position) ?? nodes[node].wildcard : nodes[node].wildcard
    }

    private func named(_ node: Int, _ position: Int32) -> Int? {
        let own = slots[nodes[node].firstSlot...nodes[node].firstSlot + nodes[node].mask]
        return own.lazy.filter { $0 >= 0 }.map { edges[$0] }.first { $0.position == position }?.node
    }

    /// The node below `node` for the member of this name; -1 where nothing is watched there.
    func child(of node: Int, named name: UnsafeRawBufferPointer) -> Int {
        let (head, tail) = Self.ends(of: name)
        let mask = nodes[node].mask
        let first = nodes[node].firstSlot
        var slot = Self.hash(head, name.count) & mask
        while slots[first + slot] >= 0 {
            let edge = slots[first + slot]
            if edges[edge].name.head == head, edges[edge].name.tail == tail, edges[edge].name.count == name.count,
                name.count <= 16 || edges[edge].name.text.elementsEqual(name)
            {
                return edges[edge].node
            }
            slot = (slot + 1) & mask
        }
        return -1
    }

    @inline(__always)
    private static func hash(_ head: UInt64, _ count: Int) -> Int {
        Int(truncatingIfNeeded: ((head &+ UInt64(truncatingIfNeeded: count)) &* 0x9E37_79B9_7F4A_7C15) >> 32)
    }

    @inline(__always)
    private static func ends(of name: UnsafeRawBufferPointer) -> (head: UInt64, tail: UInt64) {
        let count = name.count
        if count >= 8 {
            return (
                UInt64(littleEndian: name.loadUnaligned(as: UInt64.self)),
                UInt64(littleEndian: name.loadUnaligned(fromByteOffset: count - 8, as: UInt64.self))
            )
        }
        if count >= 4 {
            // Two halves that overlap in bytes that are the same.
            let low = UInt32(littleEndian: name.loadUnaligned(as: UInt32.self))
            let high = UInt32(littleEndian: name.loadUnaligned(fromByteOffset: count - 4, as: UInt32.self))
            return (UInt64(low) | UInt64(high) << UInt64((count - 4) * 8), 0)
        }
        var head: UInt64 = 0
        for index in 0..<count { head |= UInt64(name[index]) << UInt64(index * 8) }
        return (head, 0)
    }
}
