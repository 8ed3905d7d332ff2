// One topic, one store, and the consumer as its users run it: the built binary with a configuration file.

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
    private var seed = Int.random(in: 1...1_000_000_000)
    /// Ids of the events that `load` was told are in the log.
    private(set) var acknowledged: Set<String> = []

    init(_ broker: Broker, _ name: String, partitions: Int = 3, maxEvents: Int = 200, properties: String = "{}") throws
    {
        self.broker = broker
        work = try WorkDirectory("faults-\(name)")
        topic = "\(name)-\(UInt32.random(in: 0...UInt32.max))"
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
                properties: \(properties)
            consumer: { ops_listen: "127.0.0.1:\(opsPort)", batch: { max_events: \(maxEvents), max_wait_ms: 50 } }
            """
        try writeText("\(work.path)/millrace.yaml", settings)
    }

    var store: SQLiteEvidence { store("store") }
    func store(_ name: String) -> SQLiteEvidence { SQLiteEvidence(path: "\(work.path)/\(name).db") }

    // MARK: Processes

    /// `failAt`: where the process dies by itself (see `failPoint`).
    func start(
        failAt: String? = nil, store: String = "store", opsPort port: UInt16? = nil, prefix: [String] = []
    ) throws -> ChildProcess {
        try ChildProcess(
            prefix + command("consumer", store) + ["--consumer.ops_listen", "127.0.0.1:\(port ?? opsPort)"],
            name: "consumer", directory: work.path, environment: failAt.map { ["MILLRACE_TEST_FAIL_AT": $0] } ?? [:],
            outputTo: work.path)
    }

    private func command(_ name: String, _ store: String = "store") -> [String] {
        [Place.binary] + name.split(separator: " ").map(String.init)
            + ["--config", "\(work.path)/millrace.yaml", "--store.url", "sqlite:\(work.path)/\(store).db"]
    }

    /// SIGTERM and status 0.
    func stop(_ process: ChildProcess) throws {
        let status = try process.stop()
        #expect(status == 0, "the consumer ended with \(status): \(process.errors.suffix(2_000))")
    }

    /// A command of the product to its end; its output.
    func command(_ name: String, _ arguments: [String]) throws -> String {
        let result = try run(command(name) + arguments, directory: work.path, seconds: 90)
        guard result.status == 0 else { throw ChildError("\(name) \(arguments): \(result.output)\(result.errors)") }
        return result.output
    }

    // MARK: The log

    /// Events by `millrace loadgen`, acknowledged when it returns.
    func load(_ events: Int, _ arguments: [String] = []) throws {
        seed += 1
        let truth = "\(work.path)/truth-\(seed).jsonl"
        _ = try command("loadgen", ["--events", "\(events)", "--seed", "\(seed)", "--ground-truth", truth] + arguments)
        for line in readText(truth).split(separator: "\n") {
            let event = try JSONValue.parse(String(line))
            let id = try #require(event["id"]?.string)
            acknowledged.insert(id.filter { $0 != "-" }.uppercased())
        }
    }

    /// Events at a pace, from another process, until it ends by itself.
    func loading(_ events: Int, rate: Int) throws -> ChildProcess {
        seed += 1
        return try ChildProcess(
            command("loadgen") + ["--events", "\(events)", "--seed", "\(seed)", "--rate", "\(rate)"], name: "loadgen",
            directory: work.path, outputTo: work.path)
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
        var client = LoopbackClient(port: opsPort)
        guard let response = try? client.request("GET", "/metrics", headers: [], body: []) else { return nil }
        let rows = response.text.split(separator: "\n").filter { $0.hasPrefix("\(name){") || $0.hasPrefix("\(name) ") }
        return rows.reduce(0) { $0 + ($1.split(separator: " ").last.flatMap { Double($0) } ?? 0) }
    }

    func next() throws -> Int64 { try store.ledger(topic).values.reduce(0) { $0 + $1.next } }

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
        do {
            try FaultTests.expectInvariants(broker, topic, store, expected, sourceLocation: sourceLocation)
        } catch { throw ChildError("\(error); \(process.errors.suffix(3_000))") }
    }

    /// Fills a second store from the same log.
    func replay() throws -> any StoreEvidence {
        let port = try freePort()
        let process = try start(store: "again", opsPort: port)
        let evidence = store("again")
        let log = try LogEvidence(broker, topic)
        try waitUntil("the second store is filled", seconds: 60, detail: { process.errors.suffix(2_000).description }) {
            let ledger = try evidence.ledger(topic)
            return log.high.allSatisfy { ledger[$0.key]?.next ?? 0 >= $0.value }
        }
        try stop(process)
        return evidence
    }
}
