// The rules timeline: its instants are part of the state and change in a step like any other; its texts stand before.

import Events
package import RollupStore
package import Rollups
import Synchronization

extension ClickHouseRollupWriter {
    package func rules(_ change: RulesChange?) throws(RollupStoreError) -> RulesTimeline {
        let connection = try opened()
        _ = try settleDoubt(connection)
        while true {
            let seen = try latest(connection)
            let timeline = try RulesTimeline.read(seen, texts, connection)
            let counted = seen.positions.compactMap(\.latest).max()
            guard let new = change?.entry(on: timeline, latest: counted.map { EventTime(microseconds: $0) })
            else { return timeline }
            try keep(new.rules, connection)
            var next = seen.next(by: number, settles: isUntouched)
            next.rules.append(StoreState.RulesEntry(from: new.from.microseconds, fingerprint: new.rules.fingerprint))
            if try win(next, nil, connection) { return try RulesTimeline.read(next, texts, connection) }
        }
    }

    package func hour(_ bucket: Int32, of grain: Grain, maxRows: Int) throws(RollupStoreError) -> [HourRow]? {
        let connection = try opened()
        let seen = try latest(connection)
        let counted =
            "FROM rollups WHERE generation = {generation:Int64} AND bucket = {bucket:Int32} "
            + "AND \(seen.condition(of: grain))"
        var answer = try connection.select(
            SeriesRow.columns + ["requests"],
            "FROM (SELECT series, sum(requests) AS requests \(counted) GROUP BY series LIMIT {limit:UInt64}) AS r "
                + "INNER JOIN (SELECT * FROM series WHERE id IN (SELECT series \(counted)) LIMIT 1 BY id) AS s "
                + "ON s.id = r.series", "read an hour",
            parameters: [
                ("generation", "\(seen.generations.generation(at: Grain.hour.start(of: bucket)))"),
                ("bucket", "\(bucket)"), ("limit", "\(maxRows + 1)"),
            ])
        var found: [HourRow] = []
        while try answer.next() {
            let row = try SeriesRow(&answer)
            found.append(HourRow(series: row.series.key, requests: try answer.integer()))
        }
        return found.count <= maxRows ? found : nil
    }

    /// Under a token of this try alone (CommitLog.swift says why): two that keep the same rules may keep them twice.
    func keep(_ rules: RulesText, _ connection: Connection) throws(RollupStoreError) {
        var known = try connection.select(
            ["fingerprint"], "FROM rules WHERE fingerprint = '\(rules.fingerprint)' LIMIT 1", "look for the rules")
        if try known.next() { return }
        let entry = EntryID.random()
        var text = NativeBlock(rows: 1)
        text.strings("fingerprint") { _ in Array(rules.fingerprint.utf8) }
        text.strings("text") { _ in Array(rules.text.utf8) }
        try connection.insert(text, into: "rules", token: "rules-\(entry.high)-\(entry.low)")
    }
}

/// The table `rules`. A text is named by its fingerprint and never changes: what was read once is not asked for again.
final class RulesTexts: Sendable {
    private let texts = Mutex<[String: String]>([:])

    func rules(_ fingerprint: String, _ connection: Connection) throws(RollupStoreError) -> RulesText {
        if let known = texts.withLock({ $0[fingerprint] }) { return RulesText(fingerprint: fingerprint, text: known) }
        // Two writers may have kept the same one.
        var answer = try connection.select(
            ["fingerprint", "any(text)"], "FROM rules GROUP BY fingerprint", "read the rules")
        var read: [String: String] = [:]
        while try answer.next() { read[try answer.text()] = try answer.text() }
        texts.withLock { $0 = read }
        guard let text = read[fingerprint] else {
            throw RollupStoreError(
                code: .corrupt, tried: "read the rules timeline", reason: "the rules \(fingerprint) are missing",
                next: "Restore the table rules.")
        }
        return RulesText(fingerprint: fingerprint, text: text)
    }
}

extension RulesTimeline {
    /// - `without`: as if these replays were not there.
    static func read(
        _ state: StoreState, _ texts: RulesTexts, _ connection: Connection, without: Set<Int64> = []
    ) throws(RollupStoreError) -> RulesTimeline {
        var timeline = RulesTimeline(version: state.rulesVersion)
        if state.rules.isEmpty { return timeline }
        for entry in state.rules {
            timeline.entries.append(
                Entry(from: EventTime(microseconds: entry.from), rules: try texts.rules(entry.fingerprint, connection)))
        }
        for replay in state.live(without: without) where !replay.rules.isEmpty {
            timeline.overlay(
                try texts.rules(replay.rules, connection), from: replay.from, to: replay.to,
                of: replay.workspace.isEmpty ? nil : replay.workspace)
        }
        return timeline
    }
}
