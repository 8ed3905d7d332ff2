// The buckets of an answer: a range, a granularity and a zone -> the instants at which buckets begin.
//
// Buckets are those of the local clock: a day is 23 or 25 hours long where the clock changes, and an hour that the
// clock shows twice is two buckets. They never overlap and leave no gap.

import Events

struct BucketGrid: Sendable {
    /// Ascending, in microseconds; the first is at or before the range's start. One for the whole range under `total`.
    private(set) var starts: [Int64]
    private let granularity: Granularity
    private let zone: TimeZoneRules

    init(from: EventTime, to: EventTime, granularity: Granularity, zone: TimeZoneRules) {
        self.granularity = granularity
        self.zone = zone
        let first = floorDivide(Int(from.microseconds), 1_000_000)
        // The last instant of the range, rounded up to a second.
        let end = max(first + 1, -floorDivide(-Int(to.microseconds), 1_000_000))
        let seconds: [Int]
        switch granularity {
        case .total, .auto: seconds = [first]
        case .minute: seconds = Self.regular(60, first, end, zone)
        case .hour: seconds = Self.regular(3600, first, end, zone)
        case .day: seconds = Self.days(first, end, zone)
        }
        starts = seconds.map { Int64($0) * 1_000_000 }
    }

    /// Whole units of the local clock; where the clock is set by less than a unit, the rest is a bucket of its own.
    private static func regular(_ unit: Int, _ first: Int, _ end: Int, _ zone: TimeZoneRules) -> [Int] {
        let stretches = zone.stretches(from: first - unit, to: end)
        var out: [Int] = []
        for (index, stretch) in stretches.enumerated() {
            let stop = index + 1 < stretches.count ? stretches[index + 1].start : end
            var start = floorDivide(stretch.start + stretch.offset, unit) * unit - stretch.offset
            if index > 0 { start = max(start, stretch.start) }
            while start < stop {
                out.append(start)
                start = (floorDivide(start + stretch.offset, unit) + 1) * unit - stretch.offset
            }
        }
        return trimmed(out, first)
    }

    /// Local dates; one that the clock skips has no bucket.
    private static func days(_ first: Int, _ end: Int, _ zone: TimeZoneRules) -> [Int] {
        // Two days earlier, so that the first date's own beginning is among the stretches.
        let from = first - 2 * 86_400
        let stretches = zone.stretches(from: from, to: end)
        var out: [Int] = []
        var date = Int.min
        for (index, stretch) in stretches.enumerated() {
            let stop = index + 1 < stretches.count ? stretches[index + 1].start : end
            var next = floorDivide(stretch.start + stretch.offset, 86_400)
            while true {
                let start = max(stretch.start, next * 86_400 - stretch.offset)
                if start >= stop { break }
                if next > date {
                    out.append(start)
                    date = next
                }
                next += 1
            }
        }
        return trimmed(out, first)
    }

    /// Without the buckets that end before the range begins.
    private static func trimmed(_ starts: [Int], _ first: Int) -> [Int] {
        let keep = max(0, (starts.firstIndex { $0 > first } ?? starts.count) - 1)
        return Array(starts[keep...])
    }

    /// The bucket that holds an instant of the range.
    func index(of microseconds: Int64) -> Int {
        var low = 0
        var high = starts.count
        while low < high {
            let middle = (low + high) / 2
            if starts[middle] <= microseconds { low = middle + 1 } else { high = middle }
        }
        return max(0, low - 1)
    }

    /// The bucket's beginning in local time; nil under `total`.
    func label(_ index: Int) -> String? {
        if granularity == .total { return nil }
        let start = EventTime(microseconds: starts[index])
        let isUTC = zone.name == "UTC"
        return RFC3339.format(start, offset: isUTC ? nil : zone.offset(at: Int(starts[index] / 1_000_000)))
    }
}
