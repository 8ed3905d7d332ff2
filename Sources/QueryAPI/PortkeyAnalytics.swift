// The analytics routes that clients of Portkey know: their parameters -> a question -> answers of their shapes.
//
// Money is in cents, pages count from 0, rates are in percent. What is not recorded here (feedback, caches, rescued
// requests) is answered as where there is none: zeros, and empty lists. docs/portkey-analytics.md has the table.

import Events
import HTTPTransport
import JSONText
import Queries
import RollupStore
import Rollups

extension QueryService {
    func analytics(_ request: HTTPRequest, _ name: String, workspace: String) throws(APIError) -> HTTPResponse {
        let isGroup = name.hasPrefix("groups/")
        guard isGroup ? PortkeyGroup(name) != nil : PortkeyGraph.names.contains(name) else {
            throw APIError(
                404, "not_found", "There is nothing at \(request.path).",
                hint: "/v1/analytics has \(PortkeyGraph.names.joined(separator: ", ")), "
                    + "groups/users, groups/ai-models, groups/provider, groups/metadata/KEY.")
        }
        let filter = try PortkeyFilter(request)
        return try tagged(request, workspace) { (snapshot, budget) throws(QueryError) in
            let reading = PortkeyReading(
                engine: engine, snapshot: snapshot, budget: budget, workspace: workspace,
                filter: filter)
            if let group = PortkeyGroup(name) { return try reading.rows(of: group) }
            return try reading.graph(name)
        }
    }
}

/// The parameters that all these routes share.
struct PortkeyFilter: Sendable {
    static let userKey = "_user"

    var from: EventTime
    var to: EventTime
    var conditions: [Condition] = []
    var page = 0
    var pageSize = 50

    /// Parameters that are not known are passed over, as clients may send more of them than there are.
    init(_ request: HTTPRequest) throws(APIError) {
        var parameters = try Parameters(request)
        let from = try Self.instant("time_of_generation_min", &parameters)
        let to = try Self.instant("time_of_generation_max", &parameters)
        guard from < to else {
            throw APIError(
                422, "invalid_question",
                "time_of_generation_min (\(RFC3339.precise(from))) is not before time_of_generation_max "
                    + "(\(RFC3339.precise(to))).")
        }
        (self.from, self.to) = (from, to)
        try bounds("total_units", .totalTokens, &parameters)
        try bounds("prompt_token", .inputTokens, &parameters)
        try bounds("completion_token", .outputTokens, &parameters)
        try bounds("cost", .cost, &parameters, unitsPerOne: 100)
        let statuses = parameters.list("status_code")
        if !statuses.isEmpty {
            var any: [Condition] = []
            for text in statuses {
                any.append(.leaf(.number(.status, .equal, try Self.number("status_code", text))))
            }
            conditions.append(.any(any))
        }
        let keys = parameters.list("api_key_ids")
        if !keys.isEmpty { conditions.append(.leaf(.dimension(.apiKey, .anyOf(keys)))) }
        for (name, field) in [("trace_id", EventText.trace), ("span_id", .span)] {
            let wanted = parameters.list(name)
            if !wanted.isEmpty { conditions.append(.leaf(.text(field, wanted))) }
        }
        let models = parameters.list("ai_org_model")
        if !models.isEmpty { conditions.append(.any(try models.map(Self.model))) }
        if let text = parameters.take("metadata") { conditions += try Self.metadata(text) }
        // No event has any of these: a filter on one matches nothing.
        for name in ["virtual_keys", "configs", "prompt_slug", "weighted_feedback_min", "weighted_feedback_max"]
        where parameters.take(name) != nil {
            conditions.append(.any([]))
        }
        page = try parameters.integer("current_page", 0...1_000_000) ?? 0
        pageSize = try parameters.integer("page_size", 1...QueryLimits.limit) ?? 50
    }

    private static func instant(_ name: String, _ parameters: inout Parameters) throws(APIError) -> EventTime {
        guard let text = parameters.take(name) else {
            throw APIError(
                422, "invalid_question", "\(name) is missing.", hint: "For example \(name)=2026-11-01T00:00:00Z.")
        }
        // An offset's plus sign that was not escaped has become a blank.
        let mended = String(text.enumerated().map { $0.offset > 15 && $0.element == " " ? "+" : $0.element })
        guard let time = RFC3339.parse(mended) else {
            throw APIError(
                422, "invalid_question", "\(name) \"\(text)\" is not an ISO 8601 time with an offset.",
                hint: "For example 2026-11-01T00:00:00Z.")
        }
        return time
    }

    private static func number(_ name: String, _ text: String) throws(APIError) -> Int128 {
        guard let value = FixedPoint.nanos(text) else {
            throw APIError(422, "invalid_question", "\(name) \"\(text)\" is not a number.")
        }
        return value
    }

    private mutating func bounds(
        _ name: String, _ field: NumericField, _ parameters: inout Parameters, unitsPerOne: Int128 = 1
    ) throws(APIError) {
        if let text = parameters.take(name + "_min") {
            // Rounded up: what lies below the bound by a fraction of the unit stays out.
            let value = try Self.number(name + "_min", text)
            let (quotient, remainder) = value.quotientAndRemainder(dividingBy: unitsPerOne)
            conditions.append(.leaf(.number(field, .greaterOrEqual, remainder > 0 ? quotient + 1 : quotient)))
        }
        if let text = parameters.take(name + "_max") {
            let value = try Self.number(name + "_max", text)
            conditions.append(.leaf(.number(field, .lessOrEqual, value / unitsPerOne)))
        }
    }

    /// `openai__gpt-4o`: provider and model.
    private static func model(_ text: String) throws(APIError) -> Condition {
        guard let cut = text.firstRange(of: "__"), cut.lowerBound > text.startIndex, cut.upperBound < text.endIndex
        else {
            throw APIError(
                422, "invalid_question", "ai_org_model \"\(text)\" is not PROVIDER__MODEL.",
                hint: "For example openai__gpt-4o.")
        }
        return .all([
            .leaf(.dimension(.provider, .anyOf([String(text[..<cut.lowerBound])]))),
            .leaf(.dimension(.model, .anyOf([String(text[cut.upperBound...])]))),
        ])
    }

    private static func metadata(_ text: String) throws(APIError) -> [Condition] {
        let refusal = APIError(
            422, "invalid_question", "metadata is not a JSON object of strings, numbers and booleans.",
            hint: "For example metadata={\"env\":\"staging\"}, percent-encoded.")
        let tree: JSONValue
        do {
            tree = try JSONValue.parse(Array(text.utf8), depth: 2)
        } catch {
            throw refusal
        }
        guard let members = tree.members else { throw refusal }
        var out: [Condition] = []
        for member in members {
            let value: String
            switch member.value {
            case .string(let text): value = text
            case .number(let digits): value = digits
            case .boolean(let isTrue): value = isTrue ? "true" : "false"
            case .null, .array, .object: throw refusal
            }
            out.append(.leaf(.dimension(.metadata(member.key), .anyOf([value]))))
        }
        return out
    }
}

enum PortkeyGroup {
    case users, models, providers
    case metadata(String)

    init?(_ name: String) {
        switch name {
        case "groups/users": self = .users
        case "groups/ai-models": self = .models
        case "groups/provider": self = .providers
        default:
            guard name.hasPrefix("groups/metadata/"),
                let key = Parameters.decoded(name.dropFirst("groups/metadata/".count), plusIsBlank: false), !key.isEmpty
            else { return nil }
            self = .metadata(key)
        }
    }

    var dimension: Dimension {
        switch self {
        case .users: .metadata(PortkeyFilter.userKey)
        case .models: .model
        case .providers: .provider
        case .metadata(let key): .metadata(key)
        }
    }
}

enum PortkeyGraph {
    static let names = [
        "graphs/requests", "graphs/cost", "graphs/latency", "graphs/tokens", "graphs/users", "graphs/users/requests",
        "graphs/errors", "graphs/errors/rate", "graphs/errors/stacks", "graphs/errors/status-codes",
        "graphs/requests/rescued", "graphs/cache/hit-rate", "graphs/cache/latency", "graphs/feedbacks",
        "graphs/feedbacks/scores", "graphs/feedbacks/weighted", "graphs/feedbacks/ai-models", "summary/cache",
    ]
}

/// One of these routes, on one state of the store.
struct PortkeyReading {
    let engine: QueryEngine
    let snapshot: any RollupSnapshot
    let budget: QueryBudget
    let workspace: String
    let filter: PortkeyFilter

    private typealias Figures = [MeasureValue]

    private static let hasUser = Condition.leaf(.dimension(.metadata(PortkeyFilter.userKey), .exists))
    private static let users = Measure.distinct(PortkeyFilter.userKey)

    private func question(
        _ measures: [Measure], _ granularity: Granularity = .auto, groupBy: [GroupName] = [],
        and condition: Condition? = nil, limit: Int = 1
    ) throws(QueryError) -> Question {
        let conditions = filter.conditions + (condition.map { [$0] } ?? [])
        let question = Question(
            from: filter.from, to: filter.to, granularity: granularity,
            condition: conditions.isEmpty ? nil : .all(conditions), groupBy: groupBy, measures: measures, limit: limit)
        try question.checkBuckets()
        return question
    }

    private func answer(_ question: Question) throws(QueryError) -> Answer {
        try engine.answer(
            question, workspace: workspace, snapshot: snapshot, budget: budget)
    }

    // MARK: Graphs

    func graph(_ name: String) throws(QueryError) -> JSONValue {
        switch name {
        case "graphs/requests": return try graph([.requests]) { ["total": Self.integer($0[0])] }
        case "graphs/cost":
            return try graph([.costUSD, .requests]) {
                ["total": Self.cents($0[0]), "avg": Self.averageCents($0[0], $0[1])]
            }
        case "graphs/latency":
            let statistics: [Statistic] = [.avg, .p50, .p90, .p99]
            return try graph(statistics.map { .timing(.latency, $0) }) { figures in
                .object(
                    zip(statistics, figures).map { JSONMember(key: $0.rawValue, value: Self.zeroForNone($1)) })
            }
        case "graphs/tokens":
            return try graph([.totalTokens, .requests]) {
                ["total": Self.integer($0[0]), "avg": Self.ratio($0[0], $0[1])]
            }
        case "graphs/users": return try graph([Self.users]) { ["total": Self.integer($0[0])] }
        case "graphs/users/requests":
            return try graph([.requests, Self.users], and: Self.hasUser) { figures in
                [
                    "total": Self.integer(figures[0]), "unique": Self.integer(figures[1]),
                    "avg": Self.ratio(figures[0], figures[1]),
                ]
            }
        case "graphs/errors": return try graph([.errors]) { ["total": Self.integer($0[0])] }
        case "graphs/errors/rate":
            return try graph([.errors, .requests]) { ["rate": Self.ratio($0[0], $0[1], times: 100)] }
        case "graphs/errors/stacks": return try errorStacks()
        case "graphs/errors/status-codes": return try errorCodes()
        case "graphs/requests/rescued":
            return try nothing(["retry": 0, "fallback": 0], ["retry": [], "fallback": 0])
        case "graphs/cache/hit-rate":
            return try nothing(
                ["total": 0, "rate": 0],
                [
                    "simple_hits": 0, "semantic_hits": 0, "rate": 0, "cumulative_simple_cache_savings": 0,
                    "cumulative_semantic_cache_savings": 0,
                ])
        case "graphs/cache/latency": return try nothing(["avg": 0], ["avg": 0])
        case "graphs/feedbacks": return try nothing(["total": 0], ["total": 0])
        case "graphs/feedbacks/weighted": return try nothing(["avg": 0], ["avg": 0])
        case "graphs/feedbacks/scores": return Self.graph(["total": 0], [])
        case "graphs/feedbacks/ai-models": return Self.graph(["total": 0], [])
        default:
            let answer = try answer(question([.requests], .total))
            return [
                "summary": [
                    "hits": 0, "avg_latency": 0, "total_requests": Self.integer(answer.totals[0]), "cache_speedup": 0,
                ],
                "object": "analytics-summary",
            ]
        }
    }

    private static func graph(_ summary: JSONValue, _ points: [JSONValue]) -> JSONValue {
        ["summary": summary, "data_points": .array(points), "object": "analytics-graph"]
    }

    private static func point(_ timestamp: String, _ figures: JSONValue) -> JSONValue {
        .object([JSONMember(key: "timestamp", value: .string(timestamp))] + (figures.members ?? []))
    }

    /// A point for every bucket of the range, those without events too.
    private func graph(
        _ measures: [Measure], and condition: Condition? = nil, _ shape: (Figures) -> JSONValue
    ) throws(QueryError) -> JSONValue {
        let question = try question(measures, and: condition)
        let answer = try answer(question)
        var found: [String: Figures] = [:]
        for row in answer.data { if let bucket = row.bucket { found[bucket] = row.values } }
        let none = measures.map { _ in MeasureValue.null }
        let points = question.bucketLabels.map { Self.point($0, shape(found[$0] ?? none)) }
        return Self.graph(shape(answer.totals), points)
    }

    private func nothing(_ summary: JSONValue, _ figures: JSONValue) throws(QueryError) -> JSONValue {
        Self.graph(summary, try question([.requests]).bucketLabels.map { Self.point($0, figures) })
    }

    private func statuses(_ question: Question) throws(QueryError) -> [StatusCount] {
        try engine.errorStatuses(
            question, workspace: workspace, snapshot: snapshot, budget: budget)
    }

    private func errorStacks() throws(QueryError) -> JSONValue {
        let question = try question([.errors])
        let counts = try statuses(question)
        var stats: [Int: [JSONValue]] = [:]
        for count in counts {
            stats[count.bucket, default: []].append([
                "response_status_code": JSONValue(count.status), "count": JSONValue(count.count),
            ])
        }
        let points = question.bucketLabels.enumerated().map { index, label in
            Self.point(label, ["stats": .array(stats[index] ?? [])])
        }
        return Self.graph(["total": JSONValue(counts.reduce(0) { $0 + $1.count })], points)
    }

    private func errorCodes() throws(QueryError) -> JSONValue {
        var codes: [Int: Int64] = [:]
        for count in try statuses(question([.errors], .total)) { codes[count.status, default: 0] += count.count }
        let points = codes.sorted { ($1.value, $0.key) < ($0.value, $1.key) }.map { code, count -> JSONValue in
            ["status_code": JSONValue(code), "count": JSONValue(count)]
        }
        let total = codes.values.reduce(0, +)
        return Self.graph(
            ["total_errors": JSONValue(total), "unique_error_codes": JSONValue(codes.count)], points)
    }

    // MARK: Groups

    /// Events without the value make no row.
    func rows(of group: PortkeyGroup) throws(QueryError) -> JSONValue {
        let dimension = group.dimension
        let each = if case .metadata = dimension { true } else { false }
        let (end, overflows) = (filter.page + 1).multipliedReportingOverflow(by: filter.pageSize)
        let answer = try answer(
            try question(
                [.requests, .costUSD, .totalTokens], .total, groupBy: [GroupName(dimension: dimension, each: each)],
                and: .leaf(.dimension(dimension, .exists)),
                limit: overflows ? QueryLimits.limit : min(end, QueryLimits.limit)))
        var rows: [JSONValue] = []
        for row in answer.data.dropFirst(filter.page &* filter.pageSize) {
            rows.append(try self.row(row, of: group))
        }
        let total = answer.data.count + (answer.other.first?.groups ?? 0)
        return ["object": "list", "total": JSONValue(total), "data": .array(rows)]
    }

    private func row(_ row: Answer.Row, of group: PortkeyGroup) throws(QueryError) -> JSONValue {
        let value = row.group.first.flatMap { $0?.values.first } ?? ""
        let requests = Self.integer(row.values[0])
        let cost = Self.cents(row.values[1])
        switch group {
        // Their description has these two figures as text here, and as numbers elsewhere.
        case .users:
            return [
                "user": .string(value), "requests": .string(requests.text), "cost": .string(cost.text),
                "object": "analytics-group",
            ]
        case .models:
            return [
                "ai_model": .string(value), "requests": .string(requests.text), "cost": cost,
                "object": "analytics-group",
            ]
        case .providers:
            return [
                "provider": .string(value), "requests": requests, "cost": cost,
                "avg_tokens": Self.ratio(row.values[2], row.values[0]), "object": "analytics-group",
            ]
        case .metadata(let key):
            let condition = filter.conditions + [.leaf(.dimension(.metadata(key), .anyOf([value])))]
            let last = try engine.events(
                matching: .all(condition), from: filter.from, to: filter.to, after: nil, limit: 1,
                workspace: workspace, snapshot: snapshot, budget: budget)
            var members = [
                JSONMember(key: "metadata_value", value: .string(value)), JSONMember(key: "requests", value: requests),
                JSONMember(key: "cost", value: cost),
                JSONMember(key: "avg_tokens", value: Self.ratio(row.values[2], row.values[0])),
                JSONMember(key: "avg_weighted_feedback", value: 0), JSONMember(key: "requests_with_feedback", value: 0),
            ]
            // Where the events are gone already, nobody knows any more.
            if let time = last.events.first?["time"] { members.append(JSONMember(key: "last_seen", value: time)) }
            return .object(members + [JSONMember(key: "object", value: "analytics-group")])
        }
    }

    // MARK: Figures; what is not measured is 0 here

    private static func integer(_ value: MeasureValue) -> JSONValue {
        if case .integer(let number) = value { JSONValue(number) } else { 0 }
    }

    private static func zeroForNone(_ value: MeasureValue) -> JSONValue {
        if case .null = value { 0 } else { value.json }
    }

    /// Exact: a nano-dollar is 1/10,000,000 of a cent.
    private static func cents(_ value: MeasureValue) -> JSONValue {
        if case .nanos(let nanos) = value { .number(decimal(nanos, digits: 7)) } else { 0 }
    }

    private static func averageCents(_ cost: MeasureValue, _ requests: MeasureValue) -> JSONValue {
        guard case .nanos(let nanos) = cost, case .integer(let count) = requests, count > 0 else { return 0 }
        return MeasureValue.number(Double(nanos) / 10_000_000 / Double(count)).json
    }

    private static func ratio(_ a: MeasureValue, _ b: MeasureValue, times factor: Double = 1) -> JSONValue {
        guard case .integer(let x) = a, case .integer(let y) = b, y > 0 else { return 0 }
        return MeasureValue.number(Double(x) * factor / Double(y)).json
    }
}
