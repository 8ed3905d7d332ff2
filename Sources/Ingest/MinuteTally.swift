// Which proxy and minute each record of a batch belongs to: records in order -> ProxyMinute rows.
//
// Records of one proxy and minute come in runs, so the row before is looked at first.

import EventCodec
import Events
import RollupStore

struct MinuteTally: Sendable {
    private struct Place: Hashable {
        var proxy: Int32
        var minute: Int64
    }

    private var proxies = ByteInterner()
    private var numbers: [Place: Int32] = [:]
    private(set) var rows: [ProxyMinute] = []
    private var last = Place(proxy: -1, minute: 0)
    private var lastRow: Int32 = -1

    /// The row of an event, counted in it as applied.
    mutating func applied(proxy: UnsafeRawBufferPointer, time: EventTime) -> Int32 {
        let row = self.row(Place(proxy: proxies.intern(proxy), minute: Self.minute(of: time)))
        rows[Int(row)].applied += 1
        return row
    }

    mutating func deadLettered(proxy: UnsafeRawBufferPointer, time: EventTime) {
        let row = self.row(Place(proxy: proxies.intern(proxy), minute: Self.minute(of: time)))
        rows[Int(row)].deadLettered += 1
    }

    /// The rows so far; begins anew.
    mutating func finish() -> [ProxyMinute] {
        defer { self = MinuteTally() }
        return rows
    }

    private mutating func row(_ place: Place) -> Int32 {
        if place == last { return lastRow }
        last = place
        if let known = numbers[place] {
            lastRow = known
            return known
        }
        lastRow = Int32(rows.count)
        numbers[place] = lastRow
        rows.append(
            ProxyMinute(
                proxy: String(decoding: proxies[place.proxy], as: UTF8.self),
                minute: EventTime(microseconds: place.minute * EventTime.minuteMicroseconds)))
        return lastRow
    }

    private static func minute(of time: EventTime) -> Int64 {
        time.startOfMinute.microseconds / EventTime.minuteMicroseconds
    }
}
