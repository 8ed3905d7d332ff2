// A plain server over `HTTPService`: one loop for the sockets, a few threads for the answers.

import CLibevent
import Glibc
import HTTPMessages
import Synchronization
package import Telemetry
import Threading

/// @unchecked: `listener` is made in `init` and closed on the loop's thread; the rest is immutable or shared by design.
package final class HTTPServer: @unchecked Sendable {
    /// Requests waiting for a worker; beyond it 503.
    static let queueCapacity = 1_024
    /// What `stop` waits for answers under way.
    static let drainMilliseconds = 5_000

    /// The port in use.
    package let port: UInt16
    private let loop: EventLoop
    private let queue: BoundedQueue<Work>
    private let workers: [ServiceThread]
    private let underWay = Atomic<Int>(0)
    private let isStopping = Atomic<Bool>(false)
    private var listener: Listener?

    fileprivate struct Work: Sendable {
        var request: HTTPRequest
        var answer: @Sendable (HTTPResponse) -> Void
    }

    /// `listen` is `HOST:PORT`; port 0 picks a free one. `workers` threads run the responder, which may block there.
    /// Bodies above `bodyLimit` bytes get 413. `sharesPort`: another process may have it too.
    package init(
        listen: String, name: String, workers: Int, bodyLimit: Int, sharesPort: Bool = false,
        tls: TLSContext? = nil, log: Log,
        responder: @escaping HTTPResponder
    ) throws(HTTPTransportError) {
        let socket = try ListeningSocket(listen, sharesPort: sharesPort)
        port = socket.port
        loop = try EventLoop(name: name)
        let queue = BoundedQueue<Work>(capacity: Self.queueCapacity)
        self.queue = queue
        self.workers = (0..<max(1, workers)).map { index in
            ServiceThread("\(name)-\(index)") {
                while let work = queue.pop() { work.answer(responder(work.request)) }
            }
        }
        listener = Listener(loop: loop, socket: socket, tls: tls) { [unowned self] connection in
            BufferedHandler(connection, bodyLimit: bodyLimit, server: self)
        }
        loop.start()
    }

    /// How long its loop has not turned.
    package var silence: Duration { loop.silence }

    /// Connections from now on are greeted with this certificate.
    package func use(_ tls: TLSContext) { loop.post { [self] in listener?.tls = tls } }

    /// Finishes what is being answered (bounded), then closes.
    package func stop() {
        loop.post { [self] in
            listener?.close()
            listener?.connections.drain()
            listener?.connections.closeIdle()
            listener = nil
        }
        let deadline = EventLoop.clock() + UInt64(Self.drainMilliseconds)
        while underWay.load(ordering: .relaxed) > 0, EventLoop.clock() < deadline { usleep(5_000) }
        isStopping.store(true, ordering: .relaxed)
        queue.close()
        for worker in workers { worker.join() }
        loop.stop()
    }

    fileprivate func submit(_ work: Work) -> Bool {
        guard queue.tryPush(work) else { return false }
        underWay.wrappingAdd(1, ordering: .relaxed)
        return true
    }

    fileprivate var isEnding: Bool { isStopping.load(ordering: .relaxed) }

    fileprivate func answered() { underWay.wrappingSubtract(1, ordering: .relaxed) }
}

/// Gathers one request at a time, hands it to the workers, writes the answer.
private final class BufferedHandler: ServerHandler {
    private unowned let connection: ServerConnection
    private unowned let server: HTTPServer
    private let bodyLimit: Int
    private var request: HTTPRequest?
    private var keepsAlive = true
    private var isHEAD = false
    private var isVersion11 = true
    private var isTooLarge = false
    /// The answer that is being streamed.
    private var sink: HTTPBodySink?
    /// Tells an answer that comes after its client left.
    private var exchange = 0

    init(_ connection: ServerConnection, bodyLimit: Int, server: HTTPServer) {
        self.connection = connection
        self.bodyLimit = bodyLimit
        self.server = server
    }

    func requestStarted(_ head: RequestHead, bytes: Span<UInt8>, fields: [HeaderField]) {
        func text(_ range: Range<Int>) -> String {
            bytes.extracting(range).withUnsafeBytes { String(decoding: $0, as: UTF8.self) }
        }
        exchange += 1
        keepsAlive = head.keepsAlive
        isHEAD = head.isHEAD
        isVersion11 = head.isVersion11
        isTooLarge = if case .length(let length) = head.framing { length > UInt64(bodyLimit) } else { false }
        let query =
            head.path.upperBound < head.target.upperBound ? text(head.path.upperBound + 1..<head.target.upperBound) : ""
        request = HTTPRequest(
            method: text(head.method), path: text(head.path), query: query,
            headers: fields.map { (text($0.nameRange).lowercased(), text($0.valueRange)) }, body: [])
    }

    var wantsBody: Bool { true }

    func requestBody(_ bytes: UnsafeRawBufferPointer) {
        if isTooLarge { return }
        if (request?.body.count ?? 0) + bytes.count > bodyLimit {
            isTooLarge = true
            request?.body = []
        } else {
            request?.body.append(contentsOf: bytes)
        }
    }

    func requestEnded() {
        guard let request else { return }
        self.request = nil
        if isTooLarge {
            return write(
                .json(
                    413,
                    "{\"error\":{\"code\":\"too_large\",\"message\":\"the body is larger than \(bodyLimit) bytes\","
                        + "\"position\":null,\"hint\":\"send less\"}}"))
        }
        let exchange = self.exchange
        let handler = LoopBound(self)
        let loop = connection.loop
        let server = self.server
        let accepted = server.submit(
            .init(request: request) { response in
                guard let stream = response.stream else {
                    loop.post {
                        server.answered()
                        handler.value.write(response, of: exchange)
                    }
                    return
                }
                let sink = HTTPBodySink(isEnding: { server.isEnding }) { sink, bytes in
                    loop.post { handler.value.streamed(bytes, by: sink) }
                }
                guard loop.post({ handler.value.begin(response, sink, of: exchange) }) else { return server.answered() }
                let isWhole = stream(sink)
                loop.post { handler.value.streamEnded(isWhole, by: sink) }
                server.answered()
            })
        if !accepted {
            write(
                .json(
                    503,
                    "{\"error\":{\"code\":\"overloaded\",\"message\":\"too many requests are waiting\","
                        + "\"position\":null,\"hint\":\"try again\"}}"))
        }
    }

    private func write(_ response: HTTPResponse, of exchange: Int) {
        if exchange == self.exchange && !connection.isClosed { write(response) }
    }

    private func writeHead(_ response: HTTPResponse) {
        let out = connection.output
        out.append("HTTP/1.1 ")
        out.append(decimal: UInt64(response.status))
        out.append(" \(HTTPReason.phrase(response.status))\r\n")
        for (name, value) in response.headers { out.append("\(name): \(value)\r\n") }
    }

    // MARK: A streamed answer

    private func begin(_ response: HTTPResponse, _ sink: HTTPBodySink, of exchange: Int) {
        guard exchange == self.exchange, !connection.isClosed else { return sink.close() }
        writeHead(response)
        // A client of version 1.0 knows no chunks: its answer ends with the connection.
        if isVersion11 { connection.output.append("transfer-encoding: chunked\r\n") } else { keepsAlive = false }
        if !keepsAlive { connection.output.append("connection: close\r\n") }
        connection.output.append("\r\n")
        if isHEAD {
            sink.close()
            return connection.answerEnded(keepsAlive: keepsAlive)
        }
        self.sink = sink
        append(chunk: response.body)
        connection.flush()
    }

    private func streamed(_ bytes: [UInt8], by sink: HTTPBodySink) {
        guard sink === self.sink, !connection.isClosed else { return sink.close() }
        append(chunk: bytes)
        connection.flush()
        if !connection.isAboveHighWatermark { sink.taken() }
    }

    private func streamEnded(_ isWhole: Bool, by sink: HTTPBodySink) {
        guard sink === self.sink else { return }
        self.sink = nil
        guard isWhole, !connection.isClosed else { return connection.abort() }
        if isVersion11 { connection.output.append("0\r\n\r\n") }
        connection.answerEnded(keepsAlive: keepsAlive)
    }

    private func leaveSink() {
        sink?.close()
        sink = nil
    }

    private func write(_ response: HTTPResponse) {
        let out = connection.output
        writeHead(response)
        if response.parts != nil {
            if isVersion11 { out.append("transfer-encoding: chunked\r\n") } else { keepsAlive = false }
        } else if response.status != 204 && response.status != 304 {
            out.append("content-length: \(response.body.count)\r\n")
        }
        if !keepsAlive || connection.isDraining { out.append("connection: close\r\n") }
        out.append("\r\n")
        guard let parts = response.parts else {
            if !isHEAD { out.append(response.body) }
            return connection.answerEnded(keepsAlive: keepsAlive)
        }
        if isHEAD { return connection.answerEnded(keepsAlive: keepsAlive) }
        append(chunk: response.body)
        connection.flush()
        send(parts[...], of: exchange)
    }

    private func send(_ parts: ArraySlice<(delayMilliseconds: Int, bytes: [UInt8])>, of exchange: Int) {
        guard exchange == self.exchange, !connection.isClosed else { return }
        guard let part = parts.first else {
            if isVersion11 { connection.output.append("0\r\n\r\n") }
            return connection.answerEnded(keepsAlive: keepsAlive)
        }
        let next = { [self] in
            guard exchange == self.exchange, !connection.isClosed else { return }
            append(chunk: part.bytes)
            connection.flush()
            send(parts.dropFirst(), of: exchange)
        }
        if part.delayMilliseconds > 0 {
            connection.loop.schedule(afterMilliseconds: part.delayMilliseconds, next)
        } else {
            next()
        }
    }

    private func append(chunk: [UInt8]) {
        if chunk.isEmpty { return }
        guard isVersion11 else { return connection.output.append(chunk) }
        chunk.withUnsafeBytes { connection.output.append(chunk: $0) }
    }

    func requestReadEnded() {}
    func clientDrained() { sink?.taken() }

    func clientLeft(timedOut: Bool) {
        exchange += 1
        request = nil
        leaveSink()
    }

    func requestRefused(_ refusal: Refusal) {
        exchange += 1
        leaveSink()
    }
}

/// Where a streamed answer goes: the worker writes, the loop takes, one part under way at a time.
///
/// @unchecked: `isUnderWay` and `isClosed` are touched with `lock` held, in this file.
package final class HTTPBodySink: @unchecked Sendable {
    /// How often a waiting worker looks whether the server stops.
    private static let lookMilliseconds = 100

    private let lock = ConditionLock()
    private var isUnderWay = false
    private var isClosed = false
    private var size = 0
    private let isEnding: @Sendable () -> Bool
    private let post: @Sendable (HTTPBodySink, [UInt8]) -> Bool

    fileprivate init(
        isEnding: @escaping @Sendable () -> Bool, _ post: @escaping @Sendable (HTTPBodySink, [UInt8]) -> Bool
    ) {
        self.isEnding = isEnding
        self.post = post
    }

    /// The client is gone, or the server stops: nothing more is taken.
    package var isAbandoned: Bool { lock.withLock { isClosed } || isEnding() }

    /// Bytes of the body that were written.
    package var sizeWritten: Int { lock.withLock { size } }

    /// Waits until the client has taken it, but for what the socket holds. False: nobody will.
    package func write(_ bytes: [UInt8]) -> Bool {
        if bytes.isEmpty { return !isAbandoned }
        let isOpen = lock.withLock {
            isUnderWay = true
            size += bytes.count
            return !isClosed
        }
        guard isOpen, post(self, bytes) else { return false }
        return lock.withLock {
            while isUnderWay, !isClosed {
                if isEnding() {
                    isClosed = true
                } else {
                    lock.wait(upTo: .milliseconds(Self.lookMilliseconds))
                }
            }
            return !isClosed
        }
    }

    fileprivate func taken() {
        lock.withLock {
            isUnderWay = false
            lock.wakeAll()
        }
    }

    fileprivate func close() {
        lock.withLock {
            isClosed = true
            lock.wakeAll()
        }
    }
}

/// What went wrong with a listener or a loop, for an operator.
package struct HTTPTransportError: Error, Sendable, CustomStringConvertible {
    package enum Code: String, Sendable { case listen, tls, loop }
    package var code: Code
    package var tried: String
    package var reason: String
    package var next: String

    package init(code: Code, tried: String, reason: String, next: String) {
        self.code = code
        self.tried = tried
        self.reason = reason
        self.next = next
    }

    package var description: String { "\(tried): \(reason). \(next)" }
}
