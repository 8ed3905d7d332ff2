import CaptureProxy
import Events
import Glibc
import HTTPTransport
import Synchronization
import Telemetry
import Testing
import Threading

private let ask =
    "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx-portkey-provider: openai\r\ncontent-length: 2\r\n\r\n{}"
private let ok = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

/// What a client asks for. The target tells the provider.
private enum Kind: String, CaseIterable {
    /// A small answer at once, over one connection as long as it is kept, or over a new one each time.
    case kept, renewed
    /// A body that is sent in pieces.
    case body
    /// An answer that comes in pieces. Its head may have left before the stop, with no word of the connection's end: a
    /// new connection each time.
    case stream
}

private let piece = String(repeating: "0123456789abcdef", count: 1_024)
private let pieces = 8
/// Microseconds between two: all of them take longer than a stop's grace.
private let pause: UInt32 = 50_000

/// Answers each kind as it asks.
private func serve(_ peer: RawPeer) {
    while let request = peer.request() {
        let isWhole = request.hasSuffix("\r\n\r\n" + String(repeating: piece, count: pieces))
        switch request.split(separator: " ")[1] {
        case "/v1/body": peer.send(isWhole ? ok : "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        case "/v1/stream":
            peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            for _ in 0..<pieces {
                peer.send(String(piece.utf8.count, radix: 16) + "\r\n\(piece)\r\n")
                usleep(pause)
            }
            peer.send("0\r\n\r\n")
        default: peer.send(ok)
        }
    }
}

/// Clients that ask without pause, each answer checked.
private final class Traffic: Sendable {
    private let stopping = StopSignal()
    private let failures = Mutex<[String]>([])
    private let answered = Mutex<[Kind: Int]>([:])
    private let threads = Mutex<[ServiceThread]>([])

    init(port: UInt16, each: Int, trusting authority: RawTLS.Context?) {
        for kind in Kind.allCases {
            for index in 0..<each {
                let thread = ServiceThread("traffic-\(index)") { [self] in
                    var client: RawClient?
                    while !stopping.isStopped {
                        do {
                            let used = try client ?? RawClient(port: port, trusting: authority)
                            client = Self.exchange(kind, over: used) { problem in
                                failures.withLock { $0.append("\(kind) \(index): \(problem)") }
                            }
                            answered.withLock { $0[kind, default: 0] += 1 }
                        } catch {
                            failures.withLock { $0.append("\(kind) \(index): \(error)") }
                        }
                    }
                }
                threads.withLock { $0.append(thread) }
            }
        }
    }

    /// Answers the connection where it is kept.
    private static func exchange(
        _ kind: Kind, over client: RawClient, failed: (String) -> Void
    ) -> RawClient? {
        let length = kind == .body ? piece.utf8.count * pieces : 2
        client.send(
            "POST /v1/\(kind.rawValue) HTTP/1.1\r\nhost: a\r\nx-portkey-provider: openai\r\ncontent-length: \(length)\r\n\r\n"
        )
        if kind == .body {
            for _ in 0..<pieces {
                client.send(piece)
                usleep(pause)
            }
        } else {
            client.send("{}")
        }
        if kind == .stream {
            guard let head = client.head(), head.hasPrefix("HTTP/1.1 200") else { return end("no answer") }
            if client.chunked() != String(repeating: piece, count: pieces) { failed("cut") }
            return nil
        }
        guard let answer = client.answer() else { return end("no answer") }
        if !answer.head.hasPrefix("HTTP/1.1 200") { failed(answer.head) }
        return kind == .renewed || answer.head.lowercased().contains("connection: close") ? nil : client

        func end(_ problem: String) -> RawClient? {
            failed(problem)
            return nil
        }
    }

    var count: Int { answered.withLock { $0.values.reduce(0, +) } }
    /// Of the kind that has the fewest.
    var fewest: Int { answered.withLock { counts in Kind.allCases.map { counts[$0] ?? 0 }.min() ?? 0 } }

    func stop() -> [String] {
        stopping.stop()
        for thread in threads.withLock({ $0 }) { thread.join() }
        return failures.withLock { $0 }
    }
}

@Suite(.serialized, .timeLimit(.minutes(2))) struct RestartTests {
    @Test func aPortThatAnotherHasIsRefusedUnlessSharingIsAskedFor() throws {
        let first = try Hop(configure: { $0.sharesPort = true })
        let listen = "127.0.0.1:\(first.proxy.port)"
        #expect(throws: HTTPTransportError.self) { try Hop(listen: listen) }
        let second = try Hop(listen: listen, configure: { $0.sharesPort = true })
        #expect(second.proxy.port == first.proxy.port)
        _ = try first.finish()
        _ = try second.finish()
    }

    @Test(arguments: [(1, false), (2, false), (1, true)])
    func noRequestFailsWhileOneProxyTakesOverFromAnother(_ loops: Int, _ isTLS: Bool) throws {
        let certificates = isTLS ? try Certificates() : nil
        let provider = try RawProvider { serve($0) }
        func start(on port: UInt16) throws -> Hop {
            let tls = try certificates.map { try TLSContext.server(certificate: $0.certificate, key: $0.key) }
            return try Hop(
                upstreamPort: provider.port, listen: "127.0.0.1:\(port)",
                configure: {
                    $0.sharesPort = true
                    $0.loops = loops
                    $0.drainGraceMilliseconds = 300
                    $0.tls = tls
                })
        }
        var current = try start(on: 0)
        let port = current.proxy.port
        let traffic = Traffic(
            port: port, each: 2, trusting: try certificates.map { try RawTLS.Context(trusting: $0) })
        var recorded = 0
        for _ in 0..<3 {
            let before = traffic.fewest
            while traffic.fewest < before + 3 { usleep(1_000) }
            let next = try start(on: port)
            recorded += try current.finish().count
            current = next
        }
        let failures = traffic.stop()
        #expect(failures.isEmpty, "\(failures.prefix(5)) of \(traffic.count)")
        recorded += try current.finish().count
        // Every answer that a client got is an event, of one proxy or the other.
        #expect(recorded == traffic.count)
        provider.stop()
    }

    @Test(arguments: [false, true])
    func aStreamAndABodyThatAreHalfwayAtTheTakeoverAreCarriedToTheirEnd(_ isTLS: Bool) throws {
        let certificates = isTLS ? try Certificates() : nil
        let tls = try certificates.map { try TLSContext.server(certificate: $0.certificate, key: $0.key) }
        let authority = try certificates.map { try RawTLS.Context(trusting: $0) }
        let goesOn = StopSignal()
        let provider = try RawProvider { peer in
            while let request = peer.request() {
                guard request.hasPrefix("POST /v1/stream ") else {
                    peer.send(request.hasSuffix("\r\n\r\nfirst second") || request.hasSuffix("{}") ? ok : "no")
                    continue
                }
                peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\nfirst \r\n")
                _ = goesOn.wait(milliseconds: 20_000)
                peer.send("6\r\nsecond\r\n0\r\n\r\n")
            }
        }
        func start(on port: UInt16) throws -> Hop {
            try Hop(
                upstreamPort: provider.port, listen: "127.0.0.1:\(port)",
                configure: {
                    $0.sharesPort = true
                    $0.tls = tls
                })
        }
        let first = try start(on: 0)
        let port = first.proxy.port
        let (stream, body) = (
            try RawClient(port: port, trusting: authority), try RawClient(port: port, trusting: authority)
        )
        stream.send(
            "POST /v1/stream HTTP/1.1\r\nhost: a\r\nx-portkey-provider: openai\r\ncontent-length: 2\r\n\r\n{}")
        #expect(stream.head()?.hasPrefix("HTTP/1.1 200") == true && stream.bytes(11) == "6\r\nfirst \r\n")
        body.send("POST /v1/body HTTP/1.1\r\nhost: a\r\nx-portkey-provider: openai\r\ncontent-length: 12\r\n\r\nfirst ")
        while provider.connections < 2 { usleep(1_000) }
        let idle = try RawClient(port: port, trusting: authority)

        let second = try start(on: port)
        let stopped = StopSignal()
        let thread = ServiceThread("stop") { [proxy = first.proxy] in
            proxy.stop()
            stopped.stop()
        }
        // Idle connections are closed once answers say that theirs will be.
        #expect(idle.rest().isEmpty)
        for _ in 0..<5 {
            let client = try RawClient(port: port, trusting: authority)
            client.send(ask)
            #expect(client.answer()?.body == "ok")
        }
        #expect(second.metrics.recorded.value == 5 && !stopped.wait(milliseconds: 500))
        goesOn.stop()
        #expect(stream.bytes(16) == "6\r\nsecond\r\n0\r\n\r\n")
        body.send("second")
        let answer = try #require(body.answer())
        #expect(answer.head.hasPrefix("HTTP/1.1 200") && answer.body == "ok")
        #expect(answer.head.contains("connection: close"))
        #expect(stopped.wait(milliseconds: 20_000))
        thread.join()
        let events = try first.finish(isStopped: true)
        #expect(events.contains { $0.responseBytes == 12 })
        #expect(events.allSatisfy { $0.outcome == .success })
        #expect(events.contains { $0.requestBytes == 12 })
        #expect(try second.finish().allSatisfy { $0.outcome == .success })
        provider.stop()
    }

    @Test func atAStopRequestsUnderWayAreAnsweredWithCloseAndIdleConnectionsClosed() throws {
        let gate = StopSignal()
        let provider = try RawProvider { peer in
            while peer.request() != nil {
                if peer.index > 0 { _ = gate.wait(milliseconds: 20_000) }
                peer.send(ok)
            }
        }
        let hop = try Hop(upstreamPort: provider.port, configure: { $0.upstream.idleConnections = 0 })
        let idle = try RawClient(port: hop.proxy.port)
        idle.send(ask)
        #expect(idle.answer()?.body == "ok")
        let waiting = try RawClient(port: hop.proxy.port)
        waiting.send(ask)
        while provider.connections < 2 { usleep(1_000) }
        let port = hop.proxy.port
        let stopped = StopSignal()
        let thread = ServiceThread("stop") { [proxy = hop.proxy] in
            proxy.stop()
            stopped.stop()
        }
        // Nobody new is let in from the moment that the listener is closed.
        while (try? RawClient(port: port)) != nil { usleep(1_000) }
        #expect(!stopped.isStopped)
        gate.stop()
        let answer = waiting.rest()
        #expect(answer.hasPrefix("HTTP/1.1 200") && answer.contains("connection: close") && answer.hasSuffix("ok"))
        #expect(stopped.wait(milliseconds: 20_000))
        thread.join()
        #expect(idle.rest().isEmpty)
        #expect(try hop.finish(isStopped: true).map(\.outcome) == [.success, .success])
        provider.stop()
    }

    @Test func atTheDeadlineWhatIsStillUnderWayIsCutAndRecorded() throws {
        let provider = try RawProvider { peer in
            _ = peer.request()
            peer.awaitEnd()
        }
        let hop = try Hop(upstreamPort: provider.port, configure: { $0.drainMilliseconds = 50 })
        let client = try RawClient(port: hop.proxy.port)
        client.send(ask)
        while provider.connections == 0 { usleep(1_000) }
        #expect(try hop.finish().map(\.outcome) == [.cancelled])
        #expect(client.rest().isEmpty)
        provider.stop()
    }
}
