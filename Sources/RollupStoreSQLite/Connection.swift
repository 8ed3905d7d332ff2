// One connection to the database file and its prepared statements: the only file that calls SQLite.

import CSQLite
import RollupStore
import Rollups

/// A connection and everything prepared on it. Used by one thread at a time; who that is, its owner says.
final class Connection {
    enum Access { case write, read, checkpoint }

    private let handle: OpaquePointer
    private let path: String
    private var prepared: [String: Statement] = [:]
    private var selection: SeriesFilter?
    private var commitHook: CommitHook?
    private var stop: StopCondition?

    init(path: String, access: Access) throws(RollupStoreError) {
        var opened: OpaquePointer?
        // Readers too may write: the first reader of a new file makes the shared index of its write-ahead log.
        let flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE
        let status = sqlite3_open_v2(path, &opened, flags, nil)
        guard status == SQLITE_OK, let opened else {
            sqlite3_close_v2(opened)
            throw Self.failure(status, "open the store \(path)", path, detail: nil)
        }
        handle = opened
        self.path = path
        sqlite3_busy_timeout(handle, 5_000)
        switch access {
        case .read: try execute("PRAGMA query_only = ON")
        case .checkpoint: try execute("PRAGMA synchronous = NORMAL")
        case .write: break
        }
    }

    deinit {
        prepared.removeAll()
        sqlite3_close_v2(handle)
    }

    /// Runs SQL that answers nothing, several statements where there are several.
    func execute(_ sql: String) throws(RollupStoreError) {
        let status = sqlite3_exec(handle, sql, nil, nil, nil)
        if status != SQLITE_OK { throw failure(status, "run a statement on the store") }
    }

    /// The statement for this text, prepared once and kept. The text is one of the program's own.
    func statement(_ sql: String) throws(RollupStoreError) -> Statement {
        if let known = prepared[sql] { return known }
        var made: OpaquePointer?
        let status = sqlite3_prepare_v3(handle, sql, -1, UInt32(SQLITE_PREPARE_PERSISTENT), &made, nil)
        guard status == SQLITE_OK, let made else { throw failure(status, "prepare a statement on the store") }
        let statement = Statement(made, of: self)
        prepared[sql] = statement
        return statement
    }

    /// The first column of the first row.
    func number(_ sql: String) throws(RollupStoreError) -> Int64? {
        let statement = try statement(sql)
        defer { statement.reset() }
        return try statement.step() && !statement.isNull(0) ? statement.integer(0) : nil
    }

    /// Rows that the last statement inserted, updated or deleted.
    var changes: Int32 { sqlite3_changes(handle) }
    var lastRowID: Int64 { sqlite3_last_insert_rowid(handle) }
    var isInTransaction: Bool { sqlite3_get_autocommit(handle) == 0 }

    /// Calls `body` after each commit with the number of pages that the write-ahead log then holds. From here on this
    /// connection makes no checkpoint by itself.
    func onCommit(_ body: @escaping (Int) -> Void) {
        let hook = CommitHook(body)
        // The connection holds the hook for as long as SQLite can call it.
        sqlite3_wal_hook(
            handle,
            { context, _, _, pages in
                guard let context else { return SQLITE_OK }
                Unmanaged<CommitHook>.fromOpaque(context).takeUnretainedValue().body(Int(pages))
                return SQLITE_OK
            }, Unmanaged.passUnretained(hook).toOpaque())
        commitHook = hook
    }

    /// Carries over into the database file what it can without waiting for anyone. A failure leaves the log as it is.
    func checkpoint() { sqlite3_wal_checkpoint_v2(handle, nil, SQLITE_CHECKPOINT_PASSIVE, nil, nil) }

    /// Statements end with an error soon after the condition has become true; nil: they run to their end.
    func stop(when isUnwanted: (@Sendable () -> Bool)?) {
        guard let isUnwanted else {
            sqlite3_progress_handler(handle, 0, nil, nil)
            stop = nil
            return
        }
        let made = StopCondition(isUnwanted)
        // The connection holds the condition for as long as SQLite may ask it.
        stop = made
        sqlite3_progress_handler(
            handle, StopCondition.steps,
            { context in
                guard let context else { return 0 }
                return Unmanaged<StopCondition>.fromOpaque(context).takeUnretainedValue().isUnwanted() ? 1 : 0
            }, Unmanaged.passUnretained(made).toOpaque())
    }

    /// Makes `merge_bins(stored, added)` known to this connection's SQL.
    func registerMergeBins() throws(RollupStoreError) {
        let flags = SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS
        let status = sqlite3_create_function_v2(
            handle, "merge_bins", 2, flags, nil,
            { context, count, values in
                guard count == 2, let values else { return }
                let stored = Connection.bytes(of: values[0])
                let added = Connection.bytes(of: values[1])
                withUnsafeTemporaryAllocation(
                    byteCount: BinBlob.mergedCapacity(stored.count, added.count), alignment: 1
                ) { out in
                    guard let count = BinBlob.merge(stored, added, into: out) else {
                        sqlite3_result_error(context, "the bins of a rollup row do not parse", -1)
                        sqlite3_result_error_code(context, SQLITE_CORRUPT)
                        return
                    }
                    if count == 0 {
                        sqlite3_result_zeroblob(context, 0)
                    } else {
                        sqlite3_result_blob(context, out.baseAddress, Int32(count), Statement.copied)
                    }
                }
            }, nil, nil, nil)
        if status != SQLITE_OK { throw failure(status, "register a function with the store") }
    }

    /// Makes `is_selected(series)` true of exactly these series, until the next call.
    func select(_ series: [Int64]) throws(RollupStoreError) {
        if selection == nil {
            let made = SeriesFilter()
            // The connection holds the filter for as long as SQL can call the function.
            let context = Unmanaged.passUnretained(made).toOpaque()
            let status = sqlite3_create_function_v2(
                handle, "is_selected", 1, SQLITE_UTF8 | SQLITE_INNOCUOUS, context,
                { context, _, values in
                    guard let data = sqlite3_user_data(context), let values else { return }
                    let filter = Unmanaged<SeriesFilter>.fromOpaque(data).takeUnretainedValue()
                    sqlite3_result_int(context, filter.contains(sqlite3_value_int64(values[0])) ? 1 : 0)
                }, nil, nil, nil)
            if status != SQLITE_OK { throw failure(status, "register a function with the store") }
            selection = made
        }
        selection?.set(series)
    }

    private static func bytes(of value: OpaquePointer?) -> UnsafeRawBufferPointer {
        let start = sqlite3_value_blob(value)
        return UnsafeRawBufferPointer(start: start, count: Int(sqlite3_value_bytes(value)))
    }

    /// What SQLite says, in an operator's words and sorted by what helps.
    func failure(_ status: Int32, _ tried: String) -> RollupStoreError {
        Self.failure(status, tried, path, detail: sqlite3_errmsg(handle).map { String(cString: $0) })
    }

    private static func failure(_ status: Int32, _ tried: String, _ path: String, detail: String?) -> RollupStoreError {
        let reason = (detail ?? sqlite3_errstr(status).map { String(cString: $0) } ?? "no reason given")
        let shown = "\(reason) (SQLite \(status))"
        switch status & 0xFF {
        case SQLITE_BUSY, SQLITE_LOCKED, SQLITE_PROTOCOL:
            return RollupStoreError(
                code: .unavailable, tried: tried, reason: shown,
                next: "Another process holds \(path); it is tried again.")
        case SQLITE_FULL:
            return RollupStoreError(
                code: .unavailable, tried: tried, reason: shown,
                next: "Free some space where \(path) is; ingest goes on by itself.")
        case SQLITE_IOERR, SQLITE_NOMEM, SQLITE_CANTOPEN, SQLITE_INTERRUPT:
            return RollupStoreError(
                code: .unavailable, tried: tried, reason: shown, next: "Check the disk and the permissions of \(path).")
        case SQLITE_PERM, SQLITE_READONLY, SQLITE_AUTH:
            return RollupStoreError(
                code: .configuration, tried: tried, reason: shown, next: "Make \(path) and its directory writable.")
        case SQLITE_NOTADB:
            return RollupStoreError(
                code: .configuration, tried: tried, reason: "\(path) is not a SQLite database",
                next: "Name another file in store.url, or move this one away.")
        default:
            return RollupStoreError(
                code: .corrupt, tried: tried, reason: shown,
                next:
                    "Stop the program, run PRAGMA integrity_check on \(path), and restore it or rebuild it from the log."
            )
        }
    }
}

private final class CommitHook {
    let body: (Int) -> Void
    init(_ body: @escaping (Int) -> Void) { self.body = body }
}

private final class StopCondition {
    /// Steps of SQLite's machine between two looks: some thousand rows.
    static let steps: Int32 = 50_000

    let isUnwanted: @Sendable () -> Bool
    init(_ isUnwanted: @escaping @Sendable () -> Bool) { self.isUnwanted = isUnwanted }
}

/// A set of series as bits: asked once for every event row of a scan.
private final class SeriesFilter {
    private var words: [UInt64] = []
    private var first: Int64 = 0

    func set(_ series: [Int64]) {
        guard let low = series.first, let high = series.last else { return }
        first = low
        words = [UInt64](repeating: 0, count: Int((high - low) / 64) + 1)
        for number in series { words[Int((number - low) / 64)] |= 1 << UInt64((number - low) % 64) }
    }

    func contains(_ series: Int64) -> Bool {
        let place = series - first
        guard place >= 0, place / 64 < words.count else { return false }
        return words[Int(place / 64)] & (1 << UInt64(place % 64)) != 0
    }
}

/// One prepared statement. Bound memory is not copied: it lives until `reset`, or the next `bind` of the same place.
final class Statement {
    static let copied = unsafeBitCast(-1, to: sqlite3_destructor_type.self)

    private let handle: OpaquePointer
    // The connection keeps its statements and outlives them.
    private unowned let connection: Connection

    fileprivate init(_ handle: OpaquePointer, of connection: Connection) {
        self.handle = handle
        self.connection = connection
    }

    deinit { sqlite3_finalize(handle) }

    /// True when there is a row to read.
    @inline(__always)
    func step() throws(RollupStoreError) -> Bool {
        let status = sqlite3_step(handle)
        if status == SQLITE_ROW { return true }
        if status == SQLITE_DONE { return false }
        let error = connection.failure(status, "read or write the store")
        reset()
        throw error
    }

    /// Runs a statement that answers nothing.
    @inline(__always)
    func run() throws(RollupStoreError) {
        _ = try step()
        sqlite3_reset(handle)
    }

    /// As `run`, but a row that breaks a constraint answers false instead.
    func runUnlessConstrained() throws(RollupStoreError) -> Bool {
        let status = sqlite3_step(handle)
        if status & 0xFF == SQLITE_CONSTRAINT {
            sqlite3_reset(handle)
            return false
        }
        if status != SQLITE_DONE && status != SQLITE_ROW {
            let error = connection.failure(status, "write the store")
            sqlite3_reset(handle)
            throw error
        }
        sqlite3_reset(handle)
        return true
    }

    func reset() { sqlite3_reset(handle) }

    // Places count from 1. A failed bind leaves NULL, which the schema's NOT NULL then refuses.

    @inline(__always)
    func bind(_ place: Int32, _ value: Int64) { sqlite3_bind_int64(handle, place, value) }

    @inline(__always)
    func bind(_ place: Int32, _ value: Int64?) {
        if let value { sqlite3_bind_int64(handle, place, value) } else { sqlite3_bind_null(handle, place) }
    }

    /// Text that outlives the statement's run; NULL where it is empty.
    @inline(__always)
    func bindText(_ place: Int32, _ bytes: UnsafeRawBufferPointer) {
        guard bytes.count > 0 else {
            sqlite3_bind_null(handle, place)
            return
        }
        sqlite3_bind_text(
            handle, place, bytes.baseAddress?.assumingMemoryBound(to: CChar.self), Int32(bytes.count), nil)
    }

    /// A blob that outlives the statement's run; NULL where it is empty.
    @inline(__always)
    func bindBlob(_ place: Int32, _ bytes: UnsafeRawBufferPointer) {
        guard bytes.count > 0 else {
            sqlite3_bind_null(handle, place)
            return
        }
        sqlite3_bind_blob(handle, place, bytes.baseAddress, Int32(bytes.count), nil)
    }

    /// A blob that outlives the statement's run, empty or not.
    @inline(__always)
    func bindWholeBlob(_ place: Int32, _ bytes: UnsafeRawBufferPointer) {
        if bytes.count == 0 { sqlite3_bind_zeroblob(handle, place, 0) } else { bindBlob(place, bytes) }
    }

    /// Copied, empty or not.
    func bind(_ place: Int32, copying text: String) {
        var text = text
        text.withUTF8 {
            let start = UnsafeRawPointer($0.baseAddress)?.assumingMemoryBound(to: CChar.self)
            if let start {
                sqlite3_bind_text(handle, place, start, Int32($0.count), Self.copied)
            } else {
                sqlite3_bind_text(handle, place, "", 0, Self.copied)
            }
        }
    }

    /// Copied, empty or not, as text.
    func bindText(_ place: Int32, copying bytes: [UInt8]) {
        _ = bytes.withUnsafeBytes {
            sqlite3_bind_text(
                handle, place, $0.baseAddress?.assumingMemoryBound(to: CChar.self), Int32($0.count), Self.copied)
        }
    }

    /// Copied, empty or not, as a blob.
    func bindBlob(_ place: Int32, copying bytes: [UInt8]) {
        _ = bytes.withUnsafeBytes { bytes in
            if bytes.isEmpty {
                sqlite3_bind_zeroblob(handle, place, 0)
            } else {
                sqlite3_bind_blob(handle, place, bytes.baseAddress, Int32(bytes.count), Self.copied)
            }
        }
    }

    // Columns count from 0.

    @inline(__always)
    func integer(_ column: Int32) -> Int64 { sqlite3_column_int64(handle, column) }

    func isNull(_ column: Int32) -> Bool { sqlite3_column_type(handle, column) == SQLITE_NULL }

    func optionalInteger(_ column: Int32) -> Int64? { isNull(column) ? nil : integer(column) }

    /// Valid until the next step or reset.
    @inline(__always)
    func bytes(_ column: Int32) -> UnsafeRawBufferPointer {
        let start = sqlite3_column_blob(handle, column)
        return UnsafeRawBufferPointer(start: start, count: Int(sqlite3_column_bytes(handle, column)))
    }

    func text(_ column: Int32) -> String { String(decoding: bytes(column), as: UTF8.self) }
}
