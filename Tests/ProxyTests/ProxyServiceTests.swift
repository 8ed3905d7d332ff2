import CaptureProxy
import EventCodec
import Events
import Glibc
import HTTPTransport
import Journal
import RecordLog
import Synchronization
import Telemetry
import Testing

/// A stub provider and a proxy before it, with a journal of its own.
final class Hop {
    let proxy: ProxyService
    let provider: HTTPServer
    let journal: Journal
    let directory: String
    let metrics = ProxyMetrics()
    let journalMetrics = JournalMetrics()

    init(
        strict: Bool = false, access: ProxyAccess = .open(ProxyIdentity(workspace: "default", apiKey: "")),
        upstreamTLS: TLSContext? = nil, upstreamHost: String = "127.0.0.1", upstreamPort: UInt16? = nil,
        listen: String? = nil, resolver: Resolver = Resolver(), log: Log = Hop.silent,
        respond: @escaping HTTPResponder = Hop.completion,
        configure: (inout ProxyOptions) -> Void = { _ in }, disk: (inout JournalOptions) -> Void = { _ in }
    ) throws {
        directory = "/tmp/millrace-proxy-tests-\(getpid())-\(UInt32.random(in: 0 ... .max))"
        let seenBox = SeenBox()
        self.box = seenBox
        provider = try HTTPServer(
            listen: "127.0.0.1:0", name: "stub", workers: 2, bodyLimit: 1 << 24, tls: upstreamTLS, log: log
        ) {
            request in
            seenBox.requests.withLock { $0.append(request) }
            return respond(request)
        }
        var options = JournalOptions(fsync: .never, segmentSize: 1 << 20, maxSize: 1 << 26, retentionSeconds: 3600)
        disk(&options)
        journal = try Journal(directory: directory, options: options, log: log, metrics: journalMetrics)
        journal.start()
        var proxyOptions = ProxyOptions(
            listen: "127.0.0.1:0", loops: 1,
            providers: [
                Provider(
                    name: "openai",
                    origin: UpstreamOrigin(
                        isTLS: upstreamTLS != nil, host: upstreamHost, port: upstreamPort ?? provider.port),
                    basePath: "/v1")
            ], strictMetadata: strict, metadataMaxSize: 8192, tls: nil,
            access: access,
            prices: try PriceTable(json: Hop.prices), holdsForDurability: false)
        proxyOptions.drainGraceMilliseconds = 0
        if let listen { proxyOptions.listen = listen }
        configure(&proxyOptions)
        proxy = try ProxyService(
            options: proxyOptions, journal: journal, log: log, metrics: metrics, resolver: resolver)
    }

    static let nowhere = open("/dev/null", O_WRONLY)
    static let silent = Log(role: "test", descriptor: nowhere)

    final class SeenBox: Sendable { let requests = Mutex<[HTTPRequest]>([]) }
    let box: SeenBox
    var requests: [HTTPRequest] { box.requests.withLock { $0 } }

    static let prices = Array(
        #"{"version":"test","source":"none","models":[{"provider":"openai","model":"gpt-4o","input":2500,"output":10000,"cached":1250}]}"#
            .utf8)

    static let completion: HTTPResponder = { _ in
        .json(
            200,
            #"{"id":"c","model":"gpt-4o","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":12,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":4}}}"#
        )
    }

    /// The provider is gone; `finish` does not stop it again.
    func stopProvider() {
        if providerIsStopped { return }
        providerIsStopped = true
        provider.stop()
    }
    private var providerIsStopped = false

    /// Stops both and reads the events out of the journal.
    func finish(isStopped: Bool = false) throws -> [RequestEvent] {
        if !isStopped { proxy.stop() }
        stopProvider()
        var reader = JournalLogReader(directory: directory, log: Log(role: "test"), metrics: JournalMetrics())
        var events: [RequestEvent] = []
        var idle = 0
        while idle < 3 {
            switch try reader.poll(maxRecords: 1000, maxBytes: 1 << 20, timeoutMilliseconds: 20) {
            case .discovered(let partitions): try reader.start(partitions.map { ($0, Offset(0)) })
            case .records(let chunk):
                events += try chunk.events()
            default: idle += 1
            }
        }
        reader.close()
        journal.stop()
        return events
    }
}

extension RecordChunk {
    /// Decoded, in the order of the records.
    func events() throws -> [RequestEvent] {
        try bytes.withUnsafeBytes { bytes in
            try records.filter { $0.kind == .event }.map { slot in
                let start = Int(slot.valueStart)
                let value = UnsafeRawBufferPointer(rebasing: bytes[start..<start + Int(slot.valueCount)])
                return RequestEvent(try EventDecoder.decode(value, base: start), in: bytes)
            }
        }
    }
}

private func chat(
    _ headers: String, body: String = #"{"model":"gpt-4o-mini","messages":[],"user":"u1"}"#,
    path: String = "/v1/proxy/chat/completions"
) -> String {
    "POST \(path) HTTP/1.1\r\nHost: millrace\r\nContent-Type: application/json\r\nAuthorization: Bearer sk-secret\r\n"
        + headers + "Content-Length: \(body.utf8.count)\r\n\r\n" + body
}
private let portkey =
    "x-portkey-api-key: k\r\nx-portkey-mode: proxy openai\r\nx-portkey-meta: {\"foo\":\"abc\",\"bar\":\"def\"}\r\n"

@Suite(.timeLimit(.minutes(2))) struct ProxyServiceTests {
    @Test func aRequestPassesAndBecomesOneEvent() throws {
        let hop = try Hop()
        let client = try RawClient(port: hop.proxy.port)
        for _ in 0..<3 {
            client.send(chat(portkey))
            let answer = try #require(client.answer())
            #expect(answer.head.hasPrefix("HTTP/1.1 200"))
            #expect(answer.body.contains("\"gpt-4o\""))
        }
        let seen = hop.requests
        #expect(seen.count == 3)
        #expect(seen[0].path == "/v1/chat/completions")
        #expect(!seen[0].headers.contains { $0.name.hasPrefix("x-portkey") })
        #expect(seen[0].header("authorization") == "Bearer sk-secret")
        let events = try hop.finish()
        #expect(events.count == 3)
        let event = try #require(events.first)
        #expect(event.provider == "openai" && event.operation == "chat" && event.outcome == .success)
        #expect(event.requestModel == "gpt-4o-mini" && event.responseModel == "gpt-4o" && event.finishReason == "stop")
        #expect(event.inputTokens == 12 && event.outputTokens == 3 && event.cachedTokens == 4)
        #expect(event.cost == NanoUSD(8 * 2500 + 4 * 1250 + 3 * 10000))
        #expect(String(decoding: event.metadataRaw, as: UTF8.self) == #"{"foo":"abc","bar":"def","_user":"u1"}"#)
        #expect(event.metadataStatus == .ok)
        #expect(Set(events.map(\.id)).count == 3)
    }

    @Test func aChunkedRequestAndAStreamedAnswerPassPieceByPiece() throws {
        let hop = try Hop { _ in
            HTTPResponse(
                status: 200, headers: [("content-type", "text/event-stream")],
                body: Array(
                    "data: {\"model\":\"gpt-4o\",\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n".utf8
                ),
                parts: [
                    (30, Array("data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n".utf8)),
                    (
                        0,
                        Array(
                            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":7}}\n\ndata: [DONE]\n\n"
                                .utf8)
                    ),
                ])
        }
        let client = try RawClient(port: hop.proxy.port)
        client.send(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n" + portkey
                + "transfer-encoding: chunked\r\nconnection: close\r\n\r\n10\r\n{\"model\":\"gpt-4o\r\n")
        client.send("12;ext=1\r\n\",\"stream\":true  }\r\n0\r\n\r\n")
        let text = client.rest()
        #expect(text.contains("[DONE]") && text.hasSuffix("0\r\n\r\n"))
        #expect(String(decoding: hop.requests[0].body, as: UTF8.self) == "{\"model\":\"gpt-4o\",\"stream\":true  }")
        let events = try hop.finish()
        #expect(events.count == 1)
        #expect(events.first?.streamed == true && events.first?.inputTokens == 5 && events.first?.outputTokens == 7)
        #expect(events.first?.firstTokenMicroseconds != nil && events.first?.finishReason == "stop")
    }

    /// First token: the first byte of a streamed answer's body, from the request's first byte on.
    @Test func theTimeOfTheFirstTokenLiesBetweenForwardingAndTheEnd() throws {
        let hop = try Hop { _ in
            usleep(100_000)
            return HTTPResponse(
                status: 200, headers: [("content-type", "text/event-stream")], body: Array("data: {}\n\n".utf8),
                parts: [(300, Array("data: [DONE]\n\n".utf8))])
        }
        let client = try RawClient(port: hop.proxy.port)
        client.send(chat(portkey))
        #expect(client.waitFor("[DONE]"))
        let event = try #require(hop.finish().first)
        let first = try #require(event.firstTokenMicroseconds)
        let latency = try #require(event.latencyMicroseconds)
        #expect(first >= 100_000 && latency >= first + 290_000, "\(first) of \(latency)")
    }

    @Test func ofAStreamThatTheClientLeavesNoRunningCountIsUsage() throws {
        let start =
            #"data: {"type":"message_start","message":{"model":"claude-sonnet-4","usage":{"input_tokens":25,"output_tokens":1}}}"#
        let hop = try Hop { _ in
            HTTPResponse(
                status: 200, headers: [("content-type", "text/event-stream")], body: Array((start + "\n\n").utf8),
                parts: (0..<500).map { _ in (20, Array("data: {\"type\":\"ping\"}\n\n".utf8)) })
        }
        let client = try RawClient(port: hop.proxy.port)
        client.send(chat(portkey))
        #expect(client.waitFor("ping"))
        client.leave()
        let deadline = ContinuousClock.now + .seconds(20)
        while hop.metrics.recorded.value == 0, ContinuousClock.now < deadline { usleep(10_000) }
        let event = try #require(hop.finish().first)
        #expect(event.outcome == .cancelled && event.responseModel == "claude-sonnet-4")
        #expect(event.usageSource == .none && event.inputTokens == 0 && event.outputTokens == 0 && event.cost == nil)
    }

    @Test func aFormSaysItsModelToo() throws {
        let hop = try Hop { _ in .json(200, #"{"text":"hello","usage":{"input_tokens":14,"output_tokens":45}}"#) }
        let client = try RawClient(port: hop.proxy.port)
        let body =
            "--x y\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\nRIFF\r\n--x\r\n"
            + "--x y\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\ngpt-4o\r\n--x y--\r\n"
        client.send(
            "POST /v1/audio/transcriptions HTTP/1.1\r\nhost: a\r\n\(portkey)"
                + "Content-Type: Multipart/Form-Data; charset=x; boundary=\"x y\"\r\n"
                + "content-length: \(body.utf8.count)\r\n\r\n" + body)
        #expect(try #require(client.answer()).head.hasPrefix("HTTP/1.1 200"))
        #expect(hop.requests.first.map { String(decoding: $0.body, as: UTF8.self) } == body)
        let event = try #require(hop.finish().first)
        #expect(event.operation == "transcription" && event.requestModel == "gpt-4o" && event.inputTokens == 14)
        #expect(event.cost == NanoUSD(14 * 2500 + 45 * 10000))
    }

    @Test(arguments: [true, false]) func bedrocksBinaryStreamPassesUnreadAndSaysSo(_ tellsTokens: Bool) throws {
        let hop = try Hop { _ in
            HTTPResponse(
                status: 200,
                headers: [("content-type", "application/vnd.amazon.eventstream")]
                    + (tellsTokens
                        ? [("x-amzn-bedrock-input-token-count", "7"), ("x-amzn-bedrock-output-token-count", "9")] : []),
                body: [0, 0, 0, 16, 255])
        }
        let client = try RawClient(port: hop.proxy.port)
        client.send(chat(portkey, path: "/v1/model/gpt-4o/invoke-with-response-stream"))
        #expect(try #require(client.answer()).head.hasPrefix("HTTP/1.1 200"))
        let event = try #require(hop.finish().first)
        #expect(event.streamed && event.firstTokenMicroseconds != nil)
        #expect(event.usageSource == (tellsTokens ? .response : .unreadable))
        #expect(event.inputTokens == (tellsTokens ? 7 : 0) && event.outputTokens == (tellsTokens ? 9 : 0))
    }

    @Test func aClientThatLeavesInMidAnswerIsRecordedAsCancelled() throws {
        let hop = try Hop { _ in
            HTTPResponse(
                status: 200, headers: [("content-type", "text/event-stream")], body: Array("data: {}\n\n".utf8),
                parts: (0..<200).map { _ in (20, Array("data: {}\n\n".utf8)) })
        }
        let client = try RawClient(port: hop.proxy.port)
        client.send(chat(portkey))
        #expect(client.waitFor("data: {}"))
        client.leave()
        usleep(200_000)
        let other = try RawClient(port: hop.proxy.port)
        other.send(chat(portkey, path: "/v1/nowhere"))
        #expect(other.waitFor("data: {}"))
        other.leave()
        usleep(100_000)
        #expect(try hop.finish().map(\.outcome) == [.cancelled, .cancelled])
    }

    @Test(arguments: [
        ("/v1/chat/completions", "", 400, "provider_missing"),
        ("/v1/chat/completions", "x-portkey-mode: proxy nobody\r\n", 400, "provider_unknown"),
        ("/v1/chat/completions", "x-portkey-mode: openai\r\n", 400, "bad_mode"),
        ("/chat/completions", "x-portkey-mode: proxy openai\r\n", 404, "unknown_path"),
        ("/v1/../secret", "x-portkey-mode: proxy openai\r\n", 400, "path_leaves_base"),
    ])
    func aRequestWithoutAWayIsToldWhatToDoAndTheConnectionKept(
        _ path: String, _ headers: String, _ status: Int, _ code: String
    ) throws {
        let hop = try Hop()
        let client = try RawClient(port: hop.proxy.port)
        for _ in 0..<2 {
            client.send(chat(headers, path: path))
            let answer = try #require(client.answer())
            #expect(answer.head.hasPrefix("HTTP/1.1 \(status)"))
            #expect(answer.body.contains("\"code\":\"\(code)\"") && answer.body.contains("\"hint\""))
        }
        #expect(try hop.finish().isEmpty)
    }

    @Test func aDeadProviderIs502AndAnEvent() throws {
        let hop = try Hop()
        hop.stopProvider()
        let client = try RawClient(port: hop.proxy.port)
        client.send(chat(portkey))
        let answer = try #require(client.answer())
        #expect(answer.head.hasPrefix("HTTP/1.1 502"))
        let events = try hop.finish()
        #expect(events.map(\.outcome) == [.providerError] && events.first?.errorType == "upstream_unreachable")
    }

    @Test(arguments: [
        ("{'foo':'abc'}", MetadataStatus.malformed), ("[1]", .notAnObject), ("null", .notAnObject),
        ("{\"a\":NaN}", .malformed),
        ("", .ok), ("{}", .ok), ("{\"a\":\"\\ud800\"}", .malformed), ("{\"a\":1} x", .malformed),
        ("{\"a\":\"" + String(repeating: "x", count: 9000) + "\"}", .tooLarge),
    ])
    func badMetadataNeverBreaksARequest(_ value: String, _ status: MetadataStatus) throws {
        let hop = try Hop()
        let client = try RawClient(port: hop.proxy.port)
        client.send(chat("x-portkey-mode: proxy openai\r\nx-portkey-meta: \(value)\r\n"))
        #expect(try #require(client.answer()).head.hasPrefix("HTTP/1.1 200"))
        let event = try #require(try hop.finish().first)
        #expect(event.metadataStatus == status)
        if status > .truncated { #expect(!event.metadataRejected.isEmpty) }
    }

    @Test func inStrictModeBadMetadataIs400() throws {
        let hop = try Hop(strict: true)
        let client = try RawClient(port: hop.proxy.port)
        client.send(chat("x-portkey-mode: proxy openai\r\nx-portkey-meta: [1]\r\n"))
        #expect(try #require(client.answer()).head.hasPrefix("HTTP/1.1 400"))
        #expect(try hop.finish().isEmpty)
    }

    @Test func pipelinedRequestsAreAnsweredInOrder() throws {
        let hop = try Hop { .json(200, "\"\(String(decoding: $0.body, as: UTF8.self))\"") }
        let client = try RawClient(port: hop.proxy.port)
        client.send((0..<50).map { chat(portkey, body: "n\($0)") }.joined())
        for index in 0..<50 { #expect(client.answer()?.body == "\"n\(index)\"") }
        #expect(try hop.finish().count == 50)
    }

    @Test func aLargeBodyPassesBothWays() throws {
        let big = String(repeating: "0123456789abcdef", count: 300_000)
        let hop = try Hop { .json(200, String(decoding: $0.body, as: UTF8.self)) }
        let client = try RawClient(port: hop.proxy.port)
        client.send(chat(portkey, body: big))
        #expect(client.answer()?.body == big)
        let event = try #require(try hop.finish().first)
        #expect(event.requestBytes == UInt64(big.utf8.count) && event.responseBytes == UInt64(big.utf8.count))
    }

    @Test(arguments: [
        "POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /v1/x HTTP/1.1\r\nhost: a\r\n" + portkey + "transfer-encoding: chunked\r\n\r\nzz\r\n\r\n",
        "POST /v1/x HTTP/1.1\r\nhost: a\r\n" + portkey + "transfer-encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
        "GET /v1/x HTTP/1.1\nhost: a\n\n",
    ])
    func anAmbiguousRequestIsRefusedAndTheConnectionClosed(_ text: String) throws {
        let hop = try Hop()
        let client = try RawClient(port: hop.proxy.port)
        client.send(text)
        #expect(client.rest().hasPrefix("HTTP/1.1 400"))
        _ = try hop.finish()
    }
}
