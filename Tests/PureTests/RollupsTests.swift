import EventCodec
import Events
import Rollups
import Testing

@Suite struct LatencySketchTests {
    @Test func everyValueIsWithinOnePercentOfItsBinsEstimate() {
        var random = SeededRandom()
        var values: [UInt64] = Array(1...20_000) + [.max, .max - 1]
        for shift in UInt64(0)..<64 { values += [1 << shift, (1 << shift) - 1, (1 << shift) + 1] }
        for _ in 0..<20_000 { values.append(random.next() >> UInt64.random(in: 0...63, using: &random)) }
        for value in values where value > 0 {
            let estimate = LatencySketch.value(of: LatencySketch.bin(of: value))
            #expect(abs(estimate - Double(value)) <= 0.01 * Double(value), "\(value)")
        }
        #expect(LatencySketch.bin(of: 0) == LatencySketch.zeroBin)
        #expect(LatencySketch.value(of: LatencySketch.zeroBin) == 0)
    }

    @Test func binsRiseWithValuesAndAreTheLogarithmsCeiling() {
        // ⌈ln v / ln γ⌉ by 50-digit arithmetic, γ = 1.01 / 0.99.
        let known: [(UInt64, Int16)] = [
            (1, 0), (2, 35), (3, 55), (10, 116), (100, 231), (999, 346), (1_000, 346), (12_345, 472),
            (1_000_000, 691), (60_000_000, 896), (3_600_000_000, 1_101), (1_000_000_000_000_000_000, 2_073),
        ]
        for (value, bin) in known { #expect(LatencySketch.bin(of: value) == bin, "\(value)") }
        var last: Int16 = -1
        for value in UInt64(0)..<100_000 {
            let bin = LatencySketch.bin(of: value)
            #expect(bin >= last)
            last = bin
        }
    }

    @Test func percentilesAreOfTheNearestRank() {
        var random = SeededRandom()
        for _ in 0..<200 {
            let values = (0..<Int.random(in: 1...300, using: &random)).map { _ in random.next() >> UInt64(40) }.sorted()
            var sketch = LatencySketch()
            for value in values.shuffled(using: &random) { sketch.add(bin: LatencySketch.bin(of: value), count: 1) }
            for percent in [0, 1, 50, 90, 95, 99, 100] {
                let exact = Double(values[max(1, (values.count * percent + 99) / 100) - 1])
                #expect(abs((sketch.percentile(percent) ?? -1) - exact) <= 0.01 * exact)
            }
        }
        #expect(LatencySketch().percentile(50) == nil)
    }

    @Test func mergingIsAssociativeAndCommutative() {
        var random = SeededRandom()
        func sketch() -> LatencySketch {
            var sketch = LatencySketch()
            for _ in 0..<Int.random(in: 0...40, using: &random) {
                sketch.add(bin: Int16.random(in: -1...2_219, using: &random), count: .random(in: 1...9, using: &random))
            }
            return sketch
        }
        func merged(_ a: LatencySketch, _ b: LatencySketch) -> LatencySketch {
            var sum = a
            sum.merge(b)
            return sum
        }
        for _ in 0..<100 {
            let (a, b, c) = (sketch(), sketch(), sketch())
            let left = merged(merged(a, b), c)
            let right = merged(c, merged(b, a))
            #expect(left.bins.map(\.bin) == right.bins.map(\.bin))
            #expect(left.bins.map(\.count) == right.bins.map(\.count))
            #expect(left.count == a.count + b.count + c.count)
        }
    }
}

@Suite struct BatchFolderTests {
    private struct Input {
        var event: RequestEvent
        var set: [UInt8]
    }

    /// Few distinct dimensions over three days, so that rows meet.
    private func inputs(_ count: Int, _ random: inout SeededRandom) -> [Input] {
        (0..<count).map { _ in
            var event = random.event()
            event.time = EventTime(
                microseconds: random.chance(50)
                    ? Int64.random(in: -90_000_000...90_000_000, using: &random)
                    : Int64.random(in: 0...260_000_000_000, using: &random))
            event.workspace = random.pick(["w", "w", "workspace-two"])
            event.apiKey = random.pick(["", "k1"])
            event.provider = random.pick(["openai", "anthropic"])
            event.operation = "chat"
            event.requestModel = random.pick(["gpt-4o", "é"])
            event.responseModel = random.pick(["", "gpt-4o-2024-08-06"])
            event.outcome = random.pick([.success, .timeout])
            event.status = random.pick([0, 200, 201])
            return Input(event: event, set: Array(random.pick(["{}", #"{"foo":"abc"}"#, #"{"foo":"abd"}"#]).utf8))
        }
    }

    private func fold(_ inputs: [Input], with folder: inout BatchFolder) throws -> (
        series: [SeriesKey], delta: RollupDelta, indices: [Int32], fields: [EventFields]
    ) {
        var indices: [Int32] = []
        var all: [EventFields] = []
        for input in inputs {
            var bytes: [UInt8] = [1, 2, 3]
            EventEncoder.encode(input.event, into: &bytes)
            try bytes.withUnsafeBytes { bytes in
                let fields = try EventDecoder.decode(UnsafeRawBufferPointer(rebasing: bytes[3...]), base: 3)
                indices.append(folder.add(fields, bytes: bytes, set: input.set))
                all.append(fields)
            }
        }
        let (series, delta) = folder.finish()
        return (series, delta, indices, all)
    }

    private struct Key: Hashable {
        var grain: Grain
        var bucket: Int32
        var series: SeriesKey
    }

    private struct Sum: Equatable {
        var measures = Measures()
        var bins: [Int: Int64] = [:]
    }

    /// The delta with series by what they are, not by number.
    private func named(_ delta: RollupDelta, _ series: [SeriesKey]) -> [Key: Sum] {
        var sums: [Key: Sum] = [:]
        for row in delta.rows {
            let key = Key(grain: row.grain, bucket: row.bucket, series: series[Int(row.series)])
            #expect(sums[key] == nil)
            let bins = row.bins.map { (Int($0.kind.rawValue) << 20 + Int($0.index), $0.count) }
            sums[key] = Sum(measures: row.measures, bins: Dictionary(bins, uniquingKeysWith: +))
        }
        return sums
    }

    private func differences(_ a: [Key: Sum], _ b: [Key: Sum]) -> Int {
        Set(a.keys).union(b.keys).count { a[$0] != b[$0] }
    }

    /// The obvious way: every event into each of its three rows.
    private func expected(_ inputs: [Input], _ fields: [EventFields]) -> [Key: Sum] {
        var sums: [Key: Sum] = [:]
        for (input, fields) in zip(inputs, fields) {
            let event = input.event
            let series = SeriesKey(
                workspace: event.workspace, apiKey: event.apiKey, provider: event.provider, operation: event.operation,
                model: event.model, outcome: event.outcome, statusClass: UInt8(event.status / 100), set: input.set)
            let (measures, bins) = RollupDelta.contribution(of: fields)
            for grain in Grain.plain {
                let key = Key(grain: grain, bucket: grain.bucket(of: event.time), series: series)
                sums[key, default: Sum()].measures += measures
                for bin in bins { sums[key]?.bins[Int(bin.kind.rawValue) << 20 + Int(bin.index), default: 0] += 1 }
            }
        }
        return sums
    }

    @Test func theFoldIsTheSumOfItsEventsInAnyOrder() throws {
        var random = SeededRandom()
        var folder = BatchFolder()
        for _ in 0..<10 {
            let batch = inputs(Int.random(in: 0...400, using: &random), &random)
            let folded = try fold(batch, with: &folder)
            let sums = named(folded.delta, folded.series)
            #expect(differences(sums, expected(batch, folded.fields)) == 0)
            #expect(Set(folded.series).count == folded.series.count)
            for (input, index) in zip(batch, folded.indices) {
                #expect(folded.series[Int(index)].set == input.set)
                #expect(folded.series[Int(index)].model == input.event.model)
            }
            let shuffled = try fold(batch.shuffled(using: &random), with: &folder)
            #expect(differences(named(shuffled.delta, shuffled.series), sums) == 0)
        }
    }

    @Test func rowsAndBinsAreSortedAndGrainsAgreeInTotal() throws {
        var random = SeededRandom()
        var folder = BatchFolder()
        let folded = try fold(inputs(500, &random), with: &folder)
        let order = folded.delta.rows.map { ($0.grain, $0.bucket, $0.series) }
        #expect(zip(order, order.dropFirst()).allSatisfy { $0 < $1 })
        var totals: [Measures] = []
        var bins: [Int64] = []
        for grain in Grain.plain {
            var total = Measures()
            var count: Int64 = 0
            for row in folded.delta.rows where row.grain == grain {
                total += row.measures
                count += row.bins.reduce(0) { $0 + $1.count }
                let codes = row.bins.map { ($0.kind.rawValue, $0.index) }
                #expect(zip(codes, codes.dropFirst()).allSatisfy { $0 < $1 })
                #expect(row.bins.allSatisfy { $0.count > 0 })
            }
            totals.append(total)
            bins.append(count)
        }
        #expect(totals[0].requests == 500)
        #expect(totals[0] == totals[1] && totals[1] == totals[2])
        #expect(bins[0] == totals[0].latencyCount + totals[0].firstTokenCount + totals[0].overheadCount)
        #expect(bins[0] == bins[1] && bins[1] == bins[2])
    }

    @Test func takingEventsOutLeavesTheFoldOfTheRest() throws {
        var random = SeededRandom()
        var folder = BatchFolder()
        for _ in 0..<10 {
            let batch = inputs(200, &random)
            let kept = random.pick([0, 1, 100, 199])
            var folded = try fold(batch, with: &folder)
            for index in kept..<200 {
                folded.delta.subtract(fields: folded.fields[index], series: folded.indices[index])
            }
            folded.delta.dropEmptyRows()
            let rest = try fold(Array(batch[..<kept]), with: &folder)
            #expect(differences(named(folded.delta, folded.series), named(rest.delta, rest.series)) == 0)
        }
    }
}
