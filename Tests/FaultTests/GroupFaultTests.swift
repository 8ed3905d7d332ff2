// Consumers that share a topic as members of one group, fighting over partitions. A SQLite store keeps all but one
// writer process out by a lock file; here several write it from one process, so that what the epochs alone promise is
// tested, as it holds for the stores that take many writers.

import Events
import Glibc
import Ingest
import JSONText
import Normalizer
import RecordLog
import RecordLogKafka
import RollupStore
import RollupStoreSQLite
import Rollups
import Synchronization
import Telemetry
import Testing
import Threading

/// What a test does to a member's store.
private final class Gate: Sendable {
    enum State { case open, shut, unavailable }
    private let lock = ConditionLock()
    private let state = Mutex(State.open)
    private let waiting = Atomic<Int>(0)
    let delayMilliseconds = Atomic<Int>(0)

    func set(_ new: State) {
        lock.withLock {
            state.withLock { $0 = new }
            lock.wakeAll()
        }
    }

    /// Somebody stands before the shut gate.
    var isHolding: Bool { waiting.load(ordering: .acquiring) > 0 }

    func pass() throws(RollupStoreError) {
        waiting.add(1, ordering: .acquiringAndReleasing)
        defer { waiting.subtract(1, ordering: .acquiringAndReleasing) }
        lock.withLock { while state.withLock({ $0 == .shut }) { lock.wait() } }
        if state.withLock({ $0 == .unavailable }) {
            throw RollupStoreError(code: .unavailable, tried: "write", reason: "the test says so", next: "Wait.")
        }
        usleep(useconds_t(delayMilliseconds.load(ordering: .relaxed) * 1_000))
    }
}

private struct GatedWriter: RollupWriter {
    var inner: SQLiteRollupWriter
    let gate: Gate

    mutating func acquire(_ partitions: [TopicPartition]) throws(RollupStoreError) -> [PartitionPosition] {
        try gate.pass()
        return try inner.acquire(partitions)
    }

    mutating func rules(_ change: RulesChange?) throws(RollupStoreError) -> RulesTimeline { try inner.rules(change) }

    mutating func hour(_ bucket: Int32, of grain: Grain, maxRows: Int) throws(RollupStoreError) -> [HourRow]? {
        try inner.hour(bucket, of: grain, maxRows: maxRows)
    }

    mutating func apply(_ batch: SealedBatch) throws(RollupStoreError) -> ApplyResult {
        try gate.pass()
        return try inner.apply(batch)
    }

    mutating func expire(_ boundaries: RetentionBoundaries, maxRows: Int) throws(RollupStoreError) -> Bool {
        try gate.pass()
        return try inner.expire(boundaries, maxRows: maxRows)
    }

    mutating func close() { inner.close() }
}

/// Hands out some chunks a second time, later, as a client does that has lost its place.
private struct RepeatingReader: RecordLogReader {
    var inner: KafkaLogReader
    private var kept: [RecordChunk] = []
    private var turn = 0

    init(_ inner: KafkaLogReader) { self.inner = inner }

    mutating func poll(
        maxRecords: Int, maxBytes: Int, timeoutMilliseconds: Int32
    ) throws(RecordLogError) -> LogEvent {
        turn += 1
        if turn.isMultiple(of: 3), !kept.isEmpty { return .records(kept.removeFirst()) }
        let event = try inner.poll(
            maxRecords: min(maxRecords, 300), maxBytes: maxBytes, timeoutMilliseconds: timeoutMilliseconds)
        if case .records(let chunk) = event { kept.append(chunk) }
        return event
    }

    mutating func start(_ positions: [(partition: TopicPartition, next: Offset)]) throws(RecordLogError) {
        try inner.start(positions)
    }
    mutating func restart() { inner.restart() }
    mutating func applied(_ partition: TopicPartition, next: Offset) { inner.applied(partition, next: next) }
    var lag: [(partition: TopicPartition, records: Int64)] { inner.lag }
    mutating func close() { inner.close() }
}

final class Member {
    let consumer: Consumer
    let metrics = ConsumerMetrics(deadLetterCodes: DeadLetter.Code.allCases.map(\.rawValue))
    let kafka = KafkaMetrics()
    fileprivate let gate = Gate()
    private let lines = Mutex<[String]>([])

    init(
        _ installation: Installation, membership: KafkaLogReader.Membership = .group,
        properties: [String: String] = [:],
        repeating: Bool = false
    ) throws {
        var settings = ["session.timeout.ms": "6000", "heartbeat.interval.ms": "500"]
        settings.merge(properties) { $1 }
        let options = KafkaOptions(
            bootstrapServers: installation.broker.servers, topic: installation.topic,
            group: "\(installation.topic)-group", properties: settings)
        let path = installation.store.path
        let store = try SQLiteRollupStore.open(path: path)
        unlink(path + ".writer-lock")
        let writer = GatedWriter(inner: try store.makeWriter(), gate: gate)
        let log = Log(role: "test", descriptor: -1)
        let reader = try KafkaLogReader(
            options, membership: membership, createsTopic: false, log: log, metrics: kafka)
        var batches = Consumer.Options()
        batches.maxEvents = 500
        batches.maxWaitMilliseconds = 50
        let normalizer = Normalizer(rules: .builtIn)
        if repeating {
            consumer = Consumer(
                reader: RepeatingReader(reader), writer: writer, normalizer: normalizer, options: batches, log: log,
                metrics: metrics)
        } else {
            consumer = Consumer(
                reader: reader, writer: writer, normalizer: normalizer, options: batches, log: log, metrics: metrics)
        }
        consumer.start()
    }

    deinit { stop() }

    func stop() {
        gate.set(.open)
        consumer.stop()
    }

    var partitions: Int { metrics.lag.values.count }
}

extension FaultSuite {
    @Suite(.serialized) struct GroupFaultTests {
        @Test(
            "T3: a member's batch comes after another took its partitions: refused whole, read again, counted once",
            arguments: ["range", "cooperative-sticky"])
        func aZombiesBatch(_ assignor: String) throws {
            let installation = try Installation(try Broker.shared.get(), "t3g", partitions: 6)
            let properties = ["partition.assignment.strategy": assignor]
            try installation.load(6_000)
            let zombie = try Member(installation, properties: properties)
            try waitUntil("it has applied some", seconds: 40) { zombie.metrics.applied.value > 500 }
            zombie.gate.set(.shut)
            try installation.load(6_000)
            try waitUntil("it holds a batch", seconds: 20) { zombie.gate.isHolding }
            let heir = try Member(installation, properties: properties)
            try waitUntil("the heir has applied", seconds: 40, detail: { "\(heir.consumer.degraded ?? "")" }) {
                heir.metrics.applied.value > 0 && heir.partitions == 3
            }
            zombie.gate.set(.open)
            try expectInvariants(installation.broker, installation.topic, installation.store, installation.expectation)
            #expect(zombie.metrics.staleBatches.value >= 1)
            #expect(zombie.consumer.failure == nil)
            // Both go on with their own halves.
            try installation.load(2_000)
            try expectInvariants(installation.broker, installation.topic, installation.store, installation.expectation)
            try waitUntil("both have three partitions", seconds: 20) { zombie.partitions == 3 && heir.partitions == 3 }
            #expect(heir.consumer.failure == nil)
            zombie.stop()
            heir.stop()
        }

        @Test(
            "T4: members come and go under load, in good order and not", arguments: ["range", "cooperative-sticky"])
        func rebalanceStorm(_ assignor: String) throws {
            let installation = try Installation(try Broker.shared.get(), "t4", partitions: 6)
            let properties = ["partition.assignment.strategy": assignor]
            try installation.load(100)
            let rounds = Place.rounds(8)
            let load = try installation.loading(1_500 * rounds, rate: 1_000)
            var members = try (0..<2).map { _ in try Member(installation, properties: properties) }
            var stale: UInt64 = 0
            for round in 0..<rounds {
                let before = try installation.next()
                try waitUntil("round \(round) goes on", seconds: 40) { try installation.next() > before + 200 }
                if members.count < 3 {
                    members.append(try Member(installation, properties: properties))
                } else {
                    let leaver = members.remove(at: Int.random(in: 0..<members.count))
                    leaver.stop()
                    stale += leaver.metrics.staleBatches.value
                    #expect(leaver.consumer.failure == nil)
                }
            }
            #expect(try load.wait(seconds: 120) == 0)
            try expectInvariants(installation.broker, installation.topic, installation.store, installation.expectation)
            for member in members {
                #expect(member.consumer.failure == nil)
                stale += member.metrics.staleBatches.value
                member.stop()
            }
            print("\(assignor): \(stale) batches were refused as stale")
        }

        @Test("T6: records come again that were taken before") func repeatedRecords() throws {
            let installation = try Installation(try Broker.shared.get(), "t6")
            try installation.load(8_000)
            let member = try Member(installation, membership: .alone, repeating: true)
            try expectInvariants(installation.broker, installation.topic, installation.store, installation.expectation)
            #expect(member.metrics.redelivered.value > 1_000)
            #expect(member.metrics.duplicates.value == 0)
            member.stop()
        }

        @Test("T15: the store is away for longer than max.poll.interval: the member keeps its place and catches up")
        func storeAwayInAGroup() throws {
            let installation = try Installation(try Broker.shared.get(), "t15g", partitions: 6)
            let properties = ["max.poll.interval.ms": "6000"]
            try installation.load(2_000)
            let member = try Member(installation, properties: properties)
            try waitUntil("it has applied", seconds: 40) { member.metrics.applied.value == 2_000 }
            let rebalances = member.kafka.rebalances.value
            member.gate.set(.unavailable)
            // More than the line holds, so that the fetch thread has to wait.
            try installation.load(60_000)
            try waitUntil("it says so", seconds: 20) { member.consumer.degraded?.contains("the test says so") == true }
            usleep(15_000_000)
            member.gate.set(.open)
            try expectInvariants(installation.broker, installation.topic, installation.store, installation.expectation)
            #expect(member.kafka.rebalances.value == rebalances)
            #expect(member.kafka.assignmentsLost.value == 0)
            #expect(member.consumer.degraded == nil)
            #expect(member.metrics.staleBatches.value == 0)
            member.stop()
        }

        @Test("T26: a slow store: what is held stays bounded, and the group is not disturbed") func slowStore() throws {
            let installation = try Installation(try Broker.shared.get(), "t26", partitions: 6)
            try installation.load(60_000)
            let member = try Member(installation, properties: ["max.poll.interval.ms": "6000"])
            member.gate.delayMilliseconds.store(100, ordering: .relaxed)
            var most: Int64 = 0
            let until = ContinuousClock.now.advanced(by: .seconds(8))
            while ContinuousClock.now < until {
                most = max(most, Int64(member.metrics.records.value) - Int64(member.metrics.applied.value))
                usleep(5_000)
            }
            // Four chunks in the line, one in each of two hands, and a batch in each of four.
            #expect(most > 0)
            #expect(most <= 6 * 4_096 + 4 * 500, "\(most) records were held")
            member.gate.delayMilliseconds.store(0, ordering: .relaxed)
            try expectInvariants(installation.broker, installation.topic, installation.store, installation.expectation)
            #expect(member.kafka.assignmentsLost.value == 0)
            member.stop()
        }
    }
}

extension Installation {
    fileprivate var expectation: Expectation {
        var expected = Expectation()
        expected.acknowledged = acknowledged
        expected.reconciliation = reconciliation
        return expected
    }
}
