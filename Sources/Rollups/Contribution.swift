// What one event adds to each of its rows, and how it is taken out again.

package import EventCodec
import Events

extension Measures {
    /// The share of one event. Counts beyond 2^63 - 1 count as that.
    package init(of fields: EventFields) {
        self.init()
        requests = 1
        inputTokens = Int64(clamping: fields.inputTokens)
        outputTokens = Int64(clamping: fields.outputTokens)
        cachedTokens = Int64(clamping: fields.cachedTokens)
        reasoningTokens = Int64(clamping: fields.reasoningTokens)
        costNanoUSD = fields.cost?.amount ?? 0
        requestBytes = Int64(clamping: fields.requestBytes)
        responseBytes = Int64(clamping: fields.responseBytes)
        if let latency = fields.latencyMicroseconds {
            latencyCount = 1
            latencySum = Int64(clamping: latency)
        }
        if let firstToken = fields.firstTokenMicroseconds {
            firstTokenCount = 1
            firstTokenSum = Int64(clamping: firstToken)
        }
        if let overhead = fields.overheadMicroseconds {
            overheadCount = 1
            overheadSum = Int64(clamping: overhead)
        }
    }
}

extension Grain {
    /// The bucket that holds the whole minute: rows of the coarser grains are sums of minutes.
    package func bucket(ofMinute minute: Int32) -> Int32 {
        let minutes = Int32(microseconds / Grain.minute.microseconds)
        let (quotient, remainder) = minute.quotientAndRemainder(dividingBy: minutes)
        return remainder < 0 ? quotient - 1 : quotient
    }
}

extension [SketchBin] {
    /// Sorted by kind and index, one bin for each, none of count 0.
    package mutating func normalize() {
        sort { $0.kind != $1.kind ? $0.kind.rawValue < $1.kind.rawValue : $0.index < $1.index }
        var kept = 0
        for position in indices {
            if kept > 0, self[kept - 1].kind == self[position].kind, self[kept - 1].index == self[position].index {
                self[kept - 1].count &+= self[position].count
            } else {
                // A sum is complete when the next bin begins: one of 0 gives way to it.
                if kept > 0, self[kept - 1].count == 0 { kept -= 1 }
                self[kept] = self[position]
                kept += 1
            }
        }
        if kept > 0, self[kept - 1].count == 0 { kept -= 1 }
        removeLast(count - kept)
    }
}

extension RollupDelta {
    /// The share of one event in each of its rows.
    package static func contribution(of fields: EventFields) -> (Measures, [SketchBin]) {
        var bins: [SketchBin] = []
        func add(_ kind: SketchKind, _ value: UInt64?) {
            guard let value else { return }
            bins.append(SketchBin(kind: kind, index: LatencySketch.bin(of: value), count: 1))
        }
        add(.latency, fields.latencyMicroseconds)
        add(.firstToken, fields.firstTokenMicroseconds)
        add(.overhead, fields.overheadMicroseconds)
        return (Measures(of: fields), bins)
    }

    /// Takes out an event that was added under `series`, from its row of each grain: all of them `ofEntities`, or none.
    /// A row that then holds no event stays, all zero, until `dropEmptyRows`: taking out a whole batch must not cost the
    /// square of it.
    package mutating func subtract(fields: EventFields, series: Int32, ofEntities: Bool = false) {
        let (measures, bins) = Self.contribution(of: fields)
        let minute = Grain.minute.bucket(of: fields.time)
        for grain in ofEntities ? Grain.ofEntities : Grain.plain {
            guard let row = position(grain, grain.bucket(ofMinute: minute), series) else { continue }
            rows[row].measures -= measures
            for bin in bins {
                guard
                    let index = rows[row].bins.firstIndex(where: { $0.kind == bin.kind && $0.index == bin.index })
                else { continue }
                rows[row].bins[index].count &-= bin.count
                if rows[row].bins[index].count == 0 { rows[row].bins.remove(at: index) }
            }
        }
    }

    /// Drops the rows of which every event was taken out.
    package mutating func dropEmptyRows() {
        rows.removeAll { $0.measures.requests == 0 && $0.bins.isEmpty }
    }

    private func position(_ grain: Grain, _ bucket: Int32, _ series: Int32) -> Int? {
        var low = 0
        var high = rows.count
        while low < high {
            let middle = (low + high) / 2
            let row = rows[middle]
            if (row.grain.rawValue, row.bucket, row.series) < (grain.rawValue, bucket, series) {
                low = middle + 1
            } else {
                high = middle
            }
        }
        guard low < rows.count, rows[low].grain == grain, rows[low].bucket == bucket, rows[low].series == series else {
            return nil
        }
        return low
    }
}
