import Glibc
import Journal
import RecordLog
import Synchronization
import Telemetry
import Testing
import Threading

/// What a kill, a power cut or a bad disk leaves behind.
@Suite struct RecoveryTests {
    /// A lane with `count` records, left without a close; where each frame starts.
    private func abandonedLane(_ fixture: Fixture, count: Int64) throws -> [Int] {
        let journal = try fixture.journal(JournalOptions(fsync: .never, segmentSize: 64 << 10))
        let lane = try journal.openLane(onDurable: nil)
        for number in 0..<count { #expect(lane.append(number, size: 99) == .recorded(sequence: number)) }
        // Keys of one digit make frames of 120 bytes, of two digits 121 and so 128.
        return (0..<Int(count)).map { SegmentLayout.headerSize + $0 * 120 + max(0, $0 - 10) * 8 }
    }

    /// Opens lane 0, appends one record more, closes, reads all.
    private func reopenAndRead(_ fixture: Fixture) throws -> (added: Int64, records: [Read], gaps: [Range<Int64>]) {
        let journal = try fixture.journal(JournalOptions(fsync: .never, segmentSize: 64 << 10))
        let lane = try journal.openLane(number: 0, onDurable: nil)
        let added = lane.nextSequence
        #expect(lane.append(1_000) == .recorded(sequence: added))
        journal.stop()
        var reader = fixture.reader()
        let read = try readAll(&reader)
        return (added, read.records, read.gaps)
    }

    @Test func aTailTornAtAnyByteIsCutAtTheLastWholeFrame() throws {
        let fixture = try Fixture()
        let frames = try abandonedLane(fixture, count: 3)
        let file = try #require(fixture.segmentFiles().first)
        let whole = contents(file)
        for cut in 0..<120 {
            removeTree(fixture.lane.path)
            mkdir(fixture.lane.path, 0o755)
            var torn = whole
            for index in frames[2] + cut..<frames[2] + 120 { torn[index] = 0 }
            try replace(file, torn)
            let result = try reopenAndRead(fixture)
            #expect(result.added == 2, "cut at \(cut)")
            #expect(result.records.map(\.number) == [0, 1, 1_000], "cut at \(cut)")
            #expect(result.records.allSatisfy { !$0.isCorrupt })
            #expect(result.gaps.isEmpty)
        }
        #expect(fixture.metrics.tornTails.value == 120)
        #expect(fixture.codes().contains("journal_torn_tail"))
    }

    @Test func aFileThatEndsAnywhereInTheLastFrameIsCutToo() throws {
        let fixture = try Fixture()
        let frames = try abandonedLane(fixture, count: 3)
        let file = try #require(fixture.segmentFiles().first)
        let whole = contents(file)
        for size in frames[2]..<frames[2] + 120 {
            removeTree(fixture.lane.path)
            mkdir(fixture.lane.path, 0o755)
            try replace(file, Array(whole.prefix(size)))
            let result = try reopenAndRead(fixture)
            #expect(result.added == 2, "ends at \(size)")
            #expect(result.records.map(\.number) == [0, 1, 1_000], "ends at \(size)")
        }
    }

    @Test(arguments: [false, true]) func aFlippedByteInAMiddleFrameCostsThatRecordAlone(_ reopened: Bool) throws {
        let fixture = try Fixture()
        let frames = try abandonedLane(fixture, count: 5)
        let file = try #require(fixture.segmentFiles().first)
        let whole = contents(file)
        for index in 0..<120 {
            removeTree(fixture.lane.path)
            mkdir(fixture.lane.path, 0o755)
            var flipped = whole
            flipped[frames[2] + index] ^= 0x40
            try replace(file, flipped)
            var records: [Read]
            if reopened {
                let result = try reopenAndRead(fixture)
                #expect(result.added == 5)
                records = result.records
                #expect(records.popLast()?.number == 1_000)
            } else {
                var reader = fixture.reader()
                records = try readAll(&reader, count: 5).records
            }
            #expect(records.map(\.offset) == [0, 1, 2, 3, 4], "flipped \(index)")
            #expect(records.map(\.isCorrupt) == [false, false, true, false, false], "flipped \(index)")
            #expect(records.filter { !$0.isCorrupt }.map(\.number) == [0, 1, 3, 4], "flipped \(index)")
        }
        #expect(fixture.codes().contains("journal_corrupt_record"))
    }

    @Test func aDamagedStretchKeepsTheNumbersOfWhatFollows() throws {
        let fixture = try Fixture()
        let frames = try abandonedLane(fixture, count: 20)
        let file = try #require(fixture.segmentFiles().first)
        try overwrite(file, at: frames[5] + 3, [UInt8](repeating: 0xA5, count: frames[11] - frames[5]))
        let result = try reopenAndRead(fixture)
        #expect(result.records.map(\.offset) == Array(0...20))
        #expect(result.records.filter(\.isCorrupt).map(\.offset) == Array(5...11))
        #expect(fixture.metrics.corruptRecords.value == 7)
    }

    /// Fills several small segments and closes.
    private func closedLane(_ fixture: Fixture, count: Int64 = 5_000) throws {
        let journal = try fixture.journal(JournalOptions(fsync: .never, segmentSize: 64 << 10))
        journal.start()
        let lane = try journal.openLane(onDurable: nil)
        for number in 0..<count { #expect(lane.append(number) != .dropped) }
        waitUntil("the ring is empty") { lane.drain() }
        journal.stop()
    }

    @Test func aMissingMiddleSegmentIsAGap() throws {
        let fixture = try Fixture()
        try closedLane(fixture)
        unlink(fixture.segmentFiles()[3])
        var reader = fixture.reader()
        let read = try readAll(&reader)
        let gap = try #require(read.gaps.first)
        #expect(read.gaps.count == 1)
        #expect(read.records.map(\.offset) == (0..<Int64(5_000)).filter { !gap.contains($0) })
        #expect(read.records.allSatisfy { $0.number == $0.offset })
    }

    @Test func aSegmentThatIsNotUnderstoodIsPutAsideAndTheRestGoesOn() throws {
        let fixture = try Fixture()
        try closedLane(fixture)
        try overwrite(fixture.segmentFiles()[2], at: 0, [UInt8](repeating: 0xEE, count: 64))
        let result = try reopenAndRead(fixture)
        #expect(result.added == 5_000)
        #expect(result.gaps.count == 1)
        #expect(result.records.count + result.gaps.reduce(0) { $0 + $1.count } == 5_001)
        #expect(names(fixture.lane.path).contains("00000002.segment.bad"))
        #expect(fixture.metrics.quarantinedFiles.value == 1)
    }

    @Test(arguments: [0, 10, 4_096]) func aStateThatIsNotUnderstoodIsPutAside(_ size: Int) throws {
        let fixture = try Fixture()
        try closedLane(fixture, count: 10)
        try replace("\(fixture.lane.path)/state", [UInt8](repeating: 0, count: size))
        let result = try reopenAndRead(fixture)
        #expect(result.added == 10)
        #expect(result.records.count == 11)
        #expect(fixture.metrics.quarantinedFiles.value == 1)
        #expect(names(fixture.lane.path).contains("state.bad"))
    }

    @Test func theCheckpointOnlyRisesAndSurvivesAHalfWrittenSlot() throws {
        let fixture = try Fixture()
        try closedLane(fixture, count: 10)
        let path = "\(fixture.lane.path)/state"
        for sequence in [Int64(3), 7, 5, 9] {
            try LaneState(lane: fixture.lane) { Issue.record("put aside: \($0)") }.move(to: sequence)
        }
        let whole = contents(path)
        #expect(try LaneState(lane: fixture.lane) { _ in }.checkpoint == 9)
        for slot in [0, 64] {
            var half = whole
            half[slot + 8] ^= 1
            try replace(path, half)
            let checkpoint = try LaneState(lane: fixture.lane) { Issue.record("put aside: \($0)") }.checkpoint
            #expect(checkpoint == 9 || checkpoint == 7)
        }
    }

    @Test func anOwnerThatVanishesLosesNothing() throws {
        let fixture = try Fixture()
        var expected: Int64 = 0
        for _ in 0..<5 {
            let journal = try fixture.journal()
            let lane = try journal.openLane(onDurable: nil)
            #expect(lane.directory.number == 0)
            #expect(lane.nextSequence == expected)
            for _ in 0..<100 {
                #expect(lane.append(expected) == .recorded(sequence: expected))
                expected += 1
            }
        }
        var reader = fixture.reader()
        #expect(try readAll(&reader).records.map(\.number) == Array(0..<expected))
    }

    @Test func copiesTakenInMidAppendAreWholePrefixes() throws {
        let fixture = try Fixture()
        let journal = try fixture.journal(JournalOptions(fsync: .never, segmentSize: 256 << 10))
        journal.start()
        let lane = try journal.openLane(onDurable: nil)
        let recorded = Atomic<Int64>(-1)
        // So many by round: on a slow machine the rounds must not have more to read the longer they take.
        let allowed = Atomic<Int64>(0)
        let stop = StopSignal()
        let writer = ServiceThread("writer") {
            var number: Int64 = 0
            while !stop.isStopped {
                guard number < allowed.load(ordering: .relaxed) else {
                    _ = stop.wait(milliseconds: 1)
                    continue
                }
                // Never so far ahead of the preparer that records wait: what is recorded is then what was appended.
                guard case .recorded(let sequence) = lane.append(number) else {
                    waitUntil("the ring is empty") { lane.drain() }
                    number += 1
                    continue
                }
                recorded.store(sequence, ordering: .releasing)
                number += 1
                if number % 16 == 0 { _ = stop.wait(milliseconds: 1) }
            }
        }
        for round in 0..<20 {
            let copy = try Fixture()
            allowed.wrappingAdd(2_000, ordering: .relaxed)
            waitUntil("some of them are recorded") { recorded.load(ordering: .acquiring) >= round * 2_000 }
            let before = recorded.load(ordering: .acquiring)
            mkdir(copy.directory, 0o755)
            mkdir(copy.lane.path, 0o755)
            // The last segment first: then no copy is ahead of the one before it.
            for file in fixture.segmentFiles().reversed() {
                try replace("\(copy.lane.path)/\(file.split(separator: "/").last ?? "")", contents(file))
            }
            let opened = try copy.journal(JournalOptions(fsync: .never, segmentSize: 64 << 10))
            let next = try opened.openLane(number: 0, onDurable: nil).nextSequence
            #expect(next > before, "round \(round)")
            opened.stop()
            var reader = copy.reader()
            let read = try readAll(&reader)
            #expect(read.records.map(\.number) == Array(0..<next), "round \(round)")
            #expect(read.records.allSatisfy { !$0.isCorrupt } && read.gaps.isEmpty)
        }
        stop.stop()
        writer.join()
        journal.stop()
    }

    @Test func aProcessKilledInMidAppendLosesNothingThatItRecorded() async throws {
        let fixture = try Fixture()
        var expected: Int64 = 0
        for round in 0..<6 {
            let directory = fixture.directory
            await #expect(processExitsWith: .signal(SIGKILL)) {
                [directory = directory as String, round = round as Int] in
                let log = Log(role: "test", descriptor: open("/dev/null", O_WRONLY))
                let options = JournalOptions(fsync: .interval, segmentSize: 256 << 10)
                let journal = try Journal(directory: directory, options: options, log: log, metrics: JournalMetrics())
                journal.start()
                let lane = try journal.openLane(number: 0, onDurable: nil)
                let note = open("\(directory)/recorded", O_WRONLY | O_CREAT, 0o644)
                let killer = ServiceThread("killer") {
                    _ = StopSignal().wait(milliseconds: 20 + 17 * round)
                    kill(getpid(), SIGKILL)
                }
                while true {
                    let number = lane.nextSequence
                    // Of some size, so that they are no more than can be read back soon.
                    if case .recorded(var sequence) = lane.append(number, size: 2_000) {
                        pwrite(note, &sequence, 8, 0)
                    } else {
                        while !lane.drain() { sched_yield() }
                    }
                }
                killer.join()
            }
            let noted = contents("\(fixture.directory)/recorded").prefix(8).reversed()
            let last = noted.reduce(Int64(0)) { $0 << 8 | Int64($1) }
            #expect(last >= expected, "round \(round)")
            expected = last + 1
        }
        let journal = try fixture.journal()
        let end = try journal.openLane(number: 0, onDurable: nil).nextSequence
        #expect(end >= expected)
        journal.stop()
        var reader = fixture.reader()
        // Where a kill struck between two segments the reader waits for a moment before it goes on: not the end.
        let read = try readAll(&reader, count: Int(end), seconds: 60)
        #expect(read.records.map(\.offset) == Array(0..<end))
        #expect(read.records.allSatisfy { !$0.isCorrupt } && read.gaps.isEmpty)
    }
}
