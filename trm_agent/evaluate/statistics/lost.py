"""Bound rates from which infrastructure failures took samples, so that difficulty cannot select.

A task that lost a sample may be harder than the others, for instance because long episodes run into a timeout. Leaving
it out makes the rest look better. So each figure also gets its value with every lost sample failed and with every one
succeeded; the figure without a loss lies between the two, however the samples were lost.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from trm_agent.evaluate.statistics.horizon import HorizonLength, fit_horizon
from trm_agent.evaluate.statistics.intervals import Estimate, Floats, Integers, mean_intervals, pass_at_k, pass_hat_k
from trm_agent.evaluate.statistics.paired import Comparison, compare


class Counts(NamedTuple):
    """Samples of each task, each of shape (tasks,)."""

    num: Integers
    """Number of episodes that were played."""
    successes: Integers
    lost: Integers
    """Number of infrastructure failures, which `num` does not count."""
    strata: Sequence[int | None]
    """Horizon of each task."""

    def as_failed(self) -> "Counts":
        """Return the counts if every lost sample had failed."""
        return self._replace(num=self.num + self.lost, lost=np.zeros_like(self.lost))

    def as_succeeded(self) -> "Counts":
        """Return the counts if every lost sample had succeeded."""
        return self.as_failed()._replace(successes=self.successes + self.lost)


def rates(counts: Counts) -> Floats:
    """Return the success rate of each task; NaN if no episode was played."""
    return np.where(counts.num > 0, counts.successes / np.maximum(counts.num, 1), np.nan)


def success_estimate(counts: Counts) -> Estimate:
    """Estimate avg@k, the mean over tasks of their rates."""
    return bounded(counts, lambda each: rates(each)[None])[0]


def pass_estimates(counts: Counts, ks: Sequence[int]) -> tuple[list[Estimate], list[Estimate]]:
    """Estimate pass@k and pass^k for each k, over the tasks that have at least k samples."""

    def at(each: Counts) -> Floats:
        return np.stack([pass_at_k(each.num, each.successes, k) for k in ks])

    def hat(each: Counts) -> Floats:
        return np.stack([pass_hat_k(each.num, each.successes, k) for k in ks])

    return bounded(counts, at), bounded(counts, hat)


def bounded(counts: Counts, figures: Callable[[Counts], Floats]) -> list[Estimate]:
    """Estimate figures over the tasks that have them, with bounds over all tasks if samples were lost.

        least = mean over tasks of figure(c of n + l),   most = mean over tasks of figure(c + l of n + l)

    Args:
        counts: n played, c succeeded and l lost samples of each task.
        figures: function of counts to values that rise with the successes, shape (figures, tasks); NaN for none.

    Returns:
        For each figure `value` over the tasks that have it. If samples were lost: `least` and `most`, and an interval
        from the lower end of the former's to the upper end of the latter's.
    """
    found = mean_intervals(figures(counts), counts.strata)
    if not counts.lost.any():
        return found
    least, most = (mean_intervals(figures(each), counts.strata) for each in (counts.as_failed(), counts.as_succeeded()))
    return [_widened(*each) for each in zip(found, least, most, strict=True)]


def _widened(found: Estimate, least: Estimate, most: Estimate) -> Estimate:
    if found.value is None or found.low is None or found.high is None:
        return replace(found, least=least.value, most=most.value)
    assert least.low is not None
    assert most.high is not None
    low, high = min(least.low, found.value), max(most.high, found.value)
    return replace(found, low=low, high=high, least=least.value, most=most.value)


def horizon_length(counts: Counts, seed: int) -> HorizonLength:
    """Fit the horizon length; with lost samples the interval reaches from all of them failed to all succeeded."""
    horizons = [np.nan if name is None else float(name) for name in counts.strata]
    found = fit_horizon(horizons, rates(counts), seed)
    if not counts.lost.any():
        return found
    least, most = (fit_horizon(horizons, rates(each), seed) for each in (counts.as_failed(), counts.as_succeeded()))
    low = None if found.low is None or least.low is None else min(found.low, least.low)
    high = None if found.high is None or most.high is None else max(found.high, most.high)
    return replace(found, low=low, high=high)


def comparison(first: Counts, second: Counts, seed: int, num_resamples: int) -> Comparison:
    """Compare two checkpoints on the same tasks in the same order, with bounds if samples were lost.

    If samples were lost, `least` is the difference if all lost samples of the first had succeeded and all of the second
    had failed, `most` the reverse. The interval reaches from the lower end of the former's to the upper end of the
    latter's, and the p-value is the largest of the three, 1 if the sign is open.
    """

    def difference(one: Counts, other: Counts) -> Comparison:
        return compare(rates(one), rates(other), first.strata, seed, num_resamples)

    found = difference(first, second)
    if not (first.lost.any() or second.lost.any()) or found.difference is None:
        return found
    least = difference(first.as_succeeded(), second.as_failed())
    most = difference(first.as_failed(), second.as_succeeded())
    assert found.p_value is not None
    assert least.low is not None
    assert least.difference is not None
    assert least.p_value is not None
    assert most.high is not None
    assert most.difference is not None
    assert most.p_value is not None
    is_open = least.difference <= 0 <= most.difference
    return replace(
        found,
        low=min(least.low, found.difference),
        high=max(most.high, found.difference),
        p_value=1.0 if is_open else max(found.p_value, least.p_value, most.p_value),
        least=least.difference,
        most=most.difference,
    )
