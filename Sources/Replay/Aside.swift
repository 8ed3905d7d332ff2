// One thing at a time that a store does on a thread of its own, while the caller goes on with the next.
//
// A replay's next page is read while one is counted: what is read ahead stays true, since whatever is applied meanwhile is
// pending for the replay and no part of its scan. And a step is written while the next is counted: it is waited for before
// that is begun, so that steps are taken one after the other as without it.

import RollupStore
import Threading

/// @unchecked: `store` is the thread's from `start` to `finish`.
final class Aside<Task: Sendable, Answer: Sendable>: @unchecked Sendable {
    private var store: any ReplayStore
    private let tasks = BoundedQueue<Task>(capacity: 1)
    private let answers = BoundedQueue<Result<Answer, RollupStoreError>>(capacity: 1)
    private var thread: ServiceThread?
    private var current: Task?

    init(
        _ name: String, _ store: any ReplayStore,
        _ body: @escaping @Sendable (inout any ReplayStore, Task) throws(RollupStoreError) -> Answer
    ) {
        self.store = store
        thread = ServiceThread(name) { [self] in
            while let task = tasks.pop() {
                _ = answers.push(Result { () throws(RollupStoreError) in try body(&self.store, task) })
            }
        }
    }

    /// Where nothing is under way.
    func start(_ task: Task) { if tasks.tryPush(task) { current = task } }

    /// Waits for what is under way; nil where nothing is.
    func finish() -> (task: Task, answer: Result<Answer, RollupStoreError>)? {
        guard let task = current, let answer = answers.pop() else { return nil }
        current = nil
        return (task, answer)
    }

    /// What is under way is done first. The store stays open.
    func close() {
        tasks.close()
        _ = finish()
        thread?.join()
        thread = nil
    }
}
