// When a batch is closed: how much it holds, how old it is, and whether anybody waits for it -> seal or wait.

/// Decides, and knows no clock, queue or thread.
///
/// Full batches go at once. Otherwise, while the store is busy, waiting costs nothing and makes batches larger, which
/// makes events cheaper. When the store is idle, a batch goes once the log has no more to add (after `linger`, so that
/// a trickle does not become a commit an event) or once it is `maxWait` old.
package struct BatchSealer: Sendable {
    package struct Limits: Sendable {
        package var events: Int
        package var bytes: Int
        package var maxWait: Duration
        package var linger: Duration

        package init(events: Int, bytes: Int, maxWait: Duration, linger: Duration) {
            self.events = events
            self.bytes = bytes
            self.maxWait = maxWait
            self.linger = min(linger, maxWait)
        }
    }

    package enum Decision: Equatable, Sendable {
        case seal
        /// Ask again after so long, or when something happens; nil: only then.
        case wait(Duration?)
    }

    private let limits: Limits
    private var events = 0
    private var bytes = 0
    /// When the batch's first record came; nil while the batch is empty.
    package private(set) var since: ContinuousClock.Instant?

    package init(_ limits: Limits) { self.limits = limits }

    package var isFull: Bool { events >= limits.events || bytes >= limits.bytes }

    /// Something came that the store must hear of, if only as a moved offset.
    package mutating func added(events: Int, bytes: Int, at now: ContinuousClock.Instant) {
        self.events += events
        self.bytes += bytes
        if since == nil { since = now }
    }

    package mutating func sealed() {
        events = 0
        bytes = 0
        since = nil
    }

    /// `isIdle`: the store has nothing to do. `isCaughtUp`: the log had no more, as far as the last look showed.
    package func decide(at now: ContinuousClock.Instant, isIdle: Bool, isCaughtUp: Bool) -> Decision {
        guard let since else { return .wait(nil) }
        if isFull { return .seal }
        guard isIdle else { return .wait(nil) }
        let left = (isCaughtUp ? limits.linger : limits.maxWait) - since.duration(to: now)
        return left <= .zero ? .seal : .wait(left)
    }
}

/// How long to wait before trying again: doubling from 50 ms to 5 s, each between half and all of it.
package struct Backoff: Sendable {
    package static let first = 50
    package static let longest = 5_000
    private var ceiling = Backoff.first

    package init() {}

    /// Milliseconds. `random` supplies 64 random bits.
    package mutating func failed(random: UInt64) -> Int {
        let wait = ceiling / 2 + Int(random % UInt64(ceiling - ceiling / 2 + 1))
        ceiling = min(ceiling * 2, Self.longest)
        return wait
    }

    package mutating func succeeded() { ceiling = Self.first }
}
