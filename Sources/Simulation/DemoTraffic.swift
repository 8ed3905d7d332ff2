// What `up --demo` sends: a seed -> requests as an application would write them, with metadata worth filtering by.

import JSONText

/// One request for the proxy.
package struct DemoRequest: Sendable {
    package var path: String
    package var headers: [(name: String, value: String)]
    package var body: [UInt8]
}

/// Endless and repeatable: the same seed gives the same requests.
package struct DemoTraffic: Sendable {
    private var random: SeededGenerator

    package init(seed: UInt64) { random = SeededGenerator(seed: seed) }

    private static let teams = ["search", "support", "billing", "growth", "research"]
    private static let features = ["chat", "summary", "autocomplete", "triage"]
    private static let envs = ["production", "production", "production", "staging", "development"]
    private static let models = ["gpt-4o-mini", "gpt-4o-mini", "gpt-4o", "gpt-4.1-mini"]
    private static let questions = [
        "What is a millrace?", "Summarise this ticket in one line: the wheel does not turn since Monday.",
        "Suggest a friendlier subject for the invoice reminder.", "Which of these three reviews mentions the price?",
        "Translate into French: every drop is counted once.",
    ]

    package mutating func next() -> DemoRequest {
        let team = random.below(Self.teams.count)
        var metadata: [JSONMember] = [
            .init(key: "foo", value: random.below(2) == 0 ? "abc" : "xyz"),
            .init(key: "bar", value: random.below(3) == 0 ? "ghi" : "def"),
            .init(key: "team", value: .string(Self.teams[team])),
            // Each team has its own habit of naming: normalization shows what it is good for.
            .init(key: team % 2 == 0 ? "featureName" : "feature_name", value: .string(pick(Self.features))),
            .init(key: "env", value: .string(pick(Self.envs))),
        ]
        if random.below(10) > 0 {
            metadata.append(.init(key: "_user", value: .string("user-\(random.below(40) + 1)")))
        }
        let streams = random.below(3) == 0
        let dice = random.below(100)
        let model = dice < 3 ? "error-429" : dice < 5 ? "error-500" : pick(Self.models)
        var body: [JSONMember] = [
            .init(key: "model", value: .string(model)),
            .init(key: "messages", value: [["role": "user", "content": .string(pick(Self.questions))]]),
        ]
        if streams {
            body.append(.init(key: "stream", value: true))
            body.append(.init(key: "stream_options", value: ["include_usage": true]))
        }
        return DemoRequest(
            path: "/v1/proxy/chat/completions",
            headers: [
                ("content-type", "application/json"), ("authorization", "Bearer demo"), ("x-portkey-api-key", "demo"),
                ("x-portkey-mode", "proxy openai"), ("x-portkey-meta", JSONValue.object(metadata).text),
            ],
            body: JSONValue.object(body).bytes)
    }

    private mutating func pick(_ list: [String]) -> String { list[random.below(list.count)] }
}
