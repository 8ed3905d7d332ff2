// The entry: question, snapshot of the store -> Answer.

import Events
package import RollupStore
import Rollups
import Synchronization

package final class QueryEngine: Sendable {
    /// By workspace. Kept between questions: building one from nothing is most of the work of a small question.
    private let catalogs = Mutex<[String: SeriesCatalog]>([:])
    let classMemory = ClassMemory()

    package init() {}

    /// Where a metadata key that the question names was no dimension, its values stand with the events only: events
    /// answer those eras.
    /// `explains`: the answer says how it was found, too.
    package func answer(
        _ question: Question, workspace: String, snapshot: any RollupSnapshot,
        budget: QueryBudget = QueryBudget(), explains: Bool = false
    ) throws(QueryError) -> Answer {
        try storeErrorsNamed { try evaluate(question, workspace, snapshot, budget, explains) }
    }

    func storeErrorsNamed<Result>(_ body: () throws -> Result) throws(QueryError) -> Result {
        do {
            return try body()
        } catch {
            throw QueryError(reading: error)
        }
    }

    private func evaluate(
        _ question: Question, _ workspace: String, _ snapshot: any RollupSnapshot, _ budget: QueryBudget,
        _ explains: Bool
    ) throws -> Answer {
        let watermark = try snapshot.watermark
        let shape = CellShape(measures: question.measures + question.orderMeasure)
        let end = Planner.end(of: question, watermark: watermark)
        let rules = try snapshot.rulesTimeline().entries(from: question.from, to: end)
        var eras = eras(from: question.from, to: end, under: rules) { question.reasonForEvents($0) }
        let onEvents = eras.lazy.compactMap(\.onlyEvents).first
        let grid = BucketGrid(from: question.from, to: end, granularity: question.granularity, zone: question.zone)
        let retention = try Retention(snapshot)
        var stretches = try Planner.plan(eras, grid: grid, retention: retention)
        let catalog = try catalog(workspace, snapshot)
        func evaluation(of stretches: [Stretch]) -> Evaluation {
            Evaluation(
                question: question, catalog: catalog, eventKeys: onEvents == nil ? [] : eventKeys(under: rules),
                readsRollups: stretches.contains { $0.grain != nil }, grid: grid, shape: shape, budget: budget)
        }
        let filed = try FiledSpans(stretches, question, catalog, retention, snapshot)
        let readsEvents = !filed.isEmpty || stretches.contains { $0.grain == nil }
        let reads = EventReads(readsEvents ? question.condition : nil, catalog, rules, classMemory)
        var inexactness = filed.inexact(retention)
        if !filed.isEmpty {
            let exact = filed.cut(eras, retention)
            let cut = try Planner.plan(exact, grid: grid, retention: retention)
            let estimate = try CostEstimate(cut, reads, evaluation(of: cut), snapshot, limit: budget.rows)
            if estimate.rows <= budget.rows {
                (eras, stretches) = (exact, cut)
            } else {
                inexactness = filed.inexact(readingTakes: estimate.rows)
            }
        }
        var evaluation = evaluation(of: stretches)
        let estimate = try CostEstimate(stretches, reads, evaluation, snapshot, limit: explains ? 0 : budget.rows)
        if estimate.rows > budget.rows {
            throw estimate.refusal(of: question, limit: budget.rows, onlyEvents: onEvents)
        }
        let explanation = explains ? QueryExplanation(evaluation, stretches, reads, estimatedRows: estimate.rows) : nil
        for stretch in stretches where !evaluation.isEnded && !evaluation.selected(for: stretch).isEmpty {
            try Self.scan(stretch, reads, evaluation.selection(for: stretch), snapshot, &evaluation)
        }
        if evaluation.isTooLate { throw QueryBudget.timedOut() }
        guard !evaluation.isTooLarge else {
            throw QueryError(
                .tooLarge,
                "The answer has more than \(QueryLimits.cells) pairs of bucket and group.",
                hint: "Ask for a coarser granularity, fewer names in group_by or a narrower filter.")
        }
        var plan = QueryPlan(
            stretches: stretches, rowsRead: evaluation.rowsRead, eras: eras, index: reads.keys(of: stretches),
            rules: rules.map(\.rules.fingerprint))
        if let inexactness { plan.reason = "\(inexactness.reason); \(plan.reason)" }
        var answer = Answer(evaluation, plan: plan, watermark: watermark)
        answer.inexactness = inexactness
        answer.explanation = explanation
        return answer
    }

    private static func scan(
        _ stretch: Stretch, _ reads: EventReads, _ selection: SeriesSelection, _ snapshot: any RollupSnapshot,
        _ evaluation: inout Evaluation
    ) throws {
        guard let grain = stretch.grain else {
            try reads.scan(
                from: EventTime(microseconds: stretch.from), to: EventTime(microseconds: stretch.to),
                series: selection, snapshot
            ) { event in
                evaluation.add(event)
                return !evaluation.isEnded
            }
            return
        }
        try snapshot.scanRollups(
            grain: grain, from: Int32(clamping: stretch.from / grain.microseconds),
            to: Int32(clamping: stretch.to / grain.microseconds), series: selection,
            withBins: !evaluation.shape.sketches.isEmpty
        ) { evaluation.add($0, grain: grain) }
    }

    func catalog(_ workspace: String, _ snapshot: any RollupSnapshot) throws -> SeriesCatalog {
        let series = try snapshot.series(workspace: workspace)
        return catalogs.withLock { catalogs in
            catalogs[workspace, default: SeriesCatalog()].update(series)
            return catalogs[workspace] ?? SeriesCatalog()
        }
    }
}

extension QueryError {
    /// What came out of reading the store, by whatever layer.
    package init(reading error: any Error) {
        switch error {
        case let error as QueryError: self = error
        case let error as RollupStoreError:
            self.init(.storeUnavailable, "\(error.tried): \(error.reason)", hint: error.next)
        default: self.init(.storeUnavailable, "The store could not be read: \(error)")
        }
    }
}

extension Retention {
    init(_ snapshot: any RollupSnapshot) throws {
        try self.init(
            events: snapshot.retained(nil), minute: snapshot.retained(.minute), hour: snapshot.retained(.hour),
            day: snapshot.retained(.day))
    }
}

extension Question {
    var orderMeasure: [Measure] {
        if case .measure(let measure)? = orderBy { [measure] } else { [] }
    }

    /// Why rollups cannot answer; nil where they can.
    fileprivate func reasonForEvents(_ nonDimensionKeys: Set<String>) -> String? {
        var keys = groupBy.map(\.dimension)
        for measure in measures + orderMeasure {
            if case .distinct(let key) = measure { keys.append(.metadata(key)) }
        }
        for leaf in condition?.leaves ?? [] {
            switch leaf {
            case .number(let field, _, _), .numberExists(let field):
                return "\(field.rawValue) is compared, which only events hold"
            case .text(let field, _): return "\(field.rawValue) is compared, which only events hold"
            case .dimension(let dimension, _): keys.append(dimension)
            }
        }
        for case .metadata(let key) in keys where nonDimensionKeys.contains(key) {
            return "metadata.\(key) is no dimension: only events hold it"
        }
        return nil
    }
}
