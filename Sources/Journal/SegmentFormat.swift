// What a segment file looks like. A lane is a row of segments, `00000000.segment` upwards; readers and the writer meet
// in this layout alone, in one process or in several.
//
// Page 0 is the header (little endian):
//
// | at | bytes | what |
// | --- | --- | --- |
// | 0 | 8 | magic |
// | 8 | 4 + 4 | format version, lane |
// | 16 | 8 | ordinal, as in the file's name |
// | 24 | 8 | created, UTC microseconds |
// | 32 | 4 | CRC-32C of bytes 0 ..< 32 |
// | 40 | 8 + 8 | sequence of the first record, and its complement; until they match the segment is a spare |
// | 64 | 8 | committed: the frames below this file position are whole (stored after the frame, release order) |
// | 72 | 8 | records below `committed` |
//
// A segment is prepared before anyone knows which record will be its first: that is why files are numbered by ordinal
// and carry their base sequence inside, where writing it needs no system call.
//
// From page 1 on, frames follow at multiples of 8 bytes:
//
// | at | bytes | what |
// | --- | --- | --- |
// | 0 | 4 | length of the frame without padding, written last; 0: nothing yet; 0xFFFFFFFF: go on in the next segment |
// | 4 | 4 | CRC-32C of bytes 8 ..< length |
// | 8 | 4 | low half of the record's sequence: after damage it tells how many records were lost |
// | 12 | 1 + 1 + 1 + 1 | kind, length of the key, flags (1: had waited in memory), zero |
// | 16 | | key, value |

import Synchronization

package enum SegmentLayout {
    package static let magic: UInt64 = 0x3147_4553_4C4C_494D
    package static let version: UInt32 = 1
    package static let headerSize = 4_096
    package static let identitySize = 32
    package static let baseAt = 40
    package static let committedAt = 64
    package static let recordsAt = 72
}

/// A 64-bit word of a mapped file, shared with other processes.
struct SharedWord {
    private let word: UnsafeMutablePointer<Atomic<UInt64>>
    init(_ page: UnsafeMutableRawPointer, at offset: Int) {
        word = (page + offset).assumingMemoryBound(to: Atomic<UInt64>.self)
    }
    func load() -> UInt64 { word.pointee.load(ordering: .acquiring) }
    func store(_ value: UInt64) { word.pointee.store(value, ordering: .releasing) }
}

/// The header page, wherever it is mapped. The mapping outlives this view: the owner of the page sees to it.
struct SegmentHeader {
    let page: UnsafeMutableRawPointer

    func write(lane: Int32, ordinal: UInt64, createdMicroseconds: Int64) {
        page.storeBytes(of: SegmentLayout.magic.littleEndian, as: UInt64.self)
        page.storeBytes(of: SegmentLayout.version.littleEndian, toByteOffset: 8, as: UInt32.self)
        page.storeBytes(of: lane.littleEndian, toByteOffset: 12, as: Int32.self)
        page.storeBytes(of: ordinal.littleEndian, toByteOffset: 16, as: UInt64.self)
        page.storeBytes(of: createdMicroseconds.littleEndian, toByteOffset: 24, as: Int64.self)
        page.storeBytes(of: identityChecksum.littleEndian, toByteOffset: 32, as: UInt32.self)
        committed.store(UInt64(SegmentLayout.headerSize))
    }

    private var identityChecksum: UInt32 {
        CRC32C.checksum(UnsafeRawBufferPointer(start: page, count: SegmentLayout.identitySize))
    }

    func isValid(lane: Int32, ordinal: UInt64) -> Bool {
        page.load(as: UInt64.self) == SegmentLayout.magic.littleEndian
            && page.load(fromByteOffset: 8, as: UInt32.self) == SegmentLayout.version.littleEndian
            && page.load(fromByteOffset: 12, as: Int32.self) == lane.littleEndian
            && page.load(fromByteOffset: 16, as: UInt64.self) == ordinal.littleEndian
            && page.load(fromByteOffset: 32, as: UInt32.self) == identityChecksum.littleEndian
    }

    /// Sequence of the first record; nil for a spare.
    var base: Int64? {
        let value = SharedWord(page, at: SegmentLayout.baseAt).load()
        let check = SharedWord(page, at: SegmentLayout.baseAt + 8).load()
        return check == ~value ? Int64(bitPattern: value) : nil
    }

    func setBase(_ sequence: Int64) {
        SharedWord(page, at: SegmentLayout.baseAt).store(UInt64(bitPattern: sequence))
        SharedWord(page, at: SegmentLayout.baseAt + 8).store(~UInt64(bitPattern: sequence))
    }

    var committed: SharedWord { SharedWord(page, at: SegmentLayout.committedAt) }
    var records: SharedWord { SharedWord(page, at: SegmentLayout.recordsAt) }
}

/// One frame, read or written at an address.
package enum Frame {
    package static let headerSize = 16
    package static let alignment = 8
    package static let endMarker = UInt32.max
    package static let keyLimit = 255

    package static func padded(_ length: Int) -> Int { (length + alignment - 1) & ~(alignment - 1) }

    /// Writes all but the length, which makes the frame visible. There is room for `length` bytes.
    static func writeBody(
        at address: UnsafeMutableRawPointer, length: Int, sequence: Int64, kind: UInt8, key: UnsafeRawBufferPointer,
        value: UnsafeRawBufferPointer, hadWaited: Bool = false
    ) {
        address.storeBytes(of: UInt32(truncatingIfNeeded: sequence).littleEndian, toByteOffset: 8, as: UInt32.self)
        address.storeBytes(of: kind, toByteOffset: 12, as: UInt8.self)
        address.storeBytes(of: UInt8(truncatingIfNeeded: key.count), toByteOffset: 13, as: UInt8.self)
        address.storeBytes(of: hadWaited ? 1 : 0, toByteOffset: 14, as: UInt8.self)
        address.storeBytes(of: 0, toByteOffset: 15, as: UInt8.self)
        if let source = key.baseAddress { (address + headerSize).copyMemory(from: source, byteCount: key.count) }
        if let source = value.baseAddress {
            (address + headerSize + key.count).copyMemory(from: source, byteCount: value.count)
        }
        let checksum = CRC32C.checksum(UnsafeRawBufferPointer(start: address + 8, count: length - 8))
        address.storeBytes(of: checksum.littleEndian, toByteOffset: 4, as: UInt32.self)
    }

    /// The last store of a frame: after it, all that was written before stands.
    static func writeLength(_ length: UInt32, at address: UnsafeMutableRawPointer) {
        address.assumingMemoryBound(to: Atomic<UInt32>.self).pointee.store(length.littleEndian, ordering: .releasing)
    }

    static func writeEndMarker(at address: UnsafeMutableRawPointer, sequence: Int64) {
        let none = UnsafeRawBufferPointer(start: nil, count: 0)
        writeBody(at: address, length: headerSize, sequence: sequence, kind: 0, key: none, value: none)
        writeLength(endMarker, at: address)
    }

    enum Found: Equatable {
        /// Whole, with the right checksum; its length without padding.
        case frame(length: Int)
        /// Sound as far as seen, but the bytes at hand end before it does.
        case partial(length: Int)
        case endMarker
        case empty
        case damaged
    }

    /// Judges the frame at the start of `bytes`, where the one with the low sequence half `sequence` should stand.
    /// `room`: how many bytes the segment holds from here on.
    static func judge(_ bytes: UnsafeRawBufferPointer, sequence: UInt32, room: Int) -> Found {
        guard bytes.count >= headerSize else { return room >= headerSize ? .partial(length: headerSize) : .empty }
        let length = UInt32(littleEndian: bytes.loadUnaligned(as: UInt32.self))
        if length == 0 { return .empty }
        let found = UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt32.self))
        let checksum = UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 4, as: UInt32.self))
        if length == endMarker {
            let sound = CRC32C.checksum(UnsafeRawBufferPointer(rebasing: bytes[8..<headerSize])) == checksum
            return sound && found == sequence ? .endMarker : .damaged
        }
        let whole = Int(length)
        guard whole >= headerSize + Int(bytes[13]), whole <= room, found == sequence else { return .damaged }
        if whole > bytes.count { return .partial(length: whole) }
        let sound = CRC32C.checksum(UnsafeRawBufferPointer(rebasing: bytes[8..<whole])) == checksum
        return sound ? .frame(length: whole) : .damaged
    }

    /// A whole frame on its own, for files beside the lanes.
    package static func encoded(
        sequence: Int64, kind: UInt8, key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer
    ) -> [UInt8] {
        let key = UnsafeRawBufferPointer(rebasing: key.prefix(keyLimit))
        let length = headerSize + key.count + value.count
        var bytes = [UInt8](repeating: 0, count: padded(length))
        bytes.withUnsafeMutableBytes { buffer in
            guard let address = buffer.baseAddress else { return }
            writeBody(at: address, length: length, sequence: sequence, kind: kind, key: key, value: value)
            address.storeBytes(of: UInt32(length).littleEndian, as: UInt32.self)
        }
        return bytes
    }
}
