// Streamed answers: as fast as the client takes them, whole or visibly cut, and nothing left behind.

import Glibc
import HTTPTransport
import Synchronization
import Telemetry
import Testing
import Threading

/// A socket that reads when it is told to.
private final class SlowClient {
    private let descriptor: Int32

    init(port: UInt16) throws {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        // What waits in the kernel is little, so that the server feels a client that does not read.
        var size: Int32 = 4_096
        setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &size, socklen_t(MemoryLayout<Int32>.size))
        var limit = timeval(tv_sec: 20, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = in_addr_t(0x7F00_0001).bigEndian
        let status = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        try #require(status == 0)
    }

    deinit { leave() }

    func leave() { shutdown(descriptor, Int32(SHUT_RDWR)) }

    func send(_ text: String) {
        let bytes = Array(text.utf8)
        Glibc.send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL))
    }

    /// Everything until the server closes.
    func rest() -> String {
        var out: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = recv(descriptor, &buffer, buffer.count, 0)
            if count <= 0 { return String(decoding: out, as: UTF8.self) }
            out += buffer[..<count]
        }
    }
}

@Suite struct StreamTests {
    private static let part = [UInt8](repeating: UInt8(ascii: "#"), count: 65_536)

    private final class Progress: Sendable {
        let written = Atomic<Int>(0)
        let ended = StopSignal()
    }

    private func server(parts: Int, whole: Bool = true, _ progress: Progress) throws -> HTTPServer {
        try HTTPServer(
            listen: "127.0.0.1:0", name: "stream", workers: 1, bodyLimit: 1_000, log: Log(role: "t", observe: nil)
        ) { _ in
            var response = HTTPResponse.text(200, "begin\n")
            response.stream = { sink in
                defer { progress.ended.stop() }
                for _ in 0..<parts {
                    guard sink.write(Self.part) else { return false }
                    progress.written.wrappingAdd(1, ordering: .relaxed)
                }
                return whole
            }
            return response
        }
    }

    @Test("A client that does not read holds the writer back; one that reads gets everything")
    func waitsForTheClient() throws {
        let progress = Progress()
        let server = try server(parts: 800, progress)
        defer { server.stop() }
        let client = try SlowClient(port: server.port)
        client.send("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        // 50 MB do not fit in any buffer between the two.
        #expect(!progress.ended.wait(milliseconds: 500))
        #expect(progress.written.load(ordering: .relaxed) < 400)
        let answer = client.rest()
        #expect(answer.hasSuffix("\r\n0\r\n\r\n"))
        #expect(answer.utf8.count { $0 == UInt8(ascii: "#") } == 800 * Self.part.count)
        #expect(progress.ended.wait(milliseconds: 5_000))
    }

    @Test("A client of version 1.0 gets no chunks; a HEAD gets no body")
    func knowsOldClients() throws {
        let progress = Progress()
        let server = try server(parts: 2, progress)
        defer { server.stop() }
        let client = try SlowClient(port: server.port)
        client.send("GET / HTTP/1.0\r\n\r\n")
        let answer = client.rest()
        #expect(!answer.lowercased().contains("transfer-encoding"))
        #expect(answer.hasSuffix("\r\n\r\nbegin\n" + String(decoding: Self.part + Self.part, as: UTF8.self)))
        let asking = try SlowClient(port: server.port)
        asking.send("HEAD / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        #expect(asking.rest().hasSuffix("\r\n\r\n"))
    }

    @Test("What cannot be sent to its end ends without the last chunk")
    func cutsWhatIsNotWhole() throws {
        let progress = Progress()
        let server = try server(parts: 2, whole: false, progress)
        defer { server.stop() }
        let client = try SlowClient(port: server.port)
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        #expect(!client.rest().hasSuffix("0\r\n\r\n"))
    }

    @Test("A client that leaves, and a server that stops, end the writer")
    func endsTheWriter() throws {
        let left = Progress()
        let server = try server(parts: 100_000, left)
        let client = try SlowClient(port: server.port)
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        #expect(!left.ended.wait(milliseconds: 200))
        client.leave()
        #expect(left.ended.wait(milliseconds: 10_000))
        // The one worker is free again.
        let next = try SlowClient(port: server.port)
        next.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        server.stop()
        #expect(left.ended.isStopped)
    }
}
