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
}
