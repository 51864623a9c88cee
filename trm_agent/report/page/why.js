// Why success changed: plain words, the account, and one early and one late example of each way to fail.
function drawWhy(data, section) {
  const [first, ...others] = section.sentences;
  return h("section", { class: "group why" }, h("h2", {}, section.title),
    h("div", { class: "card" }, h("p", {}, h("strong", {}, first)), section.scope ? h("p", { class: "about" }, section.scope) : null,
      others.length ? h("ul", {}, others.map((text) => h("li", {}, text))) : null),
    section.tables.map((table) => [h("div", { class: "card scroll" }, accountTable(data, table)),
      h("p", { class: "about" }, table.about), meanings(table.explained || {})]));
}

function accountTable(data, { columns, rows, explained = {}, examples = {} }) {
  const links = ([name]) => (examples[name] || []).map((i) => [exampleLink(data, i), " "]);
  const hasExamples = Object.keys(examples).length > 0;
  const heads = hasExamples ? [...columns, "recorded example, early and late"] : columns;
  return h("table", { class: "plain" }, h("thead", {}, h("tr", {}, heads.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, rows.map((row) => h("tr", {},
      row.map((cell, i) => h(i ? "td" : "th", i ? {} : { scope: "row", title: explained[cell] }, unbroken(cell))),
      hasExamples ? h("td", {}, links(row)) : null))));
}

// Opens the episode here; as a link it can be opened in another tab too.
function exampleLink(data, i) {
  const place = new URLSearchParams({ view: "episodes", e: idOf(data, i), mark: 1 });
  return h("a", { class: "example", href: `#${place}`, title: `an episode of training step ${data.episodes.step[i]}: ${data.episodes.category[i]}; opens at the turn that first went wrong`,
    onclick(event) {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      // the way back leads to this row
      history.pushState(null, "", event.currentTarget.href);
      dispatchEvent(new CustomEvent("example", { detail: i }));
    } }, `step\u00a0${data.episodes.step[i]}`);
}

function meanings(explained) {
  const names = Object.keys(explained);
  if (!names.length) return null;
  return h("details", { class: "meanings" }, h("summary", {}, "Meaning of the rows"),
    h("dl", {}, names.map((name) => [h("dt", {}, name), h("dd", {}, explained[name])])));
}

// Numbers of a turn's tokens, as spans [from, to) of the response, that do not stand in the message before it.
function newNumbers(view, turn, before) {
  const { ids, vocabulary, prompt } = view;
  const textOf = (from, to) => Array.from(ids.slice(prompt + from, prompt + to), (id) => vocabulary.texts[id]).join("");
  const known = new Set(textOf(before, turn.start).match(/[0-9]+/g) || []);
  const found = new Set();
  let run = [], digits = "";
  const flush = () => { if (run.length && !known.has(digits)) run.forEach((at) => found.add(at)); run = []; digits = ""; };
  for (let at = turn.start; at < turn.stop; at++) {
    const text = vocabulary.texts[ids[prompt + at]];
    if (/^[0-9]+$/.test(text)) { run.push(at); digits += text; } else flush();
  }
  flush();
  return found;
}
