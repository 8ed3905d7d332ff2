// The writing side of the log.

/// What became of a record that was handed to a producer.
package enum Delivery: Sendable, Equatable {
    /// In the log, by every replica that must have it.
    case acknowledged
    /// Not known to be in the log; sending it again is safe, copies meet by event id.
    case failed
    /// The log will never take this record (too large, for example); the text says why.
    case refused(String)
}

/// Takes records and reports what became of each. One thread owns a producer.
package protocol RecordProducer {
    /// False when the producer's queue is full: call `poll` and try again. `tag` comes back in the report.
    mutating func send(tag: UInt64, kind: RecordKind, key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer)
        -> Bool

    /// Serves delivery reports for up to `timeoutMilliseconds`, in no promised order. Throws what makes this
    /// producer unusable: make a new one and send again all that was not acknowledged.
    mutating func poll(
        timeoutMilliseconds: Int32, _ report: (_ tag: UInt64, _ delivery: Delivery) -> Void
    ) throws(RecordLogError)

    /// Why records are not getting through right now, nil when they are.
    var degraded: String? { get }

    /// Gives up what is in flight.
    mutating func close()
}
