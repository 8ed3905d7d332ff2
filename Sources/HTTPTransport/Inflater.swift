// Compressed bytes -> plain ones, a piece at a time, for whoever reads along. What passes to the client is untouched.

import CZlib

/// Reads `gzip` and `deflate` (RFC 9110 §8.4.1). Reused from body to body; owned by one event loop.
///
/// | limit | value | why | at the limit |
/// | --- | --- | --- | --- |
/// | `pieceSize` | 16 KiB | one buffer, whatever the ratio | handed on, refilled |
/// | `plainLimit` | 256 MiB a body | a bomb costs this much time and no memory | the rest passes unread |
package final class Inflater {
    package static let pieceSize = 16_384
    package static let plainLimit = 256 << 20

    private let stream = UnsafeMutablePointer<z_stream>.allocate(capacity: 1)
    private let piece = UnsafeMutableRawBufferPointer.allocate(byteCount: Inflater.pieceSize, alignment: 16)
    private var plain = 0
    private var isOver = false
    /// The body is not what it says it is, or larger than is read.
    package private(set) var hasFailed = false

    /// nil where there is no memory for zlib's window.
    package init?() {
        stream.initialize(to: z_stream())
        // 15 bits of window; 32 more: take gzip's header or zlib's, whichever comes.
        guard inflateInit2_(stream, 15 + 32, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size)) == Z_OK else {
            stream.deallocate()
            piece.deallocate()
            return nil
        }
    }

    deinit {
        inflateEnd(stream)
        stream.deallocate()
        piece.deallocate()
    }

    /// Ready for another body.
    package func reset() {
        inflateReset(stream)
        plain = 0
        isOver = false
        hasFailed = false
    }

    /// Hands the plain text of these bytes on, piece by piece.
    package func feed(_ bytes: UnsafeRawBufferPointer, _ sink: (UnsafeRawBufferPointer) -> Void) {
        guard !hasFailed, let base = bytes.bindMemory(to: UInt8.self).baseAddress else { return }
        // zlib reads through this pointer and does not write.
        stream.pointee.next_in = UnsafeMutablePointer(mutating: base)
        stream.pointee.avail_in = UInt32(bytes.count)
        while true {
            if isOver {
                // Another member may follow (RFC 1952 §2.2).
                guard stream.pointee.avail_in > 0 else { return }
                inflateReset(stream)
                isOver = false
            }
            stream.pointee.next_out = piece.bindMemory(to: UInt8.self).baseAddress
            stream.pointee.avail_out = UInt32(piece.count)
            let status = inflate(stream, Z_NO_FLUSH)
            let count = piece.count - Int(stream.pointee.avail_out)
            plain += count
            if count > 0 { sink(UnsafeRawBufferPointer(rebasing: piece[..<count])) }
            switch status {
            case Z_OK where plain <= Self.plainLimit: if stream.pointee.avail_out > 0 { return }
            case Z_STREAM_END: isOver = true
            case Z_BUF_ERROR: return  // it wants more bytes
            default:
                hasFailed = true
                return
            }
        }
    }
}
