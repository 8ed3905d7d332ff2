// The page: the URL says what is asked, the API answers, and the view of the moment is drawn; again and again while the
// range is a relative one.
"use strict";

import {
  $, apiKey, ask, change, clock, count, fromLocalText, isLive, isTime, isZone, leaveCustom, make, minute, onChange,
  ownZone, question, ranges, readURL, Refusal, sentence, span, state, toLocalText, urlOf, views, hour, parameters,
} from "/base.js";
import { closeOffers, setKeys, showFilterError, watchFilter } from "/filter.js";
import {
  buildCharts, buildTable, forgetCharts, refreshOverview, setGroupKeys, showGroups,
} from "/overview.js";
import { forgetEvents, refreshEvents, refreshKeys, refreshPipeline, showEvent, watchEvents } from "/views.js";

// What another view does not take along.
const closed = { event: "", replay: "", letter: "", code: "", place: "" };
let timer = 0, running = null, keysAt = 0, hasAnswer = false, proxyURL = "";

async function refresh() {
  clearTimeout(timer);
  running?.abort();
  const mine = running = new AbortController(), view = state.view;
  document.body.setAttribute("aria-busy", "true");
  try {
    if (view === "overview") {
      const answer = await refreshOverview(mine.signal);
      if (answer) { showPlan(answer); showEmpty(); }
    } else if (view === "events") await refreshEvents(mine.signal);
    else if (view === "keys") await refreshKeys(mine.signal);
    else if (view === "replays") await (await import("/replays.js")).refreshReplays(mine.signal);
    else if (view === "letters") await (await import("/letters.js")).refreshLetters(mine.signal);
    else await refreshPipeline(mine.signal);
    if (mine.signal.aborted) return;
    succeed();
    if (Date.now() - keysAt > 20_000) loadKeys();
  } catch (error) {
    if (mine.signal.aborted || error.name === "AbortError") return;
    fail(error);
  }
  document.body.setAttribute("aria-busy", "false");
  if (!(isLive() || view === "replays") || !$("key-form").hidden) return;
  const length = span().to - span().from;
  const pause = view === "replays" ? 1_000 : view === "keys" ? 15_000 : length > 26 * hour ? 6_000 : 2_000;
  timer = setTimeout(() => { if (!document.hidden) refresh(); }, pause);
}

function succeed() {
  hasAnswer = true;
  $("problem").hidden = true;
  $("key-form").hidden = true;
  showFilterError(null);
  document.body.classList.remove("stale");
  const isMoving = isLive() || state.view === "replays";
  say(isMoving ? "live" : "", isMoving ? "on" : "");
}

function say(text, kind) {
  if ($("live").textContent !== text) $("live").textContent = text;
  $("live").className = `live ${kind}`;
}

function fail(error) {
  const needsAdmin = state.view === "replays" || state.view === "letters";
  if (error instanceof Refusal && (error.status === 401 || error.status === 403 && needsAdmin)) {
    for (const scope of document.querySelectorAll("#key-form .scope")) scope.textContent = needsAdmin ? "admin" : "query";
    $("key-form").hidden = false;
    $("problem").hidden = error.status === 401;
    $("problem").textContent = sentence(error);
    return say("", "");
  }
  const isFilter = error instanceof Refusal && (error.error.code === "invalid_filter" || error.error.position != null);
  showFilterError(isFilter ? error.error : null);
  $("problem").hidden = isFilter;
  if (!isFilter) {
    $("problem").textContent = sentence(error) + (error instanceof Refusal ? "" : " The page goes on trying.");
    if (!(error instanceof Refusal)) console.error(error);
  }
  say("not up to date", "off");
  document.body.classList.add("stale");
  if (!hasAnswer) $("plan").textContent = "No answer yet.";
}

function showEmpty() {
  const isFiltered = state.where.trim() !== "";
  $("empty-title").textContent = isFiltered ? "Nothing matches this filter" : "No requests in this range";
  $("empty-text").textContent = isFiltered
    ? "Choose a longer range, or take a condition out of the filter."
    : "Choose a longer range, or send a request through the proxy; it shows here within a second:";
  $("example").hidden = isFiltered;
  $("curl").textContent = `curl ${proxyURL || "http://127.0.0.1:8787"}/v1/chat/completions \\
  -H "x-portkey-provider: openai" -H "authorization: Bearer $OPENAI_API_KEY" \\
  -H "content-type: application/json" -H 'x-portkey-metadata: {"env":"test","team":"search"}' \\
  -d '{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Say hello."}]}'`;
}

function showPlan(answer) {
  const { plan } = answer, seen = answer.watermark ? clock(Date.parse(answer.watermark)) : "no event yet";
  const grains = plan.grains.length ? ` (${plan.grains.join(", ")})` : "";
  $("plan").textContent = `${answer.exact ? "Exact" : "Not exact"} · from ${plan.source.replace("+", " and ")}${grains}, `
    + `${count.format(plan.rows_read)} rows · latest event ${seen} · times in ${state.zone}`;
  if (!answer.exact) $("plan").textContent += ` · ${plan.reason}`;
  $("plan").title = plan.reason;
}

async function loadKeys() {
  keysAt = Date.now();
  const { from, to } = question();
  try {
    const keys = (await ask("/v1/metadata/keys" + parameters({ from, to }))).data.map((row) => row.key);
    setKeys(keys);
    setGroupKeys(keys);
  } catch { keysAt = Date.now() - 15_000; /* Completion and groups do without; the views say what is wrong. */ }
}

// What the URL says, shown in the controls.
function showState() {
  $("range").value = state.range;
  $("custom").hidden = state.range !== "custom";
  const { from, to } = span();
  for (const [id, time] of [["from", from], ["to", to]]) {
    if (document.activeElement !== $(id)) $(id).value = toLocalText(time);
  }
  $("zone").value = state.zone;
  if (document.activeElement !== $("where") || $("where").value.trim() === state.where.trim()) $("where").value = state.where;
  for (const view of views) {
    $(`view-${view}`).hidden = view !== state.view;
    const link = $(`to-${view}`);
    link.href = urlOf({ view, ...closed });
    if (view === state.view) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  $("filter").hidden = state.view !== "overview" && state.view !== "events";
  $("plan").hidden = state.view !== "overview";
  document.title = state.view === "overview" ? "Millrace" : `${$(`to-${state.view}`).textContent} – Millrace`;
  showGroups();
  showEvent();
  if (!state.letter) $("letter")?.close();
}

let lastZone = state.zone, lastGroup = state.by;
onChange(() => {
  if (state.zone !== lastZone) { forgetCharts(); forgetEvents(); $("event-rows").replaceChildren(); }
  if (state.by !== lastGroup) $("rows").replaceChildren();
  [lastZone, lastGroup] = [state.zone, state.by];
  $("where").value = state.where;
  showState();
  refresh();
});

// Controls.
$("range").append(...Object.entries(ranges).map(([value, [label]]) => new Option(label, value)), new Option("Custom …", "custom"));
$("range").onchange = (event) => {
  if (event.target.value !== "custom") return change({ range: event.target.value });
  const { from, to } = span();
  change({ range: "custom", from: new Date(from).toISOString(), to: new Date(to).toISOString() });
};
for (const id of ["from", "to"]) {
  $(id).onchange = (event) => {
    if (!isTime(event.target.value)) return;
    const both = { from: state.from, to: state.to, [id]: new Date(fromLocalText(event.target.value)).toISOString() };
    // Turned round is meant the other way round.
    if (both.from > both.to) [both.from, both.to] = [both.to, both.from];
    if (both.from === both.to) both.to = new Date(Date.parse(both.to) + minute).toISOString();
    change(both);
  };
}
$("back").onclick = leaveCustom;
$("zones").append(...["UTC", ownZone, ...(Intl.supportedValuesOf?.("timeZone") ?? [])]
  .filter((name, index, all) => all.indexOf(name) === index).map((name) => make("option", { value: name })));
$("zone").onchange = (event) => {
  const name = event.target.value.trim();
  if (isZone(name)) change({ zone: name }); else event.target.value = state.zone;
};
$("filter").onsubmit = (event) => {
  event.preventDefault();
  closeOffers();
  change({ where: $("where").value });
};
$("where").addEventListener("search", () => { if ($("where").value === "" && state.where) $("filter").requestSubmit(); });
$("by").onchange = (event) => change({ by: event.target.value });
for (const view of views) {
  $(`to-${view}`).addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    change({ view, ...closed });
  });
}
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, select, textarea, dialog");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") { event.preventDefault(); $("where").focus(); }
  if (/^[1-6]$/.test(event.key)) change({ view: views[event.key - 1], ...closed });
});
$("copy").onclick = async () => {
  try { await navigator.clipboard.writeText($("curl").textContent); $("copy").textContent = "Copied"; } catch {
    getSelection().selectAllChildren($("curl"));
    $("copy").textContent = "Selected";
  }
  setTimeout(() => { $("copy").textContent = "Copy"; }, 1500);
};
$("key-form").onsubmit = (event) => {
  event.preventDefault();
  apiKey.set($("key").value.trim());
  $("key").value = "";
  refresh();
};
const themes = ["auto", "light", "dark"];
function showTheme(name) {
  document.documentElement.dataset.theme = name;
  $("theme").textContent = { auto: "Theme: auto", light: "Theme: light", dark: "Theme: dark" }[name];
}
$("theme").onclick = () => {
  const name = themes[(themes.indexOf(document.documentElement.dataset.theme) + 1) % themes.length];
  localStorage.setItem("theme", name);
  showTheme(name);
  forgetCharts();
  refresh();
};
document.addEventListener("visibilitychange", () => { if (!document.hidden && (isLive() || state.view === "replays")) refresh(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { forgetCharts(); refresh(); });
addEventListener("popstate", () => {
  const { by, zone } = state;
  readURL();
  if (by !== state.by) $("rows").replaceChildren();
  if (zone !== state.zone) forgetCharts();
  [lastZone, lastGroup] = [state.zone, state.by];
  $("where").value = state.where;
  closeOffers();
  showState();
  refresh();
});

readURL();
[lastZone, lastGroup] = [state.zone, state.by];
const saved = localStorage.getItem("theme");
showTheme(themes.includes(saved) ? saved : "auto");
buildCharts();
buildTable();
watchFilter();
watchEvents();
showState();
ask("/page.json").then((page) => { proxyURL = page.proxy_url; }, () => { /* the default stands */ }).then(refresh);
