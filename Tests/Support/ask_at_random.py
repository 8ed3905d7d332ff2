#!/usr/bin/env python3
"""Asks random questions over HTTP and answers each a second time, by walking over all events.

usage: ask_at_random.py MILLRACE STORE_URL SEED COUNT [EVENTS]

Starts `MILLRACE up` on the store, which is to be empty, loads random events around a change of the clocks, and asks COUNT
questions of the whole grammar: every measure, filters on names, metadata of each class and numbers, zones, groups, orders
and limits. Prints what differs, with the question, and ends with status 1.
"""
import bisect
import datetime
import http.client
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
from decimal import Decimal
from zoneinfo import ZoneInfo

program, store, seed, wanted = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
size = int(sys.argv[5]) if len(sys.argv) > 5 else 500
rand = random.Random(seed)
faults = []
MICRO = 1_000_000
DAY = 86_400 * MICRO
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
ZONES = {name: ZoneInfo(name) for name in ("UTC", "Europe/Paris", "America/New_York", "Asia/Kathmandu", "Asia/Kolkata")}


def chance(percent):
    return rand.randrange(100) < percent


# The world.

def offset(zone, second):
    return int(datetime.datetime.fromtimestamp(second, zone).utcoffset().total_seconds())


def last_change(zone):
    """The day before the one on which the zone's clocks changed last, two whole days ago or more."""
    day = int(time.time()) // 86_400 - 3
    while offset(zone, day * 86_400) == offset(zone, (day + 1) * 86_400):
        day -= 1
    return day


BASE = (last_change(ZONES[rand.choice(["Europe/Paris", "America/New_York"])]) - 1) * DAY
SPAN = 4 * DAY
VALUES = {
    "provider": ["openai", "anthropic"], "operation": ["chat", "embeddings"],
    "model": ["gpt-4o", "gpt-4o-mini", "claude", "none"], "api_key": ["k1", "k2"],
    "outcome": ["success", "client_error", "provider_error", "timeout", "cancelled"],
    "status_class": ["2xx", "4xx", "5xx"], "metadata.env": ["production", "staging", "dev"],
    "metadata.team": ["a", "b", "x'y", "Zoë", "12"], "metadata.tags": ["red", "blue", "green"],
    'metadata."Any key"': ["1", "true", "a b"], "metadata.missing": ["x"], "metadata.level": ["7", "12", "1.5", "true"],
    "metadata.user": [f"u{number}" for number in range(30)], "metadata.request_id": [f"r{number}" for number in range(300)],
}
RULES = """version: 1
keys: { case: keep }
values: { arrays: { default: json, tags: multi } }
classes: { user: entity, request_id: identifier }
observe: { enabled: false }
"""


def moment():
    at = BASE + rand.randrange(-SPAN // 8, SPAN + SPAN // 8)
    unit = rand.choice([1, 1, MICRO, 60 * MICRO, 3600 * MICRO, DAY])
    return at // unit * unit


def written(micros):
    at = EPOCH + datetime.timedelta(microseconds=micros)
    return at.strftime("%Y-%m-%dT%H:%M:%S") + (f".{micros % MICRO:06d}" if micros % MICRO else "") + "Z"


def made(number):
    at = BASE + rand.randrange(SPAN)
    if chance(5):
        at = at // (1800 * MICRO) * (1800 * MICRO)
    line = {"time": written(at), "provider": rand.choice(VALUES["provider"]), "request_model": rand.choice(VALUES["model"])}
    line["workspace"] = "default" if chance(92) else "other"
    if chance(90):
        line["operation"] = rand.choice(VALUES["operation"])
    if chance(50):
        line["response_model"] = rand.choice(VALUES["model"])
    if chance(80):
        line["api_key"] = rand.choice(VALUES["api_key"])
    line["status"] = rand.choice([200, 200, 200, 400, 429, 500, 504, 0])
    line["outcome"] = {0: "cancelled", 200: "success", 504: "timeout"}.get(line["status"], "client_error" if line["status"] < 500 else "provider_error")
    for name, most in (("input_tokens", 2000), ("output_tokens", 900), ("cached_tokens", 20), ("reasoning_tokens", 20),
                       ("request_bytes", 5000), ("response_bytes", 5000)):
        line[name] = rand.randrange(most)
    if chance(85):
        line["cost_usd"] = Decimal(rand.randrange(90_000_000)).scaleb(-9)
    for name, percent, most in (("latency_ms", 95, 9_000_000), ("first_token_ms", 40, 900_000), ("overhead_ms", 95, 2_000)):
        if chance(percent):
            line[name] = Decimal(rand.randrange(20, most)).scaleb(-3)
    pairs = {}
    for name, percent in (("env", 90), ("team", 70), ("level", 30), ("user", 80), ("request_id", 60)):
        if chance(percent):
            pairs[name] = rand.choice(VALUES["metadata." + name])
    if "level" in pairs and chance(70):
        # Sent as what it looks like: a number or a boolean.
        pairs["level"] = json.loads(pairs["level"])
    if chance(20):
        pairs["Any key"] = rand.choice(VALUES['metadata."Any key"'])
    if chance(50):
        pairs["tags"] = [tag for tag in ("blue", "green", "red") if chance(50)] or ["red"]
    line["metadata"] = pairs
    return at, line


class Event:
    def __init__(self, at, line):
        self.at, self.line = at, line
        get = line.get

        def values(text):
            return (text,) if text else ()

        self.values = {
            "provider": values(get("provider")), "operation": values(get("operation")), "api_key": values(get("api_key")),
            "model": values(get("response_model") or get("request_model")), "outcome": values(get("outcome")),
            "status_class": (f"{line['status'] // 100}xx",) if line["status"] else (),
        }
        self.groups = {name: found[0] if found else None for name, found in self.values.items()}
        for name in VALUES:
            if name.startswith("metadata."):
                value = line["metadata"].get(name[9:].strip('"'))
                if isinstance(value, bool) or isinstance(value, (int, float)):
                    value = json.dumps(value)
                self.values[name] = () if value is None else tuple(value) if isinstance(value, list) else (value,)
                self.groups[name] = tuple(value) if isinstance(value, list) else value
        cost = get("cost_usd")
        self.cost = None if cost is None else int(cost.scaleb(9))
        self.timings = {name: None if get(name) is None else int(get(name).scaleb(3)) for name in ("latency_ms", "first_token_ms", "overhead_ms")}
        self.numbers = {
            "latency_ms": get("latency_ms"), "cost_usd": cost, "input_tokens": Decimal(line["input_tokens"]),
            "output_tokens": Decimal(line["output_tokens"]), "total_tokens": Decimal(line["input_tokens"] + line["output_tokens"]),
            "status": Decimal(line["status"]) if line["status"] else None,
        }


class Encoder(json.JSONEncoder):
    def default(self, value):
        return float(value)


made_events = sorted((made(number) for number in range(size)), key=lambda one: one[0])
events = [Event(at, line) for at, line in made_events if line["workspace"] == "default"]
times = [event.at for event in events]


# Questions.

def quoted(text):
    return "'" + text.replace("'", "''") + "'"


NUMBERS = {"latency_ms": 9000, "cost_usd": 0, "input_tokens": 2000, "output_tokens": 900, "total_tokens": 2900, "status": 0}


def condition(depth, numbers):
    """Its text, and what it asks of an event."""
    if depth and chance(55):
        kind = rand.randrange(3)
        text, holds = condition(depth - 1, numbers)
        if kind == 0:
            return f"not ({text})", lambda event: not holds(event)
        more, also = condition(depth - 1, numbers)
        if kind == 1:
            return f"({text}) AND ({more})", lambda event: holds(event) and also(event)
        return f"({text}) or ({more})", lambda event: holds(event) or also(event)
    if numbers and chance(30):
        name = rand.choice(list(NUMBERS))
        bound = {"cost_usd": f"0.0{rand.randrange(1000):03d}", "status": rand.choice(["200", "400", "429", "500"])}.get(name) or str(rand.randrange(NUMBERS[name]))
        value = Decimal(bound)
        sign, test = rand.choice([
            ("<", lambda a: a < value), ("<=", lambda a: a <= value), ("=", lambda a: a == value), (">=", lambda a: a >= value),
            (">", lambda a: a > value), ("!=", None)])
        if sign == "!=":
            return f"{name} != {bound}", lambda event: event.numbers[name] != value
        return f"{name} {sign} {bound}", lambda event: event.numbers[name] is not None and test(event.numbers[name])
    name = rand.choice(list(VALUES))
    value, other = rand.choice(VALUES[name]), rand.choice(VALUES[name])
    said = value if name == "metadata.level" and chance(50) else quoted(value)
    prefix = value[: rand.randrange(4)]
    closed = name in ("outcome", "status_class")
    return rand.choice([
        (f"{name} = {said}", lambda event: value in event.values[name]),
        (f"{name}!={said}", lambda event: value not in event.values[name]),
        (f"{name} IN ({said}, {quoted(other)})", lambda event: value in event.values[name] or other in event.values[name]),
        (f"{name} not in ({said},{quoted(other)})", lambda event: not (value in event.values[name] or other in event.values[name])),
        (f"{name} exists", lambda event: bool(event.values[name])),
        (f"{name} not exists", lambda event: not event.values[name]),
        (f"{name} Like {quoted(prefix + '%')}", lambda event: any(one.startswith(prefix) for one in event.values[name])),
    ])


SUMS = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "request_bytes", "response_bytes")
MEASURES = ["requests", "errors", "error_rate", "cost_usd", "total_tokens", *SUMS,
            *(f"{name}.{kind}" for name in ("latency_ms", "first_token_ms", "overhead_ms") for kind in ("avg", "p50", "p90", "p95", "p99")),
            "distinct.metadata.team", "distinct.metadata.tags", "distinct.metadata.user", "distinct.metadata.request_id"]
ERRORS = {"client_error", "provider_error", "timeout"}


def is_estimate(name):
    return re.search(r"\.p\d", name) is not None


def measured(name, some):
    if name == "requests":
        return len(some)
    if name == "errors":
        return sum(event.line["outcome"] in ERRORS for event in some)
    if name == "error_rate":
        return sum(event.line["outcome"] in ERRORS for event in some) / len(some) if some else None
    if name == "cost_usd":
        return Decimal(sum(event.cost or 0 for event in some)).scaleb(-9)
    if name in SUMS:
        return sum(event.line[name] for event in some)
    if name == "total_tokens":
        return sum(event.line["input_tokens"] + event.line["output_tokens"] for event in some)
    if name.startswith("distinct."):
        return len({value for event in some for value in event.values[name[9:]]})
    kind, which = name.split(".")
    found = sorted(value for event in some if (value := event.timings[kind]) is not None)
    if not found:
        return None
    if which == "avg":
        return sum(found) / len(found) / 1000
    return found[max(1, -(-int(which[1:]) * len(found) // 100)) - 1] / 1000


labels = {}


def label(event, granularity, zone_name):
    """Where the zone's clock stood at the beginning of the event's bucket."""
    if granularity == "total":
        return None
    key = (event.at, granularity, zone_name)
    if key not in labels:
        zone, second = ZONES[zone_name], event.at // MICRO
        if granularity == "day":
            local = datetime.datetime.fromtimestamp(second, zone)
            start = int(datetime.datetime(local.year, local.month, local.day, tzinfo=zone).timestamp())
        else:
            unit = {"minute": 60, "hour": 3600}[granularity]
            start = second - (second + offset(zone, second)) % unit
        text = datetime.datetime.fromtimestamp(start, zone).isoformat()
        labels[key] = text.replace("+00:00", "Z") if zone_name == "UTC" else text
    return labels[key]


def rank_of(value):
    return b"" if value is None else b"1" + (json.dumps(value, ensure_ascii=False, separators=(",", ":")) if isinstance(value, tuple) else value).encode()


def automatic(length):
    return "minute" if length <= 4 * 3600 * MICRO else "hour" if length <= 7 * DAY else "day"


class Client:
    def __init__(self, port):
        self.port, self.connection = port, None

    def ask(self, method, path, body=None, headers={}):
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            self.connection.request(method, path, body, headers)
            response = self.connection.getresponse()
            return response.status, response.headers, response.read()
        except (http.client.HTTPException, OSError):
            self.connection = None
            raise


def compare(context, names, found, some):
    for name in names:
        expected, value = measured(name, some), found[name]
        if expected is None or value is None:
            same = expected is None and value is None
        elif is_estimate(name):
            same = abs(float(value) - expected) <= expected * 0.0101 + 0.001
        elif name == "error_rate" or name.endswith(".avg"):
            same = abs(float(value) - expected) <= 1e-6
        else:
            same = value == expected
        if not same:
            faults.append(f"{context}: {name} is {value}, not {expected}")


def question(client, number):
    start, end = sorted((moment(), moment()))
    end += start == end
    granularity, zone = rand.choice(["total", "total", "minute", "hour", "day", "auto"]), rand.choice(list(ZONES))
    text, holds = condition(3, chance(25)) if chance(80) else ("", lambda event: True)
    groups = rand.sample(list(VALUES), rand.randrange(4))
    each = chance(15) and "metadata.tags" not in groups
    names = groups + (["each(metadata.tags)"] if each else [])
    measures = rand.sample(MEASURES, 4)
    order = rand.choice(measures + names) if chance(50) else None
    falls = order is None or chance(50)
    by = order or measures[0]
    limit = 10_000 if is_estimate(by) else rand.choice([1, 2, 5, 100])
    asked = {"from": written(start), "to": written(end), "granularity": granularity, "timezone": zone, "group_by": names, "measures": measures, "limit": limit}
    if text:
        asked["where"] = text
    if order:
        asked["order_by"] = ("-" if falls else "") + order
    context = f"question {number}: {json.dumps(asked, ensure_ascii=False)}"
    if chance(80):
        status, _, body = client.ask("POST", "/v1/query", json.dumps(asked), {"content-type": "application/json"})
    else:
        path = "/v1/query?" + urllib.parse.urlencode({name: ",".join(value) if isinstance(value, list) else value for name, value in asked.items() if value})
        status, headers, body = client.ask("GET", path)
        if status == 200 and chance(30):
            again = client.ask("GET", path, headers={"if-none-match": headers["etag"]})
            if again[0] != 304 or again[2]:
                faults.append(f"{context}: its tag is answered {again[0]}")
    if status != 200:
        return faults.append(f"{context}: {status} {body[:300]}")
    answer = json.loads(body, parse_float=Decimal)
    if not answer["exact"] or answer.get("overlapping", False) != each:
        faults.append(f"{context}: exact {answer['exact']}, overlapping {answer.get('overlapping')}")

    # The walk.
    unit = automatic(end - start) if granularity == "auto" else granularity
    if answer["granularity"] != unit:
        faults.append(f"{context}: granularity {answer['granularity']}, not {unit}")
    matching = [event for event in events[bisect.bisect_left(times, start):bisect.bisect_left(times, end)] if holds(event)]
    by_group = {}
    for event in matching:
        keys = [()]
        for name in names:
            choices = (event.values["metadata.tags"] or (None,)) if name.startswith("each(") else (event.groups[name],)
            keys = [key + (choice,) for key in keys for choice in choices]
        for key in keys:
            by_group.setdefault(key, []).append(event)
    ranked = sorted(by_group, key=lambda key: [rank_of(value) for value in key])
    if by in names:
        ranked.sort(key=lambda key: rank_of(key[names.index(by)]), reverse=falls)
    else:
        figures = {key: measured(by, some) for key, some in by_group.items()}
        ranked.sort(key=lambda key: (figures[key] is None, 0 if figures[key] is None else -figures[key] if falls else figures[key]))

    def split(some):
        out = {}
        for event in some:
            out.setdefault(label(event, unit, zone), []).append(event)
        return out

    places = {key: index for index, key in enumerate(ranked)}
    cells = {(bucket, key): some for key in ranked for bucket, some in split(by_group[key]).items()}
    seen, last = set(), None
    for row in answer["data"]:
        key = tuple(tuple(value) if isinstance(value, list) else value for value in (row["group"][name] for name in names))
        some, place = cells.get((row["bucket"], key)), places.get(key, limit)
        if some is None or place >= limit or (row["bucket"], key) in seen:
            faults.append(f"{context}: {row} should not be there")
            continue
        seen.add((row["bucket"], key))
        if not is_estimate(by) and last and row["bucket"] == last[0] and place < last[1]:
            faults.append(f"{context}: {row} is out of order")
        last = (row["bucket"], place)
        compare(f"{context}: {row}", measures, row["measures"], some)
    missing = {cell for cell in cells if places[cell[1]] < limit} - seen
    if missing:
        faults.append(f"{context}: {len(missing)} rows are missing, such as {next(iter(missing))}")
    compare(f"{context}: totals", measures, answer["totals"], matching)
    if not each:
        rest = split(event for key in ranked[limit:] for event in by_group[key])
        if {row["bucket"] for row in answer["other"]} != set(rest):
            faults.append(f"{context}: other has {answer['other']}")
        else:
            for row in answer["other"]:
                compare(f"{context}: other {row['bucket']}", measures, row["measures"], rest[row["bucket"]])
                if row["groups"] != sum((row["bucket"], key) in cells for key in ranked[limit:]):
                    faults.append(f"{context}: other {row}")


# Running.

def free_port():
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


with tempfile.TemporaryDirectory(prefix="millrace-questions-") as work:
    work = pathlib.Path(work)
    port = free_port()
    (work / "rules.yaml").write_text(RULES)
    # The finest rollups may be gone already: then events stand in.
    minutes = rand.choice([1, 1_000])
    (work / "millrace.yaml").write_text(f"""
store: {{ url: {json.dumps(store)} }}
journal: {{ directory: {work}/journal, segment_size_bytes: 4194304 }}
proxy: {{ listen: "127.0.0.1:0", ops_listen: "127.0.0.1:0" }}
api: {{ listen: "127.0.0.1:{port}" }}
auth: {{ mode: open }}
normalization: {{ rules: {work}/rules.yaml }}
retention: {{ events_days: 1000, minute_days: {minutes}, hour_days: 1000, day_days: 1100 }}
""")
    (work / "events.jsonl").write_text("".join(json.dumps(line, cls=Encoder, ensure_ascii=False) + "\n" for _, line in made_events))
    log = open(work / "log", "wb")
    up = subprocess.Popen([program, "up", "--config", "millrace.yaml"], cwd=work, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        client = Client(port)
        end = time.monotonic() + 60

        def until(what, test):
            while True:
                try:
                    if test():
                        return
                except OSError:
                    pass
                if up.poll() is not None or time.monotonic() > end:
                    sys.exit(f"waited for: {what}\n{(work / 'log').read_text()[-3000:]}")
                time.sleep(0.02)

        until("the API", lambda: client.ask("GET", "/readyz")[0] == 200)
        subprocess.run([program, "loadgen", "--from-file", "events.jsonl", "--config", "millrace.yaml"], cwd=work, check=True,
                       stdout=log, stderr=log, timeout=60)
        until("all events", lambda: json.loads(client.ask("GET", "/v1/query?from=2000-01-01T00:00:00Z")[2])["totals"]["requests"] == len(events))
        began = time.monotonic()
        for number in range(wanted):
            question(client, number)
            if len(faults) > 20:
                break
        took = time.monotonic() - began
    finally:
        up.send_signal(signal.SIGTERM)
        if up.wait(30) != 0:
            faults.append(f"up ended with {up.returncode}: {(work / 'log').read_text()[-2000:]}")
        log.close()

for text in faults[:20]:
    print(text)
print(f"{wanted} questions about {size} events, seed {seed}, {took:.1f} s, {len(faults)} faults")
sys.exit(1 if faults else 0)
