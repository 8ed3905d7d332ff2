// A set of 64-bit hashes, for counting what is different.

/// How many different hashes there were: open addressing, no value with them.
struct DistinctHashes: Sendable {
    private var slots = [UInt64](repeating: 0, count: 64)
    private(set) var count = 0

    /// True the first time.
    mutating func insert(_ given: UInt64) -> Bool {
        // 0 is a free slot.
        let hash = given == 0 ? 1 : given
        var probe = Int(truncatingIfNeeded: hash) & (slots.count - 1)
        while slots[probe] != 0 {
            if slots[probe] == hash { return false }
            probe = (probe + 1) & (slots.count - 1)
        }
        slots[probe] = hash
        count += 1
        if count * 2 > slots.count { grow() }
        return true
    }

    func contains(_ given: UInt64) -> Bool {
        let hash = given == 0 ? 1 : given
        var probe = Int(truncatingIfNeeded: hash) & (slots.count - 1)
        while slots[probe] != 0 {
            if slots[probe] == hash { return true }
            probe = (probe + 1) & (slots.count - 1)
        }
        return false
    }

    mutating func removeAll() {
        for index in slots.indices { slots[index] = 0 }
        count = 0
    }

    private mutating func grow() {
        let old = slots
        slots = [UInt64](repeating: 0, count: old.count * 2)
        count = 0
        for hash in old where hash != 0 { _ = insert(hash) }
    }
}
