// What the Kafka adapter counts, on both sides: records handed to the log and records read from it.

package struct KafkaMetrics: Sendable {
    package let acknowledged = Counter()
    package let failed = Counter()
    package let refused = Counter()
    package let queueFull = Counter()
    package let sentAlone = Counter()
    package let fetched = Counter()
    package let fetchedBytes = Counter()
    package let redelivered = Counter()
    package let offsetJumps = Counter()
    package let rereads = Counter()
    package let rebalances = Counter()
    package let assignmentsLost = Counter()
    package let lost = Counter()
    package let truncations = Counter()
    package let corruptBatches = Counter()
    package let clientErrors = Counter()
    package let logLinesSuppressed = Counter()

    package init() {}

    package var all: [Metric] {
        func counter(_ name: String, _ help: String, _ counter: Counter) -> Metric {
            Metric("millrace_kafka_\(name)_total", help, .counter { counter.value })
        }
        return [
            counter("records_acknowledged", "Records that the topic holds, as its brokers acknowledged.", acknowledged),
            counter("records_failed", "Sends that were not acknowledged; the sender sends them again.", failed),
            counter("records_refused", "Records that the topic will never take.", refused),
            counter("queue_full", "Sends turned away because the producer's queue was full.", queueFull),
            counter("records_sent_alone", "Records sent again alone after their batch was too large.", sentAlone),
            counter("records_fetched", "Records read from the topic.", fetched),
            counter("fetched_bytes", "Bytes of keys and values read from the topic.", fetchedBytes),
            counter("records_redelivered", "Records below the expected offset, skipped.", redelivered),
            counter("offset_jumps", "Offsets that hold no record (compaction, transaction markers).", offsetJumps),
            counter("rereads", "Times that a partition was read again from the expected offset.", rereads),
            counter("rebalances", "Times that the consumer group gave this consumer partitions, or none.", rebalances),
            counter(
                "assignments_lost", "Times that the group gave partitions away without asking for them.",
                assignmentsLost),
            counter("offsets_lost", "Offsets gone from the topic before they were read.", lost),
            counter("truncations", "Partitions found to end before the expected offset.", truncations),
            counter("corrupt_batches", "Record batches whose checksum or compression was broken.", corruptBatches),
            counter("client_errors", "Errors that the Kafka client reported.", clientErrors),
            counter("log_lines_suppressed", "Lines of the Kafka client kept out of the log.", logLinesSuppressed),
        ]
    }
}
