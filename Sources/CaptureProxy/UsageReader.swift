// Bodies as they pass -> what they say: the request's model and metadata, the answer's model, usage, finish and error.
// Nothing of a body is held but the few values that are watched.

package import Events
import JSONText

/// What a request's body says: JSON, or a form, which has no metadata. Fed in pieces of any size.
package struct RequestBodyReader: Sendable {
    private static let model = 0, stream = 1, metadata = 2, user = 3
    private var scanner: JSONPathScanner
    private var form: FormReader?

    /// `metadataLimit`: bytes of `metadata` that are kept.
    package init(metadataLimit: Int) {
        scanner = JSONPathScanner(
            paths: JSONPaths([
                "model", "stream", .raw("metadata", limit: metadataLimit + 1), .raw("user", limit: metadataLimit + 1),
            ]))
    }

    /// For the next body; `boundary`: that of a form.
    package mutating func reset(boundary: [UInt8]? = nil) {
        scanner.reset()
        form = boundary.map { FormReader(boundary: $0) }
    }

    package mutating func feed(_ bytes: UnsafeRawBufferPointer) {
        if form == nil { scanner.feed(bytes) } else { form?.feed(bytes) }
    }

    package var model: [UInt8]? { form?.model ?? scanner.text(of: Self.model) }
    package var isStreamed: Bool { form?.isStreamed ?? scanner.boolean(of: Self.stream) ?? false }

    /// Adds the body's metadata sources. A body that breaks off or is not JSON has none.
    package func addMetadata(to reader: inout MetadataReader) {
        guard !scanner.isDead else { return }
        if scanner.isCut(Self.metadata) {
            reader.addTooLarge(.bodyMetadata)
        } else if let raw = scanner.raw(of: Self.metadata) {
            raw.withUnsafeBytes { reader.add(.bodyMetadata, $0) }
        }
        if scanner.isCut(Self.user) {
            reader.addTooLarge(.bodyUser)
        } else if let raw = scanner.raw(of: Self.user) {
            reader.addUser(raw)
        }
    }
}

/// What an answer's body says: JSON, JSON lines or server-sent events. Fed in pieces of any size.
///
/// Token counts are OpenTelemetry's: input includes what was read from or written to a cache, output includes
/// reasoning. Where a provider counts otherwise the parts are added:
///
/// | family | says | becomes |
/// | --- | --- | --- |
/// | OpenAI and alike | `prompt_tokens` with the cached, `completion_tokens` with the reasoning | as it is |
/// | those whose `total_tokens` shows reasoning beside `completion_tokens` | | output + reasoning |
/// | Anthropic | `input_tokens` without cache | input + cache read + cache creation |
/// | Bedrock Converse | `inputTokens` without cache | input + cache read + cache write |
/// | Gemini | `candidatesTokenCount` without thoughts, `promptTokenCount` without tool use | output + thoughts, input + tool use |
/// | Cohere | `billed_units` beside `tokens` | the billed ones |
package struct AnswerBodyReader: Sendable {
    package enum Form: Sendable {
        case json
        /// One document a line.
        case lines
        case events
        /// None of them, or compressed in a way that is not read.
        case unread
    }

    private enum Field: Int, Sendable, CaseIterable {
        case model, input, output, cached, written, toolUse, reasoning, total, finish, status, errorType
    }

    // Where each provider family says a thing; of several places the first that is found counts. In a stream the last
    // event that says it does. `*.` at the start: Gemini's stream without `alt=sse` is one array.
    private static let places: [(Field, JSONPath)] = [
        (.model, "model"), (.model, "message.model"), (.model, "response.model"), (.model, "modelVersion"),
        (.model, "*.modelVersion"),
        (.input, "usage.prompt_tokens"), (.input, "usage.input_tokens"), (.input, "message.usage.input_tokens"),
        (.input, "response.usage.input_tokens"), (.input, "usageMetadata.promptTokenCount"),
        (.input, "*.usageMetadata.promptTokenCount"), (.input, "meta.billed_units.input_tokens"),
        (.input, "usage.billed_units.input_tokens"), (.input, "delta.usage.billed_units.input_tokens"),
        (.input, "response.meta.billed_units.input_tokens"), (.input, "usage.inputTokens"),
        (.input, "inputTextTokenCount"), (.input, "prompt_token_count"), (.input, "prompt_eval_count"),
        (.input, "x_groq.usage.prompt_tokens"),
        (.output, "usage.completion_tokens"), (.output, "usage.output_tokens"),
        (.output, "message.usage.output_tokens"), (.output, "response.usage.output_tokens"),
        (.output, "usageMetadata.candidatesTokenCount"), (.output, "*.usageMetadata.candidatesTokenCount"),
        (.output, "meta.billed_units.output_tokens"), (.output, "usage.billed_units.output_tokens"),
        (.output, "delta.usage.billed_units.output_tokens"), (.output, "response.meta.billed_units.output_tokens"),
        (.output, "usage.outputTokens"), (.output, "results.*.tokenCount"), (.output, "generation_token_count"),
        (.output, "eval_count"), (.output, "x_groq.usage.completion_tokens"),
        (.cached, "usage.prompt_tokens_details.cached_tokens"), (.cached, "usage.input_tokens_details.cached_tokens"),
        (.cached, "response.usage.input_tokens_details.cached_tokens"), (.cached, "usage.cache_read_input_tokens"),
        (.cached, "message.usage.cache_read_input_tokens"), (.cached, "usageMetadata.cachedContentTokenCount"),
        (.cached, "*.usageMetadata.cachedContentTokenCount"), (.cached, "usage.cacheReadInputTokens"),
        (.cached, "usage.prompt_cache_hit_tokens"), (.cached, "usage.cached_tokens"),
        (.written, "usage.cache_creation_input_tokens"), (.written, "message.usage.cache_creation_input_tokens"),
        (.written, "usage.cacheWriteInputTokens"),
        (.toolUse, "usageMetadata.toolUsePromptTokenCount"), (.toolUse, "*.usageMetadata.toolUsePromptTokenCount"),
        (.reasoning, "usage.completion_tokens_details.reasoning_tokens"),
        (.reasoning, "usage.output_tokens_details.reasoning_tokens"),
        (.reasoning, "response.usage.output_tokens_details.reasoning_tokens"),
        (.reasoning, "usageMetadata.thoughtsTokenCount"), (.reasoning, "*.usageMetadata.thoughtsTokenCount"),
        (.reasoning, "usage.reasoning_tokens"), (.total, "usage.total_tokens"),
        (.finish, "choices.*.finish_reason"), (.finish, "stop_reason"), (.finish, "delta.stop_reason"),
        (.finish, "candidates.*.finishReason"), (.finish, "*.candidates.*.finishReason"),
        (.finish, "response.incomplete_details.reason"), (.finish, "incomplete_details.reason"),
        (.finish, "response.status"), (.finish, "finish_reason"), (.finish, "delta.finish_reason"),
        (.finish, "response.finish_reason"), (.finish, "stopReason"), (.finish, "done_reason"),
        (.finish, "results.*.completionReason"), (.status, "status"),
        (.errorType, "error.type"), (.errorType, "error.code"), (.errorType, "error.status"),
        (.errorType, "response.error.code"), (.errorType, "*.error.status"),
    ]
    private static let paths = JSONPaths(places.map(\.1))
    private static let indices = Field.allCases.map { field in places.indices.filter { places[$0].0 == field } }

    /// The places whose input tokens leave out what came from or went to a cache.
    private static let withoutCache = Set(
        places.indices.filter {
            ["usage.input_tokens", "message.usage.input_tokens", "usage.inputTokens"].contains(places[$0].1.text)
        })
    private static let cacheRead = Set(
        places.indices.filter {
            [
                "usage.cache_read_input_tokens", "message.usage.cache_read_input_tokens", "usage.cacheReadInputTokens",
            ].contains(places[$0].1.text)
        })

    private var scanner = JSONPathScanner(paths: AnswerBodyReader.paths)
    private var events = SSEScanner()
    package private(set) var form = Form.unread

    package init() {}

    package mutating func reset(_ form: Form) {
        self.form = form
        if form == .unread { return }
        scanner.reset()
        if form == .events { events = SSEScanner() }
    }

    package mutating func feed(_ bytes: UnsafeRawBufferPointer) {
        switch form {
        case .json: scanner.feed(bytes)
        case .lines: feedLines(bytes)
        case .events: events.feed(bytes) { take($0, &scanner) }
        case .unread: break
        }
    }

    /// A line end stands between documents only: within JSON text it would be white space or escaped.
    private mutating func feedLines(_ bytes: UnsafeRawBufferPointer) {
        var start = 0
        for index in bytes.indices where bytes[index] == UInt8(ascii: "\n") {
            scanner.feed(UnsafeRawBufferPointer(rebasing: bytes[start..<index]))
            scanner.nextDocument()
            start = index + 1
        }
        scanner.feed(UnsafeRawBufferPointer(rebasing: bytes[start...]))
    }

    /// The body is over.
    package mutating func finish() {
        if form == .events { events.finish { take($0, &scanner) } }
    }

    /// Writes what was found into the event, whose operation is known. `isWhole`: the answer came to its end. The counts
    /// of one that did not are those so far, unless it had said how the model finished: they are not told as usage.
    package func report(to event: inout RequestEvent, isWhole: Bool) {
        guard form != .unread else { return }
        if let model = text(.model), !model.isEmpty { event.responseModel = model }
        if let finish = text(.finish) { event.finishReason = finish }
        // Other objects have a status too, that of a file or a batch.
        if event.operation == "responses", event.finishReason.isEmpty, let status = text(.status) {
            event.finishReason = status
        }
        if let type = text(.errorType) { event.errorType = type }
        guard isWhole || scanner.isBetweenDocuments && !event.finishReason.isEmpty else { return }
        guard integer(.input) != nil || integer(.output) != nil else { return }
        event.usageSource = .response
        let (input, inputPlace) = integer(.input) ?? (0, -1)
        let (cached, cachedPlace) = integer(.cached) ?? (0, -1)
        let (reasoning, reasoningPlace) = integer(.reasoning) ?? (0, -1)
        event.inputTokens = input
        event.outputTokens = integer(.output)?.value ?? 0
        event.cachedTokens = cached
        event.reasoningTokens = reasoning
        if Self.withoutCache.contains(inputPlace) {
            if Self.cacheRead.contains(cachedPlace) { event.inputTokens.add(cached) }
            event.inputTokens.add(integer(.written)?.value ?? 0)
        }
        event.inputTokens.add(integer(.toolUse)?.value ?? 0)
        let isGemini = reasoningPlace >= 0 && Self.places[reasoningPlace].1.text.hasSuffix("thoughtsTokenCount")
        let isBeside = reasoning > 0 && integer(.total)?.value == input &+ event.outputTokens &+ reasoning
        if isGemini || isBeside { event.outputTokens.add(reasoning) }
    }

    private func text(_ field: Field) -> String? {
        for index in Self.places(of: field) {
            if let text = scanner.text(of: index) { return String(decoding: text, as: UTF8.self) }
        }
        return nil
    }

    private func integer(_ field: Field) -> (value: UInt64, place: Int)? {
        for index in Self.places(of: field) {
            if let number = scanner.integer(of: index) { return (number, index) }
        }
        return nil
    }

    private static func places(of field: Field) -> [Int] { indices[field.rawValue] }
}

extension UInt64 {
    /// A provider's numbers may be anything: the sum stops at the type's end.
    fileprivate mutating func add(_ other: UInt64) {
        let (sum, overflows) = addingReportingOverflow(other)
        self = overflows ? .max : sum
    }
}

// A free function: the closure above must not hold the reader, whose scanner is being fed.
private func take(_ part: SSEPart, _ scanner: inout JSONPathScanner) {
    switch part {
    case .data(let bytes): scanner.feed(bytes)
    case .end: scanner.nextDocument()
    case .done: break
    }
}
