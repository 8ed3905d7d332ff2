// Replays that the API was asked for -> one thread that works on them, one at a time.
//
// What is kept lasts in the store: a process that ends leaves a replay that anybody can resume. Kept here, for as long as
// the process lives, are how fast it goes, why it could not go on, and what dry runs have found.

import CaptureProxy
import Configuration
import Events
import JSONText
import Normalizer
import QueryAPI
import Replay
import RollupStore
import Synchronization
import Telemetry
import Threading

final class ReplayDesk: ReplayControl {
    /// | limit | unit | value | why |
    /// | --- | --- | --- | --- |
    /// | `findings` | dry runs | 8 | those that are still looked at; older ones are asked for again |
    /// | `changes` | rows a dry run | 1,000 | the largest; the rest is counted |
    /// | `jobs` | jobs | 16 | one replay, and what was given up; full: it is deleted with the next one |
    private enum Limits {
        static let findings = 8
        static let changes = 1_000
        static let jobs = 16
    }

    private enum Job: Sendable {
        case build(StoredReplay, rate: Int?)
        case revert(StoredReplay)
        case sweep
    }

    private struct Place {
        /// nil while it is being prepared.
        var replay: Int64?
        var activity: ReplayStanding.Activity
        var began = ContinuousClock.now
        var first: Int64 = 0
    }

    private struct State {
        /// Who has the thread; nil: nobody.
        var place: Place?
        var problems: [Int64: String] = [:]
        /// The latest last.
        var findings: [(id: Int64, found: ReplayStanding.Findings)] = []
    }

    private let configuration: MillraceConfiguration
    private let open: OpenStore
    /// Those of the process's start.
    private let rules: Rules
    private let log: Log
    private let state = Mutex(State())
    private let jobs = BoundedQueue<Job>(capacity: Limits.jobs)
    private let stopped = StopSignal()
    private let thread = Mutex<ServiceThread?>(nil)

    init(_ configuration: MillraceConfiguration, _ open: OpenStore, rules: Rules, log: Log) {
        self.configuration = configuration
        self.open = open
        self.rules = rules
        self.log = log
        thread.withLock { $0 = ServiceThread("mr-replay") { [unowned self] in work() } }
    }

    /// Ends the work at its next step; what is unfinished stays resumable. Call once.
    func stop() {
        stopped.stop()
        jobs.close()
        thread.withLock { $0.take() }?.join()
    }

    func list() throws -> [StoredReplay] {
        var store = try open.makeReplayStore()
        defer { store.close() }
        return try store.list()
    }

    func all() throws -> [ReplayStanding] { try list().map(standing) }

    // MARK: What is asked for

    func start(_ request: ReplayRequest) throws -> ReplayStanding {
        let now = SystemFacts.now()
        let (rules, prices) = try Self.inputs(request)
        let plan = try ReplayPlan(
            from: request.from, to: request.to, rules: rules, prices: prices, isDryRun: request.isDryRun,
            workspace: request.workspace, timeline: try open.reader.read { try $0.rulesTimeline() }, now: now)
        guard plan.from < plan.to else {
            throw ChangeRefusal(
                .impossible, "from does not lie before to.", hint: "to is not included; without it, it is now.")
        }
        var store = try open.makeReplayStore()
        defer { store.close() }
        try Self.refuseOverlap(plan, try store.list())
        try reserve(.build)
        do {
            let work = try Self.refusing { try worker(under: rules) }
            let begun = try Self.begin(plan, work, now, &store)
            return try hand(.build(begun, rate: request.rate), begun)
        } catch {
            release()
            throw error
        }
    }

    /// A key that is missing is said to whoever asks.
    private static func refusing<Result>(_ body: () throws -> Result) throws -> Result {
        do {
            return try body()
        } catch let failure as Failure {
            throw ChangeRefusal(.impossible, failure.description)
        }
    }

    private static func begin(
        _ plan: ReplayPlan, _ work: ReplayWork, _ now: EventTime, _ store: inout any ReplayStore
    ) throws -> StoredReplay {
        do {
            return try store.begin(plan, log: try work.reach(plan, &store), now: now)
        } catch let error as RollupStoreError {
            guard error.code == .configuration else { throw error }
            // Another process may have begun one meanwhile.
            try refuseOverlap(plan, try store.list())
            throw ChangeRefusal(.impossible, "\(error.tried): \(error.reason).", hint: error.next)
        }
    }

    func resume(_ id: Int64, rate: Int?) throws -> ReplayStanding {
        var store = try open.makeReplayStore()
        defer { store.close() }
        let found = try Self.find(id, try store.list())
        if isAt(id) { return standing(found) }
        guard found.state == .building else {
            throw ChangeRefusal(
                .conflict, "Replay \(id) is \(found.state.rawValue): only an unfinished one can be resumed.",
                hint: found.state == .cancelled ? "Start a new one." : nil)
        }
        try reserve(.build)
        do {
            let taken = try store.resume(id)
            return try hand(.build(taken, rate: rate), taken)
        } catch {
            release()
            throw error
        }
    }

    func cancel(_ id: Int64) throws -> ReplayStanding {
        var store = try open.makeReplayStore()
        defer { store.close() }
        let found = try Self.find(id, try store.list())
        guard found.state == .building || found.state == .cancelled else {
            throw ChangeRefusal(
                .conflict, "Replay \(id) is \(found.state.rawValue): only an unfinished one can be cancelled.",
                hint: found.state == .live ? "POST /v1/replays/\(id)/revert takes it back." : nil)
        }
        // Whoever works on it is refused from now on. What is left of it goes soon.
        let ended = try store.cancel(id)
        _ = jobs.tryPush(.sweep)
        return ReplayStanding(ended)
    }

    func revert(_ id: Int64) throws -> ReplayStanding {
        let found = try Self.find(id, try list())
        if found.state == .retired || isAt(id) { return standing(found) }
        guard found.state == .live else {
            throw ChangeRefusal(
                .conflict, "Replay \(id) is \(found.state.rawValue): only a live one can be taken back.",
                hint: found.state == .building ? "POST /v1/replays/\(id)/cancel gives it up." : nil)
        }
        try reserve(.revert)
        do {
            return try hand(.revert(found), found)
        } catch {
            release()
            throw error
        }
    }

    private func isAt(_ id: Int64) -> Bool { state.withLock { $0.place?.replay == id } }

    /// Takes the thread for what is about to be begun, or refuses.
    private func reserve(_ activity: ReplayStanding.Activity) throws(ChangeRefusal) {
        let other = state.withLock { state -> Place? in
            let other = state.place
            if other == nil { state.place = Place(activity: activity) }
            return other
        }
        guard let other else { return }
        throw ChangeRefusal(
            .conflict,
            "This API works on \(other.replay.map { "replay \($0)" } ?? "another replay"), and on one at a time.",
            hint: "Wait until it has ended (GET /v1/replays), cancel it, or run 'millrace replay' beside it.")
    }

    private func release() { state.withLock { $0.place = nil } }

    private func hand(_ job: Job, _ replay: StoredReplay) throws(ChangeRefusal) -> ReplayStanding {
        state.withLock {
            $0.place?.replay = replay.id
            $0.place?.began = .now
            $0.place?.first = replay.scanned
            $0.problems[replay.id] = nil
        }
        let answer = standing(replay)
        guard jobs.push(job) else {
            throw ChangeRefusal(.conflict, "This API is stopping.", hint: "Resume replay \(replay.id) when it is back.")
        }
        return answer
    }

    /// Throws every mistake in them at once.
    private static func inputs(_ request: ReplayRequest) throws(ChangeRefusal) -> (rules: Rules?, prices: String?) {
        var mistakes: [String] = []
        var rules: Rules?
        if let given = request.rules {
            let (read, problems) = RulesFile.read(given.string.map { Array($0.utf8) } ?? given.bytes)
            rules = read
            // What was sent as an object has no lines that anybody has seen.
            mistakes += problems.map { "rules: " + (given.string == nil ? $0.withoutLine : $0.description) }
        }
        var prices: String?
        if let given = request.prices {
            do {
                let text = try given.string.map { try YAMLNode.parse(Array($0.utf8)).json.text } ?? given.text
                _ = try PriceTable(json: Array(text.utf8))
                prices = text
            } catch {
                mistakes.append("prices: \(error)")
            }
        }
        guard mistakes.isEmpty else {
            throw ChangeRefusal(
                .mistaken, mistakes.joined(separator: "\n"),
                hint: "'millrace rules check FILE' looks at rules without starting anything.")
        }
        return (rules, prices)
    }

    private static func refuseOverlap(_ plan: ReplayPlan, _ all: [StoredReplay]) throws(ChangeRefusal) {
        guard let other = all.first(where: { $0.state == .building && $0.plan.overlaps(plan) }) else { return }
        throw ChangeRefusal(
            .conflict, "Replay \(other.id) is unfinished and covers some of the same days.",
            hint: "POST /v1/replays/\(other.id)/resume goes on with it, /v1/replays/\(other.id)/cancel gives it up.")
    }

    private static func find(_ id: Int64, _ all: [StoredReplay]) throws(ChangeRefusal) -> StoredReplay {
        if let found = all.first(where: { $0.id == id }) { return found }
        throw ChangeRefusal(.unknown, "There is no replay \(id).", hint: "GET /v1/replays lists them.")
    }

    private func standing(_ replay: StoredReplay) -> ReplayStanding {
        state.withLock { state in
            var standing = ReplayStanding(
                replay, problem: state.problems[replay.id],
                findings: state.findings.last { $0.id == replay.id }?.found)
            if let place = state.place, place.replay == replay.id {
                standing.activity = place.activity
                let seconds = place.began.duration(to: .now) / .seconds(1)
                if place.activity == .build, replay.scanned > place.first, seconds > 0 {
                    standing.eventsPerSecond = Double(replay.scanned - place.first) / seconds
                }
            }
            return standing
        }
    }

    // MARK: The thread

    private func work() {
        while let job = jobs.pop(), !stopped.isStopped {
            switch job {
            case .build(let replay, let rate):
                attempt(replay) { try build(replay, rate) }
                release()
            case .revert(let replay):
                attempt(replay) {
                    let done = try worker(under: nil).revert(replay)
                    log(.replayEnded(done.id, ending: "reverted", events: done.scanned, changed: done.changed))
                }
                release()
            case .sweep:
                // What cannot be deleted now is deleted after the next replay.
                do { try worker(under: nil).sweep() } catch { log(.replaySweepFailed(reason: "\(error)")) }
            }
        }
    }

    private func build(_ replay: StoredReplay, _ rate: Int?) throws {
        let worker = try worker(under: try ReplayWork.rules(of: replay.plan))
        switch try worker.run(replay, rate: rate, progress: { _ in }) {
        case .swapped(let done):
            log(.replayEnded(done.id, ending: "swapped", events: done.scanned, changed: done.changed))
        case .looked(let done, let changes, let isExact):
            let found = ReplayStanding.Findings(
                changes: changes.prefix(Limits.changes).map(\.json), count: changes.count, isExact: isExact)
            state.withLock {
                $0.findings.append((done.id, found))
                if $0.findings.count > Limits.findings { $0.findings.removeFirst() }
            }
            log(.replayEnded(done.id, ending: "looked", events: done.scanned, changed: done.changed))
        case .stopped(let left):
            log(.replayEnded(left.id, ending: "stopped", events: left.scanned, changed: left.changed))
        }
    }

    private func attempt(_ replay: StoredReplay, _ body: () throws -> Void) {
        do {
            try body()
        } catch let error as RollupStoreError where error.code == .staleEpoch {
            // Cancelled, or taken over by a command: both are somebody's wish.
            let last = (try? list())?.first { $0.id == replay.id } ?? replay
            log(.replayEnded(last.id, ending: "given_up", events: last.scanned, changed: last.changed))
            _ = jobs.tryPush(.sweep)
        } catch {
            if stopped.isStopped { return }
            state.withLock { $0.problems[replay.id] = "\(error)" }
            log(.replayFailed(replay.id, reason: "\(error)"))
        }
    }

    private func worker(under rules: Rules?) throws -> ReplayWork {
        try ReplayWork(configuration, open, configured: self.rules, rules: rules) { [stopped] in
            stopped.wait(milliseconds: Int($0 / .milliseconds(1)))
        }
    }
}
