// Random rules that change, classes that are observed, budgets that are spent, restarts and a replay: whatever has become
// of a key, answers are those of a walk over the raw events under the rules of each one's time.

import Events
import Ingest
import JSONText
import Normalizer
import Queries
import Replay
import RollupStore
import Rollups
import Testing

private let hour: Int64 = 3_600_000_000
private let begin: Int64 = 1_760_054_400_000_000
private let span = 9 * hour

private func at(_ microseconds: Int64) -> EventTime { EventTime(microseconds: microseconds) }

/// What the rules make of raw pairs, said a second time.
private struct Meaning {
    var renames: Bool
    var lowers: Bool
    var maps: Bool
    var drops: Bool
    var keepsCase: Bool
    /// Each element of a list is a value; else its JSON text is the value.
    var isMulti: Bool

    init(_ text: String) throws {
        let tree = try JSONValue.parse(text)
        renames = tree["keys"]?["aliases"]?["environment"] != nil
        lowers = tree["values"]?["case"]?["env"]?.string == "lower"
        maps = tree["values"]?["maps"]?["env"]?["prod"] != nil
        drops = tree["keys"]?["drop"]?.array?.isEmpty == false
        keepsCase = tree["keys"]?["case"]?.string == "keep"
        isMulti = tree["values"]?["arrays"]?["tags"]?.string == "multi"
    }

    func values(_ raw: [(String, [String])]) -> [String: [String]] {
        var out: [String: [String]] = [:]
        for (raw, values) in raw {
            let name = keepsCase ? raw : raw.lowercased()
            if drops && name == "secret" { continue }
            let key = renames && name == "environment" ? "env" : name
            if key == "tags" && !isMulti {
                out[key] = ["[" + values.map { "\"\($0)\"" }.joined(separator: ",") + "]"]
                continue
            }
            out[key] = values.map { value in
                if key != "env" { return value }
                let cased = lowers ? value.lowercased() : value
                return maps && cased == "prod" ? "production" : cased
            }
        }
        return out
    }
}

private struct Drawn {
    var event: RequestEvent
    var raw: [(String, [String])]
    /// What was dropped when it came is nowhere any more, whatever later rules say.
    var isHidden = false

    var kept: [(String, [String])] { isHidden ? raw.filter { $0.0 != "secret" } : raw }
}

private indirect enum Filter {
    case test(String, text: String, (_ values: [String]?) -> Bool)
    case not(Filter)
    case both(Filter, Filter)
    case either(Filter, Filter)

    var text: String {
        switch self {
        case .test(let key, let text, _): "metadata.\(key) \(text)"
        case .not(let filter): "not (\(filter.text))"
        case .both(let a, let b): "(\(a.text)) and (\(b.text))"
        case .either(let a, let b): "(\(a.text)) or (\(b.text))"
        }
    }

    func holds(_ pairs: [String: [String]]) -> Bool {
        switch self {
        case .test(let key, _, let test): test(pairs[key])
        case .not(let filter): !filter.holds(pairs)
        case .both(let a, let b): a.holds(pairs) && b.holds(pairs)
        case .either(let a, let b): a.holds(pairs) || b.holds(pairs)
        }
    }
}

private struct Maker {
    var random: Random
    static let keys = ["env", "environment", "team", "user", "trace", "tags", "rare7", "secret", "Region", "region"]

    mutating func below(_ bound: Int) -> Int { Int(random.next() % UInt64(bound)) }
    mutating func chance(_ percent: Int) -> Bool { below(100) < percent }
    mutating func one<Element>(_ list: [Element]) -> Element { list[below(list.count)] }

    mutating func rules() -> String {
        let classes = ["env", "team", "user", "tags"].filter { _ in chance(25) }
            .map { "\"\($0)\":\"\(one(["dimension", "entity", "identifier"]))\"" }
        let observe =
            chance(85)
            ? #"{"events":\#(100 + below(200)),"hour_events":\#(200 + below(800)),"many_values":\#(10 + below(60)),"rows_percent":\#(5 + below(60))}"#
            : #"{"enabled":false}"#
        let budgets =
            chance(60)
            ? #","budgets":{"sets":\#(20 + below(200)),"values":\#(4 + below(40)),"keys":\#(3 + below(8))}"# : ""
        let aliases = chance(50) ? #""environment":"env""# : ""
        let cases = chance(50) ? #""env":"lower""# : ""
        let maps = chance(50) ? #""env":{"prod":"production"}"# : ""
        let drop = chance(50) ? #""secret""# : ""
        let form = one(["multi", "multi", "json"])
        return
            #"{"version":1,"keys":{"case":"\#(one(["snake", "lower", "keep"]))","aliases":{\#(aliases)},"drop":[\#(drop)]},"#
            + #""values":{"case":{\#(cases)},"maps":{\#(maps)},"arrays":{"tags":"\#(form)"}},"#
            + #""classes":{\#(classes.joined(separator: ","))},"observe":\#(observe)\#(budgets)}"#
    }

    mutating func events(_ count: Int) -> [Drawn] {
        let users = one([5, 60, 5_000])
        return (0..<count).map { number in
            // In order of time, but for some that are late.
            let late = chance(8) ? Int64(below(Int(3 * hour))) : 0
            let time = at(max(begin, begin + span * Int64(number) / Int64(count) - late))
            var event = RequestEvent(id: EventID(time: time, random: (random.next(), UInt64(number))), time: time)
            event.workspace = chance(90) ? "default" : "other"
            event.requestModel = one(["a", "b"])
            event.status = one([200, 200, 500])
            event.outcome = Outcome(status: event.status)
            event.inputTokens = UInt64(below(1_000))
            var raw: [(String, [String])] = []
            if chance(85) { raw.append((chance(30) ? "environment" : "env", [one(["prod", "PROD", "Test"])])) }
            if chance(80) { raw.append(("team", ["t\(below(12))"])) }
            if chance(70) { raw.append(("user", ["u\(below(users))"])) }
            if chance(60) { raw.append(("trace", ["r\(number)"])) }
            if chance(40) { raw.append(("tags", ["blue", "green", "red"].filter { _ in chance(50) })) }
            if chance(10) { raw.append(("rare\(below(40))", ["x"])) }
            if chance(30) { raw.append((one(["Region", "region"]), [one(["eu", "us"])])) }
            if chance(15) { raw.append(("secret", ["s\(below(3))"])) }
            raw.removeAll { $0.1.isEmpty }
            event.metadataRaw =
                JSONValue.object(
                    raw.map { key, values in
                        let isList = key == "tags"
                        return JSONMember(
                            key: key, value: isList ? .array(values.map { .string($0) }) : .string(values[0]))
                    }
                ).bytes
            return Drawn(event: event, raw: raw)
        }
    }

    mutating func filter(_ depth: Int) -> Filter {
        if depth > 0, chance(50) {
            switch below(3) {
            case 0: return .not(filter(depth - 1))
            case 1: return .both(filter(depth - 1), filter(depth - 1))
            default: return .either(filter(depth - 1), filter(depth - 1))
            }
        }
        // Keys of many values, asked for some of them: what an index on events finds.
        let isByIndex = chance(40)
        let key = isByIndex ? one(["user", "trace", "tags", "team"]) : one(Self.keys)
        let wanted = (0..<2).map { _ in
            switch key {
            case "team": "t\(below(12))"
            case "user": "u\(below(8))"
            case "trace": "r\(below(300))"
            case "tags": one(["blue", "green", "red"])
            case "rare7": "x"
            case "secret": "s\(below(3))"
            case "region", "Region": one(["eu", "us"])
            default: one(["prod", "PROD", "production", "test", "Test"])
            }
        }
        switch below(isByIndex ? 2 : 4) {
        case 0: return .test(key, text: "= '\(wanted[0])'") { $0?.contains(wanted[0]) ?? false }
        case 1:
            return .test(key, text: "in ('\(wanted[0])', '\(wanted[1])')") { values in
                values?.contains(where: wanted.contains) ?? false
            }
        case 2: return .test(key, text: "exists") { $0 != nil }
        default:
            let prefix = String(wanted[0].prefix(2))
            return .test(key, text: "like '\(prefix)%'") { $0?.contains { $0.hasPrefix(prefix) } ?? false }
        }
    }
}

@Suite struct MetadataOracleTests {
    /// Some on each store; the one in the file is the fastest.
    static let worlds: [(StoreKind, Int)] = StoreKind.allCases.flatMap { kind in
        let all = rounds(8)
        let count = kind == .sqlite ? all : kind == .postgresql ? (all * 3 + 7) / 8 : (all + 3) / 4
        return (0..<count).map { (kind, $0) }
    }

    @Test(arguments: worlds)
    func answersAreThoseOfAWalkOverRawEvents(_ kind: StoreKind, _ world: Int) throws {
        let seed = UInt64.random(in: 0..<1_000_000_000)
        print("metadata oracle: \(kind) \(world), seed \(seed)")
        let isSlow = kind == .clickhouse
        var maker = Maker(random: Random(seed: seed))
        let texts = (0..<3).map { _ in maker.rules() }
        var drawn = maker.events(isSlow ? 400 : 900)
        let store = try kind.make()
        var place = 0
        var number = 0
        while place < drawn.count {
            // A restart, now and then with other rules.
            if place > 0, maker.chance(25) { number = min(number + 1, 1) }
            let rules = try Rules.decode(try JSONValue.parse(texts[number]))
            var ingest = try BudgetedIngest(store, rules, now: drawn[place].event.time)
            for _ in 0..<(3 + maker.below(5)) where place < drawn.count {
                let end = min(drawn.count, place + 30 + maker.below(isSlow ? 100 : 50))
                try ingest.apply(drawn[place..<end].map(\.event), at: place)
                // The configured rules hide in late events too.
                for index in place..<end { drawn[index].isHidden = try Meaning(texts[number]).drops }
                place = end
            }
            ingest.writer.close()
        }
        let timeline = try store.reader.read { try $0.rulesTimeline() }
        for index in drawn.indices {
            let time = drawn[index].event.time
            let rules = try #require(timeline.entries.last { $0.from <= time }).rules
            if try Meaning(rules.text).drops { drawn[index].isHidden = true }
        }
        for round in 0..<(isSlow ? 30 : 100) {
            try ask(&maker, drawn, store, texts, "seed \(seed), question \(round)")
        }
        try replay(&maker, drawn, store, texts, "seed \(seed)", questions: isSlow ? 10 : 40)
    }

    /// Under the same rules nothing changes; under others answers are theirs within the range.
    private func replay(
        _ maker: inout Maker, _ drawn: [Drawn], _ store: any StoreUnderTest, _ texts: [String], _ which: String,
        questions: Int
    ) throws {
        func run(_ plan: ReplayPlan) throws {
            var replays = try store.replays()
            let replay = try replays.begin(plan, now: at(begin + span))
            var options = ReplayOptions()
            options.stepEvents = 150
            var replayer = Replayer(
                replays, normalizer: Normalizer(rules: .builtIn, hash: nil), options: options,
                now: { at(begin + span) }, wait: { _ in false })
            guard case .swapped(let done) = try replayer.run(replay, reprice: nil) else {
                Issue.record("\(which): the replay did not come to its end")
                return
            }
            if plan.rules == nil { #expect(done.changed == 0, "\(which)") }
        }
        func plan(_ rules: RulesText?, _ from: Int64, _ to: Int64) -> ReplayPlan {
            ReplayPlan(
                asked: "\(rules?.fingerprint ?? "") \(from)", from: at(from), to: at(to), rules: rules, prices: nil,
                isDryRun: false)
        }
        let before = try Count(reading: store.reader)
        try run(plan(nil, begin, begin + span))
        #expect(try Count(reading: store.reader) == before, "\(which)")
        let rules = RulesText(try Rules.decode(try JSONValue.parse(texts[2])))
        let from = begin + Int64(maker.below(Int(span / 2)))
        try run(plan(rules, from, from + Int64(1 + maker.below(Int(span / 2)))))
        for round in 0..<questions {
            try ask(&maker, drawn, store, texts, "\(which), question \(round) after the replay")
        }
        try expectTheIndexHoldsAll(store, &maker.random, isWhole: false, "\(which), after the replay")
    }

    /// Page by page, newest first.
    private func expectListed(
        _ events: [RequestEvent], _ filter: Filter, _ store: any StoreUnderTest, from: Int64, to: Int64,
        _ context: String
    ) throws {
        let condition = try ConditionParser.parse(filter.text)
        var listed: [String] = []
        var cursor: EventCursor?
        try store.reader.read { snapshot in
            repeat {
                let page = try QueryEngine().events(
                    matching: condition, from: at(from), to: at(to), after: cursor, limit: 120,
                    workspace: "default", snapshot: snapshot)
                listed += page.events.compactMap { $0["id"]?.string }
                cursor = page.next
            } while cursor != nil
        }
        let expected = events.sorted { ($0.time, $0.id) > ($1.time, $1.id) }.map { "\($0.id)" }
        #expect(listed == expected, "\(context)")
    }

    /// Keys and their values as the listings have them, counted by hand. What a budget has left out of a set under no
    /// name of its own (`(other)`) is of some key, and nobody knows of which.
    private func expectListedKeys(
        _ events: [(event: RequestEvent, pairs: [String: [String]])], _ key: String, _ store: any StoreUnderTest,
        from: Int64, to: Int64, _ context: String
    ) throws {
        struct Expected {
            var requests: Int64 = 0
            var values: [String: Int64] = [:]
            var first = Int64.max
            var last = Int64.min
        }
        var expected: [String: Expected] = [:]
        for (event, pairs) in events {
            for (key, values) in pairs {
                var found = expected[key] ?? Expected()
                found.requests += 1
                for value in Set(values) { found.values[value, default: 0] += 1 }
                found.first = min(found.first, event.time.microseconds)
                found.last = max(found.last, event.time.microseconds)
                expected[key] = found
            }
        }
        let (listing, values) = try store.reader.read { snapshot in
            (
                try QueryEngine().metadataKeys(from: at(from), to: at(to), workspace: "default", snapshot: snapshot),
                try QueryEngine().metadataValues(
                    of: key, prefix: "", limit: 1_000, from: at(from), to: at(to), workspace: "default",
                    snapshot: snapshot)
            )
        }
        let leftOut = listing.keys.first { $0.key == MetadataValue.filedName }?.requests ?? 0
        #expect(listing.missing.isEmpty && values.missing.isEmpty, "\(context)")
        #expect(leftOut > 0 || Set(listing.keys.map(\.key)) == Set(expected.keys), "\(context): keys")
        for row in listing.keys where row.key != MetadataValue.filedName {
            let wanted = expected[row.key] ?? Expected()
            let context = "\(context): \(row), not \(wanted)"
            #expect(row.requests <= wanted.requests && wanted.requests <= row.requests + leftOut, "\(context)")
            #expect(row.distinct <= wanted.values.count && row.filed <= row.requests, "\(context)")
            if row.isExact {
                #expect(row.requests == wanted.requests && row.distinct == wanted.values.count, "\(context)")
            }
            #expect(row.isExact || row.filed > 0 || leftOut > 0, "\(context)")
            // The beginning of the bucket that it was in.
            if leftOut == 0 {
                #expect(row.firstSeen.microseconds <= wanted.first, "\(context)")
                #expect(wanted.first < row.firstSeen.microseconds + hour, "\(context)")
                #expect(row.lastSeen.microseconds <= wanted.last, "\(context)")
                #expect(wanted.last < row.lastSeen.microseconds + hour, "\(context)")
            }
        }
        let wanted = expected[key]?.values ?? [:]
        let filed = values.values.first { $0.value == MetadataValue.filedName }?.requests ?? 0
        for (value, requests) in values.values where value != MetadataValue.filedName {
            #expect(requests <= wanted[value] ?? 0, "\(context): \(key) \(value)")
        }
        if values.isExact || leftOut == 0 && filed == 0, wanted.count <= 1_000 {
            #expect(values.isExact, "\(context): \(key)")
            let found = Dictionary(uniqueKeysWithValues: values.values.map { ($0.value, $0.requests) })
            #expect(found == wanted, "\(context): \(key)")
        }
    }

    private func ask(
        _ maker: inout Maker, _ drawn: [Drawn], _ store: any StoreUnderTest, _ texts: [String], _ which: String
    ) throws {
        var meanings: [String: Meaning] = [:]
        for text in texts {
            meanings[RulesText(try Rules.decode(try JSONValue.parse(text))).fingerprint] = try Meaning(text)
        }
        let unit = maker.one([1, 60_000_000, hour])
        var ends = (0..<2).map { _ in begin + Int64(maker.below(Int(span))) / unit * unit }.sorted()
        if maker.chance(20) { ends = [begin, begin + span + hour] }
        if ends[0] == ends[1] { ends[1] += 1 }
        let filter = maker.chance(80) ? maker.filter(2) : nil
        var keys: [String] = []
        for _ in 0..<maker.below(3) {
            let key = maker.one(Maker.keys)
            if !keys.contains(key) { keys.append(key) }
        }
        let counted = maker.one(Maker.keys)
        let isHourly = maker.chance(40)
        var input = QuestionInput()
        input.from = RFC3339.precise(at(ends[0]))
        input.to = RFC3339.precise(at(ends[1]))
        input.granularity = isHourly ? "hour" : "total"
        input.filter = filter?.text
        // The view in which an event counts under each element of its list.
        let isOverlapping = maker.chance(40)
        input.groupBy = keys.map { $0 == "tags" && isOverlapping ? "each(metadata.tags)" : "metadata.\($0)" }
        input.measures = ["requests", "input_tokens", "errors", "distinct.metadata.\(counted)"]
        // What lies beyond the limit is one rest a bucket.
        let limit = maker.chance(30) ? 1 + maker.below(4) : 10_000
        input.limit = limit
        let question = try Question(input, now: at(ends[1])) { _ in nil }
        let (answer, timeline) = try store.reader.read {
            (
                try QueryEngine().answer(question, workspace: "default", snapshot: $0),
                try $0.rulesTimeline()
            )
        }
        let context = "\(which): \(input) \(answer.plan.reason)"

        // The walk.
        struct Place: Hashable {
            var bucket: String?
            var group: [MetadataValue?]
        }
        var found: [Place: [(event: RequestEvent, pairs: [String: [String]])]] = [:]
        var total: [(event: RequestEvent, pairs: [String: [String]])] = []
        for sample in drawn where sample.event.workspace == "default" {
            let time = sample.event.time
            guard time.microseconds >= ends[0], time.microseconds < ends[1] else { continue }
            let rules = try #require(timeline.entries.last { $0.from <= time }?.rules.configured)
            let meaning = try #require(meanings[rules])
            let pairs = meaning.values(sample.kept)
            guard filter?.holds(pairs) ?? true else { continue }
            var groups: [[MetadataValue?]] = [[]]
            for key in keys {
                let values: [MetadataValue?] =
                    if key == "tags", meaning.isMulti, let list = pairs[key] {
                        isOverlapping ? list.map { .text($0) } : [.list(list)]
                    } else {
                        [pairs[key].map { .text($0[0]) }]
                    }
                groups = groups.flatMap { group in values.map { group + [$0] } }
            }
            let bucket = isHourly ? RFC3339.precise(at(time.microseconds / hour * hour)) : nil
            for group in groups {
                found[Place(bucket: bucket, group: group), default: []].append((sample.event, pairs))
            }
            total.append((sample.event, pairs))
        }
        func figures(_ events: [(event: RequestEvent, pairs: [String: [String]])]) -> [MeasureValue] {
            let values = [
                events.count, events.reduce(0) { $0 + Int($1.event.inputTokens) },
                events.count { $0.event.status >= 400 }, Set(events.flatMap { $0.pairs[counted] ?? [] }).count,
            ]
            return values.map { .integer(Int64($0)) }
        }
        if filter == nil {
            try expectListedKeys(total, maker.one(Maker.keys), store, from: ends[0], to: ends[1], context)
        }
        if let filter, maker.chance(30) {
            try expectListed(total.map(\.event), filter, store, from: ends[0], to: ends[1], context)
        }
        #expect(answer.exact, "\(context)")
        #expect(answer.totals == figures(total), "\(context)")
        if limit == 10_000 { #expect(answer.data.count == found.count && answer.other.isEmpty, "\(context)") }
        if !(isOverlapping && keys.contains("tags")) {
            // Groups and rests together are the total, in what adds up: requests, tokens, errors.
            for measure in 0..<3 {
                func number(_ value: MeasureValue) -> Int64 {
                    if case .integer(let number) = value { number } else { 0 }
                }
                let sum = (answer.data.map(\.values) + answer.other.map(\.values)).reduce(0) {
                    $0 + number($1[measure])
                }
                #expect(sum == number(answer.totals[measure]), "\(context)")
            }
        }
        for row in answer.data {
            let bucket = row.bucket.map { RFC3339.precise(RFC3339.parse($0) ?? at(0)) }
            guard let events = found[Place(bucket: bucket, group: row.group)] else {
                Issue.record("\(context): nothing is of \(row)")
                continue
            }
            #expect(row.values == figures(events), "\(context): \(row)")
        }
    }
}
