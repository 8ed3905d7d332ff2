// The days of a batch's event ids -> a partition of the table `events` for each, made when it is first needed.

import EventCodec
import Events
import RollupStore

/// | limit | value | why | beyond |
/// | --- | --- | --- | --- |
/// | `daysBack` | 100 | as long as anybody keeps events, with room; each partition costs a plan something | `events_other` |
/// | `daysAhead` | 2 | clocks that are fast; made ahead of time, so that midnight finds its partition there | `events_other` |
///
/// Where the event goes never changes an answer: only how it is dropped when its time has come.
struct EventPartitions {
    static let daysBack: Int64 = 100
    static let daysAhead: Int64 = 2
    private static let dayMilliseconds: Int64 = 86_400_000

    /// The partition of all ids that are of no other.
    static let others = "events_other"

    static func table(ofDayAt time: EventTime) -> String { table(of: time.microseconds / 1_000 / dayMilliseconds) }
    private static func table(of day: Int64) -> String { "events_" + name(of: day) }

    /// Days that have their partition, or never will: their first rows came too early, or too late.
    private var settled: Set<Int64> = []

    mutating func forget() { settled.removeAll() }

    /// Not within a transaction.
    mutating func make(
        for events: [NormalizedEvent], now: EventTime, _ connection: Connection
    ) throws(ServerFailure) {
        let today = now.microseconds / 1_000 / Self.dayMilliseconds
        var wanted: Set<Int64> = []
        for event in events { wanted.insert(Int64(event.fields.id.high >> 16) / Self.dayMilliseconds) }
        // Only a writer that has events makes days ahead.
        if !events.isEmpty { wanted.formUnion([today, today + 1]) }
        let range = today - Self.daysBack...today + Self.daysAhead
        for day in wanted.subtracting(settled).sorted() where range.contains(day) {
            try make(day, connection)
            settled.insert(day)
        }
    }

    private func make(_ day: Int64, _ connection: Connection) throws(ServerFailure) {
        let name = Self.table(of: day)
        do throws(ServerFailure) {
            try connection.execute(
                """
                BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock(\(AdvisoryLock.partitions));
                """)
            var parameters = Parameters()
            parameters.add(texts: [name])
            let isThere = try connection.query(
                """
                SELECT 1 FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                WHERE i.inhparent = to_regclass('events') AND c.relname = ($1::text[])[1]
                """, parameters)
            if isThere.count == 0 {
                // Attached rather than created as a partition: so the writers and readers of the others go on.
                try connection.execute(
                    """
                    CREATE TABLE \(name) (LIKE events INCLUDING DEFAULTS INCLUDING STORAGE);
                    ALTER TABLE events ATTACH PARTITION \(name)
                        FOR VALUES FROM ('\(Self.firstID(of: day))') TO ('\(Self.firstID(of: day + 1))');
                    """)
            }
            try connection.execute("COMMIT")
        } catch {
            if connection.isInTransaction { try connection.execute("ROLLBACK") }
            // Some of the day's events are in `events_other` from before it was near enough, or the day was detached:
            // the rest goes to `events_other` too.
            if error.state != ServerFailure.checkViolation && error.state != ServerFailure.duplicateTable {
                throw error
            }
        }
    }

    /// The year, month and day of a day's number, as digits: the proleptic Gregorian calendar by whole eras of 400 years.
    static func name(of day: Int64) -> String {
        // Days since 0000-03-01, so that the leap day is a year's last.
        let shifted = day + 719_468
        let era = shifted / 146_097
        let ofEra = shifted % 146_097
        let yearOfEra = (ofEra - ofEra / 1_460 + ofEra / 36_524 - ofEra / 146_096) / 365
        let ofYear = ofEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let shiftedMonth = (5 * ofYear + 2) / 153
        let dayOfMonth = ofYear - (153 * shiftedMonth + 2) / 5 + 1
        let month = shiftedMonth < 10 ? shiftedMonth + 3 : shiftedMonth - 9
        let year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
        func padded(_ number: Int64, _ width: Int) -> String {
            let digits = String(number)
            return String(repeating: "0", count: max(0, width - digits.count)) + digits
        }
        return padded(year, 4) + padded(month, 2) + padded(dayOfMonth, 2)
    }

    private static func firstID(of day: Int64) -> EventID {
        EventID(high: UInt64(day * dayMilliseconds) << 16, low: 0)
    }
}
