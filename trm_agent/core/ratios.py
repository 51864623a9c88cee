"""Numbers of a part of an update, such as the tokens of one lag: sums, which are divided after all have been added.

A mean of ratios over updates of which the parts differ in size is of nothing: x = sum_u a_u / sum_u b_u.
"""

from collections.abc import Mapping
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


def each_update(value: torch.Tensor, occurs: torch.Tensor) -> Ratio:
    """Form a number whose mean over updates counts one where nothing occurs as 0: a count, or a term of a sum."""
    return ratio(torch.where(occurs > 0, value.double(), 0.0), torch.ones_like(value, dtype=torch.float64), occurs)


def divided(ratios: Mapping[str, Ratio]) -> dict[str, torch.Tensor]:
    """Return the numbers that there are: name -> scalar float64."""
    return {name: each.numerator / each.denominator for name, each in ratios.items() if bool(each.occurs > 0)}
