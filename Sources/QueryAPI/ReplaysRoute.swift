// `GET /v1/replays`: which parts of the past were, or are being, rebuilt. It concerns the whole installation: scope admin.

import Access
import Events
import HTTPTransport
package import JSONText
import Queries
package import RollupStore

package enum ReplayRow {
    package static func json(_ replay: StoredReplay) -> JSONValue {
        [
            "id": JSONValue(replay.id), "state": .string(replay.state.rawValue),
            "from": .string(RFC3339.precise(replay.plan.from)), "to": .string(RFC3339.precise(replay.plan.to)),
            "source": replay.log == nil ? "events" : "log",
            "rules": replay.plan.rules.map { .string($0.fingerprint) } ?? .null,
            "progress": MeasureValue.number(progress(of: replay)).json,
        ]
    }

    /// From 0 to 1.
    package static func progress(of replay: StoredReplay) -> Double {
        if replay.isScanned { return 1 }
        return replay.total == 0 ? 0 : min(0.999, Double(replay.scanned) / Double(replay.total))
    }
}

extension QueryService {
    func replays(_ request: HTTPRequest) throws(APIError) -> HTTPResponse {
        _ = try workspace(of: request, scope: .admin)
        try Parameters(request).finish()
        guard let listReplays else {
            throw APIError(
                404, "not_found", "There is nothing at \(request.path).", hint: "/openapi.json lists what there is.")
        }
        do {
            let answer: JSONValue = ["data": .array(try listReplays().map(ReplayRow.json))]
            return .json(200, answer.text)
        } catch {
            throw APIError(QueryError(reading: error))
        }
    }
}
