// `dead-letters list|show|redrive|discard`: the store's dead letters → a table or JSON; → the log again; → marks.

import CommandLine
import Configuration
import Events
import JSONText
import QueryAPI
import RecordLog
import RollupStore
import Telemetry

enum DeadLetterCommands {
    static func list(_ invocation: Invocation) throws -> Int32 {
        var filter = try filter(invocation)
        filter.limit = try invocation.integer("limit", in: 1...1_000_000) ?? 100
        let letters = try archive(try invocation.configuration()).list(filter)
        if invocation.flag("json") {
            try Terminal.write(JSONValue.array(letters.map { .object(DeadLetterRow.members($0)) }).text + "\n")
        } else if letters.isEmpty {
            try Terminal.write("No dead letters.\n")
        } else {
            let rows = letters.map { letter in
                [
                    letter.source.description, RFC3339.precise(letter.time), letter.code, "\(letter.valueSize)",
                    letter.redriven.map { RFC3339.precise($0) } ?? "-",
                    letter.discarded.map { RFC3339.precise($0) } ?? "-", letter.reason,
                ]
            }
            try Terminal.write(table(["id", "filed", "code", "size_bytes", "redriven", "discarded", "reason"], rows))
        }
        return 0
    }

    static func show(_ invocation: Invocation) throws -> Int32 {
        let source = try source(invocation.arguments[0])
        guard let (letter, key, value) = try archive(try invocation.configuration()).find(source) else {
            throw Failure("There is no dead letter \(source). See 'millrace dead-letters list'.")
        }
        if invocation.flag("json") {
            try Terminal.write(DeadLetterRow.json(letter, key: key, value: value).text + "\n")
        } else {
            var out =
                "id        \(letter.source)\nfiled     \(RFC3339.precise(letter.time))\ncode      \(letter.code)\n"
            out += "reason    \(letter.reason)\n"
            out += "redriven  \(letter.redriven.map { RFC3339.precise($0) } ?? "no")\n"
            out += "discarded \(letter.discarded.map { RFC3339.precise($0) } ?? "no")\n\n"
            out += "key, \(key.count) bytes\n\(dump(key))\nvalue, \(value.count) bytes\n\(dump(value))"
            try Terminal.write(out)
        }
        return 0
    }

    static func redrive(_ invocation: Invocation) throws -> Int32 {
        let configuration = try invocation.configuration()
        let archive = try archive(configuration)
        var filter = try chosen(invocation, archive, to: "redrive")
        if !invocation.flag("again") { filter.isMarked = false }
        // Oldest first: the order in which they came.
        let letters = try Array(archive.list(filter).reversed())
        if !letters.isEmpty { try send(letters, archive, configuration) }
        try tell("redriven", letters, invocation)
        return 0
    }

    static func discard(_ invocation: Invocation) throws -> Int32 {
        let archive = try archive(try invocation.configuration())
        var filter = try chosen(invocation, archive, to: "discard")
        filter.isMarked = false
        let letters = try Array(archive.list(filter).reversed())
        try archive.markDiscarded(letters.map(\.source), at: SystemFacts.now())
        try tell("discarded", letters, invocation)
        return 0
    }

    private static func tell(_ done: String, _ letters: [FiledDeadLetter], _ invocation: Invocation) throws {
        if !invocation.flag("json") {
            try Terminal.write("\(letters.count) \(done)\n")
            return
        }
        let ids = letters.map { JSONValue.string($0.source.description) }
        let answer = [
            JSONMember(key: done, value: JSONValue(letters.count)), JSONMember(key: "ids", value: .array(ids)),
        ]
        try Terminal.write(JSONValue.object(answer).text + "\n")
    }

    /// The one that is named, or those that the options choose; never all of them by omission.
    private static func chosen(
        _ invocation: Invocation, _ archive: any DeadLetterArchive, to what: String
    ) throws -> DeadLetterFilter {
        var filter = try filter(invocation)
        if let id = invocation.arguments.first {
            guard filter == DeadLetterFilter(), !invocation.flag("all") else {
                throw UsageError("an ID chooses one record, and the options choose others", hint: "give one of them")
            }
            let one = try source(id)
            guard try archive.find(one) != nil else {
                throw Failure("There is no dead letter \(one). See 'millrace dead-letters list'.")
            }
            filter.choose(one)
        } else if filter == DeadLetterFilter(), !invocation.flag("all") {
            throw UsageError("nothing chooses what to \(what)", hint: "give an ID, a filter such as --code, or --all")
        }
        return filter
    }

    private static func send(
        _ letters: [FiledDeadLetter], _ archive: any DeadLetterArchive, _ configuration: MillraceConfiguration
    ) throws {
        let running = Running(role: "dead-letters")
        Signals.watch(running.stop, Reloads(), running.log)
        let sink = try LogSink(configuration, stop: running.stop, log: running.log)
        let sent = try Redriving.send(letters.map(\.source), from: archive, to: sink)
        if sent < letters.count {
            throw Failure(
                "The log took \(sent) of \(letters.count) records; they are marked. Run the same command again "
                    + "for the rest.")
        }
    }

    // MARK: What is asked for

    private static func archive(_ configuration: MillraceConfiguration) throws -> any DeadLetterArchive {
        try Preparation.openExistingStore(configuration).deadLetters
    }

    private static func source(_ text: String) throws(UsageError) -> RecordSource {
        guard let source = RecordSource(text) else {
            throw UsageError("\(text): not the id of a dead letter", hint: "such as millrace.request-events.v1/3/1042")
        }
        return source
    }

    private static func filter(_ invocation: Invocation) throws(UsageError) -> DeadLetterFilter {
        var filter = DeadLetterFilter()
        if let code = invocation.text("code"), !filter.choose(code: code) {
            throw UsageError("--code \(code): no such code", hint: "one of: \(DeadLetterFilter.codes)")
        }
        filter.from = try invocation.time("from")
        filter.to = try invocation.time("to")
        if let place = invocation.text("source"), !filter.choose(place: place) {
            throw UsageError(
                "--source \(place): not a place in the log", hint: "topic, topic/partition or topic/partition/offset")
        }
        return filter
    }

    // MARK: What is shown

    /// Columns two blanks apart; the last one as long as it is.
    private static func table(_ heads: [String], _ rows: [[String]]) -> String {
        let widths = heads.indices.map { column in ([heads] + rows).map { $0[column].count }.max() ?? 0 }
        return ([heads] + rows).map { row in
            row.enumerated().map { column, cell in
                column == row.count - 1 ? cell : cell + String(repeating: " ", count: widths[column] - cell.count)
            }.joined(separator: "  ") + "\n"
        }.joined()
    }

    /// Sixteen bytes a line: offset, hex, and as text where they print.
    private static func dump(_ bytes: [UInt8]) -> String {
        stride(from: 0, to: bytes.count, by: 16).map { start in
            let line = Array(bytes[start..<min(start + 16, bytes.count)])
            let place = DeadLetterRow.hex([
                UInt8(truncatingIfNeeded: start >> 16), UInt8(truncatingIfNeeded: start >> 8),
                UInt8(truncatingIfNeeded: start),
            ])
            let pairs = line.map { DeadLetterRow.hex([$0]) }.joined(separator: " ")
            let blank = String(repeating: " ", count: 47 - pairs.count)
            let shown = String(
                decoding: line.map { (0x20..<0x7F).contains($0) ? $0 : UInt8(ascii: ".") }, as: UTF8.self)
            return "\(place)  \(pairs)\(blank)  \(shown)\n"
        }.joined()
    }
}
