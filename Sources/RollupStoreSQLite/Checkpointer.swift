// Carries the write-ahead log over into the database file on a thread of its own, so that the writer waits for no disk.
//
// SQLite starts the log again at its beginning only at a commit that finds all of it carried over, and beside a busy
// writer something is always left. So the schedule has two marks: from `start` pages on a pass is made beside the
// writer, again after as many more; from `limit` on the writer makes it itself, between two commits, and has little
// left to carry. A pass that fails changes nothing: the log keeps what it has, and the next one begins where it ended.

import CSQLite
import Glibc
import Threading

/// When the log is carried over, and by whom. Pure.
package struct CheckpointSchedule {
    package enum Pass { case none, beside, here }

    /// Pages.
    private let start: Int
    private let limit: Int
    private var next: Int
    private var last = 0

    package init(start: Int, limit: Int) {
        self.start = start
        self.limit = limit
        next = start
    }

    /// The log holds so many pages after a commit.
    package mutating func committed(pages: Int) -> Pass {
        if pages < last { next = start }
        last = pages
        guard pages >= next else { return .none }
        next = pages + start
        return pages >= limit ? .here : .beside
    }
}

/// The thread beside one writer. Owned by the writer; `stop` or the end of its life ends the thread.
final class Checkpointer {
    private let wanted = BoundedQueue<Void>(capacity: 1)
    private var thread: ServiceThread?

    init(path: String) {
        thread = ServiceThread("mr-checkpoint") { [wanted] in
            // Where the file cannot be opened or read a second time, the passes of the writer are left.
            guard let connection = try? Connection(path: path, access: .checkpoint) else { return }
            while wanted.pop() != nil { connection.checkpoint() }
        }
    }

    deinit { stop() }

    /// Never waits: where a pass is under way, one more is made after it.
    func request() { _ = wanted.tryPush(()) }

    func stop() {
        wanted.close()
        thread?.join()
        thread = nil
    }
}
