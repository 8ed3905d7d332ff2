// Records of several partitions in the order of time, without a broker.

import Testing

@testable import RecordLogKafka

@Suite struct FetchWindowTests {
    /// A record is its partition and its place in it.
    private struct Record: Equatable {
        var partition: Int32
        var place: Int
    }

    private func taken(_ window: inout FetchWindow<Record>, _ count: Int = .max) -> [Record] {
        var records: [Record] = []
        while records.count < count, let record = window.first() {
            records.append(record)
            window.removeFirst()
        }
        return records
    }

    @Test func stretchesOfPartitionsAreMergedByTime() {
        var window = FetchWindow<Record>()
        for partition in [2, 0, 1] as [Int32] {
            for place in 0..<100 {
                window.append(
                    Record(partition: partition, place: place), partition: partition,
                    time: Int64(place * 3) + Int64(partition), size: 10)
            }
        }
        #expect(window.count == 300 && window.size == 3_000)
        let records = taken(&window)
        #expect(records == (0..<300).map { Record(partition: Int32($0 % 3), place: $0 / 3) })
        #expect(window.isEmpty && window.size == 0)
    }

    @Test func aPartitionKeepsItsOrderWhateverItsTimesSay() {
        var window = FetchWindow<Record>()
        let times: [Int64?] = [50, nil, 10, 999, 20, nil]
        for (place, time) in times.enumerated() {
            window.append(Record(partition: 0, place: place), partition: 0, time: time, size: 1)
        }
        for (place, time) in [40, 60, 70].enumerated() {
            window.append(Record(partition: 1, place: place), partition: 1, time: Int64(time), size: 1)
        }
        let records = taken(&window)
        #expect(records.filter { $0.partition == 0 }.map(\.place) == [0, 1, 2, 3, 4, 5])
        #expect(records.filter { $0.partition == 1 }.map(\.place) == [0, 1, 2])
        // Before 50; between 50 and 999.
        #expect(records.prefix(6).map(\.partition) == [1, 0, 0, 0, 1, 1])
    }

    @Test func whatIsAddedLaterFindsItsPlaceAmongWhatIsLeft() {
        var window = FetchWindow<Record>()
        for place in 0..<10 {
            window.append(Record(partition: 0, place: place), partition: 0, time: Int64(place * 10), size: 1)
        }
        #expect(taken(&window, 3).map(\.place) == [0, 1, 2])
        window.append(Record(partition: 1, place: 0), partition: 1, time: 45, size: 1)
        #expect(taken(&window, 3).map(\.partition) == [0, 0, 1])
        // Once none of its records are left, a clock that was ahead holds a partition back no more.
        window.append(Record(partition: 2, place: 0), partition: 2, time: 1_000_000, size: 1)
        #expect(taken(&window).count == 6)
        window.append(Record(partition: 2, place: 1), partition: 2, time: 5, size: 1)
        window.append(Record(partition: 0, place: 10), partition: 0, time: 6, size: 1)
        #expect(taken(&window).map(\.partition) == [2, 0])
    }

    @Test func partitionsThatWereTakenAwayLeave() {
        var window = FetchWindow<Record>()
        for place in 0..<9 {
            window.append(
                Record(partition: Int32(place % 3), place: place), partition: Int32(place % 3), time: Int64(place),
                size: 5)
        }
        #expect(taken(&window, 2).map(\.place) == [0, 1])
        var dropped: [Int] = []
        window.keep([1]) { dropped.append($0.place) }
        #expect(dropped.sorted() == [2, 3, 5, 6, 8] && window.count == 2 && window.size == 10)
        #expect(taken(&window).map(\.place) == [4, 7])
        window.keep([]) { _ in Issue.record("nothing is left") }
        #expect(window.isEmpty)
    }

    /// Against the obvious way: of the records at the heads of all partitions the earliest, by times that never fall.
    @Test(arguments: 0..<20 as Range<UInt64>) func itIsAMerge(seed: UInt64) {
        var state = seed
        func random(below bound: UInt64) -> UInt64 {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return (state >> 33) % bound
        }
        var window = FetchWindow<Record>()
        var lanes: [[(time: Int64, record: Record)]] = Array(repeating: [], count: 5)
        for place in 0..<400 {
            let lane = Int(random(below: 5))
            let time = Int64(random(below: 1_000)) + Int64(place)
            let record = Record(partition: Int32(lane), place: place)
            window.append(record, partition: Int32(lane), time: time, size: 1)
            lanes[lane].append((max(time, lanes[lane].last?.time ?? .min), record))
        }
        var wanted: [Record] = []
        while let next = lanes.indices.filter({ !lanes[$0].isEmpty }).min(by: {
            (lanes[$0][0].time, lanes[$0][0].record.place) < (lanes[$1][0].time, lanes[$1][0].record.place)
        }) {
            wanted.append(lanes[next].removeFirst().record)
        }
        #expect(taken(&window) == wanted)
    }
}
