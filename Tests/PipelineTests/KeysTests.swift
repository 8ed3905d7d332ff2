// `auth.mode: keys`: who has no key leaves no trace, and who has one sees its own workspace alone.

import Glibc
import JSONText
import Simulation
import Testing

extension PipelineTests {
    @Suite(.serialized) struct KeysTests {
        private struct MadeKey {
            var id: String
            var text: String
        }

        private func millrace(_ pipeline: Pipeline, _ words: [String]) throws -> String {
            let result = try run(
                [Place.binary] + words + ["--config", "\(pipeline.work.path)/millrace.yaml"],
                directory: pipeline.work.path)
            guard result.status == 0 else { throw ChildError("\(words) ended with \(result.status): \(result.errors)") }
            return result.output
        }

        private func make(_ pipeline: Pipeline, _ workspace: String, _ scopes: String) throws -> MadeKey {
            let answer = try JSONValue.parse(
                try millrace(pipeline, ["keys", "create", "--workspace", workspace, "--scopes", scopes, "--json"]))
            #expect(answer["workspace"]?.string == workspace)
            #expect(answer["scopes"]?.array?.compactMap(\.string).joined(separator: ",") == scopes)
            return MadeKey(
                id: try #require(answer["id"]?.string), text: try #require(answer["key"]?.string))
        }

        private func send(_ pipeline: Pipeline, _ key: String?) throws -> Int {
            var headers: [(name: String, value: String)] = [
                ("x-portkey-mode", "proxy openai"), ("x-portkey-meta", #"{"foo":"abc"}"#),
                ("content-type", "application/json"),
            ]
            if let key { headers.append(("x-portkey-api-key", key)) }
            return try ask(
                pipeline.proxyPort, "POST", "/v1/proxy/chat/completions", headers: headers, body: chatBody()
            ).status
        }

        private func get(_ pipeline: Pipeline, _ path: String, _ key: String?) throws -> LoopbackResponse {
            try ask(
                pipeline.apiPort, "GET", path, headers: key.map { [("authorization", "Bearer \($0)")] } ?? [])
        }

        private func requests(_ pipeline: Pipeline, _ key: String) throws -> Int64 {
            let answer = try get(
                pipeline, "/v1/query?measures=requests&granularity=total&from=2020-01-01T00:00:00Z", key)
            guard answer.status == 200 else { throw ChildError("\(answer.status): \(answer.text)") }
            return try #require(try JSONValue.parse(answer.body)["totals"]?["requests"]?.integer)
        }

        @Test("Keys let in whom they name, and show each workspace itself alone", .timeLimit(.minutes(3)))
        func keepsWorkspacesApart() throws {
            let pipeline = try Pipeline("keys", auth: "keys")
            try pipeline.start(.up)
            #expect(try send(pipeline, nil) == 401)
            let one = try make(pipeline, "one", "ingest")
            let oneAsks = try make(pipeline, "one", "query")
            let two = try make(pipeline, "two", "ingest,query")
            try waitUntil("the new key is known", seconds: 10) { try send(pipeline, one.text) == 200 }
            var sent: Int64 = 1
            for _ in 0..<4 {
                #expect(try send(pipeline, one.text) == 200)
                sent += 1
            }
            try waitUntil("the other new key is known", seconds: 10) { try send(pipeline, two.text) == 200 }
            #expect(try send(pipeline, "mr_guess") == 401)
            #expect(try send(pipeline, oneAsks.text) == 403)
            try waitUntil("all events are there", seconds: 30) { try requests(pipeline, oneAsks.text) >= sent }
            #expect(try requests(pipeline, oneAsks.text) == sent)
            try waitUntil("the other's event is there", seconds: 30) { try requests(pipeline, two.text) >= 1 }
            #expect(try requests(pipeline, two.text) == 1)

            let listed = try get(pipeline, "/v1/events", oneAsks.text)
            let events = try #require(try JSONValue.parse(listed.body)["data"]?.array)
            #expect(events.count == Int(sent))
            let byKey = try get(
                pipeline, "/v1/query?measures=requests&group_by=api_key&from=2020-01-01T00:00:00Z", oneAsks.text)
            let groups = try #require(try JSONValue.parse(byKey.body)["data"]?.array)
            #expect(groups.map { $0["group"]?["api_key"]?.string } == [one.id])
            let id = try #require(events.first?["id"]?.string)
            #expect(try get(pipeline, "/v1/events/\(id)", oneAsks.text).status == 200)
            // Another's event is not there, by its id neither.
            #expect(try get(pipeline, "/v1/events/\(id)", two.text).status == 404)
            let others = try get(pipeline, "/v1/events", two.text)
            #expect(try JSONValue.parse(others.body)["data"]?.array?.count == 1)
            let values = try get(pipeline, "/v1/metadata/keys/foo/values", two.text)
            #expect(try JSONValue.parse(values.body)["data"]?.array?.first?["requests"]?.integer == 1)

            for path in ["/v1/query?measures=requests", "/v1/events", "/v1/events/\(id)", "/v1/metadata/keys"] {
                #expect(try get(pipeline, path, nil).status == 401, "\(path)")
                #expect(try get(pipeline, path, "mr_guess").status == 401, "\(path)")
                #expect(try get(pipeline, path, one.text).status == 403, "\(path)")
            }
            #expect(
                try ask(pipeline.apiPort, "GET", "/v1/events", headers: [("x-portkey-api-key", two.text)]).status == 200
            )

            _ = try millrace(pipeline, ["keys", "revoke", one.id])
            try waitUntil("the revoked key is refused", seconds: 10) { try send(pipeline, one.text) == 401 }
            _ = try millrace(pipeline, ["keys", "revoke", oneAsks.id])
            try waitUntil("the revoked key asks no more", seconds: 10) {
                try get(pipeline, "/v1/events", oneAsks.text).status == 401
            }
            try pipeline.stopAll()
            for key in [one, oneAsks, two] { #expect(try pipeline.work.files(containing: key.text).isEmpty) }
        }

        @Test(
            "Nothing of a workspace is told to another's key, and each key's answers are documented ones",
            .timeLimit(.minutes(5)))
        func tellsOthersNothing() throws {
            let pipeline = try Pipeline("keys-foreign", auth: "keys")
            let secret = "hidden-\(UInt64.random(in: .min ... .max))"
            let lines = (0..<40).map { number in
                #"{"workspace":"one","status":\#(number % 4 == 0 ? 500 : 200),"request_model":"m-\#(secret)","#
                    + #""metadata":{"secret":"\#(secret)","_user":"\#(secret)-\#(number)"}}"# + "\n"
            }
            let others = #"{"workspace":"two","metadata":{"secret":"another"}}"# + "\n"
            try writeText("\(pipeline.work.path)/events.jsonl", lines.joined() + others)
            try pipeline.start(.up)
            let one = try make(pipeline, "one", "query")
            let two = try make(pipeline, "two", "query")
            _ = try millrace(pipeline, ["loadgen", "--from-file", "events.jsonl"])
            try waitUntil("all events are there", seconds: 30) {
                ((try? requests(pipeline, one.text)) ?? 0) == 40 && ((try? requests(pipeline, two.text)) ?? 0) == 1
            }
            let seed = UInt64.random(in: 0..<1_000_000)
            print("schemathesis: seed \(seed)")
            let result = try run(
                [
                    Place.python("schemathesis"), "\(Place.repository)/Tests/Support/foreign_keys.py",
                    "http://127.0.0.1:\(pipeline.apiPort)", one.text, two.text, secret, "\(seed)",
                ], directory: pipeline.work.path, seconds: 240)
            print(result.output.suffix(1_000))
            #expect(result.status == 0, "\(result.output)\(result.errors)")
            try pipeline.stopAll()
        }

        @Test("A key is rotated with no request refused: create, switch, revoke", .timeLimit(.minutes(3)))
        func rotates() throws {
            let pipeline = try Pipeline("keys-rotation", auth: "keys")
            try pipeline.start(.up)
            let asks = try make(pipeline, "one", "query")
            let old = try make(pipeline, "one", "ingest")
            try waitUntil("the old key is known", seconds: 10) { try send(pipeline, old.text) == 200 }
            var sent: [String: Int64] = [old.id: 1]
            func pass(_ key: MadeKey) throws {
                #expect(try send(pipeline, key.text) == 200)
                sent[key.id, default: 0] += 1
            }
            // Create: it works before anybody is asked to use it.
            let new = try make(pipeline, "one", "ingest")
            try waitUntil("the new key is known", seconds: 10) {
                try pass(old)
                return try send(pipeline, new.text) == 200
            }
            sent[new.id, default: 0] += 1
            // Switch: clients go over one after the other, and both are let in meanwhile.
            for _ in 0..<10 {
                try pass(old)
                try pass(new)
            }
            // Revoke: within ten seconds nobody is let in by the old one, and the new one has no gap.
            _ = try millrace(pipeline, ["keys", "revoke", old.id])
            try waitUntil("the old key is refused", seconds: 10) {
                try pass(new)
                guard try send(pipeline, old.text) == 200 else { return true }
                sent[old.id, default: 0] += 1
                return false
            }
            #expect(try send(pipeline, old.text) == 401)
            try pass(new)
            // Under both keys the events are of their workspace, each under its key's id.
            let all = sent.values.reduce(0, +)
            try waitUntil("all events are there", seconds: 30) { try requests(pipeline, asks.text) >= all }
            let byKey = try get(
                pipeline, "/v1/query?measures=requests&group_by=api_key&from=2020-01-01T00:00:00Z", asks.text)
            let groups = try #require(try JSONValue.parse(byKey.body)["data"]?.array)
            var counted: [String: Int64] = [:]
            for group in groups {
                counted[try #require(group["group"]?["api_key"]?.string)] = group["measures"]?["requests"]?.integer
            }
            #expect(counted == sent)
            try pipeline.stopAll()
        }

        @Test("A proxy goes on, and starts, by its snapshot while the store is away", .timeLimit(.minutes(3)))
        func livesWithoutTheStore() throws {
            let pipeline = try Pipeline("keys-away", auth: "keys")
            let store = "\(pipeline.work.path)/millrace.db"
            try pipeline.start(.proxy, waits: false)
            func readiness() throws -> (status: Int, text: String) {
                let answer = try ask(pipeline.proxyOpsPort, "GET", "/readyz")
                return (answer.status, answer.text)
            }
            try waitUntil("the proxy says that it knows no key", seconds: 20) {
                guard let (status, text) = try? readiness() else { return false }
                return status == 503 && text.contains("no API key is known yet")
            }
            #expect(try send(pipeline, "mr_guess") == 503)
            let key = try make(pipeline, "one", "ingest")
            try waitUntil("the proxy is ready", seconds: 20) { try readiness().status == 200 }
            #expect(try send(pipeline, key.text) == 200)
            for name in ["", "-wal", "-shm"] where access(store + name, F_OK) == 0 {
                #expect(rename(store + name, store + name + ".away") == 0)
            }
            try waitUntil("the proxy says that the store is away", seconds: 20) {
                let (status, text) = try readiness()
                return status == 200 && text.contains("the store cannot be asked")
            }
            #expect(try send(pipeline, key.text) == 200)
            try pipeline.crash(.proxy)
            try pipeline.start(.proxy)
            #expect(try send(pipeline, key.text) == 200)
            #expect(try send(pipeline, "mr_guess") == 401)
            #expect(access(store, F_OK) != 0)
            for name in ["", "-wal", "-shm"] where access(store + name + ".away", F_OK) == 0 {
                #expect(rename(store + name + ".away", store + name) == 0)
            }
            _ = try millrace(pipeline, ["keys", "revoke", key.id])
            try waitUntil("the revoked key is refused", seconds: 10) { try send(pipeline, key.text) == 401 }
            try pipeline.stopAll()
        }
    }
}
