import CaptureProxy
import Events
import Foundation
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

/// OpenSSL's own server, which answers every `GET` with a page about the connection it came on, and closes.
private final class SessionServer {
    let port: UInt16
    private let pid: pid_t

    init(_ certificates: Certificates, _ version: String) throws {
        struct NotListening: Error { var output: String }
        let output = certificates.directory + "/server.out"
        let command = [
            "openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", certificates.certificate, "-key",
            certificates.key, "-www", version,
        ]
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, 1, output, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
        posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0)
        let arguments = command.map { strdup($0) } + [nil]
        defer { for text in arguments { free(text) } }
        var made: pid_t = 0
        guard posix_spawnp(&made, command[0], &actions, nil, arguments, environ) == 0 else {
            throw NotListening(output: "not started")
        }
        // `ACCEPT 127.0.0.1:PORT`, when it listens.
        let deadline = ContinuousClock.now.advanced(by: .seconds(20))
        var text = ""
        var found: UInt16?
        while found == nil, ContinuousClock.now < deadline {
            text = (try? String(contentsOfFile: output, encoding: .utf8)) ?? ""
            if let line = text.split(separator: "\n", omittingEmptySubsequences: false).dropLast()
                .first(where: { $0.hasPrefix("ACCEPT ") })
            {
                found = line.split(separator: ":").last.flatMap { UInt16($0) }
            }
            usleep(2_000)
        }
        guard let found else {
            kill(made, SIGKILL)
            throw NotListening(output: text)
        }
        (port, pid) = (found, made)
    }

    deinit {
        kill(pid, SIGKILL)
        var status: Int32 = 0
        waitpid(pid, &status, 0)
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

    @Test(arguments: ["-tls1_2", "-tls1_3"])
    func aConnectionGoesOnFromTheSessionOfTheOneBefore(_ version: String) throws {
        let certificates = try Certificates()
        setenv("SSL_CERT_FILE", certificates.authority, 1)
        defer { unsetenv("SSL_CERT_FILE") }
        let server = try SessionServer(certificates, version)
        let tls = try TLSContext.server(certificate: certificates.certificate, key: certificates.key)
        let hop = try Hop(upstreamTLS: tls, upstreamHost: "localhost", upstreamPort: server.port)
        var handshakes: [String] = []
        for _ in 0..<4 {
            let client = try RawClient(port: hop.proxy.port)
            client.send("GET /v1/models HTTP/1.1\r\nhost: a\r\nx-portkey-provider: openai\r\nconnection: close\r\n\r\n")
            let page = client.rest()
            #expect(page.hasPrefix("HTTP/1.1 200"), "\(page.prefix(300))")
            handshakes += page.split(separator: "\n").filter { $0.hasPrefix("New, ") || $0.hasPrefix("Reused, ") }
                .map { String($0.prefix { $0 != "," }) }
        }
        #expect(handshakes == ["New", "Reused", "Reused", "Reused"])
        let metrics = MetricsRegistry()
        metrics.register(hop.metrics.all)
        #expect(metrics.render().contains("\nmillrace_proxy_upstream_tls_resumed_total 3\n"))
        #expect(try hop.finish().map(\.outcome) == Array(repeating: .success, count: 4))
    }
}
