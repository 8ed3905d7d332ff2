// One topic, one store, and the consumer as its users run it: the built binary with a configuration file.

import Events
import Glibc
import JSONText
import Simulation
import Testing

final class Installation {
    let broker: Broker
    let work: WorkDirectory
    let topic: String
    let deadLetterTopic: String
    let opsPort: UInt16
    private let settings: String
    /// nil: a SQLite store in the test's directory.
    private let server: (any StoreServer)?
    /// By which the product reaches the server; the judge goes to it directly.
    private let storePort: UInt16
    private var seed = Int.random(in: 1...1_000_000_000)
    /// Ids of the events that `load` was told are in the log.
    private(set) var acknowledged: Set<String> = []

    init(
        _ broker: Broker, _ name: String, partitions: Int = 3, maxEvents: Int = 200, properties: String = "{}",
        server: (any StoreServer)? = nil, storePort: UInt16? = nil, topic named: String? = nil,
        rules: String = Installation.noBudgets
    ) throws {
        self.broker = broker
        self.server = server
        self.storePort = storePort ?? server?.port ?? 0
        work = try WorkDirectory("faults-\(name)")
        topic = named ?? "\(name)-\(UInt32.random(in: 0...UInt32.max))"
        deadLetterTopic = "\(topic)-dead"
        opsPort = try freePort()
        settings = """
            log:
              kind: kafka
              kafka:
                bootstrap_servers: "\(broker.servers)"
                topic: \(topic)
                dead_letter_topic: \(deadLetterTopic)
                partitions: \(partitions)
                group: \(topic)-group
                properties: \(Self.properties(properties, server))
            consumer: { ops_listen: "127.0.0.1:\(opsPort)", batch: { max_events: \(maxEvents), max_wait_ms: 50 } }
            normalization: { rules: rules.yaml }
            """
        try writeText("\(work.path)/rules.yaml", rules)
        try writeText("\(work.path)/millrace.yaml", settings)
        mkdir(stores, 0o755)
    }

    /// What a spent budget files under `(other)` depends on the order in which partitions are read; a second store
    /// filled from the same log is to have the same rows.
    static let noBudgets = "version: 1\nbudgets: { sets: 10000000, values: 10000000, keys: 100000 }"

    /// Where SQLite stores lie, and nothing else.
    var stores: String { "\(work.path)/stores" }
    var store: SQLiteEvidence { store("store") }
    func store(_ name: String) -> SQLiteEvidence { SQLiteEvidence(path: "\(stores)/\(name).db") }

    func evidence(_ name: String = "store") -> any StoreEvidence { server?.evidence(name) ?? store(name) }

    private func url(_ store: String) throws -> String {
        try server?.url(store, port: storePort) ?? "sqlite:\(stores)/\(store).db"
    }

    /// A consumer of a server is a member of a group, and a killed one keeps its partitions until its session is over:
    /// by a name of its own the next one takes its place at once.
    private static func properties(_ given: String, _ server: (any StoreServer)?) -> String {
        server != nil && given == "{}" ? "{ group.instance.id: one }" : given
    }

    // MARK: Processes

    /// `failAt`: where the process dies by itself (see `failPoint`).
    func start(
        failAt: String? = nil, store: String = "store", opsPort port: UInt16? = nil, prefix: [String] = [],
        environment given: [String: String] = [:]
    ) throws -> ChildProcess {
        var environment = given
        environment["MILLRACE_TEST_FAIL_AT"] = failAt
        return try ChildProcess(
            prefix + (try command("consumer", store)) + ["--consumer.ops_listen", "127.0.0.1:\(port ?? opsPort)"]
                // A store of its own has every partition to itself.
                + (store == "store" ? [] : ["--log.kafka.group", "\(topic)-\(store)"]),
            name: "consumer", directory: work.path, environment: environment, outputTo: work.path)
    }

    private func command(_ name: String, _ store: String = "store") throws -> [String] {
        [Place.binary] + name.split(separator: " ").map(String.init)
            + ["--config", "\(work.path)/millrace.yaml", "--store.url", try url(store)]
    }

    /// SIGTERM and status 0.
    func stop(_ process: ChildProcess) throws {
        let status = try process.stop()
        #expect(status == 0, "the consumer ended with \(status): \(process.errors.suffix(2_000))")
    }

    /// A command of the product to its end; its output.
    func command(_ name: String, _ arguments: [String]) throws -> String {
        let result = try run(try command(name) + arguments, directory: work.path, seconds: 90)
        guard result.status == 0 else { throw ChildError("\(name) \(arguments): \(result.output)\(result.errors)") }
        return result.output
    }

    // MARK: The log

    /// Events by `millrace loadgen`, acknowledged when it returns.
    func load(_ events: Int, _ arguments: [String] = []) throws {
        seed += 1
        let truth = "\(work.path)/truth-\(seed).jsonl"
        _ = try command("loadgen", Self.loadgen(events, seed) + ["--ground-truth", truth] + arguments)
        for line in readText(truth).split(separator: "\n") {
            let event = try JSONValue.parse(String(line))
            let id = try #require(event["id"]?.string)
            acknowledged.insert(id.filter { $0 != "-" }.uppercased())
        }
    }

    private static func loadgen(_ events: Int, _ seed: Int) -> [String] {
        ["--events", "\(events)", "--seed", "\(seed)", "--manifests"]
    }

    /// As `load`, of an event that the test itself brought into the log.
    func recorded(_ id: EventID) { acknowledged.insert(hex(id.bytes)) }

    /// Events at a pace, from another process, until it ends by itself.
    func loading(_ events: Int, rate: Int) throws -> ChildProcess {
        seed += 1
        return try ChildProcess(
            (try command("loadgen")) + Self.loadgen(events, seed) + ["--rate", "\(rate)"],
            name: "loadgen", directory: work.path, outputTo: work.path)
    }

    /// Records that no version can count, each for another reason.
    static let poison: [LogRecord] = [
        LogRecord(key: [1, 2, 3], value: [0xFF, 0xFF, 0xFF], headers: ["millrace-kind": "event"]),
        LogRecord(key: [4], value: [], headers: ["millrace-kind": "event"]),
        LogRecord(key: [], value: Array("{\"not\":\"protobuf\"}".utf8), headers: [:]),
        LogRecord(key: [5, 0, 255], value: [10, 16, 1, 2], headers: ["millrace-kind": "event", "other": "x"]),
    ]

    // MARK: Looking

    func readiness() -> (status: Int, body: String)? {
        var client = LoopbackClient(port: opsPort)
        guard let response = try? client.request("GET", "/readyz", headers: [], body: []) else { return nil }
        return (Int(response.status), response.text)
    }

    /// The sum of a metric's rows; nil where nobody answers.
    func metric(_ name: String) -> Double? {
        guard let rows = try? metrics() else { return nil }
        return rows.filter { $0.name.hasPrefix("\(name){") || $0.name == name }.reduce(0) { $0 + $1.value }
    }

    /// Every row, by name and labels.
    func metrics(_ port: UInt16? = nil) throws -> [(name: String, value: Double)] {
        var client = LoopbackClient(port: port ?? opsPort)
        let response = try client.request("GET", "/metrics", headers: [], body: [])
        return response.text.split(separator: "\n").compactMap { row in
            guard !row.hasPrefix("#"), let space = row.lastIndex(of: " ") else { return nil }
            return Double(row[space...].dropFirst()).map { (String(row[..<space]), $0) }
        }
    }

    func next() throws -> Int64 { try evidence().ledger(topic).values.reduce(0) { $0 + $1.next } }

    func waitUntilApplied(_ count: Int64, _ process: ChildProcess, seconds: Int = 60) throws {
        var last: Int64 = 0
        try waitUntil(
            "\(count) offsets applied", seconds: seconds, detail: { "\(last); \(process.errors.suffix(3_000))" }
        ) {
            guard process.isRunning else { throw ChildError("the consumer ended: \(process.errors.suffix(3_000))") }
            last = try next()
            return last >= count
        }
    }

    /// The consumer runs until it has caught up and the invariants hold; then it is stopped in good order.
    func expectInvariants(
        _ given: Expectation = Expectation(), sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        let process = try start()
        try expectInvariants(under: process, given, sourceLocation: sourceLocation)
        try stop(process)
    }

    /// As above, under a consumer that runs and goes on.
    func expectInvariants(
        under process: ChildProcess, _ given: Expectation = Expectation(),
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        var expected = given
        expected.acknowledged.formUnion(acknowledged)
        expected.deadLetterTopic = expected.deadLetterTopic ?? deadLetterTopic
        expected.reconciliation = reconciliation
        do {
            try FaultTests.expectInvariants(broker, topic, evidence(), expected, sourceLocation: sourceLocation)
        } catch { throw ChildError("\(error); \(process.errors.suffix(3_000))") }
    }

    /// Of the last day, as the command of the product has it.
    func reconciliation() throws -> JSONValue { try JSONValue.parse(command("reconcile", ["--json"])) }

    /// Fills a second store from the same log.
    func replay() throws -> any StoreEvidence {
        let port = try freePort()
        let process = try start(store: "again", opsPort: port)
        let evidence = evidence("again")
        let log = try LogEvidence(broker, topic)
        // Long loops leave hundreds of thousands of records.
        let seconds = 60 + Int(log.high.values.reduce(0, +) / 1_000)
        let detail = { process.errors.suffix(2_000).description }
        try waitUntil("the second store is filled", seconds: seconds, detail: detail) {
            let ledger = try evidence.ledger(topic)
            return log.high.allSatisfy { ledger[$0.key]?.next ?? 0 >= $0.value }
        }
        try stop(process)
        return evidence
    }
}
