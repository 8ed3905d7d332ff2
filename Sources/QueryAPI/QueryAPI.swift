// The API: HTTPRequest -> the question, the listing or the file it asks for -> HTTPResponse.

package import Access
package import Events
package import HTTPTransport
package import JSONText
package import Queries
package import RollupStore
import Schemas
package import Telemetry

/// What a request's key allows.
package enum AuthDecision: Sendable {
    /// `key`: the id of the API key; empty where nobody is asked for one.
    case allowed(workspace: String, scopes: AccessScopes = [.query, .admin], key: String = "")
    /// No key, an unknown one, or a revoked one: 401, with the reason.
    case unauthorized(reason: String = "This needs an API key.")
    /// No key is known and the store is away: 503.
    case unavailable(reason: String)
}

/// What `/readyz` says.
package struct Readiness: Sendable {
    package var isReady: Bool
    /// What does not work or works less well, a sentence each.
    package var degraded: [String]

    package init(isReady: Bool, degraded: [String] = []) {
        self.isReady = isReady
        self.degraded = degraded
    }
}

package typealias Reconcile = @Sendable (_ from: EventTime, _ to: EventTime) throws -> JSONValue

package struct QueryService: Sendable {
    /// What an answer costs the API; what a question may ask for stands in `QueryLimits`.
    ///
    /// | limit | unit | value | why | at the limit |
    /// | --- | --- | --- | --- | --- |
    /// | `bodySize` | bytes of a question's body | 65,536 | parsing time | 413 `too_large` |
    /// | `exports` | exports and large answers under way | 2 | each holds a worker for as long as its client takes | 429 `too_many_exports`: of an export before it reads, of an answer when it is computed, for only then is it known to be large |
    /// | `exportPageSize` | events of one read | 500 | memory of an export | the next read, of the store's state by then |
    /// | `rowsAtOnce` | rows of an answer | 20,000 | its text is many times what memory holds of it | it is written while it is sent, as one of `exports` |
    /// | `partSize` | bytes of what is sent in parts | 65,536 | memory of a large answer | the next part |
    /// | `engineSixteenths` | of a question's time | 15 | whoever takes the rows notices first, where there are any: a listing then ends its page short | the store is stopped at the whole time |
    package enum Limits {
        package static let bodySize = 65_536
        static let exports = 2
        static let exportPageSize = 500
        static let rowsAtOnce = 20_000
        static let partSize = 65_536
        static let engineSixteenths = 15
    }

    let reader: any RollupReader
    let authenticate: @Sendable (HTTPRequest) -> AuthDecision
    let metrics: APIMetrics
    let registry: MetricsRegistry
    let log: Log
    let readiness: @Sendable () -> Readiness
    let now: @Sendable () -> EventTime
    let zoneFile: ZoneFile
    /// Other pages that may read answers; `*` is any.
    let corsOrigins: Set<String>
    /// Where clients send their requests to, for the page's example; empty where not known.
    let proxyURL: String
    /// Both sides of the minutes with `from <= minute < to`; nil where nobody can tell.
    let reconcile: Reconcile?
    /// nil where nobody replays.
    let replays: (any ReplayControl)?
    /// nil where nobody can tell.
    let deadLetters: (any DeadLetterArchive)?
    /// nil where there is no log to send to.
    let redrive: Redrive?
    let engine = QueryEngine()
    let exports = ExportSlots()
    /// Of one question.
    let timeLimit: Duration

    /// The responder of the API's listener. `now` and `zoneFile` are the clock and the zone files of the system.
    package static func responder(
        reader: any RollupReader, authenticate: @escaping @Sendable (HTTPRequest) -> AuthDecision,
        metrics: APIMetrics, registry: MetricsRegistry, log: Log, readiness: @escaping @Sendable () -> Readiness,
        now: @escaping @Sendable () -> EventTime = SystemFacts.now,
        zoneFile: @escaping ZoneFile = SystemFacts.zoneFile,
        corsOrigins: Set<String> = [], proxyURL: String = "", reconcile: Reconcile? = nil,
        replays: (any ReplayControl)? = nil, deadLetters: (any DeadLetterArchive)? = nil,
        redrive: Redrive? = nil, timeLimit: Duration = .seconds(QueryLimits.seconds)
    ) -> HTTPResponder {
        let service = QueryService(
            reader: reader, authenticate: authenticate, metrics: metrics, registry: registry, log: log,
            readiness: readiness, now: now, zoneFile: zoneFile, corsOrigins: corsOrigins,
            proxyURL: proxyURL, reconcile: reconcile, replays: replays, deadLetters: deadLetters, redrive: redrive,
            timeLimit: timeLimit)
        return { service.answer($0) }
    }

    func answer(_ request: HTTPRequest) -> HTTPResponse {
        let started = ContinuousClock.now
        let requestID = Self.requestID(request)
        var response: HTTPResponse
        do {
            response = try route(request, requestID)
        } catch {
            // What the log does not take stands in the audit's line.
            if error.status >= 500, error.code != "log_unavailable" {
                log(.apiStoreUnavailable(path: request.path, reason: error.message, requestID: requestID))
            }
            response = error.response
        }
        switch response.status {
        case ..<400: metrics.succeeded.add()
        case ..<500: metrics.refused.add()
        default: metrics.failed.add()
        }
        if request.method == "HEAD" { response.body = [] }
        response.headers += Self.securityHeaders + [("x-request-id", requestID)] + corsHeaders(request)
        record(request, &response, since: started, requestID)
        if !response.headers.contains(where: { $0.name == "cache-control" }) {
            response.headers.append(("cache-control", "no-store"))
        }
        return response
    }

    private func route(_ request: HTTPRequest, _ requestID: String) throws(APIError) -> HTTPResponse {
        let path = request.path
        if let preflight = preflight(request) { return preflight }
        switch path {
        case "/livez":
            try require(request, "GET")
            return .text(200, "live\n")
        case "/readyz":
            try require(request, "GET")
            let readiness = readiness()
            let body: JSONValue = [
                "ready": .boolean(readiness.isReady), "degraded": .array(readiness.degraded.map { .string($0) }),
            ]
            return .json(readiness.isReady ? 200 : 503, body.text)
        case "/metrics":
            try require(request, "GET")
            var response = HTTPResponse.text(200, registry.render())
            response.headers = [("content-type", "text/plain; version=0.0.4; charset=utf-8")]
            return response
        case "/openapi.json":
            try require(request, "GET")
            return Asset.openAPI.response(to: request)
        case "/page.json":
            try require(request, "GET")
            return .json(200, (["proxy_url": .string(proxyURL)] as JSONValue).text)
        case "/v1/query":
            try require(request, "GET", "POST")
            return try query(request, workspace: try workspace(of: request))
        case "/v1/events":
            try require(request, "GET")
            return try events(request, workspace: try workspace(of: request))
        case "/v1/reconciliation":
            try require(request, "GET")
            return try reconciliation(request)
        case "/v1/replays":
            try require(request, "GET", "POST")
            return request.method == "POST" ? try startReplay(request, requestID) : try replays(request)
        case "/v1/dead-letters":
            try require(request, "GET")
            return try deadLetters(request)
        case "/v1/dead-letters/redrive":
            try require(request, "POST")
            return try redriveDeadLetters(request, requestID)
        case "/v1/dead-letters/discard":
            try require(request, "POST")
            return try discardDeadLetters(request, requestID)
        case "/v1/metadata/keys":
            try require(request, "GET")
            return try metadataKeys(request, workspace: try workspace(of: request))
        default:
            if let asset = Asset.page(path) {
                try require(request, "GET")
                return asset.response(to: request)
            }
            return try nested(request, requestID)
        }
    }

    /// Paths with a name in them.
    private func nested(_ request: HTTPRequest, _ requestID: String) throws(APIError) -> HTTPResponse {
        let parts = request.path.split(separator: "/", omittingEmptySubsequences: false).dropFirst().map(String.init)
        if parts.count == 3, parts[0] == "v1", parts[1] == "events" {
            try require(request, "GET")
            return try event(parts[2], workspace: try workspace(of: request))
        }
        if parts.count == 3, parts[0] == "v1", parts[1] == "replays" {
            try require(request, "GET")
            return try replay(request, parts[2])
        }
        if parts.count == 4, parts[0] == "v1", parts[1] == "replays", ["cancel", "resume", "revert"].contains(parts[3])
        {
            try require(request, "POST")
            return try changeReplay(request, parts[2], parts[3], requestID)
        }
        // The id may stand there as it is, or with its slashes encoded.
        if parts.count == 3 || parts.count == 5, parts[0] == "v1", parts[1] == "dead-letters" {
            try require(request, "GET")
            return try deadLetter(request, parts[2...].joined(separator: "/"))
        }
        if parts.count == 5, parts[0] == "v1", parts[1] == "metadata", parts[2] == "keys", parts[4] == "values" {
            try require(request, "GET")
            return try metadataValues(request, key: parts[3], workspace: try workspace(of: request))
        }
        if parts.count >= 4, parts[0] == "v1", parts[1] == "analytics" {
            try require(request, "GET")
            return try analytics(request, parts[2...].joined(separator: "/"), workspace: try workspace(of: request))
        }
        throw APIError(nothingAt: request)
    }

    private func require(_ request: HTTPRequest, _ methods: String...) throws(APIError) {
        if methods.contains(request.method) || request.method == "HEAD" && methods.contains("GET") { return }
        throw APIError(
            405, "method_not_allowed", "\(request.method) is not answered at \(request.path).",
            hint: "Use \(methods.joined(separator: " or ")).", allow: methods.joined(separator: ", "))
    }

    /// The client's own, where it is harmless, else a new one.
    private static func requestID(_ request: HTTPRequest) -> String {
        if let given = request.header("x-request-id"), (1...64).contains(given.utf8.count),
            given.utf8.allSatisfy({ byte in
                (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte)
                    || byte == UInt8(ascii: "-") || byte == UInt8(ascii: "_")
            })
        {
            return given
        }
        let digits = String(UInt64.random(in: .min ... .max), radix: 16)
        return String(repeating: "0", count: 16 - digits.utf8.count) + digits
    }

    /// The access log. Probes and the page's files are not worth a line.
    private func record(
        _ request: HTTPRequest, _ response: inout HTTPResponse, since started: ContinuousClock.Instant,
        _ requestID: String
    ) {
        guard request.path.hasPrefix("/v1/") else { return }
        let (log, method, path, status) = (log, request.method, request.path, response.status)
        let write = { @Sendable (size: Int) in
            log(
                .apiAnswered(
                    method: method, path: path, status: status, microseconds: started.microsecondsSince,
                    sizeBytes: size, requestID: requestID))
        }
        guard let stream = response.stream else { return write(response.body.count) }
        let head = response.body.count
        response.stream = { sink in
            defer { write(head + sink.sizeWritten) }
            return stream(sink)
        }
    }

    // MARK: Pages of other origins

    private func corsHeaders(_ request: HTTPRequest) -> [(name: String, value: String)] {
        guard !corsOrigins.isEmpty, let origin = request.header("origin") else { return [] }
        guard corsOrigins.contains(origin) || corsOrigins.contains("*") else { return [("vary", "origin")] }
        return [
            ("access-control-allow-origin", origin), ("vary", "origin"),
            ("access-control-expose-headers", "etag, x-request-id"),
        ]
    }

    /// The question that a browser asks first; nil where it is none, or nobody is let in.
    private func preflight(_ request: HTTPRequest) -> HTTPResponse? {
        guard request.method == "OPTIONS", !corsOrigins.isEmpty, request.header("access-control-request-method") != nil
        else { return nil }
        return HTTPResponse(
            status: 204,
            headers: [
                ("access-control-allow-methods", "GET, HEAD, POST"),
                (
                    "access-control-allow-headers",
                    "authorization, content-type, if-none-match, x-portkey-api-key, x-request-id"
                ),
                ("access-control-max-age", "600"),
            ])
    }

    private static let securityHeaders: [(name: String, value: String)] = [
        (
            "content-security-policy",
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
                + "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
        ("x-content-type-options", "nosniff"), ("x-frame-options", "DENY"), ("referrer-policy", "no-referrer"),
    ]
}

extension ContinuousClock.Instant {
    var microsecondsSince: Int64 {
        let (seconds, attoseconds) = duration(to: .now).components
        return seconds * 1_000_000 + attoseconds / 1_000_000_000_000
    }
}

/// A refusal as the API writes it.
struct APIError: Error {
    var status: Int
    var code: String
    var message: String
    var position: Int?
    var hint: String?
    var allow: String?

    init(_ status: Int, _ code: String, _ message: String, hint: String? = nil, allow: String? = nil) {
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint
        self.allow = allow
    }

    init(nothingAt request: HTTPRequest) {
        self.init(404, "not_found", "There is nothing at \(request.path).", hint: "/openapi.json lists what there is.")
    }

    init(_ error: QueryError) {
        self.init(error.status, error.code.rawValue, error.message, hint: error.hint)
        position = error.position
    }

    var response: HTTPResponse {
        let body: JSONValue = [
            "error": [
                "code": .string(code), "message": .string(message),
                "position": position.map { JSONValue($0) } ?? .null, "hint": hint.map { .string($0) } ?? .null,
            ]
        ]
        var response = HTTPResponse.json(status, body.text)
        if let allow { response.headers.append(("allow", allow)) }
        if status == 401 { response.headers.append(("www-authenticate", "Bearer")) }
        if status == 503 { response.headers.append(("retry-after", "1")) }
        return response
    }
}
