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

    /// Concerns one connection, not the message.
    package var isHopByHop: Bool {
        switch self {
        case .connection, .keepAlive, .proxyAuthenticate, .proxyAuthorization, .proxyConnection, .te, .trailer,
            .transferEncoding, .upgrade:
            true
        default: false
        }
    }

    package var isPortkey: Bool { rawValue >= HeaderName.portkeyAPIKey.rawValue }

    /// Any case; `other` for a name that means nothing here.
    package init(_ bytes: Span<UInt8>, _ range: Range<Int>) {
        func named(_ name: StaticString) -> Bool { bytes.equalsIgnoringCase(range, name) }
        switch range.count {
        case 2: self = named("te") ? .te : .other
        case 4: self = named("host") ? .host : .other
        case 6: self = named("expect") ? .expect : .other
        case 7: self = named("trailer") ? .trailer : named("upgrade") ? .upgrade : .other
        case 10: self = named("connection") ? .connection : named("keep-alive") ? .keepAlive : .other
        case 11: self = named("traceparent") ? .traceparent : .other
        case 12: self = named("content-type") ? .contentType : .other
        case 14:
            self =
                named("content-length")
                ? .contentLength
                : named("x-portkey-mode")
                    ? .portkeyMode
                    : named("x-portkey-meta") ? .portkeyMeta : Self.portkey(bytes, range)
        case 16:
            self =
                named("content-encoding")
                ? .contentEncoding
                : named("proxy-connection") ? .proxyConnection : Self.portkey(bytes, range)
        case 17:
            self =
                named("transfer-encoding")
                ? .transferEncoding
                : named("x-portkey-api-key")
                    ? .portkeyAPIKey
                    : named("x-portkey-span-id") ? .portkeySpanID : Self.portkey(bytes, range)
        case 18:
            self =
                named("x-portkey-provider")
                ? .portkeyProvider
                : named("x-portkey-metadata")
                    ? .portkeyMetadata
                    : named("x-portkey-trace-id")
                        ? .portkeyTraceID
                        : named("proxy-authenticate") ? .proxyAuthenticate : Self.portkey(bytes, range)
        case 19: self = named("proxy-authorization") ? .proxyAuthorization : Self.portkey(bytes, range)
        case 24: self = named("x-portkey-parent-span-id") ? .portkeyParentSpanID : Self.portkey(bytes, range)
        default: self = Self.portkey(bytes, range)
        }
    }

    private static func portkey(_ bytes: Span<UInt8>, _ range: Range<Int>) -> HeaderName {
        range.count > 10 && bytes.equalsIgnoringCase(range.lowerBound..<range.lowerBound + 10, "x-portkey-")
            ? .portkeyOther : .other
    }
}

extension Span<UInt8> {
    /// ASCII comparison; `name` in lower case.
    package func equalsIgnoringCase(_ range: Range<Int>, _ name: StaticString) -> Bool {
        guard range.count == name.utf8CodeUnitCount else { return false }
        let expected = name.utf8Start
        for index in 0..<range.count {
            var byte = self[range.lowerBound + index]
            if byte &- 0x41 < 26 { byte |= 0x20 }
            if byte != expected[index] { return false }
        }
        return true
    }
}
