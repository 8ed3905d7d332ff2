// `millrace reconcile`: both sides of each minute, from an API or from the store and journal themselves.

import CommandLine
import Configuration
import Events
import JSONText
import QueryAPI
import Reconciling
import RollupStore
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

    private static func askStore(_ invocation: Invocation, _ configuration: MillraceConfiguration) throws -> JSONValue {
        let day: Int64 = 86_400_000_000
        let now = SystemFacts.now()
        let to = try invocation.time("to") ?? EventTime(microseconds: now.microseconds + day)
        let from =
            try invocation.time("from") ?? EventTime(microseconds: min(now.microseconds, to.microseconds) - day)
        guard from < to else { throw UsageError("--from does not lie before --to", hint: "--to is not included") }
        let store = try Preparation.openExistingStore(configuration, orAPI: true)
        let (reconciler, close) = Preparation.reconciler(configuration, Log(role: "reconcile"), KafkaMetrics())
        defer { close() }
        return try reconciler.balance(reader: store.reader, from: from.startOfMinute, to: to).json
    }

    private static func ask(_ api: String, _ invocation: Invocation) throws -> JSONValue {
        guard let url = ProviderURL(api) else {
            throw UsageError("--api \(api): not a URL", hint: "such as --api http://127.0.0.1:8788")
        }
        var query: [String] = []
        for name in ["from", "to"] {
            guard let time = try invocation.time(name) else { continue }
            query.append("\(name)=\(AnswerSource.escaped(RFC3339.precise(time)))")
        }
        let path = "/v1/reconciliation" + (query.isEmpty ? "" : "?" + query.joined(separator: "&"))
        return try AnswerSource.ask(api, url, "GET", path)
    }

    /// The totals come last; below, where to look for what is missing.
    private static func table(_ answer: JSONValue) -> String {
        func cells(_ row: JSONValue?) -> [String] {
            BalanceRow.countNames.map { row?[$0]?.integer.map(String.init) ?? "-" }
        }
        var rows = (answer["minutes"]?.array ?? []).map { row in
            [row["minute"]?.string ?? "", row["proxy"]?.string ?? ""] + cells(row)
        }
        rows.append(["total", ""] + cells(answer["totals"]))
        let text = TextTable(heads: ["minute", "proxy"] + BalanceRow.countNames, rows, numbersFrom: 2).text
        var lines: [String] = []
        let wrong = (answer["minutes"]?.array ?? []).filter { $0["difference"]?.integer != 0 }
        if answer["closed"]?.boolean == true {
            lines.append("Closed: every recorded event is accounted for.")
        } else {
            lines.append(
                "Not closed: \(wrong.count) minutes have a difference. Positive: records are missing; negative: more "
                    + "came than any manifest knows of.")
        }
        for row in wrong {
            let name = "\(row["minute"]?.string ?? "") of \(row["proxy"]?.string ?? "")"
            let places = (row["offsets"]?.array ?? []).map { place in
                "\(place["topic"]?.string ?? "")/\(place["partition"]?.integer ?? 0) from offset "
                    + "\(place["from_offset"]?.integer ?? 0) to \(place["to_offset"]?.integer ?? 0)"
            }
            let advice = places.isEmpty ? "no record of it came" : "look at \(places.joined(separator: ", "))"
            lines.append("\(name): \(advice).")
        }
        if let note = answer["note"]?.string { lines.append(note) }
        return text + "\n" + lines.joined(separator: "\n") + "\n"
    }
}
