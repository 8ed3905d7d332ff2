// What a SQLite reader remembers of hours and days never shows: the same rows as from a reader that has seen nothing.

import Events
import Glibc
import RecordLog
import RollupStore
import RollupStoreSQLite
import Rollups
import Testing

@Suite struct BucketMemoryTests {
    private static let partition = TopicPartition(topic: "events", partition: 0)

    private struct Row: Equatable, CustomStringConvertible {
        var bucket: Int32
        var series: Int64
        var measures: Measures
        var bins: [[Int64]]
        var description: String { "\(bucket)/\(series): \(measures.requests)" }
    }

    private struct Scan {
        var grain: Grain
        var from: Int32
        var to: Int32
        var series: SeriesSelection
        var withBins: Bool

        static func random(_ random: inout Random) -> Scan {
            let grain = Grain.plain[Int(random.next() % 3)]
            // The samples lie within three days from here on.
            let first = grain.bucket(of: EventTime(microseconds: 1_760_000_000_000_000))
            let span = UInt64(4 * Grain.day.microseconds / grain.microseconds)
            let from = first - 1 + Int32(random.next() % span)
            let wanted = (1...80).filter { _ in random.next() % 3 == 0 }.map { Int64($0) }
            return Scan(
                grain: grain, from: from, to: from + Int32(random.next() % span),
                series: random.next() % 3 == 0 ? .all : .only(wanted), withBins: random.next() % 2 == 0)
        }

        func rows(_ snapshot: any RollupSnapshot) throws -> [Row] {
            var found: [Row] = []
            try snapshot.scanRollups(grain: grain, from: from, to: to, series: series, withBins: withBins) { row in
                let bins = row.bins.map { [Int64($0.kind.rawValue), Int64($0.index), $0.count] }
                found.append(Row(bucket: row.bucket, series: row.series, measures: row.measures, bins: bins))
            }
            return found.sorted { ($0.bucket, $0.series) < ($1.bucket, $1.series) }
        }
    }

    private func waitUntilTakenIn(_ reader: SQLiteRollupReader) {
        let deadline = ContinuousClock.now.advanced(by: .seconds(30))
        while reader.buckets.wanted > 0, ContinuousClock.now < deadline { usleep(500) }
    }

    @Test func aReaderThatRemembersSaysWhatAFreshOneSays() throws {
        let seed = UInt64.random(in: 0..<1_000_000)
        print("bucket memory: seed \(seed)")
        var random = Random(seed: seed)
        let directory = try TemporaryDirectory()
        let store = try SQLiteRollupStore.open(path: directory.path + "/millrace.db")
        let writer = try store.makeWriter()
        let epoch = try writer.acquire([Self.partition])[0].epoch
        var maker = BatchMaker()
        var next: Int64 = 0
        for round in 0..<8 {
            // Late events, too: every batch adds to days that were read before. Some are copies.
            var samples = (0..<60).map { _ in Sample.random(&random) }
            samples += samples.prefix(5)
            let part = BatchMaker.Part(partition: Self.partition, first: next, epoch: epoch, samples: samples)
            _ = try writer.apply(try maker.batch([part]))
            next += Int64(samples.count)
            let fresh = try SQLiteRollupStore.open(path: store.path, readers: 1)
            for _ in 0..<40 {
                let scan = Scan.random(&random)
                let expected = try fresh.reader.read { try scan.rows($0) }
                // Read, wanted, remembered.
                for time in 0..<3 {
                    let rows = try store.reader.read { try scan.rows($0) }
                    #expect(rows == expected, "seed \(seed), round \(round), time \(time), \(scan)")
                    if time == 1 { waitUntilTakenIn(store.reader) }
                }
            }
            #expect(store.reader.buckets.remembered > 3)
        }
        writer.close()
    }

    @Test func aReadOfAnOlderStateKeepsItsOwnRows() throws {
        var random = Random(seed: 7)
        let directory = try TemporaryDirectory()
        let store = try SQLiteRollupStore.open(path: directory.path + "/millrace.db")
        let writer = try store.makeWriter()
        let epoch = try writer.acquire([Self.partition])[0].epoch
        var maker = BatchMaker()
        func apply(_ first: Int64) throws {
            let samples = (0..<50).map { _ in Sample.random(&random) }
            let part = BatchMaker.Part(partition: Self.partition, first: first, epoch: epoch, samples: samples)
            _ = try writer.apply(try maker.batch([part]))
        }
        try apply(0)
        let first = Grain.day.bucket(of: EventTime(microseconds: 1_760_000_000_000_000))
        let scan = Scan(grain: .day, from: first - 1, to: first + 5, series: .all, withBins: true)
        try store.reader.read { old in
            let before = try scan.rows(old)
            #expect(before.reduce(0) { $0 + $1.measures.requests } == 50)
            try apply(50)
            for _ in 0..<3 {
                // In between others read the newer state, and remember it.
                let after = try store.reader.read { try scan.rows($0) }
                waitUntilTakenIn(store.reader)
                #expect(after.reduce(0) { $0 + $1.measures.requests } == 100)
                #expect(try scan.rows(old) == before)
            }
        }
        writer.close()
    }

    @Test func aStoreOfAnEarlierVersionBeginsWithNothingRemembered() throws {
        var random = Random(seed: 8)
        let store = try SQLiteUnderTest()
        let writer = try store.store.makeWriter()
        let epoch = try writer.acquire([Self.partition])[0].epoch
        var maker = BatchMaker()
        let samples = (0..<50).map { _ in Sample.random(&random) }
        _ = try writer.apply(
            try maker.batch([BatchMaker.Part(partition: Self.partition, first: 0, epoch: epoch, samples: samples)]))
        writer.close()
        try store.bringBack(to: 6)
        let opened = try SQLiteRollupStore.open(path: store.store.path)
        let first = Grain.day.bucket(of: EventTime(microseconds: 1_760_000_000_000_000))
        let scan = Scan(grain: .day, from: first, to: first + 4, series: .all, withBins: false)
        func counted() throws -> Int64 {
            try opened.reader.read { try scan.rows($0) }.reduce(0) { $0 + $1.measures.requests }
        }
        for _ in 0..<3 {
            #expect(try counted() == 50)
            waitUntilTakenIn(opened.reader)
        }
        #expect(opened.reader.buckets.remembered > 0)
        let again = try opened.makeWriter()
        let taken = try again.acquire([Self.partition])[0]
        let more = (0..<30).map { _ in Sample.random(&random) }
        _ = try again.apply(
            try maker.batch([BatchMaker.Part(partition: Self.partition, first: 50, epoch: taken.epoch, samples: more)]))
        for _ in 0..<3 { #expect(try counted() == 80) }
        again.close()
    }
}
