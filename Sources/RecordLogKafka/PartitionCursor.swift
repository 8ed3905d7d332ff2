// Where reading of one partition stands, and what each thing that happens to it means. Pure: no client, no clock.
//
// Offsets rise, but not always by one: compaction and transaction markers leave holes that never held a record of
// ours, retention removes a prefix, and librdkafka 2.0.2 is known to skip or repeat records after an assignment changed.
// So every record is checked against the offset that comes next:
//   lower   -> seen already, skipped;
//   equal   -> taken;
//   higher  -> below the log's start: lost, declared; else the partition is read again from where we stand, once, and
//              where the same jump comes back it is the log's own hole (or, after a broken batch, a loss).
// Where the broker has no such offset, its two watermarks decide: lost prefix, or a log shorter than what was applied.

struct PartitionCursor {
    enum Phase: Equatable {
        /// The group has not given it to this reader.
        case unassigned
        /// Named to the owner, waiting for `start`.
        case awaitingStart
        case reading
        /// The group wants it back; waiting for the owner's `release`.
        case awaitingRelease
        /// Reading failed; waiting for the partition's watermarks.
        case awaitingWatermarks(reason: String)
        /// The log ends before our next offset; waiting for an operator, and then for `start`.
        case truncated(end: Int64)
    }

    enum Verdict: Equatable {
        case take
        case skip
        /// Records up to here are gone: declare it, and look at the same record again.
        case lost(from: Int64, to: Int64)
        /// Assign the partition anew from `next`.
        case reread
    }

    enum Resumption: Equatable {
        case reading
        case lost(from: Int64, to: Int64)
        case truncated(expected: Int64, end: Int64)
        case unchanged
    }

    private(set) var phase = Phase.awaitingStart
    /// The offset that comes next.
    private(set) var next: Int64 = 0
    /// What the owner has applied, for the lag.
    private(set) var applied: Int64 = 0
    /// Jumps were found to be the log's own: they are taken as they come.
    private(set) var isSparse = false
    /// The jump for which the partition was read again.
    private var questioned: (from: Int64, to: Int64)?
    private var hasBrokenBatch = false

    mutating func assigned() { phase = .awaitingStart }

    /// False where it is not this reader's.
    mutating func revoked() -> Bool {
        guard isAssigned else { return false }
        phase = .awaitingRelease
        return true
    }

    mutating func released() { phase = .unassigned }

    /// This reader's, and not asked back.
    var isAssigned: Bool { phase != .unassigned && phase != .awaitingRelease }

    /// Its records were asked for and `applied` means something.
    var isStarted: Bool { isAssigned && phase != .awaitingStart }

    mutating func started(at offset: Int64) {
        phase = .reading
        next = offset
        applied = offset
        questioned = nil
        hasBrokenBatch = false
    }

    /// `low` is the log's first offset as the last fetch told it; negative: not known.
    mutating func received(_ offset: Int64, low: @autoclosure () -> Int64) -> Verdict {
        guard phase == .reading, offset >= next else { return .skip }
        if offset == next {
            next = offset + 1
            return .take
        }
        let low = low()
        if low > next {
            let from = next
            next = min(low, offset)
            return .lost(from: from, to: next)
        }
        if isSparse, !hasBrokenBatch {
            next = offset + 1
            return .take
        }
        if let questioned, questioned == (next, offset) {
            self.questioned = nil
            if hasBrokenBatch {
                hasBrokenBatch = false
                let from = next
                next = offset
                return .lost(from: from, to: next)
            }
            isSparse = true
            next = offset + 1
            return .take
        }
        questioned = (next, offset)
        return .reread
    }

    /// A batch at or after `next` had a broken checksum or compression, and its records will not come.
    mutating func batchBroken() { hasBrokenBatch = true }

    /// The broker answered a fetch with an error. True where the watermarks are to be asked for.
    mutating func fetchFailed(_ reason: String) -> Bool {
        switch phase {
        case .reading:
            phase = .awaitingWatermarks(reason: reason)
            return true
        case .awaitingWatermarks, .awaitingStart, .truncated, .unassigned, .awaitingRelease: return false
        }
    }

    mutating func watermarksArrived(low: Int64, high: Int64) -> Resumption {
        switch phase {
        case .awaitingWatermarks:
            if high < next {
                phase = .truncated(end: high)
                return .truncated(expected: next, end: high)
            }
            phase = .reading
            guard low > next else { return .reading }
            let from = next
            next = low
            return .lost(from: from, to: low)
        case .reading, .awaitingStart, .truncated, .unassigned, .awaitingRelease: return .unchanged
        }
    }

    mutating func applied(upTo offset: Int64) { applied = max(applied, offset) }
}
