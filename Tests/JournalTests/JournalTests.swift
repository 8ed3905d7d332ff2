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
