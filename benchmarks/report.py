"""The page of 2,000 episodes of 30,000 tokens in a headless Chromium, against the naive page.

python -m benchmarks.report [--episodes 2000 --tokens 30000 --naive-episodes 10]

Baseline, measured in the same run at a size that it can hold: all episodes as plain JSON, every token an element with
its numbers in a title, all of them made when the page opens. Its figures grow with the tokens, ours with what is open.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow
import pyarrow.parquet
import yaml

from tests.report.browser import launched, opened
from trm_agent.report.build import build_report
from trm_agent.trust_region.dump import FORMAT, SCHEMA, VERSION
from trm_agent.trust_region.settings import TrmConfig

EPISODES_A_FILE = 50
VOCABULARY = 30_000
TURN_TOKENS, OBSERVATION_TOKENS = 300, 300
LETTERS = "etaoinshrdlucmfwypvbgk"
NAIVE = """<!doctype html><meta charset="utf-8"><div id="all"></div>
<script id="data" type="application/json">%s</script>
<script>
const data = JSON.parse(document.getElementById("data").textContent);
for (const episode of data) {
  const box = document.createElement("pre");
  box.style.whiteSpace = "pre-wrap";
  for (const [text, p, q, d] of episode) {
    const token = document.createElement("span");
    token.textContent = text;
    if (d !== null) {
      token.title = `${p} ${q} ${d}`;
      token.style.background = `rgba(220, 110, 20, ${Math.min(1, 0.1 - Math.log10(d + 1e-9) / -9)})`;
    }
    box.append(token);
  }
  document.getElementById("all").append(box);
}
document.body.dataset.ready = "yes";
</script>
"""


def texts() -> list[str]:
    """Different words, short ones first; every 20th ends a line."""
    found = []
    for index in range(VOCABULARY):
        word, rest = "", index
        while rest or not word:
            word, rest = word + LETTERS[rest % len(LETTERS)], rest // len(LETTERS)
        found.append(f" {word}" if index % 20 else f" {word}.\n")
    return found


def write_tokenizer(folder: Path, words: list[str]) -> None:
    """A tokenizer whose token i reads `words[i]`."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token=words[0]))
    core.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=core).save_pretrained(str(folder))


def arrays(rng: np.random.Generator, tokens: int) -> dict[str, np.ndarray]:
    """One episode: tokens as frequent as a language's, log-probs of two engines that nearly agree."""
    ids = np.minimum(rng.zipf(1.3, tokens), VOCABULARY) - 1
    mask = np.arange(tokens) % (TURN_TOKENS + OBSERVATION_TOKENS) < TURN_TOKENS
    rollout = -rng.exponential(0.6, tokens) * (rng.random(tokens) < 0.6)
    ratio = rng.normal(0, 0.02, tokens) * rng.exponential(1, tokens)
    ratio[rng.integers(tokens)] = 0.8
    divergence = ratio**2 * rng.exponential(0.5, tokens)
    outside = np.where(mask, 0.0, np.nan)
    known = {
        "log_probs": np.minimum(rollout + ratio, 0),
        "rollout_log_probs": rollout,
        "advantages": np.full(tokens, 0.5),
    }
    known |= {"kl_lower": divergence, "kl_upper": divergence, "tv_lower": divergence, "tv_upper": divergence}
    return {"ids": ids, "mask": mask} | {name: values + outside for name, values in known.items()}


def write_run(folder: Path, episodes: int, tokens: int) -> None:
    """A run folder with its rollouts, written file by file."""
    (folder / "rollouts").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed": 0}))
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": s, "trm/acceptance": 0.9}) + "\n" for s in range(40))
    )
    header = {"format": FORMAT, "version": VERSION, "settings": vars(TrmConfig(estimator="exact"))}
    schema = SCHEMA.with_metadata({"trm": json.dumps(header)})
    rng = np.random.default_rng(1)
    for first in range(0, episodes, EPISODES_A_FILE):
        numbers = range(first, min(episodes, first + EPISODES_A_FILE))
        rows = [arrays(rng, tokens if number % 7 else 2 * tokens) for number in numbers]
        columns: dict[str, Any] = {
            "step": [1 + number // 200 for number in numbers],
            "update": [0] * len(rows),
            "reward": rng.random(len(rows)),
            "accepted": rng.random(len(rows)) < 0.8,
            "prompt_ids": [np.arange(100)] * len(rows),
            "response_ids": [row.pop("ids") for row in rows],
            "response_mask": [row.pop("mask") for row in rows],
        }
        columns |= {name: [row[name] for row in rows] for name in rows[0]}
        filled = [pyarrow.array(columns.get(field.name, [None] * len(rows)), field.type) for field in schema]
        table = pyarrow.Table.from_arrays(filled, schema=schema)
        pyarrow.parquet.write_table(table, folder / "rollouts" / f"step_{first:06d}.parquet", compression="zstd")


def naive_page(path: Path, episodes: int, tokens: int, words: list[str]) -> None:
    """The baseline."""
    rng = np.random.default_rng(1)
    data = []
    for _ in range(episodes):
        row = arrays(rng, tokens)
        names = ("rollout_log_probs", "log_probs", "kl_upper")
        numbers = zip(*(row[name].tolist() for name in names), strict=True)
        data.append(
            [
                [words[token], *(values if sampled else (None, None, None))]
                for token, sampled, values in zip(row["ids"], row["mask"], numbers, strict=True)
            ]
        )
    path.write_text(NAIVE % json.dumps(data).replace("<", "\\u003c"))


def measure_page(path: Path) -> dict[str, float]:
    """Seconds, and the heap after opening the longest episode."""
    with launched("--enable-precise-memory-info") as browser, opened(browser, None) as found:
        page = found.page
        started = time.perf_counter()
        page.goto(path.as_uri() + "#view=episodes", wait_until="commit", timeout=600_000)
        page.wait_for_selector("#list .row", timeout=600_000)
        result = {"list": time.perf_counter() - started}
        page.wait_for_load_state("load", timeout=600_000)
        result["whole"] = time.perf_counter() - started
        result["filter"] = page.evaluate(_TIMED % "document.querySelector('[data-flag=rejected]').click()")
        page.click("[data-flag=rejected]")
        result["search"] = page.evaluate(_TIMED % (_SEARCH % "row 7"))
        page.evaluate(_TIMED % (_SEARCH % ""))
        page.select_option("#sort", "longest")
        page.keyboard.press("Escape")
        result["open first"] = page.evaluate(_OPENED)
        times = [page.evaluate(_OPENED) for _ in range(9)]
        result["open"] = sorted(times)[len(times) // 2]
        result["violation"] = page.evaluate(_VIOLATION)
        result["heap"] = page.evaluate("performance.memory.usedJSHeapSize") / 1e6
        result["memory"] = renderer_memory()
        assert not found.errors, found.errors
    return result


# each resolves with the seconds until the frame after the change was painted
_TIMED = """() => new Promise((done) => {
  const start = performance.now();
  %s;
  requestAnimationFrame(() => setTimeout(() => done((performance.now() - start) / 1000)));
})"""
_SEARCH = "const s = document.getElementById('search'); s.value = '%s'; s.dispatchEvent(new Event('input'))"
_OPENED = """() => new Promise((done) => {
  const old = document.querySelector(".episode-head");
  const start = performance.now();
  document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "j", bubbles: true }));
  const look = () => {
    const head = document.querySelector(".episode-head");
    const ready = head && head !== old && document.querySelector(".turns .t");
    if (ready) requestAnimationFrame(() => setTimeout(() => done((performance.now() - start) / 1000)));
    else setTimeout(look);
  };
  look();
})"""
_VIOLATION = """() => new Promise((done) => {
  const start = performance.now();
  document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "n", bubbles: true }));
  const look = () => {
    if (document.activeElement.classList.contains("violates")) done((performance.now() - start) / 1000);
    else setTimeout(look);
  };
  look();
})"""


def measure_naive(path: Path) -> dict[str, float]:
    """Seconds until it is painted, and the heap."""
    with launched("--enable-precise-memory-info") as browser, opened(browser, None) as found:
        page = found.page
        started = time.perf_counter()
        page.goto(path.as_uri(), wait_until="commit", timeout=600_000)
        page.wait_for_selector("body[data-ready]", state="attached", timeout=600_000)
        page.evaluate(_TIMED % "document.body.offsetHeight")
        whole = time.perf_counter() - started
        heap = page.evaluate("performance.memory.usedJSHeapSize") / 1e6
        return {"whole": whole, "heap": heap, "memory": renderer_memory()}


def renderer_memory() -> float:
    """Resident memory of the process that shows the page, MB: the page's text and elements are no part of the heap."""
    found = [child for child in psutil.Process().children(recursive=True) if "--type=renderer" in child.cmdline()]
    return max(child.memory_info().rss for child in found) / 1e6


def main() -> None:
    """Make both pages and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=30_000, help="of most episodes; every 7th has twice as many")
    parser.add_argument("--naive-episodes", type=int, default=10)
    asked = parser.parse_args()
    words = texts()
    with tempfile.TemporaryDirectory(prefix="trm-benchmark-") as name:
        folder = Path(name)
        write_run(folder / "run", asked.episodes, asked.tokens)
        write_tokenizer(folder / "run" / "checkpoints" / "global_step_1" / "actor" / "huggingface", words)
        report = build_report([folder / "run"], folder / "page.html", max_episodes=asked.episodes)
        ours = measure_page(report.path)
        naive_page(folder / "naive.html", asked.naive_episodes, asked.tokens, words)
        naive = measure_naive(folder / "naive.html")
        naive["size"] = (folder / "naive.html").stat().st_size / 1e6
    total = sum(asked.tokens * (1 if number % 7 else 2) for number in range(asked.episodes))
    print(f"{asked.episodes} episodes, {total / 1e6:.1f} million tokens, half of them the model's")
    print(f"  page made in              {report.seconds:8.1f} s, {report.num_bytes / 1e6:.1f} MB")
    rows = [
        ("list usable after", "list"),
        ("page read to its end after", "whole"),
        ("filter", "filter"),
        ("search", "search"),
    ]
    rows += [
        ("first episode open", "open first"),
        ("longest episode open, median of 9", "open"),
        ("next violation", "violation"),
    ]
    for label, key in rows:
        print(f"  {label:<34}{1000 * ours[key]:8.0f} ms")
    print(f"  {'heap':<34}{ours['heap']:8.0f} MB")
    print(f"  {'resident memory':<34}{ours['memory']:8.0f} MB")
    tokens = asked.naive_episodes * asked.tokens
    print(f"naive page, {asked.naive_episodes} episodes, {tokens / 1e6:.1f} million tokens")
    print(f"  {naive['size']:.1f} MB, painted after {naive['whole']:.1f} s")
    print(f"  heap {naive['heap']:.0f} MB, resident memory {naive['memory']:.0f} MB")
    print("a million tokens, naive / ours")
    for label, mine, theirs in (
        ("size, MB", report.num_bytes / 1e6, naive["size"]),
        ("until it can be used, s", ours["list"], naive["whole"]),
        ("heap, MB", ours["heap"], naive["heap"]),
        ("resident memory, MB", ours["memory"], naive["memory"]),
    ):
        left, right = theirs / tokens * 1e6, mine / total * 1e6
        print(f"  {label:<26}{left:10.3f} / {right:.4f} = {left / right:.0f}x")


if __name__ == "__main__":
    main()
