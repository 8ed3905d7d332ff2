// The reader's second thread: asks the broker what librdkafka can only be asked in blocking calls that ignore their
// timeouts (partitions of the topic, watermarks), so that reading never waits for an answer.

import CRDKafka
import RecordLog
import Synchronization
import Telemetry
import Threading

/// @unchecked: `state` is read and written with `lock` held; `thread` is set once in `init` and joined once.
final class KafkaScout: @unchecked Sendable {
    struct Watermarks: Sendable {
        var partition: Int32
        var low: Int64
        var high: Int64
    }
    struct News: Sendable {
        /// Partitions of the topic when last seen; they are numbered from 0.
        var partitions: Int32 = 0
        /// Why the topic cannot be read, nil when it can.
        var problem: String?
        var watermarks: [Watermarks] = []
    }
    private struct State {
        var news = News()
        var questions: Set<Int32> = []
        var isUrgent = false
        var isStopped = false
    }

    private let handle: KafkaHandle
    private let options: KafkaOptions
    private let createsTopic: Bool
    private let log: Log
    private var state = State()
    private let lock = ConditionLock()
    private var thread: ServiceThread?

    /// Between looks at a healthy topic, and at one that is missing, unreachable or has open questions.
    private static let calm = Duration.seconds(10)
    private static let pressing = Duration.milliseconds(500)
    private static let callTimeoutMilliseconds: Int32 = 5_000

    init(_ handle: KafkaHandle, _ options: KafkaOptions, createsTopic: Bool, log: Log) {
        self.handle = handle
        self.options = options
        self.createsTopic = createsTopic
        self.log = log
        thread = ServiceThread("kafka-scout") { [self] in run() }
    }

    /// News since the last call; watermarks are handed over once.
    func takeNews() -> News {
        lock.withLock {
            defer { state.news.watermarks.removeAll() }
            return state.news
        }
    }

    /// Asks for a partition's watermarks until they are known.
    func askWatermarks(of partition: Int32) {
        lock.withLock {
            state.questions.insert(partition)
            state.isUrgent = true
            lock.wakeAll()
        }
    }

    /// Something went wrong with the connection: look soon.
    func lookSoon() {
        lock.withLock {
            state.isUrgent = true
            lock.wakeAll()
        }
    }

    /// Waits for the next look to end.
    func waitForNews(milliseconds: Int32) { lock.withLock { lock.wait(upTo: .milliseconds(Int(milliseconds))) } }

    func stop() {
        lock.withLock {
            state.isStopped = true
            lock.wakeAll()
        }
    }

    /// Call once, after `stop`.
    func join() { thread?.join() }

    private func run() {
        while true {
            let topic = look()
            let open = lock.withLock {
                state.news.partitions = max(state.news.partitions, topic.partitions)
                state.news.problem = topic.problem
                lock.wakeAll()
                return state.questions
            }
            for partition in open.sorted() {
                guard let answer = watermarks(of: partition) else { continue }
                lock.withLock {
                    state.questions.remove(partition)
                    state.news.watermarks.append(answer)
                    lock.wakeAll()
                }
            }
            // At most one look each half second, and while nothing presses one each ten seconds.
            guard wait(Self.pressing, untilUrgent: false) else { return }
            let isPressing = lock.withLock { state.news.problem != nil || !state.questions.isEmpty || state.isUrgent }
            if !isPressing, !wait(Self.calm, untilUrgent: true) { return }
            lock.withLock { state.isUrgent = false }
        }
    }

    /// False once stopped.
    private func wait(_ duration: Duration, untilUrgent: Bool) -> Bool {
        let deadline = ContinuousClock.now.advanced(by: duration)
        return lock.withLock {
            while !state.isStopped {
                let left = ContinuousClock.now.duration(to: deadline)
                if left <= .zero || untilUrgent && state.isUrgent { return true }
                lock.wait(upTo: left)
            }
            return false
        }
    }

    private func look() -> (partitions: Int32, problem: String?) {
        do {
            switch try describeTopic(options.topic, handle, timeoutMilliseconds: Self.callTimeoutMilliseconds) {
            case .exists(let partitions, let withoutLeader):
                let problem =
                    withoutLeader == 0
                    ? nil : "\(withoutLeader) of \(partitions) partitions of the topic \(options.topic) have no leader"
                return (Int32(clamping: partitions), problem)
            case .missing:
                guard createsTopic else {
                    return (
                        0, "the topic \(options.topic) does not exist: create it with `millrace topics ensure`"
                    )
                }
                if try createTopic(options.topic, options, handle, timeoutMilliseconds: Self.callTimeoutMilliseconds) {
                    log(
                        .kafkaTopicCreated(
                            options.topic, partitions: options.partitions,
                            replicationFactor: options.replicationFactor))
                }
                return (0, "the topic \(options.topic) does not exist yet: it is being created")
            }
        } catch {
            return (0, "\(error.tried): \(error.reason)")
        }
    }

    private func watermarks(of partition: Int32) -> Watermarks? {
        var low: Int64 = -1
        var high: Int64 = -1
        let code = rd_kafka_query_watermark_offsets(
            handle.raw, options.topic, partition, &low, &high, Self.callTimeoutMilliseconds)
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR, low >= 0, high >= 0 else { return nil }
        return Watermarks(partition: partition, low: low, high: high)
    }
}
