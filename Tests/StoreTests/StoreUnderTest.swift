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

protocol StoreUnderTest: AnyObject {
    /// Another writer, as another process would open it, whatever the first one is doing.
    func writer() throws -> any RollupWriter
    var reader: any RollupReader { get }
    var keys: any KeyStore { get }
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
