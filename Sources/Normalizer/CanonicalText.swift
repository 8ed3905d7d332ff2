// The forms of text that keys and values are brought into: NFC, trimmed, cased, cut. All of UTF-8 bytes -> bytes, each
// with a short way for ASCII, and each leaves alone what it made.

@_spi(_Unicode) import Swift

enum CanonicalText {
    static func isASCII(_ text: [UInt8]) -> Bool {
        text.withUnsafeBytes { bytes in
            var at = 0
            while bytes.count - at >= 8 {
                if bytes.loadUnaligned(fromByteOffset: at, as: UInt64.self) & 0x8080_8080_8080_8080 != 0 {
                    return false
                }
                at += 8
            }
            while at < bytes.count {
                if bytes[at] >= 0x80 { return false }
                at += 1
            }
            return true
        }
    }

    /// Unicode normalization form C.
    static func composed(_ text: [UInt8]) -> [UInt8] {
        guard !isASCII(text) else { return text }
        var out: [UInt8] = []
        out.reserveCapacity(text.count)
        for scalar in String(decoding: text, as: UTF8.self)._nfc { append(scalar, to: &out) }
        return out
    }

    /// Without White_Space at both ends.
    static func trimmed(_ text: [UInt8]) -> [UInt8] {
        guard let first = text.first, let last = text.last else { return text }
        // The common case: neither end is a blank or beyond ASCII.
        if first > 0x20, first < 0x80, last > 0x20, last < 0x80 { return text }
        var scalars = String(decoding: text, as: UTF8.self).unicodeScalars[...]
        while let scalar = scalars.first, scalar.properties.isWhitespace { scalars.removeFirst() }
        while let scalar = scalars.last, scalar.properties.isWhitespace { scalars.removeLast() }
        return Array(String(scalars).utf8)
    }

    /// Each scalar by its full lower-case mapping, whatever its neighbours.
    static func lowered(_ text: [UInt8]) -> [UInt8] {
        if isASCII(text) { return text.map { isASCIIUpper($0) ? $0 | 0x20 : $0 } }
        var out: [UInt8] = []
        for scalar in String(decoding: text, as: UTF8.self).unicodeScalars {
            out.append(contentsOf: scalar.properties.lowercaseMapping.utf8)
        }
        return composed(out)
    }

    /// `fooBar`, `FooBar`, `foo-bar`, `foo bar`, `FOO_BAR` -> `foo_bar`; `HTTPServer` -> `http_server`.
    ///
    /// A word begins at an upper-case letter behind a lower-case letter or a digit, and at the last of several
    /// upper-case letters before a lower-case one. A run of `_`, `-` and blanks is one `_`, at the ends too.
    static func snake(_ text: [UInt8]) -> [UInt8] {
        if isSnake(text) { return text }
        let scalars = Array(String(decoding: text, as: UTF8.self).unicodeScalars)
        var out: [UInt8] = []
        out.reserveCapacity(text.count + 4)
        for (index, scalar) in scalars.enumerated() {
            if scalar == "_" || scalar == "-" || scalar.properties.isWhitespace {
                if out.last != UInt8(ascii: "_") { out.append(UInt8(ascii: "_")) }
                continue
            }
            let mapping = scalar.properties.lowercaseMapping
            guard mapping.unicodeScalars.first != scalar || mapping.unicodeScalars.count > 1 else {
                append(scalar, to: &out)
                continue
            }
            if index > 0 {
                let before = scalars[index - 1]
                let endsAWord = isLower(before) || isDigit(before)
                let endsCapitals = isUpper(before) && index + 1 < scalars.count && isLower(scalars[index + 1])
                if endsAWord || endsCapitals { out.append(UInt8(ascii: "_")) }
            }
            out.append(contentsOf: mapping.utf8)
        }
        return composed(out)
    }

    /// At most `limit` bytes, cut between scalars, and no blank left at the end; nil where nothing is too long.
    static func cut(_ text: [UInt8], to limit: Int) -> [UInt8]? {
        guard text.count > limit else { return nil }
        var end = limit
        while end > 0, text[end] & 0xC0 == 0x80 { end -= 1 }
        return trimmed(Array(text[..<end]))
    }

    /// Only a-z, 0-9 and single `_`: as most keys are.
    private static func isSnake(_ text: [UInt8]) -> Bool {
        var last: UInt8 = 0
        for byte in text {
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "0")...UInt8(ascii: "9"): break
            case UInt8(ascii: "_") where last != byte: break
            default: return false
            }
            last = byte
        }
        return true
    }

    private static func isASCIIUpper(_ byte: UInt8) -> Bool { byte >= UInt8(ascii: "A") && byte <= UInt8(ascii: "Z") }

    private static func isUpper(_ scalar: Unicode.Scalar) -> Bool {
        scalar.properties.lowercaseMapping != String(scalar)
    }

    private static func isLower(_ scalar: Unicode.Scalar) -> Bool { scalar.properties.isLowercase }

    private static func isDigit(_ scalar: Unicode.Scalar) -> Bool { scalar.properties.numericType == .decimal }

    private static func append(_ scalar: Unicode.Scalar, to out: inout [UInt8]) {
        if scalar.isASCII { out.append(UInt8(scalar.value)) } else { out.append(contentsOf: String(scalar).utf8) }
    }
}
