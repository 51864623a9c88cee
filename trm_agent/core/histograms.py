"""Counts over fixed bins, which add up exactly over micro-batches and ranks, and what can be read from the sums.

Quantiles and quartile groups of a whole batch cannot be formed from those of its parts; from added counts they can.
"""

from collections.abc import Sequence

import torch

BINS_PER_DECADE = 8
LOWEST_DECADE, HIGHEST_DECADE = -10, 4
BINS_PER_OCTAVE = 4
HIGHEST_OCTAVE = 20

# Bin 0 is below the first edge, bin i lies between edges i - 1 and i, the last bin is above the last edge.
DIVERGENCE_EDGES = tuple(
    10.0 ** (LOWEST_DECADE + step / BINS_PER_DECADE)
    for step in range((HIGHEST_DECADE - LOWEST_DECADE) * BINS_PER_DECADE + 1)
)
NUM_DIVERGENCE_BINS = len(DIVERGENCE_EDGES) + 1

# Bin i holds the lengths from edge i to just below edge i + 1; short lengths have a bin each.
LENGTH_EDGES = tuple(
    sorted({round(2.0 ** (step / BINS_PER_OCTAVE)) for step in range(HIGHEST_OCTAVE * BINS_PER_OCTAVE + 1)})
)
NUM_LENGTH_BINS = len(LENGTH_EDGES)


def divergence_bins(divergences: torch.Tensor) -> torch.Tensor:
    """Return the bin of each divergence; NaN and infinity fall into the last.

    Args:
        divergences: shape (batch,), nats.

    Returns:
        Indices in [0, `NUM_DIVERGENCE_BINS`), int64, shape (batch,).
    """
    edges = torch.tensor(DIVERGENCE_EDGES, dtype=torch.float64, device=divergences.device)
    return torch.bucketize(divergences.detach().double().nan_to_num(nan=torch.inf), edges)


def length_bins(lengths: torch.Tensor) -> torch.Tensor:
    """Return the bin of each length of one token or more.

    Args:
        lengths: shape (batch,), tokens.

    Returns:
        Indices in [0, `NUM_LENGTH_BINS`), int64, shape (batch,).
    """
    edges = torch.tensor(LENGTH_EDGES, device=lengths.device)
    return (torch.bucketize(lengths, edges, right=True) - 1).clamp(min=0)


def count_bins(bins: torch.Tensor, counted: torch.Tensor, num_bins: int) -> torch.Tensor:
    """Count the entries of each bin.

    Args:
        bins: int64 indices, shape (batch,).
        counted: bool, which entries count, shape (batch,).
        num_bins: length of the result.

    Returns:
        Shape (num_bins,), float64.
    """
    counts = torch.zeros(num_bins, dtype=torch.float64, device=bins.device)
    return counts.index_add_(0, bins, counted.double())


def divergence_quantile(counts: Sequence[float], quantile: float) -> float:
    """Read a quantile from the counts of `divergence_bins`, interpolated within the bin on the logarithmic scale.

    A bin spans a factor of 10^(1/8) = 1.33, so the result is off by less than that factor. Below the first edge the
    result is 0, above the last edge it is the last edge.

    Args:
        counts: length `NUM_DIVERGENCE_BINS`, with a sum above 0.
        quantile: in (0, 1].

    Returns:
        The divergence, nats.
    """
    target, below = quantile * sum(counts), 0.0
    for index, count in enumerate(counts):
        if count > 0 and below + count >= target * (1 - 1e-12):
            if index == 0:
                return 0.0
            if index == len(DIVERGENCE_EDGES):
                break
            low, high = DIVERGENCE_EDGES[index - 1], DIVERGENCE_EDGES[index]
            return low * (high / low) ** ((target - below) / count)
        below += count
    return DIVERGENCE_EDGES[-1]


def kept_fraction_by_quartile(all_counts: Sequence[float], kept_counts: Sequence[float]) -> list[float]:
    """Split a batch into four equal groups by length, shortest first, and return the fraction kept of each.

    A bin that lies across the border of two groups gives each its share, with the bin's own kept fraction.

    Args:
        all_counts: sequences in each bin of `length_bins`, with a sum above 0.
        kept_counts: those of them that were kept.

    Returns:
        Four fractions.
    """
    group_size = sum(all_counts) / 4
    fractions = []
    for group in range(4):
        start, end, kept, below = group * group_size, (group + 1) * group_size, 0.0, 0.0
        for count, kept_count in zip(all_counts, kept_counts, strict=True):
            shared = min(end, below + count) - max(start, below)
            if shared > 0:
                kept += kept_count * shared / count
            below += count
        fractions.append(kept / group_size)
    return fractions
