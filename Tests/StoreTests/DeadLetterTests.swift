// Dead letters as a store keeps them: listed by what they are, shown whole, marked when they were sent again.

import Events
import RecordLog
import RollupStore
import RollupStoreSQLite
import Testing

@Suite struct DeadLetterTests {
    private static let partition = TopicPartition(topic: "events", partition: 0)

    private func letter(_ offset: Int64, _ code: DeadLetter.Code, value: [UInt8] = [1, 0, 2]) -> DeadLetter {
        DeadLetter(
            source: Self.partition, offset: Offset(offset), kind: .event, code: code, reason: "because \(offset)",
            key: [9, 0, UInt8(offset)], value: value)
    }

    /// Three letters; those at `known` are of one proxy's minute.
    private func filled(_ kind: StoreKind, inMinuteOf known: [Int] = []) throws -> any StoreUnderTest {
        let store = try kind.make()
        var writer = try store.writer()
        _ = try writer.acquire([Self.partition])
        var maker = BatchMaker()
        var letters = [letter(0, .undecodable), letter(1, .tooLarge, value: []), letter(2, .undecodable)]
        for index in known { letters[index].minute = 0 }
        var batch = try maker.batch([
            .init(partition: Self.partition, first: 0, epoch: 1, samples: [], deadLetters: letters)
        ])
        if !known.isEmpty {
            batch.minutes = [
                ProxyMinute(
                    proxy: "p", minute: EventTime(microseconds: 60_000_000), partition: Self.partition,
                    first: Offset(0), next: Offset(2), deadLettered: Int64(known.count))
            ]
        }
        _ = try writer.apply(batch)
        writer.close()
        return store
    }

    @Test(arguments: StoreKind.allCases) func theyAreListedAndShownAsTheyCame(_ kind: StoreKind) throws {
        let store = try filled(kind)
        let letters = store.deadLetters
        defer { withExtendedLifetime(store) {} }
        let all = try letters.list(DeadLetterFilter())
        #expect(Set(all.map(\.source.description)) == ["events/0/0", "events/0/1", "events/0/2"])
        #expect(all.allSatisfy { $0.redriven == nil })
        let found = try #require(try letters.find(RecordSource(partition: Self.partition, offset: Offset(2))))
        #expect(found.key == [9, 0, 2] && found.value == [1, 0, 2])
        #expect(found.letter.reason == "because 2" && found.letter.code == "undecodable")
        let empty = try #require(try letters.find(RecordSource(partition: Self.partition, offset: Offset(1))))
        #expect(empty.value == [] && empty.letter.valueSize == 0)
        #expect(try letters.find(RecordSource(partition: Self.partition, offset: Offset(7))) == nil)
    }

    @Test(arguments: StoreKind.allCases) func eachConditionChooses(_ kind: StoreKind) throws {
        let store = try filled(kind)
        let letters = store.deadLetters
        defer { withExtendedLifetime(store) {} }
        func count(_ change: (inout DeadLetterFilter) -> Void) throws -> Int {
            var filter = DeadLetterFilter()
            change(&filter)
            return try letters.list(filter).count
        }
        #expect(try count { $0.code = "undecodable" } == 2)
        #expect(try count { $0.topic = "other" } == 0)
        #expect(try count { $0.topic = "events" } == 3)
        #expect(try count { $0.partition = 1 } == 0)
        #expect(try count { $0.offset = Offset(1) } == 1)
        #expect(try count { $0.limit = 2 } == 2)
        let time = try #require(try letters.list(DeadLetterFilter()).last?.time)
        #expect(try count { $0.from = EventTime(microseconds: time.microseconds + 60_000_000) } == 0)
        #expect(try count { $0.to = time } == 0)
        #expect(try count { $0.from = time } == 3)
    }

    @Test(arguments: StoreKind.allCases) func whatWasSentAgainIsMarked(_ kind: StoreKind) throws {
        let store = try filled(kind)
        let letters = store.deadLetters
        defer { withExtendedLifetime(store) {} }
        let source = RecordSource(partition: Self.partition, offset: Offset(0))
        try letters.markRedriven([source], at: EventTime(microseconds: 77))
        #expect(try letters.find(source)?.letter.redriven == EventTime(microseconds: 77))
        var filter = DeadLetterFilter()
        filter.isMarked = true
        #expect(try letters.list(filter).map(\.source) == [source])
        filter.isMarked = false
        #expect(try letters.list(filter).count == 2)
    }

    @Test(arguments: StoreKind.allCases) func whatIsDiscardedIsMarkedAndLeftInItsMinute(_ kind: StoreKind) throws {
        let store = try filled(kind, inMinuteOf: [0, 1])
        let letters = store.deadLetters
        defer { withExtendedLifetime(store) {} }
        func source(_ offset: Int64) -> RecordSource {
            RecordSource(partition: Self.partition, offset: Offset(offset))
        }
        func mark(_ offset: Int64) throws -> DeadLetterMark? { try letters.find(source(offset))?.letter.mark }
        func at(_ time: Int64) -> EventTime { EventTime(microseconds: time) }
        try letters.markRedriven([source(0)], at: at(77))
        #expect(try deadLettered(store) == [1])
        try letters.markDiscarded([source(0), source(1), source(7)], at: at(78))
        try letters.markDiscarded([source(1)], at: at(79))
        #expect(try mark(0) == .redriven(at(77)) && mark(1) == .discarded(at(78)) && mark(2) == nil)
        #expect(try letters.find(source(1))?.letter.discarded == at(78))
        #expect(try deadLettered(store) == [1])
        var filter = DeadLetterFilter()
        filter.isMarked = true
        #expect(Set(try letters.list(filter).map(\.source)) == [source(0), source(1)])
        filter.isMarked = false
        #expect(try letters.list(filter).map(\.source) == [source(2)])
        // Sent again after all: on its way, and no longer discarded.
        try letters.markRedriven([source(1)], at: at(80))
        #expect(try mark(1) == .redriven(at(80)))
        #expect(try deadLettered(store) == [0])
        try letters.markRedriven([source(1)], at: at(81))
        #expect(try deadLettered(store) == [0])
    }

    private func deadLettered(_ store: any StoreUnderTest) throws -> [Int64] {
        try store.reader.read { snapshot in
            try snapshot.proxyMinutes(from: EventTime(microseconds: 0), to: EventTime(microseconds: .max))
                .map(\.deadLettered)
        }
    }

    @Test(arguments: StoreKind.allCases) func oneThatWasSentAgainIsTakenOffItsMinuteOnce(_ kind: StoreKind) throws {
        let store = try filled(kind, inMinuteOf: [0, 1])
        #expect(try deadLettered(store) == [2])
        let sources = [0, 2].map { RecordSource(partition: Self.partition, offset: Offset($0)) }
        try store.deadLetters.markRedriven(sources, at: EventTime(microseconds: 77))
        #expect(try deadLettered(store) == [1])
        try store.deadLetters.markRedriven(sources, at: EventTime(microseconds: 78))
        #expect(try deadLettered(store) == [1])
    }

    @Test(arguments: [
        ("t/0/1", true), ("a.b-c_d/12/900", true), ("t/0", false), ("/0/1", false), ("t/-1/2", false),
        ("t/0/-2", false),
        ("t/0/1/2", false), ("t/x/1", false), ("", false), ("t//1", false),
    ])
    func aSourceIsReadBackAsItIsWritten(_ text: String, isOne: Bool) {
        #expect(RecordSource(text)?.description == (isOne ? text : nil))
    }

    @Test func aFileOfTheVersionBeforeIsBroughtForward() throws {
        let store = try #require(try filled(.sqlite) as? SQLiteUnderTest)
        try store.bringBack(to: 2)
        let opened = try SQLiteRollupStore.open(path: store.store.path)
        #expect(try opened.deadLetters.list(DeadLetterFilter()).count == 3)
    }
}
