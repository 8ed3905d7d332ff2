// Stands between a client and a PostgreSQL server, counts what the client asks, and cuts the wire, or falls silent as the
// wire of a frozen client does, where it is told to.

import Foundation
import Synchronization
import Threading

/// One step is a message that the client waits for an answer to, or a piece of a COPY. Once cut, everything passes.
final class Relay: Sendable {
    enum Cut: Sendable, CaseIterable, CustomStringConvertible {
        /// The server never sees the step.
        case unasked
        /// The server has done the step, the client never hears of it.
        case unanswered

        var description: String {
            switch self {
            case .unasked: "unasked"
            case .unanswered: "unanswered"
            }
        }
    }

    private struct State {
        var left: Int?
        var cut = Cut.unasked
        var lastStep = ""
        var count = 0
        /// By the number of the step from when this was set, from 1, and the type of its message.
        var freezes: (@Sendable (Int, UInt8) -> Bool)?
        var frozenAt: UInt8?
    }

    private static let steps = Set("QScd".utf8)
    let port: Int
    private let listener: Int32
    private let server: Int
    private let state = Mutex(State())
    private let threads = Mutex<[ServiceThread]>([])

    init(to server: Int) throws {
        self.server = server
        listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = Self.loopback(0)
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let descriptor = listener
        let isOpen = withUnsafeMutablePointer(to: &address) { address in
            address.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, size) == 0 && listen(descriptor, 16) == 0
                    && getsockname(descriptor, $0, &size) == 0
            }
        }
        guard isOpen else { throw Failure("the relay cannot listen") }
        port = Int(UInt16(bigEndian: address.sin_port))
        let accepting = ServiceThread("relay") { [self] in accept() }
        threads.withLock { $0.append(accepting) }
    }

    /// Ends it, and every connection through it.
    func close() {
        shutdown(listener, Int32(SHUT_RDWR))
        _ = thaw()
        while let thread = threads.withLock({ $0.popLast() }) { thread.join() }
        Foundation.close(listener)
    }

    /// The n-th step from now on, from 1.
    func cut(atStep step: Int, _ cut: Cut) {
        state.withLock {
            $0.left = step
            $0.cut = cut
            $0.lastStep = ""
        }
    }

    /// True while it has not been reached; then it no longer will be.
    func disarm() -> Bool {
        state.withLock { state in
            defer { state.left = nil }
            return state.left != nil
        }
    }

    /// From the first step for which it is true on, nothing of that client reaches the server, until `thaw`.
    func freeze(at isPlace: @escaping @Sendable (_ step: Int, _ type: UInt8) -> Bool) {
        state.withLock {
            $0.freezes = isPlace
            $0.count = 0
        }
    }

    /// The type of the message that is held; nil where it did not come to that.
    func thaw() -> UInt8? {
        state.withLock { state in
            defer { (state.freezes, state.frozenAt) = (nil, nil) }
            return state.frozenAt
        }
    }

    var isFrozen: Bool { state.withLock { $0.frozenAt != nil } }

    /// The text of the query that was cut at, where it had one.
    var lastStep: String { state.withLock { $0.lastStep } }

    private static func loopback(_ port: Int) -> sockaddr_in {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        address.sin_port = in_port_t(UInt16(port)).bigEndian
        return address
    }

    private func accept() {
        var open: [Int32] = []
        while true {
            let client = Foundation.accept(listener, nil, nil)
            if client < 0 { break }
            let upstream = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
            var address = Self.loopback(server)
            let status = withUnsafePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    connect(upstream, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
                }
            }
            guard status == 0 else {
                Foundation.close(client)
                Foundation.close(upstream)
                continue
            }
            open += [client, upstream]
            // Messages pass one by one: none may wait for the receipt of the one before.
            var on: Int32 = 1
            for descriptor in [client, upstream] {
                setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &on, socklen_t(MemoryLayout<Int32>.size))
            }
            let isMute = StopSignal()
            let pair = [
                ServiceThread("relay-ask") { [self] in ask(client, upstream, isMute) },
                ServiceThread("relay-answer") { Self.answer(client, upstream, isMute) },
            ]
            threads.withLock { $0 += pair }
        }
        for descriptor in open { shutdown(descriptor, Int32(SHUT_RDWR)) }
    }

    private static func send(_ bytes: ArraySlice<UInt8>, to descriptor: Int32) -> Bool {
        var rest = bytes
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes {
                Foundation.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            if count <= 0 { return false }
            rest = rest.dropFirst(count)
        }
        return true
    }

    private static func end(_ client: Int32, _ upstream: Int32) {
        shutdown(client, Int32(SHUT_RDWR))
        shutdown(upstream, Int32(SHUT_RDWR))
    }

    private func ask(_ client: Int32, _ upstream: Int32, _ isMute: StopSignal) {
        defer { Self.end(client, upstream) }
        var held: [UInt8] = []
        // The start-up message has no type.
        var hasStarted = false
        var piece = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = recv(client, &piece, piece.count, 0)
            if count <= 0 { return }
            held += piece[..<count]
            while true {
                let head = hasStarted ? 1 : 0
                guard held.count >= head + 4 else { break }
                let size = held[head..<head + 4].reduce(0) { $0 << 8 | Int($1) }
                guard held.count >= head + size else { break }
                let message = Array(held[..<(head + size)])
                held.removeFirst(head + size)
                let isStep = hasStarted && Self.steps.contains(message[0])
                hasStarted = true
                let isHeld =
                    isStep
                    && state.withLock { state in
                        state.count += 1
                        guard state.frozenAt == nil, state.freezes?(state.count, message[0]) == true else {
                            return false
                        }
                        state.frozenAt = message[0]
                        return true
                    }
                while isHeld, isFrozen { usleep(1_000) }
                let cut: Cut? =
                    isStep
                    ? state.withLock { state in
                        guard let left = state.left else { return nil }
                        state.left = left == 1 ? nil : left - 1
                        if left > 1 { return nil }
                        state.lastStep = String(decoding: message.dropFirst(5).prefix { $0 != 0 }, as: UTF8.self)
                        return state.cut
                    } : nil
                if cut == .unasked { return }
                // A piece of a COPY has no answer to wait for.
                if cut == .unanswered && message[0] != UInt8(ascii: "d") { isMute.stop() }
                if !Self.send(message[...], to: upstream) { return }
                if cut == .unanswered && message[0] == UInt8(ascii: "d") { return }
            }
        }
    }

    private static func answer(_ client: Int32, _ upstream: Int32, _ isMute: StopSignal) {
        defer { end(client, upstream) }
        var piece = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = recv(upstream, &piece, piece.count, 0)
            if count <= 0 || isMute.isStopped { return }
            if !send(piece[..<count], to: client) { return }
        }
    }
}
