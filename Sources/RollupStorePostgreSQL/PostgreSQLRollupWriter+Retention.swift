// What is past its time is deleted, in steps: each is one transaction, which also says from when on a table is whole.
//
// A day of events goes whole, with its partition, where nothing in it is young enough to stay; the rest row by row.
// Dropping a partition would pull it from under a read that has begun: so every read holds a lock on the table `events`
// from before its first look, and the drop waits for those, shortly. Where they take longer, rows are deleted instead.

import Events
package import RollupStore
import Rollups

extension PostgreSQLRollupWriter {
    package func expire(_ boundaries: RetentionBoundaries, maxRows: Int) throws(RollupStoreError) -> Bool {
        try repeating { connection throws(ServerFailure) in
            if try dropPartitions(before: boundaries.events, connection) { return true }
            try connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            // One writer at a time: two would lock the same rows in no order.
            let isOurs = try connection.query("SELECT pg_try_advisory_xact_lock(\(AdvisoryLock.retention))")
            var left = isOurs.integer(0, 0) == 1 ? Int64(maxRows) : 0
            let isBusy = left == 0
            for grain in Grain.allCases where left > 0 {
                let boundary = boundaries.boundary(of: grain)
                var parameters = Parameters()
                parameters.add(Int16(grain.rawValue))
                parameters.add(grain.bucket(of: boundary))
                parameters.add(left)
                let deleted = try connection.query(
                    """
                    DELETE FROM rollups WHERE ctid = ANY (ARRAY (
                        SELECT ctid FROM rollups WHERE generation = ANY (\(Self.allGenerations))
                            AND grain = $1::smallint AND bucket < $2::integer
                        LIMIT $3::bigint))
                    """, parameters)
                left -= Int64(deleted.changes)
                if deleted.changes > 0 { try mark(Int16(grain.rawValue), boundary, connection) }
            }
            if left > 0 {
                // One that a replay, or what is below one, has still to count goes once it is settled.
                var parameters = Parameters()
                parameters.add(boundaries.events.microseconds)
                parameters.add(left)
                let deleted = try connection.query(
                    """
                    DELETE FROM events AS e USING (
                        SELECT id FROM events AS a WHERE time_us < $1::bigint AND NOT EXISTS (
                            SELECT 1 FROM replay_pending AS p WHERE p.generation IN (\(Self.counting))
                                AND p.time_us = a.time_us AND p.id = a.id)
                        ORDER BY time_us LIMIT $2::bigint) AS old
                    WHERE e.id = old.id
                    """, parameters)
                left -= Int64(deleted.changes)
                if deleted.changes > 0 { try mark(3, boundaries.events, connection) }
            }
            let isGone = " AND NOT EXISTS (SELECT 1 FROM events AS e WHERE e.time_us = p.time_us AND e.id = p.id)"
            for (table, gone) in [("revisions", ""), ("replay_pending", isGone)] where left > 0 {
                var parameters = Parameters()
                parameters.add(boundaries.events.microseconds)
                parameters.add(left)
                let deleted = try connection.query(
                    """
                    DELETE FROM \(table) WHERE ctid = ANY (ARRAY (
                        SELECT ctid FROM \(table) AS p WHERE generation = ANY (\(Self.allGenerations))
                            AND time_us < $1::bigint\(gone)
                        LIMIT $2::bigint))
                    """, parameters)
                left -= Int64(deleted.changes)
            }
            // Of commands that were killed.
            if left > 0 { left = try sweepReplays(maxRows: left, connection) }
            // As old as the events that they count. Both sides of a minute go at once.
            if left > 0 {
                var parameters = Parameters()
                parameters.add(boundaries.events.startOfMinute.microseconds)
                for table in ["manifests", "proxy_minutes"] {
                    _ = try connection.query("DELETE FROM \(table) WHERE minute_us < $1::bigint", parameters)
                }
            }
            try connection.execute("COMMIT")
            return !isBusy && left <= 0
        }
    }

    private static let allGenerations = "ARRAY (SELECT 1::smallint UNION SELECT generation FROM replays)"

    private static let counting =
        "SELECT \(GenerationMap.first)::smallint UNION SELECT generation FROM replays WHERE state IN ('building', 'live')"

    /// What is left of `maxRows`. By one at a time, as above.
    func sweepReplays(maxRows: Int64, _ connection: Connection) throws(ServerFailure) -> Int64 {
        var left = maxRows
        for table in ["rollups", "revisions", "replay_pending"] where left > 0 {
            var parameters = Parameters()
            parameters.add(left)
            let deleted = try connection.query(
                """
                DELETE FROM \(table) WHERE ctid = ANY (ARRAY (
                    SELECT ctid FROM \(table) WHERE generation = ANY (ARRAY (
                        SELECT generation FROM replays WHERE state IN ('retired', 'cancelled')))
                    LIMIT $1::bigint))
                """, parameters)
            left -= Int64(deleted.changes)
        }
        return left
    }

    /// `what` is that of the table `retained`.
    private func mark(_ what: Int16, _ boundary: EventTime, _ connection: Connection) throws(ServerFailure) {
        var parameters = Parameters()
        parameters.add(what)
        parameters.add(boundary.microseconds)
        _ = try connection.query(
            """
            INSERT INTO retained AS r (what, from_us) VALUES ($1::smallint, $2::bigint)
            ON CONFLICT (what) DO UPDATE SET from_us = greatest(r.from_us, excluded.from_us)
            """, parameters)
    }

    /// True when some were dropped.
    private func dropPartitions(
        before boundary: EventTime, _ connection: Connection
    ) throws(ServerFailure) -> Bool {
        if try droppable(before: boundary, connection).names.isEmpty { return false }
        do throws(ServerFailure) {
            try connection.execute(
                """
                BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '500ms';
                LOCK TABLE ONLY events IN ACCESS EXCLUSIVE MODE;
                """)
            // Again, now that nobody adds to them.
            let (names, heldEvents) = try droppable(before: boundary, connection)
            if heldEvents { try mark(3, boundary, connection) }
            for name in names { try connection.execute("DROP TABLE \(name)") }
            try connection.execute("COMMIT")
            return !names.isEmpty
        } catch {
            guard error.state == ServerFailure.lockNotAvailable else { throw error }
            try connection.execute("ROLLBACK")
            return false
        }
    }

    /// Partitions of days before the boundary's in which nothing is of the boundary's time or later, and nothing that a
    /// replay, or what is below one, has still to count.
    private func droppable(
        before boundary: EventTime, _ connection: Connection
    ) throws(ServerFailure) -> (names: [String], heldEvents: Bool) {
        let rows = try connection.query(
            """
            SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = to_regclass('events') ORDER BY c.relname
            """)
        let first = EventPartitions.table(ofDayAt: boundary)
        var names: [String] = []
        var heldEvents = false
        for row in 0..<rows.count {
            let name = rows.text(row, 0)
            // Names of one length rise as their days do. Another name is none of ours.
            guard name.utf8.count == first.utf8.count, name < first, name != EventPartitions.others,
                name.utf8.allSatisfy({
                    $0 == UInt8(ascii: "_") || (0x30...0x39).contains($0) || (0x61...0x7A).contains($0)
                })
            else { continue }
            let latest = try connection.query("SELECT max(time_us) FROM \(name)").optionalInteger(0, 0)
            if let latest {
                if latest >= boundary.microseconds { continue }
                let pending = try connection.query(
                    """
                    SELECT 1 FROM replay_pending AS p JOIN \(name) AS e ON e.time_us = p.time_us AND e.id = p.id
                    WHERE p.generation IN (\(Self.counting)) LIMIT 1
                    """)
                if pending.count > 0 { continue }
                heldEvents = true
            }
            names.append(name)
        }
        return (names, heldEvents)
    }
}
