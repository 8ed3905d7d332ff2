// Placeholder: the interface that services are written against.

package import Telemetry

package final class HTTPServer: Sendable {
    /// `listen` is `HOST:PORT`; port 0 picks a free one. `workers` threads run the responder.
    package init(
        listen: String, name: String, workers: Int, bodyLimit: Int, log: Log, responder: @escaping HTTPResponder
    ) throws(HTTPTransportError) {
        throw HTTPTransportError(code: .listen, tried: "listen on \(listen)", reason: "not built yet", next: "")
    }

    /// The port in use.
    package let port: UInt16 = 0

    /// Finishes what is being answered (bounded), then closes.
    package func stop() {}
}

/// What went wrong with a listener or a loop, for an operator.
package struct HTTPTransportError: Error, Sendable, CustomStringConvertible {
    package enum Code: String, Sendable { case listen, tls, loop }
    package var code: Code
    package var tried: String
    package var reason: String
    package var next: String

    package init(code: Code, tried: String, reason: String, next: String) {
        self.code = code
        self.tried = tried
        self.reason = reason
        self.next = next
    }

    package var description: String { "\(tried): \(reason). \(next)" }
}
