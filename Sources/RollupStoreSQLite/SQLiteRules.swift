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
            try Self.keep(new, connection)
            let entry = try connection.statement("INSERT INTO rules_timeline (from_us, fingerprint) VALUES (?1, ?2)")
            entry.bind(1, from.microseconds)
            entry.bind(2, copying: new.fingerprint)
            try entry.run()
            return try RulesTimeline.read(connection)
        }
    }

    static func keep(_ rules: RulesText, _ connection: Connection) throws(RollupStoreError) {
        let text = try connection.statement(
            "INSERT INTO rules (fingerprint, text) VALUES (?1, ?2) ON CONFLICT DO NOTHING")
        text.bind(1, copying: rules.fingerprint)
        text.bind(2, copying: rules.text)
        try text.run()
    }

    func compareRules(_ batch: SealedBatch, _ connection: Connection) throws(RollupStoreError) {
        if try RulesTimeline.version(connection) != batch.rulesVersion { throw RulesTimeline.stale }
    }
}

extension RulesTimeline {
    /// Both parts only rise.
    static func version(_ connection: Connection) throws(RollupStoreError) -> Int64 {
        let rows = try connection.statement(
            "SELECT coalesce((SELECT max(id) FROM rules_timeline), 0) + coalesce((SELECT sum(turns) FROM replays), 0)")
        defer { rows.reset() }
        return try rows.step() ? rows.integer(0) : 0
    }

    /// - `without`: as if this replay were not there.
    static func read(_ connection: Connection, without: Int64? = nil) throws(RollupStoreError) -> RulesTimeline {
        let rows = try connection.statement(
            """
            SELECT t.from_us, t.fingerprint, r.text FROM rules_timeline t JOIN rules r USING (fingerprint)
            ORDER BY t.from_us
            """)
        defer { rows.reset() }
        var timeline = RulesTimeline(version: try version(connection))
        while try rows.step() {
            timeline.entries.append(
                Entry(
                    from: EventTime(microseconds: rows.integer(0)),
                    rules: RulesText(fingerprint: rows.text(1), text: rows.text(2))))
        }
        let replays = try connection.statement(
            """
            SELECT p.generation, p.from_us, p.to_us, p.rules, r.text FROM replays p JOIN rules r ON r.fingerprint = p.rules
            WHERE p.state = 'live' ORDER BY p.rank
            """)
        defer { replays.reset() }
        while try replays.step() {
            if replays.integer(0) == without { continue }
            timeline.overlay(
                RulesText(fingerprint: replays.text(3), text: replays.text(4)),
                from: EventTime(microseconds: replays.integer(1)), to: EventTime(microseconds: replays.integer(2)))
        }
        return timeline
    }
}
