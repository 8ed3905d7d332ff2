// `millrace tail`: a condition → the latest events, then each new one as it is applied, until a signal.

import CommandLine
import Configuration
import Events
import JSONText

enum TailCommand {
    private static let pauseMilliseconds = 500
    /// Events are applied a little out of order: so far back is looked again, and what was shown is passed over.
    private static let lookBackMicroseconds: Int64 = 60_000_000
    private static let pageSize = 1_000

    static func run(_ invocation: Invocation) throws -> Int32 {
        let filter = invocation.arguments.first ?? ""
        let lines = try invocation.integer("lines", in: 0...pageSize) ?? 10
        let source = try AnswerSource(invocation)
        var shown = Shown()
        let first = try source.events(filter, from: nil, limit: max(1, lines))
        guard try write(shown.new(of: first).suffix(lines), invocation) else { return 0 }
        if invocation.flag("once") { return 0 }
        while !Signals.wait(milliseconds: pauseMilliseconds) {
            let from = shown.latest.map { EventTime(microseconds: $0.microseconds - lookBackMicroseconds) }
            let found = try source.events(filter, from: from, limit: pageSize)
            guard try write(shown.new(of: found), invocation) else { return 0 }
        }
        return 0
    }

    private static func write(_ events: some Sequence<JSONValue>, _ invocation: Invocation) throws -> Bool {
        let text = events.map { (invocation.flag("json") ? $0.text : line($0)) + "\n" }.joined()
        return text.isEmpty ? true : try Terminal.write(text)
    }

    /// Time, status, provider and model, tokens, cost, latency, metadata.
    private static func line(_ event: JSONValue) -> String {
        func text(_ name: String) -> String {
            switch event[name] {
            case .string(let text)?: text
            case .number(let digits)?: digits
            default: "-"
            }
        }
        let time = text("time").prefix(23).map { $0 == "T" ? " " : $0 }
        let model = event["response_model"]?.string ?? text("request_model")
        let tokens = "\(text("input_tokens"))→\(text("output_tokens"))"
        return [
            String(time), text("status"), padded(text("outcome"), 14), padded("\(text("provider"))/\(model)", 28),
            padded(tokens, 12), padded(Figure.text(event["cost_usd"] ?? .null, of: "cost_usd"), 12),
            padded(Figure.text(event["latency_ms"] ?? .null, of: "latency_ms"), 10),
            event["metadata"]?.text ?? "{}",
        ].joined(separator: " ")
    }

    private static func padded(_ text: String, _ width: Int) -> String {
        text + String(repeating: " ", count: max(0, width - text.count))
    }

    /// Which events have been shown, as far back as is looked.
    private struct Shown {
        private(set) var latest: EventTime?
        private var ids: [String: EventTime] = [:]

        /// Those not shown yet, oldest first.
        mutating func new(of newestFirst: [JSONValue]) -> [JSONValue] {
            var out: [JSONValue] = []
            for event in newestFirst.reversed() {
                guard let id = event["id"]?.string, let time = event["time"]?.string.flatMap({ RFC3339.parse($0) }),
                    ids.updateValue(time, forKey: id) == nil
                else { continue }
                latest = max(latest ?? time, time)
                out.append(event)
            }
            if let latest, ids.count > 2 * TailCommand.pageSize {
                let edge = latest.microseconds - TailCommand.lookBackMicroseconds
                ids = ids.filter { $0.value.microseconds >= edge }
            }
            return out
        }
    }
}
