// Runs, tables of evaluations, configurations.
function drawOverview(data) {
  const several = data.runs.length > 1;
  return h("section", { class: "group" }, h("h2", {}, several ? "Runs" : data.runs[0].label),
    h("div", { class: "runs" }, data.runs.map((run, i) =>
      h("article", { class: "card run" },
        h("h3", {}, several ? h("i", { class: `swatch c${i % NUM_COLOURS}` }) : null, several ? run.label : "Run",
          h("span", { class: `badge ${run.state === "finished" ? "good" : "warn"}` }, run.state)),
        h("dl", {}, run.facts.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
        run.notes.map((note) => h("p", { class: "note" }, note))))));
}

function drawTables(data) {
  return data.tables.map((table) =>
    h("section", { class: "group" }, h("h2", {}, table.title),
      h("div", { class: "card scroll" }, simpleTable(table.columns, table.rows)),
      table.about ? h("p", { class: "about" }, table.about) : null));
}

function simpleTable(columns, rows) {
  return h("table", { class: "plain" }, h("thead", {}, h("tr", {}, columns.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, i) => h(i ? "td" : "th", i ? {} : { scope: "row" }, cell))))));
}

function drawConfiguration(data) {
  const parts = data.differences.map((difference) => {
    const labels = difference.runs.map((run) => data.runs[run].label);
    const rows = difference.rows.map(([name, ...values]) => [name, ...values]);
    return h("section", { class: "group" },
      h("h2", {}, difference.kind === "run" ? "Where the runs' configurations differ" : "Where the evaluations' configurations differ"),
      rows.length ? h("div", { class: "card scroll" }, simpleTable(["field", ...labels], rows))
        : h("p", { class: "empty" }, "They are the same."));
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
