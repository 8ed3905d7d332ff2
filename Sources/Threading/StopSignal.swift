// Says "stop" once to any number of threads that wait or look.

package final class StopSignal: @unchecked Sendable {
    // @unchecked: `stopped` is read and written with `lock` held, in this file.
    private var stopped = false
    private let lock = ConditionLock()

    package init() {}

    package func stop() {
        lock.withLock {
            stopped = true
            lock.wakeAll()
        }
    }

    package var isStopped: Bool { lock.withLock { stopped } }

    /// Waits until stopped or the time has passed; true when stopped.
    package func wait(milliseconds: Int) -> Bool {
        let deadline = ContinuousClock.now.advanced(by: .milliseconds(milliseconds))
        return lock.withLock {
            while !stopped {
                let left = ContinuousClock.now.duration(to: deadline)
                if left <= .zero { return false }
                lock.wait(upTo: left)
            }
            return true
        }
    }

    package func wait() {
        lock.withLock { while !stopped { lock.wait() } }
    }
}
