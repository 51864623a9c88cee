// The keyboard.
const KEYS = [
  ["j, ↓ / k, ↑", "next / previous episode"],
  ["n / p", "next / previous violating token"],
  ["← / →", "token before / after, once one is selected"],
  ["t / T", "next / previous turn"],
  ["/", "search ids and texts"],
  ["1 … VIEWS", "views"],
  ["Esc", "leave the search, close this"],
  ["?", "this help"],
];

function drawHelp(numViews) {
  byId("help").replaceChildren(h("h2", { id: "help-title" }, "Keyboard"),
    h("table", {}, KEYS.map(([keys, meaning]) => h("tr", {}, h("th", { scope: "row" }, keys.replace("VIEWS", numViews)), h("td", {}, meaning)))),
    h("p", {}, "Colours: the larger a token's divergence, the stronger its colour. A token above the run's threshold has an outline."),
    h("form", { method: "dialog" }, h("button", {}, "Close")));
  byId("help-button").addEventListener("click", () => byId("help").showModal());
}

function listenToKeys(app) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
    const typing = event.target.matches("input, select, textarea");
    if (event.key === "Escape" && typing) { event.target.blur(); return; }
    if (typing) return;
    if (event.key === "?") { event.preventDefault(); byId("help").showModal(); return; }
    const tab = app.tabs[Number(event.key) - 1];
    if (tab) { app.open(tab); return; }
    // these have arrows of their own
    if (event.target.closest("svg, [role=tablist]") && /^(Arrow|Home|End)/.test(event.key)) return;
    const action = app.view === "episodes" && app.list && actionOf(event, app);
    if (!action) return;
    event.preventDefault();
    action();
  });
}

function actionOf(event, app) {
  const { list, shown, pane } = app;
  const inPane = pane.contains(event.target);
  const actions = {
    j: () => list.move(1), k: () => list.move(-1),
    n: () => shown()?.nextViolation(1), p: () => shown()?.nextViolation(-1),
    t: () => shown()?.nextTurn(1), T: () => shown()?.nextTurn(-1),
    "/": () => byId("search").focus(),
    ArrowDown: inPane ? null : () => list.move(1), ArrowUp: inPane ? null : () => list.move(-1),
    ArrowRight: shown()?.token === null ? null : () => shown()?.moveToken(1),
    ArrowLeft: shown()?.token === null ? null : () => shown()?.moveToken(-1),
    Home: inPane ? null : () => list.select(0), End: inPane ? null : () => list.select(list.length - 1),
  };
  return actions[event.key];
}
