// SeriesKey -> the store's number for it, in memory for those seen lately, else from the table.
//
// A new series' number is made of the number under which its row is inserted, so numbers of one writer only rise. Its row
// counts whatever becomes of the batch: a series without rows is no harm, and the next batch finds it.

import Events
import RollupStore
import Rollups

struct SeriesNumbers {
    /// Series remembered at most, about 100 MB; beyond, all are forgotten and found again in the table.
    private static let limit = 400_000
    /// Series that one batch may bring: places below the batch's number in a series' id.
    private static let placeBits: Int64 = 24

    private var known: [SeriesKey: Int64] = [:]
    /// Numbered, and not seen to be in the table yet.
    private var added: [SeriesKey] = []

    /// The numbers of a batch's series, in its order, and the rows to insert under `number` for new ones.
    mutating func resolve(
        _ series: [SeriesKey], _ number: Int64, _ connection: Connection
    ) throws(RollupStoreError) -> (ids: [Int64], new: NativeBlock?) {
        // Of an earlier try that failed: the table knows whether they are there.
        for key in added { known[key] = nil }
        added = []
        if known.count + series.count > Self.limit { known.removeAll(keepingCapacity: true) }
        let unknown = series.filter { known[$0] == nil }
        var new: NativeBlock?
        if !unknown.isEmpty {
            let hashes = unknown.map(Self.hash)
            try find(hashes, connection)
            new = try add(zip(unknown, hashes).filter { known[$0.0] == nil }, number)
        }
        return (series.compactMap { known[$0] }, new)
    }

    /// The new ones are in the table.
    mutating func inserted() { added.removeAll(keepingCapacity: true) }

    private mutating func find(_ hashes: [UInt64], _ connection: Connection) throws(RollupStoreError) {
        let list = hashes.map { "\($0)" }.joined(separator: ", ")
        var answer = try connection.select(
            SeriesRow.columns, "FROM series WHERE hash IN (\(list)) ORDER BY id DESC", "find series")
        // Of two ids for one key the lower stays, for every writer alike.
        while try answer.next() {
            let row = try SeriesRow(&answer)
            known[row.series.key] = row.series.id
        }
    }

    private mutating func add(
        _ new: [(key: SeriesKey, hash: UInt64)], _ number: Int64
    ) throws(RollupStoreError) -> NativeBlock? {
        if new.isEmpty { return nil }
        guard new.count < 1 << Self.placeBits else {
            throw RollupStoreError(
                code: .configuration, tried: "number the series of a batch",
                reason: "\(new.count) new ones, \(1 << Self.placeBits) are the most",
                next: "Lower consumer.batch.max_events.")
        }
        func id(_ place: Int) -> Int64 { number << Self.placeBits | Int64(place) }
        var block = NativeBlock(rows: new.count)
        block.integers("hash") { new[$0].hash }
        block.integers("id", id)
        block.strings("workspace") { Array(new[$0].key.workspace.utf8) }
        block.strings("api_key") { Array(new[$0].key.apiKey.utf8) }
        block.strings("provider") { Array(new[$0].key.provider.utf8) }
        block.strings("operation") { Array(new[$0].key.operation.utf8) }
        block.strings("model") { Array(new[$0].key.model.utf8) }
        block.integers("outcome") { new[$0].key.outcome.rawValue }
        block.integers("status_class") { new[$0].key.statusClass }
        block.strings("pairs") { new[$0].key.set }
        block.constant("number", number)
        for (place, series) in new.enumerated() { known[series.key] = id(place) }
        added = new.map(\.key)
        return block
    }

    /// FNV-1a over each text with its length before it; part of the format. Equal hashes are told apart by their keys.
    private static func hash(_ key: SeriesKey) -> UInt64 {
        var hash = FNV1a()
        func add(_ bytes: some Collection<UInt8>) {
            for shift in [0, 8, 16, 24] { hash.combine(UInt8(truncatingIfNeeded: bytes.count >> shift)) }
            hash.combine(bytes)
        }
        for text in [key.workspace, key.apiKey, key.provider, key.operation, key.model] { add(text.utf8) }
        add(key.set)
        hash.combine(key.outcome.rawValue)
        hash.combine(key.statusClass)
        return hash.state
    }
}

/// A row of `series`, as writer and readers want it.
struct SeriesRow {
    static let columns = [
        "id", "workspace", "api_key", "provider", "operation", "model", "outcome", "status_class", "pairs",
    ]

    var series: StoredSeries

    init(_ row: inout Answer) throws(RollupStoreError) {
        let id: Int64 = try row.integer()
        let workspace = try row.text()
        let apiKey = try row.text()
        let provider = try row.text()
        let operation = try row.text()
        let model = try row.text()
        guard let outcome = Outcome(rawValue: try row.integer()) else { throw Self.unknownCode }
        let statusClass: UInt8 = try row.integer()
        series = StoredSeries(
            id: id,
            key: SeriesKey(
                workspace: workspace, apiKey: apiKey, provider: provider, operation: operation, model: model,
                outcome: outcome, statusClass: statusClass, set: try row.byteString()))
    }

    static let unknownCode = RollupStoreError(
        code: .corrupt, tried: "read a row", reason: "a code in it is not known",
        next: "Restore the tables, or rebuild the store from the log.")
}
