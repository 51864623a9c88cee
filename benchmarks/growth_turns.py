"""Time, memory and bytes of all that is not the model, by the length of an episode: 2k to 128k tokens, 2,000 turns.

python -m benchmarks.growth_turns [--env chain_math] [--tokens 2048 ... 131072] [--episodes 4] [--vllm] [--json FILE]

Episodes are played by a scripted engine through the episode loop; then the parts that hold them are called: a turn's
way to the rollout server, the rows of verl's queue, the dump, the report, an evaluation's store. Each length has
`--repeats` processes of its own, forks of this one. Seconds are of the processor, of the fastest. Memory is what Python
and NumPy allocate at most, counted by tracemalloc, in a further call; and the largest resident set beyond that before
the part, in the median, where PyTorch and Arrow count too, but also what an allocator has free from earlier parts: it
differs by megabytes from process to process. The reference is the shortest length times the factor; the claim is an
exponent of at most 1.1 over the last doublings, of seconds, bytes and memory, of a resident set from 32 MiB on. Exits
with 1 where a part does not hold it.

Beside it stands what is not linear: the whole context with each turn, as verl sends it, and with `--vllm` what vLLM
does with each request before it computes. There some turns stand for all.
"""

import argparse
import gc
import json
import math
import multiprocessing
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.exact_divergences import status_mib
from benchmarks.growth_episodes import ENVIRONMENTS, Work, prepared
from benchmarks.growth_fit import exponents, slope
from benchmarks.growth_parts import FOREIGN, PARTS, stride

LENGTHS = tuple(2**power for power in range(11, 18))
# 131,072 tokens in 2,000 turns
TURN_TOKENS = 65.5
MOST = 1.1
# lengths from whose doublings the exponent is fitted
LAST = 4
# of a resident set, below which its exponent is told and not judged
RESOLUTION_MIB = 32
MIB = 2**20
TIMEOUT_S = 240
HEAD = f"{'tokens':>9}{'turns':>7}{'s':>9}{'x shortest':>12}{'exponent':>10}{'allocated':>11}{'resident':>10}{'MB':>9}"


@dataclass(frozen=True)
class Cost:
    """What a part takes at a length, for one episode."""

    part: str
    tokens: float
    turns: float
    seconds: float
    """Of the processor, in the fastest process."""
    allocated_mib: float
    """That Python and NumPy allocate at most, for all episodes; 0 where it was not counted."""
    resident_mib: float
    """Largest resident set beyond that before the part, of all episodes; the median of the processes."""
    num_bytes: float
    """That are sent or written; 0 for a part that does neither."""


def measure(work: Work, with_vllm: bool, counts_allocations: bool) -> list[Cost]:
    """Measure every part in this process, the loop first, whose episodes the others take."""
    foreign = {name: part for name, part in FOREIGN.items() if with_vllm or not name.startswith("vLLM")}
    found = []
    for name, part in {**PARTS, **foreign}.items():
        seconds, resident_mib, num_bytes = _run(part, work)
        share = (stride(work.turns) if name in foreign else 1) / len(work.episodes)
        costs = 0.0, resident_mib, share * (num_bytes or 0)
        found.append(Cost(name, work.tokens, work.turns, share * seconds, *costs))
    if counts_allocations:  # afterwards, since counting takes time and memory of its own
        found = [
            replace(cost, allocated_mib=_allocated_mib(PARTS[cost.part], work)) if cost.part in PARTS else cost
            for cost in found
        ]
    return found


def joined(costs: Sequence[Cost]) -> Cost:
    """Return what several processes have measured of one part at one length as one; the first counts allocations."""
    least, middle = min(cost.seconds for cost in costs), statistics.median(cost.resident_mib for cost in costs)
    return replace(costs[0], seconds=least, resident_mib=middle)


def _allocated_mib(part: Callable[[Work], int | None], work: Work) -> float:
    """Call a part; return what Python and NumPy allocate at most."""
    gc.collect()
    tracemalloc.start()
    try:
        part(work)
        return tracemalloc.get_traced_memory()[1] / MIB
    finally:
        tracemalloc.stop()


def _run(part: Callable[[Work], int | None], work: Work) -> tuple[float, float, int | None]:
    """Call a part; return its seconds, its resident memory and its bytes."""
    from trm_agent.verl_plugin.cpu.heap import trim_heap

    gc.collect()
    trim_heap()
    before = status_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    started = time.process_time()
    num_bytes = part(work)
    seconds = time.process_time() - started
    return seconds, status_mib("VmHWM") - before, num_bytes


def measure_alone(options: argparse.Namespace, tokens: int, counts_allocations: bool) -> list[Cost]:
    """`measure` in a fork of this process, after all parts were called once at a short length."""
    ours, theirs = multiprocessing.Pipe(duplex=False)

    def run() -> None:
        with tempfile.TemporaryDirectory(prefix="trm-benchmark-") as name:
            settings = options.tokenizer, options.env
            # each imports what it needs
            warm = prepared(Path(name), *settings, 512, 1, options.turn_tokens)
            measure(warm, options.vllm, counts_allocations)
        with tempfile.TemporaryDirectory(prefix="trm-benchmark-") as name:
            work = prepared(Path(name), *settings, tokens, options.episodes, options.turn_tokens)
            theirs.send([asdict(cost) for cost in measure(work, options.vllm, counts_allocations)])

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
    columns = {
        "seconds": [cost.seconds for cost in last],
        "allocated": [cost.allocated_mib for cost in last],
        "resident": [cost.resident_mib for cost in last],
        "bytes": [cost.num_bytes for cost in last],
    }
    tokens = [cost.tokens for cost in last]
    return {name: slope(tokens, values) for name, values in columns.items() if len(last) > 1 and min(values) > 0}


def is_linear(costs: Sequence[Cost]) -> bool:
    """Return whether all that a part takes grows linearly, as far as it can be told."""
    is_large = max(cost.resident_mib for cost in costs) >= RESOLUTION_MIB
    powers = [power for name, power in fits(costs).items() if is_large or name != "resident"]
    return max(powers, default=math.inf) <= MOST


def as_table(costs: Sequence[Cost]) -> str:
    """Return each part by length against the shortest one times the factor, memory in MiB, and how it grows."""
    lines = []
    for name, own in by_part(costs).items():
        lines.append(name)
        lines.append(HEAD)
        powers = [f"{power:.2f}" for power in exponents([c.tokens for c in own], [c.seconds for c in own])]
        for cost, shown in zip(own, ["", *powers], strict=True):
            expected = own[0].seconds * cost.tokens / own[0].tokens
            figures = f"{cost.tokens:>9.0f}{cost.turns:>7.0f}{cost.seconds:>9.3f}{cost.seconds / expected:>12.2f}"
            memory = f"{cost.allocated_mib:>11.1f}{cost.resident_mib:>10.1f}"
            lines.append(f"{figures}{shown:>10}{memory}{cost.num_bytes / 1e6:>9.2f}")
        told = ", ".join(f"{what} {power:.2f}" for what, power in fits(own).items())
        if name in PARTS:
            told += f": {'linear' if is_linear(own) else 'NOT LINEAR'}"
        lines += [f"  exponents over the last {min(LAST, len(own))} lengths: {told}", ""]
    return "\n".join(lines)


def preload() -> None:
    """Import what the parts need, so that no fork counts it."""
    import torch

    torch.set_num_threads(1)
    for name in ("agent_loop", "episodes_worker", "contexts"):
        __import__(f"trm_agent.verl_plugin.rollout.{name}")
    __import__("trm_agent.report.build")


def main() -> int:
    """Measure, print the table, write the figures; return 1 if a part of ours is not linear."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", choices=tuple(ENVIRONMENTS), default="chain_math", help="(default: chain_math)")
    parser.add_argument("--tokens", type=int, nargs="+", default=list(LENGTHS), help="lengths (default: 2k to 128k)")
    parser.add_argument("--turn-tokens", type=float, default=TURN_TOKENS, help=f"of a turn (default: {TURN_TOKENS})")
    parser.add_argument("--episodes", type=int, default=4, help="at once (default: 4)")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each length (default: 3)")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer's folder (default: the nano model's)")
    parser.add_argument("--vllm", action="store_true", help="also what vLLM does with each request")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error(f"--repeats {options.repeats}: expected at least 1")
    if options.tokenizer is None:
        from trm_agent.models.nano import ensure_nano_model
        from trm_agent.models.nano_spec import NanoSpec

        options.tokenizer = ensure_nano_model(NanoSpec())
    preload()
    costs: list[Cost] = []
    for tokens in sorted(set(options.tokens)):
        measured = [measure_alone(options, tokens, number == 0) for number in range(options.repeats)]
        costs += [joined(part) for part in zip(*measured, strict=True)]
        print(f"{tokens} tokens: measured", file=sys.stderr, flush=True)
    print(as_table(costs))
    if options.json:
        options.json.write_text(json.dumps(as_json(options, costs), indent=2) + "\n")
    return int(not all(is_linear(own) for name, own in by_part(costs).items() if name in PARTS))


def as_json(options: argparse.Namespace, costs: Sequence[Cost]) -> dict[str, Any]:
    """Return the figures with the exponents of each part."""
    parts = {name: {"exponents": fits(own), "costs": [asdict(c) for c in own]} for name, own in by_part(costs).items()}
    return {"env": options.env, "episodes": options.episodes, "turn_tokens": options.turn_tokens, "parts": parts}


if __name__ == "__main__":
    sys.exit(main())
