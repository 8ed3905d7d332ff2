// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78), eight bytes a step over eight tables.
// Table k maps a byte to its remainder after k further zero bytes, so the tables of one step are independent loads.

package enum CRC32C {
    /// Written once, by the initialiser below, then only read: that makes sharing it safe. Never freed.
    private nonisolated(unsafe) static let tables: UnsafePointer<UInt32> = {
        let tables = UnsafeMutablePointer<UInt32>.allocate(capacity: 8 * 256)
        for byte in 0..<256 {
            var remainder = UInt32(byte)
            for _ in 0..<8 { remainder = remainder & 1 == 0 ? remainder >> 1 : (remainder >> 1) ^ 0x82F6_3B78 }
            tables[byte] = remainder
        }
        for index in 256..<8 * 256 {
            let before = tables[index - 256]
            tables[index] = (before >> 8) ^ tables[Int(before & 0xFF)]
        }
        return UnsafePointer(tables)
    }()

    package static func checksum(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
        var crc = UInt32.max
        guard var at = bytes.baseAddress else { return ~crc }
        let tables = tables
        var left = bytes.count
        while left >= 8 {
            let low = UInt32(littleEndian: at.loadUnaligned(as: UInt32.self)) ^ crc
            let high = UInt32(littleEndian: at.loadUnaligned(fromByteOffset: 4, as: UInt32.self))
            let first = tables[0x700 + Int(low & 0xFF)] ^ tables[0x600 + Int((low >> 8) & 0xFF)]
            let second = tables[0x500 + Int((low >> 16) & 0xFF)] ^ tables[0x400 + Int(low >> 24)]
            let third = tables[0x300 + Int(high & 0xFF)] ^ tables[0x200 + Int((high >> 8) & 0xFF)]
            let fourth = tables[0x100 + Int((high >> 16) & 0xFF)] ^ tables[Int(high >> 24)]
            crc = first ^ second ^ third ^ fourth
            at += 8
            left -= 8
        }
        while left > 0 {
            crc = (crc >> 8) ^ tables[Int((crc ^ UInt32(at.load(as: UInt8.self))) & 0xFF)]
            at += 1
            left -= 1
        }
        return ~crc
    }
}
