// The canonical pairs of an event: JSON text of one object of strings and lists of strings -> keys and values.

package import JSONText

/// A metadata value as stored and as a group shows it.
package enum MetadataValue: Hashable, Sendable {
    case text(String)
    case list([String])

    package var values: [String] {
        switch self {
        case .text(let text): [text]
        case .list(let list): list
        }
    }

    package var json: JSONValue {
        switch self {
        case .text(let text): .string(text)
        case .list(let list): .array(list.map { .string($0) })
        }
    }

    /// What groups are put in order by.
    var orderBytes: [UInt8] {
        switch self {
        case .text(let text): Array(text.utf8)
        case .list: json.bytes
        }
    }
}

/// Reads what `NormalizedMetadata` writes; nil for bytes that are no such object.
package func metadataPairs(_ bytes: [UInt8]) -> [(key: String, value: MetadataValue)]? {
    if bytes.isEmpty { return [] }
    guard let tree = try? JSONValue.parse(bytes), let members = tree.members else { return nil }
    var out: [(key: String, value: MetadataValue)] = []
    for member in members {
        if let text = member.value.string {
            out.append((member.key, .text(text)))
        } else if let list = member.value.array {
            out.append((member.key, .list(list.compactMap(\.string))))
        } else {
            return nil
        }
    }
    return out
}
