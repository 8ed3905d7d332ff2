// A text/event-stream body in chunks, cut anywhere -> the payload of each event, piece by piece.
//
// Lines end with CR LF, LF or CR; an empty line ends an event; only `data` fields matter here. Several of them in one
// event are joined by LF. Nothing is held back but the first bytes of a payload that may yet turn out to be `[DONE]`.

package enum SSEPart {
    /// A piece of the running event's payload; valid only during the call.
    case data(UnsafeRawBufferPointer)
    /// The event is over; it had data.
    case end
    /// An event whose whole payload was `[DONE]`, in the place of its data and end.
    case done
}

package struct SSEScanner: Sendable {
    private enum State: UInt8 {
        /// At the start of a line, with so many bytes of `data` matched.
        case name
        /// Behind `data:`, where one blank belongs to the syntax.
        case blank
        case payload
        /// A line that is of no use.
        case skip
    }

    private var state = State.name
    private var nameMatched = 0
    /// The last byte was CR: a LF right behind it belongs to it.
    private var afterReturn = false
    private var bomMatched = 0
    /// The event has had a `data` line.
    private var hasData = false
    /// How many bytes of `[DONE]` the payload so far is exactly; -1 where it is something else.
    private var doneMatched = 0

    private static let name: StaticString = "data"
    private static let done: StaticString = "[DONE]"
    private static let newline: StaticString = "\n"

    package init() {}

    package mutating func feed(_ bytes: UnsafeRawBufferPointer, _ sink: (SSEPart) -> Void) {
        var at = 0
        while at < bytes.count {
            let byte = bytes[at]
            if bomMatched < 3 {
                // A byte order mark may open the stream.
                let mark: (UInt8, UInt8, UInt8) = (0xEF, 0xBB, 0xBF)
                let expected = bomMatched == 0 ? mark.0 : bomMatched == 1 ? mark.1 : mark.2
                if byte == expected {
                    bomMatched += 1
                    at += 1
                    continue
                }
                if bomMatched > 0 { state = .skip }
                bomMatched = 3
            }
            if afterReturn {
                afterReturn = false
                if byte == UInt8(ascii: "\n") {
                    at += 1
                    continue
                }
            }
            if byte == UInt8(ascii: "\n") || byte == UInt8(ascii: "\r") {
                endLine(sink)
                afterReturn = byte == UInt8(ascii: "\r")
                at += 1
                continue
            }
            switch state {
            case .name:
                if nameMatched == 0, bytes.count - at >= 5, isDataField(bytes, at: at) {
                    state = .blank
                    at += 5
                    continue
                }
                if nameMatched < 4, byte == Self.name.utf8Start[nameMatched] {
                    nameMatched += 1
                } else if nameMatched == 4, byte == UInt8(ascii: ":") {
                    state = .blank
                } else {
                    state = .skip
                }
                at += 1
            case .blank:
                beginPayload(sink)
                if byte == UInt8(ascii: " ") { at += 1 }
            case .payload:
                let end = endOfLine(bytes, from: at)
                emit(UnsafeRawBufferPointer(rebasing: bytes[at..<end]), sink)
                at = end
            case .skip:
                at = endOfLine(bytes, from: at)
            }
        }
    }

    /// The stream is over. An event that no empty line ended counts too: providers leave it out.
    package mutating func finish(_ sink: (SSEPart) -> Void) {
        if state != .name || nameMatched > 0 { endLine(sink) }
        endEvent(sink)
        self = SSEScanner()
    }

    private mutating func endLine(_ sink: (SSEPart) -> Void) {
        if state == .name {
            if nameMatched == 0 {
                endEvent(sink)
            } else if nameMatched == 4 {
                // `data` alone on its line is an empty data line.
                beginPayload(sink)
            }
        } else if state == .blank {
            beginPayload(sink)
        }
        state = .name
        nameMatched = 0
    }

    private mutating func beginPayload(_ sink: (SSEPart) -> Void) {
        state = .payload
        if hasData { emit(Self.buffer(Self.newline, count: 1), sink) }
        hasData = true
    }

    private mutating func emit(_ piece: UnsafeRawBufferPointer, _ sink: (SSEPart) -> Void) {
        var at = 0
        while doneMatched >= 0, at < piece.count {
            if doneMatched < 6, piece[at] == Self.done.utf8Start[doneMatched] {
                doneMatched += 1
                at += 1
            } else {
                // It is not `[DONE]` after all: what was held back goes first.
                if doneMatched > 0 { sink(.data(Self.buffer(Self.done, count: doneMatched))) }
                doneMatched = -1
            }
        }
        if at < piece.count { sink(.data(UnsafeRawBufferPointer(rebasing: piece[at...]))) }
    }

    private mutating func endEvent(_ sink: (SSEPart) -> Void) {
        guard hasData else { return }
        if doneMatched == 6 {
            sink(.done)
        } else {
            if doneMatched > 0 { sink(.data(Self.buffer(Self.done, count: doneMatched))) }
            sink(.end)
        }
        hasData = false
        doneMatched = 0
    }

    /// `data:` whole, as it nearly always comes.
    @inline(__always)
    private func isDataField(_ bytes: UnsafeRawBufferPointer, at start: Int) -> Bool {
        bytes.loadUnaligned(fromByteOffset: start, as: UInt32.self) == UInt32(littleEndian: 0x6174_6164)
            && bytes[start + 4] == UInt8(ascii: ":")
    }

    private static func buffer(_ text: StaticString, count: Int) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: text.utf8Start, count: count)
    }
}
