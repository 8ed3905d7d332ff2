// The canonical pairs of an event: JSON text of one object of strings and lists of strings -> keys and values.

package import JSONText

/// A metadata value as stored and as a group shows it.
package enum MetadataValue: Hashable, Sendable {
    case text(String)
    case list([String])
    /// A budget left the value out; events have it.
    case filed

    /// What filed values are shown under.
    package static let filedName = "(other)"

    package var values: [String] {
        switch self {
        case .text(let text): [text]
        case .list(let list): list
        case .filed: [Self.filedName]
        }
    }

    package var json: JSONValue {
        switch self {
        case .text(let text): .string(text)
        case .list(let list): .array(list.map { .string($0) })
        case .filed: .string(Self.filedName)
        }
    }

    /// What groups are put in order by.
    var orderBytes: [UInt8] {
        switch self {
        case .text(let text): Array(text.utf8)
        case .list, .filed: json.bytes
        }
    }
}

/// Reads what `NormalizedMetadata` writes, and the marks of `SetText`; nil for bytes that are no such object.
package func metadataPairs(_ bytes: [UInt8]) -> [(key: String, value: MetadataValue)]? {
    metadataSet(bytes)?.pairs
}

/// `isOpen`: a budget left keys out, or said nothing of any.
func metadataSet(_ bytes: [UInt8]) -> (pairs: [(key: String, value: MetadataValue)], isOpen: Bool)? {
    if bytes.isEmpty { return ([], false) }
    guard let tree = try? JSONValue.parse(bytes) else { return nil }
    if let parts = tree.array { return entitySet(parts).map { ($0, false) } }
    guard let members = tree.members else { return nil }
    var out: [(key: String, value: MetadataValue)] = []
    var isOpen = false
    for member in members {
        if let text = member.value.string {
            out.append((member.key, .text(text)))
        } else if let list = member.value.array {
            out.append((member.key, .list(list.compactMap(\.string))))
        } else if member.value.isNull {
            out.append((member.key, .filed))
        } else if member.value.boolean != nil {
            isOpen = true
        } else {
            return nil
        }
    }
    return (out, isOpen)
}

/// An `EntitySet`: one pair, or none.
private func entitySet(_ parts: [JSONValue]) -> [(key: String, value: MetadataValue)]? {
    guard let key = parts.first?.string else { return nil }
    guard parts.count > 1 else { return [] }
    if parts[1].isNull { return [(key, .filed)] }
    if let text = parts[1].string { return [(key, .text(text))] }
    return parts[1].array.map { [(key, .list($0.compactMap(\.string)))] }
}
