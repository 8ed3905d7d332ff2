// The manual page in roff, out of the same declarations as `--help`.

extension Program {
    package var manualPage: String {
        var out = ".TH \(name.uppercased()) 1 \"\" \"\(name) \(version)\" \"User Commands\"\n"
        out += ".SH NAME\n\(name) \\- \(Self.roff(summary))\n"
        out += ".SH SYNOPSIS\n.B \(name)\n.I COMMAND\n[options]\n.SH COMMANDS\n"
        func visit(_ path: [String], _ commands: [Command]) {
            for command in commands {
                let path = path + [command.name]
                if command.isRunnable { out += section(of: command, at: path) }
                visit(path, command.subcommands)
            }
        }
        visit([], commands)
        out +=
            ".SH CONFIGURATION\nWhere \\-\\-config is taken, every configuration key is a flag too, and an environment "
        out += "variable: log.kind is \\-\\-log.kind and MILLRACE_LOG_KIND. A flag wins over the environment, the "
        out += "environment over the file.\n"
        for path in settings.paths { out += ".br\n\\-\\-\(Self.roff(path))\n" }
        return out + ".SH EXIT STATUS\n0 done, 1 failed, 2 wrong usage or configuration.\n"
    }

    private func section(of command: Command, at path: [String]) -> String {
        var out = ".SS \(Self.roff(path.joined(separator: " ")))"
        for argument in command.arguments {
            out += argument.isRequired ? " \(argument.name)" : " [\(argument.name)]"
        }
        out += "\n\(Self.roff(Self.sentence(command.summary)))\n"
        for paragraph in command.discussion { out += ".PP\n\(Self.roff(paragraph))\n" }
        for argument in command.arguments {
            out += ".TP\n.I \(argument.name)\n\(Self.roff(Self.sentence(argument.help)))\n"
        }
        for option in command.options + (command.takesConfiguration ? [Self.configuration] : []) {
            out += ".TP\n.B \\-\\-\(Self.roff(option.name))" + (option.value.map { " \\fI\($0)\\fR" } ?? "") + "\n"
            var help = option.help + (option.isRepeatable ? "; may be repeated" : "")
            if let standard = option.standard { help += " (default: \(standard))" }
            out += Self.roff(Self.sentence(help)) + "\n"
        }
        for example in command.examples {
            out += ".PP\n\(Self.roff(Self.sentence(example.what)))\n.PP\n.nf\n    \(Self.roff(example.line))\n.fi\n"
        }
        return out
    }

    private static func sentence(_ text: String) -> String {
        (text.first?.uppercased() ?? "") + text.dropFirst() + "."
    }

    /// What roff would take for a request or an escape, shown as it is.
    private static func roff(_ text: String) -> String {
        var out = ""
        for character in text {
            switch character {
            case "\\": out += "\\e"
            case "-": out += "\\-"
            case "'": out += "\\(aq"
            default: out.append(character)
            }
        }
        return out.hasPrefix(".") ? "\\&" + out : out
    }
}
