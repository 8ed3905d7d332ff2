// One connection to the server and its prepared statements: the only file that calls libpq.

import CPQ
import Glibc
import RollupStore

/// What the server or the library said, with the code that our own decisions rest on.
struct ServerFailure: Error {
    /// SQLSTATE; empty where the server did not get to say one.
    var state: String
    var error: RollupStoreError

    static let uniqueViolation = "23505"
    static let checkViolation = "23514"
    static let outOfRange = "22003"
    static let noSuchTable = "42P01"
    static let lockNotAvailable = "55P03"
    static let duplicateTable = "42P07"

    /// Another transaction was in the way: the same again is likely to pass. A row on its way into `events_other` while
    /// its day gets a partition breaks the constraint of the former, and goes into the latter next time.
    var isConflict: Bool {
        state == "40001" || state == "40P01" || state == Self.uniqueViolation || state == Self.checkViolation
    }

    init(state: String = "", _ error: RollupStoreError) {
        self.state = state
        self.error = error
    }
}

/// A connection and everything prepared on it. Used by one thread at a time; who that is, its owner says.
final class Connection {
    enum Access { case write, read }

    /// | setting | value | why |
    /// | --- | --- | --- |
    /// | `connect_timeout` | 5 s | a host that does not answer is tried again, with the stop signal looked at between |
    /// | `tcp_user_timeout` | 20 s | a host that has gone without a word |
    /// | `lock_timeout` | 5 s | another writer's transaction: the batch is tried again |
    /// | `statement_timeout` | 60 s writing, 30 s reading | a server that has come to a stand, a question that is too dear |
    /// | `idle_in_transaction_session_timeout` | 60 s | a client that died without a word keeps no row locked |
    /// | `tcp_keepalives_…` | 20 s, 5 s, 3 | the same, while it sends rows |
    ///
    /// The URL, the role and the database may each set others: only what nobody has set is set here.
    private static let limits: [(name: String, write: String, read: String)] = [
        ("lock_timeout", "5s", "5s"), ("statement_timeout", "60s", "30s"),
        ("idle_in_transaction_session_timeout", "60s", "60s"), ("tcp_keepalives_idle", "20", "20"),
        ("tcp_keepalives_interval", "5", "5"), ("tcp_keepalives_count", "3", "3"),
        ("client_connection_check_interval", "10s", "10s"),
    ]
    private static let connecting = [
        ("connect_timeout", "5"), ("tcp_user_timeout", "20000"), ("fallback_application_name", "millrace"),
    ]
    /// Debian 12's, and what the tests run on.
    private static let oldestServer: Int32 = 150_000

    private let handle: OpaquePointer
    private var prepared: [String: String] = [:]
    private var cursors = 0
    let address: ServerAddress
    /// Asked before each statement and while it runs; once true, the server is told to stop it and the statement fails.
    /// nil: statements run to their end.
    var isUnwanted: (@Sendable () -> Bool)?
    /// The server was told to stop a statement; a word that comes late may stop the next one.
    private(set) var wasCancelled = false

    init(_ address: ServerAddress, access: Access) throws(ServerFailure) {
        // What comes later in the list goes before what comes earlier: the URL decides.
        let options = Self.connecting + [("dbname", address.url), ("client_encoding", "UTF8")]
        let opened = Self.withTexts(options.map(\.0)) { names in
            Self.withTexts(options.map(\.1)) { values in PQconnectdbParams(names, values, 1) }
        }
        guard let opened else {
            throw ServerFailure(
                RollupStoreError(
                    code: .unavailable, tried: "connect to \(address)", reason: "out of memory", next: "Try again."))
        }
        handle = opened
        self.address = address
        guard PQstatus(handle) == CONNECTION_OK else {
            let reason = Self.oneLine(PQerrorMessage(handle))
            throw ServerFailure(
                RollupStoreError(
                    code: .unavailable, tried: "connect to \(address)", reason: reason,
                    next: Self.advice(reason) + "; it is tried again."))
        }
        guard PQserverVersion(handle) >= Self.oldestServer else {
            throw ServerFailure(
                RollupStoreError(
                    code: .configuration, tried: "connect to \(address)",
                    reason: "the server is PostgreSQL \(PQserverVersion(handle) / 10_000)",
                    next: "Use PostgreSQL 15 or later."))
        }
        try prepareSession(access)
    }

    deinit { PQfinish(handle) }

    /// The library has no codes for what keeps it from connecting, only texts, and those in English.
    private static func advice(_ reason: String) -> String {
        if reason.contains("client certificate") || reason.contains("certificate authentication") {
            return
                "In store.url, name the client's certificate and its key by sslcert=FILE and sslkey=FILE; it is made out "
                + "to the user's name"
        }
        if reason.contains("certificate") {
            return "In store.url, name the host as its certificate does, and by sslrootcert=FILE who signed that"
        }
        if reason.contains("no encryption") { return "The server wants TLS: add sslmode=verify-full to store.url" }
        return "Check that the server runs and that store.url, its passfile, PGPASSFILE or PGPASSWORD fit"
    }

    /// Every table is met through an index and every plan is made for its arguments: what a plan costs is then known,
    /// whether or not the server has gathered statistics of a table that is an hour old.
    private func prepareSession(_ access: Access) throws(ServerFailure) {
        try execute(
            """
            SET jit = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_seqscan = off;
            SET enable_bitmapscan = off; SET enable_material = off;
            """)
        if access == .read { try execute("SET plan_cache_mode = force_custom_plan") }
        var parameters = Parameters()
        parameters.add(texts: Self.limits.map(\.name))
        parameters.add(texts: Self.limits.map { access == .write ? $0.write : $0.read })
        _ = try query(
            """
            SELECT set_config(w.name, w.value, false) FROM unnest($1::text[], $2::text[]) AS w (name, value)
            JOIN pg_settings s ON s.name = w.name WHERE s.source IN ('default', 'override')
            """, parameters)
    }

    // MARK: Statements

    var isAlive: Bool { PQstatus(handle) == CONNECTION_OK }
    var isInTransaction: Bool {
        switch PQtransactionStatus(handle) {
        case PQTRANS_INTRANS, PQTRANS_INERROR: true
        default: false
        }
    }

    /// Runs SQL that takes and answers nothing, several statements where there are several.
    func execute(_ sql: String) throws(ServerFailure) {
        let tried = "run a statement on the store"
        let rows =
            isUnwanted == nil
            ? Rows(PQexec(handle, sql)) : try whileWanted(tried) { PQsendQuery(handle, sql) }
        guard rows.isFine else { throw failure(rows, tried) }
    }

    /// Runs one statement, prepared once and kept. The text is one of the program's own.
    func query(_ sql: String, _ parameters: Parameters = Parameters()) throws(ServerFailure) -> Rows {
        let name: String
        if let known = prepared[sql] {
            name = known
        } else {
            name = "s\(prepared.count)"
            let tried = "prepare a statement on the store"
            // Preparing waits for locks too.
            let made =
                isUnwanted == nil
                ? Rows(PQprepare(handle, name, sql, 0, nil))
                : try whileWanted(tried) { PQsendPrepare(handle, name, sql, 0, nil) }
            guard made.isFine else { throw failure(made, tried) }
            prepared[sql] = name
        }
        let tried = "read or write the store"
        let rows =
            isUnwanted == nil
            ? Rows(
                parameters.withPointers { count, values, lengths, formats in
                    PQexecPrepared(handle, name, count, values, lengths, formats, 1)
                })
            : try whileWanted(tried) {
                parameters.withPointers { count, values, lengths, formats in
                    PQsendQueryPrepared(handle, name, count, values, lengths, formats, 1)
                }
            }
        guard rows.isFine else { throw failure(rows, tried) }
        return rows
    }

    /// How long a statement runs on before it is asked again whether it is wanted.
    private static let patienceMilliseconds: Int32 = 20

    /// The last answer to what is sent, as PQexec has it.
    private func whileWanted(_ tried: String, _ send: () -> Int32) throws(ServerFailure) -> Rows {
        if isUnwanted?() == true { throw unwanted(tried) }
        guard send() == 1 else { return Rows(nil) }
        var last = Rows(nil)
        while true {
            while PQisBusy(handle) == 1 {
                if !wasCancelled && isUnwanted?() == true { cancel() }
                var waiting = pollfd(fd: PQsocket(handle), events: Int16(POLLIN), revents: 0)
                poll(&waiting, 1, Self.patienceMilliseconds)
                // Where the connection is lost, the next result says so.
                if PQconsumeInput(handle) == 0 { break }
            }
            guard let result = PQgetResult(handle) else { break }
            last = Rows(result)
        }
        if wasCancelled { throw unwanted(tried) }
        return last
    }

    /// By a connection of its own, as the protocol has it. Where that fails, `statement_timeout` ends the statement.
    private func cancel() {
        wasCancelled = true
        guard let request = PQgetCancel(handle) else { return }
        defer { PQfreeCancel(request) }
        var reason = [CChar](repeating: 0, count: 256)
        PQcancel(request, &reason, Int32(reason.count))
    }

    private func unwanted(_ tried: String) -> ServerFailure {
        ServerFailure(
            RollupStoreError(
                code: .unavailable, tried: tried, reason: "the answer is no longer wanted",
                next: "Ask for less, or again."))
    }

    /// Rows of a statement in order, so many at a time, until `body` answers false. Only within a transaction.
    func scan(
        _ sql: String, _ parameters: Parameters, batches: (first: Int, then: Int),
        _ body: (Rows, Int) throws -> Bool
    ) throws {
        cursors += 1
        let cursor = "c\(cursors)"
        let declared = try whileWanted("read the store") {
            parameters.withPointers { count, values, lengths, formats in
                PQsendQueryParams(
                    handle, "DECLARE \(cursor) NO SCROLL CURSOR FOR \(sql)", count, nil, values, lengths, formats, 1)
            }
        }
        guard declared.isFine else { throw failure(declared, "read the store") }
        var wanted = batches.first
        while true {
            let rows = try whileWanted("read the store") {
                PQsendQueryParams(handle, "FETCH \(wanted) FROM \(cursor)", 0, nil, nil, nil, nil, 1)
            }
            guard rows.isFine else { throw failure(rows, "read the store") }
            for row in 0..<rows.count {
                if try !body(rows, row) { return try execute("CLOSE \(cursor)") }
            }
            if rows.count < wanted { return try execute("CLOSE \(cursor)") }
            wanted = batches.then
        }
    }

    /// Sends rows by binary COPY: `sql` is the whole statement, `body` writes them.
    func copy(_ sql: String, _ body: (inout CopyStream) -> Void) throws(ServerFailure) {
        let begun = Rows(PQexec(handle, sql))
        guard begun.isCopying else { throw failure(begun, "copy rows to the store") }
        var stream = CopyStream { [handle] bytes in
            PQputCopyData(handle, bytes.baseAddress?.assumingMemoryBound(to: CChar.self), Int32(bytes.count)) == 1
        }
        body(&stream)
        stream.finish()
        _ = PQputCopyEnd(handle, nil)
        // What went wrong while rows were sent is said here.
        var failed: Rows?
        while let result = PQgetResult(handle) {
            let rows = Rows(result)
            if !rows.isFine { failed = failed ?? rows }
            // A connection lost in the middle would say "still copying" for ever.
            if rows.isCopying || !isAlive {
                failed = failed ?? rows
                break
            }
        }
        if let failed { throw failure(failed, "copy rows to the store") }
        guard isAlive else { throw failure(Rows(nil), "copy rows to the store") }
    }

    // MARK: Failures

    /// What the server says, in an operator's words and sorted by what helps.
    private func failure(_ rows: Rows, _ tried: String) -> ServerFailure {
        let state = rows.state
        let isLost = !isAlive
        var reason = rows.message ?? Self.oneLine(PQerrorMessage(handle))
        if !state.isEmpty { reason += " (SQLSTATE \(state))" }
        let (code, next) = Self.sort(state, isLost: isLost, address)
        return ServerFailure(
            state: state, RollupStoreError(code: code, tried: tried, reason: reason, next: next))
    }

    private static func sort(
        _ state: String, isLost: Bool, _ address: ServerAddress
    ) -> (RollupStoreError.Code, String) {
        switch state {
        case "53100", "53200":
            return (.unavailable, "Give the server \(address) room on its disk or in memory; it is tried again.")
        case "25006":
            return (.unavailable, "\(address) is read-only, as a standby is: name the primary; it is tried again.")
        case "55P03", "57014", "40001", "40P01", "25P03":
            return (.unavailable, "Something else holds what this needs on \(address); it is tried again.")
        case "42501", "28000", "28P01":
            return (.configuration, "Give the role of store.url the rights on its schema and tables.")
        case "3D000", "3F000":
            return (.configuration, "Make the database and the schema that store.url names.")
        case noTable, "42703":
            return (.corrupt, "Run `millrace migrate`; where a table has gone, restore the database.")
        default: break
        }
        if isLost || ["08", "53", "57", "58"].contains(state.prefix(2)) || state.isEmpty {
            return (.unavailable, "Check the server \(address); it is tried again.")
        }
        return (.corrupt, "Look for this in the log of the server \(address); restore it or rebuild it from the log.")
    }
    private static let noTable = ServerFailure.noSuchTable

    private static func oneLine(_ text: UnsafePointer<CChar>?) -> String {
        let lines = text.map { String(cString: $0) }?.split(separator: "\n") ?? []
        let shown = lines.map { $0.drop { $0 == " " || $0 == "\t" } }.joined(separator: " ")
        return shown.isEmpty ? "the connection is lost" : shown
    }

    private static func withTexts<Result>(
        _ texts: [String], _ body: (UnsafePointer<UnsafePointer<CChar>?>) -> Result
    ) -> Result {
        var arena: [CChar] = []
        var starts: [Int] = []
        for text in texts {
            starts.append(arena.count)
            arena += text.utf8CString
        }
        return arena.withUnsafeBufferPointer { arena in
            let pointers = starts.map { start in arena.baseAddress.map { $0 + start } } + [nil]
            return body(pointers)
        }
    }
}

/// Where the server is, by `store.url`, and how it may be named to people.
struct ServerAddress: Sendable, CustomStringConvertible {
    let url: String
    /// User, host, port and database, without the password and the rest.
    let description: String

    init(_ url: String) throws(RollupStoreError) {
        self.url = url
        var message: UnsafeMutablePointer<CChar>?
        guard let options = PQconninfoParse(url, &message) else {
            // What libpq says of it quotes the URL, and with it a password.
            PQfreemem(message)
            throw RollupStoreError(
                code: .configuration, tried: "read store.url", reason: "it is no URL that libpq understands",
                next: "Write postgres://USER@HOST:PORT/DATABASE, and special characters as %XX.")
        }
        defer { PQconninfoFree(options) }
        var found: [String: String] = [:]
        var option = options
        while let keyword = option.pointee.keyword {
            if let value = option.pointee.val { found[String(cString: keyword)] = String(cString: value) }
            option += 1
        }
        let user = found["user"].map { "\($0)@" } ?? ""
        let port = found["port"].map { ":\($0)" } ?? ""
        description = "postgres://\(user)\(found["host"] ?? found["hostaddr"] ?? "")\(port)/\(found["dbname"] ?? "")"
    }
}

/// What a statement answered, in the binary format.
final class Rows {
    private let result: OpaquePointer?

    fileprivate init(_ result: OpaquePointer?) { self.result = result }

    deinit { PQclear(result) }

    fileprivate var isFine: Bool {
        switch PQresultStatus(result) {
        case PGRES_COMMAND_OK, PGRES_TUPLES_OK: true
        default: false
        }
    }
    fileprivate var isCopying: Bool { PQresultStatus(result) == PGRES_COPY_IN }

    /// The first line alone: what follows may hold the values of a row.
    fileprivate var message: String? { field(UInt8(ascii: "M")) }
    fileprivate var state: String { field(UInt8(ascii: "C")) ?? "" }

    private func field(_ code: UInt8) -> String? {
        PQresultErrorField(result, Int32(code)).map { String(cString: $0) }
    }

    var count: Int { Int(PQntuples(result)) }
    /// Rows that the statement inserted, updated or deleted.
    var changes: Int { Int(String(cString: PQcmdTuples(result))) ?? 0 }

    @inline(__always)
    func isNull(_ row: Int, _ column: Int32) -> Bool { PQgetisnull(result, Int32(row), column) != 0 }

    /// Valid as long as these rows are; empty where it is NULL.
    @inline(__always)
    func bytes(_ row: Int, _ column: Int32) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(
            start: PQgetvalue(result, Int32(row), column), count: Int(PQgetlength(result, Int32(row), column)))
    }

    /// smallint, integer, bigint or boolean; 0 where it is NULL.
    @inline(__always)
    func integer(_ row: Int, _ column: Int32) -> Int64 {
        let bytes = bytes(row, column)
        switch bytes.count {
        case 8: return Int64(bigEndian: bytes.loadUnaligned(as: Int64.self))
        case 4: return Int64(Int32(bigEndian: bytes.loadUnaligned(as: Int32.self)))
        case 2: return Int64(Int16(bigEndian: bytes.loadUnaligned(as: Int16.self)))
        case 1: return Int64(bytes[0])
        default: return 0
        }
    }

    func optionalInteger(_ row: Int, _ column: Int32) -> Int64? { isNull(row, column) ? nil : integer(row, column) }

    func text(_ row: Int, _ column: Int32) -> String { String(decoding: bytes(row, column), as: UTF8.self) }
}

/// The arguments of one statement, in the binary format and in order.
struct Parameters {
    private var arena: [UInt8] = []
    /// -1: NULL.
    private var lengths: [Int32] = []

    var count: Int { lengths.count }

    private enum ElementType: Int32 {
        case bytea = 17
        case bigint = 20
        case smallint = 21
        case integer = 23
        case text = 25
        case uuid = 2950
    }

    private mutating func append(_ value: some FixedWidthInteger) {
        withUnsafeBytes(of: value.bigEndian) { arena.append(contentsOf: $0) }
    }

    mutating func add(_ value: some FixedWidthInteger) {
        append(value)
        lengths.append(Int32(value.bitWidth / 8))
    }

    mutating func add(_ bytes: [UInt8]?) {
        arena += bytes ?? []
        lengths.append(bytes.map { Int32($0.count) } ?? -1)
    }

    mutating func add(bigints values: [Int64?]) {
        array(.bigint, values) { $0.append($1) }
    }

    mutating func add(integers values: [Int32]) {
        array(.integer, values) { $0.append($1) }
    }

    mutating func add(smallints values: [Int16]) {
        array(.smallint, values) { $0.append($1) }
    }

    mutating func add(texts values: [String]) {
        array(.text, values) { $0.arena += $1.utf8 }
    }

    mutating func add(bytes values: [[UInt8]]) {
        array(.bytea, values) { $0.arena += $1 }
    }

    /// Each of 16 bytes.
    mutating func add(uuids values: [[UInt8]]) {
        array(.uuid, values) { $0.arena += $1 }
    }

    private mutating func array<Value>(
        _ type: ElementType, _ values: [Value?], _ appendValue: (inout Parameters, Value) -> Void
    ) {
        let start = arena.count
        append(Int32(values.isEmpty ? 0 : 1))
        append(Int32(values.contains { $0 == nil } ? 1 : 0))
        append(type.rawValue)
        if !values.isEmpty {
            append(Int32(values.count))
            append(Int32(1))
        }
        for value in values {
            guard let value else {
                append(Int32(-1))
                continue
            }
            let place = arena.count
            append(Int32(0))
            appendValue(&self, value)
            let size = Int32(arena.count - place - 4)
            withUnsafeBytes(of: size.bigEndian) { for index in 0..<4 { arena[place + index] = $0[index] } }
        }
        lengths.append(Int32(arena.count - start))
    }

    fileprivate func withPointers<Result>(
        _ body: (
            Int32, UnsafePointer<UnsafePointer<CChar>?>?, UnsafePointer<Int32>?, UnsafePointer<Int32>?
        ) -> Result
    ) -> Result {
        // One byte more, so that an empty argument at the end has an address too.
        (arena + [0]).withUnsafeBytes { arena in
            let base = arena.baseAddress?.assumingMemoryBound(to: CChar.self)
            var pointers: [UnsafePointer<CChar>?] = []
            var start = 0
            for length in lengths {
                pointers.append(length < 0 ? nil : base.map { $0 + start })
                start += Int(max(0, length))
            }
            return body(Int32(lengths.count), pointers, lengths, [Int32](repeating: 1, count: lengths.count))
        }
    }
}
