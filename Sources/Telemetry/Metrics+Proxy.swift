// The proxy's metrics.

import Synchronization

package struct ProxyMetrics: Sendable {
    package let accepted = Counter()
    package let recorded = Counter()
    package let waiting = Counter()
    package let dropped = Counter()
    package let refused = Counter()
    package let rejected = Counter()
    package let unauthorized = Counter()
    package let upstreamFailures = Counter()
    package let clientsLeft = Counter()
    package let metadataProblems = Counter()
    package let unpriced = Counter()
    package let overloaded = Counter()
    private let connections = Connections()

    /// Read at scrape time; a proxy that was not started has none.
    private final class Connections: Sendable {
        struct Readings {
            var open: @Sendable () -> Int64 = { 0 }
            var refused: @Sendable () -> UInt64 = { 0 }
            var rests: @Sendable () -> UInt64 = { 0 }
            var resumed: @Sendable () -> UInt64 = { 0 }
        }
        let readings = Mutex(Readings())
    }

    package init() {}

    package func watch(
        open: @escaping @Sendable () -> Int64, refused: @escaping @Sendable () -> UInt64,
        rests: @escaping @Sendable () -> UInt64, resumed: @escaping @Sendable () -> UInt64
    ) {
        connections.readings.withLock { $0 = .init(open: open, refused: refused, rests: rests, resumed: resumed) }
    }

    package var all: [Metric] {
        func counter(_ name: String, _ help: String, _ counter: Counter) -> Metric {
            Metric(name, help, .counter { counter.value })
        }
        return [
            counter(
                "millrace_proxy_exchanges_accepted_total", "Exchanges with a provider that ended, however.", accepted),
            counter("millrace_proxy_events_recorded_total", "Events that reached the journal at once.", recorded),
            counter(
                "millrace_proxy_events_waiting_total", "Events that had to wait in memory for a journal segment.",
                waiting),
            counter(
                "millrace_proxy_events_dropped_total",
                "Events lost because the journal had no room, on disk or in memory.", dropped),
            counter(
                "millrace_proxy_requests_refused_total", "Requests refused as ambiguous or oversized HTTP.", refused),
            counter(
                "millrace_proxy_requests_rejected_total", "Requests without a usable path, provider or metadata.",
                rejected),
            counter(
                "millrace_proxy_requests_unauthorized_total",
                "Requests without a valid API key of scope ingest; they leave no event.", unauthorized),
            counter(
                "millrace_proxy_upstream_failures_total",
                "Exchanges that the provider refused, broke off or did not answer.", upstreamFailures),
            counter(
                "millrace_proxy_clients_left_total", "Exchanges that the client left before their end.", clientsLeft),
            counter(
                "millrace_proxy_metadata_problems_total",
                "Events whose metadata was malformed, too large or no object.", metadataProblems),
            counter(
                "millrace_proxy_events_unpriced_total", "Events with tokens whose model has no known price.", unpriced),
            counter(
                "millrace_proxy_requests_overload_total",
                "Requests turned away because too many were under way, in all or of their key.", overloaded),
            Metric(
                "millrace_proxy_connections_open", "Connections of clients.",
                .gauge { [connections] in connections.readings.withLock { $0.open }() }),
            Metric(
                "millrace_proxy_connections_refused_total", "Connections beyond the limit, told so or closed.",
                .counter { [connections] in connections.readings.withLock { $0.refused }() }),
            Metric(
                "millrace_proxy_accept_rests_total",
                "Times that accepting rested because the process had no file descriptor left.",
                .counter { [connections] in connections.readings.withLock { $0.rests }() }),
            Metric(
                "millrace_proxy_upstream_tls_resumed_total", "TLS handshakes with providers that were short ones.",
                .counter { [connections] in connections.readings.withLock { $0.resumed }() }),
        ]
    }
}
