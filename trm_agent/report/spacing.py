"""Which episodes the page shows where there are too many: evenly spaced ones, and of a group all."""

from collections.abc import Hashable, Sequence

import numpy as np


def spaced(groups: Sequence[Hashable | None], limit: int) -> list[int]:
    """Return the numbers of the chosen episodes, in order.

    Args:
        groups: one for each episode; None for an episode of no group.
        limit: the largest number of episodes; a group that alone exceeds it is cut.
    """
    if len(groups) <= limit:
        return list(range(len(groups)))
    units: dict[Hashable, list[int]] = {}
    for number, group in enumerate(groups):
        units.setdefault(("alone", number) if group is None else ("group", group), []).append(number)
    members = list(units.values())
    count = min(len(members), limit * len(members) // len(groups))
    while count > 1:
        found = [number for unit in _spread(len(members), count) for number in members[unit]]
        if len(found) <= limit:
            return sorted(found)
        count -= 1
    return members[0][:limit]


def _spread(available: int, count: int) -> list[int]:
    return np.unique(np.linspace(0, available - 1, count).round().astype(np.int64)).tolist()
