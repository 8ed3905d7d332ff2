// Raw metadata -> canonical pairs by the rules. Pure, deterministic, total; doing it twice changes nothing.
//
// 1. Objects are flattened to paths; of a key that comes twice in an object the last counts; null is no pair.
// 2. The path's key becomes canonical (NFC, trimmed, cased level by level, cut, alias). A key that `drop` names goes;
//    a value that `hash` names becomes `hmac:` and 32 hex digits and goes through nothing more.
// 3. Values become text: strings as they are, numbers in plain form, deeper objects and arrays as compact JSON with
//    members in byte order; then NFC, trimmed, cased, mapped, cut. Under `multi` each element is a value.
// 4. Where paths meet on one key, one wins: the canonical spelling, else the first in byte order (then the one from
//    fewer nested objects, then the one whose first object has the shorter name). So the order of raw pairs never shows.
// 5. Of more keys than the limit the first in byte order stay. Pairs part by the class of their key.
//
// Nearly all metadata is plain and goes a shorter way to the same answer (`PlainMetadata`). What comes again and again is
// at hand by its raw bytes (`ResultCache`).

package import Events
import JSONText

package struct Normalizer: Sendable {
    /// A secret's text -> 32 hex digits.
    package typealias KeyedHash = @Sendable ([UInt8]) -> [UInt8]

    struct Pair {
        var key: [UInt8]
        /// One value, or a sorted list of different ones where the key is multi-valued.
        var values: [[UInt8]]
        var isList: Bool
        var isCut: Bool
        /// The raw keys joined by dots, and where each but the last ends.
        var raw: [UInt8]
        var splits: [Int]

        var isCanonical: Bool { raw == key }
    }

    struct Member {
        var key: [UInt8]
        var order: Int
        var token: JSONToken
        /// The text of a number, object or array.
        var range: Range<Int>
    }

    static let none = Array("{}".utf8)
    private static let hashPrefix = Array("hmac:".utf8)

    package let rules: Rules
    let hash: KeyedHash?
    private var plain = PlainMetadata()
    private var results = ResultCache()

    /// How often a result was at hand, and how often not.
    package var hits: Int { results.hits }
    package var misses: Int { results.misses }

    /// Without `hash`, what the rules hash is dropped: it must not be kept readable.
    package init(rules: Rules, hash: KeyedHash? = nil) {
        self.rules = rules
        self.hash = hash
    }

    /// One of other rules with the same hash.
    package func under(_ rules: Rules) -> Normalizer { Normalizer(rules: rules, hash: hash) }

    /// Does to raw metadata what these rules want done before anything is kept; nil where they hide nothing.
    package var redactor: Redactor? { Redactor(rules: rules, hash: hash) }

    /// `raw`: a JSON object, or nothing. Anything else yields no pairs and the status that says so. `status`: what the
    /// event says; the worse of it and of what is found here stands.
    package mutating func normalize(raw: UnsafeRawBufferPointer, status: MetadataStatus) -> NormalizedMetadata {
        guard !raw.isEmpty else { return result([], status, 0) }
        var found: NormalizedMetadata
        if let known = results.find(raw) {
            found = known
        } else {
            found = plain.normalize(raw, by: rules) ?? compute(raw)
            results.keep(raw, found)
        }
        found.status = max(found.status, status)
        return found
    }

    package mutating func normalize(raw: [UInt8], status: MetadataStatus) -> NormalizedMetadata {
        raw.withUnsafeBytes { normalize(raw: $0, status: status) }
    }

    /// The status is what this raw text alone gives reason for.
    private func compute(_ raw: UnsafeRawBufferPointer) -> NormalizedMetadata {
        do throws(JSONTextError) {
            var tokens = JSONTokenizer(raw)
            let first = try tokens.next()
            try tokens.skip(first)
            _ = try tokens.next()
            guard first == .beginObject else { return result([], .notAnObject, 0) }
            var pairs: [Pair] = []
            try flatten(raw, path: [], splits: [], into: &pairs)
            return settle(&pairs)
        } catch { return result([], .malformed, 0) }
    }

    // MARK: 1. Flatten

    func flatten(
        _ object: UnsafeRawBufferPointer, path: [UInt8], splits: [Int], into pairs: inout [Pair]
    ) throws(JSONTextError) {
        for member in try members(of: object) {
            var raw = path
            if !splits.isEmpty { raw.append(UInt8(ascii: ".")) }
            raw.append(contentsOf: member.key)
            if member.token == .beginObject, rules.descends(into: raw) {
                let inner = UnsafeRawBufferPointer(rebasing: object[member.range])
                try flatten(inner, path: raw, splits: splits + [raw.count], into: &pairs)
            } else {
                try add(member, of: object, raw: raw, splits: splits, to: &pairs)
            }
        }
    }

    /// In byte order of their keys; of each key the last.
    private func members(of object: UnsafeRawBufferPointer) throws(JSONTextError) -> [Member] {
        var tokens = JSONTokenizer(object)
        _ = try tokens.next()
        var members: [Member] = []
        while case .key(let key) = try tokens.next() {
            let token = try tokens.next()
            var start = tokens.position - 1
            if case .number(let range) = token { start = range.lowerBound }
            try tokens.skip(token)
            members.append(
                Member(
                    key: Self.text(key, in: object), order: members.count, token: token, range: start..<tokens.position)
            )
        }
        members.sort { Self.precedes($0.key, $1.key) ?? ($0.order > $1.order) }
        var last = 0
        for index in members.indices.dropFirst() where members[index].key != members[last].key {
            last += 1
            members[last] = members[index]
        }
        members.removeLast(members.isEmpty ? 0 : members.count - last - 1)
        return members
    }

    static func text(_ string: JSONString, in bytes: UnsafeRawBufferPointer) -> [UInt8] {
        let content = UnsafeRawBufferPointer(rebasing: bytes[string.range])
        guard string.hasEscapes else { return Array(content) }
        var out: [UInt8] = []
        JSONStrings.appendUnescaped(content, to: &out)
        return out
    }

    // MARK: 2, 3. Key and value

    func add(
        _ member: Member, of object: UnsafeRawBufferPointer, raw: [UInt8], splits: [Int], to pairs: inout [Pair]
    ) throws(JSONTextError) {
        guard member.token != .null else { return }
        let (key, keyIsCut) = rules.canonicalKey(raw)
        guard !rules.drops(key) else { return }
        let isList = rules.arrayForm(of: key) == .multi
        var texts: [[UInt8]] = []
        let value = UnsafeRawBufferPointer(rebasing: object[member.range])
        switch member.token {
        case .string(let string): texts = [Self.text(string, in: object)]
        case .number: texts = [DecimalText.canonical(value)]
        case .boolean(let isTrue): texts = [Array((isTrue ? "true" : "false").utf8)]
        case .null, .key, .end: break
        case .beginArray where isList:
            for element in try JSONValue.parse(value).array ?? [] where !element.isNull {
                texts.append(Self.plainText(element))
            }
        case .beginObject, .endObject, .beginArray, .endArray:
            texts = [Self.plainText(try JSONValue.parse(value))]
        }
        var pair = Pair(key: key, values: [], isList: isList, isCut: keyIsCut, raw: raw, splits: splits)
        let isHashed = rules.hashes(key)
        for text in texts {
            if isHashed {
                if let hashed = Self.hashed(text, by: hash) { pair.values.append(hashed) }
            } else {
                let (value, isCut) = rules.canonicalValue(text, of: key)
                pair.values.append(value)
                if isCut { pair.isCut = true }
            }
        }
        if pair.values.count > 1 {
            pair.values.sort { Self.precedes($0, $1) ?? false }
            var different: [[UInt8]] = []
            for value in pair.values where value != different.last { different.append(value) }
            pair.values = different
        }
        if !pair.values.isEmpty { pairs.append(pair) }
    }

    /// `hmac:` and 32 hexadecimal digits, which are left alone; nil without a hash.
    static func hashed(_ text: [UInt8], by hash: KeyedHash?) -> [UInt8]? {
        let text = CanonicalText.trimmed(CanonicalText.composed(text))
        if text.count == 37, text.starts(with: hashPrefix),
            text[5...].allSatisfy({ ($0 >= 0x30 && $0 <= 0x39) || ($0 >= 0x61 && $0 <= 0x66) })
        {
            return text
        }
        guard let hash else { return nil }
        return hashPrefix + hash(text)
    }

    /// A scalar's own text; of an object or array compact JSON, in one form whatever the order of members.
    static func plainText(_ value: JSONValue) -> [UInt8] {
        switch value {
        case .string(let text): return Array(text.utf8)
        case .number(let text): return Array(text.utf8).withUnsafeBytes { DecimalText.canonical($0) }
        case .boolean, .null: return value.bytes
        case .array, .object:
            var out: [UInt8] = []
            write(value, to: &out)
            return out
        }
    }

    private static func write(_ value: JSONValue, to out: inout [UInt8]) {
        switch value {
        case .array(let elements):
            out.append(UInt8(ascii: "["))
            for (index, element) in elements.enumerated() {
                if index > 0 { out.append(UInt8(ascii: ",")) }
                write(element, to: &out)
            }
            out.append(UInt8(ascii: "]"))
        case .object(let members):
            var last: [[UInt8]: JSONValue] = [:]
            for member in members { last[Array(member.key.utf8)] = member.value }
            out.append(UInt8(ascii: "{"))
            for (index, (key, value)) in last.sorted(by: { precedes($0.key, $1.key) ?? false }).enumerated() {
                if index > 0 { out.append(UInt8(ascii: ",")) }
                JSONStrings.appendQuoted(key, to: &out)
                out.append(UInt8(ascii: ":"))
                write(value, to: &out)
            }
            out.append(UInt8(ascii: "}"))
        case .string(let text): JSONStrings.appendQuoted(text, to: &out)
        case .number, .boolean, .null: out.append(contentsOf: plainText(value))
        }
    }

    // MARK: 4, 5. One pair a key, as many as may be, by class

    private func settle(_ pairs: inout [Pair]) -> NormalizedMetadata {
        let (kept, conflicts, isShort) = winners(of: &pairs)
        let status = isShort || kept.contains(where: \.isCut) ? MetadataStatus.truncated : .absent
        return result(kept, status, UInt32(clamping: conflicts))
    }

    /// `isShort`: there were more keys than the limit.
    func winners(of pairs: inout [Pair]) -> (kept: [Pair], conflicts: Int, isShort: Bool) {
        pairs.sort { a, b in
            if let order = Self.precedes(a.key, b.key) { return order }
            if a.isCanonical != b.isCanonical { return a.isCanonical }
            if let order = Self.precedes(a.raw, b.raw) { return order }
            if a.splits.count != b.splits.count { return a.splits.count < b.splits.count }
            return a.splits.lexicographicallyPrecedes(b.splits)
        }
        var kept: [Pair] = []
        kept.reserveCapacity(pairs.count)
        for pair in pairs where pair.key != kept.last?.key { kept.append(pair) }
        let conflicts = pairs.count - kept.count
        let surplus = max(0, kept.count - rules.limits.keys)
        kept.removeLast(surplus)
        return (kept, conflicts, surplus > 0)
    }

    private func result(_ pairs: [Pair], _ status: MetadataStatus, _ conflicts: UInt32) -> NormalizedMetadata {
        var set: [UInt8] = []
        var extra: [UInt8] = []
        for pair in pairs {
            if rules.hasNoClasses || rules.keyClass(of: pair.key) ?? .dimension == .dimension {
                Self.append(pair, to: &set)
            } else {
                Self.append(pair, to: &extra)
            }
        }
        if !set.isEmpty { set.append(UInt8(ascii: "}")) }
        if !extra.isEmpty { extra.append(UInt8(ascii: "}")) }
        return NormalizedMetadata(
            set: set.isEmpty ? Self.none : set, extra: extra.isEmpty ? Self.none : extra, status: status,
            conflicts: conflicts)
    }

    private static func append(_ pair: Pair, to out: inout [UInt8]) {
        out.append(out.isEmpty ? UInt8(ascii: "{") : UInt8(ascii: ","))
        JSONStrings.appendQuoted(pair.key, to: &out)
        out.append(UInt8(ascii: ":"))
        if pair.isList { out.append(UInt8(ascii: "[")) }
        for (index, value) in pair.values.enumerated() {
            if index > 0 { out.append(UInt8(ascii: ",")) }
            JSONStrings.appendQuoted(value, to: &out)
        }
        if pair.isList { out.append(UInt8(ascii: "]")) }
    }

    /// Byte order; nil where both are the same.
    private static func precedes(_ a: [UInt8], _ b: [UInt8]) -> Bool? {
        let count = min(a.count, b.count)
        for index in 0..<count where a[index] != b[index] { return a[index] < b[index] }
        return a.count == b.count ? nil : a.count < b.count
    }
}
