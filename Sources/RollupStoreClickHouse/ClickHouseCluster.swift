// The statements of a single server -> those of a cluster, where `store.url` names one (`?cluster=NAME`).
//
// Every node has all tables. The large ones (`sharded`) are split over the shards, where there is more than one: their
// rows lie in tables `…_shard`, and the plain name is a Distributed table over them. The others have a copy on each node,
// `commits` first of all: one row of it still decides what counts, and its token, now in Keeper, still lets one writer
// win a slot.
//
// An insert is answered when each replica of its shard has it (`insert_quorum`). So whoever sees a row of `commits` finds
// on any node all the rows that it counts, whichever node wrote them: no reader has to wait for replication, none can see
// half a batch, and every node may be asked. The price: while a replica is away, nothing is written. Consumers wait, the
// log keeps what comes, and questions are answered; whoever takes the replica out of the cluster's definition goes on
// without it.

import RollupStore
import Synchronization

/// One cluster of the server's `remote_servers`. How many shards and replicas it has is asked before each step, where that
/// was not done lately.
final class ClickHouseCluster: Sendable {
    struct Shape {
        var shards: Int
        /// Of one shard: all have as many.
        var replicas: Int
    }

    /// | limit | unit | value | why |
    /// | --- | --- | --- | --- |
    /// | `shapeAge` | s | 5 | a replica that was taken out, or put back, is noticed |
    /// | `quorumTime` | ms | 60,000 | a replica that does not take an insert; less than a request may take |
    private enum Limits {
        static let shapeAge = 5
        static let quorumTime = 60_000
    }

    let name: String
    private let database: String
    private let known: Mutex<(shape: Shape, at: ContinuousClock.Instant)?>

    /// Those that grow with the traffic, and by which column a row finds its shard. What is one place of `rollups` is in
    /// one shard, and an event with its revisions.
    private static let sharded = [
        "events": "cityHash64(id)", "revisions": "cityHash64(id)", "rollups": "cityHash64(series)",
    ]

    /// Names stand in statements, paths of Keeper and addresses as they are. `shape`: as if it had just been asked for.
    init?(name: String, database: String, shape: Shape? = nil) {
        guard !name.isEmpty, [name, database].allSatisfy({ $0.allSatisfy(Self.isPlain) }) else { return nil }
        self.name = name
        self.database = database
        known = Mutex(shape.map { ($0, .now) })
    }

    private static func isPlain(_ character: Character) -> Bool {
        character.isASCII && (character.isLetter || character.isNumber || character == "_" || character == "-")
    }

    private var shape: Shape? { known.withLock { $0?.shape } }

    // MARK: Names and settings

    /// The table that has the rows: for what a Distributed table does not do.
    private func rowsTable(_ table: String) -> String { isSplit(table) ? "\(table)_shard" : table }

    private func isSplit(_ table: String) -> Bool { (shape?.shards ?? 1) > 1 && Self.sharded[table] != nil }

    /// What an insert into this table needs beside its own settings.
    func insertSettings(_ table: String) throws(RollupStoreError) -> String {
        guard let shape else {
            throw RollupStoreError(
                code: .unavailable, tried: "insert \(table)", reason: "the cluster was not looked at yet",
                next: "It is tried again.")
        }
        let copies = isSplit(table) ? shape.replicas : shape.shards * shape.replicas
        let quorum = copies > 1 ? copies : 0
        return "insert_quorum = \(quorum), insert_quorum_parallel = 1, insert_quorum_timeout = \(Limits.quorumTime), "
            + "distributed_foreground_insert = 1, parallel_distributed_insert_select = 0, "
    }

    /// Of every request: a Distributed table in a subquery of another is asked once for all shards, and a shard that is
    /// away is an error.
    static let settings = [("distributed_product_mode", "global"), ("skip_unavailable_shards", "0")]

    // MARK: Statements

    /// `CREATE` and `ALTER` of clickhouse.sql, one statement each -> those of this cluster.
    func statements(_ statement: String) -> [String] {
        guard let table = Self.table(of: statement) else { return [statement] }
        let rows = rowsTable(table)
        let plain =
            statement.replacing("\(table) (\n", with: "\(rows) ON CLUSTER '\(name)' (\n", maxReplacements: 1)
            .replacing("ALTER TABLE \(table) ", with: "ALTER TABLE \(rows) ON CLUSTER '\(name)' ")
            .replacing("ENGINE = MergeTree", with: "ENGINE = ReplicatedMergeTree(\(path(of: table, rows)))")
            // The time as well as the count bounds how long a token is known.
            .replacing(
                "non_replicated_deduplication_window = 10000",
                with: "replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 2592000")
            + (table == "commits" && statement.contains("CREATE TABLE") ? "\nCOMMENT '\(mark)'" : "")
        guard statement.contains("CREATE TABLE"), let key = Self.sharded[table], isSplit(table) else { return [plain] }
        return [
            plain,
            "CREATE TABLE IF NOT EXISTS \(table) ON CLUSTER '\(name)' AS \(rows) "
                + "ENGINE = Distributed('\(name)', '\(database)', '\(rows)', \(key))",
        ]
    }

    /// Where Keeper has the table, and under which name this node. `{shard}` and `{replica}` are the node's macros.
    private func path(of table: String, _ rows: String) -> String {
        let shard = isSplit(table) ? "/{shard}" : ""
        return "'/clickhouse/tables/\(name)/\(database)/\(rows)\(shard)', '{shard}-{replica}'"
    }

    private static func table(of statement: String) -> String? {
        for start in ["CREATE TABLE IF NOT EXISTS ", "ALTER TABLE "] {
            guard let range = statement.ranges(of: start).first else { continue }
            return String(statement[range.upperBound...].prefix { $0 != " " && $0 != "\n" })
        }
        return nil
    }

    /// The same on every shard.
    func everywhere(_ table: String) -> String {
        isSplit(table) ? "\(rowsTable(table)) ON CLUSTER '\(name)'" : table
    }

    /// Rows of `system.parts`, of all shards that have some of the table. Another node has another current database.
    func parts(of table: String) -> String {
        (isSplit(table) ? "cluster('\(name)', system.parts)" : "system.parts")
            + " WHERE database = '\(database)' AND table = '\(rowsTable(table))'"
    }

    // MARK: The servers

    /// Learns how many there are, where that was not asked lately. Any of them may be asked.
    func learn(_ connection: Connection) throws(RollupStoreError) {
        let before = known.withLock { $0 }
        if let before, before.at.duration(to: .now) < .seconds(Limits.shapeAge) { return }
        var answer = try connection.select(
            ["toInt64(uniqExact(shard_num))", "toInt64(count())", "toInt64(max(replica_num))"],
            "FROM system.clusters WHERE cluster = '\(name)'", "look at the cluster", anyDatabase: true)
        var counts: [Int] = []
        if try answer.next() { for _ in 0..<3 { counts.append(Int(try answer.integer(Int64.self))) } }
        try answer.end()
        guard counts.count == 3, counts[0] > 0 else {
            throw refusal(connection, "the server has no cluster '\(name)' in remote_servers")
        }
        let shape = Shape(shards: counts[0], replicas: counts[2])
        guard counts[1] == shape.shards * shape.replicas else {
            throw refusal(connection, "the shards of '\(name)' have unlike numbers of replicas")
        }
        if let before, before.shape.shards != shape.shards {
            throw refusal(connection, "the cluster '\(name)' had \(before.shape.shards) shards, now \(shape.shards)")
        }
        known.withLock { $0 = (shape, .now) }
    }

    /// What the comment on `commits` says: a store is made for one cluster, or for none, and for so many shards.
    var mark: String { "cluster \(name), shards \(shape?.shards ?? 1)" }

    private func refusal(_ connection: Connection, _ reason: String) -> RollupStoreError {
        RollupStoreError(
            code: .configuration, tried: "open the store \(connection.location.shown)", reason: reason,
            next: "Check cluster=… in store.url against system.clusters (docs/stores.md, ClickHouse: a cluster).")
    }

    /// Whether every node that answers has these tables. Where one has not, all statements are due.
    func hasAll(_ tables: Int, _ connection: Connection) throws(RollupStoreError) -> Bool {
        var answer = try connection.select(
            ["toInt64(min(here))"],
            "FROM (SELECT hostName() AS host, tcpPort() AS port, countIf(database = '\(database)') AS here "
                + "FROM clusterAllReplicas('\(name)', system.tables) GROUP BY host, port "
                + "SETTINGS skip_unavailable_shards = 1)",
            "look for the tables", anyDatabase: true)
        return try answer.next() ? answer.integer(Int64.self) >= Int64(tables) : false
    }
}
