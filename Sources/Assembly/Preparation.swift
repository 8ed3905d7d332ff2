// The configuration's sections → the options of the modules they are for, and what must hold before a role starts.

import CaptureProxy
import Configuration
import Glibc
import HTTPTransport
import JSONText
import Journal
import Normalizer
import QueryAPI
import Reconciling
import RecordLog
import RecordLogKafka
import RollupStore
import Schemas
import Telemetry

enum Preparation {
    /// The workspace of every event and question in open mode.
    static let openWorkspace = "default"

    /// What the files that a configuration names hold.
    struct Inputs {
        var prices: PriceTable
        var rules: Rules
    }

    /// Reads them, and checks what only a library or another module knows. Throws with every mistake at once.
    static func read(_ configuration: MillraceConfiguration) throws(ConfigurationError) -> Inputs {
        var problems: [String] = []
        func attempt<Value>(_ key: String, _ body: () throws -> Value) -> Value? {
            do {
                return try body()
            } catch {
                problems.append("\(key): \(error)")
                return nil
            }
        }
        let prices = attempt("prices.file") { try priceTable(configuration.pricesFile) }
        _ = attempt("log.kafka.properties") { try configuration.log.kafka.options.validate() }
        for (key, tls) in [
            ("proxy.tls", configuration.proxy.tls), ("proxy.ops_tls", configuration.proxy.opsTLS),
            ("consumer.ops_tls", configuration.consumer.opsTLS), ("api.tls", configuration.api.tls),
        ] {
            _ = attempt(key) { try tls?.context() }
        }
        if let problem = Stores.problem(with: configuration.store) { problems.append(problem) }
        let rules = attempt("normalization.rules") { try readRules(configuration.normalization.rules) }
        if let path = configuration.normalization.hashKeyFile {
            _ = attempt("normalization.hash_key_file") { try HashKey.read(path) }
        } else if let problem = rules.flatMap({ missingHashKey(configuration, $0) }) {
            problems.append(problem)
        }
        guard problems.isEmpty, let prices, let rules else { throw ConfigurationError(problems: problems) }
        return Inputs(prices: prices, rules: rules)
    }

    static func missingHashKey(_ configuration: MillraceConfiguration, _ rules: Rules) -> String? {
        guard rules.needsHashKey, configuration.log.kind == .kafka, !configuration.normalization.namesHashKey else {
            return nil
        }
        return "normalization.hash_key_file: null, but the rules hash keys and log.kind is kafka; name one file with "
            + "the same key for every proxy and consumer, or give the key as MILLRACE_NORMALIZATION_HASH_KEY"
    }

    /// The rules file once more, while roles run. Throws where a start with it would fail.
    static func reread(_ configuration: MillraceConfiguration) throws -> Normalizer {
        let rules = try readRules(configuration.normalization.rules)
        if let problem = missingHashKey(configuration, rules) { throw Failure(problem, status: 2) }
        return try normalizer(configuration, rules)
    }

    /// Makes the key of hashed values where the rules need one and none is there yet.
    static func normalizer(_ configuration: MillraceConfiguration, _ rules: Rules) throws -> Normalizer {
        // Earlier rules of the timeline may need one where these do not.
        let needsKey = rules.needsHashKey || configuration.normalization.namesHashKey
        return Normalizer(rules: rules, hash: needsKey ? try HashKey.hash(configuration) : nil)
    }

    private static func readRules(_ path: String?) throws -> Rules {
        try path.map { try RulesFile.valid($0) } ?? .builtIn
    }

    private static func priceTable(_ path: String?) throws -> PriceTable {
        guard let path else { return try PriceTable(json: Schemas.prices) }
        return try PriceTable(json: try tree(path).bytes)
    }

    /// A YAML or JSON file (JSON is YAML) as a tree.
    static func tree(_ path: String) throws -> JSONValue {
        switch readFile(path) {
        case .failure(let problem): throw Failure("\(path): \(problem.reason)", status: 2)
        case .success(let bytes):
            do throws(YAMLError) {
                return try YAMLNode.parse(bytes).json
            } catch {
                throw Failure("\(path): \(error)", status: 2)
            }
        }
    }

    /// For a command: the store must be there, or be made, now.
    static func openStore(_ configuration: MillraceConfiguration, readers: Int) throws -> OpenStore {
        try Stores.open(configuration.store, mustConnect: true, readers: readers, log: Log(role: "store"))
    }

    /// For a command that only makes sense on a store with something in it: a SQLite file that is not there is not made.
    ///
    /// - `orAPI`: the command can ask an API instead.
    static func openExistingStore(_ configuration: MillraceConfiguration, orAPI: Bool = false) throws -> OpenStore {
        if case .sqlite(let path) = configuration.store, access(path, F_OK) != 0 {
            let other = orAPI ? " or a running API with --api" : ""
            throw Failure(
                "There is no store at \(path). Start 'millrace up' in this directory, or name the store with "
                    + "--store.url\(other).")
        }
        return try openStore(configuration, readers: 1)
    }

    /// Where the journal is the log, what is in flight is counted in it. `close` once nobody asks any more.
    static func reconciler(
        _ configuration: MillraceConfiguration, _ log: Log, _ metrics: KafkaMetrics
    ) -> (reconciler: Reconciler, close: @Sendable () -> Void) {
        switch configuration.log.kind {
        case .journal:
            let directory = configuration.journal.directory
            return (Reconciler(.journal(directory: directory), log: log, now: SystemFacts.now), {})
        case .kafka:
            let ends = KafkaTopicEnds(configuration.log.kafka.options, log: log, metrics: metrics)
            return (Reconciler(.log(ends: { ends.read() }), log: log, now: SystemFacts.now), { ends.close() })
        }
    }

    /// The log, for who reads the past again beside the consumer.
    static func history(_ configuration: MillraceConfiguration, _ log: Log) -> any RecordLogHistory {
        switch configuration.log.kind {
        case .journal:
            JournalHistory(directory: configuration.journal.directory, log: log, metrics: JournalMetrics())
        case .kafka: KafkaHistory(configuration.log.kafka.options, log: log, metrics: KafkaMetrics())
        }
    }

    /// `makesStore`: also where there is none. A role that only reads keys leaves that to others: a store that is away
    /// for a while must not come back as an empty one.
    static func openKeyStore(_ configuration: MillraceConfiguration, makesStore: Bool) throws -> any KeyStore {
        if case .sqlite(let path) = configuration.store, !makesStore, access(path, F_OK) != 0 {
            throw RollupStoreError(
                code: .unavailable, tried: "open the store \(path)", reason: String(cString: strerror(errno)),
                next: "A consumer or 'millrace keys create' makes it; it is looked for again.")
        }
        return try openStore(configuration, readers: 1).keys
    }

    /// The soft limit is low by custom; every exchange takes two descriptors.
    static func raiseDescriptorLimit() {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
        limit.rlim_cur = limit.rlim_max
        // Best effort: where it fails the proxy works with what it has.
        setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    }

    /// One event loop a core.
    static var cores: Int { max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN))) }
}

extension MillraceConfiguration.Journal {
    var options: JournalOptions {
        let mode: JournalOptions.Fsync =
            switch fsync {
            case .never: .never
            case .interval: .interval
            case .always: .always
            }
        return JournalOptions(
            fsync: mode, segmentSize: segmentSizeBytes, maxSize: maxSizeBytes, retentionSeconds: retentionSeconds)
    }
}

extension MillraceConfiguration.Kafka {
    var options: KafkaOptions {
        KafkaOptions(
            bootstrapServers: bootstrapServers, topic: topic, partitions: partitions,
            replicationFactor: replicationFactor, group: group,
            properties: Dictionary(properties.map { ($0.name, $0.value) }, uniquingKeysWith: { $1 }))
    }
}

extension MillraceConfiguration.Upstream {
    var limits: UpstreamLimits {
        var limits = UpstreamLimits()
        limits.connectMilliseconds = UInt64(connectMilliseconds)
        limits.firstByteMilliseconds = UInt64(firstByteMilliseconds)
        limits.idleMilliseconds = UInt64(idleMilliseconds)
        limits.keepMilliseconds = UInt64(keepMilliseconds)
        limits.ageMilliseconds = UInt64(maxAgeMilliseconds)
        limits.idleConnections = maxIdle
        limits.connections = maxConnections
        limits.waiting = maxWaiting
        limits.waitMilliseconds = UInt64(waitMilliseconds)
        return limits
    }
}

extension MillraceConfiguration.Limits {
    var clients: ClientLimits {
        var limits = ClientLimits()
        limits.connections = connections
        limits.idleMilliseconds = UInt64(idleMilliseconds)
        limits.stallMilliseconds = UInt64(stallMilliseconds)
        return limits
    }
}

extension MillraceConfiguration.Proxy {
    var upstreams: [Provider] {
        providers.map { name, url in
            Provider(
                name: name, origin: UpstreamOrigin(isTLS: url.isTLS, host: url.host, port: url.port), basePath: url.path
            )
        }
    }
}

extension MillraceConfiguration.Normalization {
    /// A key of hashed values is named; else one is made beside the journal.
    var namesHashKey: Bool { hashKey != nil || hashKeyFile != nil }
}
