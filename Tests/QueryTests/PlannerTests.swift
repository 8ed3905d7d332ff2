// The cover, without a store: whatever the range, the zone, the classes' history and what is kept, each instant of the
// range is answered exactly once, by a source that holds it, and by the coarsest that may.

import Events
import Foundation
import Rollups
import Testing

@testable import Queries

private let day: Int64 = 86_400_000_000

/// A question's range, cut at random, and what is kept.
private struct Draw {
    var eras: [Era]
    var grid: BucketGrid
    var retention: Retention
    var from: Int64 { eras[0].from }
    var to: Int64 { eras[eras.count - 1].to }

    init(_ random: inout SeededGenerator) throws {
        let zones = [
            "UTC", "Europe/Paris", "America/New_York", "Asia/Kathmandu", "Asia/Kolkata", "Australia/Lord_Howe",
        ]
        // Around the changes of clocks in autumn, a leap day, and a year's end.
        let places = ["2026-10-25T00:00:00Z", "2026-04-05T00:00:00Z", "2028-02-29T00:00:00Z", "2026-12-31T00:00:00Z"]
        let base = try #require(RFC3339.parse(places[Int.random(in: 0..<places.count, using: &random)])).microseconds
        func instant(_ days: ClosedRange<Int64>) -> Int64 {
            let units: [Int64] = [1, 1_000_000, 60_000_000, 1_800_000_000, 3_600_000_000, day]
            let unit = units[Int.random(in: 0..<units.count, using: &random)]
            return base + Int64.random(in: days.lowerBound * day...days.upperBound * day, using: &random) / unit * unit
        }
        var ends = (0..<Int.random(in: 2...5, using: &random)).map { _ in instant(-3...3) }.sorted()
        if ends[0] == ends[ends.count - 1] { ends[ends.count - 1] += 1 }
        eras = zip(ends, ends.dropFirst()).filter { $0 < $1 }.map { from, to -> Era in
            switch Int.random(in: 0..<4, using: &random) {
            case 0: Era(from: from, to: to, onlyEvents: "a reason")
            case 1: Era(from: from, to: to, onlyEvents: nil, entity: "user")
            default: Era(from: from, to: to)
            }
        }
        let name = zones[Int.random(in: 0..<zones.count, using: &random)]
        let file = Array(try Data(contentsOf: URL(filePath: "/usr/share/zoneinfo/\(name)")))
        let zone = name == "UTC" ? .utc : try #require(TimeZoneRules(name: name, file: file))
        let granularity = [Granularity.total, .minute, .hour, .day][Int.random(in: 0..<4, using: &random)]
        grid = BucketGrid(
            from: EventTime(microseconds: ends[0]), to: EventTime(microseconds: ends[ends.count - 1]),
            granularity: granularity, zone: zone)
        func boundary(_ percent: Int) -> EventTime? {
            Int.random(in: 0..<100, using: &random) < percent ? EventTime(microseconds: instant(-4...2)) : nil
        }
        let kept = (0..<6).map { _ in boundary(30) }
        retention = Retention(
            events: kept[0], minute: kept[1], hour: kept[2], day: kept[3], entityHour: kept[4], entityDay: kept[5])
    }

    func era(at instant: Int64) -> Era? { eras.last { $0.from <= instant } }

    /// Whether a unit of a grain is whole in one era and one bucket, and kept.
    func mayAnswer(_ grain: Grain, from: Int64, in era: Era) -> Bool {
        let end = from + grain.microseconds
        let grains = era.entity == nil ? Grain.plain : Grain.ofEntities
        return era.onlyEvents == nil && grains.contains(grain) && from % grain.microseconds == 0 && from >= era.from
            && end <= era.to && retention.holds(grain, at: from)
            && grid.index(of: from) == grid.index(of: end - 1)
    }
}

@Suite struct PlannerTests {
    @Test(arguments: 0..<20)
    func eachInstantOfTheRangeIsAnsweredOnceByTheCoarsestThatMay(world: Int) throws {
        let seed = UInt64.random(in: 0..<1_000_000_000)
        print("planner: world \(world), seed \(seed)")
        var random = SeededGenerator(seed: seed)
        for round in 0..<60 {
            let draw = try Draw(&random)
            let context = "seed \(seed), round \(round)"
            let (stretches, gaps) = Planner.cover(draw.eras, grid: draw.grid, retention: draw.retention)
            // In order, without a gap but those named, without overlap.
            var pieces = stretches.map { $0.from..<$0.to } + gaps
            pieces.sort { $0.lowerBound < $1.lowerBound }
            var at = draw.from
            for piece in pieces {
                #expect(piece.lowerBound == at && piece.upperBound > at, "\(context): \(piece)")
                at = piece.upperBound
            }
            #expect(at == draw.to, "\(context)")
            for stretch in stretches { try expectSound(stretch, draw, "\(context): \(stretch)") }
            for gap in gaps {
                #expect(!draw.retention.holds(nil, at: gap.lowerBound), "\(context): \(gap)")
            }
            // The plan is the cover, or refuses what the cover lacks.
            if gaps.isEmpty {
                let plan = try Planner.plan(draw.eras, grid: draw.grid, retention: draw.retention)
                #expect(plan == stretches, "\(context)")
            } else {
                let error = #expect(throws: QueryError.self) {
                    try Planner.plan(draw.eras, grid: draw.grid, retention: draw.retention)
                }
                #expect(error?.code == .pastRetention, "\(context)")
            }
        }
    }

    private func expectSound(_ stretch: Stretch, _ draw: Draw, _ context: String) throws {
        guard let grain = stretch.grain else {
            #expect(draw.retention.holds(nil, at: stretch.from), "\(context): events are gone")
            // No whole unit of it could have come from rollups that were kept at its beginning already; of the minutes,
            // which may be many, the first are looked at.
            for coarse in Grain.plain + Grain.ofEntities where draw.retention.holds(coarse, at: stretch.from) {
                var unit = (stretch.from + coarse.microseconds - 1) / coarse.microseconds * coarse.microseconds
                var looked = 0
                while unit + coarse.microseconds <= stretch.to, looked < 200 {
                    if let era = draw.era(at: unit) {
                        #expect(!draw.mayAnswer(coarse, from: unit, in: era), "\(context): \(coarse) at \(unit)")
                    }
                    unit += coarse.microseconds
                    looked += 1
                }
            }
            return
        }
        #expect(stretch.from % grain.microseconds == 0 && stretch.to % grain.microseconds == 0, "\(context)")
        for unit in stride(from: stretch.from, to: stretch.to, by: Int64.Stride(grain.microseconds)) {
            let era = try #require(draw.era(at: unit))
            #expect(draw.mayAnswer(grain, from: unit, in: era), "\(context): the unit at \(unit)")
            guard let coarser = grain.coarser, unit % coarser.microseconds == 0 else { continue }
            #expect(!draw.mayAnswer(coarser, from: unit, in: era), "\(context): a whole \(coarser) at \(unit)")
        }
    }
}
