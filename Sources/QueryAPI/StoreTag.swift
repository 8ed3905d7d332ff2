// A tag of what the store holds: it changes whenever an answer may. Offsets, not the watermark: a late event changes
// answers and leaves the watermark where it is.

import Events
import HTTPTransport
import Queries
import RecordLog
import RollupStore
import Rollups

enum StoreTag {
    /// What an answer is about. Past the newest event its end changes nothing but which rules hold there, so that one which
    /// is always now does not make another answer of each.
    struct Range {
        var from: EventTime
        var to: EventTime
        /// The answer says its range.
        var isSaid: Bool
    }

    /// The tags that a client has. The comparison is the weak one, as RFC 9110 has it for this header.
    static func known(_ request: HTTPRequest) -> [Substring] {
        (request.header("if-none-match") ?? "").split(separator: ",").map { part in
            let tag = part.drop { $0 == " " }
            return (tag.hasPrefix("W/") ? tag.dropFirst(2) : tag).prefix { $0 != " " }
        }
    }

    static func tag(
        _ snapshot: any RollupSnapshot, _ workspace: String, _ parts: [String], _ range: Range?
    ) throws(QueryError) -> String {
        do {
            var state = [workspace] + parts
            if let range {
                var end = range.to
                if !range.isSaid, let watermark = try snapshot.watermark, watermark < range.to {
                    end = EventTime(microseconds: watermark.microseconds + 1)
                    let rules = try snapshot.rulesTimeline().entries(
                        from: EventTime(microseconds: .min), to: range.to, of: workspace)
                    state.append("\(rules.count)")
                }
                state += [RFC3339.precise(range.from), RFC3339.precise(end)]
            }
            state.append(try snapshot.generationName)
            state.append("\(try snapshot.rulesVersion)")
            for row in try snapshot.ledger() {
                state += [row.partition.topic, "\(row.partition.partition)", "\(row.next.value)"]
            }
            for grain in [nil] + Grain.allCases.map({ $0 as Grain? }) {
                state.append(try snapshot.retained(grain).map { "\($0.microseconds)" } ?? "")
            }
            return "\"\(hash(state))\""
        } catch {
            throw QueryError(reading: error)
        }
    }

    /// FNV-1a, twice with different beginnings: 128 bits, so that tags do not meet by chance.
    private static func hash(_ texts: [String]) -> String {
        [UInt64(0xCBF2_9CE4_8422_2325), 0x9AE1_6A3B_2F90_404F].map { start in
            var hash = FNV1a(from: start)
            for text in texts {
                hash.combine(text.utf8)
                // No text holds this byte: ["a", "b"] is not ["ab"].
                hash.combine(0xFF)
            }
            return String(hash.state, radix: 36)
        }.joined()
    }
}
