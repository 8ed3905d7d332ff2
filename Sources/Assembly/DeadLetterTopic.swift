// Dead letters -> the dead-letter topic, acknowledged before the offset moves. The store keeps them as well, in the
// batch's own transaction: the topic is for other programs, the table for `dead-letters` and the reconciliation.

import RecordLog
import RecordLogKafka
import RollupStore
import Synchronization
import Telemetry

/// Owned by the consumer's apply thread. The producer is opened with the first dead letter and made anew when it fails.
///
/// @unchecked: `producer` is touched with its lock held, and only from `publish` and `close`.
final class DeadLetterTopic: Sendable {
    private struct Sender: @unchecked Sendable { var producer: KafkaProducer? }

    private let options: KafkaOptions
    private let log: Log
    private let metrics: KafkaMetrics
    private let refused: Counter
    private let sender = Mutex(Sender())

    /// How long the topic may take before the attempt counts as failed; the consumer then tries again.
    private static let patience = Duration.seconds(5)

    /// `options`: those of the log; `topic` is set here.
    init(_ topic: String, _ options: KafkaOptions, refused: Counter, log: Log, metrics: KafkaMetrics) {
        var options = options
        options.topic = topic
        self.options = options
        self.refused = refused
        self.log = log
        self.metrics = metrics
    }

    /// Returns when each is acknowledged, or was refused for good: then the table alone has it, and a line says so.
    func publish(_ letters: [DeadLetter]) throws(RecordLogError) {
        try sender.withLock { sender throws(RecordLogError) in
            if sender.producer == nil { sender.producer = try open() }
            guard let producer = sender.producer else { return }
            do throws(RecordLogError) {
                try publish(letters, producer)
            } catch {
                producer.close()
                sender.producer = nil
                throw error
            }
        }
    }

    func close() {
        sender.withLock {
            $0.producer?.close()
            $0.producer = nil
        }
    }

    private func open() throws(RecordLogError) -> KafkaProducer {
        _ = try KafkaAdmin.ensureTopics(
            options, deadLetterTopic: nil, timeoutMilliseconds: 5_000, log: log, metrics: metrics)
        return try KafkaProducer(options, log: log, metrics: metrics)
    }

    private func publish(_ letters: [DeadLetter], _ producer: KafkaProducer) throws(RecordLogError) {
        let deadline = ContinuousClock.now.advanced(by: Self.patience)
        // A tag is an index and one: 0 would be no tag to the client.
        var waiting = Set(letters.indices)
        var unsent = Array(letters.indices.reversed())
        while !waiting.isEmpty {
            while let index = unsent.last, send(letters[index], tag: UInt64(index + 1), producer) {
                unsent.removeLast()
            }
            try producer.poll(timeoutMilliseconds: 50) { tag, delivery in
                let index = Int(tag) - 1
                switch delivery {
                case .acknowledged: waiting.remove(index)
                case .failed: unsent.append(index)
                case .refused(let reason):
                    waiting.remove(index)
                    refused.add()
                    log(.deadLetterRefused(source: letters[index].recordSource.description, reason: reason))
                }
            }
            guard waiting.isEmpty || ContinuousClock.now < deadline else {
                throw RecordLogError(
                    code: .unreachable, tried: "to produce \(waiting.count) dead letters to \(options.topic)",
                    reason: producer.degraded ?? "no acknowledgement came within \(Self.patience.components.seconds) s",
                    next: "They are sent again; the partition's offset waits for them.")
            }
        }
    }

    private func send(_ letter: DeadLetter, tag: UInt64, _ producer: KafkaProducer) -> Bool {
        var headers: [(name: String, value: String)] = [
            (RecordHeader.errorCode, letter.code.rawValue), (RecordHeader.error, letter.reason),
            (RecordHeader.source, letter.recordSource.description),
        ]
        if let kind = letter.kind { headers.insert((RecordHeader.kind, kind.name), at: 0) }
        return letter.key.withUnsafeBytes { key in
            letter.value.withUnsafeBytes { producer.send(tag: tag, key: key, value: $0, headers: headers) }
        }
    }
}
