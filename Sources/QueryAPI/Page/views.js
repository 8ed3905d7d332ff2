// The other views: events one by one, the metadata keys, and how the pipeline is.
"use strict";

import {
  $, addCondition, apiKey, ask, change, clock, condition, count, figure, make, nameOf, parameters, query,
  question, Refusal, sentence, shown, span, state,
} from "/base.js";

// Events.

// One look fetches more rows than are kept: where there are still more of them, the list is whole all the same.
const pageSize = 50, liveLimit = 500, lookLimit = 1000;
let events = [], next = null, askedFor = "";

const rangeOf = ({ from, to, where }) => ({ from, to: state.range === "custom" ? to : "", where });

// The newest page; then, while it is followed, all that there is down to the oldest row, so that what comes late stands
// where its time is.
export async function refreshEvents(signal) {
  const asked = rangeOf(question()), key = JSON.stringify([state.range, state.from, state.to, state.where]);
  const isSame = key === askedFor && events.length > 0;
  if (isSame && !$("tail").checked) return;
  const more = isSame ? { from: events.at(-1).time, limit: lookLimit } : { limit: pageSize };
  const page = await ask("/v1/events" + parameters({ ...asked, ...more }), { signal });
  if (signal.aborted) return;
  const old = isSame ? events : [], known = new Set(old.map((event) => event.id));
  const found = new Set(page.data.map((event) => event.id)), isCut = isSame && page.next_cursor !== null;
  // The rows that it did not reach stay: the API's time may have cut it short.
  const end = isCut ? page.data.at(-1)?.time ?? old[0].time : more.from;
  const rest = old.filter((event) => event.time <= end && !found.has(event.id));
  const added = page.data.filter((event) => !known.has(event.id)).length;
  events = [...page.data, ...rest];
  if (rest.length === 0 && (!isSame || isCut)) next = page.next_cursor;
  if (isSame && added > 0) $("events-said").textContent = `${count.format(added)} new`;
  if (events.length > liveLimit + pageSize) { events = events.slice(0, liveLimit); next = events.at(-1).id; }
  askedFor = key;
  showEvents(page.retained_from, isCut && page.data.length < liveLimit ? end : null);
}

export const forgetEvents = () => { askedFor = ""; };

async function older() {
  $("older").disabled = true;
  try {
    const page = await ask("/v1/events" + parameters({ ...rangeOf(question()), limit: pageSize, cursor: next }));
    const known = new Set(events.map((event) => event.id));
    events = [...events, ...page.data.filter((event) => !known.has(event.id))];
    next = page.next_cursor;
    showEvents(page.retained_from);
  } catch (error) { $("events-said").textContent = sentence(error); }
  $("older").disabled = false;
}

function showEvents(retainedFrom, cutAt = null) {
  $("events-empty").hidden = events.length > 0;
  $("events-table").hidden = events.length === 0;
  $("older").hidden = !next;
  $("events-kept").textContent = [
    cutAt && `There was no time to look before ${clock(Date.parse(cutAt))}: what came late there may be missing.`,
    retainedFrom && `Events are kept from ${clock(Date.parse(retainedFrom))} on.`,
  ].filter(Boolean).join(" ");
  const body = $("event-rows"), old = new Map(Array.from(body.rows, (row) => [row.dataset.id, row]));
  body.replaceChildren(...events.map((event) => old.get(event.id) ?? eventRow(event)));
  for (const [id, type] of [["as-csv", "csv"], ["as-lines", "jsonl"]]) {
    $(id).href = "/v1/events" + parameters({ ...rangeOf(question()), format: type });
  }
}

function eventRow(event) {
  const time = clock(Date.parse(event.time), "milli"), model = event.response_model ?? event.request_model ?? "";
  const open = make("button", { type: "button", "aria-haspopup": "dialog", click: () => change({ event: event.id }) }, time);
  const good = event.outcome === "success";
  const row = make("tr", {},
    make("th", { scope: "row" }, open),
    make("td", { class: good ? "" : "high" }, `${event.status ?? "–"}${good ? "" : " " + event.outcome.replace("_", " ")}`),
    make("td", {}, [event.provider, model].filter(Boolean).join(" / ")),
    make("td", { class: "number" }, `${count.format(event.input_tokens)} → ${count.format(event.output_tokens)}`),
    make("td", { class: "number" }, figure("cost_usd", event.cost_usd)),
    make("td", { class: "number" }, figure("latency_ms", event.latency_ms)),
    make("td", { class: "pairs" }, ...Object.entries(event.metadata).map(([key, value]) =>
      make("span", { class: "pair" }, make("b", {}, key), " ", shown(value)))));
  row.dataset.id = event.id;
  return row;
}

export async function showEvent() {
  const box = $("event");
  if (!state.event) { if (box.open) box.close(); return; }
  const list = $("event-fields");
  list.replaceChildren(make("p", {}, "Loading …"));
  if (!box.open) box.showModal();
  let event = events.find((known) => known.id === state.event);
  try { event ??= await ask(`/v1/events/${encodeURIComponent(state.event)}`); } catch (error) {
    list.replaceChildren(make("p", { class: "problem" }, sentence(error)));
    return;
  }
  const filterable = { provider: event.provider, operation: event.operation, outcome: event.outcome, api_key: event.api_key };
  const field = (name, value, filter) => make("div", { class: "field" }, make("dt", {}, name),
    make("dd", {}, value === null ? make("span", { class: "missing" }, "none")
      : filter ? make("button", { type: "button", title: `Only these: ${filter}`, click: () => { addCondition(filter, { event: "" }); } }, shown(value))
        : name === "metadata_raw" ? make("code", {}, value) : name.endsWith("_ms") || name === "cost_usd" ? figure(name, value) : shown(value)));
  const plain = Object.entries(event).filter(([name]) => name !== "metadata");
  list.replaceChildren(
    make("h3", {}, "Metadata"),
    make("dl", {}, ...(Object.keys(event.metadata).length ? Object.entries(event.metadata).map(([key, value]) =>
      field(key, value, condition(nameOf(key), value))) : [make("p", { class: "missing" }, "none")])),
    make("h3", {}, "Fields"),
    make("dl", {}, ...plain.map(([name, value]) =>
      field(name, value, filterable[name] ? condition(name, filterable[name]) : null))));
}

// A key cannot stand in a link: the file is fetched with it, then offered.
async function download(event) {
  if (!apiKey.get()) return;
  event.preventDefault();
  const link = event.currentTarget;
  $("events-said").textContent = "Fetching the file …";
  try {
    const response = await fetch(link.href, { headers: { authorization: "Bearer " + apiKey.get() } });
    if (!response.ok) throw new Refusal(response.status, (await response.json()).error);
    const url = URL.createObjectURL(await response.blob());
    make("a", { href: url, download: link.id === "as-csv" ? "events.csv" : "events.jsonl" }).click();
    URL.revokeObjectURL(url);
    $("events-said").textContent = "";
  } catch (error) { $("events-said").textContent = sentence(error); }
}

export function watchEvents() {
  $("older").onclick = older;
  $("tail").onchange = () => { $("events-said").textContent = $("tail").checked ? "Following" : ""; };
  $("event-close").onclick = () => change({ event: "" });
  $("event").addEventListener("close", () => { if (state.event) change({ event: "" }); });
  $("as-csv").addEventListener("click", download);
  $("as-lines").addEventListener("click", download);
}

// Keys.

export async function refreshKeys(signal) {
  const { from, to } = question();
  const answer = await ask("/v1/metadata/keys" + parameters({ from, to }), { signal });
  if (signal.aborted) return null;
  $("keys-empty").hidden = answer.data.length > 0;
  $("keys-table").hidden = answer.data.length === 0;
  $("keys-missing").hidden = answer.missing.length === 0;
  $("keys-missing").textContent = answer.missing.map(missing).join(" ");
  const body = $("key-rows"), open = new Set(Array.from(body.querySelectorAll("[aria-expanded=true]"), (button) => button.dataset.key));
  if (open.size === 0) body.replaceChildren(...answer.data.map((row) => keyRow(row)));
  return answer.data.map((row) => row.key);
}

// A part of the range that a listing does not cover.
const missing = ({ from, to, keys, reason }) => `Not counted: ${keys ? keys.join(", ") : "all keys"} from `
  + `${clock(Date.parse(from), "minute")} to ${clock(Date.parse(to), "minute")}: ${reason}.`;

const atLeast = (row, number) => (row.exact ? "" : "≥ ") + count.format(number);

function keyRow(row) {
  const values = make("button", {
    type: "button", "data-key": row.key, "aria-expanded": "false", click: (event) => showValues(event.currentTarget, row.key),
  }, row.key);
  return make("tr", {}, make("th", { scope: "row" }, values),
    make("td", {}, make("span", { class: `class ${row.class}` }, row.class)),
    make("td", { class: "number" }, atLeast(row, row.distinct)), make("td", { class: "number" }, atLeast(row, row.requests)),
    make("td", { class: "number" }, `${(row.share * 100).toFixed(1)} %`),
    make("td", { class: row.filed_under_other > 0 ? "number high" : "number" }, count.format(row.filed_under_other)),
    make("td", {}, clock(Date.parse(row.first_seen), "minute")), make("td", {}, clock(Date.parse(row.last_seen), "minute")),
    make("td", { class: "reason" }, row.reason + (row.since ? `, since ${clock(Date.parse(row.since), "minute")}` : "")));
}

async function showValues(button, key) {
  const row = button.closest("tr"), isOpen = button.getAttribute("aria-expanded") === "true";
  button.setAttribute("aria-expanded", String(!isOpen));
  if (isOpen) { row.nextElementSibling?.remove(); return; }
  const cell = make("td", { colspan: "9" }, "Loading …"), line = make("tr", { class: "values" }, cell);
  row.after(line);
  const { from, to } = question();
  try {
    const answer = await ask(`/v1/metadata/keys/${encodeURIComponent(key)}/values` + parameters({ from, to, limit: 60 }));
    cell.replaceChildren(...answer.data.map(({ value, requests }) => make("button", {
      type: "button", class: "value", title: `Only these: ${condition(nameOf(key), value)}`,
      click: () => addCondition(condition(nameOf(key), value), { view: "overview" }),
    }, shown(value), " ", make("small", {}, count.format(requests)))));
    if (answer.missing.length > 0) cell.append(make("p", { class: "soft" }, answer.missing.map(missing).join(" ")));
    else if (!answer.exact) cell.append(make("p", { class: "soft" }, "There may be more: a budget has filed some under (other)."));
    cell.append(make("button", {
      type: "button", class: "value more", click: () => change({ view: "overview", by: nameOf(key) }),
    }, "Group by this key"));
  } catch (error) { cell.replaceChildren(make("span", { class: "problem" }, sentence(error))); }
}

// The pipeline.

export async function refreshPipeline(signal) {
  const { from, to } = question();
  const [ready, metrics, ledger, stored] = await Promise.allSettled([
    readiness(signal), ask("/metrics", { signal }), ask("/v1/reconciliation" + parameters({ from, to }), { signal }),
    query({ from: new Date(span().to - 60_000).toISOString(), to, measures: ["requests"] }, signal),
  ]);
  if (signal.aborted) return;
  if (ready.status === "rejected") throw ready.reason;
  showHealth(
    ready.value, metrics.status === "fulfilled" ? read(metrics.value) : new Map(), stored.value?.watermark ?? null);
  showLedger(ledger);
}

async function readiness(signal) {
  // Also 503 says, in its body, what is wrong.
  const response = await fetch("/readyz", { signal });
  return response.json();
}

// Text of the exposition format -> the sum of each name over its labels.
function read(text) {
  const sums = new Map();
  for (const line of text.split("\n")) {
    const found = line.match(/^(\w+)(?:\{.*\})? (\S+)$/);
    if (found) sums.set(found[1], (sums.get(found[1]) ?? 0) + Number(found[2]));
  }
  return sums;
}

function showHealth({ ready, degraded }, metrics, watermark) {
  const box = $("health-state");
  box.textContent = ready ? degraded.length ? "Ready, with less than everything" : "Ready" : "Not ready";
  box.className = `state ${ready ? degraded.length ? "fair" : "good" : "poor"}`;
  $("degraded").replaceChildren(...degraded.map((text) => make("li", {}, text)));
  const facts = [
    ["Lag", "millrace_consumer_lag_records", (value) => `${count.format(value)} records`, "Records in the log that are not applied yet."],
    ["Applied", "millrace_consumer_events_applied_total", count.format, "Events, since this process started."],
    ["Copies", "millrace_consumer_duplicates_total", count.format, "Found by their id and not counted again."],
    ["Beyond budgets", "millrace_consumer_metadata_overflow_total", count.format, "Events with metadata filed under (other)."],
    ["Dead letters", "millrace_consumer_dead_letters_total", count.format, "Records that cannot be applied for their own fault."],
    ["Lost", "millrace_consumer_offsets_lost_total", count.format, "Records that the log no longer had."],
    ["Requests recorded", "millrace_proxy_events_recorded_total", count.format, "By this process's proxy."],
    ["Dropped", "millrace_proxy_events_dropped_total", count.format, "Requests that passed unrecorded."],
    ["Journal", "millrace_journal_size_bytes", (value) => `${(value / 1e6).toFixed(1)} MB`, "On disk."],
    ["Questions", "millrace_api_questions_total", count.format, "Answered by this process."],
  ].filter(([, name]) => metrics.has(name));
  const newest = make("div", { class: "fact", title: "In the store, by the time its request was completed." },
    make("dt", {}, "Newest event"), make("dd", {}, watermark ? clock(Date.parse(watermark)) : "none yet"));
  $("facts").replaceChildren(newest, ...facts.map(([label, name, text, help]) => {
    const value = metrics.get(name), isBad = value > 0 && /dead_letters|lost|dropped/.test(name);
    return make("div", { class: "fact", title: help }, make("dt", {}, label), make("dd", { class: isBad ? "high" : "" }, text(value)));
  }));
  $("facts-none").hidden = facts.length > 0;
}

const counts = ["accepted", "recorded", "dropped", "applied", "dead_lettered", "in_flight", "difference"];

function showLedger(result) {
  const said = $("ledger-said"), table = $("ledger");
  if (result.status === "rejected") {
    table.hidden = true;
    said.className = "";
    said.textContent = result.reason instanceof Refusal && result.reason.status === 404
      ? "This API does not answer /v1/reconciliation: what proxies recorded cannot be set beside what was applied."
      : sentence(result.reason);
    return;
  }
  const { totals, minutes, closed } = result.value, difference = totals.difference;
  said.className = closed ? "state good" : "state poor";
  said.textContent = minutes.length === 0 ? "No requests in this range."
    : closed ? "Every recorded request is accounted for." : difference === 0 ? "Minutes differ, though their sum does not."
      : `${count.format(Math.abs(difference))} requests ${difference > 0 ? "are missing" : "are too many"}.`;
  table.hidden = minutes.length === 0;
  const cells = (row) => counts.map((name) => make("td", {
    class: name === "difference" && row[name] !== 0 || name === "dropped" && row[name] > 0 ? "number high" : "number",
  }, count.format(row[name])));
  const rows = minutes.slice(-60).reverse();
  $("ledger-rows").replaceChildren(
    make("tr", { class: "sum" }, make("th", { scope: "row" }, "Whole range"), make("td", {}), ...cells(totals)),
    ...rows.map((row) => make("tr", {}, make("th", { scope: "row" }, clock(Date.parse(row.minute), "minute")),
      make("td", {}, row.proxy), ...cells(row))));
  $("ledger-more").hidden = minutes.length <= 60;
}
