// What each offset means to a partition, without a broker.

import Testing

@testable import RecordLogKafka

@Suite struct PartitionCursorTests {
    private func reading(at next: Int64) -> PartitionCursor {
        var cursor = PartitionCursor()
        cursor.started(at: next)
        return cursor
    }

    @Test func recordsInOrderAreTakenAndSeenOnesSkipped() {
        var cursor = reading(at: 10)
        #expect(cursor.received(10, low: 0) == .take)
        #expect(cursor.received(10, low: 0) == .skip)
        #expect(cursor.received(3, low: 0) == .skip)
        #expect(cursor.received(11, low: 0) == .take)
        #expect(cursor.next == 12)
    }

    @Test func aJumpPastRetentionIsLostAndThenGoesOn() {
        var cursor = reading(at: 10)
        #expect(cursor.received(40, low: 40) == .lost(from: 10, to: 40))
        #expect(cursor.received(40, low: 40) == .take)
    }

    @Test func aJumpIsReadAgainBeforeItIsBelieved() {
        var cursor = reading(at: 10)
        #expect(cursor.received(13, low: 0) == .reread)
        // The second time the records are there: the client had skipped them.
        #expect(cursor.received(10, low: 0) == .take)
        #expect(cursor.received(12, low: 0) == .reread)
        #expect(!cursor.isSparse)
        // The second time the same hole: it is the log's own, and so are later ones.
        #expect(cursor.received(12, low: 0) == .take)
        #expect(cursor.isSparse)
        #expect(cursor.received(20, low: 0) == .take)
        // Retention is a loss there too.
        #expect(cursor.received(60, low: 50) == .lost(from: 21, to: 50))
        #expect(cursor.received(60, low: 50) == .take)
        #expect(cursor.next == 61)
    }

    @Test func aBrokenBatchIsReadAgainAndThenLost() {
        var cursor = reading(at: 10)
        cursor.batchBroken()
        #expect(cursor.received(15, low: 0) == .reread)
        cursor.batchBroken()
        #expect(cursor.received(15, low: 0) == .lost(from: 10, to: 15))
        #expect(cursor.received(15, low: 0) == .take)
        #expect(!cursor.isSparse)
    }

    @Test(arguments: [
        (low: 0 as Int64, high: 50 as Int64, PartitionCursor.Resumption.reading, next: 10 as Int64),
        (10, 10, .reading, 10), (30, 50, .lost(from: 10, to: 30), 30), (0, 9, .truncated(expected: 10, end: 9), 10),
        (0, 0, .truncated(expected: 10, end: 0), 10),
    ])
    func watermarksDecideWhatAFailedFetchMeans(
        low: Int64, high: Int64, resumption: PartitionCursor.Resumption, next: Int64
    ) {
        var cursor = reading(at: 10)
        #expect(cursor.watermarksArrived(low: low, high: high) == .unchanged)
        #expect(cursor.fetchFailed("offset out of range") == true)
        #expect(cursor.fetchFailed("again") == false)
        #expect(cursor.received(10, low: 0) == .skip)
        #expect(cursor.watermarksArrived(low: low, high: high) == resumption)
        #expect(cursor.next == next)
    }

    @Test func aTruncatedPartitionStaysStoppedUntilStarted() {
        var cursor = reading(at: 10)
        _ = cursor.fetchFailed("offset out of range")
        _ = cursor.watermarksArrived(low: 0, high: 4)
        #expect(cursor.received(10, low: 0) == .skip)
        #expect(cursor.fetchFailed("again") == false)
        cursor.started(at: 4)
        #expect(cursor.received(4, low: 0) == .take)
    }
}
