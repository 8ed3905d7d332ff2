// Who is let through the proxy, and whose event it becomes.

import Access
import CaptureProxy
import Events
import HTTPTransport
import Telemetry
import Testing

private struct MadeKey {
    var key: AccessKey
    var text: String

    init(_ workspace: String, _ scopes: AccessScopes) {
        var random = SystemRandomNumberGenerator()
        (key, text) = AccessKey.make(
            workspace: workspace, scopes: scopes, name: "", now: EventTime(microseconds: 1), using: &random)
    }
}

private func request(_ key: String?) -> String {
    let line = key.map { "x-portkey-api-key: \($0)\r\n" } ?? ""
    let body = "{\"model\":\"gpt-4o\"}"
    return "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx-portkey-mode: proxy openai\r\n\(line)"
        + "content-type: application/json\r\ncontent-length: \(body.utf8.count)\r\n\r\n\(body)"
}

@Suite(.timeLimit(.minutes(2))) struct ProxyAccessTests {
    @Test func onlyAKeyOfScopeIngestPassesAndLeavesAnEventOfItsWorkspace() throws {
        let sender = MadeKey("search", [.ingest])
        let asker = MadeKey("search", [.query, .admin])
        var gone = MadeKey("search", [.ingest])
        gone.key.revoked = EventTime(microseconds: 2)
        let directory = KeyDirectory([sender.key, asker.key, gone.key])
        let hop = try Hop(access: .keys(directory))
        let client = try RawClient(port: hop.proxy.port)
        let refused: [(String?, Int, String)] = [
            (nil, 401, "unauthorized"), ("", 401, "unauthorized"), ("mr_guess", 401, "unauthorized"),
            (sender.text + "x", 401, "unauthorized"), (sender.key.id, 401, "unauthorized"),
            (gone.text, 401, "unauthorized"), (asker.text, 403, "forbidden"),
        ]
        for (key, status, code) in refused {
            client.send(request(key))
            let answer = try #require(client.answer())
            #expect(answer.head.hasPrefix("HTTP/1.1 \(status)"), "\(key ?? "none")")
            #expect(answer.body.contains("\"code\":\"\(code)\"") && answer.body.contains("\"hint\""))
            #expect(answer.head.lowercased().contains("www-authenticate") == (status == 401))
            for made in [sender, asker, gone] { #expect(!answer.body.contains(made.text)) }
        }
        #expect(hop.requests.isEmpty)
        #expect(hop.metrics.unauthorized.value == UInt64(refused.count))
        client.send(request(sender.text))
        #expect(try #require(client.answer()).head.hasPrefix("HTTP/1.1 200"))
        #expect(hop.requests.first?.headers.contains { $0.value == sender.text } == false)
        let events = try hop.finish()
        #expect(events.map(\.workspace) == ["search"])
        #expect(events.map(\.apiKey) == [sender.key.id])
    }

    @Test func aChangeOfKeysHoldsFromTheNextRequestOn() throws {
        let first = MadeKey("one", [.ingest])
        let second = MadeKey("two", [.ingest])
        let hop = try Hop(access: .unknown)
        let client = try RawClient(port: hop.proxy.port)
        client.send(request(first.text))
        let early = try #require(client.answer())
        #expect(early.head.hasPrefix("HTTP/1.1 503") && early.body.contains("keys_unavailable"))
        func status(_ text: String) throws -> Int {
            client.send(request(text))
            let head = try #require(client.answer()).head
            return Int(head.split(separator: " ")[1]) ?? 0
        }
        func wait(_ text: String, _ expected: Int) throws {
            let deadline = ContinuousClock.now.advanced(by: .seconds(20))
            var seen = 0
            while seen != expected, ContinuousClock.now < deadline { seen = try status(text) }
            #expect(seen == expected)
        }
        #expect(hop.proxy.update(keys: [first.key]))
        try wait(first.text, 200)
        #expect(try status(second.text) == 401)
        var revoked = first.key
        revoked.revoked = EventTime(microseconds: 5)
        #expect(hop.proxy.update(keys: [revoked, second.key]))
        try wait(first.text, 401)
        #expect(try status(second.text) == 200)
        // The first key may have been let in a few times more before the change came to the loop.
        let workspaces = try hop.finish().map(\.workspace)
        #expect(workspaces.last == "two" && workspaces.first == "one")
        #expect(workspaces.dropLast().allSatisfy { $0 == "one" })
    }
}
