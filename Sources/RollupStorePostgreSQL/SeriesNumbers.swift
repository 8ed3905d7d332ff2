// SeriesKey -> the store's number for it, in memory for those seen lately, else from the tables.
//
// What is new gets its number in a transaction of its own, before the batch's and under a lock: so numbers rise in the
// order in which they can be seen, two writers never wait for each other's batches, and never wait in a circle. A batch
// that fails afterwards leaves a series without rows behind, which is nothing.

import Events
import RollupStore
import Rollups

/// The writer's memory of series and sets, good for one connection: the numbering transaction is not flushed to disk by
/// itself, so a server that crashes before the batch's commit may give a number again.
struct SeriesNumbers {
    /// Series remembered at most, about 100 MB; beyond, all are forgotten and found again in the tables.
    private static let limit = 400_000

    private var known: [SeriesKey: Int64] = [:]
    private var knownSets: [[UInt8]: Int64] = [:]

    mutating func forget() {
        known.removeAll()
        knownSets.removeAll()
    }

    /// The numbers of a batch's series, in its order. Not within a transaction.
    mutating func resolve(_ series: [SeriesKey], _ connection: Connection) throws(ServerFailure) -> [Int64] {
        if known.count + series.count > Self.limit { forget() }
        var numbers = [Int64](repeating: 0, count: series.count)
        var unnumbered: [Int] = []
        for index in series.indices {
            if let number = known[series[index]] { numbers[index] = number } else { unnumbered.append(index) }
        }
        if !unnumbered.isEmpty {
            var missing = unnumbered.map { series[$0] }
            do throws(ServerFailure) {
                try connection.execute(
                    """
                    BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = off;
                    SELECT pg_advisory_xact_lock(\(AdvisoryLock.numbers));
                    """)
                try findSets(of: missing, connection)
                try findSeries(&missing, connection)
                if !missing.isEmpty { try add(missing, connection) }
                try connection.execute("COMMIT")
            } catch {
                // Numbers that were given in it are given to others.
                forget()
                throw error
            }
        }
        for index in unnumbered {
            guard let number = known[series[index]] else { throw Self.lost() }
            numbers[index] = number
        }
        return numbers
    }

    /// What was not found is not there, and nobody else adds to it: the lock is held. So numbers are taken first, and no
    /// row is looked for again to learn its own.
    private mutating func add(_ missing: [SeriesKey], _ connection: Connection) throws(ServerFailure) {
        let sets = unknownSets(of: missing)
        if !sets.isEmpty {
            let numbers = try Self.newNumbers("metadata_sets", sets.count, connection)
            var parameters = Parameters()
            parameters.add(bigints: numbers)
            parameters.add(bytes: sets)
            _ = try connection.query(
                """
                INSERT INTO metadata_sets (id, pairs) OVERRIDING SYSTEM VALUE
                SELECT * FROM unnest($1::bigint[], $2::bytea[])
                """, parameters)
            for (number, set) in zip(numbers, sets) { knownSets[set] = number }
        }
        let numbers = try Self.newNumbers("series", missing.count, connection)
        var parameters = try columns(missing)
        parameters.add(bigints: numbers)
        _ = try connection.query(
            """
            INSERT INTO series (set_id, outcome, status_class, workspace, api_key, provider, operation, model, id)
            OVERRIDING SYSTEM VALUE
            SELECT * FROM unnest($1::bigint[], $2::smallint[], $3::smallint[], $4::bytea[], $5::bytea[], $6::bytea[],
                $7::bytea[], $8::bytea[], $9::bigint[])
            """, parameters)
        for (number, key) in zip(numbers, missing) { known[key] = number }
    }

    /// The next of a table's numbers, ascending.
    private static func newNumbers(
        _ table: String, _ count: Int, _ connection: Connection
    ) throws(ServerFailure) -> [Int64] {
        var parameters = Parameters()
        parameters.add(Int64(count))
        // The name of the sequence is looked up once, not for each number.
        let rows = try connection.query(
            """
            SELECT nextval(name) FROM (SELECT pg_get_serial_sequence('\(table)', 'id')::regclass AS name OFFSET 0) AS s,
                generate_series(1, $1::bigint)
            """, parameters)
        guard rows.count == count else { throw lost() }
        return (0..<count).map { rows.integer($0, 0) }
    }

    private func unknownSets(of series: [SeriesKey]) -> [[UInt8]] {
        var seen: Set<[UInt8]> = []
        return series.compactMap { knownSets[$0.set] == nil && seen.insert($0.set).inserted ? $0.set : nil }
    }

    private mutating func findSets(of series: [SeriesKey], _ connection: Connection) throws(ServerFailure) {
        let sets = unknownSets(of: series)
        if sets.isEmpty { return }
        var parameters = Parameters()
        parameters.add(bytes: sets)
        let rows = try connection.query(
            """
            SELECT w.place, m.id FROM unnest($1::bytea[]) WITH ORDINALITY AS w (pairs, place)
            JOIN metadata_sets m ON sha256(m.pairs) = sha256(w.pairs)
            """, parameters)
        for row in 0..<rows.count { knownSets[sets[Int(rows.integer(row, 0)) - 1]] = rows.integer(row, 1) }
    }

    /// Takes those that it finds out of `missing`.
    private mutating func findSeries(_ missing: inout [SeriesKey], _ connection: Connection) throws(ServerFailure) {
        // A set that is not in the store has no series there.
        let candidates = missing.filter { knownSets[$0.set] != nil }
        if candidates.isEmpty { return }
        let rows = try connection.query(
            """
            SELECT w.place, s.id FROM unnest($1::bigint[], $2::smallint[], $3::smallint[], $4::bytea[], $5::bytea[],
                $6::bytea[], $7::bytea[], $8::bytea[]) WITH ORDINALITY
                AS w (set_id, outcome, status_class, workspace, api_key, provider, operation, model, place)
            JOIN series s ON s.set_id = w.set_id AND s.outcome = w.outcome AND s.status_class = w.status_class
                AND sha256(sha256(s.workspace) || sha256(s.api_key) || sha256(s.provider) || sha256(s.operation)
                    || sha256(s.model))
                = sha256(sha256(w.workspace) || sha256(w.api_key) || sha256(w.provider) || sha256(w.operation)
                    || sha256(w.model))
            """, try columns(candidates))
        for row in 0..<rows.count { known[candidates[Int(rows.integer(row, 0)) - 1]] = rows.integer(row, 1) }
        missing.removeAll { known[$0] != nil }
    }

    private func columns(_ series: [SeriesKey]) throws(ServerFailure) -> Parameters {
        var sets: [Int64?] = []
        for key in series { sets.append(try knownNumber(ofSet: key.set)) }
        var parameters = Parameters()
        parameters.add(bigints: sets)
        parameters.add(smallints: series.map { Int16($0.outcome.rawValue) })
        parameters.add(smallints: series.map { Int16($0.statusClass) })
        parameters.add(bytes: series.map { Array($0.workspace.utf8) })
        parameters.add(bytes: series.map { Array($0.apiKey.utf8) })
        parameters.add(bytes: series.map { Array($0.provider.utf8) })
        parameters.add(bytes: series.map { Array($0.operation.utf8) })
        parameters.add(bytes: series.map { Array($0.model.utf8) })
        return parameters
    }

    private func knownNumber(ofSet set: [UInt8]) throws(ServerFailure) -> Int64 {
        guard let number = knownSets[set] else { throw Self.lost() }
        return number
    }

    private static func lost() -> ServerFailure {
        ServerFailure(
            RollupStoreError(
                code: .corrupt, tried: "number a series", reason: "a row that is refused as known is not found",
                next: "Check the indexes of the tables series and metadata_sets with pg_amcheck, or restore them."))
    }
}
