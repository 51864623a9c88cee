// Reads what trm_agent/report/codec.py packed.
const POSITIVE = [1e-7, 1e2];
const SIGNED = [1e-5, 1e2];
const ARRAYS = { B: Uint8Array, H: Uint16Array, I: Uint32Array, f: Float32Array };

function bytesOf(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

async function unpack(text) {
  const stream = new DecompressionStream("deflate");
  const writer = stream.writable.getWriter();
  writer.write(bytesOf(text));
  writer.close();
  const buffer = await new Response(stream.readable).arrayBuffer();
  const size = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
  const arrays = {};
  for (const [name, [code, offset, count]] of Object.entries(header.sections)) {
    arrays[name] = new ARRAYS[code](buffer, 4 + size + offset, count);
  }
  return { header, arrays };
}

// code -> number
function scaleTable(bits, signed) {
  const [low, high] = signed ? SIGNED : POSITIVE;
  const levels = 2 ** (bits - (signed ? 1 : 0)) - 2;
  const table = new Float64Array(2 ** bits);
  for (let code = 0; code < table.length; code++) {
    const step = signed ? code >> 1 : code;
    let value = low * Math.exp((Math.log(high / low) * (step - 1)) / (levels - 1));
    if (step === 0) value = 0;
    if (step > levels) value = NaN;
    table[code] = signed && code & 1 ? -value : value;
  }
  return table;
}

const tables = new Map();
function tableOf(bits, signed) {
  const key = `${bits} ${signed}`;
  if (!tables.has(key)) tables.set(key, scaleTable(bits, signed));
  return tables.get(key);
}

const SAMPLED = {
  k2: (l) => (l * l) / 2,
  k3: (l) => Math.expm1(l) - l,
  abs_log_ratio: (l) => Math.abs(l),
  abs_ratio_minus_one: (l) => Math.abs(Math.expm1(l)),
};

// What the viewer needs of an episode: plain arrays over the model's tokens, violating ones exact.
function openEpisode({ header, arrays }) {
  const { bits, kind } = header;
  const positive = tableOf(bits, false);
  const signed = tableOf(bits, true);
  let count = 0;
  for (let i = 0; i < header.runs.length; i += 2) count += header.runs[i + 1] - header.runs[i];
  const values = new Float64Array(count);
  const sampled = SAMPLED[kind] || SAMPLED.k2;
  for (let i = 0; i < count; i++) {
    if (kind === "measured") values[i] = positive[arrays.upper[i]];
    else if (kind === "surprise") values[i] = arrays.p ? positive[arrays.p[i]] : NaN;
    else values[i] = sampled(signed[arrays.ratio[i]]);
  }
  const exact = new Map();
  arrays.exact_at.forEach((token, i) => {
    values[token] = arrays.exact_value[i];
    exact.set(token, i);
  });
  const violating = new Set(arrays.violations);
  function numbers(token) {
    const known = exact.get(token);
    if (known !== undefined) {
      const lower = arrays.exact_lower[known];
      const rollout = arrays.exact_rollout[known];
      const logProb = arrays.exact_log_prob[known];
      return { exact: true, rollout, logProb, logRatio: logProb - rollout, value: values[token],
        lower: Number.isNaN(lower) ? null : lower };
    }
    const rollout = arrays.p ? -positive[arrays.p[token]] : NaN;
    const logRatio = arrays.ratio ? signed[arrays.ratio[token]] : NaN;
    const lower = arrays.lower ? positive[arrays.lower[token]] : kind === "measured" ? values[token] : null;
    return { exact: false, rollout, logProb: Math.min(0, rollout + logRatio), logRatio, value: values[token], lower };
  }
  return { header, ids: arrays.ids, values, violations: arrays.violations, violating, numbers, count };
}

// The text of a packed element: a large page may still be arriving.
async function packedText(id) {
  for (;;) {
    const element = byId(id);
    // an element counts as whole once something follows it
    if (element && (element.nextSibling || document.readyState !== "loading")) return element.textContent;
    if (document.readyState !== "loading") throw new Error("the page is cut off: make it again");
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const vocabularies = new Map();
function vocabularyOf(run) {
  if (!vocabularies.has(run)) {
    const loaded = packedText(`v${run}`).then(unpack).then(({ header, arrays }) => {
      const texts = header.texts || Array.from(arrays.ids, (id) => `${id} `);
      const lines = Uint16Array.from(texts, (text) => text.split("\n").length - 1);
      return { ids: arrays.ids, texts, lines, special: new Set(header.special), named: Boolean(header.texts) };
    });
    vocabularies.set(run, loaded);
  }
  return vocabularies.get(run);
}
