// The consumer's side of the reconciliation: what became of one proxy's records of one minute.

package import Events

/// Counts of a batch, or of all batches. The other side is `Manifest`: what the proxy says that it recorded.
package struct ProxyMinute: Sendable, Equatable {
    /// As the events say; of a record that does not say, that of the record before it in the partition.
    package var proxy: String
    /// Start of the minute of the events' `time`.
    package var minute: EventTime
    /// In a sealed batch all events, copies too: the writer takes off each one that the store already had.
    package var applied: Int64
    package var duplicates: Int64
    package var deadLettered: Int64

    package init(
        proxy: String, minute: EventTime, applied: Int64 = 0, duplicates: Int64 = 0, deadLettered: Int64 = 0
    ) {
        self.proxy = proxy
        self.minute = minute
        self.applied = applied
        self.duplicates = duplicates
        self.deadLettered = deadLettered
    }
}

extension EventTime {
    package static let minuteMicroseconds: Int64 = 60_000_000

    /// The start of the minute that this instant lies in.
    package var startOfMinute: EventTime {
        let rest = microseconds % Self.minuteMicroseconds
        return EventTime(microseconds: microseconds - (rest < 0 ? rest + Self.minuteMicroseconds : rest))
    }
}
