// The journal of one process: opens lanes for event loops, keeps them supplied with segments, writes through to the
// disk, and lets go of what is acknowledged.
//
// Threads: each lane's owner appends; the preparer supplies lanes every few milliseconds and retires segments every
// half second; the sync thread runs unless `fsync: never`. Nothing waits for anything: where the preparer is late or the
// disk is full, records wait in the lane's memory, then are dropped and counted.
//
// What may be deleted: a segment whose successor begins at or below the lane's checkpoint, when it is older than the
// retention, or at once where the directory is full. Never a lane's last segment (its end numbers what follows), never
// a record that is not acknowledged.

import Glibc
import Synchronization
package import Telemetry
import Threading

package final class Journal: Sendable {
    package let directory: String
    /// UUID text, made when the directory was first used.
    package let proxyID: String
    private let options: JournalOptions
    private let log: Log
    private let metrics: JournalMetrics

    /// What the preparer works with; held while it allocates files, so nothing else waits for it.
    private struct State {
        var threads: [ServiceThread] = []
        /// Orphan lanes already recovered by this process.
        var tidied: Set<Int32> = []
        var size = 0
        var retryAt = ContinuousClock.now
        var retireAt = ContinuousClock.now
    }
    private let state = Mutex(State())
    private let open = Mutex<[JournalLane]>([])
    private let degradation = Mutex<String?>(nil)
    private let stopping = StopSignal()
    private let appended = Wake()

    private static let retirePause = Duration.milliseconds(500)
    private static let retryPause = Duration.milliseconds(100)

    package init(directory: String, options: JournalOptions, log: Log, metrics: JournalMetrics) throws(JournalError) {
        self.directory = directory
        self.options = options
        self.log = log
        self.metrics = metrics
        try Self.makeDirectory(directory)
        proxyID = try Self.identity(in: directory, log: log, metrics: metrics)
    }

    /// Why records cannot be made durable right now, nil when they can.
    package var degraded: String? { degradation.withLock { $0 } }

    /// The lanes that this process has open.
    package var lanes: [JournalLane] { open.withLock { $0 } }

    // MARK: Opening

    /// The first lane that no process holds: one that exists, else a new one. Its unfinished tail is cut.
    ///
    /// `onDurable` is called on the sync thread with the sequence up to which everything survives a power cut, or as much
    /// as the disk can be made to promise, in the modes `interval` and `always`. Throws `disk_full`, `directory` or `io`.
    /// `isCounted: false`: the owner sends manifests of its own.
    package func openLane(
        isCounted: Bool = true, onDurable: (@Sendable (Int64) -> Void)? = nil
    ) throws(JournalError) -> JournalLane {
        for number in Int32(0)..<Int32(10_000) {
            do throws(JournalError) {
                return try openLane(number: number, isCounted: isCounted, onDurable: onDurable)
            } catch {
                if error.code != .laneInUse { throw error }
            }
        }
        throw JournalError(
            code: .laneInUse, tried: "open a lane in \(directory)", reason: "all 10000 lanes are held",
            next: "Give each process a journal.directory of its own.")
    }

    /// This very lane; throws `lane_in_use` where a process (this one too) holds it.
    package func openLane(
        number: Int32, isCounted: Bool = true, onDurable: (@Sendable (Int64) -> Void)?
    ) throws(JournalError) -> JournalLane {
        // One at a time, and not while the preparer holds an orphan's lock.
        try state.withLock { state throws(JournalError) -> JournalLane in
            state.tidied.remove(number)
            let directory = LaneDirectory(journal: directory, number: number)
            try Self.makeDirectory(directory.path)
            let lock = try Self.lock(directory)
            let lane = try makeLane(directory, lock, try openState(directory), isCounted: isCounted, onDurable)
            open.withLock { $0.append(lane) }
            log(.journalOpened(lane: number, nextSequence: lane.nextSequence))
            return lane
        }
    }

    private func makeLane(
        _ lane: LaneDirectory, _ lock: FileLock, _ laneState: LaneState, isCounted: Bool,
        _ onDurable: (@Sendable (Int64) -> Void)?
    ) throws(JournalError) -> JournalLane {
        let start = LaneRecovery.recover(lane, checkpoint: laneState.checkpoint ?? 0, log: log, metrics: metrics)
        let counts = try LaneCounts.open(lane, sequence: start.sequence) { path in
            metrics.quarantinedFiles.add()
            log(.journalQuarantined(file: path))
        }
        LaneRecovery.recount(lane, counts, end: start.sequence, proxy: proxyID, log: log)
        let first = try WritableSegment(lane: lane, ordinal: start.ordinal, options: options)
        metrics.preparedSegments.add()
        let appended = appended
        var wakeSync: (@Sendable () -> Void)?
        if options.fsync == .always { wakeSync = { appended.wake() } }
        return JournalLane(
            directory: lane, lock: lock, state: laneState, counts: counts, proxyID: isCounted ? proxyID : nil,
            first: first, sequence: start.sequence, options: options, metrics: metrics, onDurable: onDurable,
            wakeSync: wakeSync)
    }

    private func openState(_ lane: LaneDirectory) throws(JournalError) -> LaneState {
        try LaneState(lane: lane) { path in
            metrics.quarantinedFiles.add()
            log(.journalQuarantined(file: path))
        }
    }

    private static func lock(_ lane: LaneDirectory) throws(JournalError) -> FileLock {
        let path = "\(lane.path)/lock"
        guard let lock = FileLock(path: path) else {
            if errno != EWOULDBLOCK { throw JournalError.system("lock \(path)", errno: errno) }
            throw JournalError(
                code: .laneInUse, tried: "lock \(path)", reason: "another process, or this one, holds the lane",
                next: "Use another lane, or end the process that holds it.")
        }
        return lock
    }

    private static func makeDirectory(_ path: String) throws(JournalError) {
        var end = path.startIndex
        while end != path.endIndex {
            end = path[path.index(after: end)...].firstIndex(of: "/") ?? path.endIndex
            let part = String(path[..<end])
            if mkdir(part, 0o755) != 0 && errno != EEXIST {
                throw JournalError.system("make the directory \(path), at \(part)", errno: errno)
            }
        }
        var facts = stat()
        guard stat(path, &facts) == 0 else { throw JournalError.system("open \(path)", errno: errno) }
        guard facts.st_mode & S_IFMT == S_IFDIR else {
            throw JournalError.system("use \(path) as a directory", errno: ENOTDIR)
        }
        guard access(path, W_OK | X_OK) == 0 else { throw JournalError.system("write in \(path)", errno: errno) }
    }

    private static func identity(in directory: String, log: Log, metrics: JournalMetrics) throws(JournalError) -> String
    {
        let path = "\(directory)/proxy-id"
        if let known = readIdentity(path) { return known }
        if access(path, F_OK) == 0, quarantine(path) {
            metrics.quarantinedFiles.add()
            log(.journalQuarantined(file: path))
        }
        var bytes = (0..<16).map { _ in UInt8.random(in: .min ... .max) }
        bytes[6] = bytes[6] & 0x0F | 0x40
        bytes[8] = bytes[8] & 0x3F | 0x80
        var text = ""
        for (index, byte) in bytes.enumerated() {
            if [4, 6, 8, 10].contains(index) { text += "-" }
            text += (byte < 16 ? "0" : "") + String(byte, radix: 16)
        }
        // Written aside and linked into place: of two processes that start together, both read the first one's.
        let draft = "\(path).\(getpid())"
        let file = Glibc.open(draft, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
        guard file >= 0 else { throw JournalError.system("create \(draft)", errno: errno) }
        let written = writeFile(file, Array((text + "\n").utf8)) && fsync(file) == 0
        let reason = errno
        close(file)
        defer { unlink(draft) }
        guard written else { throw JournalError.system("write \(draft)", errno: reason) }
        if link(draft, path) != 0 && errno != EEXIST { throw JournalError.system("create \(path)", errno: errno) }
        return readIdentity(path) ?? text
    }

    /// The id of the proxy whose journal this is; nil where there is none yet.
    package static func proxyID(in directory: String) -> String? { readIdentity("\(directory)/proxy-id") }

    private static func readIdentity(_ path: String) -> String? {
        let file = Glibc.open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { return nil }
        defer { close(file) }
        let bytes = [UInt8](unsafeUninitializedCapacity: 64) { buffer, initialized in
            initialized = readFile(file, at: 0, into: UnsafeMutableRawBufferPointer(buffer))
        }
        let isUUID =
            bytes.count == 37 && bytes[36] == UInt8(ascii: "\n")
            && bytes.prefix(36).enumerated().allSatisfy { index, byte in
                [8, 13, 18, 23].contains(index)
                    ? byte == UInt8(ascii: "-")
                    : (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
                        || (UInt8(ascii: "a")...UInt8(ascii: "f")).contains(byte)
            }
        return isUUID ? String(decoding: bytes.prefix(36), as: UTF8.self) : nil
    }

    // MARK: Threads

    package func start() {
        let preparer = ServiceThread("journal-prepare") { [self] in
            var pause = 5
            while !stopping.wait(milliseconds: pause) { pause = supply() ? 5 : min(pause * 2, 40) }
        }
        var threads = [preparer]
        if options.fsync != .never { threads.append(ServiceThread("journal-sync") { [self] in syncUntilStopped() }) }
        state.withLock { $0.threads += threads }
    }

    /// Call when the lanes' owners have ended: marks the lanes' ends, gives the lanes back.
    package func stop() {
        stopping.stop()
        appended.wake()
        for thread in state.withLock({ state in
            defer { state.threads = [] }
            return state.threads
        }) { thread.join() }
        let lanes = open.withLock { lanes in
            defer { lanes = [] }
            return lanes
        }
        for lane in lanes {
            lane.close()
            if options.fsync != .never { sync(lane) }
            lane.lock.release()
        }
    }

    /// One round of the preparer; true where a writer needed something.
    func supply() -> Bool {
        state.withLock { state in
            var busy = false
            let now = ContinuousClock.now
            if now >= state.retireAt { retire(&state, wanted: 0) }
            for lane in lanes {
                lane.collect()
                lane.moveWindows()
                guard lane.wantsSegment, now >= state.retryAt else { continue }
                busy = true
                lane.collect()
                prepare(lane, &state)
            }
            return busy
        }
    }

    private func prepare(_ lane: JournalLane, _ state: inout State) {
        do throws(JournalError) {
            try makeRoom(&state)
            do throws(JournalError) {
                try lane.prepare(options: options)
            } catch {
                guard error.code == .diskFull, retire(&state, wanted: options.segmentSize) else { throw error }
                try lane.prepare(options: options)
            }
            state.size += options.segmentSize
            measure(state)
            metrics.preparedSegments.add()
            becomes(degraded: nil)
        } catch {
            metrics.prepareFailures.add()
            state.retryAt = .now.advanced(by: Self.retryPause)
            becomes(degraded: error.description)
        }
    }

    private func measure(_ state: State) {
        metrics.sizeBytes.set(Int64(state.size))
        metrics.maxSizeBytes.set(Int64(options.maxSize))
        var disk = statvfs()
        // Where the disk cannot be asked, the last answer stands; what fails next on it is said there.
        if statvfs(directory, &disk) == 0 { metrics.freeBytes.set(Int64(disk.f_bavail * disk.f_frsize)) }
    }

    private func becomes(degraded reason: String?) {
        let before = degradation.withLock { current in
            defer { current = reason }
            return current
        }
        metrics.degraded.set(reason == nil ? 0 : 1)
        if let reason, before == nil { log(.journalDegraded(reason: reason)) }
        if reason == nil, before != nil { log(.journalRecovered()) }
    }

    private func makeRoom(_ state: inout State) throws(JournalError) {
        let after = state.size + options.segmentSize
        if after <= options.maxSize { return }
        retire(&state, wanted: after - options.maxSize)
        guard state.size + options.segmentSize <= options.maxSize else {
            throw JournalError(
                code: .diskFull, tried: "make a segment ready in \(directory)",
                reason:
                    "the journal holds \(state.size) bytes and may hold \(options.maxSize); none of it can be given up",
                next: "See why records are not acknowledged, or raise journal.max_size_bytes.")
        }
    }

    // MARK: Retention

    /// Deletes acknowledged segments that are old enough, and then, oldest first, as many more as make up `wanted`
    /// bytes. True where any went.
    @discardableResult private func retire(_ state: inout State, wanted: Int) -> Bool {
        state.retireAt = .now.advanced(by: Self.retirePause)
        var candidates: [(lane: LaneDirectory, state: LaneState, ordinal: UInt64, size: Int, written: Int)] = []
        var locks: [FileLock] = []
        var size = 0
        for lane in LaneDirectory.all(in: directory) {
            let files = lane.files()
            size += files.reduce(0) { $0 + $1.size }
            var laneState = lanes.first { $0.directory == lane }?.state
            if laneState != nil {
                state.tidied.remove(lane.number)
            } else if let lock = FileLock(path: "\(lane.path)/lock") {
                locks.append(lock)
                laneState = tidyOrphan(lane, lock, &state)
            } else {
                state.tidied.remove(lane.number)
            }
            guard let laneState, files.count > 1 else { continue }
            let checkpoint = laneState.checkpoint ?? 0
            let used = lane.usedSegments()
            for (segment, successor) in zip(used, used.dropFirst()) where successor.base <= checkpoint {
                guard let file = files.first(where: { $0.ordinal == segment.ordinal }) else { continue }
                candidates.append((lane, laneState, segment.ordinal, file.size, file.writtenSeconds))
            }
        }
        candidates.sort { $0.written < $1.written }
        var missing = wanted
        var gone = 0
        let oldest = options.clock() - options.retentionSeconds
        for candidate in candidates where candidate.written <= oldest || missing > 0 {
            // The checkpoint reaches the disk first: after a power cut a missing segment must read as done.
            guard candidate.state.sync(), unlink(candidate.lane.segmentPath(candidate.ordinal)) == 0 else { continue }
            metrics.retiredSegments.add()
            missing -= candidate.size
            gone += candidate.size
        }
        state.size = size - gone
        measure(state)
        return gone > 0
    }

    /// A lane that no process holds is recovered once, so that its records are all readable, its spare is given back,
    /// and what it counted is told.
    private func tidyOrphan(_ lane: LaneDirectory, _ lock: FileLock, _ state: inout State) -> LaneState? {
        do throws(JournalError) {
            let laneState = try openState(lane)
            if state.tidied.insert(lane.number).inserted {
                let end = LaneRecovery.recover(
                    lane, checkpoint: laneState.checkpoint ?? 0, log: log, metrics: metrics)
                if let counts = LaneCounts.look(lane), !counts.isEmpty || counts.sequence != end.sequence {
                    let opened = try makeLane(lane, lock, laneState, isCounted: true, nil)
                    opened.close()
                    if options.fsync != .never { sync(opened) }
                }
            }
            return laneState
        } catch {
            becomes(degraded: error.description)
            return nil
        }
    }

    // MARK: Writing through

    private func syncUntilStopped() {
        var syncCountsAt = ContinuousClock.now
        while !stopping.isStopped {
            if options.fsync == .always {
                appended.wait(upTo: .seconds(1))
            } else if stopping.wait(milliseconds: 1_000) {
                return
            }
            for lane in lanes { sync(lane) }
            // Once a second in any mode: a power cut may cost counts, which the records then make good.
            guard ContinuousClock.now >= syncCountsAt else { continue }
            syncCountsAt = .now.advanced(by: .seconds(1))
            for lane in lanes { lane.counts.sync() }
        }
    }

    private func sync(_ lane: JournalLane) {
        do throws(JournalError) {
            metrics.syncs.add(try lane.sync())
        } catch {
            metrics.syncFailures.add()
            log(.journalSyncFailed(lane: lane.directory.number, reason: error.description))
        }
    }
}

/// Wakes one thread; wakes before the wait count.
///
/// @unchecked: `isSet` is read and written with `lock` held.
private final class Wake: @unchecked Sendable {
    private let lock = ConditionLock()
    private var isSet = false

    func wake() {
        lock.withLock {
            isSet = true
            lock.wakeAll()
        }
    }

    func wait(upTo limit: Duration) {
        lock.withLock {
            if !isSet { lock.wait(upTo: limit) }
            isSet = false
        }
    }
}
