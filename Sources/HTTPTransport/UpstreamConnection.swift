// One connection to a provider: a request out, its answer in, then idle in the pool or closed.

package import HTTPMessages

/// What an upstream's answer is told to. Calls come on the loop's thread; after `upstreamBroke` none follow.
package protocol UpstreamHandler: AnyObject {
    /// The pool's answer to `acquire`.
    func upstreamConnected(_ connection: UpstreamConnection, reused: Bool)
    func upstreamUnavailable(_ failure: Exchange.Failure, reason: String)
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
    /// Milliseconds for an answer's first byte, and between two reads of it.
    package static let answerMilliseconds: UInt64 = 600_000

    let origin: UpstreamOrigin
    private let channel: Channel
    private let parser = MessageParser(answers: true)
    private weak var pool: UpstreamPool?
    private var handler: (any UpstreamHandler)?
    private var answersHEAD = false
    private var keepsAlive = false
    private var isInterim = false
    /// On the loop's clock, while idle in the pool.
    var idleSince: UInt64 = 0
    var onOpen: ((ChannelEnd?) -> Void)?

    init(origin: UpstreamOrigin, channel: Channel, pool: UpstreamPool) {
        self.origin = origin
        self.channel = channel
        self.pool = pool
        parser.sink = self
    }

    func start() { channel.start(owner: self) }
    func setDeadline(_ deadline: UInt64) { channel.deadline = deadline }

    package var output: OutputBuffer { channel.output }
    package var isClosed: Bool { channel.isClosed }
    package var isAboveHighWatermark: Bool { channel.isAboveHighWatermark }
    package func flush() { channel.flush() }
    package func pauseReading() { channel.pauseReading() }
    package func resumeReading() { channel.resumeReading() }

    func begin(_ handler: any UpstreamHandler) {
        self.handler = handler
        channel.deadline = channel.loop.now + Self.answerMilliseconds
    }

    /// Before the request's head is written: an answer to HEAD has no body.
    package func expectAnswer(toHEAD: Bool) { answersHEAD = toHEAD }

    /// The exchange is over in good order: back to the pool.
    package func release() {
        handler = nil
        channel.resumeReading()
        if let pool, !channel.isClosed, channel.output.isEmpty { pool.keep(self) } else { close() }
    }

    /// The exchange is over and the connection of no more use.
    package func close() {
        handler = nil
        onOpen = nil
        parser.sink = nil
        channel.close()
        pool?.forget(self)
    }

    // MARK: From the channel

    func channelOpened() {
        let opened = onOpen
        onOpen = nil
        opened?(nil)
    }

    func channelReceived(_ bytes: UnsafeRawBufferPointer) {
        guard handler != nil else { return close() }  // an idle connection has nothing to say
        channel.deadline = channel.loop.now + Self.answerMilliseconds
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

    private func fail(_ failure: Exchange.Failure, _ reason: String) {
        let handler = self.handler
        close()
        handler?.upstreamBroke(failure, reason: reason)
    }

    // MARK: From the parser

    func headParsed(_ bytes: Span<UInt8>) -> MessageParser.Verdict {
        do throws(Refusal) {
            let head = try ResponseHead(bytes, parser.scanner, toHEAD: answersHEAD)
            isInterim = head.status < 200
            if isInterim { return .proceed }
            keepsAlive = head.keepsAlive
            handler?.answerStarted(head, bytes: bytes, fields: parser.scanner.fields)
            return answersHEAD ? .withoutBody : .proceed
        } catch { return .refuse(error) }
    }

    func bodyParsed(_ bytes: UnsafeRawBufferPointer) { handler?.answerBody(bytes) }

    func messageEnded(bytesFollow: Bool) {
        if isInterim { return }
        // Bytes beyond the answer belong to no request: such a connection must not serve another.
        handler?.answerEnded(keepsAlive: keepsAlive && !bytesFollow && !channel.isClosed)
    }
}
