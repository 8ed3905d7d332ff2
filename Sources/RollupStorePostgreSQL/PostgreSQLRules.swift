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
                try Self.keep(new, connection)
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

    static func keep(_ rules: RulesText, _ connection: Connection) throws(ServerFailure) {
        var parameters = Parameters()
        parameters.add(Array(rules.fingerprint.utf8))
        parameters.add(Array(rules.text.utf8))
        _ = try connection.query(
            "INSERT INTO rules (fingerprint, text) VALUES ($1::text, $2::text) ON CONFLICT DO NOTHING", parameters)
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

    /// - `without`: as if this replay were not there.
    static func read(_ connection: Connection, without: Int64? = nil) throws(ServerFailure) -> RulesTimeline {
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
            SELECT p.generation, p.from_us, p.to_us, p.rules, r.text
            FROM replays p JOIN rules r ON r.fingerprint = p.rules WHERE p.state = 'live' ORDER BY p.rank
            """)
        for row in 0..<replays.count where replays.integer(row, 0) != without {
            timeline.overlay(
                RulesText(fingerprint: replays.text(row, 3), text: replays.text(row, 4)),
                from: EventTime(microseconds: replays.integer(row, 1)),
                to: EventTime(microseconds: replays.integer(row, 2)))
        }
        return timeline
    }
}
