// Rollup rows of hours and days that reads come back to, in memory: most of a question's time is stepping over rows on
// pages, and what lies before the running day hardly changes.
//
// What is remembered of a bucket holds for one version of its day (`rollup_days`), which the writer raises in the
// transaction that adds to the day. A read compares it with the version in its own state of the store: neither an older
// nor a newer state is ever mixed in. A bucket is wanted once it is read for the second time in one version, so that
// the running day is not taken in at every batch; a thread beside the reads takes in what is wanted (BucketFiller), so
// that none waits for it.

import CSQLite
import Events
import RollupStore
import Rollups
import Synchronization
import Threading

/// The rows of one bucket, ascending by series.
struct RememberedBucket: Sendable {
    /// Rows whose memory is waited for at once.
    private static let together = 32

    let version: Int64
    let hasBins: Bool
    private var series: [Int64] = []
    /// Row n: `bytes[ends[n] ..< ends[n + 1]]`, its measures as varints, then its bins as they are stored. A third of
    /// what they take as integers, and so fewer lines of memory for a row.
    private var bytes: [UInt8] = []
    private var ends: [UInt32] = [0]

    init(version: Int64, hasBins: Bool) {
        self.version = version
        self.hasBins = hasBins
    }

    mutating func append(series id: Int64, _ row: Measures, bins blob: UnsafeRawBufferPointer) {
        series.append(id)
        row.append(to: &bytes)
        if hasBins { bytes.append(contentsOf: blob) }
        ends.append(UInt32(truncatingIfNeeded: bytes.count))
    }

    /// In bytes, about.
    var size: Int { 256 + series.count * 12 + bytes.count }

    /// Selected rows, ascending; false where one does not parse.
    func scan(_ selection: SeriesSelection, bucket: Int32, withBins: Bool, _ body: (StoredRollup) -> Void) -> Bool {
        var bins: [SketchBin] = []
        return bytes.withUnsafeBytes { bytes in
            func answer(_ row: Int) -> Bool {
                var rest = UnsafeRawBufferPointer(rebasing: bytes[Int(ends[row])..<Int(ends[row + 1])])
                guard let measures = Measures(decoding: &rest), !withBins || BinBlob.decode(rest, into: &bins) else {
                    return false
                }
                body(StoredRollup(bucket: bucket, series: series[row], measures: measures, bins: bins))
                return true
            }
            guard case .only(let wanted) = selection else { return series.indices.allSatisfy(answer) }
            // The rows lie far apart, and each is a wait for memory: the waits of some pass together.
            var found: [Int] = []
            found.reserveCapacity(Self.together)
            func answerFound() -> Bool {
                defer { found.removeAll(keepingCapacity: true) }
                return found.allSatisfy(answer)
            }
            var (row, want) = (0, 0)
            while row < series.count && want < wanted.count {
                if series[row] == wanted[want] {
                    found.append(row)
                    if let bytes = bytes.baseAddress { fetch_ahead(bytes + Int(ends[row])) }
                    if found.count == Self.together, !answerFound() { return false }
                    row += 1
                    want += 1
                } else if series[row] < wanted[want] {
                    row = series.firstIndex(from: row + 1, notBelow: wanted[want])
                } else {
                    want = wanted.firstIndex(from: want + 1, notBelow: series[row])
                }
            }
            return answerFound()
        }
    }
}

final class BucketMemory: Sendable {
    /// | limit | unit | value | why | at the limit |
    /// | --- | --- | --- | --- | --- |
    /// | `size` | bytes | 256 MiB | hours of a month, of five thousand series an hour | what no read of late has used goes; else nothing more is taken in |
    /// | `reads` | reads | 64 | so long a bucket is of use after it was read | |
    /// | `buckets` | buckets | 2,048 | hours of a quarter, days of five years | a longer scan goes past the memory |
    /// | `seen`, `wanted` | buckets | 16,384 | what was read once, what is to be taken in | forgotten all at once |
    enum Limits {
        static let size = 256 << 20
        static let reads: Int64 = 64
        static let buckets = 2_048
        static let seen = 16_384
    }

    struct Key: Hashable {
        var generation: Int64
        var grain: Grain
        var bucket: Int32

        /// Days since 1970.
        var day: Int32 { Grain.day.bucket(of: grain.start(of: bucket)) }
    }

    private struct State {
        var buckets: [Key: (bucket: RememberedBucket, used: Int64)] = [:]
        var size = 0
        /// Counts reads.
        var clock: Int64 = 0
        /// Read once, in this version.
        var seen: [Key: Int64] = [:]
        /// To be taken in, with bins or without.
        var wanted: [Key: Bool] = [:]
        /// Of these, what is being taken in.
        var underWay = 0
        /// Everything that is remembered is of use: until then nothing more is wanted.
        var fullUntil: Int64 = 0
    }
    private let state = Mutex(State())

    /// What is remembered of each, nil for the others; those that come up again are wanted from now on.
    func find(_ keys: [Key], versions: [Int64], withBins: Bool) -> [RememberedBucket?] {
        state.withLock { state in
            state.clock += 1
            if state.seen.count > Limits.seen { state.seen = [:] }
            if state.wanted.count > Limits.seen { state.wanted = [:] }
            return zip(keys, versions).map { key, version in
                if let known = state.buckets[key], known.bucket.version == version,
                    known.bucket.hasBins || !withBins
                {
                    state.buckets[key]?.used = state.clock
                    return known.bucket
                }
                if state.seen.updateValue(version, forKey: key) == version && state.clock >= state.fullUntil {
                    state.wanted[key] = withBins || state.wanted[key] == true
                }
                return nil
            }
        }
    }

    var counts: (remembered: Int, wanted: Int) { state.withLock { ($0.buckets.count, $0.wanted.count + $0.underWay) } }

    /// What is wanted could not be taken in: the next reads read the table as before, and want it again.
    func giveUp() {
        state.withLock { state in
            state.wanted = [:]
            state.underWay = 0
        }
    }

    /// Nothing is wanted any more.
    func close() {
        state.withLock { $0.fullUntil = .max }
        giveUp()
    }

    /// Some of what is wanted, which is not wanted any more; what was taken before is done.
    func takeWanted(_ count: Int) -> [(key: Key, withBins: Bool)] {
        state.withLock { state in
            let some = state.wanted.prefix(count).map { (key: $0.key, withBins: $0.value) }
            for one in some { state.wanted[one.key] = nil }
            state.underWay = some.count
            return some
        }
    }

    func remember(_ bucket: RememberedBucket, as key: Key) {
        state.withLock { state in
            if let old = state.buckets.removeValue(forKey: key) { state.size -= old.bucket.size }
            if state.size + bucket.size > Limits.size {
                for (old, kept) in state.buckets where kept.used < state.clock - Limits.reads {
                    state.buckets[old] = nil
                    state.size -= kept.bucket.size
                }
            }
            if state.size + bucket.size > Limits.size {
                state.fullUntil = max(state.fullUntil, state.clock + Limits.reads)
                state.wanted = [:]
                return
            }
            state.buckets[key] = (bucket, state.clock)
            state.size += bucket.size
        }
    }
}

/// The thread that takes in what reads want. Started at the first wish; the end of its owner ends it.
final class BucketFiller: Sendable {
    /// Buckets a transaction.
    private static let together = 32
    /// The questions go first.
    private static let niceness: Int32 = 15

    private let path: String
    private let memory: BucketMemory
    private let requests = BoundedQueue<Void>(capacity: 1)
    private let thread = Mutex<ServiceThread?>(nil)

    init(path: String, memory: BucketMemory) {
        self.path = path
        self.memory = memory
    }

    deinit {
        memory.close()
        requests.close()
        thread.withLock { $0 }?.join()
    }

    /// Never waits for what is taken in.
    func request() {
        guard memory.counts.wanted > 0 else { return }
        thread.withLock { thread in
            if thread != nil { return }
            thread = ServiceThread("mr-remember", niceness: Self.niceness) { [path, memory, requests] in
                // Where the file cannot be opened, the questions say so, and nothing is remembered.
                guard let connection = try? Connection(path: path, access: .read) else { return }
                while requests.pop() != nil {
                    while true {
                        let wanted = memory.takeWanted(Self.together)
                        if wanted.isEmpty { break }
                        do { try Self.takeIn(wanted, memory, connection) } catch { memory.giveUp() }
                    }
                }
            }
        }
        _ = requests.tryPush(())
    }

    /// In one transaction: rows and their version are of one state. Rows that are being deleted, of a replay that has
    /// ended or before a boundary of retention, go without a word to the version, and a read of an older state may still
    /// want them all: they are passed over.
    private static func takeIn(
        _ wanted: [(key: BucketMemory.Key, withBins: Bool)], _ memory: BucketMemory, _ connection: Connection
    ) throws(RollupStoreError) {
        try connection.statement("BEGIN").run()
        do throws(RollupStoreError) {
            let live = Set(try GenerationMap.live(connection).map(\.generation)).union([GenerationMap.first])
            var kept: [Grain: EventTime] = [:]
            for grain in Grain.allCases { kept[grain] = try SQLiteSnapshot.retained(grain, connection) }
            for (key, withBins) in wanted where live.contains(key.generation) {
                if let first = kept[key.grain], first > key.grain.start(of: key.bucket) { continue }
                memory.remember(try read(key, withBins, connection), as: key)
            }
            try connection.statement("COMMIT").run()
        } catch {
            if connection.isInTransaction { try connection.statement("ROLLBACK").run() }
            throw error
        }
    }

    private static func read(
        _ key: BucketMemory.Key, _ withBins: Bool, _ connection: Connection
    ) throws(RollupStoreError) -> RememberedBucket {
        let version = try SQLiteSnapshot.versions(key.generation, days: key.day...key.day, connection)[key.day]
        var bucket = RememberedBucket(version: version ?? 0, hasBins: withBins)
        let rows = try SQLiteSnapshot.rollupRows(withBins: withBins, connection)
        defer { rows.reset() }
        SQLiteSnapshot.bind(rows, key.generation, key.grain, from: Int64(key.bucket), .min, to: key.bucket + 1)
        while try rows.step() {
            bucket.append(
                series: rows.integer(1), Measures(rows, from: 2),
                bins: withBins ? rows.bytes(16) : UnsafeRawBufferPointer(start: nil, count: 0))
        }
        return bucket
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
