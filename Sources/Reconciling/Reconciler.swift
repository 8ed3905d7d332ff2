// Sets both sides side by side: the store (and the journal, where it is the log) -> a Balance.

package import Events
import Journal
package import RollupStore
package import Telemetry

package struct Reconciler: Sendable {
    /// Where records are while they are neither applied nor lost.
    package enum Source: Sendable {
        /// The journal is the log: what is in flight is counted in it.
        case journal(directory: String)
        /// The log is elsewhere: minutes younger than `settleSeconds` count as in flight.
        case store
    }

    /// How long events and their manifests may take to arrive where nobody can look: two minutes.
    package static let settleSeconds: Int64 = 120

    private let source: Source
    private let log: Log
    private let now: @Sendable () -> EventTime

    package init(_ source: Source, log: Log, now: @escaping @Sendable () -> EventTime) {
        self.source = source
        self.log = log
        self.now = now
    }

    /// Minutes with `from <= minute < to`.
    package func balance(reader: any RollupReader, from: EventTime, to: EventTime) throws -> Balance {
        let (parts, minutes, ledger) = try reader.read { snapshot in
            (
                try snapshot.manifests(from: from, to: to), try snapshot.proxyMinutes(from: from, to: to),
                try snapshot.ledger()
            )
        }
        switch source {
        case .journal(let directory):
            let tail = JournalTail(journal: directory, ledger: ledger, log: log)
            var balance = Balance(
                parts: parts + tail.parts, minutes: minutes, inFlight: .counted(tail.inFlight), from: from, to: to)
            if let problem = tail.problem {
                balance.isClosed = false
                balance.note = "Not all that is in flight is counted: \(problem)."
            }
            return balance
        case .store:
            let since = EventTime(microseconds: now().microseconds - Self.settleSeconds * 1_000_000)
            return Balance(
                parts: parts, minutes: minutes, inFlight: .assumed(since: since.startOfMinute), from: from, to: to)
        }
    }
}
