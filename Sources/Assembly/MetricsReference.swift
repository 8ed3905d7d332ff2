// Every metric, by the role that shows it: `metrics reference`. The declarations are those that the roles register;
// a test holds each role's /metrics to this.

import CommandLine
import Ingest
import JSONText
import RollupStore
import Telemetry

enum MetricsReference {
    /// As the roles show them with Kafka as the log and a certificate on every listener.
    static var roles: [(role: String, metrics: [Metric])] {
        let consumer = ConsumerMetrics(
            deadLetterCodes: DeadLetter.Code.allCases.map(\.rawValue), lateAges: LateAge.allCases.map(\.label))
        let kafka = KafkaMetrics()
        return [
            (
                "proxy",
                [Build.metric(role: "proxy")] + JournalMetrics().all + ShippingMetrics().all + kafka.all
                    + ProxyMetrics().all + CertificateMetrics(listener: "proxy.listen").all + RulesMetrics().all
            ),
            (
                "consumer",
                [Build.metric(role: "consumer")] + consumer.all + RulesMetrics().all + kafka.all
                    + CertificateMetrics(listener: "consumer.ops_listen").all
            ),
            (
                "api",
                [Build.metric(role: "api")] + APIMetrics().all + kafka.all
                    + ReconciliationMetrics { (0, 0) }.all + ReplayMetrics { [] }.all
                    + CertificateMetrics(listener: "api.listen").all
            ),
        ]
    }

    private struct Row {
        var name: String
        var type: String
        var labels: [String]
        var help: String
        var roles: [String]
    }

    /// One row a name, in the order of the roles.
    private static var rows: [Row] {
        var rows: [Row] = []
        for (role, metrics) in roles {
            for metric in metrics {
                if let known = rows.firstIndex(where: { $0.name == metric.name }) {
                    if rows[known].roles.last != role { rows[known].roles.append(role) }
                } else {
                    rows.append(
                        Row(
                            name: metric.name, type: metric.source.type,
                            labels: metric.labels.map(\.0) + metric.rowLabels, help: metric.help, roles: [role]))
                }
            }
        }
        return rows
    }

    static func run(_ invocation: Invocation) throws -> Int32 {
        try Terminal.write(invocation.flag("json") ? json.text + "\n" : markdown)
        return 0
    }

    private static var markdown: String {
        var out = "| metric | type | labels | roles | what it says |\n| --- | --- | --- | --- | --- |\n"
        for row in rows {
            let labels = row.labels.map { "`\($0)`" }.joined(separator: ", ")
            let roles = row.roles.joined(separator: ", ")
            out += "| `\(row.name)` | \(row.type) | \(labels) | \(roles) | \(row.help) |\n"
        }
        return out
    }

    /// `[{ "name", "type", "labels", "roles", "help" }]`.
    private static var json: JSONValue {
        .array(
            rows.map { row in
                [
                    "name": .string(row.name), "type": .string(row.type),
                    "labels": .array(row.labels.map { .string($0) }),
                    "roles": .array(row.roles.map { .string($0) }), "help": .string(row.help),
                ]
            })
    }
}
