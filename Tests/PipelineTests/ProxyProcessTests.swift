import Foundation
import Glibc
import JSONText
import Simulation
import Testing

extension PipelineTests {
    /// What only a whole process shows: signals, the limit on descriptors, one port for two processes.
    @Suite(.serialized) struct ProxyProcessTests {
        /// A proxy of its own beside the pipeline's stub provider.
        private func startProxy(
            _ pipeline: Pipeline, port: UInt16, opsPort: UInt16, name: String, settings: [String] = [],
            limit: Int? = nil
        ) throws -> ChildProcess {
            let command = [
                Place.binary, "proxy", "--config", "\(pipeline.work.path)/millrace.yaml", "--proxy.listen",
                "127.0.0.1:\(port)", "--proxy.ops_listen", "127.0.0.1:\(opsPort)", "--journal.directory",
                "\(pipeline.work.path)/journal-\(name)",
            ]
            let shell = limit.map { ["bash", "-c", "ulimit -n \($0); exec \"$@\"", "bash"] } ?? []
            let process = try ChildProcess(
                shell + command + settings, name: name, directory: pipeline.work.path, outputTo: pipeline.work.path)
            try waitUntil("\(name) takes requests", seconds: 30, detail: { process.errors }) {
                guard process.isRunning else { throw ChildError("\(name) ended: \(process.errors)") }
                return process.errors.contains("\"ops_listening\"")
            }
            return process
        }

        private let headers = [("x-portkey-provider", "openai"), ("content-type", "application/json")]

        private func metric(_ port: UInt16, _ name: String) throws -> Int {
            let text = String(decoding: try ask(port, "GET", "/metrics").body, as: UTF8.self)
            let line = text.split(separator: "\n").first { $0.hasPrefix("\(name) ") }
            return line.flatMap { Int($0.dropFirst(name.count + 1)) } ?? -1
        }

        @Test func aProcessOutOfDescriptorsRestsAndGoesOn() throws {
            let pipeline = try Pipeline("descriptors")
            let (port, opsPort) = (try freePort(), try freePort())
            let proxy = try startProxy(pipeline, port: port, opsPort: opsPort, name: "few", limit: 64)
            var idle: [Int32] = []
            defer { for descriptor in idle { close(descriptor) } }
            for _ in 0..<100 { idle.append(try #require(connection(to: port))) }
            try waitUntil("the process logs nothing and stays", seconds: 10) { proxy.isRunning }
            // It has none left for this one; it waits in the kernel's queue.
            for descriptor in idle { close(descriptor) }
            idle = []
            try waitUntil("it answers again", seconds: 30, detail: { proxy.errors }) {
                guard proxy.isRunning else { throw ChildError("the proxy ended: \(proxy.errors)") }
                let answer = try? ask(port, "POST", "/v1/chat/completions", headers: headers, body: chatBody())
                return answer?.status == 200
            }
            #expect(try metric(opsPort, "millrace_proxy_accept_rests_total") > 0)
            #expect(try proxy.stop() == 0)
        }

        @Test func aPriceTableOfOnesOwnDecidesWhatAnExchangeCosts() throws {
            let pipeline = try Pipeline("prices")
            let path = "\(pipeline.work.path)/prices.yaml"
            let check = [
                Place.binary, "config", "check", "--config", "\(pipeline.work.path)/millrace.yaml", "--prices.file",
                path,
            ]
            try writeText(path, "version: house-1\nmodels:\n  - { provider: openai, model: gpt-4o-mini, input: 7 }\n")
            let refused = try run(check, directory: pipeline.work.path)
            #expect(refused.status == 2)
            #expect(
                refused.errors.contains("prices.file: models[0] needs") && refused.errors.contains("Correct the table"))
            try writeText(
                path, "version: house-1\nmodels:\n  - { provider: openai, model: gpt-4o-mini, input: 7, output: 11 }\n")
            #expect(try run(check, directory: pipeline.work.path).status == 0)
            try pipeline.start(.up, ["--prices.file", path])
            let headers = headers + [("x-portkey-metadata", #"{"run":"prices"}"#)]
            // Four words, answered with nine; the second model is in the built-in table alone.
            for model in ["gpt-4o-mini", "gpt-4o"] {
                let answer = try ask(
                    pipeline.proxyPort, "POST", "/v1/chat/completions", headers: headers, body: chatBody(model: model))
                #expect(answer.status == 200)
            }
            try pipeline.expectCount("metadata.run = 'prices'", 2)
            let events = try pipeline.events("metadata.run = 'prices'")
            let priced = try #require(events.first { $0["request_model"]?.string == "gpt-4o-mini" })
            let unpriced = try #require(events.first { $0["request_model"]?.string == "gpt-4o" })
            #expect(priced["cost_usd"]?.numberText == "0.000000127")
            let versions = try run(
                [
                    "sqlite3", "-cmd", ".timeout 10000", "\(pipeline.work.path)/millrace.db",
                    "SELECT price_version FROM events ORDER BY request_model",
                ], directory: pipeline.work.path)
            #expect(versions.output == "\nhouse-1\n")
            #expect(unpriced["cost_usd"]?.isNull == true)
            #expect(try metric(pipeline.apiPort, "millrace_proxy_events_unpriced_total") == 1)
            try pipeline.stopAll()
        }

        @Test func withoutADescriptorForTheProviderTheAnswerIs503AndAnEvent() throws {
            let pipeline = try Pipeline("upstreamdescriptors")
            let (port, opsPort) = (try freePort(), try freePort())
            let proxy = try startProxy(
                pipeline, port: port, opsPort: opsPort, name: "none",
                // Each request needs a connection of its own.
                settings: ["--proxy.upstream.max_idle", "0"])
            let client = try #require(connection(to: port))
            defer { close(client) }
            func answer() throws -> String {
                let request = Array(
                    "GET /v1/models HTTP/1.1\r\nhost: a\r\nx-portkey-provider: openai\r\n\r\n".utf8)
                #expect(Glibc.send(client, request, request.count, Int32(MSG_NOSIGNAL)) == request.count)
                var text = ""
                try waitUntil("an answer", seconds: 20, detail: { text + proxy.errors }) {
                    var buffer = [UInt8](repeating: 0, count: 65_536)
                    let count = recv(client, &buffer, buffer.count, Int32(MSG_DONTWAIT))
                    if count > 0 { text += String(decoding: buffer[..<count], as: UTF8.self) }
                    return text.hasSuffix("}\n") || text.hasSuffix("}")
                }
                return text
            }
            func limit(_ files: Int) throws {
                let made = try run(
                    ["prlimit", "--pid", "\(proxy.pid)", "--nofile=\(files):"], directory: pipeline.work.path)
                #expect(made.status == 0, "\(made.errors)")
            }
            #expect(try answer().hasPrefix("HTTP/1.1 200"))
            // What is open stays so; nothing more can be opened.
            try limit(3)
            let refused = try answer()
            #expect(refused.hasPrefix("HTTP/1.1 503") && refused.contains("retry-after: 1"), "\(refused)")
            #expect(refused.contains("\"upstream_overloaded\""), "\(refused)")
            try limit(256)
            #expect(try answer().hasPrefix("HTTP/1.1 200"))
            #expect(try metric(opsPort, "millrace_proxy_exchanges_accepted_total") == 3)
            let recorded = try metric(opsPort, "millrace_proxy_events_recorded_total")
            #expect(recorded + (try metric(opsPort, "millrace_proxy_events_waiting_total")) == 3)
            #expect(try metric(opsPort, "millrace_proxy_upstream_failures_total") == 1)
            #expect(proxy.errors.contains("Too many open files"))
            #expect(try proxy.stop() == 0)
        }

        private func connection(to port: UInt16) -> Int32? {
            let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
            var address = sockaddr_in()
            address.sin_family = sa_family_t(AF_INET)
            address.sin_port = port.bigEndian
            address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
            let status = withUnsafePointer(to: &address) { pointer in
                pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
                }
            }
            if status == 0 { return descriptor }
            close(descriptor)
            return nil
        }

        /// A certificate for `localhost` by an authority of its own, at `cert.pem` and `key.pem`; the authority at `NAME.pem`.
        private func makeCertificate(_ authority: String, in directory: String) throws {
            let script = """
                set -e
                openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out \(authority).pem \
                -subj /CN=\(authority) -days 2
                openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.new -out cert.csr -subj /CN=localhost
                printf 'subjectAltName=DNS:localhost' > ext
                openssl x509 -req -in cert.csr -CA \(authority).pem -CAkey ca.key -CAcreateserial -out cert.new -days 2 \
                -extfile ext
                mv key.new key.pem
                mv cert.new cert.pem
                """
            let made = try run(["bash", "-c", script], directory: directory)
            guard made.status == 0 else { throw ChildError(made.errors) }
        }

        private func status(of port: UInt16, trusting authority: String, in directory: String) throws -> String {
            try run(
                [
                    "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "10", "--cacert",
                    "\(directory)/\(authority).pem", "-H", "x-portkey-provider: openai",
                    "https://localhost:\(port)/v1/models",
                ], directory: directory
            ).output
        }

        @Test func aCertificateIsReadAnewAtSIGHUPAndABadOneIsNot() throws {
            let pipeline = try Pipeline("certificates")
            let directory = pipeline.work.path
            try makeCertificate("first", in: directory)
            let (port, opsPort) = (try freePort(), try freePort())
            let proxy = try startProxy(
                pipeline, port: port, opsPort: opsPort, name: "tls",
                settings: [
                    "--proxy.tls.certificate", "\(directory)/cert.pem", "--proxy.tls.key", "\(directory)/key.pem",
                ])
            #expect(try status(of: port, trusting: "first", in: directory) == "200")
            try makeCertificate("second", in: directory)
            // Not before it is told.
            #expect(try status(of: port, trusting: "second", in: directory) == "000")
            proxy.send(SIGHUP)
            try waitUntil("the new certificate is served", seconds: 20, detail: { proxy.errors }) {
                guard proxy.isRunning else { throw ChildError("the proxy ended: \(proxy.errors)") }
                return try status(of: port, trusting: "second", in: directory) == "200"
            }
            #expect(try status(of: port, trusting: "first", in: directory) == "000")
            try writeText("\(directory)/cert.pem", "not a certificate\n")
            proxy.send(SIGHUP)
            try waitUntil("it says that the new one is of no use", seconds: 20, detail: { proxy.errors }) {
                proxy.errors.contains("\"certificate_not_reloaded\"")
            }
            #expect(try status(of: port, trusting: "second", in: directory) == "200")
            #expect(try proxy.stop() == 0)
        }

        @Test func aProxyTakesOverFromAnotherOnOneConfigurationWithNoRequestFailed() throws {
            let pipeline = try Pipeline("takeover")
            let (port, opsPort) = (try freePort(), try freePort())
            let share = ["--proxy.reuse_port", "true"]
            // One journal for both: each takes lanes of its own in it.
            let journal = ["--journal.directory", "\(pipeline.work.path)/journal-shared"]
            let first = try startProxy(pipeline, port: port, opsPort: opsPort, name: "old", settings: share + journal)
            let stop = "\(pipeline.work.path)/stop"
            let script = """
                answered=0; failed=0
                while [ ! -e \(stop) ]; do
                  code=$(curl -s -o /dev/null -w '%{http_code}' --max-time 10 -H 'x-portkey-provider: openai' \
                http://127.0.0.1:\(port)/v1/models)
                  answered=$((answered + 1)); [ "$code" = 200 ] || failed=$((failed + 1))
                done
                echo "$answered $failed"
                """
            let clients = try (0..<2).map {
                try ChildProcess(
                    ["bash", "-c", script], name: "client\($0)", directory: pipeline.work.path,
                    outputTo: pipeline.work.path
                )
            }
            let second = try startProxy(pipeline, port: port, opsPort: opsPort, name: "new", settings: share + journal)
            #expect(try first.stop() == 0)
            #expect(try ask(opsPort, "GET", "/readyz").status == 200)
            try writeText(stop, "")
            for client in clients {
                #expect(try client.wait(seconds: 20) == 0)
                let counts = client.output.split(whereSeparator: \.isWhitespace).compactMap { Int($0) }
                #expect(counts.count == 2 && counts[0] > 0 && counts[1] == 0, "\(client.output)")
            }
            #expect(try second.stop() == 0)
        }
    }
}
