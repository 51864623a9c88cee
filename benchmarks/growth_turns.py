"""Time, memory and bytes of all that is not the model, by the length of an episode: 2k to 128k tokens, 2,000 turns.

python -m benchmarks.growth_turns [--env chain_math] [--tokens 2048 ... 131072] [--episodes 4] [--vllm] [--json FILE]

Episodes are played by a scripted engine through the episode loop; then the parts that hold them are called: a turn's
way to the rollout server, the rows of verl's queue, the dump, the report, an evaluation's store. Each length has a
process of its own, a fork of this one. Seconds are of the processor, the best of `--repeats`; memory is the largest
resident set beyond that before the part. The reference is the shortest length times the factor; the claim is an
exponent of at most 1.1 over the last doublings, of seconds, memory and bytes.

Beside it stands what is not linear: the whole context with each turn, as verl sends it, and with `--vllm` what vLLM
does with each request before it computes. There some turns stand for all.
"""

import argparse
import gc
import json
import math
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.exact_divergences import status_mib
from benchmarks.growth import exponents
from benchmarks.growth_episodes import ENVIRONMENTS, Work, prepared
from benchmarks.growth_parts import FOREIGN, PARTS, stride

LENGTHS = tuple(2**power for power in range(11, 18))
# 131,072 tokens in 2,000 turns
TURN_TOKENS = 65.5
MOST = 1.1
# lengths from whose doublings the exponent is fitted
LAST = 4
MIB = 2**20
TIMEOUT_S = 240


@dataclass(frozen=True)
class Cost:
    """What a part takes at a length, for one episode."""

    part: str
    tokens: float
    turns: float
    seconds: float
    """Of the processor."""
    mib: float
    """Largest resident set beyond that before the part, of all episodes."""
    num_bytes: float
    """That are sent or written; 0 for a part that does neither."""


def slope(tokens: Sequence[float], values: Sequence[float]) -> float:
    """Return the power of growth by least squares in the logarithms: 1 is linear, 2 quadratic.

    Args:
        tokens: lengths, two at least.
        values: positive, one for each.
    """
    x, y = [math.log(each) for each in tokens], [math.log(each) for each in values]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((each - mean_x) ** 2 for each in x)
    return sum((at - mean_x) * (value - mean_y) for at, value in zip(x, y, strict=True)) / spread


def measure(work: Work, repeats: int, with_vllm: bool) -> list[Cost]:
    """Measure every part in this process, the loop first, whose episodes the others take."""
    foreign = {name: part for name, part in FOREIGN.items() if with_vllm or not name.startswith("vLLM")}
    found = []
    for name, part in {**PARTS, **foreign}.items():
        runs = [_run(part, work) for _ in range(repeats)]
        share = stride(work.turns) if name in foreign else 1
        seconds = share * min(run[0] for run in runs) / len(work.episodes)
        num_bytes = share * (runs[0][2] or 0) / len(work.episodes)
        found.append(Cost(name, work.tokens, work.turns, seconds, max(run[1] for run in runs), num_bytes))
    return found


def _run(part: Callable[[Work], int | None], work: Work) -> tuple[float, float, int | None]:
    """Call a part; return its seconds, its memory and its bytes."""
    from trm_agent.verl_plugin.cpu.heap import trim_heap

    gc.collect()
    trim_heap()
    before = status_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    started = time.process_time()
    num_bytes = part(work)
    seconds = time.process_time() - started
    return seconds, status_mib("VmHWM") - before, num_bytes


def measure_alone(options: argparse.Namespace, tokens: int) -> list[Cost]:
    """`measure` in a fork of this process, after all parts were called once at a short length."""
    ours, theirs = multiprocessing.Pipe(duplex=False)

    def run() -> None:
        with tempfile.TemporaryDirectory(prefix="trm-benchmark-") as name:
            settings = options.tokenizer, options.env
            # each imports what it needs
            warm = prepared(Path(name), *settings, 512, 1, options.turn_tokens)
            measure(warm, 1, options.vllm)
        with tempfile.TemporaryDirectory(prefix="trm-benchmark-") as name:
            work = prepared(Path(name), *settings, tokens, options.episodes, options.turn_tokens)
            theirs.send([asdict(cost) for cost in measure(work, options.repeats, options.vllm)])

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    theirs.close()
    try:
        if not ours.poll(TIMEOUT_S):
            raise RuntimeError(f"{tokens} tokens: not measured within {TIMEOUT_S} s")
        return [Cost(**each) for each in ours.recv()]
    except EOFError:
        raise RuntimeError(f"{tokens} tokens: the process that measured ended with {process.exitcode}") from None
    finally:
        process.kill()
        process.join()


def by_part(costs: Sequence[Cost]) -> dict[str, list[Cost]]:
    """Return each part's costs, by growing length."""
    names = dict.fromkeys(cost.part for cost in costs)
    return {name: sorted((c for c in costs if c.part == name), key=lambda cost: cost.tokens) for name in names}


def fits(costs: Sequence[Cost]) -> dict[str, float]:
    """Return a part's exponents over the last doublings, of what it takes."""
    last = costs[-LAST:]
    columns = {"seconds": [c.seconds for c in last], "mib": [c.mib for c in last], "bytes": [c.num_bytes for c in last]}
    tokens = [cost.tokens for cost in last]
    return {name: slope(tokens, values) for name, values in columns.items() if len(last) > 1 and min(values) > 0}


def as_table(costs: Sequence[Cost]) -> str:
    """Return each part by length against the shortest one times the factor, and how it grows."""
    lines = []
    for name, own in by_part(costs).items():
        lines.append(name)
        lines.append(f"{'tokens':>9}{'turns':>7}{'s':>9}{'x shortest':>12}{'exponent':>10}{'MiB':>8}{'MB':>9}")
        powers = [f"{power:.2f}" for power in exponents([c.tokens for c in own], [c.seconds for c in own])]
        for cost, shown in zip(own, ["", *powers], strict=True):
            expected = own[0].seconds * cost.tokens / own[0].tokens
            figures = f"{cost.tokens:>9.0f}{cost.turns:>7.0f}{cost.seconds:>9.3f}{cost.seconds / expected:>12.2f}"
            lines.append(f"{figures}{shown:>10}{cost.mib:>8.1f}{cost.num_bytes / 1e6:>9.2f}")
        found = fits(own)
        told = ", ".join(f"{what} {power:.2f}" for what, power in found.items())
        if name in PARTS:
            told += f": {'linear' if max(found.values(), default=math.inf) <= MOST else 'NOT LINEAR'}"
        lines += [f"  exponents over the last {min(LAST, len(own))} lengths: {told}", ""]
    return "\n".join(lines)


def preload() -> None:
    """Import what the parts need, so that no fork counts it."""
    import torch

    torch.set_num_threads(1)
    for name in ("agent_loop", "episodes_worker", "contexts"):
        __import__(f"trm_agent.verl_plugin.rollout.{name}")
    __import__("trm_agent.report.build")


def main() -> None:
    """Measure, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", choices=tuple(ENVIRONMENTS), default="chain_math", help="(default: chain_math)")
    parser.add_argument("--tokens", type=int, nargs="+", default=list(LENGTHS), help="lengths (default: 2k to 128k)")
    parser.add_argument("--turn-tokens", type=float, default=TURN_TOKENS, help=f"of a turn (default: {TURN_TOKENS})")
    parser.add_argument("--episodes", type=int, default=4, help="at once (default: 4)")
    parser.add_argument("--repeats", type=int, default=2, help="calls, of which the fastest counts (default: 2)")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer's folder (default: the nano model's)")
    parser.add_argument("--vllm", action="store_true", help="also what vLLM does with each request")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    options = parser.parse_args()
    if options.tokenizer is None:
        from trm_agent.models.nano import ensure_nano_model
        from trm_agent.models.nano_spec import NanoSpec

        options.tokenizer = ensure_nano_model(NanoSpec())
    preload()
    costs: list[Cost] = []
    for tokens in sorted(set(options.tokens)):
        costs += measure_alone(options, tokens)
        print(f"{tokens} tokens: measured", file=sys.stderr, flush=True)
    print(as_table(costs))
    if options.json:
        options.json.write_text(json.dumps(as_json(options, costs), indent=2) + "\n")


def as_json(options: argparse.Namespace, costs: Sequence[Cost]) -> dict[str, Any]:
    """Return the figures with the exponents of each part."""
    parts = {name: {"exponents": fits(own), "costs": [asdict(c) for c in own]} for name, own in by_part(costs).items()}
    return {"env": options.env, "episodes": options.episodes, "turn_tokens": options.turn_tokens, "parts": parts}


if __name__ == "__main__":
    main()
