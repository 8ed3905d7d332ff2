// Log lines of the journal and of shipping.

extension LogLine {
    package static func journalOpened(lane: Int32, nextSequence: Int64) -> LogLine {
        LogLine(
            .info, "journal_lane_opened", "A journal lane is open.",
            [("lane", .number(Int64(lane))), ("next_sequence", .number(nextSequence))])
    }

    package static func journalTornTail(lane: Int32, cutBytes: Int64, records: Int64) -> LogLine {
        LogLine(
            .warning, "journal_torn_tail",
            "The end of a journal lane was unfinished, as a power cut leaves it; it was cut after its last whole record.",
            [("lane", .number(Int64(lane))), ("cut_bytes", .number(cutBytes)), ("records", .number(records))])
    }

    package static func journalCorrupt(lane: Int32, sequence: Int64, records: Int64) -> LogLine {
        LogLine(
            .error, "journal_corrupt_record",
            "Records of the journal are damaged on disk; they go to the dead letters. Check the disk.",
            [("lane", .number(Int64(lane))), ("sequence", .number(sequence)), ("records", .number(records))])
    }

    package static func journalQuarantined(file: String) -> LogLine {
        LogLine(
            .error, "journal_file_quarantined",
            "A file of the journal could not be understood and was renamed; the rest goes on without it. Keep it for analysis.",
            [("file", .text(file))])
    }

    package static func journalDegraded(reason: String) -> LogLine {
        LogLine(
            .error, "journal_degraded",
            "The journal cannot make a segment ready: records wait in memory and are dropped once that is full. Free disk space or raise journal.max_size_bytes.",
            [("reason", .text(reason))])
    }

    package static func journalRecovered() -> LogLine {
        LogLine(.info, "journal_recovered", "The journal makes segments ready again.")
    }

    package static func journalSyncFailed(lane: Int32, reason: String) -> LogLine {
        LogLine(
            .error, "journal_sync_failed",
            "A segment could not be written through to the disk: its records survive this process, perhaps not a power cut.",
            [("lane", .number(Int64(lane))), ("reason", .text(reason))])
    }

    package static func shippingRefused(lane: Int32, sequence: Int64, reason: String) -> LogLine {
        LogLine(
            .error, "shipping_record_refused", "The log will never take this record; it was put into refused.log.",
            [("lane", .number(Int64(lane))), ("sequence", .number(sequence)), ("reason", .text(reason))])
    }

    package static func shippingRefusedFileFailed(reason: String) -> LogLine {
        LogLine(
            .error, "shipping_refused_file_failed",
            "refused.log cannot be written: the refused records stay in the journal until it can.",
            [("reason", .text(reason))])
    }

    package static func shippingLaneFailed(lane: Int32, reason: String) -> LogLine {
        LogLine(
            .error, "shipping_lane_failed", "A journal lane cannot be shipped; it is tried again.",
            [("lane", .number(Int64(lane))), ("reason", .text(reason))])
    }

    package static func shippingLost(lane: Int32, from: Int64, to: Int64) -> LogLine {
        LogLine(
            .error, "shipping_records_lost", "A segment is gone from the journal: its records cannot be shipped.",
            [("lane", .number(Int64(lane))), ("from", .number(from)), ("to", .number(to))])
    }

    package static let shippingWaits = LogLine(
        .info, "shipping_waits",
        "Another process ships this journal, what is written here too; this one takes over when it has ended.", [])

    package static func shippingProducerFailed(reason: String, retryMilliseconds: Int) -> LogLine {
        LogLine(
            .warning, "shipping_producer_failed",
            "The producer is given up and made anew; what was not acknowledged is sent again.",
            [("reason", .text(reason)), ("retry_ms", .number(Int64(retryMilliseconds)))])
    }
}
