// `millrace query`: words → question → answer of an API or of the store → table, JSON or CSV.

import CommandLine
import Configuration
import Events
import Glibc
import JSONText
import Queries
import QueryAPI
import RollupStore

enum QueryCommand {
    static func run(_ invocation: Invocation) throws -> Int32 {
        if invocation.flag("json"), invocation.flag("csv") {
            throw UsageError("--json and --csv exclude each other", hint: "give one of them")
        }
        var input = QuestionInput()
        input.filter = invocation.arguments.first
        input.from = invocation.text("from")
        input.to = invocation.text("to")
        input.granularity = invocation.text("granularity")
        input.timezone = invocation.text("timezone")
        input.groupBy = names(invocation.all("group-by"))
        let measures = names(invocation.all("measure"))
        input.measures = measures.isEmpty ? ["requests", "error_rate", "cost_usd", "latency_ms.p95"] : measures
        input.orderBy = invocation.text("order-by")
        input.limit = try invocation.integer("limit", in: 1...QueryLimits.limit)
        let answer =
            try invocation.text("api").map { try ask($0, input) } ?? askStore(input, try invocation.configuration())
        if invocation.flag("json") {
            try Terminal.write(answer.text + "\n")
        } else {
            let table = AnswerTable(answer)
            try Terminal.write(invocation.flag("csv") ? table.csv : table.aligned)
        }
        return 0
    }

    private static func names(_ given: [String]) -> [String] {
        given.flatMap { $0.split(separator: ",") }.map { String($0.drop { $0 == " " }) }
    }

    /// The store of the configuration, read as it stands.
    private static func askStore(_ input: QuestionInput, _ configuration: MillraceConfiguration) throws -> JSONValue {
        if case .sqlite(let path) = configuration.store, access(path, F_OK) != 0 {
            throw Failure(
                "There is no store at \(path). Start 'millrace up' in this directory, or name the store with --store.url "
                    + "or a running API with --api.")
        }
        do {
            let question = try Question(input, now: SystemFacts.now(), zoneFile: SystemFacts.zoneFile)
            let store = try Preparation.openStore(configuration, readers: 1)
            let answer = try store.reader.read { snapshot in
                try QueryEngine().answer(question, workspace: Preparation.openWorkspace, snapshot: snapshot)
            }
            return answer.json
        } catch let error as QueryError {
            throw Failure(error.description, status: error.status == 400 ? 2 : 1)
        }
    }

    private static func ask(_ api: String, _ input: QuestionInput) throws -> JSONValue {
        guard let url = ProviderURL(api) else {
            throw UsageError("--api \(api): not a URL", hint: "such as --api http://127.0.0.1:8788")
        }
        var members: [JSONMember] = [
            JSONMember(key: "group_by", value: .array(input.groupBy.map { .string($0) })),
            JSONMember(key: "measures", value: .array(input.measures.map { .string($0) })),
        ]
        let texts = [
            ("where", input.filter), ("from", input.from), ("to", input.to), ("granularity", input.granularity),
            ("timezone", input.timezone), ("order_by", input.orderBy),
        ]
        for (name, text) in texts {
            if let text { members.append(JSONMember(key: name, value: .string(text))) }
        }
        if let limit = input.limit { members.append(JSONMember(key: "limit", value: JSONValue(limit))) }
        var headers = [("content-type", "application/json")]
        if let key = processEnvironment()["MILLRACE_API_KEY"] { headers.append(("authorization", "Bearer \(key)")) }
        let (status, body) = try PlainHTTPClient.post(url, path: "/v1/query", headers, JSONValue.object(members).bytes)
        let answer: JSONValue
        do {
            answer = try JSONValue.parse(body)
        } catch {
            throw Failure("\(api) answered \(status) with something other than JSON. Is it Millrace's API?")
        }
        if status == 200 { return answer }
        let message = answer["error"]?["message"]?.string ?? "no reason given"
        let hint = answer["error"]?["hint"]?.string.map { " \($0)" } ?? ""
        throw Failure("\(api) answered \(status): \(message)\(hint)", status: status == 400 ? 2 : 1)
    }
}

/// An answer's rows as text.
struct AnswerTable {
    private var heads: [String] = []
    private var rows: [[JSONValue]] = []
    private var labels: Int
    private var notes: [String] = []
    private var totals: [JSONValue]

    init(_ answer: JSONValue) {
        let data = answer["data"]?.array ?? []
        totals = answer["totals"]?.members?.map(\.value) ?? []
        let hasBuckets = data.contains { $0["bucket"]?.string != nil }
        if hasBuckets { heads.append("bucket") }
        let groups = data.first?["group"]?.members?.map(\.key) ?? []
        heads += groups
        labels = heads.count
        heads += answer["totals"]?.members?.map(\.key) ?? []
        for row in data {
            var cells = hasBuckets ? [row["bucket"] ?? .null] : []
            cells += groups.map { row["group"]?[$0] ?? .null }
            cells += row["measures"]?.members?.map(\.value) ?? []
            rows.append(cells)
        }
        let other = answer["other"]?.array ?? []
        let hidden = other.compactMap { $0["groups"]?.integer }.max() ?? 0
        if hidden > 0 { notes.append("\(hidden) more groups are not shown; raise --limit.") }
        if let source = answer["plan"]?["source"]?.string, let read = answer["plan"]?["rows_read"]?.integer {
            notes.append("From \(source), \(read) rows read; newest event \(answer["watermark"]?.string ?? "none").")
        }
        if answer["exact"]?.boolean == false { notes.append("Not exact: \(answer["plan"]?["reason"]?.string ?? "")") }
    }

    /// Columns two blanks apart, measures to the right; the totals below a rule.
    var aligned: String {
        var lines = rows.map { $0.map(Self.shown) }
        if labels > 0 {
            lines.append([String](repeating: "", count: labels) + totals.map(Self.shown))
            lines[lines.count - 1][0] = "total"
        }
        let widths = heads.indices.map { column in
            max(heads[column].count, lines.map { $0.indices.contains(column) ? $0[column].count : 0 }.max() ?? 0)
        }
        func line(_ cells: [String]) -> String {
            var out = zip(cells.indices, cells).map { column, cell in
                let blank = String(repeating: " ", count: max(0, widths[column] - cell.count))
                return column < labels ? cell + blank : blank + cell
            }.joined(separator: "  ")
            while out.hasSuffix(" ") { out.removeLast() }
            return out + "\n"
        }
        let rule = line(widths.map { String(repeating: "-", count: $0) })
        var out = line(heads) + rule
        for (index, cells) in lines.enumerated() {
            if labels > 0, index == lines.count - 1, index > 0 { out += rule }
            out += line(cells)
        }
        return out + notes.map { "\n\($0)" }.joined() + (notes.isEmpty ? "" : "\n")
    }

    /// RFC 4180; a missing value is empty.
    var csv: String {
        func line(_ cells: [String]) -> String {
            cells.map { cell in
                guard cell.contains(where: { ",\"\r\n".contains($0) }) else { return cell }
                return "\"" + cell.split(separator: "\"", omittingEmptySubsequences: false).joined(separator: "\"\"")
                    + "\""
            }.joined(separator: ",") + "\r\n"
        }
        return line(heads) + rows.map { line($0.map { $0.isNull ? "" : Self.shown($0) }) }.joined()
    }

    private static func shown(_ value: JSONValue) -> String {
        switch value {
        case .null: "-"
        case .string(let text): text
        case .number(let text): text
        case .boolean(let value): value ? "true" : "false"
        case .array, .object: value.text
        }
    }
}
