"""One server of a test in a directory of its own: started so that it outlives the script, found again, ended by its pid."""
import json, os, pathlib, random, signal, socket, subprocess, sys, time

PAUSE = 0.02


def free_port():
    """Below the range that the system hands out by itself: no client's own end takes it while its server is away."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


class Background:
    """`kind`: `broker`, say: its facts stand in broker.json, its output in broker.log. `marker`: a text of its command."""

    def __init__(self, script, directory, kind, marker):
        self.script, self.directory, self.kind, self.marker = script, directory, kind, str(marker).encode()
        self.facts = directory / f"{kind}.json"
        self.log = directory / f"{kind}.log"

    def is_alive(self, pid):
        """The process runs and is ours, not another that got the same number later."""
        try:
            command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
            state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return False
        return state != "Z" and (not command or self.marker in command)

    def start(self, command, answers, wait, port=0):
        """Its port, the same as before where it ran before. `command` and `answers` are given the port."""
        self.directory.mkdir(parents=True, exist_ok=True)
        facts = json.loads(self.facts.read_text()) if self.facts.exists() else {"port": port or free_port(), "pid": None}
        if not facts["pid"] or not self.is_alive(facts["pid"]):
            with open(self.log, "ab") as log:
                facts["pid"] = subprocess.Popen(
                    command(facts["port"]), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory,
                    start_new_session=True).pid
            self.facts.write_text(json.dumps(facts))
        deadline = time.monotonic() + wait
        while not answers(facts["port"]):
            if not self.is_alive(facts["pid"]) or time.monotonic() > deadline:
                tail = self.log.read_text(errors="replace")[-2000:]
                sys.exit(f"{self.script}: the {self.kind} did not start; the end of its log:\n{tail}")
            time.sleep(PAUSE)
        return facts["port"]

    def stop(self, wait, kill):
        """SIGTERM, and SIGKILL after the wait; `kill`: SIGKILL at once. Returns when it has ended."""
        try:
            facts = json.loads(self.facts.read_text())
        except FileNotFoundError:
            sys.exit(f"{self.script}: no {self.kind} in {self.directory}")
        deadline = time.monotonic() + wait
        sent = None
        while self.is_alive(facts["pid"]):
            wanted = signal.SIGKILL if kill or time.monotonic() > deadline else signal.SIGTERM
            if sent != wanted:
                os.kill(facts["pid"], wanted)
                sent = wanted
            time.sleep(PAUSE)
