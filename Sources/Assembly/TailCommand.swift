// `millrace tail`: a condition → the latest events, then each new one as it is applied, until a signal.
//
// Events are applied a little out of order, and one partition may lag behind the others: each look goes page by page back
// to the begin of the look-back, whatever it finds on the way, and passes over what was shown.

import CommandLine
import Configuration
import Events
import JSONText
import Queries

enum TailCommand {
    /// | limit | unit | value | why | at the limit |
    /// | --- | --- | --- | --- | --- |
    /// | `pause` | ms | 500 | between two looks | |
    /// | `lookBack` | µs before the latest event | 60,000,000 | what one look reads again | an event that comes later still is not shown |
    /// | `pageSize` | events | 1,000 | what the API gives at once | the next page |
    /// | `pagesAtOnce` | pages a look | 20 | memory, and what a look costs the API | it is said from where on nothing was looked at |
    private enum Limits {
        static let pause = 500
        static let lookBack: Int64 = 60_000_000
        static let pageSize = 1_000
        static let pagesAtOnce = 20
    }

    static func run(_ invocation: Invocation) throws -> Int32 {
        let filter = invocation.arguments.first ?? ""
        let lines = try invocation.integer("lines", in: 0...Limits.pageSize) ?? 10
        let source = try AnswerSource(invocation)
        let isOnce = invocation.flag("once")
        // The newest of all, so that no more is looked at again where few match.
        var shown = Shown(
            latest: isOnce ? nil : try source.events("", from: nil, limit: 1).events.first.flatMap(Shown.time))
        let first = try source.events(filter, from: nil, limit: max(1, lines))
        guard try write(shown.new(of: first.events).suffix(lines), invocation) else { return 0 }
        if isOnce { return 0 }
        if let cursor = first.next {
            // What is there before these is not new at the next look, though it is not shown.
            guard let there = try look(filter, source, shown, after: cursor) else { return 0 }
            _ = shown.new(of: there.events)
            if let end = there.next { shown.floor = EventTime(microseconds: end.time.microseconds + 1) }
        }
        var isCut = false
        while !Signals.wait(milliseconds: Limits.pause) {
            guard let look = try look(filter, source, shown) else { break }
            if let end = look.next, !isCut {
                Terminal.complain(
                    "more events than one look takes: those before \(RFC3339.precise(end.time)) are shown late or not "
                        + "at all; a narrower filter shows all of its own")
            }
            isCut = look.next != nil
            guard try write(shown.new(of: look.events), invocation) else { return 0 }
        }
        return 0
    }

    /// Page by page to the begin of the look-back: what is not shown yet, newest first. `next`: where it was cut short.
    /// nil: a signal came.
    private static func look(
        _ filter: String, _ source: AnswerSource, _ shown: Shown, after start: EventCursor? = nil
    ) throws -> (events: [JSONValue], next: EventCursor?)? {
        var found: [JSONValue] = []
        var cursor = start
        for _ in 0..<Limits.pagesAtOnce {
            let page = try source.events(filter, from: shown.begin, limit: Limits.pageSize, after: cursor)
            found += page.events.filter { !shown.holds($0) }
            cursor = page.next
            if cursor == nil { break }
            if Signals.wait(milliseconds: 0) { return nil }
        }
        return (found, cursor)
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
        private var latest: EventTime?
        private var ids: [String: EventTime] = [:]
        /// Of what is before it nobody knows whether it was there at the start.
        var floor: EventTime?

        init(latest: EventTime?) { self.latest = latest }

        /// Of the look-back; nil where there is no event yet.
        var begin: EventTime? {
            latest.map { latest in
                EventTime(microseconds: max(latest.microseconds - Limits.lookBack, floor?.microseconds ?? .min))
            }
        }

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
            if let begin, ids.count > 2 * Limits.pageSize { ids = ids.filter { $0.value >= begin } }
            return out
        }
    }
}
