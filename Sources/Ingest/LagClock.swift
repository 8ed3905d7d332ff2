// How old the oldest record not yet applied is, by partition: chunks as handed out, offsets as applied -> seconds. Pure.

package import Events
package import RecordLog

/// An event's key is a UUIDv7, which begins with its time in milliseconds. One mark is kept for each chunk, at its first
/// event: the age is right to within a chunk.
package struct LagClock: Sendable {
    private struct Partition {
        var applied: Offset
        /// Rising by offset; the first covers `applied` where it was handed out.
        var marks: [(offset: Offset, milliseconds: Int64)] = []
    }
    private var partitions: [TopicPartition: Partition] = [:]

    package init() {}

    package mutating func started(_ partition: TopicPartition, at next: Offset) {
        partitions[partition] = Partition(applied: next)
    }

    package mutating func handed(_ chunk: RecordChunk) {
        var seen = [Bool](repeating: false, count: chunk.partitions.count)
        for slot in chunk.records where !seen[Int(slot.partition)] {
            let key = chunk.bytes[Int(slot.keyStart)..<Int(slot.keyStart + slot.keyCount)]
            guard let milliseconds = EventID.milliseconds(ofKey: key) else { continue }
            seen[Int(slot.partition)] = true
            partitions[chunk.partitions[Int(slot.partition)]]?.marks.append((slot.offset, milliseconds))
        }
    }

    package mutating func applied(_ partition: TopicPartition, next: Offset) {
        guard var known = partitions[partition] else { return }
        known.applied = next
        let passed = known.marks.lastIndex { $0.offset <= next } ?? 0
        known.marks.removeFirst(passed)
        partitions[partition] = known
    }

    /// Whole seconds; 0 while nothing is known of the partition.
    package func seconds(_ partition: TopicPartition, at now: EventTime) -> Int64 {
        guard let oldest = partitions[partition]?.marks.first else { return 0 }
        return max(0, (now.microseconds / 1_000 - oldest.milliseconds) / 1_000)
    }
}
