// The dead letters that a store keeps: looked at by people, sent to the log again by a command.

package import Events
package import RecordLog

/// Where a record stood in the log. As text, `topic/partition/offset`, it names a dead letter, and is the value of the
/// header `millrace-source`.
package struct RecordSource: Hashable, Sendable, CustomStringConvertible {
    package var partition: TopicPartition
    package var offset: Offset

    package init(partition: TopicPartition, offset: Offset) {
        self.partition = partition
        self.offset = offset
    }

    /// nil for anything but `topic/partition/offset`, both numbers from 0.
    package init?(_ text: String) {
        let parts = text.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count == 3, !parts[0].isEmpty, let partition = Int32(parts[1]), partition >= 0,
            let offset = Int64(parts[2]), offset >= 0
        else { return nil }
        self.init(
            partition: TopicPartition(topic: String(parts[0]), partition: partition), offset: Offset(offset))
    }

    package var description: String { "\(partition)/\(offset.value)" }
}

extension DeadLetter {
    package var recordSource: RecordSource { RecordSource(partition: source, offset: offset) }
}

/// What was done about a dead letter. Stores keep it as one number beside the letter: the time in microseconds at which
/// its bytes were sent again, or minus the time at which it was discarded. What was sent again is not discarded any more.
package enum DeadLetterMark: Sendable, Equatable {
    case redriven(EventTime)
    case discarded(EventTime)

    package init(stored: Int64) {
        self =
            stored > 0
            ? .redriven(EventTime(microseconds: stored)) : .discarded(EventTime(microseconds: 0 &- stored))
    }
}

/// A dead letter as filed, without its bytes.
package struct FiledDeadLetter: Sendable, Equatable {
    package var source: RecordSource
    /// When it was filed.
    package var time: EventTime
    /// One of `DeadLetter.Code`, or what a newer program wrote.
    package var code: String
    package var reason: String
    package var keySize: Int64
    package var valueSize: Int64
    /// nil: nothing was done about it yet.
    package var mark: DeadLetterMark?

    /// When its bytes were last sent to the log again; nil while they were not.
    package var redriven: EventTime? { if case .redriven(let time) = mark { time } else { nil } }

    /// When it was discarded; nil while it was not.
    package var discarded: EventTime? { if case .discarded(let time) = mark { time } else { nil } }

    package init(
        source: RecordSource, time: EventTime, code: String, reason: String, keySize: Int64, valueSize: Int64,
        mark: DeadLetterMark?
    ) {
        self.source = source
        self.time = time
        self.code = code
        self.reason = reason
        self.keySize = keySize
        self.valueSize = valueSize
        self.mark = mark
    }
}

/// Which dead letters are asked for: those that meet every condition given.
package struct DeadLetterFilter: Sendable, Equatable {
    package var code: String?
    /// Filed at or after.
    package var from: EventTime?
    /// Filed before.
    package var to: EventTime?
    package var topic: String?
    package var partition: Int32?
    package var offset: Offset?
    /// Whether anything was done about it; nil: either.
    package var isMarked: Bool?
    package var limit = Int.max

    package init() {}
}

/// A store's dead letters, for any number of threads and processes, beside the writer.
package protocol DeadLetterArchive: Sendable {
    /// Newest first: by time, then by source, descending.
    func list(_ filter: DeadLetterFilter) throws(RollupStoreError) -> [FiledDeadLetter]

    /// One with its bytes; nil where there is none of that source.
    func find(
        _ source: RecordSource
    ) throws(RollupStoreError) -> (letter: FiledDeadLetter, key: [UInt8], value: [UInt8])?

    /// Notes that these were sent to the log again. A second time moves the instant.
    func markRedriven(_ sources: [RecordSource], at time: EventTime) throws(RollupStoreError)

    /// Notes that these are to be left alone; those that anything was done about before stay as they are. They go on to
    /// count as dead-lettered.
    func markDiscarded(_ sources: [RecordSource], at time: EventTime) throws(RollupStoreError)
}
