// When a step of deleting what is past its retention is due -> now, or how long to wait.

/// Decides, and knows no clock or store.
///
/// A pass looks for rows past their time and deletes them in steps between batches. A step waits nine times as long as
/// the one before took, so that deleting takes at most a tenth of the writer's time; after a pass nothing happens for an
/// hour, since boundaries move once a day.
package struct RetentionSchedule: Sendable {
    package static let betweenPasses: Duration = .seconds(3_600)
    /// After a store that could not be asked.
    package static let afterFailure: Duration = .seconds(60)
    /// Rows of one step: some tens of milliseconds.
    package static let stepRows = 5_000

    private var due: ContinuousClock.Instant
    /// In this pass there may be events to settle before they go.
    package var isSettling = true

    /// The first step is due at once.
    package init(at now: ContinuousClock.Instant) { due = now }

    /// How long until a step is due; zero or less: it is.
    package func left(at now: ContinuousClock.Instant) -> Duration { now.duration(to: due) }

    package mutating func stepped(isMoreLeft: Bool, began: ContinuousClock.Instant, at now: ContinuousClock.Instant) {
        due = now.advanced(by: isMoreLeft ? began.duration(to: now) * 9 : Self.betweenPasses)
        // The next pass looks again.
        if !isMoreLeft { isSettling = true }
    }

    package mutating func failed(at now: ContinuousClock.Instant) { due = now.advanced(by: Self.afterFailure) }
}
