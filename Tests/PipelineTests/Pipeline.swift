// The whole product as its users run it: the built binary, a configuration file, a stub provider, real ports.

import Glibc
import JSONText
import Simulation
import Testing

/// Where things are: the repository, the built binary, the clients and the broker of the tests.
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

    /// Holds `openai-js-3`.
    static let clients = variable("MILLRACE_TEST_CLIENTS") ?? "\(repository)/../shared/clients"

    /// The script that starts a real Apache Kafka.
    static let kafka = variable("MILLRACE_TEST_KAFKA") ?? "\(repository)/../shared/kafka/kafka"

    static func python(_ environment: String) -> String { "\(repository)/.venv/\(environment)/bin/python" }

    static func sample(_ name: String) -> String { "\(repository)/Tests/Support/samples/\(name)" }

    /// `MILLRACE_TEST_ROUNDS`: how often the loops go round; `make soak` sets it.
    static func rounds(_ usual: Int) -> Int { variable("MILLRACE_TEST_ROUNDS").flatMap { Int($0) } ?? usual }

    static func variable(_ name: String) -> String? {
        guard let text = getenv(name) else { return nil }
        return String(cString: text)
    }
}

/// A stub provider and one installation of Millrace. Everything of it lies in one directory and ends with it.
final class Pipeline {
    enum Role: String, CaseIterable {
        case up, proxy, consumer, api
    }

    let work: WorkDirectory
    let proxyPort: UInt16
    let apiPort: UInt16
    let proxyOpsPort: UInt16
    let consumerOpsPort: UInt16
    let providerPort: UInt16
    private var processes: [Role: ChildProcess] = [:]
    private let provider: ChildProcess
    private let settings: String

    /// `log` is the YAML of `log:`; `store` a `store.url`, nil for a SQLite file; `rules` the text of a rules file; `more` further YAML; `provider` are options of
    /// `millrace mock-provider`.
    init(
        _ name: String, log: String = "{ kind: journal }", store: String? = nil, auth: String = "open",
        rules: String? = nil, more: String = "", provider options: [String] = []
    ) throws {
        work = try WorkDirectory(name)
        (proxyPort, apiPort, proxyOpsPort) = (try freePort(), try freePort(), try freePort())
        (consumerOpsPort, providerPort) = (try freePort(), try freePort())
        settings = """
            log: \(log)
            journal: { directory: \(work.path)/journal, segment_size_bytes: 4194304 }
            store: { url: "\(store ?? "sqlite:\(work.path)/millrace.db")" }
            proxy:
              listen: 127.0.0.1:\(proxyPort)
              ops_listen: 127.0.0.1:\(proxyOpsPort)
              providers:
                openai: { base_url: "http://127.0.0.1:\(providerPort)/v1" }
                anthropic: { base_url: "http://127.0.0.1:\(providerPort)/v1" }
            consumer: { ops_listen: 127.0.0.1:\(consumerOpsPort) }
            api: { listen: 127.0.0.1:\(apiPort) }
            auth: { mode: \(auth) }
            normalization: { rules: \(rules == nil ? "null" : "\(work.path)/rules.yaml") }
            \(more)

            """
        if let rules { try writeText("\(work.path)/rules.yaml", rules) }
        try writeText("\(work.path)/millrace.yaml", settings)
        provider = try ChildProcess(
            [Place.binary, "mock-provider", "--listen", "127.0.0.1:\(providerPort)"] + options, name: "provider",
            directory: work.path, outputTo: work.path)
        try waitUntil("the stub provider answers", seconds: 20, detail: { self.provider.errors }) {
            guard provider.isRunning else { throw ChildError("the provider ended: \(provider.errors)") }
            return (try? ask(providerPort, "GET", "/v1/models").status) == 200
        }
    }

    // MARK: Processes

    /// `failAt`: where the process dies by itself (see `failPoint`).
    func start(
        _ role: Role, _ settings: [String] = [], waits: Bool = true, failAt: String? = nil,
        environment given: [String: String] = [:]
    ) throws {
        var environment = given
        environment["MILLRACE_TEST_FAIL_AT"] = failAt
        let process = try ChildProcess(
            [Place.binary, role.rawValue, "--config", "\(work.path)/millrace.yaml"] + settings, name: role.rawValue,
            directory: work.path, environment: environment, outputTo: work.path)
        processes[role] = process
        if waits { try waitUntilReady(role) }
    }

    func waitUntilReady(_ role: Role, seconds: Int = 30) throws {
        let process = try #require(processes[role])
        let ports: [UInt16] =
            switch role {
            // `up` answers for all of itself on the API's listener.
            case .up, .api: [apiPort]
            case .proxy: [proxyOpsPort]
            case .consumer: [consumerOpsPort]
            }
        try waitUntil("\(role.rawValue) is ready", seconds: seconds, detail: { String(process.errors.suffix(3_000)) }) {
            guard process.isRunning else { throw ChildError("\(role.rawValue) ended: \(process.errors)") }
            return ports.allSatisfy { (try? ask($0, "GET", "/readyz").status) == 200 }
        }
    }

    /// `kill -9`.
    func crash(_ role: Role) throws { try processes.removeValue(forKey: role)?.crash() }

    /// Waits until the process has died at its `failAt`, as `kill -9` would end it.
    func expectDeath(_ role: Role, at place: String) throws {
        let removed = processes.removeValue(forKey: role)
        let process = try #require(removed)
        let status = try process.wait(seconds: 30)
        #expect(status == 128 + SIGKILL, "at \(place) it ended with \(status): \(process.errors.suffix(2_000))")
    }

    /// SIGTERM; expects status 0.
    func stop(_ role: Role) throws {
        guard let process = processes.removeValue(forKey: role) else { return }
        let status = try process.stop()
        #expect(status == 0, "\(role.rawValue) ended with \(status): \(process.errors.suffix(2_000))")
    }

    func send(_ signal: Int32, to role: Role) throws { try #require(processes[role]).send(signal) }

    func ownBytes(of role: Role) throws -> Int { try #require(processes[role]).ownBytes() }

    /// What the role has written to standard error.
    func errors(of role: Role) -> String { processes[role]?.errors ?? "" }

    /// Stops what runs, proxy first, so that nothing is left behind unread.
    func stopAll() throws { for role in [Role.up, .proxy, .consumer, .api] { try stop(role) } }

    // MARK: Asking

    /// What the stub provider saw since the start.
    func requestsSeenByProvider() throws -> [JSONValue] {
        try #require(try JSONValue.parse(ask(providerPort, "GET", "/__requests").body).array)
    }

    /// `POST /v1/query` over the last and the next hour, cut at minutes so that rollups cover it; the whole answer.
    func query(_ condition: String?, groupBy: [String] = [], measures: [String]) throws -> JSONValue {
        let now = Int64(time(nil)) / 60 * 60
        var members: [JSONMember] = [
            .init(key: "from", value: .string(timestamp(now - 3_600))),
            .init(key: "to", value: .string(timestamp(now + 3_600))),
            .init(key: "group_by", value: .array(groupBy.map { .string($0) })),
            .init(key: "measures", value: .array(measures.map { .string($0) })),
        ]
        if let condition { members.append(.init(key: "where", value: .string(condition))) }
        let response = try ask(
            apiPort, "POST", "/v1/query", headers: [("content-type", "application/json")],
            body: JSONValue.object(members).bytes)
        guard response.status == 200 else { throw ChildError("query answered \(response.status): \(response.text)") }
        return try JSONValue.parse(response.body)
    }

    func count(_ condition: String?) throws -> Int64 {
        try #require(try query(condition, measures: ["requests"])["totals"]?["requests"]?.integer)
    }

    /// Every event of the condition, through all pages.
    func events(_ condition: String) throws -> [JSONValue] {
        let now = Int64(time(nil))
        var all: [JSONValue] = []
        var cursor: String?
        repeat {
            var path = "/v1/events?where=\(percentEncoded(condition))&limit=500"
            path += "&from=\(percentEncoded(timestamp(now - 3_600)))&to=\(percentEncoded(timestamp(now + 3_600)))"
            if let cursor { path += "&cursor=\(percentEncoded(cursor))" }
            let response = try ask(apiPort, "GET", path)
            guard response.status == 200 else {
                throw ChildError("events answered \(response.status): \(response.text)")
            }
            let page = try JSONValue.parse(response.body)
            all += try #require(page["data"]?.array)
            cursor = page["next_cursor"]?.string
        } while cursor != nil
        return all
    }

    /// Waits until the condition counts that many, and fails where it counts more.
    func expectCount(_ condition: String, _ expected: Int, seconds: Int = 30) throws {
        var last: Int64 = -1
        do {
            try waitUntil("\(condition) counts \(expected)", seconds: seconds, detail: { "It counts \(last)." }) {
                last = (try? count(condition)) ?? last
                return last >= Int64(expected)
            }
        } catch {
            throw ChildError("\(error) Lines of the processes:\n\(processes.values.map { $0.errors.suffix(1_500) })")
        }
        #expect(last == Int64(expected), "\(condition)")
    }

    /// `GET /v1/reconciliation`, with every difference 0 by definition of `closed`.
    func reconciliation() throws -> JSONValue {
        let response = try ask(apiPort, "GET", "/v1/reconciliation")
        guard response.status == 200 else { throw ChildError("\(response.status): \(response.text)") }
        return try JSONValue.parse(response.body)
    }

    /// What proxies have recorded by the manifests alone, as they stand in the store.
    func told() throws -> Int64 {
        let result = try run(
            [
                "sqlite3", "-cmd", ".timeout 10000", "\(work.path)/millrace.db",
                "SELECT coalesce(sum(recorded), 0) FROM manifests",
            ], directory: work.path)
        return try #require(Int64(result.output.filter(\.isNumber)), "\(result.errors)")
    }

    /// Where ingest stands, by the store.
    func offsets() throws -> [(partition: Int32, next: Int64, manifests: Int64)] {
        let result = try run(
            [
                "sqlite3", "-cmd", ".timeout 10000", "\(work.path)/millrace.db",
                "SELECT partition, next_offset, manifests FROM offsets ORDER BY partition",
            ], directory: work.path)
        return result.output.split(separator: "\n").compactMap { line in
            let numbers = line.split(separator: "|").compactMap { Int64($0) }
            return numbers.count == 3 ? (Int32(clamping: numbers[0]), numbers[1], numbers[2]) : nil
        }
    }

    /// Closed at every look, and after a while nothing is in flight any more.
    func expectReconciled(seconds: Int = 30) throws {
        var last = JSONValue.null
        try waitUntil("nothing is in flight", seconds: seconds, detail: { last.text }) {
            last = try reconciliation()
            return last["closed"]?.boolean == true && last["totals"]?["in_flight"]?.integer == 0
        }
        let totals = try #require(last["totals"])
        #expect(totals["difference"]?.integer == 0)
        #expect(totals["accepted"]?.integer == (totals["recorded"]?.integer ?? 0) + (totals["dropped"]?.integer ?? 0))
        #expect(
            totals["recorded"]?.integer == (totals["applied"]?.integer ?? 0) + (totals["dead_lettered"]?.integer ?? 0))
    }

    /// One chat completion through the proxy.
    func chat(
        _ metadata: String?, model: String = "gpt-4o-mini", question: String = "What is a millrace?",
        headers: [(name: String, value: String)] = [("x-portkey-mode", "proxy openai")],
        path: String = "/v1/proxy/chat/completions"
    ) throws -> LoopbackResponse {
        var headers = headers
        headers.append(("content-type", "application/json"))
        headers.append(("x-portkey-api-key", "pk-test"))
        if let metadata { headers.append(("x-portkey-meta", metadata)) }
        return try ask(
            proxyPort, "POST", path, headers: headers, body: chatBody(model: model, question: question))
    }
}

func chatBody(model: String = "gpt-4o-mini", question: String = "What is a millrace?") -> [UInt8] {
    let body: JSONValue = [
        "model": .string(model), "messages": [["role": "user", "content": .string(question)]],
    ]
    return body.bytes
}

/// One request on a connection of its own.
func ask(
    _ port: UInt16, _ method: String, _ path: String, headers: [(name: String, value: String)] = [], body: [UInt8] = []
) throws -> LoopbackResponse {
    var client = LoopbackClient(port: port)
    return try client.request(method, path, headers: headers, body: body)
}

/// RFC 3339, in UTC.
func timestamp(_ seconds: Int64) -> String {
    var seconds = time_t(seconds)
    var parts = tm()
    gmtime_r(&seconds, &parts)
    var buffer = [CChar](repeating: 0, count: 32)
    let count = strftime(&buffer, buffer.count, "%Y-%m-%dT%H:%M:%SZ", &parts)
    return String(decoding: buffer.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
}

func percentEncoded(_ text: String) -> String {
    text.utf8.reduce(into: "") { out, byte in
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"):
            out.unicodeScalars.append(Unicode.Scalar(byte))
        default: out += "%" + (byte < 16 ? "0" : "") + String(byte, radix: 16, uppercase: true)
        }
    }
}

/// A real Apache Kafka of one or three nodes, on ports of its own.
final class KafkaCluster {
    let servers: String
    let directory: String
    private let version: String
    private let nodes: Int

    init(version: String = "4.2.0", nodes: Int = 1, in directory: String) throws {
        (self.version, self.nodes, self.directory) = (version, nodes, directory)
        servers = try Self.command(
            ["start", "--dir", directory, "--version", version, "--nodes", "\(nodes)", "--heap", "384m"])
    }

    deinit { _ = try? Self.command(["stop", "--dir", directory, "--kill"]) }

    /// `kill -9` of one node, or of all.
    func crash(node: Int? = nil) throws {
        _ = try Self.command(["stop", "--dir", directory, "--kill"] + (node.map { ["--node", "\($0)"] } ?? []))
    }

    /// Brings back what is down, same ports, same data.
    func restart() throws {
        _ = try Self.command(["start", "--dir", directory, "--version", version, "--nodes", "\(nodes)"])
    }

    private static func command(_ arguments: [String]) throws -> String {
        let result = try run([Place.kafka] + arguments, directory: "/tmp", seconds: 120)
        guard result.status == 0 else { throw ChildError("kafka \(arguments): \(result.output)\(result.errors)") }
        return result.output.split(separator: "\n").last.map(String.init) ?? ""
    }

    /// The YAML of `log:`. Uncompressed, so that a search through the broker's files sees what is in the records.
    var log: String {
        """
        { kind: kafka, kafka: { bootstrap_servers: "\(servers)", partitions: 3, replication_factor: \(nodes), \
        properties: { compression.type: none } } }
        """
    }
}
