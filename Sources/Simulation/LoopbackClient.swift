// A small blocking HTTP/1.1 client for 127.0.0.1: request -> whole answer. For the demo's traffic and for tests;
// it speaks plain HTTP, keeps one connection and trusts the other side to be ours.

import Glibc

/// Why an exchange did not come to a whole answer.
package struct LoopbackError: Error, Sendable, CustomStringConvertible {
    package enum Code: String, Sendable { case connect, send, receive, malformed }
    package var code: Code
    package var reason: String

    package var description: String { "\(code.rawValue): \(reason)" }
}

/// A whole answer, body unchunked.
package struct LoopbackResponse: Sendable {
    package var status: Int
    /// Names in lower case.
    package var headers: [(name: String, value: String)]
    package var body: [UInt8]

    package func header(_ name: String) -> String? { headers.first { $0.name == name }?.value }
    package var text: String { String(decoding: body, as: UTF8.self) }
}

/// One connection, made at the first request and again after the server closed it. Owned by one thread.
package struct LoopbackClient: ~Copyable {
    private let port: UInt16
    private let timeoutMilliseconds: Int
    private var descriptor: Int32 = -1
    private var received: [UInt8] = []

    /// `timeoutMilliseconds` bounds each wait for bytes, not the exchange.
    package init(port: UInt16, timeoutMilliseconds: Int = 10_000) {
        self.port = port
        self.timeoutMilliseconds = timeoutMilliseconds
    }

    deinit { if descriptor >= 0 { close(descriptor) } }

    /// Sends one request and reads its answer to the end. `host`, `content-length` are added. After an error the
    /// connection is closed and the next request opens a new one; nothing is sent twice.
    package mutating func request(
        _ method: String, _ path: String, headers: [(name: String, value: String)] = [], body: [UInt8] = []
    ) throws(LoopbackError) -> LoopbackResponse {
        do {
            try open()
            try send(head(method, path, headers, body.count) + body)
            return try receive(hasBody: method != "HEAD")
        } catch {
            disconnect()
            throw error
        }
    }

    /// Sends one request, waits for the first bytes of the answer and leaves.
    package mutating func requestAndLeave(
        _ method: String, _ path: String, headers: [(name: String, value: String)] = [], body: [UInt8] = []
    ) throws(LoopbackError) {
        defer { disconnect() }
        try open()
        try send(head(method, path, headers, body.count) + body)
        try fill()
    }

    /// Sends bytes as they are and answers what came back until the other side closed, or nothing came for the time.
    package mutating func exchange(raw bytes: [UInt8]) throws(LoopbackError) -> [UInt8] {
        defer { disconnect() }
        try open()
        try send(bytes)
        var all: [UInt8] = []
        while true {
            do { try fill() } catch { return all }
            all += received
            received.removeAll()
        }
    }

    package mutating func disconnect() {
        if descriptor >= 0 { close(descriptor) }
        descriptor = -1
        received.removeAll()
    }

    // MARK: Connection

    private mutating func open() throws(LoopbackError) {
        if descriptor >= 0 { return }
        let made = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard made >= 0 else { throw Self.failure(.connect) }
        var timeout = timeval(
            tv_sec: timeoutMilliseconds / 1_000, tv_usec: suseconds_t(timeoutMilliseconds % 1_000 * 1_000))
        setsockopt(made, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
        setsockopt(made, SOL_SOCKET, SO_SNDTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
        var yes: Int32 = 1
        setsockopt(made, Int32(IPPROTO_TCP), TCP_NODELAY, &yes, socklen_t(MemoryLayout<Int32>.size))
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        let status = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(made, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard status == 0 else {
            let error = Self.failure(.connect)
            close(made)
            throw error
        }
        descriptor = made
    }

    private func send(_ bytes: [UInt8]) throws(LoopbackError) {
        var sent = 0
        while sent < bytes.count {
            let count = bytes.withUnsafeBytes {
                Glibc.send(descriptor, $0.baseAddress.map { $0 + sent }, bytes.count - sent, Int32(MSG_NOSIGNAL))
            }
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { throw Self.failure(.send) }
            sent += count
        }
    }

    /// Waits for more bytes.
    private mutating func fill() throws(LoopbackError) {
        let size = 65_536
        let old = received.count
        received.append(contentsOf: repeatElement(0, count: size))
        var count: Int
        repeat {
            count = received.withUnsafeMutableBytes { recv(descriptor, $0.baseAddress.map { $0 + old }, size, 0) }
        } while count < 0 && errno == EINTR
        received.removeLast(size - max(count, 0))
        if count == 0 { throw LoopbackError(code: .receive, reason: "the server closed the connection") }
        if count < 0 { throw Self.failure(.receive) }
    }

    private static func failure(_ code: LoopbackError.Code) -> LoopbackError {
        LoopbackError(code: code, reason: String(cString: strerror(errno)))
    }

    // MARK: Messages

    private func head(_ method: String, _ path: String, _ headers: [(name: String, value: String)], _ length: Int)
        -> [UInt8]
    {
        var text = "\(method) \(path) HTTP/1.1\r\nhost: 127.0.0.1:\(port)\r\n"
        for (name, value) in headers { text += "\(name): \(value)\r\n" }
        if length > 0 || method == "POST" || method == "PUT" { text += "content-length: \(length)\r\n" }
        return Array((text + "\r\n").utf8)
    }

    private mutating func receive(hasBody: Bool) throws(LoopbackError) -> LoopbackResponse {
        var response = LoopbackResponse(status: 100, headers: [], body: [])
        while response.status < 200 {
            response.headers.removeAll()
            let statusLine = try line().split(separator: " ", maxSplits: 2)
            guard statusLine.count >= 2, let status = Int(statusLine[1]) else {
                throw LoopbackError(code: .malformed, reason: "no status line")
            }
            response.status = status
            while true {
                let field = try line()
                if field.isEmpty { break }
                let parts = field.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
                guard parts.count == 2 else {
                    throw LoopbackError(code: .malformed, reason: "a header without a colon")
                }
                response.headers.append((parts[0].lowercased(), String(Self.trimmed(parts[1]))))
            }
        }
        if hasBody && response.status != 204 && response.status != 304 {
            if response.header("transfer-encoding")?.lowercased() == "chunked" {
                response.body = try chunks()
            } else if let length = response.header("content-length") {
                guard let count = Int(length) else {
                    throw LoopbackError(code: .malformed, reason: "a length that is no number")
                }
                response.body = try take(count)
            } else {
                response.body = untilClosed()
            }
        }
        if response.header("connection")?.lowercased() == "close" { disconnect() }
        return response
    }

    private mutating func chunks() throws(LoopbackError) -> [UInt8] {
        var body: [UInt8] = []
        while true {
            let size = try line().prefix { $0 != ";" }
            guard let count = Int(size, radix: 16) else {
                throw LoopbackError(code: .malformed, reason: "a bad chunk size")
            }
            if count == 0 { break }
            body += try take(count)
            guard try line().isEmpty else {
                throw LoopbackError(code: .malformed, reason: "a chunk longer than its size")
            }
        }
        while try !line().isEmpty {}
        return body
    }

    private mutating func untilClosed() -> [UInt8] {
        while true {
            do { try fill() } catch { break }
        }
        let body = received
        disconnect()
        return body
    }

    private mutating func take(_ count: Int) throws(LoopbackError) -> [UInt8] {
        while received.count < count { try fill() }
        let taken = Array(received.prefix(count))
        received.removeFirst(count)
        return taken
    }

    /// Up to the next line end, which is dropped.
    private mutating func line() throws(LoopbackError) -> String {
        var searched = 0
        while true {
            if let end = received[searched...].firstIndex(of: UInt8(ascii: "\n")) {
                var text = received[..<end]
                if text.last == UInt8(ascii: "\r") { text.removeLast() }
                let result = String(decoding: text, as: UTF8.self)
                received.removeFirst(end + 1)
                return result
            }
            searched = received.count
            try fill()
        }
    }

    private static func trimmed(_ text: Substring) -> Substring {
        var text = text
        while text.first == " " || text.first == "\t" { text.removeFirst() }
        while text.last == " " || text.last == "\t" { text.removeLast() }
        return text
    }
}
