"""The same episodes through four paths, and the cost of a turn by hop.

python -m benchmarks.rollout [--model nano|FOLDER] [--episodes 128] [--turns 8] [--delay-ms 0] [--paths ...]
                             [--variant "hardware.agent_loops=workers" ...]

scripted       recorded turns instead of a model: the episode loop and the environments alone
engine alone   vLLM with the recorded pattern of turns and lengths: no loop, no environment, no chat template
in the caller  the engine in the caller's process, as `trm eval` plays
full stack     verl's trainer, agent loops and server on Ray: the batches of a validation, which take the way of a
               training batch

The first three have the same turns of the same lengths; the full stack plays the same tasks for the same number of
turns with a seed of its own, so its turns have other tokens: compare tokens a second. A hop's time is the time that a
turn spends in it, waiting for its turn included, not the processor's time.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

FULL_STACK = "full stack"
PATHS = ("scripted", "engine alone", "in the caller", FULL_STACK)
WIDTH = 15


def main() -> None:
    """Play and print."""
    arguments = _arguments()
    # before torch and vLLM are imported; as the rollout's processes have it in training
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from benchmarks.rollout_hops import Batch, batches
    from benchmarks.rollout_paths import Paths, Workload, full_stack
    from benchmarks.rollout_probe import Event

    workload = Workload(arguments.model, arguments.episodes, arguments.turns, arguments.delay_ms, arguments.batches + 1)
    print(
        f"{arguments.model}: {workload.episodes} episodes at once, {workload.turns} turns, tool {workload.delay_ms:g} "
        f"ms, OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}; the medians of {arguments.batches} batches after one"
    )
    found: dict[str, list[Batch]] = {}

    def add(name: str, events: Sequence[Event]) -> None:
        measured = batches(events, workload.episodes)[1:]
        if not measured:
            raise RuntimeError(f"{name}: no batch of {workload.episodes} episodes after the first was seen")
        found[name] = measured

    if set(arguments.paths) != {FULL_STACK}:
        log = Path(tempfile.mkdtemp(prefix="trm-benchmark-")) / "vllm.log"
        events = asyncio.run(Paths(workload).all(log))
        for name in PATHS[:-1]:
            add(name, events[name])
        table(found)
    if FULL_STACK in arguments.paths:
        add(FULL_STACK, full_stack(workload))
        for number, given in enumerate(arguments.variant, 1):
            print(f"variant {number}: the full stack with {given}")
            add(f"variant {number}", full_stack(workload, given.split()))
        table(found)


def table(found: dict[str, Sequence]) -> None:
    """Print the medians over each path's batches."""
    from benchmarks.rollout_hops import HOPS, Batch

    def line(title: str, form: str, value: Callable[[Batch], float | None]) -> None:
        cells = []
        for path in found.values():
            values = [value(batch) for batch in path]
            known = [number for number in values if number is not None]
            cells.append(format(statistics.median(known), form) if known else "-")
        print(f"{title:<34}" + "".join(f"{cell:>{WIDTH}}" for cell in cells), flush=True)

    print(f"{'':<34}" + "".join(f"{name:>{WIDTH}}" for name in found))
    line("seconds", ".2f", lambda batch: batch.seconds)
    line("  around the episodes", ".2f", lambda batch: batch.around)
    line("turns", ".0f", lambda batch: batch.turns)
    line("sampled tokens", ".0f", lambda batch: batch.tokens)
    line("sampled tokens a second", ".0f", lambda batch: batch.tokens / batch.seconds)
    if "engine alone" in found:
        rate = statistics.median(batch.tokens / batch.seconds for batch in found["engine alone"])
        line("  of the engine alone's, %", ".0f", lambda batch: 100 * batch.tokens / batch.seconds / rate)
    line("the engine computes, % of the time", ".0f", lambda batch: batch.busy and 100 * batch.busy)
    line("sequences in a step of the engine", ".1f", lambda batch: batch.sequences)
    print("ms of a turn")
    for hop in HOPS:
        line(f"  {hop}", ".1f", lambda batch, hop=hop: 1e3 * batch.hops[hop] if hop in batch.hops else None)
    line("  all hops", ".1f", lambda batch: 1e3 * sum(batch.hops.values()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="nano", help="nano (default), or the folder of a Hugging Face model")
    parser.add_argument("--episodes", type=int, default=128, help="episodes at once (default 128)")
    parser.add_argument("--turns", type=int, default=8, help="turns of an episode, 1 to 48 (default 8)")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="time of the tool in each turn (default 0)")
    parser.add_argument("--batches", type=int, default=2, help="batches measured after the first (default 2)")
    parser.add_argument("--paths", nargs="*", choices=PATHS, default=PATHS, help="default: all")
    parser.add_argument(
        "--variant", action="append", default=[], help="overrides of another full stack beside it; may be repeated"
    )
    arguments = parser.parse_args()
    for name, least in (("episodes", 1), ("turns", 1), ("batches", 1), ("delay_ms", 0)):
        if getattr(arguments, name) < least:
            parser.error(f"--{name.replace('_', '-')}={getattr(arguments, name)}: give {least} or more")
    return arguments


if __name__ == "__main__":
    main()
