// Each route under /v1: parameters or a JSON body -> a question to the engine -> JSON.

import Events
import HTTPTransport
import JSONText
import Queries
import RollupStore
import Telemetry

extension QueryService {
    func query(_ request: HTTPRequest, workspace: String) throws(APIError) -> HTTPResponse {
        let started = ContinuousClock.now
        var parameters = try Parameters(request)
        let explains = try parameters.boolean("explain") ?? false
        let input: QuestionInput
        if request.method == "POST" {
            try parameters.finish()
            input = try Self.input(ofBody: request.body)
        } else {
            input = try Self.input(of: &parameters)
        }
        let question: Question
        do {
            question = try Question(input, now: now(), zoneFile: zoneFile)
        } catch {
            throw APIError(error)
        }
        let range = StoreTag.Range(from: question.from, to: question.to, isSaid: explains)
        let extra = [question.granularity.rawValue]
        let (headers, answer) = try tagged(request, workspace, extra, range) { (snapshot, budget) throws(QueryError) in
            let answer = try engine.answer(
                question, workspace: workspace, snapshot: snapshot, budget: budget, explains: explains)
            metrics.questions.add()
            metrics.rowsRead.add(answer.plan.rowsRead)
            metrics.questionDuration.record(microseconds: UInt64(started.microsecondsSince))
            return answer
        }
        guard let answer else { return HTTPResponse(status: 304, headers: headers) }
        return try write(answer, headers)
    }

    /// A large one is written while it is sent.
    private func write(_ answer: Answer, _ headers: [(name: String, value: String)]) throws(APIError) -> HTTPResponse {
        var response = HTTPResponse(status: 200, headers: [("content-type", "application/json")] + headers)
        guard answer.data.count + answer.other.count > Limits.rowsAtOnce else {
            response.body = answer.bytes
            return response
        }
        guard let slot = exports.take() else {
            throw APIError(
                429, "too_many_exports",
                "\(Limits.exports) exports or answers of more than \(Limits.rowsAtOnce) rows are under way; no more at once.",
                hint: "Try again when one has ended, or ask for fewer groups or a coarser granularity.")
        }
        response.stream = { sink in
            withExtendedLifetime(slot) { answer.write(inPartsOf: Limits.partSize) { sink.write($0) } }
        }
        return response
    }

    func events(_ request: HTTPRequest, workspace: String) throws(APIError) -> HTTPResponse {
        var parameters = try Parameters(request)
        let format = try EventFormat(&parameters, accept: request.header("accept"))
        let limit = try parameters.integer("limit", format == .json ? 1...1000 : 1 ... .max)
        let from = try parameters.instant("from") ?? EventTime(microseconds: 0)
        // Clocks of proxies may run ahead of this one: without an end everything is shown.
        let to = try parameters.instant("to") ?? EventTime(microseconds: 253_402_300_800_000_000)
        let filter = parameters.take("where") ?? ""
        let cursor = parameters.take("cursor")
        try parameters.finish()
        let condition: Condition?
        do {
            condition = try ConditionParser.parse(filter)
        } catch {
            throw APIError(error)
        }
        let listing = EventListing(condition: condition, from: from, to: to, workspace: workspace)
        let start = try cursor.map { (text) throws(APIError) in try eventCursor(text, workspace) }
        if format != .json { return try export(listing, after: start, limit: limit, format) }
        return try tagged(request, workspace) { (snapshot, budget) throws(QueryError) in
            let page = try self.page(listing, after: start, limit: limit ?? 50, snapshot, budget)
            return [
                "data": .array(page.events),
                "next_cursor": page.next.map { .string($0.text) } ?? .null,
                "retained_from": page.retainedFrom.map { .string(RFC3339.precise($0)) } ?? .null,
            ]
        }
    }

    func page(
        _ listing: EventListing, after cursor: EventCursor?, limit: Int, _ snapshot: any RollupSnapshot,
        _ budget: QueryBudget
    ) throws(QueryError) -> EventPage {
        try engine.events(
            matching: listing.condition, from: listing.from, to: listing.to, after: cursor, limit: limit,
            workspace: listing.workspace, snapshot: snapshot, budget: budget)
    }

    /// One that was given out, or the id of the last event that came.
    private func eventCursor(_ text: String, _ workspace: String) throws(APIError) -> EventCursor {
        if let cursor = EventCursor(text: text) { return cursor }
        if let id = EventID(text: text) {
            let found = try read { (snapshot, _) throws(QueryError) in
                try engine.cursor(after: id, workspace: workspace, snapshot: snapshot)
            }
            if let found { return found }
        }
        throw APIError(
            422, "invalid_question", "The cursor is not one that was given out.",
            hint: "Send next_cursor of the page before, or the id of the last event that came.")
    }

    func event(_ text: String, workspace: String) throws(APIError) -> HTTPResponse {
        guard let id = EventID(text: text) else {
            throw APIError(404, "not_found", "\"\(text)\" is not an event's id.", hint: "Ids are UUIDs.")
        }
        let event = try read { (snapshot, _) throws(QueryError) in
            try engine.event(id: id, workspace: workspace, snapshot: snapshot)
        }
        guard let event else {
            throw APIError(
                404, "not_found", "There is no event \(id).", hint: "It may be older than what is kept of events.")
        }
        return .json(200, event.text)
    }

    func metadataKeys(_ request: HTTPRequest, workspace: String) throws(APIError) -> HTTPResponse {
        var parameters = try Parameters(request)
        let range = try parameters.range(now: now())
        try parameters.finish()
        return try tagged(request, workspace, of: range) { (snapshot, budget) throws(QueryError) in
            try engine.describedKeys(
                from: range.from, to: range.to, workspace: workspace, snapshot: snapshot, budget: budget)
        }
    }

    func metadataValues(_ request: HTTPRequest, key: String, workspace: String) throws(APIError) -> HTTPResponse {
        var parameters = try Parameters(request)
        let range = try parameters.range(now: now())
        let limit = try parameters.integer("limit", 1...1000) ?? 100
        let prefix = parameters.take("prefix") ?? ""
        try parameters.finish()
        guard let key = Parameters.decoded(key[...], plusIsBlank: false) else {
            throw APIError(400, "invalid_url", "The key in the path is not percent-encoded UTF-8.")
        }
        return try tagged(request, workspace, of: range) { (snapshot, budget) throws(QueryError) in
            let listing = try engine.metadataValues(
                of: key, prefix: prefix, limit: limit, from: range.from, to: range.to, workspace: workspace,
                snapshot: snapshot, budget: budget)
            let rows = listing.values.map { value -> JSONValue in
                ["value": .string(value.value), "requests": JSONValue(value.requests)]
            }
            return [
                "data": .array(rows), "missing": .array(listing.missing.map(\.json)),
                "exact": .boolean(listing.isExact),
            ]
        }
    }

    /// One consistent state of the store for the whole of `body`, within the time that a question may take.
    func read<Result>(
        _ body: (any RollupSnapshot, QueryBudget) throws(QueryError) -> Result
    ) throws(APIError) -> Result {
        let start = ContinuousClock.now
        let end = start.advanced(by: timeLimit)
        let engineEnd = start.advanced(by: timeLimit * Limits.engineSixteenths / 16)
        let budget = QueryBudget { ContinuousClock.now >= engineEnd }
        do {
            return try reader.read(until: { ContinuousClock.now >= end }) { snapshot in try body(snapshot, budget) }
        } catch {
            let failure = QueryError(reading: error)
            // That the store was told to stop it says as a failure of its own, through whatever layer.
            throw APIError(failure.isTransient && budget.isSpent() ? QueryBudget.timedOut() : failure)
        }
    }

    /// An answer that bears the tag of the store's state: where a client has it already, only that is said.
    /// - `range`: of the answer, which depends on nothing else beside the URL and the workspace.
    func tagged(
        _ request: HTTPRequest, _ workspace: String, of range: (from: EventTime, to: EventTime)? = nil,
        _ body: (any RollupSnapshot, QueryBudget) throws(QueryError) -> JSONValue
    ) throws(APIError) -> HTTPResponse {
        let range = range.map { StoreTag.Range(from: $0.from, to: $0.to, isSaid: false) }
        let (headers, answer) = try tagged(request, workspace, [], range, body)
        guard let answer else { return HTTPResponse(status: 304, headers: headers) }
        return HTTPResponse(
            status: 200, headers: [("content-type", "application/json")] + headers, body: answer.bytes)
    }

    /// nil: the client has it already.
    /// - `extra`: what the answer depends on beside the URL, the body, the workspace and the range.
    private func tagged<Content>(
        _ request: HTTPRequest, _ workspace: String, _ extra: [String], _ range: StoreTag.Range?,
        _ body: (any RollupSnapshot, QueryBudget) throws(QueryError) -> Content
    ) throws(APIError) -> (headers: [(name: String, value: String)], Content?) {
        let known = request.method == "POST" ? [] : StoreTag.known(request)
        let (tag, answer) = try read { (snapshot, budget) throws(QueryError) -> (String, Content?) in
            let tag = try StoreTag.tag(
                snapshot, workspace,
                [request.path, request.query, String(decoding: request.body, as: UTF8.self)] + extra, range)
            if known.contains(where: { $0 == tag || $0 == "*" }) { return (tag, nil) }
            return (tag, try body(snapshot, budget))
        }
        let headers: [(name: String, value: String)] = [
            ("etag", tag), ("cache-control", "private, no-cache"), ("vary", "authorization, x-portkey-api-key"),
        ]
        return (headers, answer)
    }
}

// Reading a question.
extension QueryService {
    private static let names = [
        "from", "to", "granularity", "timezone", "where", "group_by", "measures", "order_by", "limit",
    ]

    static func input(ofBody body: [UInt8]) throws(APIError) -> QuestionInput {
        guard body.count <= Limits.bodySize else {
            throw APIError(413, "too_large", "The body has \(body.count) bytes; at most \(Limits.bodySize) are read.")
        }
        let tree: JSONValue
        do {
            tree = try JSONValue.parse(body, depth: 8)
        } catch {
            var refusal = APIError(
                400, "invalid_json", "The body is not JSON: \(error).",
                hint: "For example: {\"measures\": [\"requests\"], \"group_by\": [\"metadata.env\"]}")
            refusal.position = error.position
            throw refusal
        }
        guard let members = tree.members else {
            throw APIError(400, "invalid_json", "The body is JSON, but not an object.")
        }
        var input = QuestionInput()
        var faults: [String] = []
        for member in members where !member.value.isNull {
            func text(_ path: WritableKeyPath<QuestionInput, String?>) {
                if let text = member.value.string {
                    input[keyPath: path] = text
                } else {
                    faults.append("\(member.key) is not a string.")
                }
            }
            func list(_ path: WritableKeyPath<QuestionInput, [String]>) {
                if let text = member.value.string {
                    input[keyPath: path] = [text]
                } else if let list = member.value.array, list.allSatisfy({ $0.string != nil }) {
                    input[keyPath: path] = list.compactMap(\.string)
                } else {
                    faults.append("\(member.key) is not a list of strings.")
                }
            }
            switch member.key {
            case "from": text(\.from)
            case "to": text(\.to)
            case "granularity": text(\.granularity)
            case "timezone": text(\.timezone)
            case "where": text(\.filter)
            case "order_by": text(\.orderBy)
            case "group_by": list(\.groupBy)
            case "measures": list(\.measures)
            case "limit":
                if let limit = member.value.integer {
                    input.limit = Int(limit)
                } else {
                    faults.append("limit is not an integer.")
                }
            default: faults.append("\"\(member.key)\" is not a part of a question.")
            }
        }
        guard faults.isEmpty else {
            throw APIError(
                422, "invalid_question", faults.joined(separator: " "), hint: "Parts: \(names.joined(separator: ", "))."
            )
        }
        return input
    }

    static func input(of parameters: inout Parameters) throws(APIError) -> QuestionInput {
        var input = QuestionInput()
        input.from = parameters.take("from")
        input.to = parameters.take("to")
        input.granularity = parameters.take("granularity")
        input.timezone = parameters.take("timezone")
        input.filter = parameters.take("where")
        input.orderBy = parameters.take("order_by")
        input.groupBy = parameters.list("group_by")
        input.measures = parameters.list("measures")
        // Out of range is said with everything else that is wrong with the question.
        input.limit = try parameters.integer("limit", .min ... .max)
        try parameters.finish()
        return input
    }
}

/// The parameters of a URL's query; each is taken once, and what is left over is refused.
package struct Parameters {
    private var values: [String: String] = [:]
    private var known: [String] = []

    init(_ request: HTTPRequest) throws(APIError) {
        for part in request.query.split(separator: "&") {
            let pieces = part.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            guard let name = Self.decoded(pieces[0]), let value = Self.decoded(pieces.count == 2 ? pieces[1] : "")
            else {
                throw APIError(400, "invalid_url", "The URL's query is not percent-encoded UTF-8.")
            }
            guard values.updateValue(value, forKey: name) == nil else {
                throw APIError(422, "invalid_question", "The parameter \"\(name)\" comes twice.")
            }
        }
    }

    mutating func take(_ name: String) -> String? {
        known.append(name)
        let value = values.removeValue(forKey: name)
        return value == "" ? nil : value
    }

    mutating func list(_ name: String) -> [String] { Self.names(take(name) ?? "") }

    /// Commas part the names, but not within quotes.
    package static func names(_ text: String) -> [String] {
        var out: [String] = []
        var item = ""
        var isQuoted = false
        for character in text {
            if character == "\"" { isQuoted.toggle() }
            if character == ",", !isQuoted {
                out.append(item)
                item = ""
            } else {
                item.append(character)
            }
        }
        out.append(item)
        return out.filter { !$0.isEmpty }
    }

    mutating func integer(_ name: String, _ range: ClosedRange<Int>) throws(APIError) -> Int? {
        guard let text = take(name) else { return nil }
        guard let value = Int(text), range.contains(value) else {
            let allowed =
                range.upperBound == .max ? "an integer" : "between \(range.lowerBound) and \(range.upperBound)"
            throw APIError(422, "invalid_question", "\(name) \"\(text)\" is not \(allowed).")
        }
        return value
    }

    mutating func boolean(_ name: String) throws(APIError) -> Bool? {
        switch take(name) {
        case nil: return nil
        case "true", "1": return true
        case "false", "0": return false
        case let text?:
            throw APIError(422, "invalid_question", "\(name) \"\(text)\" is neither true nor false.")
        }
    }

    mutating func instant(_ name: String) throws(APIError) -> EventTime? {
        guard let text = take(name) else { return nil }
        guard let time = RFC3339.parse(text) else {
            throw APIError(
                422, "invalid_question", "\(name) \"\(text)\" is not an RFC 3339 time.",
                hint: "For example 2026-11-01T00:00:00Z; in a URL a plus sign is written %2B.")
        }
        return time
    }

    /// Left out: the last day.
    mutating func range(now: EventTime) throws(APIError) -> (from: EventTime, to: EventTime) {
        let to = try instant("to") ?? now
        let from = try instant("from") ?? EventTime(microseconds: to.microseconds - 86_400_000_000)
        guard from < to else {
            throw APIError(
                422, "invalid_question",
                "from (\(RFC3339.precise(from))) is not before to (\(RFC3339.precise(to))).")
        }
        return (from, to)
    }

    func finish() throws(APIError) {
        guard let name = values.keys.min() else { return }
        throw APIError(
            422, "invalid_question", "The parameter \"\(name)\" is not known here.",
            hint: "Known: \(known.joined(separator: ", ")).")
    }

    /// nil for a percent sign without two digits, and for what is not UTF-8.
    static func decoded(_ text: Substring, plusIsBlank: Bool = true) -> String? {
        var out: [UInt8] = []
        var bytes = Array(text.utf8)[...]
        while let byte = bytes.popFirst() {
            switch byte {
            case UInt8(ascii: "%"):
                guard bytes.count >= 2,
                    let value = UInt8(String(decoding: bytes.prefix(2), as: UTF8.self), radix: 16)
                else { return nil }
                out.append(value)
                bytes = bytes.dropFirst(2)
            case UInt8(ascii: "+") where plusIsBlank: out.append(UInt8(ascii: " "))
            default: out.append(byte)
            }
        }
        return String(validating: out, as: UTF8.self)
    }
}
