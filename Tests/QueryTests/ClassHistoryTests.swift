// Keys that were dimensions for a part of a range: which stretch is read from where, and what the answer says of it.

import Events
import JSONText
import Queries
import RollupStore
import Rollups
import Testing

@Suite struct ClassHistoryTests {
    private static let start: Int64 = RFC3339.parse("2026-11-02T00:00:00Z")?.microseconds ?? 0
    private static let hour: Int64 = 3_600_000_000
    private static let end = EventTime(microseconds: start + 72 * hour)

    /// An event every ten minutes for three days, of five users in turn, under what rules said at these hours of `user`.
    private func store(_ classes: [(hours: Double, name: String)]) -> FakeStore {
        let changes = classes.map { (time: Self.start + Int64($0.hours * Double(Self.hour)), name: $0.name) }
        let samples = (0..<432).map { index -> SampleEvent in
            let time = EventTime(microseconds: Self.start + Int64(index) * Self.hour / 6 + 1)
            var event = RequestEvent(id: EventID(time: time, random: (UInt64(index), 1)), time: time)
            event.workspace = "default"
            event.status = 200
            var sample = SampleEvent(event: event, pairs: ["env": .text(index % 2 == 0 ? "production" : "dev")])
            let user: [String: MetadataValue] = ["user": .text("u\(index % 5)")]
            let name = changes.last(where: { $0.time <= time.microseconds })?.name
            if name == "dimension" {
                sample.pairs.merge(user) { $1 }
            } else {
                sample.extra = user
            }
            sample.entities = name == "entity" ? ["user"] : []
            return sample
        }
        var store = FakeStore(samples)
        store.timeline = RulesTimeline(
            entries: changes.enumerated().map { index, change in
                let text = #"{"version":1,"classes":{"user":"\#(change.name)"}}"#
                return RulesTimeline.Entry(
                    from: EventTime(microseconds: index == 0 ? 0 : change.time),
                    rules: RulesText(fingerprint: "\(index)", text: text))
            }, version: Int64(changes.count))
        return store
    }

    private func answer(_ store: FakeStore, _ filter: String? = "metadata.user = 'u1'") throws -> Answer {
        let question = Question(
            from: EventTime(microseconds: Self.start), to: Self.end,
            condition: try filter.flatMap { try ConditionParser.parse($0) })
        return try QueryEngine().answer(question, workspace: "default", snapshot: store, explains: true)
    }

    private func stretches(_ answer: Answer) -> [String] {
        (answer.explanation?.json["stretches"]?.array ?? []).map {
            "\($0["grain"]?.string ?? "events") \($0["from"]?.string ?? "") \($0["to"]?.string ?? "")"
        }
    }

    @Test("A workspace under rules of its own is answered by them, and others by theirs")
    func asksTheRulesOfTheWorkspace() throws {
        var store = store([(0, "identifier")])
        let plain = try answer(store)
        #expect(plain.plan.source == .events)
        let own = RulesText(fingerprint: "own", text: #"{"version":1}"#)
        store.timeline.overlay(own, from: EventTime(microseconds: Self.start), to: Self.end, of: "other")
        #expect(try answer(store).plan.source == .events)
        store.timeline.overlay(own, from: EventTime(microseconds: Self.start), to: Self.end, of: "default")
        #expect(try answer(store).plan.source == .rollups)
        let classes = try ["default", "third"].map { workspace in
            try QueryEngine().keyClasses(of: ["user"], before: Self.end, workspace: workspace, snapshot: store)["user"]?
                .name
        }
        #expect(classes == ["dimension", "identifier"])
    }

    @Test("A change on the hour: days and hours before it, events after it")
    func changesOnTheHour() throws {
        let answer = try answer(store([(0, "dimension"), (30, "identifier")]))
        #expect(answer.totals == [.integer(87)])
        #expect(
            stretches(answer) == [
                "day 2026-11-02T00:00:00.000000Z 2026-11-03T00:00:00.000000Z",
                "hour 2026-11-03T00:00:00.000000Z 2026-11-03T06:00:00.000000Z",
                "events 2026-11-03T06:00:00.000000Z 2026-11-05T00:00:00.000000Z",
            ])
        #expect(answer.plan.source == .both)
        #expect(
            answer.plan.reason
                == "from 2026-11-03T06:00:00.000000Z on metadata.user is an identifier: only events hold it; "
                + "events are read by the index on metadata.user")
        #expect(answer.explanation?.json["condition"]?["decided_by"]?.string == "series and events")
    }

    @Test("A change to an entity on the hour: its own hours and days after it, and no event is read")
    func becomesAnEntityOnTheHour() throws {
        let store = store([(0, "dimension"), (30, "entity")])
        let answer = try answer(store)
        #expect(answer.totals == [.integer(87)])
        #expect(
            stretches(answer) == [
                "day 2026-11-02T00:00:00.000000Z 2026-11-03T00:00:00.000000Z",
                "hour 2026-11-03T00:00:00.000000Z 2026-11-03T06:00:00.000000Z",
                "entity_hour 2026-11-03T06:00:00.000000Z 2026-11-04T00:00:00.000000Z",
                "entity_day 2026-11-04T00:00:00.000000Z 2026-11-05T00:00:00.000000Z",
            ])
        #expect(answer.plan.source == .rollups)
        let question = Question(
            from: EventTime(microseconds: Self.start), to: Self.end,
            groupBy: [GroupName(dimension: .metadata("user"))], measures: [.requests, .distinct("user")])
        let groups = try QueryEngine().answer(question, workspace: "default", snapshot: store)
        #expect(groups.totals == [.integer(432), .integer(5)])
        #expect(groups.data.count == 5 && groups.plan.source == .rollups)
        // Of another dimension its rollups know nothing.
        let both = try self.answer(store, "metadata.user = 'u1' and metadata.env = 'dev'")
        #expect(both.totals == [.integer(44)])
        #expect(
            both.plan.reason
                == "from 2026-11-03T06:00:00.000000Z on only events hold metadata.user, an entity, together with "
                + "metadata.env; events are read by the index on metadata.user")
    }

    @Test("Where an entity's rollups are not whole, events stand in")
    func readsEventsWhereEntitiesAreNotWhole() throws {
        var store = store([(0, "entity")])
        store.retention.grains[.entityHour] = EventTime(microseconds: Self.start + 24 * Self.hour)
        store.retention.grains[.entityDay] = EventTime(microseconds: Self.start + 48 * Self.hour)
        let answer = try answer(store)
        #expect(answer.totals == [.integer(87)])
        #expect(
            stretches(answer) == [
                "events 2026-11-02T00:00:00.000000Z 2026-11-03T00:00:00.000000Z",
                "entity_hour 2026-11-03T00:00:00.000000Z 2026-11-04T00:00:00.000000Z",
                "entity_day 2026-11-04T00:00:00.000000Z 2026-11-05T00:00:00.000000Z",
            ])
    }

    @Test("A change within a minute: that minute's first part is read from events too")
    func changesWithinAMinute() throws {
        let answer = try answer(store([(0, "identifier"), (47.0125, "dimension")]))
        #expect(answer.totals == [.integer(87)])
        #expect(
            stretches(answer) == [
                "events 2026-11-02T00:00:00.000000Z 2026-11-03T23:01:00.000000Z",
                "minute 2026-11-03T23:01:00.000000Z 2026-11-04T00:00:00.000000Z",
                "day 2026-11-04T00:00:00.000000Z 2026-11-05T00:00:00.000000Z",
            ])
        #expect(
            answer.plan.reason
                == "until 2026-11-03T23:00:45.000000Z metadata.user is an identifier: only events hold it; "
                + "the stretches that no kept rollup covers are read from events; "
                + "events are read by the index on metadata.user")
    }

    @Test("There and back: both of the outer eras from rollups")
    func changesTwice() throws {
        let answer = try answer(store([(0, "dimension"), (24, "identifier"), (48, "dimension")]))
        #expect(answer.totals == [.integer(87)])
        #expect(answer.plan.grains == [.day])
        #expect(
            answer.plan.reason
                == "from 2026-11-03T00:00:00.000000Z to 2026-11-04T00:00:00.000000Z metadata.user is an identifier: "
                + "only events hold it; events are read by the index on metadata.user")
        // One day's events of that user, and the rows of the series that are the user's.
        #expect(answer.plan.rowsRead == 29 + 4)
    }

    @Test("A question that does not name the key is answered from rollups throughout")
    func leavesOtherQuestionsAlone() throws {
        let store = store([(0, "dimension"), (30, "entity")])
        let answer = try answer(store, "metadata.env = 'dev'")
        #expect(answer.totals == [.integer(216)])
        #expect(answer.plan.source == .rollups)
        #expect(answer.plan.reason == "the range is whole in rollups")
        let throughout = try self.answer(self.store([(0, "identifier")]))
        #expect(
            throughout.plan.reason
                == "metadata.user is an identifier: only events hold it; events are read by the index on metadata.user")
        #expect(throughout.totals == [.integer(87)])
    }

    @Test("Events that are gone from an era of rollups do no harm")
    func needsEventsWhereItReadsThem() throws {
        var store = store([(0, "dimension"), (30, "identifier")])
        store.retention.events = EventTime(microseconds: Self.start + 30 * Self.hour)
        #expect(try answer(store).totals == [.integer(87)])
        store.retention.events = EventTime(microseconds: Self.start + 31 * Self.hour)
        let error = #expect(throws: QueryError.self) { try self.answer(store) }
        #expect(error?.code == .pastRetention)
    }

    @Test("Keys and their values are counted through a change of class")
    func countsKeys() throws {
        let store = store([(0, "dimension"), (30, "entity")])
        let engine = QueryEngine()
        let from = EventTime(microseconds: Self.start)
        let listing = try engine.metadataKeys(from: from, to: Self.end, workspace: "default", snapshot: store)
        #expect(listing.missing.isEmpty && listing.keys.allSatisfy(\.isExact))
        let keys = listing.keys
        #expect(keys.map(\.key) == ["env", "user"])
        #expect(keys.map(\.requests) == [432, 432])
        #expect(keys.map(\.distinct) == [2, 5])
        let values = try engine.metadataValues(
            of: "user", prefix: "", limit: 10, from: from, to: Self.end, workspace: "default", snapshot: store
        ).values
        #expect(values.map(\.value) == ["u0", "u1", "u2", "u3", "u4"])
        #expect(values.map(\.requests) == [87, 87, 86, 86, 86])
    }

    /// The day's rollups are read whole, and hold the key in a part of it only.
    @Test(
        "When a key was seen is that of all its classes",
        arguments: [("entity", "dimension"), ("identifier", "dimension"), ("dimension", "entity")])
    func seesKeysThroughAChange(before: String, after: String) throws {
        let store = store([(0, before), (6.5, after)])
        let from = EventTime(microseconds: Self.start)
        let to = EventTime(microseconds: Self.start + 24 * Self.hour)
        let keys = try QueryEngine().metadataKeys(from: from, to: to, workspace: "default", snapshot: store).keys
        let user = try #require(keys.first { $0.key == "user" })
        #expect(user.requests == 144 && user.distinct == 5)
        let (first, last) = (Self.start + 1, Self.start + 143 * Self.hour / 6 + 1)
        #expect((user.firstSeen.microseconds...user.firstSeen.microseconds + Self.hour).contains(first))
        #expect((user.lastSeen.microseconds...user.lastSeen.microseconds + Self.hour).contains(last))
    }
}
