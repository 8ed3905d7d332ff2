// What the consumer says.

extension LogLine {
    package static func consumerStarted(partitions: [(name: String, next: Int64)]) -> LogLine {
        LogLine(
            .info, "consumer_partitions_taken", "Reading on from the store's offsets.",
            partitions.map { ($0.name, .number($0.next)) })
    }

    package static func consumerOffsetsLost(partition: String, from: Int64, to: Int64) -> LogLine {
        LogLine(
            .error, "consumer_offsets_lost",
            "The log dropped records before they were read. They are declared lost; ingest goes on behind them. "
                + "Raise the log's retention, or keep the consumer running.",
            [("partition", .text(partition)), ("from", .number(from)), ("to", .number(to))])
    }

    package static func consumerPartitionTruncated(partition: String, expected: Int64, end: Int64) -> LogLine {
        LogLine(
            .error, "consumer_log_truncated",
            "The log ends before the store's offset: it was truncated or made anew. The partition is stopped. "
                + "Use a new topic name, or a new store.",
            [("partition", .text(partition)), ("expected", .number(expected)), ("end", .number(end))])
    }

    package static func consumerDeadLetter(partition: String, offset: Int64, code: String, reason: String) -> LogLine {
        LogLine(
            .warning, "consumer_dead_letter", "A record could not be applied and went to the dead letters.",
            [
                ("partition", .text(partition)), ("offset", .number(offset)), ("error_code", .text(code)),
                ("reason", .text(reason)),
            ])
    }

    package static func consumerDeadLettersUntold(count: Int64) -> LogLine {
        LogLine(
            .warning, "consumer_dead_letters_more", "More records of the same batch went to the dead letters.",
            [("count", .number(count))])
    }

    package static func consumerStoreUnavailable(reason: String) -> LogLine {
        LogLine(
            .warning, "consumer_store_unavailable",
            "The batch is kept and tried again; nothing is dropped. Reading pauses meanwhile.",
            [("reason", .text(reason))])
    }

    package static func consumerStoreAvailable(waitedMilliseconds: Int64) -> LogLine {
        LogLine(
            .info, "consumer_store_available", "The store takes batches again.",
            [("waited_ms", .number(waitedMilliseconds))])
    }

    package static func consumerStoreUpkeepFailed(reason: String) -> LogLine {
        LogLine(
            .warning, "consumer_store_upkeep_failed",
            "Everything is counted, but rollups wait to be summed: answers take longer until a later try succeeds.",
            [("reason", .text(reason))])
    }

    package static func consumerFailed(reason: String) -> LogLine {
        LogLine(.error, "consumer_failed", "The consumer has stopped for good.", [("reason", .text(reason))])
    }

    package static func consumerStopped(heldBack: Bool) -> LogLine {
        LogLine(
            .info, "consumer_stopped",
            heldBack
                ? "Stopped before all that was read could be applied; the log plays it again."
                : "Stopped; all that was read is applied.")
    }
}
