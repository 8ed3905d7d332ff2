// Which proxy and minute each record of a batch belongs to: records in order -> ProxyMinute rows, by partition.
//
// Records of one proxy and minute come in runs, so the row before is looked at first.

import EventCodec
import Events
import RecordLog
import RollupStore

struct MinuteTally: Sendable {
    /// Where a record stands.
    struct Source {
        /// Index into the batch's ranges.
        var range: Int
        var partition: TopicPartition
        var offset: Offset
    }

    private struct Place: Hashable {
        var range: Int
        var proxy: Int32
        var minute: Int64
    }

    private var proxies = ByteInterner()
    private var numbers: [Place: Int32] = [:]
    private(set) var rows: [ProxyMinute] = []
    private var last = Place(range: -1, proxy: -1, minute: 0)
    private var lastRow: Int32 = -1

    /// The row of an event, counted in it as applied.
    mutating func applied(proxy: UnsafeRawBufferPointer, time: EventTime, _ source: Source) -> Int32 {
        let row = self.row(proxy, time, source)
        rows[Int(row)].applied += 1
        return row
    }

    /// The row of a record that cannot be applied, counted in it as a dead letter.
    mutating func deadLettered(proxy: UnsafeRawBufferPointer, time: EventTime, _ source: Source) -> Int32 {
        let row = self.row(proxy, time, source)
        rows[Int(row)].deadLettered += 1
        return row
    }

    /// The rows so far; begins anew.
    mutating func finish() -> [ProxyMinute] {
        defer { self = MinuteTally() }
        return rows
    }

    private mutating func row(_ proxy: UnsafeRawBufferPointer, _ time: EventTime, _ source: Source) -> Int32 {
        let minute = time.startOfMinute
        let place = Place(range: source.range, proxy: proxies.intern(proxy), minute: minute.microseconds)
        if place != last {
            last = place
            lastRow = numbers[place] ?? Int32(rows.count)
            if Int(lastRow) == rows.count {
                numbers[place] = lastRow
                rows.append(
                    ProxyMinute(
                        proxy: String(decoding: proxies[place.proxy], as: UTF8.self), minute: minute,
                        partition: source.partition, first: source.offset, next: source.offset))
            }
        }
        // Offsets rise within a partition.
        rows[Int(lastRow)].next = Offset(source.offset.value + 1)
        return lastRow
    }
}
