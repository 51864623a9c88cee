"""Tokens of whose divergence nothing is known: they are in no sum and no maximum of divergences.

A replayed token whose kept set may be larger than its record has no upper bound, nor has one of `topk` whose tail may
lie where theta has no mass. It stays in all that is made of ratios, with the one that the loss takes (of the former on
its record), and k3 stands for its KL where expectations are asked for. A KL that is infinite by its lower bound too is
known.
"""

from dataclasses import dataclass

import torch

from trm_agent.core.block_sums import BlockSums, block_sums
from trm_agent.core.bound_sums import unbiased_kl
from trm_agent.core.token_batch import BatchDivergences, TokenBatch, without_bound


@dataclass(frozen=True)
class KnownDivergences:
    """Upper bounds of a batch's divergences, 0 on the tokens without one. Shape (batch, response_length)."""

    kl_for_max: torch.Tensor
    """Of the divergence that the max criterion compares, nats."""
    kl_for_avg: torch.Tensor
    """Of the divergence that the average criterion compares, nats."""
    tv: torch.Tensor
    """Of the total variation."""
    unknown: torch.Tensor | None
    """bool: the tokens without an upper bound; None where every token has one."""


@dataclass(frozen=True)
class KlSums:
    """The KL of a batch's tokens and of its sequences, nats."""

    known: BlockSums
    """Of kl_for_avg, where it is known."""
    k3: torch.Tensor
    """sum_t rho - 1 - log rho, shape (batch,)."""
    unbiased: torch.Tensor
    """Of each token: KL(roll || theta) where it is known, else k3, shape (batch, response_length)."""
    sum_unbiased: torch.Tensor
    """Its sums, shape (batch,)."""


def known_divergences(divergences: BatchDivergences) -> KnownDivergences:
    """Leave out the tokens whose KL has no upper bound.

    Args:
        divergences: of a batch; both of their KL are estimated, or both measured.

    Returns:
        The same tensors where every token has an upper bound.
    """
    for_max, for_avg, tv = divergences.kl_for_max.upper, divergences.kl_for_avg.upper, divergences.tv.upper
    unknown = without_bound(divergences.kl_for_avg)
    if unknown is not None:
        for_max, for_avg, tv = (bound.masked_fill(unknown, 0.0) for bound in (for_max, for_avg, tv))
    return KnownDivergences(for_max, for_avg, tv, unknown)


def kl_sums(batch: TokenBatch, known: KnownDivergences) -> KlSums:
    """Sum the KL of each sequence.

    Args:
        batch: with its divergences.
        known: those that are known.
    """
    divergences, kl = batch.divergences, unbiased_kl(batch)
    k3 = kl if divergences.sampled else divergences.ratio_deviation - batch.log_ratio
    of_known = block_sums(known.kl_for_avg)
    sum_k3 = of_known.total if known.kl_for_avg is k3 else k3.sum(dim=-1)
    if known.unknown is None:
        return KlSums(of_known, sum_k3, kl, sum_k3 if divergences.sampled else of_known.total)
    instead = torch.where(known.unknown, k3, 0.0)
    return KlSums(of_known, sum_k3, known.kl_for_avg + instead, of_known.total + instead.sum(dim=-1))
