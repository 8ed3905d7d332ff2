// `store.url` -> the store that it names. A further store is a case more.

import Configuration
import RollupStore
import RollupStoreClickHouse
import RollupStorePostgreSQL
import RollupStoreSQLite
import Telemetry

/// An opened store, whichever it is.
enum OpenStore {
    case sqlite(SQLiteRollupStore)
    case postgresql(PostgreSQLRollupStore)
    case clickhouse(ClickHouseRollupStore)

    /// For people, without a password.
    var name: String {
        switch self {
        case .sqlite(let store): store.path
        case .postgresql(let store): store.description
        case .clickhouse(let store): store.location.shown
        }
    }

    var reader: any RollupReader {
        switch self {
        case .sqlite(let store): store.reader
        case .postgresql(let store): store.reader
        case .clickhouse(let store): store.reader
        }
    }

    var keys: any KeyStore {
        switch self {
        case .sqlite(let store): store.keys
        case .postgresql(let store): store.keys
        case .clickhouse(let store): store.keys
        }
    }

    var deadLetters: any DeadLetterArchive {
        switch self {
        case .sqlite(let store): store.deadLetters
        case .postgresql(let store): store.deadLetters
        case .clickhouse(let store): store.deadLetters
        }
    }

    /// For one thread.
    func makeReplayStore() throws -> any ReplayStore {
        switch self {
        case .sqlite(let store): try store.makeReplayStore()
        case .postgresql(let store): store.makeReplayStore()
        case .clickhouse(let store): try store.makeReplayStore()
        }
    }

    func makeWriter() throws -> sending any RollupWriter {
        switch self {
        case .sqlite(let store): try store.makeWriter()
        case .postgresql(let store): store.makeWriter()
        case .clickhouse(let store): try store.makeWriter()
        }
    }
}

enum Stores {
    /// What can be said of a location without going there; nil: it is fine.
    static func problem(with location: StoreLocation) -> String? {
        switch location {
        case .sqlite: nil
        case .postgres(let url): PostgreSQLRollupStore.problem(with: url)
        case .clickhouse(let url): ClickHouseRollupStore.problem(with: url)
        }
    }

    /// Makes the tables where there are none, and for SQLite the file and its directory.
    ///
    /// - `mustConnect`: a server that is away is an error; else it is tried again when something is asked of it.
    static func open(_ location: StoreLocation, mustConnect: Bool, readers: Int, log: Log) throws -> OpenStore {
        if let problem = problem(with: location) { throw Failure(problem, status: 2) }
        switch location {
        case .sqlite(let path):
            return .sqlite(try SQLiteRollupStore.open(path: path, createDirectory: true, readers: readers))
        case .postgres(let url):
            return .postgresql(
                try PostgreSQLRollupStore.open(url: url, mustConnect: mustConnect, readers: readers))
        case .clickhouse(let url):
            return .clickhouse(
                try ClickHouseRollupStore.open(
                    url: url, mustConnect: mustConnect, readers: readers,
                    upkeepFailed: { log(.consumerStoreUpkeepFailed(reason: $0.description)) }))
        }
    }
}
