// A lane on disk: which files it has, who holds it, how far it may be forgotten.
// journal directory → lanes → segments, lock, state

import Glibc
package import RecordLog

package struct LaneDirectory: Sendable, Hashable {
    package let number: Int32
    package let path: String

    package init(journal directory: String, number: Int32) {
        let digits = String(number)
        self.number = number
        path = "\(directory)/lane-\(String(repeating: "0", count: max(0, 4 - digits.count)))\(digits)"
    }

    /// The lanes of a journal, by number; none where the directory is absent.
    package static func all(in directory: String) -> [LaneDirectory] {
        namesInDirectory(directory).compactMap { name in
            guard name.hasPrefix("lane-"), let number = Int32(name.dropFirst(5)), number >= 0 else { return nil }
            let lane = LaneDirectory(journal: directory, number: number)
            return lane.path.hasSuffix("/" + name) ? lane : nil
        }.sorted { $0.number < $1.number }
    }

    /// A lane is a partition of the log.
    package var topicPartition: TopicPartition { TopicPartition(topic: Self.topic, partition: number) }
    package static let topic = "journal"

    func segmentPath(_ ordinal: UInt64) -> String {
        let digits = String(ordinal)
        return "\(path)/\(String(repeating: "0", count: max(0, 8 - digits.count)))\(digits).segment"
    }

    /// Ordinals of all segment files, spares too, rising.
    func ordinals() -> [UInt64] {
        namesInDirectory(path).compactMap { name in
            name.hasSuffix(".segment") ? UInt64(name.dropLast(8)) : nil
        }.sorted()
    }

    /// Opens a segment for reading; nil where it is gone, a spare or not understood.
    func openUsed(_ ordinal: UInt64) -> (file: MappedFile, base: Int64)? {
        guard let file = MappedFile(path: segmentPath(ordinal), size: SegmentLayout.headerSize, writable: false)
        else { return nil }
        let header = SegmentHeader(page: file.page)
        guard header.isValid(lane: number, ordinal: ordinal), let base = header.base else { return nil }
        return (file, base)
    }

    /// The segments that hold or may hold records, in order. `end`: sequence after the last record.
    func usedSegments() -> [(ordinal: UInt64, base: Int64, end: Int64, bytes: Int)] {
        ordinals().compactMap { ordinal in
            guard let (file, base) = openUsed(ordinal) else { return nil }
            let header = SegmentHeader(page: file.page)
            let bytes = Int(clamping: header.committed.load()) - SegmentLayout.headerSize
            return (ordinal, base, base + Int64(clamping: header.records.load()), max(0, bytes))
        }
    }

    /// Sequence of the first record that a segment still holds; nil where there is no segment.
    package var firstSequence: Int64? {
        for ordinal in ordinals() {
            if let (_, base) = openUsed(ordinal) { return base }
        }
        return nil
    }

    /// Bytes of all segment files together.
    package var size: Int { files().reduce(0) { $0 + $1.size } }

    /// Bytes of all segment files, and when each was last written.
    func files() -> [(ordinal: UInt64, size: Int, writtenSeconds: Int)] {
        ordinals().compactMap { ordinal in
            var facts = stat()
            guard stat(segmentPath(ordinal), &facts) == 0 else { return nil }
            return (ordinal, Int(facts.st_size), facts.st_mtim.tv_sec)
        }
    }
}

/// Holding a lane, or the right to ship: a lock that the kernel gives back when the process ends, however it ends.
package final class FileLock: Sendable {
    private let descriptor: Int32

    /// nil where another holder has it, or the file cannot be made (errno).
    package init?(path: String) {
        let file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o644)
        guard file >= 0 else { return nil }
        guard flock(file, LOCK_EX | LOCK_NB) == 0 else {
            let reason = errno
            close(file)
            errno = reason
            return nil
        }
        descriptor = file
    }

    /// Gives it back before the holder is gone.
    func release() { flock(descriptor, LOCK_UN) }

    deinit { close(descriptor) }
}

/// The lane's checkpoint: everything below it may be forgotten. It only rises, one reader moves it.
///
/// Two slots of (value, check word) in a mapped page: a move writes the slot that is behind, so the other one stands
/// whenever the process is killed. The larger sound slot is the checkpoint.
package final class LaneState: Sendable {
    private static let size = 4_096
    private static let mask: UInt64 = 0x4D49_4C4C_5241_4345
    private let file: MappedFile
    private var slots: [Slot] { [0, 64].map { Slot(page: file.page, at: $0) } }

    private struct Slot {
        let value: SharedWord
        let check: SharedWord

        init(page: UnsafeMutableRawPointer, at offset: Int) {
            value = SharedWord(page, at: offset)
            check = SharedWord(page, at: offset + 8)
        }

        var sequence: Int64? {
            let found = value.load()
            return check.load() == ~found ^ LaneState.mask ? Int64(clamping: found) : nil
        }

        func set(_ sequence: Int64) {
            value.store(UInt64(sequence))
            check.store(~UInt64(sequence) ^ LaneState.mask)
        }
    }

    /// Opens the lane's state, making it where it is absent. One that is not understood is put aside (`onQuarantine`
    /// gets its path) and a fresh one starts without a checkpoint: records come again rather than get lost.
    package init(lane: LaneDirectory, onQuarantine: (String) -> Void) throws(JournalError) {
        let path = "\(lane.path)/state"
        if let known = MappedFile(path: path, size: Self.size, writable: true),
            [0, 64].contains(where: { Slot(page: known.page, at: $0).sequence != nil })
        {
            file = known
            return
        }
        if access(path, F_OK) == 0, quarantine(path) { onQuarantine(path) }
        file = try MappedFile.make(path, size: Self.size) { Slot(page: $0, at: 0).set(0) }
    }

    package var checkpoint: Int64? { slots.compactMap(\.sequence).max() }

    /// Forward only.
    package func move(to sequence: Int64) {
        let now = checkpoint
        guard sequence > now ?? -1, sequence >= 0 else { return }
        let slots = slots
        (slots.first { $0.sequence != now } ?? slots.last)?.set(sequence)
    }

    /// Before a segment is deleted: the checkpoint that allows it must survive a power cut.
    func sync() -> Bool { fsync(file.descriptor) == 0 }
}
