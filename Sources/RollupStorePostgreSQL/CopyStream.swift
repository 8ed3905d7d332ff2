// Rows -> the binary format of COPY, in pieces that go to the server while the next ones are written.

/// Writes rows: first `row`, then each of its columns in order.
struct CopyStream: ~Copyable {
    /// What is gathered before it is sent: large enough that a piece costs nothing, small enough that the server
    /// works on it while the next one is written.
    private static let pieceSize = 128 << 10

    /// `integer` in the server's catalog.
    private static let integerType: Int32 = 23

    private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: CopyStream.pieceSize, alignment: 8)
    private var count = 0
    private var isBroken = false
    /// False when the connection is lost: the rest is dropped, and the statement's end says why.
    private let send: (UnsafeRawBufferPointer) -> Bool

    init(_ send: @escaping (UnsafeRawBufferPointer) -> Bool) {
        self.send = send
        let signature: [UInt8] = [0x50, 0x47, 0x43, 0x4F, 0x50, 0x59, 0x0A, 0xFF, 0x0D, 0x0A, 0x00]
        buffer.copyBytes(from: signature)
        count = signature.count
        // No flags, no extension.
        put(Int64(0))
    }

    deinit { buffer.deallocate() }

    /// The trailer, and what is still held.
    mutating func finish() {
        row(columns: -1)
        flush()
    }

    @inline(__always)
    mutating func row(columns: Int16) {
        reserve(2)
        put(columns)
    }

    @inline(__always)
    mutating func column(_ value: some FixedWidthInteger) {
        reserve(12)
        put(Int32(value.bitWidth / 8))
        put(value)
    }

    @inline(__always)
    mutating func column(_ value: UInt64?) {
        if let value { column(value) } else { null() }
    }

    @inline(__always)
    mutating func column(_ value: Int64?) {
        if let value { column(value) } else { null() }
    }

    @inline(__always)
    mutating func column(_ high: UInt64, _ low: UInt64) {
        reserve(20)
        put(Int32(16))
        put(high)
        put(low)
    }

    /// An array of integers, by their bits.
    mutating func column(_ values: ArraySlice<UInt32>) {
        // Dimensions, whether there are nulls, the type of the elements; of the one dimension its length and begin.
        let header = values.isEmpty ? 12 : 20
        reserve(4 + header)
        put(Int32(header + values.count * 8))
        put(Int32(values.isEmpty ? 0 : 1))
        put(Int32(0))
        put(Self.integerType)
        if !values.isEmpty {
            put(Int32(values.count))
            put(Int32(1))
        }
        for value in values {
            reserve(8)
            put(Int32(4))
            put(value)
        }
    }

    @inline(__always)
    mutating func null() {
        reserve(4)
        put(Int32(-1))
    }

    /// NULL where it is empty.
    @inline(__always)
    mutating func column(unlessEmpty bytes: UnsafeRawBufferPointer) {
        if bytes.count == 0 { null() } else { column(bytes) }
    }

    @inline(__always)
    mutating func column(_ bytes: UnsafeRawBufferPointer) {
        reserve(4)
        put(Int32(bytes.count))
        if bytes.count > buffer.count - count { flush() }
        if bytes.count > buffer.count {
            if !isBroken { isBroken = !send(bytes) }
            return
        }
        UnsafeMutableRawBufferPointer(rebasing: buffer[count...]).copyMemory(from: bytes)
        count += bytes.count
    }

    @inline(__always)
    private mutating func reserve(_ bytes: Int) {
        if bytes > buffer.count - count { flush() }
    }

    @inline(__always)
    private mutating func put(_ value: some FixedWidthInteger) {
        buffer.storeBytes(of: value.bigEndian, toByteOffset: count, as: type(of: value))
        count += value.bitWidth / 8
    }

    private mutating func flush() {
        if count > 0, !isBroken { isBroken = !send(UnsafeRawBufferPointer(rebasing: buffer[..<count])) }
        count = 0
    }
}
