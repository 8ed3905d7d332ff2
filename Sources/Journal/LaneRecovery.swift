// Brings a lane that nobody holds into a state from which it goes on: every segment ends in an end marker, spares are
// gone, what cannot be understood is put aside. Runs with the lane's lock held, so no writer is there.
//
// The walk starts at the last used segment. A frame counts when its checksum holds; damage between sound frames stays
// (readers deliver it as corrupt records), what follows the last sound frame is cut.

import EventCodec
import Events
import Glibc
import RecordLog
import Telemetry

enum LaneRecovery {
    /// Where the lane goes on.
    static func recover(
        _ lane: LaneDirectory, checkpoint: Int64, log: Log, metrics: JournalMetrics
    ) -> (sequence: Int64, ordinal: UInt64) {
        let ordinals = lane.ordinals()
        var last: (ordinal: UInt64, base: Int64)?
        for ordinal in ordinals {
            if let (_, base) = lane.openUsed(ordinal) {
                last = (ordinal, base)
            } else {
                discard(lane, ordinal, log, metrics)
            }
        }
        let nextOrdinal = (ordinals.last ?? 0) + 1
        guard let last else { return (checkpoint, ordinals.isEmpty ? 0 : nextOrdinal) }
        let end = seal(lane, last.ordinal, last.base, log, metrics)
        return (max(end, checkpoint), nextOrdinal)
    }

    /// Counts the records that a kill, or a power cut, has left uncounted. Those that do not say whose they are count for
    /// nobody.
    static func recount(_ lane: LaneDirectory, _ counts: LaneCounts, end: Int64, proxy: String, log: Log) {
        let cursor = LaneCursor(lane: lane, next: counts.sequence, log: log, metrics: JournalMetrics())
        var chunk = RecordChunk()
        reading: while cursor.next < end {
            switch cursor.read(into: &chunk, maxRecords: 4_096, maxBytes: 1 << 20) {
            case .gap: continue
            case .truncated, .caughtUp: break reading
            case .records:
                counts.align(to: chunk.records.first?.offset.value ?? counts.sequence)
                for record in chunk.records where record.offset.value < end {
                    count(record, chunk.bytes, counts, proxy)
                }
            }
        }
        counts.align(to: end)
    }

    private static func count(_ record: RecordSlot, _ bytes: [UInt8], _ counts: LaneCounts, _ proxy: String) {
        let (start, size) = (Int(record.valueStart), Int(record.valueCount))
        guard record.kind == .event, !record.isCorrupt else { return counts.other() }
        let event = bytes.withUnsafeBytes { bytes -> RequestEvent? in
            let fields = try? EventDecoder.decode(
                UnsafeRawBufferPointer(rebasing: bytes[start..<start + size]), base: start)
            return fields.map { RequestEvent($0, in: bytes) }
        }
        guard let event, event.proxy == proxy else { return counts.other() }
        let minute = Int64(floorDivide(Int(event.time.microseconds), 60_000_000))
        // The frame's flags stand two bytes before the key.
        counts.recorded(minute: minute, hadWaited: bytes[Int(record.keyStart) - 2] & 1 == 1)
    }

    /// A spare, or a file whose making was cut short, holds nothing; anything else is kept for analysis.
    private static func discard(_ lane: LaneDirectory, _ ordinal: UInt64, _ log: Log, _ metrics: JournalMetrics) {
        let path = lane.segmentPath(ordinal)
        if holdsNothing(path) {
            unlink(path)
        } else if quarantine(path) {
            metrics.quarantinedFiles.add()
            log(.journalQuarantined(file: path))
        }
    }

    private static func holdsNothing(_ path: String) -> Bool {
        let file = open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { return false }
        defer { close(file) }
        var facts = stat()
        guard fstat(file, &facts) == 0, facts.st_mode & S_IFMT == S_IFREG else { return false }
        let head = [UInt8](unsafeUninitializedCapacity: SegmentLayout.headerSize + 8) { buffer, initialized in
            initialized = readFile(file, at: 0, into: UnsafeMutableRawBufferPointer(buffer))
        }
        return head.dropFirst(SegmentLayout.headerSize).allSatisfy { $0 == 0 }
    }

    /// Returns the sequence after the last record.
    private static func seal(
        _ lane: LaneDirectory, _ ordinal: UInt64, _ base: Int64, _ log: Log, _ metrics: JournalMetrics
    ) -> Int64 {
        guard
            let file = MappedFile(path: lane.segmentPath(ordinal), size: SegmentLayout.headerSize, writable: true)
        else { return base }
        let header = SegmentHeader(page: file.page)
        let end = LaneCursor.soundEnd(of: file, base: base, lane: lane, log: log)
        let promised = Int(clamping: header.committed.load())
        if promised > end.position + Frame.headerSize || !isZero(file, from: end.position, isSealed: end.isSealed) {
            metrics.tornTails.add()
            log(
                .journalTornTail(
                    lane: lane.number, cutBytes: Int64(max(0, promised - end.position)), records: end.sequence - base))
        }
        if !end.isSealed {
            var marker = [UInt8](repeating: 0, count: Frame.headerSize)
            marker.withUnsafeMutableBytes { buffer in
                if let address = buffer.baseAddress { Frame.writeEndMarker(at: address, sequence: end.sequence) }
            }
            lseek(file.descriptor, off_t(end.position), SEEK_SET)
            // A disk that cannot take 16 bytes leaves the tail as it is: readers wait there, then go on by the next
            // segment's base.
            _ = writeFile(file.descriptor, marker)
        }
        let size = end.position + Frame.headerSize
        ftruncate(file.descriptor, off_t(size))
        header.records.store(UInt64(end.sequence - base))
        header.committed.store(UInt64(size))
        fsync(file.descriptor)
        return end.sequence
    }

    /// Whether a frame had been begun at the cut.
    private static func isZero(_ file: MappedFile, from position: Int, isSealed: Bool) -> Bool {
        if isSealed { return true }
        let head = [UInt8](unsafeUninitializedCapacity: Frame.headerSize) { buffer, initialized in
            initialized = readFile(file.descriptor, at: position, into: UnsafeMutableRawBufferPointer(buffer))
        }
        return head.allSatisfy { $0 == 0 }
    }
}
