// Made-up events, the batches they make, and the count of them by brute force: the judge of every store.

import EventCodec
import Events
import Normalizer
import RecordLog
import RollupStore
import Rollups

/// SplitMix64: the same numbers for the same seed, everywhere.
struct Random: RandomNumberGenerator {
    private var state: UInt64
    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}

/// An event with what normalization would make of its metadata.
struct Sample: Equatable {
    var event: RequestEvent
    var set: String
    var extra: String

    /// Events over about three days, in few enough series that rows meet.
    static func random(_ random: inout Random) -> Sample {
        let time = EventTime(microseconds: 1_760_000_000_000_000 + Int64(random.next() % 250_000_000) * 1_000)
        var event = RequestEvent(id: EventID(time: time, random: (random.next(), random.next())), time: time)
        event.proxy = "proxy-\(random.next() % 2)"
        event.workspace = random.next() % 4 == 0 ? "other" : "default"
        event.apiKey = "key-\(random.next() % 2)"
        event.provider = "openai"
        event.operation = "chat"
        event.requestModel = "gpt-4o"
        event.responseModel = random.next() % 2 == 0 ? "" : "gpt-4o-2024-08-06"
        event.status = [200, 200, 200, 429, 500][Int(random.next() % 5)]
        event.outcome = Outcome(status: event.status)
        event.errorType = event.outcome == .success ? "" : "rate_limit"
        event.finishReason = "stop"
        event.streamed = random.next() % 2 == 0
        event.traceID = "0af7651916cd43dd8448eb211c80319c"
        event.inputTokens = random.next() % 5_000
        event.outputTokens = random.next() % 900
        event.cachedTokens = random.next() % 100
        event.reasoningTokens = random.next() % 50
        event.usageSource = .response
        event.cost = random.next() % 3 == 0 ? nil : NanoUSD(Int64(random.next() % 9_000_000))
        event.priceVersion = "2026-01"
        event.requestBytes = random.next() % 4_000
        event.responseBytes = random.next() % 20_000
        event.latencyMicroseconds = random.next() % 3_000_000
        event.firstTokenMicroseconds = event.streamed ? random.next() % 900_000 : nil
        event.upstreamMicroseconds = random.next() % 3_000_000
        event.overheadMicroseconds = random.next() % 500
        event.metadataStatus = .ok
        event.metadataSources = [.metadataHeader, .bodyUser]
        let set =
            "{\"env\":\"\(random.next() % 2 == 0 ? "production" : "größer ✓")\",\"team\":\"t\(random.next() % 3)\"}"
        event.metadataRaw = Array(set.utf8)
        event.metadataConflicts = UInt32(random.next() % 2)
        return Sample(event: event, set: set, extra: "{\"request_id\":\"\(event.id)\"}")
    }

    var key: SeriesKey {
        SeriesKey(
            workspace: event.workspace, apiKey: event.apiKey, provider: event.provider, operation: event.operation,
            model: event.model, outcome: event.outcome, statusClass: UInt8(event.status / 100), set: Array(set.utf8))
    }

    /// What comes back of the event: what its series holds is not repeated.
    var stored: RequestEvent {
        var event = event
        event.workspace = ""
        event.apiKey = ""
        event.provider = ""
        event.operation = ""
        event.outcome = .success
        return event
    }
}

/// Puts a batch together the way ingest does, from samples at consecutive offsets.
struct BatchMaker {
    private var folder = BatchFolder()

    /// One range for each part; its samples stand at `first ..< first + count`, then `others` follow.
    struct Part {
        var partition: TopicPartition
        var first: Int64
        var epoch: Int64
        var samples: [Sample]
        var skipped: Int64 = 0
        var lost: Int64 = 0
        var manifests: [Manifest] = []
        var deadLetters: [DeadLetter] = []
    }

    mutating func batch(_ parts: [Part]) throws -> SealedBatch {
        var batch = SealedBatch(
            ranges: [], bytes: [], extras: [], pairs: [], series: [], events: [], delta: RollupDelta(), manifests: [],
            deadLetters: [])
        for (number, part) in parts.enumerated() {
            for (place, sample) in part.samples.enumerated() {
                let base = batch.bytes.count
                var value: [UInt8] = []
                EventEncoder.encode(sample.event, into: &value)
                batch.bytes += value
                let fields = try value.withUnsafeBytes { try EventDecoder.decode($0, base: base) }
                let series = batch.bytes.withUnsafeBytes { folder.add(fields, bytes: $0, set: Array(sample.set.utf8)) }
                let minute = sample.event.time.startOfMinute
                let row =
                    batch.minutes.firstIndex {
                        $0.proxy == sample.event.proxy && $0.minute == minute && $0.partition == part.partition
                    } ?? batch.minutes.count
                let offset = Offset(part.first + Int64(place))
                if row == batch.minutes.count {
                    batch.minutes.append(
                        ProxyMinute(
                            proxy: sample.event.proxy, minute: minute, partition: part.partition, first: offset,
                            next: offset))
                }
                batch.minutes[row].applied += 1
                batch.minutes[row].next = Offset(offset.value + 1)
                let (extra, pairs) = batch.append(extra: Array(sample.extra.utf8))
                batch.events.append(
                    NormalizedEvent(
                        fields: fields, series: series, range: Int32(number),
                        offset: Offset(part.first + Int64(place)), extra: extra, pairs: pairs,
                        metadataStatus: fields.metadataStatus,
                        minute: Int32(row)))
            }
            let others = Int64(part.manifests.count + part.deadLetters.count) + part.skipped + part.lost
            var range = PartitionRange(
                partition: part.partition, first: Offset(part.first), epoch: part.epoch,
                next: Offset(part.first + Int64(part.samples.count) + others))
            range.events = Int64(part.samples.count)
            range.manifests = Int64(part.manifests.count)
            range.deadLetters = Int64(part.deadLetters.count)
            range.skipped = part.skipped
            range.lost = part.lost
            batch.ranges.append(range)
            batch.manifests += part.manifests
            batch.deadLetters += part.deadLetters
        }
        let (series, delta) = folder.finish()
        batch.series = series
        batch.delta = delta
        return batch
    }
}

func samples(_ count: Int, seed: UInt64) -> [Sample] {
    var random = Random(seed: seed)
    return (0..<count).map { _ in Sample.random(&random) }
}

/// What a store must hold: each distinct event once, added up one by one, by the definition and not by the fold.
struct Count: Equatable {
    struct Place: Hashable {
        var grain: Grain
        var bucket: Int32
        var key: SeriesKey
    }
    struct Sums: Equatable {
        var measures = Measures()
        /// By kind * 65,536 + bin.
        var bins: [Int: Int64] = [:]
    }
    var rows: [Place: Sums] = [:]
    /// nil: all dimensions; and keys that tests have as entities.
    private static let entities: [String?] = [
        nil, "Region", "env", "environment", "region", "secret", "tags", "team", "trace", "user", "user_id",
    ]

    init() {}

    /// Rollups by all dimensions only.
    var plain: Count {
        var plain = self
        plain.rows = rows.filter { !$0.key.grain.isOfEntities }
        return plain
    }

    init(_ samples: some Sequence<Sample>) {
        var seen: Set<EventID> = []
        for sample in samples where seen.insert(sample.event.id).inserted { add(sample) }
    }

    private mutating func add(_ sample: Sample) {
        let event = sample.event
        for grain in Grain.plain {
            let place = Place(grain: grain, bucket: grain.bucket(of: event.time), key: sample.key)
            var sums = rows[place] ?? Sums()
            sums.measures.requests += 1
            sums.measures.inputTokens += Int64(event.inputTokens)
            sums.measures.outputTokens += Int64(event.outputTokens)
            sums.measures.cachedTokens += Int64(event.cachedTokens)
            sums.measures.reasoningTokens += Int64(event.reasoningTokens)
            sums.measures.costNanoUSD += event.cost?.amount ?? 0
            sums.measures.requestBytes += Int64(event.requestBytes)
            sums.measures.responseBytes += Int64(event.responseBytes)
            func time(
                _ kind: SketchKind, _ value: UInt64?, _ count: WritableKeyPath<Measures, Int64>,
                _ sum: WritableKeyPath<Measures, Int64>
            ) {
                guard let value else { return }
                sums.measures[keyPath: count] += 1
                sums.measures[keyPath: sum] += Int64(value)
                sums.bins[Int(kind.rawValue) << 16 + Int(LatencySketch.bin(of: value)), default: 0] += 1
            }
            time(.latency, event.latencyMicroseconds, \.latencyCount, \.latencySum)
            time(.firstToken, event.firstTokenMicroseconds, \.firstTokenCount, \.firstTokenSum)
            time(.overhead, event.overheadMicroseconds, \.overheadCount, \.overheadSum)
            rows[place] = sums
        }
    }

    /// Everything that the store's rollups hold.
    init(reading reader: any RollupReader) throws {
        try reader.read { snapshot in try read(snapshot) }
    }

    init(_ snapshot: any RollupSnapshot) throws { try read(snapshot) }

    private mutating func read(_ snapshot: any RollupSnapshot) throws {
        var keys: [Int64: SeriesKey] = [:]
        for workspace in ["default", "other"] {
            for entity in Self.entities {
                for series in try snapshot.series(workspace: workspace, entity: entity)
                where EntitySet.key(of: series.key.set) == entity {
                    keys[series.id] = series.key
                }
            }
        }
        var found: [Place: Sums] = [:]
        var strangers = 0
        struct RowTwice: Error { var series: Int64 }
        var twice: RowTwice?
        for grain in Grain.allCases {
            var numbers: Set<[Int64]> = []
            try snapshot.scanRollups(grain: grain, from: .min, to: .max, series: .all, withBins: true) { row in
                guard let key = keys[row.series] else {
                    strangers += 1
                    return
                }
                // A series that two writers met at once has two numbers, and both count: of each there is one row.
                if !numbers.insert([Int64(row.bucket), row.series]).inserted { twice = RowTwice(series: row.series) }
                let place = Place(grain: grain, bucket: row.bucket, key: key)
                var sums = found[place] ?? Sums()
                sums.measures += row.measures
                for bin in row.bins {
                    sums.bins[Int(bin.kind.rawValue) << 16 + Int(bin.index), default: 0] += bin.count
                }
                found[place] = sums
            }
            if let twice { throw twice }
        }
        struct RowOfNoSeries: Error { var count: Int }
        if strangers > 0 { throw RowOfNoSeries(count: strangers) }
        rows = found
    }
}

/// The identity of the ledger: each offset accounted for exactly once.
extension PartitionLedger {
    var isClosed: Bool {
        next.value - start.value == applied + duplicates + manifests + deadLetters + skipped + lost
    }
}

func requests(_ snapshot: any RollupSnapshot, _ grain: Grain) throws -> Int64 {
    var total: Int64 = 0
    try snapshot.scanRollups(grain: grain, from: .min, to: .max, series: .all, withBins: false) {
        total += $0.measures.requests
    }
    return total
}

func events(_ snapshot: any RollupSnapshot) throws -> [StoredEvent] {
    var all: [StoredEvent] = []
    try snapshot.scanEvents(
        from: EventTime(microseconds: .min), to: EventTime(microseconds: .max), before: nil, series: .all
    ) {
        all.append($0)
        return true
    }
    return all
}
