// A journal, its counts, a consumer and a store, with nothing in between: the balance is 0, or names the minute.

import EventCodec
import Events
import Glibc
import Ingest
import Journal
import Normalizer
import Reconciling
import RecordLog
import RollupStore
import RollupStoreSQLite
import Telemetry
import Testing
import Threading

/// One installation in a directory of its own. `clock` is the time of the events.
private final class Place {
    let directory: String
    let log = Log(role: "test", descriptor: open("/dev/null", O_WRONLY))
    let store: SQLiteRollupStore
    private var random = SystemRandomNumberGenerator()

    init() throws {
        directory = "/tmp/millrace-reconciling-\(getpid())-\(UInt32.random(in: 0 ... .max))"
        store = try SQLiteRollupStore.open(path: directory + "/store/millrace.db", createDirectory: true)
    }

    deinit { removeTree(directory) }

    func journal(maxSize: Int = 64 << 20) throws -> Journal {
        try Journal(
            directory: directory + "/journal",
            options: JournalOptions(fsync: .never, segmentSize: 1 << 20, maxSize: maxSize), log: log,
            metrics: JournalMetrics())
    }

    func event(_ journal: Journal, at time: EventTime) -> RequestEvent {
        var event = RequestEvent(id: EventID(time: time, random: (random.next(), random.next())), time: time)
        event.proxy = journal.proxyID
        event.workspace = "default"
        event.provider = "openai"
        event.status = 200
        return event
    }

    func append(_ event: RequestEvent, to lane: JournalLane) -> JournalLane.Appended {
        var value: [UInt8] = []
        EventEncoder.encode(event, into: &value)
        return event.id.bytes.withUnsafeBytes { key in
            value.withUnsafeBytes { lane.append(kind: .event, key: key, value: $0, time: event.time) }
        }
    }

    /// Applies what is in the journal.
    func consume() throws {
        var options = Consumer.Options()
        options.lingerMilliseconds = 1
        let consumer = Consumer(
            reader: JournalLogReader(directory: directory + "/journal", log: log, metrics: JournalMetrics()),
            writer: try store.makeWriter(), normalizer: Normalizer(rules: .builtIn), options: options, log: log,
            metrics: ConsumerMetrics(deadLetterCodes: DeadLetter.Code.allCases.map(\.rawValue)))
        consumer.start()
        let deadline = ContinuousClock.now.advanced(by: .seconds(30))
        let pause = StopSignal()
        while try balance().totals.inFlight > 0 || !hasRead(), ContinuousClock.now < deadline {
            _ = pause.wait(milliseconds: 5)
        }
        consumer.stop()
    }

    /// Whether the store stands at the end of every lane.
    private func hasRead() throws -> Bool {
        let ledger = try store.reader.read { try $0.ledger() }
        return LaneDirectory.all(in: directory + "/journal").allSatisfy { lane in
            let cursor = LaneCursor(
                lane: lane, next: ledger.first { $0.partition == lane.topicPartition }?.next.value ?? 0, log: log,
                metrics: JournalMetrics())
            return cursor.backlog().records == 0
        }
    }

    func balance() throws -> Balance {
        let reconciler = Reconciler(.journal(directory: directory + "/journal"), log: log, now: Consumer.systemTime)
        return try reconciler.balance(
            reader: store.reader, from: EventTime(microseconds: 0), to: EventTime(microseconds: .max))
    }
}

private func names(in path: String) -> [String] {
    guard let opened = opendir(path) else { return [] }
    defer { closedir(opened) }
    var names: [String] = []
    while let entry = readdir(opened) {
        names.append(withUnsafePointer(to: &entry.pointee.d_name.0) { String(cString: $0) })
    }
    return names.filter { $0 != "." && $0 != ".." }
}

private func removeTree(_ path: String) {
    for name in names(in: path) {
        if unlink("\(path)/\(name)") != 0 { removeTree("\(path)/\(name)") }
    }
    rmdir(path)
}

private func minutesAgo(_ minutes: Int64, _ offset: Int64 = 0) -> EventTime {
    let now = Consumer.systemTime().startOfMinute
    return EventTime(microseconds: now.microseconds - minutes * 60_000_000 + offset)
}

@Suite struct EndToEndTests {
    @Test func theBalanceIsZeroBeforeDuringAndAfterIngest() throws {
        let place = try Place()
        let journal = try place.journal()
        let lanes = [try journal.openLane(), try journal.openLane()]
        for number in 0..<300 {
            let event = place.event(journal, at: minutesAgo(Int64(number % 3), Int64(number)))
            #expect(place.append(event, to: lanes[number % 2]) != .dropped)
            if number == 150 { for lane in lanes { lane.tell(now: minutesAgo(0)) } }
        }
        var balance = try place.balance()
        #expect(balance.isClosed)
        #expect(balance.rows.map(\.inFlight) == [100, 100, 100])
        try place.consume()
        balance = try place.balance()
        #expect(balance.isClosed)
        #expect(balance.rows.map(\.applied) == [100, 100, 100])
        #expect(balance.rows.map(\.recorded) == [100, 100, 100])
        for lane in lanes { lane.tell(now: minutesAgo(-5)) }
        try place.consume()
        balance = try place.balance()
        #expect(balance.isClosed && balance.totals.inFlight == 0)
        #expect(balance.rows.map(\.recorded) == [100, 100, 100])
        // Told and let go: the store alone knows it now.
        journal.stop()
        let told = try place.store.reader.read { try $0.manifests(from: minutesAgo(9), to: minutesAgo(-9)) }
        #expect(told.reduce(0) { $0 + $1.recorded } == 300)
    }

    @Test(arguments: [1, 2, 3, 4, 5, 6] as [UInt64])
    func itStaysZeroThroughDeathsAtAnyMoment(_ seed: UInt64) throws {
        let place = try Place()
        var sent = 0
        for round in 0..<8 {
            let journal = try place.journal()
            // The number of lanes changes from start to start.
            let lanes = try (0..<(1 + (round + Int(seed)) % 3)).map { _ in try journal.openLane() }
            for number in 0..<(40 + Int(seed) * 7) {
                let event = place.event(journal, at: minutesAgo(Int64((number + round) % 4), Int64(number)))
                #expect(place.append(event, to: lanes[number % lanes.count]) != .dropped)
                sent += 1
                if number % 23 == round { lanes[number % lanes.count].tell(now: minutesAgo(Int64(round % 3))) }
            }
            if round % 3 == 1 { try place.consume() }
            let balance = try place.balance()
            #expect(balance.isClosed, "seed \(seed), round \(round)")
            #expect(balance.totals.recorded == Int64(sent), "seed \(seed), round \(round)")
            // Every second life ends without a word: locks fall, pages stay as they are.
            if round % 2 == 0 { journal.stop() }
        }
        let journal = try place.journal()
        journal.start()
        let lane = try journal.openLane()
        lane.tell(now: minutesAgo(-5))
        // Lanes that nobody opened this time are told by the journal itself.
        let deadline = ContinuousClock.now.advanced(by: .seconds(20))
        let pause = StopSignal()
        var told: UInt64 = 0
        while told < UInt64(sent), ContinuousClock.now < deadline {
            try place.consume()
            told = try place.store.reader.read { try $0.manifests(from: minutesAgo(99), to: minutesAgo(-9)) }
                .reduce(0) { $0 + $1.recorded }
            _ = pause.wait(milliseconds: 20)
        }
        journal.stop()
        try place.consume()
        let balance = try place.balance()
        #expect(told == UInt64(sent))
        #expect(balance.isClosed)
        #expect(balance.totals.applied == Int64(sent) && balance.totals.recorded == Int64(sent))
    }

    @Test func aKillBetweenARecordAndItsCountIsMadeGood() throws {
        let place = try Place()
        do {
            // Nothing is stopped: the lock falls with its holder, the page stays as it is.
            let before = try place.journal()
            let lane = try before.openLane()
            for number in 0..<10 { _ = place.append(place.event(before, at: minutesAgo(2, Int64(number))), to: lane) }
        }
        // Takes the last count back, as if the store to it had not happened.
        let path = place.directory + "/journal/lane-0000/counts"
        let file = open(path, O_RDWR)
        try #require(file >= 0)
        var word: UInt64 = 0
        #expect(pread(file, &word, 8, 72) == 8)
        #expect(word == 10)
        word = 9
        #expect(pwrite(file, &word, 8, 72) == 8)
        close(file)
        let after = try place.journal()
        let again = try after.openLane(number: 0, onDurable: nil)
        _ = place.append(place.event(after, at: minutesAgo(1)), to: again)
        after.stop()
        try place.consume()
        let balance = try place.balance()
        #expect(balance.isClosed)
        #expect(balance.rows.map(\.recorded) == [10, 1])
    }

    @Test func aRecordThatIsTakenAwayNamesItsMinute() throws {
        let place = try Place()
        let journal = try place.journal()
        let lane = try journal.openLane()
        for number in 0..<30 { _ = place.append(place.event(journal, at: minutesAgo(Int64(number % 3))), to: lane) }
        journal.stop()
        try place.consume()
        #expect(try place.balance().isClosed)
        let process =
            "/usr/bin/sqlite3 \(place.directory)/store/millrace.db \"UPDATE proxy_minutes SET applied = applied - 1 WHERE minute_us = \(minutesAgo(1).microseconds)\""
        #expect(system(process) == 0)
        let balance = try place.balance()
        #expect(!balance.isClosed)
        #expect(balance.rows.filter { $0.difference != 0 }.map(\.minute) == [minutesAgo(1)])
        #expect(balance.totals.difference == 1)
    }

    @Test func aLostSegmentNamesItsMinuteAndADamagedFrameIsADeadLetter() throws {
        let place = try Place()
        let journal = try place.journal()
        journal.start()
        let lane = try journal.openLane()
        var count = 0
        // The first segment holds one minute, the next ones another.
        while names(in: lane.directory.path).count(where: { $0.hasSuffix("00001.segment") }) == 0 || count < 3_000 {
            _ = place.append(place.event(journal, at: minutesAgo(3, Int64(count))), to: lane)
            count += 1
        }
        while lane.nextSequence < Int64(count) { lane.drain() }
        while !names(in: lane.directory.path).contains("00000002.segment") {
            _ = place.append(place.event(journal, at: minutesAgo(3, Int64(count))), to: lane)
            count += 1
        }
        for number in 0..<50 { _ = place.append(place.event(journal, at: minutesAgo(1, Int64(number))), to: lane) }
        while !lane.drain() { sched_yield() }
        journal.stop()
        let first = lane.directory.path + "/00000000.segment"
        // One byte of the sixth frame or so.
        let file = open(first, O_RDWR)
        try #require(file >= 0)
        var byte: UInt8 = 0
        #expect(pread(file, &byte, 1, 4_096 + 600) == 1)
        byte ^= 0xFF
        #expect(pwrite(file, &byte, 1, 4_096 + 600) == 1)
        close(file)
        try place.consume()
        let damaged = try place.balance()
        #expect(damaged.isClosed)
        #expect(damaged.totals.deadLettered == 1 && damaged.totals.applied == Int64(count + 50 - 1))
        #expect(damaged.rows.filter { $0.deadLettered == 1 }.map(\.minute) == [minutesAgo(3)])

        // The same again, with that segment taken away before anybody has read it.
        let other = try Place()
        #expect(system("mkdir -p \(other.directory) && cp -a \(place.directory)/journal \(other.directory)/") == 0)
        #expect(unlink(other.directory + "/journal/lane-0000/00000000.segment") == 0)
        try other.consume()
        let lost = try other.balance()
        #expect(!lost.isClosed)
        #expect(lost.rows.filter { $0.difference != 0 }.map(\.minute) == [minutesAgo(3)])
        #expect(lost.totals.difference == lost.totals.recorded - lost.totals.applied)
    }

    @Test func eventsDroppedForWantOfRoomAreAcceptedAndDropped() throws {
        let place = try Place()
        let journal = try place.journal()
        let lane = try journal.openLane()
        var event = place.event(journal, at: minutesAgo(1))
        event.metadataRaw = [UInt8](repeating: 0x20, count: 2 << 20)
        #expect(place.append(event, to: lane) == .dropped)
        for number in 0..<5 { _ = place.append(place.event(journal, at: minutesAgo(1, Int64(number))), to: lane) }
        journal.stop()
        try place.consume()
        let row = try #require(try place.balance().rows.first)
        #expect(row.accepted == 6 && row.recorded == 5 && row.dropped == 1 && row.difference == 0)
    }

    @Test func aClockThatJumpsAboutFillsNoPageForGood() throws {
        let place = try Place()
        let journal = try place.journal()
        journal.start()
        let lane = try journal.openLane()
        for number in 0..<2_000 {
            let minutes = Int64(number * 7_919 % 1_000)
            #expect(place.append(place.event(journal, at: minutesAgo(minutes, Int64(number))), to: lane) != .dropped)
        }
        var balance = try place.balance()
        #expect(balance.isClosed && balance.totals.recorded == 2_000)
        #expect(balance.rows.count == 1_000)
        journal.stop()
        try place.consume()
        balance = try place.balance()
        #expect(balance.isClosed && balance.totals.applied == 2_000)
    }
}
