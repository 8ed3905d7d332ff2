// The store's side of a replay: rollups of whole days built beside those that answer, and swapped in by one step.
//
// A replay has a generation of its own. Over the days that it covers, its rollups take the place of those below it (another
// replay's, or the first generation's, which ingest writes where no replay answers) once it is `live`. Of its events only
// what differs from what ingest has made of them is kept, as a revision. What answers at an instant is the live replay
// that was swapped in last of those that cover it, else generation 1.
//
// What ingest applies meanwhile is never missed and never counted twice: a batch's rollups go to the generations that
// answer, and for every other generation that covers an event, whether it is being built or could come to answer again,
// the event is noted as pending, in the batch's transaction. A scan passes over what is pending; the swap takes place in
// a step that leaves nothing pending. Retention leaves an event where it is while it is pending for a generation that
// could come to answer: first it is settled (`Replayer.settleExpiring`), then it goes.

import EventCodec
package import Events
package import Rollups

/// One replay as the store keeps it.
package struct StoredReplay: Sendable, Equatable {
    package enum State: String, Sendable {
        case building
        /// Its rollups answer, where no later replay's do.
        case live
        /// It answered, and was taken back.
        case retired
        /// Given up before it answered, or only looked at.
        case cancelled
    }

    /// Its generation: 2 and up, never given twice.
    package var id: Int64
    package var state: State
    package var plan: ReplayPlan
    /// A step under another epoch is refused: the replay was taken over, or cancelled.
    package var epoch: Int64
    /// Scanned from the end down to here, exclusive; nil: nothing yet.
    package var cursor: EventPlace?
    /// Read before the events are scanned; nil: all days are scanned as events.
    package var log: LogScan?
    package var isScanned: Bool
    /// Events of the store and records of the log.
    package var scanned: Int64
    /// Of both, as counted at the start.
    package var total: Int64
    package var changed: Int64
    package var created: EventTime
    /// When it came to answer last.
    package var swapped: EventTime?

    package init(
        id: Int64, state: State, plan: ReplayPlan, epoch: Int64, cursor: EventPlace?, log: LogScan?, isScanned: Bool,
        scanned: Int64, total: Int64, changed: Int64, created: EventTime, swapped: EventTime?
    ) {
        self.id = id
        self.state = state
        self.plan = plan
        self.epoch = epoch
        self.cursor = cursor
        self.log = log
        self.isScanned = isScanned
        self.scanned = scanned
        self.total = total
        self.changed = changed
        self.created = created
        self.swapped = swapped
    }

    /// Events are scanned from here on: what is before it the log has.
    package var eventsBegin: EventTime { min(max(plan.begin, log?.until ?? plan.begin), plan.end) }
}

/// A place in the order of events: by time, then id.
package struct EventPlace: Sendable, Comparable {
    package var time: EventTime
    package var id: EventID

    package init(time: EventTime, id: EventID) {
        self.time = time
        self.id = id
    }

    package static func < (left: EventPlace, right: EventPlace) -> Bool {
        left.time != right.time ? left.time < right.time : left.id < right.id
    }
}

/// What is to be done again.
package struct ReplayPlan: Sendable, Equatable {
    /// The command that asked, in a canonical text: the same one finds an unfinished replay again.
    package var asked: String
    /// Events of `from <= time < to` are put under `rules` and prices; others of the days keep what they have.
    package var from: EventTime
    package var to: EventTime
    /// nil: the rules that each event's time has.
    package var rules: RulesText?
    /// A price table's text; nil: costs stay.
    package var prices: String?
    /// The end is for looking only: it is never swapped in.
    package var isDryRun: Bool
    /// Whose events are put under them; nil: those of all workspaces. The rollups of all are built in either case.
    package var workspace: String?

    package init(
        asked: String, from: EventTime, to: EventTime, rules: RulesText?, prices: String?, isDryRun: Bool,
        workspace: String? = nil
    ) {
        self.asked = asked
        self.from = from
        self.to = to
        self.rules = rules
        self.prices = prices
        self.isDryRun = isDryRun
        self.workspace = workspace
    }

    /// Whether an event is put under the plan's rules and prices.
    package func changes(_ time: EventTime, of workspace: String) -> Bool {
        from <= time && time < to && (self.workspace ?? workspace) == workspace
    }

    /// The whole UTC days whose rollups are built: `begin <= time < end`.
    package var begin: EventTime { Grain.day.start(of: Grain.day.bucket(of: from)) }
    package var end: EventTime {
        let last = Grain.day.bucket(of: EventTime(microseconds: max(from.microseconds, to.microseconds - 1)))
        return Grain.day.start(of: last + 1)
    }

    /// These days, as those of a generation.
    package func days(of generation: Int64) -> GenerationMap.Segment {
        GenerationMap.Segment(begin: begin, end: end, generation: generation)
    }

    package func overlaps(_ other: ReplayPlan) -> Bool { begin < other.end && other.begin < end }
}

/// Which generations answer where. Built of the replays that are live, in the order of their swaps.
package struct GenerationMap: Sendable, Equatable {
    package static let first: Int64 = 1

    package struct Segment: Sendable, Equatable {
        package var begin: EventTime
        package var end: EventTime
        package var generation: Int64

        package init(begin: EventTime, end: EventTime, generation: Int64) {
            self.begin = begin
            self.end = end
            self.generation = generation
        }
    }

    /// Ascending, without gaps from the earliest time there is to the latest.
    package private(set) var segments: [Segment]

    /// - `live`: the days of each replay that is live, in the order of their swaps.
    package init(live: [Segment] = []) {
        segments = [
            Segment(
                begin: EventTime(microseconds: .min), end: EventTime(microseconds: .max), generation: Self.first)
        ]
        for replay in live {
            var cut: [Segment] = []
            for segment in segments {
                if segment.end <= replay.begin || segment.begin >= replay.end {
                    cut.append(segment)
                    continue
                }
                if segment.begin < replay.begin {
                    cut.append(Segment(begin: segment.begin, end: replay.begin, generation: segment.generation))
                }
                if segment.end > replay.end {
                    cut.append(Segment(begin: replay.end, end: segment.end, generation: segment.generation))
                }
            }
            cut.append(replay)
            segments = cut.sorted { $0.begin < $1.begin }
        }
    }

    private var isPlain: Bool { segments.count == 1 }

    /// Another text where other generations answer.
    package var name: String { segments.map { "\($0.generation)" }.joined(separator: ".") }

    /// What answers again where a live replay answers now, once that is taken back.
    package static func below(_ generation: Int64, among live: [Segment]) -> [Segment] {
        let without = GenerationMap(live: live.filter { $0.generation != generation })
        return GenerationMap(live: live).segments.filter { $0.generation == generation }
            .flatMap { without.cutEvents(from: $0.begin, to: $0.end) }
    }

    /// Where generations do not answer and could come to again: the days of each, and which live replays stand above it
    /// there, its own `live` from the first of them on.
    package static func covered(by live: [Segment]) -> [(days: Segment, above: ArraySlice<Segment>)] {
        live.indices.flatMap { index in
            GenerationMap(live: Array(live[..<index])).cutEvents(from: live[index].begin, to: live[index].end)
                .map { ($0, live[index...]) }
        }
    }

    package func generation(at time: EventTime) -> Int64 {
        segments.last { $0.begin <= time }?.generation ?? Self.first
    }

    /// Buckets `from ..< to` of a grain, cut where another generation answers; days never are.
    package func cut(_ grain: Grain, from: Int32, to: Int32) -> [(generation: Int64, from: Int32, to: Int32)] {
        if isPlain { return [(Self.first, from, to)] }
        return segments.compactMap { segment in
            let begin = max(from, grain.bucket(of: segment.begin))
            let end = segment.end.microseconds == .max ? to : min(to, grain.bucket(of: segment.end))
            return begin < end ? (segment.generation, begin, end) : nil
        }
    }

    /// Instants `from ..< to`, cut likewise; the latest first, as events are read.
    package func cutEvents(from: EventTime, to: EventTime) -> [Segment] {
        segments.reversed().compactMap { segment in
            let part = Segment(
                begin: max(from, segment.begin), end: min(to, segment.end), generation: segment.generation)
            return part.begin < part.end ? part : nil
        }
    }
}

/// What ingest must know of replays while it applies a batch.
package struct ReplayScope: Sendable, Equatable {
    private struct Stretch: Sendable, Equatable {
        /// Up to the begin of the next one.
        var begin: EventTime
        /// What an event of this time is pending for.
        var generations: [Int64]
    }

    package let map: GenerationMap
    /// Every generation that counts events of some days, whether it answers or not; the first one is not among them.
    package let tracked: [GenerationMap.Segment]
    /// Ascending; nothing is pending before the first one.
    private let stretches: [Stretch]

    /// - `live`: those of `tracked` that are live, in the order of their swaps.
    package init(tracked: [GenerationMap.Segment], live: [GenerationMap.Segment]) {
        let map = GenerationMap(live: live)
        self.tracked = tracked
        self.map = map
        // Generations begin and end to answer where tracked days do.
        stretches = Set(tracked.flatMap { [$0.begin, $0.end] }).sorted().map { begin in
            let answering = map.generation(at: begin)
            var others = tracked.filter { $0.begin <= begin && begin < $0.end && $0.generation != answering }
                .map(\.generation)
            if answering != GenerationMap.first { others.append(GenerationMap.first) }
            return Stretch(begin: begin, generations: others)
        }
    }

    /// What the events of a batch, less the duplicates, are pending for: every generation that covers one and does not
    /// answer for it. In the order of generations and places, which stores keep them in.
    package func pending(
        _ batch: SealedBatch, withDuplicates duplicates: [Int]
    ) -> [(generation: Int64, place: EventPlace)] {
        if stretches.isEmpty { return [] }
        let left = Set(duplicates)
        var pending: [(generation: Int64, place: EventPlace)] = []
        for (index, event) in batch.events.enumerated() where !left.contains(index) {
            let place = EventPlace(time: event.fields.time, id: event.fields.id)
            guard let stretch = stretches.last(where: { $0.begin <= place.time }) else { continue }
            for generation in stretch.generations { pending.append((generation, place)) }
        }
        return pending.sorted { $0 < $1 }
    }
}

/// A snapshot of a store that keeps generations: what it reads of one is read of those that answer.
package protocol GenerationalSnapshot: RollupSnapshot {
    var map: GenerationMap { get }

    func scanRollups(
        of generation: Int64, grain: Grain, from: Int32, to: Int32, series: SeriesSelection, withBins: Bool,
        _ body: (StoredRollup) -> Void
    ) throws

    /// False where `body` wants no more.
    func scanEvents(
        of generation: Int64, from: EventTime, to: EventTime, before: (time: EventTime, id: EventID)?,
        series: SeriesSelection, having: [UInt32]?, _ body: (StoredEvent) throws -> Bool
    ) throws -> Bool
}

extension GenerationalSnapshot {
    package var generationName: String { map.name }

    package func scanRollups(
        grain: Grain, from: Int32, to: Int32, series: SeriesSelection, withBins: Bool, _ body: (StoredRollup) -> Void
    ) throws {
        for part in map.cut(grain, from: from, to: to) {
            try scanRollups(
                of: part.generation, grain: grain, from: part.from, to: part.to, series: series, withBins: withBins,
                body)
        }
    }

    package func scanEvents(
        from: EventTime, to: EventTime, before: (time: EventTime, id: EventID)?, series: SeriesSelection,
        having: [UInt32]?, _ body: (StoredEvent) throws -> Bool
    ) throws {
        for part in map.cutEvents(from: from, to: to) {
            let goesOn = try scanEvents(
                of: part.generation, from: part.begin, to: part.end, before: before, series: series, having: having,
                body)
            if !goesOn { return }
        }
    }
}

/// What a replay makes of one event where that differs from what ingest has made of it, or another replay does.
package struct EventRevision: Sendable {
    package var time: EventTime
    package var id: EventID
    /// Index into the step's `series`.
    package var series: Int32
    package var metadataStatus: MetadataStatus
    package var metadataConflicts: UInt32
    package var metadataRaw: [UInt8]
    package var extra: [UInt8]
    package var cost: NanoUSD?
    package var priceVersion: String

    package init(
        time: EventTime, id: EventID, series: Int32, metadataStatus: MetadataStatus, metadataConflicts: UInt32,
        metadataRaw: [UInt8], extra: [UInt8], cost: NanoUSD?, priceVersion: String
    ) {
        self.time = time
        self.id = id
        self.series = series
        self.metadataStatus = metadataStatus
        self.metadataConflicts = metadataConflicts
        self.metadataRaw = metadataRaw
        self.extra = extra
        self.cost = cost
        self.priceVersion = priceVersion
    }
}

/// One atomic step of a replay: some of the scan, or some of what was pending.
package struct ReplayStep: Sendable {
    package var series: [SeriesKey] = []
    package var delta = RollupDelta()
    package var revisions: [EventRevision] = []
    package var events: Int64 = 0
    /// Of these, events that come to read otherwise than they do now.
    package var changed: Int64 = 0
    /// Where the scan stands now; nil in a step of pending events.
    package var cursor: EventPlace?
    /// The same of the log; nil where the step has read none of it.
    package var log: LogScan?
    package var isScanned = false
    /// Events that are pending no more.
    package var settled: [EventPlace] = []

    package init() {}
}

/// An event as it stands, with its series.
package struct ReplayEvent: Sendable {
    package var stored: StoredEvent
    package var series: SeriesKey

    package init(stored: StoredEvent, series: SeriesKey) {
        self.stored = stored
        self.series = series
    }

    /// - `next`: what to do where a series is missing.
    package static func all(
        _ events: [StoredEvent], next: String, key: (Int64) -> SeriesKey?
    ) throws(RollupStoreError) -> [ReplayEvent] {
        var all: [ReplayEvent] = []
        all.reserveCapacity(events.count)
        for event in events {
            guard let series = key(event.series) else {
                throw RollupStoreError(
                    code: .corrupt, tried: "replay the event \(event.event.id)", reason: "its series is missing",
                    next: next)
            }
            all.append(ReplayEvent(stored: event, series: series))
        }
        return all
    }
}

package struct ReplayPage: Sendable {
    package var events: [ReplayEvent]
    /// The last event looked at; nil where there was none.
    package var cursor: EventPlace?
    package var isEnd: Bool
    /// Where ingest stood then: the sum of the next offsets of all partitions.
    package var ingested: Int64

    package init(events: [ReplayEvent], cursor: EventPlace?, isEnd: Bool, ingested: Int64) {
        self.events = events
        self.cursor = cursor
        self.isEnd = isEnd
        self.ingested = ingested
    }
}

/// The replays of a store, beside its writer, of any process. Each call is one transaction.
package protocol ReplayStore {
    /// All, the latest first.
    mutating func list() throws(RollupStoreError) -> [StoredReplay]

    /// A new replay in the state `building`; or, taken over under a new epoch, the unfinished one of the same `asked`.
    /// Where an unfinished one overlaps: `configuration`, with its id.
    ///
    /// - `log`: where days that the store no longer has all events of are read; nil: nowhere.
    mutating func begin(_ plan: ReplayPlan, log: LogReach?, now: EventTime) throws(RollupStoreError) -> StoredReplay

    /// What is whole from when on.
    mutating func bounds() throws(RollupStoreError) -> ReplayBounds

    /// Where ingest stands: the sum of the next offsets of all partitions.
    mutating func ingested() throws(RollupStoreError) -> Int64

    /// Takes an unfinished replay over.
    mutating func resume(_ id: Int64) throws(RollupStoreError) -> StoredReplay

    /// The next up to `limit` events of the scan, newest first, less those that are pending.
    mutating func scan(_ replay: StoredReplay, limit: Int) throws(RollupStoreError) -> ReplayPage

    /// Events of these days that are pending for their generation, the earliest first.
    mutating func pending(_ days: GenerationMap.Segment, limit: Int) throws(RollupStoreError) -> [ReplayEvent]

    /// What others than one workspace have of these days, all of one instant: rows of what answers, and what of theirs is
    /// pending for the days' generation.
    mutating func carried(
        _ days: GenerationMap.Segment, without workspace: String
    ) throws(RollupStoreError) -> CarriedRows

    /// Adds a step to a generation under a replay's epoch, and answers the replay as it stands then.
    mutating func add(
        _ step: ReplayStep, to generation: Int64, under replay: StoredReplay
    ) throws(RollupStoreError) -> StoredReplay

    /// The last step: with it the replay's rollups answer. nil, and nothing done, where more is pending than it settles.
    /// Asked again under the same epoch, its answer having been lost, it answers the replay as it stands.
    mutating func swap(
        _ step: ReplayStep, _ replay: StoredReplay, now: EventTime
    ) throws(RollupStoreError) -> StoredReplay?

    /// The days of each live replay, in the order of their swaps.
    mutating func live() throws(RollupStoreError) -> [GenerationMap.Segment]

    /// What answered before this replay answers again. nil, and nothing done, where anything is pending there. One that
    /// was taken back already is answered as it stands.
    mutating func revert(_ replay: StoredReplay) throws(RollupStoreError) -> StoredReplay?

    /// Gives up an unfinished replay; whoever works on it is refused from then on. One that was given up already is
    /// answered as it stands.
    mutating func cancel(_ id: Int64) throws(RollupStoreError) -> StoredReplay

    /// Deletes up to about `maxRows` rows of cancelled replays; true where more are left.
    mutating func sweep(maxRows: Int) throws(RollupStoreError) -> Bool

    /// Rules as they hold, but for these replays' where they are live.
    mutating func timeline(without ids: Set<Int64>) throws(RollupStoreError) -> RulesTimeline

    /// Rows of one grain of one generation from one day to another; and of what answers there now (nil).
    mutating func rows(
        of generation: Int64?, from begin: EventTime, to end: EventTime, _ grain: Grain,
        _ body: (StoredRollup, SeriesKey) -> Void
    ) throws(RollupStoreError)

    mutating func close()
}

extension ReplayStore {
    /// Of stored events alone.
    package mutating func begin(_ plan: ReplayPlan, now: EventTime) throws(RollupStoreError) -> StoredReplay {
        try begin(plan, log: nil, now: now)
    }

    /// Over the days of the replay.
    package mutating func rows(
        of generation: Int64?, _ replay: StoredReplay, _ grain: Grain, _ body: (StoredRollup, SeriesKey) -> Void
    ) throws(RollupStoreError) {
        try rows(of: generation, from: replay.plan.begin, to: replay.plan.end, grain, body)
    }

    /// The generations that would answer again if this live replay were taken back, each with its days; one may come twice.
    package mutating func below(_ replay: StoredReplay) throws(RollupStoreError) -> [GenerationMap.Segment] {
        GenerationMap.below(replay.id, among: try live())
    }
}

extension StoredReplay {
    /// The compare-and-set of every step: as it stands now it is still the caller's, and in this state.
    package func check(
        state: State, epoch: Int64, is wanted: State
    ) throws(RollupStoreError) {
        guard state == wanted else { throw Self.refused(id, "it is \(state.rawValue)") }
        guard epoch == self.epoch else { throw Self.refused(id, "another command goes on with it") }
    }

    /// Whether the caller's swap stands already: only the holder of an epoch swaps, and a swap leaves it as it is.
    package func isSwapped(by caller: StoredReplay) -> Bool { state == .live && epoch == caller.epoch }

    /// Whether a step of the scan stands already: it was taken, and its answer lost. Throws where the scan is elsewhere.
    ///
    /// - `seen`: what the step follows from.
    package func hasTaken(_ step: ReplayStep, after seen: StoredReplay) throws(RollupStoreError) -> Bool {
        if step.cursor == nil && step.log == nil && !step.isScanned { return false }
        if cursor == seen.cursor && log == seen.log && isScanned == seen.isScanned && scanned == seen.scanned {
            return false
        }
        let isTaken =
            cursor == (step.cursor ?? seen.cursor) && log == (step.log ?? seen.log)
            && isScanned == (seen.isScanned || step.isScanned) && scanned == seen.scanned + step.events
        guard isTaken else { throw Self.refused(id, "its scan stands elsewhere") }
        return true
    }

    package static func refused(_ id: Int64, _ reason: String) -> RollupStoreError {
        RollupStoreError(
            code: .staleEpoch, tried: "go on with replay \(id)", reason: reason,
            next: "'millrace replay list' shows how it stands.")
    }

    package static func unknown(_ id: Int64) -> RollupStoreError {
        RollupStoreError(
            code: .configuration, tried: "find replay \(id)", reason: "there is none",
            next: "'millrace replay list' names those there are.")
    }

    /// Throws where days of the plan are past their retention and not read from the log, or their rollups are.
    package static func check(
        _ plan: ReplayPlan, _ log: LogReach?, _ bounds: ReplayBounds
    ) throws(RollupStoreError) {
        if let days = bounds.daysFrom, log != nil, days > plan.begin {
            throw RollupStoreError(
                code: .configuration, tried: "replay from \(RFC3339.precise(plan.begin))",
                reason: "rollups of days before \(RFC3339.precise(days)) are past their retention",
                next: "Begin at or after that instant; whole UTC days are built.")
        }
        if let kept = bounds.eventsFrom, kept > max(plan.begin, log?.until ?? plan.begin) {
            throw beyondRetention(plan, keptFrom: kept)
        }
    }

    /// Throws where events that the scan has still to come to are past their retention by now.
    package func checkScan(keptFrom: EventTime?) throws(RollupStoreError) {
        guard let keptFrom, keptFrom > eventsBegin, eventsBegin < plan.end,
            cursor.map({ $0.time > eventsBegin }) ?? true
        else { return }
        throw RollupStoreError(
            code: .configuration, tried: "go on with replay \(id)",
            reason: "events before \(RFC3339.precise(keptFrom)) went past their retention before they were scanned",
            next: "End it ('millrace replay cancel \(id)'), and start it again.")
    }

    package static func beyondRetention(_ plan: ReplayPlan, keptFrom: EventTime) -> RollupStoreError {
        RollupStoreError(
            code: .configuration, tried: "replay from \(RFC3339.precise(plan.begin))",
            reason: "events before \(RFC3339.precise(keptFrom)) are past their retention",
            next: "Begin at or after that instant; whole UTC days are built.")
    }

    package static func overlapping(_ other: StoredReplay) -> RollupStoreError {
        RollupStoreError(
            code: .configuration, tried: "start a replay",
            reason: "replay \(other.id) is unfinished and covers some of its days",
            next:
                "Go on with it ('millrace replay resume \(other.id)') or end it ('millrace replay cancel \(other.id)')."
        )
    }
}

extension RollupStoreError {
    /// What came out of a scan, whose type is not known.
    package static func reading(_ error: any Error) -> RollupStoreError {
        error as? RollupStoreError
            ?? RollupStoreError(code: .corrupt, tried: "read the store", reason: "\(error)", next: "Look at the store.")
    }
}
