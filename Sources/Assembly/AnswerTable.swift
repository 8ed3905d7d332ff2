// An answer of /v1/query as text: a table for people, or comma-separated values.

import Events
import JSONText

struct AnswerTable {
    private var heads: [String] = []
    private var rows: [[JSONValue]] = []
    /// The columns before the measures.
    private var labels: Int
    private var notes: [String] = []
    private var totals: [JSONValue]
    private var lines: [Sparkline] = []

    init(_ answer: JSONValue) {
        let data = answer["data"]?.array ?? []
        totals = answer["totals"]?.members?.map(\.value) ?? []
        let hasBuckets = data.contains { $0["bucket"]?.string != nil }
        if hasBuckets { heads.append("bucket") }
        let groups = data.first?["group"]?.members?.map(\.key) ?? []
        heads += groups
        labels = heads.count
        heads += answer["totals"]?.members?.map(\.key) ?? []
        for row in data {
            var cells = hasBuckets ? [row["bucket"] ?? .null] : []
            cells += groups.map { row["group"]?[$0] ?? .null }
            cells += row["measures"]?.members?.map(\.value) ?? []
            rows.append(cells)
        }
        if hasBuckets { lines = Sparkline.lines(data, measures: Array(heads[labels...])) }
        let other = answer["other"]?.array ?? []
        let hidden = other.compactMap { $0["groups"]?.integer }.max() ?? 0
        if hidden > 0 { notes.append("\(hidden) more groups are not shown; raise --limit.") }
        if let source = answer["plan"]?["source"]?.string, let read = answer["plan"]?["rows_read"]?.integer {
            notes.append("From \(source), \(read) rows read; newest event \(answer["watermark"]?.string ?? "none").")
        }
        if answer["overlapping"]?.boolean == true {
            notes.append("An event counts under each of its values: rows add up to more than the total.")
        }
        if answer["exact"]?.boolean == false { notes.append("Not exact: \(answer["plan"]?["reason"]?.string ?? "")") }
    }

    /// Columns two blanks apart, measures to the right; the totals below a rule, then the course of each measure.
    var aligned: String {
        var lines = rows.map { cells in cells.indices.map { shown(cells[$0], $0) } }
        if labels > 0 {
            lines.append(
                [String](repeating: "", count: labels) + totals.indices.map { shown(totals[$0], labels + $0) })
            lines[lines.count - 1][0] = "total"
        }
        let widths = heads.indices.map { column in
            max(heads[column].count, lines.map { $0.indices.contains(column) ? $0[column].count : 0 }.max() ?? 0)
        }
        func line(_ cells: [String]) -> String {
            var out = zip(cells.indices, cells).map { column, cell in
                let blank = String(repeating: " ", count: max(0, widths[column] - cell.count))
                return column < labels ? cell + blank : blank + cell
            }.joined(separator: "  ")
            while out.hasSuffix(" ") { out.removeLast() }
            return out + "\n"
        }
        let rule = line(widths.map { String(repeating: "-", count: $0) })
        var out = line(heads) + rule
        for (index, cells) in lines.enumerated() {
            if labels > 0, index == lines.count - 1, index > 0 { out += rule }
            out += line(cells)
        }
        if !self.lines.isEmpty {
            let width = self.lines.map(\.label.count).max() ?? 0
            out += "\n"
            for line in self.lines {
                out += line.label + String(repeating: " ", count: width - line.label.count) + "  \(line.bars)\n"
            }
        }
        return out + notes.map { "\n\($0)" }.joined() + (notes.isEmpty ? "" : "\n")
    }

    /// RFC 4180, figures as the API gives them; a missing value is empty.
    var csv: String {
        func line(_ cells: [String]) -> String {
            cells.map { cell in
                guard cell.contains(where: { ",\"\r\n".contains($0) }) else { return cell }
                return "\"" + cell.split(separator: "\"", omittingEmptySubsequences: false).joined(separator: "\"\"")
                    + "\""
            }.joined(separator: ",") + "\r\n"
        }
        return line(heads) + rows.map { line($0.map { $0.isNull ? "" : Self.text($0) }) }.joined()
    }

    private func shown(_ value: JSONValue, _ column: Int) -> String {
        column < labels ? Self.text(value) : Figure.text(value, of: heads[column])
    }

    private static func text(_ value: JSONValue) -> String {
        switch value {
        case .null: "-"
        case .string(let text): text
        case .number(let text): text
        case .boolean(let value): value ? "true" : "false"
        case .array, .object: value.text
        }
    }
}

/// A figure with its unit.
enum Figure {
    static func text(_ value: JSONValue, of measure: String) -> String {
        guard case .number(let digits) = value, let number = Double(digits) else { return "-" }
        if measure == "cost_usd" { return "$" + (number == 0 ? "0" : digits) }
        if measure == "error_rate" { return rounded(number * 100, 2) + " %" }
        if measure.contains("_ms") {
            return number >= 10_000 ? rounded(number / 1000, 2) + " s" : rounded(number, 1) + " ms"
        }
        if measure.hasSuffix("_bytes") { return bytes(number) }
        return grouped(digits)
    }

    private static func bytes(_ count: Double) -> String {
        var count = count
        for unit in ["B", "kB", "MB", "GB"] {
            if count < 1000 { return (unit == "B" ? rounded(count, 0) : rounded(count, 1)) + " " + unit }
            count /= 1000
        }
        return rounded(count, 1) + " TB"
    }

    /// Thousands apart: 1,234,567.
    private static func grouped(_ digits: String) -> String {
        guard digits.utf8.allSatisfy({ (0x30...0x39).contains($0) }) else { return digits }
        var out = ""
        for (index, digit) in digits.enumerated() {
            if index > 0, (digits.count - index) % 3 == 0 { out += "," }
            out.append(digit)
        }
        return out
    }

    static func rounded(_ value: Double, _ places: Int) -> String {
        var scale = 1.0
        for _ in 0..<places { scale *= 10 }
        let whole = Int64((abs(value) * scale).rounded())
        var digits = String(whole)
        if places > 0 {
            digits = String(repeating: "0", count: max(0, places + 1 - digits.count)) + digits
            digits = digits.dropLast(places) + "." + digits.suffix(places)
        }
        return (value < 0 && whole != 0 ? "-" : "") + digits
    }
}

/// The course of one measure over the buckets, a character each, from the least to the greatest.
struct Sparkline {
    var label: String
    var bars: String

    private static let shapes = Array("▁▂▃▄▅▆▇█")
    /// Groups and buckets that are drawn at most.
    private static let most = 12
    private static let widest = 120

    /// Without groups a line for each measure; with groups one for each of the first groups, of the first measure.
    static func lines(_ data: [JSONValue], measures: [String]) -> [Sparkline] {
        let starts = data.compactMap { $0["bucket"]?.string.flatMap { RFC3339.parse($0) }?.microseconds }
        guard let first = starts.min(), let last = starts.max(), first < last else { return [] }
        // Buckets without events are left out of answers: the least distance is a bucket's length, but for clock changes.
        let sorted = Set(starts).sorted()
        let step = zip(sorted, sorted.dropFirst()).map { $1 - $0 }.min() ?? 1
        let count = Int((last - first + step / 2) / step) + 1
        var groups: [String: (order: Int, values: [String: [Double?]])] = [:]
        for row in data {
            guard let start = row["bucket"]?.string.flatMap({ RFC3339.parse($0) })?.microseconds else { continue }
            let label = (row["group"]?.members ?? []).map { $0.value.string ?? ($0.value.isNull ? "-" : $0.value.text) }
                .joined(separator: " ")
            var group = groups[label] ?? (groups.count, [:])
            for measure in measures {
                guard case .number(let digits)? = row["measures"]?[measure] else { continue }
                group.values[measure, default: Array(repeating: nil, count: count)][
                    Int((start - first + step / 2) / step)] =
                    Double(digits)
            }
            groups[label] = group
        }
        let ordered = groups.sorted { $0.value.order < $1.value.order }.prefix(most)
        if ordered.count == 1, let only = ordered.first, only.key.isEmpty {
            return measures.map { Sparkline(label: $0, bars: bars(only.value.values[$0] ?? [])) }
        }
        guard let measure = measures.first else { return [] }
        return ordered.map { Sparkline(label: "\($0.key) \(measure)", bars: bars($0.value.values[measure] ?? [])) }
    }

    private static func bars(_ values: [Double?]) -> String {
        let width = min(values.count, widest)
        // Of more buckets than columns the greatest of each column stands.
        let columns = (0..<width).map { column in
            values[column * values.count / width..<(column + 1) * values.count / width].compactMap(\.self).max()
        }
        guard let least = columns.compactMap(\.self).min(), let most = columns.compactMap(\.self).max() else {
            return ""
        }
        let floor = min(0, least)
        return String(
            columns.map { value in
                guard let value else { return " " }
                return most > floor ? shapes[Int(((value - floor) / (most - floor) * 7).rounded())] : shapes[0]
            })
    }
}
