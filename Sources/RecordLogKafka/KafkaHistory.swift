// The topic as who reads the past again needs it: where its partitions begin, and a reader beside the consumers'.

import CRDKafka
import Events
package import RecordLog
package import Telemetry

package struct KafkaHistory: RecordLogHistory {
    private static let callTimeoutMilliseconds: Int32 = 10_000
    /// How long a partition's first record may take to come.
    private static let recordLimit = Duration.seconds(15)

    private let options: KafkaOptions
    private let log: Log
    private let metrics: KafkaMetrics

    package init(_ options: KafkaOptions, log: Log, metrics: KafkaMetrics) {
        self.options = options
        self.log = log
        self.metrics = metrics
    }

    package func reader() throws(RecordLogError) -> any RecordLogReader {
        try KafkaLogReader(options, membership: .alone, createsTopic: false, log: log, metrics: metrics)
    }

    /// The time of a first record is what Kafka keeps with it, by the producer's clock or the broker's.
    package func beginnings() throws(RecordLogError) -> [LogBeginning] {
        let handle = try KafkaHandle(options, .reader, events: 0, log: log, metrics: metrics)
        defer {
            let client = Int(bitPattern: handle.raw)
            handle.close {
                if let client = OpaquePointer(bitPattern: client) { rd_kafka_assign(client, nil) }
                return true
            }
        }
        guard
            case .exists(let partitions, _) = try describeTopic(
                options.topic, handle, timeoutMilliseconds: Self.callTimeoutMilliseconds)
        else { return [] }
        var all: [LogBeginning] = []
        for partition in 0..<Int32(clamping: partitions) {
            var low: Int64 = -1
            var high: Int64 = -1
            let code = rd_kafka_query_watermark_offsets(
                handle.raw, options.topic, partition, &low, &high, Self.callTimeoutMilliseconds)
            guard code == RD_KAFKA_RESP_ERR_NO_ERROR, low >= 0 else { throw failed(partition, code, text(code)) }
            var time: EventTime?
            if low > 0, low < high { time = try firstTime(partition, low, handle) }
            all.append(
                LogBeginning(
                    partition: TopicPartition(topic: options.topic, partition: partition), first: Offset(low),
                    time: time))
        }
        return all
    }

    private func firstTime(
        _ partition: Int32, _ low: Int64, _ handle: KafkaHandle
    ) throws(RecordLogError) -> EventTime? {
        guard let list = rd_kafka_topic_partition_list_new(1) else {
            throw failed(partition, RD_KAFKA_RESP_ERR__FAIL, "out of memory")
        }
        defer { rd_kafka_topic_partition_list_destroy(list) }
        rd_kafka_topic_partition_list_add(list, options.topic, partition).pointee.offset = low
        let code = rd_kafka_assign(handle.raw, list)
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR else { throw failed(partition, code, text(code)) }
        let since = ContinuousClock.now
        var problem = "no record came"
        while since.duration(to: .now) < Self.recordLimit {
            while let event = rd_kafka_queue_poll(handle.queue, 0) {
                _ = handle.serve(event)
                rd_kafka_event_destroy(event)
            }
            guard let message = rd_kafka_consumer_poll(handle.raw, 200) else { continue }
            defer { rd_kafka_message_destroy(message) }
            guard message.pointee.err == RD_KAFKA_RESP_ERR_NO_ERROR else {
                problem = text(message.pointee.err)
                continue
            }
            // What was fetched of the one before may still come.
            guard message.pointee.partition == partition else { continue }
            var type = RD_KAFKA_TIMESTAMP_NOT_AVAILABLE
            let milliseconds = rd_kafka_message_timestamp(message, &type)
            return type == RD_KAFKA_TIMESTAMP_NOT_AVAILABLE ? nil : EventTime(microseconds: milliseconds * 1_000)
        }
        throw failed(partition, RD_KAFKA_RESP_ERR__TIMED_OUT, problem)
    }

    private func failed(_ partition: Int32, _ code: rd_kafka_resp_err_t, _ reason: String) -> RecordLogError {
        RecordLogError(
            code: classified(code), tried: "to look where \(options.topic)/\(partition) begins", reason: reason,
            next: "Check the brokers.")
    }
}
