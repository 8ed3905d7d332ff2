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
        /// Inside a string, its escape, the four digits of its `\u`.
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
    private var frames: [Frame] = []
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
        slots = [Slot](repeating: Slot(), count: paths.paths.count)
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
        frames.removeAll(keepingCapacity: true)
        pending = 0
        key.removeAll(keepingCapacity: true)
        keyIsTooLong = false
        dropHeld()
        foundInDocument = 0
    }

    package mutating func feed(_ bytes: UnsafeRawBufferPointer) {
        guard state != .dead else { return }
        var at = 0
        // Where in this chunk the part that is being kept begins.
        var captureStart = 0
        while at < bytes.count {
            let byte = bytes[at]
            switch state {
            case .string:
                let end = endOfPlain(bytes, from: at)
                if stringIsKey, frames.count == depth {
                    let isWhole = end < bytes.count && bytes[end] == UInt8(ascii: "\"") && key.isEmpty && !keyIsTooLong
                    if isWhole {
                        pending = paths.nodes[frames[depth - 1].node].child(
                            named: UnsafeRawBufferPointer(rebasing: bytes[at..<end]))
                    } else {
                        keepKey(UnsafeRawBufferPointer(rebasing: bytes[at..<end]))
                    }
                }
                at = end
                guard at < bytes.count else { break }
                switch bytes[at] {
                case UInt8(ascii: "\""):
                    at += 1
                    endString(bytes, contentEnd: at - 1, end: at, captureStart)
                case UInt8(ascii: "\\"):
                    at += 1
                    stringHasEscapes = true
                    keepKey("\\")
                    state = .escape
                default: die()
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
            case .number:
                switch byte {
                case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "+"), UInt8(ascii: "-"), UInt8(ascii: "."),
                    UInt8(ascii: "e"), UInt8(ascii: "E"):
                    at += 1
                default: endValue(bytes, contentEnd: at, captureStart)
                }
            case .literal:
                guard byte == literal.utf8Start[literalPosition] else {
                    die()
                    break
                }
                at += 1
                literalPosition += 1
                if literalPosition == literal.utf8CodeUnitCount { endValue(bytes, contentEnd: at, captureStart) }
            case .finished:
                if isBlank(byte) { at += 1 } else { die() }
            case .dead:
                return
            case .value, .valueOrEnd, .keyOrEnd, .key, .colon, .commaOrEnd:
                if isBlank(byte) {
                    at += 1
                    continue
                }
                let before = capture
                let opening = at
                at += 1
                structural(byte, bytes, end: at, captureStart)
                if before < 0, capture >= 0 {
                    captureStart = state == .string && !paths.paths[capture].isRaw ? at : opening
                }
            }
        }
        if capture >= 0, state != .dead { keep(bytes, captureStart, bytes.count) }
    }

    // MARK: The grammar

    private mutating func structural(
        _ byte: UInt8, _ bytes: UnsafeRawBufferPointer, end: Int, _ captureStart: Int
    ) {
        switch (state, byte) {
        case (.keyOrEnd, UInt8(ascii: "}")), (.valueOrEnd, UInt8(ascii: "]")):
            close(bytes, end: end, captureStart)
        case (.keyOrEnd, UInt8(ascii: "\"")), (.key, UInt8(ascii: "\"")):
            state = .string
            stringIsKey = true
            stringHasEscapes = false
            pending = -1
            key.removeAll(keepingCapacity: true)
            keyIsTooLong = false
        case (.colon, UInt8(ascii: ":")):
            state = .value
        case (.value, _), (.valueOrEnd, _):
            beginValue(byte)
        case (.commaOrEnd, UInt8(ascii: ",")):
            state = kinds & 1 == 1 ? .key : .value
        case (.commaOrEnd, UInt8(ascii: "}")) where kinds & 1 == 1,
            (.commaOrEnd, UInt8(ascii: "]")) where kinds & 1 == 0:
            close(bytes, end: end, captureStart)
        default: die()
        }
    }

    private mutating func beginValue(_ byte: UInt8) {
        let node = nodeOfNextValue()
        let kind: Kind
        switch byte {
        case UInt8(ascii: "{"): kind = .object
        case UInt8(ascii: "["): kind = .array
        case UInt8(ascii: "\""): kind = .string
        case UInt8(ascii: "t"), UInt8(ascii: "f"): kind = .boolean
        case UInt8(ascii: "n"): kind = .null
        case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): kind = .number
        default: return die()
        }
        if node >= 0 { beginWatched(node, kind) }
        switch kind {
        case .object, .array:
            guard depth < JSONTokenizer.depthCeiling else { return die() }
            if node >= 0, frames.count == depth { frames.append(Frame(node: node)) }
            depth += 1
            kinds = kinds << 1 | (kind == .object ? 1 : 0)
            state = kind == .object ? .keyOrEnd : .valueOrEnd
        case .string:
            state = .string
            stringIsKey = false
            stringHasEscapes = false
        case .number:
            state = .number
        case .boolean, .null:
            literal = byte == UInt8(ascii: "t") ? "true" : byte == UInt8(ascii: "f") ? "false" : "null"
            literalPosition = 1
            state = .literal
        }
    }

    private mutating func nodeOfNextValue() -> Int {
        if depth == 0 { return 0 }
        guard frames.count == depth else { return -1 }
        if kinds & 1 == 1 { return pending }
        frames[depth - 1].index &+= 1
        return paths.nodes[frames[depth - 1].node].child(at: frames[depth - 1].index)
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
        case .object, .array, .null: guard paths.paths[path].isRaw else { return }
        case .string, .number, .boolean: break
        }
        capture = path
        captureDepth = depth
        held = Slot(start: kept.count, kind: kind)
    }

    private mutating func close(_ bytes: UnsafeRawBufferPointer, end: Int, _ captureStart: Int) {
        if frames.count == depth { frames.removeLast() }
        depth -= 1
        kinds >>= 1
        endValue(bytes, contentEnd: end, captureStart)
    }

    private mutating func endString(
        _ bytes: UnsafeRawBufferPointer, contentEnd: Int, end: Int, _ captureStart: Int
    ) {
        guard stringIsKey else {
            let isRaw = capture >= 0 && paths.paths[capture].isRaw
            return endValue(bytes, contentEnd: isRaw ? end : contentEnd, captureStart)
        }
        state = .colon
        guard !key.isEmpty, frames.count == depth, !keyIsTooLong else { return }
        let node = paths.nodes[frames[depth - 1].node]
        if stringHasEscapes {
            var text: [UInt8] = []
            key.withUnsafeBytes { JSONStrings.appendUnescaped($0, to: &text) }
            pending = text.withUnsafeBytes { node.child(named: $0) }
        } else {
            pending = key.withUnsafeBytes { node.child(named: $0) }
        }
    }

    private mutating func endValue(_ bytes: UnsafeRawBufferPointer, contentEnd: Int, _ captureStart: Int) {
        state = depth == 0 ? .finished : .commaOrEnd
        guard capture >= 0, depth == captureDepth else { return }
        keep(bytes, captureStart, contentEnd)
        if held.kind == .string { held.hasEscapes = stringHasEscapes }
        release(capture)
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
        guard stringIsKey, frames.count == depth, !keyIsTooLong else { return }
        if key.count + part.count > paths.longestKey { keyIsTooLong = true } else { key.append(contentsOf: part) }
    }

    private mutating func keepKey(_ text: StaticString) {
        keepKey(UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    }

    private mutating func keep(_ bytes: UnsafeRawBufferPointer, _ start: Int, _ end: Int) {
        let room = paths.paths[capture].limit - held.count
        let count = min(room, end - start)
        if count < end - start { held.isCut = true }
        kept.append(contentsOf: UnsafeRawBufferPointer(rebasing: bytes[start..<start + count]))
        held.count += count
    }

    /// Gives back what an earlier value of the path holds, so that a key repeated a million times costs no memory.
    private mutating func release(_ path: Int) {
        let old = slots[path]
        guard old.count > 0 else { return }
        kept.removeSubrange(old.start..<old.start + old.count)
        for index in slots.indices where slots[index].start > old.start { slots[index].start -= old.count }
        if held.start > old.start { held.start -= old.count }
        slots[path].count = 0
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
        guard kind(of: path) == .string, !paths.paths[path].isRaw else { return nil }
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
