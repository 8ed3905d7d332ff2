// `millrace up`: samples in, answers out, and nothing that a client sends can break it.

import Glibc
import JSONText
import Simulation
import Testing

/// One after the other: each of these brings up the whole product.
@Suite(.serialized) struct PipelineTests {}

extension PipelineTests {
    @Suite(.serialized) struct EmbeddedTests {
        @Test("The client libraries' samples run as they stand and are counted exactly", .timeLimit(.minutes(5)))
        func countsTheSamples() throws {
            let pipeline = try Pipeline("embedded")
            try pipeline.start(.up)
            let credential = "sk-test-\(UInt64.random(in: 0...UInt64.max))"
            let key = "pk-test-\(UInt64.random(in: 0...UInt64.max))"
            let told = try pipeline.runSamples(credential: credential, key: key)
            #expect(told.requests == 38)
            try pipeline.expectSamples(told, credential: credential, key: key)
            try pipeline.stopAll()
            // What is flushed at the end is a file too.
            #expect(try pipeline.work.files(containing: credential).isEmpty)
            // The answers are the same from a fresh process.
            try pipeline.start(.up)
            try pipeline.expectSamples(told, credential: credential, key: key)
            try pipeline.stopAll()
        }

        @Test(
            "Metadata that does not parse never breaks a request, and the event says what it was",
            .timeLimit(.minutes(2)))
        func bearsBadMetadata() throws {
            let pipeline = try Pipeline("metadata")
            try pipeline.start(.up)
            let cases: [(sent: String?, status: String)] = [
                (#"{"foo":"abc"}"#, "ok"), ("{}", "ok"), (nil, "absent"), ("", "absent"),
                ("{'foo':'abc'}", "malformed"), (#"{"foo":"abc""#, "malformed"), (#"{"foo":"abc"} x"#, "malformed"),
                (#"{"foo":NaN}"#, "malformed"), (#"{"foo":"\ud800"}"#, "malformed"), ("[1,2]", "not_an_object"),
                ("null", "not_an_object"), (#""foo""#, "not_an_object"), ("7", "not_an_object"),
                (#"{"foo":""# + String(repeating: "x", count: 9_000) + #""}"#, "too_large"),
                (#"{"foo":"größe","bar":"日本語"}"#, "ok"),
            ]
            for (index, given) in cases.enumerated() {
                let response = try pipeline.chat(given.sent, model: "case-\(index)")
                #expect(response.status == 200, "\(given.sent?.prefix(40) ?? "none")")
            }
            try waitUntil("all events are there", seconds: 30) { try pipeline.count(nil) >= Int64(cases.count) }
            let statuses = try pipeline.events("provider = 'openai'").reduce(into: [String: String]()) { found, event in
                found[event["request_model"]?.string ?? ""] = event["metadata_status"]?.string
            }
            for (index, given) in cases.enumerated() {
                #expect(statuses["case-\(index)"] == given.status, "\(given.sent?.prefix(40) ?? "none")")
            }
            #expect(try pipeline.count("metadata.foo = 'größe' and metadata.bar = '日本語'") == 1)
            try pipeline.stopAll()
        }

        @Test(
            "What cannot be forwarded gets a 4xx in JSON that says what to do, on a connection that stays",
            .timeLimit(.minutes(2)))
        func advises() throws {
            let pipeline = try Pipeline("advice")
            try pipeline.start(.up)
            let cases: [(headers: [(name: String, value: String)], path: String, status: ClosedRange<Int>)] = [
                ([], "/v1/proxy/chat/completions", 400...400),
                ([("x-portkey-mode", "proxy nobody")], "/v1/proxy/chat/completions", 400...400),
                ([("x-portkey-mode", "proxy")], "/v1/proxy/chat/completions", 400...400),
                ([("x-portkey-provider", "nobody")], "/v1/chat/completions", 400...400),
                ([("x-portkey-mode", "proxy openai")], "/nowhere", 400...499),
                ([("x-portkey-mode", "proxy openai")], "/v1/proxy/../../etc/passwd", 400...400),
            ]
            for given in cases {
                let response = try pipeline.chat(#"{"foo":"abc"}"#, headers: given.headers, path: given.path)
                #expect(given.status.contains(response.status), "\(given.path): \(response.text)")
                let error = try JSONValue.parse(response.body)["error"]
                #expect(error?["code"]?.string?.isEmpty == false, "\(given.path): \(response.text)")
                #expect((error?["message"]?.string?.count ?? 0) + (error?["hint"]?.string?.count ?? 0) > 30)
            }
            // A refusal for want of a provider keeps the connection: the same client goes on.
            var client = LoopbackClient(port: pipeline.proxyPort)
            #expect(try client.request("POST", "/v1/chat/completions", body: chatBody()).status == 400)
            let good = try client.request(
                "POST", "/v1/chat/completions",
                headers: [("x-portkey-provider", "openai"), ("x-portkey-meta", #"{"foo":"good"}"#)],
                body: chatBody())
            #expect(good.status == 200)
            try pipeline.expectCount("metadata.foo = 'good'", 1)
            try pipeline.stopAll()
        }

        @Test("The provider's errors pass through and are counted as what they are", .timeLimit(.minutes(2)))
        func passesErrors() throws {
            let pipeline = try Pipeline("errors")
            try pipeline.start(.up)
            for (status, times) in [(429, 3), (400, 2), (500, 4), (503, 1)] {
                for _ in 0..<times {
                    let response = try pipeline.chat(#"{"foo":"err"}"#, model: "error-\(status)")
                    #expect(response.status == status)
                    #expect(try JSONValue.parse(response.body)["error"]?["type"]?.string != nil)
                }
            }
            for _ in 0..<10 { #expect(try pipeline.chat(#"{"foo":"err"}"#).status == 200) }
            try pipeline.expectCount("metadata.foo = 'err'", 20)
            #expect(try pipeline.count("metadata.foo = 'err' and outcome = 'client_error'") == 5)
            #expect(try pipeline.count("metadata.foo = 'err' and outcome = 'provider_error'") == 5)
            #expect(try pipeline.count("metadata.foo = 'err' and status_class = '2xx'") == 10)
            let rate = try pipeline.query("metadata.foo = 'err'", measures: ["error_rate"])
            #expect(rate["totals"]?["error_rate"]?.double == 0.5)
            try pipeline.stopAll()
        }

        @Test("A client that leaves in mid-answer is an event, and the proxy goes on", .timeLimit(.minutes(2)))
        func bearsLeavingClients() throws {
            let pipeline = try Pipeline("leaving", provider: ["--chunk-interval-ms", "50"])
            try pipeline.start(.up)
            let body: JSONValue = [
                "model": "gpt-4o-mini", "stream": true,
                "messages": [["role": "user", "content": "Count to a hundred."]],
            ]
            let headers: [(name: String, value: String)] = [
                ("x-portkey-mode", "proxy openai"), ("x-portkey-meta", #"{"foo":"left"}"#),
            ]
            for _ in 0..<20 {
                var client = LoopbackClient(port: pipeline.proxyPort)
                try client.requestAndLeave("POST", "/v1/proxy/chat/completions", headers: headers, body: body.bytes)
            }
            #expect(try pipeline.chat(#"{"foo":"stayed"}"#).status == 200)
            try pipeline.expectCount("metadata.foo = 'left'", 20)
            #expect(try pipeline.count("metadata.foo = 'left' and outcome = 'cancelled'") == 20)
            try pipeline.expectCount("metadata.foo = 'stayed'", 1)
            try pipeline.stopAll()
        }

        @Test("Events put into the log beside a running `up` are answered like any other", .timeLimit(.minutes(2)))
        func answersForLoadedEvents() throws {
            let pipeline = try Pipeline("loadgen")
            try pipeline.start(.up)
            let truth = "\(pipeline.work.path)/truth.jsonl"
            let result = try run(
                [
                    Place.binary, "loadgen", "--config", "\(pipeline.work.path)/millrace.yaml", "--events", "2000",
                    "--seed", "7", "--profile", "uniform", "--ground-truth", truth,
                ], directory: pipeline.work.path)
            #expect(result.status == 0, "\(result.errors)")
            let sent = try readText(truth).split(separator: "\n").map { try JSONValue.parse(String($0)) }
            #expect(sent.count == 2_000)
            for condition in ["team-3", "team-11"] {
                let expected = sent.filter {
                    $0["metadata"]?["team"]?.string == condition && $0["metadata"]?["env"]?.string == "staging"
                }
                try pipeline.expectCount("metadata.team = '\(condition)' and metadata.env = 'staging'", expected.count)
            }
            try pipeline.expectCount("provider = 'openai' or provider = 'anthropic' or provider = 'mistral-ai'", 2_000)
            try pipeline.stopAll()
        }

        @Test(
            "What is past its retention goes; coarser rollups still answer, and the boundary is named",
            .timeLimit(.minutes(2)), arguments: ["sqlite"] + (ClickHouse.isWanted ? ["clickhouse"] : []))
        func deletesWhatIsPastItsTime(of store: String) throws {
            let server = store == "clickhouse" ? try ClickHouse() : nil
            let pipeline = try Pipeline(
                "retention-\(store)", store: server?.url,
                rules: "version: 1\nclasses: { request_id: identifier }\nobserve: { enabled: false }\n",
                more: "retention: { events_days: 2, minute_days: 1 }")
            try pipeline.start(.up)
            let today = Int64(time(nil)) / 86_400 * 86_400
            let (from, to) = (timestamp(today - 5 * 86_400), timestamp(today - 4 * 86_400))
            let loaded = try pipeline.command(["loadgen", "--events", "12000", "--from", from, "--to", to])
            #expect(loaded.status == 0, "\(loaded.errors)")
            func rollups(by granularity: String) throws -> (status: Int, body: JSONValue) {
                let question =
                    #"{"from":"\#(from)","to":"\#(to)","granularity":"\#(granularity)","measures":["requests"]}"#
                let answer = try ask(
                    pipeline.apiPort, "POST", "/v1/query", headers: [("content-type", "application/json")],
                    body: Array(question.utf8))
                return (answer.status, try JSONValue.parse(answer.body))
            }
            try waitUntil("all events are counted", seconds: 30) {
                try rollups(by: "day").body["totals"]?["requests"]?.integer == 12_000
            }
            // A consumer looks for what is past its time when it starts, then hourly: more than one step of rows here.
            try pipeline.stopAll()
            try pipeline.start(.up)
            try waitUntil("minutes and events are gone", seconds: 30) {
                // ClickHouse's rows stop counting at once, and are deleted with the next hour's look.
                if server != nil {
                    let page = try JSONValue.parse(
                        try ask(pipeline.apiPort, "GET", "/v1/events?from=\(from)&to=\(to)").body)
                    return try rollups(by: "minute").status == 422 && page["data"]?.array?.isEmpty == true
                        && page["retained_from"]?.string?.hasPrefix(timestamp(today - 2 * 86_400).prefix(10)) == true
                }
                let left = "SELECT (SELECT count(*) FROM events) + (SELECT count(*) FROM rollups WHERE grain = 0)"
                let rows = try run(["sqlite3", "-readonly", "millrace.db", left], directory: pipeline.work.path)
                return rows.output == "0\n"
            }
            #expect(try rollups(by: "day").body["totals"]?["requests"]?.integer == 12_000)
            #expect(try rollups(by: "hour").body["totals"]?["requests"]?.integer == 12_000)
            let minutes = try rollups(by: "minute")
            #expect(minutes.status == 422)
            #expect(minutes.body["error"]?["code"]?.string == "past_retention")
            #expect(minutes.body["error"]?["message"]?.string?.contains(timestamp(today - 86_400).prefix(10)) == true)
            // The keys of whole hours are listed, but for an identifier; of an hour that the range cuts nothing is left, which
            // is said.
            func listed(from: String) throws -> String {
                let listed = try pipeline.command(["metadata", "keys", "--from", from, "--to", to])
                #expect(listed.status == 0, "\(listed.errors)")
                return listed.output
            }
            let whole = try listed(from: from)
            #expect(whole.contains("env  ") && !whole.contains("≥"), "\(whole)")
            let gaps = whole.split(separator: "\n").filter { $0.hasPrefix("not counted") }
            let gap =
                "not counted: request_id, from \(from.dropLast()).000000Z to \(to.dropLast()).000000Z: only events hold an "
                + "identifier; kept are events from "
            #expect(gaps.count == 1 && gaps.first?.hasPrefix(gap) == true, "\(whole)")
            let cut = try listed(from: timestamp(today - 5 * 86_400 + 30))
            let hour = timestamp(today - 5 * 86_400 + 3_600).dropLast()
            #expect(
                cut.contains("not counted: all keys, from ") && cut.contains(" to \(hour).000000Z: kept are "), "\(cut)"
            )
            #expect(cut.contains("env") && cut.contains("≥ "), "\(cut)")
            #expect(try pipeline.chat(#"{"foo":"new"}"#).status == 200)
            try pipeline.expectCount("metadata.foo = 'new'", 1)
            try pipeline.stopAll()
        }
    }
}
