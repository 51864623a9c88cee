"""The same job on TRL and on ours, in turn: seconds a step, start, memory, success by step and held out.

python -m benchmarks.peers [--pairs 3] [--steps 16] [--seeds 0 1 2] [--tool-ms 0 50] [--turns 4] [--python PATH]

Both: the nano model, ChainMath of horizons 2, 4, 6 (the same tasks in the same order, prompts equal token by token),
16 tasks x 8 episodes a step, float32, and the settings of `benchmarks/peers_job.py`. Pair i is our run, then TRL's,
with the i-th seed. TRL (pinned) gets an environment of its own. A run is stored when it ends, and not made again: the
same command goes on. With --turns the two runs of a pair have the machine by turns, so that both meet the same one
where a host gives now more, now less of it. On an idle machine a pair of 16 steps takes four minutes, with a tool of
50 ms ten.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.peers_install import TRL_VERSION, trl_python
from benchmarks.peers_job import OURS, SIDES, TRL, Job, Result, read_result
from benchmarks.peers_sides import ROOT, environment, make_run
from benchmarks.peers_tables import learning_table, pairs_of, time_table
from benchmarks.peers_turns import Turns
from benchmarks.peers_watch import run_watched
from trm_agent.models.making import cache_root
from trm_agent.models.nano import ensure_nano_model
from trm_agent.models.nano_spec import NanoSpec

HELD_OUT = "held-out"
HELD_OUT_HORIZONS = ("4", "8")


def main() -> None:
    arguments = parsed()
    # so that a run that is cut off leaves no process
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    results = arguments.out / "results"
    results.mkdir(parents=True, exist_ok=True)
    if not arguments.gather:
        python = arguments.python or trl_python(arguments.environment)
        model = str(ensure_nano_model(NanoSpec()))
        for number, together in enumerate(missing(jobs(arguments), results, at_once=bool(arguments.turns))):
            if number == arguments.runs:
                break
            print(time.strftime("%H:%M:%S"), *(job.name for job in together), flush=True)
            folders = [arguments.out / "runs" / f"{job.name}-{time.strftime('%H%M%S')}" for job in together]
            for result in make_together(together, folders, model, python, arguments):
                result.write(results / f"{result.job.name}.json")
        else:
            for pair in pairs_of(stored(results)).values():
                play_held_out(pair, arguments.held_out, results)
    print_tables(results)


def make_together(
    jobs: list[Job], folders: list[Path], model: str, python: str, arguments: argparse.Namespace
) -> list[Result]:
    """Make one run, or by turns both of a pair."""
    turns = Turns(len(jobs), arguments.turns)
    run = turns.run if arguments.turns else run_watched

    def make(job: Job, folder: Path) -> Result:
        try:
            return make_run(job, model, python, folder, arguments.timeout, run)
        except BaseException as error:
            turns.abandon(error)
            raise

    with ThreadPoolExecutor(len(jobs)) as threads:
        return list(threads.map(make, jobs, folders))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3, help="pairs for each tool (default 3)")
    parser.add_argument("--steps", type=int, default=16, help="training steps of each run (default 16)")
    parser.add_argument("--seeds", type=int, nargs="+", help="taken in turn (default: 0, 1, ... one for each pair)")
    parser.add_argument("--tool-ms", type=int, nargs="+", default=[0, 50], help="milliseconds of a call (default 0 50)")
    parser.add_argument("--python", help="Python of an environment that has TRL (default: one is made)")
    made = cache_root() / "peers" / f"trl-{TRL_VERSION}"
    parser.add_argument("--environment", type=Path, default=made, help="where it is made (default: in our cache)")
    parser.add_argument("--out", type=Path, default=Path("runs/peers"), help="folder of the results (%(default)s)")
    parser.add_argument("--runs", type=int, help="make at most so many of the missing runs now")
    parser.add_argument("--timeout", type=float, default=1200.0, help="seconds that one run may take (default 1200)")
    parser.add_argument(
        "--held-out", type=int, default=128, help="held-out tasks of a horizon, 0 for none (default 128)"
    )
    parser.add_argument(
        "--turns", type=float, default=0.0, metavar="S", help="run both sides of a pair at once, by turns of S seconds"
    )
    parser.add_argument("--gather", action="store_true", help="print what is stored and make nothing")
    arguments = parser.parse_args()
    if arguments.turns and any(arguments.tool_ms):
        parser.error("--turns: only with --tool-ms 0, since a tool that waits goes on while its run is stopped")
    return arguments


def jobs(arguments: argparse.Namespace) -> Iterator[Job]:
    """Yield all runs in the order in which they are made."""
    seeds = arguments.seeds or list(range(arguments.pairs))
    for pair in range(arguments.pairs):
        for tool_ms in arguments.tool_ms:
            for side in SIDES:
                yield Job(side, seeds[pair % len(seeds)], arguments.steps, tool_ms, pair, commit(), arguments.turns)


def missing(wanted: Iterator[Job], results: Path, at_once: bool) -> Iterator[list[Job]]:
    """Yield the runs that are not stored, one by one, or both of a pair."""
    size = len(SIDES) if at_once else 1
    for first in wanted:
        together = [first, *islice(wanted, size - 1)]
        if not all((results / f"{job.name}.json").exists() for job in together):
            yield together


def commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def stored(results: Path) -> list[Result]:
    files = sorted(path for path in results.glob("*.json") if not path.name.startswith(HELD_OUT))
    return [read_result(path) for path in files]


def play_held_out(pair: dict[str, Result], tasks: int, results: Path) -> None:
    """Play the same held-out tasks with the models of a pair whose tool costs nothing, if that was not done."""
    file = results / f"{HELD_OUT}-{pair[OURS].job.name}.json"
    if not tasks or file.exists() or pair[OURS].job.tool_ms:
        return
    command = [sys.executable, "-m", "trm_agent.cli", "eval", f"{TRL}={pair[TRL].model}", f"{OURS}={pair[OURS].model}"]
    command += ["--env", "chain_math", "--horizons", *HELD_OUT_HORIZONS, "--samples", "1", "--json"]
    command += ["--tasks", str(tasks * len(HELD_OUT_HORIZONS)), "--concurrency", "128"]
    command += ["--out", str(Path(pair[TRL].model).parent / f"eval-{os.getpid()}")]
    played = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=600)
    if played.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {played.returncode}: {played.stderr[-1500:]}")
    file.write_text(played.stdout, encoding="utf-8")


def held_out_table(results: Path) -> str:
    """Format success on held-out tasks, and the difference on the same tasks with its interval."""
    lines = []
    for path in sorted(results.glob(f"{HELD_OUT}-*.json")):
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        lines.append(path.stem.removeprefix(f"{HELD_OUT}-").removesuffix(f"-{OURS}"))
        for row in summary["results"]:
            told = "  ".join(f"horizon {each['horizon']} {_percent(each['success'])}" for each in row["by_horizon"])
            lines.append(f"  {row['checkpoint']:<6}{told}")
        for row in summary["comparisons"]:
            ends = f"[{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
            lines.append(f"  ours - TRL {100 * row['difference']:+.1f} {ends}, p = {row['p_value']:.2g}")
    return "\n".join(lines)


def _percent(rate: dict[str, float]) -> str:
    return f"{100 * rate['value']:.1f} % [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"


def print_tables(results: Path) -> None:
    found = stored(results)
    if not found:
        print(f"{results}: nothing is stored")
        return
    for side in SIDES:
        versions = {tuple(sorted(each.versions.items())) for each in found if each.job.side == side}
        print(
            *(f"{side}: {', '.join(f'{name} {number}' for name, number in each)}" for each in sorted(versions)),
            sep="\n",
        )
    print(f"\n{time_table(found)}\n\n{learning_table(found)}")
    if told := held_out_table(results):
        print(f"\nheld-out success, 95 % intervals over tasks\n{told}")


if __name__ == "__main__":
    main()
