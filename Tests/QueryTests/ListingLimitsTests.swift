// What a listing of metadata may read for identifiers, and what it says of the rest.

import Events
import Queries
import RollupStore
import Rollups
import Testing

private let minute: Int64 = 60_000_000
private let hour: Int64 = 60 * minute
private let start: Int64 = RFC3339.parse("2026-11-02T00:00:00Z")?.microseconds ?? 0

private func at(_ microseconds: Int64) -> EventTime { EventTime(microseconds: microseconds) }

@Suite struct ListingLimitsTests {
    /// One of three users, an identifier, and a dimension.
    private static func sample(_ number: Int, _ time: Int64, workspace: String = "default") -> SampleEvent {
        var event = RequestEvent(id: EventID(time: at(time), random: (UInt64(number), 1)), time: at(time))
        event.workspace = workspace
        event.status = 200
        var sample = SampleEvent(event: event, pairs: ["env": .text("prod")])
        sample.extra = ["request_id": .text("r\(number)"), "user": .text("u\(number % 3)")]
        sample.entities = ["user"]
        return sample
    }

    private static func store(_ samples: [SampleEvent], eventsFrom retained: Int64? = nil) -> FakeStore {
        var store = FakeStore(samples, retention: FakeStore.Retention(events: retained.map(at)))
        store.timeline = RulesTimeline(
            entries: [
                RulesTimeline.Entry(
                    from: at(0),
                    rules: RulesText(
                        fingerprint: "0",
                        text: #"{"version":1,"classes":{"user":"entity","request_id":"identifier"}}"#))
            ], version: 1)
        return store
    }

    /// Rows by key.
    private static func listing(
        _ store: FakeStore, _ range: Range<Int64>, listedEvents: Int = 1_000
    ) throws -> (rows: [String: KeySummary], missing: [ListingGap]) {
        let listing = try QueryEngine().metadataKeys(
            from: at(range.lowerBound), to: at(range.upperBound), workspace: "default", snapshot: store,
            budget: QueryBudget(listedEvents: listedEvents))
        return (Dictionary(uniqueKeysWithValues: listing.keys.map { ($0.key, $0) }), listing.missing)
    }

    /// One every ten minutes of a day.
    private static let day = (0..<144).map { sample($0, time(of: $0)) }

    private static func time(of number: Int) -> Int64 { start + Int64(number) * 10 * minute + 1 }

    /// An hour that the range cuts is read from events for the entity, and whole: of these, too, only the newest tell of
    /// identifiers.
    @Test(arguments: [0, 1, 2, 3, 60, 115, 116, 117, 118, 120])
    func eventsOfACutHourCountAgainstTheLimit(_ limit: Int) throws {
        let range = start + 25 * minute + 13..<start + 20 * hour + 17 * minute
        let numbers = 3..<122
        let (rows, missing) = try Self.listing(Self.store(Self.day), range, listedEvents: limit)
        for (key, distinct) in [("env", 1), ("user", 3)] {
            let row = try #require(rows[key])
            #expect(row.requests == Int64(numbers.count) && row.distinct == distinct && row.isExact)
        }
        #expect(rows["request_id"]?.distinct ?? 0 == min(limit, numbers.count))
        #expect(rows["request_id"]?.requests ?? 0 == Int64(min(limit, numbers.count)))
        guard limit < numbers.count else { return #expect(missing.isEmpty) }
        #expect(rows["request_id"]?.isExact ?? false == false)
        let gap = try #require(missing.first)
        #expect(missing.count == 1 && gap.keys == ["request_id"] && gap.from == at(range.lowerBound))
        #expect(gap.reason == "only events hold an identifier; the newest \(limit) are read")
        // Behind the last that was left out; not behind the first that was read.
        #expect(gap.to.microseconds > Self.time(of: numbers.upperBound - limit - 1))
        #expect(limit == 0 || gap.to.microseconds <= Self.time(of: numbers.upperBound - limit))
    }

    @Test func eventsOfOtherWorkspacesDoNotCountAgainstTheLimit() throws {
        let range = start..<start + 24 * hour
        // Newer, and older ones in between.
        let others = (0..<1_000).map { Self.sample($0, start + Int64($0) * minute + 5, workspace: "other") }
        let few = (0..<10).map { Self.sample($0, Self.time(of: $0)) }
        let (rows, missing) = try Self.listing(Self.store(few + others), range, listedEvents: 10)
        #expect(rows["request_id"]?.distinct == 10 && missing.isEmpty)
        let cut = try Self.listing(Self.store(few + others), range, listedEvents: 9)
        #expect(cut.rows["request_id"]?.distinct == 9)
        #expect(cut.missing.map(\.to) == [at(Self.time(of: 1))])
    }

    @Test(arguments: [(1, 2), (2, 2), (3, 4), (19, 20)])
    func ofOneInstantAllEventsAreReadOrNone(_ limit: Int, _ read: Int) throws {
        let samples = (0..<20).map { Self.sample($0, Self.time(of: $0 / 2)) }
        let (rows, missing) = try Self.listing(Self.store(samples), start..<start + 24 * hour, listedEvents: limit)
        #expect(rows["request_id"]?.distinct == read)
        #expect(missing.map(\.to) == (read == 20 ? [] : [at(Self.time(of: 10 - read / 2))]))
    }

    /// Events go by the day as a rule; what is said of a boundary holds wherever it lies.
    @Test(arguments: [0, 1, 30 * minute, 90 * minute + 7, 10 * hour, 20 * hour + 5 * minute])
    func whereEventsAreGoneIsNamedToTheInstant(_ after: Int64) throws {
        let retained = start + after
        let store = Self.store(Self.day, eventsFrom: retained)
        let whole = try Self.listing(store, start..<start + 24 * hour)
        let kept = Self.day.count { $0.event.time.microseconds >= retained }
        #expect(whole.rows["user"]?.requests == 144 && whole.rows["user"]?.isExact == true)
        #expect(whole.rows["request_id"]?.requests == Int64(kept))
        #expect(whole.rows["request_id"]?.isExact == (after == 0))
        #expect(whole.missing.map(\.keys) == (after == 0 ? [] : [["request_id"]]))
        #expect(whole.missing.allSatisfy { $0.from == at(start) && $0.to == at(retained) })
        // Ten minutes of the first hour are cut off: what is left of it only events tell of the entity.
        let cut = try Self.listing(store, start + 10 * minute..<start + 24 * hour)
        let isGone = after > 10 * minute
        let user = try #require(cut.rows["user"])
        #expect(user.isExact == !isGone)
        #expect(user.requests == (isGone ? 138 : 143))
        #expect(cut.rows["env"]?.requests == 143 && cut.rows["env"]?.isExact == true)
        let gaps = cut.missing.filter { $0.keys?.contains("user") == true }
        #expect(gaps.map(\.from) == (isGone ? [at(start + 10 * minute)] : []))
    }
}
