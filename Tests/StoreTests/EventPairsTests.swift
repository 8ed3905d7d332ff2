// The index on events by the pairs beside their sets: what it leaves is never less than a walk over all events finds.

import CSQLite
import Events
import JSONText
import RecordLog
import RollupStore
import RollupStoreClickHouse
import RollupStorePostgreSQL
import RollupStoreSQLite
import Rollups
import Testing

private let partition = TopicPartition(topic: "events", partition: 0)
private let begin: Int64 = 1_760_054_400_000_000
private let hour: Int64 = 3_600_000_000

private func at(_ microseconds: Int64) -> EventTime { EventTime(microseconds: microseconds) }

/// Events with pairs beside their sets, some with many, in no order of time.
private func pairedSamples(_ count: Int, _ random: inout Random) -> [Sample] {
    (0..<count).map { number in
        var sample = Sample.random(&random)
        sample.event.time = at(begin + Int64(random.next() % UInt64(72 * hour)))
        if random.next() % 8 == 0 { sample.event.time = at(begin + Int64(random.next() % 72) * hour) }
        sample.event.id = EventID(time: sample.event.time, random: (random.next(), random.next()))
        var members = [JSONMember(key: "request_id", value: .string("r\(number)"))]
        if random.next() % 2 == 0 { members.append(JSONMember(key: "user", value: .string("u\(random.next() % 20)"))) }
        if random.next() % 4 == 0 {
            let tags = ["größe", "a\"b", "c"].filter { _ in random.next() % 2 == 0 }
            members.append(JSONMember(key: "tags", value: .array(tags.map { .string($0) })))
        }
        if random.next() % 50 == 0 {
            for many in 0..<20 { members.append(JSONMember(key: "many\(many)", value: .string("m\(number)"))) }
        }
        if random.next() % 10 == 0 { members = [] }
        members.sort { $0.key.utf8.lexicographicallyPrecedes($1.key.utf8) }
        sample.extra = String(decoding: JSONValue.object(members).bytes, as: UTF8.self)
        return sample
    }
}

/// The pairs of an event's `extra`, by a way of their own.
private func pairs(_ extra: [UInt8]) throws -> Set<[String]> {
    if extra.isEmpty { return [] }
    var found: Set<[String]> = []
    for member in try JSONValue.parse(extra).members ?? [] {
        for value in member.value.array ?? [member.value] { found.insert([member.key, value.string ?? ""]) }
    }
    return found
}

/// Whatever is asked, what the index leaves holds all that has the pairs, in order; and it leaves little.
func expectTheIndexHoldsAll(
    _ store: any StoreUnderTest, _ random: inout Random, rounds: Int = 12, isWhole: Bool = true, _ which: String
) throws {
    try store.reader.read { snapshot in
        let all = try events(snapshot)
        let series = try snapshot.series(workspace: "other").map(\.id).sorted()
        for round in 0..<rounds {
            let some = (0..<1 + Int(random.next() % 3)).map { _ in all[Int(random.next() % UInt64(all.count))] }
            let wanted = Set(try some.compactMap { try pairs($0.extra).randomElement(using: &random) })
            if wanted.isEmpty { continue }
            let having = wanted.map { EventPairs.number(key: $0[0], value: $0[1]) }
            var (from, to) = (at(.min), at(.max))
            if round % 3 > 0 {
                let ends = (0..<2).map { _ in begin + Int64(random.next() % UInt64(72 * hour)) }.sorted()
                (from, to) = (at(ends[0]), at(ends[1] + 1))
            }
            let selection = round % 4 == 3 ? SeriesSelection.only(series) : .all
            var before: (time: EventTime, id: EventID)?
            if round % 5 == 4 { before = (some[0].event.time, some[0].event.id) }
            let inRange = all.filter { event in
                let place = (event.event.time, event.event.id)
                return event.event.time >= from && event.event.time < to
                    && (before.map { place < ($0.time, $0.id) } ?? true)
                    && (round % 4 == 3 ? series.contains(event.series) : true)
            }
            let expected = try inRange.filter { try !pairs($0.extra).isDisjoint(with: wanted) }
            var read: [StoredEvent] = []
            try snapshot.scanEvents(from: from, to: to, before: before, series: selection, having: having) {
                read.append($0)
                return true
            }
            let context = "\(which), round \(round): \(wanted) from \(from) to \(to)"
            let matching = try read.filter { try !pairs($0.extra).isDisjoint(with: wanted) }
            #expect(matching.map(\.event.id) == expected.map(\.event.id), "\(context)")
            let places = read.map { ($0.event.time, $0.event.id) }
            #expect(zip(places, places.dropFirst()).allSatisfy { $0 > $1 }, "\(context)")
            if isWhole {
                // Those that do not say their pairs, and those of one instant with another.
                let instants = Set(expected.map(\.event.time))
                let most = inRange.filter {
                    instants.contains($0.event.time) || EventPairs.numbers(of: $0.extra) == [EventPairs.unsaid]
                }
                #expect(read.count <= most.count + inRange.count / 50, "\(context)")
                let counted = try snapshot.countEvents(from: from, to: to, having: having, atMost: 1_000_000)
                #expect(counted >= expected.count, "\(context)")
            }
            #expect(try snapshot.countEvents(from: from, to: to, having: having, atMost: 2) <= 2)
            var first: [StoredEvent] = []
            try snapshot.scanEvents(from: from, to: to, before: before, series: selection, having: having) {
                first.append($0)
                return first.count < 3
            }
            #expect(first.map(\.event.id) == read.prefix(3).map(\.event.id), "\(context)")
        }
    }
}

@Suite struct EventPairsTests {
    @Test func numbersAreThoseOfTheDefinition() throws {
        // FNV-1a of 64 bits over key, 0xFF, value, folded; as computed by hand.
        func slow(_ bytes: [UInt8]) -> UInt32 {
            var hash: UInt64 = 14_695_981_039_346_656_037
            for byte in bytes { hash = (hash ^ UInt64(byte)) &* 1_099_511_628_211 }
            return UInt32(hash & 0xFFFF_FFFF) ^ UInt32(hash >> 32)
        }
        #expect(EventPairs.number(key: "request_id", value: "r1") == 0xBAF5_BD16)
        for (key, value) in [("request_id", "r1"), ("", ""), ("user", "Zoë ✓"), ("a", "\u{0}\"\\")] {
            #expect(EventPairs.number(key: key, value: value) == slow(Array(key.utf8) + [0xFF] + Array(value.utf8)))
        }
        #expect(EventPairs.number(key: "ab", value: "c") != EventPairs.number(key: "a", value: "bc"))
        // What is equal as text has one number.
        #expect(EventPairs.number(key: "k", value: "e\u{301}") == EventPairs.number(key: "k", value: "\u{e9}"))
    }

    @Test(arguments: [51, 52] as [UInt64])
    func numbersOfAnEventAreThoseOfItsPairs(_ seed: UInt64) throws {
        var random = Random(seed: seed)
        for sample in pairedSamples(500, &random) {
            let expected = try pairs(Array(sample.extra.utf8)).map { EventPairs.number(key: $0[0], value: $0[1]) }
            let found = EventPairs.numbers(of: Array(sample.extra.utf8))
            #expect(found == (expected.count > EventPairs.most ? [EventPairs.unsaid] : Set(expected).sorted()))
        }
        #expect(EventPairs.numbers(of: []) == [])
        #expect(EventPairs.numbers(of: Array("{}".utf8)) == [])
        #expect(EventPairs.numbers(of: Array(#"{"k":[]}"#.utf8)) == [])
        #expect(EventPairs.numbers(of: Array(#"{"k":"v"#.utf8)) == [EventPairs.unsaid])
        #expect(EventPairs.numbers(of: Array(#"{"k":"\u00"#.utf8)) == [EventPairs.unsaid])
    }

    @Test(arguments: StoreKind.allCases)
    func theIndexLeavesWhatAWalkFinds(_ kind: StoreKind) throws {
        var random = Random(seed: 61)
        let store = try kind.make()
        var writer = try store.writer()
        _ = try writer.acquire([partition])
        var maker = BatchMaker()
        let given = pairedSamples(900, &random)
        for start in stride(from: 0, to: given.count, by: 150) {
            // Some come twice.
            var samples = Array(given[start..<start + 150])
            if start > 0 { samples += given[start - 10..<start] }
            let first = Int64(start + max(0, start / 150 - 1) * 10)
            _ = try writer.apply(
                try maker.batch([.init(partition: partition, first: first, epoch: 1, samples: samples)]))
        }
        try expectTheIndexHoldsAll(store, &random, "\(kind)")
        // What is deleted is deleted from the index, and the rest is found as before.
        let boundary = at(begin + 24 * hour)
        let boundaries = RetentionBoundaries(
            RetentionDays(events: 1, minute: 9, hour: 9, day: 9), now: at(boundary.microseconds + 24 * hour))
        #expect(boundaries.events == boundary)
        while try writer.expire(boundaries, maxRows: 100) {}
        let kept = try store.reader.read { try events($0) }
        #expect(kept.count < given.count && kept.allSatisfy { $0.event.time >= boundary })
        try expectTheIndexHoldsAll(store, &random, "\(kind) after retention")
        if let store = store as? SQLiteUnderTest {
            // A run goes when its latest event does.
            while try writer.expire(
                RetentionBoundaries(
                    RetentionDays(events: 1, minute: 9, hour: 9, day: 9), now: at(begin + 24 * 6 * hour)), maxRows: 100)
            {}
            #expect(try store.number("SELECT count(*) FROM event_pairs") == 0)
            #expect(try store.number("SELECT count(*) FROM pair_runs") == 0)
        }
        writer.close()
    }

    /// Of a store that was filled before there was an index, and goes on.
    @Test(arguments: StoreKind.allCases)
    func aStoreOfAnEarlierVersionAnswersAllTheSame(_ kind: StoreKind) throws {
        var random = Random(seed: 71)
        let store = try kind.makeOnOneServer()
        var writer = try store.writer()
        _ = try writer.acquire([partition])
        var maker = BatchMaker()
        let given = pairedSamples(400, &random)
        _ = try writer.apply(
            try maker.batch([.init(partition: partition, first: 0, epoch: 1, samples: Array(given[..<200]))]))
        writer.close()
        try takeIndexAway(store)
        writer = try store.writer()
        let epoch = try #require(try writer.acquire([partition]).first?.epoch)
        try expectTheIndexHoldsAll(store, &random, isWhole: false, "\(kind) as it was")
        // Some of these are late.
        var later = Array(given[200...])
        for index in later.indices where index % 3 > 0 {
            later[index].event.time = at(later[index].event.time.microseconds + 72 * hour)
            later[index].event.id = EventID(time: later[index].event.time, random: (random.next(), UInt64(index)))
        }
        _ = try writer.apply(
            try maker.batch([.init(partition: partition, first: 200, epoch: epoch, samples: later)]))
        writer.close()
        try expectTheIndexHoldsAll(store, &random, isWhole: false, "\(kind) with more")
    }

    private func takeIndexAway(_ store: any StoreUnderTest) throws {
        switch store {
        case let store as SQLiteUnderTest:
            try store.bringBack(to: 8)
            _ = try SQLiteRollupStore.open(path: store.store.path)
        case let store as PostgreSQLUnderTest:
            try store.bringBack(to: 6)
            _ = try PostgreSQLRollupStore.open(url: store.url)
        case let store as ClickHouseUnderTest:
            for table in ["events", "revisions"] {
                _ = try store.ask("ALTER TABLE \(table) DROP INDEX pairs")
                _ = try store.ask("ALTER TABLE \(table) DROP COLUMN pair_hashes")
            }
            _ = try ClickHouseRollupStore.open(url: store.url, upkeepFailed: { _ in })
        default: Issue.record("no such store")
        }
    }

    /// Runs begin anew when they are full, and the index of many of them is read as one of few.
    @Test func aLongIndexIsReadRunByRun() throws {
        var random = Random(seed: 81)
        let store = try SQLiteUnderTest()
        let writer = try store.store.makeWriter()
        _ = try writer.acquire([partition])
        var maker = BatchMaker()
        for round in 0..<6 {
            // As if the run were full.
            try store.execute("UPDATE pair_runs SET pairs = 65536 WHERE run % 2 = 0")
            var samples = pairedSamples(60, &random)
            for index in samples.indices {
                let time = begin + Int64(round) * 10 * hour + Int64(index)
                samples[index].event.time = at(index == 7 ? begin + 1_000 + Int64(round) : time)
                samples[index].event.id = EventID(time: at(time), random: (random.next(), random.next()))
            }
            _ = try writer.apply(
                try maker.batch([
                    .init(partition: partition, first: Int64(round * 60), epoch: 1, samples: samples)
                ]))
        }
        writer.close()
        #expect(try store.number("SELECT count(*) FROM pair_runs") > 2)
        try expectTheIndexHoldsAll(store, &random, rounds: 40, "runs")
    }
}

extension SQLiteUnderTest {
    /// The first column of the first row.
    func number(_ sql: String) throws -> Int64 {
        var handle: OpaquePointer?
        defer { sqlite3_close(handle) }
        guard sqlite3_open_v2(store.path, &handle, SQLITE_OPEN_READONLY, nil) == SQLITE_OK else { return -1 }
        var statement: OpaquePointer?
        defer { sqlite3_finalize(statement) }
        guard sqlite3_prepare_v2(handle, sql, -1, &statement, nil) == SQLITE_OK,
            sqlite3_step(statement) == SQLITE_ROW
        else { return -1 }
        return sqlite3_column_int64(statement, 0)
    }
}
