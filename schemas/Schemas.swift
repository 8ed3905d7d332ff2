// The files of this folder, embedded in the program at build: each exists once.

/// Contract texts and data as they stand in `schemas/`.
package enum Schemas {
    /// `request_event.proto`: the value of a record on the topic.
    package static var requestEventProto: String { text(PackageResources.request_event_proto) }
    /// `sqlite.sql` and what was added since: step n leads from version n to n + 1 of the embedded store's tables.
    package static var sqlite: [String] {
        [
            text(PackageResources.sqlite_sql), text(PackageResources.sqlite_2_keys_sql),
            text(PackageResources.sqlite_3_redriven_sql), text(PackageResources.sqlite_4_reconciliation_sql),
            text(PackageResources.sqlite_5_rules_sql), text(PackageResources.sqlite_6_replay_sql),
            text(PackageResources.sqlite_7_days_sql), text(PackageResources.sqlite_8_entities_sql),
            text(PackageResources.sqlite_9_pairs_sql), text(PackageResources.sqlite_10_log_sql),
            text(PackageResources.sqlite_11_workspace_sql),
        ]
    }
    /// The same for the store on a PostgreSQL server: `postgresql.sql` and its steps.
    package static var postgresql: [String] {
        [
            text(PackageResources.postgresql_sql), text(PackageResources.postgresql_2_redriven_sql),
            text(PackageResources.postgresql_3_reconciliation_sql), text(PackageResources.postgresql_4_rules_sql),
            text(PackageResources.postgresql_5_replay_sql), text(PackageResources.postgresql_6_entities_sql),
            text(PackageResources.postgresql_7_pairs_sql), text(PackageResources.postgresql_8_log_sql),
            text(PackageResources.postgresql_9_workspace_sql),
        ]
    }
    /// `clickhouse.sql`: the tables of the ClickHouse store.
    package static var clickhouse: String { text(PackageResources.clickhouse_sql) }
    /// JSON Schema of the configuration file.
    package static var configuration: String { text(PackageResources.configuration_schema_json) }
    /// JSON Schema of the normalization rules.
    package static var rules: String { text(PackageResources.rules_schema_json) }
    /// The OpenAPI document of the API, bytes as served.
    package static var openapi: [UInt8] { PackageResources.openapi_json }
    /// The built-in price table, as `PriceTable` reads it.
    package static var prices: [UInt8] { PackageResources.prices_json }

    private static func text(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }
}
