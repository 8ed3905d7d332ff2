// The rules timeline on the server. Whoever changes it waits for the batches under way, and they for it.

import Events
package import RollupStore
package import Rollups

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
                try Self.keep(new.rules, connection)
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

    static func keep(_ rules: RulesText, _ connection: Connection) throws(ServerFailure) {
        var parameters = Parameters()
        parameters.add(Array(rules.fingerprint.utf8))
        parameters.add(Array(rules.text.utf8))
        _ = try connection.query(
            "INSERT INTO rules (fingerprint, text) VALUES ($1::text, $2::text) ON CONFLICT DO NOTHING", parameters)
    }

    package func hour(_ bucket: Int32, of grain: Grain, maxRows: Int) throws(RollupStoreError) -> [HourRow]? {
        return try repeating { connection throws(ServerFailure) in
            var parameters = Parameters()
            let map = try GenerationMap.read(connection)
            parameters.add(Int16(truncatingIfNeeded: map.generation(at: Grain.hour.start(of: bucket))))
            parameters.add(bucket)
            parameters.add(Int64(maxRows) + 1)
            let found = try connection.query(
                """
                SELECT s.workspace, s.api_key, s.provider, s.operation, s.model, s.outcome, s.status_class, m.pairs,
                    r.requests
                FROM (
                    SELECT series, sum(requests)::bigint AS requests FROM rollups
                    WHERE generation = $1::smallint AND grain = \(grain.rawValue) AND bucket = $2::integer
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

    /// Until the transaction ends the timeline stays as it is, and so does what answers.
    func compareRules(_ batch: SealedBatch, _ connection: Connection) throws(ServerFailure) {
        try connection.execute("SELECT pg_advisory_xact_lock_shared(\(AdvisoryLock.rules))")
        if try RulesTimeline.version(connection) != batch.rulesVersion { throw ServerFailure(RulesTimeline.stale) }
    }
}

extension RulesTimeline {
    /// Both parts only rise.
    static func version(_ connection: Connection) throws(ServerFailure) -> Int64 {
        try connection.query(
            """
            SELECT (SELECT coalesce(max(id), 0) FROM rules_timeline)
                + (SELECT coalesce(sum(turns), 0)::bigint FROM replays)
            """
        ).integer(0, 0)
    }

    /// - `without`: as if these replays were not there.
    static func read(_ connection: Connection, without: Set<Int64> = []) throws(ServerFailure) -> RulesTimeline {
        // Before the rest: where that changes in between, the version is an old one and finds out.
        var timeline = RulesTimeline(version: try version(connection))
        let rows = try connection.query(
            """
            SELECT t.from_us, t.fingerprint, r.text FROM rules_timeline t JOIN rules r USING (fingerprint)
            ORDER BY t.from_us
            """)
        for row in 0..<rows.count {
            timeline.entries.append(
                Entry(
                    from: EventTime(microseconds: rows.integer(row, 0)),
                    rules: RulesText(fingerprint: rows.text(row, 1), text: rows.text(row, 2))))
        }
        let replays = try connection.query(
            """
            SELECT p.generation, p.from_us, p.to_us, p.rules, r.text, p.workspace
            FROM replays p JOIN rules r ON r.fingerprint = p.rules WHERE p.state = 'live' ORDER BY p.rank
            """)
        for row in 0..<replays.count where !without.contains(replays.integer(row, 0)) {
            timeline.overlay(
                RulesText(fingerprint: replays.text(row, 3), text: replays.text(row, 4)),
                from: EventTime(microseconds: replays.integer(row, 1)),
                to: EventTime(microseconds: replays.integer(row, 2)),
                of: replays.isNull(row, 5) ? nil : replays.text(row, 5))
        }
        return timeline
    }
}
