"""Compare two checkpoints on the same tasks: the difference of their success, its interval, and a test."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from trm_agent.evaluate.statistics.intervals import (
    FEW_TASKS,
    FEWEST,
    Floats,
    Integers,
    design_effects,
    limits_with_unseen,
    stratum_indices,
)
from trm_agent.runs.rates import Z

NUM_RESAMPLES = 10_000
RARE_TASKS = 2.5
"""Expected number of tasks of a kind that may well be missing: with a share of 2.5 / n, it is in 8 % of the cases."""
RARE_DIFFERENCES = "does not allow for rare tasks that only one of the two solves: more tasks do, more samples do not"
_MOST_ENUMERATED = 13


@dataclass(frozen=True)
class Comparison:
    """`second` compared with `first`. All fields are None if no task has both."""

    difference: float | None
    """Mean of second - first over tasks."""
    low: float | None
    """Lower end of the 95 % interval of the difference."""
    high: float | None
    p_value: float | None
    """Two-sided p-value of the hypothesis that it makes no difference which checkpoint plays a task."""
    num_tasks: int
    """Number of tasks in the mean `difference`."""
    least: float | None = None
    """Difference if the lost samples of the first had succeeded and the second's failed; None if none was lost."""
    most: float | None = None
    """Difference in the reverse case."""
    note: str | None = None
    """Caveat about the interval: `FEW_TASKS`, `RARE_DIFFERENCES` or None."""


def compare(
    first: ArrayLike,
    second: ArrayLike,
    strata: Sequence[object] | None = None,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Comparison:
    """Compare two checkpoints by the differences of the tasks' success rates.

    The interval is that of `mean_interval` for differences: the Bayesian bootstrap over tasks, within the strata, with
    a part of a task that was not seen, at m - e (1 + m) for the lower limit and at m + e (1 - m) for the upper one.
    e = sqrt(D), where D is the share that the differences' variance has of the largest possible one, mean |d| - m^2:
    such a task differs wholly if each task has one sample, by less the more samples it has; of fewer than 20 tasks it
    always does. So the interval does not
    allow for a rare kind of task that one of the two always solves and the other never, if none is among few tasks of
    many samples; `note` says where (half the interval below 2.5 / n).

    Coverage and width against the percentile bootstrap: `benchmarks.coverage`, docs/evaluate.md.

    The p-value is that of a permutation test that swaps the two checkpoints task by task, all 2^m swaps of the m tasks
    that differ if m <= 13, else `num_resamples` random ones, the one seen counted among them. Swaps with exactly the
    difference that was seen count half (mid-p): rates of few samples tie so often that counting them whole rejects a
    true hypothesis in 1 to 3 % instead of 5 %.

    Args:
        first, second: success rate of each task in [0, 1], shape (tasks,), in the same order of tasks; NaN for none.
            A task that one of them lacks is left out.
        strata: group of each task, such as its horizon, if each group has a fixed number of tasks.
        seed: seed of the permutations.
        num_resamples: number of permutations.

    Raises:
        ValueError: the shapes differ.

    Reference: Miller 2024, arXiv 2411.00640 (paired differences); Agresti and Min 2005 (pseudo-observations for matched
        pairs); Lancaster 1961 (mid-p).
    """
    rates = [np.asarray(side, dtype=np.float64) for side in (first, second)]
    if rates[0].shape != rates[1].shape:
        raise ValueError(
            f"first, second: got {len(rates[0])} and {len(rates[1])} tasks; allowed: the same tasks; put NaN where one "
            "is missing"
        )
    differences = rates[1] - rates[0]
    known = ~np.isnan(differences)
    groups = stratum_indices(strata if strata is not None else [0] * len(differences), known)
    differences = differences[known]
    n = len(differences)
    if n == 0:
        return Comparison(None, None, None, None, 0)
    mean = float(differences.mean())
    low, high = (float(end[0]) for end in difference_limits(differences[None], groups))
    p_value = swap_p_value(differences, np.random.default_rng(seed), num_resamples)
    is_narrow = min(mean - low, high - mean) < RARE_TASKS / n and -1 < mean < 1
    note = FEW_TASKS if n < FEWEST else RARE_DIFFERENCES if is_narrow else None
    return Comparison(mean, low, high, p_value, n, note=note)


def difference_limits(differences: Floats, groups: Integers) -> tuple[Floats, Floats]:
    """Return the ends of the interval of each row, shape (comparisons, tasks)."""
    mean = differences.mean(axis=1)
    if differences.shape[1] < FEWEST:
        # a handful that agree by chance would be certain of what they have in common
        share = np.ones(len(differences))
    else:
        share = design_effects(differences, groups, np.abs(differences).mean(axis=1) - mean**2)
    reach = np.sqrt(share)
    low, high = limits_with_unseen(differences, groups, share, mean - reach * (1 + mean), mean + reach * (1 - mean))
    # a mean at an end is certain of that end, and rounding may leave the mean out of the interval by 1e-17
    low, high = low.clip(-1, mean), high.clip(mean, 1)
    return np.where(mean > -1, low, -1.0), np.where(mean < 1, high, 1.0)


def swap_p_value(differences: Floats, rng: np.random.Generator, num: int) -> float:
    """Return the two-sided p-value of swapping the checkpoints task by task; see `compare`."""
    moved = differences[np.abs(differences) > 1e-12]
    if not len(moved):
        return 1.0
    # swapping the checkpoints of a task flips its difference, which takes twice of it from the sum
    if len(moved) <= _MOST_ENUMERATED:
        swaps = np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved)) & 1
    else:
        bits = rng.integers(256, size=(num, (len(moved) + 7) // 8), dtype=np.uint8)
        swaps = np.unpackbits(bits, axis=1)[:, : len(moved)]
        swaps[0] = 0
    sums, seen = np.abs(moved.sum() - 2 * (swaps @ moved)), abs(moved.sum())
    return float(((sums > seen + 1e-9).sum() + (sums >= seen - 1e-9).sum()) / (2 * len(sums)))


def student_tail(degrees: int) -> float:
    """Return the normal distribution's share above Student's 97.5 % quantile, to cut off a bootstrap on each side."""
    return 0.5 * math.erfc(student_quantile(max(1, degrees)) / math.sqrt(2))


def student_quantile(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's t: exact for 1 and 2 degrees, else an expansion good to 0.2 %.

    Reference: Abramowitz and Stegun 1964, 26.7.5.
    """
    if degrees < 3:
        return {1: 12.706204736432095, 2: 4.302652729911275}[degrees]
    terms = (
        Z,
        (Z**3 + Z) / 4,
        (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96,
        (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / 384,
        (79 * Z**9 + 776 * Z**7 + 1482 * Z**5 - 1920 * Z**3 - 945 * Z) / 92160,
    )
    return sum(term / degrees**power for power, term in enumerate(terms))
