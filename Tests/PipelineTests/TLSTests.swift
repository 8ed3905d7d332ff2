// TLS and passwords on every wire: real servers, certificates made here, configured as docs/operating.md says.

import CRDKafka
import Glibc
import JSONText
import Simulation
import Testing

extension PipelineTests {
    @Suite(.serialized, .timeLimit(.minutes(5))) struct TLSTests {
        /// Nothing that a process said or wrote holds a password.
        private func expectNoSecrets(_ pipeline: Pipeline, _ outputs: [String] = []) throws {
            #expect(try pipeline.work.files(containing: Secret.mark).isEmpty)
            for output in outputs { #expect(!output.contains(Secret.mark), "\(output)") }
        }

        private func command(
            _ words: [String], _ pipeline: Pipeline, _ environment: [String: String] = [:]
        ) throws -> (status: Int32, text: String) {
            let result = try run(
                [Place.binary] + words + ["--config", "\(pipeline.work.path)/millrace.yaml"],
                directory: pipeline.work.path, environment: environment)
            return (result.status, result.output + result.errors)
        }

        // MARK: Kafka

        @Test("Kafka over TLS, by a client's certificate, by name and password", arguments: ["3.9.2", "4.2.0"])
        func kafka(_ version: String) throws {
            let kafka = try SecureKafka(version)
            for wire in SecureKafka.Wire.allCases {
                let pipeline = try Pipeline("tls", log: kafka.log(wire))
                let ensured = try command(["topics", "ensure"], pipeline, wire.environment())
                try expectNoSecrets(pipeline, [ensured.text])
                if wire.isSCRAM && !kafka.takesSCRAM {
                    #expect(ensured.status == 1)
                    #expect(ensured.text.contains("librdkafka before 2.6.1"), "\(ensured.text)")
                    continue
                }
                #expect(ensured.status == 0, "\(wire): \(ensured.text)")
                let loaded = try command(["loadgen", "--events", "200"], pipeline, wire.environment())
                #expect(loaded.status == 0, "\(wire): \(loaded.text)")
                try pipeline.start(.consumer, environment: wire.environment())
                try waitUntil("\(wire): all is applied", seconds: 60, detail: { pipeline.errors(of: .consumer) }) {
                    try pipeline.offsets().reduce(0) { $0 + $1.next } >= 200
                }
                try pipeline.stop(.consumer)
                let printed = try command(["config", "print"], pipeline, wire.environment())
                try expectNoSecrets(pipeline, [loaded.text, printed.text])
            }
        }

        @Test("A broker of another authority and another password are refused, with what to do")
        func kafkaRefuses() throws {
            let kafka = try SecureKafka("3.9.2")
            for wire in SecureKafka.Wire.allCases {
                let (log, words) =
                    switch wire {
                    case .tls:
                        (
                            try kafka.log(wire, trusting: kafka.certificates.wrongAuthority),
                            ["certificate verify failed", "ssl.ca.location"]
                        )
                    case .certified:
                        // As a client without a certificate would go there.
                        (try kafka.log(.tls, on: wire), ["SSL alert", "ssl.certificate.location"])
                    case .plain, .plainOverTLS, .scram256, .scram512:
                        (try kafka.log(wire), ["uthentication failed", "sasl.username"])
                    }
                let pipeline = try Pipeline("tls", log: log)
                let looked = try command(["doctor"], pipeline, wire.environment(password: "\(Secret.mark)-other"))
                #expect(looked.status == 1, "\(wire): \(looked.text)")
                for word in words { #expect(looked.text.contains(word), "\(wire), \(word): \(looked.text)") }
                try expectNoSecrets(pipeline, [looked.text])
            }
        }

        // MARK: PostgreSQL

        @Test("PostgreSQL over TLS: its name and its authority are looked at")
        func postgresql() throws {
            let server = try SecurePostgreSQL()
            for look in [
                Look(mode: "verify-full"), Look(mode: "verify-full", host: "127.0.0.1"),
                Look(mode: "verify-ca", host: "other.example"),
                Look(mode: "verify-full", host: "other.example", words: ["does not match host name", "sslrootcert"]),
                Look(mode: "verify-full", isTrusted: false, words: ["certificate verify failed", "sslrootcert"]),
                Look(mode: "verify-ca", isTrusted: false, words: ["certificate verify failed", "sslrootcert"]),
                Look(mode: "disable", words: ["no encryption", "sslmode=verify-full"]),
                Look(
                    mode: "verify-full", password: "\(Secret.mark)-other",
                    words: ["password authentication failed", "passfile"]),
                Look(mode: "verify-full", database: "certified", password: "", isCertified: true),
                Look(
                    mode: "verify-full", database: "certified",
                    words: ["requires a valid client certificate", "sslcert=FILE and sslkey=FILE"]),
            ] {
                let pipeline = try Pipeline("tls", store: try server.url(look))
                try server.writePassword(look.password, host: look.host)
                let migrated = try command(["migrate"], pipeline)
                let looked = try command(["doctor"], pipeline)
                #expect((migrated.status == 0) == look.words.isEmpty, "\(look): \(migrated.text)")
                for word in look.words {
                    #expect(migrated.text.contains(word), "\(look): \(migrated.text)")
                    #expect(looked.text.contains(word), "\(look): \(looked.text)")
                }
                try expectNoSecrets(pipeline, [migrated.text, looked.text])
            }
        }

        // MARK: ClickHouse

        @Test("ClickHouse over TLS: its name and its authority are looked at", .enabled(if: ClickHouse.isWanted))
        func clickhouse() throws {
            let work = try WorkDirectory("tls-clickhouse")
            let certificates = try Certificates(in: work.path)
            let server = try ClickHouse(
                ["--tls", certificates.both, "--user", "millrace", "--password", Secret.clickhouse])
            func look(
                _ authority: String, host: String = "localhost", password: String = Secret.clickhouse,
                secure: Bool = true
            ) throws -> (status: Int32, text: String) {
                let pipeline = try Pipeline("tls")
                let url = "clickhouse://millrace:\(password)@\(host):\(server.port)/millrace?secure=\(secure)"
                let environment = ["MILLRACE_STORE_URL": url, "SSL_CERT_FILE": authority]
                let answer = try command(["migrate"], pipeline, environment)
                let printed = try command(["config", "print"], pipeline, environment)
                try expectNoSecrets(pipeline, [answer.text, printed.text])
                return answer
            }
            for host in ["localhost", "127.0.0.1"] {
                let trusted = try look(certificates.authority, host: host)
                #expect(trusted.status == 0, "\(trusted.text)")
            }
            let untrusted = try look(certificates.wrongAuthority)
            #expect(untrusted.status != 0)
            #expect(untrusted.text.contains("SSL_CERT_FILE"), "\(untrusted.text)")
            let unknown = try look(certificates.authority, password: "\(Secret.mark)-other")
            #expect(unknown.status != 0)
            #expect(unknown.text.contains("user"), "\(unknown.text)")
            let plain = try look(certificates.authority, secure: false)
            #expect(plain.status != 0)
        }

        // MARK: All of it

        @Test("Every wire is encrypted, and what is asked is counted")
        func everything() throws {
            let (kafka, server) = (try SecureKafka("4.2.0"), try SecurePostgreSQL())
            let certificates = kafka.certificates
            let pipeline = try Pipeline(
                "tls", log: kafka.log(.plainOverTLS), store: try server.url(Look(mode: "verify-full")))
            try server.writePassword(Secret.postgresql)
            let environment = SecureKafka.Wire.plainOverTLS.environment()
            func listener(_ key: String) -> [String] {
                ["--\(key).certificate", certificates.certificate, "--\(key).key", certificates.key]
            }
            let proxy = listener("proxy.tls") + listener("proxy.ops_tls")
            try pipeline.start(.proxy, proxy, waits: false, environment: environment)
            try pipeline.start(.consumer, listener("consumer.ops_tls"), waits: false, environment: environment)
            try pipeline.start(.api, listener("api.tls"), waits: false, environment: environment)

            func ask(
                _ port: UInt16, _ path: String, trusting authority: String? = nil, _ more: [String] = []
            ) throws -> String {
                try run(
                    [
                        "curl", "--silent", "--max-time", "20", "--cacert", authority ?? certificates.authority,
                        "https://localhost:\(port)\(path)",
                    ] + more, directory: pipeline.work.path
                ).output
            }
            let (proxyOps, consumerOps) = (pipeline.proxyOpsPort, pipeline.consumerOpsPort)
            for (role, port) in [(Pipeline.Role.proxy, proxyOps), (.consumer, consumerOps), (.api, pipeline.apiPort)] {
                try waitUntil("\(role) is ready", seconds: 30, detail: { pipeline.errors(of: role) }) {
                    try ask(port, "/readyz", ["-o", "/dev/null", "-w", "%{http_code}"]) == "200"
                }
            }
            for _ in 0..<5 {
                let answer = try ask(
                    pipeline.proxyPort, "/v1/chat/completions",
                    [
                        "-H", "x-portkey-provider: openai", "-H", "content-type: application/json", "-H",
                        #"x-portkey-metadata: {"wire":"tls"}"#, "--data-binary",
                        String(decoding: chatBody(), as: UTF8.self),
                    ])
                #expect(answer.contains("chat.completion"), "\(answer)")
            }
            for port in [pipeline.proxyPort, pipeline.apiPort, proxyOps, consumerOps] {
                #expect(try ask(port, "/readyz", trusting: certificates.wrongAuthority).isEmpty)
                // No plain HTTP beside it.
                #expect((try? PipelineTests.status(of: port)) == nil)
            }
            let question =
                #"{"from":"2020-01-01T00:00:00Z","to":"2100-01-01T00:00:00Z","where":"metadata.wire = 'tls'","measures":["requests"]}"#
            var last = ""
            try waitUntil("five are counted", seconds: 60, detail: { last + pipeline.errors(of: .consumer) }) {
                last = try ask(
                    pipeline.apiPort, "/v1/query", ["-H", "content-type: application/json", "--data-binary", question])
                return try JSONValue.parse(Array(last.utf8))["totals"]?["requests"]?.integer == 5
            }
            func query(_ host: String, trusting authority: String) throws -> (status: Int32, text: String) {
                let words = ["query", "metadata.wire = 'tls'", "--measure", "requests", "--json", "--api"]
                return try command(
                    words + ["https://\(host):\(pipeline.apiPort)"], pipeline, ["SSL_CERT_FILE": authority])
            }
            let asked = try query("localhost", trusting: certificates.authority)
            #expect(asked.status == 0 && asked.text.contains(#""requests":5"#), "\(asked)")
            let stranger = try query("localhost", trusting: certificates.wrongAuthority)
            #expect(stranger.status == 1 && stranger.text.contains("SSL_CERT_FILE"), "\(stranger)")
            let metrics = try ask(consumerOps, "/metrics")
            #expect(metrics.contains(#"millrace_certificate_expires_seconds{listener="consumer.ops_listen"}"#))
            try pipeline.stopAll()
            try expectNoSecrets(pipeline)
        }

        @Test("API and ops listeners read their certificates anew at SIGHUP, and a bad one changes nothing")
        func reload() throws {
            let pipeline = try Pipeline("tls-reload")
            let (one, other) = (try WorkDirectory("tls-one"), try WorkDirectory("tls-other"))
            let (first, second) = (try Certificates(in: one.path), try Certificates(in: other.path))
            let (certificate, key) = ("\(pipeline.work.path)/server.pem", "\(pipeline.work.path)/server.key")
            func lay(_ certificates: Certificates) throws {
                try writeText(certificate, readText(certificates.certificate))
                try writeText(key, readText(certificates.key))
            }
            func status(_ port: UInt16, _ certificates: Certificates) throws -> String {
                try run(
                    [
                        "curl", "--silent", "--max-time", "10", "--cacert", certificates.authority, "-o", "/dev/null",
                        "-w", "%{http_code}", "https://localhost:\(port)/livez",
                    ], directory: pipeline.work.path
                ).output
            }
            try lay(first)
            let (consumerOps, proxyOps) = (pipeline.consumerOpsPort, pipeline.proxyOpsPort)
            let listeners: [(role: Pipeline.Role, port: UInt16, section: String)] = [
                (.api, pipeline.apiPort, "api.tls"), (.consumer, consumerOps, "consumer.ops_tls"),
                (.proxy, proxyOps, "proxy.ops_tls"),
            ]
            for (role, port, section) in listeners {
                let flags = ["--\(section).certificate", certificate, "--\(section).key", key]
                try pipeline.start(role, flags, waits: false)
                try waitUntil("\(role) listens", seconds: 30, detail: { pipeline.errors(of: role) }) {
                    try status(port, first) == "200"
                }
            }
            try lay(second)
            for (role, port, _) in listeners {
                #expect(try status(port, first) == "200", "not before it is told")
                try pipeline.send(SIGHUP, to: role)
                try waitUntil("\(role) shows the new one", seconds: 20, detail: { pipeline.errors(of: role) }) {
                    try status(port, second) == "200"
                }
                #expect(try status(port, first) == "000")
            }
            try writeText(certificate, "not a certificate\n")
            for (role, port, _) in listeners {
                try pipeline.send(SIGHUP, to: role)
                try waitUntil("\(role) says why not", seconds: 20, detail: { pipeline.errors(of: role) }) {
                    pipeline.errors(of: role).contains("\"certificate_not_reloaded\"")
                }
                #expect(try status(port, second) == "200")
            }
            try pipeline.stopAll()
        }
    }

    fileprivate static func status(of port: UInt16) throws -> Int { try ask(port, "GET", "/readyz").status }
}

// MARK: Servers

private enum Secret {
    /// In every password.
    static let mark = "hush7f3a"
    static let (kafka, postgresql, clickhouse) = ("\(mark)-kafka", "\(mark)-postgresql", "\(mark)-clickhouse")
}

/// An authority, its certificates for `localhost` and 127.0.0.1 and for a client `millrace`, and an authority that has
/// signed nothing of these.
private struct Certificates {
    let directory: String
    var authority: String { "\(directory)/ca.pem" }
    var wrongAuthority: String { "\(directory)/wrong.pem" }
    var certificate: String { "\(directory)/server.pem" }
    var key: String { "\(directory)/server.key" }
    var clientCertificate: String { "\(directory)/client.pem" }
    var clientKey: String { "\(directory)/client.key" }
    /// Key and certificate in one file.
    var both: String { "\(directory)/both.pem" }

    init(in directory: String) throws {
        self.directory = directory
        let script = """
            set -e
            new='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
            openssl req -x509 $new -keyout ca.key -out ca.pem -subj /CN=authority -days 2
            openssl req -x509 $new -keyout wrong.key -out wrong.pem -subj /CN=authority -days 2
            openssl req $new -keyout server.key -out server.csr -subj /CN=localhost
            printf 'subjectAltName=DNS:localhost,IP:127.0.0.1' > names
            openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 \
            -extfile names
            cat server.key server.pem > both.pem
            openssl req $new -keyout client.key -out client.csr -subj /CN=millrace
            openssl x509 -req -in client.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out client.pem -days 2
            """
        let made = try run(["bash", "-c", script], directory: directory)
        guard made.status == 0 else { throw ChildError(made.errors) }
    }
}

/// A block of docs/operating.md, from this line on.
private func documented(_ first: String) throws -> String {
    let text = readText("\(Place.repository)/docs/operating.md")
    let start = try #require(text.firstRange(of: "```yaml\n\(first)\n"), "no block begins with \(first)").lowerBound
    let block = text[start...].dropFirst("```yaml\n".count)
    return String(block[..<(try #require(block.firstRange(of: "```")).lowerBound)])
}

/// Apache Kafka with a listener of each kind.
private final class SecureKafka {
    enum Wire: CaseIterable {
        case tls, certified, plain, plainOverTLS, scram256, scram512

        /// As `security.protocol` has it.
        var `protocol`: String {
            switch self {
            case .tls, .certified: "SSL"
            case .plain: "SASL_PLAINTEXT"
            case .plainOverTLS, .scram256, .scram512: "SASL_SSL"
            }
        }

        /// As `sasl.mechanism` has it; nil: no user is asked for.
        var mechanism: String? {
            switch self {
            case .tls, .certified: nil
            case .plain, .plainOverTLS: "PLAIN"
            case .scram256: "SCRAM-SHA-256"
            case .scram512: "SCRAM-SHA-512"
            }
        }

        var isSCRAM: Bool { mechanism?.hasPrefix("SCRAM") ?? false }

        /// The broker's name for this listener.
        var listener: String { "\(self)".uppercased() }

        /// The password, which does not stand in the file.
        func environment(password: String = Secret.kafka) -> [String: String] {
            mechanism == nil ? [:] : ["MILLRACE_LOG_KAFKA_PROPERTIES_SASL_PASSWORD": password]
        }

        /// What the broker is told of it. PLAIN's users stand there, those of SCRAM in the cluster's metadata.
        func properties(authority: String) -> [String] {
            let of = "listener.name.\("\(self)".lowercased())"
            guard let mechanism else {
                guard self == .certified else { return [] }
                return [
                    "\(of).ssl.client.auth=required", "\(of).ssl.truststore.type=PEM",
                    "\(of).ssl.truststore.location=\(authority)",
                ]
            }
            let module = "org.apache.kafka.common.security"
            let login =
                isSCRAM
                ? "\(module).scram.ScramLoginModule required;"
                : "\(module).plain.PlainLoginModule required user_millrace=\"\(Secret.kafka)\";"
            return [
                "\(of).sasl.enabled.mechanisms=\(mechanism)",
                "\(of).\(mechanism.lowercased()).sasl.jaas.config=\(login)",
            ]
        }
    }

    private let work: WorkDirectory
    let certificates: Certificates
    private let ports: [Wire: UInt16]
    /// Kafka 4 checks the nonce of SCRAM, which the library repeats wrongly before 2.6.1.
    let takesSCRAM: Bool

    init(_ version: String) throws {
        takesSCRAM = version.hasPrefix("3.") || rd_kafka_version() >= 0x0206_0100
        work = try WorkDirectory("tls-kafka")
        certificates = try Certificates(in: work.path)
        let (port, controller) = (try freePort(), try freePort())
        var ports: [Wire: UInt16] = [:]
        for wire in Wire.allCases { ports[wire] = try freePort() }
        self.ports = ports
        let wires = ports.map { "\($0.listener)://127.0.0.1:\($1)" }
        let listeners = ["PLAINTEXT://127.0.0.1:\(port)", "CONTROLLER://127.0.0.1:\(controller)"] + wires
        let protocols = Wire.allCases.map { "\($0.listener):\($0.protocol)" }
        let authority = certificates.authority
        let properties =
            [
                "listeners=\(listeners.joined(separator: ","))", "controller.quorum.voters=1@127.0.0.1:\(controller)",
                "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
                    + protocols.joined(separator: ","),
                "ssl.keystore.type=PEM", "ssl.keystore.location=\(certificates.both)",
            ] + Wire.allCases.flatMap { $0.properties(authority: authority) }
        let started = try run(
            [
                Place.kafka, "start", "--dir", "\(work.path)/kafka", "--version", version, "--heap", "384m", "--port",
                "\(port)",
            ]
                + properties.flatMap { ["--property", $0] }, directory: work.path, seconds: 120)
        guard started.status == 0 else { throw ChildError("kafka: \(started.output)\(started.errors)") }
        // The jars lie beside the script.
        let script = Place.kafka.split(separator: "/", omittingEmptySubsequences: false).dropLast()
        // A user's two ways in one request are refused as the same credential twice.
        for wire in Wire.allCases where wire.isSCRAM {
            let known = try run(
                [
                    "java", "-cp", script.joined(separator: "/") + "/jars/\(version)/*", "kafka.admin.ConfigCommand",
                    "--bootstrap-server", "127.0.0.1:\(port)", "--alter", "--entity-type", "users", "--entity-name",
                    "millrace", "--add-config", "\(wire.mechanism ?? "")=[password=\(Secret.kafka)]",
                ], directory: work.path)
            guard known.status == 0 else { throw ChildError("a user of Kafka: \(known.output)\(known.errors)") }
        }
    }

    deinit { _ = try? run([Place.kafka, "stop", "--dir", "\(work.path)/kafka", "--kill"], directory: "/tmp") }

    /// The YAML of `log:`, the documented one, on the broker's listener of another wire where one is named; a topic of its
    /// own for each.
    func log(_ wire: Wire, on listener: Wire? = nil, trusting authority: String? = nil) throws -> String {
        let lines = try documented("log:").split(separator: "\n").compactMap { line in
            let name = line.prefix { $0 != ":" }.filter { $0 != " " }
            let margin = line.prefix { $0 == " " }
            switch name {
            case "log": return "\n"
            case "bootstrap_servers":
                return "\(margin)bootstrap_servers: 127.0.0.1:\(ports[listener ?? wire] ?? 0)\n"
                    + "\(margin)topic: t-\(UInt32.random(in: 0 ... .max))\n\(margin)partitions: 3"
            case "security.protocol": return "\(margin)\(name): \(wire.protocol)"
            case "ssl.ca.location":
                let trusted = "\(margin)\(name): \(authority ?? certificates.authority)"
                guard wire == .certified else { return trusted }
                return trusted + "\n\(margin)ssl.certificate.location: \(certificates.clientCertificate)"
                    + "\n\(margin)ssl.key.location: \(certificates.clientKey)"
            case "sasl.mechanism": return wire.mechanism.map { "\(margin)\(name): \($0)" }
            case "sasl.username": return wire.mechanism == nil ? nil : String(line)
            default: return String(line)
            }
        }
        return lines.joined(separator: "\n")
    }
}

/// A way to ask PostgreSQL, and what comes of it.
private struct Look {
    var mode: String
    var host = "localhost"
    var database = "postgres"
    var isTrusted = true
    var password = Secret.postgresql
    /// A certificate of the client's goes along.
    var isCertified = false
    /// What the refusal says; empty: it is not refused.
    var words: [String] = []
}

/// Debian's PostgreSQL, which takes nobody without TLS and the right password; into the database `certified`, with a
/// certificate of the user's name and no password.
private final class SecurePostgreSQL {
    private static let programs = "/usr/lib/postgresql/15/bin/"
    private static let asUser =
        getuid() == 0 ? ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"] : []
    private let work: WorkDirectory
    private let certificates: Certificates
    private let port: UInt16
    private let process: ChildProcess

    init() throws {
        work = try WorkDirectory("tls-postgresql")
        port = try freePort()
        certificates = try Certificates(in: work.path)
        let (path, port) = (work.path, port)
        try writeText("\(path)/password", Secret.postgresql)
        if getuid() == 0 {
            // The client's key stays with the user who asks: libpq takes no other's.
            let owned = try run(
                ["bash", "-c", "chown -R postgres:postgres . && chown root client.key"], directory: path)
            guard owned.status == 0 else { throw ChildError("no user postgres: \(owned.errors)") }
        }
        let made = try run(
            Self.asUser + [
                Self.programs + "initdb", "--pgdata", "\(path)/data", "--username", "millrace", "--pwfile",
                "\(path)/password", "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync",
            ], directory: path)
        guard made.status == 0 else { throw ChildError("initdb: \(made.errors)") }
        try writeText(
            "\(path)/hba",
            """
            hostssl certified all 127.0.0.1/32 cert
            hostssl all all 127.0.0.1/32 scram-sha-256

            """)
        process = try ChildProcess(
            Self.asUser + [
                Self.programs + "postgres", "-D", "\(path)/data", "-p", "\(port)", "-c", "listen_addresses=127.0.0.1",
                "-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "hba_file=\(path)/hba", "-c", "ssl=on", "-c",
                "ssl_cert_file=\(certificates.certificate)", "-c", "ssl_key_file=\(certificates.key)", "-c",
                "ssl_ca_file=\(certificates.authority)",
            ], name: "postgresql", directory: path, outputTo: path)
        let process = process
        try waitUntil("PostgreSQL is up", seconds: 60, detail: { process.errors }) {
            guard process.isRunning else { throw ChildError(process.errors) }
            return try run(
                [Self.programs + "pg_isready", "--host", "127.0.0.1", "--port", "\(port)"], directory: path
            ).status == 0
        }
        let created = try run(
            [
                Self.programs + "createdb", "--host", "127.0.0.1", "--port", "\(port)", "--username", "millrace",
                "certified",
            ],
            directory: path, environment: ["PGPASSWORD": Secret.postgresql, "PGSSLMODE": "require"])
        guard created.status == 0 else { throw ChildError("createdb: \(created.errors)") }
    }

    /// `store.url`, the documented one. Whatever the name, it is this server.
    func url(_ look: Look) throws -> String {
        let lines = try documented("store:").split(separator: "\n")
        let url = try #require(lines.first { $0.contains("url: ") }).drop { $0 != "p" }
        let authority = look.isTrusted ? certificates.authority : certificates.wrongAuthority
        return url.replacing("postgres.example:5432/millrace", with: "\(look.host):\(port)/\(look.database)")
            .replacing("verify-full", with: look.mode).replacing("/etc/millrace/tls/ca.pem", with: authority)
            .replacing("/etc/millrace/pgpass", with: "\(work.path)/pgpass") + "&hostaddr=127.0.0.1"
            + (look.isCertified
                ? "&sslcert=\(certificates.clientCertificate)&sslkey=\(certificates.clientKey)" : "")
    }

    func writePassword(_ password: String, host: String = "localhost") throws {
        try writeText("\(work.path)/pgpass", "\(host):\(port):postgres:millrace:\(password)\n")
        chmod("\(work.path)/pgpass", 0o600)
    }
}
