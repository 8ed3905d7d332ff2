// Record value -> EventFields: an event decoded in place. Scalars by value, text as ranges into the record's bytes.

package import Events

/// A range of bytes in the buffer that an event was decoded from.
package struct ByteRange: Hashable, Sendable {
    package var start: UInt32
    package var count: UInt32

    package init(start: Int, count: Int) {
        self.start = UInt32(start)
        self.count = UInt32(count)
    }

    package static let empty = ByteRange(start: 0, count: 0)
    package var isEmpty: Bool { count == 0 }
    package var range: Range<Int> { Int(start)..<Int(start) + Int(count) }
}

/// A `RequestEvent` without a copy of its text: what the consumer's hot path works on.
package struct EventFields: Sendable {
    package var id = EventID(high: 0, low: 0)
    package var time = EventTime(microseconds: 0)
    package var proxy = ByteRange.empty
    package var workspace = ByteRange.empty
    package var apiKey = ByteRange.empty
    package var provider = ByteRange.empty
    package var operation = ByteRange.empty
    package var requestModel = ByteRange.empty
    package var responseModel = ByteRange.empty
    package var status: UInt16 = 0
    package var outcome: Outcome = .success
    package var errorType = ByteRange.empty
    package var finishReason = ByteRange.empty
    package var streamed = false
    package var traceID = ByteRange.empty
    package var spanID = ByteRange.empty
    package var parentSpanID = ByteRange.empty
    package var inputTokens: UInt64 = 0
    package var outputTokens: UInt64 = 0
    package var cachedTokens: UInt64 = 0
    package var reasoningTokens: UInt64 = 0
    package var usageSource: UsageSource = .none
    package var cost: NanoUSD?
    package var priceVersion = ByteRange.empty
    package var requestBytes: UInt64 = 0
    package var responseBytes: UInt64 = 0
    package var latencyMicroseconds: UInt64?
    package var firstTokenMicroseconds: UInt64?
    package var upstreamMicroseconds: UInt64?
    package var overheadMicroseconds: UInt64?
    package var metadataStatus: MetadataStatus = .absent
    package var metadataSources: MetadataSources = []
    package var metadataRaw = ByteRange.empty
    package var metadataRejected = ByteRange.empty
    package var metadataConflicts: UInt32 = 0

    package init() {}

    /// As answered, else as requested: the dimension `model`.
    package var model: ByteRange { responseModel.isEmpty ? requestModel : responseModel }
}
