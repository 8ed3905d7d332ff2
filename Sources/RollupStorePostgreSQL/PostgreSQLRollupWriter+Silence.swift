// A lock that was refused -> the sessions of writers that hold theirs and have fallen silent, ended.
//
// A consumer that is frozen in the middle of a transaction, or whose machine is, keeps its rows locked, and its kernel
// goes on to acknowledge what the server sends. No time limit of the server's covers that: in a COPY whose rows do not
// come the session counts as active, and `statement_timeout` is not looked at while it waits for them. So who is refused
// a lock looks at the other writers: one that waits for its client, in a transaction, at the same place as at the refusal
// before, has said nothing for as long as a lock is waited for, and is ended. Its transaction is rolled back; when it
// wakes, its batch fails as on any lost connection, and the offsets' rows decide whether it may try again.

extension PostgreSQLRollupWriter {
    /// Writers of these tables, the holders of a shard, whom the role of `store.url` may end: of that role, or of one that
    /// it is a member of.
    private static let endSilent =
        """
        SELECT w.place, CASE WHEN w.place = ANY ($1::text[]) THEN pg_terminate_backend(w.pid) ELSE false END
        FROM (
            SELECT a.pid, concat_ws(' ', a.pid, a.backend_start, a.state_change, c.bytes_processed) AS place
            FROM pg_stat_activity a LEFT JOIN pg_stat_progress_copy c ON c.pid = a.pid
            WHERE a.datname = current_database() AND a.xact_start IS NOT NULL AND a.wait_event_type = 'Client'
                AND pg_has_role(a.usesysid, 'USAGE') AND a.pid IN (
                    SELECT l.pid FROM pg_locks l WHERE l.locktype = 'advisory' AND l.objsubid = 2
                        AND l.classid::bigint = \(AdvisoryLock.shards)::bigint & 4294967295)
        ) AS w
        """

    /// True where some were ended. `before` are the silent ones' places at the last refusal, and then at this one.
    func endSilent(_ before: inout [String], _ connection: Connection) throws(ServerFailure) -> Bool {
        var parameters = Parameters()
        parameters.add(texts: before)
        let rows = try connection.query(Self.endSilent, parameters)
        before = (0..<rows.count).map { rows.text($0, 0) }
        return (0..<rows.count).contains { rows.integer($0, 1) == 1 }
    }
}
