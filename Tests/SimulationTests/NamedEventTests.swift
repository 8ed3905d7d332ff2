// The stub provider's answers whose streams are of named events: whole and streamed they say the same.

import HTTPTransport
import JSONText
import Simulation
import Testing

@Suite struct NamedEventTests {
    private func answer(_ path: String, _ members: [JSONMember], streamed: Bool) -> HTTPResponse {
        let body = JSONValue.object(members + [.init(key: "stream", value: .boolean(streamed))])
        return MockProvider().respond(
            HTTPRequest(method: "POST", path: path, query: "", headers: [], body: body.bytes))
    }

    private func events(_ response: HTTPResponse) throws -> [JSONValue] {
        let text = String(decoding: (response.parts ?? []).flatMap { $0.bytes }, as: UTF8.self)
        return try text.split(separator: "\n\n").map { event in
            let lines = event.split(separator: "\n")
            let data = try JSONValue.parse(String(try #require(lines.last).dropFirst("data: ".count)))
            #expect(lines.first.map { "\($0)" } == "event: \(data["type"]?.string ?? "")")
            return data
        }
    }

    @Test func aResponseSaysTheSameWholeAndStreamed() throws {
        let members: [JSONMember] = [
            .init(key: "model", value: "gpt-4o-mini"), .init(key: "instructions", value: "You are brief."),
            .init(
                key: "input", value: [["role": "user", "content": [["type": "input_text", "text": "What is it?"]]]]),
        ]
        let whole = try JSONValue.parse(answer("/v1/responses", members, streamed: false).body)
        #expect(whole["usage"]?["input_tokens"] == 6)
        #expect(whole["usage"]?["output_tokens"] == 11)
        #expect(whole["usage"]?["total_tokens"] == 17)
        let streamed = try events(answer("/v1/responses", members, streamed: true))
        #expect(streamed.first?["type"] == "response.created")
        #expect(streamed.enumerated().allSatisfy { $1["sequence_number"] == JSONValue($0) })
        let last = try #require(streamed.last)
        #expect(last["type"] == "response.completed")
        #expect(last["response"]?["usage"] == whole["usage"])
        let text = streamed.compactMap { $0["delta"]?.string }.joined()
        #expect(!text.isEmpty)
        #expect(text == whole["output"]?[0]?["content"]?[0]?["text"]?.string)
        #expect(text == last["response"]?["output"]?[0]?["content"]?[0]?["text"]?.string)
    }

    @Test(arguments: [(3, 100, "end_turn"), (100, 4, "max_tokens")])
    func aMessageSaysTheSameWholeAndStreamed(words: Int, limit: Int, reason: String) throws {
        let members: [JSONMember] = [
            .init(key: "model", value: "claude-3-5-haiku-20241022"), .init(key: "max_tokens", value: JSONValue(limit)),
            .init(
                key: "messages",
                value: [
                    ["role": "user", "content": .string(Array(repeating: "word", count: words).joined(separator: " "))]
                ]),
        ]
        let whole = try JSONValue.parse(answer("/v1/messages", members, streamed: false).body)
        let usage = try #require(whole["usage"])
        // What comes from the cache stands beside the input, not in it.
        let cached = try #require(usage["cache_read_input_tokens"]?.integer)
        #expect(cached == (words >= 64 ? Int64(words / 2) : 0))
        #expect(try #require(usage["input_tokens"]?.integer) + cached == Int64(words))
        #expect(whole["stop_reason"]?.string == reason)
        let streamed = try events(answer("/v1/messages", members, streamed: true))
        #expect(streamed.first?["message"]?["usage"]?["input_tokens"] == usage["input_tokens"])
        let delta = try #require(streamed.first { $0["type"] == "message_delta" })
        #expect(delta["delta"]?["stop_reason"]?.string == reason)
        #expect(delta["usage"]?["output_tokens"] == usage["output_tokens"])
        #expect(streamed.last?["type"] == "message_stop")
        let text = streamed.compactMap { $0["delta"]?["text"]?.string }.joined()
        #expect(text == whole["content"]?[0]?["text"]?.string)
    }
}
