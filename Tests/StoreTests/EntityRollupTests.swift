// Rollups by entity: what an earlier version has counted without them, copies of events, budgets, and that no event is
// read where they answer.

import Events
import Ingest
import JSONText
import Normalizer
import Queries
import Replay
import RollupStore
import RollupStoreClickHouse
import RollupStorePostgreSQL
import RollupStoreSQLite
import Rollups
import Testing

private let hour: Int64 = 3_600_000_000
private let day = 24 * hour
private let begin: Int64 = 1_760_054_400_000_000

private func at(_ microseconds: Int64) -> EventTime { EventTime(microseconds: microseconds) }

private func rules(_ more: String = "") throws -> Rules {
    try Rules.decode(try JSONValue.parse(#"{"version":1,"classes":{"user":"entity"}\#(more)}"#))
}

/// One every ten minutes, of five users in turn; each sixth of none.
private func sampleEvents(_ numbers: Range<Int>, user: (Int) -> String = { "u\($0 % 5)" }) -> [RequestEvent] {
    numbers.map { number in
        let time = at(begin + Int64(number) * hour / 6)
        var event = RequestEvent(id: EventID(time: time, random: (3, UInt64(number))), time: time)
        event.workspace = "default"
        event.requestModel = number % 2 == 0 ? "a" : "b"
        event.status = number % 7 == 0 ? 500 : 200
        event.outcome = Outcome(status: event.status)
        event.inputTokens = UInt64(number)
        event.latencyMicroseconds = UInt64(number % 90) * 1_000
        let pair = number % 6 == 5 ? "" : #","user":"\#(user(number))""#
        event.metadataRaw = Array(#"{"env":"prod"\#(pair)}"#.utf8)
        return event
    }
}

/// All of one hour, with a user each.
private func flood(_ numbers: Range<Int>) -> [RequestEvent] {
    sampleEvents(numbers) { "v\($0)" }.map { event in
        var event = event
        event.time = at(begin + event.time.microseconds % hour / 2 + Int64(event.inputTokens))
        return event
    }
}

private func ask(_ store: any StoreUnderTest, _ filter: String? = nil, days: Int64 = 3) throws -> Answer {
    var input = QuestionInput()
    input.from = RFC3339.precise(at(begin))
    input.to = RFC3339.precise(at(begin + days * day))
    input.granularity = "total"
    input.filter = filter
    input.groupBy = ["metadata.user"]
    input.measures = ["requests", "input_tokens", "errors", "latency_ms.p50", "distinct.metadata.user"]
    input.limit = 1_000
    let question = try Question(input, now: at(begin + days * day)) { _ in nil }
    return try store.reader.read { try QueryEngine().answer(question, workspace: "default", snapshot: $0) }
}

/// What all of it comes to, and each group.
private func figures(_ answer: Answer) -> Set<String> {
    Set(answer.data.map { "\($0.group) \($0.values)" } + ["\(answer.totals)"])
}

@Suite struct EntityRollupTests {
    @Test(arguments: StoreKind.allCases)
    func answersAsEventsWouldWithoutReadingAny(_ kind: StoreKind) throws {
        let store = try kind.make()
        var ingest = try BudgetedIngest(store, try rules())
        let events = sampleEvents(0..<432)
        try ingest.apply(Array(events[..<200]), at: 0)
        // Copies, of this batch and of the one before, are counted by no rollup.
        try ingest.apply(Array(events[150..<432]) + events[400...], at: 200)
        let byEntity = try ask(store)
        #expect(byEntity.plan.source == .rollups && byEntity.plan.grains == [.entityDay])
        // Of both models: a filter that leaves nothing out, and that only events can answer.
        let byEvents = try ask(store, "model in ('a', 'b', '') or model exists or not model exists")
        #expect(byEvents.plan.source == .events, "\(byEvents.plan.reason)")
        #expect(figures(byEntity) == figures(byEvents))
        #expect(byEntity.data.count == 6 && byEntity.totals[0] == .integer(432))
        let one = try ask(store, "metadata.user = 'u1' and not model = 'c'")
        #expect(one.plan.index == ["user"])
        #expect(figures(try ask(store, "metadata.user = 'u1'")) == figures(one))
        ingest.writer.close()
    }

    @Test(arguments: StoreKind.allCases)
    func whatIsBeyondABudgetIsFiledAndAnsweredFromEvents(_ kind: StoreKind) throws {
        let store = try kind.make()
        var ingest = try BudgetedIngest(store, try rules(#","budgets":{"sets":8}"#))
        // And then a restart in the middle of the hour.
        try ingest.apply(flood(0..<60), at: 0)
        ingest.writer.close()
        ingest = try BudgetedIngest(store, try rules(#","budgets":{"sets":8}"#))
        try ingest.apply(flood(60..<120), at: 60)
        let series = try store.reader.read { try $0.series(workspace: "default", entity: "user") }
        // Six values and none, and filed, each as success and as error at the most.
        #expect(series.count <= 2 * 8, "\(series.map { String(decoding: $0.key.set, as: UTF8.self) })")
        #expect(ingest.filed[.values] ?? 0 > 0)
        let answer = try ask(store, days: 1)
        #expect(answer.exact && answer.totals[0] == .integer(120) && answer.totals[4] == .integer(100))
        #expect(answer.plan.source == .both, "\(answer.plan.reason)")
        ingest.writer.close()
    }

    @Test(arguments: StoreKind.replaying)
    func aReplayUnderTheSameRulesFilesTheSameValues(_ kind: StoreKind) throws {
        let store = try kind.make()
        var ingest = try BudgetedIngest(store, try rules(#","budgets":{"sets":8}"#))
        try ingest.apply(flood(0..<60), at: 0)
        let before = try Count(reading: store.reader)
        var replays = try store.replays()
        let plan = ReplayPlan(
            asked: "", from: at(begin), to: at(begin + day), rules: nil, prices: nil, isDryRun: false)
        let begun = try replays.begin(plan, now: at(begin + day))
        var options = ReplayOptions()
        options.stepEvents = 7
        var replayer = Replayer(
            replays, normalizer: Normalizer(rules: .builtIn, hash: nil), options: options, now: { at(begin + day) },
            wait: { _ in false })
        // Some come meanwhile: pending for this one, and later for the one below it.
        try ingest.apply(flood(60..<90), at: 60)
        let meanwhile = try Count(reading: store.reader)
        guard case .swapped(let live) = try replayer.run(begun, reprice: nil) else {
            Issue.record("it was not swapped in")
            return
        }
        #expect(try Count(reading: store.reader) == meanwhile && meanwhile != before)
        // A swap is a change of the rules timeline.
        ingest.writer.close()
        ingest = try BudgetedIngest(store, try rules(#","budgets":{"sets":8}"#))
        try ingest.apply(flood(90..<120), at: 90)
        let after = try Count(reading: store.reader)
        #expect(try replayer.revert(live).state == .retired)
        #expect(try Count(reading: store.reader) == after)
        ingest.writer.close()
        replays.close()
    }

    @Test(arguments: StoreKind.allCases)
    func whatAnEarlierVersionHasCountedIsAnsweredFromEvents(_ kind: StoreKind) throws {
        let store = try kind.makeOnOneServer()
        var ingest = try BudgetedIngest(store, try rules())
        try ingest.apply(sampleEvents(0..<200), at: 0)
        let before = figures(try ask(store, days: 2))
        ingest.writer.close()
        try takeAway(store)
        ingest = try BudgetedIngest(store, try rules())
        let between = try ask(store, days: 2)
        #expect(figures(between) == before && between.plan.source == .events)
        try ingest.apply(sampleEvents(200..<432), at: 200)
        let after = try ask(store)
        #expect(after.totals[0] == .integer(432) && after.plan.source == .both)
        let retained = try store.reader.read { try $0.retained(.entityHour) }
        #expect(retained == at(begin / day * day + 2 * day))
        ingest.writer.close()
    }

    /// The store as the version before would have left it, and open again.
    private func takeAway(_ store: any StoreUnderTest) throws {
        switch store {
        case let store as SQLiteUnderTest:
            try store.bringBack(to: 7)
            _ = try SQLiteRollupStore.open(path: store.store.path)
        case let store as PostgreSQLUnderTest:
            try store.bringBack(to: 5)
            _ = try PostgreSQLRollupStore.open(url: store.url)
        case let store as ClickHouseUnderTest:
            _ = try store.ask("DELETE FROM rollups WHERE grain IN (5, 6)")
            _ = try store.ask("ALTER TABLE commits UPDATE schema_version = 1 WHERE 1 SETTINGS mutations_sync = 2")
        default: Issue.record("no such store")
        }
    }
}
