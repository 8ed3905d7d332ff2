// One event loop: a libevent base on a thread of its own, and the inbox through which other threads reach it.
//
// Everything that a loop owns (channels, connections, pools, a journal lane) is touched on its thread only. Other
// threads `post` work; the inbox is bounded, and a full one refuses, which its callers count as overload.

import CLibevent
import Glibc
import Synchronization
import Threading

/// @unchecked: `inbox` is behind its mutex; all else is touched on the loop's thread, or before it starts and after it
/// has ended.
package final class EventLoop: @unchecked Sendable {
    /// Posted work at most; beyond it `post` answers false.
    package static let inboxCapacity = 65_536
    static let scratchSize = 65_536
    static let tickMilliseconds = 250

    let base: OpaquePointer
    /// What sockets are read into: one buffer a loop, so that an idle connection holds none.
    let scratch = UnsafeMutableRawBufferPointer.allocate(byteCount: EventLoop.scratchSize, alignment: 64)
    private let wakeDescriptor: Int32
    private var wakeEvent: OpaquePointer?
    private var tickEvent: OpaquePointer?
    /// nil once the loop has ended: nothing runs any more.
    private let inbox = Mutex<[@Sendable () -> Void]?>([])
    private var thread: ServiceThread?
    private var channels: [ObjectIdentifier: Channel] = [:]
    private var timers: [(due: UInt64, work: () -> Void)] = []
    /// Milliseconds on the monotonic clock, as of the start of the current callback.
    private(set) var now: UInt64 = EventLoop.clock()
    private let lastTick = Atomic<UInt64>(EventLoop.clock())

    package let name: String

    package init(name: String) throws(HTTPTransportError) {
        self.name = name
        guard let base = event_base_new() else {
            throw HTTPTransportError(
                code: .loop, tried: "make an event loop", reason: "libevent has no usable back end",
                next: "Check the limit on open files (ulimit -n).")
        }
        self.base = base
        wakeDescriptor = eventfd(0, Int32(EFD_NONBLOCK) | Int32(EFD_CLOEXEC))
        guard wakeDescriptor >= 0 else {
            event_base_free(base)
            throw HTTPTransportError(
                code: .loop, tried: "make an event loop's inbox", reason: String(cString: strerror(errno)),
                next: "Raise the limit on open files (ulimit -n).")
        }
        signal(SIGPIPE, SIG_IGN)
        let context = Unmanaged.passUnretained(self).toOpaque()
        wakeEvent = event_new(
            base, wakeDescriptor, Int16(EV_READ | EV_PERSIST),
            { _, _, context in EventLoop.from(context)?.drainInbox() }, context)
        tickEvent = event_new(
            base, -1, Int16(EV_PERSIST), { _, _, context in EventLoop.from(context)?.tick() }, context)
        event_add(wakeEvent, nil)
        var interval = timeval(tv_sec: 0, tv_usec: EventLoop.tickMilliseconds * 1000)
        event_add(tickEvent, &interval)
    }

    deinit {
        if let wakeEvent { event_free(wakeEvent) }
        if let tickEvent { event_free(tickEvent) }
        event_base_free(base)
        close(wakeDescriptor)
        scratch.deallocate()
    }

    private static func from(_ context: UnsafeMutableRawPointer?) -> EventLoop? {
        context.map { Unmanaged<EventLoop>.fromOpaque($0).takeUnretainedValue() }
    }

    package static func clock() -> UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) * 1000 + UInt64(time.tv_nsec) / 1_000_000
    }

    /// How long it has not turned; a tick at most while all is well. For any thread.
    package var silence: Duration {
        .milliseconds(EventLoop.clock() - lastTick.load(ordering: .relaxed))
    }

    /// Runs the loop on a new thread, until `stop`.
    package func start() {
        thread = ServiceThread(name) { [self] in
            event_base_loop(base, EVLOOP_NO_EXIT_ON_EMPTY)
            for channel in Array(channels.values) { channel.abandon() }
            drainInbox()
            // What would come later never does: its closures may hold what holds this loop.
            inbox.withLock { $0 = nil }
            timers = []
        }
    }

    /// Ends the loop and waits for its thread; open channels are closed.
    package func stop() {
        _ = post { [self] in event_base_loopbreak(base) }
        thread?.join()
        thread = nil
    }

    /// Runs `work` on the loop's thread, soon. False where the inbox is full, or the loop has ended.
    @discardableResult
    package func post(_ work: @escaping @Sendable () -> Void) -> Bool {
        let (accepted, wasEmpty) = inbox.withLock { queue in
            guard let count = queue?.count, count < Self.inboxCapacity else { return (false, false) }
            queue?.append(work)
            return (true, count == 0)
        }
        if wasEmpty {
            var one: UInt64 = 1
            write(wakeDescriptor, &one, 8)
        }
        return accepted
    }

    /// Runs `work` on this thread after about that time (a tick more at most). Call on the loop's thread.
    package func schedule(afterMilliseconds delay: Int, _ work: @escaping () -> Void) {
        timers.append((EventLoop.clock() + UInt64(max(0, delay)), work))
        // Short delays do not wait for the tick.
        guard delay < EventLoop.tickMilliseconds else { return }
        var interval = timeval(tv_sec: 0, tv_usec: max(0, delay) * 1000)
        event_base_once(
            base, -1, Int16(EV_TIMEOUT), { _, _, context in EventLoop.from(context)?.fireTimers() },
            Unmanaged.passUnretained(self).toOpaque(), &interval)
    }

    private func drainInbox() {
        var count: UInt64 = 0
        _ = read(wakeDescriptor, &count, 8)
        now = EventLoop.clock()
        let work = inbox.withLock { queue in
            let taken = queue ?? []
            queue?.removeAll(keepingCapacity: taken.count < 1024)
            return taken
        }
        for item in work { item() }
    }

    private func fireTimers() {
        now = EventLoop.clock()
        let due = timers.filter { $0.due <= now }
        if due.isEmpty { return }
        timers.removeAll { $0.due <= now }
        for timer in due { timer.work() }
    }

    private func tick() {
        lastTick.store(EventLoop.clock(), ordering: .relaxed)
        fireTimers()
        for channel in channels.values where channel.deadline <= now { channel.deadlinePassed() }
    }

    func markNow() { now = EventLoop.clock() }

    // The loop holds its channels: what a C callback's context points at lives as long as the registration.
    func hold(_ channel: Channel) { channels[ObjectIdentifier(channel)] = channel }
    func drop(_ channel: Channel) { channels[ObjectIdentifier(channel)] = nil }
}
