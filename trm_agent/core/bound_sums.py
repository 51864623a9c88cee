"""What every sequence adds to the bounds: the paper's, chi2-KL, and the guarantee of stop.

Over the model's tokens t = 1 .. T of a sequence: sum_t (rho_t - 1)^2, whose expectation is sum_t E_roll[chi2(c_t)];
sum_t KL(c_t); sum_t (t - 1) KL(c_t); and max_t KL(c_t). The KL is measured where both distributions are known, else it
is k3, and of the largest the max criterion's estimate, or k2 where that estimates no KL.
"""

import math

import torch

from trm_agent.core.divergences import token_kl_k2
from trm_agent.core.reductions import sum_of_squares
from trm_agent.core.stop import before_first_outside
from trm_agent.core.token_batch import TokenBatch


def bound_sums(
    batch: TokenBatch,
    kl: torch.Tensor,
    positions: torch.Tensor,
    *,
    sum_kl: torch.Tensor,
    max_known_kl: torch.Tensor,
    gain: torch.Tensor,
    stopped: torch.Tensor,
    cut: torch.Tensor,
    max_kl: float,
) -> dict[str, torch.Tensor]:
    """Sum over each sequence what the bounds are made of.

    Args:
        batch: with its divergences, 0 on what the model did not sample.
        kl: of each token, from `unbiased_kl`; k3 where that is infinite, shape (batch, response_length), nats.
        positions: number t of each token of the model, same shape.
        sum_kl: sum_t of `kl`, shape (batch,), nats.
        max_known_kl: largest kl_for_max that is known, shape (batch,).
        gain: sum_t A (rho - 1), shape (batch,).
        stopped: bool, a context of the sequence is outside, shape (batch,).
        cut: `rows_where` of `stopped`.
        max_kl: threshold of stop, which kl_for_max is compared with; infinity for none.

    Returns:
        Shape (batch,) each: `chi2`, `kl`, `delayed_kl`, `max_kl`; with a threshold `stop_max_kl`, which is delta,
        infinite where the threshold is of no KL, `stopped`, and over the tokens before the first context outside
        `stop_chi2`, `stop_kl`, `stop_delayed_kl`, `stop_gain`.
    """
    sums = _sums(batch.divergences.ratio_deviation, kl, positions, sum_kl)
    largest = {"max_kl": max_known_kl if batch.compares_kl else token_kl_k2(batch.log_ratio).amax(dim=-1)}
    if math.isinf(max_kl):
        return sums | largest
    of_stop = sums | {"gain": gain}
    if len(cut):
        of_cut = _before_cut(batch, kl, positions, cut, max_kl)
        of_stop = {name: whole.index_copy(0, cut, of_cut[name].to(whole.dtype)) for name, whole in of_stop.items()}
    delta = torch.full_like(sum_kl, max_kl if batch.compares_kl else math.inf, dtype=torch.float64)
    named = {f"stop_{name}": values for name, values in of_stop.items()}
    return sums | largest | named | {"stop_max_kl": delta, "stopped": stopped}


def unbiased_kl(batch: TokenBatch) -> torch.Tensor:
    """Return KL(roll || theta) of each token where it is measured, else k3.

    Args:
        batch: with its divergences.

    Returns:
        Shape (batch, response_length), nats: of an interval the upper bound, which may be infinite.
    """
    divergences = batch.divergences
    if divergences.sampled and batch.avg_estimator != "k3":
        return divergences.ratio_deviation - batch.log_ratio
    return divergences.kl_for_avg.upper


def _before_cut(
    batch: TokenBatch, kl: torch.Tensor, positions: torch.Tensor, cut: torch.Tensor, max_kl: float
) -> dict[str, torch.Tensor]:
    """Sum over the tokens before the first context outside, of some sequences."""
    divergences = batch.divergences
    before = before_first_outside(divergences.kl_for_max.upper[cut], max_kl)
    deviation, kl = (torch.where(before, values[cut], 0.0) for values in (divergences.ratio_deviation, kl))
    gain = (batch.advantages[cut] * deviation).sum(dim=-1)
    return _sums(deviation, kl, positions[cut], kl.sum(dim=-1)) | {"gain": gain}


def _sums(
    deviation: torch.Tensor, kl: torch.Tensor, positions: torch.Tensor, sum_kl: torch.Tensor
) -> dict[str, torch.Tensor]:
    # a new tensor, so that the product may take its place
    delayed = positions.to(kl.dtype).mul_(kl).sum(dim=-1) - sum_kl
    # rounding leaves k3 of equal policies a little below 0
    return {"chi2": sum_of_squares(deviation), "kl": sum_kl.clamp(min=0), "delayed_kl": delayed.clamp(min=0)}
