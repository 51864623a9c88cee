"""Decisions that know nothing of a divergence, or know it wrongly: what a criterion has to be better than.

They look at all sequences of an update at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

NUM_QUARTERS = 4


@dataclass(frozen=True)
class Sequences:
    """All sequences of an update with a token of the model. Shapes (batch,)."""

    lengths: torch.Tensor
    """T, tokens of the model, 1 or more."""
    signs: torch.Tensor
    """Sign of the advantage: -1, 0 or 1, int64."""
    accepted: torch.Tensor
    """bool: decisions of the criterion that is controlled; all True where there is none."""
    acceptance: Sequence[float] = ()
    """Acceptance of each quarter of the sequences in a paired run, shortest to longest, 0 to 1; empty where
    none is paired."""


def permuted_mask(sequences: Sequences, generator: torch.Generator) -> torch.Tensor:
    """Shuffle the decisions among sequences of about one length and one sign of the advantage.

    Acceptance, its dependence on length, and the share of A < 0 among the kept stay what they were; which sequences of
    a group are kept no longer depends on their divergence.

    Args:
        sequences: with the decisions.
        generator: source of randomness, on the CPU.

    Returns:
        bool, shape (batch,).
    """
    groups = 3 * length_quarters(sequences.lengths) + sequences.signs + 1
    drawn = torch.randperm(len(groups), generator=generator)
    kept = torch.empty_like(sequences.accepted)
    kept[groups.argsort(stable=True)] = sequences.accepted[drawn[groups[drawn].argsort(stable=True)]]
    return kept


def yoked_mask(sequences: Sequences, generator: torch.Generator) -> torch.Tensor:
    """Flip a coin for each sequence, with the acceptance that its quarter of the lengths had in a paired run.

    Args:
        sequences: with the paired run's acceptance.
        generator: source of randomness, on the CPU.

    Returns:
        bool, shape (batch,).
    """
    drawn = torch.rand(len(sequences.lengths), generator=generator, dtype=torch.float64)
    return drawn < acceptance_of_lengths(sequences.lengths, sequences.acceptance)


def length_quarters(lengths: torch.Tensor) -> torch.Tensor:
    """Split a batch into four equal groups by length, shortest first; among equal lengths their order decides.

    Args:
        lengths: shape (batch,).

    Returns:
        0 to 3, int64, shape (batch,).
    """
    ranks = torch.empty_like(lengths)
    ranks[lengths.argsort(stable=True)] = torch.arange(len(lengths), device=lengths.device)
    return NUM_QUARTERS * ranks // max(1, len(lengths))


def acceptance_of_lengths(lengths: torch.Tensor, acceptance: Sequence[float]) -> torch.Tensor:
    """Give each sequence the acceptance of its quarter of the lengths: the inverse of `acceptance_by_length`.

    A sequence across the border of two quarters gets a part of each, and sequences of one length share their mean.

    Args:
        lengths: shape (batch,).
        acceptance: of the four quarters, from the shortest to the longest, 0 to 1.

    Returns:
        float64, shape (batch,).
    """
    size = len(lengths)
    borders = torch.arange(size + 1, dtype=torch.float64) * (NUM_QUARTERS / max(1, size))
    below = borders.floor().long().clamp(max=NUM_QUARTERS - 1)
    rates = torch.tensor(list(acceptance), dtype=torch.float64)
    before = torch.nn.functional.pad(rates.cumsum(dim=0), (1, 0))
    of_rank = (before[below] + (borders - below) * rates[below]).diff() * (size / NUM_QUARTERS)
    _, group, counts = torch.unique(lengths, return_inverse=True, return_counts=True)
    shared = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, group.sort().values, of_rank) / counts
    return shared[group]
