// Normalization rules in force, and the commands that look at them first.

import Glibc
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
            // An entity before, a dimension now: each era from what covers it, under both rules.
            #expect(answer["plan"]?["source"]?.string == "rollups+events")
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

        @Test("SIGHUP reads the rules anew, and a file that cannot be used changes nothing", .timeLimit(.minutes(2)))
        func readsRulesAnew() throws {
            let pipeline = try Pipeline("reload", rules: "version: 1\nvalues: { maps: { env: { prod: first } } }")
            try pipeline.start(.up)
            let secret = "reloaded-hunter3"
            let metadata = #"{"env":"prod","password":"\#(secret)"}"#
            for _ in 0..<2 { #expect(try pipeline.chat(#"{"env":"prod"}"#).status == 200) }
            try pipeline.expectCount("metadata.env = 'first'", 2)
            func reload(_ text: String, _ line: String) throws {
                try writeText("\(pipeline.work.path)/rules.yaml", text)
                try pipeline.send(SIGHUP, to: .up)
                try waitUntil("it says \(line)", seconds: 20, detail: { pipeline.errors(of: .up) }) {
                    pipeline.errors(of: .up).contains("\"\(line)\"")
                }
            }
            try reload(
                "version: 1\nkeys: { drop: [password] }\nvalues: { maps: { env: { prod: second } } }", "rules_reloaded")
            // The consumer takes them up at its next batch, which says so once more.
            try waitUntil("the consumer has them", seconds: 20, detail: { pipeline.errors(of: .up) }) {
                pipeline.errors(of: .up).occurrences("\"consumer_rules\"") == 2
            }
            for _ in 0..<3 { #expect(try pipeline.chat(metadata).status == 200) }
            try pipeline.expectCount("metadata.env = 'second'", 3)
            #expect(try pipeline.count("metadata.env = 'first'") == 2)
            try reload("version: 1\nkeys: { case: snak }\n", "rules_not_reloaded")
            #expect(pipeline.errors(of: .up).contains("keys.case"))
            for _ in 0..<2 { #expect(try pipeline.chat(metadata).status == 200) }
            try pipeline.expectCount("metadata.env = 'second'", 5)
            let metrics = try ask(pipeline.apiPort, "GET", "/metrics").text
            #expect(metrics.contains("millrace_rules_reloads_total{result=\"taken\"} 1"))
            #expect(metrics.contains("millrace_rules_reloads_total{result=\"refused\"} 1"))
            try pipeline.stopAll()
            #expect(try pipeline.work.files(containing: secret).isEmpty)
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
            // In the order of the file, by every command that reads it.
            try writeText("\(work.path)/late.yaml", "version: 1\nlimits: { keys: 0 }\nkeys:\n  case: snak\n")
            for command in [
                ["rules", "check", "late.yaml"], ["config", "check", "--normalization.rules", "late.yaml"],
            ] {
                let late = try run([Place.binary] + command, directory: work.path)
                #expect(late.status == 2, "\(late.errors)")
                let lines = ["line 2: limits.keys", "line 4: keys.case"].map {
                    late.errors.firstRange(of: $0)?.lowerBound
                }
                #expect(lines[0] != nil && lines[1] != nil, "\(late.errors)")
                if let first = lines[0], let second = lines[1] { #expect(first < second) }
            }
            // A key given several times hides nothing, neither behind it nor in any of its values.
            try writeText(
                "\(work.path)/twice.yaml",
                "version: 1\nlimits: { keys: 0 }\nkeys:\n  case: snak\n  drop: [a]\nlimits: { depth: 99 }\nlimit: 3\n"
                    + "limits: { key_bytes: 0 }\n")
            let twice = try run([Place.binary, "rules", "check", "twice.yaml", "--json"], directory: work.path)
            let mistakes = try JSONValue.parse(twice.output)["problems"]?.array ?? []
            #expect(mistakes.map { $0["line"]?.integer } == [2, 4, 6, 6, 7, 8, 8], "\(twice.output)")
            #expect(
                mistakes.map { $0["path"]?.string }
                    == ["limits.keys", "keys.case", "", "limits.depth", "limit", "", "limits.key_bytes"],
                "\(twice.output)")
            #expect(mistakes.count == 7 && mistakes[2]["message"]?.string == "'limits' is given twice, first in line 2")
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

        @Test(
            "A key of one value a request becomes an identifier by itself, once, and answers stay exact",
            .timeLimit(.minutes(3)), arguments: ["sqlite"] + (ClickHouse.isWanted ? ["clickhouse"] : []))
        func demotesWhatMultiplies(on store: String) throws {
            let server = store == "clickhouse" ? try ClickHouse() : nil
            let pipeline = try Pipeline(
                "observed-\(store)", store: server?.url,
                // The first look is at enough users, and never at as many services.
                rules: "version: 1\nobserve: { events: 2000, many_values: 450 }")
            try pipeline.start(.up)
            let begin = Int64(time(nil)) / 3_600 * 3_600 - 5 * 3_600
            func load(_ hour: Int64, seed: Int) throws -> [JSONValue] {
                let (from, to) = (timestamp(begin + hour * 3_600), timestamp(begin + (hour + 1) * 3_600))
                let truth = "\(pipeline.work.path)/truth-\(hour).jsonl"
                let loaded = try pipeline.command([
                    "loadgen", "--events", "3000", "--seed", "\(seed)", "--from", from, "--to", to, "--ground-truth",
                    truth,
                ])
                #expect(loaded.status == 0, "\(loaded.errors)")
                return try readText(truth).split(separator: "\n").map { try JSONValue.parse(String($0)) }
            }
            func answer(_ condition: String?, groupBy: String? = nil) throws -> JSONValue {
                var members: [JSONMember] = [
                    .init(key: "from", value: .string(timestamp(begin))),
                    .init(key: "to", value: .string(timestamp(begin + 5 * 3_600))),
                    .init(key: "measures", value: ["requests"]), .init(key: "limit", value: 10_000),
                ]
                if let condition { members.append(.init(key: "where", value: .string(condition))) }
                if let groupBy { members.append(.init(key: "group_by", value: [.string(groupBy)])) }
                let response = try ask(
                    pipeline.apiPort, "POST", "/v1/query", headers: [("content-type", "application/json")],
                    body: JSONValue.object(members).bytes)
                guard response.status == 200 else { throw ChildError("\(response.status): \(response.text)") }
                return try JSONValue.parse(response.body)
            }
            func expectAll(_ count: Int64) throws {
                try waitUntil("\(count) events are counted", seconds: 60) {
                    try answer(nil)["totals"]?["requests"]?.integer == count
                }
            }
            func observed() throws -> String? {
                try ask(pipeline.apiPort, "GET", "/metrics").text.split(separator: "\n")
                    .first { $0.hasPrefix("millrace_consumer_classes_observed_total ") }.map(String.init)
            }
            func keys() throws -> [String: JSONValue] {
                let listed = try pipeline.command([
                    "metadata", "keys", "--json", "--from", timestamp(begin), "--to", timestamp(begin + 5 * 3_600),
                ])
                #expect(listed.status == 0, "\(listed.errors)")
                let rows = try JSONValue.parse(listed.output)["data"]?.array ?? []
                return Dictionary(uniqueKeysWithValues: rows.map { ($0["key"]?.string ?? "", $0) })
            }
            var sent = try load(0, seed: 1)
            try expectAll(3_000)
            try waitUntil("request_id and _user have other classes", seconds: 60) {
                let classes = try keys().mapValues { $0["class"]?.string ?? "" }
                return classes["request_id"] == "identifier" && classes["_user"] == "entity"
            }
            sent += try load(1, seed: 2)
            try expectAll(6_000)
            // A start under the same rules changes nothing; late events come under those of their time.
            let before = try keys()
            var said = pipeline.errors(of: .up)
            try pipeline.stopAll()
            try pipeline.start(.up)
            sent += try load(2, seed: 3)
            try expectAll(9_000)
            sent += try load(0, seed: 4)
            try expectAll(12_000)
            #expect(try observed() == "millrace_consumer_classes_observed_total 0")
            let after = try keys()
            for (key, row) in before {
                #expect(after[key]?["class"] == row["class"] && after[key]?["since"] == row["since"], "\(key)")
            }
            let request = try #require(after["request_id"])
            #expect(request["since"]?.string == "\(timestamp(begin + 3_600).dropLast()).000000Z")
            #expect(request["reason"]?.string?.hasPrefix("observed: ") == true, "\(request.text)")
            #expect(request["distinct"]?.integer == 12_000 && request["share"]?.double == 1)
            #expect(after["service"]?["class"]?.string == "dimension")

            // Rollups answer where a key is a dimension and, by its own, where it has become an entity, like a count by hand.
            for key in ["env", "service", "_user"] {
                let grouped = try answer(nil, groupBy: "metadata.\(key)")
                #expect(grouped["plan"]?["source"]?.string == "rollups", "\(key)")
                var expected: [String: Int64] = [:]
                for event in sent { expected[event["metadata"]?[key]?.string ?? "", default: 0] += 1 }
                var found: [String: Int64] = [:]
                for row in grouped["data"]?.array ?? [] {
                    found[row["group"]?["metadata.\(key)"]?.string ?? ""] = row["measures"]?["requests"]?.integer
                }
                #expect(found == expected, "\(key)")
            }
            let id = try #require(sent[7_000]["metadata"]?["request_id"]?.string)
            #expect(try answer("metadata.request_id = '\(id)'")["totals"]?["requests"]?.integer == 1)

            // What was observed before a range holds on where a replay puts it under other rules: no key multiplies again.
            try writeText(
                "\(pipeline.work.path)/other.yaml",
                "version: 1\nobserve: { events: 2000, many_values: 450 }\n"
                    + "values: { case: { env: lower } }\n")
            let replay = try pipeline.command([
                "replay", "--from", timestamp(begin + 3_600), "--to", timestamp(begin + 4 * 3_600), "--rules",
                "\(pipeline.work.path)/other.yaml",
            ])
            #expect(replay.status == 0, "\(replay.errors)")
            let replayed = try keys()
            for key in ["request_id", "_user", "service", "env"] {
                #expect(replayed[key]?["class"] == after[key]?["class"], "\(key)")
                #expect(replayed[key]?["requests"] == after[key]?["requests"], "\(key)")
            }
            #expect(replayed["request_id"]?["since"] == request["since"])
            let one = try answer("metadata.request_id = '\(id)'")
            #expect(one["totals"]?["requests"]?.integer == 1)
            #expect(
                one["plan"]?["reason"]?.string?.contains("metadata.request_id is an identifier") == true, "\(one.text)")
            // Observed classes hold on under other rules, but for keys that these name: that is what would change.
            func differences(_ rules: String) throws -> JSONValue {
                try writeText("\(pipeline.work.path)/next.yaml", rules)
                let result = try pipeline.command([
                    "rules", "diff", "\(pipeline.work.path)/rules.yaml", "\(pipeline.work.path)/next.yaml", "--json",
                    "--from", timestamp(begin), "--to", timestamp(begin + 5 * 3_600),
                ])
                #expect(result.status == 0, "\(result.errors)")
                return try JSONValue.parse(result.output)
            }
            func standing(_ difference: JSONValue) -> [String] {
                (difference["observed"]?.array ?? []).map { row in
                    ["key", "class", "old", "new"].map { row[$0]?.string ?? "" }.joined(separator: " ")
                }
            }
            func changedClasses(_ difference: JSONValue) -> [String] {
                (difference["keys"]?.array ?? []).map { row in
                    ["key", "old_class", "new_class"].map { row[$0]?.string ?? "" }.joined(separator: " ")
                }.sorted()
            }
            let same = try differences("version: 1\nvalues: { case: { env: lower } }\n")
            #expect(changedClasses(same).isEmpty && same["changed"]?.integer == 0, "\(same.text)")
            #expect(standing(same) == ["_user entity holds holds", "request_id identifier holds holds"])
            let named = try differences("version: 1\nclasses: { request_id: dimension }\n")
            #expect(changedClasses(named) == ["request_id identifier dimension"], "\(named.text)")
            #expect(standing(named) == ["_user entity holds holds", "request_id identifier holds named"])
            let off = try differences("version: 1\nobserve: { enabled: false }\n")
            #expect(
                changedClasses(off) == ["_user entity dimension", "request_id identifier dimension"], "\(off.text)")
            #expect(standing(off) == ["_user entity holds off", "request_id identifier holds off"])
            // Said once, before the restart, whatever came late.
            said += pipeline.errors(of: .up)
            #expect(
                said.split(separator: "\n").count {
                    $0.contains("\"consumer_class_observed\"") && $0.contains("request_id")
                } == 1)
            try pipeline.stopAll()
        }

        @Test("`rules diff` counts what other rules would change in the stored events", .timeLimit(.minutes(2)))
        func countsWhatWouldChange() throws {
            let pipeline = try Pipeline("diff", rules: "version: 1")
            try pipeline.start(.up)
            for _ in 0..<3 { #expect(try pipeline.chat(#"{"env":"prod","foo":"a"}"#).status == 200) }
            #expect(try pipeline.chat(#"{"env":"test"}"#).status == 200)
            try pipeline.expectCount("metadata.env exists", 4)
            // Equal metadata is normalized once.
            let metrics = try ask(pipeline.apiPort, "GET", "/metrics").text
            #expect(metrics.contains("millrace_consumer_metadata_cache_total{result=\"hit\"} 1\n"), "\(metrics)")
            #expect(metrics.contains("millrace_consumer_metadata_cache_total{result=\"miss\"} 3\n"))
            #expect(metrics.contains("millrace_consumer_metadata_overflow_total{budget=\"values\"} 0\n"))
            try writeText("\(pipeline.work.path)/next.yaml", rules)
            let result = try run(
                [
                    Place.binary, "rules", "diff", "rules.yaml", "next.yaml", "--json", "--config",
                    "\(pipeline.work.path)/millrace.yaml",
                ], directory: pipeline.work.path)
            #expect(
                result.output == #"""
                    {"events":4,"changed":3,"keys":[{"key":"env","events":3,"old_class":"dimension","new_class":"dimension"}],"differences":1,"has_more_differences":false,"changes":[{"key":"env","old":"prod","new":"production","events":3}],"observed":[]}

                    """#, "\(result.errors)")
            // Another class changes no value, and a hashed one is shown hashed; no key is made for a look.
            try writeText(
                "\(pipeline.work.path)/classes.yaml",
                "version: 1\nkeys: { hash: [foo] }\nclasses: { foo: identifier, env: entity }\n")
            let classes = try run(
                [
                    Place.binary, "rules", "diff", "rules.yaml", "classes.yaml", "--config",
                    "\(pipeline.work.path)/millrace.yaml",
                ], directory: pipeline.work.path)
            #expect(
                classes.output.hasPrefix(
                    "4 events, 4 of them would change\n\nby key\n  4  env, dimension -> entity\n"
                        + "  3  foo, dimension -> identifier\n\nby value\n  3  foo: a -> hmac:"), "\(classes.output)")
            #expect(access("\(pipeline.work.path)/hash.key", F_OK) != 0)
            // The key of hashes is the environment's, or that of a file with the same text.
            func hashed(_ environment: [String: String]) throws -> String {
                let result = try run(
                    [
                        Place.binary, "rules", "diff", "rules.yaml", "classes.yaml", "--config",
                        "\(pipeline.work.path)/millrace.yaml",
                    ], directory: pipeline.work.path, environment: environment)
                #expect(result.status == 0 && result.output.contains("foo: a -> hmac:"), "\(result.errors)")
                return result.output
            }
            let key = "a-key-of-some-32-bytes-0123456789"
            try writeText("\(pipeline.work.path)/named.key", "\(key)\n")
            let byVariable = try hashed(["MILLRACE_NORMALIZATION_HASH_KEY": key])
            #expect(try hashed(["MILLRACE_NORMALIZATION_HASH_KEY": key]) == byVariable)
            #expect(
                try hashed(["MILLRACE_NORMALIZATION_HASH_KEY_FILE": "\(pipeline.work.path)/named.key"]) == byVariable)
            #expect(try hashed(["MILLRACE_NORMALIZATION_HASH_KEY": "another-\(key)"]) != byVariable)
            #expect(try hashed([:]) != byVariable)
            // With Kafka it must be named; the environment does.
            let shared = ["config", "check", "--log.kind", "kafka", "--normalization.rules", "classes.yaml"]
            func check(_ environment: [String: String]) throws -> (status: Int32, output: String, errors: String) {
                try run([Place.binary] + shared, directory: pipeline.work.path, environment: environment)
            }
            let unnamed = try check([:])
            #expect(unnamed.status == 2 && unnamed.errors.contains("MILLRACE_NORMALIZATION_HASH_KEY"), "\(unnamed)")
            let checked = try check(["MILLRACE_NORMALIZATION_HASH_KEY": key])
            #expect(checked.status == 0 && !"\(checked)".contains(key), "\(checked)")
            let nowhere = try run(
                [Place.binary, "rules", "diff", "rules.yaml", "next.yaml", "--store.url", "sqlite:nowhere.db"],
                directory: pipeline.work.path)
            #expect(nowhere.status == 1 && nowhere.errors.contains("There is no store at"), "\(nowhere.errors)")
            #expect(access("\(pipeline.work.path)/nowhere.db", F_OK) != 0)
            try pipeline.stopAll()
        }
    }
}

extension String {
    /// How often the text stands in it.
    fileprivate func occurrences(_ text: String) -> Int { ranges(of: text).count }
}
