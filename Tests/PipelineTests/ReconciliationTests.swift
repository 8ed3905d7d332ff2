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
    }
}
