// Why a question was not answered, in words for who asked: QueryError -> the API's error object.

package struct QueryError: Error, Sendable, Equatable, CustomStringConvertible {
    /// Closed set; the API's `error.code`.
    package enum Code: String, Sendable {
        /// The filter does not parse.
        case invalidFilter = "invalid_filter"
        /// A part of the question is not understood or out of its range.
        case invalidQuestion = "invalid_question"
        /// The range reaches back further than what is kept.
        case pastRetention = "past_retention"
        /// The answer would not fit the limits of `QueryLimits`.
        case tooLarge = "too_large"
        /// More rows would be read than a question may cost.
        case tooExpensive = "too_expensive"
        /// The time of a question was over before its answer was whole.
        case timedOut = "timed_out"
        case storeUnavailable = "store_unavailable"
    }
    package var code: Code
    package var message: String
    /// Where in the filter, in Unicode code points from 0.
    package var position: Int?
    package var hint: String?
    /// Of `storeUnavailable`: asked again, it may be answered.
    package var isTransient = false

    package init(_ code: Code, _ message: String, position: Int? = nil, hint: String? = nil) {
        self.code = code
        self.message = message
        self.position = position
        self.hint = hint
    }

    /// The HTTP status of the answer.
    package var status: Int {
        switch code {
        case .invalidFilter: 400
        case .invalidQuestion, .pastRetention, .tooLarge, .tooExpensive: 422
        case .timedOut, .storeUnavailable: 503
        }
    }

    package var description: String {
        message + (position.map { " (at \($0))" } ?? "") + (hint.map { ". \($0)" } ?? "")
    }
}

/// Every limit on a question, in one table. A test reaches each; beyond any of them the question is refused by name.
///
/// | limit | unit | value | why |
/// | --- | --- | --- | --- |
/// | `filterSize` | bytes | 16,384 | parsing time |
/// | `filterDepth` | levels | 64 | the stack |
/// | `listLength` | values of one `in` | 1,000 | matching time |
/// | `groups` | names | 4 | rows of the answer |
/// | `measures` | names | 32 | width of the answer |
/// | `limit` | groups | 10,000 | rows of the answer |
/// | `buckets` | of the whole range | 100,000 | rows of the answer |
/// | `cells` | (bucket, group) with events | 2,000,000 | memory of one question, without percentiles about 250 MB |
/// | `rows` | rollup rows and events expected to be read | 20,000,000 | what the time allows on slow disks |
/// | `listedEvents` | events of the workspace, the newest, in which a listing of keys or values looks for identifiers; those that it reads for other keys in an hour or minute that the range cuts count too, but go on beyond it | 200,000 | it is asked for again and again, as a help to others; the rest is named as missing |
/// | `seconds` | of one question | 30 | a worker of the API is held so long at most |
package enum QueryLimits {
    package static let filterSize = 16_384
    package static let filterDepth = 64
    package static let listLength = 1_000
    package static let groups = 4
    package static let measures = 32
    package static let limit = 10_000
    package static let defaultLimit = 100
    package static let buckets = 100_000
    package static let cells = 2_000_000
    package static let rows = 20_000_000
    package static let listedEvents = 200_000
    package static let seconds = 30
}

/// What one question may cost.
package struct QueryBudget: Sendable {
    /// Rollup rows and events that it may be expected to read.
    package var rows: Int
    /// Events in which a listing of metadata may look for identifiers.
    package var listedEvents: Int
    /// Asked while rows are read; true ends it.
    package var isSpent: @Sendable () -> Bool

    package init(
        rows: Int = QueryLimits.rows, listedEvents: Int = QueryLimits.listedEvents,
        isSpent: @escaping @Sendable () -> Bool = { false }
    ) {
        self.rows = rows
        self.listedEvents = listedEvents
        self.isSpent = isSpent
    }

    package static func timedOut() -> QueryError {
        QueryError(
            .timedOut, "The question took longer than it may and was stopped.",
            hint: "Ask for a shorter range or a narrower filter, or leave out what only events can answer.")
    }
}

/// Looks at a budget's clock now and then, while rows are read.
struct BudgetWatch {
    private let budget: QueryBudget
    private var passed = 0
    /// Once it is, it stays so.
    private(set) var isSpent = false

    init(_ budget: QueryBudget) { self.budget = budget }

    /// Counts a row; false once there is no time for more.
    mutating func goesOn() -> Bool {
        passed += 1
        if passed & 0xFFF == 0, budget.isSpent() { isSpent = true }
        return !isSpent
    }

    /// Before what takes long without a row.
    mutating func look() throws(QueryError) {
        if budget.isSpent() { isSpent = true }
        try end()
    }

    /// After a scan.
    func end() throws(QueryError) {
        if isSpent { throw QueryBudget.timedOut() }
    }
}

/// "did you mean": the nearest of some names, where it is near enough to be a slip of the hand.
func nearest(to name: String, among names: [String]) -> String? {
    let wanted = Array(name.lowercased().utf8)
    var best: (distance: Int, name: String)?
    for candidate in names {
        let distance = editDistance(wanted, Array(candidate.utf8))
        if distance <= max(1, min(3, wanted.count / 3)), distance < best?.distance ?? .max {
            best = (distance, candidate)
        }
    }
    return best?.name
}

/// Levenshtein, with a swap of neighbours counted once.
private func editDistance(_ a: [UInt8], _ b: [UInt8]) -> Int {
    if a.count > 64 || b.count > 64 { return .max }
    var before = [Int](repeating: 0, count: b.count + 1)
    var above = Array(0...b.count)
    for i in a.indices {
        var row = [i + 1]
        for j in b.indices {
            var cost = min(above[j] + (a[i] == b[j] ? 0 : 1), above[j + 1] + 1, row[j] + 1)
            if i > 0, j > 0, a[i] == b[j - 1], a[i - 1] == b[j] { cost = min(cost, before[j - 1] + 1) }
            row.append(cost)
        }
        (before, above) = (above, row)
    }
    return above[b.count]
}
