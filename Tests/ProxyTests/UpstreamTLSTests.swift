import CaptureProxy
import Events
import Glibc
import HTTPTransport
import Telemetry
import Testing

/// A certificate authority of the test's own and a certificate for `localhost`, as PEM files.
private struct Certificates {
    let directory: String
    var authority: String { directory + "/ca.pem" }
    var certificate: String { directory + "/cert.pem" }
    var key: String { directory + "/key.pem" }

    init() throws {
        directory = "/tmp/millrace-tls-tests-\(getpid())-\(UInt32.random(in: 0 ... .max))"
        mkdir(directory, 0o700)
        let d = directory
        let script = """
            cd \(d) && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem \
            -subj /CN=test-ca -days 2 2>/dev/null && openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
            -keyout key.pem -out cert.csr -subj /CN=localhost 2>/dev/null && printf 'subjectAltName=DNS:localhost' > ext && \
            openssl x509 -req -in cert.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out cert.pem -days 2 -extfile ext 2>/dev/null
            """
        struct OpenSSLFailed: Error {}
        if system(script) != 0 { throw OpenSSLFailed() }
    }
}

@Suite(.serialized, .timeLimit(.minutes(2))) struct UpstreamTLSTests {
    private func ask(host: String, trusting: Bool) throws -> (head: String, events: [RequestEvent]) {
        let certificates = try Certificates()
        if trusting { setenv("SSL_CERT_FILE", certificates.authority, 1) } else { unsetenv("SSL_CERT_FILE") }
        defer { unsetenv("SSL_CERT_FILE") }
        let tls = try TLSContext.server(certificate: certificates.certificate, key: certificates.key)
        let hop = try Hop(upstreamTLS: tls, upstreamHost: host)
        let client = try RawClient(port: hop.proxy.port)
        var head = ""
        for _ in 0..<2 {
            client.send(
                "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx-portkey-provider: openai\r\ncontent-length: 2\r\n\r\n{}"
            )
            head = try #require(client.answer()).head
        }
        return (head, try hop.finish())
    }

    @Test func aVerifiedProviderIsAsked() throws {
        let (head, events) = try ask(host: "localhost", trusting: true)
        #expect(head.hasPrefix("HTTP/1.1 200"))
        #expect(events.map(\.outcome) == [.success, .success])
    }

    @Test func aProviderWithAnUnknownAuthorityIsNot() throws {
        let (head, events) = try ask(host: "localhost", trusting: false)
        #expect(head.hasPrefix("HTTP/1.1 502"))
        #expect(events.map(\.outcome) == [.providerError, .providerError])
    }

    @Test func aProviderOfAnotherNameIsNot() throws {
        let (head, _) = try ask(host: "127.0.0.1", trusting: true)
        #expect(head.hasPrefix("HTTP/1.1 502"))
    }
}
