// `millrace query`: words → question → answer of an API or of the store → table, JSON or CSV.

import CommandLine
import Configuration
import Events
import JSONText
import Queries
import QueryAPI

enum QueryCommand {
    static func run(_ invocation: Invocation) throws -> Int32 {
        if invocation.flag("json"), invocation.flag("csv") {
            throw UsageError("--json and --csv exclude each other", hint: "give one of them")
        }
        var input = QuestionInput()
        input.filter = invocation.arguments.first
        input.from = invocation.text("from")
        input.to = invocation.text("to")
        input.granularity = invocation.text("granularity")
        input.timezone = invocation.text("timezone")
        input.groupBy = names(invocation.all("group-by"))
        let measures = names(invocation.all("measure"))
        input.measures = measures.isEmpty ? ["requests", "error_rate", "cost_usd", "latency_ms.p95"] : measures
        input.orderBy = invocation.text("order-by")
        input.limit = try invocation.integer("limit", in: 1...QueryLimits.limit)
        let pause = try invocation.integer("watch", in: 1...86_400)
        let source = try AnswerSource(invocation)
        if pause == nil { Signals.unblock() }
        while true {
            let answer = try source.ask(input, explains: invocation.flag("explain"))
            if invocation.flag("explain"), let explanation = answer["explain"] {
                Terminal.complain("how the answer was found: \(explanation.text)")
            }
            let goesOn = try show(answer, invocation, again: pause != nil)
            guard let pause, goesOn, !Signals.wait(milliseconds: pause * 1000) else { return 0 }
        }
    }

    private static func show(_ answer: JSONValue, _ invocation: Invocation, again: Bool) throws -> Bool {
        if invocation.flag("json") { return try Terminal.write(answer.text + "\n") }
        let table = AnswerTable(answer)
        if invocation.flag("csv") { return try Terminal.write(table.csv) }
        // On a terminal each answer takes the place of the one before.
        let clear = again && Terminal.isInteractive ? "\u{1B}[H\u{1B}[2J" : ""
        return try Terminal.write(clear + table.aligned)
    }

    /// Commas part the names, but not within quotes.
    private static func names(_ given: [String]) -> [String] {
        given.flatMap { Parameters.names($0) }.map { String($0.drop { $0 == " " }) }
    }
}
