// Elements are only ever made here, from text: nothing that a model wrote is parsed as HTML.
function h(name, attributes, ...children) {
  const element = document.createElement(name);
  fill(element, attributes, children);
  return element;
}

function svg(name, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  fill(element, attributes, children);
  return element;
}

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined) continue;
    // aria knows "true" and "false", and no attribute without a value
    if (key.startsWith("aria-")) { element.setAttribute(key, String(value)); continue; }
    if (value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "style") Object.entries(value).forEach(([property, text]) => element.style.setProperty(property, text));
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  for (const child of children.flat(2)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
}

const byId = (id) => document.getElementById(id);

function formatted(value) {
  if (value === null || value === undefined) return "–";
  if (!Number.isFinite(value)) return "not finite";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1e5 || size < 1e-3) return value.toExponential(2).replace("e+", "e");
  return Number.isInteger(value) ? value.toLocaleString("en") : value.toPrecision(4).replace(/\.?0+$/, "");
}

const percent = (value) => (value === null ? "–" : `${(100 * value).toFixed(1)} %`);
const counted = (count, name) => `${count.toLocaleString("en")} ${name}${count === 1 ? "" : "s"}`;

// Remembers what a reader chose; a page from a file may not be allowed to.
const memory = {
  get(name) {
    try { return localStorage.getItem(`trm-report-${name}`); } catch { return null; }
  },
  set(name, value) {
    try { localStorage.setItem(`trm-report-${name}`, value); } catch { /* forgotten at the next visit */ }
  },
};

// Where the reader of a page that reloads itself is: such a reload forgets what the address became in the meantime.
const whereabouts = {
  key: `trm-report-place ${location.pathname}`,
  get() {
    const reloads = document.querySelector('meta[http-equiv="refresh"]');
    try { return (reloads && sessionStorage.getItem(this.key)) || location.hash.slice(1); } catch { return location.hash.slice(1); }
  },
  set(text) {
    history.replaceState(null, "", `#${text}`);
    try { sessionStorage.setItem(this.key, text); } catch { /* the address is all there is */ }
  },
};

const tip = {
  // below y, or where the window ends above `above`
  show(content, x, y, above = y) {
    const box = byId("tip");
    box.replaceChildren(content);
    box.hidden = false;
    const { width, height } = box.getBoundingClientRect();
    const left = Math.min(Math.max(8, x + 14), innerWidth - width - 8);
    const top = y + 18 + height > innerHeight - 8 ? above - height - 12 : y + 18;
    box.style.transform = `translate(${Math.round(left)}px, ${Math.round(Math.max(8, top))}px)`;
  },
  hide() { byId("tip").hidden = true; },
};
