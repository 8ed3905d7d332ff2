// A sketch of one timing: counts in bins of 1 % relative error (DDSketch, logarithmic mapping).
//
// Bin i holds the whole microseconds v with γ^(i-1) < v <= γ^i, γ = 1.01 / 0.99; bin -1 holds 0. The boundaries come
// out of integer arithmetic alone, so every machine puts a value into the same bin and every store gives the same
// answer to the bit. Adding is commutative and associative: a merge of sketches is the sketch of all values.

package struct LatencySketch: Sendable {
    /// The bin of 0.
    package static let zeroBin: Int16 = -1

    /// How many values it holds.
    package private(set) var count: Int64 = 0
    /// `counts[i]` belongs to bin `lowest + i`.
    private var lowest: Int16 = 0
    private var counts: [Int64] = []

    package init() {}

    package mutating func add(bin: Int16, count added: Int64) {
        makeRoom(for: bin)
        counts[Int(bin) - Int(lowest)] &+= added
        count &+= added
    }

    /// Those of this kind, wherever they stand.
    package mutating func add(_ bins: [SketchBin], of kind: SketchKind) {
        var rest = bins[...]
        while let begin = rest.firstIndex(where: { $0.kind.rawValue == kind.rawValue }) {
            let end = rest[begin...].firstIndex { $0.kind.rawValue != kind.rawValue } ?? rest.endIndex
            add(rest[begin..<end])
            rest = rest[end...]
        }
    }

    /// Whatever the kinds of the bins.
    package mutating func add(_ bins: ArraySlice<SketchBin>) {
        guard let first = bins.first else { return }
        var (least, greatest) = (first.index, first.index)
        for bin in bins {
            least = min(least, bin.index)
            greatest = max(greatest, bin.index)
        }
        makeRoom(for: least)
        makeRoom(for: greatest)
        var added: Int64 = 0
        let lowest = Int(lowest)
        counts.withUnsafeMutableBufferPointer { counts in
            for bin in bins {
                counts[Int(bin.index) - lowest] &+= bin.count
                added &+= bin.count
            }
        }
        count &+= added
    }

    private mutating func makeRoom(for bin: Int16) {
        if counts.isEmpty {
            lowest = bin
            counts = [0]
        } else if bin < lowest {
            counts.insert(contentsOf: repeatElement(0, count: Int(lowest) - Int(bin)), at: 0)
            lowest = bin
        } else if Int(bin) - Int(lowest) >= counts.count {
            counts.append(contentsOf: repeatElement(0, count: Int(bin) - Int(lowest) - counts.count + 1))
        }
    }

    package mutating func merge(_ other: LatencySketch) {
        for (bin, count) in other.bins { add(bin: bin, count: count) }
    }

    /// The bins that hold something, ascending.
    package var bins: [(bin: Int16, count: Int64)] {
        counts.indices.compactMap { counts[$0] == 0 ? nil : (Int16(Int(lowest) + $0), counts[$0]) }
    }

    /// The value of the nearest rank in microseconds, within 1 %: of n values the ⌈n · percent / 100⌉th, at least the
    /// first. nil where there are none. `percent` in 0 ... 100.
    package func percentile(_ percent: Int) -> Double? {
        guard count > 0 else { return nil }
        let (high, low) = count.multipliedFullWidth(by: Int64(percent))
        let (quotient, remainder) = Int64(100).dividingFullWidth((high, low))
        let rank = max(1, quotient + (remainder > 0 ? 1 : 0))
        var below: Int64 = 0
        for index in counts.indices {
            below += counts[index]
            if below >= rank { return Self.value(of: Int16(Int(lowest) + index)) }
        }
        return nil
    }

    // MARK: The mapping

    /// The bin of a value.
    package static func bin(of microseconds: UInt64) -> Int16 {
        guard microseconds > 0 else { return zeroBin }
        let table = Mapping.shared
        let octave = 63 - microseconds.leadingZeroBitCount
        var low = Int(table.octaves[octave])
        var high = Int(table.octaves[octave + 1])
        while low < high {
            let middle = (low + high) / 2
            if table.bounds[middle] < microseconds { low = middle + 1 } else { high = middle }
        }
        return Int16(low)
    }

    /// The estimate for a bin's values in microseconds: the harmonic mean of the smallest and the greatest whole number
    /// in it, which is off by less than 1 % from either and exact where the bin holds one number.
    package static func value(of bin: Int16) -> Double {
        let bounds = Mapping.shared.bounds
        guard bin > 0 else { return bin == 0 ? 1 : 0 }
        let index = min(Int(bin), bounds.count - 1)
        let high = Double(bounds[index])
        let low = min(high, Double(bounds[index - 1]) + 1)
        return low == high ? high : 2 * low / (low / high + 1)
    }

    private struct Mapping: Sendable {
        static let shared = Mapping()

        /// The greatest value of each bin from 0 on.
        let bounds: [UInt64]
        /// For each power of two, the first bin that reaches it; one more for the last bin of all.
        let octaves: [Int16]

        init() {
            // γ^i with 64 binary places. Rounding down by less than one unit a step stays below 2^-58 of the value.
            var bounds: [UInt64] = []
            var power = UInt128(1) << 64
            while true {
                bounds.append(UInt64(power >> 64))
                let step = power / 99 * 2 + power % 99 * 2 / 99
                let (next, overflows) = power.addingReportingOverflow(step)
                if overflows { break }
                power = next
            }
            bounds.append(.max)
            var octaves: [Int16] = []
            var bin = 0
            for octave in 0..<64 {
                while bounds[bin] < 1 << UInt64(octave) { bin += 1 }
                octaves.append(Int16(bin))
            }
            octaves.append(Int16(bounds.count - 1))
            self.bounds = bounds
            self.octaves = octaves
        }
    }
}
