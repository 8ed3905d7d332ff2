// What changes something: who may, from which page, and the line in the log that says who it was.

import Access
import HTTPTransport
import JSONText
import Queries
import RollupStore
import Telemetry

/// Why a change is not made.
package struct ChangeRefusal: Error, Sendable {
    package enum Kind: Sendable {
        /// Of the rules or the prices: every mistake at once.
        case mistaken
        case impossible, conflict, unknown
        /// Of the log.
        case unavailable
    }
    package var kind: Kind
    package var message: String
    package var hint: String?

    package init(_ kind: Kind, _ message: String, hint: String? = nil) {
        self.kind = kind
        self.message = message
        self.hint = hint
    }
}

extension QueryService {
    /// What is known of an action so far.
    struct AuditNote {
        var replay: Int64?
        var detail = ""
    }

    /// Lets in an admin's key and no page of another origin, and says in the log who asked for what, and how it ended.
    func audited(
        _ request: HTTPRequest, _ action: String, _ replay: Int64?, _ requestID: String,
        _ body: (inout AuditNote) throws(APIError) -> HTTPResponse
    ) throws(APIError) -> HTTPResponse {
        var note = AuditNote(replay: replay)
        var who = Caller(workspace: "", key: "")
        if case .allowed(let workspace, _, let key) = authenticate(request) {
            who = Caller(workspace: workspace, key: key)
        }
        func write(_ status: Int) {
            log(
                .audit(
                    action: action, replay: note.replay, key: who.key, workspace: who.workspace, status: status,
                    detail: note.detail, requestID: requestID))
        }
        do {
            try refuseForeign(request)
            _ = try caller(of: request, scope: .admin)
            try Parameters(request).finish()
            let response = try body(&note)
            write(response.status)
            return response
        } catch {
            if note.detail.isEmpty { note.detail = error.code }
            if error.status >= 500 { note.detail += ": \(error.message)" }
            write(error.status)
            throw error
        }
    }

    /// A browser says whose page it is that asks, and sends JSON elsewhere only after it was let: nothing is started by a
    /// page that is not this API's own, whatever `api.cors_origins` lets it read.
    private func refuseForeign(_ request: HTTPRequest) throws(APIError) {
        // Where the browser itself says it, a proxy in between may name the host as it likes.
        let isOwn =
            if let site = request.header("sec-fetch-site") {
                site == "same-origin" || site == "none"
            } else if let origin = request.header("origin"), let host = request.header("host") {
                origin == "http://\(host)" || origin == "https://\(host)"
            } else {
                request.header("origin") == nil
            }
        guard isOwn else {
            throw APIError(
                403, "foreign_origin", "A page of another origin may not do this.",
                hint: "Do it on this API's own page, or by a program.")
        }
        let type = request.header("content-type")?.split(separator: ";").first?.lowercased() ?? ""
        guard type.filter({ $0 != " " }) == "application/json" else {
            throw APIError(
                415, "unsupported_type", "The body is to be JSON.", hint: "Send content-type: application/json.")
        }
    }

    static func members(ofBody body: [UInt8], example: String) throws(APIError) -> [JSONMember] {
        let tree: JSONValue
        do {
            tree = try JSONValue.parse(body, depth: 16)
        } catch {
            var refusal = APIError(
                400, "invalid_json", "The body is not JSON: \(error).", hint: "For example: \(example)")
            refusal.position = error.position
            throw refusal
        }
        guard let members = tree.members else {
            throw APIError(400, "invalid_json", "The body is JSON, but not an object.", hint: "For example: \(example)")
        }
        return members
    }

    func asking<Answer>(_ body: () throws -> Answer) throws(APIError) -> Answer {
        do {
            return try body()
        } catch let refusal as ChangeRefusal {
            throw APIError(refusal)
        } catch {
            throw APIError(QueryError(reading: error))
        }
    }
}

extension APIError {
    fileprivate init(_ refusal: ChangeRefusal) {
        let (status, code) =
            switch refusal.kind {
            case .mistaken: (400, "invalid_rules")
            case .impossible: (422, "invalid_replay")
            case .conflict: (409, "conflict")
            case .unknown: (404, "not_found")
            case .unavailable: (503, "log_unavailable")
            }
        self.init(status, code, refusal.message, hint: refusal.hint)
    }
}
