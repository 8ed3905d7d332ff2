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
//
// The server writes the token down before the rows are there. Killed in between it comes back with the token alone, drops
// whatever is put into that slot and says that all is well. Where a slot is empty after an insert was answered, the row is
// put there again under a token of its own.
//
// On a cluster the token is in Keeper, written down in one step with the row, and decides alone: numbers of blocks are given
// out before their rows can be seen, so between two rows that come at once they tell nothing yet. Where a slot is empty
// after an insert was answered, another's row is on its way to this node, or went with its only replica. This node is
// first brought up to all that Keeper knows of; where the slot is empty then too, the next token is tried, which again is
// the same one for all writers.

import Events
import RecordLog
import RollupStore
import Rollups

/// Which try of which writer.
struct EntryID: Equatable, Sendable {
    var high: UInt64
    var low: UInt64

    static func random() -> EntryID { EntryID(high: .random(in: 0...(.max)), low: .random(in: 0...(.max))) }
}

enum CommitLog {
    /// The partition of `commits`, as in clickhouse.sql.
    static let slotsTogether: Int64 = 8_192

    private static let replayColumns = [
        "replay_generations", "replay_states", "replay_numbers", "replay_from_us", "replay_to_us", "replay_rules",
        "replay_are_dry_runs", "replay_epochs", "replay_cursor_times_us", "replay_cursor_ids", "replay_are_scanned",
        "replay_scanned", "replay_totals", "replay_changed", "replay_created_us", "replay_swapped_us", "replay_ranks",
        "replay_turns", "replay_log_scans", "replay_workspaces",
    ]

    private static let columns =
        [
            "slot", "entry", "schema_version", "excluded", "chunk_size", "floor", "runs", "run_levels", "highest_id",
            "retained_whats", "retained_from_us", "rules_from_us", "rules_fingerprints",
        ] + replayColumns + [
            "generations", "topics", "partitions", "starts", "nexts", "epochs", "applied", "duplicates", "manifests",
            "dead_letters", "skipped", "lost", "max_times_us",
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
    ///
    /// - `known`: one that held before. What has won a slot never loses it, so where it is still the latest no more is
    ///   read than that.
    static func latest(_ connection: Connection, known: Row? = nil) throws(RollupStoreError) -> Row? {
        let rest = "FROM commits WHERE slot = (SELECT max(slot) FROM commits) ORDER BY _block_number LIMIT 1"
        let tried = "read commits"
        if let known {
            var answer = try connection.select(["slot", "entry"], rest, tried)
            guard try answer.next() else { return nil }
            let (slot, entry) = (try answer.integer(Int64.self), try EntryID(&answer))
            try answer.end()
            if slot == known.state.slot && entry == known.entry { return known }
        }
        return try first(rest, tried, connection)
    }

    /// Puts the state into its slot, and says what holds there then: this, or what another has put there first. Nothing
    /// does where the slot before it is gone: the slot is one of long ago.
    static func fill(_ state: StoreState, _ entry: EntryID, _ connection: Connection) throws(RollupStoreError) -> Row? {
        try put(state, entry, token: "slot-\(state.slot)", connection)
        if let row = try winner(state, entry, connection) { return row }
        if connection.location.cluster != nil {
            try connection.run("SYSTEM SYNC REPLICA commits", "wait for the other replicas' commits")
            if let row = try winner(state, entry, connection) { return row }
            try put(state, entry, token: "slot-\(state.slot)-again", connection)
        } else {
            try put(state, entry, token: "slot-\(state.slot)-\(entry.high)-\(entry.low)", connection)
        }
        return try winner(state, entry, connection)
    }

    /// What holds in the state's slot. Each column costs a server about as much as the row: of what was put there just
    /// now one tells all.
    private static func winner(
        _ state: StoreState, _ entry: EntryID, _ connection: Connection
    ) throws(RollupStoreError) -> Row? {
        let follows = state.slot == 0 ? "" : " AND (SELECT count() FROM commits WHERE slot = \(state.slot - 1)) > 0"
        let rest = "FROM commits WHERE slot = \(state.slot)\(follows) ORDER BY _block_number LIMIT 1"
        let tried = "read a commit"
        var answer = try connection.select(["entry"], rest, tried)
        guard try answer.next() else { return nil }
        let holds = try EntryID(&answer)
        try answer.end()
        if holds == entry {
            return Row(entry: entry, schemaVersion: ClickHouseRollupStore.schemaVersion, state: state)
        }
        return try first(rest, tried, connection)
    }

    private static func put(
        _ state: StoreState, _ entry: EntryID, token: String, _ connection: Connection
    ) throws(RollupStoreError) {
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
        put(state.replays, &block)
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
        try connection.insert(block, into: "commits", token: token)
    }

    /// As `replay_states`.
    private static let replayStates: [StoredReplay.State] = [.building, .live, .retired, .cancelled]

    private static func put(_ replays: [StoreState.Replay], _ block: inout NativeBlock) {
        block.array("replay_generations", replays.map(\.generation))
        block.array("replay_states", replays.map { UInt8(replayStates.firstIndex(of: $0.state) ?? 0) })
        block.array("replay_numbers", replays.map(\.number))
        block.array("replay_from_us", replays.map(\.from.microseconds))
        block.array("replay_to_us", replays.map(\.to.microseconds))
        block.array("replay_rules", replays.map(\.rules))
        block.array("replay_are_dry_runs", replays.map { $0.isDryRun ? 1 as UInt8 : 0 })
        block.array("replay_epochs", replays.map(\.epoch))
        block.array("replay_cursor_times_us", optional: replays.map { $0.cursor?.time.microseconds })
        block.array("replay_cursor_ids", replays.map { $0.cursor?.id ?? EventID(high: 0, low: 0) })
        block.array("replay_are_scanned", replays.map { $0.isScanned ? 1 as UInt8 : 0 })
        block.array("replay_scanned", replays.map(\.scanned))
        block.array("replay_totals", replays.map(\.total))
        block.array("replay_changed", replays.map(\.changed))
        block.array("replay_created_us", replays.map(\.created.microseconds))
        block.array("replay_swapped_us", optional: replays.map { $0.swapped?.microseconds })
        block.array("replay_ranks", replays.map(\.rank))
        block.array("replay_turns", replays.map(\.turns))
        block.array("replay_log_scans", replays.map { $0.log?.text ?? "" })
        block.array("replay_workspaces", replays.map(\.workspace))
    }

    private static func replays(_ answer: inout Answer, _ slot: Int64) throws(RollupStoreError) -> [StoreState.Replay] {
        let generations: [Int64] = try integers(&answer)
        let states: [UInt8] = try integers(&answer)
        var early: [[Int64]] = []
        for _ in 0..<3 { early.append(try integers(&answer)) }
        let rules = try answer.array { (answer) throws(RollupStoreError) in try answer.text() }
        let dryRuns: [UInt8] = try integers(&answer)
        let epochs: [Int64] = try integers(&answer)
        let cursorTimes = try optionals(&answer)
        let cursorIDs = try answer.array { (answer) throws(RollupStoreError) in
            try EventID(&answer)
        }
        let scannedFlags: [UInt8] = try integers(&answer)
        var counts: [[Int64]] = []
        for _ in 0..<4 { counts.append(try integers(&answer)) }
        let swapped = try optionals(&answer)
        var turns: [[Int64]] = []
        for _ in 0..<2 { turns.append(try integers(&answer)) }
        var logs = try answer.array { (answer) throws(RollupStoreError) in try answer.text() }
        var workspaces = try answer.array { (answer) throws(RollupStoreError) in try answer.text() }
        // A slot of before there was such a column.
        if logs.isEmpty { logs = generations.map { _ in "" } }
        if workspaces.isEmpty { workspaces = generations.map { _ in "" } }
        let lengths = [states, dryRuns, scannedFlags].map(\.count) + (early + counts + turns + [epochs]).map(\.count)
        let sizes = Set(
            lengths + [
                rules.count, cursorTimes.count, cursorIDs.count, swapped.count, logs.count, workspaces.count,
                generations.count,
            ])
        guard sizes.count == 1, states.allSatisfy({ Int($0) < replayStates.count }) else {
            throw uneven(slot, "read the replays")
        }
        var all: [StoreState.Replay] = []
        for index in generations.indices {
            all.append(
                StoreState.Replay(
                    generation: generations[index], state: replayStates[Int(states[index])], number: early[0][index],
                    from: EventTime(microseconds: early[1][index]), to: EventTime(microseconds: early[2][index]),
                    rules: rules[index], workspace: workspaces[index], isDryRun: dryRuns[index] != 0,
                    epoch: epochs[index],
                    cursor: cursorTimes[index].map {
                        EventPlace(time: EventTime(microseconds: $0), id: cursorIDs[index])
                    },
                    log: try LogScan.stored(logs[index], of: generations[index]), isScanned: scannedFlags[index] != 0,
                    scanned: counts[0][index], total: counts[1][index], changed: counts[2][index],
                    created: EventTime(microseconds: counts[3][index]),
                    swapped: swapped[index].map { EventTime(microseconds: $0) }, rank: turns[0][index],
                    turns: turns[1][index]))
        }
        return all
    }

    private static func uneven(_ slot: Int64, _ tried: String) -> RollupStoreError {
        RollupStoreError(
            code: .corrupt, tried: tried, reason: "the arrays of slot \(slot) do not fit together",
            next: "Restore the table commits, or rebuild the store from the log.")
    }

    private static func integers<Value: FixedWidthInteger>(
        _ answer: inout Answer, _: Value.Type = Value.self
    ) throws(RollupStoreError) -> [Value] {
        try answer.array { (answer) throws(RollupStoreError) in try answer.integer(Value.self) }
    }

    private static func optionals(_ answer: inout Answer) throws(RollupStoreError) -> [Int64?] {
        try answer.array { (answer) throws(RollupStoreError) in
            let value: Int64? = try answer.optionalInteger()
            return value
        }
    }

    private static func first(
        _ rest: String, _ tried: String, _ connection: Connection
    ) throws(RollupStoreError) -> Row? {
        var answer = try connection.select(columns, rest, tried)
        guard try answer.next() else { return nil }
        let slot: Int64 = try answer.integer()
        let entry = try EntryID(&answer)
        let version: UInt32 = try answer.integer()
        let excluded: [Int64] = try integers(&answer)
        var state = StoreState(chunkSize: max(1, try answer.integer()))
        state.slot = slot
        state.excluded = excluded
        state.floor = try answer.integer()
        let runs: [Int64] = try integers(&answer)
        let levels: [UInt8] = try integers(&answer)
        state.runs = zip(runs, levels).map { StoreState.Run(number: $0, level: $1) }
        state.highestID = try EventID(&answer)
        let whats: [UInt8] = try integers(&answer)
        let boundaries: [Int64] = try integers(&answer)
        state.retained = Dictionary(zip(whats, boundaries)) { max($0, $1) }
        let eras: [Int64] = try integers(&answer)
        let rules = try answer.array { (answer) throws(RollupStoreError) in try answer.text() }
        state.rules = zip(eras, rules).map { StoreState.RulesEntry(from: $0, fingerprint: $1) }
        state.replays = try replays(&answer, slot)
        let generations: [Int64] = try integers(&answer)
        let topics = try answer.array { (answer) throws(RollupStoreError) in try answer.text() }
        let partitions: [Int32] = try integers(&answer)
        var counts: [[Int64]] = []
        for _ in 0..<9 { counts.append(try integers(&answer)) }
        let latest = try optionals(&answer)
        try answer.end()
        let sizes = Set([topics.count, partitions.count, latest.count, generations.count] + counts.map(\.count))
        guard sizes.count == 1, runs.count == levels.count, eras.count == rules.count else {
            throw uneven(slot, tried)
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
        if version < 2, let latest = latest.compactMap({ $0 }).max() {
            // Of what was counted before there are no rollups by entity: they are whole from the day after it.
            let day = Grain.day.bucket(of: EventTime(microseconds: latest))
            for grain in Grain.ofEntities {
                state.retained[grain.rawValue] = Grain.day.start(of: day + 1).microseconds
            }
        }
        return Row(entry: entry, schemaVersion: version, state: state)
    }
}

extension EventID {
    init(_ answer: inout Answer) throws(RollupStoreError) {
        let (high, low) = try answer.halves()
        self.init(high: high, low: low)
    }
}

extension EntryID {
    init(_ answer: inout Answer) throws(RollupStoreError) {
        let (high, low) = try answer.halves()
        self.init(high: high, low: low)
    }
}
