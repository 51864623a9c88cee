"""The numbers of parts of updates on their way through verl, which averages the reports of a step's updates."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import add

from trm_agent.core.ratios import Ratio, sums_of


@dataclass(frozen=True)
class Ratios:
    """Sums of which the numbers of a part of an update are made, over one or more updates.

    verl averages by `+` and `/`: the mean of these objects has the sums of all.
    """

    sums: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    """Name without `trm/` -> numerator, denominator, occurrences: see `core.ratios.Ratio`."""

    def __add__(self, other: "Ratios") -> "Ratios":
        names = dict.fromkeys((*self.sums, *other.sums))
        found = {name: [each.sums[name] for each in (self, other) if name in each.sums] for name in names}
        return Ratios({name: _added(values) for name, values in found.items()})

    def __truediv__(self, count: int) -> "Ratios":
        return self

    def numbers(self) -> dict[str, float]:
        """Return the numbers that there are: name without `trm/` -> number."""
        # -0 becomes 0, as in verl's means
        return {name: numerator / of + 0.0 for name, (numerator, of, occurs) in self.sums.items() if occurs > 0}


def ratios_of(found: Mapping[str, Ratio]) -> Ratios:
    """Return the sums of one update."""
    if not found:
        return Ratios()
    return Ratios(dict(zip(found, zip(*sums_of(found).tolist(), strict=True), strict=True)))


def joined(updates: Iterable[Ratios]) -> Ratios:
    """Return the sums of several updates."""
    return reduce(add, updates, Ratios())


def _added(values: Iterable[tuple[float, float, float]]) -> tuple[float, float, float]:
    numerator, denominator, occurs = (sum(column) for column in zip(*values, strict=True))
    return numerator, denominator, occurs
