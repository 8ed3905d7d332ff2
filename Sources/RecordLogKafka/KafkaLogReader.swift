// Topic, partition, offset -> chunks of records, always from the store's offsets, given in the list that is assigned.
//
// Alone, a reader takes every partition of the topic by manual assignment. In a group it takes those that the group
// gives it, eagerly or cooperatively, as `partition.assignment.strategy` says. Either way the offsets committed to Kafka
// are for lag tools and never read back, and neither seek nor pause is used, since librdkafka 2.0.2 loses or repeats
// records there: a partition that must be read again is assigned again, and while nobody takes records (`standBy`)
// nothing is assigned to the client, whatever the group has given it.
//
// One thread fetches and assigns; `PartitionCursor` judges each offset; `GroupInbox` hears the group; `KafkaScout` asks
// the blocking questions.
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

    package enum Membership: Sendable {
        /// Every partition, for a store with one writer.
        case alone
        /// Those that `log.kafka.group` gives this reader.
        case group
    }

    private let options: KafkaOptions
    private let log: Log
    private let metrics: KafkaMetrics
    private let handle: KafkaHandle
    private let fetchQueue: OpaquePointer
    private let scout: KafkaScout
    private let kindHeader: UnsafeMutablePointer<CChar>
    /// nil: alone.
    private let group: GroupInbox?

    /// Both by partition number, which is also the index that record slots carry.
    private var cursors: [PartitionCursor] = []
    private var partitions: [TopicPartition] = []

    private var window = FetchWindow<Message>()
    /// As the client hands them out, and then of the chunk in the making.
    private let taken: UnsafeMutableBufferPointer<Message?>

    private var events: [LogEvent] = []
    private var needsAssignment = false
    /// Partitions that are to be fetched from another place than the client's.
    private var moved: Set<Int32> = []
    /// In a group: whether the client was told which topic to join for.
    private var isSubscribed = false
    private var groupProblem: String?
    /// Partitions asked back, and when they go without the owner's `release`.
    private var releaseBy: ContinuousClock.Instant?
    /// What the client fetches by our last assignment. Cooperative changes are differences to it.
    private var fetching: Set<Int32> = []
    /// Since when nobody takes records, and whether fetching has ended for it.
    private var standingBySince: ContinuousClock.Instant?
    private var isParked = false
    private var isFatal = false
    private var scoutProblem: String? = "the topic has not been looked up yet"
    private var commits: [Int32: Int64] = [:]
    private var lastCommit = ContinuousClock.now
    private var isClosed = false

    private static let batchSize = 16_384
    /// What is merged in the order of time, at most about so much. It is filled up when half of it has gone, so that a
    /// partition whose clock is ahead gets its turn.
    private static let windowRecords = 65_536
    private static let windowBytes = 32 << 20
    private static let commitInterval = Duration.seconds(1)
    /// How long the last commit may take at the end.
    private static let lastCommitMilliseconds: Int32 = 2_000
    /// How long a member that leaves waits for its first assignment: longer than a group may take to miss another member.
    private static let assignmentLimit = Duration.seconds(120)
    /// How long its owner waits for that.
    private static let closeMilliseconds = 4_000
    /// Offsets in a chunk are 32-bit.
    private static let chunkCeiling = 1 << 30
    /// How long partitions that are asked back may take to be applied and released.
    private static let releaseLimit = Duration.seconds(3)
    /// How long the client keeps what it has fetched while nobody takes it.
    private static let standByLimit = Duration.seconds(5)
    /// Before this version a commit during a cooperative rebalance costs the assignment, and commits are cosmetic.
    private static let commitsCooperatively = rd_kafka_version() >= 0x020a_0000

    /// `createsTopic`: where the topic is missing it is made, with the configured partitions and replicas.
    package init(
        _ options: KafkaOptions, membership: Membership = .alone, createsTopic: Bool, log: Log, metrics: KafkaMetrics
    ) throws(RecordLogError) {
        if membership == .group, options.group.isEmpty {
            throw RecordLogError(
                code: .configuration, tried: "to join a consumer group", reason: "it has no name",
                next: "Set log.kafka.group.")
        }
        self.options = options
        self.log = log
        self.metrics = metrics
        let group = membership == .group ? GroupInbox() : nil
        self.group = group
        do throws(RecordLogError) {
            handle = try KafkaHandle(options, .reader, events: 0, group: group, log: log, metrics: metrics)
        } catch {
            group?.remove()
            throw error
        }
        guard let queue = rd_kafka_queue_get_consumer(handle.raw), let name = strdup(RecordHeader.kind) else {
            throw RecordLogError(
                code: .fatal, tried: "to open the Kafka reader", reason: "the client has no queue of records",
                next: "Report this.")
        }
        fetchQueue = queue
        kindHeader = name
        taken = .allocate(capacity: Self.batchSize)
        scout = KafkaScout(handle, options, createsTopic: createsTopic, log: log)
    }

    deinit {
        close()
        taken.deallocate()
        free(kindHeader)
    }

    package func start(_ positions: [(partition: TopicPartition, next: Offset)]) throws(RecordLogError) {
        for (partition, next) in positions {
            // Taken away again while the store was asked where to start.
            if let index = index(partition.partition), !cursors[index].isAssigned { continue }
            guard partition.topic == options.topic, let index = index(partition.partition), next.value >= 0 else {
                throw RecordLogError(
                    code: .configuration,
                    tried: "to read partition \(partition.partition) of \(partition.topic) from \(next.value)",
                    reason: "the topic \(options.topic) has \(cursors.count) partitions, numbered from 0",
                    next: "Check log.kafka.topic against the topic that the store was filled from.")
            }
            cursors[index].started(at: next.value)
            move(index)
        }
    }

    package func poll(
        maxRecords: Int, maxBytes: Int, timeoutMilliseconds: Int32
    ) throws(RecordLogError) -> LogEvent {
        if isParked {
            isParked = false
            needsAssignment = true
        }
        standingBySince = nil
        try listen()
        if !events.isEmpty { return events.removeFirst() }
        // Nothing is assigned while the client waits for partitions to be given back: that would be the answer.
        if needsAssignment {
            if releaseBy == nil { try assign() } else { scout.waitForNews(milliseconds: min(timeoutMilliseconds, 50)) }
        }
        if window.count < Self.windowRecords / 2, window.size < Self.windowBytes / 2 {
            // In a group, fetching is also what serves its decisions.
            if isSubscribed || cursors.contains(where: { $0.phase == .reading }) {
                fetch(timeoutMilliseconds: timeoutMilliseconds)
            } else {
                scout.waitForNews(milliseconds: timeoutMilliseconds)
            }
        } else {
            // Takes nothing, and counts as a poll.
            rd_kafka_consume_batch_queue(fetchQueue, 0, taken.baseAddress, 0)
        }
        if let chunk = takeChunk(maxRecords: maxRecords, maxBytes: maxBytes) { return .records(chunk) }
        return events.isEmpty ? .idle(degraded: degraded) : events.removeFirst()
    }

    package func standBy() throws(RecordLogError) -> LogEvent? {
        let now = ContinuousClock.now
        let since = standingBySince ?? now
        standingBySince = since
        if !isParked, releaseBy == nil, since.duration(to: now) >= Self.standByLimit {
            isParked = true
            try assign(nothing: true)
        }
        if isParked {
            // What still comes was fetched before; it comes again. What the group decides stands behind it.
            let count = rd_kafka_consume_batch_queue(fetchQueue, 0, taken.baseAddress, taken.count)
            for index in 0..<max(0, count) {
                guard let message = taken[index] else { continue }
                if message.pointee.err != RD_KAFKA_RESP_ERR_NO_ERROR { failed(message) }
                rd_kafka_message_destroy(message)
            }
        } else {
            // Takes nothing, and counts as a poll.
            rd_kafka_consume_batch_queue(fetchQueue, 0, taken.baseAddress, 0)
        }
        try listen()
        return events.isEmpty ? nil : events.removeFirst()
    }

    private func listen() throws(RecordLogError) {
        try serveClient()
        try hearScout()
        try hearGroup()
    }

    private func index(_ partition: Int32) -> Int? {
        partition >= 0 && Int(partition) < cursors.count ? Int(partition) : nil
    }

    private var degraded: String? {
        if let problem = scoutProblem ?? groupProblem { return problem }
        for (partition, cursor) in cursors.enumerated() {
            switch cursor.phase {
            case .awaitingWatermarks(let reason): return "partition \(partition) of \(options.topic): \(reason)"
            case .truncated(let end):
                return "partition \(partition) of \(options.topic) ends at \(end), before the next offset "
                    + "\(cursor.next): it is stopped"
            case .awaitingStart, .reading, .unassigned, .awaitingRelease: continue
            }
        }
        return nil
    }

    // MARK: The group

    private func hearGroup() throws(RecordLogError) {
        guard let group else { return }
        for decision in group.take() {
            switch decision {
            case .assigned(let given):
                groupProblem = nil
                grow(to: (given.max() ?? -1) + 1)
                for partition in given { cursors[Int(partition)].assigned() }
                // Accepted; fetching begins when the store has said where.
                if isCooperative {
                    try change([], rd_kafka_incremental_assign)
                } else {
                    try assign(nothing: true)
                    needsAssignment = cursors.contains { $0.phase == .reading }
                }
                metrics.rebalances.add()
                log(.kafkaAssigned(options.topic, partitions: given))
                if !given.isEmpty { events.append(.discovered(given.map { partitions[Int($0)] })) }
            case .revoked(let taken, let isLost):
                let ours = taken.filter { index($0).map { cursors[$0].revoked() } ?? false }
                // What was not yet said of them is not said any more.
                forget(ours)
                log(.kafkaRevoked(options.topic, partitions: ours, isLost: isLost))
                if isLost { metrics.assignmentsLost.add() }
                if isLost || ours.isEmpty { try giveBack() } else { releaseBy = .now.advanced(by: Self.releaseLimit) }
                if !ours.isEmpty { events.append(.revoked(ours.map { partitions[Int($0)] })) }
            }
        }
        if let releaseBy, ContinuousClock.now >= releaseBy { try giveBack() }
    }

    package func release(_ partitions: [TopicPartition]) {
        for partition in partitions {
            guard partition.topic == options.topic, let index = index(partition.partition) else { continue }
            if cursors[index].phase == .awaitingRelease { cursors[index].released() }
        }
        // The answer to the group follows with the next poll.
        if releaseBy != nil, !cursors.contains(where: { $0.phase == .awaitingRelease }) { releaseBy = .now }
    }

    package var isShared: Bool { group != nil }

    package func restart() {
        dropHeld()
        events.removeAll()
        // Nothing read before will be applied, so what is asked back can go.
        release(partitions)
        let ours = cursors.indices.filter { cursors[$0].isAssigned }
        for index in ours {
            cursors[index].assigned()
            move(index)
        }
        if !ours.isEmpty { events.append(.discovered(ours.map { partitions[$0] })) }
    }

    /// Answers the group's demand: what is asked back goes.
    private func giveBack() throws(RecordLogError) {
        releaseBy = nil
        for index in cursors.indices where cursors[index].phase == .awaitingRelease { cursors[index].released() }
        commits = commits.filter { index($0.key).map { cursors[$0].isStarted } ?? false }
        if isCooperative {
            try assignDifference(to: fetching.filter { index($0).map { cursors[$0].isAssigned } ?? false })
        } else {
            dropHeld()
            rd_kafka_assign(handle.raw, nil)
            fetching = []
            // Those that were not asked back, which the eager protocol does not know.
            needsAssignment = cursors.contains { $0.phase == .reading }
        }
    }

    private func forget(_ revoked: [Int32]) {
        events.removeAll { event in
            switch event {
            case .gap(let partition, _, _), .truncated(let partition, _, _):
                revoked.contains(partition.partition)
            case .discovered, .records, .revoked, .idle: false
            }
        }
    }

    private var isCooperative: Bool { group != nil && GroupInbox.isCooperative(handle.raw) }

    private func grow(to count: Int32) {
        guard Int(count) > cursors.count else { return }
        let added = (cursors.count..<Int(count)).map {
            TopicPartition(topic: options.topic, partition: Int32(clamping: $0))
        }
        partitions += added
        var cursor = PartitionCursor()
        if group != nil { cursor.released() }
        cursors += added.map { _ in cursor }
        if group == nil { events.append(.discovered(added)) }
    }

    private func subscribe() throws(RecordLogError) {
        guard let list = rd_kafka_topic_partition_list_new(1) else { throw outOfMemory("to join the group") }
        defer { rd_kafka_topic_partition_list_destroy(list) }
        rd_kafka_topic_partition_list_add(list, options.topic, -1)
        let code = rd_kafka_subscribe(handle.raw, list)
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR else {
            throw RecordLogError(
                code: .fatal, tried: "to join the group \(options.group)", reason: text(code),
                next: "Check log.kafka.group and log.kafka.properties.")
        }
        isSubscribed = true
    }

    private func outOfMemory(_ tried: String) -> RecordLogError {
        RecordLogError(code: .fatal, tried: tried, reason: "out of memory", next: "Free some.")
    }

    // MARK: What the client and the scout say

    private func serveClient() throws(RecordLogError) {
        if isFatal, let error = handle.fatalError {
            throw RecordLogError(
                code: .fatal, tried: "to read the topic \(options.topic)", reason: error.reason,
                next: "Where group.instance.id is set, give each consumer its own. Start this one again.")
        }
        while let event = rd_kafka_queue_poll(handle.queue, 0) {
            defer { rd_kafka_event_destroy(event) }
            guard let (code, _) = handle.serve(event) else { continue }
            if code == RD_KAFKA_RESP_ERR__FATAL, let error = handle.fatalError { throw error }
            scout.lookSoon()
        }
    }

    private func hearScout() throws(RecordLogError) {
        let news = scout.takeNews()
        scoutProblem = news.problem
        grow(to: news.partitions)
        if group != nil, !isSubscribed, news.partitions > 0 { try subscribe() }
        for answer in news.watermarks {
            guard let index = index(answer.partition) else { continue }
            switch cursors[index].watermarksArrived(low: answer.low, high: answer.high) {
            case .unchanged: continue
            case .reading:
                reread(index, why: "its offsets are there after all")
            case .lost(let from, let to):
                lost(index, from: from, to: to)
                move(index)
            case .truncated(let expected, let end):
                metrics.truncations.add()
                log(.kafkaTruncated(options.topic, partition: answer.partition, expected: expected, end: end))
                events.append(.truncated(partitions[index], expected: Offset(expected), end: Offset(end)))
                move(index)
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
        move(index)
    }

    private func move(_ index: Int) {
        moved.insert(Int32(clamping: index))
        needsAssignment = true
    }

    // MARK: Assignment

    /// All partitions that are being read, each at its next offset. Records fetched before are dropped: they come again;
    /// the cooperative protocol leaves partitions alone that have not moved.
    /// `nothing`: none of them, until the next time.
    private func assign(nothing: Bool = false) throws(RecordLogError) {
        let reading = cursors.indices.filter { !nothing && cursors[$0].phase == .reading }.map { Int32(clamping: $0) }
        needsAssignment = false
        let kept = fetching.intersection(reading).subtracting(moved)
        moved = []
        if isCooperative {
            dropHeld(except: kept)
            if kept.count < fetching.count { try assignDifference(to: kept) }
            let added = reading.filter { !kept.contains($0) }
            if !added.isEmpty { try change(added, rd_kafka_incremental_assign) }
            fetching.formUnion(added)
            return
        }
        dropHeld()
        let list = try list(of: reading)
        defer { rd_kafka_topic_partition_list_destroy(list) }
        let code = rd_kafka_assign(handle.raw, list)
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR else { throw unassignable(reading, text(code)) }
        fetching = Set(reading)
    }

    /// Ends fetching of all but these. The empty difference is an answer too.
    private func assignDifference(to kept: Set<Int32>) throws(RecordLogError) {
        try change(fetching.subtracting(kept).sorted(), rd_kafka_incremental_unassign)
        fetching.formIntersection(kept)
    }

    private func change(
        _ partitions: [Int32],
        _ call: (OpaquePointer?, UnsafePointer<rd_kafka_topic_partition_list_t>?) -> OpaquePointer?
    ) throws(RecordLogError) {
        let list = try list(of: partitions)
        defer { rd_kafka_topic_partition_list_destroy(list) }
        guard let error = call(handle.raw, list) else { return }
        defer { rd_kafka_error_destroy(error) }
        throw unassignable(partitions, String(cString: rd_kafka_error_string(error)))
    }

    private func list(
        of partitions: [Int32]
    ) throws(RecordLogError) -> UnsafeMutablePointer<rd_kafka_topic_partition_list_t> {
        guard let list = rd_kafka_topic_partition_list_new(Int32(clamping: partitions.count)) else {
            throw outOfMemory("to assign partitions")
        }
        for partition in partitions {
            rd_kafka_topic_partition_list_add(list, options.topic, partition).pointee.offset =
                cursors[Int(partition)].next
        }
        return list
    }

    private func unassignable(_ partitions: [Int32], _ reason: String) -> RecordLogError {
        RecordLogError(
            code: .fatal, tried: "to assign \(partitions.count) partitions of \(options.topic)", reason: reason,
            next: "Start the consumer again.")
    }

    // MARK: Fetching

    /// Waits for the first record, where there is none yet, then takes what is there: a batch fetch with a timeout would
    /// wait until it is full.
    private func fetch(timeoutMilliseconds: Int32) {
        if window.isEmpty, take(1, timeoutMilliseconds: timeoutMilliseconds) == 0 { return }
        while window.count < Self.windowRecords, window.size < Self.windowBytes {
            let room = min(taken.count, Self.windowRecords - window.count)
            if take(room, timeoutMilliseconds: 0) < room { return }
        }
    }

    private func take(_ most: Int, timeoutMilliseconds: Int32) -> Int {
        let count = max(
            0, rd_kafka_consume_batch_queue(fetchQueue, timeoutMilliseconds, taken.baseAddress, most))
        for index in 0..<count {
            guard let message = taken[index] else { continue }
            var type = RD_KAFKA_TIMESTAMP_NOT_AVAILABLE
            let milliseconds = rd_kafka_message_timestamp(message, &type)
            window.append(
                message, partition: message.pointee.partition,
                time: type == RD_KAFKA_TIMESTAMP_NOT_AVAILABLE ? nil : milliseconds,
                size: message.pointee.key_len + message.pointee.len)
        }
        return count
    }

    private func dropHeld(except kept: Set<Int32> = []) {
        window.keep(kept) { rd_kafka_message_destroy($0) }
    }

    /// The next records up to the limits, at least one where there is one; stops at what the owner must know first.
    private func takeChunk(maxRecords: Int, maxBytes: Int) -> RecordChunk? {
        let maxRecords = min(max(1, maxRecords), Self.batchSize)
        let maxBytes = min(maxBytes, Self.chunkCeiling)
        var count = 0
        var size = 0
        scan: while count < maxRecords, !needsAssignment, let message = window.first() {
            guard message.pointee.err == RD_KAFKA_RESP_ERR_NO_ERROR, let index = index(message.pointee.partition)
            else {
                failed(message)
                window.removeFirst()
                rd_kafka_message_destroy(message)
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
                window.removeFirst()
            case .skip:
                metrics.redelivered.add()
                window.removeFirst()
                rd_kafka_message_destroy(message)
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
        if code == RD_KAFKA_RESP_ERR__FATAL { isFatal = true }
        guard message.pointee.rkt != nil, let index = index(message.pointee.partition) else {
            if group != nil { groupProblem = "the group \(options.group): \(said)" }
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
        guard !options.group.isEmpty, cursors[index].isStarted, Self.commitsCooperatively || !isCooperative else {
            return
        }
        commits[partition.partition] = next.value
        // Not while the group is taking partitions away.
        guard releaseBy == nil else { return }
        let now = ContinuousClock.now
        guard lastCommit.duration(to: now) >= Self.commitInterval else { return }
        lastCommit = now
        Self.commit(commits, options.topic, handle)
        commits.removeAll(keepingCapacity: true)
    }

    /// For lag tools alone: nothing ever reads these back, so a commit that fails is not tried again.
    /// `waitMilliseconds`: for the answer; 0: not at all.
    private static func commit(
        _ offsets: [Int32: Int64], _ topic: String, _ handle: KafkaHandle, waitMilliseconds: Int32 = 0
    ) {
        guard !offsets.isEmpty, let list = rd_kafka_topic_partition_list_new(Int32(clamping: offsets.count)) else {
            return
        }
        defer { rd_kafka_topic_partition_list_destroy(list) }
        for (partition, next) in offsets {
            rd_kafka_topic_partition_list_add(list, topic, partition).pointee.offset = next
        }
        guard waitMilliseconds > 0, let queue = rd_kafka_queue_new(handle.raw) else {
            rd_kafka_commit(handle.raw, list, 1)
            return
        }
        defer { rd_kafka_queue_destroy(queue) }
        rd_kafka_commit_queue(handle.raw, list, queue, nil, nil)
        if let event = rd_kafka_queue_poll(queue, waitMilliseconds) { rd_kafka_event_destroy(event) }
    }

    package var lag: [(partition: TopicPartition, records: Int64)] {
        guard !isClosed else { return [] }
        return zip(partitions, cursors).compactMap { partition, cursor in
            guard cursor.isStarted else { return nil }
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
        group?.retire()
        let strategy = options.properties["partition.assignment.strategy"] ?? ""
        let mustBeAssigned = isSubscribed && strategy.contains("sticky")
        let addresses = (queue: Int(bitPattern: fetchQueue), client: Int(bitPattern: handle.raw))
        handle.close(milliseconds: mustBeAssigned ? Self.closeMilliseconds : KafkaHandle.closeMilliseconds) {
            [handle, scout, group, options, commits, isSubscribed] in
            scout.join()
            Self.commit(commits, options.topic, handle, waitMilliseconds: Self.lastCommitMilliseconds)
            guard let client = OpaquePointer(bitPattern: addresses.client),
                let queue = OpaquePointer(bitPattern: addresses.queue)
            else { return true }
            if mustBeAssigned, let group, !Self.waitForAssignment(group, queue) { return false }
            if isSubscribed { rd_kafka_consumer_close(client) } else { rd_kafka_assign(client, nil) }
            rd_kafka_queue_destroy(queue)
            group?.remove()
            return true
        }
    }

    /// Version 2.0.2 ends the process when a sticky member goes between joining and its first assignment. So it stays
    /// until then, beyond the reader's end if it must: a client that nobody polls would keep what the group gives it.
    /// Where the process ends before, the group's own time-out says that the member has gone. False where none came in
    /// time: then the client must be left to the process's end.
    private static func waitForAssignment(_ group: GroupInbox, _ queue: OpaquePointer) -> Bool {
        let deadline = ContinuousClock.now.advanced(by: assignmentLimit)
        var message: Message?
        while !group.hasBeenAssigned, ContinuousClock.now < deadline {
            if rd_kafka_consume_batch_queue(queue, 100, &message, 1) > 0, let message {
                rd_kafka_message_destroy(message)
            }
        }
        return group.hasBeenAssigned
    }
}
