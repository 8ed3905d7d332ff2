// A wire between the consumer and the broker that a test makes slow, dead or torn: TCP in, TCP out, byte for byte.

import Glibc
import Synchronization
import Threading

/// Listens on a port of 127.0.0.1 and carries each connection to another one. Ends with its owner.
final class Wire: Sendable {
    enum Mode: Sendable {
        case sound
        /// Each piece waits this long.
        case slow(milliseconds: UInt32)
        /// Pieces of a byte.
        case trickle
        /// Connections stay and carry nothing.
        case stalled
        /// Connections end in the middle of what they carry, after so many bytes.
        case torn(after: Int)
    }

    let port: UInt16
    private let target: UInt16
    private let mode = Mutex(Mode.sound)
    private let stopped = StopSignal()
    private let threads = Mutex<[ServiceThread]>([])

    init(port: UInt16, to target: UInt16) throws {
        self.port = port
        self.target = target
        let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var on: Int32 = 1
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, 4)
        guard Self.withAddress(port, { bind(listener, $0, $1) }) == 0, listen(listener, 64) == 0 else {
            throw ChildError("port \(port) is taken")
        }
        start { [self] in
            while !stopped.isStopped {
                var waiting = pollfd(fd: listener, events: Int16(POLLIN), revents: 0)
                guard poll(&waiting, 1, 100) > 0 else { continue }
                let client = accept(listener, nil, nil)
                if client >= 0 { carry(client) }
            }
            close(listener)
        }
    }

    func set(_ new: Mode) { mode.withLock { $0 = new } }

    func stop() {
        stopped.stop()
        while let thread = threads.withLock({ $0.popLast() }) { thread.join() }
    }

    private func start(_ body: @escaping @Sendable () -> Void) {
        let thread = ServiceThread("wire", body)
        threads.withLock { $0.append(thread) }
    }

    private func carry(_ client: Int32) {
        let server = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        guard Self.withAddress(target, { connect(server, $0, $1) }) == 0 else {
            close(client)
            close(server)
            return
        }
        start { [self] in
            carry(between: client, server)
            close(client)
            close(server)
        }
    }

    /// Both directions of one connection, until either side or the mode ends it.
    private func carry(between client: Int32, _ server: Int32) {
        var buffer = [UInt8](repeating: 0, count: 16_384)
        var carried = 0
        while !stopped.isStopped {
            let mode = mode.withLock { $0 }
            if case .stalled = mode {
                usleep(50_000)
                continue
            }
            var sides = [
                pollfd(fd: client, events: Int16(POLLIN), revents: 0),
                pollfd(fd: server, events: Int16(POLLIN), revents: 0),
            ]
            guard poll(&sides, 2, 100) > 0 else { continue }
            for (from, to) in [(0, server), (1, client)] where sides[from].revents != 0 {
                var size = buffer.count
                switch mode {
                case .slow(let milliseconds): usleep(milliseconds * 1_000)
                case .trickle: size = 1
                case .torn(let limit):
                    size = max(1, min(size, limit - carried))
                    if carried >= limit { return }
                case .sound, .stalled: break
                }
                let count = recv(sides[from].fd, &buffer, size, 0)
                guard count > 0, Self.sendAll(to, buffer, count) else { return }
                carried += count
            }
        }
    }

    private static func sendAll(_ descriptor: Int32, _ bytes: [UInt8], _ count: Int) -> Bool {
        var sent = 0
        while sent < count {
            let written = bytes.withUnsafeBytes {
                send(descriptor, $0.baseAddress?.advanced(by: sent), count - sent, Int32(MSG_NOSIGNAL))
            }
            guard written > 0 else { return false }
            sent += written
        }
        return true
    }

    private static func withAddress(_ port: UInt16, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32) -> Int32 {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        return withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                body($0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
    }
}
