// Profiles, pacing, ground truth: what is generated is the same each time and has the shape that it says.

import EventCodec
import Events
import Glibc
import JSONText
import Simulation
import Testing
import Threading

private let day = EventTime(microseconds: 1_793_404_800_000_000)..<EventTime(microseconds: 1_793_491_200_000_000)

private func events(_ profile: TrafficProfile, seed: UInt64, count: Int) -> [RequestEvent] {
    var generator = TrafficGenerator(profile: profile, seed: seed)
    return (0..<count).map {
        generator.next(at: EventTime(microseconds: day.lowerBound.microseconds + Int64($0) * 1_000))
    }
}

/// A path that nothing else uses; the file is the test's to remove.
private func temporaryPath(_ name: String) -> String {
    "/tmp/millrace-simulation-\(getpid())-\(UInt64.random(in: 0...UInt64.max))-\(name)"
}

private func lines(of path: String) throws -> [ArraySlice<UInt8>] {
    let file = try #require(fopen(path, "r"))
    defer { fclose(file) }
    var all: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65_536)
    while case let count = fread(&buffer, 1, buffer.count, file), count > 0 { all += buffer.prefix(count) }
    return all.split(separator: UInt8(ascii: "\n"))
}

@Suite struct TrafficProfileTests {
    @Test("The same profile and seed give the same events, another seed others", arguments: TrafficProfile.allCases)
    func repeats(profile: TrafficProfile) {
        #expect(events(profile, seed: 7, count: 500) == events(profile, seed: 7, count: 500))
        #expect(events(profile, seed: 7, count: 500) != events(profile, seed: 8, count: 500))
    }

    @Test(
        "Every event has an id of its own made from its time, and metadata that is a JSON object",
        arguments: TrafficProfile.allCases)
    func isWellFormed(profile: TrafficProfile) throws {
        let made = events(profile, seed: 3, count: 2_000)
        #expect(Set(made.map(\.id)).count == made.count)
        for event in made {
            #expect(event.id.high >> 16 == UInt64(event.time.microseconds / 1_000))
            #expect(try JSONValue.parse(event.metadataRaw).members?.isEmpty == false)
            #expect(event.outcome == Outcome(status: event.status))
            #expect(event.latencyMicroseconds == (event.upstreamMicroseconds ?? 0) + (event.overheadMicroseconds ?? 0))
        }
    }

    @Test("Services are Zipf-distributed, have one team and key each, and outcomes in the stated shares")
    func servicesHaveTheirShape() throws {
        let made = events(.services, seed: 11, count: 50_000)
        var counts: [String: Int] = [:]
        var homes: [String: Set<String>] = [:]
        var requestIDs = Set<String>()
        for event in made {
            let metadata = try JSONValue.parse(event.metadataRaw)
            let service = try #require(metadata["service"]?.string)
            counts[service, default: 0] += 1
            homes[service, default: []].insert("\(metadata["team"]?.string ?? "")/\(event.apiKey)")
            requestIDs.insert(try #require(metadata["request_id"]?.string))
        }
        #expect(requestIDs.count == made.count)
        #expect(homes.values.allSatisfy { $0.count == 1 })
        // Rank 1 and rank 2 differ by 2^1.1; a sample of this size is within a tenth of it.
        let ratio = Double(counts["svc-1"] ?? 0) / Double(counts["svc-2"] ?? 1)
        #expect(abs(ratio - 2.1435) < 0.22, "svc-1 to svc-2: \(ratio)")
        for (outcome, share) in [
            (Outcome.success, 0.96), (.clientError, 0.02), (.providerError, 0.015), (.timeout, 0.005),
        ] {
            let measured = Double(made.count { $0.outcome == outcome }) / Double(made.count)
            #expect(abs(measured - share) < share * 0.2 + 0.001, "\(outcome.name): \(measured)")
        }
    }
}

@Suite struct LoadGeneratorTests {
    @Test("What is sent is what the ground truth says, in order of time over the span")
    func tellsTheTruth() throws {
        let path = temporaryPath("truth")
        defer { unlink(path) }
        var sent: [(EventID, [UInt8])] = []
        let options = LoadOptions(
            source: .profile(.services, events: 3_000), seed: 5, span: day, groundTruth: path)
        let summary = try LoadGenerator.run(options, stop: StopSignal(), tell: { _ in }) { id, value in
            sent.append((id, Array(value)))
            return true
        }
        #expect(summary.events == 3_000)
        let truth = try lines(of: path)
        #expect(truth.count == 3_000)
        var before = EventTime(microseconds: .min)
        for (line, (id, value)) in zip(truth, sent) {
            let event = try EventJSON.parse(line, now: day.lowerBound, random: (0, 0))
            #expect(event.id == id)
            #expect(day.contains(event.time))
            #expect(event.time >= before)
            before = event.time
            var encoded: [UInt8] = []
            EventEncoder.encode(event, into: &encoded)
            var again = try EventJSON.parse(line, now: day.lowerBound, random: (0, 0))
            again.priceVersion = event.cost == nil ? "" : "simulated-1"
            encoded.removeAll()
            EventEncoder.encode(again, into: &encoded)
            #expect(encoded == value)
        }
    }

    @Test("What is told of what was sent counts each event in its minute, and is the same for the same seed")
    func tellsHowManyByMinute() throws {
        let start = EventTime(microseconds: 1_700_000_000_000_000).startOfMinute
        let span = start..<EventTime(microseconds: start.microseconds + 3 * EventTime.minuteMicroseconds)
        func run(_ isReconciled: Bool, seed: UInt64) throws -> (manifests: [Manifest], proxies: Set<String>) {
            let path = temporaryPath("told")
            defer { unlink(path) }
            let options = LoadOptions(
                source: .profile(.demo, events: 300), seed: seed, span: span, groundTruth: path,
                isReconciled: isReconciled)
            let progress = try LoadGenerator.run(options, stop: StopSignal(), tell: { _ in }, send: { _, _ in true })
            let events = try lines(of: path).map { try EventJSON.parse($0, now: start, random: (0, 0)) }
            return (progress.manifests, Set(events.map(\.proxy)))
        }
        let (manifests, proxies) = try run(true, seed: 4)
        let proxy = try #require(proxies.first)
        #expect(proxies.count == 1 && EventID(text: proxy) != nil)
        #expect(
            manifests
                == (0..<3).map { (minute: Int64) in
                    let begin = start.microseconds + minute * EventTime.minuteMicroseconds
                    return Manifest(
                        proxy: proxy, minute: EventTime(microseconds: begin), accepted: 100, recorded: 100, dropped: 0)
                })
        #expect(try run(true, seed: 4).manifests == manifests)
        #expect(try run(true, seed: 5).proxies != proxies)
        #expect(try run(false, seed: 4) == ([], ["loadgen"]))
    }

    @Test("A ground-truth file sent again is the same events")
    func sendsItsOwnTruthAgain() throws {
        let (first, second) = (temporaryPath("first"), temporaryPath("second"))
        defer {
            unlink(first)
            unlink(second)
        }
        for options in [
            LoadOptions(source: .profile(.demo, events: 400), seed: 9, span: day, groundTruth: first),
            LoadOptions(source: .file(first), seed: 1, groundTruth: second),
        ] {
            #expect(
                try LoadGenerator.run(options, stop: StopSignal(), tell: { _ in }, send: { _, _ in true }).events == 400
            )
        }
        #expect(try lines(of: first) == lines(of: second))
    }

    @Test("A line that is no event stops the run and is named by its number")
    func namesABadLine() throws {
        let path = temporaryPath("bad")
        defer { unlink(path) }
        let file = try #require(fopen(path, "w"))
        fputs("{\"status\":429}\n\n{\"status\":\"fine\"}\n", file)
        fclose(file)
        var sent = 0
        let error = #expect(throws: SimulationError.self) {
            try LoadGenerator.run(LoadOptions(source: .file(path), seed: 1), stop: StopSignal(), tell: { _ in }) {
                _, _ in
                sent += 1
                return true
            }
        }
        #expect(sent == 1)
        #expect(error?.tried.hasPrefix("read line 3 of ") == true)
        #expect(error?.reason == "status: must be a number from 0 to 65535, is \"fine\"")
    }

    @Test("A sink that takes no more ends the run with an error, a stop without one")
    func endsEarly() throws {
        let options = LoadOptions(source: .profile(.uniform, events: 1_000), seed: 1)
        var taken = 0
        let error = #expect(throws: SimulationError.self) {
            try LoadGenerator.run(options, stop: StopSignal(), tell: { _ in }) { _, _ in
                taken += 1
                return taken <= 10
            }
        }
        #expect(error?.code == .sink)
        let stop = StopSignal()
        stop.stop()
        #expect(try LoadGenerator.run(options, stop: stop, tell: { _ in }, send: { _, _ in true }).events < 1_000)
    }

    @Test("A rate is kept: a stop after the first event leaves the rest unsent")
    func keepsAPace() throws {
        let stop = StopSignal()
        let options = LoadOptions(source: .profile(.demo, events: 100), rate: 0.01, seed: 1)
        let summary = try LoadGenerator.run(options, stop: stop, tell: { _ in }) { _, _ in
            stop.stop()
            return true
        }
        #expect(summary.events == 1)
    }
}

@Suite struct EventJSONTests {
    private func parse(_ text: String) throws -> RequestEvent {
        try EventJSON.parse(Array(text.utf8)[...], now: EventTime(microseconds: 1_000_000), random: (1, 2))
    }

    @Test("An empty object is an event with the stated defaults")
    func hasDefaults() throws {
        let event = try parse("{}")
        var expected = RequestEvent(
            id: EventID(time: EventTime(microseconds: 1_000_000), random: (1, 2)),
            time: EventTime(microseconds: 1_000_000))
        expected.workspace = "default"
        expected.provider = "openai"
        expected.status = 200
        expected.outcome = .success
        #expect(event == expected)
        #expect(try parse("{\"status\":504,\"cost_usd\":null}").outcome == .timeout)
        #expect(try parse("{\"time\":\"2026-11-01T00:00:00Z\"}").id.high >> 16 == 1_793_491_200_000)
    }

    @Test(
        "Metadata is the raw text where given, else the object",
        arguments: [
            (#"{"metadata":{"a":1.0,"b":[true]}}"#, #"{"a":1.0,"b":[true]}"#, MetadataStatus.ok),
            (#"{"metadata":{}}"#, "{}", .ok),
            (#"{"metadata_raw":"{ \"a\": 1 }","metadata":{"b":2}}"#, #"{ "a": 1 }"#, .ok),
            (#"{"metadata_raw":"[1]"}"#, "", .notAnObject),
            (#"{"metadata_raw":"{'a':1}"}"#, "", .malformed),
            (#"{"metadata_raw":null,"metadata":null}"#, "", .absent),
            (#"{"metadata":{"a":"b"},"metadata_status":"truncated"}"#, #"{"a":"b"}"#, .truncated),
        ])
    func readsMetadata(line: String, raw: String, status: MetadataStatus) throws {
        let event = try parse(line)
        #expect(String(decoding: event.metadataRaw, as: UTF8.self) == raw)
        #expect(event.metadataStatus == status)
        #expect(event.metadataRejected.isEmpty == (status < .tooLarge))
        var written: [UInt8] = []
        EventJSON.write(event, into: &written)
        #expect(try parse(String(decoding: written, as: UTF8.self)) == event)
    }

    @Test("Counts that are said, be they 0, are read from an answer, unless the line says otherwise")
    func readsWhereCountsComeFrom() throws {
        #expect(try parse("{}").usageSource == .none)
        #expect(try parse(#"{"input_tokens":0}"#).usageSource == .response)
        for source in UsageSource.allCases {
            #expect(try parse(#"{"input_tokens":0,"usage_source":"\#(source.name)"}"#).usageSource == source)
        }
        #expect(throws: EventJSONError.self) { try parse(#"{"usage_source":"guess"}"#) }
    }

    @Test(
        "Money and times are exact decimals",
        arguments: [
            ("0.000000001", 1), ("1.5", 1_500_000_000), ("1e-3", 1_000_000), ("1.25E2", 125_000_000_000), ("0", 0),
            ("0e999999999", 0), ("1e-400", 0), ("0.0000000005", 1), ("0.00000000049", 0), ("-0.5", -500_000_000),
            ("9223372036.854775807", Int64.max),
        ])
    func readsDecimals(text: String, nano: Int64) throws {
        #expect(try parse("{\"cost_usd\":\(text)}").cost == NanoUSD(nano))
    }

    @Test(
        "What is not an event is refused with the member's name",
        arguments: [
            ("[]", "a line is one JSON object"), ("{\"statuss\":1}", "statuss: no such member of an event"),
            ("{\"latency_ms\":-1}", "latency_ms: must be a number of milliseconds, 0 or more, is -1"),
            ("{\"time\":\"yesterday\"}", "time: must be an RFC 3339 time, is \"yesterday\""),
            ("{\"cost_usd\":1e30}", "cost_usd: must be a number of dollars, is 1e30"),
            ("{\"metadata\":\"x\"}", "metadata: must be an object, is \"x\""),
        ])
    func refuses(line: String, reason: String) {
        let error = #expect(throws: EventJSONError.self) { try parse(line) }
        #expect(error?.reason == reason)
    }
}
