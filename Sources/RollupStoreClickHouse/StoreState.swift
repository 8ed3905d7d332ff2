// All that one row of `commits` says, and the steps from one to the next. Pure: what is written down is decided here.

import Events
import RecordLog
import RollupStore
import Rollups

/// What holds from a slot on.
struct StoreState: Sendable, Equatable {
    /// Where one partition stands.
    struct Position: Sendable, Equatable {
        var generation: Int64
        var ledger: PartitionLedger
        var epoch: Int64
        /// The time of the latest event applied.
        var latest: Int64?
    }
    struct RulesEntry: Sendable, Equatable {
        var from: Int64
        var fingerprint: String
    }
    /// Rollup rows under one number that are the sums of many earlier numbers.
    struct Run: Sendable, Equatable {
        var number: Int64
        var level: UInt8
    }

    var slot: Int64 = 0
    /// Sorted. Numbers up to `slot` under which nothing counts.
    var excluded: [Int64] = []
    /// Numbers whose rollups are summed, and deleted, together. Set when the store is made.
    var chunkSize: Int64
    /// The last number of a chunk: of the rollups up to here only runs count.
    var floor: Int64 = -1
    var runs: [Run] = []
    /// The highest id of an event that counts: what lies above it has no copy in the store.
    var highestID = EventID(high: 0, low: 0)
    /// By grain, as in the tables, and `events` and `minutes`: what is older does not count, deleted or not.
    var retained: [UInt8: Int64] = [:]
    /// The rules timeline without replays, ascending: entries are only added.
    var rules: [RulesEntry] = []
    /// All that there ever were, ascending by generation.
    var replays: [Replay] = []
    var positions: [Position] = []

    init(chunkSize: Int64) { self.chunkSize = chunkSize }

    func chunk(of number: Int64) -> Int64 { number / chunkSize }

    func counts(_ number: Int64) -> Bool { number <= slot && !excluded.contains(number) }

    /// Whether what a writer inserts under its number can still come to count.
    func isUsable(_ number: Int64) -> Bool { number > floor }

    // MARK: Steps

    /// The state in the next slot, by a writer that holds `number`. The slot's own number becomes the writer's next one.
    ///
    /// - `settles`: what stands under `number` counts from now on, or nothing stands there.
    /// - `isLast`: the writer wants no further number; nobody inserts under the slot's.
    func next(by number: Int64?, settles: Bool, isLast: Bool = false) -> StoreState {
        var next = self
        next.slot += 1
        if settles, let number { next.excluded.removeAll { $0 == number } }
        if !isLast { next.excluded.append(next.slot) }
        return next
    }

    mutating func acquire(_ partitions: [TopicPartition], generation: Int64) -> [PartitionPosition] {
        partitions.map { partition in
            let place: Int
            if let known = index(of: partition, generation) {
                place = known
                positions[place].epoch += 1
            } else {
                let ledger = PartitionLedger(
                    partition: partition, start: Offset(0), next: Offset(0), applied: 0, duplicates: 0, manifests: 0,
                    deadLetters: 0, skipped: 0, lost: 0)
                place = positions.count
                positions.append(Position(generation: generation, ledger: ledger, epoch: 1, latest: nil))
            }
            return PartitionPosition(
                partition: partition, next: positions[place].ledger.next, epoch: positions[place].epoch)
        }
    }

    /// The first range that the store does not stand at.
    func stale(_ ranges: [PartitionRange], generation: Int64) -> PartitionRange? {
        // A batch may hold two ranges of one partition, the second where the first ends.
        var ends: [TopicPartition: Offset] = [:]
        return ranges.first { range in
            guard let place = index(of: range.partition, generation), positions[place].epoch == range.epoch else {
                return true
            }
            let expected = ends.updateValue(range.next, forKey: range.partition) ?? positions[place].ledger.next
            return expected != range.first
        }
    }

    /// What became of the events of one range.
    struct Tally: Equatable {
        var applied: Int64 = 0
        var highestID = EventID(high: 0, low: 0)
        var duplicates: Int64 = 0
        var latest: Int64?
    }

    mutating func apply(_ ranges: [PartitionRange], _ tallies: [Tally], generation: Int64) {
        for (range, tally) in zip(ranges, tallies) {
            guard let place = index(of: range.partition, generation) else { continue }
            positions[place].ledger.next = range.next
            positions[place].ledger.applied += tally.applied
            positions[place].ledger.duplicates += tally.duplicates
            positions[place].ledger.manifests += range.manifests
            positions[place].ledger.deadLetters += range.deadLetters
            positions[place].ledger.skipped += range.skipped
            positions[place].ledger.lost += range.lost
            highestID = max(highestID, tally.highestID)
            if let latest = tally.latest { positions[place].latest = max(positions[place].latest ?? latest, latest) }
        }
    }

    private func index(of partition: TopicPartition, _ generation: Int64) -> Int? {
        positions.firstIndex { $0.generation == generation && $0.ledger.partition == partition }
    }

    // MARK: Runs

    /// Chunks and runs to be summed into one run.
    struct Summing: Equatable {
        var chunks: Range<Int64>
        var runs: [Int64]
        var level: UInt8
    }

    /// What is due: whole chunks that lie one chunk back, so that no writer at work is under way in them, and with them
    /// each level that they would fill.
    ///
    /// - `fanOut`: runs of one level that become one of the next.
    func dueSumming(fanOut: Int) -> Summing? {
        let first = chunk(of: floor + 1)
        let chunks = first..<max(first, chunk(of: slot) - 1)
        if chunks.isEmpty { return nil }
        var summing = Summing(chunks: chunks, runs: [], level: 1)
        while true {
            let peers = runs.filter { $0.level == summing.level }.map(\.number)
            if peers.count < fanOut - 1 { return summing }
            summing.runs += peers
            summing.level += 1
        }
    }

    /// False where another has summed in the meantime.
    func allows(_ summing: Summing) -> Bool {
        chunk(of: floor + 1) == summing.chunks.lowerBound
            && summing.runs.allSatisfy { number in runs.contains { $0.number == number } }
    }

    mutating func replace(_ summing: Summing, by number: Int64) {
        floor = summing.chunks.upperBound * chunkSize - 1
        runs.removeAll { summing.runs.contains($0.number) }
        runs.append(Run(number: number, level: summing.level))
    }

    // MARK: What counts, as conditions on rows

    static let events: UInt8 = 3
    /// Manifests and what became of their records.
    static let minutes: UInt8 = 4

    /// On everything that is not summed.
    var condition: String { "number <= \(slot)" + Self.without(excluded) }

    /// On rows that count, and those that cannot come to count any more.
    var settledCondition: String { condition(above: floor) }

    var eventCondition: String {
        condition + (retained[Self.events].map { " AND time_us >= \($0)" } ?? "")
    }

    var manifestCondition: String { condition + minutesRetained }

    var proxyMinuteCondition: String { summedCondition + minutesRetained }

    private var minutesRetained: String { retained[Self.minutes].map { " AND minute_us >= \($0)" } ?? "" }

    /// On rollups of a grain.
    func condition(of grain: Grain) -> String {
        let isRetained = retained[grain.rawValue].map {
            " AND bucket >= \(grain.bucket(of: EventTime(microseconds: $0)))"
        }
        return "grain = \(grain.rawValue) AND \(summedCondition)" + (isRetained ?? "")
    }

    /// On what is summed into runs. Negative chunks are runs'.
    private var summedCondition: String {
        let recent = "(chunk >= \(chunk(of: floor + 1)) AND \(condition(above: floor)))"
        if runs.isEmpty { return recent }
        return "(chunk IN (\(runs.map { "\(-$0.number)" }.joined(separator: ", "))) OR \(recent))"
    }

    func condition(of summing: Summing) -> String {
        let end = summing.chunks.upperBound * chunkSize - 1
        let dead = excluded.filter { $0 > floor && $0 <= end }
        let chunks =
            "(chunk >= \(summing.chunks.lowerBound) AND chunk < \(summing.chunks.upperBound)\(Self.without(dead)))"
        if summing.runs.isEmpty { return chunks }
        return "(chunk IN (\(summing.runs.map { "\(-$0)" }.joined(separator: ", "))) OR \(chunks))"
    }

    private func condition(above floor: Int64) -> String {
        "number <= \(slot)" + Self.without(excluded.filter { $0 > floor })
    }

    private static func without(_ numbers: [Int64]) -> String {
        numbers.isEmpty ? "" : " AND number NOT IN (\(numbers.map { "\($0)" }.joined(separator: ", ")))"
    }
}
