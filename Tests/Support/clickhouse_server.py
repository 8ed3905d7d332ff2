#!/usr/bin/env python3
"""ClickHouse's engine (PyPI's chdb-core) behind ClickHouse's HTTP interface, for tests where no server is at hand.

    clickhouse_server.py start --dir DIR [--port N] [--user U --password P] [--set NAME=VALUE]... [--while PID]
                               [--tls FILE] [--cluster NAME=SHARDSxREPLICAS]
                                                            prints the port, one line
    clickhouse_server.py stop --dir DIR [--kill]            SIGTERM and wait; --kill is SIGKILL

Started again on the same directory it has the same data and port. `--while PID`: it ends when that process has ended.
`--tls`: it speaks HTTPS, with the key and the certificates in that file (PEM).
`--set`: what a setting is where a request does not say, as a user's profile would have it.
`--cluster`: it has such a cluster in its configuration, and plays one node of it. The engine here is told of no other
node: it can't replicate, nor run a statement on a cluster, nor reach a shard over the network. So its tables are plain
ones for replicated, `ON CLUSTER` is done here alone, and a Distributed table is one over this node as the only shard.
An insert whose quorum is less than the replicas of a shard is refused; and each one that has a quorum while there is a
file DIR/away, as if a replica were.
Of the interface it has what a client of tables needs: the statement in `query`, in the body, or its beginning in the one
and its data in the other; `database`, `default_format`, `param_NAME`, every other parameter a setting; user and password
as X-ClickHouse-User and -Key or basic authorization; answers in chunks as the engine makes them; errors as status and
X-ClickHouse-Exception-Code, and a connection cut short where the answer had begun. The engine comes from the
repository's .venv/clickhouse (Tests/Support/make-venvs).
"""
import argparse, base64, contextlib, hmac, os, pathlib, re, select, signal, socket, socketserver, ssl, sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler

from background import Background

PYTHON = pathlib.Path(__file__).resolve().parents[2] / ".venv" / "clickhouse" / "bin" / "python"
NAMES = {"user", "password", "query", "database", "default_format", "query_id", "session_id"}
INSERT = re.compile(rb"\s*INSERT\s.*?\bFORMAT\s+(\w+)\s*\Z", re.IGNORECASE | re.DOTALL)
RETURNS = re.compile(rb"\s*(?:SELECT|WITH)\b", re.IGNORECASE)
CODE = re.compile(r"Code: (\d+)\.")
# What the engine is not able to do by itself, and what it is given instead.
AS_ONE_NODE = [(re.compile(wanted), given) for wanted, given in (
    (r" ON CLUSTER '[\w-]+'", ""),
    (r"ReplicatedMergeTree\('[^']*', '[^']*'\)", "MergeTree"),
    (r"\breplicated_deduplication_window = ", "non_replicated_deduplication_window = "),
    (r", replicated_deduplication_window_seconds = \d+", ""),
    (r" AS \w+ ENGINE = Distributed\('[\w-]+', ('\w+', '\w+', [^\n]+)\)\Z", r" AS remote('127.0.0.1', \1)"),
    (r"\ASYSTEM SYNC REPLICA \w+\Z", "SELECT 1"),
    (r"\bcluster(?:AllReplicas)?\('[\w-]+', (system\.\w+)\)", r"\1"))]
STATUS = {60: 404, 62: 400, 81: 404, 192: 403, 193: 403, 194: 403, 497: 403, 516: 403, 241: 500}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server_version = "ClickHouse-like"

    def log_message(self, *_):
        pass

    def do_GET(self):
        if urllib.parse.urlsplit(self.path).path == "/ping":
            return self.answer(200, b"Ok.\n")
        self.statement()

    def do_POST(self):
        self.statement()

    def answer(self, status, body, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def fail(self, error):
        text = str(error)
        found = CODE.search(text)
        code = int(found.group(1)) if found else 1002
        self.answer(STATUS.get(code, 500), (text + "\n").encode(), [("X-ClickHouse-Exception-Code", str(code))])

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(parts)
        wanted = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(wanted)
        if len(body) < wanted:
            raise ConnectionError("the request was cut short")
        return body

    def is_known(self, parameters):
        user, password = parameters.get("user", "default"), parameters.get("password", "")
        if basic := re.match(r"Basic (\S+)", self.headers.get("Authorization") or ""):
            user, _, password = base64.b64decode(basic.group(1)).decode().partition(":")
        user, password = (
            value.encode("latin-1").decode() if (value := self.headers.get(name)) is not None else otherwise
            for name, otherwise in (("X-ClickHouse-User", user), ("X-ClickHouse-Key", password)))
        return hmac.compare_digest(f"{user}:{password}".encode(), f"{self.server.user}:{self.server.password}".encode())

    def statement(self):
        # What follows an error of the transport is not worth reading: the connection ends with it.
        try:
            body = self.body()
            parameters = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query, keep_blank_values=True))
            if not self.is_known(parameters):
                return self.fail("Code: 516. DB::Exception: Authentication failed. (AUTHENTICATION_FAILED)")
            self.run(parameters, body)
        except ConnectionError:
            self.close_connection = True

    def run(self, parameters, body):
        settings = {name: value for name, value in (self.server.settings | parameters).items()
                    if name not in NAMES and not name.startswith("param_")}
        given = {name[6:]: value for name, value in parameters.items() if name.startswith("param_")}
        start = parameters.get("query", "").encode()
        shape = parameters.get("default_format", "TabSeparated")
        try:
            with self.server.sessions.one(parameters.get("database"), settings) as connection:
                if self.server.replicas and b"INSERT INTO" in (text := start + body[:100_000]):
                    self.server.check_quorum(text)
                if insert := INSERT.match(start):
                    return self.insert(connection, start[: insert.start(1)], insert.group(1).decode(), body)
                text = start + (b"\n" if start and body else b"") + body
                if self.server.replicas:
                    text = as_one_node(text.decode()).encode()
                if RETURNS.match(text):
                    return self.stream(connection, text.decode(), shape, given)
                answer = connection.query(text.decode(), shape, params=given or None).bytes()
        except ConnectionError:
            raise
        except Exception as error:
            return self.fail(error)
        self.answer(200, answer)

    def insert(self, connection, statement, shape, body):
        # The engine takes the data of a format apart from the statement, which then ends before FORMAT.
        text = statement.decode().rstrip()
        text = text[: text.upper().rindex("FORMAT")]
        inserter = connection.send_insert(text, shape)
        inserter.append(body)
        inserter.finish()
        self.answer(200, b"")

    def stream(self, connection, text, shape, given):
        chunks = iter(connection.send_query(text, shape, params=given or None))
        first = next(chunks, None)
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            chunk = first
            while chunk is not None:
                data = chunk.bytes()
                if data:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                chunk = next(chunks, None)
        except ConnectionError:
            raise
        except Exception as error:
            text = f"__exception__\n{error}\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
            self.wfile.flush()
            raise ConnectionError("failed in mid-answer") from error
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()


def as_one_node(text):
    for wanted, given in AS_ONE_NODE:
        text = wanted.sub(given, text)
    return text


def cluster(text):
    """The configuration by which the engine lists the cluster, and how many replicas a shard has."""
    found = re.fullmatch(r"([\w-]+)=(\d+)x(\d+)", text)
    if not found:
        sys.exit(f"clickhouse_server: --cluster {text} is not NAME=SHARDSxREPLICAS")
    name, shards, replicas = found[1], int(found[2]), int(found[3])
    shard = "<shard>" + "<replica><host>127.0.0.1</host><port>9000</port></replica>" * replicas + "</shard>"
    servers = f"<remote_servers><{name}>{shard * shards}</{name}></remote_servers>"
    return f"<clickhouse><tcp_port>9000</tcp_port>{servers}</clickhouse>\n", replicas


class Sessions:
    """Connections to the engine, each in a database and with settings: making one takes as long as a small statement."""

    IDLE = 32

    def __init__(self, connect):
        self.connect, self.idle, self.lock = connect, [], threading.Lock()

    @contextlib.contextmanager
    def one(self, database, settings):
        state = (database, settings)
        with self.lock:
            place = next((n for n, (of, _) in enumerate(self.idle) if of == state), None)
            connection = self.idle.pop(place)[1] if place is not None else None
        connection = connection or self.connect()
        try:
            if place is None:
                self.enter(connection, *state)
            yield connection
        except BaseException:
            # Whatever an error has left in it is nobody else's.
            connection.close()
            raise
        with self.lock:
            self.idle.append((state, connection))
            oldest = self.idle.pop(0)[1] if len(self.idle) > self.IDLE else None
        if oldest:
            oldest.close()

    @staticmethod
    def enter(connection, database, settings):
        if database:
            connection.query("USE `" + database.replace("`", "``") + "`")
        for name, value in settings.items():
            if not re.fullmatch(r"\w+", name):
                raise ValueError(f"Code: 115. DB::Exception: Unknown setting {name}. (UNKNOWN_SETTING)")
            value = value.replace("\\", "\\\\").replace("'", "\\'")
            connection.query(f"SET {name} = '{value}'")

    def close(self):
        with self.lock:
            idle, self.idle = self.idle, []
        for _, connection in idle:
            connection.close()


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_):
        """A client that left is no news."""

    def check_quorum(self, insert):
        wanted = re.search(rb"\binsert_quorum = (\d+)", insert)
        if wanted and 1 < self.replicas > int(wanted[1]):
            raise ValueError("Code: 36. DB::Exception: the quorum is less than the replicas. (BAD_ARGUMENTS)")
        if wanted and (self.directory / "away").exists():
            raise ValueError("Code: 285. DB::Exception: Number of alive replicas is less than requested quorum. "
                             "(TOO_FEW_LIVE_REPLICAS)")


def serve(args, directory):
    from chdb.state import sqlitelike

    with Server(("127.0.0.1", args.port), Handler) as server:
        server.user, server.password = args.user, args.password
        if args.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(args.tls)
            # The handshake is the thread's of each connection, not the one's who accepts them.
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.settings = dict(one.split("=", 1) for one in args.set)
        data = str(directory / "data")
        server.directory, server.replicas = directory, None
        if args.cluster:
            configuration, server.replicas = cluster(args.cluster)
            (directory / "config.xml").write_text(configuration)
            data += f"?config-file={directory / 'config.xml'}"
        # Kept open: the engine ends with its last connection.
        first = sqlitelike.Connection(data)
        server.sessions = Sessions(lambda: sqlitelike.Connection(data))

        def end(*_):
            threading.Thread(target=server.shutdown).start()

        signal.signal(signal.SIGTERM, end)
        if args.while_pid:
            watched = os.pidfd_open(args.while_pid)
            threading.Thread(target=lambda: (select.select([watched], [], []), end()), daemon=True).start()
        server.serve_forever()
        server.sessions.close()
        first.close()


def answers(port, is_tls):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as s:
            if is_tls:
                # Whether it answers, not who it is.
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                s = context.wrap_socket(s)
            s.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return s.recv(12) == b"HTTP/1.1 200"
    except OSError:
        return False


def background(directory):
    return Background("clickhouse_server", directory, "server", directory)


def start(args, directory):
    if not PYTHON.exists():
        sys.exit(f"clickhouse_server: {PYTHON} is missing; run Tests/Support/make-venvs")

    def command(port):
        watch = ["--while", str(args.while_pid)] if args.while_pid else []
        tls = ["--tls", pathlib.Path(args.tls).resolve()] if args.tls else []
        cluster = ["--cluster", args.cluster] if args.cluster else []
        return [PYTHON, __file__, "serve", "--dir", directory, "--port", str(port), "--user", args.user, "--password",
                args.password, *(word for one in args.set for word in ("--set", one)), *tls, *cluster, *watch]

    print(background(directory).start(command, lambda port: answers(port, args.tls), args.wait, args.port))


def stop(args, directory):
    background(directory).stop(args.wait, args.kill)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("start", "stop", "serve"):
        command = commands.add_parser(name)
        command.add_argument("--dir", required=True)
        command.add_argument("--wait", type=float, default=60, help="seconds")
        if name == "stop":
            command.add_argument("--kill", action="store_true")
        else:
            command.add_argument("--port", type=int, default=0)
            command.add_argument("--user", default="default")
            command.add_argument("--password", default="")
            command.add_argument("--tls", metavar="FILE")
            command.add_argument("--cluster", metavar="NAME=SHARDSxREPLICAS")
            command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
            command.add_argument("--while", type=int, dest="while_pid", metavar="PID")
    args = parser.parse_args()
    {"start": start, "stop": stop, "serve": serve}[args.command](args, pathlib.Path(args.dir).resolve())


if __name__ == "__main__":
    main()
