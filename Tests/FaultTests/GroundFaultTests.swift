// What the consumer stands on gives way: the disk forgets what was not synced, the wall clock jumps. By Tests/CFaults,
// which is put beneath the real binary.

import Glibc
import Testing

/// Beside the test program, like the binary.
private let preloaded = [
    "LD_PRELOAD": "\(Place.binary.split(separator: "/").dropLast().reduce("") { "\($0)/\($1)" })/libCFaults.so"
]

/// A directory whose power a test cuts.
private struct Disk {
    let live: String
    let kept: String

    init(_ live: String, in work: String) {
        self.live = live
        kept = "\(work)/kept"
        mkdir(kept, 0o755)
    }

    var environment: [String: String] { preloaded.merging(["MILLRACE_TEST_DISK": "\(live):\(kept)"]) { $1 } }

    /// Its processes are dead. `mixed`: pages that were not synced are there or not, by chance. The bytes that are
    /// other than the dead process had them.
    func cut(seed: UInt64, mixed: Bool) throws -> Int {
        let result = try run(
            ["\(Place.repository)/Tests/Support/power_cut.py", live, kept, "\(seed)"] + (mixed ? ["--mixed"] : []),
            directory: "/")
        return try #require(Int(result.output.filter(\.isNumber)), "\(result.errors)")
    }
}

/// The wall clock of the processes that it is beneath.
private struct WallClock {
    let path: String

    init(in work: String) throws {
        path = "\(work)/clock"
        try set(0)
    }

    var environment: [String: String] { preloaded.merging(["MILLRACE_TEST_CLOCK": path]) { $1 } }

    func set(_ seconds: Int64) throws {
        let file = open(path, O_WRONLY | O_CREAT, 0o644)
        defer { close(file) }
        var bytes = seconds.littleEndian
        guard pwrite(file, &bytes, 8, 0) == 8 else { throw ChildError("\(path) cannot be written") }
    }
}

extension FaultSuite {
    @Suite(.serialized) struct GroundFaultTests {
        @Test("T12: the power goes again and again: the store is whole, and what it forgot is read again")
        func powerCuts() throws {
            let seed = UInt64.random(in: 0...UInt64(UInt32.max))
            print("seed \(seed)")
            let installation = try Installation(try Broker.shared.get(), "t12", maxEvents: 100)
            let disk = Disk(installation.stores, in: installation.work.path)
            let rounds = Place.rounds(8)
            try installation.load(100)
            let load = try installation.loading(1_000 * rounds, rate: 1_000)
            var forgotten = 0
            for round in 0..<rounds {
                // The store is not looked at meanwhile: closing it would write to it.
                let process = try installation.start(environment: disk.environment)
                try waitUntil("some are applied", seconds: 60, detail: { process.errors.suffix(3_000).description }) {
                    (installation.metric("millrace_consumer_batch_events_total") ?? 0) >= 300
                }
                usleep(useconds_t.random(in: 0..<300_000))
                try process.crash()
                forgotten += try disk.cut(seed: seed &+ UInt64(round), mixed: round % 2 == 1)
            }
            #expect(forgotten > 0)
            #expect(try load.wait(seconds: 60 + rounds) == 0, "\(load.errors)")
            var expected = Expectation()
            expected.replay = installation.replay
            try installation.expectInvariants(expected)
        }

        @Test("T24: the wall clock jumps an hour back and forth while batches are made") func clockJumps() throws {
            let broker = try Broker.shared.get()
            let installation = try Installation(broker, "t24")
            let clock = try WallClock(in: installation.work.path)
            try installation.load(500)
            let process = try installation.start(environment: clock.environment)
            try installation.waitUntilApplied(100, process)
            let load = try installation.loading(6_000, rate: 1_500)
            for seconds: Int64 in [3_600, -3_600, 0, 1, -1, 3_600, -3_600, 3_600] {
                let before = try installation.next()
                try clock.set(seconds)
                try installation.waitUntilApplied(before + 200, process)
            }
            #expect(try load.wait(seconds: 60) == 0, "\(load.errors)")
            try clock.set(-3_600)
            // What came before an hour's jump back is known again after it.
            let all = try LogEvidence(broker, installation.topic).events
            try broker.produce(installation.topic, all)
            try installation.expectInvariants(under: process)
            #expect(installation.metric("millrace_consumer_duplicates_total") == Double(all.count))
            #expect(installation.metric("millrace_consumer_dead_letters_total") == 0)
            #expect(installation.readiness()?.status == 200)
            let negative = try installation.metrics().filter { $0.value < 0 }
            #expect(negative.isEmpty, "\(negative)")
            try clock.set(0)
            try installation.stop(process)
        }
    }
}
