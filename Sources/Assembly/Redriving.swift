// Dead letters -> the log again, as they came -> marked. The command and the API send by this alike.

import Configuration
import EventCodec
import Events
import Journal
import QueryAPI
import RecordLog
import RollupStore
import Synchronization
import Telemetry
import Threading

enum Redriving {
    /// In the log first, marked then: where this ends in between, the next run sends them again, which counts nothing
    /// twice. Answers how many the log took.
    static func send(
        _ sources: [RecordSource], from archive: any DeadLetterArchive, to sink: LogSink
    ) throws -> Int {
        var sink = sink
        var sent: [RecordSource] = []
        var failure: RollupStoreError?
        do throws(RollupStoreError) {
            for source in sources {
                guard let (_, key, value) = try archive.find(source) else { continue }
                let kind = kind(key, value)
                let isTaken = key.withUnsafeBytes { key in
                    value.withUnsafeBytes { sink.send(kind: kind, key: key, value: $0) }
                }
                if !isTaken { break }
                sent.append(source)
            }
        } catch {
            // What was sent until then is still to be acknowledged, and marked.
            failure = error
        }
        try sink.finish()
        try archive.markRedriven(sent, at: SystemFacts.now())
        if let failure { throw failure }
        return sent.count
    }

    /// The record's kind, which is not kept: a manifest's key is its proxy's id, anything else was to be an event.
    private static func kind(_ key: [UInt8], _ value: [UInt8]) -> RecordKind {
        let manifest = value.withUnsafeBytes { try? EventDecoder.decodeManifest($0) }
        if let manifest, Array(manifest.proxy.utf8) == key { return .manifest }
        return .event
    }
}

/// Redriving for the API: one request at a time, and no longer than somebody waits for an answer.
final class RedriveDesk: Sendable {
    private let configuration: MillraceConfiguration
    private let archive: any DeadLetterArchive
    private let stop: StopSignal
    private let log: Log
    private let isBusy = Mutex(false)

    /// How long the log may take nothing.
    private static let patience = Duration.seconds(10)

    init(_ configuration: MillraceConfiguration, _ archive: any DeadLetterArchive, stop: StopSignal, log: Log) {
        self.configuration = configuration
        self.archive = archive
        self.stop = stop
        self.log = log
    }

    func send(_ sources: [RecordSource]) throws -> Int {
        guard
            isBusy.withLock({
                let wasFree = !$0; $0 = true; return wasFree
            })
        else {
            throw ChangeRefusal(
                .conflict, "This API is sending dead letters already.", hint: "Ask again when that has been answered.")
        }
        defer { isBusy.withLock { $0 = false } }
        try refuseForeignMachine()
        do {
            return try Redriving.send(sources, from: archive, to: sink())
        } catch let error as RollupStoreError {
            throw error
        } catch {
            throw ChangeRefusal(
                .unavailable, "The log did not take the records: \(error)",
                hint: "Send the request again when the log is reachable: copies of one id count once.")
        }
    }

    private func sink() throws -> LogSink {
        try LogSink(configuration, stop: stop, log: log, patience: Self.patience)
    }

    /// A journal that is made here would be read by nobody.
    private func refuseForeignMachine() throws(ChangeRefusal) {
        let directory = configuration.journal.directory
        guard configuration.log.kind == .journal, LaneDirectory.all(in: directory).isEmpty else { return }
        throw ChangeRefusal(
            .unavailable, "The log is the journal in \(directory), and there is none where this API runs.",
            hint: "Run 'millrace dead-letters redrive' on the machine of the proxy and the consumer.")
    }
}
