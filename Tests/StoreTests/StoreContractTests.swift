// What every store promises: one atomic step or nothing, each event once, and reads of one state.

import EventCodec
import Events
import RecordLog
import RollupStore
import Rollups
import Synchronization
import Testing
import Threading

@Suite struct StoreContractTests {
    private static let first = TopicPartition(topic: "events", partition: 0)
    private static let second = TopicPartition(topic: "events", partition: 1)

    private func check(_ reader: any RollupReader, holds expected: [Sample]) throws {
        #expect(try Count(reading: reader) == Count(expected))
        let ledger = try reader.read { try $0.ledger() }
        let isClosed = ledger.allSatisfy { $0.isClosed }
        #expect(isClosed)
        let totals = try reader.read { snapshot in try Grain.plain.map { try requests(snapshot, $0) } }
        #expect(Set(totals).count == 1)
        #expect(ledger.reduce(0) { $0 + $1.applied } == totals[0])
        let minutes = try reader.read {
            try $0.proxyMinutes(from: EventTime(microseconds: .min), to: EventTime(microseconds: .max))
        }
        var seen: Set<EventID> = []
        let distinct = expected.filter { seen.insert($0.event.id).inserted }
        let counted = distinct.reduce(into: [String: Int64]()) { counts, sample in
            counts["\(sample.event.time.startOfMinute.microseconds) \(sample.event.proxy)", default: 0] += 1
        }
        #expect(
            minutes.filter { $0.applied != 0 }.reduce(into: [String: Int64]()) {
                $0["\($1.minute.microseconds) \($1.proxy)", default: 0] += $1.applied
            }
                == counted)
        #expect(minutes.reduce(0) { $0 + $1.duplicates } == ledger.reduce(0) { $0 + $1.duplicates })
        #expect(try reader.read { try events($0).count } == Int(totals[0]))
    }

    @Test(arguments: StoreKind.allCases)
    func anEmptyStoreAnswersEmpty(_ kind: StoreKind) throws {
        let store = try kind.make()
        try store.reader.read { (snapshot: any RollupSnapshot) throws -> Void in
            let answer0 = try snapshot.watermark == nil
            #expect(answer0)
            let answer1 = try snapshot.ledger().isEmpty
            #expect(answer1)
            let answer2 = try snapshot.series(workspace: "default").isEmpty
            #expect(answer2)
            let answer3 = try snapshot.retained(nil) == nil
            #expect(answer3)
            let answer4 = try snapshot.retained(.hour) == nil
            #expect(answer4)
            let answer5 = try snapshot.event(id: EventID(high: 1, low: 2)) == nil
            #expect(answer5)
            let answer6 = try events(snapshot).isEmpty
            #expect(answer6)
        }
    }

    @Test(arguments: StoreKind.allCases)
    func aBatchIsInTheStoreAsItWasSealed(_ kind: StoreKind) throws {
        let store = try kind.make()
        var writer = try store.writer()
        let taken = try writer.acquire([Self.first])
        #expect(taken == [PartitionPosition(partition: Self.first, next: Offset(0), epoch: 1)])
        var given = samples(500, seed: 1)
        given[7].event.metadataRaw = []
        given[7].event.metadataRejected = [0, 0xFF, 0x7B]
        given[7].event.metadataStatus = .malformed
        given[8].event.errorType = "zo\u{308}e 👩‍👩‍👧‍👦 \u{0}'\""
        var maker = BatchMaker()
        let result = try writer.apply(
            try maker.batch([.init(partition: Self.first, first: 0, epoch: 1, samples: given)]))
        #expect(result == ApplyResult(applied: 500, duplicates: 0))
        try check(store.reader, holds: given)

        try store.reader.read { snapshot in
            #expect(try snapshot.watermark == given.map(\.event.time).max())
            let newestFirst = given.sorted { ($1.event.time, $1.event.id) < ($0.event.time, $0.event.id) }
            let stored = try events(snapshot)
            #expect(stored.map(\.event) == newestFirst.map(\.stored))
            #expect(stored.map(\.extra) == newestFirst.map { Array($0.extra.utf8) })
            let found = try #require(try snapshot.event(id: given[7].event.id))
            #expect(found.event == given[7].stored)
        }
        #expect(try writer.acquire([Self.first]) == [.init(partition: Self.first, next: Offset(500), epoch: 2)])
        writer.close()
    }

    @Test(arguments: StoreKind.allCases)
    func theSameOffsetsAreRefusedTheSecondTime(_ kind: StoreKind) throws {
        let store = try kind.make()
        var writer = try store.writer()
        _ = try writer.acquire([Self.first])
        let given = samples(50, seed: 2)
        var maker = BatchMaker()
        let batch = try maker.batch([.init(partition: Self.first, first: 0, epoch: 1, samples: given)])
        _ = try writer.apply(batch)
        let error = #expect(throws: RollupStoreError.self) { try writer.apply(batch) }
        #expect(error?.code == .staleEpoch)
        try check(store.reader, holds: given)
        writer.close()
    }

    @Test(arguments: StoreKind.allCases)
    func aZombiesBatchFailsWhole(_ kind: StoreKind) throws {
        let store = try kind.make()
        var zombie = try store.writer()
        _ = try zombie.acquire([Self.first, Self.second])
        var maker = BatchMaker()
        let old = samples(20, seed: 3)
        _ = try zombie.apply(
            try maker.batch([.init(partition: Self.first, first: 0, epoch: 1, samples: Array(old[..<10]))]))
        var heir = try store.writer()
        #expect(
            try heir.acquire([Self.second]) == [PartitionPosition(partition: Self.second, next: Offset(0), epoch: 2)])

        // The first partition is still the zombie's, the second is not: neither moves.
        let late = try maker.batch([
            .init(partition: Self.first, first: 10, epoch: 1, samples: Array(old[10...])),
            .init(partition: Self.second, first: 0, epoch: 1, samples: samples(10, seed: 4)),
        ])
        let error = #expect(throws: RollupStoreError.self) { try zombie.apply(late) }
        #expect(error?.code == .staleEpoch)
        #expect(error?.isTransient == false)
        try check(store.reader, holds: Array(old[..<10]))

        // What the failed batch had made of series is forgotten: the same ones come right afterwards.
        let new = samples(30, seed: 5)
        _ = try heir.apply(try maker.batch([.init(partition: Self.second, first: 0, epoch: 2, samples: new)]))
        _ = try zombie.apply(
            try maker.batch([.init(partition: Self.first, first: 10, epoch: 1, samples: Array(old[10...]))]))
        try check(store.reader, holds: old + new)
        zombie.close()
        heir.close()
    }

    @Test(arguments: StoreKind.allCases)
    func aCopyIsCountedOnceWhereverItComes(_ kind: StoreKind) throws {
        let store = try kind.make()
        var writer = try store.writer()
        _ = try writer.acquire([Self.first, Self.second])
        let given = samples(10, seed: 6)
        var maker = BatchMaker()
        // In one batch, in one partition and across two.
        let once = try writer.apply(
            try maker.batch([
                .init(partition: Self.first, first: 0, epoch: 1, samples: given + given[2...4]),
                .init(partition: Self.second, first: 0, epoch: 1, samples: [given[0]]),
            ]))
        #expect(once == ApplyResult(applied: 10, duplicates: 4))
        // In later batches; the second brings nothing new at all.
        let more = samples(3, seed: 7)
        let later = try writer.apply(
            try maker.batch([.init(partition: Self.second, first: 1, epoch: 1, samples: more + given)]))
        #expect(later == ApplyResult(applied: 3, duplicates: 10))
        let again = try writer.apply(
            try maker.batch([.init(partition: Self.first, first: 13, epoch: 1, samples: more)]))
        #expect(again == ApplyResult(applied: 0, duplicates: 3))
        try check(store.reader, holds: given + more)
        let ledger = try store.reader.read { try $0.ledger() }
        #expect(ledger.map(\.duplicates) == [6, 11])
        writer.close()
    }

    @Test(arguments: StoreKind.all(seeds: [11, 12, 13]))
    func randomBatchesComeToTheBruteForceCount(_ kind: StoreKind, _ seed: UInt64) throws {
        let store = try kind.make()
        var random = Random(seed: seed)
        var maker = BatchMaker()
        var all: [Sample] = []
        var next: [Int64] = [0, 0]
        for _ in 0..<4 {
            // A new writer each time, as after a crash: nothing it remembers matters.
            var writer = try store.writer()
            let taken = try writer.acquire([Self.first, Self.second])
            #expect(taken.map(\.next.value) == next)
            for _ in 0..<5 {
                var parts: [BatchMaker.Part] = []
                for position in taken where random.next() % 4 != 0 {
                    let place = Int(position.partition.partition)
                    var part = BatchMaker.Part(
                        partition: position.partition, first: next[place], epoch: position.epoch, samples: [],
                        skipped: Int64(random.next() % 3), lost: Int64(random.next() % 2))
                    for _ in 0..<random.next() % 120 {
                        let isCopy = random.next() % 5 == 0 && !all.isEmpty
                        let sample =
                            isCopy ? all[Int(random.next() % UInt64(all.count))] : Sample.random(&random)
                        all.append(sample)
                        part.samples.append(sample)
                    }
                    next[place] += Int64(part.samples.count) + part.skipped + part.lost
                    parts.append(part)
                }
                if !parts.isEmpty { _ = try writer.apply(try maker.batch(parts)) }
            }
            writer.close()
        }
        try check(store.reader, holds: all)
        #expect(try store.reader.read { try $0.ledger().map(\.next.value) } == next, "seed \(seed)")
    }

    @Test(arguments: StoreKind.allCases)
    func everyOffsetIsAccountedForThoughNothingIsCounted(_ kind: StoreKind) throws {
        let store = try kind.make()
        var writer = try store.writer()
        _ = try writer.acquire([Self.first])
        var maker = BatchMaker()
        let letter = DeadLetter(
            source: Self.first, offset: Offset(5), code: .undecodable, reason: "no protobuf", key: [], value: [1, 0, 2])
        let manifest = Manifest(
            proxy: "p", minute: EventTime(microseconds: 60_000_000), accepted: 3, recorded: 2, dropped: 1)
        _ = try writer.apply(
            try maker.batch([
                .init(
                    partition: Self.first, first: 0, epoch: 1, samples: [], skipped: 2, lost: 3,
                    manifests: [manifest, manifest], deadLetters: [letter])
            ]))
        _ = try writer.apply(try maker.batch([.init(partition: Self.first, first: 8, epoch: 1, samples: [], lost: 1)]))
        try check(store.reader, holds: [])
        let expected = PartitionLedger(
            partition: Self.first, start: Offset(0), next: Offset(9), applied: 0, duplicates: 0, manifests: 2,
            deadLetters: 1, skipped: 2, lost: 4)
        #expect(try store.reader.read { try $0.ledger() } == [expected])
        writer.close()
    }

    @Test(arguments: StoreKind.allCases)
    func partsOfAManifestAddUpAndCopiesChangeNothing(_ kind: StoreKind) throws {
        let store = try kind.make()
        var writer = try store.writer()
        _ = try writer.acquire([Self.first])
        var maker = BatchMaker()
        func part(
            _ minute: Int64, _ proxy: String, _ lane: UInt32, _ serial: UInt64, _ accepted: UInt64, _ recorded: UInt64
        )
            -> Manifest
        {
            Manifest(
                proxy: proxy, minute: EventTime(microseconds: minute * 60_000_000), lane: lane, serial: serial,
                accepted: accepted, recorded: recorded, dropped: accepted - recorded)
        }
        let batches: [[Manifest]] = [
            [part(2, "b", 0, 7, 3, 2), part(2, "a", 0, 7, 5, 5)], [part(2, "b", 0, 7, 9, 8), part(2, "b", 1, 7, 4, 4)],
            // Late and again: an older count of a part, and the same one.
            [part(2, "b", 0, 7, 3, 2), part(2, "b", 0, 7, 9, 8), part(2, "b", 0, 8, 1, 0), part(1, "b", 0, 6, 2, 2)],
        ]
        var offset: Int64 = 0
        for manifests in batches {
            _ = try writer.apply(
                try maker.batch([
                    .init(partition: Self.first, first: offset, epoch: 1, samples: [], manifests: manifests)
                ]))
            offset += Int64(manifests.count)
        }
        try store.reader.read { snapshot in
            let expected = [
                part(1, "b", 0, 6, 2, 2), part(2, "a", 0, 7, 5, 5), part(2, "b", 0, 7, 9, 8), part(2, "b", 0, 8, 1, 0),
                part(2, "b", 1, 7, 4, 4),
            ]
            let all = try snapshot.manifests(from: EventTime(microseconds: 0), to: EventTime(microseconds: .max))
            #expect(all == expected)
            let first = try snapshot.manifests(
                from: EventTime(microseconds: 0), to: EventTime(microseconds: 120_000_000))
            #expect(first == [expected[0]])
        }
        writer.close()
    }

    @Test(arguments: StoreKind.allCases)
    func theCountsByProxyAndMinuteTellCopiesAndDeadLettersApart(_ kind: StoreKind) throws {
        let store = try kind.make()
        var writer = try store.writer()
        _ = try writer.acquire([Self.first])
        var random = Random(seed: 91)
        var sample = Sample.random(&random)
        sample.event.proxy = "größer"
        var maker = BatchMaker()
        var batch = try maker.batch([
            .init(partition: Self.first, first: 0, epoch: 1, samples: [sample, sample, sample])
        ])
        batch.minutes[0].deadLettered = 2
        #expect(try writer.apply(batch) == ApplyResult(applied: 1, duplicates: 2))
        var again = try maker.batch([.init(partition: Self.first, first: 3, epoch: 1, samples: [sample])])
        let nobody = ProxyMinute(
            proxy: "", minute: EventTime(microseconds: 0), partition: Self.first, first: Offset(3), next: Offset(4),
            deadLettered: 1)
        again.minutes.append(nobody)
        _ = try writer.apply(again)
        let minute = sample.event.time.startOfMinute
        try store.reader.read { snapshot in
            var all = try snapshot.proxyMinutes(from: EventTime(microseconds: 0), to: EventTime(microseconds: .max))
            let areTimed = all.allSatisfy { $0.changed != nil }
            #expect(areTimed)
            for index in all.indices { all[index].changed = nil }
            #expect(
                all == [
                    nobody,
                    ProxyMinute(
                        proxy: "größer", minute: minute, partition: Self.first, first: Offset(0), next: Offset(4),
                        applied: 1, duplicates: 3, deadLettered: 2),
                ])
            let later = try snapshot.proxyMinutes(
                from: EventTime(microseconds: minute.microseconds + 1), to: EventTime(microseconds: .max))
            #expect(later.isEmpty)
        }
        // A batch that is refused counts nothing.
        #expect(throws: RollupStoreError.self) { try writer.apply(batch) }
        let applied = try store.reader.read {
            try $0.proxyMinutes(from: minute, to: EventTime(microseconds: .max)).map(\.applied)
        }
        #expect(applied == [1])
        writer.close()
    }

    /// A count beyond 63 bits wraps in the sums, takes nothing else with it, and does not stop the partition.
    @Test(arguments: StoreKind.allCases)
    func aHostileCountDoesNotStopThePartition(_ kind: StoreKind) throws {
        let store = try kind.make()
        var writer = try store.writer()
        _ = try writer.acquire([Self.first])
        var random = Random(seed: 8)
        var maker = BatchMaker()
        var one = Sample.random(&random)
        one.event.inputTokens = .max
        for offset in 0..<3 {
            one.event.id = EventID(time: one.event.time, random: (random.next(), random.next()))
            _ = try writer.apply(
                try maker.batch([.init(partition: Self.first, first: Int64(offset), epoch: 1, samples: [one])]))
        }
        try store.reader.read { snapshot in
            var rows = 0
            try snapshot.scanRollups(grain: .day, from: .min, to: .max, series: .all, withBins: true) { row in
                rows += 1
                #expect(row.measures.requests == 3)
                #expect(row.measures.inputTokens == Int64.max &+ Int64.max &+ Int64.max)
                #expect(row.measures.outputTokens == 3 * Int64(one.event.outputTokens))
                #expect(row.bins.reduce(0) { $0 + $1.count } == (one.event.streamed ? 9 : 6))
            }
            #expect(rows == 1)
            let stored = try events(snapshot).map(\.event.inputTokens)
            #expect(stored == [.max, .max, .max])
        }
        writer.close()
    }

    @Test(arguments: StoreKind.all(seeds: [21, 22]))
    func aScanIsTheSameHoweverItsSeriesAreNamed(_ kind: StoreKind, _ seed: UInt64) throws {
        let store = try kind.make()
        var writer = try store.writer()
        _ = try writer.acquire([Self.first])
        let given = samples(3_000, seed: seed)
        var maker = BatchMaker()
        _ = try writer.apply(try maker.batch([.init(partition: Self.first, first: 0, epoch: 1, samples: given)]))
        var random = Random(seed: seed)
        try store.reader.read { snapshot in
            let ids = try ["default", "other"].flatMap { try snapshot.series(workspace: $0).map(\.id) }
            for grain in Grain.plain {
                let low = grain.bucket(of: given[0].event.time)
                for _ in 0..<12 {
                    let share = 1 + random.next() % 40
                    let wanted = ids.filter { _ in random.next() % share == 0 }.sorted()
                    let from = random.next() % 2 == 0 ? Int32.min : low
                    let to = random.next() % 2 == 0 ? Int32.max : low + Int32(random.next() % 2_000)
                    var all: [String] = []
                    var some: [String] = []
                    try snapshot.scanRollups(grain: grain, from: from, to: to, series: .all, withBins: false) {
                        if wanted.contains($0.series) { all.append("\($0.bucket) \($0.series) \($0.measures)") }
                    }
                    try snapshot.scanRollups(grain: grain, from: from, to: to, series: .only(wanted), withBins: false) {
                        some.append("\($0.bucket) \($0.series) \($0.measures)")
                    }
                    #expect(all.sorted() == some.sorted(), "seed \(seed)")
                }
            }
        }
        writer.close()
    }

    @Test(arguments: StoreKind.allCases)
    func eventsAreListedNewestFirstPageByPage(_ kind: StoreKind) throws {
        let store = try kind.make()
        var writer = try store.writer()
        _ = try writer.acquire([Self.first])
        var given = samples(200, seed: 31)
        // Many at one instant: the id decides.
        for index in 50..<120 { given[index].event.time = given[50].event.time }
        var maker = BatchMaker()
        _ = try writer.apply(try maker.batch([.init(partition: Self.first, first: 0, epoch: 1, samples: given)]))
        try store.reader.read { snapshot in
            let all = try events(snapshot)
            let wanted = try snapshot.series(workspace: "other").map(\.id).sorted()
            for (selection, expected) in [
                (SeriesSelection.all, all), (.only(wanted), all.filter { wanted.contains($0.series) }), (.only([]), []),
            ] {
                var pages: [EventID] = []
                var last: (time: EventTime, id: EventID)?
                while true {
                    var page: [StoredEvent] = []
                    try snapshot.scanEvents(
                        from: EventTime(microseconds: 0), to: EventTime(microseconds: .max), before: last,
                        series: selection
                    ) {
                        page.append($0)
                        return page.count < 7
                    }
                    guard let end = page.last else { break }
                    last = (end.event.time, end.event.id)
                    pages += page.map(\.event.id)
                }
                #expect(pages == expected.map(\.event.id))
            }
            let middle = all[100].event.time
            var inside: [EventID] = []
            try snapshot.scanEvents(from: middle, to: all[20].event.time, before: nil, series: .all) {
                inside.append($0.event.id)
                return true
            }
            let expected = all.filter { $0.event.time >= middle && $0.event.time < all[20].event.time }
            #expect(inside == expected.map(\.event.id))
        }
        writer.close()
    }

    /// Readers look all the time while a writer applies batch after batch: every look is of whole batches.
    @Test(arguments: StoreKind.allCases)
    func readersSeeWholeBatchesOnly(_ kind: StoreKind) throws {
        let store = try kind.make()
        var writer = try store.writer()
        _ = try writer.acquire([Self.first, Self.second])
        let reader = store.reader
        let done = StopSignal()
        let looks = Atomic<Int>(0)
        let wrong = Mutex<[String]>([])
        let looking = (0..<2).map { number in
            ServiceThread("look-\(number)") {
                while !done.isStopped {
                    do {
                        try reader.read { snapshot in
                            let totals = try Grain.plain.map { try requests(snapshot, $0) }
                            let ledger = try snapshot.ledger()
                            let listed = try events(snapshot).count
                            let applied = ledger.reduce(0) { $0 + $1.applied }
                            let isWhole =
                                Set(totals + [applied, Int64(listed)]).count == 1 && applied % 100 == 0
                                && ledger.allSatisfy(\.isClosed)
                            if !isWhole { wrong.withLock { $0.append("\(totals) \(ledger) \(listed)") } }
                        }
                    } catch {
                        wrong.withLock { $0.append("\(error)") }
                    }
                    looks.add(1, ordering: .relaxed)
                }
            }
        }
        var maker = BatchMaker()
        var random = Random(seed: 41)
        var all: [Sample] = []
        var batches: Int64 = 0
        while batches < 40 || looks.load(ordering: .relaxed) < 20 {
            let new = (0..<100).map { _ in Sample.random(&random) }
            all += new
            _ = try writer.apply(
                try maker.batch([
                    .init(partition: Self.first, first: batches * 50, epoch: 1, samples: Array(new[..<50])),
                    .init(partition: Self.second, first: batches * 50, epoch: 1, samples: Array(new[50...])),
                ]))
            batches += 1
            if batches > 2_000 { break }
        }
        done.stop()
        for thread in looking { thread.join() }
        #expect(wrong.withLock { $0 } == [])
        #expect(looks.load(ordering: .relaxed) >= 20)
        try check(store.reader, holds: all)
        writer.close()
    }

    @Test(arguments: StoreKind.allCases)
    func whatIsPastItsTimeGoesInStepsAndReadersAreTold(_ kind: StoreKind) throws {
        let store = try kind.make()
        var writer = try store.writer()
        _ = try writer.acquire([Self.first])
        let day: Int64 = 86_400_000_000
        let today: Int64 = 20_400 * day
        // Ten events on each of ten days, the last of them today.
        var given = samples(100, seed: 91)
        for index in given.indices {
            given[index].event.time = EventTime(
                microseconds: today - Int64(9 - index / 10) * day + Int64(index) * 1_000_000)
        }
        var maker = BatchMaker()
        _ = try writer.apply(try maker.batch([.init(partition: Self.first, first: 0, epoch: 1, samples: given)]))
        let now = EventTime(microseconds: today + 3_600_000_000)
        func kept() throws -> [Int64] {
            try store.reader.read { snapshot in
                try Grain.plain.map { try requests(snapshot, $0) } + [Int64(try events(snapshot).count)]
            }
        }

        let none = RetentionBoundaries(RetentionDays(events: 30, minute: 30, hour: 30, day: 30), now: now)
        let moreOfNone = try writer.expire(none, maxRows: 1_000)
        #expect(!moreOfNone)
        #expect(try kept() == [100, 100, 100, 100])
        #expect(try store.reader.read { try $0.retained(nil) } == nil)

        // Today and so many days before it.
        let some = RetentionBoundaries(RetentionDays(events: 4, minute: 1, hour: 2, day: 20), now: now)
        var steps = 1
        while try writer.expire(some, maxRows: 7) { steps += 1 }
        #expect(steps > 1, "\(steps)")
        #expect(try kept() == [20, 30, 100, 50])
        let marks = try store.reader.read { snapshot in
            try [snapshot.retained(.minute), snapshot.retained(.hour), snapshot.retained(.day), snapshot.retained(nil)]
        }
        #expect(marks == [some.minute, some.hour, nil, some.events])

        // What comes late counts where there is still a place for it, and goes again where there is none.
        var late = samples(1, seed: 92)
        late[0].event.time = EventTime(microseconds: today - 8 * day)
        _ = try writer.apply(try maker.batch([.init(partition: Self.first, first: 100, epoch: 1, samples: late)]))
        while try writer.expire(some, maxRows: 7) {}
        #expect(try kept() == [20, 30, 101, 50])
        #expect(try store.reader.read { try $0.retained(nil) } == some.events)
        writer.close()
    }
}
