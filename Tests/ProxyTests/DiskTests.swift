// What a disk that is full, or stands still, does to traffic: nothing. Events wait in memory, then are dropped, and each
// is counted. With `fsync: always` an answer waits for its own event, and nobody else does.

import CaptureProxy
import Events
import Glibc
import HTTPTransport
import Journal
import RecordLog
import Synchronization
import Telemetry
import Testing

/// What a call of the disk passes through: all, none, or so many more.
private final class Turnstile: Sendable {
    private let state = Mutex((arrived: 0, left: Int.max))

    func close() { state.withLock { $0.left = 0 } }
    func open() { state.withLock { $0.left = .max } }
    func letThrough(_ count: Int) { state.withLock { $0.left = count } }
    /// Calls so far, those that stand included.
    var arrived: Int { state.withLock { $0.arrived } }

    /// With `fsync: always`, each writing through waits here.
    func standsInWritingThrough(_ options: inout JournalOptions) {
        options.fsync = .always
        options.writeThrough = { [self] file in
            pass()
            return fdatasync(file)
        }
    }

    func pass() {
        state.withLock { $0.arrived += 1 }
        let deadline = ContinuousClock.now.advanced(by: .seconds(60))
        while ContinuousClock.now < deadline {
            let passes = state.withLock { state in
                guard state.left > 0 else { return false }
                if state.left != .max { state.left -= 1 }
                return true
            }
            if passes { return }
            usleep(500)
        }
    }
}

private func waitUntil(_ what: String, _ isDone: () -> Bool) throws {
    struct NotInTime: Error { var what: String }
    let deadline = ContinuousClock.now.advanced(by: .seconds(20))
    while !isDone() {
        if ContinuousClock.now >= deadline { throw NotInTime(what: what) }
        usleep(1_000)
    }
}

/// A request whose event is of some size and says its number.
private func request(_ number: Int, noteSize: Int = 0, headers: String = "") -> String {
    let note = String(repeating: "n", count: noteSize)
    let body = "{\"model\":\"gpt-4o\",\"number\":\(number)}"
    return "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx-portkey-provider: openai\r\n"
        + "x-portkey-metadata: {\"number\":\"\(number)\",\"note\":\"\(note)\"}\r\n"
        + "content-type: application/json\r\n\(headers)content-length: \(body.utf8.count)\r\n\r\n\(body)"
}
/// Refused before it is an exchange: answered, and no event.
private let refused = "POST /nowhere HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}"

private func number(of event: RequestEvent) -> Int {
    let text = String(decoding: event.metadataRaw, as: UTF8.self)
    return Int(text.drop { !$0.isNumber }.prefix { $0.isNumber }) ?? -1
}

/// Says the request's body again.
private let echo: HTTPResponder = { request in .json(200, String(decoding: request.body, as: UTF8.self)) }

@Suite(.timeLimit(.minutes(2))) struct DiskTests {
    // MARK: Without waiting for the disk

    /// Sends them one after the other; each is answered 200, before the client's patience of 10 s is over.
    private func send(_ numbers: Range<Int>, to hop: Hop, noteSize: Int = 2_000) throws {
        let client = try RawClient(port: hop.proxy.port)
        for number in numbers {
            client.send(request(number, noteSize: noteSize))
            #expect(try #require(client.answer(), "\(number)").head.hasPrefix("HTTP/1.1 200"), "\(number)")
        }
    }

    private func expectAllCounted(_ count: Int, _ hop: Hop) {
        let metrics = hop.metrics
        #expect(metrics.accepted.value == UInt64(count))
        #expect(metrics.recorded.value + metrics.waiting.value + metrics.dropped.value == UInt64(count))
        #expect(metrics.dropped.value == hop.journalMetrics.dropped.value)
    }

    /// `isHeld`: answers wait for their events' way to the disk, where these are on one.
    @Test(arguments: [ENOSPC, EROFS, EIO], [false, true])
    func aFullDiskCostsEventsAndNoRequest(_ number: Int32, isHeld: Bool) throws {
        let refusal = Mutex<Int32>(0)
        let hop = try Hop(
            configure: { $0.holdsForDurability = isHeld },
            disk: {
                if isHeld { $0.fsync = .always }
                ($0.segmentSize, $0.waitingSize) = (64 << 10, 64 << 10)
                $0.allocate = { file, size in
                    let number = refusal.withLock { $0 }
                    return number != 0 ? number : posix_fallocate(file, 0, off_t(size))
                }
            })
        refusal.withLock { $0 = number }
        try send(0..<200, to: hop)
        expectAllCounted(200, hop)
        let kept = hop.metrics.recorded.value + hop.metrics.waiting.value
        #expect(hop.metrics.recorded.value > 0 && hop.metrics.waiting.value > 0 && hop.metrics.dropped.value > 0)
        try waitUntil("it is said") { hop.journal.degraded != nil && hop.journalMetrics.degraded.value == 1 }
        #expect(hop.journalMetrics.waitingBytes.value > 0)
        refusal.withLock { $0 = 0 }
        try waitUntil("what waited is on disk") { hop.journalMetrics.waitingBytes.value == 0 }
        try waitUntil("it is well") { hop.journal.degraded == nil }
        let dropped = hop.metrics.dropped.value
        try send(200..<210, to: hop)
        #expect(hop.metrics.dropped.value == dropped)
        let numbers = try hop.finish().map(number(of:))
        #expect(numbers.count == Int(kept) + 10)
        #expect(numbers == numbers.sorted() && Set(numbers).count == numbers.count)
        #expect(numbers.suffix(10) == Array(200..<210)[...])
    }

    @Test func aDiskThatStandsInMakingFilesDelaysNoRequest() throws {
        let disk = Turnstile()
        let hop = try Hop(disk: {
            ($0.segmentSize, $0.waitingSize) = (64 << 10, 1 << 20)
            $0.allocate = { file, size in
                disk.pass()
                return posix_fallocate(file, 0, off_t(size))
            }
        })
        disk.close()
        defer { disk.open() }
        // All of them are answered while the disk stands.
        try send(0..<200, to: hop)
        expectAllCounted(200, hop)
        #expect(hop.metrics.waiting.value > 0 && hop.metrics.dropped.value == 0)
        disk.open()
        try waitUntil("what waited is on disk") { hop.journalMetrics.waitingBytes.value == 0 }
        #expect(try hop.finish().map(number(of:)) == Array(0..<200))
    }

    @Test func aDiskThatStandsInWritingThroughDelaysNoRequestThatDoesNotAskForIt() throws {
        let disk = Turnstile()
        disk.close()
        let hop = try Hop(disk: {
            $0.fsync = .interval
            $0.writeThrough = { file in
                disk.pass()
                return fdatasync(file)
            }
        })
        defer { disk.open() }
        try send(0..<1, to: hop)
        try waitUntil("the disk stands") { disk.arrived == 1 }
        try send(1..<200, to: hop)
        #expect(disk.arrived == 1)
        #expect(hop.metrics.recorded.value == 200 && hop.metrics.waiting.value == 0 && hop.metrics.dropped.value == 0)
        disk.open()
        #expect(try hop.finish().map(number(of:)) == Array(0..<200))
    }

    @Test func aJournalAtItsSizeLimitCostsEventsAndNoRequest() throws {
        let hop = try Hop(disk: { ($0.segmentSize, $0.waitingSize, $0.maxSize) = (64 << 10, 64 << 10, 256 << 10) })
        // Nobody acknowledges.
        try send(0..<300, to: hop)
        expectAllCounted(300, hop)
        let kept = hop.metrics.recorded.value + hop.metrics.waiting.value
        #expect(hop.metrics.waiting.value > 0 && hop.metrics.dropped.value > 0)
        try waitUntil("it is said") { hop.journal.degraded?.contains("journal.max_size_bytes") == true }
        #expect(hop.journalMetrics.retiredSegments.value == 0)
        // What is acknowledged goes before its time, and what waited gets its place.
        let log = Log(role: "test", descriptor: -1)
        var reader = JournalLogReader(directory: hop.directory, log: log, metrics: JournalMetrics())
        defer { reader.close() }
        let lane = LaneDirectory(journal: hop.directory, number: 0).topicPartition
        var numbers: [Int] = []
        let deadline = ContinuousClock.now.advanced(by: .seconds(20))
        while numbers.count < Int(kept), ContinuousClock.now < deadline {
            switch try reader.poll(maxRecords: 1_000, maxBytes: 1 << 20, timeoutMilliseconds: 20) {
            case .discovered(let partitions): try reader.start(partitions.map { ($0, Offset(0)) })
            case .records(let chunk):
                numbers += try chunk.events().map { number(of: $0) }
                if let last = chunk.records.last { reader.applied(lane, next: Offset(last.offset.value + 1)) }
            default: break
            }
        }
        #expect(numbers.count == Int(kept) && numbers == numbers.sorted())
        #expect(hop.journalMetrics.retiredSegments.value > 0 && hop.journalMetrics.waitingBytes.value == 0)
        try waitUntil("it is well") { hop.journal.degraded == nil }
        _ = try hop.finish()
    }

    // MARK: Waiting for the disk

    @Test(arguments: [false, true])
    func ofPipelinedAnswersNoneLeavesBeforeItsOwnEventIsOnDisk(_ closes: Bool) throws {
        let disk = Turnstile()
        disk.close()
        let hop = try Hop(
            respond: echo, configure: { $0.holdsForDurability = true },
            disk: disk.standsInWritingThrough)
        defer { disk.open() }
        let client = try RawClient(port: hop.proxy.port)
        client.send(request(1))
        try waitUntil("the first event is being written through") { disk.arrived == 1 }
        client.send(request(2, headers: closes ? "connection: close\r\n" : ""))
        try waitUntil("the second event is recorded") { hop.metrics.recorded.value == 2 }
        let other = try RawClient(port: hop.proxy.port)
        func expectTheLoopTurns() throws {
            for _ in 0..<3 {
                other.send(refused)
                #expect(try #require(other.answer()).head.hasPrefix("HTTP/1.1 404"))
            }
        }
        // Who has no event waits for nothing.
        try expectTheLoopTurns()
        #expect(client.arrived().isEmpty)
        disk.letThrough(1)
        // The first is on disk and its answer let go; the second is being written through.
        try waitUntil("the second event is being written through") { disk.arrived == 2 }
        try expectTheLoopTurns()
        #expect(!client.arrived().contains("\"number\":2"))
        disk.open()
        #expect(try #require(client.answer()).body.contains("\"number\":1"))
        #expect(try #require(client.answer()).body.contains("\"number\":2"))
        if closes { #expect(client.rest().isEmpty) }
        #expect(try hop.finish().count == 2)
    }

    @Test func anAnswerThatStoppedBehindOneThatWaitsGoesOnWithIt() throws {
        let disk = Turnstile()
        disk.close()
        let written = Atomic<Int>(0)
        let (parts, part) = (16, [UInt8](repeating: UInt8(ascii: "#"), count: 65_536))
        let hop = try Hop(
            respond: { request in
                guard String(decoding: request.body, as: UTF8.self).contains("\"number\":2") else {
                    return echo(request)
                }
                var response = HTTPResponse.text(200, "")
                response.stream = { sink in
                    for _ in 0..<parts {
                        guard sink.write(part) else { return false }
                        written.wrappingAdd(1, ordering: .relaxed)
                    }
                    return true
                }
                return response
            }, configure: { $0.holdsForDurability = true },
            disk: disk.standsInWritingThrough)
        defer { disk.open() }
        let client = try RawClient(port: hop.proxy.port)
        client.send(request(1))
        try waitUntil("the first event is being written through") { disk.arrived == 1 }
        client.send(request(2, headers: "connection: close\r\n"))
        // More than the proxy takes for a client that takes nothing; the rest lies in the sockets.
        try waitUntil("the second answer is on its way") { written.load(ordering: .relaxed) >= 5 }
        disk.open()
        let answers = client.rest()
        #expect(answers.contains("\"number\":1"))
        #expect(answers.utf8.count { $0 == UInt8(ascii: "#") } == parts * part.count)
        #expect(try hop.finish().count == 2)
    }
}
