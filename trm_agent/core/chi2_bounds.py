"""Bounds of ours on |Error| that need no maximum over contexts: chi2-KL, and the path sum of the average criterion.

Error = J(theta) - J(roll) - L' = sum_t E_roll[(rho_t - 1) D_{t+1}],   D_{t+1} = V_theta(c_{t+1}) - V_roll(c_{t+1})

V is the expected reward from a context on, R in [0, 1]. D_{t+1} is at most the total variation of what the two policies
do from c_{t+1} on, hence at most min(1, sqrt(KL of that / 2)). docs/math.md has the proofs. Assumption (2) of
`trm_agent.core.bounds` remains: what theta can produce the rollout policy can produce too.
"""

import torch

from trm_agent.core.bound_inputs import Numbers, as_float64


def token_chi2(rollout_log_probs: torch.Tensor, log_probs: torch.Tensor) -> torch.Tensor:
    """Measure chi2(c) = sum_v (theta - roll)^2 / roll over the whole vocabulary.

    (rho - 1)^2 of a sampled token estimates it without bias. For small differences it is 2 KL.

    Args:
        rollout_log_probs: normalised, of the policy that sampled, shape (..., vocab), nats.
        log_probs: normalised, of the policy in training, same shape.

    Returns:
        Float64, shape (...); infinity where theta has a token that the rollout policy lacks.
    """
    roll, theta = rollout_log_probs.detach().double().exp(), log_probs.detach().double().exp()
    terms = (theta - roll).square() / roll
    return torch.where((roll == 0) & (theta == 0), 0.0, terms).sum(dim=-1)


def chi2_kl_bound(mean_chi2: torch.Tensor, mean_kl: torch.Tensor) -> torch.Tensor:
    """Bound |Error| by expectations over rollouts alone.

    bound = sum_t sqrt(E_roll[chi2(c_t)]) min(1, sqrt(sum_{s>t} E_roll[KL(c_s)] / 2))

    Args:
        mean_chi2: E_roll[chi2(c_t)], a sequence that has ended counting 0, shape (horizon,) or (batch, horizon).
        mean_kl: E_roll[KL(c_t)], likewise, same shape, nats.

    Returns:
        Float64, shape () or (batch,).

    Raises:
        ValueError: the shapes differ or are others.
    """
    if mean_chi2.ndim not in (1, 2) or mean_chi2.shape != mean_kl.shape:
        raise ValueError(
            f"mean_chi2 {tuple(mean_chi2.shape)} and mean_kl {tuple(mean_kl.shape)} must share one shape (horizon,) or "
            "(batch, horizon); give both for every position"
        )
    chi2, kl = mean_chi2.detach().double(), mean_kl.detach().double()
    # what follows position t, summed from the end: a difference of two large sums would round
    following = kl.flip(-1).cumsum(dim=-1).flip(-1)[..., 1:]
    following = torch.nn.functional.pad(following, (0, 1))
    future_tv = (following.clamp(max=2.0) / 2).sqrt()
    return _product(chi2.sqrt(), future_tv).sum(dim=-1)


def pooled_chi2_kl_bound(horizon: Numbers, chi2: Numbers, delayed_kl: Numbers) -> torch.Tensor:
    """Bound |Error| like `chi2_kl_bound`, from one mean of each sum over a sequence: never below it.

    bound = sqrt(E_roll[sum_t chi2(c_t)] min(T - 1, E_roll[sum_t (t - 1) KL(c_t)] / 2))

    Of a sample, pooled sums are less biased than a square root for each position.

    Args:
        horizon: T.
        chi2: E_roll[sum_t chi2(c_t)].
        delayed_kl: E_roll[sum_t (t - 1) KL(c_t)] = sum_t sum_{s>t} E_roll[KL(c_s)], nats.

    Returns:
        Float64, broadcast shape.

    Raises:
        ValueError: see `as_float64`.
    """
    horizon, chi2, delayed_kl = as_float64(horizon=horizon, chi2=chi2, delayed_kl=delayed_kl)
    future = torch.minimum((horizon - 1).clamp(min=0), delayed_kl / 2).sqrt()
    return _product(chi2.sqrt(), future)


def proportional_chi2_kl_bound(horizon: Numbers, seq_chi2: Numbers, seq_kl: Numbers) -> torch.Tensor:
    """Bound `chi2_kl_bound` where each position's chi2 is in one proportion to its KL, however they are spread.

    bound = sqrt(T X) min(1, sqrt(K) / 2),   X = sum_t E_roll[chi2(c_t)],   K = sum_t E_roll[KL(c_t)]

    With X = 2 K, which small differences have, this is K sqrt(T / 2).

    Args:
        horizon: T.
        seq_chi2: X.
        seq_kl: K, nats.

    Returns:
        Float64, broadcast shape.

    Raises:
        ValueError: see `as_float64`.
    """
    horizon, seq_chi2, seq_kl = as_float64(horizon=horizon, seq_chi2=seq_chi2, seq_kl=seq_kl)
    return _product((horizon * seq_chi2).sqrt(), seq_kl.clamp(max=4.0).sqrt() / 2)


def path_sum_bound(horizon: Numbers, path_kl: Numbers) -> torch.Tensor:
    """Bound |Error| where no path of the rollout policy gathers more KL than a budget: the average criterion's own.

    bound = min(K sqrt(T / 2), sqrt(2 T K)),   sum_t KL(c_t) <= K on every path that the rollout policy can take

    The average criterion at a threshold d has K = T d.

    Args:
        horizon: T.
        path_kl: K, nats.

    Returns:
        Float64, broadcast shape.

    Raises:
        ValueError: see `as_float64`.
    """
    horizon, path_kl = as_float64(horizon=horizon, path_kl=path_kl)
    return proportional_chi2_kl_bound(horizon, 2 * path_kl, path_kl)


def _product(spread: torch.Tensor, future: torch.Tensor) -> torch.Tensor:
    """Return 0 where the future does not differ, however large the spread: infinity times 0 would be NaN."""
    return torch.where(future == 0, 0.0 * future, spread * future)
