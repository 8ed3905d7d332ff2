import Glibc
import Journal
import RecordLog
import Synchronization
import Telemetry
import Testing
import Threading

@Suite struct JournalTests {
    @Test(arguments: [
        ("", UInt32(0)), ("123456789", 0xE306_9283), ("a", 0xC1D0_4330),
        ("The quick brown fox jumps over the lazy dog", 0x2262_0404),
    ])
    func checksumsAgreeWithKnownVectors(_ text: String, _ expected: UInt32) {
        #expect(Array(text.utf8).withUnsafeBytes { CRC32C.checksum($0) } == expected)
    }

    @Test func checksumsOfThe32ByteVectorsOfRFC3720Agree() {
        #expect([UInt8](repeating: 0, count: 32).withUnsafeBytes { CRC32C.checksum($0) } == 0x8A91_36AA)
        #expect([UInt8](repeating: 0xFF, count: 32).withUnsafeBytes { CRC32C.checksum($0) } == 0x62A8_AB43)
        #expect((0..<32).map { UInt8($0) }.withUnsafeBytes { CRC32C.checksum($0) } == 0x46DD_794E)
    }

    @Test func recordsComeBackAsAppendedInOrder() throws {
        let fixture = try Fixture()
        let journal = try fixture.journal()
        let lane = try journal.openLane(onDurable: nil)
        for number in 0..<Int64(1_000) {
            #expect(lane.append(number, size: Int(number)) == .recorded(sequence: number))
        }
        var reader = fixture.reader()
        let read = try readAll(&reader, count: 1_000)
        #expect(read.records.map(\.number) == Array(0..<1_000))
        #expect(read.records.map(\.offset) == Array(0..<1_000))
        #expect(read.gaps.isEmpty)
        journal.stop()
    }

    @Test func recordsRunOnAcrossSegments() throws {
        let fixture = try Fixture()
        let journal = try fixture.journal(JournalOptions(fsync: .never, segmentSize: 64 << 10))
        journal.start()
        let lane = try journal.openLane(onDurable: nil)
        for number in 0..<Int64(5_000) { #expect(lane.append(number) != .dropped) }
        waitUntil("the ring is empty") { lane.drain() }
        journal.stop()
        #expect(fixture.segmentFiles().count > 8)
        var reader = fixture.reader()
        let read = try readAll(&reader)
        #expect(read.records.map(\.number) == Array(0..<5_000))
        #expect(fixture.metrics.waitingBytes.value == 0)
    }

    @Test func everyRecordIsSeenOnceInOrderWhileTheWriterGoesOn() throws {
        let fixture = try Fixture()
        let journal = try fixture.journal(JournalOptions(fsync: .interval, segmentSize: 2 << 20))
        journal.start()
        let lane = try journal.openLane(onDurable: nil)
        let count: Int64 = 200_000
        let writer = ServiceThread("writer") {
            for number in 0..<count {
                while lane.append(number, size: 64) == .dropped { sched_yield() }
            }
            waitUntil("the ring is empty") { lane.drain() }
        }
        var reader = fixture.reader()
        let read = try readAll(&reader, count: Int(count), seconds: 60)
        writer.join()
        #expect(read.records.count == Int(count))
        #expect(read.records.indices.allSatisfy { read.records[$0].number == Int64($0) })
        #expect(read.records.indices.allSatisfy { read.records[$0].offset == Int64($0) })
        #expect(read.gaps.isEmpty)
        journal.stop()
    }

    @Test func aLaneMadeLaterIsDiscovered() throws {
        let fixture = try Fixture()
        let journal = try fixture.journal()
        let first = try journal.openLane(onDurable: nil)
        first.append(0)
        var reader = fixture.reader()
        #expect(try readAll(&reader, count: 1).records.map(\.number) == [0])
        let second = try fixture.journal()
        let lane = try second.openLane(onDurable: nil)
        #expect(lane.directory.number == 1)
        lane.append(7)
        #expect(try readAll(&reader, count: 1).records.map(\.number) == [7])
        #expect(reader.lag.map(\.records) == [1, 1])
        reader.applied(first.directory.topicPartition, next: Offset(1))
        #expect(reader.lag.map(\.records) == [0, 1])
        journal.stop()
        second.stop()
    }

    @Test func aRecordThatNoSegmentHoldsIsDroppedAndCounted() throws {
        let fixture = try Fixture()
        let journal = try fixture.journal(JournalOptions(fsync: .never, segmentSize: 64 << 10))
        let lane = try journal.openLane(onDurable: nil)
        #expect(lane.append(0, size: lane.recordLimit) == .dropped)
        #expect(lane.append(1, size: lane.recordLimit - 5) == .recorded(sequence: 0))
        let longKey = [UInt8](repeating: 1, count: 256)
        #expect(longKey.withUnsafeBytes { lane.append(kind: .event, key: $0, value: $0) } == .dropped)
        #expect(fixture.metrics.oversized.value == 2)
        var reader = fixture.reader()
        #expect(try readAll(&reader).records.map(\.number) == [1])
        journal.stop()
    }

    @Test func withFsyncAlwaysTheSyncThreadNamesWhatIsDurable() throws {
        let fixture = try Fixture()
        let journal = try fixture.journal(JournalOptions(fsync: .always, segmentSize: 64 << 10))
        journal.start()
        let durable = Mutex<[Int64]>([])
        let lane = try journal.openLane { sequence in durable.withLock { $0.append(sequence) } }
        for number in 0..<Int64(2_000) { lane.append(number) }
        waitUntil("all is durable") {
            lane.drain() && durable.withLock { $0.last } == 1_999
        }
        let calls = durable.withLock { $0 }
        #expect(calls == calls.sorted())
        journal.stop()
    }

    @Test func theProxyIDStaysTheSame() throws {
        let fixture = try Fixture()
        let id = try fixture.journal().proxyID
        #expect(id.utf8.count == 36)
        #expect(try fixture.journal().proxyID == id)
        try replace("\(fixture.directory)/proxy-id", Array("garbage".utf8))
        #expect(try fixture.journal().proxyID != id)
        #expect(fixture.codes().contains("journal_file_quarantined"))
    }

    @Test func aDirectoryThatCannotBeUsedIsNamed() throws {
        let fixture = try Fixture()
        _ = try fixture.journal()
        let error = #expect(throws: JournalError.self) {
            try Journal(
                directory: "\(fixture.directory)/proxy-id/below", options: JournalOptions(), log: fixture.log,
                metrics: fixture.metrics)
        }
        #expect(error?.code == .directory)
        #expect(error?.description.contains("journal.directory") == true)
    }

    @Test func twoHoldersOfOneLaneAreRefused() throws {
        let fixture = try Fixture()
        let first = try fixture.journal()
        let lane = try first.openLane(onDurable: nil)
        let second = try fixture.journal()
        let error = #expect(throws: JournalError.self) { try second.openLane(number: 0, onDurable: nil) }
        #expect(error?.code == .laneInUse)
        #expect(try second.openLane().directory.number == 1)
        lane.append(0)
        first.stop()
        #expect(try second.openLane(number: 0, onDurable: nil).nextSequence == 1)
        second.stop()
    }
}

/// Waits for a condition with a deadline.
func waitUntil(_ what: String, seconds: Int = 20, _ condition: () -> Bool) {
    let deadline = ContinuousClock.now.advanced(by: .seconds(seconds))
    let pause = StopSignal()
    while !condition() {
        if ContinuousClock.now > deadline {
            Issue.record("waited \(seconds) s in vain until \(what)")
            return
        }
        _ = pause.wait(milliseconds: 1)
    }
}
