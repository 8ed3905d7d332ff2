// The grains of the rollups, and the buckets they cut time into (UTC).

package import Events

package enum Grain: UInt8, CaseIterable, Comparable, Sendable {
    case minute = 0
    case hour = 1
    case day = 2
    /// Of rollups by entity (`EntitySet`), which have no minutes. 3 and 4 name other things that stores keep.
    case entityHour = 5
    case entityDay = 6

    /// Of rollups by all dimensions.
    package static let plain: [Grain] = [.minute, .hour, .day]
    package static let ofEntities: [Grain] = [.entityHour, .entityDay]

    package var isOfEntities: Bool { self == .entityHour || self == .entityDay }

    /// The next one of its kind.
    package var coarser: Grain? {
        switch self {
        case .minute: .hour
        case .hour: .day
        case .entityHour: .entityDay
        case .day, .entityDay: nil
        }
    }

    package var name: String {
        switch self {
        case .minute: "minute"
        case .hour: "hour"
        case .day: "day"
        case .entityHour: "entity_hour"
        case .entityDay: "entity_day"
        }
    }

    /// The length of a bucket in microseconds.
    package var microseconds: Int64 {
        switch self {
        case .minute: 60_000_000
        case .hour, .entityHour: 3_600_000_000
        case .day, .entityDay: 86_400_000_000
        }
    }

    /// The number of the bucket that holds the instant: whole buckets since 1970, rounded down before it too.
    package func bucket(of time: EventTime) -> Int32 {
        let (quotient, remainder) = time.microseconds.quotientAndRemainder(dividingBy: microseconds)
        return Int32(clamping: remainder < 0 ? quotient - 1 : quotient)
    }

    /// The instant at which a bucket begins.
    package func start(of bucket: Int32) -> EventTime {
        EventTime(microseconds: Int64(bucket) * microseconds)
    }

    package static func < (a: Grain, b: Grain) -> Bool { a.rawValue < b.rawValue }
}
