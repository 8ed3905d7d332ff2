// What all of it stands on gives way (Tests/CFaults): journal and store lie on a disk that forgets what was not synced,
// the wall clock jumps.

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

        @Test(
            "The wall clock jumps a day forth and back beneath a proxy: what nobody has acknowledged stays, once",
            .timeLimit(.minutes(4)))
        func clockJumps() throws {
            let pipeline = try Pipeline("clock")
            let clock = "\(pipeline.work.path)/clock"
            func set(_ seconds: Int64) throws {
                let file = open(clock, O_WRONLY | O_CREAT, 0o644)
                defer { close(file) }
                var bytes = seconds.littleEndian
                #expect(pwrite(file, &bytes, 8, 0) == 8)
            }
            try set(0)
            let library = "\(Place.binary.split(separator: "/").dropLast().reduce("") { "\($0)/\($1)" })/libCFaults.so"
            let settings = [
                "--journal.segment_size_bytes", "262144", "--journal.retention_seconds", "3600", "--proxy.loops", "1",
            ]
            let lane = "\(pipeline.work.path)/journal/lane-0000"
            func segments() throws -> Set<String> {
                Set(
                    try run(["ls", lane], directory: "/").output.split(separator: "\n").map(String.init)
                        .filter { $0.hasSuffix(".segment") })
            }
            var sent = 0
            func send(_ count: Int) throws {
                var client = LoopbackClient(port: pipeline.proxyPort)
                let note = String(repeating: "x", count: 6_000)
                for _ in 0..<count {
                    let answer = try client.request(
                        "POST", "/v1/chat/completions",
                        headers: [
                            ("x-portkey-provider", "openai"),
                            ("x-portkey-metadata", "{\"n\":\"\(sent)\",\"note\":\"\(note)\"}"),
                        ], body: chatBody())
                    #expect(answer.status == 200)
                    sent += 1
                }
            }
            func stored() throws -> Int {
                let result = try run(
                    [
                        "sqlite3", "-cmd", ".timeout 10000", "\(pipeline.work.path)/millrace.db",
                        "SELECT count(*) FROM events",
                    ], directory: pipeline.work.path)
                return Int(result.output.filter(\.isNumber)) ?? 0
            }
            try pipeline.start(.proxy, settings, environment: ["LD_PRELOAD": library, "MILLRACE_TEST_CLOCK": clock])
            // The first of them are acknowledged, so that retention has something to do.
            try pipeline.start(.consumer)
            try send(150)
            try waitUntil("they are counted", seconds: 30) { try stored() == sent }
            try pipeline.stop(.consumer)
            // A little less than a day: beyond one ahead the consumer takes no event.
            for seconds: Int64 in [-86_000, 86_000, -86_000, 86_000, 0] {
                let before = try segments()
                try set(seconds)
                try send(60)
                if seconds > 0 {
                    // The first jump ahead ends what is acknowledged before its time; the others find nothing to end.
                    try waitUntil("retention has gone by the new time", seconds: 30) {
                        try !segments().contains("00000000.segment")
                    }
                } else if sent == 210 {
                    #expect(try segments().isSuperset(of: before))
                }
            }
            try pipeline.crash(.proxy)
            try pipeline.start(.consumer)
            try waitUntil("all are counted", seconds: 60, detail: { "\((try? stored()) ?? -1) of \(sent)" }) {
                try stored() >= sent
            }
            #expect(try stored() == sent)
            try pipeline.stopAll()
        }
    }
}
