// The map: the hub in the middle, sites around it, shortcuts between them. Everything that comes
// from the daemon becomes text or a number; nothing of it is ever read as markup.

const SPACE = "http://www.w3.org/2000/svg";
const WIDTH = 1080, HEIGHT = 560;
const BOXES = 20; // sites that are drawn as boxes with text; more become dots
const NAMED = 40; // dots that have their names beside them; of more they show when pointed at

export function amount(bits) {
  const units = ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"];
  let unit = 0;
  while (bits >= 1000 && unit < units.length - 1) { bits /= 1000; unit += 1; }
  return `${bits >= 100 || !unit ? Math.round(bits) : bits.toFixed(1)} ${units[unit]}`;
}

function draw(parent, name, attributes, text) {
  const element = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

// What there is to draw, from a state and the one before it: {centres, sites, links}.
export function model(state, before, oneVPN) {
  const key = (nbma, vni) => (oneVPN ? `${nbma} ${vni}` : `${nbma}`);
  const seconds = before ? state.time - before.time : 0;
  const earlier = new Map();
  if (seconds > 0) for (const row of before.sites) earlier.set(`${row.vpn} ${row.nbma} ${row.vni}`, row);
  const sites = new Map(), centres = new Map(), links = new Map();
  const site = (nbma, vni) => {
    const name = key(nbma, vni);
    if (!sites.has(name)) sites.set(name, { name, nbma, vnis: new Set(), vpns: new Set(), up: 0, down: 0, rated: false });
    if (vni !== null) sites.get(name).vnis.add(vni);
    return sites.get(name);
  };
  const hub = state.here.some((row) => row.role === "hub");
  const own = state.here.filter((row) => row.role === "spoke");
  if (hub) centres.set("hub", { name: "hub", title: state.name, text: "this hub", state: "registered" });
  const seen = new Set();
  for (const row of state.sites) {
    const each = site(row.nbma, row.vni);
    each.vpns.add(row.vpn);
    const who = `${row.vpn} ${row.nbma} ${row.vni}`, old = earlier.get(who);
    if (!seen.has(who) && old && row.rx_bytes !== null && old.rx_bytes !== null) {
      each.up += Math.max(0, row.rx_bytes - old.rx_bytes) * 8 / seconds;
      each.down += Math.max(0, row.tx_bytes - old.tx_bytes) * 8 / seconds;
      each.rated = true;
    }
    seen.add(who);
  }
  const here = [];
  if (!hub || own.length) {
    for (const row of state.registrations) {
      const known = centres.get(row.nhs);
      if (known && known.state === "registered") continue;
      centres.set(row.nhs, { name: row.nhs, title: row.nhs, text: `hub, ${row.state}`, state: row.state, why: row.last_error });
    }
    const vpns = new Set(state.registrations.map((row) => String(row.vpn)));
    for (const row of own) {
      if (oneVPN && !vpns.has(String(row.vpns))) continue;
      const each = site(row.nbma, row.vni);
      each.here = true;
      each.vpns.add(Number(row.vpns));
      here.push(each);
    }
    const carried = (plane) => {
      const sum = (from) => Object.values(from?.planes ?? {}).reduce((total, planes) =>
        total + (planes[plane]?.tx_bytes ?? 0), 0);
      return seconds > 0 ? Math.max(0, sum(state) - sum(before)) * 8 / seconds : 0;
    };
    if (here.length) {
      here[0].up = carried("hub") + carried("both");
      here[0].straight = carried("shortcut");
      here[0].rated = seconds > 0;
    }
  }
  for (const row of state.links) {
    const from = row.nbma === null ? here[0] : site(row.nbma, row.vni);
    const to = site(row.peer_nbma, row.peer_vni);
    if (!from || from === to) continue;
    from.vpns.add(row.vpn); to.vpns.add(row.vpn);
    const name = [from.name, to.name].sort().join(" - ");
    if (!links.has(name)) links.set(name, { name, from, to, addresses: 0 });
    links.get(name).addresses += row.addresses;
  }
  const number = (text) => text.replace(text.includes(":") ? /[\da-f]+/g : /\d+/g, (digits) => digits.padStart(10, "0"));
  const ordered = [...sites.values()].sort((a, b) => (number(a.name) < number(b.name) ? -1 : 1));
  return { centres: [...centres.values()], sites: ordered, links: [...links.values()] };
}

function describe(site) {
  const list = (set) => [...set].sort((a, b) => a - b);
  const some = (set) => (set.size > 3 ? `${list(set).slice(0, 3).join(", ")}, …` : list(set).join(", "));
  const vnis = site.vnis.size ? `VNI ${some(site.vnis)}` : "";
  return [`VPN ${some(site.vpns)}`, vnis].filter(Boolean).join(" · ");
}

function rates(site) {
  if (!site.rated) return "";
  if (site.here) return site.straight ? `${amount(site.straight)} direct` : `${amount(site.up)} by hub`;
  return `↑ ${amount(site.up)}  ↓ ${amount(site.down)}`;
}

// An address that fits beside a dot: of a long one its end, which tells sites apart.
function short(address) {
  return address.length <= 17 ? address : `…${address.slice(-16).replace(/^[^:]*/, "")}`;
}

// A curve that keeps away from the middle, where the hub is.
function bend(a, b) {
  const middle = { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 };
  const out = { x: middle.x - WIDTH / 2, y: middle.y - HEIGHT / 2 };
  const far = Math.hypot(out.x, out.y * 1.6);
  if (far < 60) {
    const length = Math.hypot(b.x - a.x, b.y - a.y);
    const side = b.x < a.x || (b.x === a.x && b.y < a.y) ? -1 : 1;
    return { x: middle.x - side * (b.y - a.y) / length * 190, y: middle.y + side * (b.x - a.x) / length * 150 };
  }
  const push = 20 + Math.max(0, 230 - far) * 0.75;
  return { x: middle.x + out.x / far * push, y: middle.y + out.y / far * push * 1.3 };
}

export function paint(svg, picture) {
  const focused = document.activeElement?.dataset?.site;
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  const lines = draw(svg, "g", {}), tags = draw(svg, "g", {}), nodes = draw(svg, "g", {});
  const { centres, sites, links } = picture;
  const boxes = sites.length <= BOXES, named = !boxes && sites.length <= NAMED;
  svg.classList.toggle("crowded", !boxes);
  const margin = boxes ? { x: 110, y: 44 } : named ? { x: 150, y: 34 } : { x: 40, y: 20 };
  const here = sites.findIndex((each) => each.here);
  sites.forEach((each, index) => {
    // A site of our own is at the bottom, other first ones at the top.
    const turn = (index - Math.max(here, 0)) / sites.length + (here < 0 ? -0.25 : 0.25);
    each.x = WIDTH / 2 + Math.cos(turn * 2 * Math.PI) * (WIDTH / 2 - margin.x);
    each.y = HEIGHT / 2 + Math.sin(turn * 2 * Math.PI) * (HEIGHT / 2 - margin.y);
  });
  centres.forEach((each, index) => {
    each.x = WIDTH / 2 + (index - (centres.length - 1) / 2) * 210;
    each.y = HEIGHT / 2;
  });
  const marked = [];
  const mark = (element, ...names) => marked.push([element, new Set(names)]);
  const spokes = sites.some((each) => each.here) ? sites.filter((each) => each.here) : sites;
  for (const centre of centres) {
    for (const each of spokes) {
      const busy = each.up + each.down;
      const up = centre.state === "registered";
      const line = draw(lines, "path", {
        class: `spoke-line${up ? (busy > 0 ? " carries" : "") : " down"}`,
        d: `M${each.x} ${each.y}L${centre.x} ${centre.y}`,
      });
      line.style.strokeWidth = busy > 0 ? Math.min(boxes ? 7 : 4, 1.5 + Math.log10(1 + busy / 1000)) : 1.5;
      mark(line, each.name);
    }
  }
  for (const link of links) {
    const by = bend(link.from, link.to);
    const path = draw(lines, "path", {
      class: "shortcut", d: `M${link.from.x} ${link.from.y}Q${by.x} ${by.y} ${link.to.x} ${link.to.y}`,
    });
    draw(path, "title", {}, `${link.from.name} and ${link.to.name}: ${link.addresses} addresses directly`);
    mark(path, link.from.name, link.to.name);
    if (!boxes) continue;
    const at = { x: (link.from.x + 2 * by.x + link.to.x) / 4, y: (link.from.y + 2 * by.y + link.to.y) / 4 };
    const tag = draw(tags, "g", {});
    draw(tag, "circle", { class: "tag", cx: at.x, cy: at.y, r: 11 });
    draw(tag, "text", { class: "tag-text", x: at.x, y: at.y + 4 }, link.addresses);
    mark(tag, link.from.name, link.to.name);
  }
  const node = (kind, name, label) => {
    const group = draw(nodes, "g", { class: kind, tabindex: 0, role: "img", "aria-label": label });
    group.dataset.site = name;
    draw(group, "title", {}, label);
    const near = new Set([name]);
    for (const link of links) {
      if (link.from.name === name) near.add(link.to.name);
      if (link.to.name === name) near.add(link.from.name);
    }
    const show = (on) => marked.forEach(([element, names]) =>
      element.classList.toggle("dim", on && !(names.size > 1 || element.dataset.site ? names.has(name) || (element.dataset.site && near.has(element.dataset.site)) : names.has(name))));
    for (const event of ["mouseenter", "focus"]) group.addEventListener(event, () => show(true));
    for (const event of ["mouseleave", "blur"]) group.addEventListener(event, () => show(false));
    if (name === focused) queueMicrotask(() => group.focus({ preventScroll: true }));
    return group;
  };
  for (const each of sites) {
    const label = `${each.here ? "this site " : ""}${each.nbma}, ${describe(each)} ${rates(each)}`;
    const group = node(`site${each.here ? " here" : ""}`, each.name, label);
    mark(group, each.name);
    if (!boxes) {
      const r = named ? 8 : 6;
      draw(group, "circle", { class: "box", cx: each.x, cy: each.y, r });
      if (!named) continue;
      // Outside of the ring: beside it, and above or below where it is flat.
      const across = (each.x - WIDTH / 2) / (WIDTH / 2 - margin.x), flat = Math.abs(across) < 0.25;
      const below = each.y > HEIGHT / 2 ? 1 : -1;
      const text = draw(group, "text", {
        class: "name", x: each.x + (flat ? 0 : Math.sign(across) * (r + 5)),
        y: each.y + 4 + (flat ? below * (r + 9 + 13 * (sites.indexOf(each) % 2)) : Math.abs(across) < 0.75 ? below * 5 : 0),
      }, short(each.nbma));
      text.style.textAnchor = flat ? "middle" : across > 0 ? "start" : "end";
      continue;
    }
    draw(group, "rect", { class: "box", x: each.x - 98, y: each.y - 36, width: 196, height: 72, rx: 10 });
    draw(group, "text", { class: "name", x: each.x, y: each.y - 14 }, each.nbma);
    draw(group, "text", { class: "sub", x: each.x, y: each.y + 5 }, `${each.here ? "here · " : ""}${describe(each)}`);
    draw(group, "text", { class: "rate", x: each.x, y: each.y + 24 }, rates(each));
  }
  for (const each of centres) {
    const group = node(`hub${each.state === "registered" ? "" : " down"}`, each.name, `${each.title}, ${each.text}`);
    draw(group, "rect", { class: "box", x: each.x - 84, y: each.y - 32, width: 168, height: 64, rx: 32 });
    draw(group, "text", { class: "name", x: each.x, y: each.y - 2 }, each.title);
    draw(group, "text", { x: each.x, y: each.y + 17 }, each.text);
    if (each.why && each.state !== "registered") {
      draw(group, "text", { class: "why", x: each.x, y: each.y - 44 - (each.why.length > 28 ? 20 * (centres.indexOf(each) % 2) : 0) }, each.why);
    }
  }
  if (!sites.length) draw(nodes, "text", { class: "none", x: WIDTH / 2, y: HEIGHT / 2 + 66 }, "No site is registered.");
}
