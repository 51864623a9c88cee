"""The differences of two engines' log-probs by depth: bins of the context that double, and what each holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from trm_agent.numerics.disturbance import disturbance
from trm_agent.numerics.sampled import Sampled

FIRST = 512
SMALL, LARGE = 0.01, 0.1


@dataclass(frozen=True)
class Bin:
    """The sampled tokens of a part of the context; d is the other side's log-prob less the engine's, nats."""

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
    """KL(engine || other side) a token, nats, by the estimator k3: the mean of e^d - 1 - d."""
    over_small: float
    """Share of tokens with |d| above 0.01."""
    over_large: float
    """Share of tokens with |d| above 0.1."""
    num_telling: int
    """Number of tokens that tell of logits: the engine was not sure of them."""
    logits: float | None
    """Mean of |d| / (1 - p) of these, about the error of a logit, nats; None without one."""


def borders(longest: int) -> Iterator[tuple[int, int]]:
    """Yield where bins begin and end: 0 to 512, then doubling, until they hold a context of `longest` tokens."""
    start, stop = 0, FIRST
    while start < longest:
        yield start, stop
        start, stop = stop, 2 * stop


def by_depth(sampled: Sampled) -> list[Bin]:
    """Return the bins that hold a token, by depth.

    Raises:
        ValueError: a difference is not finite.
    """
    wrong = ~np.isfinite(sampled.differences)
    if wrong.any():
        raise ValueError(f"{wrong.sum()} log-probs of one side or the other are not finite")
    found = []
    for start, stop in borders(int(sampled.depths.max(initial=-1)) + 1):
        inside = (sampled.depths >= start) & (sampled.depths < stop)
        if inside.any():
            found.append(_bin(start, stop, sampled.at(inside)))
    return found


def over_all(sampled: Sampled) -> Bin:
    """Return one bin of all tokens, one at least."""
    return _bin(0, int(sampled.depths.max()) + 1, sampled)


def _bin(start: int, stop: int, sampled: Sampled) -> Bin:
    differences = np.asarray(sampled.differences, dtype=np.float64)
    sizes, (_, of_logits) = np.abs(differences), disturbance(sampled)
    return Bin(
        start=start,
        stop=stop,
        tokens=len(sizes),
        depth=float(sampled.depths.mean()),
        mean=float(sizes.mean()),
        largest=float(sizes.max()),
        kl=float((np.expm1(differences) - differences).mean()),
        over_small=float((sizes > SMALL).mean()),
        over_large=float((sizes > LARGE).mean()),
        num_telling=len(of_logits),
        logits=float(of_logits.mean()) if len(of_logits) else None,
    )
