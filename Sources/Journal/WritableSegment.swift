// A segment that a lane writes: made by the preparer, filled by the lane's owner, written through by the sync thread.

import Glibc
import Synchronization
import Threading

/// @unchecked: `populatedTo` and `releasedTo` belong to the preparer thread; the rest never changes or is atomic, and
/// the frames belong to the lane's owner until `isSealed`.
final class WritableSegment: @unchecked Sendable {
    let file: MappedFile
    let ordinal: UInt64
    let header: SegmentHeader
    let isSealed = Atomic<Bool>(false)

    /// What of the mapping is backed by pages right now: a window that moves ahead of the writer, so that it neither
    /// faults nor do the process's pages grow with the segment.
    private var populatedTo = SegmentLayout.headerSize
    private var releasedTo = SegmentLayout.headerSize
    private static let window = 8 << 20
    private static let step = 1 << 20

    /// Makes the file with all its blocks. What was made is taken away where that fails.
    init(lane: LaneDirectory, ordinal: UInt64, options: JournalOptions) throws(JournalError) {
        let path = lane.segmentPath(ordinal)
        let descriptor = options.create(path)
        guard descriptor >= 0 else { throw JournalError.system("create \(path)", errno: errno) }
        failPoint("segment_created")
        let status = options.allocate(descriptor, options.segmentSize)
        guard status == 0 else {
            close(descriptor)
            unlink(path)
            throw JournalError.system("allocate \(options.segmentSize) bytes for \(path)", errno: status)
        }
        guard let mapped = MappedFile(descriptor: descriptor, size: options.segmentSize, writable: true) else {
            let reason = errno
            unlink(path)
            throw JournalError.system("map \(path)", errno: reason)
        }
        failPoint("segment_allocated")
        file = mapped
        self.ordinal = ordinal
        header = SegmentHeader(page: mapped.page)
        header.write(lane: lane.number, ordinal: ordinal, createdMicroseconds: WallClock.microseconds())
        if options.fsync != .never { syncDirectory(lane.path) }
        moveWindow()
    }

    /// Preparer only.
    func moveWindow() {
        let position = Int(header.committed.load())
        let ahead = min(file.mappedSize, (position + Self.window) & ~(Self.step - 1))
        if ahead > populatedTo {
            // Older kernels than 5.14 refuse: then the writer takes the faults.
            madvise(file.page + populatedTo, ahead - populatedTo, Int32(MADV_POPULATE_WRITE))
            populatedTo = ahead
        }
        let behind = (position & ~(Self.step - 1)) - Self.step
        if behind > releasedTo {
            // The pages stay in the kernel's cache, dirty ones too: only our mapping of them goes.
            let from = (releasedTo + 4_095) & ~4_095
            madvise(file.page + from, behind - from, Int32(MADV_DONTNEED))
            releasedTo = behind
        }
    }

    /// Gives back the blocks behind the end marker. The mapping beyond is not touched any more.
    func trim() { ftruncate(file.descriptor, off_t(header.committed.load())) }
}
