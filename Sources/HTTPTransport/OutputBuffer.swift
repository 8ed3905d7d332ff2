// Bytes waiting to be written to one socket, contiguous, reused between messages.

import CLibevent
import Glibc

/// Grows as needed: whoever fills it stops at its own high watermark. Owned by one event loop.
package final class OutputBuffer {
    private var memory: UnsafeMutableRawPointer
    private var capacity: Int
    private var head = 0
    private var tail = 0

    /// What is kept between messages; more is given back once the buffer has emptied.
    private static let keptCapacity = 65_536

    package init(capacity: Int = 4_096) {
        self.capacity = capacity
        memory = .allocate(byteCount: capacity, alignment: 16)
    }

    deinit { memory.deallocate() }

    package var count: Int { tail - head }
    package var isEmpty: Bool { tail == head }
    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: memory + head, count: tail - head) }

    func consume(_ count: Int) {
        head += count
        guard head == tail else { return }
        head = 0
        tail = 0
        if capacity > Self.keptCapacity { reallocate(Self.keptCapacity) }
    }

    package func clear() { consume(count) }

    package func append(_ bytes: UnsafeRawBufferPointer) {
        guard let base = bytes.baseAddress, bytes.count > 0 else { return }
        reserve(bytes.count)
        memcpy(memory + tail, base, bytes.count)
        tail += bytes.count
    }

    /// As one chunk of a chunked body: size line, content, line end. Not for empty ones: that is how a body ends.
    package func append(chunk bytes: UnsafeRawBufferPointer) {
        reserve(bytes.count + 24)
        append(digits: UInt64(bytes.count), radix: 16)
        memory.storeBytes(of: UInt16(littleEndian: 0x0A0D), toByteOffset: tail, as: UInt16.self)
        tail += 2
        append(bytes)
        memory.storeBytes(of: UInt16(littleEndian: 0x0A0D), toByteOffset: tail, as: UInt16.self)
        tail += 2
    }

    package func append(copying other: OutputBuffer) { append(other.bytes) }

    package func append(_ text: StaticString) {
        append(UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    }

    package func append(_ text: String) {
        var text = text
        text.withUTF8 { append(UnsafeRawBufferPointer($0)) }
    }

    package func append(_ bytes: [UInt8]) { bytes.withUnsafeBytes { append($0) } }

    package func append(_ bytes: Span<UInt8>, _ range: Range<Int>) {
        bytes.extracting(range).withUnsafeBytes { append($0) }
    }

    package func append(decimal value: UInt64) { append(digits: value, radix: 10) }

    private func append(digits value: UInt64, radix: UInt64) {
        reserve(20)
        var rest = value
        var count = 1
        while rest >= radix {
            rest /= radix
            count += 1
        }
        rest = value
        for index in stride(from: count - 1, through: 0, by: -1) {
            let digit = UInt8(truncatingIfNeeded: rest % radix)
            memory.storeBytes(of: digit < 10 ? digit + 0x30 : digit + 0x57, toByteOffset: tail + index, as: UInt8.self)
            rest /= radix
        }
        tail += count
    }

    private func reserve(_ extra: Int) {
        if tail + extra <= capacity { return }
        if head > 0 {
            memmove(memory, memory + head, tail - head)
            tail -= head
            head = 0
        }
        if tail + extra > capacity { reallocate(max(capacity * 2, tail + extra)) }
    }

    private func reallocate(_ size: Int) {
        let larger = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 16)
        memcpy(larger, memory, tail)
        memory.deallocate()
        memory = larger
        capacity = size
    }
}
