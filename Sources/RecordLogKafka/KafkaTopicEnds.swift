// Where each partition of the topic ends, for who reads no records. librdkafka can only be asked in blocking calls that
// outlast their timeouts, so each question has a thread of its own, waited for so long and no longer.

import CRDKafka
package import RecordLog
import Synchronization
package import Telemetry
import Threading

package final class KafkaTopicEnds: Sendable {
    /// | limit | value | why | at the limit |
    /// | --- | --- | --- | --- |
    /// | `waitMilliseconds` | 3,000 ms | the first answer waits for the connection | nil; asked again once the question has ended |
    private static let waitMilliseconds = 3_000
    private static let callTimeoutMilliseconds: Int32 = 2_500

    private struct Question {
        let thread: ServiceThread
        let done: StopSignal
        let answer: Answer
    }
    private final class Answer: Sendable {
        let ends = Mutex<[TopicPartition: Offset]?>(nil)
    }
    private struct State {
        var handle: KafkaHandle?
        var unanswered: Question?
        var isClosed = false
    }

    private let options: KafkaOptions
    private let log: Log
    private let metrics: KafkaMetrics
    /// Held while one asks: the others wait for their turn.
    private let state = Mutex(State())

    package init(_ options: KafkaOptions, log: Log, metrics: KafkaMetrics) {
        self.options = options
        self.log = log
        self.metrics = metrics
    }

    /// The offsets that the next records get; nil where the broker does not say in time.
    package func read() -> [TopicPartition: Offset]? {
        state.withLock { state in
            if state.isClosed { return nil }
            if let before = state.unanswered {
                guard before.done.isStopped else { return nil }
                before.thread.join()
                state.unanswered = nil
            }
            if state.handle == nil {
                do throws(RecordLogError) {
                    state.handle = try KafkaHandle(options, .admin, events: 0, log: log, metrics: metrics)
                } catch {
                    log(.reconciliationWithoutLog(reason: error.description))
                    return nil
                }
            }
            guard let handle = state.handle else { return nil }
            // What the client has to say is served here, since nothing else reads its queue.
            while let event = rd_kafka_queue_poll(handle.queue, 0) {
                _ = handle.serve(event)
                rd_kafka_event_destroy(event)
            }
            let question = ask(handle)
            guard question.done.wait(milliseconds: Self.waitMilliseconds) else {
                state.unanswered = question
                return nil
            }
            question.thread.join()
            return question.answer.ends.withLock { $0 }
        }
    }

    package func close() {
        state.withLock { state in
            state.isClosed = true
            let thread = state.unanswered?.thread
            state.handle?.close {
                thread?.join()
                return true
            }
            state.handle = nil
        }
    }

    private func ask(_ handle: KafkaHandle) -> Question {
        let (done, answer, topic, log) = (StopSignal(), Answer(), options.topic, log)
        let thread = ServiceThread("kafka-ends") {
            do throws(RecordLogError) {
                let ends = try Self.ends(of: topic, handle)
                answer.ends.withLock { $0 = ends }
            } catch {
                log(.reconciliationWithoutLog(reason: error.description))
            }
            done.stop()
        }
        return Question(thread: thread, done: done, answer: answer)
    }

    private static func ends(
        of topic: String, _ handle: KafkaHandle
    ) throws(RecordLogError) -> [TopicPartition: Offset] {
        guard
            case .exists(let partitions, _) = try describeTopic(
                topic, handle, timeoutMilliseconds: callTimeoutMilliseconds)
        else { return [:] }
        var ends: [TopicPartition: Offset] = [:]
        for partition in 0..<Int32(clamping: partitions) {
            var low: Int64 = -1
            var high: Int64 = -1
            let code = rd_kafka_query_watermark_offsets(
                handle.raw, topic, partition, &low, &high, callTimeoutMilliseconds)
            guard code == RD_KAFKA_RESP_ERR_NO_ERROR, high >= 0 else {
                throw RecordLogError(
                    code: classified(code), tried: "to look up where \(topic)/\(partition) ends", reason: text(code),
                    next: "Check the brokers.")
            }
            // An empty partition, whatever it held before, has nothing to wait for.
            if high > max(low, 0) { ends[TopicPartition(topic: topic, partition: partition)] = Offset(high) }
        }
        return ends
    }
}
