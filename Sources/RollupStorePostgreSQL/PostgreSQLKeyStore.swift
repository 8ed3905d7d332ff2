// API keys on the server: a connection a call, since calls are rare.

package import Access
package import Events
package import RollupStore

package struct PostgreSQLKeyStore: KeyStore {
    private let address: ServerAddress

    init(_ address: ServerAddress) { self.address = address }

    package func add(_ key: AccessKey) throws(RollupStoreError) {
        var parameters = Parameters()
        parameters.add(Array(key.id.utf8))
        parameters.add(key.digest.bytes)
        parameters.add(Array(key.workspace.utf8))
        parameters.add(Int16(key.scopes.rawValue))
        parameters.add(Array(key.name.utf8))
        parameters.add(key.created.microseconds)
        parameters.add(bigints: [key.revoked?.microseconds])
        do throws(ServerFailure) {
            _ = try connected(.write).query(
                """
                INSERT INTO keys (id, digest, workspace, scopes, name, created_us, revoked_us)
                VALUES ($1::text, $2::bytea, $3::bytea, $4::smallint, $5::bytea, $6::bigint, ($7::bigint[])[1])
                """, parameters)
        } catch {
            guard error.state == ServerFailure.uniqueViolation else { throw error.error }
            throw RollupStoreError(
                code: .configuration, tried: "add the key \(key.id)", reason: "there is one of that id or text",
                next: "Make another one.")
        }
    }

    package func keys() throws(RollupStoreError) -> [AccessKey] {
        do throws(ServerFailure) {
            return try Self.read(try connected(.read))
        } catch {
            throw error.error
        }
    }

    package func revoke(id: String, at time: EventTime) throws(RollupStoreError) -> AccessKey? {
        var parameters = Parameters()
        parameters.add(Array(id.utf8))
        parameters.add(time.microseconds)
        do throws(ServerFailure) {
            let connection = try connected(.write)
            _ = try connection.query(
                "UPDATE keys SET revoked_us = coalesce(revoked_us, $2::bigint) WHERE id = $1::text", parameters)
            return try Self.read(connection).first { $0.id == id }
        } catch {
            throw error.error
        }
    }

    /// A change is on the server's disk when it returns, whatever is the rule for batches.
    private func connected(_ access: Connection.Access) throws(ServerFailure) -> Connection {
        let connection = try PostgreSQLRollupStore.connect(address, access)
        if access == .write { try connection.execute("SET synchronous_commit = on") }
        return connection
    }

    private static func read(_ connection: Connection) throws(ServerFailure) -> [AccessKey] {
        let rows = try connection.query(
            "SELECT id, digest, workspace, scopes, name, created_us, revoked_us FROM keys ORDER BY created_us, id")
        var keys: [AccessKey] = []
        for row in 0..<rows.count {
            guard let digest = Digest(bytes: rows.bytes(row, 1)) else {
                throw ServerFailure(
                    RollupStoreError(
                        code: .corrupt, tried: "read the API keys", reason: "a digest has not 32 bytes",
                        next: "Restore the database."))
            }
            keys.append(
                AccessKey(
                    id: rows.text(row, 0), digest: digest, workspace: rows.text(row, 2),
                    scopes: AccessScopes(rawValue: UInt8(truncatingIfNeeded: rows.integer(row, 3))),
                    name: rows.text(row, 4), created: EventTime(microseconds: rows.integer(row, 5)),
                    revoked: rows.optionalInteger(row, 6).map { EventTime(microseconds: $0) }))
        }
        return keys
    }
}
