"""The intervals that `trm eval` used before, and the textbook's, for many evaluations at once."""

import math

import numpy as np

from trm_agent.evaluate.statistics.intervals import Floats, Integers, Z

Limits = tuple[Floats, Floats]


def textbook(values: Floats, groups: Integers) -> Limits:
    """m +- 1.96 standard errors of the tasks' mean, within strata."""
    mean, half = values.mean(axis=1), Z * np.sqrt(_variance(values, groups))
    return mean - half, mean + half


def wilson(values: Floats, groups: Integers) -> Limits:
    """Wilson's interval with the number of tasks that the clustering leaves.

    D = n V / (m (1 - m)), at most 1     D' = (i D + 0.1) / (i + 0.1)     i = n m (1 - m)
    all p with (m - p)^2 <= z^2 p (1 - p) D' / n
    """
    n, mean = values.shape[1], values.mean(axis=1)
    largest = mean * (1 - mean)
    share = np.ones(len(values))
    np.divide(n * _variance(values, groups), largest, out=share, where=largest > 0)
    num = n * (n * largest + 0.1) / (n * largest * np.minimum(1, share) + 0.1)
    scale = 1 + Z**2 / num
    centre = (mean + Z**2 / (2 * num)) / scale
    half = Z / scale * np.sqrt(largest / num + Z**2 / (4 * num**2))
    return np.maximum(0, np.minimum(centre - half, mean)), np.minimum(1, np.maximum(centre + half, mean))


def bootstrap(differences: Floats, groups: Integers, rng: np.random.Generator, num: int) -> Limits:
    """Percentile bootstrap of the differences of one stratum, widened for few tasks, with Poisson(1/2) unseen tasks."""
    return tuple(np.array([_bootstrap(row, rng, num) for row in differences]).T)  # type: ignore[return-value]


def _bootstrap(row: Floats, rng: np.random.Generator, num: int) -> tuple[float, float]:
    n, mean = len(row), row.mean()
    residuals = (row - mean) * math.sqrt(n / (n - 1)) / n
    spread = residuals[rng.integers(n, size=(num, n), dtype=np.int32)].sum(axis=1)
    if np.ptp(spread) <= 1e-12:
        share = Z**2 / (n + Z**2)
        return max(-1.0, (1 - share) * mean - share), min(1.0, (1 - share) * mean + share)
    step = min(1.0, row.var(ddof=1) / (np.abs(row).mean() - mean**2))
    unseen = rng.poisson(0.25, size=(2, num))
    low, high = np.quantile(mean + spread + step * (unseen[0] - unseen[1]) / n, _tails(n - 1))
    return max(-1.0, float(low)), min(1.0, float(high))


def _tails(degrees: int) -> tuple[float, float]:
    """Shares of the normal distribution outside of Student's 95 %, by an expansion that is good to 0.2 %."""
    quantile = Z + (Z**3 + Z) / (4 * degrees) + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * degrees**2)
    tail = 0.5 * math.erfc(quantile / math.sqrt(2))
    return tail, 1 - tail


def _variance(values: Floats, groups: Integers) -> Floats:
    parts = [values[:, groups == group] for group in np.unique(groups)]
    return np.asarray(sum(part.shape[1] * part.var(axis=1, ddof=1) for part in parts) / values.shape[1] ** 2)
