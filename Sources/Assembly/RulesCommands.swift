// `rules check`, `rules try` and `rules diff`: a rules file looked at before it is in force.

import CommandLine
import Configuration
import Cryptography
import Events
import Glibc
import JSONText
import Normalizer
import QueryAPI
import RollupStore

enum RulesCommands {
    /// Metadata that `try` takes from standard input at the most, in bytes.
    private static let inputLimit = 1 << 20

    static func check(_ invocation: Invocation) throws -> Int32 {
        let path = invocation.arguments[0]
        let problems = try read(path).problems
        if invocation.flag("json") {
            let rows = problems.map { problem -> JSONValue in
                [
                    "line": problem.line > 0 ? JSONValue(problem.line) : .null, "path": .string(problem.path),
                    "message": .string(problem.message),
                ]
            }
            try Terminal.write(
                JSONValue.object([
                    .init(key: "ok", value: .boolean(problems.isEmpty)), .init(key: "problems", value: .array(rows)),
                ]).text + "\n")
        } else if problems.isEmpty {
            try Terminal.write("ok\n")
        } else {
            Terminal.complain("\(path) has \(problems.count == 1 ? "a mistake" : "\(problems.count) mistakes"):")
            for problem in problems { Terminal.complain("  \(problem)") }
        }
        return problems.isEmpty ? 0 : 2
    }

    // MARK: Try

    static func attempt(_ invocation: Invocation) throws -> Int32 {
        let rules = try valid(invocation.arguments[0])
        let input = try standardInput()
        // A key of this run's own: what is shown is which values are hidden, not under what they are found.
        let hash = KeyedHash(key: SecureRandom.bytes(32) ?? [UInt8](repeating: 0, count: 32))
        var normalizer = Normalizer(rules: rules) { hash.digits(of: $0) }
        let result = normalizer.normalize(raw: input, status: .ok)
        let traces: [PairTrace]
        do {
            traces = try input.withUnsafeBytes { try normalizer.trace($0) }
        } catch {
            throw Failure(
                "The metadata on standard input is no JSON object: \(error). Its status would be \(result.status.name)."
            )
        }
        try Terminal.write(
            invocation.flag("json") ? json(traces, result).text + "\n" : text(traces, result))
        return 0
    }

    private static func text(_ traces: [PairTrace], _ result: NormalizedMetadata) -> String {
        var out = ""
        for trace in traces {
            let left = trace.rawKey == trace.key ? trace.key : "\(trace.rawKey) -> \(trace.key)"
            let values = trace.values.joined(separator: ", ")
            switch trace.ending {
            case .kept(let keyClass): out += "\(left) = \(values)  [\(keyClass.name)]\n"
            case .dropped(let pattern): out += "\(left): dropped by keys.drop \(pattern)\n"
            case .lostTo(let other): out += "\(left) = \(values): left out, \(other) has this key\n"
            case .beyondLimit: out += "\(left) = \(values): left out, beyond limits.keys\n"
            case .nothing: out += "\(left): no value, no pair\n"
            }
            for step in trace.steps { out += "    \(step)\n" }
        }
        func shown(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }
        out += "\ndimensions  \(shown(result.set))\nothers      \(shown(result.extra))\n"
        out += "status      \(result.status.name)\nconflicts   \(result.conflicts)\n"
        return out
    }

    private static func json(_ traces: [PairTrace], _ result: NormalizedMetadata) -> JSONValue {
        let rows = traces.map { trace -> JSONValue in
            let (ending, by): (String, String?) =
                switch trace.ending {
                case .kept(let keyClass): ("kept", keyClass.name)
                case .dropped(let pattern): ("dropped", pattern)
                case .lostTo(let other): ("lost_to", other)
                case .beyondLimit: ("beyond_limit", nil)
                case .nothing: ("nothing", nil)
                }
            return [
                "raw_key": .string(trace.rawKey), "key": .string(trace.key),
                "values": .array(trace.values.map { .string($0) }), "ending": .string(ending),
                "by": by.map { .string($0) } ?? .null, "steps": .array(trace.steps.map { .string($0) }),
            ]
        }
        return [
            "pairs": .array(rows), "dimensions": parsed(result.set), "others": parsed(result.extra),
            "status": .string(result.status.name), "conflicts": JSONValue(Int(result.conflicts)),
        ]
    }

    private static func parsed(_ bytes: [UInt8]) -> JSONValue {
        // The normalizer wrote it.
        (try? JSONValue.parse(bytes)) ?? .null
    }

    private static func standardInput() throws -> [UInt8] {
        switch readFile("/dev/stdin", limit: inputLimit) {
        case .success(let bytes): return bytes
        case .failure(let problem): throw Failure("Standard input cannot be read: \(problem.reason).")
        }
    }

    // MARK: Diff

    private struct Change: Hashable {
        var key: String
        var old: String?
        var new: String?
    }

    static func diff(_ invocation: Invocation) throws -> Int32 {
        let configuration = try invocation.configuration()
        let (oldRules, newRules) = (try valid(invocation.arguments[0]), try valid(invocation.arguments[1]))
        let limit = try invocation.integer("limit", in: 1...10_000) ?? 50
        let now = SystemFacts.now()
        let to = try invocation.time("to") ?? EventTime(microseconds: now.microseconds + 1)
        let from = try invocation.time("from") ?? EventTime(microseconds: to.microseconds - 86_400_000_000)
        let hash = { (rules: Rules) in rules.needsHashKey ? try HashKey.hash(configuration) : nil }
        var old = Normalizer(rules: oldRules, hash: try hash(oldRules))
        var new = Normalizer(rules: newRules, hash: try hash(newRules))
        let store = try Preparation.openStore(configuration, readers: 1)
        var changes: [Change: Int] = [:]
        var (events, changed) = (0, 0)
        try store.reader.read { snapshot in
            try snapshot.scanEvents(from: from, to: to, before: nil, series: .all) { stored in
                events += 1
                let before = old.normalize(raw: stored.event.metadataRaw, status: .ok)
                let after = new.normalize(raw: stored.event.metadataRaw, status: .ok)
                if before.set == after.set, before.extra == after.extra { return true }
                let (pairsBefore, pairsAfter) = (pairs(before), pairs(after))
                var differs = false
                for key in Set(pairsBefore.keys).union(pairsAfter.keys) where pairsBefore[key] != pairsAfter[key] {
                    changes[Change(key: key, old: pairsBefore[key], new: pairsAfter[key]), default: 0] += 1
                    differs = true
                }
                if differs { changed += 1 }
                return true
            }
        }
        let sorted = changes.sorted {
            ($1.value, $0.key.key, $0.key.old ?? "", $0.key.new ?? "")
                < ($0.value, $1.key.key, $1.key.old ?? "", $1.key.new ?? "")
        }
        let shown = sorted.prefix(limit)
        if invocation.flag("json") {
            let rows = shown.map { change, count -> JSONValue in
                [
                    "key": .string(change.key), "old": change.old.map { .string($0) } ?? .null,
                    "new": change.new.map { .string($0) } ?? .null, "events": JSONValue(count),
                ]
            }
            let answer: JSONValue = [
                "events": JSONValue(events), "changed": JSONValue(changed), "differences": JSONValue(sorted.count),
                "changes": .array(rows),
            ]
            try Terminal.write(answer.text + "\n")
            return 0
        }
        var out = "\(events) events, \(changed) of them would change, \(sorted.count) differences\n"
        for (change, count) in shown {
            out += "\(count)  \(change.key): \(change.old ?? "(none)") -> \(change.new ?? "(none)")\n"
        }
        if sorted.count > shown.count { out += "… and \(sorted.count - shown.count) more; --limit shows them\n" }
        try Terminal.write(out)
        return 0
    }

    /// The canonical pairs of both kinds; a list as its JSON text.
    private static func pairs(_ metadata: NormalizedMetadata) -> [String: String] {
        var pairs: [String: String] = [:]
        for part in [metadata.set, metadata.extra] {
            for member in parsed(part).members ?? [] { pairs[member.key] = member.value.string ?? member.value.text }
        }
        return pairs
    }

    // MARK: Files

    /// A mistake in the file and where it stands; line 0 where none is to blame.
    struct LinedProblem: CustomStringConvertible {
        var line: Int
        var path: String
        var message: String

        var description: String { line > 0 ? "line \(line): \(withoutLine)" : withoutLine }
        var withoutLine: String { path.isEmpty ? message : "\(path): \(message)" }
    }

    static func valid(_ path: String) throws -> Rules {
        let (rules, problems) = try read(path)
        guard let rules else {
            throw Failure("\(path): " + problems.map(\.description).joined(separator: "\n  "), status: 2)
        }
        return rules
    }

    private static func read(_ path: String) throws -> (rules: Rules?, problems: [LinedProblem]) {
        let bytes: [UInt8]
        switch readFile(path) {
        case .failure(let problem): throw Failure("\(path): \(problem.reason)", status: 2)
        case .success(let read): bytes = read
        }
        return read(bytes)
    }

    /// The text of a rules file.
    static func read(_ bytes: [UInt8]) -> (rules: Rules?, problems: [LinedProblem]) {
        let tree: YAMLNode
        do throws(YAMLError) {
            tree = try YAMLNode.parse(bytes)
        } catch {
            return (nil, [LinedProblem(line: error.line, path: "", message: error.reason)])
        }
        do throws(RulesError) {
            return (try Rules.decode(tree.json), [])
        } catch {
            return (
                nil,
                error.problems.map { problem in
                    LinedProblem(line: tree.line(of: problem.path), path: problem.path, message: problem.message)
                }
            )
        }
    }
}
