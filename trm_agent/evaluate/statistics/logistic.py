"""Firth's logistic regression on one variable, for many sets of rates at once."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trm_agent.evaluate.statistics.intervals import Floats

_TOLERANCE = 1e-8
"""Largest penalised score of a fit that counts as converged, for each observation."""
_LEAST_GAIN = 1e-4
"""Share of the gain promised by the slope that a step must bring (Armijo)."""


class Fit(NamedTuple):
    """Fits of logit P = intercept + slope x, one for each set of rates."""

    intercept: Floats
    slope: Floats
    converged: NDArray[np.bool_]
    """True if the penalised score is zero at the end."""


def firth_logistic(x: Floats, num: Floats, rates: Floats, num_iterations: int = 200) -> Fit:
    """Maximise the penalised likelihood.

        l(b) = sum_i n_i (r_i log p_i + (1 - r_i) log(1 - p_i)) + log(det I(b)) / 2
        I(b) = sum_i n_i p_i (1 - p_i) x_i x_i^T
        score = sum_i (n_i (r_i - p_i) + h_i (1/2 - p_i)) x_i       h: leverages

    The penalty acts like h_i more observations with the rate 1/2 at each x, so a step is Newton's with n_i + h_i
    observations: without them it is twice too long where one observation decides a rate (h_i = 1), and swings for ever.
    A step is halved until it brings a share of the gain that its slope promises. Each direction rises and l falls to
    minus infinity in all directions, so the iteration ends where the score is zero; `converged` says whether it did.

    Args:
        x: shape (levels,), two of them different.
        num: observations at each x, shape (levels,).
        rates: shape (fits, levels).
        num_iterations: the largest number of iterations.

    Reference: Firth 1993; Heinze and Schemper 2002 (finite where the data separate).
    """
    centre, scale = float(x.mean()), float(x.std())
    design = np.stack([np.ones_like(x), (x - centre) / scale])
    beta = np.zeros((len(rates), 2))
    active = np.arange(len(rates))
    for _ in range(num_iterations):
        score, step = _score_and_step(beta[active], design, num, rates[active])
        far = np.abs(score).max(axis=1) > 0.01 * _TOLERANCE * num.sum()
        active, score, step = active[far], score[far], step[far]
        if not len(active):
            break
        promised = (score * step).sum(axis=1)
        beta[active] += _length(beta[active], step, promised, design, num, rates[active])[:, None] * step
    score, _ = _score_and_step(beta, design, num, rates)
    slope = beta[:, 1] / scale
    return Fit(beta[:, 0] - slope * centre, slope, np.abs(score).max(axis=1) <= _TOLERANCE * num.sum())


def _score_and_step(beta: Floats, design: Floats, num: Floats, rates: Floats) -> tuple[Floats, Floats]:
    """Return the penalised score and the step of each fit, both of shape (fits, 2)."""
    p, weight = _curve(beta, design, num)
    information = np.einsum("fl,il,jl->fij", weight, design, design)
    leverage = weight * np.einsum("il,fij,jl->fl", design, _inverse(information), design)
    score = (num * (rates - p) + leverage * (0.5 - p)) @ design.T
    curvature = np.einsum("fl,il,jl->fij", weight * (1 + leverage / num), design, design)
    return score, np.einsum("fij,fj->fi", _inverse(curvature), score)


def _length(beta: Floats, step: Floats, promised: Floats, design: Floats, num: Floats, rates: Floats) -> Floats:
    """Return the share of each step to take, halved until it gains enough, as far as rounding shows a gain."""
    start = _likelihood(beta, design, num, rates)
    rounding = 1e-13 * (1 + np.abs(start))
    size = np.ones(len(beta))
    for _ in range(60):
        there = _likelihood(beta + size[:, None] * step, design, num, rates)
        short = ~(there >= start + _LEAST_GAIN * size * promised - rounding)
        if not short.any():
            break
        size[short] /= 2
    return size


def _likelihood(beta: Floats, design: Floats, num: Floats, rates: Floats) -> Floats:
    logits = beta @ design
    yes, no = -np.logaddexp(0, -logits), -np.logaddexp(0, logits)
    _, weight = _curve(beta, design, num)
    information = np.einsum("fl,il,jl->fij", weight, design, design)
    penalty = 0.5 * np.log(np.maximum(_determinant(information), np.finfo(np.float64).tiny))
    return (num * (rates * yes + (1 - rates) * no)).sum(axis=1) + penalty


def _curve(beta: Floats, design: Floats, num: Floats) -> tuple[Floats, Floats]:
    p = 1 / (1 + np.exp(-np.clip(beta @ design, -300, 300)))
    return p, num * p * (1 - p)


def _determinant(matrices: Floats) -> Floats:
    return matrices[:, 0, 0] * matrices[:, 1, 1] - matrices[:, 0, 1] ** 2


def _inverse(matrices: Floats) -> Floats:
    """Invert symmetric 2 x 2 matrices, shape (fits, 2, 2)."""
    a, b, c = matrices[:, 0, 0], matrices[:, 0, 1], matrices[:, 1, 1]
    determinant = np.maximum(_determinant(matrices), np.finfo(np.float64).tiny)
    return np.stack([np.stack([c, -b], -1), np.stack([-b, a], -1)], -2) / determinant[:, None, None]
