// Faults of the consumer, its log and its store, with the real binary on a real Kafka. Each test carries the number of
// the fault in the list that the project keeps; after each, I1 to I7 are checked by `expectInvariants`.

import EventCodec
import Events
import Glibc
import JSONText
import Simulation
import Testing

@Suite(.serialized, .timeLimit(.minutes(max(15, Place.rounds(0) * 2)))) struct FaultSuite {}

extension FaultSuite {
    @Suite(.serialized) struct ProcessFaultTests {
        /// Between a fetch and the word to Kafka that all is applied.
        private static let steps = [
            "fetched", "sealed", "dead_letters_published", "begun", "offsets_moved", "events_inserted", "rollups_added",
            "counted", "committed", "applied", "telling",
        ]

        @Test("T1: the consumer is killed at random, again and again") func killedAtRandom() throws {
            let installation = try Installation(try Broker.shared.get(), "t1")
            let rounds = Place.rounds(12)
            let events = 800 * rounds
            let load = try installation.loading(events, rate: 2_000)
            for _ in 0..<rounds {
                let before = try installation.next()
                let process = try installation.start()
                // On a slow machine the load may be over before the last rounds.
                try installation.waitUntilApplied(min(before + 100, Int64(events)), process)
                usleep(useconds_t.random(in: 0..<300_000))
                try process.crash()
            }
            #expect(try load.wait(seconds: 60 + rounds) == 0)
            var expected = Expectation()
            expected.replay = installation.replay
            try installation.expectInvariants(expected)
        }

        @Test("T2: the consumer is killed at every step", arguments: [1, 2])
        func killedAtEachStep(pass: Int) throws {
            let broker = try Broker.shared.get()
            let installation = try Installation(broker, "t2")
            for round in 0..<max(1, Place.rounds(0) / 25) {
                for step in Self.steps {
                    try installation.load(700)
                    try broker.produce(installation.topic, Installation.poison, byKey: true)
                    try broker.produce(installation.topic, Installation.poison)
                    let process = try installation.start(failAt: "\(step):\(pass)")
                    // A later pass may need more records than are there.
                    try waitUntil("\(step) is passed", seconds: 30) {
                        if !process.isRunning { return true }
                        try installation.load(20)
                        try broker.produce(installation.topic, [Installation.poison[0]])
                        return false
                    }
                    let status = try process.wait(seconds: 1)
                    #expect(status == 128 + SIGKILL, "\(step), round \(round): \(process.errors.suffix(1_000))")
                    try installation.expectInvariants()
                }
            }
        }

        @Test("T3: a stopped consumer holds the store; another is told so, and nothing is counted twice")
        func aStoppedConsumerHoldsTheStore() throws {
            let installation = try Installation(try Broker.shared.get(), "t3")
            try installation.load(3_000)
            let first = try installation.start()
            try installation.waitUntilApplied(500, first)
            first.send(SIGSTOP)
            let second = try installation.start(opsPort: try freePort())
            #expect(try second.wait(seconds: 30) == 1)
            #expect(second.errors.contains("A SQLite store has one consumer"))
            first.send(SIGCONT)
            try installation.expectInvariants(under: first)
            try installation.stop(first)
        }

        @Test("T5: copies of events, on their own partition and on another one") func copies() throws {
            let broker = try Broker.shared.get()
            let installation = try Installation(broker, "t5")
            try installation.load(3_000)
            let first = try LogEvidence(broker, installation.topic)
            let all = first.events
            let process = try installation.start()
            try installation.waitUntilApplied(1_000, process)
            let some = all.filter { _ in Int.random(in: 0..<10) == 0 }
            try broker.produce(installation.topic, some)
            try broker.produce(
                installation.topic,
                some.map { record in
                    var moved = record
                    moved.partition = (record.partition + 1) % 3
                    return moved
                })
            // The whole of what came first once more, as a producer that lost its journal's checkpoint sends it.
            try broker.produce(installation.topic, all)
            try installation.waitUntilApplied(Int64(first.records.count + all.count + some.count * 2), process)
            #expect(installation.metric("millrace_consumer_duplicates_total") == Double(all.count + some.count * 2))
            try installation.expectInvariants(under: process)
            try installation.stop(process)
        }

        @Test("T7: a broker of three is killed, leaders move, all brokers are killed and come back")
        func brokersDie() throws {
            let broker = try Broker(nodes: 3)
            let installation = try Installation(broker, "t7")
            try installation.load(500, ["--log.kafka.replication_factor", "3"])
            let process = try installation.start()
            let load = try installation.loading(12_000, rate: 1_000)
            try installation.waitUntilApplied(1_500, process)
            try broker.crash(node: 2)
            try installation.waitUntilApplied(4_000, process)
            try broker.restart()
            try broker.crash()
            try waitUntil("the consumer says that the log is away", seconds: 60) {
                installation.readiness()?.status == 503
            }
            try broker.restart()
            #expect(try load.wait(seconds: 90) == 0, "\(load.errors)")
            var expected = Expectation()
            expected.seconds = 90
            try installation.expectInvariants(under: process, expected)
            #expect(installation.readiness()?.status == 200)
            try installation.stop(process)
        }

        @Test("T9: the consumer is stopped while the broker is away") func stoppedWithoutABroker() throws {
            let broker = try Broker()
            let installation = try Installation(broker, "t9")
            try installation.load(2_000)
            let process = try installation.start()
            try installation.waitUntilApplied(200, process)
            try broker.crash()
            try installation.stop(process)
            try broker.restart()
            try installation.load(500)
            try installation.expectInvariants()
        }

        @Test("T10: the wire to the broker is slow, torn and dead in turn") func badWire() throws {
            let (port, advertised) = (try freePort(), try freePort())
            let wire = try Wire(port: advertised, to: port)
            defer { wire.stop() }
            let listeners = "advertised.listeners=PLAINTEXT://127.0.0.1:\(advertised)"
            let broker = try Broker(arguments: ["--port", "\(port)", "--property", listeners])
            let installation = try Installation(broker, "t10", properties: "{ socket.timeout.ms: 3000 }")
            try installation.load(2_000)
            let process = try installation.start()
            try installation.waitUntilApplied(200, process)
            let modes: [(Wire.Mode, UInt32)] = [
                (.slow(milliseconds: 300), 3), (.torn(after: 5_000), 3), (.stalled, 5), (.trickle, 2),
                (.torn(after: 100), 2),
            ]
            for (mode, seconds) in modes {
                wire.set(.sound)
                try installation.load(1_000)
                wire.set(mode)
                sleep(seconds)
            }
            wire.set(.sound)
            try installation.expectInvariants(under: process)
            try installation.stop(process)
        }

        @Test("T14: the disk is full") func diskFull() throws {
            let installation = try Installation(try Broker.shared.get(), "t14")
            try installation.load(500)
            try installation.expectInvariants()
            // A limit on the size of any file that the process writes stands for the disk's end. Its units are 512 bytes.
            let limit = "trap '' XFSZ; ulimit -S -f 1000; exec \"$@\""
            try installation.load(20_000)
            let process = try installation.start(prefix: ["sh", "-c", limit, "sh"])
            try waitUntil(
                "it says that it cannot write", seconds: 60, detail: { process.errors.suffix(2_000).description }
            ) {
                guard let (status, body) = installation.readiness() else { return false }
                return status == 503 && body.contains("consumer:")
            }
            let stuck = try installation.next()
            #expect(stuck < 20_500)
            #expect(process.isRunning)
            let raised = try run(["prlimit", "--pid", "\(process.pid)", "--fsize=unlimited"], directory: "/")
            #expect(raised.status == 0, "\(raised.errors)")
            try installation.expectInvariants(under: process)
            #expect((installation.metric("millrace_consumer_apply_retries_total") ?? 0) > 0)
            #expect((installation.metric("millrace_consumer_degraded_microseconds_total") ?? 0) > 0)
            #expect(installation.readiness()?.status == 200)
            try installation.stop(process)
        }

        @Test("T15: the store is held by another; then it is free again") func storeAway() throws {
            let installation = try Installation(try Broker.shared.get(), "t15")
            try installation.load(5_000)
            let process = try installation.start()
            try installation.waitUntilApplied(100, process)
            try installation.store.whileLocked {
                try installation.load(2_000)
                try waitUntil("it says so", seconds: 60) {
                    guard let (status, body) = installation.readiness() else { return false }
                    return status == 503 && body.contains("consumer:")
                }
                #expect(process.isRunning)
            }
            try installation.expectInvariants(under: process)
            try waitUntil("it is ready again", seconds: 20) { installation.readiness()?.status == 200 }
            try installation.stop(process)
        }

        @Test("T17: retention overtakes the consumer: the loss is declared exactly") func retentionOverrun() throws {
            let broker = try Broker.shared.get()
            let installation = try Installation(broker, "t17", partitions: 1)
            try installation.load(1_000)
            try installation.expectInvariants()
            let earlier = try LogEvidence(broker, installation.topic).records
            let untouched = Installation.poison.count
            try broker.produce(installation.topic, Installation.poison)
            for _ in 0..<3 { try broker.produce(installation.topic, earlier) }
            let begin = Int64(earlier.count + untouched + 500)
            try broker.deleteRecords(installation.topic, partition: 0, before: begin)
            var expected = Expectation()
            expected.earlier = earlier
            expected.lost = [0: Int64(untouched + 500)]
            let process = try installation.start()
            try installation.expectInvariants(under: process, expected)
            #expect(installation.metric("millrace_consumer_offsets_lost_total") == Double(untouched + 500))
            try installation.stop(process)
        }

        @Test("T18: the topic is made anew: the partition stops by name and moves no offset") func topicRecreated()
            throws
        {
            let broker = try Broker.shared.get()
            let installation = try Installation(broker, "t18", partitions: 1)
            try installation.load(400)
            try installation.expectInvariants()
            let before = try installation.store.ledger(installation.topic)
            let end = try #require(before[0]?.next)
            try broker.deleteTopic(installation.topic)
            try broker.createTopic(installation.topic, partitions: 1)
            try broker.produce(installation.topic, Installation.poison)
            let process = try installation.start()
            try waitUntil("it is stopped by name", seconds: 40) {
                guard let (status, body) = installation.readiness() else { return false }
                return status == 503 && body.contains("ends at 4, before the store's offset \(end)")
            }
            #expect(process.errors.contains("consumer_log_truncated"))
            #expect(try installation.store.ledger(installation.topic) == before)
            try installation.stop(process)
        }

        @Test("T19: events of yesterday count; of 1970 and of next year they do not, and are shown") func oddTimes()
            throws
        {
            let broker = try Broker.shared.get()
            let installation = try Installation(broker, "t19")
            try installation.load(50)
            let now = Int64(time(nil)) * 1_000_000
            let day: Int64 = 86_400_000_000
            let times: [Int64] = [
                now - 2 * 3_600_000_000, now - day, now - 2 * day, now - 40 * day, now - 365 * day, now + 3_600_000_000,
                // A leap day, and the hour that Paris had twice.
                1_709_164_800_000_000, 1_761_440_400_000_000, 946_684_800_000_000,
                0, 1, -1, .min, 946_684_799_999_999, now + 2 * day, now + 365 * day, .max,
            ]
            let records = times.enumerated().map { number, time in
                var event = RequestEvent(
                    id: EventID(high: UInt64(number) << 16 | 0x7000, low: 1 << 63 | UInt64(number)),
                    time: EventTime(microseconds: time))
                event.status = 200
                event.workspace = "default"
                event.inputTokens = 7
                event.latencyMicroseconds = UInt64(1_000 * number)
                var value: [UInt8] = []
                EventEncoder.encode(event, into: &value)
                return LogRecord(key: event.id.bytes, value: value, headers: ["millrace-kind": "event"])
            }
            try broker.produce(installation.topic, records, byKey: true)
            let process = try installation.start()
            try installation.expectInvariants(under: process)
            #expect(installation.metric("millrace_consumer_dead_letters_total") == 8)
            #expect((installation.metric("millrace_consumer_late_events_total") ?? 0) == 8)
            let shown = try installation.command("dead-letters list", ["--code", "time_out_of_range", "--json"])
            #expect(try JSONValue.parse(shown).array?.count == 8)
            try installation.stop(process)
        }

        @Test("T20: a value of its own in each of a key's records, ten thousand keys, values of all lengths")
        func manyValues() throws {
            let broker = try Broker.shared.get()
            let installation = try Installation(broker, "t20", maxEvents: 5_000, rules: "version: 1")
            let process = try installation.start()
            let now = Int64(time(nil)) * 1_000_000
            func records(_ numbers: Range<Int>, _ metadata: (Int) -> String) -> [LogRecord] {
                numbers.map { number in
                    var event = RequestEvent(
                        id: EventID(high: UInt64(number) << 16 | 0x7000, low: 1 << 63 | UInt64(number)),
                        time: EventTime(microseconds: now - Int64(number % 60_000) * 1_000))
                    event.status = 200
                    event.workspace = "default"
                    event.provider = "openai"
                    event.latencyMicroseconds = UInt64(number)
                    event.metadataRaw = Array(metadata(number).utf8)
                    var value: [UInt8] = []
                    EventEncoder.encode(event, into: &value)
                    return LogRecord(key: event.id.bytes, value: value, headers: ["millrace-kind": "event"])
                }
            }
            let alike = ["admin", "аdmin", "ad\u{200B}min", "ａdmin", "ADMIN", "a\u{301}dmin"]
            var resident: [Int] = []
            for first in stride(from: 0, to: 90_000, by: 30_000) {
                let values = records(first..<first + 20_000) { #"{"env":"prod","bomb":"value-\#($0)"}"# }
                let keys = records(first + 20_000..<first + 29_000) { #"{"env":"prod","key-\#($0)":"x"}"# }
                let texts = records(first + 29_000..<first + 30_000) {
                    #"{"who":"\#(alike[$0 % alike.count])","long":"\#(String(repeating: "é", count: $0 % 250 * 131))"}"#
                }
                for part in [values, keys, texts] { try broker.produce(installation.topic, part, byKey: true) }
                try installation.waitUntilApplied(Int64(first) + 30_000, process)
                resident.append(try process.residentBytes())
            }
            try installation.expectInvariants(under: process)
            print("resident, MiB: \(resident.map { $0 >> 20 })")
            // The first third has made everything as large as it gets; ever more values add nothing.
            #expect(resident[2] < resident[0] + 64 << 20)
            #expect(installation.metric("millrace_consumer_dead_letters_total") == 0)
            try installation.stop(process)
        }

        @Test("T29: everything at once, for as long as is asked: kills, stops, copies, brokers and wires that fail")
        func soak() throws {
            let seed = UInt64.random(in: 0...UInt64.max)
            print("seed \(seed)")
            var random = SeededGenerator(seed: seed)
            let (port, advertised) = (try freePort(), try freePort())
            let wire = try Wire(port: advertised, to: port)
            defer { wire.stop() }
            let listeners = "advertised.listeners=PLAINTEXT://127.0.0.1:\(advertised)"
            let broker = try Broker(arguments: ["--port", "\(port)", "--property", listeners])
            let installation = try Installation(broker, "t29", properties: "{ socket.timeout.ms: 3000 }")
            let rounds = Place.rounds(5)
            try installation.load(500)
            var process = try installation.start()
            var most = 0
            for _ in 0..<rounds {
                try installation.load(400)
                switch random.below(6) {
                case 0:
                    try process.crash()
                    process = try installation.start()
                case 1:
                    process.send(SIGSTOP)
                    try installation.load(400)
                    process.send(SIGCONT)
                case 2:
                    let all = try LogEvidence(broker, installation.topic).records
                    try broker.produce(installation.topic, all.filter { _ in random.below(10) == 0 })
                case 3:
                    try broker.produce(installation.topic, Installation.poison)
                case 4:
                    try broker.crash()
                    usleep(useconds_t(random.below(500_000)))
                    try broker.restart()
                default:
                    let modes: [Wire.Mode] = [.torn(after: random.below(20_000)), .stalled, .slow(milliseconds: 100)]
                    wire.set(modes[random.below(modes.count)])
                    usleep(useconds_t(random.below(1_500_000)))
                    wire.set(.sound)
                }
                let before = try installation.next()
                try installation.load(200)
                try installation.waitUntilApplied(before + 200, process)
                most = max(most, try process.residentBytes())
            }
            var expected = Expectation()
            expected.replay = installation.replay
            try installation.expectInvariants(under: process, expected)
            print("\(rounds) rounds; resident at most \(most >> 20) MiB")
            #expect(most < 256 << 20)
            try installation.stop(process)
        }

        @Test("T25: records that no version can count; each is kept, shown, and sent again counts nothing twice")
        func poison() throws {
            let broker = try Broker.shared.get()
            let installation = try Installation(broker, "t25")
            try installation.load(300)
            try broker.produce(installation.topic, Installation.poison)
            let huge = LogRecord(
                key: [9], value: [UInt8](repeating: 0x0A, count: 400_000), headers: ["millrace-kind": "event"])
            let tombstone = LogRecord(key: [7, 7], value: nil, headers: ["millrace-kind": "event"])
            // A whole event under no header: it was meant to count.
            var stray = try #require(try LogEvidence(broker, installation.topic).records.first { $0.key.count == 16 })
            stray.headers = [:]
            try broker.produce(installation.topic, [huge, tombstone, stray])
            let process = try installation.start()
            try installation.expectInvariants(under: process)

            let listed = try JSONValue.parse(installation.command("dead-letters list", ["--json"]))
            let rows = try #require(listed.array)
            #expect(rows.count == 6)
            #expect(Set(rows.compactMap { $0["code"]?.string }) == ["undecodable", "unknown_kind", "too_large"])
            let filtered = try JSONValue.parse(
                installation.command("dead-letters list", ["--json", "--code", "too_large"]))
            #expect(filtered.array?.count == 1)
            let id = try #require(
                rows.first { $0["code"]?.string == "unknown_kind" && $0["key_size_bytes"]?.integer == 16 }?["id"]?
                    .string)
            let shown = try JSONValue.parse(installation.command("dead-letters show", [id, "--json"]))
            #expect(shown["key_hex"]?.string?.uppercased() == hex(stray.key))
            #expect(shown["value_hex"]?.string?.uppercased() == hex(stray.value ?? []))
            let text = try installation.command("dead-letters show", [id])
            #expect(text.contains("key, 16 bytes") && text.contains("code      unknown_kind"))

            // Its copy is counted already; the others fail again, at offsets of their own.
            let answer = try JSONValue.parse(installation.command("dead-letters redrive", [id, "--json"]))
            #expect(answer["redriven"]?.integer == 1)
            try installation.expectInvariants(under: process)
            let marked = try JSONValue.parse(installation.command("dead-letters show", [id, "--json"]))
            #expect(marked["redriven"]?.string != nil)
            let again = try JSONValue.parse(installation.command("dead-letters redrive", [id, "--json"]))
            #expect(again["redriven"]?.integer == 0)
            let rest = try JSONValue.parse(
                installation.command("dead-letters redrive", ["--code", "undecodable", "--json"]))
            #expect(rest["redriven"]?.integer == 3)
            try installation.expectInvariants(under: process)
            let after = try JSONValue.parse(installation.command("dead-letters list", ["--json"]))
            #expect(after.array?.count == 9)

            // Given up: marked, left out from then on, and accounted for as before.
            let none = try run(
                [Place.binary, "dead-letters", "discard", "--store.url", "sqlite:\(installation.stores)/store.db"],
                directory: installation.work.path)
            #expect(none.status == 2 && none.errors.contains("nothing chooses what to discard"), "\(none.errors)")
            func discard() throws -> JSONValue {
                try JSONValue.parse(installation.command("dead-letters discard", ["--code", "too_large", "--json"]))
            }
            let given = try discard()
            #expect(given["discarded"]?.integer == 1)
            #expect(try discard()["discarded"]?.integer == 0)
            let large = try JSONValue.parse(
                installation.command("dead-letters redrive", ["--code", "too_large", "--json"]))
            #expect(large["redriven"]?.integer == 0)
            let kept = try JSONValue.parse(
                installation.command("dead-letters list", ["--json", "--code", "too_large"]))
            #expect(kept.array?.count == 1 && kept.array?[0]["id"] == given["ids"]?.array?[0])
            #expect(kept.array?[0]["discarded"]?.string != nil && kept.array?[0]["redriven"] == .null)
            try installation.expectInvariants(under: process)
            #expect(installation.metric("millrace_consumer_duplicates_total") == 1)
            try installation.stop(process)
        }

        @Test("T27: what is produced is compressed, by the bytes on the broker's disk") func compression() throws {
            let broker = try Broker.shared.get()
            func size(_ name: String, _ properties: String) throws -> Int {
                let installation = try Installation(broker, name, properties: properties)
                try installation.load(20_000)
                return try broker.sizeOnDisk(installation.topic)
            }
            let (plain, compressed) = (
                try size("t27-plain", "{ compression.type: none }"), try size("t27-default", "{}")
            )
            #expect(plain > 2_000_000)
            #expect(compressed * 2 < plain, "\(compressed) of \(plain) bytes")
        }
    }
}
