// The stores that are servers, for the fault tests: each started, hurt and read here, by plain programs alone.

import Glibc
import Testing

/// What a fault test runs against.
enum StoreKind: String, CaseIterable, CustomTestStringConvertible {
    case postgresql, clickhouse

    /// Those that `MILLRACE_TEST_SKIP` does not leave out by name; one that does not start fails.
    static var allCases: [StoreKind] {
        let left = (Place.variable("MILLRACE_TEST_SKIP") ?? "").split(separator: ",").map(String.init)
        return [.postgresql, .clickhouse].filter { !left.contains($0.rawValue) }
    }

    var testDescription: String { rawValue }

    func start() throws -> any StoreServer {
        switch self {
        case .postgresql: try PostgreSQLServer()
        case .clickhouse: try ClickHouseServer()
        }
    }
}

/// A server of one test's own; it and its data go with the test.
protocol StoreServer: AnyObject {
    var port: UInt16 { get }
    /// An empty store: what `store.url` names, reached by this port.
    func url(_ store: String, port: UInt16) throws -> String
    func evidence(_ store: String) -> any StoreEvidence
    /// `kill -9`.
    func crash() throws
    /// With the same data, on the same port.
    func restart() throws
    /// Makes the store one of a program of so many versions later.
    func raiseSchema(_ store: String, by versions: Int) throws
}

// MARK: PostgreSQL

/// Debian's, for one user of its own: it does not run as root. It syncs, as a server does that must not forget.
final class PostgreSQLServer: StoreServer {
    private static let programs = "/usr/lib/postgresql/15/bin/"
    private static let asUser =
        getuid() == 0 ? ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"] : []
    let port: UInt16
    private let work: WorkDirectory
    private var process: ChildProcess?
    private var made: Set<String> = []

    init() throws {
        work = try WorkDirectory("faults-postgresql")
        port = try freePort()
        if getuid() == 0 {
            let owned = try run(["chown", "postgres:postgres", work.path], directory: "/")
            guard owned.status == 0 else { throw ChildError("no user postgres: \(owned.errors)") }
        }
        let initialized = try run(
            Self.asUser + [
                Self.programs + "initdb", "--pgdata", "\(work.path)/data", "--username", "postgres", "--auth", "trust",
                "--encoding", "UTF8", "--locale", "C", "--no-sync",
            ], directory: work.path)
        guard initialized.status == 0 else { throw ChildError("initdb: \(initialized.errors)") }
        try restart()
    }

    deinit { try? crash() }

    func url(_ store: String, port: UInt16) throws -> String {
        if made.insert(store).inserted { _ = try PostgreSQLEvidence(port: self.port).run("CREATE DATABASE \(store)") }
        return "postgres://postgres@127.0.0.1:\(port)/\(store)?sslmode=disable"
    }

    func evidence(_ store: String) -> any StoreEvidence { PostgreSQLEvidence(port: port, database: store) }

    func crash() throws {
        try process?.crash()
        process = nil
    }

    func raiseSchema(_ store: String, by versions: Int) throws {
        _ = try PostgreSQLEvidence(port: port, database: store).run(
            "UPDATE millrace_schema SET version = version + \(versions)")
    }

    func restart() throws {
        // What a killed server left running keeps its memory for a moment, and the next one does not come up.
        try waitUntil("PostgreSQL is up", seconds: 60, detail: { process?.errors ?? "" }) {
            if process?.isRunning != true {
                process = try ChildProcess(
                    Self.asUser + [
                        Self.programs + "postgres", "-D", "\(work.path)/data", "-p", "\(port)", "-c",
                        "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "timezone=Asia/Kathmandu",
                    ], name: "postgresql", directory: work.path, outputTo: "/tmp")
            }
            return (try? PostgreSQLEvidence(port: port).run("SELECT 1")) == [["1"]]
        }
        process?.forgetOutput()
    }
}

/// By `psql`.
struct PostgreSQLEvidence: StoreEvidence {
    let port: UInt16
    var database = "postgres"

    func run(_ sql: String) throws -> [[String]] {
        let result = try FaultTests.run(
            [
                "psql", "-X", "-q", "-A", "-t", "-F", "\u{1F}", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p",
                "\(port)", "-U", "postgres", "-d", database, "-c", sql,
            ], directory: "/")
        guard result.status == 0 else { throw ChildError("\(sql): \(result.errors)") }
        return result.output.split(separator: "\n").map {
            $0.split(separator: "\u{1F}", omittingEmptySubsequences: false).map(String.init)
        }
    }

    func ledger(_ topic: String) throws -> [Int32: LedgerRow] {
        // Before the first start there is no table yet.
        if try run("SELECT to_regclass('offsets') IS NULL") == [["t"]] { return [:] }
        return try Reading.ledger(
            run(
                "SELECT partition, start_offset, next_offset, applied, duplicates, manifests, dead_letters, skipped, "
                    + "lost FROM offsets WHERE topic = '\(topic)' AND generation = 1"))
    }

    func eventIDs() throws -> [String] {
        try run("SELECT upper(replace(id::text, '-', '')) FROM events").map { $0[0] }
    }

    func rollups() throws -> [Bucket: Sums] {
        try Reading.rollups(
            run("SELECT grain, bucket, \(Reading.sums) FROM rollups WHERE generation = 1 GROUP BY grain, bucket"))
    }

    private static func text(_ column: String) -> String { "convert_from(\(column), 'UTF8')" }

    func byDimensions() throws -> [String: Int64] {
        try Reading.counts(
            run(
                """
                SELECT \(Self.text("s.workspace")) || '|' || \(Self.text("s.provider")) || '|' ||
                    \(Self.text("s.model")) || '|' || s.outcome || '|' || s.status_class, sum(r.requests)
                FROM rollups r JOIN series s ON s.id = r.series WHERE r.generation = 1 AND r.grain = 2 GROUP BY 1
                """))
    }

    func latencyBins() throws -> [Int64: [Int: Int64]] {
        var all: [Int64: [Int: Int64]] = [:]
        for row in try run("SELECT bucket, encode(bins, 'hex') FROM rollups WHERE generation = 1 AND grain = 2") {
            let bucket = try #require(Int64(row[0]))
            for (bin, count) in try Self.bins(row[1]) where bin < 65_536 {
                all[bucket, default: [:]][bin - 32_768, default: 0] += count
            }
        }
        return all
    }

    /// A list of parts, each its length and then pairs of varints, a gap to the key before and a count; summed by key.
    private static func bins(_ text: String) throws -> [Int: Int64] {
        var rest = Reading.bytes(text)[...]
        var all: [Int: Int64] = [:]
        while !rest.isEmpty {
            let size = try Reading.varint(&rest)
            var part = rest.prefix(size)
            rest = rest.dropFirst(size)
            var key = 0
            while !part.isEmpty {
                key += try Reading.varint(&part)
                all[key, default: 0] += Int64(try Reading.varint(&part))
            }
        }
        return all
    }

    func deadLetters(_ topic: String) throws -> [String] {
        try run("SELECT partition || '/' || source_offset FROM dead_letters WHERE topic = '\(topic)'").map { $0[0] }
    }

    func wholeRollups() throws -> [String] {
        let keys =
            "r.grain, r.bucket, s.workspace, s.api_key, s.provider, s.operation, s.model, s.outcome, "
            + "s.status_class, m.pairs"
        let rows = try run(
            """
            SELECT \(keys), \(Reading.allSums), string_agg(encode(r.bins, 'hex'), '')
            FROM rollups r JOIN series s ON s.id = r.series JOIN metadata_sets m ON m.id = s.set_id
            WHERE r.generation = 1 GROUP BY \(keys)
            """)
        // How the parts came to be added is the batches' doing; what they add up to is not.
        return try rows.map { row in
            let bins = try Self.bins(row[row.count - 1]).sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }
            return (row.dropLast() + bins).joined(separator: "\u{1F}")
        }.sorted()
    }
}

// MARK: ClickHouse

/// Its engine behind its HTTP interface, by Tests/Support.
final class ClickHouseServer: StoreServer {
    let port: UInt16
    private let work: WorkDirectory
    private let starting: [String]

    /// `settings`: `NAME=VALUE`, where a request says nothing.
    init(settings: [String] = []) throws {
        work = try WorkDirectory("faults-clickhouse")
        starting =
            ["start", "--dir", work.path, "--while", "\(getpid())"] + settings.flatMap { ["--set", $0] }
        let text = try Self.script(starting, work)
        port = try #require(UInt16(text), "no port in \(text)")
    }

    deinit { try? crash() }

    func url(_ store: String, port: UInt16) -> String { "clickhouse://127.0.0.1:\(port)/\(store)" }
    func evidence(_ store: String) -> any StoreEvidence { ClickHouseEvidence(port: port, database: store) }
    func crash() throws { _ = try Self.script(["stop", "--dir", work.path, "--kill"], work) }

    func raiseSchema(_ store: String, by versions: Int) throws {
        _ = try ClickHouseEvidence(port: port, database: store).run(
            "INSERT INTO commits SELECT * REPLACE (slot + 1 AS slot, toUInt32(schema_version + \(versions)) AS "
                + "schema_version) FROM \(ClickHouseEvidence.latest)")
    }

    func restart() throws { _ = try Self.script(starting, work) }

    private static func script(_ arguments: [String], _ work: WorkDirectory) throws -> String {
        let result = try run(
            ["\(Place.repository)/Tests/Support/clickhouse_server.py"] + arguments, directory: work.path)
        guard result.status == 0 else { throw ChildError("ClickHouse, \(arguments[0]): \(result.errors)") }
        return result.output.filter(\.isNumber)
    }
}

/// By `curl`. What counts stands in the row of the latest slot that was there first; the tables are asked for that.
struct ClickHouseEvidence: StoreEvidence {
    let port: UInt16
    let database: String

    func run(_ sql: String, database: String? = nil) throws -> [[String]] {
        let result = try FaultTests.run(
            [
                "curl", "--silent", "--show-error", "--fail-with-body", "--data-binary", sql,
                "http://127.0.0.1:\(port)/?database=\(database ?? self.database)",
            ], directory: "/")
        guard result.status == 0 else { throw ChildError("\(sql): \(result.output)\(result.errors)") }
        return result.output.split(separator: "\n").map {
            $0.split(separator: "\t", omittingEmptySubsequences: false).map(String.init)
        }
    }

    static let latest =
        "(SELECT * FROM commits WHERE slot = (SELECT max(slot) FROM commits) ORDER BY _block_number LIMIT 1)"

    /// Conditions on rows: of what is not summed, and of rollups.
    private func counting() throws -> (rows: String, rollups: String) {
        let row = try #require(
            try run("SELECT slot, floor, toString(excluded), toString(runs) FROM \(Self.latest)").first)
        let counts = "number <= \(row[0]) AND NOT has(\(row[2])::Array(Int64), number)"
        return (
            counts,
            "((chunk < 0 AND has(\(row[3])::Array(Int64), number)) OR "
                + "(chunk >= 0 AND number > \(row[1]) AND \(counts)))"
        )
    }

    func ledger(_ topic: String) throws -> [Int32: LedgerRow] {
        // Before the first start there is no table yet.
        let found = try run(
            "SELECT count() FROM system.tables WHERE database = '\(database)' AND name = 'commits'", database: "default"
        )
        if found != [["1"]] { return [:] }
        return try Reading.ledger(
            run(
                """
                SELECT p, s, n, a, d, m, l, k, o FROM \(Self.latest)
                ARRAY JOIN topics AS t, partitions AS p, starts AS s, nexts AS n, applied AS a, duplicates AS d,
                    manifests AS m, dead_letters AS l, skipped AS k, lost AS o
                WHERE t = '\(topic)'
                """))
    }

    func eventIDs() throws -> [String] {
        try run("SELECT hex(id) FROM events WHERE \(counting().rows)").map { $0[0] }
    }

    func rollups() throws -> [Bucket: Sums] {
        try Reading.rollups(
            run("SELECT grain, bucket, \(Reading.sums) FROM rollups WHERE \(counting().rollups) GROUP BY grain, bucket")
        )
    }

    private static let series =
        "(SELECT DISTINCT id, workspace, api_key, provider, operation, model, outcome, "
        + "status_class, pairs FROM series) AS s"

    func byDimensions() throws -> [String: Int64] {
        try Reading.counts(
            run(
                """
                SELECT concat(s.workspace, '|', s.provider, '|', s.model, '|', toString(s.outcome), '|',
                    toString(s.status_class)) AS name, sum(requests)
                FROM rollups AS r JOIN \(Self.series) ON s.id = r.series
                WHERE \(counting().rollups) AND grain = 2 GROUP BY name
                """))
    }

    func latencyBins() throws -> [Int64: [Int: Int64]] {
        let rows = try run(
            """
            SELECT bucket, code, sum(amount) FROM rollups ARRAY JOIN bin_codes AS code, bin_counts AS amount
            WHERE \(counting().rollups) AND grain = 2 AND code < 65536 GROUP BY bucket, code
            """)
        return try rows.reduce(into: [:]) { all, row in
            let numbers = try row.map { try #require(Int64($0)) }
            all[numbers[0], default: [:]][Int(numbers[1]) - 32_768] = numbers[2]
        }
    }

    func deadLetters(_ topic: String) throws -> [String] {
        let rows = try run(
            "SELECT concat(toString(partition), '/', toString(source_offset)) FROM dead_letters "
                + "WHERE topic = '\(topic)' AND \(counting().rows)")
        return rows.map { $0[0] }
    }

    func wholeRollups() throws -> [String] {
        let keys =
            "grain, bucket, s.workspace, s.api_key, s.provider, s.operation, s.model, s.outcome, "
            + "s.status_class, s.pairs"
        let rows = try run(
            """
            SELECT \(keys), \(Reading.allSums), toString(sumMap(bin_codes, bin_counts))
            FROM rollups AS r JOIN \(Self.series) ON s.id = r.series WHERE \(counting().rollups) GROUP BY \(keys)
            """)
        return rows.map { $0.joined(separator: "\u{1F}") }.sorted()
    }
}

// MARK: What both say

private enum Reading {
    static let sums =
        "sum(requests), sum(input_tokens), sum(output_tokens), sum(cost_nano_usd), sum(request_bytes), "
        + "sum(response_bytes), sum(latency_count), sum(latency_sum_us)"
    static let allSums =
        sums + ", sum(cached_tokens), sum(reasoning_tokens), sum(first_token_count), sum(first_token_sum_us), "
        + "sum(overhead_count), sum(overhead_sum_us)"

    static func ledger(_ rows: [[String]]) throws -> [Int32: LedgerRow] {
        try rows.reduce(into: [:]) { all, row in
            let numbers = try row.map { try #require(Int64($0)) }
            all[Int32(numbers[0])] = LedgerRow(
                start: numbers[1], next: numbers[2], applied: numbers[3], duplicates: numbers[4], manifests: numbers[5],
                deadLetters: numbers[6], skipped: numbers[7], lost: numbers[8])
        }
    }

    static func rollups(_ rows: [[String]]) throws -> [Bucket: Sums] {
        try rows.reduce(into: [:]) { all, row in
            let numbers = try row.map { try #require(Int64($0)) }
            all[Bucket(grain: Int(numbers[0]), number: numbers[1])] = Sums(
                requests: numbers[2], inputTokens: numbers[3], outputTokens: numbers[4], cost: numbers[5],
                requestBytes: numbers[6], responseBytes: numbers[7], latencyCount: numbers[8], latencySum: numbers[9])
        }
    }

    static func counts(_ rows: [[String]]) -> [String: Int64] {
        rows.reduce(into: [:]) { $0[$1[0]] = Int64($1[1]) }
    }

    static func bytes(_ hex: String) -> [UInt8] {
        let digits = Array(hex.utf8)
        return stride(from: 0, to: digits.count - 1, by: 2).compactMap {
            UInt8(String(decoding: digits[$0..<$0 + 2], as: UTF8.self), radix: 16)
        }
    }

    static func varint(_ bytes: inout ArraySlice<UInt8>) throws -> Int {
        var number = 0
        var shift = 0
        while let byte = bytes.popFirst() {
            number |= Int(byte & 0x7F) << shift
            if byte < 0x80 { return number }
            shift += 7
        }
        throw ChildError("bins end in the middle of a number")
    }
}
