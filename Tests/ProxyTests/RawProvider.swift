// A provider that sends bytes as given, or does not: one thread a connection runs the test's script.

import Glibc
import Synchronization
import Threading

/// One accepted connection, blocking.
///
/// @unchecked: `tls` is set before the script has the peer, and used by its thread alone.
final class RawPeer: @unchecked Sendable {
    fileprivate let descriptor: Int32
    fileprivate var tls: RawTLS?
    /// 0 for the first connection accepted.
    let index: Int

    fileprivate init(_ descriptor: Int32, index: Int) {
        self.descriptor = descriptor
        self.index = index
        var timeout = timeval(tv_sec: 20, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
    }

    /// For `poll`.
    var pollable: Int32 { descriptor }

    /// A request's head alone; nil when the connection ends first.
    func head() -> [UInt8]? {
        var received: [UInt8] = []
        var byte: UInt8 = 0
        while !received.suffix(4).elementsEqual([13, 10, 13, 10]) {
            guard withUnsafeMutableBytes(of: &byte, { receive($0) }) == 1 else { return nil }
            received.append(byte)
        }
        return received
    }

    /// One request of a `content-length` or without body; nil when the connection ends first.
    func request() -> String? {
        guard var received = head() else { return nil }
        let head = String(decoding: received, as: UTF8.self)
        let line = head.lowercased().split(separator: "\r\n").first { $0.hasPrefix("content-length:") }
        var left = line.flatMap { Int($0.dropFirst(15).drop { $0 == " " }) } ?? 0
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while left > 0 {
            let count = buffer.withUnsafeMutableBytes {
                receive(UnsafeMutableRawBufferPointer(rebasing: $0[..<min(left, $0.count)]))
            }
            if count <= 0 { return nil }
            received += buffer[..<count]
            left -= count
        }
        return String(decoding: received, as: UTF8.self)
    }

    private func receive(_ buffer: UnsafeMutableRawBufferPointer) -> Int {
        tls?.read(buffer) ?? recv(descriptor, buffer.baseAddress, buffer.count, 0)
    }

    /// What comes next, as it is on the wire; empty at the end.
    func bytes() -> [UInt8] {
        var buffer = [UInt8](repeating: 0, count: 65_536)
        let count = recv(descriptor, &buffer, buffer.count, 0)
        return Array(buffer.prefix(max(0, count)))
    }

    /// Closes this side.
    func end() { shutdown(descriptor, Int32(SHUT_WR)) }

    /// Breaks the connection off with a reset.
    func reset() {
        var nowhere = sockaddr(sa_family: sa_family_t(AF_UNSPEC), sa_data: (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0))
        connect(descriptor, &nowhere, socklen_t(MemoryLayout<sockaddr>.size))
    }

    /// False when the peer has gone.
    @discardableResult func send(_ text: String) -> Bool { send(Array(text.utf8)) }

    @discardableResult func send(_ bytes: [UInt8]) -> Bool {
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes {
                tls?.write($0) ?? Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            if count <= 0 { return false }
            rest = rest.dropFirst(count)
        }
        return true
    }

    /// Waits for the other side to close; reads what it still sends.
    func awaitEnd() {
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while recv(descriptor, &buffer, buffer.count, 0) > 0 {}
    }
}

final class RawProvider: Sendable {
    let port: UInt16
    private let listener: Int32
    private let peers = Mutex<[RawPeer]>([])
    private let threads = Mutex<[ServiceThread]>([])
    private let accepting: ServiceThread
    private let tls: RawTLS.Context?

    /// `script` has the connection until it returns; then it is closed. `tls`: once the handshake is done.
    init(tls: RawTLS.Context? = nil, _ script: @escaping @Sendable (RawPeer) -> Void) throws {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let failed = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, size) != 0 || listen(descriptor, 64) != 0
                    || getsockname(descriptor, $0, &size) != 0
            }
        }
        self.tls = tls
        struct NotListening: Error {}
        if failed { throw NotListening() }
        listener = descriptor
        port = UInt16(bigEndian: address.sin_port)
        let pass = Pass()
        accepting = ServiceThread("raw-provider") {
            var index = 0
            while true {
                let accepted = accept(descriptor, nil, nil)
                if accepted < 0 { return }
                let peer = RawPeer(accepted, index: index)
                index += 1
                pass.take(peer, script)
            }
        }
        pass.owner.withLock { $0 = self }
    }

    /// Hands accepted connections to the provider once it is whole.
    private final class Pass: Sendable {
        let owner = Mutex<RawProvider?>(nil)
        func take(_ peer: RawPeer, _ script: @escaping @Sendable (RawPeer) -> Void) {
            while true {
                if let provider = owner.withLock({ $0 }) { return provider.run(peer, script) }
                usleep(100)
            }
        }
    }

    private func run(_ peer: RawPeer, _ script: @escaping @Sendable (RawPeer) -> Void) {
        peers.withLock { $0.append(peer) }
        let thread = ServiceThread("raw-peer") { [tls] in
            // The proxy's side says what it thinks of a handshake that came to nothing.
            if let tls { peer.tls = try? RawTLS(tls, descriptor: peer.descriptor) }
            if tls == nil || peer.tls != nil { script(peer) }
            shutdown(peer.descriptor, Int32(SHUT_RDWR))
        }
        threads.withLock { $0.append(thread) }
    }

    var connections: Int { peers.withLock { $0.count } }

    func stop() {
        shutdown(listener, Int32(SHUT_RDWR))
        accepting.join()
        close(listener)
        for peer in peers.withLock({ $0 }) { shutdown(peer.descriptor, Int32(SHUT_RDWR)) }
        for thread in threads.withLock({ $0 }) { thread.join() }
        for peer in peers.withLock({ $0 }) { close(peer.descriptor) }
    }
}
