// A real Apache Kafka for these tests, started and stopped by a script: `start --dir DIR` prints the bootstrap servers,
// `stop --dir DIR [--kill]` ends them. MILLRACE_TEST_KAFKA names the script; without it the one beside the repository
// is taken, and where there is none, the stand-in of Tests/Support. MILLRACE_TEST_SKIP=kafka skips what needs it, kafka-crash
// what the stand-in cannot do; a server that is merely missing fails.

import CRDKafka
import Foundation
import RecordLog
import RecordLogKafka
import Synchronization
import Telemetry
import Testing

private let skipped = (ProcessInfo.processInfo.environment["MILLRACE_TEST_SKIP"] ?? "").split(separator: ",")
let isKafkaWanted = !skipped.contains("kafka")
/// Needs a broker whose acknowledged records outlive a kill, and three of them: Apache Kafka, not its stand-in.
let isCrashingKafkaWanted = isKafkaWanted && !skipped.contains("kafka-crash")

struct Failure: Error, CustomStringConvertible {
    var description: String
    init(_ description: String) { self.description = description }
}

final class KafkaServer: Sendable {
    let directory: String
    let bootstrapServers: String

    /// One server for all tests that do not hurt it, killed when the process ends. Like Kafka's default, it would create
    /// topics on first use, which no client of ours may bring about.
    static let shared = Result { try KafkaServer(properties: ["auto.create.topics.enable=true"]) }

    private static let script: String = {
        if let named = ProcessInfo.processInfo.environment["MILLRACE_TEST_KAFKA"] { return named }
        let here = URL(filePath: #filePath).deletingLastPathComponent()
        let real = here.appending(path: "../../../shared/kafka/kafka").standardizedFileURL.path
        if FileManager.default.isExecutableFile(atPath: real) { return real }
        return here.appending(path: "../Support/noida_kafka.py").standardizedFileURL.path
    }()
    private static let started = Mutex<[String]>([])

    init(nodes: Int = 1, properties: [String] = []) throws {
        directory = NSTemporaryDirectory() + "millrace-kafka-\(UUID().uuidString)"
        let isFirst = Self.started.withLock { [directory] all in
            all.append(directory)
            return all.count == 1
        }
        if isFirst { atexit { KafkaServer.endAll() } }
        var arguments = ["start", "--dir", directory, "--heap", "384m"]
        if nodes > 1 { arguments += ["--nodes", String(nodes)] }
        for property in properties { arguments += ["--property", property] }
        bootstrapServers = try Self.run(arguments).trimmingCharacters(in: .whitespacesAndNewlines)
    }

    func kill(node: Int? = nil) throws {
        _ = try Self.run(["stop", "--dir", directory, "--kill"] + (node.map { ["--node", String($0)] } ?? []))
    }

    func restart() throws { _ = try Self.run(["start", "--dir", directory]) }

    func remove() throws {
        try kill()
        try FileManager.default.removeItem(atPath: directory)
    }

    private static func endAll() {
        for directory in started.withLock({ $0 }) where FileManager.default.fileExists(atPath: directory) {
            _ = try? run(["stop", "--dir", directory, "--kill"])
            try? FileManager.default.removeItem(atPath: directory)
        }
    }

    private static func run(_ arguments: [String]) throws -> String {
        guard FileManager.default.isExecutableFile(atPath: script) else {
            throw Failure(
                "no Kafka to test against: \(script) is missing. Set MILLRACE_TEST_KAFKA to a script that starts one, "
                    + "or MILLRACE_TEST_SKIP=kafka to go without.")
        }
        let process = Process()
        process.executableURL = URL(filePath: script)
        process.arguments = arguments
        let output = Pipe()
        process.standardOutput = output
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        guard process.terminationStatus == 0 else { throw Failure("\(script) \(arguments) failed") }
        return text
    }

    // MARK: What tests do to a topic behind the product's back

    func options(_ topic: String, partitions: Int = 3, properties: [String: String] = [:]) -> KafkaOptions {
        KafkaOptions(
            bootstrapServers: bootstrapServers, topic: topic, partitions: partitions, group: "readers-of-\(topic)",
            properties: properties)
    }

    /// A new topic with a name of its own.
    func topic(partitions: Int = 3, replicationFactor: Int = 1) throws -> KafkaOptions {
        var options = options("t-\(UUID().uuidString.prefix(8))", partitions: partitions)
        options.replicationFactor = replicationFactor
        _ = try KafkaAdmin.ensureTopics(options, deadLetterTopic: nil, log: quiet, metrics: KafkaMetrics())
        return options
    }

    /// Records as another program might write them: no headers, and a null value where none is given.
    func produceBare(_ topic: String, _ records: [(key: [UInt8], value: [UInt8]?)]) throws {
        try withClient { client in
            let reference = rd_kafka_topic_new(client, topic, nil)
            defer { rd_kafka_topic_destroy(reference) }
            for (key, value) in records {
                var payload = value ?? []
                let code = payload.withUnsafeMutableBytes {
                    rd_kafka_produce(
                        reference, 0, RD_KAFKA_MSG_F_COPY, value == nil ? nil : $0.baseAddress ?? .init(bitPattern: 1),
                        $0.count, key, key.count, nil)
                }
                guard code == 0 else { throw Failure("not produced") }
            }
            guard rd_kafka_flush(client, 10_000) == RD_KAFKA_RESP_ERR_NO_ERROR else { throw Failure("not flushed") }
        }
    }

    /// What `topics ensure` cannot do: a topic that takes only small batches.
    func topic(maxMessageBytes: Int) throws -> KafkaOptions {
        let options = options("t-\(UUID().uuidString.prefix(8))", partitions: 1)
        try withClient { client in
            var request = rd_kafka_NewTopic_new(options.topic, 1, 1, nil, 0)
            defer { rd_kafka_NewTopic_destroy(request) }
            rd_kafka_NewTopic_set_config(request, "max.message.bytes", String(maxMessageBytes))
            try answered(client) { rd_kafka_CreateTopics(client, &request, 1, nil, $0) }
        }
        return options
    }

    func deleteRecords(_ topic: String, partition: Int32, before offset: Int64) throws {
        try withClient { client in
            let list = rd_kafka_topic_partition_list_new(1)
            defer { rd_kafka_topic_partition_list_destroy(list) }
            rd_kafka_topic_partition_list_add(list, topic, partition).pointee.offset = offset
            var request = rd_kafka_DeleteRecords_new(list)
            defer { rd_kafka_DeleteRecords_destroy(request) }
            try answered(client) { rd_kafka_DeleteRecords(client, &request, 1, nil, $0) }
        }
    }

    func deleteTopic(_ topic: String) throws {
        try withClient { client in
            var request = rd_kafka_DeleteTopic_new(topic)
            defer { rd_kafka_DeleteTopic_destroy(request) }
            try answered(client) { rd_kafka_DeleteTopics(client, &request, 1, nil, $0) }
        }
    }

    /// What a lag tool sees for the group.
    func committed(_ options: KafkaOptions, partition: Int32) throws -> Int64 {
        let configuration = rd_kafka_conf_new()
        rd_kafka_conf_set(configuration, "bootstrap.servers", bootstrapServers, nil, 0)
        rd_kafka_conf_set(configuration, "group.id", options.group, nil, 0)
        guard let client = rd_kafka_new(RD_KAFKA_CONSUMER, configuration, nil, 0) else { throw Failure("no client") }
        defer { rd_kafka_destroy(client) }
        guard let list = rd_kafka_topic_partition_list_new(1) else { throw Failure("no list") }
        defer { rd_kafka_topic_partition_list_destroy(list) }
        let asked = rd_kafka_topic_partition_list_add(list, options.topic, partition)
        guard rd_kafka_committed(client, list, 20_000) == RD_KAFKA_RESP_ERR_NO_ERROR else {
            throw Failure("no answer from the coordinator")
        }
        return asked?.pointee.offset ?? -1
    }

    private func answered(_ client: OpaquePointer, _ request: (OpaquePointer?) -> Void) throws {
        let queue = rd_kafka_queue_new(client)
        defer { rd_kafka_queue_destroy(queue) }
        request(queue)
        guard let event = rd_kafka_queue_poll(queue, 20_000) else { throw Failure("no answer from the broker") }
        defer { rd_kafka_event_destroy(event) }
        guard rd_kafka_event_error(event) == RD_KAFKA_RESP_ERR_NO_ERROR else {
            throw Failure(String(cString: rd_kafka_event_error_string(event)))
        }
    }

    private func withClient(_ body: (OpaquePointer) throws -> Void) throws {
        let configuration = rd_kafka_conf_new()
        rd_kafka_conf_set(configuration, "bootstrap.servers", bootstrapServers, nil, 0)
        guard let client = rd_kafka_new(RD_KAFKA_PRODUCER, configuration, nil, 0) else { throw Failure("no client") }
        defer { rd_kafka_destroy(client) }
        try body(client)
    }
}

/// Says nothing: what is written is looked at through `observe` where a test cares.
let quiet = Log(role: "test", descriptor: -1)

// MARK: Driving a producer and a reader

struct Sent {
    var acknowledged: Set<UInt64> = []
    var failed: Set<UInt64> = []
    var refused: [UInt64: String] = [:]
}

/// The key of record `n`: 16 bytes, as event ids are.
func key(_ n: UInt64) -> [UInt8] { (0..<16).map { UInt8(truncatingIfNeeded: n &* 0x9E37_79B9 >> (UInt64($0) * 4)) } }

extension KafkaProducer {
    /// Sends records `numbers`, each with its number as value, and polls until each has a report or time is up.
    func send(
        _ numbers: some Sequence<UInt64>, deadline seconds: Int = 60, inFlight: Int = .max,
        meanwhile: (Sent) throws -> Void = { _ in }
    ) throws -> Sent {
        var sent = Sent()
        var reported = 0
        let deadline = ContinuousClock.now.advanced(by: .seconds(seconds))
        func serve(_ timeout: Int32) throws {
            try poll(timeoutMilliseconds: timeout) { tag, delivery in
                reported += 1
                switch delivery {
                case .acknowledged: sent.acknowledged.insert(tag)
                case .failed: sent.failed.insert(tag)
                case .refused(let why): sent.refused[tag] = why
                }
            }
            if ContinuousClock.now > deadline {
                throw Failure("\(reported) reports when time was up, \(degraded ?? "healthy")")
            }
        }
        var count = 0
        for number in numbers {
            let value = Array("\(number)".utf8)
            while !key(number).withUnsafeBytes({ key in
                value.withUnsafeBytes { send(tag: number, kind: .event, key: key, value: $0) }
            }) { try serve(50) }
            count += 1
            if count % 1000 == 0 {
                try serve(0)
                while count - reported > inFlight { try serve(50) }
                try meanwhile(sent)
            }
        }
        while reported < count { try serve(50) }
        return sent
    }
}

struct ReadRecord: Equatable {
    var partition: Int32
    var offset: Int64
    var kind: RecordKind?
    var key: [UInt8]
    var value: [UInt8]?
    var number: UInt64? { value.flatMap { UInt64(String(decoding: $0, as: UTF8.self)) } }
}

/// What a reader said, in order.
struct Reading {
    var records: [ReadRecord] = []
    var gaps: [(partition: Int32, from: Int64, to: Int64)] = []
    var truncated: [(partition: Int32, expected: Int64, end: Int64)] = []
    var degraded: Set<String> = []
    var discovered: [Int32] = []
    /// Polls that found nothing new on a healthy topic.
    var idle = 0
}

extension KafkaLogReader {
    /// Polls until `isEnough`, starting what is discovered at `next` (0 where it names none). It is a failure when time
    /// is up before.
    func read(
        from next: [Int32: Int64] = [:], into reading: inout Reading, deadline seconds: Int = 60,
        until isEnough: (Reading) -> Bool
    ) throws {
        let deadline = ContinuousClock.now.advanced(by: .seconds(seconds))
        while !isEnough(reading) {
            if ContinuousClock.now > deadline {
                throw Failure(
                    "time was up with \(reading.records.count) records, \(Set(reading.records.compactMap(\.number)).count) "
                        + "numbers, gaps \(reading.gaps), truncated \(reading.truncated), \(reading.degraded)")
            }
            switch try poll(maxRecords: 5_000, maxBytes: 1 << 20, timeoutMilliseconds: 50) {
            case .discovered(let partitions):
                reading.discovered += partitions.map(\.partition)
                try start(partitions.map { ($0, Offset(next[$0.partition] ?? 0)) })
            case .records(let chunk):
                #expect(!chunk.records.isEmpty)
                for slot in chunk.records {
                    func bytes(_ start: Int32, _ count: Int32) -> [UInt8] {
                        Array(chunk.bytes[Int(start)..<Int(start + count)])
                    }
                    #expect(chunk.partitions[Int(slot.partition)].partition == slot.partition)
                    reading.records.append(
                        ReadRecord(
                            partition: slot.partition, offset: slot.offset.value, kind: slot.kind,
                            key: bytes(slot.keyStart, slot.keyCount),
                            value: slot.valueCount < 0 ? nil : bytes(slot.valueStart, slot.valueCount)))
                }
            case .gap(let partition, let from, let to):
                reading.gaps.append((partition.partition, from.value, to.value))
            case .truncated(let partition, let expected, let end):
                reading.truncated.append((partition.partition, expected.value, end.value))
            case .revoked(let partitions): Issue.record("a reader alone lost \(partitions)")
            case .idle(let degraded):
                if let degraded { reading.degraded.insert(degraded) } else { reading.idle += 1 }
            }
        }
    }
}
