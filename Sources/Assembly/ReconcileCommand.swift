// `millrace reconcile`: both sides of each minute, from an API or from the store and journal themselves.

import CommandLine
import Configuration
import Events
import Glibc
import JSONText
import QueryAPI
import Reconciling
import RollupStore
import RollupStoreSQLite
import Telemetry

enum ReconcileCommand {
    static func run(_ invocation: Invocation) throws -> Int32 {
        let answer =
            try invocation.text("api").map { try ask($0, invocation) }
            ?? askStore(invocation, try invocation.configuration())
        if invocation.flag("json") {
            try Terminal.write(answer.text + "\n")
        } else {
            try Terminal.write(table(answer))
        }
        let isClosed = answer["closed"]?.boolean ?? false
        return isClosed || !invocation.flag("fail-on-difference") ? 0 : 1
    }

    private static func time(_ invocation: Invocation, _ name: String) throws(UsageError) -> EventTime? {
        guard let text = invocation.text(name) else { return nil }
        guard let time = RFC3339.parse(text) else {
            throw UsageError("--\(name) \(text): not a time", hint: "such as --\(name) 2026-11-01T00:00:00Z")
        }
        return time
    }

    private static func askStore(_ invocation: Invocation, _ configuration: MillraceConfiguration) throws -> JSONValue {
        let day: Int64 = 86_400_000_000
        let now = SystemFacts.now()
        let to = try time(invocation, "to") ?? EventTime(microseconds: now.microseconds + day)
        let from =
            try time(invocation, "from") ?? EventTime(microseconds: min(now.microseconds, to.microseconds) - day)
        guard from < to else { throw UsageError("--from does not lie before --to", hint: "--to is not included") }
        let store = try Preparation.openStore(configuration, readers: 1)
        let reconciler = Preparation.reconciler(configuration, Log(role: "reconcile"))
        return try reconciler.balance(reader: store.reader, from: from.startOfMinute, to: to).json
    }

    private static func ask(_ api: String, _ invocation: Invocation) throws -> JSONValue {
        guard let url = ProviderURL(api) else {
            throw UsageError("--api \(api): not a URL", hint: "such as --api http://127.0.0.1:8788")
        }
        var query: [String] = []
        for name in ["from", "to"] {
            guard let time = try time(invocation, name) else { continue }
            query.append("\(name)=\(RFC3339.precise(time))")
        }
        var headers: [(String, String)] = []
        if let key = processEnvironment()["MILLRACE_API_KEY"] { headers.append(("authorization", "Bearer \(key)")) }
        let path = "/v1/reconciliation" + (query.isEmpty ? "" : "?" + query.joined(separator: "&"))
        let (status, body) = try PlainHTTPClient.get(url, path: path, headers)
        guard let answer = try? JSONValue.parse(body) else {
            throw Failure("\(api) answered \(status) with something other than JSON. Is it Millrace's API?")
        }
        if status == 200 { return answer }
        let message = answer["error"]?["message"]?.string ?? "no reason given"
        let hint = answer["error"]?["hint"]?.string.map { " \($0)" } ?? ""
        throw Failure("\(api) answered \(status): \(message)\(hint)")
    }

    /// Minutes with a difference are marked; the totals come last.
    private static func table(_ answer: JSONValue) -> String {
        func cells(_ row: JSONValue?) -> [String] {
            BalanceRow.countNames.map { row?[$0]?.integer.map(String.init) ?? "-" }
        }
        var rows = (answer["minutes"]?.array ?? []).map { row in
            [row["minute"]?.string ?? "", row["proxy"]?.string ?? ""] + cells(row)
        }
        rows.append(["total", ""] + cells(answer["totals"]))
        let text = TextTable(heads: ["minute", "proxy"] + BalanceRow.countNames, rows, numbersFrom: 2).text
        let wrong = (answer["minutes"]?.array ?? []).filter { $0["difference"]?.integer != 0 }.count
        let verdict =
            answer["closed"]?.boolean == true
            ? "Closed: every recorded event is accounted for."
            : "Not closed: \(wrong) minutes have a difference. Positive: records are missing; negative: more came than any manifest knows of."
        return text + "\n" + verdict + "\n" + (answer["note"]?.string.map { $0 + "\n" } ?? "")
    }
}
