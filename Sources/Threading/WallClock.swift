// The machine's clock as the calendar has it: it may be set, and then jumps. Waits and durations go by `ContinuousClock`.

import Glibc

package enum WallClock {
    /// UTC, since 1970.
    package static func microseconds() -> Int64 {
        var instant = timespec()
        clock_gettime(CLOCK_REALTIME, &instant)
        return Int64(instant.tv_sec) * 1_000_000 + Int64(instant.tv_nsec) / 1_000
    }
}
