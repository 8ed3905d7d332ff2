// Where rollups hold something under `(other)` that a question asks for: stretches, catalog -> spans of the range.
//
// A budget left values or keys out of some sets (`SetText`), and the events have them. Where rows of such sets are in the
// range, and what is left out could change the answer, events answer those buckets; where they are past retention, or
// too many to be read, rollups do, and the answer says that it is not exact.

import Events
import RollupStore
import Rollups

struct FiledSpans {
    struct Span: Equatable {
        var from: Int64
        var to: Int64
        var requests: Int64
    }

    /// Disjoint, in order of time.
    private(set) var spans: [Span] = []
    /// A key of the question with values under `(other)`.
    private(set) var key = ""

    var isEmpty: Bool { spans.isEmpty }
    var requests: Int64 { spans.reduce(0) { $0 &+ $1.requests } }

    init(
        _ stretches: [Stretch], _ question: Question, _ catalog: SeriesCatalog, _ retention: Retention,
        _ snapshot: any RollupSnapshot
    ) throws {
        let series = touched(question, catalog)
        if series.isEmpty { return }
        let selection = SeriesSelection.only(series.map { catalog.ids[$0] })
        for stretch in stretches {
            if let grain = stretch.grain { try look(grain, stretch.from, stretch.to, selection, retention, snapshot) }
        }
    }

    /// The series whose sets leave open what the question asks.
    private mutating func touched(_ question: Question, _ catalog: SeriesCatalog) -> [Int] {
        guard catalog.hasFiled else { return [] }
        let condition = catalog.decide(question.condition, eventKeys: [], ofEvents: true)
        var keys = question.metadataKeys(ofCondition: false)
        var touched: [Int] = []
        for series in 0..<catalog.count where condition[series] != .fails && catalog.isFiled(series) {
            let grouped = keys.first { catalog.value(of: .metadata($0), series: series) == .filed }
            if grouped == nil, condition[series] == .holds { continue }
            touched.append(series)
            if key.isEmpty, let grouped { key = grouped }
        }
        if key.isEmpty, let first = touched.first {
            keys = question.metadataKeys(ofCondition: true)
            key = keys.first { catalog.value(of: .metadata($0), series: first) == .filed } ?? ""
        }
        return touched
    }

    /// Days are looked at hour by hour, so that no more is read from events than need be.
    private mutating func look(
        _ grain: Grain, _ from: Int64, _ to: Int64, _ selection: SeriesSelection, _ retention: Retention,
        _ snapshot: any RollupSnapshot
    ) throws {
        var found: [Int32: Int64] = [:]
        try snapshot.scanRollups(
            grain: grain, from: Int32(clamping: from / grain.microseconds),
            to: Int32(clamping: to / grain.microseconds), series: selection, withBins: false
        ) { if $0.measures.requests != 0 { found[$0.bucket, default: 0] &+= $0.measures.requests } }
        for (bucket, requests) in found.sorted(by: { $0.key < $1.key }) {
            let begin = grain.start(of: bucket).microseconds
            let end = begin + grain.microseconds
            let hour = grain == .day ? Grain.hour : grain == .entityDay ? .entityHour : nil
            if let hour, retention.holds(hour, at: begin) {
                try look(hour, begin, end, selection, retention, snapshot)
            } else if let last = spans.last, last.to == begin {
                spans[spans.count - 1].to = end
                spans[spans.count - 1].requests &+= requests
            } else {
                spans.append(Span(from: begin, to: end, requests: requests))
            }
        }
    }

    /// The eras with the spans read from events, as far as those are kept.
    func cut(_ eras: [Era], _ retention: Retention) -> [Era] {
        let reason = "metadata.\(key) has values beyond the workspace's budget: only events hold them"
        var out: [Era] = []
        for era in eras {
            var at = era.from
            if era.onlyEvents == nil {
                for span in kept(retention) where span.to > at && span.from < era.to {
                    if span.from > at { out.append(Era(from: at, to: span.from, entity: era.entity)) }
                    let end = min(span.to, era.to)
                    out.append(Era(from: max(at, span.from), to: end, onlyEvents: reason))
                    at = end
                }
            }
            if at < era.to { out.append(Era(from: at, to: era.to, onlyEvents: era.onlyEvents, entity: era.entity)) }
        }
        return out
    }

    private func kept(_ retention: Retention) -> [Span] { spans.filter { retention.holds(nil, at: $0.from) } }

    /// What rollups answer all the same.
    func inexact(_ retention: Retention) -> Inexactness? {
        let left = spans.filter { !retention.holds(nil, at: $0.from) }.reduce(0) { $0 &+ $1.requests }
        return left == 0 ? nil : inexactness(left, "their events are past retention")
    }

    func inexact(readingTakes rows: Int) -> Inexactness {
        inexactness(requests, "to be exact about \(rows) rows would have to be read; ask for a shorter range")
    }

    private func inexactness(_ requests: Int64, _ why: String) -> Inexactness {
        Inexactness(
            requests: requests,
            reason: "\(requests) requests have values of metadata.\(key) beyond the workspace's budget, filed under "
                + "\(MetadataValue.filedName); \(why)")
    }
}

/// Why an answer is not exact.
package struct Inexactness: Sendable, Equatable {
    /// Those whose place is not known.
    package var requests: Int64
    package var reason: String
}

extension Question {
    /// Each once, of the filter or of the groups and measures.
    fileprivate func metadataKeys(ofCondition: Bool) -> [String] {
        var keys: [String] = []
        func add(_ dimension: Dimension) {
            if case .metadata(let key) = dimension, !keys.contains(key) { keys.append(key) }
        }
        if ofCondition {
            for case .dimension(let dimension, _) in condition?.leaves ?? [] { add(dimension) }
        } else {
            for name in groupBy { add(name.dimension) }
            for case .distinct(let key) in measures + orderMeasure { add(.metadata(key)) }
        }
        return keys
    }
}
