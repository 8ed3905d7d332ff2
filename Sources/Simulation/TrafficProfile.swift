// The synthetic traffic of benchmarks, tests and the demo: profile, seed -> `RequestEvent`s, the same ones each time.

package import Events

/// What the traffic looks like. The figures are those of the benchmarks and change only with them.
package enum TrafficProfile: String, CaseIterable, Sendable {
    /// 400 services by Zipf 1.1; each has one team of 20, one feature, one API key of 7, one to three models, two
    /// current versions of 10; env 90/8/2 %; region of 3; a user of 1 M by Zipf 1.1; a unique request id; outcomes
    /// 96 % success, 2 % client error, 1.5 % provider error, 0.5 % timeout.
    case services
    /// 3 envs × 20 teams × 50 features × 5 models × 7 keys, independent and even: hard for any rollup.
    case uniform
    /// A small shop, for looking at: five teams, three envs, 40 users, `foo` and `bar`.
    case demo
}

/// A model with its made-up, round price.
struct TrafficModel: Sendable {
    var provider: String
    var requested: String
    var answered: String
    var inputNanoUSD: Int64
    var outputNanoUSD: Int64

    static let all: [TrafficModel] = [
        .init(
            provider: "openai", requested: "gpt-4o-mini", answered: "gpt-4o-mini-2024-07-18", inputNanoUSD: 150,
            outputNanoUSD: 600),
        .init(
            provider: "openai", requested: "gpt-4o", answered: "gpt-4o-2024-08-06", inputNanoUSD: 2_500,
            outputNanoUSD: 10_000),
        .init(
            provider: "anthropic", requested: "claude-3-5-sonnet-latest", answered: "claude-3-5-sonnet-20241022",
            inputNanoUSD: 3_000, outputNanoUSD: 15_000),
        .init(
            provider: "anthropic", requested: "claude-3-5-haiku-latest", answered: "claude-3-5-haiku-20241022",
            inputNanoUSD: 800, outputNanoUSD: 4_000),
        .init(
            provider: "mistral-ai", requested: "mistral-small-latest", answered: "mistral-small-2409",
            inputNanoUSD: 200, outputNanoUSD: 600),
    ]
}

/// Makes events one after the other. Two generators of one profile and seed, asked with the same times, agree on
/// every bit, ids included.
package struct TrafficGenerator: Sendable {
    private let profile: TrafficProfile
    private let proxy: String
    private var random: SeededGenerator
    private let services: [Service]
    private let serviceRanks = ZipfSampler(count: 400, exponent: 1.1)
    private let userRanks = ZipfSampler(count: 1_000_000, exponent: 1.1)
    private let tail = TailSampler(spread: 0.35)
    private let keys: [String]

    private struct Service: Sendable {
        /// `{"service":…,"team":…,"feature":…,"env":"`
        var metadata: [UInt8]
        var apiKey: Int
        var models: [Int]
        var streams: Bool
        var inputMedian: Double
        var outputMedian: Double
        var latencyMedian: Double
    }

    package init(profile: TrafficProfile, seed: UInt64, proxy: String? = nil) {
        self.profile = profile
        self.proxy = proxy ?? "loadgen"
        random = SeededGenerator(seed: seed)
        keys = (1...7).map { "key-\($0)" }
        // The shape of the 400 services is part of the profile, not of the seed.
        var shape = SeededGenerator(seed: 0x6D69_6C6C_7261_6365)
        services = (1...400).map { index in
            let text =
                "{\"service\":\"svc-\(index)\",\"team\":\"team-\(shape.below(20) + 1)\",\"feature\":\"feature-\(index)\""
            let first = shape.below(TrafficModel.all.count)
            let count = shape.below(3) + 1
            return Service(
                metadata: Array((text + ",\"env\":\"").utf8), apiKey: shape.below(7),
                models: (0..<count).map { (first + $0) % TrafficModel.all.count }, streams: shape.below(2) == 0,
                inputMedian: Double(100 + shape.below(2_000)), outputMedian: Double(30 + shape.below(500)),
                latencyMedian: Double(300_000 + shape.below(2_500_000)))
        }
    }

    /// The next event, completed at `time`.
    package mutating func next(at time: EventTime) -> RequestEvent {
        var event = RequestEvent(id: EventID(time: time, random: (random.next(), random.next())), time: time)
        event.proxy = proxy
        event.workspace = "default"
        event.operation = "chat"
        event.traceID = Self.hexadecimal(random.next(), random.next())
        event.metadataStatus = .ok
        event.metadataSources = .metadataHeader
        event.metadataRaw.reserveCapacity(256)
        switch profile {
        case .services: describeService(&event)
        case .uniform: describeUniform(&event)
        case .demo: describeDemo(&event)
        }
        return event
    }

    // MARK: Profiles

    private static let envs = ["production", "staging", "development"].map { Array($0.utf8) }
    private static let regions = ["us-east-1", "eu-west-1", "ap-south-1"].map { Array($0.utf8) }

    private mutating func describeService(_ event: inout RequestEvent) {
        let rank = serviceRanks.sample(&random)
        let service = services[rank - 1]
        let dice = random.next()
        let env = (dice & 0xFF) * 100 >> 8
        let region = Int((dice >> 8 & 0xFFFF) * 3 >> 16)
        let model = TrafficModel.all[service.models[Int((dice >> 24 & 0xFFFF) * UInt64(service.models.count) >> 16)]]
        // Two current versions take 45 % each, the eight others what is left: instances nobody updated.
        let age = Int(dice >> 40 & 0xFF)
        let version = (rank + (age < 115 ? 0 : age < 230 ? 1 : age % 8 + 2)) % 10
        event.metadataRaw += service.metadata
        event.metadataRaw += Self.envs[env < 90 ? 0 : env < 98 ? 1 : 2]
        event.metadataRaw.append(contentsOf: "\",\"region\":\"".utf8)
        event.metadataRaw += Self.regions[region]
        event.metadataRaw.append(contentsOf: "\",\"version\":\"1.".utf8)
        event.metadataRaw.append(UInt8(ascii: "0") + UInt8(version))
        event.metadataRaw.append(contentsOf: ".0\",\"_user\":\"user-".utf8)
        Self.append(decimal: userRanks.sample(&random), to: &event.metadataRaw)
        event.metadataRaw.append(contentsOf: "\",\"request_id\":\"".utf8)
        Self.append(hexadecimal: random.next(), to: &event.metadataRaw)
        event.metadataRaw.append(contentsOf: "\"}".utf8)
        event.apiKey = keys[service.apiKey]
        describeExchange(
            &event, model: model, streams: service.streams, inputMedian: service.inputMedian,
            outputMedian: service.outputMedian, latencyMedian: service.latencyMedian)
    }

    private mutating func describeUniform(_ event: inout RequestEvent) {
        event.metadataRaw.append(contentsOf: "{\"env\":\"".utf8)
        event.metadataRaw += Self.envs[random.below(3)]
        event.metadataRaw.append(contentsOf: "\",\"team\":\"team-".utf8)
        Self.append(decimal: random.below(20) + 1, to: &event.metadataRaw)
        event.metadataRaw.append(contentsOf: "\",\"feature\":\"feature-".utf8)
        Self.append(decimal: random.below(50) + 1, to: &event.metadataRaw)
        event.metadataRaw.append(contentsOf: "\"}".utf8)
        event.apiKey = keys[random.below(7)]
        let model = TrafficModel.all[random.below(TrafficModel.all.count)]
        describeExchange(
            &event, model: model, streams: random.below(2) == 0, inputMedian: 600, outputMedian: 150,
            latencyMedian: 900_000)
    }

    private static let teams = ["search", "support", "billing", "growth", "research"]
    private static let foos = ["abc", "xyz"]
    private static let bars = ["def", "ghi", "jkl"]

    private mutating func describeDemo(_ event: inout RequestEvent) {
        let env = random.below(10)
        var text = "{\"foo\":\"\(Self.foos[random.below(2)])\",\"bar\":\"\(Self.bars[random.below(3)])\""
        text += ",\"team\":\"\(Self.teams[random.below(5)])\",\"_user\":\"user-\(random.below(40) + 1)\",\"env\":\""
        event.metadataRaw.append(contentsOf: text.utf8)
        event.metadataRaw += Self.envs[env < 7 ? 0 : env < 9 ? 1 : 2]
        event.metadataRaw.append(contentsOf: "\"}".utf8)
        event.apiKey = keys[0]
        describeExchange(
            &event, model: TrafficModel.all[random.below(3)], streams: random.below(2) == 0, inputMedian: 300,
            outputMedian: 120, latencyMedian: 800_000)
    }

    /// Outcome, tokens, cost, sizes and times of one exchange.
    private mutating func describeExchange(
        _ event: inout RequestEvent, model: TrafficModel, streams: Bool, inputMedian: Double, outputMedian: Double,
        latencyMedian: Double
    ) {
        event.provider = model.provider
        event.requestModel = model.requested
        event.streamed = streams
        event.inputTokens = UInt64(tail.sample(&random, median: inputMedian)) + 1
        event.requestBytes = event.inputTokens * 4 + 220
        let overhead = UInt64(tail.sample(&random, median: 90)) + 5
        var upstream = UInt64(tail.sample(&random, median: latencyMedian)) + 1_000
        let dice = random.below(1_000)
        if dice < 960 {
            event.status = 200
            event.responseModel = model.answered
            event.finishReason = dice < 900 ? "stop" : "length"
            event.outputTokens = UInt64(tail.sample(&random, median: outputMedian)) + 1
            if dice & 3 == 0 { event.cachedTokens = event.inputTokens / 2 }
            event.usageSource = .response
            event.cost = NanoUSD(
                Int64(event.inputTokens) * model.inputNanoUSD + Int64(event.outputTokens) * model.outputNanoUSD)
            event.priceVersion = "simulated-1"
            event.responseBytes = event.outputTokens * (streams ? 180 : 5) + 600
            if streams { event.firstTokenMicroseconds = upstream / 4 + overhead }
        } else {
            event.inputTokens = 0
            event.responseBytes = 240
            event.streamed = false
            switch dice {
            case ..<970: (event.status, event.errorType) = (429, "rate_limit_exceeded")
            case ..<980: (event.status, event.errorType) = (400, "invalid_request_error")
            case ..<995: (event.status, event.errorType) = (500, "server_error")
            default: (event.status, event.errorType, upstream) = (504, "timeout", 60_000_000)
            }
        }
        event.outcome = Outcome(status: event.status)
        event.upstreamMicroseconds = upstream
        event.overheadMicroseconds = overhead
        event.latencyMicroseconds = upstream + overhead
    }

    // MARK: Text without formatting machinery

    private static let digits = Array("0123456789abcdef".utf8)

    private static func append(decimal value: Int, to out: inout [UInt8]) {
        var divisor = 1
        while value / divisor >= 10 { divisor *= 10 }
        while divisor > 0 {
            out.append(UInt8(ascii: "0") + UInt8(value / divisor % 10))
            divisor /= 10
        }
    }

    private static func append(hexadecimal value: UInt64, to out: inout [UInt8]) {
        for shift in stride(from: 60, through: 0, by: -4) { out.append(digits[Int(value >> UInt64(shift) & 15)]) }
    }

    private static func hexadecimal(_ high: UInt64, _ low: UInt64) -> String {
        String(unsafeUninitializedCapacity: 32) { buffer in
            for index in 0..<16 {
                buffer[index] = digits[Int(high >> UInt64(60 - index * 4) & 15)]
                buffer[index + 16] = digits[Int(low >> UInt64(60 - index * 4) & 15)]
            }
            return 32
        }
    }
}
