// A store's replays, and whether a step of one is being written: what the pauses of a replay are held against.

import Events
import Glibc
import RollupStore
import Rollups
import Synchronization

final class Writing: Sendable {
    private let count = Mutex(0)
    private let seen = Mutex(0)

    var isUnderWay: Bool { count.withLock { $0 > 0 } }
    /// Steps that were written so far.
    var steps: Int { seen.withLock { $0 } }

    fileprivate func begin() { count.withLock { $0 += 1 } }
    fileprivate func end() {
        count.withLock { $0 -= 1 }
        seen.withLock { $0 += 1 }
    }
}

struct WatchedReplays: ReplayStore {
    var store: any ReplayStore
    let writing: Writing

    mutating func add(
        _ step: ReplayStep, to generation: Int64, under replay: StoredReplay
    ) throws(RollupStoreError) -> StoredReplay {
        writing.begin()
        defer { writing.end() }
        // Long enough to be met by whoever does not wait for it.
        usleep(5_000)
        return try store.add(step, to: generation, under: replay)
    }

    mutating func list() throws(RollupStoreError) -> [StoredReplay] { try store.list() }

    mutating func begin(_ plan: ReplayPlan, log: LogReach?, now: EventTime) throws(RollupStoreError) -> StoredReplay {
        try store.begin(plan, log: log, now: now)
    }

    mutating func bounds() throws(RollupStoreError) -> ReplayBounds { try store.bounds() }

    mutating func ingested() throws(RollupStoreError) -> Int64 { try store.ingested() }

    mutating func resume(_ id: Int64) throws(RollupStoreError) -> StoredReplay { try store.resume(id) }

    mutating func scan(_ replay: StoredReplay, limit: Int) throws(RollupStoreError) -> ReplayPage {
        try store.scan(replay, limit: limit)
    }

    mutating func pending(_ days: GenerationMap.Segment, limit: Int) throws(RollupStoreError) -> [ReplayEvent] {
        try store.pending(days, limit: limit)
    }

    mutating func carried(
        _ days: GenerationMap.Segment, without workspace: String
    ) throws(RollupStoreError) -> CarriedRows {
        try store.carried(days, without: workspace)
    }

    mutating func swap(
        _ step: ReplayStep, _ replay: StoredReplay, now: EventTime
    ) throws(RollupStoreError) -> StoredReplay? {
        try store.swap(step, replay, now: now)
    }

    mutating func live() throws(RollupStoreError) -> [GenerationMap.Segment] { try store.live() }

    mutating func revert(_ replay: StoredReplay) throws(RollupStoreError) -> StoredReplay? { try store.revert(replay) }

    mutating func cancel(_ id: Int64) throws(RollupStoreError) -> StoredReplay { try store.cancel(id) }

    mutating func sweep(maxRows: Int) throws(RollupStoreError) -> Bool { try store.sweep(maxRows: maxRows) }

    mutating func timeline(without ids: Set<Int64>) throws(RollupStoreError) -> RulesTimeline {
        try store.timeline(without: ids)
    }

    mutating func rows(
        of generation: Int64?, from begin: EventTime, to end: EventTime, _ grain: Grain,
        _ body: (StoredRollup, SeriesKey) -> Void
    ) throws(RollupStoreError) {
        try store.rows(of: generation, from: begin, to: end, grain, body)
    }

    mutating func close() { store.close() }
}
