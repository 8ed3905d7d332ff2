// `millrace up [--demo]`: every role in one process.

import CommandLine
import Configuration
import Glibc
import JSONText
import Simulation
import Telemetry
import Threading

enum UpCommand {
    static func run(_ invocation: Invocation) throws -> Int32 {
        // Without a file nobody has thought about keys yet: open, on loopback, and said.
        let standards: [String: SettingValue] = invocation.text("config") == nil ? ["auth.mode": .text("open")] : [:]
        var configuration = try invocation.configuration(standards: standards)
        let isDemo = invocation.flag("demo")
        return try Running(role: "up").run { running in
            if isDemo {
                var options = MockProviderOptions()
                options.latencyMilliseconds = 40
                let provider = try SimulationCommands.startProvider(
                    on: ListenAddress(host: "127.0.0.1", port: 0), options, running)
                try configuration.useOneProvider(at: provider)
            }
            let roles = try Roles(configuration, running)
            try roles.startJournal()
            try roles.startConsumer()
            // The page names the proxy's address, so the proxy is bound first; it is also stopped first.
            let proxy = try roles.startProxy()
            let api = try roles.startAPI(proxy: proxy)
            if isDemo { DemoLoop.start(proxy: proxy, running) }
            running.supervise(roles.operations)
            try Terminal.write(welcome(configuration, proxy: proxy, api: api, isDemo: isDemo))
        }
    }

    private static func welcome(
        _ configuration: MillraceConfiguration, proxy: ListenAddress, api: ListenAddress, isDemo: Bool
    ) -> String {
        let send =
            "curl -s http://\(proxy)/v1/proxy/chat/completions -H 'content-type: application/json' "
            + "-H 'x-portkey-mode: proxy openai' -H 'x-portkey-meta: {\"foo\":\"abc\",\"bar\":\"def\"}' "
            + (isDemo ? "" : "-H \"authorization: Bearer $OPENAI_API_KEY\" ")
            + "-d '{\"model\":\"gpt-4o-mini\",\"messages\":[{\"role\":\"user\",\"content\":\"What is a millrace?\"}]}'"
        let ask =
            "curl -sG http://\(api)/v1/query --data-urlencode \"where=metadata.foo = 'abc' and metadata.bar = 'def'\" "
            + "-d group_by=model -d measures=requests,cost_usd"
        let auth =
            configuration.auth == .open
            ? "auth.mode is open: nobody is asked for a key. Fine on this machine alone." : "auth.mode is keys."
        return """
            Millrace is up\(isDemo ? ", with sample traffic to a built-in provider" : "").

              Page    http://\(api)/
              Proxy   http://\(proxy)/v1/proxy
              Keys    \(auth)

            Send a request through the proxy:
              \(send)
            Ask about it a second later:
              \(ask)

            Ctrl-C stops it.

            """
    }
}

extension MillraceConfiguration {
    /// All providers, and `openai` in any case, are the one at this address: the demo needs no network.
    fileprivate mutating func useOneProvider(at address: ListenAddress) throws {
        guard let url = ProviderURL("http://\(address)/v1") else { throw Failure("\(address) is no address.") }
        let names = Set(proxy.providers.map(\.name)).union(["openai"])
        proxy.providers = names.sorted().map { ($0, url) }
    }
}

/// The demo's traffic: a burst, so that there is something to see, then a trickle.
enum DemoLoop {
    private static let burst = 40
    private static let pauseMilliseconds = 250

    static func start(proxy: ListenAddress, _ running: Running) {
        let stop = StopSignal()
        let log = running.log
        let thread = ServiceThread("demo") {
            var traffic = DemoTraffic(seed: UInt64(getpid()))
            var client = LoopbackClient(port: proxy.port)
            var sent = 0
            while !stop.wait(milliseconds: sent < burst ? 10 : pauseMilliseconds) {
                let request = traffic.next()
                do throws(LoopbackError) {
                    _ = try client.request("POST", request.path, headers: request.headers, body: request.body)
                } catch {
                    log(.demoRequestFailed(reason: error.description))
                    if stop.wait(milliseconds: 1_000) { return }
                }
                sent += 1
            }
        }
        running.onStop {
            stop.stop()
            thread.join()
        }
    }
}
