// The consumer's side of the reconciliation: what became of one proxy's records of one minute.

package import Events
package import RecordLog

/// Counts of a batch, or of all batches, by partition: so writers never share a row, and a difference has offsets to
/// look at. The other side is `Manifest`: what the proxy says that it recorded.
package struct ProxyMinute: Sendable, Equatable {
    /// As the events say; of a record that does not say, that of the record before it in the partition.
    package var proxy: String
    /// Start of the minute of the events' `time`.
    package var minute: EventTime
    package var partition: TopicPartition
    /// In a sealed batch all events, copies too: the writer takes off each one that the store already had.
    package var applied: Int64
    package var duplicates: Int64
    package var deadLettered: Int64
    /// All of these records lie within `first ..< next`; others may lie between them.
    package var first: Offset
    package var next: Offset
    /// When the store last changed the row, by the writer's clock; nil in a batch.
    package var changed: EventTime?

    package init(
        proxy: String, minute: EventTime, partition: TopicPartition, first: Offset, next: Offset, applied: Int64 = 0,
        duplicates: Int64 = 0, deadLettered: Int64 = 0, changed: EventTime? = nil
    ) {
        self.proxy = proxy
        self.minute = minute
        self.partition = partition
        self.first = first
        self.next = next
        self.applied = applied
        self.duplicates = duplicates
        self.deadLettered = deadLettered
        self.changed = changed
    }
}
