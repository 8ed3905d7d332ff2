// The past rebuilt by the command beside a running pipeline, as an operator does it.

import Glibc
import JSONText
import Simulation
import Testing

extension PipelineTests {
    @Suite(.serialized) struct ReplayCommandTests {
        private func day(_ pipeline: Pipeline) -> [String] { ["--from", timestamp(Int64(time(nil)) - 3_600)] }

        private func replay(_ pipeline: Pipeline, _ words: [String]) throws -> JSONValue {
            let result = try pipeline.command(["replay"] + words + ["--json"])
            #expect(result.status == 0, "\(words): \(result.errors)")
            return try JSONValue.parse(result.output)
        }

        @Test("New rules for events that are counted: looked at, put in force, taken back", .timeLimit(.minutes(3)))
        func putsThePastUnderNewRules() throws {
            let pipeline = try Pipeline("replay", rules: "version: 1")
            try pipeline.start(.up)
            try writeText(
                "\(pipeline.work.path)/new.yaml", "version: 1\nvalues: { maps: { env: { prod: production } } }\n")
            for _ in 0..<5 { #expect(try pipeline.chat(#"{"env":"prod","foo":"a"}"#).status == 200) }
            #expect(try pipeline.chat(#"{"env":"test"}"#).status == 200)
            try pipeline.expectCount("metadata.env exists", 6)

            let dry = try replay(pipeline, day(pipeline) + ["--rules", "new.yaml", "--dry-run"])
            #expect(dry["changed_events"]?.integer == 5 && dry["exact"]?.boolean == true)
            let told = (dry["changes"]?.array ?? []).filter { $0["measure"]?.string == "requests" }
            #expect(Set(told.compactMap { $0["value"]?.string }) == ["prod", "production"])
            #expect(told.compactMap { $0["difference"]?.integer }.sorted() == [-5, 5])
            #expect(try pipeline.count("metadata.env = 'prod'") == 5)

            let done = try replay(pipeline, day(pipeline) + ["--rules", "new.yaml"])
            #expect(done["state"]?.string == "live" && done["changed_events"]?.integer == 5)
            #expect(try pipeline.count("metadata.env = 'production'") == 5)
            #expect(try pipeline.count("metadata.env = 'prod'") == 0)
            #expect(try pipeline.events("metadata.env = 'production'").count == 5)
            // Ingest goes on, under the rules that are configured.
            for _ in 0..<3 { #expect(try pipeline.chat(#"{"env":"prod","foo":"a"}"#).status == 200) }
            try pipeline.expectCount("metadata.env = 'prod'", 3)
            #expect(try pipeline.count("metadata.foo = 'a'") == 8)
            try pipeline.expectReconciled()
            let listed = try JSONValue.parse(ask(pipeline.apiPort, "GET", "/v1/replays").body)["data"]?.array ?? []
            #expect(listed.map { $0["state"]?.string } == ["live", "cancelled"])
            let metrics = try ask(pipeline.apiPort, "GET", "/metrics").text
            #expect(metrics.contains("millrace_replays{state=\"live\"} 1\n"), "\(metrics)")
            #expect(metrics.contains("millrace_replays{state=\"cancelled\"} 1\n"))
            #expect(!metrics.contains("millrace_replay_scanned_events{"))
            #expect(listed.first?["rules"]?.string?.utf8.count == 64 && listed.first?["progress"]?.integer == 1)

            let id = try #require(done["id"]?.integer)
            #expect(try replay(pipeline, ["revert", "\(id)"])["state"]?.string == "retired")
            #expect(try pipeline.count("metadata.env = 'prod'") == 8)
            // Asked again, as after an answer that was lost.
            #expect(try replay(pipeline, ["revert", "\(id)"])["state"]?.string == "retired")
            let dryID = try #require(listed.last?["id"]?.integer)
            #expect(try replay(pipeline, ["cancel", "\(dryID)"])["state"]?.string == "cancelled")
            #expect(try pipeline.chat(#"{"env":"prod","foo":"a"}"#).status == 200)
            try pipeline.expectCount("metadata.env = 'prod'", 9)
            try pipeline.expectReconciled()
            try pipeline.stopAll()
        }

        @Test(
            "Killed again and again beside live ingest, it goes on and changes nothing it should not",
            .timeLimit(.minutes(4)))
        func goesOnAfterKills() throws {
            let pipeline = try Pipeline("replay-kills", rules: "version: 1")
            try pipeline.start(.up)
            let loaded = try pipeline.command([
                "loadgen", "--events", "20000", "--from", timestamp(Int64(time(nil)) - 3_000), "--to",
                timestamp(Int64(time(nil))),
            ])
            #expect(loaded.status == 0, "\(loaded.errors)")
            try pipeline.expectCount("metadata.env exists", 20_000, seconds: 90)
            func answer() throws -> JSONValue? {
                let measures = ["requests", "cost_usd", "input_tokens", "latency_ms.p99", "distinct.metadata.team"]
                return try pipeline.query(
                    "metadata.env exists", groupBy: ["metadata.env", "model"], measures: measures)["data"]
            }
            let before = try answer()
            var kills = 0
            let words = ["replay"] + day(pipeline) + ["--to", timestamp(Int64(time(nil))), "--rate", "6000", "--json"]
            var seed = SystemRandomNumberGenerator()
            var wait = 1
            while true {
                let process = try ChildProcess(
                    [Place.binary] + words + ["--config", "\(pipeline.work.path)/millrace.yaml"],
                    name: "replay\(kills)",
                    directory: pipeline.work.path, outputTo: pipeline.work.path)
                let milliseconds = UInt32.random(in: 300...900, using: &seed) * UInt32(wait)
                for _ in 0..<milliseconds / 50 where process.isRunning { usleep(50_000) }
                #expect(try pipeline.chat(#"{"live":"yes"}"#).status == 200)
                if !process.isRunning {
                    #expect(try process.wait(seconds: 1) == 0, "\(process.errors)")
                    break
                }
                try process.crash()
                kills += 1
                // Later ones come further.
                if kills % 3 == 0 { wait += 1 }
                try #require(kills < 40)
            }
            #expect(kills > 1)
            #expect(try answer() == before)
            try pipeline.expectCount("metadata.live = 'yes'", kills + 1)
            try pipeline.expectReconciled()
            let listed = try replay(pipeline, ["list"])
            #expect(listed.array?.map { $0["state"]?.string } == ["live"])
            try pipeline.stopAll()
        }

        /// A replay that was killed on its way.
        private func cutShort(_ pipeline: Pipeline, _ words: [String]) throws -> Int64 {
            let process = try ChildProcess(
                [Place.binary, "replay", "--config", "\(pipeline.work.path)/millrace.yaml"] + words, name: "replay",
                directory: pipeline.work.path, outputTo: pipeline.work.path)
            var found: Int64?
            try waitUntil("some of the log is read", seconds: 30, detail: { process.errors }) {
                guard process.isRunning else { throw ChildError("it ended: \(process.errors)") }
                let building = try replay(pipeline, ["list"]).array?.first { $0["state"]?.string == "building" }
                found = building.flatMap { ($0["progress"]?.double ?? 0) > 0 ? $0["id"]?.integer : nil }
                return found != nil
            }
            try process.crash()
            return try #require(found)
        }

        @Test(
            "Days whose events are past their retention are counted anew from the log", .timeLimit(.minutes(6)),
            arguments: ["journal", "kafka"])
        func readsTheLog(_ kind: String) throws {
            let brokers = try WorkDirectory("kafka")
            let kafka = kind == "kafka" ? try KafkaCluster(in: brokers.path) : nil
            let pipeline = try Pipeline(
                "replay-\(kind)", log: kafka?.log ?? "{ kind: journal }", rules: "version: 1",
                more: "retention: { events_days: 2, minute_days: 10 }")
            let roles: [Pipeline.Role] = kafka == nil ? [.up] : [.consumer, .api]
            for role in roles { try pipeline.start(role) }
            let today = Int64(time(nil)) / 86_400 * 86_400
            let (from, to) = (timestamp(today - 5 * 86_400), timestamp(today - 4 * 86_400))
            let range = ["--from", from, "--to", to]
            let loaded = try pipeline.command(["loadgen", "--events", "3000", "--seed", "5"] + range)
            #expect(loaded.status == 0, "\(loaded.errors)")
            func answer() throws -> JSONValue {
                let question =
                    #"{"from":"\#(from)","to":"\#(to)","granularity":"hour","group_by":["metadata.env","model"],"#
                    + #""measures":["requests","cost_usd","input_tokens","latency_ms.p99"]}"#
                let answer = try ask(
                    pipeline.apiPort, "POST", "/v1/query", headers: [("content-type", "application/json")],
                    body: Array(question.utf8))
                return try JSONValue.parse(answer.body)
            }
            func requests() throws -> Int64? { try answer()["totals"]?["requests"]?.integer }
            func eventsAreGone() throws -> Bool {
                let page = try JSONValue.parse(
                    try ask(pipeline.apiPort, "GET", "/v1/events?from=\(from)&to=\(to)").body)
                return page["data"]?.array?.isEmpty == true
            }
            try waitUntil("all events are counted", seconds: 60) { try requests() == 3_000 }
            let before = try #require(try answer()["data"])
            // A consumer looks for what is past its time when it starts.
            try pipeline.stopAll()
            for role in roles { try pipeline.start(role) }
            try waitUntil("the events are gone", seconds: 30, eventsAreGone)

            let refused = try pipeline.command(["replay", "--source", "events"] + range)
            #expect(refused.status == 2 && refused.errors.contains("are past their retention"), "\(refused.errors)")
            #expect(try replay(pipeline, ["list"]).array?.isEmpty == true)

            let same = try pipeline.command(["replay", "--json"] + range)
            #expect(same.status == 0 && same.errors.contains("they are read from the log"), "\(same.errors)")
            let done = try JSONValue.parse(same.output)
            #expect(done["source"]?.string == "log" && done["state"]?.string == "live")
            #expect(done["changed_events"]?.integer == 0 && (done["events"]?.integer ?? 0) >= 3_000)
            let parts = done["partitions"]?.array ?? []
            #expect(!parts.isEmpty && parts.allSatisfy { $0["next"]?.integer == $0["end"]?.integer })
            #expect(try answer()["data"] == before)
            let id = try #require(done["id"]?.integer)
            let status = try pipeline.command(["replay", "status", "\(id)"])
            #expect(status.output.contains("100 %"), "\(status.output)")
            let listed = try JSONValue.parse(ask(pipeline.apiPort, "GET", "/v1/replays").body)["data"]?.array ?? []
            #expect(listed.map { $0["source"]?.string } == ["log"])
            // Asked for over the API, the log is read as well.
            let posted = try ask(
                pipeline.apiPort, "POST", "/v1/replays", headers: [("content-type", "application/json")],
                body: Array(#"{"from":"\#(from)","to":"\#(to)"}"#.utf8))
            #expect(posted.status == 202, "\(posted.text)")
            let started = try #require(JSONValue.parse(posted.body)["id"]?.integer)
            try waitUntil("the replay over the API answers", seconds: 60) {
                let standing = try JSONValue.parse(ask(pipeline.apiPort, "GET", "/v1/replays/\(started)").body)
                return standing["state"]?.string == "live" && standing["source"]?.string == "log"
            }
            #expect(try answer()["data"] == before)

            let old = try #require(before.array?.compactMap { $0["group"]?["metadata.env"]?.string }.first)
            try writeText(
                "\(pipeline.work.path)/new.yaml", "version: 1\nvalues: { maps: { env: { \(old): renamed } } }\n")
            let dry = try replay(pipeline, ["--rules", "new.yaml", "--dry-run"] + range)
            #expect(dry["exact"]?.boolean == true && (dry["changed_events"]?.integer ?? 0) > 0)
            let told = (dry["changes"]?.array ?? []).filter { $0["measure"]?.string == "requests" }
            #expect(Set(told.compactMap { $0["value"]?.string }) == [old, "renamed"])
            // Killed on its way, and gone on with.
            let left = try cutShort(pipeline, ["--source", "log", "--rules", "new.yaml", "--rate", "300"] + range)
            #expect(try answer()["data"] == before)
            let standing = try JSONValue.parse(ask(pipeline.apiPort, "GET", "/v1/replays/\(left)").body)
            let read = standing["partitions"]?.array ?? []
            #expect(read.map { $0["partition"] } == parts.map { $0["partition"] }, "\(standing.text)")
            let progress = read.compactMap { $0["progress"]?.double }
            #expect(progress.contains { $0 > 0 } && progress.contains { $0 < 1 }, "\(standing.text)")
            let name = try #require(read.first?["partition"]?.string)
            try waitUntil("it is in the metrics", seconds: 20) {
                let metrics = try ask(pipeline.apiPort, "GET", "/metrics").text
                let labels = "{replay=\"\(left)\",partition=\"\(name)\"}"
                return metrics.contains("millrace_replay_read_records\(labels) ")
                    && metrics.contains("millrace_replay_expected_records\(labels) ")
            }
            let other = try replay(pipeline, ["resume", "\(left)"])
            #expect(other["id"]?.integer == left && (other["changed_events"]?.integer ?? 0) > 0)
            let after = try #require(try answer()["data"])
            #expect(try requests() == 3_000)
            #expect(!after.text.contains("\"\(old)\"") && after.text.contains("\"renamed\""))

            // Of one workspace, here of one that has no events: rows of the others are taken over as they are.
            let apart = try replay(
                pipeline, ["--workspace", "nobody", "--source", "log", "--rules", "new.yaml"] + range)
            #expect(apart["source"]?.string == "log" && apart["changed_events"]?.integer == 0, "\(apart.text)")
            #expect(try answer()["data"] == after)

            if let kafka {
                let topic = KafkaTopic(servers: kafka.servers, name: "millrace.request-events.v1")
                // The broker's retention overtakes a replay.
                let overtaken = try cutShort(pipeline, ["--rate", "300"] + range)
                let partition = try #require((Int32(0)..<3).last { (try? topic.end(of: $0)) ?? 0 > 20 })
                try topic.deleteRecords(of: partition, before: 20)
                let lapsed = try pipeline.command(["replay", "resume", "\(overtaken)"])
                #expect(
                    lapsed.status == 2
                        && lapsed.errors.contains("\(topic.name)/\(partition) begins at offset 20 by now")
                        && lapsed.errors.contains("millrace replay cancel \(overtaken)"), "\(lapsed.errors)")
                _ = try replay(pipeline, ["cancel", "\(overtaken)"])
                #expect(try answer()["data"] == after)
                let late = try pipeline.command(["replay"] + range)
                let boundary = timestamp(today - 2 * 86_400).prefix(10)
                #expect(late.status == 2 && late.errors.contains("events are kept from \(boundary)"), "\(late.errors)")
                #expect(
                    late.errors.contains("\(topic.name)/\(partition) from ")
                        && late.errors.contains(" (offset 20) on"), "\(late.errors)")
                #expect(try replay(pipeline, ["list"]).array?.count == 6)
            }
            // Late ones go, too, but not before they are counted where a revert finds them.
            let late = try pipeline.command(["loadgen", "--events", "200", "--seed", "6"] + range)
            #expect(late.status == 0, "\(late.errors)")
            try waitUntil("late events are counted", seconds: 60) { try requests() == 3_200 }
            try pipeline.stopAll()
            for role in roles { try pipeline.start(role) }
            // Step by step below each replay, with pauses in between.
            try waitUntil("late events are gone", seconds: 90, eventsAreGone)
            for row in try replay(pipeline, ["list"]).array ?? [] where row["state"]?.string == "live" {
                let id = try #require(row["id"]?.integer)
                #expect(try replay(pipeline, ["revert", "\(id)"])["state"]?.string == "retired")
                #expect(try requests() == 3_200, "without \(id)")
            }
            try pipeline.stopAll()
        }

        @Test("Mistakes end with a sentence that says what to do", .timeLimit(.minutes(1)))
        func namesMistakes() throws {
            let pipeline = try Pipeline("replay-mistakes")
            let from = ["--from", "2026-11-01T00:00:00Z"]
            for (words, status, text) in [
                (["--to", "2026-11-01T00:00:00Z"], 2, "--from is missing"),
                (["--from", "yesterday"], 2, "not a time"),
                (from + ["--to", "2026-10-01T00:00:00Z"], 2, "before --to"),
                (from + ["--source", "tape"], 2, "not a source"), (from + ["--rules", "none.yaml"], 2, "none.yaml"),
                (from, 1, "There is no store"), (["resume", "x"], 1, "There is no store"), (["undo"], 2, "undo"),
            ] as [([String], Int32, String)] {
                let result = try pipeline.command(["replay"] + words)
                #expect(result.status == status && result.errors.contains(text), "\(words): \(result.errors)")
            }
            try pipeline.start(.up)
            let result = try pipeline.command(["replay", "revert", "7"])
            #expect(result.status != 0 && result.errors.contains("find replay 7: there is none"), "\(result.errors)")
            try pipeline.stopAll()
        }
    }
}
