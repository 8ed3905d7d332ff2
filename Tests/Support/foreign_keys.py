"""Holds the API against its description with keys of two workspaces and with none, by schemathesis, and looks that nothing
of the one workspace is told to the other.

usage: foreign_keys.py http://HOST:PORT OWNER_KEY OTHER_KEY SECRET SEED

SECRET stands in metadata of the owner's events, and nowhere else. Run by the Python of .venv/schemathesis. Prints what is
wrong and ends with status 1.
"""
import json
import pathlib
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request

from openapi_references import resolver

base, owner, other, secret, seed = sys.argv[1:]
faults = []


def ask(method, path, key, body=None):
    headers = {"authorization": "Bearer " + key} if key else {}
    if body is not None:
        headers["content-type"] = "application/json"
    request = urllib.request.Request(base + path, data=body, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


document = json.loads(ask("GET", "/openapi.json", None)[1])
resolved = resolver(document)

# What an owner sees of each route, the other must not, though it names the owner's event, key and page.
page = json.loads(ask("GET", "/v1/events?limit=1", owner)[1])
event, cursor = page["data"][0]["id"], page["next_cursor"]
WIDE = {"from": "2020-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z", "time_of_generation_min": "2020-01-01T00:00:00Z",
        "time_of_generation_max": "2100-01-01T00:00:00Z", "group_by": "metadata.secret", "id": event, "key": "secret",
        "metadataKey": "secret"}
ALONE = {"where", "cursor", "code", "source", "format", "measures", "order_by", "granularity", "timezone", "explain", "limit",
         "prefix", "metadata", "ai_org_model"}
seen = 0
for path, methods in document["paths"].items():
    if not path.startswith("/v1/"):
        continue
    for method, operation in methods.items():
        names = {parameter["name"]: parameter for parameter in map(resolved, operation.get("parameters", []))}
        target, query = path, {}
        for name, parameter in names.items():
            value = WIDE.get(name, parameter.get("example", "1") if parameter["required"] else None)
            if parameter["in"] == "path":
                target = target.replace("{" + name + "}", urllib.parse.quote(str(value), safe=""))
            elif value is not None and name not in ALONE:
                query[name] = value
        body = None
        if "requestBody" in operation:
            # Of what is asked by POST only questions are a query key's.
            body = json.dumps({name: WIDE[name] for name in ("from", "to")} | {"group_by": ["metadata.secret"]}).encode()
        formats = [{}, {"format": "csv"}, {"format": "jsonl"}, {"cursor": event}, {"cursor": cursor}] if path == "/v1/events" else [{}]
        for more in formats:
            url = target + "?" + urllib.parse.urlencode(query | more)
            status, told = ask(method.upper(), url, owner, body)
            seen += secret in told
            status, told = ask(method.upper(), url, other, body)
            if secret in told or event in told and "error" not in told:
                faults.append(f"{method} {url}: the other key is told {told[:200]}")
            status, told = ask(method.upper(), url, None, body)
            if status != 401:
                faults.append(f"{method} {url}: without a key {status}, {told[:200]}")
if seen < 8:
    faults.append(f"the owner sees the secret in {seen} answers only: this shows nothing")

# A method that the protocol does not know is answered 501 before anybody looks at the path; those that it knows are tried.
# Graphs have the same twenty parameters each: every case of one is enough.
SETTINGS = """[phases.coverage]
unexpected-methods = ["DELETE", "OPTIONS", "PATCH", "PUT"]

[[operations]]
include-path-regex = "^/v1/analytics/(graphs|summary)/(?!errors/stacks)"
phases.coverage.enabled = false
"""
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
# Every case of the owner's; of who sees little or nothing, fewer.
RUNS = [("owner", owner, "examples,coverage,fuzzing", 5), ("other", other, "examples,fuzzing", 5), ("nobody", None, "examples", 1)]
with tempfile.TemporaryDirectory() as work:
    (pathlib.Path(work) / "schemathesis.toml").write_text(SETTINGS)
    for whose, key, phases, count in RUNS:
        words = [str(pathlib.Path(sys.executable).parent / "schemathesis"), "run", base + "/openapi.json", "--url", base,
                 "--checks", CHECKS, "--phases", phases, "--max-examples", str(count), "--seed", seed, "--no-color",
                 "--continue-on-failure", "--request-timeout", "60", "--generation-with-security-parameters", "false",
                 # Files of the page have no parameters.
                 "--exclude-path-regex", r"^/([a-z.]+\.(js|css|svg))?$"]
        if key:
            words += ["--header", "Authorization: Bearer " + key]
        done = subprocess.run(words, cwd=work, capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            faults.append(f"schemathesis, key of {whose}:\n{done.stdout[-6000:]}{done.stderr[-1000:]}")
        cases = next((line.strip() for line in done.stdout.splitlines() if " generated, " in line), "no cases")
        print(f"key of {whose}: {cases}")

for text in faults[:20]:
    print(text)
print(f"{seen} answers of the owner with the secret, {len(faults)} faults, seed {seed}")
sys.exit(1 if faults else 0)
