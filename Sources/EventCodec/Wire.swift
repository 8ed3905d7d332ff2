// Protobuf's wire format, as far as one flat proto3 message needs it (bytes <-> fields).
//
// Reading is strict where strictness costs a sender nothing: a varint has at most 64 bits, wire types are those that
// proto3 writes. Every read is checked against the end, so no bytes whatever make it trap.

enum WireType: UInt8 {
    case varint = 0
    case fixed64 = 1
    case bytes = 2
    case fixed32 = 5
}

struct WireReader {
    let bytes: UnsafeRawBufferPointer
    private(set) var position = 0

    init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    var isAtEnd: Bool { position >= bytes.count }

    func failure(_ code: EventCodecError.Code) -> EventCodecError { EventCodecError(code: code, position: position) }

    @inline(__always)
    mutating func varint() throws(EventCodecError) -> UInt64 {
        guard position < bytes.count else { throw failure(.truncated) }
        let first = bytes[position]
        if first < 0x80 {
            position += 1
            return UInt64(first)
        }
        return try longVarint()
    }

    private mutating func longVarint() throws(EventCodecError) -> UInt64 {
        var value: UInt64 = 0
        var shift: UInt64 = 0
        var at = position
        while true {
            guard at < bytes.count else { throw failure(.truncated) }
            let byte = bytes[at]
            at += 1
            if shift == 63, byte > 1 { throw failure(.overlongVarint) }
            value |= UInt64(byte & 0x7F) << shift
            if byte < 0x80 { break }
            shift += 7
        }
        position = at
        return value
    }

    mutating func tag() throws(EventCodecError) -> (field: UInt32, type: WireType) {
        let start = position
        let tag = try varint()
        let field = tag >> 3
        guard field >= 1, field < 1 << 29 else { throw EventCodecError(code: .badFieldNumber, position: start) }
        guard let type = WireType(rawValue: UInt8(tag & 7)) else {
            throw EventCodecError(code: .badWireType, position: start)
        }
        return (UInt32(field), type)
    }

    mutating func fixed64() throws(EventCodecError) -> UInt64 {
        guard bytes.count - position >= 8 else { throw failure(.truncated) }
        let value = bytes.loadUnaligned(fromByteOffset: position, as: UInt64.self)
        position += 8
        return UInt64(littleEndian: value)
    }

    /// Where a length-delimited field's content lies; the reader stands behind it.
    mutating func content() throws(EventCodecError) -> Range<Int> {
        let length = try varint()
        guard length <= UInt64(bytes.count - position) else { throw failure(.truncated) }
        let start = position
        position += Int(length)
        return start..<position
    }

    /// The same, and it must be UTF-8.
    mutating func text() throws(EventCodecError) -> Range<Int> {
        let range = try content()
        guard isUTF8(UnsafeRawBufferPointer(rebasing: bytes[range])) else {
            throw EventCodecError(code: .invalidText, position: range.lowerBound)
        }
        return range
    }

    mutating func skip(_ type: WireType) throws(EventCodecError) {
        switch type {
        case .varint: _ = try varint()
        case .bytes: _ = try content()
        case .fixed64: try advance(8)
        case .fixed32: try advance(4)
        }
    }

    private mutating func advance(_ count: Int) throws(EventCodecError) {
        guard bytes.count - position >= count else { throw failure(.truncated) }
        position += count
    }
}

/// Names and ids are nearly always ASCII: eight bytes a step, and the library's validation for the rest.
private func isUTF8(_ bytes: UnsafeRawBufferPointer) -> Bool {
    var at = 0
    while bytes.count - at >= 8 {
        if bytes.loadUnaligned(fromByteOffset: at, as: UInt64.self) & 0x8080_8080_8080_8080 != 0 { break }
        at += 8
    }
    while at < bytes.count, bytes[at] < 0x80 { at += 1 }
    return at == bytes.count || String(validating: bytes[at...], as: UTF8.self) != nil
}

// Writing. Defaults are left out, as proto3 says; `optional` fields are written when present.
extension [UInt8] {
    @inline(__always)
    package mutating func appendVarint(_ value: UInt64) {
        var rest = value
        while rest >= 0x80 {
            append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        append(UInt8(rest))
    }

    mutating func appendTag(_ field: UInt32, _ type: WireType) {
        appendVarint(UInt64(field) << 3 | UInt64(type.rawValue))
    }

    mutating func appendField(_ field: UInt32, _ value: UInt64) {
        if value != 0 { appendPresent(field, value) }
    }

    mutating func appendPresent(_ field: UInt32, _ value: UInt64?) {
        guard let value else { return }
        appendTag(field, .varint)
        appendVarint(value)
    }

    mutating func appendFixed(_ field: UInt32, _ value: Int64) {
        guard value != 0 else { return }
        appendTag(field, .fixed64)
        let bits = UInt64(bitPattern: value)
        for shift in stride(from: UInt64(0), to: 64, by: 8) { append(UInt8(truncatingIfNeeded: bits >> shift)) }
    }

    mutating func appendField(_ field: UInt32, _ text: String) {
        let text = text.utf8
        guard !text.isEmpty else { return }
        appendTag(field, .bytes)
        appendVarint(UInt64(text.count))
        append(contentsOf: text)
    }

    mutating func appendField(_ field: UInt32, _ bytes: [UInt8]) {
        guard !bytes.isEmpty else { return }
        appendTag(field, .bytes)
        appendVarint(UInt64(bytes.count))
        append(contentsOf: bytes)
    }
}
