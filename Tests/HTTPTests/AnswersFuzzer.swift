// Any bytes as a provider's -> the same answers wherever they are cut.

import HTTPMessages

#if !FUZZING
    import HTTPTransport
#endif

private final class Journal: MessageSink {
    let parser = MessageParser(answers: true)
    private let toHEAD: Bool
    var messages: [[UInt8]] = []
    private var current: [UInt8] = []
    private(set) var isRefused = false

    init(toHEAD: Bool) {
        self.toHEAD = toHEAD
        parser.sink = self
    }
    deinit { parser.sink = nil }

    func headParsed(_ bytes: Span<UInt8>) -> MessageParser.Verdict {
        do throws(Refusal) {
            let head = try ResponseHead(bytes, parser.scanner, toHEAD: toHEAD)
            current += [UInt8(head.status & 0xFF), head.keepsAlive ? 1 : 0]
            for index in head.reason { current.append(bytes[index]) }
            for field in parser.scanner.fields {
                for index in field.nameRange { current.append(bytes[index]) }
                for index in field.valueRange { current.append(bytes[index]) }
            }
            current.append(0)
            return head.hasNoBody ? .withoutBody : head.framing == .chunked ? .chunked : .proceed
        } catch { return .refuse(error) }
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

    /// Whether the connection's end was a message's.
    func end() -> Bool { !isRefused && parser.connectionEnded() }
}

/// What `make fuzz` feeds, and `FuzzCorpusTests` with what it has found. The first byte decides where the rest is cut.
func fuzzAnswers(_ input: UnsafeRawBufferPointer) {
    guard let first = input.first, input.count > 1 else { return }
    let bytes = UnsafeRawBufferPointer(rebasing: input[1...])
    let toHEAD = first & 0x80 != 0
    let whole = Journal(toHEAD: toHEAD)
    whole.feed(bytes)
    let cut = Journal(toHEAD: toHEAD)
    let step = Int(first & 0x7F) % 17 + 1
    for begin in stride(from: 0, to: bytes.count, by: step) {
        cut.feed(UnsafeRawBufferPointer(rebasing: bytes[begin..<min(begin + step, bytes.count)]))
    }
    precondition(whole.isRefused == cut.isRefused, "refused only when cut so, or only whole")
    precondition(whole.end() == cut.end(), "ended only when cut so, or only whole")
    precondition(whole.messages == cut.messages, "another reading when cut so")
}

#if FUZZING
    @_cdecl("LLVMFuzzerTestOneInput")
    public func fuzz(_ start: UnsafePointer<UInt8>?, _ count: Int) -> Int32 {
        fuzzAnswers(UnsafeRawBufferPointer(start: start, count: count))
        return 0
    }
#endif
