// Line charts with intervals, from arrays: axes, legend, tooltip, logarithmic axis.
const NUM_COLOURS = 8;
const DASHES = ["", "6 3", "2 3", "9 3 2 3", "1 2", "12 4", "4 2 1 2", "3 5"];
const WINDOW = 5, LEAST_SMOOTHED = 10, LEAST_DRAG = 12;
const WIDTH = 520, HEIGHT = 250, LEFT = 56, RIGHT = 14, TOP = 12, BOTTOM = 34;

function drawCharts(data) {
  const groups = new Map();
  for (const chart of data.charts) {
    if (!groups.has(chart.group)) groups.set(chart.group, []);
    groups.get(chart.group).push(chart);
  }
  return Array.from(groups, ([name, list]) =>
    h("section", { class: "group", id: `group-${name}` }, h("h2", {}, name),
      h("div", { class: "charts" }, list.filter((chart) => !isFlat(chart)).map((chart) => chartCard(chart, data))),
      flatCharts(list.filter(isFlat), data)));
}

// A chart each of whose lines stays at one value in all of several steps.
function isFlat(chart) {
  return chart.x === "step" && chart.group === "Trust region"
    && chart.series.every(({ y }) => y.length > 1 && y.every((value) => value === y[0]));
}

function flatCharts(list, data) {
  if (!list.length) return null;
  const at = (chart) => {
    const values = [...new Set(chart.series.map(({ y }) => (chart.share ? percent(y[0]) : formatted(y[0]))))];
    return `${chart.title}: flat at ${values.join(", ")}`;
  };
  return h("details", { class: "flat" }, h("summary", {}, list.map(at).join("; ")),
    h("div", { class: "charts" }, list.map((chart) => chartCard(chart, data))));
}

function chartCard(chart, data) {
  const long = chart.x === "step" && chart.series.some((series) => series.x.length >= LEAST_SMOOTHED);
  const state = { log: chart.log, hidden: new Set(), smooth: Boolean(long && chart.smooth), span: null };
  const runs = new Set(chart.series.map((series) => series.run));
  // colour tells runs apart, or the series of a single run
  const several = runs.size > 1 && !chart.by_series;
  const labels = [...new Set(chart.series.map((series) => series.label))];
  chart.series.forEach((series, i) => {
    const label = labels.indexOf(series.label);
    series.colour = (several ? series.run : chart.by_series ? i : label) % NUM_COLOURS;
    series.dash = several ? DASHES[label % DASHES.length] : "";
    const { kind } = data.runs[series.run];
    series.name = data.runs.filter((run) => run.kind === kind).length > 1
      ? `${data.runs[series.run].label}: ${series.label}` : series.label;
  });
  nameTheSame(chart.series);
  const plot = h("div", { class: "plot" });
  const redraw = () => plot.replaceChildren(drawPlot(chart, state, redraw));
  const positive = chart.series.some((series) => series.y.some((y) => y > 0));
  const toggle = positive && !chart.share && h("button", { type: "button", class: "small", "aria-pressed": state.log,
    onclick() { state.log = !state.log; this.setAttribute("aria-pressed", state.log); redraw(); } }, "log");
  const smooth = long && h("button", { type: "button", class: "small", "aria-pressed": state.smooth, title: `mean over ${WINDOW} steps`,
    onclick() { state.smooth = !state.smooth; this.setAttribute("aria-pressed", state.smooth); redraw(); } }, "smooth");
  const legend = h("ul", { class: "series" }, chart.series.map((series) =>
    h("li", {}, h("button", { type: "button", "aria-pressed": "true", title: series.metric || series.name,
      onclick() {
        state.hidden.has(series) ? state.hidden.delete(series) : state.hidden.add(series);
        this.setAttribute("aria-pressed", !state.hidden.has(series));
        redraw();
      } }, lineKey(series), series.name))));
  redraw();
  return h("figure", { class: "card", id: `chart-${chart.name}` },
    h("figcaption", {}, h("h3", {}, chart.title, chart.unit ? h("small", {}, chart.unit) : null), h("span", {}, smooth, toggle)),
    plot, chart.series.length > 1 ? legend : null, chart.about ? h("p", { class: "about" }, chart.about) : null);
}

function lineKey(series) {
  return svg("svg", { width: 22, height: 8, "aria-hidden": "true", class: `c${series.colour}` },
    svg("line", { x1: 0, x2: 22, y1: 4, y2: 4, class: "line", "stroke-dasharray": series.dash }));
}

// A line under another one cannot be seen: the legend says so.
function nameTheSame(list) {
  const known = new Map();
  for (const series of list) {
    const values = JSON.stringify([series.x, series.y]);
    if (known.has(values)) series.name += ` (the same as ${known.get(values)})`;
    else known.set(values, series.name);
  }
}

// A series within the chosen steps, each value the mean of its neighbours if it is smoothed; of the nearest at the ends.
function drawn(series, { smooth, span }) {
  const kept = series.x.map((_, i) => i).filter((i) => !span || (series.x[i] >= span[0] && series.x[i] <= span[1]));
  const pick = (values) => values && kept.map((i) => values[i]);
  const half = (WINDOW - 1) / 2;
  const isThere = (y) => y !== null && y !== undefined;
  const mean = (i) => {
    const from = Math.max(0, Math.min(i - half, series.y.length - WINDOW));
    const near = series.y.slice(from, from + WINDOW).filter(isThere);
    return isThere(series.y[i]) ? near.reduce((sum, y) => sum + y, 0) / near.length : null;
  };
  if (smooth) return { ...series, x: pick(series.x), y: kept.map(mean), low: null, high: null };
  return { ...series, x: pick(series.x), y: pick(series.y), low: pick(series.low), high: pick(series.high) };
}

function drawPlot(chart, state, redraw) {
  const shown = chart.series.filter((series) => !state.hidden.has(series)).map((series) => drawn(series, state))
    .filter((series) => series.x.length);
  const usable = (y) => y !== null && y !== undefined && (!state.log || y > 0);
  const xs = shown.flatMap((series) => series.x);
  const ys = shown.flatMap((series) => [...series.y, ...(series.low || []), ...(series.high || [])]).filter(usable);
  const x = axisOf(xs, false, false);
  const y = chart.share ? { ...axisOf([0, 1], false, true), ticks: [0, 0.25, 0.5, 0.75, 1] }
    : axisOf(ys, state.log, !state.log);
  if (chart.points) {
    const marks = [...new Set(xs)].sort((a, b) => a - b);
    // few horizons are named each; they often double
    if (chart.x === "horizon" && marks.length > 2 && marks[0] > 0 && marks.at(-1) / marks[0] >= 8) Object.assign(x, doublingAxis(marks[0], marks.at(-1)));
    if (marks.length <= 12) x.ticks = marks;
  }
  if (chart.log_x && xs.length) Object.assign(x, powersOfTwo(Math.min(...xs) / 1.2, Math.max(...xs) * 1.2));
  const px = (value) => LEFT + x.at(value) * (WIDTH - LEFT - RIGHT);
  const py = (value) => HEIGHT - BOTTOM - y.at(value) * (HEIGHT - TOP - BOTTOM);
  const root = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", tabindex: 0, "aria-label": spoken(chart, shown) });
  for (const tick of y.ticks) {
    root.append(svg("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: py(tick), y2: py(tick), class: "grid" }),
      svg("text", { x: LEFT - 8, y: py(tick) + 4, "text-anchor": "end" }, tickText(tick)));
  }
  for (const tick of x.ticks) {
    root.append(svg("text", { x: px(tick), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, tickText(tick)));
  }
  root.append(svg("text", { x: WIDTH - RIGHT, y: HEIGHT - 2, "text-anchor": "end", class: "axis" }, chart.x));
  for (const series of shown) drawSeries(root, chart, series, px, py, usable);
  interactive(root, chart, shown, px, py, usable);
  if (chart.x === "step") zoomable(root, shown, px, state, redraw);
  return root;
}

function drawSeries(root, chart, series, px, py, usable) {
  const group = svg("g", { class: `c${series.colour}` });
  const parts = [[]];
  series.x.forEach((x, i) => (usable(series.y[i]) ? parts.at(-1).push(i) : parts.push([])));
  for (const part of parts.filter((found) => found.length)) {
    const path = (values) => part.map((i) => `${px(series.x[i]).toFixed(1)},${py(values[i]).toFixed(1)}`);
    if (series.low && !chart.points && part.every((i) => usable(series.low[i]) && usable(series.high[i]))) {
      group.append(svg("polygon", { class: "band", points: [...path(series.high), ...path(series.low).reverse()].join(" ") }));
    }
    group.append(svg("polyline", { class: "line", points: path(series.y).join(" "), "stroke-dasharray": series.dash }));
    for (const i of part) {
      if (series.low && chart.points && usable(series.low[i])) {
        group.append(svg("line", { class: "bar", x1: px(series.x[i]), x2: px(series.x[i]), y1: py(series.low[i]), y2: py(series.high[i]) }));
      }
      if (series.line) continue;
      if (chart.points || part.length === 1 || (series.low && series.x.length < 60)) {
        group.append(svg("circle", { class: "dot", cx: px(series.x[i]), cy: py(series.y[i]), r: chart.points ? 3.5 : 2.5 }));
      }
    }
  }
  root.append(group);
}

function interactive(root, chart, shown, px, py, usable) {
  const stops = [...new Set(shown.flatMap((series) => series.x))].sort((a, b) => a - b);
  if (!stops.length) return;
  const cursor = svg("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  root.append(cursor);
  let at = -1;
  const show = (index) => {
    at = Math.min(Math.max(0, index), stops.length - 1);
    const x = stops[at];
    cursor.setAttribute("x1", px(x));
    cursor.setAttribute("x2", px(x));
    cursor.setAttribute("visibility", "visible");
    const text = (value) => (chart.share ? percent(value) : formatted(value));
    const rows = shown.filter((series) => usable(series.y[series.x.indexOf(x)])).map((series) => {
      const i = series.x.indexOf(x);
      const interval = series.low && usable(series.low[i]) ? ` [${text(series.low[i])}, ${text(series.high[i])}]` : "";
      return h("tr", {}, h("td", {}, lineKey(series)), h("td", {}, series.name), h("td", { class: "number" }, text(series.y[i]) + interval));
    });
    const box = root.getBoundingClientRect();
    const content = h("div", {}, h("b", {}, `${chart.x} ${x}`), h("table", {}, rows));
    tip.show(content, box.left + (px(x) / WIDTH) * box.width, box.top + box.height / 3);
  };
  const hide = () => { cursor.setAttribute("visibility", "hidden"); tip.hide(); };
  root.addEventListener("pointermove", (event) => {
    const box = root.getBoundingClientRect();
    const where = ((event.clientX - box.left) / box.width) * WIDTH;
    let best = 0;
    stops.forEach((x, i) => { if (Math.abs(px(x) - where) < Math.abs(px(stops[best]) - where)) best = i; });
    show(best);
  });
  root.addEventListener("pointerleave", hide);
  root.addEventListener("blur", hide);
  root.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    show(at < 0 ? (move > 0 ? 0 : stops.length - 1) : at + move);
  });
}

// Drag over steps to see these alone; a double click shows all again.
function zoomable(root, shown, px, state, redraw) {
  const where = (event) => {
    const box = root.getBoundingClientRect();
    return Math.min(WIDTH - RIGHT, Math.max(LEFT, ((event.clientX - box.left) / box.width) * WIDTH));
  };
  const area = svg("rect", { class: "zoomed", y: TOP, height: HEIGHT - TOP - BOTTOM, visibility: "hidden" });
  root.append(area);
  let from = null;
  root.addEventListener("pointerdown", (event) => { from = where(event); root.setPointerCapture(event.pointerId); });
  root.addEventListener("pointermove", (event) => {
    if (from === null) return;
    area.setAttribute("x", Math.min(from, where(event)));
    area.setAttribute("width", Math.abs(where(event) - from));
    area.setAttribute("visibility", "visible");
  });
  root.addEventListener("pointerup", (event) => {
    if (from === null) return;
    const [left, right] = [from, where(event)].sort((a, b) => a - b);
    from = null;
    area.setAttribute("visibility", "hidden");
    const steps = shown.flatMap((series) => series.x).filter((x) => px(x) >= left && px(x) <= right);
    if (right - left < LEAST_DRAG || new Set(steps).size < 2) return;
    state.span = [Math.min(...steps), Math.max(...steps)];
    tip.hide();
    redraw();
  });
  root.addEventListener("dblclick", () => { state.span = null; redraw(); });
}

function axisOf(values, log, fromZero) {
  const finite = values.filter((value) => value !== null && Number.isFinite(value));
  let low = Math.min(...finite), high = Math.max(...finite);
  if (!finite.length) [low, high] = [0, 1];
  if (log) return logAxis(low, high);
  if (fromZero) { low = Math.min(0, low); high = Math.max(0, high); }
  if (low === high) { high = low + (Math.abs(low) || 1); }
  const step = niceStep((high - low) / 5);
  const ticks = [];
  for (let tick = Math.ceil(low / step - 1e-9) * step; tick <= high + step * 1e-6; tick += step) ticks.push(Number(tick.toPrecision(12)));
  const top = fromZero ? high + (high - low) * 0.05 : high;
  return { ticks, at: (value) => (value - low) / (top - low) };
}

function logAxis(low, high) {
  let first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
  if (first === last) last = first + 1;
  const every = Math.ceil((last - first) / 7);
  const ticks = [];
  for (let power = first; power <= last; power += every) ticks.push(10 ** power);
  return { ticks, at: (value) => (Math.log10(value) - first) / (last - first) };
}

function doublingAxis(low, high) {
  return { at: (value) => Math.log(value / low) / Math.log(high / low) };
}

function powersOfTwo(low, high) {
  const ticks = [];
  for (let tick = 2 ** Math.ceil(Math.log2(low)); tick <= high; tick *= 2) ticks.push(tick);
  return { ...doublingAxis(low, high), ticks };
}

function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough) || 10 * power;
}

function tickText(value) {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(0).replace("e+", "e");
  return size >= 1000 ? `${value / 1000}k` : String(Number(value.toPrecision(6)));
}

function spoken(chart, shown) {
  const last = (series) => {
    const i = series.y.findLastIndex((y) => y !== null);
    return `${series.name} ${chart.share ? percent(series.y[i]) : formatted(series.y[i])} at ${chart.x} ${series.x[i]}`;
  };
  return `${chart.title}: ${shown.slice(0, 12).map(last).join("; ")}. Arrow keys read the values.`;
}
