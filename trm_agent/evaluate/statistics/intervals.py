"""Rates over tasks with intervals that hold near 0 and 1, and the unbiased pass@k and pass^k.

A task is the independent unit: its samples share its difficulty, so k samples of n tasks are not k n observations
(Miller 2024, arXiv 2411.00640). Every figure is a mean over tasks of a number in [0, 1] of each task.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trm_agent.evaluate.statistics.dirichlet import quantile
from trm_agent.runs.rates import Z, wilson

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

FEWEST = 20
"""Smallest number of tasks for which the coverage was measured."""
WIDEST = 1.5
"""Width, relative to Wilson's interval with the same design effect, from which an interval is called wide."""
FEW_TASKS = "fewer than 20 tasks: the interval may be too narrow"
UNSEEN_TASKS = "wide since rare kinds of task may not be among these: more tasks narrow it, more samples do not"


@dataclass(frozen=True)
class Estimate:
    """A mean over tasks. All fields are None without a task."""

    value: float | None
    low: float | None
    """Lower end of the 95 % interval; it allows for lost samples."""
    high: float | None
    num_tasks: int
    """Number of tasks in the mean `value`."""
    least: float | None = None
    """The mean over all tasks if every lost sample had failed; None where none was lost."""
    most: float | None = None
    """The mean over all tasks if every lost sample had succeeded."""
    note: str | None = None
    """Caveat about the interval: `FEW_TASKS`, `UNSEEN_TASKS` or None."""


def mean_interval(values: ArrayLike, strata: Sequence[object] | None = None) -> Estimate:
    """Return the mean over tasks with a 95 % interval: the Bayesian bootstrap, with a part of a task that was not seen.

        y_i = m + sqrt(n_h / (n_h - 1)) (v_i - m_h)        residuals within the stratum h, around the mean m
        low: the 2.5 % quantile of (sum_i g_i y_i + g 0) / (sum_i g_i + g)      g_i ~ Gamma(1), g ~ Gamma(a)
        high: the 97.5 % quantile, with a 1 in place of the 0
        a = max((n / (n + 5) + D^2) / 2, min(1 / 2, 0.69 - 5.8 / n))
        D = n V / (m (1 - m)), at most 1     V = sum_h (n_h / n)^2 s_h^2 / n_h

    The task that was not seen stands for a kind of which none may be among the n, such as tasks that cannot be solved:
    where one task in twenty is such a kind, a third of all evaluations of 20 tasks have none, and their spread says
    nothing of it. D, the share of the largest possible variance, is 1 for one yes or no from each task; then the
    interval is nearly that of Clopper and Pearson. The interval lies in [0, 1] and always has a width.

    Coverage and width against Wilson's interval: `benchmarks.coverage`, docs/evaluate.md.

    Strata are for tasks of which a fixed number comes from each horizon; without them the spread between horizons
    would widen the interval.

    Args:
        values: a number in [0, 1] for each task; NaN for a task without one, which is left out.
        strata: group of each task, such as its horizon. Groups of one task are put together.

    Raises:
        ValueError: a value lies outside of [0, 1], or the lengths differ.

    Reference: Rubin 1981 (Bayesian bootstrap); Gaffke 2005 and Learned-Miller and Thomas 2019 (an observation at the
        end of the range makes bounds of a mean); Miller 2024, arXiv 2411.00640 (tasks as clusters).
    """
    return mean_intervals(np.asarray(values, dtype=np.float64)[None], strata)[0]


def mean_intervals(values: ArrayLike, strata: Sequence[object] | None = None) -> list[Estimate]:
    """Return the `mean_interval` of each row of values, shape (figures, tasks)."""
    rates = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(rates)
    if np.any((rates[known] < 0) | (rates[known] > 1)):
        raise ValueError("values: got a number outside of [0, 1]; allowed: rates from 0 to 1; rescale other values")
    names = strata if strata is not None else [0] * rates.shape[1]
    stratum_indices(names, np.ones(rates.shape[1], dtype=bool))
    estimates = [Estimate(None, None, None, 0)] * len(rates)
    # figures of the same tasks are computed together
    patterns, pattern = np.unique(known, axis=0, return_inverse=True)
    for index, tasks in enumerate(patterns):
        if not tasks.any():
            continue
        rows = np.flatnonzero(pattern.ravel() == index)
        there = rates[rows][:, tasks]
        low, high, ratios = interval_limits(there, stratum_indices(names, tasks))
        n, means = there.shape[1], there.mean(axis=1).clip(0, 1)
        for row, mean, bottom, top, ratio in zip(rows, means, low, high, ratios, strict=True):
            note = FEW_TASKS if n < FEWEST else UNSEEN_TASKS if ratio > WIDEST else None
            estimates[row] = Estimate(float(mean), float(bottom), float(top), n, note=note)
    return estimates


def interval_limits(values: Floats, groups: Integers) -> tuple[Floats, Floats, Floats]:
    """Return the ends of each row's interval, and its width over that of Wilson's with the same design effect.

    Args:
        values: numbers in [0, 1], shape (figures, tasks).
        groups: from `stratum_indices`, shape (tasks,).
    """
    n, mean = values.shape[1], values.mean(axis=1).clip(0, 1)
    share = design_effects(values, groups, mean * (1 - mean))
    zero = np.zeros(len(values))
    low, high = limits_with_unseen(values, groups, share, zero, zero + 1)
    # all at an end is certain of that end, and rounding may leave the mean out of the interval by 1e-17
    low, high = low.clip(0, mean) * (mean > 0), np.where(mean < 1, high.clip(mean, 1), 1)
    plain = [wilson(float(m), _effective_tasks(n, m, d)) for m, d in zip(mean, share, strict=True)]
    return low, high, (high - low) / np.array([top - bottom for bottom, top in plain])


def design_effects(values: Floats, groups: Integers, largest: Floats) -> Floats:
    """Return each row's variance of the mean over the largest one, `largest` / n: at most 1, and 1 for 0 / 0."""
    variance = np.zeros(len(values))
    for group in np.unique(groups):
        part = values[:, groups == group]
        variance += part.shape[1] * part.var(axis=1, ddof=1) / values.shape[1] if part.shape[1] > 1 else 0.0
    share = np.ones(len(values))
    np.divide(variance, largest, out=share, where=(largest > 1e-12) & (values.shape[1] > 1))
    return np.minimum(share, 1.0)


def limits_with_unseen(
    values: Floats, groups: Integers, share: Floats, bottom: Floats, top: Floats
) -> tuple[Floats, Floats]:
    """Return the limits of the Bayesian bootstrap with a part of a task that was not seen; see `mean_interval`.

    Args:
        values: shape (figures, tasks).
        groups: stratum of each task.
        share: design effects D, which with n decide the size of the part of a task.
        bottom, top: values of that task for the lower and for the upper limit.
    """
    n, mean = values.shape[1], values.mean(axis=1)
    tables: list[tuple[Floats, Floats]] = []
    for group in np.unique(groups):
        part = values[:, groups == group]
        size = part.shape[1]
        levels, counts = _tabulated(part)
        spread = (levels - part.mean(axis=1, keepdims=True)) * np.sqrt(size / max(1, size - 1))
        tables.append((mean[:, None] + np.where(counts > 0, spread, 0.0), counts))
    weights = np.concatenate([*(counts for _, counts in tables), unseen_part(n, share)[:, None]], axis=1)
    seen = np.concatenate([levels for levels, _ in tables], axis=1)
    least, most = np.minimum(seen.min(axis=1), bottom), np.maximum(seen.max(axis=1), top)
    low = quantile(np.column_stack([seen, bottom]), weights, least, mean, -Z)
    high = quantile(np.column_stack([seen, top]), weights, mean, most, Z)
    return low, high


def unseen_part(num: int, share: Floats) -> Floats:
    """Return the part of a task that was not seen: max((n / (n + 5) + D^2) / 2, min(1 / 2, 0.69 - 5.8 / n)).

    Where the n agree closely, the limits then allow for a missing kind that is so frequent that n tasks have none of it
    in only 10 % of the evaluations for n = 20, 8 % from 26 on. More room would make the interval over 1.5 times as
    wide as Wilson's where rare kinds are a hundredth of 20 to 40 tasks.

    Args:
        num: number of seen tasks, n.
        share: design effects D, shape (figures,).
    """
    return np.maximum((num / (num + 5) + share**2) / 2, min(0.5, 0.69 - 5.8 / num))


def _tabulated(values: Floats) -> tuple[Floats, Floats]:
    """Return the distinct values with their counts in each row, if that is shorter than the values themselves."""
    levels = np.unique(values)
    if len(levels) >= values.shape[1]:
        return values, np.ones_like(values)
    counts = np.stack([(values == level).sum(axis=1) for level in levels], axis=1)
    return np.broadcast_to(levels, counts.shape), counts.astype(np.float64)


def _effective_tasks(num: int, mean: float, share: float) -> float:
    """Return the equivalent number of yes-or-no observations; the share is pulled towards 1 if few succeed or fail."""
    information = num * mean * (1 - mean)
    return num * (information + 0.1) / (information * share + 0.1)


def stratum_indices(strata: Sequence[object], known: NDArray[np.bool_] | None = None) -> Integers:
    """Assign strata to the known tasks, so that each has two tasks or more if possible.

    Args:
        strata: hashable group of each task, shape (tasks,).
        known: True for the tasks that count; None for all.

    Returns:
        Group of each known task. Groups of one task are merged, and a single one left over joins the smallest group.

    Raises:
        ValueError: the lengths differ.
    """
    if known is not None and len(strata) != len(known):
        raise ValueError(f"strata: got {len(strata)} for {len(known)} values; allowed: one for each; give all of them")
    names = [name for index, name in enumerate(strata) if known is None or known[index]]
    numbers: dict[object, int] = {}
    groups = np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)
    sizes = np.bincount(groups, minlength=1)
    single = sizes[groups] == 1 if len(groups) else np.zeros(0, dtype=bool)
    if single.sum() == 1 and len(sizes) > 1:
        groups[single] = min((int(size), index) for index, size in enumerate(sizes) if size > 1)[1]
    elif single.any():
        groups[single] = len(numbers)
    return groups


def pass_at_k(num: ArrayLike, successes: ArrayLike, k: int) -> Floats:
    """Estimate without bias, task by task, the probability that at least one of k samples succeeds.

        1 - C(n - c, k) / C(n, k) = 1 - prod_{i < k} (n - c - i) / (n - i)

    Args:
        num: samples of each task, n, shape (tasks,).
        successes: number of successful samples of each task, c.
        k: from 1 on.

    Returns:
        float64, shape (tasks,); NaN where n < k.

    Raises:
        ValueError: k is below 1, or a count is not possible.

    Reference: Chen et al. 2021, arXiv 2107.03374, equation 1.
    """
    n, c = _counts(num, successes, k)
    return 1 - _all_drawn(n, n - c, k)


def pass_hat_k(num: ArrayLike, successes: ArrayLike, k: int) -> Floats:
    """Estimate without bias, task by task, the probability that all of k samples succeed: C(c, k) / C(n, k).

    Args, returns and raises: as `pass_at_k`.

    Reference: Yao et al. 2024 (tau-bench), arXiv 2406.12045.
    """
    n, c = _counts(num, successes, k)
    return _all_drawn(n, c, k)


def _all_drawn(num: Integers, marked: Integers, k: int) -> Floats:
    """Return the probability that k draws without replacement are all marked; NaN with fewer than k to draw."""
    step = np.arange(k)
    left = np.maximum(num[:, None] - step, 1)
    result = (np.maximum(marked[:, None] - step, 0) / left).prod(axis=1)
    return np.where(num >= k, result, np.nan)


def _counts(num: ArrayLike, successes: ArrayLike, k: int) -> tuple[Integers, Integers]:
    n, c = (np.atleast_1d(np.asarray(counts, dtype=np.int64)) for counts in (num, successes))
    if k < 1:
        raise ValueError(f"k: got {k}; allowed: 1 or more; give the number of samples to draw")
    if np.any((c < 0) | (c > n)):
        raise ValueError("successes: got one below 0 or above its number of samples; allowed: 0 to n; count again")
    return n, c
