// The rules timeline of the embedded store.

import Events
package import RollupStore
package import Rollups

extension SQLiteRollupWriter {
    package func rules(_ change: RulesChange?) throws(RollupStoreError) -> RulesTimeline {
        try transaction { connection throws(RollupStoreError) in
            let timeline = try RulesTimeline.read(connection)
            let latest = try connection.number("SELECT max(max_time_us) FROM offsets")
            guard let new = change?.entry(on: timeline, latest: latest.map { EventTime(microseconds: $0) })
            else { return timeline }
            try Self.keep(new.rules, connection)
            let entry = try connection.statement("INSERT INTO rules_timeline (from_us, fingerprint) VALUES (?1, ?2)")
            entry.bind(1, new.from.microseconds)
            entry.bind(2, copying: new.rules.fingerprint)
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

    package func hour(_ bucket: Int32, of grain: Grain, maxRows: Int) throws(RollupStoreError) -> [HourRow]? {
        try transaction { connection throws(RollupStoreError) in
            let found = try connection.statement(
                """
                SELECT s.workspace, s.api_key, s.provider, s.operation, s.model, s.outcome, s.status_class, m.pairs,
                    r.requests
                FROM (
                    SELECT series, requests FROM rollups
                    WHERE generation = ?1 AND grain = \(grain.rawValue) AND bucket = ?2 LIMIT ?3
                ) AS r JOIN series s ON s.id = r.series JOIN metadata_sets m ON m.id = s.set_id
                """)
            let map = try GenerationMap.read(connection)
            found.bind(1, map.generation(at: Grain.hour.start(of: bucket)))
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

    /// - `without`: as if these replays were not there.
    static func read(_ connection: Connection, without: Set<Int64> = []) throws(RollupStoreError) -> RulesTimeline {
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
            SELECT p.generation, p.from_us, p.to_us, p.rules, r.text, p.workspace
            FROM replays p JOIN rules r ON r.fingerprint = p.rules WHERE p.state = 'live' ORDER BY p.rank
            """)
        defer { replays.reset() }
        while try replays.step() {
            if without.contains(replays.integer(0)) { continue }
            timeline.overlay(
                RulesText(fingerprint: replays.text(3), text: replays.text(4)),
                from: EventTime(microseconds: replays.integer(1)), to: EventTime(microseconds: replays.integer(2)),
                of: replays.isNull(5) ? nil : replays.text(5))
        }
        return timeline
    }
}
