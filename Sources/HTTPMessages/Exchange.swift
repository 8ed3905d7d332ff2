// The pairing of one client's request with one upstream connection, from head to recorded event.
//
// Two peers live and die on their own: the client may leave before, while or after the upstream answers; the upstream
// may break before or after its first byte. This machine says, for each thing that happened, what becomes of either
// side and whether the exchange has ended. It does no I/O: the connection's owner does what the step says, at once.
//
// Invariants, tested over random histories:
// - An exchange ends exactly once: one step carries the `ending`, and none after it.
// - Once the upstream was released or closed, no step speaks of it again.
// - A request is sent to a second upstream only where no byte of it reached the first.
// - What a connection that served others says before a byte of this request has left is never this request's answer.

package struct Exchange: Sendable {
    /// How it ended: decides the event's outcome.
    package enum Ending: Equatable, Sendable {
        case answered
        case clientLeft
        case failed(Failure)
        /// The answer had begun when the upstream broke off.
        case cutShort(Failure)
    }

    package enum Failure: Equatable, Sendable {
        case unreachable, overloaded, brokeOff, badAnswer, timedOut

        package var status: Int {
            switch self {
            case .unreachable, .brokeOff, .badAnswer: 502
            case .overloaded: 503
            case .timedOut: 504
            }
        }

        package var code: String {
            switch self {
            case .unreachable: "upstream_unreachable"
            case .overloaded: "upstream_overloaded"
            case .brokeOff: "upstream_broke_off"
            case .badAnswer: "upstream_bad_answer"
            case .timedOut: "upstream_timeout"
            }
        }

        /// What the client reads, with no more of the inside than the provider's name.
        package var message: (what: String, hint: String) {
            switch self {
            case .unreachable:
                ("could not be reached", "Nothing was sent: it is safe to try again. The proxy's log has the reason.")
            case .overloaded:
                ("has as many connections from this proxy as are allowed", "Nothing was sent: try again soon.")
            case .brokeOff:
                (
                    "closed the connection before it answered",
                    "Some of the request may have reached it. The proxy's log has the reason."
                )
            case .badAnswer:
                ("sent an answer that is not well-formed HTTP", "The proxy's log has the reason.")
            case .timedOut:
                (
                    "did not answer within the time allowed",
                    "The limits are proxy.upstream.connect_timeout_ms, first_byte_timeout_ms and idle_timeout_ms."
                )
            }
        }
    }

    package enum UpstreamOrder: Equatable, Sendable {
        case none
        /// Ask the pool for a connection.
        case acquire
        /// Withdraw the asking.
        case withdraw
        /// Give it back for reuse.
        case release
        case close
    }

    package enum ClientOrder: Equatable, Sendable {
        case none
        /// Send an answer of the proxy's own.
        case answer(Failure)
        /// The answer is whole: flush, then read the next request.
        case next
        /// The answer is whole: flush, then close.
        case close
        /// The answer cannot be completed: close now, so that the client sees it cut.
        case abort
    }

    package struct Step: Equatable, Sendable {
        package var upstream = UpstreamOrder.none
        package var client = ClientOrder.none
        package var ending: Ending?

        package init(upstream: UpstreamOrder = .none, client: ClientOrder = .none, ending: Ending? = nil) {
            self.upstream = upstream
            self.client = client
            self.ending = ending
        }
    }

    private enum State: Equatable {
        case awaitingConnection
        case awaitingAnswer
        case answering
        case ended
    }

    private var state = State.awaitingConnection
    package private(set) var isRequestWhole: Bool
    /// The client's connection takes another request after this one, as its answer's head has to say.
    package private(set) var clientKeepsAlive: Bool
    private var isReused = false
    private var hasSent = false
    private var hasRetried = false

    /// The request's head was read. First order: `acquire`.
    package init(clientKeepsAlive: Bool, requestIsWhole: Bool) {
        self.clientKeepsAlive = clientKeepsAlive
        isRequestWhole = requestIsWhole
    }

    package var isEnded: Bool { state == .ended }
    package var isAnswering: Bool { state == .answering }
    /// Bytes of the request can go to the upstream.
    package var hasUpstream: Bool { state == .awaitingAnswer || state == .answering }

    package mutating func requestEnded() { isRequestWhole = true }

    /// The pool gave a connection, `reused` from an earlier exchange or new.
    package mutating func connected(reused: Bool) {
        guard state == .awaitingConnection else { return }
        state = .awaitingAnswer
        isReused = reused
        hasSent = false
    }

    /// Some byte of the request has left for the upstream.
    package mutating func sentToUpstream() { hasSent = true }

    /// Before the answer's head is written. One that comes before the request is whole closes the client's connection,
    /// since more of the request may never come, and has to say so (RFC 9112 §9.6).
    package mutating func answerStarted() {
        guard state == .awaitingAnswer, !isUnasked else { return }
        state = .answering
        if !isRequestWhole { clientKeepsAlive = false }
    }

    /// An answer now would be to another's request.
    private var isUnasked: Bool { isReused && !hasSent }

    package mutating func answerEnded(upstreamKeepsAlive: Bool) -> Step {
        switch state {
        case .awaitingAnswer where isUnasked: return upstreamFailed(.brokeOff)
        case .awaitingAnswer, .answering:
            state = .ended
            // An answer that ends before the request is whole leaves both connections in mid-request.
            return Step(
                upstream: upstreamKeepsAlive && isRequestWhole ? .release : .close,
                client: clientKeepsAlive && isRequestWhole ? .next : .close, ending: .answered)
        case .awaitingConnection, .ended:
            return Step()
        }
    }

    package mutating func connectionFailed(_ failure: Failure) -> Step {
        guard state == .awaitingConnection else { return Step() }
        state = .ended
        return Step(client: .answer(failure), ending: .failed(failure))
    }

    package mutating func upstreamFailed(_ failure: Failure) -> Step {
        switch state {
        case .awaitingAnswer:
            if isUnasked && !hasRetried && failure == .brokeOff {
                hasRetried = true
                state = .awaitingConnection
                return Step(upstream: .acquire)
            }
            state = .ended
            return Step(upstream: .close, client: .answer(failure), ending: .failed(failure))
        case .answering:
            state = .ended
            return Step(upstream: .close, client: .abort, ending: .cutShort(failure))
        case .awaitingConnection:
            return failure == .timedOut ? withdrawn(failure) : Step()
        case .ended:
            return Step()
        }
    }

    private mutating func withdrawn(_ failure: Failure) -> Step {
        state = .ended
        return Step(upstream: .withdraw, client: .answer(failure), ending: .failed(failure))
    }

    package mutating func clientLeft() -> Step {
        switch state {
        case .awaitingConnection:
            state = .ended
            return Step(upstream: .withdraw, ending: .clientLeft)
        case .awaitingAnswer, .answering:
            state = .ended
            return Step(upstream: .close, ending: .clientLeft)
        case .ended:
            return Step()
        }
    }
}
