"""What the update maximises, as a number: the surrogate, its masked form, and its margin over the error bound."""

import torch

from trm_agent.core.losses import masked_surrogate_loss


def surrogate(
    log_ratio: torch.Tensor,
    advantages: torch.Tensor,
    kept: torch.Tensor,
    *,
    num_sequences: int | None = None,
) -> torch.Tensor:
    """Estimate the surrogate from a batch that the rollout policy sampled.

    L = E_roll[A sum_t rho_t],   masked: (1/N) sum_i M_i A_i sum_t rho_it

    The negative of `masked_surrogate_loss`, for one advantage a sequence. On policy it is E_roll[A T] and not 0: take
    `surrogate_gain` to compare with an error bound.

    Args:
        log_ratio: log rho from `masked_log_ratio`, shape (batch, response_length), nats.
        advantages: A_i, shape (batch,).
        kept: bool, shape (batch, response_length): tokens of the model for L, those that the mask keeps for the masked
            form.
        num_sequences: N, rejected sequences included; None takes the batch.

    Returns:
        Scalar.

    Raises:
        ValueError: the shapes do not fit together, `kept` is not bool, or `num_sequences` is not positive.

    Reference:
        arXiv:2512.23075v4, surrogate and masked surrogate.
    """
    _check("advantages", advantages, log_ratio, kept)
    tokens = advantages.unsqueeze(-1).expand_as(log_ratio)
    size = log_ratio.shape[0] if num_sequences is None else num_sequences
    return -masked_surrogate_loss(log_ratio, tokens, kept, num_sequences=size)


def surrogate_gain(
    log_ratio: torch.Tensor, rewards: torch.Tensor, kept: torch.Tensor, *, num_sequences: int | None = None
) -> torch.Tensor:
    """Estimate the first-order gain of theta over the rollout policy: 0 on policy.

    L' = E_roll[R sum_t (rho_t - 1)]

    R - b has the same expectation for a baseline b that does not look at the response, and less variance.

    Args:
        log_ratio: see `surrogate`.
        rewards: R_i, shape (batch,); in [0, 1] if an error bound is to be compared.
        kept: see `surrogate`.
        num_sequences: see `surrogate`.

    Returns:
        Scalar.

    Raises:
        ValueError: see `surrogate`.

    Reference:
        arXiv:2512.23075v4, J(theta) - J(roll) = L' + Error.
    """
    _check("rewards", rewards, log_ratio, kept)
    size = log_ratio.shape[0] if num_sequences is None else num_sequences
    if size < 1:
        raise ValueError(f"num_sequences: got {size}; allowed: 1 or more; give the whole batch's size")
    weights = torch.where(kept, rewards.detach().unsqueeze(-1), 0.0)
    # expm1: the ratios of a small step are 1 up to rounding; no reward times an overflowing ratio would be NaN
    return (weights * torch.expm1(torch.where(weights != 0, log_ratio, 0.0))).sum() / size


def improvement_margin(gain: torch.Tensor, bound: torch.Tensor) -> torch.Tensor:
    """Return by how much the first-order gain exceeds the error bound.

    margin = L' - B*,   margin > 0  =>  J(theta) > J(roll)

    The implication needs L' in expectation, rewards in [0, 1] and the assumptions of `trm_agent.core.bounds`. With L'
    of a batch and divergences of sampled contexts the margin is a diagnostic, not a proof.

    Args:
        gain: L' from `surrogate_gain`.
        bound: B* from `error_bounds`, broadcasts with `gain`.

    Returns:
        Broadcast shape; NaN where either is NaN.

    Reference:
        arXiv:2512.23075v4, monotonic improvement.
    """
    return gain - bound


def _check(name: str, values: torch.Tensor, log_ratio: torch.Tensor, kept: torch.Tensor) -> None:
    if log_ratio.ndim != 2 or kept.shape != log_ratio.shape or values.shape != log_ratio.shape[:1]:
        raise ValueError(
            f"{name} {tuple(values.shape)}, log_ratio {tuple(log_ratio.shape)} and kept {tuple(kept.shape)} must be "
            f"(batch,) and twice (batch, response_length); give one of {name} a sequence"
        )
    if kept.dtype != torch.bool:
        raise ValueError(f"kept: got {kept.dtype}; allowed: torch.bool; call .bool() on it")
