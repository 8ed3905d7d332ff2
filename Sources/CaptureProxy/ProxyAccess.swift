// Who may send through the proxy: the value of x-portkey-api-key -> workspace and key id, or a refusal.

package import Access
import HTTPMessages

/// Who sends, and for which workspace the events count.
package struct ProxyIdentity: Sendable, Equatable {
    package var workspace: String
    /// The id of the key, never the key; empty in open mode.
    package var apiKey: String

    package init(workspace: String, apiKey: String) {
        self.workspace = workspace
        self.apiKey = apiKey
    }
}

/// Each loop has one of its own and is handed another when keys change: no lock and no allocation for a request.
package enum ProxyAccess: Sendable {
    /// Any key or none.
    case open(ProxyIdentity)
    case keys(KeyDirectory)
    /// Keys are asked for, and none has ever been known: the store is away and there is no snapshot.
    case unknown

    func identify(_ bytes: Span<UInt8>, _ key: Range<Int>) throws(RoutingRefusal) -> ProxyIdentity {
        switch self {
        case .open(let identity): return identity
        case .unknown: throw .keysUnavailable
        case .keys(let directory):
            let finding = bytes.extracting(key).withUnsafeBytes { directory.find($0) }
            switch finding {
            case .known(let entry):
                guard entry.scopes.contains(.ingest) else { throw .keyForbidden }
                return ProxyIdentity(workspace: entry.workspace, apiKey: entry.id)
            case .revoked: throw .keyRevoked
            case .unknown: throw key.isEmpty ? .keyMissing : .keyUnknown
            }
        }
    }
}

extension RoutingRefusal {
    fileprivate static let keyMissing = RoutingRefusal(
        status: 401, code: "unauthorized", message: "There is no API key.",
        hint: "Send x-portkey-api-key with a key that 'millrace keys create --scopes ingest' printed.")
    fileprivate static let keyUnknown = RoutingRefusal(
        status: 401, code: "unauthorized", message: "The API key is not known.",
        hint: "Send x-portkey-api-key with a key that 'millrace keys create --scopes ingest' printed; a new one works "
            + "within ten seconds.")
    fileprivate static let keyRevoked = RoutingRefusal(
        status: 401, code: "unauthorized", message: "The API key has been revoked.",
        hint: "Send another one in x-portkey-api-key; 'millrace keys create --scopes ingest' makes it.")
    fileprivate static let keyForbidden = RoutingRefusal(
        status: 403, code: "forbidden", message: "The API key has not the scope ingest.",
        hint: "Send a key that 'millrace keys create --scopes ingest' printed.")
    fileprivate static let keysUnavailable = RoutingRefusal(
        status: 503, code: "keys_unavailable", message: "The proxy could not read the API keys yet.",
        hint: "Try again; the proxy's /readyz says why.")

    /// Whether it is about who sends, not about what is sent.
    var isAboutAccess: Bool { status == 401 || status == 403 || code == Self.keysUnavailable.code }
}
