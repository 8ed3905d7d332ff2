// Declarations of a program's commands: words → `Invocation`, or a usage error with a hint. The same declarations
// print `--help`; nothing about a command is said in a second place.

/// An option: `--name VALUE` or `--name=VALUE`, or a flag `--name` where `value` is nil.
package struct Option: Sendable {
    package var name: String
    /// What stands for the value in help: `FILE`. nil: a flag.
    package var value: String?
    package var help: String
    /// Shown in help; the command applies it.
    package var standard: String?
    package var isRepeatable: Bool

    package init(
        _ name: String, _ value: String? = nil, _ help: String, standard: String? = nil, isRepeatable: Bool = false
    ) {
        self.name = name
        self.value = value
        self.help = help
        self.standard = standard
        self.isRepeatable = isRepeatable
    }
}

/// A word without dashes.
package struct Argument: Sendable {
    package var name: String
    package var help: String
    package var isRequired: Bool

    package init(_ name: String, _ help: String, isRequired: Bool) {
        self.name = name
        self.help = help
        self.isRequired = isRequired
    }
}

package struct Example: Sendable {
    package var line: String
    package var what: String

    package init(_ line: String, _ what: String) {
        self.line = line
        self.what = what
    }
}

/// A command with its own options, or a group with subcommands; or both, where it does something without one.
package struct Command: Sendable {
    package var name: String
    /// One line, no full stop.
    package var summary: String
    /// Paragraphs for `--help`, each wrapped on output.
    package var discussion: [String]
    package var arguments: [Argument]
    package var options: [Option]
    package var examples: [Example]
    package var subcommands: [Command]
    /// Whether `--config` and configuration keys are taken.
    package var takesConfiguration: Bool
    /// Of a group: it is a command, too.
    package var runsItself: Bool

    package var isRunnable: Bool { subcommands.isEmpty || runsItself }

    package init(
        _ name: String, _ summary: String, discussion: [String] = [], arguments: [Argument] = [],
        options: [Option] = [],
        examples: [Example] = [], subcommands: [Command] = [], takesConfiguration: Bool = true,
        runsItself: Bool = false
    ) {
        self.name = name
        self.summary = summary
        self.discussion = discussion
        self.arguments = arguments
        self.options = options
        self.examples = examples
        self.subcommands = subcommands
        self.takesConfiguration = takesConfiguration
        self.runsItself = runsItself
    }
}

package struct Program: Sendable {
    package var name: String
    package var version: String
    package var summary: String
    package var commands: [Command]
    package var settings: SettingNames

    package init(name: String, version: String, summary: String, commands: [Command], settings: SettingNames) {
        self.name = name
        self.version = version
        self.summary = summary
        self.commands = commands
        self.settings = settings
    }

    /// The option that names the configuration file.
    package static let configuration = Option("config", "FILE", "read settings from this YAML file")
}

/// What the words asked for.
package enum Request: Sendable {
    case run(Invocation)
    /// Text for standard output; status 0.
    case show(String)
}

/// A command to run with the values it was given.
package struct Invocation: Sendable {
    /// `["topics", "ensure"]`.
    package var path: [String]
    package var arguments: [String] = []
    fileprivate var values: [String: [String]] = [:]
    /// Configuration keys given as flags, in order: path, text of the value, the flag as typed.
    package var settings: [(path: String, value: String, flag: String)] = []

    fileprivate init(path: [String]) { self.path = path }

    package func flag(_ name: String) -> Bool { values[name] != nil }
    /// The last one given.
    package func text(_ name: String) -> String? { values[name]?.last }
    package func all(_ name: String) -> [String] { values[name] ?? [] }

    package func integer(_ name: String, in range: ClosedRange<Int>) throws(UsageError) -> Int? {
        guard let text = text(name) else { return nil }
        guard let number = Int(text), range.contains(number) else {
            throw UsageError(
                "--\(name) \(text): not a whole number from \(range.lowerBound) to \(range.upperBound)",
                hint: "give a number in that range")
        }
        return number
    }

    package func number(_ name: String, in range: ClosedRange<Double>) throws(UsageError) -> Double? {
        guard let text = text(name) else { return nil }
        guard let number = Double(text), range.contains(number) else {
            throw UsageError(
                "--\(name) \(text): not a number from \(range.lowerBound) to \(range.upperBound)",
                hint: "give a number in that range")
        }
        return number
    }
}

/// Wrong usage: exit status 2.
package struct UsageError: Error, Sendable, Equatable, CustomStringConvertible {
    package var message: String
    package var hint: String

    package init(_ message: String, hint: String) {
        self.message = message
        self.hint = hint
    }

    package var description: String { "\(message)\n\(hint)" }
}

extension Program {
    /// `words` are those after the program's name.
    package func parse(_ words: [String]) throws(UsageError) -> Request {
        var words = words[...]
        if words.first == "help" { words = words.dropFirst() + ["--help"] }
        var path: [String] = []
        var candidates = commands
        var command: Command?
        while let word = words.first, !word.hasPrefix("-"), !candidates.isEmpty {
            guard let found = candidates.first(where: { $0.name == word }) else {
                throw unknown(word, among: candidates, after: path)
            }
            words = words.dropFirst()
            path.append(word)
            command = found
            candidates = found.subcommands
        }
        if let end = words.firstIndex(of: "--") {
            if words[..<end].contains(where: Self.asksForHelp) { return .show(help(path)) }
        } else if words.contains(where: Self.asksForHelp) {
            return .show(help(path))
        }
        guard let command, command.isRunnable else {
            if path.isEmpty, words.first == "--version" { return .show("\(name) \(version)\n") }
            if let word = words.first { throw unknownOption(word, known: ["help", "version"], path: path) }
            let names = candidates.map(\.name).joined(separator: ", ")
            throw UsageError(
                "\(([name] + path).joined(separator: " ")): no command given",
                hint: "one of: \(names); see \(([name] + path).joined(separator: " ")) --help")
        }
        return .run(try parse(command, at: path, words))
    }

    private static func asksForHelp(_ word: String) -> Bool { word == "--help" || word == "-h" }

    private func parse(
        _ command: Command, at path: [String], _ words: ArraySlice<String>
    ) throws(UsageError) -> Invocation {
        var words = words
        var out = Invocation(path: path)
        let options = command.options + (command.takesConfiguration ? [Self.configuration] : [])
        while let word = words.popFirst() {
            if word == "--" {
                out.arguments += words
                break
            }
            guard word.hasPrefix("-"), word != "-" else {
                out.arguments.append(word)
                continue
            }
            guard word.hasPrefix("--") else { throw unknownOption(word, known: options.map(\.name), path: path) }
            let body = word.dropFirst(2)
            let equals = body.firstIndex(of: "=")
            let given = String(body[..<(equals ?? body.endIndex)])
            var value = equals.map { String(body[body.index(after: $0)...]) }
            let option = options.first { $0.name == given }
            let setting = option == nil && command.takesConfiguration ? settings.path(flag: given) : nil
            if option == nil && setting == nil {
                let known = options.map(\.name) + (command.takesConfiguration ? settings.paths : [])
                throw unknownOption("--\(given)", known: known, path: path)
            }
            if let option, option.value == nil {
                guard value == nil else {
                    throw UsageError("--\(given) takes no value", hint: "write --\(given) alone")
                }
                out.values[given, default: []].append("")
                continue
            }
            if value == nil, let next = words.first, !next.hasPrefix("--") {
                value = next
                words = words.dropFirst()
            }
            guard let value else {
                throw UsageError(
                    "--\(given) needs a value", hint: "write --\(given) \(option?.value ?? "VALUE") or --\(given)=…")
            }
            if let setting {
                out.settings.append((setting, value, "--\(given)"))
            } else if let option {
                if !option.isRepeatable, out.values[given] != nil {
                    throw UsageError("--\(given) is given twice", hint: "give it once")
                }
                out.values[given, default: []].append(value)
            }
        }
        let whole = ([name] + path).joined(separator: " ")
        if out.arguments.count > command.arguments.count {
            throw UsageError(
                "\(whole): unexpected word '\(out.arguments[command.arguments.count])'",
                hint: "quote text that holds blanks; see \(whole) --help")
        }
        if let missing = command.arguments.dropFirst(out.arguments.count).first(where: \.isRequired) {
            throw UsageError("\(whole): \(missing.name) is missing", hint: "see \(whole) --help")
        }
        return out
    }

    private func unknown(_ word: String, among: [Command], after path: [String]) -> UsageError {
        let whole = ([name] + path).joined(separator: " ")
        if let near = nearest(word, among.map(\.name)) {
            return UsageError("\(whole): no command '\(word)'", hint: "did you mean '\(whole) \(near)'?")
        }
        return UsageError(
            "\(whole): no command '\(word)'", hint: "one of: \(among.map(\.name).joined(separator: ", "))")
    }

    private func unknownOption(_ word: String, known: [String], path: [String]) -> UsageError {
        let whole = ([name] + path).joined(separator: " ")
        var bare = word[...]
        while bare.hasPrefix("-") { bare = bare.dropFirst() }
        if let near = nearest(String(bare), known) {
            return UsageError("\(whole): no option '\(word)'", hint: "did you mean '--\(near)'?")
        }
        return UsageError("\(whole): no option '\(word)'", hint: "see \(whole) --help")
    }
}
