// How long what is kept, and from which instant on it is kept whole.

package import Events
package import Rollups

/// `retention` of the configuration, in days.
package struct RetentionDays: Sendable, Equatable {
    package var events: Int
    package var minute: Int
    package var hour: Int
    package var day: Int

    package init(events: Int, minute: Int, hour: Int, day: Int) {
        self.events = events
        self.minute = minute
        self.hour = hour
        self.day = day
    }
}

/// Everything before a boundary may be deleted; boundaries are whole UTC days, so they move once a day.
package struct RetentionBoundaries: Sendable, Equatable {
    package var events: EventTime
    package var minute: EventTime
    package var hour: EventTime
    package var day: EventTime

    /// `days` whole days before the day of `now` are kept, and that day.
    package init(_ days: RetentionDays, now: EventTime) {
        let day: Int64 = 86_400_000_000
        let today = now.microseconds - ((now.microseconds % day) + day) % day
        func boundary(_ days: Int) -> EventTime { EventTime(microseconds: today - Int64(days) * day) }
        events = boundary(days.events)
        minute = boundary(days.minute)
        hour = boundary(days.hour)
        self.day = boundary(days.day)
    }

    package func boundary(of grain: Grain) -> EventTime {
        switch grain {
        case .minute: minute
        case .hour, .entityHour: hour
        case .day, .entityDay: day
        }
    }
}
