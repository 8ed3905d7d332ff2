// What ingest hands to a store: everything of one batch, applied in one atomic step or not at all.

package import EventCodec
package import Events
package import RecordLog
package import Rollups

/// One event of a batch, normalized. Text lies in the batch's `bytes`.
package struct NormalizedEvent: Sendable {
    package var fields: EventFields
    /// Index into the batch's `series`.
    package var series: Int32
    /// Index into the batch's `ranges`: the partition it came from.
    package var range: Int32
    package var offset: Offset
    /// `NormalizedMetadata.extra`, as a range of the batch's `extras`.
    package var extra: ByteRange
    /// What `EventPairs` makes of it, as a range of the batch's `pairs`.
    package var pairs: ByteRange
    /// After normalization.
    package var metadataStatus: MetadataStatus
    /// Index into the batch's `minutes`; -1: none.
    package var minute: Int32
    /// Where the batch's `entities` have the series of this event's entities.
    package var entities: Range<Int>

    package init(
        fields: EventFields, series: Int32, range: Int32, offset: Offset, extra: ByteRange, pairs: ByteRange,
        metadataStatus: MetadataStatus, minute: Int32 = -1, entities: Range<Int> = 0..<0
    ) {
        self.fields = fields
        self.series = series
        self.range = range
        self.offset = offset
        self.extra = extra
        self.pairs = pairs
        self.metadataStatus = metadataStatus
        self.minute = minute
        self.entities = entities
    }
}

/// A record that cannot be applied for its own fault.
package struct DeadLetter: Sendable, Equatable {
    /// Closed set, a metric label.
    package enum Code: String, Sendable, CaseIterable {
        case undecodable, unknownKind = "unknown_kind", tooLarge = "too_large", corruptFrame = "corrupt_frame",
            timeOutOfRange = "time_out_of_range"
    }
    package var source: TopicPartition
    package var offset: Offset
    /// As its header said; nil where it said nothing known.
    package var kind: RecordKind?
    package var code: Code
    package var reason: String
    package var key: [UInt8]
    package var value: [UInt8]
    /// Index into the batch's `minutes`: where it is counted; -1: nowhere.
    package var minute: Int32

    package init(
        source: TopicPartition, offset: Offset, kind: RecordKind? = nil, code: Code, reason: String, key: [UInt8],
        value: [UInt8], minute: Int32 = -1
    ) {
        self.source = source
        self.offset = offset
        self.kind = kind
        self.code = code
        self.reason = reason
        self.key = key
        self.value = value
        self.minute = minute
    }
}

/// The offsets `first ..< next` of one partition that a batch covers, and what they held.
///
/// next - first = events + manifests + deadLetters + skipped + lost, always.
package struct PartitionRange: Sendable {
    package var partition: TopicPartition
    /// The store's next offset and epoch must equal these for the batch to apply.
    package var first: Offset
    package var epoch: Int64
    package var next: Offset
    package var events: Int64 = 0
    package var manifests: Int64 = 0
    package var deadLetters: Int64 = 0
    /// Offsets the log never had records for (transaction markers), and tombstones.
    package var skipped: Int64 = 0
    /// Offsets declared lost: the log no longer has them.
    package var lost: Int64 = 0

    package init(partition: TopicPartition, first: Offset, epoch: Int64, next: Offset) {
        self.partition = partition
        self.first = first
        self.epoch = epoch
        self.next = next
    }
}

package struct SealedBatch: Sendable {
    package var ranges: [PartitionRange]
    /// What `EventFields` ranges point into.
    package var bytes: [UInt8]
    /// What `NormalizedEvent.extra` points into.
    package var extras: [UInt8]
    /// What `NormalizedEvent.pairs` points into.
    package var pairs: [UInt32]
    package var series: [SeriesKey]
    package var events: [NormalizedEvent]
    /// Series of rollups by entity, which events refer to.
    package var entities: [Int32]
    package var delta: RollupDelta
    package var manifests: [Manifest]
    package var deadLetters: [DeadLetter]
    /// Each proxy, minute and partition once. The writer moves one from `applied` to `duplicates` for each event it already has.
    package var minutes: [ProxyMinute]
    /// Of the timeline that the events were normalized under; the store's must be the same for the batch to apply.
    package var rulesVersion: Int64

    package init(
        ranges: [PartitionRange], bytes: [UInt8], extras: [UInt8], pairs: [UInt32], series: [SeriesKey],
        events: [NormalizedEvent], entities: [Int32] = [], delta: RollupDelta, manifests: [Manifest],
        deadLetters: [DeadLetter],
        minutes: [ProxyMinute] = [], rulesVersion: Int64 = 0
    ) {
        self.ranges = ranges
        self.bytes = bytes
        self.extras = extras
        self.pairs = pairs
        self.series = series
        self.events = events
        self.entities = entities
        self.delta = delta
        self.manifests = manifests
        self.deadLetters = deadLetters
        self.minutes = minutes
        self.rulesVersion = rulesVersion
    }

    /// Puts an event's `extra`, and what follows from it, behind those of the others.
    package mutating func append(extra: [UInt8]) -> (extra: ByteRange, pairs: ByteRange) {
        let first = (extras.count, pairs.count)
        extras += extra
        extra.withUnsafeBytes { EventPairs.append(of: $0, to: &pairs) }
        return (
            ByteRange(start: first.0, count: extra.count), ByteRange(start: first.1, count: pairs.count - first.1)
        )
    }

    /// Where a dead letter is counted; nil: nowhere.
    package func minute(of letter: DeadLetter) -> ProxyMinute? {
        letter.minute < 0 ? nil : minutes[Int(letter.minute)]
    }

    /// The rows of `delta` once it is known which events (by index) the store already had; some may be all zero.
    package func delta(withDuplicates duplicates: [Int]) -> RollupDelta {
        var left = delta
        for index in duplicates {
            let event = events[index]
            left.subtract(fields: event.fields, series: event.series)
            for series in entities[event.entities] {
                left.subtract(fields: event.fields, series: series, ofEntities: true)
            }
        }
        return left
    }

    /// The rows of `minutes` once it is known which events (by index) the store already had.
    package func minutes(withDuplicates duplicates: [Int]) -> [ProxyMinute] {
        var rows = minutes
        for index in duplicates where events[index].minute >= 0 {
            rows[Int(events[index].minute)].applied -= 1
            rows[Int(events[index].minute)].duplicates += 1
        }
        return rows
    }
}
