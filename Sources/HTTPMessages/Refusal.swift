// Why a message is refused: one table, a test for each row. Nothing ambiguous is repaired or forwarded.

// What is let through, and how. A test for each row (`HeadTests`, `ChunkGuardTests`, `FramingTests`).
//
// | shape | section | what becomes of it |
// | --- | --- | --- |
// | one `content-length` of digits; `0`; none | RFC 9112 §6.3 | accepted |
// | `transfer-encoding: chunked`, alone, in any case, in HTTP/1.1 | RFC 9112 §7.1 | accepted; chunks are cut anew |
// | chunk extensions | RFC 9112 §7.1.1 | checked, dropped |
// | trailers | RFC 9110 §6.5.1 | checked, dropped |
// | white space around a value; bytes from 0x80 in a value; an empty value | RFC 9110 §5.5 | accepted, trimmed |
// | empty lines before the first line | RFC 9112 §2.2 | skipped |
// | absolute-form target | RFC 9112 §3.2.2 | its path and query are taken, its authority is not |
// | a target that begins with a scheme and has no path | RFC 9112 §3.2.1 | refused: no provider serves it |
// | `host` | RFC 9110 §7.2 | written anew: the provider's |
// | `connection` and the lines it names, hop-by-hop lines, `te`, `upgrade` of an answer | RFC 9110 §7.6.1 | dropped |
// | `connection: close`, either side | RFC 9112 §9.6 | that side is closed behind the exchange, the other kept |
// | HTTP/1.0 request | RFC 9112 §9.3 | accepted without `host`; answered in 1.1 and closed |
// | HTTP/1.0 answer | RFC 9112 §6.3 | accepted; to the connection's end where no length is said |
// | `expect: 100-continue` | RFC 9110 §10.1.1 | answered here (a refused head with its refusal), dropped; of HTTP/1.0 ignored |
// | an answer that begins before its request is whole | RFC 9112 §9.6 | passed on with `connection: close` |
// | another expectation | RFC 9110 §10.1.1 | dropped |
// | pipelined requests | RFC 9112 §9.3.2 | read one at a time, answered in order |
// | HEAD | RFC 9110 §9.3.2 | no body follows, whatever the answer's head says |
// | 100 as an answer | RFC 9110 §15.2 | dropped: the expectation was met here; the final one follows |
// | 102 to 199 | RFC 9110 §15.2 | forwarded without a length; dropped for HTTP/1.0 |
// | 204 and 304 | RFC 9112 §6.3 | no body follows, whatever the head says; of 204 the length is dropped |
// | 101, lengths that differ and all else below in an answer | | the exchange fails with 502 |
// | a body beyond a server's limit (the API's; the proxy has none) | RFC 9110 §15.5.14 | 413 |

/// A shape that is never let through. On the request side it is answered and the connection closed; on the response
/// side the exchange fails with 502.
package enum Refusal: UInt8, CaseIterable, Error, Sendable {
    case bareLineEnd, obsoleteFold, spaceBeforeColon, badFieldName, controlInValue
    case badStartLine, badVersion, badTarget, targetTooLong
    case headTooLarge, tooManyFields
    case lengthUnreadable, lengthRepeated, lengthWithTransferCoding, transferCodingUnknown, transferCodingInOldVersion
    case hostMissing, hostRepeated, hostUnreadable, connectionNamesFraming
    case badChunk, badTrailer, trailerTooLarge, methodUnknown, connectRefused, upgradeRefused, pathLeavesBase

    /// The status of the answer, the rule's source, and the sentence that the client reads.
    package var answer: (status: Int, section: String, message: String) {
        switch self {
        case .bareLineEnd: (400, "RFC 9112 §2.2", "a line ends in a bare CR or LF; end each line with CR LF")
        case .obsoleteFold:
            (400, "RFC 9112 §5.2", "a header line begins with white space; send each header on one line")
        case .spaceBeforeColon: (400, "RFC 9112 §5.1", "white space stands before a header's colon; remove it")
        case .badFieldName:
            (400, "RFC 9110 §5.6.2", "a header's name is empty or has a character that names may not have")
        case .controlInValue: (400, "RFC 9110 §5.5", "a header's value has a NUL or control byte")
        case .badStartLine: (400, "RFC 9112 §3", "the first line is not METHOD TARGET HTTP/1.1")
        case .badVersion: (400, "RFC 9112 §2.3", "the version is not HTTP/1.1 or HTTP/1.0")
        case .badTarget:
            (
                400, "RFC 9112 §3.2",
                "the target is neither a path nor an http URL, or not of ASCII without blanks and '#'"
            )
        case .targetTooLong: (414, "RFC 9110 §15.5.15", "the target is longer than 64 KiB")
        case .headTooLarge: (431, "RFC 6585 §5", "the header block is larger than 256 KiB")
        case .tooManyFields: (431, "RFC 6585 §5", "there are more than 1,000 header lines")
        case .lengthUnreadable: (400, "RFC 9110 §8.6", "content-length is not a plain decimal number")
        case .lengthRepeated: (400, "RFC 9112 §6.3", "content-length comes more than once")
        case .lengthWithTransferCoding:
            (400, "RFC 9112 §6.3", "content-length and transfer-encoding both came; send one")
        case .transferCodingUnknown: (501, "RFC 9112 §6.1", "the only transfer-encoding taken is chunked")
        case .transferCodingInOldVersion: (400, "RFC 9112 §6.1", "transfer-encoding came with HTTP/1.0")
        case .hostMissing: (400, "RFC 9112 §3.2", "the host header is missing")
        case .hostRepeated: (400, "RFC 9112 §3.2", "the host header comes more than once")
        case .hostUnreadable: (400, "RFC 9112 §3.2", "the host header is not a host and port")
        case .connectionNamesFraming:
            (400, "RFC 9110 §7.6.1", "connection names content-length, transfer-encoding or host")
        case .badChunk: (400, "RFC 9112 §7.1", "a chunk's size, extension or end is not well formed")
        case .badTrailer: (400, "RFC 9112 §7.1.2", "a trailer line is not well formed")
        case .trailerTooLarge: (431, "RFC 6585 §5", "the trailers are larger than 64 KiB")
        case .methodUnknown: (501, "RFC 9110 §9.1", "the method is not known here")
        case .connectRefused:
            (501, "RFC 9110 §9.3.6", "CONNECT is not offered: this proxy goes to its configured providers only")
        case .upgradeRefused: (501, "RFC 9110 §7.8", "upgrades are not offered; send the request without upgrade")
        case .pathLeavesBase: (400, "RFC 3986 §5.2.4", "the path leaves its base by '..'")
        }
    }

    /// Stable name: metric label and `error.code` of the answer.
    package var code: String {
        switch self {
        case .bareLineEnd: "bare_line_end"
        case .obsoleteFold: "obsolete_fold"
        case .spaceBeforeColon: "space_before_colon"
        case .badFieldName: "bad_field_name"
        case .controlInValue: "control_in_value"
        case .badStartLine: "bad_start_line"
        case .badVersion: "bad_version"
        case .badTarget: "bad_target"
        case .targetTooLong: "target_too_long"
        case .headTooLarge: "head_too_large"
        case .tooManyFields: "too_many_fields"
        case .lengthUnreadable: "length_unreadable"
        case .lengthRepeated: "length_repeated"
        case .lengthWithTransferCoding: "length_with_transfer_coding"
        case .transferCodingUnknown: "transfer_coding_unknown"
        case .transferCodingInOldVersion: "transfer_coding_in_old_version"
        case .hostMissing: "host_missing"
        case .hostRepeated: "host_repeated"
        case .hostUnreadable: "host_unreadable"
        case .connectionNamesFraming: "connection_names_framing"
        case .badChunk: "bad_chunk"
        case .badTrailer: "bad_trailer"
        case .trailerTooLarge: "trailer_too_large"
        case .methodUnknown: "method_unknown"
        case .connectRefused: "connect_refused"
        case .upgradeRefused: "upgrade_refused"
        case .pathLeavesBase: "path_leaves_base"
        }
    }
}

/// | limit | value | at the limit |
/// | --- | --- | --- |
/// | `headSize` | 256 KiB | 431 |
/// | `fieldCount` | 1,000 lines | 431 |
/// | `targetSize` | 64 KiB | 414 |
/// | `chunkLineSize` | 4 KiB | 400 |
/// | `trailerSize` | 64 KiB | 431 |
package enum HeadLimits {
    package static let headSize = 262_144
    package static let fieldCount = 1_000
    package static let targetSize = 65_536
    package static let chunkLineSize = 4_096
    package static let trailerSize = 65_536
}
