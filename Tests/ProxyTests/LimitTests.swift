import Access
import CaptureProxy
import Events
import Glibc
import HTTPTransport
import Synchronization
import Telemetry
import Testing
import Threading

private func ask(_ headers: String = "") -> String {
    "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx-portkey-provider: openai\r\n\(headers)content-length: 2\r\n\r\n{}"
}
private let ok = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

/// A provider that answers when the test says so.
private final class Gate: Sendable {
    private let opened = StopSignal()
    func open() { opened.stop() }
    func serve(_ peer: RawPeer) {
        while peer.request() != nil {
            _ = opened.wait(milliseconds: 20_000)
            peer.send(ok)
        }
    }
}

private let hint = Array("HTTP/1.1 103 Early Hints\r\nlink: \(String(repeating: "a", count: 65_000))\r\n\r\n".utf8)

private func makeKey(_ random: inout SystemRandomNumberGenerator) -> (key: AccessKey, text: String) {
    AccessKey.make(workspace: "default", scopes: [.ingest], name: "", now: EventTime(microseconds: 1), using: &random)
}

private func waitUntil(_ what: String, _ isDone: () -> Bool) throws {
    struct NotInTime: Error { var what: String }
    let deadline = ContinuousClock.now.advanced(by: .seconds(20))
    while !isDone() {
        if ContinuousClock.now >= deadline { throw NotInTime(what: what) }
        usleep(2_000)
    }
}

/// Each limit of the tables in `TransportLimits`, `ConcurrencyGate` and `HeadLimits` is reached by a test: these, and
/// those of framing and of the upstream.
@Suite(.timeLimit(.minutes(2))) struct LimitTests {
    @Test func connectionsBeyondTheLimitAreToldAndThenClosed() throws {
        let hop = try Hop(configure: { $0.clients.connections = 2 })
        let kept = try (0..<2).map { _ in try RawClient(port: hop.proxy.port) }
        for client in kept {
            client.send(ask())
            #expect(try #require(client.answer()).head.hasPrefix("HTTP/1.1 200"))
        }
        let third = try RawClient(port: hop.proxy.port)
        third.send(ask())
        let answer = third.rest()
        #expect(answer.hasPrefix("HTTP/1.1 503") && answer.contains("retry-after: 1"))
        #expect(answer.contains("too_many_connections") && answer.contains("connection: close"))
        // The ones that are open do not suffer.
        kept[0].send(ask())
        #expect(try #require(kept[0].answer()).head.hasPrefix("HTTP/1.1 200"))
        // More than can be told are closed at once.
        let many = try (0..<40).map { _ in try RawClient(port: hop.proxy.port) }
        for client in many { client.send(ask()) }
        let told = many.map { $0.rest() }
        #expect(told.contains("") && told.contains { $0.hasPrefix("HTTP/1.1 503") })
        #expect(told.allSatisfy { $0.isEmpty || $0.hasPrefix("HTTP/1.1 503") })
        kept[1].leave()
        try waitUntil("a place is free again") {
            guard let client = try? RawClient(port: hop.proxy.port) else { return false }
            client.send(ask())
            return client.answer()?.head.hasPrefix("HTTP/1.1 200") == true
        }
        _ = try hop.finish()
    }

    @Test func requestsBeyondTheConcurrencyAre503AndLeaveNoEvent() throws {
        let gate = Gate()
        let provider = try RawProvider { gate.serve($0) }
        let hop = try Hop(upstreamPort: provider.port, configure: { $0.concurrency = 2 })
        let under = try (0..<2).map { _ in try RawClient(port: hop.proxy.port) }
        for client in under { client.send(ask()) }
        try waitUntil("both are under way") { provider.connections == 2 }
        let third = try RawClient(port: hop.proxy.port)
        for _ in 0..<2 {
            third.send(ask())
            let answer = try #require(third.answer())
            #expect(answer.head.hasPrefix("HTTP/1.1 503") && answer.head.contains("retry-after: 1"))
            #expect(answer.body.contains("\"too_many_requests\""))
        }
        gate.open()
        for client in under { #expect(client.answer()?.body == "ok") }
        third.send(ask())
        #expect(third.answer()?.body == "ok")
        #expect(hop.metrics.overloaded.value == 2)
        #expect(try hop.finish().map(\.outcome) == [.success, .success, .success])
        provider.stop()
    }

    @Test func requestsOfOneKeyBeyondItsShareAre429AndOthersPass() throws {
        var random = SystemRandomNumberGenerator()
        let (a, b) = (makeKey(&random), makeKey(&random))
        let gate = Gate()
        let provider = try RawProvider { gate.serve($0) }
        let hop = try Hop(
            upstreamPort: provider.port,
            configure: {
                $0.concurrencyPerKey = 1
                $0.access = .keys(KeyDirectory([a.key, b.key]))
            })
        let first = try RawClient(port: hop.proxy.port)
        first.send(ask("x-portkey-api-key: \(a.text)\r\n"))
        try waitUntil("it is under way") { provider.connections == 1 }
        let second = try RawClient(port: hop.proxy.port)
        second.send(ask("x-portkey-api-key: \(a.text)\r\n"))
        let answer = try #require(second.answer())
        #expect(answer.head.hasPrefix("HTTP/1.1 429") && answer.head.contains("retry-after: 1"))
        #expect(answer.body.contains("too_many_requests_of_key"))
        second.send(ask("x-portkey-api-key: \(b.text)\r\n"))
        try waitUntil("another key's is under way") { provider.connections == 2 }
        gate.open()
        #expect(first.answer()?.body == "ok" && second.answer()?.body == "ok")
        first.send(ask("x-portkey-api-key: \(a.text)\r\n"))
        #expect(first.answer()?.body == "ok")
        #expect(try hop.finish().count == 3)
        provider.stop()
    }

    @Test(arguments: ["", "POST /v1/chat/completions HT"]) func aClientThatSendsNoWholeHeadIsClosed(_ text: String)
        throws
    {
        let hop = try Hop(configure: { $0.clients.idleMilliseconds = 100 })
        let client = try RawClient(port: hop.proxy.port)
        client.send(text)
        #expect(client.rest().isEmpty)
        #expect(try hop.finish().isEmpty)
    }

    @Test func aClientThatStopsInMidRequestIsClosedAndCancelled() throws {
        let hop = try Hop(configure: { $0.clients.stallMilliseconds = 100 })
        let client = try RawClient(port: hop.proxy.port)
        client.send(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx-portkey-provider: openai\r\ncontent-length: 9\r\n\r\n{")
        #expect(client.rest().isEmpty)
        #expect(try hop.finish().map(\.outcome) == [.cancelled])
    }

    @Test(arguments: [false, true])
    func aClientThatTakesNothingIsClosedCancelledAndHoldsTheProviderBack(_ isInterim: Bool) throws {
        let sent = Atomic<Int>(0)
        let ended = StopSignal()
        let provider = try RawProvider { peer in
            _ = peer.request()
            if !isInterim { peer.send("HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n") }
            let piece = isInterim ? hint : [UInt8](repeating: 0x61, count: 65_536)
            while sent.load(ordering: .relaxed) < 1_000_000_000, peer.send(piece) {
                sent.wrappingAdd(piece.count, ordering: .relaxed)
            }
            ended.stop()
        }
        let hop = try Hop(upstreamPort: provider.port, configure: { $0.clients.stallMilliseconds = 1_000 })
        let client = try RawClient(port: hop.proxy.port)
        client.send(ask())
        // Not a byte is read: what the provider could send is what the sockets' buffers and ours hold.
        #expect(ended.wait(milliseconds: 20_000))
        #expect(sent.load(ordering: .relaxed) < 64 << 20)
        let events = try hop.finish()
        #expect(events.map(\.outcome) == [.cancelled] && events.first?.status == (isInterim ? 0 : 200))
        provider.stop()
    }

    @Test func aProviderHeldBackInItsInterimAnswersHasItsTimeForTheFirstByteAgainAfterwards() throws {
        let isFull = StopSignal()
        let provider = try RawProvider { peer in
            _ = peer.request()
            var writable = pollfd(fd: peer.pollable, events: Int16(POLLOUT), revents: 0)
            var rest = hint[...]
            while poll(&writable, 1, 3_000) == 1 {
                let count = rest.withUnsafeBytes {
                    Glibc.send(peer.pollable, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT))
                }
                if count < 0 && errno != EAGAIN { break }
                rest = rest.dropFirst(max(0, count))
                if rest.isEmpty { rest = hint[...] }
            }
            isFull.stop()
            peer.awaitEnd()
        }
        let hop = try Hop(upstreamPort: provider.port, configure: { $0.upstream.firstByteMilliseconds = 2_000 })
        let client = try RawClient(port: hop.proxy.port)
        client.send(ask())
        #expect(isFull.wait(milliseconds: 60_000))
        var head = client.head()
        while head?.hasPrefix("HTTP/1.1 103 ") == true { head = client.head() }
        #expect(head?.hasPrefix("HTTP/1.1 504 ") == true)
        #expect(try hop.finish().map(\.outcome) == [.timeout])
        provider.stop()
    }

    @Test func aProviderThatTakesNothingHoldsTheClientBack() throws {
        let provider = try RawProvider { peer in
            // Only the end of the connection is waited for, not a byte is read.
            var descriptor = pollfd(fd: peer.pollable, events: 0, revents: 0)
            poll(&descriptor, 1, 20_000)
        }
        let hop = try Hop(upstreamPort: provider.port, configure: { $0.upstream.firstByteMilliseconds = 1_000 })
        let client = try RawClient(port: hop.proxy.port)
        let sent = Atomic<Int>(0)
        let thread = ServiceThread("sender") { [client] in
            client.send(
                "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx-portkey-provider: openai\r\ncontent-length: 1000000000\r\n\r\n"
            )
            let piece = [UInt8](repeating: 0x61, count: 65_536)
            while sent.load(ordering: .relaxed) < 1_000_000_000, client.send(piece) {
                sent.wrappingAdd(piece.count, ordering: .relaxed)
            }
        }
        // The provider's time is up; the rest of the request is not waited for.
        #expect(client.waitFor("HTTP/1.1 504"))
        client.leave()
        thread.join()
        #expect(sent.load(ordering: .relaxed) < 64 << 20)
        #expect(try hop.finish().map(\.outcome) == [.timeout])
        provider.stop()
    }

    @Test func requestsSentAheadAreReadOnlyAsFarAsTheStash() throws {
        let gate = Gate()
        let provider = try RawProvider { gate.serve($0) }
        let hop = try Hop(upstreamPort: provider.port)
        let client = try RawClient(port: hop.proxy.port)
        let one = Array(ask("x-filler: \(String(repeating: "f", count: 100_000))\r\n").utf8)
        client.send(one)
        try waitUntil("the first is under way") { provider.connections == 1 }
        // While it waits the proxy reads as far as the stash: the rest fills the sockets' buffers, and then no byte goes.
        let most = 64 << 20
        var count = 1
        var sent = 0
        var left = 0
        while left == 0, sent < most {
            let taken = client.send(one, whileTakenWithin: 3_000)
            sent += taken
            left = one.count - taken
            count += 1
        }
        #expect(left > 0 && sent < most)
        // From the answer on they are read in turn.
        gate.open()
        let thread = ServiceThread("sender") { [client, left] in client.send(Array(one.suffix(left))) }
        for index in 0..<count { #expect(client.answer()?.body == "ok", "\(index)") }
        thread.join()
        #expect(try hop.finish().count == count)
        provider.stop()
    }
}
