// `mock-provider` and `loadgen`.

import CommandLine
import Configuration
import EventCodec
import Events
import Glibc
import HTTPTransport
import QueryAPI
import RecordLog
import Simulation
import Telemetry
import Threading

enum SimulationCommands {
    static func mockProvider(_ invocation: Invocation) throws -> Int32 {
        let text = invocation.text("listen") ?? "127.0.0.1:8786"
        guard let address = ListenAddress(text) else {
            throw UsageError("--listen \(text): not HOST:PORT", hint: "such as --listen 127.0.0.1:8786")
        }
        var options = MockProviderOptions()
        options.latencyMilliseconds = try invocation.integer("latency-ms", in: 0...600_000) ?? 0
        options.chunkIntervalMilliseconds = try invocation.integer("chunk-interval-ms", in: 0...600_000) ?? 0
        options.errorRate = try invocation.number("error-rate", in: 0...1) ?? 0
        return try Running(role: "mock-provider").run { running in
            _ = try startProvider(on: address, options, running)
        }
    }

    /// Answers the provider's own address.
    static func startProvider(
        on address: ListenAddress, _ options: MockProviderOptions, _ running: Running
    ) throws -> ListenAddress {
        let server = try HTTPServer(
            listen: address.description, name: "mock", workers: 2, bodyLimit: 64 << 20, log: running.log,
            responder: MockProvider(options).responder)
        running.onStop { server.stop() }
        let bound = ListenAddress(host: address.host, port: server.port)
        running.log(.mockProviderStarted(url: "http://\(bound)/v1"))
        return bound
    }

    static func loadGenerator(_ invocation: Invocation) throws -> Int32 {
        let options = try loadOptions(invocation)
        let configuration = try invocation.configuration()
        let running = Running(role: "loadgen")
        Signals.watch(running.stop, Reloads(), running.log)
        var sink = try LogSink(configuration, stop: running.stop, log: running.log)
        let progress: LoadProgress
        do {
            progress = try LoadGenerator.run(
                options, stop: running.stop, tell: { Terminal.complain($0.description) },
                send: { id, value in id.bytes.withUnsafeBytes { sink.send(kind: .event, key: $0, value: value) } })
        } catch {
            try sink.finish()
            throw error
        }
        // After all that they count, as a proxy tells it.
        if !progress.manifests.isEmpty { try sink.flush() }
        for manifest in progress.manifests {
            var value: [UInt8] = []
            EventEncoder.encode(manifest, into: &value)
            let isTaken = Array(manifest.proxy.utf8).withUnsafeBytes { key in
                value.withUnsafeBytes { sink.send(kind: .manifest, key: key, value: $0) }
            }
            guard isTaken else {
                throw Failure("The log takes no more records: not all that was sent is told. Do the same again.")
            }
        }
        try sink.finish()
        try Terminal.write("\(progress.description)\n")
        return 0
    }

    private static func loadOptions(_ invocation: Invocation) throws -> LoadOptions {
        let source: LoadOptions.Source
        if let file = invocation.text("from-file") {
            for name in ["events", "from", "to", "profile"] where invocation.text(name) != nil {
                throw UsageError("--\(name) has no meaning with --from-file", hint: "leave one of them out")
            }
            source = .file(file)
        } else {
            guard let events = try invocation.integer("events", in: 1...1_000_000_000_000) else {
                throw UsageError("--events is missing", hint: "such as --events 10000, or --from-file FILE")
            }
            let name = invocation.text("profile") ?? "services"
            guard let profile = TrafficProfile(rawValue: name) else {
                let names = TrafficProfile.allCases.map(\.rawValue).joined(separator: ", ")
                throw UsageError("--profile \(name): no such profile", hint: "one of: \(names)")
            }
            source = .profile(profile, events: events)
        }
        var span: Range<EventTime>?
        let (from, to) = (try invocation.time("from"), try invocation.time("to"))
        if from != nil || to != nil {
            let end = to ?? SystemFacts.now()
            guard let from, from < end else {
                throw UsageError("--from must be given and lie before --to", hint: "--to alone means nothing")
            }
            span = from..<end
        }
        return LoadOptions(
            source: source, rate: try invocation.number("rate", in: 0.001...100_000_000),
            seed: UInt64(try invocation.integer("seed", in: 0...Int.max) ?? 1), span: span,
            groundTruth: invocation.text("ground-truth"), isReconciled: invocation.flag("manifests"))
    }
}
