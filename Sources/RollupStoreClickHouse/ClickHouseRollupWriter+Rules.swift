// The rules timeline: its instants are part of the state and change in a step like any other; its texts stand before.

package import Events
package import RollupStore

extension ClickHouseRollupWriter {
    package func rules(adopting new: RulesText?, now: EventTime) throws(RollupStoreError) -> RulesTimeline {
        let connection = try opened()
        _ = try settleDoubt(connection)
        while true {
            let seen = try latest(connection)
            let timeline = try RulesTimeline.read(seen, connection)
            guard let new, timeline.entries.last?.rules.fingerprint != new.fingerprint else { return timeline }
            try keep(new, connection)
            let counted = seen.positions.compactMap(\.latest).max()
            let from = timeline.takeover(now: now, latest: counted.map { EventTime(microseconds: $0) })
            var next = seen.next(by: number, settles: isUntouched)
            next.rules.append(StoreState.RulesEntry(from: from.microseconds, fingerprint: new.fingerprint))
            if try win(next, nil, connection) { return try RulesTimeline.read(next, connection) }
        }
    }

    func keep(_ rules: RulesText, _ connection: Connection) throws(RollupStoreError) {
        var text = NativeBlock(rows: 1)
        text.strings("fingerprint") { _ in Array(rules.fingerprint.utf8) }
        text.strings("text") { _ in Array(rules.text.utf8) }
        try connection.insert(text, into: "rules", token: "rules-\(rules.fingerprint)")
    }
}

/// The table `rules`, as a whole.
struct RulesTexts {
    private var texts: [String: String] = [:]

    init(_ connection: Connection) throws(RollupStoreError) {
        // Two writers may have kept the same one.
        var answer = try connection.select(
            ["fingerprint", "any(text)"], "FROM rules GROUP BY fingerprint", "read the rules")
        while try answer.next() { texts[try answer.text()] = try answer.text() }
    }

    func rules(_ fingerprint: String) throws(RollupStoreError) -> RulesText {
        guard let text = texts[fingerprint] else {
            throw RollupStoreError(
                code: .corrupt, tried: "read the rules timeline", reason: "the rules \(fingerprint) are missing",
                next: "Restore the table rules.")
        }
        return RulesText(fingerprint: fingerprint, text: text)
    }
}

extension RulesTimeline {
    /// - `without`: as if this replay were not there.
    static func read(
        _ state: StoreState, _ connection: Connection, without: Int64? = nil
    ) throws(RollupStoreError) -> RulesTimeline {
        var timeline = RulesTimeline(version: state.rulesVersion)
        if state.rules.isEmpty { return timeline }
        let texts = try RulesTexts(connection)
        for entry in state.rules {
            timeline.entries.append(
                Entry(from: EventTime(microseconds: entry.from), rules: try texts.rules(entry.fingerprint)))
        }
        for replay in state.live(without: without) where !replay.rules.isEmpty {
            timeline.overlay(try texts.rules(replay.rules), from: replay.from, to: replay.to)
        }
        return timeline
    }
}
