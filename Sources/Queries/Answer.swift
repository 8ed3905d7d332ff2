// What a question got: rows by bucket and group, totals, the rest, and where it all came from. Answer -> JSON.

package import Events
package import JSONText
package import Rollups

/// Where an answer came from.
package struct QueryPlan: Sendable, Equatable {
    package enum Source: String, Sendable {
        case rollups, events
        case both = "rollups+events"
    }
    package var source: Source
    /// Coarsest first.
    package var grains: [Grain]
    package var rowsRead: Int
    package var reason: String
    /// The metadata keys by whose index events were found.
    package var index: [String]
    /// Fingerprints of the normalization rules that hold in the range, in order of time.
    package var rules: [String]

    init(stretches: [Stretch], rowsRead: Int, eras: [Era], index: [String], rules: [String]) {
        self.rules = rules
        grains = Set(stretches.compactMap(\.grain)).sorted(by: >)
        let hasEvents = stretches.contains { $0.grain == nil }
        source = !hasEvents ? .rollups : grains.isEmpty ? .events : .both
        self.rowsRead = rowsRead
        reason =
            switch source {
            case .rollups: "the range is whole in rollups"
            case .both: Self.reason(for: stretches, eras)
            case .events: Self.reason(eras) ?? "no kept rollup covers the range"
            }
        self.index = index
        if !index.isEmpty {
            reason += "; events are read by the index on \(index.map { "metadata.\($0)" }.joined(separator: ", "))"
        }
    }

    /// Eras named in a reason; rules may have changed often.
    private static let erasNamed = 3

    private static func reason(for stretches: [Stretch], _ eras: [Era]) -> String {
        // Are there events that are read for another reason than their era's?
        let isCut = stretches.contains { stretch in
            stretch.grain == nil
                && eras.contains { $0.onlyEvents == nil && $0.from < stretch.to && stretch.from < $0.to }
        }
        let cut = isCut ? "the stretches that no kept rollup covers are read from events" : nil
        return [reason(eras), cut].compactMap { $0 }.joined(separator: "; ")
    }

    /// Why events are read in some eras; nil where rollups answer in all.
    private static func reason(_ eras: [Era]) -> String? {
        let named = eras.indices.compactMap { index in
            eras[index].onlyEvents.map { reason in
                let begin = index == eras.startIndex ? nil : eras[index].from
                let end = index == eras.endIndex - 1 ? nil : eras[index].to
                return Self.stretch(begin, end) + reason
            }
        }
        if named.isEmpty { return nil }
        let more = named.count - erasNamed
        return named.prefix(erasNamed).joined(separator: "; ") + (more > 0 ? "; and \(more) more of this kind" : "")
    }

    private static func stretch(_ begin: Int64?, _ end: Int64?) -> String {
        func text(_ time: Int64) -> String { RFC3339.precise(EventTime(microseconds: time)) }
        return switch (begin, end) {
        case (nil, nil): ""
        case (nil, let end?): "until \(text(end)) "
        case (let begin?, nil): "from \(text(begin)) on "
        case (let begin?, let end?): "from \(text(begin)) to \(text(end)) "
        }
    }
}

package struct Answer: Sendable {
    package struct Row: Sendable {
        /// nil under `total`.
        package var bucket: String?
        /// As `groupNames`; nil where the key is missing.
        package var group: [MetadataValue?]
        /// As `measureNames`.
        package var values: [MeasureValue]
    }
    /// What the limit left out of a bucket.
    package struct Rest: Sendable {
        package var bucket: String?
        package var groups: Int
        package var values: [MeasureValue]
    }

    package var groupNames: [String]
    package var measureNames: [String]
    /// By bucket, then in the order asked for.
    package var data: [Row] = []
    package var totals: [MeasureValue]
    package var other: [Rest] = []
    package var plan: QueryPlan
    /// nil in an empty store.
    package var watermark: EventTime?
    /// nil: the answer is exact.
    package var inexactness: Inexactness?
    package var exact: Bool { inexactness == nil }
    /// Events were counted under each of several groups.
    package var overlapping: Bool
    package var granularity: Granularity
    /// How it was found, where that was asked.
    package var explanation: QueryExplanation?
}

extension Answer {
    init(_ evaluation: Evaluation, plan: QueryPlan, watermark: EventTime?) {
        let question = evaluation.question
        let shape = evaluation.shape
        groupNames = question.groupBy.map(\.name)
        measureNames = question.measures.map(\.name)
        let total = evaluation.total()
        totals = question.measures.map { total.value(of: $0, shape) }
        self.plan = plan
        self.watermark = watermark
        overlapping = question.groupBy.contains(where: \.each)
        granularity = question.granularity

        let ranked = Self.rank(evaluation)
        var rankOf = [Int](repeating: .max, count: evaluation.groupKeys.count)
        for (rank, group) in ranked.enumerated() { rankOf[Int(group)] = rank }

        let order = evaluation.cells.indices.filter { evaluation.cells[$0].measures.requests != 0 }
            .sorted { a, b in
                let (x, y) = (evaluation.cellKeys[a], evaluation.cellKeys[b])
                return (x.bucket, rankOf[Int(x.group)]) < (y.bucket, rankOf[Int(y.group)])
            }
        var index = 0
        while index < order.count {
            let bucket = evaluation.cellKeys[order[index]].bucket
            let label = evaluation.grid.label(Int(bucket))
            var rest = shape.empty
            var left = 0
            while index < order.count, evaluation.cellKeys[order[index]].bucket == bucket {
                let cell = evaluation.cells[order[index]]
                let group = evaluation.cellKeys[order[index]].group
                if rankOf[Int(group)] < question.limit {
                    data.append(
                        Row(
                            bucket: label, group: evaluation.values(ofGroup: group),
                            values: question.measures.map { cell.value(of: $0, shape) }))
                } else {
                    rest.add(cell)
                    left += 1
                }
                index += 1
            }
            if left > 0 {
                other.append(
                    Rest(bucket: label, groups: left, values: question.measures.map { rest.value(of: $0, shape) }))
            }
        }
    }

    /// All groups with events, in the order asked for: by their sums over the whole range.
    private static func rank(_ evaluation: Evaluation) -> [Int32] {
        let question = evaluation.question
        let groups = evaluation.groupKeys.count
        if groups <= 1 { return groups == 0 ? [] : [0] }
        var sums = [Cell](repeating: evaluation.shape.empty, count: groups)
        for (index, key) in evaluation.cellKeys.enumerated() { sums[Int(key.group)].add(evaluation.cells[index]) }
        let bytes = (0..<groups).map { group in
            evaluation.values(ofGroup: Int32(group)).map { $0?.orderBytes }
        }
        func precedes(_ a: [UInt8]?, _ b: [UInt8]?) -> Bool? {
            guard let a, let b else { return (a == nil) == (b == nil) ? nil : a == nil }
            return a == b ? nil : a.lexicographicallyPrecedes(b)
        }
        let key = question.orderBy ?? .measure(question.measures.first ?? .requests)
        let figures: [MeasureValue] =
            if case .measure(let measure) = key {
                sums.map { $0.value(of: measure, evaluation.shape) }
            } else {
                []
            }
        return (0..<Int32(groups)).filter { sums[Int($0)].measures.requests != 0 }.sorted { a, b in
            let (x, y) = (Int(a), Int(b))
            switch key {
            case .measure:
                if let decided = MeasureValue.precedes(figures[x], figures[y], descending: question.descending) {
                    return decided
                }
            case .group(let index):
                if let decided = precedes(bytes[x][index], bytes[y][index]) {
                    return decided != question.descending
                }
            }
            for index in bytes[x].indices {
                if let decided = precedes(bytes[x][index], bytes[y][index]) { return decided }
            }
            return false
        }
    }
}

// Writing.
extension Answer {
    /// The JSON document whole.
    package var bytes: [UInt8] {
        var whole: [UInt8] = []
        _ = write(inPartsOf: .max) { part in
            whole = part
            return true
        }
        return whole
    }

    /// The JSON document in parts of `size` bytes or a little more: never is more of it in memory. False once `take` is.
    package func write(inPartsOf size: Int, _ take: ([UInt8]) -> Bool) -> Bool {
        var part: [UInt8] = []
        func list(_ head: String, _ count: Int, _ row: (Int) -> JSONValue) -> Bool {
            part += head.utf8
            for index in 0..<count {
                if index > 0 { part.append(UInt8(ascii: ",")) }
                row(index).write(to: &part)
                if part.count >= size {
                    guard take(part) else { return false }
                    part.removeAll(keepingCapacity: true)
                }
            }
            part.append(UInt8(ascii: "]"))
            return true
        }
        guard list("{\"data\":[", data.count, { tree(data[$0]) }) else { return false }
        part += ",\"totals\":".utf8
        figures(totals).write(to: &part)
        guard list(",\"other\":[", other.count, { tree(other[$0]) }) else { return false }
        part.append(UInt8(ascii: ","))
        part += JSONValue.object(about).bytes.dropFirst()
        return take(part)
    }

    private func tree(_ row: Row) -> JSONValue {
        let group = zip(groupNames, row.group).map { JSONMember(key: $0, value: $1?.json ?? .null) }
        return ["bucket": Self.text(row.bucket), "group": .object(group), "measures": figures(row.values)]
    }

    private func tree(_ rest: Rest) -> JSONValue {
        ["bucket": Self.text(rest.bucket), "groups": JSONValue(rest.groups), "measures": figures(rest.values)]
    }

    /// What follows the figures.
    private var about: [JSONMember] {
        var members: [(String, JSONValue)] = [
            (
                "plan",
                [
                    "source": .string(plan.source.rawValue),
                    "grains": .array(plan.grains.map { .string($0.name) }),
                    "rows_read": JSONValue(plan.rowsRead),
                    "reason": .string(plan.reason),
                    "rules": .array(plan.rules.map { .string($0) }),
                ]
            ),
            ("watermark", Self.text(watermark.map { RFC3339.precise($0) })),
            ("exact", .boolean(exact)),
            ("granularity", .string(granularity.rawValue)),
        ]
        if let inexactness { members.append(("filed_under_other", JSONValue(inexactness.requests))) }
        if overlapping { members.append(("overlapping", true)) }
        if let explanation { members.append(("explain", explanation.json)) }
        return members.map { JSONMember(key: $0, value: $1) }
    }

    private func figures(_ values: [MeasureValue]) -> JSONValue {
        .object(zip(measureNames, values).map { JSONMember(key: $0, value: $1.json) })
    }

    private static func text(_ text: String?) -> JSONValue { text.map { .string($0) } ?? .null }
}

extension MeasureValue {
    package var json: JSONValue {
        switch self {
        case .null: .null
        case .integer(let value): JSONValue(value)
        case .nanos(let value): .number(decimal(value, digits: 9))
        case .number(let value):
            value == value.rounded() && abs(value) < 1e15 ? JSONValue(Int64(value)) : JSONValue(value)
        }
    }
}

/// An integer of the `digits`th decimal place as a plain decimal, exact and without needless zeros.
package func decimal(_ value: Int64, digits: Int) -> String {
    var text = String(value.magnitude)
    text = String(repeating: "0", count: max(0, digits + 1 - text.utf8.count)) + text
    let whole = text.dropLast(digits)
    var fraction = text.suffix(digits)
    while fraction.last == "0" { fraction.removeLast() }
    return (value < 0 ? "-" : "") + whole + (fraction.isEmpty ? "" : "." + fraction)
}
