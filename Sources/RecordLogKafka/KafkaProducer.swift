// Records -> the topic, idempotently and acknowledged by all in-sync replicas; delivery reports -> the owner of the
// records. librdkafka batches, compresses, retries and keeps the order; this side only copies in and counts out.

import CRDKafka
package import RecordLog
package import Telemetry

/// @unchecked: one thread at a time uses a producer, as the port says; it may be made on another.
package final class KafkaProducer: RecordProducer, @unchecked Sendable {
    /// A client with the one topic that it produces to.
    private struct Line {
        let handle: KafkaHandle
        let topic: OpaquePointer

        init(_ options: KafkaOptions, _ kind: KafkaClientKind, log: Log, metrics: KafkaMetrics) throws(RecordLogError) {
            handle = try KafkaHandle(options, kind, events: RD_KAFKA_EVENT_DR, log: log, metrics: metrics)
            guard let topic = rd_kafka_topic_new(handle.raw, options.topic, nil) else {
                throw RecordLogError(
                    code: .configuration, tried: "to produce to the topic \(options.topic)",
                    reason: text(rd_kafka_last_error()), next: "Check log.kafka.topic.")
            }
            self.topic = topic
        }

        /// Gives up what is queued or in flight.
        func close() {
            rd_kafka_purge(handle.raw, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT)
            rd_kafka_topic_destroy(topic)
            handle.close()
        }
    }

    private let options: KafkaOptions
    private let main: Line
    /// Opened when the broker first finds a batch too large: which of its records is to blame shows when each goes
    /// alone. That happens where the topic's `max.message.bytes` is below the client's batches.
    private var alone: Line?
    /// The headers of each kind of record, copied into each message.
    private let eventHeaders: OpaquePointer
    private let manifestHeaders: OpaquePointer
    private let log: Log
    private let metrics: KafkaMetrics
    /// Records that librdkafka would not even queue, reported by the next `poll`.
    private var refusedAtOnce: [(tag: UInt64, reason: String)] = []
    private var brokerProblem: String?
    private var sendProblem: String?
    /// Something failed since the last look at whether the client is done for.
    private var mayBeFatal = false
    private var isClosed = false

    package init(_ options: KafkaOptions, log: Log, metrics: KafkaMetrics) throws(RecordLogError) {
        self.options = options
        self.log = log
        self.metrics = metrics
        main = try Line(options, .producer, log: log, metrics: metrics)
        guard let event = recordHeaders(.event) else {
            main.close()
            throw outOfMemory
        }
        guard let manifest = recordHeaders(.manifest) else {
            rd_kafka_headers_destroy(event)
            main.close()
            throw outOfMemory
        }
        eventHeaders = event
        manifestHeaders = manifest
    }

    deinit { close() }

    package func send(tag: UInt64, kind: RecordKind, key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer)
        -> Bool
    {
        guard let headers = rd_kafka_headers_copy(kind == .event ? eventHeaders : manifestHeaders) else { return false }
        return send(tag: tag, key: key, value: value, headers: headers)
    }

    /// A dead letter: key and value as they came (`value` nil for a null one), with any headers.
    /// False when the queue is full, as with the port's `send`.
    package func send(
        tag: UInt64, key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer?,
        headers: [(name: String, value: String)]
    ) -> Bool {
        guard let list = rd_kafka_headers_new(headers.count) else { return false }
        for (name, value) in headers { rd_kafka_header_add(list, name, -1, value, -1) }
        return send(tag: tag, key: key, value: value, headers: list)
    }

    /// Takes ownership of `headers`.
    private func send(
        tag: UInt64, key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer?, headers: OpaquePointer
    ) -> Bool {
        let code = millrace_rdkafka_produce(
            main.handle.raw, main.topic, key.baseAddress, key.count, value?.baseAddress, value?.count ?? 0, headers,
            UnsafeMutableRawPointer(bitPattern: UInt(tag)))
        if code == RD_KAFKA_RESP_ERR_NO_ERROR {
            sendProblem = nil
            return true
        }
        rd_kafka_headers_destroy(headers)
        switch code {
        case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
            refusedAtOnce.append((tag, Self.tooLarge(bytes: key.count + (value?.count ?? 0))))
            return true
        case RD_KAFKA_RESP_ERR__QUEUE_FULL:
            metrics.queueFull.add()
            return false
        default:
            // A topic that is missing, or a client that is done for: the record stays with its owner.
            mayBeFatal = true
            sendProblem = "the topic \(options.topic) takes no records: \(text(code))"
            return false
        }
    }

    package func poll(
        timeoutMilliseconds: Int32, _ report: (_ tag: UInt64, _ delivery: Delivery) -> Void
    ) throws(RecordLogError) {
        var timeout = timeoutMilliseconds
        for (tag, reason) in refusedAtOnce {
            metrics.refused.add()
            report(tag, .refused(reason))
            timeout = 0
        }
        refusedAtOnce.removeAll(keepingCapacity: true)
        if let alone {
            serve(alone, timeoutMilliseconds: 0, report)
            // Two queues cannot be waited for at once.
            if rd_kafka_outq_len(alone.handle.raw) > 0 { timeout = min(timeout, 10) }
        }
        serve(main, timeoutMilliseconds: timeout, report)
        guard mayBeFatal else { return }
        mayBeFatal = false
        if let error = main.handle.fatalError ?? alone?.handle.fatalError { throw error }
    }

    private func serve(_ line: Line, timeoutMilliseconds: Int32, _ report: (UInt64, Delivery) -> Void) {
        var timeout = timeoutMilliseconds
        while let event = rd_kafka_queue_poll(line.handle.queue, timeout) {
            defer { rd_kafka_event_destroy(event) }
            // Waited once; what else is there is served without waiting.
            timeout = 0
            if rd_kafka_event_type(event) == RD_KAFKA_EVENT_DR {
                serveReports(event, of: line, report)
            } else if let (_, text) = line.handle.serve(event) {
                brokerProblem = text
                mayBeFatal = true
            }
        }
    }

    private func serveReports(_ event: OpaquePointer, of line: Line, _ report: (UInt64, Delivery) -> Void) {
        var acknowledged = 0
        while let message = rd_kafka_event_message_next(event) {
            let tag = UInt64(UInt(bitPattern: message.pointee._private))
            switch message.pointee.err {
            case RD_KAFKA_RESP_ERR_NO_ERROR:
                acknowledged += 1
                report(tag, .acknowledged)
            case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE where line.handle === main.handle:
                if !sendAlone(message) {
                    metrics.failed.add()
                    report(tag, .failed)
                }
            case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
                metrics.refused.add()
                report(tag, .refused(Self.tooLarge(bytes: message.pointee.len + message.pointee.key_len)))
            case let code where Self.isRefusal(code):
                metrics.refused.add()
                report(tag, .refused(text(code)))
            case let code:
                metrics.failed.add()
                mayBeFatal = true
                brokerProblem = text(code)
                report(tag, .failed)
            }
        }
        if acknowledged > 0 {
            metrics.acknowledged.add(acknowledged)
            brokerProblem = nil
        }
    }

    /// Sends the record of a batch that was too large by itself. False where that cannot be done now.
    private func sendAlone(_ message: UnsafePointer<rd_kafka_message_t>) -> Bool {
        if alone == nil {
            do {
                alone = try Line(options, .singleProducer, log: log, metrics: metrics)
            } catch {
                brokerProblem = error.reason
                return false
            }
        }
        guard let alone else { return false }
        var own: OpaquePointer?
        guard rd_kafka_message_headers(message, &own) == RD_KAFKA_RESP_ERR_NO_ERROR, let own,
            let headers = rd_kafka_headers_copy(own)
        else { return false }
        let record = message.pointee
        let code = millrace_rdkafka_produce(
            alone.handle.raw, alone.topic, record.key, record.key_len, record.payload, record.len, headers,
            record._private)
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR else {
            rd_kafka_headers_destroy(headers)
            return false
        }
        metrics.sentAlone.add()
        return true
    }

    /// What no second attempt can change.
    private static func isRefusal(_ code: rd_kafka_resp_err_t) -> Bool {
        switch code {
        case RD_KAFKA_RESP_ERR_INVALID_RECORD, RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE, RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP,
            RD_KAFKA_RESP_ERR_POLICY_VIOLATION, RD_KAFKA_RESP_ERR__INVALID_ARG:
            true
        default: false
        }
    }

    private static func tooLarge(bytes: Int) -> String {
        "the record of \(bytes) bytes is larger than the topic's max.message.bytes or the client's message.max.bytes"
    }

    package var degraded: String? {
        if let sendProblem { return sendProblem }
        guard !isClosed, let brokerProblem else { return nil }
        let waiting = rd_kafka_outq_len(main.handle.raw) + (alone.map { rd_kafka_outq_len($0.handle.raw) } ?? 0)
        return waiting > 0 ? brokerProblem : nil
    }

    package func close() {
        guard !isClosed else { return }
        isClosed = true
        rd_kafka_headers_destroy(eventHeaders)
        rd_kafka_headers_destroy(manifestHeaders)
        main.close()
        alone?.close()
    }
}

private let outOfMemory = RecordLogError(
    code: .fatal, tried: "to open the Kafka producer", reason: "out of memory", next: "Free some.")

private func recordHeaders(_ kind: RecordKind) -> OpaquePointer? {
    guard let headers = rd_kafka_headers_new(2) else { return nil }
    rd_kafka_header_add(headers, RecordHeader.kind, -1, kind.name, -1)
    rd_kafka_header_add(headers, RecordHeader.schema, -1, RecordHeader.schemaVersion, -1)
    return headers
}
