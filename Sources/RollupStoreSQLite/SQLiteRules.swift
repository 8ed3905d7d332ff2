// The rules timeline of the embedded store.

import Events
package import RollupStore
import Rollups

extension SQLiteRollupWriter {
    package func rules(_ change: RulesChange?) throws(RollupStoreError) -> RulesTimeline {
        try transaction { connection throws(RollupStoreError) in
            let timeline = try RulesTimeline.read(connection)
            let latest = try connection.number("SELECT max(max_time_us) FROM offsets")
            guard let new = change?.entry(on: timeline, latest: latest.map { EventTime(microseconds: $0) })
            else { return timeline }
            let text = try connection.statement(
                "INSERT INTO rules (fingerprint, text) VALUES (?1, ?2) ON CONFLICT DO NOTHING")
            text.bind(1, copying: new.rules.fingerprint)
            text.bind(2, copying: new.rules.text)
            try text.run()
            let entry = try connection.statement("INSERT INTO rules_timeline (from_us, fingerprint) VALUES (?1, ?2)")
            entry.bind(1, new.from.microseconds)
            entry.bind(2, copying: new.rules.fingerprint)
            try entry.run()
            return try RulesTimeline.read(connection)
        }
    }

    package func hour(_ bucket: Int32, maxRows: Int) throws(RollupStoreError) -> [HourRow]? {
        try transaction { connection throws(RollupStoreError) in
            let found = try connection.statement(
                """
                SELECT s.workspace, s.api_key, s.provider, s.operation, s.model, s.outcome, s.status_class, m.pairs,
                    r.requests
                FROM (
                    SELECT series, requests FROM rollups
                    WHERE generation = ?1 AND grain = \(Grain.hour.rawValue) AND bucket = ?2 LIMIT ?3
                ) AS r JOIN series s ON s.id = r.series JOIN metadata_sets m ON m.id = s.set_id
                """)
            found.bind(1, generation)
            found.bind(2, Int64(bucket))
            found.bind(3, Int64(maxRows) + 1)
            defer { found.reset() }
            var rows: [HourRow] = []
            while try found.step() {
                guard rows.count < maxRows else { return nil }
                guard let outcome = Outcome(rawValue: UInt8(truncatingIfNeeded: found.integer(5))) else {
                    throw RollupStoreError(
                        code: .corrupt, tried: "read an hour", reason: "outcome \(found.integer(5)) is not known",
                        next: "Restore the file, or rebuild the store from the log.")
                }
                rows.append(
                    HourRow(
                        series: SeriesKey(
                            workspace: found.text(0), apiKey: found.text(1), provider: found.text(2),
                            operation: found.text(3), model: found.text(4), outcome: outcome,
                            statusClass: UInt8(truncatingIfNeeded: found.integer(6)), set: Array(found.bytes(7))),
                        requests: found.integer(8)))
            }
            return rows
        }
    }

    func compareRules(_ batch: SealedBatch, _ connection: Connection) throws(RollupStoreError) {
        let rows = try connection.statement("SELECT max(id) FROM rules_timeline")
        defer { rows.reset() }
        _ = try rows.step()
        if (rows.optionalInteger(0) ?? 0) != batch.rulesVersion { throw RulesTimeline.stale }
    }
}

extension RulesTimeline {
    static func read(_ connection: Connection) throws(RollupStoreError) -> RulesTimeline {
        let rows = try connection.statement(
            """
            SELECT t.id, t.from_us, t.fingerprint, r.text FROM rules_timeline t JOIN rules r USING (fingerprint)
            ORDER BY t.from_us
            """)
        defer { rows.reset() }
        var timeline = RulesTimeline()
        while try rows.step() {
            timeline.version = max(timeline.version, rows.integer(0))
            timeline.entries.append(
                Entry(
                    from: EventTime(microseconds: rows.integer(1)),
                    rules: RulesText(fingerprint: rows.text(2), text: rows.text(3))))
        }
        return timeline
    }
}
