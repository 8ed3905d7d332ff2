// The journal as a log: all lanes of a directory, also those that other processes write or wrote, read by one thread.
// lanes → RecordChunk; the store's offsets → checkpoints
//
// What is handed out is on the disk first, whatever `journal.fsync` says: a store that has counted what a power cut then
// takes from the journal would stand ahead of its lane, and take the next records there for those.

import Glibc
package import RecordLog
package import Telemetry

package struct JournalLogReader: RecordLogReader {
    private let directory: String
    private let log: Log
    private let metrics: JournalMetrics
    private let movesCheckpoints: Bool

    private var known: [Int32: Started?] = [:]
    private var order: [Int32] = []
    private var turn = 0
    private var rescanAt = ContinuousClock.now
    private var pause = Duration.zero
    private var degraded: String?

    private struct Started {
        let cursor: LaneCursor
        let state: LaneState?
        var applied: Int64
        var isStopped = false
        /// Not before: a lane that trickles is written through some dozens of times a second, and not for each record.
        var readAt = ContinuousClock.now
    }

    private static let syncPause = Duration.milliseconds(20)
    private static let rescanPause = Duration.milliseconds(200)
    private static let pauses = (first: Duration.microseconds(250), longest: Duration.milliseconds(10))

    /// `movesCheckpoints: false` for a second look at a journal that another reader consumes.
    package init(directory: String, log: Log, metrics: JournalMetrics, movesCheckpoints: Bool = true) {
        self.directory = directory
        self.log = log
        self.metrics = metrics
        self.movesCheckpoints = movesCheckpoints
    }

    package mutating func poll(
        maxRecords: Int, maxBytes: Int, timeoutMilliseconds: Int32
    ) throws(RecordLogError) -> LogEvent {
        let deadline = ContinuousClock.now.advanced(by: .milliseconds(Int(timeoutMilliseconds)))
        while true {
            if let found = rescan() { return .discovered(found) }
            if let event = readNext(maxRecords: maxRecords, maxBytes: maxBytes) {
                pause = Self.pauses.first
                return event
            }
            let left = ContinuousClock.now.duration(to: deadline)
            if left <= .zero { return .idle(degraded: degraded) }
            sleep(min(pause, left))
            pause = min(pause * 2, Self.pauses.longest)
        }
    }

    package mutating func start(_ positions: [(partition: TopicPartition, next: Offset)]) throws(RecordLogError) {
        for (partition, next) in positions {
            let lane = LaneDirectory(journal: directory, number: partition.partition)
            let cursor = LaneCursor(lane: lane, next: next.value, log: log, metrics: metrics)
            var state: LaneState?
            if movesCheckpoints {
                do throws(JournalError) {
                    state = try LaneState(lane: lane) { path in
                        metrics.quarantinedFiles.add()
                        log(.journalQuarantined(file: path))
                    }
                } catch {
                    throw RecordLogError(
                        code: .io, tried: error.tried, reason: error.reason, next: error.next)
                }
            }
            state?.move(to: next.value)
            known[partition.partition] = Started(cursor: cursor, state: state, applied: next.value)
            if !order.contains(partition.partition) { order.append(partition.partition) }
        }
    }

    package mutating func applied(_ partition: TopicPartition, next: Offset) {
        guard case .some(.some(var started)) = known[partition.partition] else { return }
        started.applied = max(started.applied, next.value)
        started.state?.move(to: started.applied)
        known[partition.partition] = started
    }

    package var lag: [(partition: TopicPartition, records: Int64)] {
        order.compactMap { number in
            guard case .some(.some(let started)) = known[number] else { return nil }
            let unread = started.cursor.backlog().records
            return (started.cursor.lane.topicPartition, unread + max(0, started.cursor.next - started.applied))
        }
    }

    package mutating func restart() {
        known = [:]
        order = []
        rescanAt = .now
    }

    package mutating func close() {
        known = [:]
        order = []
    }

    private mutating func rescan() -> [TopicPartition]? {
        guard ContinuousClock.now >= rescanAt else { return nil }
        rescanAt = .now.advanced(by: Self.rescanPause)
        degraded = access(directory, R_OK | X_OK) == 0 ? nil : "\(directory) cannot be read"
        // A lane that was found and not started (this process gave it up, say) is named once.
        let found = LaneDirectory.all(in: directory).filter { known[$0.number] == nil }
        for lane in found { known[lane.number] = .some(nil) }
        return found.isEmpty ? nil : found.map(\.topicPartition)
    }

    /// Lanes take turns, so that a busy one does not starve the others.
    private mutating func readNext(maxRecords: Int, maxBytes: Int) -> LogEvent? {
        for _ in order.indices {
            turn = (turn + 1) % order.count
            let number = order[turn]
            guard case .some(.some(var started)) = known[number], !started.isStopped,
                ContinuousClock.now >= started.readAt
            else { continue }
            let partition = started.cursor.lane.topicPartition
            var chunk = RecordChunk()
            switch started.cursor.read(into: &chunk, maxRecords: max(1, maxRecords), maxBytes: maxBytes) {
            case .records:
                if movesCheckpoints, started.cursor.writeThrough() {
                    started.readAt = .now.advanced(by: Self.syncPause)
                    known[number] = started
                }
                return .records(chunk)
            case .gap(let from, let to): return .gap(partition, from: Offset(from), to: Offset(to))
            case .truncated(let expected, let end):
                started.isStopped = true
                known[number] = started
                return .truncated(partition, expected: Offset(expected), end: Offset(end))
            case .caughtUp: continue
            }
        }
        return nil
    }

    private func sleep(_ duration: Duration) {
        let (seconds, attoseconds) = duration.components
        var time = timespec(tv_sec: Int(seconds), tv_nsec: Int(attoseconds / 1_000_000_000))
        nanosleep(&time, nil)
    }
}
