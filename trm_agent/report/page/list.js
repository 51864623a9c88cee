// The list of episodes: only the rows in sight are elements.
const ROW_HEIGHT = 58;
const SPARE_ROWS = 8;

// trm_agent/report/episodes.py writes this for what is infinite
const INFINITE = 1e9;
const unitOf = (kind) => (kind === "abs_ratio_minus_one" ? "" : " nats");
const worstText = (value, kind) => (value === null ? "–" : value >= INFINITE ? "not finite" : `${formatted(value)}${unitOf(kind)}`);
const withSign = (value) => `${value > 0 ? "+" : value < 0 ? "−" : ""}${formatted(Number(Math.abs(value).toPrecision(3)))}`;

// The important first: a narrow list cuts the end off.
function summaryOf(c, i) {
  return [c.reward[i] === null ? null : `reward ${formatted(c.reward[i])}`, c.advantage[i] === null ? null : `advantage ${withSign(c.advantage[i])}`,
    c.success[i] === false ? c.category[i] : null, c.group[i] === null && c.horizon[i] !== null ? `horizon ${c.horizon[i]}` : null,
    counted(c.turns[i], "turn"), counted(c.tokens[i], "token")].filter(Boolean).join(" · ");
}

function makeList(data, open) {
  const columns = data.episodes;
  const space = h("div", { class: "space", role: "presentation" });
  const box = h("div", { class: "list", role: "listbox", tabindex: 0, id: "list", "aria-label": "Episodes" }, space);
  let order = [];
  let at = -1, grouped = false;

  function draw() {
    const first = Math.max(0, Math.floor(box.scrollTop / ROW_HEIGHT) - SPARE_ROWS);
    const last = Math.min(order.length, Math.ceil((box.scrollTop + box.clientHeight) / ROW_HEIGHT) + SPARE_ROWS);
    const rows = [];
    for (let place = first; place < last; place++) rows.push(rowOf(place));
    space.replaceChildren(...rows);
  }

  function rowOf(place) {
    const i = order[place];
    const c = columns;
    const kind = data.settings[c.run[i]].kind;
    const marks = [
      c.accepted[i] === false ? h("span", { class: "badge bad", title: rejectedText(c, i) }, "rejected") : null,
      c.success[i] === true ? h("span", { class: "badge good" }, "success") : null,
      c.success[i] === false ? h("span", { class: "badge" }, "failed") : null,
    ];
    const bucket = c.worst[i] === null ? 0 : bucketOf(c.worst[i], edgesOf(kind));
    const begins = grouped && place > 0 && c.group[i] !== c.group[order[place - 1]];
    return h("div", { class: `row ${kind === "surprise" ? "surprise" : ""} ${begins ? "begins" : ""}`, role: "option", id: `row-${i}`, "aria-selected": place === at,
      "aria-posinset": place + 1, "aria-setsize": order.length, style: { transform: `translateY(${place * ROW_HEIGHT}px)` },
      onclick() { select(place); } },
      h("div", { class: "row-top" },
        h("i", { class: `worst d${bucket} ${c.violations[i] ? "violates" : ""}`, title: `worst token ${worstText(c.worst[i], kind)}` }),
        data.runs.length > 1 ? h("i", { class: `swatch c${c.run[i] % NUM_COLOURS}`, title: data.runs[c.run[i]].label }) : null,
        h("span", { class: "row-id" }, c.id[i]), marks),
      h("div", { class: "row-more", title: summaryOf(c, i) },
        summaryOf(c, i)));
  }

  function select(place, silent) {
    if (!order.length) return;
    at = Math.min(Math.max(0, place), order.length - 1);
    const top = at * ROW_HEIGHT;
    if (top < box.scrollTop) box.scrollTop = top;
    else if (top + ROW_HEIGHT > box.scrollTop + box.clientHeight) box.scrollTop = top + ROW_HEIGHT - box.clientHeight;
    draw();
    box.setAttribute("aria-activedescendant", `row-${order[at]}`);
    if (!silent) open(order[at]);
  }

  box.addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
  new ResizeObserver(draw).observe(box);
  return {
    element: box,
    // byGroup: a line parts the groups
    show(found, current, byGroup) {
      order = found;
      grouped = byGroup;
      space.style.height = `${found.length * ROW_HEIGHT}px`;
      at = order.indexOf(current);
      if (at < 0) { box.removeAttribute("aria-activedescendant"); box.scrollTop = Math.min(box.scrollTop, found.length * ROW_HEIGHT); draw(); } else select(at, true);
    },
    select,
    move: (by) => select(at < 0 ? (by > 0 ? 0 : order.length - 1) : at + by),
    get length() { return order.length; },
    get place() { return at; },
  };
}
