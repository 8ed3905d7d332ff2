// Answers whose streams are of named events: OpenAI's responses and Anthropic's messages. Request -> made-up answer, with
// content and usage by the same rule as the other answers.

import Glibc
import HTTPTransport
import JSONText

extension MockProvider {
    // MARK: OpenAI's responses

    func responses(_ body: JSONValue) -> HTTPResponse {
        guard let input = body["input"], let asked = body["model"]?.string else {
            return failure(400, "A response needs `model` and `input`.")
        }
        let words = Self.words(in: Self.texts(of: input)) + Self.words(in: body["instructions"] ?? nil)
        let answer = Answer(asked: asked, inputTokens: words, limit: Self.limit(body))
        let (id, item) = (JSONValue.string(nextID("resp")), JSONValue.string(nextID("msg")))
        let part: JSONValue = ["type": "output_text", "text": .string(answer.words.joined()), "annotations": []]
        let message: JSONValue = [
            "id": item, "type": "message", "status": "completed", "role": "assistant", "content": [part],
        ]
        let created = JSONValue(time(nil))
        func response(_ status: JSONValue, _ output: [JSONValue], _ usage: JSONValue) -> JSONValue {
            [
                "id": id, "object": "response", "created_at": created, "status": status,
                "model": .string(answer.model), "output": .array(output), "parallel_tool_calls": true,
                "tool_choice": "auto", "tools": [], "usage": usage,
            ]
        }
        let usage: JSONValue = [
            "input_tokens": JSONValue(answer.inputTokens),
            "input_tokens_details": ["cached_tokens": JSONValue(answer.cachedTokens)],
            "output_tokens": JSONValue(answer.outputTokens), "output_tokens_details": ["reasoning_tokens": 0],
            "total_tokens": JSONValue(answer.inputTokens + answer.outputTokens),
        ]
        let whole = response("completed", [message], usage)
        if body["stream"]?.boolean != true { return delayed(.json(200, whole.text)) }

        let place: [JSONMember] = [
            .init(key: "item_id", value: item), .init(key: "output_index", value: 0),
            .init(key: "content_index", value: 0),
        ]
        var events: [(String, [JSONMember])] = [
            ("response.created", [.init(key: "response", value: response("in_progress", [], nil))]),
            (
                "response.output_item.added",
                [
                    .init(key: "output_index", value: 0),
                    .init(
                        key: "item",
                        value: [
                            "id": item, "type": "message", "status": "in_progress", "role": "assistant", "content": [],
                        ]),
                ]
            ),
            (
                "response.content_part.added",
                place + [.init(key: "part", value: ["type": "output_text", "text": "", "annotations": []])]
            ),
        ]
        events += answer.words.map { word in
            (
                "response.output_text.delta",
                place + [.init(key: "delta", value: .string(word)), .init(key: "logprobs", value: [])]
            )
        }
        events += [
            (
                "response.output_text.done",
                place + [
                    .init(key: "text", value: .string(answer.words.joined())), .init(key: "logprobs", value: []),
                ]
            ),
            ("response.content_part.done", place + [.init(key: "part", value: part)]),
            (
                "response.output_item.done",
                [.init(key: "output_index", value: 0), .init(key: "item", value: message)]
            ),
            ("response.completed", [.init(key: "response", value: whole)]),
        ]
        return stream(
            events.enumerated().map { index, event in
                (event.0, event.1 + [.init(key: "sequence_number", value: JSONValue(index))])
            })
    }

    /// The input of a response is a text, or messages whose content is one.
    private static func texts(of input: JSONValue) -> JSONValue {
        guard let items = input.array else { return input }
        return .array(items.map { $0["content"] ?? $0 })
    }

    // MARK: Anthropic's messages

    /// `input_tokens` leaves out what was read from the cache, as Anthropic's does.
    func messages(_ body: JSONValue) -> HTTPResponse {
        guard let messages = body["messages"]?.array, let asked = body["model"]?.string else {
            return failure(400, "A message needs `model`, `max_tokens` and `messages`.")
        }
        let words = messages.reduce(Self.words(in: body["system"] ?? nil)) {
            $0 + Self.words(in: $1["content"] ?? nil)
        }
        let answer = Answer(asked: asked, inputTokens: words, limit: Self.limit(body))
        let id = JSONValue.string(nextID("msg"))
        let reason: JSONValue = answer.finishReason == "length" ? "max_tokens" : "end_turn"
        func message(_ content: [JSONValue], _ reason: JSONValue, outputTokens: Int) -> JSONValue {
            [
                "id": id, "type": "message", "role": "assistant", "model": .string(answer.model),
                "content": .array(content), "stop_reason": reason, "stop_sequence": nil,
                "usage": [
                    "input_tokens": JSONValue(answer.inputTokens - answer.cachedTokens),
                    "cache_creation_input_tokens": 0, "cache_read_input_tokens": JSONValue(answer.cachedTokens),
                    "output_tokens": JSONValue(outputTokens),
                ],
            ]
        }
        let text: JSONValue = ["type": "text", "text": .string(answer.words.joined())]
        if body["stream"]?.boolean != true {
            return delayed(.json(200, message([text], reason, outputTokens: answer.outputTokens).text))
        }
        let first: JSONMember = .init(key: "index", value: 0)
        var events: [(String, [JSONMember])] = [
            ("message_start", [.init(key: "message", value: message([], nil, outputTokens: 1))]),
            ("content_block_start", [first, .init(key: "content_block", value: ["type": "text", "text": ""])]),
        ]
        events += answer.words.map { word in
            (
                "content_block_delta",
                [first, .init(key: "delta", value: ["type": "text_delta", "text": .string(word)])]
            )
        }
        events += [
            ("content_block_stop", [first]),
            (
                "message_delta",
                [
                    .init(key: "delta", value: ["stop_reason": reason, "stop_sequence": nil]),
                    .init(key: "usage", value: ["output_tokens": JSONValue(answer.outputTokens)]),
                ]
            ),
            ("message_stop", []),
        ]
        return stream(events)
    }

    /// Each event by its name, which stands in its data as `type` too.
    private func stream(_ events: [(name: String, members: [JSONMember])]) -> HTTPResponse {
        stream(
            events.map { name, members in
                let data = JSONValue.object([.init(key: "type", value: .string(name))] + members)
                return Array("event: \(name)\ndata: ".utf8) + data.bytes + Array("\n\n".utf8)
            })
    }
}
