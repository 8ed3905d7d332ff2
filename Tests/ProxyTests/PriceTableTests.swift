// What an exchange cost: which row a model's name finds, exact integers, and what a table that is not right says.

import CaptureProxy
import Events
import HTTPTransport
import JSONText
import Schemas
import Telemetry
import Testing

@Suite struct PriceTableTests {
    private static let rows = """
        {"version": "7", "providers": [{"provider": "openai", "source": "https://openai.example/prices"},
          {"provider": "azure-openai", "like": "openai"}],
         "models": [
          {"provider": "openai", "model": "gpt-4o", "input": 2500, "output": 10000, "cached": 1250},
          {"provider": "openai", "model": "gpt-4o-2024-05-13", "input": 5000, "output": 15000},
          {"provider": "openai", "model": "gpt-4", "input": 30000, "output": 60000},
          {"provider": "azure-openai", "model": "gpt-4", "input": 33000, "output": 66000},
          {"provider": "anthropic", "model": "claude-opus-4", "input": 15000, "output": 75000}]}
        """

    private func table(_ json: String = Self.rows) throws(PriceTableError) -> PriceTable {
        try PriceTable(json: Array(json.utf8))
    }

    /// By the price of an input token.
    @Test(
        arguments: [
            ("openai", "gpt-4o", 2_500), ("openai", "gpt-4o-2024-08-06", 2_500), ("openai", "gpt-4o-latest", 2_500),
            // A row of its own goes before the family's.
            ("openai", "gpt-4o-2024-05-13", 5_000), ("openai", "gpt-4-0613", 30_000),
            ("openai", "gpt-4-1106-0613", 30_000),
            // Another word, or a version's digit, is another model.
            ("openai", "gpt-4o-mini", nil), ("openai", "gpt-4-32k", nil), ("openai", "gpt-4-1106-preview", nil),
            ("openai", "gpt-4-5", nil), ("openai", "gpt-4.1", nil), ("openai", "gpt-4-", nil), ("openai", "gpt", nil),
            ("openai", "GPT-4o", nil), ("openai", "-0613", nil), ("openai", "", nil), ("openai", "latest", nil),
            ("openai", "gpt-4o-mini-2024-07-18", nil),
            ("anthropic", "claude-opus-4-20250514", 15_000), ("anthropic", "claude-opus-4-5-20251101", nil),
            ("azure-openai", "gpt-4o-2024-08-06", 2_500), ("azure-openai", "gpt-4", 33_000), ("azure-openai", "x", nil),
            ("nobody", "gpt-4o", nil),
        ] as [(String, String, Int64?)])
    func aModelIsFoundByItsNameOrWhereOnlyARevisionFollows(_ provider: String, _ model: String, _ price: Int64?) throws
    {
        let cost = try table().cost(provider: provider, model: model, input: 1, output: 0, cached: 0)
        #expect(cost == price.map { NanoUSD($0) })
    }

    @Test(
        arguments: [
            (12, 3, 4, 8 * 2_500 + 4 * 1_250 + 3 * 10_000), (0, 0, 0, 0), (10, 0, 10, 12_500),
            // More cached than there was input: as much as there was.
            (10, 0, 99, 12_500),
        ] as [(UInt64, UInt64, UInt64, Int64)])
    func aCostIsTheSumOfItsThreeKindsOfToken(_ input: UInt64, _ output: UInt64, _ cached: UInt64, _ nano: Int64) throws
    {
        let cost = try table().cost(provider: "openai", model: "gpt-4o", input: input, output: output, cached: cached)
        #expect(cost == NanoUSD(nano))
    }

    @Test func cachedTokensCostWhatInputDoesWhereTheRowDoesNotSay() throws {
        let cost = try table().cost(provider: "openai", model: "gpt-4", input: 100, output: 1, cached: 60)
        #expect(cost == NanoUSD(100 * 30_000 + 60_000))
    }

    @Test func aCostBeyond63BitsIsNoneAndNotAnotherNumber() throws {
        let one = try table(
            #"{"version":"1","models":[{"provider":"p","model":"m","input":1,"output":0},{"provider":"p","model":"n","input":3,"output":5}]}"#
        )
        func cost(_ model: String, _ input: UInt64, _ output: UInt64 = 0, cached: UInt64 = 0) -> NanoUSD? {
            one.cost(provider: "p", model: model, input: input, output: output, cached: cached)
        }
        let most = UInt64(Int64.max)
        #expect(cost("m", most) == NanoUSD(.max))
        #expect(cost("m", most + 1) == nil && cost("m", .max) == nil)
        // Tokens that cost nothing may be any number.
        #expect(cost("m", 2, .max) == NanoUSD(2))
        #expect(cost("n", most / 3) == NanoUSD(Int64(most / 3 * 3)))
        #expect(
            cost("n", most / 3 + 1) == nil && cost("n", .max, .max) == nil && cost("n", .max, .max, cached: 7) == nil)
        #expect(cost("n", most / 3, 1) == nil)
    }

    @Test(arguments: [
        ("", "is not JSON"), ("{", "is not JSON"), ("[]", "needs 'version'"),
        (#"{"version":"1"}"#, "'models' (a list)"),
        (#"{"version":"","models":[]}"#, "needs 'version'"), (#"{"version":1,"models":[]}"#, "needs 'version'"),
        (#"{"version":"1","models":[{}]}"#, "models[0] needs 'provider', 'model'"),
        (
            #"{"version":"1","models":[{"provider":"p","model":"m","input":1,"output":1},{"provider":"p","model":"n","input":-1,"output":1}]}"#,
            "models[1] needs"
        ),
        (
            #"{"version":"1","models":[{"provider":"p","model":"m","input":0.5,"output":1}]}"#,
            "nano-USD a token, integers"
        ),
        (#"{"version":"1","models":[{"provider":"p","model":"m","input":"2","output":1}]}"#, "models[0] needs"),
        (
            #"{"version":"1","models":[{"provider":"p","model":"m","input":2,"output":1,"cached":-1}]}"#,
            "models[0]: 'cached'"
        ),
        (
            #"{"version":"1","models":[{"provider":"p","model":"m","input":2,"output":1,"cached":"2"}]}"#,
            "models[0]: 'cached'"
        ),
        (
            #"{"version":"1","models":[{"provider":"p","model":"m","input":2,"output":1},{"provider":"p","model":"m","input":3,"output":1}]}"#,
            "models[1]: p has the model 'm' twice"
        ),
        (#"{"version":"1","models":[],"providers":{}}"#, "'providers' must be a list"),
        (#"{"version":"1","models":[],"providers":[{"like":"p"}]}"#, "providers[0] needs 'provider'"),
        (#"{"version":"1","models":[],"providers":[{"provider":"q","like":"p"}]}"#, "providers[0]: 'like' must name"),
    ])
    func aTableThatIsNotRightSaysWhereAndWhatToDo(_ json: String, _ said: String) throws {
        let error = try #require(throws: PriceTableError.self) { try table(json) }
        #expect(error.description.contains(said), "\(error)")
        #expect(error.description.contains("Correct the table; docs/proxy.md"))
    }

    @Test func theBuiltInTableIsDatedAndNamesASourceForEachProvider() throws {
        let table = try PriceTable(json: Schemas.prices)
        let json = try JSONValue.parse(Schemas.prices)
        let date = try #require(json["date"]?.string)
        #expect(date.utf8.count == 10 && table.version.hasPrefix(date))
        let providers = try #require(json["providers"]?.array)
        #expect(providers.allSatisfy { $0["source"]?.string?.hasPrefix("https://") == true })
        let sourced = Set(providers.compactMap { $0["provider"]?.string })
        let models = try #require(json["models"]?.array)
        #expect(models.allSatisfy { sourced.contains($0["provider"]?.string ?? "") })
        for (provider, model, price) in [
            ("openai", "gpt-4o-mini-2024-07-18", 150), ("azure-openai", "gpt-4o-2024-08-06", 2_500),
            ("openai", "gpt-4o-2024-05-13", 5_000), ("anthropic", "claude-3-5-sonnet-latest", 3_000),
            ("anthropic", "claude-3-7-sonnet-latest", 3_000), ("mistral-ai", "mistral-large-latest", 2_000),
            ("mistral-ai", "mistral-small-2409", 100), ("cohere", "command-r-08-2024", 150),
        ] as [(String, String, Int64)] {
            let cost = table.cost(provider: provider, model: model, input: 1, output: 0, cached: 0)
            #expect(cost == NanoUSD(price), "\(provider) \(model)")
        }
        // Its own name says that it is none of those.
        #expect(table.cost(provider: "openai", model: "chatgpt-4o-latest", input: 1, output: 0, cached: 0) == nil)
    }

    @Test func anExchangeOfAModelWithoutAPriceHasNoCostAndIsCounted() throws {
        let hop = try Hop(respond: { request in
            let model = String(decoding: request.body, as: UTF8.self).contains("known") ? "gpt-4o" : "made-up"
            return .json(200, #"{"model":"\#(model)","usage":{"prompt_tokens":12,"completion_tokens":3}}"#)
        })
        let client = try RawClient(port: hop.proxy.port)
        for model in ["known", "other", "another"] {
            let body = "{\"model\":\"\(model)\"}"
            client.send(
                "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx-portkey-provider: openai\r\n"
                    + "content-type: application/json\r\ncontent-length: \(body.utf8.count)\r\n\r\n\(body)")
            #expect(try #require(client.answer()).head.hasPrefix("HTTP/1.1 200"))
        }
        #expect(hop.metrics.unpriced.value == 2)
        let events = try hop.finish()
        #expect(events.map(\.cost) == [NanoUSD(12 * 2_500 + 3 * 10_000), nil, nil])
        #expect(events.map(\.priceVersion) == ["test", "", ""])
        #expect(events.allSatisfy { $0.inputTokens == 12 })
    }
}
