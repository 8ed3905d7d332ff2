// What is past its time is deleted, in steps: each is one transaction, which also says from when on a table is whole.

import Events
package import RollupStore
import Rollups

extension SQLiteRollupWriter {
    package func expire(_ boundaries: RetentionBoundaries, maxRows: Int) throws(RollupStoreError) -> Bool {
        try transaction { connection throws(RollupStoreError) in
            var left = Int64(maxRows)
            for grain in Grain.allCases where left > 0 {
                let boundary = boundaries.boundary(of: grain)
                let rows = try connection.statement(
                    """
                    DELETE FROM rollups WHERE (generation, grain, bucket, series) IN (
                        SELECT generation, grain, bucket, series FROM rollups
                        WHERE generation IN (SELECT ?1 UNION SELECT generation FROM replays)
                            AND grain = ?2 AND bucket < ?3 LIMIT ?4)
                    """)
                rows.bind(1, generation)
                rows.bind(2, Int64(grain.rawValue))
                rows.bind(3, Int64(grain.bucket(of: boundary)))
                rows.bind(4, left)
                left -= try delete(rows, wholeFrom: boundary.microseconds, of: Int64(grain.rawValue), connection)
            }
            if left > 0 {
                // One that a replay, or what is below one, has still to count goes once it is settled.
                let rows = try connection.statement(
                    """
                    DELETE FROM events WHERE (time_us, id) IN (
                        SELECT time_us, id FROM events AS e WHERE time_us < ?1 AND NOT EXISTS (
                            SELECT 1 FROM replay_pending AS p WHERE p.generation IN (\(Self.counting))
                                AND p.time_us = e.time_us AND p.id = e.id)
                        ORDER BY time_us LIMIT ?2)
                    """)
                rows.bind(1, boundaries.events.microseconds)
                rows.bind(2, left)
                left -= try delete(rows, wholeFrom: boundaries.events.microseconds, of: 3, connection)
            }
            if left > 0 {
                left = try PairIndex.expire(before: boundaries.events.microseconds, maxRows: left, connection)
            }
            let isGone = " AND NOT EXISTS (SELECT 1 FROM events AS e WHERE e.time_us = p.time_us AND e.id = p.id)"
            for (table, gone) in [("revisions", ""), ("replay_pending", isGone)] where left > 0 {
                let rows = try connection.statement(
                    """
                    DELETE FROM \(table) WHERE (generation, time_us, id) IN (
                        SELECT generation, time_us, id FROM \(table) AS p
                        WHERE generation IN (SELECT ?1 UNION SELECT generation FROM replays) AND time_us < ?2\(gone)
                        LIMIT ?3)
                    """)
                rows.bind(1, generation)
                rows.bind(2, boundaries.events.microseconds)
                rows.bind(3, left)
                try rows.run()
                left -= Int64(connection.changes)
            }
            // Of commands that were killed.
            if left > 0 { left = try SQLiteReplayStore.sweep(maxRows: left, connection) }
            // As old as the events that they count. Both sides of a minute go at once.
            if left > 0 {
                let before = boundaries.events.startOfMinute.microseconds
                for table in ["manifests", "proxy_minutes"] {
                    let rows = try connection.statement("DELETE FROM \(table) WHERE minute_us < ?1")
                    rows.bind(1, before)
                    try rows.run()
                }
            }
            return left <= 0
        }
    }

    private static let counting =
        "SELECT \(GenerationMap.first) UNION SELECT generation FROM replays WHERE state IN ('building', 'live')"

    /// How many rows went. `what` is that of the table `retained`.
    private func delete(
        _ rows: Statement, wholeFrom boundary: Int64, of what: Int64, _ connection: Connection
    ) throws(RollupStoreError) -> Int64 {
        try rows.run()
        let count = Int64(connection.changes)
        guard count > 0 else { return 0 }
        let mark = try connection.statement(
            "INSERT INTO retained (what, from_us) VALUES (?1, ?2) "
                + "ON CONFLICT DO UPDATE SET from_us = max(from_us, excluded.from_us)")
        mark.bind(1, what)
        mark.bind(2, boundary)
        try mark.run()
        return count
    }
}
