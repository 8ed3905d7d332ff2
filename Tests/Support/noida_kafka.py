#!/usr/bin/env python3
"""A small Kafka-speaking broker (PyPI's noida-db) for tests where no Apache Kafka is at hand.

    noida_kafka.py start --dir DIR [--nodes 1]      prints the bootstrap servers, one line
    noida_kafka.py stop --dir DIR [--kill]          SIGTERM and wait; --kill is SIGKILL

The command line of the script that starts a real Apache Kafka, so that MILLRACE_TEST_KAFKA may name either. One node
only; `--heap`, `--version`, `--port` and `--property` are taken and mean nothing here. The package is installed into
the repository's .venv on first use. Clients must raise receive.message.max.bytes: it ignores fetch sizes.
"""
import argparse, json, os, pathlib, signal, socket, struct, subprocess, sys, time, venv

PACKAGE = "noida-db==0.2.3"
HOME = pathlib.Path(__file__).resolve().parents[2] / ".venv" / "noida"


def program():
    """The broker's own binary: run by itself, so that the process id is the broker's."""
    found = list(HOME.glob("lib/python*/site-packages/noida_db/noida-db"))
    if not found:
        venv.create(HOME, with_pip=True)
        run = subprocess.run([HOME / "bin" / "pip", "install", "--quiet", PACKAGE], capture_output=True, text=True)
        if run.returncode:
            sys.exit(f"noida_kafka: {PACKAGE} could not be installed: {run.stderr}")
        found = list(HOME.glob("lib/python*/site-packages/noida_db/noida-db"))
        if not found:
            sys.exit(f"noida_kafka: {PACKAGE} has no program in it for this machine")
    os.chmod(found[0], 0o755)
    return found[0]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def answers(port):
    """An ApiVersions request gets an answer."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as s:
            body = struct.pack(">hhih", 18, 0, 1, -1)
            s.sendall(struct.pack(">i", len(body)) + body)
            return len(s.recv(4)) == 4
    except OSError:
        return False


def alive(pid, directory):
    """The process runs and is ours, not another that got the same number later."""
    try:
        command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z" and (not command or str(directory / "data").encode() in command)


def start(args, directory):
    if args.nodes != 1:
        sys.exit("noida_kafka: one node is all there is; set MILLRACE_TEST_KAFKA to a script that starts Apache Kafka")
    directory.mkdir(parents=True, exist_ok=True)
    state = directory / "broker.json"
    broker = json.loads(state.read_text()) if state.exists() else {"port": free_port(), "pid": None}
    if not broker["pid"] or not alive(broker["pid"], directory):
        with open(directory / "broker.log", "ab") as log:
            broker["pid"] = subprocess.Popen(
                [program(), "start", "--data-dir", directory / "data", "--only", "kafka",
                 "--kafka-port", str(broker["port"])],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory, start_new_session=True).pid
        state.write_text(json.dumps(broker))
    deadline = time.monotonic() + args.wait
    while not answers(broker["port"]):
        if not alive(broker["pid"], directory) or time.monotonic() > deadline:
            tail = (directory / "broker.log").read_text(errors="replace")[-2000:]
            sys.exit(f"noida_kafka: the broker did not start; the end of its log:\n{tail}")
        time.sleep(0.05)
    print(f"127.0.0.1:{broker['port']}")


def stop(args, directory):
    try:
        broker = json.loads((directory / "broker.json").read_text())
    except FileNotFoundError:
        sys.exit(f"noida_kafka: no broker in {directory}")
    deadline = time.monotonic() + args.wait
    sent = None
    while alive(broker["pid"], directory):
        wanted = signal.SIGKILL if args.kill or time.monotonic() > deadline else signal.SIGTERM
        if sent != wanted:
            os.kill(broker["pid"], wanted)
            sent = wanted
        time.sleep(0.05)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("start", "stop"):
        command = commands.add_parser(name)
        command.add_argument("--dir", required=True)
        command.add_argument("--wait", type=float, default=60, help="seconds")
        if name == "start":
            command.add_argument("--nodes", type=int, default=1)
            for ignored in ("--heap", "--version", "--port", "--property"):
                command.add_argument(ignored, action="append", help=argparse.SUPPRESS)
        else:
            command.add_argument("--node", type=int, help=argparse.SUPPRESS)
            command.add_argument("--kill", action="store_true")
    args = parser.parse_args()
    {"start": start, "stop": stop}[args.command](args, pathlib.Path(args.dir).resolve())


if __name__ == "__main__":
    main()
