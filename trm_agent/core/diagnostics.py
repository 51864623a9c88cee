"""What a batch says about its mask, as sums, counts and extremes that combine exactly over micro-batches and ranks."""

from dataclasses import dataclass

import torch

from trm_agent.core.divergences import token_kl_k2, token_kl_k3
from trm_agent.core.histograms import (
    NUM_DIVERGENCE_BINS,
    NUM_LENGTH_BINS,
    count_bins,
    divergence_bins,
    length_bins,
)
from trm_agent.core.masks import SequenceMask
from trm_agent.core.reductions import masked_max, masked_mean, masked_min, masked_sum


@dataclass(frozen=True)
class MaskDiagnostics:
    """Statistics of one (micro-)batch. Scalars are float64 tensors; sequences without a model token are left out.

    Sums and counts add; `ratio_min` takes the minimum, the other extremes the maximum. Sequences with a divergence that
    is not finite are counted in `num_nonfinite` and left out of every mean and extreme, not of the histograms.
    """

    num_sequences: torch.Tensor
    """Sequences with at least one token of the model."""
    num_accepted: torch.Tensor
    """Those that the mask kept."""
    num_rejected_by_max: torch.Tensor
    """Those outside the max criterion; a sequence outside both criteria counts in both."""
    num_rejected_by_avg: torch.Tensor
    """Those outside the average criterion."""
    num_nonfinite: torch.Tensor
    """Those with an infinite or NaN divergence."""
    num_tokens: torch.Tensor
    """Tokens of the model in the finite sequences."""
    num_truncated_tokens: torch.Tensor
    """Tokens of the finite sequences with rho above the truncation."""
    sum_token_kl_k3: torch.Tensor
    """Sum over those tokens of rho - 1 - log rho, nats."""
    sum_ppl_gap: torch.Tensor
    """Sum over the finite sequences of |mean_t log rho_t|, nats."""
    length_counts: torch.Tensor
    """Sequences in each bin of `length_bins`, shape (NUM_LENGTH_BINS,)."""
    accepted_length_counts: torch.Tensor
    """Accepted sequences in each bin of `length_bins`, shape (NUM_LENGTH_BINS,)."""
    divergence_counts: torch.Tensor
    """Sequences by their largest token divergence, bins of `divergence_bins`, shape (NUM_DIVERGENCE_BINS,)."""
    ratio_min: torch.Tensor
    """Smallest rho of a token; infinity if there is no finite sequence."""
    ratio_max: torch.Tensor
    """Largest rho of a token; -infinity if there is no finite sequence."""
    token_kl_k2_max: torch.Tensor
    """Largest (log rho)^2 / 2 of a token, nats; -infinity if there is no finite sequence."""


@torch.no_grad()
def measure_mask(
    log_ratio: torch.Tensor,
    token_kl_for_max: torch.Tensor,
    response_mask: torch.Tensor,
    mask: SequenceMask,
    *,
    ratio_truncation: float | None = None,
) -> MaskDiagnostics:
    """Measure a masked batch without a host synchronisation.

    Args:
        log_ratio: log rho from `masked_log_ratio`, shape (batch, response_length), nats.
        token_kl_for_max: token divergences that the max criterion compares, shape (batch, response_length), nats.
        response_mask: bool, True on tokens that the model sampled, shape (batch, response_length).
        mask: the decision on this batch.
        ratio_truncation: the cap that the loss applies to rho, or None.

    Returns:
        The statistics, on the device of the inputs and without a graph.
    """
    token_sums = masked_sum(token_kl_k3(log_ratio), response_mask).double()
    least, largest = masked_min(log_ratio, response_mask).double(), masked_max(log_ratio, response_mask).double()
    finite = mask.has_tokens & torch.isfinite(token_sums) & torch.isfinite(least) & torch.isfinite(largest)
    lengths = response_mask.sum(dim=-1)
    if ratio_truncation is None:
        num_truncated = torch.zeros_like(lengths)
    else:
        num_truncated = (response_mask & (log_ratio.exp() > ratio_truncation)).sum(dim=-1)
    by_length = length_bins(lengths)
    by_divergence = divergence_bins(masked_max(token_kl_for_max, response_mask))
    least_log_ratio = torch.where(finite, least, torch.inf)
    largest_log_ratio = torch.where(finite, largest, -torch.inf)

    def total(values: torch.Tensor) -> torch.Tensor:
        return torch.where(finite, values.double(), 0.0).sum()

    return MaskDiagnostics(
        num_sequences=mask.has_tokens.double().sum(),
        num_accepted=mask.accepted.double().sum(),
        num_rejected_by_max=mask.rejected_by_max.double().sum(),
        num_rejected_by_avg=mask.rejected_by_avg.double().sum(),
        num_nonfinite=(mask.has_tokens & ~finite).double().sum(),
        num_tokens=total(lengths),
        num_truncated_tokens=total(num_truncated),
        sum_token_kl_k3=total(token_sums),
        sum_ppl_gap=total(masked_mean(log_ratio, response_mask).abs()),
        length_counts=count_bins(by_length, mask.has_tokens, NUM_LENGTH_BINS),
        accepted_length_counts=count_bins(by_length, mask.accepted, NUM_LENGTH_BINS),
        divergence_counts=count_bins(by_divergence, mask.has_tokens, NUM_DIVERGENCE_BINS),
        ratio_min=least_log_ratio.amin().exp(),
        ratio_max=torch.where(finite.any(), largest_log_ratio.amax().exp(), -torch.inf),
        token_kl_k2_max=torch.where(finite, torch.maximum(token_kl_k2(least), token_kl_k2(largest)), -torch.inf).amax(),
    )
