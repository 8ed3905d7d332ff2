// StoreState <-> rows of `commits`: the one place where two writers meet.
//
// A slot is a compare-and-set. Whoever has read slot k puts the next state into slot k + 1; of two that do, the server
// inserts one first, and that one holds. How it is told: the server numbers blocks in the order in which it makes them
// visible, keeps that number with the row (`_block_number`), and the lowest in a slot has won. The token of the insert,
// the slot, makes the server drop the second one anyhow, while its window lasts; the block number holds beyond it, for a
// writer that slept for a week between reading and inserting. Old slots are deleted at some time; whoever then puts a row
// into one finds the slot before it missing, and has lost.
//
// Putting the same row into the same slot again changes nothing: an insert whose answer was lost is repeated until the
// slot is seen to be filled, by it or by another.

import Events
import RecordLog
import RollupStore

/// Which try of which writer.
struct EntryID: Equatable, Sendable {
    var high: UInt64
    var low: UInt64

    static func random() -> EntryID { EntryID(high: .random(in: 0...(.max)), low: .random(in: 0...(.max))) }
}

enum CommitLog {
    /// The partition of `commits`, as in clickhouse.sql.
    static let slotsTogether: Int64 = 8_192

    private static let columns = [
        "slot", "entry", "schema_version", "excluded", "chunk_size", "floor", "runs", "run_levels", "highest_id",
        "retained_whats", "retained_from_us", "rules_from_us", "rules_fingerprints", "generations", "topics",
        "partitions", "starts", "nexts", "epochs",
        "applied", "duplicates", "manifests", "dead_letters", "skipped", "lost", "max_times_us",
    ]

    struct Row {
        var entry: EntryID
        var schemaVersion: UInt32
        var state: StoreState
    }

    static let missing = RollupStoreError(
        code: .corrupt, tried: "read commits", reason: "the table is empty",
        next: "Restore it, or rebuild the store from the log.")

    /// The state that holds now; nil in a store that is only being made.
    static func latest(_ connection: Connection) throws(RollupStoreError) -> Row? {
        try first(
            "FROM commits WHERE slot = (SELECT max(slot) FROM commits) ORDER BY _block_number LIMIT 1", "read commits",
            connection)
    }

    /// What holds in a slot. Nothing does where the slot before it is gone: the slot is one of long ago.
    static func winner(_ slot: Int64, _ connection: Connection) throws(RollupStoreError) -> Row? {
        try first(
            "FROM commits WHERE slot = \(slot) AND (SELECT count() FROM commits WHERE slot = \(slot - 1)) > 0 "
                + "ORDER BY _block_number LIMIT 1", "read a commit", connection)
    }

    static func put(_ state: StoreState, _ entry: EntryID, _ connection: Connection) throws(RollupStoreError) {
        var block = NativeBlock(rows: 1)
        block.constant("slot", state.slot)
        block.pairs("entry", "FixedString(16)") { _ in (entry.high, entry.low) }
        block.constant("schema_version", ClickHouseRollupStore.schemaVersion)
        block.array("excluded", state.excluded)
        block.constant("chunk_size", state.chunkSize)
        block.constant("floor", state.floor)
        block.array("runs", state.runs.map(\.number))
        block.array("run_levels", state.runs.map(\.level))
        block.pairs("highest_id", "FixedString(16)") { _ in (state.highestID.high, state.highestID.low) }
        let retained = state.retained.sorted { $0.key < $1.key }
        block.array("retained_whats", retained.map(\.key))
        block.array("retained_from_us", retained.map(\.value))
        block.array("rules_from_us", state.rules.map(\.from))
        block.array("rules_fingerprints", state.rules.map(\.fingerprint))
        block.array("generations", state.positions.map(\.generation))
        block.array("topics", state.positions.map(\.ledger.partition.topic))
        block.array("partitions", state.positions.map(\.ledger.partition.partition))
        block.array("starts", state.positions.map(\.ledger.start.value))
        block.array("nexts", state.positions.map(\.ledger.next.value))
        block.array("epochs", state.positions.map(\.epoch))
        block.array("applied", state.positions.map(\.ledger.applied))
        block.array("duplicates", state.positions.map(\.ledger.duplicates))
        block.array("manifests", state.positions.map(\.ledger.manifests))
        block.array("dead_letters", state.positions.map(\.ledger.deadLetters))
        block.array("skipped", state.positions.map(\.ledger.skipped))
        block.array("lost", state.positions.map(\.ledger.lost))
        block.array("max_times_us", optional: state.positions.map(\.latest))
        try connection.insert(block, into: "commits", token: "slot-\(state.slot)")
    }

    private static func first(
        _ rest: String, _ tried: String, _ connection: Connection
    ) throws(RollupStoreError) -> Row? {
        var answer = try connection.select(columns, rest, tried)
        guard try answer.next() else { return nil }
        func integers<Value: FixedWidthInteger>(
            _ answer: inout Answer, _: Value.Type = Value.self
        ) throws(RollupStoreError) -> [Value] {
            try answer.array { (answer) throws(RollupStoreError) in try answer.integer(Value.self) }
        }
        let slot: Int64 = try answer.integer()
        let entry = EntryID(
            high: try answer.integer(UInt64.self).byteSwapped, low: try answer.integer(UInt64.self).byteSwapped)
        let version: UInt32 = try answer.integer()
        let excluded: [Int64] = try integers(&answer)
        var state = StoreState(chunkSize: max(1, try answer.integer()))
        state.slot = slot
        state.excluded = excluded
        state.floor = try answer.integer()
        let runs: [Int64] = try integers(&answer)
        let levels: [UInt8] = try integers(&answer)
        state.runs = zip(runs, levels).map { StoreState.Run(number: $0, level: $1) }
        let high: UInt64 = try answer.integer()
        let low: UInt64 = try answer.integer()
        state.highestID = EventID(high: high.byteSwapped, low: low.byteSwapped)
        let whats: [UInt8] = try integers(&answer)
        let boundaries: [Int64] = try integers(&answer)
        state.retained = Dictionary(zip(whats, boundaries)) { max($0, $1) }
        let eras: [Int64] = try integers(&answer)
        let rules = try answer.array { (answer) throws(RollupStoreError) in try answer.text() }
        state.rules = zip(eras, rules).map { StoreState.RulesEntry(from: $0, fingerprint: $1) }
        let generations: [Int64] = try integers(&answer)
        let topics = try answer.array { (answer) throws(RollupStoreError) in try answer.text() }
        let partitions: [Int32] = try integers(&answer)
        var counts: [[Int64]] = []
        for _ in 0..<9 { counts.append(try integers(&answer)) }
        let latest = try answer.array { (answer) throws(RollupStoreError) in
            let value: Int64? = try answer.optionalInteger()
            return value
        }
        let sizes = Set([topics.count, partitions.count, latest.count, generations.count] + counts.map(\.count))
        guard sizes.count == 1, runs.count == levels.count, eras.count == rules.count else {
            throw RollupStoreError(
                code: .corrupt, tried: tried, reason: "the arrays of slot \(state.slot) differ in length",
                next: "Restore the table commits, or rebuild the store from the log.")
        }
        for index in topics.indices {
            state.positions.append(
                StoreState.Position(
                    generation: generations[index],
                    ledger: PartitionLedger(
                        partition: TopicPartition(topic: topics[index], partition: partitions[index]),
                        start: Offset(counts[0][index]), next: Offset(counts[1][index]), applied: counts[3][index],
                        duplicates: counts[4][index], manifests: counts[5][index], deadLetters: counts[6][index],
                        skipped: counts[7][index], lost: counts[8][index]),
                    epoch: counts[2][index], latest: latest[index]))
        }
        return Row(entry: entry, schemaVersion: version, state: state)
    }
}
