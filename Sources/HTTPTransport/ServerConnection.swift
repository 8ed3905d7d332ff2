// One client's connection: requests in, one at a time, answers out.

import CLibevent
import Glibc
package import HTTPMessages

/// What serves the requests of one connection, one after the other. Calls come on the loop's thread.
package protocol ServerHandler: AnyObject {
    /// `bytes` hold the head and are valid during the call; `fields` are its lines.
    func requestStarted(_ head: RequestHead, bytes: Span<UInt8>, fields: [HeaderField])
    /// What was just started needs its body: false where the answer is a refusal, whatever the body says.
    var wantsBody: Bool { get }
    func requestBody(_ bytes: UnsafeRawBufferPointer)
    func requestEnded()
    /// A read of the socket is worked through in mid-request: a good moment to flush what it yielded.
    func requestReadEnded()
    /// What was written has gone out far enough to write more.
    func clientDrained()
    /// The client is gone, in mid-request or mid-answer. No call follows for this exchange.
    func clientLeft(timedOut: Bool)
    /// A request was refused before or in mid-exchange; the connection answers and closes by itself.
    func requestRefused(_ refusal: Refusal)
}

/// What a listener makes of each accepted connection.
package typealias ServerHandlerFactory = (ServerConnection) -> any ServerHandler

package final class ServerConnection: ChannelOwner, MessageSink {
    /// What a client may send ahead of the answer before its socket is no longer read.
    static let stashLimit = 65_536

    /// Bytes waiting for a peer above which its source is paused.
    package static let outputHighWatermark = Channel.highWatermark

    private enum Phase { case idle, receiving, answering }

    package let loop: EventLoop
    private let channel: Channel
    private let group: ServerConnections
    private let parser = MessageParser(answers: false)
    private var handler: (any ServerHandler)?
    private var phase = Phase.idle
    /// Bytes that came before their turn: pipelined requests.
    private var stash: [UInt8] = []
    private var isProcessing = false
    private var closesAfterAnswer = false
    /// When the first byte of the current request came, in microseconds on the monotonic clock.
    package private(set) var requestStart: UInt64 = 0

    init(channel: Channel, group: ServerConnections, makeHandler: ServerHandlerFactory) {
        self.channel = channel
        self.group = group
        loop = channel.loop
        channel.writeStallMilliseconds = group.limits.stallMilliseconds
        parser.sink = self
        handler = makeHandler(self)
        channel.deadline = loop.now + group.limits.idleMilliseconds
        group.add(self)
        channel.start(owner: self)
    }

    package static func microseconds() -> UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) * 1_000_000 + UInt64(time.tv_nsec) / 1000
    }

    // MARK: For the handler

    package var output: OutputBuffer { channel.output }
    package var isClosed: Bool { channel.isClosed }
    package var isAboveHighWatermark: Bool { channel.isAboveHighWatermark }

    package func flush() {
        channel.flush()
        setDeadline()
    }

    /// The listener takes no more: this answer says that the connection closes, or closes it unsaid.
    package var isDraining: Bool { group.isDraining }

    /// In mid-exchange the client owes bytes, or has to take some, or waits for the answer: then time is the
    /// provider's.
    private func setDeadline() {
        if channel.isClosed || phase == .idle || closesAfterAnswer { return }
        let isOurs = phase == .answering && channel.output.isEmpty
        channel.deadline = isOurs ? .max : loop.now + group.limits.stallMilliseconds
    }

    /// No byte leaves until each `hold` has its `release`: for a group commit. An answer that is released waits for those
    /// behind it that are held too, since all are one stream; one commit covers whatever stands before it.
    package func hold() { channel.hold() }

    package func release() {
        guard channel.letGo(), !channel.isClosed else { return }
        if closesAfterAnswer { return channel.closeWhenFlushed() }
        channel.flush()
        // The next answer may have stopped at the high watermark meanwhile.
        if !channel.isClosed, channel.output.isEmpty { channelDrained() }
    }

    /// The provider takes no more: the client is not the one that stalls.
    package func pauseReading() {
        channel.pauseReading()
        if phase == .receiving { channel.deadline = .max }
    }

    package func resumeReading() {
        channel.resumeReading()
        if phase == .receiving { setDeadline() }
    }

    func abandon() { channel.abandon() }

    /// Closes it where it is between requests; else its answer's end does.
    func drain() {
        guard phase == .idle, !parser.isInMessage, stash.isEmpty else { return }
        channel.closeWhenFlushed()
        if channel.isClosed { leave() }
    }

    /// The answer is whole in `output`. The next request follows where the connection is kept.
    package func answerEnded(keepsAlive: Bool) {
        guard !channel.isClosed else { return }
        guard keepsAlive, !group.isDraining else {
            closesAfterAnswer = true
            phase = .answering
            channel.deadline = loop.now + group.limits.stallMilliseconds
            return channel.closeWhenFlushed()
        }
        channel.flush()
        guard !channel.isClosed else { return }
        phase = .idle
        channel.deadline = loop.now + group.limits.idleMilliseconds
        channel.resumeReading()
        drainStash()
    }

    /// Cuts the connection, so that the client sees the answer incomplete.
    package func abort() {
        channel.close()
        leave()
    }

    // MARK: From the channel

    func channelOpened() {}

    func channelReceived(_ bytes: UnsafeRawBufferPointer) {
        if phase == .answering || isProcessing || !stash.isEmpty {
            stash.append(contentsOf: bytes)
            if stash.count > Self.stashLimit { channel.pauseReading() }
            return
        }
        process(bytes)
        drainStash()
    }

    private func drainStash() {
        while phase == .idle, !stash.isEmpty, !isProcessing, !channel.isClosed {
            let bytes = stash
            stash.removeAll(keepingCapacity: true)
            bytes.withUnsafeBytes { process($0) }
        }
    }

    private func process(_ bytes: UnsafeRawBufferPointer) {
        isProcessing = true
        defer { isProcessing = false }
        if phase == .idle && !parser.isInMessage { requestStart = Self.microseconds() }
        switch parser.consume(bytes) {
        case .needsMore:
            if phase == .receiving {
                channel.deadline = loop.now + group.limits.stallMilliseconds
                handler?.requestReadEnded()
            }
        case .ended(let consumed):
            if consumed < bytes.count { stash.insert(contentsOf: bytes[consumed...], at: 0) }
        case .refused(let refusal): refuse(refusal)
        }
    }

    private func refuse(_ refusal: Refusal) {
        guard !channel.isClosed else { return }
        let handler = self.handler
        handler?.requestRefused(refusal)
        let (status, section, message) = refusal.answer
        let body =
            "{\"error\":{\"code\":\"\(refusal.code)\",\"message\":\"\(message)\",\"hint\":\"see \(section)\"}}"
        output.append("HTTP/1.1 \(status) \(HTTPReason.phrase(status))\r\ncontent-type: application/json\r\n")
        output.append("content-length: \(body.utf8.count)\r\nconnection: close\r\n\r\n\(body)")
        answerEnded(keepsAlive: false)
    }

    func channelDrained() {
        handler?.clientDrained()
        setDeadline()
    }

    func channelClosed(_ end: ChannelEnd) {
        let handler = self.handler
        leave()
        if phase != .idle { handler?.clientLeft(timedOut: end == .timedOut) }
    }

    func channelLingered() { leave() }

    private func leave() {
        handler = nil
        parser.sink = nil
        group.remove(self)
    }

    // MARK: From the parser

    package func headParsed(_ bytes: Span<UInt8>) -> MessageParser.Verdict {
        let head: RequestHead
        do throws(Refusal) { head = try RequestHead(bytes, parser.scanner) } catch { return .refuse(error) }
        phase = .receiving
        channel.deadline = loop.now + group.limits.stallMilliseconds
        handler?.requestStarted(head, bytes: bytes, fields: parser.scanner.fields)
        // Not behind a final answer, and not to a client that will be refused: it need not send its body first.
        if head.expectsContinue, head.framing != .none, !closesAfterAnswer, handler?.wantsBody == true {
            output.append("HTTP/1.1 100 Continue\r\n\r\n")
            channel.flush()
        }
        return head.framing == .chunked ? .chunked : .proceed
    }

    package func bodyParsed(_ bytes: UnsafeRawBufferPointer) { handler?.requestBody(bytes) }

    package func messageEnded(bytesFollow: Bool) {
        phase = .answering
        setDeadline()
        handler?.requestEnded()
    }
}

/// Reason phrases of the statuses that this program makes itself.
package enum HTTPReason {
    package static func phrase(_ status: Int) -> String {
        switch status {
        case 200: "OK"
        case 202: "Accepted"
        case 204: "No Content"
        case 304: "Not Modified"
        case 400: "Bad Request"
        case 401: "Unauthorized"
        case 403: "Forbidden"
        case 404: "Not Found"
        case 405: "Method Not Allowed"
        case 409: "Conflict"
        case 413: "Content Too Large"
        case 414: "URI Too Long"
        case 415: "Unsupported Media Type"
        case 422: "Unprocessable Content"
        case 429: "Too Many Requests"
        case 431: "Request Header Fields Too Large"
        case 500: "Internal Server Error"
        case 501: "Not Implemented"
        case 502: "Bad Gateway"
        case 503: "Service Unavailable"
        case 504: "Gateway Timeout"
        default: "Status"
        }
    }
}
