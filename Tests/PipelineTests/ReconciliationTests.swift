// What proxies recorded against what was counted: through the API, the command and the metric.

import Glibc
import JSONText
import Simulation
import Testing

extension PipelineTests {
    @Suite(.serialized) struct ReconciliationTests {
        private func reconcile(_ pipeline: Pipeline, _ more: [String] = []) throws -> (status: Int32, output: String) {
            let result = try run(
                [Place.binary, "reconcile", "--config", "\(pipeline.work.path)/millrace.yaml", "--fail-on-difference"]
                    + more, directory: pipeline.work.path)
            return (result.status, result.output + result.errors)
        }

        @Test(
            "The balance is 0 in steady state, and names the minute of a record that is gone", .timeLimit(.minutes(3)))
        func balances() throws {
            let pipeline = try Pipeline("reconciliation")
            try pipeline.start(.up)
            for number in 0..<25 {
                #expect(try pipeline.chat(#"{"foo":"abc"}"#).status == 200)
                let balance = try pipeline.reconciliation()
                #expect(balance["closed"]?.boolean == true, "\(number): \(balance.text)")
                #expect(balance["totals"]?["recorded"]?.integer == Int64(number + 1))
            }
            try pipeline.expectReconciled()
            let loaded = try run(
                [
                    Place.binary, "loadgen", "--config", "\(pipeline.work.path)/millrace.yaml", "--events", "500",
                    "--seed", "3",
                ], directory: pipeline.work.path)
            #expect(loaded.status == 0, "\(loaded.errors)")
            try waitUntil("all events are there", seconds: 30) { try pipeline.count(nil) == 525 }
            try pipeline.expectReconciled()
            let minutes = try #require(try pipeline.reconciliation()["minutes"]?.array)
            #expect(minutes.reduce(0) { $0 + ($1["applied"]?.integer ?? 0) } == 525)
            let metrics = try ask(pipeline.apiPort, "GET", "/metrics").text
            #expect(metrics.contains("\nmillrace_reconciliation_difference 0\n"))
            let asked = try reconcile(pipeline)
            #expect(asked.status == 0 && asked.output.contains("Closed"), "\(asked.output)")
            let throughAPI = try reconcile(pipeline, ["--api", "http://127.0.0.1:\(pipeline.apiPort)", "--json"])
            #expect(throughAPI.status == 0)
            #expect(try JSONValue.parse(throughAPI.output)["closed"]?.boolean == true)

            let removed = try run(
                [
                    "sqlite3", "-cmd", ".timeout 10000", "\(pipeline.work.path)/millrace.db",
                    """
                    UPDATE proxy_minutes SET applied = applied - 1
                    WHERE (minute_us, proxy, topic, partition) IN (
                        SELECT minute_us, proxy, topic, partition FROM proxy_minutes
                        WHERE proxy <> 'loadgen' AND applied > 0 ORDER BY minute_us DESC LIMIT 1)
                    """,
                ], directory: pipeline.work.path)
            #expect(removed.status == 0, "\(removed.errors)")
            let after = try pipeline.reconciliation()
            #expect(after["closed"]?.boolean == false)
            let wrong = try #require(after["minutes"]?.array).filter { $0["difference"]?.integer != 0 }
            #expect(wrong.count == 1 && wrong.first?["difference"]?.integer == 1)
            let failed = try reconcile(pipeline)
            #expect(failed.status == 1)
            #expect(failed.output.contains(wrong.first?["minute"]?.string ?? "?"))
            #expect(failed.output.contains(": look at "), "\(failed.output)")
            try pipeline.stopAll()
        }

        @Test(
            "A record deleted from the Kafka topic is named by minute, partition and offsets", .timeLimit(.minutes(4)))
        func namesWhatWasDeleted() throws {
            let brokers = try WorkDirectory("kafka")
            let kafka = try KafkaCluster(in: brokers.path)
            let pipeline = try Pipeline("deleted", log: kafka.log)
            for role in [Pipeline.Role.proxy, .consumer, .api] { try pipeline.start(role) }
            for _ in 0..<12 { #expect(try pipeline.chat(#"{"foo":"before"}"#).status == 200) }
            try pipeline.expectCount("metadata.foo = 'before'", 12, seconds: 60)
            try pipeline.expectReconciled(seconds: 60)
            try waitUntil("the manifests are there", seconds: 30) { try pipeline.told() == 12 }
            try pipeline.stop(.consumer)

            let topic = KafkaTopic(servers: kafka.servers, name: "millrace.request-events.v1")
            let next = try pipeline.offsets()
            let spared = try #require(next.first { $0.manifests > 0 }).partition
            for _ in 0..<30 { #expect(try pipeline.chat(#"{"foo":"after"}"#).status == 200) }
            // Manifests go by the proxy's id: any other partition holds events alone.
            let others = (Int32(0)..<3).filter { $0 != spared }
            var victim: (partition: Int32, offset: Int64)?
            try waitUntil("the events are in the topic", seconds: 30) {
                for partition in others {
                    let known = next.first { $0.partition == partition }?.next ?? 0
                    if try topic.end(of: partition) > known { victim = (partition, known) }
                }
                return victim != nil
            }
            let (partition, offset) = try #require(victim)
            try topic.deleteRecords(of: partition, before: offset + 1)
            // Behind the log, what is missing is on its way.
            #expect(try pipeline.reconciliation()["closed"]?.boolean == true)
            try pipeline.start(.consumer)
            try pipeline.expectCount("metadata.foo = 'after'", 29, seconds: 60)
            var last = JSONValue.null
            try waitUntil("the difference is named", seconds: 60, detail: { last.text }) {
                last = try pipeline.reconciliation()
                return last["closed"]?.boolean == false
            }
            #expect(last["totals"]?["difference"]?.integer == 1)
            let wrong = try #require(last["minutes"]?.array).filter { $0["difference"]?.integer != 0 }
            #expect(wrong.count == 1)
            let places = wrong.first?["offsets"]?.array ?? []
            #expect(places.allSatisfy { $0["topic"]?.string == topic.name } && !places.isEmpty, "\(last.text)")
            let failed = try reconcile(pipeline)
            #expect(failed.status == 1, "\(failed.output)")
            #expect(failed.output.contains("look at \(topic.name)/"), "\(failed.output)")
            try pipeline.stopAll()
        }
    }
}
