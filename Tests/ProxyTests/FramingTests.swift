import CaptureProxy
import Events
import Glibc
import HTTPTransport
import Testing
import Threading

private let portkey = "x-portkey-provider: openai\r\n"

private func post(_ rest: String, _ target: String = "/v1/x", version: String = "1.1") -> String {
    "POST \(target) HTTP/\(version)\r\nhost: a\r\n\(portkey)\(rest)"
}

/// What goes over the wire: the rows of the table in `Refusal.swift` that need both sides.
@Suite(.timeLimit(.minutes(2))) struct FramingTests {
    static let refused: [(String, Int, String)] = [
        (post("content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"), 400, "length_with_transfer_coding"),
        (post("content-length: 5\r\ncontent-length: 5\r\n\r\nhello"), 400, "length_repeated"),
        (post("content-length: 5, 5\r\n\r\nhello"), 400, "length_unreadable"),
        (post("content-length: -1\r\n\r\n"), 400, "length_unreadable"),
        (post("transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), 501, "transfer_coding_unknown"),
        (post("transfer-encoding: chunked\r\n\r\n0\r\n\r\n", version: "1.0"), 400, "transfer_coding_in_old_version"),
        (post("transfer-encoding: chunked\r\n\r\nzz\r\n\r\n"), 400, "bad_chunk"),
        (post("transfer-encoding: chunked\r\n\r\n5;a\nb\r\nhello\r\n0\r\n\r\n"), 400, "bad_chunk"),
        (post("transfer-encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n"), 400, "bad_chunk"),
        (post("transfer-encoding: chunked\r\n\r\n0\r\na b: c\r\n\r\n"), 400, "bad_trailer"),
        (post("connection: content-length\r\ncontent-length: 5\r\n\r\nhello"), 400, "connection_names_framing"),
        (post("connection: upgrade\r\nupgrade: websocket\r\n\r\n"), 501, "upgrade_refused"),
        (post("x: a\u{0}b\r\n\r\n"), 400, "control_in_value"),
        (post("x : a\r\n\r\n"), 400, "space_before_colon"),
        (post("x: a\r\n b\r\n\r\n"), 400, "obsolete_fold"),
        (post("host: b\r\n\r\n"), 400, "host_repeated"),
        ("GET /v1/x HTTP/1.1\r\nhost: a, b\r\n\r\n", 400, "host_unreadable"),
        ("GET /v1/x HTTP/1.1\r\n\r\n", 400, "host_missing"),
        ("GET /v1/x HTTP/1.1\nhost: a\n\n", 400, "bare_line_end"),
        ("CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\n", 501, "connect_refused"),
        ("FETCHIT /v1/x HTTP/1.1\r\nhost: a\r\n\r\n", 501, "method_unknown"),
        ("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n", 400, "bad_target"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "bad_version"),
        ("GET /" + String(repeating: "a", count: 65_536) + " HTTP/1.1\r\nhost: a\r\n\r\n", 414, "target_too_long"),
        (post("x: " + String(repeating: "a", count: 262_144) + "\r\n\r\n"), 431, "head_too_large"),
        (post(String(repeating: "a: b\r\n", count: 1_000) + "\r\n"), 431, "too_many_fields"),
        (
            post(
                "transfer-encoding: chunked\r\n\r\n0\r\n" + String(repeating: "a: b\r\n", count: 1_001) + "\r\n"),
            431, "trailer_too_large"
        ),
    ]

    @Test func eachShapeIsRefusedWithItsStatusAndTheConnectionClosed() throws {
        let hop = try Hop()
        for (text, status, code) in Self.refused {
            let client = try RawClient(port: hop.proxy.port)
            client.send(text)
            let answer = client.rest()
            #expect(answer.hasPrefix("HTTP/1.1 \(status) "), "\(code): \(answer.prefix(200))")
            #expect(answer.contains("\"code\":\"\(code)\""), "\(code): \(answer.prefix(300))")
            #expect(answer.lowercased().contains("connection: close"))
        }
        // None of them, nor any part of one, has reached the provider whole.
        #expect(hop.requests.isEmpty)
        _ = try hop.finish()
    }

    @Test func aPathThatLeavesItsBaseIsRefusedInEverySpelling() throws {
        let hop = try Hop()
        let client = try RawClient(port: hop.proxy.port)
        for path in [
            "/v1/../x", "/v1/proxy/../../x", "/v1/%2e%2e/x", "/v1/%2E./x", "/v1/a/..%2f..%2fx", "/v1/..%5cx",
            "/v1/a/../../x", "/v1/%252e%252e/x", "/v1/..;a/x", "/v1/v1/../x", "/v1/proxy/v1/../../x",
            "/v1//../x",
        ] {
            client.send("GET \(path) HTTP/1.1\r\nhost: a\r\n\(portkey)\r\n")
            let answer = try #require(client.answer())
            #expect(answer.head.hasPrefix("HTTP/1.1 400") && answer.body.contains("path_leaves_base"), "\(path)")
        }
        client.send("GET /v1/a/../b...c/..x HTTP/1.1\r\nhost: a\r\n\(portkey)\r\n")
        #expect(try #require(client.answer()).head.hasPrefix("HTTP/1.1 200"))
        #expect(hop.requests.map(\.path) == ["/v1/a/../b...c/..x"])
        _ = try hop.finish()
    }

    @Test func whatIsNormalizedReachesTheProviderNormalized() throws {
        let hop = try Hop()
        let client = try RawClient(port: hop.proxy.port)
        client.send(
            "\r\nPOST http://elsewhere.example:81/v1/x?a=b HTTP/1.1\r\nHost: elsewhere.example\r\n\(portkey)"
                + "Connection: keep-alive, X-Mine\r\nX-Mine: 1\r\nTE: trailers\r\nKeep-Alive: 5\r\nX-Kept: \u{e9} \r\n"
                + "Transfer-Encoding: Chunked\r\nTrailer: x-sum\r\n\r\n"
                + "3;name=\"a;\\\"b\" ; other\r\nabc\r\n0000\r\nx-sum: 1\r\n\r\n")
        #expect(try #require(client.answer()).head.hasPrefix("HTTP/1.1 200"))
        let seen = try #require(hop.requests.first)
        #expect(seen.path == "/v1/x" && seen.query == "a=b")
        #expect(String(decoding: seen.body, as: UTF8.self) == "abc")
        #expect(seen.header("host")?.hasPrefix("127.0.0.1:") == true)
        #expect(seen.header("x-kept") == "\u{e9}")
        for gone in ["x-mine", "te", "keep-alive", "trailer", "x-sum", "x-portkey-provider"] {
            #expect(seen.header(gone) == nil, "\(gone)")
        }
        _ = try hop.finish()
    }

    @Test func anExpectationIsAnsweredHereAndNotForwarded() throws {
        let hop = try Hop()
        let client = try RawClient(port: hop.proxy.port)
        client.send(post("expect: 100-continue\r\ncontent-length: 2\r\n\r\n"))
        #expect(client.waitFor("HTTP/1.1 100 Continue\r\n\r\n"))
        client.send("{}")
        #expect(client.waitFor("HTTP/1.1 200 OK"))
        #expect(hop.requests.first?.header("expect") == nil)
        _ = try hop.finish()
    }

    @Test func aRefusalIsToldBeforeTheBodyIsAskedFor() throws {
        let hop = try Hop()
        for (headers, status) in [("x-portkey-mode: proxy nobody\r\n", 400), ("", 400)] {
            let client = try RawClient(port: hop.proxy.port)
            client.send(
                "POST /v1/x HTTP/1.1\r\nhost: a\r\n\(headers)expect: 100-continue\r\ncontent-length: 1000000\r\n\r\n")
            let text = client.rest()
            #expect(text.hasPrefix("HTTP/1.1 \(status) ") && text.lowercased().contains("connection: close"))
        }
        #expect(hop.requests.isEmpty)
        #expect(try hop.finish().isEmpty)
    }

    /// Whoever is answered in mid-request is told that the connection closes: the next request would be lost with it.
    @Test func anAnswerBeforeTheRequestsEndSaysThatTheConnectionCloses() throws {
        let provider = try RawProvider { peer in
            // The head alone is read: the body is on its way.
            _ = peer.head()
            peer.send("HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\n{}")
            peer.awaitEnd()
        }
        let hop = try Hop(upstreamPort: provider.port)
        let client = try RawClient(port: hop.proxy.port)
        client.send(post("content-length: 10\r\n\r\n{}"))
        #expect(client.waitFor("{}"))
        client.send("12345678" + post("content-length: 2\r\n\r\n{}"))
        let text = client.rest()
        #expect(text.hasPrefix("HTTP/1.1 401 ") && text.lowercased().contains("\r\nconnection: close\r\n"))
        #expect(text.hasSuffix("{}") && !text.contains("200"))
        let events = try hop.finish()
        provider.stop()
        #expect(events.map(\.status) == [401])
    }

    @Test func anOwnAnswerBeforeTheRequestsEndSaysThatTheConnectionCloses() throws {
        let hop = try Hop()
        hop.stopProvider()
        let client = try RawClient(port: hop.proxy.port)
        client.send(post("content-length: 10\r\n\r\n{}"))
        let text = client.rest()
        #expect(text.hasPrefix("HTTP/1.1 502 ") && text.lowercased().contains("\r\nconnection: close\r\n"))
        #expect(try hop.finish().map(\.status) == [502])
    }

    @Test(arguments: ["1.0", "1.1"]) func otherExpectationsAndThoseOfOldClientsAreDropped(_ version: String) throws {
        let hop = try Hop()
        let client = try RawClient(port: hop.proxy.port)
        let expectation = version == "1.0" ? "100-continue" : "200-ok"
        client.send(
            post("expect: \(expectation)\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}", version: version))
        #expect(client.rest().hasPrefix("HTTP/1.1 200 OK\r\n"))
        #expect(hop.requests.count == 1 && hop.requests.first?.header("expect") == nil)
        _ = try hop.finish()
    }

    @Test(arguments: [
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n3;x=y\r\ncde\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nabcde", "HTTP/1.0 200 OK\r\n\r\nabcde",
    ])
    func anOldClientHasAnAnswerWithoutLengthAsItIsToTheConnectionsEnd(_ upstream: String) throws {
        let provider = try RawProvider { peer in
            _ = peer.request()
            peer.send(upstream)
        }
        let hop = try Hop(upstreamPort: provider.port)
        let client = try RawClient(port: hop.proxy.port)
        client.send("GET /v1/x HTTP/1.0\r\n\(portkey)\r\n")
        let answer = client.rest()
        #expect(answer.hasPrefix("HTTP/1.1 200 OK\r\n") && answer.hasSuffix("\r\n\r\nabcde"), "\(answer)")
        #expect(!answer.lowercased().contains("transfer-encoding"))
        #expect(answer.lowercased().contains("connection: close"))
        let events = try hop.finish()
        #expect(events.map(\.outcome) == [.success] && events.first?.responseBytes == 5)
        provider.stop()
    }

    /// A provider that sends these interim answers, waits, and then answers.
    private static let interim =
        "HTTP/1.1 100 Continue\r\nx-hundred: 1\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
        + "HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\ncontent-length: 7\r\nconnection: x-mine\r\n"
        + "x-mine: 1\r\nkeep-alive: 5\r\n\r\n"

    @Test func interimAnswersGoOnAsTheyComeAndTheFinalOneFollows() throws {
        let gate = StopSignal()
        let provider = try RawProvider { peer in
            while peer.request() != nil {
                peer.send(Self.interim)
                _ = gate.wait(milliseconds: 20_000)
                peer.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            }
        }
        let hop = try Hop(upstreamPort: provider.port)
        let client = try RawClient(port: hop.proxy.port)
        // The second finds the gate open: all of it may come in one read.
        for _ in 0..<2 {
            client.send(post("content-length: 2\r\n\r\n{}"))
            #expect(client.head() == "HTTP/1.1 102 Processing")
            #expect(client.head() == "HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload")
            gate.stop()
            let answer = try #require(client.answer())
            #expect(answer.head.hasPrefix("HTTP/1.1 200 OK\r\n") && answer.body == "ok")
        }
        #expect(provider.connections == 1)
        let events = try hop.finish()
        #expect(events.map(\.status) == [200, 200] && events.map(\.outcome) == [.success, .success])
        provider.stop()
    }

    @Test func anOldClientGetsNoInterimAnswer() throws {
        let provider = try RawProvider { peer in
            _ = peer.request()
            peer.send(Self.interim + "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        }
        let hop = try Hop(upstreamPort: provider.port)
        let client = try RawClient(port: hop.proxy.port)
        client.send("GET /v1/x HTTP/1.0\r\n\(portkey)\r\n")
        let answer = client.rest()
        #expect(answer.hasPrefix("HTTP/1.1 200 OK\r\n") && answer.hasSuffix("\r\n\r\nok"))
        #expect(!answer.contains("link:"))
        _ = try hop.finish()
        provider.stop()
    }

    @Test func aProviderThatBreaksOffBehindAnInterimAnswerIs502() throws {
        let provider = try RawProvider { peer in
            _ = peer.request()
            peer.send(Self.interim)
        }
        let hop = try Hop(upstreamPort: provider.port)
        let client = try RawClient(port: hop.proxy.port)
        client.send(post("content-length: 2\r\n\r\n{}"))
        #expect(client.head()?.hasPrefix("HTTP/1.1 102") == true && client.head()?.hasPrefix("HTTP/1.1 103") == true)
        #expect(try #require(client.answer()).head.hasPrefix("HTTP/1.1 502"))
        #expect(try hop.finish().map(\.errorType) == ["upstream_broke_off"])
        provider.stop()
    }

    @Test func aClientThatClosesOrIsOldIsAnsweredAndClosed() throws {
        let hop = try Hop()
        for text in [post("connection: close\r\n\r\n"), "GET /v1/x HTTP/1.0\r\n\(portkey)\r\n"] {
            let client = try RawClient(port: hop.proxy.port)
            client.send(text)
            let answer = client.rest()
            #expect(answer.hasPrefix("HTTP/1.1 200") && answer.lowercased().contains("connection: close"))
            #expect(answer.contains("\"gpt-4o\""))
        }
        #expect(try hop.finish().count == 2)
    }

    static let answers: [(method: String, upstream: String, body: String?, isKept: Bool)] = [
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n", "", true),
        ("HEAD", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "", true),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", "", true),
        ("GET", "HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n", "", true),
        ("GET", "HTTP/1.1 304 Not Modified\r\ncontent-length: 500\r\n\r\n", "", true),
        ("GET", "HTTP/1.1 304 Not Modified\r\ntransfer-encoding: chunked\r\n\r\n", "", true),
        (
            "GET",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", "ok", true
        ),
        (
            "GET", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0\r\nx-sum: 1\r\n\r\n",
            "2\r\nok\r\n0\r\n\r\n", true
        ),
        ("GET", "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok", "ok", false),
        ("GET", "HTTP/1.1 200 OK\r\n\r\nok", "2\r\nok\r\n0\r\n\r\n", false),
        ("GET", "HTTP/1.0 200 OK\r\n\r\nok", "2\r\nok\r\n0\r\n\r\n", false),
        ("GET", "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", "ok", false),
        ("GET", "HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok", "ok", true),
        ("GET", "HTTP/1.1 200 OK\r\nupgrade: h2c\r\nconnection: upgrade\r\ncontent-length: 2\r\n\r\nok", "ok", true),
        // Refused: nil.
        ("GET", "HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n", nil, false),
        ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok", nil, false),
        ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", nil, false),
        ("GET", "HTTP/1.1 200 OK\r\nconnection: content-length\r\ncontent-length: 2\r\n\r\nok", nil, false),
        ("GET", "HTTP/1.1 200 OK\ncontent-length: 2\n\nok", nil, false),
        ("GET", "HTTP/1.1 20 OK\r\n\r\n", nil, false),
        ("GET", "HTTP/2 200 OK\r\n\r\n", nil, false),
        ("GET", "HTTP/1.1 200 OK\r\na: b\u{1}\r\n\r\n", nil, false),
        ("GET", "nonsense\r\n\r\n", nil, false),
        ("GET", "", nil, false),
    ]

    @Test func answersOfEveryShapePassOrFailWith502() throws {
        let provider = try RawProvider { peer in
            while let request = peer.request() {
                guard let number = request.split(separator: " ")[1].split(separator: "/").last.flatMap({ Int($0) })
                else { return }
                peer.send(Self.answers[number].upstream)
                if !Self.answers[number].isKept { return }
            }
        }
        let hop = try Hop(upstreamPort: provider.port)
        let client = try RawClient(port: hop.proxy.port)
        for (index, answer) in Self.answers.enumerated() {
            client.send("\(answer.method) /v1/\(index) HTTP/1.1\r\nhost: a\r\n\(portkey)\r\n")
            // The client's connection is kept through all of them: the next answer must be the next request's.
            let head = try #require(client.head(), "\(index)")
            guard let body = answer.body else {
                #expect(head.hasPrefix("HTTP/1.1 502 "), "\(index): \(head)")
                let code = answer.upstream.isEmpty ? "upstream_broke_off" : "upstream_bad_answer"
                let expected = head.lowercased().components("content-length: ").last.flatMap { Int($0) } ?? 0
                #expect(client.bytes(expected)?.contains(code) == true, "\(index)")
                continue
            }
            #expect(!head.hasPrefix("HTTP/1.1 502"), "\(index): \(head)")
            if head.hasPrefix("HTTP/1.1 204") { #expect(!head.lowercased().contains("content-length")) }
            #expect(client.bytes(body.utf8.count) == body, "\(index)")
            #expect(!head.lowercased().contains("upgrade"), "\(index)")
        }
        let events = try hop.finish()
        provider.stop()
        #expect(events.count == Self.answers.count)
        for (event, answer) in zip(events, Self.answers) where answer.body == nil {
            #expect(event.outcome == .providerError && event.status == 502 && !event.errorType.isEmpty)
        }
    }
}

extension String {
    /// The parts between occurrences of `separator`, each up to its line's end.
    fileprivate func components(_ separator: String) -> [String] {
        var out: [String] = []
        var rest = self[...]
        while let range = rest.firstRange(of: separator) {
            rest = rest[range.upperBound...]
            out.append(String(rest.prefix { $0 != "\r\n" && $0 != "\r" && $0 != "\n" }))
        }
        return out
    }
}
