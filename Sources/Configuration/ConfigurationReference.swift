// The table of keys → one row a key: `config reference`, and what docs are held to.

import CommandLine
package import JSONText

package enum ConfigurationReference {
    package struct Row: Sendable {
        package var path: String
        /// nil for a key with a name of the user's own in it.
        package var standard: String?
        package var allowed: String
        package var variable: String
        package var help: String
    }

    package static var rows: [Row] {
        ConfigurationKey.all.map { key in
            let standard: String? =
                switch key.standard {
                case _ where key.map != nil: nil
                case .null: "null"
                case .boolean(let value): String(value)
                case .integer(let number): String(number)
                case .text(let text): text
                }
            let variable = key.path.uppercased().map { $0 == "." ? "_" : String($0) }.joined()
            return Row(
                path: key.path, standard: standard, allowed: key.kind.allowed, variable: "MILLRACE_" + variable,
                help: key.help)
        }
    }

    /// A Markdown table.
    package static var markdown: String {
        var out = "| key, and flag `--KEY` unless it is a secret | default | what it is | allowed | variable |\n"
        out += "| --- | --- | --- | --- | --- |\n"
        for row in rows {
            let standard = row.standard.map { "`\($0)`" } ?? ""
            out += "| `\(row.path)` | \(standard) | \(row.help) | \(row.allowed) | `\(row.variable)` |\n"
        }
        return out
    }

    /// `[{ "key", "default", "allowed", "variable", "help" }]`; all text.
    package static var json: JSONValue {
        .array(
            rows.map { row in
                [
                    "key": .string(row.path), "default": row.standard.map { .string($0) } ?? .null,
                    "allowed": .string(row.allowed), "variable": .string(row.variable), "help": .string(row.help),
                ]
            })
    }
}
