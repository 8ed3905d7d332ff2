// The files that the API serves: the page, its charts, and the description of the API; all of them in the binary.

import CEmbedded
import Events
import HTTPTransport
import Schemas

struct Asset: Sendable {
    private let type: String
    private let bytes: [UInt8]
    private let tag: String

    private init(_ type: String, _ bytes: [UInt8]) {
        self.type = type
        self.bytes = bytes
        // Tells versions of our own files apart, nothing more.
        var hash = FNV1a()
        hash.combine(bytes)
        tag = "\"\(String(hash.state, radix: 16))\""
    }

    private init(_ type: String, _ file: millrace_file) {
        self.init(type, file.bytes)
    }

    private static let script = "text/javascript; charset=utf-8"
    private static let style = "text/css; charset=utf-8"
    private static let icon = """
        <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="7" fill="#0f766e"/>\
        <path d="M5 13q5.500-6 11 0t11 0M5 21q5.500-6 11 0t11 0" fill="none" stroke="#fff" stroke-width="3" \
        stroke-linecap="round"/></svg>
        """

    static let openAPI = Asset("application/json", Schemas.openapi)

    private static let files: [String: Asset] = [
        "/": Asset("text/html; charset=utf-8", millrace_index_html()),
        "/app.js": Asset(script, millrace_app_js()),
        "/base.js": Asset(script, millrace_base_js()),
        "/filter.js": Asset(script, millrace_filter_js()),
        "/letters.js": Asset(script, millrace_letters_js()),
        "/overview.js": Asset(script, millrace_overview_js()),
        "/replays.js": Asset(script, millrace_replays_js()),
        "/views.js": Asset(script, millrace_views_js()),
        "/style.css": Asset(style, millrace_style_css()),
        "/dygraph.min.js": Asset(script, millrace_dygraph_min_js()),
        "/dygraph.min.css": Asset(style, millrace_dygraph_min_css()),
        "/icon.svg": Asset("image/svg+xml", Array(icon.utf8)),
    ]

    static func page(_ path: String) -> Asset? { files[path] }

    /// Asked again each time, sent again only when it has changed.
    func response(to request: HTTPRequest) -> HTTPResponse {
        let headers = [("content-type", type), ("cache-control", "no-cache"), ("etag", tag)]
        if request.header("if-none-match") == tag { return HTTPResponse(status: 304, headers: headers) }
        return HTTPResponse(status: 200, headers: headers, body: bytes)
    }
}
