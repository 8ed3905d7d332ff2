// The value of `traceparent` -> where its ids lie. Pure.

/// `00-<32 hex trace>-<16 hex span>-<2 hex flags>` (W3C Trace Context §3.2). A later version may go on behind them.
struct TraceParent {
    enum Part { case trace, span }

    private let start: Int

    /// nil for what is not one, or whose ids are all zero.
    init?(_ bytes: Span<UInt8>, _ range: Range<Int>) {
        guard range.count == 55 || range.count > 55 && bytes[range.lowerBound + 55] == UInt8(ascii: "-") else {
            return nil
        }
        start = range.lowerBound
        for offset in 0..<55 {
            let byte = bytes[start + offset]
            if offset == 2 || offset == 35 || offset == 52 {
                guard byte == UInt8(ascii: "-") else { return nil }
            } else {
                guard byte >= 0x30 && byte <= 0x39 || byte >= 0x61 && byte <= 0x66 else { return nil }
            }
        }
        let isFirstVersion = bytes[start] == 0x30 && bytes[start + 1] == 0x30
        let isForbidden = bytes[start] == 0x66 && bytes[start + 1] == 0x66
        guard !isForbidden, !isFirstVersion || range.count == 55 else { return nil }
        guard !isZero(bytes, 3..<35), !isZero(bytes, 36..<52) else { return nil }
    }

    private func isZero(_ bytes: Span<UInt8>, _ offsets: Range<Int>) -> Bool {
        for offset in offsets where bytes[start + offset] != 0x30 { return false }
        return true
    }

    func text(_ part: Part, _ bytes: Span<UInt8>) -> String {
        let range = part == .trace ? start + 3..<start + 35 : start + 36..<start + 52
        return bytes.extracting(range).withUnsafeBytes { String(decoding: $0, as: UTF8.self) }
    }
}
