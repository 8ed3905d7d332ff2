// The rules timeline of the store -> a normalizer for each stretch of event time.

import Access
import Cryptography
package import Events
import JSONText
package import Normalizer
package import RollupStore

extension RulesText {
    package init(_ rules: Rules) {
        let text = rules.canonicalText
        let digest = text.withUnsafeBytes { SHA256.digest($0) }
        self.init(
            fingerprint: String(decoding: Hexadecimal.digits(digest.bytes), as: UTF8.self),
            text: String(decoding: text, as: UTF8.self))
    }

    /// The rules of a text that stands in the store's timeline.
    package func rules() throws(RollupStoreError) -> Rules {
        do {
            return try Rules.decode(try JSONValue.parse(text), isStored: true)
        } catch {
            throw RollupStoreError(
                code: .newerSchema, tried: "read the rules \(fingerprint.prefix(12)) of the store's timeline",
                reason: "\(error)", next: "Run the program that wrote them, or a newer one.")
        }
    }

    /// Configured rules as they take over: what was observed under those before them holds on, but for keys that they
    /// name, and where they let anything be observed at all.
    package static func succeeding(_ timeline: RulesTimeline, _ rules: Rules) throws(RollupStoreError) -> RulesText {
        let configured = RulesText(rules)
        guard rules.observation.isEnabled, let last = timeline.entries.last else { return configured }
        return RulesText(rules.observing(try last.rules.rules().observed, configured: configured.fingerprint))
    }
}

package struct RulesEras: Sendable {
    struct Era: Sendable {
        var from: EventTime
        var fingerprint: String
        /// Of the rules without what was observed: those hide the same.
        var configured: String
        var normalizer: Normalizer
        var redactor: Redactor?
        let entities: EntityKeys

        init(from: EventTime, fingerprint: String, configured: String, normalizer: Normalizer) {
            self.from = from
            self.fingerprint = fingerprint
            self.configured = configured
            self.normalizer = normalizer
            redactor = normalizer.redactor
            entities = EntityKeys(normalizer.rules)
        }
    }

    private(set) var version: Int64 = 0
    /// Line by line, each ascending by time and not empty.
    private var eras: [Era]
    /// The first one is that of every workspace that is not named.
    private var lines: [Range<Int>]
    private var named: [String: Int] = [:]
    /// Of the configured rules: what is to be hidden now comes back with no late event, whatever rules its time has.
    private var redactor: Redactor?
    private let configured: String

    /// For events that are counted already: only the rules of their time say what is hidden. `like` lends its hash.
    package init(replaying like: Normalizer) {
        self.init(like)
        redactor = nil
    }

    /// Before the store is asked: one set of rules for all time.
    init(_ configured: Normalizer) {
        self.configured = RulesText(configured.rules).fingerprint
        redactor = configured.redactor
        eras = [
            Era(
                from: EventTime(microseconds: .min), fingerprint: self.configured, configured: self.configured,
                normalizer: configured)
        ]
        lines = [0..<1]
    }

    /// Normalizers go on with what they remember where their rules stay.
    package mutating func use(_ timeline: RulesTimeline) throws(RollupStoreError) {
        if timeline.version == version, version != 0 { return }
        var known: [String: Normalizer] = [:]
        for era in eras { known[era.fingerprint] = era.normalizer }
        var fresh: [Era] = []
        var freshLines: [Range<Int>] = []
        let own = timeline.workspaces.sorted { $0.key < $1.key }
        for entries in [timeline.entries] + own.map(\.value) {
            let begin = fresh.count
            for entry in entries {
                let name = entry.rules.fingerprint
                let normalizer =
                    if let same = known[name] { same } else { eras[0].normalizer.under(try entry.rules.rules()) }
                known[name] = normalizer
                fresh.append(
                    Era(
                        from: entry.from, fingerprint: name, configured: entry.rules.configured, normalizer: normalizer)
                )
            }
            freshLines.append(begin..<fresh.count)
        }
        version = timeline.version
        if fresh.isEmpty { return }
        (eras, lines) = (fresh, freshLines)
        named = Dictionary(own.enumerated().map { ($1.key, $0 + 1) }) { $1 }
    }

    /// Whose rules an event is under: a number for the calls below, of the timeline in use.
    package func line(of workspace: @autoclosure () -> String) -> Int {
        named.isEmpty ? 0 : named[workspace()] ?? 0
    }

    /// What is kept of raw metadata: without what the configured rules and those of the event's time hide; nil: as it is.
    package mutating func redact(_ raw: UnsafeRawBufferPointer, at time: EventTime, line: Int = 0) -> [UInt8]? {
        let era = index(at: time, line)
        let first = redactor?.redact(raw)
        if eras[era].redactor == nil || redactor != nil && eras[era].configured == configured { return first }
        guard let first else { return eras[era].redactor?.redact(raw) }
        return first.withUnsafeBytes { eras[era].redactor?.redact($0) }
    }

    package mutating func normalize(
        raw: UnsafeRawBufferPointer, status: MetadataStatus, at time: EventTime, line: Int = 0
    ) -> NormalizedMetadata {
        eras[index(at: time, line)].normalizer.normalize(raw: raw, status: status)
    }

    package mutating func normalize(
        raw: [UInt8], status: MetadataStatus, at time: EventTime, line: Int = 0
    ) -> NormalizedMetadata {
        raw.withUnsafeBytes { normalize(raw: $0, status: status, at: time, line: line) }
    }

    /// How often what an event's metadata comes to was at hand, and how often not.
    var lookups: (hits: Int, misses: Int) {
        eras.reduce(into: (0, 0)) {
            $0.0 += $1.normalizer.hits
            $0.1 += $1.normalizer.misses
        }
    }

    /// The keys that have rollups of their own.
    package func entities(at time: EventTime, line: Int = 0) -> EntityKeys { eras[index(at: time, line)].entities }

    /// The latest rules are nearly always meant.
    private func index(at time: EventTime, _ line: Int) -> Int {
        let range = lines[line]
        var index = range.upperBound - 1
        while index > range.lowerBound, eras[index].from > time { index -= 1 }
        return index
    }
}
