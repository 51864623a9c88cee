"""Numbers of a part of an update, such as the tokens of one lag: sums, which are divided after all have been added.

A mean of ratios over updates of which the parts differ in size is of nothing: x = sum_u a_u / sum_u b_u.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Ratio:
    """A number of an update, as the two sums that make it. Scalars, float64."""

    numerator: torch.Tensor
    """Of what is averaged."""
    denominator: torch.Tensor
    """How much it is of; for a mean over updates 1."""
    occurs: torch.Tensor
    """Sequences or tokens without which there is no such number."""


def ratio(numerator: torch.Tensor, denominator: torch.Tensor, occurs: torch.Tensor | None = None) -> Ratio:
    """Form a ratio from scalars.

    Args:
        numerator: any number.
        denominator: 0 or more; 0 only where nothing occurs.
        occurs: see `Ratio`; None for the denominator.
    """
    denominator = denominator.double()
    return Ratio(numerator.double(), denominator, denominator if occurs is None else occurs.double())


def each_update(value: torch.Tensor, occurs: torch.Tensor, counts: torch.Tensor) -> Ratio:
    """Form a number whose mean over updates counts one where nothing occurs as 0: a term of a sum.

    Args:
        value: of this update, scalar.
        occurs: see `Ratio`.
        counts: bool, whether the mean is over this update too.
    """
    return ratio(torch.where(occurs > 0, value.double(), 0.0), counts, occurs)


def ratios(
    names: Sequence[str],
    numerators: torch.Tensor,
    denominators: torch.Tensor,
    occurs: torch.Tensor | None = None,
) -> dict[str, Ratio]:
    """Form the ratios of several parts at once.

    Args:
        names: of the ratios.
        numerators: shape (names,), or a scalar for all; so for the others.
        denominators: see `ratio`.
        occurs: see `ratio`.
    """
    denominators = denominators.double()
    columns = (numerators.double(), denominators, denominators if occurs is None else occurs.double())
    rows = zip(*(column.expand(len(names)).unbind() for column in columns), strict=True)
    return {name: Ratio(*row) for name, row in zip(names, rows, strict=True)}


def sums_of(found: Mapping[str, Ratio]) -> torch.Tensor:
    """Return numerators, denominators and occurrences as rows: shape (3, ratios), float64; at least one ratio."""
    columns = zip(*((each.numerator, each.denominator, each.occurs) for each in found.values()), strict=True)
    return torch.stack([torch.stack(column) for column in columns])


def divided(found: Mapping[str, Ratio]) -> dict[str, torch.Tensor]:
    """Return the numbers that there are: name -> scalar float64."""
    if not found:
        return {}
    numerators, denominators, occurs = sums_of(found)
    numbers = zip(found, (numerators / denominators).unbind(), (occurs > 0).tolist(), strict=True)
    return {name: number for name, number, is_there in numbers if is_there}
