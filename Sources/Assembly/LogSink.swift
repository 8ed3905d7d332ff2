// Records of a command or of the API -> the log: `loadgen`, `dead-letters redrive` and `POST /v1/dead-letters/redrive`.

import Configuration
import Journal
import RecordLog
import RecordLogKafka
import Telemetry
import Threading

/// A journal lane of its own, beside those of a running proxy, or the Kafka topic. Owned by one thread.
struct LogSink {
    private enum Kind {
        case journal(Journal, JournalLane)
        case kafka(KafkaProducer)
    }
    private let kind: Kind
    private let stop: StopSignal
    /// Kafka: what is not yet acknowledged, by tag, for sending again.
    private var pending: [UInt64: (kind: RecordKind, key: [UInt8], value: [UInt8])] = [:]
    private var nextTag: UInt64 = 0
    private var refused: String?

    /// How long the log may take nothing before the sender gives up.
    private let patience: Duration
    private static let topicMilliseconds: Int32 = 10_000

    init(
        _ configuration: MillraceConfiguration, stop: StopSignal, log: Log, patience: Duration = .seconds(60)
    ) throws {
        self.stop = stop
        self.patience = patience
        switch configuration.log.kind {
        case .journal:
            let journal = try Journal(
                directory: configuration.journal.directory, options: configuration.journal.options, log: log,
                metrics: JournalMetrics())
            let lane = try journal.openLane(isCounted: false)
            journal.start()
            kind = .journal(journal, lane)
        case .kafka:
            let options = configuration.log.kafka.options
            let metrics = KafkaMetrics()
            _ = try KafkaAdmin.ensureTopics(
                options, deadLetterTopic: nil, timeoutMilliseconds: Self.topicMilliseconds, log: log, metrics: metrics)
            kind = .kafka(try KafkaProducer(options, log: log, metrics: metrics))
        }
    }

    /// Waits while the log's queue is full; false when the log takes no more.
    mutating func send(kind record: RecordKind, key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer) -> Bool {
        switch kind {
        case .journal(_, let lane):
            switch lane.append(kind: record, key: key, value: value) {
            case .recorded: return true
            case .dropped: return false
            case .waiting: return wait { lane.drain() }
            }
        case .kafka(let producer):
            nextTag += 1
            pending[nextTag] = (record, Array(key), Array(value))
            if nextTag & 1023 == 0, !serve(producer, 0) { return false }
            return offer(nextTag, producer)
        }
    }

    private mutating func offer(_ tag: UInt64, _ producer: KafkaProducer) -> Bool {
        guard let record = pending[tag] else { return true }
        let start = ContinuousClock.now
        while !record.key.withUnsafeBytes({ key in
            record.value.withUnsafeBytes { producer.send(tag: tag, kind: record.kind, key: key, value: $0) }
        }) {
            guard serve(producer, 100), start.duration(to: .now) < patience, !stop.isStopped else { return false }
        }
        return true
    }

    /// Takes delivery reports; what failed is sent again. False when the producer is of no more use.
    private mutating func serve(_ producer: KafkaProducer, _ milliseconds: Int32) -> Bool {
        var failed: [UInt64] = []
        do {
            try producer.poll(timeoutMilliseconds: milliseconds) { tag, delivery in
                switch delivery {
                case .acknowledged: pending[tag] = nil
                case .failed: failed.append(tag)
                case .refused(let reason):
                    pending[tag] = nil
                    refused = reason
                }
            }
        } catch {
            refused = "\(error)"
            return false
        }
        for tag in failed {
            guard let record = pending[tag] else { continue }
            _ = record.key.withUnsafeBytes { key in
                record.value.withUnsafeBytes { producer.send(tag: tag, kind: record.kind, key: key, value: $0) }
            }
        }
        return true
    }

    private func wait(_ isDone: () -> Bool) -> Bool {
        let start = ContinuousClock.now
        while !isDone() {
            guard start.duration(to: .now) < patience, !stop.wait(milliseconds: 1) else { return isDone() }
        }
        return true
    }

    /// Everything sent stands in the log before what is sent from now on.
    mutating func flush() throws {
        // A lane keeps the order in which it is written.
        guard case .kafka(let producer) = kind else { return }
        var start = ContinuousClock.now
        var left = pending.count
        while !pending.isEmpty, start.duration(to: .now) < patience {
            guard serve(producer, 100) else { break }
            if pending.count < left { start = .now }
            left = pending.count
        }
        if !pending.isEmpty {
            throw Failure(
                "Kafka did not acknowledge \(pending.count) records within \(patience.components.seconds) s"
                    + "\(refused.map { ": \($0)" } ?? ""). Do the same again: copies of one id count once."
            )
        }
        if let refused { throw Failure("Kafka refused records: \(refused)") }
    }

    /// Everything sent is in the log when this returns.
    mutating func finish() throws {
        switch kind {
        case .journal(let journal, _): journal.stop()
        case .kafka(let producer):
            defer { producer.close() }
            try flush()
        }
    }
}
