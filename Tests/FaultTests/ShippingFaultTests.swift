// Between a journal and the log: producers that end for good, damage in the journal, lanes that nobody writes any more.

import CRDKafka
import EventCodec
import Events
import Glibc
import Journal
import RecordLog
import RecordLogKafka
import Shipping
import Synchronization
import Telemetry
import Testing
import Threading

/// librdkafka's own brokers, which answer with any error.
private final class MockCluster {
    private let client: OpaquePointer
    private let cluster: OpaquePointer

    init(topic: String, partitions: Int32) throws {
        client = try #require(rd_kafka_new(RD_KAFKA_PRODUCER, rd_kafka_conf_new(), nil, 0))
        cluster = try #require(rd_kafka_mock_cluster_new(client, 1))
        rd_kafka_mock_topic_create(cluster, topic, partitions, 1)
    }

    deinit {
        rd_kafka_mock_cluster_destroy(cluster)
        rd_kafka_destroy(client)
    }

    var servers: String { String(cString: rd_kafka_mock_cluster_bootstraps(cluster)) }

    /// The next produce request is answered with it.
    func failProduce(_ error: rd_kafka_resp_err_t) {
        var errors = [error]
        rd_kafka_mock_push_request_errors_array(cluster, 0, errors.count, &errors)
    }
}

extension FaultSuite {
    @Suite(.serialized) struct ShippingFaultTests {
        @Test("T8: the sequence of an idempotent producer breaks, again and again: what the journal has counts once")
        func sequenceBreaks() throws {
            let topic = "t8"
            let mock = try MockCluster(topic: topic, partitions: 3)
            let broker = Broker(servers: mock.servers)
            let installation = try Installation(broker, topic, topic: topic)
            let options = KafkaOptions(bootstrapServers: mock.servers, topic: topic, partitions: 3)
            let log = Log(role: "test", descriptor: -1)
            let directory = "\(installation.work.path)/journal"
            let (metrics, journalMetrics) = (ShippingMetrics(), JournalMetrics())
            let journal = try Journal(
                directory: directory, options: JournalOptions(fsync: .never, segmentSize: 1 << 20), log: log,
                metrics: journalMetrics)
            journal.start()
            defer { journal.stop() }
            let lane = try journal.openLane()
            let shipper = Shipper(
                journalDirectory: directory, log: log, metrics: metrics, journalMetrics: journalMetrics
            ) {
                () throws(RecordLogError) in try KafkaProducer(options, log: log, metrics: KafkaMetrics())
            }
            try shipper.start()
            let member = try Member(installation, membership: .alone)
            defer { member.stop() }
            var random = SystemRandomNumberGenerator()
            let rounds = Place.rounds(6)
            for round in 0..<rounds {
                mock.failProduce(RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER)
                for _ in 0..<300 {
                    let now = EventTime(microseconds: Int64(time(nil)) * 1_000_000)
                    var event = RequestEvent(
                        id: EventID(time: now, random: (random.next(), random.next())), time: now)
                    event.workspace = "default"
                    event.status = 200
                    event.latencyMicroseconds = 1_000
                    installation.recorded(event.id)
                    var value: [UInt8] = []
                    EventEncoder.encode(event, into: &value)
                    let appended = event.id.bytes.withUnsafeBytes { key in
                        value.withUnsafeBytes { lane.append(kind: .event, key: key, value: $0, time: event.time) }
                    }
                    #expect(appended != .dropped)
                }
                try waitUntil("the producer of round \(round) is given up", seconds: 30) {
                    metrics.producerRestarts.value >= UInt64(round + 1)
                }
            }
            shipper.stop(flushMilliseconds: 30_000)
            #expect(metrics.resent.value > 0)
            var expected = Expectation()
            expected.acknowledged = installation.acknowledged
            try expectInvariants(broker, topic, installation.store, expected)
            #expect(member.metrics.applied.value == UInt64(rounds * 300))
            // Though nothing comes any more.
            try waitUntil("the lag is seen to be gone", seconds: 10) {
                member.partitions == 3 && member.metrics.lag.values.allSatisfy { $0.value == 0 }
            }
        }

        private final class Lines: Sendable {
            let codes = Mutex<[String]>([])
        }

        /// A journal and a topic, with no consumer behind.
        private final class Shipped {
            let mock: MockCluster
            let topic: String
            let work: WorkDirectory
            let lines = Lines()
            let journalMetrics = JournalMetrics()
            let options = JournalOptions(fsync: .never, segmentSize: 1 << 20)
            private var random = SystemRandomNumberGenerator()

            init(_ topic: String) throws {
                self.topic = topic
                mock = try MockCluster(topic: topic, partitions: 1)
                work = try WorkDirectory("faults-\(topic)")
            }

            var directory: String { "\(work.path)/journal" }
            var log: Log {
                let lines = lines
                return Log(role: "test", descriptor: -1) { line in lines.codes.withLock { $0.append(line.code) } }
            }

            func journal() throws -> Journal {
                try Journal(directory: directory, options: options, log: log, metrics: journalMetrics)
            }

            func shipper(_ metrics: ShippingMetrics, takesOver: Bool = false) throws -> Shipper {
                let kafka = KafkaOptions(bootstrapServers: mock.servers, topic: topic, partitions: 1)
                let log = log
                let shipper = Shipper(
                    journalDirectory: directory, log: log, metrics: metrics, journalMetrics: journalMetrics
                ) { () throws(RecordLogError) in try KafkaProducer(kafka, log: log, metrics: KafkaMetrics()) }
                try shipper.start(takesOver: takesOver)
                return shipper
            }

            /// The new event's id.
            func append(to lane: JournalLane) -> [UInt8] {
                let now = EventTime(microseconds: Int64(time(nil)) * 1_000_000)
                var event = RequestEvent(id: EventID(time: now, random: (random.next(), random.next())), time: now)
                event.workspace = "default"
                var value: [UInt8] = []
                EventEncoder.encode(event, into: &value)
                let appended = event.id.bytes.withUnsafeBytes { key in
                    value.withUnsafeBytes { lane.append(kind: .event, key: key, value: $0, time: event.time) }
                }
                #expect(appended != .dropped && appended != .waiting)
                return event.id.bytes
            }

            /// Keys in the topic that are events' ids, with copies.
            func keys() throws -> [[UInt8]] {
                try LogEvidence(Broker(servers: mock.servers), topic).records.map(\.key).filter { $0.count == 16 }
            }
        }

        @Test("A shipper that is to take over waits for the one that ships both lanes, and goes on behind it")
        func takesOver() throws {
            let shipped = try Shipped("takeover")
            let (old, new) = (try shipped.journal(), try shipped.journal())
            for journal in [old, new] { journal.start() }
            let lanes = (try old.openLane(), try new.openLane())
            let first = ShippingMetrics()
            let before = try shipped.shipper(first)
            let refusal = #expect(throws: JournalError.self) { _ = try shipped.shipper(ShippingMetrics()) }
            #expect(refusal?.code == .shipperInUse)
            let second = ShippingMetrics()
            let after = try shipped.shipper(second, takesOver: true)
            #expect(shipped.lines.codes.withLock { $0.contains("shipping_waits") })
            var sent: [[UInt8]] = []
            for _ in 0..<200 { sent += [shipped.append(to: lanes.0), shipped.append(to: lanes.1)] }
            try waitUntil("the first ships both lanes", seconds: 30) { first.shipped.value == 400 }
            #expect(second.shipped.value == 0)
            old.stop()
            before.stop(flushMilliseconds: 10_000)
            for _ in 0..<200 { sent.append(shipped.append(to: lanes.1)) }
            try waitUntil("the second goes on", seconds: 30) { second.shipped.value == 200 }
            // One that is stopped while it waits has nothing to do.
            let third = try shipped.shipper(ShippingMetrics(), takesOver: true)
            third.stop(flushMilliseconds: 10_000)
            after.stop(flushMilliseconds: 10_000)
            new.stop()
            #expect(
                try shipped.keys().sorted { $0.lexicographicallyPrecedes($1) }
                    == sent.sorted { $0.lexicographicallyPrecedes($1) })
        }

        @Test("A frame damaged in mid-segment goes to refused.log, and the checkpoint goes on behind it")
        func putsDamageAside() throws {
            let shipped = try Shipped("damaged")
            let journal = try shipped.journal()
            let lane = try journal.openLane()
            var ids: [[UInt8]] = []
            for _ in 0..<10 { ids.append(shipped.append(to: lane)) }
            journal.stop()
            let end = lane.nextSequence

            // The fourth frame: lengths stand at each one's start, padded to eight bytes (SegmentFormat.swift).
            let path = "\(lane.directory.path)/00000000.segment"
            var bytes = readBytes(path)
            func length(at place: Int) -> Int { (0..<4).reduce(0) { $0 | Int(bytes[place + $1]) << (8 * $1) } }
            var place = 4_096
            for _ in 0..<3 { place += (length(at: place) + 7) & ~7 }
            let size = length(at: place)
            bytes[place + size - 1] ^= 0x40
            let file = open(path, O_WRONLY)
            defer { close(file) }
            #expect(pwrite(file, bytes, bytes.count, 0) == bytes.count)

            let metrics = ShippingMetrics()
            let shipper = try shipped.shipper(metrics)
            try waitUntil("all but the damaged one is shipped", seconds: 60) {
                metrics.shipped.value + metrics.refused.value == UInt64(end)
            }
            shipper.stop(flushMilliseconds: 30_000)
            #expect(metrics.refused.value == 1 && shipped.journalMetrics.corruptRecords.value == 1)
            #expect(metrics.lost.value == 0)
            #expect(shipped.lines.codes.withLock { $0.count { $0 == "shipping_record_refused" } } == 1)
            ids.remove(at: 3)
            let keys = try shipped.keys()
            #expect(keys.count == 9 && Set(keys) == Set(ids))

            // A frame with the damaged one in it, as it was found.
            let refused = readBytes("\(shipped.directory)/refused.log")
            let found = Array(bytes[place..<place + size])
            #expect(refused.indices.contains { refused[$0...].starts(with: found) })
            #expect(refused.dropFirst(8).prefix(4).elementsEqual([3, 0, 0, 0]))

            // Behind it: a restart ships nothing again.
            let checkpoint = try LaneState(lane: lane.directory) { Issue.record("put aside: \($0)") }.checkpoint
            #expect(checkpoint == end)
            let again = ShippingMetrics()
            let second = try shipped.shipper(again)
            second.stop(flushMilliseconds: 30_000)
            #expect(again.shipped.value == 0 && again.refused.value == 0)
            #expect(readBytes("\(shipped.directory)/refused.log") == refused)
        }

        @Test("A record that the log refuses goes to refused.log, and those behind it are shipped")
        func putsTheRefusedAside() throws {
            let shipped = try Shipped("refused")
            let journal = try shipped.journal()
            defer { journal.stop() }
            let lane = try journal.openLane()
            let metrics = ShippingMetrics()
            let shipper = try shipped.shipper(metrics)
            shipped.mock.failProduce(RD_KAFKA_RESP_ERR_INVALID_RECORD)
            let refused = shipped.append(to: lane)
            try waitUntil("the record is refused", seconds: 60) { metrics.refused.value == 1 }
            let others = Set((0..<5).map { _ in shipped.append(to: lane) })
            try waitUntil("the others are shipped", seconds: 60) { metrics.shipped.value == 5 }
            shipper.stop(flushMilliseconds: 30_000)
            #expect(Set(try shipped.keys()) == others && metrics.refused.value == 1)
            let aside = readBytes("\(shipped.directory)/refused.log")
            #expect(aside.dropFirst(16).prefix(16).elementsEqual(refused))
            #expect(try LaneState(lane: lane.directory) { _ in }.checkpoint == 6)
        }

        @Test(
            "With one loop instead of four, what lies in the lanes of the others is shipped",
            arguments: [false, true])
        func shipsLanesWithoutAWriter(wasKilled: Bool) throws {
            let shipped = try Shipped("lanes")
            var ids: Set<[UInt8]> = []
            do {
                let before = try shipped.journal()
                for _ in 0..<4 {
                    let lane = try before.openLane()
                    for _ in 0..<100 { ids.insert(shipped.append(to: lane)) }
                }
                #expect(before.lanes.map(\.directory.number) == [0, 1, 2, 3])
                // Otherwise its locks go with it, and its lanes have no end.
                if !wasKilled { before.stop() }
            }
            let after = try shipped.journal()
            let lane = try after.openLane()
            #expect(lane.directory.number == 0)
            after.start()
            defer { after.stop() }
            let metrics = ShippingMetrics()
            let shipper = try shipped.shipper(metrics)
            for _ in 0..<10 { ids.insert(shipped.append(to: lane)) }
            try waitUntil("all of them are in the log", seconds: 60) { metrics.shipped.value >= 410 }
            shipper.stop(flushMilliseconds: 30_000)
            let keys = try shipped.keys()
            #expect(keys.count == 410 && Set(keys) == ids)
            #expect(metrics.refused.value == 0 && metrics.lost.value == 0)
            for number in Int32(1)..<4 {
                let directory = LaneDirectory(journal: shipped.directory, number: number)
                #expect(try LaneState(lane: directory) { _ in }.checkpoint ?? 0 >= 100)
            }
        }
    }
}
