// JSON text in chunks, cut anywhere -> the values at a few watched paths. One pass, bounded memory, nothing held
// but what was watched.
//
// A machine over bytes: `state` says what may come next, `kinds` which containers are open, `frames` which of them
// lie on a watched path (always the outermost ones: below a container that is on no path, nothing is watched). The
// inside of a string, where nearly all bytes of a prompt lie, is skipped eight bytes a step.
//
// Of a member that comes twice the last counts, as JSON parsers have it: when a watched place begins again, what was
// found at and below it is forgotten. Below a `*` the last value that is not null counts. Text that breaks the
// grammar makes the scanner dead until `reset`, with what it found so far; it reads, it does not validate: numbers and
// the UTF-8 of what it skips are not looked at closely.

package struct JSONPathScanner: Sendable {
    package enum Kind: UInt8, Sendable {
        case string, number, boolean, null, object, array
    }

    private enum State: UInt8 {
        case value, valueOrEnd, keyOrEnd, key, colon, commaOrEnd
        /// Inside a key or a string, its escape, the four digits of its `\u`.
        case string, escape, unicode
        case number, literal
        case finished, dead
    }

    /// A container on a watched path.
    private struct Frame {
        var node: Int
        /// Of an array: the position of the element that came last.
        var index: Int32 = -1
    }

    private struct Slot {
        var start = 0
        var count = 0
        var kind = Kind.null
        var hasEscapes = false
        var isCut = false
    }

    private let paths: JSONPaths
    private var state = State.value
    private var depth = 0
    private var kinds: UInt128 = 0
    private var frames = InlineArray<8, Frame>(repeating: Frame(node: 0))
    private var frameCount = 0
    /// The node of the value that comes next; -1 where it is not watched.
    private var pending = 0
    private var stringIsKey = false
    private var stringHasEscapes = false
    private var unicodeDigits = 0
    private var literal: StaticString = "null"
    private var literalPosition = 0
    private var key: [UInt8] = []
    private var keyIsTooLong = false
    /// The path whose value is being kept, -1 for none; it ends when a value ends at `captureDepth`.
    private var capture = -1
    private var captureDepth = 0
    /// The value being kept, the last in `kept`. It takes its path's place when it is whole: a value that breaks off
    /// leaves the one found before it.
    private var held = Slot()
    private var slots: [Slot]
    private var kept: [UInt8] = []
    private var found: UInt128 = 0
    private var foundInDocument: UInt128 = 0

    package init(paths: JSONPaths) {
        self.paths = paths
        slots = [Slot](repeating: Slot(), count: paths.count)
        precondition(JSONPaths.deepest <= frames.count, "a frame for each segment")
    }

    /// The text broke the grammar, or is nested deeper than `JSONTokenizer.depthCeiling`.
    package var isDead: Bool { state == .dead }
    /// The document is over (a number alone never is).
    package var isFinished: Bool { state == .finished }
    /// Nothing of a document has come that is not over.
    package var isBetweenDocuments: Bool { depth == 0 && (state == .value || state == .finished) }

    /// Back to the start, nothing found; keeps its memory.
    package mutating func reset() {
        nextDocument()
        found = 0
        kept.removeAll(keepingCapacity: true)
        for index in slots.indices { slots[index].count = 0 }
    }

    /// Ready for another document; what was found stays until a value that is not null replaces it.
    package mutating func nextDocument() {
        state = .value
        depth = 0
        kinds = 0
        frameCount = 0
        pending = 0
        dropKey()
        dropHeld()
        foundInDocument = 0
    }

    package mutating func feed(_ bytes: UnsafeRawBufferPointer) {
        var at = 0
        // Where in this chunk the part that is being kept begins.
        var captureStart = 0
        while at < bytes.count {
            let byte = bytes[at]
            switch state {
            case .string:
                let end = endOfPlain(bytes, from: at)
                if stringIsKey, isWatched {
                    if end < bytes.count, bytes[end] == UInt8(ascii: "\""), key.isEmpty, !keyIsTooLong {
                        pending = paths.child(
                            of: frames[frameCount - 1].node, named: UnsafeRawBufferPointer(rebasing: bytes[at..<end]))
                    } else {
                        keepKey(UnsafeRawBufferPointer(rebasing: bytes[at..<end]))
                    }
                }
                guard end < bytes.count else {
                    at = end
                    break
                }
                at = end + 1
                switch bytes[end] {
                case UInt8(ascii: "\""):
                    endString(bytes, contentEnd: end, end: at, captureStart)
                    if stringIsKey { passColon(bytes, &at) } else { passComma(bytes, &at) }
                case UInt8(ascii: "\\"):
                    stringHasEscapes = true
                    keepKey("\\")
                    state = .escape
                default: die()
                }
            case .commaOrEnd:
                at += 1
                if byte == UInt8(ascii: ",") {
                    state = isInObject ? .key : .value
                } else if byte == (isInObject ? UInt8(ascii: "}") : UInt8(ascii: "]")) {
                    close(bytes, end: at, captureStart)
                } else if !isBlank(byte) {
                    die()
                }
            case .key, .keyOrEnd:
                at += 1
                if byte == UInt8(ascii: "\"") {
                    beginKey()
                } else if byte == UInt8(ascii: "}"), state == .keyOrEnd {
                    close(bytes, end: at, captureStart)
                } else if !isBlank(byte) {
                    die()
                }
            case .colon:
                at += 1
                if byte == UInt8(ascii: ":") { state = .value } else if !isBlank(byte) { die() }
            case .value, .valueOrEnd:
                at += 1
                if isBlank(byte) { continue }
                if byte == UInt8(ascii: "]"), state == .valueOrEnd {
                    close(bytes, end: at, captureStart)
                } else {
                    let before = capture
                    beginValue(byte)
                    if before < 0, capture >= 0 {
                        captureStart = state == .string && !paths.isRaw(capture) ? at : at - 1
                    }
                }
            case .number:
                while at < bytes.count, isOfNumber(bytes[at]) { at += 1 }
                guard at < bytes.count else { break }
                endValue(bytes, contentEnd: at, captureStart)
                passComma(bytes, &at)
            case .literal:
                while at < bytes.count, literalPosition < literal.utf8CodeUnitCount,
                    bytes[at] == literal.utf8Start[literalPosition]
                {
                    at += 1
                    literalPosition += 1
                }
                if literalPosition == literal.utf8CodeUnitCount {
                    endValue(bytes, contentEnd: at, captureStart)
                    passComma(bytes, &at)
                } else if at < bytes.count {
                    die()
                }
            case .escape:
                at += 1
                switch byte {
                case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"), UInt8(ascii: "b"), UInt8(ascii: "f"),
                    UInt8(ascii: "n"), UInt8(ascii: "r"), UInt8(ascii: "t"):
                    state = .string
                case UInt8(ascii: "u"):
                    state = .unicode
                    unicodeDigits = 0
                default: die()
                }
                withUnsafeBytes(of: byte) { keepKey($0) }
            case .unicode:
                at += 1
                unicodeDigits += 1
                if hexDigit(byte) == nil { die() } else if unicodeDigits == 4 { state = .string }
                withUnsafeBytes(of: byte) { keepKey($0) }
            case .finished:
                at += 1
                if !isBlank(byte) { die() }
            case .dead:
                return
            }
        }
        if capture >= 0 { keep(bytes, captureStart, bytes.count) }
    }

    // MARK: The grammar

    @inline(__always)
    private var isInObject: Bool { kinds & 1 == 1 }

    /// The innermost open container lies on a watched path.
    @inline(__always)
    private var isWatched: Bool { frameCount == depth }

    /// `: ` behind a key, as nearly all writers have it, without a turn of the machine for each byte.
    @inline(__always)
    private mutating func passColon(_ bytes: UnsafeRawBufferPointer, _ at: inout Int) {
        guard at < bytes.count, bytes[at] == UInt8(ascii: ":") else { return }
        at += 1
        state = .value
        if at < bytes.count, bytes[at] == 0x20 { at += 1 }
    }

    /// `, "` behind a member's value, likewise.
    @inline(__always)
    private mutating func passComma(_ bytes: UnsafeRawBufferPointer, _ at: inout Int) {
        guard state == .commaOrEnd, isInObject, at < bytes.count, bytes[at] == UInt8(ascii: ",") else { return }
        at += 1
        state = .key
        if at < bytes.count, bytes[at] == 0x20 { at += 1 }
        guard at < bytes.count, bytes[at] == UInt8(ascii: "\"") else { return }
        at += 1
        beginKey()
    }

    @inline(__always)
    private mutating func beginKey() {
        state = .string
        stringIsKey = true
        stringHasEscapes = false
        pending = -1
        dropKey()
    }

    @inline(__always)
    private mutating func beginValue(_ byte: UInt8) {
        switch byte {
        case UInt8(ascii: "\""):
            beginWatched(.string)
            state = .string
            stringIsKey = false
            stringHasEscapes = false
        case UInt8(ascii: "{"): open(.object)
        case UInt8(ascii: "["): open(.array)
        case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"):
            beginWatched(.number)
            state = .number
        case UInt8(ascii: "n"): beginLiteral("null", .null)
        case UInt8(ascii: "t"): beginLiteral("true", .boolean)
        case UInt8(ascii: "f"): beginLiteral("false", .boolean)
        default: die()
        }
    }

    @inline(__always)
    private mutating func beginLiteral(_ text: StaticString, _ kind: Kind) {
        beginWatched(kind)
        literal = text
        literalPosition = 1
        state = .literal
    }

    @inline(__always)
    private mutating func open(_ kind: Kind) {
        let node = beginWatched(kind)
        guard depth < JSONTokenizer.depthCeiling else { return die() }
        // At a path's end nothing lies below, and no frame is needed.
        if node >= 0, isWatched, !paths.nodes[node].isLeaf {
            frames[frameCount] = Frame(node: node)
            frameCount += 1
        }
        depth += 1
        kinds = kinds << 1 | (kind == .object ? 1 : 0)
        state = kind == .object ? .keyOrEnd : .valueOrEnd
    }

    /// The node of the value that begins; -1 where it is not watched.
    @inline(__always) @discardableResult
    private mutating func beginWatched(_ kind: Kind) -> Int {
        guard isWatched else { return -1 }
        var node = 0
        if depth > 0, isInObject {
            node = pending
        } else if depth > 0 {
            frames[frameCount - 1].index &+= 1
            node = paths.child(of: frames[frameCount - 1].node, at: frames[frameCount - 1].index)
        }
        if node >= 0 { beginWatched(node, kind) }
        return node
    }

    private mutating func beginWatched(_ node: Int, _ kind: Kind) {
        if !paths.nodes[node].isShared {
            let forgotten = foundInDocument & paths.nodes[node].subtree
            found &= ~forgotten
            foundInDocument &= ~forgotten
        }
        let path = paths.nodes[node].path
        guard path >= 0, capture < 0 else { return }
        switch kind {
        case .object, .array, .null: guard paths.isRaw(path) else { return }
        case .string, .number, .boolean: break
        }
        capture = path
        captureDepth = depth
        held = Slot(start: kept.count, kind: kind)
    }

    private mutating func close(_ bytes: UnsafeRawBufferPointer, end: Int, _ captureStart: Int) {
        if isWatched { frameCount -= 1 }
        depth -= 1
        kinds >>= 1
        endValue(bytes, contentEnd: end, captureStart)
    }

    @inline(__always)
    private mutating func endString(
        _ bytes: UnsafeRawBufferPointer, contentEnd: Int, end: Int, _ captureStart: Int
    ) {
        guard stringIsKey else {
            let isRaw = capture >= 0 && paths.isRaw(capture)
            return endValue(bytes, contentEnd: isRaw ? end : contentEnd, captureStart)
        }
        state = .colon
        if !key.isEmpty, !keyIsTooLong { lookUpKey() }
    }

    /// One that came in pieces, or with escapes.
    private mutating func lookUpKey() {
        var text = key
        if stringHasEscapes {
            text = []
            key.withUnsafeBytes { JSONStrings.appendUnescaped($0, to: &text) }
        }
        pending = text.withUnsafeBytes { paths.child(of: frames[frameCount - 1].node, named: $0) }
    }

    @inline(__always)
    private mutating func endValue(_ bytes: UnsafeRawBufferPointer, contentEnd: Int, _ captureStart: Int) {
        state = depth == 0 ? .finished : .commaOrEnd
        if capture >= 0, depth == captureDepth { endCapture(bytes, contentEnd: contentEnd, captureStart) }
    }

    private mutating func endCapture(_ bytes: UnsafeRawBufferPointer, contentEnd: Int, _ captureStart: Int) {
        keep(bytes, captureStart, contentEnd)
        if held.kind == .string { held.hasEscapes = stringHasEscapes }
        takePlace(of: slots[capture])
        slots[capture] = held
        found |= 1 << UInt128(capture)
        foundInDocument |= 1 << UInt128(capture)
        capture = -1
    }

    private mutating func die() {
        state = .dead
        dropHeld()
    }

    private mutating func dropHeld() {
        if capture >= 0 { kept.removeSubrange(held.start...) }
        capture = -1
    }

    // MARK: What is kept

    private mutating func keepKey(_ part: UnsafeRawBufferPointer) {
        guard stringIsKey, isWatched, !keyIsTooLong else { return }
        if key.count + part.count > paths.longestKey { keyIsTooLong = true } else { key.append(contentsOf: part) }
    }

    private mutating func keepKey(_ text: StaticString) {
        keepKey(UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    }

    private mutating func keep(_ bytes: UnsafeRawBufferPointer, _ start: Int, _ end: Int) {
        let room = paths.limits[capture] - held.count
        let count = min(room, end - start)
        if count < end - start { held.isCut = true }
        kept.append(contentsOf: UnsafeRawBufferPointer(rebasing: bytes[start..<start + count]))
        held.count += count
    }

    /// Gives back what an earlier value of the path holds, so that a key repeated a million times costs no memory. One
    /// of the same length, as a stream repeats its model, takes that one's bytes.
    private mutating func takePlace(of old: Slot) {
        guard old.count > 0 else { return }
        if held.count == old.count {
            kept.withUnsafeMutableBytes { bytes in
                let newer = UnsafeRawBufferPointer(rebasing: bytes[held.start..<held.start + held.count])
                UnsafeMutableRawBufferPointer(rebasing: bytes[old.start...]).copyMemory(from: newer)
            }
            kept.removeLast(held.count)
            held.start = old.start
        } else {
            kept.removeSubrange(old.start..<old.start + old.count)
            for index in slots.indices where slots[index].start > old.start { slots[index].start -= old.count }
            held.start -= old.count
        }
    }

    private mutating func dropKey() {
        if !key.isEmpty { key.removeAll(keepingCapacity: true) }
        keyIsTooLong = false
    }

    private func isOfNumber(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "+"), UInt8(ascii: "-"), UInt8(ascii: "."),
            UInt8(ascii: "e"), UInt8(ascii: "E"):
            true
        default: false
        }
    }

    private func isBlank(_ byte: UInt8) -> Bool { byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 }

    // MARK: Answers, by the path's position in the list the scanner was made with

    /// What was found; nil where nothing was. A null is found by raw paths alone.
    package func kind(of path: Int) -> Kind? { isFound(path) ? slots[path].kind : nil }

    package func isFound(_ path: Int) -> Bool { found >> UInt128(path) & 1 == 1 }

    /// The value was longer than its path's limit.
    package func isCut(_ path: Int) -> Bool { isFound(path) && slots[path].isCut }

    /// A string's text in UTF-8, cut at a character boundary where it is cut; nil for other kinds and for raw paths.
    package func text(of path: Int) -> [UInt8]? {
        guard kind(of: path) == .string, !paths.isRaw(path) else { return nil }
        let slot = slots[path]
        let text = kept.withUnsafeBytes { bytes -> [UInt8] in
            let content = UnsafeRawBufferPointer(rebasing: bytes[slot.start..<slot.start + slot.count])
            guard slot.hasEscapes || slot.isCut else { return Array(content) }
            var out: [UInt8] = []
            JSONStrings.appendUnescaped(content, to: &out)
            return out
        }
        return repaired(text, isCut: slot.isCut)
    }

    /// A number without fraction (`12`, `12.0`), in range; nil for everything else.
    package func integer(of path: Int) -> UInt64? {
        guard kind(of: path) == .number, !slots[path].isCut else { return nil }
        var value: UInt64 = 0
        var isFraction = false
        for (offset, byte) in kept[slots[path].start..<slots[path].start + slots[path].count].enumerated() {
            if byte == UInt8(ascii: "."), offset > 0, !isFraction {
                isFraction = true
                continue
            }
            guard isDigit(byte) else { return nil }
            if isFraction {
                guard byte == UInt8(ascii: "0") else { return nil }
                continue
            }
            let (tens, overflowsTens) = value.multipliedReportingOverflow(by: 10)
            let (sum, overflows) = tens.addingReportingOverflow(UInt64(byte - UInt8(ascii: "0")))
            guard !overflowsTens, !overflows else { return nil }
            value = sum
        }
        return value
    }

    package func boolean(of path: Int) -> Bool? {
        guard kind(of: path) == .boolean else { return nil }
        return kept[slots[path].start] == UInt8(ascii: "t")
    }

    /// The value's text as it stood in the document (a string of a path that is not raw: without its quotes).
    package func raw(of path: Int) -> [UInt8]? {
        guard isFound(path) else { return nil }
        return Array(kept[slots[path].start..<slots[path].start + slots[path].count])
    }

    private func repaired(_ text: [UInt8], isCut: Bool) -> [UInt8] {
        if text.allSatisfy({ $0 < 0x80 }) { return text }
        return text.withUnsafeBytes { bytes in
            var end = bytes.count
            if isCut {
                // A sequence that the cut left incomplete goes; what is wrong further in is repaired.
                var start = bytes.count - 1
                while start > 0, bytes.count - start < 4, bytes[start] & 0xC0 == 0x80 { start -= 1 }
                if bytes[start] >= 0xC0, lengthOfUTF8(bytes, at: start) == 0 { end = start }
            }
            return Array(String(decoding: UnsafeRawBufferPointer(rebasing: bytes[..<end]), as: UTF8.self).utf8)
        }
    }
}
