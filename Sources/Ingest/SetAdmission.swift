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
        /// The pairs that the set says no more, as an `extra`; none where the event has them beside its set in any case.
        let left: [UInt8]
        let spent: [Spent]

        init(_ text: (set: [UInt8], left: [UInt8]), _ spent: [Spent]) {
            (set, left) = text
            self.spent = spent
        }

        /// What the event has beside the set then. `extra`: what it had already.
        package func extra(_ extra: [UInt8]) -> [UInt8] {
            if left.isEmpty { return extra }
            return extra.count <= 2 ? left : SetText.merged(left, extra)
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
        var values = KeyValues()

        var size: Int { sets.count + pairs.count + values.count }
    }

    /// How many values each key has, by its hash.
    private struct KeyValues {
        private var index = HashIndex()
        private var counts: [Int] = []

        var count: Int { counts.count }

        subscript(hash: UInt64) -> Int? {
            var probe = index.firstProbe(hash)
            return index.next(hash, &probe).map { counts[$0] }
        }

        mutating func add(_ values: Int, to hash: UInt64) {
            var probe = index.firstProbe(hash)
            if let place = index.next(hash, &probe) {
                counts[place] += values
            } else {
                _ = index.insert(hash, probe)
                counts.append(values)
            }
        }
    }

    private var eras: [(from: Int64, rules: Rules)] = []
    /// Of workspaces with rules of their own.
    private var own: [String: [(from: Int64, rules: Rules)]] = [:]
    private var version: Int64 = 0
    private var places: [Place: Int] = [:]
    private var spaces: [Space] = []
    /// Of the last two look-ups: rows come in the order of their hours, and an hour's may ask for the one before it.
    private var lastPlace: (place: Place, number: Int)?
    private var placeBefore: (place: Place, number: Int)?
    private var lastBudget: (hour: Int32, workspace: String, budget: Rules.Budget)?
    private var lastEntity: (head: ArraySlice<UInt8>, key: String)?
    /// Of the set that is looked at.
    private var text = SetText()
    private var hashes: [(key: UInt64, pair: UInt64?)] = []
    private var fates: [SetText.Fate] = []
    private var newKeys: [UInt64] = []
    private var newValues: [(key: UInt64, pair: UInt64)] = []
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
        lastBudget = nil
    }

    /// What is known of the store may be wrong: a batch was not applied, or others had the partitions.
    package mutating func forget() {
        places = [:]
        spaces = []
        lastPlace = nil
        placeBefore = nil
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
            let place = Int(series)
            if let filing = try admit(batch.series[place].set, of: batch.series[place].workspace, in: hour, read) {
                let requests = batch.delta.rows[index].measures.requests
                moves.move(series, of: hour, requests: requests, to: filing, in: batch)
            }
        }
        if moves.isEmpty { return (batch, Filed()) }
        var filed = Filed()
        var last: News?
        for move in moves.made {
            for spent in move.filing.spent {
                filed.events[spent, default: 0] += move.events
                let news = News(workspace: batch.series[Int(move.series)].workspace, hour: move.hour, spent: spent)
                if news == last { continue }
                last = news
                if told.count < 10_000, told.insert(news).inserted { filed.news.append(news) }
            }
        }
        return (moves.moved(batch), filed)
    }

    /// What a set is filed as; nil: as it is.
    package mutating func admit(
        _ set: [UInt8], of workspace: String, in hour: Int32, _ read: (Int32, Int) throws -> [HourRow]?
    ) rethrows -> Filing? {
        let hash = Self.hash(set)
        if !readings.contains(hour) { try load(hour, read) }
        if let key = entity(of: set) { return try admit(set, hash, ofEntity: key, workspace, hour, read) }
        let here = Place(hour: hour, workspace: workspace)
        let place = number(of: here)
        if spaces[place].sets.contains(hash) { return nil }
        guard text.read(set), !text.isUnsaid, !text.pairs.isEmpty else { return nil }
        if try hasCome(hash, here, read) { return nil }
        let budget = budget(of: workspace, in: hour)
        // The last quarter is for what the hour before had.
        var before = -1
        /// Whether one more may come, where so many are there; nil: where `before` had it.
        func takes(_ count: Int, _ budget: Int) throws -> Bool? {
            if count < budget - budget / 4 { return true }
            if count >= budget { return false }
            if before < 0 {
                if !readings.contains(hour &- 1) { try load(hour &- 1, read) }
                before = number(of: Place(hour: hour &- 1, workspace: workspace))
            }
            return nil
        }
        newKeys.removeAll(keepingCapacity: true)
        newValues.removeAll(keepingCapacity: true)
        fates.removeAll(keepingCapacity: true)
        var (isUnnamed, isFiled) = (text.isOpen, false)
        var isChanged = false
        // All hashes first: the look-ups do not wait for each other then.
        hashes.removeAll(keepingCapacity: true)
        set.withUnsafeBytes { bytes in
            for pair in text.pairs {
                let key = Self.hash(bytes, pair.key)
                hashes.append((key, pair.value.map { Self.hash(bytes, $0, after: key) }))
            }
        }
        for (key, pair) in hashes {
            if spaces[place].values[key] == nil {
                let count = spaces[place].values.count + newKeys.count
                guard try takes(count, budget.keys) ?? (spaces[before].values[key] != nil) else {
                    fates.append(.unnamed)
                    isUnnamed = true
                    isChanged = true
                    continue
                }
                newKeys.append(key)
            }
            guard let pair else {
                fates.append(.stays)
                isFiled = true
                continue
            }
            if !spaces[place].pairs.contains(pair) {
                let count = spaces[place].values[key] ?? 0
                guard try takes(count, budget.values) ?? spaces[before].pairs.contains(pair) else {
                    fates.append(.filed)
                    isFiled = true
                    isChanged = true
                    continue
                }
                newValues.append((key, pair))
            }
            fates.append(.stays)
        }
        let filed = isChanged ? text.filed(fates) : (set: set, left: [])
        let filedHash = isChanged ? Self.hash(filed.set) : hash
        if !spaces[place].sets.contains(filedHash) {
            guard try takes(spaces[place].sets.count, budget.sets) ?? spaces[before].sets.contains(filedHash) else {
                return Filing(text.unsaid, Self.setsSpent)
            }
            _ = spaces[place].sets.insert(filedHash)
            for key in newKeys { spaces[place].values.add(0, to: key) }
            for (key, pair) in newValues where spaces[place].pairs.insert(pair) {
                spaces[place].values.add(1, to: key)
            }
        }
        if !isChanged { return nil }
        return Filing(filed, isUnnamed ? (isFiled ? Self.bothSpent : Self.keysSpent) : Self.valuesSpent)
    }

    private static let setsSpent = [Spent.sets]
    private static let valuesSpent = [Spent.values]
    private static let keysSpent = [Spent.keys]
    private static let bothSpent = [Spent.values, .keys]

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
            return Filing((filed, []), Self.valuesSpent)
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
            if EntitySet.filed(set) != nil { _ = spaces[place].sets.insert(Self.hash(set)) }
            return
        }
        let place = number(of: Place(hour: hour, workspace: workspace))
        let hash = Self.hash(set)
        // Not in the memory of `text`: the set that is looked at may be what made an hour be read.
        guard !spaces[place].sets.contains(hash), let text = SetText(set), !text.isUnsaid, !text.pairs.isEmpty else {
            return
        }
        _ = spaces[place].sets.insert(hash)
        set.withUnsafeBytes { bytes in
            for pair in text.pairs {
                let key = Self.hash(bytes, pair.key)
                spaces[place].values.add(0, to: key)
                if let value = pair.value, spaces[place].pairs.insert(Self.hash(bytes, value, after: key)) {
                    spaces[place].values.add(1, to: key)
                }
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
        swap(&lastPlace, &placeBefore)
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

    private mutating func budget(of workspace: String, in hour: Int32) -> Rules.Budget {
        if let lastBudget, lastBudget.hour == hour, lastBudget.workspace == workspace { return lastBudget.budget }
        let begin = Grain.hour.start(of: hour).microseconds
        let eras = own[workspace] ?? eras
        let rules = (eras.last { $0.from <= begin } ?? eras.first)?.rules ?? Rules.builtIn
        let budget = rules.budget(of: workspace)
        lastBudget = (hour, workspace, budget)
        return budget
    }

    private static func hash(_ set: [UInt8]) -> UInt64 { set.withUnsafeBytes { hash($0, $0.indices) } }

    @inline(__always)
    private static func hash(_ bytes: UnsafeRawBufferPointer, _ range: Range<Int>, after first: UInt64 = 0) -> UInt64 {
        var hash = Hash()
        hash.combine(first)
        hash.combine(UnsafeRawBufferPointer(rebasing: bytes[range]))
        return hash.state
    }
}

/// Series of a batch whose set becomes another in some hours.
private struct SeriesMoves {
    struct Move {
        var series: Int32
        var hour: Int32
        /// Index into `added`, behind the batch's own series.
        var target: Int32
        var filing: SetAdmission.Filing
        var events: Int
        /// What the event has beside the set where it had nothing.
        var alone: (extra: ByteRange, pairs: ByteRange)?
    }

    private(set) var made: [Move] = []
    private var index = HashIndex()
    private var added: [SeriesKey] = []
    private var numbers: [SeriesKey: Int32] = [:]

    var isEmpty: Bool { made.isEmpty }

    /// Each series of an hour once.
    mutating func move(
        _ series: Int32, of hour: Int32, requests: Int64, to filing: SetAdmission.Filing, in batch: SealedBatch
    ) {
        let hash = Self.hash(series, hour)
        var probe = index.firstProbe(hash)
        while index.next(hash, &probe) != nil { index.advance(&probe) }
        _ = index.insert(hash, probe)
        made.append(
            Move(
                series: series, hour: hour, target: target(of: batch.series[Int(series)], filing.set, in: batch),
                filing: filing, events: Int(requests)))
    }

    private mutating func target(of key: SeriesKey, _ set: [UInt8], in batch: SealedBatch) -> Int32 {
        var key = key
        key.set = set
        // Nearly all of a flood falls together.
        if let last = made.last, added[Int(last.target) - batch.series.count] == key { return last.target }
        let number = numbers[key] ?? Int32(batch.series.count + added.count)
        if numbers.updateValue(number, forKey: key) == nil { added.append(key) }
        return number
    }

    private static func hash(_ series: Int32, _ hour: Int32) -> UInt64 {
        var hash = Hash()
        hash.combine(UInt64(UInt32(bitPattern: hour)) << 32 | UInt64(UInt32(bitPattern: series)))
        return hash.state
    }

    /// Its index in `made`.
    private func place(_ series: Int32, _ hour: Int32) -> Int? {
        let hash = Self.hash(series, hour)
        var probe = index.firstProbe(hash)
        while let place = index.next(hash, &probe) {
            if made[place].series == series && made[place].hour == hour { return place }
            index.advance(&probe)
        }
        return nil
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
            number(place(series, hour).map { made[$0].target } ?? series)
        }
        for index in batch.events.indices {
            let hour = Grain.hour.bucket(of: batch.events[index].fields.time)
            for entity in batch.events[index].entities {
                batch.entities[entity] = moved(batch.entities[entity], hour)
            }
            guard let place = place(batch.events[index].series, hour) else {
                batch.events[index].series = number(batch.events[index].series)
                continue
            }
            batch.events[index].series = number(made[place].target)
            let extra = batch.events[index].extra
            let isAlone = extra.count <= 2
            if isAlone, let known = made[place].alone {
                (batch.events[index].extra, batch.events[index].pairs) = known
                continue
            }
            let beside = batch.append(extra: made[place].filing.extra(Array(batch.extras[extra.range])))
            (batch.events[index].extra, batch.events[index].pairs) = beside
            if isAlone { made[place].alone = beside }
        }
        batch.delta = batch.delta.moved { row in
            moved(row.series, row.grain == .minute ? Grain.hour.bucket(ofMinute: row.bucket) : row.bucket)
        }
        batch.series = series
        return batch
    }
}
