// Ships a journal: all lanes of its directory → a producer of the log; delivery reports → the lanes' checkpoints.
//
// One thread owns cursors, progress and producer. A session lasts as long as its producer: it reads while there is room
// in flight, sends, serves reports. A producer that throws ends the session; after a pause the next one sends again
// all that was not acknowledged. A log that is away is no special case: the journal grows and drains.
// A lane is shipped whoever writes it, also when its writer is gone; one process ships a directory (a lock says so), and
// one that is to take over from it waits for that lock.

import Glibc
package import Journal
package import RecordLog
import Synchronization
package import Telemetry
import Threading

/// | limit | unit | default | why | at the limit |
/// | --- | --- | --- | --- | --- |
/// | `records` | records held | 20,000 | half a second of a busy proxy; each has a state and a place in the producer's queue, about 1 KiB in all | reading waits |
/// | `bytes` | bytes held | 16 MiB | memory stays flat while the log is slow or away | reading waits |
/// | `chunkBytes` | bytes a read | 1 MiB | one system call for many records | |
package struct ShippingLimits: Sendable {
    package var records: Int
    package var bytes: Int
    package var chunkBytes: Int
    package init(records: Int = 20_000, bytes: Int = 16 << 20, chunkBytes: Int = 1 << 20) {
        self.records = records
        self.bytes = bytes
        self.chunkBytes = chunkBytes
    }
}

package final class Shipper: Sendable {
    package typealias MakeProducer = @Sendable () throws(RecordLogError) -> any RecordProducer

    private let directory: String
    private let makeProducer: MakeProducer
    private let limits: ShippingLimits
    private let log: Log
    private let metrics: ShippingMetrics
    private let journalMetrics: JournalMetrics
    private let stopping = StopSignal()
    private let flushUntil = Mutex<ContinuousClock.Instant?>(nil)
    private let thread = Mutex<ServiceThread?>(nil)
    private let degradation = Mutex<String?>(nil)

    package init(
        journalDirectory: String, limits: ShippingLimits = ShippingLimits(), log: Log, metrics: ShippingMetrics,
        journalMetrics: JournalMetrics, makeProducer: @escaping MakeProducer
    ) {
        directory = journalDirectory
        self.limits = limits
        self.log = log
        self.metrics = metrics
        self.journalMetrics = journalMetrics
        self.makeProducer = makeProducer
    }

    /// Why records are not getting through, nil when they are.
    package var degraded: String? { degradation.withLock { $0 } }

    /// Throws `shipper_in_use` where a process already ships this directory.
    ///
    /// - `takesOver`: waits until that one has ended instead. Until then it ships what this process writes as well.
    package func start(takesOver: Bool = false) throws(JournalError) {
        let path = "\(directory)/shipper.lock"
        let lock = FileLock(path: path)
        if lock == nil {
            if errno != EWOULDBLOCK { throw JournalError.system("lock \(path)", errno: errno) }
            guard takesOver else {
                throw JournalError(
                    code: .shipperInUse, tried: "lock \(path)", reason: "another process ships this journal",
                    next: "Give each proxy a journal.directory of its own; one that is to take over from another needs "
                        + "proxy.reuse_port.")
            }
            log(.shippingWaits)
        }
        thread.withLock {
            $0 = ServiceThread("shipper") { [self] in
                if let lock = lock ?? awaited(path) { ship(holding: lock) }
            }
        }
    }

    /// nil where it is time to stop before.
    private func awaited(_ path: String) -> FileLock? {
        while !stopping.wait(milliseconds: 50) {
            if let lock = FileLock(path: path) { return lock }
        }
        return nil
    }

    /// Ships what is in the journal for up to `flushMilliseconds`; the next start ships the rest.
    package func stop(flushMilliseconds: Int) {
        flushUntil.withLock { $0 = .now.advanced(by: .milliseconds(flushMilliseconds)) }
        stopping.stop()
        let running = thread.withLock { current in
            defer { current = nil }
            return current
        }
        running?.join()
    }

    private var flushTimeIsUp: Bool { flushUntil.withLock { $0.map { ContinuousClock.now >= $0 } ?? false } }

    /// Waits, unless it is time to stop; then briefly, so that a flush does not spin.
    private func pause(_ milliseconds: Int) {
        if stopping.wait(milliseconds: milliseconds) {
            var briefly = timespec(tv_sec: 0, tv_nsec: 1_000_000)
            nanosleep(&briefly, nil)
        }
    }

    private func ship(holding lock: FileLock) {
        let shipment = Shipment(
            directory: directory, limits: limits, log: log, metrics: metrics, journalMetrics: journalMetrics)
        var backoff = Backoff()
        while !(stopping.isStopped && (flushTimeIsUp || shipment.isDone)) {
            do throws(RecordLogError) {
                let producer = try makeProducer()
                try runSession(producer, shipment, &backoff)
                break
            } catch {
                metrics.producerRestarts.add()
                metrics.resent.add(shipment.producerLost())
                degradation.withLock { $0 = error.description }
                let wait = backoff.failed(jitter: .random(in: 0..<1))
                log(.shippingProducerFailed(reason: error.description, retryMilliseconds: wait))
                let until = ContinuousClock.now.advanced(by: .milliseconds(wait))
                while ContinuousClock.now < until, !(stopping.isStopped && flushTimeIsUp) { pause(20) }
            }
        }
        withExtendedLifetime(lock) {}
    }

    /// Returns when it is time to stop. Generic, so that no existential stands on the path of a record.
    private func runSession<Producer: RecordProducer>(
        _ made: Producer, _ shipment: Shipment, _ backoff: inout Backoff
    ) throws(RecordLogError) {
        var producer = made
        defer { producer.close() }
        var idle = 1
        while true {
            let isStopping = stopping.isStopped
            if isStopping && flushTimeIsUp { return }
            shipment.look()
            var moved = shipment.read()
            moved = shipment.send(to: &producer) || moved
            let reports = try shipment.serveReports(of: &producer, timeoutMilliseconds: moved ? 0 : 5)
            if reports.acknowledged > 0 { backoff.succeeded() }
            if reports.failed > 0 {
                shipment.resume(afterMilliseconds: backoff.failed(jitter: .random(in: 0..<1)))
            }
            if shipment.isDone || reports.acknowledged > 0 || producer.degraded != nil {
                degradation.withLock { $0 = producer.degraded }
            }
            shipment.measure()
            if moved || reports.acknowledged > 0 {
                idle = 1
            } else if isStopping && shipment.isDone {
                return
            } else {
                pause(shipment.isDone ? idle : 1)
                idle = min(idle * 2, 20)
            }
        }
    }
}
