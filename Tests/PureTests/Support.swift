// What the tests of this folder share: seeded randomness, random events, protoc as a judge.

import Events
import Foundation

/// SplitMix64: the same numbers for the same seed everywhere.
struct SeededRandom: RandomNumberGenerator {
    let seed: UInt64
    private var state: UInt64

    /// Prints the seed, so that a failure can be run again: `MILLRACE_TEST_SEED=… swift test`.
    init(_ name: String = #function) {
        let chosen = ProcessInfo.processInfo.environment["MILLRACE_TEST_SEED"].flatMap { UInt64($0) }
        seed = chosen ?? UInt64.random(in: 0...UInt64(UInt32.max))
        state = seed
        print("\(name): MILLRACE_TEST_SEED=\(seed)")
    }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ mixed >> 30) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ mixed >> 27) &* 0x94D0_49BB_1331_11EB
        return mixed ^ mixed >> 31
    }

    mutating func chance(_ percent: Int) -> Bool { Int.random(in: 0..<100, using: &self) < percent }

    mutating func pick<Element>(_ elements: [Element]) -> Element {
        elements[Int.random(in: 0..<elements.count, using: &self)]
    }

    mutating func bytes(upTo count: Int) -> [UInt8] {
        (0..<Int.random(in: 0...count, using: &self)).map { _ in UInt8.random(in: 0...255, using: &self) }
    }

    mutating func text(upTo count: Int) -> String {
        let alphabet = Array("aZ09-_. \"\\'\n\t\u{0}\u{7F}éß漢👩‍👩‍👧e\u{301}ﬁ\u{202E}".unicodeScalars)
        var text = ""
        for _ in 0..<Int.random(in: 0...count, using: &self) { text.unicodeScalars.append(pick(alphabet)) }
        return text
    }

    /// Small, large and extreme alike.
    mutating func count() -> UInt64 {
        switch Int.random(in: 0..<6, using: &self) {
        case 0: 0
        case 1: .max
        case 2: next()
        default: next() >> UInt64.random(in: 32...63, using: &self)
        }
    }

    mutating func event() -> RequestEvent {
        var event = RequestEvent(
            id: EventID(high: next(), low: next()), time: EventTime(microseconds: Int64(bitPattern: count())))
        event.proxy = text(upTo: 8)
        event.workspace = text(upTo: 8)
        event.apiKey = text(upTo: 8)
        event.provider = text(upTo: 8)
        event.operation = text(upTo: 8)
        event.requestModel = text(upTo: 200)
        event.responseModel = text(upTo: 8)
        event.status = chance(80) ? pick([0, 200, 404, 500, 504]) : UInt16.random(in: 0...UInt16.max, using: &self)
        event.outcome = pick(Outcome.allCases)
        event.errorType = text(upTo: 8)
        event.finishReason = text(upTo: 8)
        event.streamed = chance(50)
        event.traceID = text(upTo: 8)
        event.spanID = text(upTo: 8)
        event.parentSpanID = text(upTo: 8)
        event.inputTokens = count()
        event.outputTokens = count()
        event.cachedTokens = count()
        event.reasoningTokens = count()
        event.usageSource = pick([.none, .response, .unreadable])
        event.cost = chance(30) ? nil : NanoUSD(Int64(bitPattern: count()))
        event.priceVersion = text(upTo: 8)
        event.requestBytes = count()
        event.responseBytes = count()
        event.latencyMicroseconds = chance(30) ? nil : count()
        event.firstTokenMicroseconds = chance(30) ? nil : count()
        event.upstreamMicroseconds = chance(30) ? nil : count()
        event.overheadMicroseconds = chance(30) ? nil : count()
        event.metadataStatus = pick(MetadataStatus.allCases)
        event.metadataSources = MetadataSources(rawValue: UInt8.random(in: 0...15, using: &self))
        event.metadataRaw = bytes(upTo: 300)
        event.metadataRejected = bytes(upTo: 20)
        event.metadataConflicts = UInt32(truncatingIfNeeded: count())
        return event
    }
}

/// Google's own encoder and decoder, run as a process of its own.
enum Protoc {
    static let repository = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()

    /// `mode`: `--encode=TYPE` (text to bytes) or `--decode=TYPE` (bytes to text).
    static func run(_ mode: String, schema: String = "request_event.proto", in folder: URL? = nil, _ input: [UInt8])
        throws -> [UInt8]
    {
        let folder = folder ?? repository.appending(path: "schemas")
        let work = FileManager.default.temporaryDirectory.appending(path: "millrace-\(UUID().uuidString)")
        try Data(input).write(to: work)
        defer { try? FileManager.default.removeItem(at: work) }
        let process = Process()
        let output = Pipe()
        process.executableURL = URL(filePath: "/usr/bin/protoc")
        process.arguments = ["--proto_path=\(folder.path())", mode, folder.appending(path: schema).path()]
        process.standardInput = try FileHandle(forReadingFrom: work)
        process.standardOutput = output
        try process.run()
        let bytes = try output.fileHandleForReading.readToEnd() ?? Data()
        process.waitUntilExit()
        guard process.terminationStatus == 0 else { throw Failure(status: process.terminationStatus) }
        return [UInt8](bytes)
    }

    struct Failure: Error {
        var status: Int32
    }
}
