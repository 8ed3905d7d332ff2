// A bounded queue between two threads: the only place where the stages of a service meet.

import Glibc

/// First in, first out, at most `capacity` elements. Full: `push` waits. Closed: `push` answers false, `pop` drains
/// what is left and then answers nil.
///
/// @unchecked: every access to `elements` and `isClosed` happens with `lock` held, in this file.
package final class BoundedQueue<Element: Sendable>: @unchecked Sendable {
    private let capacity: Int
    private var elements: [Element] = []
    private var isClosed = false
    private let lock = ConditionLock()

    package init(capacity: Int) {
        self.capacity = capacity
        elements.reserveCapacity(capacity)
    }

    /// Waits for room. False once the queue is closed: the element was not taken.
    package func push(_ element: Element) -> Bool {
        lock.withLock {
            while elements.count >= capacity && !isClosed { lock.wait() }
            if isClosed { return false }
            elements.append(element)
            lock.wakeAll()
            return true
        }
    }

    package enum Push: Sendable { case taken, full, closed }

    /// Waits for room, up to the timeout.
    package func push(_ element: Element, timeoutMilliseconds: Int) -> Push {
        let deadline = ContinuousClock.now.advanced(by: .milliseconds(timeoutMilliseconds))
        return lock.withLock {
            while elements.count >= capacity && !isClosed {
                let left = ContinuousClock.now.duration(to: deadline)
                if left <= .zero { return .full }
                lock.wait(upTo: left)
            }
            if isClosed { return .closed }
            elements.append(element)
            lock.wakeAll()
            return .taken
        }
    }

    /// False where the queue is full or closed.
    package func tryPush(_ element: Element) -> Bool {
        lock.withLock {
            if isClosed || elements.count >= capacity { return false }
            elements.append(element)
            lock.wakeAll()
            return true
        }
    }

    /// Waits for an element, up to the timeout where one is given; nil when it passed, or closed and empty.
    package func pop(timeoutMilliseconds: Int? = nil) -> Element? {
        lock.withLock {
            let deadline = timeoutMilliseconds.map { ContinuousClock.now.advanced(by: .milliseconds($0)) }
            while elements.isEmpty && !isClosed {
                if let deadline {
                    let left = ContinuousClock.now.duration(to: deadline)
                    if left <= .zero { return nil }
                    lock.wait(upTo: left)
                } else {
                    lock.wait()
                }
            }
            if elements.isEmpty { return nil }
            lock.wakeAll()
            return elements.removeFirst()
        }
    }

    package func close() {
        lock.withLock {
            isClosed = true
            lock.wakeAll()
        }
    }

    package var count: Int { lock.withLock { elements.count } }

    /// Closed, and nothing left to pop.
    package var isFinished: Bool { lock.withLock { isClosed && elements.isEmpty } }
}
