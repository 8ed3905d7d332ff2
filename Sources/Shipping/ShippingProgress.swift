// How far one lane is shipped: records read, records sent, delivery reports → checkpoint. Pure.
//
// Each record between the checkpoint and the end of what was read is in one state. Reports come in any order; the
// checkpoint passes a record only when it and all before it are settled. What failed, or was in flight when its
// producer died, waits again: sending a record twice is safe, forgetting one is not.

package struct ShippingProgress: Sendable {
    package enum State: UInt8, Sendable {
        /// Read, and to be handed to a producer.
        case waitingToSend
        /// To be sent once all before it is settled.
        case waitingForAllBefore
        case waitingForReport
        case settled
    }

    /// Everything below is in the log (or kept aside, where the log refused it).
    package private(set) var checkpoint: Int64
    /// Of the records from `checkpoint` on; those before `head` are spent.
    private var states: [State] = []
    private var head = 0
    /// No record below it waits to be sent.
    private var sendFrom: Int64
    /// The records that wait for all before them, ascending.
    private var deferred: [Int64] = []
    package private(set) var unsettled = 0
    package private(set) var inFlight = 0

    package init(checkpoint: Int64) {
        self.checkpoint = checkpoint
        sendFrom = checkpoint
    }

    /// Sequence after the last record read.
    package var end: Int64 { checkpoint + Int64(states.count - head) }

    package func state(of sequence: Int64) -> State? {
        sequence >= checkpoint && sequence < end ? states[head + Int(sequence - checkpoint)] : nil
    }

    /// The next records of the lane. Where they start beyond `end`, those between are gone and count as settled.
    package mutating func recordsRead(_ range: Range<Int64>) {
        guard range.upperBound > end else { return }
        let first = max(range.lowerBound, end)
        skipped(to: first)
        states.append(contentsOf: repeatElement(.waitingToSend, count: Int(range.upperBound - first)))
        unsettled += Int(range.upperBound - first)
    }

    /// Nothing will come below `sequence` that was not read yet.
    package mutating func skipped(to sequence: Int64) {
        guard sequence > end else { return }
        if unsettled == 0 {
            // The usual case, and the only one where the stretch may be long.
            checkpoint = sequence
            sendFrom = max(sendFrom, sequence)
            states.removeAll(keepingCapacity: true)
            head = 0
        } else {
            states.append(contentsOf: repeatElement(.settled, count: Int(sequence - end)))
        }
    }

    /// The first record that waits to be sent.
    package mutating func nextToSend() -> Int64? {
        if let first = deferred.first, first == checkpoint { return first }
        while let state = state(of: sendFrom) {
            if state == .waitingToSend { return sendFrom }
            sendFrom += 1
        }
        return nil
    }

    /// It must not be in the log before anything that came before it: `nextToSend` passes it over until then.
    package mutating func recordDeferred(_ sequence: Int64) {
        guard state(of: sequence) == .waitingToSend, sequence > checkpoint else { return }
        set(sequence, .waitingForAllBefore)
        let place = deferred.firstIndex { $0 > sequence } ?? deferred.count
        deferred.insert(sequence, at: place)
    }

    package mutating func recordSent(_ sequence: Int64) {
        switch state(of: sequence) {
        case .waitingToSend: break
        case .waitingForAllBefore where sequence == checkpoint: deferred.removeFirst()
        case .waitingForAllBefore, .waitingForReport, .settled, nil: return
        }
        set(sequence, .waitingForReport)
        inFlight += 1
    }

    /// In the log, or kept aside for good. True where the checkpoint moved.
    @discardableResult package mutating func recordSettled(_ sequence: Int64) -> Bool {
        guard let state = state(of: sequence), state != .settled else { return false }
        if state == .waitingForReport { inFlight -= 1 }
        if state == .waitingForAllBefore { deferred.removeAll { $0 == sequence } }
        set(sequence, .settled)
        unsettled -= 1
        guard sequence == checkpoint else { return false }
        while head < states.count, states[head] == .settled {
            head += 1
            checkpoint += 1
        }
        sendFrom = max(sendFrom, checkpoint)
        if head == states.count || head > 65_536 {
            states.removeFirst(head)
            head = 0
        }
        return true
    }

    /// Not known to be in the log. True where it now waits to be sent again.
    @discardableResult package mutating func recordFailed(_ sequence: Int64) -> Bool {
        guard state(of: sequence) == .waitingForReport else { return false }
        set(sequence, .waitingToSend)
        inFlight -= 1
        sendFrom = min(sendFrom, sequence)
        return true
    }

    /// Its reports will never come: all that was in flight waits again. Returns how many that are.
    @discardableResult package mutating func producerLost() -> Int {
        let lost = inFlight
        if lost > 0 {
            for index in head..<states.count where states[index] == .waitingForReport { states[index] = .waitingToSend }
            sendFrom = checkpoint
            inFlight = 0
        }
        return lost
    }

    private mutating func set(_ sequence: Int64, _ state: State) { states[head + Int(sequence - checkpoint)] = state }
}

/// How long to wait before the next attempt: doubling, up to a ceiling, with jitter so that proxies do not meet.
package struct Backoff: Sendable {
    private let first: Int
    private let ceiling: Int
    private var attempts = 0

    package init(firstMilliseconds: Int = 100, ceilingMilliseconds: Int = 5_000) {
        first = firstMilliseconds
        ceiling = ceilingMilliseconds
    }

    package mutating func succeeded() { attempts = 0 }

    /// `jitter` in 0 ..< 1; answers between half of the step and the step.
    package mutating func failed(jitter: Double) -> Int {
        let step = min(ceiling, first << min(attempts, 16))
        attempts += 1
        return step / 2 + Int(Double(step - step / 2) * jitter)
    }
}
