// Where in a document a value stands that a path names: `keys.aliases.userId`, `keys.drop[2]` -> its line.

extension YAMLNode {
    /// The line of the key, or of the list's element, that the path leads to; of the last part that is there where the
    /// rest is not. Keys may hold dots: the longest key that fits is meant.
    package func line(of path: String) -> Int { line(of: path[...]) }

    private func line(of path: Substring) -> Int {
        switch value {
        case .scalar: return line
        case .sequence(let elements):
            guard path.first == "[", let close = path.firstIndex(of: "]"),
                let index = Int(path[path.index(after: path.startIndex)..<close]), elements.indices.contains(index)
            else { return line }
            return elements[index].line(of: path[path.index(after: close)...])
        case .mapping(let entries):
            let rest = path.first == "." ? path.dropFirst() : path
            let fitting = entries.filter { entry in
                guard rest.hasPrefix(entry.key) else { return false }
                let next = rest.dropFirst(entry.key.count).first
                return next == nil || next == "." || next == "["
            }
            guard let entry = fitting.max(by: { $0.key.count < $1.key.count }) else { return line }
            let below = rest.dropFirst(entry.key.count)
            if below.isEmpty { return entry.line }
            if case .scalar = entry.value.value { return entry.line }
            return entry.value.line(of: below)
        }
    }
}
