// Topics: what exists, and making what does not. Opens a client for each call; not for a hot path.

import CRDKafka
import Glibc
package import RecordLog
package import Telemetry

/// What `ensureTopics` found or did.
package struct TopicReport: Sendable, Equatable {
    package enum Outcome: String, Sendable { case existed, created }
    package var topic: String
    package var outcome: Outcome
    package var partitions: Int
    /// Set where the topic has fewer partitions than configured; it is left as it is.
    package var warning: String?
}

package enum KafkaAdmin {
    /// Creates those of the log's topic and the dead-letter topic (which gets as many partitions)
    /// that do not exist. With three replicas or more, `min.insync.replicas` is one less than the replicas, so that
    /// one broker may be away. Existing topics are never changed. Safe to call from several processes at once.
    package static func ensureTopics(
        _ options: KafkaOptions, deadLetterTopic: String?, timeoutMilliseconds: Int32 = 15_000, log: Log,
        metrics: KafkaMetrics
    ) throws(RecordLogError) -> [TopicReport] {
        let handle = try KafkaHandle(options, .admin, events: 0, log: log, metrics: metrics)
        defer { handle.close() }
        var reports: [TopicReport] = []
        try explaining(options, handle) { () throws(RecordLogError) in
            for topic in [options.topic, deadLetterTopic].compactMap({ $0 }) {
                reports.append(try ensure(topic, options, handle, timeoutMilliseconds: timeoutMilliseconds, log: log))
            }
        }
        return reports
    }

    /// Where no broker answers: says what TLS or SASL had against it, where that is why.
    private static func explaining<Answer>(
        _ options: KafkaOptions, _ handle: KafkaHandle, _ body: () throws(RecordLogError) -> Answer
    ) throws(RecordLogError) -> Answer {
        do {
            return try body()
        } catch {
            guard error.code == .unreachable, let refusal = handle.refusal() else { throw error }
            var next =
                "Check log.kafka.properties: security.protocol, ssl.ca.location for who signed the brokers' "
                + "certificates, ssl.certificate.location and ssl.key.location for the client's own, sasl.mechanism, "
                + "sasl.username and sasl.password for the user."
            // Their client repeats its own half of the nonce, which Kafka 4 no longer lets pass.
            if options.sendsBadNonces {
                next +=
                    " Kafka 4 takes no SCRAM from librdkafka before 2.6.1, and this is \(KafkaOptions.version): there "
                    + "use PLAIN over SASL_SSL, or a client's certificate."
            }
            throw RecordLogError(code: .notAuthorized, tried: error.tried, reason: refusal, next: next)
        }
    }

    private static func ensure(
        _ topic: String, _ options: KafkaOptions, _ handle: KafkaHandle, timeoutMilliseconds: Int32, log: Log
    ) throws(RecordLogError) -> TopicReport {
        var outcome = TopicReport.Outcome.existed
        let deadline = ContinuousClock.now.advanced(by: .milliseconds(Int(timeoutMilliseconds)))
        while true {
            if case .exists(let partitions, _) = try describeTopic(
                topic, handle, timeoutMilliseconds: timeoutMilliseconds)
            {
                return report(topic, outcome, partitions: partitions, options, log: log)
            }
            // A topic just created, by us or another, is not known to every broker at once.
            guard ContinuousClock.now < deadline else {
                throw RecordLogError(
                    code: .unreachable, tried: "to create the topic \(topic)",
                    reason: "the brokers took it and do not show it", next: "Look at the brokers' logs; try again.")
            }
            if outcome == .created {
                usleep(50_000)
            } else if try createTopic(topic, options, handle, timeoutMilliseconds: timeoutMilliseconds) {
                outcome = .created
                log(
                    .kafkaTopicCreated(
                        topic, partitions: options.partitions, replicationFactor: options.replicationFactor))
            }
        }
    }

    private static func report(
        _ topic: String, _ outcome: TopicReport.Outcome, partitions: Int, _ options: KafkaOptions, log: Log
    ) -> TopicReport {
        var report = TopicReport(topic: topic, outcome: outcome, partitions: partitions)
        if partitions < options.partitions {
            log(.kafkaTopicDiffers(topic, partitions: partitions, wanted: options.partitions))
            report.warning =
                "\(topic) has \(partitions) partitions, fewer than the configured \(options.partitions); "
                + "it is used as it is, since adding partitions moves keys"
        }
        return report
    }

    /// Partitions of the log's topic, nil where it does not exist. Throws where no broker answers in time: the
    /// readiness check.
    package static func describe(
        _ options: KafkaOptions, timeoutMilliseconds: Int32 = 3_000, log: Log, metrics: KafkaMetrics
    ) throws(RecordLogError) -> Int? {
        let handle = try KafkaHandle(options, .admin, events: 0, log: log, metrics: metrics)
        defer { handle.close() }
        let found = try explaining(options, handle) { () throws(RecordLogError) in
            try describeTopic(options.topic, handle, timeoutMilliseconds: timeoutMilliseconds)
        }
        switch found {
        case .exists(let partitions, _): return partitions
        case .missing: return nil
        }
    }
}

enum TopicDescription {
    case exists(partitions: Int, withoutLeader: Int)
    case missing
}

/// Blocks up to the timeout.
func describeTopic(
    _ topic: String, _ handle: KafkaHandle, timeoutMilliseconds: Int32
) throws(RecordLogError) -> TopicDescription {
    func failed(_ code: rd_kafka_resp_err_t) -> RecordLogError {
        RecordLogError(
            code: classified(code), tried: "to look up the topic \(topic)",
            reason: code == RD_KAFKA_RESP_ERR__TRANSPORT || code == RD_KAFKA_RESP_ERR__TIMED_OUT
                ? "no broker answers (\(text(code)))" : text(code),
            next: "Check log.kafka.bootstrap_servers, the brokers and the credentials.")
    }
    guard let reference = rd_kafka_topic_new(handle.raw, topic, nil) else { throw failed(rd_kafka_last_error()) }
    defer { rd_kafka_topic_destroy(reference) }
    var metadata: UnsafePointer<rd_kafka_metadata>?
    let code = rd_kafka_metadata(handle.raw, 0, reference, &metadata, timeoutMilliseconds)
    guard code == RD_KAFKA_RESP_ERR_NO_ERROR, let metadata else { throw failed(code) }
    defer { rd_kafka_metadata_destroy(metadata) }
    guard metadata.pointee.topic_cnt > 0, let found = metadata.pointee.topics?.pointee else { return .missing }
    switch found.err {
    case RD_KAFKA_RESP_ERR_NO_ERROR, RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE: break
    case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART: return .missing
    default: throw failed(found.err)
    }
    let partitions = UnsafeBufferPointer(start: found.partitions, count: Int(found.partition_cnt))
    return .exists(partitions: partitions.count, withoutLeader: partitions.count { $0.leader < 0 })
}

/// True where this call created the topic, false where it exists by now.
@discardableResult
func createTopic(
    _ topic: String, _ options: KafkaOptions, _ handle: KafkaHandle, timeoutMilliseconds: Int32
) throws(RecordLogError) -> Bool {
    func failed(_ code: RecordLogError.Code, _ reason: String) -> RecordLogError {
        RecordLogError(
            code: code, tried: "to create the topic \(topic)", reason: reason,
            next: "Check log.kafka.partitions, log.kafka.replication_factor and the right to create topics.")
    }
    var reason = [CChar](repeating: 0, count: 512)
    guard
        let new = rd_kafka_NewTopic_new(
            topic, Int32(clamping: options.partitions), Int32(clamping: options.replicationFactor), &reason,
            reason.count)
    else { throw failed(.configuration, text(reason)) }
    defer { rd_kafka_NewTopic_destroy(new) }
    if options.replicationFactor >= 3 {
        rd_kafka_NewTopic_set_config(new, "min.insync.replicas", String(options.replicationFactor - 1))
    }
    guard let queue = rd_kafka_queue_new(handle.raw) else { throw failed(.fatal, "out of memory") }
    defer { rd_kafka_queue_destroy(queue) }
    let settings = rd_kafka_AdminOptions_new(handle.raw, RD_KAFKA_ADMIN_OP_CREATETOPICS)
    defer { if let settings { rd_kafka_AdminOptions_destroy(settings) } }
    rd_kafka_AdminOptions_set_request_timeout(settings, timeoutMilliseconds, nil, 0)
    rd_kafka_AdminOptions_set_operation_timeout(settings, timeoutMilliseconds, nil, 0)
    var topics: [OpaquePointer?] = [new]
    rd_kafka_CreateTopics(handle.raw, &topics, 1, settings, queue)
    guard let event = rd_kafka_queue_poll(queue, timeoutMilliseconds + 1_000) else {
        throw failed(.unreachable, "no broker answered in time")
    }
    defer { rd_kafka_event_destroy(event) }
    let code = rd_kafka_event_error(event)
    guard code == RD_KAFKA_RESP_ERR_NO_ERROR else {
        throw failed(classified(code), String(cString: rd_kafka_event_error_string(event)))
    }
    guard let result = rd_kafka_event_CreateTopics_result(event) else { throw failed(.fatal, "an unknown answer") }
    var count = 0
    let results = rd_kafka_CreateTopics_result_topics(result, &count)
    guard count == 1, let one = results?.pointee else { throw failed(.fatal, "an empty answer") }
    switch rd_kafka_topic_result_error(one) {
    case RD_KAFKA_RESP_ERR_NO_ERROR: return true
    case RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS: return false
    case let code:
        let said = rd_kafka_topic_result_error_string(one).map { String(cString: $0) }
        throw failed(code == RD_KAFKA_RESP_ERR__TIMED_OUT ? .unreachable : .configuration, said ?? text(code))
    }
}
