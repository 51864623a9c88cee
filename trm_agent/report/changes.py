"""The change of a share between two sets of episodes, with its interval over their tasks."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from trm_agent.evaluate.statistics.paired import student_quantile
from trm_agent.runs.rates import newcombe

Outcomes = Iterable[tuple[object, bool]]
"""Task and outcome of each episode; an episode whose task is None counts as a task of its own."""


def change(before: Outcomes, after: Outcomes) -> tuple[float, float, float] | None:
    """Return the change of a share with a 95 % interval, or None where a side has fewer than two tasks.

    Welch's t over the tasks' shares, since episodes of one task share its difficulty; where no task differs from the
    others on either side, Newcombe's interval with the tasks as trials. Tasks may differ between the sides.

    Returns:
        The mean of the tasks' shares after, minus before, and the interval's ends; from -1 to 1.
    """
    old, new = _shares(before), _shares(after)
    if min(len(old), len(new)) < 2:
        return None
    if len({*old}) == len({*new}) == 1:
        return new[0] - old[0], *newcombe(old[0], len(old), new[0], len(new))
    difference, low, high = welch(old, new)
    return difference, max(-1.0, low), min(1.0, high)


def welch(old: Sequence[float], new: Sequence[float]) -> tuple[float, float, float]:
    """Return the difference of two means, new minus old, with its 95 % interval; each of at least two values."""
    (old_mean, old_error), (new_mean, new_error) = _mean(old), _mean(new)
    difference, error = new_mean - old_mean, old_error + new_error
    # values that are all alike differ by what rounding left
    if math.sqrt(error) <= 1e-12 * max(abs(old_mean), abs(new_mean)):
        return difference, difference, difference
    degrees = error**2 / (old_error**2 / (len(old) - 1) + new_error**2 / (len(new) - 1))
    half = student_quantile(max(1, int(degrees + 1e-9))) * math.sqrt(error)
    return difference, difference - half, difference + half


def _shares(outcomes: Outcomes) -> list[float]:
    by_task: dict[object, list[bool]] = defaultdict(list)
    for number, (task, outcome) in enumerate(outcomes):
        by_task[(number,) if task is None else task].append(outcome)
    return [sum(values) / len(values) for values in by_task.values()]


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its squared standard error."""
    mean = math.fsum(values) / len(values)
    return mean, math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)
