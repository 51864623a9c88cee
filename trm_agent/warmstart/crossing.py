"""Where success first passes a target between two averages of weights, from a few played tasks at a few places.

Success need not rise all the way: an average of earlier weights may play better than the later one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trm_agent.models.imitation import Settle

MOST_TRIES = 6
# standard error of the success at the crossing, below which no further place is tried
SURE = 0.05
# a place so much above the target is past the crossing, and what lies behind it says nothing of the rise
FAR = 0.25
# of a place so far from the target, on either side: success need not be logistic all the way
FAR_WEIGHT = 0.25
_NEWTON_STEPS = 30
Place = tuple[float, float]
"""Share of the way between the averages, and the success that was measured there."""


@dataclass(frozen=True)
class Rise:
    """A logistic curve of success over the share of the way: logit = start + slope * share."""

    start: float
    """Logit at share 0."""
    slope: float
    """Logits from share 0 to 1."""
    covariance: tuple[float, float, float]
    """Variance of the start, covariance, variance of the slope."""
    last: float
    """Largest share that was measured."""

    def crossing(self, target: float) -> float:
        """Return the share at which the curve passes the target; half of the way measured if it does not rise."""
        if self.slope <= 0:
            return self.last / 2
        return min(max((_logit(target) - self.start) / self.slope, 0.0), self.last)

    def error(self, share: float) -> float:
        """Return the standard error of the success at a share."""
        of_start, both, of_slope = self.covariance
        success = _success(self.start + self.slope * share)
        return success * (1 - success) * math.sqrt(of_start + 2 * share * both + share**2 * of_slope)


def by_play(num_tasks: int, has_time: Callable[[], bool] = lambda: True) -> Settle:
    """Return a way to settle between two averages, the success of which is known.

    Each place is where the curve through all places so far passes the target: most tasks are played near to it.

    Args:
        num_tasks: tasks of a measurement.
        has_time: tells whether one more place can be tried.
    """

    def settle(success_at: Callable[[float], float], target: float, ends: tuple[float, float]) -> float:
        places = [(0.0, ends[0]), (1.0, ends[1])]
        for _ in range(MOST_TRIES):
            rise = fitted(rising(places, target), num_tasks, target)
            share = rise.crossing(target)
            if rise.error(share) <= SURE or not has_time():
                return share
            places.append((share, success_at(share)))
        return fitted(rising(places, target), num_tasks, target).crossing(target)

    return settle


def rising(places: Sequence[Place], target: float) -> list[Place]:
    """Return the places in order, up to the first that is clearly past the target."""
    ordered = sorted(places)
    past = next((at for at, (_, success) in enumerate(ordered) if success >= target + FAR), len(ordered))
    return ordered[: past + 1]


def fitted(places: Sequence[Place], num_tasks: int, target: float) -> Rise:
    """Fit a logistic curve to measured successes by maximum likelihood.

    Half a success and half a failure are added to each place, so that 0 and 1 are finite.

    Args:
        places: two or more.
        num_tasks: tasks that were played at each.
        target: success near to which the curve is to be right.
    """
    counted = [
        (share, success, num_tasks * (FAR_WEIGHT if abs(success - target) >= FAR else 1.0)) for share, success in places
    ]
    start, slope = 0.0, 0.0
    for _ in range(_NEWTON_STEPS):
        gradient, information = _derivatives(counted, start, slope)
        of_start, both, of_slope = _inverse(*information)
        steps = of_start * gradient[0] + both * gradient[1], both * gradient[0] + of_slope * gradient[1]
        # the curve is flat where it is sure: a full step from there would overshoot
        scale = 1 / max(1.0, *map(abs, steps))
        start, slope = start + scale * steps[0], slope + scale * steps[1]
    covariance = _inverse(*_derivatives(counted, start, slope)[1])
    return Rise(start, slope, covariance, max(share for share, _ in places))


def _derivatives(
    counted: Sequence[tuple[float, float, float]], start: float, slope: float
) -> tuple[tuple[float, float], tuple[float, float, float]]:
    """Return the gradient of the log-likelihood, and its information: of the start, of both, of the slope.

    Args:
        counted: share, success and number of tasks of each place.
        start, slope: of the curve.
    """
    gradient, information = [0.0, 0.0], [0.0, 0.0, 0.0]
    for share, measured, tasks in counted:
        expected = _success(start + slope * share)
        left = tasks * measured + 0.5 - (tasks + 1) * expected
        weight = (tasks + 1) * expected * (1 - expected)
        for power in (0, 1):
            gradient[power] += left * share**power
        for power in (0, 1, 2):
            information[power] += weight * share**power
    return (gradient[0], gradient[1]), (information[0], information[1], information[2])


def _inverse(first: float, both: float, second: float) -> tuple[float, float, float]:
    """Return the inverse of a symmetric matrix of two rows."""
    determinant = max(first * second - both * both, 1e-12)
    return second / determinant, -both / determinant, first / determinant


def _logit(success: float) -> float:
    return math.log(success / (1 - success))


def _success(logit: float) -> float:
    return 1 / (1 + math.exp(-max(min(logit, 30.0), -30.0)))
