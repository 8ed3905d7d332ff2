// What the Kafka adapter says.

extension LogLine {
    /// A warning or error of librdkafka itself; `facility` is its own short name for the kind.
    package static func kafkaClient(_ message: String, facility: String, isError: Bool) -> LogLine {
        LogLine(isError ? .error : .warning, "kafka_client", message, [("facility", .text(facility))])
    }

    package static func kafkaTopicCreated(_ topic: String, partitions: Int, replicationFactor: Int) -> LogLine {
        LogLine(
            .info, "kafka_topic_created", "The topic did not exist and was created.",
            [
                ("topic", .text(topic)), ("partitions", .number(Int64(partitions))),
                ("replication_factor", .number(Int64(replicationFactor))),
            ])
    }

    package static func kafkaTopicDiffers(_ topic: String, partitions: Int, wanted: Int) -> LogLine {
        LogLine(
            .warning, "kafka_topic_differs",
            "The topic has fewer partitions than configured and is used as it is. "
                + "Adding partitions moves keys: do it only with the proxies drained.",
            [
                ("topic", .text(topic)), ("partitions", .number(Int64(partitions))),
                ("configured", .number(Int64(wanted))),
            ])
    }

    package static func kafkaOffsetsLost(_ topic: String, partition: Int32, from: Int64, to: Int64) -> LogLine {
        LogLine(
            .error, "kafka_offsets_lost",
            "These offsets were removed from the topic before they were read. Lengthen the topic's retention.",
            [
                ("topic", .text(topic)), ("partition", .number(Int64(partition))), ("from", .number(from)),
                ("to", .number(to)),
            ])
    }

    package static func kafkaTruncated(_ topic: String, partition: Int32, expected: Int64, end: Int64) -> LogLine {
        LogLine(
            .error, "kafka_log_truncated",
            "The partition ends before the offset that comes next: the topic was recreated or lost its tail. "
                + "Reading it stops until the stored offset is set anew.",
            [
                ("topic", .text(topic)), ("partition", .number(Int64(partition))), ("expected", .number(expected)),
                ("end", .number(end)),
            ])
    }

    package static func kafkaReread(_ topic: String, partition: Int32, from: Int64, why: String) -> LogLine {
        LogLine(
            .warning, "kafka_reread", "The partition is read again from the offset that comes next: \(why).",
            [("topic", .text(topic)), ("partition", .number(Int64(partition))), ("from", .number(from))])
    }

    package static func kafkaAssigned(_ topic: String, partitions: [Int32]) -> LogLine {
        LogLine(
            .info, "kafka_partitions_assigned", "The consumer group gave partitions to this consumer.",
            [("topic", .text(topic)), ("partitions", .text(partitions.map(String.init).joined(separator: ",")))])
    }

    package static func kafkaRevoked(_ topic: String, partitions: [Int32], isLost: Bool) -> LogLine {
        LogLine(
            isLost ? .warning : .info, "kafka_partitions_revoked",
            isLost
                ? "The consumer group has given these partitions away while this consumer was not heard of."
                : "The consumer group asks for these partitions back.",
            [("topic", .text(topic)), ("partitions", .text(partitions.map(String.init).joined(separator: ",")))])
    }

    package static func kafkaCloseStuck(seconds: Int) -> LogLine {
        LogLine(
            .warning, "kafka_close_stuck",
            "The Kafka client did not close in time and is left to the process's end; nothing is lost by it.",
            [("waited_seconds", .number(Int64(seconds)))])
    }
}
