// Rollup rows of hours and days that reads come back to, in memory: most of a question's time is stepping over rows on
// pages, and what lies before the running day hardly changes.
//
// What is remembered of a bucket holds for one version of its day (`rollup_days`), which the writer raises in the
// transaction that adds to the day. A read compares it with the version in its own state of the store: neither an older
// nor a newer state is ever mixed in. A bucket is taken in when it is read for the second time in the same version, so
// that the running day is not taken in at every batch, and only so many rows a read, so that none pays for all.

import RollupStore
import Rollups
import Synchronization

/// The rows of one bucket, ascending by series.
struct RememberedBucket: Sendable {
    let version: Int64
    private(set) var series: [Int64] = []
    private(set) var measures: [Measures] = []
    let hasBins: Bool
    /// The bins of row n: `bins[binEnds[n] ..< binEnds[n + 1]]`.
    private var bins: [UInt8] = []
    private var binEnds: [Int] = [0]

    init(version: Int64, hasBins: Bool) {
        self.version = version
        self.hasBins = hasBins
    }

    mutating func append(series id: Int64, _ row: Measures, bins blob: UnsafeRawBufferPointer) {
        series.append(id)
        measures.append(row)
        if hasBins {
            bins.append(contentsOf: blob)
            binEnds.append(bins.count)
        }
    }

    /// In bytes, about.
    var size: Int {
        256 + series.count * (MemoryLayout<Int64>.stride + MemoryLayout<Measures>.stride)
            + bins.count + binEnds.count * MemoryLayout<Int>.stride
    }

    /// nil where its bins do not parse.
    func row(_ index: Int, bucket: Int32, withBins: Bool) -> StoredRollup? {
        var decoded: [SketchBin] = []
        if withBins {
            let found = bins.withUnsafeBytes { all in
                BinBlob.decode(UnsafeRawBufferPointer(rebasing: all[binEnds[index]..<binEnds[index + 1]]))
            }
            guard let found else { return nil }
            decoded = found
        }
        return StoredRollup(bucket: bucket, series: series[index], measures: measures[index], bins: decoded)
    }

    /// The places of the selected rows, ascending.
    func eachIndex(of selection: SeriesSelection, _ body: (Int) throws -> Void) rethrows {
        guard case .only(let wanted) = selection else {
            for index in series.indices { try body(index) }
            return
        }
        var (row, want) = (0, 0)
        while row < series.count && want < wanted.count {
            if series[row] == wanted[want] {
                try body(row)
                row += 1
                want += 1
            } else if series[row] < wanted[want] {
                row = series.firstIndex(from: row + 1, notBelow: wanted[want])
            } else {
                want = wanted.firstIndex(from: want + 1, notBelow: series[row])
            }
        }
    }
}

final class BucketMemory: Sendable {
    /// | limit | unit | value | why | at the limit |
    /// | --- | --- | --- | --- | --- |
    /// | `size` | bytes | 256 MiB | days and hours of a month, of ten thousand series a day | what was read longest ago goes |
    /// | `rowsARead` | rows | 16,384 | about as many as are stepped over in 10 ms | the rest is taken in by later reads |
    /// | `buckets` | buckets | 2,048 | hours of a quarter, days of five years | a longer scan goes past the memory |
    /// | `seen` | buckets | 16,384 | what was read once | forgotten all at once |
    enum Limits {
        static let size = 256 << 20
        static let rowsARead = 16_384
        static let buckets = 2_048
        static let seen = 16_384
    }

    struct Key: Hashable {
        var generation: Int64
        var grain: Grain
        var bucket: Int32
    }

    enum Found {
        case remembered(RememberedBucket)
        /// Read before, in the same version.
        case again
        case new
    }

    private struct State {
        var buckets: [Key: (bucket: RememberedBucket, used: Int64)] = [:]
        var size = 0
        var clock: Int64 = 0
        var seen: [Key: Int64] = [:]
    }
    private let state = Mutex(State())
    private let limit: Int

    init(limit: Int = Limits.size) { self.limit = limit }

    func find(_ keys: [Key], versions: [Int64], withBins: Bool) -> [Found] {
        state.withLock { state in
            state.clock += 1
            if state.seen.count > Limits.seen { state.seen = [:] }
            return zip(keys, versions).map { key, version in
                if let known = state.buckets[key], known.bucket.version == version,
                    known.bucket.hasBins || !withBins
                {
                    state.buckets[key]?.used = state.clock
                    return .remembered(known.bucket)
                }
                return state.seen.updateValue(version, forKey: key) == version ? .again : .new
            }
        }
    }

    func remember(_ bucket: RememberedBucket, as key: Key) {
        guard bucket.size <= limit else { return }
        state.withLock { state in
            if let old = state.buckets.removeValue(forKey: key) { state.size -= old.bucket.size }
            if state.size + bucket.size > limit {
                // A quarter at once, so that this is seldom.
                for (old, kept) in state.buckets.sorted(by: { $0.value.used < $1.value.used }) {
                    if state.size + bucket.size <= limit / 4 * 3 { break }
                    state.buckets[old] = nil
                    state.size -= kept.bucket.size
                }
            }
            state.buckets[key] = (bucket, state.clock)
            state.size += bucket.size
        }
    }
}

extension [Int64] {
    /// In a sorted list, by doubling steps, then by halves: near ones are found at once.
    func firstIndex(from start: Int, notBelow value: Int64) -> Int {
        var low = start
        var step = 1
        while low + step <= count && self[low + step - 1] < value {
            low += step
            step *= 2
        }
        var high = Swift.min(low + step, count)
        while low < high {
            let middle = (low + high) / 2
            if self[middle] < value { low = middle + 1 } else { high = middle }
        }
        return low
    }
}
