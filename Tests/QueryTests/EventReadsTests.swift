// What of a filter lets an index say which events to read, and what of it does not.

import Events
import JSONText
import Queries
import RollupStore
import Rollups
import Testing

@Suite struct EventReadsTests {
    private static let start: Int64 = RFC3339.parse("2026-11-02T00:00:00Z")?.microseconds ?? 0
    private static let end = EventTime(microseconds: start + 86_400_000_000)

    /// A hundred events: an identifier each, one of ten users, some tags, and a dimension; every tenth with a value of
    /// `trace` that a budget has filed under `(other)`, every tenth with one that is in the set.
    private static let store: FakeStore = {
        var store = FakeStore(
            (0..<100).map { number in
                let time = EventTime(microseconds: start + Int64(number) * 600_000_000 + 1)
                var event = RequestEvent(id: EventID(time: time, random: (UInt64(number), 1)), time: time)
                event.workspace = "default"
                event.status = 200
                event.provider = "openai"
                var sample = SampleEvent(event: event, pairs: ["env": .text(number % 2 == 0 ? "prod" : "dev")])
                sample.extra = ["request_id": .text("r\(number)"), "user": .text("u\(number % 10)")]
                sample.extra["tags"] = .list(["t\(number % 4)", "t\(number % 5)"])
                if number % 10 == 3 {
                    sample.pairs["trace"] = .filed
                    sample.extra["trace"] = .text("x\(number)")
                }
                if number % 10 == 4 { sample.pairs["trace"] = .text("seen") }
                return sample
            })
        store.timeline = RulesTimeline(
            entries: [
                RulesTimeline.Entry(
                    from: EventTime(microseconds: 0),
                    rules: RulesText(
                        fingerprint: "0",
                        text: #"{"version":1,"classes":{"user":"entity","request_id":"identifier","tags":"entity"}}"#))
            ], version: 1)
        // Nor do rollups by entity answer in their place.
        for grain in Grain.ofEntities { store.retention.grains[grain] = end }
        return store
    }()

    /// The event carries what its set has filed: it is one request all the same, also where the key is no dimension in
    /// another part of the range.
    @Test func aValueBeyondABudgetIsCountedOnce() throws {
        var store = Self.store
        store.timeline.entries.append(
            RulesTimeline.Entry(
                from: EventTime(microseconds: Self.start + 43_200_000_000),
                rules: RulesText(
                    fingerprint: "1", text: #"{"version":1,"classes":{"user":"entity","trace":"identifier"}}"#)))
        let keys = try QueryEngine().metadataKeys(
            from: EventTime(microseconds: Self.start), to: Self.end, workspace: "default", snapshot: store
        ).keys
        let trace = try #require(keys.first { $0.key == "trace" })
        #expect(trace.requests == 20 && trace.filed == 10 && trace.share == 0.2)
        // Each filed value, and the one that is not.
        #expect(trace.distinct == 11 && trace.isExact)
        let values = try QueryEngine().metadataValues(
            of: "trace", prefix: "", limit: 50, from: EventTime(microseconds: Self.start), to: Self.end,
            workspace: "default", snapshot: store
        ).values
        #expect(values.reduce(0) { $0 + $1.requests } == 20)
    }

    @Test(arguments: [
        // Filter, the keys that the index is asked for, events read, events counted.
        ("metadata.request_id = 'r7'", ["request_id"], 1, 1),
        ("metadata.request_id in ('r7', 'r8', 'none')", ["request_id"], 2, 2),
        ("metadata.user = 'u3'", ["user"], 10, 10),
        ("metadata.tags = 't4'", ["tags"], 20, 20),
        ("metadata.tags in ('t0', 't4')", ["tags"], 55, 55),
        ("metadata.request_id = 'r7' and metadata.user = 'u7'", ["request_id"], 1, 1),
        ("metadata.user = 'u7' and metadata.request_id in ('r7', 'r17', 'r8')", ["request_id"], 3, 2),
        ("metadata.user = 'u7' and metadata.env = 'dev'", ["user"], 10, 10),
        ("metadata.user = 'u7' and not metadata.request_id = 'r7'", ["user"], 10, 9),
        ("metadata.user = 'u7' or metadata.request_id = 'r8'", ["request_id", "user"], 11, 11),
        ("metadata.user = 'u7' and (metadata.env = 'dev' or metadata.tags = 't1')", ["user"], 10, 10),
        ("metadata.request_id = 'r7' and latency_ms > 5", ["request_id"], 1, 0),
        ("metadata.user = 'u7' or provider = 'nobody'", ["user"], 10, 10),
        // What sets may decide, and what asks for anything but values.
        ("metadata.user = 'u7' or metadata.env = 'dev'", [], 100, 50),
        ("not metadata.user = 'u7'", [], 100, 90),
        ("metadata.user != 'u7'", [], 100, 90),
        ("metadata.user like 'u%'", [], 100, 100),
        ("metadata.user exists", [], 100, 100),
        ("metadata.user = 'u7' or not metadata.user exists", [], 100, 10),
        // Beyond a budget: where no set has the value, the events that have it are in the index.
        ("metadata.trace = 'x13' and latency_ms < 0 or metadata.request_id = 'r7'", ["request_id", "trace"], 2, 1),
        ("metadata.trace = 'seen' or metadata.request_id = 'r7'", [], 100, 11),
    ])
    func theIndexIsAskedForWhatMustBeThere(_ filter: String, _ keys: [String], _ read: Int, _ counted: Int) throws {
        let question = Question(
            from: EventTime(microseconds: Self.start), to: Self.end, condition: try ConditionParser.parse(filter))
        let answer = try QueryEngine().answer(
            question, workspace: "default", snapshot: Self.store, explains: true)
        #expect(answer.totals == [.integer(Int64(counted))])
        #expect(answer.plan.source == .events)
        #expect(answer.plan.index == keys)
        #expect(answer.plan.rowsRead == read)
        #expect(answer.plan.reason.contains("by the index on") == !keys.isEmpty)
        let shown = answer.explanation?.json["stretches"]?.array?.first?["index"]?.array?.compactMap(\.string)
        #expect(shown == keys.map { "metadata.\($0)" })
    }

    @Test("What an index finds in a long range is not refused for the events that it leaves out")
    func isEstimatedByTheIndex() throws {
        func ask(_ filter: String) throws -> Answer {
            let question = Question(
                from: EventTime(microseconds: Self.start), to: Self.end, condition: try ConditionParser.parse(filter))
            return try QueryEngine().answer(
                question, workspace: "default", snapshot: Self.store, budget: QueryBudget(rows: 20))
        }
        #expect(try ask("metadata.user = 'u3'").totals == [.integer(10)])
        let refused = #expect(throws: QueryError.self) { try ask("metadata.user like 'u3%'") }
        #expect(refused?.code == .tooExpensive)
    }

    @Test("A listing reads what the index finds, page by page")
    func listsByTheIndex() throws {
        let engine = QueryEngine()
        let condition = try ConditionParser.parse("metadata.user in ('u3', 'u4')")
        var found: [String] = []
        var cursor: EventCursor?
        repeat {
            let page = try engine.events(
                matching: condition, from: EventTime(microseconds: Self.start), to: Self.end, after: cursor, limit: 3,
                workspace: "default", snapshot: Self.store)
            found += page.events.compactMap { $0["metadata"]?["request_id"]?.string }
            cursor = page.next
        } while cursor != nil
        #expect(found == (0..<100).reversed().filter { [3, 4].contains($0 % 10) }.map { "r\($0)" })
    }
}
