// The colours of tokens: one hue, darker (in the dark theme brighter) the larger the number.
const DIVERGENCE_EDGES = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1];
const SURPRISE_EDGES = [0.01, 0.1, 0.5, 1, 2, 5];

function bucketOf(value, edges) {
  // a divergence that is not finite is the worst; a surprise that is not known is none
  if (Number.isNaN(value)) return edges === SURPRISE_EDGES ? 0 : edges.length;
  let bucket = 0;
  while (bucket < edges.length && value >= edges[bucket]) bucket++;
  return bucket;
}

const edgesOf = (kind) => (kind === "surprise" ? SURPRISE_EDGES : DIVERGENCE_EDGES);

const KIND_NAMES = {
  measured: "token divergence KL(rollout ‖ training), upper bound of what was measured, nats",
  k2: "token divergence, sampled estimate k2 = (log ratio)² / 2, nats",
  k3: "token divergence, sampled estimate k3 = ratio − 1 − log ratio, nats",
  abs_log_ratio: "token divergence, |log ratio|, nats",
  abs_ratio_minus_one: "token divergence, |ratio − 1|",
  surprise: "surprise −log p of the sampling policy, nats: an evaluation has no second policy to differ from",
};

function legendOf(kind, threshold) {
  const edges = edgesOf(kind);
  const keys = edges.map((edge, i) => h("span", { class: "key" }, h("i", { class: `d${i + 1}` }), `≥ ${edge}`));
  const violator = threshold === null || threshold === undefined || kind === "surprise" ? null
    : h("span", { class: "key" }, h("i", { class: "d5 violates" }), `violates the threshold ${formatted(threshold)}`);
  return h("div", { class: `legend ${kind === "surprise" ? "surprise" : ""}`, "aria-label": "Colours" },
    h("span", { class: "legend-title" }, KIND_NAMES[kind] || KIND_NAMES.k2),
    h("span", { class: "keys" }, h("span", { class: "key" }, h("i", { class: "d0" }), `< ${edges[0]}`), keys, violator));
}
