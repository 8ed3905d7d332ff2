// What was fetched and not yet handed out, of all partitions together in the order of time.
//
// A fetch brings a stretch of one partition, then one of the next. Behind a lag a stretch is minutes or hours of
// traffic, and a batch that takes it as it comes has the buckets of all those hours to add to. Merged by the records'
// timestamps it has those of one short time, and one row of rollups for what would be one in each stretch.

/// Records of one partition stay in the order in which they came, whatever their times say: a time before that of the
/// record ahead counts as that one. So a clock that is wrong delays a partition, by a window at most, and hides nothing.
struct FetchWindow<Record> {
    private struct Entry {
        var time: Int64
        /// Of equal times the first to come goes first.
        var serial: Int64
        var partition: Int32
        var size: Int32
        var record: Record
    }

    private var entries: [Entry] = []
    private var start = 0
    private var isSorted = true
    private var serial: Int64 = 0
    /// By partition: the latest time in the window, and how many records are.
    private var lanes: [Int32: (time: Int64, count: Int)] = [:]
    /// Of the records, in bytes.
    private(set) var size = 0

    var count: Int { entries.count - start }
    var isEmpty: Bool { count == 0 }

    /// - `time`: nil where it has none: it goes with the record ahead of it.
    mutating func append(_ record: Record, partition: Int32, time: Int64?, size: Int) {
        if start > 0 {
            entries.removeSubrange(..<start)
            start = 0
        }
        var lane = lanes[partition] ?? (.min, 0)
        lane.time = max(lane.time, time ?? .min)
        lane.count += 1
        lanes[partition] = lane
        entries.append(
            Entry(
                time: lane.time, serial: serial, partition: partition, size: Int32(clamping: size), record: record))
        serial += 1
        isSorted = false
        self.size += size
    }

    /// The earliest record.
    mutating func first() -> Record? {
        if !isSorted {
            entries.sort { ($0.time, $0.serial) < ($1.time, $1.serial) }
            isSorted = true
        }
        return start < entries.count ? entries[start].record : nil
    }

    /// What `first` has answered.
    mutating func removeFirst() {
        leave(entries[start])
        start += 1
        if isEmpty { removeAll() }
    }

    /// Takes out records of all other partitions.
    mutating func keep(_ partitions: Set<Int32>, dropping drop: (Record) -> Void) {
        let all = entries[start...]
        entries = all.filter { partitions.contains($0.partition) }
        start = 0
        for entry in all where !partitions.contains(entry.partition) {
            leave(entry)
            drop(entry.record)
        }
    }

    private mutating func removeAll() {
        entries.removeAll(keepingCapacity: true)
        start = 0
        isSorted = true
    }

    private mutating func leave(_ entry: Entry) {
        size -= Int(entry.size)
        guard let lane = lanes[entry.partition] else { return }
        lanes[entry.partition] = lane.count > 1 ? (lane.time, lane.count - 1) : nil
    }
}
