// The files that the program carries. The compiler takes each in as it is, in no time, and builds anew when one changes.

#include "embedded.h"

// C23 has `#embed`; this compiler takes it in any C and says so each time.
#pragma clang diagnostic ignored "-Wc23-extensions"

#define GIVE(name) \
    millrace_file millrace_##name(void) { return (millrace_file){name, sizeof name}; }

// schemas/: contract texts and data.

static const unsigned char request_event_proto[] = {
#embed "../../../schemas/request_event.proto"
};
GIVE(request_event_proto)

static const unsigned char sqlite_sql[] = {
#embed "../../../schemas/sqlite.sql"
};
GIVE(sqlite_sql)

static const unsigned char sqlite_2_keys_sql[] = {
#embed "../../../schemas/sqlite-2-keys.sql"
};
GIVE(sqlite_2_keys_sql)

static const unsigned char sqlite_3_redriven_sql[] = {
#embed "../../../schemas/sqlite-3-redriven.sql"
};
GIVE(sqlite_3_redriven_sql)

static const unsigned char sqlite_4_reconciliation_sql[] = {
#embed "../../../schemas/sqlite-4-reconciliation.sql"
};
GIVE(sqlite_4_reconciliation_sql)

static const unsigned char sqlite_5_rules_sql[] = {
#embed "../../../schemas/sqlite-5-rules.sql"
};
GIVE(sqlite_5_rules_sql)

static const unsigned char sqlite_6_replay_sql[] = {
#embed "../../../schemas/sqlite-6-replay.sql"
};
GIVE(sqlite_6_replay_sql)

static const unsigned char sqlite_7_days_sql[] = {
#embed "../../../schemas/sqlite-7-days.sql"
};
GIVE(sqlite_7_days_sql)

static const unsigned char sqlite_8_entities_sql[] = {
#embed "../../../schemas/sqlite-8-entities.sql"
};
GIVE(sqlite_8_entities_sql)

static const unsigned char sqlite_9_pairs_sql[] = {
#embed "../../../schemas/sqlite-9-pairs.sql"
};
GIVE(sqlite_9_pairs_sql)

static const unsigned char sqlite_10_log_sql[] = {
#embed "../../../schemas/sqlite-10-log.sql"
};
GIVE(sqlite_10_log_sql)

static const unsigned char sqlite_11_workspace_sql[] = {
#embed "../../../schemas/sqlite-11-workspace.sql"
};
GIVE(sqlite_11_workspace_sql)

static const unsigned char postgresql_sql[] = {
#embed "../../../schemas/postgresql.sql"
};
GIVE(postgresql_sql)

static const unsigned char postgresql_2_redriven_sql[] = {
#embed "../../../schemas/postgresql-2-redriven.sql"
};
GIVE(postgresql_2_redriven_sql)

static const unsigned char postgresql_3_reconciliation_sql[] = {
#embed "../../../schemas/postgresql-3-reconciliation.sql"
};
GIVE(postgresql_3_reconciliation_sql)

static const unsigned char postgresql_4_rules_sql[] = {
#embed "../../../schemas/postgresql-4-rules.sql"
};
GIVE(postgresql_4_rules_sql)

static const unsigned char postgresql_5_replay_sql[] = {
#embed "../../../schemas/postgresql-5-replay.sql"
};
GIVE(postgresql_5_replay_sql)

static const unsigned char postgresql_6_entities_sql[] = {
#embed "../../../schemas/postgresql-6-entities.sql"
};
GIVE(postgresql_6_entities_sql)

static const unsigned char postgresql_7_pairs_sql[] = {
#embed "../../../schemas/postgresql-7-pairs.sql"
};
GIVE(postgresql_7_pairs_sql)

static const unsigned char postgresql_8_log_sql[] = {
#embed "../../../schemas/postgresql-8-log.sql"
};
GIVE(postgresql_8_log_sql)

static const unsigned char postgresql_9_workspace_sql[] = {
#embed "../../../schemas/postgresql-9-workspace.sql"
};
GIVE(postgresql_9_workspace_sql)

static const unsigned char clickhouse_sql[] = {
#embed "../../../schemas/clickhouse.sql"
};
GIVE(clickhouse_sql)

static const unsigned char configuration_schema_json[] = {
#embed "../../../schemas/configuration.schema.json"
};
GIVE(configuration_schema_json)

static const unsigned char rules_schema_json[] = {
#embed "../../../schemas/rules.schema.json"
};
GIVE(rules_schema_json)

static const unsigned char openapi_json[] = {
#embed "../../../schemas/openapi.json"
};
GIVE(openapi_json)

static const unsigned char prices_json[] = {
#embed "../../../schemas/prices.json"
};
GIVE(prices_json)

// The page of the API.

static const unsigned char index_html[] = {
#embed "../../QueryAPI/Page/index.html"
};
GIVE(index_html)

static const unsigned char style_css[] = {
#embed "../../QueryAPI/Page/style.css"
};
GIVE(style_css)

static const unsigned char app_js[] = {
#embed "../../QueryAPI/Page/app.js"
};
GIVE(app_js)

static const unsigned char base_js[] = {
#embed "../../QueryAPI/Page/base.js"
};
GIVE(base_js)

static const unsigned char filter_js[] = {
#embed "../../QueryAPI/Page/filter.js"
};
GIVE(filter_js)

static const unsigned char letters_js[] = {
#embed "../../QueryAPI/Page/letters.js"
};
GIVE(letters_js)

static const unsigned char overview_js[] = {
#embed "../../QueryAPI/Page/overview.js"
};
GIVE(overview_js)

static const unsigned char replays_js[] = {
#embed "../../QueryAPI/Page/replays.js"
};
GIVE(replays_js)

static const unsigned char views_js[] = {
#embed "../../QueryAPI/Page/views.js"
};
GIVE(views_js)

// Its charts: Debian's libjs-dygraphs.

static const unsigned char dygraph_min_js[] = {
#embed "/usr/share/javascript/dygraphs/dygraph.min.js"
};
GIVE(dygraph_min_js)

static const unsigned char dygraph_min_css[] = {
#embed "/usr/share/javascript/dygraphs/dygraph.min.css"
};
GIVE(dygraph_min_css)
