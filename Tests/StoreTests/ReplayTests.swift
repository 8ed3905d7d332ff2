// The past rebuilt beside live ingest: what a replay comes to, whatever happens meanwhile, is what an ingest from the
// start under its rules would have come to.

import EventCodec
import Events
import Glibc
import Ingest
import JSONText
import Normalizer
import RecordLog
import Replay
import RollupStore
import RollupStoreClickHouse
import Rollups
import Synchronization
import Testing
import Threading

private let partition = TopicPartition(topic: "events", partition: 0)
private let begin: Int64 = 1_760_054_400_000_000
private let hour: Int64 = 3_600_000_000

private func at(_ microseconds: Int64) -> EventTime { EventTime(microseconds: microseconds) }

private let texts = [
    #"{"version":1,"classes":{"user_id":"entity"}}"#,
    #"{"version":1,"keys":{"aliases":{"env":"environment"}},"values":{"maps":{"environment":{"prod":"production"}}}}"#,
]

private func rules(_ number: Int) throws -> Rules { try Rules.decode(try JSONValue.parse(texts[number])) }

extension StoreKind {
    /// As many events; fewer where each step is some ten requests.
    fileprivate func few(_ count: Int) -> Int { self == .clickhouse ? count / 8 : count }

    /// So many of them in a batch of ingest or a step of a replay: half as many batches and steps there.
    fileprivate func some(_ count: Int) -> Int { self == .clickhouse ? count / 4 : count }
}

/// Events over three days, some in odd metadata, and some that come twice.
private func sampleEvents(_ count: Int, _ random: inout Random) -> [RequestEvent] {
    var events: [RequestEvent] = []
    for _ in 0..<count {
        if let copy = events.randomElement(using: &random), random.next() % 20 == 0 {
            events.append(copy)
            continue
        }
        var event = Sample.random(&random).event
        event.time = at(begin + Int64(random.next() % UInt64(72 * hour)))
        event.id = EventID(time: event.time, random: (random.next(), random.next()))
        let env = ["prod", "PROD", "Test"].randomElement(using: &random) ?? ""
        event.metadataRaw = Array(
            #"{"env":"\#(env)","team":"t\#(random.next() % 3)","userId":\#(random.next() % 9)}"#.utf8)
        event.metadataConflicts = UInt32(random.next() % 2)
        if random.next() % 25 == 0 {
            event.metadataRaw = []
            event.metadataStatus = .malformed
            event.metadataRejected = [0x7B]
        }
        events.append(event)
    }
    return events
}

/// A store, and ingest into it that stands at some event of a list.
private final class Ingesting {
    let store: any StoreUnderTest
    var writer: any RollupWriter
    let log: [RequestEvent]
    private(set) var next = 0
    private var builder: BatchBuilder
    private(set) var chunk = RecordChunk(partitions: [partition])
    private let now = at(begin + 80 * hour)

    init(_ store: any StoreUnderTest, _ log: [RequestEvent], rules number: Int = 0) throws {
        self.store = store
        self.log = log
        writer = try store.writer()
        builder = BatchBuilder(normalizer: Normalizer(rules: try rules(number), hash: nil))
        for (offset, event) in log.enumerated() {
            var value: [UInt8] = []
            EventEncoder.encode(event, into: &value)
            chunk.records.append(
                RecordSlot(
                    partition: 0, offset: Offset(Int64(offset)), kind: .event, keyStart: Int32(chunk.bytes.count),
                    keyCount: 16, valueStart: Int32(chunk.bytes.count + 16), valueCount: Int32(value.count)))
            chunk.bytes += event.id.bytes
            chunk.bytes += value
        }
        // The first rules hold for all time; later ones take over behind everything there is.
        _ = try writer.rules(adopting: RulesText(try rules(number)), now: now)
        try start()
    }

    private func start() throws {
        try builder.use(try writer.rules(adopting: nil, now: now))
        builder.started(try writer.acquire([partition]))
    }

    /// One batch of up to so many events; a timeline that has changed is met as the consumer meets it.
    func apply(_ count: Int) throws {
        guard next < log.count, count > 0 else { return }
        let taken = builder.add(chunk, from: next, now: now, maxEvents: count, maxBytes: 1 << 24)
        guard let batch = builder.seal() else { return }
        do {
            _ = try writer.apply(batch)
            next = taken.end
        } catch  where error.code == .staleRules {
            try start()
            try apply(count)
        }
    }

    func close() { writer.close() }
}

/// The log of an ingest, from some offset on.
private final class MemoryLog: RecordLogHistory {
    let chunk: RecordChunk
    var first: Int64 = 0
    var time: EventTime?

    init(_ ingest: Ingesting) { chunk = ingest.chunk }

    func beginnings() throws(RecordLogError) -> [LogBeginning] {
        [LogBeginning(partition: partition, first: Offset(first), time: time)]
    }

    func reader() throws(RecordLogError) -> any RecordLogReader { Reader(log: self) }

    struct Reader: RecordLogReader {
        let log: MemoryLog
        var next: Int64?
        var isTold = false

        mutating func poll(
            maxRecords: Int, maxBytes: Int, timeoutMilliseconds: Int32
        ) throws(RecordLogError) -> LogEvent {
            guard let next else {
                defer { isTold = true }
                return isTold ? .idle(degraded: nil) : .discovered([partition])
            }
            if next < log.first {
                self.next = log.first
                return .gap(partition, from: Offset(next), to: Offset(log.first))
            }
            let last = min(log.chunk.records.count, Int(next) + maxRecords)
            if last <= next { return .idle(degraded: nil) }
            self.next = Int64(last)
            return .records(
                RecordChunk(
                    partitions: [partition], records: Array(log.chunk.records[Int(next)..<last]), bytes: log.chunk.bytes
                ))
        }

        mutating func start(_ positions: [(partition: TopicPartition, next: Offset)]) throws(RecordLogError) {
            next = positions.first?.next.value
        }
        mutating func restart() { next = nil }
        mutating func applied(_ partition: TopicPartition, next: Offset) {}
        var lag: [(partition: TopicPartition, records: Int64)] { [] }
        mutating func close() { next = nil }
    }
}

/// A store that has counted about so many sample events, fewer on a slow one.
private func filled(_ kind: StoreKind, _ count: Int, _ random: inout Random) throws -> Ingesting {
    let ingest = try Ingesting(try kind.make(), sampleEvents(kind.few(count), &random))
    while ingest.next < ingest.log.count { try ingest.apply(kind.some(90)) }
    return ingest
}

/// Everything that answers: rollups, and what is said of each event.
private struct Contents: Equatable {
    var rollups: Count
    var events: [EventID: String] = [:]

    init(_ store: any StoreUnderTest) throws {
        rollups = try Count(reading: store.reader)
        try store.reader.read { snapshot in
            var sets: [Int64: SeriesKey] = [:]
            for workspace in ["default", "other"] {
                for series in try snapshot.series(workspace: workspace) { sets[series.id] = series.key }
            }
            for (place, stored) in try StoreTests.events(snapshot).enumerated() {
                let event = stored.event
                let set = sets[stored.series]?.set ?? []
                events[event.id] =
                    String(decoding: set + [10] + stored.extra + [10] + event.metadataRaw, as: UTF8.self)
                    + " \(event.metadataStatus) \(event.metadataConflicts) \(event.cost?.amount ?? -1) \(event.priceVersion)"
                // Each is a statement of its own.
                if place % 8 == 0 { #expect(try snapshot.event(id: event.id)?.series == stored.series) }
            }
        }
    }
}

extension Contents {
    /// What there is of one workspace.
    func of(_ workspace: String, _ log: [RequestEvent]) -> Contents {
        let own = Set(log.filter { $0.workspace == workspace }.map(\.id))
        var part = self
        part.rollups.rows = rollups.rows.filter { $0.key.key.workspace == workspace }
        part.events = events.filter { own.contains($0.key) }
        return part
    }

    /// Some of what differs, for a reader of a failure.
    func differences(from other: Contents) -> [String] {
        let texts = Set(events.keys).union(other.events.keys).filter { events[$0] != other.events[$0] }.map {
            "\($0): \(events[$0] ?? "missing") instead of \(other.events[$0] ?? "none")"
        }
        let places = Set(rollups.rows.keys).union(other.rollups.rows.keys).filter {
            rollups.rows[$0] != other.rollups.rows[$0]
        }
        return texts.sorted().prefix(3) + ["\(texts.count) events and \(places.count) rollups differ"]
            + places.prefix(3).map { "\($0): \(rollups.rows[$0]?.measures.requests ?? 0)" }
    }
}

/// Events of `from ..< to` under other rules from the start.
private func fromTheStart(_ log: [RequestEvent], other number: Int?, from: Int64, to: Int64) throws -> Contents {
    let store = try StoreKind.sqlite.make()
    let ingest = try Ingesting(store, log)
    ingest.close()
    var writer = try store.writer()
    if let number {
        _ = try writer.rules(adopting: RulesText(try rules(number)), now: at(from))
        _ = try writer.rules(adopting: RulesText(try rules(0)), now: at(to))
    }
    writer.close()
    let again = try Ingesting(store, log, rules: 0)
    while again.next < log.count { try again.apply(100) }
    again.close()
    return try Contents(store)
}

/// An ingest from the start that is led on to where another stands.
private final class Reference {
    private let store: any StoreUnderTest
    private let ingest: Ingesting

    /// - `number`: rules of `from ..< to`, which are others than those of all other times; nil: the same.
    init(_ log: [RequestEvent], other number: Int?, from: Int64, to: Int64) throws {
        store = try StoreKind.sqlite.make()
        var ingest = try Ingesting(store, log)
        if let number {
            _ = try ingest.writer.rules(adopting: RulesText(try rules(number)), now: at(from))
            _ = try ingest.writer.rules(adopting: RulesText(try rules(0)), now: at(to))
            ingest.close()
            ingest = try Ingesting(store, log)
        }
        self.ingest = ingest
    }

    deinit { ingest.close() }

    func contents(upTo end: Int) throws -> Contents {
        while ingest.next < end { try ingest.apply(min(100, end - ingest.next)) }
        return try Contents(store)
    }
}

/// What is done between the rows of a batch and its slot.
private final class Between: Sendable {
    struct State {
        var body: (@Sendable () throws -> Void)?
        var failures: [String] = []
    }
    private let state = Mutex(State())

    @Sendable func befall(_ tried: String) -> RequestFault {
        guard tried == "insert commits", let body = state.withLock({ $0.body }) else { return .none }
        do { try body() } catch { state.withLock { $0.failures.append("\(error)") } }
        return .none
    }

    func set(_ body: (@Sendable () throws -> Void)?) { state.withLock { $0.body = body } }
    var failures: [String] { state.withLock { $0.failures } }
}

/// What a question is answered from, of one snapshot: sums by dimensions at two grains, and of the events themselves.
private struct Look: Equatable {
    struct Sum: Equatable {
        var requests: Int64 = 0
        var cost: Int64 = 0
    }
    var sums: [[String: Sum]] = []
    var events: [String: Sum] = [:]

    init(_ reader: any RollupReader) throws {
        try reader.read { snapshot in
            var sets: [Int64: String] = [:]
            for workspace in ["default", "other"] {
                for series in try snapshot.series(workspace: workspace) {
                    sets[series.id] = String(decoding: series.key.set, as: UTF8.self)
                }
            }
            for grain in [Grain.day, .minute] {
                var sums: [String: Sum] = [:]
                try snapshot.scanRollups(grain: grain, from: .min, to: .max, series: .all, withBins: false) { row in
                    guard let set = sets[row.series] else { return }
                    sums[set, default: Sum()].requests += row.measures.requests
                    sums[set, default: Sum()].cost += row.measures.costNanoUSD
                }
                self.sums.append(sums)
            }
            for stored in try StoreTests.events(snapshot) {
                guard let set = sets[stored.series] else { continue }
                events[set, default: Sum()].requests += 1
                events[set, default: Sum()].cost += stored.event.cost?.amount ?? 0
            }
        }
    }
}

/// Looks again and again, on a thread of its own.
private final class Poll: Sendable {
    private struct State {
        var looks: [Look] = []
        var failures: [String] = []
        var longest = Duration.zero
    }
    private let state = Mutex(State())
    private let stop = StopSignal()
    private let thread = Mutex<ServiceThread?>(nil)
    private let began = ContinuousClock.now

    init(_ reader: any RollupReader) {
        thread.withLock { thread in
            thread = ServiceThread("poll") {
                while !self.stop.isStopped {
                    let since = ContinuousClock.now
                    do {
                        let look = try Look(reader)
                        self.state.withLock {
                            $0.looks.append(look)
                            $0.longest = max($0.longest, since.duration(to: .now))
                        }
                    } catch { self.state.withLock { $0.failures.append("\(error)") } }
                }
            }
        }
    }

    var count: Int { state.withLock { $0.looks.count } }

    /// How often it looked, and its longest wait.
    var pace: String {
        let (count, longest) = state.withLock { ($0.looks.count, $0.longest) }
        let seconds = began.duration(to: .now) / .seconds(1)
        return "\(count) looks, \(Int(Double(count) / max(seconds, 0.001)))/s, the longest "
            + "\(Int(longest / .milliseconds(1))) ms"
    }

    /// Waits until it has looked from beginning to end since the call.
    func seesMore() {
        let seen = count
        let deadline = ContinuousClock.now.advanced(by: .seconds(30))
        while count < seen + 2 && ContinuousClock.now < deadline { _ = stop.wait(milliseconds: 1) }
        #expect(count >= seen + 2)
    }

    func end() -> (looks: [Look], failures: [String]) {
        stop.stop()
        thread.withLock { thread in
            thread?.join()
            thread = nil
        }
        return state.withLock { ($0.looks, $0.failures) }
    }
}

@Suite struct ReplayTests {
    private func plan(
        _ number: Int?, from: Int64, to: Int64, prices: String? = nil, isDryRun: Bool = false, workspace: String? = nil
    ) throws -> ReplayPlan {
        ReplayPlan(
            asked: "\(number ?? -1) \(from) \(to) \(prices ?? "") \(isDryRun) \(workspace ?? "")", from: at(from),
            to: at(to), rules: try number.map { try RulesText(rules($0)) }, prices: prices, isDryRun: isDryRun,
            workspace: workspace)
    }

    private func replayer(
        _ store: any StoreUnderTest, log: MemoryLog? = nil, stepEvents: Int, wait: @escaping () -> Bool = { false }
    ) throws -> Replayer {
        try replayer(
            over: try store.replays(), ahead: try store.replays(), log: log, stepEvents: stepEvents, wait: wait)
    }

    private func replayer(
        over replays: any ReplayStore, ahead: (any ReplayStore)? = nil, log: MemoryLog? = nil, stepEvents: Int,
        wait: @escaping () -> Bool = { false }
    ) throws -> Replayer {
        var options = ReplayOptions()
        options.stepEvents = stepEvents
        // Many steps of little, that much may happen between them.
        options.aloneSteps = 1
        return Replayer(
            replays, ahead: ahead, log: log, normalizer: Normalizer(rules: try rules(0), hash: nil), options: options,
            now: { at(begin + 80 * hour) }, wait: { _ in wait() })
    }

    @Test(arguments: StoreKind.replaying)
    func underTheSameRulesNothingChanges(_ kind: StoreKind) throws {
        var random = Random(seed: 71)
        let ingest = try filled(kind, 700, &random)
        let store = ingest.store
        let before = try Contents(store)
        var replays = try store.replays()
        let begun = try replays.begin(try plan(nil, from: begin, to: begin + 72 * hour), now: at(begin))
        #expect(begun.state == .building && begun.total > Int64(kind.few(600)))
        #expect(try Contents(store) == before)
        var replayer = try self.replayer(store, stepEvents: kind.some(50))
        guard case .swapped(let done) = try replayer.run(begun, reprice: nil) else {
            Issue.record("it was not swapped in")
            return
        }
        #expect(done.scanned == begun.total && done.changed == 0 && done.state == .live)
        #expect(try Contents(store) == before)
        #expect(try store.reader.read { try $0.generationName } != "1")
        replays.close()
        ingest.close()
    }

    /// What another replay made of the events, or makes of late ones below it, is no longer what ingest has made of them.
    @Test(arguments: StoreKind.replaying)
    func underTheSameRulesNothingChangesOnAnotherReplay(_ kind: StoreKind) throws {
        var random = Random(seed: 73)
        let store = try kind.make()
        let log = sampleEvents(kind.few(400), &random)
        let ingest = try Ingesting(store, log)
        while ingest.next < kind.few(300) { try ingest.apply(kind.some(90)) }
        var replays = try store.replays()
        var replayer = try self.replayer(store, stepEvents: kind.some(50))
        func run(_ number: Int?) throws -> StoredReplay? {
            let begun = try replays.begin(
                try plan(number, from: begin, to: begin + 72 * hour), now: at(begin))
            guard case .swapped(let done) = try replayer.run(begun, reprice: nil) else { return nil }
            return done
        }
        let first = try #require(try run(1))
        let before = try Contents(store)
        let second = try #require(try run(nil))
        #expect(first.changed > 0 && second.changed == 0)
        #expect(try Contents(store) == before)

        // Late ones are counted under the rules of now, and below under those of before.
        while ingest.next < log.count { try ingest.apply(kind.some(90)) }
        #expect(try replayer.revert(second).state == .retired)
        #expect(try Contents(store) == fromTheStart(log, other: 1, from: begin, to: begin + 72 * hour))
        #expect(try replayer.revert(first).state == .retired)
        let old = try Contents(store)
        #expect(try old == fromTheStart(log, other: nil, from: begin, to: begin))
        let third = try #require(try run(nil))
        #expect(third.changed == 0)
        #expect(try Contents(store) == old)
        replays.close()
        ingest.close()
    }

    /// Late events come while it is built, in the middle of the swap, and after it; at last it is taken back.
    @Test(arguments: StoreKind.all(seeds: [81, 82, 83]))
    func isAnIngestFromTheStartUnderItsRules(_ kind: StoreKind, _ seed: UInt64) throws {
        var random = Random(seed: seed)
        let store = try kind.make()
        let log = sampleEvents(kind.few(1_500), &random)
        let (from, to) = (begin + 7 * hour, begin + 40 * hour + 77)
        let ingest = try Ingesting(store, log)
        while ingest.next < kind.few(700) { try ingest.apply(kind.some(Int(20 + random.next() % 100))) }
        var replays = try store.replays()
        let begun = try replays.begin(try plan(1, from: from, to: to), now: at(begin))
        var failure: (any Error)?
        var replayer = try self.replayer(store, stepEvents: kind.some(50)) {
            do { if ingest.next < kind.few(1_100) { try ingest.apply(kind.some(Int(random.next() % 40))) } } catch {
                failure = error
            }
            return failure != nil
        }
        guard case .swapped(let done) = try replayer.run(begun, reprice: nil) else {
            Issue.record("it was not swapped in: \(failure.debugDescription)")
            return
        }
        #expect(done.changed > 0)
        while ingest.next < log.count { try ingest.apply(kind.some(90)) }
        #expect(try Contents(store) == fromTheStart(log, other: 1, from: from, to: to))
        let timeline = try store.reader.read { try $0.rulesTimeline() }
        #expect(timeline.entries(from: at(from), to: at(to)).map(\.rules) == [try RulesText(rules(1))])

        // Going back, with the late events of meanwhile.
        let back = try replayer.revert(done)
        #expect(back.state == .retired)
        #expect(try Contents(store) == fromTheStart(log, other: nil, from: from, to: to))
        try replayer.sweep()
        #expect(try Contents(store) == fromTheStart(log, other: nil, from: from, to: to))
        var left = 0
        for grain in Grain.allCases { try replays.rows(of: done.id, done, grain) { _, _ in left += 1 } }
        #expect(left == 0)
        replays.close()
        ingest.close()
    }

    /// Killed after any step: another process goes on with the same plan, and whoever woke late is refused.
    @Test(arguments: StoreKind.all(seeds: [91, 92]))
    func goesOnAfterBeingKilled(_ kind: StoreKind, _ seed: UInt64) throws {
        var random = Random(seed: seed)
        let store = try kind.make()
        let log = sampleEvents(kind.few(900), &random)
        let (from, to) = (begin + 3 * hour, begin + 60 * hour)
        let ingest = try Ingesting(store, log)
        while ingest.next < kind.few(600) { try ingest.apply(kind.some(90)) }
        let plan = try plan(1, from: from, to: to)
        var zombie: (replay: StoredReplay, store: any ReplayStore)?
        var rounds = 0
        while true {
            rounds += 1
            var replays = try store.replays()
            let replay = try replays.begin(plan, now: at(begin))
            if var zombie {
                #expect(replay.id == zombie.replay.id && replay.epoch > zombie.replay.epoch)
                #expect {
                    _ = try zombie.store.add(ReplayStep(), to: zombie.replay.id, under: zombie.replay)
                } throws: {
                    ($0 as? RollupStoreError)?.code == .staleEpoch
                }
                zombie.store.close()
            }
            var steps = Int(random.next() % 4)
            var replayer = try self.replayer(store, stepEvents: kind.few(50)) {
                steps -= 1
                return steps < 0
            }
            let ending = try replayer.run(replay, reprice: nil)
            if case .swapped = ending { break }
            zombie = (replay, replays)
            try ingest.apply(kind.few(20))
        }
        #expect(rounds > 3)
        while ingest.next < log.count { try ingest.apply(kind.some(90)) }
        #expect(try Contents(store) == fromTheStart(log, other: 1, from: from, to: to))
        ingest.close()
    }

    /// `kill -9` of the commands at any moment, beside live ingest: given again they go on, and come to the same.
    @Test(arguments: StoreKind.replaying)
    func commandsKilledAtAnyMomentComeToTheSame(_ kind: StoreKind) throws {
        let seed = UInt64.random(in: 0...UInt64.max)
        print("\(kind.rawValue): seed \(seed)")
        var random = Random(seed: seed)
        // As many as are asked for on each store; by default fewer where each step is a request.
        let rounds = rounds(kind == .sqlite ? 50 : kind == .postgresql ? 8 : 4)
        let store = try kind.make()
        let (stored, live) = (kind.few(1_600), kind.few(40))
        let log = sampleEvents(stored + 2 * rounds * live, &random)
        let (from, to) = (begin + 7 * hour, begin + 60 * hour + 77)
        let ingest = try Ingesting(store, log)
        while ingest.next < stored { try ingest.apply(kind.some(90)) }
        let old = try Reference(log, other: nil, from: from, to: to)
        let new = try Reference(log, other: 1, from: from, to: to)
        let command = try Command(on: store)
        try command.write(texts[1], to: "rules.yaml")
        var kills = 0

        /// One start of a command and, unless it is quicker, its end; true: it has done what it was asked.
        func isDone(_ words: [String], within milliseconds: Int) throws -> Bool {
            let running = try command.start(["replay"] + words)
            let end = ContinuousClock.now.advanced(by: .milliseconds(Int(random.next() % UInt64(milliseconds))))
            let last = ingest.next + live
            while running.isRunning, ContinuousClock.now < end {
                try ingest.apply(min(last - ingest.next, 1 + live / 8))
                usleep(5_000)
            }
            if running.kill() {
                kills += 1
                return false
            }
            guard running.status == 0 else { throw Failure("\(words): \(running.output)") }
            return true
        }
        func replayed(_ words: [String]) -> [String] {
            ["--from", RFC3339.precise(at(from)), "--to", RFC3339.precise(at(to)), "--rate", "\(stored)"] + words
        }
        /// Later tries have longer.
        func persist(_ words: [String], within milliseconds: Int) throws {
            let usual = kind == .clickhouse ? 3 * milliseconds : milliseconds
            for tries in 1...100 where try isDone(words, within: usual * (4 + tries) / 4) { return }
            throw Failure("\(words): it comes to no end")
        }
        func latest(_ state: StoredReplay.State) throws -> StoredReplay? {
            var replays = try store.replays()
            defer { replays.close() }
            return try replays.list().first { $0.state == state }
        }

        var cycles = 0
        while kills < rounds || cycles < 3 {
            cycles += 1
            let other = ["--rules", "rules.yaml"]
            if cycles % 3 == 0 {
                // Given up in the middle.
                _ = try isDone(replayed(other), within: 400)
                if let left = try latest(.building) { try persist(["cancel", "\(left.id)"], within: 300) }
            } else {
                try persist(replayed(cycles % 3 == 1 ? other : []), within: 900)
            }
            let isOther = try latest(.live)?.plan.rules != nil
            let seen = try Contents(store)
            let wanted = try (isOther ? new : old).contents(upTo: ingest.next)
            #expect(seen == wanted, "cycle \(cycles): \(seen.differences(from: wanted))")
            // One that was killed behind its swap was begun again.
            while let live = try latest(.live) { try persist(["revert", "\(live.id)"], within: 300) }
            #expect(try Contents(store) == old.contents(upTo: ingest.next), "cycle \(cycles), taken back")
        }
        #expect(try latest(.building) == nil && latest(.live) == nil)
        print("\(kind.rawValue): \(kills) kills in \(cycles) replays, \(ingest.next) events")
        ingest.close()
    }

    // MARK: From the log

    /// Events of the first two days go; rollups stay.
    private func expireTwoDays(_ ingest: Ingesting) throws {
        let days = RetentionDays(events: 0, minute: 1_000, hour: 1_000, day: 1_000)
        while try ingest.writer.expire(RetentionBoundaries(days, now: at(begin + 48 * hour)), maxRows: 1_000) {}
    }

    @Test(arguments: StoreKind.replaying)
    func theLogUnderTheSameRulesChangesNothing(_ kind: StoreKind) throws {
        var random = Random(seed: 171)
        let ingest = try filled(kind, 900, &random)
        let store = ingest.store
        let whole = try Contents(store)
        try expireTwoDays(ingest)
        let before = try Contents(store)
        #expect(before.rollups == whole.rollups && before.events.count < whole.events.count / 2)
        let log = MemoryLog(ingest)
        var replays = try store.replays()
        let plan = try plan(nil, from: begin, to: begin + 72 * hour)
        #expect {
            _ = try replays.begin(plan, now: at(begin + 80 * hour))
        } throws: {
            "\($0)".contains("past their retention")
        }
        let reach = try #require(try LogCoverage.reach(plan, try replays.bounds(), log))
        #expect(reach.until == at(begin + 48 * hour))
        let begun = try replays.begin(plan, log: reach, now: at(begin + 80 * hour))
        #expect(begun.total == Int64(ingest.log.count + before.events.count))
        var replayer = try self.replayer(store, log: log, stepEvents: kind.some(50))
        guard case .swapped(let done) = try replayer.run(begun, reprice: nil) else {
            Issue.record("it was not swapped in")
            return
        }
        #expect(done.scanned == begun.total && done.changed == 0 && replayer.unreadable == 0)
        let after = try Contents(store)
        #expect(after == before, "\(after.differences(from: before))")
        #expect(try store.reader.read { try $0.generationName } != "1")
        replays.close()
        ingest.close()
    }

    /// Killed after any step, beside late events of days that are past their retention, which go on being deleted.
    @Test(arguments: StoreKind.all(seeds: [181, 182]))
    func theLogUnderOtherRulesIsAnIngestFromTheStart(_ kind: StoreKind, _ seed: UInt64) throws {
        var random = Random(seed: seed)
        let store = try kind.make()
        let first = sampleEvents(kind.few(900), &random)
        // A copy of an event that is deleted is not known as one.
        var known: Set<EventID> = []
        let rest = sampleEvents(kind.few(500), &random).filter { known.insert($0.id).inserted }
        let events = first + rest
        let (from, to) = (begin + 7 * hour, begin + 60 * hour + 77)
        let ingest = try Ingesting(store, events)
        while ingest.next < first.count { try ingest.apply(min(kind.some(90), first.count - ingest.next)) }
        try expireTwoDays(ingest)
        let log = MemoryLog(ingest)
        let plan = try plan(1, from: from, to: to)
        var rounds = 0
        var last: Int64 = 0
        while true {
            rounds += 1
            try #require(rounds < 200)
            var replays = try store.replays()
            let reach = try LogCoverage.reach(plan, try replays.bounds(), log)
            let replay = try replays.begin(plan, log: reach, now: at(begin + 80 * hour))
            #expect(replay.scanned >= last)
            last = replay.scanned
            var steps = Int(random.next() % 4)
            var replayer = try self.replayer(store, log: log, stepEvents: kind.some(50)) {
                steps -= 1
                return steps < 0
            }
            let ending = try replayer.run(replay, reprice: nil)
            replays.close()
            if case .swapped(let done) = ending {
                #expect(done.changed > 0)
                break
            }
            if ingest.next < events.count - kind.few(100) { try ingest.apply(kind.few(16)) }
            try expireTwoDays(ingest)
        }
        #expect(rounds > 3)
        while ingest.next < events.count { try ingest.apply(kind.some(90)) }
        let after = try Contents(store)
        let wanted = try fromTheStart(events, other: 1, from: from, to: to)
        #expect(after.rollups == wanted.rollups, "\(after.differences(from: wanted))")
        let kept = Set(events.filter { $0.time >= at(begin + 48 * hour) }.map(\.id))
        #expect(after.events.filter { kept.contains($0.key) } == wanted.events.filter { kept.contains($0.key) })
        ingest.close()
    }

    /// One workspace is counted anew from the log; of the others everything stays to the bit, also what the log knows
    /// nothing of: costs that another replay has made. Killed after any step, beside late events of both.
    @Test(arguments: StoreKind.all(seeds: [221, 222]))
    func theLogOfOneWorkspaceLeavesTheOthersToTheBit(_ kind: StoreKind, _ seed: UInt64) throws {
        var random = Random(seed: seed)
        let first = sampleEvents(kind.few(900), &random)
        // A copy of an event that is deleted is not known as one.
        var known: Set<EventID> = []
        let events = first + sampleEvents(kind.few(500), &random).filter { known.insert($0.id).inserted }
        let (from, to) = (begin + 7 * hour, begin + 60 * hour + 77)
        /// A store whose workspace `default` has other costs, and no events of two days any more.
        func priced(_ store: any StoreUnderTest) throws -> Ingesting {
            let ingest = try Ingesting(store, events)
            while ingest.next < first.count { try ingest.apply(min(kind.some(90), first.count - ingest.next)) }
            var replays = try store.replays()
            defer { replays.close() }
            var replayer = try self.replayer(store, stepEvents: kind.some(50))
            let prices = try self.plan(nil, from: begin, to: begin + 72 * hour, prices: "{}", workspace: "default")
            let reprice: Reprice = { (NanoUSD(Int64($0.inputTokens) * 7), "other-prices") }
            let ending = try replayer.run(try replays.begin(prices, now: at(begin + 80 * hour)), reprice: reprice)
            guard case .swapped = ending else { throw Failure("it was not swapped in") }
            try expireTwoDays(ingest)
            return ingest
        }
        let twin = try priced(StoreKind.sqlite.make())
        while twin.next < events.count { try twin.apply(100) }
        let untouched = try Contents(twin.store)
        twin.close()

        let store = try kind.make()
        let ingest = try priced(store)
        let log = MemoryLog(ingest)
        var replays = try store.replays()
        func start(_ plan: ReplayPlan) throws -> StoredReplay {
            let reach = try LogCoverage.reach(plan, try replays.bounds(), log)
            #expect(reach != nil)
            return try replays.begin(plan, log: reach, now: at(begin + 80 * hour))
        }
        let before = try Contents(store)
        var looking = try self.replayer(store, log: log, stepEvents: kind.some(50))
        let dry = try start(try self.plan(1, from: from, to: to, isDryRun: true, workspace: "other"))
        guard case .built(let built) = try looking.run(dry, reprice: nil) else { throw Failure("it was not built") }
        var sums: [String: ReplayDifference] = [:]
        for (generation, isAfter) in [(nil, false), (built.id, true)] as [(Int64?, Bool)] {
            try replays.rows(of: generation, built, .day) { row, key in
                sums[key.workspace, default: ReplayDifference()].add(row, key, isAfter: isAfter)
            }
        }
        #expect(built.changed > 0 && sums["other"]?.changes.isEmpty == false && sums["default"]?.changes == [])
        _ = try replays.cancel(built.id)
        try looking.sweep()
        #expect(try Contents(store) == before)

        let plan = try self.plan(1, from: from, to: to, workspace: "other")
        var rounds = 0
        var live: StoredReplay?
        while live == nil {
            rounds += 1
            try #require(rounds < 200)
            let replay = try start(plan)
            var steps = Int(random.next() % 4)
            // Late events come between any two steps.
            var replayer = try self.replayer(store, log: log, stepEvents: kind.some(50)) {
                steps -= 1
                return steps < 0
            }
            if case .swapped(let done) = try replayer.run(replay, reprice: nil) { live = done }
            if ingest.next < events.count - kind.few(100) { try ingest.apply(kind.few(16)) }
            try expireTwoDays(ingest)
        }
        #expect(rounds > 3)
        while ingest.next < events.count { try ingest.apply(kind.some(90)) }
        let after = try Contents(store)
        let changed = try fromTheStart(events, other: 1, from: from, to: to).of("other", events)
        let kept = try fromTheStart(events, other: nil, from: from, to: to).of("other", events)
        #expect(changed != kept)
        #expect(after.of("other", events).rollups == changed.rollups)
        let others = after.of("default", events)
        #expect(
            others.rollups == untouched.of("default", events).rollups,
            "\(others.differences(from: untouched.of("default", events)))")

        var replayer = try self.replayer(store, stepEvents: kind.some(50))
        #expect(try replayer.revert(try #require(live)).state == .retired)
        let back = try Contents(store)
        #expect(back.of("other", events).rollups == kept.rollups)
        #expect(back.of("default", events).rollups == untouched.of("default", events).rollups)
        replays.close()
        ingest.close()
    }

    /// Of days that replays answer for, whose events go past their retention: what came after a swap is of what is below it
    /// as well, whether retention came by before it was settled, or settled it and deleted it.
    @Test(arguments: StoreKind.replaying, [false, true])
    func lateEventsOfDaysPastTheirRetentionStayThroughARevert(_ kind: StoreKind, _ isSettled: Bool) throws {
        var random = Random(seed: 211)
        // A copy of an event that is deleted is not known as one.
        var known: Set<EventID> = []
        let log = sampleEvents(kind.few(1_300), &random).filter { known.insert($0.id).inserted }
        var limits = ClickHouseRollupStore.Limits()
        limits.graceTime = 0
        let store: any StoreUnderTest = try kind == .clickhouse ? ClickHouseUnderTest(limits: limits) : kind.make()
        let ingest = try Ingesting(store, log)
        func advance(to end: Int) throws {
            while ingest.next < end { try ingest.apply(min(kind.some(90), end - ingest.next)) }
        }
        var replays = try store.replays()
        var replayer = try self.replayer(store, stepEvents: kind.some(50))
        func run(_ number: Int, _ from: Int64, _ to: Int64) throws -> StoredReplay? {
            let begun = try replays.begin(try plan(number, from: from, to: to), now: at(begin + 80 * hour))
            guard case .swapped(let done) = try replayer.run(begun, reprice: nil) else { return nil }
            return done
        }
        func expire() throws {
            let boundary = at(begin + 48 * hour)
            if isSettled {
                while try replayer.settleExpiring(before: boundary, limit: kind.some(50)) {}
                for generation in [GenerationMap.first] + (try replays.live().map(\.generation)) {
                    let days = GenerationMap.Segment(begin: at(begin), end: boundary, generation: generation)
                    #expect(try replays.pending(days, limit: 1).isEmpty, "generation \(generation)")
                }
            }
            try expireTwoDays(ingest)
        }
        let (from, to) = (begin + 7 * hour, begin + 60 * hour + 77)
        try advance(to: log.count / 3)
        let first = try #require(try run(1, from, to))
        try advance(to: log.count / 2)
        // On top of it, of the first day and a half.
        let second = try #require(try run(0, begin + 3 * hour, begin + 30 * hour))
        try advance(to: 2 * log.count / 3)
        try expire()
        if let store = store as? ClickHouseUnderTest {
            // Rows of a batch that was made again stay for a while.
            let left = try store.ask(
                "SELECT count() FROM events WHERE time_us < \(begin + 48 * hour) AND NOT has((SELECT excluded FROM commits "
                    + "WHERE slot = (SELECT max(slot) FROM commits) ORDER BY _block_number LIMIT 1), number)")
            #expect((left == "0") == isSettled, "\(left)")
            // What is deleted has left the disk as well.
            let day = (begin + 48 * hour) / 86_400_000_000
            #expect(
                try store.ask(
                    "SELECT sum(rows) FROM system.parts WHERE database = currentDatabase() "
                        + "AND table IN ('events', 'events_shard') AND active AND toInt64(partition) < \(day)")
                    == store.ask("SELECT count() FROM events WHERE time_us < \(begin + 48 * hour)"))
        }
        // Late ones of days that have no other events any more.
        try advance(to: log.count)
        try expire()
        #expect(try Contents(store).events.count < log.count / 2 || !isSettled)

        #expect(try replayer.revert(second).state == .retired)
        let (changed, kept) = (
            try fromTheStart(log, other: 1, from: from, to: to).rollups,
            try fromTheStart(log, other: nil, from: from, to: to).rollups
        )
        #expect(try Contents(store).rollups == changed)
        #expect(try replayer.revert(first).state == .retired)
        #expect(try Contents(store).rollups == kept)
        // Nothing waits for anything any more, and everything goes.
        try replayer.sweep()
        try expireTwoDays(ingest)
        let left = try Contents(store)
        #expect(left.rollups == kept)
        #expect(left.events.count == log.filter { $0.time >= at(begin + 48 * hour) }.count)
        replays.close()
        ingest.close()
    }

    @Test(arguments: StoreKind.replaying)
    func theLogAtOtherPricesIsTheEventsAtOtherPrices(_ kind: StoreKind) throws {
        // Of two whole days, which the log alone has.
        let (from, to) = (begin + 5 * hour, begin + 40 * hour)
        let reprice: Reprice = { (NanoUSD(Int64($0.inputTokens) * 7), "other-prices") }
        func repriced(_ isLog: Bool) throws -> Contents {
            var random = Random(seed: 201)
            let ingest = try filled(kind, 500, &random)
            let store = ingest.store
            if isLog { try expireTwoDays(ingest) }
            let log = MemoryLog(ingest)
            var replays = try store.replays()
            func run(_ prices: String?, _ repriced: [Repricing]) throws -> StoredReplay? {
                let plan = try plan(nil, from: from, to: to, prices: prices)
                let reach = try LogCoverage.reach(plan, try replays.bounds(), log)
                #expect((reach != nil) == isLog)
                let begun = try replays.begin(plan, log: reach, now: at(begin + 80 * hour))
                var replayer = try self.replayer(store, log: log, stepEvents: kind.some(50))
                let ending = try replayer.run(begun, reprice: prices == nil ? nil : reprice, repriced: repriced)
                guard case .swapped(let done) = ending else { return nil }
                return done
            }
            #expect((try run("{}", [])?.changed ?? 0) > 0)
            let contents = try Contents(store)
            // Prices stay, though the log has others.
            #expect(try run(nil, [Repricing(from: at(from), to: at(to), reprice: reprice)])?.changed == 0)
            #expect(try Contents(store) == contents)
            replays.close()
            ingest.close()
            return contents
        }
        #expect(try repriced(true).rollups == repriced(false).rollups)
    }

    @Test(arguments: StoreKind.replaying)
    func aLogThatReachesNotFarEnoughIsNamedAndOneThatGoesMeanwhileIsNoticed(_ kind: StoreKind) throws {
        var random = Random(seed: 191)
        let ingest = try filled(kind, 600, &random)
        let store = ingest.store
        try expireTwoDays(ingest)
        let before = try Contents(store)
        let log = MemoryLog(ingest)
        var replays = try store.replays()
        let plan = try plan(1, from: begin, to: begin + 72 * hour)
        let bounds = try replays.bounds()
        (log.first, log.time) = (10, at(begin + 30 * hour))
        #expect {
            _ = try LogCoverage.reach(plan, bounds, log)
        } throws: {
            let kept = RFC3339.precise(at(begin + 48 * hour))
            let part = "events/0 from \(RFC3339.precise(at(begin + 30 * hour))) (offset 10) on"
            return "\($0)".contains("events are kept from \(kept) on") && "\($0)".contains(part)
                && "\($0)".contains("Begin at or after \(kept)")
        }
        // A log that says no times is asked for its first event; one that begins early enough covers everything.
        log.time = nil
        let told = ingest.log[10].time > plan.begin
        #expect(((try? LogCoverage.reach(plan, bounds, log)) == nil) == told)
        log.time = at(begin)
        #expect(try LogCoverage.reach(plan, bounds, log)?.beginnings == [partition: Offset(10)])
        #expect(try LogCoverage.reach(self.plan(1, from: begin + 49 * hour, to: begin + 50 * hour), bounds, log) == nil)
        // Another topic than the one that was counted.
        #expect {
            _ = try replays.begin(
                plan, log: LogReach(until: at(begin + 48 * hour), beginnings: [:]), now: at(begin + 80 * hour))
        } throws: {
            "\($0)".contains("the store has counted events/0, and the log has none")
        }
        #expect(try replays.list().isEmpty)

        log.first = 0
        let reach = try LogCoverage.reach(plan, bounds, log)
        let begun = try replays.begin(plan, log: reach, now: at(begin + 80 * hour))
        var steps = 2
        var replayer = try self.replayer(store, log: log, stepEvents: kind.some(50)) {
            steps -= 1
            return steps == 0
        }
        guard case .stopped(let left) = try replayer.run(begun, reprice: nil) else {
            Issue.record("it was not stopped")
            return
        }
        let place = try #require(left.log?.parts.first?.next.value)
        #expect(place == 2 * Int64(kind.some(50)))
        log.first = place + 7
        #expect {
            _ = try replayer.run(try replays.resume(left.id), reprice: nil)
        } throws: {
            "\($0)".contains("events/0 begins at offset \(place + 7) by now: records from 0 on went past")
                && "\($0)".contains("replay cancel \(left.id)")
        }
        #expect(try replays.cancel(left.id).state == .cancelled)
        #expect(try Contents(store) == before)
        replays.close()
        ingest.close()
    }

    @Test(arguments: StoreKind.replaying)
    func replaysStandOnOneAnother(_ kind: StoreKind) throws {
        var random = Random(seed: 101)
        let store = try kind.make()
        let log = sampleEvents(kind.few(800), &random)
        let ingest = try Ingesting(store, log)
        while ingest.next < kind.few(500) { try ingest.apply(kind.some(90)) }
        func run(_ number: Int?, _ from: Int64, _ to: Int64) throws -> StoredReplay? {
            var replays = try store.replays()
            let begun = try replays.begin(try plan(number, from: from, to: to), now: at(begin))
            replays.close()
            var replayer = try self.replayer(store, stepEvents: kind.some(50))
            guard case .swapped(let done) = try replayer.run(begun, reprice: nil) else { return nil }
            return done
        }
        let first = try #require(try run(1, begin, begin + 30 * hour))
        try ingest.apply(kind.some(90))
        // Earlier rules again: the earlier answers.
        let second = try #require(try run(0, begin, begin + 30 * hour))
        try ingest.apply(kind.some(90))
        while ingest.next < log.count { try ingest.apply(kind.some(90)) }
        #expect(try Contents(store) == fromTheStart(log, other: nil, from: begin, to: begin))
        var replayer = try self.replayer(store, stepEvents: kind.some(50))
        #expect(try replayer.revert(second).state == .retired)
        #expect(try Contents(store) == fromTheStart(log, other: 1, from: begin, to: begin + 30 * hour))
        #expect(try replayer.revert(first).state == .retired)
        #expect(try Contents(store) == fromTheStart(log, other: nil, from: begin, to: begin))
        ingest.close()
    }

    /// Its own events come out as of an ingest from the start under other rules, those of others as of one under theirs,
    /// late ones of both included.
    @Test(arguments: StoreKind.all(seeds: [201, 202]))
    func ofOneWorkspaceTheOthersStayToTheBit(_ kind: StoreKind, _ seed: UInt64) throws {
        var random = Random(seed: seed)
        let store = try kind.make()
        let log = sampleEvents(kind.few(1_200), &random)
        let (from, to) = (begin + 7 * hour, begin + 40 * hour + 77)
        let ingest = try Ingesting(store, log)
        while ingest.next < kind.few(600) { try ingest.apply(kind.some(90)) }
        let old = try Contents(store)
        var replays = try store.replays()
        func wanted(_ number: Int?) throws -> Contents {
            try fromTheStart(log, other: number, from: from, to: to)
        }
        /// By workspace, the day rows of a replay against those that answer.
        func differences(_ built: StoredReplay) throws -> [String: [ReplayDifference.Change]] {
            var differences: [String: ReplayDifference] = [:]
            for (generation, isAfter) in [(nil, false), (built.id, true)] as [(Int64?, Bool)] {
                try replays.rows(of: generation, built, .day) { row, key in
                    differences[key.workspace, default: ReplayDifference()].add(row, key, isAfter: isAfter)
                }
            }
            return differences.mapValues(\.changes)
        }

        // A dry run finds changes of the one workspace alone.
        let dry = try replays.begin(
            try plan(1, from: from, to: to, isDryRun: true, workspace: "other"), now: at(begin))
        let days = log[..<ingest.next].filter { $0.time >= dry.plan.begin && $0.time < dry.plan.end }
        #expect(dry.plan.workspace == "other" && dry.total == Int64(Set(days.map(\.id)).count))
        var replayer = try self.replayer(store, stepEvents: kind.some(50))
        guard case .built(let built) = try replayer.run(dry, reprice: nil) else {
            Issue.record("it was not built")
            return
        }
        let found = try differences(built)
        #expect(found["other"]?.isEmpty == false && found["default"] == [])
        let mine = log.filter { $0.workspace == "other" && $0.time >= at(from) && $0.time < at(to) }
        #expect(built.changed > 0 && built.changed <= Int64(Set(mine.map(\.id)).count))
        _ = try replays.cancel(built.id)
        try replayer.sweep()
        #expect(try Contents(store) == old)

        let begun = try replays.begin(try plan(1, from: from, to: to, workspace: "other"), now: at(begin))
        #expect(try replays.list().first?.plan == begun.plan)
        // Another workspace of the same days waits all the same: generations are of whole days.
        #expect(throws: RollupStoreError.self) {
            _ = try replays.begin(try plan(1, from: from, to: to, workspace: "default"), now: at(begin))
        }
        var failure: (any Error)?
        var live = try self.replayer(store, stepEvents: kind.some(50)) {
            do { if ingest.next < kind.few(900) { try ingest.apply(kind.some(Int(random.next() % 40))) } } catch {
                failure = error
            }
            return failure != nil
        }
        guard case .swapped(let done) = try live.run(begun, reprice: nil) else {
            Issue.record("it was not swapped in: \(failure.debugDescription)")
            return
        }
        while ingest.next < log.count { try ingest.apply(kind.some(90)) }
        let (changed, kept) = (try wanted(1), try wanted(nil))
        #expect(changed.of("other", log) != kept.of("other", log))
        let after = try Contents(store)
        #expect(after.of("other", log) == changed.of("other", log))
        #expect(after.of("default", log) == kept.of("default", log))
        let timeline = try store.reader.read { try $0.rulesTimeline() }
        func names(_ workspace: String) -> [RulesText] {
            timeline.entries(from: at(from), to: at(to), of: workspace).map(\.rules)
        }
        #expect(try names("other") == [RulesText(rules(1))])
        #expect(try names("default") == [RulesText(rules(0))])

        // On top of it nothing changes under the rules of each one's time, and other prices change one workspace's costs.
        func run(_ plan: ReplayPlan, _ reprice: Reprice? = nil) throws -> StoredReplay? {
            guard case .swapped(let done) = try replayer.run(try replays.begin(plan, now: at(begin)), reprice: reprice)
            else { return nil }
            return done
        }
        let same = try #require(try run(try plan(nil, from: begin, to: begin + 72 * hour)))
        #expect(same.changed == 0)
        #expect(try Contents(store) == after)
        let priced = try #require(
            try run(try plan(nil, from: from, to: to, prices: "{}", workspace: "default")) {
                (NanoUSD(Int64($0.inputTokens) * 7), "other-prices")
            })
        let cheap = try Contents(store)
        #expect(cheap.of("other", log) == after.of("other", log))
        for event in log where event.workspace == "default" {
            let isInside = event.time >= at(from) && event.time < at(to)
            #expect(
                isInside
                    ? cheap.events[event.id]?.hasSuffix(" \(event.inputTokens * 7) other-prices") == true
                    : cheap.events[event.id] == after.events[event.id])
        }

        // And back, one after the other.
        #expect(try replayer.revert(priced).state == .retired)
        #expect(try replayer.revert(same).state == .retired)
        #expect(try Contents(store) == after)
        #expect(try replayer.revert(done).state == .retired)
        #expect(try Contents(store) == kept)
        replays.close()
        ingest.close()
    }

    /// Two raw keys that the rules of a replay make one: what it counts of late events as conflicts is none without it.
    @Test(arguments: StoreKind.replaying)
    func conflictsOfLateEventsAreThoseOfTheRulesThatAnswer(_ kind: StoreKind) throws {
        var random = Random(seed: 231)
        let log = (0..<30).map { index in
            var event = Sample.random(&random).event
            event.time = at(begin + Int64(index) * hour / 2)
            event.id = EventID(time: event.time, random: (random.next(), random.next()))
            event.metadataRaw = Array(#"{"env":"prod","environment":"Test"}"#.utf8)
            event.metadataConflicts = UInt32(index % 2)
            return event
        }
        let store = try kind.make()
        let ingest = try Ingesting(store, log)
        try ingest.apply(10)
        var replays = try store.replays()
        var replayer = try self.replayer(store, stepEvents: 20)
        let begun = try replays.begin(try plan(1, from: begin, to: begin + 24 * hour), now: at(begin))
        guard case .swapped(let done) = try replayer.run(begun, reprice: nil) else {
            Issue.record("it was not swapped in")
            return
        }
        try ingest.apply(20)
        let (changed, kept) = (
            try fromTheStart(log, other: 1, from: begin, to: begin + 24 * hour),
            try fromTheStart(log, other: nil, from: begin, to: begin)
        )
        #expect(changed.events != kept.events)
        #expect(try Contents(store) == changed)
        #expect(try replayer.revert(done).state == .retired)
        #expect(try Contents(store) == kept)
        replays.close()
        ingest.close()
    }

    @Test(arguments: StoreKind.replaying)
    func pricesChangeCostsInTheirRangeAndADryRunSaysSoBefore(_ kind: StoreKind) throws {
        var random = Random(seed: 111)
        let store = try kind.make()
        let log = sampleEvents(kind.few(500), &random)
        let (from, to) = (begin + 5 * hour, begin + 30 * hour)
        let ingest = try Ingesting(store, log)
        while ingest.next < log.count { try ingest.apply(kind.some(90)) }
        ingest.close()
        let before = try Contents(store)
        let reprice: Reprice = { (NanoUSD(Int64($0.inputTokens) * 7), "other-prices") }
        func difference(_ id: Int64, _ replay: StoredReplay) throws -> [ReplayDifference.Change] {
            var difference = ReplayDifference()
            var replays = try store.replays()
            try replays.rows(of: GenerationMap.first, replay, .day) { difference.add($0, $1, isAfter: false) }
            try replays.rows(of: id, replay, .day) { difference.add($0, $1, isAfter: true) }
            replays.close()
            return difference.changes
        }
        var replays = try store.replays()
        let dry = try replays.begin(try plan(nil, from: from, to: to, prices: "{}", isDryRun: true), now: at(begin))
        var replayer = try self.replayer(store, stepEvents: kind.some(50))
        guard case .built(let built) = try replayer.run(dry, reprice: reprice) else {
            Issue.record("it was not built")
            return
        }
        let told = try difference(built.id, built)
        #expect(try Contents(store) == before)
        #expect(try replays.cancel(built.id).state == .cancelled)
        try replayer.sweep()
        #expect(try difference(built.id, built).allSatisfy { $0.after == 0 })

        let begun = try replays.begin(try plan(nil, from: from, to: to, prices: "{}"), now: at(begin))
        #expect(begun.id != dry.id)
        guard case .swapped(let done) = try replayer.run(begun, reprice: reprice) else {
            Issue.record("it was not swapped in")
            return
        }
        #expect(try difference(done.id, done) == told)
        #expect(told.contains { $0.key == "total" && $0.measure == "cost_nano_usd" && $0.difference != 0 })
        #expect(told.allSatisfy { $0.measure == "cost_nano_usd" })
        let inside = log.filter { $0.time >= at(from) && $0.time < at(to) }
        let after = try Contents(store)
        for event in inside {
            #expect(after.events[event.id]?.hasSuffix(" \(event.inputTokens * 7) other-prices") == true)
        }
        #expect(
            after.events.filter { !Set(inside.map(\.id)).contains($0.key) }
                == before.events.filter { !Set(inside.map(\.id)).contains($0.key) })
        replays.close()
    }

    @Test(arguments: StoreKind.replaying)
    func whatCannotBeDoneIsRefusedBeforeAnythingIsWritten(_ kind: StoreKind) throws {
        var random = Random(seed: 121)
        let ingest = try filled(kind, 200, &random)
        let store = ingest.store
        var replays = try store.replays()
        let first = try replays.begin(try plan(1, from: begin, to: begin + hour), now: at(begin))
        func refusal(_ body: () throws -> Void) -> String {
            do {
                try body()
                return "nothing"
            } catch {
                return "\(error)"
            }
        }
        // The same day, though not the same hours.
        let overlap = refusal {
            _ = try replays.begin(try plan(1, from: begin + 5 * hour, to: begin + 6 * hour), now: at(begin))
        }
        #expect(overlap.contains("replay \(first.id) is unfinished"), "\(overlap)")
        let other = try replays.begin(try plan(1, from: begin + 25 * hour, to: begin + 26 * hour), now: at(begin))
        #expect(other.id != first.id)
        _ = try replays.cancel(first.id)
        #expect(refusal { _ = try replays.resume(first.id) }.contains("it is cancelled"))
        #expect(refusal { _ = try replays.resume(99) }.contains("there is none"))
        #expect(refusal { _ = try replays.swap(ReplayStep(), other, now: at(begin)) }.contains("not ready"))
        #expect(try replays.list().map(\.state) == [.building, .cancelled])

        // Events before the third day are deleted.
        let days = RetentionDays(events: 1, minute: 30, hour: 30, day: 30)
        while try ingest.writer.expire(RetentionBoundaries(days, now: at(begin + 72 * hour)), maxRows: 1_000) {}
        let late = refusal { _ = try replays.begin(try plan(1, from: begin, to: begin + hour), now: at(begin)) }
        #expect(late.contains("past their retention") && late.contains("2025-10-12"), "\(late)")
        let alone = refusal {
            _ = try replays.begin(try plan(1, from: begin, to: begin + hour, workspace: "other"), now: at(begin))
        }
        #expect(alone == late)
        #expect(try replays.list().count == 2)
        replays.close()
        ingest.close()
    }

    /// Whoever lost the answer asks again, and is told how the replay stands.
    @Test(arguments: StoreKind.replaying)
    func anEndingAskedForAgainIsAnsweredAsItStands(_ kind: StoreKind) throws {
        var random = Random(seed: 123)
        let ingest = try filled(kind, 200, &random)
        let store = ingest.store
        ingest.close()
        let before = try Contents(store)
        var replays = try store.replays()
        let given = try replays.begin(try plan(1, from: begin, to: begin + hour), now: at(begin))
        let cancelled = try replays.cancel(given.id)
        #expect(cancelled.state == .cancelled)
        #expect(try replays.cancel(given.id) == cancelled)

        let begun = try replays.begin(try plan(1, from: begin, to: begin + 72 * hour), now: at(begin))
        var replayer = try self.replayer(store, stepEvents: kind.some(50))
        guard case .swapped(let live) = try replayer.run(begun, reprice: nil) else {
            Issue.record("it was not swapped in")
            return
        }
        let after = try Contents(store)
        var another = try store.replays()
        #expect(try another.swap(ReplayStep(), live, now: at(begin)) == live)
        #expect(throws: RollupStoreError.self) { try another.cancel(live.id) }
        #expect(try Contents(store) == after)
        let retired = try replayer.revert(live)
        #expect(try another.revert(live) == retired)
        #expect(try replayer.revert(retired) == retired)
        // Neither is what the other asks for, nor an answer to a swap.
        #expect(throws: RollupStoreError.self) { try another.cancel(live.id) }
        #expect(throws: RollupStoreError.self) { try another.revert(cancelled) }
        #expect(throws: RollupStoreError.self) { try another.swap(ReplayStep(), live, now: at(begin)) }
        #expect(try Contents(store) == before)
        #expect(try replays.list() == [retired, cancelled])
        another.close()
        replays.close()
    }

    /// A reader that looks again and again while replays are swapped in and taken back: all of the old, or all of the new.
    @Test(arguments: StoreKind.replaying)
    func aReaderSeesOnlyOldOrNewTotals(_ kind: StoreKind) throws {
        var random = Random(seed: 127)
        let ingest = try filled(kind, 160, &random)
        let store = ingest.store
        ingest.close()
        var replays = try store.replays()
        let reprice: Reprice = { (NanoUSD(Int64($0.inputTokens) * 7), "other-prices") }
        let plan = try plan(1, from: begin, to: begin + 72 * hour, prices: "{}")
        let old = try Look(store.reader)
        let poll = Poll(store.reader)
        defer { _ = poll.end() }
        var new: Look?
        var swaps = 0
        let wanted = kind.few(1_000)
        while poll.count < wanted || swaps < 3 {
            var replayer = try self.replayer(store, stepEvents: kind.some(50))
            guard case .swapped(let live) = try replayer.run(replays.begin(plan, now: at(begin)), reprice: reprice)
            else {
                Issue.record("it was not swapped in")
                return
            }
            swaps += 1
            let seen = try Look(store.reader)
            #expect(seen != old && seen == new ?? seen)
            new = seen
            poll.seesMore()
            #expect(try replayer.revert(live).state == .retired)
            try replayer.sweep()
            #expect(try Look(store.reader) == old)
            poll.seesMore()
        }
        print("\(kind.rawValue): \(poll.pace), through \(swaps) swaps and as many ways back")
        let (looks, failures) = poll.end()
        #expect(failures == [])
        #expect(looks.count >= wanted)
        #expect(looks.allSatisfy { $0 == old || $0 == new })
        // It looked before, between and after.
        #expect(looks.contains(old) && looks.contains { $0 == new })
        replays.close()
    }

    /// Whether an answer was lost or a caller is confused: a step of the scan follows from one place.
    @Test(arguments: StoreKind.replaying)
    func aStepOfTheScanIsTakenOnce(_ kind: StoreKind) throws {
        var random = Random(seed: 125)
        let ingest = try filled(kind, 300, &random)
        let store = ingest.store
        ingest.close()
        let before = try Contents(store)
        var replays = try store.replays()
        let begun = try replays.begin(try plan(nil, from: begin, to: begin + 72 * hour), now: at(begin))
        let page = try replays.scan(begun, limit: 20)
        let timeline = try replays.timeline(without: [begun.id])
        var refold = try EventRefold(
            begun.plan, normalizer: Normalizer(rules: try rules(0), hash: nil), before: timeline, after: timeline,
            reprice: nil)
        for event in page.events { refold.add(event) }
        var step = refold.finish()
        step.cursor = page.cursor
        let first = try replays.add(step, to: begun.id, under: begun)
        #expect(first.scanned == 20)
        #expect(try replays.add(step, to: begun.id, under: begun) == first)
        step.events += 1
        #expect(throws: RollupStoreError.self) { try replays.add(step, to: begun.id, under: begun) }
        var replayer = try self.replayer(store, stepEvents: 20)
        guard case .swapped(let done) = try replayer.run(first, reprice: nil) else {
            Issue.record("it was not swapped in")
            return
        }
        #expect(done.scanned == begun.total)
        #expect(try Contents(store) == before)
        replays.close()
    }

    /// Steps are written while the next is counted, and not back to back: in each pause the store is free, so that an
    /// ingest that waits for its lock comes in.
    @Test func noStepIsWrittenInAPause() throws {
        var random = Random(seed: 127)
        let ingest = try filled(.sqlite, 600, &random)
        let store = ingest.store
        let before = try Contents(store)
        let writing = Writing()
        var replays: any ReplayStore = WatchedReplays(store: try store.replays(), writing: writing)
        let begun = try replays.begin(try plan(nil, from: begin, to: begin + 72 * hour), now: at(begin))
        var pauses = 0
        var replayer = try self.replayer(over: replays, ahead: try store.replays(), stepEvents: 20) {
            pauses += 1
            return writing.isUnderWay
        }
        guard case .swapped(let done) = try replayer.run(begun, reprice: nil) else {
            Issue.record("a step was being written in pause \(pauses)")
            return
        }
        #expect(done.scanned == begun.total && writing.steps >= Int(begun.total) / 20)
        #expect(pauses >= writing.steps)
        #expect(try Contents(store) == before)
        replays.close()
        ingest.close()
    }

    // MARK: Without transactions

    /// Any request of a replay fails, or is done and its answer lost: each step is taken once.
    @Test(arguments: isClickHouseWanted ? [RequestFault.unsent, .unanswered] : [])
    func goesOnAfterRequestsThatFail(_ fault: RequestFault) throws {
        var random = Random(seed: 131)
        let store = try ClickHouseUnderTest()
        let log = sampleEvents(160, &random)
        let (from, to) = (begin + 3 * hour, begin + 60 * hour)
        let ingest = try Ingesting(store, log)
        while ingest.next < 100 { try ingest.apply(30) }
        let dice = Mutex((random: Random(seed: 134), faults: 0, areThrown: false))
        let failing = try ClickHouseRollupStore.open(
            url: store.server.url(store.database), upkeepFailed: { Issue.record("\($0)") },
            faults: { _ in
                dice.withLock { dice in
                    guard dice.areThrown, dice.random.next() % 12 == 0 else { return .none }
                    dice.faults += 1
                    return fault
                }
            })
        var replays = try failing.makeReplayStore()
        var replayer = try self.replayer(over: replays, stepEvents: 15)
        var failures = 0
        func persist<Answer>(_ body: () throws -> Answer?) throws -> Answer {
            dice.withLock { $0.areThrown = true }
            defer { dice.withLock { $0.areThrown = false } }
            while true {
                do {
                    if let answer = try body() { return answer }
                } catch let error as RollupStoreError where error.isTransient && failures < 1_000 {
                    failures += 1
                    if ingest.next < 130 { try ingest.apply(2) }
                }
            }
        }
        let plan = try plan(1, from: from, to: to)
        let done: StoredReplay = try persist {
            if let done = try replays.list().first(where: { $0.state == .live }) { return done }
            _ = try replayer.run(try replays.begin(plan, now: at(begin)), reprice: nil)
            return nil
        }
        #expect(dice.withLock { $0.faults } > 10 && done.changed > 0)
        while ingest.next < log.count { try ingest.apply(30) }
        #expect(try Contents(store) == fromTheStart(log, other: 1, from: from, to: to))
        #expect(try replays.list().count == 1)
        let back: StoredReplay = try persist {
            if let back = try replays.list().first, back.state == .retired { return back }
            return try replayer.revert(done)
        }
        #expect(back.id == done.id && back.state == .retired)
        #expect(try Contents(store) == fromTheStart(log, other: nil, from: from, to: to))
        replays.close()
        ingest.close()
    }

    /// Between the rows of a batch and the slot that makes them count, a replay does its next step, its swap included.
    @Test(arguments: isClickHouseWanted ? [141, 142] as [UInt64] : [])
    func aBatchOfBeforeAStepOfAReplayIsMadeAgain(_ seed: UInt64) throws {
        var random = Random(seed: seed)
        let between = Between()
        let store = try ClickHouseUnderTest(faults: between.befall)
        let log = sampleEvents(200, &random)
        let (from, to) = (begin + 3 * hour, begin + 60 * hour)
        let ingest = try Ingesting(store, log)
        while ingest.next < 100 { try ingest.apply(30) }
        let plan = try plan(1, from: from, to: to)
        let sound = try ClickHouseRollupStore.open(
            url: store.server.url(store.database), upkeepFailed: { Issue.record("\($0)") })
        between.set {
            var replays = try sound.makeReplayStore()
            defer { replays.close() }
            if try replays.list().contains(where: { $0.state == .live }) { return }
            var replayer = try self.replayer(over: replays, stepEvents: 20) { true }
            _ = try replayer.run(try replays.begin(plan, now: at(begin)), reprice: nil)
        }
        while ingest.next < log.count { try ingest.apply(8) }
        between.set(nil)
        let replays = try sound.makeReplayStore()
        let done = try #require(try replays.list().first)
        #expect(done.state == .live && done.changed > 0)
        #expect(between.failures == [])
        #expect(try Contents(store) == fromTheStart(log, other: 1, from: from, to: to))
        var replayer = try self.replayer(store, stepEvents: 15)
        _ = try replayer.revert(done)
        #expect(try Contents(store) == fromTheStart(log, other: nil, from: from, to: to))
        replays.close()
        ingest.close()
    }

    @Test(arguments: isClickHouseWanted ? [0, 600] : [])
    func rowsOfAnEndedReplayAreDeletedInTheEnd(_ graceTime: Int) throws {
        var random = Random(seed: 151)
        var limits = ClickHouseRollupStore.Limits()
        limits.graceTime = graceTime
        let store = try ClickHouseUnderTest(limits: limits)
        let ingest = try Ingesting(store, sampleEvents(100, &random))
        while ingest.next < 70 { try ingest.apply(30) }
        var replays = try store.replays()
        var replayer = try self.replayer(store, stepEvents: 15)
        let begun = try replays.begin(try plan(1, from: begin, to: begin + 72 * hour), now: at(begin))
        guard case .swapped(let done) = try replayer.run(begun, reprice: nil) else {
            Issue.record("it was not swapped in")
            return
        }
        while ingest.next < ingest.log.count { try ingest.apply(30) }
        _ = try replayer.revert(done)
        try replayer.sweep()
        for table in ["rollups", "revisions"] {
            let left = try store.ask("SELECT count() FROM \(table) WHERE generation = \(done.id)")
            #expect((left == "0") == (graceTime == 0), "\(table): \(left)")
        }
        replays.close()
        ingest.close()
    }

    @Test(arguments: isClickHouseWanted ? [161] as [UInt64] : [])
    func aStoreOfBeforeTheLogWasReadGoesOn(_ seed: UInt64) throws {
        var random = Random(seed: seed)
        let store = try ClickHouseUnderTest()
        let ingest = try Ingesting(store, sampleEvents(60, &random))
        while ingest.next < ingest.log.count { try ingest.apply(30) }
        ingest.close()
        func run(_ replays: any ReplayStore) throws -> StoredReplay? {
            var replays = replays
            let begun = try replays.begin(try plan(1, from: begin, to: begin + 72 * hour), now: at(begin))
            var replayer = try self.replayer(over: replays, stepEvents: 30)
            guard case .swapped(let done) = try replayer.run(begun, reprice: nil) else { return nil }
            return done
        }
        let replays = try store.store.makeReplayStore()
        #expect(try run(replays)?.state == .live)
        replays.close()
        let before = try Contents(store)
        _ = try store.ask("ALTER TABLE commits DROP COLUMN replay_log_scans, DROP COLUMN replay_workspaces")
        let again = try ClickHouseRollupStore.open(
            url: store.server.url(store.database), upkeepFailed: { Issue.record("\($0)") })
        let others = try again.makeReplayStore()
        #expect(try others.list().map(\.state) == [.live])
        #expect(try run(others)?.changed == 0)
        #expect(try others.list().allSatisfy { $0.log == nil && $0.plan.workspace == nil })
        others.close()
        #expect(try Contents(store) == before)
    }

    @Test func theMapAnswersForEachInstantOnce() {
        func d(_ day: Int64) -> EventTime { at(day * 24 * hour) }
        let live = [(2, 1, 5), (3, 3, 8), (4, 4, 5)] as [(Int64, Int64, Int64)]
        let map = GenerationMap(
            live: live.map { GenerationMap.Segment(begin: d($1), end: d($2), generation: $0) })
        #expect(map.segments.map(\.generation) == [1, 2, 3, 4, 3, 1])
        #expect([0, 1, 3, 4, 5, 7, 8].map { map.generation(at: d($0)) } == [1, 2, 3, 4, 3, 3, 1])
        let hours = map.cut(.hour, from: 0, to: 24 * 9)
        #expect(hours.map(\.generation) == [1, 2, 3, 4, 3, 1])
        #expect(hours.reduce(0) { $0 + $1.to - $1.from } == 24 * 9)
        #expect(map.cutEvents(from: d(2), to: at(d(4).microseconds + 1)).map(\.generation) == [4, 3, 2])
        #expect(GenerationMap().cut(.minute, from: .min, to: .max).map(\.from) == [.min])
    }

    /// Of every generation that counts an event's day and does not answer for it; duplicates of none.
    @Test func eventsArePendingWhereTheyAreNotCounted() throws {
        var random = Random(seed: 129)
        for _ in 0..<60 {
            let tracked = (2..<Int64(2 + random.next() % 5)).map { generation in
                let from = Int64(random.next() % 4)
                return GenerationMap.Segment(
                    begin: at(begin + from * 24 * hour),
                    end: at(begin + (from + 1 + Int64(random.next() % 3)) * 24 * hour),
                    generation: generation)
            }
            let live = tracked.filter { _ in random.next() % 2 == 0 }.shuffled(using: &random)
            let scope = ReplayScope(tracked: tracked, live: live)
            let samples = (0..<40).map { _ in
                var sample = Sample.random(&random)
                sample.event.time = at(begin - 24 * hour + Int64(random.next() % 8) * 24 * hour)
                return sample
            }
            var maker = BatchMaker()
            let batch = try maker.batch([.init(partition: partition, first: 0, epoch: 1, samples: samples)])
            var wanted: [(generation: Int64, place: EventPlace)] = []
            for (index, sample) in samples.enumerated() where index % 7 != 3 {
                let time = sample.event.time
                let days = tracked.filter { $0.begin <= time && time < $0.end }.map(\.generation)
                let answering = live.last { $0.begin <= time && time < $0.end }?.generation ?? 1
                for generation in [1] + days where generation != answering {
                    wanted.append((generation, EventPlace(time: time, id: sample.event.id)))
                }
            }
            let duplicates = samples.indices.filter { $0 % 7 == 3 }
            let pending = scope.pending(batch, withDuplicates: duplicates)
            #expect(pending.map(\.generation) == wanted.map(\.generation).sorted())
            #expect(pending.elementsEqual(wanted.sorted { $0 < $1 }) { $0 == $1 })
        }
    }
}
