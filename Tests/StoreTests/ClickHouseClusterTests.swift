// A store on a cluster, as one node of it sees it: Tests/Support/clickhouse_server.py says what it plays and what it can't.
// MILLRACE_TEST_CLUSTER=main=2x2 runs all the other tests of a ClickHouse store on such a node, too.

import Events
import RecordLog
import RollupStore
import Rollups
import Schemas
import Testing

@testable import RollupStoreClickHouse

/// On what a ClickHouse store may lie.
enum Servers: String, CaseIterable {
    case one, replicas, shards

    private static let pair = Result { try ClickHouseServer(settings: ["max_threads=1"], cluster: "pair=1x2") }
    private static let four = Result { try ClickHouseServer(settings: ["max_threads=1"], cluster: "four=2x2") }

    func server() throws -> ClickHouseServer {
        switch self {
        case .one: try ClickHouseServer.single.get()
        case .replicas: try Self.pair.get()
        case .shards: try Self.four.get()
        }
    }
}

@Suite struct ClickHouseClusterTests {
    private static let partitions = (0..<2).map { TopicPartition(topic: "events", partition: Int32($0)) }

    private func cluster(_ shards: Int, _ replicas: Int) throws -> ClickHouseCluster {
        try #require(
            ClickHouseCluster(name: "c-1", database: "db", shape: .init(shards: shards, replicas: replicas)))
    }

    // MARK: Statements

    @Test(arguments: [1, 2])
    func allTablesAreReplicatedAndTheLargeOnesSplit(_ shards: Int) throws {
        let cluster = try cluster(shards, 2)
        var split: Set<String> = []
        let statements = Schemas.clickhouse.split(separator: ";\n").map(String.init)
        for statement in statements where statement.contains("CREATE TABLE") || statement.contains("ALTER TABLE") {
            let made = cluster.statements(statement)
            let text = try #require(made.first)
            #expect(text.contains(" ON CLUSTER 'c-1' "), "\(text)")
            #expect(!text.contains("non_replicated") && !text.contains("ENGINE = MergeTree"), "\(text)")
            if made.count == 2 { split.insert(String(made[1].split(separator: " ")[5])) }
        }
        #expect(split == (shards == 1 ? [] : ["events", "revisions", "rollups"]))
        let commits = cluster.statements(
            "CREATE TABLE IF NOT EXISTS commits (\n    a UInt8\n) ENGINE = MergeTree ORDER BY a")
        #expect(
            commits == [
                "CREATE TABLE IF NOT EXISTS commits ON CLUSTER 'c-1' (\n    a UInt8\n) "
                    + "ENGINE = ReplicatedMergeTree('/clickhouse/tables/c-1/db/commits', '{shard}-{replica}') ORDER BY a"
                    + "\nCOMMENT 'cluster c-1, shards \(shards)'"
            ])
    }

    /// A row is on every node that may be asked for it before it counts.
    @Test func anInsertAsksForAllCopies() throws {
        let expected: [(shards: Int, replicas: Int, events: Int, commits: Int)] = [
            (1, 1, 0, 0), (1, 3, 3, 3), (2, 1, 0, 2), (2, 2, 2, 4),
        ]
        for one in expected {
            let cluster = try cluster(one.shards, one.replicas)
            #expect(try cluster.insertSettings("events").hasPrefix("insert_quorum = \(one.events), "), "\(one)")
            #expect(try cluster.insertSettings("commits").hasPrefix("insert_quorum = \(one.commits), "), "\(one)")
        }
        let notLookedAt = try #require(ClickHouseCluster(name: "c", database: "db"))
        #expect(throws: RollupStoreError.self) { try notLookedAt.insertSettings("events") }
    }

    // MARK: Writing and reading

    /// Two writers, copies of events among what they write, a late writer: as on one server.
    @Test(arguments: [Servers.replicas, .shards])
    func eachEventCountsOnce(_ servers: Servers) throws {
        let store = try ClickHouseUnderTest(servers.server())
        let writers = [try store.store.makeWriter(), try store.store.makeWriter()]
        var makers = [BatchMaker(), BatchMaker()]
        for (number, writer) in writers.enumerated() { _ = try writer.acquire([Self.partitions[number]]) }
        var all: [Sample] = []
        var next: [Int64] = [0, 0]
        for round in 0..<6 {
            let number = round % 2
            let given = samples(40, seed: UInt64(round)) + all.suffix(5)
            let batch = try makers[number].batch([
                .init(partition: Self.partitions[number], first: next[number], epoch: 1, samples: given)
            ])
            let result = try writers[number].apply(batch)
            #expect(result == ApplyResult(applied: 40, duplicates: Int64(given.count - 40)))
            let error = #expect(throws: RollupStoreError.self) { try writers[number].apply(batch) }
            #expect(error?.code == .staleEpoch)
            next[number] += Int64(given.count)
            all += given
        }
        #expect(try Count(reading: store.reader) == Count(all))
        let rows = servers == .shards ? "events_shard" : "events"
        #expect(try store.ask("EXISTS \(rows)") == "1")
        #expect(try store.ask("SELECT uniqExact(id) FROM \(rows)") == "240")
    }

    @Test func whileAReplicaIsAwayNothingIsWrittenAndQuestionsAreAnswered() throws {
        let server = try ClickHouseServer(cluster: "pair=1x2")
        let store = try ClickHouseUnderTest(server)
        let writer = try store.store.makeWriter()
        _ = try writer.acquire([Self.partitions[0]])
        var maker = BatchMaker()
        let early = samples(20, seed: 1)
        _ = try writer.apply(
            try maker.batch([.init(partition: Self.partitions[0], first: 0, epoch: 1, samples: early)]))

        try server.loseReplica(true)
        let late = samples(20, seed: 2)
        let batch = try maker.batch([.init(partition: Self.partitions[0], first: 20, epoch: 1, samples: late)])
        let error = try #require(#expect(throws: RollupStoreError.self) { try writer.apply(batch) })
        #expect(error.isTransient)
        #expect(error.description.contains("TOO_FEW_LIVE_REPLICAS"), "\(error)")
        #expect(error.description.contains("system.replicas"), "\(error)")
        #expect(try Count(reading: store.reader) == Count(early))

        try server.loseReplica(false)
        #expect(try writer.apply(batch) == ApplyResult(applied: 20, duplicates: 0))
        #expect(try Count(reading: store.reader) == Count(early + late))
    }

    // MARK: Opening

    @Test func aClusterThatIsNotThereIsRefused() throws {
        let server = try Servers.replicas.server()
        let error = #expect(throws: RollupStoreError.self) {
            try ClickHouseRollupStore.open(
                url: "clickhouse://127.0.0.1:\(server.port)/nowhere?cluster=other", upkeepFailed: { _ in })
        }
        #expect(error?.code == .configuration)
        #expect(error?.description.contains("has no cluster 'other' in remote_servers") == true)
        for url in [
            "clickhouse://host/db?cluster=", "clickhouse://host/db?cluster=a'b", "clickhouse://host/d.b?cluster=a",
        ] {
            #expect(throws: RollupStoreError.self) { try ClickHouseLocation(url: url) }
        }
    }

    /// Neither the tables of one server with a cluster's name, nor the reverse.
    @Test func tablesOfAnotherKindAreRefused() throws {
        let server = try Servers.replicas.server()
        for (number, (first, second)) in [("", "?cluster=pair"), ("?cluster=pair", "")].enumerated() {
            let place = "clickhouse://127.0.0.1:\(server.port)/kind_\(number)"
            _ = try ClickHouseRollupStore.open(url: place + first, upkeepFailed: { _ in })
            let error = #expect(throws: RollupStoreError.self) {
                try ClickHouseRollupStore.open(url: place + second, upkeepFailed: { _ in })
            }
            #expect(error?.code == .configuration)
            #expect(error?.description.contains("one server") == true)
            _ = try ClickHouseRollupStore.open(url: place + first, upkeepFailed: { _ in })
        }
    }
}
