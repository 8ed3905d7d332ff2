import CaptureProxy
import Events
import Foundation
import Glibc
import HTTPTransport
import Synchronization
import Telemetry
import Testing

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

/// What a client begins TLS with (RFC 8446 §4.1.2), in one record.
private enum ClientHello {
    static func isWhole(_ bytes: [UInt8]) -> Bool {
        bytes.count >= 5 && bytes.count >= 5 + Int(bytes[3]) << 8 + Int(bytes[4])
    }

    /// The name in the extension 0 (RFC 6066 §3); nil where there is none.
    static func serverName(_ bytes: [UInt8]) -> String? {
        var rest = bytes[...]
        func take(_ count: Int) -> [UInt8] {
            defer { rest = rest.dropFirst(count) }
            return Array(rest.prefix(count))
        }
        func number(_ size: Int) -> Int { take(size).reduce(0) { $0 << 8 | Int($1) } }
        // The record's and the message's heads, the version and the random bytes.
        _ = take(5 + 4 + 2 + 32)
        _ = take(number(1))
        _ = take(number(2))
        _ = take(number(1))
        _ = number(2)
        while !rest.isEmpty {
            let (type, size) = (number(2), number(2))
            let value = take(size)
            // A list's size, a name's type and size, the name.
            if type == 0 { return String(decoding: value.dropFirst(5), as: UTF8.self) }
        }
        return nil
    }
}

@Suite(.serialized, .timeLimit(.minutes(2))) struct UpstreamTLSTests {
    /// `named`: of whom the provider's certificate is.
    private func ask(
        host: String, trusting: Bool, named name: String = "localhost"
    ) throws -> (head: String, events: [RequestEvent]) {
        let certificates = try Certificates(name)
        if trusting { setenv("SSL_CERT_FILE", certificates.authority, 1) } else { unsetenv("SSL_CERT_FILE") }
        defer { unsetenv("SSL_CERT_FILE") }
        let tls = try TLSContext.server(certificate: certificates.certificate, key: certificates.key)
        let hop = try Hop(upstreamTLS: tls, upstreamHost: host, resolver: .fixed("127.0.0.1"))
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

    @Test func aProviderWithACertificateForItsNameIsAskedAndOneForAnotherIsNot() throws {
        let right = try ask(host: "provider.test", trusting: true, named: "provider.test")
        #expect(right.head.hasPrefix("HTTP/1.1 200"))
        let wrong = try ask(host: "provider.test", trusting: true, named: "other.test")
        #expect(wrong.head.hasPrefix("HTTP/1.1 502"))
        #expect(wrong.events.map(\.errorType) == ["upstream_unreachable", "upstream_unreachable"])
    }

    @Test func anAddressIsCheckedAsOne() throws {
        let (head, _) = try ask(host: "127.0.0.1", trusting: true)
        #expect(head.hasPrefix("HTTP/1.1 502"))
    }

    @Test(arguments: [("provider.test", "provider.test"), ("127.0.0.1", nil)])
    func aHandshakeThatNeverEndsIs504AndHasTheNameButNoAddress(_ host: String, _ name: String?) throws {
        let hello = Mutex<[UInt8]>([])
        let provider = try RawProvider { peer in
            while !ClientHello.isWhole(hello.withLock { $0 }) {
                let more = peer.bytes()
                if more.isEmpty { return }
                hello.withLock { $0 += more }
            }
            peer.awaitEnd()
        }
        let certificates = try Certificates()
        let tls = try TLSContext.server(certificate: certificates.certificate, key: certificates.key)
        let hop = try Hop(
            upstreamTLS: tls, upstreamHost: host, upstreamPort: provider.port, resolver: .fixed("127.0.0.1"),
            configure: { $0.upstream.connectMilliseconds = 1_000 })
        let client = try RawClient(port: hop.proxy.port)
        client.send("GET /v1/models HTTP/1.1\r\nhost: a\r\nx-portkey-provider: openai\r\n\r\n")
        let answer = try #require(client.answer())
        #expect(answer.head.hasPrefix("HTTP/1.1 504") && answer.body.contains("upstream_timeout"))
        let event = try #require(try hop.finish().first)
        #expect(event.outcome == .timeout && event.status == 504 && event.errorType == "upstream_timeout")
        let said = hello.withLock { $0 }
        #expect(ClientHello.isWhole(said) && ClientHello.serverName(said) == name)
        provider.stop()
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
