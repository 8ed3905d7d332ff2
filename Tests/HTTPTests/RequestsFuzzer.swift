// Any bytes as a client's -> the same requests wherever they are cut, and nothing that the rules forbid.

import HTTPMessages

#if !FUZZING
    import HTTPTransport
#endif

/// What a parser said, in words that can be compared.
private final class Journal: MessageSink {
    let parser = MessageParser(answers: false)
    var messages: [[UInt8]] = []
    private var current: [UInt8] = []
    private(set) var isRefused = false

    init() { parser.sink = self }
    deinit { parser.sink = nil }

    func headParsed(_ bytes: Span<UInt8>) -> MessageParser.Verdict {
        do throws(Refusal) {
            let head = try RequestHead(bytes, parser.scanner)
            for range in [head.method, head.target] { append(bytes, range) }
            for field in parser.scanner.fields {
                append(bytes, field.nameRange)
                append(bytes, field.valueRange)
                for index in field.valueRange {
                    precondition(bytes[index] >= 0x20 && bytes[index] != 0x7F || bytes[index] == 0x09)
                }
            }
            for index in head.target { precondition(bytes[index] > 0x20 && bytes[index] < 0x7F) }
            precondition(bytes[head.target.lowerBound] == UInt8(ascii: "/"))
            _ = RequestHead.leavesBase(bytes, head.path)
            current.append(0)
            return head.framing == .chunked ? .chunked : .proceed
        } catch { return .refuse(error) }
    }

    private func append(_ bytes: Span<UInt8>, _ range: Range<Int>) {
        for index in range { current.append(bytes[index]) }
        current.append(0x0A)
    }

    func bodyParsed(_ bytes: UnsafeRawBufferPointer) { current.append(contentsOf: bytes) }

    func messageEnded(bytesFollow: Bool) {
        messages.append(current)
        current = []
    }

    func feed(_ bytes: UnsafeRawBufferPointer) {
        var rest = bytes
        while !isRefused, !rest.isEmpty {
            switch parser.consume(rest) {
            case .needsMore: return
            case .ended(let consumed): rest = UnsafeRawBufferPointer(rebasing: rest[consumed...])
            case .refused: isRefused = true
            }
        }
    }
}

/// What `make fuzz` feeds, and `FuzzCorpusTests` with what it has found. The first byte decides where the rest is cut.
func fuzzRequests(_ input: UnsafeRawBufferPointer) {
    guard let first = input.first, input.count > 1 else { return }
    let bytes = UnsafeRawBufferPointer(rebasing: input[1...])
    let whole = Journal()
    whole.feed(bytes)
    let cut = Journal()
    let step = Int(first) % 17 + 1
    for begin in stride(from: 0, to: bytes.count, by: step) {
        cut.feed(UnsafeRawBufferPointer(rebasing: bytes[begin..<min(begin + step, bytes.count)]))
    }
    precondition(whole.isRefused == cut.isRefused, "refused only when cut so, or only whole")
    precondition(whole.messages == cut.messages, "another reading when cut so")
}

#if FUZZING
    @_cdecl("LLVMFuzzerTestOneInput")
    public func fuzz(_ start: UnsafePointer<UInt8>?, _ count: Int) -> Int32 {
        fuzzRequests(UnsafeRawBufferPointer(start: start, count: count))
        return 0
    }
#endif
