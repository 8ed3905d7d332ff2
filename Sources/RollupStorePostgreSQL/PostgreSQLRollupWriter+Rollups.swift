// A batch's delta -> rows of the table rollups, added to what is there of the writer's shard.

import Events
import RollupStore
import Rollups

extension PostgreSQLRollupWriter {
    static let measureColumns = [
        "requests", "input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "cost_nano_usd",
        "request_bytes", "response_bytes", "latency_count", "latency_sum_us", "first_token_count",
        "first_token_sum_us", "overhead_count", "overhead_sum_us",
    ]
    private static let rowColumns = "generation, series, bucket, grain, \(measureColumns.joined(separator: ", ")), bins"
    private static let insertRollups = "COPY rollups (\(rowColumns), shard) FROM STDIN (FORMAT binary)"
    private static let stageRollups = "COPY added_rollups (\(rowColumns)) FROM STDIN (FORMAT binary)"

    /// Adds the staged rows. Rows of the shard are this writer's alone, so what a look finds still holds at the write;
    /// `INSERT … ON CONFLICT` would reckon with others row by row.
    private static func mergeRollups(_ sums: [String]) -> String {
        """
        MERGE INTO rollups AS r USING added_rollups AS a
        ON r.generation = a.generation AND r.grain = a.grain AND r.bucket = a.bucket AND r.series = a.series
            AND r.shard = $1::smallint
        WHEN MATCHED THEN UPDATE SET \(sums.joined(separator: ", ")), bins = r.bins || a.bins
        WHEN NOT MATCHED THEN INSERT (\(rowColumns), shard)
            VALUES (a.generation, a.series, a.bucket, a.grain, \(measureColumns.map { "a.\($0)" }.joined(separator: ", ")),
                a.bins, $1::smallint)
        """
    }
    private static let addRollups = mergeRollups(measureColumns.map { "\($0) = r.\($0) + a.\($0)" })
    private static let replaceSums = mergeRollups(measureColumns.map { "\($0) = a.\($0)" })
    /// How many batches are added before one looks for long lists among its rows: a prime, so that rows that only every
    /// second or third batch adds to have their turn.
    private static let mergesToShortening = 17
    private static let longBins = """
        SELECT r.generation, r.grain, r.bucket, r.series, r.bins FROM added_rollups AS a JOIN rollups AS r
        ON r.generation = a.generation AND r.grain = a.grain AND r.bucket = a.bucket AND r.series = a.series
            AND r.shard = $1::smallint
        WHERE octet_length(r.bins) > \(BinParts.longest)
        """

    /// `series` are the numbers of the delta's; `generation` says which rollups a row is of.
    func addRollups(
        _ delta: RollupDelta, _ series: [Int64], _ connection: Connection, generation: (RollupDelta.Row) -> Int64
    ) throws(ServerFailure) {
        // In the order of the key: each page is looked up once, and two writers could not wait for each other.
        var order: [Place] = []
        order.reserveCapacity(delta.rows.count)
        var longest = 0
        for (index, row) in delta.rows.enumerated() where row.measures.requests != 0 {
            let bucket = FreshBuckets.Bucket(
                generation: Int16(truncatingIfNeeded: generation(row)), grain: Int16(row.grain.rawValue),
                number: row.bucket)
            order.append(Place(bucket: bucket, series: series[Int(row.series)], row: index))
            longest = max(longest, row.bins.count)
        }
        if order.isEmpty { return }
        order.sort { $0.bucket != $1.bucket ? $0.bucket < $1.bucket : $0.series < $1.series }
        let fresh = try freshBuckets.take(order.map(\.bucket), connection)

        let stored = isWrapping ? try storedSums(delta, order, connection) : [:]
        let bins = bins.sized(BinParts.capacity(longest))
        func copy(_ statement: String, _ rows: [Place], into shard: Int16? = nil) throws(ServerFailure) {
            if rows.isEmpty { return }
            try connection.copy(statement) { stream in
                for place in rows {
                    let row = delta.rows[place.row]
                    stream.row(columns: Int16(Self.measureColumns.count + (shard == nil ? 5 : 6)))
                    stream.column(place.bucket.generation)
                    stream.column(place.series)
                    stream.column(row.bucket)
                    stream.column(Int16(row.grain.rawValue))
                    var measures = row.measures
                    if let sums = stored[place.row] { measures += sums }
                    Self.write(measures, to: &stream)
                    let count = BinParts.encode(row.bins, into: bins)
                    stream.column(UnsafeRawBufferPointer(rebasing: bins[..<count]))
                    if let shard { stream.column(shard) }
                }
            }
        }
        try copy(Self.insertRollups, order.filter { fresh.contains($0.bucket) }, into: shard)
        let added = order.filter { !fresh.contains($0.bucket) }
        if added.isEmpty { return }
        try copy(Self.stageRollups, added)
        var parameters = Parameters()
        parameters.add(shard)
        _ = try connection.query(isWrapping ? Self.replaceSums : Self.addRollups, parameters)
        merges += 1
        if merges % Self.mergesToShortening == 0 {
            try shorten(try connection.query(Self.longBins, parameters), connection)
        }
    }

    private struct Place {
        var bucket: FreshBuckets.Bucket
        var series: Int64
        var row: Int
    }

    private static func write(_ measures: Measures, to stream: inout CopyStream) {
        stream.column(measures.requests)
        stream.column(measures.inputTokens)
        stream.column(measures.outputTokens)
        stream.column(measures.cachedTokens)
        stream.column(measures.reasoningTokens)
        stream.column(measures.costNanoUSD)
        stream.column(measures.requestBytes)
        stream.column(measures.responseBytes)
        stream.column(measures.latencyCount)
        stream.column(measures.latencySum)
        stream.column(measures.firstTokenCount)
        stream.column(measures.firstTokenSum)
        stream.column(measures.overheadCount)
        stream.column(measures.overheadSum)
    }

    /// The sums that the rows to add to hold now, by index of the delta's row. Only a hostile count makes them needed: a
    /// sum beyond 63 bits wraps, as everywhere (`Measures`), which the server does not do, and the partition goes on.
    /// The rows are locked, and the shard is this writer's own: nothing is added to them in between.
    private func storedSums(
        _ delta: RollupDelta, _ order: [Place], _ connection: Connection
    ) throws(ServerFailure) -> [Int: Measures] {
        var parameters = Parameters()
        parameters.add(shard)
        parameters.add(smallints: order.map(\.bucket.generation))
        parameters.add(smallints: order.map(\.bucket.grain))
        parameters.add(integers: order.map(\.bucket.number))
        parameters.add(bigints: order.map(\.series))
        parameters.add(bigints: order.map { Int64($0.row) })
        let rows = try connection.query(
            """
            SELECT w.place, \(Self.measureColumns.map { "r.\($0)" }.joined(separator: ", "))
            FROM unnest($2::smallint[], $3::smallint[], $4::integer[], $5::bigint[], $6::bigint[])
                AS w (generation, grain, bucket, series, place)
            JOIN rollups r ON r.generation = w.generation AND r.grain = w.grain AND r.bucket = w.bucket
                AND r.series = w.series AND r.shard = $1::smallint
            FOR UPDATE OF r
            """, parameters)
        var sums: [Int: Measures] = [:]
        for row in 0..<rows.count { sums[Int(rows.integer(row, 0))] = Measures(rows, row, from: 1) }
        return sums
    }

    /// Makes long lists of bins one part again, where that is worth a write.
    private func shorten(_ long: Rows, _ connection: Connection) throws(ServerFailure) {
        var generations: [Int16] = []
        var grains: [Int16] = []
        var buckets: [Int32] = []
        var series: [Int64?] = []
        var shortened: [[UInt8]] = []
        for row in 0..<long.count {
            let list = long.bytes(row, 4)
            guard let bins = BinParts.decode(list) else { throw Self.unreadableBins }
            let packed = BinParts.encode(bins)
            if packed.count * 2 > list.count { continue }
            generations.append(Int16(truncatingIfNeeded: long.integer(row, 0)))
            grains.append(Int16(truncatingIfNeeded: long.integer(row, 1)))
            buckets.append(Int32(truncatingIfNeeded: long.integer(row, 2)))
            series.append(long.integer(row, 3))
            shortened.append(packed)
        }
        if shortened.isEmpty { return }
        var parameters = Parameters()
        parameters.add(shard)
        parameters.add(smallints: generations)
        parameters.add(smallints: grains)
        parameters.add(integers: buckets)
        parameters.add(bigints: series)
        parameters.add(bytes: shortened)
        _ = try connection.query(
            """
            UPDATE rollups AS r SET bins = w.bins
            FROM unnest($2::smallint[], $3::smallint[], $4::integer[], $5::bigint[], $6::bytea[])
                AS w (generation, grain, bucket, series, bins)
            WHERE r.generation = w.generation AND r.grain = w.grain AND r.bucket = w.bucket AND r.series = w.series
                AND r.shard = $1::smallint
            """, parameters)
    }

    private static let unreadableBins = ServerFailure(
        RollupStoreError(
            code: .corrupt, tried: "read the bins of a rollup", reason: "they do not parse",
            next: "Restore the database, or rebuild it from the log."))
}

/// Memory that grows as needed and is written over by each use.
final class ReusedBuffer {
    private var memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 4_096, alignment: 8)

    deinit { memory.deallocate() }

    func sized(_ size: Int) -> UnsafeMutableRawBufferPointer {
        if size > memory.count {
            memory.deallocate()
            memory = .allocate(byteCount: size, alignment: 8)
        }
        return memory
    }
}

extension Measures {
    /// The measures as they stand in a row, from this column on.
    init(_ rows: Rows, _ row: Int, from first: Int32) {
        self.init()
        requests = rows.integer(row, first)
        inputTokens = rows.integer(row, first + 1)
        outputTokens = rows.integer(row, first + 2)
        cachedTokens = rows.integer(row, first + 3)
        reasoningTokens = rows.integer(row, first + 4)
        costNanoUSD = rows.integer(row, first + 5)
        requestBytes = rows.integer(row, first + 6)
        responseBytes = rows.integer(row, first + 7)
        latencyCount = rows.integer(row, first + 8)
        latencySum = rows.integer(row, first + 9)
        firstTokenCount = rows.integer(row, first + 10)
        firstTokenSum = rows.integer(row, first + 11)
        overheadCount = rows.integer(row, first + 12)
        overheadSum = rows.integer(row, first + 13)
    }
}
