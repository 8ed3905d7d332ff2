// `rules diff`: what other rules would change in the stored events, by key and by value.
//
// Either side has the classes that observation has given keys by now, as it would have them in force: they hold on but
// for keys that the file names, and where it lets anything be observed at all.

import CommandLine
import Configuration
import Events
import Ingest
import JSONText
import Normalizer
import QueryAPI
import RollupStore

struct RulesDiff {
    private struct Change: Hashable {
        var key: String
        var old: String?
        var new: String?
    }

    private struct KeyChange {
        var old: KeyClass
        var new: KeyClass
        var events = 0
        var hasOtherClass: Bool { old != new }
    }

    /// Differences that are told apart; of those beyond it only the keys are counted.
    private static let changesLimit = 100_000

    private let oldRules: Rules
    private let newRules: Rules
    /// What observation has said in this store.
    private let observed: [String: Rules.Observed]
    private let haveSameClasses: Bool
    private var old: Normalizer
    private var new: Normalizer
    private var events = 0
    private var changed = 0
    private var keys: [String: KeyChange] = [:]
    private var changes: [Change: Int] = [:]
    private var hasMore = false

    static func run(_ invocation: Invocation) throws -> Int32 {
        let configuration = try invocation.configuration()
        let limit = try invocation.integer("limit", in: 1...10_000) ?? 50
        let now = SystemFacts.now()
        let to = try invocation.time("to") ?? EventTime(microseconds: now.microseconds + 1)
        let from = try invocation.time("from") ?? EventTime(microseconds: to.microseconds - 86_400_000_000)
        let (old, new) = (
            try RulesFile.valid(invocation.arguments[0]), try RulesFile.valid(invocation.arguments[1])
        )
        let store = try Preparation.openExistingStore(configuration)
        let diff = try store.reader.read { snapshot in
            var diff = try RulesDiff(configuration, old, new, try snapshot.rulesTimeline())
            try snapshot.scanEvents(from: from, to: to, before: nil, series: .all) { stored in
                diff.compare(stored.event.metadataRaw)
                return true
            }
            return diff
        }
        try Terminal.write(invocation.flag("json") ? diff.json(limit).text + "\n" : diff.text(limit))
        return 0
    }

    private init(
        _ configuration: MillraceConfiguration, _ old: Rules, _ new: Rules, _ timeline: RulesTimeline
    ) throws {
        let old = try RulesText.succeeding(timeline, old).rules()
        let new = try RulesText.succeeding(timeline, new).rules()
        (oldRules, newRules) = (old, new)
        let last = try timeline.entries.last?.rules.rules()
        observed = Dictionary(
            uniqueKeysWithValues: (last?.observed ?? [:]).map { (String(decoding: $0.key, as: UTF8.self), $0.value) })
        let found = observed.keys.map { Array($0.utf8) }
        haveSameClasses =
            old.classNames == new.classNames && found.allSatisfy { old.keyClass(of: $0) == new.keyClass(of: $0) }
        let hash = old.needsHashKey || new.needsHashKey ? try HashKey.hashOfLook(configuration) : nil
        self.old = Normalizer(rules: old, hash: hash)
        self.new = Normalizer(rules: new, hash: hash)
    }

    private mutating func compare(_ raw: [UInt8]) {
        events += 1
        let before = old.normalize(raw: raw, status: .ok)
        let after = new.normalize(raw: raw, status: .ok)
        if before.set == after.set, before.extra == after.extra, haveSameClasses { return }
        let (pairsBefore, pairsAfter) = (pairs(before), pairs(after))
        var differs = false
        for key in Set(pairsBefore.keys).union(pairsAfter.keys) {
            let bytes = Array(key.utf8)
            var change =
                keys[key]
                ?? KeyChange(
                    old: oldRules.keyClass(of: bytes) ?? .dimension, new: newRules.keyClass(of: bytes) ?? .dimension)
            let (valueBefore, valueAfter) = (pairsBefore[key], pairsAfter[key])
            guard valueBefore != valueAfter || change.hasOtherClass else { continue }
            differs = true
            change.events += 1
            keys[key] = change
            guard valueBefore != valueAfter else { continue }
            let value = Change(key: key, old: valueBefore, new: valueAfter)
            if changes.count < Self.changesLimit || changes[value] != nil {
                changes[value, default: 0] += 1
            } else {
                hasMore = true
            }
        }
        if differs { changed += 1 }
    }

    /// The canonical pairs of both kinds; a list as its JSON text.
    private func pairs(_ metadata: NormalizedMetadata) -> [String: String] {
        var pairs: [String: String] = [:]
        for part in [metadata.set, metadata.extra] {
            for member in RulesCommands.parsed(part).members ?? [] {
                pairs[member.key] = member.value.string ?? member.value.text
            }
        }
        return pairs
    }

    // MARK: What is shown

    private var sortedKeys: [(key: String, change: KeyChange)] {
        keys.map { ($0.key, $0.value) }.sorted { ($1.1.events, $0.0) < ($0.1.events, $1.0) }
    }

    private var sortedChanges: [(change: Change, events: Int)] {
        changes.map { ($0.key, $0.value) }.sorted {
            ($1.1, $0.0.key, $0.0.old ?? "", $0.0.new ?? "") < ($0.1, $1.0.key, $1.0.old ?? "", $1.0.new ?? "")
        }
    }

    private func json(_ limit: Int) -> JSONValue {
        let rows = sortedKeys.prefix(limit).map { key, change -> JSONValue in
            [
                "key": .string(key), "events": JSONValue(change.events), "old_class": .string(change.old.name),
                "new_class": .string(change.new.name),
            ]
        }
        let values = sortedChanges.prefix(limit).map { change, events -> JSONValue in
            [
                "key": .string(change.key), "old": change.old.map { .string($0) } ?? .null,
                "new": change.new.map { .string($0) } ?? .null, "events": JSONValue(events),
            ]
        }
        return [
            "events": JSONValue(events), "changed": JSONValue(changed), "keys": .array(rows),
            "differences": JSONValue(changes.count), "has_more_differences": .boolean(hasMore),
            "changes": .array(values),
            "observed": .array(
                observedKeys.map { key, found in
                    [
                        "key": .string(key), "class": .string(found.keyClass.name), "reason": .string(found.reason),
                        "old": .string(standing(of: key, under: oldRules).rawValue),
                        "new": .string(standing(of: key, under: newRules).rawValue),
                    ]
                }),
        ]
    }

    private var observedKeys: [(key: String, found: Rules.Observed)] {
        observed.map { ($0.key, $0.value) }.sorted { $0.0 < $1.0 }
    }

    /// What becomes of an observed class under rules.
    private enum Standing: String {
        case holds, named, off

        var sentence: String {
            switch self {
            case .holds: "holds on"
            case .named: "gives way to the file's classes"
            case .off: "is given up: the file says observe: { enabled: false }"
            }
        }
    }

    private func standing(of key: String, under rules: Rules) -> Standing {
        rules.names(Array(key.utf8)) ? .named : rules.observation.isEnabled ? .holds : .off
    }

    private func text(_ limit: Int) -> String {
        var out = "\(events) events, \(changed) of them would change\n"
        func part(_ title: String, _ lines: [String]) {
            guard !lines.isEmpty else { return }
            out += "\n\(title)\n" + lines.prefix(limit).joined()
            if lines.count > limit { out += "  … and \(lines.count - limit) more; --limit shows them\n" }
        }
        part(
            "by key",
            sortedKeys.map { key, change in
                "  \(change.events)  \(key)"
                    + (change.hasOtherClass ? ", \(change.old.name) -> \(change.new.name)\n" : "\n")
            })
        part(
            "by value",
            sortedChanges.map { change, events in
                "  \(events)  \(change.key): \(change.old ?? "(none)") -> \(change.new ?? "(none)")\n"
            })
        if hasMore { out += "  and values beyond the first \(Self.changesLimit), which are counted by key alone\n" }
        part(
            "classes by observation, and what the new rules make of them",
            observedKeys.map { key, found in
                "  \(key), \(found.keyClass.name): \(standing(of: key, under: newRules).sentence)\n"
            })
        return out
    }
}
