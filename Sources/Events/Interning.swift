// Small dense numbers for values met again and again: hash tables without a String or an allocation per look-up.

/// Open addressing over positions 0, 1, 2 …; the values themselves lie with the caller.
package struct HashIndex: Sendable {
    package private(set) var slots = [Int32](repeating: -1, count: 256)
    package private(set) var hashes: [UInt64] = []

    package init() {}

    package var count: Int { hashes.count }

    @inlinable
    package func firstProbe(_ hash: UInt64) -> Int { Int(truncatingIfNeeded: hash) & (slots.count - 1) }

    /// The next position that may hold a value of this hash, from `probe` on; nil where there is none, and then
    /// `probe` is where it belongs.
    @inlinable
    package func next(_ hash: UInt64, _ probe: inout Int) -> Int? {
        while true {
            let position = slots[probe]
            if position < 0 { return nil }
            if hashes[Int(position)] == hash { return Int(position) }
            advance(&probe)
        }
    }

    @inlinable
    package func advance(_ probe: inout Int) { probe = (probe + 1) & (slots.count - 1) }

    /// Gives the next position to a new value; `probe` as `next` left it.
    package mutating func insert(_ hash: UInt64, _ probe: Int) -> Int {
        let position = hashes.count
        hashes.append(hash)
        slots[probe] = Int32(position)
        if hashes.count * 2 > slots.count { grow() }
        return position
    }

    package mutating func removeAll() {
        hashes.removeAll(keepingCapacity: true)
        for index in slots.indices { slots[index] = -1 }
    }

    private mutating func grow() {
        slots = [Int32](repeating: -1, count: slots.count * 2)
        for (position, hash) in hashes.enumerated() {
            var probe = firstProbe(hash)
            while slots[probe] >= 0 { advance(&probe) }
            slots[probe] = Int32(position)
        }
    }
}

/// The hash: 8 bytes a step, folded by a full multiplication. Seeded anew in each process, so that nobody can send
/// text that all falls together; numbers never depend on it.
package struct Hash: Sendable {
    private static let seed = UInt64.random(in: 0...UInt64.max)
    package private(set) var state = Hash.seed

    package init() {}

    package mutating func combine(_ word: UInt64) {
        let (high, low) = (state ^ word).multipliedFullWidth(by: 0x9E37_79B9_7F4A_7C15)
        state = (high ^ low) &+ 0xD6E8_FEB8_6659_FD93
    }

    package mutating func combine(_ bytes: UnsafeRawBufferPointer) {
        var at = 0
        while bytes.count - at >= 8 {
            combine(bytes.loadUnaligned(fromByteOffset: at, as: UInt64.self))
            at += 8
        }
        var tail: UInt64 = 0
        while at < bytes.count {
            tail = tail << 8 | UInt64(bytes[at])
            at += 1
        }
        combine(tail)
        combine(UInt64(bytes.count))
    }

    package mutating func combine(_ text: String) {
        var text = text
        text.withUTF8 { combine(UnsafeRawBufferPointer($0)) }
    }
}

/// FNV-1a of 64 bits: for numbers that are stored, or that processes compare; everything else takes `Hash`.
package struct FNV1a: Sendable {
    package var state: UInt64

    @inlinable
    package init(from state: UInt64 = 0xCBF2_9CE4_8422_2325) { self.state = state }

    @inlinable
    package mutating func combine(_ byte: UInt8) { state = (state ^ UInt64(byte)) &* 0x0000_0100_0000_01B3 }

    @inlinable
    package mutating func combine(_ bytes: some Sequence<UInt8>) {
        for byte in bytes { combine(byte) }
    }

    package mutating func combine(_ bytes: UnsafeRawBufferPointer) {
        for at in bytes.indices { combine(bytes[at]) }
    }
}

/// Byte strings by number. The numbers hold until `removeAll`.
package struct ByteInterner: Sendable {
    private var index = HashIndex()
    private var arena: [UInt8] = []
    private var ends: [Int] = [0]

    package init() {}

    package var count: Int { index.count }
    package var size: Int { arena.count }

    package mutating func intern(_ bytes: UnsafeRawBufferPointer) -> Int32 {
        var hash = Hash()
        hash.combine(bytes)
        var probe = index.firstProbe(hash.state)
        while let position = index.next(hash.state, &probe) {
            if holds(position, bytes) { return Int32(position) }
            index.advance(&probe)
        }
        arena.append(contentsOf: bytes)
        ends.append(arena.count)
        return Int32(index.insert(hash.state, probe))
    }

    package subscript(number: Int32) -> ArraySlice<UInt8> { arena[ends[Int(number)]..<ends[Int(number) + 1]] }

    package mutating func removeAll() {
        index.removeAll()
        arena.removeAll(keepingCapacity: true)
        ends.removeLast(ends.count - 1)
    }

    /// Whether the byte string of this number, which is one of ours, is this one.
    package func holds(_ position: Int, _ bytes: UnsafeRawBufferPointer) -> Bool {
        arena.withUnsafeBytes { arena in
            bytes.isSame(as: UnsafeRawBufferPointer(rebasing: arena[ends[position]..<ends[position + 1]]))
        }
    }
}

extension UnsafeRawBufferPointer {
    /// The same bytes, compared eight at a time.
    @inlinable
    package func isSame(as other: UnsafeRawBufferPointer) -> Bool {
        guard count == other.count else { return false }
        var at = 0
        while count - at >= 8 {
            if loadUnaligned(fromByteOffset: at, as: UInt64.self)
                != other.loadUnaligned(fromByteOffset: at, as: UInt64.self)
            {
                return false
            }
            at += 8
        }
        while at < count {
            if self[at] != other[at] { return false }
            at += 1
        }
        return true
    }
}
