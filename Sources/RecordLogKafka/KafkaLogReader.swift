// Topic, partition, offset -> chunks of records. Every partition of the topic, by manual assignment at the store's
// offsets: no consumer group, no rebalance, no pause, no seek, since librdkafka 2.0.2 loses or repeats records there.
// One thread fetches and assigns; `PartitionCursor` judges each offset; `KafkaScout` asks the blocking questions.
//
// What this cannot see: a topic that was recreated and has grown past our next offset since. Kafka's clients of this
// version know no topic ids, so its records look like the ones that come next.

import CRDKafka
import Glibc
package import RecordLog
package import Telemetry

/// @unchecked: one thread at a time uses a reader, as the port says; it may be made on another.
package final class KafkaLogReader: RecordLogReader, @unchecked Sendable {
    private typealias Message = UnsafeMutablePointer<rd_kafka_message_t>

    private let options: KafkaOptions
    private let log: Log
    private let metrics: KafkaMetrics
    private let handle: KafkaHandle
    private let fetchQueue: OpaquePointer
    private let scout: KafkaScout
    private let kindHeader: UnsafeMutablePointer<CChar>

    /// Both by partition number, which is also the index that record slots carry.
    private var cursors: [PartitionCursor] = []
    private var partitions: [TopicPartition] = []

    /// Fetched and not yet handed out: `held[heldStart ..< heldEnd]`.
    private let held: UnsafeMutableBufferPointer<Message?>
    private var heldStart = 0
    private var heldEnd = 0
    /// Of the chunk in the making.
    private let taken: UnsafeMutableBufferPointer<Message?>

    private var events: [LogEvent] = []
    private var needsAssignment = false
    private var scoutProblem: String? = "the topic has not been looked up yet"
    private var commits: [Int32: Int64] = [:]
    private var lastCommit = ContinuousClock.now
    private var isClosed = false

    private static let batchSize = 16_384
    private static let commitInterval = Duration.seconds(1)
    /// Offsets in a chunk are 32-bit.
    private static let chunkCeiling = 1 << 30

    /// `createsTopic`: where the topic is missing it is made, with the configured partitions and replicas.
    package init(_ options: KafkaOptions, createsTopic: Bool, log: Log, metrics: KafkaMetrics) throws(RecordLogError) {
        self.options = options
        self.log = log
        self.metrics = metrics
        handle = try KafkaHandle(options, .reader, events: 0, log: log, metrics: metrics)
        guard let queue = rd_kafka_queue_get_consumer(handle.raw), let name = strdup(RecordHeader.kind) else {
            throw RecordLogError(
                code: .fatal, tried: "to open the Kafka reader", reason: "the client has no queue of records",
                next: "Report this.")
        }
        fetchQueue = queue
        kindHeader = name
        held = .allocate(capacity: Self.batchSize)
        taken = .allocate(capacity: Self.batchSize)
        scout = KafkaScout(handle, options, createsTopic: createsTopic, log: log)
    }

    deinit {
        close()
        held.deallocate()
        taken.deallocate()
        free(kindHeader)
    }

    package func start(_ positions: [(partition: TopicPartition, next: Offset)]) throws(RecordLogError) {
        for (partition, next) in positions {
            guard partition.topic == options.topic, let index = index(partition.partition), next.value >= 0 else {
                throw RecordLogError(
                    code: .configuration,
                    tried: "to read partition \(partition.partition) of \(partition.topic) from \(next.value)",
                    reason: "the topic \(options.topic) has \(cursors.count) partitions, numbered from 0",
                    next: "Check log.kafka.topic against the topic that the store was filled from.")
            }
            cursors[index].started(at: next.value)
        }
        needsAssignment = true
    }

    package func poll(
        maxRecords: Int, maxBytes: Int, timeoutMilliseconds: Int32
    ) throws(RecordLogError) -> LogEvent {
        try serveClient()
        hearScout()
        if !events.isEmpty { return events.removeFirst() }
        if needsAssignment { try assign() }
        if heldStart == heldEnd {
            if cursors.contains(where: { $0.phase == .reading }) {
                fetch(timeoutMilliseconds: timeoutMilliseconds)
            } else {
                scout.waitForNews(milliseconds: timeoutMilliseconds)
            }
        }
        if let chunk = takeChunk(maxRecords: maxRecords, maxBytes: maxBytes) { return .records(chunk) }
        return events.isEmpty ? .idle(degraded: degraded) : events.removeFirst()
    }

    private func index(_ partition: Int32) -> Int? {
        partition >= 0 && Int(partition) < cursors.count ? Int(partition) : nil
    }

    private var degraded: String? {
        if let scoutProblem { return scoutProblem }
        for (partition, cursor) in cursors.enumerated() {
            switch cursor.phase {
            case .awaitingWatermarks(let reason): return "partition \(partition) of \(options.topic): \(reason)"
            case .truncated(let end):
                return "partition \(partition) of \(options.topic) ends at \(end), before the next offset "
                    + "\(cursor.next): it is stopped"
            case .awaitingStart, .reading: continue
            }
        }
        return nil
    }

    // MARK: What the client and the scout say

    private func serveClient() throws(RecordLogError) {
        while let event = rd_kafka_queue_poll(handle.queue, 0) {
            defer { rd_kafka_event_destroy(event) }
            guard let (code, _) = handle.serve(event) else { continue }
            if code == RD_KAFKA_RESP_ERR__FATAL, let error = handle.fatalError { throw error }
            scout.lookSoon()
        }
    }

    private func hearScout() {
        let news = scout.takeNews()
        scoutProblem = news.problem
        if Int(news.partitions) > cursors.count {
            let added = (cursors.count..<Int(news.partitions)).map {
                TopicPartition(topic: options.topic, partition: Int32(clamping: $0))
            }
            partitions += added
            cursors += added.map { _ in PartitionCursor() }
            events.append(.discovered(added))
        }
        for answer in news.watermarks {
            guard let index = index(answer.partition) else { continue }
            switch cursors[index].watermarksArrived(low: answer.low, high: answer.high) {
            case .unchanged: continue
            case .reading:
                reread(index, why: "its offsets are there after all")
            case .lost(let from, let to):
                lost(index, from: from, to: to)
                needsAssignment = true
            case .truncated(let expected, let end):
                metrics.truncations.add()
                log(.kafkaTruncated(options.topic, partition: answer.partition, expected: expected, end: end))
                events.append(.truncated(partitions[index], expected: Offset(expected), end: Offset(end)))
                needsAssignment = true
            }
        }
    }

    private func lost(_ index: Int, from: Int64, to: Int64) {
        metrics.lost.add(Int(to - from))
        log(.kafkaOffsetsLost(options.topic, partition: Int32(clamping: index), from: from, to: to))
        events.append(.gap(partitions[index], from: Offset(from), to: Offset(to)))
    }

    private func reread(_ index: Int, why: String) {
        metrics.rereads.add()
        log(.kafkaReread(options.topic, partition: Int32(clamping: index), from: cursors[index].next, why: why))
        needsAssignment = true
    }

    // MARK: Assignment

    /// All partitions that are being read, each at its next offset. Records fetched before are dropped: they come again.
    private func assign() throws(RecordLogError) {
        dropHeld()
        guard let list = rd_kafka_topic_partition_list_new(Int32(clamping: cursors.count)) else {
            throw RecordLogError(
                code: .fatal, tried: "to assign partitions", reason: "out of memory", next: "Free some.")
        }
        defer { rd_kafka_topic_partition_list_destroy(list) }
        for (partition, cursor) in cursors.enumerated() where cursor.phase == .reading {
            rd_kafka_topic_partition_list_add(list, options.topic, Int32(clamping: partition)).pointee.offset =
                cursor.next
        }
        let code = rd_kafka_assign(handle.raw, list)
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR else {
            throw RecordLogError(
                code: .fatal, tried: "to assign \(list.pointee.cnt) partitions of \(options.topic)",
                reason: text(code), next: "The reader is opened anew.")
        }
        needsAssignment = false
    }

    // MARK: Fetching

    /// Waits for the first record, then takes what is there: a batch fetch with a timeout would wait until it is full.
    private func fetch(timeoutMilliseconds: Int32) {
        heldStart = 0
        let first = rd_kafka_consume_batch_queue(fetchQueue, timeoutMilliseconds, held.baseAddress, 1)
        guard first > 0 else {
            heldEnd = 0
            return
        }
        let more = rd_kafka_consume_batch_queue(
            fetchQueue, 0, held.baseAddress?.advanced(by: 1), Self.batchSize - 1)
        heldEnd = 1 + max(0, more)
    }

    private func dropHeld() {
        while heldStart < heldEnd {
            if let message = held[heldStart] { rd_kafka_message_destroy(message) }
            heldStart += 1
        }
    }

    /// The next records up to the limits, at least one where there is one; stops at what the owner must know first.
    private func takeChunk(maxRecords: Int, maxBytes: Int) -> RecordChunk? {
        let maxRecords = min(max(1, maxRecords), Self.batchSize)
        let maxBytes = min(maxBytes, Self.chunkCeiling)
        var count = 0
        var size = 0
        scan: while heldStart < heldEnd, count < maxRecords, !needsAssignment {
            guard let message = held[heldStart] else { break }
            guard message.pointee.err == RD_KAFKA_RESP_ERR_NO_ERROR, let index = index(message.pointee.partition)
            else {
                failed(message)
                rd_kafka_message_destroy(message)
                heldStart += 1
                continue
            }
            let bytes = message.pointee.key_len + message.pointee.len
            if count > 0, size + bytes > maxBytes { break }
            let expected = cursors[index].next
            switch cursors[index].received(message.pointee.offset, low: lowWatermark(message.pointee.partition)) {
            case .take:
                if message.pointee.offset > expected { metrics.offsetJumps.add(Int(message.pointee.offset - expected)) }
                taken[count] = message
                count += 1
                size += bytes
                heldStart += 1
            case .skip:
                metrics.redelivered.add()
                rd_kafka_message_destroy(message)
                heldStart += 1
            case .lost(let from, let to):
                lost(index, from: from, to: to)
                break scan
            case .reread:
                reread(index, why: "offset \(message.pointee.offset) came instead")
                break scan
            }
        }
        return count > 0 ? chunk(count, bytes: size) : nil
    }

    private func lowWatermark(_ partition: Int32) -> Int64 {
        var low: Int64 = -1
        var high: Int64 = -1
        rd_kafka_get_watermark_offsets(handle.raw, options.topic, partition, &low, &high)
        return low
    }

    /// Copies `taken[..<count]` out and gives the messages back.
    private func chunk(_ count: Int, bytes size: Int) -> RecordChunk {
        var slots: [RecordSlot] = []
        slots.reserveCapacity(count)
        let bytes = [UInt8](unsafeUninitializedCapacity: size) { buffer, filled in
            let out = UnsafeMutableRawBufferPointer(buffer)
            var at = 0
            func append(_ bytes: UnsafeMutableRawPointer?, _ count: Int) {
                guard let bytes, count > 0 else { return }
                UnsafeMutableRawBufferPointer(rebasing: out[at..<(at + count)])
                    .copyMemory(from: .init(start: bytes, count: count))
                at += count
            }
            for index in 0..<count {
                guard let message = taken[index] else { continue }
                let record = message.pointee
                let keyStart = at
                append(record.key, record.key_len)
                let valueStart = at
                append(record.payload, record.len)
                slots.append(
                    RecordSlot(
                        partition: record.partition, offset: Offset(record.offset), kind: kind(of: message),
                        keyStart: Int32(truncatingIfNeeded: keyStart),
                        keyCount: Int32(truncatingIfNeeded: valueStart - keyStart),
                        valueStart: Int32(truncatingIfNeeded: valueStart),
                        valueCount: record.payload == nil ? -1 : Int32(truncatingIfNeeded: at - valueStart)))
                rd_kafka_message_destroy(message)
            }
            filled = at
        }
        metrics.fetched.add(count)
        metrics.fetchedBytes.add(size)
        return RecordChunk(partitions: partitions, records: slots, bytes: bytes)
    }

    private func kind(of message: Message) -> RecordKind? {
        var headers: OpaquePointer?
        var value: UnsafeRawPointer?
        var size = 0
        guard rd_kafka_message_headers(message, &headers) == RD_KAFKA_RESP_ERR_NO_ERROR, let headers,
            rd_kafka_header_get_last(headers, kindHeader, &value, &size) == RD_KAFKA_RESP_ERR_NO_ERROR, let value
        else { return nil }
        let name = UnsafeRawBufferPointer(start: value, count: size)
        if name.elementsEqual("event".utf8) { return .event }
        if name.elementsEqual("manifest".utf8) { return .manifest }
        return nil
    }

    /// A message that carries an error instead of a record.
    private func failed(_ message: Message) {
        let code = message.pointee.err
        guard code != RD_KAFKA_RESP_ERR__PARTITION_EOF else { return }
        metrics.clientErrors.add()
        let said = rd_kafka_message_errstr(message).map { String(cString: $0) } ?? text(code)
        guard message.pointee.rkt != nil, let index = index(message.pointee.partition) else {
            // The coordinator's or the client's own trouble: the scout finds out whether the topic can be read.
            scout.lookSoon()
            return
        }
        switch code {
        case RD_KAFKA_RESP_ERR__BAD_MSG, RD_KAFKA_RESP_ERR__BAD_COMPRESSION, RD_KAFKA_RESP_ERR__UNDERFLOW:
            metrics.corruptBatches.add()
            cursors[index].batchBroken()
        default:
            if cursors[index].fetchFailed(said) { scout.askWatermarks(of: message.pointee.partition) }
        }
    }

    // MARK: Progress

    package func applied(_ partition: TopicPartition, next: Offset) {
        guard partition.topic == options.topic, let index = index(partition.partition) else { return }
        cursors[index].applied(upTo: next.value)
        guard !options.group.isEmpty else { return }
        commits[partition.partition] = next.value
        let now = ContinuousClock.now
        guard lastCommit.duration(to: now) >= Self.commitInterval else { return }
        lastCommit = now
        Self.commit(commits, options.topic, handle, isAsynchronous: true)
        commits.removeAll(keepingCapacity: true)
    }

    /// For lag tools alone: nothing ever reads these back, so a commit that fails is not tried again.
    private static func commit(
        _ offsets: [Int32: Int64], _ topic: String, _ handle: KafkaHandle, isAsynchronous: Bool
    ) {
        guard !offsets.isEmpty, let list = rd_kafka_topic_partition_list_new(Int32(clamping: offsets.count)) else {
            return
        }
        defer { rd_kafka_topic_partition_list_destroy(list) }
        for (partition, next) in offsets {
            rd_kafka_topic_partition_list_add(list, topic, partition).pointee.offset = next
        }
        rd_kafka_commit(handle.raw, list, isAsynchronous ? 1 : 0)
    }

    package var lag: [(partition: TopicPartition, records: Int64)] {
        guard !isClosed else { return [] }
        return zip(partitions, cursors).compactMap { partition, cursor in
            guard cursor.phase != .awaitingStart else { return nil }
            var low: Int64 = -1
            var high: Int64 = -1
            let code = rd_kafka_get_watermark_offsets(
                handle.raw, partition.topic, partition.partition, &low, &high)
            guard code == RD_KAFKA_RESP_ERR_NO_ERROR, high >= 0 else { return nil }
            return (partition, max(0, high - cursor.applied))
        }
    }

    package func close() {
        guard !isClosed else { return }
        isClosed = true
        dropHeld()
        scout.stop()
        let addresses = (queue: Int(bitPattern: fetchQueue), client: Int(bitPattern: handle.raw))
        handle.close { [handle, scout, options, commits] in
            scout.join()
            Self.commit(commits, options.topic, handle, isAsynchronous: false)
            if let client = OpaquePointer(bitPattern: addresses.client) { rd_kafka_assign(client, nil) }
            if let queue = OpaquePointer(bitPattern: addresses.queue) { rd_kafka_queue_destroy(queue) }
        }
    }
}
