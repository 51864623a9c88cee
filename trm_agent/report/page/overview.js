// Results, times, how episodes ended, runs, tables of evaluations, configurations.
function drawResults(data) {
  const times = data.runs.map((run, i) => [run, data.times[i]]).filter(([, phases]) => phases.length);
  const tables = [data.results, ...data.failures.filter((table) => table.kind === "run")].filter(Boolean);
  const sections = tables.map(tableSection);
  sections.splice(data.results ? 1 : 0, 0, ...data.why.map((section) => drawWhy(data, section)));
  if (times.length) {
    const whole = data.runs.length > 1 ? null : h("small", {}, `${lasting(sumOf(times[0][1]))} in all`);
    sections.push(h("section", { class: "group" }, h("h2", {}, "Where the time went ", whole),
      times.map(([run, phases]) => timeBar(data.runs.length > 1 ? run.label : "", phases)),
      data.runs.map((run, i) => drawSteps(data.runs.length > 1 ? `${run.label}: ` : "", data.steps[i]))));
  }
  return [...(data.runs.length <= MOST_NAMED ? data.runs.map(drawWhich) : []), ...sections];
}

// Whose results these are, before anything else; of many folders the tables and the list of runs name each.
const MOST_NAMED = 3;

function drawWhich(run) {
  const facts = Object.fromEntries(run.facts);
  const told = [facts.environment, facts.steps && `${facts.steps} steps`, facts["wall time"], facts.seed && `seed ${facts.seed}`];
  return h("p", { class: "which" }, h("strong", {}, run.label), " ", stateBadge(run), " ", told.filter(Boolean).map((fact) => fact.replaceAll(" ", "\u00a0")).join(" · "));
}

const stateBadge = (run) => h("span", { class: `badge ${run.state === "finished" ? "good" : "warn"}` }, run.state);

// One step as it is as a rule; the first, the slowest and the last behind a click.
function drawSteps(whose, steps) {
  if (!steps.length) return null;
  const bar = (step) => timeBar(`${whose}${step.label}`, step.phases);
  if (steps.length === 1) return bar(steps[0]);
  return [bar(steps[0]), h("details", { class: "card steps" }, h("summary", {}, `${whose}${steps.slice(1).map((step) => step.label).join("; ")}`), steps.slice(1).map(bar))];
}

const sumOf = (phases) => phases.reduce((sum, [, seconds]) => sum + seconds, 0);

function timeBar(label, phases) {
  const total = sumOf(phases);
  const shown = phases.map(([name, seconds, colour]) => ({ name, seconds, colour: colour === null ? "unnamed" : `c${colour}` })).filter(({ seconds }) => seconds > 0);
  const share = (seconds) => (seconds < total / 2000 ? "< 0.1 %" : percent(seconds / total));
  const told = ({ name, seconds }) => `${name} ${share(seconds)}, ${lasting(seconds)}`;
  return h("figure", { class: "card times" },
    label ? h("figcaption", {}, h("h3", {}, label), h("small", {}, `${lasting(total)} in all`)) : null,
    h("div", { class: "shares", role: "img", "aria-label": shown.map(told).join("; ") },
      shown.map((phase) => h("i", { class: phase.colour, title: told(phase), style: { "flex-grow": phase.seconds } }))),
    h("ul", { class: "series" }, shown.map((phase) => h("li", {}, h("i", { class: `swatch ${phase.colour}` }), " ", told(phase)))));
}

function lasting(seconds) {
  if (seconds < 0.95) return `${(1000 * seconds).toFixed(0)} ms`;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function drawOverview(data) {
  const several = data.runs.length > 1;
  return h("section", { class: "group" }, h("h2", {}, several ? "Runs" : data.runs[0].label),
    h("div", { class: "runs" }, data.runs.map((run, i) =>
      h("article", { class: "card run" },
        h("h3", {}, several ? h("i", { class: `swatch c${i % NUM_COLOURS}` }) : null, several ? run.label : "Run",
          stateBadge(run)),
        h("dl", {}, run.facts.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
        run.notes.map((note) => h("p", { class: "note" }, note))))));
}

function drawTables(data) {
  return [...data.tables, ...data.failures.filter((table) => table.kind === "evaluation")].map(tableSection);
}

function tableSection(table) {
  return h("section", { class: "group" }, h("h2", {}, table.title),
    h("div", { class: "card scroll" }, simpleTable(table.columns, table.rows, table.explained)),
    table.about ? h("p", { class: "about" }, table.about) : null, meanings(table.explained || {}));
}

// explained: meanings of rows, by their names
function simpleTable(columns, rows, explained = {}) {
  return h("table", { class: "plain" }, h("thead", {}, h("tr", {}, columns.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, i) => h(i ? "td" : "th", i ? {} : { scope: "row" }, unbroken(cell)))))));
}

// A number with its unit, and an interval, stay on one line.
const unbroken = (text) => text.split(/([-+]?[\d.]+ %|\[[-+\d., ]{1,24}\])/).map((part, i) => (i % 2 ? h("span", { class: "unbroken" }, part) : part));

function drawConfiguration(data) {
  const parts = data.differences.map((difference) => {
    const labels = difference.runs.map((run) => data.runs[run].label);
    const rows = difference.rows.map(([name, ...values]) => [name, ...values]);
    return h("section", { class: "group" },
      h("h2", {}, difference.kind === "run" ? "Where the runs' configurations differ" : "Where the evaluations' configurations differ"),
      rows.length ? h("div", { class: "card scroll" }, simpleTable(["field", ...labels], rows))
        : h("p", { class: "empty" }, "They are the same."));
  });
  data.presets.forEach((preset, i) => {
    if (data.runs[i].kind !== "run") return;
    const label = data.runs.length > 1 ? `${data.runs[i].label}: ` : "";
    if (!preset) {
      parts.push(h("p", { class: "about" }, `${label}What differs from the run's preset is not shown: an older version made the run and did not store the preset's name, or configurations cannot be composed here (trm doctor).`));
      return;
    }
    parts.push(h("section", { class: "group" }, h("h2", {}, `${label}what differs from the preset ${preset.name}`),
      preset.rows.length ? h("div", { class: "card scroll" }, simpleTable(["field", "preset", "run"], preset.rows))
        : h("p", { class: "empty" }, "Nothing.")));
  });
  return [...parts, h("section", { class: "group" }, h("h2", {}, "Whole configuration"), data.runs.map(wholeConfiguration))];
}

function wholeConfiguration(run) {
  if (!run.config.length) return h("p", { class: "empty" }, `${run.label}: no configuration could be read.`);
  const body = h("div", { class: "scroll" });
  const search = h("input", { type: "search", placeholder: "field or value", "aria-label": `Search the configuration of ${run.label}` });
  const list = () => {
    const wanted = search.value.toLowerCase();
    body.replaceChildren(simpleTable(["field", "value"], run.config.filter((row) => row.join(" ").toLowerCase().includes(wanted))));
  };
  search.addEventListener("input", list);
  const details = h("details", { class: "card", ontoggle() { if (this.open && !body.firstChild) list(); } },
    h("summary", {}, `${run.label}, ${counted(run.config.length, "field")}`), search, body);
  return details;
}
