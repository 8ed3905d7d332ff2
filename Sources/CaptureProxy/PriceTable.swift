// A dated table of prices -> what an exchange cost, in exact integers. Pure.

package import Events
import JSONText

/// The table is data: `schemas/prices.json`, or the file that `prices.file` names. docs/proxy.md, "Cost", has its form.
///
/// Prices are in nano-USD a token. A model is found by its exact name, else by the longest entry that its name continues
/// with a dash and a date, a revision of two digits or more, or `latest` (`gpt-4o-2024-08-06` is `gpt-4o`).
package struct PriceTable: Sendable {
    fileprivate struct Price: Sendable {
        var input: UInt64
        var output: UInt64
        var cached: UInt64
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
        self.version = version
        var prices: [String: [String: Price]] = [:]
        for (index, entry) in models.enumerated() {
            let (provider, model, price) = try Self.entry(entry, "models[\(index)]")
            guard prices[provider]?[model] == nil else {
                throw PriceTableError(problem: "models[\(index)]: \(provider) has the model '\(model)' twice")
            }
            prices[provider, default: [:]][model] = price
        }
        guard let providers = (table["providers"] ?? .array([])).array else {
            throw PriceTableError(problem: "'providers' must be a list")
        }
        let listed = prices
        for (index, entry) in providers.enumerated() {
            guard let provider = entry["provider"]?.string, !provider.isEmpty else {
                throw PriceTableError(problem: "providers[\(index)] needs 'provider' (text)")
            }
            guard let like = entry["like"] else { continue }
            guard let other = like.string, let models = listed[other] else {
                throw PriceTableError(
                    problem: "providers[\(index)]: 'like' must name a provider that has models in the table")
            }
            // Rows of its own go before.
            prices[provider, default: [:]].merge(models) { own, _ in own }
        }
        self.prices = prices
    }

    private static func entry(
        _ entry: JSONValue, _ place: String
    ) throws(PriceTableError) -> (provider: String, model: String, price: Price) {
        guard let provider = entry["provider"]?.string, let model = entry["model"]?.string,
            let input = entry["input"]?.unsigned, let output = entry["output"]?.unsigned
        else {
            throw PriceTableError(
                problem: "\(place) needs 'provider', 'model', and 'input' and 'output' in nano-USD a token, "
                    + "integers from 0 up")
        }
        let given = entry["cached"] ?? .null
        guard let cached = given.isNull ? input : given.unsigned else {
            throw PriceTableError(problem: "\(place): 'cached' must be nano-USD a token, an integer from 0 up")
        }
        return (provider, model, Price(input: input, output: output, cached: cached))
    }

    /// nil where no price is known, or where the sum leaves 63 bits. Cached tokens are part of the input.
    package func cost(provider: String, model: String, input: UInt64, output: UInt64, cached: UInt64) -> NanoUSD? {
        price(provider, model)?.cost(input: input, output: output, cached: cached)
    }

    fileprivate func price(_ provider: String, _ model: String) -> Price? {
        guard let models = prices[provider] else { return nil }
        if let exact = models[model] { return exact }
        var name = Substring(model)
        while let dash = name.lastIndex(of: "-") {
            guard Self.isRevision(name[name.index(after: dash)...]) else { return nil }
            name = name[..<dash]
            if let found = models[String(name)] { return found }
        }
        return nil
    }

    /// Only what reads as a date or revision may be left out: another word, or the digit of a version, is another model.
    private static func isRevision(_ text: Substring) -> Bool {
        text == "latest" || text.utf8.count >= 2 && text.utf8.allSatisfy { $0 >= 0x30 && $0 <= 0x39 }
    }
}

package struct PriceTableError: Error, Sendable, CustomStringConvertible {
    package var problem: String
    package var description: String { "\(problem). Correct the table; docs/proxy.md, \"Cost\", has its form." }
}

extension PriceTable.Price {
    fileprivate func cost(input: UInt64, output: UInt64, cached: UInt64) -> NanoUSD? {
        let cachedTokens = min(cached, input)
        var sum: UInt64 = 0
        for (tokens, rate) in [(input - cachedTokens, self.input), (cachedTokens, self.cached), (output, self.output)] {
            let (part, partOverflows) = tokens.multipliedReportingOverflow(by: rate)
            let (total, totalOverflows) = sum.addingReportingOverflow(part)
            if partOverflows || totalOverflows { return nil }
            sum = total
        }
        return Int64(exactly: sum).map { NanoUSD($0) }
    }
}

/// A table with the prices at hand that were looked up last: a name with its revision is taken apart once.
struct PriceMemory {
    private struct Model: Hashable {
        var provider: String
        var model: String
    }

    /// Names come from answers: however many there are, no more are kept.
    private static let limit = 1_024

    let table: PriceTable
    private var found: [Model: PriceTable.Price?] = [:]

    init(_ table: PriceTable) { self.table = table }

    /// As the table's own.
    mutating func cost(provider: String, model: String, input: UInt64, output: UInt64, cached: UInt64) -> NanoUSD? {
        let name = Model(provider: provider, model: model)
        if let known = found[name] { return known?.cost(input: input, output: output, cached: cached) }
        if found.count >= Self.limit { found.removeAll(keepingCapacity: true) }
        let price = table.price(provider, model)
        found[name] = .some(price)
        return price?.cost(input: input, output: output, cached: cached)
    }
}
