// What the rules did to each raw pair, in words: for `millrace rules try`. The steps are those of the normalizer, asked
// of the same rules one by one.

import Events
package import JSONText

/// One raw pair's way through the rules.
package struct PairTrace: Sendable, Equatable {
    package enum Ending: Sendable, Equatable {
        case kept(KeyClass)
        /// By this entry of `keys.drop`.
        case dropped(String)
        /// Another raw key has the canonical key.
        case lostTo(String)
        /// There are more keys than `limits.keys`.
        case beyondLimit
        /// null, or an empty list: no pair.
        case nothing
    }

    /// The keys of the objects around and the pair's own, joined by dots.
    package var rawKey: String
    package var key: String
    /// Several where the key is multi-valued.
    package var values: [String]
    package var ending: Ending
    /// In the order in which they happened; none where all stayed as it was.
    package var steps: [String]
}

extension Normalizer {
    /// The pairs in byte order of their raw keys, object by object. Throws where the bytes are no JSON object.
    package func trace(_ raw: UnsafeRawBufferPointer) throws(JSONTextError) -> [PairTrace] {
        guard let members = try JSONValue.parse(raw).members else {
            throw JSONTextError(code: .unexpectedByte, position: 0)
        }
        var traces: [PairTrace] = []
        var pairs: [Pair] = []
        trace(members, path: nil, &traces)
        try flatten(raw, path: [], splits: [], into: &pairs)
        let winners = winners(of: &pairs).kept
        let others = Set(pairs.map(\.key)).subtracting(winners.map(\.key))
        for index in traces.indices {
            guard case .kept = traces[index].ending else { continue }
            let key = Array(traces[index].key.utf8)
            if others.contains(key) {
                traces[index].ending = .beyondLimit
            } else if let winner = winners.first(where: { $0.key == key }),
                winner.raw != Array(traces[index].rawKey.utf8)
            {
                traces[index].ending = .lostTo(Self.text(winner.raw))
            } else if let winner = winners.first(where: { $0.key == key }) {
                traces[index].values = winner.values.map(Self.text)
            }
        }
        return traces
    }

    private static func text(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }

    private func trace(_ members: [JSONMember], path: [UInt8]?, _ traces: inout [PairTrace]) {
        var last: [[UInt8]: JSONValue] = [:]
        for member in members { last[Array(member.key.utf8)] = member.value }
        for (name, value) in last.sorted(by: { $0.key.lexicographicallyPrecedes($1.key) }) {
            let raw = (path.map { $0 + [UInt8(ascii: ".")] } ?? []) + name
            if let inner = value.members, rules.descends(into: raw) {
                trace(inner, path: raw, &traces)
            } else {
                traces.append(trace(value, under: raw))
            }
        }
    }

    private func trace(_ value: JSONValue, under raw: [UInt8]) -> PairTrace {
        var trace = PairTrace(rawKey: Self.text(raw), key: "", values: [], ending: .nothing, steps: [])
        let composed = CanonicalText.composed(raw)
        if composed != raw { trace.steps.append("key composed (Unicode NFC)") }
        let cased = rules.cased(composed)
        if cased != composed { trace.steps.append("keys.case \(rules.keyCase.rawValue): \(Self.text(cased))") }
        let cut = CanonicalText.cut(cased, to: rules.limits.keyBytes)
        if let cut { trace.steps.append("limits.key_bytes \(rules.limits.keyBytes): \(Self.text(cut))") }
        let key = rules.canonicalKey(raw).key
        if key != cut ?? cased { trace.steps.append("keys.aliases: \(Self.text(key))") }
        trace.key = Self.text(key)
        if let pattern = rules.dropping(key) {
            trace.ending = .dropped(Self.text(pattern))
            return trace
        }
        guard !value.isNull else { return trace }
        let isList = rules.arrayForm(of: key) == .multi
        var elements = [value]
        if isList, let array = value.array {
            trace.steps.append("values.arrays multi: each element is a value")
            elements = array.filter { !$0.isNull }
            if elements.isEmpty { return trace }
        }
        trace.ending = .kept(rules.keyClass(of: key) ?? .dimension)
        for element in elements { trace.values.append(Self.text(canonical(element, of: key, &trace.steps))) }
        return trace
    }

    private func canonical(_ element: JSONValue, of key: [UInt8], _ steps: inout [String]) -> [UInt8] {
        var now = Self.plainText(element)
        func took(_ next: [UInt8], _ rule: String) {
            if next != now { steps.append("\(rule): \(Self.text(next))") }
            now = next
        }
        if element.string == nil { steps.append("as text: \(Self.text(now))") }
        if rules.hashes(key) {
            took(Self.hashed(now, by: hash) ?? Array("hmac:…".utf8), "keys.hash")
            return now
        }
        took(CanonicalText.trimmed(CanonicalText.composed(now)), "composed and trimmed")
        if rules.lowered.contains(key) { took(CanonicalText.lowered(now), "values.case lower") }
        if let mapped = rules.maps[key]?[now] { took(mapped, "values.maps") }
        took(
            rules.canonicalValue(Self.plainText(element), of: key).value,
            "limits.value_bytes \(rules.limits.valueBytes)")
        return now
    }
}
