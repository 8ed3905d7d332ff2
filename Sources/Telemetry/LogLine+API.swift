// What the API writes to the log.

extension LogLine {
    /// The access log: one line for each request but those of probes and of the page's own files.
    package static func apiAnswered(
        method: String, path: String, status: Int, microseconds: Int64, sizeBytes: Int, requestID: String
    ) -> LogLine {
        LogLine(
            .info, "api_request", "A request was answered.",
            [
                ("method", .text(method)), ("path", .text(path)), ("status", .number(Int64(status))),
                ("duration_us", .number(microseconds)), ("size_bytes", .number(Int64(sizeBytes))),
                ("request_id", .text(requestID)),
            ])
    }

    /// The client sees a cut answer and can go on from the last event that it has.
    package static func apiExportBroken(reason: String) -> LogLine {
        LogLine(
            .warning, "api_export_broken",
            "An export was cut: the store could not be read. The client can go on after its last event.",
            [("reason", .text(reason))])
    }

    /// Once for each request that the store could not answer.
    package static func apiStoreUnavailable(path: String, reason: String, requestID: String) -> LogLine {
        LogLine(
            .warning, "api_store_unavailable",
            "A request was answered 503: the store could not be read. It is tried again with the next request.",
            [("path", .text(path)), ("reason", .text(reason)), ("request_id", .text(requestID))])
    }
}
