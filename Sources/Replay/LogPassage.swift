// The log, from where it begins up to where the store stood as the replay began -> its events of the replay's days, once.
//
// Partition after partition, each by a reader of its own: so the order is the same each time, whoever goes on with it.
// What ingest did with a record is done again: what it put with the dead letters is passed over, a tombstone and a
// manifest too, and of an event that comes twice the first one counts.
//
// For that the ids of all events of the days, or of the one workspace that is replayed, are held in memory, 16 bytes each
// in a table that is between three and six eighths full: 21 to 43 bytes an event. They are nowhere else: who goes on with a
// replay reads the log from its begin up to its place once more, without counting.
//
// Records that go from the log before they are read end the replay. A hole of the log's own (what a broken disk took, say)
// was one when ingest came by, too, and is passed over.

import EventCodec
import Events
import Ingest
import RecordLog
import RollupStore

/// | limit | value | why | at the limit |
/// | --- | --- | --- | --- |
/// | bytes together | 4 MiB | a chunk is in memory once | the next chunk |
/// | patience | 60 s | a broker that restarts is back by then | the command ends, `resume` goes on |
struct LogPassage {
    private static let chunkBytes = 4 << 20
    private static let patience = Duration.seconds(60)
    private static let pollMilliseconds: Int32 = 200

    private let log: any RecordLogHistory
    private let replay: StoredReplay
    /// Whose events are wanted; nil: those of all.
    private let workspace: [UInt8]?
    private let isStopping: () -> Bool
    private var reader: (any RecordLogReader)?
    private var chunk = RecordChunk()
    private var position = 0
    private var ids: Set<EventID> = []
    /// How far it has come.
    private(set) var scan: LogScan
    /// Records that ingest could not count either.
    private(set) var unreadable: Int64 = 0

    /// - `isStopping`: asked while the log is waited for.
    init(_ log: any RecordLogHistory, _ replay: StoredReplay, _ scan: LogScan, isStopping: @escaping () -> Bool) {
        self.log = log
        self.replay = replay
        workspace = replay.plan.workspace.map { Array($0.utf8) }
        self.scan = scan
        self.isStopping = isStopping
    }

    /// Where the scan stands already: what was read before is known again. False when it is to stop.
    mutating func recall() throws(RollupStoreError) -> Bool {
        let place = scan
        for index in scan.parts.indices {
            scan.parts[index].end = scan.parts[index].next
            scan.parts[index].next = scan.parts[index].begin
        }
        while scan.current != nil {
            if try read(limit: 1 << 16, { _, _ in }) == 0, isStopping() { return false }
        }
        scan = place
        return true
    }

    /// The next up to `limit` records. Answers by how many offsets it has come further; 0: it is to stop.
    mutating func read(
        limit: Int, _ body: (EventFields, UnsafeRawBufferPointer) -> Void
    ) throws(RollupStoreError) -> Int64 {
        var count: Int64 = 0
        while count < limit, let current = scan.current {
            let before = scan.parts[current].next.value
            if position == chunk.records.count {
                // What there is goes first.
                if count > 0, reader != nil { break }
                guard try fetch(current, limit) else { break }
            }
            take(current, limit - Int(count), body)
            count += scan.parts[current].next.value - before
            if scan.parts[current].next >= scan.parts[current].end { leave() }
        }
        return count
    }

    private mutating func leave() {
        reader?.close()
        reader = nil
        chunk = RecordChunk()
        position = 0
    }

    /// Records of the chunk at hand.
    private mutating func take(
        _ current: Int, _ limit: Int, _ body: (EventFields, UnsafeRawBufferPointer) -> Void
    ) {
        var part = scan.parts[current]
        let ours = chunk.partitions.map { $0 == part.partition }
        let last = min(chunk.records.count, position + limit)
        chunk.bytes.withUnsafeBytes { bytes in
            while position < last, part.next < part.end {
                let slot = chunk.records[position]
                position += 1
                guard ours[Int(slot.partition)], slot.offset >= part.next else { continue }
                part.next = min(Offset(slot.offset.value + 1), part.end)
                if slot.offset >= part.end { break }
                guard slot.kind != .manifest, slot.valueCount >= 0 else { continue }
                let value = UnsafeRawBufferPointer(
                    rebasing: bytes[Int(slot.valueStart)..<Int(slot.valueStart + slot.valueCount)])
                guard slot.kind == .event, !slot.isCorrupt, value.count <= EventLimits.recordSize,
                    let fields = try? EventDecoder.decode(value, base: 0),
                    IngestLimits.admits(fields.time, now: replay.created)
                else {
                    unreadable += 1
                    continue
                }
                guard fields.time >= replay.plan.begin, fields.time < replay.eventsBegin,
                    workspace.map({ value[fields.workspace.range].elementsEqual($0) }) ?? true,
                    ids.insert(fields.id).inserted
                else { continue }
                body(fields, value)
            }
        }
        scan.parts[current] = part
    }

    /// Another chunk, or a step over a hole. False when it is to stop.
    private mutating func fetch(_ current: Int, _ limit: Int) throws(RollupStoreError) -> Bool {
        let part = scan.parts[current]
        let since = ContinuousClock.now
        var problem = "no record of \(part.partition) came"
        repeat {
            switch try poll(limit) {
            case .discovered(let found) where found.contains(part.partition):
                try Self.asking(replay) { () throws(RecordLogError) in try reader?.start([(part.partition, part.next)])
                }
            case .records(let records):
                (chunk, position) = (records, 0)
                return true
            case .gap(part.partition, let from, let to):
                let begin = try Self.asking(replay) { () throws(RecordLogError) in
                    try log.beginnings().first { $0.partition == part.partition }?.first
                }
                guard let begin, begin <= from else { throw Self.lapsed(replay, part, from, begin ?? to) }
                scan.parts[current].next = min(to, part.end)
                return true
            case .truncated(part.partition, let expected, let end):
                throw Self.ended(replay, part, expected, end)
            case .discovered, .gap, .truncated, .revoked: break
            case .idle(let degraded):
                problem = degraded ?? problem
                if isStopping() { return false }
            }
        } while since.duration(to: .now) < Self.patience
        throw RollupStoreError(
            code: .unavailable, tried: "read the log for replay \(replay.id)", reason: problem,
            next: "'millrace replay resume \(replay.id)' goes on once it can be read.")
    }

    private mutating func poll(_ limit: Int) throws(RollupStoreError) -> LogEvent {
        try Self.asking(replay) { () throws(RecordLogError) in
            var reading: any RecordLogReader
            if let reader { reading = reader } else { reading = try log.reader() }
            reader = nil
            defer { reader = reading }
            return try reading.poll(
                maxRecords: limit, maxBytes: Self.chunkBytes, timeoutMilliseconds: Self.pollMilliseconds)
        }
    }

    private static func asking<Answer>(
        _ replay: StoredReplay, _ body: () throws(RecordLogError) -> Answer
    ) throws(RollupStoreError) -> Answer {
        do throws(RecordLogError) { return try body() } catch {
            throw RollupStoreError(reading: error, "read the log for replay \(replay.id)")
        }
    }

    private static func lapsed(
        _ replay: StoredReplay, _ part: LogScan.Part, _ from: Offset, _ begin: Offset
    ) -> RollupStoreError {
        RollupStoreError(
            code: .configuration, tried: "read the log for replay \(replay.id)",
            reason:
                "\(part.partition) begins at offset \(begin.value) by now: records "
                + "from \(from.value) on went past their retention before they were read",
            next:
                "End it ('millrace replay cancel \(replay.id)'); nothing has changed. What the log still covers can be "
                + "replayed from a later day on.")
    }

    private static func ended(
        _ replay: StoredReplay, _ part: LogScan.Part, _ expected: Offset, _ end: Offset
    ) -> RollupStoreError {
        RollupStoreError(
            code: .configuration, tried: "read the log for replay \(replay.id)",
            reason: "\(part.partition) ends at offset \(end.value), before "
                + "\(expected.value), which the store has counted",
            next: "End it ('millrace replay cancel \(replay.id)'); nothing has changed. Look at what became of the log."
        )
    }
}

extension RollupStoreError {
    init(reading error: RecordLogError, _ tried: String) {
        let code: Code =
            switch error.code {
            case .configuration, .topicMissing, .notAuthorized: .configuration
            case .unreachable, .fatal, .io: .unavailable
            }
        self.init(code: code, tried: "\(tried), and there \(error.tried)", reason: error.reason, next: error.next)
    }
}
