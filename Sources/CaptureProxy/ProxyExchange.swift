// One client connection's exchanges, one after the other: request in, to the provider, answer out, event recorded.
//
// `Exchange` (HTTPMessages) decides what becomes of either side; this file does it. The event is in the journal before
// the answer's last byte is given to the socket.

import Events
import Glibc
import HTTPMessages
import HTTPTransport
import JSONText
import Telemetry

final class ProxyExchange: ServerHandler, UpstreamHandler {
    private enum Stage {
        case idle
        case exchanging
        /// The answer is ours and waits for the request's end; the body is thrown away.
        case rejecting(RoutingRefusal)
    }

    // The connection owns this handler and outlives each of its calls; after `clientLeft` it is not touched.
    private unowned let connection: ServerConnection
    private let worker: ProxyWorker

    private var stage = Stage.idle
    private var exchange = Exchange(clientKeepsAlive: false, requestIsWhole: true)
    private var upstream: UpstreamConnection?
    private var acquisition: UpstreamPool.Acquisition?
    private var provider: Provider?
    /// The request as it goes to the provider, until some of it has gone.
    private let unsent = OutputBuffer(capacity: 2_048)
    private var hasSent = false

    // The request.
    private var clientKeepsAlive = false
    private var clientIsVersion11 = true
    private var isHEAD = false
    private var isRequestChunked = false
    private var readsRequestBody = false
    private var requestBody: RequestBodyReader
    private var metadata: MetadataReader
    private var identity = ProxyIdentity(workspace: "", apiKey: "")
    private var operation = ""
    private var traceID = ""
    private var spanID = ""
    private var parentSpanID = ""
    private var requestBytes: UInt64 = 0

    // The answer.
    private var answerBody = AnswerBodyReader()
    private var isAnswerChunked = false
    private var status: UInt16 = 0
    private var responseBytes: UInt64 = 0
    private var isEventStream = false
    private var forwardedAt: UInt64 = 0
    private var firstByteAt: UInt64 = 0
    private var upstreamEndedAt: UInt64 = 0
    private var isCompressedAnswer = false

    init(connection: ServerConnection, worker: ProxyWorker) {
        self.connection = connection
        self.worker = worker
        requestBody = RequestBodyReader(metadataLimit: worker.options.metadataMaxSize)
        metadata = MetadataReader(maxSize: worker.options.metadataMaxSize)
    }

    private func reset() {
        upstream = nil
        acquisition = nil
        unsent.clear()
        hasSent = false
        readsRequestBody = false
        requestBody.reset()
        metadata.reset()
        traceID = ""
        spanID = ""
        parentSpanID = ""
        requestBytes = 0
        isAnswerChunked = false
        status = 0
        responseBytes = 0
        isEventStream = false
        forwardedAt = 0
        firstByteAt = 0
        upstreamEndedAt = 0
        isCompressedAnswer = false
        answerBody.reset(.unread)
    }

    // MARK: The request

    func requestStarted(_ head: RequestHead, bytes: Span<UInt8>, fields: [HeaderField]) {
        reset()
        clientIsVersion11 = head.isVersion11
        // A version 1.0 client gets its answer delimited by the connection's end where no length is known.
        clientKeepsAlive = head.keepsAlive && head.isVersion11
        isHEAD = head.isHEAD
        isRequestChunked = head.framing == .chunked
        do throws(RoutingRefusal) {
            try start(head, bytes, fields)
        } catch {
            stage = .rejecting(error)
        }
    }

    private func start(_ head: RequestHead, _ bytes: Span<UInt8>, _ fields: [HeaderField]) throws(RoutingRefusal) {
        let rest = try Routing.rest(of: head.path, in: bytes)
        var key = 0..<0
        var mode: String?
        var name: String?
        var isJSON = false
        func text(_ field: HeaderField) -> String {
            bytes.extracting(field.valueRange).withUnsafeBytes { String(decoding: $0, as: UTF8.self) }
        }
        for field in fields {
            switch field.name {
            case .portkeyAPIKey: key = field.valueRange
            case .portkeyMode: mode = text(field)
            case .portkeyProvider: name = text(field)
            case .portkeyMetadata:
                bytes.extracting(field.valueRange).withUnsafeBytes { metadata.add(.metadataHeader, $0) }
            case .portkeyMeta:
                bytes.extracting(field.valueRange).withUnsafeBytes { metadata.add(.metaHeader, $0) }
            case .portkeyTraceID: traceID = text(field)
            case .portkeySpanID: spanID = text(field)
            case .portkeyParentSpanID: parentSpanID = text(field)
            case .traceparent:
                // 00-<32 trace>-<16 span>-<flags> (W3C Trace Context §3.2); an explicit Portkey id wins.
                let parts = text(field).split(separator: "-")
                if parts.count >= 4, parts[1].utf8.count == 32, parts[2].utf8.count == 16 {
                    if traceID.isEmpty { traceID = String(parts[1]) }
                    if parentSpanID.isEmpty { parentSpanID = String(parts[2]) }
                }
            case .contentType: isJSON = contains(bytes, field.valueRange, "json")
            default: break
            }
        }
        let identity = try worker.access.identify(bytes, key)
        let provider = try worker.routing.provider(mode: mode, provider: name)
        if worker.options.strictMetadata {
            var check = metadata
            let captured = check.finish()
            if captured.status > .truncated {
                throw RoutingRefusal(
                    status: 400, code: "metadata_\(captured.status.name)",
                    message: "The metadata is \(captured.status.name).",
                    hint: "Send one JSON object, such as x-portkey-metadata: {\"team\":\"search\"}.")
            }
        }
        self.identity = identity
        self.provider = provider
        operation = Routing.operation(of: rest, in: bytes)
        readsRequestBody = isJSON && head.framing != .none
        if traceID.isEmpty { traceID = worker.makeTraceID() }

        writeRequestHead(head, rest, bytes, fields, provider)
        stage = .exchanging
        worker.underWay.add(1)
        exchange = Exchange(clientKeepsAlive: clientKeepsAlive, requestIsWhole: head.framing == .none)
        acquire()
    }

    private func contains(_ bytes: Span<UInt8>, _ range: Range<Int>, _ word: StaticString) -> Bool {
        let count = word.utf8CodeUnitCount
        guard range.count >= count else { return false }
        for start in range.lowerBound...(range.upperBound - count)
        where bytes.equalsIgnoringCase(start..<start + count, word) { return true }
        return false
    }

    private func writeRequestHead(
        _ head: RequestHead, _ rest: Range<Int>, _ bytes: Span<UInt8>, _ fields: [HeaderField], _ provider: Provider
    ) {
        unsent.append(bytes, head.method)
        unsent.append(" ")
        unsent.append(provider.basePath)
        // Anthropic's clients bring the version in their path although the base has it.
        var path = rest
        if provider.basePath.hasSuffix("/v1"), rest.count >= 4,
            bytes.equalsIgnoringCase(rest.lowerBound..<rest.lowerBound + 4, "/v1/")
        {
            path = rest.lowerBound + 3..<rest.upperBound
        }
        unsent.append(bytes, path.lowerBound..<head.target.upperBound)
        unsent.append(" HTTP/1.1\r\nhost: ")
        unsent.append(provider.origin.authority)
        unsent.append("\r\n")
        for field in fields
        where forwards(field, bytes, head.connectionOptions) && field.name != .host && field.name != .expect {
            append(field, bytes, to: unsent)
        }
        if isRequestChunked { unsent.append("transfer-encoding: chunked\r\n") }
        unsent.append("\r\n")
    }

    private func forwards(_ field: HeaderField, _ bytes: Span<UInt8>, _ options: [Range<Int>]) -> Bool {
        if field.name.isHopByHop || field.name.isPortkey { return false }
        // Lines that `connection` names belong to the connection too (RFC 9110 §7.6.1).
        return options.isEmpty
            || !options.contains { option in
                option.count == field.nameRange.count
                    && (0..<option.count).allSatisfy { offset in
                        let a = bytes[option.lowerBound + offset]
                        let b = bytes[field.nameRange.lowerBound + offset]
                        return a == b || (a ^ b == 0x20 && (a | 0x20) &- 0x61 < 26)
                    }
            }
    }

    private func append(_ field: HeaderField, _ bytes: Span<UInt8>, to out: OutputBuffer) {
        out.append(bytes, field.nameRange)
        out.append(": ")
        out.append(bytes, field.valueRange)
        out.append("\r\n")
    }

    func requestBody(_ bytes: UnsafeRawBufferPointer) {
        guard case .exchanging = stage else { return }
        requestBytes += UInt64(bytes.count)
        if readsRequestBody { requestBody.feed(bytes) }
        guard !exchange.isEnded, let out = requestOutput else { return }
        if isRequestChunked {
            out.append(hexadecimal: UInt64(bytes.count))
            out.append("\r\n")
            out.append(bytes)
            out.append("\r\n")
        } else {
            out.append(bytes)
        }
        if out.count > ServerConnection.outputHighWatermark { connection.pauseReading() }
    }

    /// Where the next bytes of the request go.
    private var requestOutput: OutputBuffer? { hasSent ? upstream?.output : unsent }

    func requestReadEnded() {
        if case .exchanging = stage { flushToUpstream() }
    }

    func requestEnded() {
        switch stage {
        case .idle: break
        case .rejecting(let refusal):
            stage = .idle
            answerRejected(refusal)
        case .exchanging:
            guard !exchange.isEnded else { return }
            exchange.requestEnded()
            if isRequestChunked { requestOutput?.append("0\r\n\r\n") }
            flushToUpstream()
        }
    }

    private func answerRejected(_ refusal: RoutingRefusal) {
        if refusal.isAboutAccess { worker.metrics.unauthorized.add() } else { worker.metrics.rejected.add() }
        writeOwnAnswer(status: refusal.status, code: refusal.code, message: refusal.message, hint: refusal.hint)
        connection.answerEnded(keepsAlive: clientKeepsAlive)
    }

    private func writeOwnAnswer(status: Int, code: String, message: String, hint: String) {
        let error: JSONValue = ["code": .string(code), "message": .string(message), "hint": .string(hint)]
        let body = (["error": error] as JSONValue).text
        let out = connection.output
        out.append("HTTP/1.1 \(status) \(HTTPReason.phrase(status))\r\ncontent-type: application/json\r\n")
        out.append("content-length: \(body.utf8.count)\r\n")
        if status == 401 { out.append("www-authenticate: Bearer\r\n") }
        if !traceID.isEmpty { out.append("x-portkey-trace-id: \(traceID)\r\n") }
        if !clientKeepsAlive { out.append("connection: close\r\n") }
        out.append("\r\n")
        if !isHEAD { out.append(body) }
    }

    // MARK: The upstream

    private func acquire() {
        guard let provider else { return }
        hasSent = false
        acquisition = worker.pool.acquire(provider.origin, for: self)
    }

    func upstreamConnected(_ connection: UpstreamConnection, reused: Bool) {
        acquisition = nil
        upstream = connection
        connection.expectAnswer(toHEAD: isHEAD)
        exchange.connected(reused: reused)
        if !reused {
            flushToUpstream()
            self.connection.resumeReading()
        }
    }

    func upstreamUnavailable(_ failure: Exchange.Failure, reason: String) {
        acquisition = nil
        log(failure, reason)
        apply(exchange.connectionFailed(failure))
    }

    private func flushToUpstream() {
        guard let upstream, exchange.hasUpstream else { return }
        if !hasSent {
            guard !unsent.isEmpty else { return }
            if upstream.output.isEmpty { upstream.output.append(copying: unsent) }
            let waiting = upstream.output.count
            if forwardedAt == 0 { forwardedAt = ServerConnection.microseconds() }
            upstream.flush()
            // A flush that fails has been told by `upstreamBroke` and may have begun anew.
            guard self.upstream === upstream, upstream.output.count < waiting else { return }
            hasSent = true
            exchange.sentToUpstream()
            unsent.clear()
        } else {
            upstream.flush()
        }
    }

    func upstreamDrained() {
        if !hasSent { flushToUpstream() }
        connection.resumeReading()
    }

    func answerStarted(_ head: ResponseHead, bytes: Span<UInt8>, fields: [HeaderField]) {
        exchange.answerStarted()
        status = head.status
        firstByteAt = ServerConnection.microseconds()
        let out = connection.output
        out.append("HTTP/1.1 ")
        out.append(decimal: UInt64(head.status))
        out.append(" ")
        out.append(bytes, head.reason)
        out.append("\r\n")
        var isCompressed = false
        var isJSON = false
        for field in fields {
            switch field.name {
            case .contentType:
                isEventStream = contains(bytes, field.valueRange, "event-stream")
                isJSON = !isEventStream && contains(bytes, field.valueRange, "json")
            case .contentEncoding: isCompressed = !bytes.equalsIgnoringCase(field.valueRange, "identity")
            default: break
            }
            if forwards(field, bytes, head.connectionOptions) { append(field, bytes, to: out) }
        }
        answerBody.reset(isCompressed ? .unread : isEventStream ? .events : isJSON ? .json : .unread)
        isCompressedAnswer = isCompressed && (isJSON || isEventStream)
        switch head.framing {
        case .none, .length: break
        case .chunked, .untilClose:
            if clientIsVersion11 {
                isAnswerChunked = true
                out.append("transfer-encoding: chunked\r\n")
            }
        }
        out.append("x-portkey-trace-id: \(traceID)\r\n")
        if !clientKeepsAlive { out.append("connection: close\r\n") }
        out.append("\r\n")
    }

    func answerBody(_ bytes: UnsafeRawBufferPointer) {
        guard exchange.isAnswering else { return }
        responseBytes += UInt64(bytes.count)
        answerBody.feed(bytes)
        let out = connection.output
        if isAnswerChunked {
            out.append(hexadecimal: UInt64(bytes.count))
            out.append("\r\n")
            out.append(bytes)
            out.append("\r\n")
        } else {
            out.append(bytes)
        }
        if connection.isAboveHighWatermark { upstream?.pauseReading() }
    }

    func answerReadEnded() {
        if exchange.isAnswering { connection.flush() }
    }

    func answerEnded(keepsAlive: Bool) {
        upstreamEndedAt = ServerConnection.microseconds()
        answerBody.finish()
        if isAnswerChunked { connection.output.append("0\r\n\r\n") }
        apply(exchange.answerEnded(upstreamKeepsAlive: keepsAlive))
    }

    func upstreamBroke(_ failure: Exchange.Failure, reason: String) {
        upstream = nil
        upstreamEndedAt = ServerConnection.microseconds()
        let step = exchange.upstreamFailed(failure)
        if step.ending != nil { log(failure, reason) }
        apply(step)
    }

    private func log(_ failure: Exchange.Failure, _ reason: String) {
        worker.metrics.upstreamFailures.add()
        worker.log(.upstreamFailed(provider: provider?.name ?? "", code: failure.code, reason: reason))
    }

    // MARK: The client

    func clientDrained() { upstream?.resumeReading() }

    func clientLeft(timedOut: Bool) {
        if case .exchanging = stage { apply(exchange.clientLeft()) }
        stage = .idle
    }

    func requestRefused(_ refusal: Refusal) {
        worker.metrics.refused.add()
        if case .exchanging = stage { apply(exchange.clientLeft()) }
        stage = .idle
    }

    // MARK: The end

    private func apply(_ step: Exchange.Step) {
        // First what must be true before the last byte can leave.
        if case .answer(let failure) = step.client {
            status = UInt16(failure.status)
            writeOwnAnswer(
                status: failure.status, code: failure.code,
                message: "The provider could not be asked: \(failure.code).",
                hint: "The request was not answered by the provider; see the proxy's log.")
        }
        if let ending = step.ending { record(ending) }
        switch step.upstream {
        case .none: break
        case .acquire: acquire()
        case .withdraw:
            acquisition?.withdraw()
            acquisition = nil
        case .release:
            upstream?.release()
            upstream = nil
        case .close:
            upstream?.close()
            upstream = nil
        }
        switch step.client {
        case .none: break
        case .next:
            stage = .idle
            connection.answerEnded(keepsAlive: true)
        case .close:
            stage = .idle
            connection.answerEnded(keepsAlive: false)
        case .answer:
            stage = .idle
            connection.answerEnded(keepsAlive: clientKeepsAlive && exchange.isRequestWhole)
        case .abort:
            stage = .idle
            connection.abort()
        }
    }

    private func record(_ ending: Exchange.Ending) {
        worker.underWay.add(-1)
        let now = ServerConnection.microseconds()
        var event = worker.makeEvent()
        event.workspace = identity.workspace
        event.apiKey = identity.apiKey
        event.provider = provider?.name ?? ""
        event.operation = operation
        event.status = status
        event.traceID = traceID
        event.spanID = spanID
        event.parentSpanID = parentSpanID
        event.requestBytes = requestBytes
        event.responseBytes = responseBytes
        event.streamed = isEventStream
        if let model = requestBody.model { event.requestModel = String(decoding: model, as: UTF8.self) }
        requestBody.addMetadata(to: &metadata)
        let captured = metadata.finish()
        event.metadataStatus = captured.status
        event.metadataSources = captured.sources
        event.metadataRaw = captured.raw
        event.metadataRejected = captured.rejected
        event.metadataConflicts = captured.conflicts
        answerBody.report(to: &event)
        if isCompressedAnswer { event.usageSource = .unreadable }

        switch ending {
        case .answered: event.outcome = Outcome(status: status)
        case .clientLeft:
            event.outcome = .cancelled
            worker.metrics.clientsLeft.add()
        case .failed(let failure), .cutShort(let failure):
            event.outcome = failure == .timedOut ? .timeout : .providerError
            event.errorType = failure.code
        }
        let latency = now - connection.requestStart
        event.latencyMicroseconds = latency
        if isEventStream, firstByteAt > 0 { event.firstTokenMicroseconds = firstByteAt - connection.requestStart }
        if forwardedAt > 0 {
            let upstream = (upstreamEndedAt > 0 ? upstreamEndedAt : now) - forwardedAt
            event.upstreamMicroseconds = upstream
            event.overheadMicroseconds = latency - min(latency, upstream)
        } else {
            event.overheadMicroseconds = latency
        }
        if event.usageSource == .response {
            event.cost = worker.options.prices.cost(
                provider: event.provider, model: event.model, input: event.inputTokens, output: event.outputTokens,
                cached: event.cachedTokens)
            if event.cost != nil {
                event.priceVersion = worker.options.prices.version
            } else {
                worker.metrics.unpriced.add()
            }
        }
        if captured.status > .truncated { worker.metrics.metadataProblems.add() }
        worker.record(event, on: ending == .clientLeft ? nil : connection)
    }
}
