// The proxy: event loops, each with its listener, upstream pool and journal lane. In: HTTP exchanges; out: events in
// the journal.

package import Access
import EventCodec
import Events
import Glibc
import HTTPMessages
package import HTTPTransport
package import Journal
package import Normalizer
import RecordLog
import Synchronization
package import Telemetry
import Threading

/// @unchecked: workers and listeners are made in `init` and touched on their loops' threads; the rest is immutable.
package final class ProxyService: @unchecked Sendable {
    /// Between steering new connections away and closing the socket: what was on its way arrives.
    static let steeringMilliseconds: UInt32 = 200

    /// The port in use.
    package let port: UInt16
    private let loops: [EventLoop]
    private let workers: [ProxyWorker]
    private var listeners: [Listener]
    private let sockets: [ListeningSocket]
    private let options: ProxyOptions
    private let budget: ConnectionBudget
    private let resolver: Resolver
    private let log: Log

    /// How long the loop that has stood longest has not turned.
    package var silence: Duration { loops.map(\.silence).max() ?? .zero }

    /// Opens one journal lane a loop, listens and serves.
    /// `resolver` finds providers' addresses; it is stopped with the proxy.
    package init(
        options: ProxyOptions, journal: Journal, log: Log, metrics: ProxyMetrics, resolver: Resolver = Resolver()
    ) throws {
        self.log = log
        self.options = options
        self.resolver = resolver
        let tls = try TLSContext.client()
        let gate = ConcurrencyGate(limit: options.concurrency, perKey: options.concurrencyPerKey)
        let upstream = options.upstream.divided(among: max(1, options.loops))
        let routing = Routing(providers: options.providers)
        var loops: [EventLoop] = []
        var workers: [ProxyWorker] = []
        let sockets = try ListeningSocket.group(
            options.listen, count: max(1, options.loops), besideOthers: options.sharesPort)
        let budget = ConnectionBudget()
        for index in sockets.indices {
            let loop = try EventLoop(name: "proxy-\(index)")
            let held = HeldConnections(loop: loop)
            let onDurable: @Sendable (Int64) -> Void = { held.durable(upTo: $0) }
            let lane = try journal.openLane(onDurable: options.holdsForDurability ? onDurable : nil)
            loops.append(loop)
            workers.append(
                ProxyWorker(
                    options: options, routing: routing,
                    pool: UpstreamPool(loop: loop, resolver: resolver, tls: tls, limits: upstream), lane: lane,
                    gate: gate, held: held, proxyID: journal.proxyID, log: log, metrics: metrics))
        }
        port = sockets[0].port
        self.sockets = sockets
        self.budget = budget
        self.loops = loops
        self.workers = workers
        listeners = zip(zip(loops, sockets), workers).map { pair, worker in
            Listener(loop: pair.0, socket: pair.1, tls: options.tls, limits: options.clients, budget: budget) {
                ProxyExchange(connection: $0, worker: worker)
            }
        }
        metrics.watch(
            open: { [budget] in Int64(budget.open.load(ordering: .relaxed)) },
            refused: { [budget] in UInt64(budget.refused.load(ordering: .relaxed)) },
            rests: { [budget] in UInt64(budget.rests.load(ordering: .relaxed)) },
            resumed: { UInt64(tls.resumptions.load(ordering: .relaxed)) })
        for loop in loops { loop.start() }
        for (loop, worker) in zip(loops, workers) {
            let bound = LoopBound(worker)
            loop.post { bound.value.tell(on: loop) }
        }
        log(.proxyStarted(address: Self.replacePort(of: options.listen, by: port), loops: loops.count))
    }

    /// Each loop goes by these keys from its next request on. False where a loop's inbox is full: tell it again.
    package func update(keys: [AccessKey]) -> Bool {
        var isTold = true
        for (loop, worker) in zip(loops, workers) {
            let bound = LoopBound(worker)
            // A directory of its own, so that loops share no memory that they count references in.
            if !loop.post({ bound.value.access = .keys(KeyDirectory(keys)) }) { isTold = false }
        }
        return isTold
    }

    /// Each loop hides what this one hides from its next event on; nil: nothing. False where a loop's inbox is full.
    package func update(redactor: Redactor?) -> Bool {
        var isTold = true
        for (loop, worker) in zip(loops, workers) {
            let bound = LoopBound(worker)
            if !loop.post({ bound.value.redactor = redactor }) { isTold = false }
        }
        return isTold
    }

    private static func replacePort(of address: String, by port: UInt16) -> String {
        guard let colon = address.lastIndex(of: ":") else { return address }
        return "\(address[..<colon]):\(port)"
    }

    /// Connections from now on are greeted with this certificate.
    package func use(_ tls: TLSContext) { eachListener { $0.tls = tls } }

    /// Accepts no more, lets exchanges under way end (bounded), then closes. The journal is stopped after this.
    ///
    /// Answers say `connection: close` from here on; connections between requests stay open for the grace, so that a
    /// client that is just using one gets its answer, and are closed then.
    package func stop() {
        if options.sharesPort {
            sockets.first?.steerAway(count: sockets.count)
            usleep(Self.steeringMilliseconds * 1_000)
        }
        let start = EventLoop.clock()
        eachListener {
            $0.close()
            $0.connections.drain()
        }
        wait(until: start + min(options.drainGraceMilliseconds, options.drainMilliseconds)) {
            self.budget.open.load(ordering: .relaxed) == 0
        }
        eachListener { $0.connections.closeIdle() }
        wait(until: start + options.drainMilliseconds) { !self.workers.contains { $0.underWay.value > 0 } }
        wait(until: start + options.drainMilliseconds) { self.unsent() == 0 }
        eachListener { $0.connections.abandon() }
        for loop in loops { loop.stop() }
        // The loops have ended: their lanes are this thread's now.
        for worker in workers { worker.tellLast() }
        listeners = []
        let hanging = resolver.stop()
        if hanging > 0 { log(.resolverStuck(lookUps: hanging)) }
        log(.proxyStopped())
    }

    /// Tries for a second where a loop's inbox is full; a loop that does not turn at all is the watchdog's.
    private func eachListener(_ body: @escaping @Sendable (Listener) -> Void) {
        for (loop, listener) in zip(loops, listeners) {
            let bound = LoopBound(listener)
            let deadline = EventLoop.clock() + 1_000
            while !loop.post({ body(bound.value) }), EventLoop.clock() < deadline { usleep(1_000) }
        }
    }

    private func wait(until deadline: UInt64, _ isDone: () -> Bool) {
        while !isDone(), EventLoop.clock() < deadline { usleep(5_000) }
    }

    /// Connections whose last bytes are still in our hands.
    private func unsent() -> Int {
        let count = Counted()
        let answered = Counted()
        eachListener {
            count.value.wrappingAdd($0.connections.unsent, ordering: .relaxed)
            answered.value.wrappingAdd(1, ordering: .releasing)
        }
        wait(until: EventLoop.clock() + 1_000) { answered.value.load(ordering: .acquiring) == self.listeners.count }
        return count.value.load(ordering: .relaxed)
    }

    private final class Counted: Sendable { let value = Atomic<Int>(0) }
}

/// What the exchanges of one loop share. Touched on the loop's thread only, but for the gauge.
final class ProxyWorker {
    let options: ProxyOptions
    let routing: Routing
    let pool: UpstreamPool
    let log: Log
    let metrics: ProxyMetrics
    let gate: ConcurrencyGate
    /// Exchanges that have begun and not ended.
    let underWay = Gauge()
    var access: ProxyAccess
    private let lane: JournalLane
    private let held: HeldConnections
    private let proxyID: String
    private var random = SplitMix(seed: .random(in: 0 ... .max))
    private var encoded: [UInt8] = []
    var prices: PriceMemory
    fileprivate(set) var redactor: Redactor?
    private var inflaters: [Inflater] = []
    /// Each holds about 50 KiB: kept for the next compressed answer.
    private static let keptInflaters = 32

    init(
        options: ProxyOptions, routing: Routing, pool: UpstreamPool, lane: JournalLane, gate: ConcurrencyGate,
        held: HeldConnections, proxyID: String, log: Log, metrics: ProxyMetrics
    ) {
        self.gate = gate
        self.options = options
        redactor = options.redactor
        access = options.access
        prices = PriceMemory(options.prices)
        self.routing = routing
        self.pool = pool
        self.lane = lane
        self.held = held
        self.proxyID = proxyID
        self.log = log
        self.metrics = metrics
        encoded.reserveCapacity(4_096)
    }

    /// Once a second: what waits for a segment goes on, and the counts of the minutes are told.
    func tell(on loop: EventLoop) {
        lane.tell(now: Self.now())
        held.letGo()
        loop.schedule(afterMilliseconds: Self.tellMilliseconds) { [self, unowned loop] in tell(on: loop) }
    }

    func tellLast() { lane.tell(now: Self.now()) }

    private static let tellMilliseconds = 1_000

    private static func now() -> EventTime { EventTime(microseconds: WallClock.microseconds()) }
    /// For a compressed answer; nil where there is no memory for one.
    func takeInflater() -> Inflater? { inflaters.popLast() ?? Inflater() }

    func giveBack(_ inflater: Inflater) {
        guard inflaters.count < Self.keptInflaters else { return }
        inflater.reset()
        inflaters.append(inflater)
    }

    /// A span of our own: 16 digits, never zero.
    func makeSpanID() -> String {
        String(unsafeUninitializedCapacity: 16) { Self.write(random.next() | 1, to: $0, at: 0) }
    }

    func makeTraceID() -> String {
        String(unsafeUninitializedCapacity: 32) {
            _ = Self.write(random.next(), to: $0, at: 0)
            return Self.write(random.next() | 1, to: $0, at: 16)
        }
    }

    /// 16 digits a word, as W3C's trace context has them; where they end.
    private static func write(_ word: UInt64, to digits: UnsafeMutableBufferPointer<UInt8>, at start: Int) -> Int {
        for index in 0..<16 {
            let digit = UInt8(truncatingIfNeeded: word >> UInt64(60 - index * 4)) & 15
            digits[start + index] = digit < 10 ? 0x30 + digit : 0x57 + digit
        }
        return start + 16
    }

    func makeEvent() -> RequestEvent {
        let now = Self.now()
        var event = RequestEvent(id: EventID(time: now, random: (random.next(), random.next())), time: now)
        event.proxy = proxyID
        return event
    }

    /// Puts the event into the journal. `connection`, where given, is held until the event is on disk, if so configured.
    func record(_ event: RequestEvent, on connection: ServerConnection?) {
        metrics.accepted.add()
        var event = event
        redactor?.redact(&event)
        encoded.removeAll(keepingCapacity: true)
        EventEncoder.encode(event, into: &encoded)
        var key = (event.id.high.bigEndian, event.id.low.bigEndian)
        let appended = withUnsafeBytes(of: &key) { key in
            encoded.withUnsafeBytes { lane.append(kind: .event, key: key, value: $0, time: event.time) }
        }
        switch appended {
        case .recorded(let sequence):
            metrics.recorded.add()
            if options.holdsForDurability, let connection { held.hold(connection, until: sequence) }
        case .waiting: metrics.waiting.add()
        case .dropped: metrics.dropped.add()
        }
    }
}

/// Connections whose answer waits for the journal's group commit.
///
/// A connection with several answers waiting is let go with the last of them.
///
/// @unchecked: `waiting` is touched on the loop's thread only; `durable` posts there.
final class HeldConnections: @unchecked Sendable {
    private let loop: EventLoop
    private var waiting: [(sequence: Int64, connection: ServerConnection)] = []
    /// Records up to this one are on disk.
    private let durable = Atomic<Int64>(-1)

    init(loop: EventLoop) { self.loop = loop }

    func hold(_ connection: ServerConnection, until sequence: Int64) {
        connection.hold()
        waiting.append((sequence, connection))
    }

    func durable(upTo sequence: Int64) {
        durable.store(sequence, ordering: .releasing)
        // Where the loop's inbox is full its timer does it.
        loop.post { [self] in letGo() }
    }

    /// On the loop's thread.
    func letGo() {
        let sequence = durable.load(ordering: .acquiring)
        let ready = waiting.prefix { $0.sequence <= sequence }
        waiting.removeFirst(ready.count)
        for entry in ready { entry.connection.release() }
    }
}

/// A small random generator, seeded once a loop: ids need to be distinct, not secret.
struct SplitMix {
    private var state: UInt64
    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}
