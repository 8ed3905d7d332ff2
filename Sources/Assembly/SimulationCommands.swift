// `mock-provider` and `loadgen`.

import CommandLine
import Configuration
import Events
import Glibc
import HTTPTransport
import Journal
import QueryAPI
import RecordLog
import RecordLogKafka
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
        var sink = try LoadSink(configuration, running)
        let progress: LoadProgress
        do {
            progress = try LoadGenerator.run(
                options, stop: running.stop, tell: { Terminal.complain($0.description) },
                send: { sink.send($0, $1) })
        } catch {
            try sink.finish()
            throw error
        }
        try sink.finish()
        try Terminal.write("\(progress.description)\n")
        return 0
    }

    private static func loadOptions(_ invocation: Invocation) throws -> LoadOptions {
        func time(_ name: String) throws(UsageError) -> EventTime? {
            guard let text = invocation.text(name) else { return nil }
            guard let time = RFC3339.parse(text) else {
                throw UsageError("--\(name) \(text): not a time", hint: "such as --\(name) 2026-11-01T00:00:00Z")
            }
            return time
        }
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
        let (from, to) = (try time("from"), try time("to"))
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
            groundTruth: invocation.text("ground-truth"))
    }
}

/// Where `loadgen` puts its events: a journal lane of its own, or the Kafka topic. Owned by one thread.
private struct LoadSink {
    private enum Kind {
        case journal(Journal, JournalLane)
        case kafka(KafkaProducer)
    }
    private let kind: Kind
    private let stop: StopSignal
    /// Kafka: what is not yet acknowledged, by tag, for sending again.
    private var pending: [UInt64: (key: [UInt8], value: [UInt8])] = [:]
    private var nextTag: UInt64 = 0
    private var refused: String?

    /// How long the log may take nothing before the command gives up.
    private static let patience = Duration.seconds(60)

    init(_ configuration: MillraceConfiguration, _ running: Running) throws {
        stop = running.stop
        switch configuration.log.kind {
        case .journal:
            let journal = try Journal(
                directory: configuration.journal.directory, options: configuration.journal.options, log: running.log,
                metrics: JournalMetrics())
            let lane = try journal.openLane(isCounted: false)
            journal.start()
            kind = .journal(journal, lane)
        case .kafka:
            let options = configuration.log.kafka.options
            let metrics = KafkaMetrics()
            _ = try KafkaAdmin.ensureTopics(options, deadLetterTopic: nil, log: running.log, metrics: metrics)
            kind = .kafka(try KafkaProducer(options, log: running.log, metrics: metrics))
        }
    }

    mutating func send(_ id: EventID, _ value: UnsafeRawBufferPointer) -> Bool {
        let key = id.bytes
        switch kind {
        case .journal(_, let lane):
            switch key.withUnsafeBytes({ lane.append(kind: .event, key: $0, value: value) }) {
            case .recorded: return true
            case .dropped: return false
            case .waiting: return wait { lane.drain() }
            }
        case .kafka(let producer):
            nextTag += 1
            pending[nextTag] = (key, Array(value))
            if nextTag & 1023 == 0, !serve(producer, 0) { return false }
            return offer(nextTag, producer)
        }
    }

    private mutating func offer(_ tag: UInt64, _ producer: KafkaProducer) -> Bool {
        guard let record = pending[tag] else { return true }
        let start = ContinuousClock.now
        while !record.key.withUnsafeBytes({ key in
            record.value.withUnsafeBytes { producer.send(tag: tag, kind: .event, key: key, value: $0) }
        }) {
            guard serve(producer, 100), start.duration(to: .now) < Self.patience, !stop.isStopped else { return false }
        }
        return true
    }

    /// Takes delivery reports; what failed is sent again. False when the producer is of no more use.
    private mutating func serve(_ producer: KafkaProducer, _ milliseconds: Int32) -> Bool {
        var failed: [UInt64] = []
        do {
            try producer.poll(timeoutMilliseconds: milliseconds) { tag, delivery in
                switch delivery {
                case .acknowledged: pending[tag] = nil
                case .failed: failed.append(tag)
                case .refused(let reason):
                    pending[tag] = nil
                    refused = reason
                }
            }
        } catch {
            refused = "\(error)"
            return false
        }
        for tag in failed {
            guard let record = pending[tag] else { continue }
            _ = record.key.withUnsafeBytes { key in
                record.value.withUnsafeBytes { producer.send(tag: tag, kind: .event, key: key, value: $0) }
            }
        }
        return true
    }

    private func wait(_ isDone: () -> Bool) -> Bool {
        let start = ContinuousClock.now
        while !isDone() {
            guard start.duration(to: .now) < Self.patience, !stop.wait(milliseconds: 1) else { return isDone() }
        }
        return true
    }

    /// Everything sent is in the log when this returns.
    mutating func finish() throws {
        switch kind {
        case .journal(let journal, _): journal.stop()
        case .kafka(let producer):
            var start = ContinuousClock.now
            var left = pending.count
            while !pending.isEmpty, start.duration(to: .now) < Self.patience {
                guard serve(producer, 100) else { break }
                if pending.count < left { start = .now }
                left = pending.count
            }
            producer.close()
            if !pending.isEmpty {
                throw Failure(
                    "Kafka did not acknowledge \(pending.count) events within \(Self.patience.components.seconds) s"
                        + "\(refused.map { ": \($0)" } ?? ""). Run the same command again: copies of one id count once."
                )
            }
        }
        if let refused { throw Failure("Kafka refused events: \(refused)") }
    }
}
