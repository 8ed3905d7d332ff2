// RequestEvent, Manifest -> record value: protobuf by schemas/request_event.proto, fields in the order of their numbers.

package import Events

package enum EventEncoder {
    /// Appends the event's value to `out`.
    package static func encode(_ event: RequestEvent, into out: inout [UInt8]) {
        out.appendTag(1, .bytes)
        out.append(16)
        appendBigEndian(event.id.high, to: &out)
        appendBigEndian(event.id.low, to: &out)
        out.appendFixed(2, event.time.microseconds)
        out.appendField(3, event.proxy)
        out.appendField(4, event.workspace)
        out.appendField(5, event.apiKey)
        out.appendField(6, event.provider)
        out.appendField(7, event.operation)
        out.appendField(8, event.requestModel)
        out.appendField(9, event.responseModel)
        out.appendField(10, UInt64(event.status))
        out.appendField(11, UInt64(event.outcome.rawValue))
        out.appendField(12, event.errorType)
        out.appendField(13, event.finishReason)
        out.appendField(14, event.streamed ? 1 : 0)
        out.appendField(15, event.traceID)
        out.appendField(16, event.spanID)
        out.appendField(17, event.parentSpanID)
        out.appendField(20, event.inputTokens)
        out.appendField(21, event.outputTokens)
        out.appendField(22, event.cachedTokens)
        out.appendField(23, event.reasoningTokens)
        out.appendField(24, UInt64(event.usageSource.rawValue))
        out.appendPresent(25, event.cost.map { zigzag($0.amount) })
        out.appendField(26, event.priceVersion)
        out.appendField(27, event.requestBytes)
        out.appendField(28, event.responseBytes)
        out.appendPresent(30, event.latencyMicroseconds)
        out.appendPresent(31, event.firstTokenMicroseconds)
        out.appendPresent(32, event.upstreamMicroseconds)
        out.appendPresent(33, event.overheadMicroseconds)
        out.appendField(40, UInt64(event.metadataStatus.rawValue))
        out.appendField(41, UInt64(event.metadataSources.rawValue))
        out.appendField(42, event.metadataRaw)
        out.appendField(43, event.metadataRejected)
        out.appendField(44, UInt64(event.metadataConflicts))
    }

    /// Appends the manifest's value to `out`.
    package static func encode(_ manifest: Manifest, into out: inout [UInt8]) {
        out.appendField(1, manifest.proxy)
        out.appendFixed(2, manifest.minute.microseconds)
        out.appendField(3, manifest.accepted)
        out.appendField(4, manifest.recorded)
        out.appendField(5, manifest.dropped)
        out.appendField(6, UInt64(manifest.lane))
        out.appendField(7, manifest.serial)
    }

    private static func zigzag(_ value: Int64) -> UInt64 { UInt64(bitPattern: value << 1 ^ value >> 63) }

    private static func appendBigEndian(_ half: UInt64, to out: inout [UInt8]) {
        for shift in stride(from: UInt64(56), through: 0, by: -8) {
            out.append(UInt8(truncatingIfNeeded: half >> shift))
        }
    }
}
