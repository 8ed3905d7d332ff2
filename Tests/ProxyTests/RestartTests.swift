import CaptureProxy
import Events
import Glibc
import HTTPTransport
import Synchronization
import Testing
import Threading

private let ask =
    "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx-portkey-provider: openai\r\ncontent-length: 2\r\n\r\n{}"
private let ok = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

/// Clients that ask without pause, each answer checked: some over one connection as long as it is kept, some over a new
/// one each time.
private final class Traffic: Sendable {
    private let stopping = StopSignal()
    private let failures = Mutex<[String]>([])
    private let answered = Atomic<Int>(0)
    private let threads = Mutex<[ServiceThread]>([])

    init(port: UInt16, keeping: Int, renewing: Int) {
        for index in 0..<(keeping + renewing) {
            let keeps = index < keeping
            let thread = ServiceThread("traffic-\(index)") { [self] in
                var client: RawClient?
                while !stopping.isStopped {
                    do {
                        let used = try client ?? RawClient(port: port)
                        used.send(ask)
                        guard let answer = used.answer() else {
                            failures.withLock { $0.append("client \(index): no answer") }
                            client = nil
                            continue
                        }
                        if !answer.head.hasPrefix("HTTP/1.1 200") {
                            failures.withLock { $0.append("client \(index): \(answer.head)") }
                        }
                        answered.wrappingAdd(1, ordering: .relaxed)
                        client = keeps && !answer.head.lowercased().contains("connection: close") ? used : nil
                    } catch {
                        failures.withLock { $0.append("client \(index): not connected") }
                    }
                }
            }
            threads.withLock { $0.append(thread) }
        }
    }

    var count: Int { answered.load(ordering: .relaxed) }

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

    @Test(arguments: [1, 2]) func noRequestFailsWhileOneProxyTakesOverFromAnother(_ loops: Int) throws {
        let provider = try RawProvider { peer in while peer.request() != nil { peer.send(ok) } }
        func start(on port: UInt16) throws -> Hop {
            try Hop(
                upstreamPort: provider.port, listen: "127.0.0.1:\(port)",
                configure: {
                    $0.sharesPort = true
                    $0.loops = loops
                    $0.drainGraceMilliseconds = 300
                })
        }
        var current = try start(on: 0)
        let port = current.proxy.port
        let traffic = Traffic(port: port, keeping: 3, renewing: 3)
        var recorded = 0
        for _ in 0..<3 {
            let before = traffic.count
            while traffic.count < before + 50 { usleep(1_000) }
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
