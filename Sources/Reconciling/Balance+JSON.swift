// A balance as the API and the command show it.

import Events
package import JSONText
import RecordLog

extension Balance {
    package var json: JSONValue {
        var members: [JSONMember] = [
            JSONMember(
                key: "minutes",
                value: .array(
                    rows.map { row in
                        .object(
                            [
                                JSONMember(key: "minute", value: .string(RFC3339.format(row.minute, offset: nil))),
                                JSONMember(key: "proxy", value: .string(row.proxy)),
                            ] + row.counts + row.places)
                    })),
            JSONMember(key: "totals", value: .object(totals.counts)),
            JSONMember(key: "closed", value: .boolean(isClosed)),
        ]
        if let note { members.append(JSONMember(key: "note", value: .string(note))) }
        return .object(members)
    }
}

extension BalanceRow {
    package static let countNames = [
        "accepted", "recorded", "dropped", "applied", "duplicates", "dead_lettered", "in_flight", "difference",
    ]

    fileprivate var counts: [JSONMember] {
        zip(
            Self.countNames,
            [accepted, recorded, dropped, applied, duplicates, deadLettered, inFlight, difference]
        ).map { JSONMember(key: $0, value: JSONValue($1)) }
    }

    /// Where to look; only where something is missing, or too much.
    fileprivate var places: [JSONMember] {
        if difference == 0 { return [] }
        let places = spans.map { span in
            JSONValue.object([
                JSONMember(key: "topic", value: .string(span.partition.topic)),
                JSONMember(key: "partition", value: JSONValue(Int64(span.partition.partition))),
                JSONMember(key: "from_offset", value: JSONValue(span.first.value)),
                JSONMember(key: "to_offset", value: JSONValue(span.next.value)),
            ])
        }
        return [JSONMember(key: "offsets", value: .array(places))]
    }
}
