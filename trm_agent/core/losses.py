"""The masked surrogate: importance-weighted policy gradient over what the mask keeps."""

import math
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from trm_agent.core.masks import usable_ratios


def masked_surrogate_tokens(
    log_ratio: torch.Tensor,
    advantages: torch.Tensor,
    kept: torch.Tensor,
    *,
    ratio_truncation: float | None = None,
) -> torch.Tensor:
    """Return each token's term of the masked surrogate, as a loss.

    loss_it = -M_it A_it rho_it,   gradient = -M_it A_it min(rho_it, ratio_truncation) grad log pi_theta(y_t | c_t)

    Terms of tokens that are not kept, or whose advantage is 0, are exactly 0 in value and gradient, whatever stands
    there, so an entirely rejected batch still has a graph. So are those with log rho = -infinity: rho is 0.

    Args:
        log_ratio: log rho from `masked_log_ratio`, with its graph, shape (batch, response_length), nats.
        advantages: shape (batch, response_length).
        kept: bool, tokens of the model that the mask keeps (`kept_tokens` of a sequence mask), shape (batch,
            response_length).
        ratio_truncation: upper cap on rho as a weight (it bounds the weight and lets the gradient of log pi through,
            unlike a clip, which stops it); None for no cap.

    Returns:
        Shape (batch, response_length), with a first derivative alone, which needs it unchanged: change a copy.

    Reference:
        arXiv:2512.23075v4, gradient of the masked surrogate.
    """
    weight = torch.where(kept, advantages.detach(), 0.0).neg_()
    return _WeightedRatio.apply(log_ratio, weight, kept, ratio_truncation)


class _WeightedRatio(torch.autograd.Function):
    """weight * min(rho, cap), whose gradient in log rho is itself: autograd would make twice as many passes for it."""

    @staticmethod
    def forward(
        ctx: Any, log_ratio: torch.Tensor, weight: torch.Tensor, kept: torch.Tensor, cap: float | None
    ) -> torch.Tensor:
        # no advantage times an overflowing ratio would be NaN; on a CPU their largest tells whether one does
        overflows = log_ratio.device.type != "cpu" or not _is_usable(log_ratio)
        terms = torch.where(weight != 0 if overflows else kept, log_ratio, 0.0)
        # under a cap too there is no gradient where log rho is infinite
        infinite = None if cap is None else terms.isinf()
        if cap is not None:
            terms.clamp_(max=math.log(cap))
        terms.exp_().mul_(weight)
        ctx.save_for_backward(terms if infinite is None else terms.masked_fill(infinite, 0.0))
        return terms

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return gradient * slope, None, None, None


def _is_usable(log_ratio: torch.Tensor) -> bool:
    return log_ratio.numel() == 0 or bool(usable_ratios(log_ratio.amax()))


def decoupled_surrogate_tokens(
    log_probs: torch.Tensor,
    proximal_log_probs: torch.Tensor,
    rollout_log_probs: torch.Tensor,
    advantages: torch.Tensor,
    kept: torch.Tensor,
    *,
    ratio_truncation: float | None = None,
    proximal_clip: float | None = None,
) -> torch.Tensor:
    """Return each token's term of the surrogate with three policies: rollout, proximal and current.

    loss_it = -M_it w_it min(r_it A_it, clip(r_it, 1 - c, 1 + c) A_it),
    r = pi_theta / pi_prox,  w = min(pi_prox / pi_roll, ratio_truncation), a constant

    The proximal policy is the trainer's at the start of the step, so w mends the mismatch between the engines and r
    the updates within the step. Without clip and truncation it is the plain masked surrogate: r w = rho. A log-prob of
    -infinity is a ratio or a weight of 0 and makes no NaN.

    Args:
        log_probs: current policy, with its graph, shape (batch, response_length), nats.
        proximal_log_probs: the trainer's policy at the start of the step, same shape, nats.
        rollout_log_probs: policy that sampled, same shape, nats.
        advantages: same shape.
        kept: see `masked_surrogate_tokens`.
        ratio_truncation: upper cap on w; None for no cap.
        proximal_clip: c, PPO's clip of r; None for no clip.

    Returns:
        Shape (batch, response_length).

    Reference:
        Decoupled PPO, arXiv:2110.00641, with the mask of arXiv:2512.23075v4.
    """
    proximal = proximal_log_probs.detach()
    log_weight = torch.where(kept, proximal - rollout_log_probs.detach(), 0.0)
    largest = 0.9 * math.log(torch.finfo(log_probs.dtype).max)
    # w = infinity times r = 0 would be NaN
    log_weight = log_weight.clamp(max=largest if ratio_truncation is None else math.log(ratio_truncation))
    weighted = torch.where(kept & (advantages.detach() != 0), log_weight.exp() * advantages.detach(), 0.0)
    # w = 0 beats r = infinity; and an overflowing r has a gradient of 0 times infinity where it is clipped
    log_ratio = torch.where(weighted != 0, log_probs - proximal, 0.0)
    ratio = log_ratio.clamp(max=largest).exp()
    if proximal_clip is None:
        return -weighted * ratio
    return -torch.minimum(weighted * ratio, weighted * ratio.clamp(1 - proximal_clip, 1 + proximal_clip))


def kept_tokens(response_mask: torch.Tensor, accepted: torch.Tensor) -> torch.Tensor:
    """Spread a sequence mask over its tokens.

    Args:
        response_mask: bool, True on tokens that the model sampled, shape (batch, response_length).
        accepted: bool, shape (batch,).

    Returns:
        bool, shape (batch, response_length).

    Raises:
        ValueError: a mask is not bool.
    """
    for mask in (response_mask, accepted):
        if mask.dtype != torch.bool:
            raise ValueError(f"masks must be torch.bool, not {mask.dtype}")
    # as bytes: torch repeats a byte along a row many at once, but a truth value one by one
    return (response_mask.view(torch.uint8) & accepted.view(torch.uint8).unsqueeze(-1)).view(torch.bool)


def masked_surrogate_loss(
    log_ratio: torch.Tensor,
    advantages: torch.Tensor,
    kept: torch.Tensor,
    *,
    num_sequences: int,
    ratio_truncation: float | None = None,
) -> torch.Tensor:
    """Return the negative masked surrogate of the paper.

    loss = -(1/N) sum_i M_i sum_t A_it rho_it

    N counts the whole batch, rejected sequences included, so that rejecting never inflates the others' gradient.

    Args:
        log_ratio: see `masked_surrogate_tokens`.
        advantages: see `masked_surrogate_tokens`.
        kept: see `masked_surrogate_tokens`.
        num_sequences: N, the sequences of the whole batch over all micro-batches and ranks.
        ratio_truncation: see `masked_surrogate_tokens`.

    Returns:
        Scalar.

    Raises:
        ValueError: if `num_sequences` is not positive.

    Reference:
        arXiv:2512.23075v4, masked surrogate and its gradient.
    """
    if num_sequences < 1:
        raise ValueError(f"num_sequences: got {num_sequences}; allowed: 1 or more; give the whole batch's size")
    tokens = masked_surrogate_tokens(log_ratio, advantages, kept, ratio_truncation=ratio_truncation)
    return tokens.sum() / num_sequences
