// The store on a PostgreSQL server: connects, makes or migrates the tables -> writers and readers.
//
// Any number of writers, each with a shard of the rollups; readers see one state and wait for nobody. A batch is one
// transaction, so `synchronous_commit` decides what a power cut of the server may cost: by PostgreSQL's default nothing.

package import Events
package import RollupStore
import Schemas
import Threading

package struct PostgreSQLRollupStore: Sendable {
    static let schemaVersion = Int64(Schemas.postgresql.count)

    package let reader: PostgreSQLRollupReader
    private let address: ServerAddress

    /// What is wrong with a URL, as far as it can be said without connecting; nil where nothing is.
    package static func problem(with url: String) -> String? {
        do throws(RollupStoreError) {
            _ = try ServerAddress(url)
            return nil
        } catch {
            return error.description
        }
    }

    /// The store that a URL names: `postgres://USER@HOST:PORT/DATABASE?sslmode=…`, all as libpq takes it. A password
    /// may stand there, in PGPASSWORD, in ~/.pgpass, or in the file that PGPASSFILE or the URL's `passfile` names.
    ///
    /// - `mustConnect`: a server that is away is an error; else it is met, and its tables made or migrated, when there
    ///   is something to read or write.
    /// - `readers`: how many reads run at once; further ones wait.
    package static func open(
        url: String, mustConnect: Bool = true, readers: Int = 4
    ) throws(RollupStoreError) -> PostgreSQLRollupStore {
        let address = try ServerAddress(url)
        do throws(ServerFailure) {
            _ = try connect(address, .write)
        } catch {
            if mustConnect || !error.error.isTransient { throw error.error }
        }
        return PostgreSQLRollupStore(
            reader: PostgreSQLRollupReader(address, connections: readers), address: address)
    }

    /// A writer; it connects when it is first used. Any number may write at once, of other partitions.
    package func makeWriter(
        now: @escaping @Sendable () -> EventTime = { EventTime(microseconds: WallClock.microseconds()) }
    ) -> PostgreSQLRollupWriter {
        PostgreSQLRollupWriter(address, now: now)
    }

    package var keys: PostgreSQLKeyStore { PostgreSQLKeyStore(address) }

    package var deadLetters: PostgreSQLDeadLetters { PostgreSQLDeadLetters(address) }

    /// The server and the database, without a password.
    package var description: String { address.description }

    /// A connection to a store of this program's version: whoever comes first makes or migrates the tables.
    static func connect(_ address: ServerAddress, _ access: Connection.Access) throws(ServerFailure) -> Connection {
        let connection = try Connection(address, access: access)
        if try version(connection) == schemaVersion { return connection }
        try connection.execute(
            """
            BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock(\(AdvisoryLock.schema));
            """)
        // Another one may have been quicker.
        let found = try version(connection)
        if found > schemaVersion {
            throw ServerFailure(
                RollupStoreError(
                    code: .newerSchema, tried: "open the store \(address)",
                    reason: "its schema is version \(found), this program knows up to \(schemaVersion)",
                    next: "Run the newer program, or restore a backup that this one wrote."))
        }
        if found < schemaVersion {
            do throws(ServerFailure) {
                try connection.execute(Schemas.postgresql.dropFirst(Int(found)).joined(separator: "\n"))
            } catch {
                // A table of this name that is not ours.
                guard error.state == ServerFailure.duplicateTable else { throw error }
                throw ServerFailure(
                    RollupStoreError(
                        code: .configuration, tried: "make the tables in \(address)",
                        reason: "the schema holds tables of another program: \(error.error.reason)",
                        next: "Name another database, or another schema with ?options=-csearch_path%3DNAME."))
            }
            try connection.execute("INSERT INTO millrace_schema (version) VALUES (\(schemaVersion))")
        }
        try connection.execute("COMMIT")
        return connection
    }

    /// 0 where the schema has no tables of ours.
    private static func version(_ connection: Connection) throws(ServerFailure) -> Int64 {
        // By a look into the catalog as it is now: what to_regclass knows within a transaction may be from before another
        // program made the table.
        let isThere = try connection.query(
            """
            SELECT EXISTS (SELECT FROM pg_class WHERE relname = 'millrace_schema' AND relnamespace =
                (SELECT oid FROM pg_namespace WHERE nspname = current_schema()))
            """)
        if isThere.integer(0, 0) == 0 { return 0 }
        let rows = try connection.query("SELECT max(version) FROM millrace_schema")
        return rows.integer(0, 0)
    }
}

/// SQL for the keys of the locks that writers of one schema share. The database is part of every key by itself.
enum AdvisoryLock {
    static let schema = key("schema")
    static let numbers = key("numbers")
    static let partitions = key("partitions")
    static let retention = key("retention")
    static let rules = key("rules")
    /// The first half of a shard's key; the other one is its number.
    static let shards = "hashtext('millrace shards ' || current_schema())"

    private static func key(_ what: String) -> String {
        "hashtextextended('millrace \(what) ' || current_schema(), 0)"
    }
}
