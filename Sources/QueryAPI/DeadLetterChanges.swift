// `POST /v1/dead-letters/redrive` and `/discard`: a choice of dead letters -> the log again, or a mark.

import Events
import HTTPTransport
import JSONText
import Queries
import RecordLog
import RollupStore

/// Which dead letters a request is about: one, or those that the filter chooses; never all of them by omission.
private struct LetterChoice {
    var one: RecordSource?
    var filter = DeadLetterFilter()
    var isAll = false
    var isAgain = false
    /// In one request; the rest is asked for again.
    var limit = LetterChoice.limits.upperBound

    /// What the log takes within a request's time, and whose ids make an answer of less than a megabyte.
    static let limits: ClosedRange<Int64> = 1...10_000
    static let parts = "id, code, from, to, source, all, limit"

    /// - `again`: whether `again` is a part of it.
    init(ofBody body: [UInt8], again: Bool) throws(APIError) {
        var faults: [String] = []
        for member in try QueryService.members(ofBody: body, example: #"{"code": "undecodable"}"#)
        where !member.value.isNull {
            let value = member.value
            switch member.key {
            case "id":
                one = value.string.flatMap { RecordSource($0) }
                if one == nil { faults.append("id is not topic/partition/offset.") }
            case "code":
                guard value.string.map({ filter.choose(code: $0) }) != true else { break }
                faults.append("code is none of \(DeadLetterFilter.codes).")
            case "source":
                guard value.string.map({ filter.choose(place: $0) }) != true else { break }
                faults.append("source is not topic, topic/partition or topic/partition/offset.")
            case "from", "to":
                let time = value.string.flatMap { RFC3339.parse($0) }
                if time == nil { faults.append("\(member.key) is not an RFC 3339 time.") }
                if member.key == "from" { filter.from = time } else { filter.to = time }
            case "all": isAll = Self.flag(member, &faults)
            case "again" where again: isAgain = Self.flag(member, &faults)
            case "limit":
                guard let number = value.integer, Self.limits.contains(number) else {
                    faults.append(
                        "limit is not an integer from \(Self.limits.lowerBound) to \(Self.limits.upperBound).")
                    break
                }
                limit = number
            default: faults.append("\"\(member.key)\" is not taken here.")
            }
        }
        if faults.isEmpty {
            if one != nil, filter != DeadLetterFilter() || isAll {
                faults.append("id chooses one record, and the other parts choose others: send one of them.")
            } else if one == nil, filter == DeadLetterFilter(), !isAll {
                faults.append("Nothing chooses which: send id, a filter such as code, or all.")
            }
        }
        guard faults.isEmpty else {
            throw APIError(
                422, "invalid_choice", faults.joined(separator: " "),
                hint: "Parts: \(Self.parts)\(again ? ", again" : "").")
        }
        if let one { filter.choose(one) }
        if !isAgain { filter.isMarked = false }
        // One more says whether there are more.
        filter.limit = Int(limit) + 1
    }

    private static func flag(_ member: JSONMember, _ faults: inout [String]) -> Bool {
        if let flag = member.value.boolean { return flag }
        faults.append("\(member.key) is not a boolean.")
        return false
    }

    var text: String {
        if let one { return one.description }
        let place = [filter.topic, filter.partition.map { "\($0)" }, filter.offset.map { "\($0.value)" }]
        let words = [
            filter.code.map { "code \($0)" }, filter.from.map { "from \(RFC3339.precise($0))" },
            filter.to.map { "to \(RFC3339.precise($0))" },
            filter.topic == nil ? nil : "source \(place.compactMap { $0 }.joined(separator: "/"))",
            isAll ? "all" : nil, isAgain ? "again" : nil,
        ]
        return words.compactMap { $0 }.joined(separator: ", ")
    }
}

extension QueryService {
    /// In the log first, marked then: where this ends in between, the next request sends them again, which counts
    /// nothing twice.
    func redriveDeadLetters(_ request: HTTPRequest, _ requestID: String) throws(APIError) -> HTTPResponse {
        try changeLetters(request, "redrive", "redriven", requestID) { (_, chosen) throws(APIError) in
            guard let redrive else { throw APIError(nothingAt: request) }
            guard !chosen.isEmpty else { return }
            let taken = try asking { try redrive(chosen) }
            if taken < chosen.count {
                throw APIError(
                    503, "log_unavailable",
                    "The log took \(taken) of \(chosen.count) records; they are marked.",
                    hint: "Send the same request again for the rest.")
            }
        }
    }

    func discardDeadLetters(_ request: HTTPRequest, _ requestID: String) throws(APIError) -> HTTPResponse {
        try changeLetters(request, "discard", "discarded", requestID) { (archive, chosen) throws(APIError) in
            try asking { try archive.markDiscarded(chosen, at: now()) }
        }
    }

    /// - `body`: gets the chosen, oldest first: the order in which they came.
    private func changeLetters(
        _ request: HTTPRequest, _ action: String, _ done: String, _ requestID: String,
        _ body: (any DeadLetterArchive, [RecordSource]) throws(APIError) -> Void
    ) throws(APIError) -> HTTPResponse {
        try audited(request, "dead_letters_\(action)", nil, requestID) { (note) throws(APIError) in
            let archive = try archive(request)
            let choice = try LetterChoice(ofBody: request.body, again: action == "redrive")
            note.detail = choice.text
            let found = try asking { () throws -> [RecordSource] in
                if let one = choice.one, try archive.find(one) == nil {
                    throw ChangeRefusal(
                        .unknown, "There is no dead letter \(one).", hint: "GET /v1/dead-letters lists them.")
                }
                return try archive.list(choice.filter).map(\.source)
            }
            let chosen = Array(found.prefix(Int(choice.limit)).reversed())
            try body(archive, chosen)
            note.detail += ": \(chosen.count) \(done)"
            let answer: [JSONMember] = [
                JSONMember(key: done, value: JSONValue(chosen.count)),
                JSONMember(key: "ids", value: .array(chosen.map { .string($0.description) })),
                JSONMember(key: "more", value: .boolean(found.count > chosen.count)),
            ]
            return .json(200, JSONValue.object(answer).text)
        }
    }
}
