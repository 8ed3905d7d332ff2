// The effective configuration, typed: layers → what `Assembly` builds services from.

package struct MillraceConfiguration: Sendable {
    package enum LogKind: String, Sendable { case journal, kafka }
    package enum Fsync: String, Sendable { case never, interval, always }
    package enum AuthMode: String, Sendable { case keys, open }

    package struct Kafka: Sendable {
        package var bootstrapServers: String
        package var topic: String
        package var deadLetterTopic: String
        package var partitions: Int
        package var replicationFactor: Int
        package var group: String
        /// By name, in byte order.
        package var properties: [(name: String, value: String)]
    }
    package struct Log: Sendable {
        package var kind: LogKind
        package var kafka: Kafka
    }
    package struct Journal: Sendable {
        package var directory: String
        package var fsync: Fsync
        package var segmentSizeBytes: Int
        package var maxSizeBytes: Int
        package var retentionSeconds: Int
    }
    package struct TLS: Sendable {
        package var certificate: String
        package var key: String
    }
    package struct Proxy: Sendable {
        package var listen: ListenAddress
        package var opsListen: ListenAddress
        /// 0: one a core.
        package var loops: Int
        /// By name, in byte order.
        package var providers: [(name: String, url: ProviderURL)]
        package var strictMetadata: Bool
        package var maxMetadataSizeBytes: Int
        package var upstream: Upstream
        package var limits: Limits
        package var drainMilliseconds: Int
        package var reusesPort: Bool
        package var tls: TLS?
        package var opsTLS: TLS?
    }
    package struct Upstream: Sendable {
        package var connectMilliseconds: Int
        package var firstByteMilliseconds: Int
        package var idleMilliseconds: Int
        package var keepMilliseconds: Int
        package var maxAgeMilliseconds: Int
        package var maxIdle: Int
        package var maxConnections: Int
        package var maxWaiting: Int
        package var waitMilliseconds: Int
    }
    package struct Limits: Sendable {
        package var connections: Int
        package var concurrency: Int
        package var concurrencyPerKey: Int
        package var idleMilliseconds: Int
        package var stallMilliseconds: Int
    }
    package struct Consumer: Sendable {
        package var opsListen: ListenAddress
        package var opsTLS: TLS?
        package var maxEvents: Int
        package var maxWaitMilliseconds: Int
    }
    package struct API: Sendable {
        package var listen: ListenAddress
        package var corsOrigins: [String]
        package var tls: TLS?
    }
    package struct Normalization: Sendable {
        package var rules: String?
        /// A secret.
        package var hashKey: String?
        package var hashKeyFile: String?
    }
    package struct Retention: Sendable {
        package var eventsDays: Int
        package var minuteDays: Int
        package var hourDays: Int
        package var dayDays: Int
    }

    package var log: Log
    package var journal: Journal
    package var store: StoreLocation
    package var proxy: Proxy
    package var consumer: Consumer
    package var api: API
    package var auth: AuthMode
    package var normalization: Normalization
    package var retention: Retention
    package var pricesFile: String?
    /// Every key with its value and source: what `config print` shows.
    package var settings: EffectiveSettings

    /// Reads all layers. Throws with every mistake at once.
    package init(_ sources: ConfigurationSources) throws(ConfigurationError) {
        let layers = Layers(sources)
        let problems = layers.problems + layers.contradictions()
        if !problems.isEmpty { throw ConfigurationError(problems: problems) }
        settings = EffectiveSettings(layers: layers)
        log = Log(
            kind: LogKind(rawValue: layers.text("log.kind")) ?? .journal,
            kafka: Kafka(
                bootstrapServers: layers.text("log.kafka.bootstrap_servers"), topic: layers.text("log.kafka.topic"),
                deadLetterTopic: layers.text("log.kafka.dead_letter_topic"),
                partitions: layers.integer("log.kafka.partitions"),
                replicationFactor: layers.integer("log.kafka.replication_factor"),
                group: layers.text("log.kafka.group"),
                properties: layers.entries("log.kafka.properties.*").map { ($0.name, $0.text) }))
        journal = Journal(
            directory: layers.text("journal.directory"),
            fsync: Fsync(rawValue: layers.text("journal.fsync")) ?? .interval,
            segmentSizeBytes: layers.integer("journal.segment_size_bytes"),
            maxSizeBytes: layers.integer("journal.max_size_bytes"),
            retentionSeconds: layers.integer("journal.retention_seconds"))
        store = StoreLocation(layers.text("store.url")) ?? .sqlite(path: "./millrace-data/millrace.db")
        proxy = Proxy(
            listen: layers.address("proxy.listen"), opsListen: layers.address("proxy.ops_listen"),
            loops: layers.integer("proxy.loops"),
            providers: layers.entries("proxy.providers.*.base_url").compactMap { name, text in
                ProviderURL(text).map { (name, $0) }
            },
            strictMetadata: layers.boolean("proxy.metadata.strict"),
            maxMetadataSizeBytes: layers.integer("proxy.metadata.max_size_bytes"), upstream: layers.upstream(),
            limits: layers.limits(), drainMilliseconds: layers.integer("proxy.drain_timeout_ms"),
            reusesPort: layers.boolean("proxy.reuse_port"), tls: layers.tls("proxy.tls"),
            opsTLS: layers.tls("proxy.ops_tls"))
        consumer = Consumer(
            opsListen: layers.address("consumer.ops_listen"), opsTLS: layers.tls("consumer.ops_tls"),
            maxEvents: layers.integer("consumer.batch.max_events"),
            maxWaitMilliseconds: layers.integer("consumer.batch.max_wait_ms"))
        api = API(
            listen: layers.address("api.listen"),
            corsOrigins: layers.text("api.cors_origins").split(separator: ",").map(String.init),
            tls: layers.tls("api.tls"))
        auth = AuthMode(rawValue: layers.text("auth.mode")) ?? .keys
        normalization = Normalization(
            rules: layers.optionalText("normalization.rules"), hashKey: layers.optionalText("normalization.hash_key"),
            hashKeyFile: layers.optionalText("normalization.hash_key_file"))
        retention = Retention(
            eventsDays: layers.integer("retention.events_days"), minuteDays: layers.integer("retention.minute_days"),
            hourDays: layers.integer("retention.hour_days"), dayDays: layers.integer("retention.day_days"))
        pricesFile = layers.optionalText("prices.file")
    }
}

extension Layers {
    // Every path below stands in the table with a default of that kind, and a test reads each of them once.

    func text(_ path: String) -> String {
        if case .text(let text)? = settings[path]?.value { return text }
        return ""
    }

    func integer(_ path: String) -> Int {
        if case .integer(let number)? = settings[path]?.value { return number }
        return 0
    }

    func boolean(_ path: String) -> Bool { settings[path]?.value == .boolean(true) }

    func optionalText(_ path: String) -> String? {
        if case .text(let text)? = settings[path]?.value { return text }
        return nil
    }

    func address(_ path: String) -> ListenAddress {
        ListenAddress(text(path)) ?? ListenAddress(host: "127.0.0.1", port: 0)
    }

    func tls(_ section: String) -> MillraceConfiguration.TLS? {
        guard let certificate = optionalText("\(section).certificate"), let key = optionalText("\(section).key") else {
            return nil
        }
        return .init(certificate: certificate, key: key)
    }

    func upstream() -> MillraceConfiguration.Upstream {
        .init(
            connectMilliseconds: integer("proxy.upstream.connect_timeout_ms"),
            firstByteMilliseconds: integer("proxy.upstream.first_byte_timeout_ms"),
            idleMilliseconds: integer("proxy.upstream.idle_timeout_ms"),
            keepMilliseconds: integer("proxy.upstream.keep_ms"),
            maxAgeMilliseconds: integer("proxy.upstream.max_age_ms"), maxIdle: integer("proxy.upstream.max_idle"),
            maxConnections: integer("proxy.upstream.max_connections"),
            maxWaiting: integer("proxy.upstream.max_waiting"),
            waitMilliseconds: integer("proxy.upstream.wait_timeout_ms"))
    }

    func limits() -> MillraceConfiguration.Limits {
        .init(
            connections: integer("proxy.limits.connections"), concurrency: integer("proxy.limits.concurrency"),
            concurrencyPerKey: integer("proxy.limits.concurrency_per_key"),
            idleMilliseconds: integer("proxy.limits.idle_timeout_ms"),
            stallMilliseconds: integer("proxy.limits.stall_timeout_ms"))
    }

    /// The entries of a map, by name.
    func entries(_ pattern: String) -> [(name: String, text: String)] {
        guard let key = ConfigurationKey.all.first(where: { $0.path == pattern }) else { return [] }
        return settings.keys.sorted().compactMap { path in
            guard let name = key.name(in: path) else { return nil }
            return (name, text(path))
        }
    }

    /// Values that are each valid and do not go together.
    func contradictions() -> [String] {
        var out: [String] = []
        func shown(_ path: String) -> String {
            let setting = settings[path] ?? Setting(value: .null, source: .standard)
            return "\(path): '\(Secrets.masked(path, setting.value))' (\(setting.source))"
        }
        for section in ["proxy.tls", "proxy.ops_tls", "consumer.ops_tls", "api.tls"] {
            let (certificate, key) = ("\(section).certificate", "\(section).key")
            if (optionalText(certificate) == nil) != (optionalText(key) == nil) {
                let (given, missing) = optionalText(certificate) == nil ? (key, certificate) : (certificate, key)
                out.append("\(shown(given)) needs \(missing) too; allowed: both or neither")
            }
        }
        if optionalText("normalization.hash_key") != nil, optionalText("normalization.hash_key_file") != nil {
            out.append(
                "\(shown("normalization.hash_key")) and \(shown("normalization.hash_key_file")) are two keys; allowed: "
                    + "one of them")
        }
        if text("log.kafka.topic") == text("log.kafka.dead_letter_topic") {
            out.append(
                "\(shown("log.kafka.dead_letter_topic")) is the topic of the events; allowed: any other topic")
        }
        let segment = integer("journal.segment_size_bytes")
        if integer("journal.max_size_bytes") < 4 * segment {
            out.append(
                "\(shown("journal.max_size_bytes")) holds fewer than four segments; allowed: at least \(4 * segment), "
                    + "four times journal.segment_size_bytes")
        }
        if text("auth.mode") == "open", mentions["auth.mode", default: 0] < 2 {
            for path in ["proxy.listen", "api.listen"] where !address(path).isLoopback {
                out.append(
                    "\(shown(path)) can be reached from other machines while \(shown("auth.mode")) asks nobody for a "
                        + "key; allowed: a loopback address, auth.mode keys, or open said twice, such as in the file "
                        + "and by --auth.mode open")
            }
        }
        return out
    }
}
