"""What stale data does: learning with and without the mask, time a step, which tasks are lost, and kills.

python -m benchmarks.staleness [--parts learning spans cause wall kills] [--sides "no mask"] [--seeds 0 1 2] [--gather]

`learning`: the nano model in `colocate_async` and `separate_async`, with the trust region and with the same loss
without a mask; success, acceptance and divergence by lag and by span of versions. `spans`: these with the mask, where
each call of the tool waits, so that episodes take longer than a step and updates cut them. `cause`: what that success
hangs on, each side a run of `separate_async` with one thing changed: the mask, the age of the data, the rate, the
momentum, the updates a step.
`wall`: synchronous, both asynchronous modes and the strategy `drop` on tasks of which a quarter takes eight times as
long as the others, since each call of the tool waits; seconds a step, and the tasks that were trained on. `kills`: both
asynchronous modes, all processes killed at once in each phase of a step, and resumed. Runs of one seed follow each
other. A run is stored when it ends, and not made again: the same command goes on.
"""

import argparse
import signal
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from benchmarks.peers import commit
from benchmarks.staleness_cause import cause_table
from benchmarks.staleness_job import (
    CAUSE,
    KILLS,
    LEARNING,
    SIDES,
    SPANS,
    STEPS,
    WALL,
    WORKLOADS,
    Job,
    Result,
    read_result,
)
from benchmarks.staleness_learning import learning_table
from benchmarks.staleness_runs import make_run
from benchmarks.staleness_tables import kept_table, kills_table, wall_table

TABLES = {
    LEARNING: (learning_table,),
    SPANS: (learning_table,),
    CAUSE: (cause_table,),
    WALL: (wall_table, kept_table),
    KILLS: (kills_table,),
}


def main() -> None:
    arguments = parsed()
    # so that a run that is cut off leaves no process
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    results = arguments.out / "results"
    results.mkdir(parents=True, exist_ok=True)
    if not arguments.gather:
        wanted = jobs(
            arguments.parts, arguments.seeds, arguments.steps, arguments.tool_ms, commit(), sides=arguments.sides
        )
        for number, job in enumerate(missing(wanted, results)):
            if number == arguments.runs:
                break
            print(time.strftime("%H:%M:%S"), job.name, flush=True)
            folder = arguments.out / "runs" / f"{job.name}-{time.strftime('%H%M%S')}"
            make_run(job, folder, arguments.timeout).write(results / f"{job.name}.json")
    print(tables([read_result(path) for path in sorted(results.glob("*.json"))]) or f"{results}: nothing is stored")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=STEPS, default=list(STEPS), help="what to run (default all)")
    parser.add_argument("--sides", nargs="+", metavar="NAME", help="make only these sides of the parts")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="kills take the first (default 0 1 2)")
    parser.add_argument("--steps", type=int, help="training steps of each run but the killed ones (default 20 and 12)")
    parser.add_argument(
        "--tool-ms", type=int, default=1000, help="milliseconds of a call in spans, wall and kills (%(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/staleness"), help="folder of the results (%(default)s)")
    parser.add_argument("--runs", type=int, help="make at most so many of the missing runs now")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds that one run may take (default 900)")
    parser.add_argument("--gather", action="store_true", help="print what is stored and make nothing")
    arguments = parser.parse_args()
    if arguments.steps is not None and arguments.steps < 2:
        parser.error(f"--steps: got {arguments.steps}; allowed: 2 or more, since the first begins with the start")
    known = {side for part in arguments.parts for side in SIDES[part]}
    if unknown := sorted(set(arguments.sides or ()) - known):
        parser.error(f"--sides: got {', '.join(unknown)}; allowed: {', '.join(sorted(known))}")
    return arguments


def jobs(
    parts: Sequence[str],
    seeds: Sequence[int],
    steps: int | None,
    tool_ms: int,
    code: str,
    *,
    sides: Collection[str] | None = None,
) -> Iterator[Job]:
    """Yield all runs in the order in which they are made: the sides of a part with one seed follow each other.

    Args:
        parts: of the benchmark.
        seeds: of the runs; a kill in each phase takes the first.
        steps: of each run; None: as many as its part has. Runs that are killed always have their own number.
        tool_ms: milliseconds of a call of a slow tool.
        code: version of the code.
        sides: the only ones to yield, in the order of their part; None: all.
    """
    for part in parts:
        for seed in seeds[:1] if part == KILLS else seeds:
            for side in (name for name in SIDES[part] if sides is None or name in sides):
                number = STEPS[part] if steps is None or part == KILLS else steps
                yield Job(part, side, seed, number, tool_ms, code)


def missing(wanted: Iterator[Job], results: Path) -> Iterator[Job]:
    """Yield the runs that are not stored."""
    return (job for job in wanted if not (results / f"{job.name}.json").exists())


def tables(results: Sequence[Result]) -> str:
    """Format the tables of all that is stored; runs of another length, tool or code have tables of their own."""
    groups: dict[tuple[str, int, int, str], list[Result]] = {}
    for result in results:
        job = result.job
        tool_ms = job.tool_ms if WORKLOADS[job.part].has_slow_tool else 0
        groups.setdefault((job.part, job.steps, tool_ms, job.commit), []).append(result)
    texts = []
    for (part, steps, tool_ms, code), same in groups.items():
        tool = f", {tool_ms} ms a call" if tool_ms else ""
        texts += [f"{part}, {steps} steps{tool} ({code})", *(table(same) for table in TABLES[part])]
    return "\n\n".join(texts)


if __name__ == "__main__":
    main()
