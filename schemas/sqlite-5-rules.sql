-- Every text of normalization rules that events were normalized under, by the SHA-256 of its canonical form.
CREATE TABLE rules (
    fingerprint TEXT PRIMARY KEY,
    text TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Which of them hold from which event time on, until the next row's time.
CREATE TABLE rules_timeline (
    id INTEGER PRIMARY KEY,
    from_us INTEGER NOT NULL UNIQUE,
    fingerprint TEXT NOT NULL REFERENCES rules (fingerprint)
) STRICT;
