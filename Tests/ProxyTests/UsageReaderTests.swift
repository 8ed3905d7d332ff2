import CaptureProxy
import Events
import HTTPTransport
import Testing

/// A body of one provider family, and what is to be read out of it.
struct UsageCase: Sendable, CustomTestStringConvertible {
    var name: String
    var form: AnswerBodyReader.Form
    var operation = "chat"
    var body: String
    var model = ""
    var finish = ""
    var error = ""
    /// input, output, cached, reasoning; nil where nothing is said.
    var tokens: [UInt64]?

    var testDescription: String { name }
}

private func sse(_ events: String...) -> String { events.map { "data: \($0)\n\n" }.joined() }

@Suite(.timeLimit(.minutes(2))) struct UsageReaderTests {
    static let cases: [UsageCase] = [
        .init(
            name: "OpenAI chat", form: .json,
            body:
                #"{"id":"c","object":"chat.completion","model":"gpt-4o-2024-08-06","choices":[{"index":0,"message":{"role":"assistant","content":"{\"model\":\"x\",\"usage\":{\"prompt_tokens\":9}}"},"finish_reason":"stop"}],"usage":{"prompt_tokens":12,"completion_tokens":30,"total_tokens":42,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":20}}}"#,
            model: "gpt-4o-2024-08-06", finish: "stop", tokens: [12, 30, 4, 20]),
        .init(
            name: "OpenAI chat, streamed", form: .events,
            body: sse(
                #"{"model":"gpt-4o","choices":[{"delta":{"role":"assistant","content":"a"},"finish_reason":null}],"usage":null}"#,
                #"{"model":"gpt-4o","choices":[{"delta":{"content":"\u00e9\n"},"finish_reason":null}],"usage":null}"#,
                #"{"model":"gpt-4o","choices":[{"delta":{},"finish_reason":"length"}],"usage":null}"#,
                #"{"model":"gpt-4o","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}"#,
                "[DONE]"),
            model: "gpt-4o", finish: "length", tokens: [5, 7, 0, 0]),
        .init(
            name: "OpenAI chat, streamed, no usage asked for", form: .events,
            body: sse(#"{"model":"gpt-4o","choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}"#, "[DONE]"),
            model: "gpt-4o", finish: "stop"),
        .init(
            name: "Azure, streamed", form: .events,
            body: sse(
                #"{"model":"","choices":[],"prompt_filter_results":[{"prompt_index":0}]}"#,
                #"{"model":"gpt-4o","choices":[{"delta":{"content":"a"},"finish_reason":null}]}"#,
                #"{"model":"gpt-4o","choices":[{"delta":{},"finish_reason":"content_filter"}]}"#,
                #"{"model":"gpt-4o","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#, "[DONE]"),
            model: "gpt-4o", finish: "content_filter", tokens: [3, 1, 0, 0]),
        .init(
            name: "Azure", form: .json,
            body:
                #"{"choices":[{"content_filter_results":{},"finish_reason":"stop","message":{"content":"a"}}],"model":"gpt-4o","prompt_filter_results":[{"prompt_index":0}],"usage":{"completion_tokens":9,"prompt_tokens":21,"total_tokens":30}}"#,
            model: "gpt-4o", finish: "stop", tokens: [21, 9, 0, 0]),
        .init(
            name: "OpenAI completions", form: .json, operation: "text_completion",
            body:
                #"{"model":"gpt-3.5-turbo-instruct","choices":[{"text":"a","finish_reason":"length"}],"usage":{"prompt_tokens":5,"completion_tokens":16,"total_tokens":21}}"#,
            model: "gpt-3.5-turbo-instruct", finish: "length", tokens: [5, 16, 0, 0]),
        .init(
            name: "OpenAI responses", form: .json, operation: "responses",
            body:
                #"{"id":"r","status":"completed","error":null,"incomplete_details":null,"model":"o3","output":[{"status":"completed"}],"usage":{"input_tokens":36,"input_tokens_details":{"cached_tokens":30},"output_tokens":87,"output_tokens_details":{"reasoning_tokens":64},"total_tokens":123}}"#,
            model: "o3", finish: "completed", tokens: [36, 87, 30, 64]),
        .init(
            name: "OpenAI responses, streamed", form: .events, operation: "responses",
            body: "event: response.created\n"
                + sse(#"{"type":"response.created","response":{"model":"o3","status":"in_progress","usage":null}}"#)
                + "event: response.output_text.delta\n" + sse(#"{"type":"response.output_text.delta","delta":"hi"}"#)
                + "event: response.completed\n"
                + sse(
                    #"{"type":"response.completed","response":{"model":"o3","status":"completed","usage":{"input_tokens":36,"input_tokens_details":{"cached_tokens":3},"output_tokens":87,"output_tokens_details":{"reasoning_tokens":64},"total_tokens":123}}}"#
                ),
            model: "o3", finish: "completed", tokens: [36, 87, 3, 64]),
        .init(
            name: "OpenAI responses, incomplete", form: .json, operation: "responses",
            body:
                #"{"status":"incomplete","incomplete_details":{"reason":"max_output_tokens"},"model":"o3","usage":{"input_tokens":1,"output_tokens":2}}"#,
            model: "o3", finish: "max_output_tokens", tokens: [1, 2, 0, 0]),
        .init(
            name: "OpenAI embeddings", form: .json, operation: "embeddings",
            body:
                #"{"object":"list","data":[{"embedding":[0.1,-2e-3]}],"model":"text-embedding-3-small","usage":{"prompt_tokens":8,"total_tokens":8}}"#,
            model: "text-embedding-3-small", tokens: [8, 0, 0, 0]),
        .init(
            name: "OpenAI images", form: .json, operation: "image_generation",
            body:
                #"{"created":1,"data":[{"b64_json":"AAAA"}],"usage":{"total_tokens":100,"input_tokens":50,"output_tokens":50,"input_tokens_details":{"text_tokens":10,"image_tokens":40}}}"#,
            tokens: [50, 50, 0, 0]),
        .init(
            name: "OpenAI images without usage", form: .json, operation: "image_generation",
            body: #"{"created":1,"data":[{"url":"https://x"}]}"#),
        .init(
            name: "OpenAI images, streamed", form: .events, operation: "image_generation",
            body: "event: image_generation.partial_image\n"
                + sse(#"{"type":"image_generation.partial_image","b64_json":"AAAA","partial_image_index":0}"#)
                + "event: image_generation.completed\n"
                + sse(
                    #"{"type":"image_generation.completed","b64_json":"AAAA","usage":{"total_tokens":100,"input_tokens":50,"output_tokens":50}}"#
                ),
            tokens: [50, 50, 0, 0]),
        .init(
            name: "OpenAI transcription, streamed", form: .events, operation: "transcription",
            body: sse(
                #"{"type":"transcript.text.delta","delta":"I"}"#,
                #"{"type":"transcript.text.done","text":"I","usage":{"type":"tokens","input_tokens":14,"output_tokens":31,"total_tokens":45}}"#
            ),
            tokens: [14, 31, 0, 0]),
        .init(
            name: "OpenAI speech, streamed", form: .events, operation: "speech",
            body: sse(
                #"{"type":"speech.audio.delta","audio":"AAAA"}"#,
                #"{"type":"speech.audio.done","usage":{"input_tokens":14,"output_tokens":101,"total_tokens":115}}"#),
            tokens: [14, 101, 0, 0]),
        .init(
            name: "OpenAI transcription", form: .json, operation: "transcription",
            body:
                #"{"text":"hello","usage":{"type":"tokens","input_tokens":14,"input_token_details":{"audio_tokens":14},"output_tokens":45,"total_tokens":59}}"#,
            tokens: [14, 45, 0, 0]),
        .init(
            name: "OpenAI transcription by the second", form: .json, operation: "transcription",
            body: #"{"text":"hello","usage":{"type":"duration","seconds":27}}"#),
        .init(
            name: "OpenAI moderation", form: .json, operation: "moderation",
            body: #"{"id":"m","model":"omni-moderation-latest","results":[{"flagged":false}]}"#,
            model: "omni-moderation-latest"),
        .init(
            name: "OpenAI error", form: .json,
            body:
                #"{"error":{"message":"slow down","type":"rate_limit_error","param":null,"code":"rate_limit_exceeded"}}"#,
            error: "rate_limit_error"),
        .init(
            name: "another object with a status", form: .json, operation: "other",
            body: #"{"id":"batch","object":"batch","status":"validating"}"#),
        .init(
            name: "Anthropic messages", form: .json,
            body:
                #"{"id":"m","type":"message","model":"claude-sonnet-4","content":[{"type":"text","text":"hi"}],"stop_reason":"end_turn","usage":{"input_tokens":10,"cache_creation_input_tokens":200,"cache_read_input_tokens":3000,"output_tokens":50}}"#,
            model: "claude-sonnet-4", finish: "end_turn", tokens: [3210, 50, 3000, 0]),
        .init(
            name: "Anthropic messages, streamed", form: .events,
            body: "event: message_start\r\ndata: "
                + #"{"type":"message_start","message":{"model":"claude-sonnet-4","stop_reason":null,"usage":{"input_tokens":25,"cache_read_input_tokens":5,"output_tokens":1}}}"#
                + "\r\n\r\nevent: ping\r\ndata: {\"type\": \"ping\"}\r\n\r\n"
                + "event: content_block_delta\r\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"a\"}}\r\n\r\n"
                + "event: message_delta\r\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"max_tokens\"},\"usage\":{\"output_tokens\":15}}\r\n\r\n"
                + "event: message_stop\r\ndata: {\"type\":\"message_stop\"}\r\n\r\n",
            model: "claude-sonnet-4", finish: "max_tokens", tokens: [30, 15, 5, 0]),
        .init(
            name: "Anthropic legacy completions", form: .json, operation: "text_completion",
            body: #"{"type":"completion","completion":" hi","stop_reason":"stop_sequence","model":"claude-2.1"}"#,
            model: "claude-2.1", finish: "stop_sequence"),
        .init(
            name: "Anthropic legacy completions, streamed", form: .events, operation: "text_completion",
            body: "event: completion\n"
                + sse(#"{"type":"completion","completion":" hi","stop_reason":null,"model":"claude-2.1"}"#)
                + "event: completion\n"
                + sse(#"{"type":"completion","completion":"","stop_reason":"max_tokens","model":"claude-2.1"}"#),
            model: "claude-2.1", finish: "max_tokens"),
        .init(
            name: "Anthropic error in a stream", form: .events,
            body: "event: error\n" + sse(#"{"type":"error","error":{"type":"overloaded_error","message":"x"}}"#),
            error: "overloaded_error"),
        .init(
            name: "Gemini", form: .json, operation: "generate_content",
            body:
                #"{"candidates":[{"content":{"parts":[{"text":"a"}]},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":20,"totalTokenCount":48,"cachedContentTokenCount":4,"thoughtsTokenCount":15,"toolUsePromptTokenCount":3},"modelVersion":"gemini-2.5-pro"}"#,
            model: "gemini-2.5-pro", finish: "STOP", tokens: [13, 35, 4, 15]),
        .init(
            name: "Gemini, streamed as events", form: .events, operation: "generate_content",
            body: sse(
                #"{"candidates":[{"content":{}}],"usageMetadata":{"promptTokenCount":10},"modelVersion":"gemini-2.5-pro"}"#,
                #"{"candidates":[{"finishReason":"MAX_TOKENS"}],"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":7},"modelVersion":"gemini-2.5-pro"}"#
            ),
            model: "gemini-2.5-pro", finish: "MAX_TOKENS", tokens: [10, 7, 0, 0]),
        .init(
            name: "Gemini, streamed as one array", form: .json, operation: "generate_content",
            body:
                "[{\"candidates\":[{}],\"usageMetadata\":{\"promptTokenCount\":10},\"modelVersion\":\"g\"},\n{\"candidates\":[{\"finishReason\":\"STOP\"}],\"usageMetadata\":{\"promptTokenCount\":10,\"candidatesTokenCount\":7,\"thoughtsTokenCount\":2},\"modelVersion\":\"g\"}]",
            model: "g", finish: "STOP", tokens: [10, 9, 0, 2]),
        .init(
            name: "Gemini error", form: .json, operation: "generate_content",
            body: #"{"error":{"code":429,"message":"x","status":"RESOURCE_EXHAUSTED"}}"#, error: "RESOURCE_EXHAUSTED"),
        .init(
            name: "Bedrock Converse", form: .json,
            body:
                #"{"output":{"message":{"role":"assistant"}},"stopReason":"end_turn","usage":{"inputTokens":10,"outputTokens":20,"totalTokens":35,"cacheReadInputTokens":3,"cacheWriteInputTokens":2}}"#,
            finish: "end_turn", tokens: [15, 20, 3, 0]),
        .init(
            name: "Bedrock Titan", form: .json, operation: "generate_content",
            body:
                #"{"inputTextTokenCount":5,"results":[{"tokenCount":9,"outputText":"a","completionReason":"FINISH"}]}"#,
            finish: "FINISH", tokens: [5, 9, 0, 0]),
        .init(
            name: "Bedrock Llama", form: .json, operation: "generate_content",
            body: #"{"generation":"a","prompt_token_count":7,"generation_token_count":4,"stop_reason":"stop"}"#,
            finish: "stop", tokens: [7, 4, 0, 0]),
        .init(
            name: "Cohere", form: .json,
            body:
                #"{"text":"a","finish_reason":"COMPLETE","meta":{"api_version":{"version":"1"},"billed_units":{"input_tokens":5.0,"output_tokens":11.0},"tokens":{"input_tokens":70,"output_tokens":12}}}"#,
            finish: "COMPLETE", tokens: [5, 11, 0, 0]),
        .init(
            name: "Cohere 2", form: .json,
            body:
                #"{"id":"c","finish_reason":"COMPLETE","message":{"role":"assistant"},"usage":{"billed_units":{"input_tokens":5,"output_tokens":418},"tokens":{"input_tokens":71,"output_tokens":418}}}"#,
            finish: "COMPLETE", tokens: [5, 418, 0, 0]),
        .init(
            name: "Cohere, streamed as lines", form: .lines,
            body: "{\"event_type\":\"text-generation\",\"text\":\"a\"}\n"
                + "{\"event_type\":\"stream-end\",\"finish_reason\":\"COMPLETE\",\"response\":{\"meta\":{\"billed_units\":{\"input_tokens\":5,\"output_tokens\":6}}}}\n",
            finish: "COMPLETE", tokens: [5, 6, 0, 0]),
        .init(
            name: "Cohere 2, streamed", form: .events,
            body: "event: message-end\n"
                + sse(
                    #"{"type":"message-end","delta":{"finish_reason":"COMPLETE","usage":{"billed_units":{"input_tokens":4,"output_tokens":6},"tokens":{"input_tokens":68,"output_tokens":6}}}}"#
                ),
            finish: "COMPLETE", tokens: [4, 6, 0, 0]),
        .init(
            name: "Mistral", form: .json,
            body:
                #"{"model":"mistral-large-latest","choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":16,"completion_tokens":34,"total_tokens":50}}"#,
            model: "mistral-large-latest", finish: "stop", tokens: [16, 34, 0, 0]),
        .init(
            name: "Mistral, streamed", form: .events,
            body: sse(
                #"{"model":"mistral-small","choices":[{"delta":{"content":"a"},"finish_reason":null}]}"#,
                #"{"model":"mistral-small","choices":[{"delta":{"content":""},"finish_reason":"stop"}],"usage":{"prompt_tokens":4,"total_tokens":9,"completion_tokens":5}}"#,
                "[DONE]"),
            model: "mistral-small", finish: "stop", tokens: [4, 5, 0, 0]),
        .init(
            name: "DeepSeek", form: .json,
            body:
                #"{"model":"deepseek-chat","choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":16,"completion_tokens":4,"total_tokens":20,"prompt_cache_hit_tokens":10,"prompt_cache_miss_tokens":6}}"#,
            model: "deepseek-chat", finish: "stop", tokens: [16, 4, 10, 0]),
        .init(
            name: "reasoning counted beside the completion", form: .json,
            body:
                #"{"model":"grok-4","choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":115,"completion_tokens_details":{"reasoning_tokens":100}}}"#,
            model: "grok-4", finish: "stop", tokens: [10, 105, 0, 100]),
        .init(
            name: "Groq, streamed", form: .events,
            body: sse(
                #"{"model":"llama","choices":[{"delta":{},"finish_reason":"stop"}],"x_groq":{"id":"r","usage":{"prompt_tokens":18,"completion_tokens":2}}}"#,
                "[DONE]"),
            model: "llama", finish: "stop", tokens: [18, 2, 0, 0]),
        .init(
            name: "Ollama, lines", form: .lines,
            body:
                "{\"model\":\"llama3\",\"response\":\"a\",\"done\":false}\n{\"model\":\"llama3\",\"done\":true,\"done_reason\":\"stop\",\"prompt_eval_count\":26,\"eval_count\":3}\n",
            model: "llama3", finish: "stop", tokens: [26, 3, 0, 0]),
        .init(
            name: "a value that breaks off after another", form: .lines,
            body: "{\"model\":\"llama3\",\"done_reason\":\"stop\"}\n{\"done_reason\":\"le\u{1}\",\"model\":\"x\"}\n",
            model: "llama3", finish: "stop"),
        .init(name: "no JSON at all", form: .json, body: "<html>502</html>"),
        .init(
            name: "numbers beyond any count", form: .json,
            body:
                #"{"usage":{"input_tokens":18446744073709551615,"cache_creation_input_tokens":5,"output_tokens":1e99}}"#,
            tokens: [.max, 0, 0, 0]),
    ]

    private static func blank() -> RequestEvent {
        RequestEvent(id: EventID(high: 1, low: 1), time: EventTime(microseconds: 0))
    }

    private static func read(_ usage: UsageCase, pieces: [ArraySlice<UInt8>], isWhole: Bool = true) -> RequestEvent {
        var reader = AnswerBodyReader()
        reader.reset(usage.form)
        for piece in pieces { piece.withUnsafeBytes { reader.feed($0) } }
        if isWhole { reader.finish() }
        var event = blank()
        event.operation = usage.operation
        reader.report(to: &event, isWhole: isWhole)
        return event
    }

    @Test(arguments: cases) func saysWhatTheAnswerSays(_ usage: UsageCase) {
        let event = Self.read(usage, pieces: [Array(usage.body.utf8)[...]])
        #expect(event.responseModel == usage.model)
        #expect(event.finishReason == usage.finish)
        #expect(event.errorType == usage.error)
        #expect(event.usageSource == (usage.tokens == nil ? .none : .response))
        #expect(
            [event.inputTokens, event.outputTokens, event.cachedTokens, event.reasoningTokens]
                == usage.tokens ?? [0, 0, 0, 0])
    }

    @Test(arguments: cases) func saysTheSameWhereverItIsCut(_ usage: UsageCase) {
        let bytes = Array(usage.body.utf8)
        let whole = Self.read(usage, pieces: [bytes[...]])
        for cut in 0...bytes.count {
            let event = Self.read(usage, pieces: [bytes[..<cut], bytes[cut...]])
            if event != whole { return #expect(event == whole, "cut at \(cut)") }
        }
        #expect(Self.read(usage, pieces: bytes.indices.map { bytes[$0...$0] }) == whole)
    }

    /// Running counts are no usage: of an answer that breaks off either what it had said to its end, or nothing.
    @Test(arguments: cases) func anAnswerCutShortTellsFinalCountsOrNone(_ usage: UsageCase) {
        let bytes = Array(usage.body.utf8)
        let whole = Self.read(usage, pieces: [bytes[...]])
        for cut in 0..<bytes.count {
            let event = Self.read(usage, pieces: [bytes[..<cut]], isWhole: false)
            let counts = [event.inputTokens, event.outputTokens, event.cachedTokens, event.reasoningTokens]
            if event.usageSource == .none {
                if counts != [0, 0, 0, 0] {
                    Issue.record("cut at \(cut): \(counts) and no source")
                    return
                }
            } else if counts != usage.tokens {
                Issue.record("cut at \(cut): \(counts), the whole says \(whole.outputTokens)")
                return
            }
        }
    }

    @Test func theReaderIsReusedWithoutMemoryOfTheLast() {
        var reader = AnswerBodyReader()
        for usage in Self.cases + Self.cases.reversed() {
            reader.reset(usage.form)
            Array(usage.body.utf8).withUnsafeBytes { reader.feed($0) }
            reader.finish()
            var event = Self.blank()
            event.operation = usage.operation
            reader.report(to: &event, isWhole: true)
            #expect(event == Self.read(usage, pieces: [Array(usage.body.utf8)[...]]), "\(usage.name)")
        }
    }
}

@Suite struct FormReaderTests {
    private static let lines = "\r\n"

    /// `expected`: model; whether a stream is asked for.
    @Test(
        arguments: [
            (
                "--b|Content-Disposition: form-data; name=\"file\"; filename=\"a.mp3\"|Content-Type: audio/mpeg||ID3|-|--|-b|x"
                    + "|--b|content-disposition:form-data; name=\"model\"||whisper-1|--b|Content-Disposition: form-data; name=\"stream\""
                    + "||true|--b--|", "whisper-1", true
            ),
            ("preamble|--b|Content-Disposition: form-data; name=model||a|b|--b--", "a|b", false),
            (
                "--b|Content-Disposition: form-data; name=\"model\"|||--b|Content-Disposition: form-data; name=\"model\"||m|--b--",
                "m", false
            ),
            (
                "--b|Content-Disposition: form-data; name=\"models\"||a|--b|Content-Disposition: form-data; filename=\"model\"||b|--b--",
                nil, false
            ),
            ("--b|Content-Disposition: form-data; name=\"model\"||never ended", nil, false),
            ("--b--|--b|Content-Disposition: form-data; name=\"model\"||behind the end|--b--", nil, false),
            ("--b||no header|--b|Content-Disposition: attachment; name=\"model\"||x|--b--", nil, false),
            (
                "--b|Content-Disposition: form-data; name=\"model\"||" + String(repeating: "m", count: 600) + "|--b--",
                nil, false
            ),
        ] as [(String, String?, Bool)])
    func findsTheModelWhereverTheBodyIsCut(_ text: String, _ model: String?, _ isStreamed: Bool) {
        let bytes = Array(text.replacing("|", with: Self.lines).utf8)
        let expected = model?.replacing("|", with: Self.lines)
        for cut in 0...bytes.count {
            var reader = RequestBodyReader(metadataLimit: 100)
            reader.reset(boundary: [UInt8(ascii: "b")])
            for piece in [bytes[..<cut], bytes[cut...]] { piece.withUnsafeBytes { reader.feed($0) } }
            let found = reader.model.map { String(decoding: $0, as: UTF8.self) }
            guard found == expected, reader.isStreamed == isStreamed else {
                Issue.record("cut at \(cut): \(found ?? "none") \(reader.isStreamed)")
                return
            }
        }
    }
}

@Suite struct PathTests {
    @Test(
        arguments: [
            ("/chat/completions", "chat", nil), ("/v1/messages", "chat", nil), ("/completions", "text_completion", nil),
            ("/complete", "text_completion", nil), ("/fim/completions", "text_completion", nil),
            ("/embeddings", "embeddings", nil), ("/v2/embed", "embeddings", nil), ("/v2/chat", "chat", nil),
            ("/responses", "responses", nil), ("/moderations", "moderation", nil),
            ("/images/generations", "image_generation", nil), ("/audio/transcriptions", "transcription", nil),
            ("/audio/translations", "transcription", nil), ("/audio/speech", "speech", nil), ("/rerank", "rerank", nil),
            ("/models", "models", nil), ("/models/gpt-4o", "other", nil), ("/files", "other", nil),
            ("/messages/count_tokens", "other", nil), ("/engines/davinci/completions", "text_completion", "davinci"),
            ("/deployments/my%20gpt/chat/completions", "chat", "my gpt"),
            ("/models/gemini-2.5-pro:generateContent", "generate_content", "gemini-2.5-pro"),
            ("/models/gemini-2.5-pro:streamGenerateContent", "generate_content", "gemini-2.5-pro"),
            ("/models/text-embedding-004:embedContent", "embeddings", "text-embedding-004"),
            ("/model/anthropic.claude-v2%3A1/converse", "chat", "anthropic.claude-v2:1"),
            ("/model/amazon.titan/invoke", "generate_content", "amazon.titan"),
        ] as [(String, String, String?)])
    func aPathSaysTheOperationAndSometimesTheModel(_ path: String, _ operation: String, _ model: String?) {
        let bytes = Array(path.utf8)
        #expect(Routing.operation(of: 0..<bytes.count, in: bytes.span) == operation)
        #expect(Routing.model(of: 0..<bytes.count, in: bytes.span) == model)
    }
}
