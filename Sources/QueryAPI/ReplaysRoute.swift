// `/v1/replays`: which parts of the past were, or are being, rebuilt; POST starts one, and cancels, resumes or takes one
// back. It concerns the whole installation: scope admin. Each POST leaves a line in the audit log.

import Access
package import Events
import HTTPTransport
package import JSONText
import Queries
import RecordLog
package import RollupStore
import Telemetry

/// What `POST /v1/replays` asks for.
package struct ReplayRequest: Sendable {
    package var from: EventTime
    /// nil: now.
    package var to: EventTime?
    /// An object, or the text of a file; nil: those of each event's time.
    package var rules: JSONValue?
    package var prices: JSONValue?
    package var isDryRun: Bool
    /// nil: all.
    package var workspace: String?
    /// Events a second at the most.
    package var rate: Int?
}

/// A replay, and what this process does and knows of it.
package struct ReplayStanding: Sendable {
    package enum Activity: String, Sendable { case build, revert }

    /// What a dry run found: rows that are ready to be sent, largest difference first.
    package struct Findings: Sendable {
        package var changes: [JSONValue]
        /// There may be more than are kept.
        package var count: Int
        package var isExact: Bool

        package init(changes: [JSONValue], count: Int, isExact: Bool) {
            self.changes = changes
            self.count = count
            self.isExact = isExact
        }
    }

    package var replay: StoredReplay
    package var activity: Activity?
    package var eventsPerSecond: Double?
    /// Why this process could not go on with it.
    package var problem: String?
    package var findings: Findings?

    package init(
        _ replay: StoredReplay, activity: Activity? = nil, eventsPerSecond: Double? = nil, problem: String? = nil,
        findings: Findings? = nil
    ) {
        self.replay = replay
        self.activity = activity
        self.eventsPerSecond = eventsPerSecond
        self.problem = problem
        self.findings = findings
    }
}

/// Whoever runs replays in this process. Every call may block, and throws `ChangeRefusal` or the store's errors.
package protocol ReplayControl: Sendable {
    /// All, the latest first.
    func all() throws -> [ReplayStanding]
    /// Begins one, on a thread of its own.
    func start(_ request: ReplayRequest) throws -> ReplayStanding
    func resume(_ id: Int64, rate: Int?) throws -> ReplayStanding
    func cancel(_ id: Int64) throws -> ReplayStanding
    func revert(_ id: Int64) throws -> ReplayStanding
}

package enum ReplayRow {
    package static func json(_ replay: StoredReplay) -> JSONValue {
        let plan = replay.plan
        return [
            "id": JSONValue(replay.id), "state": .string(replay.state.rawValue),
            "from": .string(RFC3339.precise(plan.from)), "to": .string(RFC3339.precise(plan.to)),
            "source": replay.log == nil ? "events" : "log",
            "rules": plan.rules.map { .string($0.fingerprint) } ?? .null,
            "prices": plan.prices.map { .string(priceVersion(of: $0)) } ?? .null,
            "workspace": plan.workspace.map { .string($0) } ?? .null,
            "dry_run": .boolean(plan.isDryRun), "progress": MeasureValue.number(progress(of: replay)).json,
            "partitions": .array((replay.log?.parts ?? []).map(json)),
            "events": JSONValue(replay.scanned), "expected_events": JSONValue(replay.total),
            "changed_events": JSONValue(replay.changed), "created": .string(RFC3339.precise(replay.created)),
            "swapped": replay.swapped.map { .string(RFC3339.precise($0)) } ?? .null,
        ]
    }

    static func json(_ standing: ReplayStanding) -> [JSONMember] {
        let replay = standing.replay
        let left = Double(max(0, replay.total - replay.scanned))
        let rate = standing.eventsPerSecond
        return (json(replay).members ?? []) + [
            JSONMember(key: "activity", value: standing.activity.map { .string($0.rawValue) } ?? .null),
            JSONMember(key: "events_per_second", value: rate.map { JSONValue(Int64($0)) } ?? .null),
            JSONMember(
                key: "seconds_left", value: rate.flatMap { $0 > 0 ? JSONValue(Int64(left / $0)) : nil } ?? .null),
            JSONMember(key: "problem", value: standing.problem.map { .string($0) } ?? .null),
        ]
    }

    private static func json(_ part: LogScan.Part) -> JSONValue {
        [
            "partition": .string("\(part.partition)"),
            "begin": JSONValue(part.begin.value), "next": JSONValue(part.next.value),
            "end": JSONValue(part.end.value), "progress": MeasureValue.number(progress(of: part)).json,
        ]
    }

    /// From 0 to 1, of the log's records that the replay reads.
    package static func progress(of part: LogScan.Part) -> Double {
        part.total == 0 ? 1 : Double(part.read) / Double(part.total)
    }

    /// From 0 to 1.
    package static func progress(of replay: StoredReplay) -> Double {
        if replay.isScanned { return 1 }
        return replay.total == 0 ? 0 : min(0.999, Double(replay.scanned) / Double(replay.total))
    }

    /// What the table calls itself; it was read when the replay began.
    private static func priceVersion(of text: String) -> String {
        (try? JSONValue.parse(text))?["version"]?.string ?? ""
    }
}

extension QueryService {
    /// Changes of a dry run that are sent where no limit is given, and at the most.
    private static let changesSent = 100
    private static let changesLimit = 1...1000
    private static let rates: ClosedRange<Int64> = 1...100_000_000

    func replays(_ request: HTTPRequest) throws(APIError) -> HTTPResponse {
        _ = try caller(of: request, scope: .admin)
        try Parameters(request).finish()
        let control = try control(request)
        let rows = try asking { try control.all().map { JSONValue.object(ReplayRow.json($0)) } }
        return .json(200, (["data": .array(rows)] as JSONValue).text)
    }

    func replay(_ request: HTTPRequest, _ text: String) throws(APIError) -> HTTPResponse {
        _ = try caller(of: request, scope: .admin)
        var parameters = try Parameters(request)
        let limit = try parameters.integer("limit", Self.changesLimit) ?? Self.changesSent
        try parameters.finish()
        let control = try control(request)
        let id = try Self.replayID(text)
        let all = try asking { try control.all() }
        guard let found = all.first(where: { $0.replay.id == id }) else { throw Self.noReplay(text) }
        var row = ReplayRow.json(found)
        let result = found.findings.map { findings -> JSONValue in
            [
                "changes": .array(Array(findings.changes.prefix(limit))), "changes_total": JSONValue(findings.count),
                "exact": .boolean(findings.isExact),
            ]
        }
        row.append(JSONMember(key: "result", value: result ?? .null))
        return .json(200, JSONValue.object(row).text)
    }

    // MARK: What changes something

    func startReplay(_ request: HTTPRequest, _ requestID: String) throws(APIError) -> HTTPResponse {
        try audited(request, "replay_start", nil, requestID) { (note) throws(APIError) in
            let control = try control(request)
            let asked = try Self.replayRequest(ofBody: request.body)
            note.detail = Self.detail(of: asked)
            let begun = try asking { try control.start(asked) }
            note.replay = begun.replay.id
            var response = HTTPResponse.json(202, JSONValue.object(ReplayRow.json(begun)).text)
            response.headers.append(("location", "/v1/replays/\(begun.replay.id)"))
            return response
        }
    }

    func changeReplay(
        _ request: HTTPRequest, _ text: String, _ action: String, _ requestID: String
    ) throws(APIError) -> HTTPResponse {
        try audited(request, "replay_\(action)", Int64(text), requestID) { (note) throws(APIError) in
            let control = try control(request)
            let id = try Self.replayID(text)
            let rate = try Self.rate(ofBody: request.body, isTaken: action == "resume")
            let done = try asking {
                switch action {
                case "cancel": try control.cancel(id)
                case "resume": try control.resume(id, rate: rate)
                default: try control.revert(id)
                }
            }
            return .json(done.activity == nil ? 200 : 202, JSONValue.object(ReplayRow.json(done)).text)
        }
    }

    // MARK: Reading

    private static func replayRequest(ofBody body: [UInt8]) throws(APIError) -> ReplayRequest {
        let members = try members(ofBody: body, example: #"{"from": "2026-11-01T00:00:00Z", "dry_run": true}"#)
        var asked = ReplayRequest(
            from: EventTime(microseconds: 0), to: nil, rules: nil, prices: nil, isDryRun: false, workspace: nil,
            rate: nil)
        var hasFrom = false
        var faults: [String] = []
        for member in members where !member.value.isNull {
            let value = member.value
            switch member.key {
            case "from", "to":
                guard let time = value.string.flatMap({ RFC3339.parse($0) }) else {
                    faults.append("\(member.key) is not an RFC 3339 time.")
                    break
                }
                if member.key == "from" { (asked.from, hasFrom) = (time, true) } else { asked.to = time }
            case "rules", "prices":
                guard value.members != nil || value.string != nil else {
                    faults.append("\(member.key) is neither an object nor the text of a file.")
                    break
                }
                if member.key == "rules" { asked.rules = value } else { asked.prices = value }
            case "dry_run":
                if let flag = value.boolean {
                    asked.isDryRun = flag
                } else {
                    faults.append("dry_run is not a boolean.")
                }
            case "workspace":
                asked.workspace = value.string
                if value.string?.isEmpty != false { faults.append("workspace is not the name of one.") }
            case "rate":
                do { asked.rate = try rate(value) } catch { faults.append(error.message) }
            default: faults.append("\"\(member.key)\" is not a part of a replay.")
            }
        }
        if !hasFrom && !faults.contains(where: { $0.hasPrefix("from ") }) { faults.append("from is missing.") }
        guard faults.isEmpty else {
            throw APIError(
                422, "invalid_replay", faults.joined(separator: " "),
                hint: "Parts: from, to, rules, prices, workspace, dry_run, rate; all but from may be left out.")
        }
        return asked
    }

    private static func rate(ofBody body: [UInt8], isTaken: Bool) throws(APIError) -> Int? {
        if body.isEmpty { return nil }
        for member in try members(ofBody: body, example: "{}") where !member.value.isNull {
            guard isTaken, member.key == "rate" else {
                throw APIError(
                    422, "invalid_replay", "\"\(member.key)\" is not taken here.",
                    hint: isTaken ? "rate is, or nothing." : "Send {} or no body.")
            }
            return try rate(member.value)
        }
        return nil
    }

    private static func rate(_ value: JSONValue) throws(APIError) -> Int {
        if let rate = value.integer, rates.contains(rate) { return Int(rate) }
        throw APIError(
            422, "invalid_replay", "rate is not an integer from \(rates.lowerBound) to \(rates.upperBound).",
            hint: "Events a second at the most; left out, half of the time is ingest's.")
    }

    private static func replayID(_ text: String) throws(APIError) -> Int64 {
        guard let id = Int64(text) else { throw noReplay(text) }
        return id
    }

    private static func noReplay(_ text: String) -> APIError {
        APIError(404, "not_found", "There is no replay \(text.prefix(40)).", hint: "GET /v1/replays lists them.")
    }

    private func control(_ request: HTTPRequest) throws(APIError) -> any ReplayControl {
        if let replays { return replays }
        throw APIError(nothingAt: request)
    }

    /// Times and kinds; never the rules themselves.
    private static func detail(of asked: ReplayRequest) -> String {
        var words = [
            "from \(RFC3339.precise(asked.from))", "to \(asked.to.map { RFC3339.precise($0) } ?? "now")",
        ]
        if asked.rules != nil { words.append("other rules") }
        if asked.prices != nil { words.append("other prices") }
        if let workspace = asked.workspace { words.append("workspace \(workspace)") }
        if asked.isDryRun { words.append("dry run") }
        return words.joined(separator: ", ")
    }
}
