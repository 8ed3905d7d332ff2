// How the log's Kafka side is configured: options -> librdkafka configurations, one for each kind of client.
// Properties are passed through to the clients that know them; librdkafka's own table says which those are.

import CRDKafka
import Glibc
package import RecordLog

/// `log.kafka` of the configuration.
package struct KafkaOptions: Sendable {
    /// `HOST:PORT`, separated by commas.
    package var bootstrapServers: String
    package var topic: String
    /// Used where the topic is created.
    package var partitions: Int
    package var replicationFactor: Int
    /// The consumer group under which applied offsets are shown to lag tools; empty: they are not.
    package var group: String
    /// librdkafka settings, each passed to the clients that know it.
    package var properties: [String: String]

    package init(
        bootstrapServers: String, topic: String, partitions: Int = 6, replicationFactor: Int = 1, group: String = "",
        properties: [String: String] = [:]
    ) {
        self.bootstrapServers = bootstrapServers
        self.topic = topic
        self.partitions = partitions
        self.replicationFactor = replicationFactor
        self.group = group
        self.properties = properties
    }

    /// Throws `.configuration` naming the property that is unknown, ours to set, or has a value librdkafka rejects.
    package func validate() throws(RecordLogError) {
        rd_kafka_conf_destroy(try configuration(for: .producer))
        rd_kafka_conf_destroy(try configuration(for: .reader))
    }
}

enum KafkaClientKind {
    case producer, reader, admin
    /// A producer that sends each record in a request of its own.
    case singleProducer

    /// What we set after the operator's properties.
    fileprivate var overrides: [(String, String)] {
        switch self {
        case .singleProducer: [("batch.num.messages", "1"), ("linger.ms", "0")]
        case .producer, .reader, .admin: []
        }
    }

    /// What we set before the operator's properties.
    fileprivate func defaults(_ options: KafkaOptions) -> [(String, String)] {
        let shared = [
            ("bootstrap.servers", options.bootstrapServers), ("client.id", "millrace"),
            ("log.queue", "true"), ("log.connection.close", "false"),
            ("socket.nagle.disable", "true"), ("socket.keepalive.enable", "true"),
            // Bounds librdkafka's blocking calls, some of which ignore their own timeout.
            ("socket.timeout.ms", "10000"), ("reconnect.backoff.max.ms", "2000"),
            // A topic that is recreated or gets partitions is seen within this time.
            ("topic.metadata.refresh.interval.ms", "10000"),
            // A broker that creates topics on first use would make ours with its own number of partitions.
            ("allow.auto.create.topics", "false"),
        ]
        switch self {
        case .admin: return shared
        case .producer, .singleProducer:
            return shared + [
                ("enable.idempotence", "true"), ("acks", "all"), ("partitioner", "murmur2_random"),
                ("linger.ms", "50"), ("batch.size", "1000000"), ("batch.num.messages", "10000"),
                ("compression.type", "lz4"), ("message.timeout.ms", "60000"),
                ("queue.buffering.max.messages", "200000"), ("queue.buffering.max.kbytes", "65536"),
                ("delivery.report.only.error", "false"),
            ]
        case .reader:
            return shared + [
                // Manual assignment still needs a name; nothing is committed under this one.
                ("group.id", options.group.isEmpty ? "millrace-unnamed-reader" : options.group),
                ("enable.auto.commit", "false"), ("enable.auto.offset.store", "false"),
                ("auto.offset.reset", "error"), ("enable.partition.eof", "true"), ("check.crcs", "true"),
                ("isolation.level", "read_committed"),
                // At least a second of records at full rate: librdkafka 2.0.2 pauses for one when it meets the bound.
                ("queued.min.messages", "1000000"), ("queued.max.messages.kbytes", "32768"),
                ("fetch.wait.max.ms", "50"), ("fetch.min.bytes", "65536"), ("max.partition.fetch.bytes", "524288"),
            ]
        }
    }
}

/// Which clients know a property, from librdkafka's own listing: `*`, `P` or `C` in its second column.
private let knownProperties: [String: Character] = {
    var text: UnsafeMutablePointer<CChar>?
    var size = 0
    guard let stream = open_memstream(&text, &size) else { return [:] }
    rd_kafka_conf_properties_show(stream)
    fclose(stream)
    defer { free(text) }
    guard let text else { return [:] }
    var known: [String: Character] = [:]
    for line in String(cString: text).split(separator: "\n") {
        let columns = line.split(separator: "|", maxSplits: 2).map { $0.filter { $0 != " " } }
        guard columns.count == 3, let scope = columns[1].first, "*PC".contains(scope), columns[1].count == 1 else {
            continue
        }
        // A name that both kinds know, each in its own way, belongs to both.
        known[columns[0]] = known[columns[0]].map { $0 == scope ? scope : "*" } ?? scope
    }
    return known
}()

/// Properties on which the promises of this module rest, each with what to use instead.
private let reservedProperties: [String: String] = [
    "bootstrap.servers": "Set log.kafka.bootstrap_servers.",
    "metadata.broker.list": "Set log.kafka.bootstrap_servers.",
    "group.id": "Set log.kafka.group.",
    "enable.idempotence": "Records are always produced idempotently.",
    "acks": "Records are always acknowledged by all in-sync replicas.",
    "request.required.acks": "Records are always acknowledged by all in-sync replicas.",
    "partitioner": "Copies of one event must meet on one partition.",
    "transactional.id": "Records are produced without transactions.",
    "delivery.report.only.error": "Every acknowledgement is needed.",
    "enable.auto.commit": "Offsets are kept in the store.",
    "auto.commit.enable": "Offsets are kept in the store.",
    "enable.auto.offset.store": "Offsets are kept in the store.",
    "auto.offset.reset": "Reading starts at the store's offset, and a loss is declared, never skipped.",
    "enable.partition.eof": "The reader needs to know where a partition ends.",
    "check.crcs": "Checksums are always verified.",
    "allow.auto.create.topics": "Topics are created with the configured partitions.",
    "log.queue": "The client's lines go to the log of the role.",
]

extension KafkaOptions {
    /// A configuration for one client; the caller hands it to `rd_kafka_new` or destroys it.
    func configuration(for kind: KafkaClientKind) throws(RecordLogError) -> OpaquePointer {
        guard let configuration = rd_kafka_conf_new() else {
            throw RecordLogError(
                code: .fatal, tried: "to configure the Kafka client", reason: "out of memory", next: "Free some.")
        }
        do throws(RecordLogError) {
            for (name, value) in kind.defaults(self) { try Self.set(configuration, name, value) }
            for (name, value) in properties.sorted(by: { $0.key < $1.key }) {
                if let reason = reservedProperties[name] {
                    throw Self.rejected(name, "it is not open to change", "Remove it. \(reason)")
                }
                // Hidden and topic-level names may be missing from the listing: then librdkafka itself decides.
                switch (knownProperties[name], kind) {
                case ("P", .reader), ("P", .admin), ("C", .producer), ("C", .singleProducer), ("C", .admin): continue
                default: try Self.set(configuration, name, value)
                }
            }
            for (name, value) in kind.overrides { try Self.set(configuration, name, value) }
        } catch {
            rd_kafka_conf_destroy(configuration)
            throw error
        }
        return configuration
    }

    private static func set(_ configuration: OpaquePointer, _ name: String, _ value: String) throws(RecordLogError) {
        var reason = [CChar](repeating: 0, count: 512)
        switch rd_kafka_conf_set(configuration, name, value, &reason, reason.count) {
        case RD_KAFKA_CONF_OK: return
        case RD_KAFKA_CONF_UNKNOWN:
            throw rejected(name, "librdkafka \(version) knows no such property", "Correct or remove it.")
        default: throw rejected(name, text(reason), "Correct or remove it.")
        }
    }

    private static func rejected(_ name: String, _ reason: String, _ next: String) -> RecordLogError {
        RecordLogError(
            code: .configuration, tried: "to set log.kafka.properties.\(name)", reason: reason, next: next)
    }

    /// Logging in by SCRAM, with a librdkafka whose SCRAM is not that of RFC 5802.
    var sendsBadNonces: Bool {
        let mechanism = properties["sasl.mechanism"] ?? properties["sasl.mechanisms"] ?? ""
        return mechanism.hasPrefix("SCRAM") && rd_kafka_version() < 0x0206_0100
    }

    static var version: String { String(cString: rd_kafka_version_str()) }
}

/// A C string in a fixed buffer.
func text(_ buffer: [CChar]) -> String {
    String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
}

func text(_ error: rd_kafka_resp_err_t) -> String { String(cString: rd_kafka_err2str(error)) }
