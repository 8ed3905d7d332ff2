// What is PostgreSQL's own: many writers, lost connections, a killed server, partitions, encodings, versions, locks.

import EventCodec
import Events
import Foundation
import RecordLog
import RollupStore
import RollupStorePostgreSQL
import Rollups
import Synchronization
import Testing
import Threading

@Suite(.enabled(if: isPostgreSQLWanted)) struct PostgreSQLStoreTests {
    private static let first = TopicPartition(topic: "events", partition: 0)
    private static let second = TopicPartition(topic: "events", partition: 1)
    private static let day: Int64 = 86_400_000_000

    private func check(_ store: PostgreSQLUnderTest, holds expected: [Sample]) throws {
        #expect(try Count(reading: store.reader) == Count(expected))
        let ledger = try store.reader.read { try $0.ledger() }
        #expect(ledger.allSatisfy { $0.isClosed })
        let totals = try store.reader.read { snapshot in try Grain.plain.map { try requests(snapshot, $0) } }
        #expect(Set(totals).count == 1)
        #expect(ledger.reduce(0) { $0 + $1.applied } == totals[0])
        #expect(try store.reader.read { try events($0).count } == Int(totals[0]))
    }

    /// Tries as the consumer does: again while the store says that it is away.
    private func persist<Answer>(
        _ body: () throws -> Answer, within limit: Duration = .seconds(60)
    ) throws -> Answer {
        let deadline = ContinuousClock.now.advanced(by: limit)
        while true {
            do {
                return try body()
            } catch let error as RollupStoreError where error.isTransient && ContinuousClock.now < deadline {
                usleep(2_000)
            }
        }
    }

    // MARK: Many writers

    @Test func writersOfDifferentPartitionsWorkAtOnceAndReadersAddThemUp() throws {
        let store = try PostgreSQLUnderTest()
        let failures = Mutex<[String]>([])
        let given = Mutex<[Sample]>([])
        let threads = (0..<3).map { number in
            ServiceThread("writer-\(number)") {
                do {
                    let partition = TopicPartition(topic: "events", partition: Int32(number))
                    var writer = try store.writer()
                    var maker = BatchMaker()
                    var random = Random(seed: UInt64(number) + 100)
                    let taken = try writer.acquire([partition])
                    for batch in 0..<25 {
                        // Series of their own, too, so that new ones are numbered at once.
                        let new = (0..<60).map { index in
                            var sample = Sample.random(&random)
                            if index % 10 == 0 { sample.set = "{\"n\":\"\(batch)-\(index)\"}" }
                            return sample
                        }
                        given.withLock { $0 += new }
                        _ = try writer.apply(
                            try maker.batch([
                                .init(
                                    partition: partition, first: Int64(batch) * 60, epoch: taken[0].epoch, samples: new)
                            ]))
                    }
                    writer.close()
                } catch {
                    failures.withLock { $0.append("\(number): \(error)") }
                }
            }
        }
        for thread in threads { thread.join() }
        #expect(failures.withLock { $0 } == [])
        try check(store, holds: given.withLock { $0 })
        let shards = try store.session().number("SELECT count(DISTINCT shard) FROM rollups")
        #expect(shards == 3)
        let doubled = try store.session().number(
            "SELECT count(*) - count(DISTINCT (set_id, workspace, api_key, provider, operation, model, outcome, "
                + "status_class)) FROM series")
        #expect(doubled == 0)
    }

    @Test func aShardIsFreeAgainWhenItsWriterIsGone() throws {
        let store = try PostgreSQLUnderTest()
        var maker = BatchMaker()
        for number in 0..<4 {
            var writer = try store.writer()
            let taken = try writer.acquire([Self.first])
            _ = try writer.apply(
                try maker.batch([
                    .init(
                        partition: Self.first, first: Int64(number) * 5, epoch: taken[0].epoch,
                        samples: samples(5, seed: UInt64(number)))
                ]))
            writer.close()
        }
        let shards = try store.session().number("SELECT count(DISTINCT shard) FROM rollups")
        // A session may outlive its client by a moment.
        #expect((shards ?? 9) <= 2)
    }

    @Test func theSameEventsFromTwoWritersAtOnceAreCountedOnce() throws {
        let store = try PostgreSQLUnderTest()
        let all = samples(400, seed: 7)
        let failures = Mutex<[String]>([])
        let threads = (0..<2).map { number in
            ServiceThread("copy-\(number)") {
                do {
                    let partition = TopicPartition(topic: "events", partition: Int32(number))
                    var writer = try store.writer()
                    var maker = BatchMaker()
                    let taken = try writer.acquire([partition])
                    // In opposite orders: each meets what the other holds.
                    let mine = number == 0 ? all : all.reversed()
                    for batch in 0..<8 {
                        let sealed = try maker.batch([
                            .init(
                                partition: partition, first: Int64(batch) * 50, epoch: taken[0].epoch,
                                samples: Array(mine[batch * 50..<batch * 50 + 50]))
                        ])
                        _ = try persist { try writer.apply(sealed) }
                    }
                    writer.close()
                } catch {
                    failures.withLock { $0.append("\(number): \(error)") }
                }
            }
        }
        for thread in threads { thread.join() }
        #expect(failures.withLock { $0 } == [])
        try check(store, holds: all)
        let ledger = try store.reader.read { try $0.ledger() }
        #expect(ledger.reduce(0) { $0 + $1.duplicates } == 400)
    }

    @Test func aReaderOfSeriesMissesNoneThoughWritersNumberThemAtOnce() throws {
        let store = try PostgreSQLUnderTest()
        let failures = Mutex<[String]>([])
        let left = Atomic<Int>(3)
        let threads = (0..<3).map { number in
            ServiceThread("series-\(number)") {
                do {
                    let partition = TopicPartition(topic: "events", partition: Int32(number))
                    var writer = try store.writer()
                    var maker = BatchMaker()
                    var random = Random(seed: UInt64(number) + 1)
                    _ = try writer.acquire([partition])
                    for batch in 0..<40 {
                        let new = (0..<10).map { index in
                            var sample = Sample.random(&random)
                            sample.set = "{\"n\":\"\(number)-\(batch)-\(index % 5)\"}"
                            return sample
                        }
                        _ = try writer.apply(
                            try maker.batch([
                                .init(partition: partition, first: Int64(batch) * 10, epoch: 1, samples: new)
                            ]))
                    }
                    writer.close()
                } catch {
                    failures.withLock { $0.append("\(error)") }
                }
                left.subtract(1, ordering: .releasing)
            }
        }
        // Each look remembers how far it came: what it skipped it would never see.
        var seen = 0
        repeat {
            seen = try store.reader.read { snapshot in
                try ["default", "other"].reduce(0) { try $0 + snapshot.series(workspace: $1).count }
            }
        } while left.load(ordering: .acquiring) > 0
        for thread in threads { thread.join() }
        seen = try store.reader.read { snapshot in
            try ["default", "other"].reduce(0) { try $0 + snapshot.series(workspace: $1).count }
        }
        #expect(failures.withLock { $0 } == [])
        #expect(try store.session().number("SELECT count(*) FROM series") == seen)
    }

    // MARK: Lost connections

    /// The wire is cut at step n, for every n, before the server sees the step and after it has done it.
    @Test(arguments: Relay.Cut.allCases, [true, false])
    func theConnectionMayBreakAtAnyStep(_ cut: Relay.Cut, _ isNewWriter: Bool) throws {
        let server = try PostgreSQLServer.shared.get()
        let relay = try Relay(to: server.port)
        defer { relay.close() }
        let store = try PostgreSQLUnderTest(port: relay.port)
        let direct = try store.session()
        var maker = BatchMaker()
        var all: [Sample] = []
        var next: Int64 = 0
        var manifests = 0
        var writer = try store.writer()
        var epoch = try persist { try writer.acquire([Self.first]) }[0].epoch
        // A batch without copies and one with some, which is begun twice or asks first; each until no step is left.
        var commitsInDoubt = [0, 0]
        var isThrough = [false, false]
        var step = 1
        while isThrough != [true, true] {
            for kind in 0...1 {
                if isNewWriter {
                    writer.close()
                    writer = try store.writer()
                    epoch = try persist { try writer.acquire([Self.first]) }[0].epoch
                }
                // Each brings a new series and a manifest.
                manifests += 1
                var new = samples(20, seed: 1_000 + UInt64(manifests))
                new[0].set = "{\"batch\":\"\(manifests)\"}"
                let copies = kind == 1 ? Array(all.suffix(2)) : []
                let manifest = Manifest(
                    proxy: "p", minute: EventTime(microseconds: 60_000_000), accepted: UInt64(manifests),
                    recorded: UInt64(manifests), dropped: 0)
                let batch = try maker.batch([
                    .init(
                        partition: Self.first, first: next, epoch: epoch, samples: new + copies, manifests: [manifest])
                ])
                relay.cut(atStep: step, cut)
                var answer: ApplyResult?
                do throws(RollupStoreError) {
                    answer = try writer.apply(batch)
                } catch {
                    #expect(error.code == .unavailable, "step \(step): \(error)")
                    let stored = try direct.number("SELECT next_offset FROM offsets")
                    if stored != Int(next) {
                        // It was done, and nobody was told.
                        commitsInDoubt[kind] += 1
                        #expect(relay.lastStep == "COMMIT")
                    }
                }
                let isUncut = relay.disarm()
                // A batch that another one was in the way of goes on though its ROLLBACK was cut.
                #expect((answer != nil) == (isUncut || relay.lastStep == "ROLLBACK"), "step \(step) \(relay.lastStep)")
                if isUncut { isThrough[kind] = true }
                let result = try answer ?? persist { try writer.apply(batch) }
                #expect(result == ApplyResult(applied: 20, duplicates: Int64(copies.count)), "step \(step)")
                all += new
                next += Int64(new.count + copies.count) + 1
                #expect(try direct.number("SELECT next_offset FROM offsets") == Int(next))
            }
            step += 1
        }
        #expect(step > 10)
        #expect(commitsInDoubt.allSatisfy { ($0 > 0) == (cut == .unanswered) }, "\(commitsInDoubt)")
        try check(store, holds: all)
        #expect(try direct.number("SELECT accepted FROM manifests") == manifests)
        writer.close()
    }

    /// What was committed unseen counts once, though another consumer has taken over before the retry.
    @Test func aCommitInDoubtIsKnownAgainAfterATakeover() throws {
        let server = try PostgreSQLServer.shared.get()
        let relay = try Relay(to: server.port)
        defer { relay.close() }
        let store = try PostgreSQLUnderTest(port: relay.port)
        let direct = try store.session()
        var maker = BatchMaker()
        let given = samples(30, seed: 3)
        var writer = try store.writer()
        _ = try writer.acquire([Self.first])
        // Find the step of the commit: the last of a batch like this one.
        let batch = try maker.batch([.init(partition: Self.first, first: 0, epoch: 1, samples: given)])
        var step = 1
        while true {
            relay.cut(atStep: step, .unanswered)
            do {
                _ = try writer.apply(batch)
                Issue.record("the commit was never cut")
                return
            } catch {
                if relay.lastStep == "COMMIT", try direct.number("SELECT next_offset FROM offsets") == 30 { break }
            }
            // The commit of a numbering, or not yet a commit.
            step += 1
        }
        var heir = try store.writer()
        #expect(try heir.acquire([Self.first]) == [.init(partition: Self.first, next: Offset(30), epoch: 2)])
        #expect(try writer.apply(batch) == ApplyResult(applied: 30, duplicates: 0))
        let late = try maker.batch([.init(partition: Self.first, first: 30, epoch: 1, samples: samples(5, seed: 4))])
        let error = #expect(throws: RollupStoreError.self) { try writer.apply(late) }
        #expect(error?.code == .staleEpoch)
        try check(store, holds: given)
        writer.close()
        heir.close()
    }

    // MARK: Frozen writers

    /// A batch whose writer freezes at that place, and its heir, who applies it: the type of the message that was held,
    /// nil where it did not come to that, and what the frozen one was told when it woke.
    private func freeze(
        _ store: PostgreSQLUnderTest, _ relay: Relay, first: Int, within bound: Duration,
        at isPlace: @escaping @Sendable (_ step: Int, _ type: UInt8) -> Bool
    ) throws -> (place: UInt8?, told: RollupStoreError.Code?, samples: [Sample]) {
        var given = samples(20, seed: UInt64(first) + 2_000)
        given[0].set = "{\"first\":\"\(first)\"}"
        let told = Mutex<[RollupStoreError.Code]>([])
        let failure = Mutex<String?>(nil)
        let isThrough = Atomic(false)
        let thread = ServiceThread("frozen") { [given] in
            defer { isThrough.store(true, ordering: .releasing) }
            do {
                var writer = try store.writer()
                let epoch = try writer.acquire([Self.first])[0].epoch
                var maker = BatchMaker()
                let batch = try maker.batch([
                    .init(partition: Self.first, first: Int64(first), epoch: epoch, samples: given)
                ])
                relay.freeze(at: isPlace)
                do throws(RollupStoreError) {
                    _ = try writer.apply(batch)
                } catch {
                    told.withLock { $0.append(error.code) }
                    // On a connection of its own again, where it had lost that: as often as it takes to get one.
                    let deadline = ContinuousClock.now.advanced(by: .seconds(60))
                    repeat {
                        do throws(RollupStoreError) {
                            _ = try writer.apply(batch)
                            break
                        } catch {
                            told.withLock { $0.append(error.code) }
                            if !error.isTransient { break }
                        }
                    } while ContinuousClock.now < deadline
                }
                writer.close()
            } catch {
                failure.withLock { $0 = "\(error)" }
            }
        }
        let deadline = ContinuousClock.now.advanced(by: .seconds(30))
        while !relay.isFrozen, !isThrough.load(ordering: .acquiring), ContinuousClock.now < deadline { usleep(1_000) }
        if relay.isFrozen {
            let heir = try PostgreSQLRollupStore.open(url: store.directURL).makeWriter()
            let begun = ContinuousClock.now
            let taken = try persist { try heir.acquire([Self.first]) }
            #expect(taken.map(\.next) == [Offset(Int64(first))])
            var maker = BatchMaker()
            let batch = try maker.batch([
                .init(partition: Self.first, first: Int64(first), epoch: taken[0].epoch, samples: given)
            ])
            #expect(try persist { try heir.apply(batch) } == ApplyResult(applied: 20, duplicates: 0))
            #expect(ContinuousClock.now - begun < bound)
            heir.close()
        }
        let place = relay.thaw()
        thread.join()
        #expect(failure.withLock { $0 } == nil)
        // Whatever it was told first, what it held fails as a whole.
        #expect(told.withLock { $0.last } == (place == nil ? nil : .staleEpoch))
        return (place, told.withLock { $0.first }, given)
    }

    /// What a stopped consumer leaves the server with, at step n for every n: its rows locked, and silence.
    @Test func aWriterFrozenAtAnyStepDoesNotKeepItsHeirWaiting() throws {
        let relay = try Relay(to: PostgreSQLServer.shared.get().port)
        defer { relay.close() }
        // As long as a lock is waited for, a writer may be silent.
        let store = try PostgreSQLUnderTest(port: relay.port, settings: ["-clock_timeout=100ms"])
        var all: [Sample] = []
        var endedAt: Set<UInt8> = []
        var step = 0
        while true {
            step += 1
            let met = try freeze(store, relay, first: all.count, within: .seconds(5)) { [step] number, _ in
                number == step
            }
            all += met.samples
            guard let place = met.place else { break }
            if met.told == .unavailable { endedAt.insert(place) } else { #expect(met.told == .staleEpoch) }
        }
        #expect(step > 10)
        // Between statements, prepared and not, and in the middle and at the end of a COPY.
        #expect(endedAt == Set("QSdc".utf8), "\(endedAt)")
        try check(store, holds: all)
    }

    /// With the limits as they are where nobody sets them.
    @Test func aWriterFrozenInACopyKeepsItsHeirWaitingForFifteenSecondsAtMost() throws {
        let relay = try Relay(to: PostgreSQLServer.shared.get().port)
        defer { relay.close() }
        let store = try PostgreSQLUnderTest(port: relay.port)
        let met = try freeze(store, relay, first: 0, within: .seconds(15)) { $1 == UInt8(ascii: "d") }
        #expect(met.place == UInt8(ascii: "d"))
        #expect(met.told == .unavailable)
        try check(store, holds: met.samples)
    }

    /// Slow is not silent: whoever is refused a lock again and again waits for a writer that goes on.
    @Test func aSlowWriterIsNotEnded() throws {
        let relay = try Relay(to: PostgreSQLServer.shared.get().port)
        defer { relay.close() }
        let store = try PostgreSQLUnderTest(port: relay.port, settings: ["-clock_timeout=1s"])
        var writer = try store.writer()
        _ = try writer.acquire([Self.first])
        let given = samples(20, seed: 71)
        var maker = BatchMaker()
        let batch = try maker.batch([.init(partition: Self.first, first: 0, epoch: 1, samples: given)])
        let hasLocked = Atomic(false)
        relay.freeze { _, type in
            if type == UInt8(ascii: "d") { hasLocked.store(true, ordering: .releasing) }
            usleep(300_000)
            return false
        }
        let failure = Mutex<String?>(nil)
        let refusals = Atomic<Int>(0)
        let thread = ServiceThread("heir") {
            do {
                let heir = try PostgreSQLRollupStore.open(url: store.directURL).makeWriter()
                while !hasLocked.load(ordering: .acquiring) { usleep(1_000) }
                let taken = try persist {
                    do {
                        return try heir.acquire([Self.first])
                    } catch {
                        refusals.add(1, ordering: .relaxed)
                        throw error
                    }
                }
                if taken.map(\.next) != [Offset(20)] { failure.withLock { $0 = "\(taken)" } }
                heir.close()
            } catch {
                failure.withLock { $0 = "\(error)" }
            }
        }
        defer { hasLocked.store(true, ordering: .releasing) }
        #expect(try writer.apply(batch) == ApplyResult(applied: 20, duplicates: 0))
        thread.join()
        #expect(failure.withLock { $0 } == nil)
        #expect(refusals.load(ordering: .relaxed) > 1)
        _ = relay.thaw()
        try check(store, holds: given)
        writer.close()
    }

    @Test func sessionsEndedByTheServerLoseNothing() throws {
        let store = try PostgreSQLUnderTest(settings: ["-cintervalstyle=postgres_verbose"])
        let failures = Mutex<[String]>([])
        let given = Mutex<[Sample]>([])
        let applied = Atomic<Int>(0)
        let left = Atomic<Int>(2)
        let threads = (0..<2).map { number in
            ServiceThread("writer-\(number)") {
                do {
                    let partition = TopicPartition(topic: "events", partition: Int32(number))
                    var writer = try store.writer()
                    var maker = BatchMaker()
                    var random = Random(seed: UInt64(number) + 500)
                    let taken = try persist { try writer.acquire([partition]) }
                    for batch in 0..<60 {
                        let new = (0..<40).map { _ in Sample.random(&random) }
                        given.withLock { $0 += new }
                        let sealed = try maker.batch([
                            .init(
                                partition: partition, first: Int64(batch) * 40, epoch: taken[0].epoch, samples: new)
                        ])
                        let result = try persist { try writer.apply(sealed) }
                        if result != ApplyResult(applied: 40, duplicates: 0) {
                            failures.withLock { $0.append("\(result)") }
                        }
                        applied.add(1, ordering: .releasing)
                    }
                    writer.close()
                } catch {
                    failures.withLock { $0.append("\(number): \(error)") }
                }
                left.subtract(1, ordering: .releasing)
            }
        }
        let session = try store.session()
        var ended = 0
        var seen = 0
        while left.load(ordering: .acquiring) > 0 {
            // One for some batches, wherever in a batch it is then: with more, none would ever come through.
            if applied.load(ordering: .acquiring) < seen + 4 {
                usleep(500)
                continue
            }
            seen = applied.load(ordering: .acquiring)
            // Those of this schema: they hold the locks that bear its name.
            ended +=
                try session.number(
                    """
                    SELECT count(pg_terminate_backend(pid)) FROM (
                        SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2
                            AND classid::bigint = hashtext('millrace shards \(store.schema)')::bigint & 4294967295
                        ORDER BY random() LIMIT 1) AS one
                    """) ?? 0
        }
        for thread in threads { thread.join() }
        #expect(failures.withLock { $0 } == [])
        #expect(ended > 2, "\(ended)")
        try check(store, holds: given.withLock { $0 })
    }

    @Test func aKilledServerIsWaitedForAndLosesNothing() throws {
        let server = try PostgreSQLServer()
        let store = try PostgreSQLUnderTest(server: server)
        let failures = Mutex<[String]>([])
        let given = Mutex<[Sample]>([])
        let applied = Atomic<Int>(0)
        let thread = ServiceThread("writer") {
            do {
                var writer = try store.writer()
                var maker = BatchMaker()
                var random = Random(seed: 9)
                _ = try writer.acquire([Self.first])
                for batch in 0..<80 {
                    let new = (0..<30).map { _ in Sample.random(&random) }
                    given.withLock { $0 += new }
                    let sealed = try maker.batch([
                        .init(partition: Self.first, first: Int64(batch) * 30, epoch: 1, samples: new)
                    ])
                    let result = try persist { try writer.apply(sealed) }
                    if result.applied != 30 { failures.withLock { $0.append("\(result)") } }
                    applied.add(1, ordering: .releasing)
                }
                writer.close()
            } catch {
                failures.withLock { $0.append("\(error)") }
            }
        }
        for round in 1...3 {
            let deadline = ContinuousClock.now.advanced(by: .seconds(60))
            while applied.load(ordering: .acquiring) < round * 20, ContinuousClock.now < deadline { usleep(500) }
            try server.kill()
            let error = #expect(throws: RollupStoreError.self) { try store.reader.read { try $0.watermark } }
            #expect(error?.code == .unavailable)
            try server.start()
        }
        thread.join()
        #expect(failures.withLock { $0 } == [])
        try check(store, holds: given.withLock { $0 })
        try server.remove()
    }

    @Test func aServerThatIsAwayIsMetLaterUnlessItMustBeThere() throws {
        let relay = try Relay(to: 1)
        defer { relay.close() }
        let server = try PostgreSQLServer.shared.get()
        let url = server.url(port: relay.port)
        let error = #expect(throws: RollupStoreError.self) { try PostgreSQLRollupStore.open(url: url) }
        #expect(error?.code == .unavailable)
        let store = try PostgreSQLRollupStore.open(url: url, mustConnect: false)
        let writer = store.makeWriter()
        #expect(throws: RollupStoreError.self) { try writer.acquire([Self.first]) }
        #expect(throws: RollupStoreError.self) { try store.reader.read { try $0.watermark } }
        writer.close()
        let closed = #expect(throws: RollupStoreError.self) { try writer.acquire([Self.first]) }
        #expect(closed?.code == .configuration)
    }

    /// A question whose time is over stops on the server too, though the server itself would go on for ever.
    @Test func aReadThatIsNoLongerWantedEndsOnTheServer() throws {
        let store = try PostgreSQLUnderTest(settings: ["-clock_timeout=0", "-cstatement_timeout=0"])
        let waiting = """
            SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = '\(store.schema).offsets'::regclass
            """
        let holder = try store.session()
        try holder.run("BEGIN; LOCK TABLE offsets IN ACCESS EXCLUSIVE MODE")
        let error = #expect(throws: RollupStoreError.self) {
            try store.reader.read(until: { (try? store.session().number(waiting)) == 1 }) { try $0.watermark }
        }
        #expect(error?.isTransient == true)
        // What the server was told it does at its next look.
        let deadline = ContinuousClock.now.advanced(by: .seconds(30))
        while try holder.number(waiting) != 0, ContinuousClock.now < deadline { usleep(1_000) }
        #expect(try holder.number(waiting) == 0)
        try holder.run("COMMIT")
        #expect(try store.reader.read { try $0.watermark } == nil)
        #expect(throws: RollupStoreError.self) { try store.reader.read(until: { true }) { try $0.watermark } }
        #expect(try store.reader.read { try $0.watermark } == nil)
    }

    @Test func aPasswordIsNeverSaid() throws {
        for url in [
            "postgres://ann:hush@127.0.0.1:1/x?sslmode=disable", "postgres://ann@127.0.0.1:1/x?password=hush",
            "postgres://ann:hu%sh@127.0.0.1:1/x", "postgres://ann:hush@127.0.0.1:1/x?nonsense=hush",
        ] {
            let error = #expect(throws: RollupStoreError.self) { try PostgreSQLRollupStore.open(url: url) }
            #expect(error?.description.contains("hush") == false)
            #expect(error?.description.contains("hu%sh") == false)
        }
    }

    // MARK: Locks and versions

    @Test func aRowThatAnotherHoldsIsNotWaitedForForEver() throws {
        let store = try PostgreSQLUnderTest(settings: ["-clock_timeout=100ms"])
        var writer = try store.writer()
        _ = try writer.acquire([Self.first])
        let holder = try store.session()
        try holder.run("BEGIN")
        try holder.run("SELECT * FROM offsets FOR UPDATE")
        var maker = BatchMaker()
        let given = samples(10, seed: 1)
        let batch = try maker.batch([.init(partition: Self.first, first: 0, epoch: 1, samples: given)])
        let error = #expect(throws: RollupStoreError.self) { try writer.apply(batch) }
        #expect(error?.code == .unavailable)
        try holder.run("COMMIT")
        #expect(try writer.apply(batch).applied == 10)
        try check(store, holds: given)
        writer.close()
    }

    @Test func manyMayOpenANewStoreAtOnce() throws {
        let server = try PostgreSQLServer.shared.get()
        let schema = try server.schema()
        let url = server.url("&options=-csearch_path%3D\(schema)")
        let failures = Mutex<[String]>([])
        let threads = (0..<8).map { number in
            ServiceThread("open-\(number)") {
                do {
                    _ = try PostgreSQLRollupStore.open(url: url).reader.read { try $0.watermark }
                } catch {
                    failures.withLock { $0.append("\(error)") }
                }
            }
        }
        for thread in threads { thread.join() }
        #expect(failures.withLock { $0 } == [])
        let versions = try Session(url).run("SELECT version FROM millrace_schema")
        let usual = try PostgreSQLUnderTest().session().run("SELECT version FROM millrace_schema")
        #expect(versions.count == 1 && versions == usual)
    }

    @Test func aStoreOfANewerProgramIsRefused() throws {
        let store = try PostgreSQLUnderTest()
        try store.session().run("UPDATE millrace_schema SET version = 999")
        let error = #expect(throws: RollupStoreError.self) {
            try PostgreSQLRollupStore.open(url: store.url, mustConnect: false)
        }
        #expect(error?.code == .newerSchema)
        #expect(error?.description.contains("999") == true)
    }

    @Test func tablesOfAnotherProgramAreLeftAlone() throws {
        let server = try PostgreSQLServer.shared.get()
        let schema = try server.schema()
        let session = try Session(server.url())
        try session.run("CREATE TABLE \(schema).events (theirs integer)")
        let error = #expect(throws: RollupStoreError.self) {
            try PostgreSQLRollupStore.open(url: server.url("&options=-csearch_path%3D\(schema)"))
        }
        #expect(error?.code == .configuration)
        let tables = try session.number("SELECT count(*) FROM pg_tables WHERE schemaname = '\(schema)'")
        #expect(tables == 1)
    }

    // MARK: Values

    /// A database that knows no UTF-8 and a server in Kathmandu: the same answers, NUL and all.
    @Test(arguments: ["SQL_ASCII", "LATIN1"])
    func theDatabasesEncodingDoesNotMatter(_ encoding: String) throws {
        let server = try PostgreSQLServer.shared.get()
        let database = "d_\(encoding.lowercased())"
        try Session(server.url()).run(
            "CREATE DATABASE \(database) ENCODING '\(encoding)' LOCALE 'C' TEMPLATE template0")
        let store = try PostgreSQLUnderTest(database: database)
        var given = samples(50, seed: 2)
        given[0].event.errorType = "zo\u{308}e 👩‍👩‍👧‍👦 \u{0}'\"\\"
        given[1].event.apiKey = "clé\u{0}"
        given[1].set = "{\"k\u{0}\":\"\u{0}größer\"}"
        given[2].event.metadataRaw = Array("{\"a\":\"\\u0000\"}".utf8) + [0, 0xC3, 0x28]
        given[2].extra = "{\"nul\":\"\u{0}\"}"
        given[3].event.metadataRejected = [0, 1, 0xFF]
        var maker = BatchMaker()
        var writer = try store.writer()
        _ = try writer.acquire([Self.first])
        let letter = DeadLetter(
            source: Self.first, offset: Offset(51), code: .undecodable, reason: "not \u{0} protobuf ✗", key: [0, 1],
            value: [0xFF, 0])
        _ = try writer.apply(
            try maker.batch([
                .init(partition: Self.first, first: 0, epoch: 1, samples: given, deadLetters: [letter])
            ]))
        try store.reader.read { snapshot in
            let newestFirst = given.sorted { ($1.event.time, $1.event.id) < ($0.event.time, $0.event.id) }
            let stored = try events(snapshot)
            #expect(stored.map(\.event) == newestFirst.map(\.stored))
            #expect(stored.map(\.extra) == newestFirst.map { Array($0.extra.utf8) })
        }
        try check(store, holds: given)
        let filed = try store.session().run("SELECT encode(key, 'hex'), encode(value, 'hex') FROM dead_letters")
        #expect(filed == [["0001", "ff00"]])
        writer.close()
    }

    @Test func aBigBatchOfBigEventsAndSetsGoesInWhole() throws {
        let store = try PostgreSQLUnderTest()
        var given = samples(12_000, seed: 6)
        // A set, and texts of a series, far beyond what an index entry may hold; and an event of 200 KB.
        let long = String(repeating: "é", count: 20_000)
        given[10].set = "{\"a\":\"\(long)\"}"
        given[11].set = "{\"a\":\"\(long)x\"}"
        given[12].event.workspace = "other"
        given[12].event.apiKey = String(repeating: "k", count: 4_000)
        given[13].event.metadataRaw = [UInt8](repeating: 0x7B, count: 200_000)
        var maker = BatchMaker()
        var writer = try store.writer()
        _ = try writer.acquire([Self.first])
        let batch = try maker.batch([.init(partition: Self.first, first: 0, epoch: 1, samples: given)])
        #expect(try writer.apply(batch) == ApplyResult(applied: 12_000, duplicates: 0))
        try check(store, holds: given)
        #expect(
            try store.reader.read { try $0.event(id: given[13].event.id)?.event.metadataRaw.count } == 200_000)
        writer.close()
    }

    @Test func aRowThatIsAddedToOftenStaysShort() throws {
        let store = try PostgreSQLUnderTest()
        var writer = try store.writer()
        _ = try writer.acquire([Self.first])
        var maker = BatchMaker()
        var random = Random(seed: 8)
        var all: [Sample] = []
        let model = Sample.random(&random)
        for batch in 0..<150 {
            let new = (0..<20).map { _ in
                var sample = model
                sample.event.id = EventID(time: model.event.time, random: (random.next(), random.next()))
                sample.event.latencyMicroseconds = 1_000 + random.next() % 100_000
                sample.event.overheadMicroseconds = random.next() % 50
                return sample
            }
            all += new
            _ = try writer.apply(
                try maker.batch([.init(partition: Self.first, first: Int64(batch) * 20, epoch: 1, samples: new)]))
        }
        try check(store, holds: all)
        let longest = try store.session().number("SELECT max(octet_length(bins)) FROM rollups")
        // 150 parts of some 80 bytes would be 12,000.
        #expect((longest ?? .max) < 3_000, "\(longest ?? 0)")
        writer.close()
    }

    @Test func theSameIDWithAnotherTimeIsACopyToo() throws {
        let store = try PostgreSQLUnderTest()
        var writer = try store.writer()
        _ = try writer.acquire([Self.first])
        var maker = BatchMaker()
        let given = samples(5, seed: 12)
        var moved = given[0]
        moved.event.time = EventTime(microseconds: given[0].event.time.microseconds + 40 * Self.day)
        _ = try writer.apply(try maker.batch([.init(partition: Self.first, first: 0, epoch: 1, samples: given)]))
        let result = try writer.apply(
            try maker.batch([.init(partition: Self.first, first: 5, epoch: 1, samples: [moved])]))
        #expect(result == ApplyResult(applied: 0, duplicates: 1))
        try check(store, holds: given)
        writer.close()
    }

    // MARK: Days

    private func sample(at time: EventTime, id: EventID? = nil, _ random: inout Random) -> Sample {
        var sample = Sample.random(&random)
        sample.event.time = time
        sample.event.id = id ?? EventID(time: time, random: (random.next(), random.next()))
        return sample
    }

    private func partitions(_ store: PostgreSQLUnderTest) throws -> [String: Int] {
        let rows = try store.session().run(
            "SELECT tableoid::regclass::text, count(*) FROM events GROUP BY 1")
        return Dictionary(
            uniqueKeysWithValues: rows.map { ($0[0].replacing("\(store.schema).", with: ""), Int($0[1]) ?? 0) })
    }

    @Test func aBatchAcrossMidnightGoesToBothDays() throws {
        let store = try PostgreSQLUnderTest()
        let midnight = EventTime(microseconds: 20_454 * Self.day)
        let writer = store.store.makeWriter(now: { EventTime(microseconds: midnight.microseconds + 1) })
        _ = try writer.acquire([Self.first])
        var random = Random(seed: 13)
        let given = (-5..<5).map { sample(at: EventTime(microseconds: midnight.microseconds + $0 * 1_000), &random) }
        var maker = BatchMaker()
        _ = try writer.apply(try maker.batch([.init(partition: Self.first, first: 0, epoch: 1, samples: given)]))
        #expect(try partitions(store) == ["events_20251231": 5, "events_20260101": 5])
        try check(store, holds: given)
        writer.close()
    }

    @Test func oddDaysMakeNoPartitionsAndCountAllTheSame() throws {
        let store = try PostgreSQLUnderTest()
        let now = EventTime(microseconds: 20_454 * Self.day + 7)
        var writer = store.store.makeWriter(now: { now })
        _ = try writer.acquire([Self.first])
        var random = Random(seed: 14)
        var given: [Sample] = []
        // 1970, 2000, years back and ahead, one for each day; and ids of no version 7 at all.
        for day in [0, 10_957] + Array(stride(from: 15_000, to: 27_000, by: 61)) {
            given.append(sample(at: EventTime(microseconds: Int64(day) * Self.day + 5), &random))
        }
        for _ in 0..<50 {
            given.append(
                sample(at: now, id: EventID(high: random.next() | 0xF000_0000_0000_0000, low: random.next()), &random))
        }
        var maker = BatchMaker()
        _ = try writer.apply(try maker.batch([.init(partition: Self.first, first: 0, epoch: 1, samples: given)]))
        let made = try store.session().number("SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass")
        #expect((made ?? 0) <= 8, "\(made ?? 0)")
        try check(store, holds: given)

        // A day that was too far ahead and has come: its events stay where the first ones went, and none counts twice.
        let later = EventTime(microseconds: 21_039 * Self.day + 9)
        writer.close()
        writer = store.store.makeWriter(now: { later })
        let taken = try writer.acquire([Self.first])
        let far = given.filter { $0.event.time.microseconds / Self.day == 21_039 }
        #expect(far.count == 1)
        let more = [sample(at: later, &random)] + far
        let result = try writer.apply(
            try maker.batch([
                .init(partition: Self.first, first: Int64(given.count), epoch: taken[0].epoch, samples: more)
            ]))
        #expect(result == ApplyResult(applied: 1, duplicates: 1))
        try check(store, holds: given + more)
        writer.close()
    }

    @Test func writersMakeTheSameDaysAtOnce() throws {
        let store = try PostgreSQLUnderTest()
        let failures = Mutex<[String]>([])
        let given = Mutex<[Sample]>([])
        let threads = (0..<4).map { number in
            ServiceThread("days-\(number)") {
                do {
                    let partition = TopicPartition(topic: "events", partition: Int32(number))
                    let writer = store.store.makeWriter(now: { EventTime(microseconds: 20_454 * Self.day) })
                    var random = Random(seed: UInt64(number) + 30)
                    var maker = BatchMaker()
                    _ = try persist { try writer.acquire([partition]) }
                    for batch in 0..<20 {
                        let time = EventTime(microseconds: Int64(20_454 - batch) * Self.day)
                        let new = (0..<5).map { _ in sample(at: time, &random) }
                        given.withLock { $0 += new }
                        let sealed = try maker.batch([
                            .init(partition: partition, first: Int64(batch) * 5, epoch: 1, samples: new)
                        ])
                        _ = try persist { try writer.apply(sealed) }
                    }
                    writer.close()
                } catch {
                    failures.withLock { $0.append("\(error)") }
                }
            }
        }
        for thread in threads { thread.join() }
        #expect(failures.withLock { $0 } == [])
        try check(store, holds: given.withLock { $0 })
        #expect(try partitions(store).keys.contains("events_other") == false)
    }

    /// A row is on its way to `events_other` when its day gets a partition, and goes there.
    @Test func aDayThatGetsItsPartitionUnderABatchTakesIt() throws {
        let store = try PostgreSQLUnderTest()
        let day: Int64 = 20_454
        var random = Random(seed: 31)
        let given = [day - 30, day].map { sample(at: EventTime(microseconds: $0 * Self.day + 5), &random) }
        let failure = Mutex<String?>(nil)
        let isReady = Atomic(false)
        let isAttached = Atomic(false)
        let deadline = ContinuousClock.now.advanced(by: .seconds(30))
        @Sendable func wait(for isDone: () throws -> Bool) rethrows {
            while try !isDone(), ContinuousClock.now < deadline { usleep(1_000) }
        }
        let thread = ServiceThread("writer") {
            do {
                // Thirty days ago: the second event's day is too far ahead for a partition.
                let writer = store.store.makeWriter(now: { EventTime(microseconds: (day - 30) * Self.day) })
                _ = try writer.acquire([Self.first])
                var maker = BatchMaker()
                for (offset, sample) in given.enumerated() {
                    if offset == 1 {
                        isReady.store(true, ordering: .releasing)
                        wait { isAttached.load(ordering: .acquiring) }
                    }
                    let range = BatchMaker.Part(
                        partition: Self.first, first: Int64(offset), epoch: 1, samples: [sample])
                    _ = try writer.apply(try maker.batch([range]))
                }
                writer.close()
            } catch {
                failure.withLock { $0 = "\(error)" }
            }
        }
        wait { isReady.load(ordering: .acquiring) }
        func first(of day: Int64) -> EventID { EventID(high: UInt64(day * 86_400_000) << 16, low: 0) }
        let other = try store.session()
        try other.run("BEGIN")
        try other.run("CREATE TABLE events_20260101 (LIKE events INCLUDING DEFAULTS INCLUDING STORAGE)")
        try other.run(
            """
            ALTER TABLE events ATTACH PARTITION events_20260101
                FOR VALUES FROM ('\(first(of: day))') TO ('\(first(of: day + 1))')
            """)
        isAttached.store(true, ordering: .releasing)
        let waiting = """
            SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = '\(store.schema).events_other'::regclass
            """
        try wait { try other.number(waiting) == 1 }
        #expect(try other.number(waiting) == 1)
        try other.run("COMMIT")
        thread.join()
        #expect(failure.withLock { $0 } == nil)
        #expect(try partitions(store) == ["events_20251202": 1, "events_20260101": 1])
        try check(store, holds: given)
    }

    /// Days that are past go with their partitions, but not from under a read that has begun.
    @Test func wholeDaysAreDroppedWhenNoReadNeedsThem() throws {
        let store = try PostgreSQLUnderTest()
        let now = EventTime(microseconds: 20_454 * Self.day + 3_600_000_000)
        let writer = store.store.makeWriter(now: { now })
        _ = try writer.acquire([Self.first])
        var random = Random(seed: 15)
        let given = (0..<200).map { number in
            sample(at: EventTime(microseconds: now.microseconds - Int64(number / 20) * Self.day), &random)
        }
        var maker = BatchMaker()
        _ = try writer.apply(try maker.batch([.init(partition: Self.first, first: 0, epoch: 1, samples: given)]))
        let boundaries = RetentionBoundaries(RetentionDays(events: 4, minute: 30, hour: 30, day: 30), now: now)
        let (hasMore, seen) = try store.reader.read { snapshot in
            _ = try snapshot.retained(nil)
            // The drop is put off, rows go instead; this read sees all of them.
            return (try writer.expire(boundaries, maxRows: 15), try events(snapshot).count)
        }
        #expect(hasMore)
        #expect(seen == 200)
        while try writer.expire(boundaries, maxRows: 15) {}
        let (kept, whole) = try store.reader.read { snapshot in
            (try events(snapshot).count, try snapshot.retained(nil))
        }
        #expect(kept == 100)
        #expect(whole == boundaries.events)
        #expect(try partitions(store).count == 5)
        let left = try store.session().run(
            "SELECT min(relname) FROM pg_inherits JOIN pg_class ON oid = inhrelid "
                + "WHERE inhparent = 'events'::regclass AND relkind = 'r' AND relname <> 'events_other'")
        #expect(left == [["events_20251228"]])
        writer.close()
    }
}
