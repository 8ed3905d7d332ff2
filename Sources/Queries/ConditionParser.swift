// The text of `where` -> Condition. A lexer over bytes and recursive descent:
//
//   either  := both ("or" both)*
//   both    := negated ("and" negated)*
//   negated := "not" negated | "(" either ")" | test
//   test    := name ( ("=" | "!=" | "<" | "<=" | ">" | ">=") value | ["not"] "in" "(" value ("," value)* ")"
//                   | ["not"] "like" string | ["not"] "exists" )
//   name    := "metadata." ( word | '"' any key '"' ) | word
//
// Errors carry the place in code points and, where it can be guessed, what was meant.

package enum ConditionParser {
    /// nil for a blank text, which every event matches.
    package static func parse(_ text: String) throws(QueryError) -> Condition? {
        guard text.utf8.count <= QueryLimits.filterSize else {
            throw QueryError(
                .invalidFilter,
                "The filter has \(text.utf8.count) bytes; at most \(QueryLimits.filterSize) are read.", position: 0)
        }
        var lexer = Lexer(bytes: Array(text.utf8))
        var parser = Descent(tokens: try lexer.tokens(), lexer: lexer)
        return try parser.whole()
    }

    /// Bytes of words and of keys that need no quotes.
    static func isPlain(_ byte: UInt8) -> Bool {
        switch byte {
        case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, 0x80...: true
        default: byte == UInt8(ascii: "_") || byte == UInt8(ascii: ".") || byte == UInt8(ascii: "-")
        }
    }
}

private struct Token {
    enum Kind: Equatable {
        case word(String)
        /// `metadata.KEY`
        case metadata(String)
        case text(String)
        case number(String)
        case symbol(String)
        case end
    }
    var kind: Kind
    /// Byte offset.
    var start: Int

    /// The word in lower case, where it is one.
    var keyword: String? {
        if case .word(let word) = kind { word.lowercased() } else { nil }
    }

    var shown: String {
        switch kind {
        case .word(let word): "\"\(word)\""
        case .metadata(let key): "metadata.\(key)"
        case .text(let text): "'\(text)'"
        case .number(let digits): digits
        case .symbol(let symbol): "\"\(symbol)\""
        case .end: "the end of the filter"
        }
    }
}

private struct Lexer {
    var bytes: [UInt8]
    var index = 0

    init(bytes: [UInt8]) { self.bytes = bytes }

    func error(_ message: String, at start: Int, hint: String? = nil) -> QueryError {
        let position = bytes[..<min(start, bytes.count)].count { $0 & 0xC0 != 0x80 }
        return QueryError(.invalidFilter, message, position: position, hint: hint)
    }

    mutating func tokens() throws(QueryError) -> [Token] {
        var out: [Token] = []
        while true {
            let token = try next()
            out.append(token)
            if token.kind == .end { return out }
        }
    }

    private mutating func next() throws(QueryError) -> Token {
        while index < bytes.count, bytes[index] == 0x20 || (0x09...0x0D).contains(bytes[index]) { index += 1 }
        let start = index
        guard index < bytes.count else { return Token(kind: .end, start: start) }
        let byte = bytes[index]
        switch byte {
        case UInt8(ascii: "'"):
            return Token(kind: .text(try quoted(by: byte)), start: start)
        case UInt8(ascii: "("), UInt8(ascii: ")"), UInt8(ascii: ","):
            index += 1
            return Token(kind: .symbol(String(UnicodeScalar(byte))), start: start)
        case UInt8(ascii: "="), UInt8(ascii: "!"), UInt8(ascii: "<"), UInt8(ascii: ">"):
            return Token(kind: .symbol(try comparison()), start: start)
        case UInt8(ascii: "-") where index + 1 < bytes.count && (0x30...0x39).contains(bytes[index + 1]),
            0x30...0x39:
            return Token(kind: .number(try number()), start: start)
        case UInt8(ascii: "\""):
            throw error(
                "A name in double quotes stands after `metadata.` only.", at: start,
                hint: "Values stand in single quotes: 'abc'.")
        case _ where ConditionParser.isPlain(byte):
            return Token(kind: try word(), start: start)
        default:
            throw error("\"\(String(decoding: [byte], as: UTF8.self))\" is not part of a filter.", at: start)
        }
    }

    private mutating func comparison() throws(QueryError) -> String {
        let start = index
        while index < bytes.count, "=!<>".utf8.contains(bytes[index]) { index += 1 }
        let symbol = String(decoding: bytes[start..<index], as: UTF8.self)
        switch symbol {
        case "=", "!=", "<", "<=", ">", ">=": return symbol
        case "==": throw error("There is no \"==\".", at: start, hint: "Did you mean \"=\"?")
        case "<>", "!": throw error("There is no \"\(symbol)\".", at: start, hint: "Did you mean \"!=\"?")
        default: throw error("There is no \"\(symbol)\".", at: start, hint: "Comparisons are = != < <= > >=.")
        }
    }

    private mutating func number() throws(QueryError) -> String {
        let start = index
        index += 1
        while index < bytes.count, ConditionParser.isPlain(bytes[index]) { index += 1 }
        let text = String(decoding: bytes[start..<index], as: UTF8.self)
        guard FixedPoint.canonical(text) != nil else {
            throw error(
                "\(text) is not a number that a filter can hold.", at: start,
                hint: "Numbers are plain decimals with at most 18 digits before the point and 9 after it; "
                    + "anything else stands in single quotes.")
        }
        return text
    }

    private mutating func word() throws(QueryError) -> Token.Kind {
        let start = index
        while index < bytes.count, ConditionParser.isPlain(bytes[index]) { index += 1 }
        let text = String(decoding: bytes[start..<index], as: UTF8.self)
        guard text.lowercased().hasPrefix("metadata.") else { return .word(text) }
        let rest = text.dropFirst(9)
        if !rest.isEmpty { return .metadata(String(rest)) }
        guard index < bytes.count, bytes[index] == UInt8(ascii: "\"") else {
            throw error(
                "A key is missing after \"metadata.\".", at: index,
                hint: "Write metadata.foo, or metadata.\"any key\".")
        }
        return .metadata(try quoted(by: UInt8(ascii: "\"")))
    }

    /// The quote doubled stands for one.
    private mutating func quoted(by quote: UInt8) throws(QueryError) -> String {
        let start = index
        index += 1
        var out: [UInt8] = []
        while index < bytes.count {
            let byte = bytes[index]
            index += 1
            if byte != quote {
                out.append(byte)
            } else if index < bytes.count, bytes[index] == quote {
                out.append(quote)
                index += 1
            } else {
                return String(decoding: out, as: UTF8.self)
            }
        }
        let shown = String(UnicodeScalar(quote))
        throw error(
            "The quote that opens here is not closed.", at: start,
            hint: "A quote inside is written twice: \(shown)\(shown).")
    }
}

private struct Descent {
    let tokens: [Token]
    let lexer: Lexer
    var index = 0
    var depth = 0

    init(tokens: [Token], lexer: Lexer) {
        self.tokens = tokens
        self.lexer = lexer
    }

    var token: Token { tokens[index] }

    func error(_ message: String, hint: String? = nil) -> QueryError {
        lexer.error(message, at: token.start, hint: hint)
    }

    mutating func take(keyword: String) -> Bool {
        guard token.keyword == keyword else { return false }
        index += 1
        return true
    }

    mutating func take(symbol: String) -> Bool {
        guard token.kind == .symbol(symbol) else { return false }
        index += 1
        return true
    }

    mutating func whole() throws(QueryError) -> Condition? {
        if token.kind == .end { return nil }
        let condition = try either()
        guard token.kind == .end else {
            if token.kind == .symbol(")") {
                throw error("This parenthesis closes none.")
            }
            let near = token.keyword.flatMap { nearest(to: $0, among: ["and", "or"]) }
            throw error(
                "Here \"and\", \"or\" or the end is expected, not \(token.shown).",
                hint: near.map { "Did you mean \"\($0)\"?" } ?? "Conditions are joined by \"and\" or \"or\".")
        }
        return condition
    }

    mutating func either() throws(QueryError) -> Condition {
        var parts = [try both()]
        while take(keyword: "or") { parts.append(try both()) }
        return parts.count == 1 ? parts[0] : .any(parts)
    }

    mutating func both() throws(QueryError) -> Condition {
        var parts = [try negated()]
        while take(keyword: "and") { parts.append(try negated()) }
        return parts.count == 1 ? parts[0] : .all(parts)
    }

    mutating func negated() throws(QueryError) -> Condition {
        depth += 1
        defer { depth -= 1 }
        guard depth <= QueryLimits.filterDepth else {
            throw error(
                "The filter is nested deeper than \(QueryLimits.filterDepth) levels.",
                hint: "Write lists of values with \"in (…)\".")
        }
        if take(keyword: "not") { return .not(try negated()) }
        if take(symbol: "(") {
            let inner = try either()
            guard take(symbol: ")") else {
                throw error("A closing parenthesis is missing before \(token.shown).")
            }
            return inner
        }
        return try test()
    }

    mutating func test() throws(QueryError) -> Condition {
        let start = token
        switch token.kind {
        case .metadata(let key):
            index += 1
            return try test(of: .metadata(key), called: start)
        case .word(let word):
            let name = word.lowercased()
            if let field = NumericField(rawValue: name) {
                index += 1
                return try test(of: field)
            }
            if let found = Dimension.named.first(where: { $0.name == name }) {
                index += 1
                return try test(of: found.dimension, called: start)
            }
            throw unknown(word)
        case .end:
            throw error("A condition is missing at the end.", hint: "For example: metadata.env = 'production'.")
        case .text, .number, .symbol:
            throw error(
                "A name is expected here, not \(token.shown).",
                hint: "The name stands left of the comparison: metadata.env = 'production'.")
        }
    }

    func unknown(_ word: String) -> QueryError {
        let names = Dimension.named.map(\.name) + NumericField.allCases.map(\.rawValue)
        if let near = nearest(to: word, among: names) {
            return error("There is no \"\(word)\" to filter on.", hint: "Did you mean \"\(near)\"?")
        }
        return error(
            "There is no \"\(word)\" to filter on.",
            hint: "Metadata is written metadata.\(word); else one of: \(names.joined(separator: ", ")).")
    }

    mutating func test(of dimension: Dimension, called name: Token) throws(QueryError) -> Condition {
        let negative = take(keyword: "not")
        let at = token
        let condition: Condition
        if take(keyword: "exists") {
            condition = .leaf(.dimension(dimension, .exists))
        } else if take(keyword: "in") {
            condition = .leaf(
                .dimension(
                    dimension,
                    .anyOf(
                        try list { (parser) throws(QueryError) in
                            try parser.text(for: dimension)
                        })))
        } else if take(keyword: "like") {
            condition = .leaf(.dimension(dimension, .hasPrefix(try prefix())))
        } else if !negative, take(symbol: "=") {
            condition = .leaf(.dimension(dimension, .anyOf([try text(for: dimension)])))
        } else if !negative, take(symbol: "!=") {
            condition = .not(.leaf(.dimension(dimension, .anyOf([try text(for: dimension)]))))
        } else if case .symbol(let symbol) = at.kind, symbol.contains("<") || symbol.contains(">") {
            throw error(
                "\"\(symbol)\" compares numbers, and \(name.shown) is text.",
                hint: "Numbers are: \(NumericField.allCases.map(\.rawValue).joined(separator: ", ")).")
        } else {
            throw missingComparison(after: name)
        }
        return negative ? .not(condition) : condition
    }

    mutating func test(of field: NumericField) throws(QueryError) -> Condition {
        let name = tokens[index - 1]
        let negative = take(keyword: "not")
        let condition: Condition
        if take(keyword: "exists") {
            condition = .leaf(.numberExists(field))
        } else if take(keyword: "in") {
            let bounds = try list { (parser) throws(QueryError) in try parser.number(for: field) }
            condition = .any(bounds.map { .leaf(.number(field, .equal, $0)) })
        } else if !negative, take(symbol: "!=") {
            condition = .not(.leaf(.number(field, .equal, try number(for: field))))
        } else if !negative, case .symbol(let symbol) = token.kind, let comparison = Comparison(rawValue: symbol) {
            index += 1
            condition = .leaf(.number(field, comparison, try number(for: field)))
        } else {
            throw missingComparison(after: name)
        }
        return negative ? .not(condition) : condition
    }

    func missingComparison(after name: Token) -> QueryError {
        let near = token.keyword.flatMap { nearest(to: $0, among: ["in", "like", "exists", "not"]) }
        return error(
            "After \(name.shown) a comparison is expected, not \(token.shown).",
            hint: near.map { "Did you mean \"\($0)\"?" }
                ?? "Comparisons are =, !=, in (…), not in (…), like 'x%' and exists; on numbers < <= = >= >.")
    }

    mutating func list<Value>(_ value: (inout Descent) throws(QueryError) -> Value) throws(QueryError) -> [Value] {
        guard take(symbol: "(") else {
            throw error("After \"in\" a list is expected, not \(token.shown).", hint: "Write in ('a', 'b').")
        }
        var values: [Value] = []
        repeat {
            guard values.count < QueryLimits.listLength else {
                throw error("A list holds at most \(QueryLimits.listLength) values.")
            }
            values.append(try value(&self))
        } while take(symbol: ",")
        guard take(symbol: ")") else {
            throw error("In a list \",\" or \")\" is expected, not \(token.shown).")
        }
        return values
    }

    mutating func text(for dimension: Dimension) throws(QueryError) -> String {
        let value: String
        switch token.kind {
        case .text(let text): value = text
        case .number(let digits) where dimension.isMetadata: value = FixedPoint.canonical(digits) ?? digits
        case .word(let word) where dimension.isMetadata && (word == "true" || word == "false"): value = word
        case .word(let word):
            throw error("A value is expected here, not \(token.shown).", hint: "Did you mean '\(word)'?")
        case .number(let digits):
            throw error("A text is expected here, not \(digits).", hint: "Did you mean '\(digits)'?")
        case .metadata, .symbol, .end:
            throw error("A value is expected here, not \(token.shown).", hint: "Values stand in single quotes: 'abc'.")
        }
        if let allowed = dimension.values, !allowed.contains(value) {
            let near = nearest(to: value, among: allowed).map { "Did you mean '\($0)'? " } ?? ""
            throw error(
                "There is no such value as '\(value)'.",
                hint: near + "Values are: \(allowed.joined(separator: ", ")).")
        }
        index += 1
        return value
    }

    mutating func number(for field: NumericField) throws(QueryError) -> Int128 {
        guard case .number(let digits) = token.kind, let value = FixedPoint.nanos(digits) else {
            throw error(
                "A number is expected here, not \(token.shown).",
                hint: "\(field.rawValue) is compared with a plain decimal such as 250 or 0.5.")
        }
        index += 1
        return value
    }

    mutating func prefix() throws(QueryError) -> [UInt8] {
        guard case .text(let text) = token.kind else {
            throw error("After \"like\" a text is expected, not \(token.shown).", hint: "Write like 'x%'.")
        }
        let bytes = Array(text.utf8)
        guard bytes.last == UInt8(ascii: "%"), bytes.count(where: { $0 == UInt8(ascii: "%") }) == 1 else {
            throw error(
                "\"like\" finds beginnings: one %, at the end.",
                hint: bytes.contains(UInt8(ascii: "%")) ? "Write like 'x%'." : "Did you mean like '\(text)%'?")
        }
        index += 1
        return Array(bytes.dropLast())
    }
}

extension Dimension {
    fileprivate var isMetadata: Bool {
        if case .metadata = self { true } else { false }
    }

    /// All there are, for the closed ones.
    fileprivate var values: [String]? {
        switch self {
        case .outcome: ["success", "client_error", "provider_error", "timeout", "cancelled"]
        case .statusClass: ["1xx", "2xx", "3xx", "4xx", "5xx"]
        case .provider, .operation, .model, .apiKey, .metadata: nil
        }
    }
}

/// Plain decimals without floating point.
package enum FixedPoint {
    /// In thousand-millionths: exact.
    package static func nanos(_ text: String) -> Int128? {
        guard let (negative, whole, fraction) = parts(text), fraction.count <= 9 else { return nil }
        var value: Int128 = 0
        for byte in whole + fraction + Array(repeating: 0x30, count: 9 - fraction.count) {
            value = value * 10 + Int128(byte - 0x30)
        }
        return negative ? -value : value
    }

    /// As normalization writes a number: no needless zeros, no `-0`.
    static func canonical(_ text: String) -> String? {
        guard let (negative, whole, fraction) = parts(text), fraction.count <= 9 else { return nil }
        var digits = Array(whole.drop { $0 == 0x30 })
        if digits.isEmpty { digits = [0x30] }
        var rest = fraction
        while rest.last == 0x30 { rest.removeLast() }
        let isZero = digits == [0x30] && rest.isEmpty
        if !rest.isEmpty { digits += [UInt8(ascii: ".")] + rest }
        return (negative && !isZero ? "-" : "") + String(decoding: digits, as: UTF8.self)
    }

    private static func parts(_ text: String) -> (negative: Bool, whole: [UInt8], fraction: [UInt8])? {
        var bytes = Array(text.utf8)[...]
        let negative = bytes.first == UInt8(ascii: "-")
        if negative { bytes = bytes.dropFirst() }
        let pieces = bytes.split(separator: UInt8(ascii: "."), maxSplits: 1, omittingEmptySubsequences: false)
        guard let whole = pieces.first, !whole.isEmpty, whole.count <= 18, pieces.count == 1 || !pieces[1].isEmpty,
            pieces.allSatisfy({ $0.allSatisfy { (0x30...0x39).contains($0) } })
        else { return nil }
        return (negative, Array(whole), pieces.count == 2 ? Array(pieces[1]) : [])
    }
}
