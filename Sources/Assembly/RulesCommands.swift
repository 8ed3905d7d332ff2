// `rules check` and `rules try`: a rules file looked at before it is in force.

import CommandLine
import Configuration
import Cryptography
import Events
import Glibc
import JSONText
import Normalizer
import Schemas

enum RulesCommands {
    /// Metadata that `try` takes from standard input at the most, in bytes.
    private static let inputLimit = 1 << 20

    static func check(_ invocation: Invocation) throws -> Int32 {
        let path = invocation.arguments[0]
        let problems = try RulesFile.read(path).problems
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

    static func schema() throws -> Int32 {
        try Terminal.write(Schemas.rules)
        return 0
    }

    // MARK: Try

    static func attempt(_ invocation: Invocation) throws -> Int32 {
        let rules = try RulesFile.valid(invocation.arguments[0])
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

    static func parsed(_ bytes: [UInt8]) -> JSONValue {
        // The normalizer wrote it.
        (try? JSONValue.parse(bytes)) ?? .null
    }

    private static func standardInput() throws -> [UInt8] {
        switch readFile("/dev/stdin", limit: inputLimit) {
        case .success(let bytes): return bytes
        case .failure(let problem): throw Failure("Standard input cannot be read: \(problem.reason).")
        }
    }
}
