-- Every text of normalization rules that events were normalized under, by the SHA-256 of its canonical form.
CREATE TABLE rules (
    fingerprint text COLLATE "C" PRIMARY KEY,
    text text NOT NULL
);

-- Which of them hold from which event time on, until the next row's time.
CREATE TABLE rules_timeline (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    from_us bigint NOT NULL UNIQUE,
    fingerprint text COLLATE "C" NOT NULL REFERENCES rules (fingerprint)
);
