// Bytes that are held back, for a group commit: also those that waited for a slow client already.

import Glibc
import HTTPMessages
import HTTPTransport
import Synchronization
import Testing
import Threading

/// Fills the socket, and holds what it did not take.
private final class HoldingHandler: ServerHandler {
    static let size = 32 << 20
    private unowned let connection: ServerConnection
    private let holds: Int
    private let isHeld: StopSignal

    init(_ connection: ServerConnection, holds: Int, isHeld: StopSignal, made: (ServerConnection) -> Void) {
        self.connection = connection
        self.holds = holds
        self.isHeld = isHeld
        made(connection)
    }

    func requestStarted(_ head: RequestHead, bytes: Span<UInt8>, fields: [HeaderField]) {}
    var wantsBody: Bool { true }
    func requestBody(_ bytes: UnsafeRawBufferPointer) {}
    func requestReadEnded() {}
    func clientDrained() {}
    func clientLeft(timedOut: Bool) {}
    func requestRefused(_ refusal: Refusal) {}

    func requestEnded() {
        connection.output.append([UInt8](repeating: UInt8(ascii: "#"), count: Self.size))
        connection.flush()
        for _ in 0..<holds { connection.hold() }
        connection.answerEnded(keepsAlive: false)
        isHeld.stop()
    }
}

@Suite(.timeLimit(.minutes(2))) struct HoldTests {
    @Test(arguments: [1, 2]) func theLastByteLeavesWhenTheLastHoldIsReleased(_ holds: Int) throws {
        let loop = try EventLoop(name: "hold")
        let socket = try ListeningSocket("127.0.0.1:0", sharesPort: false)
        let isHeld = StopSignal()
        let connection = Mutex<LoopBound<ServerConnection>?>(nil)
        let listener = Listener(loop: loop, socket: socket, tls: nil) { made in
            HoldingHandler(made, holds: holds, isHeld: isHeld) { made in
                let bound = LoopBound(made)
                connection.withLock { $0 = bound }
            }
        }
        loop.start()
        defer {
            let bound = LoopBound(listener)
            loop.post { bound.value.close() }
            loop.stop()
        }
        let client = Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(client) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = socket.port.bigEndian
        address.sin_addr.s_addr = in_addr_t(0x7F00_0001).bigEndian
        let status = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(client, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        try #require(status == 0)
        let request = Array("GET / HTTP/1.1\r\nhost: a\r\n\r\n".utf8)
        #expect(send(client, request, request.count, Int32(MSG_NOSIGNAL)) == request.count)
        #expect(isHeld.wait(milliseconds: 60_000))

        var (received, released) = (0, 0)
        var buffer = [UInt8](repeating: 0, count: 1 << 20)
        let deadline = ContinuousClock.now.advanced(by: .seconds(60))
        while ContinuousClock.now < deadline {
            var ready = pollfd(fd: client, events: Int16(POLLIN), revents: 0)
            if poll(&ready, 1, 300) == 0 {
                // Nothing more comes: one of those that hold lets go.
                released += 1
                let bound = connection.withLock { $0 }
                loop.post { bound?.value.release() }
                continue
            }
            let count = recv(client, &buffer, buffer.count, 0)
            if count <= 0 { break }
            received += count
            if released < holds { #expect(received < HoldingHandler.size) }
        }
        #expect(received == HoldingHandler.size)
    }
}
