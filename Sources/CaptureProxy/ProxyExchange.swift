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
    private var named: (mode: String?, name: String?, provider: Provider)?
    /// The request as it goes to the provider, until some of it has gone.
    private let unsent = OutputBuffer(capacity: 2_048)
    private var hasSent = false
    private var isAcquiring = false

    // The request.
    private var clientKeepsAlive = false
    private var clientIsVersion11 = true
    private var isHEAD = false
    private var isRequestChunked = false
    private var awaitsContinue = false
    private var readsRequestBody = false
    private var requestBody: RequestBodyReader
    private var metadata: MetadataReader
    private var identity = ProxyIdentity(workspace: "", apiKey: "")
    private var operation = ""
    private var pathModel = ""
    private var traceID = ""
    private var spanID = ""
    private var parentSpanID = ""
    private var requestBytes: UInt64 = 0

    // The answer.
    private var answerBody = AnswerBodyReader()
    private var isAnswerChunked = false
    private var status: UInt16 = 0
    private var responseBytes: UInt64 = 0
    /// It comes in parts, each worth having at once.
    private var isStream = false
    private var headerInputTokens: UInt64?
    private var headerOutputTokens: UInt64?
    private var forwardedAt: UInt64 = 0
    private var firstByteAt: UInt64 = 0
    private var upstreamEndedAt: UInt64 = 0
    /// Compressed in a way that is not read here.
    private var isUnreadable = false
    private var inflater: Inflater?

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
        isStream = false
        headerInputTokens = nil
        headerOutputTokens = nil
        forwardedAt = 0
        firstByteAt = 0
        upstreamEndedAt = 0
        isUnreadable = false
        giveInflaterBack()
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
        awaitsContinue = head.expectsContinue && head.framing != .none
        do throws(RoutingRefusal) {
            try start(head, bytes, fields)
        } catch {
            stage = .rejecting(error)
        }
    }

    var wantsBody: Bool { if case .rejecting = stage { false } else { true } }

    private func start(_ head: RequestHead, _ bytes: Span<UInt8>, _ fields: [HeaderField]) throws(RoutingRefusal) {
        let rest = try Routing.rest(of: head.path, in: bytes)
        var key = 0..<0
        var mode: String?
        var name: String?
        var isJSON = false
        var boundary: [UInt8]?
        var traceParent: TraceParent?
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
            // An id longer than an event keeps is none.
            case .portkeyTraceID where field.valueCount <= EventLimits.textSize: traceID = text(field)
            case .portkeySpanID where field.valueCount <= EventLimits.textSize: spanID = text(field)
            case .portkeyParentSpanID where field.valueCount <= EventLimits.textSize: parentSpanID = text(field)
            case .traceparent: traceParent = TraceParent(bytes, field.valueRange)
            case .heliconeProperty: addPair(.helicone, field, after: HeaderName.heliconePrefix, bytes)
            case .heliconeUserID: addPair(.helicone, field, named: "_user", bytes)
            case .heliconeSessionID: addPair(.helicone, field, named: "session_id", bytes)
            case .bifrostProperty: addPair(.bifrost, field, after: HeaderName.bifrostPrefix, bytes)
            case .liteLLMTags: metadata.addTags(bytes.extracting(field.valueRange))
            case .cloudflareMetadata:
                bytes.extracting(field.valueRange).withUnsafeBytes { metadata.add(.cloudflare, $0) }
            case .contentType:
                isJSON = contains(bytes, field.valueRange, "json")
                if !isJSON { boundary = FormReader.boundary(ofContentType: text(field)) }
            default: break
            }
        }
        // An explicit Portkey id wins.
        if let traceParent {
            if traceID.isEmpty { traceID = traceParent.text(.trace, bytes) }
            if parentSpanID.isEmpty { parentSpanID = traceParent.text(.span, bytes) }
            if spanID.isEmpty { spanID = worker.makeSpanID() }
        }
        let identity = try worker.access.identify(bytes, key)
        let provider = try provider(mode, name)
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
        let path = try Routing.path(rest, below: provider.basePath, in: bytes)
        switch worker.gate.enter(identity.apiKey) {
        case .entered: break
        case .full: throw Self.overload(503, "too_many_requests", "The proxy has as many requests under way as it may.")
        case .keyFull:
            throw Self.overload(
                429, "too_many_requests_of_key", "This API key has as many requests under way as it may.")
        }
        self.identity = identity
        self.provider = provider
        operation = Routing.operation(of: rest, in: bytes)
        pathModel = Routing.model(of: rest, in: bytes) ?? ""
        if let boundary { requestBody.reset(boundary: boundary) }
        readsRequestBody = (isJSON || boundary != nil) && head.framing != .none
        if traceID.isEmpty { traceID = worker.makeTraceID() }

        writeRequestHead(head, path, bytes, fields, provider)
        stage = .exchanging
        worker.underWay.add(1)
        exchange = Exchange(clientKeepsAlive: clientKeepsAlive, requestIsWhole: head.framing == .none)
        acquire()
    }

    /// A client says the same with each of its requests.
    private func provider(_ mode: String?, _ name: String?) throws(RoutingRefusal) -> Provider {
        if let named, named.mode == mode, named.name == name { return named.provider }
        let found = try worker.routing.provider(mode: mode, provider: name)
        named = (mode, name, found)
        return found
    }

    private func addPair(
        _ kind: MetadataSources, _ field: HeaderField, after prefix: StaticString, _ bytes: Span<UInt8>
    ) {
        let name = field.nameRange.lowerBound + prefix.utf8CodeUnitCount..<field.nameRange.upperBound
        metadata.addPair(kind, bytes.extracting(name), bytes.extracting(field.valueRange))
    }

    private func addPair(
        _ kind: MetadataSources, _ field: HeaderField, named name: StaticString, _ bytes: Span<UInt8>
    ) {
        let name = UnsafeBufferPointer(start: name.utf8Start, count: name.utf8CodeUnitCount)
        metadata.addPair(kind, name.span, bytes.extracting(field.valueRange))
    }

    private static func overload(_ status: Int, _ code: String, _ message: String) -> RoutingRefusal {
        RoutingRefusal(status: status, code: code, message: message, hint: "Try again when others have been answered.")
    }

    private func contains(_ bytes: Span<UInt8>, _ range: Range<Int>, _ word: StaticString) -> Bool {
        let count = word.utf8CodeUnitCount
        guard range.count >= count else { return false }
        for start in range.lowerBound...(range.upperBound - count)
        where bytes.equalsIgnoringCase(start..<start + count, word) { return true }
        return false
    }

    private func writeRequestHead(
        _ head: RequestHead, _ path: Range<Int>, _ bytes: Span<UInt8>, _ fields: [HeaderField], _ provider: Provider
    ) {
        unsent.append(bytes, head.method)
        unsent.append(" ")
        unsent.append(provider.basePath)
        unsent.append(bytes, path.lowerBound..<head.target.upperBound)
        unsent.append(" HTTP/1.1\r\nhost: ")
        unsent.append(provider.authority)
        unsent.append("\r\n")
        for field in fields
        where forwards(field, bytes, head.connectionOptions) && field.name != .host && field.name != .expect {
            append(field, bytes, to: unsent)
        }
        if isRequestChunked { unsent.append("transfer-encoding: chunked\r\n") }
        unsent.append("\r\n")
    }

    private func forwards(_ field: HeaderField, _ bytes: Span<UInt8>, _ options: [Range<Int>]) -> Bool {
        if field.name.isHopByHop || field.name.isForGateway { return false }
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
            out.append(chunk: bytes)
        } else {
            out.append(bytes)
        }
        if out.count > ServerConnection.outputHighWatermark { connection.pauseReading() }
    }

    /// Where the next bytes of the request go.
    private var requestOutput: OutputBuffer? { hasSent ? upstream?.output : unsent }

    func requestReadEnded() {
        switch stage {
        case .idle: break
        case .exchanging: flushToUpstream()
        case .rejecting(let refusal) where awaitsContinue:
            // The client waits to be told whether to send its body: it is not (RFC 9110 §10.1.1). It may send it all
            // the same, so the connection closes.
            stage = .idle
            answerRejected(refusal, keepsAlive: false)
        case .rejecting: break
        }
    }

    func requestEnded() {
        switch stage {
        case .idle: break
        case .rejecting(let refusal):
            stage = .idle
            answerRejected(refusal, keepsAlive: clientKeepsAlive)
        case .exchanging:
            guard !exchange.isEnded else { return }
            exchange.requestEnded()
            if isRequestChunked { requestOutput?.append("0\r\n\r\n") }
            flushToUpstream()
        }
    }

    private func answerRejected(_ refusal: RoutingRefusal, keepsAlive: Bool) {
        if refusal.isAboutAccess {
            worker.metrics.unauthorized.add()
        } else if refusal.status == 429 || refusal.status == 503 {
            worker.metrics.overloaded.add()
        } else {
            worker.metrics.rejected.add()
        }
        writeOwnAnswer(
            status: refusal.status, code: refusal.code, message: refusal.message, hint: refusal.hint,
            keepsAlive: keepsAlive)
        connection.answerEnded(keepsAlive: keepsAlive)
    }

    private func writeOwnAnswer(status: Int, code: String, message: String, hint: String, keepsAlive: Bool) {
        let error: JSONValue = ["code": .string(code), "message": .string(message), "hint": .string(hint)]
        let body = (["error": error] as JSONValue).text
        let out = connection.output
        out.append("HTTP/1.1 \(status) \(HTTPReason.phrase(status))\r\ncontent-type: application/json\r\n")
        out.append("content-length: \(body.utf8.count)\r\n")
        if status == 401 { out.append("www-authenticate: Bearer\r\n") }
        if !traceID.isEmpty { out.append("x-portkey-trace-id: \(traceID)\r\n") }
        // What went wrong will pass: an immediate second try would only add to it.
        if status == 429 || status == 503 { out.append("retry-after: 1\r\n") }
        if !keepsAlive || connection.isDraining { out.append("connection: close\r\n") }
        out.append("\r\n")
        if !isHEAD { out.append(body) }
    }

    // MARK: The upstream

    private func acquire() {
        guard let provider else { return }
        hasSent = false
        isAcquiring = true
        acquisition = worker.pool.acquire(provider.origin, for: self)
        isAcquiring = false
    }

    func upstreamConnected(_ connection: UpstreamConnection, reused: Bool) {
        acquisition = nil
        upstream = connection
        connection.expectAnswer(toHEAD: isHEAD)
        exchange.connected(reused: reused)
        // Within `acquire` the request's first bytes are still being read: they go out together.
        if !isAcquiring {
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
            upstream.output.append(copying: unsent)
            let waiting = upstream.output.count
            if forwardedAt == 0 { forwardedAt = ServerConnection.microseconds() }
            upstream.flush()
            // A flush that fails has been told by `upstreamBroke` and may have begun anew.
            guard self.upstream === upstream else { return }
            // None of it has gone: it is written anew, with what came meanwhile, when the socket takes it.
            if upstream.output.count == waiting { return upstream.output.clear() }
            hasSent = true
            exchange.sentToUpstream()
            unsent.clear()
        } else {
            upstream.flush()
        }
    }

    func upstreamDrained() {
        if !hasSent { flushToUpstream() }
        guard let upstream, upstream.output.count <= ServerConnection.outputHighWatermark else { return }
        connection.resumeReading()
    }

    func interimAnswer(_ head: ResponseHead, bytes: Span<UInt8>, fields: [HeaderField]) {
        // HTTP/1.0 knows none (RFC 9110 §15.2).
        guard clientIsVersion11 else { return }
        let out = connection.output
        writeStatusLine(head, bytes)
        for field in fields where field.name != .contentLength && forwards(field, bytes, head.connectionOptions) {
            append(field, bytes, to: out)
        }
        out.append("\r\n")
        if connection.isAboveHighWatermark { upstream?.pauseReading() }
    }

    private func writeStatusLine(_ head: ResponseHead, _ bytes: Span<UInt8>) {
        let out = connection.output
        out.append("HTTP/1.1 ")
        out.append(decimal: UInt64(head.status))
        out.append(" ")
        out.append(bytes, head.reason)
        out.append("\r\n")
    }

    func answerStarted(_ head: ResponseHead, bytes: Span<UInt8>, fields: [HeaderField]) {
        exchange.answerStarted()
        status = head.status
        let out = connection.output
        writeStatusLine(head, bytes)
        var coding = 0..<0
        var form = AnswerBodyReader.Form.unread
        for field in fields {
            switch field.name {
            case .contentType:
                form = self.form(bytes, field.valueRange)
                // Bedrock's frames are binary: the parts pass unread.
                if contains(bytes, field.valueRange, "vnd.amazon.eventstream") {
                    isStream = true
                    isUnreadable = true
                }
            case .contentEncoding: coding = field.valueRange
            case .bedrockInputTokens: headerInputTokens = decimal(bytes, field.valueRange)
            case .bedrockOutputTokens: headerOutputTokens = decimal(bytes, field.valueRange)
            default: break
            }
            // A 204 has no length to tell (RFC 9110 §8.6).
            if field.name == .contentLength && head.status == 204 { continue }
            if forwards(field, bytes, head.connectionOptions) { append(field, bytes, to: out) }
        }
        isStream = isStream || form == .events || form == .lines || head.status < 300 && requestBody.isStreamed
        if form != .unread, !coding.isEmpty, !bytes.equalsIgnoringCase(coding, "identity") {
            let isRead = ["gzip", "x-gzip", "deflate"].contains { bytes.equalsIgnoringCase(coding, $0) }
            inflater = isRead ? worker.takeInflater() : nil
            if inflater == nil {
                isUnreadable = true
                form = .unread
            }
        }
        answerBody.reset(form)
        switch head.framing {
        case .none, .length: break
        case .chunked, .untilClose:
            if clientIsVersion11 {
                isAnswerChunked = true
                out.append("transfer-encoding: chunked\r\n")
            }
        }
        out.append("x-portkey-trace-id: \(traceID)\r\n")
        if !exchange.clientKeepsAlive || connection.isDraining { out.append("connection: close\r\n") }
        out.append("\r\n")
    }

    func answerBody(_ bytes: UnsafeRawBufferPointer) {
        guard exchange.isAnswering else { return }
        responseBytes += UInt64(bytes.count)
        if isStream && firstByteAt == 0 { firstByteAt = ServerConnection.microseconds() }
        if let inflater {
            inflater.feed(bytes) { answerBody.feed($0) }
        } else {
            answerBody.feed(bytes)
        }
        // Taken once: each look at an unowned reference counts it.
        let connection = connection
        let out = connection.output
        if isAnswerChunked {
            out.append(chunk: bytes)
        } else {
            out.append(bytes)
        }
        if connection.isAboveHighWatermark { upstream?.pauseReading() }
    }

    private func form(_ bytes: Span<UInt8>, _ type: Range<Int>) -> AnswerBodyReader.Form {
        if contains(bytes, type, "event-stream") { return .events }
        if contains(bytes, type, "stream+json") || contains(bytes, type, "ndjson") || contains(bytes, type, "jsonl") {
            return .lines
        }
        return contains(bytes, type, "json") ? .json : .unread
    }

    private func decimal(_ bytes: Span<UInt8>, _ range: Range<Int>) -> UInt64? {
        guard !range.isEmpty, range.count <= 18 else { return nil }
        var value: UInt64 = 0
        for index in range {
            let digit = bytes[index] &- 0x30
            guard digit < 10 else { return nil }
            value = value * 10 + UInt64(digit)
        }
        return value
    }

    /// What the answer said of itself, in its body or else in Bedrock's headers.
    private func reportAnswer(to event: inout RequestEvent, isWhole: Bool) {
        answerBody.report(to: &event, isWhole: isWhole)
        if let inflater, inflater.hasFailed { isUnreadable = true }
        if event.usageSource == .response { return giveInflaterBack() }
        giveInflaterBack()
        if headerInputTokens != nil || headerOutputTokens != nil {
            event.usageSource = .response
            event.inputTokens = headerInputTokens ?? 0
            event.outputTokens = headerOutputTokens ?? 0
        } else if isUnreadable {
            event.usageSource = .unreadable
        }
    }

    private func giveInflaterBack() {
        guard let inflater else { return }
        self.inflater = nil
        worker.giveBack(inflater)
    }

    func answerReadEnded() {
        // Not answering yet, an interim answer may wait.
        if exchange.isAnswering || !connection.output.isEmpty { connection.flush() }
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
            let (what, hint) = failure.message
            writeOwnAnswer(
                status: failure.status, code: failure.code, message: "The provider \(provider?.name ?? "") \(what).",
                hint: hint, keepsAlive: exchange.clientKeepsAlive && exchange.isRequestWhole)
        }
        if let ending = step.ending { record(ending) }
        switch step.upstream {
        case .none: break
        case .acquire:
            upstream?.close()
            upstream = nil
            acquire()
            flushToUpstream()
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
            connection.answerEnded(keepsAlive: exchange.clientKeepsAlive && exchange.isRequestWhole)
        case .abort:
            stage = .idle
            connection.abort()
        }
    }

    private func record(_ ending: Exchange.Ending) {
        worker.underWay.add(-1)
        worker.gate.leave(identity.apiKey)
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
        event.streamed = isStream
        event.requestModel = requestBody.model.map { String(decoding: $0, as: UTF8.self) } ?? pathModel
        requestBody.addMetadata(to: &metadata)
        let captured = metadata.finish()
        event.metadataStatus = captured.status
        event.metadataSources = captured.sources
        event.metadataRaw = captured.raw
        event.metadataRejected = captured.rejected
        event.metadataConflicts = captured.conflicts
        reportAnswer(to: &event, isWhole: ending == .answered)

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
        if firstByteAt > 0 { event.firstTokenMicroseconds = firstByteAt - connection.requestStart }
        if forwardedAt > 0 {
            let upstream = (upstreamEndedAt > 0 ? upstreamEndedAt : now) - forwardedAt
            event.upstreamMicroseconds = upstream
            event.overheadMicroseconds = latency - min(latency, upstream)
        } else {
            event.overheadMicroseconds = latency
        }
        if event.usageSource == .response {
            event.cost = worker.prices.cost(
                provider: event.provider, model: event.model, input: event.inputTokens, output: event.outputTokens,
                cached: event.cachedTokens)
            if event.cost != nil {
                event.priceVersion = worker.prices.table.version
            } else {
                worker.metrics.unpriced.add()
            }
        }
        if captured.status > .truncated { worker.metrics.metadataProblems.add() }
        worker.record(event, on: ending == .clientLeft ? nil : connection)
    }
}
