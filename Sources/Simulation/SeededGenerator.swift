// Randomness that repeats: seed -> the same numbers on every machine. All of this module draws from here.

import Glibc

/// SplitMix64 (Steele, Lea, Flood 2014): one addition and a mix a number, good enough for traffic, not for secrets.
package struct SeededGenerator: RandomNumberGenerator, Sendable {
    private var state: UInt64

    package init(seed: UInt64) { state = seed }

    package mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }

    /// In `0 ..< bound`, without a division; the bias is below 2⁻³² for the bounds used here.
    package mutating func below(_ bound: Int) -> Int { Int(next().multipliedFullWidth(by: UInt64(bound)).high) }

    /// In `0 ..< 1`.
    package mutating func fraction() -> Double { Double(next() >> 11) * 0x1p-53 }
}

/// Ranks `1...count`, rank k with probability proportional to k^-exponent (exponent ≠ 1), by rejection inversion
/// (Hörmann and Derflinger 1996): no table, so a million ranks cost nothing to set up.
package struct ZipfSampler: Sendable {
    private let count: Double
    private let exponent: Double
    private let lower: Double
    private let upper: Double
    private let shortcut: Double

    package init(count: Int, exponent: Double) {
        self.count = Double(count)
        self.exponent = exponent
        lower = Self.area(1.5, exponent) - 1
        upper = Self.area(Double(count) + 0.5, exponent)
        shortcut = 2 - Self.inverse(Self.area(2.5, exponent) - pow(2, -exponent), exponent)
    }

    package func sample(_ generator: inout SeededGenerator) -> Int {
        while true {
            let area = upper + generator.fraction() * (lower - upper)
            let position = Self.inverse(area, exponent)
            let rank = min(max((position + 0.5).rounded(.down), 1), count)
            if rank - position <= shortcut || area >= Self.area(rank + 0.5, exponent) - pow(rank, -exponent) {
                return Int(rank)
            }
        }
    }

    private static func area(_ x: Double, _ exponent: Double) -> Double {
        (pow(x, 1 - exponent) - 1) / (1 - exponent)
    }

    private static func inverse(_ area: Double, _ exponent: Double) -> Double {
        pow(1 + area * (1 - exponent), 1 / (1 - exponent))
    }
}

/// Values with a long right tail (log-logistic): most near the median, a few many times as large.
package struct TailSampler: Sendable {
    private let factors: [Double]

    /// `spread` 0.3 puts the 99th percentile at 4 times the median, 0.5 at 10 times.
    package init(spread: Double) {
        factors = (0..<4096).map { index in
            let share = (Double(index) + 0.5) / 4096
            return exp(spread * log(share / (1 - share)))
        }
    }

    package func sample(_ generator: inout SeededGenerator, median: Double) -> Double {
        median * factors[generator.below(4096)]
    }
}
