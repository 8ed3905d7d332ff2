// Words → invocation, and help, against a small program of its own.

import CommandLine
import Testing

private let program = Program(
    name: "mill", version: "1.2", summary: "grinds",
    commands: [
        Command(
            "grind", "grind corn", arguments: [Argument("CORN", "what to grind", isRequired: true)],
            options: [
                Option("fine", nil, "grind twice"), Option("sacks", "N", "how many", standard: "1"),
                Option("by", "NAME", "who", isRepeatable: true),
            ],
            examples: [Example("mill grind rye --fine", "grind rye twice")]),
        Command(
            "wheel", "the wheel",
            subcommands: [
                Command("turn", "turn it", examples: [Example("mill wheel turn", "turn it")], takesConfiguration: false)
            ]),
    ],
    settings: SettingNames(
        paths: ["log.kafka.bootstrap_servers", "proxy.providers.*.base_url", "log.kafka.properties.*"],
        blanks: ["proxy.providers.*.base_url": "-", "log.kafka.properties.*": "."]))

private func run(_ words: String...) throws -> Invocation? {
    guard case .run(let invocation) = try program.parse(words) else { return nil }
    return invocation
}

private func error(_ words: [String]) -> UsageError? {
    do throws(UsageError) {
        _ = try program.parse(words)
        return nil
    } catch {
        return error
    }
}

@Suite struct CommandLineTests {
    @Test("Completions of each shell offer commands, options and settings, and parse where the shell is here")
    func completes() throws {
        for shell in Program.shells {
            let text = try program.completions(for: shell)
            for word in ["grind", "fine", "sacks", "turn", "log.kafka.bootstrap_servers"] {
                #expect(text.contains(word), "\(shell) lacks \(word)")
            }
            #expect(!text.contains("proxy.providers.*"))
        }
        let error = #expect(throws: UsageError.self) { try program.completions(for: "bas") }
        #expect(error?.hint.contains("bash") == true)
    }

    @Test("The manual page says what help says, with nothing that roff would take for its own")
    func writesTheManual() {
        let page = program.manualPage
        #expect(page.hasPrefix(".TH MILL 1"))
        for text in [
            "grind corn", "\\-\\-sacks", "(default: 1)", "mill grind rye \\-\\-fine", "log.kafka.bootstrap_servers",
        ] {
            #expect(page.lowercased().contains(text.lowercased()), "\(text)")
        }
        let both = Program(
            name: "mill", version: "1", summary: "grinds",
            commands: [
                Command(
                    "press", "press oil", options: [Option("cold", nil, "slowly")],
                    subcommands: [Command("clean", "clean it")], runsItself: true)
            ], settings: SettingNames(paths: [], blanks: [:]))
        for text in [".SS press\n", "Press oil.", "\\-\\-cold", ".SS press clean\n"] {
            #expect(both.manualPage.contains(text), "\(text)")
        }
        let requests = [".TH", ".SH", ".SS", ".B", ".I", ".TP", ".PP", ".nf", ".fi", ".br"]
        for line in page.split(separator: "\n") where line.hasPrefix(".") {
            #expect(requests.contains { line == $0 || line.hasPrefix($0 + " ") }, "\(line)")
        }
    }

    @Test func argumentsOptionsAndFlagsComeInAnyOrder() throws {
        let found = try #require(try run("grind", "--sacks=3", "rye", "--by", "a", "--fine", "--by", "-b"))
        #expect(found.path == ["grind"])
        #expect(found.arguments == ["rye"])
        #expect(found.flag("fine"))
        #expect(try found.integer("sacks", in: 1...9) == 3)
        #expect(found.all("by") == ["a", "-b"])
    }

    @Test func wordsAfterTwoDashesAreArguments() throws {
        #expect(try run("grind", "--", "--help")?.arguments == ["--help"])
    }

    @Test func numbersOutOfRangeAreRefusedWithTheRange() throws {
        let found = try #require(try run("grind", "rye", "--sacks", "12"))
        #expect(throws: UsageError.self) { try found.integer("sacks", in: 1...9) }
    }

    @Test(arguments: [
        (["grin"], "did you mean 'mill grind'?"),
        (["grind", "rye", "--fien"], "did you mean '--fine'?"),
        (["grind", "rye", "--log.kafka.bootstrap_server", "x"], "did you mean '--log.kafka.bootstrap_servers'?"),
        (["grind"], "see mill grind --help"),
        (["grind", "rye", "oats"], "quote text that holds blanks; see mill grind --help"),
        (["grind", "rye", "--sacks"], "write --sacks N or --sacks=…"),
        (["grind", "rye", "--fine=yes"], "write --fine alone"),
        (["grind", "rye", "--sacks", "1", "--sacks", "2"], "give it once"),
        (["wheel"], "one of: turn; see mill wheel --help"),
        (["wheel", "trun"], "did you mean 'mill wheel turn'?"),
        (["wheel", "turn", "--config", "x"], "see mill wheel turn --help"),
        ([], "one of: grind, wheel; see mill --help"),
        (["--vresion"], "did you mean '--version'?"),
    ])
    func mistakesComeWithAHint(words: [String], hint: String) {
        #expect(error(words)?.hint == hint)
    }

    @Test(arguments: [
        ("--log.kafka.bootstrap_servers", "log.kafka.bootstrap_servers"),
        ("--log-kafka-bootstrap-servers", "log.kafka.bootstrap_servers"),
        ("--proxy.providers.azure-openai.base_url", "proxy.providers.azure-openai.base_url"),
        ("--proxy-providers-openai-base-url", "proxy.providers.openai.base_url"),
        ("--log.kafka.properties.sasl.password", "log.kafka.properties.sasl.password"),
        ("--log.kafka.properties", "log.kafka.properties"),
    ])
    func everySettingIsAFlag(flag: String, path: String) throws {
        let found = try #require(try run("grind", "rye", flag, "x"))
        #expect(found.settings.map(\.path) == [path])
        #expect(found.settings.map(\.value) == ["x"])
    }

    @Test(arguments: [["--help"], ["help"], []])
    func helpOfTheProgramNamesEachCommand(words: [String]) throws {
        guard !words.isEmpty else { return #expect(program.help([]).contains("wheel turn")) }
        guard case .show(let text) = try program.parse(words) else {
            Issue.record("no help")
            return
        }
        #expect(text.contains("grind") && text.contains("wheel turn") && text.contains("Exit status"))
    }

    @Test func helpOfACommandHasUsageOptionsDefaultsAndAnExample() throws {
        guard case .show(let text) = try program.parse(["grind", "--help"]) else {
            Issue.record("no help")
            return
        }
        for part in [
            "mill grind CORN [options]", "--sacks N", "(default: 1)", "may be repeated", "mill grind rye --fine",
        ] {
            #expect(text.contains(part))
        }
        #expect(text.split(separator: "\n").allSatisfy { $0.count <= 100 })
    }

    @Test func versionIsShown() throws {
        guard case .show("mill 1.2\n") = try program.parse(["--version"]) else {
            Issue.record("no version")
            return
        }
    }
}
