// What of a journal the store has not applied yet, by proxy and minute: the lanes from the store's offsets on.
//
// First the store is read, then a lane's page of counts, then the lane's records from the store's offset up to the
// sequence that the page counts to: so all three speak of one moment, however busy the lane is.

import EventCodec
import Events
import Journal
import RecordLog
import RollupStore
import Telemetry

struct JournalTail {
    /// | limit | value | why | at the limit |
    /// | --- | --- | --- | --- |
    /// | `records` | 2,000,000 | a second or two of reading | what lies beyond counts as a difference, and the answer says so |
    static let recordLimit: Int64 = 2_000_000

    private(set) var inFlight: [ProxyMinuteKey: Int64] = [:]
    private(set) var parts: [Manifest] = []
    /// Why not all of it could be read.
    private(set) var problem: String?

    init(journal directory: String, ledger: [PartitionLedger], log: Log) {
        // Whose counts the lanes' pages are.
        let proxy = Journal.proxyID(in: directory) ?? ""
        let next = Dictionary(ledger.map { ($0.partition, $0.next.value) }, uniquingKeysWith: max)
        var left = Self.recordLimit
        for lane in LaneDirectory.all(in: directory) {
            let from = next[lane.topicPartition] ?? 0
            var end: Int64?
            if let counts = LaneCounts.look(lane) {
                guard let (lanes, sequence) = counts.snapshot() else {
                    problem = "\(lane.path): its counts did not stand still"
                    continue
                }
                end = sequence
                parts += lanes.map { part in
                    Manifest(
                        proxy: proxy, minute: EventTime(microseconds: part.minute * EventTime.minuteMicroseconds),
                        lane: UInt32(lane.number), serial: part.serial, accepted: part.recorded + part.missed,
                        recorded: part.recorded, dropped: part.missed)
                }
            }
            read(lane, from: from, to: end ?? .max, &left, log)
        }
    }

    private mutating func read(_ lane: LaneDirectory, from: Int64, to end: Int64, _ left: inout Int64, _ log: Log) {
        let cursor = LaneCursor(lane: lane, next: from, log: log, metrics: JournalMetrics())
        var chunk = RecordChunk()
        while cursor.next < end {
            if left <= 0 {
                problem = "the consumer is more than \(Self.recordLimit) records behind"
                return
            }
            switch cursor.read(into: &chunk, maxRecords: 8_192, maxBytes: 1 << 20) {
            case .gap: continue
            case .truncated, .caughtUp: return
            case .records:
                left -= Int64(chunk.records.count)
                for record in chunk.records where record.offset.value < end { take(record, chunk.bytes) }
            }
        }
    }

    private mutating func take(_ record: RecordSlot, _ bytes: [UInt8]) {
        guard !record.isCorrupt, record.valueCount >= 0 else { return }
        let (start, size) = (Int(record.valueStart), Int(record.valueCount))
        bytes.withUnsafeBytes { bytes in
            let value = UnsafeRawBufferPointer(rebasing: bytes[start..<start + size])
            // What does not decode is a dead letter to be: nobody's until the consumer has filed it.
            switch record.kind {
            case .event:
                guard let fields = try? EventDecoder.decode(value, base: start) else { return }
                let proxy = String(decoding: bytes[fields.proxy.range], as: UTF8.self)
                inFlight[ProxyMinuteKey(minute: fields.time.startOfMinute, proxy: proxy), default: 0] += 1
            case .manifest:
                if let manifest = try? EventDecoder.decodeManifest(value) { parts.append(manifest) }
            case nil: return
            }
        }
    }
}
