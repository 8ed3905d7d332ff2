// A listener's certificate: read at the start, read anew at SIGHUP; when it ends is a metric.

import Configuration
import HTTPTransport
import Telemetry

struct ListenerCertificate: Sendable {
    let context: TLSContext
    private let files: MillraceConfiguration.TLS
    private let listener: String
    private let metrics: CertificateMetrics
    private let log: Log

    /// nil where the listener has none. `listener`: its key, as alerts and log lines name it.
    init?(_ files: MillraceConfiguration.TLS?, of listener: String, _ running: Running) throws(HTTPTransportError) {
        guard let files else { return nil }
        context = try files.context()
        self.files = files
        self.listener = listener
        log = running.log
        metrics = CertificateMetrics(listener: listener)
        metrics.expires.set(context.certificateExpires ?? 0)
        running.metrics.register(metrics.all)
    }

    /// From here on SIGHUP reads the files; `use` gives the listener what they hold, for connections from then on. Files
    /// that cannot be used change nothing.
    func whenRead(anew use: @escaping @Sendable (TLSContext) -> Void, _ running: Running) {
        running.onReload { [self] in
            do throws(HTTPTransportError) {
                let fresh = try files.context()
                use(fresh)
                metrics.expires.set(fresh.certificateExpires ?? 0)
                log(.certificateReloaded(listener: listener))
            } catch {
                log(.certificateNotReloaded(listener: listener, reason: error.description))
            }
        }
    }
}

extension MillraceConfiguration.TLS {
    func context() throws(HTTPTransportError) -> TLSContext {
        try TLSContext.server(certificate: certificate, key: key)
    }
}
