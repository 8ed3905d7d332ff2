// API keys: their text, what is kept of them, what they allow.
//
// A key is `mr_` and 43 letters and digits drawn from 256 random bits. It is shown once, when it is made; what is kept
// is its SHA-256, so that neither the store nor a proxy's snapshot lets anybody in.

package import Events

/// What a key may be used for; each is granted by name.
package struct AccessScopes: OptionSet, Sendable, Hashable {
    package var rawValue: UInt8
    package init(rawValue: UInt8) { self.rawValue = rawValue }

    /// Send requests through the proxy.
    package static let ingest = AccessScopes(rawValue: 1)
    /// Ask the API about the key's own workspace.
    package static let query = AccessScopes(rawValue: 2)
    /// What concerns the whole installation: reconciliation, dead letters, replays.
    package static let admin = AccessScopes(rawValue: 4)

    /// In the order in which they are listed.
    package static let names: [(name: String, scope: AccessScopes)] = [
        ("ingest", .ingest), ("query", .query), ("admin", .admin),
    ]

    /// Comma-separated names; nil where one is unknown, or there is none.
    package init?(text: String) {
        self = []
        for part in text.split(separator: ",", omittingEmptySubsequences: false) {
            let name = part.drop { $0 == " " }
            guard let known = Self.names.first(where: { $0.name == name }) else { return nil }
            insert(known.scope)
        }
    }

    package var list: [String] { Self.names.filter { contains($0.scope) }.map(\.name) }
    package var text: String { list.joined(separator: ",") }
}

/// A key as it is kept: never the key itself.
package struct AccessKey: Sendable, Equatable {
    /// `key_` and 11 letters and digits: names the key everywhere, in events too. Fifteen bytes are the most that Swift
    /// keeps in a string itself, so that handing an id on costs nothing.
    package var id: String
    package var digest: Digest
    package var workspace: String
    package var scopes: AccessScopes
    /// For people; may be empty.
    package var name: String
    package var created: EventTime
    package var revoked: EventTime?

    package init(
        id: String, digest: Digest, workspace: String, scopes: AccessScopes, name: String, created: EventTime,
        revoked: EventTime? = nil
    ) {
        self.id = id
        self.digest = digest
        self.workspace = workspace
        self.scopes = scopes
        self.name = name
        self.created = created
        self.revoked = revoked
    }

    /// A new key, and its text: the only time that it is there.
    ///
    /// `random` must be fit for secrets (the system's is).
    package static func make(
        workspace: String, scopes: AccessScopes, name: String, now: EventTime,
        using random: inout some RandomNumberGenerator
    ) -> (key: AccessKey, text: String) {
        let text = "mr_" + randomText(43, alphabet: lettersAndDigits, &random)
        let id = "key_" + randomText(11, alphabet: lettersAndDigits.suffix(36), &random)
        let key = AccessKey(
            id: id, digest: SHA256.digest(of: text), workspace: workspace, scopes: scopes, name: name, created: now)
        return (key, text)
    }

    private static let lettersAndDigits = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789".utf8)

    /// Each character is equally likely.
    private static func randomText(
        _ count: Int, alphabet: some RandomAccessCollection<UInt8>, _ random: inout some RandomNumberGenerator
    ) -> String {
        let letters = Array(alphabet)
        let bytes = (0..<count).map { _ in letters[Int(random.next(upperBound: UInt64(letters.count)))] }
        return String(decoding: bytes, as: UTF8.self)
    }
}

/// | limit | unit | value | why | at the limit |
/// | --- | --- | --- | --- | --- |
/// | `workspaceSize` | bytes | 128 | a dimension of every event | refused |
/// | `nameSize` | bytes | 128 | shown in lists | refused |
/// | `keySize` | bytes | 256 | what is hashed of a header: ours have 46 | an unknown key |
package enum AccessLimits {
    package static let workspaceSize = 128
    package static let nameSize = 128
    package static let keySize = 256
}
