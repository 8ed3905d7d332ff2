import Glibc
import Journal
import RecordLog
import Synchronization
import Telemetry
import Testing
import Threading

/// What a bad disk does to a journal that goes on.
@Suite struct HardeningTests {
    /// A disk whose new files can be refused, or slow.
    private final class Disk: Sendable {
        let refusal = Mutex<Int32>(0)
        let isSlow = Mutex(false)

        var options: JournalOptions {
            JournalOptions(
                fsync: .interval, segmentSize: 64 << 10, waitingSize: 256 << 10,
                allocate: { [self] file, size in
                    let number = refusal.withLock { $0 }
                    if number != 0 { return number }
                    if isSlow.withLock({ $0 }) { usleep(50_000) }
                    return posix_fallocate(file, 0, off_t(size))
                })
        }
    }

    @Test(arguments: [ENOSPC, EROFS, EIO, EDQUOT])
    func aDiskThatTakesNothingCostsOnlyWhatMemoryCannotHold(_ refusal: Int32) throws {
        let fixture = try Fixture()
        let disk = Disk()
        let journal = try fixture.journal(disk.options)
        let lane = try journal.openLane(onDurable: nil)
        disk.refusal.withLock { $0 = refusal }
        journal.start()
        var kept: [Int64] = []
        var states: [String] = []
        for number in 0..<Int64(6_000) {
            switch lane.append(number) {
            case .recorded:
                kept.append(number)
                states.append("recorded")
            case .waiting:
                kept.append(number)
                states.append("waiting")
            case .dropped: states.append("dropped")
            }
        }
        // In this order: the segment at hand, then memory, then nothing.
        #expect(states.first == "recorded" && states.contains("waiting") && states.last == "dropped")
        #expect(fixture.metrics.dropped.value == UInt64(states.count { $0 == "dropped" }))
        waitUntil("it is said") { journal.degraded != nil }
        #expect(fixture.metrics.prepareFailures.value > 0 && fixture.metrics.degraded.value == 1)
        disk.refusal.withLock { $0 = 0 }
        waitUntil("what waited is written") { lane.drain() }
        #expect(lane.append(9_000) != .dropped)
        kept.append(9_000)
        waitUntil("it is well") { lane.drain() && journal.degraded == nil }
        journal.stop()
        var reader = fixture.reader()
        #expect(try readAll(&reader).records.map(\.number) == kept)
        #expect(fixture.codes().contains("journal_degraded") && fixture.codes().contains("journal_recovered"))
    }

    @Test func aSlowDiskDelaysNoAppend() throws {
        let fixture = try Fixture()
        let disk = Disk()
        let journal = try fixture.journal(disk.options)
        let lane = try journal.openLane(onDurable: nil)
        disk.isSlow.withLock { $0 = true }
        journal.start()
        var waited = 0
        for number in 0..<Int64(2_000) {
            let appended = lane.append(number)
            #expect(appended != .dropped)
            if appended == .waiting { waited += 1 }
        }
        // Had an append waited for the disk, a segment would have been ready and none would be in memory.
        #expect(waited > 0)
        waitUntil("the ring is empty") { lane.drain() }
        journal.stop()
        var reader = fixture.reader()
        #expect(try readAll(&reader).records.map(\.number) == Array(0..<2_000))
    }

    @Test func atTheSizeLimitOnlyWhatIsAcknowledgedIsGivenUp() throws {
        let fixture = try Fixture()
        let options = JournalOptions(
            fsync: .never, segmentSize: 64 << 10, maxSize: 512 << 10, retentionSeconds: 86_400, waitingSize: 128 << 10)
        let journal = try fixture.journal(options)
        let lane = try journal.openLane(onDurable: nil)
        journal.start()
        // The log is away: nothing is acknowledged, and nothing that is on disk goes.
        var kept: [Int64] = []
        var dropped = 0
        var number: Int64 = 0
        waitUntil("the limit is said, and events are dropped") {
            for _ in 0..<256 {
                if lane.append(number) == .dropped { dropped += 1 } else { kept.append(number) }
                number += 1
            }
            return dropped >= 500 && journal.degraded?.contains("journal.max_size_bytes") == true
        }
        #expect(fixture.metrics.retiredSegments.value == 0)
        #expect(fixture.metrics.sizeBytes.value <= 512 << 10)
        #expect(fixture.metrics.dropped.value == UInt64(dropped))
        var reader = fixture.reader()
        let onDisk = Int(lane.nextSequence)
        let read = try readAll(&reader, count: onDisk)
        #expect(read.records.map(\.number) == Array(kept[..<onDisk]))
        // The log is back: acknowledged segments go before their time, the oldest first, and what waited is written.
        reader.applied(lane.directory.topicPartition, next: Offset(Int64(onDisk)))
        waitUntil("what waited is written") { lane.drain() }
        #expect(fixture.metrics.retiredSegments.value > 0)
        let rest = try readAll(&reader, count: kept.count - onDisk)
        #expect(rest.records.map(\.number) == Array(kept[onDisk...]))
        #expect(rest.gaps.isEmpty)
        waitUntil("it is well") { lane.drain() && journal.degraded == nil }
        journal.stop()
    }

    @Test func aDiskThatCannotWriteThroughIsSaidAndHoldsNobody() throws {
        let fixture = try Fixture()
        let isBroken = Mutex(true)
        var options = JournalOptions(fsync: .always, segmentSize: 64 << 10)
        options.writeThrough = { file in
            if isBroken.withLock({ $0 }) {
                errno = EIO
                return -1
            }
            return fdatasync(file)
        }
        let journal = try fixture.journal(options)
        journal.start()
        let released = Mutex<[Int64]>([])
        let lane = try journal.openLane { sequence in released.withLock { $0.append(sequence) } }
        for number in 0..<Int64(10) { lane.append(number) }
        waitUntil("who waits is let go") { released.withLock { $0.last } == 9 }
        waitUntil("it is said") {
            fixture.metrics.syncFailures.value > 0 && fixture.codes().contains("journal_sync_failed")
        }
        isBroken.withLock { $0 = false }
        waitUntil("it is written through") { fixture.metrics.syncs.value > 0 }
        journal.stop()
    }
}
