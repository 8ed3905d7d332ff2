// The text of a metadata set, taken apart and put together again with marks for what a budget left out.
//
// A set is `NormalizedMetadata.set`, and the marks are what normalization never writes:
//   {"env":"prod","trace":null}       the key is there, its value is filed under `(other)`
//   {"(other)":true,"env":"prod"}     more keys are there, which are not named
//   {"(other)":false}                 nothing is said of the event's pairs
// What a mark stands for are pairs of the event's `extra`: with the event its metadata is whole.

import JSONText

package struct SetText: Sendable, Equatable {
    /// Both as they are written, the key with its quotes.
    package struct Pair: Sendable, Equatable {
        package var key: ArraySlice<UInt8>
        /// nil: filed under `(other)`.
        package var value: ArraySlice<UInt8>?
    }

    private static let other = Array("\"(other)\"".utf8)
    private static let null = Array("null".utf8)
    private static let unsaid = Array("{\"(other)\":false}".utf8)
    private static let none = Array("{}".utf8)

    package var pairs: [Pair] = []
    /// Keys were left out.
    package var isOpen = false
    /// All of them were.
    package private(set) var isUnsaid = false

    private init(isUnsaid: Bool) { self.isUnsaid = isUnsaid }

    /// Nothing said.
    package static let unsaidText = SetText(isUnsaid: true)

    /// nil for bytes that are no set.
    package init?(_ set: [UInt8]) {
        let isSet = try? set.withUnsafeBytes { text in
            var tokens = JSONTokenizer(text)
            guard try tokens.next() == .beginObject else { return false }
            while case .key(let key) = try tokens.next() {
                let name = set[key.range.lowerBound - 1...key.range.upperBound]
                let begin = tokens.position
                let token = try tokens.next()
                try tokens.skip(token)
                switch token {
                case .boolean(let isMore): if isMore { isOpen = true } else { isUnsaid = true }
                case .null: pairs.append(Pair(key: name, value: nil))
                case .string, .beginArray: pairs.append(Pair(key: name, value: set[begin..<tokens.position]))
                default: return false
                }
            }
            return true
        }
        if isSet != true { return nil }
    }

    /// In the order of the pairs.
    package var bytes: [UInt8] {
        if isUnsaid { return Self.unsaid }
        return Self.object(
            (isOpen ? [(Self.other[...], Array("true".utf8)[...])] : [])
                + pairs.map {
                    ($0.key, $0.value ?? Self.null[...])
                })
    }

    /// The pairs of this set that another, which was made of it, does not have, together with what the event has
    /// beside the set already: the `extra` to go with the other.
    package func left(by filed: SetText, with extra: [UInt8]) -> [UInt8] {
        var pairs = pairs.filter { !filed.pairs.contains($0) }
        if let beside = SetText(extra) { pairs += beside.pairs }
        pairs.sort { $0.key.lexicographicallyPrecedes($1.key) }
        return Self.object(pairs.map { ($0.key, $0.value ?? Self.null[...]) })
    }

    /// Whether what normalization makes of an event is what is filed of it: the same, or less what a budget left out.
    package static func isFiled(_ set: [UInt8], _ extra: [UInt8], as filedSet: [UInt8], _ filedExtra: [UInt8]) -> Bool {
        if set == filedSet { return extra == filedExtra }
        guard let whole = SetText(set), let filed = SetText(filedSet) else { return false }
        let isMarked = filed.isUnsaid || filed.isOpen || filed.pairs.contains { $0.value == nil }
        guard isMarked, filed.isUnsaid || filed.isOpen || filed.pairs.count == whole.pairs.count else { return false }
        let areTheirs = filed.pairs.allSatisfy { pair in
            whole.pairs.contains { $0.key == pair.key && (pair.value == nil || pair.value == $0.value) }
        }
        return areTheirs && whole.left(by: filed, with: extra) == filedExtra
    }

    private static func object(_ members: [(key: ArraySlice<UInt8>, value: ArraySlice<UInt8>)]) -> [UInt8] {
        if members.isEmpty { return none }
        var out: [UInt8] = []
        for member in members {
            out.append(out.isEmpty ? UInt8(ascii: "{") : UInt8(ascii: ","))
            out += member.key
            out.append(UInt8(ascii: ":"))
            out += member.value
        }
        out.append(UInt8(ascii: "}"))
        return out
    }
}
