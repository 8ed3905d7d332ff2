// How many exchanges may be under way at once, in all and for one key. Shared by the loops of one proxy.

import Synchronization

/// | limit | unit | default | ceiling | why | at the limit |
/// | --- | --- | --- | --- | --- | --- |
/// | `limit` | exchanges under way | 10,000 | 1,000,000 | descriptors and memory: two sockets each | 503 with `retry-after` |
/// | `perKey` | of one API key | 0: none | 1,000,000 | one caller may not take every place | 429 with `retry-after` |
final class ConcurrencyGate: Sendable {
    enum Verdict { case entered, full, keyFull }

    private let limit: Int
    private let perKey: Int
    private let open = Atomic<Int>(0)
    /// By key id; empty where no limit a key is set.
    private let keys = Mutex<[String: Int]>([:])

    init(limit: Int, perKey: Int) {
        self.limit = limit
        self.perKey = perKey
    }

    /// `key` is empty in open mode: then only the limit in all counts. Each `entered` is followed by one `leave`.
    func enter(_ key: String) -> Verdict {
        guard open.wrappingAdd(1, ordering: .relaxed).newValue <= limit else {
            open.wrappingSubtract(1, ordering: .relaxed)
            return .full
        }
        guard perKey > 0, !key.isEmpty else { return .entered }
        let hasRoom = keys.withLock { keys in
            let count = keys[key, default: 0]
            guard count < perKey else { return false }
            keys[key] = count + 1
            return true
        }
        if hasRoom { return .entered }
        open.wrappingSubtract(1, ordering: .relaxed)
        return .keyFull
    }

    func leave(_ key: String) {
        open.wrappingSubtract(1, ordering: .relaxed)
        guard perKey > 0, !key.isEmpty else { return }
        keys.withLock { keys in
            let left = (keys[key] ?? 1) - 1
            keys[key] = left > 0 ? left : nil
        }
    }
}
