"""A pipeline as in production, for tests that trouble it: three roles around a real Kafka and a PostgreSQL server, clients that
ask through the proxy, each request with a metadata value of its own, and the judge of what came of them."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "Benchmarks"))

from harness import KAFKA, fetch, free_port, kafka_yaml, memory_mib, run, wait_ready, wait_until
from stores import PostgreSQL

RULES = """
version: 1
classes: { request_id: identifier, _user: entity, soak: identifier }
"""
BODY = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Still there?"}]})
ROLES = ["proxy", "consumer", "api"]


class Site:
    """The servers, the three roles, and what can happen to them."""

    def __init__(self, work, binary, reuse_port=False):
        self.work, self.binary, self.reuse_port = work, binary, reuse_port
        self.store = PostgreSQL(work)
        self.wire = Wire(self.store.port)
        self.kafka = work.kafka(heap="512m")
        self.ports = {name: free_port() for name in ["provider", "proxy", "proxy_ops", "consumer_ops", "api"]}
        self.disk = work.tmpfs("disk", "64m")
        self.config = self.configuration("millrace.yaml", self.store.port)
        wired = self.configuration("consumer.yaml", self.wire.port)
        self.configs = {"proxy": self.config, "consumer": wired, "api": self.config}
        self.work.start("provider", [binary, "mock-provider", "--listen", f"127.0.0.1:{self.ports['provider']}"])
        run([binary, "topics", "ensure", "--config", self.config], 60)
        self.children, self.names, self.known, self.replaced = {}, {}, 0, 0
        for role in ROLES:
            self.start(role)

    def configuration(self, name, store_port):
        port = self.ports
        url = self.store.url.replace(f":{self.store.port}/", f":{store_port}/")
        return self.work.file(name, f"""
log: {kafka_yaml(self.kafka)}
journal: {{ directory: {self.disk or self.work.path}/journal, segment_size_bytes: 1048576, max_size_bytes: 33554432, retention_seconds: 0 }}
store: {{ url: "{url}" }}
proxy:
  listen: 127.0.0.1:{port['proxy']}
  ops_listen: 127.0.0.1:{port['proxy_ops']}
  reuse_port: {str(self.reuse_port).lower()}
  providers: {{ openai: {{ base_url: "http://127.0.0.1:{port['provider']}/v1" }} }}
consumer: {{ ops_listen: 127.0.0.1:{port['consumer_ops']} }}
api: {{ listen: 127.0.0.1:{port['api']} }}
normalization: {{ rules: {self.work.file("rules.yaml", RULES)} }}
auth: {{ mode: open }}
""")

    # MARK: Roles

    def start(self, role):
        self.names[role] = role
        self.children[role] = self.work.start(role, [self.binary, role, "--config", self.configs[role]])
        port = self.ports["api" if role == "api" else f"{role}_ops"]
        wait_ready(self.work, role, self.children[role], f"http://127.0.0.1:{port}/readyz")

    def replace(self, role, binary):
        """Another program in its place, as docs/operating.md has it: of proxies and consumers the new one is there before
        the old one leaves."""
        self.binary = binary
        self.replaced += 1
        old, name, command = self.children[role], f"{role}-{self.replaced}", [binary, role, "--config", self.configs[role]]
        if role == "api":
            self.end(old)
            old = None
        if role == "consumer":
            self.ports["consumer_ops"] = free_port()
            command += ["--consumer.ops_listen", f"127.0.0.1:{self.ports['consumer_ops']}"]
        self.names[role] = name
        self.children[role] = self.work.start(name, command)
        if role == "proxy":
            # Both answer at the operations port.
            wait_until(f"{name} listens", 60, lambda: "ops_listening" in self.log_of(role), lambda: self.log_of(role))
        else:
            port = self.ports["api" if role == "api" else "consumer_ops"]
            wait_ready(self.work, name, self.children[role], f"http://127.0.0.1:{port}/readyz")
        if old:
            self.end(old)

    def log_of(self, role):
        """Of the process that has the role now."""
        return self.work.log_of(self.names[role])

    def end(self, child):
        status = self.work.stop(child)
        if status != 0:
            raise SystemExit(f"status {status} after SIGTERM: {' '.join(child.args)}")

    def kill(self, role):
        child = self.children[role]
        child.kill()
        child.wait()
        self.work.children.remove(child)

    def memory(self):
        return {role: memory_mib(self.children[role].pid)["RssAnon"] for role in ROLES}

    def applied(self):
        """As last told, where the store is away."""
        self.known = self.store.applied() or self.known
        return self.known

    def lag(self):
        """Records; None where the consumer does not say."""
        status, text = fetch(f"http://127.0.0.1:{self.ports['consumer_ops']}/metrics")
        found = [float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith("millrace_consumer_lag_records")]
        return sum(found) if status == 200 and found else None

    # MARK: Load

    def loadgen(self, events, *more):
        return [self.binary, "loadgen", "--config", self.config, "--events", str(events), "--profile", "services", *more]

    def full_rate(self, events):
        clock = time.monotonic()
        run(self.loadgen(events, "--seed", "2"), 300)
        wait_until("they are applied", 300, lambda: self.applied() >= events, lambda: self.log_of("consumer"))
        return events / (time.monotonic() - clock)

    def start_load(self, events, rate):
        return self.work.start("loadgen", self.loadgen(events, "--rate", str(rate), "--seed", "3"))

    def await_catch_up(self, rate, load):
        """Until no more than comes in two seconds waits."""
        deadline = time.monotonic() + 300
        while True:
            lag = self.lag()
            if lag is not None and lag < 2 * rate:
                return
            if load.poll() not in (None, 0):
                raise SystemExit(f"loadgen ended with {load.returncode}: {self.work.log_of('loadgen')}")
            if time.monotonic() > deadline:
                raise SystemExit(f"{lag} records wait after 300 s:\n{self.log_of('consumer')}")
            time.sleep(0.2)

    # MARK: Faults

    def faults(self):
        def killed(role):
            def fault():
                self.kill(role)
                self.start(role)
            return fault

        faults = [
            ("consumer killed", killed("consumer")), ("broker killed", self.broker_killed), ("proxy killed", killed("proxy")),
            ("store killed", self.store_killed), ("API killed", killed("api")), ("network cut", self.network_cut),
            ("consumer frozen", self.consumer_frozen),
        ]
        if self.disk:
            return faults + [("disk full", self.disk_full)]
        print("not root: no disk is filled")
        return faults

    def broker_killed(self):
        directory = self.work.clusters[0]
        run([KAFKA, "stop", "--dir", directory, "--kill"], 60)
        time.sleep(10)
        run([KAFKA, "start", "--dir", directory, "--heap", "512m"], 120)

    def store_killed(self):
        self.store.crash()
        time.sleep(10)
        self.store.serve()

    def network_cut(self):
        self.wire.cut()
        time.sleep(15)
        self.wire.mend()

    def consumer_frozen(self):
        child = self.children["consumer"]
        child.send_signal(signal.SIGSTOP)
        time.sleep(20)
        child.send_signal(signal.SIGCONT)

    def disk_full(self):
        filler = os.path.join(self.disk, "filler")
        with open(filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
            except OSError:
                pass
        time.sleep(15)
        os.remove(filler)

    # MARK: The end

    def judge(self, before, sent, clients):
        """What does not hold, a sentence each."""
        wait_until("the lag is gone", 300, lambda: self.lag() == 0, lambda: self.log_of("consumer"))
        wait_until("the proxy has shipped everything", 120, self.is_shipped, lambda: self.log_of("proxy"))
        wait_until("the lag is gone", 120, lambda: self.lag() == 0, lambda: self.log_of("consumer"))
        failures = []
        seen = {}
        for line in self.export():
            name = json.loads(line)["metadata"]["soak"]
            seen[name] = seen.get(name, 0) + 1
        answered = set().union(*(client.answered for client in clients))
        unanswered = sum(client.failed for client in clients)
        lost = [name for name in answered if name not in seen]
        doubled = [name for name, count in seen.items() if count > 1]
        other = len(seen) - len(answered & seen.keys())
        events = self.store.events()
        print(f"\n{sent} events sent, {len(answered)} requests answered, {unanswered} broken off by a kill ({other} of them counted)")
        print(f"lost {len(lost)}, doubled {len(doubled)}; events in the store {events - before}")
        if lost:
            failures.append(f"answered and not counted: {sorted(lost)[:5]}")
        if doubled:
            failures.append(f"counted twice: {sorted(doubled)[:5]}")
        if events - before != sent + len(seen):
            failures.append(f"{events - before} events are in the store, {sent} + {len(seen)} were sent")
        sums = {grain: requests for grain, requests, _ in self.store.grains() if grain < 3}
        print(f"requests by grain {sums}, events {events}")
        if set(sums.values()) != {events}:
            failures.append(f"tables differ: {sums}, events {events}")
        told = subprocess.run(
            [self.binary, "reconcile", "--config", self.config, "--fail-on-difference"], timeout=120, capture_output=True, text=True, check=False)
        if told.returncode != 0:
            failures.append(f"reconciliation does not close:\n{told.stdout[-3_000:]}{told.stderr[-500:]}")
        return failures

    def is_shipped(self):
        _, text = fetch(f"http://127.0.0.1:{self.ports['proxy_ops']}/metrics")
        found = [line for line in text.splitlines() if line.startswith("millrace_shipping_backlog_records")]
        return bool(found) and all(float(line.rsplit(" ", 1)[1]) == 0 for line in found)

    def export(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["api"], timeout=300)
        connection.request("GET", "/v1/events?format=jsonl&where=metadata.soak%20exists")
        response = connection.getresponse()
        if response.status != 200:
            raise SystemExit(f"the export answered {response.status}: {response.read().decode()}")
        return (line for line in response if line.strip())


class Client(threading.Thread):
    """Asks at a rate over one connection; what breaks off is not asked again."""

    def __init__(self, port, name, rate):
        super().__init__(daemon=True)
        self.port, self.prefix, self.rate = port, name, rate
        self.answered, self.failed, self.last_failure = set(), 0, ""
        self.is_over = threading.Event()

    def run(self):
        connection, number, due = None, 0, time.monotonic()
        while not self.is_over.is_set():
            time.sleep(max(0, due - time.monotonic()))
            due = max(due + 1 / self.rate, time.monotonic() - 1)
            name = f"{self.prefix}-{number}"
            number += 1
            headers = {"content-type": "application/json", "x-portkey-provider": "openai", "x-portkey-meta": json.dumps({"soak": name})}
            try:
                connection = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
                connection.request("POST", "/v1/chat/completions", BODY, headers)
                response = connection.getresponse()
                response.read()
                if response.status != 200:
                    raise http.client.HTTPException(response.status)
                self.answered.add(name)
            except (OSError, http.client.HTTPException) as error:
                self.failed += 1
                self.last_failure = repr(error)
                connection = None
                time.sleep(0.05)

    def stop(self):
        self.is_over.set()
        self.join(60)


class Wire:
    """Passes bytes on to a port of this machine, until it is cut: then no byte goes either way, and no end is told."""

    def __init__(self, target):
        self.target, self.is_whole = target, threading.Event()
        self.is_whole.set()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def cut(self):
        self.is_whole.clear()

    def mend(self):
        self.is_whole.set()

    def accept(self):
        while True:
            near, _ = self.listener.accept()
            threading.Thread(target=self.connect, args=(near,), daemon=True).start()

    def connect(self, near):
        self.is_whole.wait()
        try:
            far = socket.create_connection(("127.0.0.1", self.target), timeout=10)
        except OSError:
            return near.close()
        far.settimeout(None)
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=self.pump, args=(source, sink), daemon=True).start()

    def pump(self, source, sink):
        try:
            while data := source.recv(1 << 16):
                self.is_whole.wait()
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

