// What the whole page shares: the question as the URL has it, asking the API, figures and times as people read them.
"use strict";

export const $ = (id) => document.getElementById(id);
export const minute = 60_000, hour = 60 * minute, day = 24 * hour;
export const ranges = {
  "15m": ["Last 15 minutes", 15 * minute], "1h": ["Last hour", hour], "6h": ["Last 6 hours", 6 * hour],
  "24h": ["Last 24 hours", day], "7d": ["Last 7 days", 7 * day], "30d": ["Last 30 days", 30 * day],
};
export const views = ["overview", "events", "keys", "pipeline", "replays", "letters"];
export const builtIn = ["model", "provider", "operation", "outcome", "status_class", "api_key"];
export const ownZone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
export const isTime = (text) => !Number.isNaN(Date.parse(text));

// An element with attributes (functions are listeners) and children.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// The question; every view of the page is a URL.
const fresh = {
  view: "overview", range: "1h", from: "", to: "", zone: ownZone, where: "", by: "model", sort: "-requests", event: "",
  replay: "", letter: "", code: "", place: "",
};
export const state = { ...fresh };
let lastRelative = "1h";

export function readURL() {
  const said = new URLSearchParams(location.search);
  for (const name of Object.keys(fresh)) state[name] = said.get(name) ?? fresh[name];
  if (!ranges[state.range] && !(state.range === "custom" && isTime(state.from) && isTime(state.to))) state.range = "1h";
  if (!views.includes(state.view)) state.view = "overview";
  if (!isZone(state.zone)) state.zone = ownZone;
  if (state.range !== "custom") lastRelative = state.range;
}

export function urlOf(changes = {}) {
  const wanted = { ...state, ...changes }, said = new URLSearchParams();
  for (const [name, value] of Object.entries(wanted)) {
    if (value === fresh[name] || ((name === "from" || name === "to") && wanted.range !== "custom")) continue;
    said.set(name, value);
  }
  return said.size ? "?" + said : location.pathname;
}

const listeners = [];
export const onChange = (listener) => listeners.push(listener);

// Another question: a new entry of the browser's history, unless it only refines the last one.
export function change(changes, { replaces = false } = {}) {
  Object.assign(state, changes);
  if (state.range !== "custom") lastRelative = state.range;
  history[replaces ? "replaceState" : "pushState"](null, "", urlOf());
  for (const listener of listeners) listener();
}

export const leaveCustom = () => { if (state.range === "custom") change({ range: lastRelative }); };

export function narrow(from, to) {
  change({ range: "custom", from: new Date(from).toISOString(), to: new Date(to).toISOString() });
}

// The range now, cut so that the rollups of the chart's buckets hold all of it.
export function span() {
  if (state.range === "custom") return { from: Date.parse(state.from), to: Date.parse(state.to) };
  const now = Date.now(), length = ranges[state.range][1];
  return { from: floorTime(now - length, length > 6 * hour ? "hour" : "minute"), to: now };
}

export const isLive = () => state.range !== "custom";

// Of a live range the end is left out: it is always now, and the same question again is the same URL.
export function question() {
  const { from, to } = span();
  return {
    from: new Date(from).toISOString(), to: isLive() ? "" : new Date(to).toISOString(), where: state.where,
    timezone: state.zone,
  };
}

// The filter.
export const nameOf = (key) =>
  /^[\w.\u0080-\uffff-]+$/.test(key) ? `metadata.${key}` : `metadata."${key.replaceAll('"', '""')}"`;
export const quoted = (text) => `'${String(text).replaceAll("'", "''")}'`;

export function condition(name, value) {
  if (value === null) return `not ${name} exists`;
  if (Array.isArray(value)) return value.map((part) => `${name} = ${quoted(part)}`).join(" and ");
  return `${name} = ${quoted(value)}`;
}

export function addCondition(added, more = {}) {
  const before = state.where.trim();
  const where = !before ? added : /\bor\b/i.test(before) ? `(${before}) and ${added}` : `${before} and ${added}`;
  change({ where, ...more });
}

// Times, in the zone that was chosen.
const formats = new Map();
function format(options) {
  const key = state.zone + JSON.stringify(options);
  if (!formats.has(key)) formats.set(key, new Intl.DateTimeFormat("en-GB", { timeZone: state.zone, ...options }));
  return formats.get(key);
}

export function isZone(name) {
  try { new Intl.DateTimeFormat("en", { timeZone: name }); return true; } catch { return false; }
}

export function clock(time, precision = "second") {
  const shown = { minute: {}, second: { second: "2-digit" }, milli: { second: "2-digit", fractionalSecondDigits: 3 } };
  return format({
    day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23", ...shown[precision],
  }).format(time);
}
export const date = (time) => format({ day: "numeric", month: "short", year: "numeric" }).format(time);
export const clockOnly = (time) => format({ hour: "2-digit", minute: "2-digit", hourCycle: "h23" }).format(time);
export const dayOnly = (time) => format({ day: "numeric", month: "short" }).format(time);

// Milliseconds that the zone's clock is ahead of UTC.
export function offsetAt(time) {
  const parts = {};
  const options = { year: "numeric", month: "numeric", day: "numeric", hour: "numeric", minute: "numeric", second: "numeric", hourCycle: "h23" };
  for (const { type, value } of format(options).formatToParts(time)) parts[type] = Number(value);
  const local = Date.UTC(parts.year, parts.month - 1, parts.day, parts.hour, parts.minute, parts.second);
  return local - Math.floor(time / 1000) * 1000;
}

// Buckets of the zone's clock, as the API cuts them.
export function floorTime(time, unit) {
  const offset = offsetAt(time), length = { minute, hour, day }[unit];
  const local = Math.floor((time + offset) / length) * length;
  return unit === "day" ? local - offsetAt(local - offset) : local - offset;
}
// The longest day has 25 hours and the shortest 23: this falls on the next one in either case.
export const nextBucket = (time, unit) =>
  unit === "day" ? floorTime(time + 26 * hour, "day") : time + { minute, hour }[unit];

// "2026-11-01T08:30" by the zone's clock <-> an instant.
export const toLocalText = (time) => new Date(time + offsetAt(time)).toISOString().slice(0, 19);
export function fromLocalText(text) {
  const asUTC = Date.parse(text + "Z");
  return asUTC - offsetAt(asUTC - offsetAt(asUTC));
}

// Figures.
export const count = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 2 });
export function figure(name, value, compact = false) {
  if (value === null || value === undefined) return "–";
  if (name === "error_rate") return (value * 100).toFixed(value && value < 0.1 ? 2 : 1) + " %";
  if (name === "cost_usd") {
    if (value === 0) return "$0";
    return "$" + (value >= 1000 ? (compact ? short : count).format(value) : value.toFixed(value >= 1 ? 2 : value >= 0.01 ? 4 : 6));
  }
  if (name.includes("_ms")) {
    return value >= 1000 ? (value / 1000).toFixed(2) + " s" : value >= 10 ? Math.round(value) + " ms" : value.toFixed(1) + " ms";
  }
  return compact && Math.abs(value) >= 100_000 ? short.format(value) : count.format(value);
}
export const shown = (value) =>
  value === null ? "(none)" : value === "" ? "(empty)" : Array.isArray(value) ? value.join(", ") : String(value);

// The API.
export class Refusal extends Error {
  constructor(status, error) { super(error.message); this.status = status; this.error = error; }
}

export const apiKey = {
  get: () => sessionStorage.getItem("key"),
  set: (key) => sessionStorage.setItem("key", key),
};

export async function ask(path, { body, signal } = {}) {
  const headers = body ? { "content-type": "application/json" } : {};
  if (apiKey.get()) headers.authorization = "Bearer " + apiKey.get();
  const response = await fetch(path, { method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body) });
  const text = await response.text();
  let answer = null;
  try { answer = JSON.parse(text); } catch { if (response.ok) return text; }
  if (!response.ok) {
    throw new Refusal(response.status, answer?.error ?? { code: "", message: `The API answered ${response.status}.` });
  }
  return answer;
}

export const parameters = (values) => "?" + new URLSearchParams(Object.entries(values).filter(([, value]) => value));

// By GET, so that the browser asks whether anything has changed since, and of what has not only that is said.
export const query = ({ group_by: groups = [], measures, ...asked }, signal) =>
  ask("/v1/query" + parameters({ ...asked, group_by: groups.join(","), measures: measures.join(",") }), { signal });

// What goes wrong in the background of a view is said where it would have shown.
export const sentence = (error) =>
  error instanceof Refusal ? [error.error.message, error.error.hint].filter(Boolean).join(" ")
    : "The API does not answer. Is millrace running?";

// A question that is answered by a button; Escape is no.
let ending = null;

export function confirmed(title, text, label) {
  const box = $("confirm"), asker = document.activeElement;
  ending?.(false);
  $("confirm-title").textContent = title;
  $("confirm-text").textContent = text;
  $("confirm-yes").textContent = label;
  return new Promise((answer) => {
    ending = (isYes) => {
      ending = null;
      if (box.open) box.close();
      asker?.focus?.();
      answer(isYes);
    };
    $("confirm-yes").onclick = () => ending?.(true);
    $("confirm-no").onclick = () => ending?.(false);
    // Of an earlier question it may come when this one is open already.
    box.onclose = () => { if (!box.open) ending?.(false); };
    box.showModal();
    $("confirm-no").focus();
  });
}
