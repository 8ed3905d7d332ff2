// A real Apache Kafka for the fault tests, and a plain client beside the product's: what is in a topic, and records as
// any program might write them.

import CRDKafka
import Glibc
import Testing

enum Place {
    static let repository: String = {
        let parts = #filePath.split(separator: "/").dropLast(3)
        return "/" + parts.joined(separator: "/")
    }()

    /// Beside the test program, or `MILLRACE_TEST_BINARY`.
    static let binary: String = {
        if let path = variable("MILLRACE_TEST_BINARY") { return path }
        var buffer = [CChar](repeating: 0, count: 4_096)
        let count = readlink("/proc/self/exe", &buffer, buffer.count)
        let executable = String(decoding: buffer.prefix(max(count, 0)).map { UInt8(bitPattern: $0) }, as: UTF8.self)
        let beside = executable.split(separator: "/").dropLast().joined(separator: "/")
        let path = "/\(beside)/millrace"
        return access(path, X_OK) == 0 ? path : "\(repository)/.build/debug/millrace"
    }()

    static let kafka = variable("MILLRACE_TEST_KAFKA") ?? "\(repository)/../shared/kafka/kafka"

    /// `MILLRACE_TEST_ROUNDS`: how often the loops go round; `make soak` sets it.
    static func rounds(_ usual: Int) -> Int { variable("MILLRACE_TEST_ROUNDS").flatMap { Int($0) } ?? usual }

    static func variable(_ name: String) -> String? { getenv(name).map { String(cString: $0) } }
}

/// One or three nodes, killed with the object.
final class Broker: Sendable {
    let servers: String
    let directory: String
    private let nodes: Int

    /// For tests that leave the broker alone; ends with the test process.
    static let shared = Result { try Broker(endsWithProcess: true) }

    init(nodes: Int = 1, arguments: [String] = [], endsWithProcess: Bool = false) throws {
        self.nodes = nodes
        directory = "/tmp/millrace-faults-kafka-\(UInt32.random(in: 0...UInt32.max))"
        servers = try Self.command(["start", "--dir", directory, "--nodes", "\(nodes)", "--heap", "384m"] + arguments)
        if endsWithProcess { atexit { if case .success(let broker) = Broker.shared { broker.remove() } } }
    }

    /// Brokers that somebody else has started.
    init(servers: String) {
        self.servers = servers
        (nodes, directory) = (0, "")
    }

    deinit { if !directory.isEmpty { remove() } }

    private func remove() {
        _ = try? Self.command(["stop", "--dir", directory, "--kill"])
        _ = try? run(["rm", "-rf", "--", directory], directory: "/")
    }

    /// `kill -9` of one node, or of all.
    func crash(node: Int? = nil) throws {
        _ = try Self.command(["stop", "--dir", directory, "--kill"] + (node.map { ["--node", "\($0)"] } ?? []))
    }

    /// Brings back what is down, same ports, same data.
    func restart() throws { _ = try Self.command(["start", "--dir", directory]) }

    private static func command(_ arguments: [String]) throws -> String {
        let result = try FaultTests.run([Place.kafka] + arguments, directory: "/tmp", seconds: 120)
        guard result.status == 0 else { throw ChildError("kafka \(arguments): \(result.output)\(result.errors)") }
        return result.output.split(separator: "\n").last.map(String.init) ?? ""
    }

    /// Bytes of a topic's segments on the first node's disk.
    func sizeOnDisk(_ topic: String) throws -> Int {
        let result = try FaultTests.run(
            ["sh", "-c", "cat \(directory)/node-1/data/\(topic)-*/*.log | wc -c"], directory: "/")
        return Int(result.output.filter(\.isNumber)) ?? 0
    }

    // MARK: What happens to a topic behind the product's back

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

    /// Retries while the name is still being deleted.
    func createTopic(_ topic: String, partitions: Int32) throws {
        try withClient { client in
            try waitUntil("\(topic) is created", seconds: 30) {
                var request = rd_kafka_NewTopic_new(topic, partitions, 1, nil, 0)
                defer { rd_kafka_NewTopic_destroy(request) }
                let queue = rd_kafka_queue_new(client)
                defer { rd_kafka_queue_destroy(queue) }
                rd_kafka_CreateTopics(client, &request, 1, nil, queue)
                guard let event = rd_kafka_queue_poll(queue, 10_000) else { return false }
                defer { rd_kafka_event_destroy(event) }
                var count = 0
                let results = rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &count)
                guard count == 1 else { return false }
                return rd_kafka_topic_result_error(results?.pointee) == RD_KAFKA_RESP_ERR_NO_ERROR
            }
        }
    }

    private func answered(_ client: OpaquePointer, _ request: (OpaquePointer?) -> Void) throws {
        let queue = rd_kafka_queue_new(client)
        defer { rd_kafka_queue_destroy(queue) }
        request(queue)
        guard let event = rd_kafka_queue_poll(queue, 20_000) else { throw ChildError("no answer from the broker") }
        defer { rd_kafka_event_destroy(event) }
        guard rd_kafka_event_error(event) == RD_KAFKA_RESP_ERR_NO_ERROR else {
            throw ChildError(String(cString: rd_kafka_event_error_string(event)))
        }
    }

    func withClient(consumer: Bool = false, _ body: (OpaquePointer) throws -> Void) throws {
        let configuration = rd_kafka_conf_new()
        var settings = [("bootstrap.servers", servers)]
        if consumer {
            settings += [
                ("group.id", "evidence-\(UInt32.random(in: 0...UInt32.max))"), ("enable.auto.commit", "false"),
                ("auto.offset.reset", "error"), ("check.crcs", "true"),
            ]
        }
        for (name, value) in settings { rd_kafka_conf_set(configuration, name, value, nil, 0) }
        let kind = consumer ? RD_KAFKA_CONSUMER : RD_KAFKA_PRODUCER
        guard let client = rd_kafka_new(kind, configuration, nil, 0) else { throw ChildError("no Kafka client") }
        defer { rd_kafka_destroy(client) }
        try body(client)
    }

    /// Acknowledged when it returns. `partition` nil: by key.
    func produce(_ topic: String, _ records: [LogRecord], byKey: Bool = false) throws {
        try withClient { client in
            let reference = rd_kafka_topic_new(client, topic, nil)
            defer { rd_kafka_topic_destroy(reference) }
            for record in records {
                guard let headers = rd_kafka_headers_new(record.headers.count) else { throw ChildError("no headers") }
                for (name, value) in record.headers { rd_kafka_header_add(headers, name, -1, value, -1) }
                var value = record.value ?? []
                let partition = byKey ? -1 : record.partition
                let code = record.key.withUnsafeBytes { key in
                    value.withUnsafeMutableBytes {
                        millrace_rdkafka_produce_to(
                            client, reference, partition, key.baseAddress, key.count,
                            record.value == nil ? nil : $0.baseAddress ?? UnsafeMutableRawPointer(bitPattern: 1),
                            $0.count, headers)
                    }
                }
                guard code == RD_KAFKA_RESP_ERR_NO_ERROR else { throw ChildError("not produced: \(code)") }
            }
            guard rd_kafka_flush(client, 20_000) == RD_KAFKA_RESP_ERR_NO_ERROR else { throw ChildError("not flushed") }
        }
    }
}
