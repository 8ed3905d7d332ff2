// The embedded store: opens, makes or migrates one SQLite file -> a writer and readers.
//
// Write-ahead log: readers see the last commit before their first look and never wait for the writer.
// synchronous = NORMAL: a crash of the program loses nothing; a power cut may take the last commits, whole ones, and
// their offsets with them, so that the log plays them again.

import CSQLite
import Glibc
package import RollupStore
import Schemas

package struct SQLiteRollupStore: Sendable {
    /// | limit | unit | value | why |
    /// | --- | --- | --- | --- |
    /// | `pageSize` | bytes | 8,192 | 4,096 and 16,384 were no faster when measured; rows of half a kilobyte fit well |
    /// | `writerCacheSize` | bytes | 64 MiB | the pages that one batch touches |
    /// | `readerCacheSize` | bytes | 16 MiB | the rest comes through the mapping |
    /// | `readerMapSize` | bytes | 1 GiB | pages are read without a system call |
    /// | `checkpointSize` | bytes | 64 MiB | the log is carried over once in so many bytes: a page changed by many batches is written once |
    /// | `logSize` | bytes | 256 MiB | beyond it the writer itself carries over the rest, so that the log begins anew |
    /// | `openTimeout` | ms | 10,000 | another process that makes the same file |
    enum Limits {
        static let pageSize = 8_192
        static let writerCacheSize = 64 << 20
        static let readerCacheSize = 16 << 20
        static let readerMapSize = 1 << 30
        static let checkpointSize = 64 << 20
        static let logSize = 256 << 20
        static let openTimeout = 10_000
    }

    /// "MLRC", in the file's header: tells our file from another program's.
    static let applicationID: Int64 = 0x4D4C_5243
    /// One for each step of `Schemas.sqlite`.
    package static let schemaVersion = Int64(Schemas.sqlite.count)

    package let path: String
    package let reader: SQLiteRollupReader

    /// Opens the store for any role, and makes it where there is none yet.
    ///
    /// - `createDirectory`: make the directory too, for the default place; else a missing one is an error.
    /// - `readers`: how many reads run at once; further ones wait.
    package static func open(
        path: String, createDirectory: Bool = false, readers: Int = 4
    ) throws(RollupStoreError) -> SQLiteRollupStore {
        try checkDirectory(of: path, create: createDirectory)
        do {
            let lock = try FileLock(path + ".open-lock", waitMilliseconds: Limits.openTimeout)
            defer { lock.release() }
            let connection = try Connection(path: path, access: .write)
            try migrate(connection, path)
        }
        return SQLiteRollupStore(path: path, reader: SQLiteRollupReader(path: path, connections: readers))
    }

    package var keys: SQLiteKeyStore { SQLiteKeyStore(path: path) }

    /// The store's one writer. Unavailable while another one, of any process, is open.
    ///
    /// - `maxPages`: the file may not grow beyond so many pages; at the limit it is as if the disk were full.
    package func makeWriter(maxPages: Int? = nil) throws(RollupStoreError) -> SQLiteRollupWriter {
        let schedule = CheckpointSchedule(
            start: Limits.checkpointSize / Limits.pageSize, limit: Limits.logSize / Limits.pageSize)
        return try makeWriter(maxPages: maxPages, schedule: schedule)
    }

    /// - `schedule`: when the write-ahead log is carried over.
    package func makeWriter(
        maxPages: Int? = nil, schedule: CheckpointSchedule
    ) throws(RollupStoreError) -> SQLiteRollupWriter {
        let lock = try FileLock(path + ".writer-lock", waitMilliseconds: 0)
        let connection = try Connection(path: path, access: .write)
        try connection.execute(
            """
            PRAGMA synchronous = NORMAL;
            PRAGMA cache_size = -\(Limits.writerCacheSize / 1024);
            PRAGMA journal_size_limit = \(Limits.logSize);
            PRAGMA temp_store = MEMORY;
            PRAGMA secure_delete = OFF;
            """)
        if let maxPages { try connection.execute("PRAGMA max_page_count = \(maxPages)") }
        try connection.registerMergeBins()
        return SQLiteRollupWriter(connection, lock, Checkpointer(path: path), schedule)
    }

    private static func checkDirectory(of path: String, create: Bool) throws(RollupStoreError) {
        let directory = path.lastIndex(of: "/").map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
        var found = stat()
        if stat(directory, &found) == 0 {
            guard found.st_mode & S_IFMT != S_IFDIR else { return }
            throw RollupStoreError(
                code: .configuration, tried: "open the store \(path)", reason: "\(directory) is not a directory",
                next: "Name another place in store.url.")
        }
        if create, makeDirectories(directory) { return }
        let reason = create ? "could not make it: \(String(cString: strerror(errno)))" : "there is no such directory"
        throw RollupStoreError(
            code: .configuration, tried: "open the store \(path)", reason: "\(directory): \(reason)",
            next: "Make the directory, or name another place in store.url.")
    }

    private static func makeDirectories(_ path: String) -> Bool {
        var made = path.hasPrefix("/") ? "" : "."
        for part in path.split(separator: "/") {
            made += "/" + part
            // Its owner's alone: what the store holds is about people's use.
            if mkdir(made, 0o700) != 0 && errno != EEXIST { return false }
        }
        return true
    }

    private static func migrate(_ connection: Connection, _ path: String) throws(RollupStoreError) {
        let version = try connection.number("PRAGMA user_version") ?? 0
        let application = try connection.number("PRAGMA application_id") ?? 0
        let tables = try connection.number("SELECT count(*) FROM sqlite_schema") ?? 0
        if application != applicationID && (application != 0 || version != 0 || tables != 0) {
            throw RollupStoreError(
                code: .configuration, tried: "open the store \(path)", reason: "the file belongs to another program",
                next: "Name another file in store.url, or move this one away.")
        }
        if version > schemaVersion {
            throw RollupStoreError(
                code: .newerSchema, tried: "open the store \(path)",
                reason: "its schema is version \(version), this program knows up to \(schemaVersion)",
                next: "Run the newer program, or restore a backup that this one wrote.")
        }
        if version == schemaVersion { return }
        if version == 0 {
            // Both before the first table: they shape the file.
            try connection.execute("PRAGMA page_size = \(Limits.pageSize)")
            try connection.execute("PRAGMA journal_mode = WAL")
        }
        try connection.execute(
            """
            BEGIN IMMEDIATE;
            \(Schemas.sqlite.dropFirst(Int(version)).joined(separator: "\n"))
            PRAGMA application_id = \(applicationID);
            PRAGMA user_version = \(schemaVersion);
            COMMIT;
            """)
    }
}

/// A lock on a file of its own, held by this process until released; the system releases it when the process dies.
final class FileLock {
    private var descriptor: Int32

    /// Unavailable when another holds it and the time has passed.
    init(_ path: String, waitMilliseconds: Int) throws(RollupStoreError) {
        descriptor = Glibc.open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else {
            throw RollupStoreError(
                code: .configuration, tried: "open \(path)", reason: String(cString: strerror(errno)),
                next: "Make the store's directory writable for this user.")
        }
        let deadline = ContinuousClock.now.advanced(by: .milliseconds(waitMilliseconds))
        while flock(descriptor, LOCK_EX | LOCK_NB) != 0 {
            if ContinuousClock.now >= deadline {
                close(descriptor)
                descriptor = -1
                throw RollupStoreError(
                    code: .unavailable, tried: "lock \(path)", reason: "another process holds it",
                    next: "A SQLite store has one consumer: stop the other one, or wait for it to end.")
            }
            usleep(10_000)
        }
    }

    deinit { release() }

    func release() {
        if descriptor >= 0 {
            // Closing alone would leave it to a child that was just forked, until that becomes another program.
            flock(descriptor, LOCK_UN)
            close(descriptor)
        }
        descriptor = -1
    }
}
