// When keys were first or last seen, closer: each key's bucket -> the beginning of a finer one.
//
// What the coarsest rollups say is a day. Step by step that one bucket is read again from the next finer rollup, down to
// the minute, or the hour where an entity's rollups say it: keys mostly share it, so that a few small reads do. Events
// are not read for it: a minute holds as many as there were requests.

import Events
import RollupStore
import Rollups

struct SeenTimes {
    enum End { case first, last }

    struct Bucket: Hashable, Sendable {
        /// In microseconds.
        var start: Int64
        /// nil: an instant.
        var grain: Grain?
    }

    /// Buckets that are read again at most; beyond it the times stay as coarse as they are.
    private static let readsAtMost = 48

    private let end: End
    private var buckets: [String: Bucket]

    init(_ end: End, _ buckets: [String: Bucket]) {
        self.end = end
        self.buckets = buckets
    }

    consuming func narrowed(
        _ listing: MetadataListing, _ snapshot: any RollupSnapshot, _ budget: QueryBudget
    ) throws -> [String: Int64] {
        let retention = listing.retention
        var watch = BudgetWatch(budget)
        var reads = 0
        while true {
            var keys: [Bucket: Set<String>] = [:]
            for (key, bucket) in buckets where Self.finer(bucket, retention) != nil {
                keys[bucket, default: []].insert(key)
            }
            reads += keys.count
            if keys.isEmpty || reads > Self.readsAtMost { return buckets.mapValues(\.start) }
            for (bucket, wanted) in keys {
                guard let finer = Self.finer(bucket, retention) else { continue }
                try narrow(bucket, to: finer, wanted, listing, snapshot, &watch)
            }
        }
    }

    private static func finer(_ bucket: Bucket, _ retention: Retention) -> Grain? {
        guard let grain = bucket.grain else { return nil }
        return (grain.isOfEntities ? Grain.ofEntities : Grain.plain).last {
            $0 < grain && retention.holds($0, at: bucket.start)
        }
    }

    private mutating func narrow(
        _ bucket: Bucket, to finer: Grain, _ wanted: Set<String>, _ listing: MetadataListing,
        _ snapshot: any RollupSnapshot, _ watch: inout BudgetWatch
    ) throws {
        guard let length = bucket.grain?.microseconds else { return }
        var found: [String: Int64] = [:]
        let first = bucket.start / finer.microseconds
        try snapshot.scanRollups(
            grain: finer, from: Int32(clamping: first), to: Int32(clamping: first + length / finer.microseconds),
            series: .all, withBins: false
        ) { row in
            guard watch.goesOn(), row.measures.requests != 0 else { return }
            let time = finer.start(of: row.bucket).microseconds
            listing.eachKey(of: row.series, finer, among: wanted) { key in
                let old = found[key] ?? time
                found[key] = end == .first ? min(time, old) : max(time, old)
            }
        }
        try watch.end()
        // Rows that are gone since: the coarser bucket's beginning has to do.
        for key in wanted {
            buckets[key] = found[key].map { Bucket(start: $0, grain: finer) } ?? Bucket(start: bucket.start, grain: nil)
        }
    }
}
