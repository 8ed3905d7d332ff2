// Records as fetched -> decoded, normalized, folded -> one SealedBatch. Knows no clock, queue or thread.
//
// Every offset between a range's first and next is accounted for exactly once: as an event, a manifest, a dead letter,
// skipped (the log never had a record there, or a tombstone) or lost (the log said so). An offset below the expected
// one has been accounted for before and is passed over.

import EventCodec
package import Events
package import Normalizer
package import RecordLog
package import RollupStore
import Rollups

/// | limit | value | why | at the limit |
/// | --- | --- | --- | --- |
/// | earliest time | 2000-01-01 | before any of this existed: a broken clock | dead letter `time_out_of_range` |
/// | latest time | 24 h ahead of the consumer's clock | a broken clock; time zones mistaken for UTC stay below it | same |
/// | late | older than 1 h, 1 day, 30 days | what a journal held while the broker was away | counted in the bucket of its own time, and as late |
/// | record size | `EventLimits.recordSize` | see there | dead letter `too_large` |
package enum IngestLimits {
    package static let earliest = EventTime(microseconds: 946_684_800_000_000)
    package static let aheadMicroseconds: Int64 = 86_400_000_000

    package static func admits(_ time: EventTime, now: EventTime) -> Bool {
        time >= earliest && time.microseconds - aheadMicroseconds <= now.microseconds
    }
}

/// How old a late event was when it came. It is counted like any other, in the bucket of its own time.
package enum LateAge: Int, CaseIterable, Sendable {
    case hour, day, month

    /// nil: not late.
    package init?(_ microseconds: Int64) {
        switch microseconds {
        case ...3_600_000_000: return nil
        case ...86_400_000_000: self = .hour
        case ...2_592_000_000_000: self = .day
        default: self = .month
        }
    }

    /// The metric's label: older than this.
    package var label: String {
        switch self {
        case .hour: "1h"
        case .day: "1d"
        case .month: "30d"
        }
    }
}

package struct BatchBuilder: Sendable {
    /// What one call took in, for the sealer and the metrics.
    package struct Taken: Sendable, Equatable {
        /// Index of the first record that was left for the next batch.
        package var end: Int
        package var events = 0
        package var bytes = 0
        package var redelivered = 0
        package var skipped: Int64 = 0
        package var manifests = 0
        package var deadLetters = 0
        package var newestTime: EventTime?
        /// Events with metadata whose result was at hand, and others.
        package var recalled = 0
        package var normalized = 0
        /// By `LateAge`: how old events were when they came.
        package var late = [Int](repeating: 0, count: LateAge.allCases.count)
    }

    private struct Cursor {
        var partition: TopicPartition
        var next: Offset
        var epoch: Int64
        /// Index into `ranges`, once the batch has something of this partition.
        var range: Int?
        var isStopped = false
        /// Of the last event: what a record that does not say is counted under.
        var proxy: [UInt8] = []
        var time = EventTime(microseconds: 0)
    }

    private var rules: RulesEras
    private var folder = BatchFolder()
    private var cursors: [Cursor] = []
    private var byPartition: [TopicPartition: Int] = [:]

    private var ranges: [PartitionRange] = []
    private var bytes: [UInt8] = []
    private var extras: [UInt8] = []
    private var pairs: [UInt32] = []
    private var events: [NormalizedEvent] = []
    private var entities: [Int32] = []
    private var manifests: [Manifest] = []
    private var minutes = MinuteTally()
    package private(set) var deadLetters: [DeadLetter] = []

    package init(normalizer: Normalizer) {
        rules = RulesEras(normalizer)
    }

    package var isEmpty: Bool { ranges.isEmpty }

    /// What the next events are normalized under. Call with an empty batch.
    package mutating func use(_ timeline: RulesTimeline) throws(RollupStoreError) { try rules.use(timeline) }

    /// Other rules are configured; `use` says from when on they hold. Call with an empty batch.
    package mutating func reconfigure(_ normalizer: Normalizer) { rules = RulesEras(normalizer) }

    package var rulesVersion: Int64 { rules.version }

    /// From here on, by the store. Call with an empty batch where a partition is taken again.
    package mutating func started(_ positions: [PartitionPosition]) {
        for position in positions {
            let cursor = Cursor(partition: position.partition, next: position.next, epoch: position.epoch)
            if let known = byPartition[position.partition] {
                cursors[known] = cursor
            } else {
                byPartition[position.partition] = cursors.count
                cursors.append(cursor)
            }
        }
    }

    /// Takes records from `start` on, until the chunk's end or until the batch holds so many events or bytes.
    package mutating func add(
        _ chunk: RecordChunk, from start: Int, now: EventTime, maxEvents: Int, maxBytes: Int
    ) -> Taken {
        var taken = Taken(end: start)
        let lookups = rules.lookups
        let places = chunk.partitions.map { byPartition[$0] }
        chunk.bytes.withUnsafeBytes { chunkBytes in
            while taken.end < chunk.records.count && events.count < maxEvents && bytes.count < maxBytes {
                let slot = chunk.records[taken.end]
                taken.end += 1
                guard let place = places[Int(slot.partition)], !cursors[place].isStopped,
                    slot.offset >= cursors[place].next
                else {
                    taken.redelivered += 1
                    continue
                }
                let range = open(place)
                let jumped = slot.offset.value - cursors[place].next.value
                ranges[range].skipped += jumped
                taken.skipped += jumped
                take(slot, chunkBytes, place, range, now, &taken)
                advance(place, range, to: Offset(slot.offset.value + 1))
            }
        }
        let (hits, misses) = rules.lookups
        (taken.recalled, taken.normalized) = (hits - lookups.hits, misses - lookups.misses)
        return taken
    }

    /// The log no longer has these offsets. Answers how many of them are newly declared lost.
    package mutating func lost(_ partition: TopicPartition, from: Offset, to: Offset) -> Int64 {
        guard let place = byPartition[partition], !cursors[place].isStopped, to > cursors[place].next else { return 0 }
        let range = open(place)
        // What lies between the expected offset and the gap's begin never had a record.
        let begin = max(from, cursors[place].next)
        ranges[range].skipped += begin.value - cursors[place].next.value
        ranges[range].lost += to.value - begin.value
        advance(place, range, to: to)
        return to.value - begin.value
    }

    /// Nothing more of this partition is taken until it is started again.
    package mutating func stopped(_ partition: TopicPartition) {
        if let place = byPartition[partition] { cursors[place].isStopped = true }
    }

    /// Forgets what was taken since the last seal, and every partition until it is started again.
    package mutating func abandon() {
        _ = seal()
        for index in cursors.indices { cursors[index].isStopped = true }
    }

    /// All that was taken since the last seal; nil where that is nothing.
    package mutating func seal() -> SealedBatch? {
        if ranges.isEmpty { return nil }
        let (series, delta) = folder.finish()
        let batch = SealedBatch(
            ranges: ranges, bytes: bytes, extras: extras, pairs: pairs, series: series, events: events,
            entities: entities, delta: delta, manifests: manifests, deadLetters: deadLetters,
            minutes: minutes.finish(), rulesVersion: rules.version)
        for index in cursors.indices { cursors[index].range = nil }
        ranges = []
        // The next batch is likely to be about as large: grown once, not step by step.
        let (byteCount, extraCount, pairCount, eventCount) = (bytes.count, extras.count, pairs.count, events.count)
        bytes = []
        bytes.reserveCapacity(byteCount)
        extras = []
        extras.reserveCapacity(extraCount)
        pairs = []
        pairs.reserveCapacity(pairCount)
        events = []
        events.reserveCapacity(eventCount)
        entities.removeAll(keepingCapacity: true)
        manifests = []
        deadLetters = []
        return batch
    }

    private mutating func open(_ place: Int) -> Int {
        if let range = cursors[place].range { return range }
        let cursor = cursors[place]
        ranges.append(
            PartitionRange(partition: cursor.partition, first: cursor.next, epoch: cursor.epoch, next: cursor.next))
        cursors[place].range = ranges.count - 1
        return ranges.count - 1
    }

    private mutating func advance(_ place: Int, _ range: Int, to next: Offset) {
        cursors[place].next = next
        ranges[range].next = next
    }

    private mutating func take(
        _ slot: RecordSlot, _ chunk: UnsafeRawBufferPointer, _ place: Int, _ range: Int, _ now: EventTime,
        _ taken: inout Taken
    ) {
        let key = UnsafeRawBufferPointer(rebasing: chunk[Int(slot.keyStart)..<Int(slot.keyStart + slot.keyCount)])
        guard slot.valueCount >= 0 else {
            ranges[range].skipped += 1
            taken.skipped += 1
            return
        }
        let value = UnsafeRawBufferPointer(
            rebasing: chunk[Int(slot.valueStart)..<Int(slot.valueStart + slot.valueCount)])
        func reject(_ code: DeadLetter.Code, _ reason: String, keeping kept: [UInt8]? = nil) {
            ranges[range].deadLetters += 1
            taken.deadLetters += 1
            taken.bytes += value.count
            let minute = countDeadLetter(slot, key, value, place, range)
            deadLetters.append(
                DeadLetter(
                    source: ranges[range].partition, offset: slot.offset, kind: slot.kind, code: code, reason: reason,
                    key: Array(key), value: kept ?? Array(value), minute: minute))
        }
        if slot.isCorrupt { return reject(.corruptFrame, "the frame's checksum does not match its bytes") }
        if value.count > EventLimits.recordSize {
            return reject(.tooLarge, "\(value.count) bytes, the limit is \(EventLimits.recordSize)")
        }
        switch slot.kind {
        case nil:
            reject(.unknownKind, "the header \(RecordHeader.kind) is missing or not one this program knows")
        case .manifest:
            do {
                manifests.append(try EventDecoder.decodeManifest(value))
                ranges[range].manifests += 1
                taken.manifests += 1
                taken.bytes += value.count
            } catch {
                reject(.undecodable, error.description)
            }
        case .event:
            do {
                let fields = try EventDecoder.decode(value, base: bytes.count)
                guard IngestLimits.admits(fields.time, now: now) else {
                    return reject(
                        .timeOutOfRange,
                        "time \(fields.time.microseconds) us is before 2000 or more than 24 h ahead of now",
                        keeping: try redacted(value, now: now))
                }
                take(fields, value, slot.offset, place, range)
                taken.events += 1
                taken.bytes += value.count
                taken.newestTime = max(taken.newestTime ?? fields.time, fields.time)
                if let age = LateAge(now.microseconds - fields.time.microseconds) { taken.late[age.rawValue] += 1 }
            } catch {
                reject(.undecodable, error.description)
            }
        }
    }

    /// Where a dead letter is counted; -1: nowhere, since no proxy has counted it as an event either.
    ///
    /// It has a proxy and a minute where its value still says so. Else an event's key, a UUIDv7, begins with the time, and
    /// the proxy is taken to be that of the record before it; a frame damaged in the journal belongs with that record.
    private mutating func countDeadLetter(
        _ slot: RecordSlot, _ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer, _ place: Int, _ range: Int
    ) -> Int32 {
        let source = source(slot.offset, range)
        if !slot.isCorrupt {
            guard slot.kind == .event else { return -1 }
            if let fields = try? EventDecoder.decode(value, base: 0) {
                let proxy = UnsafeRawBufferPointer(rebasing: value[fields.proxy.range])
                return minutes.deadLettered(proxy: proxy, time: fields.time, source)
            }
        }
        var time = cursors[place].time
        if let milliseconds = EventID.milliseconds(ofKey: key), key[6] >> 4 == 7 {
            time = EventTime(microseconds: milliseconds * 1_000)
        } else if !slot.isCorrupt {
            return -1
        }
        return cursors[place].proxy.withUnsafeBytes { minutes.deadLettered(proxy: $0, time: time, source) }
    }

    private func source(_ offset: Offset, _ range: Int) -> MinuteTally.Source {
        MinuteTally.Source(range: range, partition: ranges[range].partition, offset: offset)
    }

    private mutating func take(
        _ decoded: EventFields, _ value: UnsafeRawBufferPointer, _ offset: Offset, _ place: Int, _ range: Int
    ) {
        var fields = decoded
        let (proxyStart, proxyCount) = (Int(fields.proxy.start), Int(fields.proxy.count))
        let proxy = UnsafeRawBufferPointer(
            rebasing: value[(proxyCount == 0 ? 0 : proxyStart - bytes.count)...].prefix(proxyCount))
        let minute = minutes.applied(proxy: proxy, time: fields.time, source(offset, range))
        cursors[place].time = fields.time
        if !cursors[place].proxy.elementsEqual(proxy) { cursors[place].proxy = Array(proxy) }
        bytes.append(contentsOf: value)
        let workspace = fields.workspace.range
        let line = rules.line(of: String(decoding: bytes[workspace], as: UTF8.self))
        redact(&fields, line)
        let (metadata, series) = bytes.withUnsafeBytes { text in
            let raw = UnsafeRawBufferPointer(rebasing: text[fields.metadataRaw.range])
            let metadata = rules.normalize(raw: raw, status: fields.metadataStatus, at: fields.time, line: line)
            return (metadata, folder.add(fields, bytes: text, set: metadata.set))
        }
        let firstEntity = entities.count
        rules.entities(at: fields.time, line: line).each(of: metadata.extra) { set in
            entities.append(folder.add(fields, of: series, entity: set))
        }
        fields.metadataConflicts &+= metadata.conflicts
        let extra = ByteRange(start: extras.count, count: metadata.extra.count)
        extras.append(contentsOf: metadata.extra)
        let firstPair = pairs.count
        metadata.extra.withUnsafeBytes { EventPairs.append(of: $0, to: &pairs) }
        ranges[range].events += 1
        events.append(
            NormalizedEvent(
                fields: fields, series: series, range: Int32(range), offset: offset, extra: extra,
                pairs: ByteRange(start: firstPair, count: pairs.count - firstPair), metadataStatus: metadata.status,
                minute: minute, entities: firstEntity..<entities.count))
    }

    /// An event that is refused though it decodes, without what the rules hide; nil: it has nothing of the kind.
    private mutating func redacted(_ value: UnsafeRawBufferPointer, now: EventTime) throws(EventCodecError) -> [UInt8]?
    {
        var event = RequestEvent(try EventDecoder.decode(value, base: 0), in: value)
        let line = rules.line(of: event.workspace)
        let raw = event.metadataRaw.withUnsafeBytes { rules.redact($0, at: now, line: line) }
        guard let raw, raw != event.metadataRaw || !event.metadataRejected.isEmpty else { return nil }
        event.metadataRaw = raw
        event.metadataRejected = []
        var encoded: [UInt8] = []
        EventEncoder.encode(event, into: &encoded)
        return encoded
    }

    /// A proxy with these rules has done it; one with older rules, or another producer, has not.
    private mutating func redact(_ fields: inout EventFields, _ line: Int) {
        let redacted = bytes.withUnsafeBytes { text in
            rules.redact(
                UnsafeRawBufferPointer(rebasing: text[fields.metadataRaw.range]), at: fields.time, line: line)
        }
        guard let redacted else { return }
        fields.metadataRaw = ByteRange(start: bytes.count, count: redacted.count)
        bytes.append(contentsOf: redacted)
        fields.metadataRejected = ByteRange(start: 0, count: 0)
    }
}
