// One question being answered: rollup rows and events in, cells by (bucket, group) out. Integers all the way: a row
// finds its series' groups by position, and its bucket by its time.

import Events
import RollupStore
import Rollups

/// Numbers for the values that groups and distinct counts meet.
private struct ValueNumbers {
    private(set) var values: [MetadataValue?] = []
    private var numbers: [MetadataValue?: Int32] = [:]

    init() {}

    mutating func number(of value: MetadataValue?) -> Int32 {
        if let number = numbers[value] { return number }
        let number = Int32(values.count)
        numbers[value] = number
        values.append(value)
        return number
    }
}

struct Evaluation {
    let question: Question
    let catalog: SeriesCatalog
    /// Keys that (some) events carry beside their set.
    let eventKeys: Set<String>
    /// Some of the range is read from rollups: where no key of the question is one of `eventKeys`.
    let readsRollups: Bool
    let grid: BucketGrid
    let shape: CellShape
    /// By series: what its dimensions alone decide of its rollup rows, and of its events.
    private let rowVerdicts: [Verdict]
    private let eventVerdicts: [Verdict]
    /// Positions in the catalog of the series of which rows, or events, may match.
    private let selectedRows: [Int32]
    private let selectedEvents: [Int32]

    private var components: [ValueNumbers]
    private var groupNumbers: [SIMD4<Int32>: Int32] = [:]
    private(set) var groupKeys: [SIMD4<Int32>] = []
    private var distinctNumbers: [ValueNumbers]

    /// The groups of each series: `groups[groupStart[s] ..< groupStart[s + 1]]`.
    private var groupStart: [Int32] = []
    private var groups: [Int32] = []
    /// For each distinct key, the values of each series.
    private var distinctOfSeries: [[[Int32]]] = []

    private(set) var cells: [Cell] = []
    /// Bucket and group of each cell.
    private(set) var cellKeys: [(bucket: Int32, group: Int32)] = []
    private var cellNumbers: [UInt64: Int32] = [:]
    /// The same by bucket * `denseGroups` + group, -1 for none, where there are few of them: groups beyond are met by
    /// events only.
    private var denseCells: [Int32] = []
    private var denseGroups = 0
    private static let denseLimit = 1 << 18
    /// Every event is in one cell: the cells add up to the total, which is not kept beside them.
    private let areCellsDisjoint: Bool
    private var overlappingTotal: Cell
    /// The last row's grain and bucket, and where that is in `grid`.
    private var lastBucket: (grain: Grain, bucket: Int32, index: Int)?
    private(set) var rowsRead = 0
    private(set) var isTooLarge = false
    private let budget: QueryBudget
    private(set) var isTooLate = false

    init(
        question: Question, catalog: SeriesCatalog, eventKeys: Set<String>, readsRollups: Bool, grid: BucketGrid,
        shape: CellShape, budget: QueryBudget
    ) {
        self.budget = budget
        self.question = question
        self.catalog = catalog
        self.eventKeys = eventKeys
        self.readsRollups = readsRollups
        self.grid = grid
        self.shape = shape
        func selected(_ verdicts: [Verdict]) -> [Int32] {
            verdicts.indices.filter { verdicts[$0] != .fails }.map { Int32($0) }
        }
        eventVerdicts = catalog.decide(question.condition, eventKeys: eventKeys, ofEvents: true)
        selectedEvents = selected(eventVerdicts)
        if readsRollups, !eventKeys.isEmpty || catalog.hasFiled {
            rowVerdicts = catalog.decide(question.condition, eventKeys: [], ofEvents: false)
            selectedRows = selected(rowVerdicts)
        } else {
            rowVerdicts = eventVerdicts
            selectedRows = selectedEvents
        }
        components = question.groupBy.map { _ in ValueNumbers() }
        distinctNumbers = shape.distinct.map { _ in ValueNumbers() }
        areCellsDisjoint = !question.groupBy.contains { $0.each }
        overlappingTotal = shape.empty
        groupSeries()
        if grid.starts.count * groupKeys.count <= Self.denseLimit {
            denseGroups = groupKeys.count
            denseCells = [Int32](repeating: -1, count: grid.starts.count * denseGroups)
        }
        distinctSeries()
    }

    func selected(for stretch: Stretch) -> [Int32] { stretch.grain == nil ? selectedEvents : selectedRows }

    /// Those whose rows may match are among those whose events may: what is unknown of an event does not fail.
    var selectedCount: Int { selectedEvents.count }

    /// What to ask the store for. One workspace's series may be all there are, but rows of others are passed over
    /// in any case.
    func selection(for stretch: Stretch) -> SeriesSelection {
        let selected = selected(for: stretch)
        return selected.count == catalog.count ? .all : .only(selected.map { catalog.ids[Int($0)] })
    }

    // MARK: Series -> groups

    private mutating func groupSeries() {
        groupStart = [Int32](repeating: 0, count: catalog.count + 1)
        // Groups by what only events hold are made event by event.
        if !readsRollups, question.groupBy.contains(where: { isOfEvent($0.dimension) }) { return }
        var tables: [(numbers: [[Int32]], ofSeries: [Int32])] = []
        for (index, name) in question.groupBy.enumerated() {
            let (distinct, ofSeries) = catalog.values(of: name.dimension)
            var numbers = [[Int32]](repeating: [], count: distinct.count)
            // Only of series that may match: other values must not become groups.
            for series in selectedEvents {
                let value = Int(ofSeries[Int(series)])
                if numbers[value].isEmpty { numbers[value] = self.numbers(of: distinct[value], name, index) }
            }
            tables.append((numbers, ofSeries))
        }
        var next = 0
        var choices = [[Int32]](repeating: [], count: tables.count)
        for series in 0..<catalog.count {
            if next < selectedEvents.count, Int(selectedEvents[next]) == series {
                next += 1
                for index in tables.indices {
                    choices[index] = tables[index].numbers[Int(tables[index].ofSeries[series])]
                }
                groups += groupsOf(choices)
            }
            groupStart[series + 1] = Int32(groups.count)
        }
    }

    func isOfEvent(_ dimension: Dimension) -> Bool {
        if case .metadata(let key) = dimension { eventKeys.contains(key) } else { false }
    }

    private mutating func numbers(of value: MetadataValue?, _ name: GroupName, _ index: Int) -> [Int32] {
        if name.each, let value, !value.values.isEmpty {
            var seen = Set<Int32>()
            return value.values.map { components[index].number(of: .text($0)) }.filter { seen.insert($0).inserted }
        }
        if name.each { return [components[index].number(of: nil)] }
        return [components[index].number(of: value)]
    }

    /// Every combination of one number from each choice.
    private mutating func groupsOf(_ choices: [[Int32]]) -> [Int32] {
        if choices.allSatisfy({ $0.count == 1 }) {
            var key = SIMD4<Int32>(repeating: 0)
            for index in choices.indices { key[index] = choices[index][0] }
            return [group(of: key)]
        }
        var keys = [SIMD4<Int32>(repeating: 0)]
        for (index, choice) in choices.enumerated() {
            keys = keys.flatMap { key in
                choice.map { number in
                    var key = key
                    key[index] = number
                    return key
                }
            }
        }
        return keys.map { group(of: $0) }
    }

    private mutating func group(of key: SIMD4<Int32>) -> Int32 {
        if let number = groupNumbers[key] { return number }
        let number = Int32(groupKeys.count)
        groupNumbers[key] = number
        groupKeys.append(key)
        return number
    }

    /// The values that make a group, one for each name of `groupBy`.
    func values(ofGroup group: Int32) -> [MetadataValue?] {
        let key = groupKeys[Int(group)]
        return components.indices.map { components[$0].values[Int(key[$0])] }
    }

    private mutating func distinctSeries() {
        for (index, key) in shape.distinct.enumerated() {
            let (distinct, ofSeries) = catalog.values(of: .metadata(key))
            let numbers = distinct.map { value in
                value == .filed ? [] : (value?.values ?? []).map { distinctNumbers[index].number(of: .text($0)) }
            }
            distinctOfSeries.append(ofSeries.map { numbers[Int($0)] })
        }
    }

    // MARK: Rows and events -> cells

    /// All events once each, whatever the groups.
    func total() -> Cell { areCellsDisjoint ? cells.reduce(into: shape.empty) { $0.add($1) } : overlappingTotal }

    /// Its place in `cells`; nil where there are too many.
    private mutating func cell(bucket: Int, group: Int32) -> Int? {
        let key = UInt64(bucket) << 32 | UInt64(UInt32(bitPattern: group))
        let place = Int(group) < denseGroups ? bucket * denseGroups + Int(group) : nil
        let known = place.map { denseCells[$0] } ?? cellNumbers[key] ?? -1
        if known >= 0 { return Int(known) }
        guard cells.count < QueryLimits.cells else {
            isTooLarge = true
            return nil
        }
        let new = cells.count
        if let place { denseCells[place] = Int32(new) } else { cellNumbers[key] = Int32(new) }
        cellKeys.append((Int32(bucket), group))
        cells.append(shape.empty)
        return new
    }

    private mutating func gridIndex(_ grain: Grain, _ bucket: Int32) -> Int {
        if grid.starts.count == 1 { return 0 }
        if let last = lastBucket, last.bucket == bucket, last.grain == grain { return last.index }
        let index = grid.index(of: grain.start(of: bucket).microseconds)
        lastBucket = (grain, bucket, index)
        return index
    }

    /// Counts a row that was read; false once there is no use in going on.
    private mutating func goesOn() -> Bool {
        rowsRead += 1
        if rowsRead & 0xFFF == 0, budget.isSpent() { isTooLate = true }
        return !isTooLate && !isTooLarge
    }

    var isEnded: Bool { isTooLate || isTooLarge }

    mutating func add(_ row: StoredRollup, grain: Grain) {
        guard goesOn() else { return }
        guard row.measures.requests != 0, let series = catalog.position(of: row.series),
            rowVerdicts[series] == .holds
        else { return }
        let bucket = gridIndex(grain, row.bucket)
        if !areCellsDisjoint { Self.fill(&overlappingTotal, row, series, shape, catalog, distinctOfSeries) }
        for index in Int(groupStart[series])..<Int(groupStart[series + 1]) {
            guard let cell = cell(bucket: bucket, group: groups[index]) else { return }
            Self.fill(&cells[cell], row, series, shape, catalog, distinctOfSeries)
        }
    }

    private static func fill(
        _ cell: inout Cell, _ row: StoredRollup, _ series: Int, _ shape: CellShape, _ catalog: SeriesCatalog,
        _ distinct: [[[Int32]]]
    ) {
        cell.add(row.measures, isError: catalog.isError[series])
        for (index, kind) in shape.sketches.enumerated() { cell.sketches[index].add(row.bins, of: kind) }
        for index in distinct.indices { cell.distinct[index].formUnion(distinct[index][series]) }
    }

    mutating func add(_ stored: StoredEvent) {
        guard goesOn() else { return }
        guard let series = catalog.position(of: stored.series), eventVerdicts[series] != .fails else { return }
        let isFiled = catalog.isFiled(series)
        let extra = eventKeys.isEmpty && !isFiled ? [] : metadataPairs(stored.extra) ?? []
        func value(_ dimension: Dimension) -> MetadataValue? { catalog.value(of: dimension, series: series, extra) }
        if eventVerdicts[series] == .dependsOnEvent, let condition = question.condition {
            guard condition.holds({ $0.holds(event: stored.event, value: value) }) else { return }
        }
        let groups: [Int32]
        if isFiled || question.groupBy.contains(where: { isOfEvent($0.dimension) }) {
            var choices: [[Int32]] = []
            for (index, name) in question.groupBy.enumerated() {
                choices.append(numbers(of: value(name.dimension), name, index))
            }
            groups = groupsOf(choices)
        } else {
            groups = Array(self.groups[Int(groupStart[series])..<Int(groupStart[series + 1])])
        }
        var distinct: [[Int32]] = []
        for (index, key) in shape.distinct.enumerated() {
            distinct.append(
                (value(.metadata(key))?.values ?? []).map { distinctNumbers[index].number(of: .text($0)) })
        }
        let (shape, isError) = (shape, catalog.isError[series])
        func fill(_ cell: inout Cell) {
            cell.add(Measures(stored.event), isError: isError)
            for (index, kind) in shape.sketches.enumerated() {
                guard let timing = stored.event.microseconds(of: kind) else { continue }
                cell.sketches[index].add(bin: LatencySketch.bin(of: timing), count: 1)
            }
            for index in distinct.indices { cell.distinct[index].formUnion(distinct[index]) }
        }
        if !areCellsDisjoint { fill(&overlappingTotal) }
        let bucket = grid.index(of: stored.event.time.microseconds)
        for group in groups {
            guard let cell = cell(bucket: bucket, group: group) else { return }
            fill(&cells[cell])
        }
    }
}

extension Leaf {
    func holds(event: RequestEvent, value: (Dimension) -> MetadataValue?) -> Bool {
        switch self {
        case .dimension(let dimension, let test):
            guard let value = value(dimension) else { return false }
            return test.holds(value.values)
        case .number(let field, let comparison, let bound):
            guard let number = field.nanos(of: event) else { return false }
            return comparison.holds(number, bound)
        case .numberExists(let field):
            return field.nanos(of: event) != nil
        case .text(let field, let wanted):
            return wanted.contains(field.text(of: event))
        }
    }
}

extension NumericField {
    /// In thousand-millionths of the field's unit; nil where the event has none.
    func nanos(of event: RequestEvent) -> Int128? {
        switch self {
        case .latency: event.latencyMicroseconds.map { Int128($0) * 1_000_000 }
        case .cost: event.cost.map { Int128($0.amount) }
        case .inputTokens: Int128(event.inputTokens) * 1_000_000_000
        case .outputTokens: Int128(event.outputTokens) * 1_000_000_000
        case .totalTokens: (Int128(event.inputTokens) + Int128(event.outputTokens)) * 1_000_000_000
        case .status: event.status == 0 ? nil : Int128(event.status) * 1_000_000_000
        }
    }
}

extension EventText {
    func text(of event: RequestEvent) -> String {
        switch self {
        case .trace: event.traceID
        case .span: event.spanID
        }
    }
}

extension RequestEvent {
    func microseconds(of kind: SketchKind) -> UInt64? {
        switch kind {
        case .latency: latencyMicroseconds
        case .firstToken: firstTokenMicroseconds
        case .overhead: overheadMicroseconds
        }
    }
}
