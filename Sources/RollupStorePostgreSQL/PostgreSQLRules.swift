// The rules timeline on the server. Whoever changes it waits for the batches under way, and they for it.

import Events
package import RollupStore
import Rollups

extension PostgreSQLRollupWriter {
    package func rules(_ change: RulesChange?) throws(RollupStoreError) -> RulesTimeline {
        try repeating { connection throws(ServerFailure) in
            let known = try RulesTimeline.read(connection)
            guard let change, change.entry(on: known, latest: nil) != nil else { return known }
            try connection.execute(
                "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock(\(AdvisoryLock.rules))")
            let timeline = try RulesTimeline.read(connection)
            // Another one may have been quicker.
            let latest = try connection.query("SELECT max(max_time_us) FROM offsets").optionalInteger(0, 0)
            if let new = change.entry(on: timeline, latest: latest.map { EventTime(microseconds: $0) }) {
                var parameters = Parameters()
                parameters.add(Array(new.rules.fingerprint.utf8))
                parameters.add(Array(new.rules.text.utf8))
                _ = try connection.query(
                    "INSERT INTO rules (fingerprint, text) VALUES ($1::text, $2::text) ON CONFLICT DO NOTHING",
                    parameters)
                var entry = Parameters()
                entry.add(new.from.microseconds)
                entry.add(Array(new.rules.fingerprint.utf8))
                _ = try connection.query(
                    "INSERT INTO rules_timeline (from_us, fingerprint) VALUES ($1::bigint, $2::text)", entry)
            }
            let changed = try RulesTimeline.read(connection)
            try connection.execute("COMMIT")
            return changed
        }
    }

    package func hour(_ bucket: Int32, maxRows: Int) throws(RollupStoreError) -> [HourRow]? {
        var parameters = Parameters()
        parameters.add(generation)
        parameters.add(bucket)
        parameters.add(Int64(maxRows) + 1)
        return try repeating { connection throws(ServerFailure) in
            let found = try connection.query(
                """
                SELECT s.workspace, s.api_key, s.provider, s.operation, s.model, s.outcome, s.status_class, m.pairs,
                    r.requests
                FROM (
                    SELECT series, sum(requests)::bigint AS requests FROM rollups
                    WHERE generation = $1::smallint AND grain = \(Grain.hour.rawValue) AND bucket = $2::integer
                    GROUP BY series LIMIT $3::bigint
                ) AS r JOIN series s ON s.id = r.series JOIN metadata_sets m ON m.id = s.set_id
                """, parameters)
            guard found.count <= maxRows else { return nil }
            var rows: [HourRow] = []
            rows.reserveCapacity(found.count)
            for row in 0..<found.count {
                guard let outcome = Outcome(rawValue: UInt8(truncatingIfNeeded: found.integer(row, 5))) else {
                    throw ServerFailure(
                        RollupStoreError(
                            code: .corrupt, tried: "read an hour",
                            reason: "outcome \(found.integer(row, 5)) is not known",
                            next: "Restore the tables, or rebuild the store from the log."))
                }
                rows.append(
                    HourRow(
                        series: SeriesKey(
                            workspace: found.text(row, 0), apiKey: found.text(row, 1), provider: found.text(row, 2),
                            operation: found.text(row, 3), model: found.text(row, 4), outcome: outcome,
                            statusClass: UInt8(truncatingIfNeeded: found.integer(row, 6)),
                            set: Array(found.bytes(row, 7))),
                        requests: found.integer(row, 8)))
            }
            return rows
        }
    }

    /// Until the transaction ends the timeline stays as it is.
    func compareRules(_ batch: SealedBatch, _ connection: Connection) throws(ServerFailure) {
        try connection.execute("SELECT pg_advisory_xact_lock_shared(\(AdvisoryLock.rules))")
        let version = try connection.query("SELECT max(id) FROM rules_timeline").optionalInteger(0, 0)
        if (version ?? 0) != batch.rulesVersion { throw ServerFailure(RulesTimeline.stale) }
    }
}

extension RulesTimeline {
    static func read(_ connection: Connection) throws(ServerFailure) -> RulesTimeline {
        let rows = try connection.query(
            """
            SELECT t.id, t.from_us, t.fingerprint, r.text FROM rules_timeline t JOIN rules r USING (fingerprint)
            ORDER BY t.from_us
            """)
        var timeline = RulesTimeline()
        for row in 0..<rows.count {
            timeline.version = max(timeline.version, rows.integer(row, 0))
            timeline.entries.append(
                Entry(
                    from: EventTime(microseconds: rows.integer(row, 1)),
                    rules: RulesText(fingerprint: rows.text(row, 2), text: rows.text(row, 3))))
        }
        return timeline
    }
}
