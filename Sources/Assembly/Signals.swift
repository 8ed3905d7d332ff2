// SIGTERM, SIGINT, SIGHUP → one stop, on a thread of its own that waits for them; SIGHUP reloads where something can.

import Glibc
import Telemetry
import Threading

enum Signals {
    /// How long a stop may take before the process ends anyway; an orchestrator kills after 30.
    private static let stopLimitSeconds = 18

    /// Call before the first thread is started.
    static func block() {
        var stops = stopSignals()
        pthread_sigmask(SIG_BLOCK, &stops, nil)
        // A peer that has gone shows as EPIPE where it was written to.
        signal(SIGPIPE, SIG_IGN)
    }

    private static func stopSignals() -> sigset_t {
        var set = sigset_t()
        sigemptyset(&set)
        for number in [SIGTERM, SIGINT, SIGHUP] { sigaddset(&set, number) }
        return set
    }

    /// For commands without services: waits that long at most; true when one of the signals came.
    static func wait(milliseconds: Int) -> Bool {
        var set = stopSignals()
        var info = siginfo_t()
        var limit = timespec(tv_sec: milliseconds / 1000, tv_nsec: milliseconds % 1000 * 1_000_000)
        return sigtimedwait(&set, &info, &limit) > 0
    }

    /// For commands that ask once: a signal ends them as it does any other program.
    static func unblock() {
        var stops = stopSignals()
        pthread_sigmask(SIG_UNBLOCK, &stops, nil)
    }

    /// The thread is never joined: it ends with the process.
    static func watch(_ stop: StopSignal, _ reloads: Reloads, _ log: Log) {
        _ = ServiceThread("signals") {
            var set = stopSignals()
            var number: Int32 = 0
            repeat { while sigwait(&set, &number) != 0 {} } while number == SIGHUP && reloads.run()
            log(.stopping(signal: number == SIGINT ? "SIGINT" : number == SIGHUP ? "SIGHUP" : "SIGTERM"))
            stop.stop()
            var limit = timespec(tv_sec: stopLimitSeconds, tv_nsec: 0)
            var info = siginfo_t()
            while sigtimedwait(&set, &info, &limit) == -1 {
                if errno == EINTR { continue }
                log(.stopOverdue(seconds: stopLimitSeconds))
                break
            }
            _exit(1)
        }
    }
}
