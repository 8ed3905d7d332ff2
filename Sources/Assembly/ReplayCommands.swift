// `replay` and `replay list|status|resume|cancel|revert`: the past rebuilt in the foreground, beside live ingest.

import CaptureProxy
import CommandLine
import Configuration
import Events
import Glibc
import Ingest
import JSONText
import Normalizer
import Queries
import QueryAPI
import RecordLog
import Replay
import RollupStore
import Rollups

enum ReplayCommands {
    /// Changes shown as a table; `--json` has all of them.
    private static let changesShown = 40
    private static let progressSeconds = 5

    // MARK: Run

    static func run(_ invocation: Invocation) throws -> Int32 {
        let configuration = try invocation.configuration()
        let now = SystemFacts.now()
        guard let from = try invocation.time("from") else {
            throw UsageError("--from is missing", hint: "such as --from 2026-11-01T00:00:00Z")
        }
        let asked = try invocation.time("to")
        // An end in the future means now.
        guard from < min(asked ?? now, now) else {
            throw UsageError("--from does not lie before --to", hint: "--to is not included")
        }
        let source = invocation.text("source")
        if let source, source != "events", source != "log" {
            throw UsageError("--source \(source): not a source", hint: "events (as the store keeps them) or log")
        }
        let workspace = invocation.text("workspace")
        if workspace == "" { throw UsageError("--workspace is empty", hint: "leave it out for all workspaces") }
        let rules = try invocation.text("rules").map { try RulesFile.valid($0) }
        let prices = try invocation.text("prices").map { try Preparation.tree($0).text }
        if let prices { _ = try PriceTable(json: Array(prices.utf8)) }
        let inputs = try Inputs(configuration)
        let plan = try ReplayPlan(
            from: from, to: asked, rules: rules, prices: prices, isDryRun: invocation.flag("dry-run"),
            workspace: workspace, source: source, timeline: try inputs.timeline(), now: now)
        let work = try inputs.work(under: rules)
        var store = try inputs.replays()
        let reach = source == "events" ? nil : try work.reach(plan, &store)
        if let reach {
            Terminal.complain(
                "Events before \(RFC3339.precise(reach.until)) are past their retention: they are read from the log.")
        }
        let replay = try store.begin(plan, log: reach, now: now)
        if source == "log", replay.log == nil {
            Terminal.complain("The store still has all events of these days: they are read there.")
        }
        if replay.epoch > 1 { Terminal.complain("Goes on with replay \(replay.id): \(progress(of: replay)).") }
        return try drive(replay, work, invocation)
    }

    /// What is needed beside the plan.
    private struct Inputs {
        private let configuration: MillraceConfiguration
        private let open: OpenStore

        init(_ configuration: MillraceConfiguration) throws {
            self.configuration = configuration
            open = try Preparation.openExistingStore(configuration)
        }

        func replays() throws -> any ReplayStore { try open.makeReplayStore() }

        func timeline() throws -> RulesTimeline { try open.reader.read { try $0.rulesTimeline() } }

        func work(under rules: Rules? = nil) throws -> ReplayWork {
            try ReplayWork(configuration, open, configured: Preparation.read(configuration).rules, rules: rules) {
                Signals.wait(milliseconds: Int($0 / .milliseconds(1)))
            }
        }
    }

    private static func drive(_ replay: StoredReplay, _ work: ReplayWork, _ invocation: Invocation) throws -> Int32 {
        let rate = try invocation.integer("rate", in: 1...100_000_000)
        let ending = try work.run(
            replay, rate: rate, progress: Meter(replay).show,
            unreadable: { count in
                Terminal.complain(
                    "\(count) records of the log could not be counted, as when they came first: see "
                        + "'millrace dead-letters list'.")
            })
        switch ending {
        case .swapped(let done):
            if invocation.flag("json") {
                try Terminal.write(ReplayRow.json(done).text + "\n")
            } else {
                let what = done.changed == 0 ? "none of them differs" : "\(done.changed) of them differ"
                try Terminal.write(
                    "Replay \(done.id) answers for \(RFC3339.precise(done.plan.from)) to "
                        + "\(RFC3339.precise(done.plan.to)): \(done.scanned) \(unit(of: done)) counted anew, \(what).\n"
                        + "'millrace replay revert \(done.id)' goes back.\n")
            }
            return 0
        case .looked(let built, let changes, let isExact):
            try Terminal.write(
                invocation.flag("json")
                    ? json(built, changes, isExact: isExact).text + "\n" : table(built, changes, isExact: isExact))
            return 0
        case .stopped(let left):
            Terminal.complain(
                "Stopped: \(progress(of: left)). 'millrace replay resume \(left.id)' goes on, "
                    + "'millrace replay cancel \(left.id)' gives it up.")
            return 1
        }
    }

    // MARK: The others

    static func list(_ invocation: Invocation) throws -> Int32 {
        var store = try Inputs(try invocation.configuration()).replays()
        let all = try store.list()
        if invocation.flag("json") {
            try Terminal.write(JSONValue.array(all.map(ReplayRow.json)).text + "\n")
        } else if all.isEmpty {
            try Terminal.write("No replays.\n")
        } else {
            let rows = all.map { replay in
                [
                    "\(replay.id)", replay.state.rawValue, RFC3339.precise(replay.plan.from),
                    RFC3339.precise(replay.plan.to), replay.plan.rules.map { String($0.fingerprint.prefix(12)) } ?? "-",
                    replay.plan.prices == nil ? "-" : "other", replay.plan.workspace ?? "-", "\(replay.scanned)",
                    "\(replay.changed)",
                ]
            }
            try Terminal.write(
                TextTable(
                    heads: ["id", "state", "from", "to", "rules", "prices", "workspace", "events", "changed"], rows,
                    numbersFrom: 7
                ).text)
        }
        return 0
    }

    static func status(_ invocation: Invocation) throws -> Int32 {
        var store = try Inputs(try invocation.configuration()).replays()
        let replay = try find(invocation, &store)
        if invocation.flag("json") {
            try Terminal.write(ReplayRow.json(replay).text + "\n")
            return 0
        }
        var rows = [
            ["state", replay.state.rawValue], ["from", RFC3339.precise(replay.plan.from)],
            ["to", RFC3339.precise(replay.plan.to)],
            ["days", "\(RFC3339.precise(replay.plan.begin)) to \(RFC3339.precise(replay.plan.end))"],
            ["rules", replay.plan.rules?.fingerprint ?? "as they were"],
            ["prices", replay.plan.prices == nil ? "as they were" : "other"],
            ["workspace", replay.plan.workspace ?? "all"], ["progress", progress(of: replay)],
            ["changed", "\(replay.changed) events"], ["started", RFC3339.precise(replay.created)],
        ]
        for part in replay.log?.parts ?? [] {
            rows.append(["\(part.partition)", "\(Int(ReplayRow.progress(of: part) * 100)) %"])
        }
        if let swapped = replay.swapped { rows.append(["answers since", RFC3339.precise(swapped)]) }
        try Terminal.write(TextTable(heads: ["replay", "\(replay.id)"], rows).text)
        return 0
    }

    static func resume(_ invocation: Invocation) throws -> Int32 {
        let inputs = try Inputs(try invocation.configuration())
        var store = try inputs.replays()
        let replay = try store.resume(try id(invocation))
        return try drive(replay, inputs.work(under: ReplayWork.rules(of: replay.plan)), invocation)
    }

    static func cancel(_ invocation: Invocation) throws -> Int32 {
        let inputs = try Inputs(try invocation.configuration())
        let work = try inputs.work()
        var store = try inputs.replays()
        let ended = try store.cancel(try id(invocation))
        try work.sweep()
        try Terminal.write(
            invocation.flag("json")
                ? ReplayRow.json(ended).text + "\n" : "Replay \(ended.id) is given up; no answer has changed.\n")
        return 0
    }

    static func revert(_ invocation: Invocation) throws -> Int32 {
        let inputs = try Inputs(try invocation.configuration())
        var store = try inputs.replays()
        let replay = try find(invocation, &store)
        // One that is taken back already is answered as it stands: the answer may have been lost.
        guard replay.state == .live || replay.state == .retired else {
            throw Failure("Replay \(replay.id) is \(replay.state.rawValue): only a live one can be taken back.")
        }
        let done = try inputs.work().revert(replay)
        try Terminal.write(
            invocation.flag("json")
                ? ReplayRow.json(done).text + "\n"
                : "Replay \(done.id) is taken back: what answered before it answers again.\n")
        return 0
    }

    private static func find(_ invocation: Invocation, _ store: inout any ReplayStore) throws -> StoredReplay {
        let id = try id(invocation)
        guard let found = try store.list().first(where: { $0.id == id }) else { throw StoredReplay.unknown(id) }
        return found
    }

    private static func id(_ invocation: Invocation) throws(UsageError) -> Int64 {
        guard let id = Int64(invocation.arguments[0]) else {
            throw UsageError("\(invocation.arguments[0]): not the number of a replay", hint: "see millrace replay list")
        }
        return id
    }

    // MARK: Text

    private static func progress(of replay: StoredReplay) -> String {
        "\(replay.scanned) of \(replay.total) \(unit(of: replay)), \(Int(ReplayRow.progress(of: replay) * 100)) %"
    }

    /// Which partition is being read, where the log is.
    private static func place(of replay: StoredReplay) -> String {
        guard let log = replay.log, let current = log.current else { return "" }
        let part = log.parts[current]
        return "; \(part.partition) \(Int(ReplayRow.progress(of: part) * 100)) %, "
            + "\(current) of \(log.parts.count) partitions read"
    }

    private static func unit(of replay: StoredReplay) -> String { replay.log == nil ? "events" : "records and events" }

    /// How far it is, every few seconds, to standard error.
    private final class Meter {
        private let began = ContinuousClock.now
        private let first: Int64
        private var shown = ContinuousClock.now

        init(_ replay: StoredReplay) { first = replay.scanned }

        func show(_ replay: StoredReplay) {
            if shown.duration(to: .now) < .seconds(progressSeconds) { return }
            shown = .now
            let seconds = began.duration(to: .now) / .seconds(1)
            let rate = Double(replay.scanned - first) / max(seconds, 0.001)
            let left = rate > 0 ? "\(Int(Double(max(0, replay.total - replay.scanned)) / rate)) s left" : "waiting"
            Terminal.complain("\(progress(of: replay)), \(Int(rate))/s, \(left)\(place(of: replay))")
        }
    }

    private static func json(
        _ replay: StoredReplay, _ changes: [ReplayDifference.Change], isExact: Bool
    ) -> JSONValue {
        return [
            "dry_run": true, "events": JSONValue(replay.scanned), "changed_events": JSONValue(replay.changed),
            "exact": .boolean(isExact), "changes": .array(changes.map(\.json)),
        ]
    }

    private static func table(_ replay: StoredReplay, _ changes: [ReplayDifference.Change], isExact: Bool) -> String {
        func figure(_ value: Int64, _ measure: String, signed: Bool = false) -> String {
            let text = measure == "cost_nano_usd" ? decimal(value, digits: 9) : "\(value)"
            return signed && value > 0 ? "+" + text : text
        }
        var out =
            "\(replay.scanned) \(unit(of: replay)), \(replay.changed) of them would differ. Nothing was changed.\n"
        if !isExact { out += "Events of these days came meanwhile: the figures are not to the bit.\n" }
        if changes.isEmpty { return out + "No total, group or cost would change.\n" }
        let rows = changes.prefix(changesShown).map { change in
            [
                String(RFC3339.precise(change.day).prefix(10)), change.key, change.value,
                change.measure == "cost_nano_usd" ? "cost_usd" : change.measure, figure(change.before, change.measure),
                figure(change.after, change.measure), figure(change.difference, change.measure, signed: true),
            ]
        }
        out +=
            TextTable(
                heads: ["day", "key", "value", "measure", "before", "after", "difference"], rows, numbersFrom: 4
            ).text
        if changes.count > changesShown { out += "\(changes.count - changesShown) more; --json has all.\n" }
        return out
    }
}
