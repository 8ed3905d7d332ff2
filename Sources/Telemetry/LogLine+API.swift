// What the API writes to the log.

extension LogLine {
    /// Once for each request that the store could not answer.
    package static func apiStoreUnavailable(path: String, reason: String, requestID: String) -> LogLine {
        LogLine(
            .warning, "api_store_unavailable",
            "A request was answered 503: the store could not be read. It is tried again with the next request.",
            [("path", .text(path)), ("reason", .text(reason)), ("request_id", .text(requestID))])
    }
}
