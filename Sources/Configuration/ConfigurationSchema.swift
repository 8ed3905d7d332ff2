// The table of keys → JSON Schema (draft 2020-12) of the configuration file: `schemas/configuration.schema.json`.

import JSONText

package enum ConfigurationSchema {
    /// The whole document, as it is kept in the repository.
    package static func text() -> String {
        var out = "{\n"
        out += "  \"$schema\": \"https://json-schema.org/draft/2020-12/schema\",\n"
        out += "  \"title\": \"Millrace configuration\",\n"
        out += object(prefix: "", indent: 1)
        return out + "\n}\n"
    }

    /// The members of an object schema, without its braces.
    private static func object(prefix: String, indent: Int) -> String {
        let margin = String(repeating: "  ", count: indent)
        var names: [String] = []
        for key in ConfigurationKey.all where prefix.isEmpty || key.path.hasPrefix(prefix + ".") {
            let rest = prefix.isEmpty ? key.path[...] : key.path.dropFirst(prefix.count + 1)
            let name = String(rest.prefix { $0 != "." })
            if !names.contains(name) { names.append(name) }
        }
        let members = names.map { name in
            let path = prefix.isEmpty ? name : "\(prefix).\(name)"
            return "\(margin)  \(JSONValue.string(name).text): \(member(path, indent: indent + 1))"
        }
        return "\(margin)\"type\": [\"object\", \"null\"],\n\(margin)\"additionalProperties\": false,\n"
            + "\(margin)\"properties\": {\n\(members.joined(separator: ",\n"))\n\(margin)}"
    }

    private static func member(_ path: String, indent: Int) -> String {
        let margin = String(repeating: "  ", count: indent)
        if let key = ConfigurationKey.all.first(where: { $0.path == path }) { return value(key) }
        guard let key = ConfigurationKey.all.first(where: { $0.map == path }) else {
            return "{\n\(object(prefix: path, indent: indent + 1))\n\(margin)}"
        }
        let inner = String(key.tail.dropFirst())
        let names = key.tail.isEmpty ? "^[a-z0-9._][a-z0-9._-]*$" : "^[a-z0-9][a-z0-9-]*$"
        let each =
            inner.isEmpty
            ? value(key)
            : "{ \"type\": \"object\", \"additionalProperties\": false, \"required\": [\(JSONValue.string(inner).text)], "
                + "\"properties\": { \(JSONValue.string(inner).text): \(value(key)) } }"
        return "{\n\(margin)  \"type\": [\"object\", \"null\"],\n"
            + "\(margin)  \"description\": \(JSONValue.string(key.help).text),\n"
            + "\(margin)  \"propertyNames\": { \"pattern\": \(JSONValue.string(names).text) },\n"
            + "\(margin)  \"additionalProperties\": \(each)\n\(margin)}"
    }

    private static func value(_ key: ConfigurationKey) -> String {
        var members: [String]
        switch key.kind {
        case .choice(let names):
            members = ["\"enum\": [\(names.map { JSONValue.string($0).text }.joined(separator: ", "))]"]
        case .boolean: members = ["\"type\": \"boolean\""]
        case .integer(let range):
            members = ["\"type\": \"integer\"", "\"minimum\": \(range.lowerBound)", "\"maximum\": \(range.upperBound)"]
        case .address:
            members = ["\"type\": \"string\"", "\"pattern\": \"^(\\\\[[0-9a-fA-F:.]+\\\\]|[^:]+):[0-9]{1,5}$\""]
        case .servers:
            members = ["\"type\": \"string\"", "\"pattern\": \"^[^,]+:[0-9]{1,5}( *, *[^,]+:[0-9]{1,5})*$\""]
        case .name: members = ["\"type\": \"string\"", "\"pattern\": \"^[A-Za-z0-9._-]{1,249}$\""]
        case .directory: members = ["\"type\": \"string\"", "\"minLength\": 1"]
        case .file: members = ["\"type\": [\"string\", \"null\"]"]
        case .store:
            members = ["\"type\": \"string\"", "\"pattern\": \"^(sqlite:|postgres(ql)?://|clickhouse://).+$\""]
        case .provider: members = ["\"type\": \"string\"", "\"pattern\": \"^https?://[^/?#@]+(/[^?#]*)?$\""]
        case .origins:
            members = [
                "\"type\": [\"string\", \"null\"]",
                "\"pattern\": \"^(\\\\*|https?://[^/?#@,]+)( *, *https?://[^/?#@,]+)*$\"",
            ]
        case .secret(let sizes):
            // A schema counts characters, of one to four bytes each.
            members = [
                "\"type\": [\"string\", \"null\"]", "\"minLength\": \((sizes.lowerBound + 3) / 4)",
                "\"maxLength\": \(sizes.upperBound)",
            ]
        case .text: members = ["\"type\": [\"string\", \"number\", \"boolean\"]"]
        }
        if key.map == nil {
            switch key.standard {
            case .null: members.append("\"default\": null")
            case .boolean(let value): members.append("\"default\": \(value)")
            case .integer(let number): members.append("\"default\": \(number)")
            case .text(let text): members.append("\"default\": \(JSONValue.string(text).text)")
            }
            members.append("\"description\": \(JSONValue.string(key.help).text)")
        }
        return "{ \(members.joined(separator: ", ")) }"
    }
}
