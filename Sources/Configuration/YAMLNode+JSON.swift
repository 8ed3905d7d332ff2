// A YAML tree → JSON's kinds of value: how a rules file and a price table reach the modules that read them.

package import JSONText

extension YAMLNode {
    /// Plain `true`, `false`, `null` and JSON's numbers are themselves, everything else is text.
    package var json: JSONValue {
        switch value {
        case .scalar(let text, let isPlain):
            if isNull { return .null }
            guard isPlain else { return .string(text) }
            if text == "true" || text == "false" { return .boolean(text == "true") }
            if text.utf8.first.map({ $0 == UInt8(ascii: "-") || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) })
                == true,
                case .success(.number(let number)) = Result(catching: { try JSONValue.parse(text) })
            {
                return .number(number)
            }
            return .string(text)
        case .sequence(let nodes): return .array(nodes.map(\.json))
        case .mapping(let entries): return .object(entries.map { JSONMember(key: $0.key, value: $0.value.json) })
        }
    }
}
