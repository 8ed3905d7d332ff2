// The page: the URL says what is asked, /v1/query answers, and this draws it. Every two seconds in a relative range.
"use strict";

const $ = (id) => document.getElementById(id);
const minute = 60_000, hour = 60 * minute, day = 24 * hour;
const ranges = { "15m": 15 * minute, "1h": hour, "6h": 6 * hour, "24h": day, "7d": 7 * day, "30d": 30 * day };
const builtIn = ["model", "provider", "operation", "outcome", "status_class", "api_key"];
const measureNames = { requests: "Requests", errors: "Errors", cost_usd: "Cost", "latency_ms.p95": "Latency p95" };
const tileMeasures = ["requests", "errors", "error_rate", "cost_usd", "total_tokens", "latency_ms.p95"];
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";

// What is asked, as the URL has it.
const state = { range: "1h", from: "", to: "", where: "", by: "model", measure: "requests" };
let lastRelative = "1h", chart = null, keys = [], timer = 0, running = null, proxyURL = "", keysAt = 0, chartState = "", hasAnswer = false;

function readURL() {
  const given = new URLSearchParams(location.search);
  for (const name of Object.keys(state)) if (given.has(name)) state[name] = given.get(name);
  if (!ranges[state.range] && !(state.range === "custom" && isTime(state.from) && isTime(state.to))) state.range = "1h";
  if (!measureNames[state.measure]) state.measure = "requests";
}

function writeURL() {
  const said = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) {
    if (!value || ((name === "from" || name === "to") && state.range !== "custom")) continue;
    said.set(name, value);
  }
  const text = "?" + said;
  if (text !== location.search) history.pushState(null, "", text);
}

const isTime = (text) => !Number.isNaN(Date.parse(text));

// Figures.
const count = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 2 });
function figure(name, value, compact) {
  if (value === null || value === undefined) return "–";
  if (name === "error_rate") return (value * 100).toFixed(value && value < 0.1 ? 2 : 1) + " %";
  if (name === "cost_usd") {
    if (value === 0) return "$0";
    return "$" + (value >= 1000 ? count.format(value) : value.toFixed(value >= 1 ? 2 : value >= 0.01 ? 4 : 6));
  }
  if (name.startsWith("latency_ms")) return value >= 1000 ? (value / 1000).toFixed(2) + " s" : Math.round(value) + " ms";
  return compact && value >= 100000 ? short.format(value) : count.format(value);
}

// The range now, cut so that the rollups of the chart's buckets hold all of it.
function range() {
  if (state.range === "custom") return { from: Date.parse(state.from), to: Date.parse(state.to) };
  const now = Date.now(), length = ranges[state.range];
  return { from: floor(now - length, length > 6 * hour ? hour : minute), to: now };
}

function granularity({ from, to }) {
  const length = to - from;
  return length <= 6.1 * hour ? "minute" : length <= 15 * day ? "hour" : "day";
}

// The beginning of a bucket by the local clock.
function floor(time, unit) {
  const local = new Date(time);
  if (unit === minute) local.setSeconds(0, 0);
  else if (unit === hour) local.setMinutes(0, 0, 0);
  else local.setHours(0, 0, 0, 0);
  return local.getTime();
}

class Refusal extends Error {
  constructor(status, error) { super(error.message); this.status = status; this.error = error; }
}

async function ask(path, body, signal) {
  const headers = { "content-type": "application/json" };
  const key = sessionStorage.getItem("key");
  if (key) headers.authorization = "Bearer " + key;
  const response = await fetch(path, { method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body) });
  let answer = null;
  try { answer = await response.json(); } catch { /* said below */ }
  if (!response.ok || !answer) {
    throw new Refusal(response.status, answer?.error ?? { code: "", message: `The API answered ${response.status}.` });
  }
  return answer;
}

async function refresh() {
  clearTimeout(timer);
  running?.abort();
  const mine = running = new AbortController();
  const span = range(), unit = granularity(span);
  const question = {
    from: new Date(span.from).toISOString(), to: new Date(span.to).toISOString(), where: state.where, timezone: zone,
  };
  try {
    const [series, table] = await Promise.all([
      ask("/v1/query", { ...question, granularity: unit, measures: tileMeasures }, mine.signal),
      ask("/v1/query", { ...question, granularity: "total", measures: tileMeasures, group_by: [state.by], limit: 50 },
        mine.signal),
    ]);
    if (mine.signal.aborted) return;
    hasAnswer = true;
    showProblem(null);
    showFilterError(null);
    showTiles(series.totals);
    showEmpty(series.totals.requests === 0);
    showChart(series, span, unit);
    showTable(table);
    showPlan(series);
    if (Date.now() - keysAt > 20_000) loadKeys(question);
  } catch (error) {
    if (error.name === "AbortError") return;
    fail(error);
  }
  const live = state.range !== "custom";
  if (live && !$("key-form").hidden) return;
  if (live) timer = setTimeout(() => (document.hidden ? null : refresh()), 2000);
}

function fail(error) {
  if (error instanceof Refusal && (error.error.code === "invalid_filter" || error.error.position != null)) {
    showFilterError(error.error);
    showProblem(null);
  } else if (error instanceof Refusal && error.status === 401) {
    $("key-form").hidden = false;
    $("live").textContent = "";
    $("live").className = "live";
    return;
  } else if (error instanceof Refusal) {
    showProblem([error.error.message, error.error.hint].filter(Boolean).join(" "));
  } else {
    showProblem("The API does not answer. Is millrace running? The page goes on trying.");
  }
  $("live").className = "live off";
  $("live").textContent = "not up to date";
  for (const id of ["tiles", "chart-card", "table-card"]) $(id).classList.add("stale");
  if (!hasAnswer) {
    $("chart-card").hidden = $("table-card").hidden = true;
    $("plan").textContent = "No answer yet.";
  }
}

function showProblem(text) {
  $("problem").hidden = !text;
  $("problem").textContent = text ?? "";
  if (text) return;
  for (const id of ["tiles", "chart-card", "table-card"]) $(id).classList.remove("stale");
  $("key-form").hidden = true;
  $("live").className = state.range === "custom" ? "live" : "live on";
  $("live").textContent = state.range === "custom" ? "" : "live";
}

// The filter again with the place marked, then what is wrong and what was meant.
function showFilterError(error) {
  const box = $("where-error");
  $("where").setAttribute("aria-invalid", error ? "true" : "false");
  box.hidden = !error;
  if (!error || box.dataset.said === state.where + error.message) return;
  box.dataset.said = state.where + error.message;
  const letters = Array.from(state.where), at = error.position ?? letters.length;
  let end = at + 1;
  while (end < letters.length && /[\w.'"-]/.test(letters[end])) end += 1;
  const shown = document.createElement("code"), mark = document.createElement("mark");
  mark.textContent = letters.slice(at, end).join("") || " ";
  shown.append(letters.slice(0, at).join(""), mark, letters.slice(end).join(""));
  box.replaceChildren(shown, [`At ${at + 1}: ${error.message}`, error.hint].filter(Boolean).join(" "));
}

function showTiles(totals) {
  for (const tile of document.querySelectorAll("[data-tile]")) {
    const text = figure(tile.dataset.tile, totals[tile.dataset.tile], true);
    if (tile.textContent !== text) tile.textContent = text;
    tile.title = String(totals[tile.dataset.tile] ?? "nothing measured");
  }
}

function showEmpty(isEmpty) {
  $("empty").hidden = !isEmpty;
  $("chart-card").hidden = $("table-card").hidden = isEmpty;
  if (!isEmpty) return;
  const filtered = state.where.trim() !== "";
  $("empty-title").textContent = filtered ? "Nothing matches this filter" : "No requests in this range";
  $("empty-text").textContent = filtered
    ? "Choose a longer range, or take a condition out of the filter."
    : "Choose a longer range, or send a request through the proxy; it shows here within a second:";
  $("example").hidden = filtered;
  $("curl").textContent = `curl ${proxyURL || "http://127.0.0.1:8787"}/v1/chat/completions \\
  -H "x-portkey-provider: openai" -H "authorization: Bearer $OPENAI_API_KEY" \\
  -H "content-type: application/json" -H 'x-portkey-metadata: {"env":"test","team":"search"}' \\
  -d '{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Say hello."}]}'`;
}

function showChart(answer, span, unit) {
  const name = state.measure, adds = name !== "latency_ms.p95";
  const found = new Map(answer.data.map((row) => [Date.parse(row.bucket), row.measures[name]]));
  const points = [];
  const step = { minute, hour, day }[unit];
  // Buckets without events are left out of answers: nothing there is 0 for sums.
  for (let at = floor(span.from, step); at < span.to;) {
    points.push([new Date(at), found.get(at) ?? (adds ? 0 : null)]);
    if (unit === "day") { const next = new Date(at); next.setDate(next.getDate() + 1); at = next.getTime(); } else at += step;
  }
  // The running bucket is not whole yet and would look like a fall.
  if (state.range !== "custom" && points.slice(0, -1).some((point) => point[1])) points.pop();
  const style = getComputedStyle(document.documentElement), color = (which) => style.getPropertyValue(which).trim();
  const when = (time) => new Date(time).toLocaleString([], unit === "day"
    ? { dateStyle: "medium" } : { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  const values = points.map((point) => point[1]).filter((value) => value !== null);
  const peak = values.length ? Math.max(...values) : null;
  const peakAt = peak === null ? null : points.find((point) => point[1] === peak)[0];
  const summary = peak === null ? "nothing measured"
    : `highest ${figure(name, peak)} at ${when(peakAt)}, per ${unit}`;
  $("chart").setAttribute("aria-label", `${measureNames[name]} over time: ${summary}`);
  $("chart-title").textContent = `${measureNames[name]} per ${unit}`;
  if (!chart?.hovering) $("readout").textContent = summary[0].toUpperCase() + summary.slice(1) + ".";
  if (typeof Dygraph === "undefined") {
    $("chart").textContent = "The chart library did not load; the table below has the figures.";
    return;
  }
  const options = {
    file: points, labels: ["time", measureNames[name]], colors: [color(name === "errors" ? "--bad" : "--accent")],
    gridLineColor: color("--grid"), axisLineColor: color("--line"), dateWindow: [span.from, span.to],
    valueRange: [0, peak ? peak * 1.12 : 1],
    axes: { y: { axisLabelFormatter: (value) => figure(name, value, true), axisLabelWidth: 54 }, x: { axisLabelWidth: 64 } },
  };
  if (chart && chartState === unit + name) { chart.updateOptions(options); return; }
  chart?.destroy();
  // Its legend writes inline styles, which the page's policy refuses; the line above the chart says the same.
  Dygraph.PLUGINS = Dygraph.PLUGINS.filter((plugin) => plugin !== Dygraph.Plugins.Legend);
  chartState = unit + name;
  chart = new Dygraph($("chart"), points, {
    ...options, fillGraph: true, fillAlpha: 0.16, strokeWidth: 2, stepPlot: false, drawPoints: false,
    connectSeparatedPoints: false, highlightCircleSize: 4, animatedZooms: false, includeZero: true,
    drawIsolatedPoints: true, pointSize: 3,
    highlightCallback: (_, at, rows) => {
      chart.hovering = true;
      $("readout").textContent = `${when(at)} — ${figure(name, rows[0]?.yval ?? null)}`;
    },
    unhighlightCallback: () => { chart.hovering = false; },
    zoomCallback: (low, high) => {
      if (high - low < 1000) return;
      Object.assign(state, {
        range: "custom", from: new Date(floor(low, minute)).toISOString(), to: new Date(high).toISOString(),
      });
      changed();
    },
  });
}

function showTable(answer) {
  const total = answer.totals.requests;
  const head = state.by.replace(/^metadata\./, "");
  if ($("by-head").textContent !== head) $("by-head").textContent = head;
  // The focus stays where it is: rows are changed in place, one for each value.
  const body = $("rows"), old = new Map(Array.from(body.rows, (row) => [row.dataset.value, row]));
  const rows = answer.data.map((row) => {
    const value = row.group[state.by] ?? null, id = JSON.stringify(value);
    const line = old.get(id) ?? newRow(id, value);
    fill(line, row.measures, total);
    return line;
  });
  if (answer.other.length) {
    const line = old.get("other") ?? newRow("other", null);
    line.cells[0].textContent = `${count.format(answer.other[0].groups)} more`;
    line.cells[0].className = "missing";
    fill(line, answer.other[0].measures, total);
    rows.push(line);
  }
  if (rows.length !== body.rows.length || rows.some((row, index) => body.rows[index] !== row)) {
    const focused = document.activeElement?.closest?.("tr");
    body.replaceChildren(...rows);
    if (focused?.isConnected) focused.querySelector("button")?.focus({ preventScroll: true });
  }
}

function newRow(id, value) {
  const line = document.createElement("tr");
  line.dataset.value = id;
  for (let index = 0; index < 7; index += 1) line.insertCell().className = index === 0 || index === 2 ? "" : "number";
  const choose = document.createElement("button");
  choose.type = "button";
  const text = Array.isArray(value) ? value.join(", ") : value;
  choose.textContent = value === null ? "(none)" : text === "" ? "(empty)" : text;
  if (value === null || text === "") choose.className = "missing";
  choose.title = `Add to the filter: ${condition(state.by, value)}`;
  choose.onclick = () => {
    const added = condition(state.by, value), before = state.where.trim();
    state.where = !before ? added : / or /i.test(before) ? `(${before}) and ${added}` : `${before} and ${added}`;
    changed();
  };
  line.cells[0].append(choose);
  const bar = document.createElement("progress");
  bar.className = "bar";
  line.cells[2].append(bar);
  return line;
}

function fill(line, measures, total) {
  const put = (index, name) => {
    const text = figure(name, measures[name]);
    if (line.cells[index].textContent !== text) line.cells[index].textContent = text;
  };
  put(1, "requests"); put(3, "error_rate"); put(4, "cost_usd"); put(5, "total_tokens"); put(6, "latency_ms.p95");
  line.cells[3].className = measures.error_rate >= 0.05 ? "number high" : "number";
  const bar = line.cells[2].firstElementChild, share = total ? measures.requests / total : 0;
  bar.value = share;
  bar.title = (share * 100).toFixed(1) + " %";
  bar.setAttribute("aria-label", bar.title + " of all requests");
}

function condition(name, value) {
  const quoted = (text) => `'${String(text).replaceAll("'", "''")}'`;
  if (value === null) return `not ${name} exists`;
  if (Array.isArray(value)) return value.map((part) => `${name} = ${quoted(part)}`).join(" and ");
  return `${name} = ${quoted(value)}`;
}

function showPlan(answer) {
  const plan = answer.plan;
  const seen = answer.watermark ? new Date(answer.watermark).toLocaleString([], { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" })
    : "no event yet";
  const grains = plan.grains.length ? ` (${plan.grains.join(", ")})` : "";
  $("plan").textContent = `${answer.exact ? "Exact" : "Not exact"} · from ${plan.source.replace("+", " and ")}${grains}, `
    + `${count.format(plan.rows_read)} rows · latest event ${seen} · times in ${zone}`;
  $("plan").title = plan.reason;
}

async function loadKeys(question) {
  keysAt = Date.now();
  try {
    const said = new URLSearchParams({ from: question.from, to: question.to });
    keys = (await ask("/v1/metadata/keys?" + said)).data.map((row) => row.key);
    showGroups();
  } catch { /* The table works without; the next refresh says what is wrong. */ }
}

const nameOf = (key) => /^[\w.\u0080-\uffff-]+$/.test(key) ? `metadata.${key}` : `metadata."${key.replaceAll('"', '""')}"`;

function showGroups() {
  const names = [...keys.map(nameOf)];
  if (!builtIn.includes(state.by) && !names.includes(state.by)) names.push(state.by);
  const signature = names.join("\n");
  if ($("by").dataset.names !== signature) {
    $("by").dataset.names = signature;
    const group = (label, list) => {
      const box = document.createElement("optgroup");
      box.label = label;
      box.append(...list.map((name) => new Option(name.replace(/^metadata\./, ""), name)));
      return box;
    };
    $("by").replaceChildren(...(names.length ? [group("Metadata", names)] : []), group("Built in", builtIn));
  }
  $("by").value = state.by;
}

const localText = (time) => {
  const date = new Date(time);
  return new Date(time - date.getTimezoneOffset() * minute).toISOString().slice(0, 19);
};

function showState() {
  $("range").value = state.range;
  $("custom").hidden = state.range !== "custom";
  if (state.range === "custom") {
    $("from").value = localText(Date.parse(state.from));
    $("to").value = localText(Date.parse(state.to));
  } else {
    lastRelative = state.range;
  }
  $("where").value = state.where;
  for (const choice of document.getElementsByName("measure")) choice.checked = choice.value === state.measure;
  showGroups();
}

function changed() {
  writeURL();
  showState();
  $("rows").replaceChildren();
  refresh();
}

$("range").onchange = (event) => {
  if (event.target.value === "custom") {
    const span = range();
    Object.assign(state, { from: new Date(span.from).toISOString(), to: new Date(span.to).toISOString() });
  }
  state.range = event.target.value;
  changed();
};
for (const id of ["from", "to"]) {
  $(id).onchange = (event) => {
    if (!isTime(event.target.value)) return;
    state[id] = new Date(event.target.value).toISOString();
    changed();
  };
}
$("filter").onsubmit = (event) => {
  event.preventDefault();
  state.where = $("where").value;
  changed();
};
$("where").addEventListener("search", () => { if ($("where").value === "" && state.where) $("filter").requestSubmit(); });
$("measures").onchange = (event) => { state.measure = event.target.value; changed(); };
$("by").onchange = (event) => { state.by = event.target.value; changed(); };
$("chart").ondblclick = () => { if (state.range === "custom") { state.range = lastRelative; changed(); } };
$("copy").onclick = async () => {
  try { await navigator.clipboard.writeText($("curl").textContent); $("copy").textContent = "Copied"; } catch {
    getSelection().selectAllChildren($("curl"));
    $("copy").textContent = "Selected";
  }
  setTimeout(() => { $("copy").textContent = "Copy"; }, 1500);
};
$("key-form").onsubmit = (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", $("key").value.trim());
  $("key").value = "";
  refresh();
};
document.addEventListener("visibilitychange", () => { if (!document.hidden && state.range !== "custom") refresh(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { chartState = ""; refresh(); });
addEventListener("popstate", () => { readURL(); showState(); $("rows").replaceChildren(); refresh(); });

readURL();
showState();
ask("/page.json").then((page) => { proxyURL = page.proxy_url; }, () => { /* the default stands */ }).then(refresh);
