// The text of a JSON number -> its shortest plain form, on the digits themselves: no binary fraction comes between.
//
// `1.0`, `1e0` -> `1`; `1e3` -> `1000`; `-0` -> `0`; `1.50` -> `1.5`; `1e21` -> `1e+21`. An exponent is written only
// where the plain form would need more than 21 digits before the point, or more than 21 with the zeros behind it.

enum DecimalText {
    private static let plainDigits = 21
    /// Beyond so many digits an exponent is left as it stands: no such number is a value of anything.
    private static let exponentDigits = 9

    /// `text`: a number by RFC 8259 §6.
    static func canonical(_ text: UnsafeRawBufferPointer) -> [UInt8] {
        var at = 0
        let isNegative = !text.isEmpty && text[0] == UInt8(ascii: "-")
        if isNegative { at = 1 }
        // The significant digits, and how many of them stand before the point.
        var digits: [UInt8] = []
        var point = 0
        var isFraction = false
        while at < text.count {
            let byte = text[at]
            if byte == UInt8(ascii: ".") {
                isFraction = true
            } else if byte | 0x20 == UInt8(ascii: "e") {
                break
            } else if byte != UInt8(ascii: "0") || !digits.isEmpty {
                digits.append(byte)
                if !isFraction { point += 1 }
            } else if isFraction {
                point -= 1
            }
            at += 1
        }
        while digits.last == UInt8(ascii: "0") { digits.removeLast() }
        if digits.isEmpty { return [UInt8(ascii: "0")] }
        if at < text.count {
            guard let exponent = exponent(text[(at + 1)...]) else { return Array(text) }
            point += exponent
        }

        var out: [UInt8] = isNegative ? [UInt8(ascii: "-")] : []
        if point > plainDigits || point <= -plainDigits {
            out.append(digits[0])
            if digits.count > 1 {
                out.append(UInt8(ascii: "."))
                out.append(contentsOf: digits[1...])
            }
            out.append(contentsOf: (point > 0 ? "e+" : "e").utf8)
            out.append(contentsOf: String(point - 1).utf8)
        } else if point <= 0 {
            out.append(contentsOf: "0.".utf8)
            out.append(contentsOf: repeatElement(UInt8(ascii: "0"), count: -point))
            out.append(contentsOf: digits)
        } else if point >= digits.count {
            out.append(contentsOf: digits)
            out.append(contentsOf: repeatElement(UInt8(ascii: "0"), count: point - digits.count))
        } else {
            out.append(contentsOf: digits[..<point])
            out.append(UInt8(ascii: "."))
            out.append(contentsOf: digits[point...])
        }
        return out
    }

    private static func exponent(_ text: Slice<UnsafeRawBufferPointer>) -> Int? {
        var value = 0
        var digits = 0
        for byte in text where byte != UInt8(ascii: "+") && byte != UInt8(ascii: "-") {
            value = value &* 10 &+ Int(byte &- UInt8(ascii: "0"))
            if value > 0 { digits += 1 }
            if digits > exponentDigits { return nil }
        }
        return text.first == UInt8(ascii: "-") ? -value : value
    }
}
