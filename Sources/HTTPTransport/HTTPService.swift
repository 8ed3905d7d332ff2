// The plain side of the server: a whole request in, a whole answer (or a stream of parts) out. What the API, the ops
// listeners and the mock provider are written against; the proxy uses the streaming side underneath.

package struct HTTPRequest: Sendable {
    package var method: String
    /// Without the query, not percent-decoded: `/v1/query`.
    package var path: String
    /// Without the `?`, not decoded; empty where there is none.
    package var query: String
    /// Names in lower case, in order of arrival.
    package var headers: [(name: String, value: String)]
    package var body: [UInt8]

    package init(method: String, path: String, query: String, headers: [(name: String, value: String)], body: [UInt8]) {
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = body
    }

    /// The first header of that (lower-case) name.
    package func header(_ name: String) -> String? { headers.first { $0.name == name }?.value }
}

package struct HTTPResponse: Sendable {
    package var status: Int
    /// `content-length` and `date` are added by the server.
    package var headers: [(name: String, value: String)]
    package var body: [UInt8]
    /// Where set, `body` is the first part and the rest follows, chunked, each part after its delay.
    package var parts: [(delayMilliseconds: Int, bytes: [UInt8])]?
    /// Where set, `body` is the first part and this writes the rest, on the worker that answered, as fast as the client
    /// takes it. False cuts the connection, so that the client sees the answer incomplete.
    package var stream: HTTPStream?

    package init(
        status: Int, headers: [(name: String, value: String)] = [], body: [UInt8] = [],
        parts: [(delayMilliseconds: Int, bytes: [UInt8])]? = nil
    ) {
        self.status = status
        self.headers = headers
        self.body = body
        self.parts = parts
    }

    package static func json(_ status: Int, _ text: String) -> HTTPResponse {
        HTTPResponse(status: status, headers: [("content-type", "application/json")], body: Array(text.utf8))
    }

    package static func text(_ status: Int, _ text: String) -> HTTPResponse {
        HTTPResponse(status: status, headers: [("content-type", "text/plain; charset=utf-8")], body: Array(text.utf8))
    }
}

package typealias HTTPStream = @Sendable (HTTPBodySink) -> Bool

/// Answers a request on one of the server's worker threads; may block there.
package typealias HTTPResponder = @Sendable (HTTPRequest) -> HTTPResponse
