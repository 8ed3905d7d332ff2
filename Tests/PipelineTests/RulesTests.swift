// Normalization rules in force, and the commands that look at them first.

import JSONText
import Simulation
import Testing

private let rules = """
    version: 1
    keys:
      aliases: { userId: _user, mail: email }
      drop: [secret, "debug_*"]
      hash: [email]
    values:
      maps: { env: { prod: production } }
    """

extension PipelineTests {
    @Suite(.serialized) struct RulesTests {
        @Test("What the rules drop and hash stands in no file, and the rest is answered", .timeLimit(.minutes(2)))
        func hidesWhatTheRulesHide() throws {
            let pipeline = try Pipeline("hide", rules: rules)
            try pipeline.start(.up)
            let hidden = ["hunter2-hunter2", "ann.hidden@example.org", "debugged-value-7"]
            let metadata = #"{"foo":"abc","Secret":"\#(hidden[0])","mail":"\#(hidden[1])","debug_x":["\#(hidden[2])"]}"#
            for _ in 0..<3 { #expect(try pipeline.chat(metadata).status == 200) }
            // What does not parse may hold a secret anywhere: it is not kept either.
            #expect(try pipeline.chat(#"{"Secret":"\#(hidden[0])""#).status == 200)
            try pipeline.expectCount("metadata.foo = 'abc' and metadata.email exists", 3)
            try pipeline.expectCount("model = 'gpt-4o-mini-2024-07-18'", 4)
            #expect(try pipeline.count("metadata.secret exists or metadata.debug_x exists") == 0)
            let events = try pipeline.events("metadata.foo = 'abc'")
            let code = try #require(events.first?["metadata"]?["email"]?.string)
            #expect(code.hasPrefix("hmac:") && code.utf8.count == 37)
            #expect(try pipeline.count("metadata.email = '\(code)'") == 3)
            try pipeline.stopAll()
            for value in hidden { #expect(try pipeline.work.files(containing: value).isEmpty, "\(value)") }
            // The key is the owner's alone, and the next start has the same one.
            let key = "\(pipeline.work.path)/hash.key"
            #expect(try run(["stat", "-c", "%a", key], directory: "/").output == "600\n")
            try pipeline.start(.up)
            #expect(try pipeline.chat(metadata).status == 200)
            try pipeline.expectCount("metadata.email = '\(code)'", 4)
            try pipeline.stopAll()
        }

        @Test(
            "New rules hold for events from their start on, late events have those of their time",
            .timeLimit(.minutes(3)))
        func keepsRulesByTime() throws {
            let brokers = try WorkDirectory("kafka")
            let kafka = try KafkaCluster(in: brokers.path)
            let pipeline = try Pipeline("eras", log: kafka.log, rules: "version: 1\nclasses: { userId: entity }")
            for role in [Pipeline.Role.proxy, .consumer, .api] { try pipeline.start(role) }
            let metadata = #"{"env":"prod","userId":"u-1"}"#
            for _ in 0..<3 { #expect(try pipeline.chat(metadata).status == 200) }
            try pipeline.expectCount("metadata.env = 'prod' and metadata.user_id = 'u-1'", 3)
            // Two that the consumer sees after its rules have changed, of a time before.
            try pipeline.stop(.consumer)
            for _ in 0..<2 { #expect(try pipeline.chat(metadata).status == 200) }
            try writeText(
                "\(pipeline.work.path)/rules.yaml", "version: 1\nvalues: { maps: { env: { prod: production } } }")
            try pipeline.start(.consumer)
            try pipeline.expectCount("metadata.env = 'prod' and metadata.user_id = 'u-1'", 5)
            for _ in 0..<4 { #expect(try pipeline.chat(metadata).status == 200) }
            try pipeline.expectCount("metadata.env = 'production' and metadata.user_id = 'u-1'", 4)
            #expect(try pipeline.count("metadata.env = 'prod'") == 5)
            let answer = try pipeline.query("metadata.user_id = 'u-1'", measures: ["requests"])
            #expect(answer["totals"]?["requests"]?.integer == 9)
            // An entity before, a dimension now: from events, under both rules.
            #expect(answer["plan"]?["source"]?.string == "events")
            let rules = (answer["plan"]?["rules"]?.array ?? []).compactMap(\.string)
            #expect(rules.count == 2)
            #expect(try pipeline.query(nil, measures: ["requests"])["plan"]?["source"]?.string == "rollups")
            let metrics = try ask(pipeline.consumerOpsPort, "GET", "/metrics").text
            for name in rules {
                #expect(metrics.contains("millrace_consumer_rules_from_microseconds{fingerprint=\"\(name)\"}"))
            }
            let keys = try JSONValue.parse(ask(pipeline.apiPort, "GET", "/v1/metadata/keys").body)
            let found = keys["data"]?.array?.first { $0["key"]?.string == "user_id" }
            let user = try #require(found)
            #expect(user["class"]?.string == "dimension" && user["since"]?.string != nil, "\(user.text)")
            try pipeline.stopAll()
        }

        @Test("`rules check` names every mistake with its line; `rules try` says which rule did what")
        func looksAtRules() throws {
            let work = try WorkDirectory("rules")
            try writeText("\(work.path)/good.yaml", rules)
            try writeText("\(work.path)/bad.yaml", "version: 1\nkeys:\n  case: snak\n  hash: [a, \"b*\"]\nlimit: 3\n")
            #expect(try run([Place.binary, "rules", "check", "good.yaml"], directory: work.path).output == "ok\n")
            let bad = try run([Place.binary, "rules", "check", "bad.yaml"], directory: work.path)
            #expect(bad.status == 2)
            for text in ["line 3: keys.case", "line 4: keys.hash[1]", "line 5: limit"] {
                #expect(bad.errors.contains(text), "\(text) in \(bad.errors)")
            }
            let metadata = #"{"userId":" u-1 ","Env":"prod","SECRET":1}"#
            let tried = try run(
                ["sh", "-c", "printf %s '\(metadata)' | \(Place.binary) rules try good.yaml --json"],
                directory: work.path)
            let answer = try JSONValue.parse(tried.output)
            #expect(answer["dimensions"]?.text == #"{"_user":"u-1","env":"production"}"#)
            let pairs = try #require(answer["pairs"]?.array)
            #expect(pairs.compactMap { $0["ending"]?.string } == ["kept", "dropped", "kept"])
            #expect(pairs[0]["steps"]?.text == #"["keys.case snake: env","values.maps: production"]"#)
            let none = try run(["sh", "-c", "echo '[1]' | \(Place.binary) rules try good.yaml"], directory: work.path)
            #expect(none.status == 1 && none.errors.contains("not_an_object"), "\(none.errors)")
        }

        @Test("`rules diff` counts what other rules would change in the stored events", .timeLimit(.minutes(2)))
        func countsWhatWouldChange() throws {
            let pipeline = try Pipeline("diff", rules: "version: 1")
            try pipeline.start(.up)
            for _ in 0..<3 { #expect(try pipeline.chat(#"{"env":"prod","foo":"a"}"#).status == 200) }
            #expect(try pipeline.chat(#"{"env":"test"}"#).status == 200)
            try pipeline.expectCount("metadata.env exists", 4)
            try writeText("\(pipeline.work.path)/next.yaml", rules)
            let result = try run(
                [
                    Place.binary, "rules", "diff", "rules.yaml", "next.yaml", "--json", "--config",
                    "\(pipeline.work.path)/millrace.yaml",
                ], directory: pipeline.work.path)
            #expect(
                result.output == #"""
                    {"events":4,"changed":3,"differences":1,"changes":[{"key":"env","old":"prod","new":"production","events":3}]}

                    """#, "\(result.errors)")
            try pipeline.stopAll()
        }
    }
}
