// Whose question it is: the request's key -> its workspace, or a refusal.

import Access
import HTTPTransport

extension QueryService {
    /// The workspace that the request's key may ask about. `scope` is what the route needs.
    func workspace(of request: HTTPRequest, scope: AccessScopes = .query) throws(APIError) -> String {
        switch authenticate(request) {
        case .allowed(let workspace, let scopes):
            guard scopes.contains(scope) else {
                throw APIError(
                    403, "forbidden", "This API key has not the scope \(scope.text).",
                    hint: "Use a key that 'millrace keys create --scopes \(scope.text)' made.")
            }
            return workspace
        case .unauthorized(let reason):
            throw APIError(
                401, "unauthorized", reason,
                hint: "Send \"Authorization: Bearer mr_…\"; 'millrace keys create --scopes \(scope.text)' makes a key.")
        case .unavailable(let reason): throw APIError(503, "keys_unavailable", reason, hint: "Try again soon.")
        }
    }
}
