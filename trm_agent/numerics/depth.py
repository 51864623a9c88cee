"""The differences of two engines' log-probs by depth: bins of the context that double, and what each holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

FIRST = 512
SMALL, LARGE = 0.01, 0.1


@dataclass(frozen=True)
class Bin:
    """The sampled tokens of a part of the context; d is trainer's log-prob less engine's, nats."""

    start: int
    """Tokens before the first one of the bin."""
    stop: int
    """Tokens before the first one behind it."""
    tokens: int
    """Number of sampled tokens."""
    depth: float
    """Mean number of tokens before them."""
    mean: float
    """Mean of |d|."""
    largest: float
    """Largest |d|."""
    kl: float
    """KL(engine || trainer) a token, nats, by the estimator k3: the mean of e^d - 1 - d."""
    over_small: float
    """Share of tokens with |d| above 0.01."""
    over_large: float
    """Share of tokens with |d| above 0.1."""


def borders(longest: int) -> Iterator[tuple[int, int]]:
    """Yield where bins begin and end: 0 to 512, then doubling, until they hold a context of `longest` tokens."""
    start, stop = 0, FIRST
    while start < longest:
        yield start, stop
        start, stop = stop, 2 * stop


def by_depth(depths: np.ndarray, differences: np.ndarray) -> list[Bin]:
    """Return the bins that hold a token, by depth.

    Args:
        depths: number of tokens before each sampled token, shape (tokens,).
        differences: trainer's log-prob less engine's, nats, shape (tokens,).

    Raises:
        ValueError: a difference is not finite.
    """
    differences = np.asarray(differences, dtype=np.float64)
    if not np.isfinite(differences).all():
        raise ValueError(f"{(~np.isfinite(differences)).sum()} log-probs of the trainer or the engine are not finite")
    found = []
    for start, stop in borders(int(depths.max(initial=-1)) + 1):
        inside = (depths >= start) & (depths < stop)
        if inside.any():
            found.append(_bin(start, stop, depths[inside], differences[inside]))
    return found


def over_all(depths: np.ndarray, differences: np.ndarray) -> Bin:
    """Return one bin of all tokens; arguments as for `by_depth`, of one token at least."""
    return _bin(0, int(depths.max()) + 1, depths, np.asarray(differences, dtype=np.float64))


def _bin(start: int, stop: int, depths: np.ndarray, differences: np.ndarray) -> Bin:
    sizes = np.abs(differences)
    return Bin(
        start=start,
        stop=stop,
        tokens=len(sizes),
        depth=float(depths.mean()),
        mean=float(sizes.mean()),
        largest=float(sizes.max()),
        kl=float((np.expm1(differences) - differences).mean()),
        over_small=float((sizes > SMALL).mean()),
        over_large=float((sizes > LARGE).mean()),
    )
