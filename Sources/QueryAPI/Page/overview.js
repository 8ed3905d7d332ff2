// The overview: totals, the linked charts, the table by group.
"use strict";

import {
  $, addCondition, builtIn, change, clock, clockOnly, condition, count, date, dayOnly, figure, floorTime, hour,
  isLive, leaveCustom, make, minute, nameOf, narrow, nextBucket, query, question, shown, span, state, day,
} from "/base.js";

const charts = [
  { id: "requests", title: "Requests", lines: ["requests"] },
  { id: "errors", title: "Errors", lines: ["errors"], colors: ["--bad"] },
  { id: "cost", title: "Cost", lines: ["cost_usd"] },
  { id: "tokens", title: "Tokens", lines: ["input_tokens", "output_tokens"], names: ["input", "output"] },
  { id: "latency", title: "Latency", lines: ["latency_ms.p50", "latency_ms.p95", "latency_ms.p99"], names: ["p50", "p95", "p99"], gaps: true },
  { id: "first", title: "First token", lines: ["first_token_ms.p50", "first_token_ms.p95"], names: ["p50", "p95"], gaps: true },
];
const lineColors = ["--accent", "--second", "--third"];
const seriesMeasures = [...new Set([...charts.flatMap((chart) => chart.lines), "error_rate", "total_tokens"])];
const columns = [
  ["requests", "Requests"], ["share", "Share"], ["error_rate", "Error rate"], ["cost_usd", "Cost"],
  ["total_tokens", "Tokens"], ["latency_ms.p95", "p95"], ["first_token_ms.p95", "First token p95"],
];
const tableMeasures = columns.map(([name]) => name).filter((name) => name !== "share");
let keys = [], drawn = new Map(), library = null;

export const setGroupKeys = (found) => { keys = found; showGroups(); };

export function granularity({ from, to }) {
  const length = to - from;
  return length <= 6.1 * hour ? "minute" : length <= 15 * day ? "hour" : "day";
}

// Both questions of this view, drawn once both are answered.
export async function refreshOverview(signal) {
  const range = span(), unit = granularity(range), asked = question();
  const order = state.sort.replace("share", "requests");
  const [series, table] = await Promise.all([
    query({ ...asked, granularity: unit, measures: seriesMeasures }, signal),
    query({
      ...asked, granularity: "total", measures: tableMeasures, group_by: [state.by], limit: 50,
      order_by: order.endsWith("group") ? order.replace("group", state.by) : order,
    }, signal),
    loadLibrary(),
  ]);
  if (signal.aborted) return null;
  showTiles(series.totals);
  const isEmpty = series.totals.requests === 0;
  $("empty").hidden = !isEmpty;
  $("charts").hidden = $("table-card").hidden = isEmpty;
  if (!isEmpty) {
    showCharts(series, range, unit);
    showTable(table);
  }
  return series;
}

function showTiles(totals) {
  for (const tile of document.querySelectorAll("[data-tile]")) {
    const text = figure(tile.dataset.tile, totals[tile.dataset.tile], true);
    if (tile.textContent !== text) tile.textContent = text;
    tile.title = String(totals[tile.dataset.tile] ?? "nothing measured");
  }
}

// Charts.

// The library is most of the page's size and is fetched beside the first answers.
function loadLibrary() {
  library ??= new Promise((done) => {
    document.head.append(make("script", { src: "/dygraph.min.js", load: done, error: done }));
  });
  return library;
}

function points(answer, range, unit, chart) {
  const found = new Map(answer.data.map((row) => [Date.parse(row.bucket), row.measures]));
  const out = [];
  // Buckets without events are left out of answers: nothing there is 0 for sums.
  for (let at = floorTime(range.from, unit); at < range.to; at = nextBucket(at, unit)) {
    const row = found.get(at);
    out.push([new Date(at), ...chart.lines.map((name) => row?.[name] ?? (chart.gaps ? null : 0))]);
  }
  // The running bucket is not whole yet and would look like a fall.
  if (isLive() && out.slice(0, -1).some((point) => point[1])) out.pop();
  return out;
}

export const forgetCharts = () => {
  for (const chart of drawn.values()) chart.destroy();
  drawn = new Map();
};

function showCharts(answer, range, unit) {
  if (typeof Dygraph === "undefined") {
    $("charts").textContent = "The chart library did not load; the table below has the figures.";
    return;
  }
  // Its legend writes inline styles, which the page's policy refuses; the line above each chart says the same.
  Dygraph.PLUGINS = Dygraph.PLUGINS.filter((plugin) => plugin !== Dygraph.Plugins.Legend);
  const style = getComputedStyle(document.documentElement), color = (which) => style.getPropertyValue(which).trim();
  const when = (time) => unit === "day" ? date(time) : clock(time, "minute");
  for (const chart of charts) {
    const data = points(answer, range, unit, chart), title = `${chart.title} per ${unit}`;
    $(`${chart.id}-title`).textContent = title;
    let peak = null, peakAt = null;
    for (const [at, ...values] of data) {
      const high = Math.max(...values.map((value) => value ?? -1));
      if (high >= 0 && (peak === null || high > peak)) { peak = high; peakAt = at; }
    }
    const say = (index, values) => chart.lines.map((name, line) =>
      `${chart.names ? chart.names[line] + " " : ""}${figure(name, values[line] ?? null)}`).join(" · ");
    const summary = peak === null ? "nothing measured"
      : `highest ${figure(chart.lines[0], peak)} at ${when(peakAt)}`;
    const box = $(`${chart.id}-chart`), readout = $(`${chart.id}-readout`);
    box.setAttribute("aria-label", `${title}: ${summary}`);
    const rest = summary[0].toUpperCase() + summary.slice(1);
    if (!box.matches(".pointed")) readout.textContent = rest;
    const options = {
      file: data, labels: ["time", ...chart.lines], dateWindow: [range.from, range.to],
      colors: (chart.colors ?? lineColors).map(color), gridLineColor: color("--grid"), axisLineColor: color("--line"),
      valueRange: [0, peak ? peak * 1.12 : 1],
      axes: {
        y: { axisLabelFormatter: (value) => figure(chart.lines[0], value, true), axisLabelWidth: 54 },
        x: { axisLabelFormatter: (at) => unit === "day" || range.to - range.from > 2 * day ? dayOnly(at) : clockOnly(at), axisLabelWidth: 56 },
      },
    };
    const made = drawn.get(chart.id);
    if (made) {
      made.readout = { say, when, rest };
      made.updateOptions(options);
      continue;
    }
    const graph = new Dygraph(box, data, {
      ...options, fillGraph: chart.lines.length === 1, fillAlpha: 0.16, strokeWidth: 1.8, highlightCircleSize: 3.5,
      animatedZooms: false, drawIsolatedPoints: true, pointSize: 2.5, xRangePad: 2,
      // All charts point at the same bucket.
      highlightCallback: (_, at, __, row) => point(at, row),
      unhighlightCallback: () => point(null, null),
      zoomCallback: (low, high) => { if (high - low >= 1000) narrow(floorTime(low, "minute"), Math.ceil(high / minute) * minute); },
    });
    graph.readout = { say, when, rest };
    drawn.set(chart.id, graph);
    box.ondblclick = leaveCustom;
  }
}

function point(at, row) {
  for (const [id, graph] of drawn) {
    $(`${id}-chart`).classList.toggle("pointed", at !== null);
    const { say, when, rest } = graph.readout;
    if (at === null || row >= graph.numRows()) {
      graph.clearSelection();
      $(`${id}-readout`).textContent = rest;
      continue;
    }
    graph.setSelection(row);
    const values = Array.from({ length: graph.numColumns() - 1 }, (_, index) => graph.getValue(row, index + 1));
    $(`${id}-readout`).textContent = `${when(at)} — ${say(row, values)}`;
  }
}

export function buildCharts() {
  $("charts").replaceChildren(...charts.map((chart) => make("section", { class: "card chart-card", "aria-labelledby": `${chart.id}-title` },
    make("div", { class: "chart-head" }, make("h2", { id: `${chart.id}-title` }, chart.title),
      ...(chart.names ?? []).map((name, index) => make("span", { class: `line line-${index + 1}` }, name))),
    make("p", { class: "readout", id: `${chart.id}-readout` }, "\u00a0"),
    make("div", { class: "chart", id: `${chart.id}-chart`, role: "img", "aria-label": `${chart.title}, loading` }))));
}

// The table.

export function buildTable() {
  const head = (name, label) => make("th", { scope: "col", "data-column": name, class: name === "group" || name === "share" ? "" : "number" },
    make("button", { type: "button", click: () => sortBy(name) }, label));
  $("table-head").replaceChildren(head("group", "Value"), ...columns.map(([name, label]) => head(name, label)));
}

function sortBy(name) {
  const falls = state.sort === "-" + name ? false : state.sort === name ? true : name !== "group";
  change({ sort: (falls ? "-" : "") + name }, { replaces: true });
}

function showTable(answer) {
  const total = answer.totals.requests, sorted = state.sort.replace(/^-/, "");
  for (const cell of $("table-head").cells) {
    const isSorted = cell.dataset.column === sorted;
    cell.setAttribute("aria-sort", !isSorted ? "none" : state.sort.startsWith("-") ? "descending" : "ascending");
  }
  const label = $("table-head").cells[0].firstElementChild, name = state.by.replace(/^metadata\./, "");
  if (label.textContent !== name) label.textContent = name;
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
    const focused = document.activeElement?.closest?.("#rows tr");
    body.replaceChildren(...rows);
    if (focused?.isConnected) focused.querySelector("button")?.focus({ preventScroll: true });
  }
}

function newRow(id, value) {
  const line = make("tr");
  line.dataset.value = id;
  const by = state.by, added = condition(by, value);
  const choose = make("button", {
    type: "button", class: value === null || value === "" ? "missing" : "", title: `Only these: ${added}`,
    click: () => addCondition(added, { by: nextGroup(by) }),
  }, shown(value));
  line.append(make("th", { scope: "row" }, choose));
  for (const [name] of columns) line.append(make("td", { class: name === "share" ? "" : "number" }));
  line.cells[2].append(make("progress", { class: "bar", max: "1" }));
  return line;
}

// Within one value of a name that name says nothing more: the next one that does is shown.
function nextGroup(by) {
  const names = [...keys.map(nameOf), ...builtIn];
  return names.find((name) => name !== by && !state.where.includes(name)) ?? by;
}

function fill(line, measures, total) {
  columns.forEach(([name], index) => {
    if (name === "share") return;
    const cell = line.cells[index + 1], text = figure(name, measures[name]);
    if (cell.textContent !== text) cell.textContent = text;
    if (name === "error_rate") cell.className = measures.error_rate >= 0.05 ? "number high" : "number";
  });
  const bar = line.cells[2].firstElementChild, share = total ? measures.requests / total : 0;
  bar.value = share;
  bar.title = (share * 100).toFixed(1) + " %";
  bar.setAttribute("aria-label", bar.title + " of all requests");
}

export function showGroups() {
  const names = keys.map(nameOf);
  if (!builtIn.includes(state.by) && !names.includes(state.by)) names.push(state.by);
  const signature = names.join("\n");
  if ($("by").dataset.names !== signature) {
    $("by").dataset.names = signature;
    const group = (label, list) => make("optgroup", { label }, ...list.map((name) => new Option(name.replace(/^metadata\./, ""), name)));
    $("by").replaceChildren(...(names.length ? [group("Metadata", names)] : []), group("Built in", builtIn));
  }
  $("by").value = state.by;
}
