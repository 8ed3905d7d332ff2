// What is ClickHouse's own: a store without transactions, whose writer may be cut short at any request.

import Events
import Foundation
import RecordLog
import RollupStore
import RollupStoreClickHouse
import Rollups
import Synchronization
import Testing
import Threading

/// What befalls the requests of a writer, decided by their number and name.
private final class Faults: Sendable {
    struct State {
        var asked: [String] = []
        var decide: (@Sendable (Int, String) -> RequestFault)?
    }
    private let state = Mutex(State())

    @Sendable func befall(_ tried: String) -> RequestFault {
        let (number, decide) = state.withLock { state in
            state.asked.append(tried)
            return (state.asked.count - 1, state.decide)
        }
        // Outside the lock: it may use a writer with the same faults.
        return decide?(number, tried) ?? .none
    }

    /// Counts requests from 0 again.
    func set(_ decide: (@Sendable (Int, String) -> RequestFault)?) {
        state.withLock { $0 = State(decide: decide) }
    }

    var asked: [String] { state.withLock { $0.asked } }
}

/// A value that one request sees for the first time and the others do not.
private final class Once: Sendable {
    private let isDone = Mutex(false)
    func callAsFunction() -> Bool {
        isDone.withLock { done in
            defer { done = true }
            return !done
        }
    }
}

@Suite struct ClickHouseStoreTests {
    private static let partition = TopicPartition(topic: "events", partition: 0)
    private static let other = TopicPartition(topic: "events", partition: 1)

    private static func open(_ url: String) throws(RollupStoreError) -> ClickHouseRollupStore {
        try ClickHouseRollupStore.open(url: url, upkeepFailed: { Issue.record("\($0)") })
    }

    private func part(
        _ first: Int, _ epoch: Int64, _ samples: some Sequence<Sample>, of partition: TopicPartition = Self.partition
    ) -> BatchMaker.Part {
        .init(partition: partition, first: Int64(first), epoch: epoch, samples: Array(samples))
    }

    private func check(_ store: ClickHouseUnderTest, holds expected: [Sample], _ comment: Comment? = nil) throws {
        #expect(try Count(reading: store.reader) == Count(expected), comment)
        let ledger = try store.reader.read { try $0.ledger() }
        #expect(ledger.allSatisfy { $0.isClosed }, comment)
        let distinct = Set(expected.map(\.event.id)).count
        #expect(ledger.reduce(0) { $0 + $1.applied } == distinct, comment)
        #expect(try store.reader.read { try events($0).map(\.event.id) }.count == distinct, comment)
        let minutes = try minutes(store)
        #expect(minutes.reduce(0) { $0 + $1.applied } == distinct, comment)
        #expect(minutes.reduce(0) { $0 + $1.duplicates } == ledger.reduce(0) { $0 + $1.duplicates }, comment)
        let places = Set(expected.map { "\($0.event.time.startOfMinute.microseconds) \($0.event.proxy)" })
        #expect(
            Set(minutes.filter { $0.applied > 0 }.map { "\($0.minute.microseconds) \($0.proxy)" }) == places, comment)
    }

    private func minutes(_ store: ClickHouseUnderTest) throws -> [ProxyMinute] {
        try store.reader.read {
            try $0.proxyMinutes(from: EventTime(microseconds: .min), to: EventTime(microseconds: .max))
        }
    }

    /// Applies until it is done, as the consumer does while the store is away.
    private func persist<Result>(_ body: () throws -> Result) throws -> Result {
        let deadline = ContinuousClock.now.advanced(by: .seconds(60))
        while true {
            do {
                return try body()
            } catch let error as RollupStoreError where error.isTransient && ContinuousClock.now < deadline {
                continue
            }
        }
    }

    // MARK: Faults at step n for every n

    @Test(arguments: [RequestFault.unsent, .unanswered])
    func aWriterThatFailsAtAnyRequestTriesAgainAndCountsOnce(_ fault: RequestFault) throws {
        let faults = Faults()
        let store = try ClickHouseUnderTest(faults: faults.befall)
        let writer = try store.store.makeWriter()
        var random = Random(seed: 101)
        var maker = BatchMaker()
        var all: [Sample] = []
        var step = 0
        while true {
            let partition = TopicPartition(topic: "events", partition: Int32(step))
            let given = (0..<40).map { _ in Sample.random(&random) }
            all += given
            _ = try writer.acquire([partition])
            _ = try writer.apply(try maker.batch([part(0, 1, given[..<20], of: partition)]))
            // Copies of what is there and new ones; a dead letter and a manifest take their own requests.
            var last = part(20, 1, given[15...], of: partition)
            last.deadLetters = [
                DeadLetter(
                    source: partition, offset: Offset(45), code: .undecodable, reason: "no protobuf", key: [1],
                    value: [2])
            ]
            last.manifests = [
                Manifest(proxy: "p", minute: EventTime(microseconds: 0), accepted: 2, recorded: 2, dropped: 0)
            ]
            let batch = try maker.batch([last])
            faults.set { [step] number, _ in number == step ? fault : .none }
            var result: ApplyResult?
            do {
                result = try writer.apply(batch)
            } catch {
                #expect(error.isTransient, "step \(step)")
            }
            let wasHit = faults.asked.count > step
            faults.set(nil)
            if result == nil { result = try writer.apply(batch) }
            #expect(result == ApplyResult(applied: 20, duplicates: 5), "step \(step)")
            try check(store, holds: all, "step \(step)")
            #expect(try store.reader.read { try $0.ledger() }.last?.next == Offset(47))
            #expect(throws: RollupStoreError.self) { try writer.apply(batch) }
            if !wasHit { break }
            step += 1
        }
        #expect(step >= 8)
        let condition = try store.ask(
            "SELECT concat('number NOT IN (0', arrayStringConcat(arrayMap(x -> concat(',', toString(x)), excluded)), ')') "
                + "FROM commits ORDER BY slot DESC, _block_number LIMIT 1")
        #expect(try Int(store.ask("SELECT count() FROM dead_letters WHERE \(condition)")) == step + 1)
        #expect(try Int(store.ask("SELECT count() FROM manifests WHERE \(condition)")) == step + 1)
    }

    /// The writer dies at request n; its successor reads on from the store's offset and cuts its batches elsewhere.
    @Test(arguments: [RequestFault.unsent, .unanswered])
    func aSuccessorGoesOnFromAnyRequestWithOtherBoundaries(_ fault: RequestFault) throws {
        let faults = Faults()
        let store = try ClickHouseUnderTest(faults: faults.befall)
        var random = Random(seed: 102)
        var maker = BatchMaker()
        var all: [Sample] = []
        var step = 0
        while true {
            let partition = TopicPartition(topic: "events", partition: Int32(step))
            let given = (0..<60).map { _ in Sample.random(&random) }
            all += given
            let writer = try store.store.makeWriter()
            _ = try writer.acquire([partition])
            _ = try writer.apply(try maker.batch([part(0, 1, given[..<20], of: partition)]))
            faults.set { [step] number, _ in number >= step ? fault : .none }
            let applied = try? writer.apply(try maker.batch([part(20, 1, given[20..<40], of: partition)]))
            faults.set(nil)

            let heir = try store.store.makeWriter()
            let position = try #require(try heir.acquire([partition]).first)
            #expect(position.epoch == 2)
            var next = Int(position.next.value)
            #expect(applied == nil ? next == 20 || next == 40 : next == 40, "step \(step)")
            for end in [33, 51, 60] where end > next {
                _ = try heir.apply(try maker.batch([part(next, 2, given[next..<end], of: partition)]))
                next = end
            }
            try check(store, holds: all, "step \(step)")
            // The dead one wakes up with the batch it held. Where it had been applied, it may say so; the next one fails.
            let held = try maker.batch([part(20, 1, given[20..<40], of: partition)])
            let late = try maker.batch([part(40, 1, given[40...], of: partition)])
            let error = #expect(throws: RollupStoreError.self) {
                if position.next == Offset(40), applied == nil {
                    let result = try writer.apply(held)
                    #expect(result == ApplyResult(applied: 20, duplicates: 0), "step \(step)")
                    _ = try writer.apply(late)
                } else {
                    _ = try writer.apply(held)
                }
            }
            #expect(error?.code == .staleEpoch, "step \(step)")
            try check(store, holds: all, "step \(step)")
            if applied != nil { break }
            step += 1
        }
        #expect(step >= 6)
    }

    /// What a dead writer's insert leaves where the server does it late: its heir has numbered the series, too.
    @Test func aSeriesOfTwoNumbersCountsAsOne() throws {
        let store = try ClickHouseUnderTest()
        let early = samples(30, seed: 113)
        var maker = BatchMaker()
        let writer = try store.store.makeWriter()
        _ = try writer.acquire([Self.partition])
        _ = try writer.apply(try maker.batch([part(0, 1, early)]))
        let numbered = try store.ask("SELECT uniqExact(series) FROM rollups")
        // Of two the lower stays, so the heir takes the other one.
        let rest = "workspace, api_key, provider, operation, model, outcome, status_class, pairs, number"
        _ = try store.ask("INSERT INTO series SELECT hash, id - 1000000, \(rest) FROM series")
        let heir = try store.store.makeWriter()
        _ = try heir.acquire([Self.partition])
        let late = early.map { sample in
            var sample = sample
            sample.event.id = EventID(high: sample.event.id.high, low: ~sample.event.id.low)
            return sample
        }
        _ = try heir.apply(try maker.batch([part(30, 2, late)]))
        #expect(try store.ask("SELECT uniqExact(series) / 2 FROM rollups") == numbered)
        try check(store, holds: early + late)
    }

    @Test func anAcquisitionWhoseAnswerIsLostIsTriedAgain() throws {
        let faults = Faults()
        let store = try ClickHouseUnderTest(faults: faults.befall)
        let writer = try store.store.makeWriter()
        faults.set { _, tried in tried == "insert commits" ? .unanswered : .none }
        #expect(throws: RollupStoreError.self) { try writer.acquire([Self.partition]) }
        faults.set(nil)
        let position = try #require(try writer.acquire([Self.partition]).first)
        var maker = BatchMaker()
        let given = samples(10, seed: 103)
        _ = try writer.apply(try maker.batch([part(0, position.epoch, given)]))
        try check(store, holds: given)
    }

    // MARK: Writers that come late

    /// Between reading and committing, the others go on for longer than the server remembers tokens.
    @Test func aZombieThatSleptBeyondTheWindowLosesItsSlot() throws {
        let faults = Faults()
        let store = try ClickHouseUnderTest(Servers.one.server(), faults: faults.befall)
        for table in ["commits", "events", "rollups"] {
            _ = try store.ask("ALTER TABLE \(table) MODIFY SETTING non_replicated_deduplication_window = 2")
        }
        let zombie = try store.store.makeWriter()
        _ = try zombie.acquire([Self.partition])
        let given = samples(60, seed: 104)
        let maker = Mutex(BatchMaker())
        let once = Once()
        faults.set { _, tried in
            guard tried == "insert commits", once() else { return .none }
            do {
                let heir = try store.store.makeWriter()
                _ = try heir.acquire([Self.partition])
                for first in stride(from: 0, to: 60, by: 10) {
                    let batch = try maker.withLock { try $0.batch([part(first, 2, given[first..<first + 10])]) }
                    _ = try heir.apply(batch)
                }
            } catch {
                Issue.record("\(error)")
            }
            return .none
        }
        let batch = try maker.withLock { try $0.batch([part(0, 1, given[..<20])]) }
        let error = #expect(throws: RollupStoreError.self) { try zombie.apply(batch) }
        #expect(error?.code == .staleEpoch)
        // It did put its row into a slot that was taken.
        #expect(try Int(store.ask("SELECT max(n) FROM (SELECT count() AS n FROM commits GROUP BY slot)")) == 2)
        try check(store, holds: given)
    }

    @Test func aZombieFindsItsSlotDeletedAndHasLost() throws {
        let faults = Faults()
        let store = try ClickHouseUnderTest(faults: faults.befall)
        let zombie = try store.store.makeWriter()
        _ = try zombie.acquire([Self.partition])
        let given = samples(30, seed: 105)
        let maker = Mutex(BatchMaker())
        let once = Once()
        faults.set { _, tried in
            guard tried == "insert commits", once() else { return .none }
            do {
                let heir = try store.store.makeWriter()
                _ = try heir.acquire([Self.partition])
                let batch = try maker.withLock { try $0.batch([part(0, 2, given)]) }
                _ = try heir.apply(batch)
                _ = try store.ask("DELETE FROM commits WHERE slot < 3")
                _ = try store.ask("ALTER TABLE commits MODIFY SETTING non_replicated_deduplication_window = 0")
            } catch {
                Issue.record("\(error)")
            }
            return .none
        }
        let batch = try maker.withLock { try $0.batch([part(0, 1, given[..<20])]) }
        let error = #expect(throws: RollupStoreError.self) { try zombie.apply(batch) }
        #expect(error?.code == .staleEpoch)
        try check(store, holds: given)
    }

    /// Two writers, each with a partition of its own, and copies of the same events in both.
    @Test func writersAtTheSameTimeCountACopyOnce() throws {
        let store = try ClickHouseUnderTest()
        let given = samples(300, seed: 106)
        let failures = Mutex<[String]>([])
        let threads = [Self.partition, Self.other].map { partition in
            ServiceThread("write-\(partition.partition)") {
                do {
                    let writer = try store.store.makeWriter()
                    let position = try writer.acquire([partition])[0]
                    var maker = BatchMaker()
                    for first in stride(from: 0, to: 300, by: 30) {
                        _ = try writer.apply(
                            try maker.batch([
                                .init(
                                    partition: partition, first: Int64(first), epoch: position.epoch,
                                    samples: Array(given[first..<first + 30]))
                            ]))
                    }
                } catch {
                    failures.withLock { $0.append("\(error)") }
                }
            }
        }
        for thread in threads { thread.join() }
        #expect(failures.withLock { $0 } == [])
        let ledger = try store.reader.read { try $0.ledger() }
        #expect(ledger.map(\.next) == [Offset(300), Offset(300)])
        #expect(ledger.reduce(0) { $0 + $1.applied } == 300)
        #expect(ledger.reduce(0) { $0 + $1.duplicates } == 300)
        let totals = try store.reader.read { snapshot in try Grain.plain.map { try requests(snapshot, $0) } }
        #expect(totals == [300, 300, 300])
        #expect(try store.reader.read { try events($0) }.count == 300)
    }

    // MARK: The server dies

    @Test func theServerIsKilledAtAnyRequest() throws {
        let server = try ClickHouseServer()
        let given = samples(400, seed: 107)
        let faults = Faults()
        let store = try ClickHouseUnderTest(server, faults: faults.befall)
        let writer = try store.store.makeWriter()
        var maker = BatchMaker()
        _ = try writer.acquire([Self.partition])
        var first = 0
        var step = 0
        while true {
            // Before a request, then after it: in the second case the next request finds the server gone.
            faults.set { [step] number, _ in
                if number == step {
                    do {
                        try server.kill()
                        try server.restart()
                    } catch {
                        Issue.record("\(error)")
                    }
                }
                return .none
            }
            let batch = try maker.batch([part(first, 1, given[first..<first + 20])])
            let result = try persist { try writer.apply(batch) }
            #expect(result == ApplyResult(applied: 20, duplicates: 0))
            first += 20
            let wasHit = faults.asked.count > step
            faults.set(nil)
            try check(store, holds: Array(given[..<first]), "step \(step)")
            if !wasHit { break }
            step += 1
        }
        #expect(step >= 5)
    }

    /// Killed whenever, while inserts are under way, again and again.
    @Test func theServerIsKilledInTheMiddleOfInserts() throws {
        let server = try ClickHouseServer()
        let store = try ClickHouseUnderTest(server)
        let given = samples(3_000, seed: 108)
        let stop = StopSignal()
        let kills = Atomic<Int>(0)
        let failures = Mutex<[String]>([])
        let killer = ServiceThread("kill") {
            var random = Random(seed: 109)
            while !stop.isStopped {
                _ = stop.wait(milliseconds: 30 + Int(random.next() % 300))
                do {
                    try server.kill()
                    try server.restart()
                } catch {
                    failures.withLock { $0.append("\(error)") }
                }
                kills.add(1, ordering: .relaxed)
            }
        }
        var maker = BatchMaker()
        var random = Random(seed: 110)
        var writer = try persist { try store.store.makeWriter() }
        var position = try persist { try writer.acquire([Self.partition]) }[0]
        var next = 0
        while next < given.count {
            if random.next() % 4 == 0 {
                // The consumer dies too.
                writer = try persist { try store.store.makeWriter() }
                position = try persist { try writer.acquire([Self.partition]) }[0]
                next = Int(position.next.value)
            }
            let end = min(given.count, next + 1 + Int(random.next() % 80))
            let batch = try maker.batch([part(next, position.epoch, given[next..<end])])
            _ = try persist { try writer.apply(batch) }
            next = end
        }
        stop.stop()
        killer.join()
        #expect(failures.withLock { $0 } == [])
        #expect(kills.load(ordering: .relaxed) > 2)
        try check(store, holds: given)
    }

    /// Killed after it has noted the token of an insert and before the rows are there, a server comes back with the token
    /// alone: it then drops whatever comes under it, and says that all is well.
    @Test(.timeLimit(.minutes(2)), arguments: [nil, "pair=1x2"])
    func aSlotWhoseTokenIsSpentIsFilledAllTheSame(_ cluster: String?) throws {
        let server = try ClickHouseServer(cluster: cluster)
        let store = try ClickHouseUnderTest(server)
        let given = samples(40, seed: 111)
        var maker = BatchMaker()
        for first in [0, 20] {
            let writer = try store.store.makeWriter()
            let epoch = try writer.acquire([Self.partition])[0].epoch
            let batch = try maker.batch([part(first, epoch, given[first..<first + 20])])
            if first == 0 { _ = try writer.apply(batch) }
            // The newest slot is the batch's in the first round, that of `acquire` in the second.
            let newest = try store.ask(
                "SELECT path FROM system.parts WHERE database = currentDatabase() AND table = 'commits' AND active "
                    + "ORDER BY max_block_number DESC LIMIT 1")
            try server.kill()
            try FileManager.default.removeItem(atPath: newest)
            try server.restart()
            let successor = try persist { try store.store.makeWriter() }
            let position = try persist { try successor.acquire([Self.partition])[0] }
            #expect(position.next == Offset(Int64(first)))
            let again = try maker.batch([part(first, position.epoch, given[first..<first + 20])])
            #expect(try successor.apply(again) == ApplyResult(applied: 20, duplicates: 0))
            try check(store, holds: Array(given[..<(first + 20)]))
        }
    }

    @Test func aServerThatIsAwayIsTriedAgain() throws {
        let server = try ClickHouseServer()
        let store = try ClickHouseUnderTest(server)
        try server.kill()
        let error = #expect(throws: RollupStoreError.self) { try store.reader.read { try $0.watermark } }
        #expect(error?.code == .unavailable)
        let opening = #expect(throws: RollupStoreError.self) {
            try Self.open(server.url("later"))
        }
        #expect(opening?.isTransient == true)
    }

    // MARK: Runs

    /// Small chunks and levels: sums of sums, with given-up numbers among them, under readers' eyes, and what was summed
    /// goes.
    @Test(arguments: Servers.allCases)
    func deltasAreSummedIntoRunsAndNothingChanges(_ servers: Servers) throws {
        var limits = ClickHouseRollupStore.Limits()
        limits.chunkSize = 4
        limits.fanOut = 3
        limits.graceTime = 0
        let faults = Faults()
        let store = try ClickHouseUnderTest(servers.server(), limits: limits, faults: faults.befall)
        let writer = try store.store.makeWriter()
        _ = try writer.acquire([Self.partition])
        var random = Random(seed: 111)
        var maker = BatchMaker()
        var all: [Sample] = []
        var offset = 0
        for number in 0..<60 {
            // Now and then a try is lost after its rollups were inserted, and now and then in mid-summing.
            faults.set { _, tried in
                (number % 7 == 3 && tried == "insert commits") || (number % 11 == 5 && tried == "sum proxy_minutes")
                    ? .unanswered : .none
            }
            var given = (0..<5).map { _ in Sample.random(&random) }
            if number % 5 == 4 { given += all.suffix(2) }
            all += given
            let batch = try maker.batch([part(offset, 1, given)])
            offset += given.count
            do {
                _ = try writer.apply(batch)
            } catch {
                #expect(error.isTransient)
                faults.set(nil)
                _ = try writer.apply(batch)
            }
            if number % 10 == 9 { try check(store, holds: all, "batch \(number)") }
        }
        try check(store, holds: all)
        #expect(store.failedUpkeep.allSatisfy { $0.contains("sum proxy_minutes") && $0.contains("the answer came") })
        #expect(!store.failedUpkeep.isEmpty)
        let runs = try store.ask(
            "SELECT run_levels FROM commits ORDER BY slot DESC, _block_number LIMIT 1")
        #expect(runs.contains("3"), "\(runs)")
        for table in ["rollups", "proxy_minutes"] {
            let chunks = try #require(Int(store.ask("SELECT uniqExact(chunk) FROM \(table) WHERE chunk >= 0")))
            #expect(chunks < 12, "\(table)")
        }
    }

    @Test(arguments: Servers.allCases)
    func whatIsPastItsTimeIsDeletedInTheEnd(_ servers: Servers) throws {
        var limits = ClickHouseRollupStore.Limits()
        limits.graceTime = 0
        let store = try ClickHouseUnderTest(servers.server(), limits: limits)
        let writer = try store.store.makeWriter()
        _ = try writer.acquire([Self.partition])
        let day: Int64 = 86_400_000_000
        var given = samples(60, seed: 112)
        for index in given.indices {
            given[index].event.time = EventTime(microseconds: (20_400 + Int64(index / 10)) * day + Int64(index))
        }
        var maker = BatchMaker()
        var all = part(0, 1, given)
        all.manifests = (0..<6).map { number in
            Manifest(
                proxy: "p", minute: EventTime(microseconds: (20_400 + number) * day), accepted: 10, recorded: 10,
                dropped: 0
            )
        }
        _ = try writer.apply(try maker.batch([all]))
        let boundaries = RetentionBoundaries(
            RetentionDays(events: 1, minute: 2, hour: 3, day: 30), now: EventTime(microseconds: 20_405 * day))
        while try writer.expire(boundaries, maxRows: 1) {}
        #expect(try store.ask("SELECT count(), min(intDiv(time_us, \(day))) FROM events") == "20\t20404")
        #expect(
            try store.ask("SELECT grain, sum(requests) FROM rollups GROUP BY grain ORDER BY grain")
                == "0\t30\n1\t40\n2\t60")
        let kept = try store.reader.read { snapshot in try Grain.plain.map { try requests(snapshot, $0) } }
        #expect(kept == [30, 40, 60])
        #expect(try store.ask("SELECT count(), min(intDiv(minute_us, \(day))) FROM manifests") == "2\t20404")
        #expect(
            try store.ask("SELECT sum(applied), min(intDiv(minute_us, \(day))) FROM proxy_minutes") == "20\t20404")
        #expect(try minutes(store).reduce(0) { $0 + $1.applied } == 20)
    }

    // MARK: Dead letters

    /// Whatever request of a marking fails, it is made again, and a letter is taken off its minute once. A writer at
    /// work beside it goes on, and what the marks needed of the commit log is given back.
    @Test(arguments: [RequestFault.unsent, .unanswered])
    func aMarkThatFailsAtAnyRequestIsMadeAgain(_ fault: RequestFault) throws {
        let faults = Faults()
        let store = try ClickHouseUnderTest(faults: faults.befall)
        let writer = try store.store.makeWriter()
        _ = try writer.acquire([Self.partition])
        let minute = EventTime(microseconds: 60_000_000)
        var maker = BatchMaker()
        var step = 0
        while true {
            var letters = part(step, 1, [])
            letters.deadLetters = [
                DeadLetter(
                    source: Self.partition, offset: Offset(Int64(step)), code: .undecodable, reason: "no protobuf",
                    key: [1], value: [2], minute: 0)
            ]
            var batch = try maker.batch([letters])
            batch.minutes = [
                ProxyMinute(
                    proxy: "p", minute: minute, partition: Self.partition, first: Offset(Int64(step)),
                    next: Offset(Int64(step + 1)), deadLettered: 1)
            ]
            #expect(try writer.apply(batch) == ApplyResult(applied: 0, duplicates: 0))
            #expect(try minutes(store).map(\.deadLettered) == [1], "step \(step)")
            let source = RecordSource(partition: Self.partition, offset: Offset(Int64(step)))
            faults.set { [step] number, _ in number == step ? fault : .none }
            do {
                try store.deadLetters.markRedriven([source], at: EventTime(microseconds: 77))
            } catch {
                #expect(error.isTransient, "step \(step)")
            }
            let wasHit = faults.asked.count > step
            faults.set(nil)
            try store.deadLetters.markRedriven([source], at: EventTime(microseconds: 78))
            #expect(try minutes(store).map(\.deadLettered) == [0], "step \(step)")
            #expect(try store.deadLetters.find(source)?.letter.redriven == EventTime(microseconds: 78))
            step += 1
            if !wasHit { break }
        }
        #expect(step >= 6)
        let excluded = try store.ask(
            "SELECT length(excluded) FROM commits ORDER BY slot DESC, _block_number LIMIT 1")
        // The writer's own, and at most one for each marking that failed.
        #expect(try #require(Int(excluded)) <= step + 1)
        for number in 0..<10 {
            let source = RecordSource(partition: Self.partition, offset: Offset(Int64(number % step)))
            try store.deadLetters.markRedriven([source], at: EventTime(microseconds: 79))
        }
        #expect(
            try store.ask("SELECT length(excluded) FROM commits ORDER BY slot DESC, _block_number LIMIT 1") == excluded)
    }

    /// A read that has begun does not see a mark that is made meanwhile.
    @Test func aMarkIsNotSeenByAReadThatHasBegun() throws {
        let store = try ClickHouseUnderTest()
        let writer = try store.store.makeWriter()
        _ = try writer.acquire([Self.partition])
        var letters = part(0, 1, [])
        letters.deadLetters = [
            DeadLetter(
                source: Self.partition, offset: Offset(0), code: .undecodable, reason: "no protobuf", key: [],
                value: [],
                minute: 0)
        ]
        var maker = BatchMaker()
        var batch = try maker.batch([letters])
        batch.minutes = [
            ProxyMinute(
                proxy: "p", minute: EventTime(microseconds: 0), partition: Self.partition, first: Offset(0),
                next: Offset(1), deadLettered: 1)
        ]
        _ = try writer.apply(batch)
        let all = { (snapshot: any RollupSnapshot) in
            try snapshot.proxyMinutes(from: EventTime(microseconds: 0), to: EventTime(microseconds: .max))
        }
        try store.reader.read { snapshot in
            let before = try all(snapshot)
            let source = RecordSource(partition: Self.partition, offset: Offset(0))
            try store.deadLetters.markRedriven([source], at: EventTime(microseconds: .max))
            #expect(try all(snapshot) == before)
        }
        let after = try store.reader.read { try all($0) }
        #expect(after.map(\.deadLettered) == [0])
        #expect(after.map(\.changed) == [EventTime(microseconds: .max)])
    }

    @Test func aReadThatIsNoLongerWantedEnds() throws {
        let store = try ClickHouseUnderTest()
        let looks = Mutex(0)
        let error = #expect(throws: RollupStoreError.self) {
            try store.reader.read(until: {
                looks.withLock {
                    $0 += 1
                    return true
                }
            }) { try events($0).count }
        }
        #expect(error?.isTransient == true)
        #expect(looks.withLock { $0 } > 0)
        #expect(try store.reader.read { try events($0).count } == 0)
    }

    // MARK: Opening

    @Test func aDatabaseOfAnotherProgramIsLeftAlone() throws {
        let server = try ClickHouseServer.shared.get()
        _ = try server.ask("default", "CREATE DATABASE foreign_one")
        _ = try server.ask("foreign_one", "CREATE TABLE events (a UInt8) ENGINE = MergeTree ORDER BY a")
        let error = #expect(throws: RollupStoreError.self) {
            try Self.open(server.url("foreign_one"))
        }
        #expect(error?.code == .configuration)
        #expect(try server.ask("foreign_one", "SHOW TABLES") == "events")
    }

    @Test func aStoreOfANewerProgramIsRefused() throws {
        let store = try ClickHouseUnderTest()
        let writer = try store.store.makeWriter()
        _ = try store.ask("INSERT INTO commits (slot, schema_version, chunk_size) VALUES (1, 999, 64)")
        let error = #expect(throws: RollupStoreError.self) {
            try Self.open(store.server.url(store.database))
        }
        #expect(error?.code == .newerSchema)
        #expect(error?.description.contains("999") == true)
        let writing = #expect(throws: RollupStoreError.self) { try writer.acquire([Self.partition]) }
        #expect(writing?.code == .newerSchema)
    }

    @Test func manyMayOpenANewStoreAtOnce() throws {
        let server = try ClickHouseServer.shared.get()
        let failures = Mutex<[String]>([])
        let threads = (0..<6).map { number in
            ServiceThread("open-\(number)") {
                do {
                    let store = try Self.open(server.url("opened_at_once"))
                    let writer = try store.makeWriter()
                    _ = try writer.acquire([TopicPartition(topic: "events", partition: Int32(number))])
                } catch {
                    failures.withLock { $0.append("\(error)") }
                }
            }
        }
        for thread in threads { thread.join() }
        #expect(failures.withLock { $0 } == [])
        let store = try Self.open(server.url("opened_at_once"))
        #expect(try store.reader.read { try $0.ledger() }.count == 6)
    }

    @Test func userAndPasswordAreAskedForAndNotShown() throws {
        let server = try ClickHouseServer(user: "roll", password: "h@kl w/ö:rd")
        let right = "clickhouse://roll:h%40kl%20w%2F%C3%B6%3Ard@127.0.0.1:\(server.port)/secured"
        _ = try Self.open(right)
        let wrong = right.replacingOccurrences(of: "rd@", with: "rx@")
        let error = try #require(
            #expect(throws: RollupStoreError.self) { try Self.open(wrong) })
        #expect(error.code == .configuration)
        #expect(!error.description.contains("kl"))
        #expect(!error.description.contains("roll:"))
    }

    @Test(arguments: [
        "clickhouse://", "clickhouse://host/a/b", "clickhouse://host/db?secure=perhaps", "clickhouse://host:99999/db",
        "clickhouse://u:%0Ax@host/db",
    ])
    func aLocationThatIsNoneIsRefused(_ url: String) {
        let error = #expect(throws: RollupStoreError.self) { try ClickHouseLocation(url: url) }
        #expect(error?.code == .configuration)
    }

    @Test func aLocationHasDefaults() throws {
        let plain = try ClickHouseLocation(url: "clickhouse://host")
        #expect((plain.host, plain.port, plain.database, plain.user) == ("host", 8123, "default", "default"))
        #expect(!plain.isSecure)
        let secure = try ClickHouseLocation(url: "clickhouse://u@[::1]/db?secure=true")
        #expect((secure.host, secure.port, secure.database, secure.user) == ("[::1]", 8443, "db", "u"))
        #expect(secure.isSecure)
    }

    @Test func aClosedWriterSaysSo() throws {
        let store = try ClickHouseUnderTest()
        let writer = try store.store.makeWriter()
        writer.close()
        #expect(throws: RollupStoreError.self) { try writer.acquire([Self.partition]) }
    }
}
