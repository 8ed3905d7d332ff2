// The page after the one that is being counted, read on a thread and over a connection of its own.
//
// What is read ahead stays true: whatever is applied meanwhile is pending for the replay, and no part of its scan.

import RollupStore
import Threading

/// @unchecked: `store` is the thread's until that has ended.
final class ScanAhead: @unchecked Sendable {
    private var store: any ReplayStore
    private let asked = BoundedQueue<(replay: StoredReplay, limit: Int)>(capacity: 1)
    private let answers = BoundedQueue<ReplayPage?>(capacity: 1)
    private var thread: ServiceThread?
    private var isAsked = false

    init(_ store: any ReplayStore) {
        self.store = store
        thread = ServiceThread("mr-scan") { [self] in
            while let (replay, limit) = asked.pop() { _ = answers.push(try? self.store.scan(replay, limit: limit)) }
        }
    }

    /// Begins with the page after that of the replay's cursor.
    func ask(_ replay: StoredReplay, limit: Int) { isAsked = asked.tryPush((replay, limit)) }

    /// What was asked for; nil where nothing was, or where it failed: whoever reads it again learns why.
    func take() -> ReplayPage? {
        if !isAsked { return nil }
        isAsked = false
        return answers.pop() ?? nil
    }

    func close() {
        asked.close()
        answers.close()
        thread?.join()
        thread = nil
        store.close()
    }
}
