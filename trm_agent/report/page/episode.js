// One episode: facts, a map of its tokens, the turns.
// Null if the reader went on in the meantime.
async function showEpisode(data, i, pane, stillWanted, visit) {
  const columns = data.episodes;
  const run = columns.run[i];
  const [vocabulary, packed] = await Promise.all([vocabularyOf(run), packedText(`e${i}`).then(unpack)]);
  if (!stillWanted()) return null;
  const episode = openEpisode(packed);
  const view = { episode, vocabulary, ids: episode.ids, prompt: episode.header.prompt, precise: data.bits > 8 };
  pane.scrollTop = 0;
  const tokens = makeTokens(view, pane);
  const turns = [];
  const body = h("div", { class: "turns" });
  if (view.prompt) {
    body.append(turnSection("Prompt", [], tokens.block(-view.prompt, 0, null), "prompt"));
  }
  const mark = columns.mark[i];
  const marked = episode.header.turns[mark];
  if (marked) view.odd = newNumbers(view, marked, mark ? episode.header.turns[mark - 1].stop : -view.prompt);
  let number = 0;
  episode.header.turns.forEach((turn, index) => {
    const section = drawTurn(turn, index, number, tokens, episode.header);
    if (index === mark) markTurn(section, columns.reason[i], view.odd.size);
    number += turn.stop - turn.start;
    turns.push(section);
    body.append(section);
  });
  const { record } = episode.header;
  if (record.final_observation) {
    body.append(turnSection("Answer to the last turn", [h("span", { class: "badge" }, "not among the tokens")],
      h("div", { class: "text context" }, record.final_observation), "observation"));
  }
  if (record.error) body.append(turnSection("Error", [], h("div", { class: "text context" }, record.error), "observation"));
  pane.replaceChildren(episodeHead(data, i, view), episodeFacts(data, i, view, visit), body);
  const map = drawMap(view, (token) => focusToken(token));
  pane.querySelector(".map-place").append(map.element);
  requestAnimationFrame(map.draw);

  let selected = null;
  function focusToken(token) {
    const element = tokens.elementOf(token);
    if (!element) return;
    pane.style.scrollPaddingTop = `${stickyHeight(pane)}px`;
    element.scrollIntoView({ block: "center" });
    // chunks that came into sight took their true heights; once more at the true place
    requestAnimationFrame(() => {
      element.scrollIntoView({ block: "center" });
      element.tabIndex = element.tabIndex < 0 ? -1 : element.tabIndex;
      element.focus({ preventScroll: true });
    });
    selected = token;
  }
  return {
    index: i,
    get token() { return selected; },
    violations: episode.violations,
    stop() { tokens.stop(); map.stop(); },
    focusToken,
    select(token) { selected = token; },
    describe: (token) => describeToken(view, token),
    nextViolation(by) {
      const list = episode.violations;
      if (!list.length) return;
      let place = selected === null ? (by > 0 ? 0 : list.length - 1) : -1;
      if (place < 0) {
        place = by > 0 ? list.findIndex((token) => token > selected) : list.findLastIndex((token) => token < selected);
        if (place < 0) place = by > 0 ? 0 : list.length - 1;
      }
      focusToken(list[place]);
    },
    moveToken(by) {
      if (selected !== null && selected + by >= 0 && selected + by < episode.count) focusToken(selected + by);
    },
    showMark() {
      if (!marked) return;
      // on a narrow page the list stands above
      if (!stickyHeight(pane)) pane.scrollIntoView();
      showTurn(turns[mark]);
    },
    nextTurn(by) {
      const top = pane.getBoundingClientRect().top;
      const current = turns.findLastIndex((turn) => turn.getBoundingClientRect().top <= top + stickyHeight(pane) + 12);
      const turn = turns[Math.min(Math.max(0, current + by), turns.length - 1)];
      if (turn) showTurn(turn);
    },
  };

  function showTurn(turn) {
    const jump = () => { pane.scrollTop += turn.getBoundingClientRect().top - pane.getBoundingClientRect().top - stickyHeight(pane) - 8; };
    // chunks that come into sight take their true heights
    let left = 6;
    const again = () => { jump(); if (--left) requestAnimationFrame(again); };
    again();
  }
}

// The turn in which the episode first went wrong.
function markTurn(section, told, hasOdd) {
  section.classList.add("mistake");
  const [reason, ...after] = told.split("; ");
  section.querySelector("h3").append(h("span", { class: "badge bad" }, `here: ${reason}`), after.length ? h("span", { class: "quiet" }, after.join("; ")) : "",
    hasOdd ? h("span", { class: "quiet" }, "underlined: a number that the message before does not have") : "");
}

// Of the head that covers the pane's top; a narrow page's scrolls away.
function stickyHeight(pane) {
  const head = pane.querySelector(".episode-head");
  return getComputedStyle(head).position === "sticky" ? head.getBoundingClientRect().height : 0;
}

function drawTurn(turn, index, first, tokens, header) {
  const [from, to] = [first, first + turn.stop - turn.start - 1].map((number) => versionOf(header, number));
  const marks = [
    turn.reward ? h("span", { class: "badge good" }, `reward ${formatted(turn.reward)}`) : turn.reward === 0 ? h("span", { class: "badge" }, "reward 0") : null,
    turn.num_tool_calls ? h("span", { class: "badge" }, counted(turn.num_tool_calls, "tool call")) : null,
    turn.malformed ? h("span", { class: "badge bad" }, "malformed") : null,
    turn.finished === false ? h("span", { class: "badge warn" }, "cut by a limit") : null,
    h("span", { class: "quiet" }, counted(turn.stop - turn.start, "token")),
    from === undefined ? null : h("span", { class: from === to ? "quiet" : "badge" }, from === to ? `version ${from}` : `versions ${from} to ${to}`),
  ];
  const section = turnSection(`Turn ${index + 1}`, marks, tokens.block(turn.start, turn.stop, first), "answer");
  if (turn.observation_stop !== null && turn.observation_stop > turn.stop) {
    const length = turn.observation_stop - turn.stop;
    section.append(h("div", { class: "observation" },
      h("h4", {}, turn.role === "tool" ? "Tool" : turn.role === "user" ? "Environment" : "Observation",
        h("span", { class: "quiet" }, counted(length, "token"))),
      tokens.block(turn.stop, turn.observation_stop, null)));
  }
  return section;
}

function turnSection(title, marks, block, kind) {
  return h("section", { class: `turn ${kind}`, "aria-label": title }, h("h3", {}, title, marks), block);
}

function episodeHead(data, i, view) {
  const c = data.episodes;
  const { header } = view.episode;
  const badge = (kind, text) => h("span", { class: `badge ${kind}` }, text);
  const facts = [
    c.accepted[i] === null ? null : badge(c.accepted[i] ? "good" : "bad", c.accepted[i] ? "accepted" : rejectedText(c, i)),
    c.success[i] === null ? null : badge(c.success[i] ? "good" : "", c.success[i] ? "success" : c.category[i] || "failed"),
    c.stop[i] ? badge("", c.stop[i]) : null,
    c.reward[i] === null ? null : badge("", `reward ${formatted(c.reward[i])}`),
    c.advantage[i] === null ? null : badge("", `advantage ${withSign(c.advantage[i])}`),
    badge("", counted(c.turns[i], "turn")),
    badge("", `${counted(c.tokens[i], "token")}, ${c.model[i].toLocaleString("en")} of the model`),
    c.violations[i] ? badge("bad", counted(c.violations[i], "violating token")) : null,
    badge("", `worst token ${worstText(c.worst[i], header.kind)}`),
  ];
  const unnamed = view.vocabulary.named ? null : h("p", { class: "note" }, "No tokenizer was found: tokens are shown as their ids (trm report --tokenizer FOLDER).");
  return h("header", { class: "episode-head" },
    h("h2", {}, data.runs.length > 1 ? `${data.runs[c.run[i]].label} · ${c.id[i]}` : c.id[i]),
    h("div", { class: "badges" }, facts), unnamed, h("div", { class: "map-place" }), legendOf(header.kind, header.threshold));
}

// It scrolls away with the turns, unlike the head.
function episodeFacts(data, i, view, visit) {
  const c = data.episodes;
  const { record } = view.episode.header;
  const more = [c.env[i], c.horizon[i] === null ? null : `horizon ${c.horizon[i]}`, c.seed[i] === null ? null : `seed ${c.seed[i]}`,
    ...Object.entries(record.options || {}).filter(([name]) => name !== "horizon").map(([name, value]) => `${name} ${value}`),
    ...Object.entries(record.numbers || {}).map(([name, value]) => `${name.replaceAll("_", " ")} ${formatted(value)}`),
    ...Object.entries(record.timings || {}).map(([name, value]) => `${name} ${formatted(value)} s`)].filter(Boolean);
  const approximate = view.precise ? null : `≈: stored to ${(100 * data.precision.log_prob).toFixed(1)} % (log p) and ${(100 * data.precision.log_ratio).toFixed(1)} % (log ratio); violating tokens and the largest exactly`;
  return h("div", { class: "episode-facts" }, groupOf(c, i, visit),
    record.expected_answer === undefined || record.expected_answer === null ? null
      : h("p", { class: "expected" }, "expected answer: ", h("code", {}, record.expected_answer)),
    more.length ? h("p", { class: "quiet" }, more.join(" · ")) : null, approximate ? h("p", { class: "quiet" }, approximate) : null);
}

const rejectedText = (c, i) => (c.rejected_by[i] ? `rejected by ${c.rejected_by[i]}` : "rejected");

// The episodes of the same task in the same step: what the advantage compares.
function groupOf(c, i, visit) {
  if (c.group[i] === null) return null;
  const members = c.group.flatMap((group, other) => (group === c.group[i] ? [other] : []));
  const rewards = members.map((other) => c.reward[other]).filter((reward) => reward !== null);
  const mean = rewards.length ? rewards.reduce((sum, reward) => sum + reward, 0) / rewards.length : null;
  const known = c.advantage[i] !== null;
  const told = (other) => `${formatted(c.reward[other])}${c.advantage[other] === null ? "" : ` (${withSign(c.advantage[other])})`}`;
  return h("nav", { class: "in-group", "aria-label": "Episodes of the group" },
    h("span", { class: "quiet" }, `group of ${members.length}, mean reward ${formatted(mean)}; reward ${known ? "(advantage) " : ""}of each:`),
    members.map((other) => h("button", { type: "button", class: "small", "aria-current": other === i, title: `open ${c.id[other]}`,
      onclick() { visit(other); } }, told(other))));
}

// A strip of all the model's tokens: the largest divergence of each pixel column, and every violation.
function drawMap(view, go) {
  const { episode } = view;
  const edges = edgesOf(episode.header.kind);
  const canvas = h("canvas", { class: "map", role: "img", title: "All of the model's tokens; click to go there",
    "aria-label": `Map of ${counted(episode.count, "token")}, ${counted(episode.violations.length, "violation")}` });
  function draw() {
    const ratio = devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * ratio), height = Math.round(26 * ratio);
    if (!width || !episode.count) return;
    canvas.width = width;
    canvas.height = height;
    const style = getComputedStyle(canvas);
    const hue = episode.header.kind === "surprise" ? "s" : "d";
    const colours = Array.from({ length: edges.length + 1 }, (_, bucket) => style.getPropertyValue(`--${hue}${bucket}`));
    const context = canvas.getContext("2d");
    for (let x = 0; x < width; x++) {
      const from = Math.floor((x / width) * episode.count);
      const to = Math.max(from + 1, Math.floor(((x + 1) / width) * episode.count));
      let worst = 0;
      for (let i = from; i < to; i++) worst = Math.max(worst, bucketOf(episode.values[i], edges));
      context.fillStyle = colours[worst] || "transparent";
      context.fillRect(x, height * 0.3, 1, height * 0.7);
    }
    context.fillStyle = style.getPropertyValue("--ink");
    for (const token of episode.violations) context.fillRect((token / episode.count) * width, 0, Math.max(1, 2 * ratio), height * 0.26);
  }
  canvas.addEventListener("click", (event) => {
    const box = canvas.getBoundingClientRect();
    go(Math.min(episode.count - 1, Math.floor(((event.clientX - box.left) / box.width) * episode.count)));
  });
  const observer = new ResizeObserver(draw);
  observer.observe(canvas);
  addEventListener("themechange", draw);
  return { element: canvas, draw, stop() { observer.disconnect(); removeEventListener("themechange", draw); } };
}
