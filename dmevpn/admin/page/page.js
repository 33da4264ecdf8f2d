// Feeds the page: events for the map and the changes, listings for the table.

import { amount, model, paint } from "./map.js";

const TABLES = {
  vpn: "VPNs", member: "Sites", cache: "Bindings", shortcut: "Shortcuts",
  registration: "Registrations", fdb: "Forwarding", interface: "Interfaces",
};
const ROWS = 500; // rows of a table that a browser shows; searching finds the others
const REFRESH = 4000, AGAIN = 3000, SILENT = 30000; // milliseconds
const KEPT = 100; // changes

const $ = (id) => document.getElementById(id);
const kept = (name, value) => {
  const query = new URLSearchParams(location.hash.slice(1));
  if (value === undefined) return query.get(name) ?? "";
  query.set(name, value);
  history.replaceState(null, "", `#${query}`);
  return value;
};

let source, before, vpn = kept("vpn"), chosen = TABLES[kept("table")] ? kept("table") : "";
let sorted = { column: "", down: false }, fetching, timer, heard = 0;

function make(parent, name, text, attributes = {}) {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent.append(element);
  return element;
}

// --- live ----------------------------------------------------------------------------------

function tell(state, text) {
  if ($("connection").textContent === text) return;
  $("connection").dataset.state = state;
  $("connection").textContent = text;
}

function connect() {
  source?.close();
  before = undefined;
  heard = Date.now();
  source = new EventSource(vpn ? `events?vpn=${encodeURIComponent(vpn)}` : "events");
  source.addEventListener("state", (event) => {
    heard = Date.now();
    show(JSON.parse(event.data));
    tell("live", "live");
  });
  source.addEventListener("changes", (event) => { heard = Date.now(); note(JSON.parse(event.data)); });
  source.addEventListener("error", () => {
    tell("lost", "the daemon does not answer; trying again");
    // A refusal ends an EventSource for good; what only broke off comes back by itself.
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, AGAIN);
  });
}

function show(state) {
  document.title = `${state.name} · dmevpn`;
  $("name").textContent = state.name;
  $("version").textContent = `dmevpn ${state.version}. This page can only be looked at; dmevpnctl changes things.`;
  const options = ["", ...state.vpns.map((row) => (row.vpn === null ? "" : String(row.vpn))).filter(Boolean)];
  if (vpn && !options.includes(vpn)) options.push(vpn);
  if ($("vpn").dataset.options !== options.join()) {
    $("vpn").dataset.options = options.join();
    $("vpn").replaceChildren();
    for (const each of options) make($("vpn"), "option", each || "all", { value: each });
    $("vpn").value = vpn;
  }
  if (!chosen) choose(state.here.some((row) => row.role === "hub") ? "member" : "cache");
  const picture = model(state, before, Boolean(vpn));
  paint($("map"), picture);
  figures(state, picture);
  const { sites, links } = state.left_out;
  $("left-out").textContent = sites || links
    ? `Not drawn for want of room: ${sites} sites, ${links} shortcuts. Choose a VPN, or see the tables.` : "";
  $("map-text").textContent = `${picture.sites.length} sites. ` + picture.links.map((link) =>
    `${link.from.name} and ${link.to.name} reach ${link.addresses} addresses of each other directly.`).join(" ");
  before = state;
}

function figures(state, picture) {
  const vpns = state.vpns.filter((row) => !vpn || String(row.vpn) === vpn);
  const sum = (column) => vpns.reduce((total, row) => total + row[column], 0);
  const rated = picture.sites.filter((each) => each.rated);
  const shown = vpn ? [] : [["VPNs", vpns.length + state.left_out.vpns]];
  const hub = state.here.some((row) => row.role === "hub"), here = picture.sites.find((each) => each.here);
  if (hub) {
    shown.push(["registered sites", picture.sites.length + state.left_out.sites], ["MAC addresses", sum("macs")]);
  }
  shown.push(["pairs of sites on shortcuts", picture.links.length]);
  if (here) {
    const all = here.up + (here.straight ?? 0);
    shown.push(["addresses reached directly", sum("shortcuts")], ["sent by way of the hub", amount(here.up)],
      ["sent directly", amount(here.straight ?? 0)], ["past the hub", all ? `${Math.round(100 * here.straight / all)} %` : "–"]);
  } else if (hub) {
    shown.push(["carried by the hub", rated.length ? amount(rated.reduce((total, each) => total + each.up, 0)) : "–"]);
  }
  $("figures").replaceChildren();
  for (const [name, value] of shown) {
    const box = make($("figures"), "div");
    make(box, "dt", name);
    make(box, "dd", typeof value === "number" ? value.toLocaleString("en") : value);
  }
}

function note({ rows, lost }) {
  const list = $("changes"), time = new Date().toLocaleTimeString("en-GB");
  const add = (event, what, where) => {
    const item = document.createElement("li");
    if (!["added", "changed"].includes(event)) item.className = "gone";
    make(item, "time", time);
    make(item, "b", event);
    item.append(` ${what}`);
    make(item, "code", where);
    list.prepend(item);
  };
  list.querySelector(".none")?.remove();
  if (lost) add("left out", `${lost.toLocaleString("en")} changes`, "too many at once");
  for (const row of rows) {
    const at = row.nbma ? ` at ${row.nbma}${row.vni === null ? "" : ` VNI ${row.vni}`}` : "";
    add(row.event, row.protocol, `${row.vpn === null ? "" : `VPN ${row.vpn}: `}${row.type}${at}`);
  }
  while (list.childElementCount > KEPT) list.lastChild.remove();
}

// --- tables --------------------------------------------------------------------------------

function choose(name) {
  chosen = kept("table", name);
  sorted = { column: "", down: false };
  for (const tab of $("tabs").children) {
    const on = tab.dataset.table === name;
    tab.setAttribute("aria-selected", on);
    tab.tabIndex = on ? 0 : -1;
    if (on) $("panel").setAttribute("aria-labelledby", tab.id);
  }
  $("head").replaceChildren();
  $("rows").replaceChildren();
  load();
}

async function load() {
  clearTimeout(timer);
  fetching?.abort();
  const mine = fetching = new AbortController();
  const query = new URLSearchParams({ limit: ROWS });
  if (vpn && chosen !== "interface") query.set("vpn", vpn);
  if ($("search").value.trim()) query.set("search", $("search").value.trim());
  const began = Date.now();
  try {
    const response = await fetch(`tables/${chosen}?${query}`, { signal: mine.signal });
    if (!response.ok) throw new Error((await response.text()).trim());
    fill(await response.json());
  } catch (error) {
    if (error.name === "AbortError") return;
    $("count").textContent = String(error.message);
  }
  // A table that takes long is not made all the time.
  timer = setTimeout(load, Math.max(REFRESH, 10 * (Date.now() - began)));
}

function text(value) {
  if (value === null) return "–";
  if (Array.isArray(value)) return value.join(" ");
  return typeof value === "number" ? value.toLocaleString("en").replaceAll(",", "\u202f") : String(value);
}

function fill({ table, attr }) {
  const columns = table.length ? Object.keys(table[0]) : [];
  if (columns.length && $("head").dataset.columns !== columns.join() || !$("head").childElementCount) {
    $("head").dataset.columns = columns.join();
    $("head").replaceChildren();
    for (const column of columns) {
      const cell = make($("head"), "th", undefined, { scope: "col" });
      const button = make(cell, "button", column.replaceAll("_", " "), { type: "button" });
      button.addEventListener("click", () => {
        sorted = { column, down: sorted.column === column && !sorted.down };
        load();
      });
    }
  }
  for (const [index, cell] of [...$("head").children].entries()) {
    if (columns[index] === sorted.column) cell.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
    cell.classList.toggle("number", table.some((row) => typeof row[columns[index]] === "number"));
  }
  if (sorted.column) {
    const order = new Intl.Collator("en", { numeric: true }).compare;
    table.sort((a, b) => order(String(a[sorted.column] ?? ""), String(b[sorted.column] ?? "")));
    if (sorted.down) table.reverse();
  }
  const body = document.createDocumentFragment();
  for (const row of table) {
    const line = make(body, "tr");
    for (const column of columns) {
      const id = ["vpn", "vni", "peer_vni"].includes(column);
      const cell = make(line, "td", id && row[column] !== null ? String(row[column]) : text(row[column]));
      if (typeof row[column] === "number") cell.className = "number";
    }
  }
  $("rows").replaceChildren(body);
  const count = attr.entriesCount.toLocaleString("en");
  const searched = $("search").value.trim();
  const found = attr.entriesCount;
  $("count").textContent = attr.more
    ? `The first ${count} of those that ${searched ? "match" : "are here"}: search for others.`
    : found ? (found === 1 ? "1 row." : `${count} rows.`) : searched ? "Nothing matches." : "Nothing here yet.";
}

// --- beginning -----------------------------------------------------------------------------

for (const [name, title] of Object.entries(TABLES)) {
  const tab = make($("tabs"), "button", title, { role: "tab", type: "button", id: `tab-${name}`, "aria-controls": "panel", "aria-selected": "false" });
  tab.dataset.table = name;
  tab.addEventListener("click", () => choose(name));
}
$("tabs").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const tabs = [...$("tabs").children];
  const next = tabs[(tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length];
  next.focus();
  choose(next.dataset.table);
});
let typing;
$("search").value = kept("search");
$("search").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => { kept("search", $("search").value.trim()); load(); }, 250);
});
$("vpn").addEventListener("change", () => {
  vpn = kept("vpn", $("vpn").value);
  connect();
  load();
});
// The daemon says something every few seconds, if only that nothing is new.
setInterval(() => {
  if (Date.now() - heard > SILENT && source.readyState === EventSource.OPEN) tell("waiting", "nothing new");
}, 5000);
addEventListener("pagehide", () => source.close());
addEventListener("pageshow", (event) => { if (event.persisted) connect(); });
connect();
if (chosen) choose(chosen);
