// The header names that this program treats in a way of their own.

package enum HeaderName: UInt8, Sendable {
    case other
    // Of one connection only (RFC 9110 §7.6.1): never forwarded.
    case connection, keepAlive, proxyAuthenticate, proxyAuthorization, proxyConnection, te, trailer, transferEncoding,
        upgrade
    // Framing and routing: written anew by whoever forwards.
    case contentLength, host, expect
    // Read as they pass.
    case contentType, contentEncoding, traceparent
    // Of the Portkey conventions: read here, never forwarded.
    case portkeyAPIKey, portkeyMode, portkeyProvider, portkeyMeta, portkeyMetadata, portkeyTraceID, portkeySpanID,
        portkeyParentSpanID, portkeyOther
    // Of other gateways, for the same use: read here, never forwarded.
    case heliconeProperty, heliconeUserID, heliconeSessionID, cloudflareMetadata, liteLLMTags, bifrostProperty
    // Of Bedrock's answers: read, and forwarded.
    case bedrockInputTokens, bedrockOutputTokens

    /// Concerns one connection, not the message.
    package var isHopByHop: Bool {
        switch self {
        case .connection, .keepAlive, .proxyAuthenticate, .proxyAuthorization, .proxyConnection, .te, .trailer,
            .transferEncoding, .upgrade:
            true
        default: false
        }
    }

    /// Meant for a gateway such as this one.
    package var isForGateway: Bool {
        rawValue >= HeaderName.portkeyAPIKey.rawValue && rawValue <= HeaderName.bifrostProperty.rawValue
    }

    /// Any case; `other` for a name that means nothing here.
    package init(_ bytes: Span<UInt8>, _ range: Range<Int>) {
        func named(_ name: StaticString) -> Bool { bytes.equalsIgnoringCase(range, name) }
        switch range.count {
        case 2: self = named("te") ? .te : .other
        case 4: self = named("host") ? .host : .other
        case 6: self = named("expect") ? .expect : .other
        case 7: self = named("trailer") ? .trailer : named("upgrade") ? .upgrade : .other
        case 10:
            self =
                named("connection")
                ? .connection : named("keep-alive") ? .keepAlive : Self.prefixed(bytes, range)
        case 11: self = named("traceparent") ? .traceparent : Self.prefixed(bytes, range)
        case 12: self = named("content-type") ? .contentType : Self.prefixed(bytes, range)
        case 14:
            self =
                named("content-length")
                ? .contentLength
                : named("x-portkey-mode")
                    ? .portkeyMode
                    : named("x-portkey-meta") ? .portkeyMeta : Self.prefixed(bytes, range)
        case 16:
            self =
                named("content-encoding")
                ? .contentEncoding
                : named("proxy-connection") ? .proxyConnection : Self.prefixed(bytes, range)
        case 17:
            self =
                named("transfer-encoding")
                ? .transferEncoding
                : named("x-portkey-api-key")
                    ? .portkeyAPIKey
                    : named("x-portkey-span-id") ? .portkeySpanID : Self.prefixed(bytes, range)
        case 18:
            self =
                named("x-portkey-provider")
                ? .portkeyProvider
                : named("x-portkey-metadata")
                    ? .portkeyMetadata
                    : named("x-portkey-trace-id")
                        ? .portkeyTraceID
                        : named("proxy-authenticate") ? .proxyAuthenticate : Self.prefixed(bytes, range)
        case 19: self = named("proxy-authorization") ? .proxyAuthorization : Self.prefixed(bytes, range)
        case 24: self = named("x-portkey-parent-span-id") ? .portkeyParentSpanID : Self.prefixed(bytes, range)
        default: self = Self.prefixed(bytes, range)
        }
    }

    /// Names known by how they begin, or too rarely met for a case of their own above.
    private static func prefixed(_ bytes: Span<UInt8>, _ range: Range<Int>) -> HeaderName {
        func begins(_ prefix: StaticString) -> Bool {
            let count = prefix.utf8CodeUnitCount
            return range.count > count
                && bytes.equalsIgnoringCase(range.lowerBound..<range.lowerBound + count, prefix)
        }
        func named(_ name: StaticString) -> Bool {
            range.count == name.utf8CodeUnitCount && bytes.equalsIgnoringCase(range, name)
        }
        guard range.count > 8 else { return .other }
        switch bytes[range.lowerBound] | 0x20 {
        case UInt8(ascii: "x"):
            if begins("x-portkey-") { return .portkeyOther }
            if begins("x-bf-lh-") { return .bifrostProperty }
            if named("x-litellm-tags") { return .liteLLMTags }
            if named("x-amzn-bedrock-input-token-count") { return .bedrockInputTokens }
            if named("x-amzn-bedrock-output-token-count") { return .bedrockOutputTokens }
        case UInt8(ascii: "h"):
            if begins(heliconePrefix) { return .heliconeProperty }
            if named("helicone-user-id") { return .heliconeUserID }
            if named("helicone-session-id") { return .heliconeSessionID }
        case UInt8(ascii: "c"): if named("cf-aig-metadata") { return .cloudflareMetadata }
        default: break
        }
        return .other
    }

    package static let heliconePrefix: StaticString = "helicone-property-"
    package static let bifrostPrefix: StaticString = "x-bf-lh-"
}

extension Span<UInt8> {
    /// ASCII comparison; `name` in lower case.
    package func equalsIgnoringCase(_ range: Range<Int>, _ name: StaticString) -> Bool {
        guard range.count == name.utf8CodeUnitCount else { return false }
        let expected = name.utf8Start
        return extracting(range).withUnsafeBytes { found in
            var index = 0
            // Most clients write names in lower case: eight bytes at a time, as long as they are the same.
            while index + 8 <= found.count,
                found.loadUnaligned(fromByteOffset: index, as: UInt64.self)
                    == UnsafeRawPointer(expected).loadUnaligned(fromByteOffset: index, as: UInt64.self)
            { index += 8 }
            while index < found.count {
                var byte = found[index]
                if byte &- 0x41 < 26 { byte |= 0x20 }
                if byte != expected[index] { return false }
                index += 1
            }
            return true
        }
    }
}
