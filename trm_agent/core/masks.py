"""Which sequences stay in the update: the trust-region masks M(x, y)."""

from dataclasses import dataclass

import torch

from trm_agent.core.reductions import masked_max, masked_mean


@dataclass(frozen=True)
class SequenceMask:
    """A decision for every sequence of a batch. All tensors are bool with shape (batch,)."""

    accepted: torch.Tensor
    """True where the sequence stays in the update. Always False for a sequence without a token of the model."""
    rejected_by_max: torch.Tensor
    """True where the largest token divergence is outside its threshold (the average may be outside as well)."""
    rejected_by_avg: torch.Tensor
    """True where the average token divergence is outside its threshold (the largest may be outside as well)."""
    has_tokens: torch.Tensor
    """True where the sequence has at least one token of the model; the others are padding and never counted."""


def trust_region_mask(
    max_token_kl: torch.Tensor,
    avg_token_kl: torch.Tensor,
    has_tokens: torch.Tensor,
    *,
    max_threshold: float | None,
    avg_threshold: float | None,
) -> SequenceMask:
    """Accept the sequences whose divergence stays inside every threshold that is given.

    M(x, y) = 1[max_t KL(c_t) <= max_threshold] * 1[1/T sum_t KL(c_t) <= avg_threshold]

    A threshold of None leaves its factor out. A sequence whose divergence is NaN is rejected.

    Args:
        max_token_kl: largest token divergence of each sequence, shape (batch,), nats.
        avg_token_kl: mean token divergence of each sequence, shape (batch,), nats.
        has_tokens: bool, shape (batch,).
        max_threshold: allowed divergence of any single token, nats.
        avg_threshold: allowed mean divergence, nats.

    Returns:
        The decision with its reasons. It carries no gradient.

    Reference:
        arXiv:2512.23075v4, sequence masks by maximum and by average.
    """
    # The mask is born here: it is a constant to the optimiser.
    max_token_kl, avg_token_kl = max_token_kl.detach(), avg_token_kl.detach()
    nowhere = torch.zeros_like(has_tokens)
    # "not inside" and never "outside": comparisons with NaN are False, and NaN must reject.
    rejected_by_max = nowhere if max_threshold is None else has_tokens & ~(max_token_kl <= max_threshold)
    rejected_by_avg = nowhere if avg_threshold is None else has_tokens & ~(avg_token_kl <= avg_threshold)
    return SequenceMask(
        accepted=has_tokens & ~rejected_by_max & ~rejected_by_avg,
        rejected_by_max=rejected_by_max,
        rejected_by_avg=rejected_by_avg,
        has_tokens=has_tokens,
    )


def sequence_mask_from_tokens(
    token_kl_for_max: torch.Tensor,
    token_kl_for_avg: torch.Tensor,
    response_mask: torch.Tensor,
    *,
    max_threshold: float | None,
    avg_threshold: float | None,
) -> SequenceMask:
    """Reduce token divergences to their maximum and average and apply `trust_region_mask`.

    Args:
        token_kl_for_max: token divergences of the max criterion, shape (batch, response_length), nats.
        token_kl_for_avg: token divergences of the average criterion, shape (batch, response_length), nats.
        response_mask: bool, True on tokens that the model sampled, shape (batch, response_length).
        max_threshold: see `trust_region_mask`.
        avg_threshold: see `trust_region_mask`.

    Returns:
        The decision with its reasons. It carries no gradient.
    """
    return trust_region_mask(
        masked_max(token_kl_for_max.detach(), response_mask),
        masked_mean(token_kl_for_avg.detach(), response_mask),
        response_mask.any(dim=-1),
        max_threshold=max_threshold,
        avg_threshold=avg_threshold,
    )
