// The port to the log: what a record is, where it stands, and what reads and writes it.

/// One partition of the log. For Kafka the topic's name and partition; for the journal the topic `journal` and the lane.
package struct TopicPartition: Hashable, Comparable, Sendable, CustomStringConvertible {
    package var topic: String
    package var partition: Int32

    package init(topic: String, partition: Int32) {
        self.topic = topic
        self.partition = partition
    }

    package var description: String { "\(topic)/\(partition)" }

    package static func < (a: TopicPartition, b: TopicPartition) -> Bool {
        a.topic != b.topic ? a.topic < b.topic : a.partition < b.partition
    }
}

/// The position of a record in its partition. "Next offset" is the position of the first record not yet applied.
package struct Offset: Hashable, Comparable, Sendable {
    package var value: Int64
    package init(_ value: Int64) { self.value = value }
    package static func < (a: Offset, b: Offset) -> Bool { a.value < b.value }
}

/// The header `millrace-kind`.
package enum RecordKind: UInt8, Sendable {
    case event = 1
    case manifest = 2

    package var name: String {
        switch self {
        case .event: "event"
        case .manifest: "manifest"
        }
    }
}

/// The record headers' names, and the schema that this build writes (`millrace-schema`).
package enum RecordHeader {
    package static let kind = "millrace-kind"
    package static let schema = "millrace-schema"
    package static let schemaVersion = "1"
    package static let errorCode = "millrace-error-code"
    package static let error = "millrace-error"
    package static let source = "millrace-source"
}

/// Where one record lies in its chunk's bytes.
package struct RecordSlot: Sendable {
    /// Index into the chunk's `partitions`.
    package var partition: Int32
    package var offset: Offset
    /// nil: the header is missing or unknown, the record goes to the dead letters.
    package var kind: RecordKind?
    package var keyStart: Int32
    package var keyCount: Int32
    /// -1 for a null value (tombstone).
    package var valueCount: Int32
    package var valueStart: Int32
    /// The frame's checksum failed: the bytes are as found, the record goes to the dead letters.
    package var isCorrupt: Bool

    package init(
        partition: Int32, offset: Offset, kind: RecordKind?, keyStart: Int32, keyCount: Int32, valueStart: Int32,
        valueCount: Int32, isCorrupt: Bool = false
    ) {
        self.partition = partition
        self.offset = offset
        self.kind = kind
        self.keyStart = keyStart
        self.keyCount = keyCount
        self.valueStart = valueStart
        self.valueCount = valueCount
        self.isCorrupt = isCorrupt
    }
}

/// Records fetched together: one buffer, one slot a record. Within a partition, offsets rise.
package struct RecordChunk: Sendable {
    package var partitions: [TopicPartition]
    package var records: [RecordSlot]
    package var bytes: [UInt8]

    package init(partitions: [TopicPartition] = [], records: [RecordSlot] = [], bytes: [UInt8] = []) {
        self.partitions = partitions
        self.records = records
        self.bytes = bytes
    }
}

/// What a poll of the log came back with.
package enum LogEvent: Sendable {
    /// Partitions that are new to this reader and not yet read: answer with `start(_:)`, giving each its next offset.
    case discovered([TopicPartition])
    case records(RecordChunk)
    /// The group gives these partitions to another reader: apply what was read of them, and answer with `release(_:)`.
    /// Where that takes too long, or where another reader has them already, they go without it.
    case revoked([TopicPartition])
    /// Offsets `from ..< to` are gone from the log (retention): the consumer declares the loss and goes on at `to`.
    case gap(TopicPartition, from: Offset, to: Offset)
    /// The log ends before our next offset (truncated or recreated): the partition is stopped until an operator decides.
    case truncated(TopicPartition, expected: Offset, end: Offset)
    /// Nothing new within the timeout. `isDegraded` names why the log cannot be read, where that is so.
    case idle(degraded: String?)
}

/// The reading side of the log. One thread owns a reader.
package protocol RecordLogReader {
    /// Waits up to `timeoutMilliseconds` for the next thing. Throws only what makes the reader unusable for good.
    mutating func poll(maxRecords: Int, maxBytes: Int, timeoutMilliseconds: Int32) throws(RecordLogError) -> LogEvent

    /// Begins to read these partitions at these offsets.
    mutating func start(_ positions: [(partition: TopicPartition, next: Offset)]) throws(RecordLogError)

    /// Called again and again instead of `poll` while no record can be taken, such as when the store is away: keeps the
    /// reader's place in its group and answers what is not records. Does not wait.
    mutating func standBy() throws(RecordLogError) -> LogEvent?

    /// Nothing more will be applied of these partitions, which were `revoked`.
    mutating func release(_ partitions: [TopicPartition])

    /// Whether a group says whose the partitions are; else they are this reader's for good.
    var isShared: Bool { get }

    /// Forgets where reading stands: every partition that is this reader's is named again by `discovered`.
    mutating func restart()

    /// The store has applied everything below `next`. Advisory: for lag tools and the journal's retention.
    mutating func applied(_ partition: TopicPartition, next: Offset)

    /// Records between the applied position and the end of each started partition, as far as known.
    var lag: [(partition: TopicPartition, records: Int64)] { get }

    mutating func close()
}

/// For logs without consumer groups: the partitions are the one reader's for good.
extension RecordLogReader {
    package mutating func standBy() throws(RecordLogError) -> LogEvent? { nil }
    package mutating func release(_ partitions: [TopicPartition]) {}
    package var isShared: Bool { false }
}

/// What went wrong with the log, for an operator.
package struct RecordLogError: Error, Sendable, CustomStringConvertible {
    package enum Code: String, Sendable {
        case configuration, unreachable, topicMissing = "topic_missing", notAuthorized = "not_authorized", fatal, io
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
}
