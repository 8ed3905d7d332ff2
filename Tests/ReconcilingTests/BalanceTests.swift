// Both sides set side by side, with no store and no journal.

import Events
import Reconciling
import RecordLog
import RollupStore
import Testing

private let proxy = "01a210f9-d0d6-4a5c-917a-9eb31ca4b389"
private func minute(_ number: Int64) -> EventTime { EventTime(microseconds: number * 60_000_000) }

private func part(_ number: Int64, _ serial: UInt64, _ accepted: UInt64, _ recorded: UInt64, lane: UInt32 = 0)
    -> Manifest
{
    Manifest(
        proxy: proxy, minute: minute(number), lane: lane, serial: serial, accepted: accepted, recorded: recorded,
        dropped: accepted - recorded)
}

private func counted(
    _ proxy: String, _ minute: EventTime, applied: Int64, duplicates: Int64 = 0, deadLettered: Int64 = 0,
    changed: EventTime? = nil, partition: Int32 = 0
) -> ProxyMinute {
    ProxyMinute(
        proxy: proxy, minute: minute, partition: TopicPartition(topic: "t", partition: partition), first: Offset(10),
        next: Offset(20), applied: applied, duplicates: duplicates, deadLettered: deadLettered, changed: changed)
}

private func balance(
    _ parts: [Manifest], _ minutes: [ProxyMinute], _ inFlight: InFlight = .counted([:])
) -> Balance {
    Balance(parts: parts, minutes: minutes, inFlight: inFlight, from: minute(0), to: minute(100))
}

@Suite struct BalanceTests {
    @Test func partsAddUpHoweverOftenAndInWhateverOrderTheyCome() {
        let parts = [
            part(1, 1, 3, 2), part(1, 1, 9, 8), part(1, 2, 5, 5), part(1, 1, 4, 4, lane: 1), part(1, 1, 9, 8),
        ]
        let applied = [counted(proxy, minute(1), applied: 17)]
        for _ in 0..<20 {
            let result = balance(parts.shuffled(), applied)
            #expect(result.isClosed)
            #expect(result.rows.map(\.recorded) == [17])
            #expect(result.rows.map(\.accepted) == [18])
            #expect(result.rows.map(\.dropped) == [1])
        }
    }

    @Test func whatIsMissingNamesItsMinute() {
        let parts = [part(1, 1, 5, 5), part(2, 2, 5, 5), part(3, 3, 5, 5)]
        let minutes = [
            counted(proxy, minute(1), applied: 5),
            counted(proxy, minute(2), applied: 3, duplicates: 9, deadLettered: 1),
            counted(proxy, minute(3), applied: 6),
        ]
        let result = balance(parts, minutes)
        #expect(!result.isClosed)
        #expect(result.rows.map(\.difference) == [0, 1, -1])
        #expect(result.totals.difference == 0)
        #expect(result.absoluteDifference == 2)
    }

    @Test func aMinuteOfWhichNothingCameIsARowToo() {
        let result = balance([part(7, 1, 2, 2)], [])
        #expect(result.rows.map(\.minute) == [minute(7)])
        #expect(result.rows.map(\.difference) == [2])
    }

    @Test func recordsOnTheirWayAreNoDifference() {
        let key = ProxyMinuteKey(minute: minute(4), proxy: proxy)
        let result = balance(
            [part(4, 1, 9, 9)], [counted(proxy, minute(4), applied: 6)], .counted([key: 3]))
        #expect(result.isClosed)
        #expect(result.rows.map(\.inFlight) == [3])
    }

    @Test func eventsThatNoProxyMadeNeedNoManifest() {
        let result = balance([], [counted("loadgen", minute(4), applied: 6)])
        #expect(result.isClosed)
        #expect(result.rows.map(\.recorded) == [6])
        let ours = balance([], [counted(proxy, minute(4), applied: 6)])
        #expect(!ours.isClosed)
        #expect(ours.rows.map(\.difference) == [-6])
    }

    @Test func whileTheConsumerIsBehindTheLogWhatIsMissingIsOnItsWay() {
        let parts = [part(4, 1, 9, 9), part(50, 2, 9, 9), part(51, 3, 2, 2)]
        let minutes = [
            counted(proxy, minute(4), applied: 8, changed: minute(5)),
            counted(proxy, minute(50), applied: 4, changed: minute(51)),
            counted(proxy, minute(50), applied: 4, changed: minute(51), partition: 1),
            counted(proxy, minute(51), applied: 3, changed: minute(52)),
        ]
        let behind = balance(parts, minutes, .inLog(hasArrived: false, settled: minute(50)))
        #expect(behind.isClosed)
        #expect(behind.rows.map(\.inFlight) == [1, 1, 0])
        #expect(behind.note != nil)
        let caughtUp = balance(parts, minutes, .inLog(hasArrived: true, settled: minute(50)))
        #expect(!caughtUp.isClosed)
        #expect(caughtUp.rows.map(\.difference) == [1, 1, 0])
        #expect(caughtUp.rows.map(\.inFlight) == [0, 0, 0])
        #expect(caughtUp.note == nil)
        #expect(caughtUp.rows[1].spans.map(\.partition.partition) == [0, 1])
    }

    @Test func eventsMayComeBeforeTheirManifestButNotForLong() {
        let minutes = [
            counted(proxy, minute(4), applied: 8, changed: minute(5)),
            counted(proxy, minute(5), applied: 8, changed: minute(60)),
        ]
        let result = balance(
            [part(5, 1, 7, 7)], minutes, .inLog(hasArrived: true, settled: minute(50)))
        #expect(!result.isClosed)
        #expect(result.rows.map(\.difference) == [-8, 0])
        #expect(result.rows.map(\.recorded) == [0, 8])
    }

    @Test func onlyTheMinutesAskedForCount() {
        let result = Balance(
            parts: [part(1, 1, 1, 1), part(2, 2, 1, 1), part(3, 3, 1, 1)],
            minutes: [counted(proxy, minute(3), applied: 1)],
            inFlight: .counted([ProxyMinuteKey(minute: minute(1), proxy: proxy): 1]), from: minute(2), to: minute(3))
        #expect(result.rows.map(\.minute) == [minute(2)])
    }

    @Test(
        arguments: [
            (0, 0), (59_999_999, 0), (60_000_000, 60_000_000), (-1, -60_000_000), (-60_000_000, -60_000_000),
            (.max, .max - .max % 60_000_000), (.min, .min), (.min + 1, .min),
        ] as [(Int64, Int64)])
    func anyInstantHasAMinute(_ instant: Int64, start: Int64) {
        #expect(EventTime(microseconds: instant).startOfMinute == EventTime(microseconds: start))
    }
}
