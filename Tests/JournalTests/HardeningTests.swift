import Glibc
import Journal
import RecordLog
import Synchronization
import Telemetry
import Testing
import Threading

/// What a bad disk does to a journal that goes on.
@Suite struct HardeningTests {
    /// Where a disk says no: a read-only one, or one without a free inode, has no new file; a full one no blocks for it.
    enum Place: Sendable { case creating, allocating }

    /// A disk whose new files can be refused.
    private final class Disk: Sendable {
        let refusal = Mutex<Int32>(0)
        private let place: Place

        init(_ place: Place) { self.place = place }

        var options: JournalOptions {
            var options = JournalOptions(fsync: .interval, segmentSize: 64 << 10, waitingSize: 256 << 10)
            let refusal: @Sendable () -> Int32 = { [self] in self.refusal.withLock { $0 } }
            switch place {
            case .creating:
                let create = options.create
                options.create = { path in
                    let number = refusal()
                    if number == 0 { return create(path) }
                    errno = number
                    return -1
                }
            case .allocating:
                let allocate = options.allocate
                options.allocate = { file, size in
                    let number = refusal()
                    return number != 0 ? number : allocate(file, size)
                }
            }
            return options
        }
    }

    @Test(arguments: [Place.creating, .allocating], [ENOSPC, EROFS, EIO, EDQUOT, EACCES, EMFILE])
    func aDiskThatTakesNothingCostsOnlyWhatMemoryCannotHold(_ place: Place, _ refusal: Int32) throws {
        let fixture = try Fixture()
        let disk = Disk(place)
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

    /// What a call of the disk passes through: all, none, or so many more.
    private final class Turnstile: Sendable {
        private let state = Mutex((arrived: 0, left: Int.max))

        func close() { state.withLock { $0.left = 0 } }
        func open() { state.withLock { $0.left = .max } }
        func letThrough(_ count: Int) { state.withLock { $0.left = count } }
        /// Calls so far, those that stand included.
        var arrived: Int { state.withLock { $0.arrived } }

        func pass() {
            state.withLock { $0.arrived += 1 }
            waitUntil("the disk moves again", seconds: 60) {
                state.withLock { state in
                    guard state.left > 0 else { return false }
                    if state.left != .max { state.left -= 1 }
                    return true
                }
            }
        }
    }

    @Test func aDiskThatStandsInMakingFilesDelaysNoAppend() throws {
        let fixture = try Fixture()
        let disk = Turnstile()
        var options = JournalOptions(fsync: .interval, segmentSize: 64 << 10, waitingSize: 256 << 10)
        options.allocate = { file, size in
            disk.pass()
            return posix_fallocate(file, 0, off_t(size))
        }
        let journal = try fixture.journal(options)
        let lane = try journal.openLane(onDurable: nil)
        disk.close()
        defer { disk.open() }
        journal.start()
        waitUntil("the disk stands") { disk.arrived == 2 }
        // All of these return while it stands.
        var appended: [JournalLane.Appended] = []
        for number in 0..<Int64(2_000) { appended.append(lane.append(number)) }
        #expect(disk.arrived == 2)
        let recorded = appended.count { if case .recorded = $0 { true } else { false } }
        #expect(recorded > 0 && appended.count { $0 == .waiting } == 2_000 - recorded)
        #expect(fixture.metrics.appended.value == UInt64(recorded) && fixture.metrics.dropped.value == 0)
        disk.open()
        waitUntil("the ring is empty") { lane.drain() }
        journal.stop()
        var reader = fixture.reader()
        #expect(try readAll(&reader).records.map(\.number) == Array(0..<2_000))
    }

    @Test func aDiskThatStandsInWritingThroughDelaysNoAppendAndLetsGoOfWhatItHasAlone() throws {
        let fixture = try Fixture()
        let disk = Turnstile()
        disk.close()
        defer { disk.open() }
        /// Files in the order of their passes.
        let written = Mutex<[Int32]>([])
        let released = Mutex<[(sequence: Int64, written: [Int32])]>([])
        var options = JournalOptions(fsync: .always, segmentSize: 64 << 10, waitingSize: 256 << 10)
        options.writeThrough = { file in
            disk.pass()
            let status = fdatasync(file)
            written.withLock { $0.append(file) }
            return status
        }
        let journal = try fixture.journal(options)
        let lane = try journal.openLane { sequence in
            let before = written.withLock { $0 }
            released.withLock { $0.append((sequence, before)) }
        }
        journal.start()
        // The lane goes on in it during the first pass.
        waitUntil("the next segment is ready") { fixture.metrics.preparedSegments.value >= 2 }
        lane.append(0)
        waitUntil("the disk stands") { disk.arrived == 1 }
        for number in 1..<Int64(2_000) { #expect(lane.append(number) != .dropped) }
        waitUntil("all is in segments") { lane.drain() }
        #expect(fixture.metrics.appended.value == 2_000 && disk.arrived == 1)
        #expect(released.withLock { $0.isEmpty })
        disk.letThrough(1)
        waitUntil("the next pass stands") { disk.arrived == 2 }
        #expect(released.withLock { $0.map(\.sequence) } == [0])
        disk.open()
        waitUntil("all is let go") { released.withLock { $0.last?.sequence } == 1_999 }
        // The first segment was passed when it held one record: whoever is let go after that needs it once more.
        let first = written.withLock { $0[0] }
        for (sequence, before) in released.withLock({ $0 }) where sequence > 0 {
            #expect(before.count { $0 == first } >= 2, "\(sequence) was let go after \(before)")
        }
        journal.stop()
    }

    @Test func aClockThatJumpsADayLosesNothingThatIsNotAcknowledged() throws {
        let fixture = try Fixture()
        let ahead = Atomic<Int>(0)
        let looks = Atomic<Int>(0)
        var options = JournalOptions(fsync: .never, segmentSize: 64 << 10, retentionSeconds: 3_600)
        options.clock = {
            looks.wrappingAdd(1, ordering: .acquiringAndReleasing)
            return time(nil) + ahead.load(ordering: .acquiring)
        }
        let journal = try fixture.journal(options)
        let lane = try journal.openLane(onDurable: nil)
        journal.start()
        var number: Int64 = 0
        func append() {
            for _ in 0..<2_000 {
                #expect(lane.append(number) != .dropped)
                number += 1
            }
            waitUntil("the ring is empty") { lane.drain() }
        }
        append()
        var reader = fixture.reader()
        #expect(try readAll(&reader, count: 1_000).records.count >= 1_000)
        reader.applied(lane.directory.topicPartition, next: Offset(1_000))
        for jump in [-86_400, 0, 86_400, -86_400, 86_400, 0] {
            ahead.store(jump, ordering: .releasing)
            append()
            // The second look begins when the retiring after the first is over.
            let seen = looks.load(ordering: .acquiring)
            waitUntil("retention has looked at the clock twice") { looks.load(ordering: .acquiring) >= seen + 3 }
            // Behind its time nothing goes; ahead of it what is acknowledged goes early, and nothing else.
            if number == 4_000 { #expect(fixture.metrics.retiredSegments.value == 0) }
        }
        #expect(fixture.metrics.retiredSegments.value > 0)
        var again = fixture.reader()
        let read = try readAll(&again, from: 1_000, count: Int(number) - 1_000)
        #expect(read.records.map(\.number) == Array(1_000..<number) && read.gaps.isEmpty)
        journal.stop()
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
        // Some may be dropped before, where segments are made ready too slowly: those say nothing of the limit.
        var refused = 0
        waitUntil("the limit is said, and events are dropped") {
            let isSaid = journal.degraded?.contains("journal.max_size_bytes") == true
            for _ in 0..<256 {
                if lane.append(number) == .dropped {
                    dropped += 1
                    if isSaid { refused += 1 }
                } else {
                    kept.append(number)
                }
                number += 1
            }
            return refused >= 500
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
