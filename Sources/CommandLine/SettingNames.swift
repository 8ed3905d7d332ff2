// The names of configuration keys as flags and environment variables: one path, three spellings.

/// Paths such as `log.kafka.topic`; `*` stands for a name of the user's own: `proxy.providers.*.base_url`.
///
/// As a flag: `--log.kafka.topic`, where `.`, `-` and `_` are taken alike. As a variable:
/// `MILLRACE_LOG_KAFKA_TOPIC`; a `*` is in lower case there, with `_` for the blank of that key (`-` or `.`).
package struct SettingNames: Sendable {
    package var paths: [String]
    /// What `_` in a variable stands for within the `*` of a path.
    package var blanks: [String: Character]

    package init(paths: [String], blanks: [String: Character] = [:]) {
        self.paths = paths
        self.blanks = blanks
    }

    /// The path that a flag (without its dashes) names, `*` filled in.
    package func path(flag: String) -> String? { match(flag) { $1 } }

    /// The path that a variable (without `MILLRACE_`) names.
    package func path(variable: String) -> String? {
        match(variable.lowercased()) { path, name in
            String(name.map { $0 == "_" ? blanks[path] ?? "_" : $0 })
        }
    }

    private func match(_ given: String, _ fill: (_ path: String, _ name: String) -> String) -> String? {
        if let exact = paths.first(where: { $0 == given }) { return exact }
        let folded = Self.folded(given)
        if let alike = paths.first(where: { !$0.contains("*") && Self.folded($0) == folded }) { return alike }
        for path in paths {
            guard let star = path.firstIndex(of: "*") else { continue }
            let head = Self.folded(String(path[..<star]))
            let tail = Self.folded(String(path[path.index(after: star)...]))
            // A map's own name stands for the whole map.
            if folded + "." == head { return String(path[..<star].dropLast()) }
            guard folded.hasPrefix(head), folded.hasSuffix(tail), folded.count > head.count + tail.count else {
                continue
            }
            let name = given.dropFirst(head.count).dropLast(tail.count)
            return path[..<star] + fill(path, String(name)) + path[path.index(after: star)...]
        }
        return nil
    }

    private static func folded(_ name: String) -> String {
        String(name.map { $0 == "-" || $0 == "_" ? "." : $0 })
    }
}
