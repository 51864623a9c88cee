"""Which single tokens stay in the update: the baselines that the sequence masks are compared with."""

import torch

from trm_agent.core.prefix_masks import pushes_outward
from trm_agent.core.token_batch import TokenBatch


def token_mask(token_kl: torch.Tensor, response_mask: torch.Tensor, threshold: float) -> torch.Tensor:
    """Keep the tokens whose own divergence is inside the threshold.

    The paper's counter-example: the largest divergence between the policies stays what it was, since leaving out a
    token does not bring its context back into the trust region. If the divergence depends on the context alone, what is
    kept is nevertheless the surrogate of a policy of its own, which follows the rollout in the contexts outside (skip).
    Other than DPPO's mask it does not look at the direction of the update.

    Args:
        token_kl: shape (batch, response_length), nats.
        response_mask: bool, True on tokens that the model sampled, shape (batch, response_length).
        threshold: nats.

    Returns:
        bool, shape (batch, response_length). A NaN divergence is left out.
    """
    return response_mask & (token_kl.detach() <= threshold)


def binary_total_variation(batch: TokenBatch) -> torch.Tensor:
    """Return |pi_theta - pi_roll| of the sampled token, the total variation of that token against all others.

    Args:
        batch: the tokens.

    Returns:
        Shape (batch, response_length); 0 on tokens that the model did not sample.
    """
    log_prob = torch.where(batch.response_mask, batch.rollout_log_probs, 0.0)
    return log_prob.exp() * torch.expm1(batch.log_ratio.detach()).abs()


def prefix_budget_mask(
    token_tv: torch.Tensor,
    log_ratio: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    *,
    threshold: float,
    min_position_weight: float = 1.0,
    prefix_budget: float | None = None,
    adaptive_budget: bool = True,
    unknown: torch.Tensor | None = None,
) -> torch.Tensor:
    """Keep the tokens that move towards the rollout policy, or whose weighted divergence is inside what is left.

    w_t falls linearly from 1 at the first token to `min_position_weight` at the last, Z_t = w_t D_t,
    keep_t = [A_t (rho_t - 1) <= 0]  or  Z_t <= min(threshold, threshold + budget sum_{s<t} w_s - sum_{s<t} Z_s)

    with budget = the 90th percentile of the sequence's D_t, at least `prefix_budget` and at most twice that, or always
    `prefix_budget`.
    Without a budget and with equal weights this is DPPO's divergence mask.

    Args:
        token_tv: D_t, total variation of each token's distribution or its binary form |pi_theta - pi_roll| of the
            sampled token, shape (batch, response_length).
        log_ratio: log rho from `masked_log_ratio`, shape (batch, response_length), nats.
        advantages: shape (batch, response_length).
        response_mask: bool, True on tokens that the model sampled, shape (batch, response_length).
        threshold: largest weighted divergence of a token, 0 to 1.
        min_position_weight: weight of the last token, in (0, 1]; 1 weighs all alike.
        prefix_budget: what the weighted average over the prefix may reach; None for no budget.
        adaptive_budget: whether the budget follows the sequence's own percentile.
        unknown: see `pushes_outward`.

    Returns:
        bool, shape (batch, response_length). A NaN divergence is left out.

    Reference:
        CPPO, arXiv:2606.10968v2, equations 8 to 11; DPPO, arXiv:2602.04879.
    """
    divergence = torch.where(response_mask, token_tv.detach().float(), 0.0)
    towards = ~pushes_outward(advantages, log_ratio, unknown)
    positions = response_mask.cumsum(dim=-1) - 1
    last = (response_mask.sum(dim=-1, keepdim=True) - 1).clamp(min=1)
    weight = torch.where(response_mask, 1.0 - (1.0 - min_position_weight) * positions / last, 0.0)
    weighted = weight * divergence
    allowed: torch.Tensor | float = threshold
    if prefix_budget is not None:
        budget: torch.Tensor | float = prefix_budget
        if adaptive_budget:
            # quantiles leave NaN out, so padding must not count as zero divergence
            tail = torch.where(response_mask, divergence, torch.nan).nanquantile(0.9, dim=-1, keepdim=True)
            budget = tail.nan_to_num().clamp(prefix_budget, 2 * prefix_budget)
        spent = weighted.cumsum(dim=-1) - weighted
        earned = budget * (weight.cumsum(dim=-1) - weight)
        allowed = (threshold + earned - spent).clamp(max=threshold)
    return response_mask & ~divergence.isnan() & (towards | (weighted <= allowed))
