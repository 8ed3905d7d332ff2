// Listening sockets, and the accepting of connections onto one loop.

import CLibevent
import COpenSSL
import Glibc

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
    package static func group(_ address: String, count: Int) throws(HTTPTransportError) -> [ListeningSocket] {
        let probe = try ListeningSocket(address, sharesPort: false)
        Glibc.close(probe.descriptor)
        let colon = address.lastIndex(of: ":") ?? address.endIndex
        var sockets: [ListeningSocket] = []
        for _ in 0..<count {
            sockets.append(try ListeningSocket("\(address[..<colon]):\(probe.port)", sharesPort: true))
        }
        return sockets
    }

    private static func split(_ address: String) -> (host: String, port: UInt16)? {
        guard let colon = address.lastIndex(of: ":"), let port = UInt16(address[address.index(after: colon)...]) else {
            return nil
        }
        var host = String(address[..<colon])
        if host.hasPrefix("["), host.hasSuffix("]") { host = String(host.dropFirst().dropLast()) }
        return host.isEmpty ? nil : (host, port)
    }
}

/// Accepts onto one loop until closed.
package final class Listener {
    /// How long accepting rests when the process has no file descriptor left.
    static let restMilliseconds = 100

    private let loop: EventLoop
    private let socket: ListeningSocket
    private let tls: TLSContext?
    private let makeHandler: ServerHandlerFactory
    private var event: OpaquePointer?

    /// Call on the loop's thread or before it starts.
    package init(
        loop: EventLoop, socket: ListeningSocket, tls: TLSContext?, makeHandler: @escaping ServerHandlerFactory
    ) {
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
        for _ in 0..<64 {
            let descriptor = accept(socket.descriptor, nil, nil)
            if descriptor < 0 {
                // Out of descriptors: the waiting connection keeps the event ready, so rest instead of spinning.
                if errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM {
                    event_del(event)
                    loop.schedule(afterMilliseconds: Self.restMilliseconds) { [weak self] in
                        if let event = self?.event { event_add(event, nil) }
                    }
                }
                return
            }
            evutil_make_socket_nonblocking(descriptor)
            evutil_make_socket_closeonexec(descriptor)
            var one: Int32 = 1
            setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &one, 4)
            var session: OpaquePointer?
            if let tls {
                session = tls.connection(descriptor: descriptor, serverName: nil)
                if session == nil {
                    Glibc.close(descriptor)
                    continue
                }
            }
            let channel = Channel(loop: loop, descriptor: descriptor, tls: session, isConnecting: false)
            // The channel holds the connection as its owner, the loop holds the channel.
            _ = ServerConnection(channel: channel, makeHandler: makeHandler)
        }
    }

    /// Accepts no more. Call on the loop's thread.
    package func close() {
        guard let event else { return }
        event_free(event)
        self.event = nil
        Glibc.close(socket.descriptor)
    }
}
