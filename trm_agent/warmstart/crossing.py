"""Where success passes a target between two averages of weights, from a few played tasks at a few places."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

MOST_TRIES = 4
# a place whose success is so near to the target is taken, and saves minutes
NEAR = 0.05
# places of the crossing, beyond the two ends too, and steepnesses: from no rise to speak of to a jump
_PLACES = np.linspace(-0.5, 1.5, 81)
_STEEPNESSES = np.geomspace(1.0, 64.0, 13)


def expected_crossing(shares: list[float], rates: list[float], num_tasks: int, target: float) -> float:
    """Return the expected place of the crossing.

        p(t) = 1 / (1 + exp(-(k (t - c) + log(target / (1 - target)))))      success at the share t, target at c
        E[c | successes], over all c and k of a grid that are equally likely before

    Args:
        shares: places that were tried, 0 to 1.
        rates: success at each, 0 to 1.
        num_tasks: tasks that were played at each.
        target: between 0 and 1.
    """
    place, steep = np.meshgrid(_PLACES, _STEEPNESSES, indexing="ij")
    log_likelihood = np.zeros(place.shape)
    for share, rate in zip(shares, rates, strict=True):
        logit = steep * (share - place) + np.log(target / (1 - target))
        log_likelihood += num_tasks * (rate * -np.logaddexp(0, -logit) + (1 - rate) * -np.logaddexp(0, logit))
    weight = np.exp(log_likelihood - log_likelihood.max())
    return float((place * weight).sum() / weight.sum())


def by_play(
    num_tasks: int, has_time: Callable[[], bool] = lambda: True
) -> Callable[[Callable[[float], float], float, tuple[float, float]], float]:
    """Return a way to settle between two averages whose success is known from so many played tasks each.

    Args:
        num_tasks: tasks that are played at each place.
        has_time: tells whether one more place can be tried.
    """

    def settle(success_at: Callable[[float], float], target: float, ends: tuple[float, float]) -> float:
        shares, rates = [0.0, 1.0], list(ends)
        for _ in range(MOST_TRIES):
            if not has_time():
                break
            share = min(1.0, max(0.0, expected_crossing(shares, rates, num_tasks, target)))
            shares.append(share)
            rates.append(success_at(share))
            if abs(rates[-1] - target) <= NEAR:
                return share
        return min(1.0, max(0.0, expected_crossing(shares, rates, num_tasks, target)))

    return settle
