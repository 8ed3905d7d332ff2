// The adapter against a real Apache Kafka: what is acknowledged is readable, and every offset is accounted for.

import RecordLog
import RecordLogKafka
import Telemetry
import Testing

@Suite(.serialized, .enabled(if: isKafkaWanted), .timeLimit(.minutes(5)))
struct KafkaLogTests {
    @Test func ensuringTopicsTwiceChangesNothing() throws {
        let server = try KafkaServer.shared.get()
        let options = server.options("ensured", partitions: 4)
        func ensure(_ options: KafkaOptions) throws -> [TopicReport] {
            try KafkaAdmin.ensureTopics(options, deadLetterTopic: "ensured-dead", log: quiet, metrics: KafkaMetrics())
        }
        #expect(try KafkaAdmin.describe(options, log: quiet, metrics: KafkaMetrics()) == nil)
        #expect(try ensure(options).map(\.outcome) == [.created, .created])
        #expect(try ensure(options).map(\.outcome) == [.existed, .existed])
        #expect(try KafkaAdmin.describe(options, log: quiet, metrics: KafkaMetrics()) == 4)
        let wider = try ensure(server.options("ensured", partitions: 9))
        #expect(wider.map(\.partitions) == [4, 4])
        #expect(wider.allSatisfy { $0.warning?.contains("fewer than the configured 9") == true })
    }

    @Test func moreReplicasThanBrokersIsAnErrorThatSaysSo() throws {
        var options = try KafkaServer.shared.get().options("never")
        options.replicationFactor = 3
        let error = #expect(throws: RecordLogError.self) {
            try KafkaAdmin.ensureTopics(options, deadLetterTopic: nil, log: quiet, metrics: KafkaMetrics())
        }
        #expect(error?.code == .configuration)
        #expect(error?.reason.contains("eplication factor") == true)
    }

    @Test func everyRecordComesBackOnceAndCopiesMeetOnOnePartition() throws {
        let server = try KafkaServer.shared.get()
        let options = try server.topic()
        let metrics = KafkaMetrics()
        let producer = try KafkaProducer(options, log: quiet, metrics: metrics)
        defer { producer.close() }
        let sent = try producer.send(0..<100_000)
        #expect(sent.acknowledged.count == 100_000)
        #expect(try producer.send(0..<1_000).acknowledged.count == 1_000)
        #expect(metrics.acknowledged.value == 101_000)
        #expect(producer.degraded == nil)

        let reader = try KafkaLogReader(options, createsTopic: false, log: quiet, metrics: metrics)
        var reading = Reading()
        try reader.read(into: &reading) { $0.records.count >= 101_000 }
        #expect(reading.discovered == [0, 1, 2])
        #expect(reading.records.count == 101_000)
        #expect(reading.records.allSatisfy { $0.kind == .event })
        #expect(Set(reading.records.compactMap(\.number)) == Set(0..<100_000))
        let homes = Dictionary(grouping: reading.records, by: \.key).mapValues { Set($0.map(\.partition)) }
        #expect(homes.values.allSatisfy { $0.count == 1 })
        #expect(Set(homes.values.flatMap { $0 }) == [0, 1, 2])
        for partition in Int32(0)..<3 {
            let offsets = reading.records.filter { $0.partition == partition }.map(\.offset)
            #expect(offsets == Array(0..<Int64(offsets.count)))
            #expect(offsets.count > 20_000)
            reader.applied(
                TopicPartition(topic: options.topic, partition: partition), next: Offset(Int64(offsets.count - 7)))
        }
        #expect(reader.lag.map(\.records) == [7, 7, 7])
        #expect(metrics.fetched.value == 101_000)
        reader.close()
        for partition in Int32(0)..<3 {
            let count = reading.records.count { $0.partition == partition }
            #expect(try server.committed(options, partition: partition) == Int64(count - 7))
        }
    }

    @Test func readingStartsAtTheGivenOffsets() throws {
        let options = try KafkaServer.shared.get().topic(partitions: 2)
        let producer = try KafkaProducer(options, log: quiet, metrics: KafkaMetrics())
        _ = try producer.send(0..<2_000)
        producer.close()
        let reader = try KafkaLogReader(options, createsTopic: false, log: quiet, metrics: KafkaMetrics())
        defer { reader.close() }
        var reading = Reading()
        try reader.read(from: [0: 700, 1: 800], into: &reading) { $0.records.count >= 500 }
        try reader.read(into: &reading) { $0.idle >= 20 }
        #expect(reading.records.count == 500)
        #expect(reading.records.first { $0.partition == 0 }?.offset == 700)
        #expect(reading.records.first { $0.partition == 1 }?.offset == 800)
    }

    @Test func tombstonesEmptyValuesAndMissingHeadersAreOrdinary() throws {
        let server = try KafkaServer.shared.get()
        let options = try server.topic(partitions: 1)
        try server.produceBare(options.topic, [([1], [2, 3]), ([4], nil), ([5], []), ([], [6])])
        let reader = try KafkaLogReader(options, createsTopic: false, log: quiet, metrics: KafkaMetrics())
        defer { reader.close() }
        var reading = Reading()
        try reader.read(into: &reading) { $0.records.count >= 4 }
        #expect(reading.records.map(\.kind) == [nil, nil, nil, nil])
        #expect(reading.records.map(\.key) == [[1], [4], [5], []])
        #expect(reading.records.map(\.value) == [[2, 3], nil, [], [6]])
    }

    @Test func deadLettersKeepKeyAndValueAndCarryTheirReason() throws {
        let options = try KafkaServer.shared.get().topic(partitions: 1)
        let producer = try KafkaProducer(options, log: quiet, metrics: KafkaMetrics())
        defer { producer.close() }
        let sent = [9, 9].withUnsafeBytes {
            producer.send(
                tag: 1, key: $0, value: nil,
                headers: [(RecordHeader.kind, "manifest"), (RecordHeader.errorCode, "too_large")])
        }
        #expect(sent)
        var reports: [Delivery] = []
        let deadline = ContinuousClock.now.advanced(by: .seconds(20))
        while reports.isEmpty, ContinuousClock.now < deadline {
            try producer.poll(timeoutMilliseconds: 50) { reports.append($1) }
        }
        #expect(reports == [.acknowledged])
        let reader = try KafkaLogReader(options, createsTopic: false, log: quiet, metrics: KafkaMetrics())
        defer { reader.close() }
        var reading = Reading()
        try reader.read(into: &reading) { !$0.records.isEmpty }
        #expect(reading.records.first?.kind == .manifest)
        #expect(reading.records.first?.value == nil)
    }

    @Test func aRecordThatIsTooLargeIsRefusedAndTheOthersGoThrough() throws {
        let options = try KafkaServer.shared.get().topic(partitions: 1)
        let producer = try KafkaProducer(options, log: quiet, metrics: KafkaMetrics())
        defer { producer.close() }
        let huge = [UInt8](repeating: 7, count: 1_200_000)
        let taken = huge.withUnsafeBytes { value in
            key(1).withUnsafeBytes { producer.send(tag: 77, kind: .event, key: $0, value: value) }
        }
        #expect(taken)
        var refusals: [UInt64: Delivery] = [:]
        try producer.poll(timeoutMilliseconds: 0) { refusals[$0] = $1 }
        guard case .refused(let why) = refusals[77] else {
            Issue.record("not refused: \(refusals)")
            return
        }
        #expect(why.contains("1200016 bytes"))
        #expect(try producer.send(0..<100).acknowledged.count == 100)
    }

    @Test func aBatchThatIsTooLargeCostsNoRecordThatIsNot() throws {
        let options = try KafkaServer.shared.get().topic(maxMessageBytes: 20_000)
        let metrics = KafkaMetrics()
        // Uncompressed: one batch of all of these is larger than the topic takes, each record is not.
        var plain = options
        plain.properties["compression.type"] = "none"
        let producer = try KafkaProducer(plain, log: quiet, metrics: metrics)
        defer { producer.close() }
        let large = [UInt8](repeating: 7, count: 30_000)
        let taken = large.withUnsafeBytes { value in
            key(1).withUnsafeBytes { producer.send(tag: 9_999, kind: .event, key: $0, value: value) }
        }
        #expect(taken)
        // One report is the large record's.
        let sent = try producer.send(0..<2_000)
        var refused = sent.refused
        let deadline = ContinuousClock.now.advanced(by: .seconds(20))
        var acknowledged = sent.acknowledged
        while acknowledged.count + refused.count < 2_001, ContinuousClock.now < deadline {
            try producer.poll(timeoutMilliseconds: 50) { tag, delivery in
                if delivery == .acknowledged { acknowledged.insert(tag) } else { refused[tag] = "\(delivery)" }
            }
        }
        #expect(acknowledged.count == 2_000)
        #expect(refused.keys.sorted() == [9_999])
        #expect(metrics.sentAlone.value > 1_000)
        let reader = try KafkaLogReader(options, createsTopic: false, log: quiet, metrics: metrics)
        defer { reader.close() }
        var reading = Reading()
        try reader.read(into: &reading) { $0.records.count >= 2_000 }
        #expect(reading.records.allSatisfy { $0.kind == .event })
    }

    @Test func aTopicThatComesLaterIsDiscoveredThen() throws {
        let server = try KafkaServer.shared.get()
        let options = server.options("later", partitions: 2)
        let reader = try KafkaLogReader(options, createsTopic: false, log: quiet, metrics: KafkaMetrics())
        defer { reader.close() }
        var reading = Reading()
        try reader.read(into: &reading) { $0.degraded.contains { $0.contains("the topic later does not exist") } }
        _ = try KafkaAdmin.ensureTopics(options, deadLetterTopic: nil, log: quiet, metrics: KafkaMetrics())
        let producer = try KafkaProducer(options, log: quiet, metrics: KafkaMetrics())
        defer { producer.close() }
        _ = try producer.send(0..<50)
        try reader.read(into: &reading) { $0.records.count >= 50 }
        #expect(reading.discovered == [0, 1])
        #expect(reading.gaps.isEmpty)
    }

    @Test func aProducerWaitsForATopicThatComesLaterAndNeverMakesIt() throws {
        let options = try KafkaServer.shared.get().options("produced-later", partitions: 2)
        let producer = try KafkaProducer(options, log: quiet, metrics: KafkaMetrics())
        defer { producer.close() }
        let sent = key(1).withUnsafeBytes { producer.send(tag: 1, kind: .event, key: $0, value: $0) }
        #expect(sent)
        var reports: [Delivery] = []
        func poll(until deadline: ContinuousClock.Instant) throws {
            while reports.isEmpty, ContinuousClock.now < deadline {
                try producer.poll(timeoutMilliseconds: 50) { reports.append($1) }
            }
        }
        try poll(until: .now.advanced(by: .seconds(2)))
        #expect(reports.isEmpty)
        #expect(try KafkaAdmin.describe(options, log: quiet, metrics: KafkaMetrics()) == nil)
        _ = try KafkaAdmin.ensureTopics(options, deadLetterTopic: nil, log: quiet, metrics: KafkaMetrics())
        try poll(until: .now.advanced(by: .seconds(25)))
        #expect(reports == [.acknowledged])
        #expect(try KafkaAdmin.describe(options, log: quiet, metrics: KafkaMetrics()) == 2)
    }

    @Test func aReaderMayCreateTheTopicItself() throws {
        let options = try KafkaServer.shared.get().options("made-by-reader", partitions: 5)
        let reader = try KafkaLogReader(options, createsTopic: true, log: quiet, metrics: KafkaMetrics())
        defer { reader.close() }
        var reading = Reading()
        try reader.read(into: &reading) { $0.discovered.count == 5 }
    }

    @Test func offsetsGoneByRetentionAreDeclaredExactly() throws {
        let server = try KafkaServer.shared.get()
        let options = try server.topic(partitions: 1)
        let producer = try KafkaProducer(options, log: quiet, metrics: KafkaMetrics())
        defer { producer.close() }
        _ = try producer.send(0..<1_000)
        try server.deleteRecords(options.topic, partition: 0, before: 400)
        let metrics = KafkaMetrics()
        let reader = try KafkaLogReader(options, createsTopic: false, log: quiet, metrics: metrics)
        defer { reader.close() }
        var reading = Reading()
        try reader.read(from: [0: 150], into: &reading) { $0.records.count >= 600 }
        #expect(reading.gaps.map(\.from) == [150])
        #expect(reading.gaps.map(\.to) == [400])
        #expect(reading.records.map(\.offset) == Array(400..<1_000))
        #expect(metrics.lost.value == 250)
    }

    @Test func aRecreatedTopicStopsThePartitionByName() throws {
        let server = try KafkaServer.shared.get()
        let options = try server.topic(partitions: 1)
        let first = try KafkaProducer(options, log: quiet, metrics: KafkaMetrics())
        _ = try first.send(0..<500)
        first.close()
        let metrics = KafkaMetrics()
        let reader = try KafkaLogReader(options, createsTopic: false, log: quiet, metrics: metrics)
        defer { reader.close() }
        var reading = Reading()
        try reader.read(into: &reading) { $0.records.count >= 500 }
        try server.deleteTopic(options.topic)
        try reader.read(into: &reading, deadline: 40) { !$0.degraded.isEmpty }
        _ = try KafkaAdmin.ensureTopics(options, deadLetterTopic: nil, log: quiet, metrics: KafkaMetrics())
        let second = try KafkaProducer(options, log: quiet, metrics: KafkaMetrics())
        defer { second.close() }
        _ = try second.send(0..<20)
        try reader.read(into: &reading) { !$0.truncated.isEmpty }
        #expect(reading.truncated.map(\.expected) == [500])
        #expect(reading.records.count == 500)
        #expect(metrics.truncations.value == 1)
        // The operator decides: from the start of the new log.
        try reader.start([(TopicPartition(topic: options.topic, partition: 0), Offset(0))])
        try reader.read(into: &reading) { $0.records.count >= 520 }
    }

    @Test(arguments: [
        ("linger.ms", "soon", "linger.ms"), ("no.such.property", "1", "no such property"),
        ("enable.auto.commit", "true", "Offsets are kept in the store"),
        ("security.protocol", "telepathy", "telepathy"),
        ("fetch.wait.max.ms", "-4", "fetch.wait.max.ms"),
    ])
    func aBadPropertyIsNamedWithItsReason(name: String, value: String, said: String) throws {
        let options = KafkaOptions(bootstrapServers: "127.0.0.1:1", topic: "t", properties: [name: value])
        let error = #expect(throws: RecordLogError.self) { try options.validate() }
        #expect(error?.code == .configuration)
        #expect(error?.description.contains("log.kafka.properties.\(name)") == true)
        #expect(error?.description.contains(said) == true)
    }

    @Test func propertiesOfOneRoleDoNotDisturbTheOther() throws {
        let options = try KafkaServer.shared.get().options(
            "roles", partitions: 1,
            properties: ["linger.ms": "5", "fetch.wait.max.ms": "20", "compression.type": "zstd", "client.id": "mine"])
        try options.validate()
        var said: [String] = []
        _ = try KafkaAdmin.ensureTopics(options, deadLetterTopic: nil, log: quiet, metrics: KafkaMetrics())
        let recorder = LineRecorder()
        let producer = try KafkaProducer(options, log: recorder.log, metrics: KafkaMetrics())
        _ = try producer.send(0..<10)
        producer.close()
        let reader = try KafkaLogReader(options, createsTopic: false, log: recorder.log, metrics: KafkaMetrics())
        var reading = Reading()
        try reader.read(into: &reading) { $0.records.count >= 10 }
        reader.close()
        said = recorder.lines.map(\.message)
        #expect(said.filter { $0.contains("is a ") && $0.contains("property") } == [])
    }
}
