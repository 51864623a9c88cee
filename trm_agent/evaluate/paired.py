"""Two checkpoints on the same tasks: the difference of their success, its interval, and a test."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from trm_agent.evaluate.statistics import Floats, Integers, Z, stratum_indices, variance_of_mean

NUM_RESAMPLES = 10_000
UNSEEN_TASKS = 0.5
"""Mean number of tasks in a bootstrap sample that are unlike those seen; chosen by coverage."""
_MOST_ENUMERATED = 13


@dataclass(frozen=True)
class Comparison:
    """`second` against `first`. All None where no task has both."""

    difference: float | None
    """Mean over tasks of second - first."""
    low: float | None
    """Lower end of the 95 % interval of the difference."""
    high: float | None
    p_value: float | None
    """Two-sided, of the hypothesis that it makes no difference which checkpoint plays a task."""
    num_tasks: int


def compare(
    first: ArrayLike,
    second: ArrayLike,
    strata: Sequence[object] | None = None,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Comparison:
    """Compare two checkpoints by the differences of the tasks' success rates.

    The interval is the percentile bootstrap over tasks, within the strata, widened for few tasks: the residuals of a
    stratum are scaled by sqrt(n_h / (n_h - 1)), the percentiles are those of Student's quantile instead of the normal
    one, and a resample also holds tasks of a kind that was not seen, Poisson(1/4) of them for and Poisson(1/4) against
    the second checkpoint. Such a task differs by the design effect D, the share that the differences' variance has of
    the largest possible one, mean |d| - (mean d)^2: by a whole success if each task has one sample, by less the more
    samples it has. Where all tasks differ by the same amount a bootstrap sees no spread; then the interval is what
    remains possible if a share z^2 / (n + z^2) of the tasks (Wilson's limit after none of n) differs by anything from
    -1 to 1.

    Coverage (`benchmarks.coverage`) for 20 to 200 tasks with 1, 5 or 16 samples and rates of the first checkpoint from
    5 to 95 %: 94.8 % on average, from 93.9 to 95.8 % in 60 settings.

    The p-value is that of a permutation test that swaps the two checkpoints task by task, all 2^m swaps of the m tasks
    that differ if m <= 13, else `num_resamples` random ones, the one seen counted among them. Swaps with exactly the
    difference that was seen count half (mid-p): rates of few samples tie so often that counting them whole rejects a
    true hypothesis in 1 to 3 % instead of 5 %.

    Args:
        first, second: success rate of each task in [0, 1], shape (tasks,), in the same order of tasks; NaN for none.
            A task that one of them lacks is left out.
        strata: group of each task, such as its horizon, if the number of tasks of each is fixed.
        seed: of the resampling.
        num_resamples: of the bootstrap and of the permutations.

    Raises:
        ValueError: the shapes differ.

    Reference: Miller 2024, arXiv 2411.00640 (paired differences); Hesterberg 2015, "What teachers should
        know about the bootstrap" (expanded percentiles); Agresti and Min 2005 (pseudo-observations for matched pairs);
        Lancaster 1961 (mid-p).
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
    rng = np.random.default_rng(seed)
    mean = float(differences.mean())
    low, high = _interval(differences, groups, rng, num_resamples)
    return Comparison(mean, min(low, mean), max(high, mean), _p_value(differences, rng, num_resamples), n)


def _interval(differences: Floats, groups: Integers, rng: np.random.Generator, num: int) -> tuple[float, float]:
    n, mean = len(differences), differences.mean()
    spread = np.zeros(num)
    num_groups = 0
    for group in np.unique(groups):
        part = differences[groups == group]
        size = len(part)
        num_groups += 1
        if size > 1:
            residuals = (part - part.mean()) * math.sqrt(size / (size - 1)) / n
            spread += residuals[rng.integers(size, size=(num, size), dtype=np.int32)].sum(axis=1)
    if np.ptp(spread) <= 1e-12:
        share = Z**2 / (n + Z**2)
        centre = (1 - share) * mean
        return max(-1.0, float(centre - share)), min(1.0, float(centre + share))
    possible = np.abs(differences).mean() - mean**2
    step = min(1.0, n * variance_of_mean(differences, groups) / possible)
    unseen = rng.poisson(UNSEEN_TASKS / 2, size=(2, num))
    spread += step * (unseen[0] - unseen[1]) / n
    tail = student_tail(n - num_groups)
    low, high = np.quantile(mean + spread, [tail, 1 - tail])
    return max(-1.0, float(low)), min(1.0, float(high))


def _p_value(differences: Floats, rng: np.random.Generator, num: int) -> float:
    moved = differences[np.abs(differences) > 1e-12]
    if not len(moved):
        return 1.0
    # swapping the checkpoints of a task turns its difference round, which takes twice of it from the sum
    if len(moved) <= _MOST_ENUMERATED:
        swaps = np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved)) & 1
    else:
        bits = rng.integers(256, size=(num, (len(moved) + 7) // 8), dtype=np.uint8)
        swaps = np.unpackbits(bits, axis=1)[:, : len(moved)]
        swaps[0] = 0
    sums, seen = np.abs(moved.sum() - 2 * (swaps @ moved)), abs(moved.sum())
    return float(((sums > seen + 1e-9).sum() + (sums >= seen - 1e-9).sum()) / (2 * len(sums)))


def student_tail(degrees: int) -> float:
    """Share of the normal distribution above Student's 97.5 % quantile: what to cut off a bootstrap on each side."""
    return 0.5 * math.erfc(student_quantile(max(1, degrees)) / math.sqrt(2))


def student_quantile(degrees: int) -> float:
    """97.5 % quantile of Student's t: exact for 1 and 2 degrees, else an expansion good to 0.2 %.

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
