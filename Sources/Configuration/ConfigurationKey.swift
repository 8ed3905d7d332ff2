// The one table of configuration keys. Defaults, validation, flags, variables, `config print` and the JSON Schema all
// come from it.

package import CommandLine

/// What a key takes. A check answers the value as it is kept, or throws nothing and answers nil: the text `allowed`
/// says what would have been right.
package enum ValueKind: Sendable {
    case choice([String])
    case boolean
    case integer(ClosedRange<Int>)
    /// `HOST:PORT` to listen on; port 0 picks a free one.
    case address
    /// `HOST:PORT`, comma-separated.
    case servers
    /// A Kafka topic or group.
    case name
    case directory
    /// A file that must be readable when it is named; null where none.
    case file
    /// `sqlite:PATH`, `postgres://…` or `clickhouse://…`.
    case store
    /// The base URL of a provider.
    case provider
    /// Origins of pages, `https://HOST[:PORT]` or `*`, comma-separated; null where none.
    case origins
    /// Free text, handed on.
    case text
    /// A secret of so many bytes, a line's end after them left out; shown nowhere and no flag; null where none.
    case secret(ClosedRange<Int>)

    package var isSecret: Bool {
        if case .secret = self { true } else { false }
    }
}

package enum SettingValue: Sendable, Equatable {
    case null
    case boolean(Bool)
    case integer(Int)
    case text(String)
}

package struct ConfigurationKey: Sendable {
    /// `log.kafka.topic`; `*` stands for a name of the user's own.
    package var path: String
    package var kind: ValueKind
    /// For a key with `*`, the entries of a fresh start.
    package var standard: SettingValue
    package var entries: [(name: String, value: SettingValue)] = []
    package var help: String

    init(_ path: String, _ kind: ValueKind, _ standard: SettingValue, _ help: String) {
        self.path = path
        self.kind = kind
        self.standard = standard
        self.help = help
    }

    init(_ path: String, _ kind: ValueKind, entries: [(name: String, value: SettingValue)], _ help: String) {
        self.init(path, kind, .null, help)
        self.entries = entries
    }

    /// The part before `.*`, where there is one: a map.
    package var map: String? {
        path.firstIndex(of: "*").map { String(path[..<$0].dropLast()) }
    }

    /// The part after `*`, with its dot.
    package var tail: String {
        path.firstIndex(of: "*").map { String(path[path.index(after: $0)...]) } ?? ""
    }

    /// The name that stands for `*` in a full path.
    package func name(in full: String) -> String? {
        guard let map, full.hasPrefix(map + "."), full.hasSuffix(tail) else { return nil }
        let name = full.dropFirst(map.count + 1).dropLast(tail.count)
        return name.isEmpty ? nil : String(name)
    }

    package static let mebibyte = 1 << 20

    /// Bytes of the key of hashes: shorter ones could be guessed, longer ones than a block are hashed first and gain nothing.
    package static let hashKeySizes = 16...1_024

    package static let all: [ConfigurationKey] = [
        .init(
            "log.kind", .choice(["journal", "kafka"]), .text("journal"), "where events go: embedded journal or Kafka"),
        .init("log.kafka.bootstrap_servers", .servers, .text("127.0.0.1:9092"), "brokers to begin with"),
        .init("log.kafka.topic", .name, .text("millrace.request-events.v1"), "topic of the events"),
        .init("log.kafka.dead_letter_topic", .name, .text("millrace.dead-letters.v1"), "topic of rejected records"),
        .init("log.kafka.partitions", .integer(1...10_000), .integer(6), "partitions of a topic that Millrace creates"),
        .init("log.kafka.replication_factor", .integer(1...99), .integer(1), "copies of a topic that Millrace creates"),
        .init("log.kafka.group", .name, .text("millrace-rollups"), "consumer group"),
        .init("log.kafka.properties.*", .text, entries: [], "librdkafka settings, such as TLS and SASL"),
        .init("journal.directory", .directory, .text("./millrace-data/journal"), "where the proxy journals events"),
        .init(
            "journal.fsync", .choice(["never", "interval", "always"]), .text("interval"),
            "what a power cut may cost: what the kernel held, one second, nothing"),
        .init(
            "journal.segment_size_bytes", .integer(mebibyte / 4...1024 * mebibyte), .integer(64 * mebibyte),
            "size of a journal file, preallocated"),
        .init(
            "journal.max_size_bytes", .integer(16 * mebibyte...(1 << 50)), .integer(10_240 * mebibyte),
            "what the journal may hold while the broker is away"),
        .init(
            "journal.retention_seconds", .integer(0...31_536_000), .integer(86_400),
            "how long acknowledged events stay"),
        .init("store.url", .store, .text("sqlite:./millrace-data/millrace.db"), "where rollups and events are kept"),
        .init("proxy.listen", .address, .text("127.0.0.1:8787"), "where clients connect"),
        .init("proxy.ops_listen", .address, .text("127.0.0.1:8789"), "/livez, /readyz and /metrics of the proxy"),
        .init(
            "proxy.loops", .integer(0...256), .integer(0),
            "event loops, each with a journal lane of its own; 0: one a core"),
        .init(
            "proxy.providers.*.base_url", .provider,
            entries: [("openai", .text("https://api.openai.com/v1"))], "upstream of a provider"),
        .init("proxy.metadata.strict", .boolean, .boolean(false), "answer 400 to metadata that does not parse"),
        .init(
            "proxy.metadata.max_size_bytes", .integer(64...65_536), .integer(8192),
            "metadata of a request beyond this is not kept"),
        .init(
            "proxy.upstream.connect_timeout_ms", .integer(100...600_000), .integer(10_000),
            "time to connect to one address of a provider"),
        .init(
            "proxy.upstream.first_byte_timeout_ms", .integer(100...3_600_000), .integer(600_000),
            "time for an answer's first byte; 504 beyond"),
        .init(
            "proxy.upstream.idle_timeout_ms", .integer(100...3_600_000), .integer(600_000),
            "time between two reads of an answer; it is cut off beyond"),
        .init(
            "proxy.upstream.keep_ms", .integer(0...3_600_000), .integer(55_000),
            "how long an unused connection to a provider is kept"),
        .init(
            "proxy.upstream.max_age_ms", .integer(0...86_400_000), .integer(3_600_000),
            "how old a connection to a provider may be when it is used again"),
        .init(
            "proxy.upstream.max_idle", .integer(0...65_536), .integer(512), "unused connections kept for a provider"),
        .init(
            "proxy.upstream.max_connections", .integer(1...65_536), .integer(8_192),
            "connections to a provider at once; requests wait beyond"),
        .init(
            "proxy.upstream.max_waiting", .integer(0...65_536), .integer(8_192),
            "requests that wait for a connection to a provider; 503 beyond"),
        .init(
            "proxy.upstream.wait_timeout_ms", .integer(0...600_000), .integer(10_000),
            "time a request waits for a connection; 503 beyond"),
        .init(
            "proxy.limits.connections", .integer(1...1_000_000), .integer(20_000),
            "connections of clients at once; 503 beyond"),
        .init(
            "proxy.limits.concurrency", .integer(1...1_000_000), .integer(10_000),
            "requests under way at once; 503 beyond"),
        .init(
            "proxy.limits.concurrency_per_key", .integer(0...1_000_000), .integer(0),
            "requests under way of one API key; 429 beyond; 0: no limit"),
        .init(
            "proxy.limits.idle_timeout_ms", .integer(100...3_600_000), .integer(75_000),
            "time between a client's requests, and for a request's head"),
        .init(
            "proxy.limits.stall_timeout_ms", .integer(100...3_600_000), .integer(60_000),
            "time in which a client in mid-request may send or take nothing"),
        .init(
            "proxy.drain_timeout_ms", .integer(0...15_000), .integer(10_000),
            "at a stop, time for the requests under way"),
        .init(
            "proxy.reuse_port", .boolean, .boolean(false),
            "share the port with another proxy, for a restart without a gap"),
        .init("proxy.ops_tls.certificate", .file, .null, "certificate chain of the proxy's ops_listen, PEM"),
        .init("proxy.ops_tls.key", .file, .null, "private key of the proxy's ops_listen, PEM"),
        .init("proxy.tls.certificate", .file, .null, "certificate chain of the proxy's listener, PEM"),
        .init("proxy.tls.key", .file, .null, "private key of the proxy's listener, PEM"),
        .init("consumer.ops_listen", .address, .text("127.0.0.1:8790"), "/livez, /readyz and /metrics of the consumer"),
        .init("consumer.ops_tls.certificate", .file, .null, "certificate chain of the consumer's ops_listen, PEM"),
        .init("consumer.ops_tls.key", .file, .null, "private key of the consumer's ops_listen, PEM"),
        .init(
            "consumer.batch.max_events", .integer(1...1_000_000), .integer(20_000),
            "events applied in one step, at most"),
        .init(
            "consumer.batch.max_wait_ms", .integer(1...60_000), .integer(200),
            "how long a batch waits for more events"),
        .init("api.listen", .address, .text("127.0.0.1:8788"), "API, page, and their /livez, /readyz and /metrics"),
        .init("api.cors_origins", .origins, .null, "other pages that may read answers; null: none"),
        .init("api.tls.certificate", .file, .null, "certificate chain of the API's listener, PEM"),
        .init("api.tls.key", .file, .null, "private key of the API's listener, PEM"),
        .init(
            "auth.mode", .choice(["keys", "open"]), .text("keys"),
            "keys: callers need an API key; open: none, on loopback addresses only"),
        .init("normalization.rules", .file, .null, "rules file; null: the built-in rules"),
        .init(
            "normalization.hash_key", .secret(hashKeySizes), .null,
            "key of hashed values itself, for the environment; null: that of hash_key_file"),
        .init(
            "normalization.hash_key_file", .file, .null,
            "file with the key of hashed values; null: made beside the journal"),
        .init("retention.events_days", .integer(1...36_500), .integer(30), "days that events are kept"),
        .init("retention.minute_days", .integer(1...36_500), .integer(3), "days that rollups by the minute are kept"),
        .init("retention.hour_days", .integer(1...36_500), .integer(90), "days that rollups by the hour are kept"),
        .init("retention.day_days", .integer(1...36_500), .integer(1100), "days that rollups by the day are kept"),
        .init("prices.file", .file, .null, "price table; null: the built-in, dated one"),
    ]

    /// Flags and environment variables of all keys.
    package static let names = SettingNames(
        paths: all.map(\.path),
        blanks: ["proxy.providers.*.base_url": "-", "log.kafka.properties.*": "."])

    /// The key of a full path.
    package static func find(_ path: String) -> ConfigurationKey? {
        all.first { $0.path == path } ?? all.first { $0.name(in: path) != nil }
    }

    /// What may stand for `*`.
    func acceptsName(_ name: String) -> Bool {
        let allowed = "abcdefghijklmnopqrstuvwxyz0123456789-" + (tail.isEmpty ? "._" : "")
        return name.count <= 128 && name.first != "-" && name.allSatisfy { allowed.contains($0) }
    }
}
