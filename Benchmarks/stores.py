"""The stores that the consumer's benchmark fills: where they are, what they hold, and their own fastest loader."""

import atexit
import os
import pwd
import signal
import sqlite3
import subprocess
import time

from harness import ROOT, free_port, run, wait_until


class SQLite:
    loader = "sqlite3 .import"
    needs = ["sqlite3"]

    def __init__(self, work):
        self.work, self.path = work, work.file("millrace.db")
        self.url = f"sqlite:{self.path}"

    def rows(self, statement, path=None):
        """None while the store is not there or not yet made."""
        try:
            connection = sqlite3.connect(f"file:{path or self.path}?mode=ro", uri=True, timeout=5)
            try:
                return connection.execute(statement).fetchall()
            finally:
                connection.close()
        except sqlite3.OperationalError:
            return None

    def applied(self):
        rows = self.rows("SELECT coalesce(sum(applied), 0) FROM offsets")
        return rows[0][0] if rows else 0

    def events(self):
        return self.rows("SELECT count(*) FROM events")[0][0]

    def grains(self):
        return self.rows("SELECT grain, sum(requests), count(*) FROM rollups GROUP BY grain ORDER BY grain")

    def size(self):
        return os.path.getsize(self.path)

    def load(self):
        """Seconds and rows, into the same table under the same settings."""
        csv, target = self.work.file("events.csv"), self.work.file("import.db")
        columns = [row[1] for row in self.rows("PRAGMA table_info(events)")]
        # The id as text of its bytes: .import knows no blobs. NULL and the empty text are one thing to it.
        listed = ", ".join("lower(hex(id))" if name == "id" else name for name in columns)
        with open(csv, "w", encoding="utf-8") as file:
            subprocess.run(
                ["sqlite3", "-readonly", "-csv", self.path, f"SELECT {listed} FROM events ORDER BY time_us, id"],
                stdout=file, check=True, timeout=1_800,
            )
        page = self.rows("PRAGMA page_size")[0][0]
        # Without STRICT and the columns' NOT NULL, which an empty field of a CSV would break: less work, not more.
        table = "CREATE TABLE events (" + ", ".join(columns) + ", PRIMARY KEY (time_us, id), UNIQUE (id)) WITHOUT ROWID"
        script = (
            f"PRAGMA page_size = {page};\nPRAGMA journal_mode = WAL;\nPRAGMA synchronous = NORMAL;\n"
            f"PRAGMA cache_size = -65536;\n{table};\n.import --csv {csv} events\n"
        )
        clock = time.monotonic()
        run(["sqlite3", target], 3_600, input=script)
        seconds = time.monotonic() - clock
        return seconds, self.rows("SELECT count(*) FROM events", target)[0][0]


class PostgreSQL:
    """Debian's, with the settings it comes with; only where it listens is our own."""

    loader = "COPY FROM, binary"
    needs = ["psql"]
    programs = "/usr/lib/postgresql/15/bin/"

    def __init__(self, work):
        self.work, self.port = work, free_port()
        self.url = f"postgres://postgres@127.0.0.1:{self.port}/postgres?sslmode=disable"
        # It does not run as root.
        self.user, self.data = [], work.file("postgresql")
        os.mkdir(self.data)
        if os.getuid() == 0:
            self.user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
            owner = pwd.getpwnam("postgres")
            os.chown(self.data, owner.pw_uid, owner.pw_gid)
            os.chmod(work.path, 0o711)
        run(
            [*self.user, self.programs + "initdb", "--pgdata", self.data, "--username", "postgres", "--auth", "trust",
             "--encoding", "UTF8", "--locale", "C"], 120, cwd=self.data,
        )
        self.serve()

    def serve(self):
        self.child = self.work.start(
            "postgresql",
            [*self.user, self.programs + "postgres", "-D", self.data, "-p", str(self.port), "-c",
             "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="],
        )
        wait_until(
            "PostgreSQL answers", 60, lambda: self.rows("SELECT 1") is not None, lambda: self.work.log_of("postgresql"))

    def crash(self):
        """At once: no checkpoint, no goodbye; what it does with it is recovery at the next start."""
        self.child.send_signal(signal.SIGQUIT)
        self.child.wait(60)
        self.work.children.remove(self.child)

    def psql(self, *arguments):
        # Not Debian's wrapper, which takes more time than what it asks.
        return [self.programs + "psql", "-X", "-q", "-At", "-F", "|", "-v", "ON_ERROR_STOP=1", "-d", self.url, *arguments]

    def rows(self, statement):
        result = subprocess.run(
            self.psql("-c", statement), timeout=600, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False
        )
        if result.returncode != 0:
            return None
        return [tuple(int(value) for value in line.split("|")) for line in result.stdout.split()]

    def applied(self):
        rows = self.rows("SELECT coalesce(sum(applied), 0)::bigint FROM offsets")
        return rows[0][0] if rows else 0

    def events(self):
        return self.rows("SELECT count(*) FROM events")[0][0]

    def grains(self):
        return self.rows("SELECT grain, sum(requests)::bigint, count(*) FROM rollups GROUP BY grain ORDER BY grain")

    def size(self):
        return self.rows("SELECT pg_database_size(current_database())")[0][0]

    def load(self):
        file = self.work.file("events.copy")
        run(self.psql("-c", f"\\copy (SELECT * FROM events ORDER BY id) TO '{file}' (FORMAT binary)"), 1_800)
        run(self.psql("-c", "CREATE TABLE loaded (LIKE events INCLUDING ALL)", "-c", "CHECKPOINT"), 600)
        clock = time.monotonic()
        run(self.psql("-c", f"\\copy loaded FROM '{file}' (FORMAT binary)"), 3_600)
        seconds = time.monotonic() - clock
        return seconds, self.rows("SELECT count(*) FROM loaded")[0][0]


class ClickHouse:
    """Its engine behind its HTTP interface, as the tests have it (Tests/Support/clickhouse_server.py)."""

    loader = "INSERT, Native format"
    needs = ["curl"]
    script = os.path.join(ROOT, "Tests", "Support", "clickhouse_server.py")

    def __init__(self, work):
        self.work, self.directory = work, work.file("clickhouse")
        os.mkdir(self.directory)
        started = run([self.script, "start", "--dir", self.directory, "--while", str(os.getpid())], 120)
        self.port = int(started.split()[-1])
        atexit.register(run, [self.script, "stop", "--dir", self.directory, "--kill"], 60)
        self.url = f"clickhouse://127.0.0.1:{self.port}/millrace"

    def ask(self, query, seconds=600, database="millrace"):
        return run(
            ["curl", "--silent", "--show-error", "--fail-with-body", "--data-binary", query,
             f"http://127.0.0.1:{self.port}/?database={database}"], seconds,
        )

    def rows(self, query, database="millrace"):
        return [tuple(int(value) for value in line.split("\t")) for line in self.ask(query, database=database).splitlines()]

    def counting(self):
        """What of the tables counts, by the latest slot's first row: conditions on plain rows and on rollups."""
        state = self.ask(
            "SELECT slot, floor, toString(excluded), toString(runs) FROM commits "
            "WHERE slot = (SELECT max(slot) FROM commits) ORDER BY _block_number LIMIT 1"
        )
        slot, floor, excluded, runs = state.rstrip("\n").split("\t")
        plain = f"number <= {slot} AND NOT has({excluded}::Array(Int64), number)"
        summed = f"(chunk < 0 AND has({runs}::Array(Int64), number) OR chunk >= 0 AND number > {floor} AND {plain})"
        return plain, summed

    def applied(self):
        made = "SELECT count() FROM system.tables WHERE database = 'millrace' AND name = 'commits'"
        if self.rows(made, database="default") != [(1,)]:
            return 0
        rows = self.rows(
            "SELECT arraySum(applied) FROM commits WHERE slot = (SELECT max(slot) FROM commits) ORDER BY _block_number LIMIT 1"
        )
        return rows[0][0] if rows else 0

    def events(self):
        return self.rows(f"SELECT count() FROM events WHERE {self.counting()[0]}")[0][0]

    def grains(self):
        return self.rows(
            f"SELECT grain, sum(requests), uniqExact(bucket, series) FROM rollups WHERE {self.counting()[1]} "
            "GROUP BY grain ORDER BY grain"
        )

    def size(self):
        return self.rows("SELECT sum(bytes_on_disk) FROM system.parts WHERE database = 'millrace' AND active")[0][0]

    def load(self):
        file = self.work.file("events.native")
        self.ask("CREATE TABLE loaded AS events")
        with open(file, "wb") as out:
            subprocess.run(
                ["curl", "--silent", "--show-error", "--fail-with-body", "--data-binary",
                 "SELECT * FROM events ORDER BY time_us, id",
                 f"http://127.0.0.1:{self.port}/?database=millrace&default_format=Native"],
                stdout=out, check=True, timeout=1_800,
            )
        clock = time.monotonic()
        run(
            ["curl", "--silent", "--show-error", "--fail-with-body", "--header", "Expect:", "--data-binary", f"@{file}",
             f"http://127.0.0.1:{self.port}/?database=millrace&query=INSERT%20INTO%20loaded%20FORMAT%20Native"], 3_600,
        )
        seconds = time.monotonic() - clock
        return seconds, self.rows("SELECT count() FROM loaded")[0][0]

    summing = "INSERT ... SELECT of the same rows into the same three grains"

    def sum_up(self):
        """Seconds and rows. Sums as ours, and a sketch of as small an error for each timing; series have numbers already.
        (The engine here has Kafka's table engine, and no thread to run it.)"""
        sums = ["input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "cost_nano_usd", "request_bytes",
                "response_bytes", "latency_us", "first_token_us", "overhead_us"]
        timings = sums[-3:]
        sketch = "quantilesDD{}(0.01, 0.5)"
        columns = ["grain UInt8", "bucket Int32", "series Int64", "requests SimpleAggregateFunction(sum, Int64)",
                   *(f"{name}_sum SimpleAggregateFunction(sum, Int64)" for name in sums),
                   *(f"{name}_sketch AggregateFunction({sketch.format('')}, UInt64)" for name in timings)]
        self.ask(f"CREATE TABLE summed ({', '.join(columns)}) ENGINE = AggregatingMergeTree ORDER BY (grain, bucket, series)")
        results = ["count()", *(f"sum(toInt64(ifNull({name}, 0)))" for name in sums),
                   *(f"{sketch.format('StateIf')}(ifNull({name}, 0), {name} IS NOT NULL)" for name in timings)]
        clock = time.monotonic()
        self.ask(
            f"INSERT INTO summed SELECT place.1, toInt32(intDiv(time_us, place.2)), series, {', '.join(results)} FROM loaded "
            "ARRAY JOIN [(0, 60000000), (1, 3600000000), (2, 86400000000)] AS place "
            "GROUP BY place.1, toInt32(intDiv(time_us, place.2)), series", 3_600)
        seconds = time.monotonic() - clock
        return seconds, self.rows("SELECT sum(requests) FROM summed WHERE grain = 0")[0][0]


STORES = {"sqlite": SQLite, "postgresql": PostgreSQL, "clickhouse": ClickHouse}
