// Counters, gauges and histograms, and their text for Prometheus. Every metric of the program is declared in this
// module, one file a role (`Metrics+<Role>.swift`), so that names and units stand together.

import Synchronization

/// A count that only rises. Unit in the name.
package final class Counter: Sendable {
    private let count = Atomic<UInt64>(0)
    package init() {}
    package func add(_ amount: Int = 1) { count.wrappingAdd(UInt64(amount), ordering: .relaxed) }
    package var value: UInt64 { count.load(ordering: .relaxed) }
}

/// A value that goes both ways.
package final class Gauge: Sendable {
    private let current = Atomic<Int64>(0)
    package init() {}
    package func set(_ value: Int64) { current.store(value, ordering: .relaxed) }
    package func add(_ amount: Int64) { current.wrappingAdd(amount, ordering: .relaxed) }
    package var value: Int64 { current.load(ordering: .relaxed) }
}

/// Times in microseconds, in fixed buckets from 100 µs to 100 s; shown in seconds.
package final class DurationHistogram: Sendable {
    /// Upper bounds in microseconds.
    package static let bounds: [UInt64] = [
        100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
        5_000_000, 10_000_000, 30_000_000, 100_000_000,
    ]
    private struct State {
        var buckets = [UInt64](repeating: 0, count: DurationHistogram.bounds.count + 1)
        var sum: UInt64 = 0
    }
    private let state = Mutex(State())
    package init() {}

    package func record(microseconds: UInt64) {
        let index = Self.bounds.firstIndex { microseconds <= $0 } ?? Self.bounds.count
        state.withLock {
            $0.buckets[index] += 1
            $0.sum += microseconds
        }
    }

    fileprivate var snapshot: (buckets: [UInt64], sum: UInt64) { state.withLock { ($0.buckets, $0.sum) } }
}

/// A declared metric: what `/metrics` prints.
package struct Metric: Sendable {
    package enum Source: Sendable {
        case counter(@Sendable () -> UInt64)
        case gauge(@Sendable () -> Int64)
        /// Label sets made at scrape time, such as one a partition: `name{labels} value`.
        case gauges(@Sendable () -> [(labels: [(String, String)], value: Int64)])
        case counters(@Sendable () -> [(labels: [(String, String)], value: UInt64)])
        case duration(DurationHistogram)
    }
    package var name: String
    package var help: String
    package var labels: [(String, String)]
    /// The labels that `gauges` and `counters` make at scrape time.
    package var rowLabels: [String]
    package var source: Source

    package init(
        _ name: String, _ help: String, labels: [(String, String)] = [], rowLabels: [String] = [], _ source: Source
    ) {
        self.name = name
        self.help = help
        self.labels = labels
        self.rowLabels = rowLabels
        self.source = source
    }
}

/// All metrics of one process, in the order of registration.
package final class MetricsRegistry: Sendable {
    private let metrics = Mutex<[Metric]>([])
    package init() {}

    package func register(_ added: [Metric]) { metrics.withLock { $0 += added } }

    /// Prometheus text exposition format 0.0.4.
    package func render() -> String {
        var out = ""
        var described = Set<String>()
        for metric in metrics.withLock({ $0 }) {
            if described.insert(metric.name).inserted {
                out += "# HELP \(metric.name) \(metric.help)\n# TYPE \(metric.name) \(metric.source.type)\n"
            }
            switch metric.source {
            case .counter(let read): out += "\(metric.name)\(Self.text(metric.labels)) \(read())\n"
            case .gauge(let read): out += "\(metric.name)\(Self.text(metric.labels)) \(read())\n"
            case .gauges(let read):
                for row in read() { out += "\(metric.name)\(Self.text(metric.labels + row.labels)) \(row.value)\n" }
            case .counters(let read):
                for row in read() { out += "\(metric.name)\(Self.text(metric.labels + row.labels)) \(row.value)\n" }
            case .duration(let histogram):
                let (buckets, sum) = histogram.snapshot
                var running: UInt64 = 0
                for (index, count) in buckets.enumerated() {
                    running += count
                    let bound =
                        index < DurationHistogram.bounds.count ? Self.seconds(DurationHistogram.bounds[index]) : "+Inf"
                    out += "\(metric.name)_bucket\(Self.text(metric.labels + [("le", bound)])) \(running)\n"
                }
                out += "\(metric.name)_sum\(Self.text(metric.labels)) \(Self.seconds(sum))\n"
                out += "\(metric.name)_count\(Self.text(metric.labels)) \(running)\n"
            }
        }
        return out
    }

    private static func text(_ labels: [(String, String)]) -> String {
        if labels.isEmpty { return "" }
        return "{" + labels.map { "\($0)=\"\(escape($1))\"" }.joined(separator: ",") + "}"
    }

    private static func escape(_ value: String) -> String {
        var out = ""
        for character in value {
            switch character {
            case "\\": out += "\\\\"
            case "\"": out += "\\\""
            case "\n": out += "\\n"
            default: out.append(character)
            }
        }
        return out
    }

    private static func seconds(_ microseconds: UInt64) -> String {
        let fraction = String(microseconds % 1_000_000)
        let padded = String(repeating: "0", count: 6 - fraction.count) + fraction
        var text = "\(microseconds / 1_000_000).\(padded)"
        while text.hasSuffix("0") { text.removeLast() }
        if text.hasSuffix(".") { text.removeLast() }
        return text
    }
}

extension Metric.Source {
    /// As Prometheus calls it.
    package var type: String {
        switch self {
        case .counter, .counters: "counter"
        case .gauge, .gauges: "gauge"
        case .duration: "histogram"
        }
    }
}
