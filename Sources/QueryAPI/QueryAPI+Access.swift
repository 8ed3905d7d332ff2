// Whose question it is: the request's key -> its workspace, or a refusal.

import Access
import HTTPTransport

/// Who asks.
struct Caller {
    var workspace: String
    /// The id of the API key; empty where nobody is asked for one.
    var key: String
}

extension QueryService {
    /// The workspace that the request's key may ask about.
    func workspace(of request: HTTPRequest) throws(APIError) -> String { try caller(of: request).workspace }

    /// - `scope`: what the route needs.
    func caller(of request: HTTPRequest, scope: AccessScopes = .query) throws(APIError) -> Caller {
        switch authenticate(request) {
        case .allowed(let workspace, let scopes, let key):
            guard scopes.contains(scope) else {
                throw APIError(
                    403, "forbidden", "This API key has not the scope \(scope.text).",
                    hint: "Use a key that 'millrace keys create --scopes \(scope.text)' made.")
            }
            return Caller(workspace: workspace, key: key)
        case .unauthorized(let reason):
            throw APIError(
                401, "unauthorized", reason,
                hint: "Send \"Authorization: Bearer mr_…\"; 'millrace keys create --scopes \(scope.text)' makes a key.")
        case .unavailable(let reason): throw APIError(503, "keys_unavailable", reason, hint: "Try again soon.")
        }
    }
}
