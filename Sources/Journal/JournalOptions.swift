// What an operator can set on a journal, and what can go wrong with it.

import Glibc
import Threading

/// | limit | unit | default | why | at the limit |
/// | --- | --- | --- | --- | --- |
/// | `segmentSize` | bytes | 64 MiB (floor 64 KiB, ceiling 1 GiB) | retention works by whole segments | the next segment |
/// | `maxSize` | bytes | 10 GiB | the disk is shared | acknowledged segments go early; then no new segment |
/// | `waitingSize` | bytes a lane | 8 MiB | memory while no segment is ready | records are dropped and counted |
/// | `retentionSeconds` | s | 86,400 | acknowledged records can be replayed for so long | the segment is deleted |
/// | key | bytes | 255 | one byte holds its length | dropped and counted |
///
/// Where there is no room, on disk or below `maxSize`, things are given up in this order, each with a counter: segments
/// that are acknowledged, before their time and the oldest first (`retired_segments`); then events wait in memory
/// (`waiting_bytes`); then new events are dropped (`dropped_records`, and `dropped` in the minute's manifest). What is on
/// disk and not acknowledged is never given up.
package struct JournalOptions: Sendable {
    /// What a power cut may cost. The death of the process costs nothing in any mode.
    package enum Fsync: String, Sendable {
        /// What the kernel had not yet written of its own accord.
        case never
        /// The last second.
        case interval
        /// Nothing that `onDurable` has named.
        case always
    }
    package var fsync: Fsync
    package var segmentSize: Int
    package var maxSize: Int
    package var retentionSeconds: Int
    package var waitingSize: Int
    /// The file port: gives a new file its blocks, or an errno. Replaced where a test needs a full disk.
    package var allocate: @Sendable (_ file: Int32, _ size: Int) -> Int32
    /// The file port: makes a new segment's file, open for reading and writing; below 0 with errno where it cannot.
    package var create: @Sendable (_ path: String) -> Int32 = {
        open($0, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o644)
    }
    /// The file port: writes a file's bytes through to the disk; not 0 with errno where it cannot.
    package var writeThrough: @Sendable (_ file: Int32) -> Int32 = { fdatasync($0) }
    /// The wall clock, UTC seconds, that retention is measured by. Replaced where a test sets it.
    package var clock: @Sendable () -> Int = { Int(WallClock.microseconds() / 1_000_000) }

    package init(
        fsync: Fsync = .interval, segmentSize: Int = 64 << 20, maxSize: Int = 10 << 30, retentionSeconds: Int = 86_400,
        waitingSize: Int = 8 << 20,
        allocate: @escaping @Sendable (_ file: Int32, _ size: Int) -> Int32 = { posix_fallocate($0, 0, $1) }
    ) {
        self.fsync = fsync
        self.segmentSize = (min(max(segmentSize, 64 << 10), 1 << 30) + 4_095) & ~4_095
        self.maxSize = maxSize
        self.retentionSeconds = retentionSeconds
        self.waitingSize = waitingSize
        self.allocate = allocate
    }
}

package struct JournalError: Error, Sendable, CustomStringConvertible {
    package enum Code: String, Sendable {
        case directory, diskFull = "disk_full", laneInUse = "lane_in_use", shipperInUse = "shipper_in_use", io
    }
    package var code: Code
    package var tried: String
    package var reason: String
    package var next: String

    package init(code: Code, tried: String, reason: String, next: String) {
        self.code = code
        self.tried = tried
        self.reason = reason
        self.next = next
    }

    package var description: String { "\(tried): \(reason). \(next)" }

    /// From an errno. `tried` names the file.
    package static func system(_ tried: String, errno number: Int32) -> JournalError {
        let reason = String(cString: strerror(number))
        switch number {
        case ENOSPC, EDQUOT:
            return JournalError(
                code: .diskFull, tried: tried, reason: reason,
                next: "Free space there, or set a smaller journal.segment_size_bytes or another journal.directory.")
        case EACCES, EPERM, EROFS, ENOTDIR, ENOENT:
            return JournalError(
                code: .directory, tried: tried, reason: reason,
                next: "Set journal.directory to a directory that this user can write.")
        default:
            return JournalError(
                code: .io, tried: tried, reason: reason, next: "Look at the disk's health and the kernel's log.")
        }
    }
}
