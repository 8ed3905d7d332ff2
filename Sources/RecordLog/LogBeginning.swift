// Where a log begins: what it still has of the past.

package import Events

package struct LogBeginning: Sendable, Equatable {
    package var partition: TopicPartition
    /// Of the first record; 0: nothing was ever deleted.
    package var first: Offset
    /// When that record came into the log; nil: the log does not say, or there is no record.
    package var time: EventTime?

    package init(partition: TopicPartition, first: Offset, time: EventTime?) {
        self.partition = partition
        self.first = first
        self.time = time
    }
}

/// A log as who reads the past again needs it.
package protocol RecordLogHistory {
    /// Of every partition there is.
    func beginnings() throws(RecordLogError) -> [LogBeginning]

    /// Another reader, beside the consumer's: of no group, and moving nothing.
    func reader() throws(RecordLogError) -> any RecordLogReader
}
