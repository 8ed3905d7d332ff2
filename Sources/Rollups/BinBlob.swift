// The bins of a rollup row as bytes, and the sum of two of them.
//
// A blob is a list of (gap, count) pairs, both as varints (7 bits a byte, low first, high bit: more follows). The key
// of a bin is kind * 65,536 + index + 32,768; keys rise strictly, and a gap is a key less the key before it (the
// first: the key itself). A typical row costs two bytes a bin.

package enum BinBlob {
    private static let varintSize = 10

    /// Bytes that `bins` take at most.
    package static func capacity(_ bins: Int) -> Int { bins * (4 + varintSize) }

    /// Writes sorted bins; the number of bytes.
    package static func encode(_ bins: [SketchBin], into out: UnsafeMutableRawBufferPointer) -> Int {
        var writer = Writer(out)
        for bin in bins { writer.append(key: key(bin), count: UInt64(bitPattern: bin.count)) }
        return writer.count
    }

    /// nil where the bytes are none of `encode`.
    package static func decode(_ blob: UnsafeRawBufferPointer) -> [SketchBin]? {
        var bins: [SketchBin] = []
        bins.reserveCapacity(blob.count / 2)
        return decode(blob, into: &bins) ? bins : nil
    }

    /// In place of what `bins` held, in its memory; false where the bytes are none of `encode`.
    package static func decode(_ blob: UnsafeRawBufferPointer, into bins: inout [SketchBin]) -> Bool {
        var reader = Reader(blob)
        bins.removeAll(keepingCapacity: true)
        while let next = reader.next() {
            guard let kind = SketchKind(rawValue: UInt8(truncatingIfNeeded: next.key >> 16)) else { return false }
            let index = Int16(truncatingIfNeeded: Int(next.key & 0xFFFF) - 32_768)
            bins.append(SketchBin(kind: kind, index: index, count: Int64(bitPattern: next.count)))
        }
        return !reader.isBroken
    }

    /// A merged bin has at most one byte more of count (a carry) and one more of gap (a bin left out before it), and
    /// no bin has less than two bytes to begin with.
    package static func mergedCapacity(_ a: Int, _ b: Int) -> Int { (a + b) * 2 }

    /// Adds counts bin by bin and leaves out those that come to 0; the number of bytes, nil where one does not parse.
    package static func merge(
        _ a: UnsafeRawBufferPointer, _ b: UnsafeRawBufferPointer, into out: UnsafeMutableRawBufferPointer
    ) -> Int? {
        var left = Reader(a)
        var right = Reader(b)
        var writer = Writer(out)
        var l = left.next()
        var r = right.next()
        while true {
            switch (l, r) {
            case (nil, nil):
                return left.isBroken || right.isBroken ? nil : writer.count
            case (let x?, nil):
                writer.append(key: x.key, count: x.count)
                l = left.next()
            case (nil, let y?):
                writer.append(key: y.key, count: y.count)
                r = right.next()
            case (let x?, let y?):
                if x.key < y.key {
                    writer.append(key: x.key, count: x.count)
                    l = left.next()
                } else if y.key < x.key {
                    writer.append(key: y.key, count: y.count)
                    r = right.next()
                } else {
                    writer.append(key: x.key, count: x.count &+ y.count)
                    l = left.next()
                    r = right.next()
                }
            }
        }
    }

    private static func key(_ bin: SketchBin) -> UInt32 {
        UInt32(bin.kind.rawValue) << 16 | UInt32(truncatingIfNeeded: Int(bin.index) + 32_768)
    }

    private struct Writer {
        private let out: UnsafeMutableRawBufferPointer
        private var last: UInt32 = 0
        private(set) var count = 0

        init(_ out: UnsafeMutableRawBufferPointer) { self.out = out }

        @inline(__always)
        mutating func append(key: UInt32, count: UInt64) {
            if count == 0 { return }
            varint(UInt64(key &- last))
            varint(count)
            last = key
        }

        @inline(__always)
        private mutating func varint(_ value: UInt64) {
            var rest = value
            while rest >= 0x80 {
                out[count] = UInt8(truncatingIfNeeded: rest) | 0x80
                count += 1
                rest >>= 7
            }
            out[count] = UInt8(truncatingIfNeeded: rest)
            count += 1
        }
    }

    private struct Reader {
        private var varints: VarintReader
        private var last: UInt64 = 0
        private(set) var isBroken = false

        init(_ blob: UnsafeRawBufferPointer) { varints = VarintReader(blob) }

        /// nil at the end, and where the rest does not parse.
        @inline(__always)
        mutating func next() -> (key: UInt32, count: UInt64)? {
            if varints.isAtEnd || isBroken { return nil }
            guard let gap = varints.next(), let count = varints.next(), gap <= 0x3_0000, last + gap < 0x3_0000,
                gap > 0 || last == 0
            else {
                isBroken = true
                return nil
            }
            last += gap
            return (UInt32(truncatingIfNeeded: last), count)
        }
    }
}

/// Unsigned numbers of 7 bits a byte, low first, high bit: more follows.
struct VarintReader {
    private let bytes: UnsafeRawBufferPointer
    private(set) var position = 0

    init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    var isAtEnd: Bool { position == bytes.count }

    /// nil where the bytes end too soon, or one has no end.
    @inline(__always)
    mutating func next() -> UInt64? {
        // Most are of one byte.
        if position < bytes.count, bytes[position] < 0x80 {
            position += 1
            return UInt64(bytes[position - 1])
        }
        var value: UInt64 = 0
        var shift: UInt64 = 0
        while position < bytes.count, shift < 64 {
            let byte = bytes[position]
            position += 1
            value |= UInt64(byte & 0x7F) << shift
            if byte < 0x80 { return value }
            shift += 7
        }
        return nil
    }
}
