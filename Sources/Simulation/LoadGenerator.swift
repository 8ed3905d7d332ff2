// `millrace loadgen`: profile or file -> encoded events, paced, handed to a sink, and told to a ground-truth file.
// The sink (a journal lane, a Kafka producer) is the caller's.

import EventCodec
package import Events
package import Threading

/// What to send.
package struct LoadOptions: Sendable {
    package enum Source: Sendable {
        case profile(TrafficProfile, events: Int)
        /// A file of JSON lines, as `EventJSON` reads them.
        case file(String)
    }
    package var source: Source
    /// Events a second; nil: as fast as the sink takes them.
    package var rate: Double?
    package var seed: UInt64
    /// The events' times are spread evenly over `from ..< to`; nil: each has the time of its sending.
    /// A file's events keep their own.
    package var span: Range<EventTime>?
    /// Where to write each event sent, as a JSON line; nil: nowhere.
    package var groundTruth: String?
    /// Whether a profile's events are one proxy's, the seed's, and what was sent is told by manifests.
    package var isReconciled: Bool

    package init(
        source: Source, rate: Double? = nil, seed: UInt64, span: Range<EventTime>? = nil, groundTruth: String? = nil,
        isReconciled: Bool = false
    ) {
        self.source = source
        self.rate = rate
        self.seed = seed
        self.span = span
        self.groundTruth = groundTruth
        self.isReconciled = isReconciled
    }
}

package struct LoadProgress: Sendable, Equatable {
    package var events = 0
    package var bytes = 0
    package var elapsed: Duration = .zero
    /// As asked for; nil where a file decides.
    package var wanted: Int?
    /// Where they are asked for: how many events were sent, by proxy and minute.
    fileprivate var minutes: [Minute: UInt64] = [:]

    fileprivate struct Minute: Hashable {
        var proxy: String
        var start: EventTime
    }

    package init() {}

    /// What is to be told of them, once they are acknowledged. Run again, the same seed tells the same.
    package var manifests: [Manifest] {
        minutes.map { minute, count in
            Manifest(proxy: minute.proxy, minute: minute.start, accepted: count, recorded: count, dropped: 0)
        }.sorted { ($0.minute, $0.proxy) < ($1.minute, $1.proxy) }
    }

    /// Events a second so far.
    package var rate: Double {
        let (seconds, attoseconds) = elapsed.components
        let time = Double(seconds) + Double(attoseconds) * 1e-18
        return time > 0 ? Double(events) / time : 0
    }

    /// `120000 of 1000000 events, 98304 events/s`.
    package var description: String {
        "\(events)\(wanted.map { " of \($0)" } ?? "") events, \(Int(rate)) events/s"
    }
}

package struct SimulationError: Error, Sendable, CustomStringConvertible {
    package enum Code: String, Sendable { case file, line, sink }
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

package enum LoadGenerator {
    /// Sends every event once, in order, until all are sent or `stop` says so; blocks.
    ///
    /// `send` takes an event's id and its encoded value (valid during the call), waits while its queue is full and
    /// answers false when it will take no more. `tell` hears of the progress once a second.
    package static func run(
        _ options: LoadOptions, stop: StopSignal, tell: (LoadProgress) -> Void,
        send: (EventID, UnsafeRawBufferPointer) -> Bool
    ) throws(SimulationError) -> LoadProgress {
        let truth = try options.groundTruth.map { path throws(SimulationError) in try LineWriter(path: path) }
        var source = try EventSource(options)
        var progress = LoadProgress()
        if case .profile(_, let events) = options.source { progress.wanted = events }
        let start = ContinuousClock.now
        var told = start
        var value: [UInt8] = []
        var line: [UInt8] = []
        while let event = try source.next() {
            if let rate = options.rate,
                pauseIsCut(until: start.advanced(by: .seconds(Double(progress.events) / rate)), stop)
            {
                break
            }
            value.removeAll(keepingCapacity: true)
            EventEncoder.encode(event, into: &value)
            // Told first: what the log holds is then never more than what the file says was sent.
            if truth != nil {
                line.removeAll(keepingCapacity: true)
                EventJSON.write(event, into: &line)
                line.append(UInt8(ascii: "\n"))
                try truth?.write(line)
            }
            guard value.withUnsafeBytes({ send(event.id, $0) }) else {
                try truth?.flush()
                throw SimulationError(
                    code: .sink, tried: "send event \(progress.events + 1)", reason: "the log takes no more events",
                    next: "Look at the lines above for why, then run the rest again; copies of one id count once.")
            }
            progress.events += 1
            progress.bytes += value.count
            if options.isReconciled {
                progress.minutes[.init(proxy: event.proxy, start: event.time.startOfMinute), default: 0] += 1
            }
            // A look at the clock costs as much as an event: one in 256 is enough unless the pace is slow.
            if options.rate != nil || progress.events & 255 == 0 {
                if stop.isStopped { break }
                let now = ContinuousClock.now
                if told.duration(to: now) >= .seconds(1) {
                    told = now
                    progress.elapsed = start.duration(to: now)
                    tell(progress)
                }
            }
        }
        try truth?.flush()
        progress.elapsed = start.duration(to: .now)
        return progress
    }

    /// Sleeps until `due`; true when stopped meanwhile. Short waits are saved up: an event may be a millisecond early.
    private static func pauseIsCut(until due: ContinuousClock.Instant, _ stop: StopSignal) -> Bool {
        let left = ContinuousClock.now.duration(to: due)
        if left < .milliseconds(1) { return false }
        let (seconds, attoseconds) = left.components
        return stop.wait(milliseconds: Int(seconds) * 1_000 + Int(attoseconds / 1_000_000_000_000_000))
    }
}

/// The events to send, one after the other.
private struct EventSource {
    private var generator: TrafficGenerator?
    private var reader: LineReader?
    /// Of a profile: how many to make.
    private var count = 0
    private let span: Range<EventTime>?
    private var random: SeededGenerator
    private var sent = 0

    init(_ options: LoadOptions) throws(SimulationError) {
        span = options.span
        random = SeededGenerator(seed: ~options.seed)
        switch options.source {
        case .profile(let profile, let events):
            let proxy = options.isReconciled ? Self.proxy(options.seed) : nil
            generator = TrafficGenerator(profile: profile, seed: options.seed, proxy: proxy)
            count = events
        case .file(let path): reader = try LineReader(path: path)
        }
    }

    mutating func next() throws(SimulationError) -> RequestEvent? {
        if let reader { return try next(from: reader) }
        guard sent < count else { return nil }
        let time = time(of: sent)
        sent += 1
        return generator?.next(at: time)
    }

    private mutating func next(from reader: LineReader) throws(SimulationError) -> RequestEvent? {
        while let line = try reader.next() {
            if line.allSatisfy({ $0 == 0x20 || $0 == 0x09 || $0 == 0x0D }) { continue }
            do {
                return try EventJSON.parse(line, now: .now, random: (random.next(), random.next()))
            } catch {
                throw SimulationError(
                    code: .line, tried: "read line \(reader.number) of \(reader.path)", reason: error.description,
                    next: "Correct the line; nothing from it on was sent.")
            }
        }
        return nil
    }

    /// An id as proxies have them, the same for the same seed.
    private static func proxy(_ seed: UInt64) -> String {
        var random = SeededGenerator(seed: seed)
        return "\(EventID(time: EventTime(microseconds: 0), random: (random.next(), random.next())))"
    }

    private func time(of index: Int) -> EventTime {
        guard let span else { return .now }
        let width = span.upperBound.microseconds - span.lowerBound.microseconds
        // 128 bits: a year in microseconds times a thousand million events does not fit in 64.
        let product = width.multipliedFullWidth(by: Int64(index))
        let offset = Int64(count).dividingFullWidth(product).quotient
        return EventTime(microseconds: span.lowerBound.microseconds + offset)
    }
}

extension EventTime {
    /// The wall clock.
    static var now: EventTime { EventTime(microseconds: WallClock.microseconds()) }
}
