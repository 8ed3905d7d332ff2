import CaptureProxy
import Events
import Foundation
import HTTPTransport
import Testing

private let start =
    "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx-portkey-provider: openai\r\ncontent-type: application/json\r\n"

private func ask(_ headers: String, body: String = "{}") -> String {
    start + headers + "content-length: \(body.utf8.count)\r\n\r\n" + body
}

/// One request through a proxy, and its event.
private func event(_ request: [UInt8], strict: Bool = false) throws -> (
    head: String, event: RequestEvent?, seen: [HTTPRequest]
) {
    let hop = try Hop(strict: strict)
    let client = try RawClient(port: hop.proxy.port)
    client.send(request)
    let head = try #require(client.answer()).head
    let seen = hop.requests
    return (head, try hop.finish().first, seen)
}

private func event(_ request: String, strict: Bool = false) throws -> (
    head: String, event: RequestEvent?, seen: [HTTPRequest]
) {
    try event(Array(request.utf8), strict: strict)
}

/// Headers of other gateways are metadata too.
@Suite(.timeLimit(.minutes(2))) struct OtherGatewayHeaderTests {
    @Test(arguments: [
        (
            "Helicone-Property-Session: s 1\r\nhelicone-property-App: \"web\\x\"\r\n",
            #"{"Session":"s 1","App":"\"web\\x\""}"#, MetadataSources.helicone
        ),
        ("Helicone-User-Id: u1\r\nHelicone-Session-Id: s1\r\n", #"{"_user":"u1","session_id":"s1"}"#, .helicone),
        ("x-litellm-tags: a, team:search ,,b\r\n", #"{"tags":["a","team:search","b"]}"#, .liteLLM),
        ("cf-aig-metadata: {\"team\":\"x\",\"n\":1}\r\n", #"{"team":"x","n":1}"#, .cloudflare),
        ("x-bf-lh-Tenant: \u{e9}\r\nX-BF-LH-a: \t1\r\n", "{\"Tenant\":\"\u{e9}\",\"a\":\"1\"}", .bifrost),
    ]) func isReadAndNotForwarded(_ headers: String, _ raw: String, _ source: MetadataSources) throws {
        let (head, event, seen) = try event(ask(headers))
        #expect(head.hasPrefix("HTTP/1.1 200"))
        let found = try #require(event)
        #expect(String(decoding: found.metadataRaw, as: UTF8.self) == raw)
        #expect(found.metadataStatus == .ok && found.metadataSources == source && found.metadataConflicts == 0)
        let forwarded = try #require(seen.first).headers.map(\.name)
        #expect(!forwarded.contains { $0.hasPrefix("helicone") || $0.hasPrefix("x-bf") || $0.hasPrefix("cf-aig") })
        #expect(!forwarded.contains("x-litellm-tags"))
    }

    @Test func portkeysOwnComeFirstAndEachSourceInItsOrder() throws {
        let (_, event, _) = try event(
            ask(
                "x-bf-lh-k: bifrost\r\nx-litellm-tags: t\r\ncf-aig-metadata: {\"k\":\"cf\",\"tags\":\"cf\",\"c\":1}\r\n"
                    + "helicone-property-k: helicone\r\nHelicone-User-Id: h\r\nx-portkey-meta: {\"k\":\"meta\",\"m\":1}\r\n"
                    + "x-portkey-metadata: {\"k\":\"metadata\"}\r\n",
                body: #"{"metadata":{"k":"body","b":1},"user":"u"}"#))
        let found = try #require(event)
        #expect(
            String(decoding: found.metadataRaw, as: UTF8.self)
                == #"{"k":"metadata","m":1,"b":1,"_user":"u","tags":"cf","c":1}"#)
        #expect(found.metadataSources.rawValue == 255 && found.metadataStatus == .ok)
        // k five times beside the first, _user and tags once each.
        #expect(found.metadataConflicts == 7)
    }

    @Test func whatDoesNotParseIsSaidAndTheRestKept() throws {
        let (_, event, _) = try event(
            Array(start.utf8) + Array("cf-aig-metadata: [1]\r\nx-bf-lh-a: ".utf8) + [0xFF, 0xFE]
                + Array("\r\nhelicone-property-ok: yes\r\ncontent-length: 0\r\n\r\n".utf8))
        let found = try #require(event)
        #expect(found.metadataStatus == .malformed && found.metadataRejected == [0xFF, 0xFE])
        #expect(String(decoding: found.metadataRaw, as: UTF8.self) == #"{"ok":"yes"}"#)
    }

    @Test func allPairsTogetherHaveTheLimitOfOneSource() throws {
        let many = (0..<300).map { "helicone-property-key-\($0): \(String(repeating: "v", count: 40))\r\n" }.joined()
        let found = try #require(try event(ask(many)).event)
        #expect(found.metadataStatus == .tooLarge && found.metadataRaw.count < 12_000)
    }
}

@Suite(.timeLimit(.minutes(2))) struct TraceTests {
    private static let trace = "0af7651916cd43dd8448eb211c80319c", span = "b7ad6b7169203331"

    @Test func aTraceGoesOnInTheEventAndTheAnswer() throws {
        let (head, event, seen) = try event(ask("traceparent: 00-\(Self.trace)-\(Self.span)-01\r\n"))
        let found = try #require(event)
        #expect(found.traceID == Self.trace && found.parentSpanID == Self.span)
        #expect(found.spanID.count == 16 && found.spanID != Self.span)
        #expect(head.contains("x-portkey-trace-id: \(Self.trace)"))
        #expect(seen.first?.header("traceparent") == "00-\(Self.trace)-\(Self.span)-01")
    }

    @Test func portkeysOwnIdsWin() throws {
        let (head, event, _) = try event(
            ask(
                "traceparent: 00-\(Self.trace)-\(Self.span)-01\r\nx-portkey-trace-id: mine\r\n"
                    + "x-portkey-span-id: s\r\nx-portkey-parent-span-id: p\r\n"))
        let found = try #require(event)
        #expect([found.traceID, found.spanID, found.parentSpanID] == ["mine", "s", "p"])
        #expect(head.contains("x-portkey-trace-id: mine"))
    }

    @Test(arguments: [
        "00-\(trace)-\(span)", "ff-\(trace)-\(span)-01", "00-\(trace.uppercased())-\(span)-01",
        "00-00000000000000000000000000000000-\(span)-01", "00-\(trace)-0000000000000000-01",
        "00-\(trace)-\(span)-01-x", "00_\(trace)_\(span)_01", "",
    ]) func whatIsNoTraceParentIsNotContinued(_ value: String) throws {
        let found = try #require(try event(ask("traceparent: \(value)\r\n")).event)
        #expect(found.traceID.count == 32 && found.traceID != Self.trace && found.parentSpanID.isEmpty)
    }

    @Test func aTraceIdTooLongForAnEventIsReplaced() throws {
        let (head, event, _) = try event(
            ask("x-portkey-trace-id: \(String(repeating: "t", count: 10_000))\r\n"))
        #expect(try #require(event).traceID.count == 32 && !head.contains("tttt"))
    }
}

/// Every status, where it comes from, and what strict mode makes of it.
@Suite(.timeLimit(.minutes(2))) struct MetadataStatusTests {
    static let headers: [(name: String, value: [UInt8], status: MetadataStatus, isOk: Bool)] = [
        ("nothing", [], .absent, true), ("blanks", Array("  \t".utf8), .absent, true),
        ("an empty object", Array("{}".utf8), .ok, true), ("blanks around", Array(" { \"a\" : 1 } ".utf8), .ok, true),
        ("raw UTF-8", Array("{\"ville\":\"Orl\u{e9}ans \u{1F600}\"}".utf8), .ok, true),
        ("escapes", Array(#"{"a":"\u00e9\ud83d\ude00"}"#.utf8), .ok, true),
        ("nested", Array(#"{"a":{"b":[1,2,{"c":null}]}}"#.utf8), .ok, true),
        ("a key twice", Array(#"{"a":1,"a":2}"#.utf8), .ok, true),
        ("a huge number", Array(#"{"a":1e400}"#.utf8), .ok, true),
        ("null", Array("null".utf8), .notAnObject, false), ("an array", Array("[1]".utf8), .notAnObject, false),
        ("a string", Array("\"x\"".utf8), .notAnObject, false), ("a number", Array("7".utf8), .notAnObject, false),
        ("true", Array("true".utf8), .notAnObject, false),
        ("Python", Array("{'a':'b'}".utf8), .malformed, false), ("NaN", Array("{\"a\":NaN}".utf8), .malformed, false),
        ("Infinity", Array("{\"a\":Infinity}".utf8), .malformed, false),
        ("text behind", Array("{\"a\":1} x".utf8), .malformed, false),
        ("two objects", Array("{}{}".utf8), .malformed, false), ("cut off", Array("{\"a\":".utf8), .malformed, false),
        ("a trailing comma", Array("{\"a\":1,}".utf8), .malformed, false),
        ("a word", Array("team=x".utf8), .malformed, false),
        ("a lone high surrogate", Array(#"{"a":"\ud83d"}"#.utf8), .malformed, false),
        ("a lone low surrogate", Array(#"{"a":"\ude00"}"#.utf8), .malformed, false),
        ("surrogates turned round", Array(#"{"a":"\ude00\ud83d"}"#.utf8), .malformed, false),
        ("no UTF-8", Array("{\"a\":\"".utf8) + [0xE9] + Array("\"}".utf8), .malformed, false),
        ("an overlong slash", Array("{\"a\":\"".utf8) + [0xC0, 0xAF] + Array("\"}".utf8), .malformed, false),
        ("a surrogate in UTF-8", Array("{\"a\":\"".utf8) + [0xED, 0xA0, 0x80] + Array("\"}".utf8), .malformed, false),
        ("a byte order mark", [0xEF, 0xBB, 0xBF] + Array("{}".utf8), .malformed, false),
        (
            "too deep",
            Array((String(repeating: "{\"a\":", count: 200) + "1" + String(repeating: "}", count: 200)).utf8),
            .tooLarge, false
        ),
        ("too large", Array("{\"a\":\"\(String(repeating: "x", count: 9_000))\"}".utf8), .tooLarge, false),
        ("as large as may be", Array("{\"a\":\"\(String(repeating: "x", count: 8_184))\"}".utf8), .ok, true),
    ]

    private static func request(_ header: String, _ value: [UInt8]) -> [UInt8] {
        Array(start.utf8) + Array("\(header): ".utf8) + value + Array("\r\ncontent-length: 2\r\n\r\n{}".utf8)
    }

    @Test(arguments: ["x-portkey-metadata", "x-portkey-meta", "cf-aig-metadata"])
    func aHeaderSaysWhatItIsAndNeverBreaksTheRequest(_ header: String) throws {
        let hop = try Hop()
        let client = try RawClient(port: hop.proxy.port)
        for row in Self.headers {
            client.send(Self.request(header, row.value))
            #expect(try #require(client.answer()).head.hasPrefix("HTTP/1.1 200"), "\(row.name)")
        }
        let events = try hop.finish()
        #expect(events.count == Self.headers.count)
        for (event, row) in zip(events, Self.headers) {
            #expect(event.metadataStatus == row.status, "\(row.name)")
            if row.isOk {
                #expect(event.metadataRejected.isEmpty, "\(row.name)")
            } else {
                #expect(event.metadataRaw.isEmpty, "\(row.name)")
                #expect(
                    event.metadataRejected == Array(row.value.prefix(EventLimits.rejectedMetadataSize)), "\(row.name)")
            }
        }
        let text = try #require(events.first { $0.metadataRaw.contains(0xC3) })
        #expect(String(decoding: text.metadataRaw, as: UTF8.self) == "{\"ville\":\"Orl\u{e9}ans \u{1F600}\"}")
    }

    @Test func inStrictModeOnlyWhatParsesPassesAndNothingElseIsRecorded() throws {
        let hop = try Hop(strict: true)
        let client = try RawClient(port: hop.proxy.port)
        for row in Self.headers {
            client.send(Self.request("x-portkey-metadata", row.value))
            let answer = try #require(client.answer())
            #expect(answer.head.hasPrefix(row.isOk ? "HTTP/1.1 200" : "HTTP/1.1 400"), "\(row.name)")
            if !row.isOk { #expect(answer.body.contains("\"code\":\"metadata_\(row.status.name)\""), "\(row.name)") }
        }
        #expect(try hop.finish().count == Self.headers.count { $0.isOk })
        #expect(hop.requests.count == Self.headers.count { $0.isOk })
    }

    @Test(arguments: [
        (#"{"metadata":{"a":1}}"#, MetadataStatus.ok, #"{"a":1}"#), (#"{"metadata":null}"#, .absent, ""),
        (#"{"metadata":"x"}"#, .notAnObject, ""), (#"{"metadata":[1]}"#, .notAnObject, ""),
        (#"{"user":"u"}"#, .ok, #"{"_user":"u"}"#), (#"{"user":7}"#, .ok, #"{"_user":7}"#),
        (#"{"user":null}"#, .absent, ""), (#"{"user":{"id":1}}"#, .absent, ""), ("{}", .absent, ""),
        (#"{"metadata":{"_user":"m"},"user":"u"}"#, .ok, #"{"_user":"m"}"#),
        (#"{"metadata":{"a":1"#, .absent, ""), ("not json", .absent, ""),
        (#"{"metadata":{"a":"\ud800"}}"#, .malformed, ""),
        (#"{"metadata":{"a":"\#(String(repeating: "x", count: 9_000))"}}"#, .tooLarge, ""),
    ]) func theBodyHasSourcesToo(_ body: String, _ status: MetadataStatus, _ raw: String) throws {
        let found = try #require(try event(ask("", body: body)).event)
        #expect(found.metadataStatus == status)
        #expect(String(decoding: found.metadataRaw, as: UTF8.self) == raw)
    }

    @Test func ofSeveralSourcesTheWorstStatusStandsAndWhatParsesIsMerged() throws {
        let (_, event, _) = try event(
            ask(
                "x-portkey-metadata: [1]\r\nx-portkey-meta: {\"a\":1}\r\nx-portkey-meta: {\"a\":2,\"b\":3}\r\n"
                    + "x-portkey-metadata: {'x'}\r\n", body: #"{"metadata":{"b":4,"c":5},"user":"u"}"#))
        let found = try #require(event)
        #expect(found.metadataStatus == .malformed)
        #expect(String(decoding: found.metadataRejected, as: UTF8.self) == "{'x'}")
        #expect(String(decoding: found.metadataRaw, as: UTF8.self) == #"{"a":1,"b":3,"c":5,"_user":"u"}"#)
        #expect(found.metadataConflicts == 2)
        #expect(found.metadataSources == [.metadataHeader, .metaHeader, .bodyMetadata, .bodyUser])
    }

    /// The parser is ours on the hot path: what it takes is what another JSON parser takes.
    @Test func itAgreesWithAFullParseOnEveryPrefixAndEveryChangedByte() {
        let text = Array(#"{"a":[1,-2.5e+3,true,null],"b":{"c":"\u00e9\\\"x"},"d":"\#u{e9}"}"#.utf8)
        func status(_ bytes: [UInt8]) -> MetadataStatus {
            var reader = MetadataReader(maxSize: 8_192)
            bytes.withUnsafeBytes { reader.add(.metadataHeader, $0) }
            return reader.finish().status
        }
        func parses(_ bytes: [UInt8]) -> Bool {
            (try? JSONSerialization.jsonObject(with: Data(bytes))) is [String: Any]
        }
        for count in 1...text.count {
            let prefix = Array(text[..<count])
            #expect((status(prefix) == .ok) == parses(prefix), "\(count)")
        }
        for index in text.indices {
            for byte: UInt8 in [0, 0x20, 0x22, 0x2C, 0x30, 0x5B, 0x5C, 0x5D, 0x7B, 0x7D, 0x80, 0xC3, 0xFF] {
                var changed = text
                changed[index] = byte
                #expect((status(changed) == .ok) == parses(changed), "\(index) \(byte)")
            }
        }
    }
}
