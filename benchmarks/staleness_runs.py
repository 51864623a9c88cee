"""Makes one run of `staleness`, and reads what it left."""

import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.peers_sides import environment
from benchmarks.peers_watch import run_watched
from benchmarks.staleness_job import KILLS, SEPARATE, SIDES, WORKLOADS, Episode, Job, Result, overrides
from benchmarks.staleness_kills import Phases, kill_in_phase, resumed_after
from trm_agent.runs.folder import read_metrics

# what the tables are made of
_KEPT = re.compile(
    r"step|time|timing_s/.*|actor/grad_norm|run/.*|trm/(acceptance|kept_tokens|token_kl_m(ax|ean)|num_sequences)"
    r"|trm/(acceptance_(positive|negative|length_q.)|contribution_.*)|trm/.*_(lag|span)_.|trm/num_tokens_depth_.*"
    r"|env/(success|num_episodes|infrastructure_failures|evicted_.*|turns/.*|paused_s/mean)|env/val_success/.*"
)
# drawn for a step, those ahead of it and those in the place of dropped ones
_DRAWN_A_STEP = 6


def command(job: Job, run_dir: Path) -> list[str]:
    """Return the command of a run."""
    return [sys.executable, "-m", "trm_agent.train", *overrides(job, run_dir)]


def make_run(job: Job, folder: Path, timeout_s: float) -> Result:
    """Make a run, and where its part says so, kill it in between and let it go on.

    Args:
        job: the run.
        folder: for logs; must not exist.
        timeout_s: after which the run is ended, both times.

    Raises:
        RuntimeError: the run failed.
        TimeoutError: it took longer, or never came into the phase in which it is to be killed.
    """
    folder.mkdir(parents=True)
    run_dir = folder / "run"
    given = command(job, run_dir)
    killed = None
    if job.part == KILLS:
        phases = Phases(run_dir, each_update_waits=SIDES[job.part][job.side].mode == SEPARATE)
        killed = kill_in_phase(job.phase, given, phases, folder / "killed.txt", timeout_s)
    ran = run_watched(given, environment(), folder / "log.txt", timeout_s)
    kill = resumed_after(run_dir, *killed) if killed else None
    has_dumps = WORKLOADS[job.part].has_slow_tool
    episodes = tuple(episodes_of(run_dir / "rollouts", job)) if has_dumps else ()
    rows = tuple(kept(row) for row in read_metrics(run_dir))
    for name in ("rollouts", "tensorboard", "checkpoints"):
        shutil.rmtree(run_dir / name, ignore_errors=True)
    return Result(job, rows, episodes, ran.others, kill)


def kept(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the tables need of a row of metrics.jsonl."""
    return {name: value for name, value in row.items() if _KEPT.fullmatch(name)}


def episodes_of(dumps: Path, job: Job) -> Iterator[Episode]:
    """Yield the episodes of a run's dumps.

    Raises:
        ValueError: an episode is of no task that the run can have drawn.
    """
    import pyarrow.parquet

    from trm_agent.tasks import TRAIN, task_seed

    most = WORKLOADS[job.part].tasks * _DRAWN_A_STEP * (job.steps + 1)
    numbers = {task_seed(job.seed, TRAIN, number): number for number in range(most)}
    for file in sorted(dumps.glob("*.parquet")):
        columns = ["step", "update", "response_mask", "episode"]
        for row in pyarrow.parquet.read_table(file, columns=columns).to_pylist():
            record = json.loads(row["episode"])
            if record["seed"] not in numbers:
                raise ValueError(f"{file}: the task seed {record['seed']} is none of the first {most} of the run")
            yield Episode(
                step=row["step"],
                update=row["update"],
                task=numbers[record["seed"]],
                horizon=record["options"]["horizon"],
                turns=len(record["turns"]),
                tokens=len(row["response_mask"]),
                seconds=record["timings"]["generate"] + record["timings"]["env"],
            )
