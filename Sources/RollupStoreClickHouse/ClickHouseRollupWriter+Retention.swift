// What is past its time stops counting in one step, as everything does; it is deleted when no read can still want it.
//
// A boundary is part of the state: readers pass over what is older, whether it has been deleted or not, and whatever
// comes late. So nothing is lost by deleting slowly, by whole days of events where that is cheap.

import Events
package import RollupStore
import Rollups

extension ClickHouseRollupWriter {
    /// One call moves the boundaries, a later one deletes: there are never many small steps here, so `maxRows` bounds
    /// nothing.
    package func expire(_ boundaries: RetentionBoundaries, maxRows: Int) throws(RollupStoreError) -> Bool {
        let connection = try opened()
        _ = try settleDoubt(connection)
        while true {
            let seen = try latest(connection)
            var next = seen.next(by: number, settles: isUntouched)
            for grain in Grain.allCases {
                let boundary = boundaries.boundary(of: grain)
                let isOlder = "bucket < \(grain.bucket(of: boundary))"
                if try isDue(
                    boundary, of: grain.rawValue, seen, "rollups", seen.condition(of: grain), isOlder, connection)
                {
                    next.retained[grain.rawValue] = boundary.microseconds
                }
            }
            let isOlder = "time_us < \(boundaries.events.microseconds)"
            if try isDue(
                boundaries.events, of: StoreState.events, seen, "events", seen.eventCondition, isOlder, connection)
            {
                next.retained[StoreState.events] = boundaries.events.microseconds
            }
            let oldest = boundaries.events.startOfMinute
            for (table, counts) in [
                ("manifests", seen.manifestCondition), ("proxy_minutes", seen.proxyMinuteCondition),
            ] {
                let isOlder = "minute_us < \(oldest.microseconds)"
                if try isDue(oldest, of: StoreState.minutes, seen, table, counts, isOlder, connection) {
                    next.retained[StoreState.minutes] = oldest.microseconds
                }
            }
            if next.retained == seen.retained { break }
            if try win(next, nil, connection) { return true }
        }
        try deleteExpired(connection)
        try deleteEnded(connection)
        return false
    }

    /// Whether anything that counts is older than the boundary.
    private func isDue(
        _ boundary: EventTime, of what: UInt8, _ seen: StoreState, _ table: String, _ counts: String, _ isOlder: String,
        _ connection: Connection
    ) throws(RollupStoreError) -> Bool {
        if let retained = seen.retained[what], retained >= boundary.microseconds { return false }
        var answer = try connection.select(
            ["toUInt8(1)"], "FROM \(table) WHERE \(isOlder) AND \(counts) LIMIT 1", "look for what is past its time")
        return try answer.next()
    }

    /// Not before the time that a read may last has passed since the boundaries were seen to stand where they do.
    private func deleteExpired(_ connection: Connection) throws(RollupStoreError) {
        guard let state, !state.retained.isEmpty else { return }
        if retainedSince?.boundaries != state.retained { retainedSince = (state.retained, .now, false) }
        guard let since = retainedSince, !since.isDeleted,
            since.at.duration(to: .now) >= .seconds(limits.graceTime)
        else { return }
        var isAnyHeld = false
        if let boundary = state.retained[StoreState.events] {
            isAnyHeld = try deleteDays(before: boundary / Self.day, connection)
        }
        for grain in Grain.allCases {
            guard let boundary = state.retained[grain.rawValue] else { continue }
            let bucket = grain.bucket(of: EventTime(microseconds: boundary))
            try connection.run(
                "DELETE FROM \(connection.everywhere("rollups")) WHERE grain = \(grain.rawValue) AND bucket < \(bucket)",
                "delete rollups past their time")
        }
        if let minute = state.retained[StoreState.minutes] {
            for table in ["manifests", "proxy_minutes"] {
                try connection.run(
                    "DELETE FROM \(connection.everywhere(table)) WHERE minute_us < \(minute)",
                    "delete \(table) past their time")
            }
        }
        retainedSince?.isDeleted = !isAnyHeld
    }

    /// True where some are held. Where a replay counts a day, late events of it may come at any moment, to be settled
    /// before they go: there rows that the state has go, and not the partition. Those of numbers that were given up
    /// lately go with a later boundary.
    private func deleteDays(before today: Int64, _ connection: Connection) throws(RollupStoreError) -> Bool {
        var days: [Int64: [String]] = [:]
        for table in ["events", "revisions", "replay_pending", "replay_settled"] {
            for day in try partitions(of: table, connection) where day < today { days[day, default: []].append(table) }
        }
        var isAnyHeld = false
        for (day, tables) in days.sorted(by: { $0.key < $1.key }) {
            let begin = EventTime(microseconds: day * Self.day)
            let end = EventTime(microseconds: (day + 1) * Self.day)
            // A replay may have begun while the day before was deleted.
            let state = try latest(connection)
            let counting = state.counting(day: begin)
            var isHeld = state.isHeld(day: day)
            if !isHeld { isHeld = try isPending(for: counting, from: begin, to: end, state, connection) }
            if isHeld {
                isAnyHeld = true
                continue
            }
            for table in tables {
                let delete =
                    counting.isEmpty
                    ? "ALTER TABLE \(connection.everywhere(table)) DROP PARTITION \(day)"
                    : "ALTER TABLE \(connection.everywhere(table)) DELETE IN PARTITION \(day) WHERE \(state.settledCondition) "
                        + "SETTINGS mutations_sync = 2"
                try connection.run(delete, "delete \(table) past their time")
            }
        }
        return isAnyHeld
    }

    /// Whether any of these generations has still to count an event that there is.
    private func isPending(
        for generations: [Int64], from: EventTime, to: EventTime, _ state: StoreState, _ connection: Connection
    ) throws(RollupStoreError) -> Bool {
        for generation in generations {
            var answer = try connection.select(
                ["toUInt8(1)"],
                "FROM events WHERE time_us >= \(from.microseconds) AND time_us < \(to.microseconds) "
                    + "AND \(state.condition) AND (time_us, id) IN "
                    + "(SELECT time_us, id \(state.pending(for: generation, from: from, to: to))) LIMIT 1",
                "look for what replays have still to count")
            if try answer.next() { return true }
        }
        return false
    }

    /// As the partition of `events` in clickhouse.sql.
    private static let day: Int64 = 86_400_000_000
}
