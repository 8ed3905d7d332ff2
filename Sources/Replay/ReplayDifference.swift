// Two generations of the same days -> what differs, by day, key and value, largest first.

package import Events
import JSONText
package import RollupStore
package import Rollups

package struct ReplayDifference: Sendable {
    package struct Change: Sendable, Equatable {
        /// The UTC day.
        package var day: EventTime
        /// A dimension, such as `model`, or `metadata.KEY`; `total` for all of the day.
        package var key: String
        package var value: String
        package var measure: String
        package var before: Int64
        package var after: Int64

        package var difference: Int64 { after &- before }
    }

    private struct Place: Hashable {
        var day: Int32
        var workspace: String
        var key: String
        var value: String
    }

    private var sums: [Place: (before: Measures, after: Measures)] = [:]

    package init() {}

    private static let measures: [(name: String, value: @Sendable (Measures) -> Int64)] = [
        ("requests", { $0.requests }), ("cost_nano_usd", { $0.costNanoUSD }), ("input_tokens", { $0.inputTokens }),
        ("output_tokens", { $0.outputTokens }),
    ]

    package mutating func add(_ row: StoredRollup, _ series: SeriesKey, isAfter: Bool) {
        var places = [("total", ""), ("model", series.model), ("provider", series.provider)]
        if let set = try? JSONValue.parse(series.set) {
            for pair in set.members ?? [] {
                for value in pair.value.array ?? [pair.value] {
                    places.append(("metadata.\(pair.key)", value.string ?? value.text))
                }
            }
        }
        for (key, value) in places {
            let place = Place(day: row.bucket, workspace: series.workspace, key: key, value: value)
            var sum = sums[place] ?? (Measures(), Measures())
            if isAfter { sum.after += row.measures } else { sum.before += row.measures }
            sums[place] = sum
        }
    }

    /// By the size of the difference, then by day, key and value.
    package var changes: [Change] {
        var all: [Change] = []
        for (place, sum) in sums {
            for (name, value) in Self.measures where value(sum.before) != value(sum.after) {
                all.append(
                    Change(
                        day: Grain.day.start(of: place.day), key: place.key, value: place.value, measure: name,
                        before: value(sum.before), after: value(sum.after)))
            }
        }
        return all.sorted {
            ($0.measure == "requests" ? 0 : 1, $1.difference.magnitude, $0.day.microseconds, $0.key, $0.value)
                < ($1.measure == "requests" ? 0 : 1, $0.difference.magnitude, $1.day.microseconds, $1.key, $1.value)
        }
    }
}
