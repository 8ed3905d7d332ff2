// The entry: question, snapshot of the store -> Answer.

import Events
package import RollupStore
import Rollups
import Synchronization

package final class QueryEngine: Sendable {
    private struct CatalogName: Hashable {
        var workspace: String
        /// The entity whose rollups' series are in it as well.
        var entity: String?
        /// They alone are.
        var isOfEntityAlone = false
    }

    /// Kept between questions: building one from nothing is most of the work of a small question.
    private let catalogs = Mutex<[CatalogName: SeriesCatalog]>([:])
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
        let rules = try snapshot.rulesTimeline().entries(from: question.from, to: end, of: workspace)
        var eras = eras(from: question.from, to: end, under: rules, source: question.source)
        let onEvents = eras.lazy.compactMap(\.onlyEvents).first
        let grid = BucketGrid(from: question.from, to: end, granularity: question.granularity, zone: question.zone)
        let retention = try Retention(snapshot)
        var stretches = try Planner.plan(eras, grid: grid, retention: retention)
        // Events may stand in where an entity's rollups are not whole.
        let needsEventKeys = eras.contains { $0.onlyEvents != nil || $0.entity != nil }
        let catalog = try catalog(workspace, entity: eras.lazy.compactMap(\.entity).first, snapshot)
        func evaluation(of stretches: [Stretch]) -> Evaluation {
            Evaluation(
                question: question, catalog: catalog, eventKeys: needsEventKeys ? eventKeys(under: rules) : [],
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

    /// - `entity`: with the series of this entity's rollups.
    func catalog(
        _ workspace: String, entity: String? = nil, _ snapshot: any RollupSnapshot
    ) throws -> SeriesCatalog {
        var series = try snapshot.series(workspace: workspace)
        if let entity {
            series += try snapshot.series(workspace: workspace, entity: entity)
            series.sort { $0.id < $1.id }
        }
        return catalog(CatalogName(workspace: workspace, entity: entity), series)
    }

    /// Of the rollups of an entity, and no other series.
    func catalog(
        _ workspace: String, ofEntity entity: String, _ snapshot: any RollupSnapshot
    ) throws -> SeriesCatalog {
        catalog(
            CatalogName(workspace: workspace, entity: entity, isOfEntityAlone: true),
            try snapshot.series(workspace: workspace, entity: entity))
    }

    private func catalog(_ name: CatalogName, _ series: [StoredSeries]) -> SeriesCatalog {
        catalogs.withLock { catalogs in
            catalogs[name, default: SeriesCatalog()].update(series)
            return catalogs[name] ?? SeriesCatalog()
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
            isTransient = error.isTransient
        default: self.init(.storeUnavailable, "The store could not be read: \(error)")
        }
    }
}

extension Dimension {
    fileprivate func named(in classes: [String: String]) -> (key: String, keyClass: String)? {
        guard case .metadata(let key) = self, let found = classes[key] else { return nil }
        return (key, found)
    }

    /// What the rollups of an entity hold beside all measures: its value, and how the request ended.
    fileprivate func isInRollups(of entity: String) -> Bool {
        switch self {
        case .metadata(let key): key == entity
        case .outcome, .statusClass: true
        default: false
        }
    }
}

extension Retention {
    init(_ snapshot: any RollupSnapshot) throws {
        try self.init(
            events: snapshot.retained(nil), minute: snapshot.retained(.minute), hour: snapshot.retained(.hour),
            day: snapshot.retained(.day), entityHour: snapshot.retained(.entityHour),
            entityDay: snapshot.retained(.entityDay))
    }
}

extension Question {
    var orderMeasure: [Measure] {
        if case .measure(let measure)? = orderBy { [measure] } else { [] }
    }

    /// Who answers where these keys have other classes than dimension.
    fileprivate func source(_ classes: [String: String]) -> EraSource {
        var keys = groupBy.map(\.dimension)
        for measure in measures + orderMeasure {
            if case .distinct(let key) = measure { keys.append(.metadata(key)) }
        }
        for leaf in condition?.leaves ?? [] {
            switch leaf {
            case .number(let field, _, _), .numberExists(let field):
                return .events("\(field.rawValue) is compared, which only events hold")
            case .text(let field, _): return .events("\(field.rawValue) is compared, which only events hold")
            case .dimension(let dimension, _): keys.append(dimension)
            }
        }
        guard let (key, keyClass) = keys.lazy.compactMap({ $0.named(in: classes) }).first else { return .rollups }
        if keyClass != QueryEngine.entity { return .events("metadata.\(key) is an \(keyClass): only events hold it") }
        guard let other = keys.first(where: { !$0.isInRollups(of: key) }) else { return .entity(key) }
        return .events("only events hold metadata.\(key), an entity, together with \(other.name)")
    }
}
