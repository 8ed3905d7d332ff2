// The oracle: random events and random questions, answered once by the engine from rollups and events, and once by
// walking over all raw events in the plainest way there is.

import Events
import Foundation
import JSONText
import Queries
import RollupStore
import Rollups
import Testing

/// A filter as the oracle sees it, with its text.
private indirect enum Filter {
    case equals(String, String)
    case differs(String, String)
    case isIn(String, [String])
    case isNotIn(String, [String])
    case exists(String)
    case like(String, String)
    case compares(String, String, Double)
    case not(Filter)
    case and(Filter, Filter)
    case or(Filter, Filter)

    var text: String {
        func quoted(_ value: String) -> String { "'" + value.replacingOccurrences(of: "'", with: "''") + "'" }
        func list(_ values: [String]) -> String { "(" + values.map(quoted).joined(separator: ", ") + ")" }
        switch self {
        case .equals(let name, let value): return "\(name) = \(quoted(value))"
        case .differs(let name, let value): return "\(name)!=\(quoted(value))"
        case .isIn(let name, let values): return "\(name) IN \(list(values))"
        case .isNotIn(let name, let values): return "\(name) not in \(list(values))"
        case .exists(let name): return "\(name) exists"
        case .like(let name, let prefix): return "\(name) Like \(quoted(prefix + "%"))"
        case .compares(let name, let symbol, let bound): return "\(name) \(symbol) \(bound)"
        case .not(let inner): return "not (\(inner.text))"
        case .and(let a, let b): return "(\(a.text)) AND (\(b.text))"
        case .or(let a, let b): return "(\(a.text)) or (\(b.text))"
        }
    }

    func matches(_ sample: SampleEvent) -> Bool {
        switch self {
        case .equals(let name, let value): return Oracle.values(name, sample).contains(value)
        case .differs(let name, let value): return !Oracle.values(name, sample).contains(value)
        case .isIn(let name, let list): return Oracle.values(name, sample).contains { list.contains($0) }
        case .isNotIn(let name, let list): return !Oracle.values(name, sample).contains { list.contains($0) }
        case .exists(let name): return Oracle.value(name, sample) != nil
        case .like(let name, let prefix):
            return Oracle.values(name, sample).contains { $0.hasPrefix(prefix) || prefix.isEmpty }
        case .compares(let name, let symbol, let bound):
            guard let number = Oracle.number(name, sample.event) else { return false }
            switch symbol {
            case "<": return number < bound
            case "<=": return number <= bound
            case ">": return number > bound
            case ">=": return number >= bound
            default: return number == bound
            }
        case .not(let inner): return !inner.matches(sample)
        case .and(let a, let b): return a.matches(sample) && b.matches(sample)
        case .or(let a, let b): return a.matches(sample) || b.matches(sample)
        }
    }
}

private enum Oracle {
    static func value(_ name: String, _ sample: SampleEvent) -> MetadataValue? {
        func text(_ value: String) -> MetadataValue? { value.isEmpty ? nil : .text(value) }
        switch name {
        case "provider": return text(sample.event.provider)
        case "operation": return text(sample.event.operation)
        case "model":
            return text(sample.event.responseModel.isEmpty ? sample.event.requestModel : sample.event.responseModel)
        case "outcome": return text(sample.event.outcome.name)
        case "status_class": return sample.event.status == 0 ? nil : .text("\(sample.event.status / 100)xx")
        case "api_key": return text(sample.event.apiKey)
        default:
            let key = name.dropFirst(9).replacingOccurrences(of: "\"", with: "")
            return sample.pairs[key] ?? sample.extra[key]
        }
    }

    static func values(_ name: String, _ sample: SampleEvent) -> [String] { value(name, sample)?.values ?? [] }

    static func number(_ name: String, _ event: RequestEvent) -> Double? {
        switch name {
        case "latency_ms": event.latencyMicroseconds.map { Double($0) / 1000 }
        case "cost_usd": event.cost.map { Double($0.amount) / 1e9 }
        case "input_tokens": Double(event.inputTokens)
        case "output_tokens": Double(event.outputTokens)
        case "total_tokens": Double(event.inputTokens + event.outputTokens)
        default: event.status == 0 ? nil : Double(event.status)
        }
    }

    /// A number, and for percentiles how far it may be off.
    static func measure(_ name: String, _ events: [SampleEvent]) -> Double? {
        func sum(_ of: (RequestEvent) -> UInt64) -> Double { Double(events.reduce(0) { $0 + of($1.event) }) }
        let errors = events.count { ["client_error", "provider_error", "timeout"].contains($0.event.outcome.name) }
        switch name {
        case "requests": return Double(events.count)
        case "errors": return Double(errors)
        case "error_rate": return events.isEmpty ? nil : Double(errors) / Double(events.count)
        case "cost_usd": return Double(events.reduce(0) { $0 + ($1.event.cost?.amount ?? 0) })
        case "input_tokens": return sum(\.inputTokens)
        case "output_tokens": return sum(\.outputTokens)
        case "total_tokens": return sum(\.inputTokens) + sum(\.outputTokens)
        case "cached_tokens": return sum(\.cachedTokens)
        case "reasoning_tokens": return sum(\.reasoningTokens)
        case "request_bytes": return sum(\.requestBytes)
        case "response_bytes": return sum(\.responseBytes)
        default: break
        }
        if name.hasPrefix("distinct.") {
            return Double(Set(events.flatMap { values(String(name.dropFirst(9)), $0) }).count)
        }
        let parts = name.split(separator: ".")
        let timings = events.compactMap { sample in
            switch parts[0] {
            case "latency_ms": sample.event.latencyMicroseconds
            case "first_token_ms": sample.event.firstTokenMicroseconds
            default: sample.event.overheadMicroseconds
            }
        }.sorted()
        if timings.isEmpty { return nil }
        guard let percent = Double(parts[1].dropFirst()) else {
            return Double(timings.reduce(0, +)) / Double(timings.count) / 1000
        }
        return Double(timings[max(1, Int((percent / 100 * Double(timings.count)).rounded(.up))) - 1]) / 1000
    }

    /// Where the local clock stood at the beginning of the event's bucket.
    static func bucket(_ time: EventTime, _ granularity: String, _ zone: TimeZone, _ calendar: Calendar) -> String? {
        let seconds = Int((Double(time.microseconds) / 1e6).rounded(.down))
        let offset = zone.secondsFromGMT(for: Date(timeIntervalSince1970: Double(seconds)))
        let start: Int
        switch granularity {
        case "minute": start = seconds - (seconds + offset) % 60
        case "hour": start = seconds - (seconds + offset) % 3600
        case "day":
            start = Int(calendar.startOfDay(for: Date(timeIntervalSince1970: Double(seconds))).timeIntervalSince1970)
        default: return nil
        }
        let atStart = zone.secondsFromGMT(for: Date(timeIntervalSince1970: Double(start)))
        let parts = calendar.dateComponents(
            [.year, .month, .day, .hour, .minute, .second], from: Date(timeIntervalSince1970: Double(start)))
        func two(_ value: Int?) -> String { String(format: "%02d", value ?? -1) }
        let suffix = (atStart < 0 ? "-" : "+") + two(abs(atStart) / 3600) + ":" + two(abs(atStart) / 60 % 60)
        return "\(parts.year ?? 0)-\(two(parts.month))-\(two(parts.day))T\(two(parts.hour)):\(two(parts.minute)):"
            + two(parts.second) + (calendar.timeZone.identifier == "GMT" ? "Z" : suffix)
    }
}

/// A random world and random questions about it.
private struct Maker {
    var random: SeededGenerator
    static let base: Int64 = RFC3339.parse("2026-10-24T00:00:00Z")?.microseconds ?? 0
    static let span: Int64 = 4 * 86_400_000_000
    static let zones = ["UTC", "Europe/Paris", "America/New_York", "Asia/Kathmandu", "Asia/Kolkata"]
    static let names = [
        "provider", "operation", "model", "outcome", "status_class", "api_key", "metadata.env", "metadata.team",
        "metadata.tags", "metadata.\"any key\"", "metadata.missing", "metadata.user",
    ]
    static let vocabulary: [String: [String]] = [
        "provider": ["openai", "anthropic"], "operation": ["chat", "embeddings"],
        "model": ["gpt-4o", "gpt-4o-mini", "claude", "none"],
        "outcome": ["success", "client_error", "provider_error", "timeout", "cancelled"],
        "status_class": ["2xx", "4xx", "5xx"], "api_key": ["k1", "k2"],
        "metadata.env": ["production", "staging", "dev", ""], "metadata.team": ["a", "b", "x'y", "Zoë", "12"],
        "metadata.tags": ["red", "blue", "green"], "metadata.\"any key\"": ["1", "true", "a b"],
        "metadata.missing": ["x"], "metadata.user": ["u1", "u2", "u3", "u4", "u5"],
    ]
    static let measures =
        Measure.names + ["distinct.metadata.team", "distinct.metadata.tags", "distinct.metadata.user"]

    mutating func one<T>(_ list: [T]) -> T { list[Int.random(in: 0..<list.count, using: &random)] }
    mutating func chance(_ percent: Int) -> Bool { Int.random(in: 0..<100, using: &random) < percent }
    mutating func value(_ name: String) -> String { one(Self.vocabulary[name] ?? ["x"]) }

    mutating func events(_ count: Int) -> [SampleEvent] {
        (0..<count).map { index in
            let time = EventTime(microseconds: Self.base + Int64.random(in: 0..<Self.span, using: &random))
            var event = RequestEvent(id: EventID(time: time, random: (random.next(), random.next())), time: time)
            event.workspace = chance(90) ? "default" : "other"
            event.provider = value("provider")
            event.operation = chance(90) ? value("operation") : ""
            event.requestModel = value("model")
            event.responseModel = chance(50) ? value("model") : ""
            event.apiKey = chance(80) ? value("api_key") : ""
            event.status = one([200, 200, 200, 200, 400, 429, 500, 504, 0])
            event.outcome = event.status == 0 ? .cancelled : Outcome(status: event.status)
            event.inputTokens = UInt64.random(in: 0..<2000, using: &random)
            event.outputTokens = UInt64.random(in: 0..<900, using: &random)
            event.cachedTokens = UInt64.random(in: 0..<20, using: &random)
            event.reasoningTokens = UInt64.random(in: 0..<20, using: &random)
            event.cost = chance(85) ? NanoUSD(Int64.random(in: 0..<90_000_000, using: &random)) : nil
            event.requestBytes = UInt64.random(in: 0..<5000, using: &random)
            event.responseBytes = UInt64.random(in: 0..<5000, using: &random)
            event.latencyMicroseconds = chance(95) ? UInt64.random(in: 50..<9_000_000, using: &random) : nil
            event.firstTokenMicroseconds = chance(40) ? UInt64.random(in: 50..<900_000, using: &random) : nil
            event.overheadMicroseconds = chance(95) ? UInt64.random(in: 20..<2000, using: &random) : nil
            var sample = SampleEvent(event: event)
            if chance(90) { sample.pairs["env"] = .text(value("metadata.env")) }
            if chance(70) { sample.pairs["team"] = .text(value("metadata.team")) }
            if chance(20) { sample.pairs["any key"] = .text(value("metadata.\"any key\"")) }
            if chance(50) {
                let tags = ["blue", "green", "red"].filter { _ in chance(50) }
                sample.pairs["tags"] = .list(tags.isEmpty ? ["red"] : tags)
            }
            if chance(80) { sample.extra["user"] = .text(value("metadata.user")) }
            return sample
        }
    }

    /// Rules that gave some keys another class at a few instants, whole hours and odd ones.
    mutating func classHistory() -> RulesTimeline {
        let keys = ["user", "team", "tags", "any key"]
        var starts: Set<Int64> = []
        for _ in 0..<Int.random(in: 1...4, using: &random) { starts.insert(instant().microseconds) }
        let entries = ([0] + starts.sorted()).enumerated().map { index, from in
            let classes = keys.map { "\"\($0)\":\"\(one(["dimension", "dimension", "entity", "identifier"]))\"" }
            let rules = RulesText(
                fingerprint: "\(index)", text: #"{"version":1,"classes":{\#(classes.joined(separator: ","))}}"#)
            return RulesTimeline.Entry(from: EventTime(microseconds: from), rules: rules)
        }
        return RulesTimeline(entries: entries, version: Int64(entries.count))
    }

    /// Each key where the rules of the event's own time put it.
    static func placed(_ events: [SampleEvent], under timeline: RulesTimeline) throws -> [SampleEvent] {
        try events.map { sample in
            var placed = sample
            placed.entities = []
            let text = timeline.entries.last { $0.from <= sample.event.time }?.rules.text ?? "{}"
            for member in try JSONValue.parse(text)["classes"]?.members ?? [] {
                let value = sample.pairs[member.key] ?? sample.extra[member.key]
                let isDimension = member.value.string == "dimension"
                placed.pairs[member.key] = isDimension ? value : nil
                placed.extra[member.key] = isDimension ? nil : value
                if member.value.string == "entity" { placed.entities.append(member.key) }
            }
            return placed
        }
    }

    mutating func filter(_ depth: Int, numbers: Bool) -> Filter {
        if depth > 0, chance(55) {
            switch Int.random(in: 0..<3, using: &random) {
            case 0: return .not(filter(depth - 1, numbers: numbers))
            case 1: return .and(filter(depth - 1, numbers: numbers), filter(depth - 1, numbers: numbers))
            default: return .or(filter(depth - 1, numbers: numbers), filter(depth - 1, numbers: numbers))
            }
        }
        if numbers, chance(30) {
            let symbol = one(["<", "<=", "=", ">=", ">"])
            switch one(["latency_ms", "cost_usd", "input_tokens", "output_tokens", "total_tokens", "status"]) {
            case "latency_ms": return .compares("latency_ms", symbol, Double(Int.random(in: 0..<9000, using: &random)))
            case "cost_usd": return .compares("cost_usd", symbol, Double(Int.random(in: 0..<90, using: &random)) / 1000)
            case "status": return .compares("status", symbol, one([200, 400, 429, 500]))
            case let name: return .compares(name, symbol, Double(Int.random(in: 0..<2000, using: &random)))
            }
        }
        // What only events hold is asked seldom, so that rollups are.
        let name = chance(92) ? one(Self.names.filter { $0 != "metadata.user" }) : "metadata.user"
        switch Int.random(in: 0..<6, using: &random) {
        case 0: return .equals(name, value(name))
        case 1: return .differs(name, value(name))
        case 2: return .isIn(name, [value(name), value(name)])
        case 3: return .isNotIn(name, [value(name), value(name)])
        case 4: return .exists(name)
        default: return .like(name, String(value(name).prefix(Int.random(in: 0..<4, using: &random))))
        }
    }

    mutating func instant() -> EventTime {
        let offset = Int64.random(in: -Self.span / 8..<Self.span + Self.span / 8, using: &random)
        let unit = one([1, 1_000_000, 60_000_000, 3_600_000_000, 86_400_000_000] as [Int64])
        return EventTime(microseconds: Self.base + offset / unit * unit)
    }
}

@Suite struct OracleTests {
    /// From the tenth world on keys change their class within the ranges.
    @Test(arguments: 0..<16)
    func randomQuestionsAreAnsweredAsByAWalkOverAllEvents(world: Int) throws {
        let seed = UInt64.random(in: 0..<1_000_000_000)
        print("oracle: world \(world), seed \(seed)")
        var maker = Maker(random: SeededGenerator(seed: seed))
        var events = maker.events(300)
        var retention = FakeStore.Retention()
        if world % 3 == 1 {
            // Minutes and hours are gone before some instant; events are all there.
            retention.grains[.minute] = EventTime(microseconds: Maker.base + 2 * 86_400_000_000 + 60_000_000 * 77)
            retention.grains[.hour] = EventTime(microseconds: Maker.base + 86_400_000_000)
            retention.grains[.entityHour] = retention.grains[.hour]
        } else if world % 3 == 2 {
            retention.events = EventTime(microseconds: Maker.base + 86_400_000_000)
        }
        let history = world < 10 ? nil : maker.classHistory()
        if let history { events = try Maker.placed(events, under: history) }
        var store = FakeStore(events, retention: retention)
        if let history { store.timeline = history }
        let engine = QueryEngine()
        var refused = 0
        for number in 0..<220 {
            do {
                try ask(&maker, events, store, engine, "seed \(seed), question \(number)")
            } catch let error as QueryError where error.code == .pastRetention {
                #expect(retention.events != nil, "seed \(seed), question \(number): \(error)")
                refused += 1
            }
        }
        #expect(refused < 200)
    }

    private func ask(
        _ maker: inout Maker, _ events: [SampleEvent], _ store: FakeStore, _ engine: QueryEngine, _ which: String
    ) throws {
        var (from, to) = (maker.instant(), maker.instant())
        if from > to { (from, to) = (to, from) }
        if from == to { to.microseconds += 1 }
        var input = QuestionInput()
        input.from = RFC3339.precise(from)
        input.to = RFC3339.precise(to)
        let granularity = maker.one(["total", "total", "minute", "hour", "day"])
        input.granularity = granularity
        let zoneName = maker.one(Maker.zones)
        input.timezone = zoneName
        let numbers = maker.chance(25)
        let filter = maker.chance(80) ? maker.filter(3, numbers: numbers) : nil
        input.filter = filter?.text
        let groups = Int.random(in: 0...3, using: &maker.random)
        var names: [String] = []
        for _ in 0..<groups {
            let name = maker.chance(95) ? maker.one(Maker.names.filter { $0 != "metadata.user" }) : "metadata.user"
            if !names.contains(name) { names.append(name) }
        }
        let each = maker.chance(15) && !names.contains("metadata.tags")
        if each { names.append("each(metadata.tags)") }
        input.groupBy = names
        var measures: [String] = []
        for _ in 0..<4 {
            let measure = maker.one(Maker.measures.filter { $0 != "distinct.metadata.user" || numbers })
            if !measures.contains(measure) { measures.append(measure) }
        }
        input.measures = measures
        var order = maker.chance(50) ? nil : maker.one(measures + names)
        var descending = order == nil
        if order != nil, maker.chance(50) { descending = true }
        input.orderBy = order.map { (descending ? "-" : "") + $0 }
        if order == nil { order = measures[0] }
        let orderIsEstimate = order.map { $0.contains(".p") && !$0.contains("metadata") } ?? false
        let limit = orderIsEstimate ? 10_000 : maker.one([1, 2, 5, 100])
        input.limit = limit

        let question = try Question(input, now: to) {
            try? Array(Data(contentsOf: URL(filePath: "/usr/share/zoneinfo/\($0)")))
        }
        let answer = try store.read {
            try engine.answer(question, workspace: "default", snapshot: $0)
        }
        let context = "\(which): \(input)"
        // In parts it is the same text.
        var text: [UInt8] = []
        let size = Int.random(in: 1...4_000, using: &maker.random)
        let isWhole = answer.write(inPartsOf: size) { part in
            text += part
            return true
        }
        #expect(isWhole && text == answer.bytes, "\(context)")

        // The walk.
        let matching = events.filter {
            $0.event.workspace == "default" && $0.event.time >= from && $0.event.time < to
                && (filter?.matches($0) ?? true)
        }
        let zone = try #require(TimeZone(identifier: zoneName))
        var calendar = Calendar(identifier: .gregorian)
        calendar.timeZone = zone
        var byGroup: [[MetadataValue?]: [SampleEvent]] = [:]
        for sample in matching {
            var keys: [[MetadataValue?]] = [[]]
            for name in names {
                let choices: [MetadataValue?]
                if name.hasPrefix("each(") {
                    let values = Oracle.values("metadata.tags", sample)
                    choices = values.isEmpty ? [nil] : values.map { .text($0) }
                } else {
                    choices = [Oracle.value(name, sample)]
                }
                keys = keys.flatMap { key in choices.map { key + [$0] } }
            }
            for key in keys { byGroup[key, default: []].append(sample) }
        }
        func bytes(_ value: MetadataValue?) -> String {
            switch value {
            case nil: ""
            case .text(let text): "1" + text
            case .list, .filed: "1" + (value?.json.text ?? "")
            }
        }
        func before(_ a: String, _ b: String) -> Bool { a.utf8.lexicographicallyPrecedes(b.utf8) }
        let ranked = byGroup.keys.sorted { a, b in
            if let order, let index = names.firstIndex(of: order) {
                if bytes(a[index]) != bytes(b[index]) { return before(bytes(a[index]), bytes(b[index])) != descending }
            } else if let order {
                let (x, y) = (Oracle.measure(order, byGroup[a] ?? []), Oracle.measure(order, byGroup[b] ?? []))
                if x != y {
                    guard let x, let y else { return x != nil }
                    return (x < y) != descending
                }
            }
            for (x, y) in zip(a, b) where bytes(x) != bytes(y) { return before(bytes(x), bytes(y)) }
            return false
        }
        let top = Array(ranked.prefix(limit))
        let labels = Dictionary(
            uniqueKeysWithValues: matching.map {
                ($0.event.id, Oracle.bucket($0.event.time, granularity, zone, calendar))
            })
        func split(_ events: [SampleEvent]) -> [String?: [SampleEvent]] {
            Dictionary(grouping: events) { labels[$0.event.id] ?? nil }
        }

        var seen = Set<String>()
        var places: [String?: Int] = [:]
        let rankOf = Dictionary(uniqueKeysWithValues: top.enumerated().map { ($1, $0) })
        let splitByGroup = byGroup.mapValues(split)
        for row in answer.data {
            let expected = splitByGroup[row.group]?[row.bucket]
            #expect(expected != nil, "\(context): no events for \(row)")
            #expect(seen.insert("\(row.bucket ?? "") \(row.group)").inserted, "\(context): \(row) twice")
            compare(row.values, measures, expected ?? [], "\(context): \(row)")
            guard let rank = rankOf[row.group] else {
                Issue.record("\(context): \(row) is not among the first \(limit)")
                continue
            }
            if !orderIsEstimate {
                #expect(places[row.bucket] ?? -1 < rank, "\(context): \(row) out of order")
                places[row.bucket] = rank
            }
        }
        let expectedRows = top.reduce(0) { $0 + (splitByGroup[$1]?.count ?? 0) }
        #expect(answer.data.count == expectedRows, "\(context): rows")
        compare(answer.totals, measures, matching, "\(context): totals")
        if !each {
            let rest = ranked.dropFirst(limit).flatMap { byGroup[$0] ?? [] }
            let restByBucket = split(rest)
            #expect(answer.other.count == restByBucket.count, "\(context): other")
            for other in answer.other {
                compare(other.values, measures, restByBucket[other.bucket] ?? [], "\(context): other \(other)")
                let groups = ranked.dropFirst(limit).count { splitByGroup[$0]?[other.bucket] != nil }
                #expect(other.groups == groups, "\(context): groups of other")
            }
        }
        #expect(answer.overlapping == each)
    }

    private func compare(_ values: [MeasureValue], _ names: [String], _ events: [SampleEvent], _ context: String) {
        #expect(values.count == names.count)
        for (name, value) in zip(names, values) {
            let expected = Oracle.measure(name, events)
            switch value {
            case .null: #expect(expected == nil, "\(context): \(name)")
            case .integer(let number): #expect(expected == Double(number), "\(context): \(name)")
            case .nanos(let number): #expect(expected == Double(number), "\(context): \(name)")
            case .number(let number):
                guard let expected else {
                    Issue.record("\(context): \(name) of nothing")
                    continue
                }
                let isEstimate = name.contains(".p")
                let allowed = isEstimate ? expected * 0.0101 + 0.001 : 1e-6
                #expect(abs(number - expected) <= allowed, "\(context): \(name) is \(expected)")
            }
        }
    }
}
