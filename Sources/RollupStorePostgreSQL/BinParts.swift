// The bins of a rollup row on this store: a list of parts, each its length as a varint and a `BinBlob` of that length.
//
// Two lists add up by standing one after the other, which SQL does without understanding them. A list that has grown
// long is made one part again by the writer; whoever reads adds the parts.

import Rollups

enum BinParts {
    /// A list that is longer is looked at after it was added to.
    static let longest = 1_000

    /// Bytes that one part of so many bins takes at most.
    static func capacity(_ bins: Int) -> Int { BinBlob.capacity(bins) + 5 }

    /// One part, none where there are no bins; the number of bytes.
    static func encode(_ bins: [SketchBin], into out: UnsafeMutableRawBufferPointer) -> Int {
        if bins.isEmpty { return 0 }
        // Room for the length before it is known; most take one or two bytes.
        let size = BinBlob.encode(bins, into: UnsafeMutableRawBufferPointer(rebasing: out[5...]))
        var rest = UInt32(size)
        var head = 0
        while rest >= 0x80 {
            out[head] = UInt8(truncatingIfNeeded: rest) | 0x80
            rest >>= 7
            head += 1
        }
        out[head] = UInt8(truncatingIfNeeded: rest)
        head += 1
        out.baseAddress?.advanced(by: head).copyMemory(from: out.baseAddress.unsafelyUnwrapped + 5, byteCount: size)
        return head + size
    }

    static func encode(_ bins: [SketchBin]) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: capacity(bins.count)) { buffer, count in
            count = encode(bins, into: UnsafeMutableRawBufferPointer(buffer))
        }
    }

    /// The sum of all parts; nil where the bytes are none of `encode`, one after the other.
    static func decode(_ list: UnsafeRawBufferPointer) -> [SketchBin]? {
        var bins: [SketchBin] = []
        var parts = 0
        var position = 0
        while position < list.count {
            var size = 0
            var shift = 0
            while true {
                guard position < list.count, shift < 35 else { return nil }
                let byte = list[position]
                position += 1
                size |= Int(byte & 0x7F) << shift
                shift += 7
                if byte < 0x80 { break }
            }
            guard size <= list.count - position,
                let part = BinBlob.decode(UnsafeRawBufferPointer(rebasing: list[position..<position + size]))
            else { return nil }
            position += size
            parts += 1
            if parts == 1 { bins = part } else { bins += part }
        }
        if parts > 1 { bins.normalize() }
        return bins
    }
}
