// The stub provider by itself: shapes, usage, streams, errors, and what it tells about the requests it saw.

import HTTPTransport
import JSONText
import Simulation
import Testing

private func post(
    _ path: String, _ body: JSONValue, headers: [(name: String, value: String)] = []
) -> HTTPRequest {
    HTTPRequest(method: "POST", path: path, query: "", headers: headers, body: body.bytes)
}

private func get(_ path: String) -> HTTPRequest {
    HTTPRequest(method: "GET", path: path, query: "", headers: [], body: [])
}

private let question: JSONValue = [
    "model": "gpt-4o-mini",
    "messages": [
        ["role": "system", "content": "You are brief."],
        ["role": "user", "content": [["type": "text", "text": "What  is a\tmillrace?"]]],
    ],
]

@Suite struct MockProviderTests {
    @Test(
        "A chat completion has the words of the messages as its input tokens",
        arguments: ["/v1/chat/completions", "/chat/completions", "/some/base/chat/completions"])
    func answersChat(path: String) throws {
        let response = MockProvider().respond(post(path, question))
        let body = try JSONValue.parse(response.body)
        #expect(response.status == 200)
        #expect(body["model"] == "gpt-4o-mini-2024-07-18")
        #expect(body["usage"]?["prompt_tokens"] == 7)
        #expect(body["usage"]?["completion_tokens"] == 12)
        #expect(body["usage"]?["total_tokens"] == 19)
        let choice = body["choices"]?[0]
        #expect(choice?["finish_reason"] == "stop")
        #expect(choice?["message"]?["content"]?.string?.split(separator: " ").count == 12)
    }

    @Test(
        "A stream says the same in chunks, usage only where asked for, and ends with [DONE]", arguments: [true, false])
    func streams(wantsUsage: Bool) throws {
        var options = MockProviderOptions()
        options.latencyMilliseconds = 30
        options.chunkIntervalMilliseconds = 4
        guard case .object(var members) = question else { return }
        members.append(.init(key: "stream", value: true))
        if wantsUsage { members.append(.init(key: "stream_options", value: ["include_usage": true])) }
        let response = MockProvider(options).respond(post("/v1/chat/completions", .object(members)))
        let parts = try #require(response.parts)
        #expect(response.headers.contains { $0 == ("content-type", "text/event-stream; charset=utf-8") })
        #expect(parts.map(\.delayMilliseconds) == [30] + Array(repeating: 4, count: parts.count - 1))
        let events = parts.map { String(decoding: $0.bytes, as: UTF8.self) }
        #expect(events.allSatisfy { $0.hasPrefix("data: ") && $0.hasSuffix("\n\n") })
        #expect(events.last == "data: [DONE]\n\n")
        let chunks = try events.dropLast().map { try JSONValue.parse(String($0.dropFirst(6).dropLast(2))) }
        let text = chunks.compactMap { $0["choices"]?[0]?["delta"]?["content"]?.string }.joined()
        #expect(text.split(separator: " ").count == 12)
        let usages = chunks.compactMap { $0["usage"] }.filter { !$0.isNull }
        #expect(usages.count == (wantsUsage ? 1 : 0))
        #expect(usages.allSatisfy { $0["prompt_tokens"] == 7 && $0["completion_tokens"] == 12 })
    }

    @Test("Several prompts get a choice each; max_tokens cuts")
    func completes() throws {
        let response = MockProvider().respond(
            post("/v1/completions", ["model": "davinci", "prompt": ["one two", "three"], "max_tokens": 3]))
        let body = try JSONValue.parse(response.body)
        #expect(body["choices"]?.array?.count == 2)
        #expect(body["choices"]?[1]?["finish_reason"] == "length")
        #expect(body["usage"]?["prompt_tokens"] == 3)
        #expect(body["usage"]?["completion_tokens"] == 6)
        #expect(body["model"] == "davinci")
    }

    @Test("Embeddings come as numbers or as base64 of 32-bit floats")
    func embeds() throws {
        let provider = MockProvider()
        let plain = try JSONValue.parse(
            provider.respond(post("/v1/embeddings", ["model": "e", "input": ["a b", "c"], "dimensions": 5])).body)
        #expect(plain["data"]?.array?.count == 2)
        #expect(plain["data"]?[0]?["embedding"]?.array?.count == 5)
        #expect(plain["usage"]?["prompt_tokens"] == 3)
        let packed = try JSONValue.parse(
            provider.respond(
                post("/v1/embeddings", ["model": "e", "input": "a", "dimensions": 5, "encoding_format": "base64"])
            ).body)
        let text = try #require(packed["data"]?[0]?["embedding"]?.string)
        #expect(text.count == 28 && text.hasSuffix("=") && !text.hasSuffix("=="))
    }

    @Test(
        "Errors come in OpenAI's shape, by model, by header, by mistake",
        arguments: [
            (post("/v1/chat/completions", ["model": "error-429", "messages": []]), 429, "rate_limit_exceeded"),
            (post("/v1/chat/completions", question, headers: [("x-mock-status", "503")]), 503, "server_error"),
            (post("/v1/chat/completions", ["model": "gpt-4o"]), 400, "invalid_request_error"),
            (post("/v1/nowhere", question), 404, "invalid_request_error"),
            (get("/v1/nowhere"), 404, "invalid_request_error"),
        ])
    func fails(request: HTTPRequest, status: Int, type: String) throws {
        let response = MockProvider().respond(request)
        #expect(response.status == status)
        #expect(try JSONValue.parse(response.body)["error"]?["type"]?.string == type)
    }

    @Test("The error rate is kept, and the seed decides which requests fail")
    func failsAtARate() {
        var options = MockProviderOptions()
        options.errorRate = 0.25
        options.seed = 4
        func statuses() -> [Int] {
            let provider = MockProvider(options)
            return (0..<2_000).map { _ in provider.respond(post("/v1/chat/completions", question)).status }
        }
        let first = statuses()
        #expect(first == statuses())
        #expect((400...600).contains(first.count { $0 != 200 }))
        #expect(Set(first) == [200, 429, 500, 503])
    }

    @Test("It shows the last thousand requests with their headers, credentials only as a hash")
    func showsRequests() throws {
        let provider = MockProvider()
        for index in 0..<1_005 {
            _ = provider.respond(
                post(
                    "/v1/chat/completions", question,
                    headers: [("authorization", "Bearer sk-secret"), ("n", "\(index)")]))
        }
        let response = provider.respond(get("/__requests"))
        let text = String(decoding: response.body, as: UTF8.self)
        let requests = try #require(try JSONValue.parse(response.body).array)
        #expect(requests.count == MockProvider.requestsKept)
        #expect(requests.last?["headers"]?[1] == ["name": "n", "value": "1004"])
        #expect(!text.contains("secret"))
        #expect(requests.last?["headers"]?[0]?["value"]?.string?.hasPrefix("fnv1a:") == true)
        _ = provider.respond(HTTPRequest(method: "DELETE", path: "/__requests", query: "", headers: [], body: []))
        #expect(provider.respond(get("/__requests")).body == Array("[]".utf8))
    }

    @Test("The demo's requests are ones that the provider answers, always the same")
    func answersTheDemo() throws {
        let provider = MockProvider()
        var (first, second) = (DemoTraffic(seed: 2), DemoTraffic(seed: 2))
        var statuses = Set<Int>()
        for _ in 0..<300 {
            let request = first.next()
            let again = second.next()
            #expect(request.body == again.body)
            let metadata = try #require(request.headers.first { $0.name == "x-portkey-meta" }?.value)
            #expect(metadata == again.headers.first { $0.name == "x-portkey-meta" }?.value)
            #expect(try JSONValue.parse(metadata)["foo"] != nil)
            statuses.insert(
                provider.respond(
                    HTTPRequest(
                        method: "POST", path: request.path, query: "", headers: request.headers, body: request.body)
                ).status)
        }
        #expect(statuses == [200, 429, 500])
    }
}
