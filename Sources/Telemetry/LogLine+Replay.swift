// What is written of replays that the API runs, and of who asked for them.

extension LogLine {
    /// The audit log: one line for each request that would start, end or take back a replay, or send dead letters again
    /// or give them up, refused ones too.
    ///
    /// - `replay`: nil where none came of it, or it is about none.
    /// - `key`: the id of the API key; empty where nobody is asked for one, or an unknown one came.
    package static func audit(
        action: String, replay: Int64?, key: String, workspace: String, status: Int, detail: String, requestID: String
    ) -> LogLine {
        var fields: [(String, LogLine.Value)] = [("action", .text(action))]
        if let replay { fields.append(("replay", .number(replay))) }
        fields += [
            ("key", .text(key)), ("workspace", .text(workspace)), ("status", .number(Int64(status))),
            ("detail", .text(detail)), ("request_id", .text(requestID)),
        ]
        return LogLine(.info, "api_audit", "Somebody asked for what concerns the whole installation.", fields)
    }

    package static func replayEnded(_ replay: Int64, ending: String, events: Int64, changed: Int64) -> LogLine {
        LogLine(
            .info, "replay_ended", "The API has ended its work on a replay.",
            [
                ("replay", .number(replay)), ("ending", .text(ending)), ("events", .number(events)),
                ("changed_events", .number(changed)),
            ])
    }

    package static func replayFailed(_ replay: Int64, reason: String) -> LogLine {
        LogLine(
            .warning, "replay_failed",
            "The API could not go on with a replay. No answer has changed; it can be resumed, or cancelled.",
            [("replay", .number(replay)), ("reason", .text(reason))])
    }

    package static func replaySweepFailed(reason: String) -> LogLine {
        LogLine(
            .warning, "replay_sweep_failed",
            "What is left of a cancelled replay could not be deleted. It counts nowhere; the next replay's end tries again.",
            [("reason", .text(reason))])
    }
}
