// Keys by digest: the list of keys -> who it is that sends this text.
//
// A lookup hashes the text, finds the digest by its first eight bytes, and compares the whole of it in constant time.
// What the search's own time tells is about digests, from which no key can be made.

/// Immutable: a lookup takes no lock and allocates nothing.
package struct KeyDirectory: Sendable {
    package enum Finding: Sendable {
        case known(Entry)
        case revoked
        case unknown
    }

    package struct Entry: Sendable {
        package var digest: Digest
        package var id: String
        package var workspace: String
        package var scopes: AccessScopes
        package var isRevoked: Bool
    }

    /// By the first word of the digest, rising.
    private let entries: [Entry]

    package init(_ keys: [AccessKey]) {
        entries = keys.map {
            Entry(
                digest: $0.digest, id: $0.id, workspace: $0.workspace, scopes: $0.scopes,
                isRevoked: $0.revoked != nil)
        }.sorted { $0.digest.words.0 < $1.digest.words.0 }
    }

    package func find(_ text: UnsafeRawBufferPointer) -> Finding {
        guard !text.isEmpty, text.count <= AccessLimits.keySize else { return .unknown }
        let digest = SHA256.digest(text)
        var low = 0
        var high = entries.count
        while low < high {
            let middle = (low + high) / 2
            if entries[middle].digest.words.0 < digest.words.0 { low = middle + 1 } else { high = middle }
        }
        while low < entries.count, entries[low].digest.words.0 == digest.words.0 {
            if entries[low].digest == digest { return entries[low].isRevoked ? .revoked : .known(entries[low]) }
            low += 1
        }
        return .unknown
    }

    package func find(_ text: String) -> Finding {
        var text = text
        return text.withUTF8 { find(UnsafeRawBufferPointer($0)) }
    }
}
