// The byte work under every reader and writer of this module: runs, UTF-8, escapes.

private let ones: UInt64 = 0x0101_0101_0101_0101
private let highs: UInt64 = 0x8080_8080_8080_8080

/// High bits where a byte of the word is a quote, a backslash or below 0x20. Only the lowest one is certain: a borrow
/// may set bits above it, never below.
@inline(__always)
private func specials(_ word: UInt64) -> UInt64 {
    let quotes = word ^ (ones &* 0x22)
    let backslashes = word ^ (ones &* 0x5C)
    return (((quotes &- ones) & ~quotes) | ((backslashes &- ones) & ~backslashes) | ((word &- ones &* 0x20) & ~word))
        & highs
}

/// The first byte at or after `start` that is a quote, a backslash or a control byte, else the count.
@inline(__always)
func endOfPlain(_ bytes: UnsafeRawBufferPointer, from start: Int) -> Int {
    var at = start
    while bytes.count - at >= 8 {
        let found = specials(UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: at, as: UInt64.self)))
        if found != 0 { return at + found.trailingZeroBitCount / 8 }
        at += 8
    }
    while at < bytes.count {
        let byte = bytes[at]
        if byte == 0x22 || byte == 0x5C || byte < 0x20 { break }
        at += 1
    }
    return at
}

/// The same, and it stops at bytes that are not ASCII too.
@inline(__always)
func endOfPlainASCII(_ bytes: UnsafeRawBufferPointer, from start: Int) -> Int {
    var at = start
    while bytes.count - at >= 8 {
        let word = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: at, as: UInt64.self))
        let found = specials(word) | word & highs
        if found != 0 { return at + found.trailingZeroBitCount / 8 }
        at += 8
    }
    while at < bytes.count {
        let byte = bytes[at]
        if byte == 0x22 || byte == 0x5C || byte < 0x20 || byte >= 0x80 { break }
        at += 1
    }
    return at
}

extension UnsafeRawBufferPointer {
    /// The first byte at or after `start` that does not stand for itself in a string of printable ASCII: a quote, a
    /// backslash, a control byte, or one that is not ASCII; else the count.
    package func endOfPrintable(from start: Int) -> Int {
        var at = start
        while count - at >= 8 {
            let word = UInt64(littleEndian: loadUnaligned(fromByteOffset: at, as: UInt64.self))
            // One more makes a high bit of DEL.
            let found = specials(word) | (word | (word &+ ones)) & highs
            if found != 0 { return at + found.trailingZeroBitCount / 8 }
            at += 8
        }
        while at < count, self[at] >= 0x20, self[at] < 0x7F, self[at] != 0x22, self[at] != 0x5C { at += 1 }
        return at
    }

    /// The first quote, backslash or control byte at or after `start`, else the count.
    package func endOfPlainText(from start: Int) -> Int { endOfPlain(self, from: start) }
}

/// The first LF or CR at or after `start`, else the count.
@inline(__always)
func endOfLine(_ bytes: UnsafeRawBufferPointer, from start: Int) -> Int {
    var at = start
    while at < bytes.count {
        // Text has next to no other control bytes: eight at a time are passed where there is none.
        while bytes.count - at >= 8, !hasControl(bytes.loadUnaligned(fromByteOffset: at, as: UInt64.self)) { at += 8 }
        let end = min(at + 8, bytes.count)
        while at < end {
            if bytes[at] == UInt8(ascii: "\n") || bytes[at] == UInt8(ascii: "\r") { return at }
            at += 1
        }
    }
    return at
}

/// A byte of the word is below 0x20, or may be: above a borrow some are taken for one.
@inline(__always)
private func hasControl(_ word: UInt64) -> Bool { (word &- ones &* 0x20) & ~word & highs != 0 }

@inline(__always)
func isDigit(_ byte: UInt8) -> Bool { byte &- UInt8(ascii: "0") < 10 }

func hexDigit(_ byte: UInt8) -> UInt16? {
    switch byte {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): UInt16(byte - UInt8(ascii: "0"))
    case UInt8(ascii: "a")...UInt8(ascii: "f"): UInt16(byte - UInt8(ascii: "a") + 10)
    case UInt8(ascii: "A")...UInt8(ascii: "F"): UInt16(byte - UInt8(ascii: "A") + 10)
    default: nil
    }
}

/// The four hex digits at `start`, all within the bytes.
func hexUnit(_ bytes: UnsafeRawBufferPointer, at start: Int) -> UInt16? {
    var unit: UInt16 = 0
    for index in start..<start + 4 {
        guard let digit = hexDigit(bytes[index]) else { return nil }
        unit = unit << 4 | digit
    }
    return unit
}

/// The length of the well-formed sequence at `start` (Unicode 15, table 3-7), 0 where there is none.
func lengthOfUTF8(_ bytes: UnsafeRawBufferPointer, at start: Int) -> Int {
    func isTail(_ offset: Int, _ range: ClosedRange<UInt8> = 0x80...0xBF) -> Bool {
        start + offset < bytes.count && range.contains(bytes[start + offset])
    }
    switch bytes[start] {
    case 0x00...0x7F: return 1
    case 0xC2...0xDF: return isTail(1) ? 2 : 0
    case 0xE0: return isTail(1, 0xA0...0xBF) && isTail(2) ? 3 : 0
    case 0xED: return isTail(1, 0x80...0x9F) && isTail(2) ? 3 : 0
    case 0xE1...0xEF: return isTail(1) && isTail(2) ? 3 : 0
    case 0xF0: return isTail(1, 0x90...0xBF) && isTail(2) && isTail(3) ? 4 : 0
    case 0xF1...0xF3: return isTail(1) && isTail(2) && isTail(3) ? 4 : 0
    case 0xF4: return isTail(1, 0x80...0x8F) && isTail(2) && isTail(3) ? 4 : 0
    default: return 0
    }
}

/// Strings of JSON text, taken apart and put together.
package enum JSONStrings {
    /// Appends what a string's content stands for: `content` lies between the quotes. Total: an escape that is cut
    /// off is left out, half of a surrogate pair becomes U+FFFD, bytes that are not UTF-8 stay.
    package static func appendUnescaped(_ content: UnsafeRawBufferPointer, to out: inout [UInt8]) {
        var at = 0
        while at < content.count {
            var end = at
            while end < content.count, content[end] != UInt8(ascii: "\\") { end += 1 }
            out.append(contentsOf: UnsafeRawBufferPointer(rebasing: content[at..<end]))
            at = end
            guard at + 1 < content.count else { return }
            let escape = content[at + 1]
            at += 2
            switch escape {
            case UInt8(ascii: "b"): out.append(0x08)
            case UInt8(ascii: "f"): out.append(0x0C)
            case UInt8(ascii: "n"): out.append(0x0A)
            case UInt8(ascii: "r"): out.append(0x0D)
            case UInt8(ascii: "t"): out.append(0x09)
            case UInt8(ascii: "u"):
                guard content.count - at >= 4, let unit = hexUnit(content, at: at) else { return }
                at += 4
                var scalar = UInt32(unit)
                if unit & 0xFC00 == 0xD800, content.count - at >= 6, content[at] == UInt8(ascii: "\\"),
                    content[at + 1] == UInt8(ascii: "u"), let low = hexUnit(content, at: at + 2),
                    low & 0xFC00 == 0xDC00
                {
                    scalar = 0x10000 + (UInt32(unit & 0x3FF) << 10 | UInt32(low & 0x3FF))
                    at += 6
                }
                out.append(
                    contentsOf: UTF8.encode(Unicode.Scalar(scalar) ?? "\u{FFFD}") ?? UTF8.encodedReplacementCharacter)
            default: out.append(escape)
            }
        }
    }

    /// Appends the text in quotes, with the fewest escapes.
    package static func appendQuoted(_ text: UnsafeRawBufferPointer, to out: inout [UInt8]) {
        out.append(UInt8(ascii: "\""))
        var at = 0
        while true {
            let end = endOfPlain(text, from: at)
            out.append(contentsOf: UnsafeRawBufferPointer(rebasing: text[at..<end]))
            guard end < text.count else { break }
            at = end + 1
            out.append(UInt8(ascii: "\\"))
            switch text[end] {
            case 0x08: out.append(UInt8(ascii: "b"))
            case 0x0C: out.append(UInt8(ascii: "f"))
            case 0x0A: out.append(UInt8(ascii: "n"))
            case 0x0D: out.append(UInt8(ascii: "r"))
            case 0x09: out.append(UInt8(ascii: "t"))
            case UInt8(ascii: "\""), UInt8(ascii: "\\"): out.append(text[end])
            case let control:
                let digits: StaticString = "0123456789abcdef"
                out.append(UInt8(ascii: "u"))
                out.append(UInt8(ascii: "0"))
                out.append(UInt8(ascii: "0"))
                out.append(digits.utf8Start[Int(control >> 4)])
                out.append(digits.utf8Start[Int(control & 15)])
            }
        }
        out.append(UInt8(ascii: "\""))
    }

    package static func appendQuoted(_ text: String, to out: inout [UInt8]) {
        var text = text
        text.withUTF8 { appendQuoted(UnsafeRawBufferPointer($0), to: &out) }
    }

    package static func appendQuoted(_ text: [UInt8], to out: inout [UInt8]) {
        text.withUnsafeBytes { appendQuoted($0, to: &out) }
    }
}
