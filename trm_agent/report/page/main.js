// Puts the page together. Where a reader is stands in the address, so that a reload comes back to it.
const VIEWS = { curves: "Results", evaluation: "Evaluation", configuration: "Configuration", episodes: "Episodes" };

function start() {
  const data = JSON.parse(byId("data").textContent);
  const place = new URLSearchParams(whereabouts.get());
  startTheme();
  byId("made").textContent = `made ${data.made}`;
  const evaluations = data.charts.filter((chart) => chart.group === "Evaluation");
  const curves = drawCharts({ ...data, charts: data.charts.filter((chart) => chart.group !== "Evaluation") });
  byId("view-curves").append(...drawResults(data), ...(curves.length ? curves : [nothingYet(data)]), drawOverview(data));
  byId("view-evaluation").append(...drawCharts({ ...data, charts: evaluations }), ...drawTables(data));
  byId("view-configuration").append(...drawConfiguration(data));
  const app = { tabs: Object.keys(VIEWS).filter((name) => name !== "evaluation" || data.tables.length || evaluations.length) };
  app.first = data.runs.every((run) => run.kind === "evaluation") && app.tabs.includes("evaluation") ? "evaluation" : "curves";
  drawHelp(app.tabs.length);
  startEpisodes(data, app, place);
  startTabs(app, place);
  listenToKeys(app);
}

function nothingYet(data) {
  const text = data.runs.every((run) => run.kind === "evaluation") ? "Evaluations have no curves: see the view Evaluation."
    : "There are no metrics yet: the first row comes after the first validation or step.";
  return h("p", { class: "empty" }, text);
}

function startTheme() {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => { root.dataset.theme = memory.get("theme") || (dark.matches ? "dark" : "light"); };
  apply();
  dark.addEventListener("change", apply);
  byId("theme").addEventListener("click", () => {
    memory.set("theme", root.dataset.theme === "dark" ? "light" : "dark");
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
    dispatchEvent(new Event("themechange"));
  });
}

function startTabs(app, place) {
  const tabs = app.tabs.map((name) => h("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": `view-${name}`,
    onclick() { app.open(name); } }, VIEWS[name]));
  byId("tabs").append(...tabs);
  byId("tabs").addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    const next = app.tabs[(app.tabs.indexOf(app.view) + move + app.tabs.length) % app.tabs.length];
    app.open(next);
    byId(`tab-${next}`).focus();
  });
  app.open = (name) => {
    app.view = name;
    for (const other of app.tabs) {
      byId(`view-${other}`).hidden = other !== name;
      byId(`tab-${other}`).setAttribute("aria-selected", other === name);
      byId(`tab-${other}`).tabIndex = other === name ? 0 : -1;
    }
    tip.hide();
    document.body.dataset.view = name;
    if (name === "episodes") app.showList?.();
    app.remember();
  };
  app.open(app.tabs.includes(place.get("view")) ? place.get("view") : app.first);
  const scroll = Number(place.get("y"));
  if (scroll && app.view !== "episodes") scrollTo(0, scroll);
  addEventListener("scroll", () => app.remember(), { passive: true });
  addEventListener("popstate", () => {
    const back = new URLSearchParams(location.hash.slice(1));
    app.open(app.tabs.includes(back.get("view")) ? back.get("view") : app.first);
    if (app.view === "episodes") app.visit?.(back.get("e")); else scrollTo(0, Number(back.get("y")) || 0);
  });
}

function startEpisodes(data, app, place) {
  const section = byId("view-episodes");
  const filter = filterFrom(place);
  let episode = null, wanted = -1, timer = 0;
  app.current = () => wanted;
  app.shown = () => episode;
  app.order = [];
  app.remember = () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      const entries = { view: app.view, ...addressOf(filter), e: wanted < 0 ? "" : idOf(data, wanted), token: episode?.token ?? "",
        y: Math.round(app.view === "episodes" ? app.pane?.scrollTop || 0 : scrollY) || "" };
      whereabouts.set(String(new URLSearchParams(Object.entries(entries).filter(([, value]) => value !== ""))));
    }, 150);
  };
  for (const note of data.notes) section.append(h("p", { class: "note" }, note));
  if (!data.episodes.id.length) { section.append(noEpisodes(data)); app.pane = section; app.list = null; return; }
  app.pane = h("article", { class: "pane", tabindex: 0, "aria-label": "Episode" },
    h("p", { class: "empty" }, "Choose an episode, or press j."));
  app.list = makeList(data, open);
  const count = h("p", { class: "count", role: "status", id: "count" });
  const texts = searchableTexts(data, () => changed());
  filter.texts = texts;
  const changed = () => {
    if (filter.text) texts.read();
    app.order = chosen(data, filter);
    const all = data.episodes.id.length;
    const left = data.available > all ? ` (${all.toLocaleString("en")} of ${data.available.toLocaleString("en")} recorded, whole groups, evenly spaced)` : "";
    count.textContent = `${app.order.length.toLocaleString("en")} of ${counted(all, "episode")}${left}${texts.state(filter)}`;
    app.showList();
    app.remember();
  };
  app.showList = () => app.list.show(app.order, wanted, filter.sort === "group");
  section.append(h("div", { class: "viewer" },
    h("aside", { class: "side" }, drawFilters(data, filter, changed), count, app.list.element), app.pane));
  async function open(i) {
    wanted = i;
    tip.hide();
    const before = episode;
    try {
      const opened = await showEpisode(data, i, app.pane, () => wanted === i, visit);
      if (!opened) return false;
      before?.stop();
      episode = opened;
    } catch (error) {
      app.pane.replaceChildren(h("p", { class: "note" }, `This episode cannot be shown: ${error.message}`));
      return false;
    }
    app.remember();
    return true;
  }
  // an episode that another one names: filters may hide it in the list
  function visit(i) { open(i).then(app.showList); }
  app.visit = (id) => { const i = data.episodes.id.findIndex((_, each) => idOf(data, each) === id); if (i >= 0) visit(i); };
  addEventListener("example", ({ detail }) => {
    app.open("episodes");
    open(detail).then((opened) => { app.showList(); if (opened) episode.showMark(); });
  });
  tokenTips(app);
  app.pane.addEventListener("scroll", () => { app.remember(); }, { passive: true });
  changed();
  const again = data.episodes.id.findIndex((_, i) => idOf(data, i) === place.get("e"));
  if (again >= 0) {
    open(again).then(() => {
      app.showList();
      if (place.get("token")) episode.focusToken(Number(place.get("token")));
      else if (place.get("mark")) episode.showMark();
      else app.pane.scrollTop = Number(place.get("y")) || 0;
    });
  }
}

const idOf = (data, i) => `${data.runs[data.episodes.run[i]].label} ${data.episodes.id[i]}`;

function tokenTips(app) {
  const show = (event) => {
    const token = event.target.closest?.(".t");
    if (!token || !app.shown()) { tip.hide(); return; }
    const box = token.getClientRects()[0];
    // scrolled out of sight
    if (event.type === "scroll" && (box.bottom < 0 || box.top > innerHeight)) { tip.hide(); return; }
    if (event.type === "focusin") app.shown().select(Number(token.dataset.t));
    tip.show(app.shown().describe(Number(token.dataset.t)), box.left, box.bottom, box.top);
    if (event.type === "focusin") { token.setAttribute("aria-describedby", "tip"); app.remember(); }
  };
  app.pane.addEventListener("pointerover", show);
  // the selected token keeps its numbers while the page moves to it
  app.pane.addEventListener("scroll", () => show({ type: "scroll", target: document.activeElement }), { passive: true });
  app.pane.addEventListener("pointerleave", () => tip.hide());
  app.pane.addEventListener("focusin", show);
  app.pane.addEventListener("click", (event) => {
    const token = event.target.closest?.(".t");
    if (token) { token.tabIndex = 0; token.focus({ preventScroll: true }); }
  });
}

function noEpisodes(data) {
  if (data.available) return h("p", { class: "empty" }, `${counted(data.available, "recorded episode")} left out: see --max-episodes.`);
  return h("div", { class: "card empty" }, h("h2", {}, "No episodes were recorded"),
    h("p", {}, "A training run writes them with ", h("code", {}, data.how_to_dump),
      "; an evaluation keeps a number of its own. Then make this page again."));
}

function addressOf(filter) {
  return { flags: [...filter.flags].join("."), q: filter.text, sort: filter.sort === "order" ? "" : filter.sort,
    ...Object.fromEntries(Object.entries(filter.choices).map(([name, value]) => [`f-${name}`, value])) };
}

function filterFrom(place) {
  const filter = emptyFilter();
  filter.flags = new Set((place.get("flags") || "").split(".").filter(Boolean));
  filter.text = place.get("q") || "";
  filter.sort = place.get("sort") || "order";
  for (const [name] of CHOICES) if (place.get(`f-${name}`)) filter.choices[name] = place.get(`f-${name}`);
  return filter;
}

start();
