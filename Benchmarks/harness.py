"""What the benchmarks share: children that are ended by pid, a real Kafka, memory readings, waits with deadlines."""

import atexit
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "Tests", "Support"))
from background import free_port

KAFKA = os.environ.get("MILLRACE_TEST_KAFKA", os.path.join(ROOT, "..", "shared", "kafka", "kafka"))

# What everybody with the traffic of `services` would name; it is observed within an hour otherwise.
NAMED = """
version: 1
classes: { request_id: identifier, _user: entity }
"""


class Work:
    """A directory and the processes that run in it; both go at exit, each process by its pid."""

    def __init__(self, name, keep=False):
        self.path = tempfile.mkdtemp(prefix=f"millrace-bench-{name}-", dir=os.environ.get("TMPDIR", "/tmp"))
        self.children = []
        self.clusters = []
        self.mounts = []
        self.keep = keep
        atexit.register(self.close)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: (_ for _ in ()).throw(SystemExit(1)))

    def file(self, name, text=None):
        path = os.path.join(self.path, name)
        if text is not None:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        return path

    def start(self, name, command):
        log = open(self.file(f"{name}.log"), "ab")
        child = subprocess.Popen(command, cwd=self.path, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        self.children.append(child)
        return child

    def log_of(self, name, size=3000):
        with open(self.file(f"{name}.log"), encoding="utf-8", errors="replace") as file:
            return file.read()[-size:]

    def stop(self, child, seconds=25):
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(seconds)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        if child in self.children:
            self.children.remove(child)
        return child.returncode

    def kafka(self, heap="512m", version="4.2.0"):
        directory = self.file("kafka")
        command = [KAFKA, "start", "--dir", directory, "--version", version, "--heap", heap]
        self.clusters.append(directory)
        return subprocess.run(command, check=True, timeout=120, stdout=subprocess.PIPE, text=True).stdout.split()[-1]

    def tmpfs(self, name, size):
        """A disk that is soon full; None for who may not mount one."""
        place = self.file(name)
        os.mkdir(place)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place]
        if os.getuid() != 0 or subprocess.run(mount, check=False, stderr=subprocess.DEVNULL).returncode != 0:
            return None
        self.mounts.append(place)
        return place

    def close(self):
        for child in reversed(self.children[:]):
            self.stop(child)
        for directory in self.clusters:
            subprocess.run(
                [KAFKA, "stop", "--dir", directory, "--kill"], timeout=60, check=False, stdout=subprocess.DEVNULL
            )
        self.clusters = []
        for place in self.mounts:
            subprocess.run(["umount", place], check=False)
        self.mounts = []
        if self.keep:
            print(f"kept: {self.path}")
        else:
            shutil.rmtree(self.path, ignore_errors=True)


def filled_topic(work, binary, store, options, events, rules="null", loadgen=()):
    """The configuration of a consumer on a store, beside a real Kafka whose topic holds so many events of 24 hours."""
    config = work.file("millrace.yaml", f"""
log: {kafka_yaml(work.kafka(heap="1g"), options.partitions)}
journal: {{ directory: {work.path}/journal }}
store: {{ url: "{store.url}" }}
consumer: {{ ops_listen: 127.0.0.1:{free_port()} }}
normalization: {{ rules: {rules} }}
auth: {{ mode: open }}
""")
    run([binary, "topics", "ensure", "--config", config], 60)
    end = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    begin = end - datetime.timedelta(days=1)
    clock = time.monotonic()
    run([binary, "loadgen", "--config", config, "--events", str(events), "--from",
         begin.strftime("%Y-%m-%dT%H:%M:%SZ"), "--to", end.strftime("%Y-%m-%dT%H:%M:%SZ"), *loadgen],
        120 + events // 5_000)
    rate = events / (time.monotonic() - clock)
    print(f"loadgen: {events} events, {rate:.0f} events/s", flush=True)
    return config, rate


def fetch(url):
    """Status and body; (0, "") where nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def wait_until(what, seconds, is_done, detail=lambda: "", every=0.05):
    deadline = time.monotonic() + seconds
    while not is_done():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {seconds} s: {what}\n{detail()}")
        time.sleep(every)


def wait_ready(work, name, child, url, seconds=60):
    def is_ready():
        if child.poll() is not None:
            raise SystemExit(f"{name} ended with {child.returncode}:\n{work.log_of(name)}")
        return fetch(url)[0] == 200

    wait_until(f"{name} is ready", seconds, is_ready, lambda: work.log_of(name))


def memory_mib(pid):
    """Resident memory now and at its highest, in MiB; file pages that are mapped (the journal) are in neither."""
    values = {}
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        for line in file:
            name, _, rest = line.partition(":")
            if name in ("RssAnon", "VmRSS", "VmHWM"):
                values[name] = int(rest.split()[0]) / 1024
    return values


def cpu_seconds(pid):
    """User and system time of the process so far: what a request costs, whatever else the machine does."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def find_binary(given):
    path = given or os.path.join(ROOT, ".build", "release", "millrace")
    if not os.access(path, os.X_OK):
        raise SystemExit(f"{path} is not there: swift build -c release --product millrace, or --binary PATH")
    return os.path.abspath(path)


def run(command, seconds, **options):
    result = subprocess.run(
        command, timeout=seconds, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False, **options
    )
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {result.returncode}:\n{result.stdout}{result.stderr}")
    return result.stdout


def need(*programs):
    for program in programs:
        if shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin") is None:
            raise SystemExit(f"{program} is not installed: apt-get install nginx-light libnginx-mod-http-echo wrk sqlite3")


def kafka_yaml(servers, partitions=6):
    return f'{{ kind: kafka, kafka: {{ bootstrap_servers: "{servers}", partitions: {partitions} }} }}'


def print_json(path, values):
    if path:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(values, file, indent=2)
            file.write("\n")
