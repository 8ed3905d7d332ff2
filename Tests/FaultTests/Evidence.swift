// The judge of every fault: the log as a plain client reads it, beside the store as plain SQL reads it.
//
// Nothing here goes through the product's own reading, decoding, folding or store modules. A store is a few queries:
// another one joins by `StoreEvidence`.

import CRDKafka
import CSQLite
import Glibc
import JSONText
import Testing

/// A record as a client sees it.
struct LogRecord {
    var partition: Int32 = 0
    var offset: Int64 = -1
    var key: [UInt8]
    var value: [UInt8]?
    var headers: [String: String] = [:]
}

/// Everything that a topic holds.
struct LogEvidence {
    var records: [LogRecord] = []
    var low: [Int32: Int64] = [:]
    var high: [Int32: Int64] = [:]

    /// What is under the header of an event, whether it is one or not: no manifest.
    var events: [LogRecord] { records.filter { $0.headers["millrace-kind"] == "event" } }

    init() {}

    init(_ broker: Broker, _ topic: String) throws {
        try broker.withClient(consumer: true) { client in
            let list = rd_kafka_topic_partition_list_new(8)
            defer { rd_kafka_topic_partition_list_destroy(list) }
            for partition in 0..<(try Self.partitions(client, topic)) {
                var (low, high): (Int64, Int64) = (-1, -1)
                var code = rd_kafka_query_watermark_offsets(client, topic, partition, &low, &high, 10_000)
                // A broker that has just come back may not lead yet.
                for _ in 0..<50 where code == RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE {
                    usleep(200_000)
                    code = rd_kafka_query_watermark_offsets(client, topic, partition, &low, &high, 10_000)
                }
                guard code == RD_KAFKA_RESP_ERR_NO_ERROR else { throw ChildError("no watermarks of \(topic): \(code)") }
                (self.low[partition], self.high[partition]) = (low, high)
                if low < high {
                    rd_kafka_topic_partition_list_add(list, topic, partition).pointee.offset = low
                }
            }
            rd_kafka_assign(client, list)
            var open = high.filter { $0.value > low[$0.key] ?? 0 }
            let deadline = ContinuousClock.now.advanced(by: .seconds(60))
            while !open.isEmpty {
                guard ContinuousClock.now < deadline else { throw ChildError("\(topic) could not be read to its end") }
                guard let message = rd_kafka_consumer_poll(client, 200) else { continue }
                defer { rd_kafka_message_destroy(message) }
                guard message.pointee.err == RD_KAFKA_RESP_ERR_NO_ERROR else { continue }
                let record = Self.record(message)
                records.append(record)
                if let end = open[record.partition], record.offset >= end - 1 { open[record.partition] = nil }
            }
        }
    }

    private static func partitions(_ client: OpaquePointer, _ topic: String) throws -> Int32 {
        let reference = rd_kafka_topic_new(client, topic, nil)
        defer { rd_kafka_topic_destroy(reference) }
        var metadata: UnsafePointer<rd_kafka_metadata>?
        let code = rd_kafka_metadata(client, 0, reference, &metadata, 10_000)
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR, let metadata else { throw ChildError("no metadata of \(topic)") }
        defer { rd_kafka_metadata_destroy(metadata) }
        return metadata.pointee.topics?.pointee.partition_cnt ?? 0
    }

    private static func record(_ message: UnsafeMutablePointer<rd_kafka_message_t>) -> LogRecord {
        func bytes(_ start: UnsafeMutableRawPointer?, _ count: Int) -> [UInt8] {
            Array(UnsafeRawBufferPointer(start: start, count: start == nil ? 0 : count))
        }
        let raw = message.pointee
        var record = LogRecord(
            partition: raw.partition, offset: raw.offset, key: bytes(raw.key, raw.key_len),
            value: raw.payload == nil ? nil : bytes(raw.payload, raw.len))
        var headers: OpaquePointer?
        guard rd_kafka_message_headers(message, &headers) == RD_KAFKA_RESP_ERR_NO_ERROR else { return record }
        var index = 0
        var name: UnsafePointer<CChar>?
        var value: UnsafeRawPointer?
        var size = 0
        while rd_kafka_header_get_all(headers, index, &name, &value, &size) == RD_KAFKA_RESP_ERR_NO_ERROR {
            let text = String(decoding: UnsafeRawBufferPointer(start: value, count: size), as: UTF8.self)
            if let name { record.headers[String(cString: name)] = text }
            index += 1
        }
        return record
    }

    /// With records that the log no longer has.
    func adding(_ earlier: [LogRecord]) -> LogEvidence {
        var all = self
        let known = Set(records.map { "\($0.partition)/\($0.offset)" })
        all.records += earlier.filter { !known.contains("\($0.partition)/\($0.offset)") }
        return all
    }
}

/// What a record means, by the schema and the stated limits.
enum Judgement {
    case event(JudgedEvent)
    case manifest, tombstone, bad

    init(_ record: LogRecord, now: Int64) {
        guard let value = record.value else {
            self = .tombstone
            return
        }
        let event = JudgedEvent(value)
        switch record.headers["millrace-kind"] {
        case "manifest": self = .manifest
        case "event":
            guard let event, value.count <= 262_144, event.time >= 946_684_800_000_000,
                event.time <= now + 86_400_000_000
            else {
                self = .bad
                return
            }
            self = .event(event)
        default: self = .bad
        }
    }
}

/// An event by its protobuf fields, read here and nowhere else.
struct JudgedEvent {
    var id: String
    var time: Int64
    var dimensions: String
    var sums: Sums
    var latency: UInt64?

    init?(_ value: [UInt8]) {
        var numbers: [Int: UInt64] = [:]
        var texts: [Int: ArraySlice<UInt8>] = [:]
        var rest = value[...]
        func varint() -> UInt64? {
            var number: UInt64 = 0
            for shift in stride(from: UInt64(0), to: 64, by: 7) {
                guard let byte = rest.popFirst() else { return nil }
                number |= UInt64(byte & 0x7F) << shift
                if byte < 0x80 { return number }
            }
            return nil
        }
        while !rest.isEmpty {
            guard let tag = varint() else { return nil }
            let field = Int(tag >> 3)
            switch tag & 7 {
            case 0:
                guard let number = varint() else { return nil }
                numbers[field] = number
            case 1:
                guard rest.count >= 8 else { return nil }
                numbers[field] = rest.prefix(8).reversed().reduce(0) { $0 << 8 | UInt64($1) }
                rest = rest.dropFirst(8)
            case 2:
                guard let count = varint(), count <= UInt64(rest.count) else { return nil }
                texts[field] = rest.prefix(Int(count))
                rest = rest.dropFirst(Int(count))
            default: return nil
            }
        }
        guard let key = texts[1], key.count == 16 else { return nil }
        func text(_ field: Int) -> String { String(decoding: texts[field] ?? [], as: UTF8.self) }
        id = hex(Array(key))
        time = Int64(bitPattern: numbers[2] ?? 0)
        let model = text(9).isEmpty ? text(8) : text(9)
        let status = numbers[10] ?? 0
        dimensions = [text(4), text(6), model, "\(numbers[11] ?? 0)", "\(status / 100)"].joined(separator: "|")
        sums = Sums()
        sums.requests = 1
        sums.inputTokens = Int64(numbers[20] ?? 0)
        sums.outputTokens = Int64(numbers[21] ?? 0)
        sums.cost = numbers[25].map { Int64(bitPattern: $0 >> 1) ^ -Int64($0 & 1) } ?? 0
        sums.requestBytes = Int64(numbers[27] ?? 0)
        sums.responseBytes = Int64(numbers[28] ?? 0)
        latency = numbers[30]
        sums.latencyCount = latency == nil ? 0 : 1
        sums.latencySum = Int64(latency ?? 0)
    }
}

func hex(_ bytes: [UInt8]) -> String {
    bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16, uppercase: true) }.joined()
}

struct Sums: Equatable {
    var requests: Int64 = 0
    var inputTokens: Int64 = 0
    var outputTokens: Int64 = 0
    var cost: Int64 = 0
    var requestBytes: Int64 = 0
    var responseBytes: Int64 = 0
    var latencyCount: Int64 = 0
    var latencySum: Int64 = 0

    static func += (a: inout Sums, b: Sums) {
        a.requests += b.requests
        a.inputTokens += b.inputTokens
        a.outputTokens += b.outputTokens
        a.cost += b.cost
        a.requestBytes += b.requestBytes
        a.responseBytes += b.responseBytes
        a.latencyCount += b.latencyCount
        a.latencySum += b.latencySum
    }
}

/// A bucket of a grain: 0 minute, 1 hour, 2 day.
struct Bucket: Hashable {
    var grain: Int
    var number: Int64
    static let microseconds: [Int64] = [60_000_000, 3_600_000_000, 86_400_000_000]
}

struct LedgerRow: Equatable {
    var start: Int64
    var next: Int64
    var applied: Int64
    var duplicates: Int64
    var manifests: Int64
    var deadLetters: Int64
    var skipped: Int64
    var lost: Int64
}

/// A store as its own query language shows it.
protocol StoreEvidence {
    func ledger(_ topic: String) throws -> [Int32: LedgerRow]
    func eventIDs() throws -> [String]
    func rollups() throws -> [Bucket: Sums]
    /// Requests by `workspace|provider|model|outcome|status class`, at the day grain.
    func byDimensions() throws -> [String: Int64]
    /// Counts of latencies by bin, at the day grain.
    func latencyBins() throws -> [Int64: [Int: Int64]]
    /// `partition/offset` of each dead letter.
    func deadLetters(_ topic: String) throws -> [String]
    /// Every rollup row with all its dimensions and bins, sorted: what a replay must give again to the bit.
    func wholeRollups() throws -> [String]
}

struct SQLiteEvidence: StoreEvidence {
    let path: String

    private func rows(_ sql: String) throws -> [[String]] {
        var handle: OpaquePointer?
        defer { sqlite3_close_v2(handle) }
        guard sqlite3_open_v2(path, &handle, SQLITE_OPEN_READWRITE, nil) == SQLITE_OK else { return [] }
        sqlite3_busy_timeout(handle, 10_000)
        var statement: OpaquePointer?
        defer { sqlite3_finalize(statement) }
        guard sqlite3_prepare_v2(handle, sql, -1, &statement, nil) == SQLITE_OK else {
            throw ChildError("\(sql): \(String(cString: sqlite3_errmsg(handle)))")
        }
        var all: [[String]] = []
        while true {
            let status = sqlite3_step(statement)
            if status == SQLITE_DONE { return all }
            guard status == SQLITE_ROW else { throw ChildError("\(sql): \(String(cString: sqlite3_errmsg(handle)))") }
            all.append(
                (0..<sqlite3_column_count(statement)).map { column in
                    sqlite3_column_text(statement, column).map { String(cString: $0) } ?? ""
                })
        }
    }

    func ledger(_ topic: String) throws -> [Int32: LedgerRow] {
        // Before the first start there is no table yet.
        guard access(path, F_OK) == 0, try !rows("SELECT 1 FROM sqlite_schema WHERE name = 'offsets'").isEmpty else {
            return [:]
        }
        let found = try rows(
            "SELECT partition, start_offset, next_offset, applied, duplicates, manifests, dead_letters, skipped, lost "
                + "FROM offsets WHERE topic = '\(topic)' AND generation = 1")
        return try found.reduce(into: [:]) { all, row in
            let numbers = try row.map { try #require(Int64($0)) }
            all[Int32(numbers[0])] = LedgerRow(
                start: numbers[1], next: numbers[2], applied: numbers[3], duplicates: numbers[4], manifests: numbers[5],
                deadLetters: numbers[6], skipped: numbers[7], lost: numbers[8])
        }
    }

    func eventIDs() throws -> [String] { try rows("SELECT hex(id) FROM events").map { $0[0] } }

    func rollups() throws -> [Bucket: Sums] {
        let found = try rows(
            """
            SELECT grain, bucket, sum(requests), sum(input_tokens), sum(output_tokens), sum(cost_nano_usd),
                sum(request_bytes), sum(response_bytes), sum(latency_count), sum(latency_sum_us)
            FROM rollups WHERE generation = 1 GROUP BY grain, bucket
            """)
        return try found.reduce(into: [:]) { all, row in
            let numbers = try row.map { try #require(Int64($0)) }
            all[Bucket(grain: Int(numbers[0]), number: numbers[1])] = Sums(
                requests: numbers[2], inputTokens: numbers[3], outputTokens: numbers[4], cost: numbers[5],
                requestBytes: numbers[6], responseBytes: numbers[7], latencyCount: numbers[8], latencySum: numbers[9])
        }
    }

    func byDimensions() throws -> [String: Int64] {
        let found = try rows(
            """
            SELECT s.workspace || '|' || s.provider || '|' || s.model || '|' || s.outcome || '|' || s.status_class,
                sum(r.requests)
            FROM rollups r JOIN series s ON s.id = r.series WHERE r.generation = 1 AND r.grain = 2 GROUP BY 1
            """)
        return found.reduce(into: [:]) { $0[$1[0]] = Int64($1[1]) }
    }

    func latencyBins() throws -> [Int64: [Int: Int64]] {
        var all: [Int64: [Int: Int64]] = [:]
        for row in try rows("SELECT bucket, hex(bins) FROM rollups WHERE generation = 1 AND grain = 2") {
            let bucket = try #require(Int64(row[0]))
            for (bin, count) in try Self.bins(row[1]) { all[bucket, default: [:]][bin, default: 0] += count }
        }
        return all
    }

    /// The first kind's bins of a row: pairs of varints, a gap to the key before and a count; key = kind, bin + 32,768.
    private static func bins(_ text: String) throws -> [(bin: Int, count: Int64)] {
        let digits = Array(text.utf8)
        var bytes = stride(from: 0, to: digits.count, by: 2).compactMap {
            UInt8(String(decoding: digits[$0..<$0 + 2], as: UTF8.self), radix: 16)
        }[...]
        func varint() throws -> Int {
            var number = 0
            var shift = 0
            while true {
                guard let byte = bytes.popFirst() else { throw ChildError("bins end in the middle of a number") }
                number |= Int(byte & 0x7F) << shift
                if byte < 0x80 { return number }
                shift += 7
            }
        }
        var key = 0
        var all: [(Int, Int64)] = []
        while !bytes.isEmpty {
            key += try varint()
            let count = try varint()
            if key < 65_536 { all.append((key - 32_768, Int64(count))) }
        }
        return all
    }

    func deadLetters(_ topic: String) throws -> [String] {
        try rows("SELECT partition || '/' || source_offset FROM dead_letters WHERE topic = '\(topic)'").map { $0[0] }
    }

    func wholeRollups() throws -> [String] {
        let found = try rows(
            """
            SELECT r.grain, r.bucket, s.workspace, s.api_key, s.provider, s.operation, s.model, s.outcome,
                s.status_class, m.pairs, r.requests, r.input_tokens, r.output_tokens, r.cached_tokens,
                r.reasoning_tokens, r.cost_nano_usd, r.request_bytes, r.response_bytes, r.latency_count,
                r.latency_sum_us, r.first_token_count, r.first_token_sum_us, r.overhead_count, r.overhead_sum_us,
                hex(r.bins)
            FROM rollups r JOIN series s ON s.id = r.series JOIN metadata_sets m ON m.id = s.set_id
            WHERE r.generation = 1
            """)
        return found.map { $0.joined(separator: "\u{1F}") }.sorted()
    }

    /// Holds the store's write lock until the body returns.
    func whileLocked(_ body: () throws -> Void) throws {
        var handle: OpaquePointer?
        defer { sqlite3_close_v2(handle) }
        sqlite3_open_v2(path, &handle, SQLITE_OPEN_READWRITE, nil)
        sqlite3_busy_timeout(handle, 10_000)
        guard sqlite3_exec(handle, "BEGIN IMMEDIATE", nil, nil, nil) == SQLITE_OK else {
            throw ChildError("the store could not be locked")
        }
        defer { sqlite3_exec(handle, "ROLLBACK", nil, nil, nil) }
        try body()
    }
}

/// What a scenario did to the log, so that the judge knows what must be missing.
struct Expectation {
    /// Ids that a producer was told are in the log.
    var acknowledged: Set<String> = []
    /// Applied, and gone from the log since.
    var earlier: [LogRecord] = []
    /// Offsets that must be declared lost, by partition.
    var lost: [Int32: Int64] = [:]
    /// The topic that must hold every dead letter.
    var deadLetterTopic: String?
    /// Fills a second store from the same log: it must come out the same.
    var replay: (() throws -> any StoreEvidence)?
    /// What the product itself says: what was told of by manifests beside what it has counted.
    var reconciliation: (() throws -> JSONValue)?
    var seconds = 60
}

/// I1 to I7, after any fault. `topic` is at rest: nobody produces to it.
func expectInvariants(
    _ broker: Broker, _ topic: String, _ store: some StoreEvidence, _ expected: Expectation = Expectation(),
    sourceLocation: SourceLocation = #_sourceLocation
) throws {
    let log = try LogEvidence(broker, topic)
    func check(_ holds: Bool, _ name: String, _ detail: @autoclosure () -> String) {
        if !holds { Issue.record("\(name): \(detail())", sourceLocation: sourceLocation) }
    }

    // I6: the lag goes to zero.
    var ledger: [Int32: LedgerRow] = [:]
    func behind() -> [Int32] { log.high.filter { ledger[$0.key]?.next ?? 0 < $0.value }.map(\.key).sorted() }
    do {
        try waitUntil("caught up", seconds: expected.seconds) {
            ledger = try store.ledger(topic)
            return behind().isEmpty
        }
    } catch { check(false, "I6 liveness", "partitions \(behind()) are behind: \(ledger), log \(log.high)") }

    let now = Int64(time(nil)) * 1_000_000
    let judged = log.adding(expected.earlier).records.map { (record: $0, is: Judgement($0, now: now)) }
    var events: [String: JudgedEvent] = [:]
    var counts: [Int32: (events: Int64, manifests: Int64, bad: Int64)] = [:]
    var bad: Set<String> = []
    for (record, judgement) in judged {
        var count = counts[record.partition] ?? (0, 0, 0)
        switch judgement {
        case .event(let event):
            events[event.id] = event
            count.events += 1
        case .manifest: count.manifests += 1
        case .bad:
            count.bad += 1
            bad.insert("\(record.partition)/\(record.offset)")
        case .tombstone: break
        }
        counts[record.partition] = count
    }
    // I1: each acknowledged event contributes exactly once, to every table, by a count from nothing.
    let missing = expected.acknowledged.filter { events[$0] == nil }
    check(missing.isEmpty, "I1 log", "\(missing.count) acknowledged events are not in the log")
    let stored = try store.eventIDs()
    check(stored.count == Set(stored).count, "I1 events", "\(stored.count - Set(stored).count) ids stand twice")
    check(
        Set(stored) == Set(events.keys), "I1 events",
        "\(Set(events.keys).subtracting(stored).count) missing, \(Set(stored).subtracting(events.keys).count) too many")
    var sums: [Bucket: Sums] = [:]
    var dimensions: [String: Int64] = [:]
    var latencies: [Int64: [UInt64]] = [:]
    for event in events.values {
        for (grain, length) in Bucket.microseconds.enumerated() {
            sums[Bucket(grain: grain, number: event.time / length), default: Sums()] += event.sums
        }
        dimensions[event.dimensions, default: 0] += 1
        if let latency = event.latency { latencies[event.time / Bucket.microseconds[2], default: []].append(latency) }
    }
    let rollups = try store.rollups()
    let wrong = Set(rollups.keys).union(sums.keys).filter { rollups[$0] != sums[$0] }
    check(
        wrong.isEmpty, "I1 rollups",
        "\(wrong.count) buckets differ, such as \(wrong.first.map { "\($0): \(rollups[$0] as Any), counted \(sums[$0] as Any)" } ?? "")"
    )
    check(try store.byDimensions() == dimensions, "I1 dimensions", "requests by dimension differ")

    // I2: every offset is accounted for exactly once, each as what it is.
    var duplicates: Int64 = 0
    for (partition, row) in ledger {
        let count = counts[partition] ?? (0, 0, 0)
        let accounted = row.applied + row.duplicates + row.manifests + row.deadLetters + row.skipped + row.lost
        check(row.next - row.start == accounted, "I2 ledger", "partition \(partition): \(row)")
        check(row.next == log.high[partition] ?? 0, "I2 end", "partition \(partition): \(row), log \(log.high)")
        check(row.applied + row.duplicates == count.events, "I2 events", "partition \(partition): \(row), \(count)")
        check(row.manifests == count.manifests, "I2 manifests", "partition \(partition): \(row), \(count)")
        check(row.deadLetters == count.bad, "I2 dead letters", "partition \(partition): \(row), \(count)")
        check(row.lost == expected.lost[partition] ?? 0, "I2 lost", "partition \(partition): \(row)")
        duplicates += row.duplicates
    }
    let copies = counts.values.reduce(0) { $0 + $1.events } - Int64(events.count)
    check(duplicates == copies, "I2 duplicates", "\(duplicates) in the ledger, \(copies) copies in the log")

    // I3: all grains agree in total.
    let totals = (0..<3).map { grain in rollups.filter { $0.key.grain == grain }.reduce(into: Sums()) { $0 += $1.value }
    }
    check(totals.allSatisfy { $0 == totals[0] }, "I3 grains", "\(totals)")
    check(totals[0].requests == ledger.values.reduce(0) { $0 + $1.applied }, "I3 ledger", "\(totals[0]), \(ledger)")

    // I5: percentiles of each day within 1 % of the exact ones.
    let bins = try store.latencyBins()
    let gamma = 1.01 / 0.99
    for (day, values) in latencies {
        let sorted = values.sorted()
        let counted = (bins[day] ?? [:]).sorted { $0.key < $1.key }
        check(counted.reduce(0) { $0 + $1.value } == Int64(sorted.count), "I5 count", "day \(day)")
        for percent in [50, 90, 99] {
            let rank = max(1, (sorted.count * percent + 99) / 100)
            var below: Int64 = 0
            let bin = counted.first { bin in
                below += bin.value
                return below >= Int64(rank)
            }?.key
            let exact = Double(sorted[rank - 1])
            let estimate = bin.map { $0 < 0 ? 0 : 2 * pow(gamma, Double($0)) / (gamma + 1) } ?? -1
            check(abs(estimate - exact) <= exact * 0.010_001 + 0.5, "I5 p\(percent)", "\(estimate), exact \(exact)")
        }
    }

    // I7: nothing is rejected or dropped without a trace.
    let letters = try store.deadLetters(topic)
    check(
        Set(letters) == bad && letters.count == bad.count, "I7 dead letters", "\(letters.count), rejected \(bad.count)")
    if let other = expected.deadLetterTopic, !bad.isEmpty {
        let dead = try LogEvidence(broker, other).records
        let originals = Dictionary(
            judged.map { ("\(topic)/\($0.record.partition)/\($0.record.offset)", $0.record) }, uniquingKeysWith: { $1 })
        let sources = Set(dead.compactMap { $0.headers["millrace-source"] })
        check(
            sources == Set(bad.map { "\(topic)/\($0)" }), "I7 topic", "\(sources.count) sources, \(bad.count) rejected")
        for record in dead {
            let original = record.headers["millrace-source"].flatMap { originals[$0] }
            check(original?.key == record.key && original?.value == record.value, "I7 bytes", "\(record.headers)")
            let isNamed = record.headers["millrace-error-code"] != nil && record.headers["millrace-error"] != nil
            check(isNamed, "I7 reason", "\(record.headers)")
        }
    }

    // What the product says of itself: nothing that was told of by a manifest is missing.
    if let reconciliation = expected.reconciliation {
        let balance = try reconciliation()
        let totals = balance["totals"]
        check(
            balance["closed"]?.boolean == true && balance["note"] == nil, "reconciliation",
            "\(balance["note"]?.text ?? ""), \(totals?.text ?? "")")
        check(
            totals?["recorded"]?.integer ?? 0 >= Int64(expected.acknowledged.count), "reconciliation recorded",
            "\(expected.acknowledged.count) acknowledged, \(totals?.text ?? "")")
    }

    // I4: the same log gives the same rollups to the bit.
    if let replay = expected.replay {
        let again = try replay()
        try waitUntil("the second store caught up", seconds: expected.seconds) {
            let other = try again.ledger(topic)
            return log.high.allSatisfy { other[$0.key]?.next ?? 0 >= $0.value }
        }
        let (first, second) = (try Set(store.wholeRollups()), try Set(again.wholeRollups()))
        let (lost, gained) = (first.subtracting(second), second.subtracting(first))
        check(
            first == second, "I4 replay",
            "\(lost.count) rows of \(first.count) are not in the second store, such as "
                + "\(lost.sorted().prefix(3)); it has \(gained.count) others: \(gained.sorted().prefix(3))")
    }
}
