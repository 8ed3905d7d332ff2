// The listing of metadata keys and values: who is read from where, on each store, and what is said of the rest.

import Events
import Ingest
import JSONText
import Normalizer
import Queries
import RollupStore
import Rollups
import Testing

private let minute: Int64 = 60_000_000
private let hour: Int64 = 3_600_000_000
private let day = 24 * hour
private let begin: Int64 = 1_760_054_400_000_000

private func at(_ microseconds: Int64) -> EventTime { EventTime(microseconds: microseconds) }

/// What a listing should say of one key.
private struct Expected: Equatable {
    var requests: Int64 = 0
    var values: [String: Int64] = [:]
    var first = Int64.max
    var last = Int64.min

    mutating func see(_ found: [String], at time: Int64) {
        requests += 1
        for value in Set(found) { values[value, default: 0] += 1 }
        first = min(first, time)
        last = max(last, time)
    }
}

/// A snapshot that tells which events and series were asked for.
private final class WatchedSnapshot: RollupSnapshot {
    private let snapshot: any RollupSnapshot
    private(set) var scans: [Range<Int64>] = []
    private(set) var events = 0
    /// By entity; nil: those of all dimensions.
    private(set) var series: [String?] = []

    init(_ snapshot: any RollupSnapshot) { self.snapshot = snapshot }

    var generationName: String { get throws { try snapshot.generationName } }
    var watermark: EventTime? { get throws { try snapshot.watermark } }
    var indexedFrom: EventTime? { get throws { try snapshot.indexedFrom } }
    var rulesVersion: Int64 { get throws { try snapshot.rulesVersion } }

    func series(workspace: String, entity: String?) throws -> [StoredSeries] {
        series.append(entity)
        return try snapshot.series(workspace: workspace, entity: entity)
    }

    func scanRollups(
        grain: Grain, from: Int32, to: Int32, series: SeriesSelection, withBins: Bool, _ body: (StoredRollup) -> Void
    ) throws {
        try snapshot.scanRollups(grain: grain, from: from, to: to, series: series, withBins: withBins, body)
    }

    func scanEvents(
        from: EventTime, to: EventTime, before: (time: EventTime, id: EventID)?, series: SeriesSelection,
        having: [UInt32]?, _ body: (StoredEvent) throws -> Bool
    ) throws {
        scans.append(from.microseconds..<to.microseconds)
        try snapshot.scanEvents(from: from, to: to, before: before, series: series, having: having) { event in
            events += 1
            return try body(event)
        }
    }

    func countEvents(from: EventTime, to: EventTime, having: [UInt32], atMost limit: Int) throws -> Int {
        scans.append(from.microseconds..<to.microseconds)
        return try snapshot.countEvents(from: from, to: to, having: having, atMost: limit)
    }

    func event(id: EventID) throws -> StoredEvent? { try snapshot.event(id: id) }
    func retained(_ grain: Grain?) throws -> EventTime? { try snapshot.retained(grain) }
    func ledger() throws -> [PartitionLedger] { try snapshot.ledger() }
    func rulesTimeline() throws -> RulesTimeline { try snapshot.rulesTimeline() }
    func manifests(from: EventTime, to: EventTime) throws -> [Manifest] { try snapshot.manifests(from: from, to: to) }
    func proxyMinutes(from: EventTime, to: EventTime) throws -> [ProxyMinute] {
        try snapshot.proxyMinutes(from: from, to: to)
    }
}

@Suite struct MetadataListingTests {
    private static let count = 432

    /// One every ten minutes for three days, each sixth without a user.
    private static let drawn: [(event: RequestEvent, pairs: [String: [String]])] = (0..<count).map { number in
        let time = at(begin + Int64(number) * 10 * minute + 7_000_001)
        var event = RequestEvent(id: EventID(time: time, random: (5, UInt64(number))), time: time)
        event.workspace = "default"
        event.status = number % 7 == 0 ? 500 : 200
        event.outcome = Outcome(status: event.status)
        var pairs = ["env": ["e\(number % 3)"], "request_id": ["r\(number)"]]
        if number % 6 != 5 { pairs["user"] = ["u\(number % 5)"] }
        if number % 4 == 0 { pairs["team"] = ["t\(number % 11)"] }
        event.metadataRaw =
            JSONValue.object(
                pairs.sorted { $0.key < $1.key }.map { JSONMember(key: $0.key, value: .string($0.value[0])) }
            ).bytes
        return (event, pairs)
    }

    private static func expected(_ range: Range<Int64>, leavingOut gone: Set<String> = []) -> [String: Expected] {
        var expected: [String: Expected] = [:]
        for (event, pairs) in drawn where range.contains(event.time.microseconds) {
            for (key, values) in pairs where !gone.contains(key) {
                expected[key, default: Expected()].see(values, at: event.time.microseconds)
            }
        }
        return expected
    }

    private static func store(_ kind: StoreKind, _ rules: String) throws -> any StoreUnderTest {
        let store = try kind.make()
        var ingest = try BudgetedIngest(store, try Rules.decode(try JSONValue.parse(rules)))
        try ingest.apply(drawn.map(\.event), at: 0)
        ingest.writer.close()
        return store
    }

    private static func expire(_ store: any StoreUnderTest, eventsBefore boundary: Int64) throws {
        var writer = try store.writer()
        var boundaries = RetentionBoundaries(
            RetentionDays(events: 3_000, minute: 3_000, hour: 3_000, day: 3_000), now: at(begin))
        boundaries.events = at(boundary)
        while try writer.expire(boundaries, maxRows: 5_000) {}
        writer.close()
    }

    private static func keys(
        _ snapshot: any RollupSnapshot, _ range: Range<Int64>, _ budget: QueryBudget = QueryBudget()
    ) throws -> KeyListing {
        try QueryEngine().metadataKeys(
            from: at(range.lowerBound), to: at(range.upperBound), workspace: "default", snapshot: snapshot,
            budget: budget)
    }

    private static func values(
        _ snapshot: any RollupSnapshot, _ key: String, _ range: Range<Int64>
    ) throws -> ValueListing {
        try QueryEngine().metadataValues(
            of: key, prefix: "", limit: 1_000, from: at(range.lowerBound), to: at(range.upperBound),
            workspace: "default", snapshot: snapshot)
    }

    private static func expect(
        _ listing: KeyListing, _ expected: [String: Expected], within precision: [String: Int64] = [:],
        _ context: Comment? = nil
    ) {
        #expect(Set(listing.keys.map(\.key)) == Set(expected.keys), context)
        for row in listing.keys {
            guard let wanted = expected[row.key] else { continue }
            let unit = precision[row.key] ?? 1
            #expect(row.requests == wanted.requests && row.distinct == wanted.values.count, context)
            #expect(row.firstSeen.microseconds == wanted.first / unit * unit, context)
            #expect(row.lastSeen.microseconds == wanted.last / unit * unit, context)
        }
    }

    @Test(arguments: StoreKind.allCases)
    func dimensionsAndEntitiesAreListedWithoutAnyEvent(_ kind: StoreKind) throws {
        let rules = #"{"version":1,"keys":{"drop":["request_id"]},"classes":{"user":"entity"}}"#
        let store = try Self.store(kind, rules)
        let range = begin + hour..<begin + 51 * hour
        let expected = Self.expected(range, leavingOut: ["request_id"])
        try store.reader.read { snapshot in
            let watched = WatchedSnapshot(snapshot)
            let listing = try Self.keys(watched, range)
            #expect(listing.missing.isEmpty && listing.keys.allSatisfy(\.isExact))
            // Those of all dimensions once, and not with each entity again.
            #expect(watched.series == [nil, "user"])
            Self.expect(listing, expected, within: ["env": minute, "team": minute, "user": hour])
            for (key, wanted) in expected {
                let found = try Self.values(watched, key, range)
                let counts = Dictionary(uniqueKeysWithValues: found.values.map { ($0.value, $0.requests) })
                #expect(counts == wanted.values && found.missing.isEmpty, "\(key)")
            }
            // Values of a key that never was.
            #expect(try Self.values(watched, "nothing", range).values.isEmpty)
            #expect(watched.scans.isEmpty, "\(watched.scans)")
        }
    }

    @Test(arguments: StoreKind.allCases)
    func ofARangeThatCutsHoursOnlyTheEndsAreReadFromEvents(_ kind: StoreKind) throws {
        let store = try Self.store(
            kind, #"{"version":1,"keys":{"drop":["request_id"]},"classes":{"user":"entity"}}"#)
        let range = begin + 25 * minute + 13..<begin + 50 * hour + 17 * minute + 29
        try store.reader.read { snapshot in
            let watched = WatchedSnapshot(snapshot)
            let listing = try Self.keys(watched, range)
            #expect(listing.missing.isEmpty && listing.keys.allSatisfy(\.isExact))
            let expected = Self.expected(range, leavingOut: ["request_id"])
            for row in listing.keys {
                let wanted = try #require(expected[row.key])
                #expect(row.requests == wanted.requests && row.distinct == wanted.values.count)
            }
            let ends = [begin..<begin + hour, begin + 50 * hour..<begin + 51 * hour]
            #expect(!watched.scans.isEmpty)
            for scan in watched.scans { #expect(ends.contains { scan.clamped(to: $0) == scan }, "\(scan)") }
            // Each event once, for all keys.
            let inEnds = Self.drawn.count { sample in
                let time = sample.event.time.microseconds
                return range.contains(time) && ends.contains { $0.contains(time) }
            }
            #expect(watched.events <= inEnds)
        }
    }

    @Test(arguments: StoreKind.allCases)
    func whereEventsAreGoneTheRestIsListedAndTheBoundaryNamed(_ kind: StoreKind) throws {
        let store = try Self.store(
            kind, #"{"version":1,"classes":{"user":"entity","request_id":"identifier"}}"#)
        let boundary = begin + day
        try Self.expire(store, eventsBefore: boundary)
        let range = begin..<begin + 60 * hour
        var expected = Self.expected(range)
        expected["request_id"] = Self.expected(boundary..<range.upperBound)["request_id"]
        let precision = ["env": minute, "team": minute, "user": hour]
        try store.reader.read { snapshot in
            let watched = WatchedSnapshot(snapshot)
            let listing = try Self.keys(watched, range)
            Self.expect(listing, expected, within: precision)
            let gap = try #require(listing.missing.first)
            #expect(listing.missing.count == 1 && gap.from == at(begin) && gap.to == at(boundary))
            #expect(gap.keys == ["request_id"])
            #expect(
                gap.reason
                    == "only events hold an identifier; kept are events from \(RFC3339.precise(at(boundary)))")
            #expect(listing.keys.filter { !$0.isExact }.map(\.key) == ["request_id"])
            #expect(watched.scans == [boundary..<range.upperBound])
            let values = try Self.values(snapshot, "request_id", range)
            #expect(values.missing == listing.missing && values.values.count == 216)
            // Of the time before nothing is known of it, which is said, too.
            let before = try Self.values(snapshot, "request_id", begin..<boundary)
            #expect(before.values.isEmpty && before.missing == listing.missing)
            let users = try Self.values(snapshot, "user", range)
            #expect(users.missing.isEmpty && users.values.reduce(0) { $0 + $1.requests } == expected["user"]?.requests)
            // A range that cuts an hour where its events are gone: nobody can say what is in that end.
            let cut = begin + 25 * minute..<range.upperBound
            let ragged = try Self.keys(snapshot, cut)
            let ofUser = try #require(ragged.missing.first { $0.keys == ["user"] })
            #expect(ofUser.from == at(cut.lowerBound) && ofUser.to == at(begin + hour))
            #expect(ragged.keys.first { $0.key == "env" }?.isExact == true)
            let finer = try Self.keys(snapshot, cut.lowerBound + 13..<range.upperBound)
            #expect(finer.missing.contains { $0.keys == nil && $0.to == at(begin + 26 * minute) })
            #expect(finer.keys.allSatisfy { !$0.isExact })
        }
    }

    @Test(arguments: StoreKind.allCases)
    func ofIdentifiersTheNewestEventsAreRead(_ kind: StoreKind) throws {
        let store = try Self.store(
            kind, #"{"version":1,"classes":{"user":"entity","request_id":"identifier"}}"#)
        let range = begin..<begin + 72 * hour
        try store.reader.read { snapshot in
            let watched = WatchedSnapshot(snapshot)
            let listing = try Self.keys(watched, range, QueryBudget(listedEvents: 100))
            let last = try #require(Self.drawn.dropLast(99).last).event.time
            var expected = Self.expected(range)
            expected["request_id"] = Self.expected(last.microseconds..<range.upperBound)["request_id"]
            Self.expect(listing, expected, within: ["env": minute, "team": minute, "user": hour])
            #expect(
                listing.missing == [
                    ListingGap(
                        from: at(begin), to: last, keys: ["request_id"],
                        reason: "only events hold an identifier; the newest 100 are read")
                ])
            #expect(watched.events <= 101)
            #expect(try Self.keys(snapshot, range).missing.isEmpty)
        }
    }

    /// Values that a budget has filed are requests of their key all the same; how many there are nobody can say.
    @Test(arguments: StoreKind.allCases)
    func whatIsFiledMakesAListingInexact(_ kind: StoreKind) throws {
        let store = try Self.store(
            kind,
            #"{"version":1,"keys":{"drop":["request_id"]},"classes":{"user":"entity"},"observe":{"enabled":false},"#
                + #""budgets":{"sets":2,"values":50,"keys":50}}"#)
        let range = begin..<begin + 72 * hour
        let expected = Self.expected(range)
        try store.reader.read { snapshot in
            let listing = try Self.keys(snapshot, range)
            let user = try #require(listing.keys.first { $0.key == "user" })
            #expect(user.requests == expected["user"]?.requests && user.filed > 0 && !user.isExact)
            // Of each hour the two that came first have a row of their own, here u0 and u1 of five.
            let first = try Self.keys(snapshot, begin..<begin + hour)
            let users = try #require(first.keys.first { $0.key == "user" })
            #expect(users.requests == 5 && users.distinct == 2 && users.filed == 3 && !users.isExact)
            let listed = try Self.values(snapshot, "user", begin..<begin + hour).values
            #expect(
                Dictionary(uniqueKeysWithValues: listed.map { ($0.value, $0.requests) })
                    == ["u0": 1, "u1": 1, MetadataValue.filedName: 3])
            let counts = try Self.values(snapshot, "user", range).values
            #expect(counts.reduce(0) { $0 + $1.requests } == user.requests)
            #expect(counts.first { $0.value == MetadataValue.filedName }?.requests == user.filed)
        }
    }
}
