"""Quantiles of a mean with Dirichlet weights, for many sets of values at once."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def quantile(values: Floats, weights: Floats, low: Floats, high: Floats, z: float) -> Floats:
    """Return the value that a mean with random weights falls below with probability Phi(z).

        mean = sum_i g_i v_i / sum_i g_i,   g_i ~ Gamma(w_i)      (g / sum g is Dirichlet)
        P(mean <= t) = P(sum_i g_i (v_i - t) <= 0) = Phi(r + log(u / r) / r)
        K(s) = -sum_i w_i log(1 - s (v_i - t)),   K'(s) = 0,   r = sign(s) sqrt(-2 K(s)),   u = s sqrt(K''(s))

    Args:
        values: shape (sets, points).
        weights: above 0, shape (sets, points).
        low, high: ends of the range of the search, shape (sets,); the probability is below Phi(z) at the one and above
        it
            at the other.
        z: normal quantile of the probability, some way from 0 (the formula is 0 / 0 at the mean).

    Returns:
        Shape (sets,).

    Reference: Butler and Paolella 2002 (Dirichlet means by saddlepoint); Barndorff-Nielsen 1986 (the formula for P).
    """
    left, right = low.copy(), high.copy()
    point, saddle = (left + right) / 2, np.zeros(len(values))
    at_left, at_right = np.full(len(values), -np.inf), np.full(len(values), np.inf)
    for step in range(60):
        found, saddle = _normal_score(values, weights, point, saddle)
        below = found < z
        left, at_left = np.where(below, point, left), np.where(below, found, at_left)
        right, at_right = np.where(below, right, point), np.where(below, at_right, found)
        if np.all((np.abs(found - z) < 1e-6) | (right - left <= 1e-10)):
            break
        with np.errstate(invalid="ignore"):
            secant = left + (right - left) * (z - at_left) / (at_right - at_left)
        # the middle every third time, so that neither end stays for ever
        inside = (secant > left) & (secant < right) & (step % 3 != 2)
        point = np.where(inside, secant, (left + right) / 2)
    return point


def _normal_score(values: Floats, weights: Floats, points: Floats, start: Floats) -> tuple[Floats, Floats]:
    """Return the normal quantile of P(mean <= t), infinite where t is beyond all values; and the saddlepoint s."""
    around = values - points[:, None]
    smallest, largest = around.min(axis=1), around.max(axis=1)
    inside = (smallest < 0) & (largest > 0)
    score = np.where(largest <= 0, np.inf, -np.inf)
    saddle = np.zeros(len(values))
    if inside.any():
        distances, shares = around[inside], weights[inside]
        s = _saddlepoint(distances, shares, smallest[inside], largest[inside], start[inside])
        inverse = 1 / (1 - s[:, None] * distances)
        root = np.sign(s) * np.sqrt(np.maximum(0, -2 * (shares * np.log(inverse)).sum(axis=1)))
        spread = s * np.sqrt((shares * (distances * inverse) ** 2).sum(axis=1))
        root, spread = (np.where(np.abs(root) < 1e-5, 1e-5, part) for part in (root, spread))
        score[inside] = root + np.log(spread / root) / root
        saddle[inside] = s
    return score, saddle


def _saddlepoint(distances: Floats, weights: Floats, smallest: Floats, largest: Floats, start: Floats) -> Floats:
    """Return the zero of K'(s), which rises between its poles 1 / smallest and 1 / largest, by Newton in a bracket."""
    left, right = 1 / smallest, 1 / largest
    s = np.where((start > left) & (start < right), start, 0.0)
    for _ in range(100):
        ratio = distances / (1 - s[:, None] * distances)
        slope = (weights * ratio).sum(axis=1)
        curvature = (weights * ratio**2).sum(axis=1)
        left, right = np.where(slope < 0, s, left), np.where(slope > 0, s, right)
        step = -slope / curvature
        if np.all(np.abs(slope) <= 1e-7 * np.sqrt(curvature)):
            break
        moved = s + step
        s = np.where((moved > left) & (moved < right), moved, (left + right) / 2)
    return s
