// What one request cost, how it went and which metadata it carried: the value that the whole path carries.

/// How an exchange ended. `errors` of the query language are `clientError`, `providerError` and `timeout`.
package enum Outcome: UInt8, CaseIterable, Sendable {
    case success = 1
    /// 4xx, 429 too.
    case clientError = 2
    /// 5xx, or an upstream that could not be reached or broke off.
    case providerError = 3
    case timeout = 4
    /// The client left before the answer was whole.
    case cancelled = 5

    /// The name in queries, events and rollups.
    package var name: String {
        switch self {
        case .success: "success"
        case .clientError: "client_error"
        case .providerError: "provider_error"
        case .timeout: "timeout"
        case .cancelled: "cancelled"
        }
    }

    package init?(name: some StringProtocol) {
        guard let found = Self.allCases.first(where: { $0.name == name }) else { return nil }
        self = found
    }

    package var isError: Bool {
        switch self {
        case .clientError, .providerError, .timeout: true
        case .success, .cancelled: false
        }
    }

    /// The outcome that a status alone implies: below 400 success, 408 and 504 timeout, else by class.
    package init(status: UInt16) {
        switch status {
        case 408, 504: self = .timeout
        case ..<400: self = .success
        case 400..<500: self = .clientError
        default: self = .providerError
        }
    }
}

/// What became of the metadata that a request carried; the raw value is its severity: of several sources the
/// worst stands.
package enum MetadataStatus: UInt8, CaseIterable, Comparable, Sendable {
    case absent = 0
    case ok = 1
    case truncated = 2
    case tooLarge = 3
    case notAnObject = 4
    case malformed = 5

    package var name: String {
        switch self {
        case .absent: "absent"
        case .ok: "ok"
        case .truncated: "truncated"
        case .tooLarge: "too_large"
        case .notAnObject: "not_an_object"
        case .malformed: "malformed"
        }
    }

    package init?(name: some StringProtocol) {
        guard let found = Self.allCases.first(where: { $0.name == name }) else { return nil }
        self = found
    }

    package static func < (a: MetadataStatus, b: MetadataStatus) -> Bool { a.rawValue < b.rawValue }
}

/// Where the token counts come from. `none` is said, never guessed around.
package enum UsageSource: UInt8, Sendable {
    case none = 0
    /// Read out of the provider's answer: its body, or a header of its that tells tokens.
    case response = 1
    /// The answer was compressed in a way the proxy does not read.
    case unreadable = 2
}

/// Which of a request's sources carried metadata, as a bit set.
package struct MetadataSources: OptionSet, Sendable {
    package let rawValue: UInt8
    package init(rawValue: UInt8) { self.rawValue = rawValue }

    /// The header `x-portkey-metadata`.
    package static let metadataHeader = MetadataSources(rawValue: 1)
    /// The header `x-portkey-meta`.
    package static let metaHeader = MetadataSources(rawValue: 2)
    /// The request body's `metadata` object.
    package static let bodyMetadata = MetadataSources(rawValue: 4)
    /// The request body's `user`, as the key `_user`.
    package static let bodyUser = MetadataSources(rawValue: 8)
    /// Other gateways' headers: `Helicone-Property-*`, `Helicone-User-Id`, `Helicone-Session-Id`.
    package static let helicone = MetadataSources(rawValue: 16)
    /// `cf-aig-metadata`.
    package static let cloudflare = MetadataSources(rawValue: 32)
    /// `x-litellm-tags`.
    package static let liteLLM = MetadataSources(rawValue: 64)
    /// `x-bf-lh-*`.
    package static let bifrost = MetadataSources(rawValue: 128)
}

/// One completed exchange. Text fields are UTF-8; an empty text means "not known".
///
/// Never holds a credential, a prompt or a completion.
package struct RequestEvent: Sendable, Equatable {
    package var id: EventID
    /// When the proxy completed the exchange: decides the event's minute everywhere.
    package var time: EventTime
    package var proxy = ""
    package var workspace = ""
    /// The id of the API key, never the key.
    package var apiKey = ""
    package var provider = ""
    /// OpenTelemetry `gen_ai.operation.name`: `chat`, `text_completion`, `embeddings`, …
    package var operation = ""
    package var requestModel = ""
    package var responseModel = ""
    /// The HTTP status sent to the client; 0 where none was.
    package var status: UInt16 = 0
    package var outcome: Outcome = .success
    package var errorType = ""
    package var finishReason = ""
    package var streamed = false
    package var traceID = ""
    package var spanID = ""
    package var parentSpanID = ""
    package var inputTokens: UInt64 = 0
    package var outputTokens: UInt64 = 0
    package var cachedTokens: UInt64 = 0
    package var reasoningTokens: UInt64 = 0
    package var usageSource: UsageSource = .none
    /// nil where no price is known for the model.
    package var cost: NanoUSD?
    package var priceVersion = ""
    package var requestBytes: UInt64 = 0
    package var responseBytes: UInt64 = 0
    /// First byte of the request in to last byte of the answer out.
    package var latencyMicroseconds: UInt64?
    /// First byte of the request in to first content of the answer out.
    package var firstTokenMicroseconds: UInt64?
    /// Request forwarded to last byte of the upstream's answer in.
    package var upstreamMicroseconds: UInt64?
    /// What the proxy itself added: latency less upstream.
    package var overheadMicroseconds: UInt64?
    package var metadataStatus: MetadataStatus = .absent
    package var metadataSources: MetadataSources = []
    /// The merged raw pairs, a JSON object in UTF-8 as the client wrote it; empty where no source parsed.
    package var metadataRaw: [UInt8] = []
    /// The bytes of the worst source that did not parse, bounded; not necessarily UTF-8.
    package var metadataRejected: [UInt8] = []
    /// Pairs left out because their key came twice.
    package var metadataConflicts: UInt32 = 0

    package init(id: EventID, time: EventTime) {
        self.id = id
        self.time = time
    }

    /// As answered, else as requested: the dimension `model`.
    package var model: String { responseModel.isEmpty ? requestModel : responseModel }
}

/// What a proxy recorded in one minute: the other side of the reconciliation.
///
/// It is one part of that: what one journal lane counted under one serial number. A part's `accepted` and `recorded`
/// only rise; of several manifests of one part the greatest counts stand, so copies and re-sends change nothing. The
/// parts of a proxy and minute add up.
package struct Manifest: Sendable, Equatable {
    package var proxy: String
    /// Start of the minute.
    package var minute: EventTime
    package var lane: UInt32
    package var serial: UInt64
    /// Exchanges completed in the minute; recorded + dropped.
    package var accepted: UInt64
    package var recorded: UInt64
    package var dropped: UInt64

    package init(
        proxy: String, minute: EventTime, lane: UInt32 = 0, serial: UInt64 = 0, accepted: UInt64, recorded: UInt64,
        dropped: UInt64
    ) {
        self.proxy = proxy
        self.minute = minute
        self.lane = lane
        self.serial = serial
        self.accepted = accepted
        self.recorded = recorded
        self.dropped = dropped
    }
}
