// RequestEvent <-> one line of JSON with the names of `GET /v1/events`: ground-truth files, and events given by hand.
// Metadata stands as it was sent: what normalization makes of it is the pipeline's to say.

package import Events
import JSONText

/// Why a line is no event.
package struct EventJSONError: Error, Sendable, Equatable, CustomStringConvertible {
    package enum Code: String, Sendable { case json, member }
    package var code: Code
    package var reason: String

    package var description: String { reason }
}

package enum EventJSON {
    // MARK: Writing

    /// Appends one line, without its line end. Everything that `parse` reads comes back as it was.
    package static func write(_ event: RequestEvent, into out: inout [UInt8]) {
        var object = ObjectWriter(out: out)
        out = []
        object.text("id", event.id.description)
        object.text("time", RFC3339.precise(event.time))
        object.known("proxy", event.proxy)
        object.known("workspace", event.workspace)
        object.known("api_key", event.apiKey)
        object.known("provider", event.provider)
        object.known("operation", event.operation)
        object.known("request_model", event.requestModel)
        object.known("response_model", event.responseModel)
        object.raw("status", String(event.status))
        object.text("outcome", event.outcome.name)
        object.known("error_type", event.errorType)
        object.known("finish_reason", event.finishReason)
        object.raw("streamed", event.streamed ? "true" : "false")
        object.known("trace_id", event.traceID)
        object.raw("input_tokens", String(event.inputTokens))
        object.raw("output_tokens", String(event.outputTokens))
        object.raw("cached_tokens", String(event.cachedTokens))
        object.raw("reasoning_tokens", String(event.reasoningTokens))
        object.text("usage_source", event.usageSource.name)
        object.raw("cost_usd", event.cost.map { DecimalText.write($0.amount, digits: 9) } ?? "null")
        object.milliseconds("latency_ms", event.latencyMicroseconds)
        object.milliseconds("first_token_ms", event.firstTokenMicroseconds)
        object.milliseconds("upstream_ms", event.upstreamMicroseconds)
        object.milliseconds("overhead_ms", event.overheadMicroseconds)
        object.raw("request_bytes", String(event.requestBytes))
        object.raw("response_bytes", String(event.responseBytes))
        object.json("metadata", event.metadataRaw.isEmpty ? Array("{}".utf8) : event.metadataRaw)
        if !event.metadataRaw.isEmpty {
            object.bytes("metadata_raw", event.metadataRaw)
        } else if !event.metadataRejected.isEmpty {
            object.bytes("metadata_raw", Array(String(decoding: event.metadataRejected, as: UTF8.self).utf8))
        } else {
            object.raw("metadata_raw", "null")
        }
        object.text("metadata_status", event.metadataStatus.name)
        out = object.finished
    }

    /// The line's members in order, written as they come.
    private struct ObjectWriter {
        private var out: [UInt8]
        private var isFirst = true

        init(out: consuming [UInt8]) { self.out = out }

        var finished: [UInt8] { out + [UInt8(ascii: "}")] }

        private mutating func name(_ name: StaticString) {
            out.append(isFirst ? UInt8(ascii: "{") : UInt8(ascii: ","))
            isFirst = false
            out.append(UInt8(ascii: "\""))
            out.append(contentsOf: UnsafeBufferPointer(start: name.utf8Start, count: name.utf8CodeUnitCount))
            out.append(UInt8(ascii: "\""))
            out.append(UInt8(ascii: ":"))
        }

        mutating func json(_ name: StaticString, _ text: [UInt8]) {
            self.name(name)
            out += text
        }

        mutating func raw(_ name: StaticString, _ text: String) {
            self.name(name)
            out.append(contentsOf: text.utf8)
        }

        mutating func text(_ name: StaticString, _ text: String) {
            self.name(name)
            JSONStrings.appendQuoted(text, to: &out)
        }

        mutating func bytes(_ name: StaticString, _ text: [UInt8]) {
            self.name(name)
            JSONStrings.appendQuoted(text, to: &out)
        }

        /// An empty text means "not known".
        mutating func known(_ name: StaticString, _ text: String) {
            if text.isEmpty { raw(name, "null") } else { self.text(name, text) }
        }

        mutating func milliseconds(_ name: StaticString, _ microseconds: UInt64?) {
            raw(name, microseconds.map { DecimalText.write(Int64(clamping: $0), digits: 3) } ?? "null")
        }
    }

    // MARK: Reading

    private static let names: Set<String> = [
        "id", "time", "proxy", "workspace", "api_key", "provider", "operation", "request_model", "response_model",
        "status", "outcome", "error_type", "finish_reason", "streamed", "trace_id", "input_tokens", "output_tokens",
        "cached_tokens", "reasoning_tokens", "usage_source", "cost_usd", "latency_ms", "first_token_ms", "upstream_ms",
        "overhead_ms", "request_bytes", "response_bytes", "metadata", "metadata_raw", "metadata_status",
    ]

    /// Absent or null: the id is made from the time and `random`, the time is `now`, status 200, the outcome what the
    /// status implies, provider `openai`, workspace `default` (the one of open mode), counts 0, `usage_source` response
    /// where a count is said, else none, the rest not known.
    /// `metadata_raw`, a string of JSON text, goes before `metadata`, an object; one that does not parse makes an
    /// event with malformed metadata. A member of another name is an error.
    package static func parse(
        _ line: ArraySlice<UInt8>, now: EventTime, random: (UInt64, UInt64)
    ) throws(EventJSONError) -> RequestEvent {
        let object: Members
        do {
            guard let members = try JSONValue.parse(Array(line)).members else {
                throw EventJSONError(code: .json, reason: "a line is one JSON object")
            }
            object = Members(members)
        } catch let error as JSONTextError {
            throw EventJSONError(code: .json, reason: "not JSON: \(error)")
        } catch {
            throw EventJSONError(code: .json, reason: "a line is one JSON object")
        }
        if let unknown = object.values.keys.filter({ !names.contains($0) }).min() {
            throw EventJSONError(code: .member, reason: "\(unknown): no such member of an event")
        }
        let time = try object.parsed("time", "an RFC 3339 time") { $0.string.flatMap(RFC3339.parse) } ?? now
        let id = try object.parsed("id", "a UUID") { $0.string.flatMap { EventID(text: $0) } }
        var event = RequestEvent(id: id ?? EventID(time: time, random: random), time: time)
        event.proxy = try object.text("proxy")
        event.workspace = try object.text("workspace", absent: "default")
        event.apiKey = try object.text("api_key")
        event.provider = try object.text("provider", absent: "openai")
        event.operation = try object.text("operation")
        event.requestModel = try object.text("request_model")
        event.responseModel = try object.text("response_model")
        event.status =
            try object.parsed("status", "a number from 0 to 65535") { $0.integer.flatMap { UInt16(exactly: $0) } }
            ?? 200
        event.outcome =
            try object.parsed("outcome", "one of \(Outcome.allCases.map(\.name).joined(separator: ", "))") {
                $0.string.flatMap { Outcome(name: $0) }
            } ?? Outcome(status: event.status)
        event.errorType = try object.text("error_type")
        event.finishReason = try object.text("finish_reason")
        event.streamed = try object.parsed("streamed", "true or false") { $0.boolean } ?? false
        event.traceID = try object.text("trace_id")
        event.inputTokens = try object.count("input_tokens")
        event.outputTokens = try object.count("output_tokens")
        event.cachedTokens = try object.count("cached_tokens")
        event.reasoningTokens = try object.count("reasoning_tokens")
        let tokens = ["input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens"]
        event.usageSource =
            try object.parsed("usage_source", "one of \(UsageSource.allCases.map(\.name).joined(separator: ", "))") {
                $0.string.flatMap { UsageSource(name: $0) }
            } ?? (tokens.contains(where: object.has) ? UsageSource.response : .none)
        event.cost = try object.parsed("cost_usd", "a number of dollars") { value in
            value.numberText.flatMap { DecimalText.parse($0, digits: 9) }.map { NanoUSD($0) }
        }
        event.requestBytes = try object.count("request_bytes")
        event.responseBytes = try object.count("response_bytes")
        event.latencyMicroseconds = try object.microseconds("latency_ms")
        event.firstTokenMicroseconds = try object.microseconds("first_token_ms")
        event.upstreamMicroseconds = try object.microseconds("upstream_ms")
        event.overheadMicroseconds = try object.microseconds("overhead_ms")
        try readMetadata(object, into: &event)
        return event
    }

    private static func readMetadata(_ object: Members, into event: inout RequestEvent) throws(EventJSONError) {
        if let raw = try object.parsed("metadata_raw", "a string of JSON text", { $0.string }), !raw.isEmpty {
            let bytes = Array(raw.utf8)
            let value = Result { () throws(JSONTextError) in try JSONValue.parse(bytes) }
            switch value {
            case .success(.object): (event.metadataRaw, event.metadataStatus) = (bytes, .ok)
            case .success: event.metadataStatus = .notAnObject
            case .failure: event.metadataStatus = .malformed
            }
            if event.metadataStatus != .ok {
                event.metadataRejected = Array(bytes.prefix(EventLimits.rejectedMetadataSize))
            }
        } else if let value = try object.parsed("metadata", "an object", { $0.members.map(JSONValue.object) }) {
            // A line that says its metadata is unreadable has `{}` here for want of anything better.
            (event.metadataRaw, event.metadataStatus) = (value.bytes, .ok)
            if value.members?.isEmpty == true, object.has("metadata_status") {
                (event.metadataRaw, event.metadataStatus) = ([], .absent)
            }
        }
        let said = try object.parsed(
            "metadata_status", "one of \(MetadataStatus.allCases.map(\.name).joined(separator: ", "))"
        ) { $0.string.flatMap { MetadataStatus(name: $0) } }
        if said == .ok, event.metadataRaw.isEmpty { event.metadataRaw = Array("{}".utf8) }
        event.metadataStatus = max(event.metadataStatus, said ?? .absent)
        if event.metadataStatus != .absent { event.metadataSources = .metadataHeader }
    }

    /// The line's members; of a name that comes twice, the last.
    private struct Members {
        let values: [String: JSONValue]

        init(_ members: [JSONMember]) {
            values = Dictionary(members.map { ($0.key, $0.value) }) { _, last in last }
        }

        func has(_ name: String) -> Bool { values[name].map { !$0.isNull } ?? false }

        /// nil where absent or null.
        func parsed<Value>(
            _ name: String, _ wanted: @autoclosure () -> String, _ read: (JSONValue) -> Value?
        ) throws(EventJSONError) -> Value? {
            guard let value = values[name], !value.isNull else { return nil }
            guard let result = read(value) else {
                throw EventJSONError(code: .member, reason: "\(name): must be \(wanted()), is \(value.text.prefix(80))")
            }
            return result
        }

        func text(_ name: String, absent: String = "") throws(EventJSONError) -> String {
            try parsed(name, "a string") { $0.string } ?? absent
        }

        func count(_ name: String) throws(EventJSONError) -> UInt64 {
            try parsed(name, "a whole number, 0 or more") { $0.unsigned } ?? 0
        }

        func microseconds(_ name: String) throws(EventJSONError) -> UInt64? {
            try parsed(name, "a number of milliseconds, 0 or more") { value in
                value.numberText.flatMap { DecimalText.parse($0, digits: 3) }.flatMap { UInt64(exactly: $0) }
            }
        }
    }
}

/// Decimal numbers as integers of their smallest unit, with no binary fraction in between.
enum DecimalText {
    /// `1500, digits: 3` -> `1.5`.
    static func write(_ units: Int64, digits: Int) -> String {
        let text = String(units.magnitude)
        let padded = String(repeating: "0", count: max(0, digits + 1 - text.count)) + text
        let whole = padded.prefix(padded.count - digits)
        var fraction = padded.suffix(digits)
        while fraction.last == "0" { fraction.removeLast() }
        return (units < 0 ? "-" : "") + whole + (fraction.isEmpty ? "" : "." + fraction)
    }

    /// A JSON number, exponents included, rounded to `digits` behind the point (halves away from zero); nil where it
    /// does not fit.
    static func parse(_ text: String, digits: Int) -> Int64? {
        let parts = text.lowercased().split(separator: "e", maxSplits: 1)
        guard let mantissa = parts.first, let exponent = parts.count > 1 ? Int(parts[1]) : 0 else { return nil }
        var units: Int64 = 0
        // How many places the digits read so far are short of the unit.
        var missing = min(max(exponent, -1_000), 1_000) + digits
        var isNegative = false
        var isFraction = false
        var rest: [Int64] = []
        for character in mantissa.utf8 {
            switch character {
            case UInt8(ascii: "-"): isNegative = true
            case UInt8(ascii: "."): isFraction = true
            default:
                rest.append(Int64(character) - 48)
                if isFraction { missing -= 1 }
            }
        }
        let kept = rest.count + min(missing, 0)
        if kept < 0 { return 0 }
        for digit in rest.prefix(kept) {
            let (product, overflow) = units.multipliedReportingOverflow(by: 10)
            let (sum, more) = product.addingReportingOverflow(digit)
            if overflow || more { return nil }
            units = sum
        }
        if kept < rest.count, rest[kept] >= 5 { units += 1 }
        if units != 0 {
            for _ in 0..<max(missing, 0) {
                let (product, overflow) = units.multipliedReportingOverflow(by: 10)
                if overflow { return nil }
                units = product
            }
        }
        return isNegative ? -units : units
    }
}
