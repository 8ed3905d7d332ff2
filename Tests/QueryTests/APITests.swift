// The API's answers, without sockets: requests in, responses out, on a store in memory.

import Access
import Events
import HTTPTransport
import JSONText
import Queries
import QueryAPI
import RecordLog
import RollupStore
import Rollups
import Synchronization
import Telemetry
import Testing

/// Five events of one day.
private func sampleEvents() -> [SampleEvent] {
    let rows:
        [(
            time: String, status: UInt16, model: String, cost: Int64?, latency: UInt64, pairs: [String: MetadataValue],
            user: String?
        )] = [
            (
                "2026-11-01T08:00:00Z", 200, "gpt-4o", 1_230_000, 812_400,
                ["env": .text("prod"), "tags": .list(["blue", "red"])], "u1"
            ),
            ("2026-11-01T08:30:00.5Z", 200, "gpt-4o", 2_000_001, 100_000, ["env": .text("prod")], "u1"),
            ("2026-11-01T09:00:00Z", 429, "gpt-4o-mini", nil, 5_000, ["env": .text("dev")], "u2"),
            ("2026-11-01T23:59:59.999999Z", 500, "gpt-4o-mini", 7, 50_000, ["tags": .list(["red"])], nil),
            ("2026-11-02T00:00:00Z", 200, "claude", 3, 9_000, [:], "u3"),
        ]
    return rows.enumerated().map { index, row in
        let time = RFC3339.parse(row.time) ?? EventTime(microseconds: 0)
        var event = RequestEvent(id: EventID(time: time, random: (UInt64(index), UInt64(index))), time: time)
        event.workspace = "default"
        event.provider = "openai"
        event.operation = "chat"
        event.requestModel = row.model
        event.status = row.status
        event.outcome = Outcome(status: row.status)
        event.inputTokens = 100
        event.outputTokens = UInt64(index)
        event.cost = row.cost.map { NanoUSD($0) }
        event.latencyMicroseconds = row.latency
        event.traceID = "trace-\(index)"
        return SampleEvent(event: event, pairs: row.pairs, extra: row.user.map { ["_user": .text($0)] } ?? [:])
    }
}

/// The API over a store, with what its answers are.
private struct API {
    let respond: HTTPResponder

    init(
        _ store: FakeStore = FakeStore(sampleEvents()), cors: Set<String> = [], log: Log = Log(role: "t") { _ in },
        now: Int64 = 1_793_700_000_000_000, timeLimit: Duration = .seconds(30)
    ) {
        respond = QueryService.responder(
            reader: store, authenticate: { _ in .allowed(workspace: "default") }, metrics: APIMetrics(),
            registry: MetricsRegistry(), log: log, readiness: { Readiness(isReady: true) },
            now: { EventTime(microseconds: now) }, corsOrigins: cors, timeLimit: timeLimit)
    }

    func get(
        _ path: String, _ parameters: [(String, String)] = [], headers: [(name: String, value: String)] = [],
        method: String = "GET"
    ) -> HTTPResponse {
        let query = parameters.map { "\($0)=\(Self.escaped($1))" }.joined(separator: "&")
        return respond(HTTPRequest(method: method, path: path, query: query, headers: headers, body: []))
    }

    func json(_ path: String, _ parameters: [(String, String)] = []) throws -> JSONValue {
        try JSONValue.parse(get(path, parameters).body)
    }

    func ask(_ body: String, query: String = "") -> HTTPResponse {
        respond(HTTPRequest(method: "POST", path: "/v1/query", query: query, headers: [], body: Array(body.utf8)))
    }

    private static func escaped(_ text: String) -> String {
        text.utf8.map { byte in
            let digits = String(byte, radix: 16)
            return "%" + (digits.count == 1 ? "0" : "") + digits
        }.joined()
    }
}

extension HTTPResponse {
    fileprivate func header(_ name: String) -> String? { headers.first { $0.name == name }?.value }
    fileprivate var tree: JSONValue { (try? JSONValue.parse(body)) ?? .null }
}

private let day = [("from", "2026-11-01T00:00:00Z"), ("to", "2026-11-02T00:00:00Z")]
private let both = [("from", "2026-11-01T00:00:00Z"), ("to", "2026-11-03T00:00:00Z")]

@Suite struct APITests {
    @Test(
        "A filter that does not parse is answered 400 with the place and what was meant",
        arguments: [
            ("metadata.env == 'x'", 13, "\"=\""), ("provder = 'a'", 0, "\"provider\""),
            ("metadata.env = production", 15, "'production'"), ("outcome = 'succes'", 10, "'success'"),
            ("metadata.env = 'a' adn model = 'b'", 19, "\"and\""), ("latency_ms > '5'", 13, "decimal"),
            ("metadata.env lik 'a%'", 13, "\"like\""), ("(metadata.env = 'a'", 19, ""),
            ("metadata.env > 5", 13, "latency_ms"), ("metadata.ünï = 'a' or x", 22, "metadata.x"),
            ("metadata. = 'a'", 9, "any key"), ("metadata.env = 'a", 15, "twice"), ("model like 'a%b'", 11, "'x%'"),
            ("model like 'a'", 11, "'a%'"), ("model in 'a'", 9, "in ('a', 'b')"), ("model = 5", 8, "'5'"),
            ("not", 3, "metadata.env"), ("", -1, ""), ("status <> 5", 7, "\"!=\""),
        ])
    func refusesFilters(filter: String, position: Int, hint: String) {
        let response = API().get("/v1/query", day + [("where", filter)])
        if position < 0 { return #expect(response.status == 200) }
        let error = response.tree["error"]
        #expect(response.status == 400)
        #expect(error?["code"]?.string == "invalid_filter")
        #expect(error?["position"]?.integer == Int64(position), "\(error?.text ?? "")")
        #expect(hint.isEmpty || error?["hint"]?.string?.contains(hint) == true, "\(error?.text ?? "")")
    }

    @Test(
        "Parts of a question that are wrong are answered 422 and named",
        arguments: [
            (#"{"measures":["latncy_ms.p99"]}"#, "latency_ms.p99"), (#"{"group_by":["metdata.env"]}"#, "metadata"),
            (#"{"granularity":"hours"}"#, "hour"), (#"{"timezone":"Europe/Pariss"}"#, "Europe/Paris"),
            (#"{"order_by":"-costs_usd"}"#, "cost_usd"), (#"{"limit":0}"#, "10000"), (#"{"limit":10001}"#, "10000"),
            (#"{"from":"yesterday"}"#, "RFC 3339"), (#"{"colour":"red"}"#, "colour"), (#"{"limit":"5"}"#, "integer"),
            (#"{"from":"2026-11-02T00:00:00Z","to":"2026-11-01T00:00:00Z"}"#, "before"),
            (#"{"group_by":["model","provider","outcome","api_key","operation"]}"#, "4"),
        ])
    func refusesQuestions(body: String, named: String) {
        let response = API().ask(body)
        #expect(response.status == 422)
        let error = response.tree["error"]
        let said = (error?["message"]?.string ?? "") + (error?["hint"]?.string ?? "")
        #expect(said.contains(named), "\(said)")
    }

    @Test("A body that is no JSON object is 400, one that is too large 413, a wrong method 405, an unknown path 404")
    func refusesRequests() {
        #expect(API().ask("{").status == 400)
        #expect(API().ask("[]").status == 400)
        #expect(API().ask(String(repeating: " ", count: 70_000)).status == 413)
        let response = API().get("/v1/query", method: "DELETE")
        #expect(response.status == 405)
        #expect(response.header("allow") == "GET, POST")
        #expect(API().get("/v1/quary").status == 404)
        #expect(API().get("/v1/events/nobody").status == 404)
        #expect(API().get("/v1/query", [("measure", "requests")]).status == 422)
    }

    @Test("GET and POST ask the same question")
    func asksEitherWay() {
        let given = API().get(
            "/v1/query",
            day + [
                ("where", "metadata.env exists"), ("group_by", "metadata.env,model"),
                ("measures", "requests,cost_usd"), ("order_by", "-requests"), ("limit", "1"),
            ])
        let posted = API().ask(
            #"""
            {"from":"2026-11-01T00:00:00Z","to":"2026-11-02T00:00:00Z","where":"metadata.env exists",
            "group_by":["metadata.env","model"],"measures":["requests","cost_usd"],"order_by":"-requests","limit":1}
            """#)
        #expect(given.status == 200)
        #expect(given.body == posted.body)
        #expect(
            given.tree["data"]?.text
                == #"[{"bucket":null,"group":{"metadata.env":"prod","model":"gpt-4o"},"#
                + #""measures":{"requests":2,"cost_usd":0.003230001}}]"#)
        #expect(
            given.tree["other"]?.text
                == #"[{"bucket":null,"groups":1,"measures":{"requests":1,"cost_usd":0}}]"#)
    }

    @Test("explain shows the tree, who decides each part of it, and every stretch")
    func explains() throws {
        let answer = try API().json(
            "/v1/query", both + [("explain", "true"), ("where", "metadata.env = 'prod' and latency_ms > 200")])
        let explanation = try #require(answer["explain"])
        let parts = try #require(explanation["condition"]?["and"]?.array)
        #expect(parts.map { $0["decided_by"]?.string } == ["series", "events"])
        #expect(explanation["stretches"]?.array?.first?["source"]?.string == "events")
        #expect(answer["totals"]?["requests"]?.integer == 1)
        #expect(try API().json("/v1/query", both)["explain"] == nil)
    }

    @Test("An entity is answered from rollups of its own, exactly")
    func readsClassedKeys() throws {
        let answer = try API().json(
            "/v1/query",
            both + [
                ("where", "metadata._user in ('u1', 'u2')"), ("group_by", "metadata._user"),
                ("order_by", "metadata._user"),
            ])
        let rows = try #require(answer["data"]?.array)
        #expect(rows.map { $0["group"]?["metadata._user"]?.string } == ["u1", "u2"])
        #expect(rows.map { $0["measures"]?["requests"]?.integer } == [2, 1])
        #expect(answer["plan"]?["source"]?.string == "rollups")
        let keys = try #require(try API().json("/v1/metadata/keys", both)["data"]?.array)
        let user = try #require(keys.first { $0["key"]?.string == "_user" })
        #expect(user["class"]?.string == "entity")
        #expect(user["distinct"]?.integer == 3)
        #expect(user["requests"]?.integer == 4)
        // To the minute, though whole days are read.
        let env = try #require(keys.first { $0["key"]?.string == "env" })
        #expect(env["first_seen"]?.string == "2026-11-01T08:00:00.000000Z")
        #expect(env["last_seen"]?.string == "2026-11-01T09:00:00.000000Z")
        let values = try #require(try API().json("/v1/metadata/keys/_user/values", both)["data"]?.array)
        #expect(values.first?.text == #"{"value":"u1","requests":2}"#)
        let tags = try #require(try API().json("/v1/metadata/keys/tags/values", both + [("prefix", "r")])["data"])
        #expect(tags.text == #"[{"value":"red","requests":2}]"#)
    }

    /// k300 is one of the keys that no set of these events names, trace has values under `(other)`.
    @Test(
        "A listing of values says whether more requests may have them",
        arguments: [
            ("k300", "2026-11-03T00:00:00Z", false, []), ("trace", "2026-11-03T00:00:00Z", false, ["(other)", "seen"]),
            ("_user", "2026-11-03T00:00:00Z", true, ["u1"]), ("env", "2026-11-03T00:00:00Z", false, ["prod"]),
            // Before any of them.
            ("env", "2026-11-02T00:00:00Z", true, ["prod"]), ("trace", "2026-11-02T00:00:00Z", true, ["seen"]),
        ])
    func saysWhetherValuesAreExact(_ key: String, _ to: String, _ isExact: Bool, _ values: [String]) throws {
        let samples = (0..<20).map { number -> SampleEvent in
            let time = EventTime(microseconds: 1_793_491_200_000_000 + Int64(number) * 9_000_000_000)
            var event = RequestEvent(id: EventID(time: time, random: (UInt64(number), 0)), time: time)
            event.workspace = "default"
            event.status = 200
            event.outcome = .success
            var sample = SampleEvent(event: event, pairs: ["env": .text("prod"), "trace": .text("seen")])
            sample.extra = ["_user": .text("u1")]
            if number >= 15 {
                sample.pairs = ["env": .text("prod"), "trace": .filed, MetadataValue.filedName: .filed]
                sample.extra.merge(["trace": .text("t\(number)"), "k300": .text("x")]) { $1 }
            }
            return sample
        }
        let answer = try API(FakeStore(samples)).json(
            "/v1/metadata/keys/\(key)/values", [("from", "2026-11-01T00:00:00Z"), ("to", to)])
        #expect(answer["exact"]?.boolean == isExact)
        #expect(answer["data"]?.array?.compactMap { $0["value"]?.string }.sorted() == values)
        #expect(answer["missing"]?.array?.isEmpty == true)
    }

    @Test("An event bears exactly the documented fields, with those of its series")
    func showsEvents() throws {
        let page = try API().json("/v1/events", both + [("limit", "2")])
        let events = try #require(page["data"]?.array)
        #expect(events.count == 2)
        let wanted = [
            "id", "time", "proxy", "workspace", "api_key", "provider", "operation", "request_model", "response_model",
            "status", "outcome", "error_type", "finish_reason", "streamed", "trace_id", "input_tokens",
            "output_tokens", "cached_tokens", "reasoning_tokens", "usage_source", "cost_usd", "latency_ms",
            "first_token_ms", "upstream_ms", "overhead_ms", "request_bytes", "response_bytes", "metadata",
            "metadata_raw", "metadata_status",
        ]
        for event in events { #expect(event.members?.map(\.key) == wanted) }
        #expect(events[1]["outcome"]?.string == "provider_error")
        #expect(events[1]["provider"]?.string == "openai")
        #expect(events[1]["workspace"]?.string == "default")
        #expect(events[0]["metadata"]?.text == #"{"_user":"u3"}"#)
        let id = try #require(events[1]["id"]?.string)
        #expect(try API().json("/v1/events/\(id)") == events[1])
        // The next page, by the cursor and by the last id alike.
        let next = try #require(page["next_cursor"]?.string)
        let byCursor = try API().json("/v1/events", both + [("cursor", next)])
        #expect(try API().json("/v1/events", both + [("cursor", id)]) == byCursor)
        #expect(byCursor["data"]?.array?.count == 3)
        #expect(byCursor["next_cursor"]?.isNull == true)
        #expect(API().get("/v1/events", [("cursor", "x")]).status == 422)
    }

    @Test("What a client has already costs nothing; what has changed bears another tag")
    func tagsAnswers() throws {
        for path in ["/v1/query", "/v1/events", "/v1/metadata/keys", "/v1/metadata/keys/env/values"] {
            let first = API().get(path, day)
            let tag = try #require(first.header("etag"))
            #expect(first.header("cache-control") == "private, no-cache")
            let again = API().get(path, day, headers: [("if-none-match", tag)])
            #expect(again.status == 304)
            #expect(again.body.isEmpty)
            #expect(API().get(path, both, headers: [("if-none-match", tag)]).status == 200)
            var grown = FakeStore(sampleEvents())
            grown.nextOffset = 6
            #expect(API(grown).get(path, day, headers: [("if-none-match", tag)]).status == 200)
        }
    }

    @Test("An end that is always now changes no answer that has all events already; a list of tags is read")
    func tagsOpenEnds() throws {
        let open = [("from", "2026-11-01T00:00:00Z"), ("group_by", "model")]
        let tag = try #require(API().get("/v1/query", open).header("etag"))
        let later = API(now: 1_793_700_000_000_000 + 90_000_000)
        for known in [tag, "\"x\", \(tag)", "W/\(tag)", "*", "\"a\",W/\(tag) , \"b\""] {
            let again = later.get("/v1/query", open, headers: [("if-none-match", known)])
            #expect(again.status == 304, "\(known)")
        }
        #expect(later.get("/v1/query", open, headers: [("if-none-match", "\"x\", y")]).status == 200)
        // Before the newest event the end does matter, and so does what is said of it.
        let early = API(now: 1_793_491_200_000_000 + 3_600_000_000)
        #expect(early.get("/v1/query", open, headers: [("if-none-match", tag)]).status == 200)
        let explained = open + [("explain", "true")]
        let said = try #require(API().get("/v1/query", explained).header("etag"))
        #expect(later.get("/v1/query", explained, headers: [("if-none-match", said)]).status == 200)
        // The last day is another one.
        let sliding = try #require(API().get("/v1/query", []).header("etag"))
        #expect(later.get("/v1/query", [], headers: [("if-none-match", sliding)]).status == 200)
    }

    @Test("Keys and values of an open end are the same ones too, until something comes or other rules hold")
    func tagsOpenListings() throws {
        let begin = 1_793_700_000_000_000 as Int64
        let open = [("from", "2026-11-01T00:00:00Z")]
        for path in ["/v1/metadata/keys", "/v1/metadata/keys/env/values"] {
            let tag = try #require(API(now: begin).get(path, open).header("etag"))
            func status(_ store: FakeStore = FakeStore(sampleEvents()), after seconds: Int64) -> Int {
                API(store, now: begin + seconds * 1_000_000).get(path, open, headers: [("if-none-match", tag)]).status
            }
            #expect(status(after: 90) == 304)
            #expect(status(after: 86_400) == 304)
            var grown = FakeStore(sampleEvents())
            grown.nextOffset = 6
            #expect(status(grown, after: 90) == 200)
            // Before the newest event the end does matter.
            #expect(status(after: -200_000) == 200)
        }
        // Rules that hold from an hour to come on.
        var store = FakeStore(sampleEvents())
        let rules = RulesText(
            fingerprint: String(repeating: "e", count: 64), text: #"{"version":1,"classes":{"env":"entity"}}"#)
        store.timeline.entries.append(.init(from: EventTime(microseconds: begin + 60_000_000), rules: rules))
        func answer(after seconds: Int64, knowing tag: String = "") -> HTTPResponse {
            API(store, now: begin + seconds * 1_000_000).get(
                "/v1/metadata/keys", open, headers: [("if-none-match", tag)])
        }
        let before = answer(after: 0)
        let tag = try #require(before.header("etag"))
        #expect(answer(after: 30, knowing: tag).status == 304)
        let after = answer(after: 90, knowing: tag)
        #expect(after.status == 200)
        #expect(after.body != before.body)
    }

    @Test("A large answer is written while it is sent, and not many at once")
    func streamsLargeAnswers() throws {
        let first = try #require(RFC3339.parse("2026-11-01T00:00:00Z"))
        let store = FakeStore(SampleEvent.row(of: 20_001, from: first, every: 60))
        let api = API(store)
        let question = [("from", "2026-11-01T00:00:00Z"), ("to", "2026-11-20T00:00:00Z"), ("granularity", "minute")]
        var held = [api.get("/v1/query", question), api.get("/v1/query", question)]
        for response in held {
            #expect(response.status == 200)
            #expect(response.stream != nil && response.body.isEmpty)
            #expect(response.header("etag") != nil)
        }
        let third = api.get("/v1/query", question)
        #expect(third.status == 429)
        #expect(third.tree["error"]?["code"]?.string == "too_many_exports")
        // One that is not large needs no place.
        let day = [("from", "2026-11-01T00:00:00Z"), ("to", "2026-11-14T00:00:00Z"), ("granularity", "minute")]
        let whole = api.get("/v1/query", day)
        #expect(whole.stream == nil)
        #expect(whole.tree["data"]?.array?.count == 13 * 1_440)
        held.removeAll()
        #expect(api.get("/v1/query", question).status == 200)
    }

    @Test("What is suggested in place of a question that is too dear is taken, and is not a crumb of it")
    func suggestsWhatIsTaken() throws {
        let from = try #require(RFC3339.parse("2026-11-01T00:00:00Z"))
        // Ten days, an event every two minutes.
        let store = FakeStore(SampleEvent.row(of: 7_200, from: from, every: 120) { $0.latencyMicroseconds = 5 })
        func ask(hours: Int, rows: Int) throws(QueryError) {
            let end = EventTime(microseconds: from.microseconds + Int64(hours) * 3_600_000_000)
            let question = Question(from: from, to: end, condition: try ConditionParser.parse("latency_ms > 0"))
            _ = try QueryEngine().answer(
                question, workspace: "default", snapshot: store, budget: QueryBudget(rows: rows))
        }
        for rows in [400, 1_000, 2_500] {
            let error = #expect(throws: QueryError.self) { try ask(hours: 240, rows: rows) }
            #expect(error?.code == .tooExpensive)
            let words = try #require(error?.hint).split(separator: " ")
            let place = try #require(words.firstIndex { Int($0) != nil })
            let hours = (Int(words[place]) ?? 0) * (words[place + 1] == "days" ? 24 : 1)
            #expect(hours * 30 > rows / 2, "\(error?.hint ?? "")")
            #expect(throws: Never.self) { try ask(hours: hours, rows: rows) }
        }
    }

    @Test("A store that was stopped because the time was over is said to have run out of time, not to be away")
    func namesTimeouts() throws {
        var store = FakeStore(sampleEvents())
        store.scanFailure = RollupStoreError(code: .unavailable, tried: "read", reason: "not wanted", next: "Wait.")
        for path in ["/v1/query", "/v1/events", "/v1/metadata/keys/_user/values"] {
            let spent = API(store, timeLimit: .zero).get(path, both)
            #expect(spent.status == 503)
            #expect(spent.tree["error"]?["code"]?.string == "timed_out", "\(path): \(spent.tree.text)")
            let away = API(store).get(path, both)
            #expect(away.tree["error"]?["code"]?.string == "store_unavailable", "\(path): \(away.tree.text)")
        }
        // What asking again does not mend is said whatever the time.
        store.scanFailure = RollupStoreError(
            code: .configuration, tried: "read", reason: "damaged", next: "Restore it.")
        let damaged = API(store, timeLimit: .zero).get("/v1/query", both)
        #expect(damaged.tree["error"]?["code"]?.string == "store_unavailable")
    }

    @Test("Pages of other origins read answers only where the configuration says so")
    func honoursOrigins() {
        let ask = [(name: "origin", value: "https://a.example")]
        #expect(API().get("/v1/query", day, headers: ask).header("access-control-allow-origin") == nil)
        #expect(API().get("/v1/query", headers: ask, method: "OPTIONS").status == 405)
        let open = API(cors: ["https://a.example"])
        #expect(open.get("/v1/query", day, headers: ask).header("access-control-allow-origin") == "https://a.example")
        let other = [(name: "origin", value: "https://b.example")]
        #expect(open.get("/v1/query", day, headers: other).header("access-control-allow-origin") == nil)
        let preflight = open.get(
            "/v1/query", headers: ask + [("access-control-request-method", "POST")], method: "OPTIONS")
        #expect(preflight.status == 204)
        #expect(preflight.header("access-control-allow-methods")?.contains("POST") == true)
    }

    @Test("Each answer has a request id, and a line in the access log that names it")
    func logsAccess() {
        let lines = Lines()
        let api = API(log: Log(role: "t", descriptor: -1) { lines.append($0) })
        let response = api.get("/v1/query", day, headers: [("x-request-id", "abc-1")])
        #expect(response.header("x-request-id") == "abc-1")
        #expect(api.get("/livez").header("x-request-id")?.count == 16)
        #expect(lines.all.map(\.code) == ["api_request"])
        let text = lines.all.first.map { "\($0.fields)" } ?? ""
        #expect(text.contains("abc-1") && text.contains("/v1/query") && !text.contains("2026"))
    }

    @Test("A store that cannot be read is 503; a range past what is kept is 422 and names the boundary")
    func saysWhatIsMissing() throws {
        var store = FakeStore(sampleEvents())
        store.failure = RollupStoreError(code: .unavailable, tried: "read", reason: "no", next: "Wait.")
        #expect(API(store).get("/v1/query", day).status == 503)
        let boundary = try #require(RFC3339.parse("2026-11-01T12:00:00Z"))
        let kept = FakeStore.Retention(
            events: boundary, grains: [.minute: boundary, .hour: boundary, .day: boundary])
        let response = API(FakeStore(sampleEvents(), retention: kept)).get("/v1/query", day)
        #expect(response.status == 422)
        #expect(response.tree["error"]?["code"]?.string == "past_retention")
        #expect(response.tree["error"]?["message"]?.string?.contains("2026-11-01T12:00:00.000000Z") == true)
    }

    @Test(
        "A question is refused before it reads more than it may, with a cheaper one; and stopped when its time is over")
    func boundsCost() throws {
        let store = FakeStore(sampleEvents())
        let from = try #require(RFC3339.parse("2026-11-01T00:00:00Z"))
        let to = try #require(RFC3339.parse("2026-11-03T00:00:00Z"))
        let question = Question(from: from, to: to)
        let engine = QueryEngine()
        let dear = Question(from: from, to: to, condition: try ConditionParser.parse("latency_ms > 0"))
        #expect(throws: Never.self) {
            try engine.answer(question, workspace: "default", snapshot: store, budget: QueryBudget(rows: 5))
        }
        do {
            _ = try engine.answer(dear, workspace: "default", snapshot: store, budget: QueryBudget(rows: 2))
            Issue.record("It was answered.")
        } catch {
            #expect(error.code == .tooExpensive)
            #expect(error.hint?.contains("latency_ms") == true, "\(error)")
        }
        let events = (0..<5_000).map { index in
            let time = EventTime(microseconds: from.microseconds + Int64(index))
            return SampleEvent(
                event: {
                    var event = RequestEvent(id: EventID(time: time, random: (UInt64(index), 1)), time: time)
                    event.workspace = "default"
                    event.latencyMicroseconds = 5
                    return event
                }())
        }
        do {
            _ = try engine.answer(
                dear, workspace: "default", snapshot: FakeStore(events), budget: QueryBudget { true })
            Issue.record("It was answered.")
        } catch {
            #expect(error.code == .timedOut)
            #expect(error.status == 503)
        }
    }
}

/// Portkey's analytics routes.
@Suite struct PortkeyAnalyticsTests {
    private static let range = [
        ("time_of_generation_min", "2026-11-01T00:00:00Z"), ("time_of_generation_max", "2026-11-03T00:00:00+00:00"),
        ("workspace_slug", "w"),
    ]

    private func read(_ name: String, _ more: [(String, String)] = []) throws -> JSONValue {
        let response = API().get("/v1/analytics/\(name)", Self.range + more)
        #expect(response.status == 200, "\(name): \(response.tree.text)")
        return response.tree
    }

    @Test(
        "Points add up to the summary",
        arguments: [("requests", "5"), ("cost", "0.3230011"), ("tokens", "510"), ("errors", "2"), ("feedbacks", "0")])
    func pointsAddUp(name: String, total: String) throws {
        let graph = try read("graphs/\(name)")
        #expect(graph["object"]?.string == "analytics-graph")
        #expect(graph["summary"]?["total"]?.text == total)
        let points = try #require(graph["data_points"]?.array)
        #expect(points.count == 48)
        let sum = points.reduce(0.0) { $0 + (Double($1["total"]?.text ?? "") ?? .nan) }
        #expect(abs(sum - (Double(total) ?? .nan)) < 1e-9)
        #expect(points.allSatisfy { $0["timestamp"]?.string.flatMap { RFC3339.parse($0) } != nil })
    }

    @Test("Shapes are theirs, also where nothing is recorded")
    func hasTheirShapes() throws {
        let users = try read("graphs/users/requests")
        #expect(users["summary"]?.text == #"{"total":4,"unique":3,"avg":1.3333333333333333}"#)
        #expect(try read("graphs/users")["summary"]?["total"]?.integer == 3)
        #expect(try read("graphs/errors/rate")["summary"]?["rate"]?.integer == 40)
        let codes = try read("graphs/errors/status-codes")
        #expect(codes["summary"]?.text == #"{"total_errors":2,"unique_error_codes":2}"#)
        #expect(codes["data_points"]?.text == #"[{"status_code":429,"count":1},{"status_code":500,"count":1}]"#)
        let stacks = try #require(try read("graphs/errors/stacks")["data_points"]?.array)
        #expect(stacks[9]["stats"]?.text == #"[{"response_status_code":429,"count":1}]"#)
        #expect(try read("graphs/requests/rescued")["summary"]?.text == #"{"retry":0,"fallback":0}"#)
        #expect(try read("summary/cache")["summary"]?["total_requests"]?.integer == 5)
        #expect(try read("graphs/feedbacks/scores")["data_points"]?.array?.isEmpty == true)
        for name in ["graphs/cache/latency", "graphs/cache/hit-rate", "graphs/feedbacks/weighted"] {
            #expect(try read(name)["data_points"]?.array?.count == 48)
        }
        #expect(try read("graphs/latency")["summary"]?.members?.map(\.key) == ["avg", "p50", "p90", "p99"])
    }

    @Test("Groups have rows of the right names, and pages from 0")
    func pagesGroups() throws {
        let users = try read("groups/users", [("page_size", "2")])
        #expect(users["total"]?.integer == 3)
        #expect(users["data"]?.array?.map { $0["user"]?.string } == ["u1", "u2"])
        #expect(
            users["data"]?.array?.first?.text
                == #"{"user":"u1","requests":"2","cost":"0.3230001","object":"analytics-group"}"#)
        let next = try read("groups/users", [("page_size", "2"), ("current_page", "1")])
        #expect(next["data"]?.array?.map { $0["user"]?.string } == ["u3"])
        #expect(try read("groups/users", [("current_page", "9")])["data"]?.array?.isEmpty == true)
        #expect(try read("groups/ai-models")["data"]?.array?.first?["ai_model"]?.string == "gpt-4o")
        #expect(try read("groups/provider")["data"]?.array?.first?["provider"]?.string == "openai")
        let rows = try #require(try read("groups/metadata/env")["data"]?.array)
        #expect(rows.map { $0["metadata_value"]?.string } == ["prod", "dev"])
        #expect(rows[0]["last_seen"]?.string == "2026-11-01T08:30:00.500000Z")
        let tags = try #require(try read("groups/metadata/tags")["data"]?.array)
        #expect(tags.map { $0["metadata_value"]?.string } == ["red", "blue"])
    }

    @Test(
        "Each parameter narrows",
        arguments: [
            ("metadata", #"{"env":"prod"}"#, 2), ("metadata", #"{"env":"prod","_user":"u1"}"#, 2),
            ("metadata", #"{"env":"prod","_user":"u2"}"#, 0), ("ai_org_model", "openai__gpt-4o,openai__claude", 3),
            ("ai_org_model", "anthropic__gpt-4o", 0), ("status_code", "429,500", 2), ("cost_min", "0.2", 1),
            ("cost_max", "0.2", 3), ("cost_min", "0.123", 2), ("total_units_min", "103", 2),
            ("completion_token_max", "1", 2), ("prompt_token_max", "99", 0), ("trace_id", "trace-0,trace-4", 2),
            ("span_id", "s", 0), ("virtual_keys", "v", 0), ("weighted_feedback_min", "1", 0), ("api_key_ids", "k", 0),
            ("something_new", "x", 5),
        ])
    func narrows(name: String, value: String, count: Int64) throws {
        #expect(try read("graphs/requests", [(name, value)])["summary"]?["total"]?.integer == count)
    }

    @Test("What is missing or wrong is 422 and named; other names are 404")
    func refuses() {
        #expect(API().get("/v1/analytics/graphs/requests").status == 422)
        for (name, value) in [
            ("cost_min", "cheap"), ("metadata", "env"), ("metadata", #"{"a":[1]}"#), ("ai_org_model", "gpt-4o"),
            ("status_code", "4xx"), ("current_page", "-1"), ("page_size", "0"),
        ] {
            let response = API().get("/v1/analytics/groups/users", Self.range + [(name, value)])
            #expect(response.status == 422, "\(name)=\(value)")
            #expect(response.tree["error"]?["message"]?.string?.contains(name) == true)
        }
        // A point for every day of ten thousand years.
        let ages = [
            ("time_of_generation_min", "0001-01-01T00:00:00Z"), ("time_of_generation_max", "9999-01-01T00:00:00Z"),
        ]
        for name in ["requests", "errors/stacks", "cache/hit-rate"] {
            let response = API().get("/v1/analytics/graphs/\(name)", ages)
            #expect(response.status == 422)
            #expect(response.tree["error"]?["code"]?.string == "too_large", "\(name)")
        }
        #expect(API().get("/v1/analytics/groups/users", ages).status == 200)
        #expect(API().get("/v1/analytics/graphs/nothing", Self.range).status == 404)
        #expect(API().get("/v1/analytics/groups/metadata/", Self.range).status == 404)
    }
}

private final class Lines: @unchecked Sendable {
    // Tests call the responder from one thread.
    private(set) var all: [LogLine] = []
    func append(_ line: LogLine) { all.append(line) }
}

/// Dead letters in memory, oldest first.
private final class FakeArchive: DeadLetterArchive {
    let letters: Mutex<[FiledDeadLetter]>

    init(_ count: Int) {
        letters = Mutex(
            (0..<count).map { index in
                FiledDeadLetter(
                    source: RecordSource(
                        partition: TopicPartition(topic: "t", partition: 0), offset: Offset(Int64(index))),
                    time: EventTime(microseconds: Int64(index)), code: "undecodable", reason: "cut", keySize: 16,
                    valueSize: 1, mark: nil)
            })
    }

    func list(_ filter: DeadLetterFilter) -> [FiledDeadLetter] {
        let chosen = letters.withLock { $0 }.reversed().filter { letter in
            (filter.offset.map { letter.source.offset == $0 } ?? true)
                && (filter.isMarked.map { (letter.mark != nil) == $0 } ?? true)
        }
        return Array(chosen.prefix(filter.limit))
    }

    func find(_ source: RecordSource) -> (letter: FiledDeadLetter, key: [UInt8], value: [UInt8])? {
        letters.withLock { $0.first { $0.source == source } }.map { ($0, [], []) }
    }

    func markRedriven(_ sources: [RecordSource], at time: EventTime) { mark(sources, .redriven(time)) }

    func markDiscarded(_ sources: [RecordSource], at time: EventTime) { mark(sources, .discarded(time)) }

    private func mark(_ sources: [RecordSource], _ mark: DeadLetterMark) {
        letters.withLock { letters in
            for index in letters.indices where sources.contains(letters[index].source) { letters[index].mark = mark }
        }
    }
}

@Suite struct DeadLetterRouteTests {
    private let archive = FakeArchive(5)

    private func post(
        _ action: String, _ body: String, scopes: AccessScopes = [.admin], redrive: Redrive? = { $0.count },
        headers: [(name: String, value: String)] = [("content-type", "application/json")]
    ) -> HTTPResponse {
        let respond = QueryService.responder(
            reader: FakeStore([]), authenticate: { _ in .allowed(workspace: "w", scopes: scopes, key: "k") },
            metrics: APIMetrics(), registry: MetricsRegistry(), log: Log(role: "t") { _ in },
            readiness: { Readiness(isReady: true) }, now: { EventTime(microseconds: 77) }, deadLetters: archive,
            redrive: redrive)
        return respond(
            HTTPRequest(
                method: "POST", path: "/v1/dead-letters/\(action)", query: "", headers: headers,
                body: Array(body.utf8)))
    }

    @Test("The newest come first into a request, and are sent oldest first; more says that there are others")
    func sendsInOrder() {
        let order = Mutex<[Int64]>([])
        let answer = post(
            "redrive", #"{"all": true, "limit": 3}"#,
            redrive: { sources in
                order.withLock { $0 = sources.map(\.offset.value) }
                return sources.count
            }
        ).tree
        #expect(order.withLock { $0 } == [2, 3, 4])
        #expect(answer == ["redriven": 3, "ids": ["t/0/2", "t/0/3", "t/0/4"], "more": true])
    }

    @Test("What the log did not take, and who may not, is said")
    func refuses() {
        let cut = post("redrive", #"{"all": true}"#, redrive: { $0.count - 2 })
        #expect(cut.status == 503)
        #expect(cut.tree["error"]?["message"]?.string == "The log took 3 of 5 records; they are marked.")
        let isBusy: Redrive = { _ in throw ChangeRefusal(.conflict, "Busy.", hint: "Wait.") }
        let busy = post("redrive", #"{"all": true}"#, redrive: isBusy)
        #expect(busy.status == 409)
        #expect(post("redrive", #"{"all": true}"#, redrive: nil).status == 404)
        for action in ["redrive", "discard"] {
            #expect(post(action, #"{"all": true}"#, scopes: [.query]).status == 403)
            #expect(post(action, #"{"all": true}"#, headers: []).status == 415)
            #expect(post(action, "{").status == 400)
            #expect(post(action, #"{"all": false}"#).status == 422)
            #expect(post(action, #"{"id": "t/0/9"}"#).status == 404)
        }
        #expect(archive.list(DeadLetterFilter()).allSatisfy { $0.mark == nil })
    }

    @Test("A discarded one is marked at the API's own time, once")
    func discards() {
        #expect(post("discard", #"{"id": "t/0/1"}"#).tree["ids"]?.array == ["t/0/1"])
        #expect(post("discard", #"{"id": "t/0/1"}"#).tree["discarded"]?.integer == 0)
        #expect(archive.list(DeadLetterFilter()).count { $0.discarded == EventTime(microseconds: 77) } == 1)
    }
}
