// Bodies as they pass -> what they say: the request's model and metadata, the answer's model, usage, finish and error.
// Nothing of a body is held but the few values that are watched.

package import Events
import JSONText

/// What a request's body says. Fed in pieces of any size.
package struct RequestBodyReader: Sendable {
    private static let model = 0, stream = 1, metadata = 2, user = 3
    private var scanner: JSONPathScanner

    /// `metadataLimit`: bytes of `metadata` that are kept.
    package init(metadataLimit: Int) {
        scanner = JSONPathScanner(
            paths: JSONPaths([
                "model", "stream", .raw("metadata", limit: metadataLimit + 1), .raw("user", limit: metadataLimit + 1),
            ]))
    }

    package mutating func reset() { scanner.reset() }
    package mutating func feed(_ bytes: UnsafeRawBufferPointer) { scanner.feed(bytes) }

    package var model: [UInt8]? { scanner.text(of: Self.model) }
    package var isStreamed: Bool { scanner.boolean(of: Self.stream) ?? false }

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

/// What an answer's body says, JSON or server-sent events. Fed in pieces of any size.
package struct AnswerBodyReader: Sendable {
    package enum Form: Sendable {
        case json
        case events
        /// Neither, or compressed: passes unread.
        case unread
    }

    // Where each provider family says a thing; of several places the first that is found counts. In a stream the last
    // event that says it does.
    private static let places: [(Field, JSONPath)] = [
        (.model, "model"), (.model, "message.model"), (.model, "response.model"), (.model, "modelVersion"),
        (.input, "usage.prompt_tokens"), (.input, "usage.input_tokens"), (.input, "message.usage.input_tokens"),
        (.input, "response.usage.input_tokens"), (.input, "usageMetadata.promptTokenCount"),
        (.input, "meta.billed_units.input_tokens"),
        (.output, "usage.completion_tokens"), (.output, "usage.output_tokens"),
        (.output, "message.usage.output_tokens"),
        (.output, "response.usage.output_tokens"), (.output, "usageMetadata.candidatesTokenCount"),
        (.output, "meta.billed_units.output_tokens"),
        (.cached, "usage.prompt_tokens_details.cached_tokens"), (.cached, "usage.input_tokens_details.cached_tokens"),
        (.cached, "response.usage.input_tokens_details.cached_tokens"), (.cached, "usage.cache_read_input_tokens"),
        (.cached, "message.usage.cache_read_input_tokens"), (.cached, "usageMetadata.cachedContentTokenCount"),
        (.reasoning, "usage.completion_tokens_details.reasoning_tokens"),
        (.reasoning, "usage.output_tokens_details.reasoning_tokens"),
        (.reasoning, "response.usage.output_tokens_details.reasoning_tokens"),
        (.reasoning, "usageMetadata.thoughtsTokenCount"),
        (.finish, "choices.*.finish_reason"), (.finish, "stop_reason"), (.finish, "delta.stop_reason"),
        (.finish, "candidates.*.finishReason"), (.finish, "response.status"), (.finish, "finish_reason"),
        (.errorType, "error.type"), (.errorType, "error.code"), (.errorType, "error.status"),
    ]
    private static let paths = JSONPaths(places.map(\.1))

    private enum Field: Sendable { case model, input, output, cached, reasoning, finish, errorType }

    private static func indices(of field: Field) -> [Int] { places.indices.filter { places[$0].0 == field } }
    private static let models = indices(of: .model), inputs = indices(of: .input), outputs = indices(of: .output)
    private static let cacheds = indices(of: .cached), reasonings = indices(of: .reasoning)
    private static let finishes = indices(of: .finish), errorTypes = indices(of: .errorType)

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
        case .events: events.feed(bytes) { take($0, &scanner) }
        case .unread: break
        }
    }

    /// The body is over.
    package mutating func finish() {
        if form == .events { events.finish { take($0, &scanner) } }
    }

    /// Writes what was found into the event.
    package func report(to event: inout RequestEvent) {
        guard form != .unread else { return }
        if let model = text(Self.models) { event.responseModel = model }
        if let finish = text(Self.finishes) { event.finishReason = finish }
        if let type = text(Self.errorTypes) { event.errorType = type }
        let input = integer(Self.inputs)
        let output = integer(Self.outputs)
        if input != nil || output != nil {
            event.usageSource = .response
            event.inputTokens = input ?? 0
            event.outputTokens = output ?? 0
            event.cachedTokens = integer(Self.cacheds) ?? 0
            event.reasoningTokens = integer(Self.reasonings) ?? 0
        }
    }

    private func text(_ indices: [Int]) -> String? {
        for index in indices {
            if let text = scanner.text(of: index) { return String(decoding: text, as: UTF8.self) }
        }
        return nil
    }

    private func integer(_ indices: [Int]) -> UInt64? {
        for index in indices {
            if let number = scanner.integer(of: index) { return number }
        }
        return nil
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
