// Connections to providers, kept between exchanges: one pool a loop, so that no lock is ever taken.

import CLibevent
import COpenSSL
import Glibc
import HTTPMessages
import Telemetry

/// Where a provider is reached.
package struct UpstreamOrigin: Hashable, Sendable {
    package var isTLS: Bool
    package var host: String
    package var port: UInt16

    package init(isTLS: Bool, host: String, port: UInt16) {
        self.isTLS = isTLS
        self.host = host
        self.port = port
    }

    /// As the `host` header has it: without the port where it is the scheme's own.
    package var authority: String {
        let name = host.contains(":") ? "[\(host)]" : host
        return port == (isTLS ? 443 : 80) ? name : "\(name):\(port)"
    }
}

/// | limit | value | why |
/// | --- | --- | --- |
/// | idle connections an origin | 256 a loop | a burst's connections are worth keeping, not for ever |
/// | idle time | 55 s | below the 60 s after which common load balancers close |
/// | connect time | 10 s an address | |
package final class UpstreamPool {
    static let idleLimit = 256
    static let idleMilliseconds: UInt64 = 55_000
    static let connectMilliseconds: UInt64 = 10_000

    /// A request for a connection that is still being made; `withdraw` it when the exchange ends first.
    package final class Acquisition {
        fileprivate var handler: (any UpstreamHandler)?
        fileprivate var connection: UpstreamConnection?

        package func withdraw() {
            handler = nil
            connection?.close()
            connection = nil
        }
    }

    private let loop: EventLoop
    private let resolver: Resolver
    private let tls: TLSContext
    private var idle: [UpstreamOrigin: [UpstreamConnection]] = [:]
    private var open: [ObjectIdentifier: UpstreamConnection] = [:]

    package init(loop: EventLoop, resolver: Resolver, tls: TLSContext) {
        self.loop = loop
        self.resolver = resolver
        self.tls = tls
    }

    /// Gives a connection at once where an idle one stands ready (nil is returned and `upstreamConnected` was called),
    /// else later.
    package func acquire(_ origin: UpstreamOrigin, for handler: any UpstreamHandler) -> Acquisition? {
        while let connection = idle[origin]?.popLast() {
            if connection.isClosed || connection.idleSince + Self.idleMilliseconds < loop.now {
                connection.close()
                continue
            }
            connection.begin(handler)
            handler.upstreamConnected(connection, reused: true)
            return nil
        }
        let acquisition = Acquisition()
        acquisition.handler = handler
        resolver.resolve(origin, on: loop) { [self] result in
            switch result {
            case .failure(let reason): fail(acquisition, "the name \(origin.host) was not resolved: \(reason)")
            case .addresses(let addresses): connect(acquisition, origin, addresses[...])
            }
        }
        return acquisition
    }

    private func fail(_ acquisition: Acquisition, _ reason: String) {
        acquisition.connection = nil
        // Not within `acquire`: its caller is in the middle of a request's bytes.
        let bound = LoopBound(acquisition)
        loop.post {
            let handler = bound.value.handler
            bound.value.handler = nil
            handler?.upstreamUnavailable(.unreachable, reason: reason)
        }
    }

    private func connect(_ acquisition: Acquisition, _ origin: UpstreamOrigin, _ addresses: ArraySlice<SocketAddress>) {
        guard acquisition.handler != nil else { return }
        guard let address = addresses.first else { return fail(acquisition, "\(origin.host) has no address") }
        func next(_ reason: String) {
            if addresses.count > 1 {
                connect(acquisition, origin, addresses.dropFirst())
            } else {
                fail(acquisition, reason)
            }
        }
        let descriptor = address.openSocket()
        guard descriptor >= 0 else { return fail(acquisition, String(cString: strerror(errno))) }
        var session: OpaquePointer?
        if origin.isTLS {
            session = tls.connection(descriptor: descriptor, serverName: origin.host)
            guard session != nil else {
                close(descriptor)
                return fail(acquisition, "no memory for TLS")
            }
        }
        if address.connect(descriptor) != 0 && errno != EINPROGRESS {
            let reason = String(cString: strerror(errno))
            if let session { SSL_free(session) }
            close(descriptor)
            return next(reason)
        }
        let channel = Channel(loop: loop, descriptor: descriptor, tls: session, isConnecting: true)
        let connection = UpstreamConnection(origin: origin, channel: channel, pool: self)
        acquisition.connection = connection
        open[ObjectIdentifier(connection)] = connection
        connection.onOpen = { [unowned connection] end in
            acquisition.connection = nil
            guard let handler = acquisition.handler else { return connection.close() }
            switch end {
            case nil:
                acquisition.handler = nil
                connection.begin(handler)
                handler.upstreamConnected(connection, reused: false)
            case .failed(let reason): next(reason)
            case .ended: next("the connection was closed at once")
            case .timedOut: next("no connection within \(Self.connectMilliseconds / 1000) s")
            }
        }
        connection.setDeadline(loop.now + Self.connectMilliseconds)
        connection.start()
    }

    func keep(_ connection: UpstreamConnection) {
        var kept = idle[connection.origin] ?? []
        if kept.count >= Self.idleLimit {
            kept.removeFirst().close()
        }
        connection.idleSince = loop.now
        connection.setDeadline(loop.now + Self.idleMilliseconds)
        idle[connection.origin, default: []].append(connection)
    }

    func forget(_ connection: UpstreamConnection) {
        open[ObjectIdentifier(connection)] = nil
        if connection.idleSince > 0 { idle[connection.origin]?.removeAll { $0 === connection } }
    }
}
