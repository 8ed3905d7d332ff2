// The text under which rollups by entity are kept: the key and the value of one entity, and nothing else of the event.
//
//   ["_user","u-17"]        the event has this value
//   ["_user",["a","b"]]     it has several
//   ["_user"]               it has none
//   ["_user",null]          it has one that a budget has filed under `(other)`
//
// It stands where other series have a `NormalizedMetadata.set`, which is an object: neither is ever the other.

import JSONText

package enum EntitySet {
    private static let filed = Array(",null]".utf8)

    /// The key's name; nil for the set of another series.
    package static func key(of set: [UInt8]) -> String? {
        set.withUnsafeBytes { text in
            key(in: text).map { String(decoding: Normalizer.text($0, in: text), as: UTF8.self) }
        }
    }

    /// What sets of the same key, and of no other, begin with: all before the `,` or `]` behind the key.
    package static func head(of set: [UInt8]) -> ArraySlice<UInt8>? {
        set.withUnsafeBytes { key(in: $0)?.range.upperBound }.map { set[...$0] }
    }

    /// The same of an event whose value is filed under `(other)`; nil where it is so already, or has none.
    package static func filed(_ set: [UInt8]) -> [UInt8]? {
        // Behind the key's closing quote.
        guard let end = set.withUnsafeBytes({ key(in: $0)?.range.upperBound }).map({ $0 + 1 }),
            set[end] == UInt8(ascii: ",")
        else { return nil }
        let text = set[..<end] + filed
        return text.elementsEqual(set) ? nil : Array(text)
    }

    package static func isFiled(_ set: [UInt8]) -> Bool {
        set.first == UInt8(ascii: "[") && set.suffix(filed.count).elementsEqual(filed)
    }

    private static func key(in text: UnsafeRawBufferPointer) -> JSONString? {
        guard text.first == UInt8(ascii: "[") else { return nil }
        var tokens = JSONTokenizer(text)
        guard case .beginArray? = try? tokens.next(), case .string(let key)? = try? tokens.next() else { return nil }
        return key
    }
}

/// The entity keys of some rules: an event's `extra` -> its text for each of them.
package struct EntityKeys: Sendable, Equatable {
    private let quoted: [[UInt8]]

    package init(_ rules: Rules) {
        quoted = rules.entities.sorted { $0.lexicographicallyPrecedes($1) }.map { key in
            var text: [UInt8] = []
            JSONStrings.appendQuoted(key, to: &text)
            return text
        }
    }

    /// Calls `body` once for each key. `extra`: `NormalizedMetadata.extra`.
    package func each(of extra: [UInt8], _ body: ([UInt8]) -> Void) {
        for key in quoted {
            var set = [UInt8(ascii: "[")] + key
            if let value = Self.value(of: key, in: extra) {
                set.append(UInt8(ascii: ","))
                set += extra[value]
            }
            set.append(UInt8(ascii: "]"))
            body(set)
        }
    }

    private static func value(of quoted: [UInt8], in extra: [UInt8]) -> Range<Int>? {
        extra.withUnsafeBytes { text in
            var tokens = JSONTokenizer(text)
            guard case .beginObject? = try? tokens.next() else { return nil }
            while case .key(let key)? = try? tokens.next() {
                let begin = tokens.position
                guard let token = try? tokens.next(), (try? tokens.skip(token)) != nil else { return nil }
                let name = UnsafeRawBufferPointer(rebasing: text[key.range.lowerBound - 1...key.range.upperBound])
                if quoted.elementsEqual(name) { return begin..<tokens.position }
            }
            return nil
        }
    }
}
