// Budgets of metadata: a batch as it was folded -> the batch as it may be counted.
//
// Of each workspace an hour's rollups hold at most so many metadata sets, so many keys and so many values of a key
// (`Rules.Budget`, by the rules of the hour's begin). What is beyond is filed under `(other)`:
//
//   - a key too many is left out of the set, which says that there are more keys;
//   - a value too many is left out, and the key stays;
//   - where the set that is left is one too many, nothing is said of the pairs.
//
// The rollups of an entity hold at most as many of its values an hour as all others hold sets; a value too many is filed
// likewise. Nothing is kept for what the hour before had: so a value that was refused stays so for the hour, and its rows
// say which events were filed, as a set says it of the others.
//
// `SetText` is how that is written. The event keeps its pairs beside the set, where entities and identifiers are, so
// events still answer exactly; all other dimensions and all sums stay what they are, so nothing is lost from any total.
//
// What decides is what the store has: an hour is read before the first batch that touches it, and from then on only what
// is admitted is added. So a crash changes nothing, and a batch that is read again is filed as it was. The order is
// that of the log: first come, first counted. But a quarter of each budget is kept for what the hour before had: who
// floods an hour with novelties takes no place from what has been there.
//
// Two consumers of one store each add what they admit themselves, and read an hour again when something new comes, as
// often as that takes a hundredth of the time. What one has admitted since then the other does not know: they may file the
// same set differently, which answers show as inexact and events mend, and together they stay within one budget for each
// of them, whatever comes.
//
// Decisions are made by the thread that applies, batch by batch and once for each hour and series. A set that is known
// costs one look-up; one that is not is parsed.

import EventCodec
import Events
import Normalizer
package import RollupStore
import Rollups

package struct SetAdmission: Sendable {
    /// | limit | value | why | at the limit |
    /// | --- | --- | --- | --- |
    /// | kept | 2,000,000 hashes | some 60 MB | all is forgotten, and read again hour by hour |
    /// | hour rows | 400,000 | some 100 MB while an hour is read | not read: the hour may take another budget |
    /// | share | 1/100 of the time, at most every second | other consumers are few | they are looked at later |
    package static let maxRows = 400_000
    private static let kept = 2_000_000
    private static let share = 100

    /// Which budget was spent.
    package enum Spent: String, Sendable, CaseIterable {
        case sets, values, keys
    }

    /// What was filed under `(other)` in one batch.
    package struct Filed: Sendable, Equatable {
        /// Events, by the budget that was spent; one may have spent two.
        package var events: [Spent: Int] = [:]
        /// Spent for the first time, as far as is known here.
        package var news: [News] = []
    }

    /// What a set is filed as.
    package struct Filing: Sendable {
        package let set: [UInt8]
        let spent: [Spent]
        /// The set as it was and as it is filed; nil for an entity's, which an event has beside its set in any case.
        private let texts: (whole: SetText, filed: SetText)?

        init(whole: SetText, filed: SetText) {
            set = filed.bytes
            texts = (whole, filed)
            if filed.isUnsaid {
                spent = [.sets]
            } else {
                spent = (filed.pairs.contains { $0.value == nil } ? [.values] : []) + (filed.isOpen ? [.keys] : [])
            }
        }

        init(set: [UInt8], spent: [Spent]) {
            (self.set, self.spent, texts) = (set, spent, nil)
        }

        /// What the event has beside the set then. `extra`: what it had already.
        package func extra(_ extra: [UInt8]) -> [UInt8] {
            texts.map { $0.whole.left(by: $0.filed, with: extra) } ?? extra
        }
    }

    package struct News: Hashable, Sendable {
        package var workspace: String
        package var hour: Int32
        package var spent: Spent
    }

    private struct Place: Hashable {
        var hour: Int32
        var workspace: String
        /// Of rollups by entity: the entity's key.
        var entity: String?
    }

    /// What one workspace has in one hour.
    private struct Space {
        var sets = DistinctHashes()
        var pairs = DistinctHashes()
        /// How many, by key.
        var values: [UInt64: Int] = [:]

        var size: Int { sets.count + pairs.count + values.count }
    }

    private var eras: [(from: Int64, rules: Rules)] = []
    /// Of workspaces with rules of their own.
    private var own: [String: [(from: Int64, rules: Rules)]] = [:]
    private var version: Int64 = 0
    private var places: [Place: Int] = [:]
    private var spaces: [Space] = []
    /// Of the last look-up: rows come in the order of their hours.
    private var lastPlace: (place: Place, number: Int)?
    private var lastEntity: (head: ArraySlice<UInt8>, key: String)?
    /// The hours that were read, and when the next one may be read again.
    private var readings: Set<Int32> = []
    private var due: ContinuousClock.Instant?
    private var told: Set<News> = []
    private let now: @Sendable () -> ContinuousClock.Instant

    package init(now: @escaping @Sendable () -> ContinuousClock.Instant = { .now }) { self.now = now }

    /// From here on budgets are those of this timeline.
    package mutating func use(_ timeline: RulesTimeline) throws(RollupStoreError) {
        guard timeline.version != version || self.eras.isEmpty else { return }
        func eras(_ entries: [RulesTimeline.Entry]) throws(RollupStoreError) -> [(from: Int64, rules: Rules)] {
            var eras: [(from: Int64, rules: Rules)] = []
            for entry in entries { eras.append((entry.from.microseconds, try entry.rules.rules())) }
            return eras
        }
        self.eras = try eras(timeline.entries)
        own = [:]
        for (workspace, entries) in timeline.workspaces { own[workspace] = try eras(entries) }
        version = timeline.version
    }

    /// What is known of the store may be wrong: a batch was not applied, or others had the partitions.
    package mutating func forget() {
        places = [:]
        spaces = []
        lastPlace = nil
        readings = []
    }

    /// The batch with what its budgets allow. `read`: an hour's rows; nil where there are more than that.
    package mutating func admit(
        _ batch: SealedBatch, _ read: (Int32, Int) throws -> [HourRow]?
    ) rethrows -> (batch: SealedBatch, filed: Filed) {
        if spaces.reduce(0, { $0 + $1.size }) > Self.kept { forget() }
        var moves = SeriesMoves()
        for index in batch.delta.rows.indices {
            let grain = batch.delta.rows[index].grain
            guard grain == .hour || grain == .entityHour else { continue }
            let (series, hour) = (batch.delta.rows[index].series, batch.delta.rows[index].bucket)
            let filing = try admit(batch.series[Int(series)].set, of: batch.series[Int(series)].workspace, in: hour, read)
            if let filing {
                let requests = batch.delta.rows[index].measures.requests
                moves.move(series, of: hour, requests: requests, to: filing, in: batch)
            }
        }
        if moves.isEmpty { return (batch, Filed()) }
        let moved = moves.moved(batch)
        var filed = Filed()
        for (series, hour, filing, events) in moves.made {
            for spent in filing.spent {
                filed.events[spent, default: 0] += events
                let news = News(workspace: batch.series[Int(series)].workspace, hour: hour, spent: spent)
                if told.count < 10_000, told.insert(news).inserted { filed.news.append(news) }
            }
        }
        return (moved, filed)
    }

    /// What a set is filed as; nil: as it is.
    package mutating func admit(
        _ set: [UInt8], of workspace: String, in hour: Int32, _ read: (Int32, Int) throws -> [HourRow]?
    ) rethrows -> Filing? {
        let hash = Self.hash(set[...])
        if !readings.contains(hour) { try load(hour, read) }
        if let key = entity(of: set) { return try admit(set, hash, ofEntity: key, workspace, hour, read) }
        let here = Place(hour: hour, workspace: workspace)
        let place = number(of: here)
        if spaces[place].sets.contains(hash) { return nil }
        guard var text = SetText(set), !text.isUnsaid, !text.pairs.isEmpty else { return nil }
        if try hasCome(hash, here, read) { return nil }
        let whole = text
        let budget = budget(of: workspace, in: hour)
        /// Whether one more may come, where so many are there: the last quarter is for what the hour before had.
        func takes(_ count: Int, _ budget: Int, _ hadBefore: (Space) -> Bool) throws -> Bool {
            if count < budget - budget / 4 { return true }
            if count >= budget { return false }
            if !readings.contains(hour &- 1) { try load(hour &- 1, read) }
            return hadBefore(spaces[number(of: Place(hour: hour &- 1, workspace: workspace))])
        }
        var newKeys: [UInt64] = []
        var newValues: [(key: UInt64, pair: UInt64)] = []
        var isChanged = false
        var kept: [SetText.Pair] = []
        for var pair in text.pairs {
            let key = Self.hash(pair.key)
            if spaces[place].values[key] == nil {
                let count = spaces[place].values.count + newKeys.count
                guard try takes(count, budget.keys, { $0.values[key] != nil }) else {
                    text.isOpen = true
                    isChanged = true
                    continue
                }
                newKeys.append(key)
            }
            if let value = pair.value {
                let hash = Self.hash(value, after: key)
                if !spaces[place].pairs.contains(hash) {
                    let count = spaces[place].values[key] ?? 0
                    if try takes(count, budget.values, { $0.pairs.contains(hash) }) {
                        newValues.append((key, hash))
                    } else {
                        pair.value = nil
                        isChanged = true
                    }
                }
            }
            kept.append(pair)
        }
        text.pairs = kept
        let filed = isChanged ? text.bytes : set
        let filedHash = isChanged ? Self.hash(filed[...]) : hash
        if !spaces[place].sets.contains(filedHash) {
            guard try takes(spaces[place].sets.count, budget.sets, { $0.sets.contains(filedHash) }) else {
                return Filing(whole: whole, filed: .unsaidText)
            }
            _ = spaces[place].sets.insert(filedHash)
            for key in newKeys { spaces[place].values[key] = 0 }
            for (key, pair) in newValues where spaces[place].pairs.insert(pair) {
                spaces[place].values[key, default: 0] += 1
            }
        }
        return isChanged ? Filing(whole: whole, filed: text) : nil
    }

    private mutating func admit(
        _ set: [UInt8], _ hash: UInt64, ofEntity key: String, _ workspace: String, _ hour: Int32,
        _ read: (Int32, Int) throws -> [HourRow]?
    ) rethrows -> Filing? {
        let here = Place(hour: hour, workspace: workspace, entity: key)
        let place = number(of: here)
        if spaces[place].sets.contains(hash) { return nil }
        guard let filed = EntitySet.filed(set) else { return nil }
        if try hasCome(hash, here, read) { return nil }
        guard spaces[place].sets.count < budget(of: workspace, in: hour).sets else {
            return Filing(set: filed, spent: [.values])
        }
        _ = spaces[place].sets.insert(hash)
        return nil
    }

    /// Whether the store, read again where that is due, has a set by now.
    private mutating func hasCome(
        _ hash: UInt64, _ place: Place, _ read: (Int32, Int) throws -> [HourRow]?
    ) rethrows -> Bool {
        guard let due, due <= now() else { return false }
        try load(place.hour, read)
        return spaces[number(of: place)].sets.contains(hash)
    }

    /// A set that is counted already.
    package mutating func know(_ set: [UInt8], of workspace: String, in hour: Int32) {
        if let key = entity(of: set) {
            let place = number(of: Place(hour: hour, workspace: workspace, entity: key))
            if EntitySet.filed(set) != nil { _ = spaces[place].sets.insert(Self.hash(set[...])) }
            return
        }
        let place = number(of: Place(hour: hour, workspace: workspace))
        guard !spaces[place].sets.contains(Self.hash(set[...])), let text = SetText(set), !text.isUnsaid,
            !text.pairs.isEmpty
        else { return }
        _ = spaces[place].sets.insert(Self.hash(set[...]))
        for pair in text.pairs {
            let key = Self.hash(pair.key)
            spaces[place].values[key, default: 0] += 0
            if let value = pair.value, spaces[place].pairs.insert(Self.hash(value, after: key)) {
                spaces[place].values[key, default: 0] += 1
            }
        }
    }

    private mutating func load(_ hour: Int32, _ read: (Int32, Int) throws -> [HourRow]?) rethrows {
        let began = now()
        for row in try read(hour, Self.maxRows) ?? [] { know(row.series.set, of: row.series.workspace, in: hour) }
        let took = max(began.duration(to: now()), .milliseconds(10))
        readings.insert(hour)
        due = now().advanced(by: took * Self.share)
    }

    /// Its index in `spaces`.
    private mutating func number(of place: Place) -> Int {
        if let lastPlace, lastPlace.place == place { return lastPlace.number }
        var number = spaces.count
        if let known = places[place] {
            number = known
        } else {
            places[place] = number
            spaces.append(Space())
        }
        lastPlace = (place, number)
        return number
    }

    /// The key, where it is the set of an entity.
    private mutating func entity(of set: [UInt8]) -> String? {
        guard set.first == UInt8(ascii: "[") else { return nil }
        if let lastEntity, set.starts(with: lastEntity.head) { return lastEntity.key }
        guard let head = EntitySet.head(of: set), let key = EntitySet.key(of: set) else { return nil }
        lastEntity = (head, key)
        return key
    }

    private func budget(of workspace: String, in hour: Int32) -> Rules.Budget {
        let begin = Grain.hour.start(of: hour).microseconds
        let eras = own[workspace] ?? eras
        let rules = (eras.last { $0.from <= begin } ?? eras.first)?.rules ?? Rules.builtIn
        return rules.budget(of: workspace)
    }

    private static func hash(_ bytes: ArraySlice<UInt8>, after first: UInt64 = 0) -> UInt64 {
        var hash = Hash()
        hash.combine(first)
        bytes.withUnsafeBytes { hash.combine($0) }
        return hash.state
    }
}

/// Series of a batch whose set becomes another in some hours.
private struct SeriesMoves {
    private struct Origin: Hashable {
        var hour: Int32
        var series: Int32
    }

    private struct Move {
        /// Index into `added`, behind the batch's own series.
        var series: Int32
        var filing: SetAdmission.Filing
        let events: Int
        /// What the event has beside the set where it had nothing.
        var alone: (extra: ByteRange, pairs: ByteRange)?
    }

    private var moves: [Origin: Move] = [:]
    private var added: [SeriesKey] = []
    private var numbers: [SeriesKey: Int32] = [:]

    var isEmpty: Bool { moves.isEmpty }

    /// Once moved, with the number of events.
    var made: [(series: Int32, hour: Int32, filing: SetAdmission.Filing, events: Int)] {
        moves.sorted { ($0.key.hour, $0.key.series) < ($1.key.hour, $1.key.series) }
            .map { ($0.key.series, $0.key.hour, $0.value.filing, $0.value.events) }
    }

    mutating func move(
        _ series: Int32, of hour: Int32, requests: Int64, to filing: SetAdmission.Filing, in batch: SealedBatch
    ) {
        var key = batch.series[Int(series)]
        key.set = filing.set
        let number = numbers[key] ?? Int32(batch.series.count + added.count)
        if numbers.updateValue(number, forKey: key) == nil { added.append(key) }
        moves[Origin(hour: hour, series: series)] = Move(series: number, filing: filing, events: Int(requests))
    }

    mutating func moved(_ batch: SealedBatch) -> SealedBatch {
        var batch = batch
        batch.series += added
        // Without the series that nothing is counted under any more: the store would keep them for good.
        var numbers = [Int32](repeating: -1, count: batch.series.count)
        var series: [SeriesKey] = []
        func number(_ old: Int32) -> Int32 {
            if numbers[Int(old)] < 0 {
                numbers[Int(old)] = Int32(series.count)
                series.append(batch.series[Int(old)])
            }
            return numbers[Int(old)]
        }
        func moved(_ series: Int32, _ hour: Int32) -> Int32 {
            guard let place = moves.index(forKey: Origin(hour: hour, series: series)) else { return number(series) }
            return number(moves.values[place].series)
        }
        for index in batch.events.indices {
            let event = batch.events[index]
            let hour = Grain.hour.bucket(of: event.fields.time)
            for entity in event.entities { batch.entities[entity] = moved(batch.entities[entity], hour) }
            guard let place = moves.index(forKey: Origin(hour: hour, series: event.series)) else {
                batch.events[index].series = number(event.series)
                continue
            }
            let move = moves.values[place]
            batch.events[index].series = number(move.series)
            let isAlone = event.extra.count <= 2
            if isAlone, let known = move.alone {
                (batch.events[index].extra, batch.events[index].pairs) = known
                continue
            }
            let beside = batch.append(extra: move.filing.extra(Array(batch.extras[event.extra.range])))
            (batch.events[index].extra, batch.events[index].pairs) = beside
            if isAlone { moves.values[place].alone = beside }
        }
        batch.delta = batch.delta.moved { row in
            moved(row.series, row.grain == .minute ? Grain.hour.bucket(ofMinute: row.bucket) : row.bucket)
        }
        batch.series = series
        return batch
    }
}
