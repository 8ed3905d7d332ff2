// A plan -> rollups rebuilt beside those that answer, and swapped in. The store keeps how far it has come: whoever is
// killed goes on at the last step, and comes to the same result.

package import Events
package import Normalizer
package import RecordLog
package import RollupStore
import Rollups

package struct ReplayOptions: Sendable {
    /// | limit | unit | value | why |
    /// | --- | --- | --- | --- |
    /// | `stepEvents` | events | 5,000 | a step holds a SQLite store's write lock for about a tenth of a second; under a rate, a tenth of a second's events |
    /// | `aloneSteps` | steps | 4 | so much is one step while ingest stands still: fewer rows are written twice |
    /// | `share` | of the time | 0.15 | the rest is ingest's: while it moves, steps are followed by pauses, so that it keeps four fifths of its rate |
    /// | `aloneShare` | of the time | 0.9 | an ingest that waits for the store's lock comes in between two steps |
    /// | `quiet` | time | 2 s | so long after ingest moved it still has its share |
    /// | `swapTries` | tries | 200 | each settles what came since the one before |
    ///
    /// What is taken over of other workspaces comes in steps of a day, whatever it holds.
    package var stepEvents = 5_000
    package var aloneSteps = 4
    package var share = 0.15
    package var aloneShare = 0.9
    package var quiet = Duration.seconds(2)
    package var swapTries = 200
    /// Events a second at the most; nil: as `share` allows.
    package var rate: Int?

    package init() {}

    func scanEvents(isAlone: Bool) -> Int {
        guard let rate else { return isAlone ? stepEvents * aloneSteps : stepEvents }
        return min(stepEvents, max(1, rate / 10))
    }
}

package struct Replayer {
    package enum Ending: Sendable, Equatable {
        case swapped(StoredReplay)
        /// A dry run: built, and not swapped in.
        case built(StoredReplay)
        /// Asked to stop; `resume` goes on.
        case stopped(StoredReplay)
    }

    private var store: any ReplayStore
    /// Of the first `run`.
    private var ahead: (any ReplayStore)?
    private let log: (any RecordLogHistory)?
    private let normalizer: Normalizer
    private let options: ReplayOptions
    private let now: () -> EventTime
    /// Waits that long; true: stop.
    private let wait: (Duration) -> Bool
    private let progress: (StoredReplay) -> Void
    /// What is being settled before its events go: a day of a generation below live replays.
    private var expiring: (day: GenerationMap.Segment, above: [Int64], refold: EventRefold)?
    /// Records of the log that could not be counted, as ingest could not.
    package private(set) var unreadable: Int64 = 0

    /// - `ahead`: a second connection, over which pages are read ahead while ingest stands still, and steps are written
    ///   over the first one meanwhile; `run` closes it.
    /// - `log`: for replays of days that the store has no events of any more.
    package init(
        _ store: any ReplayStore, ahead: (any ReplayStore)? = nil, log: (any RecordLogHistory)? = nil,
        normalizer: Normalizer,
        options: ReplayOptions = ReplayOptions(),
        now: @escaping () -> EventTime, wait: @escaping (Duration) -> Bool,
        progress: @escaping (StoredReplay) -> Void = { _ in }
    ) {
        self.store = store
        self.ahead = ahead
        self.log = log
        self.normalizer = normalizer
        self.options = options
        self.now = now
        self.wait = wait
        self.progress = progress
    }

    /// - `repriced`: what live replays have made of costs, the latest last.
    package mutating func run(
        _ begun: StoredReplay, reprice: Reprice?, repriced: [Repricing] = []
    ) throws(RollupStoreError) -> Ending {
        var replay = begun
        var second = ahead
        ahead = nil
        let pages = second.map {
            Pages("mr-scan", $0) { (store, asked) throws(RollupStoreError) in
                try store.scan(asked.replay, limit: asked.limit)
            }
        }
        let steps = second.map { _ in
            Steps("mr-step", store) { (store, asked) throws(RollupStoreError) in
                try store.add(asked.step, to: asked.replay.id, under: asked.replay)
            }
        }
        defer {
            pages?.close()
            steps?.close()
            second?.close()
        }
        var refold = try refold(replay, reprice, repriced)
        // What an earlier run has built.
        try know(replay.plan.days(of: replay.id), &refold)
        try recallEntities(of: nil, from: replay.plan.begin, to: replay.plan.end, &refold)
        var ingest: (at: Int64, since: ContinuousClock.Instant)?
        if try carry(&replay) { return .stopped(replay) }
        if let scan = replay.log, scan.current != nil, try readLog(scan, &replay, &refold, &ingest, steps) {
            return .stopped(replay)
        }
        var isAlone = true
        while !replay.isScanned {
            progress(replay)
            let began = ContinuousClock.now
            let page = try page(&replay, isAlone: isAlone, pages, steps)
            isAlone = isStill(page.ingested, at: began, &ingest)
            if isAlone, !page.isEnd {
                var next = replay
                next.cursor = page.cursor
                pages?.start((next, options.scanEvents(isAlone: true)))
            }
            for event in page.events { refold.add(event) }
            var step = refold.finish()
            step.cursor = page.cursor
            step.isScanned = page.isEnd
            try finish(steps, &replay)
            let pause = pause(after: began.duration(to: .now), events: page.events.count, isAlone: isAlone)
            if try write(step, &replay, isAlone && !page.isEnd ? steps : nil, pause) { return .stopped(replay) }
        }
        progress(replay)
        for _ in 0..<options.swapTries {
            let pending = try store.pending(replay.plan.days(of: replay.id), limit: options.stepEvents)
            // What came meanwhile was filed meanwhile.
            if !pending.isEmpty, refold.hasFiledEntities {
                try recallEntities(of: nil, from: replay.plan.begin, to: replay.plan.end, &refold)
            }
            let step = settle(pending, &refold)
            if pending.count == options.stepEvents || replay.plan.isDryRun {
                if !pending.isEmpty { replay = try store.add(step, to: replay.id, under: replay) }
                if pending.count < options.stepEvents { return .built(replay) }
            } else if let swapped = try store.swap(step, replay, now: now()) {
                progress(swapped)
                return .swapped(swapped)
            }
            if wait(.zero) { return .stopped(replay) }
        }
        throw RollupStoreError(
            code: .unavailable, tried: "swap in replay \(replay.id)",
            reason: "events of its days come faster than they are settled",
            next: "Run 'millrace replay resume \(replay.id)' at a quieter time, or end the range before now.")
    }

    /// Where the log is read for one workspace: rows of the others, as they answer, a day a step. True when it was stopped.
    private mutating func carry(_ replay: inout StoredReplay) throws(RollupStoreError) -> Bool {
        while let workspace = replay.plan.workspace, var scan = replay.log, let begin = scan.carried,
            begin < replay.eventsBegin
        {
            progress(replay)
            let began = ContinuousClock.now
            let end = Grain.day.start(of: Grain.day.bucket(of: begin) + 1)
            let days = GenerationMap.Segment(begin: begin, end: end, generation: replay.id)
            let carried = try Self.patiently(wait) { () throws(RollupStoreError) in
                try store.carried(days, without: workspace)
            }
            scan.carried = end
            let step = carried.step(scan)
            try add(step, &replay)
            if wait(pause(after: began.duration(to: .now), events: 0, isAlone: false)) { return true }
        }
        return false
    }

    private typealias Pages = Aside<(replay: StoredReplay, limit: Int), ReplayPage>
    private typealias Steps = Aside<(step: ReplayStep, replay: StoredReplay), StoredReplay>

    /// Here, then the pause; or (`steps`) while the next is counted, after the pause: an ingest that waits for the store's
    /// lock comes in between two steps either way. True when it was stopped.
    private mutating func write(
        _ step: ReplayStep, _ replay: inout StoredReplay, _ steps: Steps?, _ pause: Duration
    ) throws(RollupStoreError) -> Bool {
        if let steps, !wait(pause) {
            steps.start((step, replay))
            return false
        }
        try add(step, &replay)
        return steps != nil || wait(pause)
    }

    private mutating func add(_ step: ReplayStep, _ replay: inout StoredReplay) throws(RollupStoreError) {
        let under = replay
        replay = try Self.patiently(wait) { () throws(RollupStoreError) in
            try store.add(step, to: under.id, under: under)
        }
    }

    /// Waits for the step that is being written, where one is. One that a store away has not taken, or whose answer was
    /// lost, is asked for again.
    private mutating func finish(_ steps: Steps?, _ replay: inout StoredReplay) throws(RollupStoreError) {
        guard let (task, answer) = steps?.finish() else { return }
        switch answer {
        case .success(let stands): replay = stands
        case .failure(let error):
            guard error.isTransient else { throw error }
            try add(task.step, &replay)
        }
    }

    /// The part of the scan that the log is read for. True when it was stopped.
    private mutating func readLog(
        _ scan: LogScan, _ replay: inout StoredReplay, _ refold: inout EventRefold,
        _ ingest: inout (at: Int64, since: ContinuousClock.Instant)?, _ steps: Steps?
    ) throws(RollupStoreError) -> Bool {
        guard let log else {
            throw RollupStoreError(
                code: .configuration, tried: "go on with replay \(replay.id)", reason: "it reads the log",
                next: "Name the log as the consumer does.")
        }
        let wait = wait
        var passage = LogPassage(log, replay, scan) { wait(.zero) }
        guard try passage.recall() else { return true }
        var isAlone = true
        while passage.scan.current != nil {
            progress(replay)
            let began = ContinuousClock.now
            let limit = options.scanEvents(isAlone: isAlone)
            let count = try passage.read(limit: limit) { refold.add($0, $1) }
            var step = refold.finish()
            step.events = count
            step.log = passage.scan
            try finish(steps, &replay)
            if count == 0 { return true }
            let ingested = try Self.patiently(wait) { () throws(RollupStoreError) in try store.ingested() }
            isAlone = isStill(ingested, at: began, &ingest)
            let pause = pause(after: began.duration(to: .now), events: Int(count), isAlone: isAlone)
            if try write(step, &replay, isAlone ? steps : nil, pause) { return true }
        }
        try finish(steps, &replay)
        unreadable = passage.unreadable
        return false
    }

    /// The next page of the scan: read ahead, or now, after what is being written.
    private mutating func page(
        _ replay: inout StoredReplay, isAlone: Bool, _ pages: Pages?, _ steps: Steps?
    ) throws(RollupStoreError) -> ReplayPage {
        // Where it failed, whoever reads it again learns why.
        if let page = try? pages?.finish()?.answer.get() { return page }
        try finish(steps, &replay)
        let limit = options.scanEvents(isAlone: isAlone)
        let asked = replay
        return try Self.patiently(wait) { () throws(RollupStoreError) in try store.scan(asked, limit: limit) }
    }

    /// Whether ingest stands still by now.
    private func isStill(
        _ ingested: Int64, at time: ContinuousClock.Instant,
        _ ingest: inout (at: Int64, since: ContinuousClock.Instant)?
    ) -> Bool {
        // Where it stood at the first look says nothing of whether it moves.
        var seen = ingest ?? (ingested, time - options.quiet)
        if seen.at != ingested { seen = (ingested, time) }
        ingest = seen
        return seen.since.duration(to: time) >= options.quiet
    }

    /// What answered before a live replay answers again.
    package mutating func revert(_ replay: StoredReplay) throws(RollupStoreError) -> StoredReplay {
        var refold = try refold(replay, without: [replay.id])
        for _ in 0..<options.swapTries {
            for days in try store.below(replay) {
                // What is pending elsewhere is that of days which another replay goes on answering.
                var pending = try store.pending(days, limit: options.stepEvents)
                if !pending.isEmpty { try recall(days, &refold) }
                while !pending.isEmpty {
                    _ = try store.add(settle(pending, &refold), to: days.generation, under: replay)
                    pending = try store.pending(days, limit: options.stepEvents)
                }
            }
            if let done = try store.revert(replay) { return done }
        }
        throw RollupStoreError(
            code: .unavailable, tried: "take back replay \(replay.id)",
            reason: "events of its days come faster than they are settled", next: "Try again at a quieter time.")
    }

    /// Counts events of before `boundary` where they are pending below live replays, at most `limit` of one day, so that
    /// they can be deleted: a revert needs them no more. False where there were none.
    package mutating func settleExpiring(before boundary: EventTime, limit: Int) throws(RollupStoreError) -> Bool {
        for (days, above) in GenerationMap.covered(by: try store.live()) where days.begin < boundary {
            var day = days
            day.end = min(days.end, boundary)
            var pending = try store.pending(day, limit: limit)
            guard let first = pending.first?.stored.event.time, let lowest = above.first?.generation,
                let replay = try store.list().first(where: { $0.id == lowest })
            else { continue }
            let bucket = Grain.day.bucket(of: first)
            (day.begin, day.end) = (Grain.day.start(of: bucket), Grain.day.start(of: bucket + 1))
            pending.removeAll { $0.stored.event.time >= day.end }
            let ids = above.map(\.generation)
            if expiring?.day != day || expiring?.above != ids {
                var refold = try refold(replay, without: Set(ids))
                try recall(day, &refold)
                expiring = (day, ids, refold)
            }
            guard var refold = expiring?.refold else { return false }
            // Kept with what the step has filed, where that comes to stand.
            expiring = nil
            var step = settle(pending, &refold)
            // What is made of them goes with them, and the replay itself comes no further.
            step.revisions = []
            (step.events, step.changed) = (0, 0)
            _ = try store.add(step, to: day.generation, under: replay)
            expiring = (day, ids, refold)
            return true
        }
        return false
    }

    package mutating func close() { store.close() }

    /// For what is pending below a replay, as if these were not there.
    private mutating func refold(_ replay: StoredReplay, without ids: Set<Int64>) throws(RollupStoreError)
        -> EventRefold
    {
        // They came while it answered.
        let before = try store.timeline(without: [])
        let after = try store.timeline(without: ids)
        var plan = replay.plan
        plan.rules = nil
        plan.prices = nil
        return try EventRefold(plan, normalizer: normalizer, before: before, after: after, reprice: nil)
    }

    /// Deletes the rows of what was cancelled or taken back.
    package mutating func sweep() throws(RollupStoreError) {
        while try store.sweep(maxRows: 20_000) {
            if wait(.milliseconds(20)) { return }
        }
    }

    /// What days of a generation hold counts against the budgets.
    private mutating func know(
        _ days: GenerationMap.Segment, _ refold: inout EventRefold
    ) throws(RollupStoreError) {
        for grain in [Grain.hour, .entityHour] {
            try store.rows(of: days.generation, from: days.begin, to: days.end, grain) { refold.know($0, $1) }
        }
    }

    /// All that days of a generation say of how more of theirs is to be filed.
    private mutating func recall(
        _ days: GenerationMap.Segment, _ refold: inout EventRefold
    ) throws(RollupStoreError) {
        try know(days, &refold)
        try recallEntities(of: days.generation, from: days.begin, to: days.end, &refold)
    }

    /// How entities are filed in a generation, or (nil) in what answers: an event that comes out as before stays so.
    private mutating func recallEntities(
        of generation: Int64?, from begin: EventTime, to end: EventTime, _ refold: inout EventRefold
    ) throws(RollupStoreError) {
        refold.forgetEntities()
        try store.rows(of: generation, from: begin, to: end, .entityHour) { refold.recall($0, $1, named: false) }
        if !refold.hasFiledEntities { return }
        try store.rows(of: generation, from: begin, to: end, .entityHour) { refold.recall($0, $1, named: true) }
    }

    private mutating func refold(
        _ replay: StoredReplay, _ reprice: Reprice?, _ repriced: [Repricing]
    ) throws(RollupStoreError) -> EventRefold {
        let before = try store.timeline(without: [replay.id])
        var after = before
        let plan = replay.plan
        if let rules = plan.rules { after.overlay(rules, from: plan.from, to: plan.to, of: plan.workspace) }
        return try EventRefold(
            replay.plan, normalizer: normalizer, before: before, after: after, reprice: reprice, repriced: repriced)
    }

    private func settle(_ pending: [ReplayEvent], _ refold: inout EventRefold) -> ReplayStep {
        for event in pending { refold.add(event) }
        var step = refold.finish()
        step.settled = pending.map { EventPlace(time: $0.stored.event.time, id: $0.stored.event.id) }
        return step
    }

    /// A store that is locked or away is waited for.
    private static func patiently<Answer>(
        _ wait: (Duration) -> Bool, _ body: () throws(RollupStoreError) -> Answer
    ) throws(RollupStoreError) -> Answer {
        var tries = 0
        while true {
            do throws(RollupStoreError) {
                return try body()
            } catch {
                tries += 1
                guard error.isTransient, tries < 60, !wait(.seconds(1)) else { throw error }
            }
        }
    }

    private func pause(after work: Duration, events: Int, isAlone: Bool) -> Duration {
        let fair = work * (1 / (isAlone ? options.aloneShare : options.share) - 1)
        guard let rate = options.rate else { return fair }
        return max(fair, .seconds(Double(events) / Double(max(1, rate))) - work)
    }
}
