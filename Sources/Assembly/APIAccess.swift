// Who asks the API: x-portkey-api-key or Authorization: Bearer -> workspace and scopes.

import Access
import HTTPTransport
import KeyKeeping
import QueryAPI

struct APIAccess: Sendable {
    /// nil: open, any key or none is taken.
    let keeper: KeyKeeper?

    func decide(_ request: HTTPRequest) -> AuthDecision {
        guard let keeper else { return .allowed(workspace: Preparation.openWorkspace) }
        let key = Self.key(of: request)
        guard let finding = keeper.find(key) else {
            return .unavailable(reason: keeper.problem?.reason ?? "the API keys are not known yet")
        }
        switch finding {
        case .known(let entry): return .allowed(workspace: entry.workspace, scopes: entry.scopes, key: entry.id)
        case .revoked: return .unauthorized(reason: "The API key has been revoked.")
        case .unknown: return key.isEmpty ? .unauthorized() : .unauthorized(reason: "The API key is not known.")
        }
    }

    /// Empty where none came.
    private static func key(of request: HTTPRequest) -> String {
        if let key = request.header("x-portkey-api-key"), !key.isEmpty { return key }
        guard let value = request.header("authorization") else { return "" }
        let words = value.split(separator: " ", omittingEmptySubsequences: true)
        guard words.count == 2, words[0].lowercased() == "bearer" else { return "" }
        return String(words[1])
    }
}
