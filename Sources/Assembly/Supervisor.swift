// What systemd is told: the process works, how it goes, it stops. One datagram each to the socket that NOTIFY_SOCKET
// names, lines of NAME=VALUE, as sd_notify(3) has it; nothing of libsystemd is needed.
//
// The beat comes from a thread that asks every health check first: a check waits for the lock of the service that it
// asks, so a service that is stuck with its lock held stops the beat, and systemd restarts the process. So does a check
// whose problem a restart cures: an event loop that has stopped turning. A check that answers "the store is away" does
// not: restarting would not help.

import Glibc
import Telemetry
import Threading

final class Supervisor: Sendable {
    private let address: [UInt8]
    /// Between two beats; a third of what systemd allows.
    private let pauseMilliseconds: Int
    private let log: Log

    /// Without a watchdog the status alone is kept up to date.
    private static let statusPauseMilliseconds = 5_000

    /// nil where nobody listens.
    init?(_ environment: [String: String], log: Log) {
        guard let socket = environment["NOTIFY_SOCKET"], !socket.isEmpty else { return nil }
        var bytes = Array(socket.utf8)
        // A name that begins with @ is in no directory: its first byte is 0.
        if bytes[0] == UInt8(ascii: "@") { bytes[0] = 0 }
        address = bytes
        self.log = log
        let isMeant = environment["WATCHDOG_PID"].map { $0 == String(getpid()) } ?? true
        if isMeant, let microseconds = environment["WATCHDOG_USEC"].flatMap({ Int($0) }), microseconds > 0 {
            pauseMilliseconds = max(1, microseconds / 3_000)
        } else {
            pauseMilliseconds = Self.statusPauseMilliseconds
        }
    }

    /// Says that the process has started, then how it goes, until `stop`.
    func watch(_ operations: Operations, _ stop: StopSignal) {
        guard tell("READY=1\n" + Self.status(operations.state())) else { return }
        while !stop.wait(milliseconds: pauseMilliseconds) {
            let state = operations.state()
            if !tell((state.isStuck ? "" : "WATCHDOG=1\n") + Self.status(state)) { return }
        }
    }

    func stopping() { _ = tell("STOPPING=1\nSTATUS=Stopping.\n") }

    /// For `systemctl status`.
    private static func status(_ state: Operations.State) -> String {
        let text =
            state.degraded.isEmpty
            ? "Ready." : (state.isReady ? "Ready; " : "Not ready: ") + state.degraded.joined(separator: "; ")
        return "STATUS=" + String(text.unicodeScalars.map { $0.value < 0x20 ? " " : Character($0) }) + "\n"
    }

    /// False, and said once, where the socket takes nothing: systemd then acts as it does for a process that hangs.
    private func tell(_ text: String) -> Bool {
        let failure = send(Array(text.utf8))
        if failure != 0 { log(.supervisorUnreachable(reason: String(cString: strerror(failure)))) }
        return failure == 0
    }

    private func send(_ text: [UInt8]) -> Int32 {
        var target = sockaddr_un()
        target.sun_family = sa_family_t(AF_UNIX)
        let room = MemoryLayout.size(ofValue: target.sun_path)
        guard address.count < room else { return ENAMETOOLONG }
        withUnsafeMutableBytes(of: &target.sun_path) { $0.copyBytes(from: address) }
        // Without the byte 0 behind it: a name in no directory would be another one with it.
        let length = socklen_t(MemoryLayout.offset(of: \sockaddr_un.sun_path).map { $0 + address.count } ?? 0)
        let socket = Glibc.socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard socket >= 0 else { return errno }
        defer { close(socket) }
        let sent = withUnsafePointer(to: &target) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                sendto(socket, text, text.count, Int32(MSG_NOSIGNAL), $0, length)
            }
        }
        return sent < 0 ? errno : 0
    }
}
