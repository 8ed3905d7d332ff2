// The stores that the contract holds for. A new adapter adds a case here and passes the suite unchanged.

import Foundation
import RollupStore
import RollupStoreSQLite
import Testing

enum StoreKind: String, CaseIterable, CustomTestStringConvertible {
    case sqlite, postgresql, clickhouse

    /// Those whose server is not left out by name.
    static var allCases: [StoreKind] {
        [.sqlite] + (isPostgreSQLWanted ? [.postgresql] : []) + (isClickHouseWanted ? [.clickhouse] : [])
    }

    /// Those whose past can be rebuilt.
    static var replaying: [StoreKind] { allCases }

    /// All of these on SQLite, where they are soonest done; the first on the others.
    static func all(seeds: [UInt64]) -> [(StoreKind, UInt64)] {
        allCases.flatMap { kind in seeds.prefix(kind == .sqlite ? seeds.count : 1).map { (kind, $0) } }
    }

    var testDescription: String { rawValue }

    /// An empty store of the test's own.
    func make() throws -> any StoreUnderTest {
        switch self {
        case .sqlite: try SQLiteUnderTest()
        case .postgresql: try PostgreSQLUnderTest()
        case .clickhouse: try ClickHouseUnderTest()
        }
    }
}

extension StoreKind {
    /// One whose tables the test changes by hand: never of a cluster.
    func makeOnOneServer() throws -> any StoreUnderTest {
        try self == .clickhouse ? ClickHouseUnderTest(Servers.one.server()) : make()
    }
}

protocol StoreUnderTest: AnyObject {
    /// Another writer, as another process would open it, whatever the first one is doing.
    func writer() throws -> any RollupWriter
    var reader: any RollupReader { get }
    var keys: any KeyStore { get }
    var deadLetters: any DeadLetterArchive { get }
    func replays() throws -> any ReplayStore
    /// For `store.url`.
    var url: String { get }
}

/// A directory that goes with the test.
final class TemporaryDirectory {
    let path: String

    init() throws {
        path = NSTemporaryDirectory() + "millrace-store-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }
}

final class SQLiteUnderTest: StoreUnderTest {
    let directory: TemporaryDirectory
    let store: SQLiteRollupStore

    init() throws {
        directory = try TemporaryDirectory()
        store = try SQLiteRollupStore.open(path: directory.path + "/millrace.db")
    }

    func writer() throws -> any RollupWriter {
        // The lock file keeps an honest second writer out; epochs must hold without it.
        try? FileManager.default.removeItem(atPath: store.path + ".writer-lock")
        return try store.makeWriter()
    }

    var reader: any RollupReader { store.reader }
    var keys: any KeyStore { store.keys }
    var deadLetters: any DeadLetterArchive { store.deadLetters }
    func replays() throws -> any ReplayStore { try store.makeReplayStore() }
    var url: String { "sqlite:\(store.path)" }

    /// What each version's step added, taken away again; the newest first.
    private static let undoing = [
        (version: 11, sql: "ALTER TABLE replays DROP COLUMN workspace;"),
        (version: 10, sql: "ALTER TABLE replays DROP COLUMN log_scan;"),
        (
            version: 9,
            sql: "DROP TABLE event_pairs; DROP TABLE pair_runs; DELETE FROM retained WHERE what = 7;"
        ),
        (version: 8, sql: "DELETE FROM rollups WHERE grain IN (5, 6); DELETE FROM retained WHERE what IN (5, 6);"),
        (version: 7, sql: "DROP TABLE rollup_days;"),
        (
            version: 6,
            sql: """
            DROP TABLE replays; DROP TABLE replay_pending; DROP TABLE revisions;
            CREATE TABLE generations (id INTEGER PRIMARY KEY, state TEXT NOT NULL);
            """
        ),
        (version: 5, sql: "DROP TABLE rules_timeline; DROP TABLE rules;"),
        (
            version: 4,
            sql: """
            ALTER TABLE dead_letters DROP COLUMN minute_us; ALTER TABLE dead_letters DROP COLUMN proxy;
            DROP TABLE proxy_minutes; DROP TABLE manifests;
            CREATE TABLE manifests (proxy TEXT, minute_us INTEGER, accepted INTEGER, recorded INTEGER,
                dropped INTEGER, PRIMARY KEY (proxy, minute_us));
            """
        ),
        (version: 3, sql: "ALTER TABLE dead_letters DROP COLUMN redriven_us;"), (version: 2, sql: "DROP TABLE keys;"),
    ]

    /// Makes the file one of an older version.
    func bringBack(to version: Int) throws {
        let steps = Self.undoing.filter { $0.version > version }.map(\.sql).joined()
        try execute("\(steps) PRAGMA user_version = \(version)")
    }

    /// By Debian's command-line program.
    func execute(_ sql: String) throws {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/sqlite3")
        process.arguments = [store.path, sql]
        try process.run()
        process.waitUntilExit()
        #expect(process.terminationStatus == 0)
    }
}
