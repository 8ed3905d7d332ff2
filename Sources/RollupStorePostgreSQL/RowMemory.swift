// Which rollup rows of this writer's shard the store has -> those of a batch that are new.
//
// Adding to a row costs the server several times what a new row costs it in a COPY, and most rows of the minute grain
// are new. A bucket that a batch brings many rows of is looked up once, as a whole; from then on this writer knows
// what is in it, for nobody else writes its shard. Were that wrong, the table's key would say so and the batch be begun
// again. Good for one connection, whose lock keeps the shard, and for committed batches.

import Rollups

struct RowMemory {
    /// Rows of a batch that make a bucket worth looking up.
    private static let worthwhile = 16
    /// Rows remembered at most, about 64 MB; beyond, all are forgotten and looked up again.
    private static let limit = 1_000_000

    private struct Bucket: Hashable {
        var grain: Grain
        var number: Int32
    }

    private var series: [Bucket: Set<Int64>] = [:]
    private var count = 0

    mutating func forget() {
        series.removeAll()
        count = 0
    }

    /// For each row, in order, whether the store has it not. `rows` are sorted by grain and bucket, and are in the
    /// store once the batch is committed.
    mutating func areNew(
        _ rows: [(grain: Grain, bucket: Int32, series: Int64)], generation: Int16, shard: Int16,
        _ connection: Connection
    ) throws(ServerFailure) -> [Bool] {
        if count > Self.limit { forget() }
        var unknown: [Bucket] = []
        var start = 0
        while start < rows.count {
            let bucket = Bucket(grain: rows[start].grain, number: rows[start].bucket)
            var end = start + 1
            while end < rows.count && rows[end].grain == bucket.grain && rows[end].bucket == bucket.number { end += 1 }
            if end - start >= Self.worthwhile && series[bucket] == nil { unknown.append(bucket) }
            start = end
        }
        try learn(unknown, generation, shard, connection)
        return rows.map { row in
            let bucket = Bucket(grain: row.grain, number: row.bucket)
            // In place: a set that is taken out and put back would be copied.
            guard series[bucket]?.insert(row.series).inserted == true else { return false }
            count += 1
            return true
        }
    }

    private mutating func learn(
        _ buckets: [Bucket], _ generation: Int16, _ shard: Int16, _ connection: Connection
    ) throws(ServerFailure) {
        if buckets.isEmpty { return }
        var parameters = Parameters()
        parameters.add(generation)
        parameters.add(shard)
        parameters.add(smallints: buckets.map { Int16($0.grain.rawValue) })
        parameters.add(integers: buckets.map(\.number))
        let rows = try connection.query(
            """
            SELECT w.place, r.series
            FROM unnest($3::smallint[], $4::integer[]) WITH ORDINALITY AS w (grain, bucket, place)
            JOIN rollups r ON r.generation = $1::smallint AND r.grain = w.grain AND r.bucket = w.bucket
            WHERE r.shard = $2::smallint
            """, parameters)
        for bucket in buckets { series[bucket] = [] }
        for row in 0..<rows.count { series[buckets[Int(rows.integer(row, 0)) - 1]]?.insert(rows.integer(row, 1)) }
        count += rows.count
    }
}
