// Reads one lane in order: the segment reader under ingest, shipping and recovery.
// lane files → RecordChunk, gaps and ends by name
//
// It looks at the header's `committed` first, then reads that stretch with one `pread` and walks the frames in place:
// the chunk's slots point into the bytes as read. A frame that does not check out is followed by a search for the next
// one that does; the sequence in its head says how many records lie between, and they are delivered as corrupt.
// Where the rest of a segment is unreadable, the next segment's base sequence says what is missing: a gap.

import Glibc
package import RecordLog
package import Telemetry

/// One thread owns a cursor.
package final class LaneCursor {
    package enum Step: Equatable {
        case records
        /// The lane's records `from ..< to` are gone; the cursor stands at `to`.
        case gap(from: Int64, to: Int64)
        /// The lane ends at `end`, before the sequence that was asked for.
        case truncated(expected: Int64, end: Int64)
        case caughtUp
    }

    package let lane: LaneDirectory
    /// Sequence of the next record to deliver.
    package private(set) var next: Int64
    private let log: Log
    private let metrics: JournalMetrics

    private var segment: MappedFile?
    private var ordinal: UInt64 = 0
    private var position = SegmentLayout.headerSize
    /// Sequence of the frame at `position`; below `next` while the cursor seeks.
    private var sequence: Int64 = 0
    /// How far `writeThrough` has brought the segment at hand to the disk.
    private var written: (ordinal: UInt64, size: Int) = (0, 0)
    /// Damage already logged, so that waiting at it does not repeat the line.
    private var reportedDamageAt: Int64 = -1
    private var lookForSegmentAt = ContinuousClock.now

    private static let blockSize = 1 << 20
    /// How often an end without a successor is looked at again.
    private static let patience = Duration.milliseconds(100)

    package init(lane: LaneDirectory, next: Int64, log: Log, metrics: JournalMetrics) {
        self.lane = lane
        self.next = next
        self.log = log
        self.metrics = metrics
    }

    /// Fills `chunk` (emptied first) with up to `maxRecords` records of the partition at index 0, reading up to
    /// `maxBytes`, yet always one record. Never waits.
    package func read(into chunk: inout RecordChunk, maxRecords: Int, maxBytes: Int) -> Step {
        chunk.partitions = [lane.topicPartition]
        chunk.records.removeAll(keepingCapacity: true)
        while true {
            guard let segment else {
                if let step = locate() { return step }
                continue
            }
            let committed = committedSize(of: segment)
            let left = committed - position
            if left < Frame.headerSize {
                if let step = advance(sealed: false, seen: committed) { return step }
                continue
            }
            let wanted = min(left, max(Frame.headerSize, min(maxBytes, Self.blockSize)))
            switch take(segment, count: wanted, room: left, chunk: &chunk, maxRecords: maxRecords) {
            case .moved where chunk.records.isEmpty: continue
            case .moved: return .records
            case .endMarker: if let step = advance(sealed: true, seen: committed) { return step }
            case .damaged: if let step = skipDamage(segment, committed, &chunk, maxRecords) { return step }
            }
        }
    }

    /// Records and bytes of the lane that this cursor has not delivered.
    package func backlog() -> (records: Int64, bytes: Int) {
        let used = lane.usedSegments()
        guard let last = used.last else { return (0, 0) }
        let later = used.filter { $0.ordinal > ordinal || segment == nil }.reduce(0) { $0 + $1.bytes }
        let here = segment.map { max(0, committedSize(of: $0) - position) } ?? 0
        return (max(0, last.end - next), here + later)
    }

    /// Call after `read` has delivered records: they are on the disk when it returns, as far as it takes them. Who keeps
    /// a position of its own behind them must not be ahead of the lane after a power cut: the lane would then give the
    /// same sequences to other records. False where all of them were there already.
    package func writeThrough() -> Bool {
        guard let segment, written.ordinal != ordinal || written.size < position else { return false }
        // What came since the read goes with it, and needs no turn of its own.
        let committed = committedSize(of: segment)
        if fdatasync(segment.descriptor) == 0 { written = (ordinal, committed) }
        return true
    }

    private func committedSize(of segment: MappedFile) -> Int {
        let committed = Int(clamping: SegmentHeader(page: segment.page).committed.load())
        // A header that a power cut left behind its file's size must not send us beyond the end.
        return min(max(committed, SegmentLayout.headerSize), max(segment.size, SegmentLayout.headerSize))
    }

    // MARK: Frames

    private enum Taken { case moved, endMarker, damaged }

    /// Takes the whole frames among the next `count` bytes; where not even one fits, that one alone.
    private func take(
        _ segment: MappedFile, count: Int, room: Int, chunk: inout RecordChunk, maxRecords: Int
    ) -> Taken {
        var needed = count
        for _ in 0..<3 {
            switch walk(segment, count: needed, room: room, chunk: &chunk, maxRecords: needed == count ? maxRecords : 1)
            {
            case .moved: return .moved
            case .endMarker: return .endMarker
            case .damaged: return .damaged
            case .frameNeeds(let length): needed = length
            }
        }
        return .damaged
    }

    private enum Walked { case moved, frameNeeds(Int), endMarker, damaged }

    /// Reads `count` bytes at `position` and takes the whole frames among them.
    private func walk(
        _ segment: MappedFile, count: Int, room: Int, chunk: inout RecordChunk, maxRecords: Int
    ) -> Walked {
        let at = position
        chunk.bytes = [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            initialized = readFile(segment.descriptor, at: at, into: UnsafeMutableRawBufferPointer(buffer))
        }
        var offset = 0
        var records = chunk.records
        chunk.records = []
        defer { chunk.records = records }
        let stop: Walked? = chunk.bytes.withUnsafeBytes { bytes -> Walked? in
            while records.count < maxRecords, offset < room {
                let rest = UnsafeRawBufferPointer(rebasing: bytes[min(offset, bytes.count)...])
                let low = UInt32(truncatingIfNeeded: sequence)
                switch Frame.judge(rest, sequence: low, room: room - offset) {
                case .frame(let length):
                    if sequence >= next {
                        let key = Int(rest[13])
                        let start = offset + Frame.headerSize
                        records.append(
                            RecordSlot(
                                partition: 0, offset: Offset(sequence), kind: RecordKind(rawValue: rest[12]),
                                keyStart: Int32(start), keyCount: Int32(key), valueStart: Int32(start + key),
                                valueCount: Int32(length - Frame.headerSize - key)))
                    }
                    sequence += 1
                    offset += Frame.padded(length)
                case .partial(let length):
                    // What a full read could not hold comes with the next one; alone it needs a larger read.
                    return offset > 0 ? nil : bytes.count < count ? .damaged : .frameNeeds(length)
                case .endMarker: return .endMarker
                case .empty, .damaged: return .damaged
                }
            }
            return nil
        }
        position += offset
        if sequence > next { next = sequence }
        // What precedes a stop is delivered first; the stop is met again.
        return offset > 0 ? .moved : stop ?? .moved
    }

    /// Finds the next sound frame after the damage at `position`, below `limit`.
    private func resynchronize(_ segment: MappedFile, limit: Int) -> (position: Int, sequence: Int64, isEnd: Bool)? {
        let window = [UInt8](unsafeUninitializedCapacity: max(0, limit - position)) { buffer, initialized in
            initialized = readFile(segment.descriptor, at: position, into: UnsafeMutableRawBufferPointer(buffer))
        }
        return window.withUnsafeBytes { bytes in
            var offset = Frame.alignment
            while offset + Frame.headerSize <= bytes.count {
                defer { offset += Frame.alignment }
                let rest = UnsafeRawBufferPointer(rebasing: bytes[offset...])
                let low = UInt32(littleEndian: rest.loadUnaligned(fromByteOffset: 8, as: UInt32.self))
                let distance = Int64(low &- UInt32(truncatingIfNeeded: sequence))
                guard distance >= 1, distance <= Int64(offset / Frame.headerSize) else { continue }
                switch Frame.judge(rest, sequence: low, room: rest.count) {
                case .frame: return (position + offset, sequence + distance, false)
                case .endMarker: return (position + offset, sequence + distance, true)
                case .empty, .partial, .damaged: continue
                }
            }
            return nil
        }
    }

    /// nil: the cursor stands elsewhere, go on.
    private func skipDamage(
        _ segment: MappedFile, _ committed: Int, _ chunk: inout RecordChunk, _ maxRecords: Int
    ) -> Step? {
        guard let sound = resynchronize(segment, limit: committed) else {
            return advance(sealed: false, seen: committed)
        }
        let damagedSize = min(sound.position - position, 64 << 10)
        let from = max(sequence, next)
        let first = sequence
        chunk.bytes = [UInt8](unsafeUninitializedCapacity: damagedSize) { buffer, initialized in
            initialized = readFile(segment.descriptor, at: position, into: UnsafeMutableRawBufferPointer(buffer))
        }
        position = sound.position
        sequence = sound.sequence
        guard sequence > next else { return nil }
        next = sequence
        reportDamage(from: from, to: next)
        if next - from > Int64(maxRecords) { return .gap(from: from, to: next) }
        for lost in from..<next {
            chunk.records.append(
                RecordSlot(
                    partition: 0, offset: Offset(lost), kind: nil, keyStart: 0, keyCount: 0, valueStart: 0,
                    valueCount: lost == first ? Int32(chunk.bytes.count) : 0, isCorrupt: true))
        }
        return .records
    }

    private func reportDamage(from: Int64, to: Int64) {
        guard from > reportedDamageAt else { return }
        reportedDamageAt = from
        metrics.corruptRecords.add(Int(to - from))
        log(.journalCorrupt(lane: lane.number, sequence: from, records: to - from))
    }

    // MARK: Segments

    /// Opens the segment that holds `next`, or the first after it. nil: go on.
    private func locate() -> Step? {
        guard ContinuousClock.now >= lookForSegmentAt else { return .caughtUp }
        let used = lane.usedSegments()
        guard let first = used.first else {
            lookForSegmentAt = .now.advanced(by: Self.patience)
            return .caughtUp
        }
        let from = next
        next = max(next, first.base)
        guard let holding = used.last(where: { $0.base <= next }), enter(holding.ordinal) else {
            lookForSegmentAt = .now.advanced(by: Self.patience)
            return .caughtUp
        }
        return next > from ? .gap(from: from, to: next) : nil
    }

    private func enter(_ ordinal: UInt64) -> Bool {
        guard let (file, base) = lane.openUsed(ordinal) else { return false }
        segment = file
        self.ordinal = ordinal
        position = SegmentLayout.headerSize
        sequence = base
        return true
    }

    /// At the end of a segment's records. With an end marker the next segment continues at once. Without one (or with
    /// damage in the way) a later segment says that this one will not grow beyond the size `seen`, and its base what is
    /// missing.
    private func advance(sealed: Bool, seen: Int) -> Step? {
        let caughtUp: Step = sequence < next ? .truncated(expected: next, end: sequence) : .caughtUp
        if sealed, enter(ordinal + 1) { return gapBeforeSegment() }
        guard ContinuousClock.now >= lookForSegmentAt else { return caughtUp }
        let current = ordinal
        guard let later = lane.ordinals().first(where: { $0 > current && lane.openUsed($0) != nil })
        else {
            // Only looks in vain are spaced out: a lane of many cut segments is read through without a stop.
            lookForSegmentAt = .now.advanced(by: Self.patience)
            return caughtUp
        }
        // The writer may have appended here before it went on there: then those records come first.
        if !sealed, let segment, seen != committedSize(of: segment) { return nil }
        guard enter(later) else {
            lookForSegmentAt = .now.advanced(by: Self.patience)
            return caughtUp
        }
        return gapBeforeSegment()
    }

    private func gapBeforeSegment() -> Step? {
        guard sequence > next else { return nil }
        let from = next
        next = sequence
        return .gap(from: from, to: next)
    }

    // MARK: Recovery

    /// Walks a segment beyond what its header promises, for the owner that reopens the lane: where its sound frames
    /// end, the sequence there, and whether an end marker already stands there. Damage between sound frames stays.
    static func soundEnd(
        of segment: MappedFile, base: Int64, lane: LaneDirectory, log: Log
    ) -> (position: Int, sequence: Int64, isSealed: Bool) {
        let cursor = LaneCursor(lane: lane, next: .max, log: log, metrics: JournalMetrics())
        cursor.segment = segment
        cursor.sequence = base
        let size = segment.size
        let promised = cursor.committedSize(of: segment)
        var chunk = RecordChunk()
        while true {
            let left = size - cursor.position
            if left < Frame.headerSize { return (cursor.position, cursor.sequence, false) }
            let count = min(left, blockSize)
            switch cursor.take(segment, count: count, room: left, chunk: &chunk, maxRecords: .max) {
            case .moved: continue
            case .endMarker: return (cursor.position, cursor.sequence, true)
            case .damaged:
                let limit = min(size, max(promised, cursor.position + blockSize))
                guard let sound = cursor.resynchronize(segment, limit: limit) else {
                    return (cursor.position, cursor.sequence, false)
                }
                cursor.position = sound.position
                cursor.sequence = sound.sequence
            }
        }
    }
}
