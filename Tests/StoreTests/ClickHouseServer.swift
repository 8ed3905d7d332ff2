// ClickHouse for these tests: its engine behind its HTTP interface, started and stopped by Tests/Support.

import Foundation
import RollupStore
import RollupStoreClickHouse
import Synchronization
import Testing

/// MILLRACE_TEST_SKIP=clickhouse goes without; a server that does not start fails.
let isClickHouseWanted = !(ProcessInfo.processInfo.environment["MILLRACE_TEST_SKIP"] ?? "").split(separator: ",")
    .contains("clickhouse")

final class ClickHouseServer: Sendable {
    struct Failure: Error, CustomStringConvertible {
        var description: String
    }

    let directory: String
    let port: Int
    /// NAME=SHARDSxREPLICAS.
    private let cluster: String?

    /// One server for all tests that do not hurt it; each has a database of its own. It ends with this process. Two tests
    /// run beside one another and ask for little: more threads a statement would wait for one another.
    static let shared = Result { try ClickHouseServer(settings: ["max_threads=1"]) }
    /// One that is of no cluster, whatever is said.
    static let single =
        wantedCluster == nil ? shared : Result { try ClickHouseServer(settings: ["max_threads=1"], cluster: nil) }
    /// MILLRACE_TEST_CLUSTER=NAME=SHARDSxREPLICAS makes each server a node of such a cluster.
    static let wantedCluster = ProcessInfo.processInfo.environment["MILLRACE_TEST_CLUSTER"]
    private static let started = Mutex<[String]>([])

    init(
        user: String = "default", password: String = "", settings: [String] = [], cluster: String? = wantedCluster
    ) throws {
        self.cluster = cluster
        directory = NSTemporaryDirectory() + "millrace-clickhouse-\(UUID().uuidString)"
        let isFirst = Self.started.withLock { [directory] all in
            all.append(directory)
            return all.count == 1
        }
        if isFirst { atexit { ClickHouseServer.endAll() } }
        let text = try Self.run(
            "start", directory,
            ["--while", "\(getpid())", "--user", user, "--password", password] + settings.flatMap { ["--set", $0] }
                + (cluster.map { ["--cluster", $0] } ?? []))
        guard let port = Int(text) else { throw Failure(description: "no port in \(text)") }
        self.port = port
    }

    func kill() throws { _ = try Self.run("stop", directory, ["--kill"]) }

    func restart() throws {
        _ = try Self.run("start", directory, ["--while", "\(getpid())"] + (cluster.map { ["--cluster", $0] } ?? []))
    }

    func url(_ database: String) -> String {
        "clickhouse://127.0.0.1:\(port)/\(database)" + (cluster.map { "?cluster=\($0.prefix { $0 != "=" })" } ?? "")
    }

    /// Of a cluster: as if a replica had been lost, or come back.
    func loseReplica(_ isLost: Bool) throws {
        let sign = directory + "/away"
        if isLost {
            try Data().write(to: URL(filePath: sign))
        } else {
            try FileManager.default.removeItem(atPath: sign)
        }
    }

    /// Another client, and another judge of the tables.
    func ask(_ database: String, _ statement: String) throws -> String {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/curl")
        process.arguments = [
            "--silent", "--show-error", "--fail-with-body", "--data-binary", "@-",
            "http://127.0.0.1:\(port)/?database=\(database)",
        ]
        let input = Pipe()
        let output = Pipe()
        process.standardInput = input
        process.standardOutput = output
        try process.run()
        try input.fileHandleForWriting.write(contentsOf: Data(statement.utf8))
        try input.fileHandleForWriting.close()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        guard process.terminationStatus == 0 else { throw Failure(description: text) }
        return text.trimmingCharacters(in: .whitespacesAndNewlines)
    }

    private static func endAll() {
        for directory in started.withLock({ $0 }) where FileManager.default.fileExists(atPath: directory) {
            _ = try? run("stop", directory, ["--kill"])
            try? FileManager.default.removeItem(atPath: directory)
        }
    }

    private static func run(_ command: String, _ directory: String, _ arguments: [String]) throws -> String {
        let script = URL(filePath: #filePath).deletingLastPathComponent()
            .appending(path: "../Support/clickhouse_server.py").standardizedFileURL.path
        let process = Process()
        process.executableURL = URL(filePath: script)
        process.arguments = [command, "--dir", directory] + arguments
        let output = Pipe()
        process.standardOutput = output
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        guard process.terminationStatus == 0 else { throw Failure(description: "\(script) \(command) failed") }
        return text.trimmingCharacters(in: .whitespacesAndNewlines)
    }
}

final class ClickHouseUnderTest: StoreUnderTest, Sendable {
    let server: ClickHouseServer
    let database = "t_\(UUID().uuidString.replacingOccurrences(of: "-", with: "").lowercased())"
    let store: ClickHouseRollupStore
    private let upkeepFailures = FailureList()

    init(
        _ server: ClickHouseServer? = nil, limits: ClickHouseRollupStore.Limits = .init(),
        faults: (@Sendable (String) -> RequestFault)? = nil
    ) throws {
        self.server = try server ?? ClickHouseServer.shared.get()
        store = try ClickHouseRollupStore.open(
            url: self.server.url(database), limits: limits,
            upkeepFailed: { [upkeepFailures] error in upkeepFailures.append("\(error)") },
            faults: faults)
    }

    func writer() throws -> any RollupWriter { try store.makeWriter() }
    var reader: any RollupReader { store.reader }
    var keys: any KeyStore { store.keys }
    var deadLetters: any DeadLetterArchive { store.deadLetters }
    func replays() throws -> any ReplayStore { try store.makeReplayStore() }
    var url: String { server.url(database) }

    var failedUpkeep: [String] { upkeepFailures.all }

    func ask(_ statement: String) throws -> String { try server.ask(database, statement) }
}

private final class FailureList: Sendable {
    private let list = Mutex<[String]>([])
    func append(_ failure: String) { list.withLock { $0.append(failure) } }
    var all: [String] { list.withLock { $0 } }
}
