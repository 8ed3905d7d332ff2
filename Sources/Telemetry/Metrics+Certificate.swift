// What is known of a listener's certificate. Registered where the listener has one.

package struct CertificateMetrics: Sendable {
    package let expires = Gauge()
    private let listener: String

    /// The configuration key of its address.
    package init(listener: String) { self.listener = listener }

    package var all: [Metric] {
        [
            Metric(
                "millrace_certificate_expires_seconds",
                "When the certificate of this listener ends, seconds since 1970, UTC.",
                labels: [("listener", listener)], .gauge { [expires] in expires.value })
        ]
    }
}
