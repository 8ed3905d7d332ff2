// Sets both sides side by side: the store, and the log it is filled from -> a Balance.

package import Events
import Journal
package import RecordLog
package import RollupStore
package import Telemetry
import Threading

package struct Reconciler: Sendable {
    /// Where records are while they are neither applied nor lost.
    package enum Source: Sendable {
        /// The journal is the log: what is in flight is counted in it.
        case journal(directory: String)
        /// The log is elsewhere, and this tells where each of its partitions ends; nil where that cannot be known now.
        case log(ends: @Sendable () -> [TopicPartition: Offset]?)
    }

    /// | limit | value | why | at the limit |
    /// | --- | --- | --- | --- |
    /// | `settleSeconds` | 120 s | how long a manifest may travel behind its events | more came than was recorded: a difference |
    /// | `waitMilliseconds` | 2,000 ms | freshness is below 1 s | what is missing counts as in flight, and the note says so |
    package static let settleSeconds: Int64 = 120
    package static let waitMilliseconds = 2_000

    private let source: Source
    private let log: Log
    private let now: @Sendable () -> EventTime

    package init(_ source: Source, log: Log, now: @escaping @Sendable () -> EventTime) {
        self.source = source
        self.log = log
        self.now = now
    }

    private struct State {
        var parts: [Manifest]
        var minutes: [ProxyMinute]
        var ledger: [PartitionLedger]
    }

    /// Minutes with `from <= minute < to`.
    package func balance(reader: any RollupReader, from: EventTime, to: EventTime) throws -> Balance {
        var state = try read(reader, from, to)
        switch source {
        case .journal(let directory):
            let tail = JournalTail(journal: directory, ledger: state.ledger, log: log)
            var balance = Balance(
                parts: state.parts + tail.parts, minutes: state.minutes, inFlight: .counted(tail.inFlight), from: from,
                to: to)
            if let problem = tail.problem {
                balance.isClosed = false
                balance.note = "Not all that is in flight is counted: \(problem)."
            }
            return balance
        case .log(let ends):
            // What these manifests count lies below the ends, asked for after them.
            let parts = state.parts
            let ends = ends()
            var hasArrived = false
            if let ends {
                let deadline = ContinuousClock.now.advanced(by: .milliseconds(Self.waitMilliseconds))
                let pause = StopSignal()
                hasArrived = Self.reaches(ends, state.ledger)
                while !hasArrived, ContinuousClock.now < deadline {
                    _ = pause.wait(milliseconds: 50)
                    state = try read(reader, from, to)
                    hasArrived = Self.reaches(ends, state.ledger)
                }
            }
            let settled = EventTime(microseconds: now().microseconds - Self.settleSeconds * 1_000_000)
            var balance = Balance(
                parts: parts, minutes: state.minutes, inFlight: .inLog(hasArrived: hasArrived, settled: settled),
                from: from, to: to)
            if ends == nil {
                balance.note = "The log does not say where it ends: what is missing counts as in flight."
            }
            return balance
        }
    }

    private func read(_ reader: any RollupReader, _ from: EventTime, _ to: EventTime) throws -> State {
        try reader.read { snapshot in
            State(
                parts: try snapshot.manifests(from: from, to: to),
                minutes: try snapshot.proxyMinutes(from: from, to: to), ledger: try snapshot.ledger())
        }
    }

    private static func reaches(_ ends: [TopicPartition: Offset], _ ledger: [PartitionLedger]) -> Bool {
        let next = Dictionary(ledger.map { ($0.partition, $0.next) }, uniquingKeysWith: max)
        return ends.allSatisfy { partition, end in end.value == 0 || (next[partition] ?? Offset(0)) >= end }
    }
}
