// What the shipper's thread holds: each lane's cursor, its progress, and the records not yet settled.

import Events
import Glibc
import Journal
import RecordLog
import Telemetry
import Threading

/// One thread owns it.
final class Shipment {
    private struct Lane {
        let cursor: LaneCursor
        let state: LaneState
        var progress: ShippingProgress
        /// The records that are not settled, in order.
        var chunks: [RecordChunk] = []
        var isCaughtUp = false
    }

    private let directory: String
    private let limits: ShippingLimits
    private let log: Log
    private let metrics: ShippingMetrics
    private let journalMetrics: JournalMetrics
    private let refused: RefusedFile
    private var lanes: [Lane] = []
    private var hasLooked = false
    private var heldBytes = 0
    private var lookAt = ContinuousClock.now
    private var measureAt = ContinuousClock.now
    private var sendAt = ContinuousClock.now

    private static let lookPause = Duration.milliseconds(200)
    private static let measurePause = Duration.milliseconds(500)
    /// A tag is the lane's index above the sequence.
    private static let sequenceBits: UInt64 = 48

    init(directory: String, limits: ShippingLimits, log: Log, metrics: ShippingMetrics, journalMetrics: JournalMetrics)
    {
        self.directory = directory
        self.limits = limits
        self.log = log
        self.metrics = metrics
        self.journalMetrics = journalMetrics
        refused = RefusedFile(path: "\(directory)/refused.log")
    }

    /// Nothing is held, and at the last look nothing was left to read.
    var isDone: Bool { hasLooked && lanes.allSatisfy { $0.isCaughtUp && $0.progress.unsettled == 0 } }

    // MARK: Reading

    /// Finds lanes that are new, every now and then.
    func look() {
        guard ContinuousClock.now >= lookAt else { return }
        lookAt = .now.advanced(by: Self.lookPause)
        hasLooked = true
        for directory in LaneDirectory.all(in: directory)
        where !lanes.contains(where: { $0.cursor.lane == directory }) {
            do throws(JournalError) {
                let state = try LaneState(lane: directory) { path in
                    journalMetrics.quarantinedFiles.add()
                    log(.journalQuarantined(file: path))
                }
                // No checkpoint: what is missing at the front was acknowledged, or it would not have been deleted.
                let known = state.checkpoint ?? 0
                let next = known > 0 ? known : directory.firstSequence ?? 0
                let cursor = LaneCursor(lane: directory, next: next, log: log, metrics: journalMetrics)
                lanes.append(Lane(cursor: cursor, state: state, progress: ShippingProgress(checkpoint: next)))
            } catch {
                // The lane is looked at again; meanwhile the log says why it stands still.
                log(.shippingLaneFailed(lane: directory.number, reason: error.description))
            }
        }
    }

    /// One chunk a lane, while there is room; true where anything came.
    func read() -> Bool {
        var moved = false
        for index in lanes.indices {
            let held = lanes.reduce(0) { $0 + $1.progress.unsettled }
            guard heldBytes < limits.bytes, held < limits.records else { break }
            var chunk = RecordChunk()
            let most = min(limits.records - held, 20_000)
            let step = lanes[index].cursor.read(into: &chunk, maxRecords: most, maxBytes: limits.chunkBytes)
            lanes[index].isCaughtUp = false
            switch step {
            case .records:
                guard let first = chunk.records.first, let last = chunk.records.last else { continue }
                lanes[index].progress.recordsRead(first.offset.value..<last.offset.value + 1)
                heldBytes += chunk.bytes.count
                lanes[index].chunks.append(chunk)
                moved = true
            case .gap(let from, let to):
                metrics.lost.add(Int(to - from))
                log(.shippingLost(lane: lanes[index].cursor.lane.number, from: from, to: to))
                lanes[index].progress.skipped(to: to)
                settle(index)
                moved = true
            case .truncated, .caughtUp:
                // A lane that ends before its checkpoint goes on from there: its owner never numbers below it.
                lanes[index].isCaughtUp = true
            }
        }
        return moved
    }

    // MARK: Sending

    func resume(afterMilliseconds pause: Int) { sendAt = .now.advanced(by: .milliseconds(pause)) }

    /// Hands over what waits until the producer's queue is full; true where anything went.
    func send<Producer: RecordProducer>(to producer: inout Producer) -> Bool {
        guard ContinuousClock.now >= sendAt else { return false }
        var moved = false
        for index in lanes.indices {
            while let sequence = lanes[index].progress.nextToSend() {
                guard let (chunk, slot) = find(sequence, in: index) else { break }
                let record = lanes[index].chunks[chunk].records[slot]
                guard let kind = record.kind, !record.isCorrupt else {
                    // No log takes damaged bytes or a kind that this build does not know.
                    refuse(sequence, of: index, record.isCorrupt ? "damaged in the journal" : "unknown kind")
                    if lanes[index].progress.state(of: sequence) != .settled { return moved }
                    moved = true
                    continue
                }
                if kind == .manifest, sequence > lanes[index].progress.checkpoint {
                    // What a manifest counts is in the log before it: whoever has read it knows where to look.
                    lanes[index].progress.recordDeferred(sequence)
                    continue
                }
                let tag = UInt64(index) << Self.sequenceBits | UInt64(sequence)
                let taken = lanes[index].chunks[chunk].bytes.withUnsafeBytes { bytes in
                    producer.send(
                        tag: tag, kind: kind, key: Self.part(bytes, record.keyStart, record.keyCount),
                        value: Self.part(bytes, record.valueStart, record.valueCount))
                }
                guard taken else { return moved }
                lanes[index].progress.recordSent(sequence)
                moved = true
            }
        }
        return moved
    }

    func serveReports<Producer: RecordProducer>(
        of producer: inout Producer, timeoutMilliseconds: Int32
    ) throws(RecordLogError) -> (acknowledged: Int, failed: Int) {
        var counts = (acknowledged: 0, failed: 0)
        try producer.poll(timeoutMilliseconds: timeoutMilliseconds) { tag, delivery in
            let index = Int(tag >> Self.sequenceBits)
            let sequence = Int64(tag & (1 << Self.sequenceBits - 1))
            guard lanes.indices.contains(index) else { return }
            switch delivery {
            case .acknowledged:
                guard lanes[index].progress.state(of: sequence) == .waitingForReport else { return }
                lanes[index].progress.recordSettled(sequence)
                metrics.shipped.add()
                counts.acknowledged += 1
            case .failed:
                guard lanes[index].progress.recordFailed(sequence) else { return }
                metrics.resent.add()
                counts.failed += 1
            case .refused(let reason):
                guard lanes[index].progress.state(of: sequence) == .waitingForReport else { return }
                refuse(sequence, of: index, reason)
                if lanes[index].progress.recordFailed(sequence) { counts.failed += 1 }
            }
        }
        for index in lanes.indices { settle(index) }
        return counts
    }

    /// Everything in flight waits again; how many records that are.
    func producerLost() -> Int {
        var lost = 0
        for index in lanes.indices { lost += lanes[index].progress.producerLost() }
        sendAt = .now
        return lost
    }

    // MARK: Settling

    /// Kept aside on disk first, then done. Where that fails the record stays as it is.
    private func refuse(_ sequence: Int64, of index: Int, _ reason: String) {
        guard let (chunk, slot) = find(sequence, in: index) else { return }
        let record = lanes[index].chunks[chunk].records[slot]
        let failure = lanes[index].chunks[chunk].bytes.withUnsafeBytes { bytes in
            refused.add(
                sequence: sequence, kind: record.kind?.rawValue ?? 0,
                key: Self.part(bytes, record.keyStart, record.keyCount),
                value: Self.part(bytes, record.valueStart, record.valueCount))
        }
        if let failure {
            log(.shippingRefusedFileFailed(reason: failure))
            resume(afterMilliseconds: 1_000)
            return
        }
        metrics.refused.add()
        log(.shippingRefused(lane: lanes[index].cursor.lane.number, sequence: sequence, reason: reason))
        lanes[index].progress.recordSettled(sequence)
        settle(index)
    }

    /// Moves the lane's checkpoint and lets go of what is wholly below it.
    private func settle(_ index: Int) {
        let checkpoint = lanes[index].progress.checkpoint
        lanes[index].state.move(to: checkpoint)
        let settled = lanes[index].chunks.prefix { chunk in
            chunk.records.last.map { $0.offset.value < checkpoint } ?? true
        }
        guard !settled.isEmpty else { return }
        heldBytes -= settled.reduce(0) { $0 + $1.bytes.count }
        lanes[index].chunks.removeFirst(settled.count)
    }

    /// Offsets rise by one within a chunk.
    private func find(_ sequence: Int64, in index: Int) -> (chunk: Int, slot: Int)? {
        let chunks = lanes[index].chunks
        var low = 0
        var high = chunks.count
        while low < high {
            let middle = (low + high) / 2
            let last = chunks[middle].records.last?.offset.value ?? -1
            if last < sequence { low = middle + 1 } else { high = middle }
        }
        guard low < chunks.count, let first = chunks[low].records.first?.offset.value, sequence >= first
        else { return nil }
        return (low, Int(sequence - first))
    }

    private static func part(_ bytes: UnsafeRawBufferPointer, _ start: Int32, _ count: Int32) -> UnsafeRawBufferPointer
    {
        UnsafeRawBufferPointer(rebasing: bytes[Int(start)..<Int(start) + max(0, Int(count))])
    }

    // MARK: Measuring

    func measure() {
        let now = ContinuousClock.now
        guard now >= measureAt else { return }
        measureAt = now.advanced(by: Self.measurePause)
        var records = 0
        var bytes = heldBytes
        var oldest: Int64?
        for (index, lane) in lanes.enumerated() {
            let unread = lane.isCaughtUp ? (records: Int64(0), bytes: 0) : lane.cursor.backlog()
            records += lane.progress.unsettled + Int(unread.records)
            bytes += unread.bytes
            if let time = firstEventMilliseconds(index) { oldest = min(oldest ?? time, time) }
        }
        metrics.backlogRecords.set(Int64(records))
        metrics.backlogBytes.set(Int64(bytes))
        let clock = WallClock.microseconds() / 1_000
        metrics.oldestUnshippedMilliseconds.set(oldest.map { max(0, clock - $0) } ?? 0)
    }

    private func firstEventMilliseconds(_ index: Int) -> Int64? {
        let progress = lanes[index].progress
        guard progress.unsettled > 0, let (chunk, slot) = find(progress.checkpoint, in: index) else { return nil }
        let record = lanes[index].chunks[chunk].records[slot]
        guard record.kind == .event else { return nil }
        let start = Int(record.keyStart)
        return EventID.milliseconds(ofKey: lanes[index].chunks[chunk].bytes[start..<start + Int(record.keyCount)])
    }
}

/// Where records go that the log will never take: frames as in a segment, one after another.
private final class RefusedFile {
    private let path: String
    init(path: String) { self.path = path }

    /// On disk when it returns nil; else why not.
    func add(
        sequence: Int64, kind: UInt8, key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer
    ) -> String? {
        let file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
        guard file >= 0 else { return String(cString: strerror(errno)) }
        defer { close(file) }
        let size = lseek(file, 0, SEEK_END)
        let frame = Frame.encoded(sequence: sequence, kind: kind, key: key, value: value)
        if writeFile(file, frame), fsync(file) == 0 { return nil }
        let reason = String(cString: strerror(errno))
        // Half a frame would hide those after it.
        ftruncate(file, size)
        return reason
    }
}
