// Listening sockets, and the accepting of connections onto one loop.

import CLibevent
import COpenSSL
import Glibc
import HTTPMessages
package import Synchronization

/// A bound socket. Several with `sharesPort` share one port: one a loop.
package struct ListeningSocket: Sendable {
    package let descriptor: Int32
    package let port: UInt16

    /// `address` is `HOST:PORT` or `[IPv6]:PORT`; port 0 picks a free one.
    package init(_ address: String, sharesPort: Bool) throws(HTTPTransportError) {
        let tried = "listen on \(address)"
        guard let (host, port) = Self.split(address) else {
            throw HTTPTransportError(
                code: .listen, tried: tried, reason: "that is not HOST:PORT", next: "Write it like 127.0.0.1:8787.")
        }
        guard case .addresses(let addresses) = Resolver.lookUp(host: host, port: port, flags: AI_PASSIVE),
            let first = addresses.first
        else {
            throw HTTPTransportError(
                code: .listen, tried: tried, reason: "the host \(host) has no address here",
                next: "Name an address of this machine, such as 127.0.0.1 or 0.0.0.0.")
        }
        let socket = first.openSocket()
        var one: Int32 = 1
        setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &one, 4)
        if sharesPort { setsockopt(socket, SOL_SOCKET, SO_REUSEPORT, &one, 4) }
        guard socket >= 0, first.bind(socket) == 0, listen(socket, 1_024) == 0 else {
            let reason = errno
            if socket >= 0 { close(socket) }
            throw HTTPTransportError(
                code: .listen, tried: tried, reason: String(cString: strerror(reason)),
                next: reason == EADDRINUSE
                    ? "Another program has that port: stop it, or configure another port (0 picks a free one)."
                    : reason == EACCES
                        ? "Ports below 1024 need a privilege: configure a higher port."
                        : "Configure an address of this machine.")
        }
        descriptor = socket
        var storage = sockaddr_storage()
        var size = socklen_t(MemoryLayout<sockaddr_storage>.size)
        _ = withUnsafeMutablePointer(to: &storage) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(socket, $0, &size) }
        }
        // The port lies at the same place in both families.
        self.port = withUnsafeBytes(of: &storage) { UInt16($0[2]) << 8 | UInt16($0[3]) }
    }

    /// `count` sockets on one port, one a loop. Throws where any listener has the port already: sharing it with another
    /// process unasked would send half of the clients there.
    /// `besideOthers` allows it: a new process takes over from an old one that way.
    package static func group(
        _ address: String, count: Int, besideOthers: Bool = false
    ) throws(HTTPTransportError) -> [ListeningSocket] {
        let first = try ListeningSocket(address, sharesPort: besideOthers)
        var sockets = besideOthers ? [first] : []
        if !besideOthers { Glibc.close(first.descriptor) }
        let colon = address.lastIndex(of: ":") ?? address.endIndex
        while sockets.count < count {
            sockets.append(try ListeningSocket("\(address[..<colon]):\(first.port)", sharesPort: true))
        }
        return sockets
    }

    /// New connections go to sockets that joined the port after these `count`, which are the oldest on it: those of the
    /// process that takes over. Where there are none, everything stays as it is.
    ///
    /// A connection that the kernel has given to a socket is lost when that socket closes, so that what comes in must
    /// go elsewhere first. The kernel asks a classic BPF program which socket of the port a connection is for; ours
    /// answers `count` and up; a number beyond the sockets there are leaves the choice to the kernel again, before and
    /// after.
    package func steerAway(count: Int) {
        struct Instruction {
            var code: UInt16
            var jumps: UInt16 = 0
            var operand: UInt32
        }
        // A = random; A %= count; A += count; return A. The random word lies at SKF_AD_OFF + SKF_AD_RANDOM.
        var program = [
            Instruction(code: 0x20, operand: UInt32(bitPattern: -0x1000 + 56)),
            Instruction(code: 0x94, operand: UInt32(count)), Instruction(code: 0x04, operand: UInt32(count)),
            Instruction(code: 0x16, operand: 0),
        ]
        let length = UInt16(program.count)
        program.withUnsafeMutableBytes { instructions in
            struct Program {
                var length: UInt16
                var instructions: UnsafeMutableRawPointer?
            }
            var whole = Program(length: length, instructions: instructions.baseAddress)
            // Best effort: without it connections of the last instant may be lost, as with any other server.
            setsockopt(
                descriptor, SOL_SOCKET, Self.attachReusePortFilter, &whole, socklen_t(MemoryLayout<Program>.size))
        }
    }

    /// SO_ATTACH_REUSEPORT_CBPF.
    private static let attachReusePortFilter: Int32 = 51

    private static func split(_ address: String) -> (host: String, port: UInt16)? {
        guard let colon = address.lastIndex(of: ":"), let port = UInt16(address[address.index(after: colon)...]) else {
            return nil
        }
        var host = String(address[..<colon])
        if host.hasPrefix("["), host.hasSuffix("]") { host = String(host.dropFirst().dropLast()) }
        return host.isEmpty ? nil : (host, port)
    }
}

/// How many connections all listeners that share it may have open.
package final class ConnectionBudget: Sendable {
    package let open = Atomic<Int>(0)
    /// Connections that were told or closed because there were too many.
    package let refused = Atomic<Int>(0)
    /// Times that accepting rested because the process had no descriptor left.
    package let rests = Atomic<Int>(0)
    package init() {}
}

/// The open connections of one listener. Touched on its loop's thread only.
package final class ServerConnections {
    package let limits: ClientLimits
    package private(set) var isDraining = false
    private let budget: ConnectionBudget
    private var all: [ObjectIdentifier: ServerConnection] = [:]

    init(limits: ClientLimits, budget: ConnectionBudget) {
        self.limits = limits
        self.budget = budget
    }

    /// How many have bytes that wait for their client.
    package var unsent: Int { all.values.count { !$0.isClosed && !$0.output.isEmpty } }

    func add(_ connection: ServerConnection) { all[ObjectIdentifier(connection)] = connection }

    func remove(_ connection: ServerConnection) {
        guard all.removeValue(forKey: ObjectIdentifier(connection)) != nil else { return }
        budget.open.wrappingSubtract(1, ordering: .relaxed)
    }

    /// From now on answers close their connection.
    package func drain() { isDraining = true }

    /// Cuts those that are left: their exchanges end as if the client had gone.
    package func abandon() { for connection in Array(all.values) { connection.abandon() } }

    /// Closes those that are between requests.
    package func closeIdle() { for connection in Array(all.values) { connection.drain() } }
}

/// Accepts onto one loop until closed.
package final class Listener {
    /// How long accepting rests when the process has no file descriptor left.
    static let restMilliseconds = 100

    private let loop: EventLoop
    private let socket: ListeningSocket
    /// For connections from now on.
    package var tls: TLSContext?
    package let connections: ServerConnections
    private let budget: ConnectionBudget
    private let makeHandler: ServerHandlerFactory
    private var event: OpaquePointer?

    /// Call on the loop's thread or before it starts.
    package init(
        loop: EventLoop, socket: ListeningSocket, tls: TLSContext?, limits: ClientLimits = ClientLimits(),
        budget: ConnectionBudget = ConnectionBudget(), makeHandler: @escaping ServerHandlerFactory
    ) {
        self.budget = budget
        connections = ServerConnections(limits: limits, budget: budget)
        self.loop = loop
        self.socket = socket
        self.tls = tls
        self.makeHandler = makeHandler
        event = event_new(
            loop.base, socket.descriptor, Int16(EV_READ | EV_PERSIST),
            { _, _, context in
                context.map { Unmanaged<Listener>.fromOpaque($0).takeUnretainedValue() }?.acceptAll()
            }, Unmanaged.passUnretained(self).toOpaque())
        event_add(event, nil)
    }

    deinit { if let event { event_free(event) } }

    private func acceptAll() {
        loop.markNow()
        _ = take(atMost: 64)
    }

    /// True where more may be waiting.
    private func take(atMost limit: Int) -> Bool {
        let limits = connections.limits
        for _ in 0..<limit {
            let descriptor = accept(socket.descriptor, nil, nil)
            if descriptor < 0 {
                // Out of descriptors: the waiting connection keeps the event ready, so rest instead of spinning.
                if errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM {
                    budget.rests.wrappingAdd(1, ordering: .relaxed)
                    event_del(event)
                    loop.schedule(afterMilliseconds: Self.restMilliseconds) { [weak self] in
                        if let event = self?.event { event_add(event, nil) }
                    }
                }
                return false
            }
            let open = budget.open.wrappingAdd(1, ordering: .relaxed).newValue
            if open > limits.connections { budget.refused.wrappingAdd(1, ordering: .relaxed) }
            if open > limits.connections + limits.toldConnections {
                budget.open.wrappingSubtract(1, ordering: .relaxed)
                Glibc.close(descriptor)
                continue
            }
            evutil_make_socket_nonblocking(descriptor)
            evutil_make_socket_closeonexec(descriptor)
            var one: Int32 = 1
            setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &one, 4)
            var session: OpaquePointer?
            if let tls {
                session = tls.connection(descriptor: descriptor, serverName: nil)
                if session == nil {
                    budget.open.wrappingSubtract(1, ordering: .relaxed)
                    Glibc.close(descriptor)
                    continue
                }
            }
            let channel = Channel(loop: loop, descriptor: descriptor, tls: session, isConnecting: false)
            // The channel holds the connection as its owner, the loop holds the channel.
            let isTold = open > limits.connections
            _ = ServerConnection(
                channel: channel, group: connections, makeHandler: isTold ? { OverloadedHandler($0) } : makeHandler)
        }
        return true
    }

    /// Takes what is waiting, then accepts no more. Call on the loop's thread.
    package func close() {
        guard let event else { return }
        // What the kernel has connected for this socket would be lost with it.
        while take(atMost: 64) {}
        event_free(event)
        self.event = nil
        Glibc.close(socket.descriptor)
    }
}

/// Tells the connections beyond the limit, whatever they ask.
private final class OverloadedHandler: ServerHandler {
    private unowned let connection: ServerConnection

    init(_ connection: ServerConnection) { self.connection = connection }

    func requestStarted(_ head: RequestHead, bytes: Span<UInt8>, fields: [HeaderField]) {
        let body =
            "{\"error\":{\"code\":\"too_many_connections\",\"message\":\"The proxy has as many connections as it "
            + "may.\",\"hint\":\"Try again soon, and keep connections open between requests.\"}}"
        let out = connection.output
        out.append("HTTP/1.1 503 \(HTTPReason.phrase(503))\r\ncontent-type: application/json\r\nretry-after: 1\r\n")
        out.append("content-length: \(body.utf8.count)\r\nconnection: close\r\n\r\n")
        if !head.isHEAD { out.append(body) }
        connection.answerEnded(keepsAlive: false)
    }

    var wantsBody: Bool { false }
    func requestBody(_ bytes: UnsafeRawBufferPointer) {}
    func requestEnded() {}
    func requestReadEnded() {}
    func clientDrained() {}
    func clientLeft(timedOut: Bool) {}
    func requestRefused(_ refusal: Refusal) {}
}
