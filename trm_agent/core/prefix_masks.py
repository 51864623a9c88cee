"""Criteria that look at a sequence in its order, or at the direction of its update."""

import torch

from trm_agent.core.masks import Interval, max_statistic


def before_first(outside: torch.Tensor) -> torch.Tensor:
    """Return the places before the first that is outside.

    Args:
        outside: bool, shape (batch, response_length).

    Returns:
        bool, same shape; False from the first True on.
    """
    return outside.cumsum(dim=-1, dtype=torch.int32) == 0


def until_first(outside: torch.Tensor, response_mask: torch.Tensor) -> torch.Tensor:
    """Keep each sequence up to its first token that is outside, which is left out with all that follow.

    tau = first t that is outside,   M_t = 1[t < tau]

    If "outside" depends on the context c_t alone, E_roll[A sum_{t < tau} rho_t] is the surrogate of a policy of its
    own: theta before tau, the rollout from there on.

    Args:
        outside: bool, shape (batch, response_length); what stands where the mask is False is not looked at.
        response_mask: bool, True on tokens that the model sampled, shape (batch, response_length).

    Returns:
        bool, shape (batch, response_length).
    """
    return response_mask & before_first(outside & response_mask)


def pushes_outward(
    advantages: torch.Tensor, log_ratio: torch.Tensor, unknown: torch.Tensor | None = None
) -> torch.Tensor:
    """Return where the update moves the policy further away from the rollout: A (rho - 1) > 0.

    A token with an advantage of 0 is not pushed. NaN counts as outward, for it must not vouch for a token.

    Args:
        advantages: shape (batch, response_length).
        log_ratio: log rho from `masked_log_ratio`, same shape, nats.
        unknown: bool, same shape, True where nothing is known of rho, so that the token may be pushed; None: nowhere.

    Returns:
        bool, same shape; False where the log ratio is 0, as on tokens that the model did not sample.
    """
    # rho - 1 has the sign of log rho
    outward = ~(advantages.detach() * log_ratio.detach() <= 0)
    return outward if unknown is None else outward | (unknown & (advantages.detach() != 0))


def restricted_max_statistic(divergence: Interval, counted: torch.Tensor) -> Interval:
    """Reduce token divergences to the largest among some tokens: max_t D_t 1[t counted].

    Args:
        divergence: of the tokens, nowhere negative and 0 on what the model did not sample, shape (batch,
            response_length), nats.
        counted: bool, same shape. A divergence that is NaN counts in any case.

    Returns:
        Shape (batch,); 0 where no token counts.
    """
    return max_statistic(divergence.map(lambda bound: torch.where(counted | bound.isnan(), bound, 0.0)))


def prefix_mean_statistic(divergence: Interval, response_mask: torch.Tensor) -> Interval:
    """Reduce token divergences to their largest running mean: max_m (1/m) sum_{t <= m} D_t, m = 1 .. T.

    Never less than the mean over the whole sequence, which later tokens near the rollout can bring down again.

    Args:
        divergence: see `restricted_max_statistic`.
        response_mask: bool, True on tokens that the model sampled, shape (batch, response_length).

    Returns:
        Shape (batch,); 0 for a sequence without a token.
    """
    num_tokens = response_mask.cumsum(dim=-1).clamp(min=1)
    return max_statistic(divergence.map(lambda bound: bound.detach().cumsum(dim=-1) / num_tokens))
