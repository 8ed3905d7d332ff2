// "Did you mean": the candidate that is the fewest slips of the finger away.

/// The nearest candidate by inserted, lost, changed and swapped letters; nil where none is near: more than a third
/// of its letters wrong.
package func nearest(_ word: String, _ candidates: [String]) -> String? {
    let ranked = candidates.map { (candidate: $0, slips: slips(Array(word.utf8), Array($0.utf8))) }
    guard let best = ranked.min(by: { $0.slips < $1.slips }) else { return nil }
    return best.slips <= max(1, min(word.utf8.count, best.candidate.utf8.count) / 3) ? best.candidate : nil
}

/// Damerau and Levenshtein's distance, adjacent swaps only.
private func slips(_ a: [UInt8], _ b: [UInt8]) -> Int {
    if abs(a.count - b.count) > 8 { return .max }
    var rows = [Array(0...b.count)]
    for i in 0..<a.count {
        var row = [i + 1]
        for j in 0..<b.count {
            var least = min(rows[i][j + 1] + 1, row[j] + 1, rows[i][j] + (a[i] == b[j] ? 0 : 1))
            if i > 0, j > 0, a[i] == b[j - 1], a[i - 1] == b[j] { least = min(least, rows[i - 1][j - 1] + 1) }
            row.append(least)
        }
        rows.append(row)
    }
    return rows[a.count][b.count]
}
