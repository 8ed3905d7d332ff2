// Which rules hold for which time of events, whoever asks, and that answers do not depend on when an event came.

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

extension RecordChunk {
    /// A record of partition 0.
    mutating func append(_ event: RequestEvent, offset: Int64) {
        var value: [UInt8] = []
        EventEncoder.encode(event, into: &value)
        records.append(
            RecordSlot(
                partition: 0, offset: Offset(offset), kind: .event, keyStart: Int32(bytes.count), keyCount: 16,
                valueStart: Int32(bytes.count + 16), valueCount: Int32(value.count)))
        bytes += event.id.bytes
        bytes += value
    }
}

@Suite struct RulesTimelineTests {
    private static let first = TopicPartition(topic: "events", partition: 0)
    private static let (one, two) = (
        RulesText(fingerprint: "1", text: "{\"version\":1}"), RulesText(fingerprint: "2", text: "{\"version\":1 }")
    )

    @Test func rulesTakeOverNowOrBehindWhatIsCounted() {
        var timeline = RulesTimeline()
        #expect(timeline.takeover(now: at(500), latest: nil) == at(0))
        timeline.entries = [RulesTimeline.Entry(from: at(0), rules: Self.one)]
        #expect(timeline.takeover(now: at(500), latest: at(499)) == at(500))
        #expect(timeline.takeover(now: at(500), latest: at(500)) == at(501))
        timeline.entries.append(RulesTimeline.Entry(from: at(700), rules: Self.two))
        #expect(timeline.takeover(now: at(600), latest: nil) == at(701))
    }

    @Test(arguments: [
        (0 as Int64, 100 as Int64, ["1"]), (0, 101, ["1", "2"]), (100, 101, ["2"]), (150, 300, ["2", "1"]),
        (200, 1_000, ["1"]), (.min, .max, ["1", "2", "1"]), (50, 50, ["1"]),
    ])
    func aRangeHasTheRulesThatHoldInIt(_ from: Int64, _ to: Int64, _ names: [String]) {
        let timeline = RulesTimeline(
            entries: [
                RulesTimeline.Entry(from: at(0), rules: Self.one), RulesTimeline.Entry(from: at(100), rules: Self.two),
                RulesTimeline.Entry(from: at(200), rules: Self.one),
            ], version: 3)
        #expect(timeline.entries(from: at(from), to: at(to)).map(\.rules.fingerprint) == names)
    }

    @Test func aWorkspaceHasRulesOfItsOwnWhereAReplayOfItSaysSo() {
        func names(_ timeline: RulesTimeline, _ workspace: String?) -> [String] {
            timeline.entries(from: at(0), to: at(1_000), of: workspace).map(\.rules.fingerprint)
        }
        let three = RulesText(fingerprint: "3", text: "{\"version\":1  }")
        var timeline = RulesTimeline(
            entries: [
                RulesTimeline.Entry(from: at(0), rules: Self.one), RulesTimeline.Entry(from: at(500), rules: Self.two),
            ], version: 2)
        timeline.overlay(three, from: at(100), to: at(200), of: "w")
        #expect(names(timeline, "w") == ["1", "3", "1", "2"])
        #expect(names(timeline, "other") == ["1", "2"] && names(timeline, nil) == ["1", "2"])
        // A later one of all is over it as well, and one of it alone over that.
        timeline.overlay(Self.two, from: at(150), to: at(300))
        #expect(names(timeline, "w") == ["1", "3", "2", "1", "2"] && names(timeline, "other") == ["1", "2", "1", "2"])
        timeline.overlay(Self.one, from: at(0), to: at(1_000), of: "w")
        #expect(names(timeline, "w") == ["1"] && names(timeline, "other") == ["1", "2", "1", "2"])
    }

    @Test(arguments: StoreKind.allCases)
    func theStoreKeepsOneTimelineAndRefusesWhatWasMadeUnderAnother(_ kind: StoreKind) throws {
        let store = try kind.make()
        var writer = try store.writer()
        let now: Int64 = 1_759_000_000_000_000
        #expect(try writer.rules(adopting: nil, now: at(now)) == RulesTimeline())
        let begun = try writer.rules(adopting: Self.one, now: at(now))
        #expect(begun.entries == [RulesTimeline.Entry(from: at(0), rules: Self.one)])
        #expect(try writer.rules(adopting: Self.one, now: at(now + 5)) == begun)
        #expect(try writer.rules(adopting: nil, now: at(now + 5)) == begun)

        _ = try writer.acquire([Self.first])
        var random = Random(seed: 51)
        let given = (0..<100).map { _ in Sample.random(&random) }
        var maker = BatchMaker()
        func batch(_ samples: ArraySlice<Sample>, under version: Int64) throws -> SealedBatch {
            var batch = try maker.batch([
                .init(partition: Self.first, first: Int64(samples.startIndex), epoch: 1, samples: Array(samples))
            ])
            batch.rulesVersion = version
            return batch
        }
        _ = try writer.apply(try batch(given[..<50], under: begun.version))
        // The samples' time is past `now`.
        let latest = try #require(given[..<50].map(\.event.time).max())
        let changed = try writer.rules(adopting: Self.two, now: at(now))
        #expect(changed.version != begun.version)
        #expect(
            changed.entries
                == begun.entries + [RulesTimeline.Entry(from: at(latest.microseconds + 1), rules: Self.two)])
        let before = try Count(reading: store.reader)
        #expect {
            _ = try writer.apply(try batch(given[50...], under: begun.version))
        } throws: {
            ($0 as? RollupStoreError)?.code == .staleRules
        }
        #expect(try Count(reading: store.reader) == before)
        _ = try writer.apply(try batch(given[50...], under: changed.version))
        #expect(try Count(reading: store.reader) == Count(given))

        // Back again: a third stretch. Another writer, and a reader, see the same.
        let back = try writer.rules(adopting: Self.one, now: at(now * 2))
        #expect(back.entries == changed.entries + [RulesTimeline.Entry(from: at(now * 2), rules: Self.one)])
        writer.close()
        var other = try store.writer()
        #expect(try other.rules(adopting: nil, now: at(now)) == back)
        #expect(try store.reader.read { try $0.rulesTimeline() } == back)
        other.close()
    }

    /// Three eras. The events come in order of time, and in any order with a restart now and then.
    @Test(arguments: StoreKind.all(seeds: [61, 62]))
    func answersDoNotDependOnWhenAnEventCame(_ kind: StoreKind, _ seed: UInt64) throws {
        let texts = [
            #"{"version":1,"keys":{"aliases":{"env":"environment"}},"classes":{"user_id":"entity"}}"#,
            #"{"version":1,"values":{"maps":{"env":{"prod":"production"}}}}"#,
            #"{"version":1,"values":{"case":{"env":"lower"}},"classes":{"team":"identifier"}}"#,
        ]
        let eras = try texts.map { try RulesText(rules($0)) }
        var random = Random(seed: seed)
        let begin: Int64 = 1_760_000_000_000_000
        let hour: Int64 = 3_600_000_000
        var given: [RequestEvent] = (0..<600).map { _ in
            var event = Sample.random(&random).event
            event.time = at(begin + Int64(random.next() % UInt64(9 * hour)))
            let env = ["prod", "PROD", "Test"].randomElement(using: &random) ?? ""
            event.metadataRaw = Array(
                #"{"env":"\#(env)","team":"t\#(random.next() % 3)","userId":\#(random.next() % 9)}"#.utf8)
            return event
        }
        // What an operator would come to by looking at one event after another.
        var expected: [EventID: String] = [:]
        var byHand = try texts.map { Normalizer(rules: try rules($0), hash: nil) }
        for event in given {
            let era = Int((event.time.microseconds - begin) / (3 * hour))
            let metadata = event.metadataRaw.withUnsafeBytes { byHand[era].normalize(raw: $0, status: .ok) }
            expected[event.id] = String(decoding: metadata.set + [10] + metadata.extra, as: UTF8.self)
        }
        func contents(of store: any StoreUnderTest) throws -> (counts: Count, events: [EventID: String]) {
            var found: [EventID: String] = [:]
            try store.reader.read { snapshot in
                var sets: [Int64: [UInt8]] = [:]
                for workspace in ["default", "other"] {
                    for series in try snapshot.series(workspace: workspace) { sets[series.id] = series.key.set }
                }
                for stored in try events(snapshot) {
                    found[stored.event.id] = String(
                        decoding: (sets[stored.series] ?? []) + [10] + stored.extra, as: UTF8.self)
                }
            }
            return (try Count(reading: store.reader), found)
        }
        var kept: Count?
        for isInOrder in [true, false] {
            if isInOrder {
                given.sort { $0.time < $1.time }
            } else {
                given.shuffle(using: &random)
            }
            let store = try kind.make()
            var writer = try store.writer()
            for (number, era) in eras.enumerated() {
                _ = try writer.rules(adopting: era, now: at(begin + Int64(number) * 3 * hour))
            }
            var chunk = RecordChunk(partitions: [Self.first])
            for (offset, event) in given.enumerated() {
                chunk.append(event, offset: Int64(offset))
            }
            var place = 0
            while place < given.count {
                // Another consumer, of the rules in force, goes on where the last one stood.
                var builder = BatchBuilder(normalizer: Normalizer(rules: try rules(texts[2]), hash: nil))
                try builder.use(try writer.rules(adopting: eras[2], now: at(begin + 9 * hour)))
                builder.started(try writer.acquire([Self.first]))
                for _ in 0..<Int(1 + random.next() % 3) where place < given.count {
                    let taken = builder.add(
                        chunk, from: place, now: at(begin + 9 * hour), maxEvents: Int(20 + random.next() % 90),
                        maxBytes: 1 << 20)
                    place = taken.end
                    let sealed = builder.seal()
                    let batch = try #require(sealed)
                    #expect(batch.deadLetters.isEmpty)
                    _ = try writer.apply(batch)
                }
            }
            writer.close()
            let (counts, found) = try contents(of: store)
            #expect(found == expected)
            if let kept { #expect(counts == kept) }
            kept = counts
        }
    }

    /// Hidden by the rules of its time, or by those of now: the value is in nothing that goes to the store.
    @Test func whatIsHiddenNowComesBackWithNoLateEvent() throws {
        let (earlier, now) = (
            try rules(#"{"version":1,"keys":{"drop":["old"]}}"#), try rules(#"{"version":1,"keys":{"drop":["new"]}}"#)
        )
        var builder = BatchBuilder(normalizer: Normalizer(rules: now, hash: nil))
        let begin: Int64 = 1_760_000_000_000_000
        try builder.use(
            RulesTimeline(
                entries: [
                    RulesTimeline.Entry(from: at(0), rules: RulesText(earlier)),
                    RulesTimeline.Entry(from: at(begin), rules: RulesText(now)),
                ], version: 2))
        builder.started([PartitionPosition(partition: Self.first, next: Offset(0), epoch: 1)])
        var chunk = RecordChunk(partitions: [Self.first])
        for (offset, time) in [begin - 1, begin].enumerated() {
            var event = RequestEvent(id: EventID(time: at(time), random: (1, UInt64(offset))), time: at(time))
            event.metadataRaw = Array(#"{"old":"hidden-old","new":"hidden-new","env":"x"}"#.utf8)
            chunk.append(event, offset: Int64(offset))
        }
        _ = builder.add(chunk, from: 0, now: at(begin), maxEvents: 10, maxBytes: 1 << 20)
        let sealed = builder.seal()
        let batch = try #require(sealed)
        let sets = batch.series.map { String(decoding: $0.set, as: UTF8.self) }
        #expect(Set(sets) == [#"{"env":"x"}"#, #"{"env":"x","old":"hidden-old"}"#])
        let raw = batch.events.map { String(decoding: batch.bytes[$0.fields.metadataRaw.range], as: UTF8.self) }
        #expect(raw == [#"{"env":"x"}"#, #"{"old":"hidden-old","env":"x"}"#])
    }

    @Test func aTextThatThisProgramDoesNotReadStopsTheConsumer() throws {
        var builder = BatchBuilder(normalizer: Normalizer(rules: .builtIn, hash: nil))
        let newer = RulesText(fingerprint: String(repeating: "e", count: 64), text: #"{"version":9}"#)
        #expect {
            try builder.use(
                RulesTimeline(entries: [RulesTimeline.Entry(from: at(0), rules: newer)], version: 1))
        } throws: {
            ($0 as? RollupStoreError)?.code == .newerSchema
        }
    }
}
