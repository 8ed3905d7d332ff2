// `millrace tail`: a condition → the latest events, then each new one as it is applied, until a signal.

import CommandLine
import Configuration
import Events
import JSONText
import Queries

enum TailCommand {
    private static let pauseMilliseconds = 500
    /// Events are applied a little out of order: so far back is looked again, and what was shown is passed over.
    private static let lookBackMicroseconds: Int64 = 60_000_000
    private static let pageSize = 1_000
    /// Pages of one look. What lies beyond is passed over, and that is said.
    private static let pagesAtOnce = 20

    static func run(_ invocation: Invocation) throws -> Int32 {
        let filter = invocation.arguments.first ?? ""
        let lines = try invocation.integer("lines", in: 0...pageSize) ?? 10
        let source = try AnswerSource(invocation)
        var shown = Shown()
        let isOnce = invocation.flag("once")
        // What is there already is not new at the next look, though it is not shown.
        let first = try source.events(filter, from: nil, limit: isOnce ? max(1, lines) : pageSize)
        let oldest = first.next == nil ? nil : first.events.last.flatMap(Shown.time)
        guard try write(shown.new(of: first.events).suffix(lines), invocation) else { return 0 }
        if isOnce { return 0 }
        while !Signals.wait(milliseconds: pauseMilliseconds) {
            let from = shown.latest.map { latest in
                EventTime(
                    microseconds: max(
                        latest.microseconds - lookBackMicroseconds, (oldest?.microseconds).map { $0 + 1 } ?? .min))
            }
            guard try write(try new(from, filter, source, &shown), invocation) else { return 0 }
        }
        return 0
    }

    /// Page by page towards the past, to the first in which nothing is new; oldest first.
    private static func new(
        _ from: EventTime?, _ filter: String, _ source: AnswerSource, _ shown: inout Shown
    ) throws -> [JSONValue] {
        var found: [JSONValue] = []
        var cursor: EventCursor?
        for _ in 0..<pagesAtOnce {
            let page = try source.events(filter, from: from, limit: pageSize, after: cursor)
            cursor = page.next
            guard page.events.contains(where: { !shown.holds($0) }) else { break }
            found += page.events
            guard cursor != nil else { break }
        }
        if found.count == pagesAtOnce * pageSize, cursor != nil {
            Terminal.complain(
                "more events than can be shown: of those before the next \(found.count), some are passed over")
        }
        return shown.new(of: found)
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

        static func time(_ event: JSONValue) -> EventTime? { event["time"]?.string.flatMap { RFC3339.parse($0) } }

        func holds(_ event: JSONValue) -> Bool { event["id"]?.string.map { ids[$0] != nil } ?? true }

        /// Those not shown yet, oldest first.
        mutating func new(of newestFirst: [JSONValue]) -> [JSONValue] {
            var out: [JSONValue] = []
            for event in newestFirst.reversed() {
                guard let id = event["id"]?.string, let time = Self.time(event),
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
