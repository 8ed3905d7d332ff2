// The filter's completion: what may stand at the cursor is offered below it: names, then comparisons, then values.
"use strict";

import { $, ask, builtIn, nameOf, parameters, query, question, quoted, state } from "/base.js";

const numbers = ["latency_ms", "cost_usd", "input_tokens", "output_tokens", "total_tokens", "status"];
const closed = {
  outcome: ["success", "client_error", "provider_error", "timeout", "cancelled"],
  status_class: ["2xx", "4xx", "5xx", "3xx", "1xx"],
};
let keys = [], offers = [], chosen = -1, asked = 0;

export const setKeys = (found) => { keys = found; };

// The filter up to the cursor as tokens: [kind, text, start].
function tokens(text) {
  const pattern = /\s+|'(?:[^']|'')*'?|metadata\."(?:[^"]|"")*"?|[\w.\u0080-\uffff-]+|[=!<>]+|[(),]|./giy;
  const found = [];
  for (const match of text.matchAll(pattern)) {
    const word = match[0];
    if (/^\s/.test(word)) continue;
    const kind = word[0] === "'" ? "text" : /^[=!<>]+$/.test(word) ? "comparison" : /^[(),]$/.test(word) ? word : "word";
    found.push({ kind, word, start: match.index, end: match.index + word.length });
  }
  return found;
}

// What is expected at the cursor, what of it is typed, and where that begins.
function expectation(text) {
  const all = tokens(text), last = all.at(-1);
  const isOpen = last && last.end === text.length && (last.kind === "word" || (last.kind === "text" && !/^'(?:[^']|'')*'$/.test(last.word)));
  const typed = isOpen ? last.word : "", start = isOpen ? last.start : text.length;
  const before = isOpen ? all.slice(0, -1) : all;
  let expected = "name", name = "", inList = false, negated = false;
  for (const { kind, word } of before) {
    const lower = word.toLowerCase();
    if (expected === "name") {
      if (lower === "not" || kind === "(") continue;
      name = word; expected = "comparison"; negated = false;
    } else if (expected === "comparison") {
      if (lower === "not") negated = true;
      else if (lower === "exists") expected = "join";
      else if (lower === "in") { inList = true; expected = "open"; }
      else expected = "value";
    } else if (expected === "open") { if (kind === "(") expected = "value"; }
    else if (expected === "value") expected = inList ? "list" : "join";
    else if (expected === "list") { if (kind === ",") expected = "value"; else if (kind === ")") { inList = false; expected = "join"; } }
    else if (expected === "join" && (lower === "and" || lower === "or")) expected = "name";
  }
  return { expected, name, typed, start, negated };
}

async function valuesOf(name, prefix) {
  if (closed[name]) return closed[name].filter((value) => value.startsWith(prefix));
  const { from, to } = question();
  const key = name.match(/^metadata\.(?:"((?:[^"]|"")*)"|(.+))$/i);
  if (key) {
    const text = key[1]?.replaceAll('""', '"') ?? key[2];
    const said = parameters({ from, to, prefix, limit: 20 });
    return (await ask(`/v1/metadata/keys/${encodeURIComponent(text)}/values${said}`)).data.map((row) => row.value);
  }
  if (!builtIn.includes(name)) return [];
  const answer = await query({ from, to, group_by: [name], measures: ["requests"], limit: 50 });
  return answer.data.map((row) => row.group[name]).filter((value) => value !== null && value.startsWith(prefix));
}

async function find() {
  const box = $("where"), text = box.value.slice(0, box.selectionStart), mine = ++asked;
  const { expected, name, typed, start, negated } = expectation(text);
  const lower = typed.toLowerCase();
  const words = (list) => list.filter((word) => word.toLowerCase().includes(lower) && word.toLowerCase() !== lower)
    .sort((a, b) => b.toLowerCase().startsWith(lower) - a.toLowerCase().startsWith(lower));
  let found = [];
  if (expected === "name") found = words([...keys.map(nameOf), ...builtIn, ...numbers, "not"]);
  else if (expected === "comparison") {
    const isNumber = numbers.includes(name.toLowerCase());
    const all = negated ? ["in (", "like '", "exists"] : isNumber ? ["<", "<=", "=", "!=", ">=", ">", "exists"]
      : ["=", "!=", "in (", "not in (", "exists", "like '"];
    found = all.filter((word) => word.startsWith(lower) || !typed);
  } else if (expected === "open") found = ["("];
  else if (expected === "value") {
    if (numbers.includes(name.toLowerCase())) return show([], start);
    const prefix = typed.replace(/^'/, "").replaceAll("''", "'");
    try { found = (await valuesOf(name, prefix)).map(quoted); } catch { found = []; }
    if (mine !== asked) return;
  } else if (expected === "list") found = [",", ")"];
  else found = words(["and", "or"]);
  show(found.slice(0, 12), start);
}

function show(found, start) {
  const list = $("offers"), box = $("where");
  offers = found.map((word) => ({ word, start }));
  chosen = -1;
  list.hidden = found.length === 0;
  box.setAttribute("aria-expanded", String(found.length > 0));
  box.removeAttribute("aria-activedescendant");
  list.replaceChildren(...found.map((word, index) => {
    const item = document.createElement("li");
    item.id = `offer-${index}`;
    item.setAttribute("role", "option");
    item.setAttribute("aria-selected", "false");
    item.textContent = word;
    // Before the box loses the focus.
    item.addEventListener("pointerdown", (event) => { event.preventDefault(); take(index); });
    return item;
  }));
}

function choose(index) {
  const items = $("offers").children;
  if (chosen >= 0) items[chosen].setAttribute("aria-selected", "false");
  chosen = (index + items.length + 1) % (items.length + 1);
  if (chosen === items.length) chosen = -1;
  if (chosen < 0) return $("where").removeAttribute("aria-activedescendant");
  items[chosen].setAttribute("aria-selected", "true");
  items[chosen].scrollIntoView({ block: "nearest" });
  $("where").setAttribute("aria-activedescendant", `offer-${chosen}`);
}

function take(index) {
  const box = $("where"), { word, start } = offers[index], end = box.selectionStart;
  const before = box.value.slice(0, start), after = box.value.slice(end).replace(/^'/, word.endsWith("'") ? "" : "'");
  const space = before && !/[\s(]$/.test(before) && word !== "," && word !== ")" ? " " : "";
  const trail = /['(]$/.test(word) && !/^'.*'$/.test(word) ? "" : " ";
  box.value = before + space + word + trail + after.trimStart();
  const at = (before + space + word + trail).length;
  box.focus();
  box.setSelectionRange(at, at);
  find();
}

export const closeOffers = () => { asked += 1; show([], 0); };

export function watchFilter() {
  const box = $("where");
  box.addEventListener("input", find);
  box.addEventListener("click", find);
  box.addEventListener("blur", closeOffers);
  box.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (offers.length === 0) return find();
      choose(chosen + (event.key === "ArrowDown" ? 1 : -1));
    } else if ((event.key === "Enter" || event.key === "Tab") && chosen >= 0) {
      event.preventDefault();
      take(chosen);
    } else if (event.key === "Escape" && offers.length) {
      event.preventDefault();
      closeOffers();
    }
  });
}

// The filter again with the place marked, then what is wrong and what was meant.
export function showFilterError(error) {
  const box = $("where-error");
  $("where").setAttribute("aria-invalid", error ? "true" : "false");
  box.hidden = !error;
  if (!error) { box.dataset.said = ""; return; }
  if (box.dataset.said === state.where + error.message) return;
  box.dataset.said = state.where + error.message;
  const letters = Array.from(state.where), at = error.position ?? letters.length;
  let end = at + 1;
  while (end < letters.length && /[\w.'"-]/.test(letters[end])) end += 1;
  const code = document.createElement("code"), mark = document.createElement("mark");
  mark.textContent = letters.slice(at, end).join("") || " ";
  code.append(letters.slice(0, at).join(""), mark, letters.slice(end).join(""));
  box.replaceChildren(code, [`At ${at + 1}: ${error.message}`, error.hint].filter(Boolean).join(" "));
}
