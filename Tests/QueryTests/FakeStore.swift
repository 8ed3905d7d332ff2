// A store in memory: events in, the reading side of the store's port out. Rollups are folded in the plainest way.

import Events
import JSONText
import Normalizer
import Queries
import RecordLog
import RollupStore
import Rollups

/// One event with its canonical pairs, as the oracle sees it.
struct SampleEvent: Sendable {
    var event: RequestEvent
    /// Dimension keys.
    var pairs: [String: MetadataValue] = [:]
    /// Keys of other classes.
    var extra: [String: MetadataValue] = [:]
    /// Of all keys, those that are entities; as the store's own timeline has it.
    var entities = ["_user", "user"]

    /// Events of the workspace `default`, one every so many seconds.
    static func row(
        of count: Int, from first: EventTime, every seconds: Int64, _ change: (inout RequestEvent) -> Void = { _ in }
    ) -> [SampleEvent] {
        (0..<count).map { number in
            let time = EventTime(microseconds: first.microseconds + Int64(number) * seconds * 1_000_000)
            var event = RequestEvent(id: EventID(time: time, random: (UInt64(number), 1)), time: time)
            event.workspace = "default"
            change(&event)
            return SampleEvent(event: event)
        }
    }

    static func canonical(_ pairs: [String: MetadataValue]) -> [UInt8] {
        let sorted = pairs.sorted { $0.key.utf8.lexicographicallyPrecedes($1.key.utf8) }
        return JSONValue.object(
            sorted.map { JSONMember(key: $0.key, value: $0.value == .filed ? .null : $0.value.json) }
        ).bytes
    }

    var seriesKey: SeriesKey {
        SeriesKey(
            workspace: event.workspace, apiKey: event.apiKey, provider: event.provider, operation: event.operation,
            model: event.model, outcome: event.outcome, statusClass: UInt8(event.status / 100),
            set: Self.canonical(pairs))
    }

    /// What counts it in the rollups of its entities.
    var entityKeys: [SeriesKey] {
        entities.map { key in
            SeriesKey(
                workspace: event.workspace, apiKey: "", provider: "", operation: "", model: "", outcome: event.outcome,
                statusClass: UInt8(event.status / 100),
                set: JSONValue.array([.string(key)] + (extra[key].map { [$0.json] } ?? [])).bytes)
        }
    }
}

struct FakeStore: RollupReader, RollupSnapshot {
    struct Retention: Sendable {
        var events: EventTime?
        var grains: [Grain: EventTime] = [:]
    }
    private var stored: [StoredEvent] = []
    private var rows: [Grain: [StoredRollup]] = [:]
    private var numbered: [StoredSeries] = []
    var retention = Retention()
    var failure: RollupStoreError?
    /// What comes of looking at rows.
    var scanFailure: RollupStoreError?

    init(_ events: [SampleEvent], retention: Retention = Retention()) {
        self.retention = retention
        var ids: [SeriesKey: Int64] = [:]
        var cells: [[Int64]: (measures: Measures, bins: [Int32: Int64])] = [:]
        func number(_ key: SeriesKey) -> Int64 {
            if let known = ids[key] { return known }
            let number = Int64(ids.count * 3 + 1)
            ids[key] = number
            numbered.append(StoredSeries(id: number, key: key))
            return number
        }
        func count(_ event: RequestEvent, _ series: Int64, _ grains: [Grain]) {
            for grain in grains {
                let bucket = grain.bucket(of: event.time)
                if let kept = retention.grains[grain], grain.start(of: bucket) < kept { continue }
                var cell = cells[[Int64(grain.rawValue), Int64(bucket), series]] ?? (Measures(), [:])
                Self.add(event, &cell.measures, &cell.bins)
                cells[[Int64(grain.rawValue), Int64(bucket), series]] = cell
            }
        }
        for sample in events {
            let series = number(sample.seriesKey)
            stored.append(
                StoredEvent(
                    series: series, event: Self.asStored(sample.event), extra: SampleEvent.canonical(sample.extra)))
            count(sample.event, series, Grain.plain)
            for key in sample.entityKeys { count(sample.event, number(key), Grain.ofEntities) }
        }
        for (key, cell) in cells {
            let bins = cell.bins.compactMap { key, count in
                SketchKind(rawValue: UInt8(key >> 16)).map {
                    SketchBin(kind: $0, index: Int16(key & 0xFFFF), count: count)
                }
            }
            rows[Grain(rawValue: UInt8(key[0])) ?? .day, default: []]
                .append(StoredRollup(bucket: Int32(key[1]), series: key[2], measures: cell.measures, bins: bins))
        }
        if let kept = retention.events { stored.removeAll { $0.event.time < kept } }
        stored.sort { ($0.event.time, $0.event.id) > ($1.event.time, $1.event.id) }
    }

    /// What the series holds is not repeated in the event.
    private static func asStored(_ event: RequestEvent) -> RequestEvent {
        var event = event
        (event.workspace, event.apiKey, event.provider, event.operation) = ("", "", "", "")
        event.outcome = .success
        return event
    }

    private static func add(_ event: RequestEvent, _ measures: inout Measures, _ bins: inout [Int32: Int64]) {
        measures.requests += 1
        measures.inputTokens += Int64(event.inputTokens)
        measures.outputTokens += Int64(event.outputTokens)
        measures.cachedTokens += Int64(event.cachedTokens)
        measures.reasoningTokens += Int64(event.reasoningTokens)
        measures.costNanoUSD += event.cost?.amount ?? 0
        measures.requestBytes += Int64(event.requestBytes)
        measures.responseBytes += Int64(event.responseBytes)
        func timing(_ kind: SketchKind, _ value: UInt64?, _ count: inout Int64, _ sum: inout Int64) {
            guard let value else { return }
            count += 1
            sum += Int64(value)
            bins[Int32(kind.rawValue) << 16 | Int32(LatencySketch.bin(of: value)), default: 0] += 1
        }
        timing(.latency, event.latencyMicroseconds, &measures.latencyCount, &measures.latencySum)
        timing(.firstToken, event.firstTokenMicroseconds, &measures.firstTokenCount, &measures.firstTokenSum)
        timing(.overhead, event.overheadMicroseconds, &measures.overheadCount, &measures.overheadSum)
    }

    func read<Answer>(_ body: (any RollupSnapshot) throws -> Answer) throws -> Answer {
        if let failure { throw failure }
        return try body(self)
    }

    var watermark: EventTime? { stored.map(\.event.time).max() }

    func series(workspace: String, entity: String?) -> [StoredSeries] {
        numbered.filter { $0.key.workspace == workspace && EntitySet.key(of: $0.key.set) == entity }
    }

    func scanRollups(
        grain: Grain, from: Int32, to: Int32, series: SeriesSelection, withBins: Bool, _ body: (StoredRollup) -> Void
    ) throws {
        if let scanFailure { throw scanFailure }
        for var row in rows[grain] ?? [] where row.bucket >= from && row.bucket < to && series.holds(row.series) {
            if !withBins { row.bins = [] }
            body(row)
        }
    }

    func scanEvents(
        from: EventTime, to: EventTime, before: (time: EventTime, id: EventID)?, series: SeriesSelection,
        having: [UInt32]?, _ body: (StoredEvent) throws -> Bool
    ) throws {
        if let scanFailure { throw scanFailure }
        for event in stored where event.event.time >= from && event.event.time < to && series.holds(event.series) {
            // As little as an index may leave.
            if let having, !Self.has(having, event) { continue }
            if let before, (event.event.time, event.event.id) >= (before.time, before.id) { continue }
            if try !body(event) { return }
        }
    }

    func countEvents(from: EventTime, to: EventTime, having: [UInt32], atMost limit: Int) -> Int {
        stored.count { $0.event.time >= from && $0.event.time < to && Self.has(having, $0) }
    }

    private static func has(_ having: [UInt32], _ event: StoredEvent) -> Bool {
        EventPairs.numbers(of: event.extra).contains { having.contains($0) || $0 == EventPairs.unsaid }
    }

    func event(id: EventID) -> StoredEvent? { stored.first { $0.event.id == id } }

    func retained(_ grain: Grain?) -> EventTime? {
        guard let grain else { return retention.events }
        return retention.grains[grain]
    }

    /// What the ledger says; nil: as many as there are events.
    var nextOffset: Int64?

    func ledger() -> [PartitionLedger] {
        let next = nextOffset ?? Int64(stored.count)
        return [
            PartitionLedger(
                partition: TopicPartition(topic: "t", partition: 0), start: Offset(0), next: Offset(next),
                applied: next, duplicates: 0, manifests: 0, deadLetters: 0, skipped: 0, lost: 0)
        ]
    }

    /// Under one set of rules for all time, with a class for each key that the samples have as `extra`.
    var timeline = RulesTimeline(
        entries: [
            RulesTimeline.Entry(
                from: EventTime(microseconds: 0),
                rules: RulesText(
                    fingerprint: String(repeating: "f", count: 64),
                    text: #"{"version":1,"classes":{"_user":"entity","user":"entity"}}"#))
        ], version: 1)

    func rulesTimeline() -> RulesTimeline { timeline }

    var rulesVersion: Int64 { timeline.version }

    func manifests(from: EventTime, to: EventTime) -> [Manifest] { [] }

    func proxyMinutes(from: EventTime, to: EventTime) -> [ProxyMinute] { [] }
}

extension SeriesSelection {
    fileprivate func holds(_ id: Int64) -> Bool {
        switch self {
        case .all: true
        case .only(let ids): ids.contains(id)
        }
    }
}

/// SplitMix64: the same numbers for the same seed, everywhere.
struct SeededGenerator: RandomNumberGenerator {
    var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}
