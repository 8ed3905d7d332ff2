// A plan, and where the log begins -> what the log must give, or which instants stand in the way.
//
// A partition covers days from the time on at which its first record came in: what was deleted before that record came
// earlier, and an event comes into the log when it has its time, or later. Where nothing was ever deleted it covers all.

import EventCodec
import Events
package import RecordLog
package import RollupStore
import Rollups

package enum LogCoverage {
    /// How many records are looked at for one that tells its time.
    private static let looks = 10_000
    private static let patience = Duration.seconds(30)

    /// nil: all days of the plan are still stored, and the log is not needed.
    package static func reach(
        _ plan: ReplayPlan, _ bounds: ReplayBounds, _ log: any RecordLogHistory
    ) throws(RollupStoreError) -> LogReach? {
        guard let kept = bounds.eventsFrom, kept > plan.begin else { return nil }
        var beginnings: [TopicPartition: Offset] = [:]
        var late: [(partition: TopicPartition, first: Offset, time: EventTime?)] = []
        do throws(RecordLogError) {
            for beginning in try log.beginnings() {
                beginnings[beginning.partition] = beginning.first
                if beginning.first.value <= 0 { continue }
                var time = beginning.time
                if time == nil { time = try firstTime(beginning, log) }
                if time.map({ $0 > plan.begin }) ?? true { late.append((beginning.partition, beginning.first, time)) }
            }
        } catch {
            throw RollupStoreError(reading: error, "look where the log begins")
        }
        if late.isEmpty { return LogReach(until: kept, beginnings: beginnings) }
        let places = late.sorted { $0.partition < $1.partition }.map { part in
            "\(part.partition) from "
                + "\(part.time.map { RFC3339.precise($0) } ?? "no instant that is known") (offset \(part.first.value)) on"
        }
        // The first whole day of each, and the earlier one.
        var from = kept
        if let last = late.map({ $0.time ?? kept }).max() {
            from = min(kept, Grain.day.start(of: Grain.day.bucket(of: last) + 1))
        }
        throw RollupStoreError(
            code: .configuration, tried: "replay from \(RFC3339.precise(plan.begin))",
            reason:
                "events are kept from \(RFC3339.precise(kept)) on, and the log has \(places.joined(separator: ", "))",
            next: "Begin at or after \(RFC3339.precise(from)); whole UTC days are built.")
    }

    /// Of the first event that tells its time, in a log that says nothing itself.
    private static func firstTime(
        _ beginning: LogBeginning, _ log: any RecordLogHistory
    ) throws(RecordLogError) -> EventTime? {
        var reader = try log.reader()
        defer { reader.close() }
        let since = ContinuousClock.now
        var left = looks
        while left > 0, since.duration(to: .now) < patience {
            switch try reader.poll(maxRecords: left, maxBytes: 1 << 20, timeoutMilliseconds: 200) {
            case .discovered(let found) where found.contains(beginning.partition):
                try reader.start([(beginning.partition, beginning.first)])
            case .records(let chunk):
                for slot in chunk.records where slot.kind == .event && !slot.isCorrupt && slot.valueCount > 0 {
                    let value = chunk.bytes[Int(slot.valueStart)..<Int(slot.valueStart + slot.valueCount)]
                    let time = value.withUnsafeBytes { try? EventDecoder.decode($0, base: 0).time }
                    if let time { return time }
                }
                left -= chunk.records.count
            case .discovered, .revoked: break
            case .gap, .truncated, .idle: return nil
            }
        }
        return nil
    }
}
