// Dead letters: a page of them, filters, one with its bytes; sending them again and giving them up. Loaded when first
// looked at.
"use strict";

import { $, ask, change, clock, confirmed, count, make, parameters, question, sentence, state } from "/base.js";

const pageSize = 50, bytesShown = 4096;
const codes = ["undecodable", "unknown_kind", "too_large", "corrupt_frame", "time_out_of_range"];
let isBuilt = false, letters = [], next = null, askedFor = "", openFor = "";

const filter = () => ({ from: question().from, to: state.range === "custom" ? question().to : "", code: state.code, source: state.place });

export async function refreshLetters(signal) {
  if (!isBuilt) build();
  $("letter-code").value = state.code;
  if (document.activeElement !== $("letter-place")) $("letter-place").value = state.place;
  const key = JSON.stringify([state.range, state.from, state.to, state.code, state.place]);
  const page = await ask("/v1/dead-letters" + parameters({ ...filter(), limit: pageSize }), { signal });
  if (signal.aborted) return;
  // Older pages that were asked for stay; what is new comes on top.
  const fresh = new Set(page.data.map((letter) => letter.id));
  if (key !== askedFor || letters.length <= pageSize) { letters = page.data; next = page.next_cursor; }
  else letters = [...page.data, ...letters.filter((letter) => !fresh.has(letter.id))];
  askedFor = key;
  showList();
  await showLetter(signal);
}

async function older() {
  $("letters-older").disabled = true;
  try {
    const page = await ask("/v1/dead-letters" + parameters({ ...filter(), limit: pageSize, cursor: next }));
    letters = [...letters, ...page.data];
    next = page.next_cursor;
    showList();
  } catch (error) { $("letters-said").textContent = sentence(error); }
  $("letters-older").disabled = false;
}

function showList() {
  $("letters-empty").hidden = letters.length > 0;
  $("letters-table").hidden = letters.length === 0;
  $("letters-older").hidden = !next;
  $("letters-act").hidden = !letters.some(isOpen);
  const body = $("letter-rows"), old = new Map(Array.from(body.rows, (row) => [row.dataset.key, row]));
  const rows = letters.map((letter) => old.get(keyOf(letter)) ?? newRow(letter));
  if (rows.length !== body.rows.length || rows.some((row, index) => row !== body.rows[index])) body.replaceChildren(...rows);
}

const keyOf = (letter) => [letter.id, letter.redriven, letter.discarded].join(" ");
const done = (letter) => letter.redriven ? `sent again ${clock(Date.parse(letter.redriven), "minute")}`
  : letter.discarded ? `given up ${clock(Date.parse(letter.discarded), "minute")}` : "–";

const isOpen = (letter) => !letter.redriven && !letter.discarded;

function newRow(letter) {
  const open = make("button", { type: "button", "aria-haspopup": "dialog", click: () => change({ letter: letter.id }) }, letter.id);
  const row = make("tr", {}, make("th", { scope: "row" }, open), make("td", {}, clock(Date.parse(letter.time))),
    make("td", {}, letter.code), make("td", { class: "number" }, count.format(letter.value_size_bytes)),
    make("td", {}, done(letter)), make("td", { class: "reason" }, letter.reason));
  row.dataset.key = keyOf(letter);
  return row;
}

// One.

async function showLetter(signal) {
  const box = $("letter");
  if (!state.letter) { openFor = ""; if (box.open) box.close(); return; }
  if (!box.open) box.showModal();
  if (openFor === state.letter) return;
  openFor = state.letter;
  $("letter-body").replaceChildren(make("p", {}, "Loading …"));
  let letter;
  try { letter = await ask(`/v1/dead-letters/${encodeURIComponent(state.letter)}`, { signal }); } catch (error) {
    if (signal.aborted) { openFor = ""; return; }
    $("letter-body").replaceChildren(make("p", { class: "problem" }, sentence(error)));
    return;
  }
  const field = (name, value) => make("div", { class: "field" }, make("dt", {}, name), make("dd", {}, value));
  $("letter-body").replaceChildren(
    make("dl", {}, field("Where", letter.id), field("Filed", clock(Date.parse(letter.time), "milli")), field("Code", letter.code),
      field("Done about it", done(letter)), field("Why", letter.reason)),
    make("h3", {}, "What can be done"),
    make("p", {}, ...actions.map((action) => actor(action, "this record", () => ({ id: letter.id, ...(action.name === "redrive" ? { again: true } : {}) })))),
    ...bytes("Key", letter.key_hex), ...bytes("Value", letter.value_hex));
}

// What can be done about them.

const actions = [
  { name: "redrive", label: "Send again", done: "sent again", text: "Key and value go to the log as they came: what was counted meanwhile is not counted twice, and what fails again is a dead letter again." },
  { name: "discard", label: "Give up", done: "given up", text: "They stay where they are, marked, and go on to count as dead-lettered." },
];

// A button that asks, and then does it to the choice of that moment.
const actor = ({ name, label, done, text }, what, choice) => make("button", {
  type: "button", class: "act", "data-action": name, click: async () => {
    if (!await confirmed(`${label}: ${what}?`, text, label)) return;
    const said = (words) => { for (const box of document.querySelectorAll(".letters-said")) box.textContent = words; };
    said("");
    try {
      const answer = await ask(`/v1/dead-letters/${name}`, { body: choice() });
      said(`${count.format(answer[name === "redrive" ? "redriven" : "discarded"])} ${done}${answer.more ? "; there are more, do it again" : ""}.`);
    } catch (error) { said(sentence(error)); }
    askedFor = openFor = "";
    change({}, { replaces: true });
  },
}, `${label} …`);

// Sixteen bytes a line: offset, hex, and as text where they print.
function bytes(name, hex) {
  const pairs = hex.match(/../g) ?? [], cut = pairs.slice(0, bytesShown), rows = [];
  for (let at = 0; at < cut.length; at += 16) {
    const part = cut.slice(at, at + 16);
    const text = part.map((pair) => parseInt(pair, 16)).map((byte) => byte >= 32 && byte < 127 ? String.fromCharCode(byte) : ".").join("");
    rows.push(`${at.toString(16).padStart(6, "0")}  ${part.join(" ").padEnd(47)}  ${text}`);
  }
  const more = pairs.length > cut.length ? `, the first ${count.format(cut.length)} of them` : "";
  return [
    make("h3", {}, `${name}, ${count.format(pairs.length)} bytes${more}`),
    pairs.length ? make("pre", { tabindex: "0", "aria-label": `${name} in hex` }, rows.join("\n")) : make("p", { class: "missing" }, "empty"),
  ];
}

function build() {
  isBuilt = true;
  const heads = ["Where in the log", "Filed", "Code", "Bytes", "Done about it", "Why"];
  $("view-letters").replaceChildren(
    make("section", { class: "card", "aria-labelledby": "letters-title" },
      make("div", { class: "card-head" }, make("h2", { id: "letters-title" }, "Dead letters"),
        make("label", { class: "switch soft" }, "Code", make("select", { id: "letter-code", change: (event) => change({ code: event.target.value }) },
          new Option("any", ""), ...codes.map((code) => new Option(code, code)))),
        make("label", { class: "switch soft" }, "Place", make("input", {
          id: "letter-place", autocomplete: "off", spellcheck: "false", placeholder: "topic/partition/offset", change: (event) => change({ place: event.target.value.trim() }),
        })),
        make("p", { id: "letters-said", class: "soft letters-said", role: "status" }),
        make("p", { class: "aside" }, "Records that could not be counted. Choose one to see it.")),
      make("p", { id: "letters-empty", class: "soft", hidden: true }, "No record of this range was rejected. Choose a longer range to look further back, or take a filter out."),
      make("div", { class: "scroll", tabindex: "0", role: "group", "aria-labelledby": "letters-title" },
        make("table", { id: "letters-table" },
          make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col", class: head === "Bytes" ? "number" : "" }, head)))),
          make("tbody", { id: "letter-rows" }))),
      make("p", { class: "below" }, make("button", { type: "button", id: "letters-older", hidden: true, click: older }, "Older")),
      make("p", { id: "letters-act", class: "below", hidden: true },
        ...actions.map((action) => actor(action, "every record that these filters choose and nothing was done about", () => {
          const { from, to, code, source } = filter();
          return Object.fromEntries(Object.entries({ from, to, code, source }).filter(([, value]) => value));
        })))),
    make("dialog", { id: "letter", "aria-labelledby": "letter-title", close: () => { if (state.letter) change({ letter: "" }); } },
      make("div", { class: "card-head" }, make("h2", { id: "letter-title" }, "Dead letter"),
        make("button", { type: "button", id: "letter-close", class: "aside", click: () => change({ letter: "" }) }, "Close")),
      make("p", { class: "soft letters-said", role: "status" }), make("div", { id: "letter-body" })),
  );
}
