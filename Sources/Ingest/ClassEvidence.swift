// Rows of some hours -> which keys must not be dimensions any longer.
//
// The limit: at the hour grain, rows are below `observe.rows_percent` of the events. Where they are not,
// 1. every key with about one value a request becomes an identifier;
// 2. while rows are still too many, the key becomes an entity without which the fewest rows are left. Keys that vary
//    together hide each other: where no key alone makes a difference, the one with the most values goes first;
// 3. a key that turns out to make no difference once the others are gone stays what it was.
//
// In a slow hour (below `observe.hour_events`) few combinations have come twice yet: only keys with `observe.many_values`
// go for it. Where many slow hours come to as many events, their rows are looked at together, as if they were of one
// hour: combinations that have not come twice by then never will, and any key may go.
//
// A value that a budget has filed under `(other)` (`SetAdmission`) counts as one of its own in each request: so what
// a budget holds up for an hour is a dimension no longer from the next one on. Rows are counted and not estimated: a
// row's pairs are added up as hashes, so that a row without some keys is a subtraction, and how many different ones
// there are is a pass over the rows. What a configuration names is never taken. Evidence comes in any order and from any
// number of consumers, since it is what they have counted together.

import Events
import JSONText
package import Normalizer
package import RollupStore
import Rollups

package struct ClassEvidence: Sendable {
    private struct Pair {
        var key: Int32
        var hash: UInt64
        /// A budget has filed the value under `(other)`.
        var isFiled: Bool
    }

    private struct Row {
        var hour: Int32
        /// Of everything but hour and metadata.
        var place: UInt64
        var set: Int32
        var requests: Int64
    }

    private struct Key {
        var name: [UInt8]
        var requests: Int64 = 0
        var values: Int64 = 0
    }

    /// Keys that a step compares, those with the most values: what it costs is bounded, whatever callers send.
    private static let compared = 16

    private var names = ByteInterner()
    private var keys: [Key] = []
    private var sets = ByteInterner()
    private var pairsOfSets: [[Pair]] = []
    private var requestsOfSets: [Int64] = []
    private var rows: [Row] = []
    private var seenPairs = DistinctHashes()
    package private(set) var events: Int64 = 0
    /// Of the hour with the most.
    package private(set) var mostEvents: Int64 = 0

    package init() {}

    /// The rows of one hour, each hour once.
    package mutating func add(_ bucket: Int32, _ hour: [HourRow]) {
        var requests: Int64 = 0
        for row in hour {
            var place = Hash()
            for text in [
                row.series.workspace, row.series.apiKey, row.series.provider, row.series.operation, row.series.model,
            ] {
                var text = text
                text.withUTF8 { place.combine(UnsafeRawBufferPointer($0)) }
            }
            place.combine(UInt64(row.series.outcome.rawValue) << 8 | UInt64(row.series.statusClass))
            let set = number(of: row.series.set)
            requestsOfSets[Int(set)] &+= row.requests
            rows.append(Row(hour: bucket, place: place.state, set: set, requests: row.requests))
            requests &+= row.requests
            // Of values that were filed together it is not known how many there are.
            for pair in pairsOfSets[Int(set)] where !pair.isFiled { keys[Int(pair.key)].requests &+= row.requests }
        }
        events &+= requests
        mostEvents = max(mostEvents, requests)
    }

    private mutating func number(of set: [UInt8]) -> Int32 {
        let number = set.withUnsafeBytes { sets.intern($0) }
        if Int(number) < pairsOfSets.count { return number }
        var pairs: [Pair] = []
        set.withUnsafeBytes { text in
            // The normalizer wrote it; what does not parse has no pairs.
            try? Self.eachPair(text) { key, value in
                // A mark for keys that a budget has left out says nothing of any key.
                if value.first == UInt8(ascii: "t") || value.first == UInt8(ascii: "f") { return }
                let isFiled = value.first == UInt8(ascii: "n")
                let number = names.intern(key)
                if Int(number) == keys.count { keys.append(Key(name: Array(key))) }
                var hash = Hash()
                hash.combine(UInt64(number))
                hash.combine(value)
                if !isFiled, seenPairs.insert(hash.state) { keys[Int(number)].values += 1 }
                pairs.append(Pair(key: number, hash: hash.state, isFiled: isFiled))
            }
        }
        pairsOfSets.append(pairs)
        requestsOfSets.append(0)
        return number
    }

    /// Keys without their quotes, values as they are written: in canonical text equal values are equal bytes.
    private static func eachPair(
        _ text: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer, UnsafeRawBufferPointer) -> Void
    ) throws(JSONTextError) {
        var tokens = JSONTokenizer(text)
        _ = try tokens.next()
        while case .key(let key) = try tokens.next() {
            let begin = tokens.position
            let token = try tokens.next()
            try tokens.skip(token)
            var name = [UInt8](text[key.range])
            if key.hasEscapes {
                name = []
                JSONStrings.appendUnescaped(UnsafeRawBufferPointer(rebasing: text[key.range]), to: &name)
            }
            name.withUnsafeBytes {
                body($0, UnsafeRawBufferPointer(rebasing: text[begin..<tokens.position]))
            }
        }
    }

    // MARK: Deciding

    /// Keys that get another class; none where rows are few enough, or events too few to say.
    /// - `room`: at most so many; those with the most values, then those that went first. `isCut`: there were more.
    package func verdict(under rules: Rules, room: Int) -> (found: [[UInt8]: Rules.Observed], isCut: Bool) {
        let limits = rules.observation
        guard limits.isEnabled, events >= Int64(limits.events) else { return ([:], false) }
        var weighing = Weighing(self)
        guard isTooMany(weighing.count(), limits) else { return ([:], false) }
        var found: [[UInt8]: Rules.Observed] = [:]
        var free = keys.indices.filter { !rules.names(keys[$0].name) && keys[$0].values > 1 }
        // Most values first, then byte order.
        free.sort { a, b in
            keys[a].values != keys[b].values
                ? keys[a].values > keys[b].values : keys[a].name.lexicographicallyPrecedes(keys[b].name)
        }
        for key in free where isUnique(keys[key], limits) {
            if found.count == room { return (found, true) }
            weighing.remove(key)
            found[keys[key].name] = Rules.Observed(
                keyClass: .identifier,
                reason: "\(keys[key].values) values in \(keys[key].requests) requests: about one a request")
        }
        free.removeAll { found[keys[$0].name] != nil }
        var taken: [Taken] = []
        if mostEvents >= Int64(limits.hourEvents) {
            demote(&free, limits, &weighing, &taken)
        } else {
            var many = free.filter { keys[$0].values >= Int64(limits.manyValues) }
            demote(&many, limits, &weighing, &taken)
            if events >= Int64(limits.hourEvents) {
                free.removeAll { key in taken.contains { $0.key == key } }
                weighing.isTogether = true
                demote(&free, limits, &weighing, &taken)
            }
        }
        let last = weighing.count()
        for step in taken {
            weighing.putBack(step.key)
            if weighing.count() == last { continue }
            if found.count == room { return (found, true) }
            weighing.remove(step.key)
            found[keys[step.key].name] = Rules.Observed(
                keyClass: .entity,
                reason: "\(keys[step.key].values) values; of \(events) events the hour rows"
                    + "\(step.isTogether ? ", taken together," : "") were \(step.before), without it \(step.after)")
        }
        return (found, false)
    }

    private struct Taken {
        var key: Int
        var before: Int
        var after: Int
        var isTogether: Bool
    }

    /// Takes keys while there are too many rows; what it takes is free no longer.
    private func demote(
        _ free: inout [Int], _ limits: Rules.Observation, _ weighing: inout Weighing, _ taken: inout [Taken]
    ) {
        var now = weighing.count()
        while isTooMany(now, limits), let step = step(free, now, limits, &weighing) {
            weighing.remove(step.key)
            free.removeAll { $0 == step.key }
            taken.append(Taken(key: step.key, before: now, after: step.after, isTogether: weighing.isTogether))
            now = step.after
        }
    }

    private func step(
        _ free: [Int], _ now: Int, _ limits: Rules.Observation, _ weighing: inout Weighing
    ) -> (key: Int, after: Int)? {
        var best: (key: Int, after: Int)?
        for key in free.prefix(Self.compared) {
            let after = weighing.count(without: key)
            if after < best?.after ?? .max { best = (key, after) }
        }
        guard let best else { return nil }
        if best.after <= now / 10 * 9 { return best }
        // None alone makes a tenth of difference.
        guard let first = free.first, keys[first].values >= Int64(limits.manyValues) else { return nil }
        return (first, weighing.count(without: first))
    }

    private func isTooMany(_ rows: Int, _ limits: Rules.Observation) -> Bool {
        Int64(rows) * 100 / Int64(limits.rowsPercent) >= events
    }

    /// Of a rare key nobody can say what it is, and its rows are few.
    private func isUnique(_ key: Key, _ limits: Rules.Observation) -> Bool {
        key.values >= Int64(limits.events) / 10 && key.requests >= events / 100
            && key.values * 100 / Int64(limits.uniquePercent) >= key.requests
    }

    /// The rows as they would be without some keys.
    private struct Weighing {
        private let evidence: ClassEvidence
        /// Rows are counted as if all hours were one.
        var isTogether = false
        /// By set: the sum of the hashes of the pairs that are left, and how many of them are filed under `(other)`.
        private var rests: [UInt64]
        private var filed: [Int]
        private var seen = DistinctHashes()

        init(_ evidence: ClassEvidence) {
            self.evidence = evidence
            rests = evidence.pairsOfSets.map { $0.reduce(0) { $0 &+ $1.hash } }
            filed = evidence.pairsOfSets.map { $0.count(where: \.isFiled) }
        }

        mutating func remove(_ key: Int) { change(key, by: -1) }
        mutating func putBack(_ key: Int) { change(key, by: 1) }

        private mutating func change(_ key: Int, by sign: Int) {
            for (set, pairs) in evidence.pairsOfSets.enumerated() {
                for pair in pairs where Int(pair.key) == key {
                    rests[set] = sign < 0 ? rests[set] &- pair.hash : rests[set] &+ pair.hash
                    if pair.isFiled { filed[set] += sign }
                }
            }
        }

        /// A row with a filed value would be as many as it has requests, if no budget held it.
        mutating func count() -> Int {
            seen.removeAll()
            var more: Int64 = 0
            for row in evidence.rows {
                if filed[Int(row.set)] > 0 {
                    more &+= row.requests
                    continue
                }
                var hash = Hash()
                if !isTogether { hash.combine(UInt64(UInt32(bitPattern: row.hour))) }
                hash.combine(row.place)
                hash.combine(rests[Int(row.set)])
                _ = seen.insert(hash.state)
            }
            return seen.count + Int(clamping: more)
        }

        mutating func count(without key: Int) -> Int {
            remove(key)
            defer { putBack(key) }
            return count()
        }
    }
}
