// The power goes under all of it: journal and store lie on a disk that forgets what was not synced (Tests/CFaults).

import Glibc
import JSONText
import Simulation
import Testing

extension PipelineTests {
    @Suite(.serialized) struct PowerTests {
        @Test(
            "T12: the power goes under load: what `journal.fsync` promises is there, once, and all goes on",
            .timeLimit(.minutes(max(8, Place.rounds(0)))), arguments: ["always", "interval"])
        func powerCuts(fsync: String) throws {
            let seed = UInt64.random(in: 0...UInt64(UInt32.max))
            print("\(fsync): seed \(seed)")
            let pipeline = try Pipeline("power")
            let (live, kept) = ("\(pipeline.work.path)/live", "\(pipeline.work.path)/kept")
            for path in [live, kept] { mkdir(path, 0o755) }
            let settings = [
                "--journal.directory", "\(live)/journal", "--store.url", "sqlite:\(live)/millrace.db",
                "--journal.segment_size_bytes", "262144", "--journal.fsync", fsync, "--proxy.loops", "1",
            ]
            let library = "\(Place.binary.split(separator: "/").dropLast().reduce("") { "\($0)/\($1)" })/libCFaults.so"
            let environment = ["LD_PRELOAD": library, "MILLRACE_TEST_DISK": "\(live):\(kept)"]
            func syncs() -> Int { readText("\(kept)/.log").split(separator: "\n").count { $0.hasSuffix(".segment") } }

            try pipeline.start(.up, settings, environment: environment)
            let load = Load(port: pipeline.proxyPort, clients: 3, noteSize: 500)
            /// Places in the order of answers whose requests a cut may have cost.
            var doubtful: [Range<Int>] = []
            for round in 0..<Place.rounds(6) {
                let before = load.receivedSoFar
                try waitUntil("the load goes on", seconds: 30) { load.receivedSoFar >= before + 60 }
                var durable = load.receivedSoFar
                if fsync == "interval" {
                    // One pass may have begun before, and takes two files where the segment has just changed.
                    let synced = syncs()
                    try waitUntil("the journal is synced twice", seconds: 30) { syncs() >= synced + 4 }
                }
                usleep(useconds_t.random(in: 0..<300_000))
                if fsync == "always" { durable = load.receivedSoFar }
                try pipeline.crash(.up)
                let cut = try run(
                    ["\(Place.repository)/Tests/Support/power_cut.py", live, kept, "\(seed &+ UInt64(round))"]
                        + (round % 2 == 1 ? ["--mixed"] : []), directory: "/")
                #expect(cut.status == 0, "\(cut.errors)")
                // By now each client has noted the last answer that it got.
                doubtful.append(durable..<load.receivedSoFar)
                try pipeline.start(.up, settings, environment: environment)
            }
            let after = load.receivedSoFar
            try waitUntil("the load goes on", seconds: 30) { load.receivedSoFar >= after + 60 }
            let (received, begun) = load.stop()
            let sure = received.indices.filter { place in !doubtful.contains { $0.contains(place) } }.map {
                received[$0]
            }
            var counted: [String: Int] = [:]
            var missing = sure.count
            do {
                try waitUntil("what was promised is counted", seconds: 60, detail: { "\(missing) are missing." }) {
                    counted = try pipeline.events("metadata.run = 'kill'").reduce(into: [:]) { found, event in
                        found[event["metadata"]?["n"]?.string ?? "none", default: 0] += 1
                    }
                    missing = sure.count { counted[String($0)] == nil }
                    return missing == 0
                }
            } catch { Issue.record("\(error)") }
            #expect(counted.filter { $0.value != 1 }.isEmpty)
            #expect(try pipeline.count("metadata.run = 'kill'") == Int64(counted.count))
            print("answered whole: \(received.count), \(sure.count) sure, begun: \(begun), counted: \(counted.count)")
            try pipeline.stopAll()
        }
    }
}
