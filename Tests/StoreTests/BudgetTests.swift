// Budgets of metadata: what a flood may take, what becomes of the rest, and that nothing is lost from any sum.

import EventCodec
import Events
import Ingest
import JSONText
import Normalizer
import Queries
import RecordLog
import Replay
import RollupStore
import Rollups
import Testing

private let partition = TopicPartition(topic: "events", partition: 0)
private let hour: Int64 = 3_600_000_000
private let begin: Int64 = 1_760_054_400_000_000

private func at(_ microseconds: Int64) -> EventTime { EventTime(microseconds: microseconds) }

private func rules(_ text: String) throws -> Rules { try Rules.decode(try JSONValue.parse(text)) }

private func event(_ number: Int, _ time: Int64, _ metadata: String, workspace: String = "default") -> RequestEvent {
    var event = RequestEvent(id: EventID(time: at(time), random: (7, UInt64(number))), time: at(time))
    event.workspace = workspace
    event.provider = "openai"
    event.status = 200
    event.outcome = .success
    event.inputTokens = UInt64(number % 97)
    event.metadataRaw = Array(metadata.utf8)
    return event
}

/// A consumer without its threads.
struct BudgetedIngest {
    var writer: any RollupWriter
    private var builder: BatchBuilder
    private(set) var admission: SetAdmission
    private var observer = ClassObserver()
    private(set) var verdicts = 0
    private(set) var filed: [SetAdmission.Spent: Int] = [:]
    private(set) var news: [SetAdmission.News] = []

    /// - `isEager`: an hour is read again for whatever is new in it.
    init(
        _ store: any StoreUnderTest, _ rules: Rules, _ partition: TopicPartition = partition, isEager: Bool = false,
        now: EventTime = at(0)
    ) throws {
        writer = try store.writer()
        builder = BatchBuilder(normalizer: Normalizer(rules: rules, hash: nil))
        let start = ContinuousClock.now
        let ticks = Ticks()
        admission = SetAdmission { isEager ? start.advanced(by: .seconds(ticks.next())) : start }
        let timeline = try writer.rules(
            adopting: try RulesText.succeeding(try writer.rules(nil), rules), now: now)
        try use(timeline)
        builder.started(try writer.acquire([partition]))
    }

    private mutating func use(_ timeline: RulesTimeline) throws {
        try builder.use(timeline)
        try admission.use(timeline)
        try observer.use(timeline)
    }

    /// What keys do to the rollups is looked at, where that is due.
    private mutating func observe(_ batch: SealedBatch) throws {
        observer.applied(batch)
        let now = ContinuousClock.now
        guard observer.isDue(at: now),
            let verdict = try observer.look(at: { now }, { try writer.hour($0, of: .hour, maxRows: $1) })
        else { return }
        verdicts += 1
        try use(try writer.rules(verdict.change))
    }

    mutating func apply(_ events: [RequestEvent], at offset: Int, _ partition: TopicPartition = partition) throws {
        var chunk = RecordChunk(partitions: [partition])
        for (place, event) in events.enumerated() { chunk.append(event, offset: Int64(offset + place)) }
        let taken = builder.add(chunk, from: 0, now: at(begin * 2), maxEvents: 100_000, maxBytes: 1 << 26)
        #expect(taken.events == events.count)
        guard let batch = builder.seal() else { return }
        let admitted = try admission.admit(batch) { try writer.hourOfBudgets($0, maxRows: $1) }
        for (spent, count) in admitted.filed.events { filed[spent, default: 0] += count }
        news += admitted.filed.news
        _ = try writer.apply(admitted.batch)
        try observe(admitted.batch)
    }
}

/// A clock for tests: each look is a second later.
private final class Ticks: @unchecked Sendable {
    // One thread owns the consumer that looks at it.
    private var seconds = 0
    func next() -> Int {
        seconds += 1
        return seconds * 1_000
    }
}

/// The metadata sets of each hour, by workspace.
private func sets(_ store: any StoreUnderTest) throws -> [Int32: [String: Set<String>]] {
    try store.reader.read { snapshot in
        var keys: [Int64: SeriesKey] = [:]
        for workspace in ["default", "other"] {
            for series in try snapshot.series(workspace: workspace) { keys[series.id] = series.key }
        }
        var found: [Int32: [String: Set<String>]] = [:]
        try snapshot.scanRollups(grain: .hour, from: .min, to: .max, series: .all, withBins: false) { row in
            guard let key = keys[row.series], row.measures.requests != 0 else { return }
            found[row.bucket, default: [:]][key.workspace, default: []].insert(String(decoding: key.set, as: UTF8.self))
        }
        return found
    }
}

private func ask(
    _ store: any StoreUnderTest, _ filter: String?, groupBy: [String] = [], from: Int64 = begin,
    to: Int64 = begin + 4 * hour, workspace: String = "default", rows: Int = QueryBudget().rows
) throws -> Answer {
    var input = QuestionInput()
    input.from = RFC3339.precise(at(from))
    input.to = RFC3339.precise(at(to))
    input.granularity = "total"
    input.filter = filter
    input.groupBy = groupBy
    input.measures = ["requests", "input_tokens"]
    input.limit = 10_000
    let question = try Question(input, now: at(to)) { _ in nil }
    var budget = QueryBudget()
    budget.rows = rows
    return try store.reader.read {
        try QueryEngine().answer(question, workspace: workspace, snapshot: $0, budget: budget)
    }
}

private func requests(_ answer: Answer) -> Int {
    guard case .integer(let number) = answer.totals[0] else { return -1 }
    return Int(number)
}

@Suite struct BudgetTests {
    private static let small =
        #"{"version":1,"observe":{"enabled":false},"budgets":{"sets":400,"values":40,"keys":12}}"#

    @Test func aSetIsTakenApartAndPutTogetherWithMarks() throws {
        func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }
        let texts = [
            "{}", #"{"a":"b"}"#, #"{"a":["x","y\"z"],"b \"c":""}"#, #"{"(other)":true,"a":null,"b":"c"}"#,
            #"{"(other)":true}"#, #"{"(other)":true,"(other)":"mine"}"#,
        ]
        for text in texts {
            let set = try #require(SetText(bytes(text)))
            let (same, left) = set.filed(set.pairs.map { _ in .stays })
            #expect(same == bytes(text) && left == bytes("{}"), "\(text)")
        }
        #expect(SetText(bytes(#"{"(other)":false}"#))?.isUnsaid == true)
        for text in ["", "[]", #"{"a":1}"#, #"{"a":{}}"#, #"{"a""#, "null"] { #expect(SetText(bytes(text)) == nil) }
        let text = #"{"a":"1","b":["2"],"c":"3"}"#
        let whole = try #require(SetText(bytes(text)))
        let (filed, left) = whole.filed([.stays, .unnamed, .filed])
        #expect(filed == bytes(#"{"(other)":true,"a":"1","c":null}"#) && left == bytes(#"{"b":["2"],"c":"3"}"#))
        #expect(whole.unsaid.set == bytes(#"{"(other)":false}"#) && whole.unsaid.left == bytes(text))
        let beside = bytes(#"{"bb":"x"}"#)
        let all = SetText.merged(left, beside)
        #expect(all == bytes(#"{"b":["2"],"bb":"x","c":"3"}"#) && SetText.merged(beside, left) == all)
        #expect(SetText.merged(left, bytes("{}")) == left)

        #expect(SetText.isFiled(bytes(text), beside, as: filed, all))
        #expect(SetText.isFiled(bytes(text), bytes("{}"), as: whole.unsaid.set, bytes(text)))
        #expect(SetText.isFiled(bytes(text), beside, as: bytes(text), beside))
        #expect(!SetText.isFiled(bytes(text), bytes("{}"), as: filed, all))
        #expect(!SetText.isFiled(bytes(#"{"a":"2","b":["2"],"c":"3"}"#), beside, as: filed, all))
        // A key that was left out and is no dimension any more leaves no mark.
        #expect(!SetText.isFiled(bytes(#"{"a":"1"}"#), left, as: bytes(#"{"(other)":true,"a":"1"}"#), left))
    }

    /// Honest traffic beside callers whose every value, or every key, is a new one.
    @Test(arguments: StoreKind.allCases, ["values", "keys", "sets"])
    func aFloodStaysWithinItsBudgetAndHidesNobodysNumbers(_ kind: StoreKind, _ flood: String) throws {
        let store = try kind.make()
        let count = kind == .clickhouse ? 2_000 : 6_000
        let given = (0..<count).map { number -> RequestEvent in
            let time = begin + 3 * hour * Int64(number) / Int64(count)
            switch number % 4 {
            case 0: return event(number, time, #"{"env":"e\#(number % 3)","team":"t\#(number % 7)"}"#)
            case 1: return event(number, time, #"{"env":"e\#(number % 5)"}"#, workspace: "other")
            default:
                let metadata =
                    switch flood {
                    case "values": #"{"env":"e0","trace":"r\#(number)","user":"u\#(number)"}"#
                    case "keys": #"{"env":"e0","key\#(number)":"x","team":"t1"}"#
                    default: #"{"a":"\#(number % 29)","b":"\#(number % 31)","c":"\#(number % 23)"}"#
                    }
                return event(number, time, metadata)
            }
        }
        var ingest = try BudgetedIngest(store, try rules(Self.small))
        for start in stride(from: 0, to: count, by: 250) {
            // Started again now and then.
            if start % 1_000 == 0 {
                ingest.writer.close()
                let last = ingest.filed
                ingest = try BudgetedIngest(store, try rules(Self.small))
                if start > 1_000 { #expect(last[try #require(.init(rawValue: flood))] ?? 0 > 0) }
            }
            try ingest.apply(Array(given[start..<min(count, start + 250)]), at: start)
        }
        ingest.writer.close()
        for (_, workspaces) in try sets(store) {
            #expect(workspaces["default"]?.count ?? 0 <= 400 + 1)
            #expect(workspaces["other"]?.count ?? 0 <= 5)
            var values: [String: Set<String>] = [:]
            for set in workspaces["default"] ?? [] {
                for member in try JSONValue.parse(set).members ?? [] where member.value.string != nil {
                    values[member.key, default: []].insert(member.value.text)
                }
            }
            #expect(values.count <= 12 && values.values.allSatisfy { $0.count <= 40 })
        }
        // Whatever is asked, the answer is that of the events, and says so.
        func check(_ filter: String, _ workspace: String = "default", _ matches: (RequestEvent, JSONValue) -> Bool)
            throws
        {
            let answer = try ask(store, filter, workspace: workspace)
            let expected = try given.filter {
                try $0.workspace == workspace && matches($0, JSONValue.parse($0.metadataRaw))
            }
            #expect(requests(answer) == expected.count && answer.exact, "\(filter)")
        }
        for env in 0..<5 {
            try check("metadata.env = 'e\(env)'") { $1["env"]?.string == "e\(env)" }
            try check("metadata.env = 'e\(env)'", "other") { $1["env"]?.string == "e\(env)" }
        }
        try check("metadata.team = 't1' and metadata.env != 'e0'") {
            $1["team"]?.string == "t1" && $1["env"]?.string != "e0"
        }
        try check("metadata.trace exists") { $1["trace"] != nil }
        try check("metadata.trace = 'r\(count - 1)'") { $1["trace"]?.string == "r\(count - 1)" }
        try check("metadata.key\(count - 2) exists") { $1["key\(count - 2)"] != nil }
        try check("metadata.a = '7' and metadata.b = '11'") { $1["a"]?.string == "7" && $1["b"]?.string == "11" }
        let all = try ask(store, nil)
        #expect(requests(all) == given.count { $0.workspace == "default" })
        #expect(all.exact && all.plan.source == .rollups)
        // Nobody else's questions are read from events for it.
        #expect(try ask(store, "metadata.env = 'e1'", workspace: "other").plan.source == .rollups)
        let grouped = try ask(store, nil, groupBy: ["metadata.team"])
        let teams = Dictionary(grouping: given.filter { $0.workspace == "default" }) {
            (try? JSONValue.parse($0.metadataRaw))?["team"]?.string
        }
        #expect(grouped.data.count == teams.count && grouped.exact)
        for row in grouped.data {
            let team: String? = if case .text(let text)? = row.group[0] { text } else { nil }
            #expect(row.values[0] == .integer(Int64(teams[team]?.count ?? -1)))
        }
        // Metadata is whole with each event.
        try store.reader.read { snapshot in
            for event in [given[count - 1], given[count - 2]] {
                let shown = try QueryEngine().event(id: event.id, workspace: "default", snapshot: snapshot)
                #expect(try shown?["metadata"] == JSONValue.parse(event.metadataRaw))
            }
            let keys = try QueryEngine().metadataKeys(
                from: at(begin), to: at(begin + 4 * hour), workspace: "default", snapshot: snapshot)
            #expect(keys.keys.contains { $0.filed > 0 })
        }
    }

    /// The budget of a workspace that names none, against a caller whose every value, or every key, is a new one.
    @Test(arguments: ["values", "keys"])
    func aHundredThousandRandomOnesStayWithinTheDefaultBudget(_ flood: String) throws {
        let budget = Rules.Budget()
        let count = 100_000
        let store = try StoreKind.sqlite.make()
        var ingest = try BudgetedIngest(store, try rules(#"{"version":1}"#))
        var random = Random(seed: 8)
        var (place, honest, others) = (0, 0, [Int](repeating: 0, count: 5))
        while place < count + honest + others.reduce(0, +) {
            var batch: [RequestEvent] = []
            while batch.count < 20_000, place < count + honest + others.reduce(0, +) {
                let time = begin + Int64(place)
                let name = String(random.next(), radix: 36)
                let pair = flood == "values" ? #""trace":"\#(name)""# : #""k\#(name)":"x""#
                let metadata = #"{"env":"e0",\#(pair)}"#
                batch.append(event(place, time, metadata))
                place += 1
                if place % 20 == 0 {
                    batch.append(event(place, time, #"{"env":"e1","team":"t\#(honest % 7)"}"#))
                    (place, honest) = (place + 1, honest + 1)
                }
                if place % 20 == 10 {
                    batch.append(event(place, time, #"{"env":"o\#(place % 3)"}"#, workspace: "other"))
                    others[place % 3] += 1
                    place += 1
                }
            }
            try ingest.apply(batch, at: place - batch.count)
        }
        ingest.writer.close()
        #expect(ingest.filed[flood == "values" ? .values : .keys] ?? 0 > count / 2)
        let hours = try sets(store)
        let found = try #require(hours[Grain.hour.bucket(of: at(begin))])
        #expect(hours.count == 1 && found["other"]?.count == 3)
        let mine = found["default"] ?? []
        #expect(mine.count <= budget.sets)
        var values: [String: Set<String>] = [:]
        for set in mine {
            for member in try JSONValue.parse(set).members ?? [] where member.value.string != nil {
                values[member.key, default: []].insert(member.value.text)
            }
        }
        #expect(values.count <= budget.keys && values.values.allSatisfy { $0.count <= budget.values })
        // Not one set a value, nor one a key.
        #expect(mine.count < 2 * (flood == "values" ? budget.values : budget.keys))
        for env in 0..<3 {
            let answer = try ask(store, "metadata.env = 'o\(env)'", workspace: "other")
            #expect(requests(answer) == others[env] && answer.exact && answer.plan.source == .rollups)
        }
        // Nor the numbers of those who share the workspace.
        let team = try ask(store, "metadata.env = 'e1'")
        #expect(requests(team) == honest && team.exact)
        let all = try ask(store, nil)
        #expect(requests(all) == count + honest && all.exact && all.plan.source == .rollups)
    }

    @Test(arguments: StoreKind.allCases)
    func whereEventsAreGoneTheAnswerSaysThatItIsNotExact(_ kind: StoreKind) throws {
        let store = try kind.make()
        let given = (0..<1_000).map { event($0, begin + Int64($0), #"{"env":"e\#($0 % 3)","trace":"r\#($0)"}"#) }
        var ingest = try BudgetedIngest(store, try rules(Self.small))
        try ingest.apply(given, at: 0)
        #expect(ingest.filed == [.values: 970])
        let news = try #require(ingest.news.first)
        #expect(ingest.news.count == 1 && news.workspace == "default" && news.spent == .values)
        #expect(news.hour == Grain.hour.bucket(of: at(begin)))
        // Too many events to read: the rollups answer, and say what they do not know.
        let dear = try ask(store, nil, groupBy: ["metadata.trace"], rows: 500)
        #expect(!dear.exact && dear.data.count == 31 && dear.inexactness?.requests == 970)
        var boundaries = RetentionBoundaries(RetentionDays(events: 30, minute: 30, hour: 30, day: 30), now: at(begin))
        boundaries.events = at(begin + 24 * hour)
        while try ingest.writer.expire(boundaries, maxRows: 5_000) {}
        let answer = try ask(store, nil, groupBy: ["metadata.trace"])
        #expect(!answer.exact && answer.plan.source == .rollups && requests(answer) == 1_000)
        #expect(answer.data.reduce(0) { if case .integer(let n) = $1.values[0] { $0 + n } else { $0 } } == 1_000)
        #expect(answer.data.first { $0.group == [.filed] }?.values[0] == .integer(970))
        #expect(answer.plan.reason.hasPrefix("970 requests have values of metadata.trace beyond"))
        let written = try JSONValue.parse(answer.bytes)
        #expect(written["filed_under_other"]?.integer == 970 && written["exact"]?.boolean == false)
        #expect(requests(try ask(store, "metadata.trace = '(other)'")) == 970)
        // What was not filed is exact.
        let env = try ask(store, "metadata.env = 'e1'")
        #expect(env.exact && requests(env) == 333)
        // Neither is a filter that the filed values do not decide.
        #expect(try ask(store, "metadata.env = 'e1' or metadata.env exists").exact)
        #expect(try !ask(store, "metadata.env = 'e1' and metadata.trace like 'r1%'").exact)
        ingest.writer.close()
    }

    /// The same events in the same order, cut into batches and runs in different ways.
    @Test(arguments: StoreKind.allCases)
    func restartsAndBatchesDecideNothing(_ kind: StoreKind) throws {
        var random = Random(seed: 51)
        let given = (0..<1_200).map { number -> RequestEvent in
            let time = begin + Int64(random.next() % UInt64(3 * hour))
            let (a, b) = (random.next() % 60, random.next() % 60)
            return event(number, time, #"{"a":"\#(a)","b":"\#(b)","k\#(random.next() % 30)":"x"}"#)
        }
        var found: [[Int32: [String: Set<String>]]] = []
        for seed in [1, 2] as [UInt64] {
            var random = Random(seed: seed)
            let store = try kind.make()
            var ingest = try BudgetedIngest(store, try rules(Self.small))
            var place = 0
            while place < given.count {
                if random.next() % 3 == 0 {
                    ingest.writer.close()
                    ingest = try BudgetedIngest(store, try rules(Self.small))
                }
                let end = min(given.count, place + 1 + Int(random.next() % 300))
                try ingest.apply(Array(given[place..<end]), at: place)
                place = end
            }
            ingest.writer.close()
            found.append(try sets(store))
        }
        #expect(found[0] == found[1])
    }

    /// What the hour before had comes in where newcomers no longer do.
    @Test func whatWasThereBeforeKeepsItsPlace() throws {
        let store = try StoreKind.sqlite.make()
        var ingest = try BudgetedIngest(store, try rules(Self.small))
        try ingest.apply((0..<8).map { event($0, begin + Int64($0), #"{"env":"e\#($0)"}"#) }, at: 0)
        let flood = (8..<1_008).map { event($0, begin + hour + Int64($0), #"{"env":"x\#($0)"}"#) }
        try ingest.apply(flood, at: 8)
        ingest.writer.close()
        ingest = try BudgetedIngest(store, try rules(Self.small))
        try ingest.apply(
            (0..<9).map { event(2_000 + $0, begin + hour + 2_000 + Int64($0), #"{"env":"e\#($0)"}"#) }, at: 1_008)
        ingest.writer.close()
        let second = try #require(try sets(store)[Grain.hour.bucket(of: at(begin + hour))]?["default"])
        #expect(second.count == 30 + 8 + 1)
        for old in 0..<8 { #expect(second.contains(#"{"env":"e\#(old)"}"#)) }
        #expect(!second.contains(#"{"env":"e8"}"#))
    }

    /// Two consumers by turns, each with a partition of its own.
    /// What came after a swap and is settled below the replay, before it goes or before that is taken back, counts with
    /// what is there, over however many steps.
    @Test(arguments: StoreKind.allCases, [false, true])
    func whatIsSettledBelowAReplayStaysWithinItsBudget(_ kind: StoreKind, _ isExpiring: Bool) throws {
        let budgets = #""observe":{"enabled":false},"budgets":{"sets":7}"#
        let configured = try rules(#"{"version":1,\#(budgets)}"#)
        let names = (0..<24).map { #""e\#($0)":"same""# }.joined(separator: ",")
        let other = try rules(#"{"version":1,"values":{"maps":{"env":{\#(names)}}},\#(budgets)}"#)
        func events(_ numbers: Range<Int>) -> [RequestEvent] {
            numbers.map { event($0, begin + Int64($0), #"{"env":"e\#($0)"}"#) }
        }
        let store = try kind.make()
        var ingest = try BudgetedIngest(store, configured)
        try ingest.apply(events(0..<4), at: 0)
        var replays = try store.replays()
        defer { replays.close() }
        func replayer() throws -> Replayer {
            var options = ReplayOptions()
            options.stepEvents = 3
            return Replayer(
                try store.replays(), normalizer: Normalizer(rules: configured, hash: nil), options: options,
                now: { at(begin + 80 * hour) }, wait: { _ in false })
        }
        let plan = ReplayPlan(
            asked: "one", from: at(begin), to: at(begin + hour), rules: RulesText(other), prices: nil, isDryRun: false)
        var first = try replayer()
        let begun = try replays.begin(plan, now: at(begin + 80 * hour))
        guard case .swapped(let done) = try first.run(begun, reprice: nil) else {
            Issue.record("not swapped in")
            return
        }
        first.close()
        ingest.writer.close()
        ingest = try BudgetedIngest(store, configured)
        try ingest.apply(events(4..<24), at: 4)
        ingest.writer.close()
        // By one replay that answers there is one set.
        #expect(try sets(store).values.map { $0["default"]?.count } == [1])
        if isExpiring {
            var isMoreLeft = true
            while isMoreLeft {
                // Another connection each time: it knows what the one before has counted.
                var settling = try replayer()
                isMoreLeft = try settling.settleExpiring(before: at(begin + 48 * hour), limit: 3)
                settling.close()
            }
        }
        var last = try replayer()
        #expect(try last.revert(done).state == .retired)
        last.close()
        let below = try #require(sets(store)[Grain.hour.bucket(of: at(begin))]?["default"])
        #expect((4...7).contains(below.count), "\(below)")
        #expect(requests(try ask(store, nil)) == 24)
    }

    @Test(arguments: StoreKind.allCases.filter { $0 != .sqlite })
    func twoConsumersKnowWhatTheOtherHasCounted(_ kind: StoreKind) throws {
        let store = try kind.make()
        let other = TopicPartition(topic: "events", partition: 1)
        var first = try BudgetedIngest(store, try rules(Self.small), isEager: true)
        var second = try BudgetedIngest(store, try rules(Self.small), other, isEager: true)
        for round in 0..<4 {
            let numbers = (0..<40).map { round * 100 + $0 }
            try first.apply(numbers.map { event($0, begin + Int64($0), #"{"trace":"a\#($0)"}"#) }, at: round * 40)
            try second.apply(
                numbers.map { event(1_000 + $0, begin + Int64($0), #"{"trace":"b\#($0)"}"#) }, at: round * 40, other)
        }
        first.writer.close()
        second.writer.close()
        let found = try #require(try sets(store).values.first?["default"])
        #expect(found.count == 31 && found.allSatisfy { $0.hasPrefix(#"{"trace":"a"#) || $0 == #"{"trace":null}"# })
        #expect(requests(try ask(store, "metadata.trace like 'b%'")) == 160)
    }

    @Test func workspacesMayHaveBudgetsOfTheirOwn() throws {
        let text = #"{"version":1,"budgets":{"values":7,"workspaces":{"big":{"sets":9000000},"odd":{"keys":1}}}}"#
        let read = try rules(text)
        #expect(read.budget(of: "big").sets == 9_000_000 && read.budget(of: "big").values == 7)
        #expect(read.budget(of: "odd").keys == 1 && read.budget(of: "default").sets == Rules.Budget().sets)
        #expect(try RulesText(read).rules() == read)
        #expect(throws: RulesError.self) { try rules(#"{"version":1,"budgets":{"sets":0}}"#) }
        #expect(throws: RulesError.self) { try rules(#"{"version":1,"budgets":{"workspaces":{"a":{"set":1}}}}"#) }
    }

    /// What a budget holds up is no dimension from the next hour on.
    @Test func filedValuesSpeakAgainstTheirKey() throws {
        let store = try StoreKind.sqlite.make()
        let configured = try rules(
            #"{"version":1,"observe":{"events":500,"hour_events":1000,"many_values":20},"budgets":{"values":40}}"#)
        var ingest = try BudgetedIngest(store, configured)
        try ingest.apply(
            (0..<2_000).map { event($0, begin + Int64($0), #"{"env":"e\#($0 % 3)","trace":"r\#($0)"}"#) }, at: 0)
        let bucket = Grain.hour.bucket(of: at(begin))
        var evidence = ClassEvidence()
        let rows = try ingest.writer.hour(bucket, of: .hour, maxRows: 1_000)
        evidence.add(bucket, try #require(rows))
        ingest.writer.close()
        let verdict = evidence.verdict(under: configured, room: ClassObserver.maxKeys).found
        #expect(verdict.keys.map { String(decoding: $0, as: UTF8.self) } == ["trace"])
    }
}
