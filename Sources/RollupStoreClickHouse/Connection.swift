// libcurl -> requests to one ClickHouse server over HTTP, one at a time on a connection, several at a time on connections
// that share their transfers. Above this file nothing sees a C pointer.
//
// A statement stands in the body of a POST, its parameters and settings in the URL; an insert's statement stands in the
// URL and its block in the body. Answers are pulled: what the caller has not asked for is not read from the socket, so
// memory stays bounded however long the answer is.

import CCurl
package import RollupStore
import Synchronization

/// Where the server is and who asks. `store.url`: `clickhouse://user:password@host:port/database?secure=true`.
package struct ClickHouseLocation: Sendable {
    package var host: String
    package var port: Int
    package var database: String
    package var isSecure: Bool
    package var user: String
    fileprivate var password: String
    /// Whose tables they are; nil: those of one server.
    let cluster: ClickHouseCluster?

    /// Without a port 8123, or 8443 where secure; without a user `default`; without a database `default`.
    package init(url: String) throws(RollupStoreError) {
        func refused(_ reason: String) -> RollupStoreError {
            RollupStoreError(
                code: .configuration, tried: "read store.url", reason: reason,
                next:
                    "It reads clickhouse://USER:PASSWORD@HOST:PORT/DATABASE, with ?secure=true for TLS and cluster=NAME "
                    + "for the tables of a cluster.")
        }
        _ = Connection.library
        guard let parsed = curl_url() else { throw refused("no memory") }
        defer { curl_url_cleanup(parsed) }
        guard curl_url_set(parsed, CURLUPART_URL, url, UInt32(CURLU_NON_SUPPORT_SCHEME)) == CURLUE_OK else {
            throw refused("it is no URL")
        }
        func part(_ which: CURLUPart, decoded: Bool = true) throws(RollupStoreError) -> String? {
            var text: UnsafeMutablePointer<CChar>?
            switch curl_url_get(parsed, which, &text, decoded ? UInt32(CURLU_URLDECODE) : 0) {
            case CURLUE_OK: break
            case CURLUE_URLDECODE: throw refused("a part of it has a control character")
            default: return nil
            }
            guard let text else { return nil }
            defer { curl_free(text) }
            return String(cString: text)
        }
        var isSecure = false
        var clusterName: String?
        let options = try part(CURLUPART_QUERY, decoded: false) ?? ""
        for option in options.split(separator: "&") {
            switch option {
            case "secure=true": isSecure = true
            case "secure=false": isSecure = false
            case _ where option.hasPrefix("cluster="): clusterName = String(option.dropFirst("cluster=".count))
            default: throw refused("it has an option that is not known; allowed: secure=true or false, cluster=NAME")
            }
        }
        guard let host = try part(CURLUPART_HOST), !host.isEmpty else { throw refused("it names no host") }
        let database = try part(CURLUPART_PATH)?.drop { $0 == "/" } ?? ""
        guard !database.contains("/") else { throw refused("after the host comes the name of one database") }
        self.host = host
        self.port = try part(CURLUPART_PORT).flatMap { Int($0) } ?? (isSecure ? 8443 : 8123)
        self.database = database.isEmpty ? "default" : String(database)
        self.isSecure = isSecure
        user = try part(CURLUPART_USER) ?? "default"
        password = try part(CURLUPART_PASSWORD) ?? ""
        cluster = clusterName.flatMap { [database = self.database] in ClickHouseCluster(name: $0, database: database) }
        if clusterName != nil && cluster == nil {
            throw refused("names of a cluster and of its database have letters, digits, _ and - only")
        }
    }

    /// For people: no user, no password.
    package var shown: String { "\(host):\(port)/\(database)" }
    fileprivate var origin: String { "\(isSecure ? "https" : "http")://\(host):\(port)/" }
}

/// What may befall a request, for tests: made before it is sent.
package enum RequestFault: Sendable {
    case none
    /// It fails before the server has seen it.
    case unsent
    /// The server does it, and the answer is lost.
    case unanswered
}

/// What runs at the same time: at most one request of each connection on it. One thread's alone.
final class Transfers {
    fileprivate let multi: UnsafeMutableRawPointer
    /// Of those that have ended and were not looked at yet, by their handles.
    fileprivate var results: [UnsafeMutableRawPointer: CURLcode] = [:]

    init() throws(RollupStoreError) {
        _ = Connection.library
        guard let multi = curl_multi_init() else { throw Connection.noMemory }
        self.multi = multi
    }

    deinit { curl_multi_cleanup(multi) }

    /// Moves all of them on as far as it goes without waiting.
    fileprivate func perform() -> Bool {
        var running: Int32 = 0
        guard curl_multi_perform(multi, &running) == CURLM_OK else { return false }
        var left: Int32 = 0
        while let message = curl_multi_info_read(multi, &left) {
            if let easy = message.pointee.easy_handle { results[easy] = message.pointee.data.result }
        }
        return true
    }

    fileprivate func wait() { curl_multi_poll(multi, nil, 0, 100, nil) }
}

/// @unchecked: one thread at a time uses a connection; the pool of readers and the writer see to it.
final class Connection: @unchecked Sendable {
    /// | limit | unit | value | why |
    /// | --- | --- | --- | --- |
    /// | `connectTimeout` | ms | 5,000 | a server that is away is found out and tried again |
    /// | `requestTimeout` | ms | 120,000 | one insert, or one page of a read; less than a consumer may be silent |
    /// | `querySize` | bytes | 256 MiB | a statement that names many series or ids |
    enum Limits {
        static let connectTimeout = 5_000
        static let requestTimeout = 120_000
        static let querySize = 256 << 20
    }

    typealias Faults = @Sendable (_ tried: String) -> RequestFault

    /// What the callbacks fill: it lives as long as the connection, and they run only inside `curl_multi_perform`.
    fileprivate final class Received {
        var bytes: [UInt8] = []
        var exceptionCode: Int32?
    }

    fileprivate static let library: Void = { curl_global_init(Int(CURL_GLOBAL_ALL)) }()

    let location: ClickHouseLocation
    private let faults: Faults?
    private let easy: UnsafeMutableRawPointer
    private let transfers: Transfers
    private var headers: UnsafeMutablePointer<curl_slist>?
    fileprivate let received = Received()
    private var isAdded = false
    /// Asked while an answer is waited for: true ends the wait with an error, and the server stops when it notices.
    var isUnwanted: (@Sendable () -> Bool)?

    init(
        _ location: ClickHouseLocation, transfers: Transfers? = nil, faults: Faults? = nil
    ) throws(RollupStoreError) {
        self.transfers = if let transfers { transfers } else { try Transfers() }
        guard let easy = curl_easy_init() else { throw Self.noMemory }
        self.location = location
        self.faults = faults
        self.easy = easy
        for line in [
            "X-ClickHouse-User: \(location.user)", "X-ClickHouse-Key: \(location.password)",
            // Without this the library waits a second for leave to send a large body.
            "Expect:", "Content-Type: application/octet-stream",
        ] {
            guard let longer = curl_slist_append(headers, line) else { throw Self.noMemory }
            headers = longer
        }
        millrace_curl_set_pointer(easy, CURLOPT_HTTPHEADER, headers)
        millrace_curl_set_long(easy, CURLOPT_POST, 1)
        millrace_curl_set_long(easy, CURLOPT_TCP_KEEPALIVE, 1)
        millrace_curl_go_straight(easy, location.isSecure ? 1 : 0)
        millrace_curl_set_long(easy, CURLOPT_CONNECTTIMEOUT_MS, Limits.connectTimeout)
        let context = Unmanaged.passUnretained(received).toOpaque()
        millrace_curl_set_pointer(easy, CURLOPT_WRITEDATA, context)
        millrace_curl_set_receive(easy, CURLOPT_WRITEFUNCTION) { bytes, size, count, context in
            guard let bytes, let context else { return 0 }
            let received = Unmanaged<Received>.fromOpaque(context).takeUnretainedValue()
            received.bytes.append(contentsOf: UnsafeRawBufferPointer(start: bytes, count: size * count))
            return size * count
        }
        millrace_curl_set_pointer(easy, CURLOPT_HEADERDATA, context)
        millrace_curl_set_receive(easy, CURLOPT_HEADERFUNCTION) { bytes, size, count, context in
            guard let bytes, let context else { return 0 }
            let line = String(decoding: UnsafeRawBufferPointer(start: bytes, count: size * count), as: UTF8.self)
            let colon = line.firstIndex(of: ":") ?? line.endIndex
            if line[..<colon].lowercased() == "x-clickhouse-exception-code", colon < line.endIndex {
                let digits = line[colon...].drop { !$0.isNumber }.prefix { $0.isNumber }
                Unmanaged<Received>.fromOpaque(context).takeUnretainedValue().exceptionCode = Int32(digits)
            }
            return size * count
        }
    }

    deinit {
        leave()
        curl_easy_cleanup(easy)
        curl_slist_free_all(headers)
    }

    /// What an insert needs on a cluster, before its own settings.
    func insertSettings(_ table: String) throws(RollupStoreError) -> String {
        try location.cluster?.insertSettings(table) ?? ""
    }

    /// How a statement names a table whose rows it deletes.
    func everywhere(_ table: String) -> String { location.cluster?.everywhere(table) ?? table }

    // MARK: Requests

    /// A statement that answers nothing of interest.
    func run(_ statement: String, _ tried: String, anyDatabase: Bool = false) throws(RollupStoreError) {
        let request = Request(
            body: Array(statement.utf8), tried: tried, anyDatabase: anyDatabase, settings: [], parameters: [])
        try whole(request)
    }

    /// One block into a table. `token`: a copy of this very request, made by the library or a proxy on the way, is
    /// dropped by the server.
    func insert(_ block: NativeBlock, into table: String, token: String) throws(RollupStoreError) {
        try start(block, into: table, token: token).finish()
    }

    /// As `insert`, but it goes on while others are started; they are all moved on by waiting for one of them.
    func start(_ block: NativeBlock, into table: String, token: String) throws(RollupStoreError) -> Pending {
        let statement =
            "INSERT INTO \(table) (\(block.names.joined(separator: ", "))) "
            + "SETTINGS \(try insertSettings(table))async_insert = 0, insert_deduplicate = 1, insert_deduplication_token = '\(token)', "
            + "max_partitions_per_insert_block = 0 FORMAT Native"
        let request = Request(
            statement: statement, body: block.bytes, tried: "insert \(table)", anyDatabase: false, settings: [],
            parameters: [])
        return Pending(connection: self, exchange: try begin(request), tried: request.tried)
    }

    /// A request under way. One that is not waited for is cut off by the next on its connection.
    struct Pending {
        fileprivate let connection: Connection
        fileprivate let exchange: Exchange
        fileprivate let tried: String

        func finish() throws(RollupStoreError) {
            while try connection.advance(exchange, tried) { connection.received.bytes.removeAll(keepingCapacity: true) }
        }
    }

    /// Rows as RowBinary; `columns` are expressions. Each row begins with a byte that no message of an error has. Nothing
    /// is asked for a read that is no longer wanted.
    func select(
        _ columns: [String], _ rest: String, _ tried: String, parameters: [(name: String, value: String)] = [],
        anyDatabase: Bool = false
    ) throws(RollupStoreError) -> Answer {
        if isUnwanted?() == true { throw away(tried, "the answer is no longer wanted") }
        let statement = "SELECT toUInt8(\(Answer.rowMark)), \(columns.joined(separator: ", ")) \(rest)"
        let request = Request(
            body: Array(statement.utf8), tried: tried, anyDatabase: anyDatabase,
            settings: [("default_format", "RowBinary"), ("max_query_size", "\(Limits.querySize)")],
            parameters: parameters)
        return Answer(self, try begin(request), request.tried)
    }

    private struct Request {
        /// In the URL; nil where the body is the statement.
        var statement: String?
        var body: [UInt8]
        var tried: String
        var anyDatabase: Bool
        var settings: [(name: String, value: String)]
        var parameters: [(name: String, value: String)]
    }

    private func whole(_ request: Request) throws(RollupStoreError) {
        try Pending(connection: self, exchange: try begin(request), tried: request.tried).finish()
    }

    fileprivate final class Exchange {
        let isUnanswered: Bool
        var isOver = false

        init(isUnanswered: Bool) { self.isUnanswered = isUnanswered }
    }
    private var current: Exchange?

    private func begin(_ request: Request) throws(RollupStoreError) -> Exchange {
        let fault = faults?(request.tried) ?? .none
        if fault == .unsent { throw away(request.tried, "the connection was cut before the request was sent") }
        leave()
        received.bytes.removeAll(keepingCapacity: true)
        received.exceptionCode = nil

        var url = location.origin + "?max_execution_time=\(Limits.requestTimeout / 1000)"
        func add(_ name: String, _ value: String) { url += "&\(name)=\(Self.escaped(value))" }
        if !request.anyDatabase { add("database", location.database) }
        if let statement = request.statement { add("query", statement) }
        if location.cluster != nil { for (name, value) in ClickHouseCluster.settings { add(name, value) } }
        for (name, value) in request.settings { add(name, value) }
        for (name, value) in request.parameters { add("param_\(name)", value) }
        let exchange = Exchange(isUnanswered: fault == .unanswered)
        current = exchange
        millrace_curl_set_pointer(easy, CURLOPT_URL, url)
        millrace_curl_set_long(easy, CURLOPT_TIMEOUT_MS, Limits.requestTimeout)
        // The library copies it: nothing of ours has to outlive the call.
        millrace_curl_set_size(easy, CURLOPT_POSTFIELDSIZE_LARGE, curl_off_t(request.body.count))
        request.body.withUnsafeBytes { _ = millrace_curl_set_pointer(easy, CURLOPT_COPYPOSTFIELDS, $0.baseAddress) }
        guard curl_multi_add_handle(transfers.multi, easy) == CURLM_OK else { throw Self.noMemory }
        isAdded = true
        // It is on its way before anybody waits for it.
        _ = transfers.perform()
        return exchange
    }

    /// Ends what is under way; an answer that was left before its end takes its connection with it.
    private func leave() {
        if isAdded { curl_multi_remove_handle(transfers.multi, easy) }
        isAdded = false
        transfers.results[easy] = nil
    }

    /// Waits until `received` has more of the answer; false at its end. What is received is the caller's to take.
    fileprivate func advance(_ exchange: Exchange, _ tried: String) throws(RollupStoreError) -> Bool {
        guard exchange === current else { return false }
        while true {
            if isReadable(exchange) { return true }
            if exchange.isOver { return false }
            guard transfers.perform() else { throw away(tried, "the request broke off") }
            if let result = transfers.results[easy] {
                exchange.isOver = true
                leave()
                if exchange.isUnanswered { throw away(tried, "the connection was cut before the answer came") }
                guard result == CURLE_OK else { throw away(tried, String(cString: curl_easy_strerror(result)), result) }
                if status != 200 || received.exceptionCode != nil { throw refused(tried, status) }
            } else if !isReadable(exchange) {
                if isUnwanted?() == true {
                    exchange.isOver = true
                    leave()
                    throw away(tried, "the answer is no longer wanted")
                }
                transfers.wait()
            }
        }
    }

    /// The text of an error is read to its end, and not given to anybody.
    private func isReadable(_ exchange: Exchange) -> Bool {
        !received.bytes.isEmpty && !exchange.isUnanswered && status == 200
    }

    private var status: Int {
        var status = 0
        _ = millrace_curl_status(easy, &status)
        return status
    }

    private static func escaped(_ text: String) -> String {
        let digits = Array("0123456789ABCDEF".utf8)
        var bytes: [UInt8] = []
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"), UInt8(ascii: "-"), UInt8(ascii: "."):
                bytes.append(byte)
            default: bytes += [UInt8(ascii: "%"), digits[Int(byte >> 4)], digits[Int(byte & 15)]]
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    // MARK: Errors

    fileprivate static let noMemory = RollupStoreError(
        code: .unavailable, tried: "open a connection", reason: "no memory", next: "It is tried again.")

    private func away(_ tried: String, _ reason: String, _ code: CURLcode = CURLE_OK) -> RollupStoreError {
        switch code {
        case CURLE_PEER_FAILED_VERIFICATION, CURLE_SSL_CACERT_BADFILE, CURLE_SSL_CONNECT_ERROR:
            RollupStoreError(
                code: .configuration, tried: "\(tried) at \(location.shown)", reason: reason,
                next: "Check host, port and secure=… in store.url, and that SSL_CERT_FILE or the system has who signed "
                    + "the server's certificate.")
        default:
            RollupStoreError(
                code: .unavailable, tried: "\(tried) at \(location.shown)", reason: reason,
                next: "Check that ClickHouse runs there; it is tried again.")
        }
    }

    /// The server's own text may quote data, so it is not repeated: code and name say what it is.
    private func refused(_ tried: String, _ status: Int) -> RollupStoreError {
        let tried = "\(tried) at \(location.shown)"
        guard let code = received.exceptionCode else {
            let isBusy = status == 429 || status >= 500
            return RollupStoreError(
                code: isBusy ? .unavailable : .configuration, tried: tried, reason: "HTTP status \(status)",
                next: isBusy ? "It is tried again." : "Check that store.url names ClickHouse's HTTP port.")
        }
        let reason = "ClickHouse refused with code \(code)\(Self.name(code, received.bytes))"
        switch code {
        // Unknown database, user or password, or no right.
        case 81, 192, 193, 194, 497, 516:
            return RollupStoreError(
                code: .configuration, tried: tried, reason: reason,
                next: "Check user, password and database in store.url, and the user's rights.")
        // Syntax, unknown names, data that does not fit: the tables are not what this program made.
        case 6, 16, 27, 33, 36, 38, 43, 44, 46, 47, 53, 60, 62, 117:
            return RollupStoreError(
                code: .corrupt, tried: tried, reason: reason,
                next: "The tables are not as this program made them; restore them, or name another database.")
        // No quorum, or none yet; Keeper is away or the table read-only for want of it.
        case 225, 242, 285, 286, 319, 999:
            return RollupStoreError(
                code: .unavailable, tried: tried, reason: reason,
                next:
                    "Each replica must take an insert: see system.replicas for the one that is away, or take it out of "
                    + "the cluster in remote_servers; it is tried again.")
        default:
            return RollupStoreError(
                code: .unavailable, tried: tried, reason: reason,
                next: "See system.errors and the server's log; it is tried again.")
        }
    }

    /// The name that ends the message: `… (UNKNOWN_TABLE)`.
    private static func name(_ code: Int32, _ message: [UInt8]) -> String {
        let text = String(decoding: message.suffix(400), as: UTF8.self)
        guard let open = text.lastIndex(of: "("), let close = text[open...].firstIndex(of: ")") else { return "" }
        let name = text[text.index(after: open)..<close]
        guard !name.isEmpty, name.allSatisfy({ $0.isUppercase || $0.isNumber || $0 == "_" }) else { return "" }
        return " (\(name))"
    }
}

/// The rows of a select, read as they come. Valid until the next request on its connection.
struct Answer: ~Copyable {
    /// Begins each row. The text of an error that breaks into an answer begins otherwise.
    static let rowMark: UInt8 = 0xA7

    private let connection: Connection
    private let exchange: Connection.Exchange
    private let tried: String
    private var bytes: [UInt8] = []
    private var position = 0

    fileprivate init(_ connection: Connection, _ exchange: Connection.Exchange, _ tried: String) {
        self.connection = connection
        self.exchange = exchange
        self.tried = tried
    }

    /// True when there is a row to read.
    mutating func next() throws(RollupStoreError) -> Bool {
        guard try has(1) else { return false }
        guard bytes[position] == Self.rowMark else { throw unreadable }
        position += 1
        return true
    }

    private mutating func has(_ count: Int) throws(RollupStoreError) -> Bool {
        while bytes.count - position < count {
            if position > 0 {
                bytes.removeSubrange(..<position)
                position = 0
            }
            guard try connection.advance(exchange, tried) else { return false }
            if bytes.isEmpty {
                swap(&bytes, &connection.received.bytes)
            } else {
                bytes += connection.received.bytes
            }
            connection.received.bytes.removeAll(keepingCapacity: true)
        }
        return true
    }

    private mutating func take(_ count: Int) throws(RollupStoreError) -> Int {
        guard try has(count) else { throw unreadable }
        defer { position += count }
        return position
    }

    private var unreadable: RollupStoreError {
        RollupStoreError(
            code: .unavailable, tried: tried, reason: "the answer broke off",
            next: "See the server's log; it is asked again.")
    }

    /// Behind the last row. A connection whose answer was not read to its end is not used again.
    mutating func end() throws(RollupStoreError) {
        if try next() { throw unreadable }
    }

    /// Both halves of a `FixedString(16)`, the highest byte first.
    mutating func halves() throws(RollupStoreError) -> (high: UInt64, low: UInt64) {
        let high: UInt64 = try integer()
        let low: UInt64 = try integer()
        return (high.byteSwapped, low.byteSwapped)
    }

    @inline(__always)
    mutating func integer<Value: FixedWidthInteger>(_ type: Value.Type = Value.self) throws(RollupStoreError) -> Value {
        let place = try take(MemoryLayout<Value>.size)
        return bytes.withUnsafeBytes {
            Value(littleEndian: $0.loadUnaligned(fromByteOffset: place, as: Value.self))
        }
    }

    mutating func optionalInteger<Value: FixedWidthInteger>(
        _: Value.Type = Value.self
    ) throws(RollupStoreError) -> Value? {
        try integer(UInt8.self) != 0 ? nil : try integer(Value.self)
    }

    private mutating func count() throws(RollupStoreError) -> Int {
        var value: UInt64 = 0
        var shift: UInt64 = 0
        while true {
            let byte = try integer(UInt8.self)
            value |= UInt64(byte & 0x7F) << shift
            if byte < 0x80 { break }
            shift += 7
            if shift > 35 { throw unreadable }
        }
        return Int(value)
    }

    mutating func byteString() throws(RollupStoreError) -> [UInt8] {
        let size = try count()
        let place = try take(size)
        return Array(bytes[place..<place + size])
    }

    mutating func text() throws(RollupStoreError) -> String {
        let size = try count()
        let place = try take(size)
        return String(decoding: bytes[place..<place + size], as: UTF8.self)
    }

    mutating func array<Value>(
        _ element: (inout Answer) throws(RollupStoreError) -> Value
    ) throws(RollupStoreError) -> [Value] {
        let size = try count()
        var values: [Value] = []
        values.reserveCapacity(min(size, 4_096))
        for _ in 0..<size { values.append(try element(&self)) }
        return values
    }
}
