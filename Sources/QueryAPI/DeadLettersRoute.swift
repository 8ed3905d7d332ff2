// `/v1/dead-letters`: the store's dead letters, listed and shown. They concern the whole installation: scope admin.

import Access
import Cryptography
import Events
import HTTPTransport
package import JSONText
import Queries
import RecordLog
package import RollupStore

package enum DeadLetterRow {
    package static func members(_ letter: FiledDeadLetter) -> [JSONMember] {
        [
            JSONMember(key: "id", value: .string(letter.source.description)),
            JSONMember(key: "time", value: .string(RFC3339.precise(letter.time))),
            JSONMember(key: "code", value: .string(letter.code)),
            JSONMember(key: "reason", value: .string(letter.reason)),
            JSONMember(key: "key_size_bytes", value: JSONValue(letter.keySize)),
            JSONMember(key: "value_size_bytes", value: JSONValue(letter.valueSize)),
            JSONMember(key: "redriven", value: letter.redriven.map { .string(RFC3339.precise($0)) } ?? .null),
            JSONMember(key: "discarded", value: letter.discarded.map { .string(RFC3339.precise($0)) } ?? .null),
        ]
    }

    /// With its bytes, as they came: what rules hide, the proxy has hidden before it wrote them.
    package static func json(_ letter: FiledDeadLetter, key: [UInt8], value: [UInt8]) -> JSONValue {
        .object(
            members(letter) + [
                JSONMember(key: "key_hex", value: .string(hex(key))),
                JSONMember(key: "value_hex", value: .string(hex(value))),
                JSONMember(key: "value_text", value: .string(String(decoding: value, as: UTF8.self))),
            ])
    }

    package static func hex(_ bytes: [UInt8]) -> String {
        String(decoding: Hexadecimal.digits(bytes), as: UTF8.self)
    }
}

extension DeadLetterFilter {
    package static var codes: String { DeadLetter.Code.allCases.map(\.rawValue).joined(separator: ", ") }

    /// Whether there is such a code; if so, only such are chosen.
    package mutating func choose(code: String) -> Bool {
        guard DeadLetter.Code(rawValue: code) != nil else { return false }
        self.code = code
        return true
    }

    package mutating func choose(_ one: RecordSource) {
        topic = one.partition.topic
        partition = one.partition.partition
        offset = one.offset
    }

    /// Whether the text is `topic`, `topic/partition` or `topic/partition/offset`; if so, only such are chosen.
    package mutating func choose(place: String) -> Bool {
        let parts = place.split(separator: "/", omittingEmptySubsequences: false)
        let numbers = parts.dropFirst().map { Int64($0) ?? -1 }
        guard (1...3).contains(parts.count), !parts[0].isEmpty, numbers.allSatisfy({ $0 >= 0 }) else { return false }
        topic = String(parts[0])
        if let partition = numbers.first { self.partition = Int32(clamping: partition) }
        if numbers.count > 1 { offset = Offset(numbers[1]) }
        return true
    }
}

/// Sends dead letters to the log again, as they came, marks them and answers how many it took. It may block, and throws
/// `ChangeRefusal` or the store's errors.
package typealias Redrive = @Sendable ([RecordSource]) throws -> Int

/// Where a page of dead letters ended: the time of its last one, and how many of that time were given out.
private struct DeadLetterCursor {
    var time: EventTime
    var given: Int

    /// More of one time than a store files in a step.
    private static let most = 1_000_000

    init(time: EventTime, given: Int) {
        self.time = time
        self.given = given
    }

    init?(_ text: String) {
        let parts = text.split(separator: "-", omittingEmptySubsequences: false)
        guard parts.count == 2, let time = Int64(parts[0]), time < .max, let given = Int(parts[1]),
            (1...Self.most).contains(given)
        else { return nil }
        self.init(time: EventTime(microseconds: time), given: given)
    }

    var text: String { "\(time.microseconds)-\(given)" }
}

extension QueryService {
    func deadLetters(_ request: HTTPRequest) throws(APIError) -> HTTPResponse {
        _ = try caller(of: request, scope: .admin)
        var parameters = try Parameters(request)
        var filter = DeadLetterFilter()
        if let code = parameters.take("code"), !filter.choose(code: code) {
            throw APIError(
                422, "invalid_question", "code \"\(code)\" is none.", hint: "One of: \(DeadLetterFilter.codes).")
        }
        filter.from = try parameters.instant("from")
        filter.to = try parameters.instant("to")
        if let place = parameters.take("source"), !filter.choose(place: place) {
            throw APIError(
                422, "invalid_question", "source \"\(place)\" is not a place in the log.",
                hint: "topic, topic/partition or topic/partition/offset.")
        }
        let limit = try parameters.integer("limit", 1...1000) ?? 100
        let cursor = try parameters.take("cursor").map { (text) throws(APIError) in
            if let cursor = DeadLetterCursor(text) { return cursor }
            throw APIError(
                422, "invalid_question", "The cursor is not one that was given out.",
                hint: "Send next_cursor of the page before.")
        }
        try parameters.finish()
        let archive = try archive(request)
        if let cursor {
            let end = EventTime(microseconds: cursor.time.microseconds + 1)
            filter.to = filter.to.map { min($0, end) } ?? end
        }
        // One more than is sent says whether there are more.
        filter.limit = limit + (cursor?.given ?? 0) + 1
        let found: ArraySlice<FiledDeadLetter>
        do throws(RollupStoreError) {
            found = try archive.list(filter).dropFirst(cursor?.given ?? 0)
        } catch {
            throw APIError(QueryError(reading: error))
        }
        let page = found.prefix(limit)
        var next: DeadLetterCursor?
        if found.count > limit, let last = page.last {
            let same = page.reversed().prefix { $0.time == last.time }.count
            let before = cursor.map { $0.time == last.time ? $0.given : 0 } ?? 0
            next = DeadLetterCursor(time: last.time, given: before + same)
        }
        let answer: JSONValue = [
            "data": .array(page.map { .object(DeadLetterRow.members($0)) }),
            "next_cursor": next.map { .string($0.text) } ?? .null,
        ]
        return .json(200, answer.text)
    }

    func deadLetter(_ request: HTTPRequest, _ text: String) throws(APIError) -> HTTPResponse {
        _ = try caller(of: request, scope: .admin)
        try Parameters(request).finish()
        let archive = try archive(request)
        guard let name = Parameters.decoded(text[...], plusIsBlank: false), let source = RecordSource(name) else {
            throw APIError(
                404, "not_found", "\"\(text.prefix(200))\" is not the id of a dead letter.",
                hint: "Ids are topic/partition/offset, such as millrace.request-events.v1/3/1042.")
        }
        do throws(RollupStoreError) {
            if let (letter, key, value) = try archive.find(source) {
                return .json(200, DeadLetterRow.json(letter, key: key, value: value).text)
            }
        } catch {
            throw APIError(QueryError(reading: error))
        }
        throw APIError(
            404, "not_found", "There is no dead letter \(source).", hint: "GET /v1/dead-letters lists them.")
    }

    func archive(_ request: HTTPRequest) throws(APIError) -> any DeadLetterArchive {
        if let deadLetters { return deadLetters }
        throw APIError(nothingAt: request)
    }
}
