"""Rows of criteria that keep a sequence up to a token and drop the rest of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trm_agent.trust_region.criterion import MAX_TOKEN_KL, OF_AVG, POSITIVE, WITHOUT_PREMISE, Criterion, Guarantee
from trm_fields import Setting

if TYPE_CHECKING:
    from torch import Tensor

    from trm_agent.core.token_batch import TokenBatch


def until_outside(batch: TokenBatch, *, max_token_kl: float) -> Tensor:
    """Keep the tokens before the first one whose divergence is outside the threshold."""
    return _until(batch, ~(batch.divergences.kl_for_max.upper <= max_token_kl))


def until_outward(batch: TokenBatch, *, max_token_kl: float) -> Tensor:
    """Keep the tokens before the first one that is outside the threshold and that the update pushes further out."""
    from trm_agent.core.prefix_masks import pushes_outward

    kl = batch.divergences.kl_for_max.upper
    outward = pushes_outward(batch.advantages, batch.log_ratio, batch.unknown_ratio)
    return _until(batch, kl.isnan() | (outward & ~(kl <= max_token_kl)))


def until_spent(batch: TokenBatch, *, cumulative_kl: float) -> Tensor:
    """Keep the tokens up to the last one with which the sum of their divergences is within the threshold."""
    return _until(batch, ~(batch.divergences.kl_for_avg.upper.cumsum(dim=-1) <= cumulative_kl))


def _until(batch: TokenBatch, outside: Tensor) -> Tensor:
    """Cut at the first token that is outside, or whose ratio no loss can weigh."""
    from trm_agent.core.masks import usable_ratios
    from trm_agent.core.prefix_masks import until_first

    return until_first(outside | ~usable_ratios(batch.log_ratio), batch.response_mask)


STOPS: dict[str, Criterion] = {
    "stop": Criterion(
        "the tokens before the first one above `max_token_kl`",
        thresholds=(MAX_TOKEN_KL,),
        keeps=until_outside,
        masks_tokens=True,
        guarantee=WITHOUT_PREMISE,
    ),
    "stop_directional": Criterion(
        "the tokens before the first one above `max_token_kl` that the update pushes further out",
        thresholds=(MAX_TOKEN_KL,),
        keeps=until_outward,
        masks_tokens=True,
    ),
    "stop_cumulative": Criterion(
        "the tokens until their divergences add up to more than `cumulative_kl`",
        thresholds=(
            Setting(
                "cumulative_kl", 1.0, POSITIVE, "`stop_cumulative`: largest sum of divergences along a sequence, nats."
            ),
        ),
        keeps=until_spent,
        masks_tokens=True,
        guarantee=Guarantee(None, (OF_AVG,)),
    ),
}
