// Classes by observation: what the evidence says, that it is the store's own, and that a verdict is made once.

import EventCodec
import Events
import Ingest
import JSONText
import Normalizer
import RecordLog
import RollupStore
import Rollups
import Testing

private func at(_ microseconds: Int64) -> EventTime { EventTime(microseconds: microseconds) }

private func rules(_ text: String) throws -> Rules { try Rules.decode(try JSONValue.parse(text)) }

private let hour: Int64 = 3_600_000_000
private let begin: Int64 = 1_760_004_000_000_000

@Suite struct ClassEvidenceTests {
    private static let eager =
        #"{"version":1,"observe":{"events":100,"hour_events":1000,"many_values":60,"rows_percent":25}}"#

    /// One event a line of metadata; equal ones of an hour are one row.
    private func evidence(_ metadata: [[String: String]], hour: Int32 = 1) -> ClassEvidence {
        var evidence = ClassEvidence()
        add(metadata, hour, to: &evidence)
        return evidence
    }

    private func add(_ metadata: [[String: String]], _ hour: Int32, to evidence: inout ClassEvidence) {
        var counts: [[String: String]: Int64] = [:]
        for pairs in metadata { counts[pairs, default: 0] += 1 }
        let rows = counts.map { pairs, count -> HourRow in
            let members = pairs.sorted { $0.key.utf8.lexicographicallyPrecedes($1.key.utf8) }
                .map { JSONMember(key: $0.key, value: .string($0.value)) }
            return HourRow(
                series: SeriesKey(
                    workspace: "default", apiKey: "k", provider: "openai", operation: "chat", model: "m",
                    outcome: .success, statusClass: 2, set: JSONValue.object(members).bytes), requests: count)
        }
        evidence.add(hour, rows)
    }

    private func classes(_ evidence: ClassEvidence, _ text: String = eager) throws -> [String: KeyClass] {
        Dictionary(
            uniqueKeysWithValues: evidence.verdict(under: try rules(text), room: 1_000).found.map {
                (String(decoding: $0.key, as: UTF8.self), $0.value.keyClass)
            })
    }

    @Test func oneValueARequestIsAnIdentifierAndManyValuesAreAnEntity() throws {
        let given = (0..<2_000).map { number in
            ["env": "e\(number % 3)", "request \"id\"": "r\(number)", "user": "u\(number * 7 % 601)"]
        }
        let found = try classes(evidence(given))
        #expect(found == [#"request "id""#: .identifier, "user": .entity])
    }

    @Test func theKeyThatMultipliesMostGoesFirst() throws {
        // 3 x 20 x 50 combinations of 4,000 events: without the 50 there are 60.
        var random = Random(seed: 7)
        let given = (0..<4_000).map { _ in
            ["env": "e\(random.next() % 3)", "team": "t\(random.next() % 20)", "feature": "f\(random.next() % 50)"]
        }
        #expect(try classes(evidence(given)) == ["feature": .entity])
        // In a slow hour it has too few values for that.
        #expect(try classes(evidence(Array(given[..<900]))).isEmpty)
        // Named by the rules it stays, and the next one goes.
        let named = Self.eager.dropLast() + #","classes":{"feature":"dimension"}}"#
        #expect(try classes(evidence(given), String(named)) == ["team": .entity])
    }

    /// Hours with too few events for any key to go, and many of them.
    @Test func slowHoursSpeakTogether() throws {
        var random = Random(seed: 11)
        var (mixed, again, few) = (ClassEvidence(), ClassEvidence(), ClassEvidence())
        for hour in 0..<24 as Range<Int32> {
            let given = (0..<200).map { _ in
                ["env": "e\(random.next() % 3)", "team": "t\(random.next() % 20)", "feature": "f\(random.next() % 50)"]
            }
            add(given, hour, to: &mixed)
            if hour < 4 { add(given, hour, to: &few) }
            // Each combination once an hour, and the same ones every hour.
            let once = (0..<200).map { ["team": "t\($0 % 20)", "feature": "f\($0 / 4)", "env": "e\($0 % 4)"] }
            add(once, hour, to: &again)
        }
        #expect(try classes(mixed) == ["feature": .entity])
        #expect(
            mixed.verdict(under: try rules(Self.eager), room: 1_000).found.values.allSatisfy {
                $0.reason.contains("taken together")
            })
        #expect(try classes(again).isEmpty)
        // 800 events: fewer than any key may go for.
        #expect(try classes(few).isEmpty)
    }

    @Test func keysThatVaryTogetherDoNotHideEachOther() throws {
        let given = (0..<2_000).map { number in
            let user = number * 7 % 601
            return ["user": "u\(user)", "mail": "m\(user)", "env": "e\(number % 3)", "zone": "z\(number % 3)"]
        }
        #expect(try classes(evidence(given)) == ["user": .entity, "mail": .entity])
    }

    @Test func nothingIsDecidedWithoutNeed() throws {
        let unique = (0..<2_000).map { ["id": "r\($0)"] }
        #expect(try classes(evidence(Array(unique[..<99]))).isEmpty)
        #expect(try classes(evidence(unique), #"{"version":1,"observe":{"enabled":false}}"#).isEmpty)
        #expect(try classes(evidence(unique), #"{"version":1,"classes":{"id":"dimension"}}"#).isEmpty)
        // Many values, but rows are few all the same.
        let repeated = (0..<2_000).map { ["user": "u\($0 % 400)"] }
        #expect(try classes(evidence(repeated)).isEmpty)
        // What takes no part in the product stays.
        let product = (0..<2_000).map { ["id": "r\($0)", "env": "e\($0 % 2)", "build": "b\($0 % 100)"] }
        #expect(try classes(evidence(product)) == ["id": .identifier])
        // A handful of requests with the key say nothing of it.
        #expect(try classes(evidence(repeated + (0..<9).map { ["rare": "\($0)"] })).isEmpty)
    }

    /// Random traffic: afterwards rows are below the limit, or no key is left that may go.
    @Test(arguments: 1...40 as ClosedRange<UInt64>)
    func afterAVerdictRowsAreFew(_ seed: UInt64) throws {
        var random = Random(seed: seed)
        let values = (0..<Int(1 + random.next() % 7)).map { _ in
            [2, 3, 8, 40, 70, 500, 1_000_000][Int(random.next() % 7)] as UInt64
        }
        let given = (0..<Int(200 + random.next() % 3_000)).map { _ in
            var pairs: [String: String] = [:]
            for (key, count) in values.enumerated() where random.next() % 5 != 0 {
                pairs["k\(key)"] = "v\(random.next() % count)"
            }
            return pairs
        }
        let limits = try rules(Self.eager).observation
        let found = try classes(evidence(given))
        let left = Set(given.map { $0.filter { found[$0.key] == nil } }).count
        let distinct = Dictionary(
            uniqueKeysWithValues: values.indices.map { key in
                ("k\(key)", Set(given.compactMap { $0["k\(key)"] }).count)
            })
        if Set(given).count * 4 < given.count {
            #expect(found.isEmpty, "seed \(seed)")
        } else if left * 4 >= given.count {
            let floor = given.count >= limits.hourEvents ? 2 : limits.manyValues
            for (key, count) in distinct where found[key] == nil && count >= floor {
                // It stayed since without it no tenth of the rows would go.
                let without = Set(given.map { $0.filter { found[$0.key] == nil && $0.key != key } }).count
                #expect(without > left / 10 * 9, "seed \(seed), \(key) with \(count) values: \(left) to \(without)")
            }
        }
        for key in found.keys {
            let with = Set(given.map { $0.filter { found[$0.key] == nil || $0.key == key } }).count
            #expect(with > left, "seed \(seed): \(key) went for nothing")
        }
    }
}

@Suite struct ObservedClassesTests {
    private static let first = TopicPartition(topic: "events", partition: 0)

    @Test(arguments: StoreKind.allCases)
    func anHourIsReadAsItWasCounted(_ kind: StoreKind) throws {
        let store = try kind.make()
        var random = Random(seed: 81)
        let given = (0..<800).map { _ in Sample.random(&random) }
        var writer = try store.writer()
        _ = try writer.acquire([Self.first])
        var maker = BatchMaker()
        for (number, start) in stride(from: 0, to: given.count, by: 200).enumerated() {
            let batch = try maker.batch([
                .init(
                    partition: Self.first, first: Int64(number) * 200, epoch: 1,
                    samples: Array(given[start..<start + 200]))
            ])
            _ = try writer.apply(batch)
        }
        // Another writer sees what this one has counted.
        var other = try store.writer()
        let buckets = Set(given.map { Grain.hour.bucket(of: $0.event.time) }).sorted()
        for bucket in buckets + [buckets[0] - 1] {
            var expected: [SeriesKey: Int64] = [:]
            for sample in given where Grain.hour.bucket(of: sample.event.time) == bucket {
                expected[sample.key, default: 0] += 1
            }
            let rows = try #require(try other.hour(bucket, of: .hour, maxRows: 1_000))
            #expect(rows.count == expected.count)
            #expect(Dictionary(uniqueKeysWithValues: rows.map { ($0.series, $0.requests) }) == expected)
            #expect(try other.hour(bucket, of: .hour, maxRows: expected.count)?.count == expected.count)
            if !expected.isEmpty { #expect(try other.hour(bucket, of: .hour, maxRows: expected.count - 1) == nil) }
        }
        writer.close()
        other.close()
    }

    @Test(arguments: StoreKind.allCases)
    func observedClassesHoldFromTheNextHourAndAreEnteredOnce(_ kind: StoreKind) throws {
        let store = try kind.make()
        var writer = try store.writer()
        let configured = RulesText(Rules.builtIn)
        func observing(_ key: String) -> RulesText {
            RulesText(
                Rules.builtIn.observing(
                    [Array(key.utf8): Rules.Observed(keyClass: .identifier, reason: "a test")],
                    configured: configured.fingerprint))
        }
        // Without a timeline there is nothing to extend.
        #expect(try writer.rules(.observed(observing("a"), over: 0)) == RulesTimeline())
        let begun = try writer.rules(adopting: configured, now: at(begin))
        _ = try writer.acquire([Self.first])
        var random = Random(seed: 82)
        var maker = BatchMaker()
        let given = (0..<50).map { _ in Sample.random(&random) }
        var batch = try maker.batch([.init(partition: Self.first, first: 0, epoch: 1, samples: given)])
        batch.rulesVersion = begun.version
        _ = try writer.apply(batch)
        let latest = try #require(given.map(\.event.time.microseconds).max())
        let next = at((latest / hour + 1) * hour)
        let extended = try writer.rules(.observed(observing("a"), over: begun.version))
        #expect(extended.entries == begun.entries + [RulesTimeline.Entry(from: next, rules: observing("a"))])
        #expect(extended.version > begun.version)
        // Another consumer that saw the same comes too late.
        var other = try store.writer()
        #expect(try other.rules(.observed(observing("b"), over: begun.version)) == extended)
        // A restart with the same configuration takes nothing over, another configuration does.
        #expect(try other.rules(adopting: configured, now: at(begin * 2)) == extended)
        let named = try rules(#"{"version":1,"classes":{"a":"dimension"}}"#)
        let changed = try other.rules(
            adopting: try RulesText.succeeding(extended, named), now: at(begin * 2))
        #expect(changed.entries.map(\.rules) == [configured, observing("a"), RulesText(named)])
        writer.close()
        other.close()
    }

    /// A caller whose keys are always new ones, each with many values, must not make the timeline's text grow for ever.
    @Test func noMoreKeysGetAClassThanTheTimelineIsToName() throws {
        var configured = try rules(#"{"version":1,"observe":{"events":100,"hour_events":1000,"many_values":60}}"#)
        var observer = ClassObserver()
        for round in 0..<4 {
            let timeline = RulesTimeline(
                entries: [RulesTimeline.Entry(from: at(0), rules: RulesText(configured))], version: Int64(round + 1))
            try observer.use(timeline)
            // 300 keys that nobody has seen before, on every request, each with a value of its own.
            let rows = (0..<120).map { number in
                let members = (0..<300).map { JSONMember(key: "k\(round)_\($0 + 100)", value: .string("v\(number)")) }
                return HourRow(
                    series: SeriesKey(
                        workspace: "default", apiKey: "k", provider: "openai", operation: "chat", model: "m",
                        outcome: .success, statusClass: 2, set: JSONValue.object(members).bytes), requests: 1)
            }
            let found = observer.look(at: { .now }) { _, _ in rows }
            let verdict = try #require(found)
            #expect(verdict.classes.count == (round < 3 ? 300 : 100) && observer.isFull == (round == 3))
            configured = try verdict.rules.rules()
        }
        #expect(configured.observed.count == ClassObserver.maxKeys)
        // Full it stays, whatever is looked at, until rules have let go of what was observed.
        func use(_ rules: Rules, _ version: Int64) throws {
            try observer.use(
                RulesTimeline(entries: [.init(from: at(0), rules: RulesText(rules))], version: version))
        }
        try use(configured, 5)
        #expect(observer.look(at: { .now }, { _, _ in [] }) == nil && observer.isFull)
        try use(try rules(#"{"version":1}"#), 6)
        #expect(!observer.isFull)
    }

    @Test func whatWasObservedOutlivesOtherRulesButNotTheirWord() throws {
        let old = try rules(#"{"version":1}"#)
        let observed = ["a", "b"].reduce(into: [[UInt8]: Rules.Observed]()) {
            $0[Array($1.utf8)] = Rules.Observed(keyClass: .entity, reason: "a \"test\"")
        }
        let text = RulesText(old.observing(observed, configured: RulesText(old).fingerprint))
        #expect(text.configured == RulesText(old).fingerprint)
        #expect(RulesText(old).configured == RulesText(old).fingerprint)
        #expect(RulesText(try text.rules()) == text)
        let timeline = RulesTimeline(entries: [RulesTimeline.Entry(from: at(0), rules: text)], version: 1)
        let new = try rules(#"{"version":1,"values":{"case":{"env":"lower"}},"classes":{"b":"dimension"}}"#)
        let next = try RulesText.succeeding(timeline, new)
        #expect(next.configured == RulesText(new).fingerprint)
        let read = try next.rules()
        #expect(read.keyClass(of: Array("a".utf8)) == .entity && read.keyClass(of: Array("b".utf8)) == .dimension)
        let off = try rules(#"{"version":1,"observe":{"enabled":false}}"#)
        #expect(try RulesText.succeeding(timeline, off) == RulesText(off))
        // Nobody but the program itself says what was observed.
        #expect(throws: RulesError.self) { try Rules.decode(try JSONValue.parse(text.text)) }
    }

    /// A consumer without its threads, stopped and started again now and then: one verdict, from one hour on, for late
    /// events too.
    @Test(arguments: StoreKind.all(seeds: [91, 92]))
    func aKeyIsDemotedOnceAndForEventsOfItsTime(_ kind: StoreKind, _ seed: UInt64) throws {
        let configured = try rules(
            #"{"version":1,"observe":{"events":200,"hour_events":1000,"many_values":50},"classes":{"team":"entity"}}"#)
        let store = try kind.make()
        var random = Random(seed: seed)
        var given: [RequestEvent] = []
        for number in 0..<1_500 {
            // In order of time over six hours, but for some that are up to two hours late.
            let late = random.next() % 10 == 0 ? Int64(random.next() % UInt64(2 * hour)) : 0
            let time = at(max(begin, begin + 6 * hour * Int64(number) / 1_500 - late))
            var event = RequestEvent(id: EventID(time: time, random: (seed, UInt64(number))), time: time)
            event.workspace = "default"
            event.metadataRaw = Array(
                #"{"env":"e\#(random.next() % 2)","team":"t\#(random.next() % 300)","trace":"r\#(number)"}"#.utf8)
            given.append(event)
        }
        var writer = try store.writer()
        var place = 0
        var verdicts = 0
        while place < given.count {
            var timeline = try writer.rules(nil)
            timeline = try writer.rules(adopting: try RulesText.succeeding(timeline, configured), now: at(0))
            var builder = BatchBuilder(normalizer: Normalizer(rules: configured, hash: nil))
            var observer = ClassObserver()
            try builder.use(timeline)
            try observer.use(timeline)
            builder.started(try writer.acquire([Self.first]))
            for _ in 0..<Int(3 + random.next() % 6) where place < given.count {
                var chunk = RecordChunk(partitions: [Self.first])
                for offset in place..<min(given.count, place + 40 + Int(random.next() % 40)) {
                    chunk.append(given[offset], offset: Int64(offset))
                }
                let taken = builder.add(
                    chunk, from: 0, now: at(begin + 7 * hour), maxEvents: 10_000, maxBytes: 1 << 24)
                place += taken.events
                let sealed = builder.seal()
                let batch = try #require(sealed)
                _ = try writer.apply(batch)
                observer.applied(batch)
                let now = ContinuousClock.now
                guard observer.isDue(at: now) else { continue }
                if let verdict = try observer.look(at: { now }, { try writer.hour($0, of: .hour, maxRows: $1) }) {
                    #expect(!observer.isDue(at: now))
                    verdicts += 1
                    let next = try writer.rules(verdict.change)
                    #expect(next.version != verdict.version)
                    try builder.use(next)
                    try observer.use(next)
                }
            }
        }
        let timeline = try writer.rules(nil)
        writer.close()
        #expect(verdicts == 1 && timeline.entries.count == 2, "seed \(seed)")
        let last = try #require(timeline.entries.last)
        #expect(last.from.microseconds % hour == 0 && last.from.microseconds > begin)
        let classes = try last.rules.rules()
        #expect(classes.keyClass(of: Array("trace".utf8)) == .identifier)
        #expect(classes.keyClass(of: Array("env".utf8)) == nil && classes.names(Array("team".utf8)))
        try store.reader.read { snapshot in
            var sets: [Int64: String] = [:]
            for series in try snapshot.series(workspace: "default") {
                sets[series.id] = String(decoding: series.key.set, as: UTF8.self)
            }
            let stored = try events(snapshot)
            #expect(stored.count == given.count)
            for event in stored {
                let isInSet = sets[event.series]?.contains("trace") == true
                #expect(isInSet == (event.event.time < last.from), "seed \(seed)")
                #expect(String(decoding: event.extra, as: UTF8.self).contains("trace") == !isInSet)
            }
            #expect(stored.contains { $0.event.time >= last.from })
        }
    }
}
