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
            var text = NativeBlock(rows: 1)
            text.strings("fingerprint") { _ in Array(new.fingerprint.utf8) }
            text.strings("text") { _ in Array(new.text.utf8) }
            try connection.insert(text, into: "rules", token: "rules-\(new.fingerprint)")
            let counted = seen.positions.compactMap(\.latest).max()
            let from = timeline.takeover(now: now, latest: counted.map { EventTime(microseconds: $0) })
            var next = seen.next(by: number, settles: isUntouched)
            next.rules.append(StoreState.RulesEntry(from: from.microseconds, fingerprint: new.fingerprint))
            if try win(next, nil, connection) { return try RulesTimeline.read(next, connection) }
        }
    }
}

extension RulesTimeline {
    static func read(_ state: StoreState, _ connection: Connection) throws(RollupStoreError) -> RulesTimeline {
        var texts: [String: String] = [:]
        if !state.rules.isEmpty {
            // Two writers may have kept the same one.
            var answer = try connection.select(
                ["fingerprint", "any(text)"], "FROM rules GROUP BY fingerprint", "read the rules")
            while try answer.next() { texts[try answer.text()] = try answer.text() }
        }
        var timeline = RulesTimeline(version: Int64(state.rules.count))
        for entry in state.rules {
            guard let text = texts[entry.fingerprint] else {
                throw RollupStoreError(
                    code: .corrupt, tried: "read the rules timeline",
                    reason: "the rules \(entry.fingerprint) are missing",
                    next: "Restore the table rules.")
            }
            timeline.entries.append(
                Entry(
                    from: EventTime(microseconds: entry.from),
                    rules: RulesText(fingerprint: entry.fingerprint, text: text)))
        }
        return timeline
    }
}
