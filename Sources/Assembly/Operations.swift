// /livez, /readyz and /metrics: what a role says about itself.

import Configuration
import HTTPTransport
import JSONText
import Telemetry

/// What may be wrong with a role. A problem that is not `isNeeded` leaves it ready and stands in the answer.
struct HealthCheck: Sendable {
    var name: String
    var isNeeded: Bool
    /// A problem here is the process's own: a new one would be without it.
    var isCuredByRestart = false
    /// nil while all is well.
    var problem: @Sendable () -> String?

    /// Event loops that have stopped turning. `silence`: of the one that has stood longest.
    static func loops(_ name: String, _ silence: @escaping @Sendable () -> Duration) -> HealthCheck {
        HealthCheck(name: name, isNeeded: true, isCuredByRestart: true) {
            let silence = silence()
            return silence < .seconds(10) ? nil : "an event loop has not turned for \(silence.components.seconds) s"
        }
    }
}

struct Operations: Sendable {
    let metrics: MetricsRegistry
    let checks: [HealthCheck]

    /// nil for any other path.
    func answer(_ request: HTTPRequest) -> HTTPResponse? {
        guard ["/livez", "/readyz", "/metrics"].contains(request.path) else { return nil }
        guard request.method == "GET" || request.method == "HEAD" else {
            var response = HTTPResponse.text(405, "GET only\n")
            response.headers.append(("allow", "GET, HEAD"))
            return response
        }
        switch request.path {
        case "/livez": return .text(200, "ok\n")
        case "/readyz": return readiness()
        default:
            var response = HTTPResponse.text(200, metrics.render())
            response.headers = [("content-type", "text/plain; version=0.0.4; charset=utf-8")]
            return response
        }
    }

    /// What does not work or works less well, a sentence each.
    struct State {
        var isReady = true
        var isStuck = false
        var degraded: [String] = []
    }

    func state() -> State {
        var state = State()
        for check in checks {
            guard let problem = check.problem() else { continue }
            if check.isNeeded { state.isReady = false }
            if check.isCuredByRestart { state.isStuck = true }
            state.degraded.append("\(check.name): \(problem)")
        }
        return state
    }

    private func readiness() -> HTTPResponse {
        let state = state()
        let body: JSONValue = [
            "ready": .boolean(state.isReady), "degraded": .array(state.degraded.map { .string($0) }),
        ]
        return .json(state.isReady ? 200 : 503, body.text)
    }

    /// A listener for these three paths alone. `key`: where its address stands in the configuration.
    func serve(
        on address: ListenAddress, _ key: String, tls: MillraceConfiguration.TLS?, sharesPort: Bool = false,
        _ running: Running
    ) throws(HTTPTransportError) {
        let certificate = try ListenerCertificate(tls, of: key, running)
        let server = try HTTPServer(
            listen: address.description, name: "ops", workers: 1, bodyLimit: 1 << 16, sharesPort: sharesPort,
            tls: certificate?.context, log: running.log
        ) { [self] request in
            answer(request) ?? .text(404, "Only /livez, /readyz and /metrics are answered here.\n")
        }
        certificate?.whenRead(anew: { server.use($0) }, running)
        running.onStop { server.stop() }
        running.log(.opsListening(address: ListenAddress(host: address.host, port: server.port).description))
    }
}
