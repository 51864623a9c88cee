"""The horizon length: the number of steps at which half of the tasks succeed."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from trm_agent.evaluate.statistics.intervals import Floats
from trm_agent.evaluate.statistics.logistic import firth_logistic
from trm_agent.evaluate.statistics.paired import student_tail

NUM_RESAMPLES = 2000
_UNBOUNDED = 10
"""Number of doublings beyond the measured horizons from which a length counts as unbounded."""
_FLATTEST = 1e-6


@dataclass(frozen=True)
class HorizonLength:
    """The horizon at which the fitted success crosses 50 %, in steps."""

    status: str
    """`inside`, `below` or `above` the measured horizons (then `steps` is an extrapolation or None), or `unknown`."""
    reason: str | None
    """Reason for no fit: `all succeed`, `all fail`, `one horizon`, `no horizon`, `does not fall`, `no convergence`;
    else None."""
    steps: float | None
    low: float | None
    """Lower end of the 95 % interval; None for no lower bound."""
    high: float | None
    """Upper end; None for no upper bound."""
    slope: float | None
    """Change of the log-odds of success with each doubling of the horizon."""
    shortest: float | None
    """Shortest measured horizon."""
    longest: float | None


def fit_horizon(
    horizons: ArrayLike, success: ArrayLike, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> HorizonLength:
    """Fit success over log2(horizon) by logistic regression, and find the horizon of 50 %.

        logit P(success) = intercept + slope log2(h),     steps = 2^(-intercept / slope)

    Each task is one observation with its success rate. Firth's penalty keeps the fit finite where success falls from
    all to none between two horizons. The interval is the percentile bootstrap over tasks within each horizon, widened
    for few tasks: n - 1 of n are drawn, and the percentiles are Student's (Hesterberg 2015). So that a horizon at which
    all or no tasks succeed is not taken for certain, one more task is in the urn of each horizon: a yes or no drawn
    from the fitted curve. Simulated coverage with six horizons: 89 to 97 % for 4 tasks of 1 sample at each, 97 to 100 %
    for 4 tasks of 5 samples, 87 to 96 % for 10 tasks of 1 sample, the least for a fall within two doublings.

    Args:
        horizons: number of steps of each task, shape (tasks,); NaN for none.
        success: success rate of each task in [0, 1]; NaN for none. Such tasks are left out.
        seed: seed of the bootstrap.
        num_resamples: number of resamples of the bootstrap.

    Raises:
        ValueError: the shapes differ, a horizon is not positive, or a success rate lies outside of [0, 1].

    Reference: Kwa et al. 2025, arXiv 2503.14499 (50 % time horizon by logistic regression); Firth 1993 (penalty).
    """
    steps, rates = _measured(horizons, success)
    levels = np.unique(steps)
    if not len(levels):
        return HorizonLength("unknown", "no horizon", None, None, None, None, None, None)
    ends = float(levels[0]), float(levels[-1])
    if rates.min() == 1:
        return HorizonLength("above", "all succeed", None, ends[1], None, None, *ends)
    if rates.max() == 0:
        return HorizonLength("below", "all fail", None, None, ends[0], None, *ends)
    if len(levels) == 1:
        return HorizonLength("unknown", "one horizon", None, None, None, None, *ends)
    rows = [rates[steps == level] for level in levels]
    num = np.array([len(row) for row in rows], dtype=np.float64)
    x = np.log2(levels)
    fit = firth_logistic(x, num, np.array([[row.mean() for row in rows]]))
    intercept, slope = float(fit.intercept[0]), float(fit.slope[0])
    if not fit.converged[0]:
        return HorizonLength("unknown", "no convergence", None, None, None, None, *ends)
    if slope > -_FLATTEST:
        return HorizonLength("unknown", "does not fall", None, None, None, slope, *ends)
    crossing = -intercept / slope
    fitted = 1 / (1 + np.exp(-(intercept + slope * x)))
    tail = student_tail(len(rates) - 2)
    lengths = _resampled(x, rows, fitted, seed, num_resamples)
    low, high = (
        np.quantile(side, share, method="nearest") for side, share in zip(lengths, (tail, 1 - tail), strict=True)
    )
    return HorizonLength(
        status="below" if crossing < x[0] else "above" if crossing > x[-1] else "inside",
        reason=None,
        steps=_steps(crossing, x),
        low=_steps(min(float(low), crossing), x),
        high=_steps(max(float(high), crossing), x),
        slope=slope,
        shortest=ends[0],
        longest=ends[1],
    )


def _measured(horizons: ArrayLike, success: ArrayLike) -> tuple[Floats, Floats]:
    """Return steps and success rates of the tasks that have both."""
    steps, rates = np.asarray(horizons, dtype=np.float64), np.asarray(success, dtype=np.float64)
    if steps.shape != rates.shape:
        raise ValueError(f"horizons: got {len(steps)} for {len(rates)} tasks; allowed: one each; give all of them")
    known = ~(np.isnan(steps) | np.isnan(rates))
    steps, rates = steps[known], rates[known]
    if np.any(steps <= 0):
        raise ValueError(f"horizons: got {steps.min():g}; allowed: above 0; give the number of steps")
    outside = rates[(rates < 0) | (rates > 1)]
    if len(outside):
        raise ValueError(f"success: got {outside[0]:g}; allowed: rates from 0 to 1; divide successes by episodes")
    return steps, rates


def _resampled(x: Floats, rows: list[Floats], fitted: Floats, seed: int, num_resamples: int) -> tuple[Floats, Floats]:
    """Return log2 of the horizon length of each resample, for the lower and for the upper end of the interval.

    Both are infinite if success does not fall; a fit that did not converge lies beyond either end.
    """
    rng = np.random.default_rng(seed)
    rates = np.empty((num_resamples, len(x)))
    for index, row in enumerate(rows):
        drawn = rng.integers(len(row) + 1, size=(num_resamples, max(1, len(row) - 1)))
        from_curve = rng.random(drawn.shape) < fitted[index]
        rates[:, index] = np.where(drawn < len(row), row[np.minimum(drawn, len(row) - 1)], from_curve).mean(axis=1)
    num = np.array([len(row) for row in rows], dtype=np.float64)
    fit = firth_logistic(x, num, rates)
    falls = fit.slope < -_FLATTEST
    ends = np.where(rates @ num >= 0.5 * num.sum(), np.inf, -np.inf)
    lengths = np.where(falls, -fit.intercept / np.where(falls, fit.slope, -1.0), ends)
    return np.where(fit.converged, lengths, -np.inf), np.where(fit.converged, lengths, np.inf)


def _steps(log2_steps: float, x: Floats) -> float | None:
    """Return steps from their log2; None far from the measured ones."""
    return 2**log2_steps if x[0] - _UNBOUNDED < log2_steps < x[-1] + _UNBOUNDED else None


@dataclass(frozen=True)
class Geometric:
    """The model of equal and independent steps, success p^h, beside the measurements."""

    step_accuracy: float | None
    """Fraction p of steps that are right, over the tasks that count them."""
    steps: float | None
    """Steps at which the model's success is 50 %, ln 0.5 / ln p; None for p of 0 or 1."""
    by_horizon: list[dict[str, float | None]]
    """`horizon`, `step_accuracy` (measured), `predicted_success` (p^h, p of that horizon), `success` (measured),
    `implied_step_accuracy` (success^(1/h))."""


def geometric(horizons: ArrayLike, success: ArrayLike, step_accuracy: ArrayLike) -> Geometric | None:
    """Compare the success with that of independent steps of the measured accuracy.

        P(success) = p^h,     h(s) = ln s / ln p

    Success above p^h says that errors are mended or come together; below, that accuracy falls along the episode.

    Args:
        horizons: number of steps of each task, shape (tasks,).
        success: success rate of each task.
        step_accuracy: mean accuracy of the steps of each task; NaN where it is not counted.

    Returns:
        None if no task with a horizon has a step accuracy.

    Reference: Sinha et al. 2025, arXiv 2509.09677.
    """
    lengths, rates, accuracies = (np.asarray(v, dtype=np.float64) for v in (horizons, success, step_accuracy))
    known = ~(np.isnan(lengths) | np.isnan(rates) | np.isnan(accuracies))
    if not known.any():
        return None
    lengths, rates, accuracies = lengths[known], rates[known], accuracies[known]
    rows: list[dict[str, float | None]] = []
    for horizon in np.unique(lengths):
        here = lengths == horizon
        accuracy, rate = float(accuracies[here].mean()), float(rates[here].mean())
        rows.append(
            {
                "horizon": float(horizon),
                "step_accuracy": accuracy,
                "predicted_success": float(accuracy**horizon),
                "success": rate,
                "implied_step_accuracy": float(rate ** (1 / horizon)),
            }
        )
    pooled = float((lengths * accuracies).sum() / lengths.sum())
    steps = math.log(0.5) / math.log(pooled) if 0 < pooled < 1 else None
    return Geometric(pooled, steps, rows)
