// Producers that end for good, between a journal and the consumer: what was recorded counts once.

import CRDKafka
import EventCodec
import Events
import Glibc
import Journal
import RecordLog
import RecordLogKafka
import Shipping
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
        }
    }
}
