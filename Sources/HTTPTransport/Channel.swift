// One socket, plain or TLS, on one event loop: bytes in, bytes out, back-pressure both ways.
//
// Reads go into the loop's scratch buffer and straight to the owner. Writes are tried at once and the write event is
// armed only where the kernel's buffer is full: an exchange costs one epoll wait, one read and one write a side, and a
// look before a connection to a provider is used again.
// (libevent's buffer events would add an ioctl and two epoll_ctl calls to each.)

import CLibevent
import COpenSSL
import Glibc

package enum ChannelEnd: Sendable, Equatable {
    /// The peer closed in good order.
    case ended
    case failed(String)
    case timedOut
}

/// What a channel tells. Calls come on the loop's thread; after `channelClosed` none follow.
protocol ChannelOwner: AnyObject {
    /// Connected, TLS included.
    func channelOpened()
    func channelReceived(_ bytes: UnsafeRawBufferPointer)
    /// What was waiting to be written is below the low watermark again.
    func channelDrained()
    func channelClosed(_ end: ChannelEnd)
    /// The end of a channel that its owner had closed behind the last byte.
    func channelLingered()
}

final class Channel {
    private enum State { case connecting, handshaking, open, lingering, closed }

    /// Above it whoever fills `output` should stop until `channelDrained`.
    static let highWatermark = 262_144
    static let lowWatermark = 65_536
    /// How long a closed connection is read on, so that the peer gets our last bytes before a reset.
    static let lingerMilliseconds: UInt64 = 2_000

    let loop: EventLoop
    let output = OutputBuffer()
    /// On the loop's clock; `.max` for none.
    var deadline = UInt64.max
    /// How long what is written may move no byte; 0: the owner sees to it. Each byte that moves puts `deadline` off.
    var writeStallMilliseconds: UInt64 = 0
    private let descriptor: Int32
    private var tls: OpaquePointer?
    private var readEvent: OpaquePointer?
    private var writeEvent: OpaquePointer?
    private var state: State
    private var isReading = false
    private var isWriteArmed = false
    private var wasHigh = false
    private var closesWhenFlushed = false
    /// After a failure TLS may not be spoken any more, not even goodbye.
    private var hasFailed = false
    /// How many hold back what is written, for a group commit: bytes leave again when the last has let go.
    private var holds = 0
    var isHeld: Bool { holds > 0 }
    // The owner holds the channel and the channel the owner, until `close` cuts both.
    private var owner: (any ChannelOwner)?

    /// Takes the descriptor over (non-blocking already). `tls`, if any, is taken over too.
    init(loop: EventLoop, descriptor: Int32, tls: OpaquePointer?, isConnecting: Bool) {
        self.loop = loop
        self.descriptor = descriptor
        self.tls = tls
        state = isConnecting ? .connecting : tls == nil ? .open : .handshaking
    }

    deinit { if let tls { SSL_free(tls) } }

    var isOpen: Bool { state == .open }
    var isClosed: Bool { state == .closed }
    var isAboveHighWatermark: Bool { output.count > Self.highWatermark }

    func start(owner: any ChannelOwner) {
        self.owner = owner
        let context = Unmanaged.passUnretained(self).toOpaque()
        readEvent = event_new(
            loop.base, descriptor, Int16(EV_READ | EV_PERSIST), { _, _, context in Channel.from(context)?.readable() },
            context)
        writeEvent = event_new(
            loop.base, descriptor, Int16(EV_WRITE | EV_PERSIST), { _, _, context in Channel.from(context)?.writable() },
            context)
        loop.hold(self)
        if state == .connecting {
            armWrite()
        } else {
            resumeReading()
            if state == .handshaking { handshake() }
        }
    }

    private static func from(_ context: UnsafeMutableRawPointer?) -> Channel? {
        context.map { Unmanaged<Channel>.fromOpaque($0).takeUnretainedValue() }
    }

    // MARK: Reading

    func pauseReading() {
        guard isReading, state == .open else { return }
        isReading = false
        event_del(readEvent)
    }

    func resumeReading() {
        guard !isReading, state != .closed else { return }
        isReading = true
        event_add(readEvent, nil)
        // Bytes that OpenSSL has decrypted already wake nobody.
        if let tls, state == .open, SSL_pending(tls) > 0 { event_active(readEvent, Int32(EV_READ), 0) }
    }

    /// The peer has neither said anything nor closed. Of TLS what is no data, such as a session's ticket, is worked in.
    var isQuiet: Bool {
        guard state == .open else { return false }
        var byte: UInt8 = 0
        guard let tls else {
            return recv(descriptor, &byte, 1, Int32(MSG_PEEK) | Int32(MSG_DONTWAIT)) < 0
                && (errno == EAGAIN || errno == EINTR)
        }
        ERR_clear_error()
        let count = SSL_peek(tls, &byte, 1)
        return count <= 0 && SSL_get_error(tls, count) == SSL_ERROR_WANT_READ && SSL_has_pending(tls) == 0
    }

    private func readable() {
        loop.markNow()
        switch state {
        case .open, .lingering: receive()
        case .handshaking: handshake()
        case .connecting, .closed: break
        }
    }

    private func receive() {
        while true {
            let count: Int
            if let tls {
                ERR_clear_error()
                count = Int(SSL_read(tls, loop.scratch.baseAddress, Int32(loop.scratch.count)))
                if count <= 0 {
                    switch SSL_get_error(tls, Int32(count)) {
                    case SSL_ERROR_WANT_READ: return
                    case SSL_ERROR_WANT_WRITE: return armWrite()
                    case SSL_ERROR_ZERO_RETURN: return end(.ended)
                    default: return end(.failed(TLSContext.lastError()))
                    }
                }
            } else {
                count = recv(descriptor, loop.scratch.baseAddress, loop.scratch.count, 0)
                if count == 0 { return end(.ended) }
                if count < 0 {
                    if errno == EAGAIN || errno == EINTR { return }
                    return end(.failed(String(cString: strerror(errno))))
                }
            }
            if state == .open { owner?.channelReceived(UnsafeRawBufferPointer(rebasing: loop.scratch[..<count])) }
            // A plain socket that has more wakes us again; OpenSSL may hold what will not.
            guard let tls, isReading, state == .open, SSL_pending(tls) > 0 else { return }
        }
    }

    // MARK: Writing

    /// Also what already waits for the socket to take it stays.
    func hold() {
        holds += 1
        disarmWrite()
    }

    /// True when nobody holds it any more: then the caller flushes.
    func letGo() -> Bool {
        guard holds > 0 else { return false }
        holds -= 1
        return holds == 0
    }

    /// Writes what it can of `output` now, and the rest when the socket takes it.
    func flush() {
        guard !isHeld, state == .open || state == .lingering, !isWriteArmed else { return }
        write()
    }

    private func write() {
        while !output.isEmpty {
            let bytes = output.bytes
            let count: Int
            if let tls {
                ERR_clear_error()
                count = Int(SSL_write(tls, bytes.baseAddress, Int32(clamping: bytes.count)))
                if count <= 0 {
                    switch SSL_get_error(tls, Int32(count)) {
                    case SSL_ERROR_WANT_WRITE: return armWrite()
                    case SSL_ERROR_WANT_READ: return
                    default: return end(.failed(TLSContext.lastError()))
                    }
                }
            } else {
                count = send(descriptor, bytes.baseAddress, bytes.count, Int32(MSG_NOSIGNAL))
                if count < 0 {
                    if errno == EAGAIN { return armWrite() }
                    if errno == EINTR { continue }
                    return end(.failed(String(cString: strerror(errno))))
                }
            }
            output.consume(count)
        }
        disarmWrite()
        if closesWhenFlushed { linger() }
    }

    private func armWrite() {
        wasHigh = wasHigh || isAboveHighWatermark
        guard !isWriteArmed else { return }
        isWriteArmed = true
        event_add(writeEvent, nil)
    }

    private func disarmWrite() {
        guard isWriteArmed else { return }
        isWriteArmed = false
        event_del(writeEvent)
    }

    private func writable() {
        loop.markNow()
        switch state {
        case .connecting: finishConnecting()
        case .handshaking: handshake()
        case .open, .lingering:
            if state == .open, writeStallMilliseconds > 0, deadline != .max {
                deadline = loop.now + writeStallMilliseconds
            }
            if output.isEmpty || isHeld { disarmWrite() } else { write() }
            if state == .open, output.count <= Self.lowWatermark, wasHigh || output.isEmpty {
                wasHigh = false
                owner?.channelDrained()
            }
        case .closed: break
        }
    }

    // MARK: Opening

    private func finishConnecting() {
        var status: Int32 = 0
        var size = socklen_t(MemoryLayout<Int32>.size)
        getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &status, &size)
        if status != 0 { return end(.failed(String(cString: strerror(status)))) }
        disarmWrite()
        resumeReading()
        if tls != nil {
            state = .handshaking
            handshake()
        } else {
            opened()
        }
    }

    private func handshake() {
        guard let tls else { return }
        ERR_clear_error()
        let status = SSL_do_handshake(tls)
        if status == 1 {
            disarmWrite()
            TLSContext.handshakeEnded(tls)
            return opened()
        }
        switch SSL_get_error(tls, status) {
        case SSL_ERROR_WANT_READ: disarmWrite()
        case SSL_ERROR_WANT_WRITE: armWrite()
        default: end(.failed(TLSContext.handshakeError(tls)))
        }
    }

    private func opened() {
        state = .open
        owner?.channelOpened()
        if state == .open { flush() }
        if let tls, state == .open, SSL_pending(tls) > 0 { receive() }
    }

    // MARK: Closing

    func deadlinePassed() {
        deadline = .max
        end(.timedOut)
    }

    /// The loop ends: the owner is told, so that an exchange in progress is recorded.
    func abandon() { end(.ended) }

    /// Sends what is waiting, then closes, giving the peer a moment to read it.
    func closeWhenFlushed() {
        guard state == .open else { return close() }
        closesWhenFlushed = true
        if output.isEmpty && !isHeld { linger() } else { flush() }
    }

    private func linger() {
        guard state == .open else { return }
        state = .lingering
        if let tls { SSL_shutdown(tls) }
        shutdown(descriptor, Int32(SHUT_WR))
        deadline = loop.now + Self.lingerMilliseconds
        resumeReading()
    }

    private func end(_ end: ChannelEnd) {
        let owner = self.owner
        let wasLingering = state == .lingering
        if case .failed = end { hasFailed = true }
        close()
        if wasLingering { owner?.channelLingered() } else { owner?.channelClosed(end) }
    }

    /// At once, telling nobody: for an owner that has decided.
    func close() {
        guard state != .closed else { return }
        // Without a goodbye OpenSSL takes the session for a bad one: no later connection could go on from it.
        if let tls, state == .open, !hasFailed { SSL_shutdown(tls) }
        state = .closed
        deadline = .max
        if let readEvent { event_free(readEvent) }
        if let writeEvent { event_free(writeEvent) }
        readEvent = nil
        writeEvent = nil
        Glibc.close(descriptor)
        owner = nil
        output.clear()
        loop.drop(self)
    }
}
