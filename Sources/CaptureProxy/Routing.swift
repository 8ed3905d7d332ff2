// A request's path and headers -> the provider it goes to and the path there. Pure.

import HTTPMessages
package import HTTPTransport

/// A provider as configured: clients name it, never a host.
package struct Provider: Sendable {
    package var name: String
    package var origin: UpstreamOrigin
    /// The base URL's path without a slash at its end: `/v1`.
    package var basePath: String
    /// What the `host` header says.
    let authority: String

    package init(name: String, origin: UpstreamOrigin, basePath: String) {
        self.name = name
        self.origin = origin
        self.basePath = basePath
        authority = origin.authority
    }
}

/// Why a request goes nowhere: answered as JSON, the connection kept.
package struct RoutingRefusal: Error, Sendable, Equatable {
    package var status: Int
    package var code: String
    package var message: String
    package var hint: String

    package init(status: Int, code: String, message: String, hint: String) {
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint
    }
}

package struct Routing: Sendable {
    private let providers: [String: Provider]

    package init(providers: [Provider]) {
        self.providers = Dictionary(providers.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
    }

    /// The part of the path that goes to the provider, from its slash on: `/v1/proxy/x` and `/v1/x` both give `/x`.
    package static func rest(of path: Range<Int>, in bytes: Span<UInt8>) throws(RoutingRefusal) -> Range<Int> {
        for prefix in ["/v1/proxy/", "/v1/"] as [StaticString] {
            let count = prefix.utf8CodeUnitCount
            guard path.count > count else { continue }
            guard bytes.equalsIgnoringCase(path.lowerBound..<path.lowerBound + count, prefix) else { continue }
            let rest = path.lowerBound + count - 1..<path.upperBound
            try checkBase(rest, in: bytes)
            return rest
        }
        throw RoutingRefusal(
            status: 404, code: "unknown_path", message: "This path is not served here.",
            hint: "Send requests to /v1/… or /v1/proxy/…, for example /v1/chat/completions.")
    }

    private static func checkBase(_ path: Range<Int>, in bytes: Span<UInt8>) throws(RoutingRefusal) {
        guard RequestHead.leavesBase(bytes, path) else { return }
        throw RoutingRefusal(
            status: 400, code: "path_leaves_base", message: "The path leaves its base by '..'.",
            hint: "Send the path itself, such as /v1/chat/completions.")
    }

    /// What follows the provider's base path. Anthropic's clients bring the version in their path although the base has
    /// it.
    package static func path(
        _ rest: Range<Int>, below base: String, in bytes: Span<UInt8>
    ) throws(RoutingRefusal) -> Range<Int> {
        guard rest.count >= 4, base.hasSuffix("/v1"),
            bytes.equalsIgnoringCase(rest.lowerBound..<rest.lowerBound + 4, "/v1/")
        else { return rest }
        let path = rest.lowerBound + 3..<rest.upperBound
        // What is left out may have been what a `..` went up from.
        try checkBase(path, in: bytes)
        return path
    }

    /// `mode` is the value of `x-portkey-mode` (`proxy NAME`), `provider` of `x-portkey-provider`; the mode wins.
    package func provider(mode: String?, provider: String?) throws(RoutingRefusal) -> Provider {
        var name = provider
        if let mode {
            let words = mode.split(separator: " ", omittingEmptySubsequences: true)
            guard words.count == 2, words[0].lowercased() == "proxy" else {
                throw RoutingRefusal(
                    status: 400, code: "bad_mode", message: "The header x-portkey-mode is not 'proxy NAME'.",
                    hint: "Send for example x-portkey-mode: proxy openai. \(known)")
            }
            name = String(words[1])
        }
        guard let name, !name.isEmpty else {
            throw RoutingRefusal(
                status: 400, code: "provider_missing", message: "No provider is named.",
                hint: "Send x-portkey-mode: proxy NAME, or x-portkey-provider: NAME. \(known)")
        }
        guard let found = providers[name.lowercased()] else {
            throw RoutingRefusal(
                status: 400, code: "provider_unknown", message: "The provider named is not configured.",
                hint: "\(known) Others are added under proxy.providers in the configuration.")
        }
        return found
    }

    private var known: String { "Configured: \(providers.keys.sorted().joined(separator: ", "))." }

    /// The model that the path names where bodies do not: `/models/X:generateContent`, `/model/X/converse`,
    /// `/deployments/X/…`, `/engines/X/…`; nil where it names none. Escapes are undone.
    package static func model(of rest: Range<Int>, in bytes: Span<UInt8>) -> String? {
        for (marker, isLast) in [
            ("/models/", true), ("/model/", false), ("/deployments/", false), ("/engines/", false),
        ] as [(StaticString, Bool)] {
            let count = marker.utf8CodeUnitCount
            guard rest.count > count else { continue }
            for start in rest.lowerBound..<(rest.upperBound - count)
            where bytes[start] == UInt8(ascii: "/") && bytes.equalsIgnoringCase(start..<start + count, marker) {
                var text: [UInt8] = []
                var index = start + count
                while index < rest.upperBound, bytes[index] != UInt8(ascii: "/") {
                    // What follows the colon is Gemini's verb; elsewhere a colon belongs to the name.
                    if isLast, bytes[index] == UInt8(ascii: ":") { break }
                    if let byte = RequestHead.escaped(bytes, index, rest.upperBound) {
                        text.append(byte)
                        index += 3
                    } else {
                        text.append(bytes[index])
                        index += 1
                    }
                }
                // A list of models, or one looked up, is not a request to it.
                let isUsed = index < rest.upperBound
                return isUsed && !text.isEmpty ? String(decoding: text, as: UTF8.self) : nil
            }
        }
        return nil
    }

    /// OpenTelemetry's `gen_ai.operation.name` where it has one for the path, else a name of the same kind; a small
    /// closed set, because it is a dimension.
    package static func operation(of rest: Range<Int>, in bytes: Span<UInt8>) -> String {
        func ends(_ suffix: StaticString) -> Bool {
            let count = suffix.utf8CodeUnitCount
            return rest.count >= count && bytes.equalsIgnoringCase(rest.upperBound - count..<rest.upperBound, suffix)
        }
        if ends("/chat/completions") || ends("/messages") || ends("/chat") || ends("/converse")
            || ends("/converse-stream")
        {
            return "chat"
        }
        if ends("/completions") || ends("/complete") || ends("/generate") { return "text_completion" }
        if ends("/embeddings") || ends("/embed") || ends(":embedcontent") || ends(":batchembedcontents") {
            return "embeddings"
        }
        if ends("/rerank") { return "rerank" }
        if ends("/invoke") || ends("/invoke-with-response-stream") { return "generate_content" }
        if ends("/responses") { return "responses" }
        if ends(":generatecontent") || ends(":streamgeneratecontent") { return "generate_content" }
        if ends("/moderations") { return "moderation" }
        if ends("/images/generations") || ends("/images/edits") || ends("/images/variations") {
            return "image_generation"
        }
        if ends("/audio/transcriptions") || ends("/audio/translations") { return "transcription" }
        if ends("/audio/speech") { return "speech" }
        if ends("/models") { return "models" }
        return "other"
    }
}
