// Log lines of a process as a whole: start, stop, and what an operator should know about the way it runs.

extension LogLine {
    package static func stopping(signal: String) -> LogLine {
        LogLine(.info, "stopping", "\(signal) came: finishing what is held. A second one ends at once.")
    }

    package static func stopped() -> LogLine { LogLine(.info, "stopped", "Everything held is flushed.") }

    package static func stopOverdue(seconds: Int) -> LogLine {
        LogLine(
            .error, "stop_overdue",
            "Not stopped after \(seconds) seconds; ending now. What is in the journal and the log is read again at the "
                + "next start.")
    }

    package static func authOpen() -> LogLine {
        LogLine(
            .warning, "auth_open",
            "auth.mode is open: nobody is asked for a key, and every event belongs to the workspace 'default'. Set "
                + "auth.mode: keys before others can reach this.")
    }

    package static func opsListening(address: String) -> LogLine {
        LogLine(
            .info, "ops_listening", "/livez, /readyz and /metrics are answered on \(address).",
            [("address", .text(address))])
    }

    package static func supervisorUnreachable(reason: String) -> LogLine {
        LogLine(
            .warning, "supervisor_unreachable",
            "The socket that NOTIFY_SOCKET names takes nothing (\(reason)): systemd does not learn how this process "
                + "does. Set Type=exec and no WatchdogSec, or let it reach the socket.")
    }

    package static func serviceFailed(_ service: String, _ reason: String) -> LogLine {
        LogLine(.error, "service_failed", "\(service) cannot go on: \(reason)", [("service", .text(service))])
    }
}

extension LogLine {
    package static func mockProviderStarted(url: String) -> LogLine {
        LogLine(.info, "mock_provider_started", "The mock provider answers on \(url).", [("url", .text(url))])
    }

    package static func apiStarted(address: String) -> LogLine {
        LogLine(.info, "api_started", "The API and the page are on \(address).", [("address", .text(address))])
    }

    package static func demoRequestFailed(reason: String) -> LogLine {
        LogLine(.warning, "demo_request_failed", "A request of the demo's traffic got no answer: \(reason).")
    }
}
