// Days and hours where the clocks change, by name.

import Events
import Foundation
import Queries
import Testing

private func labels(_ zone: String, _ from: String, _ to: String, _ granularity: Granularity) throws -> [String] {
    var input = QuestionInput()
    (input.from, input.to, input.granularity, input.timezone) = (from, to, granularity.rawValue, zone)
    return try Question(input, now: EventTime(microseconds: 0)) {
        try? Array(Data(contentsOf: URL(filePath: "/usr/share/zoneinfo/\($0)")))
    }.bucketLabels
}

@Suite struct ClockTests {
    @Test("A day of 25 hours, one of 23, and a leap day are one bucket each")
    func cutsDays() throws {
        #expect(
            try labels("Europe/Paris", "2026-10-24T00:00:00+02:00", "2026-10-27T00:00:00+01:00", .day) == [
                "2026-10-24T00:00:00+02:00", "2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00",
            ])
        #expect(
            try labels("America/New_York", "2026-03-07T05:00:00Z", "2026-03-09T04:00:00Z", .day) == [
                "2026-03-07T00:00:00-05:00", "2026-03-08T00:00:00-05:00",
            ])
        #expect(
            try labels("UTC", "2028-02-28T00:00:00Z", "2028-03-02T00:00:00Z", .day) == [
                "2028-02-28T00:00:00Z", "2028-02-29T00:00:00Z", "2028-03-01T00:00:00Z",
            ])
    }

    @Test("The hour that the clock shows twice is two buckets, the one it skips none")
    func cutsHours() throws {
        #expect(
            try labels("Europe/Paris", "2026-10-25T00:00:00Z", "2026-10-25T03:00:00Z", .hour) == [
                "2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00", "2026-10-25T03:00:00+01:00",
            ])
        #expect(
            try labels("Europe/Paris", "2026-03-29T00:00:00Z", "2026-03-29T02:00:00Z", .hour) == [
                "2026-03-29T01:00:00+01:00", "2026-03-29T03:00:00+02:00",
            ])
    }

    @Test("Zones of half and quarter hours, and one that changes by half an hour")
    func cutsOddZones() throws {
        #expect(
            try labels("Asia/Kathmandu", "2026-11-01T00:00:00Z", "2026-11-01T01:00:00Z", .hour) == [
                "2026-11-01T05:00:00+05:45", "2026-11-01T06:00:00+05:45",
            ])
        #expect(
            try labels("Asia/Kolkata", "2026-10-31T18:30:00Z", "2026-11-01T18:30:00Z", .day) == [
                "2026-11-01T00:00:00+05:30"
            ])
        #expect(
            try labels("Australia/Lord_Howe", "2026-04-04T14:00:00Z", "2026-04-04T16:30:00Z", .hour).count == 3)
    }

    @Test(
        "auto is fine for short ranges and coarse for long ones",
        arguments: [
            ("2026-11-01T03:00:00Z", "minute"), ("2026-11-03T00:00:00Z", "hour"), ("2026-12-01T00:00:00Z", "day"),
        ])
    func choosesGranularity(to: String, expected: String) throws {
        var input = QuestionInput()
        (input.from, input.to, input.granularity) = ("2026-11-01T00:00:00Z", to, "auto")
        let question = try Question(input, now: EventTime(microseconds: 0)) { _ in nil }
        #expect(question.granularity.rawValue == expected)
    }

    /// A question about an event every half hour: how many each bucket has.
    private func counts(_ zone: String, _ from: String, _ to: String, _ granularity: Granularity) throws -> [Int64] {
        let (first, end) = (try #require(RFC3339.parse(from)), try #require(RFC3339.parse(to)))
        let samples = stride(from: first.microseconds, to: end.microseconds, by: 1_800_000_000).map { time in
            var event = RequestEvent(
                id: EventID(time: EventTime(microseconds: time), random: (1, 2)), time: EventTime(microseconds: time))
            event.workspace = "default"
            return SampleEvent(event: event)
        }
        var input = QuestionInput()
        (input.from, input.to, input.granularity, input.timezone) = (from, to, granularity.rawValue, zone)
        let question = try Question(input, now: end) {
            try? Array(Data(contentsOf: URL(filePath: "/usr/share/zoneinfo/\($0)")))
        }
        let answer = try QueryEngine().answer(question, workspace: "default", snapshot: FakeStore(samples))
        #expect(answer.plan.source == .rollups)
        return answer.data.map { row in if case .integer(let count) = row.values[0] { count } else { -1 } }
    }

    @Test("The day on which the clocks go back counts 25 hours of events, the one on which they go forward 23")
    func countsChangedDays() throws {
        #expect(
            try counts("Europe/Paris", "2026-10-24T00:00:00+02:00", "2026-10-27T00:00:00+01:00", .day) == [48, 50, 48])
        #expect(
            try counts("Europe/Paris", "2026-03-28T00:00:00+01:00", "2026-03-31T00:00:00+02:00", .day) == [48, 46, 48])
        #expect(
            try counts("America/New_York", "2026-11-01T00:00:00-04:00", "2026-11-02T00:00:00-05:00", .day) == [50])
        // By half an hour.
        #expect(
            try counts("Australia/Lord_Howe", "2026-04-05T00:00:00+11:00", "2026-04-06T00:00:00+10:30", .day) == [49])
    }

    @Test("The hour that comes twice is counted twice, each for itself; the one that is skipped not at all")
    func countsChangedHours() throws {
        #expect(
            try counts("Europe/Paris", "2026-10-25T01:00:00+02:00", "2026-10-25T04:00:00+01:00", .hour) == [2, 2, 2, 2])
        #expect(
            try counts("Europe/Paris", "2026-03-29T01:00:00+01:00", "2026-03-29T04:00:00+02:00", .hour) == [2, 2])
    }

    @Test("The leap day is a day of its own, and a century that has none goes on to March")
    func countsLeapDays() throws {
        #expect(try counts("UTC", "2028-02-28T00:00:00Z", "2028-03-02T00:00:00Z", .day) == [48, 48, 48])
        #expect(
            try counts("Asia/Kathmandu", "2028-02-29T00:00:00+05:45", "2028-03-01T00:00:00+05:45", .day) == [48])
        #expect(try counts("UTC", "2100-02-28T00:00:00Z", "2100-03-02T00:00:00Z", .day) == [48, 48])
        #expect(
            try labels("UTC", "2100-02-28T00:00:00Z", "2100-03-02T00:00:00Z", .day) == [
                "2100-02-28T00:00:00Z", "2100-03-01T00:00:00Z",
            ])
    }
}
