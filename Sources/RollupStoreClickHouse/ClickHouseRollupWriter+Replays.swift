// What replays add to a writer's blocks, and the rows of their own steps.

import EventCodec
import Events
import RollupStore
import Rollups

/// Which step of a replay a row is of: the same one is not taken twice.
struct ReplayDeed: Equatable {
    var replay: Int64
    var epoch: Int64
    var generation: Int64
    var cursor: EventPlace?
    var log: LogScan?
    var isScanned: Bool
    var events: Int64
    var settled: [EventPlace]
    var isSwap: Bool
}

extension ClickHouseRollupWriter {
    static func placeRows(
        _ rows: [(generation: Int64, place: EventPlace)], _ number: Int64
    ) -> NativeBlock {
        var block = NativeBlock(rows: rows.count)
        block.integers("generation") { rows[$0].generation }
        block.integers("time_us") { rows[$0].place.time.microseconds }
        block.pairs("id", "FixedString(16)") { (rows[$0].place.id.high, rows[$0].place.id.low) }
        block.constant("number", number)
        return block
    }

    /// The rows of a step under a number, in every table at the same time.
    func insert(
        _ step: ReplayStep, _ generation: Int64, _ number: Int64, _ chunk: Int64, _ connection: Connection
    ) throws(RollupStoreError) {
        let (series, new) = try numbers.resolve(step.series, number, connection)
        var delta = step.delta
        delta.dropEmptyRows()
        var inserts = Inserts(number)
        try inserts.start("rollups", rollupRows(delta, series, number, chunk) { _ in generation }, self)
        try inserts.start("revisions", revisionRows(step.revisions, series, generation, number), self)
        try inserts.start("series", new, self)
        try inserts.start("replay_settled", Self.placeRows(step.settled.map { (generation, $0) }, number), self)
        try inserts.finish()
        numbers.inserted()
    }

    private func revisionRows(
        _ revisions: [EventRevision], _ series: [Int64], _ generation: Int64, _ number: Int64
    ) -> NativeBlock {
        var block = NativeBlock(rows: revisions.count)
        block.constant("generation", generation)
        block.integers("time_us") { revisions[$0].time.microseconds }
        block.pairs("id", "FixedString(16)") { (revisions[$0].id.high, revisions[$0].id.low) }
        block.integers("series") { series[Int(revisions[$0].series)] }
        block.optionalIntegers("cost_nano_usd") { revisions[$0].cost?.amount }
        block.strings("price_version") { Array(revisions[$0].priceVersion.utf8) }
        block.integers("metadata_status") { revisions[$0].metadataStatus.rawValue }
        block.integers("metadata_conflicts") { revisions[$0].metadataConflicts }
        block.strings("metadata_raw") { revisions[$0].metadataRaw }
        block.strings("metadata_extra") { revisions[$0].extra }
        block.arrays("pair_hashes", { EventPairs.numbers(of: revisions[$0].extra) }) { $0 }
        block.constant("number", number)
        return block
    }

    /// Rows of replays that have ended count nowhere; they are deleted when no read can still want them.
    func deleteEnded(_ connection: Connection) throws(RollupStoreError) {
        guard let state else { return }
        let now = ContinuousClock.now
        for replay in state.replays where replay.hasEnded && endedSince[replay.generation] == nil {
            endedSince[replay.generation] = now
        }
        let due = endedSince.filter { $0.value.duration(to: now) >= .seconds(limits.graceTime) }.keys.sorted()
        if due.isEmpty { return }
        let rows = "generation IN (\(due.map { "\($0)" }.joined(separator: ", ")))"
        for table in ["rollups", "revisions", "replay_pending", "replay_settled"] {
            // Looked for each time: a run that was summed meanwhile, or a writer that came back late, may bring some.
            var answer = try connection.select(
                ["toUInt8(1)"], "FROM \(table) WHERE \(rows) LIMIT 1", "look for rows of ended replays")
            if try answer.next() {
                try connection.run(
                    "DELETE FROM \(connection.everywhere(table)) WHERE \(rows)", "delete \(table) of ended replays")
            }
        }
    }
}
