// When keys were first or last seen, closer: each key's bucket -> an instant.
//
// What rollups say is a bucket. Step by step that one bucket is read again from the next finer source, down to the
// events: keys mostly share it, so that a few small reads do.

import Events
import RollupStore
import Rollups

struct SeenTimes {
    enum End { case first, last }

    /// From `start` on, `length` microseconds; 0 is an instant.
    struct Bucket: Hashable, Sendable {
        var start: Int64
        var length: Int64
    }

    /// Buckets that are read again at most; beyond it the times stay as coarse as they are.
    private static let readsAtMost = 48

    private let end: End
    private var buckets: [String: Bucket]

    init(_ end: End, _ buckets: [String: Bucket]) {
        self.end = end
        self.buckets = buckets
    }

    consuming func narrowed(_ catalog: SeriesCatalog, _ snapshot: any RollupSnapshot) throws -> [String: Int64] {
        let retention = try Retention(snapshot)
        let positions = PositionIndex(catalog.ids)
        var reads = 0
        while true {
            var keys: [Bucket: Set<String>] = [:]
            for (key, bucket) in buckets where bucket.length > 0 { keys[bucket, default: []].insert(key) }
            reads += keys.count
            if keys.isEmpty || reads > Self.readsAtMost { return buckets.mapValues(\.start) }
            for (bucket, wanted) in keys {
                try narrow(bucket, wanted, catalog, positions, retention, snapshot)
            }
        }
    }

    private mutating func narrow(
        _ bucket: Bucket, _ wanted: Set<String>, _ catalog: SeriesCatalog, _ positions: PositionIndex,
        _ retention: Retention, _ snapshot: any RollupSnapshot
    ) throws {
        var found: [String: Bucket] = [:]
        func see(_ series: Int64, _ time: Int64, _ length: Int64) {
            guard let position = positions[series] else { return }
            for (key, _) in catalog.sets[Int(catalog.setOfSeries[position])] {
                let name = catalog.keys[Int(key)]
                guard wanted.contains(name) else { continue }
                let old = found[name]?.start ?? time
                if found[name] == nil || (end == .first ? time < old : time > old) {
                    found[name] = Bucket(start: time, length: length)
                }
            }
        }
        let finer = [Grain.hour, .minute].first {
            $0.microseconds < bucket.length && retention.holds($0, at: bucket.start)
        }
        if let finer {
            let first = bucket.start / finer.microseconds
            try snapshot.scanRollups(
                grain: finer, from: Int32(clamping: first),
                to: Int32(clamping: first + bucket.length / finer.microseconds), series: .all, withBins: false
            ) { row in
                if row.measures.requests != 0 {
                    see(row.series, finer.start(of: row.bucket).microseconds, finer.microseconds)
                }
            }
        } else if retention.holds(nil, at: bucket.start) {
            try snapshot.scanEvents(
                from: EventTime(microseconds: bucket.start),
                to: EventTime(microseconds: bucket.start + bucket.length), before: nil, series: .all
            ) {
                see($0.series, $0.event.time.microseconds, 0)
                return true
            }
        }
        // Where nothing finer is kept, the bucket's beginning has to do.
        for key in wanted { buckets[key] = found[key] ?? Bucket(start: bucket.start, length: 0) }
    }
}
