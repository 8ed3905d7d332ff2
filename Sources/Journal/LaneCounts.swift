// How many exchanges a lane has accepted and recorded, by minute: one mapped page beside the lane's segments, `counts`.
// The lane's owner counts in it with one store an event; `kill -9` loses none of it, and any process may read it.
//
// | at | bytes | what |
// | --- | --- | --- |
// | 0 | 8 | magic |
// | 8 | 8 | serial of the next part |
// | 16 | 8 | base: records of the lane that no part below holds (signed) |
// | 24 | 8 + 8 | a part that is being let go, as its place + 1 or 0; the base once it is gone |
// | 64 | 24 each | parts: minute since 1970 + 1 or 0 (free), counts, serial |
//
// Counts is one word, so that every change is one store: recorded in its low half, missed in its high half. Missed is
// what was accepted and has not reached a segment: it waits in memory, or was dropped.
//
// Invariant: base + the recorded of all parts = the sequence of the lane's next record. A kill between a frame and its
// count leaves one record uncounted, and the sum says so: the next owner counts it from the record itself. A power cut
// may leave the page older than the segments (more is counted again from the records) or newer (records that are gone
// stay counted: the reconciliation then names their minute).

import Events
import Glibc
import Synchronization
import Threading

package struct LanePart: Sendable, Equatable {
    /// Minutes since 1970.
    package var minute: Int64
    package var serial: UInt64
    package var recorded: UInt64
    package var missed: UInt64
}

/// @unchecked: words are atomic and only the lane's owner writes them; `current` and `told` are the owner's alone.
package final class LaneCounts: @unchecked Sendable {
    static let fileSize = 4_096
    static let magic: UInt64 = 0x434E_544D_4C4C_494D
    static let partsAt = 64
    static let partSize = 24
    /// | limit | value | why | at the limit |
    /// | --- | --- | --- | --- |
    /// | `parts` | 168 | one page | the oldest part is told and let go; where that cannot be, it takes the new minute's counts too |
    static let parts = (fileSize - partsAt) / partSize

    let file: MappedFile
    /// The part of the minute that was counted last.
    private var current = (minute: Int64.min, place: 0)
    /// What was last told of each part, so that only what has changed is told again.
    private var told = [UInt64?](repeating: nil, count: LaneCounts.parts)

    private init(file: MappedFile) { self.file = file }

    private var nextSerial: SharedWord { SharedWord(file.page, at: 8) }
    private var baseWord: SharedWord { SharedWord(file.page, at: 16) }
    private var leaving: SharedWord { SharedWord(file.page, at: 24) }
    private var baseAfter: SharedWord { SharedWord(file.page, at: 32) }
    private func minuteWord(_ place: Int) -> SharedWord {
        SharedWord(file.page, at: Self.partsAt + place * Self.partSize)
    }
    private func countsWord(_ place: Int) -> SharedWord {
        SharedWord(file.page, at: Self.partsAt + place * Self.partSize + 8)
    }
    private func serialWord(_ place: Int) -> SharedWord {
        SharedWord(file.page, at: Self.partsAt + place * Self.partSize + 16)
    }
    private static let missedOne: UInt64 = 1 << 32

    // MARK: Opening

    /// For the owner. A file that is not understood is put aside (`onQuarantine`), and a fresh one counts from
    /// `sequence` on.
    static func open(
        _ lane: LaneDirectory, sequence: Int64, onQuarantine: (String) -> Void
    ) throws(JournalError) -> LaneCounts {
        let path = "\(lane.path)/counts"
        if let known = MappedFile(path: path, size: fileSize, writable: true), isOurs(known.page) {
            let counts = LaneCounts(file: known)
            counts.finishLeaving()
            return counts
        }
        if access(path, F_OK) == 0, quarantine(path) { onQuarantine(path) }
        let fresh = try MappedFile.make(path, size: fileSize) { page in
            page.storeBytes(of: magic.littleEndian, as: UInt64.self)
            // Serials of a lane that lost its file must not meet those of the file it lost.
            SharedWord(page, at: 8).store(UInt64(clamping: WallClock.microseconds()))
            SharedWord(page, at: 16).store(UInt64(bitPattern: sequence))
        }
        return LaneCounts(file: fresh)
    }

    /// For a look from outside; nil where the lane has no counts.
    package static func look(_ lane: LaneDirectory) -> LaneCounts? {
        guard let known = MappedFile(path: "\(lane.path)/counts", size: fileSize, writable: false),
            isOurs(known.page)
        else { return nil }
        return LaneCounts(file: known)
    }

    private static func isOurs(_ page: UnsafeMutableRawPointer) -> Bool {
        page.load(as: UInt64.self) == magic.littleEndian
    }

    // MARK: Reading

    /// All parts, and the sequence up to which they count, as of one moment. nil where the page did not stand still.
    package func snapshot() -> (parts: [LanePart], sequence: Int64)? {
        var before = words()
        for _ in 0..<1_000 {
            let after = words()
            if before == after { return Self.read(before) }
            before = after
        }
        return nil
    }

    private func words() -> [UInt64] {
        (1..<(Self.partsAt + Self.parts * Self.partSize) / 8).map { SharedWord(file.page, at: $0 * 8).load() }
    }

    private static func read(_ words: [UInt64]) -> (parts: [LanePart], sequence: Int64) {
        // `words` begins at byte 8.
        let isLeaving = words[2] != 0
        var parts: [LanePart] = []
        var sequence = Int64(bitPattern: isLeaving ? words[3] : words[1])
        for place in 0..<Self.parts {
            let at = (Self.partsAt + place * Self.partSize) / 8 - 1
            guard words[at] != 0, !(isLeaving && words[2] == UInt64(place) + 1) else { continue }
            let part = LanePart(
                minute: Int64(bitPattern: words[at]) - 1, serial: words[at + 2],
                recorded: words[at + 1] & (missedOne - 1), missed: words[at + 1] >> 32)
            sequence += Int64(part.recorded)
            parts.append(part)
        }
        return (parts, sequence)
    }

    /// The sequence up to which records are counted.
    var sequence: Int64 { Self.read(words()).sequence }

    var isEmpty: Bool { (0..<Self.parts).allSatisfy { minuteWord($0).load() == 0 } }

    // MARK: Counting (the owner)

    /// A record that is no event of this proxy has reached a segment.
    @inline(__always)
    func other() { baseWord.store(baseWord.load() &+ 1) }

    /// An event has reached a segment; `hadWaited`: it was counted as missed before.
    @inline(__always)
    func recorded(minute: Int64, hadWaited: Bool) {
        let word = countsWord(place(of: minute))
        let now = word.load()
        word.store(hadWaited && now >= Self.missedOne ? now &+ 1 &- Self.missedOne : now &+ 1)
    }

    /// An event waits in memory, or is dropped.
    func missed(minute: Int64) {
        let word = countsWord(place(of: minute))
        word.store(word.load() &+ Self.missedOne)
    }

    /// Records that a power cut has taken, or that nobody can attribute: `sequence` comes next whatever was counted.
    func align(to sequence: Int64) {
        let missing = sequence - self.sequence
        if missing != 0 { baseWord.store(baseWord.load() &+ UInt64(bitPattern: missing)) }
    }

    @inline(__always)
    private func place(of minute: Int64) -> Int {
        if minute == current.minute { return current.place }
        let place = findPlace(of: minute)
        current = (minute, place)
        return place
    }

    private func findPlace(of minute: Int64) -> Int {
        var free: Int?
        var oldest = 0
        for place in 0..<Self.parts {
            let found = minuteWord(place).load()
            if found == UInt64(bitPattern: minute + 1) { return place }
            if found == 0 {
                free = free ?? place
            } else if Int64(bitPattern: found) < Int64(bitPattern: minuteWord(oldest).load()) {
                oldest = place
            }
        }
        // `JournalLane.letGoOfOldestMinute` made no room: the oldest minute's part takes these counts too.
        guard let free else { return oldest }
        let serial = nextSerial.load()
        nextSerial.store(serial &+ 1)
        countsWord(free).store(0)
        serialWord(free).store(serial)
        minuteWord(free).store(UInt64(bitPattern: minute + 1))
        told[free] = nil
        return free
    }

    // MARK: Telling (the owner)

    /// Whether another minute would find no part free.
    func isFull(for minute: Int64) -> Bool {
        if minute == current.minute { return false }
        return (0..<Self.parts).allSatisfy { place in
            let found = minuteWord(place).load()
            return found != 0 && found != UInt64(bitPattern: minute + 1)
        }
    }

    /// Places of the parts that have changed since they were told.
    func untold() -> [Int] {
        (0..<Self.parts).filter { minuteWord($0).load() != 0 && told[$0] != countsWord($0).load() }
    }

    func manifest(_ place: Int, proxy: String, lane: Int32) -> (manifest: Manifest, counts: UInt64) {
        let counts = countsWord(place).load()
        let (recorded, missed) = (counts & (Self.missedOne - 1), counts >> 32)
        let minute = Int64(bitPattern: minuteWord(place).load()) - 1
        let manifest = Manifest(
            proxy: proxy, minute: EventTime(microseconds: minute * 60_000_000), lane: UInt32(lane),
            serial: serialWord(place).load(), accepted: recorded + missed, recorded: recorded, dropped: missed)
        return (manifest, counts)
    }

    func wasTold(_ place: Int, _ counts: UInt64) { told[place] = counts }

    /// Lets go of the parts of minutes before `minute` that are told as they stand.
    func retire(before minute: Int64) {
        for place in 0..<Self.parts {
            let found = minuteWord(place).load()
            guard found != 0, Int64(bitPattern: found) - 1 < minute, told[place] == countsWord(place).load()
            else { continue }
            let recorded = countsWord(place).load() & (Self.missedOne - 1)
            baseAfter.store(baseWord.load() &+ recorded)
            leaving.store(UInt64(place) + 1)
            finishLeaving()
        }
    }

    /// The part of the oldest minute.
    var oldestMinute: Int64? {
        (0..<Self.parts).compactMap { place -> Int64? in
            let found = minuteWord(place).load()
            return found == 0 ? nil : Int64(bitPattern: found) - 1
        }.min()
    }

    /// Done again from its first step where it was cut short: each step may be repeated.
    private func finishLeaving() {
        let place = Int(clamping: leaving.load()) - 1
        guard place >= 0, place < Self.parts else { return }
        baseWord.store(baseAfter.load())
        minuteWord(place).store(0)
        countsWord(place).store(0)
        leaving.store(0)
        if current.place == place { current.minute = .min }
    }

    func sync() { fdatasync(file.descriptor) }
}
