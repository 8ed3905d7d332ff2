// One connection to a provider: a request out, its answer in, then idle in the pool or closed.

package import HTTPMessages

/// What an upstream's answer is told to. Calls come on the loop's thread; after `upstreamBroke` none follow.
package protocol UpstreamHandler: AnyObject {
    /// The pool's answer to `acquire`.
    func upstreamConnected(_ connection: UpstreamConnection, reused: Bool)
    func upstreamUnavailable(_ failure: Exchange.Failure, reason: String)
    /// A 1xx that goes on to the client; the answer follows.
    func interimAnswer(_ head: ResponseHead, bytes: Span<UInt8>, fields: [HeaderField])
    func answerStarted(_ head: ResponseHead, bytes: Span<UInt8>, fields: [HeaderField])
    func answerBody(_ bytes: UnsafeRawBufferPointer)
    /// `keepsAlive`: the connection can serve another exchange.
    func answerEnded(keepsAlive: Bool)
    /// A read of the socket is worked through: a good moment to flush what it yielded.
    func answerReadEnded()
    func upstreamDrained()
    func upstreamBroke(_ failure: Exchange.Failure, reason: String)
}

package final class UpstreamConnection: ChannelOwner, MessageSink {
    let line: UpstreamPool.Line
    private let channel: Channel
    private let parser = MessageParser(answers: true)
    private weak var pool: UpstreamPool?
    private var handler: (any UpstreamHandler)?
    private var answersHEAD = false
    private var keepsAlive = false
    private var isInterim = false
    private var isAnswering = false
    /// Some byte of the current request has left.
    private var isAsked = false
    private let firstByteMilliseconds: UInt64
    private let betweenReadsMilliseconds: UInt64
    /// On the loop's clock: when it was made, and until when it may be reused once idle.
    var openedAt: UInt64 = 0
    var idleUntil: UInt64 = 0
    /// It holds one of its origin's slots.
    var hasSlot = false
    var onOpen: ((ChannelEnd?) -> Void)?
    /// Closed before it was open, by whoever asked for it.
    var onGone: (() -> Void)?

    init(line: UpstreamPool.Line, channel: Channel, pool: UpstreamPool) {
        self.line = line
        self.channel = channel
        self.pool = pool
        firstByteMilliseconds = pool.limits.firstByteMilliseconds
        betweenReadsMilliseconds = pool.limits.idleMilliseconds
        // A request that goes out slowly is no late answer.
        channel.writeStallMilliseconds = firstByteMilliseconds
        parser.sink = self
    }

    func start() { channel.start(owner: self) }
    func setDeadline(_ deadline: UInt64) { channel.deadline = deadline }

    package var output: OutputBuffer { channel.output }
    package var isClosed: Bool { channel.isClosed }
    package var isAboveHighWatermark: Bool { channel.isAboveHighWatermark }

    /// The time for the first byte runs from the last byte of the request.
    package func flush() {
        if !isAnswering { channel.deadline = channel.loop.now + firstByteMilliseconds }
        let waiting = channel.output.count
        channel.flush()
        if channel.output.count < waiting { isAsked = true }
    }

    /// Nothing has come since the last answer, nor the end. Whatever came is no answer to a request that has yet to go
    /// out, and an end means that it would go nowhere.
    var isQuiet: Bool { channel.isQuiet }

    /// While the client's side is full the provider is not late.
    package func pauseReading() {
        channel.pauseReading()
        channel.deadline = .max
    }

    package func resumeReading() {
        channel.resumeReading()
        guard channel.deadline == .max else { return }
        channel.deadline = channel.loop.now + (isAnswering ? betweenReadsMilliseconds : firstByteMilliseconds)
    }

    func begin(_ handler: any UpstreamHandler) {
        self.handler = handler
        isAnswering = false
        isAsked = false
        channel.deadline = channel.loop.now + firstByteMilliseconds
    }

    /// Before the request's head is written: an answer to HEAD has no body.
    package func expectAnswer(toHEAD: Bool) { answersHEAD = toHEAD }

    /// The exchange is over in good order: back to the pool.
    package func release() {
        handler = nil
        isAnswering = false
        channel.resumeReading()
        if let pool, !channel.isClosed, channel.output.isEmpty { pool.keep(self) } else { close() }
    }

    /// The exchange is over and the connection of no more use.
    package func close() {
        handler = nil
        let gone = onGone
        onOpen = nil
        onGone = nil
        parser.sink = nil
        channel.close()
        pool?.forget(self)
        gone?()
    }

    // MARK: From the channel

    func channelOpened() {
        let opened = onOpen
        onOpen = nil
        onGone = nil
        opened?(nil)
    }

    func channelReceived(_ bytes: UnsafeRawBufferPointer) {
        guard handler != nil else { return close() }  // an idle connection has nothing to say
        // Nor is anything an answer before it is asked: the connection is out of step.
        guard isAsked else { return fail(.brokeOff, "the provider answered before it was asked") }
        channel.deadline = channel.loop.now + (isAnswering ? betweenReadsMilliseconds : firstByteMilliseconds)
        var rest = bytes
        while !rest.isEmpty {
            switch parser.consume(rest) {
            case .needsMore: rest = UnsafeRawBufferPointer(rebasing: rest[rest.count...])
            case .ended(let consumed):
                rest = UnsafeRawBufferPointer(rebasing: rest[consumed...])
                // The connection may serve its next exchange by now: only an interim answer has more to come.
                if !isInterim { return }
            case .refused: return fail(.badAnswer, "the answer is not well-formed HTTP")
            }
            if handler == nil { return }
        }
        handler?.answerReadEnded()
    }

    func channelDrained() { handler?.upstreamDrained() }

    func channelClosed(_ end: ChannelEnd) {
        if let opened = onOpen {
            onOpen = nil
            onGone = nil
            parser.sink = nil
            pool?.forget(self)
            return opened(end)
        }
        if end == .ended, handler != nil, parser.connectionEnded() { return }
        switch end {
        case .ended: fail(.brokeOff, "the provider closed the connection")
        case .failed(let reason): fail(.brokeOff, reason)
        case .timedOut: fail(.timedOut, "the provider did not answer in time")
        }
    }

    func channelLingered() {}

    private func fail(_ failure: Exchange.Failure, _ reason: String) {
        let handler = self.handler
        close()
        handler?.upstreamBroke(failure, reason: reason)
    }

    // MARK: From the parser

    package func headParsed(_ bytes: Span<UInt8>) -> MessageParser.Verdict {
        do throws(Refusal) {
            let head = try ResponseHead(bytes, parser.scanner, toHEAD: answersHEAD)
            isInterim = head.status < 200
            if isInterim {
                // A 100 is asked for by nobody: the client's expectation was met here.
                if head.status != 100 { handler?.interimAnswer(head, bytes: bytes, fields: parser.scanner.fields) }
                return .withoutBody
            }
            keepsAlive = head.keepsAlive
            isAnswering = true
            channel.deadline = channel.loop.now + betweenReadsMilliseconds
            handler?.answerStarted(head, bytes: bytes, fields: parser.scanner.fields)
            return head.hasNoBody ? .withoutBody : head.framing == .chunked ? .chunked : .proceed
        } catch { return .refuse(error) }
    }

    package func bodyParsed(_ bytes: UnsafeRawBufferPointer) { handler?.answerBody(bytes) }

    package func messageEnded(bytesFollow: Bool) {
        if isInterim { return }
        // Bytes beyond the answer belong to no request: such a connection must not serve another.
        handler?.answerEnded(keepsAlive: keepsAlive && !bytesFollow && !channel.isClosed)
    }
}
