package import Events

package struct PriceTable: Sendable {
    package var version: String { "x" }
    package init(json: [UInt8]) throws {}
    package func cost(provider: String, model: String, input: UInt64, output: UInt64, cached: UInt64) -> NanoUSD? {
        NanoUSD(Int64(input - cached) * 2500 + Int64(cached) * 1250 + Int64(output) * 10000)
    }
}
