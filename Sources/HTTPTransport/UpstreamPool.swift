// Connections to providers, kept between exchanges: one pool a loop, so that no lock is ever taken.
//
// An origin has `connections` slots. A slot is taken when a connection begins to be made (its name's look-up included)
// and given back when that fails or the connection closes; whoever finds none waits in line, bounded in number and
// time. A connection that becomes free goes to the first in line, else it is kept idle.

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

package final class UpstreamPool {
    /// A request for a connection that is still being made; `withdraw` it when the exchange ends first.
    package final class Acquisition {
        fileprivate var handler: (any UpstreamHandler)?
        fileprivate var connection: UpstreamConnection?
        fileprivate let line: Line
        fileprivate var hasSlot = false
        /// The news is under way.
        fileprivate var hasFailed = false
        /// For the wait in line, then for the name's look-up; each address then has its own.
        fileprivate var deadline: UInt64 = .max
        private unowned let pool: UpstreamPool

        fileprivate init(_ handler: any UpstreamHandler, line: Line, pool: UpstreamPool) {
            self.handler = handler
            self.line = line
            self.pool = pool
        }

        package func withdraw() {
            handler = nil
            deadline = .max
            if let connection {
                self.connection = nil
                connection.close()
            } else {
                pool.giveBack(self)
            }
        }
    }

    /// One origin's connections, and who waits for one.
    final class Line {
        let origin: UpstreamOrigin
        fileprivate var idle: [UpstreamConnection] = []
        fileprivate var slots = 0
        fileprivate var waiting: [Acquisition] = []

        fileprivate init(_ origin: UpstreamOrigin) { self.origin = origin }
    }

    private let loop: EventLoop
    private let resolver: Resolver
    private let tls: TLSContext
    let limits: UpstreamLimits
    private var lines: [UpstreamOrigin: Line] = [:]
    private var open: [ObjectIdentifier: UpstreamConnection] = [:]
    /// Those with a deadline of their own.
    private var pending: [ObjectIdentifier: Acquisition] = [:]
    private var isWatching = false

    package init(loop: EventLoop, resolver: Resolver, tls: TLSContext, limits: UpstreamLimits = UpstreamLimits()) {
        self.loop = loop
        self.resolver = resolver
        self.tls = tls
        self.limits = limits
    }

    /// Gives a connection at once where an idle one stands ready (nil is returned and `upstreamConnected` was called),
    /// else later.
    package func acquire(_ origin: UpstreamOrigin, for handler: any UpstreamHandler) -> Acquisition? {
        let line = line(of: origin)
        while let connection = line.idle.popLast() {
            if connection.isClosed || connection.idleUntil < loop.now || !connection.isQuiet {
                connection.close()
                continue
            }
            connection.begin(handler)
            handler.upstreamConnected(connection, reused: true)
            return nil
        }
        let acquisition = Acquisition(handler, line: line, pool: self)
        if line.slots < limits.connections {
            begin(acquisition)
        } else if line.waiting.count < limits.waiting {
            line.waiting.append(acquisition)
            watch(acquisition, for: limits.waitMilliseconds)
        } else {
            fail(acquisition, .overloaded, "\(line.waiting.count) requests wait for a connection already")
        }
        return acquisition
    }

    private func line(of origin: UpstreamOrigin) -> Line {
        if let line = lines[origin] { return line }
        let line = Line(origin)
        lines[origin] = line
        return line
    }

    // MARK: Deadlines of those without a connection

    private func watch(_ acquisition: Acquisition, for milliseconds: UInt64) {
        acquisition.deadline = loop.now + milliseconds
        pending[ObjectIdentifier(acquisition)] = acquisition
        if !isWatching {
            isWatching = true
            scheduleWatch()
        }
    }

    private func scheduleWatch() {
        loop.schedule(afterMilliseconds: EventLoop.tickMilliseconds) { [weak self] in self?.expire() }
    }

    private func expire() {
        let now = loop.now
        for (id, acquisition) in pending where acquisition.deadline <= now || acquisition.deadline == .max {
            pending[id] = nil
            guard acquisition.deadline != .max else { continue }
            if acquisition.hasSlot {
                fail(acquisition, .timedOut, "the name \(acquisition.line.origin.host) was not resolved in time")
            } else {
                acquisition.line.waiting.removeAll { $0 === acquisition }
                fail(acquisition, .overloaded, "no connection became free in time")
            }
        }
        isWatching = !pending.isEmpty
        if isWatching { scheduleWatch() }
    }

    // MARK: Making one

    private func begin(_ acquisition: Acquisition) {
        acquisition.hasSlot = true
        acquisition.line.slots += 1
        var isAnswered = false
        resolver.resolve(acquisition.line.origin, on: loop) { [self] result in
            isAnswered = true
            guard acquisition.handler != nil, !acquisition.hasFailed else { return }
            acquisition.deadline = .max
            switch result {
            case .failure(let reason):
                fail(acquisition, .unreachable, "the name \(acquisition.line.origin.host) was not resolved: \(reason)")
            case .busy: fail(acquisition, .overloaded, "too many requests wait for its address")
            case .addresses(let addresses): connect(acquisition, addresses[...])
            }
        }
        if !isAnswered { watch(acquisition, for: limits.connectMilliseconds) }
    }

    private func fail(_ acquisition: Acquisition, _ failure: Exchange.Failure, _ reason: String) {
        acquisition.connection = nil
        acquisition.deadline = .max
        acquisition.hasFailed = true
        giveBack(acquisition)
        // Not within `acquire`: its caller is in the middle of a request's bytes.
        let bound = LoopBound(acquisition)
        let told = loop.post { Self.tell(bound.value, failure, reason) }
        // A full inbox may not lose the news.
        if !told { loop.schedule(afterMilliseconds: 0) { Self.tell(bound.value, failure, reason) } }
    }

    private static func tell(_ acquisition: Acquisition, _ failure: Exchange.Failure, _ reason: String) {
        let handler = acquisition.handler
        acquisition.handler = nil
        handler?.upstreamUnavailable(failure, reason: reason)
    }

    private func giveBack(_ acquisition: Acquisition) {
        if acquisition.hasSlot {
            acquisition.hasSlot = false
            free(acquisition.line)
        } else {
            acquisition.line.waiting.removeAll { $0 === acquisition }
        }
    }

    private func free(_ line: Line) {
        line.slots -= 1
        while line.slots < limits.connections, !line.waiting.isEmpty {
            let next = line.waiting.removeFirst()
            next.deadline = .max
            if next.handler != nil { begin(next) }
        }
    }

    /// The addresses in turn, until one answers.
    private func connect(_ acquisition: Acquisition, _ addresses: ArraySlice<SocketAddress>) {
        guard acquisition.handler != nil, let address = addresses.first else { return }
        let origin = acquisition.line.origin
        func next(_ failure: Exchange.Failure, _ reason: String) {
            if addresses.count > 1 { return connect(acquisition, addresses.dropFirst()) }
            // None answers: the name may have moved.
            resolver.forget(origin)
            fail(acquisition, failure, reason)
        }
        let descriptor = address.openSocket()
        guard descriptor >= 0 else {
            let isFull = errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM
            let reason = String(cString: strerror(errno))
            return isFull ? fail(acquisition, .overloaded, reason) : next(.unreachable, reason)
        }
        var session: OpaquePointer?
        if origin.isTLS {
            session = tls.connection(descriptor: descriptor, serverName: origin.host)
            guard session != nil else {
                close(descriptor)
                return fail(acquisition, .overloaded, "no memory for TLS")
            }
        }
        if address.connect(descriptor) != 0 && errno != EINPROGRESS {
            let reason = String(cString: strerror(errno))
            if let session { SSL_free(session) }
            close(descriptor)
            return next(.unreachable, reason)
        }
        let channel = Channel(loop: loop, descriptor: descriptor, tls: session, isConnecting: true)
        let connection = UpstreamConnection(line: acquisition.line, channel: channel, pool: self)
        acquisition.connection = connection
        open[ObjectIdentifier(connection)] = connection
        connection.onOpen = { [unowned connection, unowned self] end in
            acquisition.connection = nil
            guard let handler = acquisition.handler else { return connection.close() }
            switch end {
            case nil:
                acquisition.handler = nil
                acquisition.hasSlot = false
                connection.openedAt = loop.now
                connection.hasSlot = true
                connection.begin(handler)
                handler.upstreamConnected(connection, reused: false)
            case .failed(let reason): next(.unreachable, reason)
            case .ended: next(.unreachable, "the connection was closed at once")
            case .timedOut: next(.timedOut, "no connection within \(limits.connectMilliseconds) ms")
            }
        }
        connection.onGone = { [unowned self] in giveBack(acquisition) }
        connection.setDeadline(loop.now + limits.connectMilliseconds)
        connection.start()
    }

    // MARK: What comes back

    func keep(_ connection: UpstreamConnection) {
        let line = connection.line
        let oldest = connection.openedAt + limits.ageMilliseconds
        guard oldest > loop.now else { return connection.close() }
        if !line.waiting.isEmpty { return hand(connection, of: line) }
        if line.idle.count >= limits.idleConnections, !line.idle.isEmpty { line.idle.removeFirst().close() }
        guard limits.idleConnections > 0 else { return connection.close() }
        connection.idleUntil = min(loop.now + limits.keepMilliseconds, oldest)
        connection.setDeadline(connection.idleUntil)
        line.idle.append(connection)
    }

    /// To the first in line, once the exchange that gave it back is through with its own work.
    private func hand(_ connection: UpstreamConnection, of line: Line) {
        let bound = LoopBound((self, connection, line))
        let told = loop.post {
            let (pool, connection, line) = bound.value
            if connection.isClosed { return }
            guard connection.isQuiet else { return connection.close() }
            while !line.waiting.isEmpty {
                let next = line.waiting.removeFirst()
                next.deadline = .max
                guard let handler = next.handler else { continue }
                next.handler = nil
                connection.begin(handler)
                return handler.upstreamConnected(connection, reused: true)
            }
            pool.keep(connection)
        }
        if !told { connection.close() }
    }

    func forget(_ connection: UpstreamConnection) {
        guard open.removeValue(forKey: ObjectIdentifier(connection)) != nil else { return }
        if connection.idleUntil > 0 { connection.line.idle.removeAll { $0 === connection } }
        if connection.hasSlot {
            connection.hasSlot = false
            free(connection.line)
        }
    }
}
