// The files that the API serves: the page, its charts, and the description of the API; all of them in the binary.

import CDygraphs
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

    private init(_ type: String, _ asset: millrace_asset) {
        self.init(type, Array(UnsafeBufferPointer(start: asset.start, count: asset.size)))
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
        "/": Asset("text/html; charset=utf-8", PackageResources.index_html),
        "/app.js": Asset(script, PackageResources.app_js),
        "/base.js": Asset(script, PackageResources.base_js),
        "/filter.js": Asset(script, PackageResources.filter_js),
        "/letters.js": Asset(script, PackageResources.letters_js),
        "/overview.js": Asset(script, PackageResources.overview_js),
        "/replays.js": Asset(script, PackageResources.replays_js),
        "/views.js": Asset(script, PackageResources.views_js),
        "/style.css": Asset(style, PackageResources.style_css),
        "/dygraph.min.js": Asset(script, millrace_dygraphs_script()),
        "/dygraph.min.css": Asset(style, millrace_dygraphs_style()),
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
