#pragma once

#include <stddef.h>

// Lives as long as the program; nothing ends it but its size.
typedef struct {
    const unsigned char *start;
    size_t size;
} millrace_file;

// schemas/: contract texts and data.
millrace_file millrace_request_event_proto(void);
millrace_file millrace_sqlite_sql(void);
millrace_file millrace_sqlite_2_keys_sql(void);
millrace_file millrace_sqlite_3_redriven_sql(void);
millrace_file millrace_sqlite_4_reconciliation_sql(void);
millrace_file millrace_sqlite_5_rules_sql(void);
millrace_file millrace_sqlite_6_replay_sql(void);
millrace_file millrace_sqlite_7_days_sql(void);
millrace_file millrace_sqlite_8_entities_sql(void);
millrace_file millrace_sqlite_9_pairs_sql(void);
millrace_file millrace_sqlite_10_log_sql(void);
millrace_file millrace_sqlite_11_workspace_sql(void);
millrace_file millrace_postgresql_sql(void);
millrace_file millrace_postgresql_2_redriven_sql(void);
millrace_file millrace_postgresql_3_reconciliation_sql(void);
millrace_file millrace_postgresql_4_rules_sql(void);
millrace_file millrace_postgresql_5_replay_sql(void);
millrace_file millrace_postgresql_6_entities_sql(void);
millrace_file millrace_postgresql_7_pairs_sql(void);
millrace_file millrace_postgresql_8_log_sql(void);
millrace_file millrace_postgresql_9_workspace_sql(void);
millrace_file millrace_clickhouse_sql(void);
millrace_file millrace_configuration_schema_json(void);
millrace_file millrace_rules_schema_json(void);
millrace_file millrace_openapi_json(void);
millrace_file millrace_prices_json(void);

// The page of the API.
millrace_file millrace_index_html(void);
millrace_file millrace_style_css(void);
millrace_file millrace_app_js(void);
millrace_file millrace_base_js(void);
millrace_file millrace_filter_js(void);
millrace_file millrace_letters_js(void);
millrace_file millrace_overview_js(void);
millrace_file millrace_replays_js(void);
millrace_file millrace_views_js(void);

// Its charts: Debian's libjs-dygraphs.
millrace_file millrace_dygraph_min_js(void);
millrace_file millrace_dygraph_min_css(void);
