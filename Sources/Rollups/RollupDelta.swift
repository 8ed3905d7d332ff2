// What one batch adds to the rollups: the fold's result and the store's input.

/// Rows to add. `series` is the batch's own numbering: rows and events of the batch refer to it by index.
package struct RollupDelta: Sendable {
    package struct Row: Sendable {
        package var grain: Grain
        package var bucket: Int32
        /// Index into the batch's `series`.
        package var series: Int32
        package var measures: Measures
        /// Sorted by kind and index, counts not 0.
        package var bins: [SketchBin]

        package init(grain: Grain, bucket: Int32, series: Int32, measures: Measures, bins: [SketchBin]) {
            self.grain = grain
            self.bucket = bucket
            self.series = series
            self.measures = measures
            self.bins = bins
        }
    }

    /// One row for each (grain, bucket, series), sorted so.
    package var rows: [Row]

    package init(rows: [Row] = []) { self.rows = rows }

    /// Minutes and hours of entities, each sorted, and the coarser grains that they come to.
    package init(minutes: [Row], entityHours: [Row] = []) {
        let hours = Self.coarsen(minutes, to: .hour)
        rows =
            minutes + hours + Self.coarsen(hours, to: .day) + entityHours + Self.coarsen(entityHours, to: .entityDay)
    }

    /// This delta under other series, said of each row of the finest grains: rows that meet are summed, and coarser
    /// grains follow from them.
    package func moved(to series: (Row) -> Int32) -> RollupDelta {
        func moved(_ grain: Grain) -> [Row] {
            let rows = rows.filter { $0.grain == grain }.map { row in
                var row = row
                row.series = series(row)
                return row
            }
            return Self.coarsen(rows, to: grain)
        }
        return RollupDelta(minutes: moved(.minute), entityHours: moved(.entityHour))
    }

    /// Sums of rows that are all of one finer grain, in the order of the coarser.
    private static func coarsen(_ rows: [RollupDelta.Row], to grain: Grain) -> [RollupDelta.Row] {
        guard let finer = rows.first?.grain else { return [] }
        let ratio = Int32(grain.microseconds / finer.microseconds)
        func bucket(_ row: RollupDelta.Row) -> Int32 {
            let (quotient, remainder) = row.bucket.quotientAndRemainder(dividingBy: ratio)
            return remainder < 0 ? quotient - 1 : quotient
        }
        let order = rows.indices.sorted {
            (bucket(rows[$0]), rows[$0].series, $0) < (bucket(rows[$1]), rows[$1].series, $1)
        }
        var sums: [RollupDelta.Row] = []
        for index in order {
            let row = rows[index]
            let last = sums.count - 1
            if last >= 0, sums[last].bucket == bucket(row), sums[last].series == row.series {
                sums[last].measures += row.measures
                sums[last].bins.append(contentsOf: row.bins)
            } else {
                if last >= 0 { sums[last].bins.normalize() }
                var first = row
                first.grain = grain
                first.bucket = bucket(row)
                sums.append(first)
            }
        }
        if !sums.isEmpty { sums[sums.count - 1].bins.normalize() }
        return sums
    }
}
