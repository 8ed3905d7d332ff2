// The past rebuilt over HTTP, in the API's own process, as the page does it; and who may.

import Glibc
import JSONText
import Simulation
import Testing

extension PipelineTests {
    @Suite(.serialized) struct ReplayRouteTests {
        private static let newRules = "version: 1\nvalues: { maps: { env: { prod: production } } }\n"

        private func post(
            _ pipeline: Pipeline, _ path: String, _ body: JSONValue? = nil, key: String? = nil,
            headers: [(name: String, value: String)] = [("content-type", "application/json")]
        ) throws -> LoopbackResponse {
            try ask(
                pipeline.apiPort, "POST", path,
                headers: headers + (key.map { [("authorization", "Bearer \($0)")] } ?? []), body: body?.bytes ?? [])
        }

        private func start(_ pipeline: Pipeline, _ more: [String: JSONValue]) throws -> LoopbackResponse {
            let from = [JSONMember(key: "from", value: .string(timestamp(Int64(time(nil)) - 3_600)))]
            let all = from + more.map { JSONMember(key: $0.key, value: $0.value) }
            return try post(pipeline, "/v1/replays", .object(all))
        }

        private func row(_ pipeline: Pipeline, _ id: Int64, _ query: String = "") throws -> JSONValue {
            try JSONValue.parse(ask(pipeline.apiPort, "GET", "/v1/replays/\(id)\(query)").body)
        }

        private func number(_ response: LoopbackResponse) throws -> Int64 {
            try #require(try JSONValue.parse(response.body)["id"]?.integer, "\(response.status): \(response.text)")
        }

        private func wait(
            _ pipeline: Pipeline, _ id: Int64, _ what: String, _ isSo: (JSONValue) -> Bool
        ) throws -> JSONValue {
            var last = JSONValue.null
            try waitUntil("replay \(id) \(what)", seconds: 60, detail: { last.text }) {
                last = try row(pipeline, id)
                return isSo(last)
            }
            return last
        }

        private func error(_ response: LoopbackResponse) -> String {
            let error = (try? JSONValue.parse(response.body))?["error"]
            return "\(error?["code"]?.string ?? ""): \(error?["message"]?.string ?? "") \(error?["hint"]?.string ?? "")"
        }

        /// Requests and cost, by environment.
        private func byEnvironment(_ pipeline: Pipeline) throws -> [String: Int64] {
            let answer = try pipeline.query(nil, groupBy: ["metadata.env"], measures: ["requests"])
            return (answer["data"]?.array ?? []).reduce(into: [:]) { found, row in
                found[row["group"]?["metadata.env"]?.string ?? ""] = row["measures"]?["requests"]?.integer
            }
        }

        private func load(_ pipeline: Pipeline, _ events: Int) throws {
            let loaded = try pipeline.command([
                "loadgen", "--events", "\(events)", "--from", timestamp(Int64(time(nil)) - 3_000), "--to",
                timestamp(Int64(time(nil))),
            ])
            #expect(loaded.status == 0, "\(loaded.errors)")
            try pipeline.expectCount("metadata.env exists", events, seconds: 90)
        }

        private func everything(_ pipeline: Pipeline) throws -> JSONValue? {
            let measures = ["requests", "cost_usd", "input_tokens", "latency_ms.p99", "distinct.metadata.team"]
            return try pipeline.query(nil, groupBy: ["metadata.env", "model"], measures: measures)["data"]
        }

        /// Rows of the store that a generation has.
        private func rows(_ pipeline: Pipeline, of generation: Int64) throws -> String {
            let tables = ["rollups", "revisions", "replay_pending"]
            let sums = tables.map { "(SELECT count(*) FROM \($0) WHERE generation = \(generation))" }
            let result = try run(
                [
                    "sqlite3", "-cmd", ".timeout 10000", "\(pipeline.work.path)/millrace.db",
                    "SELECT \(sums.joined(separator: " + "))",
                ], directory: pipeline.work.path)
            #expect(result.status == 0, "\(result.errors)")
            return result.output.filter(\.isNumber)
        }

        @Test(
            "Looked at, put in force and taken back over HTTP; the dry run says what the run does",
            .timeLimit(.minutes(3)))
        func putsThePastUnderNewRules() throws {
            let pipeline = try Pipeline("replay-http", rules: "version: 1")
            try pipeline.start(.up)
            for _ in 0..<5 { #expect(try pipeline.chat(#"{"env":"prod","foo":"a"}"#).status == 200) }
            for _ in 0..<2 { #expect(try pipeline.chat(#"{"env":"production"}"#).status == 200) }
            #expect(try pipeline.chat(#"{"env":"test"}"#).status == 200)
            try pipeline.expectCount("metadata.env exists", 8)
            let before = try byEnvironment(pipeline)

            let dry = try start(pipeline, ["rules": .string(Self.newRules), "dry_run": true])
            #expect(dry.status == 202, "\(dry.text)")
            let dryID = try number(dry)
            #expect(dry.headers.contains { $0.name == "location" && $0.value == "/v1/replays/\(dryID)" })
            let looked = try wait(pipeline, dryID, "has ended") {
                $0["state"]?.string == "cancelled" && !($0["result"]?.isNull ?? true)
            }
            #expect(looked["dry_run"]?.boolean == true && looked["changed_events"]?.integer == 5)
            #expect(looked["progress"]?.integer == 1 && looked["result"]?["exact"]?.boolean == true)
            let changes = try #require(looked["result"]?["changes"]?.array)
            #expect(looked["result"]?["changes_total"]?.integer == Int64(changes.count))
            let one = try row(pipeline, dryID, "?limit=1")["result"]?["changes"]?.array
            #expect(one == [changes[0]])
            let foretold = changes.filter { $0["measure"]?.string == "requests" && $0["key"]?.string == "metadata.env" }
            #expect(Set(foretold.compactMap { $0["value"]?.string }) == ["prod", "production"])
            #expect(try byEnvironment(pipeline) == before)

            // The same rules as an object.
            let rules: JSONValue = ["version": 1, "values": ["maps": ["env": ["prod": "production"]]]]
            let run = try start(pipeline, ["rules": rules])
            #expect(run.status == 202, "\(run.text)")
            let id = try number(run)
            let done = try wait(pipeline, id, "answers") {
                $0["state"]?.string == "live" && $0["activity"]?.isNull == true
            }
            #expect(done["changed_events"]?.integer == 5 && done["rules"] == looked["rules"])
            #expect(done["result"]?.isNull == true && done["swapped"]?.string != nil)
            let after = try byEnvironment(pipeline)
            #expect(after == ["production": 7, "test": 1])
            for change in foretold {
                let value = change["value"]?.string ?? ""
                #expect(change["before"]?.integer == before[value, default: 0])
                #expect(change["after"]?.integer == after[value, default: 0])
            }
            #expect(try pipeline.events("metadata.env = 'production'").count == 7)

            let back = try post(pipeline, "/v1/replays/\(id)/revert")
            #expect(back.status == 202, "\(back.text)")
            _ = try wait(pipeline, id, "is taken back") { $0["state"]?.string == "retired" }
            #expect(try byEnvironment(pipeline) == before)
            // Asked again, as after an answer that was lost.
            _ = try wait(pipeline, id, "is at rest") { $0["activity"]?.isNull == true }
            #expect(try post(pipeline, "/v1/replays/\(id)/revert").status == 200)
            for (action, told) in [("cancel", "retired"), ("resume", "retired")] {
                let refused = try post(pipeline, "/v1/replays/\(id)/\(action)")
                #expect(refused.status == 409 && error(refused).contains(told), "\(refused.text)")
            }
            try pipeline.expectReconciled()
            let lines = pipeline.errors(of: .up).split(separator: "\n").compactMap { try? JSONValue.parse(String($0)) }
            let audit = lines.filter { $0["code"]?.string == "api_audit" }
            #expect(
                audit.map {
                    "\($0["action"]?.string ?? "") \($0["replay"]?.integer ?? 0) \($0["status"]?.integer ?? 0)"
                }
                    == [
                        "replay_start \(dryID) 202", "replay_start \(id) 202", "replay_revert \(id) 202",
                        "replay_revert \(id) 200", "replay_cancel \(id) 409", "replay_resume \(id) 409",
                    ])
            #expect(audit.first?["detail"]?.string?.contains("other rules, dry run") == true)
            #expect(audit.allSatisfy { $0["request_id"]?.string != nil })
            // What was found lasts as long as the process; how the replays stand lasts.
            try pipeline.stopAll()
            try pipeline.start(.up)
            let later = try row(pipeline, dryID)
            #expect(later["state"]?.string == "cancelled" && later["result"]?.isNull == true)
            #expect(try row(pipeline, id)["state"]?.string == "retired")
            try pipeline.stopAll()
        }

        @Test(
            "One at a time, with progress; a cancelled one leaves nothing; foreign pages and mistakes are refused",
            .timeLimit(.minutes(3)))
        func refusesAndCancels() throws {
            let pipeline = try Pipeline("replay-cancel", rules: "version: 1")
            try pipeline.start(.up)
            try load(pipeline, 10_000)
            let before = try everything(pipeline)

            let mistaken = try start(
                pipeline,
                ["rules": "version: 1\nvalus: 2\nclasses: { a: b }\n", "prices": ["models": "none"]])
            #expect(mistaken.status == 400, "\(mistaken.text)")
            for part in ["line 2: valus", "classes.a", "prices: "] { #expect(error(mistaken).contains(part)) }
            for (body, part) in [
                ([:], "from is missing"), (["from": "now", "rate": 0], "from is not an RFC 3339 time. rate is not"),
                (["from": "2026-11-01T00:00:00Z", "to": "2026-10-01T00:00:00Z"], "from does not lie before to"),
                (["from": "2026-11-01T00:00:00Z", "fron": 1], "fron"),
            ] as [(JSONValue, String)] {
                let refused = try post(pipeline, "/v1/replays", body)
                #expect(refused.status == 422 && error(refused).contains(part), "\(refused.text)")
            }
            let own = "http://127.0.0.1:\(pipeline.apiPort)"
            let json = (name: "content-type", value: "application/json")
            for (headers, status) in [
                ([json, ("origin", "http://elsewhere.example")], 403), ([json, ("origin", "null")], 403),
                ([json, ("sec-fetch-site", "same-site")], 403), ([("content-type", "text/plain")], 415), ([], 415),
                ([json, ("origin", own), ("sec-fetch-site", "same-origin")], 422),
            ] as [([(name: String, value: String)], Int)] {
                let answered = try post(pipeline, "/v1/replays", [:], headers: headers)
                #expect(answered.status == status, "\(headers): \(answered.text)")
                let ended = try post(pipeline, "/v1/replays/2/cancel", headers: headers)
                #expect(ended.status == (status == 422 ? 404 : status), "\(headers): \(ended.text)")
            }
            #expect(try JSONValue.parse(ask(pipeline.apiPort, "GET", "/v1/replays").body)["data"]?.array == [])

            let id = try number(try start(pipeline, ["rules": .string(Self.newRules), "rate": 2_000]))
            let moving = try wait(pipeline, id, "moves") {
                $0["events_per_second"]?.integer ?? 0 > 0 && $0["seconds_left"]?.integer != nil
            }
            #expect(moving["activity"]?.string == "build" && moving["expected_events"]?.integer == 10_000)
            #expect((0.0001..<1).contains(moving["progress"]?.double ?? 0))
            let overlapping = try start(pipeline, ["dry_run": true])
            #expect(overlapping.status == 409 && error(overlapping).contains("Replay \(id) is unfinished"))
            let days: JSONValue = ["from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"]
            let other = try post(pipeline, "/v1/replays", days)
            #expect(other.status == 409 && error(other).contains("one at a time"), "\(other.text)")

            let ended = try post(pipeline, "/v1/replays/\(id)/cancel")
            let state = try JSONValue.parse(ended.body)["state"]?.string
            #expect(ended.status == 200 && state == "cancelled")
            try waitUntil("nothing of it is left", seconds: 30) { try rows(pipeline, of: id) == "0" }
            #expect(try everything(pipeline) == before)
            let again = try post(pipeline, "/v1/replays/\(id)/resume")
            #expect(again.status == 409 && error(again).contains("cancelled"), "\(again.text)")
            #expect(try post(pipeline, "/v1/replays/77/cancel").status == 404)
            #expect(try ask(pipeline.apiPort, "GET", "/v1/replays/seven").status == 404)
            try pipeline.expectReconciled()
            try pipeline.stopAll()
        }

        @Test(
            "Stopped and killed in mid-replay, it goes on over HTTP and by the command, to the undisturbed result",
            .timeLimit(.minutes(4)))
        func goesOnAfterKills() throws {
            let pipeline = try Pipeline("replay-http-kills", rules: "version: 1")
            try pipeline.start(.up)
            try load(pipeline, 20_000)
            let original = try everything(pipeline)
            // `loadgen` writes env as prod, stage, dev.
            let plan: [String: JSONValue] = [
                "rules": "version: 1\nkeys: { aliases: { env: environment } }\n",
                "to": .string(timestamp(Int64(time(nil)))),
            ]
            let undisturbed = try number(try start(pipeline, plan))
            _ = try wait(pipeline, undisturbed, "answers") { $0["state"]?.string == "live" }
            let measures = ["requests", "cost_usd", "input_tokens", "latency_ms.p99", "distinct.metadata.team"]
            func changed() throws -> JSONValue? {
                try pipeline.query(nil, groupBy: ["metadata.environment", "model"], measures: measures)["data"]
            }
            let wanted = try changed()
            #expect(wanted != nil && wanted != original)
            #expect(try post(pipeline, "/v1/replays/\(undisturbed)/revert").status == 202)
            _ = try wait(pipeline, undisturbed, "is taken back") {
                $0["state"]?.string == "retired" && $0["activity"]?.isNull == true
            }
            #expect(try everything(pipeline) == original)

            let id = try number(try start(pipeline, plan.merging(["rate": 2_000]) { $1 }))
            var reached: Int64 = 0
            for ending in 0..<3 {
                reached =
                    try wait(pipeline, id, "has come further") {
                        $0["events"]?.integer ?? 0 > reached + 1_000 && $0["state"]?.string == "building"
                    }["events"]?.integer ?? 0
                if ending == 1 { try pipeline.stop(.up) } else { try pipeline.crash(.up) }
                if ending == 2 { break }
                try pipeline.start(.up)
                let left = try row(pipeline, id)
                #expect(left["state"]?.string == "building" && left["activity"]?.isNull == true)
                #expect(left["events"]?.integer ?? 0 >= reached)
                #expect(try everything(pipeline) == original)
                let refused = try start(pipeline, plan)
                #expect(refused.status == 409 && error(refused).contains("/v1/replays/\(id)/resume"))
                let resumed = try post(pipeline, "/v1/replays/\(id)/resume", ["rate": 2_000])
                #expect(resumed.status == 202, "\(resumed.text)")
            }
            // The last stretch by the command, while the API is away, and it is live where the API comes back.
            let command = try pipeline.command(["replay", "resume", "\(id)", "--json"])
            #expect(command.status == 0, "\(command.errors)")
            try pipeline.start(.up)
            #expect(try row(pipeline, id)["state"]?.string == "live")
            #expect(try changed() == wanted)
            try pipeline.expectReconciled()
            try pipeline.stopAll()
        }

        @Test("Only an admin's key looks, starts and ends; the log says which key it was", .timeLimit(.minutes(2)))
        func asksForAnAdmin() throws {
            let pipeline = try Pipeline("replay-keys", auth: "keys")
            try pipeline.start(.up)
            func made(_ scopes: String) throws -> (id: String, key: String) {
                let result = try pipeline.command(["keys", "create", "--workspace", "w", "--scopes", scopes, "--json"])
                let answer = try JSONValue.parse(result.output)
                return (try #require(answer["id"]?.string), try #require(answer["key"]?.string))
            }
            let (asks, admin) = (try made("ingest,query"), try made("admin"))
            func get(_ path: String, _ key: String?) throws -> Int {
                try ask(
                    pipeline.apiPort, "GET", path, headers: key.map { [("authorization", "Bearer \($0)")] } ?? []
                ).status
            }
            try waitUntil("the keys are known", seconds: 15) { try get("/v1/replays", admin.key) == 200 }
            for path in ["/v1/replays", "/v1/replays/2", "/v1/dead-letters", "/v1/dead-letters/t%2F0%2F1"] {
                #expect(try get(path, nil) == 401, "\(path)")
                #expect(try get(path, asks.key) == 403, "\(path)")
                #expect([200, 404].contains(try get(path, admin.key)), "\(path)")
            }
            for path in [
                "/v1/replays", "/v1/replays/2/cancel", "/v1/replays/2/resume", "/v1/replays/2/revert",
                "/v1/dead-letters/redrive", "/v1/dead-letters/discard",
            ] {
                #expect(try post(pipeline, path, [:]).status == 401, "\(path)")
                #expect(try post(pipeline, path, [:], key: asks.key).status == 403, "\(path)")
                #expect([404, 422].contains(try post(pipeline, path, [:], key: admin.key).status), "\(path)")
            }
            let lines = pipeline.errors(of: .up).split(separator: "\n").compactMap { try? JSONValue.parse(String($0)) }
            let audit = lines.filter { $0["code"]?.string == "api_audit" }
            #expect(audit.count == 18)
            #expect(audit.filter { $0["key"]?.string == asks.id }.allSatisfy { $0["status"]?.integer == 403 })
            #expect(audit.count { $0["key"]?.string == admin.id && $0["workspace"]?.string == "w" } == 6)
            try pipeline.stopAll()
            for key in [asks, admin] { #expect(try pipeline.work.files(containing: key.key).isEmpty) }
        }

        @Test(
            "Of one workspace: over HTTP, by the command, late events included; others stay", .timeLimit(.minutes(3)))
        func replaysOneWorkspace() throws {
            let pipeline = try Pipeline("replay-workspace", rules: "version: 1")
            try pipeline.start(.up)
            func send(_ count: Int) throws {
                let now = Int64(time(nil))
                let lines = (0..<count).flatMap { index in
                    let time = timestamp(now - 600 + Int64(index))
                    return ["shop", "bank"].map {
                        #"{"time":"\#(time)","workspace":"\#($0)","metadata":{"env":"prod"}}"# + "\n"
                    }
                }
                try writeText("\(pipeline.work.path)/two.jsonl", lines.joined())
                let loaded = try pipeline.command(["loadgen", "--from-file", "two.jsonl"])
                #expect(loaded.status == 0, "\(loaded.errors)")
            }
            func counts(_ workspace: String) throws -> [String: Int64] {
                let told = try pipeline.command(
                    [
                        "query", "--group-by", "metadata.env", "--measure", "requests", "--json", "--workspace",
                        workspace,
                    ])
                let rows = try JSONValue.parse(told.output)["data"]?.array ?? []
                return rows.reduce(into: [:]) { found, row in
                    found[row["group"]?["metadata.env"]?.string ?? ""] = row["measures"]?["requests"]?.integer
                }
            }
            func expect(_ shop: [String: Int64], _ bank: [String: Int64]) throws {
                try waitUntil("both are counted so", seconds: 30, detail: { "\((try? counts("shop")) ?? [:])" }) {
                    try counts("shop") == shop && counts("bank") == bank
                }
            }
            try send(4)
            try expect(["prod": 4], ["prod": 4])
            let started = try start(pipeline, ["rules": .string(Self.newRules), "workspace": "shop"])
            #expect(started.status == 202, "\(started.text)")
            let id = try number(started)
            let done = try wait(pipeline, id, "answers") { $0["state"]?.string == "live" }
            #expect(done["workspace"]?.string == "shop" && done["changed_events"]?.integer == 4)
            try expect(["production": 4], ["prod": 4])
            // Late, of the time that was replayed.
            try send(2)
            try expect(["production": 6], ["prod": 6])
            #expect(try post(pipeline, "/v1/replays/\(id)/revert").status == 202)
            try expect(["prod": 6], ["prod": 6])

            try writeText("\(pipeline.work.path)/new.yaml", Self.newRules)
            let words = ["replay", "--from", timestamp(Int64(time(nil)) - 3_600), "--rules", "new.yaml"]
            let dry = try pipeline.command(words + ["--workspace", "bank", "--dry-run", "--json"])
            #expect(try JSONValue.parse(dry.output)["changed_events"]?.integer == 6, "\(dry.errors)")
            let ran = try pipeline.command(words + ["--workspace", "bank"])
            #expect(ran.status == 0, "\(ran.errors)")
            try expect(["prod": 6], ["production": 6])
            #expect(try pipeline.command(["replay", "list"]).output.contains("bank"))
            let both = try pipeline.command(words + ["--workspace", "bank", "--source", "log"])
            #expect(both.status == 0 && both.errors.contains("still has all events"), "\(both.errors)")
            try expect(["prod": 6], ["production": 6])
            let odd = try start(pipeline, ["workspace": ""])
            #expect(odd.status == 422 && error(odd).contains("workspace is not"), "\(odd.text)")
            try pipeline.stopAll()
        }

        @Test("Dead letters are listed by page and filter, and shown whole", .timeLimit(.minutes(2)))
        func showsDeadLetters() throws {
            let pipeline = try Pipeline("dead-letters-http")
            try pipeline.start(.up)
            try pipeline.fileDeadLetters(7)
            func get(_ query: String) throws -> JSONValue {
                let response = try ask(pipeline.apiPort, "GET", "/v1/dead-letters\(query)")
                guard response.status == 200 else { throw ChildError("\(query): \(response.status) \(response.text)") }
                return try JSONValue.parse(response.body)
            }
            let all = try #require(try get("")["data"]?.array)
            #expect(all.allSatisfy { $0["code"]?.string == "time_out_of_range" && $0["redriven"]?.isNull == true })
            // The command says the same.
            let told = try pipeline.command(["dead-letters", "list", "--json"])
            #expect(try JSONValue.parse(told.output).array == all)
            var paged: [JSONValue] = []
            var cursor: String?
            repeat {
                let page = try get("?limit=3" + (cursor.map { "&cursor=\($0)" } ?? ""))
                paged += try #require(page["data"]?.array)
                cursor = page["next_cursor"]?.string
                try #require(paged.count <= 7)
            } while cursor != nil
            #expect(paged == all)
            let id = try #require(all[2]["id"]?.string)
            let place = id.split(separator: "/").dropLast().joined(separator: "/")
            #expect(try get("?code=undecodable")["data"]?.array == [])
            #expect(try get("?source=\(percentEncoded(id))")["data"]?.array == [all[2]])
            #expect(try get("?source=\(percentEncoded(place))")["data"]?.array?.isEmpty == false)
            #expect(try get("?to=2026-01-01T00:00:00Z")["data"]?.array == [])
            for path in ["/\(percentEncoded(id))", "/\(id)"] {
                let shown = try get(path)
                #expect(shown["id"]?.string == id && shown["value_hex"]?.string?.isEmpty == false)
                #expect(shown["key_hex"]?.string?.utf8.count == 32)
            }
            for query in ["?code=none", "?source=a/b", "?cursor=x", "?limit=0", "?colour=red"] {
                #expect(try ask(pipeline.apiPort, "GET", "/v1/dead-letters\(query)").status == 422, "\(query)")
            }
            #expect(try ask(pipeline.apiPort, "GET", "/v1/dead-letters/nowhere").status == 404)
            #expect(try ask(pipeline.apiPort, "GET", "/v1/dead-letters/a%2F0%2F1").status == 404)
            try pipeline.stopAll()
        }

        @Test("Dead letters are sent again and given up over HTTP, as by the commands", .timeLimit(.minutes(2)))
        func changesDeadLetters() throws {
            let pipeline = try Pipeline("dead-letters-change")
            try pipeline.start(.up)
            try pipeline.fileDeadLetters(5)
            func letters(_ query: String = "") throws -> [JSONValue] {
                let response = try ask(pipeline.apiPort, "GET", "/v1/dead-letters\(query)")
                return try #require(try JSONValue.parse(response.body)["data"]?.array)
            }
            func bytes(_ id: String) throws -> [String?] {
                let shown = try JSONValue.parse(
                    ask(pipeline.apiPort, "GET", "/v1/dead-letters/\(percentEncoded(id))").body)
                return [shown["key_hex"]?.string, shown["value_hex"]?.string]
            }
            func change(_ action: String, _ body: JSONValue) throws -> JSONValue {
                let answered = try post(pipeline, "/v1/dead-letters/\(action)", body)
                #expect(answered.status == 200, "\(answered.text)")
                return try JSONValue.parse(answered.body)
            }
            let first = try #require(try letters().last?["id"]?.string)

            // Sent as it came: it fails again for the same reason, at its new place.
            let sent = try change("redrive", ["id": .string(first)])
            #expect(sent == ["redriven": 1, "ids": [.string(first)], "more": false])
            try waitUntil("it is a dead letter again", seconds: 30) { try letters().count == 6 }
            let again = try #require(try letters().first?["id"]?.string)
            #expect(again != first)
            #expect(try bytes(again) == bytes(first) && bytes(first)[1]?.isEmpty == false)
            #expect(try letters().first { $0["id"]?.string == first }?["redriven"]?.string != nil)
            #expect(try change("redrive", ["id": .string(first)])["redriven"]?.integer == 0)

            // Given up: the newest two, then the rest; what was sent again stays as it is.
            let some = try change("discard", ["code": "time_out_of_range", "limit": 2])
            #expect(some["discarded"]?.integer == 2 && some["more"]?.boolean == true)
            #expect(some["ids"]?.array?.last?.string == again)
            let rest = try change("discard", ["all": true])
            #expect(rest["discarded"]?.integer == 3 && rest["more"]?.boolean == false)
            #expect(try letters().count { $0["discarded"]?.string != nil } == 5)
            #expect(try change("redrive", ["all": true])["redriven"]?.integer == 0)
            let place = again.split(separator: "/").first.map(String.init) ?? ""
            #expect(try change("redrive", ["source": .string(place), "again": true])["redriven"]?.integer == 6)
            try waitUntil("they are dead letters again", seconds: 30) { try letters().count == 12 }

            for (body, part) in [
                ([:], "Nothing chooses"), (["id": "a/0/1", "code": "undecodable"], "id chooses one"),
                (["id": "a/0"], "id is not"), (["code": "none"], "undecodable, unknown_kind"),
                (["source": "a/b", "limit": 0, "x": 1], "source is not topic"), (["again": 1], "again is not"),
            ] as [(JSONValue, String)] {
                let refused = try post(pipeline, "/v1/dead-letters/redrive", body)
                #expect(refused.status == 422 && error(refused).contains(part), "\(refused.text)")
            }
            #expect(try post(pipeline, "/v1/dead-letters/discard", ["all": true, "again": true]).status == 422)
            #expect(try post(pipeline, "/v1/dead-letters/redrive", ["id": "a/0/1"]).status == 404)
            let foreign = [("content-type", "application/json"), ("origin", "http://elsewhere.example")]
            for action in ["redrive", "discard"] {
                let refused = try post(pipeline, "/v1/dead-letters/\(action)", ["all": true], headers: foreign)
                #expect(refused.status == 403)
                #expect(try ask(pipeline.apiPort, "GET", "/v1/dead-letters/\(action)").status == 405)
            }
            try pipeline.expectReconciled()
            let lines = pipeline.errors(of: .up).split(separator: "\n").compactMap { try? JSONValue.parse(String($0)) }
            let audit = lines.filter { $0["code"]?.string == "api_audit" }
            #expect(audit.first?["action"]?.string == "dead_letters_redrive")
            #expect(audit.first?["detail"]?.string == "\(first): 1 redriven")
            #expect(audit.contains { $0["detail"]?.string == "code time_out_of_range: 2 discarded" })
            #expect(audit.contains { $0["detail"]?.string == "foreign_origin" && $0["status"]?.integer == 403 })
            try pipeline.stopAll()
        }

        @Test(
            "With Kafka the API sends to the topic; with the broker away, or no journal here, it says so",
            .timeLimit(.minutes(3)))
        func redrivesToKafka() throws {
            let brokers = try WorkDirectory("kafka")
            let kafka = try KafkaCluster(in: brokers.path)
            let pipeline = try Pipeline("dead-letters-kafka", log: kafka.log)
            for role in [Pipeline.Role.consumer, .api] { try pipeline.start(role) }
            try pipeline.fileDeadLetters(3)
            let sent = try post(pipeline, "/v1/dead-letters/redrive", ["all": true])
            let answer = try JSONValue.parse(sent.body)
            #expect(sent.status == 200 && answer["redriven"]?.integer == 3, "\(sent.text)")
            func letters() throws -> [JSONValue] {
                try JSONValue.parse(ask(pipeline.apiPort, "GET", "/v1/dead-letters").body)["data"]?.array ?? []
            }
            try waitUntil("they are dead letters again", seconds: 30) { try letters().count == 6 }
            #expect(try letters().count { $0["redriven"]?.string != nil } == 3)

            try kafka.crash()
            let away = try post(pipeline, "/v1/dead-letters/redrive", ["all": true])
            #expect(away.status == 503 && error(away).contains("log_unavailable"), "\(away.text)")
            #expect(error(away).contains("copies of one id count once"))
            #expect(try letters().count { $0["redriven"]?.string != nil } == 3)
            #expect(try post(pipeline, "/v1/dead-letters/discard", ["all": true]).status == 200)
            try pipeline.stop(.api)
            // An API whose configuration names a journal that is on another machine.
            let elsewhereDirectory = "\(pipeline.work.path)/elsewhere"
            try pipeline.start(.api, ["--log.kind", "journal", "--journal.directory", elsewhereDirectory])
            let elsewhere = try post(pipeline, "/v1/dead-letters/redrive", ["all": true, "again": true])
            #expect(elsewhere.status == 503, "\(elsewhere.text)")
            #expect(error(elsewhere).contains("millrace dead-letters redrive"), "\(elsewhere.text)")
            #expect(try run(["ls", pipeline.work.path], directory: "/").output.contains("elsewhere") == false)
            try pipeline.stopAll()
        }
    }
}
