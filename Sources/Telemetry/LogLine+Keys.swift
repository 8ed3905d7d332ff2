// Log lines about API keys.

extension LogLine {
    package static func keysFromSnapshot(file: String, count: Int) -> LogLine {
        LogLine(
            .warning, "keys_from_snapshot",
            "The store cannot be asked: starting with the API keys that \(file) holds.",
            [("file", .text(file)), ("keys", .number(Int64(count)))])
    }

    package static func keysUnavailable(reason: String) -> LogLine {
        LogLine(
            .warning, "keys_unavailable",
            "The store cannot be asked for API keys, so new and revoked ones are not noticed; it is tried again: "
                + "\(reason)")
    }

    package static func keysRecovered() -> LogLine {
        LogLine(.info, "keys_recovered", "The store answers again: API keys are up to date.")
    }

    package static func keySnapshotUnwritten(file: String, reason: String) -> LogLine {
        LogLine(
            .warning, "key_snapshot_unwritten",
            "\(file) could not be written: \(reason). A start while the store is away would know older API keys, or "
                + "none. Make room there, or make the directory writable.", [("file", .text(file))])
    }
}
