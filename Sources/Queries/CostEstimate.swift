// What a question will cost, before it is asked: stretches, evaluation -> rows that will be read, about.
//
// A rollup row needs an event and a series: the smaller of (events ever applied) and (buckets x series) bounds what is
// read, for nothing. Only where that bound is above the limit is it looked closer: a few buckets of each stretch are
// counted and stand for the rest. Events of a stretch are counted by rollups, which hold them in far fewer rows; those
// that an index leaves of it, by the index.

import Events
import RollupStore
import Rollups

struct CostEstimate {
    private(set) var rows = 0

    /// Buckets of a stretch that are counted.
    private static let samples: Int64 = 8

    /// Above `limit` the estimate is a close one.
    init(
        _ stretches: [Stretch], _ reads: EventReads, _ evaluation: borrowing Evaluation, _ snapshot: any RollupSnapshot,
        limit: Int
    ) throws {
        let applied = try snapshot.ledger().reduce(Int64(0)) { $0 &+ $1.applied }
        var bound: Int64 = 0
        for stretch in stretches {
            let selected = evaluation.selected(for: stretch).count
            if selected == 0 { continue }
            guard let grain = stretch.grain else {
                bound = bound &+ applied
                continue
            }
            let (cells, overflows) = ((stretch.to - stretch.from) / grain.microseconds)
                .multipliedReportingOverflow(by: Int64(selected))
            bound = bound &+ (overflows ? applied : min(applied, cells))
        }
        rows = Int(clamping: bound)
        if rows <= limit { return }
        rows = 0
        for stretch in stretches where !evaluation.selected(for: stretch).isEmpty {
            let selection = evaluation.selection(for: stretch)
            let atMost = Int(clamping: applied)
            if stretch.grain == nil {
                for part in reads.parts(of: stretch) { rows += try Self.rows(part, snapshot, atMost: atMost) }
            } else {
                rows += try Self.rows(stretch, selection, snapshot, atMost: atMost)
            }
        }
    }

    private static func rows(_ part: EventPart, _ snapshot: any RollupSnapshot, atMost: Int) throws -> Int {
        var rows = 0
        var end = part.to
        if let having = part.having {
            let begin = max(part.from, try snapshot.indexedFrom?.microseconds ?? part.from)
            if begin < end {
                rows = try snapshot.countEvents(
                    from: EventTime(microseconds: begin), to: EventTime(microseconds: end), having: having,
                    atMost: min(atMost, QueryLimits.rows + 1))
                end = begin
            }
        }
        if part.from >= end { return rows }
        let rest = Stretch(grain: nil, from: part.from, to: end)
        return rows + (try Self.rows(rest, .all, snapshot, atMost: atMost))
    }

    private static func rows(
        _ stretch: Stretch, _ selection: SeriesSelection, _ snapshot: any RollupSnapshot, atMost: Int
    ) throws -> Int {
        // Events are walked over whatever their series.
        let grain = stretch.grain ?? (stretch.to - stretch.from > 2 * Grain.day.microseconds ? .day : .hour)
        let first = floorDivide(Int(stretch.from), Int(grain.microseconds))
        let buckets = Int64(max(1, -floorDivide(-Int(stretch.to), Int(grain.microseconds)) - first))
        let taken = min(buckets, samples)
        var found: Int64 = 0
        for index in 0..<taken {
            let bucket = Int32(clamping: Int64(first) + index * buckets / taken)
            try snapshot.scanRollups(
                grain: grain, from: bucket, to: bucket + 1, series: stretch.grain == nil ? .all : selection,
                withBins: false
            ) { row in found += stretch.grain == nil ? max(0, row.measures.requests) : 1 }
        }
        // A stretch within one bucket of the grain has its share of it.
        let covered = buckets * grain.microseconds
        let share = Double(stretch.to - stretch.from) / Double(covered)
        return min(atMost, Int((Double(found) / Double(taken) * Double(buckets) * min(1, share)).rounded(.up)))
    }

    func refusal(of question: Question, limit: Int, onlyEvents: String?) -> QueryError {
        let hours = Int(
            Double(question.to.microseconds - question.from.microseconds) / 3_600_000_000 * Double(limit) / Double(rows)
        )
        let range = hours >= 48 ? "\(hours / 24) days" : hours >= 1 ? "\(hours) hours" : "a few minutes"
        let instead =
            onlyEvents == nil
            ? "or use a coarser granularity or a narrower filter."
            : "or leave out what makes it read events: \(onlyEvents ?? "")."
        return QueryError(
            .tooExpensive, "About \(rows) rows would be read; a question may read \(limit).",
            hint: "Ask for about \(range) at a time, \(instead)")
    }
}
