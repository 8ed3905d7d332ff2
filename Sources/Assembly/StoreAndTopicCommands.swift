// `migrate` and `topics ensure`: what a role does by itself at its start, as commands.

import CommandLine
import Configuration
import JSONText
import RecordLogKafka
import RollupStoreSQLite
import Telemetry

enum StoreAndTopicCommands {
    static func migrate(_ invocation: Invocation) throws -> Int32 {
        let configuration = try invocation.configuration()
        let store = try Preparation.openStore(configuration, readers: 1)
        let answer: JSONValue = ["store": .string(store.name)]
        try Terminal.write(
            invocation.flag("json") ? answer.text + "\n" : "\(store.name) has the tables that this program uses\n")
        return 0
    }

    static func backUp(_ invocation: Invocation) throws -> Int32 {
        let configuration = try invocation.configuration()
        guard case .sqlite(let path) = configuration.store else {
            throw Failure(
                "Only a SQLite store is backed up by this command. A server has its own: pg_dump for PostgreSQL, BACKUP "
                    + "for ClickHouse; both see one state of the store.")
        }
        guard case .sqlite(let store) = try Preparation.openExistingStore(configuration) else { return 1 }
        let target = invocation.arguments[0]
        let size = try store.backUp(to: target)
        let answer: JSONValue = ["file": .string(target), "bytes": JSONValue(size)]
        try Terminal.write(
            invocation.flag("json")
                ? answer.text + "\n"
                : "\(target): \(size) bytes, one state of the store. To restore, stop the roles and put it in place of "
                    + "\(path).\n")
        return 0
    }

    static func ensureTopics(_ invocation: Invocation) throws -> Int32 {
        let kafka = try invocation.configuration().log.kafka
        let reports = try KafkaAdmin.ensureTopics(
            kafka.options, deadLetterTopic: kafka.deadLetterTopic, log: Log(role: "topics"), metrics: KafkaMetrics())
        if invocation.flag("json") {
            let rows = reports.map { report -> JSONValue in
                [
                    "topic": .string(report.topic), "outcome": .string(report.outcome.rawValue),
                    "partitions": JSONValue(report.partitions),
                    "warning": report.warning.map { .string($0) } ?? .null,
                ]
            }
            try Terminal.write(JSONValue.array(rows).text + "\n")
        } else {
            for report in reports {
                let done = report.outcome == .created ? "created" : "is there"
                try Terminal.write("\(report.topic): \(done), \(report.partitions) partitions\n")
                if let warning = report.warning { Terminal.complain(warning) }
            }
        }
        return 0
    }
}
