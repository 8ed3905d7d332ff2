// Layers, validation, masking and the schema of the configuration.

import CommandLine
import Configuration
import Foundation
import Testing

/// Writes a file of its own, gone with the test.
private func withFile<Answer>(_ text: String, _ body: (String) throws -> Answer) throws -> Answer {
    let path = FileManager.default.temporaryDirectory.appendingPathComponent("millrace-\(UUID().uuidString).yaml").path
    try text.write(toFile: path, atomically: true, encoding: .utf8)
    defer { try? FileManager.default.removeItem(atPath: path) }
    return try body(path)
}

private func problems(_ sources: ConfigurationSources) -> [String] {
    do throws(ConfigurationError) {
        _ = try MillraceConfiguration(sources)
        return []
    } catch {
        return error.problems
    }
}

private func problems(file text: String) throws -> [String] {
    try withFile(text) { path in
        problems(ConfigurationSources(file: path)).map { $0.replacingOccurrences(of: path, with: "FILE") }
    }
}

private func flags(_ pairs: (String, String)...) -> [(path: String, value: String, flag: String)] {
    pairs.map { ($0.0, $0.1, "--\($0.0)") }
}

@Suite struct ConfigurationTests {
    @Test func defaultsAreThoseOfTheContract() throws {
        let found = try MillraceConfiguration(ConfigurationSources())
        #expect(found.log.kind == .journal)
        #expect(found.log.kafka.bootstrapServers == "127.0.0.1:9092")
        #expect(found.log.kafka.topic == "millrace.request-events.v1")
        #expect(found.log.kafka.deadLetterTopic == "millrace.dead-letters.v1")
        #expect(found.log.kafka.partitions == 6)
        #expect(found.log.kafka.replicationFactor == 1)
        #expect(found.log.kafka.group == "millrace-rollups")
        #expect(found.log.kafka.properties.isEmpty)
        #expect(found.journal.directory == "./millrace-data/journal")
        #expect(found.journal.fsync == .interval)
        #expect(found.journal.segmentSizeBytes == 67_108_864)
        #expect(found.journal.maxSizeBytes == 10_737_418_240)
        #expect(found.journal.retentionSeconds == 86_400)
        #expect(found.store == .sqlite(path: "./millrace-data/millrace.db"))
        #expect(found.proxy.listen == ListenAddress(host: "127.0.0.1", port: 8787))
        #expect(found.proxy.opsListen.port == 8789)
        #expect(found.proxy.providers.map(\.name) == ["openai"])
        #expect(found.proxy.providers.first?.url == ProviderURL("https://api.openai.com/v1"))
        #expect(!found.proxy.strictMetadata)
        #expect(found.proxy.maxMetadataSizeBytes == 8192)
        #expect(found.proxy.tls == nil)
        #expect(found.consumer.opsListen.port == 8790)
        #expect(found.consumer.maxEvents == 20_000)
        #expect(found.consumer.maxWaitMilliseconds == 200)
        #expect(found.api.listen.port == 8788)
        #expect(found.api.tls == nil)
        #expect(found.auth == .keys)
        #expect(found.normalization.rules == nil && found.normalization.hashKeyFile == nil)
        #expect(found.retention.eventsDays == 30)
        #expect(found.retention.minuteDays == 3)
        #expect(found.retention.hourDays == 90)
        #expect(found.retention.dayDays == 1100)
        #expect(found.pricesFile == nil)
    }

    @Test func aFlagWinsOverTheEnvironmentAndThatOverTheFile() throws {
        try withFile("log: { kafka: { partitions: 2, group: file, topic: file } }\n") { path in
            let found = try MillraceConfiguration(
                ConfigurationSources(
                    file: path,
                    environment: ["MILLRACE_LOG_KAFKA_GROUP": "variable", "MILLRACE_LOG_KAFKA_TOPIC": "variable"],
                    flags: flags(("log.kafka.topic", "flag"))))
            #expect(found.log.kafka.partitions == 2)
            #expect(found.log.kafka.group == "variable")
            #expect(found.log.kafka.topic == "flag")
            let sources = Dictionary(uniqueKeysWithValues: found.settings.rows.map { ($0.path, $0.source) })
            #expect(sources["log.kafka.partitions"] == "\(path):1")
            #expect(sources["log.kafka.group"] == "MILLRACE_LOG_KAFKA_GROUP")
            #expect(sources["log.kafka.topic"] == "--log.kafka.topic")
            #expect(sources["log.kind"] == "default")
        }
    }

    @Test func aMapIsReplacedWholeAndAddedToByEntry() throws {
        try withFile("proxy: { providers: { anthropic: { base_url: 'https://api.anthropic.com/v1' } } }\n") { path in
            let found = try MillraceConfiguration(
                ConfigurationSources(
                    file: path,
                    environment: [
                        "MILLRACE_PROXY_PROVIDERS_AZURE_OPENAI_BASE_URL": "http://127.0.0.1:9/openai/",
                        "MILLRACE_LOG_KAFKA_PROPERTIES": "{ security.protocol: SASL_SSL, linger.ms: 5 }",
                        "MILLRACE_LOG_KAFKA_PROPERTIES_SASL_PASSWORD": "hush",
                    ]))
            #expect(found.proxy.providers.map(\.name) == ["anthropic", "azure-openai"])
            #expect(found.proxy.providers.last?.url.path == "/openai")
            #expect(
                found.log.kafka.properties.map { "\($0.name)=\($0.value)" }
                    == ["linger.ms=5", "sasl.password=hush", "security.protocol=SASL_SSL"])
        }
    }

    @Test func allMistakesAreNamedAtOnceWithKeyValueSourceAndRange() throws {
        let found = try withFile(
            """
            log:
              kind: kafak
              kafka:
                partitions: many
                topc: x
            proxy: { listen: "8787", metadata: { strict: yes } }
            jurnal: {}
            """
        ) { path in
            problems(
                ConfigurationSources(
                    file: path,
                    environment: ["MILLRACE_RETENTION_HOUR_DAYS": "0", "MILLRACE_LOG_KAFKA_TOPIK": "x"],
                    flags: flags(("consumer.batch.max_events", "-1")))
            ).map { $0.replacingOccurrences(of: path, with: "FILE") }
        }
        #expect(
            found == [
                "log.kind: 'kafak' (FILE:2) is not valid: did you mean kafka?; allowed: one of journal, kafka",
                "log.kafka.partitions: 'many' (FILE:4) is not valid; allowed: a whole number from 1 to 10000",
                "log.kafka.topc (FILE:5): no such key; did you mean 'topic'?",
                "proxy.listen: '8787' (FILE:6) is not valid; allowed: HOST:PORT, such as 127.0.0.1:8787, [::1]:8787 or "
                    + "0.0.0.0:8787, with a port from 0 to 65535",
                "proxy.metadata.strict: 'yes' (FILE:6) is not valid: write true or false; allowed: true or false",
                "jurnal (FILE:7): no such key; did you mean 'journal'?",
                "MILLRACE_LOG_KAFKA_TOPIK (environment): no such key; did you mean MILLRACE_LOG_KAFKA_TOPIC?",
                "retention.hour_days: '0' (MILLRACE_RETENTION_HOUR_DAYS) is not valid; allowed: a whole number from 1 to "
                    + "36500",
                "consumer.batch.max_events: '-1' (--consumer.batch.max_events) is not valid; allowed: a whole number "
                    + "from 1 to 1000000",
            ])
    }

    @Test(arguments: [
        ("proxy.listen", "127.0.0.1:65536"), ("proxy.listen", "::1:80"), ("proxy.listen", "a b:80"),
        ("proxy.listen", "null"), ("log.kafka.bootstrap_servers", "a:1,"), ("log.kafka.bootstrap_servers", "a:0"),
        ("log.kafka.topic", "a/b"), ("log.kafka.topic", ""), ("log.kafka.topic", ".."),
        ("store.url", "mysql://x"), ("store.url", "sqlite:"), ("store.url", "sqlite::memory:"),
        ("proxy.providers.openai.base_url", "ftp://x"), ("proxy.providers.openai.base_url", "https://u:p@x/"),
        ("proxy.providers.openai.base_url", "https://x/?a"), ("proxy.providers.openai.base_url", "https://x/a/../b"),
        ("proxy.providers.openai.base_url", "https://x/a b"), ("proxy.providers.Open AI.base_url", "https://x"),
        ("journal.fsync", "sometimes"), ("journal.directory", ""), ("journal.segment_size_bytes", "1e6"),
        ("normalization.rules", "/nowhere/rules.yaml"), ("prices.file", "/"), ("auth.mode", "closed"),
        ("log.kafka.partitions", "9223372036854775808"), ("proxy.metadata.max_size_bytes", "65537"),
    ])
    func aPresentButInvalidValueIsAnErrorThatNamesItAndItsSource(path: String, value: String) throws {
        let found = problems(ConfigurationSources(flags: flags((path, value))))
        #expect(found.count == 1)
        let text = try #require(found.first)
        #expect(text.hasPrefix(path) && text.contains("(--\(path))") && text.contains("allowed: "))
    }

    @Test(arguments: [
        ("proxy.listen", "[::1]:0"), ("proxy.listen", "localhost:1"), ("log.kafka.bootstrap_servers", "a:1, b.c:2"),
        ("store.url", "sqlite:/var/lib/x.db"), ("store.url", "postgres://u@h/d"),
        ("proxy.providers.my-own.base_url", "http://127.0.0.1:8000"), ("journal.fsync", "always"),
        ("proxy.tls.certificate", ""), ("log.kafka.properties.debug", ""),
    ])
    func validValuesPass(path: String, value: String) {
        #expect(problems(ConfigurationSources(flags: flags((path, value)))).isEmpty)
    }

    @Test(arguments: [
        ("log: 3", "log (FILE:1): not a mapping"),
        ("- a", "the file (FILE:1): not a mapping"),
        ("log: { kind: [a] }", "log.kind (FILE:1): not a single value"),
        ("log: { kind: kafka, kind: journal }", "FILE:1: 'kind' is given twice, first in line 1"),
        ("log: {\n", "FILE:2: "),
        ("a: 1\n---\nb: 2", "FILE:2: a second document"),
        ("log: *nowhere", "FILE:1: no anchor 'nowhere' before"),
        ("proxy: { providers: { openai: https://x } }", "proxy.providers.openai (FILE:1): not a mapping"),
        ("proxy: { providers: { openai: { url: 'https://x' } } }", "proxy.providers.openai.url (FILE:1): no such key"),
        ("log: { kafka: { properties: [a] } }", "log.kafka.properties (FILE:1): not a mapping"),
        ("log: { kafka: { partitions: '6' } }", "log.kafka.partitions: '6' (FILE:1) is not valid"),
    ])
    func aMisshapenFileIsRefusedByLine(text: String, start: String) throws {
        let found = try problems(file: text)
        #expect(found.first?.hasPrefix(start) == true, "\(found)")
    }

    @Test func aliasesAreBounded() throws {
        var text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
        for level in 1...8 {
            text +=
                "a\(level): &a\(level) [" + repeatElement("*a\(level - 1)", count: 10).joined(separator: ", ") + "]\n"
        }
        #expect(try problems(file: text).first?.contains("more than 100000 values") == true)
        let deep = String(repeating: "[", count: 70) + String(repeating: "]", count: 70)
        #expect(try problems(file: "log: \(deep)").first?.contains("nested deeper than 64") == true)
    }

    @Test func anAbsentFileIsNamedWithTheReason() {
        #expect(
            problems(ConfigurationSources(file: "/nowhere/millrace.yaml"))
                == ["--config /nowhere/millrace.yaml: cannot be read: No such file or directory"])
    }

    @Test(arguments: [
        [("proxy.tls.certificate", "/dev/null")],
        [("log.kafka.dead_letter_topic", "millrace.request-events.v1")],
        [("journal.max_size_bytes", "16777216")],
        [("auth.mode", "open"), ("api.listen", "0.0.0.0:8788")],
    ])
    func valuesThatDoNotGoTogetherAreRefused(pairs: [(String, String)]) {
        let found = problems(ConfigurationSources(flags: pairs.map { ($0.0, $0.1, "--\($0.0)") }))
        #expect(found.count == 1 && found.first?.contains("allowed: ") == true, "\(found)")
    }

    @Test func openModeBeyondLoopbackIsTakenWhenSaidTwice() {
        #expect(
            problems(
                ConfigurationSources(
                    environment: ["MILLRACE_AUTH_MODE": "open"],
                    flags: flags(("auth.mode", "open"), ("proxy.listen", "0.0.0.0:8787")))
            ).isEmpty)
    }

    @Test func variablesOfOthersAreLeftAlone() {
        #expect(
            problems(
                ConfigurationSources(environment: [
                    "MILLRACE_API_SERVICE_HOST": "10.0.0.1", "MILLRACE_API_PORT": "tcp://10.0.0.1:8788",
                    "MILLRACE_API_PORT_8788_TCP_ADDR": "10.0.0.1", "MILLRACE_TEST_SEED": "1", "PATH": "/bin",
                ])
            ).isEmpty)
    }

    @Test func secretsAreMaskedWhereverAValueIsShown() throws {
        let found = try MillraceConfiguration(
            ConfigurationSources(
                environment: ["MILLRACE_NORMALIZATION_HASH_KEY": "hush-0123456789abcdef"],
                flags: flags(
                    ("log.kafka.properties.sasl.password", "hush1"), ("log.kafka.properties.ssl.key.pem", "hush2"),
                    ("log.kafka.properties.sasl.username", "ann"),
                    ("store.url", "postgres://ann:hush3@db/x?password=hush4"))))
        let text = found.settings.yaml + found.settings.json
        #expect(!text.contains("hush"))
        #expect(text.contains("ann:***@db/x?***") && text.contains("\"***\""))
        let wrong = problems(
            ConfigurationSources(flags: flags(("proxy.providers.a.base_url", "https://ann:hush5@x/"))))
        #expect(wrong.count == 1 && !wrong.joined().contains("hush"))
        // Counted without the line's end, which is none of the key.
        for (given, size) in [("hush6", 5), ("hush-0123456789\n", 15)] {
            let short = problems(ConfigurationSources(environment: ["MILLRACE_NORMALIZATION_HASH_KEY": given]))
            #expect(
                short == [
                    "normalization.hash_key: '***' (MILLRACE_NORMALIZATION_HASH_KEY) is not valid: \(size) bytes; "
                        + "allowed: 16 to 1024 bytes of text, or null"
                ])
        }
        // The command line of a process is anyone's to read.
        let flagged = problems(ConfigurationSources(flags: flags(("normalization.hash_key", "hush-0123456789abcdef"))))
        #expect(
            flagged == [
                "normalization.hash_key (--normalization.hash_key): not taken from the command line, which others can "
                    + "read; allowed: MILLRACE_NORMALIZATION_HASH_KEY or the configuration file"
            ])
    }

    /// As from a file, a line's end is none of it.
    @Test func theKeyOfHashesComesFromTheEnvironment() throws {
        let key = "0123456789abcdef"
        for (given, taken) in [(key, key), (key + "\r\n", key), ("", nil), ("null", nil)] {
            let found = try MillraceConfiguration(
                ConfigurationSources(environment: ["MILLRACE_NORMALIZATION_HASH_KEY": given]))
            #expect(found.normalization.hashKey == taken && found.normalization.hashKeyFile == nil)
        }
        let file = try MillraceConfiguration(
            ConfigurationSources(environment: ["MILLRACE_NORMALIZATION_HASH_KEY_FILE": "/dev/null"]))
        #expect(file.normalization.hashKey == nil && file.normalization.hashKeyFile == "/dev/null")
        let both = problems(
            ConfigurationSources(environment: [
                "MILLRACE_NORMALIZATION_HASH_KEY": key, "MILLRACE_NORMALIZATION_HASH_KEY_FILE": "/dev/null",
            ]))
        #expect(both.count == 1 && both.first?.contains("are two keys; allowed: one of them") == true, "\(both)")
    }

    /// But for the key of hashes, which is not shown: it stands there as a comment.
    @Test func whatIsPrintedWithAKeyOfHashesIsAConfigurationFile() throws {
        let first = try MillraceConfiguration(
            ConfigurationSources(environment: ["MILLRACE_NORMALIZATION_HASH_KEY": "0123456789abcdef"]))
        #expect(first.settings.yaml.contains("\n  # hash_key: \"***\"  "))
        try withFile(first.settings.yaml) { path in
            let second = try MillraceConfiguration(ConfigurationSources(file: path))
            #expect(second.normalization.hashKey == nil)
            #expect(second.settings.rows.map(\.path) == first.settings.rows.map(\.path))
        }
    }

    @Test func aKeyGivenTwiceHidesNoOtherMistake() throws {
        let found = try problems(
            file: """
                log: { kind: kafak, kind: journal }
                journal: { fsync: sometimes }
                journal:
                  fsinc: never
                jurnal: 1
                """)
        let starts = [
            "FILE:1: 'kind' is given twice, first in line 1", "FILE:3: 'journal' is given twice, first in line 2",
            "log.kind: 'kafak' (FILE:1) is not valid", "journal.fsync: 'sometimes' (FILE:2) is not valid",
            "journal.fsinc (FILE:4): no such key", "jurnal (FILE:5): no such key",
        ]
        #expect(found.count == starts.count && zip(found, starts).allSatisfy { $0.hasPrefix($1) }, "\(found)")
        let tree = try YAMLNode.parse(Array("a: [{ b: 1 }, 2]".utf8))
        #expect(tree.withoutRepeats(limit: 8) == [tree])
    }

    @Test func treesWithoutRepeatsHoldEveryValue() throws {
        let text = """
            a: { x: 1, x: 2, x: 3 }
            b: [{ y: 4 }, { y: 5, y: 6 }]
            a: 7
            c: {}
            """
        var mistakes: [YAMLError] = []
        let tree = try #require(YAMLNode.parse(Array(text.utf8), &mistakes))
        #expect(mistakes.count == 4)
        func scalars(_ node: YAMLNode) -> [String] {
            switch node.value {
            case .scalar(let text, _): [text]
            case .sequence(let nodes): nodes.flatMap(scalars)
            case .mapping(let entries): entries.flatMap { scalars($0.value) }
            }
        }
        let trees = tree.withoutRepeats(limit: 8)
        #expect(trees.map(scalars) == [["1", "4", "5"], ["2", "4", "6"], ["3", "4", "6"], ["7", "4", "6"]])
        #expect(tree.withoutRepeats(limit: 2).map(scalars) == [["1", "4", "5"], ["2", "4", "6"]])
    }

    @Test func whatIsPrintedIsAConfigurationFileOfTheSameMeaning() throws {
        let first = try MillraceConfiguration(
            ConfigurationSources(
                flags: flags(
                    ("log.kafka.properties.linger.ms", "5"),
                    ("proxy.providers.my-own.base_url", "http://127.0.0.1:1/v1"),
                    ("journal.directory", "a \"quoted\" # place"))))
        try withFile(first.settings.yaml) { path in
            let second = try MillraceConfiguration(ConfigurationSources(file: path))
            #expect(second.settings.rows.map(\.path) == first.settings.rows.map(\.path))
            #expect(second.settings.rows.map(\.value) == first.settings.rows.map(\.value))
        }
    }

    @Test func everyKeyHasAVariableOfItsOwn() {
        for key in ConfigurationKey.all where key.map == nil {
            let name = key.path.uppercased().replacingOccurrences(of: ".", with: "_")
            #expect(ConfigurationKey.names.path(variable: name) == key.path)
        }
    }

    /// `MILLRACE_TEST_REGENERATE=1` writes the file instead.
    @Test func theSchemaInTheRepositoryIsTheTables() throws {
        let path = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().appendingPathComponent("schemas/configuration.schema.json").path
        let text = ConfigurationSchema.text()
        _ = try JSONSerialization.jsonObject(with: Data(text.utf8))
        if ProcessInfo.processInfo.environment["MILLRACE_TEST_REGENERATE"] == "1" {
            try text.write(toFile: path, atomically: true, encoding: .utf8)
        }
        #expect(try String(contentsOfFile: path, encoding: .utf8) == text)
    }
}
