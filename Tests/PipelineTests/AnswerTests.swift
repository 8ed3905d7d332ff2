// Answers of the built program over known events: API, exports, command line, and the API's description.

import Glibc
import JSONText
import Simulation
import Testing

extension PipelineTests {
    @Suite(.serialized) struct AnswerTests {
        /// Events with keys of every class, over the last ten days; every figure follows from the number.
        private static let count = 1_200

        private struct Sent {
            var time: Int64
            var user: String
            var env: String?
            var tags: [String]
            var status: Int
            var nanos: Int
        }

        private static func sent(_ now: Int64) -> [Sent] {
            (0..<count).map { index in
                Sent(
                    time: now - 10 * 86_400 + Int64(index) * 700, user: "u\(index * 7 % 40)",
                    env: index % 5 == 0 ? nil : ["production", "staging"][index % 2],
                    tags: ["blue", "green", "red"].enumerated().filter { index >> $0.offset & 1 == 1 }.map(\.element),
                    status: index % 11 == 0 ? 500 : 200, nanos: index * 1_001)
            }
        }

        private static func line(_ index: Int, _ sent: Sent) -> String {
            var metadata = #""_user":"\#(sent.user)","request_id":"r\#(index)""#
            if let env = sent.env { metadata += #","env":"\#(env)""# }
            if !sent.tags.isEmpty { metadata += #","tags":[\#(sent.tags.map { "\"\($0)\"" }.joined(separator: ","))]"# }
            let cost = String(repeating: "0", count: 9 - "\(sent.nanos)".count) + "\(sent.nanos)"
            return #"{"time":"\#(timestamp(sent.time))","status":\#(sent.status),"cost_usd":0.\#(cost),"#
                + #""request_model":"m","latency_ms":\#(index),"metadata":{\#(metadata)}}"#
        }

        private func start(_ name: String) throws -> (Pipeline, [Sent]) {
            let pipeline = try Pipeline(
                name,
                rules: """
                    version: 1
                    values: { arrays: { default: json, tags: multi } }
                    classes: { _user: entity, request_id: identifier }
                    """)
            let sent = Self.sent(Int64(time(nil)))
            let text = sent.enumerated().map { Self.line($0, $1) + "\n" }.joined()
            try writeText("\(pipeline.work.path)/events.jsonl", text)
            try pipeline.start(.up)
            let loaded = try pipeline.command(["loadgen", "--from-file", "events.jsonl"])
            #expect(loaded.status == 0, "\(loaded.errors)")
            try waitUntil("all events are there", seconds: 30) {
                try pipeline.totals(nil, "requests")["requests"]?.integer == Int64(Self.count)
            }
            return (pipeline, sent)
        }

        @Test("Keys of every class are filtered, grouped and counted exactly", .timeLimit(.minutes(3)))
        func countsEveryClass() throws {
            let (pipeline, sent) = try start("classes")
            func expect(_ condition: String, _ matches: (Int, Sent) -> Bool) throws {
                let matching = sent.enumerated().filter { matches($0, $1) }.map(\.element)
                let totals = try pipeline.totals(condition, "requests,cost_usd,distinct.metadata._user")
                #expect(totals["requests"]?.integer == Int64(matching.count), "\(condition)")
                let nanos = matching.reduce(0) { $0 + $1.nanos }
                let cost = Double(totals["cost_usd"]?.text ?? "") ?? .nan
                #expect(abs(cost - Double(nanos) / 1e9) < 1e-12, "\(condition)")
                #expect(
                    totals["distinct.metadata._user"]?.integer == Int64(Set(matching.map(\.user)).count), "\(condition)"
                )
            }
            try expect("metadata._user = 'u7'") { $1.user == "u7" }
            try expect("metadata._user != 'u7'") { $1.user != "u7" }
            try expect("metadata.request_id = 'r77'") { index, _ in index == 77 }
            let now = Int64(time(nil))
            let found = try pipeline.get(
                "/v1/query?from=\(timestamp(now - 11 * 86_400))&to=\(timestamp(now + 3_600))&where="
                    + percentEncoded("metadata.request_id = 'r77'"))
            #expect(found["plan"]?["rows_read"]?.integer == 1)
            #expect(
                found["plan"]?["reason"]?.string?.hasSuffix("events are read by the index on metadata.request_id")
                    == true)
            try expect("metadata.request_id like 'r11%'") { index, _ in "\(index)".hasPrefix("11") }
            try expect("metadata._user in ('u1','u2') and metadata.env = 'staging'") {
                ["u1", "u2"].contains($1.user) && $1.env == "staging"
            }
            try expect("not metadata.env exists or metadata._user = 'u0'") { $1.env == nil || $1.user == "u0" }
            try expect("metadata.tags = 'red' and not metadata.tags = 'blue'") {
                $1.tags.contains("red") && !$1.tags.contains("blue")
            }
            try expect("metadata.nobody = 'x'") { _, _ in false }
            try expect("latency_ms >= 600 and outcome = 'provider_error'") { index, sent in
                index >= 600 && sent.status == 500
            }
            let range = "from=\(timestamp(sent[0].time))&group_by=metadata._user&limit=5&measures=requests"
            let answer = try pipeline.get("/v1/query?\(range)")
            #expect(answer["data"]?.array?.count == 5)
            #expect(answer["other"]?.array?.first?["groups"]?.integer == 35)
            #expect(answer["totals"]?["requests"]?.integer == Int64(Self.count))
            let keys = try #require(
                try pipeline.get("/v1/metadata/keys?from=\(timestamp(sent[0].time))")["data"]?.array)
            let classes = keys.reduce(into: [String: String]()) { $0[$1["key"]?.string ?? ""] = $1["class"]?.string }
            #expect(
                classes == ["_user": "entity", "request_id": "identifier", "env": "dimension", "tags": "dimension"])
            try pipeline.stopAll()
        }

        @Test(
            "Exports hold every event once, in both forms, and go on after the last one received",
            .timeLimit(.minutes(3)))
        func exportsEverything() throws {
            let (pipeline, sent) = try start("export")
            let whole = try ask(pipeline.apiPort, "GET", "/v1/events?format=jsonl")
            #expect(whole.status == 200)
            let lines = whole.text.split(separator: "\n").map(String.init)
            #expect(lines.count == sent.count)
            let events = try lines.map { try JSONValue.parse($0) }
            #expect(Set(events.compactMap { $0["id"]?.string }).count == sent.count)
            #expect(events.allSatisfy { $0["workspace"]?.string == "default" && $0["provider"]?.string == "openai" })
            #expect(events.count { $0["outcome"]?.string == "provider_error" } == sent.count { $0.status == 500 })
            // Cut off after 700: the rest follows from there.
            let last = try #require(events[699]["id"]?.string)
            let rest = try ask(pipeline.apiPort, "GET", "/v1/events?format=jsonl&cursor=\(last)")
            #expect(rest.text.split(separator: "\n").map(String.init) == Array(lines[700...]))
            let csv = try ask(pipeline.apiPort, "GET", "/v1/events", headers: [("accept", "text/csv")])
            let rows = csv.text.split(separator: "\r\n")
            #expect(rows.count == sent.count + 1)
            #expect(rows.first?.hasPrefix("id,time,proxy,workspace,") == true)
            // So does this form; each file has its head.
            let cut = rows[700].prefix { $0 != "," }
            let more = try ask(pipeline.apiPort, "GET", "/v1/events?format=csv&cursor=\(cut)")
            #expect(more.text.split(separator: "\r\n") == [rows[0]] + rows[701...])
            // A client that leaves in mid-export does no harm, however often.
            for _ in 0..<6 {
                var client = LoopbackClient(port: pipeline.apiPort)
                try client.requestAndLeave("GET", "/v1/events?format=csv", headers: [], body: [])
            }
            try waitUntil("exports are free again", seconds: 20) {
                try ask(pipeline.apiPort, "GET", "/v1/events?format=jsonl&limit=3").text.split(separator: "\n").count
                    == 3
            }
            try pipeline.stopAll()
        }

        @Test(
            "Of many events an export takes no more memory than of few, and tail says where its look ends",
            .timeLimit(.minutes(5)))
        func looksAtMany() throws {
            let (pipeline, sent) = try start("many")
            let count = 25_000
            let tail = try ChildProcess(
                [Place.binary, "tail", "--json", "--lines", "1", "--config", "\(pipeline.work.path)/millrace.yaml"],
                name: "tail", directory: pipeline.work.path, outputTo: pipeline.work.path)
            func lines(_ path: String) -> Int { readBytes(path).count { $0 == UInt8(ascii: "\n") } }
            try waitUntil("the latest is shown", seconds: 20, detail: { tail.errors }) { lines(tail.outputPath) == 1 }
            tail.send(SIGSTOP)
            let loaded = try pipeline.command(["loadgen", "--events", "\(count)"])
            #expect(loaded.status == 0, "\(loaded.errors)")
            try waitUntil("all events are there", seconds: 120) {
                try pipeline.totals(nil, "requests")["requests"]?.integer == Int64(sent.count + count)
            }
            tail.send(SIGCONT)
            try waitUntil("the newest are shown", seconds: 60, detail: { tail.errors }) {
                lines(tail.outputPath) >= 20_001
            }
            #expect(tail.errors.contains("more events than one look takes"), "\(tail.errors)")
            #expect(try tail.stop() == 0)

            // What the store's connection keeps of events that it has read, it keeps from here on.
            var next: String? = ""
            while let cursor = next {
                let page = try pipeline.get("/v1/events?limit=500\(cursor)")
                next = page["next_cursor"]?.string.map { "&cursor=\($0)" }
            }
            for format in ["jsonl", "csv"] {
                func export(atMost limit: Int) throws -> (lines: Int, size: Int, memory: Int) {
                    let address = "http://127.0.0.1:\(pipeline.apiPort)/v1/events?format=\(format)&limit=\(limit)"
                    let client = try ChildProcess(
                        ["curl", "-s", "--fail", "-o", format, address], name: "curl", directory: pipeline.work.path,
                        outputTo: pipeline.work.path)
                    var most = 0
                    while client.isRunning {
                        most = max(most, try pipeline.ownBytes(of: .up))
                        usleep(2_000)
                    }
                    #expect(try client.wait(seconds: 10) == 0)
                    let path = "\(pipeline.work.path)/\(format)"
                    return (lines(path), readBytes(path).count, most)
                }
                // Whatever a first export keeps for the next ones.
                _ = try export(atMost: 2_000)
                let few = try export(atMost: 2_000)
                let all = try export(atMost: .max)
                #expect(all.lines == sent.count + count + (format == "csv" ? 1 : 0))
                let grown = all.memory - few.memory
                print("export as \(format): \(few.size) and \(all.size) bytes, \(grown) more of memory")
                #expect(grown < (all.size - few.size) / 4)
            }
            try pipeline.stopAll()
        }

        @Test(
            "tail shows each new event once, a late one and more than a page at once too; query --watch asks again",
            .timeLimit(.minutes(3)))
        func follows() throws {
            let (pipeline, _) = try start("follow")
            let count = 2_500
            func load(_ round: String) throws {
                let line = #"{"metadata":{"round":"\#(round)"}}"# + "\n"
                try writeText("\(pipeline.work.path)/new.jsonl", String(repeating: line, count: count))
                let loaded = try pipeline.command(["loadgen", "--from-file", "new.jsonl"])
                #expect(loaded.status == 0, "\(loaded.errors)")
                try waitUntil("the events of \(round) are there", seconds: 30) {
                    try pipeline.totals("metadata.round = '\(round)'", "requests")["requests"]?.integer == Int64(count)
                }
            }
            let store = ["--config", "\(pipeline.work.path)/millrace.yaml"]
            let api = ["--api", "http://127.0.0.1:\(pipeline.apiPort)"]
            for (round, source) in [("one", store), ("two", api)] {
                let tail = try ChildProcess(
                    [Place.binary, "tail", "status = 200", "--json", "--lines", "3"] + source, name: "tail",
                    directory: pipeline.work.path, outputTo: pipeline.work.path)
                func lines() -> [Substring] { tail.output.split(separator: "\n") }
                try waitUntil("the latest are shown", seconds: 20, detail: { tail.errors }) { lines().count == 3 }
                // Between two looks more comes than one page has.
                tail.send(SIGSTOP)
                try load(round)
                tail.send(SIGCONT)
                try waitUntil("the new ones are shown", seconds: 30, detail: { "\(lines().count) lines" }) {
                    lines().count { $0.contains(#""round":"\#(round)""#) } >= count
                }
                // Those that were there before were not shown for new, though they are of the same minute.
                #expect(lines().count == 3 + count, "\(source)")
                #expect(Set(lines()).count == 3 + count)
                let times = try lines().dropFirst(3).map { try JSONValue.parse(String($0))["time"]?.string ?? "" }
                #expect(times == times.sorted())
                // What comes late is shown too, though pages of newer events lie before it.
                let late = #"{"time":"\#(timestamp(Int64(time(nil)) - 45))","metadata":{"late":"\#(round)"}}"# + "\n"
                try writeText("\(pipeline.work.path)/late.jsonl", late)
                #expect(try pipeline.command(["loadgen", "--from-file", "late.jsonl"]).status == 0)
                try waitUntil("the late one is shown", seconds: 30, detail: { tail.errors }) {
                    lines().last?.contains(#""late":"\#(round)""#) == true
                }
                #expect(lines().count == 3 + count + 1)
                #expect(tail.errors == "")
                #expect(try tail.stop() == 0)
            }
            for source in [store, api] {
                let watch = try ChildProcess(
                    [Place.binary, "query", "metadata.round exists", "--watch", "1", "--json"] + source, name: "watch",
                    directory: pipeline.work.path, outputTo: pipeline.work.path)
                func counts() -> [Int64] {
                    watch.output.split(separator: "\n").compactMap {
                        try? JSONValue.parse(String($0))["totals"]?["requests"]?.integer
                    }
                }
                try waitUntil("it is asked", seconds: 20, detail: { watch.errors }) { counts().count >= 2 }
                let before = try #require(counts().first)
                try load(source == api ? "four" : "three")
                try waitUntil("the new ones are counted", seconds: 20) { counts().last == before + Int64(count) }
                #expect(try watch.stop() == 0)
            }
            let explained = try pipeline.command(["query", "metadata.env = 'staging'", "--explain", "--csv"])
            #expect(
                explained.errors.contains("how the answer was found") && explained.errors.contains("estimated_rows"))
            #expect(explained.output.hasPrefix("requests,"))
            try pipeline.stopAll()
        }

        @Test("The command line says what the API says, from the store and through the API", .timeLimit(.minutes(3)))
        func agreesWithTheCommandLine() throws {
            let (pipeline, sent) = try start("terminal")
            let api = ["--api", "http://127.0.0.1:\(pipeline.apiPort)"]
            let words = [
                "query", "metadata._user = 'u7'", "--from", timestamp(sent[0].time), "--group-by", "metadata.env",
                "--measure", "requests,cost_usd",
            ]
            let stored = try pipeline.command(words + ["--csv"])
            #expect(stored.status == 0, "\(stored.errors)")
            let asked = try pipeline.command(words + ["--csv"] + api, configured: false)
            #expect(asked.output == stored.output)
            #expect(stored.output.hasPrefix("metadata.env,requests,cost_usd\r\n"))
            let json = try JSONValue.parse(try pipeline.command(words + ["--json"]).output)
            #expect(json["totals"]?["requests"]?.integer == Int64(sent.count { $0.user == "u7" }))
            let table = try pipeline.command(words + ["--granularity", "day"]).output
            #expect(table.contains("$0.") && table.contains("█"), "\(table)")
            let wrong = try pipeline.command(["query", "metadata.env == 'x'"])
            #expect(wrong.status == 2)
            #expect(wrong.errors.contains("Did you mean"))
            // Another workspace's events are not there; an API knows whose the key is.
            let other = try JSONValue.parse(try pipeline.command(words + ["--json", "--workspace", "other"]).output)
            #expect(other["totals"]?["requests"]?.integer == 0)
            let same = try pipeline.command(words + ["--csv", "--workspace", "default"])
            #expect(same.output == stored.output)
            #expect(try pipeline.command(["tail", "--once", "--workspace", "other"]).output == "")
            let doubtful = try pipeline.command(words + api + ["--workspace", "other"], configured: false)
            #expect(doubtful.status == 2)
            #expect(doubtful.errors.contains("exclude each other"))
            // Follow: the latest ones, with the same condition.
            for more in [[], api] {
                let tail = try pipeline.command(
                    ["tail", "status = 500", "--once", "--lines", "4", "--json"] + more, configured: more.isEmpty)
                #expect(tail.status == 0, "\(tail.errors)")
                let events = try tail.output.split(separator: "\n").map { try JSONValue.parse(String($0)) }
                #expect(events.count == 4)
                #expect(events.allSatisfy { $0["status"]?.integer == 500 })
            }
            let completions = try pipeline.command(["completions", "bash"], configured: false).output
            try writeText("\(pipeline.work.path)/completions.bash", completions)
            let script =
                "source completions.bash; COMP_WORDS=(millrace query --me); COMP_CWORD=2; _millrace; "
                + "echo ${COMPREPLY[@]}; COMP_WORDS=(millrace co); COMP_CWORD=1; _millrace; echo ${COMPREPLY[@]}"
            let completed = try run(["bash", "-c", script], directory: pipeline.work.path)
            #expect(completed.output == "--measure\nconsumer completions config\n", "\(completed.errors)")
            try pipeline.stopAll()
        }

        @Test("The page answers mouse, keyboard and screen reader, from 400 to 2560 pixels", .timeLimit(.minutes(6)))
        func showsThePage() throws {
            let (pipeline, _) = try start("page")
            try pipeline.fileDeadLetters(3)
            let shots = Place.variable("MILLRACE_TEST_SCREENSHOTS") ?? "\(pipeline.work.path)/screenshots"
            _ = try run(["mkdir", "-p", shots], directory: pipeline.work.path)
            let result = try run(
                [
                    "python3", "\(Place.repository)/Tests/Support/browse.py", "http://127.0.0.1:\(pipeline.apiPort)",
                    shots, Place.binary, "\(pipeline.work.path)/millrace.yaml",
                ], directory: pipeline.work.path, seconds: 300)
            #expect(result.status == 0, "\(result.output)\(result.errors)")
            try pipeline.stopAll()
        }

        @Test("The API and its description agree, both ways, and nothing odd is answered 5xx", .timeLimit(.minutes(3)))
        func agreesWithItsDescription() throws {
            let (pipeline, _) = try start("openapi")
            try pipeline.fileDeadLetters(1)
            let seed = UInt64.random(in: 0..<1_000_000)
            let result = try run(
                [
                    Place.python("openapi"), "\(Place.repository)/Tests/Support/check_openapi.py",
                    "http://127.0.0.1:\(pipeline.apiPort)", Place.repository, "\(seed)",
                ], directory: pipeline.work.path, seconds: 120)
            #expect(result.status == 0, "\(result.output)\(result.errors)")
            try pipeline.stopAll()
        }

        @Test("The analytics routes have the shapes that Portkey states for them", .timeLimit(.minutes(2)))
        func hasPortkeysShapes() throws {
            let (pipeline, sent) = try start("portkey")
            let result = try run(
                [
                    "python3", "\(Place.repository)/Tests/Support/portkey_shapes.py",
                    "http://127.0.0.1:\(pipeline.apiPort)", timestamp(sent[0].time), timestamp(Int64(time(nil))),
                ], directory: pipeline.work.path)
            print(result.output)
            #expect(result.status == 0, "\(result.output)\(result.errors)")
            try pipeline.stopAll()
        }
    }
}

extension Pipeline {
    /// Records whose time no clock should have.
    func fileDeadLetters(_ count: Int) throws {
        let lines = (0..<count).map { #"{"time":"2099-01-0\#($0 + 1)T00:00:00Z","metadata":{"foo":"\#($0)"}}"# + "\n" }
        try writeText("\(work.path)/odd.jsonl", lines.joined())
        let loaded = try command(["loadgen", "--from-file", "odd.jsonl"])
        #expect(loaded.status == 0, "\(loaded.errors)")
        try waitUntil("they are filed", seconds: 30) {
            try JSONValue.parse(ask(apiPort, "GET", "/v1/dead-letters").body)["data"]?.array?.count == count
        }
    }

    /// A command of the binary, in the pipeline's directory.
    func command(
        _ words: [String], configured: Bool = true
    ) throws -> (status: Int32, output: String, errors: String) {
        let result = try run(
            [Place.binary] + words + (configured ? ["--config", "\(work.path)/millrace.yaml"] : []),
            directory: work.path, seconds: 60)
        return (result.status, result.output, result.errors)
    }

    fileprivate func get(_ path: String) throws -> JSONValue {
        let response = try ask(apiPort, "GET", path)
        guard response.status == 200 else { throw ChildError("\(path) answered \(response.status): \(response.text)") }
        return try JSONValue.parse(response.body)
    }

    /// The totals over the last eleven days.
    fileprivate func totals(_ condition: String?, _ measures: String) throws -> JSONValue {
        let now = Int64(time(nil))
        var path = "/v1/query?from=\(timestamp(now - 11 * 86_400))&to=\(timestamp(now + 3_600))&measures=\(measures)"
        if let condition { path += "&where=\(percentEncoded(condition))" }
        return try get(path)["totals"] ?? .null
    }
}
