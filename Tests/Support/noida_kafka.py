#!/usr/bin/env python3
"""A small Kafka-speaking broker (PyPI's noida-db) for tests where no Apache Kafka is at hand.

    noida_kafka.py start --dir DIR [--nodes 1]      prints the bootstrap servers, one line
    noida_kafka.py stop --dir DIR [--kill]          SIGTERM and wait; --kill is SIGKILL

The command line of the script that starts a real Apache Kafka, so that MILLRACE_TEST_KAFKA may name either. One node
only; `--heap`, `--version`, `--port` and `--property` are taken and mean nothing here. The package is installed into
the repository's .venv on first use. Clients must raise receive.message.max.bytes: it ignores fetch sizes.
"""
import argparse, os, pathlib, socket, struct, subprocess, sys, venv

from background import Background

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


def answers(port):
    """An ApiVersions request gets an answer."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as s:
            body = struct.pack(">hhih", 18, 0, 1, -1)
            s.sendall(struct.pack(">i", len(body)) + body)
            return len(s.recv(4)) == 4
    except OSError:
        return False


def background(directory):
    return Background("noida_kafka", directory, "broker", directory / "data")


def start(args, directory):
    if args.nodes != 1:
        sys.exit("noida_kafka: one node is all there is; set MILLRACE_TEST_KAFKA to a script that starts Apache Kafka")

    def command(port):
        return [program(), "start", "--data-dir", directory / "data", "--only", "kafka", "--kafka-port", str(port)]

    print(f"127.0.0.1:{background(directory).start(command, answers, args.wait)}")


def stop(args, directory):
    background(directory).stop(args.wait, args.kill)


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
