// The port to the store: one writer's atomic step, and consistent reads.

package import Events
package import RecordLog
package import Rollups

/// Where ingest of a partition stands, by the store, which alone is the truth.
package struct PartitionPosition: Sendable, Equatable {
    package var partition: TopicPartition
    package var next: Offset
    /// Bumped at each acquisition: a batch under an older epoch fails whole.
    package var epoch: Int64

    package init(partition: TopicPartition, next: Offset, epoch: Int64) {
        self.partition = partition
        self.next = next
        self.epoch = epoch
    }
}

package struct ApplyResult: Sendable, Equatable {
    package var applied: Int64
    /// Events whose id the store already had, or that came twice in the batch: not counted again.
    package var duplicates: Int64

    package init(applied: Int64, duplicates: Int64) {
        self.applied = applied
        self.duplicates = duplicates
    }
}

/// The ledger of one partition: next - start = applied + duplicates + manifests + deadLetters + skipped + lost.
package struct PartitionLedger: Sendable, Equatable {
    package var partition: TopicPartition
    package var start: Offset
    package var next: Offset
    package var applied: Int64
    package var duplicates: Int64
    package var manifests: Int64
    package var deadLetters: Int64
    package var skipped: Int64
    package var lost: Int64

    package init(
        partition: TopicPartition, start: Offset, next: Offset, applied: Int64, duplicates: Int64, manifests: Int64,
        deadLetters: Int64, skipped: Int64, lost: Int64
    ) {
        self.partition = partition
        self.start = start
        self.next = next
        self.applied = applied
        self.duplicates = duplicates
        self.manifests = manifests
        self.deadLetters = deadLetters
        self.skipped = skipped
        self.lost = lost
    }
}

/// The writing side. One thread owns a writer.
package protocol RollupWriter {
    /// Takes these partitions for this writer: bumps each epoch and says where to go on. A partition that the store
    /// has never seen begins at offset 0 or, where the log begins later, at the first offset it has (`gap`).
    mutating func acquire(_ partitions: [TopicPartition]) throws(RollupStoreError) -> [PartitionPosition]

    /// The timeline of normalization rules, with the entry that the change makes (`RulesChange.entry`); nil: as it
    /// stands.
    mutating func rules(_ change: RulesChange?) throws(RollupStoreError) -> RulesTimeline

    /// The rows of one hour, of all dimensions or of entities, each series once; nil where there are more than `maxRows`.
    mutating func hour(_ bucket: Int32, of grain: Grain, maxRows: Int) throws(RollupStoreError) -> [HourRow]?

    /// One atomic step: events, rollups, dead letters, manifests and offsets, or nothing.
    /// A duplicate's share is taken out of the delta before it is added.
    mutating func apply(_ batch: SealedBatch) throws(RollupStoreError) -> ApplyResult

    /// Deletes up to about `maxRows` rows from before the boundaries; true where more are left, so that a long
    /// deletion is cut into steps between batches. From the first step on that deletes of a table, readers are told
    /// that it is whole from its boundary on only (`retained`). A copy of a deleted event is not known as one.
    mutating func expire(_ boundaries: RetentionBoundaries, maxRows: Int) throws(RollupStoreError) -> Bool

    mutating func close()
}

extension RollupWriter {
    /// With these rules in force from now on, where they are not already; nil: the timeline as it stands.
    package mutating func rules(adopting new: RulesText?, now: EventTime) throws(RollupStoreError) -> RulesTimeline {
        try rules(new.map { .configured($0, now: now) })
    }

    /// The rows of one hour that budgets count. Of what has more than `maxRows` none: the hour may take another budget.
    package mutating func hourOfBudgets(_ bucket: Int32, maxRows: Int) throws(RollupStoreError) -> [HourRow] {
        let rows = try hour(bucket, of: .hour, maxRows: maxRows) ?? []
        return try rows + (hour(bucket, of: .entityHour, maxRows: maxRows) ?? [])
    }
}

/// One row of an hour: what the classes of keys, and what is filed under `(other)`, are decided by.
package struct HourRow: Sendable, Equatable {
    package var series: SeriesKey
    package var requests: Int64

    package init(series: SeriesKey, requests: Int64) {
        self.series = series
        self.requests = requests
    }
}

/// The reading side, for any number of threads.
package protocol RollupReader: Sendable {
    /// Everything that `body` reads is of one state of the store, however long it takes.
    func read<Answer>(_ body: (any RollupSnapshot) throws -> Answer) throws -> Answer

    /// As `read`, but the store gives up, with an error, soon after `isUnwanted` has become true. It is asked while the
    /// store works, from the same thread.
    func read<Answer>(
        until isUnwanted: @escaping @Sendable () -> Bool, _ body: (any RollupSnapshot) throws -> Answer
    ) throws -> Answer
}

extension RollupReader {
    /// For stores that cannot be stopped in mid-statement: whoever takes the rows stops taking them.
    package func read<Answer>(
        until isUnwanted: @escaping @Sendable () -> Bool, _ body: (any RollupSnapshot) throws -> Answer
    ) throws -> Answer {
        try read(body)
    }
}

/// Which series a scan is for.
package enum SeriesSelection: Sendable {
    case all
    /// Sorted, no duplicates.
    case only([Int64])
}

/// A series as the store numbers it.
package struct StoredSeries: Sendable {
    package var id: Int64
    package var key: SeriesKey

    package init(id: Int64, key: SeriesKey) {
        self.id = id
        self.key = key
    }
}

/// One row of a rollup as read.
package struct StoredRollup: Sendable {
    package var bucket: Int32
    package var series: Int64
    package var measures: Measures
    /// Empty unless the scan asked for them.
    package var bins: [SketchBin]

    package init(bucket: Int32, series: Int64, measures: Measures, bins: [SketchBin]) {
        self.bucket = bucket
        self.series = series
        self.measures = measures
        self.bins = bins
    }
}

/// One event as read. `series` supplies workspace, api key, provider, operation, model, outcome and the metadata set.
package struct StoredEvent: Sendable {
    package var series: Int64
    /// The event's own fields; `metadataRaw` and `metadataRejected` included.
    package var event: RequestEvent
    /// `NormalizedMetadata.extra`.
    package var extra: [UInt8]
    /// Whether a replay's revision says so, and not what ingest has made of it.
    package var isRevised: Bool

    package init(series: Int64, event: RequestEvent, extra: [UInt8], isRevised: Bool = false) {
        self.series = series
        self.event = event
        self.extra = extra
        self.isRevised = isRevised
    }
}

package protocol RollupSnapshot {
    /// Which rollups answer: another text once a replay has put others in their place.
    var generationName: String { get throws }

    /// The time of the latest event applied; nil in an empty store.
    var watermark: EventTime? { get throws }

    /// Every series of a workspace, ascending by id. Cheap to call again: readers keep what they have seen.
    /// - `entity`: those of the rollups of this entity's key; nil: those of all dimensions.
    func series(workspace: String, entity: String?) throws -> [StoredSeries]

    /// Rows of one grain with `from <= bucket < to`, in no promised order.
    func scanRollups(
        grain: Grain, from: Int32, to: Int32, series: SeriesSelection, withBins: Bool, _ body: (StoredRollup) -> Void
    ) throws

    /// Events with `from <= time < to`, newest first (time, then id, descending), until `body` answers false.
    /// `before` continues a listing: only events older than this (time, id).
    ///
    /// - `having`: numbers of pairs (`EventPairs`): events of which no pair beside their set has one of them may be left
    ///   out, and an index says which; nil: all are wanted.
    func scanEvents(
        from: EventTime, to: EventTime, before: (time: EventTime, id: EventID)?, series: SeriesSelection,
        having: [UInt32]?, _ body: (StoredEvent) throws -> Bool
    ) throws

    /// About how many events a scan with `having` looks at, counted up to a limit; of those from `indexedFrom` on.
    func countEvents(from: EventTime, to: EventTime, having: [UInt32], atMost limit: Int) throws -> Int

    /// Events before this instant are looked at one by one, since they came before there was an index; nil: none are.
    var indexedFrom: EventTime? { get throws }

    func event(id: EventID) throws -> StoredEvent?

    /// The earliest instant from which the grain, or the events (nil), are still whole.
    func retained(_ grain: Grain?) throws -> EventTime?

    func ledger() throws -> [PartitionLedger]

    func rulesTimeline() throws -> RulesTimeline

    /// That of the timeline, without reading its texts.
    var rulesVersion: Int64 { get throws }

    /// The parts that proxies have told of minutes with `from <= minute < to`, each once with its greatest counts, in
    /// order of minute, proxy, lane, serial.
    func manifests(from: EventTime, to: EventTime) throws -> [Manifest]

    /// What became of the records of minutes with `from <= minute < to`, in order of minute, proxy, partition.
    func proxyMinutes(from: EventTime, to: EventTime) throws -> [ProxyMinute]
}

extension RollupSnapshot {
    package var generationName: String { "" }
    package var indexedFrom: EventTime? { nil }

    /// All of them.
    package func scanEvents(
        from: EventTime, to: EventTime, before: (time: EventTime, id: EventID)?, series: SeriesSelection,
        _ body: (StoredEvent) throws -> Bool
    ) throws {
        try scanEvents(from: from, to: to, before: before, series: series, having: nil, body)
    }

    package func series(workspace: String) throws -> [StoredSeries] { try series(workspace: workspace, entity: nil) }
}

/// What went wrong with the store, for an operator.
package struct RollupStoreError: Error, Sendable, CustomStringConvertible {
    package enum Code: String, Sendable {
        /// Try again later: locked, unreachable, disk full.
        case unavailable
        /// Another writer has taken the partition: this one must stop.
        case staleEpoch = "stale_epoch"
        /// The batch was made under another rules timeline than the store's: it must be made again.
        case staleRules = "stale_rules"
        /// The store was written by a newer program.
        case newerSchema = "newer_schema"
        case configuration, corrupt
    }
    package var code: Code
    package var tried: String
    package var reason: String
    package var next: String

    package init(code: Code, tried: String, reason: String, next: String) {
        self.code = code
        self.tried = tried
        self.reason = reason
        self.next = next
    }

    package var description: String { "\(tried): \(reason). \(next)" }
    package var isTransient: Bool { code == .unavailable }
}
