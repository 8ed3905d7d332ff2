// Replays: how they stand, what a dry run found, and starting, ending and taking back. Loaded when first looked at.
"use strict";

import {
  $, ask, change, clock, confirmed, count, day, fromLocalText, isTime, make, parameters, Refusal, sentence, span, state, toLocalText,
} from "/base.js";

const changesShown = 200;
// The last dry run of this page: its number, and what was asked for.
let dry = null, isBuilt = false;
const lines = new Map();

export async function refreshReplays(signal) {
  if (!isBuilt) build();
  const [all, one] = await Promise.allSettled([
    ask("/v1/replays", { signal }),
    state.replay ? ask(`/v1/replays/${encodeURIComponent(state.replay)}` + parameters({ limit: changesShown }), { signal }) : null,
  ]);
  if (signal.aborted) return;
  if (all.status === "rejected") throw all.reason;
  showList(all.value.data);
  showDetail(one);
  showButtons(all.value.data);
}

// The list.

function wordOf(row) {
  if (row.activity === "revert") return ["being taken back", "fair"];
  if (row.state === "building") return row.activity ? [row.dry_run ? "dry run under way" : "being built", "fair"] : ["unfinished", "poor"];
  if (row.state === "live") return ["answers", "good"];
  if (row.state === "retired") return ["taken back", ""];
  return isLookedAt(row) ? ["dry run", ""] : ["cancelled", ""];
}

// A dry run that came to its end; one that was given up before is cancelled.
const isLookedAt = (row) => row.dry_run && row.state === "cancelled" && !row.activity && row.progress === 1;

const under = (row) => [
  row.workspace !== null ? `workspace ${row.workspace}` : null,
  row.rules ? `rules ${row.rules.slice(0, 12)}` : null, row.prices !== null ? `prices ${row.prices}` : null,
].filter(Boolean).join(", ") || "those of the time";

function progressOf(row) {
  // What came meanwhile is counted as well.
  const done = `${count.format(row.events)} of ${count.format(Math.max(row.events, row.expected_events))} events`;
  if (row.activity !== "build") return done;
  if (row.progress === 1) return `${done}, settling what came meanwhile`;
  const rate = row.events_per_second ? `, ${count.format(row.events_per_second)} a second` : "";
  return done + rate + (row.seconds_left !== null ? `, ${count.format(row.seconds_left)} s left` : "");
}

function put(element, text) { if (element.textContent !== text) element.textContent = text; }

function showList(rows) {
  $("replays-empty").hidden = rows.length > 0;
  $("replays-table").hidden = rows.length === 0;
  for (const row of rows) if (!lines.has(row.id)) lines.set(row.id, newLine(row));
  const wanted = rows.map((row) => lines.get(row.id).row), body = $("replay-rows");
  if (wanted.length !== body.rows.length || wanted.some((row, index) => row !== body.rows[index])) body.replaceChildren(...wanted);
  for (const row of rows) updateLine(lines.get(row.id), row);
}

function newLine(row) {
  const open = make("button", { type: "button", "aria-label": `Replay ${row.id}`, click: () => change({ replay: String(row.id) }) }, `${row.id}`);
  const parts = {
    word: make("span", { class: "state" }), bar: make("progress", { class: "bar", max: 1, value: 0, "aria-label": `Progress of replay ${row.id}` }),
    text: make("small", { class: "soft" }), changed: make("td", { class: "number" }), actions: make("td", { class: "actions" }), kind: "",
  };
  parts.row = make("tr", {}, make("th", { scope: "row" }, open), make("td", {}, parts.word),
    make("td", {}, `${clock(Date.parse(row.from), "minute")} – ${clock(Date.parse(row.to), "minute")}`),
    make("td", {}, under(row)), make("td", { class: "progress" }, parts.bar, parts.text), parts.changed, parts.actions);
  return parts;
}

function updateLine(line, row) {
  const [word, kind] = wordOf(row);
  put(line.word, word);
  line.word.className = `state ${kind}`;
  line.bar.value = row.progress;
  put(line.text, progressOf(row));
  put(line.changed, count.format(row.changed_events));
  const state = `${row.state} ${row.activity}`;
  if (state === line.kind) return;
  const hadFocus = line.actions.contains(document.activeElement);
  line.kind = state;
  line.actions.replaceChildren(...actionsOf(row));
  if (hadFocus) line.row.querySelector("th button").focus();
}

function actionsOf(row) {
  const action = (name, label, question, text) => make("button", {
    type: "button", class: "action", "aria-label": `${label} replay ${row.id}`,
    click: async () => { if (await confirmed(`${question} replay ${row.id}?`, text, label)) await act(row.id, name); },
  }, label);
  if (row.activity === "revert") return [];
  if (row.state === "building") {
    return [
      row.activity ? null : action("resume", "Resume", "Go on with", "It goes on here where it stood. If a command or another API works on it, that one is stopped."),
      action("cancel", "Cancel", "Give up", "What it has built is deleted. No answer has changed by it, and none will."),
    ].filter(Boolean);
  }
  if (row.state === "live") return [action("revert", "Take back", "Take back", "What answered before it answers again, late events included. What it had built is deleted.")];
  return [];
}

async function act(id, name) {
  try {
    await ask(`/v1/replays/${id}/${name}`, { body: {} });
    say("");
  } catch (error) { say(sentence(error), true); }
  change({}, { replaces: true });
}

// One replay.

let shownFor = "";

function showDetail(result) {
  const box = $("replay-detail");
  box.hidden = !state.replay;
  if (!state.replay) { shownFor = ""; return; }
  $("replay-title").textContent = `Replay ${state.replay}`;
  if (result.status === "rejected") {
    shownFor = "";
    $("replay-facts").replaceChildren();
    $("replay-result").replaceChildren(make("p", { class: "problem" }, sentence(result.reason)));
    return;
  }
  const row = result.value, key = JSON.stringify(row);
  if (key === shownFor) return;
  shownFor = key;
  const time = (text) => text ? clock(Date.parse(text)) : null;
  const facts = [
    ["State", wordOf(row)[0]], ["From", time(row.from)], ["To", time(row.to)], ["Under", under(row)],
    ["Counted anew", progressOf(row)], [row.dry_run ? "Would read otherwise" : "Read otherwise", `${count.format(row.changed_events)} events`],
    ["Started", time(row.created)], ["Answers since", row.state === "live" ? time(row.swapped) : null], ["Problem", row.problem],
  ].filter(([, value]) => value !== null);
  $("replay-facts").replaceChildren(...facts.map(([name, value]) =>
    make("div", { class: "field" }, make("dt", {}, name), make("dd", { class: name === "Problem" ? "problem" : "" }, value))));
  $("replay-result").replaceChildren(...(isLookedAt(row) ? resultOf(row) : []));
}

function resultOf({ result, changed_events: changed }) {
  if (!result) {
    return [make("p", { class: "soft" }, "What a dry run found is kept by the process that ran it, for its last eight. Run it again to see it.")];
  }
  const said = `${count.format(changed)} events would read otherwise. Nothing was changed.`
    + (result.exact ? "" : " Events of these days came meanwhile: the figures are not to the bit.");
  if (result.changes.length === 0) return [make("p", {}, said + " No total, group or cost would change.")];
  const figure = (value, measure) => measure === "cost_nano_usd" ? `$${(value / 1e9).toFixed(6)}` : count.format(value);
  const signed = (value, measure) => (value > 0 ? "+" : "−") + figure(Math.abs(value), measure);
  const rows = result.changes.map((found) => make("tr", {}, make("th", { scope: "row" }, found.day.slice(0, 10)),
    make("td", {}, found.key), make("td", {}, found.value),
    make("td", {}, found.measure === "cost_nano_usd" ? "cost" : found.measure.replaceAll("_", " ")),
    ...[figure(found.before, found.measure), figure(found.after, found.measure), signed(found.difference, found.measure)]
      .map((text) => make("td", { class: "number" }, text))));
  const heads = ["Day (UTC)", "Key", "Value", "Measure", "Before", "After", "Difference"];
  return [
    make("p", {}, said),
    make("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "What would change" },
      make("table", { id: "changes" },
        make("thead", {}, make("tr", {}, ...heads.map((text, index) => make("th", { scope: "col", class: index > 3 ? "number" : "" }, text)))),
        make("tbody", {}, ...rows))),
    result.changes_total > result.changes.length
      ? make("p", { class: "soft below" }, `The ${count.format(result.changes.length)} largest of ${count.format(result.changes_total)} changes.`) : null,
  ].filter(Boolean);
}

// Starting one.

const asked = () => ({
  from: isTime($("start-from").value) ? new Date(fromLocalText($("start-from").value)).toISOString() : null,
  to: isTime($("start-to").value) ? new Date(fromLocalText($("start-to").value)).toISOString() : null,
  rules: $("start-rules").value.trim() ? $("start-rules").value : null,
  prices: $("start-prices").value.trim() ? $("start-prices").value : null,
  workspace: $("start-workspace").value.trim() || null,
  rate: $("start-rate").value === "" ? null : Number($("start-rate").value),
});

function say(text, isBad = false) {
  $("start-said").textContent = isBad ? "" : text;
  $("start-error").textContent = isBad ? text : "";
  $("start-error").hidden = !isBad;
}

// Only what a dry run of this page has looked at is put in force from here.
function showButtons(rows) {
  const row = dry && rows.find((one) => one.id === dry.id);
  const isSame = dry && dry.asked === JSON.stringify(asked());
  const isLooked = Boolean(row && isSame && isLookedAt(row));
  $("start-run").disabled = !isLooked;
  if (row && !row.activity && row.state === "cancelled") put($("start-said"), "");
  put($("start-hint"), isLooked ? `Dry run ${dry.id} has looked at exactly this.` : "A dry run of the same comes first: it shows what would change, and changes nothing.");
}

async function start(isDry) {
  const plan = asked();
  if (!plan.from) { say("From is missing.", true); return $("start-from").focus(); }
  $("start-dry").disabled = true;
  try {
    const row = await ask("/v1/replays", { body: { ...plan, dry_run: isDry } });
    dry = isDry ? { id: row.id, asked: JSON.stringify(plan) } : null;
    say(isDry ? `Dry run ${row.id} is under way.` : `Replay ${row.id} is under way; its figures answer when it has ended.`);
    $("start-dry").disabled = false;
    return change({ replay: String(row.id) });
  } catch (error) {
    say(error instanceof Refusal ? [error.error.message, error.error.hint].filter(Boolean).join("\n") : sentence(error), true);
  }
  $("start-dry").disabled = false;
}

async function run() {
  const text = `Dry run ${dry.id} has shown what changes. The figures change in one step when the replay has ended; it can be taken back.`;
  if (await confirmed("Put this in force?", text, "Replay")) await start(false);
}

function build() {
  isBuilt = true;
  const heads = ["Replay", "State", "Range", "Under", "Progress", "Changed", "Actions"];
  const text = (id, label, hint) => make("div", { class: "wide" },
    make("label", { for: id }, label), make("textarea", { id, rows: "3", spellcheck: "false", placeholder: hint, input: () => showButtons([]) }),
    make("label", { class: "file" }, `${label} from a file `, make("input", {
      type: "file", change: async (event) => { const [file] = event.target.files; if (file) $(id).value = await file.text(); },
    })));
  const { to } = span();
  $("view-replays").replaceChildren(
    make("section", { class: "card", "aria-labelledby": "replays-title" },
      make("div", { class: "card-head" }, make("h2", { id: "replays-title" }, "Replays"),
        make("p", { class: "aside" }, "The past counted anew; until the swap no answer changes.")),
      make("p", { id: "replays-empty", class: "soft", hidden: true }, "Nothing was replayed yet. Where rules or prices were wrong, begin below with a dry run."),
      make("div", { class: "scroll", tabindex: "0", role: "group", "aria-labelledby": "replays-title" },
        make("table", { id: "replays-table" },
          make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col", class: head === "Changed" ? "number" : "" }, head)))),
          make("tbody", { id: "replay-rows" })))),
    make("section", { class: "card", id: "replay-detail", "aria-labelledby": "replay-title", hidden: true },
      make("div", { class: "card-head" }, make("h2", { id: "replay-title" }, "Replay"),
        make("button", { type: "button", class: "aside", id: "replay-close", click: () => change({ replay: "" }) }, "Close")),
      make("dl", { id: "replay-facts" }), make("div", { id: "replay-result", "aria-live": "polite" })),
    make("section", { class: "card", "aria-labelledby": "start-title" },
      make("div", { class: "card-head" }, make("h2", { id: "start-title" }, "Start one")),
      make("form", { id: "start", class: "start", novalidate: true, submit: (event) => { event.preventDefault(); start(true); } },
        make("div", {}, make("label", { for: "start-from" }, "From"), make("input", { type: "datetime-local", id: "start-from", step: "1" })),
        make("div", {}, make("label", { for: "start-to" }, "To (empty: now)"), make("input", { type: "datetime-local", id: "start-to", step: "1" })),
        make("div", {}, make("label", { for: "start-workspace" }, "Workspace (empty: all)"), make("input", { id: "start-workspace", autocomplete: "off", spellcheck: "false", input: () => showButtons([]) })),
        make("div", {}, make("label", { for: "start-rate" }, "Events a second at most"), make("input", { type: "number", id: "start-rate", min: "1", placeholder: "half of the time" })),
        text("start-rules", "Rules", "empty: those of each event's time"), text("start-prices", "Prices", "empty: costs stay"),
        make("p", { id: "start-error", class: "problem lines wide", role: "alert", hidden: true }),
        make("p", { class: "wide below" }, make("button", { type: "submit", id: "start-dry" }, "Dry run"), " ",
          make("button", { type: "button", id: "start-run", disabled: true, click: run, "aria-describedby": "start-hint" }, "Replay …"), " ",
          make("span", { id: "start-hint", class: "soft" })),
        make("p", { id: "start-said", class: "soft wide", role: "status" }))),
  );
  $("start-from").value = toLocalText(to - (to % day)).slice(0, 19);
}
