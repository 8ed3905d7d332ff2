// A question as it came (`QuestionInput`: texts) -> a question as it is answered (`Question`). Everything that is wrong
// with it is named at once.

package import Events

package enum Granularity: String, CaseIterable, Sendable { case total, minute, hour, day, auto }

/// What groups are made by: the value of a name, or each value of a list for itself.
package struct GroupName: Hashable, Sendable {
    package var dimension: Dimension
    /// `each(…)`: an event counts under each of its values.
    package var each: Bool

    package init(dimension: Dimension, each: Bool = false) {
        self.dimension = dimension
        self.each = each
    }

    package init?(name: String) {
        if name.hasPrefix("each("), name.hasSuffix(")") {
            guard let dimension = Dimension(name: String(name.dropFirst(5).dropLast())), case .metadata = dimension
            else { return nil }
            self.init(dimension: dimension, each: true)
        } else {
            guard let dimension = Dimension(name: name) else { return nil }
            self.init(dimension: dimension)
        }
    }

    package var name: String { each ? "each(\(dimension.name))" : dimension.name }
}

package enum OrderKey: Hashable, Sendable {
    case measure(Measure)
    /// Index into `groupBy`.
    case group(Int)
}

/// The texts of a question; nil where nothing was said.
package struct QuestionInput: Sendable {
    package var from: String?
    package var to: String?
    package var granularity: String?
    package var timezone: String?
    package var filter: String?
    package var groupBy: [String] = []
    package var measures: [String] = []
    package var orderBy: String?
    package var limit: Int?

    package init() {}
}

/// Supplies the bytes of the zone file of a (plausible) name; nil where there is none.
package typealias ZoneFile = @Sendable (String) -> [UInt8]?

package struct Question: Sendable {
    /// Inclusive.
    package var from: EventTime
    /// Exclusive.
    package var to: EventTime
    /// Never `auto`.
    package var granularity: Granularity
    package var zone: TimeZoneRules
    /// nil: every event.
    package var condition: Condition?
    package var groupBy: [GroupName]
    package var measures: [Measure]
    package var orderBy: OrderKey?
    package var descending: Bool
    package var limit: Int

    package init(
        from: EventTime, to: EventTime, granularity: Granularity = .total, zone: TimeZoneRules = .utc,
        condition: Condition? = nil, groupBy: [GroupName] = [], measures: [Measure] = [.requests],
        orderBy: OrderKey? = nil, descending: Bool = true, limit: Int = QueryLimits.defaultLimit
    ) {
        self.from = from
        self.to = to
        self.granularity = granularity == .auto ? Self.automatic(from: from, to: to) : granularity
        self.zone = zone
        self.condition = condition
        self.groupBy = groupBy
        self.measures = measures
        self.orderBy = orderBy
        self.descending = descending
        self.limit = limit
    }

    /// Left out: `to` is now, `from` a day before `to`, the measure `requests`, the granularity `total`, the zone UTC.
    package init(_ input: QuestionInput, now: EventTime, zoneFile: ZoneFile) throws(QueryError) {
        var faults: [(message: String, hint: String?)] = []
        func fault(_ message: String, _ hint: String? = nil) { faults.append((message, hint)) }

        let to = Self.instant("to", input.to, fault) ?? now
        let from = Self.instant("from", input.from, fault) ?? EventTime(microseconds: to.microseconds - 86_400_000_000)
        if faults.isEmpty, from >= to {
            fault("from (\(RFC3339.precise(from))) is not before to (\(RFC3339.precise(to))).")
        }
        var granularity = Granularity.total
        if let name = input.granularity {
            let allowed = Granularity.allCases.map(\.rawValue)
            if let found = Granularity(rawValue: name) {
                granularity = found
            } else {
                fault(
                    "granularity \"\(name)\" is not one of \(allowed.joined(separator: ", ")).",
                    Self.hint(name, allowed))
            }
        }
        var zone = TimeZoneRules.utc
        if let name = input.timezone, name != "UTC" {
            if TimeZoneRules.isPlausible(name), let bytes = zoneFile(name),
                let rules = TimeZoneRules(name: name, file: bytes)
            {
                zone = rules
            } else {
                fault("timezone \"\(name)\" is not known here.", "Names are those of the IANA, such as Europe/Paris.")
            }
        }
        var groupBy: [GroupName] = []
        for name in input.groupBy {
            guard let group = GroupName(name: name) else {
                let allowed = Dimension.named.map(\.name)
                fault(
                    "group_by \"\(name)\" is not one of \(allowed.joined(separator: ", ")), metadata.KEY, "
                        + "each(metadata.KEY).", Self.hint(name, allowed) ?? "Did you mean \"metadata.\(name)\"?")
                continue
            }
            if groupBy.contains(group) { fault("group_by names \"\(name)\" twice.") }
            groupBy.append(group)
        }
        if groupBy.count > QueryLimits.groups {
            fault("group_by has \(groupBy.count) names; at most \(QueryLimits.groups).")
        }
        var measures: [Measure] = []
        for name in input.measures {
            guard let measure = Measure(name: name) else {
                fault(
                    "measure \"\(name)\" is not one of \(Measure.names.joined(separator: ", ")), distinct.metadata.KEY.",
                    Self.hint(name, Measure.names))
                continue
            }
            if !measures.contains(measure) { measures.append(measure) }
        }
        if measures.count > QueryLimits.measures {
            fault("measures has \(measures.count) names; at most \(QueryLimits.measures).")
        }
        if measures.isEmpty { measures = [.requests] }
        let order = Self.order(input.orderBy, groupBy, fault)
        let limit = input.limit ?? QueryLimits.defaultLimit
        if limit < 1 || limit > QueryLimits.limit {
            fault("limit \(limit) is not between 1 and \(QueryLimits.limit).")
        }
        var filterError: QueryError?
        var condition: Condition?
        do {
            condition = try ConditionParser.parse(input.filter ?? "")
        } catch {
            filterError = error
        }
        if let filterError, faults.isEmpty { throw filterError }
        if let first = faults.first {
            var messages = faults.map(\.message)
            if let filterError { messages.append("where: " + filterError.message) }
            throw QueryError(
                .invalidQuestion, messages.joined(separator: " "), position: filterError?.position,
                hint: faults.compactMap(\.hint).first ?? filterError?.hint ?? first.hint)
        }
        self.init(
            from: from, to: to, granularity: granularity, zone: zone, condition: condition, groupBy: groupBy,
            measures: measures, orderBy: order?.key, descending: order?.descending ?? true, limit: limit)
        try checkBuckets()
    }

    /// Throws where the range has more buckets than an answer may.
    package func checkBuckets() throws(QueryError) {
        let buckets = (to.microseconds - from.microseconds) / (granularity.microseconds ?? .max)
        guard buckets <= QueryLimits.buckets else {
            throw QueryError(
                .tooLarge, "The range has about \(buckets) buckets; at most \(QueryLimits.buckets).",
                hint: "Ask for a shorter range or a coarser granularity, such as auto.")
        }
    }

    private static func instant(_ name: String, _ text: String?, _ fault: (String, String?) -> Void) -> EventTime? {
        guard let text else { return nil }
        if let time = RFC3339.parse(text) { return time }
        // A plus sign in a URL's query reads as a blank.
        let hint = text.contains(" ") ? "In a URL the plus sign is written %2B." : "For example 2026-11-01T00:00:00Z."
        fault("\(name) \"\(text)\" is not an RFC 3339 time.", hint)
        return nil
    }

    private static func order(
        _ text: String?, _ groupBy: [GroupName], _ fault: (String, String?) -> Void
    ) -> (key: OrderKey, descending: Bool)? {
        guard let text else { return nil }
        let descending = text.hasPrefix("-")
        let name = descending ? String(text.dropFirst()) : text
        if let index = groupBy.firstIndex(where: { $0.name == name || $0 == GroupName(name: name) }) {
            return (.group(index), descending)
        }
        if let measure = Measure(name: name) { return (.measure(measure), descending) }
        fault(
            "order_by \"\(text)\" is neither a measure nor a name of group_by.",
            hint(name, Measure.names + groupBy.map(\.name)))
        return nil
    }

    private static func hint(_ name: String, _ allowed: [String]) -> String? {
        nearest(to: name, among: allowed).map { "Did you mean \"\($0)\"?" }
    }

    private static func automatic(from: EventTime, to: EventTime) -> Granularity {
        switch to.microseconds - from.microseconds {
        case ...(4 * 3_600_000_000): .minute
        case ...(7 * 86_400_000_000): .hour
        default: .day
        }
    }
}

extension Question {
    /// Every bucket of the range by its label, also those without events; empty under `total`.
    package var bucketLabels: [String] {
        let grid = BucketGrid(from: from, to: to, granularity: granularity, zone: zone)
        return grid.starts.indices.compactMap { grid.label($0) }
    }
}

extension Granularity {
    /// About the length of a bucket; nil for the whole range.
    var microseconds: Int64? {
        switch self {
        case .total, .auto: nil
        case .minute: 60_000_000
        case .hour: 3_600_000_000
        case .day: 86_400_000_000
        }
    }
}
