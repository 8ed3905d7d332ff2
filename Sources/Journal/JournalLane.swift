// One lane, as the event loop that owns it sees it: append is a copy into mapped memory, without a system call, a lock
// or an allocation. Record → segment; the preparer thread hands it empty segments and takes back full ones.

import EventCodec
package import Events
import Glibc
package import RecordLog
import Synchronization
import Telemetry
import Threading

/// @unchecked: `append`, `drain` and the private vars belong to one thread at a time, the lane's owner (an event loop;
/// before it starts, who opened the lane; after it ended, `Journal.stop`). The other threads meet it at `ready`,
/// `sealed` and the segments' headers, all atomic, and among themselves at `upkeep`.
package final class JournalLane: @unchecked Sendable {
    package enum Appended: Sendable, Equatable {
        /// In the kernel's hands: the death of the process does not lose it.
        case recorded(sequence: Int64)
        /// In memory, until a segment is ready.
        case waiting
        /// Lost, and counted.
        case dropped
    }

    /// What the preparer and the sync thread share about this lane.
    struct Upkeep {
        var nextOrdinal: UInt64
        /// Segments whose window is moved: the active one and the one made ready.
        var inUse: [WritableSegment] = []
        /// Segments not yet known to be wholly on disk, in order.
        var unsynced: [WritableSegment] = []
        var durableNext: Int64 = 0
    }

    package let directory: LaneDirectory
    /// A record larger than this, key and value together, is dropped.
    package let recordLimit: Int
    let state: LaneState
    let onDurable: (@Sendable (Int64) -> Void)?
    let upkeep: Mutex<Upkeep>
    let lock: FileLock
    private let metrics: JournalMetrics
    private let wakeSync: (@Sendable () -> Void)?
    private let writeThrough: @Sendable (Int32) -> Int32

    /// What this lane has accepted and recorded, by minute.
    let counts: LaneCounts
    /// Whose events these are, for the manifests; nil where the lane's owner sends its own.
    private let proxyID: String?
    private var manifestBytes: [UInt8] = []

    private var active: WritableSegment
    private var position = SegmentLayout.headerSize
    private var sequence: Int64
    private var waiting: WaitingRecords
    private var isClosed = false

    /// A retained WritableSegment each, or nil. The preparer fills `ready` only when `sealed` is empty.
    private let ready = Atomic<UnsafeMutableRawPointer?>(nil)
    private let sealed = Atomic<UnsafeMutableRawPointer?>(nil)

    init(
        directory: LaneDirectory, lock: FileLock, state: LaneState, counts: LaneCounts, proxyID: String?,
        first: WritableSegment, sequence: Int64, options: JournalOptions, metrics: JournalMetrics,
        onDurable: (@Sendable (Int64) -> Void)?,
        wakeSync: (@Sendable () -> Void)?
    ) {
        self.directory = directory
        self.lock = lock
        self.state = state
        self.counts = counts
        self.proxyID = proxyID
        self.onDurable = onDurable
        self.metrics = metrics
        self.wakeSync = wakeSync
        writeThrough = options.writeThrough
        self.sequence = sequence
        active = first
        recordLimit = options.segmentSize - SegmentLayout.headerSize - 2 * Frame.headerSize
        waiting = WaitingRecords(limit: options.waitingSize)
        var start = Upkeep(nextOrdinal: first.ordinal + 1, inUse: [first], durableNext: sequence)
        if options.fsync != .never { start.unsynced = [first] }
        upkeep = Mutex(start)
        first.header.setBase(sequence)
    }

    deinit {
        for held in [ready.load(ordering: .acquiring), sealed.load(ordering: .acquiring)] {
            if let held { Unmanaged<WritableSegment>.fromOpaque(held).release() }
        }
    }

    // MARK: The owner's side

    /// Records are numbered in the order of these calls.
    ///
    /// `time` decides an event's minute; nil: the time that its key, a UUIDv7, begins with. One without either is in no
    /// minute's count.
    package func append(
        kind: RecordKind, key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer, time: EventTime? = nil
    ) -> Appended {
        let minute = kind == .event && proxyID != nil ? Self.minute(of: time, key) : nil
        if let minute, counts.isFull(for: minute) { letGoOfOldestMinute() }
        guard key.count <= Frame.keyLimit, key.count + value.count <= recordLimit, !isClosed else {
            metrics.oversized.add()
            if let minute { counts.missed(minute: minute) }
            return .dropped
        }
        if waiting.isEmpty || drain() {
            if let written = write(kind: kind.rawValue, key: key, value: value, minute: minute) {
                return .recorded(sequence: written)
            }
        }
        if let minute { counts.missed(minute: minute) }
        guard waiting.add(kind: kind.rawValue, key: key, value: value, minute: minute) else {
            metrics.dropped.add()
            return .dropped
        }
        metrics.waitingBytes.add(Int64(key.count + value.count))
        return .waiting
    }

    /// Moves what waits in memory into segments, as far as they are ready; true when nothing waits any more. `append`
    /// does it too: the owner calls this from a timer, for the time after the last append.
    @discardableResult package func drain() -> Bool {
        while let record = waiting.first {
            let written = record.bytes.withUnsafeBytes { bytes in
                write(
                    kind: record.kind, key: UnsafeRawBufferPointer(rebasing: bytes[..<record.keyCount]),
                    value: UnsafeRawBufferPointer(rebasing: bytes[record.keyCount...]), minute: record.minute,
                    hadWaited: true)
            }
            if written == nil { return false }
            metrics.waitingBytes.add(-Int64(record.bytes.count))
            waiting.removeFirst()
        }
        return true
    }

    private static func minute(of time: EventTime?, _ key: UnsafeRawBufferPointer) -> Int64? {
        if let time { return Int64(floorDivide(Int(time.microseconds), 60_000_000)) }
        return EventID.milliseconds(ofKey: key).map { $0 / 60_000 }
    }

    // MARK: Manifests

    /// Puts a manifest into the lane for each minute whose counts have changed since the last time, and lets go of
    /// minutes that are over. The owner calls this from a timer; nothing is told while events wait in memory.
    package func tell(now: EventTime) {
        guard let proxyID, !isClosed, drain() else { return }
        for place in counts.untold() {
            guard tell(place, proxyID) else { return }
        }
        counts.retire(before: Int64(floorDivide(Int(now.microseconds), 60_000_000)))
    }

    private func tell(_ place: Int, _ proxyID: String) -> Bool {
        let (manifest, seen) = counts.manifest(place, proxy: proxyID, lane: directory.number)
        manifestBytes.removeAll(keepingCapacity: true)
        EventEncoder.encode(manifest, into: &manifestBytes)
        var key = proxyID
        let written = key.withUTF8 { key in
            manifestBytes.withUnsafeBytes { value in
                write(kind: RecordKind.manifest.rawValue, key: UnsafeRawBufferPointer(key), value: value, minute: nil)
            }
        }
        guard written != nil else { return false }
        counts.wasTold(place, seen)
        return true
    }

    /// All parts are taken by minutes not yet told: the clock jumps about, or the disk has been full for hours.
    private func letGoOfOldestMinute() {
        guard let proxyID, let oldest = counts.oldestMinute, waiting.isEmpty else { return }
        for place in counts.untold() { guard tell(place, proxyID) else { return } }
        counts.retire(before: oldest + 1)
    }

    /// Sequence of the next record that reaches a segment.
    package var nextSequence: Int64 { sequence }

    /// `minute`: of an event that counts; nil for any other record.
    private func write(
        kind: UInt8, key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer, minute: Int64?, hadWaited: Bool = false
    ) -> Int64? {
        let length = Frame.headerSize + key.count + value.count
        // The end marker always has room left.
        if position + Frame.padded(length) + Frame.headerSize > active.file.mappedSize && !roll() { return nil }
        let address = active.file.page + position
        Frame.writeBody(
            at: address, length: length, sequence: sequence, kind: kind, key: key, value: value,
            hadWaited: hadWaited)
        Frame.writeLength(UInt32(truncatingIfNeeded: length), at: address)
        position += Frame.padded(length)
        let written = sequence
        sequence += 1
        let records = active.header.records
        records.store(records.load() + 1)
        active.header.committed.store(UInt64(position))
        // Last: a kill before this leaves a record that the next owner counts.
        if let minute { counts.recorded(minute: minute, hadWaited: hadWaited) } else { counts.other() }
        metrics.appended.add()
        wakeSync?()
        return written
    }

    /// Goes on in the next segment, where one is ready. Its base is written before the end marker that leads there.
    private func roll() -> Bool {
        guard let held = ready.load(ordering: .acquiring) else { return false }
        let next = Unmanaged<WritableSegment>.fromOpaque(held).takeRetainedValue()
        failPoint("segment_taken")
        next.header.setBase(sequence)
        failPoint("segment_based")
        let full = active
        seal()
        failPoint("segment_ended")
        active = next
        position = SegmentLayout.headerSize
        // `sealed` before `ready`: whoever sees that a segment is wanted finds the full one.
        sealed.store(Unmanaged.passRetained(full).toOpaque(), ordering: .releasing)
        ready.store(nil, ordering: .releasing)
        failPoint("segment_changed")
        return true
    }

    private func seal() {
        Frame.writeEndMarker(at: active.file.page + position, sequence: sequence)
        position += Frame.headerSize
        active.header.committed.store(UInt64(position))
        active.isSealed.store(true, ordering: .releasing)
    }

    /// The owner has ended: what waits gets its last chance, the end is marked, the spare goes.
    func close() {
        if isClosed { return }
        collect()
        while !drain(), ready.load(ordering: .acquiring) != nil { collect() }
        for _ in 0..<waiting.count { metrics.dropped.add() }
        metrics.waitingBytes.add(-Int64(waiting.bytes))
        waiting = WaitingRecords(limit: 0)
        tell(now: EventTime(microseconds: WallClock.microseconds()))
        isClosed = true
        seal()
        active.trim()
        collect()
        if let held = ready.exchange(nil, ordering: .acquiringAndReleasing) {
            let spare = Unmanaged<WritableSegment>.fromOpaque(held).takeRetainedValue()
            unlink(directory.segmentPath(spare.ordinal))
            upkeep.withLock { $0.unsynced.removeAll { $0 === spare } }
        }
    }

    // MARK: The preparer's side

    var wantsSegment: Bool { ready.load(ordering: .acquiring) == nil }

    /// Takes back a full segment.
    func collect() {
        guard let held = sealed.exchange(nil, ordering: .acquiringAndReleasing) else { return }
        let full = Unmanaged<WritableSegment>.fromOpaque(held).takeRetainedValue()
        full.trim()
        upkeep.withLock { $0.inUse.removeAll { $0 === full } }
    }

    /// Makes the next segment ready. Call after `wantsSegment` said so and after `collect`.
    func prepare(options: JournalOptions) throws(JournalError) {
        let ordinal = upkeep.withLock { $0.nextOrdinal }
        let segment = try WritableSegment(lane: directory, ordinal: ordinal, options: options)
        upkeep.withLock {
            $0.nextOrdinal = ordinal + 1
            $0.inUse.append(segment)
            if options.fsync != .never { $0.unsynced.append(segment) }
        }
        ready.store(Unmanaged.passRetained(segment).toOpaque(), ordering: .releasing)
    }

    func moveWindows() {
        for segment in upkeep.withLock({ $0.inUse }) { segment.moveWindow() }
    }

    // MARK: The sync thread's side

    /// Writes all that is committed now through to the disk. One call serves every append before it.
    func sync() throws(JournalError) -> Int {
        var synced = 0
        for segment in upkeep.withLock({ $0.unsynced }) {
            let wasSealed = segment.isSealed.load(ordering: .acquiring)
            guard let base = segment.header.base else { break }
            let next = base + Int64(segment.header.records.load())
            let known = upkeep.withLock { $0.durableNext }
            if next > known || wasSealed {
                guard writeThrough(segment.file.descriptor) == 0 else {
                    // A disk that is broken must not hold user traffic for good; the failure is counted and told.
                    let reason = errno
                    if next > known { onDurable?(next - 1) }
                    errno = reason
                    throw JournalError.system("sync \(directory.segmentPath(segment.ordinal))", errno: errno)
                }
                synced += 1
            }
            upkeep.withLock {
                $0.durableNext = max($0.durableNext, next)
                if wasSealed { $0.unsynced.removeAll { $0 === segment } }
            }
            if next > known { onDurable?(next - 1) }
            // What came into it meanwhile is not on disk, so that nothing behind it may be called durable yet.
            if !wasSealed { break }
        }
        return synced
    }
}

/// Records in memory, first in, first out, bounded by bytes.
private struct WaitingRecords {
    let limit: Int
    private(set) var bytes = 0
    private var records: [(kind: UInt8, keyCount: Int, bytes: [UInt8], minute: Int64?)] = []
    private var head = 0

    init(limit: Int) { self.limit = limit }

    var isEmpty: Bool { head == records.count }
    var count: Int { records.count - head }
    var first: (kind: UInt8, keyCount: Int, bytes: [UInt8], minute: Int64?)? { isEmpty ? nil : records[head] }

    /// False where it is full.
    mutating func add(
        kind: UInt8, key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer, minute: Int64?
    ) -> Bool {
        let size = key.count + value.count
        guard bytes + size <= limit else { return false }
        var copy: [UInt8] = []
        copy.reserveCapacity(size)
        copy.append(contentsOf: key)
        copy.append(contentsOf: value)
        records.append((kind, key.count, copy, minute))
        bytes += size
        return true
    }

    mutating func removeFirst() {
        bytes -= records[head].bytes.count
        records[head].bytes = []
        head += 1
        if head == records.count || head > 1_024 {
            records.removeFirst(head)
            head = 0
        }
    }
}
