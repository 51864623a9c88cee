"""Stop: keep a sequence up to its first context outside, and what that is worth without any premise.

pi_h, the hybrid, is theta before the first context with KL(c) > delta and the rollout policy from there on. Whether a
context comes after that is a function of the context, so pi_h is a policy, and its divergence is at most delta in
*every* context. Its first-order gain is that of the tokens before the cut.
"""

import torch

from trm_agent.core.bound_inputs import Numbers, as_float64
from trm_agent.core.bounds import mixed_bound, pinsker, pinsker_marginal_bound
from trm_agent.core.chi2_bounds import pooled_chi2_kl_bound
from trm_agent.core.prefix_masks import before_first


def before_first_outside(token_kl: torch.Tensor, max_kl: float) -> torch.Tensor:
    """Return the tokens before tau, the first context whose divergence is above the threshold.

    Args:
        token_kl: KL(c_t), or an upper bound of it, 0 on what the model did not sample, shape (batch, response_length),
            nats. With the exact KL tau is a function of the context; with an estimate from the sampled token it is not,
            and what is proven of stop holds approximately.
        max_kl: delta, nats.

    Returns:
        bool, same shape; False from the first token that is above (or NaN) on.
    """
    # "not inside" and never "outside": NaN stops
    return before_first(~(token_kl <= max_kl))


def hybrid_bound(
    horizon: Numbers, max_kl: Numbers, kept_kl: Numbers, kept_chi2: Numbers, kept_delayed_kl: Numbers
) -> torch.Tensor:
    """Bound |J(pi_h) - J(roll) - L'_h| without a premise: the least of half the paper's bounds and of chi2-KL.

    Args:
        horizon: T.
        max_kl: delta, which holds for pi_h in every context, nats.
        kept_kl: E_roll[sum_t KL(c_t)] over the contexts in which pi_h is theta, nats.
        kept_chi2: E_roll[sum_t chi2(c_t)] over these.
        kept_delayed_kl: E_roll[sum_t (t - 1) KL(c_t)] over these, nats.

    Returns:
        Float64, broadcast shape.

    Raises:
        ValueError: see `as_float64`.
    """
    eps = pinsker(max_kl)
    halves = pinsker_marginal_bound(horizon, eps, max_kl) / 2, mixed_bound(horizon, eps, pinsker(kept_kl)) / 2
    least = torch.minimum(*halves)
    return torch.minimum(least, pooled_chi2_kl_bound(horizon, kept_chi2, kept_delayed_kl))


def cut_bound(stopped_share: Numbers, kept_kl: Numbers) -> torch.Tensor:
    """Bound |J(theta) - J(pi_h)| by how often a sequence leaves the region: the price of what is cut.

    |J(theta) - J(pi_h)| <= P_theta(tau <= T) <= min(1, P_roll(tau <= T) + sqrt(E_roll[sum_{t<tau} KL(c_t)] / 2))

    P_roll(tau <= T) is 1 minus the acceptance of the max criterion at the same threshold.

    Args:
        stopped_share: P_roll(tau <= T).
        kept_kl: E_roll[sum_{t<tau} KL(c_t)], nats.

    Returns:
        Float64, broadcast shape, at most 1.

    Raises:
        ValueError: see `as_float64`.
    """
    stopped_share, kept_kl = as_float64(stopped_share=stopped_share, kept_kl=kept_kl)
    return (stopped_share + pinsker(kept_kl)).clamp(max=1.0)


def stop_bound(
    horizon: Numbers,
    max_kl: Numbers,
    stopped_share: Numbers,
    kept_kl: Numbers,
    kept_chi2: Numbers,
    kept_delayed_kl: Numbers,
) -> torch.Tensor:
    """Bound |J(theta) - J(roll) - L'_stop|, in which the acceptance of the max criterion is a price.

    L'_stop = E_roll[R sum_{t<tau} (rho_t - 1)],   bound = `hybrid_bound` + `cut_bound`

    Args:
        horizon: see `hybrid_bound`.
        max_kl: see `hybrid_bound`.
        stopped_share: see `cut_bound`.
        kept_kl: see `hybrid_bound`.
        kept_chi2: see `hybrid_bound`.
        kept_delayed_kl: see `hybrid_bound`.

    Returns:
        Float64, broadcast shape.

    Raises:
        ValueError: see `as_float64`.
    """
    hybrid = hybrid_bound(horizon, max_kl, kept_kl, kept_chi2, kept_delayed_kl)
    return hybrid + cut_bound(stopped_share, kept_kl)
