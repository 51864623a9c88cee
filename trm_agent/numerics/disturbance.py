"""How far logits are apart, whatever the certainty of the tokens, and the depth from which on they are farther.

Errors e of a size s in all logits, independent of each other, change the log-prob of a token x by e_x - sum_j p_j e_j,
with a variance of s^2 ((1 - p_x)^2 + sum_(j != x) p_j^2), between s^2 (1 - p_x)^2 and twice that. So |d| / (1 - p_x) is
about s for every token, where |d| and the KL are small for tokens that the model is sure of and large for others: these
two grow with depth where an episode becomes less certain, with the same kernels.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from trm_agent.numerics.sampled import Sampled

# a token of a larger probability than 1 - DOUBT tells of rounding alone
DOUBT = 0.02
# tokens behind a depth at which something may begin: those that attend to their neighbours across it
WINDOW = 32
# fewer behind a border, whose place is known to the token: the nearest neighbours weigh most
WINDOWS_OF_BORDER = (8, WINDOW)
# tokens between the depths that are tried
STEP = 16
# a window says nothing with fewer tokens, nor does what is before it
LEAST_WINDOW, LEAST_BEFORE = 12, 50
# it sticks out from so many times the mean before it on, and so many standard deviations of its mean rank: more where
# nothing is known to begin, since there are many such depths
RATIO, DEVIATIONS, DEVIATIONS_ANYWHERE = 2.0, 3.5, 4.5


@dataclass(frozen=True)
class Beginning:
    """A depth behind which logits are farther apart than before it."""

    depth: int
    """Tokens before the first one that may differ, to `WINDOW`."""
    ratio: float
    """Mean of |d| / (1 - p) in the window behind it, over that of all tokens before it."""
    deviations: float
    """Standard deviations by which the window's mean rank exceeds that of a random draw."""


def disturbance(sampled: Sampled) -> tuple[np.ndarray, np.ndarray]:
    """Return depth and |d| / (1 - p), nats, of the tokens that tell of logits: of which the engine was not sure."""
    doubt = -np.expm1(np.asarray(sampled.log_probs, dtype=np.float64))
    telling = doubt >= DOUBT
    return sampled.depths[telling], np.abs(sampled.differences[telling]) / doubt[telling]


def beginning(sampled: Sampled, borders: Collection[int]) -> Beginning | None:
    """Return the first depth in whose window logits are far apart, as against all before it; None without one.

    A shift of positions disturbs most where tokens on both sides of it attend to each other, and little beyond: in half
    precision the window alone may show it, and of a border its first tokens alone. Of the depths within a window of the
    first one it is a border if one of them is, else the one that sticks out most.

    Args:
        sampled: the tokens of all episodes.
        borders: depths where something often begins, tokens, which are believed more readily than every `STEP`-th one.
    """
    depths, sizes = disturbance(sampled)
    tried = range(STEP, int(depths.max(initial=0)) + 1, STEP)
    bars = dict.fromkeys(tried, DEVIATIONS_ANYWHERE) | dict.fromkeys(borders, DEVIATIONS)
    windows = dict.fromkeys(tried, (WINDOW,)) | dict.fromkeys(borders, WINDOWS_OF_BORDER)
    all_found = (_most_apart(depths, sizes, depth, windows[depth], bar) for depth, bar in sorted(bars.items()))
    found = (each for each in all_found if each is not None)
    first = next(found, None)
    if first is None:
        return None
    near = [first, *takewhile(lambda each: each.depth <= first.depth + WINDOW, found)]
    border = next((each for each in near if each.depth in borders), None)
    return border or max(near, key=lambda each: each.deviations)


def _most_apart(
    depths: np.ndarray, sizes: np.ndarray, depth: int, windows: Sequence[int], bar: float
) -> Beginning | None:
    """Return what begins at a depth by the window that sticks out most; None if none does."""
    found = [_beginning(depths, sizes, depth, window, bar) for window in windows]
    return max((each for each in found if each is not None), key=lambda each: each.deviations, default=None)


def _beginning(depths: np.ndarray, sizes: np.ndarray, depth: int, window: int, bar: float) -> Beginning | None:
    before, behind = sizes[depths < depth], sizes[(depths >= depth) & (depths < depth + window)]
    if len(behind) < LEAST_WINDOW or len(before) < LEAST_BEFORE or not behind.any():
        return None
    # equal log-probs on both sides before it: the ratio is without end
    ratio = float(behind.mean() / before.mean()) if before.any() else math.inf
    # ranks cost a sort
    deviations = rank_deviations(behind, before) if ratio >= RATIO else 0.0
    return Beginning(depth, ratio, deviations) if deviations >= bar else None


def rank_deviations(values: np.ndarray, others: np.ndarray) -> float:
    """Return by how many standard deviations the mean rank of values among all exceeds that of a random draw.

    It is Mann and Whitney's test, without its correction for ties, which leaves it cautious.
    """
    _, places, counts = np.unique(np.concatenate([values, others]), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    deviation = math.sqrt(len(others) * (len(ranks) + 1) / (12 * len(values)))
    return float((ranks[: len(values)].mean() - (len(ranks) + 1) / 2) / deviation)
