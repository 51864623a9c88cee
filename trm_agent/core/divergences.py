"""Divergence of single tokens between the rollout policy and the policy in training, from sampled log-probabilities.

Direction: KL(roll || theta), the rollout policy first, estimated on tokens that the rollout policy sampled.
"""

from collections.abc import Callable

import torch


def masked_log_ratio(
    log_probs: torch.Tensor, rollout_log_probs: torch.Tensor, response_mask: torch.Tensor
) -> torch.Tensor:
    """Return log rho_t = log pi_theta(y_t | c_t) - log pi_roll(y_t | c_t), and 0 where the mask is False.

    Differentiable in `log_probs`; what stands at masked positions (NaN included) reaches neither value nor gradient.

    Args:
        log_probs: current policy, shape (batch, response_length), nats.
        rollout_log_probs: policy that sampled, shape (batch, response_length), nats.
        response_mask: bool, True on tokens that the model sampled, shape (batch, response_length).

    Returns:
        Shape (batch, response_length), at least float32.

    Raises:
        ValueError: if the shapes differ, are not two-dimensional, or the mask is not bool.

    Reference:
        arXiv:2512.23075v4, definition of rho_t.
    """
    if log_probs.ndim != 2 or not log_probs.shape == rollout_log_probs.shape == response_mask.shape:
        raise ValueError(
            f"log_probs {tuple(log_probs.shape)}, rollout_log_probs {tuple(rollout_log_probs.shape)} and response_mask "
            f"{tuple(response_mask.shape)} must share one shape (batch, response_length); pad them to one length"
        )
    if response_mask.dtype != torch.bool:
        raise ValueError(f"response_mask has dtype {response_mask.dtype}; allowed: torch.bool; call .bool() on it")
    dtype = torch.promote_types(torch.promote_types(log_probs.dtype, rollout_log_probs.dtype), torch.float32)
    return torch.where(response_mask, log_probs.to(dtype) - rollout_log_probs.to(dtype), 0.0)


def token_kl_k1(log_ratio: torch.Tensor) -> torch.Tensor:
    """Estimate KL(roll || theta) by k1 = -log rho: unbiased, of either sign.

    Args:
        log_ratio: log rho, any shape, nats.

    Returns:
        Same shape, nats.
    """
    return -log_ratio


def token_kl_k2(log_ratio: torch.Tensor) -> torch.Tensor:
    """Estimate KL(roll || theta) by k2 = (log rho)^2 / 2: never negative, symmetric, biased.

    Args:
        log_ratio: log rho, any shape, nats.

    Returns:
        Same shape, nats.
    """
    return log_ratio.square().mul_(0.5)


def token_kl_k3(log_ratio: torch.Tensor) -> torch.Tensor:
    """Estimate KL(roll || theta) by k3 = rho - 1 - log rho: never negative, unbiased.

    Rounding leaves an absolute error of about machine epsilon times |log rho|.

    Args:
        log_ratio: log rho, any shape, nats.

    Returns:
        Same shape, nats; infinity where rho overflows.
    """
    return torch.expm1(log_ratio) - log_ratio


def abs_log_ratio(log_ratio: torch.Tensor) -> torch.Tensor:
    """Return |log rho|: no estimate of a KL, but what the paper's first version compared.

    Args:
        log_ratio: log rho, any shape, nats.

    Returns:
        Same shape, nats.
    """
    return log_ratio.abs()


def abs_ratio_minus_one(log_ratio: torch.Tensor) -> torch.Tensor:
    """Return |rho - 1|, whose expectation under the rollout policy is twice the total variation.

    Args:
        log_ratio: log rho, any shape, nats.

    Returns:
        Same shape; infinity where rho overflows.
    """
    return torch.expm1(log_ratio).abs()


TOKEN_DIVERGENCES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "k1": token_kl_k1,
    "k2": token_kl_k2,
    "k3": token_kl_k3,
    "abs_log_ratio": abs_log_ratio,
    "abs_ratio_minus_one": abs_ratio_minus_one,
}
KL_ESTIMATES = ("k1", "k2", "k3")
"""Those that estimate a KL in nats: the others are no KL, and no bound may take them for one."""


def token_divergence(log_ratio: torch.Tensor, name: str) -> torch.Tensor:
    """Measure how far every sampled token has moved by a named statistic of its ratio.

    Args:
        log_ratio: log rho, any shape, nats; 0 at masked positions gives 0.
        name: a key of `TOKEN_DIVERGENCES`.

    Returns:
        Same shape.

    Raises:
        ValueError: for a name that does not exist.
    """
    if name not in TOKEN_DIVERGENCES:
        raise ValueError(f"name: got {name!r}; allowed: {', '.join(TOKEN_DIVERGENCES)}; choose one of them")
    return TOKEN_DIVERGENCES[name](log_ratio)
