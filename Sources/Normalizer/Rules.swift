// The normalization rules: what a rules file says, in canonical form. Text lies as bytes, keyed by canonical key.

import JSONText

/// Rules are made by `decode(_:)` or are `builtIn`; every key and value in them is canonical by the rules themselves,
/// and chains of aliases and maps are followed to their end: that makes `normalize` idempotent.
package struct Rules: Sendable, Equatable {
    package enum KeyCase: String, Sendable, CaseIterable {
        case snake, lower, keep
    }

    package enum ValueCase: String, Sendable, CaseIterable {
        case lower, keep
    }

    package enum ArrayForm: String, Sendable, CaseIterable {
        /// The array's compact JSON text is the value.
        case json
        /// Each element is a value.
        case multi
    }

    /// | limit | unit | default | allowed | why | at the limit |
    /// | --- | --- | --- | --- | --- | --- |
    /// | `keys` | keys of an event | 64 | 1 … 1,024 | a set must stay small enough to repeat | the first in byte order stay |
    /// | `keyBytes` | bytes | 128 | 8 … 1,024 | names, not texts | cut between characters |
    /// | `valueBytes` | bytes | 512 | 40 … 8,192 | values to filter by, not texts | cut between characters |
    /// | `depth` | levels | 3 | 1 … 16 | deeper objects are rarely filtered by | JSON text |
    ///
    /// What a limit cuts makes the event's metadata status `truncated`; depth does not, nothing is lost by it.
    package struct Limits: Sendable, Equatable {
        package var keys = 64
        package var keyBytes = 128
        package var valueBytes = 512
        package var depth = 3

        package init() {}
    }

    package internal(set) var keyCase = KeyCase.snake
    package internal(set) var limits = Limits()
    var aliases: [[UInt8]: [UInt8]] = [:]
    /// Canonical keys in which `*` stands for any run of characters.
    var drop: Set<[UInt8]> = []
    var hash: Set<[UInt8]> = []
    /// The keys whose values are in lower case.
    var lowered: Set<[UInt8]> = []
    var maps: [[UInt8]: [[UInt8]: [UInt8]]] = [:]
    var arrayForm = ArrayForm.json
    var arrayForms: [[UInt8]: ArrayForm] = [:]
    var classes: [[UInt8]: KeyClass] = [:]

    init() {}

    /// `snake`, arrays as JSON, the default limits, nothing else.
    package static let builtIn = Rules()

    /// Some values must be hashed: without a key for it they are dropped.
    package var needsHashKey: Bool { !hash.isEmpty }

    /// Some values are dropped or hashed: they must not be kept in the raw metadata either.
    package var hidesValues: Bool { !drop.isEmpty || !hash.isEmpty }

    /// The class that the rules give a canonical key; nil where they leave it to observation.
    package func keyClass(of key: [UInt8]) -> KeyClass? { classes[key] }

    /// The classes that the rules give, by canonical key.
    package var classNames: [String: String] {
        Dictionary(uniqueKeysWithValues: classes.map { (String(decoding: $0.key, as: UTF8.self), $0.value.name) })
    }

    // MARK: Canonical keys and values

    /// The key of a path; `isCut` where the limit cut it. `raw`: the path's keys joined by dots.
    func canonicalKey(_ raw: [UInt8]) -> (key: [UInt8], isCut: Bool) {
        let cased = cased(CanonicalText.composed(raw))
        let cut = CanonicalText.cut(cased, to: limits.keyBytes)
        let key = cut ?? cased
        return (aliases[key] ?? key, cut != nil)
    }

    /// An object under this path is flattened; else its JSON text is the value.
    func descends(into raw: [UInt8]) -> Bool { raw.count(where: { $0 == UInt8(ascii: ".") }) + 1 < limits.depth }

    /// The case rule, level by level.
    func cased(_ key: [UInt8]) -> [UInt8] {
        guard key.contains(UInt8(ascii: ".")) else { return casedLevel(key) }
        var out: [UInt8] = []
        for (index, level) in key.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false).enumerated() {
            if index > 0 { out.append(UInt8(ascii: ".")) }
            out.append(contentsOf: casedLevel(Array(level)))
        }
        return out
    }

    private func casedLevel(_ level: [UInt8]) -> [UInt8] {
        let level = CanonicalText.trimmed(level)
        switch keyCase {
        case .snake: return CanonicalText.snake(level)
        case .lower: return CanonicalText.lowered(level)
        case .keep: return level
        }
    }

    /// The value under a canonical key; `isCut` where the limit cut it.
    func canonicalValue(_ text: [UInt8], of key: [UInt8]) -> (value: [UInt8], isCut: Bool) {
        var value = CanonicalText.trimmed(CanonicalText.composed(text))
        if !lowered.isEmpty, lowered.contains(key) { value = CanonicalText.lowered(value) }
        let map = maps.isEmpty ? nil : maps[key]
        if let mapped = map?[value] { value = mapped }
        guard let cut = CanonicalText.cut(value, to: limits.valueBytes) else { return (value, false) }
        // What the cut leaves may be a value of the map itself.
        return (map?[cut] ?? cut, true)
    }

    /// The key or an object that it lies in is to be dropped.
    func drops(_ key: [UInt8]) -> Bool { !drop.isEmpty && dropping(key) != nil }

    /// The entry that drops the key or an object that it lies in.
    func dropping(_ key: [UInt8]) -> [UInt8]? {
        var found: [UInt8]?
        _ = anyPrefix(of: key) { prefix in
            found = drop.first { Self.matches(prefix, $0[...]) }
            return found != nil
        }
        return found
    }

    /// The key or an object that it lies in is to be hashed.
    func hashes(_ key: [UInt8]) -> Bool {
        guard !hash.isEmpty else { return false }
        return anyPrefix(of: key) { hash.contains(Array($0)) }
    }

    /// Of a scalar under this canonical key nothing but blanks at the ends, composition and the limit changes.
    func takesValuesAsTheyAre(_ key: [UInt8]) -> Bool {
        !hashes(key) && !lowered.contains(key) && maps[key] == nil && arrayForm(of: key) == .json
    }

    func arrayForm(of key: [UInt8]) -> ArrayForm { arrayForms.isEmpty ? arrayForm : arrayForms[key] ?? arrayForm }

    private func anyPrefix(of key: [UInt8], _ test: (ArraySlice<UInt8>) -> Bool) -> Bool {
        for index in key.indices where key[index] == UInt8(ascii: ".") && test(key[..<index]) { return true }
        return test(key[...])
    }

    /// `*` in the pattern stands for any run of bytes; linear but for the stars.
    static func matches(_ text: ArraySlice<UInt8>, _ pattern: ArraySlice<UInt8>) -> Bool {
        var text = text
        var pattern = pattern
        // Where the last star stood and how far the text had come: where to go on when the rest does not fit.
        var retry: (text: ArraySlice<UInt8>, pattern: ArraySlice<UInt8>)?
        while true {
            if pattern.first == UInt8(ascii: "*") {
                pattern = pattern.dropFirst()
                retry = (text, pattern)
            } else if let byte = text.first, pattern.first == byte {
                text = text.dropFirst()
                pattern = pattern.dropFirst()
            } else if text.isEmpty, pattern.isEmpty {
                return true
            } else if let last = retry, !last.text.isEmpty {
                text = last.text.dropFirst()
                pattern = last.pattern
                retry = (text, pattern)
            } else {
                return false
            }
        }
    }

    // MARK: The canonical form

    /// One text for rules that say the same: compact JSON, everything said, lists and members in byte order. Its
    /// SHA-256 is the rules' fingerprint.
    package var canonicalText: [UInt8] {
        func text(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }
        func object<Value>(_ pairs: [[UInt8]: Value], _ value: (Value) -> JSONValue) -> [JSONMember] {
            pairs.sorted { $0.key.lexicographicallyPrecedes($1.key) }
                .map { JSONMember(key: text($0.key), value: value($0.value)) }
        }
        func list(_ keys: Set<[UInt8]>) -> JSONValue {
            .array(keys.sorted { $0.lexicographicallyPrecedes($1) }.map { .string(text($0)) })
        }
        let valueCases = Dictionary(uniqueKeysWithValues: lowered.map { ($0, ValueCase.lower) })
        let rules: JSONValue = [
            "version": 1,
            "keys": [
                "case": .string(keyCase.rawValue), "aliases": .object(object(aliases) { .string(text($0)) }),
                "drop": list(drop), "hash": list(hash),
            ],
            "values": [
                "case": .object(object(valueCases) { .string($0.rawValue) }),
                "maps": .object(object(maps) { map in .object(object(map) { .string(text($0)) }) }),
                "arrays": .object(
                    [JSONMember(key: "default", value: .string(arrayForm.rawValue))]
                        + object(arrayForms) { .string($0.rawValue) }),
            ],
            "limits": [
                "keys": JSONValue(limits.keys), "key_bytes": JSONValue(limits.keyBytes),
                "value_bytes": JSONValue(limits.valueBytes), "depth": JSONValue(limits.depth),
            ],
            "classes": .object(object(classes) { .string($0.name) }),
        ]
        return rules.bytes
    }
}
