// What a process has started, in order → the same, stopped in reverse.

import Synchronization
import Telemetry
import Threading

/// Services of one process. One thread starts, waits and stops; any thread may report a failure.
final class Running {
    let log: Log
    let stop = StopSignal()
    let metrics = MetricsRegistry()
    private var stops: [() -> Void] = []
    private let reloads = Reloads()
    private let failure = FailureNote()

    init(role: String) { log = Log(role: role) }

    /// `stop` is called when everything started later has been stopped.
    func onStop(_ stop: @escaping () -> Void) { stops.append(stop) }

    /// `reload` is called at SIGHUP, on the thread that waits for signals. Where nothing reloads, SIGHUP stops.
    func onReload(_ reload: @escaping @Sendable () -> Void) { reloads.add(reload) }

    /// For a service that ends by itself because it cannot go on: the process stops with status 1.
    var fail: @Sendable (_ service: String, _ error: any Error) -> Void {
        { [log, stop, failure] service, error in
            log(.serviceFailed(service, "\(error)"))
            failure.set()
            stop.stop()
        }
    }

    /// Starts by `body`, waits for a signal or a failure, stops in reverse order. A failed start stops what it began.
    func run(_ body: (Running) throws -> Void) throws -> Int32 {
        Signals.watch(stop, reloads, log)
        do {
            try body(self)
        } catch {
            stopAll()
            throw error
        }
        stop.wait()
        stopAll()
        log(.stopped())
        return failure.isSet ? 1 : 0
    }

    private func stopAll() {
        stop.stop()
        while let last = stops.popLast() { last() }
    }
}

/// What reads its files anew at SIGHUP.
final class Reloads: Sendable {
    private let all = Mutex<[@Sendable () -> Void]>([])
    func add(_ reload: @escaping @Sendable () -> Void) { all.withLock { $0.append(reload) } }

    /// False where there is nothing to reload.
    func run() -> Bool {
        let reloads = all.withLock { $0 }
        for reload in reloads { reload() }
        return !reloads.isEmpty
    }
}

private final class FailureNote: Sendable {
    private let signal = StopSignal()
    func set() { signal.stop() }
    var isSet: Bool { signal.isStopped }
}
