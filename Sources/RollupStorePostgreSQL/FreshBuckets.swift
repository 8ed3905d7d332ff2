// Which buckets have no row of a writer's shard yet: rows of those go straight into the table.

/// A bucket is fresh where the store has no row of it when it is first met; what the writer has met since is not. Good for
/// one connection, as its shard is.
///
/// Where it were wrong nothing would be counted wrongly: the key would be in the way, and the batch, tried again, finds the
/// bucket known and adds to the rows that are there.
struct FreshBuckets {
    /// Buckets remembered at most, some 3 MB; beyond, all are forgotten and looked up again.
    private static let limit = 100_000

    /// In the order of the key of the table rollups.
    struct Bucket: Hashable, Comparable {
        var generation: Int16
        var grain: Int16
        var number: Int32

        static func < (one: Bucket, other: Bucket) -> Bool {
            (one.generation, one.grain, one.number) < (other.generation, other.grain, other.number)
        }
    }

    private var known: Set<Bucket> = []

    mutating func forget() { known.removeAll() }

    /// Those of them that are fresh. None is afterwards, whether or not anything is written.
    mutating func take(_ buckets: [Bucket], _ connection: Connection) throws(ServerFailure) -> Set<Bucket> {
        let unmet = Set(buckets).subtracting(known).sorted()
        if unmet.isEmpty { return [] }
        if known.count + unmet.count > Self.limit { forget() }
        known.formUnion(unmet)
        var parameters = Parameters()
        parameters.add(smallints: unmet.map(\.generation))
        parameters.add(smallints: unmet.map(\.grain))
        parameters.add(integers: unmet.map(\.number))
        let rows = try connection.query(
            """
            SELECT w.place
            FROM unnest($1::smallint[], $2::smallint[], $3::integer[]) WITH ORDINALITY AS w (generation, grain, bucket, place)
            WHERE NOT EXISTS (
                SELECT FROM rollups r WHERE r.generation = w.generation AND r.grain = w.grain AND r.bucket = w.bucket
            )
            """, parameters)
        return Set((0..<rows.count).map { unmet[Int(rows.integer($0, 0)) - 1] })
    }
}
