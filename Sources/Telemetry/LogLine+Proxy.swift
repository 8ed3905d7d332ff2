// The proxy's log lines.

extension LogLine {
    package static func proxyStarted(address: String, loops: Int) -> LogLine {
        LogLine(
            .info, "proxy_started", "The proxy takes requests on \(address).",
            [("address", .text(address)), ("loops", .number(Int64(loops)))])
    }

    package static func proxyStopped() -> LogLine {
        LogLine(.info, "proxy_stopped", "The proxy has answered what it held and stopped.")
    }

    package static func resolverStuck(lookUps: Int) -> LogLine {
        LogLine(
            .warning, "resolver_stuck",
            "\(lookUps) look-ups of providers' names did not come back within a second; they end with the process. "
                + "Check the name servers (/etc/resolv.conf).",
            [("look_ups", .number(Int64(lookUps)))])
    }

    package static func certificateReloaded(listener: String) -> LogLine {
        LogLine(
            .info, "certificate_reloaded", "New connections to \(listener) see the certificate as read anew.",
            [("listener", .text(listener))])
    }

    package static func certificateNotReloaded(listener: String, reason: String) -> LogLine {
        LogLine(
            .error, "certificate_not_reloaded",
            "The certificate of \(listener) stays as it was, since the new one cannot be used: \(reason)",
            [("listener", .text(listener))])
    }

    package static func upstreamFailed(provider: String, code: String, reason: String) -> LogLine {
        LogLine(
            .warning, "upstream_failed", "The provider \(provider) did not answer: \(reason).",
            [("provider", .text(provider)), ("failure", .text(code))])
    }
}
