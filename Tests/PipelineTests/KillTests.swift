// `kill -9` of every part under load: each request whose answer a client fully received is counted exactly once.

import Glibc
import JSONText
import Simulation
import Synchronization
import Testing
import Threading

/// Clients that ask without pause, each request with a number of its own, and remember which answers came whole.
final class Load: Sendable {
    private struct Counts {
        var next = 0
        var received: [Int] = []
        var failed = 0
    }

    private let counts = Mutex(Counts())
    private let stopped = StopSignal()
    private let threads = Mutex<[ServiceThread]>([])
    private let port: UInt16

    init(port: UInt16, clients: Int) {
        self.port = port
        threads.withLock { list in
            list = (0..<clients).map { _ in ServiceThread("load") { self.ask() } }
        }
    }

    private func ask() {
        var client = LoopbackClient(port: port, timeoutMilliseconds: 5_000)
        while !stopped.wait(milliseconds: 2) {
            let number = counts.withLock { counts in
                counts.next += 1
                return counts.next
            }
            let headers: [(name: String, value: String)] = [
                ("x-portkey-mode", "proxy openai"), ("x-portkey-metadata", "{\"run\":\"kill\",\"n\":\"\(number)\"}"),
            ]
            do {
                let response = try client.request("POST", "/v1/chat/completions", headers: headers, body: chatBody())
                counts.withLock { if response.status == 200 { $0.received.append(number) } else { $0.failed += 1 } }
            } catch {
                // The other side was killed, or is not back yet: a request in flight, counted or not.
                counts.withLock { $0.failed += 1 }
                if stopped.wait(milliseconds: 20) { return }
            }
        }
    }

    var receivedSoFar: Int { counts.withLock { $0.received.count } }

    /// Ends the clients; which requests were answered whole, and how many were begun.
    func stop() -> (received: [Int], begun: Int) {
        stopped.stop()
        for thread in threads.withLock({ $0 }) { thread.join() }
        return counts.withLock { ($0.received, $0.next) }
    }
}

extension PipelineTests {
    @Suite(.serialized) struct KillTests {
        /// Every number in `received` stands in the events exactly once, none stands there twice, and the rollups
        /// agree with the events.
        private func expectExactlyOnce(_ pipeline: Pipeline, received: [Int], begun: Int) throws {
            var counted: [String: Int] = [:]
            // In flight at a kill: counted or not, so the events say when everything has arrived.
            var missing = received.count
            do {
                try waitUntil(
                    "all \(received.count) answered requests are there", seconds: 90,
                    detail: { "\(missing) are missing." }
                ) {
                    guard try pipeline.count("metadata.run = 'kill'") >= Int64(received.count) else { return false }
                    counted = try pipeline.events("metadata.run = 'kill'").reduce(into: [:]) { found, event in
                        found[event["metadata"]?["n"]?.string ?? "none", default: 0] += 1
                    }
                    missing = received.count { counted[String($0)] == nil }
                    return missing == 0
                }
            } catch { Issue.record("\(error)") }
            #expect(received.filter { counted[String($0)] != 1 }.isEmpty)
            #expect(counted.filter { $0.value != 1 }.isEmpty)
            #expect(counted.count <= begun)
            #expect(try pipeline.count("metadata.run = 'kill'") == Int64(counted.values.reduce(0, +)))
            print("answered whole: \(received.count), begun: \(begun), counted: \(counted.count)")
        }

        @Test("`up` killed again and again under load", .timeLimit(.minutes(5)))
        func killsUp() throws {
            let seed = UInt64.random(in: 0...UInt64.max)
            print("seed \(seed)")
            var random = SeededGenerator(seed: seed)
            let pipeline = try Pipeline("kill-up")
            try pipeline.start(.up)
            let load = Load(port: pipeline.proxyPort, clients: 3)
            for _ in 0..<10 {
                let before = load.receivedSoFar
                try waitUntil("the load goes on", seconds: 30) { load.receivedSoFar >= before + 20 }
                usleep(useconds_t(random.below(400_000)))
                try pipeline.crash(.up)
                try pipeline.start(.up)
                // Under load, straight after the kill: what is counted, on its way and recorded agree.
                let balance = try pipeline.reconciliation()
                #expect(balance["closed"]?.boolean == true, "\(balance.text)")
            }
            let (received, begun) = load.stop()
            #expect(received.count > 200)
            try expectExactlyOnce(pipeline, received: received, begun: begun)
            try pipeline.expectReconciled()
            let totals = try pipeline.reconciliation()["totals"]
            #expect(totals?["recorded"]?.integer == (try pipeline.count(nil)))
            try pipeline.stopAll()
        }

        @Test(
            "`up` and ClickHouse killed again and again under load", .enabled(if: ClickHouse.isWanted),
            .timeLimit(.minutes(6)))
        func killsUpAndClickHouse() throws {
            let seed = UInt64.random(in: 0...UInt64.max)
            print("seed \(seed)")
            var random = SeededGenerator(seed: seed)
            let server = try ClickHouse()
            let pipeline = try Pipeline("kill-clickhouse", store: server.url)
            try pipeline.start(.up)
            let load = Load(port: pipeline.proxyPort, clients: 3)
            for victim in (Array(repeating: "up", count: 4) + Array(repeating: "server", count: 6)).shuffled(
                using: &random)
            {
                let before = load.receivedSoFar
                try waitUntil("the load goes on", seconds: 30) { load.receivedSoFar >= before + 20 }
                usleep(useconds_t(random.below(400_000)))
                if victim == "up" {
                    try pipeline.crash(.up)
                    try pipeline.start(.up)
                } else {
                    try server.crash()
                    usleep(useconds_t(random.below(600_000)))
                    try server.restart()
                }
                try pipeline.waitUntilReady(.up)
                let balance = try pipeline.reconciliation()
                #expect(balance["closed"]?.boolean == true, "\(balance.text)")
            }
            let (received, begun) = load.stop()
            #expect(received.count > 200)
            try expectExactlyOnce(pipeline, received: received, begun: begun)
            try pipeline.expectReconciled()
            let totals = try pipeline.reconciliation()["totals"]
            #expect(totals?["recorded"]?.integer == (try pipeline.count(nil)))
            try pipeline.stopAll()
        }

        @Test("Proxy, consumer, API and broker killed in random order under load", .timeLimit(.minutes(8)))
        func killsRolesAndBroker() throws {
            let seed = UInt64.random(in: 0...UInt64.max)
            print("seed \(seed)")
            var random = SeededGenerator(seed: seed)
            let brokers = try WorkDirectory("kafka")
            let kafka = try KafkaCluster(in: brokers.path)
            let pipeline = try Pipeline("kill-roles", log: kafka.log)
            for role in [Pipeline.Role.proxy, .consumer, .api] { try pipeline.start(role) }
            let load = Load(port: pipeline.proxyPort, clients: 3)
            var rounds = Array(repeating: "proxy", count: 4) + Array(repeating: "consumer", count: 4)
            rounds += ["broker", "broker", "api"]
            for victim in rounds.shuffled(using: &random) {
                let before = load.receivedSoFar
                try waitUntil("the load goes on", seconds: 30) { load.receivedSoFar >= before + 20 }
                usleep(useconds_t(random.below(600_000)))
                if let role = Pipeline.Role(rawValue: victim) {
                    try pipeline.crash(role)
                    // A consumer is ready when its broker is: the next round does not wait for it.
                    try pipeline.start(role, waits: role == .proxy)
                } else {
                    try kafka.crash()
                    usleep(useconds_t(random.below(1_000_000)))
                    try kafka.restart()
                }
            }
            for role in [Pipeline.Role.proxy, .consumer, .api] { try pipeline.waitUntilReady(role, seconds: 60) }
            let (received, begun) = load.stop()
            #expect(received.count > 200)
            try expectExactlyOnce(pipeline, received: received, begun: begun)
            try pipeline.expectReconciled(seconds: 60)
            // The last manifests may come after the last events.
            try waitUntil("every counted event stands in a manifest", seconds: 60) {
                try pipeline.told() == pipeline.count(nil)
            }
            try pipeline.stopAll()
        }
    }
}
