// What an operator gets wrong is said in a sentence with the way out, never with a stack trace.

import Glibc
import JSONText
import Simulation
import Testing

extension PipelineTests {
    @Suite(.serialized) struct MistakeTests {
        /// Runs to its end with the configuration given.
        private func fail(
            _ arguments: [String], configuration: String = "", environment: [String: String] = [:],
            in work: WorkDirectory
        ) throws -> (status: Int32, errors: String) {
            let path = "\(work.path)/mistaken.yaml"
            try writeText(path, configuration)
            let result = try run(
                [Place.binary] + arguments + ["--config", path], directory: work.path, environment: environment,
                seconds: 30)
            for trace in ["Fatal error", "Stack dump", "Thread 0", ".swift:"] {
                #expect(!result.errors.contains(trace), "\(result.errors)")
            }
            return (result.status, result.errors)
        }

        @Test(
            "Several mistakes are all named at once, each with key, value, source and what is allowed",
            arguments: ["config check", "up", "proxy", "consumer", "api"])
        func namesAllMistakes(command: String) throws {
            let work = try WorkDirectory("mistakes")
            let (status, errors) = try fail(
                command.split(separator: " ").map(String.init),
                configuration: """
                    log: { kind: pulsar }
                    journal: { fsync: sometimes }
                    proxy: { listen: nowhere, metadata: { max_size_bytes: 1 } }
                    consumer: { batch: { max_event: 5 } }
                    """, environment: ["MILLRACE_AUTH_MODE": "closed"], in: work)
            #expect(status == 2)
            let wanted = [
                "log.kind", "pulsar", "kafka", "journal.fsync", "sometimes", "interval", "proxy.listen", "nowhere",
                "proxy.metadata.max_size_bytes", "65536", "consumer.batch.max_event", "max_events", "mistaken.yaml",
                "MILLRACE_AUTH_MODE", "closed",
            ]
            for word in wanted { #expect(errors.contains(word), "\(word) is not in: \(errors)") }
        }

        @Test("A command that does not exist, or lacks its words, is status 2 with a hint")
        func hintsAtCommands() throws {
            let work = try WorkDirectory("usage")
            for arguments in [["qurey"], ["config", "chekc"], ["up", "--dmeo"], ["loadgen", "--events", "many"]] {
                let result = try run([Place.binary] + arguments, directory: work.path)
                #expect(result.status == 2, "\(arguments)")
                #expect(result.errors.contains("millrace"), "\(arguments): \(result.errors)")
            }
        }

        private func configuration(_ work: WorkDirectory, proxy: UInt16, api: UInt16, more: String = "") throws
            -> String
        {
            """
            journal: { directory: \(work.path)/journal }
            store: { url: "sqlite:\(work.path)/millrace.db" }
            proxy: { listen: 127.0.0.1:\(proxy), ops_listen: 127.0.0.1:\(try freePort()) }
            consumer: { ops_listen: 127.0.0.1:\(try freePort()) }
            api: { listen: 127.0.0.1:\(api) }
            auth: { mode: open }
            """
        }

        @Test("A port that is taken is named, status 1")
        func namesTheTakenPort() throws {
            let running = try Pipeline("taken")
            try running.start(.up)
            let work = try WorkDirectory("taken")
            for (proxy, api) in [(running.proxyPort, try freePort()), (try freePort(), running.apiPort)] {
                let (status, errors) = try fail(
                    ["up"], configuration: try configuration(work, proxy: proxy, api: api), in: work)
                #expect(status == 1)
                #expect(errors.contains(":\(proxy == running.proxyPort ? proxy : api)"), "\(errors)")
            }
            try running.stopAll()
        }

        @Test("A directory that cannot be made or written is named, status 1")
        func namesTheDirectory() throws {
            let work = try WorkDirectory("directory")
            try writeText("\(work.path)/file", "in the way")
            for place in ["\(work.path)/file/journal", "/proc/millrace/journal"] {
                let text = try configuration(work, proxy: try freePort(), api: try freePort())
                    .split(separator: "\n").dropFirst().joined(separator: "\n")
                let (status, errors) = try fail(
                    ["up"], configuration: "journal: { directory: \(place) }\n\(text)", in: work)
                #expect(status == 1)
                #expect(errors.contains(place), "\(errors)")
            }
        }

        @Test(
            "A store newer than the program is status 1, a file that is no store status 2; both are named and left alone"
        )
        func refusesOtherStores() throws {
            let work = try WorkDirectory("store")
            let store = "\(work.path)/millrace.db"
            let text = try configuration(work, proxy: try freePort(), api: try freePort())
            #expect(try fail(["migrate"], configuration: text, in: work).status == 0)
            #expect(try run(["sqlite3", store, "PRAGMA user_version = 9999"], directory: work.path).status == 0)
            let (status, errors) = try fail(["up"], configuration: text, in: work)
            #expect(status == 1)
            #expect(errors.contains("9999") && errors.contains(store), "\(errors)")
            try writeText(store, String(repeating: "this is no database\n", count: 500))
            let other = try fail(["up"], configuration: text, in: work)
            // `store.url` names the wrong file: a mistake of the configuration.
            #expect(other.status == 2)
            #expect(other.errors.contains(store), "\(other.errors)")
            #expect(readText(store).hasPrefix("this is no database"))
        }

        @Test("`doctor` says what is well, and what is not and what to do")
        func looksAround() throws {
            let pipeline = try Pipeline("doctor")
            let before = try pipeline.command(["doctor", "--json"])
            // Whether the built-in provider can be reached is the network's affair.
            let checks = (try JSONValue.parse(before.output)["checks"]?.array ?? [])
                .filter { $0["check"]?.string != "provider anthropic" }
            #expect(checks.allSatisfy { $0["ok"]?.boolean == true }, "\(before.output)\(before.errors)")
            #expect(
                checks.compactMap { $0["check"]?.string }
                    == ["configuration", "rules and prices", "journal", "store", "provider openai"])
            try pipeline.start(.up)
            #expect(try pipeline.chat("{}").status == 200)
            try pipeline.expectCount("model exists or status_class = '2xx'", 1)
            let during = try pipeline.command(["doctor"])
            #expect(during.output.contains("newest event"), "\(during.output)")
            try pipeline.stopAll()
            // Nobody listens there, a file stands where a directory is wanted, and no broker answers.
            let port = try freePort()
            try writeText("\(pipeline.work.path)/file", "")
            let ill = try pipeline.command([
                "doctor", "--proxy.providers.openai.base_url", "http://127.0.0.1:\(port)", "--store.url",
                "sqlite:\(pipeline.work.path)/file/x.db", "--log.kind", "kafka", "--log.kafka.bootstrap_servers",
                "127.0.0.1:\(port)",
            ])
            #expect(ill.status == 1)
            for text in ["!!  kafka", "!!  store", "!!  provider openai", "Connection refused", "cannot be made"] {
                #expect(ill.output.contains(text), "\(text) in \(ill.output)")
            }
        }
    }
}
