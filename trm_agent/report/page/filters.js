// Which episodes the list shows, and in which order.
const FLAGS = [
  ["rejected", "Rejected", (c, i) => c.accepted[i] === false],
  ["failed", "Failed", (c, i) => c.success[i] === false],
  ["violating", "Violating", (c, i) => c.violations[i] > 0],
  ["malformed", "Malformed", (c, i) => c.malformed[i] > 0],
];
const CHOICES = [["run", "run"], ["step", "step"], ["horizon", "horizon"], ["category", "ending"], ["stop", "stop reason"],
  ["env", "environment"]];
const SORTS = {
  order: ["as recorded", null],
  group: ["by group", (c, i) => (c.group[i] === null ? null : -c.group.indexOf(c.group[i]))],
  // a surprise is no divergence: episodes that have only that come after the others
  worst: ["worst token first", (c, i, data) => c.worst[i] - (data.settings[c.run[i]].kind === "surprise" ? 1e12 : 0)],
  violations: ["most violations first", (c, i) => c.violations[i]],
  longest: ["longest first", (c, i) => c.tokens[i]],
  turns: ["most turns first", (c, i) => c.turns[i]],
  reward: ["highest reward first", (c, i) => c.reward[i]],
  poor: ["lowest reward first", (c, i) => (c.reward[i] === null ? null : -c.reward[i])],
};

function emptyFilter() {
  return { flags: new Set(), choices: {}, text: "", sort: "order" };
}

// Indices of the episodes that pass, sorted.
function chosen(data, filter) {
  const columns = data.episodes;
  const tests = FLAGS.filter(([name]) => filter.flags.has(name)).map(([, , test]) => test);
  const choices = Object.entries(filter.choices).filter(([, value]) => value !== "");
  const words = filter.text.toLowerCase().split(/\s+/).filter(Boolean);
  const found = [];
  for (let i = 0; i < columns.id.length; i++) {
    if (!tests.every((test) => test(columns, i))) continue;
    if (!choices.every(([name, value]) => String(columns[name][i]) === value)) continue;
    if (words.length) {
      const named = `${columns.id[i]} seed ${columns.seed[i]} ${columns.env[i]} ${columns.category[i]} ${columns.rejected_by[i]}`;
      const text = `${named.toLowerCase()} ${filter.texts?.of(i) ?? ""}`;
      if (!words.every((word) => text.includes(word))) continue;
    }
    found.push(i);
  }
  const key = (SORTS[filter.sort] || SORTS.order)[1];
  if (key) {
    const value = (i) => { const number = key(columns, i, data); return number === null ? -Infinity : number; };
    found.sort((a, b) => value(b) - value(a) || a - b);
  }
  return found;
}

function drawFilters(data, filter, changed) {
  const c = data.episodes;
  const search = h("input", { type: "search", id: "search", placeholder: "Search ids and texts ( / )", value: filter.text,
    "aria-label": "Search in the episodes' ids and texts", oninput() { filter.text = this.value; changed(); } });
  const flags = FLAGS.filter(([, , test]) => c.id.some((_, i) => test(c, i))).map(([name, label]) =>
    h("button", { type: "button", class: "chip", "data-flag": name, "aria-pressed": filter.flags.has(name),
      onclick() {
        filter.flags.has(name) ? filter.flags.delete(name) : filter.flags.add(name);
        this.setAttribute("aria-pressed", filter.flags.has(name));
        changed();
      } }, label));
  const selects = CHOICES.map(([name, label]) => choiceOf(data, filter, changed, name, label));
  const sort = h("select", { id: "sort", "aria-label": "Order", onchange() { filter.sort = this.value; changed(); } },
    Object.entries(SORTS).map(([name, [label]]) => h("option", { value: name, selected: name === filter.sort }, label)));
  return h("div", { class: "filters", role: "search" }, search, h("div", { class: "chips" }, flags),
    h("div", { class: "selects" }, selects, sort));
}

function choiceOf(data, filter, changed, name, label) {
  const values = [...new Set(data.episodes[name])].filter((value) => value !== null);
  if (values.length < 2) return null;
  values.sort((a, b) => (typeof a === "number" ? a - b : String(a).localeCompare(String(b))));
  const shown = (value) => (name === "run" ? data.runs[value].label : name === "step" || name === "horizon" ? `${label} ${value}` : value);
  return h("select", { "data-choice": name, "aria-label": `Only this ${label}`,
    onchange() { filter.choices[name] = this.value; changed(); } },
    h("option", { value: "" }, `any ${label}`),
    values.map((value) => h("option", { value: String(value), selected: filter.choices[name] === String(value) }, shown(value))));
}

// The episodes' texts in small letters, read once somebody searches, as many as a browser can hold.
const MOST_CHARACTERS = 3e7;
const READ_AT_ONCE = 40;

function searchableTexts(data, changed) {
  const found = [];
  let reading = false, characters = 0, full = false;
  async function read() {
    if (reading) return;
    reading = true;
    for (let i = 0; i < data.episodes.id.length && !full; i++) {
      try {
        const [vocabulary, { header, arrays }] = await Promise.all([vocabularyOf(data.episodes.run[i]), packedText(`e${i}`).then(unpack)]);
        const { expected_answer, final_observation } = header.record;
        const text = [...Array.from(arrays.ids, (id) => vocabulary.texts[id]), "\n", final_observation, "\n", expected_answer].join("").toLowerCase();
        characters += text.length;
        found.push(text);
      } catch { found.push(""); }
      full = characters > MOST_CHARACTERS;
      if (found.length % READ_AT_ONCE === 0) changed();
    }
    changed();
  }
  return {
    read,
    of: (i) => found[i],
    state(filter) {
      if (!filter.text || found.length === data.episodes.id.length) return "";
      return full ? `; texts of the first ${found.length} are searched` : `; texts of ${found.length} read so far`;
    },
  };
}
