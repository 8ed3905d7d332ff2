// A batch's delta -> rows of the table rollups, added to what is there.

import RollupStore
import Rollups

enum RollupRows {
    private static let measureColumns = [
        "requests", "input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "cost_nano_usd",
        "request_bytes", "response_bytes", "latency_count", "latency_sum_us", "first_token_count",
        "first_token_sum_us", "overhead_count", "overhead_sum_us",
    ]

    private static let addRollup =
        "INSERT INTO rollups VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, "
        + "?19) ON CONFLICT DO UPDATE SET "
        + measureColumns.map { "\($0) = \($0) + excluded.\($0)" }.joined(separator: ", ")
        + ", bins = merge_bins(bins, excluded.bins)"

    /// `series` are the numbers of the delta's; `generation` says which rollups a row is of, by its grain and bucket.
    static func add(
        _ delta: RollupDelta, _ series: [Int64], _ connection: Connection,
        generation: (RollupDelta.Row) -> Int64
    ) throws(RollupStoreError) {
        let add = try connection.statement(addRollup)
        // In the order of the table, so that each of its pages is looked up once.
        var order: [(key: UInt64, series: Int64, row: Int)] = []
        order.reserveCapacity(delta.rows.count)
        var longest = 0
        for (index, row) in delta.rows.enumerated() where row.measures.requests != 0 {
            let key = UInt64(row.grain.rawValue) << 32 | UInt64(UInt32(bitPattern: row.bucket ^ .min))
            order.append((key, series[Int(row.series)], index))
            longest = max(longest, row.bins.count)
        }
        order.sort { $0.key != $1.key ? $0.key < $1.key : $0.series < $1.series }

        let bins = UnsafeMutableRawBufferPointer.allocate(byteCount: BinBlob.capacity(longest) + 1, alignment: 1)
        defer { bins.deallocate() }
        var days: Set<Day> = []
        var last: UInt64?
        var answering = GenerationMap.first
        for (key, series, index) in order {
            if last != key {
                last = key
                let row = delta.rows[index]
                answering = generation(row)
                add.bind(1, answering)
                add.bind(2, Int64(row.grain.rawValue))
                add.bind(3, Int64(row.bucket))
                if row.grain == .day { days.insert(Day(generation: answering, day: row.bucket)) }
            }
            add.bind(4, series)
            bind(delta.rows[index].measures, to: add)
            let count = BinBlob.encode(delta.rows[index].bins, into: bins)
            add.bindWholeBlob(19, UnsafeRawBufferPointer(rebasing: bins[..<count]))
            if try !add.runUnlessConstrained() {
                let row = delta.rows[index]
                try addWrapping(row.measures, to: (answering, row.grain, row.bucket, series), add, connection)
            }
        }
        try raiseVersions(of: days, connection)
    }

    private struct Day: Hashable {
        var generation: Int64
        var day: Int32
    }

    /// What readers remember of these days no longer holds (BucketMemory.swift).
    private static func raiseVersions(of days: Set<Day>, _ connection: Connection) throws(RollupStoreError) {
        let raise = try connection.statement(
            """
            INSERT INTO rollup_days (generation, day, version) VALUES (?1, ?2, 1)
            ON CONFLICT DO UPDATE SET version = version + 1
            """)
        for day in days {
            raise.bind(1, day.generation)
            raise.bind(2, Int64(day.day))
            try raise.run()
        }
    }

    private static func bind(_ measures: Measures, to statement: Statement) {
        statement.bind(5, measures.requests)
        statement.bind(6, measures.inputTokens)
        statement.bind(7, measures.outputTokens)
        statement.bind(8, measures.cachedTokens)
        statement.bind(9, measures.reasoningTokens)
        statement.bind(10, measures.costNanoUSD)
        statement.bind(11, measures.requestBytes)
        statement.bind(12, measures.responseBytes)
        statement.bind(13, measures.latencyCount)
        statement.bind(14, measures.latencySum)
        statement.bind(15, measures.firstTokenCount)
        statement.bind(16, measures.firstTokenSum)
        statement.bind(17, measures.overheadCount)
        statement.bind(18, measures.overheadSum)
    }

    /// A sum beyond 63 bits, which SQL would turn into a real number and the strict table refuses: only a hostile
    /// count does that. It wraps, as everywhere (`Measures`), and the partition goes on. `add` still holds the row.
    private static func addWrapping(
        _ added: Measures, to place: (generation: Int64, grain: Grain, bucket: Int32, series: Int64), _ add: Statement,
        _ connection: Connection
    ) throws(RollupStoreError) {
        let stored = try connection.statement(
            "SELECT \(measureColumns.joined(separator: ", ")) FROM rollups "
                + "WHERE generation = ?1 AND grain = ?2 AND bucket = ?3 AND series = ?4")
        let replace = try connection.statement(
            "UPDATE rollups SET "
                + measureColumns.enumerated().map { "\($1) = ?\($0 + 5)" }.joined(separator: ", ")
                + " WHERE generation = ?1 AND grain = ?2 AND bucket = ?3 AND series = ?4")
        for statement in [stored, replace] {
            statement.bind(1, place.generation)
            statement.bind(2, Int64(place.grain.rawValue))
            statement.bind(3, Int64(place.bucket))
            statement.bind(4, place.series)
        }
        var sum = added
        if try stored.step() { sum += Measures(stored, from: 0) }
        stored.reset()
        // First the bins, by adding a row of zeros; then the sums.
        bind(Measures(), to: add)
        try add.run()
        bind(sum, to: replace)
        try replace.run()
    }
}

extension Measures {
    /// The measures as they stand in a row, from this column on.
    init(_ row: Statement, from first: Int32) {
        self.init()
        requests = row.integer(first)
        inputTokens = row.integer(first + 1)
        outputTokens = row.integer(first + 2)
        cachedTokens = row.integer(first + 3)
        reasoningTokens = row.integer(first + 4)
        costNanoUSD = row.integer(first + 5)
        requestBytes = row.integer(first + 6)
        responseBytes = row.integer(first + 7)
        latencyCount = row.integer(first + 8)
        latencySum = row.integer(first + 9)
        firstTokenCount = row.integer(first + 10)
        firstTokenSum = row.integer(first + 11)
        overheadCount = row.integer(first + 12)
        overheadSum = row.integer(first + 13)
    }
}
