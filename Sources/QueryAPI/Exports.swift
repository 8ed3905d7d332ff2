// Events as a file: `GET /v1/events` as JSON lines or CSV. Read page by page, each from a state of its own, and sent as
// fast as the client takes it: memory holds one page, however many events there are.

import Events
import HTTPTransport
import JSONText
import Queries
import RollupStore
import Synchronization
import Telemetry

enum EventFormat: Sendable {
    case json, lines, csv

    /// The parameter `format` says it; else what the client accepts.
    init(_ parameters: inout Parameters, accept: String?) throws(APIError) {
        switch parameters.take("format") {
        case "json": self = .json
        case "jsonl", "ndjson": self = .lines
        case "csv": self = .csv
        case nil:
            let accepted = (accept ?? "").lowercased()
            if accepted.contains("text/csv") {
                self = .csv
            } else if ["application/x-ndjson", "application/ndjson", "application/jsonl"].contains(
                where: accepted.contains)
            {
                self = .lines
            } else {
                self = .json
            }
        case let text?:
            throw APIError(
                422, "invalid_question", "format \"\(text)\" is not one of json, jsonl, csv.",
                hint: "Or leave it out and send an Accept header: application/x-ndjson or text/csv.")
        }
    }

    var contentType: String {
        switch self {
        case .json: "application/json"
        case .lines: "application/x-ndjson"
        case .csv: "text/csv; charset=utf-8; header=present"
        }
    }

    /// What stands before the first event.
    var head: [UInt8] { self == .csv ? Self.line(EventColumns.names) : [] }

    func append(_ event: JSONValue, to out: inout [UInt8]) {
        switch self {
        case .json, .lines:
            event.write(to: &out)
            out.append(UInt8(ascii: "\n"))
        case .csv: out += Self.line(EventColumns.names.map { Self.cell(event[$0] ?? .null) })
        }
    }

    private static func cell(_ value: JSONValue) -> String {
        switch value {
        case .null: ""
        case .string(let text): text
        case .number, .boolean, .array, .object: value.text
        }
    }

    /// RFC 4180.
    private static func line(_ cells: [String]) -> [UInt8] {
        var out: [UInt8] = []
        for (index, cell) in cells.enumerated() {
            if index > 0 { out.append(UInt8(ascii: ",")) }
            guard cell.utf8.contains(where: { ",\"\r\n".utf8.contains($0) }) else {
                out += cell.utf8
                continue
            }
            out.append(UInt8(ascii: "\""))
            for byte in cell.utf8 {
                if byte == UInt8(ascii: "\"") { out.append(byte) }
                out.append(byte)
            }
            out.append(UInt8(ascii: "\""))
        }
        return out + [0x0D, 0x0A]
    }
}

/// Which events are listed.
struct EventListing: Sendable {
    var condition: Condition?
    var from: EventTime
    var to: EventTime
    var workspace: String
}

/// How many files are sent at once: each holds a worker for as long as its client takes.
final class ExportSlots: Sendable {
    private let taken = Atomic<Int>(0)

    /// Held by what it was given for; free again when that is gone.
    final class Slot: Sendable {
        private let slots: ExportSlots
        fileprivate init(_ slots: ExportSlots) { self.slots = slots }
        deinit { slots.taken.wrappingSubtract(1, ordering: .relaxed) }
    }

    /// nil where all are taken.
    func take() -> Slot? {
        if taken.wrappingAdd(1, ordering: .relaxed).newValue <= QueryService.Limits.exports { return Slot(self) }
        taken.wrappingSubtract(1, ordering: .relaxed)
        return nil
    }
}

extension QueryService {
    func export(
        _ listing: EventListing, after start: EventCursor?, limit: Int?, _ format: EventFormat
    ) throws(APIError) -> HTTPResponse {
        guard let slot = exports.take() else {
            throw APIError(
                429, "too_many_exports", "\(Limits.exports) exports are under way; no more at once.",
                hint: "Try again when one has ended.")
        }
        // The first page is read before anything is sent, so that what is wrong has its status.
        let first = min(limit ?? .max, Limits.exportPageSize)
        let page = try read { (snapshot, budget) throws(QueryError) in
            try self.page(listing, after: start, limit: first, snapshot, budget)
        }
        var body = format.head
        for event in page.events { format.append(event, to: &body) }
        var response = HTTPResponse(
            status: 200,
            headers: [
                ("content-type", format.contentType),
                ("content-disposition", "attachment; filename=\"events.\(format == .csv ? "csv" : "jsonl")\""),
            ], body: body)
        let sent = page.events.count
        response.stream = { [self] sink in
            withExtendedLifetime(slot) { rest(of: listing, after: page.next, sent, limit ?? .max, format, to: sink) }
        }
        return response
    }

    /// False where it could not be sent to its end.
    private func rest(
        of listing: EventListing, after start: EventCursor?, _ sent: Int, _ limit: Int, _ format: EventFormat,
        to sink: HTTPBodySink
    ) -> Bool {
        var next = start
        var sent = sent
        while let cursor = next, sent < limit {
            let page: EventPage
            do {
                page = try reader.read(until: { sink.isAbandoned }) { snapshot in
                    try self.page(
                        listing, after: cursor, limit: min(limit - sent, Limits.exportPageSize), snapshot,
                        QueryBudget { sink.isAbandoned })
                }
            } catch {
                if !sink.isAbandoned {
                    log(.apiExportBroken(reason: QueryError(reading: error).message))
                }
                return false
            }
            var part: [UInt8] = []
            for event in page.events { format.append(event, to: &part) }
            guard sink.write(part) else { return false }
            sent += page.events.count
            next = page.next
        }
        return true
    }
}
