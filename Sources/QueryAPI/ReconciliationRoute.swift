// `GET /v1/reconciliation`: from, to -> a row a proxy and minute. It concerns the whole installation: scope admin.

import Access
import Events
import HTTPTransport
import JSONText
import Queries
import RollupStore

extension QueryService {
    func reconciliation(_ request: HTTPRequest) throws(APIError) -> HTTPResponse {
        _ = try caller(of: request, scope: .admin)
        var parameters = try Parameters(request)
        let now = now()
        let from = try parameters.instant("from")
        let to = try parameters.instant("to")
        try parameters.finish()
        guard let reconcile else {
            throw APIError(
                404, "not_found", "There is nothing at \(request.path).", hint: "/openapi.json lists what there is.")
        }
        let range = try Self.minutes(from: from, to: to, now: now)
        do {
            return .json(200, try reconcile(range.from, range.to).text)
        } catch {
            throw APIError(QueryError(reading: error))
        }
    }

    /// Without an end: up to the running minute, and a day of clocks that run ahead. Without a begin: a day.
    private static func minutes(
        from: EventTime?, to: EventTime?, now: EventTime
    ) throws(APIError) -> (from: EventTime, to: EventTime) {
        let day: Int64 = 86_400_000_000
        let to = to ?? EventTime(microseconds: now.microseconds + day)
        let from = from ?? EventTime(microseconds: min(now.microseconds, to.microseconds) - day)
        guard from < to else {
            throw APIError(422, "invalid_question", "from does not lie before to.", hint: "to is not included.")
        }
        return (from.startOfMinute, to)
    }
}
