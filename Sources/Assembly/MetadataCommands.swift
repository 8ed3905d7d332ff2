// `metadata keys`: which keys there are, what class each has, since when and why.

import CommandLine
import Events
import JSONText
import QueryAPI

enum MetadataCommands {
    static func keys(_ invocation: Invocation) throws -> Int32 {
        let to = try invocation.time("to") ?? SystemFacts.now()
        let from = try invocation.time("from") ?? EventTime(microseconds: to.microseconds - 86_400_000_000)
        let answer = try AnswerSource(invocation).metadataKeys(from: from, to: to)
        if invocation.flag("json") {
            try Terminal.write(answer.text + "\n")
            return 0
        }
        let rows = (answer["data"]?.array ?? []).map { key in
            func text(_ name: String) -> String { key[name]?.string ?? "" }
            let atLeast = key["exact"]?.boolean == false ? "≥ " : ""
            let tenths = ((key["share"]?.double ?? 0) * 1_000).rounded() / 10
            return [
                text("key"), text("class"), key["since"]?.string ?? "always", text("first_seen"), text("last_seen"),
                atLeast + (key["distinct"]?.text ?? ""), atLeast + (key["requests"]?.text ?? ""),
                key["filed_under_other"]?.text ?? "", "\(tenths) %", text("reason"),
            ]
        }
        let heads = [
            "key", "class", "since", "first seen", "last seen", "values", "requests", "(other)", "share", "why",
        ]
        try Terminal.write(TextTable(heads: heads, rows).text)
        for gap in answer["missing"]?.array ?? [] {
            func text(_ name: String) -> String { gap[name]?.string ?? "" }
            let keys = gap["keys"]?.array?.compactMap(\.string).joined(separator: ", ") ?? "all keys"
            try Terminal.write("not counted: \(keys), from \(text("from")) to \(text("to")): \(text("reason"))\n")
        }
        return 0
    }
}
