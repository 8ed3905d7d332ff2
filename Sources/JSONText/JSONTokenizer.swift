// Bytes of one whole JSON text -> tokens, without allocation; strict RFC 8259.
//
// Strings are checked when they are met (escapes, surrogate pairs, UTF-8), so taking them apart later cannot fail.
// The kinds of the open containers are the bits of one integer: that sets the greatest depth.

/// Where a string's content lies, between its quotes.
package struct JSONString: Sendable, Equatable {
    package var range: Range<Int>
    /// Without escapes the content is the text itself.
    package var hasEscapes: Bool
    package var isASCII: Bool
}

package enum JSONToken: Sendable, Equatable {
    case beginObject, endObject, beginArray, endArray
    case key(JSONString)
    case string(JSONString)
    /// The number's text.
    case number(Range<Int>)
    case boolean(Bool)
    case null
    /// The text is over; from here on always.
    case end
}

package struct JSONTokenizer {
    /// The greatest limit on depth.
    package static let depthCeiling = 128

    private enum Expectation {
        case value, valueOrEnd, keyOrEnd, key, commaOrEnd, nothing
    }

    package let bytes: UnsafeRawBufferPointer
    package private(set) var position = 0
    /// Open arrays and objects.
    package private(set) var depth = 0
    private var kinds: UInt128 = 0
    private var expected = Expectation.value
    private let limit: Int

    /// `depth`: how many arrays and objects may be open at once, at most `depthCeiling`.
    package init(_ bytes: UnsafeRawBufferPointer, depth: Int = JSONTokenizer.depthCeiling) {
        self.bytes = bytes
        limit = min(depth, Self.depthCeiling)
    }

    /// After an error the tokenizer is spent.
    package mutating func next() throws(JSONTextError) -> JSONToken {
        skipBlanks()
        if expected == .nothing {
            guard position == bytes.count else { throw failure(.trailingText) }
            return .end
        }
        if expected == .commaOrEnd {
            let byte = try current()
            let isObject = kinds & 1 == 1
            if byte == UInt8(ascii: ",") {
                position += 1
                skipBlanks()
                expected = isObject ? .key : .value
            } else if byte == (isObject ? UInt8(ascii: "}") : UInt8(ascii: "]")) {
                return close()
            } else {
                throw failure(.unexpectedByte)
            }
        }
        let byte = try current()
        switch expected {
        case .key, .keyOrEnd:
            if byte == UInt8(ascii: "}"), expected == .keyOrEnd { return close() }
            guard byte == UInt8(ascii: "\"") else { throw failure(.unexpectedByte) }
            let key = try string()
            skipBlanks()
            guard try current() == UInt8(ascii: ":") else { throw failure(.unexpectedByte) }
            position += 1
            expected = .value
            return .key(key)
        case .valueOrEnd where byte == UInt8(ascii: "]"):
            return close()
        default:
            return try value(byte)
        }
    }

    /// Reads the rest of a value of which `token` has just been given; where it ends is `position`.
    package mutating func skip(_ token: JSONToken) throws(JSONTextError) {
        guard token == .beginObject || token == .beginArray else { return }
        let outside = depth - 1
        while depth > outside { _ = try next() }
    }

    private mutating func value(_ byte: UInt8) throws(JSONTextError) -> JSONToken {
        switch byte {
        case UInt8(ascii: "{"):
            try open(isObject: true)
            return .beginObject
        case UInt8(ascii: "["):
            try open(isObject: false)
            return .beginArray
        case UInt8(ascii: "\""):
            let text = try string()
            finishValue()
            return .string(text)
        case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"):
            let range = try number()
            finishValue()
            return .number(range)
        case UInt8(ascii: "t"):
            try literal("true")
            return .boolean(true)
        case UInt8(ascii: "f"):
            try literal("false")
            return .boolean(false)
        case UInt8(ascii: "n"):
            try literal("null")
            return .null
        default:
            throw failure(.unexpectedByte)
        }
    }

    private mutating func open(isObject: Bool) throws(JSONTextError) {
        guard depth < limit else { throw failure(.tooDeep) }
        position += 1
        depth += 1
        kinds = kinds << 1 | (isObject ? 1 : 0)
        expected = isObject ? .keyOrEnd : .valueOrEnd
    }

    private mutating func close() -> JSONToken {
        let isObject = kinds & 1 == 1
        position += 1
        depth -= 1
        kinds >>= 1
        finishValue()
        return isObject ? .endObject : .endArray
    }

    private mutating func finishValue() { expected = depth == 0 ? .nothing : .commaOrEnd }

    private mutating func literal(_ text: StaticString) throws(JSONTextError) {
        for index in 0..<text.utf8CodeUnitCount {
            guard try current() == text.utf8Start[index] else { throw failure(.unexpectedByte) }
            position += 1
        }
        finishValue()
    }

    private mutating func number() throws(JSONTextError) -> Range<Int> {
        let start = position
        if bytes[position] == UInt8(ascii: "-") { position += 1 }
        guard position < bytes.count else { throw failure(.unexpectedEnd) }
        if bytes[position] == UInt8(ascii: "0") { position += 1 } else { try digits() }
        if position < bytes.count, bytes[position] == UInt8(ascii: ".") {
            position += 1
            try digits()
        }
        if position < bytes.count, bytes[position] | 0x20 == UInt8(ascii: "e") {
            position += 1
            if position < bytes.count, bytes[position] == UInt8(ascii: "+") || bytes[position] == UInt8(ascii: "-") {
                position += 1
            }
            try digits()
        }
        if position < bytes.count {
            // `01`, `1.`, `0x1` and `1a` are caught here rather than as trailing text.
            switch bytes[position] {
            case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "z"),
                UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "."), UInt8(ascii: "+"), UInt8(ascii: "-"):
                throw failure(.badNumber)
            default: break
            }
        }
        return start..<position
    }

    private mutating func digits() throws(JSONTextError) {
        guard position < bytes.count else { throw failure(.unexpectedEnd) }
        let start = position
        while position < bytes.count, isDigit(bytes[position]) { position += 1 }
        guard position > start else { throw failure(.badNumber) }
    }

    private mutating func string() throws(JSONTextError) -> JSONString {
        position += 1
        let start = position
        var hasEscapes = false
        var isASCII = true
        while true {
            position = endOfPlainASCII(bytes, from: position)
            guard position < bytes.count else { throw failure(.unexpectedEnd) }
            switch bytes[position] {
            case UInt8(ascii: "\""):
                position += 1
                return JSONString(range: start..<position - 1, hasEscapes: hasEscapes, isASCII: isASCII)
            case UInt8(ascii: "\\"):
                hasEscapes = true
                try escape()
            case ..<0x20: throw failure(.controlCharacter)
            default:
                isASCII = false
                let length = lengthOfUTF8(bytes, at: position)
                guard length > 0 else { throw failure(.invalidUTF8) }
                position += length
            }
        }
    }

    private mutating func escape() throws(JSONTextError) {
        guard position + 1 < bytes.count else { throw failure(.unexpectedEnd) }
        switch bytes[position + 1] {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"), UInt8(ascii: "b"), UInt8(ascii: "f"),
            UInt8(ascii: "n"), UInt8(ascii: "r"), UInt8(ascii: "t"):
            position += 2
        case UInt8(ascii: "u"):
            guard bytes.count - position >= 6 else { throw failure(.unexpectedEnd) }
            guard let unit = hexUnit(bytes, at: position + 2) else { throw failure(.badEscape) }
            if unit & 0xFC00 == 0xDC00 { throw failure(.loneSurrogate) }
            if unit & 0xFC00 == 0xD800 {
                guard bytes.count - position >= 12, bytes[position + 6] == UInt8(ascii: "\\"),
                    bytes[position + 7] == UInt8(ascii: "u"), let low = hexUnit(bytes, at: position + 8),
                    low & 0xFC00 == 0xDC00
                else { throw failure(.loneSurrogate) }
                position += 6
            }
            position += 6
        default: throw failure(.badEscape)
        }
    }

    private mutating func skipBlanks() {
        while position < bytes.count {
            switch bytes[position] {
            case 0x20, 0x0A, 0x0D, 0x09: position += 1
            default: return
            }
        }
    }

    private func current() throws(JSONTextError) -> UInt8 {
        guard position < bytes.count else { throw failure(.unexpectedEnd) }
        return bytes[position]
    }

    private func failure(_ code: JSONTextError.Code) -> JSONTextError {
        JSONTextError(code: code, position: position)
    }
}
