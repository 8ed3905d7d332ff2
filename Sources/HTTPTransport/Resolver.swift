// Names to addresses: `getaddrinfo` on a thread of its own, answers kept for a short time.

import CLibevent
import Glibc
import Synchronization
import Threading

struct SocketAddress: Sendable {
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
        /// Too many names wait to be looked up.
        case busy
    }

    /// How long an answer is used: short, so that a provider's moved name is followed.
    static let keptMilliseconds: UInt64 = 30_000
    /// How long a failure is, so that a dead name server is asked once a second, not once a request.
    static let failureKeptMilliseconds: UInt64 = 1_000

    private struct Work: Sendable {
        var origin: UpstreamOrigin
        var loop: EventLoop
        var answer: @Sendable (Result) -> Void
    }

    /// What was looked up, and until when it is used.
    private final class KnownBox: Sendable {
        let names = Mutex<[UpstreamOrigin: (result: Result, until: UInt64)]>([:])
    }

    private let known: KnownBox
    private let queue = BoundedQueue<Work>(capacity: 4_096)
    private let thread: ServiceThread

    package init() {
        let queue = queue
        let box = KnownBox()
        known = box
        thread = ServiceThread("resolver") {
            while let work = queue.pop() {
                let result = Self.answer(work.origin, box)
                work.loop.post { work.answer(result) }
            }
        }
    }

    /// Whoever waited behind the same name takes its answer. Where a look-up fails and addresses are known from before,
    /// they are tried once more.
    private static func answer(_ origin: UpstreamOrigin, _ known: KnownBox) -> Result {
        let now = EventLoop.clock()
        let before = known.names.withLock { $0[origin] }
        if let before, before.until > now { return before.result }
        var result = lookUp(host: origin.host, port: origin.port, flags: AI_ADDRCONFIG)
        var kept = keptMilliseconds
        if case .failure = result {
            kept = failureKeptMilliseconds
            if case .addresses? = before?.result, let before { result = before.result }
        }
        known.names.withLock { $0[origin] = (result, EventLoop.clock() + kept) }
        return result
    }

    /// None of the addresses answered: the name is looked up anew by the next request.
    func forget(_ origin: UpstreamOrigin) {
        known.names.withLock { names in
            if let entry = names[origin], entry.until != .max { names[origin] = nil }
        }
    }

    package func stop() {
        queue.close()
        thread.join()
    }

    /// Calls `answer` on the loop, at once where the address is known or numeric.
    func resolve(_ origin: UpstreamOrigin, on loop: EventLoop, _ answer: @escaping (Result) -> Void) {
        let now = EventLoop.clock()
        if let found = known.names.withLock({ $0[origin] }), found.until > now { return answer(found.result) }
        if case .addresses(let addresses) = Self.lookUp(host: origin.host, port: origin.port, flags: AI_NUMERICHOST) {
            let result = Result.addresses(addresses)
            known.names.withLock { $0[origin] = (result, .max) }
            return answer(result)
        }
        // The closure is made and run on the loop's thread; the resolver's only carries it back there.
        let carried = LoopBound(answer)
        let accepted = queue.tryPush(
            Work(origin: origin, loop: loop) { carried.value($0) })
        if !accepted { answer(.busy) }
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
