// Which normalization rules hold for which time of events: the store keeps every text and a line of instants.

package import Events
import JSONText

/// Rules in their canonical text, and the name that follows from it.
package struct RulesText: Sendable, Equatable {
    /// SHA-256 of the text, 64 hex digits.
    package var fingerprint: String
    /// Compact JSON, as `Rules.canonicalText` makes it.
    package var text: String

    package init(fingerprint: String, text: String) {
        self.fingerprint = fingerprint
        self.text = text
    }

    /// The fingerprint of the configured rules that these are, or that they extend by classes that were observed.
    package var configured: String {
        // What does not parse was written by a newer program, and extends nothing that this one knows.
        guard let tree = try? JSONValue.parse(text) else { return fingerprint }
        return tree["observed"]?["configured"]?.string ?? fingerprint
    }
}

/// An event, however late it comes, is normalized under the rules of its own time.
package struct RulesTimeline: Sendable, Equatable {
    package struct Entry: Sendable, Equatable {
        /// Holds from this event time until the next entry's. The first one's is 0, before any event.
        package var from: EventTime
        package var rules: RulesText

        package init(from: EventTime, rules: RulesText) {
            self.from = from
            self.rules = rules
        }
    }

    /// Ascending by time; empty until the first consumer has come.
    package var entries: [Entry]
    /// The same of workspaces that were put under rules of their own for some time, by a replay of theirs alone.
    package private(set) var workspaces: [String: [Entry]] = [:]
    /// Another one after each change; 0: no entry yet.
    package var version: Int64

    package init(entries: [Entry] = [], version: Int64 = 0) {
        self.entries = entries
        self.version = version
    }

    /// Those that hold for a workspace (nil: for one that has none of its own) at some instant with `from <= time < to`.
    package func entries(from: EventTime, to: EventTime, of workspace: String? = nil) -> ArraySlice<Entry> {
        let entries = workspace.flatMap { workspaces[$0] } ?? entries
        let first = entries.lastIndex { $0.from <= from } ?? entries.startIndex
        let end = entries.firstIndex { $0.from >= to } ?? entries.endIndex
        return entries[first..<max(first, end)]
    }

    /// With other rules from `from` up to `to`, of one workspace (nil: of all).
    package mutating func overlay(_ rules: RulesText, from: EventTime, to: EventTime, of workspace: String? = nil) {
        if let workspace {
            workspaces[workspace] = Self.overlaid(workspaces[workspace] ?? entries, rules, from: from, to: to)
        } else {
            entries = Self.overlaid(entries, rules, from: from, to: to)
            workspaces = workspaces.mapValues { Self.overlaid($0, rules, from: from, to: to) }
        }
    }

    private static func overlaid(_ entries: [Entry], _ rules: RulesText, from: EventTime, to: EventTime) -> [Entry] {
        guard from < to, let after = entries.last(where: { $0.from <= to })?.rules ?? entries.first?.rules else {
            return entries
        }
        var changed = entries.filter { $0.from < from || $0.from >= to }
        changed.append(Entry(from: from, rules: rules))
        if !changed.contains(where: { $0.from == to }) { changed.append(Entry(from: to, rules: after)) }
        return changed.sorted { $0.from < $1.from }
    }

    /// What a writer says to a batch that was made under another timeline.
    package static let stale = RollupStoreError(
        code: .staleRules, tried: "apply a batch", reason: "the rules timeline has changed since it was made",
        next: "It is made again under the rules that hold now.")

    /// These configured rules hold now, with or without classes that were observed.
    package func isInForce(_ configured: RulesText) -> Bool {
        entries.last?.rules.configured == configured.configured
    }

    /// From when on new rules hold: from now, but from behind the latest event that is counted already, so that no
    /// event counted under other rules is among theirs.
    package func takeover(now: EventTime, latest: EventTime?) -> EventTime {
        guard let last = entries.last else { return EventTime(microseconds: 0) }
        let after = max(last.from, latest ?? last.from).microseconds + 1
        return EventTime(microseconds: max(now.microseconds, after))
    }

    /// From when on observed classes hold: from the first hour behind the latest event that is counted already, so that
    /// each hour's rollups are all of one kind.
    package func nextHour(latest: EventTime?) -> EventTime {
        guard let last = entries.last else { return EventTime(microseconds: 0) }
        let hour: Int64 = 3_600_000_000
        let after = max(last.from, latest ?? last.from).microseconds
        return EventTime(microseconds: (after.quotientAndRemainder(dividingBy: hour).quotient + 1) * hour)
    }
}

/// What a consumer wants of the timeline.
package enum RulesChange: Sendable {
    /// Rules as configured, maybe with classes that were observed under others; from now on.
    case configured(RulesText, now: EventTime)
    /// The rules in force with more classes, from the next hour on; nothing where the timeline is another one by now
    /// than the evidence is of.
    case observed(RulesText, over: Int64)

    /// The entry to add; nil where the timeline has it already or has gone another way.
    package func entry(on timeline: RulesTimeline, latest: EventTime?) -> RulesTimeline.Entry? {
        switch self {
        case .configured(let rules, let now):
            if timeline.isInForce(rules) { return nil }
            return RulesTimeline.Entry(from: timeline.takeover(now: now, latest: latest), rules: rules)
        case .observed(let rules, let version):
            if timeline.version != version || timeline.entries.isEmpty { return nil }
            return RulesTimeline.Entry(from: timeline.nextHour(latest: latest), rules: rules)
        }
    }
}
