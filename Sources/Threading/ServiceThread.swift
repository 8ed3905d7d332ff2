// A named thread that a service owns: started once, joined once or left to itself.

import Glibc
import Synchronization

/// A thread of our own, for what blocks. The name shows in `top -H` and in a debugger (15 bytes). Whoever lets go of it
/// without `join` leaves it to itself: it ends when its work does.
///
/// @unchecked: `handle` is written in `init` and read by the one `join`, or else by `deinit`.
package final class ServiceThread: @unchecked Sendable {
    private final class Body {
        let name: String
        let niceness: Int32
        let run: @Sendable () -> Void
        init(name: String, niceness: Int32, run: @escaping @Sendable () -> Void) {
            self.name = name
            self.niceness = niceness
            self.run = run
        }
    }

    private var handle = pthread_t()
    private let isJoined = Atomic(false)

    /// Starts at once. Traps where the system has no thread left to give: nothing could go on.
    ///
    /// - `niceness`: 0 ... 19; how much the others of the process go first where cores are short.
    package init(
        _ name: String, stackSize: Int = 1 << 20, niceness: Int32 = 0, _ run: @escaping @Sendable () -> Void
    ) {
        var attributes = pthread_attr_t()
        pthread_attr_init(&attributes)
        pthread_attr_setstacksize(&attributes, stackSize)
        defer { pthread_attr_destroy(&attributes) }
        let body = Unmanaged.passRetained(Body(name: name, niceness: niceness, run: run))
        let status = pthread_create(
            &handle, &attributes,
            { context in
                guard let context else { return nil }
                let body = Unmanaged<Body>.fromOpaque(context).takeRetainedValue()
                nameThisThread(body.name)
                if body.niceness > 0 { giveWay(niceness: body.niceness) }
                body.run()
                return nil
            }, body.toOpaque())
        precondition(status == 0, "no thread could be started (pthread_create: \(status)); raise the process limit")
    }

    deinit { if !isJoined.load(ordering: .relaxed) { pthread_detach(handle) } }

    /// Waits for the thread's end. Call once.
    package func join() {
        isJoined.store(true, ordering: .relaxed)
        pthread_join(handle, nil)
    }
}

/// From here on others go before this thread, and before those that it starts, where cores are short: Linux gives each thread
/// a niceness of its own. Refused or not, the thread works.
package func giveWay(niceness: Int32) { _ = setpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0, niceness) }

/// Best effort: the name is for people, and nothing depends on it.
private func nameThisThread(_ name: String) {
    let file = open("/proc/thread-self/comm", O_WRONLY)
    guard file >= 0 else { return }
    defer { close(file) }
    var text = String(name.prefix(15))
    _ = text.withUTF8 { write(file, $0.baseAddress, $0.count) }
}
