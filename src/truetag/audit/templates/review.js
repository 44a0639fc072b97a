"use strict";
// All texts are data: they reach the page through textContent alone.
const page = JSON.parse(document.getElementById("data").textContent);
const issues = page.issues;
const el = (id) => document.getElementById(id);
const list = el("list"), space = el("space");
const storageKey = "truetag-review-" + page.digest;
const WORDS = { accept: "✓ accepted", reject: "✗ rejected", skip: "– skipped" };
const KINDS = { missing: "probably missing", incorrect: "probably incorrect", record: "probably of another photo",
  near_duplicate: "near-duplicate, other tags", outlier: "outlier" };
const SIGNS = { missing: "+ ", incorrect: "− ", record: "− ", near_duplicate: "", outlier: "" };
const CLASSES = { missing: "add", incorrect: "remove", record: "remove", near_duplicate: "look", outlier: "look" };
const TILE = 248, TILE_HEIGHT = 252, GAP = 12;

let decisions = new Map(), history = [], shown = [], current = 0, anchor = 0, selected = new Set();

function keyOf(issue) { return JSON.stringify([issue.id, issue.kind, issue.label ?? issue.record]); }
for (const issue of issues) issue.key = keyOf(issue);

function restore() {
  try {
    const kept = JSON.parse(localStorage.getItem(storageKey) || "[]");
    decisions = new Map(kept);
  } catch { say("This browser keeps no decisions: download them before you close the page."); }
}
function keep() {
  try { localStorage.setItem(storageKey, JSON.stringify([...decisions])); }
  catch { say("This browser keeps no decisions: download them before you close the page."); }
}
function say(text) { el("message").textContent = text; }

// where a given tag comes from; a missing one comes from nowhere
const NO_SOURCE = "(not given)";
function sourceOf(issue) { return issue.source ?? NO_SOURCE; }
const hasSources = new Set(issues.map((issue) => issue.source).filter((source) => source !== undefined)).size > 1;

// which issues are shown
function filter() {
  const text = el("search").value.trim().toLowerCase(), kind = el("kind").value, state = el("state").value;
  const tag = el("tag").value, source = el("source").value, least = el("least").value / 100;
  el("least-value").textContent = el("least").value + " %";
  shown = [];
  issues.forEach((issue, index) => {
    if ((issue.probability ?? 0) < least || (kind && issue.kind !== kind) || (tag && issue.label !== tag)) return;
    if (source && sourceOf(issue) !== source) return;
    const decided = decisions.get(issue.key)?.decision;
    if (state === "open" && decided) return;
    if (state && state !== "open" && decided !== state) return;
    if (text && !issue.id.toLowerCase().includes(text) && !(issue.label ?? issue.record).toLowerCase().includes(text)) return;
    shown.push(index);
  });
  current = anchor = 0;
  selected = new Set(shown.slice(0, 1));
  list.scrollTop = 0;
  draw();
}

// the list: only what is in view is in the document
let columns = 1, drawn = new Map();
function place() {
  const style = getComputedStyle(list);
  const width = list.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  columns = Math.max(1, Math.floor((width + GAP) / (Math.min(TILE, width) + GAP)));
  return { width, tile: (width - GAP * (columns - 1)) / columns };
}
function draw() {
  const isOne = document.body.classList.contains("one");
  const { tile } = place();
  let first = current, last = Math.min(current + 1, shown.length);
  if (!isOne) {
    space.style.height = Math.ceil(shown.length / columns) * (TILE_HEIGHT + GAP) + GAP + "px";
    first = Math.max(0, Math.floor(list.scrollTop / (TILE_HEIGHT + GAP)) - 1) * columns;
    last = Math.min(shown.length, first + (Math.ceil(list.clientHeight / (TILE_HEIGHT + GAP)) + 3) * columns);
  } else space.style.height = "";
  const wanted = new Map();
  for (let position = first; position < last; position++) wanted.set(shown[position], position);
  for (const [index, node] of drawn) if (!wanted.has(index)) { node.remove(); drawn.delete(index); }
  for (const [index, position] of wanted) {
    let node = drawn.get(index);
    if (!node) { node = make(issues[index]); node.id = "issue-" + index; drawn.set(index, node); space.append(node); }
    update(node, index, position);
    if (isOne) { node.style.cssText = ""; continue; }
    node.style.width = tile + "px"; node.style.height = TILE_HEIGHT + "px";
    node.style.left = (position % columns) * (tile + GAP) + "px";
    node.style.top = GAP + Math.floor(position / columns) * (TILE_HEIGHT + GAP) + "px";
  }
  if (shown.length) list.setAttribute("aria-activedescendant", "issue-" + shown[current]);
  else list.removeAttribute("aria-activedescendant");
  el("empty").hidden = shown.length > 0;
  const done = issues.filter((issue) => decisions.has(issue.key)).length;
  el("done").textContent = `${done} of ${issues.length} decided, ${shown.length} shown`;
  el("meter").value = done; el("meter").max = Math.max(1, issues.length);
  el("undo").disabled = !history.length;
}
function text(tagName, className, content) {
  const node = document.createElement(tagName);
  node.className = className; node.textContent = content;
  return node;
}
function make(issue) {
  const node = document.createElement("div");
  node.className = "item"; node.setAttribute("role", "option"); node.dir = "auto";
  const picture = page.pictures[issue.picture];
  if (picture) {
    const image = document.createElement("img");
    image.className = "photo"; image.alt = ""; image.decoding = "async"; image.loading = "lazy"; image.src = picture;
    node.append(image);
  } else node.append(text("div", "photo none", "no picture"));
  const what = text("div", "what " + CLASSES[issue.kind], SIGNS[issue.kind]);
  what.append(text("span", "tag", issue.label ?? issue.record));
  what.title = issue.label ?? issue.record;
  const row = text("div", "row", "");
  row.append(text("span", "", KINDS[issue.kind] + (hasSources && issue.source ? " · " + issue.source : "")));
  if (issue.probability !== undefined) row.append(text("span", "", (100 * issue.probability).toFixed(1) + " %"));
  const below = text("div", "row", "");
  below.append(text("span", "tag", issue.id), text("span", "state", ""));
  const tags = text("div", "tags", issue.tags ? "given: " + issue.tags : "");
  tags.title = issue.tags || "";
  node.append(what, row, tags, below);
  return node;
}
function update(node, index, position) {
  const issue = issues[index], decision = decisions.get(issue.key)?.decision;
  node.querySelector(".state").textContent = decision ? WORDS[decision] : "";
  node.classList.toggle("done", Boolean(decision));
  node.setAttribute("aria-selected", selected.has(index));
  node.setAttribute("aria-setsize", shown.length); node.setAttribute("aria-posinset", position + 1);
  node.setAttribute("aria-label", `${issue.label ?? issue.record}, ${KINDS[issue.kind]}, ` +
    (issue.probability === undefined ? "" : `${Math.round(100 * issue.probability)} percent, `) + `${issue.id}, ${decision ? WORDS[decision].slice(2) : "open"}`);
}

// decisions
function decide(decision) {
  const targets = shown.filter((index) => selected.has(index));
  if (!targets.length) return;
  const when = new Date().toISOString().slice(0, 19) + "Z";
  history.push(targets.map((index) => [issues[index].key, decisions.get(issues[index].key)]));
  for (const index of targets) decisions.set(issues[index].key, { decision, when });
  keep();
  say(`${targets.length} ${WORDS[decision].slice(2)}`);
  const lastPosition = shown.indexOf(targets[targets.length - 1]);
  move(Math.min(lastPosition + 1, shown.length - 1) - current);
}
function undo() {
  const step = history.pop();
  if (!step) return;
  for (const [key, before] of step) before ? decisions.set(key, before) : decisions.delete(key);
  keep();
  say(`${step.length} undone`);
  const position = shown.findIndex((index) => issues[index].key === step[0][0]);
  if (position >= 0) move(position - current); else draw();
}
function move(by, extend = false) {
  if (!shown.length) return;
  current = Math.max(0, Math.min(shown.length - 1, current + by));
  if (!extend) anchor = current;
  const [from, to] = [Math.min(anchor, current), Math.max(anchor, current)];
  selected = new Set(shown.slice(from, to + 1));
  if (!document.body.classList.contains("one")) {
    const top = Math.floor(current / columns) * (TILE_HEIGHT + GAP);
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + TILE_HEIGHT + 2 * GAP > list.scrollTop + list.clientHeight)
      list.scrollTop = top + TILE_HEIGHT + 2 * GAP - list.clientHeight;
  }
  draw();
}

function download() {
  const lines = issues.filter((issue) => decisions.has(issue.key)).map((issue) => JSON.stringify({
    id: issue.id, kind: issue.kind, label: issue.label ?? null, record: issue.record ?? null,
    ...decisions.get(issue.key), probability: issue.probability ?? null, source: "person",
  }));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\n") + (lines.length ? "\n" : "")], { type: "application/jsonl" }));
  link.download = "decisions.jsonl";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  say(`${lines.length} decisions written to decisions.jsonl: give it to truetag clean --decisions`);
}
async function load(file) {
  let added = 0, conflicts = 0, others = 0, broken = 0;
  const known = new Set(issues.map((issue) => issue.key)), step = [];
  for (const line of (await file.text()).split("\n")) {
    if (!line.trim()) continue;
    let entry;
    try { entry = JSON.parse(line); } catch { broken++; continue; }
    if (!entry || !(entry.decision in WORDS)) { broken++; continue; }
    const key = keyOf(entry), mine = decisions.get(key);
    if (!known.has(key)) { others++; continue; }
    if (mine && mine.decision !== entry.decision) { conflicts++; continue; }
    if (!mine) { step.push([key, undefined]); decisions.set(key, { decision: entry.decision, when: String(entry.when || "") }); added++; }
  }
  if (step.length) history.push(step);
  keep(); draw();
  say(`${added} decisions loaded` + (conflicts ? `; ${conflicts} differ from yours, which stay` : "") +
    (others ? `; ${others} are about issues that are not on this page` : "") + (broken ? `; ${broken} lines are no decisions` : ""));
}

// what a person does
list.addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
list.addEventListener("click", (event) => {
  const node = event.target.closest(".item");
  if (!node) return;
  move(shown.indexOf(Number(node.id.slice(6))) - current, event.shiftKey);
});
list.addEventListener("dblclick", () => view(true));
new ResizeObserver(() => draw()).observe(list);
for (const id of ["search", "least"]) el(id).addEventListener("input", filter);
for (const id of ["kind", "state", "tag", "source"]) el(id).addEventListener("change", filter);
for (const decision of Object.keys(WORDS)) el(decision).addEventListener("click", () => decide(decision));
el("undo").addEventListener("click", undo);
el("download").addEventListener("click", download);
el("load").addEventListener("click", () => el("file").click());
el("file").addEventListener("change", async () => { if (el("file").files[0]) await load(el("file").files[0]); el("file").value = ""; });
function view(isOne) {
  document.body.classList.toggle("one", isOne);
  el("view").textContent = isOne ? "Grid" : "One by one";
  for (const node of drawn.values()) node.remove();
  drawn.clear();
  move(0);
}
el("view").addEventListener("click", () => view(!document.body.classList.contains("one")));
el("filters").addEventListener("click", () =>
  el("filters").setAttribute("aria-expanded", document.body.classList.toggle("filtering")));
el("all").addEventListener("click", () => { selected = new Set(shown); anchor = 0; current = 0; draw(); say(`${shown.length} selected`); });
document.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input[type=search]")) { if (event.key === "Escape" || event.key === "Enter") list.focus(); return; }
  const arrows = event.target.matches("select, input") ? {} : {
    ArrowRight: 1, ArrowLeft: -1, ArrowDown: document.body.classList.contains("one") ? 1 : columns,
    ArrowUp: document.body.classList.contains("one") ? -1 : -columns,
  };
  const keys = { a: () => decide("accept"), r: () => decide("reject"), s: () => decide("skip"), u: undo, "/": () => el("search").focus() };
  if (event.key in arrows) move(arrows[event.key], event.shiftKey);
  else if (event.key in keys && !event.target.matches("select")) keys[event.key]();
  else return;
  event.preventDefault();
});

function fill(id, values) {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) || 0) + 1);
  for (const [value, count] of [...counts].sort((a, b) => b[1] - a[1])) {
    const option = document.createElement("option");
    option.value = value; option.textContent = `${value} (${count})`;
    el(id).append(option);
  }
}
fill("tag", issues.filter((issue) => issue.label !== undefined).map((issue) => issue.label));
if (hasSources) {
  fill("source", issues.map(sourceOf));
  el("source-filter").hidden = false;
}
restore();
filter();
list.focus({ preventScroll: true });
