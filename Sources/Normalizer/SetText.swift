// The text of a metadata set, taken apart and put together again with marks for what a budget left out.
//
// A set is `NormalizedMetadata.set`, and the marks are what normalization never writes:
//   {"env":"prod","trace":null}       the key is there, its value is filed under `(other)`
//   {"(other)":true,"env":"prod"}     more keys are there, which are not named
//   {"(other)":false}                 nothing is said of the event's pairs
// What a mark stands for are pairs of the event's `extra`: with the event its metadata is whole.

import JSONText

package struct SetText: Sendable {
    /// Where a pair lies in the set's bytes, as it is written there.
    package struct Pair: Sendable {
        /// With its quotes.
        package var key: Range<Int>
        /// nil: filed under `(other)`.
        package var value: Range<Int>?
    }

    /// What becomes of a pair.
    package enum Fate: Sendable {
        case stays
        /// Its value is filed under `(other)`.
        case filed
        /// Its key is not named any more.
        case unnamed
    }

    private static let open = Array("{\"(other)\":true".utf8)
    private static let unsaid = Array("{\"(other)\":false}".utf8)
    private static let nothing = Array(":null".utf8)

    package private(set) var bytes: [UInt8] = []
    package private(set) var pairs: [Pair] = []
    /// Keys were left out.
    package private(set) var isOpen = false
    /// All of them were.
    package private(set) var isUnsaid = false

    package init() {}

    /// nil for bytes that are no set.
    package init?(_ set: [UInt8]) {
        if !read(set) { return nil }
    }

    /// In place of what it held, in its memory; false for bytes that are no set. Of text that is one, as normalization
    /// writes it, nothing more is checked.
    package mutating func read(_ set: [UInt8]) -> Bool {
        bytes = set
        pairs.removeAll(keepingCapacity: true)
        (isOpen, isUnsaid) = (false, false)
        return set.withUnsafeBytes { text in
            var at = 1
            guard text.first == UInt8(ascii: "{"), text.count > 1 else { return false }
            if text[1] == UInt8(ascii: "}") { return text.count == 2 }
            while true {
                guard let keyEnd = Self.endOfString(text, at), keyEnd < text.count, text[keyEnd] == UInt8(ascii: ":")
                else { return false }
                let key = at..<keyEnd
                guard let end = Self.endOfValue(text, keyEnd + 1), end < text.count else { return false }
                switch text[keyEnd + 1] {
                case UInt8(ascii: "t"): isOpen = true
                case UInt8(ascii: "f"): isUnsaid = true
                case UInt8(ascii: "n"): pairs.append(Pair(key: key, value: nil))
                default: pairs.append(Pair(key: key, value: keyEnd + 1..<end))
                }
                if text[end] == UInt8(ascii: "}") { return end + 1 == text.count }
                guard text[end] == UInt8(ascii: ",") else { return false }
                at = end + 1
            }
        }
    }

    /// Behind the closing quote of the string that begins here.
    private static func endOfString(_ text: UnsafeRawBufferPointer, _ start: Int) -> Int? {
        guard start < text.count, text[start] == UInt8(ascii: "\"") else { return nil }
        var at = start + 1
        while at < text.count {
            at = text.endOfPlainText(from: at)
            guard at < text.count else { return nil }
            if text[at] == UInt8(ascii: "\"") { return at + 1 }
            at += text[at] == UInt8(ascii: "\\") ? 2 : 1
        }
        return nil
    }

    private static func endOfValue(_ text: UnsafeRawBufferPointer, _ start: Int) -> Int? {
        guard start < text.count else { return nil }
        switch text[start] {
        case UInt8(ascii: "\""): return endOfString(text, start)
        case UInt8(ascii: "t"), UInt8(ascii: "n"): return start + 4
        case UInt8(ascii: "f"): return start + 5
        case UInt8(ascii: "["):
            var at = start + 1
            while at < text.count, text[at] != UInt8(ascii: "]") {
                guard let end = endOfString(text, at) else { return nil }
                at = end < text.count && text[end] == UInt8(ascii: ",") ? end + 1 : end
            }
            return at + 1
        default: return nil
        }
    }

    /// The set when each of its pairs has met its fate, and what it then says no more, as an `extra`.
    package func filed(_ fates: [Fate]) -> (set: [UInt8], left: [UInt8]) {
        var set = isOpen || fates.contains(.unnamed) ? Self.open : []
        set.reserveCapacity(bytes.count)
        var left: [UInt8] = []
        // Where none stays, that is the set as it is.
        let isAllLeft = !isOpen && !fates.contains(.stays)
        if !isAllLeft { left.reserveCapacity(bytes.count) }
        bytes.withUnsafeBytes { bytes in
            for (pair, fate) in zip(pairs, fates) {
                if fate != .unnamed { Self.append(bytes, pair.key, fate == .filed ? nil : pair.value, to: &set) }
                if fate != .stays && !isAllLeft { Self.append(bytes, pair.key, pair.value, to: &left) }
            }
        }
        Self.close(&set)
        if isAllLeft { return (set, bytes) }
        Self.close(&left)
        return (set, left)
    }

    /// The same where nothing is said of any pair.
    package var unsaid: (set: [UInt8], left: [UInt8]) {
        (Self.unsaid, isOpen ? filed([Fate](repeating: .unnamed, count: pairs.count)).left : bytes)
    }

    /// The pairs of both, in the order of their keys.
    package static func merged(_ a: [UInt8], _ b: [UInt8]) -> [UInt8] {
        guard let a = SetText(a), let b = SetText(b) else { return a }
        var out: [UInt8] = []
        var (x, y) = (0, 0)
        while x < a.pairs.count || y < b.pairs.count {
            let takesA =
                y == b.pairs.count
                || x < a.pairs.count && !b.key(b.pairs[y]).lexicographicallyPrecedes(a.key(a.pairs[x]))
            if takesA {
                a.append(a.pairs[x], to: &out)
                x += 1
            } else {
                b.append(b.pairs[y], to: &out)
                y += 1
            }
        }
        close(&out)
        return out
    }

    /// Whether what normalization makes of an event is what is filed of it: the same, or less what a budget left out.
    package static func isFiled(_ set: [UInt8], _ extra: [UInt8], as filedSet: [UInt8], _ filedExtra: [UInt8]) -> Bool {
        if set == filedSet { return extra == filedExtra }
        guard let whole = SetText(set), let filed = SetText(filedSet) else { return false }
        let isMarked = filed.isUnsaid || filed.isOpen || filed.pairs.contains { $0.value == nil }
        guard isMarked, filed.isUnsaid || filed.isOpen || filed.pairs.count == whole.pairs.count else { return false }
        var found = 0
        let fates = whole.pairs.map { pair -> Fate in
            guard let other = filed.pairs.first(where: { filed.key($0) == whole.key(pair) }) else { return .unnamed }
            found += 1
            return other.value == nil ? .filed : .stays
        }
        guard found == filed.pairs.count else { return false }
        let (text, left) = filed.isUnsaid ? whole.unsaid : whole.filed(fates)
        return text == filedSet && (extra.count <= 2 ? left : merged(left, extra)) == filedExtra
    }

    private func key(_ pair: Pair) -> ArraySlice<UInt8> { bytes[pair.key] }

    private func append(_ pair: Pair, to out: inout [UInt8]) {
        bytes.withUnsafeBytes { Self.append($0, pair.key, pair.value, to: &out) }
    }

    private static func append(
        _ bytes: UnsafeRawBufferPointer, _ key: Range<Int>, _ value: Range<Int>?, to out: inout [UInt8]
    ) {
        out.append(out.isEmpty ? UInt8(ascii: "{") : UInt8(ascii: ","))
        guard let value else {
            out.append(contentsOf: UnsafeRawBufferPointer(rebasing: bytes[key]))
            out.append(contentsOf: nothing)
            return
        }
        // A colon is between them.
        out.append(contentsOf: UnsafeRawBufferPointer(rebasing: bytes[key.lowerBound..<value.upperBound]))
    }

    private static func close(_ out: inout [UInt8]) {
        if out.isEmpty { out.append(UInt8(ascii: "{")) }
        out.append(UInt8(ascii: "}"))
    }
}
