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

    package static func deadLetterRefused(source: String, reason: String) -> LogLine {
        LogLine(
            .error, "dead_letter_refused",
            "The dead-letter topic will never take this record; the store's dead letters alone have it. "
                + "Raise the topic's max.message.bytes.",
            [("source", .text(source)), ("reason", .text(reason))])
    }

    package static func consumerStoreUnavailable(reason: String) -> LogLine {
        LogLine(
            .warning, "consumer_store_unavailable",
            "The batch is kept and tried again; nothing is dropped. Reading pauses meanwhile.",
            [("reason", .text(reason))])
    }

    package static func consumerRules(fingerprint: String, from: Int64) -> LogLine {
        LogLine(
            .info, "consumer_rules", "These normalization rules hold for events from this time on (UTC us since 1970).",
            [("fingerprint", .text(fingerprint)), ("from_us", .number(from))])
    }

    package static func rulesReloaded(fingerprint: String) -> LogLine {
        LogLine(
            .info, "rules_reloaded", "The normalization rules were read anew and hold from the next event or batch on.",
            [("fingerprint", .text(fingerprint))])
    }

    package static func rulesNotReloaded(reason: String) -> LogLine {
        LogLine(
            .error, "rules_not_reloaded",
            "The normalization rules stay as they were, since the file as it is now cannot be used: \(reason). "
                + "'millrace rules check' names every mistake.", [])
    }

    package static func consumerClassObserved(key: String, keyClass: String, reason: String, from: Int64) -> LogLine {
        LogLine(
            .warning, "consumer_class_observed",
            "This metadata key makes the rollups too large: from this event time on (UTC us since 1970) it has another "
                + "class. Answers stay exact: 'millrace metadata keys' says what it is now. Name it under classes in the "
                + "rules to decide yourself.",
            [
                ("key", .text(key)), ("class", .text(keyClass)), ("reason", .text(reason)), ("from_us", .number(from)),
            ])
    }

    package static func consumerClassesFull(keys: Int) -> LogLine {
        LogLine(
            .warning, "consumer_classes_full",
            "As many metadata keys as can have another class by observation have one; others that make the rollups too "
                + "large stay dimensions, within their budgets. Find out who sends so many keys ('millrace metadata keys'), "
                + "name under classes in the rules those that matter, and start once with observe: { enabled: false } "
                + "to forget the others.",
            [("keys", .number(Int64(keys)))])
    }

    package static func consumerBudgetSpent(workspace: String, budget: String, hour: Int64) -> LogLine {
        LogLine(
            .warning, "consumer_budget_spent",
            "This workspace has as much metadata in this hour (UTC us since 1970) as its budget allows: what is new is "
                + "filed under (other) and answered from events. See budgets in the rules.",
            [("workspace", .text(workspace)), ("budget", .text(budget)), ("hour_us", .number(hour))])
    }

    package static func consumerObservationFailed(reason: String) -> LogLine {
        LogLine(
            .warning, "consumer_observation_failed",
            "What metadata keys do to the rollups could not be looked at; it is tried again with the next batches.",
            [("reason", .text(reason))])
    }

    package static func consumerRetentionFailed(reason: String) -> LogLine {
        LogLine(
            .warning, "consumer_retention_failed",
            "What is past its retention was not deleted; it is tried again in a minute. Nothing else waits for it.",
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

    package static func consumerStaleEpoch(reason: String) -> LogLine {
        LogLine(
            .warning, "consumer_stale_epoch",
            "The store refused a batch whole: another consumer has taken a partition over. What is held is forgotten, "
                + "and what is still this consumer's is read again from the store's offsets.",
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

    package static func reconciliationWithoutLog(reason: String) -> LogLine {
        LogLine(
            .warning, "reconciliation_without_log",
            "Where the log ends is not known: what the reconciliation misses counts as in flight.",
            [("reason", .text(reason))])
    }
}
