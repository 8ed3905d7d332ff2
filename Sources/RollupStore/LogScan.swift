// The part of a replay's scan that reads the log: of days that the store no longer has the events of.
//
// What the store had applied as the replay began is where the scan of each partition ends: whatever is applied later is
// pending for the replay, as everywhere (ReplayStore.swift). So scan and pending together are all of these days, once.

package import Events
package import RecordLog

/// How far a log reaches back, and up to which day a replay needs it.
package struct LogReach: Sendable, Equatable {
    /// Days before this instant are read from the log, later ones from stored events; the begin of a UTC day.
    package var until: EventTime
    /// The first offset that each partition still has.
    package var beginnings: [TopicPartition: Offset]

    package init(until: EventTime, beginnings: [TopicPartition: Offset]) {
        self.until = until
        self.beginnings = beginnings
    }
}

package struct LogScan: Sendable, Equatable {
    package struct Part: Sendable, Equatable {
        package var partition: TopicPartition
        /// The first offset that the log had as the replay began.
        package var begin: Offset
        /// Read up to here, exclusive.
        package var next: Offset
        package var end: Offset

        package init(partition: TopicPartition, begin: Offset, next: Offset, end: Offset) {
            self.partition = partition
            self.begin = begin
            self.next = next
            self.end = end
        }
    }

    package var until: EventTime
    /// Ascending by partition, and read in this order.
    package var parts: [Part]

    package init(until: EventTime, parts: [Part]) {
        self.until = until
        self.parts = parts
    }

    /// - `applied`: the store's next offsets as the replay begins.
    package init(
        _ reach: LogReach, applied: [(partition: TopicPartition, next: Offset)]
    ) throws(RollupStoreError) {
        until = reach.until
        parts = []
        for (partition, next) in applied.sorted(by: { $0.partition < $1.partition }) where next.value > 0 {
            guard let begin = reach.beginnings[partition] else {
                throw RollupStoreError(
                    code: .configuration, tried: "replay days before \(RFC3339.precise(reach.until)) from the log",
                    reason: "the store has counted \(partition.topic)/\(partition.partition), and the log has none",
                    next: "Check log.kind and log.kafka.topic; or begin at that instant.")
            }
            let first = min(begin, next)
            parts.append(Part(partition: partition, begin: first, next: first, end: next))
        }
    }

    /// The part that is to be read next.
    package var current: Int? { parts.firstIndex { $0.next < $0.end } }

    /// Records from begin to end.
    package var total: Int64 { parts.reduce(0) { $0 + $1.end.value - $1.begin.value } }

    // MARK: As text, in the store

    package var text: String {
        "\(until.microseconds)"
            + parts.map {
                "\n\($0.partition.topic) \($0.partition.partition) \($0.begin.value) \($0.next.value) \($0.end.value)"
            }.joined()
    }

    /// nil where the text is none of ours.
    package init?(text: String) {
        let lines = text.split(separator: "\n")
        guard let first = lines.first, let until = Int64(first) else { return nil }
        self.until = EventTime(microseconds: until)
        parts = []
        for line in lines.dropFirst() {
            let words = line.split(separator: " ")
            guard words.count == 5, let partition = Int32(words[1]), let begin = Int64(words[2]),
                let next = Int64(words[3]), let end = Int64(words[4])
            else { return nil }
            parts.append(
                Part(
                    partition: TopicPartition(topic: String(words[0]), partition: partition), begin: Offset(begin),
                    next: Offset(next), end: Offset(end)))
        }
    }

    /// As the store has it; empty: the replay reads no log.
    package static func stored(_ text: String, of replay: Int64) throws(RollupStoreError) -> LogScan? {
        if text.isEmpty { return nil }
        guard let scan = LogScan(text: text) else {
            throw RollupStoreError(
                code: .corrupt, tried: "read replay \(replay)", reason: "its place in the log is not understood",
                next: "End it ('millrace replay cancel \(replay)'), and start it again.")
        }
        return scan
    }
}

/// From when on a store has what a replay needs.
package struct ReplayBounds: Sendable, Equatable {
    /// nil: all that ever came.
    package var eventsFrom: EventTime?
    /// Of the rollups by days, which are kept longest.
    package var daysFrom: EventTime?

    package init(eventsFrom: EventTime?, daysFrom: EventTime?) {
        self.eventsFrom = eventsFrom
        self.daysFrom = daysFrom
    }
}
