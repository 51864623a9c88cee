"""Rates of independent trials with their 95 % intervals, and the difference of two."""

import math

Z = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""


def wilson(rate: float, num: float) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a rate from `num` independent observations; `num` need not be an integer."""
    scale = 1 + Z**2 / num
    centre = (rate + Z**2 / (2 * num)) / scale
    half = Z / scale * math.sqrt(rate * (1 - rate) / num + Z**2 / (4 * num**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def newcombe(old: float, num_old: float, new: float, num_new: float) -> tuple[float, float]:
    """Return Newcombe's 95 % interval of `new - old`, two rates of independent samples.

    Of rates on the same tasks it is wider than need be, as long as tasks that succeed once tend to succeed again.
    """
    (old_low, old_high), (new_low, new_high) = wilson(old, num_old), wilson(new, num_new)
    change = new - old
    return change - math.hypot(new - new_low, old_high - old), change + math.hypot(new_high - new, old - old_low)
