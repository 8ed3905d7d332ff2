// The client libraries' samples as their users write them, and what the answers must then be.

import JSONText
import Testing

/// A sample, and which base URLs it is written with.
enum Sample: String, CaseIterable {
    case openAIJavaScript = "openai-js.mjs"
    case openAI028 = "openai_028.py"
    case langChain = "langchain_sample.py"
    case openAIToday = "openai_today.py"
    case anthropicToday = "anthropic_today.py"
    case langChainToday = "langchain_today.py"

    var command: [String] {
        switch self {
        case .openAIJavaScript: ["node", Place.sample(rawValue)]
        case .openAI028, .langChain: [Place.python("openai-0.28"), Place.sample(rawValue)]
        case .openAIToday: [Place.python("openai-today"), Place.sample(rawValue)]
        case .anthropicToday: [Place.python("anthropic-today"), Place.sample(rawValue)]
        case .langChainToday: [Place.python("langchain-today"), Place.sample(rawValue)]
        }
    }
}

/// What clients were told, added up.
struct Told: Equatable {
    var requests = 0
    var inputTokens: Int64 = 0
    var outputTokens: Int64 = 0
}

/// Dollars for a thousand million tokens, in and out, of the models that the samples use; the published prices.
private let prices: [String: (input: Int64, output: Int64)] = [
    "gpt-4o-mini-2024-07-18": (150, 600), "gpt-3.5-turbo-instruct": (1_500, 2_000),
    "text-embedding-3-small": (20, 0), "text-davinci-003": (20_000, 20_000), "claude-3-5-haiku-20241022": (800, 4_000),
]

extension Pipeline {
    /// Runs every sample with both base URLs; what they were told.
    func runSamples(credential: String, key: String) throws -> Told {
        var told = Told()
        for base in ["/v1/proxy", "/v1"] {
            for sample in Sample.allCases {
                let result = try run(
                    sample.command, directory: work.path,
                    environment: [
                        "MILLRACE_BASE_URL": "http://127.0.0.1:\(proxyPort)\(base)",
                        "MILLRACE_TEST_CLIENTS": Place.clients, "OPENAI_API_KEY": credential, "PORTKEY_API_KEY": key,
                        "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
                    ])
                guard result.status == 0 else {
                    throw ChildError("\(sample.rawValue) with \(base) ended with \(result.status): \(result.errors)")
                }
                let line = try JSONValue.parse(String(result.output.split(separator: "\n").last ?? ""))
                told.requests += Int(try #require(line["requests"]?.integer))
                told.inputTokens += try #require(line["input_tokens"]?.integer)
                told.outputTokens += try #require(line["output_tokens"]?.integer)
            }
        }
        return told
    }

    /// The samples' requests are all counted, with the tokens that the clients were told and their cost, and neither
    /// our headers nor the caller's credential went where they must not.
    func expectSamples(_ told: Told, credential: String, key: String) throws {
        let condition = "metadata.foo = 'abc' and metadata.bar = 'def'"
        try expectCount(condition, told.requests)
        let measures = ["requests", "errors", "input_tokens", "output_tokens", "cost_usd"]
        let answer = try query(condition, groupBy: ["model"], measures: measures)
        let totals = try #require(answer["totals"])
        #expect(totals["input_tokens"]?.integer == told.inputTokens)
        #expect(totals["output_tokens"]?.integer == told.outputTokens)
        #expect(totals["errors"]?.integer == 0)
        #expect(answer["exact"]?.boolean == true)
        #expect(answer["plan"]?["source"]?.string == "rollups")
        var sum: Int64 = 0
        for row in try #require(answer["data"]?.array) {
            // The list of models is an answer without a model.
            guard let model = row["group"]?["model"]?.string, !model.isEmpty else { continue }
            let price = try #require(prices[model], "no price is known to this test for \(model)")
            let input = try #require(row["measures"]?["input_tokens"]?.integer)
            let output = try #require(row["measures"]?["output_tokens"]?.integer)
            let nano = input * price.input + output * price.output
            #expect(nanoUSD(row["measures"]?["cost_usd"]) == nano, "\(model)")
            sum += nano
        }
        #expect(nanoUSD(totals["cost_usd"]) == sum)
        #expect(try count("metadata.foo = 'abc' and not metadata.bar = 'def'") == 0)
        #expect(try count("metadata.foo = 'other'") == 0)

        let seen = try requestsSeenByProvider()
        let names = seen.flatMap { $0["headers"]?.array ?? [] }.compactMap { $0["name"]?.string }
        #expect(seen.count >= told.requests)
        #expect(names.contains("authorization"))
        #expect(names.filter { $0.hasPrefix("x-portkey") }.isEmpty)
        for secret in [credential, key] { #expect(try work.files(containing: secret).isEmpty) }
    }

    private func nanoUSD(_ value: JSONValue?) -> Int64? { value?.double.map { Int64(($0 * 1e9).rounded()) } }
}
