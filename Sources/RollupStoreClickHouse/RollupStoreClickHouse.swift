// The distributed store's adapter: makes or migrates the tables of one ClickHouse database -> writers and readers.
//
// What it promises: each event counts once through a kill of the writer or of the server at any point, lost answers,
// writers that come back late, and, as inserts are synced to disk before they are answered, a power cut of the server.
// No deduplication window and no client-side memory is part of it; ClickHouseRollupWriter.swift says why. It holds for
// one server; for the nodes of a cluster, where each insert is on every replica before it counts, ClickHouseCluster.swift
// says how.

package import RollupStore
import Schemas
import Synchronization

package struct ClickHouseRollupStore: Sendable {
    /// | limit | unit | value | why |
    /// | --- | --- | --- | --- |
    /// | `readTime` | s | 300 | one read, however long: rows that it may want are kept for longer |
    /// | `graceTime` | s | 600 | rows that were summed into a run are deleted after so long |
    /// | `chunkSize` | batches | 64 | so many are read one by one before they are summed; fixed when a store is made |
    /// | `fanOut` | runs | 8 | of one level that are summed into one of the next: a row is summed again each time |
    package struct Limits: Sendable {
        package var readTime = 300
        package var graceTime = 600
        package var chunkSize: Int64 = 64
        package var fanOut = 8
        package init() {}
    }

    /// 2: rollups by entity, and replays that read the log. 3: replays of one workspace.
    static let schemaVersion: UInt32 = 3

    package let location: ClickHouseLocation
    package let reader: ClickHouseRollupReader
    private let tables: Tables
    private let limits: Limits
    private let upkeepFailed: @Sendable (RollupStoreError) -> Void
    private let faults: (@Sendable (String) -> RequestFault)?

    /// What is wrong with a URL, as far as it can be said without connecting; nil where nothing is.
    package static func problem(with url: String) -> String? {
        do throws(RollupStoreError) {
            _ = try ClickHouseLocation(url: url)
            return nil
        } catch {
            return error.description
        }
    }

    /// Opens the store for any role, and makes database and tables where there are none yet.
    ///
    /// - `mustConnect`: a server that is away is an error; else it is met, and its tables made, when there is something
    ///   to read or write.
    /// - `readers`: how many reads run at once; further ones wait.
    /// - `upkeepFailed`: summing or deleting rows failed after a batch; it is tried again later, and answers only get
    ///   slower meanwhile.
    /// - `faults`: for tests: what befalls each request of writers.
    package static func open(
        url: String, mustConnect: Bool = true, readers: Int = 4, limits: Limits = Limits(),
        upkeepFailed: @escaping @Sendable (RollupStoreError) -> Void,
        faults: (@Sendable (String) -> RequestFault)? = nil
    ) throws(RollupStoreError) -> ClickHouseRollupStore {
        let location = try ClickHouseLocation(url: url)
        let tables = Tables(limits)
        do throws(RollupStoreError) {
            try tables.make(try Connection(location))
        } catch {
            if mustConnect || !error.isTransient { throw error }
        }
        return ClickHouseRollupStore(
            location: location,
            reader: ClickHouseRollupReader(location, tables, connections: readers, limits: limits), tables: tables,
            limits: limits, upkeepFailed: upkeepFailed, faults: faults)
    }

    package var keys: ClickHouseKeyStore { ClickHouseKeyStore(location, tables) }

    package var deadLetters: ClickHouseDeadLetters { ClickHouseDeadLetters(self) }

    /// A connection of the caller's own to tables that are there.
    func connect() throws(RollupStoreError) -> Connection {
        let connection = try Connection(location)
        try tables.make(connection)
        return connection
    }

    /// A writer of its own. Any number may write, each its own partitions: `acquire` decides whose they are.
    package func makeWriter() throws(RollupStoreError) -> sending ClickHouseRollupWriter {
        try ClickHouseRollupWriter(location, tables, limits, faults: faults, upkeepFailed: upkeepFailed)
    }

    /// For one thread. Any number of processes may have one.
    package func makeReplayStore() throws(RollupStoreError) -> ClickHouseReplayStore {
        ClickHouseReplayStore(try makeWriter(), limits)
    }
}

/// The tables of a store: made or migrated by whoever first reaches the server, and known to be there from then on.
final class Tables: Sendable {
    private let limits: ClickHouseRollupStore.Limits
    private let areMade = Mutex(false)

    init(_ limits: ClickHouseRollupStore.Limits) { self.limits = limits }

    func make(_ connection: Connection) throws(RollupStoreError) {
        try connection.location.cluster?.learn(connection)
        if areMade.withLock({ $0 }) { return }
        try migrate(connection, connection.location)
        areMade.withLock { $0 = true }
    }

    /// Every step may be done again, and by several at once: each makes only what is missing.
    private func migrate(
        _ connection: Connection, _ location: ClickHouseLocation
    ) throws(RollupStoreError) {
        let cluster = location.cluster
        let all = Schemas.clickhouse.split(separator: ";\n").map(String.init)
            .flatMap { cluster?.statements($0) ?? [$0] }
        let (creations, alterations) = (
            all.filter { $0.contains("CREATE TABLE ") }, all.filter { $0.contains("ALTER TABLE ") }
        )
        func isOfCommits(_ statement: String) -> Bool {
            [" EXISTS commits ", " TABLE commits "].contains(where: statement.contains)
        }
        // A statement for all nodes waits for all of them: where the tables are, none is sent.
        let isComplete = try cluster?.hasAll(creations.count, connection) ?? false
        let due = isComplete ? [] : creations
        if !isComplete {
            let name = location.database.split(separator: "`", omittingEmptySubsequences: false).joined(separator: "``")
            let everywhere = cluster.map { " ON CLUSTER '\($0.name)'" } ?? ""
            try connection.run(
                "CREATE DATABASE IF NOT EXISTS `\(name)`\(everywhere)", "make the database", anyDatabase: true)
        }
        // `commits` comes first: what it says of the version decides whether the rest may be touched.
        let present = try present(connection)
        let commits = present.first { $0.name == "commits" }
        guard present.isEmpty || commits != nil else {
            throw RollupStoreError(
                code: .configuration, tried: "open the store \(location.shown)",
                reason: "the database has another program's tables: \(present.map(\.name).joined(separator: ", "))",
                next: "Name another database in store.url.")
        }
        if let commits { try checkCluster(made: commits.comment, location) }
        for statement in due where isOfCommits(statement) { try connection.run(statement, "make the tables") }
        if try !hasColumn("replay_workspaces", of: ["commits"], connection) {
            for statement in alterations where isOfCommits(statement) {
                try connection.run(statement, "bring the tables forward")
            }
        }
        if let row = try CommitLog.latest(connection) {
            guard row.schemaVersion <= ClickHouseRollupStore.schemaVersion else {
                throw RollupStoreError(
                    code: .newerSchema, tried: "open the store \(location.shown)",
                    reason:
                        "its schema is version \(row.schemaVersion), this program knows up to \(ClickHouseRollupStore.schemaVersion)",
                    next: "Run the newer program, or name another database in store.url.")
            }
        }
        for statement in due where !isOfCommits(statement) { try connection.run(statement, "make the tables") }
        if try !hasColumn("pair_hashes", of: ["events", "revisions"], connection) {
            for statement in alterations where !isOfCommits(statement) {
                try connection.run(statement, "bring the tables forward")
            }
        }
        // Slot 0, the state before the first. Whoever else makes it makes the same.
        if try CommitLog.latest(connection) == nil {
            _ = try CommitLog.fill(StoreState(chunkSize: limits.chunkSize), .random(), connection)
        }
    }

    /// Tables of one server do not become those of a cluster by asking for it, nor the reverse.
    private func checkCluster(made: String, _ location: ClickHouseLocation) throws(RollupStoreError) {
        let wanted = location.cluster?.mark ?? ""
        if made == wanted { return }
        throw RollupStoreError(
            code: .configuration, tried: "open the store \(location.shown)",
            reason: "its tables are made for \(made.isEmpty ? "one server" : made), "
                + "and store.url asks for \(wanted.isEmpty ? "one server" : wanted)",
            next: "Name cluster=… as it was when the tables were made, or another database and fill it from the log.")
    }

    private func hasColumn(
        _ name: String, of tables: [String], _ connection: Connection
    ) throws(RollupStoreError) -> Bool {
        let names = tables.map { "'\($0)'" }.joined(separator: ", ")
        var answer = try connection.select(
            ["toInt64(count())"],
            "FROM system.columns WHERE database = currentDatabase() AND table IN (\(names)) AND name = '\(name)'",
            "list the columns")
        return try answer.next() ? answer.integer(Int64.self) == Int64(tables.count) : false
    }

    /// Those of the database's tables that have names of ours.
    private func present(_ connection: Connection) throws(RollupStoreError) -> [(name: String, comment: String)] {
        var answer = try connection.select(
            ["name", "comment"],
            "FROM system.tables WHERE database = currentDatabase() AND name IN ('commits', 'series', 'rollups', 'events', "
                + "'manifests', 'proxy_minutes', 'dead_letters', 'redrives', 'key_changes', 'rules', 'replay_plans', "
                + "'replay_pending', 'replay_settled', 'revisions') ORDER BY name",
            "list the tables")
        var tables: [(name: String, comment: String)] = []
        while try answer.next() { tables.append((try answer.text(), try answer.text())) }
        return tables
    }
}
