"""Whether a mismatch grows with the depth of the context: the slope of log KL over log depth, and a word for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FLAT, GROWING, ROUNDING, SHORT = "flat", "growing", "rounding", "too short"
# of log KL over log depth, from which on a mismatch grows
STEEP = 0.2
# a bin of fewer tokens says nothing
LEAST_TOKENS = 100
# nats; log-probs in float32 of one policy differ by as much
NOISE = 1e-9


@dataclass(frozen=True)
class Growth:
    """What bins by depth say, each of `LEAST_TOKENS` or more."""

    kind: str
    """`flat`, `growing`, `rounding` (a KL below 1e-9 in every bin) or `too short` (one bin, or a KL of 0)."""
    slope: float | None
    """Slope of log KL over log depth; None where it cannot be fitted."""
    slope_error: float | None
    """Its standard error, by the jackknife over the groups; None for fewer than three."""
    tokens: np.ndarray
    """Tokens of each bin, shape (bins,)."""
    depth: np.ndarray
    """Mean number of tokens before them, shape (bins,)."""
    kl: np.ndarray
    """Mean divergence, nats, shape (bins,)."""

    def told(self) -> str:
        """Return the verdict in words."""
        error = "" if self.slope_error is None else f" +- {self.slope_error:.2f}"
        return {
            FLAT: f"flat (slope {_number(self.slope)}{error}, below {STEEP})",
            GROWING: f"growing with depth (slope {_number(self.slope)}{error}; flat is below {STEEP})",
            ROUNDING: f"rounding alone (below {NOISE:g} nats at every depth)",
        }.get(self.kind, f"too short to tell (two bins of {LEAST_TOKENS} tokens are the least)")

    def fitted(self) -> np.ndarray | None:
        """Return the fitted power law at the bins' depths, nats, shape (bins,); None without a slope."""
        if self.slope is None:
            return None
        x, y = np.log(self.depth), np.log(self.kl)
        middle = [np.average(values, weights=self.tokens) for values in (x, y)]
        return np.exp(middle[1] + self.slope * (x - middle[0]))


def growth(tokens: np.ndarray, depth: np.ndarray, kl: np.ndarray) -> Growth:
    """Judge groups of tokens, such as sequences or steps, together.

    Args:
        tokens: number of tokens of each group in each bin, shape (groups, bins).
        depth: sums of their depths, same shape.
        kl: sums of their divergences, same shape, nats.
    """
    tokens, depth, kl = (np.asarray(values, dtype=np.float64) for values in (tokens, depth, kl))
    whole = [values.sum(axis=0) for values in (tokens, depth, kl)]
    telling = whole[0] >= LEAST_TOKENS
    means = [values[telling] / whole[0][telling] for values in whole[1:]]
    slope = _known(slopes(whole[0][telling], *means))
    # without a group a bin may have too few tokens, and then counts for nothing
    left = [total - values for total, values in zip(whole, (tokens, depth, kl), strict=True)]
    counts = np.where(left[0] >= LEAST_TOKENS, left[0], 0.0)
    without = slopes(counts, *(values / np.maximum(left[0], 1.0) for values in left[1:]))
    return Growth(kind_of(means[1], slope), slope, jackknife_error(without), whole[0][telling], *means)


def kind_of(kl: np.ndarray, slope: float | None) -> str:
    """Name what bins say.

    Args:
        kl: mean divergences, shape (bins,), nats.
        slope: of log KL over log depth; None where it cannot be fitted.
    """
    if len(kl) and (kl < NOISE).all():
        return ROUNDING
    if slope is None:
        return SHORT
    return GROWING if slope >= STEEP else FLAT


def slopes(tokens: np.ndarray, depth: np.ndarray, kl: np.ndarray) -> np.ndarray:
    """Fit log KL = a + slope log depth by least squares, weighted by tokens.

    Args:
        tokens: of each bin, 0 for one that does not count, shape (..., bins).
        depth: mean depths, same shape.
        kl: mean divergences, same shape, nats.

    Returns:
        Shape (...); NaN with fewer than two bins, and where a depth or a KL of one that counts is 0.
    """
    counts = tokens > 0
    usable = (~counts | ((depth > 0) & (kl > 0))).all(axis=-1) & (counts.sum(axis=-1) >= 2)
    total = np.maximum(tokens.sum(axis=-1, keepdims=True), 1.0)
    x, y = (np.log(np.where(counts & (values > 0), values, 1.0)) for values in (depth, kl))
    x = x - (tokens * x).sum(axis=-1, keepdims=True) / total
    spread = (tokens * x * x).sum(axis=-1)
    fitted = (tokens * x * y).sum(axis=-1) / np.where(spread > 0, spread, np.nan)
    return np.where(usable, fitted, np.nan)


def jackknife_error(without: Sequence[float] | np.ndarray) -> float | None:
    """Return a standard error from the values without one group each; None for fewer than three, or with a NaN."""
    number, values = len(without), np.asarray(without, dtype=np.float64)
    if number < 3 or np.isnan(values).any():
        return None
    return math.sqrt((number - 1) / number * float(((values - values.mean()) ** 2).sum()))


def _known(value: np.ndarray) -> float | None:
    return None if np.isnan(value) else float(value)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
