// One stored event as the API shows it: StoredEvent -> JSON, every figure exact.

import Events
import JSONText
import RollupStore
import Rollups

/// What the API shows of an event, in this order.
package enum EventColumns {
    package static let names = [
        "id", "time", "proxy", "workspace", "api_key", "provider", "operation", "request_model", "response_model",
        "status", "outcome", "error_type", "finish_reason", "streamed", "trace_id", "input_tokens", "output_tokens",
        "cached_tokens", "reasoning_tokens", "cost_usd", "latency_ms", "first_token_ms", "upstream_ms", "overhead_ms",
        "request_bytes", "response_bytes", "metadata", "metadata_raw", "metadata_status",
    ]
}

extension StoredEvent {
    /// What is not known is null. Workspace, provider and the like are those of the event's series.
    func json(of workspace: String, series: Int, _ catalog: SeriesCatalog) -> JSONValue {
        func dimension(_ dimension: Dimension) -> JSONValue {
            catalog.value(of: dimension, series: series)?.json ?? .null
        }
        func text(_ value: String) -> JSONValue { value.isEmpty ? .null : .string(value) }
        func milliseconds(_ value: UInt64?) -> JSONValue {
            value.map { .number(decimal(Int64(clamping: $0), digits: 3)) } ?? .null
        }
        let pairs = (catalog.pairs(ofSeries: series) + (metadataPairs(extra) ?? []))
            .sorted { $0.key.utf8.lexicographicallyPrecedes($1.key.utf8) }
        let raw = event.metadataRaw.isEmpty ? event.metadataRejected : event.metadataRaw
        return [
            "id": .string(event.id.description),
            "time": .string(RFC3339.precise(event.time)),
            "proxy": text(event.proxy),
            "workspace": text(workspace),
            "api_key": dimension(.apiKey),
            "provider": dimension(.provider),
            "operation": dimension(.operation),
            "request_model": text(event.requestModel),
            "response_model": text(event.responseModel),
            "status": event.status == 0 ? .null : JSONValue(event.status),
            "outcome": dimension(.outcome),
            "error_type": text(event.errorType),
            "finish_reason": text(event.finishReason),
            "streamed": .boolean(event.streamed),
            "trace_id": text(event.traceID),
            "input_tokens": JSONValue(event.inputTokens),
            "output_tokens": JSONValue(event.outputTokens),
            "cached_tokens": JSONValue(event.cachedTokens),
            "reasoning_tokens": JSONValue(event.reasoningTokens),
            "cost_usd": event.cost.map { .number(decimal($0.amount, digits: 9)) } ?? .null,
            "latency_ms": milliseconds(event.latencyMicroseconds),
            "first_token_ms": milliseconds(event.firstTokenMicroseconds),
            "upstream_ms": milliseconds(event.upstreamMicroseconds),
            "overhead_ms": milliseconds(event.overheadMicroseconds),
            "request_bytes": JSONValue(event.requestBytes),
            "response_bytes": JSONValue(event.responseBytes),
            "metadata": .object(pairs.map { JSONMember(key: $0.key, value: $0.value.json) }),
            "metadata_raw": raw.isEmpty ? .null : .string(String(decoding: raw, as: UTF8.self)),
            "metadata_status": .string(event.metadataStatus.name),
        ]
    }
}

extension Measures {
    /// One event's share.
    init(_ event: RequestEvent) {
        self.init()
        requests = 1
        inputTokens = Int64(clamping: event.inputTokens)
        outputTokens = Int64(clamping: event.outputTokens)
        cachedTokens = Int64(clamping: event.cachedTokens)
        reasoningTokens = Int64(clamping: event.reasoningTokens)
        costNanoUSD = event.cost?.amount ?? 0
        requestBytes = Int64(clamping: event.requestBytes)
        responseBytes = Int64(clamping: event.responseBytes)
        if let timing = event.latencyMicroseconds { (latencyCount, latencySum) = (1, Int64(clamping: timing)) }
        if let timing = event.firstTokenMicroseconds {
            (firstTokenCount, firstTokenSum) = (1, Int64(clamping: timing))
        }
        if let timing = event.overheadMicroseconds {
            (overheadCount, overheadSum) = (1, Int64(clamping: timing))
        }
    }
}
