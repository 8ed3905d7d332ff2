-- Version 2 of the embedded store: API keys.
-- digest is the SHA-256 of the key; the key itself is nowhere. scopes: 1 ingest, 2 query, 4 admin, added up.
CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    workspace TEXT NOT NULL,
    scopes INTEGER NOT NULL,
    name TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    revoked_us INTEGER
) STRICT, WITHOUT ROWID;
