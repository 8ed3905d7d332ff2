// Bytes of a chunked body -> nothing, or the reason why it is refused.
//
// http-parser keeps the framing and is lenient on the way: a bare LF within an extension, anything at all in a trailer.
// This guard runs before it over the same bytes and lets one reading only through. It steps over a chunk's content at
// once, so that it costs by the line, not by the byte.

package struct ChunkGuard: Sendable {
    private enum State: UInt8 {
        case size, beforeExtension, inExtension, inQuotes, quotedPair, sizeLineFeed
        case content, contentReturn, contentLineFeed
        case trailerStart, trailerName, trailerValue, trailerLineFeed, lastLineFeed
        case ended
    }

    private var state = State.size
    private var digits = 0
    /// The size being read, then what is left of the chunk.
    private var left: UInt64 = 0
    private var lineSize = 0
    private var trailerSize = 0
    private var trailerCount = 0

    package init() {}

    /// The body's last line has been read.
    package var isEnded: Bool { state == .ended }

    /// Call with the next bytes of the body; bytes beyond its end are not looked at.
    package mutating func check(_ bytes: Span<UInt8>) -> Refusal? {
        var index = 0
        while index < bytes.count {
            if state == .content {
                let step = min(left, UInt64(bytes.count - index))
                left -= step
                index += Int(step)
                if left == 0 { state = .contentReturn }
                continue
            }
            if state == .ended { return nil }
            if let refusal = take(bytes[index]) { return refusal }
            index += 1
        }
        return nil
    }

    private mutating func take(_ byte: UInt8) -> Refusal? {
        let isReturn = byte == 0x0D
        switch state {
        case .size:
            if let digit = Self.hexadecimal(byte) {
                // Fifteen digits are more than any body and fit 64 bits.
                guard digits < 15 else { return .badChunk }
                digits += 1
                left = left << 4 | UInt64(digit)
                return nil
            }
            guard digits > 0 else { return .badChunk }
            lineSize = digits
            if isReturn { state = .sizeLineFeed } else { return enterExtension(byte) }
        case .beforeExtension:
            return enterExtension(byte)
        case .inExtension, .inQuotes, .quotedPair:
            lineSize += 1
            guard lineSize <= HeadLimits.chunkLineSize else { return .badChunk }
            return extensionByte(byte, isReturn: isReturn)
        case .sizeLineFeed:
            guard byte == 0x0A else { return .badChunk }
            digits = 0
            state = left == 0 ? .trailerStart : .content
        case .content, .ended: break
        case .contentReturn:
            guard isReturn else { return .badChunk }
            state = .contentLineFeed
        case .contentLineFeed:
            guard byte == 0x0A else { return .badChunk }
            state = .size
        case .trailerStart, .trailerName, .trailerValue, .trailerLineFeed, .lastLineFeed:
            return trailerByte(byte, isReturn: isReturn)
        }
        return nil
    }

    /// Behind the size only `;`, and white space before it, may come (RFC 9112 §7.1.1).
    private mutating func enterExtension(_ byte: UInt8) -> Refusal? {
        lineSize += 1
        guard lineSize <= HeadLimits.chunkLineSize else { return .badChunk }
        switch byte {
        case 0x20, 0x09: state = .beforeExtension
        case UInt8(ascii: ";"): state = .inExtension
        default: return .badChunk
        }
        return nil
    }

    private mutating func extensionByte(_ byte: UInt8, isReturn: Bool) -> Refusal? {
        let isText = byte >= 0x20 && byte != 0x7F || byte == 0x09
        switch state {
        case .quotedPair:
            guard isText else { return .badChunk }
            state = .inQuotes
        case .inQuotes:
            guard isText else { return .badChunk }
            if byte == UInt8(ascii: "\\") { state = .quotedPair }
            if byte == UInt8(ascii: "\"") { state = .inExtension }
        default:
            if isReturn {
                state = .sizeLineFeed
            } else if byte == UInt8(ascii: "\"") {
                state = .inQuotes
            } else if !isText || byte >= 0x80 {
                return .badChunk
            }
        }
        return nil
    }

    private mutating func trailerByte(_ byte: UInt8, isReturn: Bool) -> Refusal? {
        trailerSize += 1
        guard trailerSize <= HeadLimits.trailerSize else { return .trailerTooLarge }
        switch state {
        case .trailerStart:
            if isReturn {
                state = .lastLineFeed
                return nil
            }
            guard HeadScanner.isToken(byte) else { return .badTrailer }
            trailerCount += 1
            guard trailerCount <= HeadLimits.fieldCount else { return .trailerTooLarge }
            state = .trailerName
        case .trailerName:
            if byte == UInt8(ascii: ":") {
                state = .trailerValue
            } else if !HeadScanner.isToken(byte) {
                return .badTrailer
            }
        case .trailerValue:
            if isReturn {
                state = .trailerLineFeed
            } else if byte < 0x20 && byte != 0x09 || byte == 0x7F {
                return .badTrailer
            }
        case .trailerLineFeed:
            guard byte == 0x0A else { return .badTrailer }
            state = .trailerStart
        default:
            guard byte == 0x0A else { return .badTrailer }
            state = .ended
        }
        return nil
    }

    private static func hexadecimal(_ byte: UInt8) -> UInt8? {
        switch byte {
        case 0x30...0x39: byte - 0x30
        case 0x41...0x46: byte - 0x37
        case 0x61...0x66: byte - 0x57
        default: nil
        }
    }
}
