// `millrace_reconciliation_difference`: the balance of the last day, worked out when it is scraped.

import Events
import QueryAPI
import Reconciling
import RollupStore
import Synchronization
import Telemetry

final class ReconciliationGauge: Sendable {
    /// Scrapers that come together share one answer.
    private static let lifetime = Duration.seconds(5)
    private static let dayMicroseconds: Int64 = 86_400_000_000

    private struct State {
        var difference: Int64 = 0
        var inFlight: Int64 = 0
        var readAt: ContinuousClock.Instant?
    }
    private let state = Mutex(State())
    private let reconciler: Reconciler
    private let reader: any RollupReader

    init(_ reconciler: Reconciler, _ reader: any RollupReader) {
        self.reconciler = reconciler
        self.reader = reader
    }

    var metrics: [Metric] {
        [
            Metric(
                "millrace_reconciliation_difference",
                "Records of the last day that are not accounted for: differences of all proxies and minutes, added up "
                    + "without their signs; -1 while the store cannot be read.",
                .gauge { [self] in look().difference }),
            Metric(
                "millrace_reconciliation_in_flight", "Records of the last day on their way into the store.",
                .gauge { [self] in look().inFlight }),
        ]
    }

    private func look() -> (difference: Int64, inFlight: Int64) {
        state.withLock { state in
            if let readAt = state.readAt, readAt.duration(to: .now) < Self.lifetime {
                return (state.difference, state.inFlight)
            }
            let now = SystemFacts.now().microseconds
            let from = EventTime(microseconds: now - Self.dayMicroseconds).startOfMinute
            let balance = try? reconciler.balance(
                reader: reader, from: from, to: EventTime(microseconds: now + Self.dayMicroseconds))
            state.difference = balance?.absoluteDifference ?? -1
            state.inFlight = balance?.totals.inFlight ?? 0
            state.readAt = .now
            return (state.difference, state.inFlight)
        }
    }
}
