// The additive measures of a rollup row. All integers: every store gives the same answer to the bit.

package struct Measures: Sendable, Equatable {
    package var requests: Int64 = 0
    package var inputTokens: Int64 = 0
    package var outputTokens: Int64 = 0
    package var cachedTokens: Int64 = 0
    package var reasoningTokens: Int64 = 0
    package var costNanoUSD: Int64 = 0
    package var requestBytes: Int64 = 0
    package var responseBytes: Int64 = 0
    /// How many events had the timing, and the sum of it in microseconds.
    package var latencyCount: Int64 = 0
    package var latencySum: Int64 = 0
    package var firstTokenCount: Int64 = 0
    package var firstTokenSum: Int64 = 0
    package var overheadCount: Int64 = 0
    package var overheadSum: Int64 = 0

    package init() {}

    package static func += (a: inout Measures, b: Measures) { a.add(b, sign: 1) }
    package static func -= (a: inout Measures, b: Measures) { a.add(b, sign: -1) }

    // Wraps rather than traps: a hostile count must not stop a partition, and wrapping sums still cancel exactly.
    private mutating func add(_ b: Measures, sign: Int64) {
        requests &+= b.requests &* sign
        inputTokens &+= b.inputTokens &* sign
        outputTokens &+= b.outputTokens &* sign
        cachedTokens &+= b.cachedTokens &* sign
        reasoningTokens &+= b.reasoningTokens &* sign
        costNanoUSD &+= b.costNanoUSD &* sign
        requestBytes &+= b.requestBytes &* sign
        responseBytes &+= b.responseBytes &* sign
        latencyCount &+= b.latencyCount &* sign
        latencySum &+= b.latencySum &* sign
        firstTokenCount &+= b.firstTokenCount &* sign
        firstTokenSum &+= b.firstTokenSum &* sign
        overheadCount &+= b.overheadCount &* sign
        overheadSum &+= b.overheadSum &* sign
    }
}

/// The timings that have a sketch.
package enum SketchKind: UInt8, CaseIterable, Sendable {
    case latency = 0
    case firstToken = 1
    case overhead = 2
}

/// One bin of a sketch: `index` as `LatencySketch.bin(of:)` gives it.
package struct SketchBin: Sendable, Equatable {
    package var kind: SketchKind
    package var index: Int16
    package var count: Int64

    package init(kind: SketchKind, index: Int16, count: Int64) {
        self.kind = kind
        self.index = index
        self.count = count
    }
}
