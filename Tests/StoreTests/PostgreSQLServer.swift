// A real PostgreSQL for these tests: Debian's, made in a temporary directory, on a free port, for one user of its own
// (it does not run as root). MILLRACE_TEST_SKIP=postgresql goes without; a server that is merely missing fails.

import CPQ
import Foundation
import RollupStore
import RollupStorePostgreSQL
import Synchronization
import Testing

let isPostgreSQLWanted = !(ProcessInfo.processInfo.environment["MILLRACE_TEST_SKIP"] ?? "").split(separator: ",")
    .contains("postgresql")

struct Failure: Error, CustomStringConvertible {
    var description: String
    init(_ description: String) { self.description = description }
}

/// @unchecked: `process` is replaced by the one test that restarts its own server.
final class PostgreSQLServer: @unchecked Sendable {
    private static let programs = "/usr/lib/postgresql/15/bin/"
    /// One server for all tests that do not hurt it.
    static let shared = Result { try PostgreSQLServer() }
    private static let started = Mutex<[String]>([])

    let directory: String
    let port: Int
    private var process = Process()
    /// The server's keeper ends it when this closes, which the system does when the tests end, however they do.
    private var life = Pipe()

    init() throws {
        directory = NSTemporaryDirectory() + "millrace-postgresql-\(UUID().uuidString)"
        port = try Self.freePort()
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        guard FileManager.default.isExecutableFile(atPath: Self.programs + "postgres") else {
            throw Failure(
                "no PostgreSQL to test against: \(Self.programs)postgres is missing. Install Debian's package "
                    + "postgresql, or set MILLRACE_TEST_SKIP=postgresql to go without.")
        }
        if getuid() == 0 {
            guard let user = getpwnam("postgres") else { throw Failure("there is no user postgres") }
            chown(directory, user.pointee.pw_uid, user.pointee.pw_gid)
        }
        let isFirst = Self.started.withLock { [directory] all in
            all.append(directory)
            return all.count == 1
        }
        if isFirst { atexit { PostgreSQLServer.removeAll() } }
        let made = Process()
        made.executableURL = URL(filePath: "/usr/bin/env")
        made.arguments =
            Self.asUser + [
                Self.programs + "initdb", "--pgdata", directory + "/data", "--username", "postgres", "--auth", "trust",
                "--encoding", "UTF8", "--locale", "C", "--no-sync",
            ]
        made.standardOutput = FileHandle.nullDevice
        try made.run()
        made.waitUntilExit()
        guard made.terminationStatus == 0 else { throw Failure("initdb failed") }
        try start()
    }

    private static var asUser: [String] {
        getuid() == 0 ? ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"] : []
    }

    /// Starts the server, again after `kill`, and waits until it answers.
    func start() throws {
        let deadline = ContinuousClock.now.advanced(by: .seconds(60))
        while ContinuousClock.now < deadline {
            process = Process()
            life = Pipe()
            process.executableURL = URL(filePath: "/usr/bin/env")
            // The keeper: runs the server, and ends it when its own input does.
            let keeper = "\"$@\" </dev/null & server=$!; cat >/dev/null; kill -QUIT $server 2>/dev/null; wait $server"
            process.arguments =
                Self.asUser + [
                    "sh", "-c", keeper, "keeper", Self.programs + "postgres", "-D", directory + "/data", "-p",
                    "\(port)", "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=\(directory)", "-c",
                    "fsync=off", "-c", "max_connections=200", "-c", "timezone=Asia/Kathmandu", "-c",
                    "datestyle=SQL,DMY",
                ]
            process.standardInput = life
            let log = directory + "/log"
            _ = FileManager.default.createFile(atPath: log, contents: nil)
            process.standardOutput = FileHandle(forWritingAtPath: log)
            process.standardError = FileHandle(forWritingAtPath: log)
            try process.run()
            while ContinuousClock.now < deadline {
                if (try? Session(url())) != nil { return }
                // One that was killed may leave its children for a moment, and then this one does not come up.
                if !FileManager.default.fileExists(atPath: directory + "/data/postmaster.pid"),
                    let text = try? String(contentsOfFile: log, encoding: .utf8), text.contains("FATAL")
                {
                    break
                }
                usleep(20_000)
            }
            try life.fileHandleForWriting.close()
            process.waitUntilExit()
        }
        throw Failure("PostgreSQL did not start: see \(directory)/log")
    }

    /// SIGKILL to the server; its sessions end with it.
    func kill() throws {
        let text = try String(contentsOfFile: directory + "/data/postmaster.pid", encoding: .utf8)
        guard let pid = pid_t(text.prefix { $0 != "\n" }) else { throw Failure("no pid in postmaster.pid") }
        Foundation.kill(pid, SIGKILL)
        try life.fileHandleForWriting.close()
        process.waitUntilExit()
    }

    func remove() throws {
        try kill()
        try FileManager.default.removeItem(atPath: directory)
    }

    private static func removeAll() {
        for directory in started.withLock({ $0 }) {
            // Its keeper ends it with this process; of the files nothing is needed for that.
            try? FileManager.default.removeItem(atPath: directory)
        }
    }

    func url(_ settings: String = "", database: String = "postgres", port other: Int? = nil) -> String {
        "postgres://postgres@127.0.0.1:\(other ?? port)/\(database)?sslmode=disable\(settings)"
    }

    /// A schema of the test's own: what the URL has to say for it.
    func schema(database: String = "postgres") throws -> String {
        let name = "t_" + UUID().uuidString.replacing("-", with: "").lowercased()
        _ = try Session(url(database: database)).run("CREATE SCHEMA \(name)")
        return name
    }

    private static func freePort() throws -> Int {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(descriptor) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let status = withUnsafeMutablePointer(to: &address) { address in
            address.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                bind(descriptor, address, size) == 0 && getsockname(descriptor, address, &size) == 0
            }
        }
        guard status else { throw Failure("no free port") }
        return Int(UInt16(bigEndian: address.sin_port))
    }
}

/// A connection behind the product's back.
final class Session {
    private let handle: OpaquePointer

    init(_ url: String) throws {
        guard let handle = PQconnectdb(url) else { throw Failure("out of memory") }
        self.handle = handle
        if PQstatus(handle) != CONNECTION_OK { throw Failure(String(cString: PQerrorMessage(handle))) }
    }

    deinit { PQfinish(handle) }

    /// Rows as text; NULL as "".
    @discardableResult
    func run(_ sql: String) throws -> [[String]] {
        let result = PQexec(handle, sql)
        defer { PQclear(result) }
        switch PQresultStatus(result) {
        case PGRES_COMMAND_OK, PGRES_TUPLES_OK: break
        default: throw Failure(String(cString: PQerrorMessage(handle)))
        }
        return (0..<PQntuples(result)).map { row in
            (0..<PQnfields(result)).map { String(cString: PQgetvalue(result, row, $0)) }
        }
    }

    func number(_ sql: String) throws -> Int? { try run(sql).first?.first.flatMap { Int($0) } }
}

final class PostgreSQLUnderTest: StoreUnderTest, Sendable {
    let server: PostgreSQLServer
    let schema: String
    private let database: String
    let store: PostgreSQLRollupStore

    /// `settings`: more for the server's `options`, such as `-cname=value`.
    init(
        server: PostgreSQLServer? = nil, database: String = "postgres", port: Int? = nil, settings: [String] = []
    ) throws {
        self.server = try server ?? PostgreSQLServer.shared.get()
        self.database = database
        schema = try self.server.schema(database: database)
        let options = (["-csearch_path=\(schema)"] + settings).joined(separator: "%20").replacing("=", with: "%3D")
        url = self.server.url("&options=\(options)", database: database, port: port)
        directURL = self.server.url("&options=\(options)", database: database)
        store = try PostgreSQLRollupStore.open(url: url)
    }

    let url: String
    /// The same store, past whatever stands before the server.
    let directURL: String

    func writer() throws -> any RollupWriter { store.makeWriter() }
    var reader: any RollupReader { store.reader }
    var keys: any KeyStore { store.keys }
    var deadLetters: any DeadLetterArchive { store.deadLetters }
    func replays() throws -> any ReplayStore { store.makeReplayStore() }

    /// What each version's step added, taken away again; the newest first.
    private static let undoing = [
        (version: 9, sql: "ALTER TABLE replays DROP COLUMN workspace;"),
        (version: 8, sql: "ALTER TABLE replays DROP COLUMN log_scan;"),
        (
            version: 7,
            sql: """
            ALTER TABLE events DROP COLUMN pair_hashes; ALTER TABLE revisions DROP COLUMN pair_hashes;
            DELETE FROM retained WHERE what = 7;
            """
        ),
        (version: 6, sql: "DELETE FROM rollups WHERE grain IN (5, 6); DELETE FROM retained WHERE what IN (5, 6);"),
    ]

    /// Makes the tables those of an older version.
    func bringBack(to version: Int) throws {
        let steps = Self.undoing.filter { $0.version > version }.map(\.sql).joined()
        try session().run("\(steps) UPDATE millrace_schema SET version = \(version)")
    }

    /// With the store's tables at hand.
    func session() throws -> Session {
        let session = try Session(server.url(database: database))
        try session.run("SET search_path = \(schema)")
        return session
    }
}
