// The rules timeline of the embedded store.

package import Events
package import RollupStore

extension SQLiteRollupWriter {
    package func rules(adopting new: RulesText?, now: EventTime) throws(RollupStoreError) -> RulesTimeline {
        try transaction { connection throws(RollupStoreError) in
            let timeline = try RulesTimeline.read(connection)
            guard let new, timeline.entries.last?.rules.fingerprint != new.fingerprint else { return timeline }
            let latest = try connection.number("SELECT max(max_time_us) FROM offsets")
            let from = timeline.takeover(now: now, latest: latest.map { EventTime(microseconds: $0) })
            let text = try connection.statement(
                "INSERT INTO rules (fingerprint, text) VALUES (?1, ?2) ON CONFLICT DO NOTHING")
            text.bind(1, copying: new.fingerprint)
            text.bind(2, copying: new.text)
            try text.run()
            let entry = try connection.statement("INSERT INTO rules_timeline (from_us, fingerprint) VALUES (?1, ?2)")
            entry.bind(1, from.microseconds)
            entry.bind(2, copying: new.fingerprint)
            try entry.run()
            return try RulesTimeline.read(connection)
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
