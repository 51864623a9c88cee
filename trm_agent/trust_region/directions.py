"""Rows of criteria that look at the direction of the update, or at the sign of the advantage, of whole sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trm_agent.trust_region.criterion import AVG_TOKEN_KL, MAX_LIMITS, MAX_TOKEN_KL, ON_EVERY_PATH, Criterion

if TYPE_CHECKING:
    from trm_agent.core.masks import Interval
    from trm_agent.core.token_batch import TokenBatch


def largest_outward_kl(batch: TokenBatch) -> Interval:
    """Return max_t D_t over the tokens that the update pushes further from the rollout."""
    from trm_agent.core.prefix_masks import pushes_outward, restricted_max_statistic

    outward = pushes_outward(batch.advantages, batch.log_ratio, batch.unknown_ratio)
    return restricted_max_statistic(batch.divergences.kl_for_max, outward & batch.response_mask)


def largest_inward_kl(batch: TokenBatch) -> Interval:
    """Return max_t D_t over the tokens that the update does not push further from the rollout."""
    from trm_agent.core.prefix_masks import pushes_outward, restricted_max_statistic

    inward = ~pushes_outward(batch.advantages, batch.log_ratio)
    if batch.unknown_ratio is not None:
        inward = inward | batch.unknown_ratio
    return restricted_max_statistic(batch.divergences.kl_for_max, inward & batch.response_mask)


def largest_kl_of_negatives(batch: TokenBatch) -> Interval:
    """Return max_t D_t over the tokens with A < 0, which are all tokens of a sequence or none."""
    from trm_agent.core.prefix_masks import restricted_max_statistic

    return restricted_max_statistic(batch.divergences.kl_for_max, batch.advantages < 0)


def largest_running_mean_kl(batch: TokenBatch) -> Interval:
    """Return max_m (1/m) sum_{t <= m} D_t."""
    from trm_agent.core.prefix_masks import prefix_mean_statistic

    return prefix_mean_statistic(batch.divergences.kl_for_avg, batch.response_mask)


DIRECTIONS: dict[str, Criterion] = {
    "directional": Criterion(
        "no token above `max_token_kl` that the update pushes further out, A (rho - 1) > 0",
        thresholds=(MAX_TOKEN_KL,),
        statistic=largest_outward_kl,
        limits=MAX_LIMITS,
        adapts=True,
    ),
    "inward": Criterion(
        "no token above `max_token_kl` but those that the update pushes further out: a control of `directional`",
        thresholds=(MAX_TOKEN_KL,),
        statistic=largest_inward_kl,
    ),
    "negative_only": Criterion(
        "`max`, for sequences with A < 0 alone",
        thresholds=(MAX_TOKEN_KL,),
        statistic=largest_kl_of_negatives,
    ),
    "prefix_avg": Criterion(
        "mean over the first m tokens within `avg_token_kl` for each m",
        thresholds=(AVG_TOKEN_KL,),
        statistic=largest_running_mean_kl,
        guarantee=ON_EVERY_PATH,
    ),
}
