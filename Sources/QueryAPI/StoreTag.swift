// A tag of what the store holds: it changes whenever an answer may. Offsets, not the watermark: a late event changes
// answers and leaves the watermark where it is.

import Events
import Queries
import RecordLog
import RollupStore
import Rollups

enum StoreTag {
    static func tag(_ snapshot: any RollupSnapshot, _ parts: [String]) throws(QueryError) -> String {
        do {
            var state = parts
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
