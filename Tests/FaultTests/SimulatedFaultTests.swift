// The parts of the consumer that decide, with everything around them made up from a seed: a log with holes, damage,
// copies and retention, a client that loses its place, a group that changes its mind, a store that is away or whose
// answer is lost, and consumers that die. Thousands of histories, each the same again for its seed.

import EventCodec
import Events
import Glibc
import Ingest
import Normalizer
import RecordLog
import RollupStore
import Rollups
import Simulation
import Testing

@testable import RecordLogKafka

extension SeededGenerator {
    /// True once in so many.
    fileprivate mutating func once(in times: Int) -> Bool { below(times) == 0 }
}

private struct SimulatedRecord {
    enum Content { case event(EventID, tokens: Int64), poison, tombstone }
    var offset: Int64 = 0
    var content: Content
    var key: [UInt8]
    var value: [UInt8]
    /// Never readable: its batch is broken on the broker's disk.
    var isDamaged = false
}

private struct SimulatedPartition {
    /// Ascending; what is missing between two offsets never was a record.
    var records: [SimulatedRecord] = []
    var low: Int64 = 0
    var high: Int64 = 0
    /// Compaction and transactions leave holes here; a client that jumps is then not to be told from one.
    var hasHoles = false
}

/// A store by the contract of `RollupWriter`, in a few lines: what the batches of the product do to it is evidence.
private struct SimulatedStore {
    struct Row {
        var next: Int64 = 0
        var epoch: Int64 = 0
        var applied: Int64 = 0
        var duplicates: Int64 = 0
        var deadLetters: Int64 = 0
        var skipped: Int64 = 0
        var lost: Int64 = 0
    }
    var rows: [Int32: Row] = [:]
    var ids: Set<EventID> = []
    /// How often each offset was applied as an event or a dead letter.
    var taken: [Int32: [Int64: Int]] = [:]
    var requests: [Grain: Int64] = [:]
    var tokens: [Grain: Int64] = [:]

    mutating func acquire(_ partition: Int32) -> (next: Int64, epoch: Int64) {
        rows[partition, default: Row()].epoch += 1
        let row = rows[partition] ?? Row()
        return (row.next, row.epoch)
    }

    /// False: stale, and nothing happened.
    mutating func apply(_ batch: SealedBatch) -> Bool {
        for range in batch.ranges {
            guard let row = rows[range.partition.partition], row.next == range.first.value, row.epoch == range.epoch
            else { return false }
        }
        var delta = batch.delta
        for event in batch.events {
            let partition = batch.ranges[Int(event.range)].partition.partition
            taken[partition, default: [:]][event.offset.value, default: 0] += 1
            if ids.insert(event.fields.id).inserted {
                rows[partition]?.applied += 1
            } else {
                rows[partition]?.duplicates += 1
                delta.subtract(fields: event.fields, series: event.series)
            }
        }
        for letter in batch.deadLetters {
            taken[letter.source.partition, default: [:]][letter.offset.value, default: 0] += 1
        }
        for range in batch.ranges {
            rows[range.partition.partition]?.next = range.next.value
            rows[range.partition.partition]?.deadLetters += range.deadLetters
            rows[range.partition.partition]?.skipped += range.skipped
            rows[range.partition.partition]?.lost += range.lost
        }
        for row in delta.rows {
            requests[row.grain, default: 0] += row.measures.requests
            tokens[row.grain, default: 0] += row.measures.inputTokens
        }
        return true
    }
}

/// One consumer: the product's cursor, builder and sealer, and between them what its threads hand on.
private struct SimulatedConsumer {
    enum Work {
        case acquire(Int32)
        case apply(SealedBatch)
    }

    var cursors: [Int32: PartitionCursor] = [:]
    /// Where the client goes on to fetch.
    var places: [Int32: Int64] = [:]
    var builder: BatchBuilder
    var sealer = BatchSealer(
        BatchSealer.Limits(events: 7, bytes: 1 << 20, maxWait: .milliseconds(200), linger: .milliseconds(25)))
    var work: [Work] = []
    /// The first batch of `work` is in the store, and the answer was lost.
    var isInDoubt = false
    var isCaughtUp = false
}

private struct History {
    static let topic = "simulated"
    static let now = EventTime(microseconds: 1_760_000_000_000_000)
    static let normalizer = Normalizer(rules: .builtIn)

    var chance: SeededGenerator
    var partitions: [Int32: SimulatedPartition] = [:]
    var store = SimulatedStore()
    var consumers: [Int: SimulatedConsumer] = [:]
    /// Whose each partition is, as the group has it.
    var owners: [Int32: Int] = [:]
    var born = 0
    var clock = ContinuousClock.now
    var isFaulty = true
    var stale = 0

    init(seed: UInt64) {
        chance = SeededGenerator(seed: seed)
        for number in 0..<Int32(1 + chance.below(3)) {
            partitions[number] = SimulatedPartition(hasHoles: chance.once(in: 3))
        }
    }

    private static func name(_ partition: Int32) -> TopicPartition {
        TopicPartition(topic: topic, partition: partition)
    }

    // MARK: What happens

    mutating func run(steps: Int) throws {
        for _ in 0..<2 { join() }
        for _ in 0..<steps { step() }
        // The faults heal, and one more consumer comes and gets all. What is broken at a log's end is not missed before
        // something comes after it.
        isFaulty = false
        for number in partitions.keys.sorted() { append(event(), to: number) }
        consumers = [:]
        join()
        for number in partitions.keys.sorted() { give(number, to: born - 1) }
        for _ in 0..<5_000 where !isDone { advance(born - 1) }
        guard isDone else { throw ChildError("I6: lag is left: \(store.rows)") }
        try judge()
    }

    private var isDone: Bool { partitions.allSatisfy { store.rows[$0.key]?.next ?? 0 >= $0.value.high } }

    private mutating func step() {
        clock = clock.advanced(by: .milliseconds(chance.below(60)))
        let alive = consumers.keys.sorted()
        switch chance.below(20) {
        case 0..<5: produce()
        case 5:
            let number = Int32(chance.below(partitions.count))
            give(number, to: alive.randomElement(using: &chance) ?? 0)
        case 6 where alive.count > 1:
            if let dead = alive.randomElement(using: &chance) { consumers[dead] = nil }
        case 7 where alive.count < 3: join()
        case 8 where chance.once(in: 6):
            let number = Int32(chance.below(partitions.count))
            guard let found = partitions[number], found.high > found.low else { return }
            partitions[number]?.low += 1 + Int64(chance.below(min(8, Int(found.high - found.low))))
        default:
            if let one = alive.randomElement(using: &chance) { advance(one) }
        }
    }

    private mutating func join() {
        consumers[born] = SimulatedConsumer(builder: BatchBuilder(normalizer: Self.normalizer))
        born += 1
    }

    /// The one before hears of it, or does not and goes on as if nothing were.
    private mutating func give(_ number: Int32, to heir: Int) {
        let previous = owners[number]
        owners[number] = heir
        if let previous, previous != heir, chance.once(in: 3) {
            seal(previous)
            consumers[previous]?.builder.stopped(Self.name(number))
            consumers[previous]?.cursors[number] = nil
        }
        seal(heir)
        consumers[heir]?.builder.stopped(Self.name(number))
        consumers[heir]?.cursors[number] = nil
        consumers[heir]?.work.append(.acquire(number))
    }

    private mutating func event() -> SimulatedRecord {
        let time = EventTime(microseconds: Self.now.microseconds - Int64(chance.below(90_000)) * 1_000_000)
        var event = RequestEvent(id: EventID(time: time, random: (chance.next(), chance.next())), time: time)
        event.workspace = "default"
        event.status = 200
        event.inputTokens = UInt64(chance.below(100))
        var value: [UInt8] = []
        EventEncoder.encode(event, into: &value)
        return SimulatedRecord(
            content: .event(event.id, tokens: Int64(event.inputTokens)), key: event.id.bytes, value: value)
    }

    private mutating func append(_ given: SimulatedRecord, to number: Int32) {
        var record = given
        record.offset = partitions[number]?.high ?? 0
        partitions[number]?.records.append(record)
        partitions[number]?.high += 1
    }

    private mutating func produce() {
        let number = Int32(chance.below(partitions.count))
        for _ in 0..<(1 + chance.below(6)) {
            if partitions[number]?.hasHoles == true, chance.once(in: 4) {
                partitions[number]?.high += 1 + Int64(chance.below(3))
            }
            var record: SimulatedRecord
            switch chance.below(12) {
            case 0: record = SimulatedRecord(content: .poison, key: [1], value: [0xFF, 0xFF])
            case 1: record = SimulatedRecord(content: .tombstone, key: [2], value: [])
            case 2, 3:
                // A copy of any record, from here or another partition.
                let other = Int32(chance.below(partitions.count))
                record = partitions[other]?.records.randomElement(using: &chance) ?? event()
            default: record = event()
            }
            record.isDamaged = chance.once(in: 40)
            append(record, to: number)
        }
    }

    // MARK: The consumer

    private mutating func advance(_ one: Int) {
        guard consumers[one] != nil else { return }
        switch chance.below(3) {
        case 0: fetch(one)
        case 1: settle(one)
        default: apply(one)
        }
    }

    private mutating func seal(_ one: Int) {
        guard var consumer = consumers[one] else { return }
        if let batch = consumer.builder.seal() { consumer.work.append(.apply(batch)) }
        consumer.sealer.sealed()
        consumers[one] = consumer
    }

    private mutating func settle(_ one: Int) {
        guard let consumer = consumers[one] else { return }
        if !isFaulty { clock = clock.advanced(by: .milliseconds(50)) }
        let decision = consumer.sealer.decide(
            at: clock, isIdle: consumer.work.isEmpty, isCaughtUp: consumer.isCaughtUp)
        if decision == .seal { seal(one) }
    }

    /// What the log answers to one fetch of one partition, and what the cursor says to each record of it.
    private mutating func fetch(_ one: Int) {
        guard var consumer = consumers[one], consumer.work.count < 4,
            let number = consumer.cursors.keys.sorted().randomElement(using: &chance),
            var cursor = consumer.cursors[number], let partition = partitions[number],
            var place = consumer.places[number]
        else { return }
        defer {
            consumer.cursors[number] = cursor
            consumer.places[number] = place
            consumers[one] = consumer
        }
        if place < partition.low {
            guard cursor.fetchFailed("out of range") || cursor.phase != .reading else { return }
            if case .lost(let from, let to) = cursor.watermarksArrived(low: partition.low, high: partition.high) {
                lost(number, from, to, &consumer)
            }
            place = cursor.next
            return
        }
        if isFaulty, chance.once(in: 10) { place = max(partition.low, place - Int64(chance.below(4))) }
        if isFaulty, !partition.hasHoles, chance.once(in: 10) { place += Int64(chance.below(3)) }
        let found = partition.records.filter { $0.offset >= place }.prefix(1 + chance.below(5))
        consumer.isCaughtUp = found.isEmpty
        for record in found {
            place = record.offset + 1
            if record.isDamaged {
                cursor.batchBroken()
                continue
            }
            var verdict = cursor.received(record.offset, low: partition.low)
            if case .lost(let from, let to) = verdict {
                lost(number, from, to, &consumer)
                verdict = cursor.received(record.offset, low: partition.low)
            }
            switch verdict {
            case .take: take(record, number, &consumer)
            case .skip: break
            case .lost(let from, let to): lost(number, from, to, &consumer)
            case .reread:
                // The client is set back; this time it reads as it should, as far as the disk lets it.
                place = cursor.next
                reread(number, partition, &cursor, &place, &consumer)
                return
            }
        }
    }

    private mutating func reread(
        _ number: Int32, _ partition: SimulatedPartition, _ cursor: inout PartitionCursor, _ place: inout Int64,
        _ consumer: inout SimulatedConsumer
    ) {
        for record in partition.records where record.offset >= place && record.offset >= partition.low {
            place = record.offset + 1
            if record.isDamaged {
                cursor.batchBroken()
                continue
            }
            while true {
                switch cursor.received(record.offset, low: partition.low) {
                case .take: take(record, number, &consumer)
                case .skip: break
                case .lost(let from, let to):
                    lost(number, from, to, &consumer)
                    continue
                case .reread:
                    place = cursor.next
                    return
                }
                break
            }
            return
        }
    }

    private mutating func take(_ record: SimulatedRecord, _ number: Int32, _ consumer: inout SimulatedConsumer) {
        var isTombstone = false
        if case .tombstone = record.content { isTombstone = true }
        let slot = RecordSlot(
            partition: 0, offset: Offset(record.offset), kind: .event, keyStart: 0, keyCount: Int32(record.key.count),
            valueStart: Int32(record.key.count), valueCount: isTombstone ? -1 : Int32(record.value.count))
        let chunk = RecordChunk(partitions: [Self.name(number)], records: [slot], bytes: record.key + record.value)
        let taken = consumer.builder.add(chunk, from: 0, now: Self.now, maxEvents: 1_000, maxBytes: 1 << 30)
        consumer.sealer.added(events: taken.events, bytes: taken.bytes, at: clock)
        sealWhereFull(&consumer)
    }

    private func lost(_ number: Int32, _ from: Int64, _ to: Int64, _ consumer: inout SimulatedConsumer) {
        let count = consumer.builder.lost(Self.name(number), from: Offset(from), to: Offset(to))
        if count > 0 { consumer.sealer.added(events: 0, bytes: 0, at: clock) }
    }

    private func sealWhereFull(_ consumer: inout SimulatedConsumer) {
        guard consumer.sealer.isFull else { return }
        if let batch = consumer.builder.seal() { consumer.work.append(.apply(batch)) }
        consumer.sealer.sealed()
    }

    private mutating func apply(_ one: Int) {
        guard var consumer = consumers[one], let first = consumer.work.first else { return }
        // Away: it is tried again.
        if isFaulty, chance.once(in: 6) { return }
        switch first {
        case .acquire(let number):
            consumer.work.removeFirst()
            let position = store.acquire(number)
            // The answer may be lost; then the partition is asked for once more.
            if isFaulty, chance.once(in: 10) {
                consumer.work.insert(.acquire(number), at: 0)
            } else if owners[number] == one {
                var cursor = PartitionCursor()
                cursor.started(at: position.next)
                consumer.cursors[number] = cursor
                consumer.places[number] = position.next
                consumer.builder.started([
                    PartitionPosition(
                        partition: Self.name(number), next: Offset(position.next), epoch: position.epoch)
                ])
            }
        case .apply(let batch):
            if consumer.isInDoubt {
                // It finds what it did itself.
                consumer.isInDoubt = false
                consumer.work.removeFirst()
            } else if !store.apply(batch) {
                stale += 1
                restart(one, &consumer)
            } else if isFaulty, chance.once(in: 8) {
                if chance.once(in: 2) {
                    consumers[one] = nil
                    return
                }
                consumer.isInDoubt = true
            } else {
                consumer.work.removeFirst()
            }
        }
        consumers[one] = consumer
    }

    /// All that was read is forgotten; what the group still gives it is taken from the store anew.
    private mutating func restart(_ one: Int, _ consumer: inout SimulatedConsumer) {
        consumer.builder.abandon()
        consumer.sealer.sealed()
        consumer.cursors = [:]
        consumer.work = owners.filter { $0.value == one }.keys.sorted().map { .acquire($0) }
    }

    // MARK: Judgement

    private func judge() throws {
        func check(_ holds: Bool, _ detail: @autoclosure () -> String) throws {
            if !holds { throw ChildError(detail()) }
        }
        var expected: [EventID: Int64] = [:]
        for (number, partition) in partitions {
            let row = store.rows[number] ?? SimulatedStore.Row()
            let taken = store.taken[number] ?? [:]
            try check(row.next == partition.high, "I2: \(number) ends at \(row.next) of \(partition.high)")
            let accounted = row.applied + row.duplicates + row.deadLetters + row.skipped + row.lost
            try check(row.next == accounted, "I2: \(number): \(row)")
            try check(taken.values.allSatisfy { $0 == 1 }, "I1: \(number): an offset was applied twice")
            var neither: Int64 = partition.high
            for record in partition.records {
                let isTaken = taken[record.offset] != nil
                if isTaken { neither -= 1 }
                switch record.content {
                case .tombstone: try check(!isTaken, "I2: the tombstone \(number)/\(record.offset) was applied")
                case .poison, .event:
                    try check(
                        isTaken || record.isDamaged || record.offset < partition.low,
                        "I1: \(number)/\(record.offset) is neither applied nor gone")
                }
                if isTaken, case .event(let id, let tokens) = record.content { expected[id] = tokens }
            }
            try check(neither == row.skipped + row.lost, "I2: \(number): \(neither) offsets held nothing; \(row)")
            let gone = partition.records.count { $0.isDamaged } + Int(partition.low)
            try check(gone > 0 || row.lost == 0, "I7: \(number): \(row.lost) lost, and nothing was")
        }
        try check(store.ids == Set(expected.keys), "I1: \(store.ids.count) ids, \(expected.count) applied")
        let tokens = expected.values.reduce(0, +)
        for grain in Grain.plain {
            try check(
                store.requests[grain] ?? 0 == Int64(expected.count) && store.tokens[grain] ?? 0 == tokens,
                "I3: \(grain): \(store.requests[grain] ?? 0) requests of \(expected.count)")
        }
    }
}

extension FaultSuite {
    @Suite struct SimulatedFaultTests {
        /// `MILLRACE_TEST_SEED`: that history alone.
        @Test("T30: histories of every kind of fault, from seeds: each event once, each offset accounted for")
        func histories() throws {
            let first = Place.variable("MILLRACE_TEST_SEED").flatMap { UInt64($0) }
            let count = first == nil ? Place.rounds(15) * 200 : 1
            var stale = 0
            var lost: Int64 = 0
            for number in 0..<UInt64(count) {
                let seed = first ?? number
                var history = History(seed: seed)
                do {
                    try history.run(steps: 120)
                } catch { Issue.record("seed \(seed): \(error)") }
                stale += history.stale
                lost += history.store.rows.values.reduce(0) { $0 + $1.lost }
            }
            print("\(count) histories: \(stale) stale batches, \(lost) offsets lost")
            #expect(count < 1_000 || (stale > 100 && lost > 1_000))
        }
    }
}
