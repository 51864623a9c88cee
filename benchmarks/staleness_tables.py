"""Tables of `staleness`: where the time of a step goes, which tasks were trained on, and what kills left."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter

from benchmarks.staleness_figures import (
    WARM,
    Measure,
    by_side,
    grid,
    mean_of,
    seconds_a_step,
    seconds_in,
    shown,
    steps_of,
)
from benchmarks.staleness_job import LONG, SYNC, WORKLOADS, Episode, Kill, Result

TIMERS = {
    "waits for episodes, s": ("start", "gen"),
    "updates, s": ("old_log_prob", "adv", "update_actor"),
    "weights, s": ("update_weights",),
}


def spread(of: Callable[[Episode], float], result: Result) -> float | None:
    """Return how many times the median the longest episode of a step is, the median over the steps."""
    steps: dict[int, list[float]] = {}
    for episode in result.episodes:
        steps.setdefault(episode.step, []).append(of(episode))
    if not steps:
        return None
    return statistics.median(max(lengths) / statistics.median(lengths) for lengths in steps.values())


WALL_MEASURES = (
    Measure("seconds a step", seconds_a_step, ".2f"),
    *(Measure(name, partial(seconds_in, timers), ".2f") for name, timers in TIMERS.items()),
    Measure("of its waits for old tasks, s", partial(mean_of, "run/stale_wait_s", steps=slice(WARM, None)), ".2f"),
    Measure("longest by median: seconds", partial(spread, attrgetter("seconds")), ".1f"),
    Measure("turns", partial(spread, attrgetter("turns")), ".1f"),
    Measure("tokens", partial(spread, attrgetter("tokens")), ".1f"),
    Measure("other work", attrgetter("others"), ".2f"),
)


def wall_table(results: Sequence[Result]) -> str:
    """Format seconds a step and where they go, a line a run and one a side, with the ratio to the synchronous run."""
    sides = by_side(results)
    synchronous = {run.job.seed: seconds_a_step(run) for run in sides.get(SYNC, [])}

    def by_synchronous(run: Result) -> float | None:
        mine, other = seconds_a_step(run), synchronous.get(run.job.seed)
        return mine / other if mine and other else None

    measures = (*WALL_MEASURES, Measure("by synchronous", by_synchronous, ".2f"))

    def line(name: str, runs: Sequence[Result]) -> list[str]:
        return [name, *(shown([measure.of(run) for run in runs], measure.form) for measure in measures)]

    lines = [line(f"{side}, seed {run.job.seed}", [run]) for side, runs in sides.items() for run in runs]
    means = [line(f"{side}, {len(runs)} runs", runs) for side, runs in sides.items() if len(runs) > 1]
    return grid(["", *(measure.label for measure in measures)], [*lines, *means])


@dataclass(frozen=True)
class Audit:
    """What became of the tasks that a run had to train on: those of all steps but one, drawn first."""

    due: int
    lost: tuple[int, ...]
    """Numbers of those of which no episode was trained on."""
    twice: tuple[int, ...]
    """Numbers of tasks that two updates or more were made on, due or not."""
    lacking: int
    """Episodes that the due tasks which were trained on do not have, failures of the infrastructure among them."""


def audit(result: Result) -> Audit:
    """Return what became of the tasks.

    With one batch ahead, the first tasks, as many as all steps but one take, have reached every threshold up to 3 by
    the last step: a run that loses nothing has trained on each.
    """
    work = WORKLOADS[result.job.part]
    due = range((result.job.steps - 1) * work.tasks)
    places: dict[int, set[tuple[int, int]]] = {}
    numbers: dict[int, int] = {}
    for episode in result.episodes:
        places.setdefault(episode.task, set()).add((episode.step, episode.update))
        numbers[episode.task] = numbers.get(episode.task, 0) + 1
    return Audit(
        due=len(due),
        lost=tuple(task for task in due if task not in numbers),
        twice=tuple(sorted(task for task, found in places.items() if len(found) > 1)),
        lacking=sum(max(0, work.group - numbers[task]) for task in due if task in numbers),
    )


def kept_table(results: Sequence[Result]) -> str:
    """Format how many episodes of the same tasks each side trained on, and what the strategy `drop` lost by length."""
    head = ["", "tasks due", "lost, short", "lost, long", "episodes lost", "episodes that failed", "evicted episodes"]
    head += [f"evicted, length q{quarter}" for quarter in range(1, 5)]
    lines = []
    for side, runs in by_side(results).items():
        group, horizons = WORKLOADS[runs[0].job.part].group, WORKLOADS[runs[0].job.part].horizons
        audits = [audit(run) for run in runs]
        lost = [task for each in audits for task in each.lost]
        long = sum(horizons[task % len(horizons)] == LONG for task in lost)
        totals = [f"env/{name}" for name in ("infrastructure_failures", "evicted_episodes")]
        failed, evicted = (sum(row.get(name) or 0 for run in runs for row in steps_of(run)) for name in totals)
        # of the steps in which some were evicted
        dropping = [row for run in runs for row in steps_of(run) if row.get("env/evicted_episodes")]
        shares = [[row.get(f"env/evicted_length_q{quarter}") for row in dropping] for quarter in range(1, 5)]
        missing = len(lost) * group + sum(each.lacking for each in audits)
        counts = (sum(each.due for each in audits), len(lost) - long, long, missing, failed, evicted)
        lines.append([side, *(f"{count:.0f}" for count in counts), *(shown(each, ".0%") for each in shares)])
    return grid(head, lines)


@dataclass(frozen=True)
class Aftermath:
    """What a kill left."""

    kill: Kill
    steps: tuple[int, ...]
    """Steps that the run told of; each once, where nothing went wrong."""
    tasks: int
    """Number of tasks that were trained on."""
    audit: Audit
    failed: float
    """Episodes that could not be played."""


def aftermath(run: Result) -> Aftermath:
    """Return what a kill left."""
    assert run.kill is not None, "a run of this part is killed"
    rows = steps_of(run)
    return Aftermath(
        kill=run.kill,
        steps=tuple(row["step"] for row in rows),
        tasks=len({episode.task for episode in run.episodes}),
        audit=audit(run),
        failed=sum(row.get("env/infrastructure_failures") or 0 for row in rows),
    )


def kills_table(results: Sequence[Result]) -> str:
    """Format what a kill in each phase left."""
    head = ["killed in", "step", "resumed after", "steps told", "tasks trained on", "twice", "due and lost"]
    head += ["episodes lacking", "failed", "stopped too late"]
    lines = []
    for side, runs in by_side(results).items():
        for run in runs:
            left = aftermath(run)
            whole = left.steps == tuple(range(1, run.job.steps + 1))
            steps = f"1 to {run.job.steps}" if whole else ", ".join(map(str, left.steps))
            counts = (left.tasks, len(left.audit.twice), len(left.audit.lost), left.audit.lacking)
            last = (f"{left.failed:.0f}", str(left.kill.too_late))
            lines.append([side, str(left.kill.step), str(left.kill.resumed_after), steps, *map(str, counts), *last])
    return grid(head, lines)
