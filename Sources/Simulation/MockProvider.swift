// An OpenAI-compatible provider that answers from nothing: request -> made-up answer. For the demo, tests, benchmarks.
// It answers Anthropic's messages too.
//
// The same request always gets the same content and usage:
// - input tokens: the words (runs between blanks) of all messages, prompts or inputs;
// - output tokens: 5 plus the input tokens modulo 20, at most `max_tokens` (`max_completion_tokens`,
//   `max_output_tokens`); each is a word;
// - cached tokens: half of the input tokens from 64 on; reasoning tokens: none;
// - model: the dated name where the table below has one, else as asked for.
//
// Errors: model `error-429` (any status from 400 to 599) or the header `x-mock-status: 429`, or by rate. Paths count
// from the right, so that any base path will do. `GET /__requests` shows what arrived, `DELETE` forgets it.

import Events
import Glibc
package import HTTPTransport
import JSONText
import Synchronization

package struct MockProviderOptions: Sendable {
    /// Between request and answer.
    package var latencyMilliseconds = 0
    /// Between the chunks of a stream.
    package var chunkIntervalMilliseconds = 0
    /// The share of requests, 0 to 1, that is answered with 429, 500 or 503.
    package var errorRate = 0.0
    /// Decides which requests those are.
    package var seed: UInt64 = 1

    package init() {}
}

package final class MockProvider: Sendable {
    private struct State {
        var random: SeededGenerator
        /// The last `requestsKept`, oldest first, each already JSON.
        var requests: [JSONValue] = []
        var served: UInt64 = 0
    }

    /// What `GET /__requests` shows at most.
    package static let requestsKept = 1_000

    private let options: MockProviderOptions
    private let state: Mutex<State>

    package init(_ options: MockProviderOptions = MockProviderOptions()) {
        self.options = options
        state = Mutex(State(random: SeededGenerator(seed: options.seed)))
    }

    /// The provider as a server runs it. Never blocks: waits are parts of the answer.
    package var responder: HTTPResponder { { self.respond($0) } }

    package func respond(_ request: HTTPRequest) -> HTTPResponse {
        if request.path == "/__requests" { return showRequests(request) }
        let dice = note(request)
        let path = request.path
        if request.method == "GET" {
            if path.hasSuffix("/models") { return models() }
            if path == "/" || path == "/v1" { return .json(200, "{\"object\":\"millrace mock provider\"}") }
            return failure(404, "No such path: GET \(path).")
        }
        guard request.method == "POST" else { return failure(405, "Only GET and POST are known here.") }
        let body: JSONValue
        do {
            body = try JSONValue.parse(request.body)
        } catch {
            return failure(400, "The body is not JSON: \(error).")
        }
        if let status = wantedStatus(request, body, dice) {
            return delayed(failure(status, "This answer was asked for, or drawn by the error rate."))
        }
        if path.hasSuffix("/chat/completions") { return chat(body) }
        if path.hasSuffix("/completions") { return completions(body) }
        if path.hasSuffix("/embeddings") { return embeddings(body) }
        if path.hasSuffix("/responses") { return responses(body) }
        if path.hasSuffix("/messages") { return messages(body) }
        return failure(404, "No such path: POST \(path).")
    }

    // MARK: Answers

    private func chat(_ body: JSONValue) -> HTTPResponse {
        guard let messages = body["messages"]?.array, let asked = body["model"]?.string else {
            return failure(400, "A chat completion needs `model` and `messages`.")
        }
        let words = messages.reduce(0) { $0 + Self.words(in: $1["content"] ?? nil) }
        let answer = Answer(asked: asked, inputTokens: words, limit: Self.limit(body))
        let id = JSONValue.string(nextID("chatcmpl"))
        if body["stream"]?.boolean == true {
            var deltas: [(JSONValue, JSONValue)] = [(["role": "assistant", "content": ""], nil)]
            deltas += answer.words.map { (["content": .string($0)], nil) }
            deltas.append(([:], .string(answer.finishReason)))
            return stream(
                deltas.map { delta, finish in ["index": 0, "delta": delta, "logprobs": nil, "finish_reason": finish] },
                id: id, object: "chat.completion.chunk", answer, body)
        }
        let choice: JSONValue = [
            "index": 0, "message": ["role": "assistant", "content": .string(answer.words.joined()), "refusal": nil],
            "logprobs": nil, "finish_reason": .string(answer.finishReason),
        ]
        return delayed(whole([choice], id: id, object: "chat.completion", answer))
    }

    /// One choice a prompt: some clients send several at once.
    private func completions(_ body: JSONValue) -> HTTPResponse {
        guard let prompt = body["prompt"], let asked = body["model"]?.string else {
            return failure(400, "A completion needs `model` and `prompt`.")
        }
        let prompts = prompt.array.flatMap { $0.first?.string == nil ? nil : $0 } ?? [prompt]
        let answers = prompts.map {
            Answer(asked: asked, inputTokens: Self.words(in: $0), limit: Self.limit(body))
        }
        let sum = Answer(sumOf: answers, asked: asked)
        let id = JSONValue.string(nextID("cmpl"))
        if body["stream"]?.boolean == true {
            var choices: [JSONValue] = []
            for (index, answer) in answers.enumerated() {
                for (position, word) in answer.words.enumerated() {
                    let isLast = position == answer.words.count - 1
                    choices.append(Self.completionChoice(index, word, isLast ? answer.finishReason : nil))
                }
            }
            return stream(choices, id: id, object: "text_completion", sum, body)
        }
        let choices = answers.enumerated().map { Self.completionChoice($0, $1.words.joined(), $1.finishReason) }
        return delayed(whole(choices, id: id, object: "text_completion", sum))
    }

    private static func completionChoice(_ index: Int, _ text: String, _ finish: String?) -> JSONValue {
        [
            "text": .string(text), "index": JSONValue(index), "logprobs": nil,
            "finish_reason": finish.map { .string($0) } ?? nil,
        ]
    }

    private func embeddings(_ body: JSONValue) -> HTTPResponse {
        guard let input = body["input"], let asked = body["model"]?.string else {
            return failure(400, "Embeddings need `model` and `input`.")
        }
        let inputs = input.array.flatMap { $0.first?.numberText == nil ? $0 : nil } ?? [input]
        let width = Int(min(max(body["dimensions"]?.integer ?? 16, 1), 3_072))
        var data: [JSONValue] = []
        for (index, input) in inputs.enumerated() {
            var random = SeededGenerator(seed: Self.hash(input.bytes))
            let vector = (0..<width).map { _ in Float(random.fraction()) * 2 - 1 }
            let embedding: JSONValue =
                body["encoding_format"]?.string == "base64"
                ? .string(Self.base64(vector)) : .array(vector.map { .number($0.description) })
            data.append(["object": "embedding", "index": JSONValue(index), "embedding": embedding])
        }
        let words = inputs.reduce(0) { $0 + Self.words(in: $1) }
        let usage: JSONValue = ["prompt_tokens": JSONValue(words), "total_tokens": JSONValue(words)]
        let answer: JSONValue = [
            "object": "list", "data": .array(data), "model": .string(Answer.answeredModel(asked)), "usage": usage,
        ]
        return delayed(.json(200, answer.text))
    }

    private func models() -> HTTPResponse {
        let data = Answer.datedModels.map(\.dated).map { name -> JSONValue in
            ["id": .string(name), "object": "model", "created": 1_700_000_000, "owned_by": "millrace"]
        }
        return .json(
            200, JSONValue.object([.init(key: "object", value: "list"), .init(key: "data", value: .array(data))]).text)
    }

    private func whole(_ choices: [JSONValue], id: JSONValue, object: String, _ answer: Answer) -> HTTPResponse {
        let body: JSONValue = [
            "id": id, "object": .string(object), "created": JSONValue(time(nil)), "model": .string(answer.model),
            "choices": .array(choices), "usage": answer.usage,
        ]
        return .json(200, body.text)
    }

    /// Server-sent events, a choice each; then the usage where it was asked for; then the end.
    private func stream(_ choices: [JSONValue], id: JSONValue, object: String, _ answer: Answer, _ body: JSONValue)
        -> HTTPResponse
    {
        let wantsUsage = body["stream_options"]?["include_usage"]?.boolean == true
        let created = JSONValue(time(nil))
        func event(_ choices: [JSONValue], usage: JSONValue) -> [UInt8] {
            var members: [JSONMember] = [
                .init(key: "id", value: id), .init(key: "object", value: .string(object)),
                .init(key: "created", value: created), .init(key: "model", value: .string(answer.model)),
                .init(key: "choices", value: .array(choices)),
            ]
            if wantsUsage { members.append(.init(key: "usage", value: usage)) }
            return Array("data: ".utf8) + JSONValue.object(members).bytes + Array("\n\n".utf8)
        }
        var events = choices.map { event([$0], usage: nil) }
        if wantsUsage { events.append(event([], usage: answer.usage)) }
        events.append(Array("data: [DONE]\n\n".utf8))
        return stream(events)
    }

    /// Server-sent events, already written out, at the pace that the options ask for.
    func stream(_ events: [[UInt8]]) -> HTTPResponse {
        let parts = events.enumerated().map { index, bytes in
            (
                delayMilliseconds: index == 0 ? options.latencyMilliseconds : options.chunkIntervalMilliseconds,
                bytes: bytes
            )
        }
        return HTTPResponse(
            status: 200,
            headers: [("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache")],
            parts: parts)
    }

    func delayed(_ response: HTTPResponse) -> HTTPResponse {
        if options.latencyMilliseconds == 0 { return response }
        var later = response
        later.body = []
        later.parts = [(options.latencyMilliseconds, response.body)]
        return later
    }

    // MARK: Errors

    private func wantedStatus(_ request: HTTPRequest, _ body: JSONValue, _ dice: UInt64) -> Int? {
        if let text = request.header("x-mock-status"), let status = Int(text), 400...599 ~= status { return status }
        if let model = body["model"]?.string, model.hasPrefix("error-"), let status = Int(model.dropFirst(6)),
            400...599 ~= status
        {
            return status
        }
        guard options.errorRate > 0, Double(dice >> 11) * 0x1p-53 < options.errorRate else { return nil }
        return [429, 500, 503][Int(dice % 3)]
    }

    func failure(_ status: Int, _ message: String) -> HTTPResponse {
        let (type, code): (String, JSONValue) =
            switch status {
            case 401: ("invalid_request_error", "invalid_api_key")
            case 429: ("rate_limit_exceeded", "rate_limit_exceeded")
            case 500...: ("server_error", nil)
            default: ("invalid_request_error", nil)
            }
        let body: JSONValue = [
            "error": ["message": .string(message), "type": .string(type), "param": nil, "code": code]
        ]
        var response = HTTPResponse.json(status, body.text)
        if status == 429 { response.headers.append(("retry-after", "1")) }
        return response
    }

    // MARK: What arrived

    /// Keeps the request's outline; answers the dice for the error rate.
    private func note(_ request: HTTPRequest) -> UInt64 {
        let headers = request.headers.map { name, value -> JSONValue in
            // Enough to tell two credentials apart, nothing to use one with.
            let isSecret = name == "authorization" || name == "api-key" || name == "x-api-key"
            let shown = isSecret ? "fnv1a:" + String(Self.hash(Array(value.utf8)), radix: 16) : value
            return ["name": .string(name), "value": .string(shown)]
        }
        let outline: JSONValue = [
            "method": .string(request.method), "path": .string(request.path), "query": .string(request.query),
            "headers": .array(headers), "body_bytes": JSONValue(request.body.count),
        ]
        return state.withLock { state in
            if state.requests.count == Self.requestsKept { state.requests.removeFirst() }
            state.requests.append(outline)
            return state.random.next()
        }
    }

    private func showRequests(_ request: HTTPRequest) -> HTTPResponse {
        if request.method == "DELETE" {
            state.withLock { $0.requests.removeAll() }
            return HTTPResponse(status: 204)
        }
        return .json(200, JSONValue.array(state.withLock { $0.requests }).text)
    }

    func nextID(_ prefix: String) -> String {
        let number = state.withLock { state in
            state.served += 1
            return state.served
        }
        return "\(prefix)-mock-\(number)"
    }

    // MARK: Reading requests

    /// Words of a text, of a list of texts or text parts; a list of token numbers counts each.
    static func words(in value: JSONValue) -> Int {
        switch value {
        case .string(let text): text.utf8.split(whereSeparator: { $0 == 0x20 || 0x09...0x0D ~= $0 }).count
        case .array(let elements): elements.reduce(0) { $0 + words(in: $1) }
        case .number: 1
        case .object: value["text"].map { words(in: $0) } ?? 0
        case .null, .boolean: 0
        }
    }

    static func limit(_ body: JSONValue) -> Int {
        let names = ["max_completion_tokens", "max_tokens", "max_output_tokens"]
        let limit = names.lazy.compactMap { body[$0]?.integer }.first ?? 4_096
        return Int(min(max(limit, 1), 4_096))
    }

    private static func hash(_ bytes: [UInt8]) -> UInt64 {
        var hash = FNV1a()
        hash.combine(bytes)
        return hash.state
    }

    /// Of the numbers as 32-bit floats, little-endian.
    private static func base64(_ vector: [Float]) -> String {
        let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
        let bytes = vector.flatMap { number in (0..<4).map { UInt8(truncatingIfNeeded: number.bitPattern >> ($0 * 8)) }
        }
        var out: [UInt8] = []
        for start in stride(from: 0, to: bytes.count, by: 3) {
            let group = bytes[start..<min(start + 3, bytes.count)]
            let bits = group.reduce(0) { $0 << 8 | UInt32($1) } << UInt32(8 * (3 - group.count))
            for index in 0..<4 {
                out.append(
                    index <= group.count ? alphabet[Int(bits >> UInt32(18 - 6 * index) & 63)] : UInt8(ascii: "="))
            }
        }
        return String(decoding: out, as: UTF8.self)
    }
}

/// What the provider says to one prompt.
struct Answer {
    static let datedModels: [(name: String, dated: String)] = [
        ("gpt-4o", "gpt-4o-2024-08-06"), ("gpt-4o-mini", "gpt-4o-mini-2024-07-18"), ("gpt-4.1", "gpt-4.1-2025-04-14"),
        ("gpt-4.1-mini", "gpt-4.1-mini-2025-04-14"), ("gpt-3.5-turbo", "gpt-3.5-turbo-0125"),
    ]

    private static let vocabulary = [
        "A", " millrace", " carries", " the", " water", " to", " the", " wheel", " and", " every", " drop", " is",
        " counted", " once.",
    ]

    static func answeredModel(_ asked: String) -> String {
        datedModels.first { $0.name == asked }?.dated ?? asked
    }

    let model: String
    let inputTokens: Int
    let outputTokens: Int
    let cachedTokens: Int
    let finishReason: String

    init(asked: String, inputTokens: Int, limit: Int) {
        model = Self.answeredModel(asked)
        self.inputTokens = inputTokens
        outputTokens = min(5 + inputTokens % 20, limit)
        cachedTokens = inputTokens >= 64 ? inputTokens / 2 : 0
        finishReason = outputTokens == limit ? "length" : "stop"
    }

    init(sumOf answers: [Answer], asked: String) {
        model = Self.answeredModel(asked)
        inputTokens = answers.reduce(0) { $0 + $1.inputTokens }
        outputTokens = answers.reduce(0) { $0 + $1.outputTokens }
        cachedTokens = answers.reduce(0) { $0 + $1.cachedTokens }
        finishReason = "stop"
    }

    /// Joined, they are the text.
    var words: [String] { (0..<outputTokens).map { Self.vocabulary[$0 % Self.vocabulary.count] } }

    var usage: JSONValue {
        [
            "prompt_tokens": JSONValue(inputTokens), "completion_tokens": JSONValue(outputTokens),
            "total_tokens": JSONValue(inputTokens + outputTokens),
            "prompt_tokens_details": ["cached_tokens": JSONValue(cachedTokens)],
            "completion_tokens_details": ["reasoning_tokens": 0],
        ]
    }
}
