// What a question measures, by name: `requests`, `latency_ms.p99`, `distinct.metadata.user`.

package import Rollups

package enum Statistic: String, CaseIterable, Sendable {
    case avg, p50, p90, p95, p99

    /// nil for the average.
    var percentile: Int? {
        switch self {
        case .avg: nil
        case .p50: 50
        case .p90: 90
        case .p95: 95
        case .p99: 99
        }
    }
}

package enum Measure: Hashable, Sendable {
    case requests, errors, errorRate, costUSD, inputTokens, outputTokens, totalTokens, cachedTokens, reasoningTokens
    case requestBytes, responseBytes
    case timing(SketchKind, Statistic)
    /// How many values of a metadata key occur.
    case distinct(String)

    private static let plain: [(name: String, measure: Measure)] = [
        ("requests", .requests), ("errors", .errors), ("error_rate", .errorRate), ("cost_usd", .costUSD),
        ("input_tokens", .inputTokens), ("output_tokens", .outputTokens), ("total_tokens", .totalTokens),
        ("cached_tokens", .cachedTokens), ("reasoning_tokens", .reasoningTokens), ("request_bytes", .requestBytes),
        ("response_bytes", .responseBytes),
    ]
    private static let timings: [(name: String, kind: SketchKind)] = [
        ("latency_ms", .latency), ("first_token_ms", .firstToken), ("overhead_ms", .overhead),
    ]

    /// Every name but `distinct.metadata.KEY`.
    package static let names: [String] =
        plain.map(\.name)
        + timings.flatMap { timing in Statistic.allCases.map { "\(timing.name).\($0.rawValue)" } }

    package init?(name: String) {
        if let found = Self.plain.first(where: { $0.name == name }) {
            self = found.measure
            return
        }
        for timing in Self.timings where name.hasPrefix(timing.name + ".") {
            guard let statistic = Statistic(rawValue: String(name.dropFirst(timing.name.count + 1))) else { return nil }
            self = .timing(timing.kind, statistic)
            return
        }
        guard name.hasPrefix("distinct."), case .metadata(let key)? = Dimension(name: String(name.dropFirst(9)))
        else { return nil }
        self = .distinct(key)
    }

    package var name: String {
        switch self {
        case .timing(let kind, let statistic):
            "\(Self.timings.first { $0.kind == kind }?.name ?? "").\(statistic.rawValue)"
        case .distinct(let key): "distinct." + Dimension.metadata(key).name
        default: Self.plain.first { $0.measure == self }?.name ?? ""
        }
    }
}

extension Dimension {
    /// `provider`, `metadata.KEY`, `metadata."any key"`; nil for anything else.
    package init?(name: String) {
        if let found = Dimension.named.first(where: { $0.name == name }) {
            self = found.dimension
            return
        }
        guard name.hasPrefix("metadata.") else { return nil }
        var key = name.dropFirst(9)
        if key.count >= 2, key.hasPrefix("\""), key.hasSuffix("\"") {
            key = key.dropFirst().dropLast()
            var out = ""
            var quotes = 0
            for character in key {
                quotes = character == "\"" ? quotes + 1 : 0
                if quotes == 2 { quotes = 0 } else { out.append(character) }
            }
            self = .metadata(out)
            return
        }
        guard !key.isEmpty else { return nil }
        self = .metadata(String(key))
    }

    /// Reads back as the same; quoted where the key needs it.
    package var name: String {
        if case .metadata(let key) = self {
            let isPlain = !key.isEmpty && key.utf8.allSatisfy(ConditionParser.isPlain)
            return "metadata."
                + (isPlain
                    ? key
                    : "\"\(key.split(separator: "\"", omittingEmptySubsequences: false).joined(separator: "\"\""))\"")
        }
        return Dimension.named.first { $0.dimension == self }?.name ?? ""
    }
}
