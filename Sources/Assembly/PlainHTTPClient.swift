// One HTTP request over a socket of its own, for the command line's calls to an API: URL, body → status, body.

import Configuration
import Glibc

enum PlainHTTPClient {
    private static let timeoutSeconds = 60
    private static let answerLimit = 256 << 20

    static func request(
        _ method: String, _ url: ProviderURL, path: String, _ headers: [(String, String)] = [], _ body: [UInt8] = []
    ) throws -> (status: Int, body: [UInt8]) {
        guard !url.isTLS else {
            throw Failure("--api takes http:// only. Ask from the API's machine, or through a tunnel.", status: 2)
        }
        let address = "\(url.host.contains(":") ? "[\(url.host)]" : url.host):\(url.port)"
        let socket = try connect(url, address)
        defer { close(socket) }
        // Version 1.0: the answer ends with the connection and comes unchunked.
        var head = "\(method) \(url.path)\(path) HTTP/1.0\r\nhost: \(address)\r\ncontent-length: \(body.count)\r\n"
        for (name, value) in headers {
            guard value.utf8.allSatisfy({ $0 >= 0x20 && $0 != 0x7F }) else {
                throw Failure("The value of the header \(name) holds a control character.", status: 2)
            }
            head += "\(name): \(value)\r\n"
        }
        try send(socket, Array((head + "\r\n").utf8) + body, address)
        let answer = try receive(socket, address)
        guard let end = answer.firstRange(of: Array("\r\n\r\n".utf8)) else {
            throw Failure("\(address) closed the connection without an answer. Is it Millrace's API?")
        }
        let line = String(decoding: answer[..<end.lowerBound].prefix { $0 != 0x0D }, as: UTF8.self)
        guard line.hasPrefix("HTTP/1."), let status = Int(line.split(separator: " ").dropFirst().first ?? "") else {
            throw Failure("\(address) does not speak HTTP. Is it Millrace's API?")
        }
        return (status, Array(answer[end.upperBound...]))
    }

    private static func connect(_ url: ProviderURL, _ address: String) throws -> Int32 {
        var hints = addrinfo()
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        var list: UnsafeMutablePointer<addrinfo>?
        let resolved = getaddrinfo(url.host, String(url.port), &hints, &list)
        guard resolved == 0 else {
            throw Failure("\(url.host) cannot be resolved: \(String(cString: gai_strerror(resolved))).")
        }
        defer { freeaddrinfo(list) }
        var reason = "no address"
        var next = list
        while let entry = next?.pointee {
            next = entry.ai_next
            let candidate = socket(entry.ai_family, entry.ai_socktype | Int32(SOCK_CLOEXEC.rawValue), entry.ai_protocol)
            guard candidate >= 0 else { continue }
            var limit = timeval(tv_sec: timeoutSeconds, tv_usec: 0)
            let size = socklen_t(MemoryLayout<timeval>.size)
            setsockopt(candidate, SOL_SOCKET, SO_SNDTIMEO, &limit, size)
            setsockopt(candidate, SOL_SOCKET, SO_RCVTIMEO, &limit, size)
            if Glibc.connect(candidate, entry.ai_addr, entry.ai_addrlen) == 0 { return candidate }
            reason = String(cString: strerror(errno))
            close(candidate)
        }
        throw Failure(
            "\(address) cannot be reached: \(reason). Start 'millrace up' or 'millrace api', or correct --api.")
    }

    private static func send(_ socket: Int32, _ bytes: [UInt8], _ address: String) throws {
        var sent = 0
        while sent < bytes.count {
            let count = bytes.withUnsafeBytes {
                Glibc.send(socket, $0.baseAddress?.advanced(by: sent), bytes.count - sent, Int32(MSG_NOSIGNAL))
            }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw Failure("\(address) broke off: \(String(cString: strerror(errno))).") }
            sent += count
        }
    }

    private static func receive(_ socket: Int32, _ address: String) throws -> [UInt8] {
        var out: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = recv(socket, &buffer, buffer.count, 0)
            if count == 0 { return out }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else {
                let reason = errno == EAGAIN ? "no answer in \(timeoutSeconds) s" : String(cString: strerror(errno))
                throw Failure("\(address) broke off: \(reason).")
            }
            out += buffer[..<count]
            guard out.count <= answerLimit else { throw Failure("The answer is larger than \(answerLimit) bytes.") }
        }
    }
}
