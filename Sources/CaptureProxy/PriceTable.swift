// A dated table of prices -> what an exchange cost, in exact integers. Pure.

package import Events
import JSONText

/// The table is data: `schemas/prices.json`, or the file that `prices.file` names.
///
/// `{ "version", "source", "models": [{ "provider", "model", "input", "output", "cached"? }] }`, prices in nano-USD a
/// token. A model is found by its exact name, else by the longest entry that its name continues with a dash and a date
/// or revision (`gpt-4o-2024-08-06` is `gpt-4o`).
package struct PriceTable: Sendable {
    private struct Price: Sendable {
        var input: Int64
        var output: Int64
        var cached: Int64
    }

    package let version: String
    private let prices: [String: [String: Price]]

    package init(json: [UInt8]) throws(PriceTableError) {
        let table: JSONValue
        do throws(JSONTextError) {
            table = try JSONValue.parse(json)
        } catch {
            throw PriceTableError(problem: "the price table is not JSON: \(error)")
        }
        guard let version = table["version"]?.string, !version.isEmpty, let models = table["models"]?.array else {
            throw PriceTableError(problem: "the price table needs 'version' (text) and 'models' (a list)")
        }
        var prices: [String: [String: Price]] = [:]
        for (index, entry) in models.enumerated() {
            guard let provider = entry["provider"]?.string, let model = entry["model"]?.string,
                let input = entry["input"]?.integer, let output = entry["output"]?.integer, input >= 0, output >= 0
            else {
                throw PriceTableError(
                    problem:
                        "models[\(index)] needs 'provider', 'model', and 'input' and 'output' in nano-USD a token, from 0 up"
                )
            }
            let cached = entry["cached"]?.integer ?? input
            guard cached >= 0 else { throw PriceTableError(problem: "models[\(index)]: 'cached' is below 0") }
            prices[provider, default: [:]][model] = Price(input: input, output: output, cached: cached)
        }
        self.version = version
        self.prices = prices
    }

    /// nil where no price is known, or where the sum leaves 64 bits. Cached tokens are part of the input.
    package func cost(provider: String, model: String, input: UInt64, output: UInt64, cached: UInt64) -> NanoUSD? {
        guard let price = price(provider, model) else { return nil }
        let cachedTokens = min(cached, input)
        var sum: Int64 = 0
        for (tokens, rate) in [
            (input - cachedTokens, price.input), (cachedTokens, price.cached), (output, price.output),
        ] {
            let (part, partOverflows) = Int64(clamping: tokens).multipliedReportingOverflow(by: rate)
            let (total, totalOverflows) = sum.addingReportingOverflow(part)
            if partOverflows || totalOverflows { return nil }
            sum = total
        }
        return NanoUSD(sum)
    }

    private func price(_ provider: String, _ model: String) -> Price? {
        guard let models = prices[provider] else { return nil }
        if let exact = models[model] { return exact }
        var name = Substring(model)
        while let dash = name.lastIndex(of: "-") {
            // Only what reads as a date or revision may be left out: another word is another model.
            guard name[name.index(after: dash)...].utf8.allSatisfy({ $0 >= 0x30 && $0 <= 0x39 }) else { return nil }
            name = name[..<dash]
            if let found = models[String(name)] { return found }
        }
        return nil
    }
}

package struct PriceTableError: Error, Sendable, CustomStringConvertible {
    package var problem: String
    package var description: String { problem }
}
