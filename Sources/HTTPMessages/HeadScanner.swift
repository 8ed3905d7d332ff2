// Bytes of a message's head -> its lines, or the reason why it is refused.
//
// The framing itself (lengths, chunks, keep-alive) is http-parser's; this scanner runs before it over the same bytes
// and closes its leniencies: what it lets through has one meaning only. It resumes where it stopped, so a head that
// arrives a byte at a time costs no more than one that arrives whole.

/// One header line: where its name and value lie in the scanned bytes. The value has no white space around it.
package struct HeaderField: Sendable {
    package var name: HeaderName
    package var nameStart: Int32
    package var nameCount: Int32
    package var valueStart: Int32
    package var valueCount: Int32

    package var nameRange: Range<Int> { Int(nameStart)..<Int(nameStart + nameCount) }
    package var valueRange: Range<Int> { Int(valueStart)..<Int(valueStart + valueCount) }
}

package struct HeadScanner: Sendable {
    package enum Progress: Equatable, Sendable {
        case incomplete
        /// The head ends before this index (after its empty line).
        case complete(end: Int)
        case refused(Refusal)
    }

    /// The first line without its line end.
    package private(set) var startLine = 0..<0
    package private(set) var fields: [HeaderField] = []
    private var lineStart = 0
    private var position = 0
    private var isInFields = false

    package init() { fields.reserveCapacity(32) }

    /// Begins a new message at index 0.
    package mutating func reset() {
        fields.removeAll(keepingCapacity: true)
        startLine = 0..<0
        lineStart = 0
        position = 0
        isInFields = false
    }

    /// Call with all bytes of the message so far, the ones of earlier calls included and unmoved.
    package mutating func scan(_ bytes: Span<UInt8>) -> Progress {
        while position < bytes.count {
            position = Self.endOfPlain(bytes, from: position)
            guard position < bytes.count else { break }
            let byte = bytes[position]
            if byte >= 0x20 && byte != 0x7F || byte == 0x09 {
                position += 1
                continue
            }
            guard byte == 0x0D else { return .refused(byte == 0x0A ? .bareLineEnd : .controlInValue) }
            guard position + 1 < bytes.count else { break }
            guard bytes[position + 1] == 0x0A else { return .refused(.bareLineEnd) }
            let line = lineStart..<position
            position += 2
            lineStart = position
            if let refusal = take(line, bytes) { return .refused(refusal) }
            if line.isEmpty && isInFields {
                return position <= HeadLimits.headSize ? .complete(end: position) : .refused(.headTooLarge)
            }
            if !line.isEmpty { isInFields = true }
        }
        if !isInFields && bytes.count - lineStart > HeadLimits.targetSize + 64 { return .refused(.targetTooLong) }
        return bytes.count > HeadLimits.headSize ? .refused(.headTooLarge) : .incomplete
    }

    /// The next control byte or DEL, looked for in eight bytes at a time; or where fewer than eight are left.
    private static func endOfPlain(_ bytes: Span<UInt8>, from start: Int) -> Int {
        bytes.withUnsafeBytes { raw in
            var position = start
            while position + 8 <= raw.count {
                let word = raw.loadUnaligned(fromByteOffset: position, as: UInt64.self)
                let controls = (word &- 0x2020_2020_2020_2020) & ~word
                let deletes = word ^ 0x7F7F_7F7F_7F7F_7F7F
                let isDelete = (deletes &- 0x0101_0101_0101_0101) & ~deletes
                // A borrow reaches the bytes above it alone: the lowest mark is true.
                let marks = (controls | isDelete) & 0x8080_8080_8080_8080
                if marks != 0 { return position + marks.trailingZeroBitCount / 8 }
                position += 8
            }
            return position
        }
    }

    private mutating func take(_ line: Range<Int>, _ bytes: Span<UInt8>) -> Refusal? {
        if line.isEmpty { return nil }  // the end, or an empty line before the first one (RFC 9112 §2.2)
        if !isInFields {
            startLine = line
            return line.count > HeadLimits.targetSize + 64 ? .targetTooLong : nil
        }
        let first = bytes[line.lowerBound]
        if first == 0x20 || first == 0x09 { return .obsoleteFold }
        if fields.count == HeadLimits.fieldCount { return .tooManyFields }
        var colon = line.lowerBound
        while colon < line.upperBound, Self.isToken(bytes[colon]) { colon += 1 }
        guard colon < line.upperBound, bytes[colon] == UInt8(ascii: ":") else {
            guard colon > line.lowerBound, colon < line.upperBound else { return .badFieldName }
            return bytes[colon] == 0x20 || bytes[colon] == 0x09 ? .spaceBeforeColon : .badFieldName
        }
        guard colon > line.lowerBound else { return .badFieldName }
        var start = colon + 1
        var end = line.upperBound
        while start < end, bytes[start] == 0x20 || bytes[start] == 0x09 { start += 1 }
        while end > start, bytes[end - 1] == 0x20 || bytes[end - 1] == 0x09 { end -= 1 }
        fields.append(
            HeaderField(
                name: HeaderName(bytes, line.lowerBound..<colon), nameStart: Int32(line.lowerBound),
                nameCount: Int32(colon - line.lowerBound), valueStart: Int32(start), valueCount: Int32(end - start)))
        return nil
    }

    /// RFC 9110 §5.6.2 `tchar`, as two 64-bit sets.
    static func isToken(_ byte: UInt8) -> Bool {
        let low: UInt64 = 0x03FF_6CFA_0000_0000  // ! # $ % & ' * + - . 0-9
        let high: UInt64 = 0x57FF_FFFF_C7FF_FFFE  // A-Z ^ _ ` a-z | ~
        return byte < 64 ? low >> UInt64(byte) & 1 == 1 : byte < 128 && high >> UInt64(byte - 64) & 1 == 1
    }
}
