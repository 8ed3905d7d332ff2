// What is SQLite's own: files, locks, versions, a full disk, and the bytes of a row's bins.

import Events
import Foundation
import RecordLog
import RollupStore
import RollupStoreSQLite
import Rollups
import Testing
import Threading

@Suite struct SQLiteStoreTests {
    private static let partition = TopicPartition(topic: "events", partition: 0)

    /// Debian's command-line program: another process, and another judge of the file.
    private func sqlite3(_ path: String, _ sql: String) throws -> String {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/sqlite3")
        process.arguments = [path, sql]
        let output = Pipe()
        process.standardOutput = output
        try process.run()
        let text = output.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        #expect(process.terminationStatus == 0)
        return String(decoding: text, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)
    }

    @Test func aMissingDirectoryIsAnErrorUnlessItMayBeMade() throws {
        let directory = try TemporaryDirectory()
        let path = directory.path + "/a/b/millrace.db"
        let error = #expect(throws: RollupStoreError.self) { try SQLiteRollupStore.open(path: path) }
        #expect(error?.code == .configuration)
        let store = try SQLiteRollupStore.open(path: path, createDirectory: true)
        #expect(try store.reader.read { try $0.ledger() }.isEmpty)
    }

    @Test func aFileOfAnotherProgramIsLeftAlone() throws {
        let directory = try TemporaryDirectory()
        let path = directory.path + "/other.db"
        _ = try sqlite3(path, "CREATE TABLE theirs (a); INSERT INTO theirs VALUES (1)")
        let before = try Data(contentsOf: URL(fileURLWithPath: path))
        let error = #expect(throws: RollupStoreError.self) { try SQLiteRollupStore.open(path: path) }
        #expect(error?.code == .configuration)
        #expect(try Data(contentsOf: URL(fileURLWithPath: path)) == before)

        let text = directory.path + "/text.db"
        try Data(repeating: 65, count: 5_000).write(to: URL(fileURLWithPath: text))
        let noDatabase = #expect(throws: RollupStoreError.self) { try SQLiteRollupStore.open(path: text) }
        #expect(noDatabase?.code == .configuration)
    }

    @Test func aStoreOfANewerProgramIsRefused() throws {
        let store = try SQLiteUnderTest()
        _ = try sqlite3(store.store.path, "PRAGMA user_version = 999")
        let error = #expect(throws: RollupStoreError.self) { try SQLiteRollupStore.open(path: store.store.path) }
        #expect(error?.code == .newerSchema)
        #expect(error?.description.contains("999") == true)
    }

    @Test func manyMayOpenANewStoreAtOnce() throws {
        let directory = try TemporaryDirectory()
        let path = directory.path + "/millrace.db"
        let failures = BoundedQueue<String>(capacity: 100)
        let threads = (0..<8).map { number in
            ServiceThread("open-\(number)") {
                do {
                    let store = try SQLiteRollupStore.open(path: path)
                    _ = try store.reader.read { try $0.watermark }
                } catch {
                    _ = failures.tryPush("\(error)")
                }
            }
        }
        for thread in threads { thread.join() }
        #expect(failures.pop(timeoutMilliseconds: 0) == nil)
        #expect(try sqlite3(path, "PRAGMA user_version") == "\(SQLiteRollupStore.schemaVersion)")
    }

    @Test func aReadThatNobodyWantsAnyMoreIsStoppedAndTheConnectionGoesOn() throws {
        let store = try SQLiteUnderTest()
        let writer = try store.store.makeWriter()
        _ = try writer.acquire([Self.partition])
        var maker = BatchMaker()
        var random = Random(seed: 5)
        let given = (0..<4_000).map { _ in Sample.random(&random) }
        _ = try writer.apply(try maker.batch([.init(partition: Self.partition, first: 0, epoch: 1, samples: given)]))
        writer.close()
        func count(_ isUnwanted: @escaping @Sendable () -> Bool) throws -> Int {
            var found = 0
            try store.store.reader.read(until: isUnwanted) { snapshot in
                try snapshot.scanEvents(
                    from: EventTime(microseconds: .min), to: EventTime(microseconds: .max), before: nil, series: .all
                ) { _ in
                    found += 1
                    return true
                }
            }
            return found
        }
        let error = #expect(throws: RollupStoreError.self) { try count { true } }
        #expect(error?.isTransient == true)
        #expect(try count { false } == 4_000)
    }

    @Test func aSecondWriterIsKeptOutUntilTheFirstIsGone() throws {
        let store = try SQLiteUnderTest()
        let writer = try store.store.makeWriter()
        let error = #expect(throws: RollupStoreError.self) { try store.store.makeWriter() }
        #expect(error?.code == .unavailable)
        writer.close()
        try store.store.makeWriter().close()

        // As well when the other one is another process, and it dies rather than ends.
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/flock")
        let output = Pipe()
        process.standardOutput = output
        process.arguments = ["--no-fork", store.store.path + ".writer-lock", "sh", "-c", "echo held; exec sleep 600"]
        try process.run()
        #expect(String(decoding: output.fileHandleForReading.readData(ofLength: 5), as: UTF8.self) == "held\n")
        #expect(throws: RollupStoreError.self) { try store.store.makeWriter() }
        kill(process.processIdentifier, SIGKILL)
        process.waitUntilExit()
        try store.store.makeWriter().close()
    }

    @Test func anotherProcessReadsWhatIsCommittedWhileWeWrite() throws {
        let store = try SQLiteUnderTest()
        let writer = try store.store.makeWriter()
        _ = try writer.acquire([Self.partition])
        var maker = BatchMaker()
        var random = Random(seed: 51)
        for number in 0..<5 {
            let given = (0..<20).map { _ in Sample.random(&random) }
            _ = try writer.apply(
                try maker.batch([
                    .init(partition: Self.partition, first: Int64(number) * 20, epoch: 1, samples: given)
                ]))
            let total = try sqlite3(
                store.store.path,
                "SELECT (SELECT count(*) FROM events) || ' ' || (SELECT sum(requests) FROM rollups WHERE grain = 1)")
            #expect(total == "\(number * 20 + 20) \(number * 20 + 20)")
        }
        #expect(try sqlite3(store.store.path, "PRAGMA integrity_check") == "ok")
        writer.close()
    }

    @Test func aFullDiskLosesNothingAndIsTriedAgain() throws {
        let store = try SQLiteUnderTest()
        var writer = try store.store.makeWriter(maxPages: 60)
        _ = try writer.acquire([Self.partition])
        var maker = BatchMaker()
        var random = Random(seed: 61)
        var applied: [Sample] = []
        var refused: SealedBatch?
        while refused == nil && applied.count < 100_000 {
            let given = (0..<100).map { _ in Sample.random(&random) }
            let batch = try maker.batch([
                .init(partition: Self.partition, first: Int64(applied.count), epoch: 1, samples: given)
            ])
            do {
                _ = try writer.apply(batch)
            } catch {
                #expect(error.code == .unavailable)
                #expect(error.isTransient)
                refused = batch
            }
            if refused == nil {
                applied += given
            } else {
                #expect(try Count(reading: store.reader) == Count(applied))
                // Still full: the same answer, and still nothing half done.
                #expect(throws: RollupStoreError.self) { try writer.apply(batch) }
                #expect(try Count(reading: store.reader) == Count(applied))
                applied += given
            }
        }
        let batch = try #require(refused)
        writer.close()
        // Room again.
        writer = try store.store.makeWriter()
        #expect(try writer.apply(batch).applied == 100)
        #expect(try Count(reading: store.reader) == Count(applied))
        writer.close()
    }

    @Test func theLogIsCarriedOverBesideTheWriterAndAtTheLimitByIt() {
        var schedule = CheckpointSchedule(start: 10, limit: 40)
        let asked = [5, 10, 12, 19, 20, 31, 40, 41, 45, 52, 3, 9, 11].map { schedule.committed(pages: $0) }
        #expect(
            asked == [
                .none, .beside, .none, .none, .beside, .beside, .none, .here, .none, .here, .none, .none, .beside,
            ])
    }

    @Test func theLogStaysBoundedUnderABusyWriter() throws {
        let store = try SQLiteUnderTest()
        let writer = try store.store.makeWriter(schedule: CheckpointSchedule(start: 32, limit: 128))
        _ = try writer.acquire([Self.partition])
        var maker = BatchMaker()
        var random = Random(seed: 71)
        var applied: [Sample] = []
        var greatest = 0
        for _ in 0..<60 {
            let given = (0..<200).map { _ in Sample.random(&random) }
            _ = try writer.apply(
                try maker.batch([
                    .init(partition: Self.partition, first: Int64(applied.count), epoch: 1, samples: given)
                ]))
            applied += given
            let log = try FileManager.default.attributesOfItem(atPath: store.store.path + "-wal")
            greatest = max(greatest, (log[.size] as? Int ?? 0) / 8_192)
        }
        // Each batch writes a hundred pages and more, all of them several thousand.
        #expect(greatest > 128 && greatest < 1_500)
        #expect(try Count(reading: store.reader) == Count(applied))
        writer.close()
        #expect(try sqlite3(store.store.path, "PRAGMA integrity_check") == "ok")
    }

    @Test func aClosedWriterSaysSo() throws {
        let store = try SQLiteUnderTest()
        let writer = try store.store.makeWriter()
        writer.close()
        #expect(throws: RollupStoreError.self) { try writer.acquire([Self.partition]) }
    }

    // MARK: Bins

    private func encoded(_ bins: [SketchBin]) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: BinBlob.capacity(bins.count)) { buffer, count in
            count = BinBlob.encode(bins, into: UnsafeMutableRawBufferPointer(buffer))
        }
    }

    private func merged(_ a: [UInt8], _ b: [UInt8]) -> [UInt8]? {
        var isWhole = true
        let bytes = [UInt8](unsafeUninitializedCapacity: BinBlob.mergedCapacity(a.count, b.count)) { buffer, count in
            a.withUnsafeBytes { a in
                b.withUnsafeBytes { b in
                    let written = BinBlob.merge(a, b, into: UnsafeMutableRawBufferPointer(buffer))
                    isWhole = written != nil
                    count = written ?? 0
                }
            }
        }
        return isWhole ? bytes : nil
    }

    @Test(arguments: [71, 72, 73] as [UInt64])
    func binsComeBackAndAddUp(_ seed: UInt64) throws {
        var random = Random(seed: seed)
        for _ in 0..<300 {
            let sides = (0..<2).map { _ in
                var bins: [Int: Int64] = [:]
                for _ in 0..<random.next() % 20 {
                    let index =
                        random.next() % 8 == 0 ? Int(Int16(truncatingIfNeeded: random.next())) : Int(random.next() % 40)
                    let count =
                        random.next() % 9 == 0 ? Int64(bitPattern: random.next()) : Int64(1 + random.next() % 300)
                    bins[Int(random.next() % 3) << 16 + index + 32_768] = count == 0 ? 1 : count
                }
                return bins
            }
            func list(_ bins: [Int: Int64]) -> [SketchBin] {
                bins.filter { $0.value != 0 }.sorted { $0.key < $1.key }.map {
                    SketchBin(
                        kind: SketchKind(rawValue: UInt8($0.key >> 16)) ?? .latency,
                        index: Int16($0.key & 0xFFFF - 32_768), count: $0.value)
                }
            }
            let blobs = sides.map { encoded(list($0)) }
            for (side, blob) in zip(sides, blobs) {
                #expect(blob.withUnsafeBytes { BinBlob.decode($0) } == list(side), "seed \(seed)")
            }
            let sum = sides[0].merging(sides[1]) { $0 &+ $1 }
            let added = try #require(merged(blobs[0], blobs[1]))
            #expect(added.withUnsafeBytes { BinBlob.decode($0) } == list(sum), "seed \(seed)")
            #expect(merged(blobs[1], blobs[0]) == added)
        }
    }

    @Test(arguments: [
        [0x80], [1], [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 1], [0x80, 0x80, 0x0C, 1],
    ])
    func brokenBinsAreNoBins(_ blob: [UInt8]) {
        #expect(blob.withUnsafeBytes { BinBlob.decode($0) } == nil)
        #expect(merged(blob, []) == nil)
        #expect(merged(encoded([SketchBin(kind: .latency, index: 3, count: 1)]), blob) == nil)
    }
}
