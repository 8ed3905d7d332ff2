// Defaults, file, environment and flags → the effective value of every key with its source, or every mistake at once.

import CommandLine

/// Who set a value.
package enum SettingSource: Sendable, Equatable, CustomStringConvertible {
    case standard
    case file(String, line: Int)
    case environment(String)
    case flag(String)

    package var description: String {
        switch self {
        case .standard: "default"
        case .file(let path, let line): "\(path):\(line)"
        case .environment(let name): name
        case .flag(let flag): flag
        }
    }
}

package struct Setting: Sendable, Equatable {
    package var value: SettingValue
    package var source: SettingSource
}

/// All mistakes of a configuration, in order of their layers; exit status 2.
package struct ConfigurationError: Error, Sendable, Equatable, CustomStringConvertible {
    package var problems: [String]

    package init(problems: [String]) { self.problems = problems }

    package var description: String { problems.joined(separator: "\n") }
}

/// Where the layers come from.
package struct ConfigurationSources: Sendable {
    /// `--config`.
    package var file: String?
    package var environment: [String: String]
    package var flags: [(path: String, value: String, flag: String)]
    /// Defaults that a command replaces: `up` runs open.
    package var standards: [String: SettingValue]

    package init(
        file: String? = nil, environment: [String: String] = [:],
        flags: [(path: String, value: String, flag: String)] = [], standards: [String: SettingValue] = [:]
    ) {
        self.file = file
        self.environment = environment
        self.flags = flags
        self.standards = standards
    }
}

/// The effective settings by full path.
struct Layers {
    private(set) var settings: [String: Setting] = [:]
    private(set) var problems: [String] = []
    /// How many layers above the defaults named a key.
    private(set) var mentions: [String: Int] = [:]

    static let prefix = "MILLRACE_"

    /// Variables of that prefix that are not settings: what tests use, the API key of `query`, and what Kubernetes
    /// puts into the environment of every container beside a service called `millrace…`.
    static func isForeign(variable name: String) -> Bool {
        if name == "MILLRACE_API_KEY" || name.hasPrefix("MILLRACE_TEST_") { return true }
        if name.hasSuffix("_SERVICE_HOST") || name.hasSuffix("_SERVICE_PORT") || name.contains("_SERVICE_PORT_") {
            return true
        }
        guard let port = name.firstRange(of: "_PORT") else { return false }
        let rest = name[port.upperBound...]
        return rest.isEmpty || rest.contains("_TCP") || rest.contains("_UDP")
    }

    init(_ sources: ConfigurationSources) {
        for key in ConfigurationKey.all {
            if let map = key.map {
                for entry in key.entries {
                    settings["\(map).\(entry.name)\(key.tail)"] = Setting(value: entry.value, source: .standard)
                }
            } else {
                settings[key.path] = Setting(value: sources.standards[key.path] ?? key.standard, source: .standard)
            }
        }
        if let file = sources.file { read(file) }
        for (name, value) in sources.environment.sorted(by: { $0.key < $1.key }) where name.hasPrefix(Self.prefix) {
            if Self.isForeign(variable: name) { continue }
            guard let path = ConfigurationKey.names.path(variable: String(name.dropFirst(Self.prefix.count))) else {
                let known = ConfigurationKey.all.map { Self.variable($0.path) }
                let hint = nearest(name, known).map { "did you mean \($0)?" } ?? "see 'millrace config print'"
                problems.append("\(name) (environment): no such key; \(hint)")
                continue
            }
            set(path, text: value, source: .environment(name))
        }
        for flag in sources.flags {
            if ConfigurationKey.find(flag.path)?.kind.isSecret == true {
                problems.append(
                    "\(flag.path) (\(flag.flag)): not taken from the command line, which others can read; allowed: "
                        + "\(Self.variable(flag.path)) or the configuration file")
            } else {
                set(flag.path, text: flag.value, source: .flag(flag.flag))
            }
        }
    }

    /// The variable of a path.
    static func variable(_ path: String) -> String {
        prefix + String(path.uppercased().map { $0 == "." || $0 == "-" ? "_" : $0 }.map { $0 == "*" ? "…" : $0 })
    }

    private mutating func read(_ file: String) {
        switch readFile(file) {
        case .failure(let problem): problems.append("--config \(file): cannot be read: \(problem.reason)")
        case .success(let bytes):
            var mistakes: [YAMLError] = []
            let root = YAMLNode.parse(bytes, &mistakes)
            for mistake in mistakes {
                problems.append("\(file)\(mistake.line > 0 ? ":\(mistake.line)" : ""): \(mistake.reason)")
            }
            if let root { descend(root, at: "", file: file) }
        }
    }

    /// A mapping of the file whose keys continue `prefix`.
    private mutating func descend(_ node: YAMLNode, at prefix: String, file: String) {
        if node.isNull { return }
        guard case .mapping(let entries) = node.value else {
            let name = prefix.isEmpty ? "the file" : prefix
            let next = Self.children(of: prefix).joined(separator: ", ")
            problems.append("\(name) (\(file):\(node.line)): not a mapping; allowed: a mapping with the keys \(next)")
            return
        }
        for entry in entries {
            let path = prefix.isEmpty ? entry.key : "\(prefix).\(entry.key)"
            let source = SettingSource.file(file, line: entry.line)
            if ConfigurationKey.all.contains(where: { $0.path == path }) {
                set(path, entry.value, source: source)
            } else if let key = ConfigurationKey.all.first(where: { $0.map == path }) {
                replace(key, entry.value, source: source) { line in .file(file, line: line) }
            } else if ConfigurationKey.all.contains(where: { $0.path.hasPrefix(path + ".") }) {
                descend(entry.value, at: path, file: file)
            } else {
                let siblings = Self.children(of: prefix)
                let hint =
                    nearest(entry.key, siblings).map { "did you mean '\($0)'?" }
                    ?? "allowed here: \(siblings.joined(separator: ", "))"
                problems.append("\(path) (\(file):\(entry.line)): no such key; \(hint)")
            }
        }
    }

    /// The names that may follow a prefix.
    private static func children(of prefix: String) -> [String] {
        var out: [String] = []
        for key in ConfigurationKey.all where prefix.isEmpty || key.path.hasPrefix(prefix + ".") {
            let rest = prefix.isEmpty ? key.path[...] : key.path.dropFirst(prefix.count + 1)
            let name = String(rest.prefix { $0 != "." })
            if !out.contains(name) { out.append(name) }
        }
        return out
    }

    /// A whole map: what lower layers put there goes.
    private mutating func replace(
        _ key: ConfigurationKey, _ node: YAMLNode, source: SettingSource, _ at: (Int) -> SettingSource
    ) {
        let map = key.map ?? key.path
        let entries: [YAMLNode.Entry]
        switch node.value {
        case .mapping(let found): entries = found
        case .scalar, .sequence:
            guard node.isNull else {
                problems.append("\(map) (\(source)): not a mapping; allowed: a mapping of names to \(key.kind.allowed)")
                return
            }
            entries = []
        }
        for path in settings.keys where path.hasPrefix(map + ".") { settings[path] = nil }
        let inner = String(key.tail.dropFirst())
        for entry in entries {
            if inner.isEmpty {
                set("\(map).\(entry.key)", entry.value, source: at(entry.line))
                continue
            }
            guard case .mapping(let fields) = entry.value.value else {
                problems.append("\(map).\(entry.key) (\(at(entry.line))): not a mapping; allowed: { \(inner): … }")
                continue
            }
            if fields.isEmpty { problems.append("\(map).\(entry.key) (\(at(entry.line))): \(inner) is missing") }
            for field in fields {
                if field.key == inner {
                    set("\(map).\(entry.key)\(key.tail)", field.value, source: at(field.line))
                } else {
                    let hint = nearest(field.key, [inner]).map { "did you mean '\($0)'?" } ?? "allowed here: \(inner)"
                    problems.append("\(map).\(entry.key).\(field.key) (\(at(field.line))): no such key; \(hint)")
                }
            }
        }
    }

    /// A value from a variable or a flag: one word, or a whole map as YAML's flow text.
    private mutating func set(_ path: String, text: String, source: SettingSource) {
        guard let key = ConfigurationKey.all.first(where: { $0.map == path }) else {
            set(path, YAMLNode(value: .scalar(text, isPlain: true), line: 1), source: source)
            return
        }
        do throws(YAMLError) {
            replace(key, try YAMLNode.parse(Array(text.utf8)), source: source) { _ in source }
        } catch {
            problems.append("\(path) (\(source)): not readable as YAML: \(error.reason)")
        }
    }

    private mutating func set(_ path: String, _ node: YAMLNode, source: SettingSource) {
        guard let key = ConfigurationKey.find(path) else { return }
        if let name = key.name(in: path), key.map != nil, !key.acceptsName(name) {
            problems.append(
                "\(path) (\(source)): '\(name)' is no name; allowed: up to 128 small letters, digits and '-'")
            return
        }
        guard case .scalar(let text, let isPlain) = node.value else {
            problems.append("\(path) (\(source)): not a single value; allowed: \(key.kind.allowed)")
            return
        }
        guard let value = key.kind.check(text, isPlain: isPlain) else {
            let shown = Secrets.masked(path, .text(text))
            let reason = key.kind.reason(text).map { ": \($0)" } ?? ""
            problems.append("\(path): '\(shown)' (\(source)) is not valid\(reason); allowed: \(key.kind.allowed)")
            return
        }
        settings[path] = Setting(value: value, source: source)
        mentions[path, default: 0] += 1
    }
}

/// What must not be shown.
enum Secrets {
    private static let marks = [
        "password", "passphrase", "secret", "token", "jaas", ".pem", "credential", "oauthbearer.config",
    ]

    /// The value as text, with secrets as `***`.
    static func masked(_ path: String, _ value: SettingValue) -> String {
        switch value {
        case .null: return "null"
        case .boolean(let value): return value ? "true" : "false"
        case .integer(let number): return String(number)
        case .text(let text):
            if ConfigurationKey.find(path)?.kind.isSecret == true { return "***" }
            if path.hasPrefix("log.kafka.properties."), marks.contains(where: { path.contains($0) }) { return "***" }
            return maskedURL(text)
        }
    }

    /// `scheme://user:password@host?password=…` without what follows the user, and without the query.
    private static func maskedURL(_ text: String) -> String {
        guard let scheme = text.firstRange(of: "://") else { return text }
        let rest = text[scheme.upperBound...]
        var out = String(text[..<scheme.upperBound])
        let query = rest.firstIndex(of: "?") ?? rest.endIndex
        let body = rest[..<query]
        if let at = body.lastIndex(of: "@") {
            let user = body[..<at]
            out += user.contains(":") ? user.prefix { $0 != ":" } + ":***" : user
            out += body[at...]
        } else {
            out += body
        }
        return query == rest.endIndex ? out : out + "?***"
    }
}
