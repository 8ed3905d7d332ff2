// `millrace_replays` and how far unfinished ones are: what the store says when it is scraped.

import RecordLog
import RollupStore
import Synchronization
import Telemetry

final class ReplayGauge: Sendable {
    /// The metrics of one scrape, and scrapers that come together, share one answer.
    private static let lifetime = Duration.seconds(5)

    private struct State {
        var rows: [ReplayMetrics.Row] = []
        var readAt: ContinuousClock.Instant?
    }
    private let state = Mutex(State())
    private let list: @Sendable () throws -> [StoredReplay]

    init(_ list: @escaping @Sendable () throws -> [StoredReplay]) { self.list = list }

    var metrics: [Metric] { ReplayMetrics { [self] in look() }.all }

    private func look() -> [ReplayMetrics.Row] {
        state.withLock { state in
            if let readAt = state.readAt, readAt.duration(to: .now) < Self.lifetime { return state.rows }
            let replays = try? list()
            state.rows = (replays ?? []).map {
                ReplayMetrics.Row(
                    id: $0.id, state: $0.state.rawValue, isUnfinished: $0.state == .building, scanned: $0.scanned,
                    total: $0.total,
                    partitions: ($0.log?.parts ?? []).map { ("\($0.partition)", $0.read, $0.total) })
            }
            state.readAt = .now
            return state.rows
        }
    }
}
