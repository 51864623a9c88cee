"""Where success first passes a target between two averages of weights, from a few played tasks at a few places.

Success need not rise all the way: an average of earlier weights may play better than the later one.
"""

from __future__ import annotations

from collections.abc import Callable

MOST_TRIES = 4
# a place whose success is so near to the target is taken, and saves minutes
NEAR = 0.05


def by_play(
    has_time: Callable[[], bool] = lambda: True,
) -> Callable[[Callable[[float], float], float, tuple[float, float]], float]:
    """Return a way to settle between two averages, the success of which is known.

    Each place lies on the straight line (false position) between the last place before the crossing and the first
    after it.

    Args:
        has_time: tells whether one more place can be tried.
    """

    def settle(success_at: Callable[[float], float], target: float, ends: tuple[float, float]) -> float:
        below, above = (0.0, ends[0]), (1.0, ends[1])
        for _ in range(MOST_TRIES):
            if not has_time():
                break
            share = crossing(below, above, target)
            success = success_at(share)
            if abs(success - target) <= NEAR:
                return share
            if success < target:
                below = (share, success)
            else:
                above = (share, success)
        return crossing(below, above, target)

    return settle


def crossing(below: tuple[float, float], above: tuple[float, float], target: float) -> float:
    """Return where the line between two places passes the target; each is a share and the success there."""
    (first, low), (last, high) = below, above
    return last if high <= low else first + (last - first) * (target - low) / (high - low)
