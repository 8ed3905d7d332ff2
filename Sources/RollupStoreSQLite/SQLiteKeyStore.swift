// API keys in the embedded store: a connection a call, since calls are rare.
//
// Ingest writes one transaction after the other and leaves little time between them; SQLite's own waiting looks again
// after up to a tenth of a second and may miss each gap. So the lock is asked for often, for as long as `patience`.

package import Access
package import Events
import Glibc
package import RollupStore

package struct SQLiteKeyStore: KeyStore {
    /// How long a change waits for the batch that is being written, and the next ones.
    private static let patience = Duration.seconds(30)
    private static let pauseMicroseconds: UInt32 = 200

    private let path: String

    init(path: String) { self.path = path }

    package func add(_ key: AccessKey) throws(RollupStoreError) {
        try change { connection throws(RollupStoreError) in
            let statement = try connection.statement(
                """
                INSERT INTO keys (id, digest, workspace, scopes, name, created_us, revoked_us)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                """)
            statement.bind(1, copying: key.id)
            statement.bindBlob(2, copying: key.digest.bytes)
            statement.bind(3, copying: key.workspace)
            statement.bind(4, Int64(key.scopes.rawValue))
            statement.bind(5, copying: key.name)
            statement.bind(6, key.created.microseconds)
            statement.bind(7, key.revoked?.microseconds)
            guard try statement.runUnlessConstrained() else {
                throw RollupStoreError(
                    code: .configuration, tried: "add the key \(key.id)", reason: "there is one of that id or text",
                    next: "Make another one.")
            }
        }
    }

    package func keys() throws(RollupStoreError) -> [AccessKey] {
        // Opening would make the file anew.
        guard access(path, F_OK) == 0 else {
            throw RollupStoreError(
                code: .unavailable, tried: "read the API keys of \(path)", reason: String(cString: strerror(errno)),
                next: "Bring the file back; it is looked for again.")
        }
        return try Self.read(try Connection(path: path, access: .read))
    }

    package func revoke(id: String, at time: EventTime) throws(RollupStoreError) -> AccessKey? {
        try change { connection throws(RollupStoreError) in
            let statement = try connection.statement(
                "UPDATE keys SET revoked_us = coalesce(revoked_us, ?2) WHERE id = ?1")
            statement.bind(1, copying: id)
            statement.bind(2, time.microseconds)
            try statement.run()
            return try Self.read(connection).first { $0.id == id }
        }
    }

    private static func read(_ connection: Connection) throws(RollupStoreError) -> [AccessKey] {
        let rows = try connection.statement(
            "SELECT id, digest, workspace, scopes, name, created_us, revoked_us FROM keys ORDER BY created_us, id")
        defer { rows.reset() }
        var keys: [AccessKey] = []
        while try rows.step() {
            guard let digest = Digest(bytes: rows.bytes(1)) else {
                throw RollupStoreError(
                    code: .corrupt, tried: "read the API keys", reason: "a digest has not 32 bytes",
                    next: "Run PRAGMA integrity_check on the store, and restore it.")
            }
            keys.append(
                AccessKey(
                    id: rows.text(0), digest: digest, workspace: rows.text(2),
                    scopes: AccessScopes(rawValue: UInt8(truncatingIfNeeded: rows.integer(3))), name: rows.text(4),
                    created: EventTime(microseconds: rows.integer(5)),
                    revoked: rows.optionalInteger(6).map { EventTime(microseconds: $0) }))
        }
        return keys
    }

    /// One transaction. It is on disk, power cut or not, when this returns.
    private func change<Result>(
        _ body: (Connection) throws(RollupStoreError) -> Result
    ) throws(RollupStoreError) -> Result {
        let connection = try Connection(path: path, access: .write)
        try connection.execute("PRAGMA synchronous = FULL; PRAGMA busy_timeout = 0")
        try begin(connection)
        do {
            let result = try body(connection)
            try connection.statement("COMMIT").run()
            return result
        } catch {
            if connection.isInTransaction { try connection.statement("ROLLBACK").run() }
            throw error
        }
    }

    private func begin(_ connection: Connection) throws(RollupStoreError) {
        let deadline = ContinuousClock.now.advanced(by: Self.patience)
        while true {
            do throws(RollupStoreError) {
                return try connection.statement("BEGIN IMMEDIATE").run()
            } catch {
                guard error.code == .unavailable, ContinuousClock.now < deadline else { throw error }
                usleep(Self.pauseMicroseconds)
            }
        }
    }
}
