// The program: words → a command → exit status. Every error that reaches this file becomes a sentence and a status.

import CommandLine
import Configuration
import Events
import Glibc

package enum Millrace {
    /// Exit status: 0 done, 1 failed, 2 wrong usage or configuration.
    package static func main() -> Never {
        // Before any thread: each one inherits this, and only the one that waits for signals sees them.
        Signals.block()
        exit(run(Array(Swift.CommandLine.arguments.dropFirst())))
    }

    private static func run(_ words: [String]) -> Int32 {
        do {
            switch try Program.millrace.parse(words) {
            case .show(let text):
                try Terminal.write(text)
                return 0
            case .run(let invocation): return try run(invocation)
            }
        } catch let error as UsageError {
            Terminal.complain(error.description)
            return 2
        } catch let error as ConfigurationError {
            let count = error.problems.count
            let head = count == 1 ? "The configuration has a mistake" : "The configuration has \(count) mistakes"
            Terminal.complain("\(head):\n" + error.problems.map { "  \($0)" }.joined(separator: "\n"))
            return 2
        } catch {
            Terminal.complain("\(error)")
            return Failure.status(of: error)
        }
    }

    private static func run(_ invocation: Invocation) throws -> Int32 {
        switch invocation.path.joined(separator: " ") {
        case "up": return try UpCommand.run(invocation)
        case "proxy": return try RoleCommands.proxy(invocation)
        case "consumer": return try RoleCommands.consumer(invocation)
        case "api": return try RoleCommands.api(invocation)
        case "dead-letters list": return try DeadLetterCommands.list(invocation)
        case "dead-letters show": return try DeadLetterCommands.show(invocation)
        case "dead-letters redrive": return try DeadLetterCommands.redrive(invocation)
        case "dead-letters discard": return try DeadLetterCommands.discard(invocation)
        case "replay": return try ReplayCommands.run(invocation)
        case "replay list": return try ReplayCommands.list(invocation)
        case "replay status": return try ReplayCommands.status(invocation)
        case "replay resume": return try ReplayCommands.resume(invocation)
        case "replay cancel": return try ReplayCommands.cancel(invocation)
        case "replay revert": return try ReplayCommands.revert(invocation)
        case "query": return try QueryCommand.run(invocation)
        case "keys create": return try KeyCommands.create(invocation)
        case "keys list": return try KeyCommands.list(invocation)
        case "keys revoke": return try KeyCommands.revoke(invocation)
        case "reconcile": return try ReconcileCommand.run(invocation)
        case "tail": return try TailCommand.run(invocation)
        case "completions":
            try Terminal.write(try Program.millrace.completions(for: invocation.arguments[0]))
            return 0
        case "man":
            try Terminal.write(Program.millrace.manualPage)
            return 0
        case "topics ensure": return try StoreAndTopicCommands.ensureTopics(invocation)
        case "migrate": return try StoreAndTopicCommands.migrate(invocation)
        case "doctor": return try DoctorCommand.run(invocation)
        case "backup": return try StoreAndTopicCommands.backUp(invocation)
        case "config check": return try ConfigurationCommands.check(invocation)
        case "config print": return try ConfigurationCommands.print(invocation)
        case "config schema": return try ConfigurationCommands.schema()
        case "config reference": return try ConfigurationCommands.reference(invocation)
        case "metrics reference": return try MetricsReference.run(invocation)
        case "rules check": return try RulesCommands.check(invocation)
        case "rules schema": return try RulesCommands.schema()
        case "rules try": return try RulesCommands.attempt(invocation)
        case "rules diff": return try RulesDiff.run(invocation)
        case "metadata keys": return try MetadataCommands.keys(invocation)
        case "mock-provider": return try SimulationCommands.mockProvider(invocation)
        case "loadgen": return try SimulationCommands.loadGenerator(invocation)
        default: throw UsageError("no such command", hint: "see millrace --help")
        }
    }
}

/// A failure of a command itself, in a sentence; status 1 unless the configuration is to blame.
struct Failure: Error, CustomStringConvertible {
    var description: String
    var status: Int32 = 1

    init(_ description: String, status: Int32 = 1) {
        self.description = description
        self.status = status
    }
}

enum Terminal {
    /// To standard output, whole. False: whoever read it has seen enough.
    @discardableResult
    static func write(_ text: String) throws -> Bool {
        var text = text
        let failed = text.withUTF8 { bytes -> Int32 in
            var rest = UnsafeRawBufferPointer(bytes)
            while !rest.isEmpty {
                let count = Glibc.write(1, rest.baseAddress, rest.count)
                if count < 0 {
                    if errno == EINTR { continue }
                    return errno
                }
                rest = UnsafeRawBufferPointer(rebasing: rest[count...])
            }
            return 0
        }
        // Whoever reads has seen enough (`millrace query | head`): nothing is wrong.
        if failed != 0, failed != EPIPE {
            throw Failure("Standard output cannot be written: \(String(cString: strerror(failed))).")
        }
        return failed == 0
    }

    /// To standard error. Nowhere is left to say so where that fails.
    static func complain(_ text: String) {
        var line = "millrace: \(text)\n"
        line.withUTF8 { _ = Glibc.write(2, $0.baseAddress, $0.count) }
    }

    static var isInteractive: Bool { isatty(1) == 1 }
}

/// The environment as a dictionary.
func processEnvironment() -> [String: String] {
    var out: [String: String] = [:]
    var next = environ
    while let entry = next.pointee {
        let text = String(cString: entry)
        if let equals = text.firstIndex(of: "=") {
            out[String(text[..<equals])] = String(text[text.index(after: equals)...])
        }
        next += 1
    }
    return out
}

extension Invocation {
    /// The configuration that this command runs under. `standards` replace defaults.
    func configuration(standards: [String: SettingValue] = [:]) throws(ConfigurationError) -> MillraceConfiguration {
        try MillraceConfiguration(
            ConfigurationSources(
                file: text("config"), environment: processEnvironment(), flags: settings, standards: standards))
    }

    /// An option's instant; nil where it is not given.
    func time(_ name: String) throws(UsageError) -> EventTime? {
        guard let text = text(name) else { return nil }
        guard let time = RFC3339.parse(text) else {
            throw UsageError("--\(name) \(text): not a time", hint: "such as --\(name) 2026-11-01T00:00:00Z")
        }
        return time
    }
}
