#!/usr/bin/env python3
"""Holds the analytics routes against the shapes that Portkey's description states for them.

usage: portkey_shapes.py http://HOST:PORT FROM TO

FROM and TO are RFC 3339 times with events between them. The shapes are those of the `200` answers in the openapi.yaml of
github.com/Portkey-AI/openapi (commit a2191f4): which members there are, which of them are required, of which type. Where it
says `integer` of money, rates and averages any number is taken: its own guides' answers have fractions there. Prints what
differs and ends with status 1.
"""
import json
import sys
import urllib.parse
import urllib.request
from datetime import datetime

base, begin, end = sys.argv[1:]
faults = []
TIME, TEXT, COUNT, NUMBER = "a time", "a text", "a count", "a number"


def graph(summary, point):
    return {"summary": summary, "data_points": [point], "object": "analytics-graph"}


def groups(row):
    return {"object": "list", "total": COUNT, "data": [row | {"object": "analytics-group"}]}


AVERAGES = {"avg": NUMBER, "p50": NUMBER, "p90": NUMBER, "p99": NUMBER}
# A member whose name ends in ? may be absent; members beyond are allowed, as they are there.
SHAPES = {
    "graphs/requests": graph({"total": COUNT}, {"timestamp": TIME, "total": COUNT}),
    "graphs/cost": graph({"total": NUMBER, "avg": NUMBER}, {"timestamp": TIME, "total": NUMBER, "avg": NUMBER}),
    "graphs/latency": graph(AVERAGES, {"timestamp": TIME} | AVERAGES),
    "graphs/tokens": graph({"total": COUNT, "avg": NUMBER}, {"timestamp": TIME, "total": COUNT, "avg": NUMBER}),
    "graphs/users": graph({"total": COUNT}, {"timestamp": TIME, "total": COUNT}),
    "graphs/users/requests": graph({"total": COUNT, "unique": COUNT, "avg": NUMBER}, {"timestamp": TIME, "avg": NUMBER}),
    "graphs/errors": graph({"total": COUNT}, {"timestamp": TIME, "total": COUNT}),
    "graphs/errors/rate": graph({"rate": NUMBER}, {"timestamp": TIME, "rate": NUMBER}),
    "graphs/errors/stacks": graph({"total": COUNT}, {"timestamp": TIME, "stats": [{"response_status_code?": COUNT, "count?": COUNT}]}),
    "graphs/errors/status-codes": graph({"total_errors": COUNT, "unique_error_codes": COUNT}, {"status_code": COUNT, "count": COUNT}),
    "graphs/requests/rescued": graph(
        {"retry": COUNT, "fallback": COUNT},
        {"timestamp": TIME, "retry": [{"retry_success_count?": COUNT, "count?": COUNT}], "fallback": COUNT}),
    "graphs/cache/hit-rate": graph(
        {"total": COUNT, "rate": NUMBER},
        {"timestamp": TIME, "simple_hits": COUNT, "semantic_hits": COUNT, "rate": NUMBER,
         "cumulative_simple_cache_savings": NUMBER, "cumulative_semantic_cache_savings": NUMBER}),
    "graphs/cache/latency": graph({}, {"timestamp": TIME, "avg": NUMBER}),
    "summary/cache": {
        "summary": {"hits?": COUNT, "avg_latency?": NUMBER, "total_requests?": COUNT, "cache_speedup?": NUMBER},
        "object": "analytics-summary"},
    "graphs/feedbacks": graph({"total": COUNT}, {"timestamp": TIME, "total": COUNT}),
    "graphs/feedbacks/scores": graph({"total": COUNT}, {"score": NUMBER, "total": COUNT}),
    "graphs/feedbacks/weighted": graph({"avg": NUMBER}, {"timestamp": TIME, "avg": NUMBER}),
    "graphs/feedbacks/ai-models": graph({}, {"ai_model": TEXT, "total": COUNT, "avg_weighted_feedback": NUMBER}),
    "groups/users": groups({"user?": TEXT, "requests?": TEXT, "cost?": TEXT}),
    "groups/ai-models": groups({"ai_model?": TEXT, "requests?": TEXT}),
    "groups/metadata/env": groups({
        "metadata_value?": TEXT, "requests?": COUNT, "cost?": NUMBER, "avg_tokens?": NUMBER, "avg_weighted_feedback?": NUMBER,
        "requests_with_feedback?": COUNT, "last_seen?": TIME}),
}


def held(value, shape, where):
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return faults.append(f"{where}: {value} is no object")
        for name, inner in shape.items():
            bare = name.removesuffix("?")
            if bare in value:
                held(value[bare], inner, f"{where}.{bare}")
            elif name == bare:
                faults.append(f"{where}: {bare} is missing")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            return faults.append(f"{where}: {value} is no list")
        for index, one in enumerate(value):
            held(one, shape[0], f"{where}[{index}]")
    elif shape == TIME:
        try:
            datetime.fromisoformat(value.replace("Z", "+00:00"))
        except (AttributeError, ValueError):
            faults.append(f"{where}: {value!r} is no time")
    elif shape in (TEXT, COUNT, NUMBER):
        kinds = {TEXT: str, COUNT: int, NUMBER: (int, float)}[shape]
        if isinstance(value, bool) or not isinstance(value, kinds) or shape == COUNT and value < 0:
            faults.append(f"{where}: {value!r} is not {shape}")
    elif value != shape:
        faults.append(f"{where}: {value!r} is not {shape!r}")


def answer(name):
    # As their clients send it: all of the parameters, the workspace too.
    said = {"time_of_generation_min": begin, "time_of_generation_max": end, "workspace_slug": "w", "total_units_min": 0,
            "cost_min": 0, "metadata": "{}", "page_size": 5}
    with urllib.request.urlopen(f"{base}/v1/analytics/{name}?{urllib.parse.urlencode(said)}", timeout=30) as response:
        return json.load(response)


rows = 0
for name, shape in SHAPES.items():
    found = answer(name)
    held(found, shape, name)
    rows += len(found.get("data_points", found.get("data", [])))
    # A shape of rows says nothing where there are none.
    if name.startswith("groups/") and not found["data"] or name == "graphs/errors/status-codes" and not found["data_points"]:
        faults.append(f"{name}: no row")
with urllib.request.urlopen(base + "/openapi.json", timeout=30) as response:
    described = {path.removeprefix("/v1/analytics/") for path in json.load(response)["paths"] if path.startswith("/v1/analytics/")}
# Their description has no groups/provider; their documents have.
missing = described - set(SHAPES) - {"groups/provider", "groups/metadata/{metadataKey}"}
if missing:
    faults.append(f"without a stated shape: {sorted(missing)}")

for text in faults[:30]:
    print(text)
print(f"{len(SHAPES)} routes, {rows} points and rows, {len(faults)} faults")
sys.exit(1 if faults else 0)
