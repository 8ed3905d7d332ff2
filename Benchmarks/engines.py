"""One engine's own table of the events, and questions put to it.

usage: engines.py duckdb|chdb TABLE CSV <QUESTIONS.json >TIMES.json

The table is made from the CSV where it is not there yet. A question has `where` (column and value) and `group`; what is
told of each are the seconds it took and, by group, requests and cost in nano-dollars. Two rounds, the second counts.
"""

import json
import os
import sys
import time

engine, table, csv = sys.argv[1:4]
questions = json.load(sys.stdin)
columns = open(csv, encoding="utf-8").readline().strip().split(",")
NUMBERS = {"time_us": "Int64", "outcome": "UInt8", "status": "UInt16", "cost_nano_usd": "Int64"}


def kind(name):
    if name in NUMBERS:
        return NUMBERS[name]
    if name.endswith(("_tokens", "_us", "_bytes")):
        return "Int64"
    return "LowCardinality(String)"


if engine == "duckdb":
    import duckdb

    is_new = not os.path.exists(table)
    connection = duckdb.connect(table)
    if is_new:
        connection.execute(f"CREATE TABLE events AS SELECT * FROM read_csv('{csv}', header = true)")
        connection.execute("CHECKPOINT")

    def ask(statement):
        return connection.execute(statement).fetchall()

else:
    from chdb.session import Session

    session = Session(table)
    session.query("CREATE DATABASE IF NOT EXISTS b ENGINE = Atomic")
    if "events" not in str(session.query("SHOW TABLES FROM b")):
        listed = ", ".join(f"{name} {kind(name)}" for name in columns)
        session.query(f"CREATE TABLE b.events ({listed}) ENGINE = MergeTree ORDER BY time_us")
        session.query(f"INSERT INTO b.events SELECT * FROM file('{csv}', CSVWithNames)")
        session.query("OPTIMIZE TABLE b.events FINAL")

    def ask(statement):
        text = str(session.query(statement, "JSONCompactEachRow"))
        return [json.loads(line) for line in text.splitlines()]


def statement(question):
    conditions = " AND ".join(f"{name} = '{value}'" for name, value in question["where"].items())
    source = "events" if engine == "duckdb" else "b.events"
    return f"SELECT {question['group']}, count(*), sum(cost_nano_usd) FROM {source} WHERE {conditions} GROUP BY {question['group']}"


told = []
for _ in range(2):
    told = []
    for question in questions:
        clock = time.perf_counter()
        rows = ask(statement(question))
        seconds = time.perf_counter() - clock
        told.append({"seconds": seconds, "groups": {row[0]: [int(row[1]), int(row[2])] for row in rows}})
json.dump(told, sys.stdout)
