// A blocking client that sends bytes as given: what a test of HTTP needs and a library would not do.

import Glibc

/// @unchecked: one thread may send while another receives (without TLS): `received` is the receiver's alone.
final class RawClient: @unchecked Sendable {
    private let descriptor: Int32
    private var tls: RawTLS?
    private var received: [UInt8] = []

    /// `trusting`: over TLS to `localhost`, by that authority.
    init(port: UInt16, trusting authority: RawTLS.Context? = nil) throws {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var timeout = timeval(tv_sec: 10, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
        let status = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        struct NotConnected: Error {}
        if status != 0 { throw NotConnected() }
        if let authority { tls = try RawTLS(authority, descriptor: descriptor) }
    }

    deinit { close(descriptor) }

    func send(_ text: String) { send(Array(text.utf8)) }

    /// False when the server takes no more.
    @discardableResult func send(_ all: [UInt8]) -> Bool {
        var bytes = all[...]
        while !bytes.isEmpty {
            let count = bytes.withUnsafeBytes {
                tls?.write($0) ?? Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            if count <= 0 { return false }
            bytes = bytes.dropFirst(count)
        }
        return true
    }

    /// Sends until the server takes no byte more for so long; how many it took.
    func send(_ all: [UInt8], whileTakenWithin milliseconds: Int32) -> Int {
        var sent = 0
        while sent < all.count {
            var writable = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
            guard poll(&writable, 1, milliseconds) == 1 else { break }
            let count = all[sent...].withUnsafeBytes {
                Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT))
            }
            if count < 0 && errno != EAGAIN { break }
            sent += max(0, count)
        }
        return sent
    }

    /// Leaves at once, with a reset where bytes are unread.
    func leave() { shutdown(descriptor, Int32(SHUT_RDWR)) }

    private func receive() -> Bool {
        var buffer = [UInt8](repeating: 0, count: 65_536)
        let count = buffer.withUnsafeMutableBytes {
            tls?.read($0) ?? recv(descriptor, $0.baseAddress, $0.count, 0)
        }
        if count <= 0 { return false }
        received += buffer[..<count]
        return true
    }

    /// Waits until what came contains the text; false when the connection ended or 10 s passed.
    func waitFor(_ text: String) -> Bool {
        while !String(decoding: received, as: UTF8.self).contains(text) { if !receive() { return false } }
        return true
    }

    /// What has come so far, without waiting.
    func arrived() -> String {
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = recv(descriptor, &buffer, buffer.count, Int32(MSG_DONTWAIT))
            guard count > 0 else { return String(decoding: received, as: UTF8.self) }
            received += buffer[..<count]
        }
    }

    /// Everything until the server closes.
    func rest() -> String {
        while receive() {}
        defer { received = [] }
        return String(decoding: received, as: UTF8.self)
    }

    /// One answer with a content-length: its head and body.
    func answer() -> (head: String, body: String)? {
        while true {
            if let start = headEnd {
                let head = String(decoding: received[..<(start - 4)], as: UTF8.self)
                let line = head.lowercased().split(separator: "\r\n").first { $0.hasPrefix("content-length:") }
                let length = line.flatMap { Int($0.dropFirst(15).drop { $0 == " " }) } ?? 0
                if received.count >= start + length {
                    let body = String(decoding: received[start..<start + length], as: UTF8.self)
                    received.removeFirst(start + length)
                    return (head, body)
                }
            }
            if !receive() { return nil }
        }
    }

    /// The next answer's head alone.
    func head() -> String? {
        while headEnd == nil { if !receive() { return nil } }
        guard let end = headEnd else { return nil }
        defer { received.removeFirst(end) }
        return String(decoding: received[..<(end - 4)], as: UTF8.self)
    }

    /// One chunked body, put together; nil when it is cut.
    func chunked() -> String? {
        var body: [UInt8] = []
        while true {
            var line: [UInt8] = []
            while !line.suffix(2).elementsEqual([13, 10]) {
                guard let byte = raw(1) else { return nil }
                line += byte
            }
            guard let size = Int(String(decoding: line.dropLast(2), as: UTF8.self), radix: 16),
                let chunk = raw(size + 2)
            else { return nil }
            if size == 0 { return String(decoding: body, as: UTF8.self) }
            body += chunk.dropLast(2)
        }
    }

    /// So many bytes of what follows; nil when fewer come.
    func raw(_ count: Int) -> [UInt8]? {
        while received.count < count { if !receive() { return nil } }
        defer { received.removeFirst(count) }
        return Array(received[..<count])
    }

    func bytes(_ count: Int) -> String? { raw(count).map { String(decoding: $0, as: UTF8.self) } }

    private var headEnd: Int? {
        received.withUnsafeBytes { bytes in
            var at = 0
            while let base = bytes.baseAddress, at + 4 <= bytes.count,
                let found = memchr(base + at, 13, bytes.count - at)
            {
                at = base.distance(to: UnsafeRawPointer(found)) + 1
                if bytes[at...].starts(with: [10, 13, 10]) { return at + 3 }
            }
            return nil
        }
    }
}
