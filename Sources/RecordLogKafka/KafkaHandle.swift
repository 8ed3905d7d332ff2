// One librdkafka client and its main queue: made once, destroyed once, within a bounded time. What the client says on
// that queue (log lines, errors, delivery reports) is read by the one thread that owns the producer or reader.

import CRDKafka
import RecordLog
import Synchronization
import Telemetry
import Threading

/// @unchecked: `raw` and `queue` are librdkafka objects that it makes safe for use from several threads; they live
/// until `close`, which runs once and which the owner calls when no other thread uses the handle any more.
final class KafkaHandle: @unchecked Sendable {
    let raw: OpaquePointer
    /// The main queue: events only, no callbacks are registered.
    let queue: OpaquePointer
    private let log: Log
    private let metrics: KafkaMetrics
    private let isClosed = Mutex(false)
    /// Log lines passed on in the current minute, and when that minute began. Touched by the owner's thread alone.
    private var lines = (count: 0, since: ContinuousClock.now)

    private static let linesPerMinute = 30
    static let closeMilliseconds = 10_000

    /// `group`: where the client tells of rebalances.
    init(
        _ options: KafkaOptions, _ kind: KafkaClientKind, events: Int32, group: GroupInbox? = nil, log: Log,
        metrics: KafkaMetrics
    ) throws(RecordLogError) {
        let configuration = try options.configuration(for: kind)
        group?.listen(configuration)
        rd_kafka_conf_set_events(configuration, events | RD_KAFKA_EVENT_LOG | RD_KAFKA_EVENT_ERROR)
        var reason = [CChar](repeating: 0, count: 512)
        let type = kind == .reader ? RD_KAFKA_CONSUMER : RD_KAFKA_PRODUCER
        guard let raw = rd_kafka_new(type, configuration, &reason, reason.count) else {
            rd_kafka_conf_destroy(configuration)
            throw RecordLogError(
                code: .configuration, tried: "to open the Kafka client", reason: text(reason),
                next: "Check log.kafka.properties and the files that they name.")
        }
        guard let queue = rd_kafka_queue_get_main(raw) else {
            rd_kafka_destroy(raw)
            throw RecordLogError(
                code: .fatal, tried: "to open the Kafka client", reason: "it has no queue", next: "Report this.")
        }
        rd_kafka_set_log_queue(raw, nil)
        self.raw = raw
        self.queue = queue
        self.log = log
        self.metrics = metrics
    }

    deinit { close() }

    /// Runs `before` (the last calls on the handle) and destroys the client, on a thread of its own: a client that is
    /// stuck, as 2.0.2 can be, is left to that thread after a while, and one of which `before` answers false is left for
    /// good, because destroying it would end the process. Later calls do nothing.
    func close(milliseconds: Int = KafkaHandle.closeMilliseconds, before: @escaping @Sendable () -> Bool = { true }) {
        let isFirst = isClosed.withLock { closed in
            defer { closed = true }
            return !closed
        }
        guard isFirst else { return }
        // The thread may outlive this object, so it takes the addresses and not the object.
        let addresses = (client: Int(bitPattern: raw), queue: Int(bitPattern: queue))
        let done = StopSignal()
        let closer = ServiceThread("kafka-close") {
            guard before() else { return done.stop() }
            if let queue = OpaquePointer(bitPattern: addresses.queue) { rd_kafka_queue_destroy(queue) }
            if let client = OpaquePointer(bitPattern: addresses.client) {
                // A reader of a group has left it by itself, as far as that is safe.
                rd_kafka_destroy_flags(client, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE)
            }
            done.stop()
        }
        if done.wait(milliseconds: milliseconds) {
            closer.join()
        } else {
            log(.kafkaCloseStuck(seconds: milliseconds / 1_000))
        }
    }

    /// Serves one event that is neither a delivery report nor a result. Returns an error's code and text.
    func serve(_ event: OpaquePointer) -> (code: rd_kafka_resp_err_t, text: String)? {
        switch rd_kafka_event_type(event) {
        case RD_KAFKA_EVENT_LOG:
            var facility: UnsafePointer<CChar>?
            var message: UnsafePointer<CChar>?
            var level: Int32 = 7
            // Syslog's levels: 4 is a warning, 3 an error.
            if rd_kafka_event_log(event, &facility, &message, &level) == 0, level <= 4, let facility, let message {
                pass(
                    .kafkaClient(
                        String(cString: message), facility: String(cString: facility), isError: level <= 2))
            }
            return nil
        case RD_KAFKA_EVENT_ERROR:
            metrics.clientErrors.add()
            return (rd_kafka_event_error(event), String(cString: rd_kafka_event_error_string(event)))
        default: return nil
        }
    }

    /// Why TLS or SASL let no broker be spoken to, where the client has said so by now. For a handle whose queue nobody
    /// else reads.
    func refusal() -> String? {
        while let event = rd_kafka_queue_poll(queue, 0) {
            defer { rd_kafka_event_destroy(event) }
            guard let (code, text) = serve(event) else { continue }
            // A broker that wants a certificate of the client's says so after the handshake, where the library takes it
            // for an error of the wire; only OpenSSL's words tell it.
            if classified(code) == .notAuthorized || text.contains("SSL routines") { return text }
        }
        return nil
    }

    /// A broker that is away makes librdkafka say so for each attempt: a bounded number is passed on.
    private func pass(_ line: LogLine) {
        let now = ContinuousClock.now
        if lines.since.duration(to: now) > .seconds(60) { lines = (0, now) }
        lines.count += 1
        if lines.count <= Self.linesPerMinute { log(line) } else { metrics.logLinesSuppressed.add() }
    }

    /// The error after which this client can never work again, where there is one.
    var fatalError: RecordLogError? {
        var reason = [CChar](repeating: 0, count: 512)
        let code = rd_kafka_fatal_error(raw, &reason, reason.count)
        guard code != RD_KAFKA_RESP_ERR_NO_ERROR else { return nil }
        return RecordLogError(
            code: .fatal, tried: "to use the Kafka client", reason: text(reason),
            next: "A new client is opened and what was not acknowledged is sent again.")
    }
}

/// Sorts what librdkafka answers: what an operator must mend stands apart from what passes.
func classified(_ code: rd_kafka_resp_err_t) -> RecordLogError.Code {
    switch code {
    case RD_KAFKA_RESP_ERR__AUTHENTICATION, RD_KAFKA_RESP_ERR__SSL, RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED,
        RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED,
        RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
        .notAuthorized
    case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC,
        RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
        .topicMissing
    case RD_KAFKA_RESP_ERR__FATAL: .fatal
    default: .unreachable
    }
}
