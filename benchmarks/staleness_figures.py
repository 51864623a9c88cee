"""Figures of a run of `staleness`, from the rows of its metrics, and how a table shows them."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from benchmarks.staleness_job import SIDES, WALL, Result

Row = Mapping[str, Any]
WARM = 2
"""First steps that are left out of the seconds a step."""


@dataclass(frozen=True)
class Measure:
    """A line of a table: what it tells of a run."""

    label: str
    of: Callable[[Result], float | None]
    """None where the run has no such number."""
    form: str = ".1%"


def steps_of(result: Result) -> list[Row]:
    """Return the rows of the training steps, in order."""
    return sorted((row for row in result.rows if "timing_s/step" in row), key=lambda row: row["step"])


def mean_of(name: str, result: Result, steps: slice = slice(None), absent: float | None = None) -> float | None:
    """Return the mean of a metric over steps.

    Args:
        name: the metric.
        result: the run.
        steps: of the training steps, in order.
        absent: what a step without it counts as; None: it does not count.
    """
    values = [row.get(name, absent) for row in steps_of(result)[steps]]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def num_tokens(row: Row) -> float:
    """Return the tokens of a step's updates, their mean."""
    return sum(value for name, value in row.items() if name.startswith("trm/num_tokens_depth_"))


def num_sequences(row: Row) -> float:
    """Return the sequences of a step's updates, their mean."""
    return float(row.get("trm/num_sequences", 0.0))


def weighted(name: str, size: Callable[[Row], float], result: Result, share: str | None = None) -> float | None:
    """Return the mean of a metric over steps, each with the weight of what the metric is of.

    Args:
        name: the metric.
        size: tokens or sequences of a step.
        result: the run.
        share: metric that says which share of them it is of; None: all.
    """
    pairs = [
        (row[name], size(row) * (1.0 if share is None else row.get(share, 0.0)))
        for row in steps_of(result)
        if row.get(name) is not None
    ]
    total = sum(weight for _, weight in pairs)
    return sum(value * weight for value, weight in pairs) / total if total else None


def most_of(name: str, result: Result) -> float | None:
    """Return the largest value of a metric."""
    return max((row[name] for row in steps_of(result) if row.get(name) is not None), default=None)


def step_seconds(result: Result) -> list[float]:
    """Return the seconds of each step after the warm ones, from row to row; validation and checkpoint left out."""
    rows = steps_of(result)
    took = [
        later["time"] - before["time"] - later.get("timing_s/testing", 0.0) - later.get("timing_s/save_checkpoint", 0.0)
        for before, later in pairwise(rows)
    ]
    # a run of two steps has nothing to leave out
    return took[WARM - 1 :] or took


def seconds_a_step(result: Result) -> float | None:
    took = step_seconds(result)
    return statistics.fmean(took) if took else None


def seconds_in(names: Iterable[str], result: Result) -> float:
    """Return the mean seconds a step of some of verl's timers."""
    return sum(mean_of(f"timing_s/{name}", result, slice(WARM, None), absent=0.0) or 0.0 for name in names)


def shown(values: Sequence[float | None], form: str) -> str:
    """Format the mean of what runs have, with the least and the largest; "-" if none has any."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    text = f"{statistics.fmean(known):{form}}"
    return text if len(known) == 1 else f"{text} ({min(known):{form}} to {max(known):{form}})"


def by_side(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Return the runs of each side of a part, by seed, sides in the order of the part."""
    found: dict[str, list[Result]] = {}
    for result in sorted(results, key=lambda each: each.job.seed):
        found.setdefault(result.job.side, []).append(result)
    part = next((sides[0].job.part for sides in found.values()), WALL)
    return {side: found[side] for side in SIDES[part] if side in found}


def grid(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Format a table of Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
