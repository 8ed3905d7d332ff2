// Brokers that die, leaders that move, errors that end a producer: nothing acknowledged is missing afterwards.

import CRDKafka
import RecordLog
import RecordLogKafka
import Synchronization
import Telemetry
import Testing

final class LineRecorder: Sendable {
    private let seen = Mutex<[LogLine]>([])
    var lines: [LogLine] { seen.withLock { $0 } }
    var log: Log { Log(role: "test", descriptor: -1) { line in self.seen.withLock { $0.append(line) } } }
}

@Suite(.serialized, .enabled(if: isKafkaWanted), .timeLimit(.minutes(5)))
struct KafkaFaultTests {
    @Test(.enabled(if: isCrashingKafkaWanted)) func aBrokerKilledWhileProducingAndReadingLosesNothing() throws {
        let server = try KafkaServer()
        defer { #expect(throws: Never.self) { try server.remove() } }
        let options = try server.topic()
        let producer = try KafkaProducer(options, log: quiet, metrics: KafkaMetrics())
        defer { producer.close() }
        let reader = try KafkaLogReader(options, createsTopic: false, log: quiet, metrics: KafkaMetrics())
        defer { reader.close() }
        var reading = Reading()
        var wasKilled = false
        var sent = try producer.send(0..<60_000, deadline: 90, inFlight: 5_000) { sent in
            guard !wasKilled, sent.acknowledged.count > 10_000 else { return }
            wasKilled = true
            try reader.read(into: &reading) { $0.records.count > 5_000 }
            try server.kill()
            try reader.read(into: &reading, deadline: 30) { !$0.degraded.isEmpty }
            try server.restart()
        }
        #expect(wasKilled)
        while !sent.failed.isEmpty {
            let again = try producer.send(sent.failed.sorted(), deadline: 90)
            sent.acknowledged.formUnion(again.acknowledged)
            sent.failed = again.failed
        }
        #expect(sent.acknowledged.count == 60_000)
        try reader.read(into: &reading) { Set($0.records.compactMap(\.number)).count == 60_000 }
        #expect(reading.gaps.isEmpty && reading.truncated.isEmpty)
        for partition in Int32(0)..<3 {
            let offsets = reading.records.filter { $0.partition == partition }.map(\.offset)
            #expect(offsets == Array(0..<Int64(offsets.count)))
        }
    }

    @Test func aReaderWithoutABrokerSaysSoAndClosesInTime() throws {
        let options = KafkaOptions(bootstrapServers: "127.0.0.1:1", topic: "t", group: "g")
        let reader = try KafkaLogReader(options, createsTopic: true, log: quiet, metrics: KafkaMetrics())
        var reading = Reading()
        try reader.read(into: &reading) { $0.degraded.contains { $0.contains("no broker answers") } }
        reader.close()
        let producer = try KafkaProducer(options, log: quiet, metrics: KafkaMetrics())
        let sent = key(1).withUnsafeBytes { producer.send(tag: 1, kind: .event, key: $0, value: $0) }
        #expect(sent)
        let deadline = ContinuousClock.now.advanced(by: .seconds(20))
        while producer.degraded == nil, ContinuousClock.now < deadline {
            try producer.poll(timeoutMilliseconds: 50) { _, _ in }
        }
        #expect(producer.degraded != nil)
        producer.close()
        let error = #expect(throws: RecordLogError.self) {
            try KafkaAdmin.describe(options, timeoutMilliseconds: 500, log: quiet, metrics: KafkaMetrics())
        }
        #expect(error?.code == .unreachable)
    }

    @Test(.enabled(if: isCrashingKafkaWanted)) func oneOfThreeBrokersMayDie() throws {
        let server = try KafkaServer(nodes: 3)
        defer { #expect(throws: Never.self) { try server.remove() } }
        let options = try server.topic(partitions: 3, replicationFactor: 3)
        let producer = try KafkaProducer(options, log: quiet, metrics: KafkaMetrics())
        defer { producer.close() }
        let reader = try KafkaLogReader(options, createsTopic: false, log: quiet, metrics: KafkaMetrics())
        defer { reader.close() }
        var wasKilled = false
        var reading = Reading()
        let sent = try producer.send(0..<20_000, deadline: 120, inFlight: 3_000) { sent in
            guard !wasKilled, sent.acknowledged.count > 2_000 else { return }
            wasKilled = true
            try reader.read(into: &reading) { $0.records.count > 1_000 }
            try server.kill(node: 2)
        }
        #expect(wasKilled)
        #expect(sent.acknowledged.count == 20_000)
        try reader.read(into: &reading, deadline: 90) { Set($0.records.compactMap(\.number)).count == 20_000 }
        #expect(reading.gaps.isEmpty && reading.truncated.isEmpty)
    }
}

/// Against librdkafka's own mock brokers, which can answer with any error.
@Suite(.serialized, .timeLimit(.minutes(2)))
struct KafkaMockTests {
    private final class MockCluster {
        let client: OpaquePointer
        let cluster: OpaquePointer

        init() throws {
            guard let client = rd_kafka_new(RD_KAFKA_PRODUCER, rd_kafka_conf_new(), nil, 0) else {
                throw Failure("no client")
            }
            guard let cluster = rd_kafka_mock_cluster_new(client, 1) else {
                rd_kafka_destroy(client)
                throw Failure("no mock cluster")
            }
            self.client = client
            self.cluster = cluster
            rd_kafka_mock_topic_create(cluster, "mocked", 1, 1)
        }

        deinit {
            rd_kafka_mock_cluster_destroy(cluster)
            rd_kafka_destroy(client)
        }

        var options: KafkaOptions {
            KafkaOptions(
                bootstrapServers: String(cString: rd_kafka_mock_cluster_bootstraps(cluster)), topic: "mocked",
                partitions: 1)
        }

        /// The next produce requests are answered with these.
        func failProduce(_ errors: [rd_kafka_resp_err_t]) {
            var errors = errors
            rd_kafka_mock_push_request_errors_array(cluster, 0, errors.count, &errors)
        }
    }

    @Test func aBrokenSequenceEndsTheProducerAndANewOneGoesOn() throws {
        let mock = try MockCluster()
        let first = try KafkaProducer(mock.options, log: quiet, metrics: KafkaMetrics())
        #expect(try first.send(0..<10).acknowledged.count == 10)
        mock.failProduce([RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER])
        let error = #expect(throws: RecordLogError.self) { _ = try first.send(10..<20) }
        #expect(error?.code == .fatal)
        first.close()
        let second = try KafkaProducer(mock.options, log: quiet, metrics: KafkaMetrics())
        defer { second.close() }
        #expect(try second.send(10..<20).acknowledged.count == 10)
    }

    @Test(arguments: [
        RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
    ])
    func passingErrorsAreRetriedUnseen(_ code: rd_kafka_resp_err_t) throws {
        let mock = try MockCluster()
        let producer = try KafkaProducer(mock.options, log: quiet, metrics: KafkaMetrics())
        defer { producer.close() }
        mock.failProduce([code, code])
        #expect(try producer.send(0..<100).acknowledged.count == 100)
    }

    @Test func aRecordThatTheTopicsPolicyRejectsIsRefused() throws {
        let mock = try MockCluster()
        let producer = try KafkaProducer(mock.options, log: quiet, metrics: KafkaMetrics())
        defer { producer.close() }
        mock.failProduce([RD_KAFKA_RESP_ERR_INVALID_RECORD])
        #expect(try producer.send([5]).refused.keys.sorted() == [5])
    }
}
