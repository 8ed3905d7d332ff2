// The files of `schemas/`, which the program carries: each exists once.

package import CEmbedded

/// Contract texts and data as they stand in `schemas/`.
package enum Schemas {
    /// `request_event.proto`: the value of a record on the topic.
    package static var requestEventProto: String { text(millrace_request_event_proto()) }
    /// `sqlite.sql` and what was added since: step n leads from version n to n + 1 of the embedded store's tables.
    package static var sqlite: [String] {
        [
            text(millrace_sqlite_sql()), text(millrace_sqlite_2_keys_sql()),
            text(millrace_sqlite_3_redriven_sql()), text(millrace_sqlite_4_reconciliation_sql()),
            text(millrace_sqlite_5_rules_sql()), text(millrace_sqlite_6_replay_sql()),
            text(millrace_sqlite_7_days_sql()), text(millrace_sqlite_8_entities_sql()),
            text(millrace_sqlite_9_pairs_sql()), text(millrace_sqlite_10_log_sql()),
            text(millrace_sqlite_11_workspace_sql()),
        ]
    }
    /// The same for the store on a PostgreSQL server: `postgresql.sql` and its steps.
    package static var postgresql: [String] {
        [
            text(millrace_postgresql_sql()), text(millrace_postgresql_2_redriven_sql()),
            text(millrace_postgresql_3_reconciliation_sql()), text(millrace_postgresql_4_rules_sql()),
            text(millrace_postgresql_5_replay_sql()), text(millrace_postgresql_6_entities_sql()),
            text(millrace_postgresql_7_pairs_sql()), text(millrace_postgresql_8_log_sql()),
            text(millrace_postgresql_9_workspace_sql()),
        ]
    }
    /// `clickhouse.sql`: the tables of the ClickHouse store.
    package static var clickhouse: String { text(millrace_clickhouse_sql()) }
    /// JSON Schema of the configuration file.
    package static var configuration: String { text(millrace_configuration_schema_json()) }
    /// JSON Schema of the normalization rules.
    package static var rules: String { text(millrace_rules_schema_json()) }
    /// The OpenAPI document of the API, bytes as served.
    package static var openapi: [UInt8] { millrace_openapi_json().bytes }
    /// The built-in price table, as `PriceTable` reads it.
    package static var prices: [UInt8] { millrace_prices_json().bytes }

    private static func text(_ file: millrace_file) -> String { String(decoding: file.bytes, as: UTF8.self) }
}

extension millrace_file {
    package var bytes: [UInt8] { Array(UnsafeBufferPointer(start: start, count: size)) }
}
