// Where the commands get their answers: a running API, or the store of the configuration.

import CommandLine
import Configuration
import Events
import JSONText
import Normalizer
import Queries
import QueryAPI
import RollupStore

enum AnswerSource {
    case api(String, ProviderURL)
    case store(any RollupReader, QueryEngine, workspace: String)

    /// `--api` names an API; else the store is opened, as it stands.
    init(_ invocation: Invocation) throws {
        if let api = invocation.text("api") {
            guard let url = ProviderURL(api) else {
                throw UsageError("--api \(api): not a URL", hint: "such as --api http://127.0.0.1:8788")
            }
            guard invocation.text("workspace") == nil else {
                throw UsageError(
                    "--workspace and --api exclude each other",
                    hint: "the key in MILLRACE_API_KEY says which workspace it is")
            }
            self = .api(api, url)
            return
        }
        self = .store(
            try Preparation.openExistingStore(try invocation.configuration(), orAPI: true).reader, QueryEngine(),
            workspace: invocation.text("workspace") ?? Preparation.openWorkspace)
    }

    func ask(_ input: QuestionInput, explains: Bool) throws -> JSONValue {
        switch self {
        case .api(let name, let url):
            return try Self.ask(
                name, url, "POST", "/v1/query" + (explains ? "?explain=true" : ""), Self.body(of: input))
        case .store(let store, let engine, let workspace):
            return try Self.refusalsNamed {
                let question = try Question(input, now: SystemFacts.now(), zoneFile: SystemFacts.zoneFile)
                let answer = try store.read { snapshot in
                    try engine.answer(question, workspace: workspace, snapshot: snapshot, explains: explains)
                }
                return try JSONValue.parse(answer.bytes)
            }
        }
    }

    /// Newest first, at most `limit` (up to 1,000); `next` is where the page after it begins, nil at the end.
    func events(
        _ filter: String, from: EventTime?, limit: Int, after cursor: EventCursor? = nil
    ) throws -> (events: [JSONValue], next: EventCursor?) {
        switch self {
        case .api(let name, let url):
            var path = "/v1/events?limit=\(limit)&where=\(Self.escaped(filter))"
            if let from { path += "&from=\(Self.escaped(RFC3339.precise(from)))" }
            if let cursor { path += "&cursor=\(Self.escaped(cursor.text))" }
            let page = try Self.ask(name, url, "GET", path, [])
            return (page["data"]?.array ?? [], page["next_cursor"]?.string.flatMap { EventCursor(text: $0) })
        case .store(let store, let engine, let workspace):
            return try Self.refusalsNamed {
                let condition = try ConditionParser.parse(filter)
                let page = try store.read { snapshot in
                    try engine.events(
                        matching: condition, from: from ?? EventTime(microseconds: 0),
                        to: EventTime(microseconds: .max), after: cursor, limit: limit,
                        workspace: workspace, snapshot: snapshot)
                }
                return (page.events, page.next)
            }
        }
    }

    /// As `GET /v1/metadata/keys` answers.
    func metadataKeys(from: EventTime, to: EventTime) throws -> JSONValue {
        switch self {
        case .api(let name, let url):
            let range = "from=\(Self.escaped(RFC3339.precise(from)))&to=\(Self.escaped(RFC3339.precise(to)))"
            return try Self.ask(name, url, "GET", "/v1/metadata/keys?\(range)")
        case .store(let store, let engine, let workspace):
            return try Self.refusalsNamed {
                try store.read { snapshot in
                    try engine.describedKeys(
                        from: from, to: to, workspace: workspace, snapshot: snapshot)
                }
            }
        }
    }

    private static func refusalsNamed<Result>(_ body: () throws -> Result) throws -> Result {
        do {
            return try body()
        } catch let error as QueryError {
            throw Failure(error.description, status: error.status == 400 ? 2 : 1)
        }
    }

    private static func body(of input: QuestionInput) -> [UInt8] {
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
        return JSONValue.object(members).bytes
    }

    /// The API's answer, or its refusal as an error. The key is read from MILLRACE_API_KEY.
    static func ask(
        _ name: String, _ url: ProviderURL, _ method: String, _ path: String, _ body: [UInt8] = []
    ) throws -> JSONValue {
        var headers = [("content-type", "application/json")]
        if let key = processEnvironment()["MILLRACE_API_KEY"] { headers.append(("authorization", "Bearer \(key)")) }
        let (status, body) = try HTTPCall.request(method, url, path: path, headers, body)
        let answer: JSONValue
        do {
            answer = try JSONValue.parse(body)
        } catch {
            throw Failure("\(name) answered \(status) with something other than JSON. Is it Millrace's API?")
        }
        if status == 200 { return answer }
        let message = answer["error"]?["message"]?.string ?? "no reason given"
        let hint = answer["error"]?["hint"]?.string.map { " \($0)" } ?? ""
        throw Failure("\(name) answered \(status): \(message)\(hint)", status: status == 400 ? 2 : 1)
    }

    static func escaped(_ text: String) -> String {
        let digits = Array("0123456789ABCDEF".utf8)
        var out: [UInt8] = []
        for byte in text.utf8 {
            switch byte {
            case 0x30...0x39, 0x41...0x5A, 0x61...0x7A: out.append(byte)
            default: out += [UInt8(ascii: "%"), digits[Int(byte >> 4)], digits[Int(byte & 15)]]
            }
        }
        return String(decoding: out, as: UTF8.self)
    }
}
