"""Off-policy sequence masking of DeepSeek-V3.2: PPO without the sequences of A < 0 that theta has moved away from."""

import math

import torch

from trm_agent.core.reductions import masked_mean, masked_sum


def off_policy_sequence_mask(
    log_ratio: torch.Tensor, advantages: torch.Tensor, response_mask: torch.Tensor, threshold: float
) -> torch.Tensor:
    """Keep the sequences but those of a negative advantage whose mean log-ratio to the rollout is above the threshold.

    M = 0  where  sum_t A_t < 0  and  (1/T) sum_t log(pi_roll / pi_theta)(y_t | c_t) > threshold,  else 1

    The mean is one sample of the KL per token and no divergence: tokens that became likelier make up for those that
    became less likely, and below 0 it is inside of any threshold.

    Args:
        log_ratio: log rho from `masked_log_ratio`, shape (batch, response_length), nats.
        advantages: same shape; where the tokens of a sequence have several, their mean decides.
        response_mask: bool, True on tokens that the model sampled, same shape.
        threshold: nats per token.

    Returns:
        bool, shape (batch,). A mean that is NaN is outside.

    Reference:
        DeepSeek-V3.2, arXiv:2512.02556, section 3.1, equation 9.
    """
    negative = masked_sum(advantages.detach(), response_mask) < 0
    inside = -masked_mean(log_ratio.detach(), response_mask) <= threshold
    return ~negative | inside


def unclipped_tokens(
    log_ratio: torch.Tensor, advantages: torch.Tensor, response_mask: torch.Tensor, clip: float
) -> torch.Tensor:
    """Keep the tokens that have a gradient under PPO's clip.

    M_t = 0  where  A_t > 0 and rho_t > 1 + clip,  or  A_t < 0 and rho_t < 1 - clip,  else 1

    There min(rho A, clip(rho) A) is the constant (1 + clip) A or (1 - clip) A, elsewhere it is rho A: the surrogate of
    what is kept has PPO's gradient, and lacks these constants in its value.

    Args:
        log_ratio: log rho from `masked_log_ratio`, shape (batch, response_length), nats.
        advantages: same shape.
        response_mask: bool, True on tokens that the model sampled, same shape.
        clip: above 0 and below 1.

    Returns:
        bool, shape (batch, response_length). NaN is left out where the advantage is not 0.

    Reference:
        PPO, arXiv:1707.06347, equation 7.
    """
    moved, advantages = log_ratio.detach(), advantages.detach()
    above = (advantages > 0) & ~(moved <= math.log1p(clip))
    below = (advantages < 0) & ~(moved >= math.log1p(-clip))
    return response_mask & ~(above | below)
