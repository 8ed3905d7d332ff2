// SeriesKey -> the store's number for it, in memory for those seen lately, else from the tables.

import Events
import RollupStore
import Rollups

/// The writer's memory of series and sets. A transaction that fails takes all of it: a number that was rolled back will
/// be given to another series.
struct SeriesNumbers {
    /// Series remembered at most, about 100 MB; beyond, all are forgotten and found again in the tables.
    private static let limit = 400_000

    private var known: [SeriesKey: Int64] = [:]
    private var knownSets: [[UInt8]: Int64] = [:]

    mutating func rolledBack() {
        known.removeAll()
        knownSets.removeAll()
    }

    /// The numbers of a batch's series, in its order.
    mutating func resolve(_ series: [SeriesKey], _ connection: Connection) throws(RollupStoreError) -> [Int64] {
        if known.count + series.count > Self.limit { rolledBack() }
        var numbers: [Int64] = []
        numbers.reserveCapacity(series.count)
        for key in series {
            if let number = known[key] {
                numbers.append(number)
                continue
            }
            let number = try store(key, connection)
            known[key] = number
            numbers.append(number)
        }
        return numbers
    }

    private mutating func store(_ key: SeriesKey, _ connection: Connection) throws(RollupStoreError) -> Int64 {
        let set = try storeSet(key.set, connection)
        let insert = try connection.statement(
            """
            INSERT INTO series (set_id, workspace, api_key, provider, operation, model, outcome, status_class)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING
            """)
        Self.bind(key, set, to: insert)
        try insert.run()
        if connection.changes == 1 { return connection.lastRowID }
        let find = try connection.statement(
            """
            SELECT id FROM series WHERE set_id = ?1 AND workspace = ?2 AND api_key = ?3 AND provider = ?4
                AND operation = ?5 AND model = ?6 AND outcome = ?7 AND status_class = ?8
            """)
        Self.bind(key, set, to: find)
        return try Self.found(find)
    }

    private mutating func storeSet(_ pairs: [UInt8], _ connection: Connection) throws(RollupStoreError) -> Int64 {
        if let number = knownSets[pairs] { return number }
        let insert = try connection.statement(
            "INSERT INTO metadata_sets (pairs) VALUES (?1) ON CONFLICT DO NOTHING")
        insert.bindText(1, copying: pairs)
        try insert.run()
        var number = connection.lastRowID
        if connection.changes != 1 {
            let find = try connection.statement("SELECT id FROM metadata_sets WHERE pairs = ?1")
            find.bindText(1, copying: pairs)
            number = try Self.found(find)
        }
        knownSets[pairs] = number
        return number
    }

    private static func bind(_ key: SeriesKey, _ set: Int64, to statement: Statement) {
        statement.bind(1, set)
        statement.bind(2, copying: key.workspace)
        statement.bind(3, copying: key.apiKey)
        statement.bind(4, copying: key.provider)
        statement.bind(5, copying: key.operation)
        statement.bind(6, copying: key.model)
        statement.bind(7, Int64(key.outcome.rawValue))
        statement.bind(8, Int64(key.statusClass))
    }

    private static func found(_ statement: Statement) throws(RollupStoreError) -> Int64 {
        defer { statement.reset() }
        guard try statement.step() else {
            throw RollupStoreError(
                code: .corrupt, tried: "number a series", reason: "a row that is refused as known is not found",
                next: "Run PRAGMA integrity_check on the store, and restore it or rebuild it from the log.")
        }
        return statement.integer(0)
    }
}
