// Raw metadata -> raw metadata without what `drop` and `hash` name. Pure; doing it twice changes nothing.
//
// The proxy does it before the journal and the consumer before the store, so that neither holds a value that the rules
// hide. A member stays as the client wrote it, unless the canonical key of its path is named: dropped, it goes with its
// name; hashed, its value becomes the text that the normalizer gives it, which the normalizer then leaves alone. So
// normalizing what was redacted gives what normalizing the raw text gives.

package import Events
import JSONText

package struct Redactor: Sendable {
    private static let resultsKept = 4_096
    private static let bytesKept = 4 << 20
    private static let sizeKept = 2_048

    private let rules: Rules
    private let hash: Normalizer.KeyedHash?
    private var seen = ByteInterner()
    private var results: [[UInt8]] = []

    /// nil where the rules hide nothing. Without `hash`, what they hash is dropped.
    package init?(rules: Rules, hash: Normalizer.KeyedHash?) {
        guard rules.hidesValues else { return nil }
        self.rules = rules
        self.hash = hash
    }

    /// Of bytes that are no JSON object nothing is left: nobody can say what is in them.
    package mutating func redact(_ raw: UnsafeRawBufferPointer) -> [UInt8] {
        guard raw.count <= Self.sizeKept else { return compute(raw) }
        if results.count >= Self.resultsKept || seen.size >= Self.bytesKept {
            seen.removeAll()
            results.removeAll(keepingCapacity: true)
        }
        let number = Int(seen.intern(raw))
        if number == results.count { results.append(compute(raw)) }
        return results[number]
    }

    package mutating func redact(_ event: inout RequestEvent) {
        event.metadataRaw = event.metadataRaw.withUnsafeBytes { redact($0) }
        event.metadataRejected = []
    }

    private func compute(_ raw: UnsafeRawBufferPointer) -> [UInt8] {
        do throws(JSONTextError) {
            var tokens = JSONTokenizer(raw)
            let first = try tokens.next()
            try tokens.skip(first)
            _ = try tokens.next()
            guard first == .beginObject else { return [] }
            var out: [UInt8] = []
            try copy(raw, path: nil, to: &out)
            return out
        } catch { return [] }
    }

    /// `path`: the keys of the objects around, joined by dots; nil outermost.
    private func copy(_ object: UnsafeRawBufferPointer, path: [UInt8]?, to out: inout [UInt8]) throws(JSONTextError) {
        var tokens = JSONTokenizer(object)
        _ = try tokens.next()
        out.append(UInt8(ascii: "{"))
        var isFirst = true
        while case .key(let key) = try tokens.next() {
            let token = try tokens.next()
            let start = Self.start(of: token, endingAt: tokens.position)
            try tokens.skip(token)
            let value = UnsafeRawBufferPointer(rebasing: object[start..<tokens.position])
            let raw = (path.map { $0 + [UInt8(ascii: ".")] } ?? []) + Normalizer.text(key, in: object)
            let isInner = token == .beginObject && rules.descends(into: raw)
            let canonical = rules.canonicalKey(raw).key
            let isHashed = !isInner && token != .null && rules.hashes(canonical)
            if !isInner, rules.drops(canonical) || isHashed && hash == nil { continue }
            if !isFirst { out.append(UInt8(ascii: ",")) }
            isFirst = false
            // The name with its quotes.
            out.append(contentsOf: object[(key.range.lowerBound - 1)...key.range.upperBound])
            out.append(UInt8(ascii: ":"))
            if isInner {
                try copy(value, path: raw, to: &out)
            } else if isHashed {
                try appendHashed(value, isList: rules.arrayForm(of: canonical) == .multi, to: &out)
            } else {
                out.append(contentsOf: value)
            }
        }
        out.append(UInt8(ascii: "}"))
    }

    /// Where the value begins whose first token ends at `end`.
    private static func start(of token: JSONToken, endingAt end: Int) -> Int {
        switch token {
        case .string(let string): string.range.lowerBound - 1
        case .number(let range): range.lowerBound
        case .boolean(let isTrue): end - (isTrue ? 4 : 5)
        case .null: end - 4
        case .beginObject, .beginArray, .endObject, .endArray, .key, .end: end - 1
        }
    }

    private func appendHashed(
        _ value: UnsafeRawBufferPointer, isList: Bool, to out: inout [UInt8]
    ) throws(JSONTextError) {
        let tree = try JSONValue.parse(value)
        func append(_ value: JSONValue, _ out: inout [UInt8]) {
            guard let hashed = Normalizer.hashed(Normalizer.plainText(value), by: hash) else { return }
            JSONStrings.appendQuoted(hashed, to: &out)
        }
        guard isList, let elements = tree.array else { return append(tree, &out) }
        out.append(UInt8(ascii: "["))
        for (index, element) in elements.filter({ !$0.isNull }).enumerated() {
            if index > 0 { out.append(UInt8(ascii: ",")) }
            append(element, &out)
        }
        out.append(UInt8(ascii: "]"))
    }
}
