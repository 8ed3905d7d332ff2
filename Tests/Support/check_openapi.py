"""Holds the running API and its description against each other, both ways.

usage: check_openapi.py http://HOST:PORT REPOSITORY SEED

Every documented operation is asked, with its examples and with odd values; each answer must have a documented status,
type and shape, and none may be a 5xx. Every path that the sources answer must be documented, and every other method
refused. Prints what differs and ends with status 1.
"""
import datetime
import json
import pathlib
import random
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import jsonschema

from openapi_references import resolver

base, repository, seed = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])
random.seed(seed)
faults = []
asked = 0


def fault(text):
    faults.append(text)


def ask(method, path, body=None, headers=None):
    global asked
    asked += 1
    request = urllib.request.Request(base + path, data=body, method=method, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


document = json.loads(ask("GET", "/openapi.json")[2])
if document != json.loads((repository / "schemas/openapi.json").read_text()):
    fault("/openapi.json is not schemas/openapi.json")
resolved = resolver(document)


def validated(value, schema, where):
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "components": document["components"], **schema}
    for error in list(jsonschema.Draft202012Validator(schema).iter_errors(value))[:3]:
        fault(f"{where}: {list(error.absolute_path)}: {error.message[:200]}")


def checked(operation, method, path, status, headers, body):
    where = f"{method} {path} -> {status}"
    if status >= 500:
        return fault(f"{where}: {body[:300]}")
    described = operation["responses"].get(str(status))
    if described is None:
        return fault(f"{where}: not documented")
    content = resolved(described).get("content", {})
    if not content:
        return
    kind = headers.get("content-type", "").split(";")[0]
    if kind not in content:
        return fault(f"{where}: {kind} is not documented")
    if kind == "application/json":
        validated(json.loads(body), content[kind]["schema"], where)


def url(path, operation, values):
    """The path with its names filled in, and the given parameters."""
    query = []
    for parameter in map(resolved, operation.get("parameters", [])):
        name = parameter["name"]
        value = values.get(name, parameter.get("example") if parameter["required"] else None)
        if value is None:
            continue
        if parameter["in"] == "path":
            path = path.replace("{" + name + "}", urllib.parse.quote(str(value), safe=""))
        else:
            query.append((name, value))
    return path + ("?" + urllib.parse.urlencode(query) if query else "")


# Examples are of their own schemas.
for path, methods in document["paths"].items():
    for method, operation in methods.items():
        for status, response in operation["responses"].items():
            for kind, content in resolved(response).get("content", {}).items():
                if kind == "application/json" and "example" in content:
                    validated(content["example"], content["schema"], f"example of {method} {path} {status}")
                elif kind == "application/json" and status in ("200", "202") and path != "/openapi.json":
                    fault(f"{method} {path}: no example")
        body = operation.get("requestBody")
        if body:
            content = body["content"]["application/json"]
            validated(content["example"], content["schema"], f"example of {method} {path}'s body")

# Names that the path templates need, as there are some.
page = json.loads(ask("GET", "/v1/events?limit=1")[2])
known = {"id": page["data"][0]["id"]}
known["letter"] = json.loads(ask("GET", "/v1/dead-letters?limit=1")[2])["data"][0]["id"]
JSON = {"content-type": "application/json"}
DAY = (datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)).isoformat()


def change(path, body, wanted, replay=None):
    """A POST that is to be answered so; the replay that it is about."""
    target = path.replace("{replay}", str(replay))
    status, answered, found = ask("POST", target, json.dumps(body).encode(), JSON)
    checked(document["paths"][path]["post"], "POST", target, status, answered, found)
    if status != wanted:
        fault(f"POST {target} {body} -> {status}, not {wanted}: {found[:200]}")
    return json.loads(found).get("id")


def reach(replay, state):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        row = json.loads(ask("GET", f"/v1/replays/{replay}")[2])
        if row["state"] == state and row["activity"] is None:
            return
        time.sleep(0.02)
    fault(f"replay {replay} is not {state} within 60 s: {row}")


# The life of two replays: what each POST answers when it does what it says.
slow = change("/v1/replays", {"from": DAY, "rate": 10}, 202)
change("/v1/replays", {"from": DAY}, 409)
change("/v1/replays/{replay}/resume", {"rate": 10}, 202, slow)
change("/v1/replays/{replay}/cancel", {}, 200, slow)
reach(slow, "cancelled")
known["replay"] = change("/v1/replays", {"from": DAY}, 202)
reach(known["replay"], "live")
change("/v1/replays/{replay}/revert", {}, 202, known["replay"])
reach(known["replay"], "retired")
LIVED = {"/v1/replays"} | {path for path in document["paths"] if path.startswith("/v1/replays/")}

ODD = ["", "0", "-1", "1.5", "1e9", "99999999999999999999", "null", "true", "a" * 3000, "'", "\"", "%", "\u0000", "Zoë",
       "2026-13-01T00:00:00Z", "2026-11-01T00:00:00Z", "9999-12-31T23:59:59Z", "0000-01-01T00:00:00Z", "[]", "{}",
       "metadata.env = 'production'", "not (metadata.env = 'dev' or model exists)", "latency_ms > 100",
       "metadata.\"a b\" like 'x%'", "((((", "requests,cost_usd,latency_ms.p99", "distinct.metadata.env",
       "each(metadata.tags)", "metadata.env,model", "-cost_usd", "hour", "auto", "Europe/Paris", "../../etc/passwd"]

for path, methods in document["paths"].items():
    for method, operation in methods.items():
        upper = method.upper()
        parameters = [resolved(parameter) for parameter in operation.get("parameters", [])]
        body = None
        headers = {}
        if "requestBody" in operation:
            body = json.dumps(operation["requestBody"]["content"]["application/json"]["example"]).encode()
            headers["content-type"] = "application/json"
        target = url(path, operation, known)
        status, answered, found = ask(upper, target, body, headers)
        checked(operation, upper, target, status, answered, found)
        if status != 200 and not (upper == "POST" and path in LIVED):
            fault(f"{upper} {target} -> {status}: {found[:200]}")
        tag = answered.get("etag")
        if "304" in operation["responses"] and status == 200:
            again = url(path, operation, {**known, "from": "2026-11-01T00:00:00Z", "to": "2026-11-02T00:00:00Z"})
            tag = ask(upper, again)[1].get("etag")
            status, _, found = ask(upper, again, None, {"if-none-match": tag or ""})
            if status != 304 or found:
                fault(f"{upper} {again}: if-none-match answers {status}")
        # Odd values, one and several at a time.
        for _ in range(40 if parameters else 0):
            values = dict(known)
            for parameter in random.sample(parameters, random.randint(1, len(parameters))):
                odd = random.choice(ODD)
                if odd or parameter["in"] != "path":
                    values[parameter["name"]] = odd
            target = url(path, operation, values)
            checked(operation, upper, target[:120], *ask(upper, target, body, headers))
        for _ in range(60 if body else 0):
            question = {}
            names = list(resolved(operation["requestBody"]["content"]["application/json"]["schema"])["properties"])
            for name in random.sample(names + ["x"], min(4, len(names) + 1)):
                value = random.choice(ODD)
                question[name] = random.choice([value, value.split(","), random.randint(-5, 50), None, [value], {}])
            text = json.dumps(question).encode()
            if random.random() < 0.1:
                text = text[:random.randint(0, len(text))]
            checked(operation, upper, f"{target[:80]} {text[:160]}", *ask(upper, url(path, operation, known), text, headers))
    # Every method that is not documented is refused (HEAD goes with GET).
    target = url(path, next(iter(methods.values())), known)
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]:
        if method.lower() not in methods:
            status, answered, body = ask(method, target, b"{}" if method in ("POST", "PUT", "PATCH") else None)
            if status != 405 or not answered.get("allow"):
                fault(f"{method} {target}: {status}, not 405 with allow")
            else:
                validated(json.loads(body), {"$ref": "#/components/schemas/Error"}, f"{method} {target}")
    if "get" in methods and ask("HEAD", target)[0] != 200:
        fault(f"HEAD {target} is not answered")

status, _, body = ask("GET", "/v1/nothing")
validated(json.loads(body), {"$ref": "#/components/schemas/Error"}, "an unknown path")
if status != 404:
    fault(f"/v1/nothing: {status}")

# What the sources answer, they also describe.
sources = "".join(path.read_text() for path in (repository / "Sources/QueryAPI").glob("*.swift"))
answered = set(re.findall(r'case ((?:"/[\w./-]*"(?:, )?)+):', sources))
answered = {path for group in answered for path in re.findall(r'"([^"]+)"', group)}
answered |= set(re.findall(r'"(/[\w.]*)": Asset\(', sources))
answered |= {"/v1/analytics/" + name for name in re.findall(r'"((?:graphs|summary|groups)/[\w/-]+)"', sources)}
for path in sorted(answered - set(document["paths"])):
    if not any(re.fullmatch(re.sub(r"\{[^}]*\}", "[^/]*", known_path), path) for known_path in document["paths"]):
        fault(f"{path} is answered and not documented")
if len(answered) < 30:
    fault(f"only {len(answered)} paths were found in the sources: has their form changed?")

for text in faults[:40]:
    print(text)
print(f"{len(document['paths'])} paths, {asked} requests, {len(faults)} faults, seed {seed}")
sys.exit(1 if faults else 0)
