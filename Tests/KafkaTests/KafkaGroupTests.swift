// Readers that share a topic as members of one consumer group, with no store: the test keeps the offsets.

import Glibc
import RecordLog
import RecordLogKafka
import Telemetry
import Testing

/// What a store would know: where each partition goes on. Every record is taken down as it is applied.
private struct Offsets {
    var next: [Int32: Int64] = [:]
    var applied: [UInt64] = []
    var owner: [Int32: Int] = [:]
    var revocations = 0
}

/// A reader with what the group gave it.
private final class Member {
    let number: Int
    let metrics = KafkaMetrics()
    private(set) var partitions: Set<Int32> = []
    private var reader: KafkaLogReader

    init(_ number: Int, _ options: KafkaOptions) throws {
        self.number = number
        reader = try KafkaLogReader(options, membership: .group, createsTopic: false, log: quiet, metrics: metrics)
    }

    func step(_ offsets: inout Offsets, milliseconds: Int32 = 20) throws {
        try take(reader.poll(maxRecords: 1_000, maxBytes: 1 << 20, timeoutMilliseconds: milliseconds), &offsets)
    }

    func standBy(_ offsets: inout Offsets) throws {
        while let event = try reader.standBy() { try take(event, &offsets) }
    }

    private func take(_ event: LogEvent, _ offsets: inout Offsets) throws {
        switch event {
        case .discovered(let found):
            partitions.formUnion(found.map(\.partition))
            for partition in found { offsets.owner[partition.partition] = number }
            try reader.start(found.map { ($0, Offset(offsets.next[$0.partition] ?? 0)) })
        case .records(let chunk):
            for slot in chunk.records {
                #expect(offsets.owner[slot.partition] == number)
                #expect(slot.offset.value == offsets.next[slot.partition] ?? 0)
                offsets.next[slot.partition] = slot.offset.value + 1
                let value = chunk.bytes[Int(slot.valueStart)..<Int(slot.valueStart + slot.valueCount)]
                offsets.applied.append(UInt64(String(decoding: value, as: UTF8.self)) ?? .max)
                reader.applied(chunk.partitions[Int(slot.partition)], next: Offset(slot.offset.value + 1))
            }
        case .revoked(let taken):
            partitions.subtract(taken.map(\.partition))
            offsets.revocations += 1
            reader.release(taken)
        case .gap, .truncated: Issue.record("\(event)")
        case .idle: break
        }
    }

    func close() { reader.close() }
}

@Suite(.serialized, .enabled(if: isKafkaWanted), .timeLimit(.minutes(5)))
struct KafkaGroupTests {
    private static let quick = ["session.timeout.ms": "6000", "heartbeat.interval.ms": "500"]

    private func options(partitions: Int, _ properties: [String: String]) throws -> KafkaOptions {
        var options = try KafkaServer.shared.get().topic(partitions: partitions)
        options.properties = Self.quick.merging(properties) { $1 }
        return options
    }

    private func run(
        _ what: String, _ members: [Member], _ offsets: inout Offsets, seconds: Int = 40,
        until isDone: (Offsets) -> Bool
    ) throws {
        let deadline = ContinuousClock.now.advanced(by: .seconds(seconds))
        while !isDone(offsets) {
            if ContinuousClock.now > deadline {
                throw Failure("\(what): not in time; \(members.map(\.partitions)), \(offsets.applied.count) applied")
            }
            for member in members { try member.step(&offsets) }
        }
    }

    @Test(arguments: ["range", "roundrobin", "cooperative-sticky"])
    func membersShareThePartitionsAndReadEachRecordOnce(_ assignor: String) throws {
        let options = try options(partitions: 6, ["partition.assignment.strategy": assignor])
        let producer = try KafkaProducer(options, log: quiet, metrics: KafkaMetrics())
        defer { producer.close() }
        _ = try producer.send(0..<10_000)
        var offsets = Offsets()
        let first = try Member(1, options)
        try run("alone", [first], &offsets) { $0.applied.count == 10_000 && first.partitions.count == 6 }

        let second = try Member(2, options)
        try run("two", [first, second], &offsets) { _ in first.partitions.count == 3 && second.partitions.count == 3 }
        _ = try producer.send(10_000..<20_000)
        let third = try Member(3, options)
        try run("three", [first, second, third], &offsets) { offsets in
            offsets.applied.count == 20_000 && [first, second, third].allSatisfy { $0.partitions.count == 2 }
        }
        // One leaves in good order; the others have its partitions before its session could end.
        first.close()
        let started = ContinuousClock.now
        try run("left", [second, third], &offsets) { _ in second.partitions.count + third.partitions.count == 6 }
        #expect(started.duration(to: .now) < .seconds(30))
        _ = try producer.send(20_000..<30_000)
        try run("rest", [second, third], &offsets) { $0.applied.count == 30_000 }
        #expect(offsets.applied.sorted() == Array(0..<30_000))
        #expect(offsets.revocations > 0)
        for member in [first, second, third] { #expect(member.metrics.lost.value == 0) }
        second.close()
        third.close()
    }

    @Test func aReaderThatStandsByKeepsItsPartitionsAndGoesOn() throws {
        let options = try options(partitions: 2, ["max.poll.interval.ms": "6000"])
        let producer = try KafkaProducer(options, log: quiet, metrics: KafkaMetrics())
        defer { producer.close() }
        _ = try producer.send(0..<5_000)
        var offsets = Offsets()
        let member = try Member(1, options)
        defer { member.close() }
        try run("begin", [member], &offsets) { $0.applied.count >= 1_000 }
        let until = ContinuousClock.now.advanced(by: .seconds(14))
        repeat { try member.standBy(&offsets) } while ContinuousClock.now < until && !pause()
        _ = try producer.send(5_000..<6_000)
        try run("go on", [member], &offsets) { $0.applied.count == 6_000 }
        #expect(offsets.applied.sorted() == Array(0..<6_000))
        #expect(offsets.revocations == 0)
        #expect(member.metrics.assignmentsLost.value == 0)
    }

    /// False, after a moment: a reader that stands by is asked a few times a second.
    private func pause() -> Bool {
        var moment = timespec(tv_sec: 0, tv_nsec: 100_000_000)
        nanosleep(&moment, nil)
        return false
    }

    @Test func aReaderThatIsSilentTooLongLosesItsPartitionsAndSaysSo() throws {
        let options = try options(partitions: 2, ["max.poll.interval.ms": "6000"])
        let producer = try KafkaProducer(options, log: quiet, metrics: KafkaMetrics())
        defer { producer.close() }
        _ = try producer.send(0..<2_000)
        var offsets = Offsets()
        let silent = try Member(1, options)
        let other = try Member(2, options)
        defer { for member in [silent, other] { member.close() } }
        try run("share", [silent, other], &offsets) { offsets in
            offsets.applied.count == 2_000 && silent.partitions.count == 1 && other.partitions.count == 1
        }
        try run("takes over", [other], &offsets) { _ in other.partitions.count == 2 }
        _ = try producer.send(2_000..<3_000)
        try run("reads", [other], &offsets) { $0.applied.count == 3_000 }
        try run("shares again", [silent, other], &offsets) { _ in
            silent.partitions.count == 1 && other.partitions.count == 1
        }
        #expect(offsets.revocations >= 2)
        #expect(silent.metrics.rebalances.value >= 2)
        #expect(offsets.applied.sorted() == Array(0..<3_000))
    }

    @Test func aStaticMemberThatComesBackCausesNoRebalance() throws {
        var one = try options(partitions: 2, ["session.timeout.ms": "20000"])
        var two = one
        one.properties["group.instance.id"] = "one"
        two.properties["group.instance.id"] = "two"
        var offsets = Offsets()
        let first = try Member(1, one)
        let second = try Member(2, two)
        defer { second.close() }
        try run("share", [first, second], &offsets) { _ in first.partitions.count == 1 && second.partitions.count == 1 }
        let rebalances = second.metrics.rebalances.value
        first.close()
        let again = try Member(3, one)
        try run("comes back", [again, second], &offsets) { _ in again.partitions.count == 1 }
        #expect(second.metrics.rebalances.value == rebalances)
        // A second process of the same name puts the first one out, which says so and ends.
        let twin = try Member(4, one)
        defer { twin.close() }
        let error = #expect(throws: RecordLogError.self) {
            try run("is put out", [twin, again], &offsets) { _ in false }
        }
        #expect(error?.code == .fatal)
        #expect(error?.description.contains("group.instance.id") == true)
        again.close()
    }

    @Test func aGroupNeedsAName() throws {
        let options = KafkaOptions(bootstrapServers: "127.0.0.1:1", topic: "t")
        let error = #expect(throws: RecordLogError.self) {
            try KafkaLogReader(options, membership: .group, createsTopic: false, log: quiet, metrics: KafkaMetrics())
        }
        #expect(error?.code == .configuration)
        #expect(error?.next.contains("log.kafka.group") == true)
    }

    @Test func aMemberThatNeverGotAnythingClosesInTime() throws {
        for assignor in ["range", "cooperative-sticky"] {
            let options = KafkaOptions(
                bootstrapServers: "127.0.0.1:1", topic: "t", group: "g",
                properties: ["partition.assignment.strategy": assignor])
            let member = try Member(1, options)
            var offsets = Offsets()
            try member.step(&offsets)
            let started = ContinuousClock.now
            member.close()
            #expect(started.duration(to: .now) < .seconds(15))
        }
    }
}
