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
        // `localhost` is ::1 and 127.0.0.1 in most places; the provider listens on the latter alone.
        let provider = try RawProvider { peer in while peer.request() != nil { peer.send(ok) } }
        let hop = try Hop(upstreamHost: "localhost", upstreamPort: provider.port)
        let client = try RawClient(port: hop.proxy.port)
        client.send(ask)
        #expect(client.answer()?.body == "ok")
        _ = try hop.finish()
        provider.stop()
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
