// The roles apart, each its own process, on a real Apache Kafka.

import Testing

extension PipelineTests {
    @Suite(.serialized) struct KafkaRolesTests {
        @Test(
            "Proxy, consumer and API answer like `up` does, through a real Kafka",
            .timeLimit(.minutes(5)), arguments: [("4.2.0", 1), ("3.9.2", 1), ("4.2.0", 3)])
        func countsTheSamples(version: String, nodes: Int) throws {
            let brokers = try WorkDirectory("kafka")
            let kafka = try KafkaCluster(version: version, nodes: nodes, in: brokers.path)
            let pipeline = try Pipeline("roles", log: kafka.log)
            let ensured = try run(
                [Place.binary, "topics", "ensure", "--config", "\(pipeline.work.path)/millrace.yaml"],
                directory: pipeline.work.path)
            #expect(ensured.status == 0, "\(ensured.errors)")
            for role in [Pipeline.Role.api, .consumer, .proxy] { try pipeline.start(role) }
            let credential = "sk-test-\(UInt64.random(in: 0...UInt64.max))"
            let key = "pk-test-\(UInt64.random(in: 0...UInt64.max))"
            let told = try pipeline.runSamples(credential: credential, key: key)
            try pipeline.expectSamples(told, credential: credential, key: key)
            if nodes > 1 {
                // Leaders move; what is answered meanwhile is counted all the same.
                try kafka.crash(node: 2)
                for _ in 0..<20 { #expect(try pipeline.chat(#"{"foo":"moved"}"#).status == 200) }
                try pipeline.expectCount("metadata.foo = 'moved'", 20, seconds: 60)
            }
            for secret in [credential, key] { #expect(try brokers.files(containing: secret).isEmpty) }
            #expect(try !brokers.files(containing: "gpt-4o-mini").isEmpty, "the records are in the broker's files")
            try pipeline.stopAll()
        }

        @Test("Every role starts on an empty store and a topic that is not there yet", .timeLimit(.minutes(3)))
        func startsOnNothing() throws {
            let brokers = try WorkDirectory("kafka")
            let kafka = try KafkaCluster(in: brokers.path)
            let pipeline = try Pipeline("empty", log: kafka.log)
            for role in [Pipeline.Role.proxy, .consumer, .api] { try pipeline.start(role) }
            for _ in 0..<5 { #expect(try pipeline.chat(#"{"foo":"first"}"#).status == 200) }
            try pipeline.expectCount("metadata.foo = 'first'", 5, seconds: 60)
            try pipeline.stopAll()
        }

        @Test(
            "With the broker away the proxy answers and records; all is counted when it is back",
            .timeLimit(.minutes(4)))
        func bearsABrokerThatIsAway() throws {
            let brokers = try WorkDirectory("kafka")
            let kafka = try KafkaCluster(in: brokers.path)
            let pipeline = try Pipeline("away", log: kafka.log)
            for role in [Pipeline.Role.proxy, .consumer, .api] { try pipeline.start(role) }
            for _ in 0..<10 { #expect(try pipeline.chat(#"{"foo":"before"}"#).status == 200) }
            try pipeline.expectCount("metadata.foo = 'before'", 10, seconds: 60)
            try kafka.crash()
            for _ in 0..<50 { #expect(try pipeline.chat(#"{"foo":"during"}"#).status == 200) }
            #expect(try ask(pipeline.proxyOpsPort, "GET", "/readyz").status == 200)
            // The proxy may even die meanwhile: what it recorded is in its journal.
            try pipeline.crash(.proxy)
            try pipeline.start(.proxy)
            for _ in 0..<10 { #expect(try pipeline.chat(#"{"foo":"during"}"#).status == 200) }
            try kafka.restart()
            try pipeline.expectCount("metadata.foo = 'during'", 60, seconds: 90)
            try pipeline.expectCount("metadata.foo = 'before'", 10)
            try pipeline.stopAll()
        }
    }
}
