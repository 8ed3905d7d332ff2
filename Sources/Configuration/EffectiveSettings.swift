// `config print`: every key with its value and source. The text is itself a configuration file, but for what is masked: a
// secret stands there as a comment, and of a URL or a librdkafka setting the mask itself.

import JSONText

package struct EffectiveSettings: Sendable {
    package struct Row: Sendable, Equatable {
        package var path: String
        /// Masked.
        package var value: String
        package var isText: Bool
        /// It is set, and not shown.
        package var isSecret = false
        package var source: String
    }
    /// In the order of the table.
    package let rows: [Row]

    init(layers: Layers) {
        var rows: [Row] = []
        for key in ConfigurationKey.all {
            let paths = key.map == nil ? [key.path] : layers.settings.keys.sorted().filter { key.name(in: $0) != nil }
            if paths.isEmpty, let map = key.map {
                rows.append(Row(path: map, value: "{}", isText: false, source: "default"))
            }
            for path in paths {
                guard let setting = layers.settings[path] else { continue }
                var isText = false
                if case .text = setting.value { isText = true }
                rows.append(
                    Row(
                        path: path, value: Secrets.masked(path, setting.value), isText: isText,
                        isSecret: isText && key.kind.isSecret, source: setting.source.description))
            }
        }
        self.rows = rows
    }

    /// YAML, each value followed by its source.
    package var yaml: String {
        var out = ""
        var open: [String] = []
        for row in rows {
            let components = Self.components(row.path)
            let sections = components.dropLast()
            var shared = 0
            while shared < min(open.count, sections.count), open[shared] == sections[shared] { shared += 1 }
            for (depth, section) in sections.enumerated().dropFirst(shared) {
                out += String(repeating: "  ", count: depth) + section + ":\n"
            }
            open = Array(sections)
            let value = row.isText ? JSONValue.string(row.value).text : row.value
            let line =
                String(repeating: "  ", count: sections.count) + (row.isSecret ? "# " : "")
                + "\(components.last ?? ""): \(value)"
            out += line + String(repeating: " ", count: max(2, 56 - line.count)) + "# \(row.source)\n"
        }
        return out
    }

    /// `[{ "key", "value", "source" }]`.
    package var json: String {
        let lines = rows.map { row in
            let value = row.isText ? JSONValue.string(row.value).text : row.value
            return "  { \"key\": \(JSONValue.string(row.path).text), \"value\": \(value), "
                + "\"source\": \(JSONValue.string(row.source).text) }"
        }
        return "[\n" + lines.joined(separator: ",\n") + "\n]\n"
    }

    /// A name of the user's own may hold dots: it stays in one piece.
    private static func components(_ path: String) -> [String] {
        guard let key = ConfigurationKey.find(path), let map = key.map, let name = key.name(in: path) else {
            return path.split(separator: ".").map(String.init)
        }
        return map.split(separator: ".").map(String.init) + [name] + key.tail.split(separator: ".").map(String.init)
    }
}
