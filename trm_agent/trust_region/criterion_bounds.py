"""What a criterion's threshold bounds: theta's error if it held on every reachable path, or that of what is kept."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from trm_agent.core.bounds import pinsker, pinsker_marginal_bound, tail_weights
from trm_agent.core.chi2_bounds import path_sum_bound
from trm_agent.trust_region.criteria import CRITERIA, without_kl
from trm_agent.trust_region.criterion import OF_AVG, OF_MAX
from trm_agent.trust_region.settings import TrmConfig

THETA = "theta"
STOPPED = "the policy that is theta up to the cut and the rollout from there on"
SKIPPED = "the policy that is theta in the contexts inside and the rollout in the others"
MEASURED = "contexts are measured: estimator exact, topk or replayed, and undecided=reject"


@dataclass(frozen=True)
class CriterionBound:
    """A bound on |J(pi) - J(roll) - L'| for rewards in [0, 1], ours, that follows from a criterion's threshold."""

    equation: str
    """Bound in terms of T, the largest number of tokens of a sequence, and the criterion's settings."""
    premise: str
    """What must hold. Of theta a sample cannot show it."""
    value: Callable[[int, float, TrmConfig], torch.Tensor]
    """Function of T, the first threshold and the other settings."""
    policy: str = THETA
    """pi. If it is not theta, L' is the gain of the kept tokens, and J(theta) is apart from J(pi) by at most the
    probability that theta meets a context that is left out."""


def of_max(horizon: int, threshold: float, trm: TrmConfig) -> torch.Tensor:
    """Return half the Pinsker-Marginal bound: delta holds for every token."""
    return pinsker_marginal_bound(horizon, pinsker(threshold), threshold) / 2


def of_avg(horizon: int, threshold: float, trm: TrmConfig) -> torch.Tensor:
    """Return the path-sum bound with K = T d."""
    return path_sum_bound(horizon, horizon * threshold)


def of_length_neutral(horizon: int, threshold: float, trm: TrmConfig) -> torch.Tensor:
    """Return e times the threshold times Z: |Error| <= e E_roll[W], W and Z of each sequence's own length.

    W is at most the threshold times Z, and Z is largest for the longest sequence.
    """
    limit = torch.inf if trm.max_token_kl is None else trm.max_token_kl
    weights = tail_weights(
        torch.arange(horizon, dtype=torch.float64),
        max_kl=torch.tensor(limit, dtype=torch.float64),
        max_tv=None if trm.max_token_tv is None else torch.tensor(trm.max_token_tv, dtype=torch.float64),
    )
    return math.e * threshold * weights.sum()


def of_ratio_deviation(horizon: int, threshold: float, trm: TrmConfig) -> torch.Tensor:
    """Return T times the threshold: |Error| <= E_roll[sum_t |rho_t - 1|], as no two futures differ by more than 1."""
    return torch.tensor(horizon * threshold, dtype=torch.float64)


def of_both(horizon: int, threshold: float, trm: TrmConfig) -> torch.Tensor:
    """Return the least of the bounds of `max`, whose threshold is given, and `avg`, of those that compare a KL."""
    assert trm.avg_token_kl is not None, "a threshold of the criterion"
    bounds = {OF_MAX: of_max(horizon, threshold, trm), OF_AVG: of_avg(horizon, trm.avg_token_kl, trm)}
    without = without_kl("both", trm)
    return torch.stack([bound for name, bound in bounds.items() if name not in without]).amin()


def of_stop_cumulative(horizon: int, threshold: float, trm: TrmConfig) -> torch.Tensor:
    """Return the path-sum bound with K = d: the policy spends no more on any path."""
    return path_sum_bound(horizon, threshold)


_OF_MAX = CriterionBound(
    "2 sqrt(d/2) sum_t min(1, sqrt((t-1) d/2)), d the threshold",
    "no reachable context is above the threshold, and no sequence longer than T",
    of_max,
)
_OF_AVG = CriterionBound(
    "min(K sqrt(T/2), sqrt(2 T K)), K = T times the threshold",
    "the KL along every reachable path adds up to at most T times the threshold, and no path is longer than T",
    of_avg,
)
CRITERION_BOUNDS = {
    "max": _OF_MAX,
    "avg": _OF_AVG,
    # a sequence is a prefix of itself, and the spending of K for which the bound is made stays within each prefix
    "prefix_avg": _OF_AVG,
    "both": CriterionBound(
        "the least of those of max and avg",
        "no reachable context is above max_token_kl, no reachable path's KL above T times avg_token_kl, and no "
        "sequence longer than T",
        of_both,
    ),
    "ln": CriterionBound(
        "e times the threshold times Z",
        "every reachable path is within the threshold, no reachable context above max_token_kl and max_token_tv, and "
        "no sequence longer than T",
        of_length_neutral,
    ),
    "ser": CriterionBound(
        "T times the threshold",
        "every reachable path is within the threshold, and no sequence longer than T",
        of_ratio_deviation,
    ),
    "token": replace(_OF_MAX, premise=MEASURED, policy=SKIPPED),
    "stop": replace(_OF_MAX, premise=MEASURED, policy=STOPPED),
    "stop_cumulative": CriterionBound(
        "min(K sqrt(T/2), sqrt(2 T K)), K the threshold", MEASURED, of_stop_cumulative, STOPPED
    ),
}
"""Criterion -> its bound. `directional`, `inward`, `negative_only`, `stop_directional`, `prefix` and `opsm` have none,
since they keep contexts of any divergence, nor have the controls."""


def known_bound(criterion: str, trm: TrmConfig) -> CriterionBound | None:
    """Return what is known of a criterion's bound; None for nothing, also where all that it compares is no KL.

    Args:
        criterion: its name.
        trm: the settings.
    """
    guarantee = CRITERIA[criterion].guarantee
    compared = () if guarantee is None else guarantee.compared
    is_lost = bool(compared) and len(without_kl(criterion, trm)) == len(compared)
    return None if is_lost else CRITERION_BOUNDS.get(criterion)


def criterion_bound(criterion: str, horizon: int, threshold: float | None, trm: TrmConfig) -> float | None:
    """Return the bound that a threshold suggests.

    Args:
        criterion: its name.
        horizon: T, tokens of the model in the longest sequence.
        threshold: its first one, in the criterion's unit; None for none.
        trm: the other settings.

    Returns:
        The bound; None without a threshold, or where no bound of the criterion is known, see `known_bound`.
    """
    known = known_bound(criterion, trm)
    return None if threshold is None or known is None else known.value(horizon, threshold, trm).item()
