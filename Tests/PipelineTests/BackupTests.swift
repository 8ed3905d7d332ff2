// What is left when the store is gone: a copy of it, and the log.

import Glibc
import JSONText
import Simulation
import Testing

extension PipelineTests {
    @Suite(.serialized) struct BackupTests {
        /// The store's file and what SQLite keeps beside it.
        private func remove(_ store: String) {
            for ending in ["", "-wal", "-shm"] { unlink(store + ending) }
        }

        @Test("A copy made under load is one state; put in place, ingest goes on from it", .timeLimit(.minutes(3)))
        func restoresACopy() throws {
            let pipeline = try Pipeline("backup")
            try pipeline.start(.up)
            for _ in 0..<5 { #expect(try pipeline.chat(#"{"foo":"early"}"#).status == 200) }
            try pipeline.expectCount("metadata.foo = 'early'", 5)
            let loader = try ChildProcess(
                [
                    Place.binary, "loadgen", "--events", "6000", "--rate", "2000", "--config",
                    "\(pipeline.work.path)/millrace.yaml",
                ], name: "loadgen", directory: pipeline.work.path, outputTo: pipeline.work.path)
            usleep(500_000)
            let copied = try pipeline.command(["backup", "copy.db", "--json"])
            #expect(copied.status == 0, "\(copied.errors)")
            #expect((try JSONValue.parse(copied.output)["bytes"]?.integer ?? 0) > 100_000)
            let copy = "\(pipeline.work.path)/copy.db"
            #expect(try run(["stat", "-c", "%a", copy], directory: "/").output == "600\n")
            // One state: the ledger, the events and the rollups of the copy agree with each other.
            let counts = try run(
                [
                    "sqlite3", copy,
                    "SELECT (SELECT sum(applied) FROM offsets) = (SELECT count(*) FROM events), "
                        + "(SELECT count(*) FROM events) = (SELECT sum(requests) FROM rollups WHERE grain = 2), "
                        + "(SELECT count(*) FROM events) > 5; PRAGMA integrity_check",
                ], directory: "/")
            #expect(counts.output == "1|1|1\nok\n", "\(counts.errors)")
            let again = try pipeline.command(["backup", "copy.db"])
            #expect(again.status != 0 && again.errors.contains("File exists"), "\(again.errors)")

            #expect(try loader.wait(seconds: 30) == 0)
            for _ in 0..<4 { #expect(try pipeline.chat(#"{"foo":"late"}"#).status == 200) }
            try pipeline.expectCount("metadata.foo = 'late'", 4)
            let before = try pipeline.query(nil, measures: ["requests", "cost_usd", "input_tokens"])["totals"]
            try pipeline.stopAll()
            remove("\(pipeline.work.path)/millrace.db")
            #expect(rename(copy, "\(pipeline.work.path)/millrace.db") == 0)
            try pipeline.start(.up)
            try pipeline.expectCount("metadata.foo = 'late'", 4)
            try pipeline.expectReconciled()
            #expect(try pipeline.query(nil, measures: ["requests", "cost_usd", "input_tokens"])["totals"] == before)
            try pipeline.stopAll()
        }

        @Test("From the log alone, as far as it reaches back, the same answers come again", .timeLimit(.minutes(2)))
        func rebuildsFromTheLog() throws {
            let pipeline = try Pipeline("rebuild")
            try pipeline.start(.up)
            for team in ["a", "b", "a"] { #expect(try pipeline.chat(#"{"team":"\#(team)"}"#).status == 200) }
            try pipeline.expectCount("metadata.team exists", 3)
            func answer() throws -> JSONValue? {
                try pipeline.query(
                    nil, groupBy: ["metadata.team"], measures: ["requests", "cost_usd", "latency_ms.p99"])["data"]
            }
            let before = try answer()
            try pipeline.stopAll()
            remove("\(pipeline.work.path)/millrace.db")
            try pipeline.start(.up)
            try pipeline.expectCount("metadata.team exists", 3)
            #expect(try answer() == before)
            try pipeline.expectReconciled()
            try pipeline.stopAll()
        }
    }
}
