// The console's own script. Everything readable works without it; it adds the theme switch, tables as lists on narrow
// windows, copying, selecting rows, and live changes. Served as a file: the Content-Security-Policy allows no other script.
"use strict";

const root = document.documentElement;

// Theme: a cookie that the server reads for the next page; `data-theme` for this one.

function showTheme() {
  const now = root.dataset.theme || "auto";
  for (const button of document.querySelectorAll(".themes button")) {
    button.setAttribute("aria-pressed", String(button.value === now));
  }
}

function chooseTheme(theme) {
  if (theme === "auto") delete root.dataset.theme;
  else root.dataset.theme = theme;
  const kept = theme === "auto" ? 0 : 31536000;
  document.cookie = `redis-store-ui-theme=${theme}; Path=/; Max-Age=${kept}; SameSite=Strict`;
  showTheme();
}

// Tables: on a narrow window each row is a list of facts, which need the names of their columns.

const narrow = matchMedia("(max-width: 560px)");

function listTables() {
  if (!narrow.matches) return;
  for (const box of document.querySelectorAll(".table:not(.listed, .wide)")) {
    const table = box.querySelector("table");
    if (!table || !table.tHead) continue;
    labelRows(table, table.tBodies[0] ? table.tBodies[0].rows : []);
    box.classList.add("listed");
  }
}

function labelRows(table, rows) {
  const names = [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
  table.setAttribute("role", "table"); // `display` of the rows takes the roles away
  for (const row of rows) {
    row.setAttribute("role", "row");
    [...row.cells].forEach((cell, at) => {
      cell.setAttribute("role", cell.tagName === "TH" ? "rowheader" : "cell");
      const facts = cell.colSpan === 1 && !cell.matches("th, .whole, :has(button, input, summary)");
      if (facts && names[at] && cell.textContent.trim()) cell.dataset.label = names[at];
    });
  }
}

// Selecting: `data-select-all` marks and counts the checkboxes of its form.

function countSelected(form) {
  const boxes = [...form.querySelectorAll("input[data-select]")];
  const count = boxes.filter((box) => box.checked).length;
  const all = form.querySelector("input[data-select-all]");
  if (all) {
    all.checked = count > 0 && count === boxes.length;
    all.indeterminate = count > 0 && count < boxes.length;
  }
  for (const place of form.querySelectorAll("[data-selected]")) place.textContent = count.toLocaleString("en");
  for (const button of form.querySelectorAll("[data-needs-selection]")) button.disabled = count === 0;
}

document.addEventListener("change", (event) => {
  const box = event.target;
  if (!(box instanceof HTMLInputElement) || !box.form) return;
  if (box.matches("[data-select-all]")) {
    for (const each of box.form.querySelectorAll("input[data-select]")) each.checked = box.checked;
  }
  if (box.matches("[data-select], [data-select-all]")) countSelected(box.form);
});

document.addEventListener("click", (event) => {
  const theme = event.target.closest(".themes button");
  if (theme) chooseTheme(theme.value);
  const copy = event.target.closest("button[data-copy]");
  if (copy) copyFrom(copy);
  for (const open of document.querySelectorAll("details.confirm[open]")) {
    if (!open.contains(event.target)) open.open = false;
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    const open = document.querySelector("details.confirm[open]");
    if (open) {
      open.open = false;
      open.querySelector("summary").focus();
    }
  }
  if (event.key === "/" && !event.target.closest("input, textarea, select") && !event.ctrlKey && !event.metaKey && !event.altKey) {
    const search = document.querySelector("main input[type=search]");
    if (search) {
      event.preventDefault();
      search.focus();
      search.select();
    }
  }
});

async function copyFrom(button) {
  const from = document.getElementById(button.dataset.copy);
  if (!from || !navigator.clipboard) return;
  await navigator.clipboard.writeText(from.textContent);
  const before = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = before; }, 1500);
}

// Relative times stay true while a page is open, by the clock of the console. It writes the same words (`quantities.py`).

const ahead = Date.now() - Number(document.querySelector("meta[name=now]")?.content || Date.now());

function tellTimes() {
  for (const time of document.querySelectorAll("time:not([data-exact])")) {
    const told = ago((Date.now() - ahead - Date.parse(time.dateTime)) / 1000);
    if (time.textContent !== told) time.textContent = told;
  }
}

function ago(seconds) {
  for (const [length, unit] of [[31536000, "y"], [86400, "d"], [3600, "h"], [60, "min"], [1, "s"]]) {
    const number = Math.floor(Math.abs(seconds) / length);
    if (number) return seconds > 0 ? `${number} ${unit} ago` : `in ${number} ${unit}`;
  }
  return "now";
}

// Live changes. The server sends rows in batches; they are put into the table once for each frame, the newest first, and the
// oldest rows go. While paused, or in a window that is not seen, only as many rows are kept as the table can show.

class LiveChanges {
  constructor(table) {
    this.table = table;
    this.body = table.tBodies[0];
    this.most = Number(table.dataset.rows) || 500;
    this.state = document.getElementById("live-state");
    this.total = document.getElementById("live-count");
    this.button = document.getElementById("live-pause");
    this.empty = document.getElementById("live-empty");
    this.waiting = [];
    this.held = 0;
    this.count = 0;
    this.paused = false;
    this.frame = 0;
    this.button.hidden = false;
    this.button.addEventListener("click", () => this.pause(!this.paused));
    const filter = document.getElementById("live-filter");
    if (filter) {
      filter.form.addEventListener("submit", (event) => { event.preventDefault(); this.filter(filter.value); });
      filter.addEventListener("input", () => {
        clearTimeout(this.typing);
        this.typing = setTimeout(() => this.filter(filter.value), 250);
      });
    }
    addEventListener("pagehide", () => this.source.close());
    addEventListener("pageshow", (event) => { if (event.persisted) this.open(table.dataset.live); });
    this.open(table.dataset.live);
  }

  open(url) {
    if (this.source) this.source.close();
    this.tell("connecting");
    this.source = new EventSource(url);
    this.source.addEventListener("state", (event) => {
      if (event.data === "live") this.tell(this.paused ? "paused" : "live");
      else this.tell("lost", "The server does not reply; changes go on when it is back");
    });
    this.source.addEventListener("error", () => this.lost());
    this.source.addEventListener("ended", (event) => { this.source.close(); this.tell("lost", event.data); });
    this.source.addEventListener("rows", (event) => this.take(event.data));
  }

  lost() {
    // The browser connects again by itself, unless the server refused: then only a new page can help.
    if (this.source.readyState === EventSource.CLOSED) this.tell("lost", "Not connected: load the page again.");
    else this.tell("lost", "Connection lost, connecting again …");
  }

  filter(text) {
    const here = new URL(location.href), stream = new URL(this.table.dataset.live, location.href);
    if (here.searchParams.get("text") === text || (!text && !here.searchParams.has("text"))) return;
    for (const url of [here, stream]) {
      if (text) url.searchParams.set("text", text);
      else url.searchParams.delete("text");
    }
    history.replaceState(null, "", here);
    this.table.dataset.live = stream.pathname + stream.search;
    this.waiting = [];
    this.held = this.count = 0;
    this.body.replaceChildren();
    this.open(this.table.dataset.live);
    this.tellCount();
  }

  pause(paused) {
    this.paused = paused;
    this.button.textContent = paused ? "Resume" : "Pause";
    this.tell(paused ? "paused" : "live");
    if (!paused) this.draw();
  }

  take(text) {
    const [number, ...rows] = text.split("\n"); // of many changes only the newest are sent as rows
    this.count += Number(number);
    this.waiting.push(...rows);
    if (this.waiting.length > this.most) this.waiting = this.waiting.slice(-this.most);
    if (this.paused) {
      this.held += Number(number);
      this.button.textContent = `Resume (${this.held.toLocaleString("en")} new)`;
    } else if (!this.frame) {
      this.frame = requestAnimationFrame(() => this.draw());
    }
  }

  draw() {
    this.frame = 0;
    this.held = 0;
    const rows = this.waiting;
    this.waiting = [];
    if (rows.length) {
      const template = document.createElement("template");
      template.innerHTML = rows.reverse().join(""); // rendered and escaped by the server, as all pages are
      if (narrow.matches) labelRows(this.table, template.content.children);
      this.body.prepend(template.content);
      while (this.body.rows.length > this.most) this.body.lastElementChild.remove();
    }
    this.tellCount();
  }

  tellCount() {
    this.total.textContent = this.count.toLocaleString("en");
    if (this.empty) this.empty.hidden = this.body.rows.length > 0;
  }

  tell(state, text) {
    const words = { live: "Live", paused: "Paused", connecting: "Connecting …", lost: "Not connected" };
    this.state.dataset.state = state;
    if (this.state.textContent !== (text || words[state])) this.state.textContent = text || words[state];
  }
}

// What a page needs when it is there, and each part that htmx puts into it.

function prepare() {
  listTables();
  for (const form of document.querySelectorAll("form:has([data-select])")) countSelected(form);
  for (const hidden of document.querySelectorAll("[data-with-script]")) hidden.hidden = false;
}

function start() {
  showTheme();
  prepare();
  for (const here of document.querySelectorAll(".nav [aria-current], .tabs [aria-current]")) {
    here.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  const live = document.querySelector("table[data-live]");
  if (live) new LiveChanges(live);
  setInterval(tellTimes, 1000);
}

// A part that is loaded again and again is left alone while the reader is in it: focus, a selection or an open question would go.

document.addEventListener("htmx:beforeRequest", (event) => {
  const part = event.target;
  if (!part.matches("[data-refresh]")) return;
  const selection = getSelection();
  const reads = part.contains(document.activeElement) || part.querySelector("details[open]")
    || (!selection.isCollapsed && part.contains(selection.anchorNode));
  if (reads || document.hidden) event.preventDefault();
});

narrow.addEventListener("change", listTables);
document.addEventListener("htmx:afterSettle", () => { prepare(); tellTimes(); });
start();
