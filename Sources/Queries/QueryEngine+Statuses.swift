// How many errors had which HTTP status: events -> counts by bucket and status. Rollups know the class of a status only.

import Events
package import RollupStore

package struct StatusCount: Sendable {
    /// Index into `Question.bucketLabels`.
    package var bucket: Int
    /// 0 where none was sent.
    package var status: Int
    package var count: Int64
}

extension QueryEngine {
    /// Errors among the events of the question; its groups and measures do not matter.
    package func errorStatuses(
        _ question: Question, workspace: String, snapshot: any RollupSnapshot,
        budget: QueryBudget = QueryBudget()
    ) throws(QueryError) -> [StatusCount] {
        try storeErrorsNamed {
            let grid = BucketGrid(
                from: question.from, to: question.to, granularity: question.granularity, zone: question.zone)
            _ = try Planner.plan(
                from: question.from, to: question.to, grid: grid,
                onlyEvents: "the status is asked, which only events hold",
                retention: try Retention(snapshot))
            let catalog = try catalog(workspace, snapshot)
            let verdicts = catalog.decide(
                question.condition,
                eventKeys: try eventKeys(from: question.from, to: question.to, of: workspace, snapshot), ofEvents: true)
            let selected = verdicts.indices.filter { verdicts[$0] != .fails && catalog.isError[$0] }
            var counts: [[Int]: Int64] = [:]
            var watch = BudgetWatch(budget)
            if !selected.isEmpty {
                try reads(question.condition, from: question.from, to: question.to, of: workspace, catalog, snapshot)
                    .scan(
                        from: question.from, to: question.to, series: .only(selected.map { catalog.ids[$0] }), snapshot
                    ) { stored in
                        guard watch.goesOn() else { return false }
                        guard let series = catalog.position(of: stored.series),
                            question.condition?.holds(stored, series: series, catalog) ?? true
                        else { return true }
                        let bucket = grid.index(of: stored.event.time.microseconds)
                        counts[[bucket, Int(stored.event.status)], default: 0] += 1
                        return true
                    }
            }
            try watch.end()
            return counts.map { StatusCount(bucket: $0.key[0], status: $0.key[1], count: $0.value) }
                .sorted { ($0.bucket, $0.status) < ($1.bucket, $1.status) }
        }
    }
}
