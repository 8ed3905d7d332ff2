// The faults of a store that is a server, and the consumer's own at each step of such a store: the real binary, a real
// Kafka, the real server. After each, I1 to I7 are checked by `expectInvariants`.

import Glibc
import Simulation
import Testing

extension FaultSuite {
    @Suite(.serialized) struct ServerFaultTests {
        /// Between a fetch and the word to Kafka that all is applied. Each store has its own order of them.
        private static let steps = [
            "fetched", "sealed", "dead_letters_published", "begun", "events_inserted", "rollups_added", "counted",
            "offsets_moved", "committed", "applied", "telling",
        ]

        @Test("T2: the consumer is killed at every step of the store", arguments: StoreKind.allCases)
        func killedAtEachStep(_ kind: StoreKind) throws {
            let broker = try Broker.shared.get()
            let installation = try Installation(broker, "t2\(kind.rawValue)", server: kind.start())
            for round in 0..<max(1, Place.rounds(0) / 25) {
                for step in Self.steps {
                    try installation.load(500)
                    try broker.produce(installation.topic, Installation.poison)
                    let pass = Int.random(in: 1...2)
                    let process = try installation.start(failAt: "\(step):\(pass)")
                    // A later pass may need more records than are there.
                    try waitUntil("\(step):\(pass) is passed", seconds: 40, detail: { process.errors }) {
                        if !process.isRunning { return true }
                        try installation.load(20)
                        try broker.produce(installation.topic, [Installation.poison[0]])
                        return false
                    }
                    let status = try process.wait(seconds: 1)
                    #expect(status == 128 + SIGKILL, "\(step):\(pass), round \(round): \(process.errors.suffix(1_000))")
                }
                try installation.expectInvariants()
            }
        }

        @Test(
            "T3, T4: two consumers fight over partitions while they are killed, at steps and at random, and stopped",
            arguments: StoreKind.allCases)
        func fighting(_ kind: StoreKind) throws {
            let seed = UInt64.random(in: 0...UInt64.max)
            print("\(kind.rawValue): seed \(seed)")
            var random = SeededGenerator(seed: seed)
            let installation = try Installation(
                try Broker.shared.get(), "t4\(kind.rawValue)", partitions: 6,
                properties: "{ session.timeout.ms: 6000, heartbeat.interval.ms: 500 }", server: kind.start())
            let rounds = Place.rounds(3)
            let ports = [installation.opsPort, try freePort()]
            try installation.load(500)
            var members = try ports.map { try installation.start(opsPort: $0) }
            // Of more seconds than the rounds take, beside other work too.
            let load = try installation.loading(2_500 * rounds, rate: 250)
            /// Goes on until it is true; who has died meanwhile comes back.
            func revive(_ what: String, seconds: Int = 90, until isDone: () throws -> Bool) throws {
                // A stopped member may hold rows for as long as the server lets it.
                try waitUntil(
                    what, seconds: seconds,
                    detail: { members.map { $0.errors.suffix(1_000) }.joined(separator: "\n--\n") }
                ) {
                    for (place, member) in members.enumerated() where !member.isRunning {
                        let status = try member.wait(seconds: 1)
                        #expect(status == 128 + SIGKILL, "\(member.errors.suffix(2_000))")
                        members[place] = try installation.start(opsPort: ports[place])
                    }
                    return try isDone()
                }
            }
            for round in 0..<rounds {
                let before = try installation.next()
                try revive("round \(round) goes on") { try installation.next() >= before + 300 }
                let (victim, other) = random.below(2) == 0 ? (0, 1) : (1, 0)
                if round % 3 == 2 {
                    // For longer than its session: when it wakes, its partitions are the other one's, and only what it has
                    // under way in the store may still come before.
                    func given(_ member: ChildProcess) -> Int {
                        member.errors.split(separator: "\n").count { $0.contains(#""partitions":"0,1,2,3,4,5""#) }
                    }
                    var (frozen, heir): (ChildProcess?, ChildProcess?)
                    var already = 0
                    try revive("the other one is given all partitions") {
                        // It may have died at its step just before: then it is the one that came back, once at work.
                        if members[victim] !== frozen {
                            guard members[victim].errors.contains("consumer_partitions_taken") else { return false }
                            (frozen, heir) = (members[victim], members[other])
                            already = given(members[other])
                            members[victim].send(SIGSTOP)
                        }
                        return given(members[other]) > (members[other] === heir ? already : 0)
                    }
                    members[victim].send(SIGCONT)
                } else {
                    try members[victim].crash()
                    let step = "\(Self.steps[random.below(Self.steps.count)]):\(1 + random.below(4))"
                    members[victim] = try installation.start(failAt: step, opsPort: ports[victim])
                }
            }
            // 10 s a round are sent in all, however soon the rounds were done.
            try revive("all is sent", seconds: 90 + 10 * rounds) { !load.isRunning }
            #expect(try load.wait(seconds: 1) == 0, "\(load.errors)")
            let end = try LogEvidence(installation.broker, installation.topic).high.values.reduce(0, +)
            try revive("all is applied") { try installation.next() >= end }
            try installation.expectInvariants(under: members[0])
            for member in members { try installation.stop(member) }
        }

        @Test(
            "T16: views of others on the tables, inserts asynchronous where nobody says otherwise, and a torn wire",
            .enabled(if: StoreKind.allCases.contains(.clickhouse)))
        func othersSettings() throws {
            let server = try ClickHouseServer(settings: ["async_insert=1", "wait_for_async_insert=0"])
            let wire = try Wire(port: try freePort(), to: server.port)
            defer { wire.stop() }
            let installation = try Installation(
                try Broker.shared.get(), "t16", server: server, storePort: wire.port)
            try installation.load(300)
            try installation.expectInvariants()
            let store = ClickHouseEvidence(port: server.port, database: "store")
            let before = try store.run("SELECT count() FROM events")[0][0]
            for table in ["events", "rollups", "commits"] {
                _ = try store.run("CREATE TABLE seen_\(table) (n Int64) ENGINE = SummingMergeTree ORDER BY tuple()")
                _ = try store.run(
                    "CREATE MATERIALIZED VIEW view_\(table) TO seen_\(table) AS SELECT count() AS n FROM \(table)")
            }
            let process = try installation.start()
            let load = try installation.loading(4_000, rate: 1_000)
            for length in [0, 700, 3_000, 9_000, 20_000, 45_000, 90_000] {
                wire.set(.torn(after: length))
                usleep(300_000)
                wire.set(.sound)
                usleep(200_000)
            }
            #expect(try load.wait(seconds: 60) == 0, "\(load.errors)")
            var expected = Expectation()
            expected.replay = installation.replay
            try installation.expectInvariants(under: process, expected)
            #expect((installation.metric("millrace_consumer_apply_retries_total") ?? 0) > 0)
            // What is dropped as a copy on its way does not reach the views either.
            let seen = try store.run("SELECT sum(n) + \(before) FROM seen_events")
            #expect(try seen == store.run("SELECT count() FROM events"))
            try installation.stop(process)
        }

        @Test(
            "T15: the wire to the store is torn and dead in turn: commits in doubt count once",
            arguments: StoreKind.allCases)
        func badWire(_ kind: StoreKind) throws {
            let server = try kind.start()
            let wire = try Wire(port: try freePort(), to: server.port)
            defer { wire.stop() }
            let installation = try Installation(
                try Broker.shared.get(), "t15\(kind.rawValue)", server: server, storePort: wire.port)
            try installation.load(500)
            let process = try installation.start()
            try installation.waitUntilApplied(100, process)
            let load = try installation.loading(8_000, rate: 1_000)
            // Each length of what passes ends connections at another place, answers among them.
            for length in [0, 700, 3_000, 9_000, 20_000, 45_000, 90_000, 150_000] {
                wire.set(.torn(after: length))
                usleep(500_000)
                wire.set(length.isMultiple(of: 2_000) ? .stalled : .sound)
                usleep(300_000)
            }
            wire.set(.torn(after: 0))
            try waitUntil("it says that the store is away", seconds: 60) {
                guard let (status, body) = installation.readiness() else { return false }
                return status == 503 && body.contains("consumer:")
            }
            #expect(process.isRunning)
            wire.set(.sound)
            #expect(try load.wait(seconds: 60) == 0, "\(load.errors)")
            try installation.expectInvariants(under: process)
            #expect((installation.metric("millrace_consumer_apply_retries_total") ?? 0) > 0)
            #expect((installation.metric("millrace_consumer_degraded_microseconds_total") ?? 0) > 0)
            try waitUntil("it is ready again", seconds: 20) { installation.readiness()?.status == 200 }
            try installation.stop(process)
        }

        @Test("T15: the store is killed and comes back, again and again", arguments: StoreKind.allCases)
        func storeKilled(_ kind: StoreKind) throws {
            let server = try kind.start()
            let installation = try Installation(try Broker.shared.get(), "t15k\(kind.rawValue)", server: server)
            let rounds = Place.rounds(3)
            try installation.load(200)
            let process = try installation.start()
            let load = try installation.loading(5_000 * rounds, rate: 1_000)
            for _ in 0..<rounds {
                let before = try installation.next()
                try installation.waitUntilApplied(before + 300, process)
                usleep(useconds_t.random(in: 0..<300_000))
                try server.crash()
                try waitUntil("it says that the store is away", seconds: 60) {
                    installation.readiness()?.status == 503
                }
                try server.restart()
            }
            #expect(try load.wait(seconds: 60 + 5 * rounds) == 0, "\(load.errors)")
            var expected = Expectation()
            expected.replay = installation.replay
            try installation.expectInvariants(under: process, expected)
            try installation.stop(process)
        }

        @Test(
            "T28: a store of a newer program is refused and left as it is; back, it goes on",
            arguments: StoreKind.allCases)
        func newerStore(_ kind: StoreKind) throws {
            let server = try kind.start()
            let installation = try Installation(try Broker.shared.get(), "t28\(kind.rawValue)", server: server)
            try installation.load(500)
            try installation.expectInvariants()
            let before = try installation.evidence().ledger(installation.topic)
            try installation.load(500)
            try server.raiseSchema("store", by: 900)
            let process = try installation.start()
            let status = try process.wait(seconds: 30)
            #expect(status > 0 && status < 128, "\(status): \(process.errors)")
            #expect(process.errors.contains("newer"), "\(process.errors)")
            #expect(try installation.evidence().ledger(installation.topic) == before)
            try server.raiseSchema("store", by: -900)
            try installation.expectInvariants()
        }
    }
}
