// The short way through normalization, for the shape that nearly all metadata has: one flat object of printable ASCII
// without escapes. Raw bytes -> the same answer as the long way, or nil, and then the long way decides.
//
// What the rules say of a raw key is worked out once (`Plan`): its canonical key, already quoted, where its pair goes,
// and its rank in the byte order of keys. A member is then two scans and one look-up, and an object is sorted by ranks.
// Ranks are given anew now and then; until then a new key is compared as it stands, so that a caller whose keys are
// always new ones makes nobody sort all of them each time. What one service sends has the same keys in the same order:
// of an object like the one before, each key is compared once and nothing is sorted.
// Values are taken as they stand, so a key whose values are mapped, cased, hashed or listed is left to the long way, as
// is every object where two raw keys meet on one canonical key.

import Events
import JSONText

struct PlainMetadata: Sendable {
    private enum Way {
        case dimension, extra, dropped
        /// The value needs more than a copy.
        case long
    }

    private struct Plan {
        var key: [UInt8]
        /// `"key":"`, canonical, in `openings`.
        var opening: Range<Int>
        var way: Way
        /// -1: none yet.
        var rank: Int32
    }

    private struct Found {
        var plan: Int
        var rank: Int32
        /// nil for null: no pair, and yet the last of several values of one name.
        var value: Range<Int>?
    }

    /// Raw keys whose plans are kept; beyond them planning begins anew with the next object.
    private static let plansKept = 1_024

    private var names = ByteInterner()
    private var plans: [Plan] = []
    private var openings: [UInt8] = []
    /// As they stand in the object.
    private var found: [Found] = []
    /// Those of `found` in the order of their keys.
    private var turns: [Int] = []
    /// The plan of each member, those that are dropped among them.
    private var order: [Int] = []
    /// The object has the keys of the one before, so that `turns` holds for it too.
    private var isFamiliar = false
    /// Objects with keys that have no rank yet, since ranks were given.
    private var unranked = 0

    /// nil: the long way.
    mutating func normalize(_ raw: UnsafeRawBufferPointer, by rules: Rules) -> NormalizedMetadata? {
        found.removeAll(keepingCapacity: true)
        if plans.count > Self.plansKept {
            names.removeAll()
            plans.removeAll(keepingCapacity: true)
            openings.removeAll(keepingCapacity: true)
            order.removeAll(keepingCapacity: true)
            unranked = 0
        }
        guard take(raw, by: rules), found.count <= rules.limits.keys, isFamiliar || sort() else {
            order.removeAll(keepingCapacity: true)
            return nil
        }
        return NormalizedMetadata(
            set: text(of: .dimension, raw), extra: text(of: .extra, raw), status: .absent, conflicts: 0)
    }

    /// The pairs that go this way as the text of an object.
    private func text(of way: Way, _ raw: UnsafeRawBufferPointer) -> [UInt8] {
        var size = 1
        for member in found where plans[member.plan].way == way {
            if let value = member.value { size += plans[member.plan].opening.count + value.count + 2 }
        }
        if size == 1 { return Normalizer.none }
        return [UInt8](unsafeUninitializedCapacity: size) { buffer, end in
            let out = UnsafeMutableRawBufferPointer(buffer)
            func append(_ part: Slice<UnsafeRawBufferPointer>) {
                UnsafeMutableRawBufferPointer(rebasing: out[end...]).copyMemory(
                    from: UnsafeRawBufferPointer(rebasing: part))
                end += part.count
            }
            func append(_ byte: StaticString) {
                out[end] = byte.utf8Start[0]
                end += 1
            }
            openings.withUnsafeBytes { openings in
                for turn in turns {
                    let plan = found[turn].plan
                    guard plans[plan].way == way, let value = found[turn].value else { continue }
                    append(end == 0 ? "{" : ",")
                    append(openings[plans[plan].opening])
                    append(raw[value])
                    append("\"")
                }
            }
            append("}")
        }
    }

    /// Fills `turns`; false where two raw keys meet on one canonical key. Few members, and services send them in one
    /// order: insertion.
    private mutating func sort() -> Bool {
        rankNowAndThen()
        turns.removeAll(keepingCapacity: true)
        for turn in found.indices {
            var at = turns.count
            turns.append(turn)
            while at > 0, precedes(found[turn], found[turns[at - 1]]) {
                turns[at] = turns[at - 1]
                at -= 1
            }
            turns[at] = turn
        }
        return !zip(turns, turns.dropFirst()).contains { isSameKey(found[$0], found[$1]) }
    }

    private func precedes(_ a: Found, _ b: Found) -> Bool {
        if a.rank >= 0, b.rank >= 0 { return a.rank < b.rank }
        return plans[a.plan].key.lexicographicallyPrecedes(plans[b.plan].key)
    }

    private func isSameKey(_ a: Found, _ b: Found) -> Bool {
        a.rank >= 0 && b.rank >= 0 ? a.rank == b.rank : plans[a.plan].key == plans[b.plan].key
    }

    // MARK: Reading

    /// Fills `found`; false where anything is out of the ordinary.
    private mutating func take(_ raw: UnsafeRawBufferPointer, by rules: Rules) -> Bool {
        var at = 0
        var position = 0
        isFamiliar = !order.isEmpty
        guard Self.next(raw, &at) == UInt8(ascii: "{") else { return false }
        var byte = Self.next(raw, &at)
        while byte == UInt8(ascii: "\"") {
            guard let key = Self.text(raw, &at), Self.next(raw, &at) == UInt8(ascii: ":") else { return false }
            let plan = plan(UnsafeRawBufferPointer(rebasing: raw[key]), at: position, by: rules)
            position += 1
            let first = Self.next(raw, &at)
            var value: Range<Int>?
            switch first {
            case UInt8(ascii: "\""):
                guard let text = Self.text(raw, &at), Self.isTrimmed(raw, text) else { return false }
                value = text
            case UInt8(ascii: "0")...UInt8(ascii: "9"):
                guard let digits = Self.digits(raw, &at) else { return false }
                value = digits
            case UInt8(ascii: "t"), UInt8(ascii: "f"), UInt8(ascii: "n"):
                guard let word = Self.word(raw, &at, first) else { return false }
                value = first == UInt8(ascii: "n") ? nil : word
            default: return false
            }
            switch plans[plan].way {
            case .long: return false
            case .dropped: break
            case .dimension, .extra:
                guard value?.count ?? 0 <= rules.limits.valueBytes else { return false }
                found.append(Found(plan: plan, rank: plans[plan].rank, value: value))
            }
            byte = Self.next(raw, &at)
            guard byte == UInt8(ascii: ",") else { break }
            byte = Self.next(raw, &at)
            guard byte == UInt8(ascii: "\"") else { return false }
        }
        guard byte == UInt8(ascii: "}") else { return false }
        if position < order.count {
            order.removeLast(order.count - position)
            isFamiliar = false
        }
        return Self.next(raw, &at) == 0 && at > raw.count
    }

    /// The next byte that is no blank; 0 at the end, and then `at` is beyond it.
    @inline(__always) private static func next(_ raw: UnsafeRawBufferPointer, _ at: inout Int) -> UInt8 {
        while at < raw.count {
            let byte = raw[at]
            at += 1
            if byte != 0x20, byte != 0x0A, byte != 0x0D, byte != 0x09 { return byte }
        }
        at += 1
        return 0
    }

    /// The text after an opening quote, up to the closing one; nil where it is not printable ASCII or has an escape.
    @inline(__always) private static func text(_ raw: UnsafeRawBufferPointer, _ at: inout Int) -> Range<Int>? {
        let end = raw.endOfPrintable(from: at)
        guard end < raw.count, raw[end] == UInt8(ascii: "\"") else { return nil }
        defer { at = end + 1 }
        return at..<end
    }

    private static func isTrimmed(_ raw: UnsafeRawBufferPointer, _ range: Range<Int>) -> Bool {
        range.isEmpty || raw[range.lowerBound] != 0x20 && raw[range.upperBound - 1] != 0x20
    }

    /// A whole number that is its own plain form.
    private static func digits(_ raw: UnsafeRawBufferPointer, _ at: inout Int) -> Range<Int>? {
        let start = at - 1
        while at < raw.count, raw[at] >= UInt8(ascii: "0"), raw[at] <= UInt8(ascii: "9") { at += 1 }
        if at < raw.count, [UInt8(ascii: "."), UInt8(ascii: "e"), UInt8(ascii: "E")].contains(raw[at]) { return nil }
        guard at - start <= 15, raw[start] != UInt8(ascii: "0") || at - start == 1 else { return nil }
        return start..<at
    }

    private static func word(_ raw: UnsafeRawBufferPointer, _ at: inout Int, _ first: UInt8) -> Range<Int>? {
        let word: StaticString = first == UInt8(ascii: "t") ? "true" : first == UInt8(ascii: "f") ? "false" : "null"
        let start = at - 1
        guard raw.count - start >= word.utf8CodeUnitCount else { return nil }
        for index in 0..<word.utf8CodeUnitCount where raw[start + index] != word.utf8Start[index] { return nil }
        at = start + word.utf8CodeUnitCount
        return start..<at
    }

    // MARK: Plans

    private mutating func plan(_ name: UnsafeRawBufferPointer, at position: Int, by rules: Rules) -> Int {
        if position < order.count, names.holds(order[position], name) { return order[position] }
        isFamiliar = false
        let number = Int(names.intern(name))
        if number == plans.count { plans.append(makePlan(Array(name), by: rules)) }
        if position < order.count { order[position] = number } else { order.append(number) }
        return number
    }

    private mutating func makePlan(_ name: [UInt8], by rules: Rules) -> Plan {
        let (key, isCut) = rules.canonicalKey(name)
        let way: Way =
            if isCut {
                .long
            } else if rules.drops(key) {
                .dropped
            } else if rules.takesValuesAsTheyAre(key) {
                rules.keyClass(of: key) ?? .dimension == .dimension ? .dimension : .extra
            } else {
                .long
            }
        let start = openings.count
        JSONStrings.appendQuoted(key, to: &openings)
        openings += [UInt8(ascii: ":"), UInt8(ascii: "\"")]
        return Plan(key: key, opening: start..<openings.count, way: way, rank: -1)
    }

    /// Once as many objects have gone without as it takes steps to rank.
    private mutating func rankNowAndThen() {
        guard found.contains(where: { $0.rank < 0 }) else { return }
        unranked += 1
        guard unranked > plans.count else { return }
        unranked = 0
        rank()
    }

    /// Raw keys of one canonical key share a rank. What was found before may hold an older rank of its plan, so it is
    /// brought up to date too.
    private mutating func rank() {
        let order = plans.indices.sorted { plans[$0].key.lexicographicallyPrecedes(plans[$1].key) }
        var rank: Int32 = 0
        for (position, index) in order.enumerated() {
            if position > 0, plans[order[position - 1]].key != plans[index].key { rank += 1 }
            plans[index].rank = rank
        }
        for index in found.indices { found[index].rank = plans[found[index].plan].rank }
    }
}
