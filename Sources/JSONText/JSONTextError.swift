// Why bytes are not JSON text (RFC 8259).

package struct JSONTextError: Error, Sendable, Equatable, CustomStringConvertible {
    package enum Code: String, Sendable, CaseIterable {
        case unexpectedEnd = "unexpected_end"
        case unexpectedByte = "unexpected_byte"
        case badNumber = "bad_number"
        case badEscape = "bad_escape"
        /// A `\u` surrogate without its other half.
        case loneSurrogate = "lone_surrogate"
        /// A byte below 0x20 in a string.
        case controlCharacter = "control_character"
        case invalidUTF8 = "invalid_utf8"
        /// More open arrays and objects than the limit.
        case tooDeep = "too_deep"
        /// Something other than blanks behind the value.
        case trailingText = "trailing_text"
    }

    package var code: Code
    /// Bytes from the start.
    package var position: Int

    package init(code: Code, position: Int) {
        self.code = code
        self.position = position
    }

    package var description: String {
        let what =
            switch code {
            case .unexpectedEnd: "the JSON text ends too early"
            case .unexpectedByte: "a character that JSON does not allow here"
            case .badNumber: "a number that JSON does not allow"
            case .badEscape: "an escape that JSON does not have"
            case .loneSurrogate: "half of a surrogate pair"
            case .controlCharacter: "a control character in a string"
            case .invalidUTF8: "bytes that are not UTF-8"
            case .tooDeep: "too many nested arrays and objects"
            case .trailingText: "text behind the JSON value"
            }
        return "\(what), at byte \(position)"
    }
}
