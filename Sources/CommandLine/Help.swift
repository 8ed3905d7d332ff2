// `--help`: a command's declaration → text of at most 100 columns.

extension Program {
    /// The help of the command at `path`; of the program where it is empty.
    package func help(_ path: [String]) -> String {
        var candidates = commands
        var command: Command?
        for word in path {
            command = candidates.first { $0.name == word }
            candidates = command?.subcommands ?? []
        }
        guard let command else { return programHelp() }
        let whole = ([name] + path).joined(separator: " ")
        var out = "\(whole): \(command.summary)\n\nUsage:\n  \(whole)"
        if !command.subcommands.isEmpty { out += command.runsItself ? " [COMMAND]" : " COMMAND" }
        for argument in command.arguments { out += argument.isRequired ? " \(argument.name)" : " [\(argument.name)]" }
        if !command.options.isEmpty || command.takesConfiguration { out += " [options]" }
        out += "\n"
        for paragraph in command.discussion { out += "\n\(wrapped(paragraph, width: 100, indent: 0))\n" }
        if !command.subcommands.isEmpty {
            out += "\nCommands:\n" + table(command.subcommands.map { ($0.name, $0.summary) })
        }
        if !command.arguments.isEmpty {
            out += "\nArguments:\n" + table(command.arguments.map { ($0.name, $0.help) })
        }
        if command.isRunnable {
            var options = command.options
            if command.takesConfiguration { options.append(Self.configuration) }
            options.append(Option("help", nil, "show this text"))
            out += "\nOptions:\n" + table(options.map { (Self.usage($0), Self.explained($0)) })
            if command.takesConfiguration {
                let text =
                    "Every configuration key is a flag too, such as --log.kind kafka, and an environment variable, "
                    + "such as MILLRACE_LOG_KIND=kafka. A flag wins over the environment, the environment over the "
                    + "file. '\(name) config print' lists all keys with their values."
                out += "\nConfiguration:\n\(wrapped(text, width: 100, indent: 2))\n"
            }
        }
        let examples = command.examples + command.subcommands.flatMap { $0.examples.prefix(1) }
        if !examples.isEmpty {
            out += "\nExamples:\n"
            for example in examples { out += "  # \(example.what)\n  \(example.line)\n" }
        }
        return out
    }

    private func programHelp() -> String {
        var rows: [(String, String)] = []
        for command in commands {
            if command.isRunnable { rows.append((command.name, command.summary)) }
            rows += command.subcommands.map { ("\(command.name) \($0.name)", $0.summary) }
        }
        var out = "\(name): \(summary)\n\nUsage:\n  \(name) COMMAND [options]\n\nCommands:\n" + table(rows)
        out +=
            "\nOptions:\n" + table([("--help", "show this text, or a command's"), ("--version", "show the version")])
        out += "\nExit status: 0 done, 1 failed, 2 wrong usage or configuration.\n"
        let examples = commands.compactMap(\.examples.first).prefix(3)
        if !examples.isEmpty {
            out += "\nExamples:\n"
            for example in examples { out += "  # \(example.what)\n  \(example.line)\n" }
        }
        return out
    }

    private static func usage(_ option: Option) -> String {
        option.value.map { "--\(option.name) \($0)" } ?? "--\(option.name)"
    }

    private static func explained(_ option: Option) -> String {
        var text = option.help
        if option.isRepeatable { text += "; may be repeated" }
        if let standard = option.standard { text += " (default: \(standard))" }
        return text
    }

    private func table(_ rows: [(String, String)]) -> String {
        let width = min(rows.map(\.0.count).max() ?? 0, 30)
        var out = ""
        for (left, right) in rows {
            let gap = String(repeating: " ", count: max(0, width - left.count))
            let text = wrapped(right, width: 100, indent: width + 4)
            out += left.count > width ? "  \(left)\n\(text)\n" : "  \(left)\(gap)  \(text.drop { $0 == " " })\n"
        }
        return out
    }

    private func wrapped(_ text: String, width: Int, indent: Int) -> String {
        let margin = String(repeating: " ", count: indent)
        var lines: [String] = []
        var line = ""
        for word in text.split(separator: " ") {
            if !line.isEmpty, indent + line.count + 1 + word.count > width {
                lines.append(margin + line)
                line = ""
            }
            line += line.isEmpty ? word : " " + word
        }
        lines.append(margin + line)
        return lines.joined(separator: "\n")
    }
}
