// ClickHouse for these tests: its engine behind its HTTP interface, started and stopped by Tests/Support.

import Glibc

/// A server of the test's own; its data goes with it.
final class ClickHouse {
    /// MILLRACE_TEST_SKIP=clickhouse goes without; a server that does not start fails.
    static let isWanted = !(Place.variable("MILLRACE_TEST_SKIP") ?? "").split(separator: ",").contains("clickhouse")

    private let work: WorkDirectory
    let port: String
    private let options: [String]

    /// `options` are more of the script's.
    init(_ options: [String] = []) throws {
        self.options = options
        work = try WorkDirectory("clickhouse")
        port = try Self.script(["start", "--dir", work.path, "--while", "\(getpid())"] + options, work)
    }

    deinit { _ = try? Self.script(["stop", "--dir", work.path, "--kill"], work) }

    /// For `store.url`.
    var url: String { "clickhouse://127.0.0.1:\(port)/millrace" }

    /// `kill -9`.
    func crash() throws { _ = try Self.script(["stop", "--dir", work.path, "--kill"], work) }

    /// With the same data, on the same port.
    func restart() throws {
        _ = try Self.script(["start", "--dir", work.path, "--while", "\(getpid())"] + options, work)
    }

    private static func script(_ arguments: [String], _ work: WorkDirectory) throws -> String {
        let result = try run(
            ["\(Place.repository)/Tests/Support/clickhouse_server.py"] + arguments, directory: work.path)
        guard result.status == 0 else {
            throw ChildError("ClickHouse, \(arguments[0]): \(result.errors.suffix(1_000))")
        }
        return String(result.output.filter(\.isNumber))
    }
}
