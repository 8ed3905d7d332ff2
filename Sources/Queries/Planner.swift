// Which stretch of the range is read from where: question, retention -> disjoint stretches that cover it exactly.
//
// Within each bucket of the answer the longest whole days, then hours, then minutes are taken from rollups; what is
// cut finer than a minute, from events. Where a grain is no longer kept the next finer one stands in, then the events;
// where nothing is kept the question is refused. Past the watermark there are no events, so the end may be moved out
// to a whole day without a change of the answer. A key may have been a dimension for a part of the range only: the
// range falls into eras, and buckets that reach over an era's end are cut there. Of an era in which the question names
// an entity and nothing that its rollups lack, days and hours are taken from these.

import Events
import Rollups

/// One stretch and its source; `grain` nil: events.
struct Stretch: Sendable, Equatable {
    var grain: Grain?
    var from: Int64
    var to: Int64
}

/// A part of the range in which every key that the question names keeps its class.
struct Era: Sendable, Equatable {
    var from: Int64
    var to: Int64
    /// Why rollups cannot answer here; nil where they can.
    var onlyEvents: String?
    /// The entity whose rollups answer here; nil: those of all dimensions do.
    var entity: String?
}

extension [Era] {
    /// Behind the others: as one with the last, where that ends here and is answered in the same way.
    mutating func join(_ era: Era) {
        if let last, last.to == era.from, last.onlyEvents == era.onlyEvents, last.entity == era.entity {
            self[count - 1].to = era.to
        } else {
            append(era)
        }
    }
}

/// The earliest instants from which each source is whole; nil: all that ever came.
struct Retention: Sendable {
    var events: EventTime?
    var minute: EventTime?
    var hour: EventTime?
    var day: EventTime?
    var entityHour: EventTime?
    var entityDay: EventTime?

    func holds(_ grain: Grain?, at microseconds: Int64) -> Bool {
        (boundary(of: grain)?.microseconds ?? .min) <= microseconds
    }

    private func boundary(of grain: Grain?) -> EventTime? {
        switch grain {
        case nil: events
        case .minute: minute
        case .hour: hour
        case .day: day
        case .entityHour: entityHour
        case .entityDay: entityDay
        }
    }

    /// From when on these are kept, for people; nil among them: events. Those of which nothing has gone are left out.
    func sentence(_ grains: [Grain?]) -> String {
        grains.compactMap { grain in
            let name =
                switch grain {
                case nil: "events"
                case .minute: "minutes"
                case .hour: "hours"
                case .day: "days"
                case .entityHour: "hours of entities"
                case .entityDay: "days of entities"
                }
            return boundary(of: grain).map { "\(name) from \(RFC3339.precise($0))" }
        }.joined(separator: ", ")
    }
}

enum Planner {
    /// The end of the range as far as there are events: a whole day where the watermark lies before it.
    static func end(of question: Question, watermark: EventTime?) -> EventTime {
        guard let watermark, watermark < question.to else { return question.to }
        let day = Grain.day.microseconds
        let (quotient, remainder) = question.to.microseconds.quotientAndRemainder(dividingBy: day)
        return EventTime(microseconds: (remainder > 0 ? quotient + 1 : quotient) * day)
    }

    /// `onlyEvents`: the question needs what rollups do not hold.
    static func plan(
        from: EventTime, to: EventTime, grid: BucketGrid, onlyEvents: String? = nil, retention: Retention
    ) throws(QueryError) -> [Stretch] {
        let era = Era(from: from.microseconds, to: to.microseconds, onlyEvents: onlyEvents)
        return try plan([era], grid: grid, retention: retention)
    }

    /// `eras` cover the range without gap or overlap, in order of time.
    static func plan(_ eras: [Era], grid: BucketGrid, retention: Retention) throws(QueryError) -> [Stretch] {
        try walk(eras, grid, retention) { (at, _, onlyEvents) throws(QueryError) in
            throw pastRetention(at, retention, onlyEvents: onlyEvents)
        }
    }

    /// As `plan`, of eras that may leave something out; what nothing holds any more is named in place of an error.
    static func cover(
        _ eras: [Era], grid: BucketGrid, retention: Retention
    ) -> (stretches: [Stretch], gaps: [Range<Int64>]) {
        var gaps: [Range<Int64>] = []
        let stretches = walk(eras, grid, retention) { from, to, _ in
            if let last = gaps.last, last.upperBound == from {
                gaps[gaps.count - 1] = last.lowerBound..<to
            } else {
                gaps.append(from..<to)
            }
        }
        return (stretches, gaps)
    }

    /// - `lacks`: from where to where nothing is kept, and whether only events (or an entity's rollups) would do.
    private static func walk<Failure: Error>(
        _ eras: [Era], _ grid: BucketGrid, _ retention: Retention,
        _ lacks: (_ from: Int64, _ to: Int64, _ onlyEvents: Bool) throws(Failure) -> Void
    ) throws(Failure) -> [Stretch] {
        var out: [Stretch] = []
        func add(_ stretch: Stretch) {
            if let last = out.last, last.grain == stretch.grain, last.to == stretch.from {
                out[out.count - 1].to = stretch.to
            } else {
                out.append(stretch)
            }
        }
        for era in eras {
            if era.onlyEvents != nil {
                let begin = min(max(era.from, retention.events?.microseconds ?? .min), era.to)
                if begin > era.from { try lacks(era.from, begin, true) }
                if begin < era.to { add(Stretch(grain: nil, from: begin, to: era.to)) }
                continue
            }
            var index = grid.index(of: era.from)
            var at = era.from
            while at < era.to {
                let end = min(index + 1 < grid.starts.count ? grid.starts[index + 1] : .max, era.to)
                while at < end {
                    let grains = era.entity == nil ? Grain.plain : Grain.ofEntities
                    let stretch = longest(of: grains, at: at, end: end, retention: retention)
                    if stretch.grain != nil || retention.holds(nil, at: at) {
                        add(stretch)
                    } else {
                        try lacks(at, stretch.to, era.entity != nil)
                    }
                    at = stretch.to
                }
                index += 1
            }
        }
        return out
    }

    /// - `grains`: the finest first.
    private static func longest(of grains: [Grain], at: Int64, end: Int64, retention: Retention) -> Stretch {
        for grain in grains.reversed() {
            let unit = grain.microseconds
            guard at % unit == 0, end - at >= unit, retention.holds(grain, at: at) else { continue }
            var stop = at + (end - at) / unit * unit
            if let coarser = grain.coarser { stop = min(stop, next(coarser, after: at)) }
            return Stretch(grain: grain, from: at, to: stop)
        }
        let step = grains.first { retention.holds($0, at: at) } ?? .day
        return Stretch(grain: nil, from: at, to: min(end, next(step, after: at)))
    }

    private static func next(_ grain: Grain, after at: Int64) -> Int64 {
        grain.start(of: grain.bucket(of: EventTime(microseconds: at))).microseconds + grain.microseconds
    }

    private static func pastRetention(_ at: Int64, _ retention: Retention, onlyEvents: Bool) -> QueryError {
        QueryError(
            .pastRetention,
            "From \(RFC3339.precise(EventTime(microseconds: at))) on nothing is kept that answers this. Kept are: "
                + retention.sentence(onlyEvents ? [nil] : [.day, .hour, .minute, nil]) + ".",
            hint: onlyEvents
                ? "Begin at the boundary, or leave out what only events can answer."
                : "Begin at a boundary that is kept, or at a whole hour or day (UTC).")
    }
}
