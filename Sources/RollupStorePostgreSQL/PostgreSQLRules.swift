// The rules timeline on the server. Whoever changes it waits for the batches under way, and they for it.

package import Events
package import RollupStore

extension PostgreSQLRollupWriter {
    package func rules(adopting new: RulesText?, now: EventTime) throws(RollupStoreError) -> RulesTimeline {
        try repeating { connection throws(ServerFailure) in
            let known = try RulesTimeline.read(connection)
            guard let new, known.entries.last?.rules.fingerprint != new.fingerprint else { return known }
            try connection.execute(
                "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock(\(AdvisoryLock.rules))")
            let timeline = try RulesTimeline.read(connection)
            // Another one may have been quicker.
            if timeline.entries.last?.rules.fingerprint != new.fingerprint {
                let latest = try connection.query("SELECT max(max_time_us) FROM offsets").optionalInteger(0, 0)
                let from = timeline.takeover(now: now, latest: latest.map { EventTime(microseconds: $0) })
                var parameters = Parameters()
                parameters.add(Array(new.fingerprint.utf8))
                parameters.add(Array(new.text.utf8))
                _ = try connection.query(
                    "INSERT INTO rules (fingerprint, text) VALUES ($1::text, $2::text) ON CONFLICT DO NOTHING",
                    parameters)
                var entry = Parameters()
                entry.add(from.microseconds)
                entry.add(Array(new.fingerprint.utf8))
                _ = try connection.query(
                    "INSERT INTO rules_timeline (from_us, fingerprint) VALUES ($1::bigint, $2::text)", entry)
            }
            let changed = try RulesTimeline.read(connection)
            try connection.execute("COMMIT")
            return changed
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
