// Rows of text for a terminal: columns two blanks apart.

struct TextTable {
    private var heads: [String]
    private var rows: [[String]]
    /// Columns from here on are numbers, set to the right.
    private var numbersFrom: Int

    init(heads: [String], _ rows: [[String]], numbersFrom: Int = .max) {
        self.heads = heads
        self.rows = rows
        self.numbersFrom = numbersFrom
    }

    var text: String {
        let widths = heads.indices.map { column in
            max(heads[column].count, rows.map { $0.indices.contains(column) ? $0[column].count : 0 }.max() ?? 0)
        }
        return ([heads] + rows).map { row in
            var line = zip(row.indices, row).map { column, cell in
                let blank = String(repeating: " ", count: max(0, widths[column] - cell.count))
                return column < numbersFrom ? cell + blank : blank + cell
            }.joined(separator: "  ")
            while line.hasSuffix(" ") { line.removeLast() }
            return line + "\n"
        }.joined()
    }
}
