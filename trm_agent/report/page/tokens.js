// The tokens of an episode in chunks. A chunk becomes elements when it comes near the part in sight.
const CHUNK_TOKENS = 500;
const CHUNK_MOST = 800;
const NEAR = "1200px 0px";

// Chunks of the tokens [from, to) of the response, cut after a line's end where there is one.
function chunksOf(view, from, to) {
  const { ids, vocabulary, prompt } = view;
  const chunks = [];
  let start = from;
  while (start < to) {
    let stop = Math.min(to, start + CHUNK_TOKENS);
    while (stop < to && stop - start < CHUNK_MOST && !vocabulary.texts[ids[prompt + stop - 1]].endsWith("\n")) stop++;
    chunks.push([start, stop]);
    start = stop;
  }
  return chunks;
}

function estimatedHeight(view, start, stop, columns) {
  const { ids, vocabulary, prompt } = view;
  let letters = 0, lines = 1;
  for (let i = start; i < stop; i++) {
    const index = ids[prompt + i];
    letters += vocabulary.texts[index].length;
    lines += vocabulary.lines[index];
  }
  return Math.ceil(Math.max(lines, letters / columns + lines / 2)) * 20;
}

function makeTokens(view, pane) {
  const { episode, ids, vocabulary, prompt } = view;
  const edges = edgesOf(episode.header.kind);
  const chunks = [];
  const columns = Math.max(20, (pane.clientWidth - 60) / 8);
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) fillChunk(entry.target);
  }, { root: pane, rootMargin: NEAR });

  // first: number of the first token among the model's tokens; null for context
  function block(from, to, first) {
    const element = h("div", { class: first === null ? "text context" : "text model" });
    for (const [start, stop] of chunksOf(view, from, to)) {
      const chunk = h("div", { class: "chunk", style: { "min-height": `${estimatedHeight(view, start, stop, columns)}px` } });
      chunk.span = { start, stop, first: first === null ? null : first + start - from };
      if (first !== null) chunks.push(chunk);
      near.observe(chunk);
      element.append(chunk);
    }
    return element;
  }

  function fillChunk(chunk) {
    if (chunk.filled) return;
    chunk.filled = true;
    near.unobserve(chunk);
    const { start, stop, first } = chunk.span;
    const parts = [];
    let text = "";
    const flush = () => { if (text) parts.push(text); text = ""; };
    for (let i = start; i < stop; i++) {
      const index = ids[prompt + i];
      const special = vocabulary.special.has(index);
      if (first === null) {
        if (!special) { text += vocabulary.texts[index]; continue; }
        flush();
        const mark = document.createElement("span");
        mark.className = "special";
        mark.textContent = vocabulary.texts[index];
        parts.push(mark);
        continue;
      }
      const number = first + i - start;
      const token = document.createElement("span");
      const violates = episode.violating.has(number);
      token.className = `t d${bucketOf(episode.values[number], edges)}${special ? " special" : ""}${violates ? " violates" : ""}${view.odd?.has(i) ? " odd" : ""}`;
      token.dataset.t = number;
      if (violates) { token.tabIndex = 0; token.setAttribute("aria-label", `violating token ${vocabulary.texts[index]}`); }
      token.textContent = vocabulary.texts[index] || "∅";
      parts.push(token);
    }
    flush();
    chunk.append(...parts);
    chunk.style.minHeight = "";
  }

  // The element of one of the model's tokens, made if it is not there yet.
  function elementOf(number) {
    let low = 0, high = chunks.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (chunks[middle].span.first <= number) low = middle; else high = middle - 1;
    }
    const chunk = chunks[low];
    if (!chunk) return null;
    fillChunk(chunk);
    return chunk.querySelector(`[data-t="${number}"]`);
  }

  return { block, elementOf, stop: () => near.disconnect() };
}

// Where in the response a model's token stands.
function positionOf(runs, number) {
  let before = 0;
  for (let i = 0; i < runs.length; i += 2) {
    const length = runs[i + 1] - runs[i];
    if (number < before + length) return runs[i] + number - before;
    before += length;
  }
  return -1;
}

// The version of the policy that sampled a token; undefined where all are of one.
function versionOf(header, number) {
  return header.versions.findLast(([first]) => first <= number)?.[1];
}

function describeToken(view, number) {
  const { episode, ids, vocabulary, prompt } = view;
  const position = positionOf(episode.header.runs, number);
  const index = ids[prompt + position];
  const found = episode.numbers(number);
  const about = (value) => (Number.isNaN(value) ? "–" : `${found.exact || view.precise ? "" : "≈ "}${formatted(value)}`);
  const { kind, threshold } = episode.header;
  const rows = [["token", JSON.stringify(vocabulary.texts[index])], ["id", String(vocabulary.ids[index])],
    ["position", `${position} of the response, ${number + 1} of the model's ${episode.count}`],
    ["log p, rollout", about(found.rollout)]];
  const version = versionOf(episode.header, number);
  if (version !== undefined) rows.push(["sampled by", `version ${version}, ${counted(episode.header.step - 1 - version, "version")} before the step`]);
  if (kind !== "surprise") {
    rows.push(["log p, training", about(found.logProb)], ["ratio", about(Math.exp(found.logRatio))],
      [kind === "measured" ? "divergence" : `divergence, ${kind}`, Number.isFinite(found.value) ? `${about(found.value)}${unitOf(kind)}` : "not finite"]);
    if (kind === "measured" && found.lower !== null && found.lower !== found.value) {
      rows.push(["interval", `[${about(found.lower)}, ${about(found.value)}]`]);
    }
    if (threshold !== null) rows.push(["threshold", formatted(threshold)]);
  } else rows.push(["surprise", `${about(found.value)} nats`]);
  const violates = episode.violating.has(number);
  return h("div", {}, violates ? h("b", { class: "warning" }, "Outside of the trust region") : null,
    h("table", {}, rows.map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, value)))));
}
