// Completions of the three shells, out of the same declarations as `--help`.

extension Program {
    package static let shells = ["bash", "zsh", "fish"]

    package func completions(for shell: String) throws(UsageError) -> String {
        switch shell {
        case "bash": return bashCompletions
        case "zsh": return zshCompletions
        case "fish": return fishCompletions
        default:
            let near = nearest(shell, Self.shells).map { "did you mean '\($0)'?" }
            throw UsageError(
                "completions: no shell '\(shell)'", hint: near ?? "one of: \(Self.shells.joined(separator: ", "))")
        }
    }

    /// Every path of commands with what may follow it.
    private var places: [(path: [String], commands: [Command], options: [Option])] {
        var out: [(path: [String], commands: [Command], options: [Option])] = []
        func visit(_ path: [String], _ commands: [Command], _ options: [Option]) {
            out.append((path, commands, options))
            for command in commands {
                var own = command.subcommands.isEmpty ? command.options : []
                if command.subcommands.isEmpty, command.takesConfiguration { own.append(Self.configuration) }
                visit(path + [command.name], command.subcommands, own + [Option("help", nil, "show this text")])
            }
        }
        visit([], commands, [Option("help", nil, "show this text"), Option("version", nil, "show the version")])
        return out
    }

    /// Flags of configuration keys; those with a name of the user's own cannot be guessed.
    private var settingFlags: [String] { settings.paths.filter { !$0.contains("*") }.map { "--" + $0 } }

    private func takesSettings(_ path: [String]) -> Bool {
        var candidates = commands
        var command: Command?
        for word in path {
            command = candidates.first { $0.name == word }
            candidates = command?.subcommands ?? []
        }
        return command.map { $0.subcommands.isEmpty && $0.takesConfiguration } ?? false
    }

    private func words(_ place: (path: [String], commands: [Command], options: [Option])) -> [String] {
        place.commands.map(\.name) + place.options.map { "--" + $0.name }
            + (place.path == ["completions"] ? Self.shells : [])
    }

    private var bashCompletions: String {
        var out = """
            # bash completion of \(name): source <(\(name) completions bash)
            _\(name)() {
              local word place="" words settings="" current="${COMP_WORDS[COMP_CWORD]}"
              for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
                case "$word" in -*) ;; *) case "$place $word" in

            """
        let patterns = places.map(\.path).filter { !$0.isEmpty }.map { "\" " + $0.joined(separator: " ") + "\"" }
        out +=
            "        \(patterns.joined(separator: "|"))) place=\"$place $word\" ;;\n      esac ;;\n    esac\n  done\n"
        out +=
            "  if [ \"${COMP_WORDS[COMP_CWORD-1]}\" = --config ]; then COMPREPLY=($(compgen -f -- \"$current\")); return; fi\n"
        out += "  case \"$place\" in\n"
        for place in places {
            let key = place.path.isEmpty ? "\"\"" : "\" \(place.path.joined(separator: " "))\""
            out += "    \(key)) words=\"\(words(place).joined(separator: " "))\""
            out += (takesSettings(place.path) ? "; settings=yes" : "") + " ;;\n"
        }
        out += "  esac\n"
        out += "  if [ -n \"$settings\" ]; then words=\"$words \(settingFlags.joined(separator: " "))\"; fi\n"
        return out + "  COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n}\ncomplete -F _\(name) \(name)\n"
    }

    private var zshCompletions: String {
        func quoted(_ word: String, _ help: String? = nil) -> String {
            // The first colon parts a word from what is said of it.
            let text = word + (help.map { ":" + $0 } ?? "")
            return "'" + text.map { $0 == "'" ? "'\\''" : String($0) }.joined() + "'"
        }
        var out = """
            #compdef \(name)
            # zsh completion of \(name): \(name) completions zsh > "${fpath[1]}/_\(name)"
            _\(name)() {
              local word place="" -a found
              for word in "${words[@]:1:$((CURRENT-2))}"; do
                case "$word" in -*) ;; *) case "$place $word" in

            """
        let patterns = places.map(\.path).filter { !$0.isEmpty }.map { "\" " + $0.joined(separator: " ") + "\"" }
        out +=
            "        \(patterns.joined(separator: "|"))) place=\"$place $word\" ;;\n      esac ;;\n    esac\n  done\n"
        out += "  if [ \"${words[CURRENT-1]}\" = --config ]; then _files; return; fi\n  case \"$place\" in\n"
        for place in places {
            let key = place.path.isEmpty ? "\"\"" : "\" \(place.path.joined(separator: " "))\""
            var described = place.commands.map { quoted($0.name, $0.summary) }
            described += place.options.map { quoted("--" + $0.name, $0.help) }
            if place.path == ["completions"] { described += Self.shells.map { quoted($0) } }
            if takesSettings(place.path) { described += settingFlags.map { quoted($0) } }
            out += "    \(key)) found=(\(described.joined(separator: " "))) ;;\n"
        }
        return out
            + "  esac\n  _describe '\(name)' found\n}\nif [ \"$funcstack[1]\" = _\(name) ]; then _\(name) \"$@\"; else compdef _\(name) \(name); fi\n"
    }

    private var fishCompletions: String {
        func quoted(_ text: String) -> String {
            "'" + text.map { $0 == "'" || $0 == "\\" ? "\\\($0)" : String($0) }.joined() + "'"
        }
        var out = "# fish completion of \(name): \(name) completions fish | source\ncomplete -c \(name) -f\n"
        for place in places {
            let condition =
                place.path.isEmpty
                ? "__fish_use_subcommand"
                : place.path.map { "__fish_seen_subcommand_from \($0)" }.joined(separator: "; and ")
            for command in place.commands {
                out += "complete -c \(name) -n \(quoted(condition)) -a \(command.name) -d \(quoted(command.summary))\n"
            }
            for option in place.options {
                out += "complete -c \(name) -n \(quoted(condition)) -l \(option.name)"
                if option.value != nil { out += option.name == "config" ? " -r -F" : " -x" }
                out += " -d \(quoted(option.help))\n"
            }
            if place.path == ["completions"] {
                out += "complete -c \(name) -n \(quoted(condition)) -a \(quoted(Self.shells.joined(separator: " ")))\n"
            }
            if takesSettings(place.path) {
                for flag in settingFlags {
                    out += "complete -c \(name) -n \(quoted(condition)) -l \(flag.dropFirst(2)) -x\n"
                }
            }
        }
        return out
    }
}
