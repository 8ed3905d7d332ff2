// What is summed up for one (bucket, group): rollup rows or events in, values of measures out.

import Events
import Rollups

/// What a cell keeps beside the additive measures, decided once for a question.
struct CellShape: Sendable {
    /// The timings of which a percentile is asked.
    var sketches: [SketchKind]
    /// The keys of which the distinct values are counted.
    var distinct: [String]

    init(measures: [Measure]) {
        sketches = SketchKind.allCases.filter { kind in
            measures.contains {
                if case .timing(kind, let statistic) = $0 { statistic.percentile != nil } else { false }
            }
        }
        distinct = measures.compactMap { if case .distinct(let key) = $0 { key } else { nil } }
    }

    var empty: Cell {
        Cell(
            sketches: Array(repeating: LatencySketch(), count: sketches.count),
            distinct: Array(repeating: [], count: distinct.count))
    }
}

struct Cell: Sendable {
    var measures = Measures()
    var errors: Int64 = 0
    /// As `CellShape.sketches`.
    var sketches: [LatencySketch]
    /// As `CellShape.distinct`: numbers of values.
    var distinct: [Set<Int32>]

    mutating func add(_ row: Measures, isError: Bool) {
        measures += row
        if isError { errors &+= row.requests }
    }

    mutating func add(_ other: Cell) {
        measures += other.measures
        errors &+= other.errors
        for index in sketches.indices { sketches[index].merge(other.sketches[index]) }
        for index in distinct.indices { distinct[index].formUnion(other.distinct[index]) }
    }

    func value(of measure: Measure, _ shape: CellShape) -> MeasureValue {
        switch measure {
        case .requests: return .integer(measures.requests)
        case .errors: return .integer(errors)
        case .errorRate:
            return measures.requests == 0 ? .null : .number(Double(errors) / Double(measures.requests))
        case .costUSD: return .nanos(measures.costNanoUSD)
        case .inputTokens: return .integer(measures.inputTokens)
        case .outputTokens: return .integer(measures.outputTokens)
        case .totalTokens: return .integer(measures.inputTokens &+ measures.outputTokens)
        case .cachedTokens: return .integer(measures.cachedTokens)
        case .reasoningTokens: return .integer(measures.reasoningTokens)
        case .requestBytes: return .integer(measures.requestBytes)
        case .responseBytes: return .integer(measures.responseBytes)
        case .distinct(let key):
            guard let index = shape.distinct.firstIndex(of: key) else { return .null }
            return .integer(Int64(distinct[index].count))
        case .timing(let kind, let statistic):
            guard let percentile = statistic.percentile else { return average(kind) }
            guard let index = shape.sketches.firstIndex(of: kind),
                let value = sketches[index].percentile(percentile)
            else { return .null }
            return .number(milliseconds(value))
        }
    }

    private func average(_ kind: SketchKind) -> MeasureValue {
        let (sum, count) =
            switch kind {
            case .latency: (measures.latencySum, measures.latencyCount)
            case .firstToken: (measures.firstTokenSum, measures.firstTokenCount)
            case .overhead: (measures.overheadSum, measures.overheadCount)
            }
        return count == 0 ? .null : .number(milliseconds(Double(sum) / Double(count)))
    }

    /// To the nanosecond: enough, and short as text.
    private func milliseconds(_ microseconds: Double) -> Double { (microseconds * 1000).rounded() / 1_000_000 }
}

/// One figure of an answer.
package enum MeasureValue: Sendable, Equatable {
    /// Nothing to measure: a rate or a percentile of no events.
    case null
    case integer(Int64)
    /// Thousand-millionths, shown exactly.
    case nanos(Int64)
    case number(Double)

    /// For ordering; nil is last either way.
    var magnitude: Double? {
        switch self {
        case .null: nil
        case .integer(let value): Double(value)
        case .nanos(let value): Double(value)
        case .number(let value): value
        }
    }

    static func precedes(_ a: MeasureValue, _ b: MeasureValue, descending: Bool) -> Bool? {
        switch (a, b) {
        case (.integer(let x), .integer(let y)), (.nanos(let x), .nanos(let y)):
            return x == y ? nil : (x < y) != descending
        default:
            guard let x = a.magnitude, let y = b.magnitude else {
                return (a.magnitude == nil) == (b.magnitude == nil) ? nil : b.magnitude == nil
            }
            return x == y ? nil : (x < y) != descending
        }
    }
}
