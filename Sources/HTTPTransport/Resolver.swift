// Names to addresses: `getaddrinfo` on a few threads of its own; `ResolverNames` decides when.

import CLibevent
import Glibc
import Threading

struct SocketAddress: Sendable, Equatable {
    fileprivate var family: Int32
    fileprivate var bytes: [UInt8]

    /// A non-blocking socket for it; -1 with `errno` where the system has none.
    func openSocket() -> Int32 {
        let descriptor = socket(
            family, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        if descriptor >= 0 {
            var one: Int32 = 1
            setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &one, 4)
        }
        return descriptor
    }

    func connect(_ descriptor: Int32) -> Int32 {
        bytes.withUnsafeBytes {
            guard let base = $0.baseAddress else { return -1 }
            return Glibc.connect(descriptor, base.assumingMemoryBound(to: sockaddr.self), socklen_t($0.count))
        }
    }

    func bind(_ descriptor: Int32) -> Int32 {
        bytes.withUnsafeBytes {
            guard let base = $0.baseAddress else { return -1 }
            return Glibc.bind(descriptor, base.assumingMemoryBound(to: sockaddr.self), socklen_t($0.count))
        }
    }
}

package final class Resolver: Sendable {
    enum Result: Sendable {
        case addresses([SocketAddress])
        case failure(String)
        /// Too many requests wait for the name.
        case busy
    }

    /// Names looked up at once; one that hangs holds up no other until that many hang.
    static let threadCount = 4
    /// What `stop` waits for look-ups under way.
    static let stopMilliseconds: UInt64 = 1_000

    private struct Waiter: Sendable {
        var loop: EventLoop
        var answer: @Sendable (Result) -> Void
    }

    /// What the threads share; it outlives the resolver where a look-up hangs.
    ///
    /// @unchecked: `names` is read and written with `lock` held, in this file.
    private final class Shared: @unchecked Sendable {
        private var names = ResolverNames<Waiter>()
        private var isStopped = false
        private let lock = ConditionLock()

        /// Decides with the lock held, and wakes a thread where that gave it something to do.
        func decide<Answer>(_ body: (inout ResolverNames<Waiter>) -> Answer) -> Answer {
            lock.withLock {
                defer { if names.hasLookUp { lock.wakeAll() } }
                return body(&names)
            }
        }

        /// Waits for a name to be looked up; nil when stopped.
        func next() -> UpstreamOrigin? {
            lock.withLock {
                while !isStopped {
                    if let origin = names.nextLookUp() { return origin }
                    lock.wait()
                }
                return nil
            }
        }

        func stop() {
            lock.withLock {
                isStopped = true
                names.stopped()
                lock.wakeAll()
            }
        }
    }

    private let shared = Shared()
    private let threads: [(thread: ServiceThread, ended: StopSignal)]
    private let clock: @Sendable () -> UInt64

    package convenience init() {
        self.init { Self.lookUp(host: $0.host, port: $0.port, flags: AI_ADDRCONFIG) }
    }

    /// `lookUp` runs on the resolver's threads and may take its time. `clock`: monotonic milliseconds.
    init(
        clock: @escaping @Sendable () -> UInt64 = { EventLoop.clock() },
        lookUp: @escaping @Sendable (UpstreamOrigin) -> Result
    ) {
        self.clock = clock
        let shared = shared
        threads = (0..<Self.threadCount).map { index in
            let ended = StopSignal()
            let thread = ServiceThread("resolver-\(index)") {
                while let origin = shared.next() {
                    let result = lookUp(origin)
                    let told = shared.decide { $0.lookedUp(origin, result, now: clock()) }
                    for waiter in told.waiting { waiter.loop.post { waiter.answer(told.result) } }
                }
                ended.stop()
            }
            return (thread, ended)
        }
    }

    deinit { shared.stop() }

    /// None of the addresses answered: the next request waits for a new look-up.
    func forget(_ origin: UpstreamOrigin) { shared.decide { $0.forgot(origin) } }

    /// Whoever still waits is told nothing. A look-up cannot be broken off: one that has not come back in time is left
    /// to its thread. Answers how many are.
    package func stop() -> Int {
        shared.stop()
        let deadline = EventLoop.clock() + Self.stopMilliseconds
        var left = 0
        for (thread, ended) in threads {
            let now = EventLoop.clock()
            if ended.wait(milliseconds: now < deadline ? Int(deadline - now) : 0) {
                thread.join()
            } else {
                left += 1
            }
        }
        return left
    }

    /// Calls `answer` on the loop, at once where an address is known or the host is one.
    func resolve(_ origin: UpstreamOrigin, on loop: EventLoop, _ answer: @escaping (Result) -> Void) {
        if let address = shared.decide({ $0.isNew(origin) }) ? Self.numeric(origin) : nil {
            shared.decide { $0.foundNumeric(origin, address) }
        }
        // The closure is made and run on the loop's thread; the resolver's only carries it back there.
        let carried = LoopBound(answer)
        let waiter = Waiter(loop: loop) { carried.value($0) }
        if let result = shared.decide({ $0.asked(origin, by: waiter, now: clock()) }) { answer(result) }
    }

    private static func numeric(_ origin: UpstreamOrigin) -> [SocketAddress]? {
        switch lookUp(host: origin.host, port: origin.port, flags: AI_NUMERICHOST) {
        case .addresses(let addresses): addresses
        case .failure, .busy: nil
        }
    }

    static func lookUp(host: String, port: UInt16, flags: Int32) -> Result {
        var hints = addrinfo()
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        hints.ai_flags = flags
        var list: UnsafeMutablePointer<addrinfo>?
        let status = getaddrinfo(host, String(port), &hints, &list)
        guard status == 0 else { return .failure(String(cString: gai_strerror(status))) }
        defer { freeaddrinfo(list) }
        var addresses: [SocketAddress] = []
        var next = list
        while let entry = next?.pointee {
            if let address = entry.ai_addr {
                addresses.append(
                    SocketAddress(
                        family: entry.ai_family,
                        bytes: Array(UnsafeRawBufferPointer(start: address, count: Int(entry.ai_addrlen)))))
            }
            next = entry.ai_next
        }
        return addresses.isEmpty ? .failure("no address") : .addresses(addresses)
    }
}

/// Carries a loop's own value through another thread and back.
///
/// @unchecked: the value is touched on the loop's thread only, where it was made and where `post` brings it back.
package struct LoopBound<Value>: @unchecked Sendable {
    package let value: Value
    package init(_ value: Value) { self.value = value }
}
