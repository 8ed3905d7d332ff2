// The part of a replay's scan that reads the log: of days that the store no longer has the events of.
//
// What the store had applied as the replay began is where the scan of each partition ends: whatever is applied later is
// pending for the replay, as everywhere (ReplayStore.swift). So scan and pending together are all of these days, once.

package import Events
package import RecordLog
package import Rollups

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

        /// Records.
        package var total: Int64 { end.value - begin.value }
        package var read: Int64 { next.value - begin.value }
    }

    package var until: EventTime
    /// Of a replay of one workspace: rows of the others are taken over of days before this instant. nil: of all of them.
    package var carried: EventTime?
    /// Ascending by partition, and read in this order.
    package var parts: [Part]

    package init(until: EventTime, carried: EventTime? = nil, parts: [Part]) {
        self.until = until
        self.carried = carried
        self.parts = parts
    }

    /// - `applied`: the store's next offsets as the replay begins.
    package init(
        _ reach: LogReach, _ plan: ReplayPlan, applied: [(partition: TopicPartition, next: Offset)]
    ) throws(RollupStoreError) {
        until = reach.until
        carried = plan.workspace == nil ? nil : plan.begin
        parts = []
        for (partition, next) in applied.sorted(by: { $0.partition < $1.partition }) where next.value > 0 {
            guard let begin = reach.beginnings[partition] else {
                throw RollupStoreError(
                    code: .configuration, tried: "replay days before \(RFC3339.precise(reach.until)) from the log",
                    reason: "the store has counted \(partition), and the log has none",
                    next: "Check log.kind and log.kafka.topic; or begin at that instant.")
            }
            let first = min(begin, next)
            parts.append(Part(partition: partition, begin: first, next: first, end: next))
        }
    }

    /// The part that is to be read next.
    package var current: Int? { parts.firstIndex { $0.next < $0.end } }

    /// Records from begin to end.
    package var total: Int64 { parts.reduce(0) { $0 + $1.total } }

    // MARK: As text, in the store

    package var text: String {
        "\(until.microseconds)" + (carried.map { " \($0.microseconds)" } ?? "")
            + parts.map {
                "\n\($0.partition.topic) \($0.partition.partition) \($0.begin.value) \($0.next.value) \($0.end.value)"
            }.joined()
    }

    /// nil where the text is none of ours.
    package init?(text: String) {
        let lines = text.split(separator: "\n")
        let instants = (lines.first ?? "").split(separator: " ").map { Int64($0).map(EventTime.init(microseconds:)) }
        guard instants.count == 1 || instants.count == 2, let until = instants[0] else { return nil }
        self.until = until
        if instants.count == 2 {
            guard let carried = instants[1] else { return nil }
            self.carried = carried
        }
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

/// What others than one workspace have of some days: the step of a replay of that workspace that takes it over.
///
/// The log is not asked about them: what it makes of them may differ from what ingest has made of them.
package struct CarriedRows: Sendable {
    private struct Place: Hashable {
        var grain: Grain
        var bucket: Int32
        var series: Int64
    }

    private let workspace: String
    private var keys: [SeriesKey] = []
    private var numbers: [Int64: Int32] = [:]
    private var rows: [RollupDelta.Row] = []
    private var places: [Place: Int] = [:]
    private var settled: [EventPlace] = []

    package init(without workspace: String) { self.workspace = workspace }

    /// What answers in these days, of every grain.
    ///
    /// - `next`: what to do where a series is missing.
    package mutating func add(
        _ days: GenerationMap.Segment, _ snapshot: some GenerationalSnapshot, next: String, key: (Int64) -> SeriesKey?
    ) throws {
        var missing: Int64?
        for grain in Grain.allCases {
            let (from, to) = (grain.bucket(of: days.begin), grain.bucket(of: days.end))
            try snapshot.scanRollups(grain: grain, from: from, to: to, series: .all, withBins: true) { row in
                if let key = key(row.series) { add(row, key, grain) } else { missing = row.series }
            }
        }
        if let missing {
            throw RollupStoreError(
                code: .corrupt, tried: "take over the rows of series \(missing)", reason: "the series is missing",
                next: next)
        }
    }

    private mutating func add(_ row: StoredRollup, _ key: SeriesKey, _ grain: Grain) {
        if key.workspace == workspace { return }
        let place = Place(grain: grain, bucket: row.bucket, series: row.series)
        if let known = places[place] {
            rows[known].measures += row.measures
            rows[known].bins += row.bins
            return
        }
        let number = numbers[row.series] ?? Int32(keys.count)
        if number == keys.count {
            numbers[row.series] = number
            keys.append(key)
        }
        places[place] = rows.count
        rows.append(
            RollupDelta.Row(
                grain: grain, bucket: row.bucket, series: number, measures: row.measures, bins: row.bins))
    }

    /// An event that is pending for the replay: the rows have it already.
    package mutating func add(pending event: ReplayEvent) {
        if event.series.workspace == workspace { return }
        settled.append(EventPlace(time: event.stored.event.time, id: event.stored.event.id))
    }

    /// - `log`: where the replay's scan stands with it.
    package func step(_ log: LogScan) -> ReplayStep {
        var step = ReplayStep()
        step.series = keys
        step.delta = RollupDelta(
            rows: rows.map { row in
                var row = row
                row.bins.normalize()
                return row
            }.sorted { ($0.grain.rawValue, $0.bucket, $0.series) < ($1.grain.rawValue, $1.bucket, $1.series) })
        step.settled = settled
        step.log = log
        return step
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
