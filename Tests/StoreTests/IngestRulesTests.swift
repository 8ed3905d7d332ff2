// What ingest decides without a log or a store: how late an event is, how old the lag.

import EventCodec
import Events
import Ingest
import JSONText
import Normalizer
import RecordLog
import RollupStore
import Testing

@Suite struct IngestRulesTests {
    @Test(arguments: [
        (-1 as Int64, nil as LateAge?), (0, nil), (3_600_000_000, nil), (3_600_000_001, .hour),
        (86_400_000_000, .hour), (86_400_000_001, .day), (2_592_000_000_000, .day), (2_592_000_000_001, .month),
        (.max, .month),
    ])
    func lateHasAnAge(_ microseconds: Int64, _ age: LateAge?) { #expect(LateAge(microseconds) == age) }

    private static let partition = TopicPartition(topic: "t", partition: 0)

    /// Records at `first...`, one a second of event time.
    private func chunk(_ first: Int64, _ count: Int64, keySize: Int = 16) -> RecordChunk {
        var chunk = RecordChunk(partitions: [Self.partition])
        for offset in first..<first + count {
            let time = EventTime(microseconds: 1_000_000_000_000 + offset * 1_000_000)
            let key = EventID(time: time, random: (1, 2)).bytes.prefix(keySize)
            chunk.records.append(
                RecordSlot(
                    partition: 0, offset: Offset(offset), kind: .event, keyStart: Int32(chunk.bytes.count),
                    keyCount: Int32(key.count), valueStart: 0, valueCount: 0))
            chunk.bytes += key
        }
        return chunk
    }

    @Test func theLagIsAsOldAsTheOldestRecordNotApplied() {
        var clock = LagClock()
        let now = EventTime(microseconds: 1_000_100_000_000)
        #expect(clock.seconds(Self.partition, at: now) == 0)
        clock.started(Self.partition, at: Offset(0))
        clock.handed(chunk(0, 10))
        clock.handed(chunk(10, 10))
        clock.handed(chunk(20, 10))
        #expect(clock.seconds(Self.partition, at: now) == 100)
        clock.applied(Self.partition, next: Offset(9))
        #expect(clock.seconds(Self.partition, at: now) == 100)
        clock.applied(Self.partition, next: Offset(10))
        #expect(clock.seconds(Self.partition, at: now) == 90)
        clock.applied(Self.partition, next: Offset(25))
        #expect(clock.seconds(Self.partition, at: now) == 80)
        clock.started(Self.partition, at: Offset(25))
        #expect(clock.seconds(Self.partition, at: now) == 0)
    }

    /// A record that is refused though it decodes keeps nothing in the dead letters that rules hide, from whatever proxy
    /// it came; where they hide nothing of it, it stays to the byte.
    @Test(arguments: [(#"{"email":"ada@example.com","env":"x"}"#, true), (#"{"env":"x"}"#, false)])
    func aDeadLetterHidesWhatTheRulesHide(_ metadata: String, _ changes: Bool) throws {
        let rules = try Rules.decode(JSONValue.parse(#"{"version":1,"keys":{"drop":["email"]}}"#))
        var builder = BatchBuilder(normalizer: Normalizer(rules: rules, hash: nil))
        var event = RequestEvent(id: EventID(high: 1, low: 2), time: EventTime(microseconds: 0))
        event.workspace = "default"
        event.metadataStatus = .ok
        event.metadataRaw = Array(metadata.utf8)
        var value: [UInt8] = []
        EventEncoder.encode(event, into: &value)
        var chunk = RecordChunk(partitions: [Self.partition])
        chunk.bytes = event.id.bytes + value
        chunk.records = [
            RecordSlot(
                partition: 0, offset: Offset(0), kind: .event, keyStart: 0, keyCount: 16, valueStart: 16,
                valueCount: Int32(value.count))
        ]
        builder.started([PartitionPosition(partition: Self.partition, next: Offset(0), epoch: 1)])
        _ = builder.add(
            chunk, from: 0, now: EventTime(microseconds: 1_800_000_000_000_000), maxEvents: 10, maxBytes: 1 << 20)
        let letter = try #require(builder.seal()?.deadLetters.first)
        #expect(letter.code == .timeOutOfRange && letter.key == event.id.bytes)
        #expect((letter.value != value) == changes)
        let kept = try letter.value.withUnsafeBytes { RequestEvent(try EventDecoder.decode($0, base: 0), in: $0) }
        if changes { event.metadataRaw = Array(#"{"env":"x"}"#.utf8) }
        #expect(kept == event)
    }

    @Test func recordsWithoutAnEventsKeyAreNoMarks() {
        var clock = LagClock()
        clock.started(Self.partition, at: Offset(0))
        clock.handed(chunk(0, 5, keySize: 3))
        clock.applied(Self.partition, next: Offset(3))
        #expect(clock.seconds(Self.partition, at: EventTime(microseconds: 1_000_100_000_000)) == 0)
    }
}

@Suite struct RetentionScheduleTests {
    @Test func aStepIsFollowedByNineTimesItsTimeAndAPassByAnHour() {
        let start = ContinuousClock.now
        var schedule = RetentionSchedule(at: start)
        #expect(schedule.left(at: start) <= .zero)
        let done = start.advanced(by: .milliseconds(20))
        schedule.stepped(isMoreLeft: true, began: start, at: done)
        #expect(schedule.left(at: done) == .milliseconds(180))
        schedule.stepped(isMoreLeft: false, began: done, at: done)
        #expect(schedule.left(at: done) == RetentionSchedule.betweenPasses)
        schedule.failed(at: done)
        #expect(schedule.left(at: done) == RetentionSchedule.afterFailure)
    }
}
