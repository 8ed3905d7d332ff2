// The reconciliation, pure: what proxies say, what the consumer counted, what is on its way -> a row a proxy and minute.
//
// accepted = recorded + dropped; difference = recorded - applied - dead_lettered - in_flight. It is 0 where every record
// is accounted for, positive where records are missing, negative where more came than any manifest knows of.

package import Events
package import RecordLog
package import RollupStore

/// Where records of a row stand in the log: all of them lie within `first ..< next`, others between them.
package struct LogSpan: Sendable, Equatable {
    package var partition: TopicPartition
    package var first: Offset
    package var next: Offset
}

package struct BalanceRow: Sendable, Equatable {
    package var minute: EventTime
    package var proxy: String
    package var accepted: Int64 = 0
    package var recorded: Int64 = 0
    package var dropped: Int64 = 0
    package var applied: Int64 = 0
    package var duplicates: Int64 = 0
    package var deadLettered: Int64 = 0
    package var inFlight: Int64 = 0
    /// By partition: where to look for what is missing.
    package var spans: [LogSpan] = []

    package init(minute: EventTime, proxy: String) {
        self.minute = minute
        self.proxy = proxy
    }

    package var difference: Int64 { recorded - applied - deadLettered - inFlight }
}

package struct Balance: Sendable, Equatable {
    /// In order of minute, then proxy.
    package var rows: [BalanceRow]
    /// Whether every record that was recorded is accounted for: applied, a dead letter or in flight.
    package var isClosed: Bool
    /// Why in flight is not known exactly; nil where it is.
    package var note: String?

    package init(rows: [BalanceRow], isClosed: Bool, note: String? = nil) {
        self.rows = rows
        self.isClosed = isClosed
        self.note = note
    }

    package var totals: BalanceRow {
        rows.reduce(into: BalanceRow(minute: EventTime(microseconds: 0), proxy: "")) { sum, row in
            sum.accepted += row.accepted
            sum.recorded += row.recorded
            sum.dropped += row.dropped
            sum.applied += row.applied
            sum.duplicates += row.duplicates
            sum.deadLettered += row.deadLettered
            sum.inFlight += row.inFlight
        }
    }

    /// Differences of either sign added up without cancelling each other: what an alert goes by.
    package var absoluteDifference: Int64 { rows.reduce(0) { $0 + abs($1.difference) } }
}

/// What is known of records on their way.
package enum InFlight: Sendable {
    /// Counted one by one in the journal, as of the same moment as everything else.
    case counted([ProxyMinuteKey: Int64])
    /// The log is elsewhere. A manifest comes into it after all that it counts. `hasArrived`: all that was in it when
    /// the manifests were read is applied, so what they count and is not there is missing; else it is on its way.
    /// Rows that have changed at or after `settled` may be ahead of their manifests.
    case inLog(hasArrived: Bool, settled: EventTime)
}

package struct ProxyMinuteKey: Hashable, Sendable {
    package var minute: EventTime
    package var proxy: String

    package init(minute: EventTime, proxy: String) {
        self.minute = minute
        self.proxy = proxy
    }

    /// A proxy's id is a UUID.
    fileprivate var isOfProxy: Bool { EventID(text: proxy) != nil }
}

extension Balance {
    /// - `parts`: manifests from anywhere, in any order; of one part the greatest counts stand.
    package init(parts: [Manifest], minutes: [ProxyMinute], inFlight: InFlight, from: EventTime, to: EventTime) {
        struct Part: Hashable {
            var place: ProxyMinuteKey
            var lane: UInt32
            var serial: UInt64
        }
        var told: [Part: (accepted: UInt64, recorded: UInt64)] = [:]
        for part in parts where part.minute >= from && part.minute < to {
            let key = Part(
                place: ProxyMinuteKey(minute: part.minute, proxy: part.proxy), lane: part.lane, serial: part.serial)
            let known = told[key] ?? (0, 0)
            told[key] = (max(known.accepted, part.accepted), max(known.recorded, part.recorded))
        }
        var rows: [ProxyMinuteKey: BalanceRow] = [:]
        func change(_ key: ProxyMinuteKey, _ body: (inout BalanceRow) -> Void) {
            body(&rows[key, default: BalanceRow(minute: key.minute, proxy: key.proxy)])
        }
        for (part, counts) in told {
            change(part.place) { row in
                row.recorded += Int64(clamping: counts.recorded)
                row.accepted += Int64(clamping: counts.accepted)
                row.dropped = row.accepted - row.recorded
            }
        }
        var changed: [ProxyMinuteKey: EventTime] = [:]
        for minute in minutes where minute.minute >= from && minute.minute < to {
            let key = ProxyMinuteKey(minute: minute.minute, proxy: minute.proxy)
            if let time = minute.changed { changed[key] = max(changed[key] ?? time, time) }
            change(key) { row in
                row.applied += minute.applied
                row.duplicates += minute.duplicates
                row.deadLettered += minute.deadLettered
                row.spans.append(LogSpan(partition: minute.partition, first: minute.first, next: minute.next))
            }
        }
        var note: String?
        switch inFlight {
        case .counted(let counts):
            for (key, count) in counts where key.minute >= from && key.minute < to && count != 0 {
                change(key) { $0.inFlight += count }
            }
        case .inLog(let hasArrived, let settled):
            if !hasArrived {
                note = "The consumer has not come to the end of the log yet: what is missing counts as in flight."
            }
            for key in rows.keys {
                change(key) { row in
                    let missing = row.recorded - row.applied - row.deadLettered
                    if missing > 0, !hasArrived { row.inFlight = missing }
                    if missing < 0, !hasArrived || changed[key].map({ $0 >= settled }) == true {
                        row.recorded -= missing
                        row.accepted -= missing
                    }
                }
            }
        }
        // Events that no proxy made (`millrace loadgen`, say) come without manifests: what came is what was recorded.
        for key in rows.keys where !key.isOfProxy {
            change(key) { row in
                row.recorded = row.applied + row.deadLettered + row.inFlight
                row.accepted = row.recorded + row.dropped
            }
        }
        let sorted = rows.values.sorted { a, b in
            a.minute != b.minute
                ? a.minute < b.minute : a.proxy.utf8.lexicographicallyPrecedes(b.proxy.utf8)
        }
        self.init(
            rows: sorted, isClosed: sorted.allSatisfy { $0.difference == 0 }, note: note)
    }
}
