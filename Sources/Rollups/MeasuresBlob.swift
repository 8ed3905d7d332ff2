// The measures of a rollup row as bytes: each as a varint, a third of what they take as integers.

import EventCodec

extension Measures {
    package func append(to bytes: inout [UInt8]) {
        let values = [
            requests, inputTokens, outputTokens, cachedTokens, reasoningTokens, costNanoUSD, requestBytes,
            responseBytes, latencyCount, latencySum, firstTokenCount, firstTokenSum, overheadCount, overheadSum,
        ]
        for value in values { bytes.appendVarint(UInt64(bitPattern: value)) }
    }

    /// As `append` has written them. Leaves what follows; nil where the bytes end too soon.
    package init?(decoding rest: inout UnsafeRawBufferPointer) {
        var reader = VarintReader(rest)
        var isBroken = false
        @inline(__always) func next() -> Int64 {
            guard let value = reader.next() else {
                isBroken = true
                return 0
            }
            return Int64(bitPattern: value)
        }
        self.init()
        requests = next()
        inputTokens = next()
        outputTokens = next()
        cachedTokens = next()
        reasoningTokens = next()
        costNanoUSD = next()
        requestBytes = next()
        responseBytes = next()
        latencyCount = next()
        latencySum = next()
        firstTokenCount = next()
        firstTokenSum = next()
        overheadCount = next()
        overheadSum = next()
        if isBroken { return nil }
        rest = UnsafeRawBufferPointer(rebasing: rest[reader.position...])
    }
}
