// Metrics of the journal and of shipping: event loops, preparer, shipper → /metrics.

package struct JournalMetrics: Sendable {
    package let appended = Counter()
    package let dropped = Counter()
    package let oversized = Counter()
    package let waitingBytes = Gauge()
    package let corruptRecords = Counter()
    package let tornTails = Counter()
    package let quarantinedFiles = Counter()
    package let preparedSegments = Counter()
    package let prepareFailures = Counter()
    package let retiredSegments = Counter()
    package let syncs = Counter()
    package let syncFailures = Counter()
    package let sizeBytes = Gauge()
    package let maxSizeBytes = Gauge()
    package let freeBytes = Gauge()
    package let degraded = Gauge()

    package init() {}

    package var all: [Metric] {
        func counter(_ name: String, _ help: String, _ counter: Counter) -> Metric {
            Metric("millrace_journal_\(name)_total", help, .counter { counter.value })
        }
        func gauge(_ name: String, _ help: String, _ gauge: Gauge) -> Metric {
            Metric("millrace_journal_\(name)", help, .gauge { gauge.value })
        }
        return [
            counter("appended_records", "Records written to a segment.", appended),
            counter("dropped_records", "Records lost because no segment was ready and the ring was full.", dropped),
            counter("oversized_records", "Records lost because no segment can hold them.", oversized),
            gauge("waiting_bytes", "Bytes of records that wait in memory for a segment.", waitingBytes),
            counter("corrupt_records", "Records found damaged when read.", corruptRecords),
            counter("torn_tails", "Lanes whose unfinished end was cut when opened.", tornTails),
            counter(
                "quarantined_files", "Files that could not be understood and were renamed to .bad.", quarantinedFiles),
            counter("prepared_segments", "Segments made ready.", preparedSegments),
            counter("prepare_failures", "Attempts to make a segment ready that failed.", prepareFailures),
            counter("retired_segments", "Acknowledged segments that were deleted.", retiredSegments),
            counter("syncs", "Segments written through to the disk.", syncs),
            counter("sync_failures", "Attempts to write through to the disk that failed.", syncFailures),
            gauge("size_bytes", "Bytes that all segments of the directory hold.", sizeBytes),
            gauge("max_size_bytes", "Bytes that they may hold: journal.max_size_bytes.", maxSizeBytes),
            gauge("disk_free_bytes", "Bytes free on the journal's disk.", freeBytes),
            gauge("degraded", "1 while no new segment can be made ready.", degraded),
        ]
    }
}

package struct ShippingMetrics: Sendable {
    package let shipped = Counter()
    package let resent = Counter()
    package let refused = Counter()
    package let lost = Counter()
    package let producerRestarts = Counter()
    package let backlogRecords = Gauge()
    package let backlogBytes = Gauge()
    package let oldestUnshippedMilliseconds = Gauge()

    package init() {}

    package var all: [Metric] {
        func counter(_ name: String, _ help: String, _ counter: Counter) -> Metric {
            Metric("millrace_shipping_\(name)_total", help, .counter { counter.value })
        }
        func gauge(_ name: String, _ help: String, _ gauge: Gauge) -> Metric {
            Metric("millrace_shipping_\(name)", help, .gauge { gauge.value })
        }
        return [
            counter("shipped_records", "Records that the log has acknowledged.", shipped),
            counter("resent_records", "Records that had to be sent again.", resent),
            counter("refused_records", "Records that the log will never take; they are in refused.log.", refused),
            counter("lost_records", "Records whose segment was gone before they were shipped.", lost),
            counter("producer_restarts", "Times a producer was given up and made anew.", producerRestarts),
            gauge("backlog_records", "Records in the journal that are not acknowledged yet.", backlogRecords),
            gauge("backlog_bytes", "Bytes in the journal that are not acknowledged yet.", backlogBytes),
            gauge(
                "oldest_unshipped_milliseconds", "Age of the oldest event not acknowledged.",
                oldestUnshippedMilliseconds),
        ]
    }
}
