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

    /// When a key's class is decided by what is seen of it. The evidence are the latest hours' rollup rows, as many hours
    /// as it takes to come to `hourEvents` events, a week of them at the most.
    ///
    /// | `observe` | unit | default | allowed | why |
    /// | --- | --- | --- | --- | --- |
    /// | `enabled` | | true | | false: every key that `classes` does not name is a dimension |
    /// | `rows_percent` | hour rows of 100 events | 25 | 1 … 100 | with more, rollups are hardly smaller than the log |
    /// | `events` | events | 1,000 | 100 … 10^9 | fewer say little and cost little |
    /// | `hour_events` | events of one hour, or of slow hours together | 50,000 | 100 … 10^9 | any key may go from here on: in a slow hour, or one just begun, few combinations have come twice yet |
    /// | `many_values` | values | 500 | 10 … 10^9 | for the rows of one slow hour only keys with so many may go |
    /// | `unique_percent` | values of 100 requests | 90 | 1 … 100 | nearly every request has one of its own: an identifier |
    package struct Observation: Sendable, Equatable {
        package var isEnabled = true
        package var rowsPercent = 25
        package var events = 1_000
        package var hourEvents = 50_000
        package var manyValues = 500
        package var uniquePercent = 90

        package init() {}
    }

    /// What one workspace may put into the rollups of one hour. What is beyond is filed under `(other)`.
    ///
    /// | `budgets` | unit | default | allowed | why |
    /// | --- | --- | --- | --- | --- |
    /// | `sets` | metadata sets | 100,000 | 1 … 10^7 | an honest service has far fewer; a row of each takes some hundred bytes |
    /// | `values` | values of one key | 10,000 | 1 … 10^7 | nobody chooses among more; a key with more is no dimension |
    /// | `keys` | keys | 256 | 1 … 10^5 | names that people agree upon are some dozens |
    package struct Budget: Sendable, Equatable {
        package var sets = 100_000
        package var values = 10_000
        package var keys = 256

        package init() {}
    }

    /// A class that a key got by what was seen of it.
    package struct Observed: Sendable, Equatable {
        package var keyClass: KeyClass
        /// A sentence's part, with the figures.
        package var reason: String

        package init(keyClass: KeyClass, reason: String) {
            self.keyClass = keyClass
            self.reason = reason
        }
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
    package internal(set) var observation = Observation()
    var budget = Budget()
    /// Of workspaces that have one of their own.
    var budgets: [String: Budget] = [:]
    /// Of keys that `classes` does not name.
    package internal(set) var observed: [[UInt8]: Observed] = [:]
    /// The fingerprint of the rules that these are, but for what was observed; empty where nothing was.
    var configured = ""

    init() {}

    /// `snake`, arrays as JSON, the default limits, nothing else.
    package static let builtIn = Rules()

    /// Some values must be hashed: without a key for it they are dropped.
    package var needsHashKey: Bool { !hash.isEmpty }

    /// Some values are dropped or hashed: they must not be kept in the raw metadata either.
    package var hidesValues: Bool { !drop.isEmpty || !hash.isEmpty }

    package func budget(of workspace: String) -> Budget { budgets[workspace] ?? budget }

    /// The class of a canonical key, by configuration or by observation; nil where neither says anything: a dimension.
    package func keyClass(of key: [UInt8]) -> KeyClass? { classes[key] ?? observed[key]?.keyClass }

    /// The configuration says what class the key has: observation decides nothing.
    package func names(_ key: [UInt8]) -> Bool { classes[key] != nil }

    /// Canonical keys that are entities.
    var entities: [[UInt8]] {
        classes.filter { $0.value == .entity }.map(\.key)
            + observed.filter { $0.value.keyClass == .entity && classes[$0.key] == nil }.map(\.key)
    }

    /// Every key is a dimension.
    var hasNoClasses: Bool { classes.isEmpty && observed.isEmpty }

    /// These rules with more classes that were observed. `fingerprint`: of the configured rules.
    package func observing(_ found: [[UInt8]: Observed], configured fingerprint: String) -> Rules {
        var rules = self
        rules.observed.merge(found) { $1 }
        rules.observed = rules.observed.filter { classes[$0.key] == nil }
        rules.configured = rules.observed.isEmpty ? "" : fingerprint
        return rules
    }

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
        func members(of budget: Budget) -> [JSONMember] {
            [("sets", budget.sets), ("values", budget.values), ("keys", budget.keys)]
                .map { JSONMember(key: $0, value: JSONValue($1)) }
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
            "observe": [
                "enabled": .boolean(observation.isEnabled), "rows_percent": JSONValue(observation.rowsPercent),
                "events": JSONValue(observation.events), "hour_events": JSONValue(observation.hourEvents),
                "many_values": JSONValue(observation.manyValues),
                "unique_percent": JSONValue(observation.uniquePercent),
            ],
            "budgets": .object(
                members(of: budget) + [
                    JSONMember(
                        key: "workspaces",
                        value: .object(
                            budgets.sorted { $0.key.utf8.lexicographicallyPrecedes($1.key.utf8) }
                                .map { JSONMember(key: $0.key, value: .object(members(of: $0.value))) }))
                ]),
        ]
        guard !observed.isEmpty, let members = rules.members else { return rules.bytes }
        let found: JSONValue = [
            "configured": .string(configured),
            "classes": .object(
                object(observed) { ["class": .string($0.keyClass.name), "reason": .string($0.reason)] }),
        ]
        return JSONValue.object(members + [JSONMember(key: "observed", value: found)]).bytes
    }
}
