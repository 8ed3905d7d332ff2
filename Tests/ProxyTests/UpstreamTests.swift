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

/// The provider's side of an exchange, and everything that may go wrong there.
@Suite(.timeLimit(.minutes(2))) struct UpstreamTests {
    @Test func aConnectionServesRequestAfterRequest() throws {
        let provider = try RawProvider { peer in while peer.request() != nil { peer.send(ok) } }
        let hop = try Hop(upstreamPort: provider.port)
        for _ in 0..<3 {
            let client = try RawClient(port: hop.proxy.port)
            client.send(ask)
            #expect(client.answer()?.body == "ok")
        }
        #expect(provider.connections == 1)
        _ = try hop.finish()
        provider.stop()
    }

    @Test(arguments: [0, 1, 2]) func aConnectionTooOldOrUnwantedIsNotUsedAgain(_ which: Int) throws {
        let provider = try RawProvider { peer in while peer.request() != nil { peer.send(ok) } }
        let hop = try Hop(
            upstreamPort: provider.port,
            configure: {
                switch which {
                case 0: $0.upstream.ageMilliseconds = 0
                case 1: $0.upstream.idleConnections = 0
                default: $0.upstream.keepMilliseconds = 0
                }
            })
        let client = try RawClient(port: hop.proxy.port)
        for _ in 0..<3 {
            client.send(ask)
            #expect(client.answer()?.body == "ok")
            // On the loop's clock nothing may have passed yet.
            usleep(2_000)
        }
        #expect(provider.connections == 3)
        _ = try hop.finish()
        provider.stop()
    }

    @Test func aRequestThatHasGoneOutIsNeverSentTwice() throws {
        let seen = Atomic<Int>(0)
        let provider = try RawProvider { peer in
            // The first is answered, so that the connection is reused; the second is read and dropped.
            guard peer.request() != nil else { return }
            peer.send(ok)
            if peer.request() != nil { seen.wrappingAdd(1, ordering: .relaxed) }
        }
        let hop = try Hop(upstreamPort: provider.port)
        let client = try RawClient(port: hop.proxy.port)
        client.send(ask)
        #expect(client.answer()?.body == "ok")
        client.send(ask)
        let answer = try #require(client.answer())
        #expect(answer.head.hasPrefix("HTTP/1.1 502") && answer.body.contains("upstream_broke_off"))
        #expect(seen.load(ordering: .relaxed) == 1 && provider.connections == 1)
        let events = try hop.finish()
        #expect(events.map(\.outcome) == [.success, .providerError])
        #expect(events.last?.errorType == "upstream_broke_off")
        provider.stop()
    }

    @Test func aConnectionThatTheProviderClosedWhileIdleIsNotUsed() throws {
        let provider = try RawProvider { peer in if peer.request() != nil { peer.send(ok) } }
        let hop = try Hop(upstreamPort: provider.port)
        let client = try RawClient(port: hop.proxy.port)
        for count in 1...3 {
            client.send(ask)
            #expect(client.answer()?.body == "ok")
            #expect(provider.connections == count)
            usleep(20_000)  // the provider's closing is on its way
        }
        #expect(try hop.finish().map(\.outcome) == [.success, .success, .success])
        provider.stop()
    }

    @Test func aProviderThatSaysNothingIs504AndATimeout() throws {
        let provider = try RawProvider { peer in
            _ = peer.request()
            peer.awaitEnd()
        }
        let hop = try Hop(upstreamPort: provider.port, configure: { $0.upstream.firstByteMilliseconds = 100 })
        let client = try RawClient(port: hop.proxy.port)
        client.send(ask)
        let answer = try #require(client.answer())
        #expect(answer.head.hasPrefix("HTTP/1.1 504") && answer.body.contains("upstream_timeout"))
        #expect(!answer.body.contains("127.0.0.1") && answer.body.contains("openai"))
        let event = try #require(try hop.finish().first)
        #expect(event.outcome == .timeout && event.status == 504 && event.errorType == "upstream_timeout")
        provider.stop()
    }

    @Test func aProviderThatStopsInMidAnswerIsCutOffAndATimeout() throws {
        let provider = try RawProvider { peer in
            _ = peer.request()
            peer.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
            peer.awaitEnd()
        }
        let hop = try Hop(upstreamPort: provider.port, configure: { $0.upstream.idleMilliseconds = 100 })
        let client = try RawClient(port: hop.proxy.port)
        client.send(ask)
        #expect(client.rest().hasSuffix("\r\n\r\nhalf"))
        let event = try #require(try hop.finish().first)
        #expect(event.outcome == .timeout && event.status == 200 && event.errorType == "upstream_timeout")
        provider.stop()
    }

    @Test func aProviderThatCannotBeConnectedToIs504() throws {
        // A listener whose queue is full lets nobody in and refuses nobody.
        let full = try FullListener()
        let hop = try Hop(upstreamPort: full.port, configure: { $0.upstream.connectMilliseconds = 100 })
        let client = try RawClient(port: hop.proxy.port)
        client.send(ask)
        #expect(try #require(client.answer()).head.hasPrefix("HTTP/1.1 504"))
        let event = try #require(try hop.finish().first)
        #expect(event.outcome == .timeout && event.errorType == "upstream_timeout")
    }

    @Test func aNameWithoutAddressIs502WithoutInternals() throws {
        let hop = try Hop(upstreamHost: "nowhere.invalid")
        let client = try RawClient(port: hop.proxy.port)
        for _ in 0..<2 {
            client.send(ask)
            let answer = try #require(client.answer())
            #expect(answer.head.hasPrefix("HTTP/1.1 502") && answer.body.contains("upstream_unreachable"))
            #expect(!answer.body.contains("nowhere.invalid"))
        }
        #expect(try hop.finish().map(\.errorType) == ["upstream_unreachable", "upstream_unreachable"])
    }

    @Test func everyAddressOfANameIsTried() throws {
        // The provider listens on 127.0.0.1 alone: the other address refuses.
        let provider = try RawProvider { peer in while peer.request() != nil { peer.send(ok) } }
        for (resolver, status) in [
            (Resolver.fixed("127.0.0.2", "127.0.0.1"), 200), (.fixed("127.0.0.2"), 502),
        ] {
            let hop = try Hop(upstreamHost: "provider.test", upstreamPort: provider.port, resolver: resolver)
            let client = try RawClient(port: hop.proxy.port)
            client.send(ask)
            #expect(try #require(client.answer()).head.hasPrefix("HTTP/1.1 \(status) "))
            #expect(try hop.finish().map(\.status) == [UInt16(status)])
        }
        #expect(provider.connections == 1)
        provider.stop()
    }

    // MARK: A kept connection that is of no use

    /// The proxy's one socket towards that port: it is in this process.
    private func socketOfTheProxy(to port: UInt16) throws -> Int32 {
        let found = (Int32(3)..<4_096).filter { descriptor in
            var address = sockaddr_in()
            var size = socklen_t(MemoryLayout<sockaddr_in>.size)
            let status = withUnsafeMutablePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getpeername(descriptor, $0, &size) }
            }
            return status == 0 && address.sin_family == sa_family_t(AF_INET)
                && UInt16(bigEndian: address.sin_port) == port
        }
        #expect(found.count == 1)
        return try #require(found.first)
    }

    @Test(.serialized, arguments: [false, true])
    func aRequestOfWhichNoByteWasTakenGoesOutOnAnotherConnectionWholeAndOnce(_ isTLS: Bool) throws {
        let certificates = isTLS ? try Certificates() : nil
        if let certificates { setenv("SSL_CERT_FILE", certificates.authority, 1) }
        defer { unsetenv("SSL_CERT_FILE") }
        let seen = Mutex<[String]>([])
        let ending = StopSignal()
        let provider = try RawProvider(tls: try certificates.map { try RawTLS.Context($0) }) { peer in
            while let request = peer.request() {
                seen.withLock { $0.append("\(peer.index) \(request)") }
                peer.send(ok)
                // It neither closes in turn nor says so: to the proxy the first connection looks as good as ever.
                if peer.index == 0 { ending.wait() }
            }
        }
        let hop = try Hop(
            upstreamTLS: try certificates.map {
                try TLSContext.server(certificate: $0.certificate, key: $0.key)
            }, upstreamHost: "localhost", upstreamPort: provider.port, resolver: .fixed("127.0.0.1"))
        let client = try RawClient(port: hop.proxy.port)
        client.send(ask)
        #expect(client.answer()?.body == "ok")
        // From here on a write to it fails, and nothing else of it does.
        #expect(shutdown(try socketOfTheProxy(to: provider.port), Int32(SHUT_WR)) == 0)
        // More than one read of the client's socket brings.
        let body = String(repeating: "0123456789", count: 40_000)
        client.send(
            "POST /v1/x HTTP/1.1\r\nhost: a\r\nx-portkey-provider: openai\r\ncontent-length: 400000\r\n\r\n\(body)")
        #expect(client.answer()?.body == "ok")
        ending.stop()
        let events = try hop.finish()
        provider.stop()
        let requests = seen.withLock { $0 }
        #expect(requests.count == 2 && requests.last?.hasPrefix("1 POST /v1/x ") == true)
        #expect(requests.last?.hasSuffix("\r\n\r\n\(body)") == true)
        #expect(events.map(\.outcome) == [.success, .success])
    }

    enum Sign: CaseIterable { case answer, interim, partOfAHead, end, reset }
    /// When the provider gives it: before the connection is used again, or before the request could go out on it.
    enum Moment: CaseIterable { case beforeItIsUsed, beforeAByteHasGone }

    @Test(.serialized, arguments: Sign.allCases, Moment.allCases)
    func whatAKeptConnectionBringsBeforeTheRequestHasGoneOutIsNoAnswerToIt(_ sign: Sign, _ moment: Moment) throws {
        let (speaks, hasSpoken, ending) = (StopSignal(), StopSignal(), StopSignal())
        let provider = try RawProvider { peer in
            if peer.index > 0 {
                while peer.request() != nil { peer.send(ok) }
                return
            }
            _ = peer.request()
            peer.send(ok)
            speaks.wait()
            switch sign {
            case .answer: peer.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nother")
            case .interim: peer.send("HTTP/1.1 103 Early Hints\r\nlink: other\r\n\r\n")
            case .partOfAHead: peer.send("HTTP/1.1 200 OK\r\ncontent-le")
            case .end: peer.end()
            case .reset: peer.reset()
            }
            hasSpoken.stop()
            ending.wait()
        }
        // A request to a provider that is not there holds the loop up in the log line about it.
        let (isHeld, goesOn) = (StopSignal(), StopSignal())
        let log = Log(role: "test", descriptor: Hop.nowhere) { line in
            guard line.code == "upstream_failed", !isHeld.isStopped else { return }
            isHeld.stop()
            _ = goesOn.wait(milliseconds: 20_000)
        }
        let hop = try Hop(
            upstreamPort: provider.port, log: log,
            configure: {
                let nowhere = UpstreamOrigin(isTLS: false, host: "127.0.0.1", port: 1)
                $0.providers.append(Provider(name: "nowhere", origin: nowhere, basePath: "/v1"))
            })
        let client = try RawClient(port: hop.proxy.port)
        client.send(ask)
        #expect(client.answer()?.body == "ok")
        let other = try RawClient(port: hop.proxy.port)
        func holdTheLoop() {
            other.send("GET /v1/x HTTP/1.1\r\nhost: a\r\nx-portkey-provider: nowhere\r\n\r\n")
            #expect(isHeld.wait(milliseconds: 20_000))
        }
        switch moment {
        case .beforeItIsUsed:
            holdTheLoop()
            // Of the two that the loop then finds this comes first.
            client.send(ask)
        case .beforeAByteHasGone:
            fill(try socketOfTheProxy(to: provider.port))
            client.send(ask)
            holdTheLoop()
        }
        speaks.stop()
        #expect(hasSpoken.wait(milliseconds: 20_000))
        goesOn.stop()
        let answer = try #require(client.answer())
        #expect(answer.head.hasPrefix("HTTP/1.1 200 OK\r\n") && answer.body == "ok", "\(answer)")
        #expect(other.answer()?.head.hasPrefix("HTTP/1.1 502") == true)
        #expect(provider.connections == 2)
        #expect(try hop.finish().count { $0.outcome == .success } == 2)
        ending.stop()
        provider.stop()
    }

    /// Writes to a socket that nobody reads until it takes no more; and then halts it there: with a buffer that is
    /// much smaller than what it holds it takes nothing for as long as most of that has not been read.
    private func fill(_ descriptor: Int32) {
        let junk = [UInt8](repeating: 0, count: 65_536)
        while Glibc.send(descriptor, junk, junk.count, Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT)) > 0 {}
        var least: Int32 = 1
        setsockopt(descriptor, SOL_SOCKET, SO_SNDBUF, &least, socklen_t(MemoryLayout<Int32>.size))
    }

    @Test func requestsWaitInLineForAConnectionAndAreAnsweredInTurn() throws {
        let atOnce = Atomic<Int>(0)
        let most = Atomic<Int>(0)
        let provider = try RawProvider { peer in
            while peer.request() != nil {
                let count = atOnce.wrappingAdd(1, ordering: .relaxed).newValue
                _ = most.max(count, ordering: .relaxed)
                usleep(5_000)
                atOnce.wrappingSubtract(1, ordering: .relaxed)
                peer.send(ok)
            }
        }
        let hop = try Hop(upstreamPort: provider.port, configure: { $0.upstream.connections = 2 })
        let clients = try (0..<12).map { _ in try RawClient(port: hop.proxy.port) }
        for client in clients { client.send(ask) }
        for client in clients { #expect(client.answer()?.body == "ok") }
        #expect(most.load(ordering: .relaxed) <= 2 && provider.connections == 2)
        #expect(try hop.finish().count == 12)
        provider.stop()
    }

    @Test func aLineThatIsFullOrTooSlowIs503WithRetryAfter() throws {
        let provider = try RawProvider { peer in
            _ = peer.request()
            peer.awaitEnd()
        }
        let hop = try Hop(
            upstreamPort: provider.port,
            configure: {
                $0.upstream.connections = 1
                $0.upstream.waiting = 1
                $0.upstream.waitMilliseconds = 100
            })
        let holder = try RawClient(port: hop.proxy.port)
        holder.send(ask)
        while provider.connections == 0 { usleep(1_000) }
        let clients = try (0..<3).map { _ in try RawClient(port: hop.proxy.port) }
        for client in clients { client.send(ask) }
        for client in clients {
            let answer = try #require(client.answer())
            #expect(answer.head.hasPrefix("HTTP/1.1 503") && answer.head.contains("retry-after: 1"))
            #expect(answer.body.contains("upstream_overloaded"))
        }
        holder.leave()
        let events = try hop.finish()
        #expect(events.count { $0.errorType == "upstream_overloaded" && $0.outcome == .providerError } == 3)
        #expect(events.count { $0.outcome == .cancelled } == 1)
        provider.stop()
    }

    @Test func aConnectionGivenUpMakesRoomForTheNextInLine() throws {
        let provider = try RawProvider { peer in
            _ = peer.request()
            if peer.index == 0 { peer.awaitEnd() } else { peer.send(ok) }
        }
        let hop = try Hop(upstreamPort: provider.port, configure: { $0.upstream.connections = 1 })
        let first = try RawClient(port: hop.proxy.port)
        first.send(ask)
        while provider.connections == 0 { usleep(1_000) }
        let second = try RawClient(port: hop.proxy.port)
        second.send(ask)
        first.leave()
        #expect(second.answer()?.body == "ok")
        #expect(Set(try hop.finish().map(\.outcome)) == [.cancelled, .success])
        provider.stop()
    }
}

/// Listens, accepts nobody, and has its queue filled.
private final class FullListener {
    let port: UInt16
    private var descriptors: [Int32] = []

    init() throws {
        let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let connected = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { pointer in
                guard bind(listener, pointer, size) == 0, listen(listener, 0) == 0 else { return [Int32]() }
                getsockname(listener, pointer, &size)
                return (0..<4).map { _ in
                    let client = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0)
                    _ = connect(client, pointer, size)
                    return client
                }
            }
        }
        struct NotListening: Error {}
        if connected.isEmpty { throw NotListening() }
        port = UInt16(bigEndian: address.sin_port)
        descriptors = connected + [listener]
    }

    deinit { for descriptor in descriptors { close(descriptor) } }
}
