// The consumer: log -> fetch -> decode, normalize, fold -> apply -> store. Three threads, two bounded queues.
//
// The fetch thread alone touches the reader, the apply thread alone the writer. New partitions go down the line like
// records do, so that a partition is taken from the store only after everything before it is applied; where to go on
// comes back to the fetch thread by its mailbox. Memory is bounded by the two queues and the batch in each stage's
// hands: while the store is away, the queues fill and the log is not read; the reader only keeps its place in its group.
//
// Partitions that the group asks back go down the line too: what was read of them is sealed and applied, then they are
// released. Where that came too late, another consumer has them under a new epoch: our batch fails whole, it and all
// behind it are dropped, and every partition that is still ours is taken from the store anew, where the log plays it
// again from the store's offset.
//
// What ends it: `stop`, which applies what is held first; a store that another consumer has taken over where no group
// shares the partitions out, or that is corrupt or newer; a reader that has failed for good. A store that is away ends
// nothing.

import EventCodec
package import Events
import Glibc
package import Normalizer
package import RecordLog
package import RollupStore
import Rollups
import Synchronization
package import Telemetry
import Threading

package final class Consumer: Sendable {
    package struct Options: Sendable {
        /// `consumer.batch.max_events`
        package var maxEvents = 20_000
        package var maxBytes = 32 << 20
        /// `consumer.batch.max_wait_ms`
        package var maxWaitMilliseconds = 200
        package var lingerMilliseconds = 25
        /// What one fetch asks for.
        package var fetchRecords = 4_096
        package var fetchBytes = 4 << 20
        /// How long `stop` waits for a store that is away before it leaves what is held to the log.
        package var stopMilliseconds = 10_000
        package var now: @Sendable () -> EventTime = Consumer.systemTime
        /// Must have the records where they are safe when it returns; it is tried again when it throws, and a record
        /// may then come twice. nil: the dead letters are in the store alone.
        package var publishDeadLetters: (@Sendable ([DeadLetter]) throws -> Void)?
        /// nil: nothing is deleted.
        package var retention: RetentionDays?
        /// Counts some events of before that time where a replay has still to, so that they can be deleted; false where
        /// there were none. On the writer's thread, between batches.
        package var settleExpiring: (@Sendable (EventTime) throws -> Bool)?

        package init() {}
    }

    private enum Fetched: Sendable {
        case discovered([TopicPartition])
        case started([PartitionPosition], RulesTimeline)
        /// `isLast`: the log had no more at the time.
        case chunk(RecordChunk, isLast: Bool)
        case gap(TopicPartition, from: Offset, to: Offset)
        case truncated(TopicPartition)
        case revoked([TopicPartition])
        /// What was handed down before and is not applied must be forgotten.
        case restarted
        /// The store is idle: look again whether to seal.
        case idle
    }

    private enum Work: Sendable {
        case acquire([TopicPartition])
        /// `since`: when its first record came.
        case apply(SealedBatch, since: ContinuousClock.Instant, sealed: ContinuousClock.Instant)
        case release([TopicPartition])
        /// Keys get other classes. The fold waits for the timeline, so that nothing is made under an older one.
        case observe(ClassObserver.Verdict)
        /// Other rules are configured from now on; the fold waits here too.
        case adopt(Rules)
        case restart
    }

    /// What the apply thread has for the fetch thread, which alone may talk to the reader.
    private struct Mailbox {
        var taken: [PartitionPosition] = []
        /// As it was when partitions were last taken.
        var timeline = RulesTimeline()
        var applied: [TopicPartition: Offset] = [:]
        var released: [TopicPartition] = []
        /// The store refused a batch as a stale one's.
        var isStale = false
    }

    private struct Status {
        var failure: String?
        var storeProblem: String?
        var logProblem: String?
        var truncated: [String: String] = [:]
        /// What the store said to the last batch that it refused as stale.
        var stale: RollupStoreError?
        var stopBy: ContinuousClock.Instant?
        var heldBack = false
    }

    /// A value that one thread made and one other thread owns from then on.
    private struct Handed<Value>: @unchecked Sendable { let value: Value }

    private let options: Options
    private let configuredRules: Rules
    private let log: Log
    private let metrics: ConsumerMetrics
    private let fetched = BoundedQueue<Fetched>(capacity: 4)
    private let work = BoundedQueue<Work>(capacity: 2)
    /// From the apply thread to the fold: at the next batch, and the answer to it; nil: all stays as it is.
    private let verdicts = BoundedQueue<ClassObserver.Verdict>(capacity: 1)
    private let decided = BoundedQueue<RulesTimeline?>(capacity: 1)
    /// Rules as read anew, for the fold's next batch.
    private let fresh = Mutex<Normalizer?>(nil)
    private let unfinished = Atomic<Int>(0)
    private let mailbox = Mutex(Mailbox())
    private let status = Mutex(Status())
    private let stopping = StopSignal()
    private let drained = StopSignal()
    private let parts: Mutex<Handed<(any RecordLogReader, any RollupWriter, Normalizer)>?>
    private let threads = Mutex<[ServiceThread]>([])
    private let alive = Atomic<Int>(0)

    /// The consumer owns reader and writer from here on, and closes them when it ends.
    package init(
        reader: sending any RecordLogReader, writer: sending any RollupWriter, normalizer: Normalizer,
        options: Options, log: Log, metrics: ConsumerMetrics
    ) {
        self.options = options
        self.log = log
        self.metrics = metrics
        configuredRules = normalizer.rules
        parts = Mutex(Handed(value: (reader, writer, normalizer)))
    }

    /// Starts the three threads; once.
    package func start() {
        guard
            let parts = parts.withLock({ taken in
                defer { taken = nil }
                return taken
            })
        else { return }
        alive.store(3, ordering: .releasing)
        threads.withLock {
            $0 = [
                ServiceThread("mr-fetch") { [self] in
                    fetch(from: parts.value.0)
                    alive.subtract(1, ordering: .acquiringAndReleasing)
                },
                ServiceThread("mr-fold") { [self] in
                    fold(BatchBuilder(normalizer: parts.value.2))
                    alive.subtract(1, ordering: .acquiringAndReleasing)
                },
                ServiceThread("mr-apply") { [self] in
                    apply(to: parts.value.1)
                    alive.subtract(1, ordering: .acquiringAndReleasing)
                },
            ]
        }
    }

    /// Applies what is held, then ends the threads. Takes at most `stopMilliseconds` and the time of one apply and
    /// one fetch; what is not applied by then the log plays again.
    package func stop() {
        let stopBy = ContinuousClock.now.advanced(by: .milliseconds(options.stopMilliseconds))
        status.withLock { $0.stopBy = $0.stopBy ?? stopBy }
        stopping.stop()
        let threads = threads.withLock { threads in
            defer { threads = [] }
            return threads
        }
        if threads.isEmpty { return }
        for thread in threads { thread.join() }
        log(.consumerStopped(heldBack: status.withLock { $0.heldBack }))
    }

    /// Other rules are configured from the next batch on; they take over as they would at a start. Any thread.
    package func use(_ normalizer: Normalizer) {
        fresh.withLock { $0 = normalizer }
        // A full queue holds something to look at already.
        _ = fetched.tryPush(.idle)
    }

    package var isRunning: Bool { alive.load(ordering: .acquiring) == 3 && failure == nil }

    /// Why the consumer has ended by itself.
    package var failure: String? { status.withLock { $0.failure } }

    /// What keeps records from the store right now; nil when nothing does.
    package var degraded: String? {
        status.withLock { status in
            let problems = [status.failure, status.storeProblem, status.logProblem].compactMap { $0 }
            let all = problems + status.truncated.values.sorted()
            return all.isEmpty ? nil : all.joined(separator: " ")
        }
    }

    package static func systemTime() -> EventTime { EventTime(microseconds: WallClock.microseconds()) }

    private func fail(_ reason: String) {
        let isFirst = status.withLock { status in
            defer { status.failure = status.failure ?? reason }
            return status.failure == nil
        }
        if isFirst { log(.consumerFailed(reason: reason)) }
        metrics.degraded.set(1)
        fetched.close()
        work.close()
        decided.close()
    }

    // MARK: Fetch

    private func fetch(from given: any RecordLogReader) {
        var reader = given
        var isWaitingForStart = false
        var clock = LagClock()
        var backoff = Backoff()
        do {
            while !stopping.isStopped && failure == nil {
                if mailbox.withLock({ $0.isStale }) {
                    guard try restart(&reader, &backoff) else { break }
                }
                if try open(&reader, &clock, &backoff) { isWaitingForStart = false }
                let event = try reader.poll(
                    maxRecords: options.fetchRecords, maxBytes: options.fetchBytes,
                    timeoutMilliseconds: isWaitingForStart ? 10 : 100)
                if case .discovered = event { isWaitingForStart = true }
                if case .records(let chunk) = event {
                    clock.handed(chunk)
                    failPoint("fetched")
                }
                if let message = taken(event), !(try deliver(message, &reader, &clock, &backoff)) { break }
                // Where nothing comes, too: what was applied meanwhile is behind us no more.
                show(reader.lag, clock)
            }
        } catch {
            fail(error.description)
        }
        fetched.close()
        // The last batches are still on their way: the log hears of them too.
        drained.wait()
        tell(&reader, &clock, &backoff)
        reader.close()
    }

    /// Reads the mailbox: true when partitions were started.
    private func open(
        _ reader: inout any RecordLogReader, _ clock: inout LagClock, _ backoff: inout Backoff
    ) throws(RecordLogError) -> Bool {
        tell(&reader, &clock, &backoff)
        let (taken, timeline) = mailbox.withLock { mailbox in
            defer { mailbox.taken = [] }
            return (mailbox.taken, mailbox.timeline)
        }
        if taken.isEmpty { return false }
        // Down the line first: the fold must know the partitions before their records come.
        guard try deliver(.started(taken, timeline), &reader, &clock, &backoff) else { return false }
        try reader.start(taken.map { ($0.partition, $0.next) })
        for position in taken { clock.started(position.partition, at: position.next) }
        log(.consumerStarted(partitions: taken.map { ("\($0.partition)", $0.next.value) }))
        return true
    }

    private func tell(_ reader: inout any RecordLogReader, _ clock: inout LagClock, _ backoff: inout Backoff) {
        let (applied, released) = mailbox.withLock { mailbox in
            defer {
                mailbox.applied = [:]
                mailbox.released = []
            }
            return (mailbox.applied, mailbox.released)
        }
        if !applied.isEmpty {
            backoff.succeeded()
            failPoint("telling")
        }
        for (partition, next) in applied {
            reader.applied(partition, next: next)
            clock.applied(partition, next: next)
        }
        if !released.isEmpty { reader.release(released) }
    }

    /// Hands the message down the line, and keeps the reader in its group for as long as the line is full. False when
    /// the consumer is ending.
    private func deliver(
        _ message: Fetched, _ reader: inout any RecordLogReader, _ clock: inout LagClock, _ backoff: inout Backoff
    ) throws(RecordLogError) -> Bool {
        var waiting = [message]
        while let next = waiting.first {
            switch fetched.push(next, timeoutMilliseconds: Self.fullMilliseconds) {
            case .taken: waiting.removeFirst()
            case .closed: return false
            case .full:
                tell(&reader, &clock, &backoff)
                if let event = try reader.standBy(), let message = taken(event) { waiting.append(message) }
                show(reader.lag, clock)
            }
        }
        return true
    }

    /// The store said that others have taken partitions over, or that other rules hold. False when the consumer is
    /// ending.
    private func restart(_ reader: inout any RecordLogReader, _ backoff: inout Backoff) throws(RecordLogError) -> Bool {
        var random = SystemRandomNumberGenerator()
        let until = ContinuousClock.now.advanced(by: .milliseconds(backoff.failed(random: random.next())))
        // What the group says meanwhile decides what is still ours.
        repeat {
            while try reader.standBy() != nil {}
        } while ContinuousClock.now < until && !stopping.wait(milliseconds: 20)
        let stale = mailbox.withLock { mailbox in
            // Positions that came before were taken under epochs that may be gone.
            defer { mailbox = Mailbox() }
            return status.withLock { $0.stale }
        }
        guard reader.isShared || stale?.code == .staleRules else {
            fail(stale?.description ?? "another consumer has taken the partitions over")
            return false
        }
        reader.restart()
        metrics.restarts.add()
        status.withLock { $0.truncated = [:] }
        return fetched.push(.restarted)
    }

    private func show(_ lag: [(partition: TopicPartition, records: Int64)], _ clock: LagClock) {
        let now = options.now()
        metrics.lag.set(lag.map { ($0.partition.topic, $0.partition.partition, $0.records) })
        metrics.lagSeconds.set(
            lag.map { partition, records in
                (partition.topic, partition.partition, records == 0 ? 0 : clock.seconds(partition, at: now))
            })
    }

    /// What goes down the line for it; nil for nothing.
    private func taken(_ event: LogEvent) -> Fetched? {
        var problem: String?
        defer { status.withLock { $0.logProblem = problem } }
        switch event {
        case .discovered(let partitions):
            return .discovered(partitions)
        case .records(let chunk):
            metrics.records.add(chunk.records.count)
            return .chunk(chunk, isLast: chunk.records.count < options.fetchRecords / 2)
        case .gap(let partition, let from, let to):
            return .gap(partition, from: from, to: to)
        case .revoked(let partitions):
            status.withLock { for partition in partitions { $0.truncated["\(partition)"] = nil } }
            return .revoked(partitions)
        case .truncated(let partition, let expected, let end):
            let name = "\(partition)"
            log(.consumerPartitionTruncated(partition: name, expected: expected.value, end: end.value))
            status.withLock {
                $0.truncated[name] = "\(name) ends at \(end.value), before the store's offset \(expected.value)."
            }
            return .truncated(partition)
        case .idle(let degraded):
            problem = degraded
            return nil
        }
    }

    // MARK: Fold

    private func fold(_ given: BatchBuilder) {
        var builder = given
        var sealer = BatchSealer(
            BatchSealer.Limits(
                events: options.maxEvents, bytes: options.maxBytes, maxWait: .milliseconds(options.maxWaitMilliseconds),
                linger: .milliseconds(options.lingerMilliseconds)))
        var isLast = true
        while true {
            if let verdict = verdicts.pop(timeoutMilliseconds: 0) {
                guard settle(verdict, &builder, &sealer) else { return work.close() }
            }
            if let normalizer = takeFresh() {
                guard adopt(normalizer, &builder, &sealer) else { return work.close() }
            }
            let isIdle = unfinished.load(ordering: .acquiring) == 0
            var wait: Int?
            switch sealer.decide(
                at: .now, isIdle: isIdle, isCaughtUp: isLast && fetched.count == 0)
            {
            case .seal:
                guard seal(&builder, &sealer) else { return work.close() }
                continue
            case .wait(let left):
                wait = left.map { Int($0 / .milliseconds(1)) + 1 }
            }
            guard let message = fetched.pop(timeoutMilliseconds: wait) else {
                if fetched.isFinished { break }
                continue
            }
            var goesOn = true
            switch message {
            case .idle: break
            case .discovered(let partitions):
                goesOn = seal(&builder, &sealer) && push(.acquire(partitions))
            case .started(let positions, let timeline):
                goesOn = use(timeline, &builder, &sealer)
                builder.started(positions)
            case .chunk(let chunk, let last):
                isLast = last
                goesOn = fold(chunk, &builder, &sealer)
            case .gap(let partition, let from, let to):
                let lost = builder.lost(partition, from: from, to: to)
                if lost > 0 {
                    metrics.lost.add(Int(lost))
                    log(.consumerOffsetsLost(partition: "\(partition)", from: from.value, to: to.value))
                    sealer.added(events: 0, bytes: 0, at: .now)
                }
            case .truncated(let partition):
                builder.stopped(partition)
            case .revoked(let partitions):
                goesOn = seal(&builder, &sealer) && push(.release(partitions))
                for partition in partitions { builder.stopped(partition) }
            case .restarted:
                builder.abandon()
                sealer.sealed()
                goesOn = push(.restart)
            }
            if !goesOn { return work.close() }
        }
        if failure == nil { _ = seal(&builder, &sealer) }
        work.close()
    }

    /// What was made under another timeline goes first; the store refuses it. False when the consumer is ending.
    private func use(_ timeline: RulesTimeline, _ builder: inout BatchBuilder, _ sealer: inout BatchSealer) -> Bool {
        if timeline.version <= builder.rulesVersion { return true }
        guard seal(&builder, &sealer) else { return false }
        do throws(RollupStoreError) {
            try builder.use(timeline)
        } catch {
            fail(error.description)
            return false
        }
        metrics.rules.set(timeline.entries.map { ($0.rules.fingerprint, $0.from.microseconds) })
        if let last = timeline.entries.last {
            log(.consumerRules(fingerprint: last.rules.fingerprint, from: last.from.microseconds))
        }
        return true
    }

    private func takeFresh() -> Normalizer? {
        fresh.withLock { fresh in
            defer { fresh = nil }
            return fresh
        }
    }

    /// Everything made so far goes first, then the new rules, then all the rest under them. False when the consumer is
    /// ending.
    private func adopt(
        _ normalizer: Normalizer, _ builder: inout BatchBuilder, _ sealer: inout BatchSealer
    ) -> Bool {
        guard seal(&builder, &sealer), push(.adopt(normalizer.rules)), let answer = decided.pop() else { return false }
        builder.reconfigure(normalizer)
        // None: the partitions are about to be taken anew, and the timeline with them.
        guard let timeline = answer else { return true }
        return use(timeline, &builder, &sealer)
    }

    /// Everything made so far goes first, then the new classes, then all the rest under them. False when the consumer is
    /// ending.
    private func settle(
        _ verdict: ClassObserver.Verdict, _ builder: inout BatchBuilder, _ sealer: inout BatchSealer
    ) -> Bool {
        guard seal(&builder, &sealer), push(.observe(verdict)), let answer = decided.pop() else { return false }
        guard let timeline = answer else { return true }
        return use(timeline, &builder, &sealer)
    }

    /// False when the consumer is ending.
    private func fold(_ chunk: RecordChunk, _ builder: inout BatchBuilder, _ sealer: inout BatchSealer) -> Bool {
        let began = ContinuousClock.now
        defer { metrics.foldTime.record(microseconds: Self.microseconds(since: began)) }
        var position = 0
        while position < chunk.records.count {
            let taken = builder.add(
                chunk, from: position, now: options.now(), maxEvents: options.maxEvents, maxBytes: options.maxBytes)
            position = taken.end
            metrics.redelivered.add(taken.redelivered)
            metrics.skipped.add(Int(taken.skipped))
            metrics.manifests.add(taken.manifests)
            metrics.metadataRecalled.add(taken.recalled)
            metrics.metadataNormalized.add(taken.normalized)
            for (age, count) in zip(LateAge.allCases, taken.late) where count > 0 {
                metrics.countLate(age.label, count)
            }
            if !builder.isEmpty { sealer.added(events: taken.events, bytes: taken.bytes, at: began) }
            if sealer.isFull {
                guard seal(&builder, &sealer) else { return false }
            }
        }
        return true
    }

    /// False when the consumer is ending.
    private func seal(_ builder: inout BatchBuilder, _ sealer: inout BatchSealer) -> Bool {
        let since = sealer.since ?? .now
        sealer.sealed()
        guard let batch = builder.seal() else { return true }
        report(batch.deadLetters)
        failPoint("sealed")
        return push(.apply(batch, since: since, sealed: .now))
    }

    private func push(_ next: Work) -> Bool {
        unfinished.add(1, ordering: .acquiringAndReleasing)
        return work.push(next)
    }

    /// A line each for the first few: a flood of poison must not become a flood of lines.
    private func report(_ letters: [DeadLetter]) {
        for letter in letters { metrics.countDeadLetter(letter.code.rawValue) }
        for letter in letters.prefix(10) {
            log(
                .consumerDeadLetter(
                    partition: "\(letter.source)", offset: letter.offset.value, code: letter.code.rawValue,
                    reason: letter.reason))
        }
        if letters.count > 10 { log(.consumerDeadLettersUntold(count: Int64(letters.count - 10))) }
    }

    // MARK: Apply

    private func apply(to given: any RollupWriter) {
        var writer = given
        // From a batch that was refused as stale to the restart behind it: nothing in between may be applied.
        var isStale = false
        // The configured rules take over once; later a newer consumer's may have.
        var adopts = true
        var configured = configuredRules
        var observer = ClassObserver()
        var admission = SetAdmission()
        var schedule = RetentionSchedule(at: .now)
        while true {
            var left: Int?
            if let days = options.retention {
                expire(days, &schedule, &writer)
                left = Int(max(.zero, schedule.left(at: .now)) / .milliseconds(1)) + 1
            }
            guard let next = work.pop(timeoutMilliseconds: left) else {
                if work.isFinished { break }
                continue
            }
            do {
                switch next {
                case .restart: isStale = false
                case .release(let partitions): mailbox.withLock { $0.released += partitions }
                case .acquire where isStale, .apply where isStale: break
                case .observe where isStale: _ = decided.push(nil)
                case .adopt(let rules) where isStale:
                    (configured, adopts) = (rules, true)
                    _ = decided.push(nil)
                case .acquire(let partitions):
                    let taken = try persist { () throws -> ([PartitionPosition], RulesTimeline) in
                        var timeline = try writer.rules(nil)
                        if adopts {
                            let new = try RulesText.succeeding(timeline, configured)
                            timeline = try writer.rules(adopting: new, now: options.now())
                        }
                        return (try writer.acquire(partitions), timeline)
                    }
                    if let taken {
                        adopts = false
                        try observer.use(taken.1)
                        try admission.use(taken.1)
                        // Others may have had the partitions.
                        admission.forget()
                        mailbox.withLock {
                            $0.taken += taken.0
                            $0.timeline = taken.1
                        }
                    }
                case .apply(let batch, let since, let sealed):
                    metrics.waitTime.record(microseconds: Self.microseconds(since: sealed))
                    try apply(batch, since, &admission, &writer)
                    try observe(batch, &observer, &writer)
                case .adopt(let rules):
                    configured = rules
                    let timeline = try persist { () throws -> RulesTimeline in
                        let new = try RulesText.succeeding(try writer.rules(nil), rules)
                        return try writer.rules(adopting: new, now: options.now())
                    }
                    if let timeline {
                        try observer.use(timeline)
                        try admission.use(timeline)
                    }
                    _ = decided.push(timeline)
                case .observe(let verdict):
                    let timeline = try persist { () throws -> RulesTimeline in try writer.rules(verdict.change) }
                    if let timeline {
                        try observer.use(timeline)
                        try admission.use(timeline)
                        report(verdict, timeline)
                    }
                    _ = decided.push(timeline)
                }
            } catch let error as RollupStoreError where error.code == .staleEpoch || error.code == .staleRules {
                isStale = true
                admission.forget()
                if error.code == .staleEpoch {
                    metrics.staleBatches.add()
                    log(.consumerStaleEpoch(reason: error.description))
                }
                status.withLock { $0.stale = error }
                mailbox.withLock {
                    $0.taken = []
                    $0.isStale = true
                }
            } catch {
                fail("\(error)")
            }
            if unfinished.subtract(1, ordering: .acquiringAndReleasing).newValue == 0 {
                // A full queue holds something to look at already.
                _ = fetched.tryPush(.idle)
            }
            if failure != nil || status.withLock({ $0.heldBack }) { break }
        }
        if isStale { status.withLock { $0.heldBack = true } }
        fetched.close()
        work.close()
        decided.close()
        drained.stop()
        writer.close()
    }

    /// Looks at what keys do to the rollups, where that is due. A store that cannot say now is asked again later.
    private func observe(
        _ batch: SealedBatch, _ observer: inout ClassObserver, _ writer: inout any RollupWriter
    ) throws {
        observer.applied(batch)
        guard observer.isDue(at: .now) else { return }
        let began = ContinuousClock.now
        defer { metrics.observeTime.record(microseconds: Self.microseconds(since: began)) }
        do {
            let wasFull = observer.isFull
            let verdict = try observer.look(at: { .now }) { try writer.hour($0, of: .hour, maxRows: $1) }
            if observer.isFull, !wasFull { log(.consumerClassesFull(keys: ClassObserver.maxKeys)) }
            if let verdict { _ = verdicts.tryPush(verdict) }
        } catch let error as RollupStoreError where error.isTransient {
            log(.consumerObservationFailed(reason: error.description))
        }
    }

    /// Once, by the consumer whose verdict it was.
    private func report(_ verdict: ClassObserver.Verdict, _ timeline: RulesTimeline) {
        guard timeline.version != verdict.version, let last = timeline.entries.last,
            last.rules.fingerprint == verdict.rules.fingerprint
        else { return }
        for (key, found) in verdict.classes.sorted(by: { $0.key.lexicographicallyPrecedes($1.key) }) {
            metrics.classesObserved.add()
            log(
                .consumerClassObserved(
                    key: String(decoding: key, as: UTF8.self), keyClass: found.keyClass.name, reason: found.reason,
                    from: last.from.microseconds))
        }
    }

    /// A step of deleting, where one is due. A store that cannot do it now is asked again later: batches go first.
    private func expire(_ days: RetentionDays, _ schedule: inout RetentionSchedule, _ writer: inout any RollupWriter) {
        let began = ContinuousClock.now
        guard schedule.left(at: began) <= .zero, !stopping.isStopped else { return }
        let boundaries = RetentionBoundaries(days, now: options.now())
        if schedule.isSettling { schedule.isSettling = settleExpiring(before: boundaries.events) }
        do {
            let isMoreLeft = try writer.expire(boundaries, maxRows: RetentionSchedule.stepRows)
            metrics.expireTime.record(microseconds: Self.microseconds(since: began))
            schedule.stepped(isMoreLeft: isMoreLeft || schedule.isSettling, began: began, at: .now)
        } catch {
            log(.consumerRetentionFailed(reason: error.description))
            schedule.failed(at: .now)
        }
    }

    /// What could not be settled stays until the next pass, and everything else that is old goes.
    private func settleExpiring(before boundary: EventTime) -> Bool {
        do { return try options.settleExpiring?(boundary) ?? false } catch {
            log(.consumerRetentionFailed(reason: "\(error)"))
            return false
        }
    }

    private func apply(
        _ folded: SealedBatch, _ since: ContinuousClock.Instant, _ admission: inout SetAdmission,
        _ writer: inout any RollupWriter
    ) throws {
        guard let batch = try admit(folded, &admission, &writer) else { return }
        if let publish = options.publishDeadLetters, !batch.deadLetters.isEmpty {
            let began = ContinuousClock.now
            let published: Bool? = try persist {
                do {
                    try publish(batch.deadLetters)
                } catch {
                    throw RollupStoreError(
                        code: .unavailable, tried: "publish dead letters", reason: "\(error)",
                        next: "They are tried again before the offset moves.")
                }
                return true
            }
            if published == nil { return }
            metrics.publishTime.record(microseconds: Self.microseconds(since: began))
            failPoint("dead_letters_published")
        }
        let began = ContinuousClock.now
        guard let result = try persist({ () throws -> ApplyResult in try writer.apply(batch) }) else { return }
        failPoint("applied")
        metrics.applyTime.record(microseconds: Self.microseconds(since: began))
        metrics.batchAge.record(microseconds: Self.microseconds(since: since))
        metrics.batches.add()
        metrics.batchEvents.add(batch.events.count)
        metrics.batchBytes.add(batch.bytes.count)
        metrics.applied.add(Int(result.applied))
        metrics.duplicates.add(Int(result.duplicates))
        if let latest = batch.events.lazy.map(\.fields.time.microseconds).max(), latest > metrics.latest.value {
            metrics.latest.set(latest)
        }
        mailbox.withLock { mailbox in
            for range in batch.ranges { mailbox.applied[range.partition] = range.next }
        }
    }

    /// The batch as the workspaces' budgets allow it; nil when the consumer is ending.
    private func admit(
        _ batch: SealedBatch, _ admission: inout SetAdmission, _ writer: inout any RollupWriter
    ) throws -> SealedBatch? {
        let began = ContinuousClock.now
        let admitted = try persist { () throws -> (batch: SealedBatch, filed: SetAdmission.Filed) in
            try admission.admit(batch) { try writer.hourOfBudgets($0, maxRows: $1) }
        }
        metrics.admitTime.record(microseconds: Self.microseconds(since: began))
        guard let (batch, filed) = admitted else { return nil }
        for (spent, events) in filed.events { metrics.countFiled(spent.rawValue, events) }
        for news in filed.news.prefix(10) {
            log(
                .consumerBudgetSpent(
                    workspace: news.workspace, budget: news.spent.rawValue,
                    hour: Grain.hour.start(of: news.hour).microseconds))
        }
        return batch
    }

    /// Tries until it is done; nil when the consumer is ending and the store is still away.
    private func persist<Result>(_ body: () throws -> Result) throws -> Result? {
        var backoff = Backoff()
        var random = SystemRandomNumberGenerator()
        var since: ContinuousClock.Instant?
        defer {
            if let since {
                let waited = Self.microseconds(since: since)
                metrics.degradedMicroseconds.add(Int(waited))
                metrics.degraded.set(failure == nil ? 0 : 1)
                status.withLock { $0.storeProblem = nil }
            }
        }
        while true {
            do {
                let result = try body()
                if let since {
                    let waited = Int64(Self.microseconds(since: since) / 1_000)
                    log(.consumerStoreAvailable(waitedMilliseconds: waited))
                }
                return result
            } catch let error as RollupStoreError where error.isTransient {
                metrics.retries.add()
                metrics.degraded.set(1)
                if since == nil {
                    since = .now
                    log(.consumerStoreUnavailable(reason: error.description))
                }
                let stopBy = status.withLock { status in
                    status.storeProblem = error.description
                    return status.stopBy
                }
                let wait = backoff.failed(random: random.next())
                if !stopping.wait(milliseconds: wait) { continue }
                // Ending: go on trying, but no longer than allowed.
                if let stopBy, ContinuousClock.now >= stopBy {
                    status.withLock { $0.heldBack = true }
                    return nil
                }
                usleep(10_000)
            }
        }
    }

    /// How long the line may be full before the reader looks after its group.
    private static let fullMilliseconds = 200

    private static func microseconds(since start: ContinuousClock.Instant) -> UInt64 {
        UInt64(max(0, start.duration(to: .now) / .microseconds(1)))
    }
}
